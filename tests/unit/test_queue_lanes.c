/* Whose turn it is, on a real store: sessions, limits, tenants, lanes. */
#include "tests/unit/queue_fixture.h"

#include <stdio.h>

#include "store/line_store.h"
#include "tests/unit/random.h"

static TaskNew task_new(const char *session)
{
    return (TaskNew){ .agent = STR("support"),
                      .lane = LANE_NORMAL,
                      .input = STR("1"),
                      .session_id = str_of(session) };
}

static Uuid put(Fixture *f, const TaskNew *new)
{
    TaskSummary summary = { 0 };
    CHECK_INT(queue_submit_wait(f->queue, new, &summary), 0);
    return summary.id;
}

static Uuid put_session(Fixture *f, const char *session)
{
    TaskNew new = task_new(session);
    return put(f, &new);
}

/* Claims all that may start; how many. refs: room for 100. */
static size_t claim_all(Fixture *f, Uuid worker, TaskRef *refs)
{
    Task *tasks = NULL;
    size_t n = claim(f, worker, roomy, &tasks);
    for (size_t i = 0; i < n; i++) refs[i] = (TaskRef){ tasks[i].id, tasks[i].fence };
    return n;
}

static void end_ok(Fixture *f, TaskRef ref)
{
    CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, NULL), 0);
}

/* --- sessions --------------------------------------------------------------------------------- */

static int body_session_in_order(void *arg)
{
    Fixture *f = arg;
    TaskRef refs[100];
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    Uuid a[3], b = { 0 };
    for (int i = 0; i < 3; i++) a[i] = put_session(f, "a");
    b = put_session(f, "b");
    CHECK_INT(claim_all(f, worker, refs), 2);
    CHECK(uuid_eq(refs[0].id, a[0]) && uuid_eq(refs[1].id, b));
    CHECK_INT(claim_all(f, worker, refs + 2), 0);
    check_counts(f, LANE_NORMAL, 2, 2);
    pass_ms(5000);
    end_ok(f, refs[0]);
    CHECK_INT(claim_all(f, worker, refs), 1);
    CHECK(uuid_eq(refs[0].id, a[1]));
    CHECK_INT(get(f, a[1]).ready_at_ms, real_now); /* it did not wait for a slot */
    end_ok(f, refs[0]);
    CHECK_INT(claim_all(f, worker, refs), 1);
    CHECK(uuid_eq(refs[0].id, a[2]));
    end_ok(f, refs[0]);
    CHECK_INT(claim_all(f, worker, refs), 0);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.session_waits, 2);
    return 0;
}

static void test_session_in_order(void **state)
{
    run(state, body_session_in_order);
}

/* A task that is tried again, or lost, keeps its place before the others. */
static int body_session_retry(void *arg)
{
    Fixture *f = arg;
    TaskRef refs[100];
    TaskState state;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE), first = put_session(f, "a");
    Uuid second = put_session(f, "a");
    CHECK_INT(claim_all(f, worker, refs), 1);
    CHECK_INT(finish(f, refs[0], TASK_OUTCOME_FAILED_RETRYABLE, &state), 0);
    CHECK_INT(state, TASK_QUEUED);
    pass_ms(RETRY_POLICY_DEFAULT.max_ms);
    CHECK_INT(claim_all(f, worker, refs), 1);
    CHECK(uuid_eq(refs[0].id, first));
    CHECK_INT(queue_leave_wait(f->queue, worker), 0);
    worker = add_worker(f, 2, WORKER_REMOTE);
    CHECK_INT(claim_all(f, worker, refs), 1);
    CHECK(uuid_eq(refs[0].id, first));
    CHECK_INT(finish(f, refs[0], TASK_OUTCOME_FAILED_FINAL, &state), 0);
    CHECK_INT(claim_all(f, worker, refs), 1);
    CHECK(uuid_eq(refs[0].id, second));
    /* by hand: behind the one that runs */
    CHECK_INT(queue_retry_wait(f->queue, first, false), 0);
    CHECK_INT(claim_all(f, worker, refs + 1), 0);
    end_ok(f, refs[0]);
    CHECK_INT(claim_all(f, worker, refs), 1);
    CHECK(uuid_eq(refs[0].id, first));
    end_ok(f, refs[0]);
    return 0;
}

static void test_session_retry(void **state)
{
    run(state, body_session_retry);
}

