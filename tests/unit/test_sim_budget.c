/* The rules of the ledger over many seeds: a control plane, workers that take slices of three
 * budgets and shares of a provider's rate limit, tasks with caps of their own whose calls spend
 * from all of them, and a network that loses, repeats and delays messages, while workers are killed
 * and come back, or do not, or pause until their lease is lost and go on under another one, with
 * calls still in flight. A call is admitted as the gateway does it: its task's caps and the budgets
 * of its owner, both at once; then it waits for its turn at the provider, then it is sent. In every
 * run:
 *   - what is settled and set aside stays within each limit, at every step, and what is settled and
 *     reserved of a task within its caps;
 *   - the ledger is never below what the upstream billed, and equal to it when nobody was killed
 *     and no lease was lost;
 *   - a call is refused only when not even the least of it fits beside what is settled, in a budget
 *     or in its task's caps;
 *   - shares never sum to more than the limit, and the provider never sees more than that;
 *   - every call comes to its end, and in the end nothing is left set aside.
 * Faults that are put into the services around the rules are found by it, each of them.
 * A seed that fails is printed; replay it with GANTRY_SEED or as argument. GANTRY_SEEDS=N runs as
 * many, GANTRY_FAULTS=1 tells how each fault is found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "logic/budget.h"
#include "logic/rate.h"
#include "logic/share.h"
#include "random.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SEEDS 1000 /* the plain build runs them all */
#else
#define SEEDS 12000
#endif
#define STEPS_MAX 150000
#define FAULT_SEEDS 3000
#define SCOPES 3
#define WORKERS_MAX 4
#define LIVES_MAX 10 /* of workers: each restart is another */
#define CALLS_MAX 28
#define MESSAGES_MAX 512
#define OWNERS 3
#define TASKS_MAX 6
#define SHARE_EVERY_MS 2000
#define SHARE_TTL_MS 5000
#define IN_NUSD 1 /* a token */
#define OUT_NUSD 7

static uint64_t seed_first = 1, seed_n = SEEDS;

/* All spend; one agent's; tokens of one user. */
static const BudgetUnit units[SCOPES] = { BUDGET_USD, BUDGET_USD, BUDGET_TOKENS };
static const bool limited[OWNERS][SCOPES] = { { true, false, false },
                                              { true, true, false },
                                              { true, true, true } };

/* HELD: reserved, waits for its turn at the provider. */
typedef enum { AT_REST, QUEUED, HELD, IN_FLIGHT, SPENT, RECORDED, REFUSED, DEAD } CallState;

typedef struct {
    CallState state;
    int task, attempt, owner, life;
    Lane lane;
    CapCall wish;
    BudgetNeed need;
    CapHold hold, actual;
    int64_t turn, sent_ms, term;
    RateWaiter waiter;
    bool capped;   /* refused by its task's caps */
    bool recorded; /* by the control plane */
} Call;

/* Runs on one worker at a time; what it has in flight on a lost one it no longer knows of. */
typedef struct {
    int owner, life, attempt; /* life -1: nowhere */
    Lane lane;
    CapLimits limits;
    CapState caps;
    CapHold at_start; /* settled before this attempt */
} Task;

/* A worker's door to the provider, by process. */
typedef struct {
    Rate rate;
    RateQueue queue;
    int64_t asks_at_ms, answer_at_ms, answer_until_ms; /* answer_at_ms 0: none under way */
    int64_t answer_tokens, answer_concurrent;
    int64_t term; /* how often it was without a share */
    bool dead, lapsed;
} Door;

/* What is put wrong on purpose. */
typedef enum {
    SOUND,
    CAPS_NOT_RESERVED,    /* calls of a task do not see each other */
    PURSE_NOT_RESERVED,   /* calls of a worker do not */
    GRANTED_UNSEEN,       /* a slice is granted that the ledger does not know of */
    LOST_IS_FREE,         /* what a lost worker held is given to others at once */
    REFUSED_BY_RESERVED,  /* what is only set aside refuses */
    CAPPED_BY_RESERVED,   /* likewise, in a task */
    SETTLED_AS_FREE,      /* what a call cost goes back to its purse */
    REPEATED_IS_BOOKED,   /* a report that comes twice is booked twice */
    SHARE_OUTLIVES_LEASE, /* a worker goes on under a share whose time is over */
    SENT_WITHOUT_TURN,    /* and does not wait for its turn */
    FAULTS_N_
} Fault;

typedef enum { ASK, ANSWER, GIVE, NOTE, REPORT, ACK, PROOF, PROOF_ACK } MessageKind;

typedef struct {
    MessageKind kind;
    int life, owner, call, old_life;
    int64_t number; /* of the question */
    int64_t turn;
    BudgetNeed need;
    BudgetVerdict verdict;
    int64_t seen[SCOPES], returned[SCOPES]; /* of the worker */
    int64_t granted[SCOPES], settled[SCOPES];
    CapHold held[CALLS_MAX]; /* PROOF; tokens -1: not */
} Message;

