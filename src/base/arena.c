#include "base/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define ARENA_ALIGN 16
#define ARENA_BLOCK_BYTES 4096

/* Under ASan every allocation gets a block of its own, so that overruns are seen. */
#if defined(__SANITIZE_ADDRESS__)
#define ARENA_SEPARATE 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_SEPARATE 1
#endif
#endif
#ifndef ARENA_SEPARATE
#define ARENA_SEPARATE 0
#endif

struct ArenaBlock {
    _Alignas(ARENA_ALIGN) ArenaBlock *next;
    size_t size; /* usable bytes behind this header */
    size_t used;
};

static char *block_bytes(ArenaBlock *b)
{
    return (char *)(b + 1);
}

void arena_init(Arena *arena, size_t max)
{
    *arena = (Arena){ .max = max };
}

void arena_deinit(Arena *arena)
{
    while (arena->blocks) {
        ArenaBlock *b = arena->blocks;
        arena->blocks = b->next;
        free(b);
    }
    arena->used = 0;
}

void arena_clear(Arena *arena)
{
    ArenaBlock *keep = NULL;
    while (arena->blocks) {
        ArenaBlock *b = arena->blocks;
        arena->blocks = b->next;
        if (!keep && !ARENA_SEPARATE && b->size + sizeof *b == ARENA_BLOCK_BYTES) keep = b;
        else free(b);
    }
    arena->used = 0;
    if (!keep) return;
    keep->next = NULL;
    keep->used = 0;
    arena->blocks = keep;
    arena->used = ARENA_BLOCK_BYTES;
}

static ArenaBlock *block_add(Arena *arena, size_t size)
{
    size_t total = size + sizeof(ArenaBlock);
    if (!ARENA_SEPARATE && total < ARENA_BLOCK_BYTES) total = ARENA_BLOCK_BYTES;
    if (total > arena->max - arena->used) total = size + sizeof(ArenaBlock);
    if (total > arena->max - arena->used) return NULL;
    ArenaBlock *b = malloc(total);
    if (!b) return NULL;
    *b = (ArenaBlock){ .next = arena->blocks, .size = total - sizeof *b };
    arena->blocks = b;
    arena->used += total;
    return b;
}

void *arena_alloc(Arena *arena, size_t size)
{
    assert(arena->used <= arena->max);
    if (size > arena->max) return NULL;
    size_t need = (MAX(size, 1) + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    ArenaBlock *b = arena->blocks;
    if (ARENA_SEPARATE || !b || b->size - b->used < need)
        b = block_add(arena, ARENA_SEPARATE ? size : need);
    if (!b) return NULL;
    void *p = block_bytes(b) + b->used;
    b->used = ARENA_SEPARATE ? b->size : b->used + need;
    return p;
}

void *arena_zalloc(Arena *arena, size_t size)
{
    void *p = arena_alloc(arena, size);
    if (p) memset(p, 0, size);
    return p;
}

void *arena_realloc(Arena *arena, void *old, size_t old_size, size_t new_size)
{
    if (!old) return arena_alloc(arena, new_size);
    if (new_size <= old_size) return old;
    ArenaBlock *b = arena->blocks;
    size_t old_need = (MAX(old_size, 1) + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    size_t new_need = (new_size + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    bool newest = !ARENA_SEPARATE && b && new_size <= arena->max &&
                  (char *)old + old_need == block_bytes(b) + b->used;
    if (newest && new_need - old_need <= b->size - b->used) {
        b->used += new_need - old_need;
        return old;
    }
    void *p = arena_alloc(arena, new_size);
    if (p) memcpy(p, old, old_size);
    return p;
}

Str arena_str(Arena *arena, Str s)
{
    char *p = s.len < SIZE_MAX ? arena_alloc(arena, s.len + 1) : NULL;
    if (!p) return STR_NULL;
    if (s.len) memcpy(p, s.ptr, s.len);
    p[s.len] = '\0';
    return (Str){ p, s.len };
}

char *arena_cstr(Arena *arena, Str s)
{
    return (char *)arena_str(arena, s).ptr;
}

Str arena_printf(Arena *arena, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) return STR_NULL;
    char *p = arena_alloc(arena, (size_t)n + 1);
    if (!p) return STR_NULL;
    va_start(args, fmt);
    vsnprintf(p, (size_t)n + 1, fmt, args);
    va_end(args);
    return (Str){ p, (size_t)n };
}
