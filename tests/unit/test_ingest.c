#include "tests/unit/queue_fixture.h"

#include <math.h>

#include "rollout/ingest.h"
#include "store/rollup_store.h"

/* --- shorthands ------------------------------------------------------------------------------- */

typedef struct {
    int64_t from_ms, to_ms;
    Rollup *ret;
} Sum;

static int sum_job(Db *db, void *arg)
{
    Sum *sum = arg;
    return rollup_sum(db, STR("support"), STR(VERSION_A), sum->from_ms, sum->to_ms, real_now,
                      sum->ret);
}

/* Of the version, after all news are in. */
static Rollup *sum_of(Fixture *f, int64_t from_ms, int64_t to_ms)
{
    Sum sum = { from_ms, to_ms, ARENA_NEW(&f->arena, Rollup) };
    CHECK_INT(ingest_wait(f->store, NULL), 0);
    CHECK_INT(store_read_wait(f->store, sum_job, &sum), 0);
    return sum.ret;
}

static Rollup *last_hour(Fixture *f)
{
    return sum_of(f, real_now - 3600000, real_now + 1);
}

/* A task that ends; its id. */
static Uuid end_one(Fixture *f, TaskOutcome outcome, int64_t cost_nusd)
{
    Uuid id = submit(f, LANE_NORMAL);
    TaskRef ref = claim_one(f, worker_of(1));
    TaskFinish finish = { .task = ref,
                          .outcome = outcome,
                          .usage = { .input_tokens = 90,
                                     .output_tokens = 10,
                                     .llm_calls = 1,
                                     .tool_calls = 2,
                                     .cost_nusd = cost_nusd } };
    pass_ms(20);
    CHECK_INT(queue_finish_wait(f->queue, &finish, NULL), 0);
    return id;
}

static double score(Fixture *f, Uuid id, const char *name, double value)
{
    double quality = -1;
    TaskScore score = { .id = id, .name = str_of(name), .value = value };
    CHECK_INT(queue_score_wait(f->queue, &score, &quality), 0);
    return quality;
}

/* --- tests ------------------------------------------------------------------------------------ */

static int each_task_counts_once(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    end_one(f, TASK_OUTCOME_SUCCEEDED, 500);
    end_one(f, TASK_OUTCOME_FAILED_FINAL, 300);
    end_one(f, TASK_OUTCOME_TIMED_OUT, 0);
    TaskState state;
    CHECK_INT(queue_cancel_wait(f->queue, submit(f, LANE_NORMAL), STR("user"), &state), 0);
    submit(f, LANE_NORMAL); /* waits: no news */
    for (int i = 0; i < 2; i++) {
        Rollup *r = last_hour(f);
        RollupSignals s = rollup_signals(r);
        CHECK_INT(s.task_count, 3);
        CHECK_INT(r->succeeded, 1);
        CHECK_INT(r->failed, 1);
        CHECK_INT(r->timed_out, 1);
        CHECK_INT(r->canceled, 1);
        CHECK_INT(r->cost_nusd, 800);
        CHECK_INT(r->tokens, 300);
        CHECK_INT(r->tool_calls, 6);
        CHECK_INT(histogram_count(&r->input_bytes), 3); /* of those that count */
        CHECK_INT(r->input_bytes.n[0], 0);
        CHECK_INT(s.latency_p50_ms, histogram_quantile(&r->latency_ms, 1));
        CHECK(s.latency_p50_ms >= 20 && s.latency_p50_ms < 24);
    }
    return 0;
}

static void test_each_task_counts_once(void **state)
{
    run(state, each_task_counts_once);
}

/* A task during which the clock is set takes no longer for it. */
static int clock_is_set(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    TaskNew new = { .agent = STR("support"), .lane = LANE_NORMAL, .time_limit_ms = 60000 };
    TaskSummary summary = { 0 };
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    TaskRef ref = claim_one(f, worker_of(1));
    pass_ms(500);
    real_now += 86400000;
    CHECK_INT(queue_tick_wait(f->queue), 0);
    pass_ms(500);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    RollupSignals s = rollup_signals(last_hour(f));
    CHECK_INT(s.task_count, 1);
    CHECK(s.latency_p50_ms >= 1000 && s.latency_p50_ms < 1100);
    return 0;
}

static void test_a_clock_that_is_set_is_no_latency(void **state)
{
    run(state, clock_is_set);
}

