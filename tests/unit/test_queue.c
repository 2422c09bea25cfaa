#include "tests/unit/queue_fixture.h"

/* --- a task's life ---------------------------------------------------------------------------- */

static int body_life(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    Uuid id = submit(f, LANE_NORMAL);
    check_counts(f, LANE_NORMAL, 1, 0);
    Task *tasks;
    CHECK_INT(claim(f, worker, roomy, &tasks), 1);
    CHECK(uuid_eq(tasks[0].id, id));
    CHECK_INT(tasks[0].state, TASK_RUNNING);
    CHECK_INT(tasks[0].attempt, 1);
    CHECK_STR(tasks[0].input, STR("{\"q\":1}"));
    CHECK_STR(tasks[0].version_id, STR(VERSION_A));
    check_counts(f, LANE_NORMAL, 0, 1);
    pass_ms(40);
    TaskState state;
    TaskFinish end = { .task = { id, tasks[0].fence },
                       .outcome = TASK_OUTCOME_SUCCEEDED,
                       .result = STR("[1,2]"),
                       .sandbox = STR("A"),
                       .usage = { .tool_calls = 2 } };
    CHECK_INT(queue_finish_wait(f->queue, &end, &state), 0);
    CHECK_INT(state, TASK_SUCCEEDED);
    Task t = get(f, id);
    CHECK_INT(t.state, TASK_SUCCEEDED);
    CHECK_STR(t.result, STR("[1,2]"));
    CHECK_INT(t.finished_at_ms - t.started_at_ms, 40);
    CHECK_INT(t.usage.tool_calls, 2);
    CHECK_INT(t.error_code.len, 0);
    CHECK_INT(queue_finish_wait(f->queue, &end, &state), QUEUE_E_STALE); /* once only */
    CHECK_INT(get(f, id).usage.tool_calls, 2);
    check_counts(f, LANE_NORMAL, 0, 0);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.stale, 1);
    CHECK_INT(stats.lane[LANE_NORMAL].submitted, 1);
    CHECK_INT(stats.lane[LANE_NORMAL].claimed, 1);
    CHECK_INT(stats.lane[LANE_NORMAL].ended[TASK_SUCCEEDED], 1);
    Task unknown;
    CHECK_INT(queue_get_wait(f->queue, worker, 0, &f->arena, &unknown), QUEUE_E_NO_TASK);
    return 0;
}

static void test_life(void **state)
{
    run(state, body_life);
}

static int body_resolve(void *arg)
{
    Fixture *f = arg;
    TaskSummary s;
    TaskNew new = { .lane = LANE_LOW, .input = STR("1") };
    CHECK_INT(queue_submit_wait(f->queue, &new, &s), QUEUE_E_AGENT_NEEDED);
    new.agent = STR("nobody");
    CHECK_INT(queue_submit_wait(f->queue, &new, &s), QUEUE_E_NO_AGENT);
    CHECK_HAS(str_of(diag_text()), "\"nobody\"");
    new.version_id = STR(VERSION_A);
    CHECK_INT(queue_submit_wait(f->queue, &new, &s), QUEUE_E_NO_AGENT);
    new.agent = STR("support");
    CHECK_INT(queue_submit_wait(f->queue, &new, &s), 0);
    CHECK_STR(str_of(s.version_id), STR(VERSION_A));
    CHECK_STR(str_of(s.agent), STR("support"));
    new.version_id = STR(VERSION_B); /* of another agent */
    CHECK_INT(queue_submit_wait(f->queue, &new, &s), QUEUE_E_NO_VERSION);
    new.agent = STR("empty"), new.version_id = STR_NULL;
    CHECK_INT(queue_submit_wait(f->queue, &new, &s), QUEUE_E_NO_VERSION);
    CHECK_HAS(str_of(diag_text()), "no deployed version");
    check_counts(f, LANE_LOW, 1, 0); /* refusals leave nothing behind */
    return 0;
}

static int empty_agent_job(Db *db, void *arg)
{
    (void)arg;
    return agent_ensure(db, STR("empty"), 1);
}

static int body_only_agent(void *arg)
{
    Fixture *f = arg;
    TaskSummary s;
    TaskNew new = { .input = STR("1") };
    CHECK_INT(queue_submit_wait(f->queue, &new, &s), 0);
    CHECK_STR(str_of(s.agent), STR("support"));
    return 0;
}

