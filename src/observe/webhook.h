/* Webhooks: delivers what the outbox holds, signed (Standard Webhooks 1.0.0).
 *
 * A row is in the outbox because the transaction that ended its task put it there, so nothing is
 * lost with the process: rows that an earlier process left pending are delivered by this one. One
 * fiber looks for due rows, a bounded number of others each make one attempt.
 *
 * A receiver gets POST with webhook-id (the same in every attempt), webhook-timestamp,
 * webhook-signature, traceparent, and the body {"type":"task.succeeded","timestamp","data":{task}}
 * of less than WEBHOOK_BODY_BYTES_MAX: a result or error too long for that is left out and
 * data.resultTruncated is true. Only 2xx is success; there are no redirects. 410 ends it and
 * disables the endpoint: nothing more is sent to that URL until a person enables it. Anything else
 * is tried again after 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h, each with up to a
 * tenth added, or later when the receiver says so in Retry-After. A host that fails too often is
 * left alone for a while: what is due for it waits, which counts as no attempt.
 */
#ifndef GANTRY_OBSERVE_WEBHOOK_H
#define GANTRY_OBSERVE_WEBHOOK_H

#include "net/addr_guard.h"
#include "net/breakers.h"
#include "observe/webhook_secret.h"
#include "queue/queue.h"

typedef struct Webhooks Webhooks;

#define WEBHOOK_BODY_BYTES_MAX 20000
#define WEBHOOK_ATTEMPTS_MAX 10

typedef struct {
    Queue *queue;               /* borrowed */
    WebhookSecrets *secrets;    /* borrowed */
    const AddrGuard *guard;     /* which addresses may be called; copied */
    Breakers *breakers;         /* by host; borrowed; NULL: none */
    size_t concurrent_max;      /* attempts at a time; 0: 8 */
    size_t host_concurrent_max; /* of these at one host; 0: 4 */
    int64_t timeout_ms;         /* of an attempt; 0: 15,000 */
    int64_t poll_ms;            /* look at the outbox at least so often; 0: 1000 */
} WebhookOptions;

/* On the loop that is to deliver. Returns 0 or -EAGAIN (no fiber). */
MUST_CHECK int webhooks_start(const WebhookOptions *options, Webhooks **ret);

/* On the same loop. Begins no further attempt, lets those under way end until deadline_ms
 * (clock_mono_ms), then cancels them; frees. NULL is accepted. */
void webhooks_stop_wait(Webhooks *webhooks, int64_t deadline_ms);

typedef struct {
    uint64_t attempts, delivered, retried, failed;
    uint64_t postponed; /* not attempted: the host's breaker was open */
    uint64_t host_full; /* searches that left something: its host had all it may have */
    uint64_t full;      /* searches that left something: all attempts were under way */
    uint64_t disabled;  /* endpoints that answered 410 */
    int64_t in_flight;
} WebhookStats;
/* Any thread. */
void webhooks_stats(const Webhooks *webhooks, WebhookStats *ret);

/* The body of the webhook about a task that has come to rest, for QueueOptions.webhook_body. Pure;
 * any thread. Sets out->failed when it cannot be made. */
void webhook_body(Buf *out, const Task *task, int64_t now_ms);

/* When to try again after `attempts` of them failed: milliseconds from now, or -1 when that was the
 * last. random: 64 uniform bits. retry_after_ms: the receiver's wish, 0: none. Pure. */
int64_t webhook_retry_delay_ms(int64_t attempts, uint64_t random, int64_t retry_after_ms);

#endif
