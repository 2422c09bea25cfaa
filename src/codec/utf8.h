/* UTF-8: the code points of text that is known to be valid (str_is_utf8). Pure; any thread. */
#ifndef GANTRY_CODEC_UTF8_H
#define GANTRY_CODEC_UTF8_H

#include "base/str.h"

/* The code point at *at, below s.len, which moves behind it. s is valid UTF-8 from there on. */
static inline uint32_t utf8_next(Str s, size_t *at)
{
    assert(*at < s.len);
    unsigned char b = (unsigned char)s.ptr[(*at)++];
    if (b < 0x80) return b;
    uint32_t c = b >= 0xf0 ? b & 0x07u : b >= 0xe0 ? b & 0x0fu : b & 0x1fu;
    while (*at < s.len && ((unsigned char)s.ptr[*at] & 0xc0) == 0x80)
        c = c << 6 | ((unsigned char)s.ptr[(*at)++] & 0x3fu);
    return c;
}

#endif