static void test_resolve(void **state)
{
    Fixture *f = *state;
    run(state, body_only_agent);
    deploy(f, "billing", VERSION_B);
    assert_int_equal(store_call(f->store, empty_agent_job, NULL), 0);
    run(state, body_resolve);
}

static int body_idempotency(void *arg)
{
    Fixture *f = arg;
    TaskSummary a, b;
    TaskNew new = { .lane = LANE_NORMAL,
                    .input = STR("1"),
                    .idempotency_key = STR("k1"),
                    .fingerprint = STR("f1") };
    CHECK_INT(queue_submit_wait(f->queue, &new, &a), 0);
    CHECK(!a.existing);
    CHECK_INT(queue_submit_wait(f->queue, &new, &b), 0);
    CHECK(b.existing && uuid_eq(a.id, b.id));
    CHECK_STR(str_of(b.version_id), STR(VERSION_A));
    CHECK_INT(b.lane, LANE_NORMAL);
    new.fingerprint = STR("f2");
    CHECK_INT(queue_submit_wait(f->queue, &new, &b), QUEUE_E_KEY_REUSED);
    new.tenant_id = STR("other");
    CHECK_INT(queue_submit_wait(f->queue, &new, &b), 0);
    CHECK(!b.existing);
    check_counts(f, LANE_NORMAL, 2, 0);
    /* keys are forgotten in the end */
    pass_ms(INT64_C(49) * 3600 * 1000);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_INT(queue_submit_wait(f->queue, &new, &a), 0);
    CHECK(!a.existing);
    return 0;
}

static void test_idempotency(void **state)
{
    run(state, body_idempotency);
}

static int body_full(void *arg)
{
    Fixture *f = arg;
    TaskSummary s;
    TaskNew new = { .lane = LANE_LOW, .input = STR("1") };
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    Uuid first = submit(f, LANE_LOW);
    TaskNew keyed = new;
    keyed.idempotency_key = STR("k");
    keyed.fingerprint = STR("f1");
    CHECK_INT(queue_submit_wait(f->queue, &keyed, &s), 0);
    Uuid second = s.id;
    CHECK_INT(queue_submit_wait(f->queue, &new, &s), QUEUE_E_FULL);
    CHECK_HAS(str_of(diag_text()), "low lane is full");
    /* what was accepted is answered as ever: its client must not think that it was not */
    CHECK_INT(queue_submit_wait(f->queue, &keyed, &s), 0);
    CHECK(s.existing && uuid_eq(s.id, second));
    keyed.fingerprint = STR("f2");
    CHECK_INT(queue_submit_wait(f->queue, &keyed, &s), QUEUE_E_KEY_REUSED);
    keyed.idempotency_key = STR("another");
    CHECK_INT(queue_submit_wait(f->queue, &keyed, &s), QUEUE_E_FULL);
    CHECK_HAS(str_of(diag_text()), "low lane is full");
    submit(f, LANE_NORMAL); /* another lane is not affected */
    TaskState state;
    CHECK_INT(queue_cancel_wait(f->queue, first, STR("user"), &state), 0);
    submit(f, LANE_LOW);
    CHECK_INT(queue_retry_wait(f->queue, first, false), QUEUE_E_FULL);
    CHECK_INT(get(f, first).state, TASK_CANCELED);
    Task *tasks;
    CHECK_INT(claim(f, worker, (LaneConfig){ .reserved = { 0, 0, 1 } }, &tasks), 1);
    CHECK_INT(queue_retry_wait(f->queue, first, false), 0);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.lane[LANE_LOW].refused_full, 3); /* what was answered was not refused */
    check_counts(f, LANE_LOW, 2, 1);
    return 0;
}

static void test_full(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->options.queued_max[LANE_LOW] = 2;
    open_queue(f);
    run(state, body_full);
}

/* All parts from below_seq on, in lanes that have room; adds up what they did. */
static RetriedMany retry_all(Fixture *f, RetryMany ask)
{
    RetriedMany sum = { 0 }, part;
    do {
        CHECK_INT(queue_retry_many_wait(f->queue, &ask, &part), 0);
        sum.retried += part.retried;
        sum.skipped += part.skipped;
        ask.filter.lanes_not = sum.full_lanes |= part.full_lanes;
        sum.left_below_seq = MAX(sum.left_below_seq, part.left_below_seq);
        ask.below_seq = part.below_seq;
    } while (part.below_seq > 0);
    return sum;
}

#define MANY 160

