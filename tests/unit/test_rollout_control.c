#include "tests/unit/queue_fixture.h"

#include <math.h>
#include <stdio.h>

#include "rollout/control.h"
#include "rollout/gather.h"
#include "rollout/interval.h"
#include "rollout/observations.h"
#include "rollout/record.h"
#include "rollout/serving.h"
#include "store/alarm_store.h"
#include "store/event_store.h"
#include "store/score_store.h"
#include "store/webhook_store.h"

#define ID_1 "11111111-1111-7111-8111-111111111111"
#define ID_2 "22222222-2222-7222-8222-222222222222"
#define VERSION_C "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
#define VERSION_D "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"
#define VERSION_E "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"
#define BLOCK_WITH(more)                                             \
    "{\"steps\":[{\"weight\":50,\"minTasks\":20},{\"weight\":100}]," \
    "\"rollbackOn\":{\"errorRate\":0.1}" more "}"
#define BLOCK BLOCK_WITH("")
#define MANIFEST                                                 \
    "{\"apiVersion\":\"gantry/v1\",\"kind\":\"Agent\","          \
    "\"metadata\":{\"name\":\"support\"},\"spec\":{\"runtime\":" \
    "\"process\",\"command\":[\"true\"],\"retry\":{\"maxAttempts\":7}}}"

/* --- jobs ------------------------------------------------------------------------------------- */

static int add_version_job(Db *db, void *arg)
{
    Version v = { .id = str_of(arg),
                  .agent = STR("support"),
                  .components = STR("{}"),
                  .manifest = STR(MANIFEST) };
    return version_insert(db, &v);
}

/* VERSION_D, whose tasks may run for two minutes. */
static int add_slow_version_job(Db *db, void *arg)
{
    (void)arg;
    Version v = { .id = STR(VERSION_D),
                  .agent = STR("support"),
                  .components = STR("{\"limits\":{\"secondsPerTask\":120}}"),
                  .manifest = STR(MANIFEST) };
    return version_insert(db, &v);
}

typedef struct {
    Arena *arena;
    const char *id;
    const char *block; /* NULL: BLOCK */
    bool unchecked;    /* stays in its preflight */
    RolloutCommand command;
    RolloutRow row;
    RolloutMove move;
    Str text;
    int64_t n;
} Ask;

static int start_job(Db *db, void *arg)
{
    Ask *ask = arg;
    ControlStart start = { .id = str_of(ask->id),
                           .agent = STR("support"),
                           .version_id = STR(VERSION_B),
                           .block = str_of(ask->block ? ask->block : BLOCK),
                           .settings = STR("{\"new\":1}"),
                           .now_ms = real_now };
    int r = control_start(db, &start, ask->arena, &ask->row, &ask->move.actions);
    if (r != 0 || ask->unchecked) return r;
    ControlChecked checked = { .passed = true, .checks = STR("[]"), .now_ms = real_now };
    return control_checked(db, start.id, &checked, ask->arena, &ask->row);
}

static int command_job(Db *db, void *arg)
{
    Ask *ask = arg;
    return control_command(db, str_of(ask->id), ask->command, STR("ada"), real_now, ask->arena,
                           &ask->row, &ask->move);
}

static int routed_job(Db *db, void *arg)
{
    Ask *ask = arg;
    return routing_get(db, STR("support"), ask->arena, &ask->text);
}

static int route_job(Db *db, void *arg)
{
    int r = routing_set(db, STR("support"), str_of(arg), real_now);
    return r == 0 ? serving_moved(db, STR("support"), real_now) : r;
}

typedef struct {
    ControlBack back;
    Arena *arena;
    unsigned actions;
    Agent agent; /* as it is then */
} Back;

static int back_job(Db *db, void *arg)
{
    Back *b = arg;
    b->back.agent = STR("support");
    b->back.now_ms = real_now;
    int r = control_rollback(db, &b->back, b->arena, &b->actions);
    return r == 0 ? agent_get(db, STR("support"), b->arena, &b->agent) : r;
}

/* Ends every queued task: those of the version fail in fail of 100. */
typedef struct {
    const char *version;
    int fail;
} Finish;

static int finish_job(Db *db, void *arg)
{
    const Finish *finish = arg;
    DbStmt *s = db_stmt(db, "UPDATE task SET started_at_ms = ready_at_ms,"
                            " finished_at_ms = ready_at_ms + 5, state = CASE WHEN"
                            " version_id = ?1 AND seq * 37 % 100 < ?2 THEN 3 ELSE 2 END"
                            " WHERE state = 0");
    db_bind_text(s, 1, str_of(finish->version));
    db_bind_i64(s, 2, finish->fail);
    return db_run(s, NULL);
}

static int count_job(Db *db, void *arg)
{
    Ask *ask = arg;
    DbStmt *s = db_stmt(db, "SELECT count(*) FROM task WHERE version_id = ?1 AND state = 0");
    db_bind_text(s, 1, ask->text);
    int r = db_step(s);
    if (r != DB_E_ROW) return -EIO;
    ask->n = db_i64(s, 0);
    db_reset(s);
    return 0;
}

static Ask ask_of(Fixture *f, const char *id, RolloutCommand command)
{
    return (Ask){ .arena = &f->arena, .id = id, .command = command };
}

static Ask command(Fixture *f, const char *id, RolloutCommand what)
{
    Ask ask = ask_of(f, id, what);
    CHECK_INT(store_call_wait(f->store, command_job, &ask), 0);
    return ask;
}

static Ask start(Fixture *f, const char *id)
{
    Ask ask = ask_of(f, id, COMMAND_NONE);
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    return ask;
}

static Str routed(Fixture *f)
{
    Ask ask = ask_of(f, "", COMMAND_NONE);
    CHECK_INT(store_call_wait(f->store, routed_job, &ask), 0);
    return ask.text;
}

static int64_t queued_of(Fixture *f, const char *version)
{
    Ask ask = ask_of(f, "", COMMAND_NONE);
    ask.text = str_of(version);
    CHECK_INT(store_call_wait(f->store, count_job, &ask), 0);
    return ask.n;
}

/* Submits for sessions from..to-1; how many went to VERSION_B. */
static int64_t submit_sessions(Fixture *f, int from, int to)
{
    int64_t canaries = 0;
    for (int i = from; i < to; i++) {
        char session[32];
        int n = snprintf(session, sizeof(session), "session-%d", i);
        TaskNew new = { .agent = STR("support"),
                        .lane = LANE_NORMAL,
                        .input = STR("1"),
                        .session_id = str_make(session, (size_t)n) };
        TaskSummary summary = { 0 };
        CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
        canaries += strcmp(summary.version_id, VERSION_B) == 0;
    }
    return canaries;
}

static void end_tasks(Fixture *f, int fail)
{
    Finish how = { VERSION_B, fail };
    CHECK_INT(store_call_wait(f->store, finish_job, &how), 0);
    pass_ms(5000);
}

static int setup_two(void **state)
{
    int r = setup(state);
    Fixture *f = *state;
    assert_int_equal(store_call(f->store, add_version_job, (void *)(uintptr_t)VERSION_B), 0);
    assert_int_equal(store_call(f->store, add_version_job, (void *)(uintptr_t)VERSION_C), 0);
    return r;
}

static TaskSummary submit_pinned(Fixture *f, const char *version)
{
    TaskNew new = { .agent = STR("support"),
                    .lane = LANE_NORMAL,
                    .input = STR("1"),
                    .version_id = str_of(version) };
    TaskSummary summary = { 0 };
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    return summary;
}

/* --- tests ------------------------------------------------------------------------------------ */

static int promotes(void *arg)
{
    Fixture *f = arg;
    Ask ask = start(f, ID_1);
    CHECK_INT(ask.row.state.state, ROLLOUT_STEP);
    CHECK_INT(ask.row.state.weight_bp, 5000);
    int64_t canaries = submit_sessions(f, 0, 600);
    CHECK(canaries > 240 && canaries < 360);
    CHECK_INT(submit_sessions(f, 0, 600), canaries); /* every session stays where it was */
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.cursors[0].task_seq, 0); /* nothing is resolved yet */
    end_tasks(f, 0);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.move.verdict, VERDICT_ADVANCE);
    CHECK_INT(ask.row.state.weight_bp, WEIGHT_BP_ALL);
    CHECK_STR(routed(f), STR(VERSION_A)); /* all tasks go there, but it is not stable yet */
    CHECK_INT(submit_sessions(f, 900, 910), 10);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.state, ROLLOUT_COMPLETED);
    CHECK_STR(routed(f), STR(VERSION_B));
    return 0;
}

static void test_an_equal_version_is_promoted(void **state)
{
    run(state, promotes);
}

/* The stable version's tasks may run for two minutes, so a step is not over before. */
static int outlasts_tasks(void *arg)
{
    Fixture *f = arg;
    CHECK_INT(store_call_wait(f->store, add_slow_version_job, NULL), 0);
    CHECK_INT(store_call_wait(f->store, route_job, (void *)(uintptr_t)VERSION_D), 0);
    Ask ask = start(f, ID_1);
    CHECK_INT(ask.row.limit_ms, 120000);
    (void)submit_sessions(f, 0, 600);
    end_tasks(f, 0);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.weight_bp, 5000);
    CHECK(str_find(ask.row.why, STR("Held: the step lasts until ")) == 0);
    pass_ms(115000);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.weight_bp, WEIGHT_BP_ALL);
    ask = command(f, ID_1, COMMAND_NONE); /* where nothing is tested nothing is waited for */
    CHECK_INT(ask.row.state.state, ROLLOUT_COMPLETED);
    return 0;
}

static void test_a_step_outlasts_its_tasks(void **state)
{
    run(state, outlasts_tasks);
}

static int keep_state_job(Db *db, void *arg)
{
    (void)arg;
    DbStmt *s = db_stmt(db, "INSERT INTO session (tenant, agent, own, name, used_at_ms)"
                            " SELECT '', 'support', 0, session_id, iif(seq > 20, ?1, 0) FROM task");
    db_bind_i64(s, 1, real_now);
    return db_run(s, NULL);
}

/* Sessions that have a task under way or keep something when a rollout first sees them stay where
 * they are, uncounted, and so they do when that is over. */
static int live_sessions_stay(void *arg)
{
    Fixture *f = arg;
    (void)submit_sessions(f, 0, 20); /* ended, and nothing kept of late: may be drawn */
    (void)submit_sessions(f, 100, 140);
    end_tasks(f, 0);
    CHECK_INT(store_call_wait(f->store, keep_state_job, NULL), 0);
    (void)submit_sessions(f, 200, 240);
    (void)start(f, ID_1);
    CHECK_INT(submit_sessions(f, 100, 140), 0);
    CHECK_INT(submit_sessions(f, 200, 240), 0);
    CHECK(submit_sessions(f, 0, 20) > 0);
    CHECK(submit_sessions(f, 300, 340) > 5);
    end_tasks(f, 0);
    CHECK_INT(submit_sessions(f, 200, 240), 0);
    end_tasks(f, 0);
    Ask ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.cursors[0].task_seq, 100 + 80 + 20 + 40);
    CHECK(str_find(ask.row.why, STR("errorRate")) >= 0);
    return 0;
}

static void test_live_sessions_stay(void **state)
{
    run(state, live_sessions_stay);
}

/* The last step too flips no session; its `for` is the time they have to end. */
static int lets_sessions_end(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"steps\":[{\"weight\":50,\"minTasks\":20},{\"weight\":100,\"for\":\"1h\"}]}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    int64_t canaries = submit_sessions(f, 0, 40);
    CHECK(canaries > 5 && canaries < 35);
    ask = command(f, ID_1, COMMAND_PROMOTE);
    CHECK_INT(ask.row.state.weight_bp, WEIGHT_BP_ALL);
    CHECK_INT(submit_sessions(f, 0, 40), canaries);
    CHECK_INT(submit_sessions(f, 40, 50), 10);
    pass_ms(3601000);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.state, ROLLOUT_COMPLETED);
    CHECK_INT(submit_sessions(f, 0, 40), 40); /* what is left drains: it gets nothing new */
    return 0;
}

static void test_sessions_have_time_to_end(void **state)
{
    run(state, lets_sessions_end);
}

/* Whatever the clock does, a unit is assigned after those that were consumed before it. */
static int clock_goes_back(void *arg)
{
    Fixture *f = arg;
    (void)start(f, ID_1);
    (void)submit_sessions(f, 0, 10);
    end_tasks(f, 0);
    Ask ask = command(f, ID_1, COMMAND_NONE);
    CHECK(ask.row.cursors[0].task_seq > 0);
    RolloutCursor before = ask.row.cursors[0];
    real_now -= 3600000;
    (void)submit_sessions(f, 100, 110);
    real_now += 3600000;
    end_tasks(f, 0);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.cursors[0].task_seq, before.task_seq + 10);
    CHECK_INT(ask.row.cursors[0].eligible_ms, before.eligible_ms);
    return 0;
}

static void test_a_clock_that_goes_back_loses_no_unit(void **state)
{
    run(state, clock_goes_back);
}

/* To a rollout its holds and its deadline are spans of time. */
static int clock_is_set(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"steps\":[{\"weight\":100,\"for\":\"1h\"}],\"deadline\":\"2h\","
                "\"onDeadline\":\"rollback\"}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    CHECK_INT(ask.row.state.state, ROLLOUT_STEP);
    const int64_t sets[] = { 86400000, -3 * INT64_C(86400000) };
    for (size_t i = 0; i < ARRAY_N(sets); i++) {
        real_now += sets[i];
        CHECK_INT(queue_tick_wait(f->queue), 0);
        pass_ms(1200000);
        ask = command(f, ID_1, COMMAND_NONE);
        CHECK_INT(ask.row.state.state, ROLLOUT_STEP);
    }
    pass_ms(1201000);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.state, ROLLOUT_COMPLETED);
    return 0;
}

