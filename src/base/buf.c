#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define BUF_BYTES_MIN 128

void buf_init(Buf *buf, size_t max)
{
    assert(max < SIZE_MAX / 4);
    *buf = (Buf){ .max = max };
}

void buf_deinit(Buf *buf)
{
    free(buf->ptr);
    buf_init(buf, buf->max);
}

void buf_clear(Buf *buf)
{
    buf->len = 0;
    buf->failed = false;
    if (buf->ptr) buf->ptr[0] = '\0';
}

char *buf_reserve(Buf *buf, size_t n)
{
    assert(buf->len <= buf->max);
    if (n > buf->max - buf->len) {
        buf->failed = true;
        return NULL;
    }
    size_t need = buf->len + n + 1;
    if (need > buf->cap) {
        size_t cap = MIN(MAX(MAX(need, buf->cap * 2), BUF_BYTES_MIN), buf->max + 1);
        char *p = realloc(buf->ptr, cap);
        if (!p) {
            buf->failed = true;
            return NULL;
        }
        buf->ptr = p;
        buf->cap = cap;
    }
    return buf->ptr + buf->len;
}

void buf_added(Buf *buf, size_t n)
{
    assert(buf->len + n < buf->cap);
    buf->len += n;
    buf->ptr[buf->len] = '\0';
}

bool buf_add(Buf *buf, Str s)
{
    char *p = buf_reserve(buf, s.len);
    if (!p) return false;
    if (s.len) memcpy(p, s.ptr, s.len);
    buf_added(buf, s.len);
    return true;
}

bool buf_add_char(Buf *buf, char c)
{
    return buf_add(buf, (Str){ &c, 1 });
}

bool buf_printf(Buf *buf, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *p = n < 0 ? NULL : buf_reserve(buf, (size_t)n);
    if (!p) {
        buf->failed = true;
        return false;
    }
    va_start(args, fmt);
    vsnprintf(p, (size_t)n + 1, fmt, args);
    va_end(args);
    buf_added(buf, (size_t)n);
    return true;
}

void buf_drop(Buf *buf, size_t n)
{
    assert(n <= buf->len);
    if (n == 0) return;
    memmove(buf->ptr, buf->ptr + n, buf->len - n);
    buf->len -= n;
    buf->ptr[buf->len] = '\0';
}
