#include "store/task_store.h"

#include <math.h>

#include "base/diag.h"
#include "logic/attempt.h"
#include "store/line_store.h"
#include "store/row.h"
#include "store/task_sql.h"

#define STARTS_MAX 64 /* in a statement */
#define INSERTS_MAX 64

const Uuid shadow_no_twin = { { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                0xff, 0xff, 0xff, 0xff, 0xff } };

/* --- adding ----------------------------------------------------------------------------------- */

/* One statement for all rows given. */
static int given_run(DbStmt *stmt, const DbGiven *given, int64_t *ret_changed)
{
    db_bind_given(stmt, 1, given);
    int r = db_run(stmt, ret_changed);
    assert(r != DB_E_CONFLICT);
    return r;
}

#define INSERT_TASKS_SQL                                                  \
    "INSERT INTO task (state, id, lane, created_at_ms, ready_at_ms,"      \
    " time_limit_ms, agent, version_id, parent_id, session_id, user_id,"  \
    " tenant_id, webhook_url, traceparent, session_max, gate, shadow_of," \
    " input_bytes, deadline_at_ms, due_at_ms)"                            \
    " SELECT 0, c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11,"        \
    " c12, c13, c14, c15, c16, c17, c17 FROM given(?1)"
#define INSERT_PAYLOADS_SQL                                   \
    "INSERT INTO task_payload (seq, input, metadata, limits)" \
    " SELECT c0, c1, c2, c3 FROM given(?1)"
enum { INSERT_COLUMNS = 18, PAYLOAD_COLUMNS = 4 };

static void insert_cells(const TaskRow *row, Gate gate, DbCell cells[INSERT_COLUMNS])
{
    assert(!uuid_is_zero(row->id) && row->lane < LANE_N_ && row->version_id.len > 0);
    DbCell *c = cells;
    *c++ = cell_uuid(&row->id);
    *c++ = cell_i64((int64_t)row->lane);
    *c++ = cell_i64(row->created_at_ms);
    *c++ = cell_i64(row->ready_at_ms);
    *c++ = cell_i64(row->time_limit_ms);
    *c++ = cell_text(row->agent);
    *c++ = cell_text(row->version_id);
    *c++ = cell_uuid_or_null(&row->parent_id);
    *c++ = cell_text_or_null(row->session_id);
    *c++ = cell_text_or_null(row->user_id);
    *c++ = cell_text_or_null(row->tenant_id);
    *c++ = cell_text_or_null(row->webhook_url);
    *c++ = cell_text_or_null(row->traceparent);
    *c++ = cell_i64(row->session_max);
    *c++ = cell_i64((int64_t)gate);
    *c++ = cell_uuid_or_null(&row->shadow_of);
    *c++ = cell_i64((int64_t)row->input.len);
    *c++ = cell_i64(row->due_at_ms);
    assert(c == cells + INSERT_COLUMNS);
}

static int payloads_insert(Db *db, const TaskRow *rows, size_t n, int64_t seq)
{
    DbCell cells[INSERTS_MAX][PAYLOAD_COLUMNS];
    DbGiven given = { &cells[0][0], n, PAYLOAD_COLUMNS };
    for (size_t i = 0; i < n; i++) {
        cells[i][0] = cell_i64(seq + (int64_t)i);
        cells[i][1] = cell_text(rows[i].input);
        cells[i][2] = cell_text_or_null(rows[i].metadata);
        cells[i][3] = cell_text_or_null(rows[i].limits);
    }
    return given_run(db_stmt(db, INSERT_PAYLOADS_SQL), &given, NULL);
}

static int rows_insert(Db *db, const TaskRow *rows, size_t n, int64_t *ret_seq)
{
    DbCell cells[INSERTS_MAX][INSERT_COLUMNS];
    DbGiven given = { &cells[0][0], n, INSERT_COLUMNS };
    int64_t added = 0;
    for (size_t i = 0; i < n; i++) {
        Gate gate;
        assert(n == 1 || rows[i].session_max == 0);
        int r = gate_new(db, &rows[i], &gate);
        if (r != 0) return r;
        insert_cells(&rows[i], gate, cells[i]);
    }
    int r = given_run(db_stmt(db, INSERT_TASKS_SQL), &given, &added);
    if (r != 0) return r;
    assert(added == (int64_t)n);
    *ret_seq = db_last_insert_id(db) - (int64_t)n + 1;
    return payloads_insert(db, rows, n, *ret_seq);
}

int task_insert(Db *db, const TaskRow *row, int64_t *ret_seq)
{
    assert(row->session_max == 0 || !str_empty(row->session_id));
    return rows_insert(db, row, 1, ret_seq);
}

int task_insert_many(Db *db, const TaskRow *rows, size_t n, int64_t *seqs)
{
    int r = 0;
    for (size_t i = 0, some; i < n && r == 0; i += some) {
        some = MIN(n - i, INSERTS_MAX);
        r = rows_insert(db, rows + i, some, &seqs[i]);
        for (size_t k = 1; k < some && r == 0; k++) seqs[i + k] = seqs[i] + (int64_t)k;
    }
    return r;
}

