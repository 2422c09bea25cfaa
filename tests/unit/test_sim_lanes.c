/* Lanes, lines, limits and sessions among random tasks, in virtual time: nobody starves, reserved
 * slots are kept, limits hold, sessions keep their order, tenants get their part.
 * usage: test_sim_lanes [SEED] replays one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "logic/lane.h"
#include "logic/line.h"
#include "random.h"

/* Most runs are short: a fault that needs many of one kind shows in few of them too. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RUNS 2000
#else
#define RUNS 20000
#endif
#define PAIRS 60
#define TASKS_MAX 4000
#define TENANTS_MAX 6
#define AGENTS_MAX 3
#define SESSIONS_MAX 4
#define LINES_MAX (TENANTS_MAX * AGENTS_MAX)
#define AGING_MS 20000

static uint64_t seed_first = 1, seed_n = RUNS;

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "seed %" PRIu64 ", at %" PRId64 ": failed: %s (line %d)\n", run->seed, \
                    run->now_ms, #condition, __LINE__);                                            \
            fail();                                                                                \
        }                                                                                          \
    } while (0)

typedef enum { COMING, HELD, READY, RUNNING, ENDED } TaskStage;

typedef struct {
    TaskStage stage;
    Lane lane;
    int tenant, agent, session; /* session -1: none */
    int64_t comes_ms, takes_ms, ready_ms, starts_ms, ends_ms;
} SimTask;

typedef struct {
    uint64_t seed;
    Random random;
    int64_t now_ms;
    LaneConfig config;
    LaneUse use;
    LaneTurns turns;
    int64_t tenant_most, agent_most[AGENTS_MAX], session_most; /* limits; 0: none */
    SimTask *tasks;                                            /* in order of acceptance */
    size_t n, first;                                           /* those before first have ended */
    Fair fair[LANE_N_];
    FairCosts costs[LANE_N_];
} Run;

static int64_t count(const Run *run, TaskStage stage, int tenant, int agent)
{
    int64_t n = 0;
    for (size_t i = run->first; i < run->n; i++) {
        const SimTask *t = &run->tasks[i];
        n += t->stage == stage && (tenant < 0 || t->tenant == tenant) &&
             (agent < 0 || t->agent == agent);
    }
    return n;
}

static bool same_session(const SimTask *a, const SimTask *b)
{
    return a->session >= 0 && a->session == b->session && a->agent == b->agent &&
           a->tenant == b->tenant;
}

/* Those of its session that stand in line or run. */
static int64_t session_admitted(const Run *run, const SimTask *task)
{
    int64_t n = 0;
    for (size_t i = run->first; i < run->n; i++) {
        const SimTask *t = &run->tasks[i];
        n += (t->stage == READY || t->stage == RUNNING) && same_session(t, task);
    }
    return n;
}

/* --- what happens ----------------------------------------------------------------------------- */

static void admit(Run *run, SimTask *task)
{
    bool enters = task->session < 0 || line_admits(session_admitted(run, task), run->session_most);
    task->stage = enters ? READY : HELD;
    task->ready_ms = run->now_ms;
}

static void release(Run *run, const SimTask *ended)
{
    for (size_t i = run->first; i < run->n; i++) {
        SimTask *t = &run->tasks[i];
        if (t->stage != HELD || !same_session(t, ended)) continue;
        if (line_admits(session_admitted(run, t), run->session_most)) admit(run, t);
        return;
    }
}

static void key_of(const SimTask *t, uint64_t *ret_tenant, uint64_t *ret_kind)
{
    char tenant = (char)('a' + t->tenant), agent = (char)('A' + t->agent);
    *ret_tenant = fair_key(str_make(&tenant, 1));
    *ret_kind = fair_key_pair(str_make(&tenant, 1), str_make(&agent, 1));
}

static void end_tasks(Run *run)
{
    for (size_t i = run->first; i < run->n; i++) {
        SimTask *t = &run->tasks[i];
        uint64_t tenant, kind;
        if (t->stage != RUNNING || t->ends_ms > run->now_ms) continue;
        t->stage = ENDED;
        run->use.running[t->lane]--;
        key_of(t, &tenant, &kind);
        fair_cost_seen(&run->costs[t->lane], kind, t->takes_ms, run->now_ms);
        if (t->session >= 0) release(run, t);
    }
    while (run->first < run->n && run->tasks[run->first].stage == ENDED) run->first++;
}

static void bring_tasks(Run *run)
{
    for (size_t i = run->first; i < run->n; i++)
        if (run->tasks[i].stage == COMING && run->tasks[i].comes_ms <= run->now_ms)
            admit(run, &run->tasks[i]);
}

/* --- starting --------------------------------------------------------------------------------- */

