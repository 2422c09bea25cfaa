#include "tests/unit/queue_fixture.h"

/* --- ends ------------------------------------------------------------------------------------- */

static int body_retries(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED), id = submit(f, LANE_NORMAL);
    TaskState state;
    TaskFinish end = { .outcome = TASK_OUTCOME_FAILED_RETRYABLE,
                       .error_code = STR("exit_75"),
                       .error_detail = STR("busy") };
    for (int attempt = 1; attempt <= 3; attempt++) {
        end.task = claim_one(f, worker);
        end.retry_after_ms = 7000;
        pass_ms(300);
        CHECK_INT(queue_finish_wait(f->queue, &end, &state), 0);
        Task t = get(f, id);
        CHECK_INT(t.attempt, attempt);
        CHECK_INT(t.failures, attempt);
        CHECK_INT(t.ran_ms, attempt * 300); /* without what was between them */
        if (attempt == 3) break;
        CHECK_INT(state, TASK_QUEUED);
        CHECK_INT(t.ready_at_ms - real_now, 7000); /* asked for; more than the back-off would be */
        CHECK_INT(t.error_code.len, 0);
        Task *tasks;
        CHECK_INT(claim(f, worker, roomy, &tasks), 0);
        pass_ms(7000);
    }
    CHECK_INT(state, TASK_FAILED);
    Task t = get(f, id);
    CHECK_STR(t.error_code, STR("exit_75"));
    CHECK_STR(t.error_detail, STR("busy"));
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.lane[LANE_NORMAL].retried, 2);
    CHECK_INT(stats.lane[LANE_NORMAL].ended[TASK_FAILED], 1);

    /* by hand: it begins anew, its history stays */
    CHECK_INT(queue_retry_wait(f->queue, id, false), 0);
    CHECK_INT(queue_retry_wait(f->queue, id, false), QUEUE_E_STATE);
    t = get(f, id);
    CHECK_INT(t.state, TASK_QUEUED);
    CHECK_INT(t.failures, 0);
    CHECK_INT(t.ran_ms, 0);
    CHECK_INT(finish(f, claim_one(f, worker), TASK_OUTCOME_SUCCEEDED, &state), 0);
    CHECK_INT(get(f, id).attempt, 4);
    CHECK_INT(queue_retry_wait(f->queue, id, false), QUEUE_E_STATE);
    CHECK_INT(queue_retry_wait(f->queue, worker, false), QUEUE_E_NO_TASK);
    return 0;
}

static void test_retries(void **state)
{
    run(state, body_retries);
}

static int settings_job(Db *db, void *arg)
{
    (void)arg;
    return agent_set_settings(db, STR("support"),
                              STR("{\"retry\":{\"maxAttempts\":2,\"initialMs\":100,"
                                  "\"factorMilli\":1000,\"maxMs\":100}}"));
}

static int body_policy(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED), id = submit(f, LANE_NORMAL);
    TaskState state;
    CHECK_INT(finish(f, claim_one(f, worker), TASK_OUTCOME_FAILED_RETRYABLE, &state), 0);
    CHECK_INT(state, TASK_QUEUED);
    int64_t wait_ms = get(f, id).ready_at_ms - real_now;
    CHECK(wait_ms >= 0 && wait_ms <= 100);
    pass_ms(100);
    CHECK_INT(finish(f, claim_one(f, worker), TASK_OUTCOME_FAILED_RETRYABLE, &state), 0);
    CHECK_INT(state, TASK_FAILED);
    CHECK_STR(get(f, id).error_code, STR("attempts_exhausted"));
    return 0;
}

static void test_policy(void **state)
{
    Fixture *f = *state;
    assert_int_equal(store_call(f->store, settings_job, NULL), 0);
    run(state, body_policy);
}

static int broken_settings_job(Db *db, void *arg)
{
    (void)arg;
    return agent_set_settings(db, STR("support"), STR("{\"retry\":"));
}

static int body_broken_settings(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    submit(f, LANE_NORMAL);
    TaskState state;
    CHECK_INT(finish(f, claim_one(f, worker), TASK_OUTCOME_FAILED_RETRYABLE, &state), 0);
    CHECK_INT(state, TASK_QUEUED);
    return 0;
}

static void test_broken_settings(void **state)
{
    Fixture *f = *state;
    assert_int_equal(store_call(f->store, broken_settings_job, NULL), 0);
    run(state, body_broken_settings);
}

