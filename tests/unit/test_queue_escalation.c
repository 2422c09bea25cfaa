/* Questions to people: put once, answered, left unanswered; what becomes of the task. */
#include "queue_fixture.h"

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define HOUR_MS INT64_C(3600000)

static EscalationAsk question(const char *text, int64_t occurrence)
{
    EscalationAsk ask = { .occurrence = occurrence,
                          .question = str_of(text),
                          .context = STR("{\"amount\":7}"),
                          .timeout_ms = HOUR_MS };
    sha256(str_of(text), ask.key);
    return ask;
}

static EscalationReply ask_of(Fixture *f, TaskRef task, EscalationAsk ask)
{
    EscalationReply reply = { .state = ESCALATION_STATE_N_ };
    CHECK_INT(queue_escalate_wait(f->queue, task, &ask, &f->arena, &reply), 0);
    return reply;
}

static int resolve(Fixture *f, Uuid id, const char *answer)
{
    TaskState state = TASK_STATE_N_;
    int r = queue_resolve_wait(f->queue, id, str_of(answer), STR("ada"), &state);
    if (r == 0) CHECK(state == TASK_QUEUED || state == TASK_RUNNING);
    return r;
}

static Escalation asked(Fixture *f, Uuid id)
{
    Task task = { 0 };
    CHECK_INT(queue_get_wait(f->queue, id, TASK_PART_QUESTION, &f->arena, &task), 0);
    return task.question;
}

static uint64_t counted(Fixture *f, EscalationState state)
{
    QueueStats stats;
    queue_stats(f->queue, &stats);
    return stats.escalations[state];
}

/* A task that waits for a person, its attempt over. */
static TaskRef escalated(Fixture *f, Uuid worker, EscalationAsk ask)
{
    TaskState state = TASK_STATE_N_;
    submit(f, LANE_NORMAL);
    TaskRef ref = claim_one(f, worker);
    CHECK_INT(ask_of(f, ref, ask).state, ESCALATION_PENDING);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_ESCALATED, &state), 0);
    CHECK_INT(state, TASK_ESCALATED);
    return ref;
}

static int body_answered(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    TaskRef ref = escalated(f, worker, question("may I?", 1));
    check_counts(f, LANE_NORMAL, 0, 0); /* the slot is free */
    CHECK_STR(asked(f, ref.id).question, STR("may I?"));
    CHECK_STR(asked(f, ref.id).context, STR("{\"amount\":7}"));
    CHECK_INT(asked(f, ref.id).expires_at_ms, real_now + HOUR_MS);
    CHECK_INT(resolve(f, ref.id, "{\"ok\":true}"), 0);
    check_counts(f, LANE_NORMAL, 1, 0);
    CHECK_INT(asked(f, ref.id).question.len, 0);
    CHECK_INT(resolve(f, ref.id, "1"), QUEUE_E_STATE); /* once */

    TaskRef next = claim_one(f, worker);
    CHECK(uuid_eq(next.id, ref.id) && next.fence > ref.fence);
    EscalationReply reply = ask_of(f, next, question("may I?", 1));
    CHECK_INT(reply.state, ESCALATION_ANSWERED);
    CHECK_STR(reply.answer, STR("{\"ok\":true}"));
    CHECK_STR(reply.by, STR("ada"));
    CHECK_INT(ask_of(f, next, question("may I?", 2)).state, ESCALATION_PENDING); /* another time */
    CHECK_INT(ask_of(f, next, question("and this?", 1)).state, ESCALATION_PENDING);
    CHECK_INT(get(f, ref.id).failures, 0);
    CHECK_INT(counted(f, ESCALATION_PENDING), 3);
    CHECK_INT(counted(f, ESCALATION_ANSWERED), 1);
    return 0;
}

static void test_answered(void **state)
{
    run(state, body_answered);
}

/* The answer is there before the attempt that asked is over: the task does not come to rest. */
static int body_at_once(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    TaskState state = TASK_STATE_N_;
    submit(f, LANE_NORMAL);
    TaskRef ref = claim_one(f, worker);
    ask_of(f, ref, question("may I?", 1));
    CHECK_INT(resolve(f, ref.id, "true"), 0);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_ESCALATED, &state), 0);
    CHECK_INT(state, TASK_QUEUED);
    TaskRef next = claim_one(f, worker);
    CHECK_STR(ask_of(f, next, question("may I?", 1)).answer, STR("true"));
    CHECK_INT(finish(f, next, TASK_OUTCOME_SUCCEEDED, &state), 0);
    CHECK_INT(resolve(f, ref.id, "true"), QUEUE_E_STATE);
    return 0;
}

static void test_answered_at_once(void **state)
{
    run(state, body_at_once);
}

