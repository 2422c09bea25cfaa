#include "store/journal_store.h"

#include "base/diag.h"
#include "codec/gzip.h"
#include "logic/task.h"
#include "store/call_store.h"
#include "store/row.h"

#define PURGE_TASKS_MAX 16 /* looked at at a time */

/* --- of a task -------------------------------------------------------------------------------- */

int journal_fill_read(Db *db, int64_t task_seq, JournalFill *ret)
{
    DbStmt *s = db_stmt(db, "SELECT journal_n, journal_bytes, journal_closed FROM task"
                            " WHERE seq = ?1");
    db_bind_i64(s, 1, task_seq);
    int r = row_first(s);
    if (r != 0) return r;
    *ret = (JournalFill){ db_i64(s, 0), db_i64(s, 1), db_i64(s, 2) != 0 };
    db_reset(s);
    return 0;
}

int journal_fill_write(Db *db, int64_t task_seq, const JournalFill *fill)
{
    RowIn in = row_in(db, "UPDATE task SET journal_n = ?2, journal_bytes = ?3, journal_closed = ?4"
                          " WHERE seq = ?1");
    in_i64(&in, task_seq);
    in_i64(&in, fill->recordings);
    in_i64(&in, fill->bytes);
    in_i64(&in, fill->closed);
    return row_change(in.stmt);
}

/* due_ms is when to look whether it can be deleted. */
static int task_note(Db *db, int64_t task_seq, int64_t misses, int64_t due_ms)
{
    RowIn in = row_in(db, "INSERT INTO journal_task (task_seq, misses, due_ms) VALUES (?1, ?2, ?3)"
                          " ON CONFLICT (task_seq) DO UPDATE SET misses = misses +"
                          " excluded.misses");
    in_i64(&in, task_seq);
    in_i64(&in, misses);
    in_i64(&in, due_ms);
    return row_run(in.stmt);
}

int journal_misses(Db *db, int64_t task_seq, int64_t *ret)
{
    DbStmt *s = db_stmt(db, "SELECT misses FROM journal_task WHERE task_seq = ?1");
    db_bind_i64(s, 1, task_seq);
    *ret = 0;
    int r = row_first(s);
    if (r != 0) return r == -ENOENT ? 0 : r;
    *ret = db_i64(s, 0);
    db_reset(s);
    return 0;
}

int journal_add_misses(Db *db, int64_t task_seq, int64_t misses, int64_t now_ms)
{
    return misses ? task_note(db, task_seq, misses, now_ms) : 0;
}

int journal_retire(Db *db, int64_t task_seq)
{
    DbStmt *s = db_stmt(db, "UPDATE journal_task SET served_from ="
                            " (SELECT journal_n FROM task WHERE seq = ?1) WHERE task_seq = ?1");
    db_bind_i64(s, 1, task_seq);
    return row_run(s);
}

/* --- adding ----------------------------------------------------------------------------------- */

/* The id of the request that this one is kept against: 0, or -ENOENT. */
static int base_find(Db *db, int64_t task_seq, Str call_id, const JournalLast *last,
                     int64_t *ret_id)
{
    *ret_id = 0;
    if (str_empty(call_id)) return 0;
    if (last && last->row > 0 && str_eq(call_id, str_of(last->call_id))) {
        *ret_id = last->row;
        return 0;
    }
    DbStmt *s = db_stmt(db, "SELECT j.id FROM call c JOIN journal j ON j.id = c.id"
                            " WHERE c.task_seq = ?1 AND c.call_id = ?2 AND j.request_bytes > 0");
    db_bind_i64(s, 1, task_seq);
    db_bind_text(s, 2, call_id);
    int r = row_first(s);
    if (r == 0) *ret_id = db_i64(s, 0);
    db_reset(s);
    return r;
}

int journal_has(Db *db, int64_t task_seq, Str call_id)
{
    DbStmt *s = db_stmt(db, "SELECT 1 FROM journal WHERE task_seq = ?1 AND id < 0 AND call_id = ?2"
                            " LIMIT 1");
    db_bind_i64(s, 1, task_seq);
    db_bind_text(s, 2, call_id);
    int r = row_first(s);
    db_reset(s);
    return r;
}

