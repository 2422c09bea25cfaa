#include "store/journal_store.h"

#include "base/diag.h"
#include "codec/gzip.h"
#include "logic/task.h"
#include "store/row.h"

#define PURGE_TASKS_MAX 16 /* looked at at a time */

/* --- the state of a task's journal ------------------------------------------------------------ */

int journal_state(Db *db, int64_t task_seq, JournalState *ret)
{
    DbStmt *s = db_stmt(db, "SELECT last_n, bytes, misses, closed FROM journal_task"
                            " WHERE task_seq = ?1");
    db_bind_i64(s, 1, task_seq);
    *ret = (JournalState){ 0 };
    int r = row_first(s);
    if (r != 0) return r == -ENOENT ? 0 : r;
    *ret = (JournalState){ .recordings = db_i64(s, 0),
                           .bytes = db_i64(s, 1),
                           .misses = db_i64(s, 2),
                           .closed = db_i64(s, 3) != 0 };
    db_reset(s);
    return 0;
}

/* due_ms is when to look whether it can be deleted. */
static int state_put(Db *db, int64_t task_seq, const JournalState *state, int64_t now_ms)
{
    RowIn in = row_in(db, "INSERT INTO journal_task (task_seq, last_n, bytes, misses, closed,"
                          " due_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
                          " ON CONFLICT (task_seq) DO UPDATE SET last_n = excluded.last_n,"
                          " bytes = excluded.bytes, misses = excluded.misses,"
                          " closed = excluded.closed");
    in_i64(&in, task_seq);
    in_i64(&in, state->recordings);
    in_i64(&in, state->bytes);
    in_i64(&in, state->misses);
    in_i64(&in, state->closed);
    in_i64(&in, now_ms);
    return row_run(in.stmt);
}

int journal_add_misses(Db *db, int64_t task_seq, int64_t misses, int64_t now_ms)
{
    JournalState state;
    if (misses == 0) return 0;
    int r = journal_state(db, task_seq, &state);
    state.misses += misses;
    return r == 0 ? state_put(db, task_seq, &state, now_ms) : r;
}

int journal_retire(Db *db, int64_t task_seq)
{
    DbStmt *s = db_stmt(db, "UPDATE journal_task SET served_from = last_n WHERE task_seq = ?1");
    db_bind_i64(s, 1, task_seq);
    return row_run(s);
}

/* --- adding ----------------------------------------------------------------------------------- */

/* The number of the request that this one is kept against. The newest that fits is nearly always
 * the newest of all. */
static int base_find(Db *db, int64_t task_seq, Str call_id, int64_t *ret_n)
{
    *ret_n = 0;
    if (str_empty(call_id)) return 0;
    DbStmt *s = db_stmt(db, "SELECT n FROM journal WHERE task_seq = ?1 AND call_id = ?2"
                            " AND request_bytes > 0 ORDER BY n DESC LIMIT 1");
    db_bind_i64(s, 1, task_seq);
    db_bind_text(s, 2, call_id);
    int r = row_first(s);
    if (r == 0) *ret_n = db_i64(s, 0);
    db_reset(s);
    return r;
}

int journal_has(Db *db, int64_t task_seq, Str call_id)
{
    DbStmt *s = db_stmt(db, "SELECT 1 FROM journal WHERE task_seq = ?1 AND call_id = ?2 LIMIT 1");
    db_bind_i64(s, 1, task_seq);
    db_bind_text(s, 2, call_id);
    int r = row_first(s);
    db_reset(s);
    return r;
}

typedef struct {
    int64_t n, base_n;
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
    RowIn in = row_in(db, "INSERT INTO journal (version_id, task_seq, n, attempt, kind, name,"
                          " call_id, key, at_ms, status, content_type, streamed, complete,"
                          " answer_bytes, request_bytes, base_n, prefix, suffix, answer_gzip,"
                          " request_gzip, answer, request)"
                          " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14,"
                          " ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)");
    in_text(&in, of->version_id);
    in_i64(&in, of->task_seq);
    in_i64(&in, place->n);
    in_i64(&in, of->attempt);
    in_recording(&in, rec);
    in_i64(&in, place->with_request ? request->n : 0);
    in_i64(&in, place->base_n);
    in_i64(&in, (int64_t)request->share.prefix);
    in_i64(&in, (int64_t)request->share.suffix);
    in_i64(&in, rec->answer.gzip);
    in_i64(&in, request->rest.gzip);
    in_blob(&in, rec->answer.bytes);
    if (place->with_request) in_blob(&in, request->rest.bytes);
    else db_bind_null(in.stmt, in.index);
    return row_run(in.stmt);
}