/* --- heads ------------------------------------------------------------------------------------ */

static void head_read(RowOut *out, TaskHead *h)
{
    h->seq = out_i64(out);
    h->id = out_uuid(out);
    h->lane = (Lane)out_i64(out);
    h->state = (TaskState)out_i64(out);
    h->attempt = out_i64(out);
    h->failures = out_i64(out);
    h->losses = out_i64(out);
    h->fence = out_i64(out);
    h->started_at_ms = out_i64(out);
    h->time_limit_ms = out_i64(out);
    h->deadline_at_ms = out_i64(out);
    h->worker_id = out_uuid(out);
    h->cancel_requested = out_i64(out) != 0;
    h->has_webhook = out_i64(out) != 0;
    h->parent_id = out_uuid(out);
    h->children = out_i64(out);
    h->session_max = out_i64(out);
    h->shadow = out_i64(out) != 0;
    h->due_at_ms = out_i64(out);
    Str tenant = db_str(out->stmt, out->column++), agent = db_str(out->stmt, out->column++);
    h->tenant = fair_key(tenant);
    h->kind = fair_key_pair(tenant, agent);
    assert(h->lane < LANE_N_ && h->state < TASK_STATE_N_);
}

static int head_first(DbStmt *stmt, TaskHead *ret)
{
    int r = row_first(stmt);
    if (r != 0) return r;
    RowOut out = row_out(stmt, NULL);
    head_read(&out, ret);
    db_reset(stmt);
    return 0;
}

int task_head(Db *db, Uuid id, TaskHead *ret)
{
    RowIn in = row_in(db, "SELECT " TASK_HEAD_COLUMNS " FROM task WHERE id = ?1");
    in_uuid(&in, &id);
    return head_first(in.stmt, ret);
}

int task_head_by_seq(Db *db, int64_t seq, TaskHead *ret)
{
    RowIn in = row_in(db, "SELECT " TASK_HEAD_COLUMNS " FROM task WHERE seq = ?1");
    in_i64(&in, seq);
    return head_first(in.stmt, ret);
}

#define TASK_HEADS_SQL "SELECT " TASK_HEAD_COLUMNS " FROM given(?1) CROSS JOIN task WHERE id = c0"

int task_heads(Db *db, const Uuid *ids, size_t n, TaskHead *ret)
{
    DbCell cells[TASK_HEADS_MAX];
    DbGiven given = { cells, n, 1 };
    assert(n > 0 && n <= TASK_HEADS_MAX);
    for (size_t i = 0; i < n; i++) cells[i] = cell_uuid(&ids[i]);
    memset(ret, 0, n * sizeof *ret);
    DbStmt *s = db_stmt(db, TASK_HEADS_SQL);
    db_bind_given(s, 1, &given);
    int r;
    for (size_t i = 0; (r = db_step(s)) == DB_E_ROW; i++) {
        TaskHead head;
        RowOut out = row_out(s, NULL);
        head_read(&out, &head);
        while (!uuid_eq(ids[i], head.id)) i++; /* in the order of the ids; some are not there */
        ret[i] = head;
    }
    return r;
}

int task_heads_read(DbStmt *stmt, TaskHead *heads, size_t *n)
{
    size_t read = 0;
    int r = 0;
    while (read < *n && (r = db_step(stmt)) == DB_E_ROW) {
        RowOut out = row_out(stmt, NULL);
        head_read(&out, &heads[read++]);
    }
    db_reset(stmt);
    if (r < 0) return r;
    *n = read;
    return 0;
}

int task_running_of(Db *db, Uuid worker_id, int64_t after_seq, TaskHead *heads, size_t *n)
{
    RowIn in = row_in(db, TASK_RUNNING_OF_SQL);
    in_uuid(&in, &worker_id);
    in_i64(&in, after_seq);
    in_i64(&in, (int64_t)*n);
    return task_heads_read(in.stmt, heads, n);
}

int task_overdue(Db *db, int64_t ms, TaskHead *heads, size_t *n)
{
    RowIn in = row_in(db, TASK_OVERDUE_SQL);
    in_i64(&in, ms);
    in_i64(&in, (int64_t)*n);
    return task_heads_read(in.stmt, heads, n);
}

int task_late(Db *db, int64_t ms, int64_t *seqs, size_t *n)
{
    static const char *const late[] = { TASK_LATE_SQL, TASK_LATE_ASKING_SQL };
    size_t room = *n;
    *n = 0;
    for (size_t i = 0; i < ARRAY_N(late) && *n < room; i++) {
        int r;
        RowIn in = row_in(db, late[i]);
        in_i64(&in, ms);
        in_i64(&in, (int64_t)(room - *n));
        while ((r = db_step(in.stmt)) == DB_E_ROW) seqs[(*n)++] = db_i64(in.stmt, 0);
        db_reset(in.stmt);
        if (r < 0) return r;
    }
    return 0;
}

