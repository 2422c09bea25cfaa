#include "sys/loop.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

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
    handle_close((uv_handle_t *)&loop->bell);
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

/* uv_async_send would have the loop spin until the sender has left its system call, which takes
 * longer than the loop needs to wake up. */
static void bell_ring(Loop *loop)
{
    const uint64_t one = 1;
    ssize_t n = write(loop->bell_fd, &one, sizeof one);
    if (n < 0 && errno != EAGAIN) DIE("cannot wake an event loop: %s", strerror(errno));
}

static void on_bell(uv_poll_t *handle, int status, int events)
{
    Loop *loop = handle->data;
    uint64_t rings;
    (void)events;
    check_uv(status, "event loop mailbox");
    if (read(loop->bell_fd, &rings, sizeof rings) < 0 && errno != EAGAIN)
        DIE("event loop mailbox: %s", strerror(errno));
    mailbox_drain(loop); /* after it was read: what is put there now rings again */
}

static void bell_init(Loop *loop)
{
    loop->bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    check_uv(loop->bell_fd < 0 ? -errno : 0, "event loop mailbox");
    check_uv(uv_poll_init(&loop->uv, &loop->bell, loop->bell_fd), "event loop mailbox");
    loop->bell.data = loop;
    check_uv(uv_poll_start(&loop->bell, UV_READABLE, on_bell), "event loop mailbox");
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
    loop->uv.data = loop->prepare.data = loop->check.data = loop->idle.data = loop;
    bell_init(loop);
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
    while (atomic_load(&loop->posting) > 0) sched_yield(); /* what they have put there has run */
    close(loop->bell_fd);
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
    atomic_fetch_add(&loop->posting, 1);
    atomic_store(&loop->stop_wanted, true);
    bell_ring(loop);
    atomic_fetch_sub(&loop->posting, 1);
}

void loop_post(Loop *loop, LoopMsg *msg)
{
    atomic_fetch_add_explicit(&loop->posting, 1, memory_order_relaxed);
    LoopMsg *head = atomic_load_explicit(&loop->mailbox, memory_order_relaxed);
    do {
        msg->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&loop->mailbox, &head, msg,
                                                    memory_order_release, memory_order_relaxed));
    /* msg may be gone from here on; only the first of a batch needs to ring */
    if (!head) bell_ring(loop);
    atomic_fetch_sub_explicit(&loop->posting, 1, memory_order_release);
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