static int body_outcomes(void *arg)
{
    Fixture *f = arg;
    static const struct {
        TaskOutcome outcome;
        TaskState state;
        const char *code;
    } cases[] = {
        { TASK_OUTCOME_FAILED_FINAL, TASK_FAILED, "agent_failed" },
        { TASK_OUTCOME_TIMED_OUT, TASK_TIMED_OUT, "time_limit" },
        { TASK_OUTCOME_CAPPED, TASK_FAILED, "cap_exceeded" },
        { TASK_OUTCOME_CANCELED, TASK_CANCELED, "canceled" },
        { TASK_OUTCOME_ESCALATED, TASK_ESCALATED, "" },
    };
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        Uuid id = submit(f, LANE_NORMAL);
        TaskState state;
        CHECK_INT(finish(f, claim_one(f, worker), cases[i].outcome, &state), 0);
        CHECK_INT(state, cases[i].state);
        Task t = get(f, id);
        CHECK_STR(t.error_code, str_of(cases[i].code));
        CHECK_INT(t.finished_at_ms, state == TASK_ESCALATED ? 0 : real_now);
        CHECK_INT(queue_retry_wait(f->queue, id, false), 0);
        CHECK_INT(finish(f, claim_one(f, worker), TASK_OUTCOME_SUCCEEDED, &state), 0);
    }
    /* given back: nothing is counted against it */
    Uuid id = submit(f, LANE_NORMAL);
    TaskState state;
    CHECK_INT(finish(f, claim_one(f, worker), TASK_OUTCOME_RELEASED, &state), 0);
    CHECK_INT(state, TASK_QUEUED);
    Task t = get(f, id);
    CHECK_INT(t.failures + t.losses, 0);
    CHECK_INT(t.ready_at_ms, real_now);
    check_counts(f, LANE_NORMAL, 1, 0);
    return 0;
}

static void test_outcomes(void **state)
{
    run(state, body_outcomes);
}

static int body_cancel(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED), id = submit(f, LANE_NORMAL);
    TaskState state;
    CHECK_INT(queue_cancel_wait(f->queue, id, STR("user"), &state), 0);
    CHECK_INT(state, TASK_CANCELED);
    Task t = get(f, id);
    CHECK_STR(t.stopped_by, STR("user"));
    CHECK_STR(t.error_code, STR("canceled"));
    check_counts(f, LANE_NORMAL, 0, 0);
    CHECK_INT(queue_cancel_wait(f->queue, id, STR("user"), &state), QUEUE_E_STATE);
    CHECK_INT(queue_cancel_wait(f->queue, worker, STR("user"), &state), QUEUE_E_NO_TASK);

    id = submit(f, LANE_NORMAL);
    TaskRef ref = claim_one(f, worker);
    HeartbeatReply reply = heartbeat(f, worker, &ref, 1);
    CHECK_INT(reply.stops_n, 0);
    CHECK_INT(queue_cancel_wait(f->queue, id, STR("user"), &state), 0);
    CHECK_INT(state, TASK_RUNNING);
    CHECK_INT(queue_signal_wait(f->queue, worker, reply.mark, clock_mono_ms() + 5000), 0);
    reply = heartbeat(f, worker, &ref, 1);
    CHECK_INT(reply.stops_n, 1);
    CHECK_INT(reply.stops[0].reason, HOLD_CANCEL);
    /* what the worker says of it now does not bring it back */
    CHECK_INT(finish(f, ref, TASK_OUTCOME_FAILED_RETRYABLE, &state), 0);
    CHECK_INT(state, TASK_CANCELED);
    t = get(f, id);
    CHECK_STR(t.stopped_by, STR("user"));
    CHECK_STR(t.error_code, STR("canceled"));
    return 0;
}

static void test_cancel(void **state)
{
    run(state, body_cancel);
}

/* --- leases and deadlines --------------------------------------------------------------------- */

