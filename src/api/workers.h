/* What the routes of workers declare. The shapes inside are those of worker/wire.h. */
#ifndef GANTRY_API_WORKERS_H
#define GANTRY_API_WORKERS_H

#include "api/route.h"

extern const BodySpec register_body;
extern const BodySpec claim_body;
extern const BodySpec signal_body;
extern const BodySpec heartbeat_body;
extern const BodySpec worker_cache_body;
extern const BodySpec finish_body;
extern const BodySpec finish_many_body;
extern const BodySpec worker_score_body;
extern const BodySpec calls_body;
extern const BodySpec tools_body;
extern const BodySpec recordings_body;
extern const Param worker_journal_params[];
extern const BodySpec logs_body;

/* worker_children.c */
extern const BodySpec child_body;
extern const BodySpec child_cancel_body;
extern const Param worker_children_params[];
extern const Param worker_child_params[];

#endif
