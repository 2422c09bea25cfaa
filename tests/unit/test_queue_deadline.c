/* A deadline that its client has given: it ends the task in whatever state it is, and nothing moves
 * it but a calendar that is set. */
#include "queue_fixture.h"

#include "codec/digest.h"
#include "store/rollup_store.h"

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define MINUTE_MS INT64_C(60000)

static TaskNew new_due(int64_t in_ms)
{
    return (TaskNew){ .lane = LANE_NORMAL, .input = STR("1"), .due_at_ms = real_now + in_ms };
}

static Uuid submit_due(Fixture *f, int64_t in_ms)
{
    TaskNew new = new_due(in_ms);
    TaskSummary summary = { 0 };
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    return summary.id;
}

static void tick(Fixture *f)
{
    CHECK_INT(queue_tick_wait(f->queue), 0);
}

/* It goes on until the last millisecond, and is over then. */
static void check_ends(Fixture *f, Uuid id, TaskState before, int64_t left_ms)
{
    Task task;
    tick(f);
    CHECK_INT(get(f, id).state, before);
    pass_ms(left_ms - 1);
    tick(f);
    CHECK_INT(get(f, id).state, before);
    pass_ms(1);
    tick(f);
    task = get(f, id);
    CHECK_INT(task.state, TASK_TIMED_OUT);
    CHECK_STR(task.error_code, STR("deadline_passed"));
    CHECK_STR(task.stopped_by, STR("deadline"));
    check_counts(f, LANE_NORMAL, 0, 0);
}

static TaskRef escalate(Fixture *f, TaskRef ref)
{
    TaskState state;
    EscalationReply reply;
    EscalationAsk ask = { .occurrence = 1,
                          .question = STR("may I?"),
                          .context = STR("1"),
                          .timeout_ms = 100 * MINUTE_MS };
    sha256(STR("may I?"), ask.key);
    CHECK_INT(queue_escalate_wait(f->queue, ref, &ask, &f->arena, &reply), 0);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_ESCALATED, &state), 0);
    CHECK_INT(state, TASK_ESCALATED);
    return ref;
}

/* --- every state ------------------------------------------------------------------------------ */

static int body_queued(void *arg)
{
    Fixture *f = arg;
    Uuid id = submit_due(f, MINUTE_MS);
    CHECK_INT(get(f, id).due_at_ms, real_now + MINUTE_MS);
    check_ends(f, id, TASK_QUEUED, MINUTE_MS);
    return 0;
}

/* Who claims it when it is over starts nothing. */
static int body_claimed_late(void *arg)
{
    Fixture *f = arg;
    Task *tasks;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED), id = submit_due(f, MINUTE_MS);
    pass_ms(MINUTE_MS);
    CHECK_INT(claim(f, worker, roomy, &tasks), 0);
    CHECK_INT(get(f, id).state, TASK_TIMED_OUT);
    CHECK_STR(get(f, id).stopped_by, STR("deadline"));
    return 0;
}

/* Its worker is told how much time there is; one that does not act is waited for no longer than any
 * other. */
static int body_running(void *arg)
{
    Fixture *f = arg;
    Task *tasks;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED), id = submit_due(f, MINUTE_MS);
    pass_ms(1000);
    CHECK_INT(claim(f, worker, roomy, &tasks), 1);
    CHECK_INT(tasks[0].deadline_at_ms, real_now + MINUTE_MS - 1000);
    CHECK_INT(tasks[0].due_at_ms, tasks[0].deadline_at_ms);
    for (int i = 0; i < 23; i++) {
        pass_ms(5000);
        heartbeat(f, worker, &(TaskRef){ id, tasks[0].fence }, 1);
    }
    check_ends(f, id, TASK_RUNNING, MINUTE_MS - 1000 + 60001 - 115000);
    return 0;
}

/* The limit of the task itself is reached first: that is what ends it. */
static int body_limit_first(void *arg)
{
    Fixture *f = arg;
    Task *tasks;
    TaskState state;
    TaskSummary summary;
    TaskNew new = new_due(2 * MINUTE_MS);
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    new.time_limit_ms = MINUTE_MS;
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    CHECK_INT(claim(f, worker, roomy, &tasks), 1);
    CHECK_INT(tasks[0].deadline_at_ms, real_now + MINUTE_MS);
    CHECK_INT(finish(f, (TaskRef){ summary.id, tasks[0].fence }, TASK_OUTCOME_RELEASED, &state), 0);
    pass_ms(MINUTE_MS);
    tick(f);
    CHECK_INT(get(f, summary.id).state, TASK_TIMED_OUT);
    CHECK(str_empty(get(f, summary.id).stopped_by));
    return 0;
}

