/* Zone: the time zone in which days and months of budgets begin. One a process, set before any
 * thread starts; read by any thread. And others, by name, for schedules. Everything else is in
 * UTC. */
#ifndef GANTRY_SYS_ZONE_H
#define GANTRY_SYS_ZONE_H

#include "base/str.h"

/* "UTC", or a name of the system's zone database ("Europe/Berlin"). Returns 0 or -EINVAL with diag:
 * no such name, or no such file (package tzdata). */
MUST_CHECK int zone_set(Str name);

/* "UTC" unless it was set. */
const char *zone_name(void);

/* Local time minus UTC at that time (Unix time), in milliseconds. */
int64_t zone_offset_ms(int64_t unix_ms);

/* A zone by its name, as in zone_set; empty: the process's own. Any thread; read once, and kept for
 * ever. Returns 0, or -EINVAL with diag. */
typedef struct Zone Zone;
MUST_CHECK int zone_find(Str name, const Zone **ret);

/* The same as zone_offset_ms of it. zone: a Zone. */
int64_t zone_offset_of_ms(const void *zone, int64_t unix_ms);

/* The day or the month that holds now_ms: *ret_start_ms <= now_ms < *ret_end_ms, in Unix time.
 * Windows neither overlap nor leave gaps. */
void zone_day(int64_t now_ms, int64_t *ret_start_ms, int64_t *ret_end_ms);
void zone_month(int64_t now_ms, int64_t *ret_start_ms, int64_t *ret_end_ms);

#endif
