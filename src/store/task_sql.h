/* Queries whose plan matters, here for the tests too: each must be served by the index it names,
 * whatever the statistics say. A planner that believes that all rows are queued would rather walk
 * the primary key, which makes a claim as slow as the history is long: so no order below can be
 * served by the primary key. ("+seq" is an expression, and no index helps to order by it.) Only
 * store/ uses these.
 */
#ifndef GANTRY_STORE_TASK_SQL_H
#define GANTRY_STORE_TASK_SQL_H

#include "store/task_store.h"

/* The gate that a task gets where others get this one: shadows are never in an open line. What is
 * not queued has gate 0, so that indexes of other gates need not name the state: those of tasks
 * that just run and end are left alone. */
#define GATE_OF(gate) "CASE WHEN " gate " = 0 AND shadow_of IS NOT NULL THEN 4 ELSE " gate " END"

/* The lines of a lane: open tasks, by tenant and agent. A claim hops from line to line. */
#define LINE_COLUMNS "coalesce(tenant_id, ''), agent, ready_at_ms, seq"

#define LINE_FROM_TENANT_SQL /* task_ready */     \
    "SELECT " LINE_COLUMNS " FROM task"           \
    " WHERE state = 0 AND gate = 0 AND lane = ?1" \
    " AND coalesce(tenant_id, '') >= ?2"          \
    " ORDER BY coalesce(tenant_id, ''), agent, ready_at_ms, seq LIMIT 1"

#define LINE_NEXT_TENANT_SQL /* task_ready */     \
    "SELECT " LINE_COLUMNS " FROM task"           \
    " WHERE state = 0 AND gate = 0 AND lane = ?1" \
    " AND coalesce(tenant_id, '') > ?2"           \
    " ORDER BY coalesce(tenant_id, ''), agent, ready_at_ms, seq LIMIT 1"

#define LINE_NEXT_AGENT_SQL /* task_ready */           \
    "SELECT " LINE_COLUMNS " FROM task"                \
    " WHERE state = 0 AND gate = 0 AND lane = ?1"      \
    " AND coalesce(tenant_id, '') = ?2 AND agent > ?3" \
    " ORDER BY agent, ready_at_ms, seq LIMIT 1"

#define LINE_AFTER_SQL /* task_ready */                \
    "SELECT ready_at_ms, seq FROM task"                \
    " WHERE state = 0 AND gate = 0 AND lane = ?1"      \
    " AND coalesce(tenant_id, '') = ?2 AND agent = ?3" \
    " AND (ready_at_ms, seq) > (?4, ?5)"               \
    " ORDER BY ready_at_ms, seq LIMIT ?6"

#define LINE_CHILDREN_SQL /* task_ready_child */       \
    "SELECT ready_at_ms, seq FROM task"                \
    " WHERE state = 0 AND gate = 0 AND lane = ?1"      \
    " AND coalesce(tenant_id, '') = ?2 AND agent = ?3" \
    " AND parent_id IS NOT NULL"                       \
    " AND (ready_at_ms, seq) > (?4, ?5)"               \
    " ORDER BY ready_at_ms, seq LIMIT ?6"

#define LINE_NO_CHILD_SQL /* task_ready */             \
    "SELECT ready_at_ms, seq FROM task"                \
    " WHERE state = 0 AND gate = 0 AND lane = ?1"      \
    " AND coalesce(tenant_id, '') = ?2 AND agent = ?3" \
    " AND +parent_id IS NULL"                          \
    " ORDER BY ready_at_ms, seq LIMIT 1"

#define LINE_AHEAD_SQL /* task_ready */                \
    "SELECT count(*) FROM (SELECT 1 FROM task"         \
    " WHERE state = 0 AND gate = 0 AND lane = ?1"      \
    " AND coalesce(tenant_id, '') = ?2 AND agent = ?3" \
    " AND (ready_at_ms, seq) < (?4, ?5) LIMIT ?6)"

#define TASK_DUE_SQL /* task_later */                 \
    "SELECT seq, gate FROM task WHERE gate IN (1, 2)" \
    " AND lane = ?1 AND ready_at_ms <= ?2 ORDER BY ready_at_ms, seq LIMIT ?3"

#define TASK_NEXT_DUE_SQL /* task_later */              \
    "SELECT ready_at_ms FROM task WHERE gate IN (1, 2)" \
    " AND lane = ?1 ORDER BY ready_at_ms, seq LIMIT 1"