/* In parts, whoever interrupts and repeats it: each once. */
static int body_retry_many(void *arg)
{
    Fixture *f = arg;
    Uuid ids[MANY], worker = add_worker(f, 1, WORKER_REMOTE);
    TaskState state;
    for (int i = 0; i < MANY; i++) {
        ids[i] = submit(f, LANE_LOW);
        CHECK_INT(queue_cancel_wait(f->queue, ids[i], STR("user"), &state), 0);
    }
    RetryMany ask = { .filter = { .state = -1 }, .below_seq = INT64_MAX, .max = 1000 };
    CHECK_INT(retry_all(f, ask).retried, 0); /* those were canceled */
    ask.filter.state = TASK_CANCELED;
    ask.dry_run = true;
    CHECK_INT(retry_all(f, ask).retried, MANY);
    check_counts(f, LANE_LOW, 0, 0);
    ask.dry_run = false;
    ask.max = 1;
    RetriedMany first;
    CHECK_INT(queue_retry_many_wait(f->queue, &ask, &first), 0);
    CHECK_INT(first.retried, 1);
    CHECK_INT(get(f, ids[MANY - 1]).state, TASK_QUEUED); /* the newest */
    ask.max = 1000;
    RetriedMany done = retry_all(f, ask); /* anew */
    CHECK(done.full_lanes == 1u << LANE_LOW && done.left_below_seq > 0);
    CHECK_INT(done.retried, 99);
    check_counts(f, LANE_LOW, 100, 0);
    CHECK_INT(retry_all(f, ask).retried, 0);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.lane[LANE_LOW].refused_full, 2);
    CHECK_INT(stats.lane[LANE_LOW].submitted, MANY);
    for (int i = 0; i < 60; i++)
        CHECK_INT(finish(f, claim_one(f, worker), TASK_OUTCOME_SUCCEEDED, NULL), 0);
    ask.below_seq = done.left_below_seq;
    done = retry_all(f, ask);
    CHECK(done.full_lanes == 0 && done.left_below_seq == 0);
    CHECK_INT(done.retried, 60);
    CHECK_INT(done.skipped, 0);
    check_counts(f, LANE_LOW, 100, 0);
    for (int i = 0; i < MANY; i++) CHECK_INT(get(f, ids[i]).attempt, i >= 60 && i < 120);
    return 0;
}

/* A lane that is full does not hold up the others. */
static int body_retry_many_lanes(void *arg)
{
    Fixture *f = arg;
    Uuid ids[6];
    TaskState state;
    for (int i = 0; i < 6; i++) {
        ids[i] = submit(f, i % 2 ? LANE_LOW : LANE_NORMAL);
        CHECK_INT(queue_cancel_wait(f->queue, ids[i], STR("user"), &state), 0);
    }
    submit(f, LANE_LOW);
    RetryMany ask = { .filter = { .state = TASK_CANCELED }, .below_seq = INT64_MAX, .max = 1000 };
    RetriedMany done;
    CHECK_INT(queue_retry_many_wait(f->queue, &ask, &done), 0);
    CHECK_INT(done.retried, 4);
    CHECK_INT(done.full_lanes, 1u << LANE_LOW);
    CHECK_INT(get(f, ids[5]).state, TASK_QUEUED);
    CHECK_INT(get(f, ids[0]).state, TASK_QUEUED);
    CHECK_INT(get(f, ids[3]).state, TASK_CANCELED);
    CHECK_INT(done.left_below_seq, get(f, ids[3]).seq + 1);
    return 0;
}

static void test_retry_many_lanes(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->options.queued_max[LANE_LOW] = 2;
    open_queue(f);
    run(state, body_retry_many_lanes);
}

static void test_retry_many(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->options.queued_max[LANE_LOW] = 100;
    open_queue(f);
    run(state, body_retry_many);
}

static int body_disk_full(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    char *big = arena_alloc(&f->arena, 50000);
    memset(big, '1', 50000);
    TaskNew new = { .lane = LANE_NORMAL, .input = str_make(big, 50000) };
    TaskSummary s;
    int64_t n = 0;
    int r;
    while ((r = queue_submit_wait(f->queue, &new, &s)) == 0) n++;
    CHECK_INT(r, -ENOSPC);
    CHECK(n > 0);
    check_counts(f, LANE_NORMAL, n, 0);
    Task *tasks; /* what is there can be worked on: it needs no new page */
    CHECK_INT(claim(f, worker, (LaneConfig){ .shared = 1 }, &tasks), 1);
    check_counts(f, LANE_NORMAL, n - 1, 1);
    return 0;
}

static void test_disk_full(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->pages_max = 300;
    open_queue(f);
    run(state, body_disk_full);
}