/* A person has a failed task run again: its failure is taken back, its usage counts once. */
static int what_goes_on_is_taken_back(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    Uuid id = end_one(f, TASK_OUTCOME_FAILED_FINAL, 300);
    score(f, id, "grader", 0.25);
    CHECK_INT(last_hour(f)->failed, 1);
    CHECK_INT(last_hour(f)->scores, 1);
    CHECK_INT(queue_retry_wait(f->queue, id, false), 0);
    Rollup *r = last_hour(f);
    CHECK_INT(rollup_signals(r).task_count, 0);
    CHECK_INT(r->cost_nusd, 0);
    CHECK_INT(histogram_count(&r->input_bytes), 0);
    CHECK_INT(r->scores, 0);
    CHECK(isnan(get(f, id).quality));
    pass_ms(600000);
    CHECK_INT(finish(f, claim_one(f, worker_of(1)), TASK_OUTCOME_SUCCEEDED, NULL), 0);
    r = last_hour(f);
    CHECK_INT(r->failed, 0);
    CHECK_INT(r->succeeded, 1);
    CHECK_INT(r->cost_nusd, 300);
    return 0;
}

static void test_what_goes_on_is_taken_back(void **state)
{
    run(state, what_goes_on_is_taken_back);
}

static int escalated_tasks_wait(void *arg)
{
    Fixture *f = arg;
    TaskState state;
    add_worker(f, 1, WORKER_REMOTE);
    Uuid id = end_one(f, TASK_OUTCOME_ESCALATED, 10);
    Rollup *r = last_hour(f);
    RollupSignals s = rollup_signals(r);
    CHECK_INT(s.task_count, 1);
    CHECK(s.escalation_rate == 1 && s.completion_rate == 0 && s.error_rate == 0);
    pass_ms(120000);
    CHECK_INT(queue_cancel_wait(f->queue, id, STR("user"), &state), 0);
    r = last_hour(f);
    CHECK_INT(rollup_signals(r).task_count, 0);
    CHECK_INT(r->canceled, 1);
    CHECK_INT(r->escalated, 0);
    CHECK_INT(queue_retry_wait(f->queue, id, false), 0); /* a run of its own: it asks nobody */
    pass_ms(20);
    CHECK_INT(finish(f, claim_one(f, worker_of(1)), TASK_OUTCOME_SUCCEEDED, NULL), 0);
    r = last_hour(f);
    CHECK_INT(r->succeeded, 1);
    CHECK(rollup_signals(r).escalation_rate == 0);
    return 0;
}

static void test_escalated_tasks_wait(void **state)
{
    run(state, escalated_tasks_wait);
}

/* Scores that come late go where the task is; a name that scores again replaces what it said. */
static int scores_go_to_the_tasks_own_bucket(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    int64_t then = real_now;
    Uuid id = end_one(f, TASK_OUTCOME_SUCCEEDED, 0);
    CHECK_INT(last_hour(f)->scores, 0);
    pass_ms(INT64_C(5) * 86400000);
    CHECK(score(f, id, "ada", 0.5) == 0.5);
    CHECK(score(f, id, "ada", 0.5) == 0.5); /* told twice */
    CHECK(score(f, id, "ada", 1) == 1);
    CHECK(score(f, id, "rules", 0.5) == 0.75);
    CHECK_INT(last_hour(f)->scores, 0);
    Rollup *r = sum_of(f, then, then + 3600000);
    CHECK_INT(r->scores, 1);
    CHECK_INT(r->score_sum, 750000);
    CHECK_INT(rollup_signals(r).task_count, 1);
    CHECK(get(f, id).quality == 0.75);
    return 0;
}

static void test_scores_go_to_the_tasks_own_bucket(void **state)
{
    run(state, scores_go_to_the_tasks_own_bucket);
}

/* A score of a task that still runs counts with its end. */
static int scores_before_the_end(void *arg)
{
    Fixture *f = arg;
    double quality;
    add_worker(f, 1, WORKER_REMOTE);
    Uuid id = submit(f, LANE_NORMAL);
    TaskRef ref = claim_one(f, worker_of(1));
    score(f, id, "agent", 0.4);
    CHECK_INT(last_hour(f)->scores, 0);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    CHECK_INT(last_hour(f)->score_sum, 400000);
    TaskScore nobody = { .id = worker_of(1), .name = STR("x"), .value = 1 };
    CHECK_INT(queue_score_wait(f->queue, &nobody, &quality), QUEUE_E_NO_TASK);
    for (int i = 1; i < SCORE_NAMES_MAX; i++) {
        Str name = arena_printf(&f->arena, "n%d", i);
        score(f, id, name.ptr, 0.4);
    }
    TaskScore many = { .id = id, .name = STR("one more"), .value = 1 };
    CHECK_INT(queue_score_wait(f->queue, &many, &quality), QUEUE_E_SCORES);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.scores_refused, 1);
    CHECK_INT(last_hour(f)->scores, 1);
    return 0;
}