typedef struct {
    bool alive, gone; /* gone: the control plane grants it nothing any more */
    bool lost;
    int before;  /* whose holds it has to prove, -1: nobody's */
    int process; /* the life with which it began: a lease that is lost does not end it */
    BudgetPurse purses[SCOPES];
    int64_t asked[OWNERS]; /* number of the question under way, 0: none */
    BudgetVerdict answer[OWNERS];
} Life;

typedef struct {
    Random random;
    Fault fault;
    bool sent; /* something, in this step */
    int64_t now, next_number;
    int64_t tokens_limit, concurrent_limit; /* of the provider */
    ShareHolder tokens[LIVES_MAX], concurrent[LIVES_MAX];
    Door doors[LIVES_MAX];
    Task tasks[TASKS_MAX];
    int64_t limit[SCOPES];
    BudgetSlice slices[LIVES_MAX][SCOPES];
    Life lives[LIVES_MAX];
    int lives_n;
    bool kills, pauses;
    int killed, paused, late_proofs;
    Message waiting[LIVES_MAX * OWNERS]; /* ASKs that wait at the control plane */
    int waiting_n;
    Message net[MESSAGES_MAX];
    int net_n;
    Call calls[CALLS_MAX];
    int calls_n;
    int64_t billed[SCOPES];
    const char *failed;
} World;

static World w;
static const ShareTerms token_terms = { SHARE_TTL_MS, RATE_SPAN_MS };
static const ShareTerms concurrent_terms = { SHARE_TTL_MS, 0 };
static Price price;

static void broken(const char *what)
{
    if (!w.failed) w.failed = what;
}
#define HOLDS(condition) ((condition) ? (void)0 : broken(#condition))

static int64_t roll(int64_t least, int64_t most)
{
    return random_range(&w.random, least, most);
}

static int64_t in_unit(CapHold hold, int scope)
{
    return units[scope] == BUDGET_USD ? hold.nusd : hold.tokens;
}

static void send(Message m)
{
    if (roll(0, 9) == 0 || w.net_n + 2 > MESSAGES_MAX) return; /* lost */
    w.net[w.net_n++] = m;
    if (roll(0, 9) == 0) w.net[w.net_n++] = m;
}

/* --- the control plane ------------------------------------------------------------------------ */

static void account(int scope, int64_t *ret_settled, int64_t *ret_leased)
{
    *ret_settled = *ret_leased = 0;
    for (int i = 0; i < w.lives_n; i++) {
        int64_t out = budget_outstanding(&w.slices[i][scope]);
        if (w.lives[i].lost && w.fault == LOST_IS_FREE) out = 0;
        *ret_settled += w.slices[i][scope].settled + (w.lives[i].lost ? out : 0);
        *ret_leased += w.lives[i].lost ? 0 : out;
    }
}

static void slices_tell(Message *m)
{
    for (int s = 0; s < SCOPES; s++) {
        int64_t leased;
        m->granted[s] = w.slices[m->life][s].granted + (w.fault == GRANTED_UNSEEN ? 30 : 0);
        account(s, &m->settled[s], &leased);
    }
}

static void returned_take(const Message *m)
{
    for (int s = 0; s < SCOPES; s++) {
        BudgetSlice *slice = &w.slices[m->life][s];
        slice->returned = MAX(slice->returned, MIN(m->returned[s], slice->granted));
    }
}

static BudgetVerdict decide(const Message *ask)
{
    BudgetAccount accounts[SCOPES];
    int scopes[SCOPES];
    int64_t grants[SCOPES];
    size_t n = 0, by = 0;
    for (int s = 0; s < SCOPES; s++) {
        if (!limited[ask->owner][s]) continue;
        BudgetAccount *a = &accounts[n];
        const BudgetSlice *own = &w.slices[ask->life][s];
        *a = (BudgetAccount){ .unit = units[s], .limit = w.limit[s] };
        account(s, &a->settled, &a->leased);
        a->unseen = MIN(MAX(own->granted - ask->seen[s], 0), budget_outstanding(own));
        for (int i = 0; i < w.waiting_n; i++) {
            const Message *other = &w.waiting[i];
            if (other->turn < ask->turn && limited[other->owner][s])
                a->ahead += in_unit(other->need.want, s);
        }
        scopes[n++] = s;
    }
    BudgetVerdict verdict = budget_decide(accounts, n, &ask->need, grants, &by);
    for (size_t i = 0; i < n && verdict == BUDGET_GRANT; i++)
        w.slices[ask->life][scopes[i]].granted += grants[i];
    return verdict;
}

static void waiting_remove(int i)
{
    w.waiting[i] = w.waiting[--w.waiting_n];
}

static int first_waiting(int64_t after)
{
    int first = -1;
    for (int i = 0; i < w.waiting_n; i++)
        if (w.waiting[i].turn > after && (first < 0 || w.waiting[i].turn < w.waiting[first].turn))
            first = i;
    return first;
}

