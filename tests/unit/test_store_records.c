/* The record functions: each test is a job (on the store thread, so it uses CHECK). */
#include "tests/unit/sys_harness.h"

#include <math.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/log.h"
#include "store/agent_store.h"
#include "store/artifact_store.h"
#include "store/call_store.h"
#include "store/idempotency_store.h"
#include "store/line_store.h"
#include "store/log_store.h"
#include "store/store.h"
#include "store/task_news.h"
#include "store/task_sql.h"
#include "store/task_store.h"
#include "store/version_store.h"
#include "store/webhook_store.h"
#include "store/worker_store.h"
#include "tests/unit/check.h"
#include "tests/unit/temp_dir.h"

typedef struct {
    TempDir dir;
    Store *store;
    Arena arena;
} Fixture;

static int setup(void **state)
{
    Fixture *f = xcalloc(1, sizeof *f);
    temp_dir_init(&f->dir);
    arena_init(&f->arena, 16 << 20);
    *state = f;
    return store_open(&(StoreOptions){ .path = f->dir.path }, &f->store);
}

static int teardown(void **state)
{
    Fixture *f = *state;
    store_close(f->store);
    arena_deinit(&f->arena);
    temp_dir_deinit(&f->dir);
    free(f);
    return 0;
}

static void run(void **state, StoreFn fn)
{
    Fixture *f = *state;
    assert_int_equal(store_call(f->store, fn, &f->arena), 0);
    check_none();
}

/* --- agents and versions ---------------------------------------------------------------------- */

static Str hex_id(char digit, char last)
{
    static _Thread_local char text[8][VERSION_ID_LEN + 1];
    static _Thread_local int next;
    char *p = text[next++ % 8];
    memset(p, digit, VERSION_ID_LEN);
    p[VERSION_ID_LEN - 1] = last;
    p[VERSION_ID_LEN] = '\0';
    return str_of(p);
}

static int put_version(Db *db, Str id, const char *agent, int64_t at_ms)
{
    return version_insert(db, &(Version){ .id = id,
                                          .agent = str_of(agent),
                                          .components = STR("{\"a\":1}"),
                                          .manifest = STR("{}"),
                                          .description = STR("first"),
                                          .created_at_ms = at_ms });
}

static int job_agents(Db *db, void *arg)
{
    Arena *arena = arg;
    Agent a, *list;
    Str only;
    size_t n;
    CHECK_INT(agent_only(db, arena, &only), -ENOENT);
    CHECK_INT(agent_check(db, STR("support")), -ENOENT);
    CHECK_INT(agent_ensure(db, STR("support"), 5), 0);
    CHECK_INT(agent_ensure(db, STR("support"), 6), 0);
    CHECK_INT(agent_check(db, STR("support")), 0);
    CHECK_INT(agent_only(db, arena, &only), 0);
    CHECK_STR(only, STR("support"));
    CHECK_INT(agent_get(db, STR("support"), arena, &a), 0);
    CHECK_INT(a.created_at_ms, 5);
    CHECK_STR(a.settings, STR("{}"));
    CHECK_INT(a.version_id.len, 0);
    CHECK_INT(agent_set_settings(db, STR("support"), STR("{\"retry\":{}}")), 0);
    CHECK_INT(agent_set_settings(db, STR("nobody"), STR("{}")), -ENOENT);
    CHECK_INT(agent_get(db, STR("nobody"), arena, &a), -ENOENT);
    CHECK_INT(agent_ensure(db, STR("billing"), 7), 0);
    CHECK_INT(agent_only(db, arena, &only), AGENT_E_SEVERAL);
    CHECK_INT(agent_list(db, arena, &list, &n), 0);
    CHECK_INT(n, 2);
    CHECK_STR(list[0].name, STR("billing"));
    CHECK_STR(list[1].settings, STR("{\"retry\":{}}"));
    Arena tiny;
    arena_init(&tiny, 8);
    CHECK_INT(agent_list(db, &tiny, &list, &n), -ENOMEM);
    CHECK_INT(agent_get(db, STR("support"), &tiny, &a), -ENOMEM);
    arena_deinit(&tiny);
    return 0;
}

static void test_agents(void **state)
{
    run(state, job_agents);
}

static void test_retry_settings(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(buf_deinit) Buf buf;
    const Json *json = NULL;
    arena_init(&arena, 65536);
    buf_init(&buf, 4096);
    JsonOut out = json_out(&buf);
    RetryPolicy policy = { .attempts_max = 7, .initial_ms = 1, .factor_milli = 1500, .max_ms = 9 };
    json_out_object(&out);
    json_out_key(&out, "retry");
    agent_retry_write(&out, &policy);
    json_out_object_end(&out);
    assert_int_equal(json_parse(&arena, buf_str(&buf), NULL, &json, NULL), 0);
    RetryPolicy read = agent_retry_read(json);
    assert_memory_equal(&read, &policy, sizeof policy);
    RetryPolicy standard = RETRY_POLICY_DEFAULT;
    read = agent_retry_read(NULL);
    assert_memory_equal(&read, &standard, sizeof standard);
}

static int job_versions(Db *db, void *arg)
{
    Arena *arena = arg;
    Version v;
    VersionPage page;
    CHECK_INT(agent_ensure(db, STR("support"), 1), 0);
    CHECK_INT(put_version(db, hex_id('a', '0'), "support", 10), 0);
    CHECK_INT(put_version(db, hex_id('a', '1'), "support", 11), 0);
    CHECK_INT(put_version(db, hex_id('b', '0'), "support", 12), 0);
    CHECK_INT(put_version(db, hex_id('c', '0'), "billing", 13), 0);
    CHECK_INT(put_version(db, hex_id('a', '1'), "support", 99), VERSION_E_EXISTS);
    CHECK_INT(version_get(db, hex_id('a', '1'), arena, &v), 0);
    CHECK_INT(v.created_at_ms, 11);
    CHECK_STR(v.components, STR("{\"a\":1}"));
    CHECK_STR(v.description, STR("first"));
    CHECK_INT(v.artifact.len, 0);
    CHECK_INT(version_get(db, STR("bbbbbbbb"), arena, &v), 0);
    CHECK_INT(version_get(db, STR("bbbbbbb"), arena, &v), -ENOENT);
    CHECK_INT(version_get(db, STR("aaaaaaaa"), arena, &v), VERSION_E_AMBIGUOUS);
    CHECK_INT(version_get(db, STR("dddddddd"), arena, &v), -ENOENT);
    CHECK_INT(version_check(db, hex_id('b', '0'), STR("support")), 0);
    CHECK_INT(version_check(db, hex_id('b', '0'), STR("billing")), -ENOENT);

    CHECK_INT(version_list(db, STR("support"), STR_NULL, 2, arena, &page), 0);
    CHECK_INT(page.n, 2);
    CHECK_INT(page.versions[0].created_at_ms, 12);
    CHECK(page.next.text[0] != '\0');
    CHECK_INT(version_list(db, STR("support"), str_of(page.next.text), 2, arena, &page), 0);
    CHECK_INT(page.n, 1);
    CHECK_INT(page.versions[0].created_at_ms, 10);
    CHECK(page.next.text[0] == '\0');
    CHECK_INT(version_list(db, STR_NULL, STR_NULL, 0, arena, &page), 0);
    CHECK_INT(page.n, 4);
    CHECK_INT(version_list(db, STR_NULL, STR("x"), 0, arena, &page), -EINVAL);
    CHECK_INT(version_list(db, STR_NULL, STR("-1"), 0, arena, &page), -EINVAL);
    return 0;
}

static void test_versions(void **state)
{
    run(state, job_versions);
}

static int job_versions_never_change(Db *db, void *arg)
{
    Arena *arena = arg;
    Version v;
    CHECK_INT(put_version(db, hex_id('a', '0'), "support", 10), 0);
    CHECK_INT(db_run(db_stmt(db, "UPDATE version SET description = 'x'"), NULL), -EPERM);
    CHECK_HAS(str_of(diag_text()), "a version never changes");
    CHECK_INT(db_run(db_stmt(db, "DELETE FROM version"), NULL), -EPERM);
    CHECK_HAS(str_of(diag_text()), "a version is never deleted");
    CHECK_INT(version_get(db, hex_id('a', '0'), arena, &v), 0);
    CHECK_STR(v.description, STR("first"));
    return 0;
}

