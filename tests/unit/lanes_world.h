/* A queue on a real store under load, in virtual time: tasks arrive, hold slots for a while,
 * end. */
#ifndef GANTRY_TESTS_LANES_WORLD_H
#define GANTRY_TESTS_LANES_WORLD_H

#include "tests/unit/queue_fixture.h"

#include <stdlib.h>

#include "tests/unit/random.h"

#define WORLD_RUNNING_MAX 64

typedef struct {
    int64_t at_ms, takes_ms; /* from the beginning */
    Lane lane;
    char tenant; /* 0: none */
    Uuid id;
    int64_t waited_ms; /* -1: not started */
} Arrival;

typedef struct {
    TaskRef ref;
    Lane lane;
    int64_t ends_ms;
} RunningTask;

typedef struct {
    Fixture *f;
    Uuid worker;
    LaneConfig slots;
    LaneUse use;
    Arrival *arrivals; /* by at_ms */
    size_t n, arrived, cap;
    int64_t base_ms, now_ms; /* the calendar at the beginning; since then */
    int64_t mass_takes_ms;   /* of tasks that world_mass has put there */
    int64_t ended[LANE_N_];
    RunningTask running[WORLD_RUNNING_MAX];
    size_t running_n;
} World;

/* --- what is there ---------------------------------------------------------------------------- */

typedef struct {
    Lane lane;
    int64_t n, tenants, first;
} MassJob;

#define MASS_BATCH 5000

static inline int mass_job(Db *db, void *arg)
{
    MassJob *job = arg;
    int r = 0;
    for (int64_t i = 0; i < MIN(job->n, MASS_BATCH) && r == 0; i++) {
        char tenant[32];
        Uuid id = { { 7 } };
        int64_t seq, number = job->first + i;
        for (size_t k = 0; k < 8; k++) id.bytes[8 + k] = (uint8_t)(number >> (56 - 8 * k));
        snprintf(tenant, sizeof tenant, "mass-%" PRId64, number % job->tenants);
        TaskRow row = { .id = id,
                        .agent = STR("support"),
                        .version_id = STR(VERSION_A),
                        .lane = job->lane,
                        .created_at_ms = real_now,
                        .ready_at_ms = real_now,
                        .input = STR("1"),
                        .tenant_id = str_of(tenant) };
        r = task_insert(db, &row, &seq);
    }
    return r;
}

/* Puts n queued tasks into the store, of so many tenants; the queue is opened anew. On a plain
 * thread. */
static inline void world_mass(Fixture *f, Lane lane, int64_t n, int64_t tenants)
{
    for (int64_t done = 0; done < n; done += MASS_BATCH) {
        MassJob job = { .lane = lane, .n = n - done, .tenants = tenants, .first = done };
        assert_int_equal(store_call(f->store, mass_job, &job), 0);
    }
    close_queue(f);
    open_queue(f);
}

static inline void world_add(World *w, int64_t at_ms, Lane lane, char tenant, int64_t takes_ms)
{
    if (w->n == w->cap) {
        w->cap = MAX(2 * w->cap, 1024);
        w->arrivals = xrealloc(w->arrivals, w->cap * sizeof *w->arrivals);
    }
    w->arrivals[w->n++] = (Arrival){
        .at_ms = at_ms, .takes_ms = takes_ms, .lane = lane, .tenant = tenant, .waited_ms = -1
    };
}

static inline int arrival_cmp(const void *a, const void *b)
{
    int64_t x = ((const Arrival *)a)->at_ms, y = ((const Arrival *)b)->at_ms;
    return (x > y) - (x < y);
}

/* --- what happens, on a fiber ----------------------------------------------------------------- */

static inline void world_submit(World *w)
{
    while (w->arrived < w->n && w->arrivals[w->arrived].at_ms <= w->now_ms) {
        Arrival *a = &w->arrivals[w->arrived++];
        TaskSummary summary = { 0 };
        TaskNew new = { .agent = STR("support"),
                        .lane = a->lane,
                        .input = STR("1"),
                        .tenant_id = a->tenant ? str_make(&a->tenant, 1) : STR("") };
        CHECK_INT(queue_submit_wait(w->f->queue, &new, &summary), 0);
        a->id = summary.id;
    }
}

static inline void world_end(World *w)
{
    for (size_t i = 0; i < w->running_n;) {
        RunningTask *t = &w->running[i];
        if (t->ends_ms > w->now_ms) {
            i++;
            continue;
        }
        CHECK_INT(finish(w->f, t->ref, TASK_OUTCOME_SUCCEEDED, NULL), 0);
        w->use.running[t->lane]--;
        w->ended[t->lane]++;
        *t = w->running[--w->running_n];
    }
}

static inline void world_started(World *w, const Task *task)
{
    int64_t takes_ms = w->mass_takes_ms;
    for (size_t i = 0; i < w->arrived; i++) {
        Arrival *a = &w->arrivals[i];
        if (!uuid_eq(a->id, task->id)) continue;
        takes_ms = a->takes_ms;
        a->waited_ms = w->now_ms - a->at_ms;
    }
    CHECK(w->running_n < WORLD_RUNNING_MAX);
    w->running[w->running_n++] = (RunningTask){ .ref = { task->id, task->fence },
                                                .lane = task->lane,
                                                .ends_ms = w->now_ms + takes_ms };
    w->use.running[task->lane]++;
}