static void test_a_clock_that_is_set_ends_no_hold(void **state)
{
    run(state, clock_is_set);
}

static bool submit_tenants(Fixture *f, const char *tenant, int i)
{
    char session[32];
    snprintf(session, sizeof(session), "session-%d", i);
    TaskNew new = { .agent = STR("support"),
                    .lane = LANE_NORMAL,
                    .input = STR("1"),
                    .tenant_id = str_of(tenant),
                    .session_id = str_of(session) };
    TaskSummary summary = { 0 };
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    return strcmp(summary.version_id, VERSION_B) == 0;
}

/* Sessions and users of different tenants that are called alike are different units: one's draws
 * nothing for another's, and both count. */
static int tenants_apart(void *arg)
{
    Fixture *f = arg;
    int64_t live = 0, differ = 0;
    for (int i = 0; i < 40; i++) (void)submit_tenants(f, "live", i);
    (void)start(f, ID_1);
    bool drawn[40];
    for (int i = 0; i < 40; i++) drawn[i] = submit_tenants(f, "new", i);
    for (int i = 0; i < 40; i++) live += submit_tenants(f, "live", i);
    CHECK_INT(live, 0);
    for (int i = 0; i < 40; i++) differ += submit_tenants(f, "other", i) != drawn[i];
    CHECK(differ > 5 && differ < 35);
    end_tasks(f, 0);
    Ask ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.cursors[0].task_seq, 160);
    return 0;
}

static void test_tenants_sessions_are_their_own(void **state)
{
    run(state, tenants_apart);
}

static int rolls_back(void *arg)
{
    Fixture *f = arg;
    (void)start(f, ID_1);
    (void)submit_sessions(f, 0, 300);
    end_tasks(f, 60);
    int64_t waiting = submit_sessions(f, 300, 400);
    CHECK(waiting > 20);
    CHECK_INT(queued_of(f, VERSION_B), waiting);
    Ask ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.state, ROLLOUT_ROLLED_BACK);
    CHECK(str_find(ask.row.why, STR("errorRate")) >= 0);
    CHECK_INT(queued_of(f, VERSION_B), 0); /* those that had not started are rerouted */
    CHECK_INT(queued_of(f, VERSION_A), 100);
    CHECK_INT(submit_sessions(f, 0, 400), 0); /* whatever was assigned before */
    CHECK_STR(routed(f), STR(VERSION_A));
    ask = command(f, ID_1, COMMAND_RESUME);
    CHECK(ask.move.refused);
    return 0;
}

static void test_a_bad_version_is_rolled_back(void **state)
{
    run(state, rolls_back);
}

static int pinned(void *arg)
{
    Fixture *f = arg;
    (void)start(f, ID_1);
    (void)submit_pinned(f, VERSION_B);
    (void)command(f, ID_1, COMMAND_ABORT);
    CHECK_INT(queued_of(f, VERSION_B), 1); /* asked for by name: it stays */
    return 0;
}

static void test_a_named_version_is_kept(void **state)
{
    run(state, pinned);
}

static int supersedes(void *arg)
{
    Fixture *f = arg;
    (void)start(f, ID_1);
    int64_t waiting = submit_sessions(f, 0, 100);
    CHECK(waiting > 0);
    Ask ask = start(f, ID_2);
    CHECK_INT(ask.row.state.state, ROLLOUT_STEP);
    CHECK_STR(ask.row.control_id, STR(VERSION_A));
    CHECK_INT(queued_of(f, VERSION_B), 0);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.state, ROLLOUT_SUPERSEDED);
    ask = command(f, ID_2, COMMAND_PAUSE);
    CHECK_INT(ask.row.state.state, ROLLOUT_PAUSED);
    ask = command(f, ID_2, COMMAND_RESUME);
    CHECK_INT(ask.row.state.state, ROLLOUT_STEP);
    ask = command(f, ID_2, COMMAND_PROMOTE_ALL);
    CHECK_INT(ask.row.state.state, ROLLOUT_COMPLETED);
    CHECK_STR(routed(f), STR(VERSION_B));
    ask = ask_of(f, ID_1, COMMAND_NONE);
    CHECK_INT(store_call_wait(f->store, start_job, &ask), CONTROL_E_SAME);
    return 0;
}

static void test_a_newer_one_supersedes(void **state)
{
    run(state, supersedes);
}

/* --- versions that are left ------------------------------------------------------------------- */

typedef struct {
    Str version_id;
    Arena *arena;
    ServingLoad load;
    EventPage events;
} LeftVersion;

static int left_version_job(Db *db, void *arg)
{
    LeftVersion *left = arg;
    int r = event_list(db, &(EventFilter){ .subject = left->version_id, .limit = 10 }, left->arena,
                       &left->events);
    return r == 0 ? serving_load(db, left->version_id, left->arena, &left->load) : r;
}

/* After a tick. */
static LeftVersion left_version(Fixture *f, const char *version)
{
    LeftVersion left = { .version_id = str_of(version), .arena = &f->arena };
    CHECK_INT(serving_tick_wait(f->store, real_now), 0);
    CHECK_INT(store_read_wait(f->store, left_version_job, &left), 0);
    return left;
}

static void check_left(Fixture *f, const char *version, ServingState state, int64_t queued,
                       int64_t running, size_t events)
{
    LeftVersion left = left_version(f, version);
    CHECK_INT(left.load.serving.state, state);
    CHECK_INT(left.load.queued, queued);
    CHECK_INT(left.load.running, running);
    CHECK_INT(left.events.n, events);
}

#define BLUE_GREEN "{\"strategy\":\"blue-green\",\"holdFor\":\"1h\"}"

/* Ends what the worker has taken. */
static void end_claimed(Fixture *f, Uuid worker, int n)
{
    for (int i = 0; i < n; i++) {
        TaskState state;
        TaskRef ref = claim_one(f, worker);
        CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, &state), 0);
    }
}

static int drains(void *arg)
{
    Fixture *f = arg;
    TaskState state;
    CHECK_INT(store_call_wait(f->store, route_job, (void *)(uintptr_t)VERSION_C), 0);
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    (void)submit_sessions(f, 0, 3);
    TaskRef running = claim_one(f, worker);
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = BLUE_GREEN;
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    CHECK_INT(submit_sessions(f, 0, 10), 10); /* all at once, whatever they had */
    check_left(f, VERSION_C, SERVING_DRAINS, 2, 1, 1);
    CHECK_INT(left_version(f, VERSION_C).load.serving.witness, 1);
    check_left(f, VERSION_B, SERVING_TAKES, 0, 0, 0);
    CHECK_INT(finish(f, running, TASK_OUTCOME_SUCCEEDED, &state), 0);
    check_left(f, VERSION_C, SERVING_DRAINS, 2, 0, 1);
    end_claimed(f, worker, 2); /* the oldest first: its own */
    check_left(f, VERSION_C, SERVING_WARM, 0, 0, 2);
    ask = command(f, ID_1, COMMAND_ABORT); /* the way back is open */
    CHECK_INT(submit_sessions(f, 20, 30), 0);
    check_left(f, VERSION_C, SERVING_TAKES, 0, 0, 2);
    check_left(f, VERSION_B, SERVING_GONE, 0, 0, 2); /* drained in that moment: its tasks went */
    return 0;
}

static void test_the_version_that_is_left_drains(void **state)
{
    run(state, drains);
}

/* The way back stays open though nobody has said for how long. */
static int holds_for_an_hour(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"strategy\":\"blue-green\"}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    pass_ms(3500000);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.state, ROLLOUT_STEP);
    pass_ms(200000);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.state, ROLLOUT_COMPLETED);
    return 0;
}

static void test_blue_stays_warm_by_default(void **state)
{
    run(state, holds_for_an_hour);
}

static int drains_after_completion(void *arg)
{
    Fixture *f = arg;
    CHECK_INT(store_call_wait(f->store, route_job, (void *)(uintptr_t)VERSION_C), 0);
    (void)submit_pinned(f, VERSION_C);
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = BLUE_GREEN;
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    pass_ms(3700000);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.state, ROLLOUT_COMPLETED);
    check_left(f, VERSION_C, SERVING_DRAINS, 1, 0, 1); /* as long as it has one, named or not */
    end_tasks(f, 0);
    check_left(f, VERSION_C, SERVING_GONE, 0, 0, 2);
    (void)submit_pinned(f, VERSION_C); /* who names it still gets it */
    check_left(f, VERSION_C, SERVING_GONE, 0, 0, 2);
    Back b = { .back = { .to = STR(VERSION_C) }, .arena = &f->arena };
    CHECK_INT(store_call_wait(f->store, back_job, &b), 0);
    check_left(f, VERSION_C, SERVING_TAKES, 0, 0, 3); /* that it is routed to again is told */
    check_left(f, VERSION_B, SERVING_GONE, 0, 0, 2);
    return 0;
}

static void test_what_is_left_for_good_is_decommissioned(void **state)
{
    run(state, drains_after_completion);
}

/* One that may be returned to stays warm whatever it has, so nothing is looked for each second;
 * what it has got meanwhile ends before it goes. */
static int warm_with_a_task(void *arg)
{
    Fixture *f = arg;
    CHECK_INT(store_call_wait(f->store, route_job, (void *)(uintptr_t)VERSION_C), 0);
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = BLUE_GREEN;
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    check_left(f, VERSION_C, SERVING_WARM, 0, 0, 2);
    (void)submit_pinned(f, VERSION_C);
    check_left(f, VERSION_C, SERVING_WARM, 1, 0, 2);
    CHECK_INT(left_version(f, VERSION_C).load.serving.witness, 0);
    pass_ms(3700000);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.state, ROLLOUT_COMPLETED);
    check_left(f, VERSION_C, SERVING_DRAINS, 1, 0, 3);
    CHECK_INT(left_version(f, VERSION_C).load.serving.witness, 1);
    end_tasks(f, 0);
    check_left(f, VERSION_C, SERVING_GONE, 0, 0, 4);
    return 0;
}

static void test_a_warm_version_is_not_looked_through(void **state)
{
    run(state, warm_with_a_task);
}

static Back go_back(Fixture *f, const char *to, int want)
{
    Back b = { .back = { .to = to ? str_of(to) : STR_NULL, .actor = STR("eve") },
               .arena = &f->arena };
    CHECK_INT(store_call_wait(f->store, back_job, &b), want);
    return b;
}

/* A person saw the canary and asks to go back; meanwhile it is promoted. */
static int goes_back_from_the_promoted(void *arg)
{
    Fixture *f = arg;
    CHECK_INT(store_call_wait(f->store, route_job, (void *)(uintptr_t)VERSION_C), 0);
    (void)start(f, ID_1);
    int64_t waiting = submit_sessions(f, 0, 40);
    (void)submit_pinned(f, VERSION_B);
    (void)command(f, ID_1, COMMAND_PROMOTE_ALL);
    CHECK_STR(routed(f), STR(VERSION_B));
    Back b = go_back(f, NULL, 0);
    CHECK_STR(b.agent.version_id, STR(VERSION_C)); /* and not to A, which was before C */
    CHECK(str_find(b.agent.settings, STR("\"maxAttempts\":7")) >= 0);
    CHECK(waiting > 0);
    CHECK_INT(queued_of(f, VERSION_B), 1); /* the pinned one */
    CHECK_INT(queued_of(f, VERSION_C), 40);
    return 0;
}

static void test_back_from_what_was_promoted_meanwhile(void **state)
{
    run(state, goes_back_from_the_promoted);
}

/* Two people see it at once, or one sees what has ended by itself. */
static int goes_back_once(void *arg)
{
    Fixture *f = arg;
    CHECK_INT(store_call_wait(f->store, route_job, (void *)(uintptr_t)VERSION_C), 0);
    CHECK_INT(store_call_wait(f->store, route_job, (void *)(uintptr_t)VERSION_A), 0);
    (void)start(f, ID_1);
    (void)submit_sessions(f, 0, 300);
    end_tasks(f, 60);
    Ask ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.state, ROLLOUT_ROLLED_BACK);
    (void)go_back(f, NULL, CONTROL_E_JUST_BACK);
    CHECK_STR(routed(f), STR(VERSION_A));
    real_now += 11 * 60000;
    Back b = go_back(f, NULL, 0);
    CHECK_STR(b.agent.version_id, STR(VERSION_C));
    (void)go_back(f, NULL, CONTROL_E_NO_PREVIOUS); /* not forward to A */
    CHECK_STR(routed(f), STR(VERSION_C));
    return 0;
}

static void test_back_goes_back_once(void **state)
{
    run(state, goes_back_once);
}

static int goes_back_to(void *arg)
{
    Fixture *f = arg;
    (void)go_back(f, NULL, CONTROL_E_NO_PREVIOUS);
    (void)start(f, ID_1);
    (void)submit_sessions(f, 0, 40);
    Back b = go_back(f, VERSION_C, 0); /* canary and stable are both left */
    CHECK_STR(b.agent.version_id, STR(VERSION_C));
    CHECK_INT(queued_of(f, VERSION_C), 40);
    CHECK(!(b.actions & ROLLOUT_DO_KILL));
    Ask ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.state, ROLLOUT_ABORTED);
    LeftVersion told = left_version(f, VERSION_C);
    CHECK_INT(told.events.n, 1);
    CHECK_STR(told.events.events[0].type, STR("version.routed"));
    CHECK_STR(told.events.events[0].data, STR("{\"from\":\"" VERSION_A "\",\"to\":\"" VERSION_C
                                              "\",\"kind\":\"rollback\",\"by\":\"eve\"}"));
    (void)go_back(f, VERSION_C, 0);
    CHECK_INT(left_version(f, VERSION_C).events.n, 1); /* it is there already */
    (void)go_back(f, "0123", -ENOENT);
    return 0;
}