/* Everybody who waits, in turn. */
static void serve_waiting(void)
{
    int64_t turn = INT64_MIN;
    for (int i; (i = first_waiting(turn)) >= 0;) {
        Message ask = w.waiting[i];
        turn = ask.turn;
        if (w.lives[ask.life].gone) {
            waiting_remove(i);
            continue;
        }
        BudgetVerdict verdict = decide(&ask);
        if (verdict == BUDGET_WAIT) continue;
        waiting_remove(i);
        Message answer = { .kind = ANSWER,
                           .life = ask.life,
                           .owner = ask.owner,
                           .number = ask.number,
                           .verdict = verdict };
        slices_tell(&answer);
        send(answer);
    }
}

static void on_ask(const Message *m)
{
    if (w.lives[m->life].gone) return;
    returned_take(m);
    for (int i = 0; i < w.waiting_n; i++)
        if (w.waiting[i].life == m->life && w.waiting[i].owner == m->owner) {
            if (w.waiting[i].number >= m->number) return;
            waiting_remove(i--);
        }
    w.waiting[w.waiting_n++] = *m;
}

static void on_give(const Message *m)
{
    if (w.lives[m->life].gone) return;
    returned_take(m);
    Message note = { .kind = NOTE, .life = m->life };
    slices_tell(&note);
    send(note);
}

static void book(int life, Call *call, CapHold spent)
{
    bool again = call->recorded && !(w.fault == REPEATED_IS_BOOKED && call->state == RECORDED);
    for (int s = 0; s < SCOPES && !again; s++)
        if (limited[call->owner][s]) w.slices[life][s].settled += in_unit(spent, s);
    call->recorded = true;
}

static void on_report(const Message *m)
{
    book(m->life, &w.calls[m->call], w.calls[m->call].actual);
    send((Message){ .kind = ACK, .life = m->life, .call = m->call });
}

/* What the dead worker had in flight is charged in full, the rest comes back. */
static void on_proof(const Message *m)
{
    w.lives[m->old_life].gone = true;
    w.late_proofs += w.lives[m->old_life].lost;
    for (int c = 0; c < w.calls_n; c++)
        if (m->held[c].tokens >= 0) book(m->old_life, &w.calls[c], m->held[c]);
    for (int s = 0; s < SCOPES; s++) {
        BudgetSlice *slice = &w.slices[m->old_life][s];
        slice->returned += budget_outstanding(slice);
    }
    send((Message){ .kind = PROOF_ACK, .life = m->life, .old_life = m->old_life });
}

/* --- workers ---------------------------------------------------------------------------------- */

static size_t purses_of(Life *life, int owner, BudgetPurse *ret[SCOPES])
{
    size_t n = 0;
    for (int s = 0; s < SCOPES; s++)
        if (limited[owner][s]) ret[n++] = &life->purses[s];
    return n;
}

static void told(const Message *m)
{
    for (int s = 0; s < SCOPES; s++)
        budget_hear(&w.lives[m->life].purses[s], m->granted[s], w.limit[s], m->settled[s]);
}

/* --- caps --- */

/* Beside what is settled of its task not even the least of it fits. */
static void refuse_by_caps(Call *call)
{
    const Task *task = &w.tasks[call->task];
    int64_t in = call->wish.in_ub, out = call->wish.out_min;
    bool tokens = task->caps.settled_tokens + in + out > task->limits.tokens;
    bool nusd = task->caps.settled_nusd + in * IN_NUSD + out * OUT_NUSD > task->limits.usd_nusd;
    HOLDS(tokens || nusd);
    call->state = REFUSED;
    call->capped = true;
}

static CapVerdict caps_look(const Call *call, CapNeed *ret)
{
    const Task *task = &w.tasks[call->task];
    CapVerdict v = cap_look(&task->limits, &task->caps, &call->wish, w.now, ret);
    if (v.kind == CAP_WAIT && w.fault == CAPPED_BY_RESERVED) v.kind = CAP_REFUSE;
    return v;
}

static int next_queued(int life, int owner, int64_t after)
{
    int next = -1;
    for (int c = 0; c < w.calls_n; c++) {
        const Call *call = &w.calls[c];
        if (call->state != QUEUED || call->life != life || call->owner != owner) continue;
        if (call->turn <= after) continue;
        if (next < 0 || call->turn < w.calls[next].turn) next = c;
    }
    return next;
}

/* The first that its task's caps let go ahead. Those that wait for calls of their own task wait
 * beside the queue. */
static int head_of(int life, int owner)
{
    int64_t after = INT64_MIN;
    for (int c; (c = next_queued(life, owner, after)) >= 0;) {
        Call *call = &w.calls[c];
        CapNeed need;
        CapVerdict v = caps_look(call, &need);
        if (v.kind == CAP_REFUSE) refuse_by_caps(call);
        if (v.kind == CAP_ADMIT) {
            call->need = (BudgetNeed){ .min = need.min, .good = need.good, .want = need.want };
            return c;
        }
        after = call->turn;
    }
    return -1;
}

/* Of an attempt that is over nobody counts any more. */
static bool is_current(const Call *call)
{
    return call->attempt == w.tasks[call->task].attempt;
}

/* --- the provider's limit --- */

static Door *door_of(int life)
{
    return &w.doors[w.lives[life].process];
}