/* A place in a journal that is there and has room: 0, or -ENOENT. */
static int place_take(Db *db, int64_t task_seq, int64_t bytes, const JournalLimits *limits,
                      int64_t *ret_n)
{
    RowIn in = row_in(db, "UPDATE journal_task SET last_n = last_n + 1, bytes = bytes + ?2"
                          " WHERE task_seq = ?1 AND closed = 0 AND last_n < ?3"
                          " AND bytes + ?2 <= ?4 RETURNING last_n");
    in_i64(&in, task_seq);
    in_i64(&in, bytes);
    in_i64(&in, limits->recordings_max);
    in_i64(&in, limits->bytes_max);
    int r = row_first(in.stmt);
    if (r == 0) *ret_n = db_i64(in.stmt, 0);
    while (r == 0 && db_step(in.stmt) == DB_E_ROW) continue; /* to its end: it is a change */
    return r;
}

/* The place after n, if n is still the last: 0, or -ENOENT. RETURNING costs as much again. */
static int place_after(Db *db, int64_t task_seq, int64_t bytes, const JournalLimits *limits,
                       int64_t n)
{
    if (n == 0 || n >= limits->recordings_max) return -ENOENT;
    RowIn in = row_in(db, "UPDATE journal_task SET last_n = ?3 + 1, bytes = bytes + ?2"
                          " WHERE task_seq = ?1 AND closed = 0 AND last_n = ?3"
                          " AND bytes + ?2 <= ?4");
    in_i64(&in, task_seq);
    in_i64(&in, bytes);
    in_i64(&in, n);
    in_i64(&in, limits->bytes_max);
    return row_change(in.stmt);
}

/* The first of a task, or one that has no room. */
static int place_open(Db *db, int64_t task_seq, int64_t bytes, const JournalLimits *limits,
                      int64_t now_ms, bool *ret_closed_now)
{
    JournalState state;
    int r = journal_state(db, task_seq, &state);
    if (r != 0) return r;
    bool room = !state.closed && state.recordings < limits->recordings_max &&
                bytes <= limits->bytes_max - state.bytes;
    if (state.closed) return JOURNAL_E_CLOSED;
    *ret_closed_now = state.closed = !room;
    state.recordings += room;
    state.bytes += room ? bytes : 0;
    r = state_put(db, task_seq, &state, now_ms);
    return r == 0 && !room ? JOURNAL_E_CLOSED : r;
}

static int place_find(Db *db, int64_t task_seq, const JournalNew *rec, const JournalLimits *limits,
                      const JournalLast *last, int64_t *ret_n, bool *ret_closed_now)
{
    int64_t bytes = (int64_t)(rec->answer.bytes.len + rec->request.rest.bytes.len);
    int r = last ? place_after(db, task_seq, bytes, limits, last->n) : -ENOENT;
    if (r == 0) *ret_n = last->n + 1;
    if (r == -ENOENT) r = place_take(db, task_seq, bytes, limits, ret_n);
    if (r != -ENOENT) return r;
    *ret_n = 1;
    return place_open(db, task_seq, bytes, limits, rec->at_ms, ret_closed_now);
}

/* The number of the request that this one is kept against: 0, or -ENOENT. */
static int base_of(Db *db, int64_t task_seq, Str base, const JournalLast *last, int64_t *ret_n)
{
    bool known = last && last->call_n > 0 && str_eq(base, str_of(last->call_id));
    if (!known) return base_find(db, task_seq, base, ret_n);
    *ret_n = last->call_n;
    return 0;
}

static void last_note(JournalLast *last, const RowPlace *place, Str call_id)
{
    last->n = place->n;
    if (!place->with_request || str_empty(call_id)) return;
    last->call_n = str_copy(last->call_id, sizeof last->call_id, call_id) ? place->n : 0;
}

int journal_add(Db *db, const JournalOf *of, const JournalNew *rec, const JournalLimits *limits,
                JournalLast *last, bool *ret_closed_now)
{
    RowPlace place = { 0 };
    assert(rec->kind < REPLAY_KIND_N_ && rec->name.len <= JOURNAL_NAME_MAX);
    *ret_closed_now = false;
    int r = place_find(db, of->task_seq, rec, limits, last, &place.n, ret_closed_now);
    if (r != 0) return r;
    r = base_of(db, of->task_seq, rec->request.base, last, &place.base_n);
    if (r != 0 && r != -ENOENT) return r;
    place.with_request = rec->request.n > 0 && r == 0; /* without its base it says nothing */
    r = row_add(db, of, &place, rec);
    if (r == 0 && last) last_note(last, &place, rec->call_id);
    return r;
}