static int body_lease(void *arg)
{
    Fixture *f = arg;
    Uuid one = add_worker(f, 1, WORKER_REMOTE), two = add_worker(f, 2, WORKER_REMOTE);
    Uuid id = submit(f, LANE_NORMAL);
    TaskRef ref = claim_one(f, one);
    pass_ms(9000);
    heartbeat(f, one, &ref, 1);
    heartbeat(f, two, NULL, 0);
    pass_ms(9000);
    real_now += 86400000; /* a clock that is set ends no lease */
    heartbeat(f, two, NULL, 0);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_INT(get(f, id).state, TASK_RUNNING);
    pass_ms(1001);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    Task t = get(f, id);
    CHECK_INT(t.state, TASK_QUEUED);
    CHECK_INT(t.losses, 1);
    CHECK_INT(t.failures, 0);
    CHECK_INT(t.ready_at_ms, real_now); /* at once, the first time */
    check_counts(f, LANE_NORMAL, 1, 0);

    TaskRef again = claim_one(f, two);
    CHECK(again.fence > ref.fence);
    TaskState state;
    CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, &state), QUEUE_E_STALE);
    Call call = { .provider = STR("p"), .model = STR("m"), .outcome = STR("ok") };
    CHECK_INT(queue_calls_add_wait(f->queue, ref, &call, 1), QUEUE_E_STALE);
    HeartbeatReply reply;
    CHECK_INT(queue_heartbeat_wait(f->queue, one, &(Heartbeat){ .held = &ref, .held_n = 1 },
                                   &f->arena, &reply),
              QUEUE_E_NO_WORKER);
    reply = heartbeat(f, two, &ref, 1);
    CHECK_INT(reply.stops_n, 1);
    CHECK_INT(reply.stops[0].reason, HOLD_STALE);
    CHECK_INT(finish(f, again, TASK_OUTCOME_SUCCEEDED, &state), 0);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.lane[LANE_NORMAL].lost, 1);
    return 0;
}

static void test_lease(void **state)
{
    run(state, body_lease);
}

static int body_losses(void *arg)
{
    Fixture *f = arg;
    Uuid id = submit(f, LANE_NORMAL);
    for (int i = 1; i <= TASK_LOSSES_MAX; i++) {
        Uuid worker = add_worker(f, i, WORKER_REMOTE);
        claim_one(f, worker);
        pass_ms(10001);
        CHECK_INT(queue_tick_wait(f->queue), 0);
        CHECK_INT(get(f, id).losses, i);
        CHECK_INT(get(f, id).ran_ms, 0); /* not heard of since */
        pass_ms(300000);
    }
    Task t = get(f, id);
    CHECK_INT(t.state, TASK_FAILED);
    CHECK_STR(t.error_code, STR("worker_lost"));
    return 0;
}

static void test_losses(void **state)
{
    run(state, body_losses);
}

static int body_deadline(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    TaskSummary s;
    Task *tasks;
    TaskState state;
    TaskNew new = { .lane = LANE_NORMAL, .input = STR("1"), .time_limit_ms = 60000 };
    CHECK_INT(queue_submit_wait(f->queue, &new, &s), 0);
    pass_ms(100000); /* waiting before the first start does not count */
    CHECK_INT(claim(f, worker, roomy, &tasks), 1);
    CHECK_INT(tasks[0].deadline_at_ms, real_now + 60000);
    TaskRef ref = { tasks[0].id, tasks[0].fence };
    CHECK_INT(finish(f, ref, TASK_OUTCOME_RELEASED, &state), 0);
    pass_ms(60000);
    uint64_t mark = queue_watch_mark(f->queue, s.id);
    CHECK_INT(claim(f, worker, roomy, &tasks), 0); /* too late to start again */
    CHECK_INT(queue_watch_wait(f->queue, s.id, mark, clock_mono_ms()), 0);
    Task t = get(f, s.id);
    CHECK_INT(t.state, TASK_TIMED_OUT);
    CHECK_STR(t.error_code, STR("deadline_passed"));
    check_counts(f, LANE_NORMAL, 0, 0);

    CHECK_INT(queue_submit_wait(f->queue, &new, &s), 0);
    CHECK_INT(claim(f, worker, roomy, &tasks), 1);
    for (int i = 0; i < 24; i++) { /* a worker that lives, and a task that does not end */
        pass_ms(5000);
        heartbeat(f, worker, &(TaskRef){ s.id, tasks[0].fence }, 1);
        CHECK_INT(queue_tick_wait(f->queue), 0);
    }
    CHECK_INT(get(f, s.id).state, TASK_RUNNING);
    pass_ms(1);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_INT(get(f, s.id).state, TASK_TIMED_OUT);
    check_counts(f, LANE_NORMAL, 0, 0);
    return 0;
}

static void test_deadline(void **state)
{
    run(state, body_deadline);
}

