/* Schedules: each of their times is worth one task, whatever comes between. */
#include "queue_fixture.h"

#include <semaphore.h>
#include <unistd.h>

#include "queue/queue_private.h"

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define MINUTE_MS INT64_C(60000)

static Schedule set(Fixture *f, const char *cron, MissedPolicy missed, bool paused)
{
    Schedule made = { 0 }, s = { .name = STR("nightly"),
                                 .agent = STR("support"),
                                 .cron = str_of(cron),
                                 .input = STR("{\"q\":7}"),
                                 .lane = LANE_LOW,
                                 .missed = missed,
                                 .paused = paused };
    CHECK_INT(queue_schedule_put_wait(f->queue, &s, &f->arena, &made), 0);
    return made;
}

typedef struct {
    Arena *arena;
    Schedule schedule;
} GetJob;

static int get_job(Db *db, void *arg)
{
    GetJob *job = arg;
    return schedule_get(db, STR("nightly"), job->arena, &job->schedule);
}

static Schedule now_is(Fixture *f)
{
    GetJob job = { .arena = &f->arena };
    CHECK_INT(store_read_wait(f->store, get_job, &job), 0);
    return job.schedule;
}

static size_t tasks_n(Fixture *f)
{
    TaskPage page = { .n = 0 };
    TaskFilter filter = { .state = -1, .lane = -1, .limit = 500 };
    CHECK_INT(queue_list_wait(f->queue, &filter, &f->arena, &page), 0);
    return page.n;
}

static void tick(Fixture *f)
{
    CHECK_INT(queue_tick_wait(f->queue), 0);
}

static int body_fires(void *arg)
{
    Fixture *f = arg;
    real_now = 1700000000000 / MINUTE_MS * MINUTE_MS + 30000; /* half past a minute */
    Schedule s = set(f, "* * * * *", MISSED_SKIP, false);
    CHECK_INT(s.next_at_ms, real_now + 30000);
    tick(f);
    CHECK_INT(tasks_n(f), 0);
    real_now += 30000;
    tick(f);
    tick(f);
    CHECK_INT(tasks_n(f), 1);
    s = now_is(f);
    CHECK_INT(s.last_at_ms, real_now);
    CHECK_INT(s.next_at_ms, real_now + MINUTE_MS);
    Task task = get(f, s.last_task_id);
    CHECK_INT(task.lane, LANE_LOW);
    CHECK_STR(task.input, STR("{\"q\":7}"));
    CHECK(str_find(task.metadata, STR("\"schedule\":\"nightly\"")) >= 0);
    for (int i = 0; i < 5; i++) {
        real_now += MINUTE_MS;
        tick(f);
    }
    CHECK_INT(tasks_n(f), 6);
    set(f, "* * * * *", MISSED_SKIP, true);
    real_now += MINUTE_MS;
    tick(f);
    CHECK_INT(tasks_n(f), 6);
    CHECK_INT(now_is(f).next_at_ms, 0);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.schedules_fired, 6);
    return 0;
}

static void test_fires(void **state)
{
    run(state, body_fires);
}

static int undo_job(Db *db, void *arg)
{
    (void)arg;
    return db_run(db_stmt(db, "UPDATE schedule SET next_at_ms = last_at_ms"), NULL);
}

/* The task is there, the schedule was not moved: as a crash, or another leader, leaves it. */
static int body_once(void *arg)
{
    Fixture *f = arg;
    real_now = 1700000000000 / MINUTE_MS * MINUTE_MS;
    set(f, "* * * * *", MISSED_SKIP, false);
    real_now += MINUTE_MS;
    tick(f);
    Uuid first = now_is(f).last_task_id;
    size_t before = tasks_n(f);
    CHECK_INT(store_call_wait(f->store, undo_job, NULL), 0);
    tick(f);
    CHECK_INT(tasks_n(f), before);
    CHECK(uuid_eq(now_is(f).last_task_id, first));
    CHECK_INT(now_is(f).next_at_ms, real_now + MINUTE_MS);
    return 0;
}

static void test_once(void **state)
{
    run(state, body_once);
}

