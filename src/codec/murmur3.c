#include "codec/murmur3.h"

#include <string.h>

#define KEY_BYTES_MAX 1024

static uint32_t rotate(uint32_t x, int by)
{
    return (x << by) | (x >> (32 - by));
}

static uint32_t block_mix(uint32_t k)
{
    return rotate(k * UINT32_C(0xcc9e2d51), 15) * UINT32_C(0x1b873593);
}

static uint32_t block_read(const unsigned char *p, size_t n)
{
    uint32_t k = 0;
    for (size_t i = 0; i < n; i++) k |= (uint32_t)p[i] << (8 * i);
    return k;
}

uint32_t murmur3_32(Str bytes, uint32_t seed)
{
    const unsigned char *p = (const unsigned char *)bytes.ptr;
    size_t whole = bytes.len / 4 * 4;
    uint32_t h = seed;
    for (size_t i = 0; i < whole; i += 4)
        h = rotate(h ^ block_mix(block_read(p + i, 4)), 13) * 5 + UINT32_C(0xe6546b64);
    if (whole < bytes.len) h ^= block_mix(block_read(p + whole, bytes.len - whole));
    h ^= (uint32_t)bytes.len;
    h = (h ^ (h >> 16)) * UINT32_C(0x85ebca6b);
    h = (h ^ (h >> 13)) * UINT32_C(0xc2b2ae35);
    return h ^ (h >> 16);
}

uint32_t murmur3_bucket(Str salt, Str unit)
{
    char key[KEY_BYTES_MAX];
    size_t salt_n = MIN(salt.len, sizeof key - 1);
    size_t unit_n = MIN(unit.len, sizeof key - 1 - salt_n);
    if (salt_n) memcpy(key, salt.ptr, salt_n);
    key[salt_n] = '\0';
    if (unit_n) memcpy(key + salt_n + 1, unit.ptr, unit_n);
    uint32_t h = murmur3_32(str_make(key, salt_n + 1 + unit_n), 0);
    return (uint32_t)(((uint64_t)h * BUCKETS) >> 32);
}
