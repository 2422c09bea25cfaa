/* Events: what happened that people may have to hear of, kept; and the outbox to the receivers
 * that the configuration names. A row is added in the transaction that makes it true.
 * Functions run inside a store job.
 */
#ifndef GANTRY_STORE_EVENT_STORE_H
#define GANTRY_STORE_EVENT_STORE_H

#include "store/db.h"
#include "store/page.h"

#define EVENT_RECEIVERS_MAX 16
#define EVENT_DATA_BYTES_MAX 16000 /* with its head it fits a webhook */
#define EVENT_PUBLISH_MAX 100      /* a job */
#define EVENTS_KEPT 100000         /* older ones are forgotten */

typedef struct {
    int64_t seq;
    int64_t at_ms;
    Str type; /* "rollout.completed" */
    Str agent, version_id;
    Str subject; /* id of what it is about; may be empty */
    Str data;    /* JSON object */
} Event;

/* Returns 0, -E2BIG (data), -errno. */
MUST_CHECK int event_insert(Db *db, const Event *event);

typedef struct {
    Str agent, subject, type; /* empty: any */
    Str cursor;
    size_t limit;
} EventFilter;

typedef struct {
    Event *events; /* newest first */
    size_t n;
    PageCursor next;
} EventPage;

/* Returns 0, -EINVAL (cursor), -ENOMEM, -errno. */
MUST_CHECK int event_list(Db *db, const EventFilter *filter, Arena *arena, EventPage *ret);

/* Whether any event has not been put into the outbox. */
MUST_CHECK int event_any_pending(Db *db, bool *ret);

/* Puts pending ones into the outbox of webhooks, once for each receiver, oldest first, and forgets
 * old ones; *ret_n: webhooks added. A body is {"type", "timestamp", "data"}. Returns 0, -ENOMEM,
 * -errno. */
MUST_CHECK int event_publish(Db *db, const Str *urls, size_t urls_n, int64_t now_ms, Arena *arena,
                             int64_t *ret_n);

#endif