/* --- claiming --------------------------------------------------------------------------------- */

static int body_slots(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    LaneConfig slots = { .reserved = { 1, 1, 1 }, .shared = 2 };
    Task *tasks;
    for (int i = 0; i < 6; i++) submit(f, LANE_LOW);
    /* critical's and normal's own slots stay free for them */
    CHECK_INT(claim(f, worker, slots, &tasks), 3);
    for (int i = 0; i < 2; i++) submit(f, LANE_CRITICAL);
    Claim c = { .worker_id = worker, .slots = slots, .use = { .running = { 0, 0, 3 } } };
    size_t n;
    CHECK_INT(queue_claim_wait(f->queue, &c, clock_mono_ms(), &f->arena, &tasks, &n), 0);
    CHECK_INT(n, 1);
    CHECK_INT(tasks[0].lane, LANE_CRITICAL);
    /* shared slots go to the highest lane that waits */
    c.use = (LaneUse){ .running = { 1, 0, 2 } };
    CHECK_INT(queue_claim_wait(f->queue, &c, clock_mono_ms(), &f->arena, &tasks, &n), 0);
    CHECK_INT(n, 1);
    CHECK_INT(tasks[0].lane, LANE_CRITICAL);
    c.use = (LaneUse){ .running = { 1, 1, 3 } };
    CHECK_INT(queue_claim_wait(f->queue, &c, clock_mono_ms(), &f->arena, &tasks, &n), -EINVAL);
    return 0;
}

static void test_slots(void **state)
{
    run(state, body_slots);
}

static int body_order(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED), ids[4];
    Task *tasks;
    int64_t fence = 0;
    for (int i = 0; i < 4; i++) {
        ids[i] = submit(f, LANE_NORMAL);
        pass_ms(1);
    }
    CHECK_INT(claim(f, worker, roomy, &tasks), 4);
    for (int i = 0; i < 4; i++) {
        CHECK(uuid_eq(tasks[i].id, ids[i]));
        CHECK(tasks[i].fence > fence); /* each greater than any before */
        fence = tasks[i].fence;
    }
    return 0;
}

static void test_order(void **state)
{
    run(state, body_order);
}

static int body_run_at(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    Task *tasks;
    TaskSummary s;
    TaskNew new = { .lane = LANE_NORMAL, .input = STR("1"), .run_at_ms = real_now + 1000 };
    CHECK_INT(queue_submit_wait(f->queue, &new, &s), 0);
    CHECK_INT(claim(f, worker, roomy, &tasks), 0);
    QueueStats stats;
    CHECK_INT(queue_stats_wait(f->queue, &stats), 0);
    CHECK_INT(stats.lane[LANE_NORMAL].oldest_ready_at_ms, real_now + 1000);
    CHECK_INT(stats.lane[LANE_LOW].oldest_ready_at_ms, INT64_MAX);
    pass_ms(999);
    CHECK_INT(claim(f, worker, roomy, &tasks), 0);
    pass_ms(1);
    CHECK_INT(claim(f, worker, roomy, &tasks), 1);
    return 0;
}

static void test_run_at(void **state)
{
    run(state, body_run_at);
}

typedef struct {
    Fixture *f;
    Uuid worker;
    LaneConfig slots;
    int64_t deadline_ms;
    int result;
    size_t n;
    Task *tasks;
} Poll;

static int poll_main(void *arg)
{
    Poll *p = arg;
    Claim c = { .worker_id = p->worker, .slots = p->slots };
    return p->result = queue_claim_wait(p->f->queue, &c, p->deadline_ms, &p->f->arena, &p->tasks,
                                        &p->n);
}

static int body_long_poll(void *arg)
{
    Fixture *f = arg;
    Poll low = { f, add_worker(f, 1, WORKER_REMOTE), { .reserved = { 0, 0, 1 } }, DEADLINE_NONE },
         any = { f, add_worker(f, 2, WORKER_REMOTE), { .shared = 1 }, DEADLINE_NONE };
    FiberRef a, b;
    CHECK_INT(fiber_spawn("low", poll_main, &low, &a), 0);
    await_claimers(f, 1);
    CHECK_INT(fiber_spawn("any", poll_main, &any, &b), 0);
    await_claimers(f, 2);
    submit(f, LANE_CRITICAL); /* passes by the one who has no slot for it */
    CHECK_INT(fiber_join_wait(b, NULL), 0);
    CHECK_INT(any.result, 0);
    CHECK_INT(any.n, 1);
    CHECK_INT(low.n, 0);
    submit(f, LANE_LOW);
    CHECK_INT(fiber_join_wait(a, NULL), 0);
    CHECK_INT(low.result, 0);
    CHECK_INT(low.tasks[0].lane, LANE_LOW);
    return 0;
}