static void test_back_to_a_version(void **state)
{
    run(state, goes_back_to);
}

static bool is_stopped(Fixture *f, Uuid worker, TaskRef ref)
{
    HeartbeatReply reply = heartbeat(f, worker, &ref, 1);
    return reply.stops_n == 1 && reply.stops[0].reason == HOLD_CANCEL;
}

static int kills(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = BLOCK_WITH(",\"onRollback\":\"kill\"");
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    (void)submit_pinned(f, VERSION_B);
    TaskRef pinned = claim_one(f, worker), stable = { 0 }, canary = { 0 };
    for (int i = 0; uuid_is_zero(stable.id) || uuid_is_zero(canary.id); i++) {
        bool is_canary = submit_sessions(f, i, i + 1) == 1;
        TaskRef ref = claim_one(f, worker);
        if (is_canary) canary = ref;
        else stable = ref;
    }
    ask = command(f, ID_1, COMMAND_ABORT);
    CHECK(ask.move.actions & ROLLOUT_DO_KILL);
    CHECK(is_stopped(f, worker, canary));
    CHECK(!is_stopped(f, worker, stable));
    CHECK(!is_stopped(f, worker, pinned));
    TaskState state;
    CHECK_INT(finish(f, canary, TASK_OUTCOME_CANCELED, &state), 0);
    CHECK_INT(state, TASK_CANCELED);
    CHECK_STR(get(f, canary.id).stopped_by, STR("rollback"));
    return 0;
}

static void test_running_tasks_are_killed_if_so_planned(void **state)
{
    run(state, kills);
}

/* One of the canary's tasks, taken by the worker; others are ended. */
static TaskRef claim_canary(Fixture *f, Uuid worker, int *session)
{
    for (;;) {
        bool canary = submit_sessions(f, *session, *session + 1) == 1;
        TaskState state;
        TaskRef ref = claim_one(f, worker);
        ++*session;
        if (canary) return ref;
        CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, &state), 0);
    }
}

/* It is to be tried again, having called a model or not. */
static void try_again(Fixture *f, TaskRef ref, bool called)
{
    TaskState state;
    TaskFinish end = { .task = ref, .outcome = TASK_OUTCOME_FAILED_RETRYABLE };
    end.usage.llm_calls = called;
    CHECK_INT(queue_finish_wait(f->queue, &end, &state), 0);
    CHECK_INT(state, TASK_QUEUED);
}

static void ask_person(Fixture *f, TaskRef ref)
{
    TaskState state;
    EscalationReply reply;
    EscalationAsk ask = { .occurrence = 1, .question = STR("May I?"), .timeout_ms = 3600000 };
    CHECK_INT(queue_escalate_wait(f->queue, ref, &ask, &f->arena, &reply), 0);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_ESCALATED, &state), 0);
    CHECK_INT(state, TASK_ESCALATED);
}

/* What a call was answered is given to the same version only: such a task stays where it is. */
static int keeps_what_has_begun(void *arg)
{
    Fixture *f = arg;
    int session = 0;
    (void)start(f, ID_1);
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    TaskRef called = claim_canary(f, worker, &session);
    TaskRef silent = claim_canary(f, worker, &session);
    TaskRef asks = claim_canary(f, worker, &session);
    try_again(f, called, true);
    try_again(f, silent, false);
    ask_person(f, asks);
    (void)command(f, ID_1, COMMAND_ABORT);
    CHECK_STR(get(f, called.id).version_id, STR(VERSION_B));
    CHECK_STR(get(f, silent.id).version_id, STR(VERSION_A));
    CHECK_STR(get(f, asks.id).version_id, STR(VERSION_B));
    pass_ms(3600000);
    Task *tasks = NULL;
    CHECK_INT(claim(f, worker, roomy, &tasks), 2); /* both go on */
    return 0;
}

static void test_what_has_called_stays(void **state)
{
    run(state, keeps_what_has_begun);
}

/* Those too that wait for another attempt or for a person; at once, or when they would start. */
static int kills_what_waits(void *arg)
{
    Fixture *f = arg;
    int session = 0;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = BLOCK_WITH(",\"onRollback\":\"kill\"");
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    TaskRef waits = claim_canary(f, worker, &session), late = claim_canary(f, worker, &session);
    TaskRef asks = claim_canary(f, worker, &session);
    try_again(f, waits, true);
    ask_person(f, asks);
    ask_person(f, late);
    ask = command(f, ID_1, COMMAND_ABORT);
    TaskState state;
    CHECK_INT(queue_resolve_wait(f->queue, late.id, STR("true"), STR("ada"), &state), 0);
    pass_ms(3600000);
    Task *tasks = NULL;
    CHECK_INT(claim(f, worker, roomy, &tasks), 0);
    CHECK_INT(get(f, late.id).state, TASK_CANCELED);
    CHECK_INT(get(f, waits.id).state, TASK_CANCELED);
    control_signal_wait(f->queue, ask.move.actions);
    CHECK_INT(get(f, asks.id).state, TASK_CANCELED);
    CHECK_STR(get(f, asks.id).stopped_by, STR("rollback"));
    CHECK_STR(get(f, waits.id).stopped_by, STR("rollback"));
    return 0;
}

static void test_waiting_tasks_are_killed_as_well(void **state)
{
    run(state, kills_what_waits);
}

/* What ended where nothing is routed any more is tried again by the stable version. */
static int retries_elsewhere(void *arg)
{
    Fixture *f = arg;
    int session = 0;
    (void)start(f, ID_1);
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    TaskRef early = claim_canary(f, worker, &session), late = claim_canary(f, worker, &session);
    (void)submit_pinned(f, VERSION_B);
    TaskRef pinned = claim_one(f, worker);
    TaskState state;
    CHECK_INT(finish(f, early, TASK_OUTCOME_FAILED_FINAL, &state), 0);
    CHECK_INT(finish(f, late, TASK_OUTCOME_FAILED_FINAL, &state), 0);
    CHECK_INT(finish(f, pinned, TASK_OUTCOME_FAILED_FINAL, &state), 0);
    CHECK_INT(queue_retry_wait(f->queue, early.id, false), 0);
    CHECK_STR(get(f, early.id).version_id, STR(VERSION_B)); /* it may still become the stable one */
    (void)command(f, ID_1, COMMAND_ABORT);
    CHECK_INT(queue_retry_wait(f->queue, late.id, false), 0);
    CHECK_INT(queue_retry_wait(f->queue, pinned.id, false), 0);
    CHECK_STR(get(f, late.id).version_id, STR(VERSION_A));
    CHECK_STR(get(f, pinned.id).version_id, STR(VERSION_B));
    return 0;
}

static void test_a_retry_goes_where_tasks_go(void **state)
{
    run(state, retries_elsewhere);
}

static size_t recordings(Fixture *f, TaskRef ref)
{
    JournalRow *rows;
    size_t n = 0;
    CHECK_INT(queue_journal_list_wait(f->queue, ref, 0, 100, &f->arena, &rows, &n), 0);
    return n;
}

/* It calls a tool, whose answer is kept, asks a person who answers, and fails for good. */
static TaskRef fails_having_begun(Fixture *f, TaskRef ref)
{
    TaskState state;
    JournalNew rec = { .kind = REPLAY_TOOL,
                       .name = STR("orders"),
                       .call_id = STR("t1"),
                       .status = 200,
                       .content_type = STR("application/json"),
                       .complete = true,
                       .answer = { .bytes = STR("{}"), .n = 2 },
                       .request = { .rest = { .bytes = STR("{}") }, .n = 2 } };
    CHECK_INT(queue_journal_add_wait(f->queue, ref, &rec, 1), 0);
    CHECK_INT(recordings(f, ref), 1);
    ask_person(f, ref);
    CHECK_INT(queue_resolve_wait(f->queue, ref.id, STR("1"), STR("ada"), &state), 0);
    ref = claim_one(f, worker_of(1));
    CHECK_INT(finish(f, ref, TASK_OUTCOME_FAILED_FINAL, &state), 0);
    return ref;
}

/* The order of a retry by hand and of a rollback makes no difference. */
static int moves_what_is_tried_again(void *arg)
{
    Fixture *f = arg;
    int session = 0;
    (void)start(f, ID_1);
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    TaskRef early = fails_having_begun(f, claim_canary(f, worker, &session));
    TaskRef late = fails_having_begun(f, claim_canary(f, worker, &session));
    TaskRef begun = fails_having_begun(f, claim_canary(f, worker, &session));
    CHECK_INT(queue_retry_wait(f->queue, begun.id, false), 0);
    begun = claim_one(f, worker);
    CHECK_INT(recordings(f, begun), 1);
    CHECK_INT(finish(f, begun, TASK_OUTCOME_RELEASED, NULL), 0);
    CHECK_INT(queue_retry_wait(f->queue, early.id, false), 0);
    (void)command(f, ID_1, COMMAND_ABORT);
    CHECK_INT(queue_retry_wait(f->queue, late.id, false), 0);
    CHECK_STR(get(f, begun.id).version_id, STR(VERSION_B)); /* it has begun since */
    for (int i = 0; i < 3; i++) {
        TaskRef ref = claim_one(f, worker);
        bool moved = !uuid_eq(ref.id, begun.id);
        CHECK_STR(get(f, ref.id).version_id, moved ? STR(VERSION_A) : STR(VERSION_B));
        CHECK_INT(recordings(f, ref), !moved);
        EscalationReply reply;
        EscalationAsk ask = { .occurrence = 1, .question = STR("May I?"), .timeout_ms = 3600000 };
        CHECK_INT(queue_escalate_wait(f->queue, ref, &ask, &f->arena, &reply), 0);
        CHECK_INT(reply.state, moved ? ESCALATION_PENDING : ESCALATION_ANSWERED);
    }
    return 0;
}

static void test_what_is_tried_again_is_moved(void **state)
{
    run(state, moves_what_is_tried_again);
}

static int watched_job(Db *db, void *arg)
{
    Ask *ask = arg;
    CLEANUP(freep) Watch *watch = xcalloc(1, sizeof(*watch));
    if (ask->n == 0) return watch_put(db, STR("support"), STR(VERSION_B), watch);
    int r = watch_get(db, STR("support"), STR(VERSION_B), watch);
    ask->n = r;
    return r == -ENOENT ? 0 : r;
}

/* Its days as a canary are no baseline. */
static int begins_drift_anew(void *arg)
{
    Fixture *f = arg;
    Ask ask = { .n = 0 };
    (void)start(f, ID_1);
    CHECK_INT(store_call_wait(f->store, watched_job, &ask), 0);
    ask.n = 1;
    CHECK_INT(store_call_wait(f->store, watched_job, &ask), 0);
    CHECK_INT(ask.n, 0);
    CHECK_INT(command(f, ID_1, COMMAND_PROMOTE_ALL).row.state.state, ROLLOUT_COMPLETED);
    ask.n = 1;
    CHECK_INT(store_call_wait(f->store, watched_job, &ask), 0);
    CHECK_INT(ask.n, -ENOENT);
    return 0;
}

static void test_drift_begins_at_the_promotion(void **state)
{
    run(state, begins_drift_anew);
}

static int64_t units_of(Fixture *f)
{
    RecordStats before, after;
    record_stats(&before);
    (void)command(f, ID_1, COMMAND_NONE);
    record_stats(&after);
    return (int64_t)(after.fates[FATE_COUNTS] - before.fates[FATE_COUNTS]);
}

static int degrade_job(Db *db, void *arg)
{
    DbStmt *s = db_stmt(db, "UPDATE task SET degraded_calls = 1 WHERE seq % 10 = ?1");
    db_bind_i64(s, 1, *(const int64_t *)arg);
    return db_run(s, NULL);
}

/* Answers of another model than the version's say nothing about the version. */
static int leaves_degraded_out(void *arg)
{
    Fixture *f = arg;
    int64_t which = 3;
    (void)start(f, ID_1);
    (void)submit_sessions(f, 0, 200);
    end_tasks(f, 0);
    CHECK_INT(store_call_wait(f->store, degrade_job, &which), 0);
    CHECK_INT(units_of(f), 180);
    return 0;
}

static void test_degraded_tasks_are_left_out(void **state)
{
    run(state, leaves_degraded_out);
}

static int taint_job(Db *db, void *arg)
{
    (void)arg;
    DbStmt *s = db_stmt(db, "UPDATE task SET cost_nusd = 1000000,"
                            " state = CASE WHEN seq % 2 THEN 5 ELSE 2 END,"
                            " degraded_calls = 1 - seq % 2 WHERE seq > 25");
    return db_run(s, NULL);
}

/* Nor is it measured from what says nothing about the stable version. */
static int measures_from_what_counts(void *arg)
{
    Fixture *f = arg;
    (void)submit_sessions(f, 0, 45);
    end_tasks(f, 0);
    CHECK_INT(store_call_wait(f->store, taint_job, NULL), 0);
    RolloutRow row = start(f, ID_1).row;
    CHECK_INT(row.baseline.cost_cap_nusd, 1);
    CHECK_INT(row.baseline.latency_p95_ms, 5);
    return 0;
}

