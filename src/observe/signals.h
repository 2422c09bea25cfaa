/* Signals: how each version of an agent has been doing, from the rows of its tasks.
 *
 * A sample: the newest SIGNALS_TASKS_MAX tasks submitted within the window. Rates are over tasks
 * that ran to an end, or to an escalation; canceled ones say nothing about a version.
 */
#ifndef GANTRY_OBSERVE_SIGNALS_H
#define GANTRY_OBSERVE_SIGNALS_H

#include "codec/json.h"
#include "queue/queue.h"

#define SIGNALS_TASKS_MAX 10000
#define SIGNALS_VERSIONS_MAX 500 /* tasks of further versions are left out */

typedef struct {
    Str agent, version_id;
    int64_t version_created_at_ms; /* 0: unknown */
    int64_t tasks;                 /* of the sample, in any state */
    int64_t by_state[TASK_STATE_N_];
    int64_t judged; /* succeeded, failed, timed out or escalated: what rates are over */
    int64_t scored;
    double quality_sum;
    int64_t cost_nusd, tokens, llm_calls, tool_calls; /* of judged tasks */
    int64_t *run_ms; /* of judged tasks that started: their last attempt; ascending */
    size_t run_n, run_cap;
} VersionSignals;

typedef struct {
    Str agent; /* empty: all */
    int64_t window_ms;
    int64_t now_ms; /* calendar */
} SignalsQuery;

typedef struct {
    VersionSignals **versions; /* newest activity first */
    size_t n;
    bool truncated; /* there were more tasks or versions */
} Signals;

/* On a fiber. Everything lives in arena. Returns 0, -ENOMEM, -ECANCELED, -errno. */
MUST_CHECK int signals_collect_wait(Queue *queue, const SignalsQuery *query, Arena *arena,
                                    Signals *ret);

/* part of judged; NaN when nothing was judged. */
double signals_rate(const VersionSignals *v, int64_t part);
double signals_error_rate(const VersionSignals *v);
/* total a judged task; NaN likewise. */
double signals_mean(const VersionSignals *v, int64_t total);
double signals_quality(const VersionSignals *v); /* NaN when nothing was scored */
/* Nearest rank, 0 < quantile <= 1; NaN when nothing ran. */
double signals_run_seconds(const VersionSignals *v, double quantile);

/* The object of a version in GET /api/metrics/versions: times in seconds, what nobody could measure
 * is null. */
void signals_json(JsonOut *out, const VersionSignals *v, int64_t now_ms);

#endif