static void test_long_poll(void **state)
{
    run(state, body_long_poll);
}

static int body_poll_ends(void *arg)
{
    Fixture *f = arg;
    Poll p = { f, add_worker(f, 1, WORKER_REMOTE), roomy, clock_mono_ms() + 5 };
    FiberRef a;
    CHECK_INT(fiber_spawn("poll", poll_main, &p, &a), 0);
    CHECK_INT(fiber_join_wait(a, NULL), 0);
    CHECK_INT(p.result, -ETIMEDOUT);
    p.deadline_ms = DEADLINE_NONE;
    CHECK_INT(fiber_spawn("poll", poll_main, &p, &a), 0);
    await_claimers(f, 1);
    fiber_cancel(a);
    CHECK_INT(fiber_join_wait(a, NULL), 0);
    CHECK_INT(p.result, -ECANCELED);
    CHECK_INT(fiber_spawn("poll", poll_main, &p, &a), 0);
    await_claimers(f, 1);
    CHECK_INT(queue_drain_wait(f->queue, p.worker), 0); /* a draining worker claims no more */
    CHECK_INT(fiber_join_wait(a, NULL), 0);
    CHECK_INT(p.result, QUEUE_E_NO_WORKER);
    p.worker = worker_of(99);
    CHECK_INT(poll_main(&p), QUEUE_E_NO_WORKER);
    check_counts(f, LANE_NORMAL, 0, 0);
    return 0;
}

static void test_poll_ends(void **state)
{
    run(state, body_poll_ends);
}

static int body_wake_is_passed_on(void *arg)
{
    Fixture *f = arg;
    Poll first = { f, add_worker(f, 1, WORKER_REMOTE), { .shared = 1 }, DEADLINE_NONE },
         second = { f, add_worker(f, 2, WORKER_REMOTE), { .shared = 1 }, DEADLINE_NONE };
    FiberRef a, b;
    submit(f, LANE_NORMAL);
    TaskRef held = claim_one(f, add_worker(f, 3, WORKER_REMOTE));
    CHECK_INT(fiber_spawn("first", poll_main, &first, &a), 0);
    await_claimers(f, 1);
    CHECK_INT(fiber_spawn("second", poll_main, &second, &b), 0);
    await_claimers(f, 2);
    CHECK_INT(finish(f, held, TASK_OUTCOME_RELEASED, NULL), 0); /* its wake is on the way to */
    fiber_cancel(a); /* the first, which will not look for the task any more */
    CHECK_INT(fiber_join_wait(a, NULL), 0);
    CHECK_INT(first.result, -ECANCELED);
    CHECK_INT(fiber_join_wait(b, NULL), 0);
    CHECK_INT(second.n, 1);
    return 0;
}

static void test_wake_is_passed_on(void **state)
{
    run(state, body_wake_is_passed_on);
}

static uint64_t commits(Fixture *f)
{
    StoreStats stats;
    store_stats(f->store, &stats);
    return stats.commits;
}

typedef struct {
    Fixture *f;
    Lane lane;
    const char *agent;
    int result;
} Submitter;

static int submitter_main(void *arg)
{
    Submitter *s = arg;
    TaskSummary summary;
    TaskNew new = { .agent = str_of(s->agent), .lane = s->lane, .input = STR("1") };
    return s->result = queue_submit_wait(s->f->queue, &new, &summary);
}

