/* Idempotency keys: which task a client's key led to. Functions run inside a store job. */
#ifndef GANTRY_STORE_IDEMPOTENCY_STORE_H
#define GANTRY_STORE_IDEMPOTENCY_STORE_H

#include "codec/uuid.h"
#include "store/db.h"

/* Remembers that the tenant's key led to the task. fingerprint: digest of the request. Returns 0,
 * DB_E_CONFLICT (the key is known already), -errno. */
MUST_CHECK int idempotency_insert(Db *db, Str tenant, Str key, Str fingerprint, Uuid task_id,
                                  int64_t now_ms);

/* ret_same: the fingerprint is the one remembered. Returns 0, -ENOENT, -errno. */
MUST_CHECK int idempotency_get(Db *db, Str tenant, Str key, Str fingerprint, Uuid *ret_task_id,
                               bool *ret_same);

/* The key is as if it had never been used. Returns 0 or -errno. */
MUST_CHECK int idempotency_forget(Db *db, Str tenant, Str key);

/* Forgets keys created before ms, the oldest first, at most limit. Returns 0 or -errno. */
MUST_CHECK int idempotency_purge(Db *db, int64_t before_ms, size_t limit, int64_t *ret_n);

#endif
