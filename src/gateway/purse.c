#include "gateway/purse.h"

#include <stdlib.h>

#include "base/diag.h"
#include "base/log.h"
#include "base/map.h"
#include "sys/clock.h"
#include "sys/entropy.h"

#define ASK_WAIT_MS 5000 /* that the control plane may take to answer; then it is asked again */
#define ASK_AGAIN_MS 200 /* after an error */
#define ASK_ARENA_MAX ((size_t)8 << 20)
#define IDLE_MS 2000 /* what was not used for so long goes back */
#define WANTED_MS 1000
#define SLOT_KEPT_MS INT64_C(86400000) /* after the window, by this machine's calendar, */
#define SLOT_QUIET_MS 600000           /* and after its last call: its record has arrived */
#define SLOTS_MAX 65536
#define SLOT_KEY_MAX (BUDGET_SCOPE_TEXT_MAX + 24)

struct PurseSlot {
    BudgetPurse purse;
    BudgetScope scope; /* its key lies in key */
    int64_t start_ms, end_ms;
    int64_t used_ms; /* clock_mono_ms */
    int64_t told;    /* of slice.returned, as far as the control plane has confirmed */
    unsigned refs;   /* of owners and holds */
    bool stale;      /* of an earlier lease: off the map */
    char key[SLOT_KEY_MAX];
};

struct PurseOwner {
    Purse *purse;
    unsigned refs; /* of tasks, and of the fiber that asks */
    BudgetOwner owner;
    Str key; /* in the map of owners */

    bool known; /* slots are what limits it, */
    uint64_t epoch;
    int64_t until_ms; /* until then (clock_mono_ms): the calendars of two machines may differ */
    PurseSlot *slots[BUDGET_SCOPES_MAX];
    BudgetPurse *purses[BUDGET_SCOPES_MAX];
    size_t n;

    List waiters; /* in turn */
    uint64_t joined, answered;
    BudgetVerdict answer; /* of the last answer, for those who had joined before it */
    bool asking;
    FiberRef asker;
    char text[];
};

struct Purse {
    const GatewayControl *const *control;
    Map slots, owners;
    uint64_t epoch, lease;
    int64_t quiet_ms;
    int64_t wanted_until_ms; /* clock_mono_ms */
    bool giving, give_more, closed;
    FiberRef giver;
    size_t fibers;
    Cond ended; /* a fiber has */
};

/* --- slots ------------------------------------------------------------------------------------ */

static Str slot_key(const BudgetScope *scope, int64_t start_ms, char out[SLOT_KEY_MAX])
{
    size_t n = strlen(budget_scope_text(scope, out));
    out[n++] = '@';
    for (int64_t left = start_ms; left > 0; left /= 36)
        out[n++] = "0123456789abcdefghijklmnopqrstuvwxyz"[left % 36];
    out[n] = '\0';
    return str_make(out, n);
}

static PurseSlot *slot_get(Purse *purse, const BudgetScope *scope, int64_t start_ms)
{
    char text[SLOT_KEY_MAX];
    return map_get(&purse->slots, slot_key(scope, start_ms, text));
}

/* It begins with what the control plane knows of it: it may have been here before. */
static PurseSlot *slot_new(Purse *purse, const BudgetTold *told)
{
    if (purse->slots.n >= SLOTS_MAX) return NULL;
    PurseSlot *slot = xcalloc(1, sizeof *slot);
    Str key = slot_key(&told->scope, told->start_ms, slot->key);
    slot->scope = told->scope;
    if (told->scope.kind != BUDGET_ALL)
        slot->scope.key.ptr = slot->key + (str_find_char(str_of(slot->key), ':') + 1);
    slot->start_ms = told->start_ms;
    slot->purse.unit = told->scope.unit;
    slot->purse.slice = (BudgetSlice){ told->granted, told->returned, told->spent };
    slot->told = told->returned;
    slot->used_ms = clock_mono_ms();
    map_put(&purse->slots, key, slot);
    return slot;
}

static void slot_unref(PurseSlot *slot)
{
    assert(slot->refs > 0);
    if (--slot->refs == 0 && slot->stale) free(slot);
}

