/* A month of virtual production at a time, on the pure rules of rollouts: routing at enqueue,
 * outcomes that come late or never, the watermark, evidence, the state machine; two replicas that
 * both may believe they lead, restarts that lose everything but the store, people who interfere.
 * After each commit the invariants are checked. GANTRY_SEED=N replays one seed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "logic/rng.h"
#include "logic/rollout.h"
#include "logic/route.h"
#include "logic/watermark.h"

#define TICK_MS 30000
#if defined(__SANITIZE_THREAD__)
#define TICKS (3 * 24 * 120) /* no thread is in it: once through is enough */
#else
#define TICKS (30 * 24 * 120) /* thirty days */
#endif
#define TASKS_MAX 400000
#define VERSIONS_MAX 1000
#define SESSIONS 5000
#define LIMIT_MS (30 * INT64_C(60000))

/* --- the store: all that survives a restart --------------------------------------------------- */

#define TASK_DONE TASK_SUCCEEDED /* failed says how */
typedef struct {
    TaskState state;
    int version;
    bool pinned, counts, canary, failed;
    double pi;
    int64_t rollout, start_at_ms, end_at_ms, limit_ms;
} Task;

typedef struct {
    int64_t id; /* 0: none was ever made */
    int canary;
    double error_rate; /* the truth */
    RolloutPlan plan;
    Rollout state;
    Evidence evidence;
    int64_t cursor; /* of units: consumed */
    int64_t canaries_seen;
} Active;

static struct {
    int64_t now_ms, commits;
    bool stable[VERSIONS_MAX];
    int versions_n, stable_version;
    double stable_error;
    Active active;
    struct {
        int64_t rollout;
        Arm arm;
        double pi;
    } assigned[SESSIONS];
    Task tasks[TASKS_MAX];
    int64_t tasks_n, first_open;
    int64_t units[TASKS_MAX]; /* tasks that count in the active rollout, in eligible order */
    int64_t units_n;
} db;

static struct {
    int64_t completed[3], rolled_back[3], other, stale, rebound, advances;
} tally;

static EvidencePlan evidence_plan(const RolloutPlan *plan)
{
    EvidencePlan e = { .metrics = { evidence_absolute(EVIDENCE_FAST, 0.04) },
                       .metrics_n = 1,
                       .steps_n = plan->steps_n,
                       .alpha_rollback = 0.05,
                       .alpha_promote = 0.05 };
    for (size_t i = 0; i < plan->steps_n; i++) e.weight_bp[i] = plan->steps[i].weight_bp;
    return e;
}

static bool is_active(void)
{
    return db.active.id != 0 && !rollout_state_is_end(db.active.state.state);
}

/* --- invariants ------------------------------------------------------------------------------ */

static void check_stable(void)
{
    int stables = 0;
    for (int i = 0; i < db.versions_n; i++) stables += db.stable[i];
    assert_int_equal(stables, 1);
    assert_true(db.stable[db.stable_version]);
}

/* After a rollback no queued task names the bad version, unless somebody asked for it. */
static void check_nothing_left(int version)
{
    for (int64_t i = db.first_open; i < db.tasks_n; i++) {
        const Task *t = &db.tasks[i];
        if (t->state == TASK_QUEUED && !t->pinned) assert_int_not_equal(t->version, version);
    }
}

/* Recomputes the evidence from the store alone, in eligible order, and asks for the proof again. */
static void check_advance(const Active *a, size_t step)
{
    static Evidence fresh;
    EvidencePlan plan = evidence_plan(&a->plan);
    evidence_init(&fresh);
    for (int64_t i = 0; i < a->cursor; i++) {
        const Task *t = &db.tasks[db.units[i]];
        bool over = t->state == TASK_DONE || t->state == TASK_CANCELED || t->limit_ms <= db.now_ms;
        assert_true(over); /* only what lies below the watermark was used */
        if (t->state == TASK_CANCELED) continue;
        EvidenceUnit unit = { .canary = t->canary, .pi = t->pi, .has = 1 };
        unit.harm[0] = t->state != TASK_DONE || t->failed || t->end_at_ms > t->limit_ms;
        evidence_observe(&fresh, &plan, 0, EVIDENCE_FAST, &unit);
    }
    assert_true(evidence_proved(&fresh, &plan, step));
    assert_false(fresh.rollback);
    assert_int_equal(fresh.units[EVIDENCE_FAST][1], a->evidence.units[EVIDENCE_FAST][1]);
}

/* --- tasks ----------------------------------------------------------------------------------- */

static double error_of(int version)
{
    return is_active() && version == db.active.canary ? db.active.error_rate : db.stable_error;
}

