#include "logic/line.h"

/* Exact ties are common: who is new has used nothing. */
static bool before(const Line *a, const Line *b)
{
    if (a->used_ms < b->used_ms) return true;
    if (a->used_ms > b->used_ms) return false;
    if (a->ready_at_ms != b->ready_at_ms) return a->ready_at_ms < b->ready_at_ms;
    return a->seq < b->seq;
}

size_t line_next(const Line *lines, size_t n)
{
    size_t next = n;
    for (size_t i = 0; i < n; i++)
        if (!lines[i].closed && (next == n || before(&lines[i], &lines[next]))) next = i;
    return next;
}

void line_started(Line *lines, size_t n, size_t at, Fair *fair, double cost_ms, int64_t now_ms)
{
    assert(at < n);
    uint64_t tenant = lines[at].tenant;
    fair_charge(fair, tenant, cost_ms, now_ms);
    double used_ms = fair_used(fair, tenant, now_ms);
    for (size_t i = 0; i < n; i++)
        if (lines[i].tenant == tenant) lines[i].used_ms = used_ms;
}

int64_t lines_waited_ms(const Line *lines, size_t n, int64_t now_ms)
{
    int64_t waited_ms = -1;
    for (size_t i = 0; i < n; i++)
        if (!lines[i].closed) waited_ms = MAX(waited_ms, MAX(0, now_ms - lines[i].ready_at_ms));
    return waited_ms;
}
