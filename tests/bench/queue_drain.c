/* What a claim and a report cost, by who claims many at a time: CPU of all threads, what is
 * written. `bench_queue_drain [TASKS [DRAINED]]`; under callgrind it counts instructions, which no
 * other program on the machine changes: what 0 drained take is to be subtracted. */
#include "tests/unit/queue_fixture.h"

#include <stdio.h>
#include <time.h>

#define CLAIMERS 16
#define BATCH 50
#define SUBMITTED_AT_A_TIME 5000

typedef struct {
    Fixture *f;
    Uuid worker;
    int64_t left; /* to claim */
    double claim_us, finish_us;
} Drain;

static double cpu_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int64_t written(void)
{
    char line[128];
    int64_t bytes = 0;
    FILE *f = fopen("/proc/self/io", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "wchar:", 6) == 0) bytes = strtoll(line + 6, NULL, 10);
    if (f) fclose(f);
    return bytes;
}

/* --- what is there ---------------------------------------------------------------------------- */

typedef struct {
    int64_t first, n;
} SubmitJob;

static int submit_job(Db *db, void *arg)
{
    const SubmitJob *job = arg;
    char input[256];
    int r = 0;
    memset(input, 'x', sizeof input);
    input[0] = input[201] = '"';
    for (int64_t i = 0; i < job->n && r == 0; i++) {
        Uuid id = { { 7 } };
        int64_t seq, number = job->first + i;
        for (size_t k = 0; k < 8; k++) id.bytes[8 + k] = (uint8_t)(number >> (56 - 8 * k));
        TaskRow row = { .id = id,
                        .agent = STR("support"),
                        .version_id = STR(VERSION_A),
                        .lane = LANE_NORMAL,
                        .created_at_ms = real_now,
                        .ready_at_ms = real_now,
                        .input = str_make(input, 202) };
        r = task_insert(db, &row, &seq);
    }
    return r;
}

static void submit_all(Fixture *f, int64_t n)
{
    for (int64_t done = 0; done < n; done += SUBMITTED_AT_A_TIME) {
        SubmitJob job = { .first = done, .n = MIN(n - done, SUBMITTED_AT_A_TIME) };
        assert_int_equal(store_call(f->store, submit_job, &job), 0);
    }
    close_queue(f);
    open_queue(f);
}

/* --- claimers --------------------------------------------------------------------------------- */

static void drain_one(Drain *d, Arena *arena)
{
    TaskFinish *finishes = ARENA_ARRAY(arena, TaskFinish, BATCH); /* a fiber's stack is small */
    TaskFinished *ends = ARENA_ARRAY(arena, TaskFinished, BATCH);
    assert(finishes && ends);
    Task *tasks = NULL;
    size_t n = 0;
    Claim c = { .worker_id = d->worker, .slots = { .shared = BATCH } };
    CHECK_INT(queue_claim_wait(d->f->queue, &c, clock_mono_ms(), arena, &tasks, &n), 0);
    for (size_t i = 0; i < n; i++)
        finishes[i] = (TaskFinish){ .task = { tasks[i].id, tasks[i].fence },
                                    .outcome = TASK_OUTCOME_SUCCEEDED,
                                    .result = STR("{\"ok\":true}") };
    CHECK_INT(queue_finish_many_wait(d->f->queue, finishes, n, ends), 0);
    for (size_t i = 0; i < n; i++) CHECK_INT(ends[i].outcome, 0);
}

static int claimer(void *arg)
{
    Drain *d = arg;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, 16 << 20);
    while (d->left >= BATCH) {
        d->left -= BATCH;
        drain_one(d, &arena);
        arena_clear(&arena);
    }
    return 0;
}

static int drain_story(void *arg)
{
    Drain *d = arg;
    FiberRef refs[CLAIMERS];
    d->worker = add_worker(d->f, 1, WORKER_REMOTE);
    for (size_t i = 0; i < CLAIMERS; i++)
        CHECK_INT(fiber_spawn("claimer", claimer, d, &refs[i]), 0);
    for (size_t i = 0; i < CLAIMERS; i++) (void)fiber_join_wait(refs[i], NULL);
    return 0;
}

int main(int argc, char **argv)
{
    int64_t n = argc > 1 ? strtoll(argv[1], NULL, 10) : 20000;
    void *state;
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    setup(&state);
    Drain d = { .f = state, .left = argc > 2 ? strtoll(argv[2], NULL, 10) : n };
    submit_all(d.f, n);
    double from_us = cpu_us();
    int64_t before = written(), wall_us = clock_mono_us();
    harness_run(drain_story, &d);
    check_none();
    double wall = (double)(clock_mono_us() - wall_us);
    printf("%" PRId64 " tasks, %d claimers of %d: %.1f CPU-us, %.1f us, %" PRId64
           " bytes written a task\n",
           n, CLAIMERS, BATCH, (cpu_us() - from_us) / (double)n, wall / (double)n,
           (written() - before) / n);
    teardown(&state);
    return 0;
}