typedef struct {
    int64_t id, n, base_id;
    bool with_request;
} RowPlace;

static void in_recording(RowIn *in, const JournalNew *rec)
{
    in_i64(in, (int64_t)rec->kind);
    in_text(in, rec->name);
    in_text_or_null(in, rec->call_id);
    in_blob(in, str_make((const char *)rec->key, sizeof rec->key));
    in_i64(in, rec->at_ms);
    in_i64(in, rec->status);
    in_text(in, rec->content_type);
    in_i64(in, rec->streamed);
    in_i64(in, rec->complete);
    in_i64(in, rec->answer.n);
}

static int row_add(Db *db, const JournalOf *of, const RowPlace *place, const JournalNew *rec)
{
    const JournalRequest *request = &rec->request;
    RowIn in = row_in(db, "INSERT INTO journal (id, version_id, task_seq, n, attempt, kind, name,"
                          " call_id, key, at_ms, status, content_type, streamed, complete,"
                          " answer_bytes, request_bytes, base_id, prefix, suffix, answer_gzip,"
                          " request_gzip, answer, request)"
                          " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14,"
                          " ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23)");
    in_i64(&in, place->id);
    in_text(&in, of->version_id);
    in_i64(&in, of->task_seq);
    in_i64(&in, place->n);
    in_i64(&in, of->attempt);
    in_recording(&in, rec);
    in_i64(&in, place->with_request ? request->n : 0);
    in_i64(&in, place->base_id);
    in_i64(&in, (int64_t)request->share.prefix);
    in_i64(&in, (int64_t)request->share.suffix);
    in_i64(&in, rec->answer.gzip);
    in_i64(&in, request->rest.gzip);
    in_blob(&in, rec->answer.bytes);
    if (place->with_request) in_blob(&in, request->rest.bytes);
    else db_bind_null(in.stmt, in.index);
    return row_run(in.stmt);
}

/* Those without a call: below all that are there. */
static int id_below(Db *db, int64_t *ret)
{
    DbStmt *s = db_stmt(db, "SELECT min(coalesce(min(id), 0), 0) - 1 FROM journal");
    int r = row_first(s);
    if (r == 0) *ret = db_i64(s, 0);
    db_reset(s);
    return r;
}

/* A place in the journal, which there must be room for. Returns 0, JOURNAL_E_CLOSED, -errno. */
static int place_take(Db *db, const JournalOf *of, const JournalNew *rec,
                      const JournalLimits *limits, JournalFill *fill, RowPlace *ret)
{
    int64_t bytes = (int64_t)(rec->answer.bytes.len + rec->request.rest.bytes.len);
    bool room = fill->recordings < limits->recordings_max && bytes <= limits->bytes_max &&
                fill->bytes <= limits->bytes_max - bytes;
    fill->closed = fill->closed || !room;
    if (fill->closed) return JOURNAL_E_CLOSED;
    fill->bytes += bytes;
    ret->n = ++fill->recordings;
    ret->id = of->call_row;
    int r = ret->n == 1 ? task_note(db, of->task_seq, 0, rec->at_ms) : 0;
    return r == 0 && ret->id == 0 ? id_below(db, &ret->id) : r;
}

static void last_note(JournalLast *last, const RowPlace *place, Str call_id)
{
    if (!place->with_request || str_empty(call_id)) return;
    last->row = str_copy(last->call_id, sizeof last->call_id, call_id) ? place->id : 0;
}

int journal_add(Db *db, const JournalOf *of, const JournalNew *rec, const JournalLimits *limits,
                JournalFill *fill, JournalLast *last)
{
    RowPlace place = { 0 };
    assert(rec->kind < REPLAY_KIND_N_ && rec->name.len <= JOURNAL_NAME_MAX && of->call_row >= 0);
    int r = place_take(db, of, rec, limits, fill, &place);
    if (r != 0) return r;
    r = base_find(db, of->task_seq, rec->request.base, last, &place.base_id);
    if (r != 0 && r != -ENOENT) return r;
    place.with_request = rec->request.n > 0 && r == 0; /* without its base it says nothing */
    r = row_add(db, of, &place, rec);
    if (r == 0 && last) last_note(last, &place, rec->call_id);
    return r;
}

