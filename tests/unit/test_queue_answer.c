/* Who waits for a task is told by the commit that makes it its own: the answer is made meanwhile,
 * and sent by who commits, if that has found it made. */
#include "tests/unit/queue_fixture.h"

#include "queue/queue_private.h"

/* A claim, and what became of its answer. */
typedef struct {
    Fixture *f;
    Claim claim;
    ClaimJob job;
    ClaimAnswer answer;
    bool refuse;
    int made, sent, sent_in_time; /* before the claim went on */
    Uuid made_of;
    Task *tasks;
    size_t n;
    int result;
    bool over;
} Asker;

static bool asker_make(void *ctx, const Task *tasks, size_t n)
{
    Asker *a = ctx;
    CHECK(n > 0);
    a->made++;
    a->made_of = tasks[0].id;
    return !a->refuse;
}

static void asker_send(void *ctx)
{
    Asker *a = ctx;
    a->sent++;
    a->sent_in_time += !a->over;
}

static void asker_init(Asker *a, Fixture *f)
{
    *a = (Asker){ .f = f, .claim = { .worker_id = worker_of(1), .slots = roomy } };
    a->answer = (ClaimAnswer){ .ctx = a, .make = asker_make, .send = asker_send };
    a->claim.answer = &a->answer;
    a->job = (ClaimJob){ .queue = f->queue, .claim = &a->claim };
}

static int waiter_main(void *arg)
{
    static const bool lanes[LANE_N_] = { true, true, true };
    Asker *a = arg;
    a->result = claimer_wait(a->f->queue, lanes, 0, DEADLINE_NONE, &a->job);
    a->over = true;
    return 0;
}

/* A claimer that waits, taken off the list, with a task found for it. */
static Claimer *found(Asker *a, Task *task, FiberRef *ret)
{
    CHECK_INT(fiber_spawn("waiter", waiter_main, a, ret), 0);
    await_claimers(a->f, 1);
    Claimer *claimer = claimer_take(a->f->queue, LANE_NORMAL);
    CHECK(claimer && claimer_job(claimer) == &a->job);
    a->job.tasks = task;
    a->job.n = 1;
    claimer_found(claimer);
    return claimer;
}

static void await_made(const Asker *a)
{
    while (!a->made) (void)fiber_sleep_wait(1);
}

typedef struct {
    bool await, refuse, cancel, looked; /* what happens */
    int made, sent;
    bool stands; /* what comes of it */
} Turn;

static int body_stages(void *arg)
{
    static const Turn turns[] = {
        { .await = true, .looked = true, .made = 1, .sent = 1, .stands = true },
        { .await = true, .made = 1 }, /* undone */
        { .looked = true },           /* durable before the claimer ran */
        { 0 },
        { .await = true, .refuse = true, .looked = true, .made = 1 },
        { .await = true, .cancel = true, .looked = true, .made = 1, .sent = 1, .stands = true },
    };
    Fixture *f = arg;
    for (size_t i = 0; i < ARRAY_N(turns); i++) {
        const Turn *t = &turns[i];
        Asker a;
        FiberRef fiber;
        Task task = { .id = worker_of(7) };
        asker_init(&a, f);
        a.refuse = t->refuse;
        Claimer *claimer = found(&a, &task, &fiber);
        if (t->await) await_made(&a);
        if (t->cancel) fiber_cancel(fiber); /* too late */
        if (t->cancel) (void)fiber_sleep_wait(1);
        CHECK(!a.over);
        claimer_give(claimer, t->looked);
        CHECK_INT(fiber_join_wait(fiber, NULL), 0);
        CHECK_INT(a.result, t->looked ? CLAIMER_LOOKED : 0);
        CHECK_INT(a.made, t->made);
        CHECK_INT(a.sent, t->sent);
        CHECK_INT(a.sent_in_time, t->sent);
        CHECK_INT(a.answer.stands, t->stands);
    }
    return 0;
}

static void test_stages(void **state)
{
    run(state, body_stages);
}

/* Nobody is told of a look that has found nothing, or who has no answer to make. */
static int body_nothing_found(void *arg)
{
    Fixture *f = arg;
    for (int i = 0; i < 2; i++) {
        Asker a;
        FiberRef fiber;
        asker_init(&a, f);
        if (i == 0) a.claim.answer = NULL;
        CHECK_INT(fiber_spawn("waiter", waiter_main, &a, &fiber), 0);
        await_claimers(f, 1);
        Claimer *claimer = claimer_take(f->queue, LANE_NORMAL);
        a.job.n = i == 0;
        claimer_found(claimer);
        (void)fiber_sleep_wait(1);
        CHECK(!a.over);
        claimer_give(claimer, true);
        CHECK_INT(fiber_join_wait(fiber, NULL), 0);
        CHECK_INT(a.result, CLAIMER_LOOKED);
        CHECK_INT(a.made + a.sent, 0);
    }
    return 0;
}

static void test_nothing_found(void **state)
{
    run(state, body_nothing_found);
}

static int claim_main(void *arg)
{
    Asker *a = arg;
    a->result = queue_claim_wait(a->f->queue, &a->claim, DEADLINE_NONE, &a->f->arena, &a->tasks,
                                 &a->n);
    a->over = true;
    return 0;
}

/* Whoever comes first, what stands is what was claimed, and it is sent once or not yet. */
static int body_submitted(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    for (int i = 0; i < 50; i++) {
        Asker a;
        FiberRef fiber;
        asker_init(&a, f);
        CHECK_INT(fiber_spawn("claim", claim_main, &a, &fiber), 0);
        await_claimers(f, 1);
        Uuid id = submit(f, LANE_NORMAL);
        CHECK_INT(fiber_join_wait(fiber, NULL), 0);
        CHECK_INT(a.result, 0);
        if (!CHECK_INT(a.n, 1)) return 0;
        CHECK(uuid_eq(a.tasks[0].id, id));
        CHECK(!a.answer.stands || uuid_eq(a.made_of, id));
        CHECK_INT(a.answer.stands, a.made);
        CHECK(a.sent <= a.made && a.sent == a.sent_in_time);
        check_counts(f, LANE_NORMAL, 0, 1);
        TaskRef ref = { id, a.tasks[0].fence };
        CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, NULL), 0);
        check_counts(f, LANE_NORMAL, 0, 0);
    }
    submit(f, LANE_NORMAL); /* what is there already is claimed without all that */
    Asker a;
    asker_init(&a, f);
    a.claim.worker_id = worker;
    a.answer.stands = true;
    CHECK_INT(claim_main(&a), 0);
    CHECK_INT(a.n, 1);
    CHECK(!a.answer.stands && a.made + a.sent == 0);
    return 0;
}

static void test_submitted(void **state)
{
    run(state, body_submitted);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_stages),
        TEST(test_nothing_found),
        TEST(test_submitted),
    };
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    return cmocka_run_group_tests_name("queue_answer", tests, NULL, NULL);
}
