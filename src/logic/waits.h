/* Waits: how long tasks waited of late, as counts in buckets, a quarter of an octave each.
 *
 * Two windows: the one that fills and the one before it; figures are of both together, so of the
 * last WAITS_WINDOW_MS at least, once that has passed. Pure; whoever holds it guards it. Starts
 * zeroed. Quantiles are upper bounds of their bucket: at most 19 % too high, never too low.
 */
#ifndef GANTRY_LOGIC_WAITS_H
#define GANTRY_LOGIC_WAITS_H

#include "base/common.h"

#define WAITS_WINDOW_MS 300000
#define WAITS_BUCKETS 128 /* the last: 2^31 ms and more */

typedef struct {
    int64_t counts[2][WAITS_BUCKETS];
    int64_t late[2]; /* waited longer than the objective of the time */
    int64_t since_ms;
} Waits;

void waits_add(Waits *waits, int64_t waited_ms, bool late, int64_t now_ms);

typedef struct {
    int64_t n;
    int64_t p50_ms, p99_ms; /* 0 without tasks */
    int64_t late;
} WaitsFigures;
WaitsFigures waits_figures(const Waits *waits, int64_t now_ms);

#endif
