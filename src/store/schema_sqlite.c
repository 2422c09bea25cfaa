#include "store/schema.h"

/* SQLite's SQL. Times are Unix milliseconds; task.state counts as TaskState does. The partial
 * indexes name 0 (queued) and 1 (running) as literals, and queries must too, for the planner to see
 * that they match. Steps are only ever added. */

/* task: columns that change come first, long texts that never do live in task_payload, and results
 * in task_result, because an update rewrites the row it touches. counter: numbers that must grow
 * for ever, such as the fence. */
static const char first_schema[] =
    "CREATE TABLE task ("
    " seq INTEGER PRIMARY KEY,"
    " id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),"
    " state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 6),"
    " lane INTEGER NOT NULL CHECK (lane BETWEEN 0 AND 2),"
    " attempt INTEGER NOT NULL DEFAULT 0,"
    " failures INTEGER NOT NULL DEFAULT 0,"
    " losses INTEGER NOT NULL DEFAULT 0,"
    " fence INTEGER NOT NULL DEFAULT 0,"
    " worker_id BLOB,"
    " created_at_ms INTEGER NOT NULL,"
    " ready_at_ms INTEGER NOT NULL,"
    " started_at_ms INTEGER NOT NULL DEFAULT 0,"
    " finished_at_ms INTEGER NOT NULL DEFAULT 0,"
    " time_limit_ms INTEGER NOT NULL DEFAULT 0,"
    " deadline_at_ms INTEGER NOT NULL DEFAULT 0,"
    " cancel_requested INTEGER NOT NULL DEFAULT 0,"
    " input_tokens INTEGER NOT NULL DEFAULT 0,"
    " output_tokens INTEGER NOT NULL DEFAULT 0,"
    " cached_tokens INTEGER NOT NULL DEFAULT 0,"
    " llm_calls INTEGER NOT NULL DEFAULT 0,"
    " tool_calls INTEGER NOT NULL DEFAULT 0,"
    " replayed_calls INTEGER NOT NULL DEFAULT 0,"
    " cost_nusd INTEGER NOT NULL DEFAULT 0,"
    " quality REAL,"
    " log_bytes INTEGER NOT NULL DEFAULT 0,"
    " log_dropped INTEGER NOT NULL DEFAULT 0,"
    " agent TEXT NOT NULL,"
    " version_id TEXT NOT NULL,"
    " parent_id BLOB,"
    " session_id TEXT, user_id TEXT, tenant_id TEXT, webhook_url TEXT, traceparent TEXT,"
    " error_code TEXT, error_detail TEXT, stopped_by TEXT"
    ") STRICT;"
    "CREATE INDEX task_ready ON task (lane, ready_at_ms, seq) WHERE state = 0;"
    "CREATE INDEX task_running ON task (worker_id, seq) WHERE state = 1;"
    "CREATE INDEX task_by_agent ON task (agent, seq);"
    "CREATE INDEX task_by_version ON task (version_id, seq);"
    "CREATE TABLE task_payload ("
    " seq INTEGER PRIMARY KEY, input TEXT NOT NULL, metadata TEXT, limits TEXT"
    ") STRICT;"
    "CREATE TABLE task_result (seq INTEGER PRIMARY KEY, result TEXT NOT NULL) STRICT;"
    "CREATE TABLE attempt ("
    " task_seq INTEGER NOT NULL, attempt INTEGER NOT NULL, fence INTEGER NOT NULL,"
    " worker_id BLOB NOT NULL, started_at_ms INTEGER NOT NULL,"
    " finished_at_ms INTEGER NOT NULL DEFAULT 0,"
    " outcome TEXT, error_code TEXT, error_detail TEXT, sandbox TEXT,"
    " PRIMARY KEY (task_seq, attempt)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE call ("
    " id INTEGER PRIMARY KEY, task_seq INTEGER NOT NULL, attempt INTEGER NOT NULL,"
    " fence INTEGER NOT NULL, at_ms INTEGER NOT NULL, duration_ms INTEGER NOT NULL,"
    " provider TEXT NOT NULL, model TEXT NOT NULL, protocol TEXT NOT NULL,"
    " outcome TEXT NOT NULL, streamed INTEGER NOT NULL, replayed INTEGER NOT NULL,"
    " status INTEGER NOT NULL, input_tokens INTEGER NOT NULL,"
    " output_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,"
    " reasoning_tokens INTEGER NOT NULL, cost_nusd INTEGER NOT NULL"
    ") STRICT;"
    "CREATE INDEX call_by_task ON call (task_seq, id);"
    "CREATE TABLE task_log ("
    " task_seq INTEGER NOT NULL, attempt INTEGER NOT NULL, seq INTEGER NOT NULL,"
    " at_ms INTEGER NOT NULL, stream INTEGER NOT NULL, text TEXT NOT NULL,"
    " PRIMARY KEY (task_seq, attempt, seq)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE webhook ("
    " id INTEGER PRIMARY KEY, webhook_id TEXT NOT NULL, task_seq INTEGER NOT NULL,"
    " url TEXT NOT NULL, body TEXT NOT NULL, state INTEGER NOT NULL DEFAULT 0,"
    " attempts INTEGER NOT NULL DEFAULT 0, created_at_ms INTEGER NOT NULL,"
    " next_at_ms INTEGER NOT NULL, last_status INTEGER NOT NULL DEFAULT 0,"
    " last_error TEXT"
    ") STRICT;"
    "CREATE INDEX webhook_pending ON webhook (next_at_ms, id) WHERE state = 0;"
    "CREATE INDEX webhook_by_task ON webhook (task_seq, id);"
    "CREATE TABLE idempotency ("
    " tenant TEXT NOT NULL, key TEXT NOT NULL, fingerprint BLOB NOT NULL,"
    " task_id BLOB NOT NULL, created_at_ms INTEGER NOT NULL,"
    " PRIMARY KEY (tenant, key)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE INDEX idempotency_by_age ON idempotency (created_at_ms);"
    "CREATE TABLE agent ("
    " name TEXT PRIMARY KEY, settings TEXT NOT NULL, created_at_ms INTEGER NOT NULL"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE version ("
    " seq INTEGER PRIMARY KEY,"
    " id TEXT NOT NULL UNIQUE CHECK (length(id) = 64),"
    " agent TEXT NOT NULL, components TEXT NOT NULL, manifest TEXT NOT NULL,"
    " artifact TEXT, description TEXT, git_commit TEXT, created_at_ms INTEGER NOT NULL"
    ") STRICT;"
    "CREATE INDEX version_by_agent ON version (agent, seq);"
    "CREATE TRIGGER version_no_update BEFORE UPDATE ON version"
    " BEGIN SELECT RAISE(ABORT, 'a version never changes'); END;"
    "CREATE TRIGGER version_no_delete BEFORE DELETE ON version"
    " BEGIN SELECT RAISE(ABORT, 'a version is never deleted'); END;"
    "CREATE TABLE routing ("
    " agent TEXT PRIMARY KEY, version_id TEXT NOT NULL, previous_version_id TEXT,"
    " changed_at_ms INTEGER NOT NULL"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE worker ("
    " id BLOB PRIMARY KEY CHECK (length(id) = 16), name TEXT NOT NULL,"
    " kind INTEGER NOT NULL, state INTEGER NOT NULL, slots TEXT NOT NULL,"
    " registered_at_ms INTEGER NOT NULL, lease_expires_at_ms INTEGER NOT NULL,"
    " heartbeat_at_ms INTEGER NOT NULL"
    ") STRICT, WITHOUT ROWID;"
    "CREATE INDEX worker_lease ON worker (lease_expires_at_ms) WHERE state <= 1;"
    "CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL)"
    " STRICT, WITHOUT ROWID;"
    "INSERT INTO counter (name, value) VALUES ('fence', 0);";

/* A worker that did not hear the answer to its report of calls reports them again. */
static const char calls_once[] =
    "ALTER TABLE call ADD COLUMN call_id TEXT;"
    "CREATE UNIQUE INDEX call_once ON call (task_seq, call_id) WHERE call_id IS NOT NULL;";

/* What the cap of tokens counts: more than was reported when a whole hold was charged. */
static const char charged_tokens[] =
    "ALTER TABLE task ADD COLUMN charged_tokens INTEGER NOT NULL DEFAULT 0;"
    "UPDATE task SET charged_tokens = input_tokens + output_tokens;";

/* The counter moves with every change of a flag, and is never set back. */
static const char flags[] =
    "CREATE TABLE flag ("
    " key TEXT PRIMARY KEY, definition TEXT NOT NULL, revision INTEGER NOT NULL,"
    " updated_at_ms INTEGER NOT NULL"
    ") STRICT, WITHOUT ROWID;"
    "INSERT INTO counter (name, value) VALUES ('flags', 0);";

/* What models and tools answered. A journal is read in the order of its numbers, whole: no index
 * beside that. Bytes stand apart, where reading a list does not pass them. due_ms: when to look
 * whether a journal can be deleted. */
static const char journal[] =
    "CREATE TABLE journal ("
    " task_seq INTEGER NOT NULL, n INTEGER NOT NULL, version_id TEXT NOT NULL,"
    " attempt INTEGER NOT NULL, kind INTEGER NOT NULL, name TEXT NOT NULL, call_id TEXT,"
    " key BLOB NOT NULL CHECK (length(key) = 32), at_ms INTEGER NOT NULL,"
    " status INTEGER NOT NULL, content_type TEXT NOT NULL, streamed INTEGER NOT NULL,"
    " complete INTEGER NOT NULL, answer_bytes INTEGER NOT NULL,"
    " request_bytes INTEGER NOT NULL, body_id INTEGER NOT NULL,"
    " PRIMARY KEY (task_seq, n)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE journal_body ("
    " id INTEGER PRIMARY KEY, answer_gzip INTEGER NOT NULL, answer BLOB NOT NULL,"
    " base_n INTEGER NOT NULL, prefix INTEGER NOT NULL, suffix INTEGER NOT NULL,"
    " request_gzip INTEGER NOT NULL, request BLOB"
    ") STRICT;"
    "CREATE TABLE journal_task ("
    " task_seq INTEGER PRIMARY KEY, last_n INTEGER NOT NULL, bytes INTEGER NOT NULL,"
    " misses INTEGER NOT NULL, closed INTEGER NOT NULL, due_ms INTEGER NOT NULL"
    ") STRICT;"
    "CREATE INDEX journal_due ON journal_task (due_ms);";

/* What was not answered as it would be with money to spend and every provider well. */
static const char degraded_calls[] =
    "ALTER TABLE call ADD COLUMN cached INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE call ADD COLUMN degraded TEXT;"
    "ALTER TABLE task ADD COLUMN cached_calls INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE task ADD COLUMN degraded_calls INTEGER NOT NULL DEFAULT 0;";

/* Ids sort by time. */
static const char tool_calls[] =
    "CREATE TABLE tool_call ("
    " task_seq INTEGER NOT NULL, id TEXT NOT NULL, attempt INTEGER NOT NULL, name TEXT NOT NULL,"
    " source TEXT NOT NULL, outcome TEXT NOT NULL, at_ms INTEGER NOT NULL,"
    " duration_ms INTEGER NOT NULL, bytes INTEGER NOT NULL, replayed INTEGER NOT NULL,"
    " counted INTEGER NOT NULL,"
    " PRIMARY KEY (task_seq, id)"
    ") STRICT, WITHOUT ROWID;";

/* All counters of a slice are totals. The first key of the index is what a grant adds up. Tokens
 * charged are kept with the call, for budgets that are set later. */
static const char budgets[] =
    "CREATE TABLE budget_limit ("
    " scope TEXT PRIMARY KEY, amount INTEGER NOT NULL, changed_at_ms INTEGER NOT NULL"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE budget_counted (scope TEXT PRIMARY KEY, since_ms INTEGER NOT NULL)"
    " STRICT, WITHOUT ROWID;"
    "CREATE TABLE budget_slice ("
    " scope TEXT NOT NULL, start_ms INTEGER NOT NULL, worker_id BLOB NOT NULL,"
    " granted INTEGER NOT NULL, returned INTEGER NOT NULL, settled INTEGER NOT NULL,"
    " PRIMARY KEY (scope, start_ms, worker_id)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE INDEX budget_slice_by_worker ON budget_slice (worker_id);"
    "ALTER TABLE call ADD COLUMN charged_tokens INTEGER NOT NULL DEFAULT 0;";
/* Imported; the counter moves with every import. */
static const char prices[] =
    "CREATE TABLE price ("
    " model TEXT PRIMARY KEY, entry TEXT NOT NULL, updated_at_ms INTEGER NOT NULL"
    ") STRICT, WITHOUT ROWID;"
    "INSERT INTO counter (name, value) VALUES ('prices', 0);";

/* Sums of calls: a look back over a month reads hours, not calls. */
static const char spend[] =
    "CREATE TABLE spend ("
    " hour_ms INTEGER NOT NULL, agent TEXT NOT NULL, version_id TEXT NOT NULL,"
    " user_id TEXT NOT NULL, tenant_id TEXT NOT NULL, model TEXT NOT NULL,"
    " provider TEXT NOT NULL, calls INTEGER NOT NULL, input_tokens INTEGER NOT NULL,"
    " output_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,"
    " cost_nusd INTEGER NOT NULL,"
    " PRIMARY KEY (hour_ms, agent, version_id, user_id, tenant_id, model, provider)"
    ") STRICT, WITHOUT ROWID;"
    "INSERT INTO spend SELECT call.at_ms - call.at_ms % 3600000, agent, version_id,"
    " coalesce(user_id, ''), coalesce(tenant_id, ''), model, provider, count(*),"
    " sum(call.input_tokens), sum(call.output_tokens), sum(call.cached_tokens),"
    " sum(call.cost_nusd)"
    " FROM call JOIN task ON task.seq = call.task_seq GROUP BY 1, 2, 3, 4, 5, 6, 7;";

/* Workers that lag behind read what they have missed; the counter is never set back. */
static const char cache_purges[] =
    "CREATE TABLE cache_purge ("
    " revision INTEGER PRIMARY KEY, by_tenant INTEGER NOT NULL, tenant TEXT,"
    " by_agent INTEGER NOT NULL, agent TEXT, at_ms INTEGER NOT NULL"
    ") STRICT;"
    "INSERT INTO counter (name, value) VALUES ('cache', 0);";

/* The journal in one row a recording, appended: recordings of many tasks made at a time then share
 * pages, and only the narrow index is written here and there. served_from: recordings up to it are
 * for people alone. */
static const char journal_rows[] =
    "DROP TABLE journal;"
    "DROP TABLE journal_body;"
    "CREATE TABLE journal ("
    " id INTEGER PRIMARY KEY, task_seq INTEGER NOT NULL, n INTEGER NOT NULL,"
    " version_id TEXT NOT NULL, attempt INTEGER NOT NULL, kind INTEGER NOT NULL,"
    " name TEXT NOT NULL, call_id TEXT, key BLOB NOT NULL CHECK (length(key) = 32),"
    " at_ms INTEGER NOT NULL, status INTEGER NOT NULL, content_type TEXT NOT NULL,"
    " streamed INTEGER NOT NULL, complete INTEGER NOT NULL, answer_bytes INTEGER NOT NULL,"
    " request_bytes INTEGER NOT NULL, base_n INTEGER NOT NULL, prefix INTEGER NOT NULL,"
    " suffix INTEGER NOT NULL, answer_gzip INTEGER NOT NULL, request_gzip INTEGER NOT NULL,"
    " answer BLOB NOT NULL, request BLOB"
    ") STRICT;"
    "CREATE UNIQUE INDEX journal_by_task ON journal (task_seq, n);"
    "ALTER TABLE journal_task ADD COLUMN served_from INTEGER NOT NULL DEFAULT 0;";

/* state < 5: active, as RolloutState counts; one an agent. Units are read in the order in which
 * their tasks were eligible. rollout_seq of a task: what routed it; NULL: its agent or caller. */
static const char rollouts[] =
    "CREATE TABLE rollout ("
    " seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, agent TEXT NOT NULL,"
    " version_id TEXT NOT NULL, control_id TEXT NOT NULL, state INTEGER NOT NULL,"
    " resumes INTEGER NOT NULL, step INTEGER NOT NULL, weight_bp INTEGER NOT NULL,"
    " state_since_ms INTEGER NOT NULL, step_since_ms INTEGER NOT NULL,"
    " step_canaries INTEGER NOT NULL, deadline_at_ms INTEGER NOT NULL, paged INTEGER NOT NULL,"
    " fast_ms INTEGER NOT NULL DEFAULT 0, fast_seq INTEGER NOT NULL DEFAULT 0,"
    " judged_ms INTEGER NOT NULL DEFAULT 0, judged_seq INTEGER NOT NULL DEFAULT 0,"
    " seen_ms INTEGER NOT NULL DEFAULT 0, seen_seq INTEGER NOT NULL DEFAULT 0,"
    " cost_cap_nusd INTEGER NOT NULL, tokens_cap INTEGER NOT NULL,"
    " latency_p95_ms INTEGER NOT NULL, tool_calls_p95 INTEGER NOT NULL,"
    " verdict INTEGER NOT NULL DEFAULT 0, created_at_ms INTEGER NOT NULL,"
    " changed_at_ms INTEGER NOT NULL, why TEXT NOT NULL, block TEXT NOT NULL,"
    " settings TEXT NOT NULL"
    ") STRICT;"
    "CREATE UNIQUE INDEX rollout_active ON rollout (agent) WHERE state < 5;"
    "CREATE TABLE rollout_evidence (rollout_seq INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;"
    "CREATE TABLE rollout_unit ("
    " rollout_seq INTEGER NOT NULL, kind INTEGER NOT NULL, unit TEXT NOT NULL,"
    " arm INTEGER NOT NULL, counts INTEGER NOT NULL, eligible_ms INTEGER NOT NULL,"
    " task_seq INTEGER NOT NULL, pi REAL NOT NULL,"
    " PRIMARY KEY (rollout_seq, kind, unit)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE INDEX rollout_unit_order ON rollout_unit (rollout_seq, eligible_ms, task_seq)"
    " WHERE counts = 1;"
    "ALTER TABLE task ADD COLUMN rollout_seq INTEGER;";

/* Whose calls without a task are: seq is negative, so that call.task_seq names either. */
static const char accounts[] =
    "CREATE TABLE account ("
    " seq INTEGER PRIMARY KEY CHECK (seq < 0),"
    " id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),"
    " tenant_id TEXT NOT NULL, agent TEXT NOT NULL, user_id TEXT NOT NULL,"
    " created_at_ms INTEGER NOT NULL, used_at_ms INTEGER NOT NULL,"
    " calls INTEGER NOT NULL DEFAULT 0, input_tokens INTEGER NOT NULL DEFAULT 0,"
    " output_tokens INTEGER NOT NULL DEFAULT 0, cached_tokens INTEGER NOT NULL DEFAULT 0,"
    " cost_nusd INTEGER NOT NULL DEFAULT 0,"
    " UNIQUE (tenant_id, agent, user_id)"
    ") STRICT;";

/* host: "name:port" of url. Those that are due are looked for host by host, so that many for one do
 * not stand before those for others. What was given up is listed by an index of its own. */
static const char webhook_hosts[] =
    "ALTER TABLE webhook ADD COLUMN host TEXT NOT NULL DEFAULT '';"
    "UPDATE webhook SET host = substr(substr(url, instr(url, '://') + 3), 1,"
    " instr(substr(url, instr(url, '://') + 3) || '/', '/') - 1) WHERE state = 0;"
    "DROP INDEX webhook_pending;"
    "CREATE INDEX webhook_pending ON webhook (host, next_at_ms, id) WHERE state = 0;"
    "CREATE INDEX webhook_failed ON webhook (id) WHERE state = 2;"
    "CREATE TABLE webhook_disabled ("
    " url TEXT PRIMARY KEY, at_ms INTEGER NOT NULL, webhook_id TEXT NOT NULL"
    ") STRICT, WITHOUT ROWID;";

/* news: facts for the rollups, deleted as they are put there. bytes: logic/rollup.h; by time first,
 * for a look at a span of time and to forget old ones. fingerprint and tools of a task: of its last
 * attempt. A score stays what it was before names were kept. */
static const char rollups[] =
    "CREATE TABLE rollup_news ("
    " n INTEGER PRIMARY KEY, sign INTEGER NOT NULL, what INTEGER NOT NULL, state INTEGER NOT NULL,"
    " agent TEXT NOT NULL, version_id TEXT NOT NULL, at_ms INTEGER NOT NULL,"
    " started_at_ms INTEGER NOT NULL, cost_nusd INTEGER NOT NULL, tokens INTEGER NOT NULL,"
    " llm_calls INTEGER NOT NULL, tool_calls INTEGER NOT NULL, degraded INTEGER NOT NULL,"
    " quality REAL, fingerprint INTEGER, tools TEXT"
    ") STRICT;"
    "CREATE TABLE rollup ("
    " span INTEGER NOT NULL, start_ms INTEGER NOT NULL, agent TEXT NOT NULL,"
    " version_id TEXT NOT NULL, bytes BLOB NOT NULL,"
    " PRIMARY KEY (span, start_ms, agent, version_id)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE task_score ("
    " task_seq INTEGER NOT NULL, name TEXT NOT NULL, value REAL NOT NULL, comment TEXT,"
    " at_ms INTEGER NOT NULL, PRIMARY KEY (task_seq, name)"
    ") STRICT, WITHOUT ROWID;"
    "ALTER TABLE task ADD COLUMN fingerprint INTEGER;"
    "ALTER TABLE task ADD COLUMN tools TEXT;"
    "INSERT INTO task_score SELECT seq, 'quality', quality, NULL, finished_at_ms FROM task"
    " WHERE quality IS NOT NULL;"
    "INSERT INTO rollup_news (sign, what, state, agent, version_id, at_ms, started_at_ms,"
    " cost_nusd, tokens, llm_calls, tool_calls, degraded, quality)"
    " SELECT 1, 3, state, agent, version_id, finished_at_ms, started_at_ms, cost_nusd,"
    " input_tokens + output_tokens, llm_calls, tool_calls, degraded_calls > 0, quality"
    " FROM task WHERE state BETWEEN 2 AND 5 ORDER BY seq;";
/* Lines of open tasks, see line_store.h. Tasks queued before get their place when one looks. What a
 * claim may count is in small indexes of what runs. The limits of an agent stand in its settings
 * too; NULL: what is configured. */
static const char lines[] =
    "ALTER TABLE task ADD COLUMN gate INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE task ADD COLUMN session_max INTEGER NOT NULL DEFAULT 0;"
    "DROP INDEX task_ready;"
    "UPDATE task SET gate = 1 WHERE state = 0;"
    "CREATE INDEX task_ready ON task"
    " (lane, coalesce(tenant_id, ''), agent, ready_at_ms, seq) WHERE state = 0 AND gate = 0;"
    "CREATE INDEX task_later ON task (lane, ready_at_ms, seq)"
    " WHERE state = 0 AND gate IN (1, 2);"
    "CREATE INDEX task_session ON task"
    " (session_id, agent, coalesce(tenant_id, ''), gate, seq)"
    " WHERE session_max > 0 AND state IN (0, 1, 6);"
    "CREATE INDEX task_running_agent ON task (agent) WHERE state = 1;"
    "CREATE INDEX task_running_tenant ON task (tenant_id)"
    " WHERE state = 1 AND tenant_id IS NOT NULL;"
    "ALTER TABLE agent ADD COLUMN tasks_max INTEGER;"
    "ALTER TABLE agent ADD COLUMN session_max INTEGER;";

/* Events for people and their outbox; and what rollouts decided at their last ticks, and why. */
static const char events[] =
    "CREATE TABLE event ("
    " seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, published INTEGER NOT NULL DEFAULT 0,"
    " type TEXT NOT NULL, agent TEXT NOT NULL, version_id TEXT NOT NULL, subject TEXT NOT NULL,"
    " data TEXT NOT NULL"
    ") STRICT;"
    "CREATE INDEX event_pending ON event (seq) WHERE published = 0;"
    "CREATE INDEX event_by_agent ON event (agent, seq);"
    "CREATE INDEX event_by_subject ON event (subject, seq);"
    "CREATE TABLE rollout_tick ("
    " rollout_seq INTEGER NOT NULL, n INTEGER NOT NULL, at_ms INTEGER NOT NULL,"
    " state INTEGER NOT NULL, step INTEGER NOT NULL, verdict INTEGER NOT NULL, why TEXT NOT NULL,"
    " inputs TEXT NOT NULL, PRIMARY KEY (rollout_seq, n)"
    ")  STRICT, WITHOUT ROWID;";

/* A row for each task that was started by another or has started one; parent_seq 0: the first of
 * its family, whose row counts the members. allotted: what the task and all below it may spend;
 * kids: what its children cost it (see logic/family.h). key: by which its parent finds it again. */
static const char family[] =
    "CREATE TABLE family ("
    " task_seq INTEGER PRIMARY KEY, parent_seq INTEGER NOT NULL, root_seq INTEGER NOT NULL,"
    " depth INTEGER NOT NULL, open INTEGER NOT NULL DEFAULT 1, key TEXT, fingerprint BLOB,"
    " allotted_tokens INTEGER NOT NULL DEFAULT 0, allotted_nusd INTEGER NOT NULL DEFAULT 0,"
    " allotted_tool_calls INTEGER NOT NULL DEFAULT 0,"
    " kids_tokens INTEGER NOT NULL DEFAULT 0, kids_nusd INTEGER NOT NULL DEFAULT 0,"
    " kids_tool_calls INTEGER NOT NULL DEFAULT 0,"
    " children INTEGER NOT NULL DEFAULT 0, members INTEGER NOT NULL DEFAULT 0"
    ") STRICT;"
    "CREATE UNIQUE INDEX family_key ON family (parent_seq, key) WHERE key IS NOT NULL;"
    "CREATE INDEX family_by_parent ON family (parent_seq, task_seq) WHERE parent_seq > 0;"
    "ALTER TABLE task ADD COLUMN children INTEGER NOT NULL DEFAULT 0;";

/* One index of calls instead of two: a call is put once into it, and those of a task, which are
 * few, are sorted when they are read. */
static const char calls_index[] = "DROP INDEX call_by_task;"
                                  "DROP INDEX call_once;"
                                  "CREATE UNIQUE INDEX call_by_task ON call (task_seq, call_id);";

/* What agents keep. own: of one task that has no session; name is its id then. Values stand apart
 * from what is looked for. */
static const char sessions[] =
    "CREATE TABLE session ("
    " id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, agent TEXT NOT NULL, own INTEGER NOT NULL,"
    " name TEXT NOT NULL, keys INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,"
    " revision INTEGER NOT NULL DEFAULT 0, used_at_ms INTEGER NOT NULL,"
    " UNIQUE (tenant, agent, own, name)"
    ") STRICT;"
    "CREATE INDEX session_by_use ON session (used_at_ms);"
    "CREATE TABLE state ("
    " id INTEGER PRIMARY KEY, session_id INTEGER NOT NULL, key TEXT NOT NULL,"
    " version INTEGER NOT NULL, bytes INTEGER NOT NULL, updated_at_ms INTEGER NOT NULL,"
    " content_type TEXT NOT NULL, value BLOB NOT NULL, UNIQUE (session_id, key)"
    ") STRICT;";

static const char rollout_units[] =
    "ALTER TABLE rollout ADD COLUMN unit INTEGER NOT NULL DEFAULT 0;"; /* RouteBy */

static const char rollout_checks[] = /* preflight: CheckResult; those of before had passed */
    "ALTER TABLE rollout ADD COLUMN preflight INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE rollout ADD COLUMN checks TEXT NOT NULL DEFAULT '[]';"
    "UPDATE rollout SET preflight = 1 WHERE state > 1;";

/* live: found by a later attempt. escalations of a task: how often it has come to rest for one. */
static const char escalations[] =
    "CREATE TABLE escalation ("
    " id INTEGER PRIMARY KEY, task_seq INTEGER NOT NULL,"
    " key BLOB NOT NULL CHECK (length(key) = 32), occurrence INTEGER NOT NULL,"
    " live INTEGER NOT NULL DEFAULT 1, state INTEGER NOT NULL DEFAULT 0, question TEXT NOT NULL,"
    " context TEXT, fallback TEXT, asked_at_ms INTEGER NOT NULL, expires_at_ms INTEGER NOT NULL,"
    " answered_at_ms INTEGER NOT NULL DEFAULT 0, answer TEXT, answered_by TEXT"
    ") STRICT;"
    "CREATE UNIQUE INDEX escalation_once ON escalation (task_seq, key, occurrence) WHERE live = 1;"
    "CREATE INDEX escalation_by_task ON escalation (task_seq, id);"
    "CREATE INDEX escalation_pending ON escalation (expires_at_ms) WHERE state = 0;"
    "ALTER TABLE task ADD COLUMN escalations INTEGER NOT NULL DEFAULT 0;"
    "UPDATE task SET escalations = 1 WHERE state = 6;"
    "ALTER TABLE rollup_news ADD COLUMN escalated INTEGER NOT NULL DEFAULT 0;"
    "UPDATE rollup_news SET escalated = 1 WHERE state = 6;";

/* A recording has the id of its call, which the index of calls leads to; those that belong to no
 * call count down from zero. How many a task has, and how large they are, is kept in its row, which
 * every call changes anyway. What was recorded before is bought again where it is needed. */
static const char journal_by_call[] =
    "DROP TABLE journal;"
    "DROP TABLE journal_task;"
    "CREATE TABLE journal ("
    " id INTEGER PRIMARY KEY, task_seq INTEGER NOT NULL, n INTEGER NOT NULL,"
    " version_id TEXT NOT NULL, attempt INTEGER NOT NULL, kind INTEGER NOT NULL,"
    " name TEXT NOT NULL, call_id TEXT, key BLOB NOT NULL CHECK (length(key) = 32),"
    " at_ms INTEGER NOT NULL, status INTEGER NOT NULL, content_type TEXT NOT NULL,"
    " streamed INTEGER NOT NULL, complete INTEGER NOT NULL, answer_bytes INTEGER NOT NULL,"
    " request_bytes INTEGER NOT NULL, base_id INTEGER NOT NULL, prefix INTEGER NOT NULL,"
    " suffix INTEGER NOT NULL, answer_gzip INTEGER NOT NULL, request_gzip INTEGER NOT NULL,"
    " answer BLOB NOT NULL, request BLOB"
    ") STRICT;"
    "CREATE INDEX journal_without_call ON journal (task_seq) WHERE id < 0;"
    "CREATE TABLE journal_task ("
    " task_seq INTEGER PRIMARY KEY, misses INTEGER NOT NULL DEFAULT 0,"
    " served_from INTEGER NOT NULL DEFAULT 0, due_ms INTEGER NOT NULL"
    ") STRICT;"
    "CREATE INDEX journal_due ON journal_task (due_ms);"
    "ALTER TABLE task ADD COLUMN journal_n INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE task ADD COLUMN journal_bytes INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE task ADD COLUMN journal_closed INTEGER NOT NULL DEFAULT 0;";

/* A line at its limit is asked for tasks that were started by others: those may start all the
 * same. */
static const char children_of_lines[] = "CREATE INDEX task_ready_child ON task"
                                        " (lane, coalesce(tenant_id, ''), agent, ready_at_ms, seq)"
                                        " WHERE state = 0 AND gate = 0 AND parent_id IS NOT NULL;";

/* watch: logic/watch.h, up to that day; the counter is the day that was looked at last. */
static const char drift[] =
    "CREATE TABLE watch ("
    " id INTEGER PRIMARY KEY, agent TEXT NOT NULL, version_id TEXT NOT NULL,"
    " day_ms INTEGER NOT NULL, bytes BLOB NOT NULL, UNIQUE (agent, version_id)"
    ") STRICT;"
    "CREATE TABLE alarm ("
    " id INTEGER PRIMARY KEY, agent TEXT NOT NULL, version_id TEXT NOT NULL,"
    " metric TEXT NOT NULL, day_ms INTEGER NOT NULL, at_ms INTEGER NOT NULL, value REAL,"
    " before REAL, slope REAL, p REAL, text TEXT NOT NULL,"
    " acknowledged_at_ms INTEGER NOT NULL DEFAULT 0, acknowledged_by TEXT, note TEXT"
    ") STRICT;"
    "INSERT INTO counter (name, value) VALUES ('drift', 0);";

/* next_at_ms: when it fires; 0: it does not. */
static const char schedules[] =
    "CREATE TABLE schedule ("
    " name TEXT PRIMARY KEY, agent TEXT NOT NULL, cron TEXT NOT NULL, input TEXT NOT NULL,"
    " lane INTEGER NOT NULL, missed INTEGER NOT NULL, paused INTEGER NOT NULL,"
    " next_at_ms INTEGER NOT NULL, updated_at_ms INTEGER NOT NULL,"
    " last_at_ms INTEGER NOT NULL DEFAULT 0, last_task_id BLOB, last_error TEXT"
    ") STRICT, WITHOUT ROWID;"
    "CREATE INDEX schedule_due ON schedule (next_at_ms) WHERE next_at_ms > 0;";

static const char rollup_due[] = /* tasks at rest that are in no rollup yet */
    "CREATE TABLE rollup_due (task_seq INTEGER PRIMARY KEY) STRICT;";

/* What has started, for those who look at the last of it each second: a queue may be long. */
static const char tried_tasks[] =
    "CREATE INDEX task_tried ON task (version_id, seq) WHERE attempt > 0;"
    "CREATE INDEX task_tried_routed ON task (rollout_seq, version_id, seq)"
    " WHERE attempt > 0 AND rollout_seq > 0;";

/* state: ServingState. witness: a task that the version still has. */
static const char serving[] =
    "CREATE TABLE serving ("
    " version_id TEXT PRIMARY KEY, agent TEXT NOT NULL, state INTEGER NOT NULL,"
    " since_ms INTEGER NOT NULL, witness INTEGER NOT NULL DEFAULT 0"
    ") STRICT, WITHOUT ROWID;"
    "CREATE INDEX serving_now ON serving (agent) WHERE state = 0;"
    "CREATE INDEX serving_leaving ON serving (version_id) WHERE state IN (1, 2);"
    "INSERT INTO serving (version_id, agent, state, since_ms)"
    " SELECT version_id, agent, 0, changed_at_ms FROM routing;"
    "INSERT OR IGNORE INTO serving (version_id, agent, state, since_ms)"
    " SELECT version_id, agent, 0, changed_at_ms FROM rollout WHERE state < 5 AND weight_bp > 0;";

/* Calls of many tasks end at a time. Found by their task each would go to a page of its own; their
 * ids grow, so that by these they go to one. Those of a task are a chain, from its last one
 * back. */
static const char calls_chain[] =
    "ALTER TABLE call ADD COLUMN before_id INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE task ADD COLUMN last_call_id INTEGER NOT NULL DEFAULT 0;"
    "UPDATE call SET before_id = chain.before FROM (SELECT id AS of, lag(id, 1, 0) OVER"
    " (PARTITION BY task_seq ORDER BY id) AS before FROM call) AS chain WHERE chain.of = id;"
    "UPDATE task SET last_call_id ="
    " coalesce((SELECT max(id) FROM call WHERE task_seq = task.seq), 0);"
    "DROP INDEX call_by_task;"
    "CREATE UNIQUE INDEX call_once ON call (call_id, task_seq) WHERE call_id IS NOT NULL;";

/* grade: tasks at rest that wait for the graders of their agent. grade_sum: what these said, by
 * the hour in which the task came to rest. graders: how many an agent's settings have. */
static const char graders[] =
    "ALTER TABLE agent ADD COLUMN graders INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE task_score ADD COLUMN weight REAL NOT NULL DEFAULT 1;"
    "CREATE TABLE grade (task_seq INTEGER PRIMARY KEY) STRICT;"
    "CREATE TABLE grade_sum ("
    " hour_ms INTEGER NOT NULL, agent TEXT NOT NULL, version_id TEXT NOT NULL,"
    " grader TEXT NOT NULL, scored INTEGER NOT NULL, score_sum REAL NOT NULL,"
    " failed INTEGER NOT NULL, PRIMARY KEY (hour_ms, agent, version_id, grader)"
    ") STRICT, WITHOUT ROWID;";

/* judged: 1: waits for its judges; 2: these have answered. judging: judge_store.h. */
static const char judges[] =
    "ALTER TABLE agent ADD COLUMN judges INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE grade ADD COLUMN judged INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE grade_sum ADD COLUMN held INTEGER NOT NULL DEFAULT 0;"
    "CREATE TABLE judging ("
    " of INTEGER NOT NULL, grader TEXT NOT NULL, state INTEGER NOT NULL, judge_id BLOB,"
    " tries INTEGER NOT NULL, asked_at_ms INTEGER NOT NULL, value REAL, comment TEXT,"
    " PRIMARY KEY (of, grader)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE INDEX judging_open ON judging (asked_at_ms) WHERE state = 0;";

/* shadow_of: the production task that this one repeats, unseen (shadow_no_twin: none in
 * particular); such tasks stand in lines of their own. shadow_pair: what became of a production
 * task that was chosen (logic/shadow.h); self: it is repeated with its own version. */
static const char shadows[] =
    "ALTER TABLE task ADD COLUMN shadow_of BLOB;"
    "CREATE INDEX task_ready_shadow ON task (ready_at_ms, seq) WHERE state = 0 AND gate = 4;"
    "CREATE INDEX task_shadows ON task (seq) WHERE shadow_of IS NOT NULL;"
    "ALTER TABLE tool_call ADD COLUMN mode TEXT;"
    "CREATE TABLE shadow_pair ("
    " rollout_seq INTEGER NOT NULL, task_seq INTEGER NOT NULL, self INTEGER NOT NULL,"
    " unit TEXT NOT NULL, state INTEGER NOT NULL DEFAULT 0, shadow_seq INTEGER NOT NULL DEFAULT 0,"
    " chosen_at_ms INTEGER NOT NULL, ended_at_ms INTEGER NOT NULL DEFAULT 0,"
    " differs INTEGER NOT NULL DEFAULT 0, path_differs INTEGER NOT NULL DEFAULT 0,"
    " PRIMARY KEY (rollout_seq, task_seq)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE UNIQUE INDEX shadow_pair_unit ON shadow_pair (rollout_seq, unit);"
    "CREATE INDEX shadow_pair_open ON shadow_pair (rollout_seq, task_seq) WHERE state < 2;"
    "CREATE INDEX shadow_pair_of ON shadow_pair (shadow_seq) WHERE shadow_seq > 0;"
    "CREATE TABLE shadow_evidence ("
    " rollout_seq INTEGER PRIMARY KEY, bytes BLOB NOT NULL"
    ") STRICT;";

/* anchor_store.h; of a judging: the negative id of a run. bytes: logic/anchor.h. */
static const char anchors[] =
    "CREATE TABLE anchor_run ("
    " id INTEGER PRIMARY KEY, agent TEXT NOT NULL, grader TEXT NOT NULL,"
    " judge_version TEXT NOT NULL, key INTEGER NOT NULL, day_ms INTEGER NOT NULL,"
    " state INTEGER NOT NULL, UNIQUE (agent, grader, day_ms)"
    ") STRICT;"
    "CREATE INDEX anchor_run_asked ON anchor_run (id) WHERE state = 1;"
    "CREATE TABLE anchor_chart ("
    " agent TEXT NOT NULL, grader TEXT NOT NULL, bytes BLOB NOT NULL,"
    " PRIMARY KEY (agent, grader)"
    ") STRICT, WITHOUT ROWID;";

/* arm may change later, what its first task counts for does not. */
static const char first_arms[] =
    "ALTER TABLE rollout_unit ADD COLUMN first_arm INTEGER NOT NULL DEFAULT 0;"
    "UPDATE rollout_unit SET first_arm = arm WHERE arm <> 0;";

/* A judge that was to tell its quality did not: score_store.h. */
static const char unjudged[] = "ALTER TABLE task ADD COLUMN unjudged INTEGER NOT NULL DEFAULT 0;";

/* stopping: the pair is dropped, and its shadow, which had not ended, has still to be stopped. */
static const char shadows_stopping[] =
    "ALTER TABLE shadow_pair ADD COLUMN stopping INTEGER NOT NULL DEFAULT 0;"
    "CREATE INDEX shadow_pair_stopping ON shadow_pair (rollout_seq, task_seq) WHERE stopping = 1;";

/* A budget that is new finds there what was spent before: calls go with their tasks. What was
 * charged for calls that are gone already is not known: what they reported. */
static const char spend_charged[] =
    "ALTER TABLE spend ADD COLUMN charged_tokens INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE spend ADD COLUMN shadow_nusd INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE spend ADD COLUMN shadow_tokens INTEGER NOT NULL DEFAULT 0;"
    "UPDATE spend SET charged_tokens = plus(input_tokens, output_tokens);"
    "INSERT INTO spend SELECT c.at_ms - c.at_ms % 3600000, coalesce(t.agent, a.agent, ''),"
    " coalesce(t.version_id, ''),"
    " CASE WHEN t.shadow_of IS NULL THEN coalesce(t.user_id, a.user_id, '') ELSE '' END,"
    " CASE WHEN t.shadow_of IS NULL THEN coalesce(t.tenant_id, a.tenant_id, '') ELSE '' END,"
    " c.model, c.provider, 0, 0, 0, 0, 0, total_of(c.charged_tokens),"
    " total_of(iif(t.shadow_of IS NULL, 0, c.cost_nusd)),"
    " total_of(iif(t.shadow_of IS NULL, 0, c.charged_tokens))"
    " FROM call c LEFT JOIN task t ON t.seq = c.task_seq LEFT JOIN account a ON a.seq = c.task_seq"
    " WHERE c.replayed = 0 GROUP BY 1, 2, 3, 4, 5, 6, 7"
    " ON CONFLICT DO UPDATE SET charged_tokens = max(charged_tokens, excluded.charged_tokens),"
    " shadow_nusd = excluded.shadow_nusd, shadow_tokens = excluded.shadow_tokens;";

/* How long attempts that have ended ran: secondsPerTask is one for all of them. */
static const char ran[] =
    "ALTER TABLE task ADD COLUMN ran_ms INTEGER NOT NULL DEFAULT 0;"
    "UPDATE task SET ran_ms = (SELECT total_of(max(0, finished_at_ms - started_at_ms))"
    " FROM attempt WHERE task_seq = seq AND finished_at_ms > 0) WHERE state IN (0, 1, 6);";

/* Tasks that wait, and whose time runs: they have been started before, or their parent has. */
static const char deadlines[] = "CREATE INDEX task_deadline ON task (deadline_at_ms)"
                                " WHERE state = 0 AND deadline_at_ms > 0;";

/* By step of the rollout: opened; and told that it alone is waited for. */
static const char gates[] =
    "ALTER TABLE rollout ADD COLUMN gates_open INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE rollout ADD COLUMN gates_asked INTEGER NOT NULL DEFAULT 0;";

/* Ticks after it that were told and decided the same, and the last of them. */
static const char equal_ticks[] =
    "ALTER TABLE rollout_tick ADD COLUMN again INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE rollout_tick ADD COLUMN last_ms INTEGER NOT NULL DEFAULT 0;"
    "UPDATE rollout_tick SET last_ms = at_ms;";

/* What a claim and a report put into indexes. Gates other than 0 are of queued tasks only, and the
 * indexes of those do not name the state. Running tasks are in one index. */
static const char slim_indexes[] =
    "UPDATE task SET gate = 0 WHERE gate <> 0 AND state <> 0;"
    "DROP INDEX task_later;"
    "DROP INDEX task_ready_shadow;"
    "DROP INDEX task_running_agent;"
    "DROP INDEX task_running;"
    "CREATE INDEX task_later ON task (lane, ready_at_ms, seq) WHERE gate IN (1, 2);"
    "CREATE INDEX task_ready_shadow ON task (ready_at_ms, seq) WHERE gate = 4;"
    "CREATE INDEX task_running ON task (worker_id, agent, seq) WHERE state = 1;";

/* Steps outlast the tasks that they began with. */
static const char step_limits[] =
    "ALTER TABLE rollout ADD COLUMN limit_ms INTEGER NOT NULL DEFAULT 0;";

/* What evidence is made of: how a unit was taken by a group of metrics. has: from bit 32 on those
 * of which a grader could not tell. */
static const char consumed[] =
    "CREATE TABLE rollout_consumed ("
    " rollout_seq INTEGER NOT NULL, eligible_ms INTEGER NOT NULL, task_seq INTEGER NOT NULL,"
    " evidence_group INTEGER NOT NULL, step INTEGER NOT NULL, fate INTEGER NOT NULL,"
    " told INTEGER NOT NULL, arm INTEGER NOT NULL, pi REAL NOT NULL, has INTEGER NOT NULL,"
    " harms BLOB NOT NULL, PRIMARY KEY (rollout_seq, eligible_ms, task_seq, evidence_group)"
    ") STRICT, WITHOUT ROWID;";

/* 0 tasks: there was no baseline, and these stood for it. */
static const char baselines[] =
    "ALTER TABLE rollout ADD COLUMN baseline_tasks INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE rollout ADD COLUMN baseline_since_ms INTEGER NOT NULL DEFAULT 0;"
    "UPDATE rollout SET baseline_tasks = 20 WHERE NOT (cost_cap_nusd = 500000000"
    " AND tokens_cap = 200000 AND latency_p95_ms = 600000 AND tool_calls_p95 = 40);";

/* What a task had come to when it first waited for a person. */
static const char asked[] =
    "CREATE TABLE task_asked ("
    " task_seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, started_at_ms INTEGER NOT NULL,"
    " ran_ms INTEGER NOT NULL, cost_nusd INTEGER NOT NULL, tokens INTEGER NOT NULL,"
    " tool_calls INTEGER NOT NULL, degraded_calls INTEGER NOT NULL"
    ") STRICT;"
    "INSERT INTO task_asked SELECT seq, coalesce((SELECT max(finished_at_ms) FROM attempt"
    " WHERE task_seq = seq), started_at_ms), started_at_ms, ran_ms, cost_nusd,"
    " input_tokens + output_tokens, tool_calls, degraded_calls FROM task WHERE seq IN"
    " (SELECT task_seq FROM escalation WHERE state = 0) AND state = 6;";

/* How long inputs are, so that drift can be told from another mix of them; -1: not known. */
static const char input_mix[] =
    "ALTER TABLE task ADD COLUMN input_bytes INTEGER NOT NULL DEFAULT -1;"
    "ALTER TABLE rollup_news ADD COLUMN input_bytes INTEGER NOT NULL DEFAULT -1;"
    "ALTER TABLE alarm ADD COLUMN cause TEXT;";

/* Open tasks of sessions that do not run one after another: what these keep must stay, too. */
static const char free_sessions[] =
    "CREATE INDEX task_session_free ON task (session_id, agent)"
    " WHERE session_max = 0 AND session_id IS NOT NULL AND state IN (0, 1, 6);";

/* The same of a task that had ended before it was tried again by hand: state is what it was. */
static const char resolved[] = "ALTER TABLE task_asked RENAME TO task_resolved;"
                               "ALTER TABLE task_resolved ADD COLUMN"
                               " state INTEGER NOT NULL DEFAULT 6;";

/* What is shown of evidence, and how far it reaches in each group. */
static const char intervals[] =
    "CREATE TABLE rollout_interval ("
    " rollout_seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, fast_ms INTEGER NOT NULL,"
    " fast_seq INTEGER NOT NULL, judged_ms INTEGER NOT NULL, judged_seq INTEGER NOT NULL,"
    " bytes BLOB NOT NULL"
    ") STRICT;";

/* By which a call is found in its agent's log and its provider's. */
static const char request_ids[] = "ALTER TABLE call ADD COLUMN request_id TEXT;"
                                  "ALTER TABLE call ADD COLUMN upstream_id TEXT;";

/* Whose earlier responses are, which a request may name. */
static const char response_ids[] =
    "ALTER TABLE call ADD COLUMN response_id TEXT;"
    "CREATE INDEX call_response ON call (response_id) WHERE response_id IS NOT NULL;";

/* A deadline that its client has given holds whatever the task does, also while it asks a
 * person. */
static const char client_deadlines[] =
    "ALTER TABLE task ADD COLUMN due_at_ms INTEGER NOT NULL DEFAULT 0;"
    "CREATE INDEX task_due ON task (due_at_ms) WHERE state = 6 AND due_at_ms > 0;";

/* Of logs that have outgrown their head: log_store.h. */
static const char log_tails[] =
    "CREATE TABLE task_log_tail ("
    " task_seq INTEGER PRIMARY KEY, attempt INTEGER NOT NULL, seq INTEGER NOT NULL,"
    " at_ms INTEGER NOT NULL, bytes INTEGER NOT NULL, left_out INTEGER NOT NULL,"
    " left_out_bytes INTEGER NOT NULL"
    ") STRICT;";

/* Of schedules: what a time is worth while the task of the last one goes on, and how long each task
 * may take. */
static const char overlaps[] =
    "ALTER TABLE schedule ADD COLUMN overlap INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE schedule ADD COLUMN task_ms INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE schedule ADD COLUMN skipped INTEGER NOT NULL DEFAULT 0;";

/* Ended without success: few among many, and found again by who tries them again. */
static const char dead_tasks[] = "CREATE INDEX task_dead ON task (seq) WHERE state IN (3, 4, 5);";

/* In which order calls of tools were recorded, and children of a task ended: what has happened to a
 * task is told from a place in each of its lists on. */
static const char task_news[] =
    "ALTER TABLE tool_call ADD COLUMN n INTEGER NOT NULL DEFAULT 0;"
    "UPDATE tool_call SET n = told.n FROM (SELECT task_seq, id, row_number() OVER"
    " (PARTITION BY task_seq ORDER BY id) AS n FROM tool_call) AS told"
    " WHERE told.task_seq = tool_call.task_seq AND told.id = tool_call.id;"
    "ALTER TABLE family ADD COLUMN ends INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE family ADD COLUMN end_n INTEGER NOT NULL DEFAULT 0;"
    "UPDATE family SET end_n = told.n FROM (SELECT task_seq, row_number() OVER"
    " (PARTITION BY parent_seq ORDER BY task_seq) AS n FROM family"
    " WHERE parent_seq > 0 AND open = 0) AS told WHERE told.task_seq = family.task_seq;"
    "UPDATE family SET ends = (SELECT count(*) FROM family AS child"
    " WHERE child.parent_seq > 0 AND child.parent_seq = family.task_seq AND child.open = 0);";

/* NULL: the server's. */
static const char schedule_zones[] = "ALTER TABLE schedule ADD COLUMN time_zone TEXT;";

/* Conditions that every write of a task weighs: a list of three is looked up in a table of its own
 * each time, which took a third of a claim and an end. */
static const char ranges[] =
    "DROP INDEX task_dead;"
    "DROP INDEX task_session;"
    "DROP INDEX task_session_free;"
    "CREATE INDEX task_dead ON task (seq) WHERE state BETWEEN 3 AND 5;"
    "CREATE INDEX task_session ON task"
    " (session_id, agent, coalesce(tenant_id, ''), gate, seq)"
    " WHERE session_max > 0 AND state NOT BETWEEN 2 AND 5;"
    "CREATE INDEX task_session_free ON task (session_id, agent)"
    " WHERE session_id IS NOT NULL AND session_max = 0 AND state NOT BETWEEN 2 AND 5;";

/* Sessions (0) and users (1) are their tenant's; rollouts that have ended are asked no more. */
static const char tenants_units[] =
    "UPDATE rollout_unit SET unit = (SELECT t.tenant_id FROM task t WHERE t.seq = task_seq)"
    " || char(10) || unit WHERE kind IN (0, 1)"
    " AND rollout_seq IN (SELECT seq FROM rollout WHERE state < 5)"
    " AND EXISTS (SELECT 1 FROM task t WHERE t.seq = task_seq AND t.tenant_id <> '');";

const Migration schema_steps[] = {
    { 1, "first schema", first_schema },
    { 2, "calls once", calls_once },
    { 3, "charged tokens", charged_tokens },
    { 4, "flags", flags },
    { 5, "journal", journal },
    { 6, "degraded calls", degraded_calls },
    { 7, "tool calls", tool_calls },
    { 8, "budgets", budgets },
    { 9, "prices", prices },
    { 10, "spend", spend },
    { 11, "cache purges", cache_purges },
    { 12, "journal rows", journal_rows },
    { 13, "rollouts", rollouts },
    { 14, "accounts", accounts },
    { 15, "webhook hosts", webhook_hosts },
    { 16, "rollups", rollups },
    { 17, "events", events },
    { 18, "calls index", calls_index },
    { 19, "sessions", sessions },
    { 20, "rollout units", rollout_units },
    { 21, "family", family },
    { 22, "lines", lines },
    { 23, "rollout checks", rollout_checks },
    { 24, "escalations", escalations },
    { 25, "journal by call", journal_by_call },
    { 26, "children of lines", children_of_lines },
    { 27, "drift", drift },
    { 28, "schedules", schedules },
    { 29, "rollup due", rollup_due },
    { 30, "tried tasks", tried_tasks },
    { 31, "serving", serving },
    { 32, "calls chain", calls_chain },
    { 33, "graders", graders },
    { 34, "judges", judges },
    { 35, "shadows", shadows },
    { 36, "anchors", anchors },
    { 37, "first arms", first_arms },
    { 38, "unjudged", unjudged },
    { 39, "shadows stopping", shadows_stopping },
    { 40, "spend charged", spend_charged },
    { 41, "ran", ran },
    { 42, "deadlines", deadlines },
    { 43, "gates", gates },
    { 44, "equal ticks", equal_ticks },
    { 45, "slim indexes", slim_indexes },
    { 46, "step limits", step_limits },
    { 47, "consumed", consumed },
    { 48, "baselines", baselines },
    { 49, "asked", asked },
    { 50, "input mix", input_mix },
    { 51, "free sessions", free_sessions },
    { 52, "resolved", resolved },
    { 53, "intervals", intervals },
    { 54, "request ids", request_ids },
    { 55, "client deadlines", client_deadlines },
    { 56, "log tails", log_tails },
    { 57, "overlaps", overlaps },
    { 58, "dead tasks", dead_tasks },
    { 59, "task news", task_news },
    { 60, "response ids", response_ids },
    { 61, "schedule zones", schedule_zones },
    { 62, "ranges", ranges },
    { 63, "tenants' units", tenants_units },
};
const size_t schema_steps_n = ARRAY_N(schema_steps);
