/* Map: byte-string key -> pointer, open addressing, keyed hash.
 *
 * Keys are borrowed: they must live in the value (or longer) and stay unchanged while in the map.
 * The hash is seeded, so that chosen keys cannot make it slow. Not thread-safe.
 */
#ifndef GANTRY_BASE_MAP_H
#define GANTRY_BASE_MAP_H

#include "base/str.h"

typedef struct {
    struct MapSlot *slots;
    size_t cap;  /* power of two, or 0 */
    size_t n;    /* live entries */
    size_t held; /* live entries and tombstones */
    uint64_t seed;
} Map;

/* An empty map; seed comes from entropy where keys are chosen by outsiders. */
void map_init(Map *map, uint64_t seed);

/* Frees the table, not the values. */
void map_deinit(Map *map);

/* The value of key, or NULL. */
void *map_get(const Map *map, Str key);

/* Adds or replaces (the key pointer too). Returns the value that was there before, or NULL.
 * value must not be NULL. */
void *map_put(Map *map, Str key, void *value);

/* Removes and returns the value, or NULL. */
void *map_remove(Map *map, Str key);

/* Iteration: start with *cursor = 0; returns NULL at the end. Removing the entry just returned is
 * allowed, adding is not. */
void *map_next(const Map *map, size_t *cursor);

#endif