static size_t after_a_pause(Fixture *f, MissedPolicy missed, int64_t ms)
{
    real_now = real_now / (60 * MINUTE_MS) * (60 * MINUTE_MS) + 10 * MINUTE_MS; /* ten past */
    set(f, "0 * * * *", missed, false);
    size_t before = tasks_n(f);
    real_now += ms;
    for (int i = 0; i < 4; i++) tick(f);
    CHECK(now_is(f).next_at_ms > real_now);
    return tasks_n(f) - before;
}

static int body_missed(void *arg)
{
    Fixture *f = arg;
    CHECK_INT(after_a_pause(f, MISSED_SKIP, 300 * MINUTE_MS), 0);
    CHECK_INT(after_a_pause(f, MISSED_ONCE, 300 * MINUTE_MS), 1);
    CHECK_INT(now_is(f).last_at_ms, real_now - 10 * MINUTE_MS);
    CHECK_INT(after_a_pause(f, MISSED_ALL, 300 * MINUTE_MS), 5);
    CHECK_INT(after_a_pause(f, MISSED_SKIP, 290 * MINUTE_MS), 1);       /* the last is of now */
    CHECK_INT(after_a_pause(f, MISSED_ALL, 1000 * 60 * MINUTE_MS), 24); /* a day of them */
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK(stats.schedules_missed >= 1);
    return 0;
}

static void test_missed(void **state)
{
    run(state, body_missed);
}

/* The calendar goes astray for years and comes back: what it has left behind is due again, and
 * nothing is made twice. */
static int body_set_back(void *arg)
{
    Fixture *f = arg;
    real_now = real_now / (60 * MINUTE_MS) * (60 * MINUTE_MS) + 10 * MINUTE_MS; /* ten past */
    set(f, "0 * * * *", MISSED_SKIP, false);
    real_now += 50 * MINUTE_MS;
    tick(f);
    CHECK_INT(tasks_n(f), 1);
    int64_t right_ms = real_now, ahead_ms = 1000 * 24 * 60 * MINUTE_MS;
    real_now += ahead_ms + 30 * MINUTE_MS;
    tick(f);
    CHECK(now_is(f).next_at_ms > right_ms + ahead_ms);
    real_now = right_ms + 30 * MINUTE_MS;
    tick(f);
    CHECK_INT(now_is(f).next_at_ms, right_ms + 60 * MINUTE_MS);
    CHECK_INT(tasks_n(f), 1);
    real_now += 30 * MINUTE_MS;
    tick(f);
    CHECK_INT(tasks_n(f), 2);
    real_now -= 10 * MINUTE_MS; /* and again: it is found */
    tick(f);
    CHECK_INT(now_is(f).next_at_ms, right_ms + 60 * MINUTE_MS);
    real_now += 10 * MINUTE_MS;
    tick(f);
    CHECK_INT(tasks_n(f), 2);
    CHECK_INT(now_is(f).next_at_ms, right_ms + 120 * MINUTE_MS);
    return 0;
}

static void test_a_clock_that_is_set_back(void **state)
{
    run(state, body_set_back);
}

/* The same while no server runs. */
static int body_left_behind(void *arg)
{
    Fixture *f = arg;
    real_now = real_now / (60 * MINUTE_MS) * (60 * MINUTE_MS) + 10 * MINUTE_MS;
    real_now += 1000 * 24 * 60 * MINUTE_MS;
    set(f, "0 * * * *", MISSED_SKIP, false);
    real_now -= 1000 * 24 * 60 * MINUTE_MS;
    return 0;
}

static int body_begins(void *arg)
{
    Fixture *f = arg;
    tick(f);
    CHECK_INT(now_is(f).next_at_ms, real_now + 50 * MINUTE_MS);
    return 0;
}

static void test_a_clock_that_was_set_back(void **state)
{
    run(state, body_left_behind);
    close_queue(*state);
    open_queue(*state);
    run(state, body_begins);
}

static int many_schedules_job(Db *db, void *arg)
{
    (void)arg;
    int r = 0;
    for (int i = 0; i < SCHEDULES_MAX && r == 0; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", i);
        Schedule s = {
            .name = str_of(name), .agent = STR("support"), .cron = STR("@daily"), .paused = true
        };
        r = schedule_put(db, &s);
    }
    return r;
}