/* The lines of a lane, closed where a limit is reached. */
static size_t lines_of(const Run *run, Lane lane, Line lines[LINES_MAX])
{
    size_t n = 0, at[TENANTS_MAX][AGENTS_MAX] = { 0 };
    for (size_t i = run->first; i < run->n; i++) {
        const SimTask *t = &run->tasks[i];
        if (t->stage != READY || t->lane != lane) continue;
        size_t *place = &at[t->tenant][t->agent];
        if (*place != 0) {
            Line *line = &lines[*place - 1];
            if (line->ready_at_ms > t->ready_ms) {
                line->ready_at_ms = t->ready_ms;
                line->seq = (int64_t)i;
            }
            continue;
        }
        *place = n + 1;
        Line *line = &lines[n++];
        *line = (Line){ .ready_at_ms = t->ready_ms, .seq = (int64_t)i };
        key_of(t, &line->tenant, &line->kind);
        line->used_ms = fair_used(&run->fair[lane], line->tenant, run->now_ms);
        line->closed = !line_admits(count(run, RUNNING, t->tenant, -1), run->tenant_most) ||
                       !line_admits(count(run, RUNNING, -1, t->agent), run->agent_most[t->agent]);
    }
    return n;
}

static void check_started(const Run *run, const SimTask *task)
{
    for (size_t i = 0; i < run->n && run->session_most == 1; i++) {
        const SimTask *t = &run->tasks[i];
        if (t == task) break;
        if (same_session(t, task)) MUST(t->stage == ENDED); /* accepted before it */
    }
    MUST(line_admits(count(run, RUNNING, task->tenant, -1) - 1, run->tenant_most));
    MUST(line_admits(count(run, RUNNING, -1, task->agent) - 1, run->agent_most[task->agent]));
    MUST(lane_shared_used(&run->config, &run->use) <= run->config.shared);
    if (task->session >= 0) MUST(line_admits(session_admitted(run, task) - 1, run->session_most));
}

/* One task; false: none fits. */
static bool start_one(Run *run)
{
    Line lines[LANE_N_][LINES_MAX];
    size_t n[LANE_N_];
    LaneHead heads[LANE_N_];
    for (int lane = 0; lane < LANE_N_; lane++) {
        n[lane] = lines_of(run, (Lane)lane, lines[lane]);
        heads[lane].waited_ms = lines_waited_ms(lines[lane], n[lane], run->now_ms);
        heads[lane].ready = heads[lane].waited_ms >= 0;
    }
    Lane lane = lane_next(&run->config, &run->use, heads, AGING_MS, &run->turns);
    if (lane == LANE_N_) {
        for (int i = 0; i < LANE_N_; i++)
            if (heads[i].ready) MUST(lane_free(&run->config, &run->use, (Lane)i) == 0);
        return false;
    }
    size_t at = line_next(lines[lane], n[lane]);
    MUST(at < n[lane]);
    SimTask *task = &run->tasks[lines[lane][at].seq];
    lane_started(&run->config, &run->use, heads, lane, &run->turns);
    double cost_ms = fair_cost(&run->costs[lane], lines[lane][at].kind);
    line_started(lines[lane], n[lane], at, &run->fair[lane], cost_ms, run->now_ms);
    task->stage = RUNNING;
    task->starts_ms = run->now_ms;
    task->ends_ms = run->now_ms + task->takes_ms;
    run->use.running[lane]++;
    check_started(run, task);
    return true;
}

static int64_t next_ms(const Run *run)
{
    int64_t at_ms = INT64_MAX;
    for (size_t i = run->first; i < run->n; i++) {
        const SimTask *t = &run->tasks[i];
        if (t->stage == COMING) at_ms = MIN(at_ms, t->comes_ms);
        if (t->stage == RUNNING) at_ms = MIN(at_ms, t->ends_ms);
    }
    return at_ms;
}

/* To the end: that there is one means that every task was started. */
static void run_all(Run *run)
{
    while (run->first < run->n) {
        int64_t at_ms = next_ms(run);
        MUST(at_ms != INT64_MAX && at_ms >= run->now_ms);
        run->now_ms = at_ms;
        end_tasks(run);
        bring_tasks(run);
        while (start_one(run)) {
        }
    }
}

/* --- random tasks ----------------------------------------------------------------------------- */

static void random_task(Run *run, SimTask *t)
{
    Random *r = &run->random;
    int64_t longest_ms = random_range(r, 0, 9) ? 5000 : 60000;
    *t = (SimTask){ .lane = (Lane)random_range(r, 0, LANE_N_ - 1),
                    .tenant = (int)random_range(r, 0, TENANTS_MAX - 1),
                    .agent = (int)random_range(r, 0, AGENTS_MAX - 1),
                    .session = (int)random_range(r, -SESSIONS_MAX, SESSIONS_MAX - 1),
                    .comes_ms = random_range(r, 0, 60000),
                    .takes_ms = random_range(r, 0, longest_ms) };
    t->session = MAX(t->session, -1);
}

