/* What rollouts cost a server that has seen much: CPU of routing a new task, and of the
 * controller's tick, with 1, 10 and 100 rollouts under way; beside 20,000 tasks that have ended,
 * more of each version than a tick looks at, and beside a million and the units of rollouts that
 * are over. Prints microseconds; exits 1 when history makes either twice as slow, or a rollout
 * dearer because there are others.
 *
 *   bench_rollout_cost [TASKS] */
#include "tests/unit/queue_fixture.h"

#include <stdio.h>
#include <time.h>

#include "rollout/control.h"
#include "rollout/serving.h"

#define AGENTS 100
#define CHUNK 20000 /* of tasks that have ended; so many are there at first */
#define SUBMITS 2000
#define AT_A_TIME 50
#define TICKS 20

static int64_t tasks_wanted = 1000000;
static int sessions; /* new ones all the time */

static int64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int compare_f64(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* What it takes when nothing else disturbs it much. */
static double quartile(double *values, size_t n)
{
    qsort(values, n, sizeof(*values), compare_f64);
    return values[n / 4];
}

/* --- what there is ---------------------------------------------------------------------------- */

static void names_of(int agent, char *name, char *stable, char *canary)
{
    snprintf(name, 16, "a%d", agent);
    snprintf(stable, VERSION_ID_LEN + 1, "%064x", (unsigned)(2 * agent + 16));
    snprintf(canary, VERSION_ID_LEN + 1, "%064x", (unsigned)(2 * agent + 17));
}

static int agents_job(Db *db, void *arg)
{
    (void)arg;
    int r = 0;
    for (int i = 0; r == 0 && i < AGENTS; i++) {
        char name[16], ids[2][VERSION_ID_LEN + 1];
        names_of(i, name, ids[0], ids[1]);
        r = agent_ensure(db, str_of(name), 1);
        for (int v = 0; r == 0 && v < 2; v++) {
            Version version = { .id = str_of(ids[v]),
                                .agent = str_of(name),
                                .components = STR("{}"),
                                .manifest = STR("{}") };
            r = version_insert(db, &version);
        }
        if (r == 0) r = routing_set(db, str_of(name), str_of(ids[0]), 1);
        if (r == 0) r = serving_moved(db, str_of(name), 1);
    }
    return r;
}

typedef struct {
    int64_t from, n;
} Fill;

/* Tasks that have ended, of all agents, and units of rollouts that are over. */
static int fill_job(Db *db, void *arg)
{
    const Fill *fill = arg;
    static const char *const sql[] = {
        "WITH RECURSIVE c(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM c WHERE i + 1 < ?2)"
        " INSERT INTO task (id, state, lane, created_at_ms, ready_at_ms, started_at_ms,"
        " finished_at_ms, attempt, input_tokens, output_tokens, llm_calls, tool_calls, cost_nusd,"
        " agent, version_id, session_id, rollout_seq) SELECT randomblob(16), 2, 1, i, i, i, i + 40, 1,"
        " 900, 100, 3, 2, 4215000, 'a' || (i % 100), printf('%064x', 2 * (i % 100) + 16),"
        " 's' || i, NULL FROM c",
        "WITH RECURSIVE c(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM c WHERE i + 1 < ?2)"
        " INSERT INTO rollout_unit (rollout_seq, kind, unit, arm, counts, eligible_ms, task_seq, pi)"
        " SELECT 1000000 + i % 1000, 0, 's' || i, 0, 1, i, i, 0.5 FROM c WHERE i % 4 = 0",
    };
    for (size_t i = 0; i < ARRAY_N(sql); i++) {
        DbStmt *s = db_stmt(db, sql[i]);
        db_bind_i64(s, 1, fill->from);
        db_bind_i64(s, 2, fill->from + fill->n);
        int r = db_run(s, NULL);
        if (r != 0) return r;
    }
    return 0;
}

typedef struct {
    int from, to;
    bool end; /* they are ended, not begun */
} Begin;

static int begin_one(Db *db, int agent, Arena *arena)
{
    RolloutRow row;
    unsigned actions;
    char name[16], stable[VERSION_ID_LEN + 1], canary[VERSION_ID_LEN + 1], id[UUID_TEXT_MAX];
    names_of(agent, name, stable, canary);
    snprintf(id, sizeof(id), "%08x-0000-7000-8000-%012x", (unsigned)sessions, (unsigned)agent);
    ControlStart start = { .id = str_of(id),
                           .agent = str_of(name),
                           .version_id = str_of(canary),
                           .block = STR(
                               "{\"steps\":[{\"weight\":5,\"for\":\"9h\"},{\"weight\":100}],"
                               "\"rollbackOn\":{\"errorRate\":0.01,\"costPerTask\":0.2}}"),
                           .settings = STR("{}"),
                           .now_ms = real_now };
    int r = control_start(db, &start, arena, &row, &actions);
    if (r != 0) return r;
    ControlChecked checked = { .passed = true, .checks = STR("[]"), .now_ms = real_now };
    return control_checked(db, start.id, &checked, arena, &row);
}

static int begin_job(Db *db, void *arg)
{
    const Begin *begin = arg;
    int r = 0;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, 4 << 20);
    for (int i = begin->from; r == 0 && i < begin->to; i++) {
        char name[16], stable[VERSION_ID_LEN + 1], canary[VERSION_ID_LEN + 1];
        unsigned actions;
        names_of(i, name, stable, canary);
        arena_clear(&arena);
        if (begin->end)
            r = control_end(db, str_of(name), COMMAND_ABORT, STR_NULL, real_now, &actions);
        else r = begin_one(db, i, &arena);
    }
    return r;
}

