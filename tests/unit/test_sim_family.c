/* Families of tasks that fork, spend, crash, try again and end in any order: what they spend
 * together stays within the cap of the first, what is borne for each is exact, and asking again
 * starts nothing twice. Attempts hold in memory what is lost with them; only rows survive. usage:
 * test_sim_family [SEED] replays one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "logic/family.h"
#include "random.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RUNS 4000
#else
#define RUNS 20000
#endif
#define STEPS 400
#define TASKS_MAX 64
#define KEYS 4
#define CALLS 3

static uint64_t seed_first = 1, seed_n = RUNS;

static const FamilyBounds bounds = { .depth_max = 3, .children_max = 5, .members_max = 40 };

#define MUST(condition)                                                                     \
    do {                                                                                    \
        if (!(condition)) {                                                                 \
            fprintf(stderr, "seed %" PRIu64 ", step %d: failed: %s (line %d)\n", run->seed, \
                    run->step, #condition, __LINE__);                                       \
            fail();                                                                         \
        }                                                                                   \
    } while (0)

/* What an attempt knows: gone when its worker dies. */
typedef struct {
    bool on;
    CapLimits limits;
    CapState caps;
    CapHold calls[CALLS]; /* in flight; tokens 0: none */
    bool knows[TASKS_MAX], knows_ended[TASKS_MAX];
} Attempt;

/* A row. */
typedef struct {
    int parent, key;
    int64_t depth, children;
    FamilyMember member;
    bool root_open; /* of the first: its end is borne by nobody */
    Attempt attempt;
} Task;

typedef struct {
    uint64_t seed;
    int step;
    Random random;
    int n;
    Task tasks[TASKS_MAX];
    FamilyAmount cap, spent; /* spent: by all of them, as the provider counts */
    FamilyAmount late;       /* of it, what became known only after the next attempt had begun */
    int known;               /* tasks whose keys were compared with those before */
    int found, refused;
} Run;

static bool chance(Run *run, int percent)
{
    return random_range(&run->random, 0, 99) < percent;
}

static int64_t upto(Run *run, int64_t max)
{
    return random_range(&run->random, 0, max);
}

static bool is_open(const Task *t)
{
    return t->parent < 0 ? t->root_open : t->member.open;
}

/* --- rows: as store/family_store.c changes them ----------------------------------------------- */

static void kids_change(Run *run, int at, const FamilyAmount *more)
{
    while (at >= 0) {
        Task *t = &run->tasks[at];
        t->member.kids.tokens += more->tokens;
        t->member.kids.nusd += more->nusd;
        t->member.kids.tool_calls += more->tool_calls;
        at = is_open(t) ? -1 : t->parent;
    }
}

static void book(Run *run, int at, const FamilyAmount *more)
{
    Task *t = &run->tasks[at];
    t->member.own = family_sum(&t->member.own, more);
    run->spent = family_sum(&run->spent, more);
    if (!is_open(t)) kids_change(run, t->parent, more);
}

static void end_row(Run *run, int at)
{
    Task *t = &run->tasks[at];
    if (t->parent < 0) {
        t->root_open = false;
        return;
    }
    FamilyAmount before = family_charge(&t->member);
    t->member.open = false;
    FamilyAmount after = family_charge(&t->member), more = family_difference(&after, &before);
    kids_change(run, t->parent, &more);
}

/* --- attempts --------------------------------------------------------------------------------- */

static void learn(Run *run, int at)
{
    Attempt *a = &run->tasks[at].attempt;
    for (int i = 0; i < run->n; i++) {
        Task *child = &run->tasks[i];
        if (child->parent != at) continue;
        if (!a->knows[i]) family_lend(&a->limits, &a->caps, &child->member.allotted);
        a->knows[i] = true;
        if (a->knows_ended[i] || child->member.open) continue;
        FamilyAmount charge = family_charge(&child->member);
        family_return(&a->limits, &a->caps, &child->member.allotted, &charge);
        a->knows_ended[i] = true;
    }
}

static void begin(Run *run, int at)
{
    Task *t = &run->tasks[at];
    const FamilyAmount *cap = t->parent < 0 ? &run->cap : &t->member.allotted;
    t->attempt = (Attempt){
        .on = true,
        .limits = { .tokens = cap->tokens,
                    .usd_nusd = cap->nusd,
                    .tool_calls = cap->tool_calls,
                    .wall_ms = CAP_NONE },
        .caps = { .settled_tokens = t->member.own.tokens,
                  .settled_nusd = t->member.own.nusd,
                  .tool_calls = t->member.own.tool_calls },
    };
    learn(run, at);
}

