/* How many workers are wanted, and which are started and drained, on the program's rules
 * (logic/scaling, fleet), in virtual time: load that is steady, comes in bursts, stops, of short
 * tasks and long ones; workers that take a while to start, and are killed; a control plane that
 * does not answer for a while, and is restarted, by which it forgets what it has seen. Then the
 * load is steady, and then there is none.
 *
 *   never more than twice the most, never fewer wanted than what runs needs
 *   what is given up nobody has used for scaling.downAfter, whatever has been restarted; one at a
 *     time, and none that has more to do than another
 *   under a steady load what was given up is not wanted again, and what waits is worked off
 *   without any, the least is left
 *
 * The same with a rule broken must fail, for each rule.
 * usage: test_sim_scaling [SEED [RULE]] replays one; FIRST-LAST plays many. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "logic/fleet.h"
#include "logic/scaling.h"
#include "random.h"
#include "sim_args.h"

#define SEEDS_SLOW 1500
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SEEDS SEEDS_SLOW
#else
#define SEEDS 20000
#endif
#define SEEDS_BROKEN 4000
#define WORKERS_MOST 8
#define SLOTS_MOST 4
#define MEMBERS_MAX (2 * WORKERS_MOST)
#define PARTS_WILD 60    /* of ScalingRule.down_ms / SCALING_PARTS each, in which all goes wrong */
#define PARTS_STEADY 60  /* in which the load is steady */
#define PARTS_WATCHED 25 /* the last of these: what is given up is not wanted again */
#define PARTS_QUIET 60
#define STEPS_A_PART 4
#define PEAKS (SCALING_PARTS * STEPS_A_PART - 2 * STEPS_A_PART) /* steps for which use is known */

typedef enum {
    NOTHING_BROKEN,
    RUNNING_FORGOTTEN, /* what runs is not looked at */
    BACKLOG_FORGOTTEN, /* what waits is not */
    DOWN_AT_ONCE,      /* the highest need of late is forgotten */
    START_KNOWS,       /* a control plane that has just begun gives workers up */
    SILENCE_IS_NONE,   /* no answer is taken for nobody */
    BUSY_DRAINED,      /* whoever was started last is drained, whatever it does */
    ALL_AT_ONCE,       /* the next is drained before the while is over */
    RULE_N_
} Rule;

static const char *const rules[RULE_N_] = {
    [NOTHING_BROKEN] = "none",
    [RUNNING_FORGOTTEN] = "running-forgotten",
    [BACKLOG_FORGOTTEN] = "backlog-forgotten",
    [DOWN_AT_ONCE] = "down-at-once",
    [START_KNOWS] = "start-knows",
    [SILENCE_IS_NONE] = "silence-is-none",
    [BUSY_DRAINED] = "busy-drained",
    [ALL_AT_ONCE] = "all-at-once",
};

typedef struct {
    FleetMember fleet;
    int64_t ready_ms; /* it starts until then */
    int64_t ends_ms[SLOTS_MOST];
    int running;
} SimMember;

typedef struct {
    uint64_t starts, drains, kills, restarts, silences, tasks, lost, held;
} Tally;

typedef struct {
    uint64_t seed;
    Rule broken;
    const char *why;
    int line;
    Random random;
    ScalingRule scaling_rule;
    FleetRule fleet_rule;
    int64_t now_ms, step_ms, slots; /* of a worker */
    bool wild;

    double per_ms, owed; /* arrivals */
    int64_t takes_ms;

    int64_t queued, arrived, started, ran, ran_ms; /* the last four since the last restart */
    int64_t silent_until_ms, down_until_ms;
    Scaling scaling;
    int64_t wanted, heard; /* heard: last */
    Fleet fleet;
    int64_t drained_ms;   /* the last that was given up */
    int64_t peaks[PEAKS]; /* what ran at once of late, in a ring */
    int64_t alive[PEAKS]; /* likewise */
    int steps;
    SimMember members[MEMBERS_MAX];
    size_t n;
    Tally tally;
} World;

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
    return w->wild && upto(w, 999) < in_thousand;
}

static int64_t running_of(const World *w)
{
    int64_t n = 0;
    for (size_t i = 0; i < w->n; i++) n += w->members[i].running;
    return n;
}

/* --- tasks and workers ------------------------------------------------------------------------ */

static void tasks_arrive(World *w)
{
    w->owed += w->per_ms * (double)w->step_ms;
    int64_t n = (int64_t)w->owed;
    w->owed -= (double)n;
    w->queued += n;
    w->arrived += n;
    w->tally.tasks += (uint64_t)n;
}