static void door_admit(int life)
{
    Door *door = door_of(life);
    List admitted;
    ListNode *node;
    int64_t next_ms;
    if (door->queue.n == 0) return;
    list_init(&admitted);
    rate_queue_admit(&door->queue, w.now, &admitted, &next_ms);
    while ((node = list_pop_front(&admitted))) {
        Call *call = CONTAINER_OF(CONTAINER_OF(node, RateWaiter, node), Call, waiter);
        call->state = IN_FLIGHT;
        call->sent_ms = w.now;
        call->term = door->term;
        w.sent = true;
    }
}

static void join_door(Call *call)
{
    Door *door = door_of(call->life);
    call->state = HELD;
    call->waiter = (RateWaiter){ .lane = call->lane,
                                 .rates = { &door->rate },
                                 .rates_n = 1,
                                 .need = rate_amounts(call->hold.tokens, 0) };
    bool joined = rate_queue_join(&door->queue, &call->waiter, w.now);
    HOLDS(joined);
    if (w.fault == SENT_WITHOUT_TURN) {
        rate_queue_leave(&door->queue, &call->waiter);
        rate_take(&door->rate, &call->waiter.need, w.now);
        call->waiter.admitted = true;
        call->waiter.taken_at_ms = call->sent_ms = w.now;
        call->term = door->term;
        w.sent = true;
        call->state = IN_FLIGHT;
    } else door_admit(call->life);
}

static ShareAsk asked_of(const Door *door, int unit)
{
    bool valid = w.now < door->rate.share_until_ms, tokens = unit == RATE_TOKENS;
    int64_t share = tokens ? door->rate.share.v[RATE_TOKENS] : door->rate.concurrent_share;
    ShareAsk ask = { .have = valid ? share : 0,
                     .used = tokens ? rate_own(&door->rate, RATE_TOKENS, w.now)
                                    : door->rate.in_flight };
    LIST_EACH (&door->queue.waiting, node) {
        const RateWaiter *waiter = CONTAINER_OF(node, RateWaiter, node);
        int64_t need = tokens ? waiter->need.v[RATE_TOKENS] : 1;
        if (!ask.first) ask.first_late_ms = w.now - waiter->rank_ms;
        if (!ask.first) ask.first = need;
        ask.want[waiter->lane] += need;
    }
    return ask;
}

static bool has_share(const Door *door)
{
    return w.now < door->rate.share_until_ms;
}

/* What workers may take at this moment. */
static void check_shares(void)
{
    int64_t tokens = 0, concurrent = 0;
    for (int i = 0; i < w.lives_n; i++) {
        const Door *door = &w.doors[i];
        if (door->dead || !has_share(door)) continue;
        tokens += door->rate.share.v[RATE_TOKENS];
        concurrent += door->rate.concurrent_share;
    }
    HOLDS(tokens <= w.tokens_limit && concurrent <= w.concurrent_limit);
}

/* The question and its answer: either may be lost, the answer comes late. */
static void shares_ask(int life)
{
    Door *door = door_of(life);
    size_t place = (size_t)w.lives[life].process, n = (size_t)w.lives_n;
    ShareAsk tokens = asked_of(door, RATE_TOKENS), concurrent = asked_of(door, RATE_N_);
    door->asks_at_ms = w.now + SHARE_EVERY_MS;
    if (roll(0, 9) == 0) return;
    door->answer_tokens = share_ask(w.tokens, n, place, w.tokens_limit, &tokens, &token_terms, true,
                                    w.now);
    door->answer_concurrent = share_ask(w.concurrent, n, place, w.concurrent_limit, &concurrent,
                                        &concurrent_terms, true, w.now);
    if (roll(0, 9) == 0) return;
    door->answer_at_ms = w.now + roll(0, SHARE_EVERY_MS - 1);
    door->answer_until_ms = w.fault == SHARE_OUTLIVES_LEASE ? INT64_MAX : w.now + SHARE_TTL_MS;
}

static void doors_turn(void)
{
    for (int life = 0; life < w.lives_n; life++) {
        Door *door = door_of(life);
        if (!w.lives[life].alive) continue;
        if (!has_share(door) && !door->lapsed) door->term++;
        door->lapsed = !has_share(door);
        if (door->answer_at_ms && door->answer_at_ms <= w.now) {
            door->answer_at_ms = 0;
            door->rate.share.v[RATE_TOKENS] = door->answer_tokens;
            door->rate.concurrent_share = door->answer_concurrent;
            door->rate.share_until_ms = door->answer_until_ms;
        }
        if (!door->answer_at_ms && door->asks_at_ms <= w.now) shares_ask(life);
        door_admit(life);
    }
}

/* What was sent in the last minute and is under way; of killed calls nobody knows better than what
 * they could have been. A worker that hears of no share for so long that it has none any more still
 * has its calls under way, beside those of who has got the share: they are not counted. */