static void test_versions_never_change(void **state)
{
    run(state, job_versions_never_change);
}

static int job_routing(Db *db, void *arg)
{
    Arena *arena = arg;
    Agent a;
    Str id;
    CHECK_INT(agent_ensure(db, STR("support"), 1), 0);
    CHECK_INT(put_version(db, hex_id('a', '0'), "support", 10), 0);
    CHECK_INT(put_version(db, hex_id('b', '0'), "support", 10), 0);
    CHECK_INT(put_version(db, hex_id('c', '0'), "billing", 10), 0);
    CHECK_INT(routing_get(db, STR("support"), arena, &id), -ENOENT);
    CHECK_INT(routing_set(db, STR("support"), hex_id('c', '0'), 20), -ENOENT);
    CHECK_INT(routing_set(db, STR("support"), hex_id('a', '0'), 20), 0);
    CHECK_INT(routing_set(db, STR("support"), hex_id('b', '0'), 21), 0);
    CHECK_INT(routing_set(db, STR("support"), hex_id('b', '0'), 22), 0); /* changes nothing */
    CHECK_INT(routing_get(db, STR("support"), arena, &id), 0);
    CHECK_STR(id, hex_id('b', '0'));
    CHECK_INT(agent_get(db, STR("support"), arena, &a), 0);
    CHECK_STR(a.version_id, hex_id('b', '0'));
    CHECK_STR(a.previous_version_id, hex_id('a', '0'));
    CHECK_INT(a.routing_changed_at_ms, 21);
    return 0;
}

static void test_routing(void **state)
{
    run(state, job_routing);
}

/* --- tasks ------------------------------------------------------------------------------------ */

static Uuid id_of(int n)
{
    Uuid id = { { 1 } };
    id.bytes[14] = (uint8_t)(n >> 8);
    id.bytes[15] = (uint8_t)n;
    return id;
}

static int64_t put_task(Db *db, int n, Lane lane, int64_t ready_at_ms, const char *agent)
{
    int64_t seq = -1;
    TaskRow row = { .id = id_of(n),
                    .agent = str_of(agent),
                    .version_id = n % 2 ? hex_id('a', '1') : hex_id('a', '0'),
                    .lane = lane,
                    .created_at_ms = 1,
                    .ready_at_ms = ready_at_ms,
                    .time_limit_ms = 500,
                    .input = STR("{\"q\":1}"),
                    .metadata = STR("{}"),
                    .session_id = STR("s") };
    CHECK_INT(task_insert(db, &row, &seq), 0);
    return seq;
}

/* More than a statement takes, each with what is its own. */
static int job_task_many(Db *db, void *arg)
{
    enum { N = 150 };
    static TaskRow rows[N];
    int64_t seqs[N], before = put_task(db, 1, LANE_LOW, 1, "support"), ready_ms;
    char inputs[N][16];
    Arena *arena = arg;
    Task t;
    for (int i = 0; i < N; i++) {
        snprintf(inputs[i], sizeof inputs[i], "{\"i\":%d}", i);
        rows[i] = (TaskRow){ .id = id_of(100 + i),
                             .parent_id = i % 3 ? (Uuid){ 0 } : id_of(1),
                             .agent = i % 2 ? STR("support") : STR("billing"),
                             .version_id = hex_id('a', '0'),
                             .lane = (Lane)(i % LANE_N_),
                             .created_at_ms = 10,
                             .ready_at_ms = i % 5 ? 10 : 1000 + i,
                             .input = str_of(inputs[i]),
                             .limits = i % 7 ? STR_NULL : STR("{}"),
                             .tenant_id = i % 4 ? STR_NULL : STR("t") };
    }
    CHECK_INT(task_insert_many(db, rows, 0, seqs), 0);
    CHECK_INT(task_insert_many(db, rows, N, seqs), 0);
    for (int i = 0; i < N; i++) {
        CHECK_INT(seqs[i], before + 1 + i);
        if (!CHECK_INT(task_get_by_seq(db, seqs[i], TASK_PART_PAYLOAD, arena, &t), 0)) return 0;
        CHECK(uuid_eq(t.id, rows[i].id) && uuid_eq(t.parent_id, rows[i].parent_id));
        CHECK_INT(t.state, TASK_QUEUED);
        CHECK_INT(t.lane, rows[i].lane);
        CHECK_INT(t.ready_at_ms, rows[i].ready_at_ms);
        CHECK(str_eq(t.agent, rows[i].agent));
        CHECK(str_eq(t.input, rows[i].input));
        CHECK(str_eq(t.limits, rows[i].limits) && str_eq(t.tenant_id, rows[i].tenant_id));
        CHECK_INT(t.metadata.len + t.session_id.len, 0);
    }
    CHECK_INT(gate_next(db, LANE_CRITICAL, &ready_ms), 0); /* those of later wait at theirs */
    CHECK_INT(ready_ms, 1000);
    return 0;
}

static void test_task_many(void **state)
{
    run(state, job_task_many);
}

static int start(Db *db, int64_t seq, Uuid worker_id, int64_t fence, int64_t now_ms)
{
    CLEANUP(arena_deinit) Arena arena;
    Task task;
    arena_init(&arena, 65536);
    int r = task_get_by_seq(db, seq, 0, &arena, &task);
    if (r != 0) return r;
    task_start(&task, worker_id, fence, now_ms);
    r = task_started(db, &task, 1);
    CHECK_INT(task.state, TASK_RUNNING);
    CHECK_INT(task.fence, fence);
    return r;
}

/* Several at a time: those that are not there, or do not fit, end or leave out. */
static int job_tasks_many(Db *db, void *arg)
{
    Arena *arena = arg;
    CLEANUP(arena_deinit) Arena small;
    const Uuid ids[] = { id_of(2), id_of(9), id_of(1), id_of(1) };
    Task tasks[3];
    TaskHead heads[4];
    int64_t a = put_task(db, 1, LANE_NORMAL, 1, "support");
    int64_t b = put_task(db, 2, LANE_NORMAL, 1, "support");
    size_t n = 3;
    CHECK_INT(tasks_to_start(db, (int64_t[]){ b, a, 99 }, &n, arena, tasks), 0);
    if (!CHECK_INT(n, 2)) return 0;
    CHECK(uuid_eq(tasks[0].id, id_of(2)) && uuid_eq(tasks[1].id, id_of(1)));
    CHECK_STR(tasks[1].input, STR("{\"q\":1}"));
    CHECK_STR(tasks[1].metadata, STR("{}"));
    n = 3;
    CHECK_INT(tasks_to_start(db, (int64_t[]){ a, 99, b }, &n, arena, tasks), 0);
    CHECK_INT(n, 1);
    n = 2;
    CHECK_INT(tasks_to_start(db, (int64_t[]){ 99, a }, &n, arena, tasks), -ENOENT);
    n = 2;
    arena_init(&small, 1);
    CHECK_INT(tasks_to_start(db, (int64_t[]){ a, b }, &n, &small, tasks), -ENOMEM);

    CHECK_INT(task_heads(db, ids, ARRAY_N(ids), heads), 0);
    CHECK_INT(heads[0].seq, b);
    CHECK(uuid_is_zero(heads[1].id));
    CHECK_INT(heads[2].seq, a);
    CHECK_INT(heads[3].seq, a);
    return 0;
}

static void test_tasks_many(void **state)
{
    run(state, job_tasks_many);
}

