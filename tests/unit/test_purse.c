/* The purse against a control plane in miniature: one budget, kept by the rules of
 * logic/budget.h. */
#include "tests/unit/sys_harness.h"

#include "gateway/purse.h"
#include "sys/clock.h"
#include "tests/unit/check.h"

#define HOUR_MS INT64_C(3600000)

typedef struct {
    GatewayControl control;
    const GatewayControl *seen; /* what the purse reads */
    int64_t limit;
    int64_t others;    /* set aside for other workers */
    BudgetSlice slice; /* of this one */
    int64_t start_ms, end_ms;
    uint64_t epoch;
    int fails; /* so many questions more */
    int asked, gave;
    int late;        /* questions that were not answered in time */
    bool none;       /* no budget applies */
    bool knows;      /* it is only asked what applies */
    int64_t skew_ms; /* of its calendar */
    Cond changed;
    Purse *purse;
} Rig;

static void fake_take_back(Rig *rig, const BudgetAsk *ask)
{
    for (size_t i = 0; i < ask->notes_n; i++) {
        if (ask->notes[i].start_ms != rig->start_ms) continue;
        if (ask->notes[i].returned <= rig->slice.returned) continue;
        rig->gave++;
        rig->slice.returned = ask->notes[i].returned;
        cond_broadcast(&rig->changed);
    }
}

static int64_t fake_seen(const Rig *rig, const BudgetAsk *ask)
{
    int64_t seen = 0;
    for (size_t i = 0; i < ask->notes_n; i++)
        if (ask->notes[i].start_ms == rig->start_ms) seen = MAX(seen, ask->notes[i].granted);
    return seen;
}

static BudgetVerdict fake_decide(Rig *rig, const BudgetAsk *ask)
{
    BudgetAccount account = { .limit = rig->limit, .settled = rig->slice.settled };
    int64_t grant;
    size_t by;
    account.leased = rig->others + budget_outstanding(&rig->slice);
    account.unseen = MIN(MAX(rig->slice.granted - fake_seen(rig, ask), 0),
                         budget_outstanding(&rig->slice));
    BudgetVerdict v = budget_decide(&account, 1, &ask->need, &grant, &by);
    if (v == BUDGET_GRANT) rig->slice.granted += grant;
    if (v == BUDGET_GRANT && grant > 0)
        CHECK(rig->slice.settled + budget_outstanding(&rig->slice) + rig->others <= rig->limit);
    return v;
}

static int fake_grants_wait(void *ctx, const BudgetAsk *ask, int64_t wait_ms, Arena *arena,
                            BudgetAnswer *ret)
{
    Rig *rig = ctx;
    int64_t until_ms = deadline_after(wait_ms);
    rig->asked++;
    if (fiber_yield_wait() < 0) return -ECANCELED;
    if (rig->fails > 0) {
        rig->fails--;
        return -EAGAIN;
    }
    fake_take_back(rig, ask);
    *ret = (BudgetAnswer){ .epoch = rig->epoch,
                           .now_ms = clock_real_ms() + rig->skew_ms,
                           .told = ARENA_ARRAY(arena, BudgetTold, 1) };
    while (ask->asks && !rig->none && !rig->knows &&
           (ret->verdict = fake_decide(rig, ask)) == BUDGET_WAIT) {
        int r = cond_wait(&rig->changed, until_ms);
        rig->late += r == -ETIMEDOUT;
        if (r < 0) return -ECANCELED;
    }
    ret->told[0] = (BudgetTold){ .start_ms = rig->start_ms,
                                 .end_ms = rig->end_ms,
                                 .limit = rig->limit,
                                 .settled = rig->slice.settled,
                                 .granted = rig->slice.granted,
                                 .returned = rig->slice.returned,
                                 .spent = rig->slice.settled,
                                 .applies = ask->asks };
    ret->told_n = rig->none ? 0 : 1;
    return 0;
}

