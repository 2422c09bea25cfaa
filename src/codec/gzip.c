#include "codec/gzip.h"

#include <zlib.h>

#include "base/diag.h"

#define LEVEL 6
#define LEVEL_FAST 1
#define WINDOW_BITS 15
#define GZIP_BITS (WINDOW_BITS + 16) /* zlib: a gzip wrapper, nothing else */
#define MEMORY_LEVEL 8
#define OS_UNKNOWN 255
#define CHUNK_BYTES 65536

/* Next input for zlib, whose counters have 32 bits. Returns whether that was the last. */
static bool input_give(z_stream *z, Str *rest)
{
    size_t n = MIN(rest->len, UINT32_MAX);
    z->next_in = (Bytef *)(rest->ptr ? rest->ptr : "");
    z->avail_in = (uInt)n;
    *rest = str_skip(*rest, n);
    return rest->len == 0;
}

/* Room for output: what is left of the Buf, in pieces. 0 when the Buf is full or memory ran out. */
static size_t output_give(z_stream *z, Buf *out)
{
    size_t n = MIN(out->max - out->len, CHUNK_BYTES);
    char *room = n > 0 ? buf_reserve(out, n) : NULL;
    z->next_out = (Bytef *)room;
    z->avail_out = room ? (uInt)n : 0;
    return z->avail_out;
}

static int compress_at(int level, Str bytes, Buf *out)
{
    z_stream z = { 0 };
    gz_header header = { .os = OS_UNKNOWN };
    assert(!out->failed);
    if (deflateInit2(&z, level, Z_DEFLATED, GZIP_BITS, MEMORY_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK)
        return diag_set(-ENOMEM, "no memory to compress with");
    int status = deflateSetHeader(&z, &header);
    assert(status == Z_OK);
    bool last = input_give(&z, &bytes);
    while (status != Z_STREAM_END) {
        if (z.avail_in == 0 && !last) last = input_give(&z, &bytes);
        size_t room = output_give(&z, out);
        if (room == 0) break;
        status = deflate(&z, last ? Z_FINISH : Z_NO_FLUSH);
        assert(status != Z_STREAM_ERROR);
        buf_added(out, room - z.avail_out);
    }
    deflateEnd(&z);
    if (status == Z_STREAM_END) return 0;
    return diag_set(-ENOMEM, "compressed data over %zu bytes", out->max);
}

int gzip_compress(Str bytes, Buf *out)
{
    return compress_at(LEVEL, bytes, out);
}

int gzip_compress_fast(Str bytes, Buf *out)
{
    return compress_at(LEVEL_FAST, bytes, out);
}

/* Why inflate stopped: status, and whether the byte beyond the maximum was written. */
static int inflate_fail(int status, const z_stream *z, const Buf *out, bool spilt)
{
    if (spilt) return diag_set(-EFBIG, "more than %zu bytes when uncompressed", out->max);
    if (out->failed || status == Z_MEM_ERROR) return diag_set(-ENOMEM, "no memory to uncompress");
    if (status == Z_STREAM_END) return diag_set(-EINVAL, "data follows the end of the gzip data");
    if (status == Z_OK || status == Z_BUF_ERROR)
        return diag_set(-EINVAL, "the gzip data is cut short");
    return diag_set(-EINVAL, "not gzip data: %s", z->msg ? z->msg : "a dictionary is asked for");
}

int gzip_decompress(Str bytes, Buf *out)
{
    z_stream z = { 0 };
    Bytef spill; /* a full Buf may yet be right: only the checksum may be left to read */
    int status = Z_OK;
    bool spilt = false;
    assert(!out->failed);
    if (inflateInit2(&z, GZIP_BITS) != Z_OK)
        return diag_set(-ENOMEM, "no memory to uncompress with");
    while (status == Z_OK && !spilt) {
        if (z.avail_in == 0) input_give(&z, &bytes);
        size_t room = output_give(&z, out);
        if (out->failed) break;
        if (room == 0) z.next_out = &spill, z.avail_out = 1;
        status = inflate(&z, Z_NO_FLUSH);
        if (room > 0) buf_added(out, room - z.avail_out);
        else spilt = z.avail_out == 0;
    }
    int r = 0;
    if (status != Z_STREAM_END || spilt || z.avail_in > 0 || bytes.len > 0)
        r = inflate_fail(status, &z, out, spilt);
    inflateEnd(&z);
    return r;
}
