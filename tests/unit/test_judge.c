#include "tests/unit/queue_fixture.h"

#include <math.h>

#include "logic/grade.h"
#include "rollout/grading.h"
#include "rollout/ingest.h"
#include "rollout/judge.h"
#include "store/grade_store.h"
#include "store/shadow_store.h"

/* --- shorthands ------------------------------------------------------------------------------- */

#define JUDGED                                                                  \
    "{\"graders\":[{\"name\":\"yes\",\"type\":\"contains\",\"value\":\"yes\"}," \
    "{\"name\":\"help\",\"type\":\"judge\",\"agent\":\"critic\"}]}"

typedef struct {
    const char *agent, *settings;
} SettingsJob;

static int settings_job(Db *db, void *arg)
{
    const SettingsJob *job = arg;
    return agent_set_settings(db, str_of(job->agent), str_of(job->settings));
}

static void set_graders(Fixture *f, const char *agent, const char *settings)
{
    SettingsJob job = { agent, settings };
    CHECK_INT(store_call_wait(f->store, settings_job, &job), 0);
}

static Uuid end_one(Fixture *f)
{
    Uuid id = submit(f, LANE_NORMAL);
    TaskFinish finish = { .task = claim_one(f, worker_of(1)),
                          .outcome = TASK_OUTCOME_SUCCEEDED,
                          .result = STR("\"yes\"") };
    CHECK_INT(queue_finish_wait(f->queue, &finish, NULL), 0);
    return id;
}

/* How many tasks have their grades now. */
static int64_t grade(Fixture *f)
{
    int64_t n = -1;
    CHECK_INT(ingest_wait(f->store, NULL), 0);
    CHECK_INT(grading_wait(f->queue, real_now, &n), 0);
    return n;
}

/* The judge's task, claimed. */
static Task question(Fixture *f)
{
    Task *tasks = NULL, none = { 0 };
    LaneConfig one = { .shared = 1 };
    return CHECK_INT(claim(f, worker_of(1), one, &tasks), 1) ? tasks[0] : none;
}

static void answer(Fixture *f, const Task *task, TaskOutcome outcome, const char *result)
{
    TaskFinish finish = { .task = { task->id, task->fence },
                          .outcome = outcome,
                          .result = str_of(result) };
    CHECK_INT(queue_finish_wait(f->queue, &finish, NULL), 0);
}

typedef struct {
    Fixture *f;
    GradeSum *sums;
    size_t n;
    int64_t open;
} SumJob;

static int sum_job(Db *db, void *arg)
{
    SumJob *job = arg;
    CHECK_INT(judging_count(db, &job->open), 0);
    return grade_sum_list(db, STR("support"), 0, &job->f->arena, &job->sums, &job->n);
}

/* scored, failed and held of the judge; how many are asked now. */
static void check_judge(Fixture *f, int64_t scored, int64_t failed, int64_t held, int64_t open)
{
    SumJob job = { .f = f };
    CHECK_INT(store_read_wait(f->store, sum_job, &job), 0);
    CHECK_INT(job.open, open);
    if (!CHECK(job.n == 2 && str_eq(job.sums[0].grader, STR("help")))) return;
    CHECK_INT(job.sums[0].scored, scored);
    CHECK_INT(job.sums[0].failed, failed);
    CHECK_INT(job.sums[0].held, held);
}

typedef struct {
    Uuid id;
    bool waits, unjudged;
} StandJob;

static int stand_job(Db *db, void *arg)
{
    StandJob *job = arg;
    TaskHead head;
    RolloutOutcome outcome;
    int r = task_head(db, job->id, &head);
    if (r == 0) r = grade_waits(db, head.seq, &job->waits);
    if (r == 0) r = shadow_outcome(db, head.seq, &outcome);
    job->unjudged = r == 0 && outcome.unjudged;
    return r;
}

/* Whether graders are still to be heard, and whether a judge was not. */
static void check_stand(Fixture *f, Uuid id, bool waits, bool unjudged)
{
    StandJob job = { .id = id };
    CHECK_INT(store_read_wait(f->store, stand_job, &job), 0);
    CHECK_INT(job.waits, waits);
    CHECK_INT(job.unjudged, unjudged);
}

static void begin(Fixture *f)
{
    add_worker(f, 1, WORKER_REMOTE);
    set_graders(f, "support", JUDGED);
}

/* --- tests ------------------------------------------------------------------------------------ */