static void rig_init(Rig *rig, int64_t limit)
{
    *rig = (Rig){ .limit = limit, .epoch = 7 };
    rig->start_ms = clock_real_ms() - HOUR_MS;
    rig->end_ms = clock_real_ms() + HOUR_MS;
    rig->control = (GatewayControl){ .ctx = rig, .grants_wait = fake_grants_wait };
    rig->seen = &rig->control;
    cond_init(&rig->changed);
    rig->purse = purse_new(&rig->seen);
}

static void rig_deinit(Rig *rig)
{
    purse_close_wait(rig->purse);
    purse_free(rig->purse);
}

/* --- calls ------------------------------------------------------------------------------------ */

typedef struct {
    Rig *rig;
    PurseOwner *owner;
    Lane lane;
    int64_t min, want;
    int64_t hold_ms; /* clock_mono_ms until when it runs; 0: no time */
    BudgetVerdict verdict;
    int64_t held;
    int *order, place;
    bool keeps; /* it is left to the test to settle hold */
    int *woken;
    PurseHold hold;
} Caller;

static void recorded(Rig *rig, int64_t nusd)
{
    rig->slice.settled += nusd;
    cond_broadcast(&rig->changed);
}

static int caller_main(void *arg)
{
    Caller *c = arg;
    Cond wake;
    PurseWaiter waiter;
    CapHold room;
    const BudgetScope *by;
    BudgetNeed need = { .min = { .nusd = c->min },
                        .good = { .nusd = c->want },
                        .want = { .nusd = c->want } };
    cond_init(&wake);
    purse_waiter_init(&waiter, c->lane, &wake);
    while ((c->verdict = purse_try(c->owner, &waiter, &need, &room, &by)) == BUDGET_WAIT) {
        int r = cond_wait(&wake, c->woken ? DEADLINE_NONE : deadline_after(50));
        if (c->woken) ++*c->woken;
        if (r == -ECANCELED) break;
    }
    if (c->verdict == BUDGET_GRANT) {
        CapHold hold = { .nusd = MIN(c->want, room.nusd) };
        c->held = hold.nusd;
        purse_take(c->owner, &waiter, &hold, &c->hold);
        if (c->order) c->place = ++*c->order;
        if (c->keeps) return 0;
        (void)fiber_yield_wait();
        purse_settle(c->rig->purse, &c->hold, &hold);
        recorded(c->rig, hold.nusd);
    }
    purse_leave(c->owner, &waiter);
    return 0;
}

static PurseOwner *owner_of(Rig *rig, const char *user)
{
    return purse_owner_ref(rig->purse, &(BudgetOwner){ .agent = STR("a"), .user = str_of(user) });
}

static void run_all(Caller *callers, size_t n)
{
    FiberRef fibers[128];
    for (size_t i = 0; i < n; i++)
        CHECK_INT(fiber_spawn("caller", caller_main, &callers[i], &fibers[i]), 0);
    for (size_t i = 0; i < n; i++) fiber_join_wait(fibers[i], NULL);
}

/* --- tests ------------------------------------------------------------------------------------ */

static int body_without_control(void *arg)
{
    (void)arg;
    Rig rig;
    rig_init(&rig, 0);
    rig.seen = NULL;
    Caller c = { .rig = &rig, .owner = owner_of(&rig, "u"), .min = 5, .want = 5 };
    run_all(&c, 1);
    CHECK_INT(c.verdict, BUDGET_GRANT);
    CHECK_INT(rig.asked, 0);
    purse_owner_unref(c.owner);
    rig_deinit(&rig);
    return 0;
}

