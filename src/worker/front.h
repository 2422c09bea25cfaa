/* Front: model calls that come in at the server's port.
 *
 * Whoever holds a key may call models there as an agent does on its task's listener. The key of a
 * tenant is configured: its calls go through a GatewayTask kept for the key and the user named with
 * the call, and are recorded on the account of both (queue_account_wait). The key of a task names
 * the task it was made for, while that runs here. It is the same gateway either way: there is no
 * other path to a provider.
 *
 * A Front is made before the servers that use it and freed after them; in between, the worker that
 * has the gateway opens and closes it. It belongs to that worker's loop; front_serve_wait is called
 * on any loop.
 */
#ifndef GANTRY_WORKER_FRONT_H
#define GANTRY_WORKER_FRONT_H

#include "codec/digest.h"
#include "codec/uuid.h"
#include "gateway/gateway.h"

typedef struct Front Front;
typedef struct RunHost RunHost; /* worker/run.h */

/* The key of a tenant. */
typedef struct {
    uint8_t digest[SHA256_BYTES]; /* of the key */
    Str tenant;                   /* at most BUDGET_KEY_BYTES_MAX */
    Str agent;                    /* whose calls they are besides; empty: nobody's */
    CapHold call_max;             /* of each call by itself; 0: none */
    Lane lane;                    /* in which its calls wait */
} FrontKey;

#define FRONT_USER_BYTES_MAX BUDGET_KEY_BYTES_MAX
/* Callers kept at a time: one a key and user. More take the place of who has none under way. */
#define FRONT_CALLERS_MAX 1000

/* loop: of the worker that will open it. keys are borrowed and outlive it. callers_max 0:
 * FRONT_CALLERS_MAX. */
Front *front_new(Loop *loop, const FrontKey *keys, size_t keys_n, size_t callers_max);
/* Closed, and nobody serves. NULL is accepted. */
void front_free(Front *front);
DEFINE_FREEP(Front, front_free)

/* Any thread. The key that was sent, or NULL. */
const FrontKey *front_key(const Front *front, Str key);
size_t front_keys_n(const Front *front);
/* Whoever calls where no keys are needed: the tenant `dev`. */
const FrontKey *front_anyone(const Front *front);

/* Who calls: a tenant, or the task that has task_key. */
typedef struct {
    const FrontKey *key; /* NULL: see task_key */
    Str task_key;
    Str user; /* with key; may be empty */
} FrontCaller;

/* Answers a request to one of the gateway's routes for models, in the shape of its API whatever
 * happens. On the fiber of req, whose body was read into http. Returns 0, HTTP_E_GONE, -errno. */
MUST_CHECK int front_serve_wait(Front *front, const FrontCaller *caller, HttpReq *req,
                                const GatewayHttp *http);
/* Any loop: as front_serve_wait, for what is refused before. front may be NULL. */
int front_refuse_wait(Front *front, HttpReq *req, const GatewayHttp *http, Problem problem,
                      const char *message);

typedef struct {
    uint64_t served;  /* requests that reached a task or a tenant's */
    uint64_t refused; /* for want of a key that is good for it */
    uint64_t away;    /* while nobody took calls, or too many callers had some under way */
    int64_t callers;  /* kept now */
    uint64_t evicted; /* that made room for another */
} FrontStats;
/* Any thread. */
void front_stats(const Front *front, FrontStats *ret);

/* --- for the worker --------------------------------------------------------------------------- */

/* host outlives it until front_close_wait. idle is called when the last call has ended. */
void front_open(Front *front, RunHost *host, void (*idle)(void *ctx), void *ctx);
/* Requests wait until then, for flags and prices must be known. */
void front_ready(Front *front);
/* The worker has a lease, perhaps another than before. */
void front_lease(Front *front, Uuid worker_id);
/* Takes no new calls; those under way go on. */
void front_drain(Front *front);
bool front_idle(const Front *front); /* no call is under way, or it is not open */
/* Ends the calls under way; they settle and are recorded. */
void front_stop(Front *front);
/* Drains, stops at deadline_ms (clock_mono_ms), waits for the rest. Waits even when the caller is
 * cancelled. */
void front_close_wait(Front *front, int64_t deadline_ms);

#endif
