/* A week of virtual production on the real controller, queue and store: sessions, tasks that hang,
 * never start, are canceled or answered by another model, people who interfere, preflights that
 * fail, and the process killed and started again whatever state a rollout is in. After each tick
 * the invariants are asked of the tables. GANTRY_SEED=N plays another seed, and replays it. */
#include "tests/unit/queue_fixture.h"

#include <math.h>
#include <stdio.h>

#include "logic/rng.h"
#include "logic/watermark.h"
#include "rollout/control.h"

#define TICK_MS (INT64_C(30) * 60000)
#define CHUNK 10 /* ticks between two kills */
#define CHUNKS 36
#define SESSIONS 3000
#define STUCK(seq) ((seq) % 97 == 7)  /* never starts */
#define HANGS(seq) ((seq) % 89 == 11) /* starts, and never ends */
#define MANIFEST                                                 \
    "{\"apiVersion\":\"gantry/v1\",\"kind\":\"Agent\","          \
    "\"metadata\":{\"name\":\"support\"},\"spec\":{\"runtime\":" \
    "\"process\",\"command\":[\"true\"]}}"

static struct {
    Rng rng;
    int made; /* rollouts, and versions */
    char id[UUID_TEXT_MAX], canary[VERSION_ID_LEN + 1];
    double error; /* of the canary, in truth */
    bool bad;
    struct {
        int64_t completed[2], rolled_back[2], other, advances, killed[ROLLOUT_N_], tasks;
    } tally;
} sim;

static const char *const blocks[] = {
    "{\"steps\":[{\"weight\":25,\"minTasks\":20},{\"weight\":50,\"for\":\"1h\",\"minTasks\":20},"
    "{\"weight\":100}],\"rollbackOn\":{\"errorRate\":0.2}}",
    "{\"steps\":[{\"weight\":40,\"minTasks\":20},{\"weight\":100}],\"rollbackOn\":{\"errorRate\":0.25},"
    "\"unitWait\":\"2h\",\"onRollback\":\"kill\",\"unit\":\"user\",\"deadline\":\"4d\","
    "\"onDeadline\":\"rollback\"}",
};

static double chance(void)
{
    return rng_uniform(&sim.rng);
}

/* --- versions and rollouts -------------------------------------------------------------------- */

static int begin_job(Db *db, void *arg)
{
    Arena *arena = arg;
    RolloutRow row;
    Version v = { .id = str_of(sim.canary),
                  .agent = STR("support"),
                  .components = STR("{}"),
                  .manifest = STR(MANIFEST) };
    ControlStart start = { .id = str_of(sim.id),
                           .agent = STR("support"),
                           .version_id = str_of(sim.canary),
                           .block = str_of(blocks[sim.made % 2]),
                           .settings = STR("{}"),
                           .now_ms = real_now };
    int r = version_insert(db, &v);
    return r == 0 ? control_start(db, &start, arena, &row) : r;
}

static void begin(Fixture *f)
{
    sim.made++;
    snprintf(sim.id, sizeof(sim.id), "00000000-0000-7000-8000-%012x", (unsigned)sim.made);
    snprintf(sim.canary, sizeof(sim.canary), "%064x", (unsigned)sim.made);
    sim.bad = chance() < 0.5;
    sim.error = sim.bad ? 0.6 : 0.02;
    CHECK_INT(store_call_wait(f->store, begin_job, &f->arena), 0);
}

typedef struct {
    Arena *arena;
    RolloutRow before, after;
    bool any;
    RolloutCommand command;
    bool back, checked;
    RolloutMove move;
} Tick;

static int active_job(Db *db, void *arg)
{
    Tick *t = arg;
    int r = rollout_active(db, STR("support"), t->arena, &t->before);
    t->any = r == 0;
    return r == -ENOENT ? 0 : r;
}

static int tick_job(Db *db, void *arg)
{
    Tick *t = arg;
    unsigned actions;
    if (t->back) {
        ControlBack back = { .agent = STR("support"), .now_ms = real_now };
        int r = control_rollback(db, &back, t->arena, &actions);
        if (r != 0) return r;
    } else if (t->checked) {
        ControlChecked c = { .passed = chance() < 0.9, .checks = STR("[]"), .now_ms = real_now };
        int r = control_checked(db, t->before.id, &c, t->arena, &t->after);
        if (r != 0) return r;
    } else {
        int r = control_command(db, t->before.id, t->command, STR_NULL, real_now, t->arena,
                                &t->after, &t->move);
        if (r != 0) return r;
    }
    return rollout_get(db, t->before.id, t->arena, &t->after);
}

/* --- tasks ------------------------------------------------------------------------------------ */