static int body_crash(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    TaskState state = TASK_STATE_N_;
    submit(f, LANE_NORMAL);
    TaskRef ref = claim_one(f, worker);
    ask_of(f, ref, question("may I?", 1));
    CHECK_INT(finish(f, ref, TASK_OUTCOME_RELEASED, &state), 0); /* as if its worker had died */
    TaskRef next = claim_one(f, worker);
    EscalationReply reply;
    EscalationAsk ask = question("may I?", 1);
    CHECK_INT(queue_escalate_wait(f->queue, ref, &ask, &f->arena, &reply), QUEUE_E_STALE);
    CHECK_INT(ask_of(f, next, ask).state, ESCALATION_PENDING);
    CHECK_INT(counted(f, ESCALATION_PENDING), 1); /* it is the same question */
    CHECK_INT(finish(f, next, TASK_OUTCOME_ESCALATED, &state), 0);
    CHECK_INT(resolve(f, ref.id, "1"), 0);
    return 0;
}

static void test_asked_again_after_a_crash(void **state)
{
    run(state, body_crash);
}

static int body_unanswered(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    EscalationAsk with = question("with", 1);
    with.fallback = STR("\"no\"");
    TaskRef one = escalated(f, worker, with);
    TaskRef two = escalated(f, worker, question("without", 1));
    TaskState state = TASK_STATE_N_;
    pass_ms(HOUR_MS - 1);
    heartbeat(f, worker, NULL, 0);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_INT(get(f, one.id).state, TASK_ESCALATED);
    pass_ms(1);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_INT(get(f, one.id).state, TASK_QUEUED);
    Task failed = get(f, two.id);
    CHECK_INT(failed.state, TASK_FAILED);
    CHECK_STR(failed.error_code, STR("escalation_unanswered"));
    TaskRef next = claim_one(f, worker);
    EscalationReply reply = ask_of(f, next, with);
    CHECK_INT(reply.state, ESCALATION_DEFAULTED);
    CHECK_STR(reply.answer, STR("\"no\""));
    CHECK_INT(finish(f, next, TASK_OUTCOME_SUCCEEDED, &state), 0);

    /* retried by hand it asks anew */
    CHECK_INT(queue_retry_wait(f->queue, two.id, false), 0);
    next = claim_one(f, worker);
    CHECK_INT(ask_of(f, next, question("without", 1)).state, ESCALATION_PENDING);
    CHECK_INT(counted(f, ESCALATION_DEFAULTED), 1);
    CHECK_INT(counted(f, ESCALATION_EXPIRED), 1);

    /* an attempt that asks when the time is over already is told */
    pass_ms(HOUR_MS);
    heartbeat(f, worker, &next, 1);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_INT(get(f, two.id).state, TASK_RUNNING);
    CHECK_INT(ask_of(f, next, question("without", 1)).state, ESCALATION_EXPIRED);
    CHECK_INT(finish(f, next, TASK_OUTCOME_ESCALATED, &state), 0); /* it had asked before */
    CHECK_INT(state, TASK_FAILED);
    CHECK_STR(get(f, two.id).error_code, STR("escalation_unanswered"));
    return 0;
}

static void test_unanswered(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->options.lease_ms = 10 * HOUR_MS;
    open_queue(f);
    run(state, body_unanswered);
}

static int body_ended(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    TaskRef ref = escalated(f, worker, question("may I?", 1));
    TaskState state = TASK_STATE_N_;
    CHECK_INT(queue_cancel_wait(f->queue, ref.id, STR("user"), &state), 0);
    CHECK_INT(state, TASK_CANCELED);
    CHECK_INT(resolve(f, ref.id, "1"), QUEUE_E_STATE);
    CHECK_INT(resolve(f, (Uuid){ { 1 } }, "1"), QUEUE_E_NO_TASK);
    check_counts(f, LANE_NORMAL, 0, 0);

    /* begun anew, fresh: an answer that was given is not given again */
    ref = escalated(f, worker, question("may I?", 1));
    CHECK_INT(resolve(f, ref.id, "1"), 0);
    TaskRef next = claim_one(f, worker);
    CHECK_INT(finish(f, next, TASK_OUTCOME_FAILED_FINAL, &state), 0);
    CHECK_INT(queue_retry_wait(f->queue, ref.id, false), 0);
    next = claim_one(f, worker);
    CHECK_INT(ask_of(f, next, question("may I?", 1)).state, ESCALATION_ANSWERED);
    CHECK_INT(finish(f, next, TASK_OUTCOME_FAILED_FINAL, &state), 0);
    CHECK_INT(queue_retry_wait(f->queue, ref.id, true), 0);
    next = claim_one(f, worker);
    CHECK_INT(ask_of(f, next, question("may I?", 1)).state, ESCALATION_PENDING);
    return 0;
}

static void test_ended(void **state)
{
    run(state, body_ended);
}

static int body_limit(void *arg)
{
    Fixture *f = arg;
    EscalationReply reply;
    submit(f, LANE_NORMAL);
    TaskRef ref = claim_one(f, add_worker(f, 1, WORKER_EMBEDDED));
    for (int i = 1; i <= ESCALATIONS_MAX; i++) ask_of(f, ref, question("more?", i));
    EscalationAsk more = question("more?", ESCALATIONS_MAX + 1);
    CHECK_INT(queue_escalate_wait(f->queue, ref, &more, &f->arena, &reply), QUEUE_E_ESCALATIONS);
    CHECK_INT(ask_of(f, ref, question("more?", 3)).state, ESCALATION_PENDING); /* known ones: yes */
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.escalations_refused, 1);
    return 0;
}

