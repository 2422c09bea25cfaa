/* Signals: how each version of an agent has been doing, from the rollups of its tasks.
 *
 * A window is widened to whole minutes (hours, days when it begins long ago), and tasks count in
 * the moment at which they came to rest. Rates are over tasks that ran to an end or wait for a
 * person; canceled and degraded ones say nothing about a version and are only counted.
 */
#ifndef GANTRY_OBSERVE_SIGNALS_H
#define GANTRY_OBSERVE_SIGNALS_H

#include "codec/json.h"
#include "logic/rollup.h"
#include "queue/queue.h"
#include "store/anchor_store.h"
#include "store/grade_store.h"

#define SIGNALS_VERSIONS_MAX 500 /* further versions are left out: those of the last in order */

/* What a grader says of a version, of whole hours; and what its judge makes of its anchors. */
typedef struct {
    GradeSum sum;
    double anchor_score; /* mean of the last day; NaN: there are none */
    double anchor_chart; /* of the CUSUM that is nearer to its alarm */
} GraderSignals;

typedef struct {
    Str agent, version_id;
    int64_t version_created_at_ms; /* 0: unknown */
    int64_t newest_ms;             /* start of its newest rollup */
    Rollup sum;
    RollupSignals figures;  /* of sum */
    double pattern_shift;   /* NaN: there is no baseline yet */
    GraderSignals *graders; /* by name */
    size_t graders_n;
} VersionSignals;

typedef struct {
    Str agent; /* empty: all */
    int64_t window_ms;
    int64_t now_ms; /* calendar */
} SignalsQuery;

typedef struct {
    VersionSignals **versions; /* newest activity first */
    size_t n;
    bool truncated; /* there were more versions */
} Signals;

/* On a fiber. Takes in the news that wait, then reads. Everything lives in arena. Returns 0,
 * -ENOMEM, -ECANCELED, -errno. */
MUST_CHECK int signals_collect_wait(Queue *queue, const SignalsQuery *query, Arena *arena,
                                    Signals *ret);

/* The figure of a signal; NaN when nobody could measure it. */
typedef enum {
    SIGNAL_AGE,   /* seconds since the version was made */
    SIGNAL_TASKS, /* that came to rest */
    SIGNAL_COMPLETION,
    SIGNAL_ERROR,
    SIGNAL_ESCALATION,
    SIGNAL_QUALITY,
    SIGNAL_COST, /* USD a task */
    SIGNAL_TOKENS,
    SIGNAL_LLM_CALLS,
    SIGNAL_TOOL_CALLS,
    SIGNAL_P50, /* seconds */
    SIGNAL_P95,
    SIGNAL_P99,
    SIGNAL_VARIANCE,
    SIGNAL_SHIFT,
    SIGNAL_N_
} SignalKind;
double signal_figure(SignalKind kind, const VersionSignals *v, int64_t now_ms);

/* The object of a version in GET /api/metrics/versions: times in seconds, what nobody could measure
 * is null. */
void signals_json(JsonOut *out, const VersionSignals *v, int64_t now_ms);

#endif
