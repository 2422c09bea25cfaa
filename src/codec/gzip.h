/* gzip (RFC 1952), whole messages, on zlib. Any thread; a message takes CPU time in proportion to
 * its size, so large ones belong on a worker thread.
 *
 * zlib obtains its window itself (at most 270 kB, freed before return); everything that follows
 * input is in the Buf. Compressed bytes may differ between zlib releases: hash the contents, never
 * the compressed form.
 */
#ifndef GANTRY_CODEC_GZIP_H
#define GANTRY_CODEC_GZIP_H

#include "base/buf.h"

/* Appends one gzip member: no name, mtime 0, a fixed level. Returns 0 or -ENOMEM (out full). */
MUST_CHECK int gzip_compress(Str bytes, Buf *out);

/* The same at zlib's fastest level: for what repeats itself and is compressed while somebody waits.
 */
MUST_CHECK int gzip_compress_fast(Str bytes, Buf *out);

/* Appends what bytes, exactly one complete member, unpack to. Stops at out's maximum, so a bomb
 * costs no more than that. Returns 0, -EINVAL (not gzip, damaged, truncated, or bytes follow it),
 * -EFBIG (more than out may hold), -ENOMEM; with diag. After a failure out keeps a part. */
MUST_CHECK int gzip_decompress(Str bytes, Buf *out);

#endif