static int job_task_life(Db *db, void *arg)
{
    Arena *arena = arg;
    int64_t opened, fence = 0;
    LineHead line;
    TaskHead head;
    Task t;
    put_task(db, 1, LANE_NORMAL, 100, "support");
    CHECK_INT(gates_open(db, LANE_NORMAL, 99, 4, &opened), 0);
    CHECK_INT(opened, 0);
    CHECK_INT(line_of_next_tenant(db, LANE_NORMAL, STR(""), true, arena, &line), -ENOENT);
    CHECK_INT(gates_open(db, LANE_LOW, 100, 4, &opened), 0);
    CHECK_INT(opened, 0);
    CHECK_INT(gates_open(db, LANE_NORMAL, 100, 4, &opened), 0);
    CHECK_INT(opened, 1);
    CHECK_INT(line_of_next_tenant(db, LANE_NORMAL, STR(""), true, arena, &line), 0);
    CHECK(str_eq(line.agent, STR("support")));
    CHECK_INT(line.ready_at_ms, 100);
    CHECK_INT(line_of_next_tenant(db, LANE_LOW, STR(""), true, arena, &line), -ENOENT);
    CHECK_INT(fence_take(db, 3, &fence), 0);
    CHECK_INT(fence, 3);
    CHECK_INT(start(db, line.seq, id_of(77), fence, 150), 0);
    CHECK_INT(task_head(db, id_of(1), &head), 0);
    CHECK_INT(head.state, TASK_RUNNING);
    CHECK_INT(head.attempt, 1);
    CHECK_INT(head.deadline_at_ms, 650);
    CHECK(uuid_eq(head.worker_id, id_of(77)));
    Attempt *attempts;
    size_t n;
    CHECK_INT(attempt_list(db, head.seq, arena, &attempts, &n), 0); /* it goes on */
    if (!CHECK_INT(n, 1)) return 0;
    CHECK_INT(attempts[0].fence, fence);
    CHECK_INT(attempts[0].started_at_ms, 150);
    CHECK_INT(attempts[0].finished_at_ms, 0);
    CHECK_INT(attempts[0].outcome.len, 0);
    CHECK(uuid_eq(attempts[0].worker_id, id_of(77)));
    TaskEnd end = { .next = { .state = TASK_SUCCEEDED },
                    .outcome = TASK_OUTCOME_SUCCEEDED,
                    .now_ms = 200,
                    .sandbox = STR("A"),
                    .usage = { .input_tokens = 5, .cost_nusd = 7 },
                    .result = STR("[1]") };
    CHECK_INT(task_add_usage(db, head.seq, &(TaskUsage){ .input_tokens = 1, .llm_calls = 2 }), 0);
    CHECK_INT(task_end(db, &head, &end), 0);
    CHECK_INT(task_set_quality(db, id_of(1), 0.5), 0);
    CHECK_INT(task_set_quality(db, id_of(9), 0.5), -ENOENT);

    CHECK_INT(task_get(db, id_of(1), TASK_PART_PAYLOAD | TASK_PART_RESULT, arena, &t), 0);
    CHECK_INT(t.state, TASK_SUCCEEDED);
    CHECK_INT(t.finished_at_ms, 200);
    CHECK_INT(t.usage.input_tokens, 6);
    CHECK_INT(t.usage.llm_calls, 2);
    CHECK_INT(t.usage.cost_nusd, 7);
    CHECK_STR(t.result, STR("[1]"));
    CHECK_STR(t.input, STR("{\"q\":1}"));
    CHECK_STR(t.metadata, STR("{}"));
    CHECK_STR(t.session_id, STR("s"));
    CHECK_INT(t.limits.len, 0);
    CHECK(t.quality == 0.5);
    CHECK_INT(attempt_list(db, t.seq, arena, &attempts, &n), 0);
    CHECK_INT(n, 1);
    CHECK_STR(attempts[0].outcome, STR("succeeded"));
    CHECK_STR(attempts[0].sandbox, STR("A"));
    CHECK_INT(attempts[0].finished_at_ms, 200);
    CHECK_INT(task_get(db, id_of(2), 0, arena, &t), -ENOENT);
    return 0;
}

/* Its row was written when it started, as before there were such that are written once. */
static int job_old_attempt(Db *db, void *arg)
{
    Arena *arena = arg;
    Attempt *attempts;
    size_t n;
    TaskHead head;
    int64_t seq = put_task(db, 1, LANE_LOW, 0, "support");
    CHECK_INT(start(db, seq, id_of(77), 1000, 150), 0);
    DbStmt *s = db_stmt(db, "INSERT INTO attempt (task_seq, attempt, fence, worker_id,"
                            " started_at_ms) SELECT seq, attempt, fence, worker_id, started_at_ms"
                            " FROM task WHERE seq = ?1");
    db_bind_i64(s, 1, seq);
    CHECK_INT(db_run(s, NULL), 0);
    CHECK_INT(attempt_list(db, seq, arena, &attempts, &n), 0);
    CHECK_INT(n, 1);
    CHECK_INT(task_head_by_seq(db, seq, &head), 0);
    TaskEnd end = { .next = { .state = TASK_FAILED },
                    .outcome = TASK_OUTCOME_FAILED_FINAL,
                    .now_ms = 200,
                    .error_code = STR("x") };
    CHECK_INT(task_end(db, &head, &end), 0);
    CHECK_INT(attempt_list(db, seq, arena, &attempts, &n), 0);
    if (!CHECK_INT(n, 1)) return 0;
    CHECK_INT(attempts[0].finished_at_ms, 200);
    CHECK_INT(attempts[0].started_at_ms, 150);
    CHECK_STR(attempts[0].error_code, STR("x"));
    return 0;
}

static void test_old_attempt(void **state)
{
    run(state, job_old_attempt);
}

static int job_fences(Db *db, void *arg)
{
    int64_t *last = arg, now, next;
    CHECK_INT(fence_last(db, &now), 0);
    CHECK(now >= *last); /* those of one that was undone are given out no more */
    CHECK_INT(fence_take(db, 5, &next), 0);
    CHECK_INT(next, now + 5);
    CHECK_INT(fence_take(db, 100000, last), 0); /* more than are reserved at a time */
    CHECK(*last >= next + 100000);
    CHECK_INT(fence_last(db, &now), 0);
    CHECK_INT(now, *last);
    return 0;
}

static int job_fences_undone(Db *db, void *arg)
{
    return job_fences(db, arg) == 0 ? 1 : 0;
}

/* Each is greater than all before, whether those were kept, undone, or taken before a restart. */
static void test_fences(void **state)
{
    Fixture *f = *state;
    int64_t last = 0, undone;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(store_call(f->store, job_fences, &last), 0);
        undone = last;
        assert_int_equal(store_call(f->store, job_fences_undone, &undone), 1);
        assert_int_equal(store_call(f->store, job_fences, &last), 0);
        store_close(f->store);
        assert_int_equal(store_open(&(StoreOptions){ .path = f->dir.path }, &f->store), 0);
    }
    check_none();
}

static void test_task_life(void **state)
{
    run(state, job_task_life);
}

static int job_task_restart(Db *db, void *arg)
{
    Arena *arena = arg;
    Task t;
    TaskHead head;
    int64_t seq = put_task(db, 1, LANE_LOW, 0, "support");
    CHECK_INT(start(db, seq, id_of(7), 1, 100), 0);
    CHECK_INT(task_request_cancel(db, seq, STR("user")), 0);
    CHECK_INT(task_head(db, id_of(1), &head), 0);
    CHECK(head.cancel_requested);
    TaskEnd end = { .next = { .state = TASK_CANCELED, .failures = 2 },
                    .outcome = TASK_OUTCOME_CANCELED,
                    .now_ms = 200,
                    .error_code = STR("canceled"),
                    .result = STR("1") };
    CHECK_INT(task_end(db, &head, &end), 0);
    CHECK_INT(task_get(db, id_of(1), TASK_PART_RESULT, arena, &t), 0);
    CHECK_STR(t.stopped_by, STR("user"));
    CHECK(isnan(t.quality));
    CHECK_INT(task_restart(db, seq, 300), 0);
    CHECK_INT(task_restart(db, seq, 300), -ENOENT);
    CHECK_INT(task_get(db, id_of(1), TASK_PART_RESULT, arena, &t), 0);
    CHECK_INT(t.state, TASK_QUEUED);
    CHECK_INT(t.failures, 0);
    CHECK_INT(t.attempt, 1);
    CHECK_INT(t.deadline_at_ms, 0);
    CHECK_INT(t.finished_at_ms, 0);
    CHECK(!t.cancel_requested);
    CHECK_INT(t.result.len + t.error_code.len + t.stopped_by.len, 0);
    CHECK_INT(task_stop(db, seq, TASK_TIMED_OUT, STR("deadline_passed"), STR_NULL, 400), 0);
    CHECK_INT(task_stop(db, seq, TASK_CANCELED, STR("canceled"), STR_NULL, 400), -ENOENT);
    CHECK_INT(task_request_cancel(db, seq, STR("user")), -ENOENT);
    return 0;
}

