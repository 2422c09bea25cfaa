/* Schedules on the program's rules (logic/schedule, cron) and in its order of work: due ones are
 * read, then their task is made and they are moved. In virtual time, in a zone whose clocks go
 * forward and back: the server is killed between any two of these or is away for hours, days,
 * months; commits fail, lanes are full, keys of old tasks are forgotten, schedules are set anew at
 * any moment, and the calendar is set, ahead and back, by seconds or years, while the server runs
 * or does not. Then all that stops.
 *
 *   a time has one task at most (as long as its key is known), and none before it has come
 *   no time that the calendar passes while all is well is missing
 *   of times that were missed: all of a day, the last, or none, as the policy says
 *
 * The same with a rule broken must fail, for each rule.
 * usage: test_sim_schedule [SEED [RULE]] replays one; FIRST-LAST plays many. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "logic/schedule.h"
#include "random.h"
#include "sim_args.h"

#define SEEDS_SLOW 1500
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SEEDS SEEDS_SLOW
#else
#define SEEDS 20000
#endif
#define SEEDS_BROKEN 4000
#define SCHEDULES_N 3
#define TASKS_MAX 2048 /* a power of two */
#define FIRED_MAX 32   /* a tick */
#define STEPS 24
#define STEPS_CALM 6
#define TICKS_CALM 8 /* make what is owed of a day: 48 each */
#define SECOND_MS INT64_C(1000)
#define MINUTE_MS INT64_C(60000)
#define HOUR_MS INT64_C(3600000)
#define DAY_MS (24 * HOUR_MS)
#define KEY_KEPT_MS (2 * DAY_MS)
#define CALENDAR_MS INT64_C(1750000000000)
#define CALENDAR_SET_MS 1000 /* it is off by then; less is not noticed */

typedef enum {
    NOTHING_BROKEN,
    KEY_FORGOTTEN,  /* the task of a time is not found again */
    MOVED_FIRST,    /* it is moved before its task is made */
    MOVED_BLINDLY,  /* it is moved though it was set anew meanwhile */
    FULL_PASSED,    /* what its lane has no place for is passed over */
    BACK_FORGOTTEN, /* the calendar is set back, and it waits until that comes to it */
    START_UNLOOKED, /* the same, before the server has begun */
    ALL_ONCE,       /* of all that was missed one is made */
    SKIPPED_MADE,   /* what was to be skipped is made */
    ONCE_SKIPPED,   /* the last is not made */
    ZONE_FORGOTTEN, /* times are those of another zone */
    RULE_N_
} Rule;

static const char *const rules[RULE_N_] = {
    [NOTHING_BROKEN] = "none",           [KEY_FORGOTTEN] = "key-forgotten",
    [MOVED_FIRST] = "moved-first",       [MOVED_BLINDLY] = "moved-blindly",
    [FULL_PASSED] = "full-passed",       [BACK_FORGOTTEN] = "back-forgotten",
    [START_UNLOOKED] = "start-unlooked", [ALL_ONCE] = "all-once",
    [SKIPPED_MADE] = "skipped-made",     [ONCE_SKIPPED] = "once-skipped",
    [ZONE_FORGOTTEN] = "zone-forgotten",
};

static const char *const crons[] = {
    "*/30 * * * *",    "0 * * * *",    "30 2 * * *", "15 */6 * * *",
    "0 9 * * MON-FRI", "7 0-12 * * *", "45 3 1 * *", "*/20 1-4 * * *",
};
#define CRONS_N (sizeof crons / sizeof crons[0])

typedef struct {
    int cron;
    MissedPolicy missed;
    int64_t next_at_ms; /* 0: never */
    int64_t set_n;      /* how often it was set: when it was updated */

    /* what the simulator knows by itself */
    int64_t owes_ms; /* since when it owes what it misses, by the calendar */
    int64_t well_ms; /* since when all is well, by the calendar; INT64_MAX: it is not */
} Row;

typedef struct {
    int schedule;
    int64_t at_ms, made_ms; /* the time, when it was made, by the calendar */
    bool made, known;       /* known: by its key */
} Task;

typedef struct {
    uint64_t set, kills, away, failed, full, put, fired, found, skipped, late;
} Tally;

typedef struct {
    uint64_t seed;
    Rule broken;
    const char *why;
    int line, step;
    Random random;
    int64_t now_ms;      /* monotonic */
    int64_t calendar_ms; /* ahead of it */
    int64_t known_ms;    /* as the server knows */
    int64_t seen_ms;     /* the calendar, at the last look */
    int64_t looked_ms;   /* known_ms when schedules were last looked at; INT64_MAX: never */
    int64_t purge_ms;    /* when the first of the keys that are known was made */
    bool calm, full, fails;
    Row rows[SCHEDULES_N];
    int rows_n, tasks_n;
    Tally tally;
    Task tasks[TASKS_MAX];
} World;

