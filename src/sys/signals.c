#include "sys/signals.h"

#include <stdlib.h>

#include "sys/loop_private.h"

#define PENDING_MAX 16

struct Signals {
    uv_signal_t handles[SIGNALS_MAX];
    size_t n, open;
    int pending[PENDING_MAX]; /* in order of arrival; what does not fit is dropped */
    size_t pending_n;
    Cond cond;
};

static void on_signal(uv_signal_t *handle, int number)
{
    Signals *s = handle->data;
    if (s->pending_n < PENDING_MAX) s->pending[s->pending_n++] = number;
    cond_signal(&s->cond);
}

Signals *signals_open(const int *numbers, size_t n)
{
    Signals *s = xcalloc(1, sizeof *s);
    assert(n <= SIGNALS_MAX);
    cond_init(&s->cond);
    s->n = s->open = n;
    for (size_t i = 0; i < n; i++) {
        uv_signal_init(loop_uv(loop_here()), &s->handles[i]);
        s->handles[i].data = s;
        int r = uv_signal_start(&s->handles[i], on_signal, numbers[i]);
        if (r < 0) DIE("cannot watch signal %d: %s", numbers[i], uv_strerror(r));
    }
    return s;
}

int signals_wait(Signals *s, int64_t deadline_ms)
{
    while (s->pending_n == 0) {
        int r = cond_wait(&s->cond, deadline_ms);
        if (r < 0) return r;
    }
    int number = s->pending[0];
    memmove(s->pending, s->pending + 1, --s->pending_n * sizeof s->pending[0]);
    return number;
}

static void on_close(uv_handle_t *handle)
{
    Signals *s = handle->data;
    if (--s->open == 0) free(s);
}

void signals_close(Signals *s)
{
    if (!s) return;
    for (size_t i = 0; i < s->n; i++) uv_close((uv_handle_t *)&s->handles[i], on_close);
}
