#include "base/map.h"

#include <stdlib.h>

#define MAP_SLOTS_MIN 16

typedef struct MapSlot {
    Str key;
    uint64_t hash;
    void *value; /* NULL: free, or a tombstone when hash is TOMBSTONE */
} MapSlot;

#define TOMBSTONE UINT64_MAX

static uint64_t load64(const char *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint64_t rotl(uint64_t x, int b)
{
    return (x << b) | (x >> (64 - b));
}

#define SIP_ROUND(v0, v1, v2, v3)              \
    do {                                       \
        v0 += v1, v1 = rotl(v1, 13), v1 ^= v0; \
        v0 = rotl(v0, 32);                     \
        v2 += v3, v3 = rotl(v3, 16), v3 ^= v2; \
        v0 += v3, v3 = rotl(v3, 21), v3 ^= v0; \
        v2 += v1, v1 = rotl(v1, 17), v1 ^= v2; \
        v2 = rotl(v2, 32);                     \
    } while (0)

/* SipHash-1-3 (Aumasson & Bernstein 2012) with the key (seed, ~seed): short, and safe against
 * chosen keys as long as the seed is secret. */
static uint64_t hash_of(uint64_t seed, Str key)
{
    uint64_t v0 = seed ^ 0x736f6d6570736575, v1 = ~seed ^ 0x646f72616e646f6d;
    uint64_t v2 = seed ^ 0x6c7967656e657261, v3 = ~seed ^ 0x7465646279746573;
    size_t whole = key.len & ~(size_t)7;
    for (size_t i = 0; i < whole; i += 8) {
        uint64_t m = load64(key.ptr + i);
        v3 ^= m;
        SIP_ROUND(v0, v1, v2, v3);
        v0 ^= m;
    }
    uint64_t last = (uint64_t)key.len << 56;
    for (size_t i = whole; i < key.len; i++)
        last |= (uint64_t)(unsigned char)key.ptr[i] << 8 * (i - whole);
    v3 ^= last;
    SIP_ROUND(v0, v1, v2, v3);
    v0 ^= last;
    v2 ^= 0xff;
    for (int i = 0; i < 3; i++) SIP_ROUND(v0, v1, v2, v3);
    uint64_t h = v0 ^ v1 ^ v2 ^ v3;
    return h == TOMBSTONE ? 0 : h;
}

void map_init(Map *map, uint64_t seed)
{
    *map = (Map){ .seed = seed };
}

void map_deinit(Map *map)
{
    free(map->slots);
    map_init(map, map->seed);
}

/* The slot of key, or the free slot where it would go. The table always has a free slot. */
static MapSlot *slot_find(const Map *map, Str key, uint64_t hash)
{
    MapSlot *reuse = NULL;
    for (size_t i = hash & (map->cap - 1);; i = (i + 1) & (map->cap - 1)) {
        MapSlot *s = &map->slots[i];
        if (!s->value && s->hash != TOMBSTONE) return reuse ? reuse : s;
        if (!s->value && !reuse) reuse = s;
        if (s->value && s->hash == hash && str_eq(s->key, key)) return s;
    }
}

static void grow(Map *map)
{
    MapSlot *old = map->slots;
    size_t old_cap = map->cap;
    size_t cap = MAP_SLOTS_MIN;
    while (cap < (map->n + 1) * 2) cap *= 2;
    map->slots = xcalloc(cap, sizeof *map->slots);
    map->cap = cap;
    map->held = map->n;
    for (size_t i = 0; i < old_cap; i++)
        if (old[i].value) *slot_find(map, old[i].key, old[i].hash) = old[i];
    free(old);
}

void *map_get(const Map *map, Str key)
{
    if (map->n == 0) return NULL;
    return slot_find(map, key, hash_of(map->seed, key))->value;
}

void *map_put(Map *map, Str key, void *value)
{
    assert(value);
    if ((map->held + 1) * 4 > map->cap * 3) grow(map);
    uint64_t hash = hash_of(map->seed, key);
    MapSlot *s = slot_find(map, key, hash);
    void *before = s->value;
    if (!before) {
        map->n++;
        if (s->hash != TOMBSTONE) map->held++;
    }
    *s = (MapSlot){ .key = key, .hash = hash, .value = value };
    assert(map->n <= map->held && map->held < map->cap);
    return before;
}

void *map_remove(Map *map, Str key)
{
    if (map->n == 0) return NULL;
    MapSlot *s = slot_find(map, key, hash_of(map->seed, key));
    void *value = s->value;
    if (!value) return NULL;
    *s = (MapSlot){ .hash = TOMBSTONE };
    map->n--;
    return value;
}

void *map_next(const Map *map, size_t *cursor)
{
    while (*cursor < map->cap) {
        void *value = map->slots[(*cursor)++].value;
        if (value) return value;
    }
    return NULL;
}