/* A task that runs, one that waits to run again, and a clock that is set by ms. */
static void check_set(Fixture *f, int64_t ms)
{
    Uuid worker = worker_of(1);
    TaskNew new = { .lane = LANE_NORMAL, .input = STR("1"), .time_limit_ms = 600000 };
    TaskSummary runs, waits, failed;
    Task *tasks;
    TaskState state;
    CHECK_INT(queue_submit_wait(f->queue, &new, &failed), 0);
    CHECK_INT(claim(f, worker, roomy, &tasks), 1);
    TaskFinish failure = { .task = { failed.id, tasks[0].fence },
                           .outcome = TASK_OUTCOME_FAILED_RETRYABLE,
                           .retry_after_ms = 4000 };
    CHECK_INT(queue_finish_wait(f->queue, &failure, &state), 0);
    CHECK_INT(get(f, failed.id).ready_at_ms, real_now + 4000);
    CHECK_INT(queue_submit_wait(f->queue, &new, &runs), 0);
    CHECK_INT(claim(f, worker, roomy, &tasks), 1);
    TaskRef ref = { runs.id, tasks[0].fence };
    CHECK_INT(queue_submit_wait(f->queue, &new, &waits), 0);
    CHECK_INT(claim(f, worker, roomy, &tasks), 1);
    pass_ms(1000);
    CHECK_INT(finish(f, (TaskRef){ waits.id, tasks[0].fence }, TASK_OUTCOME_RELEASED, &state), 0);
    real_now += ms;
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_INT(get(f, runs.id).state, TASK_RUNNING);
    CHECK_INT(get(f, runs.id).deadline_at_ms, real_now + 599000);
    CHECK_INT(get(f, waits.id).state, TASK_QUEUED);
    CHECK_INT(get(f, waits.id).deadline_at_ms, real_now + 599000);
    CHECK_INT(get(f, failed.id).ready_at_ms, real_now + 3000); /* in so long, as before */
    real_now += ms; /* nobody has ticked: who reports sees it too */
    CHECK_INT(finish(f, ref, TASK_OUTCOME_RELEASED, &state), 0);
    CHECK_INT(state, TASK_QUEUED);
    pass_ms(1000);
    if (ms < 0) real_now -= 2 * ms; /* for they are ready by the calendar */
    CHECK_INT(claim(f, worker, roomy, &tasks), 2);
    CHECK_INT(tasks[0].deadline_at_ms, real_now + 598000);
    CHECK_INT(tasks[1].deadline_at_ms, real_now + 598000);
    for (int i = 0; i < 2; i++)
        CHECK_INT(
            finish(f, (TaskRef){ tasks[i].id, tasks[i].fence }, TASK_OUTCOME_SUCCEEDED, &state), 0);
    pass_ms(2000);
    heartbeat(f, worker, NULL, 0);
    CHECK_INT(claim(f, worker, roomy, &tasks), 1);
    CHECK_INT(finish(f, (TaskRef){ tasks[0].id, tasks[0].fence }, TASK_OUTCOME_SUCCEEDED, &state),
              0);
}

static int body_set(void *arg)
{
    Fixture *f = arg;
    int64_t hour_ms = 3600000;
    add_worker(f, 1, WORKER_EMBEDDED);
    check_set(f, hour_ms);
    check_set(f, -hour_ms);
    check_set(f, 24 * hour_ms);
    check_set(f, -24 * hour_ms);
    return 0;
}

static void test_set(void **state)
{
    run(state, body_set);
}

static int webhooks_job(Db *db, void *arg)
{
    DbStmt *s = db_stmt(db, "SELECT count(*) FROM webhook");
    int r = db_step(s);
    CHECK_INT(r, DB_E_ROW);
    *(int64_t *)arg = db_i64(s, 0);
    db_reset(s);
    return 0;
}

/* Nobody claims it, and nobody has to. */
static int body_late(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    TaskNew new = { .lane = LANE_NORMAL,
                    .input = STR("1"),
                    .time_limit_ms = 60000,
                    .session_id = STR("s"),
                    .webhook_url = STR("http://127.0.0.1:1/") };
    TaskSummary s, next;
    Task *tasks;
    TaskState state;
    CHECK_INT(queue_submit_wait(f->queue, &new, &s), 0);
    CHECK_INT(queue_submit_wait(f->queue, &new, &next), 0);
    CHECK_INT(claim(f, worker, roomy, &tasks), 1);
    CHECK_INT(finish(f, (TaskRef){ s.id, tasks[0].fence }, TASK_OUTCOME_RELEASED, &state), 0);
    pass_ms(59999);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_INT(get(f, s.id).state, TASK_QUEUED);
    pass_ms(1);
    uint64_t mark = queue_watch_mark(f->queue, s.id);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_INT(queue_watch_wait(f->queue, s.id, mark, clock_mono_ms()), 0);
    Task t = get(f, s.id);
    CHECK_INT(t.state, TASK_TIMED_OUT);
    CHECK_STR(t.error_code, STR("deadline_passed"));
    int64_t webhooks = 0;
    CHECK_INT(store_call_wait(f->store, webhooks_job, &webhooks), 0);
    CHECK_INT(webhooks, 1);
    check_counts(f, LANE_NORMAL, 1, 0);
    worker = add_worker(f, 2, WORKER_EMBEDDED);
    CHECK_INT(claim(f, worker, roomy, &tasks), 1); /* its session goes on */
    CHECK(uuid_eq(tasks[0].id, next.id));
    return 0;
}