static int body_session_cancel(void *arg)
{
    Fixture *f = arg;
    TaskRef refs[100];
    TaskState state;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE), first = put_session(f, "a");
    Uuid second = put_session(f, "a"), third = put_session(f, "a");
    CHECK_INT(queue_cancel_wait(f->queue, second, STR("user"), &state), 0);
    CHECK_INT(queue_cancel_wait(f->queue, first, STR("user"), &state), 0);
    CHECK_INT(claim_all(f, worker, refs), 1);
    CHECK(uuid_eq(refs[0].id, third));
    check_counts(f, LANE_NORMAL, 0, 1);
    /* one that waits for a person keeps the session */
    Uuid fourth = put_session(f, "a");
    CHECK_INT(finish(f, refs[0], TASK_OUTCOME_ESCALATED, &state), 0);
    CHECK_INT(state, TASK_ESCALATED);
    CHECK_INT(claim_all(f, worker, refs), 0);
    CHECK_INT(queue_cancel_wait(f->queue, third, STR("user"), &state), 0);
    CHECK_INT(claim_all(f, worker, refs), 1);
    CHECK(uuid_eq(refs[0].id, fourth));
    return 0;
}

static void test_session_cancel(void **state)
{
    run(state, body_session_cancel);
}

/* A task for later does not hold up its session until its time has come. */
static int body_session_later(void *arg)
{
    Fixture *f = arg;
    TaskRef refs[100];
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    TaskNew new = task_new("a");
    new.run_at_ms = real_now + 60000;
    Uuid later = put(f, &new);
    Uuid now = put_session(f, "a");
    CHECK_INT(claim_all(f, worker, refs), 1);
    CHECK(uuid_eq(refs[0].id, now));
    pass_ms(60000);
    CHECK_INT(claim_all(f, worker, refs + 1), 0); /* its time has come, its turn has not */
    end_ok(f, refs[0]);
    CHECK_INT(claim_all(f, worker, refs), 1);
    CHECK(uuid_eq(refs[0].id, later));
    return 0;
}

static void test_session_later(void **state)
{
    run(state, body_session_later);
}

/* What a task starts in its own session must not wait for it. Other agents and tenants have
 * sessions of their own. */
static int body_session_others(void *arg)
{
    Fixture *f = arg;
    TaskRef refs[100];
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    TaskNew new = task_new("a");
    new.parent_id = put_session(f, "a");
    put(f, &new);
    CHECK_INT(claim_all(f, worker, refs), 2);
    new = task_new("a");
    new.tenant_id = STR("acme");
    put(f, &new);
    put_session(f, "a"); /* waits */
    CHECK_INT(claim_all(f, worker, refs), 1);
    return 0;
}

static void test_session_others(void **state)
{
    run(state, body_session_others);
}

/* --- limits ----------------------------------------------------------------------------------- */

static int settings_job(Db *db, void *arg)
{
    return agent_set_settings(db, STR("support"), str_of(arg));
}

static int store_set(Fixture *f, const char *settings)
{
    char text[128];
    snprintf(text, sizeof text, "%s", settings);
    return store_call_wait(f->store, settings_job, text);
}

static int body_session_told_otherwise(void *arg)
{
    Fixture *f = arg;
    TaskRef refs[100];
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    CHECK_INT(store_set(f, "{\"concurrency\":{\"perSession\":2}}"), 0);
    for (int i = 0; i < 4; i++) put_session(f, "a");
    CHECK_INT(claim_all(f, worker, refs), 2);
    end_ok(f, refs[0]);
    CHECK_INT(claim_all(f, worker, refs), 1);
    CHECK_INT(store_set(f, "{\"concurrency\":{\"perSession\":0}}"), 0);
    for (int i = 0; i < 4; i++) put_session(f, "b");
    CHECK_INT(claim_all(f, worker, refs), 4);
    return 0;
}

static void test_session_told_otherwise(void **state)
{
    run(state, body_session_told_otherwise);
}

static int body_agent_limit(void *arg)
{
    Fixture *f = arg;
    TaskRef refs[100];
    QueueStats stats;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    CHECK_INT(store_set(f, "{\"concurrency\":{\"tasks\":3}}"), 0);
    for (int i = 0; i < 3; i++) submit(f, LANE_LOW);
    for (int i = 0; i < 3; i++) submit(f, LANE_CRITICAL);
    CHECK_INT(claim_all(f, worker, refs), 3);
    for (int i = 0; i < 3; i++) CHECK_INT(get(f, refs[i].id).lane, LANE_CRITICAL);
    CHECK_INT(claim_all(f, worker, refs + 3), 0);
    queue_stats(f->queue, &stats);
    CHECK(stats.limited > 0);
    end_ok(f, refs[0]);
    CHECK_INT(claim_all(f, worker, refs), 1);
    CHECK_INT(store_set(f, "{\"concurrency\":{\"tasks\":0}}"), 0);
    CHECK_INT(claim_all(f, worker, refs), 2);
    return 0;
}

