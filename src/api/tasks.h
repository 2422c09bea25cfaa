/* What the routes of tasks declare, and what several files of handlers share. */
#ifndef GANTRY_API_TASKS_H
#define GANTRY_API_TASKS_H

#include "api/route.h"

extern const Param task_get_params[];
extern const Param task_list_params[];
extern const Param task_logs_params[];
extern const Param task_journal_params[];
extern const BodySpec empty_body;
extern const BodySpec retry_body;
extern const BodySpec score_body;

/* "nextCursor": the cursor, or null at the end. */
void api_cursor_write(JsonOut *out, PageCursor next);

/* The answer to a cursor that is none of ours. */
int api_cursor_problem_wait(ApiCall *call);

#endif