static void test_late(void **state)
{
    run(state, body_late);
}

/* The answer to a claim is lost but for one task. However the calendar is set, and however long the
 * claim took to be durable, the rest is released once the answer must have come. */
static int body_orphan(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE), id = submit(f, LANE_NORMAL);
    Uuid kept = submit(f, LANE_NORMAL);
    Task *tasks;
    heartbeat(f, worker, NULL, 0);
    pass_ms(9000);
    heartbeat(f, worker, NULL, 0);
    CHECK_INT(claim(f, worker, roomy, &tasks), 2);
    TaskRef held = { kept, tasks[1].fence };
    CHECK(uuid_eq(tasks[1].id, kept));
    pass_ms(1000);
    real_now += 86400000;
    CHECK_INT(heartbeat(f, worker, &held, 1).released, 0);
    for (int i = 0; i < 4; i++) {
        pass_ms(1249);
        CHECK_INT(heartbeat(f, worker, &held, 1).released, 0);
        CHECK_INT(get(f, id).state, TASK_RUNNING);
    }
    pass_ms(4); /* half a lease */
    CHECK_INT(heartbeat(f, worker, &held, 1).released, 1);
    Task t = get(f, id);
    CHECK_INT(t.state, TASK_QUEUED);
    CHECK_INT(t.failures + t.losses, 0);
    CHECK_INT(get(f, kept).state, TASK_RUNNING);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.claims_lost, 1);
    return 0;
}

static void test_orphan(void **state)
{
    run(state, body_orphan);
}

static int body_leave(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE), id = submit(f, LANE_NORMAL);
    TaskRef ref = claim_one(f, worker);
    CHECK_INT(queue_drain_wait(f->queue, worker), 0);
    CHECK(heartbeat(f, worker, &ref, 1).draining);
    CHECK_INT(queue_leave_wait(f->queue, worker), 0);
    Task t = get(f, id);
    CHECK_INT(t.state, TASK_QUEUED);
    CHECK_INT(t.losses, 0);
    CHECK_INT(queue_leave_wait(f->queue, worker), QUEUE_E_NO_WORKER);
    CHECK_INT(queue_drain_wait(f->queue, worker), QUEUE_E_NO_WORKER);
    CHECK_INT(queue_drain_wait(f->queue, worker_of(77)), QUEUE_E_NO_WORKER);
    return 0;
}

static void test_leave(void **state)
{
    run(state, body_leave);
}

static int body_before_restart(void *arg)
{
    Fixture *f = arg;
    Uuid here = add_worker(f, 1, WORKER_EMBEDDED), there = add_worker(f, 2, WORKER_REMOTE);
    for (int i = 0; i < 300; i++) submit(f, LANE_LOW);
    for (int i = 0; i < 5; i++) submit(f, LANE_CRITICAL);
    Task *tasks;
    LaneConfig low = { .reserved = { 0, 0, 1000 } };
    CHECK_INT(claim(f, here, low, &tasks), CLAIM_TASKS_MAX);
    CHECK_INT(claim(f, here, low, &tasks), 300 - CLAIM_TASKS_MAX);
    CHECK_INT(claim(f, there, (LaneConfig){ .shared = 2 }, &tasks), 2);
    return 0;
}

static int body_after_restart(void *arg)
{
    Fixture *f = arg;
    check_counts(f, LANE_LOW, 300, 0);
    check_counts(f, LANE_CRITICAL, 3, 2);
    CHECK_INT(queue_tick_wait(f->queue),
              0); /* the remote worker has a lease, however long it took */
    check_counts(f, LANE_CRITICAL, 3, 2);
    HeartbeatReply reply;
    CHECK_INT(queue_heartbeat_wait(f->queue, worker_of(1), &(Heartbeat){ 0 }, &f->arena, &reply),
              QUEUE_E_NO_WORKER);
    TaskFilter filter = { .state = TASK_QUEUED, .lane = LANE_LOW, .limit = 1 };
    TaskPage page;
    CHECK_INT(queue_list_wait(f->queue, &filter, &f->arena, &page), 0);
    CHECK_INT(page.tasks[0].losses, 0); /* the server's fault, not the task's */
    return 0;
}

