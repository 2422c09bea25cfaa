/* Behavioural versions: rows are only ever added; triggers refuse UPDATE and DELETE. Functions run
 * inside a store job. */
#ifndef GANTRY_STORE_VERSION_STORE_H
#define GANTRY_STORE_VERSION_STORE_H

#include "store/db.h"
#include "store/page.h"

#define VERSION_ID_LEN 64        /* hex digits of the SHA-256 */
#define VERSION_PREFIX_LEN_MIN 8 /* fewer digits do not name a version */

typedef struct {
    Str id;          /* VERSION_ID_LEN hex digits */
    Str agent;       /* must exist */
    Str components;  /* canonical JSON whose SHA-256 is the id */
    Str manifest;    /* JSON, as deployed */
    Str artifact;    /* SHA-256 of the packed code, 64 hex digits; empty: no code */
    Str description; /* may be empty */
    Str git_commit;  /* may be empty */
    int64_t created_at_ms;
    int64_t seq; /* order of creation; set by the store */
} Version;

/* Adds the version. Returns 0, VERSION_E_EXISTS (a version of this id is there already: nothing was
 * changed, and the job may go on), -errno. */
#define VERSION_E_EXISTS 1
MUST_CHECK int version_insert(Db *db, const Version *version);

/* By the whole id, or a prefix of at least VERSION_PREFIX_LEN_MIN digits that only one has. Texts
 * live in arena. Returns 0, -ENOENT, VERSION_E_AMBIGUOUS, -ENOMEM (arena full), -errno. */
#define VERSION_E_AMBIGUOUS 2
MUST_CHECK int version_get(Db *db, Str id_or_prefix, Arena *arena, Version *ret);

/* Whether any version's id begins so: 0, -ENOENT, -errno. */
MUST_CHECK int version_any(Db *db, Str prefix);

/* Whether the agent has a version of this whole id: 0, -ENOENT, -errno. */
MUST_CHECK int version_check(Db *db, Str id, Str agent);

typedef struct {
    Version *versions; /* newest first; components and manifest are left empty */
    size_t n;
    PageCursor next;
} VersionPage;

/* Versions of agent (empty: of all). Returns 0, -EINVAL (cursor), -ENOMEM, -errno. */
MUST_CHECK int version_list(Db *db, Str agent, Str cursor, size_t limit, Arena *arena,
                            VersionPage *ret);

/* How many versions the agent has. Returns 0 or -errno. */
MUST_CHECK int version_count(Db *db, Str agent, int64_t *ret);

#endif