/* --- measuring -------------------------------------------------------------------------------- */

static int submit_fiber(void *arg)
{
    Fixture *f = arg;
    char name[16], session[32];
    TaskSummary summary = { 0 };
    int i = sessions++;
    snprintf(name, sizeof(name), "a%d", i % AGENTS);
    int n = snprintf(session, sizeof(session), "new-%d", i);
    TaskNew new = { .agent = str_of(name),
                    .lane = LANE_NORMAL,
                    .input = STR("1"),
                    .session_id = str_make(session, (size_t)n) };
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    return 0;
}

/* Of a task, with all that goes with its submission. */
static double submit_us(Fixture *f)
{
    double us[SUBMITS / AT_A_TIME];
    for (size_t batch = 0; batch < ARRAY_N(us); batch++) {
        FiberRef refs[AT_A_TIME];
        int64_t before = cpu_ns();
        for (int i = 0; i < AT_A_TIME; i++)
            CHECK_INT(fiber_spawn("submit", submit_fiber, f, &refs[i]), 0);
        for (int i = 0; i < AT_A_TIME; i++) CHECK_INT(fiber_join_wait(refs[i], NULL), 0);
        us[batch] = (double)(cpu_ns() - before) / 1000 / AT_A_TIME;
    }
    return quartile(us, ARRAY_N(us));
}

/* Of all rollouts, which have nothing new to learn. */
static double tick_us(Fixture *f, int64_t rollouts)
{
    double us[TICKS];
    for (size_t i = 0; i < ARRAY_N(us); i++) {
        ControlTickAll done;
        real_now += 1000;
        int64_t before = cpu_ns();
        CHECK_INT(control_tick_all_wait(f->queue, real_now, &done), 0);
        us[i] = (double)(cpu_ns() - before) / 1000;
        CHECK_INT(done.ticked, rollouts);
    }
    return quartile(us, ARRAY_N(us));
}

static struct {
    double submit_us[2], tick_us[2][3]; /* without history, and with it */
} found;

static void measure(Fixture *f, int history)
{
    static const int counts[] = { 1, 10, 100 };
    int begun = 0;
    for (size_t i = 0; i < ARRAY_N(counts); i++) {
        Begin begin = { .from = begun, .to = counts[i] };
        CHECK_INT(store_call_wait(f->store, begin_job, &begin), 0);
        begun = counts[i];
        found.tick_us[history][i] = tick_us(f, begun);
    }
    found.submit_us[history] = submit_us(f);
    Begin end = { .to = begun, .end = true };
    CHECK_INT(store_call_wait(f->store, begin_job, &end), 0);
    printf("%9d ended tasks: routing and queueing one %.1f us; a tick of 1, 10, 100 rollouts %.0f, "
           "%.0f, %.0f us of CPU\n",
           history ? (int)tasks_wanted : CHUNK, found.submit_us[history], found.tick_us[history][0],
           found.tick_us[history][1], found.tick_us[history][2]);
}

static int measure_all(void *arg)
{
    Fixture *f = arg;
    Fill fill = { .n = CHUNK };
    CHECK_INT(store_call_wait(f->store, agents_job, NULL), 0);
    CHECK_INT(store_call_wait(f->store, fill_job, &fill), 0);
    measure(f, 0);
    for (fill.from = CHUNK; fill.from < tasks_wanted; fill.from += CHUNK)
        CHECK_INT(store_call_wait(f->store, fill_job, &fill), 0);
    measure(f, 1);
    return 0;
}

int main(int argc, char **argv)
{
    void *state = NULL;
    if (argc > 1) tasks_wanted = strtoll(argv[1], NULL, 10);
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    setup(&state);
    run(&state, measure_all);
    teardown(&state);
    bool ok = found.submit_us[1] <= 2 * found.submit_us[0];
    for (int i = 0; i < 3; i++) ok &= found.tick_us[1][i] <= 2 * found.tick_us[0][i];
    ok &= found.tick_us[1][2] <= 20 * found.tick_us[1][1];
    printf("%s\n", ok ? "ok" : "FAILED: history, or other rollouts, make it slower");
    return !ok;
}