/* --- reading ---------------------------------------------------------------------------------- */

/* The recordings of task ?1. */
#define OF_TASK                   \
    "id IN (SELECT id FROM calls" \
    " UNION ALL SELECT id FROM journal WHERE task_seq = ?1 AND id < 0)"

#define JOURNAL_COLUMNS                                                            \
    "n, attempt, kind, name, call_id, key, at_ms, status, content_type, streamed," \
    " complete, answer_bytes, request_bytes"

static void journal_read(RowOut *out, void *ret)
{
    JournalRow *row = ret;
    row->n = out_i64(out);
    row->attempt = out_i64(out);
    row->kind = (ReplayKind)out_i64(out);
    row->name = out_text(out);
    row->call_id = out_text(out);
    Str key = db_str(out->stmt, out->column++);
    assert(key.len == sizeof row->key && row->kind < REPLAY_KIND_N_);
    memcpy(row->key, key.ptr, sizeof row->key);
    row->at_ms = out_i64(out);
    row->status = out_i64(out);
    row->content_type = out_text(out);
    row->streamed = out_i64(out) != 0;
    row->complete = out_i64(out) != 0;
    row->answer_bytes = out_i64(out);
    row->request_bytes = out_i64(out);
}

int journal_grew(Db *db, int64_t task_seq, int64_t attempt)
{
    DbStmt *s = db_stmt(db, CALLS_OF_TASK "SELECT 1 FROM journal WHERE " OF_TASK
                                          " AND attempt = ?2 AND complete = 1 LIMIT 1");
    db_bind_i64(s, 1, task_seq);
    db_bind_i64(s, 2, attempt);
    int r = row_first(s);
    db_reset(s);
    return r;
}

int journal_list(Db *db, int64_t task_seq, bool servable, int64_t after, size_t max, Arena *arena,
                 JournalRow **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = max, .size = sizeof(JournalRow) };
    RowIn in = row_in(db, CALLS_OF_TASK
                      "SELECT " JOURNAL_COLUMNS " FROM journal WHERE " OF_TASK " AND n > ?2"
                      " AND (?3 = 0 OR (version_id = (SELECT version_id FROM task"
                      " WHERE seq = ?1) AND n > (SELECT served_from FROM journal_task"
                      " WHERE task_seq = ?1))) ORDER BY n");
    in_i64(&in, task_seq);
    in_i64(&in, after);
    in_i64(&in, servable);
    int r = row_list_fill(&list, in.stmt, journal_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int journal_get(Db *db, int64_t task_seq, int64_t n, Arena *arena, JournalRow *ret)
{
    RowIn in = row_in(db, CALLS_OF_TASK "SELECT " JOURNAL_COLUMNS " FROM journal WHERE " OF_TASK
                                        " AND n = ?2");
    in_i64(&in, task_seq);
    in_i64(&in, n);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, arena);
    JournalRow row;
    journal_read(&out, &row);
    r = row_out_end(&out);
    db_reset(in.stmt);
    if (r == 0) *ret = row;
    return r;
}

static JournalBytes answer_read(RowOut *out)
{
    JournalBytes answer = { .n = out_i64(out) };
    answer.gzip = out_i64(out) != 0;
    answer.bytes = out_text(out);
    return answer;
}

int journal_answer(Db *db, int64_t task_seq, int64_t n, Arena *arena, JournalBytes *ret)
{
    RowIn in = row_in(db, CALLS_OF_TASK "SELECT answer_bytes, answer_gzip, answer FROM journal"
                                        " WHERE " OF_TASK " AND n = ?2");
    in_i64(&in, task_seq);
    in_i64(&in, n);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, arena);
    JournalBytes answer = answer_read(&out);
    r = row_out_end(&out);
    db_reset(in.stmt);
    if (r == 0) *ret = answer;
    return r;
}

