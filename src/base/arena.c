#include "base/arena.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define ARENA_ALIGN 16
#define ARENA_BLOCK_BYTES 4096
#define ARENA_SPARE_MAX 64

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

/* --- spare blocks ----------------------------------------------------------------------------- */

/* Blocks of the usual size go round in their thread: the allocator would join them with what is
 * beside them and cut them out again, for every request. */
typedef struct {
    ArenaBlock *list;
    size_t n;
} Spare;

static _Thread_local Spare spare;
static pthread_key_t spare_key;

static void spare_free(void *arg)
{
    Spare *s = arg;
    while (s->list) {
        ArenaBlock *b = s->list;
        s->list = b->next;
        free(b);
    }
    s->n = 0;
}

static void spare_setup(void)
{
    if (pthread_key_create(&spare_key, spare_free) != 0) DIE("no key for the memory of threads");
}

/* The thread gives them back when it ends. */
static void spare_begin(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, spare_setup);
    (void)pthread_setspecific(spare_key, &spare);
}

static bool is_usual(const ArenaBlock *b)
{
    return b->size + sizeof *b == ARENA_BLOCK_BYTES;
}

static void block_free(ArenaBlock *b)
{
    if (ARENA_SEPARATE || !is_usual(b) || spare.n == ARENA_SPARE_MAX) {
        free(b);
        return;
    }
    if (!spare.list) spare_begin();
    b->next = spare.list;
    spare.list = b;
    spare.n++;
}

static ArenaBlock *block_new(size_t total)
{
    ArenaBlock *b = spare.list;
    if (total != ARENA_BLOCK_BYTES || !b) return malloc(total);
    spare.list = b->next;
    spare.n--;
    return b;
}

/* --- arenas ----------------------------------------------------------------------------------- */

void arena_init(Arena *arena, size_t max)
{
    *arena = (Arena){ .max = max };
}

void arena_deinit(Arena *arena)
{
    while (arena->blocks) {
        ArenaBlock *b = arena->blocks;
        arena->blocks = b->next;
        block_free(b);
    }
    arena->used = 0;
}

void arena_clear(Arena *arena)
{
    ArenaBlock *keep = NULL;
    while (arena->blocks) {
        ArenaBlock *b = arena->blocks;
        arena->blocks = b->next;
        if (!keep && !ARENA_SEPARATE && is_usual(b)) keep = b;
        else block_free(b);
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
    ArenaBlock *b = block_new(total);
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

Str arena_join(Arena *arena, const Str *parts, size_t n)
{
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        if (parts[i].len >= SIZE_MAX - len) return STR_NULL;
        len += parts[i].len;
    }
    char *p = arena_alloc(arena, len + 1), *at = p;
    if (!p) return STR_NULL;
    for (size_t i = 0; i < n; i++) {
        if (parts[i].len) memcpy(at, parts[i].ptr, parts[i].len);
        at += parts[i].len;
    }
    *at = '\0';
    return (Str){ p, len };
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