/* 100 calls of two owners where 37 fit: so many are made and the rest is refused. */
static int body_exactly_what_fits(void *arg)
{
    (void)arg;
    Rig rig;
    Caller callers[100];
    int made = 0, refused = 0;
    rig_init(&rig, 37 * 10);
    PurseOwner *owners[2] = { owner_of(&rig, "u"), owner_of(&rig, "v") };
    CHECK(owner_of(&rig, "u") == owners[0]);
    purse_owner_unref(owners[0]);
    for (int i = 0; i < 100; i++)
        callers[i] = (Caller){
            .rig = &rig, .owner = owners[i % 2], .min = 10, .want = 10, .lane = (Lane)(i % LANE_N_)
        };
    run_all(callers, 100);
    for (int i = 0; i < 100; i++) {
        made += callers[i].verdict == BUDGET_GRANT;
        refused += callers[i].verdict == BUDGET_EXHAUSTED;
    }
    CHECK_INT(made, 37);
    CHECK_INT(refused, 63);
    CHECK_INT(rig.slice.settled, 370);
    CHECK_INT(purse_settled_ppm(owners[0]), 1000000);
    for (int i = 0; i < 2; i++) purse_owner_unref(owners[i]);
    rig_deinit(&rig);
    return 0;
}

static int body_few_questions_while_plenty(void *arg)
{
    (void)arg;
    Rig rig;
    Caller c[100];
    rig_init(&rig, 10000000);
    PurseOwner *owner = owner_of(&rig, "u");
    for (int i = 0; i < 100; i++) {
        c[i] = (Caller){ .rig = &rig, .owner = owner, .min = 10, .want = 10 };
        run_all(&c[i], 1);
        CHECK_INT(c[i].verdict, BUDGET_GRANT);
    }
    CHECK(rig.asked <= 3);
    purse_owner_unref(owner);
    rig_deinit(&rig);
    return 0;
}

/* Nothing gets through while the control plane does not answer, and all does when it is back. */
static int body_never_fails_open(void *arg)
{
    (void)arg;
    Rig rig;
    rig_init(&rig, 100);
    rig.fails = 2;
    Caller c = { .rig = &rig, .owner = owner_of(&rig, "u"), .min = 10, .want = 10 };
    run_all(&c, 1);
    CHECK_INT(c.verdict, BUDGET_GRANT);
    CHECK_INT(rig.fails, 0);
    CHECK(rig.asked >= 3);
    purse_owner_unref(c.owner);
    rig_deinit(&rig);
    return 0;
}

static void await_asked(Rig *rig, int n)
{
    while (rig->asked < n) (void)fiber_sleep_wait(1);
}

/* Others hold everything; a low and then a critical call wait; the critical one is first. */
static int body_turns(void *arg)
{
    (void)arg;
    Rig rig;
    int order = 0;
    FiberRef fibers[2];
    rig_init(&rig, 100);
    rig.others = 100;
    PurseOwner *owner = owner_of(&rig, "u");
    Caller low = {
        .rig = &rig, .owner = owner, .min = 60, .want = 60, .order = &order, .lane = LANE_LOW
    };
    Caller critical = low;
    critical.lane = LANE_CRITICAL;
    critical.want = critical.min = 40;
    CHECK_INT(fiber_spawn("low", caller_main, &low, &fibers[0]), 0);
    await_asked(&rig, 1);
    CHECK_INT(fiber_spawn("critical", caller_main, &critical, &fibers[1]), 0);
    await_asked(&rig, 2); /* the question of the low one was called off */
    rig.others = 0;
    cond_broadcast(&rig.changed);
    fiber_join_wait(fibers[1], NULL);
    fiber_join_wait(fibers[0], NULL);
    CHECK_INT(critical.place, 1);
    CHECK_INT(low.place, 2);
    CHECK_INT(rig.slice.settled, 100);
    purse_owner_unref(owner);
    rig_deinit(&rig);
    return 0;
}