/* Of a session: what is not ended and has its place, and what waits behind. */
#define SESSION_ADMITTED_SQL /* task_session */                                \
    "SELECT count(*) FROM (SELECT 1 FROM task"                                 \
    " WHERE session_max > 0 AND state NOT BETWEEN 2 AND 5 AND session_id = ?1" \
    " AND agent = ?2 AND coalesce(tenant_id, '') = ?3 AND gate < 2 LIMIT ?4)"

#define SESSION_OF_TASK                                      \
    " FROM task e CROSS JOIN task t WHERE e.seq = ?1"        \
    " AND t.session_max > 0 AND t.state NOT BETWEEN 2 AND 5" \
    " AND t.session_id = e.session_id AND t.agent = e.agent" \
    " AND coalesce(t.tenant_id, '') = coalesce(e.tenant_id, '')"

/* Whether session ?1, which is no task's own, has a task that is not ended. */
#define SESSION_OPEN(max, index)                                        \
    "SELECT 1 FROM session AS s CROSS JOIN task AS t INDEXED BY " index \
    " WHERE s.id = ?1 AND ?2 IS NULL AND t.session_max " max            \
    " AND t.state NOT BETWEEN 2 AND 5 AND t.session_id = s.name"        \
    " AND t.agent = s.agent AND coalesce(t.tenant_id, '') = s.tenant"
#define SESSION_OPEN_SQL /* task_session, task_session_free */ \
    SESSION_OPEN("> 0", "task_session")                        \
    " UNION ALL " SESSION_OPEN("= 0", "task_session_free") " LIMIT 1"

#define SESSION_ADMITTED_BESIDE_SQL /* task_session */ \
    "SELECT count(*) FROM (SELECT 1" SESSION_OF_TASK " AND t.gate < 2 AND t.seq <> ?1 LIMIT ?2)"

#define SESSION_NEXT_SQL /* task_session */ \
    "SELECT t.seq, t.lane" SESSION_OF_TASK " AND t.gate = 3 ORDER BY t.seq LIMIT 1"

#define SESSION_AHEAD_SQL /* task_session */                 \
    "SELECT (SELECT count(*) FROM (SELECT 1" SESSION_OF_TASK \
    " AND t.gate < 2 AND t.seq <> ?1 LIMIT ?2))"             \
    " + (SELECT count(*) FROM (SELECT 1" SESSION_OF_TASK     \
    " AND t.gate = 3 AND t.seq < ?1 LIMIT ?2))"

/* Whether session ?3 of agent ?2 and tenant ?1 has such a task, or was used since ?4. */
#define SESSION_LIVES_SQL /* task_session */                  \
    "SELECT EXISTS (SELECT 1 FROM task WHERE session_id = ?3" \
    " AND agent = ?2 AND coalesce(tenant_id, '') = ?1"        \
    " AND session_max > 0 AND state NOT BETWEEN 2 AND 5)"     \
    " OR EXISTS (SELECT 1 FROM session WHERE tenant = ?1"     \
    " AND agent = ?2 AND own = 0 AND name = ?3 AND used_at_ms >= ?4)"

/* The index has the agents of each worker: hops from worker to worker. */
#define RUNNING_WORKERS                                                               \
    "WITH RECURSIVE running (id) AS (SELECT min(worker_id) FROM task WHERE state = 1" \
    " UNION ALL SELECT (SELECT min(worker_id) FROM task"                              \
    " WHERE state = 1 AND worker_id > running.id) FROM running WHERE id IS NOT NULL) "

#define RUNNING_OF_AGENT_SQL /* task_running */                                   \
    RUNNING_WORKERS "SELECT count(*) FROM (SELECT 1 FROM running CROSS JOIN task" \
                    " ON worker_id = running.id WHERE state = 1 AND agent = ?1"   \
                    " AND shadow_of IS NULL LIMIT ?2)"

#define RUNNING_OF_TENANT_SQL /* task_running_tenant */ \
    "SELECT count(*) FROM (SELECT 1 FROM task"          \
    " WHERE state = 1 AND tenant_id = ?1 AND shadow_of IS NULL LIMIT ?2)"

/* Of these, those that have no open sub-agent to wait for. */
#define HAS_OPEN_CHILD                                                                  \
    "(children > 0 AND EXISTS (SELECT 1 FROM family WHERE family.parent_seq = task.seq" \
    " AND family.parent_seq > 0 AND family.open = 1))"

