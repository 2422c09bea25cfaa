#include "tests/unit/queue_fixture.h"

#include <stdatomic.h>
#include <unistd.h>

#include "queue/ledger.h"
#include "store/budget_store.h"
#include "sys/zone.h"

#define DAY_MS INT64_C(86400000)

static const BudgetRule rules[] = {
    { { .kind = BUDGET_ALL, .period = BUDGET_DAY }, 1000 },
    { { .kind = BUDGET_USER, .period = BUDGET_DAY, .unit = BUDGET_TOKENS, .key = { "*", 1 } }, 50 },
};

static int setup_budgets(void **state)
{
    if (setup(state) != 0) return -1;
    Fixture *f = *state;
    close_queue(f);
    f->options.budgets = rules;
    f->options.budgets_n = ARRAY_N(rules);
    open_queue(f);
    return 0;
}

/* A slice as a worker of the test knows it. */
typedef struct {
    BudgetNote notes[4];
    size_t n;
} Known;

static BudgetAsk asks(int64_t min, int64_t want, const Known *known)
{
    return (BudgetAsk){
        .asks = true,
        .owner = { .agent = STR("support") },
        .lane = LANE_NORMAL,
        .need = { .min = { .nusd = min }, .good = { .nusd = want }, .want = { .nusd = want } },
        .notes = known ? known->notes : NULL,
        .notes_n = known ? known->n : 0
    };
}

static void learn(Known *known, const BudgetAnswer *answer)
{
    for (size_t i = 0; i < answer->told_n && i < ARRAY_N(known->notes); i++)
        known->notes[i] = (BudgetNote){ .scope = answer->told[i].scope,
                                        .start_ms = answer->told[i].start_ms,
                                        .granted = answer->told[i].granted };
    known->n = answer->told_n;
}

static BudgetAnswer ask(Fixture *f, Uuid worker, const BudgetAsk *what)
{
    BudgetAnswer answer = { 0 };
    CHECK_INT(queue_grants_wait(f->queue, worker, what, clock_mono_ms(), &f->arena, &answer), 0);
    return answer;
}

static Budget budget(Fixture *f, const char *text)
{
    Budget budget = { 0 };
    BudgetScope scope = { 0 };
    CHECK_INT(budget_scope_from(str_of(text), &scope), 0);
    CHECK_INT(queue_budget_get_wait(f->queue, &scope, &budget), 0);
    return budget;
}

static void expect(Fixture *f, const char *text, int64_t settled, int64_t leased)
{
    Budget b = budget(f, text);
    CHECK_INT(b.settled, settled);
    CHECK_INT(b.leased, leased);
}

static int spend(Fixture *f, Uuid worker, TaskRef ref, const char *id, int64_t nusd, int64_t tokens)
{
    Call call = { .call_id = str_of(id),
                  .provider = STR("p"),
                  .model = STR("m"),
                  .protocol = STR("chat"),
                  .outcome = STR("complete"),
                  .at_ms = real_now,
                  .cost_nusd = nusd,
                  .charged_tokens = tokens,
                  .worker_id = worker };
    return queue_calls_add_wait(f->queue, ref, &call, 1);
}

static TaskRef running_of(Fixture *f, Uuid worker, const char *user, Uuid shadow_of)
{
    TaskNew new = { .agent = STR("support"),
                    .input = STR("{}"),
                    .user_id = str_of(user),
                    .lane = LANE_NORMAL,
                    .shadow_of = shadow_of };
    TaskSummary summary;
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    return claim_one(f, worker);
}

static TaskRef running(Fixture *f, Uuid worker, const char *user)
{
    return running_of(f, worker, user, (Uuid){ 0 });
}

/* --- booked together -------------------------------------------------------------------------- */

#define REPORTS_N 24

typedef struct {
    Fixture *f;
    Uuid worker;
    TaskRef ref;
    char id[16];
    int result;
} Reporter;

static int report_main(void *arg)
{
    Reporter *r = arg;
    r->result = spend(r->f, r->worker, r->ref, r->id, 10, 2);
    return 0;
}

static int job_hold(Db *db, void *arg)
{
    (void)db;
    atomic_int *held = arg;
    atomic_store(held, 1);
    while (atomic_load(held) != 2) usleep(100);
    return 0;
}

typedef struct {
    Fixture *f;
    atomic_int *held;
} Holder;

static int hold_main(void *arg)
{
    Holder *h = arg;
    return store_call_wait(h->f->store, job_hold, h->held);
}

/* All reports wait together while the store thread is held. */
static void report_together(Fixture *f, Reporter *reporters)
{
    atomic_int held = 0;
    Holder holder = { f, &held };
    FiberRef refs[REPORTS_N], hold;
    CHECK_INT(fiber_spawn("hold", hold_main, &holder, &hold), 0);
    while (atomic_load(&held) != 1) fiber_sleep_wait(1);
    for (size_t i = 0; i < REPORTS_N; i++)
        CHECK_INT(fiber_spawn("report", report_main, &reporters[i], &refs[i]), 0);
    (void)fiber_yield_wait();
    atomic_store(&held, 2);
    for (size_t i = 0; i < REPORTS_N; i++) (void)fiber_join_wait(refs[i], NULL);
    (void)fiber_join_wait(hold, NULL);
}

static void check_usage(Fixture *f, TaskRef ref, int64_t calls)
{
    Task task;
    CHECK_INT(queue_get_wait(f->queue, ref.id, 0, &f->arena, &task), 0);
    CHECK_INT(task.usage.llm_calls, calls);
    CHECK_INT(task.usage.cost_nusd, 10 * calls);
    CHECK_INT(task.usage.charged_tokens, 2 * calls);
}

/* Two tasks of two users. The last report is sent twice, or comes under an old fence: then all are
 * booked one by one, to the same end. */