/* Between two attempts: one that could only come too late is not waited for. */
static int body_between(void *arg)
{
    Fixture *f = arg;
    TaskState state;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED), id = submit_due(f, MINUTE_MS);
    TaskFinish failure = { .task = claim_one(f, worker),
                           .outcome = TASK_OUTCOME_FAILED_RETRYABLE,
                           .retry_after_ms = 40000 };
    CHECK_INT(queue_finish_wait(f->queue, &failure, &state), 0);
    check_ends(f, id, TASK_QUEUED, MINUTE_MS);

    worker = add_worker(f, 2, WORKER_EMBEDDED);
    id = submit_due(f, 30000);
    failure.task = claim_one(f, worker);
    CHECK_INT(queue_finish_wait(f->queue, &failure, &state), 0);
    CHECK_INT(state, TASK_TIMED_OUT);
    CHECK_STR(get(f, id).error_code, STR("deadline_passed"));
    CHECK_STR(get(f, id).stopped_by, STR("deadline"));
    return 0;
}

/* A person is not waited for beyond it, as little as the time that was asked for says. */
static int body_escalated(void *arg)
{
    Fixture *f = arg;
    TaskState state;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED), id = submit_due(f, MINUTE_MS);
    escalate(f, claim_one(f, worker));
    check_ends(f, id, TASK_ESCALATED, MINUTE_MS);
    CHECK_INT(queue_resolve_wait(f->queue, id, STR("1"), STR("ada"), &state), QUEUE_E_STATE);
    return 0;
}

/* An answer in time: its own limit stood still meanwhile, its client's has not. */
static int body_answered(void *arg)
{
    Fixture *f = arg;
    TaskState state;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED), id = submit_due(f, MINUTE_MS);
    escalate(f, claim_one(f, worker));
    pass_ms(20000);
    CHECK_INT(queue_resolve_wait(f->queue, id, STR("1"), STR("ada"), &state), 0);
    CHECK_INT(get(f, id).deadline_at_ms, real_now + 40000);
    check_ends(f, id, TASK_QUEUED, 40000);
    return 0;
}

/* --- a restart, a calendar, a retry ----------------------------------------------------------- */

static int body_before(void *arg)
{
    (void)submit_due(arg, MINUTE_MS);
    return 0;
}

static int body_after(void *arg)
{
    Fixture *f = arg;
    TaskFilter all = { .state = TASK_QUEUED, .lane = -1 };
    TaskPage page;
    CHECK_INT(queue_list_wait(f->queue, &all, &f->arena, &page), 0);
    if (CHECK_INT(page.n, 1)) check_ends(f, page.tasks[0].id, TASK_QUEUED, MINUTE_MS);
    return 0;
}

static void test_restart(void **state)
{
    Fixture *f = *state;
    run(state, body_before);
    close_queue(f);
    open_queue(f);
    run(state, body_after);
}

/* It is a span of time to who waits, not a moment of a calendar that may be wrong. */
static void check_set(Fixture *f, int n, int64_t ms)
{
    Uuid worker = add_worker(f, n, WORKER_EMBEDDED);
    Uuid asks = submit_due(f, MINUTE_MS);
    TaskRef asking = escalate(f, claim_one(f, worker));
    Uuid waits = submit_due(f, MINUTE_MS);
    real_now += ms;
    pass_ms(1000);
    tick(f);
    CHECK(uuid_eq(asks, asking.id));
    CHECK_INT(get(f, asks).due_at_ms, real_now + 59000);
    CHECK_INT(get(f, waits).due_at_ms, real_now + 59000);
    CHECK_INT(get(f, waits).deadline_at_ms, real_now + 59000);
    TaskRef ref = claim_one(f, worker);
    real_now += ms;
    tick(f);
    CHECK_INT(get(f, ref.id).due_at_ms, real_now + 59000);
    CHECK_INT(get(f, ref.id).deadline_at_ms, real_now + 59000);
    pass_ms(58999);
    heartbeat(f, worker, &ref, 1);
    tick(f);
    CHECK_INT(get(f, asks).state, TASK_ESCALATED);
    pass_ms(1);
    tick(f);
    CHECK_INT(get(f, asks).state, TASK_TIMED_OUT);
    TaskState state;
    CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, &state), 0);
}