/* What is wanted elsewhere goes back with the heartbeat, what calls in flight hold does not. */
static int body_gives_back(void *arg)
{
    (void)arg;
    Rig rig;
    rig_init(&rig, 10000000);
    Caller c = { .rig = &rig, .owner = owner_of(&rig, "u"), .min = 10, .want = 10, .keeps = true };
    run_all(&c, 1);
    CHECK(budget_outstanding(&rig.slice) > 10);
    purse_beat(rig.purse, rig.epoch, false);
    (void)fiber_sleep_wait(5);
    CHECK_INT(rig.gave, 0); /* it was used just now */
    purse_beat(rig.purse, rig.epoch, true);
    while (rig.gave == 0) (void)fiber_sleep_wait(1);
    CHECK_INT(budget_outstanding(&rig.slice), 10);
    /* what a call did not need goes back as well while it is wanted */
    purse_settle(rig.purse, &c.hold, &(CapHold){ .nusd = 4 });
    recorded(&rig, 4);
    while (rig.gave == 1) (void)fiber_sleep_wait(1);
    CHECK_INT(budget_outstanding(&rig.slice), 0);
    CHECK_INT(rig.slice.settled, 4);
    purse_owner_unref(c.owner);
    rig_deinit(&rig);
    return 0;
}

/* Other rules, another window, another lease: what applies is asked anew. */
static int body_begins_anew(void *arg)
{
    (void)arg;
    Rig rig;
    rig_init(&rig, 10000000);
    PurseOwner *owner = owner_of(&rig, "u");
    Caller c = { .rig = &rig, .owner = owner, .min = 10, .want = 10 };
    run_all(&c, 1);
    int asked = rig.asked;
    rig.epoch++;
    rig.limit = 5; /* of which 10 are spent */
    purse_beat(rig.purse, rig.epoch, false);
    run_all(&c, 1);
    CHECK_INT(c.verdict, BUDGET_EXHAUSTED);
    CHECK(rig.asked > asked);

    rig.start_ms = rig.end_ms = clock_real_ms(); /* the next day */
    rig.end_ms += HOUR_MS;
    rig.slice = (BudgetSlice){ 0 };
    rig.limit = 1000;
    rig.epoch++;
    purse_beat(rig.purse, rig.epoch, false);
    c.keeps = true;
    run_all(&c, 1);
    CHECK_INT(c.verdict, BUDGET_GRANT);

    purse_reset(rig.purse); /* what was granted before is another worker's now */
    rig.slice = (BudgetSlice){ 0 };
    Caller d = { .rig = &rig, .owner = owner, .min = 10, .want = 10 };
    run_all(&d, 1);
    CHECK_INT(d.verdict, BUDGET_GRANT);
    CHECK_INT(rig.slice.settled, 10);
    purse_settle(rig.purse, &c.hold, &(CapHold){ .nusd = 10 }); /* of the old lease: no matter */
    CHECK(budget_outstanding(&rig.slice) >= 0);
    purse_owner_unref(owner);
    rig_deinit(&rig);
    return 0;
}

/* The control plane's calendar is a day behind: its windows hold, and calls are booked in them. */
static int body_other_calendar(void *arg)
{
    (void)arg;
    Rig rig;
    rig_init(&rig, 10000000);
    rig.skew_ms = -24 * HOUR_MS;
    rig.start_ms += rig.skew_ms;
    rig.end_ms += rig.skew_ms;
    Caller c = { .rig = &rig, .owner = owner_of(&rig, "u"), .min = 10, .want = 10, .keeps = true };
    run_all(&c, 1);
    CHECK_INT(c.verdict, BUDGET_GRANT);
    CHECK_INT(rig.asked, 1);
    CHECK_INT(purse_booked_ms(&c.hold), rig.end_ms - 1);
    purse_settle(rig.purse, &c.hold, &(CapHold){ .nusd = 10 });
    run_all(&c, 1);
    CHECK_INT(rig.asked, 1);
    purse_settle(rig.purse, &c.hold, &(CapHold){ .nusd = 10 });
    purse_owner_unref(c.owner);
    rig_deinit(&rig);
    return 0;
}

