/* Rollup: what a version's tasks were like in a minute, an hour or a day.
 *
 * Everything is a count or an integer sum, so rollups of different processes, and the minutes of an
 * hour, merge by addition, exactly and in any order. Memory is fixed: times and counts of calls go
 * into histograms (eight buckets an octave: quantiles are right within 6.25%), tools beyond
 * the ROLLUP_TOOLS_MAX names that come first into one. Pure; a struct belongs to whoever holds it.
 */
#ifndef GANTRY_LOGIC_ROLLUP_H
#define GANTRY_LOGIC_ROLLUP_H

#include "base/buf.h"
#include "logic/pattern.h"

/* --- histograms ------------------------------------------------------------------------------ */

#define HISTOGRAM_BUCKETS 256 /* up to 2^34 - 1; larger values count as that */
typedef struct {
    int64_t n[HISTOGRAM_BUCKETS];
} Histogram;

void histogram_add(Histogram *h, int64_t value); /* negative: 0 */
void histogram_merge(Histogram *into, const Histogram *from);
int64_t histogram_count(const Histogram *h);

/* Greatest value of the bucket that holds the q-quantile, 0 < q <= 1; 0 when empty. */
int64_t histogram_quantile(const Histogram *h, double q);

/* How many lie in buckets above the one of value. */
int64_t histogram_above(const Histogram *h, int64_t value);

/* --- rollups --------------------------------------------------------------------------------- */

typedef enum { ROLLUP_MINUTE, ROLLUP_HOUR, ROLLUP_DAY, ROLLUP_SPANS_N_ } RollupSpan;

/* Start of the span that holds the moment (UTC; 0 is the Epoch), and of the one after it. */
int64_t rollup_start_ms(RollupSpan span, int64_t at_ms);
int64_t rollup_end_ms(RollupSpan span, int64_t at_ms);

/* How long the finer spans are kept; days for as long as anybody compares. */
#define ROLLUP_MINUTES_KEPT_MS (INT64_C(3) * 86400000)
#define ROLLUP_HOURS_KEPT_MS (INT64_C(40) * 86400000)
#define ROLLUP_DAYS_KEPT_MS (INT64_C(800) * 86400000)

/* Rollups of one span that start in [from_ms, to_ms). */
typedef struct {
    RollupSpan span;
    int64_t from_ms, to_ms;
} RollupTile;

/* The fewest rollups that cover from_ms..to_ms, in order of time, each moment once: both ends are
 * widened to whole spans of the finest kind that is still kept for from_ms. Returns how many tiles,
 * at most ROLLUP_TILES_MAX; 0 when the time is empty. */
#define ROLLUP_TILES_MAX 5
size_t rollup_cover(int64_t from_ms, int64_t to_ms, int64_t now_ms,
                    RollupTile ret[ROLLUP_TILES_MAX]);

#define ROLLUP_TOOLS_MAX 64
#define ROLLUP_TOOL_BYTES 64
#define ROLLUP_SCORE_ONE 1000000 /* scores are kept in millionths */

typedef struct {
    char name[ROLLUP_TOOL_BYTES + 1];
    int64_t calls;
    int64_t tasks; /* that called it at all */
} RollupTool;

typedef enum {
    OUTCOME_SUCCEEDED,
    OUTCOME_FAILED,
    OUTCOME_TIMED_OUT,
    OUTCOME_CANCELED,
    OUTCOME_ESCALATED, /* waits for a person */
} Outcome;

typedef struct {
    int64_t succeeded, failed, timed_out, canceled, waiting, escalated;
    int64_t degraded; /* tasks that got less than their version asks for */
    int64_t cost_nusd, tokens, llm_calls, tool_calls;
    int64_t scores, score_sum, score_squares; /* millionths, and millionths of squares */
    Histogram latency_ms, tool_calls_a_task;
    Histogram input_bytes; /* what was asked: of tasks whose input is known */
    PatternCounts pattern;
    RollupTool tools[ROLLUP_TOOLS_MAX]; /* by name: those that come first */
    int32_t tools_n;
    int64_t other_calls; /* of tools that found no room */
} Rollup;

/* What a task that ended was like. */
typedef struct {
    Outcome outcome;
    bool escalated;
    bool degraded; /* a smaller model answered, say: counted, and left out of all else */
    int64_t latency_ms, cost_nusd, tokens, llm_calls, tool_calls;
    bool has_input;
    int64_t input_bytes;
    bool has_fingerprint;
    uint64_t fingerprint;
} RollupTask;

/* Zero is the empty rollup. */
void rollup_add_task(Rollup *r, const RollupTask *task);
void rollup_add_tool(Rollup *r, Str name, int64_t calls); /* once a task and tool */
void rollup_add_score(Rollup *r, double score);           /* 0..1 */
void rollup_merge(Rollup *into, const Rollup *from);

/* The calls of a task by tool as text: lines of `CALLS NAME`. A name is cut at ROLLUP_TOOL_BYTES,
 * control characters become `?`. */
void tool_use_add(Buf *out, Str name, int64_t calls);
/* The next line, false at the end. Lines that are none are skipped. */
bool tool_use_next(Str *rest, Str *ret_name, int64_t *ret_calls);

/* Take back what was added, with the same arguments: a task that goes on after all, a score that is
 * replaced. On an empty rollup this makes a difference, to be merged into what has the original. */
void rollup_remove_task(Rollup *r, const RollupTask *task);
void rollup_remove_tool(Rollup *r, Str name, int64_t calls);
void rollup_remove_score(Rollup *r, double score);

/* --- as bytes -------------------------------------------------------------------------------- */

#define ROLLUP_BYTES_MAX 32768 /* of any rollup; some hundred of a usual one */

/* Appends the rollup in a compact form that only rollup_read knows. */
void rollup_write(const Rollup *r, Buf *out);

/* Returns 0, or -EPROTO for bytes that are none of rollup_write's; then *ret is anything. */
MUST_CHECK int rollup_read(Str bytes, Rollup *ret);

/* --- signals --------------------------------------------------------------------------------- */

/* The signals as people see them; rates are 0 without tasks. Tasks that were canceled or degraded
 * count nowhere else. */
typedef struct {
    int64_t task_count; /* at rest, less canceled and degraded */
    double completion_rate, error_rate, escalation_rate;
    int64_t scored;
    double quality, quality_deviation;               /* of scores; 0 without any */
    double cost_nusd, tokens, llm_calls, tool_calls; /* a task */
    int64_t latency_p50_ms, latency_p95_ms, latency_p99_ms;
    double pattern_variance;
} RollupSignals;

RollupSignals rollup_signals(const Rollup *r);

/* Share of tasks with more tool calls than a baseline's p95 (loops); 0 without tasks. */
double rollup_tool_overuse(const Rollup *r, int64_t baseline_p95);

#endif