static void member_ends(World *w, SimMember *m)
{
    for (int i = 0; i < m->running;) {
        if (m->ends_ms[i] > w->now_ms) {
            i++;
            continue;
        }
        m->ends_ms[i] = m->ends_ms[--m->running];
        w->ran++;
        w->ran_ms += w->takes_ms;
    }
}

static void member_takes(World *w, SimMember *m)
{
    while (m->fleet.state == MEMBER_WORKING && m->running < w->slots && w->queued > 0) {
        w->queued--;
        w->started++;
        m->ends_ms[m->running++] = w->now_ms + w->takes_ms;
    }
}

static void member_goes(World *w, size_t at)
{
    w->queued += w->members[at].running;
    w->members[at] = w->members[--w->n];
}

static void members_live(World *w)
{
    for (size_t i = 0; i < w->n; i++) {
        SimMember *m = &w->members[i];
        if (m->fleet.state == MEMBER_STARTING && m->ready_ms <= w->now_ms)
            m->fleet.state = MEMBER_WORKING;
        member_ends(w, m);
        bool dies = chance(w, 2), leaves = m->fleet.state == MEMBER_DRAINING && m->running == 0;
        if (dies && m->fleet.state != MEMBER_DRAINING) fleet_failed(&w->fleet, w->now_ms);
        w->tally.kills += dies;
        if (dies || leaves) {
            member_goes(w, i--);
            continue;
        }
        member_takes(w, m);
    }
}

/* --- the control plane ------------------------------------------------------------------------ */

static int64_t workers_there(const World *w)
{
    int64_t n = 0;
    for (size_t i = 0; i < w->n; i++) n += w->members[i].fleet.state == MEMBER_WORKING;
    return n;
}

/* What nobody has used for a while may go: of what could run at once. */
static void check_wanted(World *w, int64_t wanted)
{
    int64_t most = 0, there = INT64_MAX;
    for (int i = 0; i < MIN(w->steps, PEAKS); i++) most = MAX(most, w->peaks[i]);
    for (int i = 0; i < MIN(w->steps, PEAKS); i++) there = MIN(there, w->alive[i]);
    int64_t needed = (most + w->slots - 1) / w->slots;
    needed = MIN(needed, MIN(there, w->scaling_rule.workers_max)); /* none was lost meanwhile */
    MUST(wanted >= needed);
}

static void control_looks(World *w)
{
    ScalingView view = { .now_ms = w->now_ms,
                         .arrived = w->arrived,
                         .started = w->started,
                         .ran = w->ran,
                         .ran_ms = w->ran_ms,
                         .queued = BREAKS(w, BACKLOG_FORGOTTEN) ? 0 : w->queued,
                         .running = BREAKS(w, RUNNING_FORGOTTEN) ? 0 : running_of(w) };
    scaling_step(&w->scaling, &w->scaling_rule, &view);
    if (BREAKS(w, DOWN_AT_ONCE)) memset(w->scaling.most, 0, sizeof w->scaling.most);
}

static int64_t control_says(World *w)
{
    bool knows = scaling_knows(&w->scaling, &w->scaling_rule) || BREAKS(w, START_KNOWS);
    int64_t wanted = scaling_workers(&w->scaling_rule, w->scaling.slots, w->slots);
    w->tally.held += !knows && wanted < workers_there(w);
    return scaling_keep(&w->scaling_rule, wanted, workers_there(w), knows);
}

static void control_begins(World *w)
{
    w->scaling = (Scaling){ 0 };
    w->arrived = w->started = w->ran = w->ran_ms = 0;
    w->down_until_ms = w->now_ms + upto(w, 3 * w->step_ms);
    w->tally.restarts++;
}

/* --- the supervisor --------------------------------------------------------------------------- */

static void check_drain(World *w, size_t at)
{
    const SimMember *m = &w->members[at];
    bool young = m->fleet.generation == w->fleet.generation;
    MUST(m->fleet.state != MEMBER_DRAINING);
    w->tally.drains++;
    if (!young) return;
    for (size_t i = 0; i < w->n; i++) {
        const SimMember *other = &w->members[i];
        bool stays = other->fleet.state != MEMBER_DRAINING &&
                     other->fleet.generation == w->fleet.generation;
        if (stays) MUST(m->running <= other->running);
    }
    MUST(w->drained_ms == 0 || w->now_ms - w->drained_ms >= w->fleet_rule.down_every_ms);
    w->drained_ms = w->now_ms;
}

