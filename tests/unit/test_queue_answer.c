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

/* --- inserted as started ---------------------------------------------------------------------- */

typedef struct {
    Uuid id;
    char text[4096];
} RowText;

#define ROW_TEXT_SQL                                                           \
    "SELECT 'SELECT ' || group_concat('\"' || name || '=\" || quote(' || name" \
    " || ')', ' || ') || ' FROM task WHERE id = ?1'"                           \
    " FROM pragma_table_info('task')"                                          \
    " WHERE name NOT IN ('seq', 'id', 'fence')"

/* All columns of a task's row but those that are each task's own. */
static int row_text_job(Db *db, void *arg)
{
    static char sql[8192];
    RowText *row = arg;
    if (!sql[0]) {
        DbStmt *names = db_stmt(db, ROW_TEXT_SQL);
        CHECK_INT(db_step(names), DB_E_ROW);
        CHECK(str_copy(sql, sizeof sql, db_str(names, 0)));
        for (char *p = sql; (p = strchr(p, '"')); p++) *p = '\'';
        db_reset(names);
    }
    DbStmt *s = db_stmt(db, sql);
    db_bind_blob(s, 1, str_make((const char *)row->id.bytes, sizeof row->id.bytes));
    CHECK_INT(db_step(s), DB_E_ROW);
    CHECK(str_copy(row->text, sizeof row->text, db_str(s, 0)));
    db_reset(s);
    return 0;
}

static void rows_check(Fixture *f, Uuid one, Uuid other)
{
    static RowText a, b;
    a.id = one;
    b.id = other;
    CHECK_INT(store_read_wait(f->store, row_text_job, &a), 0);
    CHECK_INT(store_read_wait(f->store, row_text_job, &b), 0);
    CHECK(strstr(a.text, "worker_id=") && strstr(a.text, "deadline_at_ms="));
    CHECK_STR(str_of(a.text), str_of(b.text));
}

static bool texts_same(const Task *a, const Task *b)
{
    return str_eq(a->agent, b->agent) && str_eq(a->version_id, b->version_id) &&
           str_eq(a->user_id, b->user_id) && str_eq(a->tenant_id, b->tenant_id) &&
           str_eq(a->traceparent, b->traceparent) && str_eq(a->input, b->input) &&
           str_eq(a->metadata, b->metadata) && str_eq(a->limits, b->limits) &&
           str_eq(a->session_id, b->session_id);
}

static bool tasks_same(const Task *a, const Task *b)
{
    return texts_same(a, b) && a->lane == b->lane && a->state == b->state &&
           a->attempt == b->attempt && a->created_at_ms == b->created_at_ms &&
           a->ready_at_ms == b->ready_at_ms && a->started_at_ms == b->started_at_ms &&
           a->time_limit_ms == b->time_limit_ms && a->deadline_at_ms == b->deadline_at_ms &&
           a->due_at_ms == b->due_at_ms && a->ran_ms == b->ran_ms && a->fence < b->fence;
}

/* Claimed by who waits for it, and by who comes later: it is the same task. */
static void same_check(Fixture *f, const TaskNew *new)
{
    Asker waits, comes;
    FiberRef fiber;
    TaskSummary first, second;
    asker_init(&waits, f);
    asker_init(&comes, f);
    CHECK_INT(fiber_spawn("claim", claim_main, &waits, &fiber), 0);
    await_claimers(f, 1);
    CHECK_INT(queue_submit_wait(f->queue, new, &first), 0);
    CHECK_INT(fiber_join_wait(fiber, NULL), 0);
    CHECK_INT(queue_submit_wait(f->queue, new, &second), 0);
    CHECK_INT(claim_main(&comes), 0);
    if (!CHECK_INT(waits.n, 1) || !CHECK_INT(comes.n, 1)) return;
    CHECK(uuid_eq(waits.tasks[0].id, first.id) && uuid_eq(comes.tasks[0].id, second.id));
    CHECK(tasks_same(&waits.tasks[0], &comes.tasks[0]));
    rows_check(f, first.id, second.id);
    Task a = get(f, first.id), b = get(f, second.id);
    CHECK(tasks_same(&a, &b));
    check_counts(f, new->lane, 0, 2);
}

