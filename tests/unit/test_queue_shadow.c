/* Tasks that repeat production's, unseen: behind everything, cut off from all that lasts, and gone
 * with their rollout. */
#include "tests/unit/queue_fixture.h"

#include <stdio.h>

#include "base/diag.h"
#include "codec/digest.h"
#include "rollout/control.h"
#include "rollout/record.h"
#include "rollout/shadow.h"

#define ID_1 "11111111-1111-7111-8111-111111111111"
#define BLOCK_OF(metrics)                                                                    \
    "{\"strategy\":\"canary\",\"steps\":[{\"weight\":50,\"minTasks\":20},{\"weight\":100}]," \
    "\"rollbackOn\":{" metrics "},\"shadow\":{\"share\":100,\"control\":0,\"parallel\":2}}"
#define BLOCK BLOCK_OF("\"errorRate\":0.1")
#define BLOCK_JUDGED BLOCK_OF("\"quality\":0.1")

/* --- a rollout in its shadow ------------------------------------------------------------------ */

typedef struct {
    Fixture *f;
    const char *block;
} Start;

static int start_job(Db *db, void *arg)
{
    const Start *how = arg;
    Fixture *f = how->f;
    RolloutRow row;
    unsigned actions;
    Version v = { .id = STR(VERSION_B),
                  .agent = STR("support"),
                  .components = STR("{}"),
                  .manifest = STR("{}") };
    ControlStart start = { .id = STR(ID_1),
                           .agent = STR("support"),
                           .version_id = STR(VERSION_B),
                           .block = str_of(how->block),
                           .settings = STR("{}"),
                           .now_ms = real_now };
    ControlChecked checked = { .passed = true, .checks = STR("[]"), .now_ms = real_now };
    int r = version_insert(db, &v);
    if (r == 0) r = control_start(db, &start, &f->arena, &row, &actions);
    return r == 0 ? control_checked(db, start.id, &checked, &f->arena, &row) : r;
}

static int abort_job(Db *db, void *arg)
{
    Fixture *f = arg;
    RolloutRow row;
    RolloutMove move;
    return control_command(db, STR(ID_1), COMMAND_ABORT, STR("ada"), real_now, &f->arena, &row,
                           &move);
}

static int counts_job(Db *db, void *arg)
{
    RolloutRow row;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, 1 << 20);
    int r = rollout_get(db, STR(ID_1), &arena, &row);
    return r == 0 ? shadow_counts(db, row.seq, arg) : r;
}

static ShadowCounts counts_of(Fixture *f)
{
    ShadowCounts counts;
    CHECK_INT(store_call_wait(f->store, counts_job, &counts), 0);
    return counts;
}

static void tick(Fixture *f)
{
    pass_ms(1000);
    CHECK_INT(control_tick_all_wait(f->queue, real_now, NULL), 0);
    CHECK_INT(shadow_tick_all_wait(f->queue, real_now), 0);
}

static void begin_with(Fixture *f, const char *block)
{
    Start how = { f, block };
    add_worker(f, 1, WORKER_EMBEDDED);
    CHECK_INT(store_call_wait(f->store, start_job, &how), 0);
    tick(f);
}

static void begin(Fixture *f)
{
    begin_with(f, BLOCK);
}

static int sql_job(Db *db, void *arg)
{
    return db_run(db_stmt(db, arg), NULL);
}

static void sql(Fixture *f, const char *text)
{
    CHECK_INT(store_call_wait(f->store, sql_job, (void *)(uintptr_t)text), 0);
}

static TaskRef claim_of(Fixture *f, const LaneConfig *slots)
{
    Task *tasks = NULL;
    size_t n = claim(f, worker_of(1), *slots, &tasks);
    return n == 1 ? (TaskRef){ tasks[0].id, tasks[0].fence } : (TaskRef){ .fence = 0 };
}