#define LEAVES_OF_AGENT_SQL /* task_running, family_by_parent */                  \
    RUNNING_WORKERS "SELECT count(*) FROM (SELECT 1 FROM running CROSS JOIN task" \
                    " ON worker_id = running.id WHERE state = 1 AND agent = ?1"   \
                    " AND shadow_of IS NULL AND NOT " HAS_OPEN_CHILD " LIMIT ?2)"

#define LEAVES_OF_TENANT_SQL /* task_running_tenant, family_by_parent */ \
    "SELECT count(*) FROM (SELECT 1 FROM task"                           \
    " WHERE state = 1 AND tenant_id = ?1 AND shadow_of IS NULL"          \
    " AND NOT " HAS_OPEN_CHILD " LIMIT ?2)"

/* What repeats production's tasks. */
#define SHADOW_NEXT_SQL /* task_ready_shadow */ \
    "SELECT seq FROM task WHERE gate = 4"       \
    " ORDER BY ready_at_ms, seq LIMIT 1"

/* Queued tasks stand in one of four indexes. */
#define QUEUED_OPEN "task INDEXED BY task_ready WHERE state = 0 AND gate = 0"
#define QUEUED_LATER "task INDEXED BY task_later WHERE gate IN (1, 2)"
#define QUEUED_SESSION                                                                 \
    "task INDEXED BY task_session WHERE session_max > 0 AND state NOT BETWEEN 2 AND 5" \
    " AND session_id > '' AND gate = 3"

#define QUEUED_SHADOW "task INDEXED BY task_ready_shadow WHERE gate = 4"

/* Of a lane, at most ?2 of each: those that wait for a slot, and those whose time is to come. */
#define LINES_OPEN_SQL /* task_ready */ \
    "SELECT count(*) FROM (SELECT 1 FROM " QUEUED_OPEN " AND lane = ?1 LIMIT ?2)"
#define LINES_SHADOW_SQL /* task_ready_shadow */ \
    "SELECT count(*) FROM (SELECT lane FROM " QUEUED_SHADOW " LIMIT ?2) WHERE lane = ?1"
#define LINES_DUE_SQL /* task_later */                  \
    "SELECT count(*) FROM (SELECT 1 FROM " QUEUED_LATER \
    " AND lane = ?1 AND ready_at_ms <= ?3 LIMIT ?2)"
#define LINES_LATER_SQL /* task_later */                \
    "SELECT count(*) FROM (SELECT 1 FROM " QUEUED_LATER \
    " AND lane = ?1 AND ready_at_ms > ?3 LIMIT ?2)"

#define TASK_QUEUED_SQL                                                       \
    "SELECT seq FROM " QUEUED_OPEN " UNION ALL SELECT seq FROM " QUEUED_LATER \
    " UNION ALL SELECT seq FROM " QUEUED_SESSION " UNION ALL SELECT seq FROM " QUEUED_SHADOW

#define TASK_QUEUED_COUNT_SQL                                     \
    "SELECT (SELECT count(*) FROM " QUEUED_OPEN " AND lane = ?1)" \
    " + (SELECT count(*) FROM " QUEUED_LATER " AND lane = ?1)"    \
    " + (SELECT count(*) FROM " QUEUED_SESSION " AND lane = ?1)"  \
    " + (SELECT count(*) FROM " QUEUED_SHADOW " AND lane = ?1)"

#define TASK_HEAD_COLUMNS                                                    \
    "seq, id, lane, state, attempt, failures, losses, fence, started_at_ms," \
    " time_limit_ms, deadline_at_ms, worker_id, cancel_requested,"           \
    " webhook_url IS NOT NULL, parent_id, children, session_max,"            \
    " shadow_of IS NOT NULL, due_at_ms, tenant_id, agent"

/* Reads rows of these columns, at most *n; *n becomes their number. Returns 0 or -errno. */
MUST_CHECK int task_heads_read(DbStmt *stmt, TaskHead *heads, size_t *n);

#define TASK_RUNNING_OF_SQL /* task_running */                                  \
    "SELECT " TASK_HEAD_COLUMNS " FROM task WHERE seq IN (SELECT seq FROM task" \
    " WHERE state = 1 AND worker_id = ?1 AND +seq > ?2 ORDER BY +seq LIMIT ?3) ORDER BY seq"