/* A call that leaves while it waits lets the next one go. */
static int body_leaves(void *arg)
{
    (void)arg;
    Rig rig;
    FiberRef fibers[2];
    rig_init(&rig, 100);
    rig.others = 50;
    PurseOwner *owner = owner_of(&rig, "u");
    Caller big = { .rig = &rig, .owner = owner, .min = 90, .want = 90 }, small = big;
    small.min = small.want = 40;
    CHECK_INT(fiber_spawn("big", caller_main, &big, &fibers[0]), 0);
    await_asked(&rig, 1);
    CHECK_INT(fiber_spawn("small", caller_main, &small, &fibers[1]), 0);
    (void)fiber_sleep_wait(2);
    CHECK_INT(small.held, 0); /* its turn is later */
    fiber_cancel(fibers[0]);
    fiber_join_wait(fibers[0], NULL);
    cond_broadcast(&rig.changed);
    rig.others = 0; /* what is being asked is answered, for whoever is first then */
    cond_broadcast(&rig.changed);
    fiber_join_wait(fibers[1], NULL);
    CHECK_INT(small.verdict, BUDGET_GRANT);
    purse_owner_unref(owner);
    rig_deinit(&rig);
    return 0;
}

static void settle(Caller *c, int64_t nusd)
{
    purse_settle(c->rig->purse, &c->hold, &(CapHold){ .nusd = nusd });
    recorded(c->rig, nusd);
}

/* A call waits, and its question is with the control plane, which lacks what another call leaves
 * over here: that goes back at once. */
static int body_free_while_asking(void *arg)
{
    (void)arg;
    Rig rig;
    FiberRef fiber;
    int woken = 0;
    rig_init(&rig, 1000);
    PurseOwner *owner = owner_of(&rig, "u");
    Caller first = { .rig = &rig, .owner = owner, .min = 900, .want = 900, .keeps = true };
    Caller second = { .rig = &rig, .owner = owner, .min = 50, .want = 200, .woken = &woken };
    run_all(&first, 1);
    CHECK_INT(fiber_spawn("second", caller_main, &second, &fiber), 0);
    await_asked(&rig, 2);
    CHECK_INT(second.held, 0);
    settle(&first, 750); /* with what was never granted that is enough, but neither is alone */
    fiber_join_wait(fiber, NULL);
    CHECK_INT(second.verdict, BUDGET_GRANT);
    CHECK_INT(second.held, 200);
    CHECK_INT(rig.late, 0);
    purse_owner_unref(owner);
    rig_deinit(&rig);
    return 0;
}

/* Of many owners who wait those whose turn it is are woken, and others do not hear of it. */
#define OWNERS 1000
static int body_few_are_woken(void *arg)
{
    (void)arg;
    Rig rig;
    int woken = 0;
    CLEANUP(freep) Caller *callers = xcalloc(OWNERS, sizeof *callers);
    CLEANUP(freep) FiberRef *fibers = xcalloc(OWNERS, sizeof *fibers);
    rig_init(&rig, 1000);
    Caller first = { .rig = &rig, .owner = owner_of(&rig, "u"), .min = 300, .want = 300 };
    first.keeps = true;
    run_all(&first, 1);
    rig.others = 600;
    for (int i = 0; i < OWNERS; i++) {
        char user[16];
        snprintf(user, sizeof user, "u%d", i);
        callers[i] = (Caller){
            .rig = &rig, .owner = owner_of(&rig, user), .min = 390, .want = 390
        };
        callers[i].woken = &woken;
        rig.knows = true; /* what applies, before it is asked for money */
        Cond wake;
        cond_init(&wake);
        CHECK_INT(purse_know_wait(callers[i].owner, &wake, 10000), 0);
        rig.knows = false;
        CHECK_INT(fiber_spawn("one of many", caller_main, &callers[i], &fibers[i]), 0);
        (void)fiber_yield_wait();
    }
    await_asked(&rig, 1 + 2 * OWNERS);
    int before = woken;
    settle(&first, 100); /* too little is free for anybody */
    while (rig.gave == 0) (void)fiber_sleep_wait(1);
    CHECK(woken - before >= 1 && woken - before <= 2);
    CHECK_INT(rig.gave, 1);
    for (int i = 0; i < OWNERS; i++) fiber_cancel(fibers[i]);
    for (int i = 0; i < OWNERS; i++) fiber_join_wait(fibers[i], NULL);
    for (int i = 0; i < OWNERS; i++) purse_owner_unref(callers[i].owner);
    purse_owner_unref(first.owner);
    rig_deinit(&rig);
    return 0;
}