static void plan(World *w)
{
    FleetMember members[MEMBERS_MAX];
    for (size_t i = 0; i < w->n; i++) {
        members[i] = w->members[i].fleet;
        members[i].running = BREAKS(w, BUSY_DRAINED) ? 0 : w->members[i].running;
    }
    if (BREAKS(w, ALL_AT_ONCE)) w->fleet.drained_at_ms = 0;
    FleetPlan plan = fleet_plan(&w->fleet, &w->fleet_rule, members, w->n, w->wanted, w->now_ms);
    if (plan.drain >= 0) {
        check_drain(w, (size_t)plan.drain);
        w->members[plan.drain].fleet.state = MEMBER_DRAINING;
    }
    for (int64_t i = 0; i < plan.start; i++) {
        if (!MUST_HOLD(w->n < MEMBERS_MAX && (int64_t)w->n < 2 * w->fleet_rule.max)) return;
        FleetMember is = { .generation = w->fleet.generation, .started_ms = w->now_ms };
        w->members[w->n++] = (SimMember){ .fleet = is,
                                          .ready_ms = w->now_ms + upto(w, 4 * w->step_ms) };
        w->tally.starts++;
    }
}

static void supervisor_asks(World *w)
{
    if (MAX(w->silent_until_ms, w->down_until_ms) > w->now_ms) {
        w->tally.silences++;
        if (BREAKS(w, SILENCE_IS_NONE)) w->wanted = 0;
    } else {
        w->wanted = w->heard = control_says(w);
        check_wanted(w, w->wanted);
        MUST(w->wanted <= w->scaling_rule.workers_max);
        MUST(w->wanted >= w->scaling_rule.workers_min);
    }
    MUST(w->wanted == w->heard); /* without an answer the last one holds */
    plan(w);
}

/* --- a run ------------------------------------------------------------------------------------ */

/* As much as all can do at most; one that comes rarely is a burst each time. */
static void load_changes(World *w)
{
    int64_t part_ms = w->scaling_rule.down_ms / SCALING_PARTS;
    double most = (double)(w->scaling_rule.workers_max * w->slots);
    int64_t most_ms = (upto(w, 3) ? 1 : 20) * part_ms;
    w->takes_ms = (1 + upto(w, most_ms / w->step_ms)) * w->step_ms; /* whole steps */
    double share = (double)upto(w, upto(w, 1) ? 100 : 20) / 100;
    w->per_ms = share * most / (double)w->takes_ms * (double)w->scaling_rule.utilization_percent /
                100;
}

static void step(World *w)
{
    int64_t part_ms = w->scaling_rule.down_ms / SCALING_PARTS;
    w->now_ms += w->step_ms;
    if (chance(w, 20)) load_changes(w);
    if (chance(w, 5)) w->queued += upto(w, 3 * w->slots);
    if (chance(w, 6)) control_begins(w);
    if (chance(w, 10)) w->silent_until_ms = w->now_ms + upto(w, 4 * part_ms);
    if (chance(w, 2)) fleet_replace(&w->fleet);
    tasks_arrive(w);
    members_live(w);
    if (w->down_until_ms <= w->now_ms) control_looks(w);
    w->peaks[w->steps % PEAKS] = running_of(w);
    w->alive[w->steps++ % PEAKS] = workers_there(w);
    supervisor_asks(w);
}

/* As many tasks each step. */
static void load_is_steady(World *w)
{
    int64_t part_ms = w->scaling_rule.down_ms / SCALING_PARTS;
    load_changes(w);
    w->takes_ms = MIN(w->takes_ms, 2 * part_ms);
    w->queued = MIN(w->queued, 4 * w->scaling_rule.workers_max * w->slots); /* the rest gives up */
    double most = (double)(w->scaling_rule.workers_max * w->slots) / (double)w->takes_ms *
                  (double)w->scaling_rule.utilization_percent / 100;
    w->per_ms = most * (0.1 + 0.6 * (double)upto(w, 100) / 100);
    int64_t a_step = (int64_t)(w->per_ms * (double)w->step_ms);
    w->per_ms = ((double)a_step + 1e-9) / (double)w->step_ms;
}

static void run_steady(World *w)
{
    bool down = false;
    w->wild = false;
    w->silent_until_ms = 0;
    load_is_steady(w);
    w->scaling.ran = w->scaling.ran_ms = 0; /* what is known of tasks is of this load */
    for (int i = 0; i < PARTS_STEADY * STEPS_A_PART && !w->why; i++) {
        int64_t was = w->wanted;
        step(w);
        bool watched = i >= (PARTS_STEADY - PARTS_WATCHED) * STEPS_A_PART;
        down |= watched && w->wanted < was;
        MUST(!down || w->wanted <= was); /* it never comes back */
    }
    int64_t soon_ms = w->scaling_rule.down_ms / SCALING_SOON_PARTS;
    int64_t soon = (int64_t)(w->per_ms * (double)soon_ms);
    MUST(w->queued <= soon + w->slots);
}

