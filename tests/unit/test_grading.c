#include "tests/unit/queue_fixture.h"

#include <math.h>

#include "rollout/grading.h"
#include "rollout/ingest.h"
#include "store/grade_store.h"
#include "store/rollup_store.h"

/* --- shorthands ------------------------------------------------------------------------------- */

#define RULES                                                                   \
    "{\"graders\":[{\"name\":\"yes\",\"type\":\"contains\",\"value\":\"yes\"}," \
    "{\"name\":\"cheap\",\"type\":\"cost\",\"threshold\":\"0.0000005\"}]}"

static int settings_job(Db *db, void *arg)
{
    return agent_set_settings(db, STR("support"), str_of(arg));
}

static void set_graders(Fixture *f, const char *settings)
{
    CHECK_INT(store_call_wait(f->store, settings_job, (char *)(uintptr_t)settings), 0);
}

static Uuid end_one(Fixture *f, TaskOutcome outcome, const char *result, int64_t cost_nusd)
{
    Uuid id = submit(f, LANE_NORMAL);
    TaskFinish finish = { .task = claim_one(f, worker_of(1)),
                          .outcome = outcome,
                          .result = str_of(result),
                          .usage = { .cost_nusd = cost_nusd } };
    CHECK_INT(queue_finish_wait(f->queue, &finish, NULL), 0);
    return id;
}

/* How many tasks were graded. */
static int64_t grade(Fixture *f)
{
    int64_t n = -1;
    CHECK_INT(ingest_wait(f->store, NULL), 0);
    CHECK_INT(grading_wait(f->queue, real_now, &n), 0);
    return n;
}

typedef struct {
    Fixture *f;
    GradeSum *sums;
    size_t n;
    Rollup rollup;
} SumJob;

static int sum_job(Db *db, void *arg)
{
    SumJob *job = arg;
    CHECK_INT(grade_sum_list(db, STR("support"), 0, &job->f->arena, &job->sums, &job->n), 0);
    return rollup_sum(db, STR("support"), STR(VERSION_A), real_now - 3600000, real_now + 1,
                      real_now, &job->rollup);
}

static SumJob *sums(Fixture *f)
{
    SumJob *job = ARENA_NEW(&f->arena, SumJob);
    job->f = f;
    CHECK_INT(ingest_wait(f->store, NULL), 0);
    CHECK_INT(store_read_wait(f->store, sum_job, job), 0);
    return job;
}

/* --- tests ------------------------------------------------------------------------------------ */

static int each_task_once(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    Uuid before = end_one(f, TASK_OUTCOME_SUCCEEDED, "\"yes\"", 0);
    CHECK_INT(grade(f), 0); /* nobody had asked for it */
    set_graders(f, RULES);
    Uuid good = end_one(f, TASK_OUTCOME_SUCCEEDED, "\"yes\"", 500);
    Uuid dear = end_one(f, TASK_OUTCOME_SUCCEEDED, "\"yes\"", 501);
    Uuid bad = end_one(f, TASK_OUTCOME_SUCCEEDED, "\"no\"", 501);
    Uuid failed = end_one(f, TASK_OUTCOME_FAILED_FINAL, "", 0);
    CHECK_INT(grade(f), 3);
    CHECK_INT(grade(f), 0);
    CHECK(isnan(get(f, before).quality) && isnan(get(f, failed).quality));
    CHECK(get(f, good).quality == 1);
    CHECK(get(f, dear).quality == 0.5);
    CHECK(get(f, bad).quality == 0);
    SumJob *s = sums(f);
    CHECK_INT(s->n, 2);
    CHECK(str_eq(s->sums[0].grader, STR("cheap")) && s->sums[0].score_sum == 1);
    CHECK(str_eq(s->sums[1].grader, STR("yes")) && s->sums[1].score_sum == 2);
    CHECK_INT(s->sums[1].scored, 3);
    CHECK_INT(s->rollup.scores, 3); /* in the signals of the version */
    CHECK_INT(s->rollup.score_sum, 1500000);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.graded, 3);
    CHECK_INT(stats.grades_failed, 0);
    return 0;
}

static void test_each_task_once(void **state)
{
    run(state, each_task_once);
}

/* A clock that is set meanwhile makes no task slow. */
static int clock_is_set(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    set_graders(f, "{\"graders\":[{\"name\":\"fast\",\"type\":\"latency\","
                   "\"threshold\":\"10s\"}]}");
    TaskNew new = { .agent = STR("support"), .lane = LANE_NORMAL, .time_limit_ms = 60000 };
    TaskSummary summary = { 0 };
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    TaskRef ref = claim_one(f, worker_of(1));
    pass_ms(500);
    real_now += 86400000;
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    CHECK_INT(grade(f), 1);
    CHECK(get(f, summary.id).quality == 1);
    return 0;
}

static void test_a_clock_that_is_set(void **state)
{
    run(state, clock_is_set);
}

/* Two look at the same tasks, and only one of them is heard. */
static int the_second_is_not_heard(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    set_graders(f, RULES);
    Uuid id = end_one(f, TASK_OUTCOME_SUCCEEDED, "\"no\"", 0);
    CHECK_INT(grade(f), 1);
    Grade other = { .grader = STR("yes"), .value = 1, .weight = 1 };
    TaskGrades task = { .seq = 1,
                        .id = id,
                        .agent = STR("support"),
                        .version_id = STR(VERSION_A),
                        .finished_at_ms = real_now,
                        .grades = &other,
                        .n = 1 };
    CHECK_INT(queue_grade_wait(f->queue, &task, 1), 0);
    CHECK(get(f, id).quality == 0.5);
    CHECK_INT(sums(f)->sums[1].scored, 1);
    return 0;
}