static Cron parsed[CRONS_N];

#define BREAKS(w, rule) ((w)->broken == (rule))

static bool must(World *w, bool holds, const char *what, int line)
{
    if (holds || w->why) return holds;
    w->why = what;
    w->line = line;
    return false;
}
#define MUST_HOLD(condition) must(w, (condition), #condition, __LINE__)
#define MUST(condition) ((void)MUST_HOLD(condition))

static int64_t upto(World *w, int64_t most)
{
    return random_range(&w->random, 0, most);
}

static bool chance(World *w, int in_thousand)
{
    return !w->calm && upto(w, 999) < in_thousand;
}

/* Summer is half of each year, an hour ahead. */
static int64_t zone_ms(const void *ctx, int64_t unix_ms)
{
    (void)ctx;
    int64_t half = 182 * DAY_MS + 12 * HOUR_MS, at_ms = unix_ms - 80 * DAY_MS - HOUR_MS;
    return at_ms / half % 2 ? HOUR_MS : 2 * HOUR_MS;
}

static int64_t no_zone_ms(const void *ctx, int64_t unix_ms)
{
    (void)ctx;
    (void)unix_ms;
    return 0;
}

static const CronZone zone = { zone_ms, NULL }, no_zone = { no_zone_ms, NULL };

static const CronZone *zone_of(const World *w)
{
    return BREAKS(w, ZONE_FORGOTTEN) ? &no_zone : &zone;
}

static int64_t server_ms(const World *w)
{
    return CALENDAR_MS + w->now_ms + w->known_ms;
}

static int64_t next_of(const Row *row, int64_t after_ms)
{
    return cron_next(&parsed[row->cron], after_ms, &zone);
}

/* --- tasks ------------------------------------------------------------------------------------ */

/* Its place, by a hash: there, or where it would be. */
static Task *task_at(World *w, int schedule, int64_t at_ms)
{
    uint64_t at = (uint64_t)(at_ms / MINUTE_MS * SCHEDULES_N + schedule) * 0x9e3779b97f4a7c15 >> 53;
    while (w->tasks[at].made && (w->tasks[at].schedule != schedule || w->tasks[at].at_ms != at_ms))
        at = (at + 1) % TASKS_MAX;
    return &w->tasks[at];
}

static void keys_purge(World *w)
{
    int64_t before_ms = server_ms(w) - KEY_KEPT_MS;
    if (before_ms <= w->purge_ms) return; /* there are none so old */
    w->purge_ms = INT64_MAX;
    for (int i = 0; i < TASKS_MAX; i++) {
        Task *task = &w->tasks[i];
        task->known = task->known && task->made_ms >= before_ms;
        if (task->known) w->purge_ms = MIN(w->purge_ms, task->made_ms);
    }
}

static void task_make(World *w, int schedule, int64_t at_ms)
{
    Task *task = task_at(w, schedule, at_ms);
    if (task->known && !BREAKS(w, KEY_FORGOTTEN)) {
        w->tally.found++;
        return;
    }
    MUST(!task->known);
    MUST(at_ms <= server_ms(w));
    w->tasks_n += !task->made;
    if (!MUST_HOLD(w->tasks_n < TASKS_MAX)) return;
    w->purge_ms = MIN(w->purge_ms, server_ms(w));
    *task = (Task){ schedule, at_ms, server_ms(w), true, true };
    w->tally.fired++;
}

/* --- the server ------------------------------------------------------------------------------- */

/* Something is not as it should be: what was due is late. */
static void trouble(World *w)
{
    for (int i = 0; i < w->rows_n; i++) w->rows[i].well_ms = INT64_MAX;
}

/* A commit: 0, or not: nothing was done, or all was done and the server was killed then. */
typedef enum { DONE, NOTHING_DONE, KILLED } Commit;

static Commit commit(World *w)
{
    if (w->fails || chance(w, 20)) {
        w->tally.failed++;
        trouble(w);
        return NOTHING_DONE;
    }
    if (!chance(w, 30)) return DONE;
    w->tally.kills++;
    trouble(w);
    return KILLED;
}