static void route(Task *t, int session)
{
    t->version = db.stable_version;
    if (!is_active() || t->pinned) return;
    char salt[32], unit[32];
    int salt_n = snprintf(salt, sizeof(salt), "rollout-%d", (int)db.active.id);
    int unit_n = snprintf(unit, sizeof(unit), "session-%d", session);
    RouteRule rule = { str_make(salt, (size_t)salt_n), db.active.state.weight_bp, false };
    RouteBefore before = { db.assigned[session].rollout == db.active.id, db.assigned[session].arm,
                           db.assigned[session].pi };
    if (db.active.state.weight_bp == 0) return; /* nothing is assigned before the first step */
    RouteDecision d = route_decide(&rule, UNIT_SESSION, str_make(unit, (size_t)unit_n), &before);
    if (d.persist) {
        db.assigned[session].rollout = db.active.id;
        db.assigned[session].arm = d.arm;
        db.assigned[session].pi = d.pi;
    }
    t->canary = d.arm == ARM_CANARY;
    if (t->canary) t->version = db.active.canary;
    t->counts = d.counts;
    t->pi = d.pi;
    t->rollout = db.active.id;
}

static void enqueue(Rng *rng)
{
    if (db.tasks_n == TASKS_MAX) return;
    Task *t = &db.tasks[db.tasks_n];
    *t = (Task){ .pinned = rng_uniform(rng) < 0.01 };
    route(t, (int)(rng_next(rng) % SESSIONS));
    t->start_at_ms = db.now_ms + (int64_t)(rng_uniform(rng) * 5 * TICK_MS);
    t->limit_ms = t->start_at_ms + LIMIT_MS;
    if (t->counts) {
        db.units[db.units_n++] = db.tasks_n;
        evidence_seen(&db.active.evidence, t->canary, t->pi);
    }
    assert_in_range(t->version, 0, db.versions_n - 1);
    db.tasks_n++;
}

static void start(Task *t, Rng *rng)
{
    t->state = rng_uniform(rng) < 0.02 ? TASK_CANCELED : TASK_RUNNING;
    t->failed = rng_uniform(rng) < error_of(t->version);
    bool hangs = rng_uniform(rng) < 0.005;
    double minutes = hangs ? 100 : -4 * log(rng_uniform(rng));
    t->end_at_ms = db.now_ms + (int64_t)(minutes * 60000);
}

static void run_tasks(Rng *rng)
{
    for (int64_t i = db.first_open; i < db.tasks_n; i++) {
        Task *t = &db.tasks[i];
        if (t->state == TASK_QUEUED && t->start_at_ms <= db.now_ms) start(t, rng);
        if (t->state == TASK_RUNNING && t->end_at_ms <= db.now_ms) t->state = TASK_DONE;
        bool over = t->state == TASK_DONE || t->state == TASK_CANCELED;
        if (over && i == db.first_open) db.first_open++;
    }
}

/* --- the controller -------------------------------------------------------------------------- */

static Fate fate_of(const Task *t)
{
    UnitNews news = { .state = t->state,
                      .eligible_ms = t->start_at_ms,
                      .started_at_ms = t->state == TASK_QUEUED ? 0 : t->start_at_ms,
                      .finished_at_ms = t->end_at_ms,
                      .deadline_at_ms = t->limit_ms };
    return watermark_fate(&news, EVIDENCE_FAST, LIMIT_MS, db.now_ms);
}

/* Reads from the cursor on, up to the first unit whose fate is open. */
static void consume(Active *a)
{
    EvidencePlan plan = evidence_plan(&a->plan);
    for (; a->cursor < db.units_n; a->cursor++) {
        const Task *t = &db.tasks[db.units[a->cursor]];
        Fate fate = fate_of(t);
        if (fate == FATE_OPEN) return;
        if (fate == FATE_DROPPED) continue;
        EvidenceUnit unit = { .canary = t->canary, .pi = t->pi, .has = 1 };
        unit.harm[0] = fate == FATE_FAILED || t->failed || t->end_at_ms > t->limit_ms;
        evidence_observe(&a->evidence, &plan, a->state.step, EVIDENCE_FAST, &unit);
    }
}

static RolloutInput look(const Active *a, Rng *rng)
{
    EvidencePlan plan = evidence_plan(&a->plan);
    RolloutInput in = { .now_ms = db.now_ms,
                        .preflight = CHECK_PASSED,
                        .shadow = CHECK_PASSED,
                        .evidence_rollback = a->evidence.rollback,
                        .proved = evidence_proved(&a->evidence, &plan, a->state.step),
                        .canaries = evidence_canaries(&a->evidence, &plan),
                        .srm_ok = evidence_srm_ok(&a->evidence),
                        .judge_ok = true };
    double u = rng_uniform(rng);
    if (u < 0.0002) in.command = (RolloutCommand)(1 + rng_next(rng) % (COMMAND_N_ - 1));
    else if (a->state.state == ROLLOUT_PAUSED && u < 0.01) in.command = COMMAND_RESUME;
    else if (u > 0.99998) in.tripwire = TRIPWIRE_CRASH_LOOP;
    return in;
}