static int body_booked_together(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 8, WORKER_EMBEDDED);
    TaskRef refs[2] = { running(f, worker, "ann"), running(f, worker, "bob") };
    Reporter reporters[REPORTS_N];
    int64_t calls[2] = { 0 };
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < REPORTS_N; i++) {
            reporters[i] = (Reporter){ .f = f, .worker = worker, .ref = refs[i % 2] };
            snprintf(reporters[i].id, sizeof reporters[i].id, "%d-%d", round, i);
        }
        Reporter *last = &reporters[REPORTS_N - 1];
        if (round == 1) memcpy(last->id, reporters[1].id, sizeof last->id);
        if (round == 2) last->ref.fence--;
        report_together(f, reporters);
        for (int i = 0; i < REPORTS_N - 1; i++) CHECK_INT(reporters[i].result, 0);
        CHECK_INT(last->result, round == 2 ? QUEUE_E_STALE : 0);
        calls[0] += REPORTS_N / 2;
        calls[1] += REPORTS_N / 2 - (round == 1);
        check_usage(f, refs[0], calls[0]);
        check_usage(f, refs[1], calls[1]);
        expect(f, "day", 10 * (calls[0] + calls[1]), 0);
        expect(f, "user:ann:day-tokens", 2 * calls[0], 0);
        expect(f, "user:bob:day-tokens", 2 * calls[1], 0);
    }
    return 0;
}

static void test_booked_together(void **state)
{
    run(state, body_booked_together);
}

/* --- grants and spend ------------------------------------------------------------------------- */

static int body_grant_and_settle(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    TaskRef ref = running(f, worker, "u1");
    BudgetAsk all = asks(100, 400, NULL);
    BudgetAnswer answer = ask(f, worker, &all);
    CHECK_INT(answer.verdict, BUDGET_GRANT);
    CHECK_INT(answer.told_n, 1);
    CHECK(answer.told[0].applies);
    CHECK_INT(answer.told[0].granted, 400);
    CHECK_INT(answer.told[0].limit, 1000);
    CHECK_INT(answer.told[0].start_ms, 1699920000000);
    CHECK_INT(answer.told[0].end_ms - answer.told[0].start_ms, DAY_MS);
    expect(f, "day", 0, 400);

    CHECK_INT(spend(f, worker, ref, "c1", 300, 7), 0);
    CHECK_INT(spend(f, worker, ref, "c1", 300, 7), 0); /* again: the answer was lost */
    expect(f, "day", 300, 100);
    expect(f, "user:u1:day-tokens", 7, 0);
    expect(f, "user:u2:day-tokens", 0, 0);

    /* what comes back may be granted again */
    Known known = { 0 };
    learn(&known, &answer);
    known.notes[0].returned = 100;
    BudgetAsk gives = { .notes = known.notes, .notes_n = 1 };
    CHECK_INT(ask(f, worker, &gives).verdict, BUDGET_GRANT);
    expect(f, "day", 300, 0);
    known.notes[0].returned = 50; /* late */
    ask(f, worker, &gives);
    expect(f, "day", 300, 0);
    return 0;
}

static void test_grant_and_settle(void **state)
{
    run(state, body_grant_and_settle);
}

static int body_exhausted_or_wait(void *arg)
{
    Fixture *f = arg;
    Uuid one = add_worker(f, 1, WORKER_REMOTE), two = add_worker(f, 2, WORKER_REMOTE);
    TaskRef ref = running(f, one, "u1");
    BudgetAsk most = asks(900, 900, NULL), some = asks(200, 200, NULL);
    CHECK_INT(ask(f, one, &most).verdict, BUDGET_GRANT);
    HeartbeatReply beat = heartbeat(f, one, &ref, 1);
    CHECK(!beat.budget_wanted);
    BudgetAnswer answer = ask(f, two, &some);
    CHECK_INT(answer.verdict, BUDGET_WAIT);
    CHECK_INT(answer.told_n, 1); /* how things are */
    CHECK_INT(answer.told[0].granted, 0);
    CHECK_INT(spend(f, one, ref, "c1", 850, 1), 0);
    BudgetAsk gives = { 0 };
    answer = ask(f, one, &gives); /* what it has, should it have forgotten */
    CHECK_INT(answer.told_n, 1);
    CHECK_INT(answer.told[0].granted, 900);
    CHECK_INT(answer.told[0].spent, 850);
    answer = ask(f, two, &some);
    CHECK_INT(answer.verdict, BUDGET_EXHAUSTED);
    CHECK_INT(answer.by, 0);
    CHECK_INT(answer.told[0].settled, 850);
    BudgetAsk nothing = asks(100, 100, NULL);
    nothing.owner = (BudgetOwner){ 0 };
    CHECK_INT(ask(f, two, &nothing).verdict, BUDGET_GRANT);
    LedgerStats stats;
    queue_ledger_stats(f->queue, &stats);
    CHECK_INT(stats.granted, 2);
    CHECK_INT(stats.refused, 1);
    CHECK_INT(stats.asking, 0);
    return 0;
}

static void test_exhausted_or_wait(void **state)
{
    run(state, body_exhausted_or_wait);
}

/* --- waiting ---------------------------------------------------------------------------------- */

typedef struct {
    Fixture *f;
    Uuid worker;
    BudgetAsk ask;
    BudgetAnswer answer;
    int *order;
    int place; /* in which it was served, from 1 */
    int r;
    Arena arena;
} Waiting;

static int waiting_fiber(void *arg)
{
    Waiting *w = arg;
    arena_init(&w->arena, 1 << 20);
    w->r = queue_grants_wait(w->f->queue, w->worker, &w->ask, DEADLINE_NONE, &w->arena, &w->answer);
    w->place = ++*w->order;
    return 0;
}

static void await_asking(Fixture *f, uint64_t n)
{
    LedgerStats stats;
    do {
        (void)fiber_sleep_wait(1);
        queue_ledger_stats(f->queue, &stats);
    } while (stats.asking != n);
}

