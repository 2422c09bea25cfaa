#include "sys/fiber.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sys/loop_private.h"

#if HAVE_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#if HAVE_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#define STACK_BYTES (HAVE_ASAN || HAVE_TSAN ? 8 * FIBER_STACK_BYTES : FIBER_STACK_BYTES)
#define READY_PASSES_MAX 16

typedef struct {
    ListNode node; /* on the joined fiber's joiners */
    Op op;
    int result;
    bool known;
} Joiner;

typedef struct {
    ListNode node; /* on the condition's list, unlinked once woken */
    Op op;
} CondWaiter;

typedef struct {
    uv_work_t work;
    Op op;
    int (*fn)(void *arg);
    void *arg;
    int result;
    Diag diag;
} Work;

typedef struct {
    LoopMsg msg;
    const char *name;
    FiberFn fn;
    void *arg;
} SpawnMsg;

/* --- switching -------------------------------------------------------------------------------- */

static void enter_fiber(Loop *loop, Fiber *f)
{
    Diag *diag = diag_switch(&f->diag);
    LogContext *log = log_context_switch(&f->log);
    loop->running = f;
#if HAVE_ASAN
    __sanitizer_start_switch_fiber(&loop->asan_fake_stack, f->stack, STACK_BYTES);
#endif
#if HAVE_TSAN
    loop->tsan_fiber = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(f->tsan_fiber, 0);
#endif
    context_switch(&loop->context, &f->context);
#if HAVE_ASAN
    __sanitizer_finish_switch_fiber(loop->asan_fake_stack, NULL, NULL);
#endif
    loop->running = NULL;
    log_context_switch(log);
    diag_switch(diag);
}

static void leave_fiber(Fiber *f)
{
    Loop *loop = f->loop;
#if HAVE_ASAN
    __sanitizer_start_switch_fiber(&f->asan_fake_stack, loop->asan_stack, loop->asan_stack_bytes);
#endif
#if HAVE_TSAN
    __tsan_switch_to_fiber(loop->tsan_fiber, 0);
#endif
    context_switch(&f->context, &loop->context);
#if HAVE_ASAN
    __sanitizer_finish_switch_fiber(f->asan_fake_stack, &loop->asan_stack, &loop->asan_stack_bytes);
#endif
}

static void make_ready(Fiber *f)
{
    assert(!list_linked(&f->ready_node));
    list_push_back(&f->loop->ready, &f->ready_node);
}

static void finish_life(Fiber *f, int result)
{
    Loop *loop = f->loop;
    assert(!f->op && f->shields == 0);
    LIST_EACH (&f->joiners, node) {
        Joiner *j = CONTAINER_OF(node, Joiner, node);
        list_remove(node);
        j->result = result;
        j->known = true;
        op_done(&j->op, 0);
    }
    f->id = 0;
    list_remove(&f->all_node);
    list_push_front(&loop->spare, &f->all_node);
    loop->fibers_n--;
    loop->spare_n++;
}

/* A fiber's stack runs one life after another, so that a spawn costs no new context. */
static void fiber_main(void)
{
    Fiber *f = loop_here()->running;
#if HAVE_ASAN
    __sanitizer_finish_switch_fiber(NULL, &f->loop->asan_stack, &f->loop->asan_stack_bytes);
#endif
    for (;;) {
        finish_life(f, f->fn(f->arg));
        leave_fiber(f);
    }
}

/* --- stacks ----------------------------------------------------------------------------------- */

static char *stack_map(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *base = mmap(NULL, STACK_BYTES + page, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (base == MAP_FAILED) return NULL;
    if (mprotect(base, page, PROT_NONE) != 0) {
        munmap(base, STACK_BYTES + page);
        return NULL;
    }
    return base + page;
}

static void fiber_unmap(Fiber *f)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
#if HAVE_TSAN
    __tsan_destroy_fiber(f->tsan_fiber);
#endif
    munmap(f->stack - page, STACK_BYTES + page);
    f->stack = NULL;
}

