/* Fibers: straight-line code on a loop.
 *
 * A fiber runs until a function ending in _wait parks it. It never changes thread. Rules: hold no
 * lock, no check-then-act and no pointer into a shared container across a _wait. Stacks are
 * FIBER_STACK_BYTES with a guard page: no big local arrays, no recursion on input.
 *
 * Cancelling: fiber_cancel makes the pending _wait, and every later one, return -ECANCELED (one
 * that cannot be abandoned, such as a store call, returns its own result first). The fiber unwinds
 * by ordinary returns; its cleanups must not wait. A _wait returns only when nothing refers to the
 * caller's stack any more.
 */
#ifndef GANTRY_SYS_FIBER_H
#define GANTRY_SYS_FIBER_H

#include "base/list.h"
#include "sys/loop.h"

typedef struct Fiber Fiber;

/* The result is for fiber_join_wait. */
typedef int (*FiberFn)(void *arg);

#define FIBER_STACK_BYTES (64 * 1024)

/* Names a fiber that may have ended: id is never reused. */
typedef struct {
    Fiber *fiber;
    uint64_t id;
} FiberRef;

/* Starts fn(arg) on this thread's loop; it first runs when the caller parks or returns to the loop.
 * name must outlive the fiber (a literal). ret may be NULL: nobody joins. Returns 0, -EAGAIN when
 * the loop has its maximum of fibers or is stopping, -ENOMEM. */
MUST_CHECK int fiber_spawn(const char *name, FiberFn fn, void *arg, FiberRef *ret);

/* As fiber_spawn, from any thread onto any loop; the fiber is started by a message. Never fails for
 * want of memory; a loop that is stopping ignores it. */
void fiber_spawn_on(Loop *loop, const char *name, FiberFn fn, void *arg);

/* Cancels the fiber if it still lives; harmless else. Same loop. */
void fiber_cancel(FiberRef ref);

/* Waits for the end of a fiber of this loop (at once if it has ended). Returns 0, -ECANCELED when
 * the caller was cancelled (the other goes on). ret_result (may be NULL) is what fn returned; only
 * known when the fiber still lived: else left untouched. */
int fiber_join_wait(FiberRef ref, int *ret_result);

/* The running fiber; asserts that there is one. */
FiberRef fiber_self(void);
bool fiber_is_running(void); /* the caller is on a fiber */
bool fiber_cancelled(void);  /* the running fiber has been cancelled */

/* Suspends cancellation for the running fiber (counted), so that a last write or report can be
 * awaited while unwinding; bounded use only: give such waits a deadline. */
void fiber_shield(void);
void fiber_unshield(void);

/* Lets others run. Returns 0 or -ECANCELED. */
int fiber_yield_wait(void);
/* Returns 0 after duration_ms, or -ECANCELED. */
int fiber_sleep_wait(int64_t duration_ms);

/* --- building waits (sys/, net/, store/) ------------------------------------------------------ */

typedef struct Op Op;
/* Asks the owner of the operation to give up; called at most once, on the loop's thread. It leads
 * to op_done(op, code) now or later. NULL: the operation cannot be abandoned. */
typedef void (*OpCancelFn)(Op *op, int code);

/* One pending operation of one fiber; lives on its stack. */
struct Op {
    Fiber *fiber;
    OpCancelFn cancel;
    int result;
    bool done;
    bool parked;
    bool cancelling;
    int64_t deadline_ms;
    size_t timer_index; /* in the loop's timer heap, SIZE_MAX when not armed */
};

/* Prepares op for the running fiber. */
void op_init(Op *op, OpCancelFn cancel);

/* Parks until op_done. deadline_ms is clock_mono_ms time or DEADLINE_NONE: when it passes, cancel
 * is called with -ETIMEDOUT; on fiber_cancel with -ECANCELED. Returns what op_done was given. */
int op_wait(Op *op, int64_t deadline_ms);

/* Ends the operation: its fiber becomes ready. On the loop's thread; once. Ready fibers run from
 * the loop, never from inside this call. */
void op_done(Op *op, int result);

/* --- condition: fibers of one loop waiting for something -------------------------------------- */

typedef struct {
    List waiting;
} Cond;

void cond_init(Cond *cond);
/* Returns 0 when signalled, -ETIMEDOUT, -ECANCELED. Check the condition again afterwards. */
int cond_wait(Cond *cond, int64_t deadline_ms);
void cond_signal(Cond *cond);    /* wakes one, in order of arrival */
void cond_broadcast(Cond *cond); /* wakes all */

/* --- other loops ------------------------------------------------------------------------------ */

/* Runs fn(arg) on a fiber of another loop and returns its result; -EAGAIN or -ENOMEM when that loop
 * starts no more fibers. Cannot be abandoned: a cancelled caller still waits for fn. */
int loop_call_wait(Loop *loop, const char *name, FiberFn fn, void *arg);

/* --- work off the loop ------------------------------------------------------------------------ */

/* Runs fn(arg) on libuv's thread pool and returns its result: for files, hashing, unpacking. Cannot
 * be abandoned: a cancelled caller still waits for fn. diag set by fn is carried over. */
int work_wait(int (*fn)(void *arg), void *arg);

#endif