static void check_provider(void)
{
    int64_t flying = 0, minute = 0, largest = 0;
    for (int c = 0; c < w.calls_n; c++) {
        const Call *call = &w.calls[c];
        if (call->state < IN_FLIGHT || call->state == REFUSED) continue;
        const Door *door = door_of(call->life);
        flying += call->state == IN_FLIGHT && call->term == door->term && has_share(door);
        if (call->sent_ms <= w.now - RATE_WINDOW_MS) continue;
        bool ended = call->state == SPENT || call->state == RECORDED;
        int64_t tokens = ended ? call->actual.tokens : call->hold.tokens;
        minute += tokens;
        largest = MAX(largest, tokens);
    }
    HOLDS(flying <= w.concurrent_limit);
    HOLDS(minute <= MAX(w.tokens_limit, largest));
}

/* --- budgets --- */

static void begin(Call *call, BudgetPurse **purses, size_t n, CapHold room)
{
    Task *task = &w.tasks[call->task];
    CapState before = task->caps;
    CapVerdict v = cap_admit_within(&task->limits, &task->caps, &call->wish, &room, w.now);
    HOLDS(v.kind == CAP_ADMIT);
    call->hold = v.hold;
    call->attempt = task->attempt;
    if (w.fault == CAPS_NOT_RESERVED) {
        task->caps.reserved_tokens = before.reserved_tokens;
        task->caps.reserved_nusd = before.reserved_nusd;
    }
    bool reserved = w.fault == PURSE_NOT_RESERVED || budget_reserve(purses, n, &call->hold);
    HOLDS(reserved);
    HOLDS(call->hold.nusd >= call->need.min.nusd && call->hold.tokens >= call->need.min.tokens);
    join_door(call);
}

/* What it has cost, in its task and in the budgets. */
static void settle(Call *call)
{
    Task *task = &w.tasks[call->task];
    BudgetPurse *purses[SCOPES];
    size_t n = purses_of(&w.lives[call->life], call->owner, purses);
    CapHold booked = w.fault == SETTLED_AS_FREE ? (CapHold){ 0 } : call->actual;
    if (w.fault == PURSE_NOT_RESERVED)
        for (size_t i = 0; i < n; i++)
            purses[i]->reserved += in_unit(call->hold,
                                           (int)(purses[i] - w.lives[call->life].purses));
    budget_settle(purses, n, &call->hold, &booked);
    if (!is_current(call)) return;
    if (w.fault == CAPS_NOT_RESERVED) {
        task->caps.reserved_tokens += call->hold.tokens;
        task->caps.reserved_nusd += call->hold.nusd;
    }
    bool within = cap_settle(&task->caps, &call->hold, &call->actual, 0);
    HOLDS(within);
}

static void refuse(Call *call)
{
    bool fits = true;
    for (int s = 0; s < SCOPES; s++) {
        int64_t settled, leased;
        account(s, &settled, &leased);
        if (limited[call->owner][s])
            fits = fits && settled + in_unit(call->need.min, s) <= w.limit[s];
    }
    /* unless a worker given up for lost has given back since then */
    HOLDS(!fits || w.late_proofs);
    call->state = REFUSED;
}

static void ask(int life, int owner, const Call *call)
{
    Life *l = &w.lives[life];
    BudgetPurse *purses[SCOPES];
    size_t n = purses_of(l, owner, purses);
    for (size_t i = 0; i < n; i++) budget_give_back(purses[i]);
    l->asked[owner] = ++w.next_number;
    l->answer[owner] = BUDGET_WAIT;
    Message m = { .kind = ASK,
                  .life = life,
                  .owner = owner,
                  .number = w.next_number,
                  .turn = call->turn,
                  .need = call->need };
    for (int s = 0; s < SCOPES; s++) {
        m.seen[s] = l->purses[s].slice.granted;
        m.returned[s] = l->purses[s].slice.returned;
    }
    send(m);
}

/* Lets calls go ahead that may, and asks for the first that may not. */
static void serve(int life, int owner)
{
    Life *l = &w.lives[life];
    BudgetPurse *purses[SCOPES];
    size_t n = purses_of(l, owner, purses);
    for (int c; l->alive && (c = head_of(life, owner)) >= 0;) {
        CapHold room;
        size_t by;
        BudgetVerdict v = budget_try(purses, n, &w.calls[c].need, l->answer[owner], &room, &by);
        if (v == BUDGET_WAIT && w.fault == REFUSED_BY_RESERVED) v = BUDGET_EXHAUSTED;
        if (v == BUDGET_WAIT) {
            if (!l->asked[owner]) ask(life, owner, &w.calls[c]);
            return;
        }
        if (v == BUDGET_GRANT) begin(&w.calls[c], purses, n, room);
        else refuse(&w.calls[c]);
        if (v == BUDGET_GRANT) l->answer[owner] = BUDGET_WAIT; /* it was for that one */
    }
}

static void on_answer(const Message *m)
{
    Life *l = &w.lives[m->life];
    if (!l->alive) return;
    told(m);
    if (m->number != l->asked[m->owner]) return;
    l->asked[m->owner] = 0;
    l->answer[m->owner] = m->verdict;
    serve(m->life, m->owner);
}

static bool process_runs(int life)
{
    for (int i = 0; i < w.lives_n; i++)
        if (w.lives[i].process == w.lives[life].process && w.lives[i].alive) return true;
    return false;
}

