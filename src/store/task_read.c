#include <math.h>

#include "store/row.h"
#include "store/task_sql.h"
#include "store/task_store.h"

/* Rows that a list looks at before it gives out what it has: bounds the time of one read. */
#define LIST_SCAN_MAX 10000

#define TASK_COLUMNS                                                             \
    "seq, id, state, lane, agent, version_id, attempt, failures, losses, fence," \
    " worker_id, parent_id, created_at_ms, ready_at_ms, started_at_ms,"          \
    " finished_at_ms, time_limit_ms, deadline_at_ms, cancel_requested,"          \
    " input_tokens, output_tokens, cached_tokens, llm_calls, tool_calls,"        \
    " replayed_calls, cost_nusd, charged_tokens, cached_calls, degraded_calls,"  \
    " quality, session_id, user_id, tenant_id, webhook_url, traceparent,"        \
    " error_code, error_detail, stopped_by, children, shadow_of,"                \
    " ran_ms, due_at_ms"
enum {
    COLUMN_SEQ,
    COLUMN_ID,
    COLUMN_STATE,
    COLUMN_LANE,
    COLUMN_AGENT,
    COLUMN_VERSION_ID,
    COLUMN_SHADOW_OF = 39,
};

/* --- one task --------------------------------------------------------------------------------- */

static void times_read(RowOut *out, Task *t)
{
    t->created_at_ms = out_i64(out);
    t->ready_at_ms = out_i64(out);
    t->started_at_ms = out_i64(out);
    t->finished_at_ms = out_i64(out);
    t->time_limit_ms = out_i64(out);
    t->deadline_at_ms = out_i64(out);
}

static void usage_read(RowOut *out, TaskUsage *u)
{
    u->input_tokens = out_i64(out);
    u->output_tokens = out_i64(out);
    u->cached_tokens = out_i64(out);
    u->llm_calls = out_i64(out);
    u->tool_calls = out_i64(out);
    u->replayed_calls = out_i64(out);
    u->cost_nusd = out_i64(out);
    u->charged_tokens = out_i64(out);
    u->cached_calls = out_i64(out);
    u->degraded_calls = out_i64(out);
}

static void task_read(RowOut *out, Task *t)
{
    t->seq = out_i64(out);
    t->id = out_uuid(out);
    t->state = (TaskState)out_i64(out);
    t->lane = (Lane)out_i64(out);
    t->agent = out_text(out);
    t->version_id = out_text(out);
    t->attempt = out_i64(out);
    t->failures = out_i64(out);
    t->losses = out_i64(out);
    t->fence = out_i64(out);
    t->worker_id = out_uuid(out);
    t->parent_id = out_uuid(out);
    times_read(out, t);
    t->cancel_requested = out_i64(out) != 0;
    usage_read(out, &t->usage);
    int quality = out->column++;
    t->quality = db_is_null(out->stmt, quality) ? (double)NAN : db_f64(out->stmt, quality);
    t->session_id = out_text(out);
    t->user_id = out_text(out);
    t->tenant_id = out_text(out);
    t->webhook_url = out_text(out);
    t->traceparent = out_text(out);
    t->error_code = out_text(out);
    t->error_detail = out_text(out);
    t->stopped_by = out_text(out);
    t->children = out_i64(out);
    t->shadow_of = out_uuid(out);
    t->ran_ms = out_i64(out);
    t->due_at_ms = out_i64(out);
}

static int payload_read(Db *db, Task *t, Arena *arena)
{
    DbStmt *s = db_stmt(db, "SELECT input, metadata, limits FROM task_payload WHERE seq = ?1");
    db_bind_i64(s, 1, t->seq);
    int r = row_first(s);
    if (r != 0) return r;
    RowOut out = row_out(s, arena);
    t->input = out_text(&out);
    t->metadata = out_text(&out);
    t->limits = out_text(&out);
    r = row_out_end(&out);
    db_reset(s);
    return r;
}

