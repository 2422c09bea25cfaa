/* Room for requests: their bytes stay in memory until they are answered, however long they wait, so
 * what may be there at once is bounded, by task and in all. Who does not fit waits for room. */
#include "base/diag.h"
#include "gateway/gateway_private.h"

#define WAIT_MS_DEFAULT 30000
#define LOOK_MS 1000 /* at whether the client is still there */

typedef struct {
    ListNode node; /* on room->waiters until it has got its room */
    GatewayTask *task;
    size_t n;
    bool got;
    Cond given;
} Waiter;

static size_t or_default(int64_t configured, size_t otherwise)
{
    return configured > 0 ? (size_t)configured : otherwise;
}

/* What is too large by itself has room when it is alone. */
static bool fits(size_t used, size_t n, size_t max)
{
    return used == 0 || (used <= max && n <= max - used);
}

static bool task_fits(const GatewayTask *task, size_t n)
{
    int64_t max = task->gateway->config->request_bytes_task_max;
    return fits(task->request_bytes, n, or_default(max, GATEWAY_TASK_BYTES_MAX));
}

static bool all_fit(const Gateway *gateway, size_t n)
{
    size_t used = (size_t)atomic_load(&gateway->room.bytes);
    return fits(used, n, or_default(gateway->config->request_bytes_max, GATEWAY_ALL_BYTES_MAX));
}

static void take(GatewayTask *task, size_t n)
{
    task->request_bytes += n;
    atomic_fetch_add(&task->gateway->room.bytes, (int_fast64_t)n);
}

/* In turn, those of a task too; but nobody waits because of another task's own bound. */
static void waiters_serve(Gateway *gateway)
{
    uint64_t look = ++gateway->room.looks;
    LIST_EACH (&gateway->room.waiters, node) {
        Waiter *waiter = CONTAINER_OF(node, Waiter, node);
        if (waiter->task->room_look == look) continue;
        if (!task_fits(waiter->task, waiter->n)) {
            waiter->task->room_look = look; /* nor do those behind it */
            continue;
        }
        if (!all_fit(gateway, waiter->n)) break;
        take(waiter->task, waiter->n);
        waiter->got = true;
        list_remove(&waiter->node);
        cond_broadcast(&waiter->given);
    }
}

/* Whether nobody who would have to go first waits. */
static bool is_first(const GatewayTask *task)
{
    LIST_EACH (&task->gateway->room.waiters, node) {
        const Waiter *waiter = CONTAINER_OF(node, Waiter, node);
        if (waiter->task == task || task_fits(waiter->task, waiter->n)) return false;
    }
    return true;
}

static int wait_for_room(Waiter *waiter, int64_t until_ms, const GatewayReply *reply)
{
    while (!waiter->got) {
        int r = cond_wait(&waiter->given, MIN(until_ms, deadline_after(LOOK_MS)));
        if (r == -ECANCELED && !waiter->got) return r;
        if (waiter->got) break;
        if (reply->gone && reply->gone(reply->ctx)) return HTTP_E_GONE;
        if (waiter->task->totals.stop != GATEWAY_STOP_NONE) return GATEWAY_E_NO_ROOM;
        if (clock_mono_ms() >= until_ms) return GATEWAY_E_NO_ROOM;
    }
    return 0;
}

int room_take_wait(GatewayTask *task, size_t n, int64_t patience_ms, const GatewayReply *reply)
{
    Gateway *gateway = task->gateway;
    Room *room = &gateway->room;
    if (n == 0) return 0;
    if (task_fits(task, n) && all_fit(gateway, n) && is_first(task)) {
        take(task, n);
        return 0;
    }
    int64_t configured = gateway->config->request_wait_ms;
    int64_t wait_ms = configured > 0 ? configured : WAIT_MS_DEFAULT;
    if (patience_ms) wait_ms = MIN(wait_ms, patience_ms);
    Waiter waiter = { .task = task, .n = n };
    list_init(&waiter.node);
    cond_init(&waiter.given);
    list_push_back(&room->waiters, &waiter.node);
    atomic_fetch_add(&room->waited, 1);
    int r = wait_for_room(&waiter, deadline_after(wait_ms), reply);
    list_remove(&waiter.node);
    if (r != 0) waiters_serve(gateway); /* those behind it */
    if (r == GATEWAY_E_NO_ROOM) atomic_fetch_add(&room->refused, 1);
    return r;
}

void room_give(GatewayTask *task, size_t n)
{
    if (n == 0) return;
    assert(task->request_bytes >= n);
    task->request_bytes -= n;
    atomic_fetch_sub(&task->gateway->room.bytes, (int_fast64_t)n);
    waiters_serve(task->gateway);
}