static int body_same_task(void *arg)
{
    Fixture *f = arg;
    TaskNew plain = { .agent = STR("support"), .lane = LANE_NORMAL, .input = STR("1") };
    TaskNew full = { .agent = STR("support"),
                     .lane = LANE_LOW,
                     .input = STR("{\"q\":2}"),
                     .metadata = STR("{\"m\":3}"),
                     .limits = STR("{\"tokensPerTask\":4}"),
                     .user_id = STR("u"),
                     .tenant_id = STR("t"),
                     .webhook_url = STR("https://example.com/"),
                     .traceparent = STR("00-1-2-01"),
                     .time_limit_ms = 5000,
                     .due_at_ms = real_now + 9000 };
    (void)add_worker(f, 1, WORKER_REMOTE);
    same_check(f, &plain);
    same_check(f, &full);
    return 0;
}

static void test_same_task(void **state)
{
    run(state, body_same_task);
}

/* One that this claimer has no room for waits as well. */
static int body_not_alone(void *arg)
{
    Fixture *f = arg;
    Asker a;
    FiberRef fiber;
    (void)add_worker(f, 1, WORKER_REMOTE);
    asker_init(&a, f);
    a.claim.slots = (LaneConfig){ .reserved = { 0, 1, 0 } };
    submit(f, LANE_LOW);
    CHECK_INT(fiber_spawn("claim", claim_main, &a, &fiber), 0);
    await_claimers(f, 1);
    Uuid low = submit(f, LANE_LOW); /* for which it does not wait */
    CHECK_INT(get(f, low).state, TASK_QUEUED);
    Uuid id = submit(f, LANE_NORMAL);
    CHECK_INT(fiber_join_wait(fiber, NULL), 0);
    if (!CHECK_INT(a.n, 1)) return 0;
    CHECK(uuid_eq(a.tasks[0].id, id));
    check_counts(f, LANE_NORMAL, 0, 1);
    check_counts(f, LANE_LOW, 2, 0);
    return 0;
}

static void test_not_alone(void **state)
{
    run(state, body_not_alone);
}

/* A key that has led to a task inserted as started leads to it again. */
static int body_key(void *arg)
{
    Fixture *f = arg;
    Asker a;
    FiberRef fiber;
    TaskSummary first, again;
    TaskNew new = { .agent = STR("support"),
                    .lane = LANE_NORMAL,
                    .input = STR("1"),
                    .idempotency_key = STR("k"),
                    .fingerprint = STR("f") };
    (void)add_worker(f, 1, WORKER_REMOTE);
    asker_init(&a, f);
    CHECK_INT(fiber_spawn("claim", claim_main, &a, &fiber), 0);
    await_claimers(f, 1);
    CHECK_INT(queue_submit_wait(f->queue, &new, &first), 0);
    CHECK_INT(fiber_join_wait(fiber, NULL), 0);
    CHECK_INT(queue_submit_wait(f->queue, &new, &again), 0);
    CHECK(again.existing && uuid_eq(again.id, first.id));
    CHECK_INT(again.state, TASK_RUNNING);
    check_counts(f, LANE_NORMAL, 0, 1);
    return 0;
}

static void test_key(void **state)
{
    run(state, body_key);
}

static int tight_setup(void **state)
{
    int r = setup(state);
    Fixture *f = *state;
    close_queue(f);
    f->options.agent_tasks_max = 1;
    open_queue(f);
    return r;
}

/* Of an agent at its limit it stays queued, and is taken when there is room. */
static int body_limited(void *arg)
{
    Fixture *f = arg;
    Asker a;
    FiberRef fiber;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    submit(f, LANE_NORMAL);
    TaskRef held = claim_one(f, worker);
    asker_init(&a, f);
    CHECK_INT(fiber_spawn("claim", claim_main, &a, &fiber), 0);
    await_claimers(f, 1);
    Uuid second = submit(f, LANE_NORMAL);
    CHECK_INT(get(f, second).state, TASK_QUEUED);
    CHECK(!a.over);
    CHECK_INT(finish(f, held, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    CHECK_INT(fiber_join_wait(fiber, NULL), 0);
    if (!CHECK_INT(a.n, 1)) return 0;
    CHECK(uuid_eq(a.tasks[0].id, second));
    check_counts(f, LANE_NORMAL, 0, 1);
    return 0;
}

static void test_limited(void **state)
{
    run(state, body_limited);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_stages),
        TEST(test_nothing_found),
        TEST(test_submitted),
        TEST(test_same_task),
        TEST(test_not_alone),
        TEST(test_key),
        cmocka_unit_test_setup_teardown(test_limited, tight_setup, teardown),
    };
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    return cmocka_run_group_tests_name("queue_answer", tests, NULL, NULL);
}