static int result_read(Db *db, Task *t, Arena *arena)
{
    DbStmt *s = db_stmt(db, "SELECT result FROM task_result WHERE seq = ?1");
    db_bind_i64(s, 1, t->seq);
    int r = row_first(s);
    if (r == -ENOENT) return 0;
    if (r != 0) return r;
    RowOut out = row_out(s, arena);
    t->result = out_text(&out);
    r = row_out_end(&out);
    db_reset(s);
    return r;
}

static int task_first(Db *db, DbStmt *stmt, unsigned parts, Arena *arena, Task *ret)
{
    int r = row_first(stmt);
    if (r != 0) return r;
    RowOut out = row_out(stmt, arena);
    Task task = { 0 };
    task_read(&out, &task);
    r = row_out_end(&out);
    db_reset(stmt);
    if (r == 0 && (parts & TASK_PART_PAYLOAD)) r = payload_read(db, &task, arena);
    if (r == 0 && (parts & TASK_PART_RESULT)) r = result_read(db, &task, arena);
    if (r == 0 && (parts & TASK_PART_QUESTION) && task.state == TASK_ESCALATED)
        r = escalation_pending(db, task.seq, arena, &task.question);
    if (r == -ENOENT) r = 0; /* escalated by other means */
    if (r != 0) return r;
    *ret = task;
    return 0;
}

int task_get(Db *db, Uuid id, unsigned parts, Arena *arena, Task *ret)
{
    RowIn in = row_in(db, "SELECT " TASK_COLUMNS " FROM task WHERE id = ?1");
    in_uuid(&in, &id);
    return task_first(db, in.stmt, parts, arena, ret);
}

int task_get_by_seq(Db *db, int64_t seq, unsigned parts, Arena *arena, Task *ret)
{
    RowIn in = row_in(db, "SELECT " TASK_COLUMNS " FROM task WHERE seq = ?1");
    in_i64(&in, seq);
    return task_first(db, in.stmt, parts, arena, ret);
}

/* What who starts a task wants to know: not how attempts before it failed, nor how it ended. The
 * payload's number is named apart, for both tables have a seq. */
#define TO_START_SQL                                                                 \
    "SELECT seq, id, state, lane, attempt, fence, created_at_ms, ready_at_ms,"       \
    " time_limit_ms, deadline_at_ms, cancel_requested, input_tokens, output_tokens," \
    " cached_tokens, llm_calls, tool_calls, replayed_calls, cost_nusd,"              \
    " charged_tokens, cached_calls, degraded_calls, agent, version_id, session_id,"  \
    " user_id, tenant_id, traceparent, shadow_of, ran_ms, due_at_ms, input,"         \
    " metadata, limits"                                                              \
    " FROM given(?1) CROSS JOIN task CROSS JOIN"                                     \
    " (SELECT seq AS of_seq, input, metadata, limits FROM task_payload)"             \
    " WHERE seq = c0 AND of_seq = c0"

static void to_start_read(RowOut *out, Task *t)
{
    t->seq = out_i64(out);
    t->id = out_uuid(out);
    t->state = (TaskState)out_i64(out);
    t->lane = (Lane)out_i64(out);
    t->attempt = out_i64(out);
    t->fence = out_i64(out);
    t->created_at_ms = out_i64(out);
    t->ready_at_ms = out_i64(out);
    t->time_limit_ms = out_i64(out);
    t->deadline_at_ms = out_i64(out);
    t->cancel_requested = out_i64(out) != 0;
    usage_read(out, &t->usage);
    t->agent = out_text(out);
    t->version_id = out_text(out);
    t->session_id = out_text(out);
    t->user_id = out_text(out);
    t->tenant_id = out_text(out);
    t->traceparent = out_text(out);
    t->shadow_of = out_uuid(out);
    t->ran_ms = out_i64(out);
    t->due_at_ms = out_i64(out);
    t->input = out_text(out);
    t->metadata = out_text(out);
    t->limits = out_text(out);
}