static void test_scores_before_the_end(void **state)
{
    run(state, scores_before_the_end);
}

/* Calls that are reported after the end belong to it; a degraded one takes the task out. */
static int late_calls(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    Uuid id = submit(f, LANE_NORMAL);
    TaskRef ref = claim_one(f, worker_of(1));
    CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    score(f, id, "ada", 0.5);
    CHECK_INT(last_hour(f)->cost_nusd, 0);
    Call call = { .call_id = STR("late-1"),
                  .provider = STR("p"),
                  .model = STR("m"),
                  .protocol = STR("openai"),
                  .outcome = STR("ok"),
                  .cost_nusd = 40,
                  .input_tokens = 3 };
    CHECK_INT(queue_calls_add_wait(f->queue, ref, &call, 1), QUEUE_E_STALE);
    CHECK_INT(queue_calls_add_wait(f->queue, ref, &call, 1), QUEUE_E_STALE); /* told twice */
    Rollup *r = last_hour(f);
    CHECK_INT(r->cost_nusd, 40);
    CHECK_INT(r->llm_calls, 1);
    CHECK_INT(r->succeeded, 1);
    call.call_id = STR("late-2");
    call.degraded = STR("small");
    CHECK_INT(queue_calls_add_wait(f->queue, ref, &call, 1), QUEUE_E_STALE);
    r = last_hour(f);
    CHECK_INT(r->degraded, 1);
    CHECK_INT(r->succeeded, 0);
    CHECK_INT(r->scores, 0);
    CHECK_INT(r->cost_nusd, 0);
    return 0;
}

static void test_late_calls(void **state)
{
    run(state, late_calls);
}

/* All this befalls tasks that nobody has looked at yet. */
static int changes_before_they_are_read(void *arg)
{
    Fixture *f = arg;
    int64_t taken = 0;
    add_worker(f, 1, WORKER_REMOTE);
    Uuid id = end_one(f, TASK_OUTCOME_FAILED_FINAL, 300);
    score(f, id, "ada", 0.5);
    CHECK_INT(queue_retry_wait(f->queue, id, false), 0);
    CHECK_INT(ingest_wait(f->store, &taken), 0);
    CHECK_INT(taken, 0);
    TaskRef ref = claim_one(f, worker_of(1));
    CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    score(f, id, "ada", 0.25);
    score(f, id, "ada", 0.75);
    Call call = { .call_id = STR("late"),
                  .provider = STR("p"),
                  .model = STR("m"),
                  .protocol = STR("openai"),
                  .outcome = STR("ok"),
                  .cost_nusd = 40 };
    CHECK_INT(queue_calls_add_wait(f->queue, ref, &call, 1), QUEUE_E_STALE);
    Rollup *r = last_hour(f);
    CHECK_INT(rollup_signals(r).task_count, 1);
    CHECK_INT(r->succeeded, 1);
    CHECK_INT(r->cost_nusd, 340);
    CHECK_INT(r->scores, 1);
    CHECK_INT(r->score_sum, 750000);
    return 0;
}

static void test_changes_before_they_are_read(void **state)
{
    run(state, changes_before_they_are_read);
}

/* Calls that are reported when the task runs again belong to its next end. */
static int late_calls_of_a_retried_task(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    Uuid id = submit(f, LANE_NORMAL);
    TaskRef old = claim_one(f, worker_of(1));
    CHECK_INT(finish(f, old, TASK_OUTCOME_FAILED_FINAL, NULL), 0);
    CHECK_INT(last_hour(f)->failed, 1);
    CHECK_INT(queue_retry_wait(f->queue, id, false), 0);
    Call call = { .call_id = STR("late"),
                  .provider = STR("p"),
                  .model = STR("m"),
                  .protocol = STR("openai"),
                  .outcome = STR("ok"),
                  .cost_nusd = 40 };
    CHECK_INT(queue_calls_add_wait(f->queue, old, &call, 1), QUEUE_E_STALE);
    CHECK_INT(rollup_signals(last_hour(f)).task_count, 0);
    CHECK_INT(finish(f, claim_one(f, worker_of(1)), TASK_OUTCOME_SUCCEEDED, NULL), 0);
    Rollup *r = last_hour(f);
    CHECK_INT(r->failed, 0);
    CHECK_INT(r->succeeded, 1);
    CHECK_INT(r->cost_nusd, 40);
    return 0;
}

static void test_late_calls_of_a_retried_task(void **state)
{
    run(state, late_calls_of_a_retried_task);
}