static int truth_of(double error)
{
    return error < 0.03 ? 0 : error < 0.2 ? 1 : 2;
}

static void rebind(int version)
{
    for (int64_t i = db.first_open; i < db.tasks_n; i++) {
        Task *t = &db.tasks[i];
        if (t->state != TASK_QUEUED || t->pinned || t->version != version) continue;
        t->version = db.stable_version;
        tally.rebound++;
    }
}

/* The commit: refused when the store has moved on since the snapshot was read. */
static bool commit(const Active *a, const RolloutMove *m, int64_t snapshot)
{
    if (snapshot != db.commits) {
        tally.stale++;
        return false;
    }
    db.commits++;
    Evidence live = db.active.evidence; /* what was seen at enqueue is not the controller's */
    db.active = *a;
    db.active.evidence.seen = live.seen;
    db.active.state = m->next;
    if (m->actions & ROLLOUT_DO_STABLE) {
        db.stable[db.stable_version] = false;
        db.stable_version = a->canary;
        db.stable[a->canary] = true;
    }
    if (m->actions & ROLLOUT_DO_REBIND) rebind(a->canary);
    return true;
}

static void check_commit(const Active *a, const RolloutInput *in, const RolloutMove *m)
{
    check_stable();
    bool forward = m->next.step > a->state.step || m->next.state == ROLLOUT_COMPLETED;
    bool tested = a->state.state == ROLLOUT_STEP &&
                  a->plan.steps[a->state.step].weight_bp < WEIGHT_BP_ALL;
    if (forward && tested && in->command == COMMAND_NONE) {
        tally.advances++;
        check_advance(a, a->state.step);
    }
    if (m->actions & ROLLOUT_DO_REBIND) check_nothing_left(a->canary);
    if (!rollout_state_is_end(m->next.state)) return;
    bool by_hand = in->command != COMMAND_NONE || in->tripwire != TRIPWIRE_NONE;
    int truth = truth_of(a->error_rate);
    if (by_hand) tally.other++;
    else if (m->next.state == ROLLOUT_COMPLETED) tally.completed[truth]++;
    else if (m->next.state == ROLLOUT_ROLLED_BACK) tally.rolled_back[truth]++;
}

/* One replica's tick; delayed: it reads now and writes after the other one's tick. */
typedef struct {
    Active copy;
    int64_t snapshot;
    bool has;
} Replica;

static void replica_read(Replica *r)
{
    r->copy = db.active;
    r->snapshot = db.commits;
    r->has = true;
}

static void replica_tick(Replica *r, Rng *rng)
{
    if (!r->has) replica_read(r);
    r->has = false;
    Active *a = &r->copy;
    if (a->id == 0 || rollout_state_is_end(a->state.state)) return;
    consume(a);
    RolloutInput in = look(a, rng);
    RolloutMove m = rollout_next(&a->state, &a->plan, &in);
    Active before = *a;
    if (commit(a, &m, r->snapshot)) check_commit(&before, &in, &m);
}

/* --- a month --------------------------------------------------------------------------------- */

static void new_rollout(Rng *rng)
{
    static const double truths[] = { 0.02, 0.15, 0.5 };
    assert_true(db.versions_n < VERSIONS_MAX);
    db.commits++;
    db.active = (Active){ .id = db.active.id + 1,
                          .canary = db.versions_n++,
                          .error_rate = truths[rng_next(rng) % 3] };
    RolloutPlan plan = rollout_plan_canary();
    plan.steps[0].for_ms = LIMIT_MS;
    plan.deadline_ms = 3 * 86400000;
    plan.deadline_rolls_back = rng_next(rng) % 2;
    db.active.plan = plan;
    evidence_init(&db.active.evidence);
    db.units_n = 0;
}

static void month(uint64_t seed)
{
    static Replica replica[2];
    Rng rng = rng_seeded(seed);
    memset(&db, 0, sizeof(db));
    memset(replica, 0, sizeof(replica));
    db.stable_error = 0.02;
    db.versions_n = 1;
    db.stable[0] = true;
    for (int tick = 0; tick < TICKS; tick++) {
        db.now_ms += TICK_MS;
        if (!is_active() && rng_uniform(&rng) < 0.02) new_rollout(&rng);
        double burst = tick % 2880 < 60 ? 20 : 3; /* rush hour once a day */
        for (int n = (int)ceil(-burst * log(rng_uniform(&rng))); n > 1; n--) enqueue(&rng);
        run_tasks(&rng);
        bool both = rng_uniform(&rng) < 0.05; /* a lease lost without knowing */
        if (both) replica_read(&replica[1]);
        if (rng_uniform(&rng) < 0.98) replica_tick(&replica[0], &rng); /* else it restarts now */
        if (both) replica_tick(&replica[1], &rng);
        if (db.tasks_n > TASKS_MAX - 1000) break;
    }
    check_stable();
}