static void test_task_restart(void **state)
{
    run(state, job_task_restart);
}

static int job_running(Db *db, void *arg)
{
    (void)arg;
    TaskHead heads[8];
    size_t n = 8;
    int64_t queued[LANE_N_], running[LANE_N_], at_ms;
    for (int i = 0; i < 6; i++) put_task(db, i, i < 4 ? LANE_CRITICAL : LANE_LOW, 10 + i, "a");
    for (int i = 1; i <= 3; i++) CHECK_INT(start(db, i, id_of(i < 3 ? 50 : 51), i, 100), 0);
    CHECK_INT(task_running_of(db, id_of(50), 0, heads, &n), 0);
    CHECK_INT(n, 2);
    CHECK_INT(heads[1].fence, 2);
    n = 8;
    CHECK_INT(task_running_of(db, id_of(50), heads[0].seq, heads, &n), 0);
    CHECK_INT(n, 1);
    n = 8;
    CHECK_INT(task_overdue(db, 600, heads, &n), 0);
    CHECK_INT(n, 0);
    n = 2;
    CHECK_INT(task_overdue(db, 601, heads, &n), 0);
    CHECK_INT(n, 2);
    CHECK_INT(task_counts(db, queued, running), 0);
    CHECK_INT(queued[LANE_CRITICAL], 1);
    CHECK_INT(queued[LANE_LOW], 2);
    CHECK_INT(running[LANE_CRITICAL], 3);
    CHECK_INT(running[LANE_NORMAL], 0);
    CHECK_INT(lines_oldest(db, LANE_LOW, &at_ms), 0);
    CHECK_INT(at_ms, 14);
    CHECK_INT(lines_oldest(db, LANE_NORMAL, &at_ms), 0);
    CHECK_INT(at_ms, INT64_MAX);
    return 0;
}

static void test_running(void **state)
{
    run(state, job_running);
}

/* All tasks of a filter, page by page; their number, or -1 when the order is wrong. */
static int list_all(Db *db, Arena *arena, TaskFilter filter, int *ret_pages)
{
    int n = 0;
    int64_t last = INT64_MAX;
    TaskPage page = { 0 };
    *ret_pages = 0;
    do {
        filter.cursor = arena_str(arena, str_of(page.next.text));
        if (!CHECK_INT(task_list(db, &filter, arena, &page), 0)) return -1;
        for (size_t i = 0; i < page.n; i++, n++) {
            if (page.tasks[i].seq >= last) return -1;
            last = page.tasks[i].seq;
        }
        ++*ret_pages;
    } while (page.next.text[0] && *ret_pages < 1000);
    return n;
}

static int job_list(Db *db, void *arg)
{
    Arena *arena = arg;
    TaskFilter any = { .state = -1, .lane = -1, .limit = 4 }, f;
    int pages;
    for (int i = 1; i <= 12; i++) put_task(db, i, (Lane)(i % 3), 0, i <= 9 ? "support" : "billing");
    for (int i = 1; i <= 5; i++) CHECK_INT(start(db, i, id_of(50), i, 100), 0);
    CHECK_INT(list_all(db, arena, any, &pages), 12);
    CHECK_INT(pages, 3); /* the third is full, and nothing follows it */
    f = any, f.agent = STR("billing");
    CHECK_INT(list_all(db, arena, f, &pages), 3);
    f = any, f.version_id = hex_id('a', '1');
    CHECK_INT(list_all(db, arena, f, &pages), 6);
    f.agent = STR("billing");
    CHECK_INT(list_all(db, arena, f, &pages), 1);
    f = any, f.lane = LANE_LOW;
    CHECK_INT(list_all(db, arena, f, &pages), 4);
    f = any, f.state = TASK_RUNNING;
    CHECK_INT(list_all(db, arena, f, &pages), 5);
    CHECK_INT(pages, 2);
    f = any, f.state = TASK_QUEUED, f.agent = STR("support");
    CHECK_INT(list_all(db, arena, f, &pages), 4);
    f = any, f.state = TASK_FAILED;
    CHECK_INT(list_all(db, arena, f, &pages), 0);
    TaskPage page;
    f = any, f.cursor = STR("12x");
    CHECK_INT(task_list(db, &f, arena, &page), -EINVAL);
    Arena tiny;
    arena_init(&tiny, 64);
    CHECK_INT(task_list(db, &any, &tiny, &page), -ENOMEM);
    arena_deinit(&tiny);
    return 0;
}

static void test_list(void **state)
{
    run(state, job_list);
}

static int job_list_bounded(Db *db, void *arg)
{
    Arena *arena = arg;
    int pages;
    TaskFilter f = { .state = TASK_CANCELED, .lane = -1, .limit = 10 };
    for (int i = 1; i <= 20500; i++) put_task(db, i, LANE_LOW, 0, "support");
    CHECK_INT(task_stop(db, 3, TASK_CANCELED, STR_NULL, STR_NULL, 5), 0);
    CHECK_INT(list_all(db, arena, f, &pages), 1);
    CHECK_INT(pages, 3); /* 10,000 rows were looked at for each */
    f.state = TASK_QUEUED, f.agent = STR("billing");
    CHECK_INT(list_all(db, arena, f, &pages), 0);
    CHECK_INT(pages, 3);
    return 0;
}

static void test_list_is_bounded(void **state)
{
    run(state, job_list_bounded);
}

static size_t dead(Db *db, DeadFilter filter, int64_t below_seq, size_t max, DeadTasks *ret)
{
    CHECK_INT(task_dead(db, &filter, below_seq, max, ret), 0);
    return ret->n;
}

static int job_dead(Db *db, void *arg)
{
    (void)arg;
    static const struct {
        const char *agent, *code;
        TaskState state;
    } rows[] = { { "support", "e1", TASK_FAILED },   { "billing", "e2", TASK_TIMED_OUT },
                 { "support", "e1", TASK_CANCELED }, { "support", "", TASK_SUCCEEDED },
                 { "support", "", TASK_QUEUED },     { "support", "e2", TASK_FAILED },
                 { "billing", "e1", TASK_TIMED_OUT } };
    int64_t seqs[ARRAY_N(rows)];
    DeadTasks found;
    DeadFilter all = { .state = -1 }, f = all;
    for (size_t i = 0; i < ARRAY_N(rows); i++) {
        seqs[i] = put_task(db, (int)i + 1, LANE_NORMAL, (int64_t)i + 1, rows[i].agent);
        if (rows[i].state == TASK_QUEUED) continue;
        CHECK_INT(task_stop(db, seqs[i], rows[i].state, str_of(rows[i].code), STR_NULL, 9), 0);
    }
    CHECK_INT(dead(db, all, INT64_MAX, 9, &found), 4);
    CHECK(found.seqs[0] == seqs[6] && found.seqs[1] == seqs[5]); /* newest first */
    CHECK(found.seqs[2] == seqs[1] && found.seqs[3] == seqs[0] && found.below_seq == 0);
    CHECK_INT(dead(db, all, INT64_MAX, 2, &found), 2);
    CHECK_INT(found.below_seq, seqs[5]);
    CHECK_INT(dead(db, all, found.below_seq, 2, &found), 2);
    CHECK_INT(found.seqs[0], seqs[1]);
    CHECK_INT(found.below_seq, 0);
    f.state = TASK_CANCELED;
    CHECK_INT(dead(db, f, INT64_MAX, 9, &found), 1);
    CHECK_INT(found.seqs[0], seqs[2]);
    f = (DeadFilter){ .state = -1, .agent = STR("support"), .error_code = STR("e1") };
    CHECK_INT(dead(db, f, INT64_MAX, 9, &found), 1);
    CHECK_INT(found.seqs[0], seqs[0]);
    f = (DeadFilter){ .state = -1, .since_ms = 2 }; /* all of them are older */
    CHECK_INT(dead(db, f, INT64_MAX, 2, &found), 0);
    CHECK_INT(found.below_seq, 0);
    f = (DeadFilter){ .state = -1, .version_id = STR("none") };
    CHECK_INT(dead(db, f, INT64_MAX, 9, &found), 0);
    return 0;
}

static void test_dead(void **state)
{
    run(state, job_dead);
}

