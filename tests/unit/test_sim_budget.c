/* The rules of budgets over many seeds: a control plane, workers that take slices of three budgets,
 * calls of three kinds of owner that spend from them, and a network that loses, repeats and delays
 * messages, while workers are killed and come back, or do not, or pause until their lease is lost
 * and go on under another one, with calls still in flight. In every run:
 *   - what is settled and set aside stays within each limit, at every step;
 *   - the ledger is never below what the upstream billed, and equal to it when nobody was killed
 *     and no lease was lost;
 *   - a call is refused only when not even the least of it fits beside what is settled;
 *   - every call comes to its end, and in the end nothing is left set aside.
 * A seed that fails is printed; replay it with GANTRY_SEED or as argument. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "logic/budget.h"
#include "random.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SEEDS 1000 /* the plain build runs them all */
#else
#define SEEDS 20000
#endif
#define STEPS_MAX 60000
#define SCOPES 3
#define WORKERS_MAX 4
#define LIVES_MAX 10 /* of workers: each restart is another */
#define CALLS_MAX 28
#define MESSAGES_MAX 512
#define OWNERS 3

static uint64_t seed_first = 1, seed_n = SEEDS;

/* All spend; one agent's; tokens of one user. */
static const BudgetUnit units[SCOPES] = { BUDGET_USD, BUDGET_USD, BUDGET_TOKENS };
static const bool limited[OWNERS][SCOPES] = { { true, false, false },
                                              { true, true, false },
                                              { true, true, true } };

typedef enum { AT_REST, QUEUED, IN_FLIGHT, SPENT, RECORDED, REFUSED, DEAD } CallState;

typedef struct {
    CallState state;
    int owner, life;
    Lane lane;
    BudgetNeed need;
    CapHold hold, actual;
    int64_t turn;
    bool recorded; /* by the control plane */
} Call;

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
    int64_t now, next_number;
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
        *ret_settled += w.slices[i][scope].settled + (w.lives[i].lost ? out : 0);
        *ret_leased += w.lives[i].lost ? 0 : out;
    }
}

static void slices_tell(Message *m)
{
    for (int s = 0; s < SCOPES; s++) {
        int64_t leased;
        m->granted[s] = w.slices[m->life][s].granted;
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
    for (int s = 0; s < SCOPES && !call->recorded; s++)
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

static int head_of(int life, int owner)
{
    int head = -1;
    for (int c = 0; c < w.calls_n; c++) {
        const Call *call = &w.calls[c];
        if (call->state != QUEUED || call->life != life || call->owner != owner) continue;
        if (head < 0 || call->turn < w.calls[head].turn) head = c;
    }
    return head;
}

static int64_t least(int64_t a, int64_t b)
{
    return MIN(a, b);
}

static void begin(Call *call, BudgetPurse **purses, size_t n, CapHold room)
{
    call->hold = (CapHold){ least(call->need.want.tokens, room.tokens),
                            least(call->need.want.nusd, room.nusd) };
    bool reserved = budget_reserve(purses, n, &call->hold);
    HOLDS(reserved);
    HOLDS(call->hold.nusd >= call->need.min.nusd && call->hold.tokens >= call->need.min.tokens);
    call->state = IN_FLIGHT;
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
    w.lives[w.lives_n++] = (Life){ .alive = true, .before = before, .process = w.lives_n };
    for (int s = 0; s < SCOPES; s++) w.lives[w.lives_n - 1].purses[s].unit = units[s];
}

static void call_arrives(void)
{
    int life = live_one(), c = (int)roll(0, w.calls_n - 1);
    Call *call = &w.calls[c];
    if (life < 0 || call->state != AT_REST) return;
    call->life = life;
    call->state = QUEUED;
    call->turn = budget_turn_ms(call->lane, w.now) * CALLS_MAX + c; /* no two the same */
    serve(life, call->owner);
}

static void call_ends(void)
{
    Call *call = &w.calls[roll(0, w.calls_n - 1)];
    if (call->state != IN_FLIGHT) return;
    BudgetPurse *purses[SCOPES];
    size_t n = purses_of(&w.lives[call->life], call->owner, purses);
    int kind = (int)roll(0, 3);
    call->actual = call->hold;
    if (kind == 0) call->actual = (CapHold){ 0 };
    if (kind == 1) call->actual = (CapHold){ roll(0, call->hold.tokens), roll(0, call->hold.nusd) };
    for (int s = 0; s < SCOPES; s++)
        if (limited[call->owner][s]) w.billed[s] += in_unit(call->actual, s);
    budget_settle(purses, n, &call->hold, &call->actual);
    call->state = SPENT;
    for (int owner = 0; owner < OWNERS; owner++) serve(call->life, owner);
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
        if (call->state == QUEUED) call->state = AT_REST; /* its task is run elsewhere */
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

static BudgetNeed need_make(void)
{
    static const int64_t sizes[] = { 100, 100, 100, 37, 250, 900 };
    int64_t out = sizes[roll(0, ARRAY_N(sizes) - 1)];
    BudgetNeed need = { .want = { out + 20, out * 7 } };
    bool clamps = roll(0, 1);
    need.min = clamps ? (CapHold){ 25, out } : need.want;
    need.good = clamps ? (CapHold){ out / 2 + 20, out * 4 } : need.want;
    if (need.good.tokens < need.min.tokens) need.good.tokens = need.min.tokens;
    return need;
}

static void world_make(uint64_t seed)
{
    w = (World){ .random = { seed } };
    w.calls_n = (int)roll(4, CALLS_MAX);
    w.kills = roll(0, 1);
    w.pauses = roll(0, 1);
    for (int s = 0; s < SCOPES; s++)
        w.limit[s] = roll(0, 3) ? roll(0, 700) * w.calls_n : roll(1, 1000) * 100000;
    for (int i = (int)roll(1, WORKERS_MAX); i > 0; i--) life_new(-1);
    for (int c = 0; c < w.calls_n; c++)
        w.calls[c] = (Call){ .owner = (int)roll(0, OWNERS - 1),
                             .lane = (Lane)roll(0, LANE_N_ - 1),
                             .need = need_make() };
}

static void step(void)
{
    static void (*const happenings[])(void) = { deliver,   deliver,    deliver,       deliver,
                                                call_ends, call_ends,  call_arrives,  call_arrives,
                                                ask_again, beat,       call_reported, call_reported,
                                                kill_one,  lease_ends, pause_one };
    w.now += roll(0, 200);
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
    if (w.failed) fprintf(stderr, "seed %" PRIu64 ", step %d: failed: %s\n", seed, steps, w.failed);
    return !w.failed;
}

static void test_seeds(void **state)
{
    (void)state;
    int ended[DEAD + 1] = { 0 };
    int64_t killed = 0, paused = 0;
    for (uint64_t seed = seed_first; seed < seed_first + seed_n; seed++) {
        if (!run(seed)) fail_msg("seed %" PRIu64, seed);
        killed += w.killed;
        paused += w.paused;
        for (int c = 0; c < w.calls_n; c++) ended[w.calls[c].state]++;
    }
    if (seed_n == 1) return;
    assert_true(ended[RECORDED] > 1000 && ended[REFUSED] > 1000 && ended[DEAD] > 1000);
    assert_true(killed > 1000 && paused > 1000);
}

int main(int argc, char **argv)
{
    const char *seed = argc > 1 ? argv[1] : getenv("GANTRY_SEED");
    if (seed) {
        seed_first = strtoull(seed, NULL, 10);
        seed_n = 1;
    }
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_seeds) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
