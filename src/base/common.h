/* Language helpers used everywhere. libc only. */
#ifndef GANTRY_BASE_COMMON_H
#define GANTRY_BASE_COMMON_H

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/param.h>

/* Runs fn(&variable) when the variable leaves its scope. */
#define CLEANUP(fn) __attribute__((cleanup(fn)))

/* The result carries an error: looking at it is not optional. */
#define MUST_CHECK __attribute__((warn_unused_result))

/* Lets the compiler check format strings. fmt and first are 1-based argument numbers. */
#define PRINTF_LIKE(fmt, first) __attribute__((format(printf, fmt, first)))

#define NO_RETURN __attribute__((noreturn))

/* Moves the pointer out of p, which becomes NULL: ownership goes with the value. */
#define TAKE(p)                    \
    ({                             \
        __typeof__(p) took_ = (p); \
        (p) = NULL;                \
        took_;                     \
    })

/* Makes fn##p for CLEANUP; fn must accept NULL. */
#define DEFINE_FREEP(T, fn)         \
    static inline void fn##p(T **p) \
    {                               \
        fn(*p);                     \
    }

#define ARRAY_N(a) (sizeof(a) / sizeof((a)[0]))

#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* MIN and MAX are those of <sys/param.h>. */

/* Ends the process: used where going on would be worse than stopping (out of memory for a small
 * fixed object, a broken invariant). Prints the place and the reason on stderr. */
NO_RETURN void die_at(const char *file, int line, const char *fmt, ...) PRINTF_LIKE(3, 4);
#define DIE(...) die_at(__FILE__, __LINE__, __VA_ARGS__)

/* malloc and friends for small fixed objects: never NULL, the process ends instead. Memory whose
 * size follows input comes from an Arena or a Buf, which have a quota. */
void *xmalloc(size_t size);
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *old, size_t size);
char *xstrdup(const char *s);

/* free() for CLEANUP on any pointer variable. */
void freep(void *pointer_to_pointer);

#endif
