#include "store/webhook_store.h"

#include "codec/url.h"
#include "store/row.h"
#include "store/task_sql.h"

static const char *const state_names[WEBHOOK_STATE_N_] = {
    [WEBHOOK_PENDING] = "pending",
    [WEBHOOK_DELIVERED] = "delivered",
    [WEBHOOK_FAILED] = "failed",
};

const char *webhook_state_name(WebhookState state)
{
    assert(state < WEBHOOK_STATE_N_);
    return state_names[state];
}

Str webhook_host(Arena *arena, Str url)
{
    Url parsed;
    if (url_parse(arena, url, &parsed) < 0) return str_sub(url, 0, WEBHOOK_HOST_MAX - 1);
    Str host = arena_printf(arena, "%.*s:%u", STR_ARG(parsed.host), parsed.port);
    return str_sub(host, 0, WEBHOOK_HOST_MAX - 1);
}

int webhook_insert(Db *db, const Webhook *w)
{
    assert(w->state != WEBHOOK_DELIVERED);
    RowIn in = row_in(db, "INSERT INTO webhook (webhook_id, task_seq, url, host, body, state,"
                          " created_at_ms, next_at_ms, last_error)"
                          " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)");
    in_text(&in, w->webhook_id);
    in_i64(&in, w->task_seq);
    in_text(&in, w->url);
    in_text(&in, w->host);
    in_text(&in, w->body);
    in_i64(&in, (int64_t)w->state);
    in_i64(&in, w->created_at_ms);
    in_i64(&in, w->next_at_ms);
    in_text_or_null(&in, w->last_error);
    return row_run(in.stmt);
}

static void webhook_read(RowOut *out, void *ret)
{
    Webhook *w = ret;
    w->id = out_i64(out);
    w->webhook_id = out_text(out);
    w->task_seq = out_i64(out);
    w->url = out_text(out);
    w->state = (WebhookState)out_i64(out);
    w->attempts = out_i64(out);
    w->created_at_ms = out_i64(out);
    w->next_at_ms = out_i64(out);
    w->last_status = out_i64(out);
    w->last_error = out_text(out);
    w->host = out_text(out);
    w->body = out_text(out);
}

#define AGAIN_SCAN_MAX 5000

#define WEBHOOK_COLUMNS                                                          \
    "id, webhook_id, task_seq, url, state, attempts, created_at_ms, next_at_ms," \
    " last_status, last_error, host"

/* --- what is due ------------------------------------------------------------------------------ */

typedef struct {
    Db *db;
    const WebhookSearch *search;
    RowList list;
    WebhookDue *ret;
    size_t hosts; /* looked at */
} Search;

/* The host behind this one (or this one) that has pending rows, and when its first is due. Returns
 * 0, -ENOENT, -errno. */
static int host_next(Search *s, Str after, bool from_start, Str *ret_host, int64_t *ret_at_ms)
{
    DbStmt *stmt = db_stmt(s->db, from_start
                                      ? "SELECT host, next_at_ms FROM webhook WHERE state = 0"
                                        " AND host >= ?1 ORDER BY host, next_at_ms LIMIT 1"
                                      : "SELECT host, next_at_ms FROM webhook WHERE state = 0"
                                        " AND host > ?1 ORDER BY host, next_at_ms LIMIT 1");
    db_bind_text(stmt, 1, after);
    int r = row_first(stmt);
    if (r != 0) return r;
    RowOut out = row_out(stmt, s->list.arena);
    *ret_host = out_text(&out);
    *ret_at_ms = out_i64(&out);
    r = row_out_end(&out);
    db_reset(stmt);
    return r;
}

static size_t host_use(const WebhookSearch *search, Str host)
{
    for (size_t i = 0; i < search->use_n; i++)
        if (str_eq(search->use[i].host, host)) return search->use[i].n;
    return 0;
}

static bool is_left_out(const WebhookSearch *search, Str host)
{
    for (size_t i = 0; i < search->use_n; i++)
        if (str_eq(search->use[i].host, host)) return search->use[i].left_out;
    return false;
}