int journal_places(Db *db, int64_t task_seq, Arena *arena, int64_t **ret, size_t *ret_n)
{
    JournalFill fill;
    int r = journal_fill_read(db, task_seq, &fill);
    if (r != 0) return r;
    size_t n = (size_t)MAX(fill.recordings, 0);
    int64_t *places = arena_zalloc(arena, (n + 1) * sizeof *places);
    if (!places) return diag_set(-ENOMEM, "no memory for a task's recordings");
    DbStmt *s = db_stmt(db, CALLS_OF_TASK "SELECT n, id FROM journal WHERE " OF_TASK);
    db_bind_i64(s, 1, task_seq);
    while ((r = db_step(s)) == DB_E_ROW) {
        int64_t number = db_i64(s, 0);
        if (number >= 1 && (uint64_t)number <= n) places[number - 1] = db_i64(s, 1);
    }
    *ret = places;
    *ret_n = n;
    return r;
}

int journal_at(Db *db, int64_t task_seq, int64_t n, int64_t place, Arena *arena, JournalRow *ret,
               JournalBytes *ret_answer)
{
    RowIn in = row_in(db,
                      "SELECT " JOURNAL_COLUMNS ", answer_bytes, answer_gzip, answer FROM journal"
                      " WHERE id = ?1 AND task_seq = ?2 AND n = ?3");
    in_i64(&in, place);
    in_i64(&in, task_seq);
    in_i64(&in, n);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, arena);
    JournalRow row;
    journal_read(&out, &row);
    JournalBytes answer = answer_read(&out);
    r = row_out_end(&out);
    db_reset(in.stmt);
    if (r != 0) return r;
    *ret = row;
    *ret_answer = answer;
    return 0;
}

/* --- requests --------------------------------------------------------------------------------- */

static int unpack(DbStmt *s, int gzip_column, int column, Buf *out)
{
    Str bytes = db_str(s, column);
    if (db_i64(s, gzip_column)) return gzip_decompress(bytes, out);
    return buf_add(out, bytes) ? 0 : -EFBIG;
}

/* One link: what is kept of a request, which must be its task's. */
static int link_read(Db *db, int64_t task_seq, int64_t id, Buf *rest, ReplayShare *ret_share)
{
    RowIn in = row_in(db, "SELECT prefix, suffix, request_gzip, request FROM journal"
                          " WHERE id = ?1 AND task_seq = ?2");
    in_i64(&in, id);
    in_i64(&in, task_seq);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret_share = (ReplayShare){ (size_t)db_i64(in.stmt, 0), (size_t)db_i64(in.stmt, 1) };
    r = db_is_null(in.stmt, 3) ? -ENOENT : unpack(in.stmt, 2, 3, rest);
    db_reset(in.stmt);
    return r;
}

static int base_read(Db *db, int64_t id, int64_t *ret)
{
    RowIn in = row_in(db, "SELECT base_id FROM journal WHERE id = ?1");
    in_i64(&in, id);
    int r = row_first(in.stmt);
    if (r == 0) *ret = db_i64(in.stmt, 0);
    db_reset(in.stmt);
    return r;
}

static int id_read(Db *db, int64_t task_seq, int64_t n, int64_t *ret)
{
    RowIn in = row_in(db, CALLS_OF_TASK "SELECT id FROM journal WHERE " OF_TASK " AND n = ?2");
    in_i64(&in, task_seq);
    in_i64(&in, n);
    int r = row_first(in.stmt);
    if (r == 0) *ret = db_i64(in.stmt, 0);
    db_reset(in.stmt);
    return r;
}

/* The ids from that of n to the one that is kept whole. */
static int chain_read(Db *db, int64_t task_seq, int64_t n, int64_t chain[JOURNAL_CHAIN_MAX],
                      size_t *ret_n)
{
    int64_t id;
    int r = id_read(db, task_seq, n, &id);
    for (*ret_n = 0; r == 0 && id != 0;) {
        if (*ret_n == JOURNAL_CHAIN_MAX) return diag_set(-EINVAL, "a request without a beginning");
        chain[(*ret_n)++] = id;
        r = base_read(db, id, &id);
    }
    return r;
}