/* A production task from its beginning to its end. */
static Uuid produce(Fixture *f)
{
    TaskState state;
    TaskNew new = { .agent = STR("support"),
                    .lane = LANE_CRITICAL,
                    .input = STR("{\"q\":1}"),
                    .metadata = STR("{\"m\":1}"),
                    .user_id = STR("ada"),
                    .webhook_url = STR("http://127.0.0.1:9/hook") };
    TaskSummary summary;
    char session[16];
    static int n;
    snprintf(session, sizeof(session), "s%d", n++);
    new.session_id = str_of(session);
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    TaskRef ref = claim_one(f, worker_of(1));
    CHECK(uuid_eq(ref.id, summary.id));
    CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, &state), 0);
    return summary.id;
}

static const LaneConfig one = { .shared = 1 };

static size_t listed(Fixture *f, bool shadows)
{
    TaskPage page;
    TaskFilter filter = { .state = -1, .lane = -1, .shadows = shadows, .limit = 500 };
    CHECK_INT(queue_list_wait(f->queue, &filter, &f->arena, &page), 0);
    return page.n;
}

/* --- behind everything ------------------------------------------------------------------------ */

static int behind_body(void *arg)
{
    Fixture *f = arg;
    TaskState state;
    begin(f);
    Uuid production = produce(f);
    tick(f);
    CHECK_INT(listed(f, true), 1);
    CHECK_INT(listed(f, false), 1);
    check_counts(f, LANE_LOW, 1, 0);
    Uuid low = submit(f, LANE_LOW); /* came later, and is no shadow */
    TaskRef first = claim_of(f, &one), second = claim_of(f, &one);
    CHECK(uuid_eq(first.id, low));
    CHECK(second.fence > 0);
    Task shadow = get(f, second.id);
    CHECK(uuid_eq(shadow.shadow_of, production));
    CHECK_STR(shadow.version_id, STR(VERSION_B));
    CHECK_STR(shadow.input, STR("{\"q\":1}"));
    CHECK_STR(shadow.metadata, STR("{\"m\":1}"));
    CHECK_STR(shadow.user_id, STR("ada"));
    CHECK(str_empty(shadow.webhook_url));
    CHECK_INT(shadow.lane, LANE_LOW);
    /* given back it goes behind again */
    CHECK_INT(finish(f, second, TASK_OUTCOME_RELEASED, &state), 0);
    Uuid more = submit(f, LANE_LOW);
    CHECK(uuid_eq(claim_of(f, &one).id, more));
    TaskRef again = claim_of(f, &one);
    CHECK(uuid_eq(again.id, second.id));
    CHECK_INT(finish(f, again, TASK_OUTCOME_SUCCEEDED, &state), 0);
    tick(f);
    CHECK_INT(counts_of(f).n[0][SHADOW_COMPARED], 1);
    CHECK_INT(queue_retry_wait(f->queue, again.id, false), QUEUE_E_STATE);
    check_counts(f, LANE_LOW, 0, 2);
    return 0;
}

static void test_behind(void **state)
{
    run(state, behind_body);
}

/* --- cut off ---------------------------------------------------------------------------------- */

static StateReply state_of(Fixture *f, TaskRef ref, StateWhat what, const char *value)
{
    StateReply reply = { .outcome = STATE_OUTCOME_N_ };
    StateAsk ask = { .what = what,
                     .key = STR("k"),
                     .value = str_of(value),
                     .content_type = STR("text/plain"),
                     .if_version = STATE_ANY };
    CHECK_INT(queue_state_wait(f->queue, ref, &ask, &f->arena, &reply), 0);
    return reply;
}

static EscalationAsk question(const char *text, const char *fallback)
{
    EscalationAsk ask = {
        .occurrence = 1, .question = str_of(text), .fallback = str_of(fallback), .timeout_ms = 1000
    };
    sha256(str_of(text), ask.key);
    return ask;
}