static int by_arrival(const void *a, const void *b)
{
    int64_t x = ((const SimTask *)a)->comes_ms, y = ((const SimTask *)b)->comes_ms;
    return (x > y) - (x < y);
}

static void random_limits(Run *run)
{
    Random *r = &run->random;
    do {
        run->config.shared = random_range(r, 0, 6);
        for (int i = 0; i < LANE_N_; i++) run->config.reserved[i] = random_range(r, 0, 3);
    } while (!lane_config_ok(&run->config));
    run->tenant_most = random_range(r, 0, 3);
    run->session_most = random_range(r, 0, 3) ? 1 : random_range(r, 0, 3);
    for (int i = 0; i < AGENTS_MAX; i++) run->agent_most[i] = random_range(r, 0, 3);
}

static void run_seed(uint64_t seed, Run *run, SimTask *tasks)
{
    *run = (Run){ .seed = seed, .random = { seed }, .tasks = tasks };
    random_limits(run);
    run->n = (size_t)random_range(&run->random, 1, random_range(&run->random, 0, 9) ? 25 : 80);
    for (size_t i = 0; i < run->n; i++) random_task(run, &tasks[i]);
    qsort(tasks, run->n, sizeof *tasks, by_arrival);
    run_all(run);
    for (int i = 0; i < LANE_N_; i++) MUST(run->use.running[i] == 0);
}

static void test_runs(void **state)
{
    (void)state;
    Run *run = calloc(1, sizeof *run);
    SimTask *tasks = calloc(TASKS_MAX, sizeof *tasks);
    for (uint64_t seed = seed_first; seed < seed_first + seed_n; seed++) run_seed(seed, run, tasks);
    print_message("%d seeds\n", (int)seed_n);
    free(tasks);
    free(run);
}

/* --- waits ------------------------------------------------------------------------------------ */

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* The 99th percentile of what tasks of a tenant (-1: any) in a lane waited. */
static int64_t p99_ms(const Run *run, Lane lane, int tenant)
{
    int64_t *waits = calloc(run->n, sizeof *waits);
    size_t n = 0;
    for (size_t i = 0; i < run->n; i++) {
        const SimTask *t = &run->tasks[i];
        if (t->lane == lane && (tenant < 0 || t->tenant == tenant))
            waits[n++] = t->starts_ms - t->comes_ms;
    }
    qsort(waits, n, sizeof *waits, by_size);
    int64_t p99 = n == 0 ? 0 : waits[(n * 99 + 99) / 100 - 1];
    free(waits);
    return p99;
}

static void begin(Run *run, uint64_t seed, SimTask *tasks)
{
    *run = (Run){ .seed = seed, .random = { seed }, .tasks = tasks };
    run->config.shared = random_range(&run->random, 2, 6);
}

static void add(Run *run, Lane lane, int tenant, int64_t comes_ms, int64_t takes_ms)
{
    assert_true(run->n < TASKS_MAX);
    run->tasks[run->n++] = (SimTask){
        .lane = lane, .tenant = tenant, .session = -1, .comes_ms = comes_ms, .takes_ms = takes_ms
    };
}

/* One tenant sends bursts, now and then, that take the slots several times over. */
static void add_bursts(Run *run, int64_t takes_ms)
{
    Random *r = &run->random;
    for (int64_t k = 0, at_ms = 60000; k < 3; k++, at_ms += 30 * takes_ms)
        for (int64_t i = random_range(r, 3, 5) * run->config.shared; i > 0; i--)
            add(run, LANE_NORMAL, 1, at_ms, takes_ms - random_range(r, 0, takes_ms / 10));
}

/* Its waits alone, and while another floods the lane: at most twice as long. */
static void run_pair(uint64_t seed, Run *run, SimTask *tasks)
{
    begin(run, seed, tasks);
    int64_t takes_ms = random_range(&run->random, 1000, 3000);
    Random again = run->random;
    add_bursts(run, takes_ms);
    run_all(run);
    int64_t quiet_ms = p99_ms(run, LANE_NORMAL, 1);
    begin(run, seed, tasks);
    run->random = again;
    add_bursts(run, takes_ms);
    int64_t span_ms = 60000 + 90 * takes_ms;
    int64_t flood = run->config.shared * span_ms / takes_ms * 3 / 2;
    for (int64_t i = 0; i < flood; i++) add(run, LANE_NORMAL, 0, i * span_ms / flood, takes_ms);
    qsort(run->tasks, run->n, sizeof *run->tasks, by_arrival);
    run_all(run);
    int64_t flooded_ms = p99_ms(run, LANE_NORMAL, 1);
    if (flooded_ms > 2 * quiet_ms)
        fprintf(stderr, "quiet %" PRId64 " ms, flooded %" PRId64 " ms\n", quiet_ms, flooded_ms);
    MUST(flooded_ms <= 2 * quiet_ms);
}