static void test_the_baseline_leaves_them_out_too(void **state)
{
    run(state, measures_from_what_counts);
}

static int score_job(Db *db, void *arg)
{
    const char *name = arg;
    int64_t seqs[600];
    size_t n = 0;
    int r;
    DbStmt *s = db_stmt(db, "SELECT seq FROM task WHERE state = 2");
    while ((r = db_step(s)) == DB_E_ROW)
        if (n < ARRAY_N(seqs)) seqs[n++] = db_i64(s, 0);
    for (size_t i = 0; i < n && r == 0; i++)
        r = score_put(db, seqs[i], &(Score){ .name = str_of(name), .value = 0.75, .at_ms = 1 });
    return r;
}

/* A score of one's own, by its name: nothing is compared until it is there, and tasks without a
 * result hold nothing up. */
static int waits_for_scores(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"steps\":[{\"weight\":50,\"minTasks\":5},{\"weight\":100}],"
                "\"rollbackOn\":{\"politeness\":0.3}}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    (void)submit_sessions(f, 0, 200);
    end_tasks(f, 30);
    Ask before = command(f, ID_1, COMMAND_NONE);
    CHECK(before.row.cursors[EVIDENCE_JUDGED].task_seq < 10);
    CHECK_INT(store_call_wait(f->store, score_job, (void *)(uintptr_t) "other"), 0);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.cursors[EVIDENCE_JUDGED].task_seq,
              before.row.cursors[EVIDENCE_JUDGED].task_seq);
    CHECK_INT(store_call_wait(f->store, score_job, (void *)(uintptr_t) "politeness"), 0);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.cursors[EVIDENCE_JUDGED].task_seq, 200);
    CHECK_INT(ask.row.state.weight_bp, WEIGHT_BP_ALL); /* proved no worse */
    return 0;
}

static void test_scores_of_ones_own(void **state)
{
    run(state, waits_for_scores);
}

static int sql_job(Db *db, void *arg)
{
    return db_run(db_stmt(db, arg), NULL);
}

static void sql(Fixture *f, const char *text)
{
    CHECK_INT(store_call_wait(f->store, sql_job, (void *)(uintptr_t)text), 0);
}

/* n: how many units have told the metric in text; quality when there is none. */
static int told_job(Db *db, void *arg)
{
    Ask *ask = arg;
    Str name = str_empty(ask->text) ? STR("quality") : ask->text;
    RolloutSpec spec;
    Evidence evidence;
    int r = control_spec(&ask->row, ask->arena, &spec);
    if (r == 0) r = rollout_evidence_get(db, ask->row.seq, spec.evidence.metrics_n, &evidence);
    for (size_t m = 0; r == 0 && m < spec.evidence.metrics_n; m++)
        if (str_eq(str_of(spec.names[m]), name))
            ask->n = evidence.metrics[m].past.n[0] + evidence.metrics[m].past.n[1];
    return r;
}

/* A score that somebody is faster with than graders is not all that is said of a task; where a
 * judge did not tell, nothing is. */
static int waits_for_graders(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"steps\":[{\"weight\":50,\"minTasks\":5},{\"weight\":100}],"
                "\"rollbackOn\":{\"quality\":0.3}}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    (void)submit_sessions(f, 0, 200);
    end_tasks(f, 0);
    sql(f, "UPDATE task SET quality = 1");
    sql(f, "INSERT INTO grade (task_seq, judged) VALUES (20, 1)");
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.cursors[EVIDENCE_JUDGED].task_seq, 19);
    sql(f, "DELETE FROM grade");
    sql(f, "UPDATE task SET unjudged = 1 WHERE seq BETWEEN 20 AND 60");
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.cursors[EVIDENCE_JUDGED].task_seq, 200); /* nobody waits for them */
    CHECK_INT(store_read_wait(f->store, told_job, &ask), 0);
    CHECK_INT(ask.n, 200 - 41);
    return 0;
}

static void test_waits_for_graders(void **state)
{
    run(state, waits_for_graders);
}

static int64_t told_of(Fixture *f, Ask *ask, const char *metric)
{
    ask->text = str_of(metric);
    CHECK_INT(store_read_wait(f->store, told_job, ask), 0);
    return ask->n;
}

/* A unit that lacks one score when its time is over leaves that metric alone, whatever the score
 * that it has says; and nothing behind it is consumed before. */
static int leaves_one_metric(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block =
        "{\"steps\":[{\"weight\":50,\"minTasks\":500},{\"weight\":100}],\"unitWait\":\"1h\","
        "\"rollbackOn\":{\"politeness\":0.3,\"brevity\":0.3}}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    (void)submit_sessions(f, 0, 60);
    end_tasks(f, 0);
    CHECK_INT(store_call_wait(f->store, score_job, (void *)(uintptr_t) "politeness"), 0);
    CHECK_INT(store_call_wait(f->store, score_job, (void *)(uintptr_t) "brevity"), 0);
    sql(f, "DELETE FROM task_score WHERE task_seq IN (20, 40) AND name = 'brevity'");
    sql(f, "DELETE FROM task_score WHERE task_seq IN (30, 40)");
    sql(f, "UPDATE task_score SET value = 0 WHERE task_seq = 20");
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.cursors[EVIDENCE_JUDGED].task_seq, 19);
    real_now += 3600000;
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.cursors[EVIDENCE_JUDGED].task_seq, 60);
    CHECK_INT(told_of(f, &ask, "politeness"), 58);
    CHECK_INT(told_of(f, &ask, "brevity"), 57);
    return 0;
}

static void test_a_missing_score_leaves_its_metric(void **state)
{
    run(state, leaves_one_metric);
}

/* A version whose tasks fail more often has only its best ones judged. */
static int holds_for_missing_results(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"steps\":[{\"weight\":50,\"minTasks\":5},{\"weight\":100}],"
                "\"rollbackOn\":{\"politeness\":0.3},\"tripwires\":{\"crashes\":0}}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    (void)submit_sessions(f, 0, 400);
    Finish half = { VERSION_B, 50 };
    CHECK_INT(store_call_wait(f->store, finish_job, &half), 0);
    end_tasks(f, 0);
    CHECK_INT(store_call_wait(f->store, score_job, (void *)(uintptr_t) "politeness"), 0);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.weight_bp, 5000);
    CHECK(strstr(ask.move.why, "lack a result or a score") != NULL);
    CHECK(ask.move.actions & ROLLOUT_DO_PAGE);
    return 0;
}

static void test_it_holds_for_missing_results(void **state)
{
    run(state, holds_for_missing_results);
}

/* A judge that cannot tell of many tasks of the canary: what it says of the others proves
 * nothing. */
static int holds_for_silence(void *arg)
{
    Fixture *f = arg;
    RecordStats before, after;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"steps\":[{\"weight\":50,\"minTasks\":5},{\"weight\":100}],"
                "\"rollbackOn\":{\"quality\":0.3}}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    (void)submit_sessions(f, 0, 100);
    end_tasks(f, 0);
    sql(f, "UPDATE task SET quality = CASE WHEN version_id LIKE 'b%' AND seq % 2 = 0 THEN NULL"
           " ELSE 0.9 END, unjudged = version_id LIKE 'b%' AND seq % 2 = 0");
    record_stats(&before);
    ask = command(f, ID_1, COMMAND_NONE);
    record_stats(&after);
    CHECK_INT(ask.row.state.weight_bp, 5000);
    CHECK(strstr(ask.move.why, "graders could not tell of ") != NULL);
    CHECK(strstr(ask.move.why, "of 0% of the stable") != NULL);
    CHECK(ask.move.actions & ROLLOUT_DO_PAGE);
    CHECK_INT(after.judge_holds - before.judge_holds, 1);
    (void)submit_sessions(f, 100, 400);
    end_tasks(f, 0);
    sql(f, "UPDATE task SET quality = 0.9 WHERE seq > 100");
    ask = command(f, ID_1, COMMAND_NONE); /* far fewer, but still not alike */
    CHECK(strstr(ask.move.why, "not alike") != NULL);
    return 0;
}

static void test_it_holds_for_graders_that_cannot_tell(void **state)
{
    run(state, holds_for_silence);
}

static int alarm_job(Db *db, void *arg)
{
    int64_t id;
    Alarm alarm = { .agent = STR("support"),
                    .version_id = STR(VERSION_C),
                    .metric = str_of(arg),
                    .text = STR("x") };
    return alarm_insert(db, &alarm, &id);
}

static int all_seen_job(Db *db, void *arg)
{
    (void)arg;
    int r = alarm_acknowledge(db, 1, STR("ada"), STR(""), 1);
    return r == 0 ? alarm_acknowledge(db, 2, STR("ada"), STR(""), 1) : r;
}

/* Scores are compared while the judge that gives them is what it was. */
static int holds_for_the_judge(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"steps\":[{\"weight\":50,\"minTasks\":5},{\"weight\":100}],"
                "\"rollbackOn\":{\"politeness\":0.3}}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    CHECK_INT(store_call_wait(f->store, alarm_job, (void *)(uintptr_t) "qualityScore"), 0);
    CHECK_INT(store_call_wait(f->store, alarm_job, (void *)(uintptr_t) "judge:helpful"), 0);
    (void)submit_sessions(f, 0, 200);
    end_tasks(f, 0);
    CHECK_INT(store_call_wait(f->store, score_job, (void *)(uintptr_t) "politeness"), 0);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.weight_bp, 5000);
    CHECK(strstr(ask.move.why, "judge has changed") != NULL);
    CHECK_INT(store_call_wait(f->store, all_seen_job, NULL), 0);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.weight_bp, WEIGHT_BP_ALL);
    return 0;
}

static int replace_judge_job(Db *db, void *arg)
{
    const char *version = arg;
    Version v = { .id = str_of(version),
                  .agent = STR("critic"),
                  .components = STR("{}"),
                  .manifest = STR("{}") };
    int r = agent_ensure(db, v.agent, 1);
    if (r == 0) r = version_insert(db, &v);
    if (r == 0) r = routing_set(db, v.agent, v.id, real_now);
    return r != 0 ? r
                  : agent_set_settings(db, STR("support"),
                                       STR("{\"graders\":[{\"name\":\"politeness\",\"type\":"
                                           "\"judge\",\"agent\":\"critic\"}]}"));
}

/* Scores of two versions of a judge are not compared. */
static int holds_for_another_judge(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"steps\":[{\"weight\":50,\"minTasks\":5},{\"weight\":100}],"
                "\"rollbackOn\":{\"politeness\":0.3}}";
    CHECK_INT(store_call_wait(f->store, replace_judge_job, (void *)(uintptr_t)VERSION_D), 0);
    pass_ms(1000);
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    CHECK(strstr(command(f, ID_1, COMMAND_NONE).move.why, "critic") == NULL);
    pass_ms(1000);
    CHECK_INT(store_call_wait(f->store, replace_judge_job, (void *)(uintptr_t)VERSION_E), 0);
    (void)submit_sessions(f, 0, 200);
    end_tasks(f, 0);
    CHECK_INT(store_call_wait(f->store, score_job, (void *)(uintptr_t) "politeness"), 0);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.weight_bp, 5000);
    CHECK(strstr(ask.move.why, "the judge critic got another version") != NULL);
    return 0;
}

static void test_it_holds_for_another_version_of_the_judge(void **state)
{
    run(state, holds_for_another_judge);
}

static void test_it_holds_for_a_judge_that_has_changed(void **state)
{
    run(state, holds_for_the_judge);
}

/* The first task waits for a worker that never comes; what follows it has ended. */
static int passes_what_never_starts(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = BLOCK_WITH(",\"unitWait\":\"10m\"");
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    (void)submit_sessions(f, 0, 10);
    end_tasks(f, 0);
    CHECK_INT(units_of(f), 10);
    (void)submit_sessions(f, 10, 11); /* stays queued */
    pass_ms(2000);
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    TaskRef stuck = claim_one(f, worker);
    (void)submit_sessions(f, 11, 20);
    end_tasks(f, 0);
    CHECK_INT(units_of(f), 0);
    TaskState state;
    CHECK_INT(finish(f, stuck, TASK_OUTCOME_RELEASED, &state), 0);
    CHECK_INT(state, TASK_QUEUED);
    pass_ms(23 * 3600000);
    CHECK_INT(units_of(f), 0); /* it has been started once: it may still end */
    pass_ms(2 * 3600000);
    RecordStats before, after;
    record_stats(&before);
    CHECK_INT(units_of(f), 9);
    record_stats(&after);
    CHECK_INT(after.fates[FATE_FAILED] - before.fates[FATE_FAILED], 1);
    (void)submit_sessions(f, 200, 201);
    pass_ms(599000);
    CHECK_INT(units_of(f), 0);
    record_stats(&before);
    pass_ms(2000);
    CHECK_INT(units_of(f), 0);
    record_stats(&after);
    CHECK_INT(after.fates[FATE_DROPPED] - before.fates[FATE_DROPPED], 1);
    return 0;
}

static void test_nothing_waits_for_ever(void **state)
{
    run(state, passes_what_never_starts);
}

static int keeps_users_together(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = BLOCK_WITH(",\"unit\":\"user\"");
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    for (int user = 0; user < 20; user++) {
        char name[16], session[32], first[VERSION_ID_LEN + 1] = "";
        int n = snprintf(name, sizeof(name), "user-%d", user);
        for (int i = 0; i < 4; i++) {
            int m = snprintf(session, sizeof(session), "session-%d-%d", user, i);
            TaskNew new = { .agent = STR("support"),
                            .lane = LANE_NORMAL,
                            .input = STR("1"),
                            .user_id = str_make(name, (size_t)n),
                            .session_id = str_make(session, (size_t)m) };
            TaskSummary summary = { 0 };
            CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
            if (i == 0) memcpy(first, summary.version_id, sizeof(first));
            CHECK(strcmp(first, summary.version_id) == 0);
        }
    }
    return 0;
}