/* A slot stays while its window lasts, by a calendar that may be wrong: the control plane tells
 * what was spent of one that was forgotten too early. */
static void slots_forget(Purse *purse)
{
    size_t cursor = 0;
    int64_t now_ms = clock_real_ms(), quiet_ms = clock_mono_ms() - purse->quiet_ms;
    for (PurseSlot *slot; (slot = map_next(&purse->slots, &cursor));) {
        bool told = slot->told >= slot->purse.slice.returned && budget_free(&slot->purse) <= 0;
        bool used = slot->refs > 0 || slot->used_ms > quiet_ms;
        if (used || slot->end_ms + SLOT_KEPT_MS > now_ms || !told) continue;
        map_remove(&purse->slots, str_of(slot->key));
        free(slot);
    }
}

/* --- owners ----------------------------------------------------------------------------------- */

static PurseWaiter *waiter_of(ListNode *node)
{
    return CONTAINER_OF(node, PurseWaiter, node);
}

static PurseWaiter *head_of(const PurseOwner *owner)
{
    return list_empty(&owner->waiters) ? NULL : waiter_of(owner->waiters.next);
}

static void head_wake(PurseOwner *owner)
{
    PurseWaiter *head = head_of(owner);
    if (head) cond_broadcast(head->wake);
}

static void owner_forget(PurseOwner *owner)
{
    for (size_t i = 0; i < owner->n; i++) slot_unref(owner->slots[i]);
    owner->n = 0;
    owner->known = false;
}

static void owner_unref(PurseOwner *owner)
{
    assert(owner->refs > 0);
    if (--owner->refs > 0) return;
    assert(list_empty(&owner->waiters));
    owner_forget(owner);
    if (map_get(&owner->purse->owners, owner->key) == owner)
        map_remove(&owner->purse->owners, owner->key);
    free(owner);
}

void purse_owner_unref(PurseOwner *owner)
{
    if (!owner) return;
    bool last = owner->refs == 1 + (owner->asking ? 1u : 0u);
    if (last && owner->asking) fiber_cancel(owner->asker);
    owner_unref(owner);
}

static Str text_put(char **at, Str text)
{
    Str kept = str_make(*at, text.len);
    if (text.len) memcpy(*at, text.ptr, text.len);
    *at += text.len;
    *(*at)++ = '\0';
    return kept;
}

PurseOwner *purse_owner_ref(Purse *purse, const BudgetOwner *names)
{
    size_t size = names->agent.len + names->tenant.len + names->user.len + 3;
    PurseOwner *owner = xcalloc(1, sizeof *owner + size);
    char *at = owner->text;
    owner->owner.agent = text_put(&at, names->agent);
    owner->owner.tenant = text_put(&at, names->tenant);
    owner->owner.user = text_put(&at, names->user);
    owner->key = str_make(owner->text, size);
    PurseOwner *there = map_get(&purse->owners, owner->key);
    if (there) {
        free(owner);
        there->refs++;
        return there;
    }
    owner->purse = purse;
    owner->refs = 1;
    list_init(&owner->waiters);
    map_put(&purse->owners, owner->key, owner);
    return owner;
}

static bool has_control(const Purse *purse)
{
    return *purse->control && (*purse->control)->grants_wait;
}

/* Whether its slots are still those that count. */
static bool owner_current(PurseOwner *owner)
{
    bool current = owner->known && owner->epoch == owner->purse->epoch &&
                   clock_mono_ms() < owner->until_ms;
    for (size_t i = 0; i < owner->n && current; i++) current = !owner->slots[i]->stale;
    if (!current) owner_forget(owner);
    return current;
}

int64_t purse_settled_ppm(const PurseOwner *owner)
{
    return budget_settled_ppm(owner->purses, owner->known ? owner->n : 0);
}

const BudgetPurse *purse_state(const PurseOwner *owner, const BudgetScope *scope)
{
    (void)owner;
    return &CONTAINER_OF(scope, PurseSlot, scope)->purse;
}

/* --- answers ---------------------------------------------------------------------------------- */