static void put(World *w, int at)
{
    Row *row = &w->rows[at];
    *row = (Row){ .cron = (int)upto(w, CRONS_N - 1),
                  .missed = (MissedPolicy)upto(w, MISSED_N_ - 1),
                  .set_n = row->set_n + 1,
                  .owes_ms = server_ms(w),
                  .well_ms = INT64_MAX };
    row->next_at_ms = schedule_first_ms(&parsed[row->cron], server_ms(w), zone_of(w));
    w->tally.put++;
}

/* As the policy says: what a step makes, and what it passes over. */
static void check_step(World *w, const Row *row, const ScheduleStep *step)
{
    int64_t now_ms = server_ms(w), due_ms = row->next_at_ms;
    bool late = due_ms < now_ms - SCHEDULE_LATE_MS;
    bool last = next_of(row, step->at_ms) > now_ms;
    MUST(step->at_ms >= due_ms && step->at_ms <= now_ms);
    MUST(step->next_at_ms == next_of(row, step->at_ms));
    MUST(late || (step->fires && step->at_ms == due_ms));
    if (row->missed == MISSED_ALL && step->fires) MUST(step->at_ms == due_ms);
    if (row->missed == MISSED_ALL && !step->fires)
        MUST(step->at_ms < now_ms - SCHEDULE_CATCH_UP_MS + MINUTE_MS);
    if (late && row->missed != MISSED_ALL) MUST(last);
    if (late && row->missed == MISSED_ONCE) MUST(step->fires);
    if (row->missed == MISSED_SKIP) MUST(step->fires == (step->at_ms >= now_ms - SCHEDULE_LATE_MS));
    w->tally.late += late;
}

static ScheduleStep step_of(World *w, const Row *row)
{
    MissedPolicy missed = row->missed;
    if (BREAKS(w, ALL_ONCE) && missed == MISSED_ALL) missed = MISSED_ONCE;
    if (BREAKS(w, SKIPPED_MADE) && missed == MISSED_SKIP) missed = MISSED_ONCE;
    if (BREAKS(w, ONCE_SKIPPED) && missed == MISSED_ONCE) missed = MISSED_SKIP;
    ScheduleStep step = schedule_step(&parsed[row->cron], missed, row->next_at_ms, server_ms(w),
                                      zone_of(w));
    check_step(w, row, &step);
    return step;
}

static void move(World *w, int at, const Row *read, int64_t next_at_ms)
{
    Row *row = &w->rows[at];
    bool same = row->set_n == read->set_n && row->next_at_ms == read->next_at_ms;
    if (same || BREAKS(w, MOVED_BLINDLY)) row->next_at_ms = next_at_ms;
}

/* The one that is due the longest, behind those whose lane is full. */
static int due(const World *w, const bool full[SCHEDULES_N])
{
    int at = -1;
    for (int i = 0; i < w->rows_n; i++) {
        int64_t next_at_ms = w->rows[i].next_at_ms;
        if (next_at_ms == 0 || next_at_ms > server_ms(w) || full[i]) continue;
        if (at < 0 || next_at_ms < w->rows[at].next_at_ms) at = i;
    }
    return at;
}

/* Its task is made and it is moved, in one commit. */
static Commit fire(World *w, int at, bool *ret_full)
{
    Row read = w->rows[at];
    ScheduleStep step = step_of(w, &read);
    Commit c = DONE;
    w->tally.skipped += !step.fires;
    if (chance(w, 20)) put(w, at);
    if (step.fires && w->full) {
        trouble(w);
        *ret_full = !BREAKS(w, FULL_PASSED);
        if (*ret_full) return DONE;
        step.fires = false;
    }
    if (BREAKS(w, MOVED_FIRST)) {
        c = commit(w);
        if (c != NOTHING_DONE) move(w, at, &read, step.next_at_ms);
        if (c != DONE) return c;
    }
    c = commit(w);
    if (c == NOTHING_DONE) return c;
    if (step.fires) task_make(w, at, step.at_ms);
    move(w, at, &read, step.next_at_ms);
    return c;
}

/* Times that the calendar has been set back before were never missed. */
static void owes(World *w)
{
    for (int i = 0; i < w->rows_n && server_ms(w) < w->seen_ms; i++)
        w->rows[i].owes_ms = server_ms(w);
    w->seen_ms = server_ms(w);
}

static void look(World *w)
{
    owes(w);
    bool first = w->looked_ms == INT64_MAX, back = w->known_ms < w->looked_ms;
    w->looked_ms = w->known_ms;
    if (!back || BREAKS(w, first ? START_UNLOOKED : BACK_FORGOTTEN)) return;
    for (int i = 0; i < w->rows_n; i++) {
        Row *row = &w->rows[i];
        row->next_at_ms = schedule_due_ms(&parsed[row->cron], row->next_at_ms, server_ms(w),
                                          zone_of(w));
    }
}

