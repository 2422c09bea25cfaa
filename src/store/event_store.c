#include "store/event_store.h"

#include <stdio.h>

#include "base/diag.h"
#include "codec/json.h"
#include "codec/time_text.h"
#include "store/row.h"
#include "store/webhook_store.h"

#define BODY_BYTES_MAX (EVENT_DATA_BYTES_MAX + 1000)
#define EVENT_COLUMNS "seq, at_ms, type, agent, version_id, subject, data"

int event_insert(Db *db, const Event *event)
{
    if (event->data.len > EVENT_DATA_BYTES_MAX)
        return diag_set(-E2BIG, "an event has at most %d bytes", EVENT_DATA_BYTES_MAX);
    RowIn in = row_in(db, "INSERT INTO event (at_ms, type, agent, version_id, subject, data)"
                          " VALUES (?1, ?2, ?3, ?4, ?5, ?6)");
    in_i64(&in, event->at_ms);
    in_text(&in, event->type);
    in_text(&in, event->agent);
    in_text(&in, event->version_id);
    in_text(&in, event->subject.ptr ? event->subject : STR(""));
    in_text(&in, event->data);
    return row_run(in.stmt);
}

static void event_read(RowOut *out, void *ret)
{
    Event *e = ret;
    e->seq = out_i64(out);
    e->at_ms = out_i64(out);
    e->type = out_text(out);
    e->agent = out_text(out);
    e->version_id = out_text(out);
    e->subject = out_text(out);
    e->data = out_text(out);
}

/* A subject has few events and an agent many: each has an index. */
static const char *list_sql(const EventFilter *filter)
{
    if (!str_empty(filter->subject))
        return "SELECT " EVENT_COLUMNS " FROM event WHERE subject = ?1 AND seq < ?2"
               " AND (?3 = '' OR agent = ?3) AND (?4 = '' OR type = ?4) ORDER BY seq DESC";
    if (!str_empty(filter->agent))
        return "SELECT " EVENT_COLUMNS " FROM event WHERE agent = ?3 AND seq < ?2"
               " AND (?1 = '' OR subject = ?1) AND (?4 = '' OR type = ?4) ORDER BY seq DESC";
    return "SELECT " EVENT_COLUMNS " FROM event WHERE seq < ?2 AND (?1 = '' OR subject = ?1)"
           " AND (?3 = '' OR agent = ?3) AND (?4 = '' OR type = ?4) ORDER BY seq DESC";
}

static Str text_or_empty(Str s)
{
    return s.ptr ? s : STR("");
}

int event_list(Db *db, const EventFilter *filter, Arena *arena, EventPage *ret)
{
    int64_t below;
    int r = page_cursor_parse(filter->cursor, &below);
    if (r < 0) return r;
    size_t max = page_rows(filter->limit);
    RowList list = { .arena = arena, .max = max + 1, .size = sizeof(Event) };
    RowIn in = row_in(db, list_sql(filter));
    in_text(&in, text_or_empty(filter->subject));
    in_i64(&in, below);
    in_text(&in, text_or_empty(filter->agent));
    in_text(&in, text_or_empty(filter->type));
    r = row_list_fill(&list, in.stmt, event_read);
    if (r != 0) return r;
    *ret = (EventPage){ .events = list.rows, .n = MIN(list.n, max) };
    if (list.n > max) ret->next = page_cursor_make(ret->events[max - 1].seq);
    return 0;
}

int event_any_pending(Db *db, bool *ret)
{
    DbStmt *s = db_stmt(db, "SELECT 1 FROM event WHERE published = 0 LIMIT 1");
    int r = row_first(s);
    *ret = r == 0;
    db_reset(s);
    return r == -ENOENT ? 0 : r;
}

/* --- the outbox ------------------------------------------------------------------------------- */

static int body_write(Buf *body, const Event *event)
{
    char time[TIME_TEXT_MAX];
    buf_clear(body);
    JsonOut out = json_out(body);
    json_out_object(&out);
    json_out_kstr(&out, "type", event->type);
    json_out_kcstr(&out, "timestamp", time_format(event->at_ms, time));
    json_out_kraw(&out, "data", event->data);
    json_out_object_end(&out);
    return json_out_ok(&out) ? 0 : -ENOMEM;
}

static int publish_one(Db *db, const Event *event, const Str *urls, size_t urls_n, int64_t now_ms,
                       Arena *arena)
{
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, BODY_BYTES_MAX);
    int r = urls_n > 0 ? body_write(&body, event) : 0;
    for (size_t i = 0; i < urls_n && r == 0; i++) {
        char id[64];
        snprintf(id, sizeof(id), "evt_%" PRId64 "_%zu", event->seq, i);
        r = webhook_insert(db, &(Webhook){ .webhook_id = str_of(id),
                                           .url = urls[i],
                                           .host = webhook_host(arena, urls[i]),
                                           .body = buf_str(&body),
                                           .created_at_ms = now_ms,
                                           .next_at_ms = now_ms });
    }
    if (r != 0) return r;
    RowIn in = row_in(db, "UPDATE event SET published = 1 WHERE seq = ?1");
    in_i64(&in, event->seq);
    return row_change(in.stmt);
}

int event_publish(Db *db, const Str *urls, size_t urls_n, int64_t now_ms, Arena *arena,
                  int64_t *ret_n)
{
    RowList list = { .arena = arena, .max = EVENT_PUBLISH_MAX, .size = sizeof(Event) };
    DbStmt *s = db_stmt(db, "SELECT " EVENT_COLUMNS " FROM event WHERE published = 0 ORDER BY seq");
    int r = row_list_fill(&list, s, event_read);
    const Event *events = list.rows;
    for (size_t i = 0; i < list.n && r == 0; i++)
        r = publish_one(db, &events[i], urls, urls_n, now_ms, arena);
    *ret_n = (int64_t)(list.n * urls_n);
    if (r != 0) return r;
    RowIn in = row_in(db, "DELETE FROM event WHERE seq <= (SELECT max(seq) FROM event) - ?1");
    in_i64(&in, EVENTS_KEPT);
    return row_run(in.stmt);
}