static bool is_skipped(const WebhookSearch *search, int64_t id)
{
    for (size_t i = 0; i < search->skip_n; i++)
        if (search->skip[i] == id) return true;
    return false;
}

/* What is due at a host, as far as it may have it. Rows under way are among those read. */
static int host_due(Search *s, Str host)
{
    const WebhookSearch *search = s->search;
    size_t use = host_use(search, host), room = search->host_max - MIN(use, search->host_max);
    DbStmt *stmt = db_stmt(s->db, "SELECT " WEBHOOK_COLUMNS ", body FROM webhook"
                                  " WHERE state = 0 AND host = ?1 AND next_at_ms <= ?2"
                                  " ORDER BY next_at_ms, id");
    db_bind_text(stmt, 1, host);
    db_bind_i64(stmt, 2, search->now_ms);
    int r = 0;
    while ((r = db_step(stmt)) == DB_E_ROW) {
        if (is_skipped(search, db_i64(stmt, 0))) continue;
        s->ret->more |= s->list.n == s->list.max;
        s->ret->hosts_full |= room == 0;
        if (room == 0 || s->list.n == s->list.max) break;
        RowOut out = row_out(stmt, s->list.arena);
        Webhook *row = row_list_add(&s->list);
        if (row) webhook_read(&out, row);
        else out.full = true;
        if ((r = row_out_end(&out)) != 0) return r;
        room--;
    }
    db_reset(stmt);
    return r < 0 ? r : 0;
}

/* Hosts behind after, or from the beginning up to and with until. */
static int hosts_walk(Search *s, Str after, bool from_start, Str until)
{
    for (;; s->hosts++, from_start = false) {
        int64_t at_ms = 0;
        Str host = STR_NULL;
        int r = host_next(s, after, from_start, &host, &at_ms);
        if (r != 0) return r == -ENOENT ? 0 : r;
        if (!str_empty(until) && str_cmp(host, until) > 0) return 0;
        if (s->hosts == WEBHOOK_HOSTS_MAX) {
            s->ret->more = true;
            if (str_empty(s->ret->last_host)) s->ret->last_host = after;
            return 0;
        }
        if (is_left_out(s->search, host)) r = 0;
        else if (at_ms <= s->search->now_ms) r = host_due(s, host);
        else s->ret->next_at_ms = MIN(s->ret->next_at_ms, at_ms);
        if (r != 0) return r;
        after = host;
    }
}

int webhook_due(Db *db, const WebhookSearch *search, Arena *arena, WebhookDue *ret)
{
    assert(search->limit > 0 && search->host_max > 0);
    *ret = (WebhookDue){ .next_at_ms = INT64_MAX };
    Search s = { .db = db,
                 .search = search,
                 .list = { .arena = arena, .max = search->limit, .size = sizeof(Webhook) },
                 .ret = ret };
    bool from_start = str_empty(search->after_host);
    int r = hosts_walk(&s, from_start ? STR("") : search->after_host, from_start, STR_NULL);
    if (r == 0 && !from_start) r = hosts_walk(&s, STR(""), true, search->after_host);
    ret->rows = s.list.rows;
    ret->n = s.list.n;
    return r;
}

/* --- attempts --------------------------------------------------------------------------------- */

int webhook_postpone(Db *db, int64_t id, int64_t next_at_ms)
{
    RowIn in = row_in(db, "UPDATE webhook SET next_at_ms = ?1 WHERE id = ?2 AND state = 0");
    in_i64(&in, next_at_ms);
    in_i64(&in, id);
    return row_change(in.stmt);
}

int webhook_record(Db *db, int64_t id, WebhookState state, int64_t next_at_ms, int64_t status,
                   Str error)
{
    assert(state < WEBHOOK_STATE_N_);
    RowIn in = row_in(db, "UPDATE webhook SET state = ?1, next_at_ms = ?2, last_status = ?3,"
                          " last_error = ?4, attempts = attempts + 1 WHERE id = ?5 AND state = 0");
    in_i64(&in, (int64_t)state);
    in_i64(&in, next_at_ms);
    in_i64(&in, status);
    in_text_or_null(&in, error);
    in_i64(&in, id);
    return row_change(in.stmt);
}