static int body_set(void *arg)
{
    check_set(arg, 1, 3600000);
    check_set(arg, 2, -3600000);
    return 0;
}

/* Neither is a span before the task may start: a moment of the calendar both, they stay
 * together. */
static int body_set_before_start(void *arg)
{
    Fixture *f = arg;
    TaskNew new = new_due(90 * MINUTE_MS);
    TaskSummary summary = { 0 };
    new.run_at_ms = real_now + 60 * MINUTE_MS;
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    real_now -= 120 * MINUTE_MS;
    tick(f);
    CHECK_INT(get(f, summary.id).due_at_ms, new.due_at_ms);
    pass_ms(180 * MINUTE_MS);
    tick(f);
    CHECK_INT(get(f, summary.id).state, TASK_QUEUED);
    return 0;
}

/* By hand: one that is still ahead holds, one that has passed does not. */
static int body_retry(void *arg)
{
    Fixture *f = arg;
    TaskState state;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED), id = submit_due(f, MINUTE_MS);
    CHECK_INT(finish(f, claim_one(f, worker), TASK_OUTCOME_FAILED_FINAL, &state), 0);
    CHECK_INT(queue_retry_wait(f->queue, id, false), 0);
    CHECK_INT(get(f, id).due_at_ms, real_now + MINUTE_MS);
    check_ends(f, id, TASK_QUEUED, MINUTE_MS);
    CHECK_INT(queue_retry_wait(f->queue, id, false), 0);
    CHECK_INT(get(f, id).due_at_ms, 0);
    CHECK_INT(get(f, id).deadline_at_ms, 0);
    pass_ms(10 * MINUTE_MS);
    tick(f);
    CHECK_INT(get(f, id).state, TASK_QUEUED);
    return 0;
}

/* Its own limit counts anew then, as it does without a deadline. */
static int body_retry_limited(void *arg)
{
    Fixture *f = arg;
    Task *tasks;
    TaskState state;
    TaskSummary summary;
    TaskNew new = new_due(10 * MINUTE_MS);
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    new.time_limit_ms = MINUTE_MS;
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    CHECK_INT(finish(f, claim_one(f, worker), TASK_OUTCOME_FAILED_FINAL, &state), 0);
    CHECK_INT(queue_retry_wait(f->queue, summary.id, false), 0);
    pass_ms(2000);
    CHECK_INT(claim(f, worker, roomy, &tasks), 1);
    CHECK_INT(tasks[0].deadline_at_ms, real_now + MINUTE_MS);
    CHECK_INT(get(f, summary.id).due_at_ms, real_now + 10 * MINUTE_MS - 2000);
    return 0;
}

static bool outcome_note(const RollupNews *news, void *ctx)
{
    Outcome *outcomes = ctx;
    outcomes[1] = outcomes[0];
    outcomes[0] = news->task.outcome;
    return true;
}

static int outcomes_job(Db *db, void *arg)
{
    return rollup_due_read(db, 10, outcome_note, arg);
}

/* That nobody had a slot for it is no error of its version. */
static int body_blame(void *arg)
{
    Fixture *f = arg;
    TaskState state;
    Outcome outcomes[2];
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    (void)submit_due(f, MINUTE_MS);
    CHECK_INT(finish(f, claim_one(f, worker), TASK_OUTCOME_TIMED_OUT, &state), 0);
    (void)submit_due(f, MINUTE_MS);
    pass_ms(MINUTE_MS);
    tick(f);
    CHECK_INT(store_read_wait(f->store, outcomes_job, outcomes), 0);
    CHECK_INT(outcomes[1], OUTCOME_TIMED_OUT);
    CHECK_INT(outcomes[0], OUTCOME_CANCELED);
    return 0;
}

/* --- too late at once ------------------------------------------------------------------------- */