static void test_restart(void **state)
{
    Fixture *f = *state;
    run(state, body_before_restart);
    close_queue(f);
    pass_ms(100000);
    open_queue(f);
    run(state, body_after_restart);
}

/* --- many at a time --------------------------------------------------------------------------- */

static TaskFinish end_of(TaskRef ref, TaskOutcome outcome)
{
    return (TaskFinish){ .task = ref, .outcome = outcome, .error_code = STR("x") };
}

static int body_many(void *arg)
{
    Fixture *f = arg;
    enum { OK, STALE, AGAIN, TWICE, UNKNOWN, N };
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    TaskRef refs[3];
    for (int i = 0; i < 3; i++) submit(f, LANE_NORMAL);
    for (int i = 0; i < 3; i++) refs[i] = claim_one(f, worker);
    TaskFinish list[N] = { [OK] = end_of(refs[0], TASK_OUTCOME_SUCCEEDED),
                           [STALE] = end_of(refs[1], TASK_OUTCOME_SUCCEEDED),
                           [AGAIN] = end_of(refs[2], TASK_OUTCOME_FAILED_RETRYABLE),
                           [TWICE] = end_of(refs[0], TASK_OUTCOME_FAILED_FINAL),
                           [UNKNOWN] = end_of((TaskRef){ worker, 1 }, TASK_OUTCOME_SUCCEEDED) };
    list[OK].error_code = STR_NULL;
    list[OK].result = STR("[1]");
    list[STALE].task.fence--; /* another attempt's */
    TaskFinished ends[N];
    CHECK_INT(queue_finish_many_wait(f->queue, list, 0, ends), 0);
    CHECK_INT(queue_finish_many_wait(f->queue, list, N, ends), 0);
    CHECK_INT(ends[OK].outcome, 0);
    CHECK_INT(ends[OK].state, TASK_SUCCEEDED);
    CHECK_INT(ends[STALE].outcome, QUEUE_E_STALE);
    CHECK_INT(ends[AGAIN].outcome, 0);
    CHECK_INT(ends[AGAIN].state, TASK_QUEUED);
    CHECK_INT(ends[TWICE].outcome, QUEUE_E_STALE);
    CHECK_INT(ends[UNKNOWN].outcome, QUEUE_E_STALE);
    check_counts(f, LANE_NORMAL, 1, 1);
    CHECK_STR(get(f, refs[0].id).result, STR("[1]"));
    CHECK_INT(get(f, refs[1].id).state, TASK_RUNNING);
    CHECK_INT(get(f, refs[2].id).failures, 1);

    CHECK_INT(queue_finish_many_wait(f->queue, list, N, ends), 0); /* the answer was lost */
    for (int i = 0; i < N; i++) CHECK_INT(ends[i].outcome, QUEUE_E_STALE);
    check_counts(f, LANE_NORMAL, 1, 1);
    CHECK_INT(get(f, refs[2].id).failures, 1);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.stale, 3 + N);
    CHECK_INT(stats.lane[LANE_NORMAL].ended[TASK_SUCCEEDED], 1);
    return 0;
}

static void test_many(void **state)
{
    run(state, body_many);
}

/* Ends of all kinds, with all that a worker may say; text must live. */
static TaskFinish end_of_kind(int i, TaskRef ref)
{
    static const TaskOutcome outcomes[] = { TASK_OUTCOME_SUCCEEDED,       TASK_OUTCOME_FAILED_FINAL,
                                            TASK_OUTCOME_SUCCEEDED,       TASK_OUTCOME_CAPPED,
                                            TASK_OUTCOME_TIMED_OUT,       TASK_OUTCOME_CANCELED,
                                            TASK_OUTCOME_FAILED_RETRYABLE };
    TaskFinish finish = { .task = ref, .outcome = outcomes[(size_t)i % ARRAY_N(outcomes)] };
    if (i % 2) finish.error_code = STR("code"), finish.error_detail = STR("detail");
    if (i % 3) finish.sandbox = STR("tier");
    if (i % 4) finish.result = STR("{\"n\":1}");
    if (i % 5 == 0) finish.usage = (TaskUsage){ .input_tokens = i, .tool_calls = 1 };
    if (i % 6 == 0)
        finish.conduct = (TaskConduct){ .known = true, .fingerprint = UINT64_MAX, STR("{}") };
    if (i % 11 == 3) finish.stopped_by = STR("usdPerTask");
    return finish;
}

