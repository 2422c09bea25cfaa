/* Context: a stack to switch to.
 *
 * On x86-64 and AArch64 a switch keeps what the calling convention says a function keeps, and no
 * more. ucontext, used elsewhere and under sanitizers, sets the signal mask as well: two system
 * calls a switch, six a model call. Private to sys/.
 */
#ifndef GANTRY_SYS_CONTEXT_H
#define GANTRY_SYS_CONTEXT_H

#include "base/common.h"

#if defined(__SANITIZE_ADDRESS__)
#define HAVE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAVE_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define HAVE_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HAVE_TSAN 1
#endif
#endif
#ifndef HAVE_ASAN
#define HAVE_ASAN 0
#endif
#ifndef HAVE_TSAN
#define HAVE_TSAN 0
#endif

#if (defined(__x86_64__) || defined(__aarch64__)) && !HAVE_ASAN && !HAVE_TSAN
#define CONTEXT_OURS 1
typedef struct {
    void *sp; /* below it lies what was saved */
} Context;
#else
#include <ucontext.h>
#define CONTEXT_OURS 0
typedef ucontext_t Context;
#endif

/* Prepares a context that begins with main on that stack. main must not return. */
void context_make(Context *context, char *stack, size_t stack_bytes, void (*main)(void));

/* Saves where the caller is in *from and goes on with *to. Returns when somebody switches back. */
void context_switch(Context *from, const Context *to);

#endif