static void test_the_second_is_not_heard(void **state)
{
    run(state, the_second_is_not_heard);
}

/* A grader that counts and cannot tell leaves no quality behind: that of the others would be one of
 * other things. */
static int what_cannot_be_told(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    set_graders(f, RULES);
    CLEANUP(buf_deinit) Buf large = { 0 };
    buf_init(&large, 3 << 20);
    buf_add_char(&large, '"');
    for (int i = 0; i < (1 << 20); i++) buf_add_char(&large, 'y');
    buf_add(&large, STR("\"\0"));
    Uuid id = end_one(f, TASK_OUTCOME_SUCCEEDED, large.ptr, 0);
    CHECK_INT(grade(f), 1);
    CHECK(isnan(get(f, id).quality)); /* whatever its cost */
    CHECK_INT(sums(f)->rollup.scores, 0);
    CHECK_INT(sums(f)->sums[1].failed, 1);
    double quality;
    TaskScore score = { .id = id, .name = STR("ada"), .value = 0 };
    CHECK_INT(queue_score_wait(f->queue, &score, &quality), 0);
    CHECK(isnan(quality) && isnan(get(f, id).quality));
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.grades_failed, 1);
    return 0;
}

static void test_what_cannot_be_told(void **state)
{
    run(state, what_cannot_be_told);
}

/* What somebody is faster with than graders is no quality until these are heard. */
static int the_faster(void *arg)
{
    Fixture *f = arg;
    double quality;
    add_worker(f, 1, WORKER_REMOTE);
    set_graders(f, RULES);
    Uuid id = submit(f, LANE_NORMAL);
    TaskFinish end = { .task = claim_one(f, worker_of(1)),
                       .outcome = TASK_OUTCOME_SUCCEEDED,
                       .result = STR("\"no\"") };
    TaskScore score = { .id = id, .name = STR("itself"), .value = 1 };
    CHECK_INT(queue_score_wait(f->queue, &score, &quality), 0);
    CHECK(isnan(quality) && isnan(get(f, id).quality)); /* it runs still */
    CHECK_INT(queue_finish_wait(f->queue, &end, NULL), 0);
    CHECK(isnan(get(f, id).quality));
    CHECK_INT(ingest_wait(f->store, NULL), 0);
    CHECK_INT(sums(f)->rollup.scores, 0); /* nor are the signals of its version told before */
    score.name = STR("ada");
    CHECK_INT(queue_score_wait(f->queue, &score, &quality), 0);
    CHECK(isnan(quality));
    CHECK_INT(grade(f), 1);
    CHECK(get(f, id).quality == 0.75);
    CHECK_INT(sums(f)->rollup.score_sum, 750000);
    /* who fails is not graded: what it says of itself stands */
    id = submit(f, LANE_NORMAL);
    end.task = claim_one(f, worker_of(1));
    end.outcome = TASK_OUTCOME_FAILED_FINAL;
    score = (TaskScore){ .id = id, .name = STR("itself"), .value = 0.5 };
    CHECK_INT(queue_score_wait(f->queue, &score, &quality), 0);
    CHECK_INT(queue_finish_wait(f->queue, &end, NULL), 0);
    CHECK_INT(grade(f), 0);
    CHECK(get(f, id).quality == 0.5);
    CHECK_INT(sums(f)->rollup.score_sum, 1250000);
    return 0;
}

static void test_the_faster(void **state)
{
    run(state, the_faster);
}

/* What counts for nothing is measured all the same; settings without graders stop it all. */
static int weights(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    set_graders(f, "{\"graders\":[{\"name\":\"a\",\"type\":\"is-json\",\"weight\":0}]}");
    Uuid id = end_one(f, TASK_OUTCOME_SUCCEEDED, "1", 0);
    CHECK_INT(grade(f), 1);
    CHECK(isnan(get(f, id).quality));
    CHECK_INT(sums(f)->sums[0].scored, 1);
    CHECK_INT(sums(f)->rollup.scores, 0);
    set_graders(f, "{}");
    end_one(f, TASK_OUTCOME_SUCCEEDED, "1", 0);
    CHECK_INT(grade(f), 0);
    return 0;
}

static void test_weights(void **state)
{
    run(state, weights);
}

/* More than one helping. */
static int many(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    set_graders(f, RULES);
    for (int i = 0; i < 3 * GRADING_TASKS_MAX + 1; i++)
        end_one(f, TASK_OUTCOME_SUCCEEDED, "\"yes\"", 0);
    CHECK_INT(ingest_wait(f->store, NULL), 0);
    CHECK_INT(grade(f), 3 * GRADING_TASKS_MAX + 1);
    CHECK_INT(sums(f)->sums[0].scored, 3 * GRADING_TASKS_MAX + 1);
    return 0;
}

static void test_many(void **state)
{
    run(state, many);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_each_task_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_clock_that_is_set, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_second_is_not_heard, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_faster, setup, teardown),
        cmocka_unit_test_setup_teardown(test_weights, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
