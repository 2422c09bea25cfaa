#include "store/rollup_store.h"

#include <math.h>

#include "base/diag.h"
#include "base/log.h"
#include "store/outcome_sql.h"
#include "store/row.h"

/* --- news ------------------------------------------------------------------------------------- */

#define AT_MS                                                                       \
    "CASE WHEN finished_at_ms > 0 THEN finished_at_ms ELSE"                         \
    " coalesce((SELECT a.finished_at_ms FROM attempt a WHERE a.task_seq = task.seq" \
    " AND a.attempt = task.attempt), created_at_ms) END"
#define BEGAN_MS BEGAN_MS_OF("", AT_MS)

/* What a task's row says, in the order of news_read. */
#define FIGURES                                                                               \
    "state, agent, version_id, " AT_MS ", " BEGAN_MS ", cost_nusd,"                           \
    " plus(input_tokens, output_tokens), llm_calls, tool_calls, degraded_calls > 0, quality," \
    " fingerprint, tools, escalations > 0, input_bytes"

static int snapshot(Db *db, int64_t task_seq, int sign, unsigned what)
{
    RowIn in = row_in(db, "INSERT INTO rollup_news (sign, what, state, agent, version_id, at_ms,"
                          " started_at_ms, cost_nusd, tokens, llm_calls, tool_calls, degraded,"
                          " quality, fingerprint, tools, escalated, input_bytes)"
                          " SELECT ?2, ?3, " FIGURES " FROM task WHERE seq = ?1 AND state >= 2"
                          " AND shadow_of IS NULL");
    in_i64(&in, task_seq);
    in_i64(&in, sign);
    in_i64(&in, what);
    return row_run(in.stmt);
}

static int due_add(Db *db, int64_t task_seq)
{
    DbStmt *s = db_stmt(db, "INSERT OR IGNORE INTO rollup_due (task_seq) VALUES (?1)");
    db_bind_i64(s, 1, task_seq);
    return row_run(s);
}

/* Returns 0 (it was due, and is no more), -ENOENT, -errno. */
static int due_drop(Db *db, int64_t task_seq)
{
    DbStmt *s = db_stmt(db, "DELETE FROM rollup_due WHERE task_seq = ?1");
    db_bind_i64(s, 1, task_seq);
    return row_change(s);
}

/* Returns 0 (it is due), -ENOENT, -errno. */
static int due_is(Db *db, int64_t task_seq)
{
    DbStmt *s = db_stmt(db, "SELECT 1 FROM rollup_due WHERE task_seq = ?1");
    db_bind_i64(s, 1, task_seq);
    int r = row_first(s);
    if (r == 0) db_reset(s);
    return r;
}

int rollup_news_add(Db *db, int64_t task_seq, int sign, unsigned what)
{
    assert(sign == 1 || sign == -1);
    bool all = what & NEWS_TASK;
    assert(!all || what == (NEWS_TASK | NEWS_SCORE));
    if (all && sign > 0) return due_add(db, task_seq);
    /* of a task that is due nothing was told yet */
    int r = all ? due_drop(db, task_seq) : due_is(db, task_seq);
    return r == -ENOENT ? snapshot(db, task_seq, sign, what) : r;
}

int rollup_news_add_many(Db *db, const TaskEnding *endings, size_t n)
{
    DbCell cells[TASK_ENDINGS_MAX];
    assert(n <= TASK_ENDINGS_MAX);
    for (size_t i = 0; i < n; i++) cells[i] = cell_i64(endings[i].head.seq);
    DbStmt *s = db_stmt(db, "INSERT OR IGNORE INTO rollup_due (task_seq) SELECT c0 FROM given(?1)");
    db_bind_given(s, 1, &(DbGiven){ cells, n, 1 });
    return row_run(s);
}

/* One that nobody has started in its time says nothing of its version, as little as one that was
 * canceled. */
static Outcome outcome_of(TaskState state, int64_t started_at_ms)
{
    switch (state) {
    case TASK_SUCCEEDED: return OUTCOME_SUCCEEDED;
    case TASK_TIMED_OUT: return started_at_ms > 0 ? OUTCOME_TIMED_OUT : OUTCOME_CANCELED;
    case TASK_CANCELED: return OUTCOME_CANCELED;
    case TASK_ESCALATED: return OUTCOME_ESCALATED;
    default: return OUTCOME_FAILED;
    }
}

