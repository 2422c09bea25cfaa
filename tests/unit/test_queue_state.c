/* What agents keep in their sessions: versions, conditions, limits, fences, forgetting. */
#include "queue_fixture.h"

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup_sessions, teardown)

/* Tasks of a session run at the same time: that is what versions are for. */
static int setup_sessions(void **state)
{
    int r = setup(state);
    if (r != 0) return r;
    Fixture *f = *state;
    close_queue(f);
    f->options.session_tasks_max = 100;
    open_queue(f);
    return 0;
}

static TaskRef task_of(Fixture *f, Uuid worker, const char *session, const char *tenant)
{
    TaskNew new = { .agent = STR("support"),
                    .input = STR("1"),
                    .lane = LANE_NORMAL,
                    .session_id = str_of(session),
                    .tenant_id = str_of(tenant) };
    TaskSummary summary = { 0 };
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    return claim_one(f, worker);
}

static StateReply ask(Fixture *f, TaskRef task, StateAsk what)
{
    StateReply reply = { .outcome = STATE_OUTCOME_N_ };
    CHECK_INT(queue_state_wait(f->queue, task, &what, &f->arena, &reply), 0);
    return reply;
}

static StateReply put(Fixture *f, TaskRef task, const char *key, const char *value, int64_t if_is)
{
    return ask(f, task,
               (StateAsk){ .what = STATE_PUT,
                           .key = str_of(key),
                           .value = str_of(value),
                           .content_type = STR("text/plain"),
                           .if_version = if_is });
}

static StateReply read_key(Fixture *f, TaskRef task, const char *key)
{
    return ask(f, task, (StateAsk){ .what = STATE_GET, .key = str_of(key) });
}

static StateReply take(Fixture *f, TaskRef task, const char *key, int64_t if_is)
{
    return ask(f, task,
               (StateAsk){ .what = STATE_DELETE, .key = str_of(key), .if_version = if_is });
}

static int body_versions(void *arg)
{
    Fixture *f = arg;
    TaskRef task = task_of(f, add_worker(f, 1, WORKER_EMBEDDED), "s", "");
    CHECK_INT(read_key(f, task, "k").outcome, STATE_NONE);
    CHECK_INT(take(f, task, "k", STATE_ANY).outcome, STATE_NONE);
    StateReply made = put(f, task, "k", "one", STATE_ABSENT);
    CHECK(made.outcome == STATE_OK && made.created);
    CHECK_INT(put(f, task, "k", "two", STATE_ABSENT).outcome, STATE_MISMATCH);
    StateReply changed = put(f, task, "k", "two", made.row.version);
    CHECK(changed.outcome == STATE_OK && !changed.created);
    CHECK(changed.row.version > made.row.version);
    StateReply late = put(f, task, "k", "late", made.row.version);
    CHECK_INT(late.outcome, STATE_MISMATCH);
    CHECK_INT(late.row.version, changed.row.version);
    CHECK_STR(read_key(f, task, "k").row.value, STR("two"));
    CHECK_STR(read_key(f, task, "k").row.content_type, STR("text/plain"));
    CHECK_INT(put(f, task, "none", "x", STATE_PRESENT).outcome, STATE_MISMATCH);

    /* what comes after a deletion is not what was there before */
    CHECK_INT(take(f, task, "k", made.row.version).outcome, STATE_MISMATCH);
    CHECK_INT(take(f, task, "k", changed.row.version).outcome, STATE_OK);
    CHECK_INT(read_key(f, task, "k").outcome, STATE_NONE);
    StateReply again = put(f, task, "k", "", STATE_ANY);
    CHECK(again.created && again.row.version > changed.row.version);
    CHECK_INT(read_key(f, task, "k").row.value.len, 0);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.state_writes, 4);
    CHECK_INT(stats.state_mismatches, 4);
    return 0;
}

static void test_versions(void **state)
{
    run(state, body_versions);
}