static void call_begin(Run *run, int at)
{
    Attempt *a = &run->tasks[at].attempt;
    FamilyAmount left = family_left(&a->limits, &a->caps);
    int i = (int)upto(run, CALLS - 1);
    if (a->calls[i].tokens || left.tokens == 0 || left.nusd == 0) return;
    CapHold hold = { 1 + upto(run, left.tokens - 1), 1 + upto(run, left.nusd - 1) };
    a->calls[i] = hold;
    a->caps.reserved_tokens += hold.tokens;
    a->caps.reserved_nusd += hold.nusd;
    a->caps.in_flight++;
}

static FamilyAmount used(Run *run, const CapHold *hold)
{
    bool full = chance(run, 30);
    return (FamilyAmount){ full ? hold->tokens : upto(run, hold->tokens),
                           full ? hold->nusd : upto(run, hold->nusd), 0 };
}

static void call_end(Run *run, int at)
{
    Attempt *a = &run->tasks[at].attempt;
    for (int i = 0; i < CALLS; i++) {
        if (!a->calls[i].tokens) continue;
        FamilyAmount spent = used(run, &a->calls[i]);
        CapHold actual = { spent.tokens, spent.nusd };
        MUST(cap_settle(&a->caps, &a->calls[i], &actual, 0));
        a->calls[i] = (CapHold){ 0 };
        book(run, at, &spent);
        return;
    }
}

static void tool(Run *run, int at)
{
    Attempt *a = &run->tasks[at].attempt;
    if (cap_admit_tool(&a->limits, &a->caps, 0).kind == CAP_ADMIT)
        book(run, at, &(FamilyAmount){ 0, 0, 1 });
}

/* Its worker is killed: what was in flight may have been billed, and is told of before the next
 * attempt begins, or later. */
static void crash(Run *run, int at)
{
    Task *t = &run->tasks[at];
    Attempt gone = t->attempt;
    t->attempt.on = false;
    bool early = chance(run, 70);
    if (!early) begin(run, at);
    for (int i = 0; i < CALLS; i++) {
        if (!gone.calls[i].tokens || chance(run, 30)) continue;
        FamilyAmount spent = used(run, &gone.calls[i]);
        book(run, at, &spent);
        if (!early) run->late = family_sum(&run->late, &spent);
    }
}

/* The parent's end (by whatever) ends all below it, sooner or later: here one after the other. */
static void end(Run *run, int at)
{
    Task *t = &run->tasks[at];
    while (t->attempt.caps.in_flight > 0 && t->attempt.on) {
        int64_t before = t->attempt.caps.in_flight;
        call_end(run, at);
        if (t->attempt.caps.in_flight == before) break; /* the rest is lent */
    }
    t->attempt.on = false;
    end_row(run, at);
}

/* --- forking ---------------------------------------------------------------------------------- */

static int find(const Run *run, int parent, int key)
{
    for (int i = 0; i < run->n; i++)
        if (run->tasks[i].parent == parent && run->tasks[i].key == key) return i;
    return -1;
}

/* The control plane's part: finds it, or adds it. Returns its number, -1: refused. */
static int child_row(Run *run, int at, int key, const FamilyAmount *offered)
{
    int known = find(run, at, key);
    Task *t = &run->tasks[at];
    if (known >= 0) {
        run->found++;
        return known;
    }
    if (run->n == TASKS_MAX ||
        family_may_grow(&bounds, t->depth, t->children, run->n) != FAMILY_MAY_GROW) {
        run->refused++;
        return -1;
    }
    FamilyAmount most = { 50 + upto(run, 5000), 50 + upto(run, 5000), upto(run, 20) };
    FamilyAmount allotted = family_least(offered, &most);
    run->tasks[run->n] = (Task){ .parent = at,
                                 .key = key,
                                 .depth = t->depth + 1,
                                 .member = { .open = true, .allotted = allotted } };
    t->children++;
    t->member.kids = family_sum(&t->member.kids, &allotted);
    return run->n++;
}

static void fork_child(Run *run, int at)
{
    Attempt *a = &run->tasks[at].attempt;
    FamilyAmount left = family_left(&a->limits, &a->caps), offered, nothing = { 0 };
    FamilyAmount asked = { chance(run, 50) ? CAP_NONE : 1 + upto(run, 3000),
                           chance(run, 50) ? CAP_NONE : 1 + upto(run, 3000),
                           chance(run, 50) ? CAP_NONE : upto(run, 10) };
    if (family_allot(&left, &asked, &offered) != CAP_BY_NOTHING) return;
    MUST(offered.tokens <= left.tokens && offered.nusd <= left.nusd);
    family_lend(&a->limits, &a->caps, &offered);
    int key = (int)upto(run, KEYS - 1), child = child_row(run, at, key, &offered);
    if (chance(run, 10)) { /* the answer is lost with the worker */
        crash(run, at);
        return;
    }
    while (chance(run, 20)) MUST(child < 0 || child_row(run, at, key, &offered) == child);
    family_return(&a->limits, &a->caps, &offered, &nothing);
    if (child < 0 || a->knows[child]) return;
    family_lend(&a->limits, &a->caps, &run->tasks[child].member.allotted);
    a->knows[child] = true;
}

