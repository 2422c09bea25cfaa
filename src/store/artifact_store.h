/* Artifacts: packed code, content-addressed, laid out as an OCI image layout
 * (image-spec 1.1: `oci-layout` and `blobs/sha256/<hex>` below the root). A blob once there never
 * changes. The functions block on files: call them through work_wait or on a plain thread. Several
 * threads may call at once.
 */
#ifndef GANTRY_STORE_ARTIFACT_STORE_H
#define GANTRY_STORE_ARTIFACT_STORE_H

#include "base/buf.h"

#define ARTIFACT_HEX_LEN 64
#define ARTIFACT_PATH_MAX 4096

typedef struct {
    char hex[ARTIFACT_HEX_LEN + 1]; /* SHA-256, lower case */
} ArtifactDigest;

/* Makes the layout below data_dir/artifacts if it is not there. Returns 0 or -errno with diag. */
MUST_CHECK int artifact_store_init(const char *data_dir);

/* Stores bytes durably (temporary file, fsync, rename, fsync of the directory) and gives their
 * digest. Storing what is there already changes nothing. expected (hex; may be empty): -EBADMSG
 * when the bytes have another digest. Returns 0, -ENOSPC, -errno with diag. */
MUST_CHECK int artifact_put(const char *data_dir, Str bytes, Str expected, ArtifactDigest *ret);

/* Appends the blob to out and checks its digest. Returns 0, -ENOENT, -EBADMSG (the file was
 * damaged), -EINVAL (hex is not a digest), -EFBIG (more than out takes), -errno with diag. */
MUST_CHECK int artifact_get(const char *data_dir, Str hex, Buf *out);

/* The blob's file, whether or not it exists. Returns 0, -EINVAL, -ENAMETOOLONG. */
MUST_CHECK int artifact_path(const char *data_dir, Str hex, char out[ARTIFACT_PATH_MAX]);

#endif