static void news_read(RowOut *out, RollupNews *news)
{
    news->n = out_i64(out);
    news->sign = (int)out_i64(out);
    news->what = (unsigned)out_i64(out);
    TaskState state = (TaskState)out_i64(out);
    news->agent = db_str(out->stmt, out->column++);
    news->version_id = db_str(out->stmt, out->column++);
    news->at_ms = out_i64(out);
    int64_t started_at_ms = out_i64(out);
    news->task = (RollupTask){
        .outcome = outcome_of(state, started_at_ms),
        .latency_ms = started_at_ms > 0 ? MAX(0, news->at_ms - started_at_ms) : 0,
        .cost_nusd = out_i64(out),
    };
    news->task.tokens = out_i64(out);
    news->task.llm_calls = out_i64(out);
    news->task.tool_calls = out_i64(out);
    news->task.degraded = out_i64(out) != 0;
    int quality = out->column++, fingerprint = out->column++;
    news->quality = db_is_null(out->stmt, quality) ? NAN : db_f64(out->stmt, quality);
    news->task.has_fingerprint = !db_is_null(out->stmt, fingerprint);
    news->task.fingerprint = (uint64_t)db_i64(out->stmt, fingerprint);
    news->tools = db_str(out->stmt, out->column++);
    news->task.escalated = out_i64(out) != 0;
    news->task.input_bytes = out_i64(out);
    news->task.has_input = news->task.input_bytes >= 0;
}

static int each_news(DbStmt *stmt, RollupNewsFn fn, void *ctx)
{
    int r;
    while ((r = db_step(stmt)) == DB_E_ROW) {
        RollupNews news;
        RowOut out = row_out(stmt, NULL);
        news_read(&out, &news);
        if (fn(&news, ctx)) continue;
        db_reset(stmt);
        return 0;
    }
    return r;
}

int rollup_news_read(Db *db, size_t max, RollupNewsFn fn, void *ctx)
{
    RowIn in = row_in(
        db, "SELECT n, sign, what, state, agent, version_id, at_ms, started_at_ms,"
            " cost_nusd, tokens, llm_calls, tool_calls, degraded, quality,"
            " fingerprint, tools, escalated, input_bytes FROM rollup_news ORDER BY n LIMIT ?1");
    in_i64(&in, (int64_t)max);
    return each_news(in.stmt, fn, ctx);
}

int rollup_due_read(Db *db, size_t max, RollupNewsFn fn, void *ctx)
{
    /* one that goes on meanwhile tells nothing */
    RowIn in = row_in(db, "SELECT task_seq, 1, CASE WHEN state >= 2 THEN 3 ELSE 0 END, " FIGURES
                          " FROM rollup_due CROSS JOIN task ON task.seq = task_seq"
                          " ORDER BY task_seq LIMIT ?1");
    in_i64(&in, (int64_t)max);
    return each_news(in.stmt, fn, ctx);
}

int rollup_news_delete(Db *db, int64_t last_n)
{
    RowIn in = row_in(db, "DELETE FROM rollup_news WHERE n <= ?1");
    in_i64(&in, last_n);
    return row_run(in.stmt);
}

int rollup_due_delete(Db *db, int64_t last_n)
{
    RowIn in = row_in(db, "DELETE FROM rollup_due WHERE task_seq <= ?1");
    in_i64(&in, last_n);
    return row_run(in.stmt);
}

int rollup_news_count(Db *db, int64_t *ret)
{
    DbStmt *s = db_stmt(db, "SELECT (SELECT count(*) FROM rollup_news)"
                            " + (SELECT count(*) FROM rollup_due)");
    int r = row_first(s);
    if (r != 0) return r;
    *ret = db_i64(s, 0);
    db_reset(s);
    return 0;
}

/* --- rollups ---------------------------------------------------------------------------------- */

static int unreadable(const RollupKey *key)
{
    return diag_set(-EPROTO, "the rollup of %.*s at %" PRId64 " is unreadable", STR_ARG(key->agent),
                    key->start_ms);
}

static void in_key(RowIn *in, const RollupKey *key)
{
    in_i64(in, key->span);
    in_i64(in, key->start_ms);
    in_text(in, key->agent);
    in_text(in, key->version_id);
}

int rollup_get(Db *db, const RollupKey *key, Rollup *ret)
{
    RowIn in = row_in(db, "SELECT bytes FROM rollup WHERE span = ?1 AND start_ms = ?2"
                          " AND agent = ?3 AND version_id = ?4");
    in_key(&in, key);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    r = rollup_read(db_str(in.stmt, 0), ret);
    db_reset(in.stmt);
    return r == 0 ? 0 : unreadable(key);
}

