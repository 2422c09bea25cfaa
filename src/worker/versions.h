/* Versions: what this worker has fetched of behavioural versions, each once.
 *
 * A version's code is unpacked into DIR/versions/ID, its prompt and tools files are written at the
 * paths its manifest named, and the tree is then write-protected and shared by every task of that
 * version. Trees not in use are given up when there are too many. Belongs to the worker's loop; one
 * fetch of a version runs at a time, others wait for it.
 */
#ifndef GANTRY_WORKER_VERSIONS_H
#define GANTRY_WORKER_VERSIONS_H

#include "worker/fs.h"
#include "worker/link.h"
#include "worker/spec.h"

#define ARTIFACT_BYTES_MAX ((size_t)256 << 20) /* packed or not */

typedef struct Versions Versions;

/* A version ready to run; stays as it is until version_unref. */
typedef struct {
    char id[VERSION_ID_LEN + 1];
    char dir[FS_PATH_MAX]; /* absolute */
    Spec spec;
    bool pinged; /* its server has answered before */
} VersionUse;

/* dir must be absolute and hold nothing of an earlier process. */
Versions *versions_new(WorkerLink *link, const char *dir, size_t max);

/* Nothing may be in use. NULL is accepted. */
void versions_free(Versions *versions);

/* The version, fetched and unpacked unless it is there. On a fiber. Returns 0, LINK_E_NO_VERSION,
 * -EBADMSG (the code is not what its digest says), -EINVAL (components unreadable), -ECANCELED,
 * -errno; with diag. Give it back with version_unref. */
MUST_CHECK int version_ref_wait(Versions *versions, Str id, VersionUse **ret);
void version_unref(Versions *versions, VersionUse *use);

/* Fetches so far. Any thread. */
uint64_t versions_fetched(const Versions *versions);

#endif
