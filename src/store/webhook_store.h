/* The webhook outbox: a row is added in the transaction that ends the task, and stays until the
 * receiver took it or all tries failed. Functions run inside a store job. */
#ifndef GANTRY_STORE_WEBHOOK_STORE_H
#define GANTRY_STORE_WEBHOOK_STORE_H

#include "store/db.h"

#define WEBHOOK_LIST_MAX 1000

typedef enum { WEBHOOK_PENDING, WEBHOOK_DELIVERED, WEBHOOK_FAILED, WEBHOOK_STATE_N_ } WebhookState;
const char *webhook_state_name(WebhookState state);

typedef struct {
    int64_t id;
    Str webhook_id; /* the same over all tries of this event */
    int64_t task_seq;
    Str url;
    Str body; /* JSON, as it is signed and sent */
    WebhookState state;
    int64_t attempts;
    int64_t created_at_ms;
    int64_t next_at_ms;  /* when the next try is due, while pending */
    int64_t last_status; /* HTTP, 0 when none came */
    Str last_error;      /* empty after success */
} Webhook;

MUST_CHECK int webhook_insert(Db *db, const Webhook *webhook);

/* Pending rows due at now_ms, the longest due first, at most limit. ret_next_at_ms: when the next
 * one after these is due, INT64_MAX for none. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int webhook_due(Db *db, int64_t now_ms, size_t limit, Arena *arena, Webhook **ret,
                           size_t *ret_n, int64_t *ret_next_at_ms);

/* Records a try: state DELIVERED or FAILED ends it, PENDING tries again at next_at_ms. Returns 0,
 * -ENOENT (no such row, or not pending any more), -errno. */
MUST_CHECK int webhook_record(Db *db, int64_t id, WebhookState state, int64_t next_at_ms,
                              int64_t status, Str error);

/* Puts a pending row off: no attempt was made. Returns 0 or -errno. */
MUST_CHECK int webhook_postpone(Db *db, int64_t id, int64_t next_at_ms);

/* Makes a failed row pending again, due at now_ms. Returns 0, -ENOENT, -errno. */
MUST_CHECK int webhook_again(Db *db, int64_t id, int64_t now_ms);

/* The webhooks of a task, oldest first, body left empty. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int webhook_list(Db *db, int64_t task_seq, Arena *arena, Webhook **ret, size_t *ret_n);

#endif