static void told_take(Purse *purse, const BudgetTold *told)
{
    PurseSlot *slot = slot_get(purse, &told->scope, told->start_ms);
    if (!slot) slot = slot_new(purse, told);
    if (!slot) return;
    slot->end_ms = told->end_ms;
    bool fresh = told->applies;
    budget_hear(&slot->purse, told->granted, fresh ? told->limit : slot->purse.limit,
                fresh ? told->settled : slot->purse.settled_all);
}

/* The notes of a question that was answered have been heard. */
static void notes_heard(Purse *purse, const BudgetNote *notes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        PurseSlot *slot = slot_get(purse, &notes[i].scope, notes[i].start_ms);
        if (slot) slot->told = MAX(slot->told, notes[i].returned);
    }
}

static void owner_learn(PurseOwner *owner, const BudgetAnswer *answer)
{
    owner_forget(owner);
    owner->until_ms = INT64_MAX;
    for (size_t i = 0; i < answer->told_n && answer->told[i].applies; i++) {
        const BudgetTold *told = &answer->told[i];
        PurseSlot *slot = slot_get(owner->purse, &told->scope, told->start_ms);
        if (!slot || owner->n == BUDGET_SCOPES_MAX) {
            LOG_ERROR("too many budgets: calls wait", LOG_INT("max", SLOTS_MAX));
            owner_forget(owner);
            return;
        }
        slot->refs++;
        owner->slots[owner->n] = slot;
        owner->purses[owner->n++] = &slot->purse;
        owner->until_ms = MIN(owner->until_ms,
                              deadline_after(MAX(told->end_ms - answer->now_ms, 1)));
    }
    owner->known = true;
    owner->epoch = owner->purse->epoch = answer->epoch;
    owner->answer = answer->verdict;
    owner->answered = owner->joined;
}

/* --- questions -------------------------------------------------------------------------------- */

typedef struct {
    BudgetNote notes[BUDGET_NOTES_MAX];
    PurseSlot *slots[BUDGET_NOTES_MAX]; /* whose keys the notes borrow, also while it is asked */
    BudgetAsk ask;
    BudgetAnswer answer;
    Arena arena;
} Question;

static void note_add(Question *q, PurseSlot *slot)
{
    size_t n = q->ask.notes_n++;
    assert(n < BUDGET_NOTES_MAX);
    slot->refs++;
    q->slots[n] = slot;
    q->notes[n] = (BudgetNote){ .scope = slot->scope,
                                .start_ms = slot->start_ms,
                                .granted = slot->purse.slice.granted,
                                .returned = slot->purse.slice.returned };
}

static Question *question_new(void)
{
    Question *q = xcalloc(1, sizeof *q);
    arena_init(&q->arena, ASK_ARENA_MAX);
    q->ask.notes = q->notes;
    return q;
}

static void question_free(Question *q)
{
    for (size_t i = 0; i < q->ask.notes_n; i++) slot_unref(q->slots[i]);
    arena_deinit(&q->arena);
    free(q);
}
DEFINE_FREEP(Question, question_free)

static int question_wait(Purse *purse, Question *q)
{
    const GatewayControl *control = *purse->control;
    diag_clear();
    uint64_t lease = purse->lease;
    int r = control->grants_wait(control->ctx, &q->ask, ASK_WAIT_MS, &q->arena, &q->answer);
    if (r == 0 && lease != purse->lease) r = diag_set(-EAGAIN, "the worker has another lease now");
    if (r != 0) return r;
    notes_heard(purse, q->notes, q->ask.notes_n);
    for (size_t i = 0; i < q->answer.told_n; i++) told_take(purse, &q->answer.told[i]);
    return 0;
}

static void fiber_over(Purse *purse)
{
    purse->fibers--;
    cond_broadcast(&purse->ended);
}

static void want_add(CapHold *sum, const CapHold *want)
{
    sum->tokens = MIN(money_add(sum->tokens, want->tokens), INT64_MAX / 4);
    sum->nusd = MIN(money_add(sum->nusd, want->nusd), INT64_MAX / 4);
}