/* --- reading ---------------------------------------------------------------------------------- */

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

int journal_list(Db *db, int64_t task_seq, bool servable, int64_t after, size_t max, Arena *arena,
                 JournalRow **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = max, .size = sizeof(JournalRow) };
    RowIn in = row_in(db, "SELECT " JOURNAL_COLUMNS " FROM journal WHERE task_seq = ?1 AND n > ?2"
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
    RowIn in = row_in(db, "SELECT " JOURNAL_COLUMNS " FROM journal WHERE task_seq = ?1 AND n = ?2");
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

int journal_answer(Db *db, int64_t task_seq, int64_t n, Arena *arena, JournalBytes *ret)
{
    RowIn in = row_in(db, "SELECT answer_bytes, answer_gzip, answer FROM journal"
                          " WHERE task_seq = ?1 AND n = ?2");
    in_i64(&in, task_seq);
    in_i64(&in, n);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, arena);
    JournalBytes answer = { .n = out_i64(&out) };
    answer.gzip = out_i64(&out) != 0;
    answer.bytes = out_text(&out);
    r = row_out_end(&out);
    db_reset(in.stmt);
    if (r == 0) *ret = answer;
    return r;
}

/* --- requests --------------------------------------------------------------------------------- */

static int unpack(DbStmt *s, int gzip_column, int column, Buf *out)
{
    Str bytes = db_str(s, column);
    if (db_i64(s, gzip_column)) return gzip_decompress(bytes, out);
    return buf_add(out, bytes) ? 0 : -EFBIG;
}

/* One link: what is kept of request n; *ret_base is the next one, 0 at the end. */
static int link_read(Db *db, int64_t task_seq, int64_t n, Buf *rest, ReplayShare *ret_share,
                     int64_t *ret_base)
{
    RowIn in = row_in(db, "SELECT base_n, prefix, suffix, request_gzip, request FROM journal"
                          " WHERE task_seq = ?1 AND n = ?2");
    in_i64(&in, task_seq);
    in_i64(&in, n);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret_base = db_i64(in.stmt, 0);
    *ret_share = (ReplayShare){ (size_t)db_i64(in.stmt, 1), (size_t)db_i64(in.stmt, 2) };
    r = db_is_null(in.stmt, 4) ? -ENOENT : unpack(in.stmt, 3, 4, rest);
    db_reset(in.stmt);
    return r;
}

/* The numbers from n to the one that is kept whole. */
static int chain_read(Db *db, int64_t task_seq, int64_t n, int64_t chain[JOURNAL_CHAIN_MAX],
                      size_t *ret_n)
{
    for (*ret_n = 0; n > 0;) {
        if (*ret_n == JOURNAL_CHAIN_MAX) return diag_set(-EINVAL, "a request without a beginning");
        chain[(*ret_n)++] = n;
        RowIn in = row_in(db, "SELECT base_n FROM journal"
                              " WHERE task_seq = ?1 AND n = ?2");
        in_i64(&in, task_seq);
        in_i64(&in, n);
        int r = row_first(in.stmt);
        if (r != 0) return r;
        n = db_i64(in.stmt, 0);
        db_reset(in.stmt);
    }
    return 0;
}

int journal_request(Db *db, int64_t task_seq, int64_t n, Buf *out)
{
    int64_t chain[JOURNAL_CHAIN_MAX], base_n;
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
        r = link_read(db, task_seq, chain[i], &rest, &share, &base_n);
        if (r == 0 && base_n) r = replay_join(buf_str(&base), share, buf_str(&rest), &whole);
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
    DbStmt *s = db_stmt(db, "DELETE FROM journal WHERE id IN (SELECT id FROM journal"
                            " WHERE task_seq = ?1 ORDER BY n LIMIT ?2)");
    db_bind_i64(s, 1, task_seq);
    db_bind_i64(s, 2, max);
    int r = db_run(s, ret_n);
    if (r != 0 || *ret_n == max) return r;
    s = db_stmt(db, "DELETE FROM journal_task WHERE task_seq = ?1");
    db_bind_i64(s, 1, task_seq);
    return row_run(s);
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

int journal_purge(Db *db, int64_t before_ms, int64_t now_ms, size_t rows_max, int64_t *ret_n)
{
    Due due[PURGE_TASKS_MAX];
    size_t n;
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
    return r;
}