/* A session belongs to its tenant; a task without one has its own. */
static int body_whose(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    TaskRef one = task_of(f, worker, "s", "a");
    put(f, one, "k", "of s", STATE_ANY);
    CHECK_STR(read_key(f, task_of(f, worker, "s", "a"), "k").row.value, STR("of s"));
    CHECK_INT(read_key(f, task_of(f, worker, "s", "b"), "k").outcome, STATE_NONE);
    CHECK_INT(read_key(f, task_of(f, worker, "t", "a"), "k").outcome, STATE_NONE);
    TaskRef alone = task_of(f, worker, "", "");
    put(f, alone, "k", "alone", STATE_ANY);
    CHECK_INT(read_key(f, task_of(f, worker, "", ""), "k").outcome, STATE_NONE);
    TaskState state;
    CHECK_INT(finish(f, alone, TASK_OUTCOME_RELEASED, &state), 0);
    TaskRef later = claim_one(f, worker); /* its next attempt finds it */
    CHECK(uuid_eq(later.id, alone.id));
    CHECK_STR(read_key(f, later, "k").row.value, STR("alone"));
    return 0;
}

static void test_whose(void **state)
{
    run(state, body_whose);
}

static int body_fence(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    TaskRef old = task_of(f, worker, "s", "");
    TaskState state;
    StateReply reply;
    put(f, old, "k", "kept", STATE_ANY);
    CHECK_INT(finish(f, old, TASK_OUTCOME_RELEASED, &state), 0);
    TaskRef now = claim_one(f, worker);
    for (StateWhat what = STATE_GET; what < STATE_WHAT_N_; what++) {
        StateAsk stale = {
            .what = what, .key = STR("k"), .value = STR("zombie"), .if_version = -1
        };
        CHECK_INT(queue_state_wait(f->queue, old, &stale, &f->arena, &reply), QUEUE_E_STALE);
    }
    CHECK_STR(read_key(f, now, "k").row.value, STR("kept"));
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.stale, 4);
    return 0;
}

static void test_fence(void **state)
{
    run(state, body_fence);
}

static int body_limits(void *arg)
{
    Fixture *f = arg;
    TaskRef task = task_of(f, add_worker(f, 1, WORKER_EMBEDDED), "s", "");
    char large[101];
    memset(large, 'x', 100);
    large[100] = '\0';
    CHECK_INT(put(f, task, "a", large, STATE_ANY).outcome, STATE_TOO_LARGE);
    large[99] = '\0';
    CHECK_INT(put(f, task, "a", large, STATE_ANY).outcome, STATE_OK);
    CHECK_INT(put(f, task, "b", large, STATE_ANY).outcome, STATE_OK);
    CHECK_INT(put(f, task, "c", large, STATE_ANY).outcome, STATE_FULL); /* bytes: 250 */
    CHECK_INT(put(f, task, "b", "", STATE_ANY).outcome, STATE_OK);
    CHECK_INT(put(f, task, "c", large, STATE_ANY).outcome, STATE_OK);
    CHECK_INT(put(f, task, "d", "", STATE_ANY).outcome, STATE_FULL); /* keys: 3 */
    CHECK_INT(put(f, task, "b", "x", STATE_ANY).outcome, STATE_OK);
    StateReply list = ask(f, task, (StateAsk){ .what = STATE_LIST });
    CHECK_INT(list.rows_n, 3);
    CHECK_STR(list.rows[0].key, STR("a"));
    CHECK_INT(list.rows[2].bytes, 99);
    CHECK_INT(take(f, task, "a", STATE_ANY).outcome, STATE_OK);
    CHECK_INT(put(f, task, "d", "", STATE_ANY).outcome, STATE_OK);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.state_refused, 3);
    return 0;
}

static void test_limits(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->options.state_value_bytes_max = 99;
    f->options.state_bytes_max = 250;
    f->options.state_keys_max = 3;
    open_queue(f);
    run(state, body_limits);
}

/* Many attempts to add one: none is lost, whoever comes between. */
#define ADDERS 8
#define ADDS 25