/* The low lane came first, the critical one is served first; both once money is settled. */
static int body_order(void *arg)
{
    Fixture *f = arg;
    int order = 0;
    Uuid one = add_worker(f, 1, WORKER_REMOTE), two = add_worker(f, 2, WORKER_REMOTE);
    TaskRef ref = running(f, one, "u1");
    BudgetAsk most = asks(900, 900, NULL);
    BudgetAnswer held = ask(f, one, &most);
    Waiting low = { .f = f, .worker = two, .ask = asks(300, 300, NULL), .order = &order };
    Waiting critical = low;
    FiberRef fibers[2];
    low.ask.lane = LANE_LOW;
    low.worker = add_worker(f, 3, WORKER_REMOTE);
    critical.ask.lane = LANE_CRITICAL;
    CHECK_INT(fiber_spawn("low", waiting_fiber, &low, &fibers[0]), 0);
    await_asking(f, 1);
    CHECK_INT(fiber_spawn("critical", waiting_fiber, &critical, &fibers[1]), 0);
    await_asking(f, 2);
    CHECK(heartbeat(f, one, &ref, 1).budget_wanted); /* it holds what they wait for */
    CHECK(!heartbeat(f, two, NULL, 0).budget_wanted);
    CHECK_INT(spend(f, one, ref, "c1", 100, 1), 0);
    Known known = { 0 };
    learn(&known, &held);
    known.notes[0].returned = 400; /* 500 are free: enough for one of them */
    BudgetAsk gives = { .notes = known.notes, .notes_n = 1 };
    ask(f, one, &gives);
    CHECK_INT(fiber_join_wait(fibers[1], NULL), 0);
    CHECK_INT(critical.answer.verdict, BUDGET_GRANT);
    CHECK_INT(critical.place, 1);
    await_asking(f, 1);
    known.notes[0].returned = 800;
    ask(f, one, &gives);
    CHECK_INT(fiber_join_wait(fibers[0], NULL), 0);
    CHECK_INT(low.answer.verdict, BUDGET_GRANT);
    expect(f, "day", 100, 600);
    arena_deinit(&low.arena);
    arena_deinit(&critical.arena);
    return 0;
}

static void test_order(void **state)
{
    run(state, body_order);
}

/* Whoever waits hears when nothing can come any more, and can be called off. */
#define CROWD 1000
#define FIRST 8 /* that are told to look at what came back */

static LedgerStats ledger_stats(Fixture *f)
{
    LedgerStats stats;
    queue_ledger_stats(f->queue, &stats);
    return stats;
}

/* Each has asked, and looked at least once. */
static void await_crowd(Fixture *f, uint64_t n)
{
    await_asking(f, n);
    while (ledger_stats(f).looked < n) (void)fiber_sleep_wait(1);
}

/* Many wait. A call that is booked wakes those for whom too much is spent then, what comes back
 * those who are first: not everybody. */
static int body_crowd(void *arg)
{
    Fixture *f = arg;
    int order = 0;
    CLEANUP(freep) Waiting *waiting = xcalloc(CROWD, sizeof *waiting);
    CLEANUP(freep) FiberRef *fibers = xcalloc(CROWD, sizeof *fibers);
    Uuid one = add_worker(f, 1, WORKER_REMOTE), two = add_worker(f, 2, WORKER_REMOTE);
    TaskRef ref = running(f, one, "u1");
    BudgetAsk most = asks(900, 900, NULL);
    BudgetAnswer held = ask(f, one, &most);
    Known known = { 0 }, sees = { 0 };
    learn(&known, &held);
    learn(&sees, &held);
    sees.notes[0].granted = 1000000; /* whatever the others of its worker have got meanwhile */
    for (int i = 0; i < CROWD; i++) {
        waiting[i] = (Waiting){ .f = f, .worker = two, .ask = asks(200, 200, &sees) };
        waiting[i].order = &order;
        CHECK_INT(fiber_spawn("one of many", waiting_fiber, &waiting[i], &fibers[i]), 0);
    }
    await_crowd(f, CROWD);

    uint64_t woken = ledger_stats(f).woken;
    for (int i = 0; i < 20; i++) {
        char id[8];
        snprintf(id, sizeof id, "c%d", i);
        CHECK_INT(spend(f, one, ref, id, 1, 1), 0);
    }
    CHECK_INT(ledger_stats(f).woken, woken);

    known.notes[0].returned = 50; /* for nobody enough */
    BudgetAsk gives = { .notes = known.notes, .notes_n = 1 };
    ask(f, one, &gives);
    CHECK(ledger_stats(f).woken > woken && ledger_stats(f).woken <= woken + FIRST);
    CHECK_INT(order, 0);

    known.notes[0].returned = 200; /* for one of them, with what is there */
    ask(f, one, &gives);
    while (order < 1) (void)fiber_sleep_wait(1);
    CHECK_INT(ledger_stats(f).asking, CROWD - 1);
    CHECK_INT(waiting[0].answer.verdict, BUDGET_GRANT);
    CHECK(ledger_stats(f).woken <= woken + 4 * FIRST);

    CHECK_INT(spend(f, one, ref, "last", 790, 1), 0); /* too much for all of them */
    for (int i = 0; i < CROWD; i++) {
        fiber_join_wait(fibers[i], NULL);
        CHECK_INT(waiting[i].answer.verdict, i ? BUDGET_EXHAUSTED : BUDGET_GRANT);
        arena_deinit(&waiting[i].arena);
    }
    return 0;
}

static void test_crowd(void **state)
{
    run(state, body_crowd);
}

static int body_wait_ends(void *arg)
{
    Fixture *f = arg;
    int order = 0;
    Uuid one = add_worker(f, 1, WORKER_REMOTE), two = add_worker(f, 2, WORKER_REMOTE);
    TaskRef ref = running(f, one, "u1");
    BudgetAsk most = asks(900, 900, NULL);
    ask(f, one, &most);
    Waiting a = { .f = f, .worker = two, .ask = asks(300, 300, NULL), .order = &order }, b = a;
    FiberRef fibers[2];
    CHECK_INT(fiber_spawn("a", waiting_fiber, &a, &fibers[0]), 0);
    CHECK_INT(fiber_spawn("b", waiting_fiber, &b, &fibers[1]), 0);
    await_asking(f, 2);
    fiber_cancel(fibers[1]);
    fiber_join_wait(fibers[1], NULL);
    CHECK_INT(b.r, -ECANCELED);
    CHECK_INT(spend(f, one, ref, "c1", 900, 1), 0);
    fiber_join_wait(fibers[0], NULL);
    CHECK_INT(a.answer.verdict, BUDGET_EXHAUSTED);
    await_asking(f, 0);
    arena_deinit(&a.arena);
    arena_deinit(&b.arena);
    return 0;
}

static void test_wait_ends(void **state)
{
    run(state, body_wait_ends);
}

/* --- rules ------------------------------------------------------------------------------------ */

static int set(Fixture *f, const char *text, int64_t limit)
{
    BudgetScope scope;
    CHECK_INT(budget_scope_from(str_of(text), &scope), 0);
    return queue_budget_set_wait(f->queue, &scope, limit);
}

