#include "tests/unit/queue_fixture.h"

#include <stdio.h>

#include "rollout/anchors.h"
#include "rollout/drift_watch.h"
#include "rollout/grading.h"

#define DAY_MS INT64_C(86400000)
#define GRADERS(second)                                                                      \
    "{\"graders\":[{\"name\":\"help\",\"type\":\"judge\",\"agent\":\"critic\",\"anchors\":[" \
    "{\"input\":1,\"output\":\"a\"},{\"input\":2,\"output\":\"" second "\"}]}]}"

static const WatchConfig config = { .h = { [WATCH_QUALITY] = 4.5 }, .baseline_days = 28 };

static int settings_job(Db *db, void *arg)
{
    return agent_set_settings(db, STR("support"), str_of(arg));
}

static void set_graders(Fixture *f, const char *settings)
{
    CHECK_INT(store_call_wait(f->store, settings_job, (char *)(uintptr_t)settings), 0);
}

static int64_t look(Fixture *f)
{
    int64_t alarms = 0;
    CHECK_INT(grading_wait(f->queue, real_now, NULL), 0);
    CHECK_INT(anchors_wait(f->queue, &config, real_now, &alarms), 0);
    return alarms;
}

static void answer(Fixture *f, double score)
{
    Task *tasks = NULL;
    LaneConfig one = { .shared = 1 };
    char text[64];
    if (!CHECK_INT(claim(f, worker_of(1), one, &tasks), 1)) return;
    CHECK(str_starts_with(tasks[0].input, STR("{\"input\":")));
    snprintf(text, sizeof(text), "{\"score\":%g}", score);
    TaskFinish finish = { .task = { tasks[0].id, tasks[0].fence },
                          .outcome = TASK_OUTCOME_SUCCEEDED,
                          .result = str_of(text) };
    CHECK_INT(queue_finish_wait(f->queue, &finish, NULL), 0);
}

/* A day on which both examples are judged so; how many alarms. */
static int64_t day(Fixture *f, double score)
{
    CHECK_INT(look(f), 0);
    CHECK_INT(look(f), 0); /* once a day */
    answer(f, score);
    answer(f, score);
    int64_t alarms = look(f);
    CHECK_INT(look(f), 0);
    check_counts(f, LANE_LOW, 0, 0);
    real_now += DAY_MS;
    arena_clear(&f->arena);
    return alarms;
}

static double usual(int i)
{
    return 0.8 + 0.02 * (i % 3 - 1);
}

typedef struct {
    Fixture *f;
    Alarm *alarms;
    size_t n;
    bool open;
} AlarmJob;

static int alarm_job(Db *db, void *arg)
{
    AlarmJob *job = arg;
    CHECK_INT(alarm_any_open(db, STR("support"), STR(ANCHOR_METRIC), &job->open), 0);
    return alarm_list(db, STR("support"), false, &job->f->arena, &job->alarms, &job->n);
}

static AlarmJob alarms(Fixture *f)
{
    AlarmJob job = { .f = f };
    CHECK_INT(store_read_wait(f->store, alarm_job, &job), 0);
    return job;
}

static int a_judge_that_changes(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    set_graders(f, GRADERS("b"));
    for (int i = 0; i < 40; i++) CHECK_INT(day(f, usual(i)), 0);
    int64_t raised = 0, days = 0;
    while (raised == 0 && days < 20) raised = day(f, usual((int)days++) - 0.15);
    CHECK_INT(raised, 1);
    CHECK(days <= 4);
    AlarmJob job = alarms(f);
    if (!CHECK_INT(job.n, 1)) return 0;
    CHECK(job.open && str_eq(job.alarms[0].metric, STR("judge:help")));
    CHECK(str_eq(job.alarms[0].version_id, STR(VERSION_B)));
    CHECK(str_find(job.alarms[0].text, STR("stricter")) >= 0);
    CHECK_INT(day(f, 0.5), 0); /* no other while it is open */
    job = alarms(f);
    CHECK_INT(drift_acknowledge_wait(f->store, job.alarms[0].id, STR("ada"), STR(""), real_now), 0);
    CHECK(!alarms(f).open);
    for (int i = 0; i < 35; i++) CHECK_INT(day(f, usual(i) - 0.3), 0); /* it has begun anew */
    return 0;
}

static void test_a_judge_that_changes(void **state)
{
    deploy(*state, "critic", VERSION_B);
    run(state, a_judge_that_changes);
}

/* Milder is no better; other examples are another chart. */
static int other_examples(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    set_graders(f, GRADERS("b"));
    for (int i = 0; i < 30; i++) CHECK_INT(day(f, usual(i)), 0);
    set_graders(f, GRADERS("c"));
    for (int i = 0; i < 30; i++) CHECK_INT(day(f, usual(i) - 0.4), 0);
    int64_t raised = 0;
    for (int i = 0; i < 4; i++) raised += day(f, usual(i));
    CHECK_INT(raised, 1);
    CHECK(str_find(alarms(f).alarms[0].text, STR("milder")) >= 0);
    return 0;
}

static void test_other_examples(void **state)
{
    deploy(*state, "critic", VERSION_B);
    run(state, other_examples);
}

/* What it does not answer says nothing. */
static int a_judge_that_fails(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    set_graders(f, GRADERS("b"));
    CHECK_INT(look(f), 0);
    check_counts(f, LANE_LOW, 2, 0);
    pass_ms(JUDGE_WAIT_MS + 1);
    CHECK_INT(look(f), 0);
    check_counts(f, LANE_LOW, 0, 0);
    return 0;
}

static void test_a_judge_that_fails(void **state)
{
    Fixture *f = *state;
    deploy(f, "critic", VERSION_B);
    run(state, a_judge_that_fails);
}

/* A day on which one of them is not answered has another mean, and is left out. */
static int an_answer_short(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    set_graders(f, GRADERS("b"));
    for (int i = 0; i < 30; i++) CHECK_INT(day(f, usual(i)), 0);
    for (int i = 0; i < 4; i++) {
        CHECK_INT(look(f), 0);
        answer(f, 0.1);
        answer(f, 2); /* no score */
        CHECK_INT(look(f), 0);
        answer(f, 2);
        CHECK_INT(look(f), 0);
        check_counts(f, LANE_LOW, 0, 0);
        real_now += DAY_MS;
    }
    CHECK_INT(day(f, usual(0)), 0);
    return 0;
}

static void test_an_answer_short(void **state)
{
    deploy(*state, "critic", VERSION_B);
    run(state, an_answer_short);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_judge_that_changes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_examples, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_judge_that_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_answer_short, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