static int conduct_is_counted(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    for (int i = 0; i < 3; i++) {
        submit(f, LANE_NORMAL);
        TaskFinish finish = { .task = claim_one(f, worker_of(1)),
                              .outcome = TASK_OUTCOME_SUCCEEDED,
                              .conduct = { .known = i < 2,
                                           .fingerprint = i == 0 ? UINT64_MAX : 0,
                                           .tools = STR("2 orders\nwhat\n1 send mail\n") } };
        CHECK_INT(queue_finish_wait(f->queue, &finish, NULL), 0);
    }
    Rollup *r = last_hour(f);
    CHECK_INT(r->pattern.n, 2);
    CHECK_INT(r->pattern.ones[63], 1);
    CHECK(rollup_signals(r).pattern_variance == 1);
    CHECK_INT(r->tools_n, 2);
    CHECK_STR(str_of(r->tools[1].name), STR("send mail"));
    CHECK_INT(r->tools[0].calls, 6);
    CHECK_INT(r->tools[0].tasks, 3);
    return 0;
}

static void test_conduct_is_counted(void **state)
{
    run(state, conduct_is_counted);
}

/* More news than one helping takes, of more minutes than it has room for. */
static int many_minutes(void *arg)
{
    Fixture *f = arg;
    int64_t then = real_now, news = 0;
    TaskState state;
    enum { TASKS = INGEST_NEWS_MAX + 100 };
    for (int i = 0; i < TASKS; i++) {
        Uuid id = submit(f, LANE_LOW);
        CHECK_INT(queue_cancel_wait(f->queue, id, STR("user"), &state), 0);
        if (i % 10 == 0) pass_ms(60000);
    }
    CHECK_INT(ingest_wait(f->store, &news), 0);
    CHECK_INT(news, TASKS);
    CHECK_INT(ingest_wait(f->store, &news), 0);
    CHECK_INT(news, 0);
    CHECK_INT(sum_of(f, then, real_now + 1)->canceled, TASKS);
    return 0;
}

static void test_many_minutes(void **state)
{
    run(state, many_minutes);
}

static int spoil_job(Db *db, void *arg)
{
    (void)arg;
    return db_run(db_stmt(db, "UPDATE rollup SET bytes = x'0102'"), NULL);
}

/* One that cannot be read keeps no news from being taken, those of others least of all. */
static int goes_on_from_unreadable(void *arg)
{
    Fixture *f = arg;
    int64_t news = 0;
    add_worker(f, 1, WORKER_REMOTE);
    end_one(f, TASK_OUTCOME_SUCCEEDED, 5);
    CHECK_INT(last_hour(f)->cost_nusd, 5);
    CHECK_INT(store_call_wait(f->store, spoil_job, NULL), 0);
    end_one(f, TASK_OUTCOME_SUCCEEDED, 7);
    CHECK_INT(ingest_wait(f->store, &news), 0);
    CHECK_INT(news, 1);
    CHECK_INT(last_hour(f)->cost_nusd, 7);
    return 0;
}

static void test_unreadable_rollups_are_begun_anew(void **state)
{
    run(state, goes_on_from_unreadable);
}

static int purge_job(Db *db, void *arg)
{
    return rollup_purge(db, *(int64_t *)arg);
}

static int old_spans_go(void *arg)
{
    Fixture *f = arg;
    int64_t then = real_now;
    add_worker(f, 1, WORKER_REMOTE);
    end_one(f, TASK_OUTCOME_SUCCEEDED, 5);
    CHECK_INT(last_hour(f)->cost_nusd, 5);
    for (int days = 1; days <= 700; days += 30) {
        pass_ms(days * INT64_C(86400000));
        int64_t now = real_now;
        CHECK_INT(store_call_wait(f->store, purge_job, &now), 0);
        int64_t kept = real_now - then < ROLLUP_DAYS_KEPT_MS ? 5 : 0;
        CHECK_INT(sum_of(f, then, then + 60000)->cost_nusd, kept);
    }
    return 0;
}

static void test_old_spans_go(void **state)
{
    run(state, old_spans_go);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_each_task_counts_once),
        CASE(test_a_clock_that_is_set_is_no_latency),
        CASE(test_what_goes_on_is_taken_back),
        CASE(test_escalated_tasks_wait),
        CASE(test_scores_go_to_the_tasks_own_bucket),
        CASE(test_scores_before_the_end),
        CASE(test_late_calls),
        CASE(test_changes_before_they_are_read),
        CASE(test_late_calls_of_a_retried_task),
        CASE(test_conduct_is_counted),
        CASE(test_many_minutes),
        CASE(test_unreadable_rollups_are_begun_anew),
        CASE(test_old_spans_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