static void submit_some(Fixture *f)
{
    int n = chance() < 0.05 ? 40 : (int)(chance() * 20);
    for (int i = 0; i < n; i++) {
        char session[32], user[32];
        int m = snprintf(session, sizeof(session), "s%d", (int)(chance() * SESSIONS));
        int u = snprintf(user, sizeof(user), "u%d", (int)(chance() * SESSIONS));
        TaskNew new = { .agent = STR("support"),
                        .lane = LANE_NORMAL,
                        .input = STR("1"),
                        .session_id = str_make(session, (size_t)m),
                        .user_id = str_make(user, (size_t)u) };
        if (chance() < 0.02) new.version_id = STR(VERSION_A);
        TaskSummary summary = { 0 };
        CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
        CHECK(summary.version_id[0] != 0);
        sim.tally.tasks++;
    }
}

/* One task that waits: what the moment makes of it. */
static int settle(Db *db, int64_t seq, bool is_canary)
{
    TaskState state = chance() < (is_canary ? sim.error : 0.02) ? TASK_FAILED : TASK_SUCCEEDED;
    if (chance() < 0.02) state = TASK_CANCELED;
    DbStmt *s = db_stmt(db, HANGS(seq) ? "UPDATE task SET started_at_ms = ?2 WHERE seq = ?1"
                                       : "UPDATE task SET started_at_ms = ?2, finished_at_ms = ?2,"
                                         " state = ?3, degraded_calls = ?4 WHERE seq = ?1");
    db_bind_i64(s, 1, seq);
    db_bind_i64(s, 2, real_now);
    if (!HANGS(seq)) {
        db_bind_i64(s, 3, (int64_t)state);
        db_bind_i64(s, 4, chance() < 0.05);
    }
    return db_run(s, NULL);
}

static int settle_job(Db *db, void *arg)
{
    (void)arg;
    int64_t seqs[512];
    bool canary[512];
    size_t n = 0;
    int r;
    DbStmt *s = db_stmt(db, "SELECT seq, version_id = ?1 FROM task WHERE state = 0"
                            " AND started_at_ms = 0");
    db_bind_text(s, 1, str_of(sim.canary));
    while ((r = db_step(s)) == DB_E_ROW) {
        int64_t seq = db_i64(s, 0);
        if (STUCK(seq) || n == ARRAY_N(seqs) || chance() < 0.1) continue; /* later */
        seqs[n] = seq;
        canary[n++] = db_i64(s, 1) != 0;
    }
    for (size_t i = 0; i < n && r == 0; i++) r = settle(db, seqs[i], canary[i]);
    return r;
}

/* --- invariants ------------------------------------------------------------------------------- */

static int64_t count_of(Db *db, const char *sql)
{
    DbStmt *s = db_stmt(db, sql);
    int64_t n = db_step(s) == DB_E_ROW ? db_i64(s, 0) : -1;
    db_reset(s);
    return n;
}

static int check_job(Db *db, void *arg)
{
    (void)arg;
    CHECK_INT(count_of(db, "SELECT count(*) FROM routing WHERE agent = 'support'"), 1);
    CHECK(count_of(db, "SELECT count(*) FROM rollout WHERE state < 5") <= 1);
    CHECK_INT(count_of(db, "SELECT count(*) FROM task WHERE NOT EXISTS (SELECT 1 FROM version"
                           " WHERE version.id = task.version_id)"),
              0);
    /* 6, 7, 8: rolled back, aborted, superseded */
    CHECK_INT(count_of(db, "SELECT count(*) FROM task WHERE state = 0 AND"
                           " coalesce(rollout_seq, 1) <> 0 AND version_id IN"
                           " (SELECT version_id FROM rollout WHERE state IN (6, 7, 8))"),
              0);
    CHECK_INT(count_of(db, "SELECT count(*) FROM rollout WHERE state >= 5 AND state <> 5"
                           " AND weight_bp <> 0"),
              0);
    return 0;
}

/* All evidence again, from the tables alone: the step that was left is proved by it. */
static int prove_job(Db *db, void *arg)
{
    const Tick *t = arg;
    static RolloutOutcome outcomes[256];
    static Evidence fresh, kept;
    static RolloutSpec spec;
    RolloutCursor at = { 0 }, end = t->after.cursors[EVIDENCE_FAST];
    size_t n = ARRAY_N(outcomes);
    evidence_init(&fresh);
    int r = control_spec(&t->before, t->arena, &spec);
    while (r == 0 && n == ARRAY_N(outcomes)) {
        r = rollout_outcomes(db, t->before.seq, at, INT64_MAX, outcomes, &n);
        for (size_t i = 0; r == 0 && i < n; i++) {
            const RolloutOutcome *o = &outcomes[i];
            at = o->at;
            if (at.eligible_ms > end.eligible_ms ||
                (at.eligible_ms == end.eligible_ms && at.task_seq > end.task_seq))
                break;
            UnitNews news = { .state = o->state,
                              .degraded = o->degraded,
                              .eligible_ms = o->at.eligible_ms,
                              .started_at_ms = o->started_at_ms,
                              .finished_at_ms = o->finished_at_ms };
            Fate fate = watermark_fate(&news, EVIDENCE_FAST, spec.plan.unit_wait_ms, real_now);
            CHECK(fate != FATE_OPEN); /* only what lies below the watermark was used */
            if (fate != FATE_COUNTS && fate != FATE_FAILED) continue;
            EvidenceUnit unit = { .canary = o->canary, .pi = o->pi, .has = 1 };
            unit.harm[0] = fate == FATE_FAILED || o->state == TASK_FAILED;
            evidence_observe(&fresh, &spec.evidence, 0, EVIDENCE_FAST, &unit);
        }
    }
    if (r == 0) r = rollout_evidence_get(db, t->before.seq, spec.evidence.metrics_n, &kept);
    CHECK(evidence_proved(&fresh, &spec.evidence, t->before.state.step));
    CHECK(!fresh.rollback);
    CHECK_INT(fresh.units[EVIDENCE_FAST][0], kept.units[EVIDENCE_FAST][0]);
    CHECK_INT(fresh.units[EVIDENCE_FAST][1], kept.units[EVIDENCE_FAST][1]);
    return r;
}