static int fiber_map(Fiber *f)
{
    f->stack = stack_map();
    if (!f->stack) return -ENOMEM;
    context_make(&f->context, f->stack, STACK_BYTES, fiber_main);
#if HAVE_TSAN
    f->tsan_fiber = __tsan_create_fiber(0);
#endif
    return 0;
}

static Fiber *fiber_new(Loop *loop)
{
    Fiber *f = xcalloc(1, sizeof *f);
    f->loop = loop;
    list_init(&f->ready_node);
    list_init(&f->all_node);
    list_init(&f->joiners);
    return f;
}

static Fiber *pop(List *list)
{
    ListNode *node = list_pop_front(list);
    return node ? CONTAINER_OF(node, Fiber, all_node) : NULL;
}

/* Structs are kept for as long as the loop lives, because a FiberRef may point at one whose fiber
 * ended long ago; only stacks beyond the spare ones are given back. */
static void trim_spare(Loop *loop)
{
    for (; loop->spare_n > LOOP_SPARE_MAX; loop->spare_n--) {
        Fiber *f = pop(&loop->spare);
        fiber_unmap(f);
        list_push_front(&loop->bare, &f->all_node);
    }
}

void fibers_free_spare(Loop *loop)
{
    for (Fiber *f; (f = pop(&loop->spare));) {
        fiber_unmap(f);
        free(f);
    }
    for (Fiber *f; (f = pop(&loop->bare));) free(f);
    loop->spare_n = 0;
}

static Fiber *fiber_take(Loop *loop)
{
    Fiber *f = pop(&loop->spare);
    if (f) {
        loop->spare_n--;
        return f;
    }
    f = pop(&loop->bare);
    if (!f) f = fiber_new(loop);
    if (fiber_map(f) == 0) return f;
    list_push_front(&loop->bare, &f->all_node);
    return NULL;
}

/* --- the ready queue -------------------------------------------------------------------------- */

static void run_slice(Loop *loop, Fiber *f)
{
    const char *name = f->name;
    int64_t began_us = clock_mono_us();
    enter_fiber(loop, f);
    int64_t took_us = clock_mono_us() - began_us;
    if (took_us < LOOP_SLOW_US) return;
    atomic_fetch_add(&loop->slow_slices, 1);
    LOG_WARN("loop held up", LOG_CSTR("loop", loop->name), LOG_CSTR("fiber", name),
             LOG_INT("us", took_us));
}

static void on_idle(uv_idle_t *handle)
{
    (void)handle; /* being active keeps the poll from blocking while fibers are ready */
}

void fibers_run_ready(Loop *loop)
{
    assert(!loop->running);
    for (int pass = 0; pass < READY_PASSES_MAX && !list_empty(&loop->ready); pass++) {
        List batch;
        list_init(&batch);
        list_move_all(&batch, &loop->ready);
        for (ListNode *node; (node = list_pop_front(&batch));)
            run_slice(loop, CONTAINER_OF(node, Fiber, ready_node));
    }
    trim_spare(loop);
    if (uv_is_closing((uv_handle_t *)&loop->idle)) return;
    if (list_empty(&loop->ready)) uv_idle_stop(&loop->idle);
    else uv_idle_start(&loop->idle, on_idle);
}

void fibers_cancel_all(Loop *loop)
{
    LIST_EACH (&loop->fibers, node) {
        Fiber *f = CONTAINER_OF(node, Fiber, all_node);
        fiber_cancel((FiberRef){ f, f->id });
    }
}

/* --- life ------------------------------------------------------------------------------------- */