int tasks_to_start(Db *db, const int64_t *seqs, size_t *n, Arena *arena, Task *ret)
{
    DbCell cells[TASKS_TO_START_MAX];
    DbGiven given = { cells, *n, 1 };
    assert(*n > 0 && *n <= TASKS_TO_START_MAX);
    for (size_t i = 0; i < *n; i++) cells[i] = cell_i64(seqs[i]);
    DbStmt *s = db_stmt(db, TO_START_SQL);
    db_bind_given(s, 1, &given);
    size_t found = 0;
    int r;
    while ((r = db_step(s)) == DB_E_ROW) {
        RowOut out = row_out(s, arena);
        Task task = { .quality = (double)NAN };
        to_start_read(&out, &task);
        r = row_out_end(&out);
        if (r != 0 || task.seq != seqs[found]) break;
        ret[found++] = task;
    }
    db_reset(s);
    *n = found;
    if (found > 0 && r == -ENOMEM) return 0;
    return r == 0 && found == 0 ? -ENOENT : r;
}

/* --- lists ------------------------------------------------------------------------------------ */

/* The rows to look at, newest first, from the index that leaves out most. */
static RowIn list_rows(Db *db, const TaskFilter *f, int64_t below_seq)
{
    RowIn in;
    if (f->state == TASK_QUEUED)
        in = row_in(db, "SELECT " TASK_COLUMNS " FROM task WHERE seq IN (" TASK_LIST_QUEUED_SQL
                        ") ORDER BY seq DESC");
    else if (f->state == TASK_RUNNING)
        in = row_in(db, "SELECT " TASK_COLUMNS " FROM task WHERE seq IN (" TASK_LIST_RUNNING_SQL
                        ") ORDER BY seq DESC");
    else if (f->shadows)
        in = row_in(db, "SELECT " TASK_COLUMNS " FROM task INDEXED BY task_shadows"
                        " WHERE seq < ?1 AND shadow_of IS NOT NULL ORDER BY seq DESC LIMIT ?2");
    else if (!str_empty(f->version_id))
        in = row_in(db, "SELECT " TASK_COLUMNS " FROM task WHERE seq < ?1 AND version_id = ?3"
                        " ORDER BY seq DESC LIMIT ?2");
    else if (!str_empty(f->agent))
        in = row_in(db, "SELECT " TASK_COLUMNS " FROM task WHERE seq < ?1 AND agent = ?3"
                        " ORDER BY seq DESC LIMIT ?2");
    else
        in = row_in(db, "SELECT " TASK_COLUMNS " FROM task WHERE seq < ?1"
                        " ORDER BY seq DESC LIMIT ?2");
    in_i64(&in, below_seq);
    in_i64(&in, LIST_SCAN_MAX);
    if (f->state == TASK_QUEUED || f->state == TASK_RUNNING || f->shadows) return in;
    if (!str_empty(f->version_id)) in_text(&in, f->version_id);
    else if (!str_empty(f->agent)) in_text(&in, f->agent);
    return in;
}

static bool list_takes(const TaskFilter *f, DbStmt *row)
{
    return db_is_null(row, COLUMN_SHADOW_OF) != f->shadows &&
           (f->state < 0 || db_i64(row, COLUMN_STATE) == f->state) &&
           (f->lane < 0 || db_i64(row, COLUMN_LANE) == f->lane) &&
           (str_empty(f->agent) || str_eq(db_str(row, COLUMN_AGENT), f->agent)) &&
           (str_empty(f->version_id) || str_eq(db_str(row, COLUMN_VERSION_ID), f->version_id));
}

static int list_add(RowList *list, DbStmt *row)
{
    RowOut out = row_out(row, list->arena);
    Task *task = row_list_add(list);
    if (task) task_read(&out, task);
    else out.full = true;
    return row_out_end(&out);
}