static void test_months(void **state)
{
    (void)state;
    const char *one = getenv("GANTRY_SEED");
    uint64_t from = one ? strtoull(one, NULL, 10) : 1, to = one ? from : 6;
    for (uint64_t seed = from; seed <= to; seed++) {
        fprintf(stderr, "seed %d\n", (int)seed);
        month(seed);
    }
    print_message("completed %d/%d/%d, rolled back %d/%d/%d (good/bad/broken), by hand %d; "
                  "%d advances, %d tasks rebound, %d stale commits refused\n",
                  (int)tally.completed[0], (int)tally.completed[1], (int)tally.completed[2],
                  (int)tally.rolled_back[0], (int)tally.rolled_back[1], (int)tally.rolled_back[2],
                  (int)tally.other, (int)tally.advances, (int)tally.rebound, (int)tally.stale);
    if (one) return;
    assert_int_equal(tally.completed[1] + tally.completed[2], 0);
    assert_true(tally.completed[0] > 5 * tally.rolled_back[0]);
    assert_true(tally.rolled_back[1] > 10 && tally.rolled_back[2] > 10);
    assert_true(tally.advances > 20 && tally.rebound > 0 && tally.stale > 0);
}

/* --- the watermark alone --------------------------------------------------------------------- */

static void test_fates(void **state)
{
    (void)state;
    const int64_t wait = 100, day = WATERMARK_RUN_MS;
    static const struct {
        UnitNews news;
        EvidenceGroup group;
        int64_t now;
        Fate fate;
    } cases[] = {
        { { .state = TASK_QUEUED, .eligible_ms = 10 }, EVIDENCE_FAST, 109, FATE_OPEN },
        { { .state = TASK_QUEUED, .eligible_ms = 10 }, EVIDENCE_FAST, 110, FATE_DROPPED },
        { { .state = TASK_RUNNING, .started_at_ms = 5, .deadline_at_ms = 50 }, 0, 49, FATE_OPEN },
        { { .state = TASK_RUNNING, .started_at_ms = 5, .deadline_at_ms = 50 }, 0, 50, FATE_FAILED },
        { { .state = TASK_QUEUED, .started_at_ms = 5, .eligible_ms = 1 }, 0, day, FATE_OPEN },
        { { .state = TASK_QUEUED, .started_at_ms = 5, .eligible_ms = 1 }, 0, day + 1, FATE_FAILED },
        { { .state = TASK_SUCCEEDED, .started_at_ms = 5 }, EVIDENCE_FAST, 6, FATE_COUNTS },
        { { .state = TASK_FAILED, .started_at_ms = 5 }, EVIDENCE_FAST, 6, FATE_COUNTS },
        { { .state = TASK_ESCALATED, .started_at_ms = 5 }, EVIDENCE_FAST, 6, FATE_COUNTS },
        { { .state = TASK_TIMED_OUT }, EVIDENCE_FAST, 6, FATE_DROPPED },
        { { .state = TASK_CANCELED, .started_at_ms = 5 }, EVIDENCE_FAST, 6, FATE_DROPPED },
        { { .state = TASK_SUCCEEDED, .started_at_ms = 5, .degraded = true }, 0, 6, FATE_DROPPED },
        { { .state = TASK_SUCCEEDED, .started_at_ms = 5, .finished_at_ms = 9 },
          EVIDENCE_JUDGED,
          108,
          FATE_OPEN },
        { { .state = TASK_SUCCEEDED, .started_at_ms = 5, .finished_at_ms = 9 },
          EVIDENCE_JUDGED,
          109,
          FATE_DROPPED },
        { { .state = TASK_SUCCEEDED, .started_at_ms = 5, .finished_at_ms = 9, .partly = true },
          EVIDENCE_JUDGED,
          108,
          FATE_OPEN },
        { { .state = TASK_SUCCEEDED, .started_at_ms = 5, .finished_at_ms = 9, .partly = true },
          EVIDENCE_JUDGED,
          109,
          FATE_COUNTS },
        { { .state = TASK_FAILED, .started_at_ms = 5, .partly = true },
          EVIDENCE_JUDGED,
          109,
          FATE_DROPPED },
        { { .state = TASK_FAILED, .started_at_ms = 5 }, EVIDENCE_JUDGED, 6, FATE_DROPPED },
        { { .state = TASK_SUCCEEDED, .started_at_ms = 5, .scored = true },
          EVIDENCE_JUDGED,
          6,
          FATE_COUNTS },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++)
        assert_int_equal(watermark_fate(&cases[i].news, cases[i].group, wait, cases[i].now),
                         cases[i].fate);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fates),
        cmocka_unit_test(test_months),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