static void check_tick(Fixture *f, Tick *t)
{
    const Rollout *from = &t->before.state, *to = &t->after.state;
    bool by_hand = t->command != COMMAND_NONE || t->back || t->checked;
    bool forward = to->step > from->step || to->state == ROLLOUT_COMPLETED;
    if (forward && !by_hand && from->state == ROLLOUT_STEP && from->weight_bp < WEIGHT_BP_ALL) {
        sim.tally.advances++;
        CHECK_INT(store_read_wait(f->store, prove_job, t), 0);
    }
    if (!rollout_state_is_end(to->state)) return;
    if (by_hand) sim.tally.other++;
    else if (to->state == ROLLOUT_COMPLETED) sim.tally.completed[sim.bad]++;
    else if (to->state == ROLLOUT_ROLLED_BACK) sim.tally.rolled_back[sim.bad]++;
}

/* --- a week ---------------------------------------------------------------------------------- */

static void steer(Tick *t)
{
    double u = chance();
    RolloutState state = t->before.state.state;
    if (state == ROLLOUT_PREFLIGHT) t->checked = u < 0.5;
    else if (u < 0.02) t->command = (RolloutCommand)(1 + rng_next(&sim.rng) % (COMMAND_N_ - 1));
    else if (u < 0.023) t->back = true;
    else if (state == ROLLOUT_PAUSED && u < 0.2) t->command = COMMAND_RESUME;
}

static int one_tick(Fixture *f)
{
    arena_clear(&f->arena);
    pass_ms(TICK_MS);
    submit_some(f);
    CHECK_INT(store_call_wait(f->store, settle_job, NULL), 0);
    pass_ms(2000);
    Tick t = { .arena = &f->arena };
    CHECK_INT(store_read_wait(f->store, active_job, &t), 0);
    if (!t.any && chance() < 0.2) begin(f);
    if (!t.any) return 0;
    steer(&t);
    CHECK_INT(store_call_wait(f->store, tick_job, &t), 0);
    check_tick(f, &t);
    CHECK_INT(store_read_wait(f->store, check_job, NULL), 0);
    return 0;
}

static int chunk(void *arg)
{
    Fixture *f = arg;
    for (int i = 0; i < CHUNK; i++) (void)one_tick(f);
    Tick t = { .arena = &f->arena };
    CHECK_INT(store_read_wait(f->store, active_job, &t), 0);
    if (t.any) sim.tally.killed[t.before.state.state]++;
    return 0;
}

static void week(void **state, uint64_t seed)
{
    Fixture *f = *state;
    sim.rng = rng_seeded(seed);
    print_message("seed %d\n", (int)seed);
    for (int i = 0; i < CHUNKS; i++) {
        run(state, chunk);
        close_queue(f);
        open_queue(f);
    }
}

static void test_weeks(void **state)
{
    const char *one = getenv("GANTRY_SEED");
    week(state, one ? strtoull(one, NULL, 10) : 2);
    print_message(
        "%d tasks, %d rollouts: completed %d/%d, rolled back %d/%d (good/bad), by hand %d; "
        "%d advances proved; killed in preflight %d, step %d, paused %d\n",
        (int)sim.tally.tasks, sim.made, (int)sim.tally.completed[0], (int)sim.tally.completed[1],
        (int)sim.tally.rolled_back[0], (int)sim.tally.rolled_back[1], (int)sim.tally.other,
        (int)sim.tally.advances, (int)sim.tally.killed[ROLLOUT_PREFLIGHT],
        (int)sim.tally.killed[ROLLOUT_STEP], (int)sim.tally.killed[ROLLOUT_PAUSED]);
    if (one) return;
    assert_int_equal(sim.tally.completed[1], 0);
    assert_true(sim.tally.completed[0] > 0 && sim.tally.rolled_back[1] > 0);
    assert_true(sim.tally.advances > 0 && sim.tally.killed[ROLLOUT_STEP] > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_weeks, setup, teardown),
    };
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
