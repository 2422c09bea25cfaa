/* A binary heap of operations by deadline, with one libuv timer for the earliest. Arming and
 * disarming, which happens far more often than expiry, touches only the heap: the libuv timer is
 * left to fire early and is set again then. */
#include <stdlib.h>

#include "sys/loop_private.h"

static void place(Loop *loop, size_t i, Op *op)
{
    loop->timers[i] = op;
    op->timer_index = i;
}

static void sift_up(Loop *loop, size_t i, Op *op)
{
    while (i > 0 && loop->timers[(i - 1) / 2]->deadline_ms > op->deadline_ms) {
        place(loop, i, loop->timers[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    place(loop, i, op);
}

static void sift_down(Loop *loop, size_t i, Op *op)
{
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= loop->timers_n) break;
        if (child + 1 < loop->timers_n &&
            loop->timers[child + 1]->deadline_ms < loop->timers[child]->deadline_ms)
            child++;
        if (loop->timers[child]->deadline_ms >= op->deadline_ms) break;
        place(loop, i, loop->timers[child]);
        i = child;
    }
    place(loop, i, op);
}

void timers_add(Loop *loop, Op *op)
{
    assert(op->timer_index == SIZE_MAX && op->deadline_ms != DEADLINE_NONE);
    if (loop->timers_n == loop->timers_cap) {
        loop->timers_cap = MAX(64, loop->timers_cap * 2);
        loop->timers = xrealloc(loop->timers, loop->timers_cap * sizeof(Op *));
    }
    sift_up(loop, loop->timers_n++, op);
}

void timers_remove(Loop *loop, Op *op)
{
    size_t i = op->timer_index;
    assert(i < loop->timers_n && loop->timers[i] == op);
    op->timer_index = SIZE_MAX;
    Op *last = loop->timers[--loop->timers_n];
    if (last == op) return;
    if (i > 0 && loop->timers[(i - 1) / 2]->deadline_ms > last->deadline_ms) sift_up(loop, i, last);
    else sift_down(loop, i, last);
}

void timers_fire(Loop *loop)
{
    int64_t now_ms = clock_mono_ms();
    while (loop->timers_n && loop->timers[0]->deadline_ms <= now_ms) {
        Op *op = loop->timers[0];
        timers_remove(loop, op);
        op_cancel(op, -ETIMEDOUT);
    }
}

static void on_timer(uv_timer_t *timer)
{
    Loop *loop = timer->data;
    loop->timer_armed_ms = DEADLINE_NONE;
    timers_fire(loop);
}

void timers_rearm(Loop *loop)
{
    if (loop->timers_n == 0) return;
    int64_t first_ms = loop->timers[0]->deadline_ms;
    if (first_ms >= loop->timer_armed_ms) return; /* it fires before that and sets itself again */
    int64_t delay_ms = MAX(0, first_ms - loop_now_ms(loop));
    loop->timer.data = loop;
    uv_timer_start(&loop->timer, on_timer, (uint64_t)delay_ms, 0);
    loop->timer_armed_ms = first_ms;
}