static EscalationReply asked(Fixture *f, TaskRef ref, const char *text, const char *fallback)
{
    EscalationAsk ask = question(text, fallback);
    EscalationReply reply = { .state = ESCALATION_STATE_N_ };
    CHECK_INT(queue_escalate_wait(f->queue, ref, &ask, &f->arena, &reply), 0);
    return reply;
}

static ChildStarted child_of(Fixture *f, TaskRef parent)
{
    ChildNew child = { .key = STR("k"),
                       .fingerprint = STR("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
                       .input = STR("1"),
                       .offered = { 1000, 2000, 3 } };
    ChildStarted started = { .allotted = { 0 } };
    CHECK_INT(queue_child_wait(f->queue, parent, &child, &started), 0);
    return started;
}

typedef struct {
    Uuid id;
    bool stubbed;
    int64_t calls;
} Stubbed;

static int stubbed_job(Db *db, void *arg)
{
    Stubbed *s = arg;
    TaskHead head;
    int r = task_head(db, s->id, &head);
    if (r == 0) r = shadow_stubbed(db, head.seq, &s->stubbed);
    if (r != 0) return r;
    DbStmt *count = db_stmt(db, "SELECT count(*) FROM tool_call WHERE task_seq = ?1");
    db_bind_i64(count, 1, head.seq);
    if (db_step(count) != DB_E_ROW) return -EIO;
    s->calls = db_i64(count, 0);
    db_reset(count);
    return 0;
}

static void check_stubbed(Fixture *f, Uuid id, bool stubbed, int64_t calls)
{
    Stubbed s = { .id = id };
    CHECK_INT(store_call_wait(f->store, stubbed_job, &s), 0);
    CHECK_INT(s.stubbed, stubbed);
    CHECK_INT(s.calls, calls);
}

static void record_tool(Fixture *f, TaskRef ref)
{
    JournalNew tool = { .kind = REPLAY_TOOL,
                        .name = STR("book"),
                        .call_id = STR("t1"),
                        .key = "key",
                        .at_ms = real_now,
                        .content_type = STR("ok"),
                        .complete = true,
                        .answer = { STR("booked"), false, 6 } };
    CHECK_INT(queue_journal_add_wait(f->queue, ref, &tool, 1), 0);
}

/* An agent whose own code runs a tool that writes. */
static int deploy_writer_job(Db *db, void *arg)
{
    (void)arg;
    Version v = { .id = STR("dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"),
                  .agent = STR("writer"),
                  .components = STR(
                      "{\"tools\":{\"definitions\":["
                      "{\"name\":\"a\",\"effect\":\"read\"},"
                      "{\"name\":\"b\",\"effect\":\"write\",\"source\":{\"agent\":\"x\"}},"
                      "{\"name\":\"c\",\"effect\":\"write\"}]}}"),
                  .manifest = STR("{}") };
    int r = agent_ensure(db, v.agent, 1);
    if (r == 0) r = version_insert(db, &v);
    return r == 0 ? routing_set(db, v.agent, v.id, 1) : r;
}

/* What production does, and its shadow after it. */
static int cut_off_body(void *arg)
{
    Fixture *f = arg;
    TaskState state;
    JournalRow *rows, row;
    JournalBytes answer = { .n = 0 };
    size_t n = 0;
    begin(f);
    TaskNew new = { .agent = STR("support"), .input = STR("1"), .session_id = STR("cut") };
    TaskSummary summary;
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    TaskRef production = claim_one(f, worker_of(1));
    CHECK_INT(state_of(f, production, STATE_PUT, "mine").outcome, STATE_OK);
    record_tool(f, production);
    CHECK_INT(asked(f, production, "may I?", "").state, ESCALATION_PENDING);
    CHECK_INT(queue_resolve_wait(f->queue, production.id, STR("true"), STR("ada"), &state), 0);
    ChildStarted child = child_of(f, production);
    TaskRef child_ref = claim_one(f, worker_of(1));
    CHECK_INT(finish(f, child_ref, TASK_OUTCOME_SUCCEEDED, &state), 0);
    CHECK_INT(queue_twin_list_wait(f->queue, production, 0, 10, &f->arena, &rows, &n), 0);
    CHECK_INT(n, 0); /* it repeats nothing */
    CHECK_INT(finish(f, production, TASK_OUTCOME_SUCCEEDED, &state), 0);
    tick(f);
    TaskRef shadow = claim_one(f, worker_of(1));
    CHECK(uuid_eq(get(f, shadow.id).shadow_of, production.id));

    CHECK_INT(state_of(f, shadow, STATE_GET, "").outcome, STATE_NONE);
    CHECK_INT(state_of(f, shadow, STATE_PUT, "its own").outcome, STATE_OK);
    CHECK_STR(state_of(f, shadow, STATE_GET, "").row.value, STR("its own"));

    CHECK_INT(queue_twin_list_wait(f->queue, shadow, 0, 10, &f->arena, &rows, &n), 0);
    if (!CHECK_INT(n, 1)) return 0;
    CHECK_INT(queue_twin_answer_wait(f->queue, shadow, rows[0].n, &f->arena, &row, &answer), 0);
    CHECK_STR(answer.bytes, STR("booked"));
    CHECK_INT(queue_journal_list_wait(f->queue, shadow, 0, 10, &f->arena, &rows, &n), 0);
    CHECK_INT(n, 0);

    EscalationReply reply = asked(f, shadow, "may I?", "");
    CHECK_INT(reply.state, ESCALATION_ANSWERED); /* as production was */
    CHECK_STR(reply.answer, STR("true"));
    CHECK_INT(asked(f, shadow, "and now?", "\"no\"").state, ESCALATION_DEFAULTED);
    CHECK_INT(asked(f, shadow, "really?", "").state, ESCALATION_EXPIRED);
    CHECK_INT(queue_resolve_wait(f->queue, shadow.id, STR("1"), STR("ada"), &state), QUEUE_E_STATE);

    ChildStarted below = child_of(f, shadow);
    CHECK(uuid_eq(get(f, below.task.id).shadow_of, child.task.id));
    CHECK_STR(get(f, below.task.id).version_id, STR(VERSION_B));
    CHECK_INT(store_call_wait(f->store, deploy_writer_job, f), 0);
    ChildNew writes = { .key = STR("w"),
                        .agent = STR("writer"),
                        .fingerprint = STR("bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"),
                        .input = STR("1"),
                        .offered = { 1000, 2000, 3 } };
    ChildStarted started = { .allotted = { 0 } };
    check_stubbed(f, shadow.id, false, 0);
    for (int i = 0; i < 2; i++) { /* it goes another way than production: once */
        CHECK_INT(queue_child_wait(f->queue, shadow, &writes, &started), 0);
        CHECK_INT(started.refusal.status, 403);
        CHECK(strstr(diag_text(), "a shadow does not start it"));
        check_stubbed(f, shadow.id, true, 1);
    }

    /* another task of the session sees what production has kept */
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    TaskRef next = claim_one(f, worker_of(1));
    CHECK(uuid_eq(next.id, summary.id)); /* before the shadow's child */
    CHECK_STR(state_of(f, next, STATE_GET, "").row.value, STR("mine"));
    return 0;
}

static void test_cut_off(void **state)
{
    run(state, cut_off_body);
}

/* --- its end ---------------------------------------------------------------------------------- */

static int stop_body(void *arg)
{
    Fixture *f = arg;
    begin(f);
    for (int i = 0; i < 4; i++) produce(f);
    tick(f);
    CHECK_INT(counts_of(f).n[0][SHADOW_STARTED], 2); /* at a time */
    CHECK_INT(counts_of(f).n[0][SHADOW_CHOSEN], 2);
    TaskRef running = claim_one(f, worker_of(1));
    CHECK_INT(store_call_wait(f->store, abort_job, f), 0);
    tick(f);
    CHECK_INT(counts_of(f).n[0][SHADOW_DROPPED], 4);
    CHECK(get(f, running.id).cancel_requested);
    check_counts(f, LANE_LOW, 0, 1);
    HeartbeatReply beat = heartbeat(f, worker_of(1), &running, 1);
    CHECK_INT(beat.stops_n, 1);
    return 0;
}

static void test_stop(void **state)
{
    run(state, stop_body);
}

/* What says nothing any more is not left behind: neither waiting for ever nor running on. */
static int dropped_body(void *arg)
{
    Fixture *f = arg;
    begin(f);
    for (int i = 0; i < 4; i++) produce(f);
    tick(f);
    check_counts(f, LANE_LOW, 2, 0);
    pass_ms(SHADOW_WAIT_MS);
    tick(f); /* too late to be started */
    CHECK_INT(counts_of(f).n[0][SHADOW_DROPPED], 4);
    check_counts(f, LANE_LOW, 0, 0);
    produce(f);
    tick(f);
    tick(f);
    TaskRef running = claim_one(f, worker_of(1));
    pass_ms(SHADOW_WAIT_MS);
    tick(f);
    CHECK(!get(f, running.id).cancel_requested);
    pass_ms(SHADOW_WAIT_MS);
    tick(f);
    CHECK_INT(counts_of(f).n[0][SHADOW_DROPPED], 4);
    CHECK_INT(counts_of(f).n[0][SHADOW_COMPARED], 1); /* it hangs, which is its own fault */
    CHECK(get(f, running.id).cancel_requested);
    return 0;
}

static void test_dropped(void **state)
{
    run(state, dropped_body);
}

/* --- at a time -------------------------------------------------------------------------------- */

static void end_shadows(Fixture *f, int n)
{
    TaskState state;
    for (int i = 0; i < n; i++)
        CHECK_INT(finish(f, claim_one(f, worker_of(1)), TASK_OUTCOME_SUCCEEDED, &state), 0);
}

/* One that is over makes room, however long its scores take; what it has spent stays held. */
static int room_body(void *arg)
{
    Fixture *f = arg;
    begin_with(f, BLOCK_JUDGED);
    for (int i = 0; i < 8; i++) produce(f);
    tick(f);
    CHECK_INT(counts_of(f).n[0][SHADOW_STARTED], 2);
    end_shadows(f, 2);
    tick(f);
    CHECK_INT(counts_of(f).n[0][SHADOW_STARTED], 4);
    CHECK_INT(counts_of(f).n[0][SHADOW_COMPARED], 0);
    check_counts(f, LANE_LOW, 2, 0);
    end_shadows(f, 1);
    /* 5 USD: four have spent 4.8, and another can do nothing with what is left */
    sql(f, "UPDATE task SET cost_nusd = 1200000000 WHERE shadow_of IS NOT NULL");
    tick(f);
    CHECK_INT(counts_of(f).n[0][SHADOW_STARTED], 4);
    /* one that was stopped by its part shows that the budget is too small: no more are tried */
    sql(f, "UPDATE task SET cost_nusd = 0 WHERE shadow_of IS NOT NULL");
    sql(f, "UPDATE task SET stopped_by = 'usdPerTask' WHERE seq ="
           " (SELECT max(seq) FROM task WHERE shadow_of IS NOT NULL AND state = 2)");
    tick(f);
    CHECK_INT(counts_of(f).n[0][SHADOW_CHOSEN], 4);
    sql(f, "UPDATE task SET stopped_by = NULL WHERE shadow_of IS NOT NULL");
    tick(f);
    CHECK_INT(counts_of(f).n[0][SHADOW_STARTED], 5);
    return 0;
}

static void test_room(void **state)
{
    run(state, room_body);
}

static int evidence_job(Db *db, void *arg)
{
    RolloutRow row;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, 1 << 20);
    int r = rollout_get(db, STR(ID_1), &arena, &row);
    return r == 0 ? shadow_evidence_get(db, row.seq, arg) : r;
}

