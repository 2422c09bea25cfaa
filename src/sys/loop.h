/* Loop: one libuv event loop with its fibers, timers and mailbox. One a thread.
 *
 * Everything that belongs to a loop (fibers, streams, timers, conditions) is touched by its thread
 * only; loop_post is the one way in from elsewhere. Callbacks of libuv and libcurl store a result
 * and make a fiber ready, nothing more.
 */
#ifndef GANTRY_SYS_LOOP_H
#define GANTRY_SYS_LOOP_H

#include "base/common.h"

typedef struct Loop Loop;
typedef struct uv_loop_s uv_loop_t;

/* A message to a loop, embedded in what it is about; run(msg) is called on the loop's thread, once.
 * The sender must not touch the message after posting. */
typedef struct LoopMsg LoopMsg;
struct LoopMsg {
    LoopMsg *next;
    void (*run)(LoopMsg *msg);
};

/* name appears in logs; borrowed. Never NULL: the process ends when there are no descriptors. */
Loop *loop_new(const char *name);

/* Frees a loop that does not run and has no fibers. NULL is accepted. */
void loop_free(Loop *loop);

/* Runs on the calling thread until loop_stop, and then until every fiber has ended and every handle
 * is closed. */
void loop_run(Loop *loop);

/* Starts a thread that does loop_run; loop_join waits for it. */
void loop_start_thread(Loop *loop);
void loop_join(Loop *loop);

/* Any thread. Cancels every fiber of the loop and lets loop_run return once they have ended. */
void loop_stop(Loop *loop);

/* Any thread. Lock-free; messages of one sender keep their order. */
void loop_post(Loop *loop, LoopMsg *msg);

/* The loop of this thread; asserts that there is one. loop_here_or_null does not assert. */
Loop *loop_here(void);
Loop *loop_here_or_null(void);

/* Milliseconds of clock_mono_ms, refreshed once a turn: cheap. */
int64_t loop_now_ms(const Loop *loop);

const char *loop_name(const Loop *loop);

/* For sys/ and net/: the libuv loop underneath. */
uv_loop_t *loop_uv(Loop *loop);

/* Number of live fibers. */
size_t loop_fibers(const Loop *loop);

/* Fiber slices and callbacks that held this loop longer than 50 ms, since start. Any thread. */
uint64_t loop_slow_slices(const Loop *loop);

/* 0 or the -errno for a negative libuv code (they are the same on Linux but for a few). */
int uv_errno(int uv_code);

#endif
