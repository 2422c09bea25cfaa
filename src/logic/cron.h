/* Cron: when a schedule fires, in a time zone whose offsets somebody else knows. Pure; any thread.
 *
 * Five fields: minute (0-59), hour (0-23), day of month (1-31), month (1-12 or JAN-DEC), day of
 * week (0-7 or SUN-SAT, 0 and 7 are Sunday); each a list of numbers, ranges a-b and steps (a star
 * or a range, and /n). When both days are restricted, either will do. Or one of @hourly, @daily,
 * @weekly,
 * @monthly, @yearly.
 *
 * Where clocks go forward, a time that is skipped fires as much later as the clocks went; where
 * they go back, a time that comes twice fires the first time. A schedule for every hour (the field
 * begins with a star) goes by the hours that there are: none is missing, none is skipped.
 */
#ifndef GANTRY_LOGIC_CRON_H
#define GANTRY_LOGIC_CRON_H

#include "base/str.h"

typedef struct {
    uint64_t minutes;
    uint32_t hours, days, months, weekdays; /* bits, from 0; weekdays: Sunday is 0 */
    bool every_hour;                        /* the hour's field begins with a star */
    bool any_day, any_weekday;              /* likewise */
} Cron;

/* Returns 0 or -EINVAL with diag: also when there is no such day, as with 30 February. */
MUST_CHECK int cron_parse(Str text, Cron *ret);

/* The zone that it is read in. offset_ms: local time minus UTC at that time (Unix time), in
 * milliseconds. */
typedef struct {
    int64_t (*offset_ms)(const void *ctx, int64_t unix_ms);
    const void *ctx;
} CronZone;

/* The first time after after_ms (Unix time) at which it fires, a whole minute; INT64_MAX: none in
 * forty years. */
int64_t cron_next(const Cron *cron, int64_t after_ms, const CronZone *zone);

#endif