/* What is free is given up, so that nobody sits on one budget while waiting for another. */
static void question_fill(PurseOwner *owner, Question *q)
{
    PurseWaiter *head = head_of(owner);
    q->ask.asks = true;
    q->ask.owner = owner->owner;
    q->ask.lane = LANE_NORMAL;
    if (head) {
        q->ask.need = head->need;
        q->ask.lane = head->lane;
        q->ask.waited_ms = clock_mono_ms() - head->since_ms;
        LIST_EACH (&owner->waiters, node)
            if (waiter_of(node) != head) want_add(&q->ask.need.more, &waiter_of(node)->need.want);
    }
    for (size_t i = 0; i < owner->n; i++) {
        budget_give_back(owner->purses[i]);
        note_add(q, owner->slots[i]);
    }
}

static int ask_main(void *arg)
{
    PurseOwner *owner = arg;
    Purse *purse = owner->purse;
    CLEANUP(question_freep) Question *q = question_new();
    question_fill(owner, q);
    int r = question_wait(purse, q);
    if (r == 0) owner_learn(owner, &q->answer);
    else if (r != -ECANCELED) {
        LOG_WARN("budgets not told", LOG_CSTR("why", diag_text_or(r)));
        (void)fiber_sleep_wait(ASK_AGAIN_MS);
    }
    owner->asking = false;
    head_wake(owner);
    owner_unref(owner);
    fiber_over(purse);
    return 0;
}

static void ask(PurseOwner *owner)
{
    Purse *purse = owner->purse;
    if (owner->asking || purse->closed) return;
    if (fiber_spawn("budget", ask_main, owner, &owner->asker) < 0) return; /* tried again soon */
    owner->asking = true;
    owner->refs++;
    purse->fibers++;
}

/* --- calls ------------------------------------------------------------------------------------ */

static void give(Purse *purse);

/* What comes free here while it is asked for goes back at once: the control plane has the rest of
 * what is needed, or somebody whose turn is earlier. */
static void give_free(PurseOwner *owner)
{
    int64_t back = 0;
    for (size_t i = 0; i < owner->n; i++) back += budget_give_back(owner->purses[i]) > 0;
    if (back > 0) give(owner->purse);
}

void purse_waiter_init(PurseWaiter *waiter, Lane lane, Cond *wake)
{
    *waiter = (PurseWaiter){ .lane = lane, .wake = wake, .since_ms = clock_mono_ms() };
    list_init(&waiter->node);
}

static int64_t turn_of(const PurseWaiter *w)
{
    return budget_turn_ms(w->lane, w->since_ms);
}

static void join(PurseOwner *owner, PurseWaiter *waiter)
{
    ListNode *at = owner->waiters.prev;
    bool was_empty = list_empty(&owner->waiters);
    while (at != &owner->waiters && turn_of(waiter_of(at)) > turn_of(waiter)) at = at->prev;
    list_push_front(at, &waiter->node);
    waiter->joined = ++owner->joined;
    /* what is being asked is for somebody whose turn is later */
    if (!was_empty && head_of(owner) == waiter && owner->asking) fiber_cancel(owner->asker);
}

static bool owner_has(const PurseOwner *owner, PurseSlot *const *slots, size_t n)
{
    for (size_t i = 0; i < owner->n; i++)
        for (size_t k = 0; k < n; k++)
            if (owner->slots[i] == slots[k]) return true;
    return false;
}

/* Something of the slots is free: whose turn is first among those who need it tries. When it cannot
 * take it, it gives it back; when it has taken what it needs, or leaves, the next one tries. */
static void next_wake(Purse *purse, PurseSlot *const *slots, size_t n)
{
    PurseOwner *first = NULL;
    size_t cursor = 0;
    for (PurseOwner *owner; (owner = map_next(&purse->owners, &cursor));) {
        if (!head_of(owner) || !owner_has(owner, slots, n)) continue;
        if (!first || turn_of(head_of(owner)) < turn_of(head_of(first))) first = owner;
    }
    if (first) head_wake(first);
}

void purse_leave(PurseOwner *owner, PurseWaiter *waiter)
{
    bool first = head_of(owner) == waiter;
    list_remove(&waiter->node);
    if (!first) return;
    head_wake(owner);
    next_wake(owner->purse, owner->slots, owner->n);
}

