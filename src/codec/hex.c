#include "codec/hex.h"

void hex_encode(char *out, const void *bytes, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *p = bytes;
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * n] = '\0';
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

int hex_decode(Str text, void *out, size_t n)
{
    uint8_t *p = out;
    if (text.len / 2 != n || text.len % 2 != 0) return -EINVAL;
    for (size_t i = 0; i < text.len; i++)
        if (digit_value(text.ptr[i]) < 0) return -EINVAL;
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(digit_value(text.ptr[2 * i]) << 4 | digit_value(text.ptr[2 * i + 1]));
    return 0;
}