int task_move_deadlines(Db *db, int64_t ms)
{
    static const char *const moves[] = { TASK_MOVE_RUNNING_SQL, TASK_MOVE_WAITING_SQL,
                                         TASK_MOVE_ASKING_SQL, TASK_MOVE_LATER_SQL };
    int r = 0;
    for (size_t i = 0; i < ARRAY_N(moves) && r == 0; i++) {
        DbStmt *s = db_stmt(db, moves[i]);
        db_bind_i64(s, 1, ms);
        r = row_run(s);
    }
    return r;
}

/* --- claiming --------------------------------------------------------------------------------- */

#define FENCES_AHEAD 4096 /* reserved at a time: a write less for each claim */

static int fences_reserve(Db *db, int64_t count, DbReserve *ret)
{
    DbStmt *s = db_stmt(db, "UPDATE counter SET value = value + ?1 WHERE name = 'fence'"
                            " RETURNING value");
    db_bind_i64(s, 1, count);
    int r = row_first(s);
    assert(r != -ENOENT);
    if (r != 0) return r;
    int64_t last = db_i64(s, 0);
    r = row_run(s); /* to its end: only then is the change made for certain */
    if (r == 0) *ret = (DbReserve){ last - count + 1, last + 1 };
    return r;
}

int fence_take(Db *db, int64_t count, int64_t *ret_last)
{
    assert(count > 0);
    DbReserve *fences = db_fences(db);
    int r = fences->end - fences->next >= count
                ? 0
                : fences_reserve(db, MAX(count, FENCES_AHEAD), fences);
    if (r != 0) return r;
    fences->next += count;
    *ret_last = fences->next - 1;
    return 0;
}

int fence_last(Db *db, int64_t *ret)
{
    const DbReserve *fences = db_fences(db);
    *ret = fences->next - 1;
    if (fences->end > 0) return 0;
    DbStmt *s = db_stmt(db, "SELECT value FROM counter WHERE name = 'fence'");
    int r = row_first(s);
    assert(r != -ENOENT);
    if (r != 0) return r;
    *ret = db_i64(s, 0);
    db_reset(s);
    return 0;
}

void task_start(Task *task, Uuid worker_id, int64_t fence, int64_t now_ms)
{
    assert(task->state == TASK_QUEUED && !uuid_is_zero(worker_id) && fence > task->fence);
    assert(task->deadline_at_ms == 0 || task->deadline_at_ms > now_ms);
    task->deadline_at_ms = attempt_deadline_ms(task->attempt, task->deadline_at_ms, task->due_at_ms,
                                               task->time_limit_ms, now_ms);
    task->state = TASK_RUNNING;
    task->attempt++;
    task->fence = fence;
    task->worker_id = worker_id;
    task->started_at_ms = now_ms;
}

int task_of_row(const TaskRow *row, Arena *arena, Task *ret)
{
    *ret = (Task){ .id = row->id,
                   .lane = row->lane,
                   .created_at_ms = row->created_at_ms,
                   .ready_at_ms = row->ready_at_ms,
                   .time_limit_ms = row->time_limit_ms,
                   .deadline_at_ms = row->due_at_ms,
                   .due_at_ms = row->due_at_ms,
                   .quality = (double)NAN };
    const struct {
        Str *to, from;
    } texts[] = {
        { &ret->agent, row->agent },           { &ret->version_id, row->version_id },
        { &ret->session_id, row->session_id }, { &ret->user_id, row->user_id },
        { &ret->tenant_id, row->tenant_id },   { &ret->traceparent, row->traceparent },
        { &ret->input, row->input },           { &ret->metadata, row->metadata },
        { &ret->limits, row->limits },
    };
    for (size_t i = 0; i < ARRAY_N(texts); i++) {
        *texts[i].to = arena_str(arena, texts[i].from);
        if (!texts[i].to->ptr) return diag_set(-ENOMEM, "no memory for a task");
    }
    return 0;
}

/* Inserted as queued it would go into task_ready and out of it again. */
#define INSERT_STARTED_SQL                                                 \
    "INSERT INTO task (state, gate, session_max, id, lane, created_at_ms," \
    " ready_at_ms, time_limit_ms, agent, version_id, user_id, tenant_id,"  \
    " webhook_url, traceparent, input_bytes, due_at_ms, deadline_at_ms,"   \
    " attempt, worker_id, fence, started_at_ms)"                           \
    " VALUES (1, 0, 0, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12," \
    " ?13, ?14, ?15, ?16, ?17, ?18)"