int task_list(Db *db, const TaskFilter *filter, Arena *arena, TaskPage *ret)
{
    int64_t below = 0, seen = 0;
    int r = page_cursor_parse(filter->cursor, &below);
    if (r != 0) return r;
    RowList list = { .arena = arena, .max = page_rows(filter->limit), .size = sizeof(Task) };
    RowIn in = list_rows(db, filter, below);
    size_t scanned = 0;
    bool more = false;
    while ((r = db_step(in.stmt)) == DB_E_ROW) {
        more = list.n == list.max;
        if (more) break;
        scanned++;
        seen = db_i64(in.stmt, COLUMN_SEQ);
        if (!list_takes(filter, in.stmt)) continue;
        r = list_add(&list, in.stmt);
        if (r != 0) return r;
    }
    if (r < 0) return r;
    db_reset(in.stmt);
    *ret = (TaskPage){ .tasks = list.rows, .n = list.n };
    if (more || scanned == LIST_SCAN_MAX) ret->next = page_cursor_make(seen);
    return 0;
}

static bool dead_takes(const DeadFilter *f, DbStmt *row)
{
    int64_t state = db_i64(row, 1);
    if (f->state < 0 ? state == TASK_CANCELED : state != f->state) return false;
    if (f->lanes_not >> db_i64(row, 6) & 1) return false;
    return (str_empty(f->agent) || str_eq(db_str(row, 3), f->agent)) &&
           (str_empty(f->version_id) || str_eq(db_str(row, 4), f->version_id)) &&
           (str_empty(f->error_code) || str_eq(db_str(row, 5), f->error_code));
}

int task_dead(Db *db, const DeadFilter *filter, int64_t below_seq, size_t max, DeadTasks *ret)
{
    assert(max >= 1 && max <= DEAD_TASKS_MAX);
    RowIn in = row_in(db, TASK_DEAD_SQL);
    in_i64(&in, below_seq);
    in_i64(&in, DEAD_SCAN_MAX);
    int64_t scanned = 0, seen = 0;
    bool old = false;
    int r = DB_E_ROW;
    *ret = (DeadTasks){ .n = 0 };
    while (ret->n < max && !old && (r = db_step(in.stmt)) == DB_E_ROW) {
        scanned++;
        seen = db_i64(in.stmt, 0);
        old = db_i64(in.stmt, 2) < filter->since_ms; /* in order of submission */
        if (!old && dead_takes(filter, in.stmt)) ret->seqs[ret->n++] = seen;
    }
    bool cut = !old && scanned == DEAD_SCAN_MAX;
    if (r >= 0 && ret->n == max && !cut) cut = (r = db_step(in.stmt)) == DB_E_ROW;
    db_reset(in.stmt);
    if (cut) ret->below_seq = seen;
    return MIN(r, 0);
}

static void attempt_read(RowOut *out, void *ret)
{
    Attempt *a = ret;
    a->attempt = out_i64(out);
    a->fence = out_i64(out);
    a->worker_id = out_uuid(out);
    a->started_at_ms = out_i64(out);
    a->finished_at_ms = out_i64(out);
    a->outcome = out_text(out);
    a->error_code = out_text(out);
    a->error_detail = out_text(out);
    a->sandbox = out_text(out);
}

int attempt_list_after(Db *db, int64_t task_seq, int64_t after, size_t max, Arena *arena,
                       Attempt **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = max, .size = sizeof(Attempt) };
    DbStmt *s = db_stmt(
        db, "SELECT attempt, fence, worker_id, started_at_ms, finished_at_ms, outcome, error_code,"
            " error_detail, sandbox FROM attempt WHERE task_seq = ?1 AND attempt > ?2"
            " UNION ALL SELECT attempt, fence, worker_id, started_at_ms, 0, NULL, NULL, NULL, NULL"
            " FROM task WHERE seq = ?1 AND state = 1 AND attempt > ?2"
            " AND NOT EXISTS (SELECT 1 FROM attempt AS a"
            " WHERE a.task_seq = task.seq AND a.attempt = task.attempt)" /* it goes on */
            " ORDER BY attempt");
    db_bind_i64(s, 1, task_seq);
    db_bind_i64(s, 2, after);
    int r = row_list_fill(&list, s, attempt_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int attempt_list(Db *db, int64_t task_seq, Arena *arena, Attempt **ret, size_t *ret_n)
{
    return attempt_list_after(db, task_seq, 0, ATTEMPT_LIST_MAX, arena, ret, ret_n);
}