static void test_the_unit_can_be_the_user(void **state)
{
    run(state, keeps_users_together);
}

/* --- before the first task, and at once ------------------------------------------------------- */

typedef struct {
    ControlChecked checked;
    Arena *arena;
    RolloutRow row;
} Checked;

static int checked_job(Db *db, void *arg)
{
    Checked *c = arg;
    c->checked.now_ms = real_now;
    return control_checked(db, STR(ID_1), &c->checked, c->arena, &c->row);
}

static RolloutRow check_it(Fixture *f, bool passed)
{
    Checked c = { .checked = { .passed = passed,
                               .why = STR("the artifact is gone"),
                               .checks = STR("[{\"name\":\"artifact\"}]") },
                  .arena = &f->arena };
    CHECK_INT(store_call_wait(f->store, checked_job, &c), 0);
    return c.row;
}

static int begins_unchecked(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.unchecked = true;
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    CHECK_INT(ask.row.state.state, ROLLOUT_PREFLIGHT);
    CHECK_INT(submit_sessions(f, 0, 20), 0); /* it gets no task before it is checked */
    return 0;
}

static int is_refused(void *arg)
{
    Fixture *f = arg;
    Ask ask = command(f, ID_1, COMMAND_NONE), after;
    CHECK_INT(ask.row.state.state, ROLLOUT_PREFLIGHT); /* after the restart too */
    after = command(f, ID_1, COMMAND_PROMOTE);
    CHECK(after.move.refused);                 /* nor can anybody skip that */
    CHECK(str_eq(after.row.why, ask.row.why)); /* why it is as it is, not what was asked */
    RolloutRow row = check_it(f, false);
    CHECK_INT(row.state.state, ROLLOUT_ABORTED);
    CHECK(str_find(row.why, STR("the artifact is gone")) >= 0);
    CHECK(str_find(row.checks, STR("artifact")) >= 0);
    row = check_it(f, true); /* too late: nothing follows an end */
    CHECK_INT(row.state.state, ROLLOUT_ABORTED);
    CHECK_STR(routed(f), STR(VERSION_A));
    return 0;
}

static void test_nothing_starts_unchecked(void **state)
{
    Fixture *f = *state;
    run(state, begins_unchecked);
    close_queue(f);
    open_queue(f);
    run(state, is_refused);
}

/* Submits tasks one by one and ends each at once, those of the stable version so; until the canary
 * has crashed ten times. How many were submitted. */
static int crash(Fixture *f, TaskOutcome stable)
{
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"steps\":[{\"weight\":50},{\"weight\":100}],\"rollbackOn\":{\"errorRate\":2}}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    int64_t crashes = 0;
    int i = 0;
    for (; crashes < 10; i++) {
        bool canary = submit_sessions(f, i, i + 1) == 1;
        TaskState state;
        CHECK_INT(
            finish(f, claim_one(f, worker), canary ? TASK_OUTCOME_FAILED_FINAL : stable, &state),
            0);
        crashes += canary;
        if (crashes < 10) CHECK_INT(command(f, ID_1, COMMAND_NONE).row.state.state, ROLLOUT_STEP);
        pass_ms(1);
    }
    return i;
}

/* Crashes of the canary, far fewer than the statistics would need at such a margin; and behind them
 * more tasks of either version that wait than are looked at. */
static int crashes_at_once(void *arg)
{
    Fixture *f = arg;
    int n = crash(f, TASK_OUTCOME_SUCCEEDED);
    CHECK(submit_sessions(f, n, n + 300) > TRIPWIRE_TASKS);
    CHECK(queued_of(f, VERSION_A) > TRIPWIRE_TASKS);
    Ask ask;
    RecordStats before, after;
    record_stats(&before);
    ask = command(f, ID_1, COMMAND_NONE);
    record_stats(&after);
    CHECK_INT(ask.row.state.state, ROLLOUT_ROLLED_BACK);
    CHECK(str_find(ask.row.why, STR("at once")) >= 0);
    CHECK_INT(after.tripped[TRIPWIRE_CRASH_LOOP] - before.tripped[TRIPWIRE_CRASH_LOOP], 1);
    return 0;
}

static void test_a_crash_loop_trips(void **state)
{
    run(state, crashes_at_once);
}

/* A canary whose attempts reach the limits of their sandbox. */
static int breaks_out(void *arg)
{
    Fixture *f = arg;
    (void)start(f, ID_1);
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    int64_t reached = 0;
    for (int i = 0; reached < TRIPWIRE_LIMITS; i++) {
        bool canary = submit_sessions(f, i, i + 1) == 1;
        TaskFinish end = { .task = claim_one(f, worker),
                           .outcome = canary ? TASK_OUTCOME_FAILED_FINAL : TASK_OUTCOME_SUCCEEDED,
                           .error_code = canary ? STR("resource_limit") : STR_NULL };
        TaskState state;
        CHECK_INT(command(f, ID_1, COMMAND_NONE).row.state.state, ROLLOUT_STEP);
        CHECK_INT(queue_finish_wait(f->queue, &end, &state), 0);
        reached += canary;
        pass_ms(1);
    }
    Ask ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.state, ROLLOUT_ROLLED_BACK);
    CHECK(str_find(ask.row.why, STR("sandbox")) >= 0);
    return 0;
}

static void test_a_broken_sandbox_trips(void **state)
{
    run(state, breaks_out);
}

/* Workers that die with tasks of the canary: how many attempts that is. */
static int64_t die(Fixture *f, int n)
{
    Uuid worker = add_worker(f, n, WORKER_REMOTE);
    Task *tasks = NULL;
    size_t claimed = claim(f, worker, roomy, &tasks);
    pass_ms(3600000);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    return (int64_t)claimed;
}

static int dies(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"strategy\":\"blue-green\",\"holdFor\":\"100h\"}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    (void)submit_sessions(f, 0, 30);
    for (int n = 1; n <= TRIPWIRE_CRASHES;
         n++) { /* one death is one crash, whatever it takes along */
        CHECK_INT(command(f, ID_1, COMMAND_NONE).row.state.state, ROLLOUT_STEP);
        (void)submit_sessions(f, 100 * n, 100 * n + 5);
        CHECK(die(f, n) > 0);
    }
    CHECK_INT(command(f, ID_1, COMMAND_NONE).row.state.state, ROLLOUT_ROLLED_BACK);
    return 0;
}

static void test_a_worker_dies_once(void **state)
{
    run(state, dies);
}

/* Workers with more slots than tasks are looked at: a task is lost a few times only, so the deaths
 * are spread over more tasks than that. */
static int dies_with_many(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"strategy\":\"blue-green\",\"holdFor\":\"100h\"}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    for (int n = 1; n <= TRIPWIRE_CRASHES; n++) {
        CHECK_INT(command(f, ID_1, COMMAND_NONE).row.state.state, ROLLOUT_STEP);
        if (n % 5 == 1) (void)submit_sessions(f, 100 * n, 100 * n + TRIPWIRE_TASKS + 2);
        CHECK_INT(die(f, n), TRIPWIRE_TASKS + 2);
        pass_ms(3600000); /* lost again and again they wait longer */
    }
    CHECK_INT(command(f, ID_1, COMMAND_NONE).row.state.state, ROLLOUT_ROLLED_BACK);
    return 0;
}

static void test_deaths_of_large_workers(void **state)
{
    run(state, dies_with_many);
}

/* Both versions crash: that of the stable one is not hidden by its tasks that wait, nor by what it
 * did before. */
static int crashes_alike(void *arg)
{
    Fixture *f = arg;
    (void)submit_sessions(f, 1000, 1040);
    end_claimed(f, add_worker(f, 2, WORKER_REMOTE), 40);
    pass_ms(1000);
    int n = crash(f, TASK_OUTCOME_FAILED_FINAL);
    (void)submit_sessions(f, n, n + 300);
    CHECK(queued_of(f, VERSION_A) > TRIPWIRE_TASKS);
    CHECK_INT(command(f, ID_1, COMMAND_NONE).row.state.state, ROLLOUT_STEP);
    return 0;
}

static void test_a_crash_loop_of_both_does_not(void **state)
{
    run(state, crashes_alike);
}

static int spend_job(Db *db, void *arg)
{
    (void)arg;
    return db_run(db_stmt(db, "UPDATE task SET attempt = 1, cost_nusd = 5000000001"
                              " WHERE version_id = '" VERSION_B "'"),
                  NULL);
}

/* They have not even ended. */
static int runs_away(void *arg)
{
    Fixture *f = arg;
    (void)start(f, ID_1);
    while (queued_of(f, VERSION_B) < 3)
        (void)submit_sessions(f, (int)queued_of(f, VERSION_A) + (int)queued_of(f, VERSION_B),
                              (int)queued_of(f, VERSION_A) + (int)queued_of(f, VERSION_B) + 1);
    CHECK_INT(command(f, ID_1, COMMAND_NONE).row.state.state, ROLLOUT_STEP);
    CHECK_INT(store_call_wait(f->store, spend_job, NULL), 0);
    Ask ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.state, ROLLOUT_ROLLED_BACK);
    CHECK(str_find(ask.row.why, STR("spending")) >= 0);
    return 0;
}

static void test_a_runaway_budget_trips(void **state)
{
    run(state, runs_away);
}

/* The process ends between any two ticks: the next one goes on from what was committed. */
static int half(void *arg)
{
    Fixture *f = arg;
    (void)start(f, ID_1);
    (void)submit_sessions(f, 0, 60);
    end_tasks(f, 0);
    (void)command(f, ID_1, COMMAND_NONE);
    return 0;
}

static int other_half(void *arg)
{
    Fixture *f = arg;
    Ask before = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(before.row.state.state, ROLLOUT_STEP);
    CHECK(before.row.cursors[0].task_seq == 60);
    (void)submit_sessions(f, 60, 600);
    end_tasks(f, 0);
    Ask ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.weight_bp, WEIGHT_BP_ALL);
    return 0;
}

static void test_it_survives_a_restart(void **state)
{
    Fixture *f = *state;
    run(state, half);
    close_queue(f);
    open_queue(f);
    run(state, other_half);
}

static int open_gate_job(Db *db, void *arg)
{
    Ask *ask = arg;
    return control_open_gate(db, STR(ID_1), STR("review"), STR("ada"), real_now, ask->arena,
                             &ask->row, &ask->move);
}

static int opens(void *arg)
{
    Fixture *f = arg;
    Ask ask = { .arena = &f->arena, .id = ID_1 };
    ask.block = "{\"steps\":[{\"weight\":50,\"minTasks\":20,\"gate\":\"review\"},{\"weight\":100}],"
                "\"rollbackOn\":{\"errorRate\":0.1}}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    CHECK_INT(store_call_wait(f->store, open_gate_job, &ask), 0);
    CHECK_INT(ask.row.state.gates_open, 1);
    CHECK_INT(ask.row.state.weight_bp, 5000);
    return 0;
}

static int still_open(void *arg)
{
    Fixture *f = arg;
    Ask ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.gates_open, 1);
    CHECK_INT(ask.row.state.weight_bp, 5000); /* without evidence it helps nothing */
    (void)submit_sessions(f, 0, 600);
    end_tasks(f, 0);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.weight_bp, WEIGHT_BP_ALL);
    return 0;
}

static void test_an_open_gate_survives_a_restart(void **state)
{
    Fixture *f = *state;
    run(state, opens);
    close_queue(f);
    open_queue(f);
    run(state, still_open);
}

static int spoil_job(Db *db, void *arg)
{
    (void)arg;
    return db_run(db_stmt(db, "UPDATE rollout_evidence SET bytes = x'0102'"), NULL);
}

/* Evidence of another build: every outcome is read again, and the decision is the same. */
static int gathers_anew(void *arg)
{
    Fixture *f = arg;
    (void)start(f, ID_1);
    (void)submit_sessions(f, 0, 60);
    end_tasks(f, 0);
    Ask ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.cursors[0].task_seq, 60);
    CHECK_INT(store_call_wait(f->store, spoil_job, NULL), 0);
    (void)submit_sessions(f, 60, 600);
    end_tasks(f, 0);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.cursors[0].task_seq, 600);
    CHECK_INT(ask.row.state.weight_bp, WEIGHT_BP_ALL);
    return 0;
}

static void test_unreadable_evidence_is_gathered_anew(void **state)
{
    run(state, gathers_anew);
}

/* --- without a baseline ----------------------------------------------------------------------- */

/* Ends every queued task: the canary's last ten minutes, the others a second. */
static int slow_job(Db *db, void *arg)
{
    (void)arg;
    DbStmt *s = db_stmt(db, "UPDATE task SET started_at_ms = ready_at_ms, state = 2,"
                            " finished_at_ms = ready_at_ms + iif(version_id = ?1, 600000, 1000),"
                            " ran_ms = iif(version_id = ?1, 600000, 1000)"
                            " WHERE state = 0");
    db_bind_text(s, 1, STR(VERSION_B));
    return db_run(s, NULL);
}

static void end_slow(Fixture *f)
{
    CHECK_INT(store_call_wait(f->store, slow_job, NULL), 0);
    pass_ms(5000);
}

/* How long a task of an untried version takes is not known, so that a slow canary is none the worse
 * is not either: it holds until there is something to compare with, and then sees it. */