static void on_ack(const Message *m)
{
    Call *call = &w.calls[m->call];
    if (process_runs(m->life) && call->state == SPENT) call->state = RECORDED;
}

/* There may be somebody before it who was not proven either. */
static void on_proof_ack(const Message *m)
{
    Life *life = &w.lives[m->life];
    if (life->before == m->old_life) life->before = w.lives[m->old_life].before;
}

static void deliver(void)
{
    if (w.net_n == 0) return;
    int i = (int)roll(0, w.net_n - 1);
    Message m = w.net[i];
    w.net[i] = w.net[--w.net_n];
    switch (m.kind) {
    case ASK: on_ask(&m); break;
    case GIVE: on_give(&m); break;
    case REPORT: on_report(&m); break;
    case PROOF: on_proof(&m); break;
    case ANSWER: on_answer(&m); return;
    case NOTE:
        if (w.lives[m.life].alive) told(&m);
        return;
    case ACK: on_ack(&m); return;
    case PROOF_ACK: on_proof_ack(&m); return;
    }
    serve_waiting();
}

/* --- what happens ----------------------------------------------------------------------------- */

static int live_one(void)
{
    int alive[LIVES_MAX], n = 0;
    for (int i = 0; i < w.lives_n; i++)
        if (w.lives[i].alive) alive[n++] = i;
    return n ? alive[roll(0, n - 1)] : -1;
}

static void life_new(int before)
{
    int life = w.lives_n++;
    w.lives[life] = (Life){ .alive = true, .before = before, .process = life };
    for (int s = 0; s < SCOPES; s++) w.lives[life].purses[s].unit = units[s];
    Door *door = &w.doors[life];
    RateAmounts limit = { .v = { [RATE_TOKENS] = w.tokens_limit } };
    rate_init(&door->rate, &limit, w.concurrent_limit);
    door->rate.shared = true;
    rate_queue_init(&door->queue, CALLS_MAX);
}

/* The task goes on where it is, or begins anew with what the control plane knows it has spent. */
static int task_life(int t)
{
    Task *task = &w.tasks[t];
    if (task->life >= 0) return task->life;
    task->life = live_one();
    task->attempt++;
    task->caps = (CapState){ .started_ms = w.now };
    for (int c = 0; c < w.calls_n; c++) {
        const Call *call = &w.calls[c];
        if (call->task != t || !call->recorded) continue;
        task->caps.settled_tokens += call->actual.tokens;
        task->caps.settled_nusd += call->actual.nusd;
    }
    task->at_start = (CapHold){ task->caps.settled_tokens, task->caps.settled_nusd };
    return task->life;
}

/* Those of its tasks are run elsewhere. */
static void tasks_leave(int life)
{
    for (int t = 0; t < TASKS_MAX; t++)
        if (w.tasks[t].life == life) w.tasks[t].life = -1;
}

static void call_arrives(void)
{
    int c = (int)roll(0, w.calls_n - 1);
    Call *call = &w.calls[c];
    if (call->state != AT_REST) return;
    int life = task_life(call->task);
    if (life < 0) return;
    call->life = life;
    call->state = QUEUED;
    call->turn = budget_turn_ms(call->lane, w.now) * CALLS_MAX + c; /* no two the same */
    serve(life, call->owner);
}

static void call_ends(void)
{
    Call *call = &w.calls[roll(0, w.calls_n - 1)];
    if (call->state != IN_FLIGHT) return;
    int kind = (int)roll(0, 3);
    call->actual = call->hold;
    if (kind == 0) call->actual = (CapHold){ 0 };
    if (kind == 1) call->actual = (CapHold){ roll(0, call->hold.tokens), roll(0, call->hold.nusd) };
    for (int s = 0; s < SCOPES; s++)
        if (limited[call->owner][s]) w.billed[s] += in_unit(call->actual, s);
    settle(call);
    RateAmounts used = rate_amounts(call->actual.tokens, 0);
    rate_waiter_settle(&call->waiter, &used, w.now);
    call->state = SPENT;
    for (int owner = 0; owner < OWNERS; owner++) serve(call->life, owner);
}

static void give_up_turn(Call *call)
{
    rate_queue_leave(&door_of(call->life)->queue, &call->waiter);
    call->actual = (CapHold){ 0 };
    settle(call);
    call->state = AT_REST;
}

/* There was no turn for it in time; its client tries again. */
static void turn_missed(void)
{
    Call *call = &w.calls[roll(0, w.calls_n - 1)];
    if (call->state != HELD || roll(0, 9) != 0) return;
    int life = call->life;
    give_up_turn(call);
    for (int owner = 0; owner < OWNERS; owner++) serve(life, owner);
}

static void call_reported(void)
{
    int c = (int)roll(0, w.calls_n - 1);
    if (w.calls[c].state != SPENT) return;
    /* under the lease it was reserved under, also when there is another one now */
    send((Message){ .kind = REPORT, .life = w.calls[c].life, .call = c });
}

/* An answer is not waited for for ever. */
static void ask_again(void)
{
    int life = live_one(), owner = (int)roll(0, OWNERS - 1);
    if (life < 0 || !w.lives[life].asked[owner]) return;
    w.lives[life].asked[owner] = 0;
    serve(life, owner);
}