static void test_limit(void **state)
{
    run(state, body_limit);
}

/* A person's time is not the task's. */
static int body_deadline(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    TaskNew new = { .agent = STR("support"), .input = STR("1"), .time_limit_ms = 60000 };
    TaskSummary summary = { 0 };
    TaskState state = TASK_STATE_N_;
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    TaskRef ref = claim_one(f, worker);
    pass_ms(20000);
    ask_of(f, ref, question("may I?", 1));
    CHECK_INT(finish(f, ref, TASK_OUTCOME_ESCALATED, &state), 0);
    pass_ms(500000);
    CHECK_INT(resolve(f, ref.id, "1"), 0);
    CHECK_INT(get(f, ref.id).deadline_at_ms, real_now + 40000);
    ref = claim_one(f, worker);
    CHECK(uuid_eq(ref.id, summary.id));
    /* whatever the clock does while the person thinks */
    worker = add_worker(f, 2, WORKER_EMBEDDED);
    for (int64_t ms = -86400000; ms <= 86400000; ms += 2 * 86400000) {
        EscalationAsk ask = question("and now?", ms > 0 ? 1 : 2);
        ask.timeout_ms = 10 * 86400000;
        ask_of(f, ref, ask);
        CHECK_INT(finish(f, ref, TASK_OUTCOME_ESCALATED, &state), 0);
        pass_ms(5000);
        real_now += ms;
        CHECK_INT(resolve(f, ref.id, "1"), 0); /* before anybody has looked at the clock */
        CHECK_INT(queue_tick_wait(f->queue), 0);
        CHECK_INT(get(f, ref.id).state, TASK_QUEUED);
        CHECK_INT(get(f, ref.id).deadline_at_ms, real_now + 40000);
        ref = claim_one(f, worker);
    }
    return 0;
}

static void test_deadline(void **state)
{
    run(state, body_deadline);
}

/* A question has its time whatever the clock does. */
static int body_set(void *arg)
{
    Fixture *f = arg;
    TaskRef ref = escalated(f, add_worker(f, 1, WORKER_EMBEDDED), question("may I?", 1));
    for (int i = 0; i < 4; i++) {
        pass_ms(1000);
        real_now += i % 2 ? -86400000 : 86400000;
        CHECK_INT(queue_tick_wait(f->queue), 0);
        CHECK_INT(asked(f, ref.id).expires_at_ms, real_now + HOUR_MS - (i + 1) * 1000);
        CHECK_INT(get(f, ref.id).state, TASK_ESCALATED);
    }
    pass_ms(HOUR_MS - 4000);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK(get(f, ref.id).state != TASK_ESCALATED);
    return 0;
}

static void test_a_clock_that_is_set(void **state)
{
    run(state, body_set);
}

/* The clock is set back while the attempt that has asked still runs, and is answered: it would have
 * waited for ever for an answer that seemed to be older than its question. */
static int body_set_back(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    TaskState state = TASK_STATE_N_;
    submit(f, LANE_NORMAL);
    TaskRef ref = claim_one(f, worker);
    ask_of(f, ref, question("may I?", 1));
    pass_ms(1000);
    real_now -= 86400000;
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_INT(resolve(f, ref.id, "true"), 0);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_ESCALATED, &state), 0);
    CHECK_INT(state, TASK_QUEUED);
    TaskRef next = claim_one(f, worker);
    CHECK_STR(ask_of(f, next, question("may I?", 1)).answer, STR("true"));
    return 0;
}

static void test_a_clock_that_is_set_back(void **state)
{
    run(state, body_set_back);
}

static int body_before(void *arg)
{
    Fixture *f = arg;
    escalated(f, add_worker(f, 1, WORKER_EMBEDDED), question("may I?", 1));
    return 0;
}

static int body_after(void *arg)
{
    Fixture *f = arg;
    TaskPage page;
    TaskFilter filter = { .state = TASK_ESCALATED, .lane = -1 };
    CHECK_INT(queue_list_wait(f->queue, &filter, &f->arena, &page), 0);
    if (!CHECK_INT(page.n, 1)) return 0;
    CHECK_INT(resolve(f, page.tasks[0].id, "1"), 0);
    TaskRef ref = claim_one(f, add_worker(f, 2, WORKER_EMBEDDED));
    CHECK_INT(ask_of(f, ref, question("may I?", 1)).state, ESCALATION_ANSWERED);
    return 0;
}

static void test_a_restart(void **state)
{
    run(state, body_before);
    close_queue(*state);
    open_queue(*state);
    run(state, body_after);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_answered),
        CASE(test_answered_at_once),
        CASE(test_asked_again_after_a_crash),
        CASE(test_unanswered),
        CASE(test_ended),
        CASE(test_limit),
        CASE(test_deadline),
        CASE(test_a_clock_that_is_set),
        CASE(test_a_clock_that_is_set_back),
        CASE(test_a_restart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