int task_insert_started(Db *db, const TaskRow *row, Task *task)
{
    assert(task->state == TASK_RUNNING && row->version_id.len > 0);
    assert(str_empty(row->session_id) && uuid_is_zero(row->parent_id));
    assert(uuid_is_zero(row->shadow_of) && row->ready_at_ms <= row->created_at_ms);
    RowIn in = row_in(db, INSERT_STARTED_SQL);
    in_uuid(&in, &row->id);
    in_i64(&in, (int64_t)row->lane);
    in_i64(&in, row->created_at_ms);
    in_i64(&in, row->ready_at_ms);
    in_i64(&in, row->time_limit_ms);
    in_text(&in, row->agent);
    in_text(&in, row->version_id);
    in_text_or_null(&in, row->user_id);
    in_text_or_null(&in, row->tenant_id);
    in_text_or_null(&in, row->webhook_url);
    in_text_or_null(&in, row->traceparent);
    in_i64(&in, (int64_t)row->input.len);
    in_i64(&in, row->due_at_ms);
    in_i64(&in, task->deadline_at_ms);
    in_i64(&in, task->attempt);
    in_uuid(&in, &task->worker_id);
    in_i64(&in, task->fence);
    in_i64(&in, task->started_at_ms);
    int r = row_change(in.stmt);
    if (r != 0) return r;
    task->seq = db_last_insert_id(db);
    return payloads_insert(db, row, 1, task->seq);
}

/* One that is open keeps its gate: the indexes of other gates are not looked at for it. */
#define START_SQL                                                          \
    "UPDATE task SET state = 1, attempt = ?2, worker_id = ?3, fence = ?4," \
    " started_at_ms = ?5, deadline_at_ms = ?6"
#define START_WHERE " WHERE seq = ?1 AND state = 0"
#define START_ROWS_SQL                                         \
    "UPDATE task SET state = 1, attempt = c1, worker_id = c2," \
    " fence = c3, started_at_ms = c4, deadline_at_ms = c5"     \
    " FROM given(?1) WHERE seq = c0 AND +state = 0 AND +gate = 0"
enum { START_COLUMNS = 6 };

static int start_row(const Task *task, RowIn in)
{
    in_i64(&in, task->seq);
    in_i64(&in, task->attempt);
    in_uuid(&in, &task->worker_id);
    in_i64(&in, task->fence);
    in_i64(&in, task->started_at_ms);
    in_i64(&in, task->deadline_at_ms);
    return row_change(in.stmt);
}

static int start_one(Db *db, const Task *task)
{
    int r = start_row(task, row_in(db, START_SQL START_WHERE " AND gate = 0"));
    return r == -ENOENT ? start_row(task, row_in(db, START_SQL ", gate = 0" START_WHERE)) : r;
}

static int start_rows(Db *db, const Task *tasks, size_t n)
{
    DbCell cells[STARTS_MAX][START_COLUMNS];
    DbGiven given = { &cells[0][0], n, START_COLUMNS };
    int64_t changed = 0;
    for (size_t i = 0; i < n; i++) {
        const Task *task = &tasks[i];
        cells[i][0] = cell_i64(task->seq);
        cells[i][1] = cell_i64(task->attempt);
        cells[i][2] = cell_uuid(&task->worker_id);
        cells[i][3] = cell_i64(task->fence);
        cells[i][4] = cell_i64(task->started_at_ms);
        cells[i][5] = cell_i64(task->deadline_at_ms);
    }
    int r = given_run(db_stmt(db, START_ROWS_SQL), &given, &changed);
    assert(r != 0 || changed == (int64_t)n);
    return r;
}

int task_started(Db *db, const Task *tasks, size_t n)
{
    int r = 0;
    for (size_t i = 0, some; i < n && r == 0; i += some) {
        some = MIN(n - i, STARTS_MAX);
        r = some == 1 ? start_one(db, &tasks[i]) : start_rows(db, &tasks[i], some);
    }
    return r;
}

/* --- ending ----------------------------------------------------------------------------------- */

/* The row is written once, when the attempt has ended: while it goes on its task's row says the
 * same. (One that an older program has started is there already.) */
static int attempt_put(Db *db, const TaskHead *head, const TaskEnd *end)
{
    RowIn in = row_in(db, "INSERT INTO attempt (task_seq, attempt, fence, worker_id, started_at_ms,"
                          " finished_at_ms, outcome, error_code, error_detail, sandbox)"
                          " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
                          " ON CONFLICT (task_seq, attempt) DO UPDATE SET"
                          " finished_at_ms = excluded.finished_at_ms, outcome = excluded.outcome,"
                          " error_code = excluded.error_code, error_detail = excluded.error_detail,"
                          " sandbox = excluded.sandbox");
    in_i64(&in, head->seq);
    in_i64(&in, head->attempt);
    in_i64(&in, head->fence);
    in_uuid(&in, &head->worker_id);
    in_i64(&in, head->started_at_ms);
    in_i64(&in, end->now_ms);
    in_text(&in, str_of(task_outcome_name(end->outcome)));
    in_text_or_null(&in, end->error_code);
    in_text_or_null(&in, end->error_detail);
    in_text_or_null(&in, end->sandbox);
    return row_run(in.stmt);
}