static void test_agent_limit(void **state)
{
    run(state, body_agent_limit);
}

typedef struct {
    Fixture *f;
    Uuid worker;
    size_t n;
} Poll;

static int poll_main(void *arg)
{
    Poll *p = arg;
    Claim c = { .worker_id = p->worker, .slots = roomy };
    Task *tasks;
    return queue_claim_wait(p->f->queue, &c, DEADLINE_NONE, &p->f->arena, &tasks, &p->n);
}

/* A claim that waits at a limit goes on when a task ends, wherever that ran. */
static int body_limit_wakes(void *arg)
{
    Fixture *f = arg;
    TaskRef refs[100];
    FiberRef fiber;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    Poll p = { .f = f, .worker = add_worker(f, 2, WORKER_REMOTE) };
    CHECK_INT(store_set(f, "{\"concurrency\":{\"tasks\":1}}"), 0);
    submit(f, LANE_NORMAL);
    submit(f, LANE_LOW);
    CHECK_INT(claim_all(f, worker, refs), 1);
    CHECK_INT(fiber_spawn("poll", poll_main, &p, &fiber), 0);
    await_claimers(f, 1);
    end_ok(f, refs[0]);
    CHECK_INT(fiber_join_wait(fiber, NULL), 0);
    CHECK_INT(p.n, 1);
    return 0;
}

static void test_limit_wakes(void **state)
{
    run(state, body_limit_wakes);
}

static Uuid put_tenant(Fixture *f, const char *tenant)
{
    TaskNew new = task_new("");
    new.tenant_id = str_of(tenant);
    return put(f, &new);
}

static int body_tenant_limit(void *arg)
{
    Fixture *f = arg;
    TaskRef refs[100];
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    for (int i = 0; i < 5; i++) put_tenant(f, "a");
    for (int i = 0; i < 3; i++) put_tenant(f, "b");
    for (int i = 0; i < 3; i++) put_tenant(f, ""); /* nobody's: no limit */
    CHECK_INT(claim_all(f, worker, refs), 7);
    int a = 0;
    for (int i = 0; i < 7; i++) a += str_eq(get(f, refs[i].id).tenant_id, STR("a"));
    CHECK_INT(a, 2);
    return 0;
}

static int setup_tenant_limit(void **state)
{
    int r = setup(state);
    Fixture *f = *state;
    close_queue(f);
    f->options.tenant_tasks_max = 2;
    open_queue(f);
    return r;
}

static void test_tenant_limit(void **state)
{
    run(state, body_tenant_limit);
}

/* --- tenants ---------------------------------------------------------------------------------- */

static int body_one_floods(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    for (int i = 0; i < 50; i++) put_tenant(f, "flood");
    for (int i = 0; i < 4; i++) { /* it has used slots for a while */
        TaskRef ref = claim_one(f, worker);
        pass_ms(1000);
        end_ok(f, ref);
    }
    for (int i = 0; i < 2; i++) put_tenant(f, "quiet");
    int quiet = 0;
    for (int i = 0; i < 2; i++) {
        TaskRef ref = claim_one(f, worker);
        quiet += str_eq(get(f, ref.id).tenant_id, STR("quiet"));
        end_ok(f, ref);
    }
    CHECK_INT(quiet, 2);
    return 0;
}

static void test_one_floods(void **state)
{
    run(state, body_one_floods);
}

/* A clock that is set back keeps nobody's use from being forgotten. */
static int body_set_back(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    for (int i = 0; i < 4; i++) put_tenant(f, "early");
    for (int i = 0; i < 2; i++) {
        TaskRef ref = claim_one(f, worker);
        pass_ms(9000);
        heartbeat(f, worker, &ref, 1);
        end_ok(f, ref);
    }
    real_now -= 86400000;
    pass_ms(60 * 60000);
    add_worker(f, 1, WORKER_REMOTE);
    for (int i = 0; i < 4; i++) put_tenant(f, "new");
    int early = 0;
    for (int i = 0; i < 4; i++) {
        TaskRef ref = claim_one(f, worker);
        early += str_eq(get(f, ref.id).tenant_id, STR("early"));
        pass_ms(2000);
        end_ok(f, ref);
    }
    CHECK_INT(early, 2);
    return 0;
}

