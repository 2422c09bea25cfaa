/* Runs a function as the first fiber of a fresh loop on this thread, and the loop to its end. */
#ifndef GANTRY_TESTS_SYS_HARNESS_H
#define GANTRY_TESTS_SYS_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "sys/fiber.h"

typedef struct {
    int (*fn)(void *arg);
    void *arg;
} HarnessMain;

static inline int harness_main(void *arg)
{
    HarnessMain *m = arg;
    int r = m->fn(m->arg);
    loop_stop(loop_here());
    return r;
}

/* cmocka's assertions jump, so no fiber may use them: fibers record, the caller asserts. */
static inline void harness_run(int (*fn)(void *arg), void *arg)
{
    HarnessMain m = { fn, arg };
    Loop *loop = loop_new("test");
    fiber_spawn_on(loop, "main", harness_main, &m);
    loop_run(loop);
    loop_free(loop);
}

#endif