static int waits_for_a_baseline(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"steps\":[{\"weight\":50,\"minTasks\":5},{\"weight\":100}],"
                "\"rollbackOn\":{\"latency\":0.3}}";
    (void)submit_sessions(f, 0, 8);
    end_slow(f);
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    CHECK_INT(ask.row.baseline.tasks, 0);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_STR(ask.row.why, STR("Held: latency is measured from the stable version, of which 8 of "
                               "the first 20 tasks are in."));
    (void)submit_sessions(f, 100, 300); /* none of them knows what is slow */
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK(str_find(ask.row.why, STR("of which 8 of")) >= 0);
    end_slow(f);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK(ask.row.baseline.tasks > 80);
    CHECK_INT(ask.row.baseline.latency_p95_ms, 1000);
    CHECK(str_find(ask.row.why, STR("0 of at least 5")) >= 0);
    CHECK_INT(ask.row.cursors[0].task_seq, 208);
    pass_ms(1);
    (void)submit_sessions(f, 300, 400);
    end_slow(f);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.state, ROLLOUT_ROLLED_BACK);
    CHECK(str_find(ask.row.why, STR("latency")) >= 0);
    return 0;
}

static void test_without_a_baseline_nothing_is_proved(void **state)
{
    run(state, waits_for_a_baseline);
}

/* A clock that is set back by a day hides neither what becomes of units nor what they are measured
 * by. */
static int sees_after_the_clock(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"steps\":[{\"weight\":50,\"minTasks\":5},{\"weight\":100}],"
                "\"rollbackOn\":{\"latency\":0.3}}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    (void)submit_sessions(f, 0, 200);
    end_slow(f);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK(ask.row.baseline.tasks > 80);
    real_now -= 86400000;
    (void)submit_sessions(f, 200, 300);
    end_slow(f);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.cursors[0].task_seq, 300);
    CHECK_INT(ask.row.state.state, ROLLOUT_ROLLED_BACK);
    return 0;
}

static void test_a_clock_that_goes_back_hides_nothing(void **state)
{
    run(state, sees_after_the_clock);
}

/* In the shadow no unit is assigned: production's tasks are there all the same. */
static int waits_in_the_shadow(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"strategy\":\"shadow\",\"rollbackOn\":{\"latency\":0.3}}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    CHECK_INT(submit_sessions(f, 0, 19), 0);
    end_slow(f);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_STR(ask.row.why, STR("Held in the shadow: latency is measured from the stable version, "
                               "of which 19 of the first 20 tasks are in."));
    (void)submit_sessions(f, 19, 20);
    end_slow(f);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.baseline.tasks, 20);
    CHECK_INT(ask.row.baseline.since_ms, real_now + 1);
    CHECK(str_find(ask.row.why, STR("0 of at least 50 pairs")) >= 0);
    return 0;
}

static void test_nor_is_it_in_the_shadow(void **state)
{
    run(state, waits_in_the_shadow);
}

typedef struct {
    const char *sql;
    RolloutBaseline found;
    int64_t n;
} First;

static int first_job(Db *db, void *arg)
{
    First *first = arg;
    int r = db_run(db_stmt(db, first->sql), NULL);
    if (r != 0) return r;
    return gather_first(db, STR(VERSION_A), 3600000, real_now, &first->found, &first->n);
}

/* In the order in which they were submitted, up to the first whose end is not known. */
static int takes_the_first(void *arg)
{
    Fixture *f = arg;
    (void)submit_sessions(f, 0, 60);
    end_tasks(f, 0);
    First first = { .sql = "UPDATE task SET state = 1, finished_at_ms = 0 WHERE seq IN (12, 40)" };
    CHECK_INT(store_call_wait(f->store, first_job, &first), 0);
    CHECK(first.n == 11 && first.found.tasks == 0);
    first.sql = "UPDATE task SET state = 6 WHERE seq = 12"; /* a person is asked: that is known */
    CHECK_INT(store_call_wait(f->store, first_job, &first), 0);
    CHECK(first.n == 39 && first.found.tasks == 39);
    first.sql = "UPDATE task SET state = 5 WHERE seq < 10";
    CHECK_INT(store_call_wait(f->store, first_job, &first), 0);
    CHECK(first.n == 30 && first.found.tasks == 30);
    pass_ms(25 * 3600000); /* none runs for so long */
    CHECK_INT(store_call_wait(f->store, first_job, &first), 0);
    CHECK(first.n == 51 && first.found.tasks == 51);
    return 0;
}

static void test_quick_tasks_are_no_baseline(void **state)
{
    run(state, takes_the_first);
}

/* --- what was consumed ------------------------------------------------------------------------ */

#define JUDGED_BLOCK                                                   \
    "{\"steps\":[{\"weight\":50,\"minTasks\":1000},{\"weight\":100}]," \
    "\"rollbackOn\":{\"errorRate\":0.3,\"completionRate\":0.5,"        \
    "\"escalationRate\":0.3,\"quality\":0.3}}"

static int statements(Db *db, const char *const *sql, size_t n)
{
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) r = db_run(db_stmt(db, sql[i]), NULL);
    return r;
}

/* Of ten tasks one waits for a person, one has not started, one runs for too long, one has no
 * score, two have scores of two names; the others one of one. */
static int mixed_job(Db *db, void *arg)
{
    static const char *const sql[] = {
        "UPDATE task SET started_at_ms = ready_at_ms + 1, finished_at_ms = ready_at_ms + 5,"
        " state = 2 WHERE seq % 10 <> 2",
        "UPDATE task SET state = 6, finished_at_ms = 0, escalations = 1, cost_nusd = 7"
        " WHERE seq % 10 = 1",
        "UPDATE task SET state = 1, finished_at_ms = 0, deadline_at_ms = ready_at_ms + 1000"
        " WHERE seq % 10 = 3",
        "INSERT INTO task_score (task_seq, name, value, at_ms) SELECT seq, 'a', 0.75, 1 FROM task"
        " WHERE seq % 10 > 4",
        "INSERT INTO task_score (task_seq, name, value, at_ms) SELECT seq, 'b', 0.5, 1 FROM task"
        " WHERE seq % 10 > 7",
        "UPDATE task SET quality = (SELECT avg(value) FROM task_score WHERE task_seq = seq)",
    };
    (void)arg;
    return statements(db, sql, ARRAY_N(sql));
}

/* Everything that may follow after a unit has been consumed. */
static int later_job(Db *db, void *arg)
{
    static const char *const sql[] = {
        "UPDATE task SET state = 2, started_at_ms = 9000000, finished_at_ms = 9999999,"
        " cost_nusd = 99 WHERE seq % 10 = 1",
        "UPDATE task SET state = 3, started_at_ms = 9000000, finished_at_ms = 9999999"
        " WHERE seq % 10 = 2",
        "UPDATE task SET state = 2, finished_at_ms = 9999999 WHERE seq % 10 = 3",
        "UPDATE task SET quality = 0 WHERE seq % 10 = 4",
        "UPDATE task SET quality = 0.1 WHERE seq % 10 > 4",
    };
    (void)arg;
    return statements(db, sql, ARRAY_N(sql));
}

typedef struct {
    Fixture *f;
    RolloutSpec *spec;
    Observation *list;
    size_t n;
    Evidence *evidence; /* as it is stored */
    RolloutRow row;
} Kept;

static int kept_job(Db *db, void *arg)
{
    Kept *kept = arg;
    RolloutCursor next;
    int r = observations_list(db, STR(ID_1), (RolloutCursor){ 0 }, &kept->f->arena, &kept->spec,
                              &kept->list, &kept->n, &next);
    kept->evidence = arena_zalloc(&kept->f->arena, sizeof(Evidence));
    if (r == 0) r = rollout_get(db, STR(ID_1), &kept->f->arena, &kept->row);
    if (r != 0) return r;
    if ((next.task_seq != 0) != (kept->n == OBSERVATIONS_MAX)) return -EIO;
    return rollout_evidence_get(db, kept->row.seq, kept->spec->evidence.metrics_n, kept->evidence);
}

static Kept kept_of(Fixture *f)
{
    Kept kept = { .f = f };
    CHECK_INT(store_call_wait(f->store, kept_job, &kept), 0);
    return kept;
}

static bool same_bytes(const void *a, const void *b, size_t n)
{
    return memcmp(a, b, n) == 0;
}

static int check_kept(const Kept *a, const Kept *b)
{
    CHECK_INT(a->n, b->n);
    for (size_t i = 0; i < a->n; i++) {
        CHECK_INT(a->list[i].at.task_seq, b->list[i].at.task_seq);
        CHECK(same_bytes(&a->list[i].unit, &b->list[i].unit, sizeof(a->list[i].unit)));
    }
    CHECK(same_bytes(a->evidence, b->evidence, sizeof(*a->evidence))); /* as they are stored */
    CHECK_INT(a->row.state.step_canaries, b->row.state.step_canaries);
    CHECK_INT(memcmp(a->row.cursors, b->row.cursors, sizeof(a->row.cursors)), 0);
    CHECK_INT(memcmp(&a->row.seen, &b->row.seen, sizeof(a->row.seen)), 0);
    return 0;
}

/* What is exported, through the engine, as who decides again does. */
static int check_decides_again(Fixture *f, const Kept *kept)
{
    Evidence *again = arena_zalloc(&f->arena, sizeof(*again));
    const EvidencePlan *plan = &kept->spec->evidence;
    evidence_init(again);
    for (size_t i = 0; i < kept->n; i++)
        for (EvidenceGroup g = 0; g < EVIDENCE_GROUPS_N_; g++)
            evidence_observe(again, plan, 0, g, &kept->list[i].unit);
    for (size_t m = 0; m < plan->metrics_n; m++) {
        const MetricEvidence *a = &again->metrics[m], *b = &kept->evidence->metrics[m];
        CHECK(a->past.n[0] == b->past.n[0] && a->past.n[1] == b->past.n[1]);
        CHECK(a->past.n[0] > 50);
        CHECK(evalue_log(&a->rollback) == evalue_log(&b->rollback));
        CHECK(evalue_log(&a->promote[0]) == evalue_log(&b->promote[0]));
    }
    return 0;
}

static int forget_job(Db *db, void *arg)
{
    (void)arg;
    return db_run(db_stmt(db, "DELETE FROM task"), NULL);
}

static int keeps_what_was_consumed(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = JUDGED_BLOCK;
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    (void)submit_sessions(f, 0, 300);
    CHECK_INT(store_call_wait(f->store, mixed_job, NULL), 0);
    pass_ms(2 * 3600000);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.cursors[0].task_seq, 300);
    CHECK_INT(ask.row.cursors[1].task_seq, 300);
    Kept before = kept_of(f);
    CHECK_INT(before.n, 270); /* those that never started are none */
    CHECK_INT(check_decides_again(f, &before), 0);

    CHECK_INT(store_call_wait(f->store, later_job, NULL), 0);
    Kept after = kept_of(f);
    CHECK_INT(check_kept(&before, &after), 0);
    CHECK_INT(store_call_wait(f->store, spoil_job, NULL), 0);
    (void)command(f, ID_1, COMMAND_NONE);
    after = kept_of(f);
    CHECK_INT(check_kept(&before, &after), 0);
    CHECK_INT(store_call_wait(f->store, forget_job, NULL), 0);
    after = kept_of(f);
    return check_kept(&before, &after);
}

static void test_what_was_consumed_stays(void **state)
{
    run(state, keeps_what_was_consumed);
}

/* Canaries that an earlier step had are none of this one, whoever gathers them. */
static int keeps_the_steps_beginning(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"steps\":[{\"weight\":25,\"minTasks\":20},{\"weight\":50,\"minTasks\":20},"
                "{\"weight\":100}],\"rollbackOn\":{\"errorRate\":0.3}}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    (void)submit_sessions(f, 0, 400);
    end_tasks(f, 0);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.step, 1);
    CHECK(ask.row.state.step_canaries > 50);
    CHECK_INT(store_call_wait(f->store, spoil_job, NULL), 0);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.state.step, 1);
    CHECK(str_find(ask.row.why, STR("0 of at least 20")) >= 0);
    return 0;
}

static void test_canaries_of_an_earlier_step_stay_there(void **state)
{
    run(state, keeps_the_steps_beginning);
}

/* What an older program has consumed and not recorded is gathered once more, tick by tick, and
 * recorded then. */
static int unrecorded_job(Db *db, void *arg)
{
    int r = db_run(db_stmt(db, "DELETE FROM rollout_consumed"), NULL);
    return r == 0 ? spoil_job(db, arg) : r;
}

static int records_what_was_not(void *arg)
{
    Fixture *f = arg;
    (void)start(f, ID_1);
    (void)submit_sessions(f, 0, 1500);
    end_tasks(f, 0);
    (void)command(f, ID_1, COMMAND_PAUSE);
    Ask ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.cursors[0].task_seq, 1500);
    Kept before = kept_of(f);
    CHECK_INT(store_call_wait(f->store, unrecorded_job, NULL), 0);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.cursors[0].task_seq, GATHER_UNITS_MAX);
    CHECK_INT(ask.row.seen.task_seq, 1500);
    (void)command(f, ID_1, COMMAND_NONE);
    Kept after = kept_of(f);
    return check_kept(&before, &after);
}

static void test_what_was_not_recorded_is_gathered_once_more(void **state)
{
    run(state, records_what_was_not);
}

/* --- who asks a person ------------------------------------------------------------------------ */

