/* What has happened to a task since somebody was told last. Functions run inside a store job. */
#ifndef GANTRY_STORE_TASK_NEWS_H
#define GANTRY_STORE_TASK_NEWS_H

#include "logic/task_cursor.h"
#include "store/call_store.h"
#include "store/escalation_store.h"
#include "store/family_store.h"
#include "store/log_store.h"
#include "store/tool_store.h"

/* Each list in the order of the cursor's places. */
typedef struct {
    Attempt *attempts; /* not told yet to have begun, or to have ended */
    Call *calls;
    ToolRecord *tools;
    TaskLogLine *lines, *notes; /* of workers, and added by the control plane */
    FamilyRow *children, *ends; /* started, and ended */
    Escalation *questions;      /* not told yet as asked, or as ended */
    size_t attempts_n, calls_n, tools_n, lines_n, notes_n, children_n, ends_n, questions_n;
    size_t max; /* a list of that length may not be all */
} TaskNews;

/* After the cursor, at most max of each; texts live in arena. task: as read in this job. Returns 0,
 * -ENOMEM, -errno. */
MUST_CHECK int task_news(Db *db, const Task *task, const TaskCursor *after, size_t max,
                         Arena *arena, TaskNews *ret);

#endif