int journal_request(Db *db, int64_t task_seq, int64_t n, Buf *out)
{
    int64_t chain[JOURNAL_CHAIN_MAX];
    size_t chain_n;
    CLEANUP(buf_deinit) Buf base, rest;
    buf_init(&base, out->max);
    buf_init(&rest, out->max);
    int r = n > 0 ? chain_read(db, task_seq, n, chain, &chain_n) : -ENOENT;
    if (r != 0) return r;
    for (size_t i = chain_n; i-- > 0 && r == 0;) {
        ReplayShare share;
        Buf whole;
        buf_init(&whole, out->max);
        buf_clear(&rest);
        r = link_read(db, task_seq, chain[i], &rest, &share);
        if (r == 0 && i + 1 < chain_n)
            r = replay_join(buf_str(&base), share, buf_str(&rest), &whole);
        else if (r == 0) r = buf_add(&whole, buf_str(&rest)) ? 0 : -EFBIG;
        buf_deinit(&base);
        base = whole;
    }
    if (r == 0 && !buf_add(out, buf_str(&base))) r = -EFBIG;
    return r;
}

/* --- the end ---------------------------------------------------------------------------------- */

/* Deletes up to max recordings of the task, and all trace of its journal when there are no more. */
static int purge_rows(Db *db, int64_t task_seq, int64_t max, int64_t *ret_n)
{
    DbStmt *s = db_stmt(db, CALLS_OF_TASK "DELETE FROM journal WHERE id IN (SELECT id FROM journal"
                                          " WHERE " OF_TASK " ORDER BY n LIMIT ?2)");
    db_bind_i64(s, 1, task_seq);
    db_bind_i64(s, 2, max);
    int r = db_run(s, ret_n);
    if (r != 0 || *ret_n == max) return r;
    s = db_stmt(db, "DELETE FROM journal_task WHERE task_seq = ?1");
    db_bind_i64(s, 1, task_seq);
    r = row_run(s);
    return r == 0 ? journal_fill_write(db, task_seq, &(JournalFill){ 0 }) : r;
}

static int purge_later(Db *db, int64_t task_seq, int64_t due_ms)
{
    DbStmt *s = db_stmt(db, "UPDATE journal_task SET due_ms = ?2 WHERE task_seq = ?1");
    db_bind_i64(s, 1, task_seq);
    db_bind_i64(s, 2, due_ms);
    return row_run(s);
}

typedef struct {
    int64_t seq, rest_ms; /* rest_ms: since when it is at rest; -1: it is not */
} Due;

static int due_read(Db *db, int64_t before_ms, Due due[PURGE_TASKS_MAX], size_t *ret_n)
{
    DbStmt *s = db_stmt(db, "SELECT task_seq, CASE WHEN state IN (0, 1) THEN -1"
                            " ELSE finished_at_ms END FROM journal_task"
                            " JOIN task ON seq = task_seq WHERE due_ms < ?1"
                            " ORDER BY due_ms LIMIT ?2");
    db_bind_i64(s, 1, before_ms);
    db_bind_i64(s, 2, PURGE_TASKS_MAX);
    int r;
    *ret_n = 0;
    while ((r = db_step(s)) == DB_E_ROW) due[(*ret_n)++] = (Due){ db_i64(s, 0), db_i64(s, 1) };
    return r;
}

int journal_purge(Db *db, int64_t before_ms, int64_t now_ms, size_t rows_max, int64_t *ret_n,
                  bool *ret_more)
{
    Due due[PURGE_TASKS_MAX];
    size_t n = 0;
    static_assert(TASK_QUEUED == 0 && TASK_RUNNING == 1, "the statement names them");
    *ret_n = 0;
    int r = due_read(db, before_ms, due, &n);
    for (size_t i = 0; i < n && r == 0 && *ret_n < (int64_t)rows_max; i++) {
        int64_t deleted = 0;
        if (due[i].rest_ms < 0) r = purge_later(db, due[i].seq, now_ms);
        else if (due[i].rest_ms >= before_ms) r = purge_later(db, due[i].seq, due[i].rest_ms);
        else r = purge_rows(db, due[i].seq, (int64_t)rows_max - *ret_n, &deleted);
        *ret_n += deleted;
    }
    *ret_more = n == PURGE_TASKS_MAX || *ret_n >= (int64_t)rows_max;
    return r;
}