static int body_rules(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    TaskRef ref = running(f, worker, "u1");
    uint64_t epoch = heartbeat(f, worker, &ref, 1).budget_epoch;
    CHECK_INT(spend(f, worker, ref, "c1", 100, 30), 0);
    BudgetScope scope = { .kind = BUDGET_AGENT, .key = STR("support") };
    Budget none;
    CHECK_INT(queue_budget_get_wait(f->queue, &scope, &none), QUEUE_E_NO_BUDGET);
    CHECK_INT(set(f, "agent:support:day", BUDGET_AS_CONFIGURED), QUEUE_E_NO_BUDGET);

    /* what was spent before counts, once */
    CHECK_INT(set(f, "agent:support:day", 120), 0);
    CHECK(heartbeat(f, worker, &ref, 1).budget_epoch != epoch);
    expect(f, "agent:support:day", 100, 0);
    CHECK_INT(set(f, "agent:*:day", 500), 0);
    CHECK_INT(set(f, "user:u1:month-tokens", 500), 0);
    expect(f, "agent:support:day", 100, 0);
    expect(f, "user:u1:month-tokens", 30, 0);
    CHECK_INT(spend(f, worker, ref, "c2", 10, 3), 0);
    expect(f, "agent:support:day", 110, 0);
    CHECK_INT(set(f, "agent:support:day", BUDGET_AS_CONFIGURED), 0);
    CHECK_INT(budget(f, "agent:support:day").limit, 500);
    CHECK_INT(spend(f, worker, ref, "c3", 10, 3), 0);
    CHECK_INT(set(f, "agent:support:day", 120), 0);
    expect(f, "agent:support:day", 120, 0);
    expect(f, "user:u1:month-tokens", 36, 0);

    /* one of several scopes stands in the way, and is named */
    BudgetAsk small = asks(1, 1, NULL);
    BudgetAnswer answer = ask(f, worker, &small);
    CHECK_INT(answer.verdict, BUDGET_EXHAUSTED);
    CHECK_INT(answer.told[answer.by].scope.kind, BUDGET_AGENT);

    /* the API's limit goes before that of the file, and back */
    CHECK_INT(set(f, "day", 0), 0);
    CHECK_INT(budget(f, "day").limit, 0);
    CHECK(budget(f, "day").from_api);
    CHECK_INT(set(f, "day", BUDGET_AS_CONFIGURED), 0);
    CHECK_INT(budget(f, "day").limit, 1000);
    Budget *list;
    size_t n;
    CHECK_INT(queue_budgets_wait(f->queue, &f->arena, &list, &n), 0);
    CHECK_INT(n, 6); /* five rules, and the user's tokens a day */
    for (size_t i = 1; i < n; i++) CHECK(budget_scope_cmp(&list[i - 1].scope, &list[i].scope) < 0);
    return 0;
}

static void test_rules(void **state)
{
    run(state, body_rules);
}

/* As many rules as there may be: each can be changed, and none added. */
static int body_full(void *arg)
{
    Fixture *f = arg;
    CHECK_INT(set(f, "user:u7:day", 2), 0);
    CHECK_INT(budget(f, "user:u7:day").limit, 2);
    CHECK_INT(set(f, "user:one more:day", 2), QUEUE_E_FULL);
    CHECK_INT(set(f, "day", 2), QUEUE_E_FULL);
    CHECK_INT(set(f, "user:u7:day", BUDGET_AS_CONFIGURED), 0);
    CHECK_INT(budget(f, "user:u7:day").limit, 1);
    BudgetScope scope = { .kind = BUDGET_ALL };
    Budget none;
    CHECK_INT(queue_budget_get_wait(f->queue, &scope, &none), QUEUE_E_NO_BUDGET); /* undone */
    return 0;
}

static void test_full(void **state)
{
    Fixture *f = *state;
    CLEANUP(freep) BudgetRule *many = xcalloc(BUDGET_LIMITS_MAX, sizeof *many);
    for (int i = 0; i < BUDGET_LIMITS_MAX; i++) {
        BudgetScope scope = { .kind = BUDGET_USER, .key = arena_printf(&f->arena, "u%d", i) };
        many[i] = (BudgetRule){ scope, 1 };
    }
    close_queue(f);
    f->options.budgets = many;
    f->options.budgets_n = BUDGET_LIMITS_MAX;
    open_queue(f);
    run(state, body_full);
    close_queue(f);
    f->options.budgets_n = 0;
    open_queue(f);
}

/* Whatever is reported, sums stay numbers: the largest one at most. */
static int body_absurd(void *arg)
{
    Fixture *f = arg;
    const int64_t most = INT64_MAX;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    TaskRef ref = running(f, worker, "u1");
    CHECK_INT(spend(f, worker, ref, "c1", most - 5, most), 0);
    CHECK_INT(spend(f, worker, ref, "c2", 3, 1), 0);
    CHECK_INT(get(f, ref.id).usage.cost_nusd, most - 2);
    CHECK_INT(spend(f, worker, ref, "c3", most, 1), 0);
    CHECK_INT(get(f, ref.id).usage.cost_nusd, most);
    CHECK_INT(get(f, ref.id).usage.charged_tokens, most);
    expect(f, "day", most, 0);
    expect(f, "user:u1:day-tokens", most, 0);
    CHECK_INT(set(f, "user:*:month", 7), 0); /* counts what there was */
    CHECK_INT(set(f, "month-tokens", 7), 0);
    expect(f, "user:u1:month", most, 0);
    expect(f, "month-tokens", most, 0);
    BudgetAsk some = asks(1, 1, NULL);
    CHECK_INT(ask(f, worker, &some).verdict, BUDGET_EXHAUSTED);
    return 0;
}

static void test_absurd(void **state)
{
    run(state, body_absurd);
}

static int body_before_restart(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    TaskRef ref = running(f, worker, "u1");
    CHECK_INT(set(f, "month", 7000), 0);
    BudgetAsk some = asks(100, 500, NULL);
    ask(f, worker, &some);
    CHECK_INT(spend(f, worker, ref, "c1", 100, 5), 0);
    expect(f, "day", 100, 400);
    return 0;
}

