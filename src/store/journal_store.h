/* Journal: what models and tools answered a task, to be served again to its later attempts
 * (logic/replay.h). Functions run inside a store job.
 *
 * A recording belongs to a task, the version it ran and the attempt that made it, and has a number,
 * counted from 1 in the task. A task's journal is bounded: when it is full it is closed, and
 * nothing more of the task is recorded.
 */
#ifndef GANTRY_STORE_JOURNAL_STORE_H
#define GANTRY_STORE_JOURNAL_STORE_H

#include "codec/uuid.h"
#include "logic/replay.h"
#include "store/db.h"

/* Bytes as they are kept. */
typedef struct {
    Str bytes;
    bool gzip; /* compressed */
    int64_t n; /* of the bytes themselves */
} JournalBytes;

/* A request, in canonical form: what it does not share with an earlier one. */
typedef struct {
    JournalBytes rest;
    Str base; /* call_id of the earlier one; empty: none, rest is all of it */
    ReplayShare share;
    int64_t n; /* bytes of the whole; 0: not kept */
} JournalRequest;

#define JOURNAL_CHAIN_MAX 64 /* requests that are kept against one another */
#define JOURNAL_NAME_MAX 128

/* A recording to be kept. */
typedef struct {
    ReplayKind kind;
    Str name;    /* the API of a model call, the name of a tool; at most JOURNAL_NAME_MAX */
    Str call_id; /* by which it is known; may be empty */
    uint8_t key[SHA256_BYTES];
    int64_t at_ms;
    int64_t status; /* HTTP; of a tool 0 or what its caller makes of it */
    Str content_type;
    bool streamed;
    bool complete; /* else it is known that there was such a call, and it is never served */
    JournalBytes answer;
    JournalRequest request;
} JournalNew;

/* A recording without its bytes. */
typedef struct {
    int64_t n;
    int64_t attempt;
    ReplayKind kind;
    Str name, call_id;
    uint8_t key[SHA256_BYTES];
    int64_t at_ms, status;
    Str content_type;
    bool streamed, complete;
    int64_t answer_bytes, request_bytes; /* before they were compressed */
} JournalRow;

typedef struct {
    int64_t bytes_max; /* kept of a task */
    int64_t recordings_max;
} JournalLimits;

/* How full a task's journal is. */
typedef struct {
    int64_t recordings, bytes; /* kept */
    bool closed;               /* it was full */
} JournalFill;

/* Whose recording it is. */
typedef struct {
    int64_t task_seq, attempt;
    Str version_id;
    int64_t call_row; /* the row's id in the table of calls; 0: it belongs to no call */
} JournalOf;

#define JOURNAL_CALL_ID_KEPT 63

/* The call whose request was kept last, remembered by whom adds often; zero: unknown. */
typedef struct {
    int64_t row;
    char call_id[JOURNAL_CALL_ID_KEPT + 1];
} JournalLast;

/* Adds a recording of a task that is there. fill: as journal_fill_read has it; what becomes of it
 * is the caller's to write into the task's row. last: or NULL; is kept up. Returns 0,
 * JOURNAL_E_CLOSED (nothing was kept: it was full, or is now), -errno. */
#define JOURNAL_E_CLOSED 1
MUST_CHECK int journal_add(Db *db, const JournalOf *of, const JournalNew *recording,
                           const JournalLimits *limits, JournalFill *fill, JournalLast *last);

/* Returns 0, -ENOENT (no such task), -errno. */
MUST_CHECK int journal_fill_read(Db *db, int64_t task_seq, JournalFill *ret);
MUST_CHECK int journal_fill_write(Db *db, int64_t task_seq, const JournalFill *fill);

/* Whether the task has a recording of that call_id that belongs to no call. Returns 0 (it has),
 * -ENOENT, -errno. */
MUST_CHECK int journal_has(Db *db, int64_t task_seq, Str call_id);

/* Whether an attempt has recorded an answer that may be served. Returns 0 (it has), -ENOENT,
 * -errno. */
MUST_CHECK int journal_grew(Db *db, int64_t task_seq, int64_t attempt);

/* Counts calls that were not served. Returns 0 or -errno. */
MUST_CHECK int journal_add_misses(Db *db, int64_t task_seq, int64_t misses, int64_t now_ms);

/* What is recorded so far is served to no later attempt, but stays. Returns 0 or -errno. */
MUST_CHECK int journal_retire(Db *db, int64_t task_seq);

/* Calls of later attempts that were not served. Returns 0 or -errno. */
MUST_CHECK int journal_misses(Db *db, int64_t task_seq, int64_t *ret);

/* Recordings numbered above after, at most max; servable: those alone that were made under the
 * version the task has now, and are not retired. Texts live in arena. Returns 0, -ENOMEM,
 * -errno. */
MUST_CHECK int journal_list(Db *db, int64_t task_seq, bool servable, int64_t after, size_t max,
                            Arena *arena, JournalRow **ret, size_t *ret_n);

/* One recording. Returns 0, -ENOENT, -ENOMEM, -errno. */
MUST_CHECK int journal_get(Db *db, int64_t task_seq, int64_t n, Arena *arena, JournalRow *ret);

/* Its answer, as kept; the bytes live in arena. Returns 0, -ENOENT, -ENOMEM, -errno. */
MUST_CHECK int journal_answer(Db *db, int64_t task_seq, int64_t n, Arena *arena, JournalBytes *ret);

/* The rows of the task's recordings: (*ret)[n - 1] is the row of the one that is numbered n, 0
 * where there is none. Goes through all calls of the task. Returns 0, -ENOENT (no such task),
 * -ENOMEM, -errno. */
MUST_CHECK int journal_places(Db *db, int64_t task_seq, Arena *arena, int64_t **ret, size_t *ret_n);

/* As journal_get and journal_answer, of the recording numbered n if it is in that row. */
MUST_CHECK int journal_at(Db *db, int64_t task_seq, int64_t n, int64_t place, Arena *arena,
                          JournalRow *ret, JournalBytes *ret_answer);

/* Appends its request. Returns 0, -ENOENT (also when the request was not kept), -EINVAL (damaged),
 * -ENOMEM, -EFBIG, -errno. */
MUST_CHECK int journal_request(Db *db, int64_t task_seq, int64_t n, Buf *out);

/* Deletes recordings of tasks at rest since before_ms, at most rows_max a call, of a few tasks.
 * *ret_n: how many. *ret_more: there may be others. Returns 0 or -errno. */
MUST_CHECK int journal_purge(Db *db, int64_t before_ms, int64_t now_ms, size_t rows_max,
                             int64_t *ret_n, bool *ret_more);

#endif