/* --- checks ----------------------------------------------------------------------------------- */

static void check_rows(Run *run)
{
    FamilyAmount own = { 0 }, kids[TASKS_MAX] = { 0 };
    for (int i = 0; i < run->n; i++) {
        const Task *t = &run->tasks[i];
        FamilyAmount charge = family_charge(&t->member);
        if (t->parent >= 0) kids[t->parent] = family_sum(&kids[t->parent], &charge);
        own = family_sum(&own, &t->member.own);
    }
    for (int i = 0; i < run->n; i++) {
        const FamilyAmount *found = &run->tasks[i].member.kids;
        MUST(found->tokens == kids[i].tokens && found->nusd == kids[i].nusd &&
             found->tool_calls == kids[i].tool_calls);
    }
    MUST(own.tokens == run->spent.tokens && own.nusd == run->spent.nusd);
}

static void check_caps(Run *run)
{
    MUST(run->n <= bounds.members_max);
    MUST(run->spent.tokens <= run->cap.tokens + run->late.tokens);
    MUST(run->spent.nusd <= run->cap.nusd + run->late.nusd);
    MUST(run->spent.tool_calls <= run->cap.tool_calls);
    for (int i = 0; i < run->n; i++) {
        const Task *t = &run->tasks[i];
        for (int k = 0; k < i && i >= run->known; k++) /* each once */
            MUST(t->parent != run->tasks[k].parent || t->key != run->tasks[k].key);
        MUST(t->depth <= bounds.depth_max && t->children <= bounds.children_max);
        if (!t->attempt.on) continue;
        MUST(t->attempt.caps.reserved_tokens >= 0 && t->attempt.caps.in_flight >= 0);
    }
    run->known = run->n;
}

static void act(Run *run, int at)
{
    Task *t = &run->tasks[at];
    if (!t->attempt.on) begin(run, at);
    learn(run, at);
    int64_t what = upto(run, 99);
    if (what < 30) call_begin(run, at);
    else if (what < 60) call_end(run, at);
    else if (what < 70) tool(run, at);
    else if (what < 88) fork_child(run, at);
    else if (what < 94) crash(run, at);
    else if (t->parent >= 0) end(run, at);
}

static void run_seed(uint64_t seed, Run *run)
{
    *run = (Run){ .seed = seed, .random = { seed }, .n = 1 };
    run->cap = (FamilyAmount){ 500 + upto(run, 20000), 500 + upto(run, 20000), upto(run, 60) };
    run->tasks[0] = (Task){ .parent = -1, .root_open = true };
    for (run->step = 0; run->step < STEPS; run->step++) {
        int at = (int)upto(run, run->n - 1);
        Task *t = &run->tasks[at];
        if (is_open(t)) {
            act(run, at);
        } else if (chance(run, 3) && t->parent >= 0) { /* news of a call of an ended task */
            FamilyAmount spent = { upto(run, 50), upto(run, 50), 0 };
            book(run, at, &spent);
            run->late = family_sum(&run->late, &spent);
        }
        check_rows(run);
        check_caps(run);
    }
    for (int i = run->n - 1; i >= 0; i--)
        if (is_open(&run->tasks[i])) end(run, i);
    check_rows(run);
    FamilyAmount all = family_sum(&run->tasks[0].member.own, &run->tasks[0].member.kids);
    MUST(all.tokens == run->spent.tokens && all.nusd == run->spent.nusd &&
         all.tool_calls == run->spent.tool_calls); /* nothing is lost, nothing stays lent */
}

static void test_runs(void **state)
{
    (void)state;
    Run *run = calloc(1, sizeof *run);
    int found = 0, refused = 0;
    for (uint64_t seed = seed_first; seed < seed_first + seed_n; seed++) {
        run_seed(seed, run);
        found += run->found;
        refused += run->refused;
    }
    print_message("%d seeds\n", (int)seed_n);
    assert_true(seed_n == 1 || (found > 0 && refused > 0)); /* it does get there */
    free(run);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_runs) };
    if (argc > 1) {
        seed_first = strtoull(argv[1], NULL, 10);
        seed_n = 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