static void test_set_back(void **state)
{
    run(state, body_set_back);
}

/* What waits is not put behind all that comes until the clock shows the time at which it came. */
static int body_order_set_back(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE), ids[6];
    for (int i = 0; i < 3; i++, pass_ms(1000)) ids[i] = put_tenant(f, "a");
    real_now -= 3600000;
    for (int i = 3; i < 6; i++, pass_ms(1000)) ids[i] = put_tenant(f, "a");
    for (int i = 0; i < 6; i++) {
        TaskRef ref = claim_one(f, worker);
        CHECK(uuid_eq(ref.id, ids[i]));
        end_ok(f, ref);
    }
    return 0;
}

static void test_order_set_back(void **state)
{
    run(state, body_order_set_back);
}

/* Nor does it lose its lane the turns that long waits are given. */
static int body_aging_set_back(void *arg)
{
    Fixture *f = arg;
    TaskNew new = task_new("");
    int normal = 0;
    new.lane = LANE_CRITICAL;
    for (int i = 0; i < 20; i++) put_tenant(f, "a");
    real_now -= 3600000;
    CHECK_INT(queue_tick_wait(f->queue), 0);
    pass_ms(31000);
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    for (int i = 0; i < 20; i++) put(f, &new);
    for (int i = 0; i < 10; i++) {
        TaskRef ref = claim_one(f, worker);
        normal += get(f, ref.id).lane == LANE_NORMAL;
        end_ok(f, ref);
    }
    CHECK_INT(normal, 2);
    return 0;
}

static void test_aging_set_back(void **state)
{
    run(state, body_aging_set_back);
}

/* What a task takes is no more for a clock that is set. */
static int body_set_while_running(void *arg)
{
    Fixture *f = arg;
    QueueStats stats;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    const int64_t ms[] = { 86400000, -86400000, 3600000, 0 };
    for (size_t i = 0; i < ARRAY_N(ms); i++) {
        put_tenant(f, "a");
        TaskRef ref = claim_one(f, worker);
        pass_ms(500);
        real_now += ms[i];
        pass_ms(500);
        end_ok(f, ref);
    }
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.lane[LANE_NORMAL].ran, 4);
    CHECK_INT(stats.lane[LANE_NORMAL].ran_ms, 4000);
    return 0;
}

/* Nor has a task waited longer for it. */
static int body_set_while_waiting(void *arg)
{
    Fixture *f = arg;
    QueueStats stats;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    const int64_t ms[] = { 86400000, -86400000, 3600000 };
    for (size_t i = 0; i < ARRAY_N(ms); i++) {
        put_tenant(f, "a");
        pass_ms(500);
        real_now += ms[i];
        pass_ms(500);
        end_ok(f, claim_one(f, worker));
        queue_stats(f->queue, &stats);
        WaitsFigures waits = stats.lane[LANE_NORMAL].waits;
        CHECK(waits.p50_ms >= 841 && waits.p99_ms <= 1189);
    }
    CHECK_INT(stats.lane[LANE_NORMAL].late, 0);
    return 0;
}

static void test_set_while_waiting(void **state)
{
    run(state, body_set_while_waiting);
}

static void test_set_while_running(void **state)
{
    run(state, body_set_while_running);
}

/* More tenants than one look compares (LINES_MAX): each gets its turn. */
#define TENANTS 150
static int body_very_many_tenants(void *arg)
{
    Fixture *f = arg;
    TaskRef refs[100];
    char name[32];
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    for (int i = 0; i < TENANTS; i++) {
        snprintf(name, sizeof name, "tenant-%03d", i);
        put_tenant(f, name);
        put_tenant(f, name);
    }
    bool seen[TENANTS] = { false };
    int n = 0, served = 0;
    for (int looks = 0; n < 2 * TENANTS && looks < 100; looks++) {
        size_t got = claim_all(f, worker, refs);
        for (size_t i = 0; i < got; i++) {
            int64_t tenant = -1;
            Task task = get(f, refs[i].id);
            CHECK_INT(str_to_i64(str_skip(task.tenant_id, 7), &tenant), 0);
            served += !seen[tenant];
            seen[tenant] = true;
            end_ok(f, refs[i]);
        }
        n += (int)got;
        if (n == TENANTS) CHECK(served >= TENANTS * 2 / 3);
        arena_clear(&f->arena);
    }
    CHECK_INT(n, 2 * TENANTS);
    CHECK_INT(served, TENANTS);
    return 0;
}