static void run_quiet(World *w)
{
    w->per_ms = w->owed = 0;
    for (int i = 0; i < PARTS_QUIET * STEPS_A_PART && !w->why; i++) step(w);
    MUST(w->queued == 0 && running_of(w) == 0);
    MUST(w->wanted == w->scaling_rule.workers_min);
    MUST((int64_t)w->n == MAX(w->scaling_rule.workers_min, w->fleet_rule.min));
}

static bool seed_holds(World *w, uint64_t seed, Rule broken)
{
    *w = (World){ .seed = seed, .broken = broken };
    w->random.state = seed * 0x9e3779b97f4a7c15 + 1;
    int64_t most = 1 + upto(w, WORKERS_MOST - 1), least = upto(w, 1);
    w->scaling_rule = (ScalingRule){ .utilization_percent = 50 + upto(w, 50),
                                     .workers_min = least,
                                     .workers_max = most,
                                     .down_ms = 20000 << upto(w, 4) };
    int64_t part_ms = w->scaling_rule.down_ms / SCALING_PARTS;
    w->step_ms = part_ms / STEPS_A_PART;
    w->fleet_rule = (FleetRule){
        .min = least, .max = most, .down_every_ms = 1 + upto(w, 2 * part_ms), .hung_ms = 30000
    };
    w->slots = 1 + upto(w, SLOTS_MOST - 1);
    w->now_ms = 1;
    w->wild = true;
    load_changes(w);
    for (int i = 0; i < PARTS_WILD * STEPS_A_PART && !w->why; i++) step(w);
    if (!w->why) run_steady(w);
    if (!w->why) run_quiet(w);
    return !w->why;
}

/* --- tests ------------------------------------------------------------------------------------ */

static uint64_t seed_first = 1, seed_n = SEEDS;
static Rule rule_given = NOTHING_BROKEN;

static void world_print(const World *w)
{
    fprintf(stderr,
            "seed %" PRIu64 ", at %" PRId64 ": failed: %s (line %d)\n"
            "%" PRId64 " slots each, wanted %" PRId64 " of %" PRId64 "..%" PRId64 ", %zu there, "
            "%" PRId64 " queued, %" PRId64 " run, tasks take %" PRId64 " ms, %.3f arrive a step\n",
            w->seed, w->now_ms, w->why, w->line, w->slots, w->wanted, w->scaling_rule.workers_min,
            w->scaling_rule.workers_max, w->n, w->queued, running_of(w), w->takes_ms,
            w->per_ms * (double)w->step_ms);
    fprintf(stderr, "replay: test_sim_scaling %" PRIu64 " %s\n", w->seed, rules[w->broken]);
}

static void test_runs(void **state)
{
    (void)state;
    World *w = calloc(1, sizeof *w);
    Tally sum = { 0 };
    for (uint64_t seed = seed_first; seed < seed_first + seed_n; seed++) {
        if (!seed_holds(w, seed, rule_given)) {
            world_print(w);
            fail();
        }
        const uint64_t *from = (const uint64_t *)(const void *)&w->tally;
        uint64_t *to = (uint64_t *)(void *)&sum;
        for (size_t i = 0; i < sizeof sum / sizeof *to; i++) to[i] += from[i];
    }
    print_message("%llu tasks; workers started %llu, drained %llu, killed %llu; control plane "
                  "restarted %llu, silent %llu, knew too little to give up %llu\n",
                  (unsigned long long)sum.tasks, (unsigned long long)sum.starts,
                  (unsigned long long)sum.drains, (unsigned long long)sum.kills,
                  (unsigned long long)sum.restarts, (unsigned long long)sum.silences,
                  (unsigned long long)sum.held);
    if (seed_n >= SEEDS_SLOW)
        assert_true(sum.tasks && sum.starts && sum.drains && sum.kills && sum.restarts &&
                    sum.silences && sum.held);
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
    sim_seeds(argc, argv, &seed_first, &seed_n);
    int rule = argc > 2 ? sim_rule(argv[2], rules, RULE_N_) : NOTHING_BROKEN;
    if (rule < 0) return 2;
    rule_given = (Rule)rule;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
