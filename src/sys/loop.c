#include "sys/loop.h"

#include <stdlib.h>

#include "sys/loop_private.h"

static _Thread_local Loop *here;

int uv_errno(int uv_code)
{
    if (uv_code >= 0) return 0;
    if (uv_code == UV_EOF) return -ECONNRESET;
    if (uv_code <= -3000) return -EHOSTUNREACH; /* UV_EAI_* */
    return uv_code;                             /* on Unix libuv uses -errno */
}

static void check_uv(int code, const char *what)
{
    if (code < 0) DIE("%s: %s", what, uv_strerror(code));
}

static void mailbox_drain(Loop *loop)
{
    LoopMsg *newest = atomic_exchange_explicit(&loop->mailbox, NULL, memory_order_acquire);
    LoopMsg *oldest = NULL;
    while (newest) {
        LoopMsg *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest) {
        LoopMsg *msg = oldest;
        oldest = msg->next; /* run may free msg */
        msg->run(msg);
    }
}

static void handle_close(uv_handle_t *handle)
{
    if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

/* Once stopping and without fibers the loop's own handles are closed, and uv_run returns when the
 * last handle of anybody is. */
static void close_when_idle(Loop *loop)
{
    if (!loop->stopping || loop->fibers_n) return;
    handle_close((uv_handle_t *)&loop->prepare);
    handle_close((uv_handle_t *)&loop->check);
    handle_close((uv_handle_t *)&loop->idle);
    handle_close((uv_handle_t *)&loop->timer);
    handle_close((uv_handle_t *)&loop->async);
}

static void turn(Loop *loop)
{
    if (uv_is_closing((uv_handle_t *)&loop->prepare)) return;
    if (atomic_load(&loop->stop_wanted) && !loop->stopping) {
        loop->stopping = true;
        fibers_cancel_all(loop);
    }
    fibers_run_ready(loop);
    timers_rearm(loop);
    close_when_idle(loop);
}

static void on_prepare(uv_prepare_t *handle)
{
    turn(handle->data);
}

static void on_check(uv_check_t *handle)
{
    turn(handle->data);
}

static void on_async(uv_async_t *handle)
{
    mailbox_drain(handle->data);
}

Loop *loop_new(const char *name)
{
    Loop *loop = xcalloc(1, sizeof *loop);
    loop->name = name;
    loop->next_id = 1;
    loop->timer_armed_ms = DEADLINE_NONE;
    list_init(&loop->ready);
    list_init(&loop->fibers);
    list_init(&loop->spare);
    list_init(&loop->bare);
    check_uv(uv_loop_init(&loop->uv), "event loop");
    uv_prepare_init(&loop->uv, &loop->prepare);
    uv_check_init(&loop->uv, &loop->check);
    uv_idle_init(&loop->uv, &loop->idle);
    uv_timer_init(&loop->uv, &loop->timer);
    check_uv(uv_async_init(&loop->uv, &loop->async, on_async), "event loop mailbox");
    loop->uv.data = loop->prepare.data = loop->check.data = loop->idle.data = loop->async.data =
        loop;
    uv_prepare_start(&loop->prepare, on_prepare);
    uv_check_start(&loop->check, on_check);
    return loop;
}

void loop_free(Loop *loop)
{
    if (!loop) return;
    assert(loop->fibers_n == 0 && loop->running == NULL);
    loop->stopping = true;
    close_when_idle(loop); /* a loop that never ran still has its handles */
    while (uv_run(&loop->uv, UV_RUN_NOWAIT)) {
    }
    check_uv(uv_loop_close(&loop->uv), "closing the event loop");
    fibers_free_spare(loop);
    free(loop->timers);
    while (loop->read_spare_n) free(loop->read_spare[--loop->read_spare_n]);
    free(loop);
}

void loop_run(Loop *loop)
{
    assert(!here);
    here = loop;
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    assert(loop->fibers_n == 0);
    here = NULL;
}

static void *thread_main(void *arg)
{
    Loop *loop = arg;
    pthread_setname_np(pthread_self(), loop->name);
    loop_run(loop);
    return NULL;
}

void loop_start_thread(Loop *loop)
{
    assert(!loop->has_thread);
    loop->has_thread = true;
    int r = pthread_create(&loop->thread, NULL, thread_main, loop);
    if (r != 0) DIE("cannot start thread %s: %s", loop->name, strerror(r));
}

void loop_join(Loop *loop)
{
    if (!loop->has_thread) return;
    pthread_join(loop->thread, NULL);
    loop->has_thread = false;
}

void loop_stop(Loop *loop)
{
    atomic_store(&loop->stop_wanted, true);
    uv_async_send(&loop->async);
}

void loop_post(Loop *loop, LoopMsg *msg)
{
    LoopMsg *head = atomic_load_explicit(&loop->mailbox, memory_order_relaxed);
    do {
        msg->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&loop->mailbox, &head, msg,
                                                    memory_order_release, memory_order_relaxed));
    /* msg may be gone from here on; only the first of a batch needs to ring */
    if (!head) uv_async_send(&loop->async);
}

Loop *loop_here(void)
{
    assert(here);
    return here;
}

Loop *loop_here_or_null(void)
{
    return here;
}

int64_t loop_now_ms(const Loop *loop)
{
    return (int64_t)uv_now(&loop->uv);
}

const char *loop_name(const Loop *loop)
{
    return loop->name;
}

uv_loop_t *loop_uv(Loop *loop)
{
    return &loop->uv;
}

size_t loop_fibers(const Loop *loop)
{
    return loop->fibers_n;
}

uint64_t loop_slow_slices(const Loop *loop)
{
    return atomic_load(&loop->slow_slices);
}
