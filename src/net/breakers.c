#include "net/breakers.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/map.h"
#include "sys/clock.h"
#include "sys/entropy.h"

typedef struct {
    char name[BREAKER_NAME_MAX];
    size_t name_len; /* it may hold a NUL: it comes from anywhere */
    size_t index;    /* in slots */
    uint64_t id;
    int64_t asked_at_ms;
    Breaker breaker;
} Slot;

struct Breakers {
    const char *kind;
    BreakerPolicy policy;
    size_t max;
    pthread_mutex_t lock; /* of all that follows; never held for long */
    Map by_name;          /* Slot by its name */
    Slot **slots;         /* max of them, the first slots_n made */
    size_t slots_n;
    uint64_t ids;
    uint64_t trips, refused; /* of those that were forgotten */
    uint64_t forgotten;
};

Breakers *breakers_new(const char *kind, const BreakerPolicy *policy, size_t max)
{
    Breakers *b = xcalloc(1, sizeof *b);
    b->kind = kind;
    b->policy = policy ? *policy : BREAKER_POLICY_DEFAULT;
    b->max = max ? max : BREAKERS_MAX_DEFAULT;
    assert(breaker_policy_ok(&b->policy));
    b->slots = xcalloc(b->max, sizeof *b->slots);
    map_init(&b->by_name, entropy_u64());
    pthread_mutex_init(&b->lock, NULL);
    return b;
}

