/* Durations as people write them: "500ms", "30s", "1h30m". Pure functions, any thread. */
#ifndef GANTRY_CODEC_DURATION_H
#define GANTRY_CODEC_DURATION_H

#include "base/str.h"

#define DURATION_TEXT_MAX 48

/* Reads one or more parts, each a whole number and a unit, largest unit first and each at most
 * once: d (24 h), h, m, s, ms. No sign, fraction or space; zero is "0s" (or any unit). Returns 0,
 * -EINVAL (another form), -ERANGE (beyond int64), both with diag; *ret_ms is then untouched. */
MUST_CHECK int duration_parse(Str text, int64_t *ret_ms);

/* The shortest text duration_parse reads back as ms (>= 0): "1d2h", "1m0s" is "1m", zero "0s".
 * NUL-terminated. Returns out. */
char *duration_format(int64_t ms, char out[DURATION_TEXT_MAX]);

#endif