static int result_put(Db *db, int64_t seq, Str result)
{
    RowIn in = row_in(db, "INSERT INTO task_result (seq, result) VALUES (?1, ?2)"
                          " ON CONFLICT (seq) DO UPDATE SET result = excluded.result");
    in_i64(&in, seq);
    in_text(&in, result);
    return row_run(in.stmt);
}

/* An attempt that is lost ran no longer than its worker was heard of. */
#define HEARD_MS "(SELECT heartbeat_at_ms FROM worker WHERE id = worker_id)"
#define RAN_MS "max(0, min(?11, iif(?12, coalesce(" HEARD_MS ", ?11), ?11)) - started_at_ms)"

#define END_SQL                                                 \
    "UPDATE task SET state = ?2, failures = ?3, losses = ?4,"   \
    " finished_at_ms = ?5, error_code = ?6, error_detail = ?7," \
    " stopped_by = coalesce(?8, stopped_by),"                   \
    " escalations = escalations + (?2 = 6), fingerprint = ?9,"  \
    " tools = ?10, ran_ms = ran_ms + " RAN_MS
#define END_WHERE " WHERE seq = ?1 AND state = 1"

/* Who comes to rest keeps its gate: the indexes of waiting tasks are not looked at for it. */
static int task_end_row(Db *db, const TaskHead *head, const TaskEnd *end)
{
    TaskState state = end->next.state;
    bool again = state == TASK_QUEUED;
    RowIn in = again ? row_in(db, END_SQL ", ready_at_ms = ?13, gate = " GATE_OF("?14") END_WHERE)
                     : row_in(db, END_SQL END_WHERE);
    in_i64(&in, head->seq);
    in_i64(&in, (int64_t)state);
    in_i64(&in, end->next.failures);
    in_i64(&in, end->next.losses);
    in_i64(&in, task_state_ended(state) ? end->now_ms : 0);
    in_text_or_null(&in, again ? STR_NULL : end->error_code);
    in_text_or_null(&in, again ? STR_NULL : end->error_detail);
    in_text_or_null(&in, again ? STR_NULL : end->stopped_by);
    if (end->conduct.known) in_i64(&in, (int64_t)end->conduct.fingerprint);
    else db_bind_null(in.stmt, in.index++);
    in_text_or_null(&in, end->conduct.tools);
    in_i64(&in, end->now_ms);
    in_i64(&in, end->outcome == TASK_OUTCOME_LOST);
    if (again) {
        in_i64(&in, end->next.ready_at_ms);
        in_i64(&in, (int64_t)gate_of_retry(end->next.ready_at_ms > end->now_ms));
    }
    return row_change(in.stmt);
}

/* What it came to when it was resolved for the first time: what it does once it is answered, or
 * tried again by hand, is another matter. */
static int resolved_put(Db *db, int64_t seq, int64_t now_ms)
{
    RowIn in = row_in(db, "INSERT OR IGNORE INTO task_resolved (task_seq, at_ms, started_at_ms,"
                          " ran_ms, cost_nusd, tokens, tool_calls, degraded_calls, state)"
                          " SELECT seq, iif(finished_at_ms > 0, finished_at_ms, ?2), started_at_ms,"
                          " ran_ms, cost_nusd, input_tokens + output_tokens, tool_calls,"
                          " degraded_calls, state FROM task WHERE seq = ?1");
    in_i64(&in, seq);
    in_i64(&in, now_ms);
    return row_run(in.stmt);
}

int task_end(Db *db, const TaskHead *head, const TaskEnd *end)
{
    assert(head->state == TASK_RUNNING && task_state_may(TASK_RUNNING, end->next.state));
    int r = task_end_row(db, head, end);
    if (r == 0) r = attempt_put(db, head, end);
    if (r == 0) r = task_add_usage(db, head->seq, &end->usage);
    if (r == 0 && end->next.state != TASK_QUEUED && !str_empty(end->result))
        r = result_put(db, head->seq, end->result);
    if (r == 0 && end->next.state == TASK_ESCALATED) r = resolved_put(db, head->seq, end->now_ms);
    assert(r != -ENOENT);
    return r;
}

/* Many at a time: columns of the rows given. */
enum {
    ENDING_SEQ,
    ENDING_STATE,
    ENDING_FAILURES,
    ENDING_LOSSES,
    ENDING_AT_MS,
    ENDING_ERROR_CODE,
    ENDING_ERROR_DETAIL,
    ENDING_STOPPED_BY,
    ENDING_FINGERPRINT,
    ENDING_TOOLS,
    ENDING_ATTEMPT,
    ENDING_FENCE,
    ENDING_WORKER,
    ENDING_STARTED_MS,
    ENDING_OUTCOME,
    ENDING_SANDBOX,
    ENDING_RESULT,
    ENDING_N_
};