/* The worker of the process that died holds nothing in its hands any more: all of it is spent. */
static int body_after_restart(void *arg)
{
    Fixture *f = arg;
    expect(f, "day", 500, 0);
    CHECK_INT(budget(f, "month").leased, 0);
    CHECK_INT(budget(f, "month").limit, 7000);
    expect(f, "user:u1:day-tokens", 5, 0);
    pass_ms(DAY_MS);
    expect(f, "day", 0, 0);
    CHECK(budget(f, "month").settled > 0);
    return 0;
}

static void test_restart(void **state)
{
    run(state, body_before_restart);
    Fixture *f = *state;
    close_queue(f);
    open_queue(f);
    run(state, body_after_restart);
}

/* In another time zone days and months begin at other times: what they have cost so far still
 * counts. */
static int body_after_zone(void *arg)
{
    Fixture *f = arg;
    CHECK(budget(f, "month").start_ms != 1698796800000);
    expect(f, "month", 100, 0);
    expect(f, "day", 100, 0);
    expect(f, "user:u1:day-tokens", 5, 0);
    return 0;
}

static void test_zone_changed(void **state)
{
    if (zone_set(STR("Europe/Berlin")) != 0) skip(); /* no tzdata */
    assert_int_equal(zone_set(STR("UTC")), 0);
    run(state, body_before_restart);
    Fixture *f = *state;
    for (int i = 0; i < 2; i++) { /* once is enough */
        close_queue(f);
        assert_int_equal(zone_set(STR("Europe/Berlin")), 0);
        open_queue(f);
        run(state, body_after_zone);
    }
    assert_int_equal(zone_set(STR("UTC")), 0);
}

/* --- ends of workers -------------------------------------------------------------------------- */

static int body_lost_and_proven(void *arg)
{
    Fixture *f = arg;
    Uuid one = add_worker(f, 1, WORKER_REMOTE);
    TaskRef ref = running(f, one, "u1");
    BudgetAsk some = asks(100, 600, NULL);
    ask(f, one, &some);
    CHECK_INT(spend(f, one, ref, "c1", 100, 5), 0);
    pass_ms(10001);
    Uuid two = add_worker(f, 2, WORKER_REMOTE);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    expect(f, "day", 600, 0); /* charged in full */
    BudgetAnswer answer;
    CHECK_INT(queue_grants_wait(f->queue, one, &some, clock_mono_ms(), &f->arena, &answer),
              QUEUE_E_NO_WORKER);

    /* its list of holds says what is true: one call was recorded, one was not */
    BudgetHold holds[2] = {
        { .call_id = STR("c1"), .task = ref, .charge = { 9, 150 } },
        { .call_id = STR("c2"), .task = ref, .charge = { 9, 150 }, .at_ms = real_now }
    };
    CHECK_INT(queue_holds_wait(f->queue, two, one, holds, 2), 0);
    expect(f, "day", 250, 0);
    CHECK_INT(queue_holds_wait(f->queue, two, one, holds, 2), 0); /* again */
    expect(f, "day", 250, 0);
    expect(f, "user:u1:day-tokens", 14, 0);
    CHECK_INT(get(f, ref.id).usage.cost_nusd, 250);
    CHECK_INT(queue_holds_wait(f->queue, one, two, NULL, 0), QUEUE_E_NO_WORKER);
    CHECK_INT(queue_holds_wait(f->queue, two, two, NULL, 0), -EINVAL);
    return 0;
}

static void test_lost_and_proven(void **state)
{
    run(state, body_lost_and_proven);
}

static void tell(Fixture *f, Uuid worker, const BudgetHold *calls, size_t n)
{
    Heartbeat beat = { .calls = calls, .calls_n = n };
    HeartbeatReply reply;
    CHECK_INT(queue_heartbeat_wait(f->queue, worker, &beat, &f->arena, &reply), 0);
}

/* A worker is killed and never comes back: what it told of its calls in flight is charged to their
 * tasks, too, before these are given to others. */
static int body_killed_for_good(void *arg)
{
    Fixture *f = arg;
    Uuid one = add_worker(f, 1, WORKER_REMOTE);
    TaskRef ref = running(f, one, "u1");
    BudgetAsk some = asks(100, 600, NULL);
    ask(f, one, &some);
    BudgetHold calls[] = {
        { .call_id = STR("c0"), .task = ref, .charge = { 1, 10 }, .at_ms = real_now },
        { .call_id = STR("c1"), .task = ref, .charge = { 9, 150 }, .at_ms = real_now },
        { .call_id = STR("c2"), .task = ref, .charge = { 3, 200 }, .at_ms = real_now },
        { .call_id = STR("c3"), .task = { .id = { { 9 } }, .fence = 1 }, .charge = { 3, 1 } },
    };
    tell(f, one, calls, 1);
    tell(f, one, calls + 1, 3); /* c0 is over */
    CHECK_INT(spend(f, one, ref, "c1", 100, 5), 0);
    expect(f, "day", 100, 500);
    pass_ms(10001);
    Uuid two = add_worker(f, 2, WORKER_REMOTE);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    expect(f, "day", 600, 0); /* all that was set aside for it */
    expect(f, "user:u1:day-tokens", 8, 0);
    CHECK_INT(get(f, ref.id).usage.cost_nusd, 300);
    CHECK_INT(get(f, ref.id).usage.llm_calls, 2);
    CHECK_INT(claim_one(f, two).fence, ref.fence + 1);

    /* it comes back after all */
    CHECK_INT(spend(f, one, ref, "c2", 120, 2), QUEUE_E_STALE);
    expect(f, "day", 520, 0); /* it may have others still to tell of */
    CHECK_INT(queue_holds_wait(f->queue, two, one, calls + 1, 2), 0);
    expect(f, "day", 220, 0); /* that c2 cost less than it might have is known now */
    CHECK_INT(get(f, ref.id).usage.cost_nusd, 220);
    tell(f, two, calls, 1);
    pass_ms(60001);
    CHECK_INT(queue_tick_wait(f->queue), 0); /* what it had in flight is forgotten, when old */
    CHECK_INT(get(f, ref.id).usage.cost_nusd, 230); /* and two is lost now */
    return 0;
}

static void test_killed_for_good(void **state)
{
    run(state, body_killed_for_good);
}

