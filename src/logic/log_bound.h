/* How much of a long log is kept: its beginning, and its end. What stood between is left out and
 * counted. Whoever passes lines on (a worker) and whoever keeps them (the queue) go by this.
 */
#ifndef GANTRY_LOGIC_LOG_BOUND_H
#define GANTRY_LOGIC_LOG_BOUND_H

#include "base/common.h"

#define LOG_TAIL_BYTES_MAX ((size_t)64 << 10)
#define LOG_LINE_BYTES_EXTRA 64 /* what a line costs beside its text: empty ones are bounded too */

/* Of bytes_max, those kept for the last lines: a quarter, and no more than errors with their traces
 * take. The rest is the head's. */
static inline size_t log_tail_bytes(size_t bytes_max)
{
    return MIN(bytes_max / 4, LOG_TAIL_BYTES_MAX);
}

/* How much of a line's text is kept in such a tail: one line is never more than all of it. */
static inline size_t log_tail_line_bytes(size_t tail_bytes)
{
    return tail_bytes > LOG_LINE_BYTES_EXTRA ? tail_bytes - LOG_LINE_BYTES_EXTRA : 0;
}

#endif