static int body_too_many(void *arg)
{
    Fixture *f = arg;
    Schedule made, more = { .name = STR("more"), .agent = STR("support"), .cron = STR("@daily") };
    CHECK_INT(store_call_wait(f->store, many_schedules_job, NULL), 0);
    CHECK_INT(queue_schedule_put_wait(f->queue, &more, &f->arena, &made), QUEUE_E_SCHEDULES);
    more.name = STR("s7"); /* one that is there */
    CHECK_INT(queue_schedule_put_wait(f->queue, &more, &f->arena, &made), 0);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.schedules_refused, 1);
    return 0;
}

static void test_too_many(void **state)
{
    run(state, body_too_many);
}

static int body_troubles(void *arg)
{
    Fixture *f = arg;
    Schedule made, none = { .name = STR("x"), .agent = STR("nobody"), .cron = STR("@daily") };
    CHECK_INT(queue_schedule_put_wait(f->queue, &none, &f->arena, &made), QUEUE_E_NO_AGENT);
    real_now = 1700000000000 / MINUTE_MS * MINUTE_MS + 10000;
    set(f, "* * * * *", MISSED_SKIP, false);
    submit(f, LANE_LOW); /* the lane holds one */
    real_now += MINUTE_MS - 10000;
    tick(f);
    CHECK_INT(tasks_n(f), 1);
    CHECK_INT(now_is(f).next_at_ms, real_now); /* it stays due */
    TaskState state;
    CHECK_INT(
        finish(f, claim_one(f, add_worker(f, 1, WORKER_EMBEDDED)), TASK_OUTCOME_SUCCEEDED, &state),
        0);
    tick(f);
    CHECK_INT(tasks_n(f), 2);
    return 0;
}

static void test_troubles(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->options.queued_max[LANE_LOW] = 1;
    open_queue(f);
    run(state, body_troubles);
}

static void put_named(Fixture *f, int i, Lane lane)
{
    Schedule made = { 0 }, s = { .name = arena_printf(&f->arena, "s%03d", i),
                                 .agent = STR("support"),
                                 .cron = STR("* * * * *"),
                                 .input = STR("1"),
                                 .lane = lane };
    CHECK_INT(queue_schedule_put_wait(f->queue, &s, &f->arena, &made), 0);
}

/* More of them than fire in a tick. */
static int body_behind_full(void *arg)
{
    Fixture *f = arg;
    for (int i = 0; i < 33; i++) put_named(f, i, LANE_LOW);
    put_named(f, 33, LANE_NORMAL);
    (void)submit(f, LANE_LOW);
    pass_ms(MINUTE_MS);
    tick(f);
    CHECK_INT(tasks_n(f), 2);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.schedules_fired, 1);
    return 0;
}

static void test_behind_full(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->options.queued_max[LANE_LOW] = 1;
    open_queue(f);
    run(state, body_behind_full);
}

/* --- the last one goes on --------------------------------------------------------------------- */

static Schedule set_overlap(Fixture *f, OverlapPolicy overlap)
{
    Schedule made = { 0 }, s = { .name = STR("nightly"),
                                 .agent = STR("support"),
                                 .cron = STR("* * * * *"),
                                 .input = STR("1"),
                                 .lane = LANE_NORMAL,
                                 .overlap = overlap,
                                 .task_ms = 90 * 1000 };
    real_now = real_now / MINUTE_MS * MINUTE_MS;
    CHECK_INT(queue_schedule_put_wait(f->queue, &s, &f->arena, &made), 0);
    CHECK_INT(made.overlap, overlap);
    pass_ms(MINUTE_MS);
    tick(f);
    return now_is(f);
}

static uint64_t skipped_n(Fixture *f)
{
    QueueStats stats;
    queue_stats(f->queue, &stats);
    return stats.schedules_skipped;
}

/* However it goes on: it waits, runs, asks. Once it has ended, be it at its deadline, the next time
 * is a task again. */
