#include "codec/base64.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

size_t base64_encode(char *out, Str bytes)
{
    const uint8_t *p = (const uint8_t *)bytes.ptr;
    size_t n = 0;
    for (size_t i = 0; i < bytes.len; i += 3) {
        size_t have = MIN(bytes.len - i, 3);
        uint32_t group = (uint32_t)p[i] << 16;
        if (have > 1) group |= (uint32_t)p[i + 1] << 8;
        if (have > 2) group |= p[i + 2];
        out[n++] = alphabet[group >> 18];
        out[n++] = alphabet[group >> 12 & 63];
        out[n++] = have > 1 ? alphabet[group >> 6 & 63] : '=';
        out[n++] = have > 2 ? alphabet[group & 63] : '=';
    }
    out[n] = '\0';
    return n;
}

int base64_add(Buf *buf, Str bytes)
{
    char *out = bytes.len < SIZE_MAX / 2 ? buf_reserve(buf, BASE64_TEXT_MAX(bytes.len) - 1) : NULL;
    if (!out) return -ENOMEM;
    buf_added(buf, base64_encode(out, bytes)); /* a Buf has room for the NUL */
    return 0;
}

static int char_value(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == '+') return 62;
    if (c == '/') return 63;
    return -1;
}

/* Four characters, of which the last pad are '='. */
static int group_decode(const char *in, size_t pad, uint8_t *out)
{
    uint32_t group = 0;
    for (size_t i = 0; i < 4; i++) {
        int value = i < 4 - pad ? char_value(in[i]) : 0;
        if (value < 0) return -EINVAL;
        group = group << 6 | (uint32_t)value;
    }
    if (group & ((1u << 8 * pad) - 1)) return -EINVAL; /* bits that stand for nothing */
    for (size_t i = 0; i < 3 - pad; i++) out[i] = (uint8_t)(group >> (16 - 8 * i));
    return 0;
}

int base64_decode(Str text, void *out, size_t *ret_n)
{
    uint8_t *bytes = out;
    size_t n = 0;
    if (text.len % 4 != 0) return -EINVAL;
    for (size_t i = 0; i < text.len; i += 4) {
        size_t pad = 0;
        if (i + 4 == text.len && text.ptr[i + 3] == '=') pad = text.ptr[i + 2] == '=' ? 2 : 1;
        int r = group_decode(text.ptr + i, pad, bytes + n);
        if (r < 0) return r;
        n += 3 - pad;
    }
    *ret_n = n;
    return 0;
}