/* What a list of holds says of a call. */
static CapHold held_of(const Call *call, int life)
{
    bool there = call->state == IN_FLIGHT || call->state == SPENT || call->state == DEAD;
    if (call->life != life || !there) return (CapHold){ .tokens = -1 };
    return call->state == SPENT ? call->actual : call->hold;
}

static void beat(void)
{
    int life = live_one();
    if (life < 0) return;
    Life *l = &w.lives[life];
    if (l->before >= 0) {
        Message proof = { .kind = PROOF, .life = life, .old_life = l->before };
        for (int c = 0; c < w.calls_n; c++) proof.held[c] = held_of(&w.calls[c], l->before);
        send(proof);
    }
    Message give = { .kind = GIVE, .life = life };
    for (int s = 0; s < SCOPES; s++) {
        budget_give_back(&l->purses[s]);
        give.returned[s] = l->purses[s].slice.returned;
    }
    send(give);
    for (int owner = 0; owner < OWNERS; owner++) serve(life, owner);
}

static void kill_one(void)
{
    int life = live_one();
    if (!w.kills || life < 0 || w.lives_n >= LIVES_MAX || roll(0, 40) != 0) return;
    w.killed++;
    w.lives[life].alive = false;
    for (int c = 0; c < w.calls_n; c++) {
        Call *call = &w.calls[c];
        if (call->state == AT_REST || w.lives[call->life].process != w.lives[life].process)
            continue;
        if (call->state == QUEUED || call->state == HELD) call->state = AT_REST;
        if (call->state == SPENT) { /* what it cost is known, and the rest may be spent again */
            call->hold = call->actual;
            call->state = DEAD;
        }
        if (call->state != IN_FLIGHT) continue;
        call->actual = call->hold; /* what it cost in the end nobody here knows */
        call->state = DEAD;
        for (int s = 0; s < SCOPES; s++)
            if (limited[call->owner][s]) w.billed[s] += roll(0, in_unit(call->hold, s));
    }
    tasks_leave(life);
    door_of(life)->dead = true;
    if (roll(0, 1)) life_new(life);
}

/* A worker that is silent for too long is lost; it goes on under another lease, and what it had
 * in flight ends and is reported then. */
static void pause_one(void)
{
    int life = live_one();
    if (!w.pauses || life < 0 || w.lives_n >= LIVES_MAX || roll(0, 25) != 0) return;
    w.paused++;
    w.lives[life].alive = false;
    w.lives[life].lost = w.lives[life].gone = true;
    for (int c = 0; c < w.calls_n; c++)
        if (w.calls[c].life == life && w.calls[c].state == QUEUED) w.calls[c].state = AT_REST;
    for (int c = 0; c < w.calls_n; c++)
        if (w.calls[c].life == life && w.calls[c].state == HELD) give_up_turn(&w.calls[c]);
    tasks_leave(life);
    life_new(life);
    w.lives[w.lives_n - 1].process = w.lives[life].process;
    serve_waiting();
}

/* Who does not come back loses its lease. */
static void lease_ends(void)
{
    int life = (int)roll(0, w.lives_n - 1);
    if (w.lives[life].alive || w.lives[life].lost || roll(0, 30) != 0) return;
    w.lives[life].lost = w.lives[life].gone = true;
    serve_waiting();
    if (live_one() < 0 && w.lives_n < LIVES_MAX) life_new(-1);
}

static void check(void)
{
    for (int s = 0; s < SCOPES; s++) {
        int64_t settled, leased;
        account(s, &settled, &leased);
        HOLDS(settled + leased <= w.limit[s]);
        HOLDS(w.billed[s] <= settled + leased);
    }
    for (int t = 0; t < TASKS_MAX; t++) {
        const Task *task = &w.tasks[t];
        const CapState *caps = &task->caps;
        HOLDS(caps->settled_tokens + caps->reserved_tokens <=
              MAX(task->limits.tokens, task->at_start.tokens));
        HOLDS(caps->settled_nusd + caps->reserved_nusd <=
              MAX(task->limits.usd_nusd, task->at_start.nusd));
    }
    if (w.sent) check_provider();
    w.sent = false;
    check_shares();
}

static bool over(void)
{
    for (int c = 0; c < w.calls_n; c++)
        if (w.calls[c].state < RECORDED) return false;
    for (int i = 0; i < w.lives_n; i++) {
        if (!w.lives[i].alive && !w.lives[i].gone) return false;
        for (int s = 0; s < SCOPES; s++)
            if (!w.lives[i].lost && budget_outstanding(&w.slices[i][s]) > 0) return false;
    }
    return true;
}

/* --- runs ------------------------------------------------------------------------------------- */

static CapCall wish_make(void)
{
    static const int64_t sizes[] = { 100, 100, 100, 37, 250, 900 };
    int64_t out = sizes[roll(0, ARRAY_N(sizes) - 1)];
    bool clamps = roll(0, 1);
    return (CapCall){ .price = &price,
                      .in_ub = 20,
                      .out_cap = out,
                      .n = 1,
                      .out_min = clamps ? MAX(out / 8, 1) : out,
                      .out_good = clamps ? out / 2 : out };
}