/* Unless the task is there: its client must learn that it is. */
static int body_passed(void *arg)
{
    Fixture *f = arg;
    TaskSummary first, second;
    TaskNew new = new_due(MINUTE_MS);
    new.idempotency_key = STR("k");
    new.fingerprint = STR("p");
    CHECK_INT(queue_submit_wait(f->queue, &new, &first), 0);
    pass_ms(MINUTE_MS);
    CHECK_INT(queue_submit_wait(f->queue, &new, &second), 0);
    CHECK(second.existing && uuid_eq(first.id, second.id));
    new.idempotency_key = STR("another");
    CHECK_INT(queue_submit_wait(f->queue, &new, &second), QUEUE_E_LATE);
    CHECK_HAS(str_of(diag_text()), "give a later one");
    new.due_at_ms++;
    CHECK_INT(queue_submit_wait(f->queue, &new, &second), 0);
    return 0;
}

/* --- sub-agents ------------------------------------------------------------------------------- */

static ChildStarted child_of(Fixture *f, TaskRef parent, const char *key, int64_t due_ms)
{
    static const char print[CHILD_FINGERPRINT_BYTES + 1] = "12345678901234567890123456789012";
    ChildNew child = { .key = str_of(key),
                       .fingerprint = str_of(print),
                       .input = STR("1"),
                       .offered = { 1000, 2000, 3 },
                       .remaining_ms = 50000,
                       .due_ms = due_ms };
    ChildStarted started = { .allotted = { 0 } };
    CHECK_INT(queue_child_wait(f->queue, parent, &child, &started), 0);
    return started;
}

static int body_children(void *arg)
{
    Fixture *f = arg;
    Task *tasks;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED), id = submit_due(f, MINUTE_MS);
    TaskRef parent = claim_one(f, worker);
    int64_t due_ms = get(f, id).due_at_ms;
    Uuid heir = child_of(f, parent, "heir", 0).task.id;
    Uuid longer = child_of(f, parent, "longer", 2 * MINUTE_MS).task.id;
    Uuid brief = child_of(f, parent, "brief", 10000).task.id;
    CHECK_INT(get(f, heir).due_at_ms, due_ms);
    CHECK_INT(get(f, heir).deadline_at_ms, real_now + 50000); /* what its parent has left */
    CHECK_INT(get(f, longer).due_at_ms, due_ms);
    CHECK_INT(get(f, brief).due_at_ms, real_now + 10000);
    CHECK_INT(get(f, brief).deadline_at_ms, real_now + 10000);
    CHECK_INT(claim(f, worker, roomy, &tasks), 3); /* the newest goes first */
    for (int i = 0; i < 3; i++) escalate(f, (TaskRef){ tasks[i].id, tasks[i].fence });
    pass_ms(10000);
    heartbeat(f, worker, &parent, 1);
    tick(f);
    CHECK_INT(get(f, brief).state, TASK_TIMED_OUT); /* though it asks a person */
    CHECK_INT(get(f, heir).state, TASK_ESCALATED);
    for (int i = 0; i < 10; i++) {
        pass_ms(5000);
        heartbeat(f, worker, &parent, 1);
    }
    tick(f);
    CHECK_INT(get(f, heir).state, TASK_TIMED_OUT);
    CHECK_INT(get(f, longer).state, TASK_TIMED_OUT);
    CHECK_STR(get(f, longer).stopped_by, STR("deadline"));
    return 0;
}

#define RUNS(name)                        \
    static void test_##name(void **state) \
    {                                     \
        run(state, body_##name);          \
    }
RUNS(queued)
RUNS(claimed_late)
RUNS(running)
RUNS(limit_first)
RUNS(between)
RUNS(escalated)
RUNS(answered)
RUNS(set)
RUNS(set_before_start)
RUNS(retry)
RUNS(retry_limited)
RUNS(blame)
RUNS(passed)
RUNS(children)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_queued),        CASE(test_claimed_late), CASE(test_running),
        CASE(test_limit_first),   CASE(test_between),      CASE(test_escalated),
        CASE(test_answered),      CASE(test_restart),      CASE(test_set),
        CASE(test_retry),         CASE(test_passed),       CASE(test_children),
        CASE(test_retry_limited), CASE(test_blame),        CASE(test_set_before_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