static int body_skip(void *arg)
{
    Fixture *f = arg;
    Schedule first = set_overlap(f, OVERLAP_SKIP);
    CHECK_INT(get(f, first.last_task_id).due_at_ms, real_now + 90 * 1000);
    pass_ms(MINUTE_MS);
    tick(f);
    Schedule second = now_is(f);
    CHECK(uuid_eq(second.last_task_id, first.last_task_id));
    CHECK_INT(second.last_at_ms, first.last_at_ms);
    CHECK_INT(second.next_at_ms, real_now + MINUTE_MS);
    CHECK_INT(second.skipped, 1);
    CHECK_INT(skipped_n(f), 1);
    CHECK_INT(tasks_n(f), 1);
    pass_ms(MINUTE_MS);
    tick(f); /* ends it, and fires */
    CHECK_INT(get(f, first.last_task_id).state, TASK_TIMED_OUT);
    CHECK_INT(tasks_n(f), 2);
    CHECK_INT(now_is(f).skipped, 1);
    (void)set(f, "* * * * *", MISSED_SKIP, true);
    CHECK_INT(now_is(f).skipped, 1); /* it has been set anew */
    return 0;
}

/* A time that has come again finds its task, whatever the policy says. */
static int body_skip_once(void *arg)
{
    Fixture *f = arg;
    Schedule first = set_overlap(f, OVERLAP_SKIP);
    CHECK_INT(store_call_wait(f->store, undo_job, NULL), 0);
    tick(f);
    CHECK(uuid_eq(now_is(f).last_task_id, first.last_task_id));
    CHECK_INT(now_is(f).skipped, 0);
    first = set_overlap(f, OVERLAP_REPLACE);
    CHECK_INT(store_call_wait(f->store, undo_job, NULL), 0);
    tick(f);
    CHECK_INT(get(f, first.last_task_id).state, TASK_QUEUED);
    return 0;
}

static int body_replace(void *arg)
{
    Fixture *f = arg;
    Schedule first = set_overlap(f, OVERLAP_REPLACE);
    pass_ms(MINUTE_MS);
    tick(f);
    CHECK_INT(get(f, first.last_task_id).state, TASK_CANCELED);
    CHECK_STR(get(f, first.last_task_id).stopped_by, STR("schedule"));
    Schedule second = now_is(f);
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    TaskRef ref = claim_one(f, worker);
    CHECK(uuid_eq(ref.id, second.last_task_id));
    pass_ms(5000);
    heartbeat(f, worker, &ref, 1);
    real_now += MINUTE_MS - 5000;
    tick(f);
    CHECK_INT(tasks_n(f), 3);
    CHECK(get(f, ref.id).cancel_requested); /* its worker is told */
    return 0;
}

static int body_allow(void *arg)
{
    Fixture *f = arg;
    (void)set_overlap(f, OVERLAP_ALLOW);
    pass_ms(MINUTE_MS);
    tick(f);
    CHECK_INT(tasks_n(f), 2);
    check_counts(f, LANE_NORMAL, 2, 0);
    return 0;
}

static void test_overlap_skip(void **state)
{
    run(state, body_skip);
}

static void test_overlap_found_again(void **state)
{
    run(state, body_skip_once);
}

static void test_overlap_replace(void **state)
{
    run(state, body_replace);
}

static void test_overlap_allow(void **state)
{
    run(state, body_allow);
}

/* Whoever is told that a schedule is paused, or gone, gets no task of it any more: not by a tick
 * that has read it before either. */
typedef struct {
    Fixture *f;
    sem_t go; /* the store's */
} Race;

static int hold_job(Db *db, void *arg)
{
    Race *race = arg;
    (void)db;
    return sem_wait(&race->go) == 0 ? 0 : -errno;
}

static int hold_main(void *arg)
{
    Race *race = arg;
    CHECK_INT(store_call_wait(race->f->store, hold_job, race), 0);
    return 0;
}

static int pause_main(void *arg)
{
    Race *race = arg;
    CHECK_INT(set(race->f, "* * * * *", MISSED_SKIP, true).next_at_ms, 0);
    return 0;
}

static int fire_main(void *arg)
{
    Race *race = arg;
    CHECK_INT(schedules_tick_wait(race->f->queue), 0);
    return 0;
}