/* All scores come at once, when the judge has answered; it knows nothing but what it judges. */
static int it_is_asked_once(void *arg)
{
    Fixture *f = arg;
    begin(f);
    Uuid id = end_one(f);
    check_stand(f, id, true, false);
    CHECK_INT(grade(f), 0);
    CHECK_INT(grade(f), 0);
    check_stand(f, id, true, false);
    CHECK(isnan(get(f, id).quality));
    Task task = question(f);
    CHECK_INT(task.lane, LANE_LOW);
    CHECK(str_eq(task.agent, STR("critic")));
    CHECK(str_eq(task.input, STR("{\"input\":{\"q\":1},\"output\":\"yes\"}")));
    CHECK(str_empty(task.session_id) && str_empty(task.user_id) && str_empty(task.tenant_id));
    CHECK_INT(grade(f), 0); /* it is at work */
    check_counts(f, LANE_LOW, 0, 1);
    answer(f, &task, TASK_OUTCOME_SUCCEEDED, "\"{\\\"reason\\\":\\\"so\\\",\\\"score\\\":0.5}\"");
    CHECK_INT(grade(f), 1);
    CHECK(get(f, id).quality == 0.75);
    check_stand(f, id, false, false);
    check_judge(f, 1, 0, 0, 0);
    CHECK_INT(grade(f), 0);
    check_counts(f, LANE_LOW, 0, 0); /* and nobody judges the judge */
    return 0;
}

static void test_it_is_asked_once(void **state)
{
    deploy(*state, "critic", VERSION_B);
    run(state, it_is_asked_once);
}

static int pinned_job(Db *db, void *arg)
{
    DbStmt *s = db_stmt(db, "SELECT count(*) FROM task WHERE agent = 'critic'"
                            " AND version_id = '" VERSION_B "' AND rollout_seq = 0");
    int r = db_step(s);
    *(int64_t *)arg = r == DB_E_ROW ? db_i64(s, 0) : -1;
    db_reset(s);
    return 0;
}

/* By its stable version, whatever a rollout of the judge would route it to; again as well. */
static int asks_the_stable_version(void *arg)
{
    Fixture *f = arg;
    int64_t n;
    begin(f);
    (void)end_one(f);
    CHECK_INT(grade(f), 0);
    Task first = question(f);
    answer(f, &first, TASK_OUTCOME_SUCCEEDED, "\"good\"");
    CHECK_INT(grade(f), 0);
    (void)question(f);
    CHECK_INT(store_read_wait(f->store, pinned_job, &n), 0);
    CHECK_INT(n, 2);
    return 0;
}

static void test_its_stable_version_is_asked(void **state)
{
    deploy(*state, "critic", VERSION_B);
    run(state, asks_the_stable_version);
}

/* What cannot be read is asked for once more, and is no score. */
static int no_answer_is_no_score(void *arg)
{
    Fixture *f = arg;
    begin(f);
    Uuid id = end_one(f);
    CHECK_INT(grade(f), 0);
    Task first = question(f);
    answer(f, &first, TASK_OUTCOME_SUCCEEDED, "\"good\"");
    CHECK_INT(grade(f), 0);
    Task second = question(f);
    CHECK(str_eq(second.input, first.input));
    answer(f, &second, TASK_OUTCOME_FAILED_FINAL, "");
    CHECK_INT(grade(f), 1);
    CHECK(isnan(get(f, id).quality)); /* that of the others is none */
    check_stand(f, id, false, true);  /* what others say is not compared */
    check_judge(f, 0, 1, 0, 0);
    check_counts(f, LANE_LOW, 0, 0);
    return 0;
}

static void test_no_answer_is_no_score(void **state)
{
    deploy(*state, "critic", VERSION_B);
    run(state, no_answer_is_no_score);
}

/* It cannot be asked once more, for want of room: who else waits to be graded does not wait on. */
static int no_room_to_ask_again(void *arg)
{
    Fixture *f = arg;
    begin(f);
    Uuid id = end_one(f);
    CHECK_INT(grade(f), 0);
    Task first = question(f);
    answer(f, &first, TASK_OUTCOME_SUCCEEDED, "\"good\"");
    submit(f, LANE_LOW);
    CHECK_INT(grade(f), 1);
    CHECK(get(f, id).state == TASK_SUCCEEDED);
    check_judge(f, 0, 0, 1, 0);
    check_counts(f, LANE_LOW, 1, 0);
    return 0;
}

static void test_no_room_to_ask_again(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->options.queued_max[LANE_LOW] = 1;
    open_queue(f);
    deploy(f, "critic", VERSION_B);
    run(state, no_room_to_ask_again);
}