static int cost_job(Db *db, void *arg)
{
    DbStmt *s = db_stmt(db, "UPDATE task SET cost_nusd = ?1 WHERE seq = 2");
    db_bind_i64(s, 1, *(const int64_t *)arg);
    return db_run(s, NULL);
}

static void cost(Fixture *f, int64_t nusd)
{
    CHECK_INT(store_call_wait(f->store, cost_job, &nusd), 0);
}

/* The second task asks after two seconds of work, is answered an hour later, works for a minute and
 * is dear. Its elder is done before that, or only after it. */
static void ask_and_go_on(Fixture *f, bool elder_first)
{
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    TaskState state = TASK_STATE_N_;
    EscalationAsk ask = { .occurrence = 1, .question = STR("may I?"), .timeout_ms = 9 * 3600000 };
    EscalationReply reply;
    (void)submit_sessions(f, 0, 2);
    TaskRef elder = claim_one(f, worker), ref = claim_one(f, worker);
    pass_ms(2000);
    cost(f, 5);
    CHECK_INT(queue_escalate_wait(f->queue, ref, &ask, &f->arena, &reply), 0);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_ESCALATED, &state), 0);
    CHECK_INT(state, TASK_ESCALATED);
    if (elder_first) CHECK_INT(finish(f, elder, TASK_OUTCOME_SUCCEEDED, &state), 0);
    (void)command(f, ID_1, COMMAND_NONE);
    pass_ms(3600000);
    CHECK_INT(queue_resolve_wait(f->queue, ref.id, STR("true"), STR("ada"), &state), 0);
    (void)command(f, ID_1, COMMAND_NONE);
    ref = claim_one(f, worker);
    pass_ms(60000);
    cost(f, 5000);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, &state), 0);
    if (!elder_first) CHECK_INT(finish(f, elder, TASK_OUTCOME_SUCCEEDED, &state), 0);
    pass_ms(1000);
}

static int known_job(Db *db, void *arg)
{
    (void)arg;
    return db_run(db_stmt(db, "UPDATE rollout SET baseline_tasks = 20, latency_p95_ms = 1500,"
                              " cost_cap_nusd = 100"),
                  NULL);
}

static int counts_when_it_asks(Fixture *f, bool elder_first)
{
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"steps\":[{\"weight\":50},{\"weight\":100}],\"rollbackOn\":{\"errorRate\":0.3,"
                "\"completionRate\":0.3,\"escalationRate\":0.3,\"costPerTask\":0.3,"
                "\"latency\":0.3}}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    CHECK_INT(store_call_wait(f->store, known_job, NULL), 0);
    ask_and_go_on(f, elder_first);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.cursors[0].task_seq, 2);
    Kept kept = kept_of(f);
    CHECK_INT(kept.n, 2);
    static const double want[] = { 0, 1, 1, 0.05, 1 }; /* 2 s are more than 1500 ms */
    for (size_t m = 0; m < ARRAY_N(want); m++) CHECK(kept.list[1].unit.harm[m] == want[m]);
    return 0;
}

static int asks_after_its_elder(void *arg)
{
    return counts_when_it_asks(arg, true);
}

static int asks_before_its_elder(void *arg)
{
    return counts_when_it_asks(arg, false);
}

/* Nor does a retry by hand undo a failure that had not been consumed yet. */
static int fails_and_is_retried(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    TaskState state = TASK_STATE_N_;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"steps\":[{\"weight\":50},{\"weight\":100}],\"rollbackOn\":{\"errorRate\":0.3,"
                "\"escalationRate\":0.3,\"costPerTask\":0.3,\"latency\":0.3}}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    CHECK_INT(store_call_wait(f->store, known_job, NULL), 0);
    (void)submit_sessions(f, 0, 2);
    TaskRef elder = claim_one(f, worker), ref = claim_one(f, worker);
    pass_ms(1000);
    cost(f, 5);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_FAILED_FINAL, &state), 0);
    CHECK_INT(queue_retry_wait(f->queue, ref.id, false), 0);
    ref = claim_one(f, worker);
    pass_ms(60000);
    cost(f, 5000);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, &state), 0);
    CHECK_INT(finish(f, elder, TASK_OUTCOME_SUCCEEDED, &state), 0);
    pass_ms(1000);
    ask = command(f, ID_1, COMMAND_NONE);
    CHECK_INT(ask.row.cursors[0].task_seq, 2);
    Kept kept = kept_of(f);
    CHECK_INT(kept.n, 2);
    static const double want[] = { 1, 0, 0.05, 0 };
    for (size_t m = 0; m < ARRAY_N(want); m++) CHECK(kept.list[1].unit.harm[m] == want[m]);
    return 0;
}

static void test_a_retry_by_hand_undoes_no_failure(void **state)
{
    run(state, fails_and_is_retried);
}

static void test_who_asks_counts_as_it_was_then(void **state)
{
    run(state, asks_after_its_elder);
}

static void test_whatever_it_waits_behind(void **state)
{
    run(state, asks_before_its_elder);
}

static ControlTickAll tick_all(Fixture *f)
{
    ControlTickAll all;
    CHECK_INT(control_tick_all_wait(f->queue, real_now, &all), 0);
    return all;
}

static int ticks_all(void *arg)
{
    Fixture *f = arg;
    (void)start(f, ID_1);
    ControlTickAll all = tick_all(f);
    CHECK_INT(all.ticked, 1);
    CHECK_INT(all.changed, 0);
    (void)command(f, ID_1, COMMAND_ABORT);
    CHECK_INT(tick_all(f).ticked, 0);
    return 0;
}

static void test_only_active_ones_are_ticked(void **state)
{
    run(state, ticks_all);
}

/* The same rollout of other agents; the block of the first is of a program to come. */
static int copy_job(Db *db, void *arg)
{
    (void)arg;
    int r = db_run(db_stmt(db, "CREATE TEMP TABLE copy AS SELECT * FROM rollout"), NULL);
    for (int i = 1; r == 0 && i <= 3; i++) {
        DbStmt *s = db_stmt(db, "UPDATE copy SET seq = seq + 1, id = id || ?1, agent = 'a' || ?1");
        db_bind_i64(s, 1, i);
        r = db_run(s, NULL);
        if (r == 0) r = db_run(db_stmt(db, "INSERT INTO rollout SELECT * FROM copy"), NULL);
    }
    if (r != 0) return r;
    return db_run(db_stmt(db, "UPDATE rollout SET block = '{' WHERE agent = 'a1'"), NULL);
}

static int ticks_the_others(void *arg)
{
    Fixture *f = arg;
    (void)start(f, ID_1);
    CHECK_INT(store_call_wait(f->store, copy_job, NULL), 0);
    ControlTickAll all = tick_all(f);
    CHECK_INT(all.ticked, 3);
    CHECK_INT(all.failed, 1);
    return 0;
}

static void test_a_bad_one_holds_up_no_other(void **state)
{
    run(state, ticks_the_others);
}

/* --- what is left behind ---------------------------------------------------------------------- */

typedef struct {
    Arena *arena;
    RolloutTick *ticks;
    size_t ticks_n;
    EventPage page;
    WebhookDue due;
    int64_t added;
    bool pending;
} Left;

static int left_job(Db *db, void *arg)
{
    Left *left = arg;
    int r = rollout_ticks(db, 1, 5000, left->arena, &left->ticks, &left->ticks_n);
    EventFilter filter = { .subject = STR(ID_1) };
    if (r == 0) r = event_list(db, &filter, left->arena, &left->page);
    return r == 0 ? event_any_pending(db, &left->pending) : r;
}

static int publish_job(Db *db, void *arg)
{
    Left *left = arg;
    static const Str urls[] = { STR("http://127.0.0.1/a"), STR("http://127.0.0.1/b") };
    WebhookSearch search = { .now_ms = real_now, .limit = 100, .host_max = 100 };
    int r = event_publish(db, urls, 2, real_now, left->arena, &left->added);
    return r != 0 ? r : webhook_due(db, &search, left->arena, &left->due);
}

static Left left_by(Fixture *f)
{
    Left left = { .arena = &f->arena };
    CHECK_INT(store_call_wait(f->store, left_job, &left), 0);
    return left;
}

static int leaves_records(void *arg)
{
    Fixture *f = arg;
    RecordStats before, after;
    record_stats(&before);
    (void)start(f, ID_1);
    size_t began = left_by(f).ticks_n;
    (void)command(f, ID_1, COMMAND_NONE);
    Left left = left_by(f);
    CHECK_INT(left.ticks_n, began + 1); /* "0 of at least 20", and no more "Checked" */
    CHECK_INT(left.ticks[0].again, 0);
    for (int i = 0; i < 3; i++) {
        real_now += 1000;
        (void)command(f, ID_1, COMMAND_NONE);
    }
    left = left_by(f);
    CHECK_INT(left.ticks_n, began + 1); /* what says the same is counted */
    CHECK_INT(left.ticks[0].again, 3);
    CHECK_INT(left.ticks[0].last_ms - left.ticks[0].at_ms, 3000);
    (void)submit_sessions(f, 0, 300);
    end_tasks(f, 60);
    (void)command(f, ID_1, COMMAND_NONE);
    left = left_by(f);
    CHECK_INT(left.ticks_n, began + 2);
    CHECK_INT(left.ticks[1].again, 3);
    CHECK_INT(left.ticks[0].verdict, VERDICT_ROLLBACK);
    CHECK(str_find(left.ticks[0].why, STR("errorRate")) >= 0);
    CHECK(str_find(left.ticks[0].inputs, STR("\"evidenceAgainst\":true")) >= 0);
    CHECK(str_find(left.ticks[0].inputs, STR("\"logERollback\":")) >= 0);
    CHECK_STR(left.page.events[0].type, STR("rollout.rolled_back"));
    CHECK_STR(left.page.events[left.page.n - 1].type, STR("rollout.preflight"));
    CHECK(left.pending);
    CHECK_INT(store_call_wait(f->store, publish_job, &left), 0);
    CHECK_INT(left.added, 2 * (left.page.n + 1)); /* that the version drains is one too */
    CHECK_INT(left.due.n, left.added);
    CHECK(str_find(left.due.rows[0].body, STR("{\"type\":\"rollout.preflight\"")) == 0);
    CHECK(!str_eq(left.due.rows[0].webhook_id, left.due.rows[1].webhook_id));
    CHECK(!left_by(f).pending);
    record_stats(&after);
    CHECK_INT(after.entered[ROLLOUT_ROLLED_BACK] - before.entered[ROLLOUT_ROLLED_BACK], 1);
    CHECK_INT(after.fates[FATE_COUNTS] - before.fates[FATE_COUNTS], 300);
    return 0;
}

static void test_ticks_and_events_are_kept(void **state)
{
    run(state, leaves_records);
}

/* A command that comes too late leaves no trace in the record of the end. */
static int stays_as_it_ended(void *arg)
{
    static const RolloutCommand late[] = { COMMAND_PAUSE, COMMAND_PROMOTE_ALL, COMMAND_ABORT };
    Fixture *f = arg;
    (void)start(f, ID_1);
    Ask end = command(f, ID_1, COMMAND_ABORT);
    CHECK_INT(end.row.state.state, ROLLOUT_ABORTED);
    size_t ticks_n = left_by(f).ticks_n;
    for (size_t i = 0; i < ARRAY_N(late); i++) {
        Ask ask = command(f, ID_1, late[i]);
        CHECK(ask.move.refused);
        CHECK(str_find(str_of(ask.move.why), STR("has ended: aborted")) >= 0);
    }
    Ask ask = command(f, ID_1, COMMAND_NONE);
    CHECK_STR(ask.row.why, end.row.why);
    CHECK_INT(ask.row.verdict, end.row.verdict);
    CHECK_INT(left_by(f).ticks_n, ticks_n);
    return 0;
}

static void test_an_end_refuses_commands(void **state)
{
    run(state, stays_as_it_ended);
}

/* Every change of the sentence has a row, time alone has none. */
static int tells_changes(void *arg)
{
    Fixture *f = arg;
    Ask ask = { .arena = &f->arena, .id = ID_1 };
    ask.block = "{\"steps\":[{\"weight\":50,\"for\":\"1h\"},{\"weight\":100}],"
                "\"rollbackOn\":{\"errorRate\":0.1},\"deadline\":\"2h\"}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    (void)command(f, ID_1, COMMAND_NONE);
    size_t began = left_by(f).ticks_n;
    for (int i = 0; i < 10; i++, real_now += 359000) (void)command(f, ID_1, COMMAND_NONE);
    Left left = left_by(f);
    CHECK_INT(left.ticks_n, began);
    CHECK_INT(left.ticks[0].again, 10);
    CHECK(str_find(left.ticks[0].why, STR("lasts until ")) >= 0);
    CHECK(str_find(left.ticks[0].inputs, STR("\"deadlineAt\":\"")) >= 0);
    real_now += 3600000;
    (void)command(f, ID_1, COMMAND_NONE);
    left = left_by(f);
    CHECK_INT(left.ticks_n, began + 1);
    CHECK(str_find(left.ticks[0].why, STR("deadline")) < 0); /* 2 h are not over yet */
    CHECK(str_find(left.ticks[0].why, STR("0 of at least 50")) >= 0);
    return 0;
}

static void test_a_tick_that_says_something_else_is_kept(void **state)
{
    run(state, tells_changes);
}

static int many_ticks_job(Db *db, void *arg)
{
    (void)arg;
    int r = 0;
    RolloutTick tick = { .at_ms = 1, .why = STR("w"), .inputs = STR("{}") };
    for (int i = 0; i < ROLLOUT_TICKS_KEPT + 5 && r == 0; i++) r = rollout_tick_add(db, 1, &tick);
    Event big = { .type = STR("t"), .agent = STR("a"), .version_id = STR("v") };
    big.data = str_make(arg, EVENT_DATA_BYTES_MAX + 1);
    return r != 0 ? r : event_insert(db, &big) == -E2BIG ? 0 : -EINVAL;
}