int fiber_spawn(const char *name, FiberFn fn, void *arg, FiberRef *ret)
{
    Loop *loop = loop_here();
    if (loop->stopping) return diag_set(-EAGAIN, "the event loop is stopping");
    if (loop->fibers_n >= LOOP_FIBERS_MAX)
        return diag_set(-EAGAIN, "more than %d fibers on one loop", LOOP_FIBERS_MAX);
    Fiber *f = fiber_take(loop);
    if (!f) return diag_set(-ENOMEM, "no memory for another fiber");
    f->id = loop->next_id++;
    f->name = name;
    f->fn = fn;
    f->arg = arg;
    f->cancelled = false;
    f->diag.text[0] = '\0';
    f->log = (LogContext){ 0 };
    list_push_back(&loop->fibers, &f->all_node);
    loop->fibers_n++;
    make_ready(f);
    if (ret) *ret = (FiberRef){ f, f->id };
    return 0;
}

static void spawn_posted(LoopMsg *msg)
{
    SpawnMsg *spawn = CONTAINER_OF(msg, SpawnMsg, msg);
    int r = fiber_spawn(spawn->name, spawn->fn, spawn->arg, NULL);
    if (r < 0)
        LOG_ERROR("fiber not started", LOG_CSTR("fiber", spawn->name),
                  LOG_CSTR("why", diag_text_or(r)));
    free(spawn);
}

void fiber_spawn_on(Loop *loop, const char *name, FiberFn fn, void *arg)
{
    SpawnMsg *spawn = xmalloc(sizeof *spawn);
    *spawn = (SpawnMsg){ .msg.run = spawn_posted, .name = name, .fn = fn, .arg = arg };
    loop_post(loop, &spawn->msg);
}

static bool is_alive(FiberRef ref)
{
    return ref.fiber && ref.id != 0 && ref.fiber->id == ref.id;
}

void fiber_cancel(FiberRef ref)
{
    if (!is_alive(ref)) return;
    Fiber *f = ref.fiber;
    assert(f->loop == loop_here());
    f->cancelled = true;
    if (f->op && f->shields == 0) op_cancel(f->op, -ECANCELED);
}

static void cancel_join(Op *op, int code)
{
    list_remove(&CONTAINER_OF(op, Joiner, op)->node);
    op_done(op, code);
}

int fiber_join_wait(FiberRef ref, int *ret_result)
{
    if (!is_alive(ref)) return 0;
    Joiner joiner = { 0 };
    op_init(&joiner.op, cancel_join);
    list_push_back(&ref.fiber->joiners, &joiner.node);
    int r = op_wait(&joiner.op, DEADLINE_NONE);
    if (r == 0 && ret_result) *ret_result = joiner.result;
    return r;
}

static Fiber *self(void)
{
    Loop *loop = loop_here_or_null();
    assert(loop && loop->running);
    return loop->running;
}

FiberRef fiber_self(void)
{
    Fiber *f = self();
    return (FiberRef){ f, f->id };
}

bool fiber_is_running(void)
{
    Loop *loop = loop_here_or_null();
    return loop && loop->running;
}

bool fiber_cancelled(void)
{
    Fiber *f = self();
    return f->cancelled && f->shields == 0;
}

void fiber_shield(void)
{
    self()->shields++;
}

void fiber_unshield(void)
{
    Fiber *f = self();
    assert(f->shields > 0);
    f->shields--;
}

/* --- operations ------------------------------------------------------------------------------- */

void op_init(Op *op, OpCancelFn cancel)
{
    *op = (Op){
        .fiber = self(), .cancel = cancel, .deadline_ms = DEADLINE_NONE, .timer_index = SIZE_MAX
    };
}

void op_cancel(Op *op, int code)
{
    if (op->done || op->cancelling) return;
    op->cancelling = true;
    if (op->cancel) op->cancel(op, code);
}

void op_done(Op *op, int result)
{
    assert(!op->done && op->fiber->loop == loop_here_or_null());
    op->done = true;
    op->result = result;
    if (op->parked) make_ready(op->fiber);
}

int op_wait(Op *op, int64_t deadline_ms)
{
    Fiber *f = self();
    assert(op->fiber == f && !f->op && !op->parked);
    f->op = op;
    if (fiber_cancelled()) op_cancel(op, -ECANCELED);
    if (!op->done && deadline_ms != DEADLINE_NONE) {
        op->deadline_ms = deadline_ms;
        timers_add(f->loop, op);
    }
    if (!op->done) {
        op->parked = true;
        leave_fiber(f);
    }
    assert(op->done);
    if (op->timer_index != SIZE_MAX) timers_remove(f->loop, op);
    f->op = NULL;
    return op->result;
}