typedef struct {
    int64_t seq;
    Arena *arena;
    Attempt *attempts;
    size_t n;
    int64_t figures; /* of what no function reads alone */
} RowsJob;

static int rows_job(Db *db, void *arg)
{
    RowsJob *job = arg;
    DbStmt *s = db_stmt(db, "SELECT (SELECT count(*) FROM rollup_due WHERE task_seq = ?1) * 100"
                            " + coalesce(fingerprint, 5) * 10 + coalesce(length(tools), 0)"
                            " + escalations FROM task WHERE seq = ?1");
    db_bind_i64(s, 1, job->seq);
    if (db_step(s) != DB_E_ROW) return -ENOENT;
    job->figures = db_i64(s, 0);
    db_reset(s);
    return attempt_list(db, job->seq, job->arena, &job->attempts, &job->n);
}

static void check_alike(Fixture *f, Uuid one, Uuid other)
{
    Task a = get(f, one), b = get(f, other);
    RowsJob x = { .seq = a.seq, .arena = &f->arena }, y = { .seq = b.seq, .arena = &f->arena };
    CHECK_INT(store_call_wait(f->store, rows_job, &x), 0);
    CHECK_INT(store_call_wait(f->store, rows_job, &y), 0);
    CHECK_INT(a.state, b.state);
    CHECK_INT(a.failures, b.failures);
    CHECK_INT(a.finished_at_ms, b.finished_at_ms);
    CHECK_INT(a.ran_ms, b.ran_ms);
    CHECK_INT(a.ran_ms, 300);
    CHECK_INT(a.usage.input_tokens, b.usage.input_tokens);
    CHECK_INT(a.usage.tool_calls, b.usage.tool_calls);
    CHECK_STR(a.result, b.result);
    CHECK_STR(a.error_code, b.error_code);
    CHECK_STR(a.error_detail, b.error_detail);
    CHECK_STR(a.stopped_by, b.stopped_by);
    CHECK_INT(x.figures, y.figures);
    if (!CHECK_INT(x.n, 1) || !CHECK_INT(y.n, 1)) return;
    CHECK_STR(x.attempts[0].outcome, y.attempts[0].outcome);
    CHECK_STR(x.attempts[0].error_code, y.attempts[0].error_code);
    CHECK_STR(x.attempts[0].error_detail, y.attempts[0].error_detail);
    CHECK_STR(x.attempts[0].sandbox, y.attempts[0].sandbox);
    CHECK_INT(x.attempts[0].finished_at_ms, y.attempts[0].finished_at_ms);
    CHECK(uuid_eq(x.attempts[0].worker_id, y.attempts[0].worker_id));
    CHECK_INT(y.attempts[0].fence, b.fence);
}

/* What is written together says the same as what is written alone, and is written once. */
static int body_many_alike(void *arg)
{
    enum { N = 150 };
    Fixture *f = arg;
    TaskRef *refs = ARENA_ARRAY(&f->arena, TaskRef, 2 * N);
    TaskFinish *list = ARENA_ARRAY(&f->arena, TaskFinish, N + 1);
    TaskFinished *ends = ARENA_ARRAY(&f->arena, TaskFinished, N + 1);
    assert(refs && list && ends);
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    for (int i = 0; i < 2 * N; i++) submit(f, LANE_NORMAL);
    for (int i = 0; i < 2 * N; i++) refs[i] = claim_one(f, worker);
    pass_ms(300);
    for (int i = 0; i < N; i++) list[i] = end_of_kind(i, refs[i]);
    list[N] = list[N - 1]; /* said twice */
    CHECK_INT(queue_finish_many_wait(f->queue, list, N + 1, ends), 0);
    CHECK_INT(ends[N].outcome, QUEUE_E_STALE);
    for (int i = 0; i < N; i++) {
        TaskState state;
        TaskFinish alone = end_of_kind(i, refs[N + i]);
        CHECK_INT(queue_finish_wait(f->queue, &alone, &state), 0);
        CHECK_INT(ends[i].outcome, 0);
        CHECK_INT(ends[i].state, state);
        check_alike(f, refs[i].id, refs[N + i].id);
    }
    return 0;
}

static void test_many_alike(void **state)
{
    run(state, body_many_alike);
}