typedef struct {
    Fixture *f;
    TaskRef task;
} Adder;

static int adder_main(void *arg)
{
    Adder *a = arg;
    for (int i = 0; i < ADDS; i++) {
        StateOutcome outcome = STATE_MISMATCH;
        while (outcome == STATE_MISMATCH) {
            int64_t n = 0;
            char text[32];
            StateReply now = read_key(a->f, a->task, "n");
            if (now.outcome == STATE_OK) CHECK_INT(str_to_i64(now.row.value, &n), 0);
            snprintf(text, sizeof text, "%" PRId64, n + 1);
            outcome = put(a->f, a->task, "n", text, now.row.version).outcome;
        }
    }
    return 0;
}

static int body_adders(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    Adder adders[ADDERS];
    FiberRef fibers[ADDERS];
    for (int i = 0; i < ADDERS; i++) adders[i] = (Adder){ f, task_of(f, worker, "s", "") };
    for (int i = 0; i < ADDERS; i++)
        CHECK_INT(fiber_spawn("adder", adder_main, &adders[i], &fibers[i]), 0);
    for (int i = 0; i < ADDERS; i++) CHECK_INT(fiber_join_wait(fibers[i], NULL), 0);
    CHECK_STR(read_key(f, adders[0].task, "n").row.value, STR("200"));
    return 0;
}

static void test_compare_and_set(void **state)
{
    run(state, body_adders);
}

static int body_forgetting(void *arg)
{
    Fixture *f = arg;
    TaskRef task = task_of(f, add_worker(f, 1, WORKER_EMBEDDED), "s", "");
    put(f, task, "a", "1", STATE_ANY);
    put(f, task, "b", "1", STATE_ANY);
    real_now += 999;
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_STR(read_key(f, task, "a").row.value, STR("1"));
    put(f, task, "b", "2", STATE_ANY); /* the session counts as used */
    pass_ms(120000);
    real_now -= 120000 - 1000;
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_STR(read_key(f, task, "a").row.value, STR("1"));
    for (int i = 0; i < 3; i++) { /* reading keeps it, and so does a task that is open */
        pass_ms(60500);
        CHECK_STR(read_key(f, task, "b").row.value, STR("2"));
        CHECK_INT(queue_tick_wait(f->queue), 0);
    }
    TaskRef alone = task_of(f, worker_of(1), "", "");
    put(f, alone, "c", "3", STATE_ANY);
    pass_ms(120000);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_STR(read_key(f, task, "b").row.value, STR("2"));
    CHECK_STR(read_key(f, alone, "c").row.value, STR("3"));
    CHECK_INT(finish(f, alone, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    CHECK_INT(finish(f, task, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    pass_ms(120000);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.state_purged, 5);
    return 0;
}

static void forgetting(void **state, int64_t session_tasks_max)
{
    Fixture *f = *state;
    close_queue(f);
    f->options.session_tasks_max = session_tasks_max;
    f->options.state_kept_ms = 1000;
    f->options.lease_ms = 3600000;
    open_queue(f);
    run(state, body_forgetting);
}

static void test_forgetting(void **state)
{
    forgetting(state, 1);
}

/* Of a session whose tasks need not run one after another. */
static void test_forgetting_freely(void **state)
{
    forgetting(state, -1);
}

static int body_before(void *arg)
{
    Fixture *f = arg;
    TaskRef task = task_of(f, add_worker(f, 1, WORKER_EMBEDDED), "s", "");
    put(f, task, "k", "kept", STATE_ANY);
    return 0;
}

static int body_after(void *arg)
{
    Fixture *f = arg;
    TaskRef task = claim_one(f, add_worker(f, 2, WORKER_EMBEDDED));
    CHECK_STR(read_key(f, task, "k").row.value, STR("kept"));
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
        CASE(test_versions),        CASE(test_whose),
        CASE(test_fence),           CASE(test_limits),
        CASE(test_compare_and_set), CASE(test_forgetting),
        CASE(test_a_restart),       CASE(test_forgetting_freely),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
