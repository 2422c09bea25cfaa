/* Queries whose plan matters, here for the tests too: each must be served by the index it names,
 * whatever the statistics say. A planner that believes that all rows are queued would rather walk
 * the primary key, which makes a claim as slow as the history is long: so no order below can be
 * served by the primary key. ("+seq" is an expression, and no index helps to order by it.) Only
 * store/ uses these.
 */
#ifndef GANTRY_STORE_TASK_SQL_H
#define GANTRY_STORE_TASK_SQL_H

#include "store/task_store.h"

#define TASK_READY_SQL /* task_ready */                    \
    "SELECT seq FROM task"                                 \
    " WHERE state = 0 AND lane = ?1 AND ready_at_ms <= ?2" \
    " ORDER BY ready_at_ms, seq LIMIT ?3"

#define TASK_NEXT_READY_SQL /* task_ready */                     \
    "SELECT ready_at_ms FROM task WHERE state = 0 AND lane = ?1" \
    " ORDER BY ready_at_ms, seq LIMIT 1"

#define TASK_QUEUED_COUNT_SQL /* task_ready */ \
    "SELECT count(*) FROM task WHERE state = 0 AND lane = ?1 AND ready_at_ms >= ?2"

#define TASK_HEAD_COLUMNS                                                    \
    "seq, id, lane, state, attempt, failures, losses, fence, started_at_ms," \
    " time_limit_ms, deadline_at_ms, worker_id, cancel_requested,"           \
    " webhook_url IS NOT NULL, parent_id, children"

/* Reads rows of these columns, at most *n; *n becomes their number. Returns 0 or -errno. */
MUST_CHECK int task_heads_read(DbStmt *stmt, TaskHead *heads, size_t *n);

#define TASK_RUNNING_OF_SQL /* task_running */ \
    "SELECT " TASK_HEAD_COLUMNS " FROM task"   \
    " WHERE state = 1 AND worker_id = ?1 AND seq > ?2 ORDER BY worker_id, seq LIMIT ?3"

#define TASK_OVERDUE_SQL /* task_running */  \
    "SELECT " TASK_HEAD_COLUMNS " FROM task" \
    " WHERE state = 1 AND worker_id > x''"   \
    " AND deadline_at_ms > 0 AND deadline_at_ms < ?1 LIMIT ?2"

#define TASK_RUNNING_COUNT_SQL /* task_running */ \
    "SELECT lane, count(*) FROM task WHERE state = 1 AND worker_id > x'' GROUP BY lane"

/* Lists: the seqs to look at come from an index, newest first. */
#define TASK_LIST_QUEUED_SQL /* task_ready */                                     \
    "SELECT seq FROM task WHERE state = 0 AND lane BETWEEN 0 AND 2 AND +seq < ?1" \
    " ORDER BY +seq DESC LIMIT ?2"
#define TASK_LIST_RUNNING_SQL /* task_running */               \
    "SELECT seq FROM task WHERE state = 1 AND worker_id > x''" \
    " AND +seq < ?1 ORDER BY +seq DESC LIMIT ?2"

#endif
