/* What loop.c, fiber.c and timers share. Not for other folders. */
#ifndef GANTRY_SYS_LOOP_PRIVATE_H
#define GANTRY_SYS_LOOP_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

#include "base/diag.h"
#include "base/log.h"
#include "sys/clock.h"
#include "sys/context.h"
#include "sys/fiber.h"

/* A fiber keeps its struct and stack for the next one when it ends; id tells the lives apart. */
struct Fiber {
    ListNode ready_node; /* on loop->ready, or unlinked */
    ListNode all_node;   /* on loop->fibers while alive, on loop->spare or bare after */
    Loop *loop;
    uint64_t id; /* 0 while idle */
    const char *name;
    FiberFn fn;
    void *arg;
    Op *op; /* the pending operation, NULL when not parked */
    bool cancelled;
    unsigned shields;
    List joiners; /* Joiner.node */
    Diag diag;
    LogContext log;
    Context context;
    char *stack; /* usable bytes, above the guard page; NULL: bare */
#if HAVE_ASAN
    void *asan_fake_stack;
#endif
#if HAVE_TSAN
    void *tsan_fiber;
#endif
};

/* Under ASan a buffer is never used twice, so that a late look at one is seen. */
#define LOOP_READ_SPARE_MAX (HAVE_ASAN ? 1 : 128)

struct Loop {
    uv_loop_t uv;
    const char *name;
    pthread_t thread;
    bool has_thread;
    /* owned by the loop's thread */
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle;
    uv_timer_t timer;
    uv_poll_t bell; /* of bell_fd */
    bool stopping;
    List ready, fibers;
    List spare; /* ended, with a stack */
    List bare;  /* ended, without */
    size_t fibers_n, spare_n;
    Fiber *running;
    uint64_t next_id;
    Context context;
    Op **timers; /* binary heap by deadline_ms */
    size_t timers_n, timers_cap;
    int64_t timer_armed_ms;                /* when the uv timer fires, DEADLINE_NONE when stopped */
    char *read_spare[LOOP_READ_SPARE_MAX]; /* streams' read buffers that none needs now */
    size_t read_spare_n;
#if HAVE_ASAN
    void *asan_fake_stack;
    const void *asan_stack;
    size_t asan_stack_bytes;
#endif
#if HAVE_TSAN
    void *tsan_fiber;
#endif
    /* any thread */
    int bell_fd;                /* an eventfd, readable when there is something in the mailbox */
    atomic_int posting;         /* threads inside loop_post or loop_stop */
    _Atomic(LoopMsg *) mailbox; /* newest first */
    atomic_bool stop_wanted;
    atomic_uint_fast64_t slow_slices;
};

#define LOOP_FIBERS_MAX 30000
#define LOOP_SPARE_MAX 256
#define LOOP_SLOW_US 50000

/* fiber.c */
void fibers_run_ready(Loop *loop);
void fibers_cancel_all(Loop *loop);
void fibers_free_spare(Loop *loop);
void op_cancel(Op *op, int code);

/* timers.c: the heap of operations with a deadline */
void timers_add(Loop *loop, Op *op);
void timers_remove(Loop *loop, Op *op);
void timers_fire(Loop *loop);
void timers_rearm(Loop *loop);

#endif