/* Spend by the hour is what the calls say. */
static int sums_job(Db *db, void *arg)
{
    (void)arg;
    DbStmt *s = db_stmt(db, "SELECT total_of(calls) - (SELECT count(*) FROM call),"
                            " total_of(cost_nusd) - (SELECT total_of(cost_nusd) FROM call),"
                            " (SELECT count(*) FROM call WHERE outcome = 'lost') FROM spend");
    return db_step(s) == DB_E_ROW && !db_i64(s, 0) && !db_i64(s, 1) && !db_i64(s, 2) ? 0 : -EIO;
}

/* What shadows and what users have cost is as their calls say. */
static int spend_rows_job(Db *db, void *arg)
{
    (void)arg;
    DbStmt *s = db_stmt(db, "SELECT (SELECT total_of(cost_nusd) FROM spend WHERE user_id = '')"
                            " - (SELECT total_of(c.cost_nusd) FROM call c JOIN task t"
                            " ON t.seq = c.task_seq WHERE t.shadow_of IS NOT NULL)");
    bool same = db_step(s) == DB_E_ROW && db_i64(s, 0) == 0;
    db_reset(s);
    return same ? 0 : -EIO;
}

/* A worker loses its lease with a call in flight and goes on under another one: what it had set
 * aside then pays for the call, and what it has now is free for others. */
static int body_lease_lost(void *arg)
{
    Fixture *f = arg;
    Uuid one = add_worker(f, 1, WORKER_REMOTE);
    TaskRef ref = running(f, one, "u1");
    BudgetAsk some = asks(100, 600, NULL), rest = asks(100, 400, NULL);
    ask(f, one, &some);
    pass_ms(10001);
    Uuid two = add_worker(f, 2, WORKER_REMOTE);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_INT(ask(f, two, &rest).verdict, BUDGET_GRANT);
    expect(f, "day", 600, 400);
    CHECK_INT(spend(f, one, ref, "c1", 150, 9), QUEUE_E_STALE);
    expect(f, "day", 600, 400);

    /* its list had been told by then, or is told later: once is enough */
    BudgetHold holds[] = {
        { .call_id = STR("c1"), .task = ref, .charge = { 9, 150 }, .at_ms = real_now },
        { .call_id = STR("c2"), .task = ref, .charge = { 3, 200 }, .at_ms = real_now },
    };
    CHECK_INT(queue_holds_wait(f->queue, two, one, holds, 2), 0);
    expect(f, "day", 350, 400);
    expect(f, "user:u1:day-tokens", 12, 0);

    /* what was charged in full has become known after all, and it is told twice */
    for (int times = 0; times < 2; times++) {
        CHECK_INT(spend(f, one, ref, "c2", 120, 2), QUEUE_E_STALE);
        expect(f, "day", 270, 400);
        expect(f, "user:u1:day-tokens", 11, 0);
        Task task = get(f, ref.id);
        CHECK_INT(task.usage.cost_nusd, 270);
        CHECK_INT(task.usage.charged_tokens, 11);
        CHECK_INT(task.usage.llm_calls, 2);
        CHECK_INT(store_call_wait(f->store, sums_job, NULL), 0);
    }
    CHECK_INT(queue_holds_wait(f->queue, two, one, holds, 2), 0);
    expect(f, "day", 270, 400);
    return 0;
}

static void test_lease_lost(void **state)
{
    run(state, body_lease_lost);
}

/* The same of a shadow, which counts for the budget of everything alone: nothing is given back to
 * its agent and user, for nothing was charged to them. */