static void ending_cells(const TaskEnding *e, DbCell cells[ENDING_N_])
{
    const TaskHead *head = &e->head;
    const TaskEnd *end = &e->end;
    cells[ENDING_SEQ] = cell_i64(head->seq);
    cells[ENDING_STATE] = cell_i64((int64_t)end->next.state);
    cells[ENDING_FAILURES] = cell_i64(end->next.failures);
    cells[ENDING_LOSSES] = cell_i64(end->next.losses);
    cells[ENDING_AT_MS] = cell_i64(end->now_ms);
    cells[ENDING_ERROR_CODE] = cell_text_or_null(end->error_code);
    cells[ENDING_ERROR_DETAIL] = cell_text_or_null(end->error_detail);
    cells[ENDING_STOPPED_BY] = cell_text_or_null(end->stopped_by);
    cells[ENDING_FINGERPRINT] = (DbCell){ .kind = DB_CELL_NULL };
    if (end->conduct.known) cells[ENDING_FINGERPRINT] = cell_i64((int64_t)end->conduct.fingerprint);
    cells[ENDING_TOOLS] = cell_text_or_null(end->conduct.tools);
    cells[ENDING_ATTEMPT] = cell_i64(head->attempt);
    cells[ENDING_FENCE] = cell_i64(head->fence);
    cells[ENDING_WORKER] = cell_uuid(&head->worker_id);
    cells[ENDING_STARTED_MS] = cell_i64(head->started_at_ms);
    cells[ENDING_OUTCOME] = cell_text_or_null(str_of(task_outcome_name(end->outcome)));
    cells[ENDING_SANDBOX] = cell_text_or_null(end->sandbox);
    cells[ENDING_RESULT] = cell_text_or_null(end->result);
}

/* As task_end_row, attempt_put and result_put; "+": by the rows given, not by another index. */
#define END_ROWS_SQL                                                        \
    "UPDATE task SET state = c1, failures = c2, losses = c3,"               \
    " finished_at_ms = c4, error_code = c5, error_detail = c6,"             \
    " stopped_by = coalesce(c7, stopped_by), fingerprint = c8, tools = c9," \
    " ran_ms = ran_ms + max(0, c4 - started_at_ms)"                         \
    " FROM given(?1) WHERE seq = c0 AND +state = 1"
#define PUT_ATTEMPTS_SQL                                                             \
    "INSERT INTO attempt (task_seq, attempt, fence, worker_id, started_at_ms,"       \
    " finished_at_ms, outcome, error_code, error_detail, sandbox)"                   \
    " SELECT c0, c10, c11, c12, c13, c4, c14, c5, c6, c15 FROM given(?1) WHERE true" \
    " ON CONFLICT (task_seq, attempt) DO UPDATE SET"                                 \
    " finished_at_ms = excluded.finished_at_ms, outcome = excluded.outcome,"         \
    " error_code = excluded.error_code, error_detail = excluded.error_detail,"       \
    " sandbox = excluded.sandbox"
#define PUT_RESULTS_SQL                                    \
    "INSERT INTO task_result (seq, result)"                \
    " SELECT c0, c16 FROM given(?1) WHERE c16 IS NOT NULL" \
    " ON CONFLICT (seq) DO UPDATE SET result = excluded.result"

int task_end_many(Db *db, const TaskEnding *endings, size_t n)
{
    DbCell cells[TASK_ENDINGS_MAX][ENDING_N_];
    int64_t changed = 0;
    assert(n > 0 && n <= TASK_ENDINGS_MAX);
    for (size_t i = 0; i < n; i++) {
        const TaskEnd *end = &endings[i].end;
        assert(task_state_ended(end->next.state) && end->outcome != TASK_OUTCOME_LOST);
        ending_cells(&endings[i], cells[i]);
    }
    DbGiven given = { &cells[0][0], n, ENDING_N_ };
    int r = given_run(db_stmt(db, END_ROWS_SQL), &given, &changed);
    assert(r != 0 || changed == (int64_t)n);
    if (r == 0) r = given_run(db_stmt(db, PUT_ATTEMPTS_SQL), &given, NULL);
    if (r == 0) r = given_run(db_stmt(db, PUT_RESULTS_SQL), &given, NULL);
    for (size_t i = 0; i < n && r == 0; i++)
        r = task_add_usage(db, endings[i].head.seq, &endings[i].end.usage);
    return r;
}

int task_stop(Db *db, int64_t seq, TaskState state, Str error_code, Str stopped_by, int64_t now_ms)
{
    assert(task_state_ended(state));
    RowIn in = row_in(db, "UPDATE task SET state = ?2, gate = 0, finished_at_ms = ?3,"
                          " error_code = ?4, error_detail = NULL, stopped_by = ?5"
                          " WHERE seq = ?1 AND state IN (0, 6)");
    in_i64(&in, seq);
    in_i64(&in, (int64_t)state);
    in_i64(&in, now_ms);
    in_text_or_null(&in, error_code);
    in_text_or_null(&in, stopped_by);
    return row_change(in.stmt);
}

