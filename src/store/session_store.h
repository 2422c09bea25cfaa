/* Sessions and what agents keep in them: versioned values by key. A session belongs to one tenant
 * and one agent; a task without a session has one of its own. Functions run inside a store job.
 * Unless they say more, they return 0 or -errno with diag.
 */
#ifndef GANTRY_STORE_SESSION_STORE_H
#define GANTRY_STORE_SESSION_STORE_H

#include "store/db.h"

typedef struct {
    int64_t id;
    int64_t keys, bytes; /* that it holds; keys' own bytes count too */
    int64_t revision;    /* the last version given out; never set back */
    int64_t used_at_ms;
} Session;

/* The session of a task. Returns 0, -ENOENT (nothing was kept yet), -errno. */
MUST_CHECK int session_of_task(Db *db, int64_t task_seq, Session *ret);
MUST_CHECK int session_add(Db *db, int64_t task_seq, int64_t now_ms, Session *ret);

/* Stores keys, bytes and revision; the session counts as used now. */
MUST_CHECK int session_update(Db *db, const Session *session, int64_t now_ms);

typedef struct {
    Str key;
    int64_t version;
    int64_t bytes; /* of the value */
    int64_t updated_at_ms;
    Str content_type;
    Str value; /* only state_get */
} StateRow;

/* Texts live in arena. Returns 0, -ENOENT, -ENOMEM, -errno. */
MUST_CHECK int state_get(Db *db, int64_t session_id, Str key, Arena *arena, StateRow *ret);

/* version and bytes only. Returns 0, -ENOENT, -errno. */
MUST_CHECK int state_head(Db *db, int64_t session_id, Str key, StateRow *ret);

/* Adds the row or replaces that of its key. */
MUST_CHECK int state_put(Db *db, int64_t session_id, const StateRow *row);
MUST_CHECK int state_delete(Db *db, int64_t session_id, Str key);

/* By key, at most max. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int state_list(Db *db, int64_t session_id, size_t max, Arena *arena, StateRow **ret,
                          size_t *ret_n);

/* The session counts as used now. Returns 0, -ENOENT, -errno. */
MUST_CHECK int session_touch(Db *db, int64_t session_id, int64_t now_ms);

/* Deletes sessions that were not used since before_ms: at most max values a call. One whose tasks
 * have not all ended counts as used now instead: of tasks that have it to themselves, and of those
 * that run one after another in it. *ret_deleted: values and sessions. */
MUST_CHECK int session_purge(Db *db, int64_t before_ms, int64_t now_ms, int64_t max,
                             int64_t *ret_deleted);

#endif