static int body_paused_meanwhile(void *arg)
{
    Fixture *f = arg;
    int (*const mains[])(void *) = { hold_main, pause_main, fire_main };
    FiberRef refs[ARRAY_N(mains)];
    Race race = { .f = f };
    StoreStats before, now;
    (void)set(f, "* * * * *", MISSED_SKIP, false);
    tick(f);
    pass_ms(MINUTE_MS);
    sem_init(&race.go, 0, 0);
    store_stats(f->store, &before);
    for (size_t i = 0; i < ARRAY_N(mains); i++)
        CHECK_INT(fiber_spawn("race", mains[i], &race, &refs[i]), 0);
    do { /* until the tick has read it, behind the change that waits for the store */
        (void)fiber_sleep_wait(1);
        store_stats(f->store, &now);
    } while (now.reads == before.reads);
    (void)fiber_sleep_wait(1);
    sem_post(&race.go);
    for (size_t i = 0; i < ARRAY_N(mains); i++) CHECK_INT(fiber_join_wait(refs[i], NULL), 0);
    sem_destroy(&race.go);
    CHECK_INT(tasks_n(f), 0);
    check_counts(f, LANE_LOW, 0, 0);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.schedules_fired + stats.schedules_missed + stats.schedules_failed, 0);
    return 0;
}

static void test_paused_meanwhile(void **state)
{
    run(state, body_paused_meanwhile);
}

static int agent_job(Db *db, void *arg)
{
    (void)arg;
    return agent_ensure(db, STR("bare"), 1);
}

/* A time for which there can be no task is over, and the schedule says why. */
static int body_fails(void *arg)
{
    Fixture *f = arg;
    Schedule made = { 0 }, s = { .name = STR("nightly"),
                                 .agent = STR("bare"),
                                 .cron = STR("* * * * *"),
                                 .input = STR("1"),
                                 .lane = LANE_NORMAL };
    QueueStats stats;
    CHECK_INT(store_call_wait(f->store, agent_job, NULL), 0);
    CHECK_INT(queue_schedule_put_wait(f->queue, &s, &f->arena, &made), 0);
    pass_ms(MINUTE_MS);
    tick(f);
    CHECK_INT(tasks_n(f), 0);
    check_counts(f, LANE_NORMAL, 0, 0);
    CHECK_HAS(now_is(f).last_error, "no deployed version");
    CHECK(uuid_is_zero(now_is(f).last_task_id));
    CHECK(now_is(f).next_at_ms > real_now);
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.schedules_failed, 1);
    CHECK_INT(stats.schedules_fired, 0);
    return 0;
}

static void test_fails(void **state)
{
    run(state, body_fails);
}

/* Two places, two zones: noon comes six hours later in the second. */
static int body_zones(void *arg)
{
    Fixture *f = arg;
    static const char *const names[] = { "", "Europe/Berlin", "America/New_York" };
    static const int64_t noons_ms[] = { 1700049600000, 1700046000000, 1700067600000 };
    for (size_t i = 0; i < ARRAY_N(names); i++) {
        Schedule made = { 0 }, s = { .name = STR("noon"),
                                     .agent = STR("support"),
                                     .cron = STR("0 12 * * *"),
                                     .input = STR("1"),
                                     .time_zone = str_of(names[i]) };
        CHECK_INT(queue_schedule_put_wait(f->queue, &s, &f->arena, &made), 0);
        CHECK_STR(made.time_zone, str_of(names[i]));
        CHECK_INT(made.next_at_ms, noons_ms[i]); /* of 2023-11-15 */
    }
    real_now = noons_ms[2];
    tick(f);
    CHECK_INT(tasks_n(f), 1);
    return 0;
}

static void test_zones(void **state)
{
    if (access("/usr/share/zoneinfo/Europe/Berlin", R_OK) != 0) skip();
    run(state, body_zones);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_fires),
        CASE(test_once),
        CASE(test_missed),
        CASE(test_behind_full),
        CASE(test_troubles),
        CASE(test_too_many),
        CASE(test_a_clock_that_is_set_back),
        CASE(test_a_clock_that_was_set_back),
        CASE(test_overlap_skip),
        CASE(test_overlap_found_again),
        CASE(test_overlap_replace),
        CASE(test_overlap_allow),
        CASE(test_paused_meanwhile),
        CASE(test_zones),
        CASE(test_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