int task_count_escalation(Db *db, int64_t seq)
{
    DbStmt *s = db_stmt(db, "UPDATE task SET escalations = escalations + 1 WHERE seq = ?1");
    db_bind_i64(s, 1, seq);
    return row_change(s);
}

int task_request_cancel(Db *db, int64_t seq, Str stopped_by)
{
    RowIn in = row_in(db, "UPDATE task SET cancel_requested = 1,"
                          " stopped_by = coalesce(stopped_by, ?2) WHERE seq = ?1 AND state = 1");
    in_i64(&in, seq);
    in_text_or_null(&in, stopped_by);
    return row_change(in.stmt);
}

int task_resume(Db *db, int64_t seq, int64_t now_ms)
{
    Gate gate;
    int r = gate_again(db, seq, &gate);
    if (r != 0) return r;
    DbStmt *s = db_stmt(
        db,
        "UPDATE task SET state = 0, gate = " GATE_OF(
            "?3") ", ready_at_ms = ?2, error_code = NULL,"
                  " error_detail = NULL, stopped_by = NULL, deadline_at_ms ="
                  " CASE WHEN deadline_at_ms = 0 THEN 0 ELSE min(max(1, deadline_at_ms + ?2 -"
                  " coalesce((SELECT a.finished_at_ms FROM attempt AS a WHERE a.task_seq = task.seq"
                  " AND a.attempt = task.attempt), ?2)),"
                  " coalesce(nullif(due_at_ms, 0), 9223372036854775807)) END"
                  " WHERE seq = ?1 AND state = 6");
    db_bind_i64(s, 1, seq);
    db_bind_i64(s, 2, now_ms);
    db_bind_i64(s, 3, (int64_t)gate);
    return row_change(s);
}

int task_restart(Db *db, int64_t seq, int64_t now_ms)
{
    Gate gate;
    int r = gate_again(db, seq, &gate);
    if (r == 0) r = resolved_put(db, seq, now_ms);
    if (r != 0) return r;
    DbStmt *s = db_stmt(
        db, "UPDATE task SET state = 0, gate = " GATE_OF(
                "?3") ", ready_at_ms = ?2, failures = 0, losses = 0,"
                      " deadline_at_ms = iif(due_at_ms > ?2, due_at_ms, 0),"
                      " due_at_ms = iif(due_at_ms > ?2, due_at_ms, 0),"
                      " cancel_requested = 0, finished_at_ms = 0,"
                      " error_code = NULL, error_detail = NULL, stopped_by = NULL,"
                      " quality = NULL, fingerprint = NULL, tools = NULL, escalations = 0,"
                      " ran_ms = 0, fence = 0"
                      " WHERE seq = ?1 AND state >= 2");
    db_bind_i64(s, 1, seq);
    db_bind_i64(s, 2, now_ms);
    db_bind_i64(s, 3, (int64_t)gate);
    r = row_change(s);
    if (r != 0) return r;
    s = db_stmt(db, "DELETE FROM task_result WHERE seq = ?1");
    db_bind_i64(s, 1, seq);
    return row_run(s);
}

/* --- figures ---------------------------------------------------------------------------------- */

static int running_counts(Db *db, int64_t ret[LANE_N_])
{
    DbStmt *s = db_stmt(db, TASK_RUNNING_COUNT_SQL);
    int r;
    while ((r = db_step(s)) == DB_E_ROW) {
        assert(db_i64(s, 0) >= 0 && db_i64(s, 0) < LANE_N_);
        ret[db_i64(s, 0)] = db_i64(s, 1);
    }
    return r;
}

int task_counts(Db *db, int64_t ret_queued[LANE_N_], int64_t ret_running[LANE_N_])
{
    for (int lane = 0; lane < LANE_N_; lane++) {
        DbStmt *s = db_stmt(db, TASK_QUEUED_COUNT_SQL);
        db_bind_i64(s, 1, lane);
        int r = row_first(s);
        if (r != 0) return r;
        ret_queued[lane] = db_i64(s, 0);
        db_reset(s);
        ret_running[lane] = 0;
    }
    return running_counts(db, ret_running);
}

/* --- during a run ----------------------------------------------------------------------------- */

#define ADD_USAGE_SQL                                                                    \
    "UPDATE task SET input_tokens = plus(input_tokens, ?2),"                             \
    " output_tokens = plus(output_tokens, ?3), cached_tokens = plus(cached_tokens, ?4)," \
    " llm_calls = plus(llm_calls, ?5), tool_calls = plus(tool_calls, ?6),"               \
    " replayed_calls = replayed_calls + ?7, cost_nusd = plus(cost_nusd, ?8),"            \
    " charged_tokens = plus(charged_tokens, ?9), cached_calls = cached_calls + ?10,"     \
    " degraded_calls = degraded_calls + ?11"