static Task task_make(void)
{
    bool capped = roll(0, 1);
    return (Task){ .owner = (int)roll(0, OWNERS - 1),
                   .life = -1,
                   .lane = (Lane)roll(0, LANE_N_ - 1),
                   .limits = { .tokens = capped ? roll(0, 3000) : CAP_NONE,
                               .tool_calls = CAP_NONE,
                               .usd_nusd = roll(0, 1) ? roll(0, 15000) : CAP_NONE,
                               .wall_ms = CAP_NONE } };
}

static void world_make(uint64_t seed)
{
    Fault fault = w.fault;
    memset(&w, 0, sizeof w);
    w.fault = fault;
    w.random = (Random){ seed };
    w.now = 1000000;
    w.tokens_limit = roll(1000, 20000);
    w.concurrent_limit = roll(1, 12);
    w.calls_n = (int)roll(4, CALLS_MAX);
    w.kills = roll(0, 1);
    w.pauses = roll(0, 1);
    for (int s = 0; s < SCOPES; s++)
        w.limit[s] = roll(0, 3) ? roll(0, 700) * w.calls_n : roll(1, 1000) * 100000;
    for (int i = (int)roll(1, WORKERS_MAX); i > 0; i--) life_new(-1);
    for (int t = 0; t < TASKS_MAX; t++) w.tasks[t] = task_make();
    for (int c = 0; c < w.calls_n; c++) {
        int t = (int)roll(0, TASKS_MAX - 1);
        w.calls[c] = (Call){
            .task = t, .owner = w.tasks[t].owner, .lane = w.tasks[t].lane, .wish = wish_make()
        };
    }
}

static void step(void)
{
    static void (*const happenings[])(void) = { deliver,   deliver,    deliver,       deliver,
                                                call_ends, call_ends,  call_arrives,  call_arrives,
                                                ask_again, beat,       call_reported, call_reported,
                                                kill_one,  lease_ends, pause_one,     turn_missed };
    w.now += roll(0, 300);
    doors_turn();
    happenings[roll(0, ARRAY_N(happenings) - 1)]();
    check();
}

static bool run(uint64_t seed)
{
    int steps = 0;
    world_make(seed);
    while (!w.failed && !over()) {
        if (++steps > STEPS_MAX) broken("it comes to an end");
        step();
    }
    for (int s = 0; s < SCOPES && !w.failed && !w.killed && !w.paused; s++) {
        int64_t settled, leased;
        account(s, &settled, &leased);
        HOLDS(settled == w.billed[s] && leased == 0);
    }
    if (w.failed && w.fault == SOUND)
        fprintf(stderr, "seed %" PRIu64 ", step %d: failed: %s\n", seed, steps, w.failed);
    return !w.failed;
}

static void test_seeds(void **state)
{
    (void)state;
    int ended[DEAD + 1] = { 0 };
    int64_t killed = 0, paused = 0, capped = 0;
    for (uint64_t seed = seed_first; seed < seed_first + seed_n; seed++) {
        if (!run(seed)) fail_msg("seed %" PRIu64, seed);
        killed += w.killed;
        paused += w.paused;
        for (int c = 0; c < w.calls_n; c++) {
            ended[w.calls[c].state]++;
            capped += w.calls[c].capped;
        }
    }
    if (seed_n < SEEDS) return;
    assert_true(ended[RECORDED] > 1000 && ended[REFUSED] > 1000 && ended[DEAD] > 1000);
    assert_true(killed > 1000 && paused > 1000 && capped > 1000);
}

/* Each within some hundred seeds. */
static void test_faults_are_found(void **state)
{
    (void)state;
    if (SEEDS < FAULT_SEEDS) skip(); /* the plain build finds them */
    for (w.fault = SOUND + 1; w.fault < FAULTS_N_; w.fault++) {
        uint64_t seed = 1;
        while (seed <= FAULT_SEEDS && run(seed)) seed++;
        if (getenv("GANTRY_FAULTS"))
            fprintf(stderr, "fault %d: seed %" PRIu64 ": %s\n", (int)w.fault, seed,
                    w.failed ? w.failed : "not found");
        if (seed > FAULT_SEEDS) fail_msg("fault %d is not found", (int)w.fault);
    }
    w.fault = SOUND;
}

int main(int argc, char **argv)
{
    const char *seed = argc > 1 ? argv[1] : getenv("GANTRY_SEED");
    if (getenv("GANTRY_SEEDS")) seed_n = strtoull(getenv("GANTRY_SEEDS"), NULL, 10);
    if (seed) {
        seed_first = strtoull(seed, NULL, 10);
        seed_n = 1;
    }
    price = (Price){ .model = STR("m"), .base = PRICE_RATES_UNSET };
    price.base.input = IN_NUSD * INT64_C(1000);
    price.base.output = OUT_NUSD * INT64_C(1000);
    price_fill(&price);
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_seeds),
                                        cmocka_unit_test(test_faults_are_found) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
