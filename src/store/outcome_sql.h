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

/* From a row that has these columns from there on; at, canary and pi stay zero. */
RolloutOutcome rollout_outcome_read(DbStmt *s, int from);

#endif