BudgetVerdict purse_try(PurseOwner *owner, PurseWaiter *waiter, const BudgetNeed *need,
                        CapHold *ret_room, const BudgetScope **ret_by)
{
    size_t by = 0;
    *ret_room = (CapHold){ .tokens = CAP_NONE, .nusd = CAP_NONE };
    if (!has_control(owner->purse)) return BUDGET_GRANT;
    bool alone = list_empty(&owner->waiters), current = owner_current(owner);
    waiter->need = *need;
    if (current && alone &&
        budget_try(owner->purses, owner->n, need, BUDGET_WAIT, ret_room, &by) == BUDGET_GRANT)
        return BUDGET_GRANT;
    if (!list_linked(&waiter->node)) join(owner, waiter);
    if (head_of(owner) != waiter) return BUDGET_WAIT;
    bool told = owner->answered >= waiter->joined;
    BudgetVerdict v = BUDGET_WAIT;
    if (current)
        v = budget_try(owner->purses, owner->n, need, told ? owner->answer : BUDGET_WAIT, ret_room,
                       &by);
    if (v == BUDGET_WAIT && owner->asking) give_free(owner);
    if (v == BUDGET_WAIT) ask(owner);
    if (v != BUDGET_EXHAUSTED) return v;
    *ret_by = &owner->slots[by]->scope;
    purse_leave(owner, waiter);
    return v;
}

void purse_take(PurseOwner *owner, PurseWaiter *waiter, const CapHold *hold, PurseHold *ret)
{
    bool waited = list_linked(&waiter->node);
    *ret = (PurseHold){ .hold = *hold };
    if (!has_control(owner->purse)) return;
    bool reserved = budget_reserve(owner->purses, owner->n, hold);
    assert(reserved);
    for (size_t i = 0; i < owner->n; i++) {
        ret->slots[ret->n++] = owner->slots[i];
        owner->slots[i]->refs++;
        owner->slots[i]->used_ms = clock_mono_ms();
    }
    if (!waited) return;
    if (owner->answer == BUDGET_GRANT) owner->answer = BUDGET_WAIT; /* it was for this one */
    purse_leave(owner, waiter);
}

void purse_settle(Purse *purse, PurseHold *hold, const CapHold *actual)
{
    BudgetPurse *purses[BUDGET_SCOPES_MAX] = { 0 };
    bool held = hold->n > 0;
    for (size_t i = 0; i < hold->n; i++) {
        purses[i] = &hold->slots[i]->purse;
        hold->slots[i]->used_ms = clock_mono_ms();
    }
    budget_settle(purses, hold->n, &hold->hold, actual);
    next_wake(purse, hold->slots, hold->n);
    for (size_t i = 0; i < hold->n; i++) slot_unref(hold->slots[i]);
    *hold = (PurseHold){ 0 };
    if (!held) return;
    if (clock_mono_ms() < purse->wanted_until_ms) give(purse);
}

int64_t purse_booked_ms(const PurseHold *hold)
{
    int64_t at_ms = clock_real_ms();
    for (size_t i = 0; i < hold->n; i++) {
        const PurseSlot *slot = hold->slots[i];
        at_ms = MIN(MAX(at_ms, slot->start_ms), slot->end_ms - 1);
    }
    return at_ms;
}

int purse_know_wait(PurseOwner *owner, Cond *wake, int64_t wait_ms)
{
    PurseWaiter waiter;
    int64_t until_ms = deadline_after(wait_ms);
    int r = 0;
    if (!has_control(owner->purse) || owner_current(owner)) return 0;
    purse_waiter_init(&waiter, LANE_CRITICAL, wake);
    while (r == 0 && !owner_current(owner)) {
        if (!list_linked(&waiter.node)) join(owner, &waiter);
        if (head_of(owner) == &waiter) ask(owner);
        r = cond_wait(wake, MIN(until_ms, deadline_after(ASK_AGAIN_MS)));
        if (r == -ETIMEDOUT && clock_mono_ms() < until_ms) r = 0;
    }
    purse_leave(owner, &waiter);
    return r == -ECANCELED ? r : 0;
}