static RowIn usage_in(DbStmt *stmt, int64_t seq, const TaskUsage *u)
{
    RowIn in = { .stmt = stmt, .index = 1 };
    in_i64(&in, seq);
    in_i64(&in, u->input_tokens);
    in_i64(&in, u->output_tokens);
    in_i64(&in, u->cached_tokens);
    in_i64(&in, u->llm_calls);
    in_i64(&in, u->tool_calls);
    in_i64(&in, u->replayed_calls);
    in_i64(&in, u->cost_nusd);
    in_i64(&in, u->charged_tokens);
    in_i64(&in, u->cached_calls);
    in_i64(&in, u->degraded_calls);
    return in;
}

int task_add_usage(Db *db, int64_t seq, const TaskUsage *u)
{
    int64_t any = u->input_tokens | u->output_tokens | u->cached_tokens | u->llm_calls |
                  u->tool_calls | u->replayed_calls | u->cost_nusd | u->charged_tokens |
                  u->cached_calls | u->degraded_calls;
    if (any == 0) return 0;
    RowIn in = usage_in(db_stmt(db, ADD_USAGE_SQL " WHERE seq = ?1"), seq, u);
    return row_change(in.stmt);
}

int task_add_usage_held(Db *db, int64_t seq, int64_t fence, const TaskUsage *u,
                        const TaskCalls *was, const TaskCalls *is)
{
    RowIn in = usage_in(db_stmt(db, ADD_USAGE_SQL ", journal_n = ?12, journal_bytes = ?13,"
                                                  " journal_closed = ?14, last_call_id = ?19"
                                                  " WHERE seq = ?1 AND state = 1 AND fence = ?15"
                                                  " AND journal_n = ?16 AND journal_bytes = ?17"
                                                  " AND journal_closed = ?18"
                                                  " AND last_call_id = ?20"),
                        seq, u);
    in_i64(&in, is->journal.recordings);
    in_i64(&in, is->journal.bytes);
    in_i64(&in, is->journal.closed);
    in_i64(&in, fence);
    in_i64(&in, was->journal.recordings);
    in_i64(&in, was->journal.bytes);
    in_i64(&in, was->journal.closed);
    in_i64(&in, is->last_id);
    in_i64(&in, was->last_id);
    return row_change(in.stmt);
}

int task_facts(Db *db, Uuid id, int64_t fence, Arena *arena, TaskFacts *ret)
{
    RowIn in = row_in(
        db, "SELECT seq, attempt, agent, version_id, tenant_id, user_id, journal_n,"
            " journal_bytes, journal_closed, last_call_id, shadow_of IS NOT NULL,"
            " worker_id FROM task WHERE id = ?1 AND (?2 = 0 OR (state = 1 AND fence = ?2))");
    in_uuid(&in, &id);
    in_i64(&in, fence);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, arena);
    ret->seq = out_i64(&out);
    ret->attempt = out_i64(&out);
    ret->agent = out_text(&out);
    ret->version_id = out_text(&out);
    ret->tenant_id = out_text(&out);
    ret->user_id = out_text(&out);
    ret->journal.recordings = out_i64(&out);
    ret->journal.bytes = out_i64(&out);
    ret->journal.closed = out_i64(&out) != 0;
    ret->last_call_id = out_i64(&out);
    ret->shadow = out_i64(&out) != 0;
    ret->worker_id = out_uuid(&out);
    db_reset(in.stmt);
    return out.full ? -ENOMEM : 0;
}

int task_log_usage(Db *db, int64_t seq, int64_t *ret_bytes, int64_t *ret_dropped)
{
    DbStmt *s = db_stmt(db, "SELECT log_bytes, log_dropped FROM task WHERE seq = ?1");
    db_bind_i64(s, 1, seq);
    int r = row_first(s);
    if (r != 0) return r;
    *ret_bytes = db_i64(s, 0);
    *ret_dropped = db_i64(s, 1);
    db_reset(s);
    return 0;
}

int task_set_log_usage(Db *db, int64_t seq, int64_t bytes, int64_t dropped)
{
    assert(bytes >= 0 && dropped >= 0);
    DbStmt *s = db_stmt(db, "UPDATE task SET log_bytes = ?2, log_dropped = ?3 WHERE seq = ?1");
    db_bind_i64(s, 1, seq);
    db_bind_i64(s, 2, bytes);
    db_bind_i64(s, 3, dropped);
    return row_change(s);
}

int task_set_quality(Db *db, Uuid id, double quality)
{
    assert(isnan(quality) || (quality >= 0 && quality <= 1));
    DbStmt *s = db_stmt(db, "UPDATE task SET quality = ?1 WHERE id = ?2");
    db_bind_f64(s, 1, quality); /* NaN becomes NULL */
    db_bind_blob(s, 2, str_make((const char *)id.bytes, sizeof id.bytes));
    return row_change(s);
}
