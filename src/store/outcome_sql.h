/* What a task came to, as rollouts and shadows read it. Inside a store job. */
#ifndef GANTRY_STORE_OUTCOME_SQL_H
#define GANTRY_STORE_OUTCOME_SQL_H

#include "store/rollout_store.h"

/* t: what the statement calls the task. */
#define OUTCOME_FIGURES_OF(t)                                                    \
    t ".state, " t ".started_at_ms, " t ".finished_at_ms, " t ".cost_nusd, " t   \
      ".input_tokens + " t ".output_tokens, " t ".tool_calls, " t ".quality, " t \
      ".degraded_calls, " t ".deadline_at_ms, " t ".escalations > 0, " t ".unjudged, " t ".ran_ms"
#define OUTCOME_FIGURES OUTCOME_FIGURES_OF("t")
#define OUTCOME_FIGURES_N 12

/* What it came to when it was first resolved, if something followed, beside these; and where that
 * is. */
#define OUTCOME_RESOLVED                                                       \
    "a.at_ms, a.started_at_ms, a.ran_ms, a.cost_nusd, a.tokens, a.tool_calls," \
    " a.degraded_calls, a.state"
#define OUTCOME_RESOLVED_OF_T " LEFT JOIN task_resolved a ON a.task_seq = t.seq"

/* From a row that has these columns from there on; at, canary and pi stay zero. */
RolloutOutcome rollout_outcome_read(DbStmt *s, int from);

/* When a task's last attempt began, by what is true of it however the clock was set meanwhile: it
 * took no longer than all of them. t: the table's name before its columns; at: when it ended. */
#define BEGAN_MS_OF(t, at)                            \
    "iif(" t "started_at_ms > 0 AND " t "ran_ms > 0," \
    " max(" t "started_at_ms, " at " - " t "ran_ms), " t "started_at_ms)"

#endif