int webhook_again(Db *db, int64_t id, int64_t now_ms)
{
    DbStmt *s = db_stmt(db, "UPDATE webhook SET state = 0, attempts = 0, next_at_ms = ?1"
                            " WHERE id = ?2 AND state IN (1, 2)");
    db_bind_i64(s, 1, now_ms);
    db_bind_i64(s, 2, id);
    return row_change(s);
}

/* Whether a row of AGAIN_SQL is one to be sent again. */
static bool again_takes(DbStmt *row, Str url, int64_t since_ms)
{
    return db_i64(row, 2) >= since_ms && (str_empty(url) || str_eq(db_str(row, 1), url)) &&
           db_i64(row, 3) == 0;
}

/* The ids go first: a list that is updated while it is walked is nobody's friend. What does not fit
 * is looked at by hand, so that the work is bounded. */
int webhook_again_many(Db *db, Str url, int64_t since_ms, int64_t after_id, int64_t now_ms,
                       int64_t *ret_n, int64_t *ret_after_id)
{
    int64_t ids[WEBHOOK_AGAIN_MAX], seen = 0, scanned = 0;
    size_t n = 0;
    RowIn in = row_in(db, WEBHOOK_AGAIN_SQL);
    in_i64(&in, after_id);
    in_i64(&in, AGAIN_SCAN_MAX);
    int r = DB_E_ROW;
    while (n < ARRAY_N(ids) && (r = db_step(in.stmt)) == DB_E_ROW) {
        scanned++;
        seen = db_i64(in.stmt, 0);
        if (again_takes(in.stmt, url, since_ms)) ids[n++] = seen;
    }
    db_reset(in.stmt);
    if (r < 0) return r;
    for (size_t i = 0; i < n; i++)
        if ((r = webhook_again(db, ids[i], now_ms)) != 0) return r;
    *ret_n = (int64_t)n;
    *ret_after_id = n == ARRAY_N(ids) || scanned == AGAIN_SCAN_MAX ? seen : 0;
    return 0;
}

int webhook_find(Db *db, int64_t task_seq, Str webhook_id, int64_t *ret_id, WebhookState *ret_state)
{
    RowIn in = row_in(db, "SELECT id, state FROM webhook WHERE task_seq = ?1 AND webhook_id = ?2");
    in_i64(&in, task_seq);
    in_text(&in, webhook_id);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret_id = db_i64(in.stmt, 0);
    *ret_state = (WebhookState)db_i64(in.stmt, 1);
    db_reset(in.stmt);
    return 0;
}

/* --- lists ------------------------------------------------------------------------------------ */

#define PAGE_SCAN_MAX 10000
#define WEBHOOK_PAGE_SQL                                                                      \
    "SELECT w.id, webhook_id, task_seq, url, w.state, attempts, w.created_at_ms, next_at_ms," \
    " last_status, last_error, host, NULL, task.id FROM webhook AS w LEFT JOIN task ON task.seq = task_seq"

static RowIn page_rows_in(Db *db, const WebhookFilter *filter, int64_t below)
{
    /* the order of an index each; the url is looked at by hand, so that the work is bounded */
    RowIn in = filter->state == WEBHOOK_FAILED
                   ? row_in(db, WEBHOOK_PAGE_SQL " WHERE w.state = 2 AND w.id < ?1"
                                                 " ORDER BY w.id DESC LIMIT ?2")
                   : row_in(db, WEBHOOK_PAGE_SQL " WHERE w.id < ?1 ORDER BY w.id DESC LIMIT ?2");
    in_i64(&in, below);
    in_i64(&in, PAGE_SCAN_MAX);
    return in;
}

static bool page_takes(const WebhookFilter *filter, DbStmt *row)
{
    return (filter->state < 0 || db_i64(row, 4) == filter->state) &&
           (str_empty(filter->url) || str_eq(db_str(row, 3), filter->url));
}