static void server_begins(World *w)
{
    w->known_ms = w->calendar_ms;
    w->looked_ms = INT64_MAX;
}

static bool calendar_is_off(const World *w)
{
    int64_t off_ms = w->calendar_ms - w->known_ms;
    return off_ms >= CALENDAR_SET_MS || off_ms <= -CALENDAR_SET_MS;
}

static void tick(World *w)
{
    bool full[SCHEDULES_N] = { 0 };
    if (calendar_is_off(w)) w->known_ms = w->calendar_ms;
    keys_purge(w);
    look(w);
    for (int i = 0; i < FIRED_MAX; i++) {
        int at = due(w, full);
        if (at < 0) return;
        Commit c = fire(w, at, &full[at]);
        if (c == KILLED) server_begins(w);
        if (c != DONE) return;
    }
}

/* --- what is to be seen ----------------------------------------------------------------------- */

/* Whatever the calendar has passed since all was well has its task. */
static void check_passed(World *w, int at)
{
    Row *row = &w->rows[at];
    int64_t now_ms = server_ms(w);
    if (row->well_ms == INT64_MAX) {
        row->well_ms = now_ms;
        return;
    }
    int64_t next_ms = next_of(row, row->well_ms);
    while (next_ms <= now_ms && MUST_HOLD(task_at(w, at, next_ms)->made))
        next_ms = next_of(row, next_ms);
    row->well_ms = now_ms;
}

/* In the end nothing is owed any more. */
static void check_end(World *w)
{
    for (int at = 0; at < w->rows_n; at++) {
        const Row *row = &w->rows[at];
        int64_t now_ms = server_ms(w), day_ms = now_ms - SCHEDULE_CATCH_UP_MS;
        MUST(row->next_at_ms == next_of(row, now_ms));
        if (row->missed != MISSED_ALL) continue;
        int64_t at_ms = next_of(row, MAX(row->owes_ms, day_ms));
        while (at_ms <= now_ms && MUST_HOLD(task_at(w, at, at_ms)->made))
            at_ms = next_of(row, at_ms);
    }
}

/* --- what goes wrong -------------------------------------------------------------------------- */

static int64_t off_ms(World *w)
{
    static const int64_t most[] = { 900, 90 * SECOND_MS, HOUR_MS, DAY_MS, 400 * DAY_MS };
    int64_t by_ms = most[upto(w, 4)];
    return upto(w, 2 * by_ms) - by_ms;
}

static void calendar_is_set(World *w)
{
    w->calendar_ms += off_ms(w);
    w->tally.set++;
    trouble(w);
}

static void server_is_away(World *w)
{
    static const int64_t most[] = { 30 * SECOND_MS, 2 * HOUR_MS, 3 * DAY_MS, 100 * DAY_MS };
    w->now_ms += upto(w, most[upto(w, 3)]);
    if (chance(w, 300)) calendar_is_set(w);
    server_begins(w);
    w->tally.away++;
    trouble(w);
}

static void fault(World *w)
{
    w->full = chance(w, w->full ? 700 : 50);
    w->fails = chance(w, w->fails ? 500 : 30);
    w->tally.full += w->full;
    if (chance(w, 60)) server_is_away(w);
    if (chance(w, 60)) calendar_is_set(w);
    if (chance(w, 40)) put(w, (int)upto(w, w->rows_n - 1));
}

/* The server looks every second; in between nothing happens until something is due. */
static void time_passes(World *w)
{
    bool looks = calendar_is_off(w) || w->looked_ms == INT64_MAX;
    int64_t until_ms = looks ? 0 : upto(w, 3) ? HOUR_MS : 2 * DAY_MS;
    for (int i = 0; i < w->rows_n; i++) {
        int64_t in_ms = w->rows[i].next_at_ms - server_ms(w);
        if (w->rows[i].next_at_ms > 0) until_ms = MIN(until_ms, MAX(in_ms, 0));
    }
    w->now_ms += until_ms + upto(w, 2 * SECOND_MS);
}

/* --- a run ------------------------------------------------------------------------------------ */

static void step(World *w)
{
    if (!w->calm) fault(w);
    time_passes(w);
    tick(w);
    bool behind = false;
    for (int i = 0; i < w->rows_n; i++)
        behind |= w->rows[i].next_at_ms > 0 && w->rows[i].next_at_ms <= server_ms(w);
    for (int i = 0; i < w->rows_n && !w->full && !w->fails && !behind; i++) check_passed(w, i);
}