static int keeps_some(void *arg)
{
    Fixture *f = arg;
    CLEANUP(freep) char *bytes = xcalloc(1, EVENT_DATA_BYTES_MAX + 1);
    CHECK_INT(store_call_wait(f->store, many_ticks_job, bytes), 0);
    Left left = left_by(f);
    CHECK_INT(left.ticks_n, ROLLOUT_TICKS_KEPT);
    CHECK_INT(left.ticks[0].n, ROLLOUT_TICKS_KEPT + 5);
    return 0;
}

static void test_old_ticks_are_forgotten(void **state)
{
    run(state, keeps_some);
}

/* --- what is shown ---------------------------------------------------------------------------- */

typedef struct {
    int64_t seq;
    RolloutSpec spec;
    IntervalShown shown[EVIDENCE_METRICS_MAX];
} Shown;

static int show_job(Db *db, void *arg)
{
    Shown *s = arg;
    return interval_show(db, s->seq, &s->spec, s->shown);
}

static IntervalShown shown_of(Fixture *f, const Ask *ask, size_t m)
{
    CLEANUP(freep) Shown *s = xcalloc(1, sizeof(*s));
    s->seq = ask->row.seq;
    CHECK_INT(control_spec(&ask->row, &f->arena, &s->spec), 0);
    CHECK_INT(store_read_wait(f->store, show_job, s), 0);
    return s->shown[m];
}

/* Taken up every ten seconds, and with the end. */
static int shows_intervals(void *arg)
{
    Fixture *f = arg;
    Ask ask = ask_of(f, ID_1, COMMAND_NONE);
    ask.block = "{\"steps\":[{\"weight\":50,\"minTasks\":9000},{\"weight\":100}],"
                "\"rollbackOn\":{\"errorRate\":0.1},\"tripwires\":{\"crashes\":0},\"metrics\":"
                "{\"completionRate\":{\"rollbackMargin\":0,\"promoteMargin\":0,\"ratio\":1.5}}}";
    CHECK_INT(store_call_wait(f->store, start_job, &ask), 0);
    CHECK_INT(shown_of(f, &ask, 0).kind, INTERVAL_NONE);
    (void)submit_sessions(f, 0, 600);
    end_tasks(f, 0);
    ask = command(f, ID_1, COMMAND_NONE);
    IntervalShown errors = shown_of(f, &ask, 0);
    CHECK_INT(errors.kind, INTERVAL_DIFFERENCE);
    CHECK(errors.from <= 0 && errors.from >= -0.1 && errors.to >= 0 && errors.to <= 0.1);
    CHECK_INT(shown_of(f, &ask, 1).kind, INTERVAL_RATIO);
    (void)submit_sessions(f, 600, 700);
    Finish all = { VERSION_B, 100 };
    CHECK_INT(store_call_wait(f->store, finish_job, &all), 0);
    real_now += 1000;
    ask = command(f, ID_1, COMMAND_NONE); /* it is rolled back for that */
    CHECK_INT(ask.row.state.state, ROLLOUT_ROLLED_BACK);
    CHECK_INT(shown_of(f, &ask, 0).kind, INTERVAL_NONE); /* it was as good, and then was not */
    return 0;
}

static void test_intervals_are_shown(void **state)
{
    run(state, shows_intervals);
}

/* --- who there is ----------------------------------------------------------------------------- */

static int lately_job(Db *db, void *arg)
{
    int64_t *n = arg;
    int r = rollout_units_lately(db, STR(VERSION_A), ROUTE_BY_USER, &n[0], &n[1]);
    if (r == 0) r = rollout_units_lately(db, STR(VERSION_A), ROUTE_BY_TENANT, &n[2], &n[3]);
    return r == 0 ? rollout_units_lately(db, STR(VERSION_A), ROUTE_BY_TASK, &n[4], &n[5]) : r;
}

static int counts_units(void *arg)
{
    Fixture *f = arg;
    int64_t n[6];
    (void)submit_sessions(f, 0, 50);
    sql(f, "UPDATE task SET user_id = 'u' || (seq % 7), tenant_id = iif(seq < 9, 't', NULL)");
    CHECK_INT(store_read_wait(f->store, lately_job, n), 0);
    CHECK(n[0] == 7 && n[1] == 50 && n[2] == 1 && n[3] == 50 && n[4] == 0 && n[5] == 0);
    return 0;
}

static void test_units_are_counted(void **state)
{
    run(state, counts_units);
}

/* --- harm ------------------------------------------------------------------------------------- */

static void test_harm(void **state)
{
    (void)state;
    static RolloutSpec spec;
    static const char *const names[] = { "errorRate",   "completionRate", "escalationRate",
                                         "costPerTask", "tokensPerTask",  "latency",
                                         "toolCalls",   "quality",        "costOverrun" };
    for (size_t m = 0; m < ARRAY_N(names); m++)
        str_copy(spec.names[m], sizeof(spec.names[m]), str_of(names[m]));
    spec.evidence.metrics_n = ARRAY_N(names);
    RolloutBaseline baseline = { 1000, 100, 50, 3, .tasks = 20, .since_ms = 7 };
    RolloutOutcome o = { .at = { 7, 1 },
                         .canary = true,
                         .pi = 0.5,
                         .state = TASK_TIMED_OUT,
                         .started_at_ms = 10,
                         .finished_at_ms = 61,
                         .cost_nusd = 250,
                         .tokens = 500,
                         .tool_calls = 3,
                         .quality = 0.8 };
    EvidenceUnit unit;
    double scores[EVIDENCE_METRICS_MAX] = { [7] = 0.8 };
    spec.evidence.metrics[7].group = EVIDENCE_JUDGED;
    gather_harm(&spec, &baseline, &o, scores, &unit);
    static const double want[] = { 1, 1, 0, 0.25, 1, 1, 0, 0.2, 0 };
    assert_int_equal(unit.has, 511);
    for (size_t m = 0; m < ARRAY_N(want); m++) assert_true(fabs(unit.harm[m] - want[m]) < 1e-12);
    o.at.eligible_ms = 6; /* there was no baseline then */
    gather_harm(&spec, &baseline, &o, scores, &unit);
    assert_int_equal(unit.has, 1 + 2 + 4 + 128);
    o.at.eligible_ms = 7;
    baseline.tasks = 0; /* there is none */
    gather_harm(&spec, &baseline, &o, scores, &unit);
    assert_int_equal(unit.has, 1 + 2 + 4 + 128);
    baseline.tasks = 20;
    o.finished_at_ms = 86400000;
    o.ran_ms = 49; /* with the attempts before the last, and without what a clock has leapt over */
    gather_harm(&spec, &baseline, &o, NULL, &unit);
    assert_true(unit.harm[5] == 0);
    o.ran_ms = 51;
    gather_harm(&spec, &baseline, &o, NULL, &unit);
    assert_true(unit.harm[5] == 1);
    o.cost_nusd = 1000;
    gather_harm(&spec, &baseline, &o, NULL, &unit);
    assert_true(unit.harm[3] == 1 && unit.harm[8] == 0);
    o.cost_nusd = 1001; /* beyond what the mean can tell */
    gather_harm(&spec, &baseline, &o, NULL, &unit);
    assert_true(unit.harm[3] == 1 && unit.harm[8] == 1);
    o.state = TASK_ESCALATED;
    gather_harm(&spec, &baseline, &o, NULL, &unit);
    assert_int_equal(unit.has, 511 & ~128);
    assert_true(unit.harm[0] == 0 && unit.harm[1] == 1 && unit.harm[2] == 1);
}

static void test_baseline(void **state)
{
    (void)state;
    static RolloutOutcome outcomes[1000];
    RolloutBaseline b = gather_baseline(outcomes, 0);
    assert_true(b.cost_cap_nusd > 0 && b.tokens_cap > 0 && b.tasks == 0);
    assert_int_equal(gather_baseline(outcomes, HISTORY_MIN - 1).tasks, 0);
    assert_int_equal(gather_baseline(outcomes, HISTORY_MIN).tasks, HISTORY_MIN);
    b = gather_baseline(outcomes, 1000); /* tasks that cost nothing: the caps stay above 0 */
    assert_int_equal(b.cost_cap_nusd, 1);
    for (int i = 0; i < 1000; i++)
        outcomes[i] = (RolloutOutcome){
            .cost_nusd = 1000 - i, .tokens = i + 1, .finished_at_ms = i + 1, .tool_calls = i / 100
        };
    b = gather_baseline(outcomes, 1000);
    assert_int_equal(b.cost_cap_nusd, 1001); /* twice the mean */
    assert_int_equal(b.tokens_cap, 1001);
    assert_int_equal(b.latency_p95_ms, 950);
    assert_int_equal(b.tool_calls_p95, 9);
    for (int i = 0; i < 1000; i++) outcomes[i].cost_nusd = i < 900 ? 1 : 1000 + i;
    b = gather_baseline(outcomes, 1000);
    assert_int_equal(b.cost_cap_nusd, 1994); /* nearly all are below it */
}

#define ON_QUEUE(test) cmocka_unit_test_setup_teardown(test, setup_two, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_QUEUE(test_an_equal_version_is_promoted),
        ON_QUEUE(test_a_clock_that_goes_back_loses_no_unit),
        ON_QUEUE(test_a_clock_that_goes_back_hides_nothing),
        ON_QUEUE(test_a_clock_that_is_set_ends_no_hold),
        ON_QUEUE(test_a_step_outlasts_its_tasks),
        ON_QUEUE(test_live_sessions_stay),
        ON_QUEUE(test_tenants_sessions_are_their_own),
        ON_QUEUE(test_units_are_counted),
        ON_QUEUE(test_sessions_have_time_to_end),
        ON_QUEUE(test_a_bad_version_is_rolled_back),
        ON_QUEUE(test_the_version_that_is_left_drains),
        ON_QUEUE(test_blue_stays_warm_by_default),
        ON_QUEUE(test_what_is_left_for_good_is_decommissioned),
        ON_QUEUE(test_a_warm_version_is_not_looked_through),
        ON_QUEUE(test_a_named_version_is_kept),
        ON_QUEUE(test_a_newer_one_supersedes),
        ON_QUEUE(test_back_from_what_was_promoted_meanwhile),
        ON_QUEUE(test_back_goes_back_once),
        ON_QUEUE(test_back_to_a_version),
        ON_QUEUE(test_running_tasks_are_killed_if_so_planned),
        ON_QUEUE(test_nothing_starts_unchecked),
        ON_QUEUE(test_what_has_called_stays),
        ON_QUEUE(test_waiting_tasks_are_killed_as_well),
        ON_QUEUE(test_a_retry_goes_where_tasks_go),
        ON_QUEUE(test_what_is_tried_again_is_moved),
        ON_QUEUE(test_drift_begins_at_the_promotion),
        ON_QUEUE(test_a_crash_loop_trips),
        ON_QUEUE(test_a_broken_sandbox_trips),
        ON_QUEUE(test_a_worker_dies_once),
        ON_QUEUE(test_deaths_of_large_workers),
        ON_QUEUE(test_a_crash_loop_of_both_does_not),
        ON_QUEUE(test_a_runaway_budget_trips),
        ON_QUEUE(test_degraded_tasks_are_left_out),
        ON_QUEUE(test_the_baseline_leaves_them_out_too),
        ON_QUEUE(test_scores_of_ones_own),
        ON_QUEUE(test_waits_for_graders),
        ON_QUEUE(test_it_holds_for_missing_results),
        ON_QUEUE(test_a_missing_score_leaves_its_metric),
        ON_QUEUE(test_it_holds_for_a_judge_that_has_changed),
        ON_QUEUE(test_it_holds_for_another_version_of_the_judge),
        ON_QUEUE(test_it_holds_for_graders_that_cannot_tell),
        ON_QUEUE(test_nothing_waits_for_ever),
        ON_QUEUE(test_the_unit_can_be_the_user),
        ON_QUEUE(test_it_survives_a_restart),
        ON_QUEUE(test_an_open_gate_survives_a_restart),
        ON_QUEUE(test_unreadable_evidence_is_gathered_anew),
        ON_QUEUE(test_who_asks_counts_as_it_was_then),
        ON_QUEUE(test_a_retry_by_hand_undoes_no_failure),
        ON_QUEUE(test_whatever_it_waits_behind),
        ON_QUEUE(test_without_a_baseline_nothing_is_proved),
        ON_QUEUE(test_nor_is_it_in_the_shadow),
        ON_QUEUE(test_quick_tasks_are_no_baseline),
        ON_QUEUE(test_what_was_consumed_stays),
        ON_QUEUE(test_canaries_of_an_earlier_step_stay_there),
        ON_QUEUE(test_what_was_not_recorded_is_gathered_once_more),
        ON_QUEUE(test_only_active_ones_are_ticked),
        ON_QUEUE(test_a_bad_one_holds_up_no_other),
        ON_QUEUE(test_ticks_and_events_are_kept),
        ON_QUEUE(test_a_tick_that_says_something_else_is_kept),
        ON_QUEUE(test_an_end_refuses_commands),
        ON_QUEUE(test_old_ticks_are_forgotten),
        ON_QUEUE(test_intervals_are_shown),
        cmocka_unit_test(test_harm),
        cmocka_unit_test(test_baseline),
    };
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