/* This machine's calendar is days ahead, so that a window that lasts is over here, and its slice is
 * forgotten when nobody uses it. What was spent of it stays spent. */
static int body_forgotten(void *arg)
{
    (void)arg;
    Rig rig;
    Caller c;
    rig_init(&rig, 100);
    rig.start_ms -= 72 * HOUR_MS;
    rig.end_ms -= 48 * HOUR_MS;
    rig.skew_ms = -60 * HOUR_MS;
    purse_quiet(rig.purse, -1);
    for (int i = 0, made = 0; i < 30; i++) {
        c = (Caller){ .rig = &rig, .owner = owner_of(&rig, "u"), .min = 10, .want = 10 };
        run_all(&c, 1);
        made += c.verdict == BUDGET_GRANT;
        CHECK(made <= 10);
        purse_owner_unref(c.owner);
        for (int k = 0; k < 2; k++) {
            purse_beat(rig.purse, rig.epoch, true);
            (void)fiber_sleep_wait(2);
        }
    }
    CHECK_INT(c.verdict, BUDGET_EXHAUSTED);
    CHECK_INT(rig.slice.settled, 100);
    rig_deinit(&rig);
    return 0;
}

static int body_knows(void *arg)
{
    (void)arg;
    Rig rig;
    Cond wake;
    rig_init(&rig, 100);
    rig.slice.settled = 80;
    cond_init(&wake);
    PurseOwner *owner = owner_of(&rig, "u");
    CHECK_INT(purse_settled_ppm(owner), 0);
    CHECK_INT(purse_know_wait(owner, &wake, 10000), 0);
    CHECK_INT(purse_settled_ppm(owner), 800000);
    CHECK_INT(purse_know_wait(owner, &wake, 10000), 0);
    CHECK_INT(rig.asked, 1);
    rig.fails = 1000;
    rig.epoch++;
    purse_beat(rig.purse, rig.epoch, false);
    CHECK_INT(purse_know_wait(owner, &wake, 20), 0); /* it is not waited for for ever */
    purse_owner_unref(owner);
    rig_deinit(&rig);
    return 0;
}

#define TEST(name)                        \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        harness_run(body_##name, NULL);   \
        check_none();                     \
    }
TEST(without_control)
TEST(exactly_what_fits)
TEST(few_questions_while_plenty)
TEST(never_fails_open)
TEST(turns)
TEST(gives_back)
TEST(begins_anew)
TEST(leaves)
TEST(free_while_asking)
TEST(few_are_woken)
TEST(other_calendar)
TEST(forgotten)
TEST(knows)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_control),
        cmocka_unit_test(test_exactly_what_fits),
        cmocka_unit_test(test_few_questions_while_plenty),
        cmocka_unit_test(test_never_fails_open),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_gives_back),
        cmocka_unit_test(test_begins_anew),
        cmocka_unit_test(test_leaves),
        cmocka_unit_test(test_free_while_asking),
        cmocka_unit_test(test_few_are_woken),
        cmocka_unit_test(test_other_calendar),
        cmocka_unit_test(test_forgotten),
        cmocka_unit_test(test_knows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
