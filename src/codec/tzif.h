/* Time zones as the system's database keeps them: TZif, versions 1 to 4 (RFC 9636). Pure; any
 * thread. */
#ifndef GANTRY_CODEC_TZIF_H
#define GANTRY_CODEC_TZIF_H

#include "base/arena.h"
#include "base/str.h"

#define TZIF_BYTES_MAX ((size_t)256 << 10) /* of a file; the largest have a few thousand */

/* A day on which clocks are set, each year. */
typedef struct {
    enum { TZIF_DAY_MONTH, TZIF_DAY_JULIAN, TZIF_DAY_ZERO } kind;
    int month, week, day; /* Mm.w.d; Jn (1 to 365, no 29 February) and n (0 to 365) have a day */
    int64_t time_s;       /* of that day, local time before clocks are set */
} TzifDay;

/* What holds after the last time that the file names. */
typedef struct {
    int64_t standard_s, summer_s; /* local time minus UTC */
    bool has_summer;
    TzifDay begins, ends; /* of summer */
} TzifRule;

typedef struct {
    const int64_t *at_s;    /* when clocks were set, in order; Unix time */
    const int32_t *after_s; /* local time minus UTC from then on */
    size_t n;
    int32_t before_s; /* before the first of them */
    TzifRule rule;    /* only after the last, if has_rule */
    bool has_rule;
} Tzif;

/* Lives in arena. Returns 0, -EINVAL with diag (it is no such file, or broken), -ENOMEM. */
MUST_CHECK int tzif_parse(Arena *arena, Str bytes, Tzif *ret);

/* Local time minus UTC at that time (Unix time), in milliseconds. */
int64_t tzif_offset_ms(const Tzif *zone, int64_t unix_ms);

#endif