static void test_very_many_tenants(void **state)
{
    run(state, body_very_many_tenants);
}

static void deploy_wait(Fixture *f, const char *agent, const char *version)
{
    const char *what[] = { agent, version };
    CHECK_INT(store_call_wait(f->store, deploy_job, what), 0);
}

/* More agents of one tenant than one look compares, and those that it reaches first always have
 * work: the others get their turn all the same. */
static int body_very_many_agents(void *arg)
{
    Fixture *f = arg;
    char name[32];
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    TaskNew new = task_new("");
    bool seen[TENANTS] = { false };
    int served = 0;
    for (int i = 0; i < TENANTS; i++) {
        char version[65];
        snprintf(name, sizeof name, "agent-%03d", i);
        snprintf(version, sizeof version, "%064d", i);
        deploy_wait(f, name, version);
        new.agent = str_of(name);
        put(f, &new);
    }
    for (int i = 0; i < TENANTS * 6 / 5; i++) {
        int64_t agent = -1;
        TaskRef ref = claim_one(f, worker);
        Task task = get(f, ref.id);
        CHECK_INT(str_to_i64(str_skip(task.agent, 6), &agent), 0);
        served += !seen[agent];
        seen[agent] = true;
        str_copy(name, sizeof name, task.agent);
        end_ok(f, ref);
        new.agent = str_of(name);
        put(f, &new); /* another one */
        arena_clear(&f->arena);
    }
    CHECK_INT(served, TENANTS);
    return 0;
}

static void test_very_many_agents(void **state)
{
    run(state, body_very_many_agents);
}

/* --- figures ---------------------------------------------------------------------------------- */

static int body_waits(void *arg)
{
    Fixture *f = arg;
    QueueStats stats;
    TaskRef refs[100];
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    submit(f, LANE_CRITICAL);
    pass_ms(3000);
    submit(f, LANE_CRITICAL);
    CHECK_INT(claim_all(f, worker, refs), 2);
    pass_ms(500);
    end_ok(f, refs[0]);
    end_ok(f, refs[1]);
    queue_stats(f->queue, &stats);
    QueueLaneStats *s = &stats.lane[LANE_CRITICAL];
    CHECK_INT(s->waits.n, 2);
    CHECK_INT(s->waits.late, 1);
    CHECK_INT(s->late, 1);
    CHECK(s->waits.p99_ms >= 3000 && s->waits.p99_ms < 3600);
    CHECK_INT(s->ran, 2);
    CHECK_INT(s->ran_ms, 1000);
    return 0;
}

static void test_waits(void **state)
{
    run(state, body_waits);
}

static void check_place(Fixture *f, Uuid id, PlaceKind kind, int64_t place, int64_t expected_ms)
{
    TaskPlace p = { 0 };
    Task task = get(f, id);
    CHECK_INT(queue_place_wait(f->queue, &task, &p), 0);
    CHECK(p.queued);
    CHECK_INT(p.kind, kind);
    CHECK_INT(p.place, place);
    CHECK_INT(p.expected_ms, expected_ms);
}

static int body_place(void *arg)
{
    Fixture *f = arg;
    TaskRef refs[100];
    TaskPlace p;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE), a[3], b, s[2];
    for (int i = 0; i < 3; i++) a[i] = put_tenant(f, "a");
    b = put_tenant(f, "b");
    check_place(f, a[2], PLACE_SLOT, 3, -1); /* nothing has started yet */
    check_place(f, b, PLACE_SLOT, 1, -1);
    TaskNew later = task_new("");
    later.run_at_ms = real_now + 5000;
    check_place(f, put(f, &later), PLACE_TIME, 0, 5000);
    for (int i = 0; i < 2; i++) s[i] = put_session(f, "s");
    check_place(f, s[1], PLACE_SESSION, 2, -1);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    refs[0] = claim_one(f, worker);
    pass_ms(1000);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    Task task = get(f, refs[0].id);
    CHECK_INT(queue_place_wait(f->queue, &task, &p), 0);
    CHECK(!p.queued);
    check_place(f, a[2], PLACE_SLOT, 2, -1); /* how long tasks take nobody knows */
    end_ok(f, refs[0]);                      /* 1 s; and one at a time */
    pass_ms(1);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    check_place(f, a[2], PLACE_SLOT, 2, 6000); /* three tenants take turns */
    check_place(f, b, PLACE_SLOT, 1, 3000);
    check_place(f, s[1], PLACE_SESSION, 2, 1000);
    return 0;
}