void breakers_free(Breakers *b)
{
    if (!b) return;
    for (size_t i = 0; i < b->slots_n; i++) free(b->slots[i]);
    free(b->slots);
    map_deinit(&b->by_name);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

static Str slot_name(const Slot *slot)
{
    return str_make(slot->name, slot->name_len);
}

/* The one to forget: not asked for the longest, of the closed ones if there are any. */
static Slot *slot_oldest(const Breakers *b)
{
    Slot *oldest = NULL;
    for (size_t i = 0; i < b->slots_n; i++) {
        Slot *slot = b->slots[i];
        if (!oldest) oldest = slot;
        bool closed = slot->breaker.state == BREAKER_CLOSED;
        bool oldest_closed = oldest->breaker.state == BREAKER_CLOSED;
        if (closed != oldest_closed ? closed : slot->asked_at_ms < oldest->asked_at_ms)
            oldest = slot;
    }
    return oldest;
}

static Slot *slot_new(Breakers *b)
{
    if (b->slots_n < b->max) {
        Slot *slot = xcalloc(1, sizeof *slot);
        slot->index = b->slots_n;
        return b->slots[b->slots_n++] = slot;
    }
    Slot *slot = slot_oldest(b);
    map_remove(&b->by_name, slot_name(slot));
    b->trips += slot->breaker.trips;
    b->refused += slot->breaker.refused;
    b->forgotten++;
    return slot;
}

static Str name_key(Str name)
{
    return str_sub(name, 0, BREAKER_NAME_MAX - 1);
}

static Slot *slot_of(Breakers *b, Str name, int64_t now_ms)
{
    Slot *slot = map_get(&b->by_name, name_key(name));
    if (slot) return slot;
    slot = slot_new(b);
    *slot = (Slot){ .id = ++b->ids, .index = slot->index, .name_len = name_key(name).len };
    memcpy(slot->name, name.ptr ? name.ptr : "", slot->name_len);
    breaker_init(&slot->breaker, now_ms);
    map_put(&b->by_name, slot_name(slot), slot);
    return slot;
}

bool breakers_ask(Breakers *b, Str name, BreakerTicket *ret, int64_t *ret_next_ms)
{
    int64_t now_ms = clock_mono_ms();
    pthread_mutex_lock(&b->lock);
    Slot *slot = slot_of(b, name, now_ms);
    slot->asked_at_ms = now_ms;
    BreakerTicket ticket = { .id = slot->id, .slot = slot->index };
    bool yes = breaker_ask(&slot->breaker, &b->policy, now_ms, &ticket.permit);
    if (yes) *ret = ticket;
    else if (ret_next_ms) *ret_next_ms = breaker_next_ms(&slot->breaker, &b->policy, now_ms);
    pthread_mutex_unlock(&b->lock);
    return yes;
}

bool breakers_would(Breakers *b, Str name)
{
    pthread_mutex_lock(&b->lock);
    const Slot *slot = map_get(&b->by_name, name_key(name));
    bool yes = !slot || breaker_would(&slot->breaker, &b->policy, clock_mono_ms());
    pthread_mutex_unlock(&b->lock);
    return yes;
}

void breakers_done(Breakers *b, BreakerTicket *ticket, BreakerResult result, int64_t duration_ms)
{
    if (!ticket->id) return;
    pthread_mutex_lock(&b->lock);
    assert(ticket->slot < b->slots_n);
    Slot *slot = b->slots[ticket->slot];
    if (slot->id == ticket->id)
        breaker_done(&slot->breaker, &b->policy, ticket->permit, result, duration_ms,
                     clock_mono_ms(), entropy_u64());
    pthread_mutex_unlock(&b->lock);
    *ticket = (BreakerTicket){ 0 };
}

/* --- what others have seen -------------------------------------------------------------------- */

void breakers_hear(Breakers *b, Str name, int64_t open_ms)
{
    int64_t now_ms = clock_mono_ms();
    pthread_mutex_lock(&b->lock);
    Slot *slot = map_get(&b->by_name, name_key(name));
    if (!slot && open_ms > 0) slot = slot_of(b, name, now_ms);
    if (slot) breaker_hear(&slot->breaker, &b->policy, open_ms, now_ms);
    pthread_mutex_unlock(&b->lock);
}

int64_t breakers_own_open_ms(Breakers *b, Str name)
{
    pthread_mutex_lock(&b->lock);
    const Slot *slot = map_get(&b->by_name, name_key(name));
    int64_t open_ms = slot ? breaker_own_open_ms(&slot->breaker, clock_mono_ms()) : 0;
    pthread_mutex_unlock(&b->lock);
    return open_ms;
}

/* --- what there is to see --------------------------------------------------------------------- */

static void info_fill(const Breakers *b, const Slot *slot, int64_t now_ms, BreakerInfo *ret)
{
    const Breaker *breaker = &slot->breaker;
    bool open = breaker->state == BREAKER_OPEN;
    *ret = (BreakerInfo){
        .kind = b->kind,
        .state = breaker->state,
        .heard = breaker->heard,
        .counts = breaker_counts(breaker, &b->policy, now_ms),
        .since_real_ms = clock_real_ms() - (now_ms - breaker->since_ms),
        .next_probe_ms = open ? MAX(breaker->until_ms - now_ms, 0) : 0,
        .probes_out = breaker->probes_out,
        .trips = breaker->trips,
        .refused = breaker->refused,
    };
    memcpy(ret->name, slot->name, sizeof ret->name);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const BreakerInfo *)a)->name, ((const BreakerInfo *)b)->name);
}

size_t breakers_list(Breakers *b, BreakerInfo *ret, size_t max)
{
    int64_t now_ms = clock_mono_ms();
    pthread_mutex_lock(&b->lock);
    size_t n = MIN(max, b->slots_n);
    for (size_t i = 0; i < n; i++) info_fill(b, b->slots[i], now_ms, &ret[i]);
    pthread_mutex_unlock(&b->lock);
    qsort(ret, n, sizeof *ret, by_name);
    return n;
}

void breakers_stats(Breakers *b, BreakersStats *ret)
{
    pthread_mutex_lock(&b->lock);
    *ret = (BreakersStats){ .trips = b->trips, .refused = b->refused, .forgotten = b->forgotten };
    for (size_t i = 0; i < b->slots_n; i++) {
        const Breaker *breaker = &b->slots[i]->breaker;
        ret->by_state[breaker->state]++;
        ret->trips += breaker->trips;
        ret->refused += breaker->refused;
    }
    pthread_mutex_unlock(&b->lock);
}