/* --- plans ------------------------------------------------------------------------------------ */

/* Whether sql (prefixed with EXPLAIN QUERY PLAN) walks the index and sorts only if it may. */
static void check_plan(Db *db, const char *sql, const char *index, bool may_sort)
{
    char plan[1024] = "";
    DbStmt *s = db_stmt(db, sql);
    while (db_step(s) == DB_E_ROW) {
        size_t n = strlen(plan);
        snprintf(plan + n, sizeof plan - n, "%.*s; ", STR_ARG(db_str(s, 3)));
    }
    if (strstr(plan, index) && !strstr(plan, "SCAN task;") && (may_sort || !strstr(plan, "B-TREE")))
        return;
    fprintf(stderr, "%s\n  %s\n", sql, plan);
    CHECK_HAS(str_of(plan), index);
    CHECK(strstr(plan, "SCAN task;") == NULL);
    CHECK(may_sort || strstr(plan, "B-TREE") == NULL);
}

#define PLAN "EXPLAIN QUERY PLAN "

static void check_plans(Db *db)
{
    check_plan(db, PLAN LINE_FROM_TENANT_SQL, "task_ready", false);
    check_plan(db, PLAN LINE_NEXT_TENANT_SQL, "task_ready", false);
    check_plan(db, PLAN LINE_NEXT_AGENT_SQL, "task_ready", false);
    check_plan(db, PLAN LINE_AFTER_SQL, "task_ready", false);
    check_plan(db, PLAN LINE_AHEAD_SQL, "task_ready", false);
    check_plan(db, PLAN LINE_CHILDREN_SQL, "task_ready_child", false);
    check_plan(db, PLAN LINE_NO_CHILD_SQL, "task_ready", false);
    check_plan(db, PLAN TASK_DUE_SQL, "task_later", false);
    check_plan(db, PLAN TASK_NEXT_DUE_SQL, "task_later", false);
    check_plan(db, PLAN SESSION_ADMITTED_SQL, "task_session", false);
    check_plan(db, PLAN SESSION_ADMITTED_BESIDE_SQL, "task_session", false);
    check_plan(db, PLAN SESSION_NEXT_SQL, "task_session", false);
    check_plan(db, PLAN SESSION_AHEAD_SQL, "task_session", false);
    check_plan(db, PLAN RUNNING_OF_AGENT_SQL, "task_running (worker_id=? AND agent=?)", false);
    check_plan(db, PLAN RUNNING_OF_TENANT_SQL, "task_running_tenant", false);
    check_plan(db, PLAN LEAVES_OF_AGENT_SQL, "task_running (worker_id=? AND agent=?)", false);
    check_plan(db, PLAN LEAVES_OF_AGENT_SQL, "family_by_parent", false);
    check_plan(db, PLAN SESSION_OPEN_SQL, "task_session (session_id", false);
    check_plan(db, PLAN SESSION_OPEN_SQL, "task_session_free", false);
    check_plan(db, PLAN SESSION_LIVES_SQL, "task_session (session_id=? AND agent=?", false);
    check_plan(db, PLAN LEAVES_OF_TENANT_SQL, "task_running_tenant", false);
    check_plan(db, PLAN LEAVES_OF_TENANT_SQL, "family_by_parent", false);
    check_plan(db, PLAN TASK_QUEUED_COUNT_SQL, "task_ready", false);
    check_plan(db, PLAN TASK_QUEUED_COUNT_SQL, "task_later", false);
    check_plan(db, PLAN TASK_QUEUED_COUNT_SQL, "task_session", false);
    check_plan(db, PLAN LINES_OPEN_SQL, "task_ready", false);
    check_plan(db, PLAN LINES_DUE_SQL, "task_later (lane=? AND ready_at_ms<?)", false);
    check_plan(db, PLAN LINES_LATER_SQL, "task_later (lane=? AND ready_at_ms>?)", false);
    check_plan(db, PLAN LINES_SHADOW_SQL, "task_ready_shadow", false);
    check_plan(db, PLAN TASK_RUNNING_OF_SQL, "task_running", true);
    check_plan(db, PLAN TASK_OVERDUE_SQL, "task_running", false);
    check_plan(db, PLAN TASK_LATE_SQL, "task_deadline", false);
    check_plan(db, PLAN TASK_LATE_ASKING_SQL, "task_due", false);
    check_plan(db, PLAN TASK_MOVE_ASKING_SQL, "task_due", true);
    check_plan(db, PLAN TASK_MOVE_RUNNING_SQL, "task_running", true);
    check_plan(db, PLAN TASK_MOVE_WAITING_SQL, "task_deadline", true);
    check_plan(db, PLAN TASK_MOVE_LATER_SQL, "task_later", true);
    check_plan(db, PLAN ESCALATION_MOVE_SQL, "escalation_pending", true);
    check_plan(db, PLAN WEBHOOK_MOVE_SQL, "webhook_pending", true);
    check_plan(db, PLAN TASK_RUNNING_COUNT_SQL, "task_running", true);
    check_plan(db, PLAN TASK_LIST_QUEUED_SQL, "task_ready", true);
    check_plan(db, PLAN TASK_LIST_RUNNING_SQL, "task_running", true);
    check_plan(db, PLAN TASK_DEAD_SQL, "task_dead (seq<?)", false);
    check_plan(db, PLAN WEBHOOK_AGAIN_SQL, "webhook_failed", false);
}

/* Conditions of indexes are weighed at every write: one that lists three values or more would be
 * looked up in a table made for it, which costs more than the write. */
static void check_cheap_conditions(Db *db)
{
    DbStmt *s = db_stmt(db, "EXPLAIN UPDATE task SET state = 1, attempt = 1, gate = 0,"
                            " session_max = 1, deadline_at_ms = 1, due_at_ms = 1 WHERE seq = 1");
    while (db_step(s) == DB_E_ROW) CHECK(!str_eq(db_str(s, 1), STR("OpenEphemeral")));
}

static int job_plans(Db *db, void *arg)
{
    (void)arg;
    check_plans(db);
    check_cheap_conditions(db);
    /* the trap: statistics that say that nearly all rows are queued, in one lane, ready at once */
    for (int i = 1; i <= 3000; i++) put_task(db, i, LANE_NORMAL, 5, "support");
    CHECK_INT(start(db, 1, id_of(7), 1, 10), 0);
    CHECK_INT(db_run(db_stmt(db, "ANALYZE"), NULL), 0);
    CHECK_INT(db_run(db_stmt(db, "ANALYZE sqlite_schema"), NULL), 0); /* loads them */
    check_plans(db);
    return 0;
}

static void test_plans(void **state)
{
    run(state, job_plans);
}

/* --- calls, logs, webhooks, keys, workers ----------------------------------------------------- */

