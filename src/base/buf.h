/* Buf: a growing byte buffer with a hard maximum.
 *
 * Invariants: len <= cap <= max + 1; ptr is NUL-terminated whenever it is not NULL. A failed append
 * adds nothing and sets .failed, which stays set until buf_clear: a caller may append many times
 * and check once at the end. Owned by one fiber or thread.
 */
#ifndef GANTRY_BASE_BUF_H
#define GANTRY_BASE_BUF_H

#include "base/str.h"

typedef struct {
    char *ptr;
    size_t len;
    size_t cap;
    size_t max;  /* bytes of content allowed */
    bool failed; /* an append did not fit, or memory ran out */
} Buf;

/* An empty buffer that will hold at most max bytes. Allocates nothing yet. */
void buf_init(Buf *buf, size_t max);

/* Frees the memory; the buffer is as after buf_init. Usable with CLEANUP. */
void buf_deinit(Buf *buf);

/* Empties the buffer and keeps its memory, for reuse. */
void buf_clear(Buf *buf);

/* Appends. Returns false (and sets .failed) when it would pass max or memory ran out. */
bool buf_add(Buf *buf, Str s);
bool buf_add_char(Buf *buf, char c);
bool buf_printf(Buf *buf, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Room for n more bytes at the returned place, or NULL as above; buf_added(n) then counts what was
 * written there. */
char *buf_reserve(Buf *buf, size_t n);
void buf_added(Buf *buf, size_t n);

/* Drops the first n bytes (n <= len), moving the rest to the front. */
void buf_drop(Buf *buf, size_t n);

/* The contents; valid until the next change. */
static inline Str buf_str(const Buf *buf)
{
    return (Str){ buf->ptr, buf->len };
}

#endif