static inline void world_claim(World *w)
{
    Claim claim = { .worker_id = w->worker, .slots = w->slots, .use = w->use };
    Task *tasks;
    size_t n = 0;
    if ((int64_t)w->running_n == lane_slots(&w->slots)) return;
    bool any = false;
    for (int lane = 0; lane < LANE_N_; lane++) any |= lane_free(&w->slots, &w->use, (Lane)lane) > 0;
    if (!any) return;
    arena_clear(&w->f->arena);
    int r = queue_claim_wait(w->f->queue, &claim, clock_mono_ms(), &w->f->arena, &tasks, &n);
    CHECK(r == 0 || r == -ETIMEDOUT);
    for (size_t i = 0; i < n && r == 0; i++) world_started(w, &tasks[i]);
}

/* Until until_ms, or until nothing is left to happen. */
static inline void world_run(World *w, int64_t until_ms)
{
    qsort(w->arrivals, w->n, sizeof *w->arrivals, arrival_cmp);
    w->base_ms = real_now;
    w->worker = add_worker(w->f, 1, WORKER_REMOTE);
    for (;;) {
        world_end(w);
        world_submit(w);
        world_claim(w);
        int64_t next_ms = w->arrived < w->n ? w->arrivals[w->arrived].at_ms : INT64_MAX;
        for (size_t i = 0; i < w->running_n; i++) next_ms = MIN(next_ms, w->running[i].ends_ms);
        if (next_ms > until_ms || next_ms == INT64_MAX) return;
        w->now_ms = next_ms;
        real_now = w->base_ms + next_ms;
    }
}

static inline int wait_cmp(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* The 99th percentile of the waits of arrivals in a lane, of a tenant (0: any); one that has not
 * been started has waited until now. */
static inline int64_t world_p99_ms(const World *w, Lane lane, char tenant)
{
    int64_t *waits = xcalloc(MAX(w->n, 1), sizeof *waits), p99_ms = -1;
    size_t n = 0;
    for (size_t i = 0; i < w->n; i++) {
        const Arrival *a = &w->arrivals[i];
        if (a->lane != lane || (tenant && a->tenant != tenant)) continue;
        waits[n++] = a->waited_ms < 0 ? w->now_ms - a->at_ms : a->waited_ms;
    }
    qsort(waits, n, sizeof *waits, wait_cmp);
    if (n > 0) p99_ms = waits[(n * 99 + 99) / 100 - 1];
    free(waits);
    return p99_ms;
}

static inline void world_deinit(World *w)
{
    free(w->arrivals);
}

/* --- two stories ------------------------------------------------------------------------------ */

typedef struct {
    Fixture *f;
    int64_t seconds;
    int64_t critical_p99_ms, normal_p99_ms, low_ended; /* out */
} MassStory;

/* A mass of low tasks is there (world_mass); critical and normal tasks arrive at random. */
static inline int mass_story(void *arg)
{
    MassStory *s = arg;
    World w = { .f = s->f, .slots = { { 2, 2, 1 }, 3 }, .mass_takes_ms = 1000 };
    Random r = { 7 };
    for (int64_t i = 0; i < 2 * s->seconds; i++)
        for (Lane lane = LANE_CRITICAL; lane <= LANE_NORMAL; lane++)
            world_add(&w, random_range(&r, 0, s->seconds * 1000), lane, 'p',
                      random_range(&r, 100, 600));
    world_run(&w, s->seconds * 1000);
    s->critical_p99_ms = world_p99_ms(&w, LANE_CRITICAL, 0);
    s->normal_p99_ms = world_p99_ms(&w, LANE_NORMAL, 0);
    s->low_ended = w.ended[LANE_LOW];
    world_deinit(&w);
    return 0;
}

typedef struct {
    Fixture *f;
    bool flood;
    int64_t bursts, slots;
    int64_t p99_ms; /* out: of the quiet tenant */
} FloodStory;

/* One tenant sends bursts that take the slots four times over, and another, or not, half as much
 * again as the slots can do. */
static inline int flood_story(void *arg)
{
    FloodStory *s = arg;
    World w = { .f = s->f, .slots = { .shared = s->slots } };
    const int64_t takes_ms = 2000, first_ms = 60000, gap_ms = 60000;
    int64_t span_ms = first_ms + s->bursts * gap_ms;
    for (int64_t k = 0; k < s->bursts; k++)
        for (int64_t i = 0; i < 4 * s->slots; i++)
            world_add(&w, first_ms + k * gap_ms, LANE_NORMAL, 'q', takes_ms);
    int64_t n = s->flood ? span_ms * s->slots / takes_ms * 3 / 2 : 0;
    for (int64_t i = 0; i < n; i++) world_add(&w, i * span_ms / n, LANE_NORMAL, 'f', takes_ms);
    world_run(&w, span_ms);
    s->p99_ms = world_p99_ms(&w, LANE_NORMAL, 'q');
    world_deinit(&w);
    return 0;
}

#endif