static int job_calls_and_logs(Db *db, void *arg)
{
    Arena *arena = arg;
    Call *calls, call = { .attempt = 1,
                          .provider = STR("openai"),
                          .model = STR("m"),
                          .outcome = STR("ok"),
                          .streamed = true,
                          .cached = true,
                          .degraded = STR("model"),
                          .cost_nusd = 5 };
    TaskLogLine *lines, line = { .attempt = 1, .seq = 1, .stream = TASK_LOG_STDERR };
    size_t n;
    int64_t last = 0, other = 0;
    int64_t seq = put_task(db, 1, LANE_NORMAL, 0, "a");
    int64_t of_other = put_task(db, 2, LANE_NORMAL, 0, "a");
    CHECK_INT(call_insert(db, seq, &call, &last), 0);
    call.at_ms = 9;
    call.call_id = STR("c-1");
    call.request_id = STR("r-1");
    call.upstream_id = STR("req_9");
    CHECK_INT(call_insert(db, of_other, &call, &other), 0);
    CHECK_INT(call_note_last(db, of_other, other), 0);
    int64_t first = last;
    CHECK_INT(call_insert(db, seq, &call, &last), 0);
    CHECK(last > first);
    first = last;
    CHECK_INT(call_insert(db, seq, &call, &last), DB_E_CONFLICT);
    CHECK_INT(last, first);
    CHECK_INT(call_list(db, seq, arena, &calls, &n), 0);
    CHECK_INT(n, 0); /* the task's row does not know them */
    CHECK_INT(call_note_last(db, 99, last), -ENOENT);
    CHECK_INT(call_note_last(db, seq, last), 0);
    CHECK_INT(call_list(db, seq, arena, &calls, &n), 0);
    CHECK_INT(n, 2);
    CHECK_INT(calls[1].at_ms, 9);
    CHECK_STR(calls[1].call_id, STR("c-1"));
    CHECK_STR(calls[1].request_id, STR("r-1"));
    CHECK_STR(calls[1].upstream_id, STR("req_9"));
    CHECK(str_empty(calls[0].request_id) && str_empty(calls[0].upstream_id));
    CHECK_STR(calls[1].provider, STR("openai"));
    CHECK(calls[0].streamed && !calls[0].replayed && calls[0].cached);
    CHECK_STR(calls[0].degraded, STR("model"));

    char *big = arena_alloc(arena, TASK_LOG_LINE_BYTES_MAX + 10);
    memset(big, 'x', TASK_LOG_LINE_BYTES_MAX + 10);
    line.text = str_make(big, TASK_LOG_LINE_BYTES_MAX + 10);
    CHECK_INT(task_log_insert(db, 3, &line), 0);
    CHECK_INT(task_log_insert(db, 3, &line), DB_E_CONFLICT);
    line.attempt = 2;
    line.text = STR("second");
    CHECK_INT(task_log_insert(db, 3, &line), 0);
    CHECK_INT(task_log_list(db, 3, (TaskLogCursor){ 0 }, arena, &lines, &n), 0);
    CHECK_INT(n, 2);
    CHECK_INT(lines[0].text.len, TASK_LOG_LINE_BYTES_MAX);
    CHECK_INT(task_log_list(db, 3, (TaskLogCursor){ 1, 1 }, arena, &lines, &n), 0);
    CHECK_INT(n, 1);
    CHECK_STR(lines[0].text, STR("second"));
    return 0;
}

static void test_calls_and_logs(void **state)
{
    run(state, job_calls_and_logs);
}

/* What is new is told by the order in which it was recorded, whatever ids and attempts say. */
static int job_news(Db *db, void *arg)
{
    Arena *arena = arg;
    static const char *const ids[] = { "c", "a", "b" };
    TaskCursor after = { 0 };
    TaskNews news;
    Task task;
    ToolRecord tool = {
        .attempt = 1, .name = STR("t"), .source = STR("http"), .outcome = STR("ok")
    };
    int64_t last = 0, seq = put_task(db, 1, LANE_NORMAL, 0, "a");
    for (int i = 0; i < 3; i++) {
        Call call = { .attempt = 1, .provider = STR("p"), .model = STR("m"), .outcome = STR("ok") };
        TaskLogLine line = { .attempt = i, .seq = 5, .text = STR("said") };
        TaskLogLine note = { .attempt = i, .seq = TASK_LOG_TOLD_SEQ + i, .text = STR("scored") };
        tool.id = str_of(ids[i]);
        CHECK_INT(tool_record_insert(db, seq, &tool), 0);
        CHECK_INT(call_insert(db, seq, &call, &last), 0);
        CHECK_INT(task_log_insert(db, seq, &line), 0);
        CHECK_INT(task_log_insert(db, seq, &note), 0);
    }
    int64_t next = 0;
    CHECK_INT(task_log_next_note(db, seq, 2, 7, &next), 0); /* the clock was set back */
    CHECK_INT(next, TASK_LOG_TOLD_SEQ + 3);
    CHECK_INT(task_log_next_note(db, seq, 2, TASK_LOG_TOLD_SEQ + 9, &next), 0);
    CHECK_INT(next, TASK_LOG_TOLD_SEQ + 9);
    CHECK_INT(task_log_next_note(db, seq, 3, 7, &next), 0);
    CHECK_INT(next, TASK_LOG_TOLD_SEQ);
    CHECK_INT(call_note_last(db, seq, last), 0);
    CHECK_INT(task_get_by_seq(db, seq, 0, arena, &task), 0);
    task.attempt = 2; /* as if it had been tried */
    CHECK_INT(task_news(db, &task, &after, 2, arena, &news), 0);
    CHECK_INT(news.calls_n + news.tools_n + news.lines_n + news.notes_n, 4 * 2);
    CHECK_STR(news.tools[0].id, STR("c"));
    CHECK_STR(news.tools[1].id, STR("a"));
    after.at[TASK_CURSOR_TOOL] = news.tools[1].n;
    after.at[TASK_CURSOR_CALL] = news.calls[1].id;
    after.at[TASK_CURSOR_LINE_ATTEMPT] = news.lines[1].attempt;
    after.at[TASK_CURSOR_LINE] = news.lines[1].seq;
    after.at[TASK_CURSOR_NOTE_ATTEMPT] = news.notes[1].attempt;
    after.at[TASK_CURSOR_NOTE] = news.notes[1].seq;
    CHECK_INT(news.notes[1].attempt, 1);
    CHECK_INT(task_news(db, &task, &after, 2, arena, &news), 0);
    CHECK_INT(news.calls_n + news.tools_n + news.lines_n + news.notes_n, 4);
    CHECK_STR(news.tools[0].id, STR("b"));
    CHECK_INT(news.calls[0].id, last);
    CHECK_INT(news.lines[0].attempt, 2);
    CHECK_INT(news.notes[0].seq, TASK_LOG_TOLD_SEQ + 2);
    return 0;
}

static void test_news(void **state)
{
    run(state, job_news);
}

static int job_calls_recent(Db *db, void *arg)
{
    Arena *arena = arg;
    CallUse *uses;
    size_t n;
    int64_t last = 0;
    Call call = { .attempt = 1,
                  .provider = STR("openai"),
                  .model = STR("m"),
                  .outcome = STR("complete"),
                  .input_tokens = 10,
                  .output_tokens = 5 };
    for (int i = 0; i < 4; i++) {
        call.at_ms = 1000 + i;
        call.charged_tokens = i == 3 ? 100 : 0; /* its usage is not known */
        CHECK_INT(call_insert(db, 3, &call, &last), 0);
    }
    call.cached = true;
    CHECK_INT(call_insert(db, 3, &call, &last), 0);
    call.cached = false;
    call.replayed = true;
    CHECK_INT(call_insert(db, 3, &call, &last), 0);
    call.replayed = false;
    call.outcome = STR("unreached");
    CHECK_INT(call_insert(db, 3, &call, &last), 0);
    call.model = STR("other");
    call.outcome = STR("upstream_error");
    CHECK_INT(call_insert(db, 3, &call, &last), 0);
    CHECK_INT(call_recent(db, 1001, arena, &uses, &n), 0);
    CHECK_INT(n, 2);
    CHECK_STR(uses[0].model, STR("m"));
    CHECK_INT(uses[0].calls, 3);
    CHECK_INT(uses[0].newest_at_ms, 1003);
    CHECK_INT(uses[0].input_tokens, 30);
    CHECK_INT(uses[0].output_tokens, 15);
    CHECK_INT(uses[0].tokens, 130);
    CHECK_STR(uses[1].model, STR("other"));
    CHECK_INT(call_recent(db, 2000, arena, &uses, &n), 0);
    CHECK_INT(n, 0);
    return 0;
}

static void test_calls_recent(void **state)
{
    run(state, job_calls_recent);
}

static WebhookDue due_at(Db *db, Arena *arena, WebhookSearch search)
{
    WebhookDue due = { 0 };
    if (search.limit == 0) search.limit = 10;
    if (search.host_max == 0) search.host_max = 10;
    CHECK_INT(webhook_due(db, &search, arena, &due), 0);
    return due;
}