/* One that takes too long is stopped. */
static int it_takes_too_long(void *arg)
{
    Fixture *f = arg;
    begin(f);
    Uuid id = end_one(f);
    CHECK_INT(grade(f), 0);
    check_counts(f, LANE_LOW, 1, 0);
    pass_ms(JUDGE_WAIT_MS + 1);
    CHECK_INT(grade(f), 1);
    CHECK(isnan(get(f, id).quality)); /* that of the others is none */
    check_judge(f, 0, 1, 0, 0);
    check_counts(f, LANE_LOW, 0, 0);
    return 0;
}

static void test_it_takes_too_long(void **state)
{
    deploy(*state, "critic", VERSION_B);
    run(state, it_takes_too_long);
}

/* Its budget is used up: the others' scores stand, and nobody waits. */
static int it_has_no_money(void *arg)
{
    Fixture *f = arg;
    begin(f);
    Uuid id = end_one(f);
    CHECK_INT(grade(f), 1);
    CHECK(isnan(get(f, id).quality)); /* that of the others is none */
    check_stand(f, id, false, true);
    check_judge(f, 0, 0, 1, 0);
    check_counts(f, LANE_LOW, 0, 0);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.grades_held, 1);
    CHECK_INT(stats.grades_failed, 0);
    return 0;
}

static void test_it_has_no_money(void **state)
{
    static const BudgetRule rule = {
        .scope = { BUDGET_AGENT, BUDGET_DAY, BUDGET_USD, STR("critic") }, .limit = 0
    };
    Fixture *f = *state;
    close_queue(f);
    f->options.budgets = &rule;
    f->options.budgets_n = 1;
    open_queue(f);
    deploy(f, "critic", VERSION_B);
    run(state, it_has_no_money);
}

/* No such judge; one that is judged by a model itself, which would go on for ever. */
static int it_is_no_judge(void *arg)
{
    Fixture *f = arg;
    begin(f);
    end_one(f);
    CHECK_INT(grade(f), 1);
    check_judge(f, 0, 1, 0, 0);
    return 0;
}

static void test_there_is_no_judge(void **state)
{
    run(state, it_is_no_judge);
}

static int judges_are_not_judged(void *arg)
{
    set_graders(arg, "critic",
                "{\"graders\":[{\"name\":\"a\",\"type\":\"judge\",\"agent\":\"support\"}]}");
    return it_is_no_judge(arg);
}

static void test_judges_are_not_judged(void **state)
{
    deploy(*state, "critic", VERSION_B);
    run(state, judges_are_not_judged);
}

/* What was asked before the end of the process is not asked again. */
static int ask(void *arg)
{
    Fixture *f = arg;
    begin(f);
    for (int i = 0; i < JUDGINGS_OF_TASKS_MAX + 1; i++) end_one(f);
    CHECK_INT(grade(f), 1); /* more than that are not asked at a time */
    check_judge(f, 0, 0, 1, JUDGINGS_OF_TASKS_MAX);
    Judges judges;
    CHECK_INT(judges_look_wait(f->queue, real_now, &judges), 0);
    CHECK_INT(judges.room, GRADER_ANCHORS_MAX); /* they are not kept out */
    return 0;
}

static int ask_again(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 2, WORKER_REMOTE);
    CHECK_INT(grade(f), 0);
    check_counts(f, LANE_LOW, JUDGINGS_OF_TASKS_MAX, 0);
    for (int i = 0; i < JUDGINGS_OF_TASKS_MAX; i++) {
        Task *tasks = NULL;
        LaneConfig one = { .shared = 1 };
        if (!CHECK_INT(claim(f, worker_of(2), one, &tasks), 1)) return 0;
        answer(f, &tasks[0], TASK_OUTCOME_SUCCEEDED, "{\"score\":1}");
    }
    CHECK_INT(grade(f), JUDGINGS_OF_TASKS_MAX);
    check_judge(f, JUDGINGS_OF_TASKS_MAX, 0, 1, 0);
    return 0;
}

static void test_an_end_in_between(void **state)
{
    Fixture *f = *state;
    deploy(f, "critic", VERSION_B);
    run(state, ask);
    close_queue(f);
    open_queue(f);
    run(state, ask_again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_it_is_asked_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_its_stable_version_is_asked, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_answer_is_no_score, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_room_to_ask_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_it_takes_too_long, setup, teardown),
        cmocka_unit_test_setup_teardown(test_it_has_no_money, setup, teardown),
        cmocka_unit_test_setup_teardown(test_there_is_no_judge, setup, teardown),
        cmocka_unit_test_setup_teardown(test_judges_are_not_judged, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_end_in_between, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