/* Who waits gets the task by the commit that accepts it. */
static int body_claimed_at_submission(void *arg)
{
    Fixture *f = arg;
    Poll p = { f, add_worker(f, 1, WORKER_REMOTE), { .shared = 1 }, DEADLINE_NONE };
    FiberRef a;
    CHECK_INT(fiber_spawn("poll", poll_main, &p, &a), 0);
    await_claimers(f, 1);
    uint64_t before = commits(f);
    Uuid id = submit(f, LANE_NORMAL);
    CHECK_INT(fiber_join_wait(a, NULL), 0);
    CHECK_INT(commits(f) - before, 1);
    if (!CHECK_INT(p.n, 1)) return 0;
    CHECK(uuid_eq(p.tasks[0].id, id));
    CHECK_STR(p.tasks[0].input, STR("{\"q\":1}"));
    CHECK_INT(get(f, id).state, TASK_RUNNING);
    check_counts(f, LANE_NORMAL, 0, 1);
    CHECK_INT(finish(f, (TaskRef){ id, p.tasks[0].fence }, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    check_counts(f, LANE_NORMAL, 0, 0);
    return 0;
}

static void test_claimed_at_submission(void **state)
{
    run(state, body_claimed_at_submission);
}

/* The longest waiting of its turn goes first all the same, and what one claimer has no room for is
 * left to the next. */
static int body_claimed_by_turns(void *arg)
{
    enum { N = 12 };
    Fixture *f = arg;
    Poll polls[3];
    Submitter submitters[N];
    FiberRef pollers[3], fibers[N];
    size_t claimed = 0;
    for (int i = 0; i < 3; i++) {
        polls[i] = (Poll){ f, add_worker(f, i + 1, WORKER_REMOTE), { .shared = 3 }, DEADLINE_NONE };
        CHECK_INT(fiber_spawn("poll", poll_main, &polls[i], &pollers[i]), 0);
        await_claimers(f, (uint64_t)i + 1);
    }
    for (int i = 0; i < N; i++) {
        submitters[i] = (Submitter){ f, i % 2 ? LANE_LOW : LANE_NORMAL, "support", 0 };
        CHECK_INT(fiber_spawn("submit", submitter_main, &submitters[i], &fibers[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        CHECK_INT(fiber_join_wait(fibers[i], NULL), 0);
        CHECK_INT(submitters[i].result, 0);
    }
    for (int i = 0; i < 3; i++) {
        CHECK_INT(fiber_join_wait(pollers[i], NULL), 0);
        CHECK(polls[i].n > 0);
        claimed += polls[i].n;
    }
    QueueStats stats;
    queue_stats(f->queue, &stats);
    int64_t running = stats.lane[LANE_NORMAL].running + stats.lane[LANE_LOW].running;
    int64_t queued = stats.lane[LANE_NORMAL].queued + stats.lane[LANE_LOW].queued;
    CHECK_INT(running, (int64_t)claimed);
    CHECK_INT(queued, N - (int64_t)claimed);
    Task *tasks;
    CHECK_INT(claim(f, add_worker(f, 9, WORKER_REMOTE), roomy, &tasks), N - claimed);
    return 0;
}

static void test_claimed_by_turns(void **state)
{
    run(state, body_claimed_by_turns);
}

/* A submission that is refused, or a claimer that may not claim, spoils no other's. */
static int body_claimed_in_trouble(void *arg)
{
    enum { N = 9 };
    Fixture *f = arg;
    Uuid gone = add_worker(f, 1, WORKER_REMOTE);
    Poll bad = { f, gone, { .shared = 1 }, DEADLINE_NONE },
         good = { f, add_worker(f, 2, WORKER_REMOTE), { .shared = N }, DEADLINE_NONE };
    Submitter submitters[N];
    FiberRef a, b, fibers[N];
    CHECK_INT(fiber_spawn("bad", poll_main, &bad, &a), 0);
    await_claimers(f, 1);
    CHECK_INT(fiber_spawn("good", poll_main, &good, &b), 0);
    await_claimers(f, 2);
    CHECK_INT(queue_leave_wait(f->queue, gone), 0); /* wakes nobody: it is found out by a look */
    for (int i = 0; i < N; i++) {
        submitters[i] = (Submitter){ f, LANE_NORMAL, i == 4 ? "nobody" : "support", 0 };
        CHECK_INT(fiber_spawn("submit", submitter_main, &submitters[i], &fibers[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        CHECK_INT(fiber_join_wait(fibers[i], NULL), 0);
        CHECK_INT(submitters[i].result, i == 4 ? QUEUE_E_NO_AGENT : 0);
    }
    CHECK_INT(fiber_join_wait(a, NULL), 0);
    CHECK_INT(bad.result, QUEUE_E_NO_WORKER);
    CHECK_INT(bad.n, 0);
    CHECK_INT(fiber_join_wait(b, NULL), 0);
    CHECK(good.n > 0);
    check_counts(f, LANE_NORMAL, N - 1 - (int64_t)good.n, (int64_t)good.n);
    return 0;
}

static void test_claimed_in_trouble(void **state)
{
    run(state, body_claimed_in_trouble);
}

typedef struct {
    Fixture *f;
    TaskNew new;
    char input[16], key[16];
    TaskSummary summary;
    int result;
} Mixed;

static int mixed_main(void *arg)
{
    Mixed *m = arg;
    return m->result = queue_submit_wait(m->f->queue, &m->new, &m->summary);
}

/* Those with a session or a key between others, some keys twice: each is what it would be alone. */
static int body_submitted_together(void *arg)
{
    enum { N = 200 };
    Fixture *f = arg;
    static Mixed mixed[N];
    FiberRef fibers[N];
    int existing = 0;
    for (int i = 0; i < N; i++) {
        Mixed *m = &mixed[i];
        *m = (Mixed){ .f = f, .result = -1 };
        snprintf(m->input, sizeof m->input, "%d", i);
        snprintf(m->key, sizeof m->key, "key %d", i / 20);
        m->new = (TaskNew){ .agent = STR("support"), .lane = LANE_NORMAL, .fingerprint = STR("f") };
        m->new.input = str_of(m->input);
        if (i % 5 == 1) m->new.session_id = STR("s");
        if (i % 10 == 3) m->new.idempotency_key = str_of(m->key);
        CHECK_INT(fiber_spawn("submit", mixed_main, m, &fibers[i]), 0);
    }
    for (int i = 0; i < N; i++) CHECK_INT(fiber_join_wait(fibers[i], NULL), 0);
    for (int i = 0; i < N; i++) {
        Mixed *m = &mixed[i], *first = &mixed[i - (m->summary.existing ? 10 : 0)];
        CHECK_INT(m->result, 0);
        CHECK(uuid_eq(m->summary.id, first->summary.id));
        Task task = get(f, m->summary.id);
        CHECK(str_eq(task.input, str_of(first->input)));
        CHECK_INT(task.session_id.len, i % 5 == 1);
        existing += m->summary.existing;
    }
    CHECK_INT(existing, N / 20);
    check_counts(f, LANE_NORMAL, N - N / 20, 0);
    return 0;
}

static void test_submitted_together(void **state)
{
    run(state, body_submitted_together);
}

static int body_poll_later(void *arg)
{
    Fixture *f = arg;
    TaskSummary s;
    TaskNew new = { .lane = LANE_NORMAL, .input = STR("1"), .run_at_ms = real_now + 20 };
    Poll p = { f, add_worker(f, 1, WORKER_REMOTE), roomy, DEADLINE_NONE };
    FiberRef a;
    CHECK_INT(fiber_spawn("poll", poll_main, &p, &a), 0);
    await_claimers(f, 1);
    CHECK_INT(queue_submit_wait(f->queue, &new, &s), 0);
    (void)fiber_sleep_wait(5);
    CHECK_INT(p.n, 0);
    pass_ms(20); /* it wakes by itself when the time it saw has come */
    CHECK_INT(fiber_join_wait(a, NULL), 0);
    CHECK_INT(p.n, 1);

    new.run_at_ms = real_now + 1000000; /* a clock that is set: the tick finds out */
    CHECK_INT(queue_submit_wait(f->queue, &new, &s), 0);
    p.n = 0;
    CHECK_INT(fiber_spawn("poll", poll_main, &p, &a), 0);
    await_claimers(f, 1);
    real_now += 1000000;
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_INT(fiber_join_wait(a, NULL), 0);
    CHECK_INT(p.n, 1);
    return 0;
}

static void test_poll_later(void **state)
{
    run(state, body_poll_later);
}

static int body_small_arena(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    char *big = arena_alloc(&f->arena, 100002);
    memset(big, 'x', 100002);
    big[0] = big[100001] = '"';
    TaskNew new = { .lane = LANE_NORMAL, .input = str_make(big, 100002) };
    TaskSummary s;
    Arena arena;
    Task *tasks;
    size_t n = 0;
    for (int i = 0; i < 3; i++) CHECK_INT(queue_submit_wait(f->queue, &new, &s), 0);
    Claim c = { .worker_id = worker, .slots = roomy };
    arena_init(&arena, 250000);
    CHECK_INT(queue_claim_wait(f->queue, &c, clock_mono_ms(), &arena, &tasks, &n), 0);
    CHECK_INT(n, 2); /* the third stays queued */
    check_counts(f, LANE_NORMAL, 1, 2);
    arena_deinit(&arena);
    arena_init(&arena, 50000);
    CHECK_INT(queue_claim_wait(f->queue, &c, clock_mono_ms(), &arena, &tasks, &n), -ENOMEM);
    check_counts(f, LANE_NORMAL, 1, 2);
    arena_deinit(&arena);
    return 0;
}

static void test_small_arena(void **state)
{
    run(state, body_small_arena);
}

/* --- many at once ----------------------------------------------------------------------------- */

#define CROWD_LOOPS 4
#define CROWD_TASKS 120 /* a loop */

typedef struct {
    Fixture *f;
    int n;
    _Atomic int *left;
    FiberRef worker;
} Crowd;

static int crowd_worker(void *arg)
{
    Crowd *c = arg;
    Uuid id = add_worker(c->f, 10 + c->n, WORKER_REMOTE);
    Claim claim = { .worker_id = id, .slots = { .shared = 7 } };
    for (;;) {
        CLEANUP(arena_deinit) Arena arena;
        Task *tasks;
        size_t n;
        arena_init(&arena, 1 << 20);
        int r = queue_claim_wait(c->f->queue, &claim, DEADLINE_NONE, &arena, &tasks, &n);
        if (r == -ECANCELED) return 0;
        if (!CHECK_INT(r, 0)) return 1;
        for (size_t i = 0; i < n; i++) {
            bool again = tasks[i].attempt == 1 && tasks[i].fence % 3 == 0;
            TaskState state;
            TaskRef ref = { tasks[i].id, tasks[i].fence };
            CHECK_INT(
                finish(c->f, ref, again ? TASK_OUTCOME_RELEASED : TASK_OUTCOME_SUCCEEDED, &state),
                0);
            CHECK_INT(finish(c->f, ref, TASK_OUTCOME_SUCCEEDED, &state), QUEUE_E_STALE);
            if (!again) atomic_fetch_sub(c->left, 1);
        }
    }
}

static int crowd_submit(void *arg)
{
    Crowd *c = arg;
    for (int i = 0; i < CROWD_TASKS / 4; i++) submit(c->f, (Lane)(i % LANE_N_));
    return 0;
}

static int crowd_main(void *arg)
{
    Crowd *c = arg;
    FiberRef submitters[4];
    CHECK_INT(fiber_spawn("worker", crowd_worker, c, &c->worker), 0);
    for (int i = 0; i < 4; i++)
        CHECK_INT(fiber_spawn("submit", crowd_submit, c, &submitters[i]), 0);
    while (atomic_load(c->left) > 0) (void)fiber_sleep_wait(2);
    loop_stop(loop_here()); /* cancels the worker, which waits for a task */
    return 0;
}

static void test_crowd(void **state)
{
    Fixture *f = *state;
    Loop *loops[CROWD_LOOPS];
    Crowd crowd[CROWD_LOOPS];
    _Atomic int left = CROWD_LOOPS * CROWD_TASKS;
    for (int i = 0; i < CROWD_LOOPS; i++) {
        crowd[i] = (Crowd){ .f = f, .n = i, .left = &left };
        loops[i] = loop_new("crowd");
        fiber_spawn_on(loops[i], "crowd", crowd_main, &crowd[i]);
        loop_start_thread(loops[i]);
    }
    for (int i = 0; i < CROWD_LOOPS; i++) {
        loop_join(loops[i]);
        loop_free(loops[i]);
    }
    check_none();
    QueueStats stats;
    queue_stats(f->queue, &stats);
    uint64_t done = 0;
    for (int lane = 0; lane < LANE_N_; lane++) {
        assert_int_equal(stats.lane[lane].queued, 0);
        assert_int_equal(stats.lane[lane].running, 0);
        done += stats.lane[lane].ended[TASK_SUCCEEDED];
    }
    assert_int_equal(done, CROWD_LOOPS * CROWD_TASKS);
    assert_int_equal(stats.claimers, 0);
    StoreStats store;
    store_stats(f->store, &store);
    assert_true(store.commits < store.jobs); /* they were grouped */
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_life),
        TEST(test_resolve),
        TEST(test_idempotency),
        TEST(test_full),
        TEST(test_retry_many),
        TEST(test_retry_many_lanes),
        TEST(test_disk_full),
        TEST(test_slots),
        TEST(test_order),
        TEST(test_run_at),
        TEST(test_long_poll),
        TEST(test_poll_ends),
        TEST(test_wake_is_passed_on),
        TEST(test_claimed_at_submission),
        TEST(test_claimed_by_turns),
        TEST(test_claimed_in_trouble),
        TEST(test_submitted_together),
        TEST(test_poll_later),
        TEST(test_small_arena),
        TEST(test_crowd),
    };
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    return cmocka_run_group_tests_name("queue", tests, NULL, NULL);
}