static int job_webhooks(Db *db, void *arg)
{
    Arena *arena = arg;
    Webhook *list, w = { .webhook_id = STR("msg"),
                         .task_seq = 3,
                         .url = STR("u"),
                         .host = STR("h:1"),
                         .body = STR("{}") };
    size_t n;
    for (int i = 1; i <= 3; i++) {
        w.next_at_ms = 10 * i;
        CHECK_INT(webhook_insert(db, &w), 0);
    }
    WebhookDue due = due_at(db, arena, (WebhookSearch){ .now_ms = 5 });
    CHECK_INT(due.n, 0);
    CHECK_INT(due.next_at_ms, 10);
    due = due_at(db, arena, (WebhookSearch){ .now_ms = 30, .limit = 2 });
    CHECK_INT(due.n, 2);
    CHECK(due.more);
    CHECK_STR(due.rows[0].body, STR("{}"));
    CHECK_INT(webhook_record(db, due.rows[0].id, WEBHOOK_PENDING, 100, 500, STR("oops")), 0);
    CHECK_INT(webhook_record(db, due.rows[1].id, WEBHOOK_FAILED, 0, 410, STR("gone")), 0);
    CHECK_INT(webhook_record(db, due.rows[1].id, WEBHOOK_PENDING, 0, 410, STR("gone")), -ENOENT);
    due = due_at(db, arena, (WebhookSearch){ .now_ms = 99 });
    CHECK_INT(due.n, 1);
    CHECK(!due.more && !due.hosts_full);
    CHECK_INT(webhook_list(db, 3, arena, &list, &n), 0);
    CHECK_INT(n, 3);
    CHECK_INT(list[0].attempts, 1);
    CHECK_INT(list[1].state, WEBHOOK_FAILED);
    CHECK_STR(list[1].last_error, STR("gone"));
    CHECK_INT(webhook_again(db, list[0].id, 7), -ENOENT);
    CHECK_INT(webhook_again(db, list[1].id, 7), 0);
    due = due_at(db, arena, (WebhookSearch){ .now_ms = 7 });
    CHECK_INT(due.n, 1);
    CHECK_INT(due.rows[0].attempts, 0);
    CHECK_STR(str_of(webhook_state_name(WEBHOOK_FAILED)), STR("failed"));
    return 0;
}

/* Hosts a, b, c with 5, 1 and 2 webhooks that are due; a's before the others'. */
static int job_webhook_hosts(Db *db, void *arg)
{
    Arena *arena = arg;
    for (int i = 0; i < 8; i++) {
        Webhook w = { .webhook_id = STR("msg"), .task_seq = 3, .url = STR("u"), .body = STR("{}") };
        w.host = i < 5 ? STR("a:1") : i < 6 ? STR("b:1") : STR("c:1");
        w.next_at_ms = i;
        CHECK_INT(webhook_insert(db, &w), 0);
    }
    WebhookDue due = due_at(db, arena, (WebhookSearch){ .now_ms = 99, .host_max = 2 });
    CHECK_INT(due.n, 5);
    CHECK(due.hosts_full);
    CHECK_STR(due.rows[2].host, STR("b:1"));

    /* one host behind the other, and around */
    due = due_at(db, arena,
                 (WebhookSearch){ .now_ms = 99, .host_max = 1, .after_host = STR("a:1") });
    CHECK_INT(due.n, 3);
    CHECK_STR(due.rows[0].host, STR("b:1"));
    CHECK_STR(due.rows[2].host, STR("a:1"));

    /* what is under way has its place, and is not found again */
    WebhookHostUse use = { STR("a:1"), 2 };
    int64_t skip[] = { due.rows[2].id };
    WebhookSearch search = { .now_ms = 99, .host_max = 2, .use = &use, .use_n = 1 };
    due = due_at(db, arena, search);
    CHECK_INT(due.n, 3);
    CHECK_STR(due.rows[0].host, STR("b:1"));
    use.n = 1;
    search.skip = skip;
    search.skip_n = 1;
    due = due_at(db, arena, search);
    CHECK_INT(due.n, 4);
    CHECK(due.rows[0].id != skip[0]);
    return 0;
}

static int job_webhook_dead(Db *db, void *arg)
{
    Arena *arena = arg;
    WebhookPage page;
    int64_t n = 0, after = 0, id = 0;
    WebhookState found;
    bool disabled = false;
    TaskRow task = {
        .id = { { 7 } }, .agent = STR("a"), .version_id = STR("v"), .input = STR("1")
    };
    int64_t seq = 0;
    CHECK_INT(task_insert(db, &task, &seq), 0);
    for (int i = 0; i < 600; i++) {
        char name[32];
        snprintf(name, sizeof name, "msg_%d", i);
        Webhook w = { .webhook_id = str_of(name),
                      .task_seq = seq,
                      .url = i % 2 ? STR("u1") : STR("u2"),
                      .host = STR("h:1"),
                      .body = STR("{}"),
                      .state = WEBHOOK_FAILED,
                      .created_at_ms = i };
        CHECK_INT(webhook_insert(db, &w), 0);
    }
    WebhookFilter filter = { .state = WEBHOOK_FAILED, .url = STR("u1"), .limit = 200 };
    CHECK_INT(webhook_page(db, &filter, arena, &page), 0);
    CHECK_INT(page.n, 200);
    CHECK_STR(page.rows[0].webhook_id, STR("msg_599"));
    CHECK(uuid_eq(page.rows[0].task_id, task.id));
    filter.cursor = str_of(page.next.text);
    CHECK_INT(webhook_page(db, &filter, arena, &page), 0);
    CHECK_INT(page.n, 100);
    CHECK(page.next.text[0] == '\0');
    filter = (WebhookFilter){ .state = WEBHOOK_PENDING };
    CHECK_INT(webhook_page(db, &filter, arena, &page), 0);
    CHECK_INT(page.n, 0);
    filter.cursor = STR("no");
    CHECK_INT(webhook_page(db, &filter, arena, &page), -EINVAL);
    CHECK_INT(webhook_find(db, seq, STR("msg_5"), &id, &found), 0);
    CHECK_INT(found, WEBHOOK_FAILED);
    CHECK_INT(webhook_find(db, seq, STR("msg_x"), &id, &found), -ENOENT);

    WebhookDisabled gone = { STR("u2"), 5, STR("msg_4") }, *list;
    size_t list_n = 0;
    CHECK_INT(webhook_disable(db, &gone), 0);
    CHECK_INT(webhook_disable(db, &gone), 0);
    CHECK_INT(webhook_disabled_list(db, arena, &list, &list_n), 0);
    CHECK_INT(list_n, 1);
    CHECK_INT(list[0].at_ms, 5);
    CHECK_INT(webhook_is_disabled(db, STR("u1"), &disabled), 0);
    CHECK(!disabled);
    CHECK_INT(webhook_find(db, seq, STR("msg_4"), &id, &found), 0);
    CHECK_INT(webhook_of_disabled(db, id, &disabled), 0);
    CHECK(disabled);
    CHECK_INT(webhook_again_many(db, STR_NULL, 500, 0, 9, &n, &after), 0);
    CHECK_INT(n, 50); /* those of u2 are left */
    CHECK_INT(after, 0);
    CHECK_INT(webhook_enable(db, STR("u2")), 0);
    CHECK_INT(webhook_enable(db, STR("u2")), -ENOENT);
    CHECK_INT(webhook_again_many(db, STR_NULL, 0, 0, 9, &n, &after), 0);
    CHECK_INT(n, WEBHOOK_AGAIN_MAX);
    CHECK(after > 0);
    CHECK_INT(webhook_again_many(db, STR_NULL, 0, after, 9, &n, &after), 0);
    CHECK_INT(n, 50);
    CHECK_INT(after, 0);

    /* of those of another url no more than some are looked at in one job */
    CHECK_INT(db_run(db_stmt(db, "WITH RECURSIVE i (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i"
                                 " WHERE n < 5100) INSERT INTO webhook (webhook_id, task_seq, url,"
                                 " host, body, state, created_at_ms, next_at_ms)"
                                 " SELECT 'many_' || n, 1, 'u7', 'h', '', 2, 1, 0 FROM i"),
                     NULL),
              0);
    CHECK_INT(webhook_again_many(db, STR("u8"), 0, 0, 9, &n, &after), 0);
    CHECK(n == 0 && after > 0);
    CHECK_INT(webhook_again_many(db, STR("u8"), 0, after, 9, &n, &after), 0);
    CHECK(n == 0 && after == 0);
    return 0;
}