static void test_place(void **state)
{
    run(state, body_place);
}

static int body_figures(void *arg)
{
    Fixture *f = arg;
    QueueStats stats;
    TaskSummary summary;
    TaskNew new = task_new("");
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    for (int second = 0; second < 9; second++) {
        for (int i = 0; i < 2; i++) submit(f, LANE_NORMAL);
        TaskRef ref = claim_one(f, worker);
        pass_ms(1000);
        end_ok(f, ref);
        CHECK_INT(queue_tick_wait(f->queue), 0);
    }
    queue_stats(f->queue, &stats);
    QueueLaneStats *s = &stats.lane[LANE_NORMAL];
    CHECK(s->arrivals_per_s > 1.9 && s->arrivals_per_s < 2.1);
    CHECK(s->starts_per_s > 0.9 && s->starts_per_s < 1.1);
    CHECK_INT(s->service_ms, 1000);
    CHECK(s->slots_wanted > 2.8 && s->slots_wanted < 3.2); /* 2 / 0.7, and the backlog */
    CHECK_INT(s->queued, 9);
    submit(f, LANE_NORMAL);
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), QUEUE_E_FULL);
    CHECK_INT(queue_retry_after_s(f->queue, LANE_NORMAL), 1);
    new.lane = LANE_LOW;
    for (int i = 0; i < 10; i++) CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    CHECK_INT(queue_retry_after_s(f->queue, LANE_LOW), 60); /* nothing of it starts */
    CHECK_INT(queue_retry_after_s(f->queue, LANE_NORMAL), 1);
    return 0;
}

static int setup_small_lanes(void **state)
{
    int r = setup(state);
    Fixture *f = *state;
    close_queue(f);
    for (int lane = 0; lane < LANE_N_; lane++) f->options.queued_max[lane] = 10;
    open_queue(f);
    return r;
}

static void test_figures(void **state)
{
    run(state, body_figures);
}

/* What is to start later, or after others of its session, is no reason for workers now; what is due
 * is one, though nobody is there who would open its gate. */
static int body_slots_wanted(void *arg)
{
    Fixture *f = arg;
    QueueStats stats;
    TaskNew later = task_new("");
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    submit(f, LANE_NORMAL);
    TaskRef ref = claim_one(f, worker);
    pass_ms(5000);
    end_ok(f, ref); /* so long a task takes */
    pass_ms(2 * SCALING_DOWN_MS);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    pass_ms(1000);
    later.run_at_ms = real_now + 60000;
    for (int i = 0; i < 200; i++) put(f, &later);
    for (int i = 0; i < 200; i++) put_session(f, "s");
    CHECK_INT(queue_tick_wait(f->queue), 0);
    pass_ms(1000);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.lane[LANE_NORMAL].queued, 400);
    CHECK(stats.lane[LANE_NORMAL].slots_wanted < 2);
    pass_ms(60000);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    queue_stats(f->queue, &stats);
    CHECK(stats.lane[LANE_NORMAL].slots_wanted > 10);
    return 0;
}

static void test_slots_wanted(void **state)
{
    run(state, body_slots_wanted);
}

/* --- a full disk ------------------------------------------------------------------------------ */

/* Waits until the store has looked at its room again and finds it so. */
static void await_room(Fixture *f, bool low)
{
    while (store_room_low(f->store) != low) {
        (void)fiber_sleep_wait(10);
        CHECK_INT(queue_tick_wait(f->queue), 0);
    }
}

/* No new tasks, but those there are run to their ends, with results and logs. */
static int body_disk_reserve(void *arg)
{
    Fixture *f = arg;
    char *big = arena_alloc(&f->arena, 50000);
    memset(big, '1', 50000);
    TaskNew new = task_new("");
    new.input = str_make(big, 50000);
    TaskSummary summary;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    int64_t n = 0;
    int r;
    while ((r = queue_submit_wait(f->queue, &new, &summary)) == 0 && n < 1000) {
        n++;
        (void)fiber_sleep_wait(15); /* it looks ten times a second */
    }
    CHECK_INT(r, -ENOSPC);
    CHECK(n > 0 && n < 1000);
    Uuid last = { 0 };
    for (int64_t i = 0; i < n; i++) {
        TaskRef ref = claim_one(f, worker);
        TaskLogLine line = { .seq = 1, .at_ms = real_now, .text = STR("goes on") };
        CHECK_INT(queue_logs_append_wait(f->queue, ref, &line, 1, NULL), 0);
        end_ok(f, ref);
        last = ref.id;
    }
    check_counts(f, LANE_NORMAL, 0, 0);
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), -ENOSPC);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.refused_disk, 2);
    CHECK_INT(queue_retry_wait(f->queue, last, false), -ENOSPC);
    return 0;
}

