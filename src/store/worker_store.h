/* Workers: who may hold tasks, and until when. Functions run inside a store job. */
#ifndef GANTRY_STORE_WORKER_STORE_H
#define GANTRY_STORE_WORKER_STORE_H

#include "codec/uuid.h"
#include "store/db.h"

#define WORKER_LIST_MAX 10000

typedef enum {
    WORKER_EMBEDDED, /* lives in the control plane's process and dies with it */
    WORKER_REMOTE,
    WORKER_KIND_N_,
} WorkerKind;

typedef enum {
    WORKER_ACTIVE,
    WORKER_DRAINING, /* finishes what it has, claims nothing */
    WORKER_LOST,     /* its lease ran out */
    WORKER_STOPPED,  /* it said goodbye */
    WORKER_STATE_N_,
} WorkerState;

const char *worker_kind_name(WorkerKind kind);
const char *worker_state_name(WorkerState state);

typedef struct {
    Uuid id;
    Str name;
    WorkerKind kind;
    WorkerState state;
    Str slots; /* JSON object, as the worker described itself */
    int64_t registered_at_ms;
    int64_t lease_expires_at_ms; /* on the queue's steady clock, not the calendar */
    int64_t heartbeat_at_ms;     /* calendar time of the last sign of life */
    int64_t running;             /* tasks it holds; filled by worker_list and worker_get */
} Worker;

/* Adds the worker, or makes the one of this id active again. state and running are ignored. */
MUST_CHECK int worker_put(Db *db, const Worker *worker);

/* Texts live in arena. Returns 0, -ENOENT, -ENOMEM (arena full), -errno. */
MUST_CHECK int worker_get(Db *db, Uuid id, Arena *arena, Worker *ret);

/* Only the state. Returns 0, -ENOENT, -errno. */
MUST_CHECK int worker_state(Db *db, Uuid id, WorkerState *ret);

/* A sign of life. Returns 0, -ENOENT (unknown, lost or stopped), -errno. */
MUST_CHECK int worker_renew(Db *db, Uuid id, int64_t lease_expires_at_ms, int64_t now_ms);

/* Returns 0, -ENOENT, -errno. */
MUST_CHECK int worker_set_state(Db *db, Uuid id, WorkerState state);

/* An active or draining worker whose lease ran out before steady_ms. Returns 0, -ENOENT (none),
 * -errno. */
MUST_CHECK int worker_next_expired(Db *db, int64_t steady_ms, Uuid *ret);

/* An active or draining worker of this kind. Returns 0, -ENOENT (none), -errno. */
MUST_CHECK int worker_next_of(Db *db, WorkerKind kind, Uuid *ret);

/* A new lease for every active or draining worker. Returns 0 or -errno. */
MUST_CHECK int worker_renew_all(Db *db, int64_t lease_expires_at_ms);

/* Forgets lost and stopped workers without a sign of life since ms that hold no task. Returns 0 or
 * -errno. */
MUST_CHECK int worker_purge(Db *db, int64_t before_ms);

/* The workers that are not stopped, latest registered first, at most WORKER_LIST_MAX.
 * Returns 0, -ENOMEM, -errno. */
MUST_CHECK int worker_list(Db *db, Arena *arena, Worker **ret, size_t *ret_n);

#endif
