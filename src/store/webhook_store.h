/* The webhook outbox: a row is added in the transaction that ends the task, and stays until the
 * receiver took it or all tries failed. Functions run inside a store job. */
#ifndef GANTRY_STORE_WEBHOOK_STORE_H
#define GANTRY_STORE_WEBHOOK_STORE_H

#include "codec/uuid.h"
#include "store/db.h"
#include "store/page.h"

#define WEBHOOK_LIST_MAX 1000
#define WEBHOOK_HOST_MAX 262      /* "name:port" with a NUL */
#define WEBHOOK_HOSTS_MAX 1024    /* looked at in one search for what is due */
#define WEBHOOK_AGAIN_MAX 500     /* made pending again in one call */
#define WEBHOOK_DISABLED_MAX 1000 /* endpoints listed */

typedef enum { WEBHOOK_PENDING, WEBHOOK_DELIVERED, WEBHOOK_FAILED, WEBHOOK_STATE_N_ } WebhookState;
const char *webhook_state_name(WebhookState state);

typedef struct {
    int64_t id;
    Str webhook_id; /* the same over all tries of this event */
    int64_t task_seq;
    Uuid task_id;  /* only webhook_page */
    Str url, host; /* host: "name:port" of url */
    Str body;      /* JSON, as it is signed and sent */
    WebhookState state;
    int64_t attempts;
    int64_t created_at_ms;
    int64_t next_at_ms;  /* when the next try is due, while pending */
    int64_t last_status; /* HTTP, 0 when none came */
    Str last_error;      /* empty after success */
} Webhook;

/* Adds a row: state (PENDING or FAILED), next_at_ms and last_error as they are in it. */
/* "name:port" of a URL, in the arena; the URL itself where it cannot be read, which its delivery
 * will say. */
Str webhook_host(Arena *arena, Str url);

MUST_CHECK int webhook_insert(Db *db, const Webhook *webhook);

/* How many attempts at a host are under way. */
typedef struct {
    Str host;
    size_t n;
    bool left_out; /* nothing is looked for there */
} WebhookHostUse;

typedef struct {
    int64_t now_ms;
    size_t limit;    /* rows in all */
    size_t host_max; /* attempts at one host at a time, those under way included */
    Str after_host;  /* hosts behind this one come first, so that all have their turn */
    const WebhookHostUse *use;
    size_t use_n;
    const int64_t *skip; /* ids of rows under way */
    size_t skip_n;
} WebhookSearch;

typedef struct {
    Webhook *rows; /* in arena */
    size_t n;
    int64_t next_at_ms; /* when the next one after these is due; INT64_MAX: none */
    bool hosts_full;    /* something due was left because its host has all it may have */
    bool more;          /* there are more hosts than were looked at, or limit was reached */
    Str last_host;      /* looked at last, when more hosts are left than one search looks at; else
                           empty. The next search goes on behind it. */
} WebhookDue;

/* Pending rows due at now_ms, of each host the longest due first. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int webhook_due(Db *db, const WebhookSearch *search, Arena *arena, WebhookDue *ret);

/* Records a try: state DELIVERED or FAILED ends it, PENDING tries again at next_at_ms. Returns 0,
 * -ENOENT (no such row, or not pending any more), -errno. */
MUST_CHECK int webhook_record(Db *db, int64_t id, WebhookState state, int64_t next_at_ms,
                              int64_t status, Str error);

/* Puts a pending row off: no attempt was made. Returns 0 or -errno. */
MUST_CHECK int webhook_postpone(Db *db, int64_t id, int64_t next_at_ms);

/* Makes a row that was delivered or given up pending again, due at now_ms, with all its attempts
 * to come. Returns 0, -ENOENT (no such row, or pending), -errno. */
MUST_CHECK int webhook_again(Db *db, int64_t id, int64_t now_ms);

/* The same for rows that were given up, oldest first, as far as one look goes, at most
 * WEBHOOK_AGAIN_MAX of them (it may be none though there are more): of a url
 * (empty: any), created from since_ms on, with an id above after_id. Those of endpoints that are
 * disabled are left. ret_after_id: continue behind it, 0: that was all. Returns 0 or -errno. */
MUST_CHECK int webhook_again_many(Db *db, Str url, int64_t since_ms, int64_t after_id,
                                  int64_t now_ms, int64_t *ret_n, int64_t *ret_after_id);

/* The row of that webhook_id of the task. Returns 0, -ENOENT, -errno. */
MUST_CHECK int webhook_find(Db *db, int64_t task_seq, Str webhook_id, int64_t *ret_id,
                            WebhookState *ret_state);

typedef struct {
    int state; /* a WebhookState, -1: any */
    Str url;   /* empty: any */
    Str cursor;
    size_t limit; /* 0: PAGE_ROWS_DEFAULT */
} WebhookFilter;

typedef struct {
    Webhook *rows; /* newest first, body left empty */
    size_t n;
    PageCursor next;
} WebhookPage;

/* As task_list. */
MUST_CHECK int webhook_page(Db *db, const WebhookFilter *filter, Arena *arena, WebhookPage *ret);

/* --- endpoints -------------------------------------------------------------------------------- */

/* A receiver that said that it wants no more (410): nothing is sent to it until it is enabled. */
typedef struct {
    Str url;
    int64_t at_ms;
    Str webhook_id; /* what it said it to */
} WebhookDisabled;

/* Does nothing to one that is disabled already. */
MUST_CHECK int webhook_disable(Db *db, const WebhookDisabled *endpoint);
/* Returns 0, -ENOENT (it was not disabled), -errno. */
MUST_CHECK int webhook_enable(Db *db, Str url);
MUST_CHECK int webhook_is_disabled(Db *db, Str url, bool *ret);
/* Whether the endpoint of the row is. Returns 0, -ENOENT, -errno. */
MUST_CHECK int webhook_of_disabled(Db *db, int64_t id, bool *ret);
/* By url, at most WEBHOOK_DISABLED_MAX. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int webhook_disabled_list(Db *db, Arena *arena, WebhookDisabled **ret, size_t *ret_n);

/* The webhooks of a task, oldest first, body left empty. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int webhook_list(Db *db, int64_t task_seq, Arena *arena, Webhook **ret, size_t *ret_n);

/* Moves the times of the next attempts by ms, which may be negative: for a clock that was set.
 * Returns 0 or -errno. */
MUST_CHECK int webhook_move(Db *db, int64_t ms);

#endif