static ShadowEvidence evidence_of(Fixture *f)
{
    ShadowEvidence e;
    CHECK_INT(store_call_wait(f->store, evidence_job, &e), 0);
    return e;
}

/* Time that a clock leaps over is none that a shadow has had. */
static int clock_body(void *arg)
{
    Fixture *f = arg;
    begin(f);
    for (int i = 0; i < 4; i++) produce(f);
    tick(f);
    TaskRef running = claim_one(f, worker_of(1));
    real_now += 2 * SHADOW_WAIT_MS;
    CHECK_INT(queue_tick_wait(f->queue), 0);
    tick(f);
    CHECK_INT(counts_of(f).n[0][SHADOW_STARTED], 2);
    CHECK_INT(counts_of(f).n[0][SHADOW_CHOSEN], 2);
    CHECK(!get(f, running.id).cancel_requested);
    real_now -= 4 * SHADOW_WAIT_MS;
    CHECK_INT(queue_tick_wait(f->queue), 0);
    tick(f);
    CHECK_INT(evidence_of(f).began_ms, real_now); /* not in time to come */
    return 0;
}

static void test_clock(void **state)
{
    run(state, clock_body);
}

/* Another build's evidence is gathered anew: what was spent and what has stopped it too. */
static int anew_body(void *arg)
{
    Fixture *f = arg;
    begin(f);
    for (int i = 0; i < 3; i++) produce(f);
    tick(f);
    end_shadows(f, 2);
    sql(f, "UPDATE task SET cost_nusd = 1200000000 WHERE shadow_of IS NOT NULL");
    sql(f, "UPDATE task SET stopped_by = 'usdPerTask' WHERE seq ="
           " (SELECT max(seq) FROM task WHERE shadow_of IS NOT NULL)");
    tick(f);
    ShadowEvidence before = evidence_of(f);
    CHECK_INT(before.capped, 1);
    sql(f, "UPDATE shadow_evidence SET bytes = x'00'");
    for (int i = 0; i < 2; i++) {
        tick(f);
        CHECK_INT(counts_of(f).n[0][SHADOW_COMPARED], 1);
        CHECK_INT(counts_of(f).n[0][SHADOW_DROPPED], 1);
        CHECK_INT(counts_of(f).n[0][SHADOW_CHOSEN], 1); /* and nothing more is spent */
    }
    ShadowEvidence after = evidence_of(f);
    CHECK_INT(after.capped, 1);
    CHECK_INT(after.dropped, before.dropped);
    CHECK_INT(after.spent_nusd[0], INT64_C(2400000000));
    CHECK_INT(after.results.pairs, 1);
    CHECK(after.began_ms <= before.began_ms + 5000);
    return 0;
}

static void test_anew(void **state)
{
    run(state, anew_body);
}

/* No more are chosen than are kept open; nothing waits for the rest. */
static int bound_body(void *arg)
{
    Fixture *f = arg;
    RecordStats before, after;
    begin(f);
    for (int i = 0; i < SHADOWS_OPEN_MAX + 20; i++) submit(f, LANE_NORMAL);
    record_stats(&before);
    tick(f);
    record_stats(&after);
    CHECK_INT(after.shadows_left_out - before.shadows_left_out, 20);
    CHECK_INT(counts_of(f).n[0][SHADOW_CHOSEN], SHADOWS_OPEN_MAX);
    pass_ms(SHADOW_WAIT_MS); /* nor for ever for those */
    tick(f);
    CHECK_INT(counts_of(f).n[0][SHADOW_DROPPED], SHADOWS_OPEN_MAX);
    return 0;
}

static void test_bound(void **state)
{
    run(state, bound_body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_behind, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cut_off, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dropped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_clock, setup, teardown),
        cmocka_unit_test_setup_teardown(test_room, setup, teardown),
        cmocka_unit_test_setup_teardown(test_anew, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bound, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
