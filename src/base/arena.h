/* Arena: memory of one lifetime (a request, a job), freed whole.
 *
 * Invariants: used <= max; blocks are never moved, so pointers stay valid until arena_clear or
 * arena_deinit. Not thread-safe: an arena belongs to one fiber or thread at a time.
 */
#ifndef GANTRY_BASE_ARENA_H
#define GANTRY_BASE_ARENA_H

#include "base/str.h"

typedef struct ArenaBlock ArenaBlock;

typedef struct {
    ArenaBlock *blocks; /* newest first */
    size_t used;        /* bytes obtained from malloc */
    size_t max;         /* quota in bytes */
} Arena;

/* An empty arena that will hold at most max bytes. Allocates nothing yet. */
void arena_init(Arena *arena, size_t max);

/* Frees everything; the arena is as after arena_init. Usable with CLEANUP. */
void arena_deinit(Arena *arena);

/* Frees everything but one ordinary block, for the next request on the same connection. */
void arena_clear(Arena *arena);

/* size bytes aligned for any type, or NULL when the quota or memory is exhausted: sizes that follow
 * input must be checked. The contents are undefined. */
MUST_CHECK void *arena_alloc(Arena *arena, size_t size);

/* As arena_alloc, zeroed. */
MUST_CHECK void *arena_zalloc(Arena *arena, size_t size);

/* Grows the block last returned from old_size to new_size, in place when it is the newest, else by
 * a copy. NULL on exhaustion, old block untouched. */
MUST_CHECK void *arena_realloc(Arena *arena, void *old, size_t old_size, size_t new_size);

/* Copies with a final NUL (not counted in len). On exhaustion .ptr is NULL, for empty input too. */
Str arena_str(Arena *arena, Str s);
char *arena_cstr(Arena *arena, Str s);

/* The texts one after the other, as arena_str has one. */
Str arena_join(Arena *arena, const Str *parts, size_t n);

/* Formatted text, NUL-terminated; .ptr is NULL on exhaustion. */
Str arena_printf(Arena *arena, const char *fmt, ...) PRINTF_LIKE(2, 3);

#define ARENA_NEW(arena, T) ((T *)arena_zalloc((arena), sizeof(T)))
#define ARENA_ARRAY(arena, T, n) \
    ((n) > SIZE_MAX / sizeof(T) ? NULL : (T *)arena_zalloc((arena), (n) * sizeof(T)))

#endif