int webhook_page(Db *db, const WebhookFilter *filter, Arena *arena, WebhookPage *ret)
{
    int64_t below = 0, seen = 0;
    size_t scanned = 0;
    bool more = false;
    int r = page_cursor_parse(filter->cursor, &below);
    if (r != 0) return r;
    RowList list = { .arena = arena, .max = page_rows(filter->limit), .size = sizeof(Webhook) };
    RowIn in = page_rows_in(db, filter, below);
    while ((r = db_step(in.stmt)) == DB_E_ROW) {
        if ((more = list.n == list.max)) break;
        scanned++;
        seen = db_i64(in.stmt, 0);
        if (!page_takes(filter, in.stmt)) continue;
        RowOut out = row_out(in.stmt, arena);
        Webhook *row = row_list_add(&list);
        if (row) webhook_read(&out, row);
        else out.full = true;
        if (row) row->task_id = out_uuid(&out);
        if ((r = row_out_end(&out)) != 0) return r;
    }
    if (r < 0) return r;
    db_reset(in.stmt);
    *ret = (WebhookPage){ .rows = list.rows, .n = list.n };
    if (more || scanned == PAGE_SCAN_MAX) ret->next = page_cursor_make(seen);
    return 0;
}

int webhook_list(Db *db, int64_t task_seq, Arena *arena, Webhook **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = WEBHOOK_LIST_MAX, .size = sizeof(Webhook) };
    DbStmt *s = db_stmt(db, "SELECT " WEBHOOK_COLUMNS ", NULL FROM webhook"
                            " WHERE task_seq = ?1 ORDER BY id");
    db_bind_i64(s, 1, task_seq);
    int r = row_list_fill(&list, s, webhook_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

/* --- endpoints -------------------------------------------------------------------------------- */

int webhook_disable(Db *db, const WebhookDisabled *endpoint)
{
    RowIn in = row_in(db, "INSERT INTO webhook_disabled (url, at_ms, webhook_id)"
                          " VALUES (?1, ?2, ?3) ON CONFLICT (url) DO NOTHING");
    in_text(&in, endpoint->url);
    in_i64(&in, endpoint->at_ms);
    in_text(&in, endpoint->webhook_id);
    return row_run(in.stmt);
}

int webhook_enable(Db *db, Str url)
{
    RowIn in = row_in(db, "DELETE FROM webhook_disabled WHERE url = ?1");
    in_text(&in, url);
    return row_change(in.stmt);
}

int webhook_is_disabled(Db *db, Str url, bool *ret)
{
    RowIn in = row_in(db, "SELECT 1 FROM webhook_disabled WHERE url = ?1");
    in_text(&in, url);
    int r = row_first(in.stmt);
    if (r != 0 && r != -ENOENT) return r;
    *ret = r == 0;
    db_reset(in.stmt);
    return 0;
}

int webhook_of_disabled(Db *db, int64_t id, bool *ret)
{
    RowIn in = row_in(db, "SELECT EXISTS (SELECT 1 FROM webhook_disabled AS d WHERE d.url ="
                          " webhook.url) FROM webhook WHERE id = ?1");
    in_i64(&in, id);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret = db_i64(in.stmt, 0) != 0;
    db_reset(in.stmt);
    return 0;
}

static void disabled_read(RowOut *out, void *ret)
{
    WebhookDisabled *endpoint = ret;
    endpoint->url = out_text(out);
    endpoint->at_ms = out_i64(out);
    endpoint->webhook_id = out_text(out);
}

int webhook_disabled_list(Db *db, Arena *arena, WebhookDisabled **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = WEBHOOK_DISABLED_MAX, .size = sizeof(WebhookDisabled) };
    DbStmt *s = db_stmt(db, "SELECT url, at_ms, webhook_id FROM webhook_disabled ORDER BY url");
    int r = row_list_fill(&list, s, disabled_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int webhook_move(Db *db, int64_t ms)
{
    DbStmt *s = db_stmt(db, WEBHOOK_MOVE_SQL);
    db_bind_i64(s, 1, ms);
    return row_run(s);
}