#define TASK_OVERDUE_SQL /* task_running */  \
    "SELECT " TASK_HEAD_COLUMNS " FROM task" \
    " WHERE state = 1 AND worker_id > x''"   \
    " AND deadline_at_ms > 0 AND deadline_at_ms < ?1 LIMIT ?2"

#define WAITS_LIMITED "state = 0 AND deadline_at_ms > 0"

#define TASK_LATE_SQL /* task_deadline */               \
    "SELECT seq FROM task"                              \
    " WHERE " WAITS_LIMITED " AND deadline_at_ms <= ?1" \
    " ORDER BY deadline_at_ms LIMIT ?2"

#define ASKS_DUE "state = 6 AND due_at_ms > 0"

#define TASK_LATE_ASKING_SQL /* task_due */   \
    "SELECT seq FROM task"                    \
    " WHERE " ASKS_DUE " AND due_at_ms <= ?1" \
    " ORDER BY due_at_ms LIMIT ?2"

/* Where there is one; whoever has one has a deadline. */
#define DUE_MOVED "due_at_ms = iif(due_at_ms > 0, max(1, due_at_ms + ?1), 0)"

/* An attempt that goes on will have run for as much longer by the calendar. */
#define TASK_MOVE_RUNNING_SQL /* task_running */                               \
    "UPDATE task SET deadline_at_ms = max(1, deadline_at_ms + ?1), " DUE_MOVED \
    ", ran_ms = ran_ms - max(0, ?1)"                                           \
    " WHERE state = 1 AND worker_id > x'' AND deadline_at_ms > 0"

/* Not of what waits for a moment of the calendar to start: its deadline is another such moment. */
#define TASK_MOVE_WAITING_SQL /* task_deadline */                              \
    "UPDATE task SET deadline_at_ms = max(1, deadline_at_ms + ?1), " DUE_MOVED \
    " WHERE " WAITS_LIMITED " AND NOT (gate IN (1, 2) AND attempt = 0)"

#define TASK_MOVE_ASKING_SQL /* task_due */ "UPDATE task SET " DUE_MOVED " WHERE " ASKS_DUE

/* What waits to be tried again waits for a span of time, not for a moment of the calendar. */
#define TASK_MOVE_LATER_SQL /* task_later */                                       \
    "UPDATE task INDEXED BY task_later SET ready_at_ms = max(1, ready_at_ms + ?1)" \
    " WHERE state = 0 AND gate IN (1, 2) AND +gate = 1 AND attempt > 0"

#define ESCALATION_MOVE_SQL /* escalation_pending */                        \
    "UPDATE escalation SET expires_at_ms = max(1, plus(expires_at_ms, ?1))" \
    " WHERE state = 0 AND expires_at_ms > 0"

#define WEBHOOK_MOVE_SQL /* webhook_pending */                     \
    "UPDATE webhook SET next_at_ms = max(1, plus(next_at_ms, ?1))" \
    " WHERE state = 0 AND host >= ''"

#define TASK_RUNNING_COUNT_SQL /* task_running */ \
    "SELECT lane, count(*) FROM task WHERE state = 1 AND worker_id > x'' GROUP BY lane"

/* Lists: the seqs to look at come from an index, newest first. */
#define TASK_LIST_QUEUED_SQL \
    "SELECT seq FROM (" TASK_QUEUED_SQL ") WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2"
#define TASK_LIST_RUNNING_SQL /* task_running */               \
    "SELECT seq FROM task WHERE state = 1 AND worker_id > x''" \
    " AND +seq < ?1 ORDER BY +seq DESC LIMIT ?2"

#define WEBHOOK_AGAIN_SQL /* webhook_failed */                                   \
    "SELECT id, url, created_at_ms, EXISTS (SELECT 1 FROM webhook_disabled AS d" \
    " WHERE d.url = webhook.url) FROM webhook WHERE state = 2 AND id > ?1 ORDER BY id LIMIT ?2"

/* Ended without success, newest first; the states are those of the index. */
#define TASK_DEAD_SQL /* task_dead */                                          \
    "SELECT seq, state, created_at_ms, agent, version_id, error_code, lane"    \
    " FROM task INDEXED BY task_dead WHERE state BETWEEN 3 AND 5 AND seq < ?1" \
    " AND shadow_of IS NULL ORDER BY seq DESC LIMIT ?2"

#endif