int fiber_yield_wait(void)
{
    Fiber *f = self();
    make_ready(f);
    leave_fiber(f);
    return fiber_cancelled() ? -ECANCELED : 0;
}

static void cancel_plain(Op *op, int code)
{
    op_done(op, code);
}

int fiber_sleep_wait(int64_t duration_ms)
{
    Op op;
    op_init(&op, cancel_plain);
    int r = op_wait(&op, deadline_after(MAX(duration_ms, 0)));
    return r == -ETIMEDOUT ? 0 : r;
}

/* --- condition -------------------------------------------------------------------------------- */

void cond_init(Cond *cond)
{
    list_init(&cond->waiting);
}

static void cancel_cond(Op *op, int code)
{
    list_remove(&CONTAINER_OF(op, CondWaiter, op)->node); /* so that no signal goes to it */
    op_done(op, code);
}

int cond_wait(Cond *cond, int64_t deadline_ms)
{
    CondWaiter waiter;
    op_init(&waiter.op, cancel_cond);
    list_push_back(&cond->waiting, &waiter.node);
    return op_wait(&waiter.op, deadline_ms);
}

void cond_signal(Cond *cond)
{
    ListNode *node = list_pop_front(&cond->waiting);
    if (node) op_done(&CONTAINER_OF(node, CondWaiter, node)->op, 0);
}

void cond_broadcast(Cond *cond)
{
    while (!list_empty(&cond->waiting)) cond_signal(cond);
}

/* --- other loops ------------------------------------------------------------------------------ */

typedef struct {
    LoopMsg msg; /* there, and back again */
    Op op;
    Loop *home;
    const char *name;
    FiberFn fn;
    void *arg;
    int result;
} LoopCall;

static void call_back(LoopMsg *msg)
{
    LoopCall *call = CONTAINER_OF(msg, LoopCall, msg);
    op_done(&call->op, call->result);
}

static void call_return(LoopCall *call, int result)
{
    call->result = result;
    call->msg.run = call_back;
    loop_post(call->home, &call->msg);
}

static int call_fiber(void *arg)
{
    LoopCall *call = arg;
    call_return(call, call->fn(call->arg));
    return 0;
}

static void call_arrive(LoopMsg *msg)
{
    LoopCall *call = CONTAINER_OF(msg, LoopCall, msg);
    int r = fiber_spawn(call->name, call_fiber, call, NULL);
    if (r < 0) call_return(call, r);
}

int loop_call_wait(Loop *loop, const char *name, FiberFn fn, void *arg)
{
    LoopCall call = {
        .msg.run = call_arrive, .home = loop_here(), .name = name, .fn = fn, .arg = arg
    };
    op_init(&call.op, NULL);
    loop_post(loop, &call.msg);
    return op_wait(&call.op, DEADLINE_NONE);
}

/* --- work off the loop ------------------------------------------------------------------------ */

static void work_run(uv_work_t *work)
{
    Work *w = CONTAINER_OF(work, Work, work);
    Diag *before = diag_switch(&w->diag);
    w->result = w->fn(w->arg);
    diag_switch(before);
}

static void work_after(uv_work_t *work, int status)
{
    Work *w = CONTAINER_OF(work, Work, work);
    op_done(&w->op, status < 0 ? uv_errno(status) : w->result);
}

int work_wait(int (*fn)(void *arg), void *arg)
{
    Work w = { .fn = fn, .arg = arg };
    op_init(&w.op, NULL);
    int r = uv_queue_work(loop_uv(loop_here()), &w.work, work_run, work_after);
    if (r < 0) return uv_errno(r);
    r = op_wait(&w.op, DEADLINE_NONE);
    if (w.diag.text[0]) diag_set(0, "%s", w.diag.text);
    return r;
}