static void test_disk_reserve(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->pages_max = 800;
    f->reserve_bytes = 400 * 4096;
    open_queue(f);
    run(state, body_disk_reserve);
}

static int body_disk_has_room(void *arg)
{
    Fixture *f = arg;
    await_room(f, false);
    submit(f, LANE_NORMAL);
    return 0;
}

static void test_disk_has_room(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->reserve_bytes = 4096;
    open_queue(f);
    run(state, body_disk_has_room);
}

/* --- at random -------------------------------------------------------------------------------- */

#define TASKS 60

typedef struct {
    Fixture *f;
    Random random;
    Uuid ids[TASKS];
    int session[TASKS], tenant[TASKS]; /* 0: none */
    size_t n;
    TaskRef running[TASKS];
    size_t running_n;
} Chaos;

static size_t index_of(const Chaos *c, Uuid id)
{
    size_t i = 0;
    while (i < c->n && !uuid_eq(c->ids[i], id)) i++;
    CHECK(i < c->n);
    return i;
}

static void chaos_put(Chaos *c)
{
    char session[8], tenant[8];
    TaskNew new = task_new("");
    int s = (int)random_range(&c->random, 0, 4), t = (int)random_range(&c->random, 0, 3);
    snprintf(session, sizeof session, "s%d", s);
    snprintf(tenant, sizeof tenant, "t%d", t);
    if (s > 0) new.session_id = str_of(session);
    if (t > 0) new.tenant_id = str_of(tenant);
    new.lane = (Lane)random_range(&c->random, 0, LANE_N_ - 1);
    c->session[c->n] = s;
    c->tenant[c->n] = t;
    c->ids[c->n++] = put(c->f, &new);
}

/* Of all tasks before it in its session none is left, and no limit is passed. */
static void chaos_check(Chaos *c, Uuid id)
{
    size_t at = index_of(c, id);
    for (size_t i = 0; i < at && c->session[at] > 0; i++)
        if (c->session[i] == c->session[at] && c->tenant[i] == c->tenant[at])
            CHECK(task_state_ended(get(c->f, c->ids[i]).state));
    int64_t of_tenant = 0;
    for (size_t i = 0; i < c->running_n; i++)
        of_tenant += c->tenant[index_of(c, c->running[i].id)] == c->tenant[at];
    CHECK(c->tenant[at] == 0 || of_tenant <= 2);
    CHECK(c->running_n <= 5);
}

static void chaos_claim(Chaos *c, Uuid worker)
{
    Task *tasks = NULL;
    LaneConfig slots = { .reserved = { 1, 1, 1 }, .shared = 2 };
    Claim claim = { .worker_id = worker, .slots = slots };
    size_t n = 0;
    for (size_t i = 0; i < c->running_n; i++) claim.use.running[get(c->f, c->running[i].id).lane]++;
    if (c->running_n == 5) return;
    if (queue_claim_wait(c->f->queue, &claim, clock_mono_ms(), &c->f->arena, &tasks, &n) != 0)
        return;
    for (size_t i = 0; i < n; i++) {
        c->running[c->running_n++] = (TaskRef){ tasks[i].id, tasks[i].fence };
        chaos_check(c, tasks[i].id);
    }
}

static void chaos_end(Chaos *c)
{
    static const TaskOutcome outcomes[] = { TASK_OUTCOME_SUCCEEDED, TASK_OUTCOME_FAILED_RETRYABLE,
                                            TASK_OUTCOME_FAILED_FINAL, TASK_OUTCOME_RELEASED };
    if (c->running_n == 0) return;
    size_t i = (size_t)random_range(&c->random, 0, (int64_t)c->running_n - 1);
    TaskOutcome outcome = outcomes[random_range(&c->random, 0, ARRAY_N(outcomes) - 1)];
    CHECK_INT(finish(c->f, c->running[i], outcome, NULL), 0);
    c->running[i] = c->running[--c->running_n];
}

static void chaos_cancel(Chaos *c)
{
    TaskState state;
    if (c->n == 0) return;
    Uuid id = c->ids[random_range(&c->random, 0, (int64_t)c->n - 1)];
    if (get(c->f, id).state == TASK_QUEUED)
        CHECK_INT(queue_cancel_wait(c->f->queue, id, STR("user"), &state), 0);
}