/* More hosts than one search looks at, whose webhooks are due later; behind them some that are. */
static int job_webhook_many_hosts(Db *db, void *arg)
{
    Arena *arena = arg;
    char host[16];
    Webhook w = { .webhook_id = STR("msg"), .task_seq = 3, .url = STR("u"), .body = STR("{}") };
    for (int i = 0; i < WEBHOOK_HOSTS_MAX + 10; i++) {
        snprintf(host, sizeof host, i < WEBHOOK_HOSTS_MAX ? "h%05d:1" : "z%05d:1", i);
        w.host = str_of(host);
        w.next_at_ms = i < WEBHOOK_HOSTS_MAX ? 1000 : 5;
        CHECK_INT(webhook_insert(db, &w), 0);
    }
    WebhookDue due = due_at(db, arena, (WebhookSearch){ .now_ms = 99 });
    CHECK_INT(due.n, 0);
    CHECK(due.more && due.last_host.len > 0);
    due = due_at(db, arena, (WebhookSearch){ .now_ms = 99, .after_host = due.last_host });
    CHECK_INT(due.n, 10);
    CHECK_STR(due.rows[0].host, STR("z01024:1"));
    due = due_at(db, arena, (WebhookSearch){ .now_ms = 99, .after_host = STR("h00000:1") });
    CHECK(due.last_host.len > 0); /* the second part of the circle does not take it away */
    return 0;
}

static void test_webhook_many_hosts(void **state)
{
    run(state, job_webhook_many_hosts);
}

static void test_webhook_hosts(void **state)
{
    run(state, job_webhook_hosts);
}

static void test_webhook_dead(void **state)
{
    run(state, job_webhook_dead);
}

static void test_webhooks(void **state)
{
    run(state, job_webhooks);
}

static int job_keys(Db *db, void *arg)
{
    (void)arg;
    Uuid id;
    bool same;
    int64_t n;
    CHECK_INT(idempotency_get(db, STR("t"), STR("k"), STR("f"), &id, &same), -ENOENT);
    CHECK_INT(idempotency_insert(db, STR("t"), STR("k"), STR("f"), id_of(4), 10), 0);
    CHECK_INT(idempotency_insert(db, STR("t"), STR("k"), STR("g"), id_of(5), 10), DB_E_CONFLICT);
    CHECK_INT(idempotency_insert(db, STR(""), STR("k"), STR("f"), id_of(6), 20), 0);
    CHECK_INT(idempotency_get(db, STR("t"), STR("k"), STR("f"), &id, &same), 0);
    CHECK(same && uuid_eq(id, id_of(4)));
    CHECK_INT(idempotency_get(db, STR("t"), STR("k"), STR("h"), &id, &same), 0);
    CHECK(!same);
    CHECK_INT(idempotency_purge(db, 20, 5, &n), 0);
    CHECK_INT(n, 1);
    CHECK_INT(idempotency_get(db, STR("t"), STR("k"), STR("f"), &id, &same), -ENOENT);
    CHECK_INT(idempotency_get(db, STR(""), STR("k"), STR("f"), &id, &same), 0);
    return 0;
}

static void test_keys(void **state)
{
    run(state, job_keys);
}

static int job_workers(Db *db, void *arg)
{
    Arena *arena = arg;
    Worker w = { .id = id_of(1), .name = STR("w"), .kind = WORKER_REMOTE, .slots = STR("{}") },
           *list;
    WorkerState state;
    Uuid id;
    size_t n;
    w.lease_expires_at_ms = 100;
    CHECK_INT(worker_put(db, &w), 0);
    w.id = id_of(2), w.kind = WORKER_EMBEDDED, w.registered_at_ms = 5;
    CHECK_INT(worker_put(db, &w), 0);
    CHECK_INT(worker_renew(db, id_of(1), 200, 150), 0);
    CHECK_INT(worker_renew(db, id_of(3), 200, 150), -ENOENT);
    CHECK_INT(worker_next_expired(db, 100, &id), -ENOENT);
    CHECK_INT(worker_next_expired(db, 101, &id), 0);
    CHECK(uuid_eq(id, id_of(2)));
    CHECK_INT(worker_next_of(db, WORKER_EMBEDDED, &id), 0);
    CHECK_INT(worker_set_state(db, id_of(2), WORKER_LOST), 0);
    CHECK_INT(worker_set_state(db, id_of(9), WORKER_LOST), -ENOENT);
    CHECK_INT(worker_next_of(db, WORKER_EMBEDDED, &id), -ENOENT);
    CHECK_INT(worker_renew(db, id_of(2), 200, 150), -ENOENT);
    CHECK_INT(worker_state(db, id_of(2), &state), 0);
    CHECK_INT(state, WORKER_LOST);
    CHECK_INT(worker_state(db, id_of(9), &state), -ENOENT);
    put_task(db, 1, LANE_LOW, 0, "a");
    CHECK_INT(start(db, 1, id_of(1), 1, 1), 0);
    CHECK_INT(worker_list(db, arena, &list, &n), 0);
    CHECK_INT(n, 2);
    CHECK(uuid_eq(list[0].id, id_of(2)));
    CHECK_INT(list[1].running, 1);
    CHECK_INT(worker_set_state(db, id_of(1), WORKER_STOPPED), 0);
    CHECK_INT(worker_list(db, arena, &list, &n), 0);
    CHECK_INT(n, 1);
    CHECK_INT(worker_purge(db, 1000), 0); /* the one that holds a task stays */
    CHECK_INT(worker_get(db, id_of(2), arena, &w), -ENOENT);
    CHECK_INT(worker_get(db, id_of(1), arena, &w), 0);
    CHECK_STR(str_of(worker_state_name(w.state)), STR("stopped"));
    CHECK_STR(str_of(worker_kind_name(w.kind)), STR("remote"));
    return 0;
}

static void test_workers(void **state)
{
    run(state, job_workers);
}

/* --- artifacts -------------------------------------------------------------------------------- */

static void test_artifacts(void **state)
{
    Fixture *f = *state;
    const char *dir = f->dir.path;
    ArtifactDigest digest;
    CLEANUP(buf_deinit) Buf buf;
    buf_init(&buf, 8);
    assert_int_equal(artifact_store_init(dir), 0);
    assert_int_equal(artifact_store_init(dir), 0);
    char path[ARTIFACT_PATH_MAX];
    snprintf(path, sizeof path, "%s/artifacts/oci-layout", dir);
    assert_int_equal(access(path, R_OK), 0);

    const char *abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_int_equal(artifact_put(dir, STR("abc"), STR_NULL, &digest), 0);
    assert_string_equal(digest.hex, abc);
    assert_int_equal(artifact_put(dir, STR("abc"), str_of(abc), &digest), 0);
    assert_int_equal(artifact_put(dir, STR("abd"), str_of(abc), &digest), -EBADMSG);
    assert_int_equal(artifact_get(dir, str_of(abc), &buf), 0);
    assert_true(str_eq(buf_str(&buf), STR("abc")));
    assert_int_equal(artifact_get(dir, str_of(abc), &buf), 0); /* appends */
    assert_int_equal(artifact_get(dir, str_of(abc), &buf), -EFBIG);
    assert_int_equal(buf.len, 6);
    assert_int_equal(artifact_get(dir, STR("../../gantry.db"), &buf), -EINVAL);
    assert_int_equal(artifact_get(dir, hex_id('a', '0'), &buf), -ENOENT);

    assert_int_equal(artifact_path(dir, str_of(abc), path), 0);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs("abX", file) >= 0 && fclose(file) == 0);
    buf_clear(&buf);
    assert_int_equal(artifact_get(dir, str_of(abc), &buf), -EBADMSG);
    assert_non_null(strstr(diag_text(), "damaged"));
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_agents),
        cmocka_unit_test(test_retry_settings),
        TEST(test_fences),
        TEST(test_versions),
        TEST(test_versions_never_change),
        TEST(test_routing),
        TEST(test_task_many),
        TEST(test_tasks_many),
        TEST(test_task_life),
        TEST(test_old_attempt),
        TEST(test_task_restart),
        TEST(test_running),
        TEST(test_list),
        TEST(test_list_is_bounded),
        TEST(test_dead),
        TEST(test_plans),
        TEST(test_calls_and_logs),
        TEST(test_news),
        TEST(test_calls_recent),
        TEST(test_webhooks),
        TEST(test_webhook_hosts),
        TEST(test_webhook_many_hosts),
        TEST(test_webhook_dead),
        TEST(test_keys),
        TEST(test_workers),
        TEST(test_artifacts),
    };
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    return cmocka_run_group_tests_name("store_records", tests, NULL, NULL);
}