typedef struct {
    Fixture *f;
    TaskFinish finish;
    int result;
} Ender;

static int ender_main(void *arg)
{
    Ender *e = arg;
    e->result = queue_finish_wait(e->f->queue, &e->finish, NULL);
    return 0;
}

/* Reports of many callers share a transaction, and what is stale of them changes nothing. */
static int body_many_callers(void *arg)
{
    enum { N = 24 };
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    Ender enders[N];
    FiberRef fibers[N];
    for (int i = 0; i < N; i++) submit(f, LANE_NORMAL);
    for (int i = 0; i < N; i++) {
        enders[i] = (Ender){ .f = f,
                             .finish = end_of(claim_one(f, worker), TASK_OUTCOME_FAILED_FINAL) };
        if (i % 5 == 0) enders[i].finish.task.fence++;
    }
    for (int i = 0; i < N; i++)
        CHECK_INT(fiber_spawn("end", ender_main, &enders[i], &fibers[i]), 0);
    for (int i = 0; i < N; i++) CHECK_INT(fiber_join_wait(fibers[i], NULL), 0);
    for (int i = 0; i < N; i++) {
        CHECK_INT(enders[i].result, i % 5 == 0 ? QUEUE_E_STALE : 0);
        CHECK_INT(get(f, enders[i].finish.task.id).state, i % 5 == 0 ? TASK_RUNNING : TASK_FAILED);
    }
    check_counts(f, LANE_NORMAL, 0, 5);
    return 0;
}

static void test_many_callers(void **state)
{
    run(state, body_many_callers);
}

/* One of them finds the disk full: nothing is recorded, and nothing of it is left in the counts. */
static int body_many_on_a_full_disk(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    TaskFinish list[3];
    TaskFinished ends[3];
    const size_t bytes = (size_t)8 << 20;
    char *large = arena_alloc(&f->arena, bytes);
    memset(large, 'x', bytes);
    large[0] = large[bytes - 1] = '"';
    for (int i = 0; i < 3; i++) submit(f, LANE_NORMAL);
    for (int i = 0; i < 3; i++) list[i] = end_of(claim_one(f, worker), TASK_OUTCOME_SUCCEEDED);
    list[1].result = str_make(large, bytes);
    CHECK_INT(queue_finish_many_wait(f->queue, list, 3, ends), -ENOSPC);
    check_counts(f, LANE_NORMAL, 0, 3);
    for (int i = 0; i < 3; i++) CHECK_INT(get(f, list[i].task.id).state, TASK_RUNNING);
    list[1].result = STR("1");
    CHECK_INT(queue_finish_many_wait(f->queue, list, 3, ends), 0);
    for (int i = 0; i < 3; i++) CHECK_INT(ends[i].outcome, 0);
    check_counts(f, LANE_NORMAL, 0, 0);
    return 0;
}

static void test_many_on_a_full_disk(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->pages_max = 1000;
    open_queue(f);
    run(state, body_many_on_a_full_disk);
}

static int body_served(void *arg)
{
    Fixture *f = arg;
    int n = (int)f->options.log_bytes_max;
    Uuid worker = add_worker(f, n, WORKER_EMBEDDED);
    if (n == 1) (void)submit(f, LANE_NORMAL);
    if (n > 20) pass_ms(600000); /* to blame, it waits for its turn */
    TaskRef ref = claim_one(f, worker);
    Task t = get(f, ref.id);
    CHECK_INT(t.attempt, n);
    CHECK_INT(t.losses, MAX(n - 20, 0)); /* it may be the task, after all */
    return 0;
}

/* A task that is longer than the server ever lives. */
static void test_restarts(void **state)
{
    Fixture *f = *state;
    for (int n = 1; n <= 20 + TASK_LOSSES_MAX - 1; n++) {
        f->options.log_bytes_max = n; /* numbers the workers */
        run(state, body_served);
        close_queue(f);
        pass_ms(1000);
        open_queue(f);
    }
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_retries),    TEST(test_policy),       TEST(test_broken_settings),
        TEST(test_outcomes),   TEST(test_cancel),       TEST(test_lease),
        TEST(test_losses),     TEST(test_restarts),     TEST(test_deadline),
        TEST(test_set),        TEST(test_late),         TEST(test_orphan),
        TEST(test_leave),      TEST(test_restart),      TEST(test_many),
        TEST(test_many_alike), TEST(test_many_callers), TEST(test_many_on_a_full_disk),
    };
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    return cmocka_run_group_tests_name("queue_ends", tests, NULL, NULL);
}