static void test_one_floods_another_does_not_wait(void **state)
{
    (void)state;
    Run *run = calloc(1, sizeof *run);
    SimTask *tasks = calloc(TASKS_MAX, sizeof *tasks);
    uint64_t n = MIN(seed_n, PAIRS);
    for (uint64_t seed = seed_first; seed < seed_first + n; seed++) run_pair(seed, run, tasks);
    free(tasks);
    free(run);
}

/* Tenants that always have work get equal time, however long the tasks of each are. */
static void run_parts(uint64_t seed, Run *run, SimTask *tasks)
{
    begin(run, seed, tasks);
    int tenants = (int)random_range(&run->random, 2, TENANTS_MAX);
    int64_t used_ms[TENANTS_MAX] = { 0 }, horizon_ms = 240000;
    for (int tenant = 0; tenant < tenants; tenant++) {
        int64_t takes_ms = random_range(&run->random, 1000, 10000);
        int64_t n = horizon_ms * run->config.shared / takes_ms / tenants * 2;
        for (int64_t i = 0; i < MAX(n, 60) && run->n < TASKS_MAX; i++)
            add(run, LANE_LOW, tenant, 0, takes_ms);
    }
    while (run->now_ms < horizon_ms && count(run, READY, -1, -1) >= 0) {
        end_tasks(run);
        bring_tasks(run);
        while (start_one(run)) {
        }
        for (int tenant = 0; tenant < tenants; tenant++)
            if (count(run, READY, tenant, -1) == 0) horizon_ms = 0; /* one has no more */
        run->now_ms = next_ms(run);
    }
    for (size_t i = 0; i < run->n; i++)
        if (run->tasks[i].starts_ms > 0 || run->tasks[i].stage >= RUNNING)
            used_ms[run->tasks[i].tenant] += run->tasks[i].takes_ms;
    int64_t least = INT64_MAX, most = 0;
    for (int i = 0; i < tenants; i++) {
        least = MIN(least, used_ms[i]);
        most = MAX(most, used_ms[i]);
    }
    if (run->now_ms < 120000) return; /* too short to tell */
    MUST(most <= 2 * least);
}

static void test_equal_parts(void **state)
{
    (void)state;
    Run *run = calloc(1, sizeof *run);
    SimTask *tasks = calloc(TASKS_MAX, sizeof *tasks);
    uint64_t n = MIN(seed_n, PAIRS);
    for (uint64_t seed = seed_first; seed < seed_first + n; seed++) run_parts(seed, run, tasks);
    free(tasks);
    free(run);
}

/* A mass of low tasks arrives: critical and normal ones wait no longer than their slots demand, and
 * low goes on at the rate of its own slot. */
static void run_mass(uint64_t seed, Run *run, SimTask *tasks)
{
    begin(run, seed, tasks);
    run->config = (LaneConfig){ .reserved = { 2, 2, 1 }, .shared = 3 };
    for (int i = 0; i < 600; i++) add(run, LANE_LOW, 0, 0, random_range(&run->random, 900, 1100));
    for (int64_t at_ms = 1000; at_ms < 60000; at_ms += 1000) {
        add(run, LANE_CRITICAL, 1, at_ms, 500);
        add(run, LANE_NORMAL, 1, at_ms, random_range(&run->random, 500, 900));
    }
    qsort(run->tasks, run->n, sizeof *run->tasks, by_arrival);
    run_all(run);
    MUST(p99_ms(run, LANE_CRITICAL, -1) <= 1000);
    MUST(p99_ms(run, LANE_NORMAL, -1) <= 1000);
    int64_t low = 0;
    for (size_t i = 0; i < run->n; i++)
        low += run->tasks[i].lane == LANE_LOW && run->tasks[i].ends_ms <= 60000;
    MUST(low >= 60000 / 1100);
}

static void test_a_mass_of_low_tasks(void **state)
{
    (void)state;
    Run *run = calloc(1, sizeof *run);
    SimTask *tasks = calloc(TASKS_MAX, sizeof *tasks);
    uint64_t n = MIN(seed_n, 50);
    for (uint64_t seed = seed_first; seed < seed_first + n; seed++) run_mass(seed, run, tasks);
    free(tasks);
    free(run);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_one_floods_another_does_not_wait),
        cmocka_unit_test(test_equal_parts),
        cmocka_unit_test(test_a_mass_of_low_tasks),
    };
    if (argc > 1) {
        seed_first = strtoull(argv[1], NULL, 10);
        seed_n = 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