static int body_chaos(void *arg)
{
    Fixture *f = arg;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        Chaos c = { .f = f, .random = { seed } };
        Uuid worker = add_worker(f, (int)seed, WORKER_REMOTE);
        for (int step = 0; c.n < TASKS; step++) {
            int64_t what = random_range(&c.random, 0, 9);
            if (what < 4) chaos_put(&c);
            else if (what < 6) chaos_claim(&c, worker);
            else if (what < 9) chaos_end(&c);
            else chaos_cancel(&c);
            pass_ms(random_range(&c.random, 0, 2000));
        }
        for (int step = 0; step < 5000; step++) { /* all of them come to their end */
            chaos_claim(&c, worker);
            if (c.running_n == 0) pass_ms(RETRY_POLICY_DEFAULT.max_ms);
            while (c.running_n > 0) chaos_end(&c);
            QueueStats stats;
            queue_stats(f->queue, &stats);
            int64_t left = 0;
            for (int lane = 0; lane < LANE_N_; lane++) left += stats.lane[lane].queued;
            if (left == 0) break;
        }
        for (size_t i = 0; i < c.n; i++)
            if (!task_state_ended(get(f, c.ids[i]).state)) {
                fprintf(stderr, "seed %" PRIu64 ": task %zu never ran\n", seed, i);
                CHECK(false);
            }
        CHECK_INT(queue_leave_wait(f->queue, worker), 0);
        arena_clear(&f->arena);
    }
    return 0;
}

static void test_chaos(void **state)
{
    run(state, body_chaos);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_TENANTS(name) cmocka_unit_test_setup_teardown(name, setup_tenant_limit, teardown)

/* A long line is read some at a time and started together; what a rollback has stopped is ended
 * where it stands, and nobody loses his place. */
static int stop_some(Db *db, void *arg)
{
    (void)arg;
    return db_run(db_stmt(db, "UPDATE task SET cancel_requested = 1 WHERE seq IN (1, 2, 11, 30,"
                              " 31, 100)"),
                  NULL);
}

static int body_long_line(void *arg)
{
    enum { N = 120, STOPPED = 6, FREE = 100 };
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE);
    Task *tasks = NULL;
    int64_t last = 0, fence = 0;
    for (int i = 0; i < N; i++) submit(f, LANE_NORMAL);
    CHECK_INT(store_call_wait(f->store, stop_some, NULL), 0);
    CHECK_INT(claim(f, worker, (LaneConfig){ .shared = FREE }, &tasks), FREE);
    for (int i = 0; i < FREE; i++) {
        CHECK(tasks[i].seq > last && tasks[i].seq <= FREE + STOPPED);
        CHECK(tasks[i].fence > fence && tasks[i].attempt == 1);
        last = tasks[i].seq;
        fence = tasks[i].fence;
        Task task = get(f, tasks[i].id);
        CHECK_INT(task.state, TASK_RUNNING);
        CHECK_INT(task.fence, fence);
        CHECK_INT(task.started_at_ms, real_now);
        CHECK(uuid_eq(task.worker_id, worker));
    }
    check_counts(f, LANE_NORMAL, N - FREE - STOPPED, FREE);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.lane[LANE_NORMAL].ended[TASK_CANCELED], STOPPED);
    CHECK_INT(claim(f, worker, (LaneConfig){ .shared = FREE }, &tasks), N - FREE - STOPPED);
    return 0;
}

static void test_long_line(void **state)
{
    run(state, body_long_line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_session_in_order),
        TEST(test_session_retry),
        TEST(test_session_cancel),
        TEST(test_session_later),
        TEST(test_session_others),
        TEST(test_session_told_otherwise),
        TEST(test_agent_limit),
        TEST(test_limit_wakes),
        TEST_TENANTS(test_tenant_limit),
        TEST(test_long_line),
        TEST(test_one_floods),
        TEST(test_set_back),
        TEST(test_order_set_back),
        TEST(test_aging_set_back),
        TEST(test_set_while_running),
        TEST(test_set_while_waiting),
        TEST(test_very_many_tenants),
        TEST(test_very_many_agents),
        TEST(test_waits),
        TEST(test_place),
        TEST(test_disk_reserve),
        TEST(test_disk_has_room),
        cmocka_unit_test_setup_teardown(test_figures, setup_small_lanes, teardown),
        TEST(test_slots_wanted),
        TEST_TENANTS(test_chaos),
    };
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    return cmocka_run_group_tests_name("queue_lanes", tests, NULL, NULL);
}
