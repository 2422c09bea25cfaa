#include "codec/hash.h"

#include <xxhash.h>

/* Feeds MurmurHash3 four bytes at a time, wherever a part ends. */
typedef struct {
    uint32_t h;
    uint32_t tail; /* bytes that do not fill a word yet, the first lowest */
    size_t bytes;  /* seen so far */
} Murmur;

static uint32_t rotate_left(uint32_t x, unsigned by)
{
    return x << by | x >> (32 - by);
}

static uint32_t murmur_scramble(uint32_t word)
{
    return rotate_left(word * UINT32_C(0xcc9e2d51), 15) * UINT32_C(0x1b873593);
}

static void murmur_byte(Murmur *m, unsigned char byte)
{
    m->tail |= (uint32_t)byte << 8 * (m->bytes % 4);
    if (++m->bytes % 4 != 0) return;
    m->h = rotate_left(m->h ^ murmur_scramble(m->tail), 13) * 5 + UINT32_C(0xe6546b64);
    m->tail = 0;
}

static void murmur_add(Murmur *m, Str bytes)
{
    for (size_t i = 0; i < bytes.len; i++) murmur_byte(m, (unsigned char)bytes.ptr[i]);
}

static uint32_t murmur_end(Murmur *m)
{
    uint32_t h = m->h ^ murmur_scramble(m->tail); /* an empty tail scrambles to 0 */
    h ^= (uint32_t)m->bytes;
    h = (h ^ h >> 16) * UINT32_C(0x85ebca6b);
    h = (h ^ h >> 13) * UINT32_C(0xc2b2ae35);
    return h ^ h >> 16;
}

uint32_t hash_murmur3_32(Str bytes, uint32_t seed)
{
    Murmur m = { .h = seed };
    murmur_add(&m, bytes);
    return murmur_end(&m);
}

uint32_t hash_murmur3_32_pair(Str a, Str b, uint32_t seed)
{
    Murmur m = { .h = seed };
    murmur_add(&m, a);
    murmur_byte(&m, 0);
    murmur_add(&m, b);
    return murmur_end(&m);
}

uint64_t hash_xxh64(Str bytes)
{
    return XXH64(bytes.len ? bytes.ptr : "", bytes.len, 0);
}
