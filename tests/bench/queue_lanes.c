/* What a claim costs while 1,000, 100,000 and 1,000,000 tasks wait, and who waits how long: a mass
 * of 100,000 low tasks beside people, a tenant that floods beside a quiet one. On a real store; the
 * waits in virtual time. Takes two minutes; exits 1 when a wait passes what is promised. */
#include "tests/unit/lanes_world.h"

#include <stdio.h>
#include <time.h>

#define CLAIMS 500
#define BATCH 8

static double cpu_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

typedef struct {
    Fixture *f;
    double submit_us, claim_us, end_us, place_us; /* CPU, out */
    double claim_wall_us;
} Cost;

static int cost_story(void *arg)
{
    Cost *c = arg;
    Fixture *f = c->f;
    TaskRef refs[BATCH];
    TaskPlace place;
    Uuid worker = add_worker(f, 1, WORKER_REMOTE), last = { 0 };
    double from = cpu_us();
    for (int i = 0; i < CLAIMS; i++) last = submit(f, LANE_LOW);
    c->submit_us = (cpu_us() - from) / CLAIMS;
    Task task = get(f, last);
    from = cpu_us();
    for (int i = 0; i < CLAIMS; i++) CHECK_INT(queue_place_wait(f->queue, &task, &place), 0);
    c->place_us = (cpu_us() - from) / CLAIMS;
    for (int i = 0; i < CLAIMS / BATCH; i++) {
        Task *tasks = NULL;
        int64_t wall_us = clock_mono_us();
        from = cpu_us();
        size_t n = claim(f, worker, (LaneConfig){ .shared = BATCH }, &tasks);
        c->claim_us += (cpu_us() - from) / CLAIMS;
        c->claim_wall_us += (double)(clock_mono_us() - wall_us) / CLAIMS;
        CHECK_INT(n, BATCH);
        for (size_t k = 0; k < n; k++) refs[k] = (TaskRef){ tasks[k].id, tasks[k].fence };
        from = cpu_us();
        for (size_t k = 0; k < n; k++)
            CHECK_INT(finish(f, refs[k], TASK_OUTCOME_SUCCEEDED, NULL), 0);
        c->end_us += (cpu_us() - from) / CLAIMS;
        arena_clear(&f->arena);
    }
    return 0;
}

static int broken; /* promises */

static const char *kept(bool ok)
{
    broken += !ok;
    return ok ? "kept" : "BROKEN";
}

static void cost(int64_t queued, int64_t tenants)
{
    void *state;
    setup(&state);
    Cost c = { .f = state };
    c.f->options.queued_max[LANE_LOW] = 10000000;
    world_mass(c.f, LANE_LOW, queued, tenants);
    harness_run(cost_story, &c);
    check_none();
    printf("%9" PRId64 " %8" PRId64 " %10.1f %10.1f %10.1f %10.1f %10.1f\n", queued, tenants,
           c.submit_us, c.claim_us, c.claim_wall_us, c.end_us, c.place_us);
    fflush(stdout);
    teardown(&state);
}

static void mass(void)
{
    void *state;
    setup(&state);
    MassStory s = { .f = state, .seconds = 120 };
    world_mass(s.f, LANE_LOW, 100000, 3);
    harness_run(mass_story, &s);
    check_none();
    printf("100,000 low tasks arrive: p99 wait of critical %" PRId64
           " ms (objective 1000), of normal"
           " %" PRId64 " ms (10000);\n  low: %" PRId64
           " of 1 s ended in 120 s (its own slot: 120): %s\n",
           s.critical_p99_ms, s.normal_p99_ms, s.low_ended,
           kept(s.critical_p99_ms <= 1000 && s.normal_p99_ms <= 10000 && s.low_ended >= 114));
    teardown(&state);
}

static int64_t flood(bool floods)
{
    void *state;
    setup(&state);
    FloodStory s = { .f = state, .flood = floods, .bursts = 10, .slots = 8 };
    harness_run(flood_story, &s);
    check_none();
    teardown(&state);
    return s.p99_ms;
}

int main(void)
{
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    printf("us a task     one submit   claims of %d: CPU, wall   one end   one place read\n",
           BATCH);
    printf("   queued  tenants     submit      claim  claim wall        end      place\n");
    cost(1000, 1);
    cost(100000, 1);
    cost(1000000, 1);
    cost(100000, 100);
    cost(100000, 10000);
    mass();
    int64_t quiet_ms = flood(false), flooded_ms = flood(true);
    printf("one tenant floods: p99 wait of another's bursts %" PRId64 " ms, alone %" PRId64
           " ms: %.2f times (at most 2): %s\n",
           flooded_ms, quiet_ms, (double)flooded_ms / (double)quiet_ms,
           kept(flooded_ms <= 2 * quiet_ms));
    return broken ? EXIT_FAILURE : EXIT_SUCCESS;
}