static int body_shadow_lease_lost(void *arg)
{
    Fixture *f = arg;
    Uuid one = add_worker(f, 1, WORKER_REMOTE);
    TaskRef real = running(f, one, "u1");
    CHECK_INT(spend(f, one, real, "c1", 50, 5), 0);
    CHECK_INT(finish(f, real, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    TaskRef ref = running_of(f, one, "u1", shadow_no_twin);
    pass_ms(10001);
    Uuid two = add_worker(f, 2, WORKER_REMOTE);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    BudgetHold hold = {
        .call_id = STR("c2"), .task = ref, .charge = { 3, 200 }, .at_ms = real_now
    };
    CHECK_INT(queue_holds_wait(f->queue, two, one, &hold, 1), 0);
    expect(f, "day", 250, 0);
    expect(f, "user:u1:day-tokens", 5, 0);
    for (int times = 0; times < 2; times++) {
        CHECK_INT(spend(f, one, ref, "c2", 120, 2), QUEUE_E_STALE);
        expect(f, "day", 170, 0);
        expect(f, "user:u1:day-tokens", 5, 0);
        CHECK_INT(get(f, ref.id).usage.cost_nusd, 120);
        CHECK_INT(store_call_wait(f->store, sums_job, NULL), 0);
        CHECK_INT(store_call_wait(f->store, spend_rows_job, NULL), 0);
    }
    return 0;
}

static int no_calls_job(Db *db, void *arg)
{
    (void)arg;
    return db_run(db_stmt(db, "DELETE FROM call"), NULL);
}

/* A budget that is set later finds what production's tasks have cost, and no shadow, when the calls
 * have gone with their tasks too. */
static int body_shadow_budget(void *arg)
{
    Fixture *f = arg;
    CHECK_INT(store_call_wait(f->store, no_calls_job, NULL), 0);
    CHECK_INT(set(f, "agent:support:day", 1000), 0);
    CHECK_INT(set(f, "user:u1:month", 1000), 0);
    CHECK_INT(set(f, "month", 1000), 0);
    expect(f, "agent:support:day", 50, 0);
    expect(f, "user:u1:month", 50, 0);
    expect(f, "month", 170, 0);
    CHECK_INT(set(f, "agent:*:month-tokens", 1000), 0);
    expect(f, "agent:support:month-tokens", 5, 0);
    CHECK_INT(set(f, "month-tokens", 1000), 0);
    expect(f, "month-tokens", 7, 0);
    CHECK_INT(set(f, "month", BUDGET_AS_CONFIGURED), 0);
    CHECK_INT(set(f, "month", 1001), 0); /* removed and added */
    expect(f, "month", 170, 0);
    return 0;
}

static void test_shadow_lease_lost(void **state)
{
    run(state, body_shadow_lease_lost);
    run(state, body_shadow_budget);
}

/* A successor speaks before the lease has ended: its tasks are taken up again at once. */
static int body_successor(void *arg)
{
    Fixture *f = arg;
    Uuid one = add_worker(f, 1, WORKER_REMOTE), two = add_worker(f, 2, WORKER_REMOTE);
    TaskRef ref = running(f, one, "u1");
    BudgetAsk some = asks(100, 600, NULL);
    ask(f, one, &some);
    BudgetHold hold = {
        .call_id = STR("c1"), .task = ref, .charge = { 9, 150 }, .at_ms = real_now
    };
    CHECK_INT(queue_holds_wait(f->queue, two, one, &hold, 1), 0);
    expect(f, "day", 150, 0);
    TaskRef again = claim_one(f, two);
    CHECK(uuid_eq(again.id, ref.id));
    /* a call of the attempt that was given up was paid for, and is booked, once */
    CHECK_INT(spend(f, two, ref, "c7", 40, 1), QUEUE_E_STALE);
    CHECK_INT(spend(f, two, ref, "c7", 40, 1), QUEUE_E_STALE);
    expect(f, "day", 190, 0);
    CHECK_INT(get(f, ref.id).usage.cost_nusd, 190);
    return 0;
}

static void test_successor(void **state)
{
    run(state, body_successor);
}

static int body_leave(void *arg)
{
    Fixture *f = arg;
    Uuid one = add_worker(f, 1, WORKER_REMOTE);
    BudgetAsk some = asks(100, 600, NULL);
    ask(f, one, &some);
    expect(f, "day", 0, 600);
    CHECK_INT(queue_leave_wait(f->queue, one), 0);
    expect(f, "day", 0, 0);
    return 0;
}

static void test_leave(void **state)
{
    run(state, body_leave);
}

typedef struct {
    int64_t slices, settled, spends;
} Rows;

static int rows_job(Db *db, void *arg)
{
    Rows *rows = arg;
    DbStmt *s = db_stmt(db, "SELECT count(*), total_of(settled), (SELECT count(*) FROM spend)"
                            " FROM budget_slice");
    int r = db_step(s);
    *rows = (Rows){ db_i64(s, 0), db_i64(s, 1), db_i64(s, 2) };
    db_reset(s);
    return r == DB_E_ROW ? 0 : r;
}

static Rows rows_of(Fixture *f)
{
    Rows rows = { 0 };
    CHECK_INT(store_call_wait(f->store, rows_job, &rows), 0);
    return rows;
}

static void purge(Fixture *f, int64_t ms)
{
    pass_ms(ms);
    CHECK_INT(queue_tick_wait(f->queue), 0); /* what is lost is found, */
    pass_ms(60001);
    CHECK_INT(queue_tick_wait(f->queue), 0); /* then added up */
}

/* Workers come and go: what they have spent is one sum a budget and window, and no account changes
 * by that; what one that is lost may still give back is left alone until the window is over. */
static int body_folded(void *arg)
{
    Fixture *f = arg;
    CHECK_INT(set(f, "month", 100000), 0);
    TaskRef ref = running(f, add_worker(f, 99, WORKER_REMOTE), "u1");
    for (int i = 0; i < 20; i++) {
        Uuid worker = add_worker(f, 1 + i, WORKER_REMOTE);
        BudgetAsk some = asks(10, 20, NULL);
        char id[8];
        snprintf(id, sizeof id, "c%d", i);
        CHECK_INT(ask(f, worker, &some).verdict, BUDGET_GRANT);
        CHECK_INT(spend(f, worker, ref, id, 10, 1), 0);
        if (i > 0) CHECK_INT(queue_leave_wait(f->queue, worker), 0);
    }
    int64_t day = budget(f, "day").leased, month = budget(f, "month").leased;
    CHECK(day >= 10 && month >= 10); /* the first one still lives */
    expect(f, "day", 200, day);
    int64_t before = rows_of(f).slices;
    purge(f, 10001);
    expect(f, "day", 200 + day, 0);
    expect(f, "month", 200 + month, 0);
    expect(f, "user:u1:day-tokens", 20, 0);
    CHECK(before >= 3 * 20);
    CHECK(rows_of(f).slices <= 3 * 2);
    CHECK_INT(spend(f, worker_of(5), ref, "late", 7, 1), QUEUE_E_STALE);
    expect(f, "day", 207 + day, 0);

    Uuid again = add_worker(f, 50, WORKER_REMOTE);
    CHECK_INT(queue_holds_wait(f->queue, again, worker_of(1), NULL, 0), 0);
    expect(f, "day", 207, 0);
    purge(f, 1000);
    expect(f, "day", 207, 0);
    CHECK_INT(rows_of(f).slices, 3);
    LedgerStats stats = ledger_stats(f);
    CHECK(stats.folded >= 60);
    CHECK_INT(stats.purged, 0);
    CHECK_INT(rows_of(f).spends, 1);

    purge(f, 64 * DAY_MS);
    CHECK_INT(rows_of(f).slices, 0);
    CHECK_INT(rows_of(f).spends, 1);
    purge(f, 400 * DAY_MS);
    CHECK_INT(rows_of(f).spends, 0);
    CHECK_INT(ledger_stats(f).purged, 1);
    return 0;
}

static void test_folded(void **state)
{
    run(state, body_folded);
}

/* What nobody gives back any more is spent once its window is over. */
static int body_folded_later(void *arg)
{
    Fixture *f = arg;
    BudgetAsk some = asks(100, 600, NULL);
    ask(f, add_worker(f, 1, WORKER_REMOTE), &some);
    purge(f, 10001);
    CHECK_INT(rows_of(f).settled, 0);
    expect(f, "day", 600, 0);
    purge(f, 32 * DAY_MS);
    CHECK_INT(rows_of(f).slices, 1);
    CHECK_INT(rows_of(f).settled, 600);
    return 0;
}

static void test_folded_later(void **state)
{
    run(state, body_folded_later);
}

/* A calendar that is months ahead for a while makes nothing old: what was spent stays so. */
static int body_calendar_ahead(void *arg)
{
    Fixture *f = arg;
    Uuid one = add_worker(f, 1, WORKER_REMOTE);
    TaskRef ref = running(f, one, "u1");
    BudgetAsk most = asks(900, 900, NULL);
    CHECK_INT(ask(f, one, &most).verdict, BUDGET_GRANT);
    CHECK_INT(spend(f, one, ref, "c1", 900, 1), 0);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    real_now += 400 * DAY_MS;
    for (int i = 0; i < 3; i++) purge(f, 60001);
    expect(f, "day", 0, 0);
    real_now -= 400 * DAY_MS;
    CHECK_INT(queue_tick_wait(f->queue), 0);
    expect(f, "day", 900, 0);
    CHECK_INT(rows_of(f).spends, 1);
    return 0;
}

static void test_calendar_ahead(void **state)
{
    run(state, body_calendar_ahead);
}

/* An answer that was lost leaves the worker with more than it knows of: it is not kept from that,
 * and learns of it from the next answer. */
static int body_unseen(void *arg)
{
    Fixture *f = arg;
    Uuid one = add_worker(f, 1, WORKER_REMOTE);
    BudgetAsk all = asks(1000, 1000, NULL);
    ask(f, one, &all);
    BudgetAnswer answer = ask(f, one, &all);
    CHECK_INT(answer.verdict, BUDGET_GRANT);
    CHECK_INT(answer.told[0].granted, 1000);
    BudgetAsk gives = { 0 };
    answer = ask(f, one, &gives);
    CHECK_INT(answer.told_n, 1);
    CHECK_INT(answer.told[0].granted, 1000);
    CHECK(!answer.told[0].applies);
    return 0;
}

static void test_unseen(void **state)
{
    run(state, body_unseen);
}

/* --- calls without a task --------------------------------------------------------------------- */

static Uuid account(Fixture *f, const char *tenant, const char *agent, const char *user)
{
    Uuid id = { 0 };
    BudgetOwner owner = { .tenant = str_of(tenant), .agent = str_of(agent), .user = str_of(user) };
    CHECK_INT(queue_account_wait(f->queue, &owner, &id), 0);
    return id;
}

/* They count for the owner of their account, as those of a task do; once, also when the worker
 * dies. */
static int body_accounts(void *arg)
{
    Fixture *f = arg;
    Uuid one = add_worker(f, 1, WORKER_EMBEDDED);
    Uuid acme = account(f, "acme", "", "u1"), other = account(f, "acme", "support", "u1");
    CHECK(uuid_eq(acme, account(f, "acme", "", "u1")));
    CHECK(!uuid_eq(acme, other));
    BudgetAsk some = asks(100, 600, NULL);
    ask(f, one, &some);
    TaskRef ref = { acme, TASK_FENCE_ACCOUNT };
    CHECK_INT(spend(f, one, ref, "c1", 100, 5), 0);
    CHECK_INT(spend(f, one, ref, "c1", 100, 5), 0); /* again */
    CHECK_INT(spend(f, one, (TaskRef){ other, TASK_FENCE_ACCOUNT }, "c1", 30, 2), 0);
    CHECK_INT(spend(f, one, (TaskRef){ one, TASK_FENCE_ACCOUNT }, "c1", 30, 2), QUEUE_E_STALE);
    expect(f, "day", 130, 470);
    expect(f, "user:u1:day-tokens", 7, 0);

    /* one call was recorded, one was not; the third's account is not known to anybody */
    Uuid two = add_worker(f, 2, WORKER_EMBEDDED);
    BudgetHold holds[3] = {
        { .call_id = STR("c1"), .task = ref, .charge = { 9, 150 } },
        { .call_id = STR("c2"), .task = ref, .charge = { 9, 150 }, .at_ms = real_now },
        { .call_id = STR("c3"), .task = { one, TASK_FENCE_ACCOUNT }, .charge = { 9, 150 } }
    };
    CHECK_INT(queue_holds_wait(f->queue, two, one, holds, 3), 0);
    CHECK_INT(queue_holds_wait(f->queue, two, one, holds, 3), 0);
    expect(f, "day", 280, 0);

    Account *list = NULL;
    size_t n = 0;
    CHECK_INT(queue_accounts_wait(f->queue, STR("nobody"), 10, &f->arena, &list, &n), 0);
    CHECK_INT(n, 0);
    CHECK_INT(queue_accounts_wait(f->queue, STR_NULL, 10, &f->arena, &list, &n), 0);
    CHECK_INT(n, 2);
    for (size_t i = 0; i < n; i++)
        CHECK_INT(list[i].cost_nusd, str_empty(list[i].agent) ? 250 : 30);
    return 0;
}

/* A budget that is set later finds what they have cost. */
static int body_account_budget(void *arg)
{
    Fixture *f = arg;
    BudgetScope scope = { 0 };
    CHECK_INT(budget_scope_from(STR("tenant:acme:month"), &scope), 0);
    CHECK_INT(queue_budget_set_wait(f->queue, &scope, 1000), 0);
    expect(f, "tenant:acme:month", 280, 0);
    return 0;
}

/* A tenant's users are bounded: those it has go on, a new one is refused, others do not suffer. */
static int body_accounts_full(void *arg)
{
    Fixture *f = arg;
    QueueStats stats;
    Uuid id, first = account(f, "acme", "", "u1");
    (void)account(f, "acme", "", "u2");
    (void)account(f, "acme", "support", "u1");
    BudgetOwner owner = { .tenant = STR("acme"), .user = STR("u3") };
    CHECK_INT(queue_account_wait(f->queue, &owner, &id), QUEUE_E_ACCOUNTS);
    CHECK_HAS(str_of(diag_text()), "tenant acme has 3 accounts");
    CHECK(uuid_eq(first, account(f, "acme", "", "u1")));
    (void)account(f, "other", "", "u3");
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.accounts_refused, 1);
    return 0;
}

static void test_accounts_full(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->options.accounts_max = 3;
    open_queue(f);
    run(state, body_accounts_full);
}

static void test_accounts(void **state)
{
    run(state, body_accounts);
    run(state, body_account_budget);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_grant_and_settle, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_booked_together, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_exhausted_or_wait, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_order, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_crowd, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_wait_ends, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_rules, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_full, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_absurd, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_restart, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_zone_changed, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_lost_and_proven, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_killed_for_good, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_lease_lost, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_shadow_lease_lost, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_successor, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_leave, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_unseen, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_folded, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_folded_later, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_calendar_ahead, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_accounts, setup_budgets, teardown),
        cmocka_unit_test_setup_teardown(test_accounts_full, setup_budgets, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