/* --- giving back ------------------------------------------------------------------------------ */

/* Slots of which the control plane should hear. */
static bool give_fill(Purse *purse, Question *q)
{
    int64_t now_ms = clock_mono_ms();
    bool wanted = now_ms < purse->wanted_until_ms;
    size_t cursor = 0;
    for (PurseSlot *slot; (slot = map_next(&purse->slots, &cursor));) {
        bool over = slot->end_ms <= clock_real_ms();
        if (wanted || over || now_ms - slot->used_ms > IDLE_MS) budget_give_back(&slot->purse);
        if (slot->told >= slot->purse.slice.returned) continue;
        if (q->ask.notes_n < BUDGET_NOTES_MAX) note_add(q, slot);
    }
    return q->ask.notes_n > 0;
}

static int give_main(void *arg)
{
    Purse *purse = arg;
    do {
        CLEANUP(question_freep) Question *q = question_new();
        purse->give_more = false;
        int r = has_control(purse) && give_fill(purse, q) ? question_wait(purse, q) : 0;
        if (r < 0 && r != -ECANCELED)
            LOG_WARN("budgets not returned", LOG_CSTR("why", diag_text_or(r)));
    } while (purse->give_more && !fiber_cancelled());
    purse->giving = false;
    fiber_over(purse);
    return 0;
}

static void give(Purse *purse)
{
    purse->give_more = true;
    if (purse->giving || purse->closed || !has_control(purse)) return;
    if (fiber_spawn("budget return", give_main, purse, &purse->giver) < 0) return;
    purse->giving = true;
    purse->fibers++;
}

static void owners_wake(Purse *purse)
{
    size_t cursor = 0;
    for (PurseOwner *owner; (owner = map_next(&purse->owners, &cursor));) head_wake(owner);
}

void purse_quiet(Purse *purse, int64_t quiet_ms)
{
    purse->quiet_ms = quiet_ms;
}

void purse_beat(Purse *purse, uint64_t epoch, bool wanted)
{
    bool changed = purse->epoch != epoch;
    purse->epoch = epoch;
    if (wanted || changed) purse->wanted_until_ms = deadline_after(WANTED_MS);
    slots_forget(purse);
    give(purse);
    if (changed) owners_wake(purse);
}

void purse_reset(Purse *purse)
{
    size_t cursor = 0;
    purse->lease++; /* answers on their way speak of slices that are not its any more */
    for (PurseOwner *owner; (owner = map_next(&purse->owners, &cursor));) {
        owner_forget(owner);
        if (owner->asking) fiber_cancel(owner->asker);
    }
    cursor = 0;
    for (PurseSlot *slot; (slot = map_next(&purse->slots, &cursor));) {
        map_remove(&purse->slots, str_of(slot->key));
        slot->stale = true;
        if (slot->refs == 0) free(slot);
    }
    owners_wake(purse);
}

/* --- life ------------------------------------------------------------------------------------- */

Purse *purse_new(const GatewayControl *const *control)
{
    Purse *purse = xcalloc(1, sizeof *purse);
    purse->control = control;
    purse->quiet_ms = SLOT_QUIET_MS;
    map_init(&purse->slots, entropy_u64());
    map_init(&purse->owners, entropy_u64());
    cond_init(&purse->ended);
    return purse;
}

void purse_close_wait(Purse *purse)
{
    size_t cursor = 0;
    fiber_shield();
    purse->closed = true;
    for (PurseOwner *owner; (owner = map_next(&purse->owners, &cursor));)
        if (owner->asking) fiber_cancel(owner->asker);
    if (purse->giving) fiber_cancel(purse->giver);
    while (purse->fibers > 0) cond_wait(&purse->ended, DEADLINE_NONE);
    purse->closed = false;
    fiber_unshield();
}

void purse_free(Purse *purse)
{
    size_t cursor = 0;
    if (!purse) return;
    assert(purse->owners.n == 0 && purse->fibers == 0);
    for (PurseSlot *slot; (slot = map_next(&purse->slots, &cursor));) free(slot);
    map_deinit(&purse->slots);
    map_deinit(&purse->owners);
    free(purse);
}
