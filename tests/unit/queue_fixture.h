/* A queue on a store of its own, with a clock that stands still; and shorthands for fibers. */
#ifndef GANTRY_TESTS_QUEUE_FIXTURE_H
#define GANTRY_TESTS_QUEUE_FIXTURE_H

#include "tests/unit/sys_harness.h"

#include "base/diag.h"
#include "base/log.h"
#include "queue/queue.h"
#include "sys/clock.h"
#include "tests/unit/check.h"
#include "tests/unit/temp_dir.h"

#define VERSION_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define VERSION_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

/* The tests' own time; both clocks stand still unless moved. */
static _Atomic int64_t real_now, mono_now;

static inline int64_t fake_real_ms(void *ctx)
{
    (void)ctx;
    return real_now;
}

static inline int64_t fake_mono_ms(void *ctx)
{
    (void)ctx;
    return mono_now;
}

static const QueueClock fake_clock = { fake_real_ms, fake_mono_ms, NULL };

static inline void pass_ms(int64_t ms)
{
    real_now += ms;
    mono_now += ms;
}

typedef struct {
    TempDir dir;
    Store *store;
    Queue *queue;
    QueueOptions options;
    int64_t pages_max, reserve_bytes;
    Arena arena;
} Fixture;

static inline int deploy_job(Db *db, void *arg)
{
    const char *const *what = arg; /* agent, version */
    int r = agent_ensure(db, str_of(what[0]), 1);
    Version v = { .id = str_of(what[1]),
                  .agent = str_of(what[0]),
                  .components = STR("{}"),
                  .manifest = STR("{}") };
    if (r == 0) r = version_insert(db, &v);
    return r == 0 ? routing_set(db, str_of(what[0]), str_of(what[1]), 1) : r;
}

static inline void deploy(Fixture *f, const char *agent, const char *version)
{
    const char *what[] = { agent, version };
    assert_int_equal(store_call(f->store, deploy_job, what), 0);
}

static inline void open_queue(Fixture *f)
{
    assert_int_equal(store_open(&(StoreOptions){ .path = f->dir.path,
                                                 .pages_max = f->pages_max,
                                                 .reserve_bytes = f->reserve_bytes },
                                &f->store),
                     0);
    assert_int_equal(queue_open(f->store, &f->options, &f->queue), 0);
}

static inline void close_queue(Fixture *f)
{
    queue_close(TAKE(f->queue));
    store_close(TAKE(f->store));
}

static inline int setup(void **state)
{
    Fixture *f = xcalloc(1, sizeof *f);
    real_now = 1700000000000;
    mono_now = 5000;
    temp_dir_init(&f->dir);
    arena_init(&f->arena, 64 << 20);
    f->options.clock = &fake_clock;
    open_queue(f);
    deploy(f, "support", VERSION_A);
    *state = f;
    return 0;
}

static inline int teardown(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    arena_deinit(&f->arena);
    temp_dir_deinit(&f->dir);
    free(f);
    return 0;
}

/* Runs the body as a fiber; it uses CHECK. */
static inline void run(void **state, int (*body)(void *arg))
{
    harness_run(body, *state);
    check_none();
}

/* --- shorthands, on fibers -------------------------------------------------------------------- */

static const LaneConfig roomy = { .reserved = { 0 }, .shared = 100 };

static inline Uuid worker_of(int n)
{
    Uuid id = { { 9 } };
    id.bytes[15] = (uint8_t)n;
    return id;
}

static inline Uuid add_worker(Fixture *f, int n, WorkerKind kind)
{
    WorkerNew new = { .id = worker_of(n), .name = STR("w"), .kind = kind, .slots = STR("{}") };
    CHECK_INT(queue_register_wait(f->queue, &new), 0);
    return new.id;
}

static inline Uuid submit(Fixture *f, Lane lane)
{
    TaskNew new = { .agent = STR("support"), .lane = lane, .input = STR("{\"q\":1}") };
    TaskSummary summary = { 0 };
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    CHECK_INT(summary.state, TASK_QUEUED);
    return summary.id;
}

/* Claims with all slots free; the tasks, at most max_n. */
static inline size_t claim(Fixture *f, Uuid worker_id, LaneConfig slots, Task **ret)
{
    Claim c = { .worker_id = worker_id, .slots = slots };
    size_t n = 0;
    int r = queue_claim_wait(f->queue, &c, clock_mono_ms(), &f->arena, ret, &n);
    CHECK(r == 0 || r == -ETIMEDOUT);
    return r == 0 ? n : 0;
}

static inline TaskRef claim_one(Fixture *f, Uuid worker_id)
{
    Task *tasks = NULL;
    LaneConfig one = { .shared = 1 };
    if (!CHECK_INT(claim(f, worker_id, one, &tasks), 1)) return (TaskRef){ 0 };
    return (TaskRef){ tasks[0].id, tasks[0].fence };
}

static inline int finish(Fixture *f, TaskRef ref, TaskOutcome outcome, TaskState *ret_state)
{
    TaskFinish finish = { .task = ref, .outcome = outcome };
    if (outcome == TASK_OUTCOME_SUCCEEDED) finish.result = STR("\"done\"");
    return queue_finish_wait(f->queue, &finish, ret_state);
}

static inline Task get(Fixture *f, Uuid id)
{
    Task task = { 0 };
    CHECK_INT(queue_get_wait(f->queue, id, TASK_PART_PAYLOAD | TASK_PART_RESULT, &f->arena, &task),
              0);
    return task;
}

static inline HeartbeatReply heartbeat(Fixture *f, Uuid worker_id, const TaskRef *held, size_t n)
{
    HeartbeatReply reply = { 0 };
    Heartbeat beat = { .held = held, .held_n = n };
    CHECK_INT(queue_heartbeat_wait(f->queue, worker_id, &beat, &f->arena, &reply), 0);
    return reply;
}

static inline void check_counts(Fixture *f, Lane lane, int64_t queued, int64_t running)
{
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.lane[lane].queued, queued);
    CHECK_INT(stats.lane[lane].running, running);
}

/* Until n fibers wait for tasks. */
static inline void await_claimers(Fixture *f, uint64_t n)
{
    QueueStats stats;
    do {
        (void)fiber_sleep_wait(1);
        queue_stats(f->queue, &stats);
    } while (stats.claimers != n);
}

/* Until n fibers wait for a change. */
static inline void await_watchers(Fixture *f, uint64_t n)
{
    QueueStats stats;
    do {
        (void)fiber_sleep_wait(1);
        queue_stats(f->queue, &stats);
    } while (stats.watchers != n);
}

#endif