static bool seed_holds(World *w, uint64_t seed, Rule broken)
{
    memset(w, 0, sizeof *w);
    w->purge_ms = INT64_MAX;
    w->seed = seed;
    w->broken = broken;
    w->random.state = seed * 0x9e3779b97f4a7c15 + 1;
    w->now_ms = upto(w, 400 * DAY_MS);
    server_begins(w);
    w->rows_n = 1 + (int)upto(w, SCHEDULES_N - 1);
    for (int i = 0; i < w->rows_n; i++) put(w, i);
    for (w->step = 0; w->step < STEPS && !w->why; w->step++) step(w);
    w->calm = true;
    w->full = w->fails = false;
    trouble(w);
    for (int i = 0; i < TICKS_CALM && !w->why; i++) tick(w);
    for (int i = 0; i < STEPS_CALM && !w->why; i++) step(w);
    check_end(w);
    return !w->why;
}

/* --- tests ------------------------------------------------------------------------------------ */

static uint64_t seed_first = 1, seed_n = SEEDS;
static Rule rule_given = NOTHING_BROKEN;

static void world_print(const World *w)
{
    fprintf(stderr, "seed %" PRIu64 ", step %d: failed: %s (line %d); now %" PRId64 "\n", w->seed,
            w->step, w->why, w->line, server_ms(w));
    for (int i = 0; i < w->rows_n; i++) {
        const Row *row = &w->rows[i];
        fprintf(stderr, "%s, %d: due in %" PRId64 " ms, well for %" PRId64 " ms\n",
                crons[row->cron], (int)row->missed, row->next_at_ms - server_ms(w),
                row->well_ms == INT64_MAX ? 0 : server_ms(w) - row->well_ms);
    }
    fprintf(stderr, "replay: test_sim_schedule %" PRIu64 " %s\n", w->seed, rules[w->broken]);
}

static void tally_add(Tally *sum, const Tally *t)
{
    const uint64_t *from = (const uint64_t *)(const void *)t;
    uint64_t *to = (uint64_t *)(void *)sum;
    for (size_t i = 0; i < sizeof *t / sizeof *to; i++) to[i] += from[i];
}

static void check_tally(const Tally *t, double years)
{
#define N(field) (unsigned long long)t->field
    print_message("%.0f years: %llu tasks, %llu found again, %llu late, %llu passed over; calendar "
                  "set %llu, killed %llu, away %llu, commits failed %llu, lane full %llu, set "
                  "anew %llu\n",
                  years, N(fired), N(found), N(late), N(skipped), N(set), N(kills), N(away),
                  N(failed), N(full), N(put));
#undef N
    assert_true(t->fired && t->found && t->late && t->skipped && t->set && t->kills && t->away);
    assert_true(t->failed && t->full && t->put);
}

static void test_runs(void **state)
{
    (void)state;
    World *w = calloc(1, sizeof *w);
    Tally sum = { 0 };
    double years = 0;
    for (uint64_t seed = seed_first; seed < seed_first + seed_n; seed++) {
        if (!seed_holds(w, seed, rule_given)) {
            world_print(w);
            fail();
        }
        tally_add(&sum, &w->tally);
        years += (double)w->now_ms / (365.25 * (double)DAY_MS);
    }
    if (seed_n >= SEEDS_SLOW) check_tally(&sum, years);
    free(w);
}

/* The simulator can fail: whatever rule is broken, it is found out. */
static void test_a_broken_rule_shows(void **state)
{
    (void)state;
    World *w = calloc(1, sizeof *w);
    for (int rule = NOTHING_BROKEN + 1; rule < RULE_N_ && seed_n > 1; rule++) {
        uint64_t seed = 1;
        while (seed <= SEEDS_BROKEN && seed_holds(w, seed, (Rule)rule)) seed++;
        print_message("%s: seed %d: %s\n", rules[rule], (int)seed, w->why);
        assert_true(seed <= SEEDS_BROKEN);
    }
    free(w);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_a_broken_rule_shows),
    };
    for (size_t i = 0; i < CRONS_N; i++)
        if (cron_parse(str_of(crons[i]), &parsed[i]) != 0) return 2;
    sim_seeds(argc, argv, &seed_first, &seed_n);
    int rule = argc > 2 ? sim_rule(argv[2], rules, RULE_N_) : NOTHING_BROKEN;
    if (rule < 0) return 2;
    rule_given = (Rule)rule;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