static int rollup_put(Db *db, const RollupKey *key, const Rollup *rollup)
{
    CLEANUP(buf_deinit) Buf bytes;
    buf_init(&bytes, ROLLUP_BYTES_MAX);
    rollup_write(rollup, &bytes);
    if (bytes.failed) return -ENOMEM;
    RowIn in = row_in(db, "INSERT INTO rollup (span, start_ms, agent, version_id, bytes)"
                          " VALUES (?1, ?2, ?3, ?4, ?5)"
                          " ON CONFLICT DO UPDATE SET bytes = excluded.bytes");
    in_key(&in, key);
    in_blob(&in, buf_str(&bytes));
    return row_run(in.stmt);
}

int rollup_apply(Db *db, const RollupKey *key, const Rollup *difference, Rollup *scratch)
{
    int r = rollup_get(db, key, scratch);
    if (r == -EPROTO) /* no news would ever get past it */
        LOG_ERROR("a rollup is begun anew", LOG_CSTR("why", diag_text_or(r)));
    if (r == -ENOENT || r == -EPROTO) return rollup_put(db, key, difference);
    if (r != 0) return r;
    rollup_merge(scratch, difference);
    return rollup_put(db, key, scratch);
}

int rollup_each(Db *db, const RollupTile *tile, Str agent, Rollup *scratch, RollupFn fn, void *ctx)
{
    RowIn in = row_in(db, "SELECT start_ms, agent, version_id, bytes FROM rollup WHERE span = ?1"
                          " AND start_ms >= ?2 AND start_ms < ?3 AND (?4 IS NULL OR agent = ?4)"
                          " ORDER BY start_ms, agent, version_id");
    in_i64(&in, tile->span);
    in_i64(&in, tile->from_ms);
    in_i64(&in, tile->to_ms);
    in_text_or_null(&in, agent);
    int r;
    while ((r = db_step(in.stmt)) == DB_E_ROW) {
        RollupKey key = { .span = tile->span,
                          .start_ms = db_i64(in.stmt, 0),
                          .agent = db_str(in.stmt, 1),
                          .version_id = db_str(in.stmt, 2) };
        r = rollup_read(db_str(in.stmt, 3), scratch) == 0 ? fn(&key, scratch, ctx)
                                                          : unreadable(&key);
        if (r >= 0) continue;
        db_reset(in.stmt);
        return r;
    }
    return r;
}

typedef struct {
    Str version_id;
    Rollup *sum;
} Sum;

static int sum_one(const RollupKey *key, const Rollup *rollup, void *ctx)
{
    Sum *sum = ctx;
    if (str_eq(key->version_id, sum->version_id)) rollup_merge(sum->sum, rollup);
    return 0;
}

int rollup_sum(Db *db, Str agent, Str version_id, int64_t from_ms, int64_t to_ms, int64_t now_ms,
               Rollup *ret)
{
    RollupTile tiles[ROLLUP_TILES_MAX];
    size_t n = rollup_cover(from_ms, to_ms, now_ms, tiles);
    Sum sum = { version_id, ret };
    CLEANUP(freep) Rollup *scratch = xcalloc(1, sizeof(*scratch));
    int r = 0;
    memset(ret, 0, sizeof(*ret));
    for (size_t i = 0; r == 0 && i < n; i++)
        r = rollup_each(db, &tiles[i], agent, scratch, sum_one, &sum);
    return r;
}

static int purge_span(Db *db, RollupSpan span, int64_t before_ms)
{
    RowIn in = row_in(db, "DELETE FROM rollup WHERE span = ?1 AND start_ms < ?2");
    in_i64(&in, span);
    in_i64(&in, before_ms);
    return row_run(in.stmt);
}

int rollup_purge(Db *db, int64_t now_ms)
{
    static const int64_t kept_ms[ROLLUP_SPANS_N_] = { ROLLUP_MINUTES_KEPT_MS, ROLLUP_HOURS_KEPT_MS,
                                                      ROLLUP_DAYS_KEPT_MS };
    int r = 0;
    for (RollupSpan span = 0; r == 0 && span < ROLLUP_SPANS_N_; span++)
        r = purge_span(db, span, now_ms - kept_ms[span]);
    return r;
}
