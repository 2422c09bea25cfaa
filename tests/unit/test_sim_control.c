/* Virtual production on the real controller, queue and store: bursts, tasks that take long, hang,
 * start hours later, fail, are tried again, canceled, or answered by another model; scores that
 * come late; people who interfere; clocks that go back; preflights that two replicas finish
 * differently; two replicas that both believe they lead, with clocks of their own; and the process
 * killed and started again whatever state a rollout is in. After each step the invariants are asked
 * of the tables: one stable version, the one that was completed or asked for last; no task without
 * a version; no advance without evidence, which is computed anew beside the controller; no queued
 * task where nothing is routed after a rollback; no unit skipped or counted twice.
 *
 * GANTRY_SEED=N plays that seed (nearly the same each time: the jitter of retries is the queue's
 * own). As arguments: days and seeds, `test_sim_control 90 200` are 50 years in 90 minutes of
 * CPU. */
#include "tests/unit/queue_fixture.h"

#include <math.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "logic/rng.h"
#include "logic/watermark.h"
#include "rollout/control.h"
#include "rollout/serving.h"
#include "store/event_store.h"

#define STEP_MS (INT64_C(30) * 60000)
#define CHUNK 12           /* steps between two kills */
#define SEEDS 3            /* unless asked for more */
#define CHECK_ALL_CHUNKS 8 /* two days */
#define SESSIONS 3000
#define RUNNING_MAX 60
#define SUBMIT_MAX 128
#define SCORES_MAX 4096
#define MANIFEST                                                 \
    "{\"apiVersion\":\"gantry/v1\",\"kind\":\"Agent\","          \
    "\"metadata\":{\"name\":\"support\"},\"spec\":{\"runtime\":" \
    "\"process\",\"command\":[\"true\"]}}"

typedef struct {
    TaskRef ref;
    bool canary;
    int64_t end_at_ms; /* INT64_MAX: it hangs */
    TaskFinish finish;
} Running;

typedef struct {
    Uuid id;
    int64_t at_ms;
    double value;
} LateScore;

static struct {
    Rng rng;
    int days, chunks;
    int made; /* rollouts, and versions */
    char id[UUID_TEXT_MAX], canary[VERSION_ID_LEN + 1], stable[VERSION_ID_LEN + 1];
    double error; /* of the canary, in truth */
    bool bad;
    Evidence fresh; /* of the rollout, computed beside the controller */
    int64_t consumed[EVIDENCE_GROUPS_N_], seen;
    int64_t events; /* seq of the last that was looked at */
    int64_t skew_ms[2];
    Running running[RUNNING_MAX];
    size_t running_n;
    LateScore scores[SCORES_MAX];
    size_t scores_n;
    struct {
        int64_t completed[2], rolled_back[2], other, advances, killed[ROLLOUT_N_], tasks, units;
    } tally;
} sim;

static const char *const blocks[] = {
    "{\"steps\":[{\"weight\":25,\"minTasks\":20},{\"weight\":50,\"for\":\"1h\",\"minTasks\":20},"
    "{\"weight\":100}],\"rollbackOn\":{\"errorRate\":0.2}}",
    "{\"steps\":[{\"weight\":20,\"minTasks\":20},{\"weight\":50,\"minTasks\":10},{\"weight\":100}],"
    "\"rollbackOn\":{\"errorRate\":0.25},\"unitWait\":\"2h\",\"onRollback\":\"kill\","
    "\"unit\":\"user\",\"deadline\":\"4d\",\"onDeadline\":\"rollback\"}",
    "{\"steps\":[{\"weight\":40,\"minTasks\":20},{\"weight\":100}],\"unitWait\":\"6h\","
    "\"rollbackOn\":{\"errorRate\":0.3,\"quality\":0.25}}",
    "{\"strategy\":\"blue-green\",\"holdFor\":\"6h\"}",
};

static double chance(void)
{
    return rng_uniform(&sim.rng);
}

/* --- many at once: a fiber each, so that their commits are one -------------------------------- */

static void each(int (*fn)(void *arg), void *args, size_t size, size_t n)
{
    FiberRef refs[SUBMIT_MAX];
    assert(n <= ARRAY_N(refs));
    for (size_t i = 0; i < n; i++)
        CHECK_INT(fiber_spawn("sim", fn, (char *)args + i * size, &refs[i]), 0);
    for (size_t i = 0; i < n; i++) CHECK_INT(fiber_join_wait(refs[i], NULL), 0);
}

/* --- versions and rollouts -------------------------------------------------------------------- */

static int begin_job(Db *db, void *arg)
{
    Arena *arena = arg;
    RolloutRow row;
    unsigned actions;
    Version v = { .id = str_of(sim.canary),
                  .agent = STR("support"),
                  .components = STR("{}"),
                  .manifest = STR(MANIFEST) };
    ControlStart start = { .id = str_of(sim.id),
                           .agent = STR("support"),
                           .version_id = str_of(sim.canary),
                           .block = str_of(blocks[sim.made % (int)ARRAY_N(blocks)]),
                           .settings = STR("{}"),
                           .now_ms = real_now };
    int r = version_insert(db, &v);
    return r == 0 ? control_start(db, &start, arena, &row, &actions) : r;
}

static void begin(Fixture *f)
{
    sim.made++;
    snprintf(sim.id, sizeof(sim.id), "00000000-0000-7000-8000-%012x", (unsigned)sim.made);
    snprintf(sim.canary, sizeof(sim.canary), "%064x", (unsigned)sim.made);
    sim.bad = chance() < 0.5;
    sim.error = sim.bad ? 0.7 : 0.02;
    evidence_init(&sim.fresh);
    sim.seen = 0;
    memset(sim.consumed, 0, sizeof(sim.consumed));
    CHECK_INT(store_call_wait(f->store, begin_job, &f->arena), 0);
}

/* --- evidence, computed beside the controller ------------------------------------------------- */

static bool is_after(RolloutCursor a, RolloutCursor b)
{
    return a.eligible_ms > b.eligible_ms ||
           (a.eligible_ms == b.eligible_ms && a.task_seq > b.task_seq);
}

/* The arm is the version that the unit's first task was bound to. */
static void check_arm(Db *db, const RolloutRow *row, const RolloutOutcome *o)
{
    DbStmt *s = db_stmt(db, "SELECT version_id FROM task WHERE seq = ?1");
    db_bind_i64(s, 1, o->at.task_seq);
    CHECK(db_step(s) == DB_E_ROW);
    CHECK_INT(str_eq(db_str(s, 0), row->version_id), o->canary);
    db_reset(s);
}

typedef struct {
    const RolloutRow *before, *after;
    RolloutSpec spec;
    int64_t now_ms;
} Window;

static void replay_one(const Window *p, RolloutOutcome *o, EvidenceGroup group)
{
    EvidenceUnit unit;
    double scores[EVIDENCE_METRICS_MAX];
    for (size_t m = 0; m < ARRAY_N(scores); m++) scores[m] = o->quality;
    UnitNews news = { .state = o->state,
                      .degraded = o->degraded,
                      .scored = !isnan(o->quality),
                      .eligible_ms = o->at.eligible_ms,
                      .started_at_ms = o->started_at_ms,
                      .finished_at_ms = o->finished_at_ms,
                      .deadline_at_ms = o->deadline_at_ms };
    Fate fate = watermark_fate(&news, group, p->spec.plan.unit_wait_ms, p->now_ms);
    CHECK(fate != FATE_OPEN); /* only what lies below the watermark was used */
    sim.consumed[group]++;
    sim.tally.units++;
    if (fate == FATE_DROPPED || (fate == FATE_FAILED && group == EVIDENCE_JUDGED)) return;
    if (fate == FATE_FAILED) o->state = TASK_TIMED_OUT;
    gather_harm(&p->spec, &p->before->baseline, o, group == EVIDENCE_JUDGED ? scores : NULL, &unit);
    evidence_observe(&sim.fresh, &p->spec.evidence, p->before->state.step, group, &unit);
}

/* Units between two cursors: seen (group EVIDENCE_GROUPS_N_), or consumed. */
static int replay(Db *db, const Window *p, EvidenceGroup group)
{
    static RolloutOutcome outcomes[256];
    bool seen = group == EVIDENCE_GROUPS_N_;
    RolloutCursor at = seen ? p->before->seen : p->before->cursors[group];
    RolloutCursor end = seen ? p->after->seen : p->after->cursors[group];
    for (size_t n = ARRAY_N(outcomes); n == ARRAY_N(outcomes);) {
        int r = rollout_outcomes(db, p->before->seq, at, INT64_MAX, outcomes, &n);
        if (r != 0) return r;
        for (size_t i = 0; i < n; i++) {
            at = outcomes[i].at;
            if (is_after(at, end)) return 0;
            if (!rollout_state_is_end(p->after->state.state))
                check_arm(db, p->before, &outcomes[i]);
            if (!seen) replay_one(p, &outcomes[i], group);
            else {
                evidence_seen(&sim.fresh, outcomes[i].canary, outcomes[i].pi);
                sim.seen++;
            }
        }
    }
    return 0;
}

static int64_t counted_until(Db *db, int64_t seq, RolloutCursor until)
{
    DbStmt *s = db_stmt(db, "SELECT count(*) FROM rollout_unit WHERE rollout_seq = ?1"
                            " AND counts = 1 AND (eligible_ms, task_seq) <= (?2, ?3)");
    db_bind_i64(s, 1, seq);
    db_bind_i64(s, 2, until.eligible_ms);
    db_bind_i64(s, 3, until.task_seq);
    int64_t n = db_step(s) == DB_E_ROW ? db_i64(s, 0) : -1;
    db_reset(s);
    return n;
}

/* What the controller keeps is what was computed beside it, and no unit was passed over. */
static int check_evidence(Db *db, const Window *p)
{
    static Evidence kept;
    const EvidencePlan *plan = &p->spec.evidence;
    int r = rollout_evidence_get(db, p->before->seq, plan->metrics_n, &kept);
    if (r == -ENOENT) return 0;
    if (r != 0) return r;
    for (size_t m = 0; m < plan->metrics_n; m++) {
        CHECK(evalue_log(&kept.metrics[m].rollback) == evalue_log(&sim.fresh.metrics[m].rollback));
        CHECK_INT(kept.metrics[m].proved, sim.fresh.metrics[m].proved);
    }
    CHECK_INT(kept.rollback, sim.fresh.rollback);
    CHECK_INT(evidence_srm_ok(&kept), evidence_srm_ok(&sim.fresh));
    CHECK_INT(counted_until(db, p->before->seq, p->after->seen), sim.seen);
    CHECK_INT(counted_until(db, p->before->seq, p->after->cursors[EVIDENCE_FAST]),
              sim.consumed[EVIDENCE_FAST]);
    if (sim.consumed[EVIDENCE_JUDGED] > 0)
        CHECK_INT(counted_until(db, p->before->seq, p->after->cursors[EVIDENCE_JUDGED]),
                  sim.consumed[EVIDENCE_JUDGED]);
    return 0;
}

/* --- a tick of one replica -------------------------------------------------------------------- */

typedef struct {
    Fixture *f;
    int replica;
    double dice; /* what a person does */
    RolloutCommand command;
} Tick;

static void check_forward(const Window *p)
{
    const Rollout *from = &p->before->state;
    const RolloutStep *step = &p->spec.plan.steps[from->step];
    int64_t canaries = evidence_canaries(&sim.fresh, &p->spec.evidence);
    CHECK(p->now_ms - from->step_since_ms >= step->for_ms);
    if (from->weight_bp == WEIGHT_BP_ALL) return;
    sim.tally.advances++;
    CHECK(evidence_proved(&sim.fresh, &p->spec.evidence, from->step));
    CHECK(canaries - from->step_canaries >= step->min_tasks);
    CHECK(evidence_srm_ok(&sim.fresh));
    CHECK(!sim.fresh.rollback);
}

/* A rollback has reached whatever was queued, in its own commit. What has been tried before went as
 * well: no call of it is recorded, as none of these makes any. */
static void check_back(Db *db, const RolloutRow *row)
{
    DbStmt *s = db_stmt(db, "SELECT count(*) FROM task WHERE state = 0 AND version_id = ?1"
                            " AND coalesce(rollout_seq, 1) <> 0");
    db_bind_text(s, 1, row->version_id);
    CHECK(db_step(s) == DB_E_ROW);
    CHECK_INT(db_i64(s, 0), 0);
    db_reset(s);
}

static void check_move(Db *db, const Window *p, bool by_hand)
{
    const Rollout *from = &p->before->state, *to = &p->after->state;
    bool forward = to->step > from->step || to->state == ROLLOUT_COMPLETED;
    if (forward && !by_hand && from->state == ROLLOUT_STEP) check_forward(p);
    if (!by_hand && (from->state == ROLLOUT_STEP || from->state == ROLLOUT_PAUSED) &&
        sim.fresh.rollback)
        CHECK_INT(to->state, ROLLOUT_ROLLED_BACK); /* armed in every live state */
    if (!rollout_state_is_end(to->state)) return;
    CHECK_INT(to->weight_bp, to->state == ROLLOUT_COMPLETED ? WEIGHT_BP_ALL : 0);
    if (to->state != ROLLOUT_COMPLETED) check_back(db, p->after);
    if (by_hand) sim.tally.other++;
    else if (to->state == ROLLOUT_COMPLETED) sim.tally.completed[sim.bad]++;
    else if (to->state == ROLLOUT_ROLLED_BACK) sim.tally.rolled_back[sim.bad]++;
}

/* Both replicas have checked it; who comes second is not heard, whatever it found. */
static int checked(Db *db, const Tick *t, Str id, int64_t now_ms, Arena *arena, RolloutRow *ret)
{
    ControlChecked c = { .passed = t->dice > 0.02 * (1 + t->replica),
                         .checks = STR("[]"),
                         .now_ms = now_ms };
    if (t->dice > 0.3) return rollout_get(db, id, arena, ret); /* still at it */
    return control_checked(db, id, &c, arena, ret);
}

static int tick_job(Db *db, void *arg)
{
    Tick *t = arg;
    unsigned actions;
    RolloutRow before, after;
    static Window p;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, 16 << 20);
    int64_t now_ms = real_now + sim.skew_ms[t->replica];
    int r = rollout_active(db, STR("support"), &arena, &before);
    if (r != 0) return r == -ENOENT ? 0 : r;
    bool preflight = before.state.state == ROLLOUT_PREFLIGHT;
    bool back = !preflight && t->replica == 0 && t->dice < 0.002;
    if (!preflight && t->replica == 0 && t->dice > 0.98)
        t->command = (RolloutCommand)(1 + (int)((t->dice - 0.98) / 0.02 * (COMMAND_N_ - 1)));
    if (before.state.state == ROLLOUT_PAUSED && t->dice > 0.8) t->command = COMMAND_RESUME;
    if (back) {
        r = control_rollback(db, &(ControlBack){ .agent = STR("support"), .now_ms = now_ms },
                             &arena, &actions);
        if (r == 0) r = rollout_get(db, before.id, &arena, &after);
    } else if (preflight) r = checked(db, t, before.id, now_ms, &arena, &after);
    else r = control_command(db, before.id, t->command, STR_NULL, now_ms, &arena, &after, NULL);
    p = (Window){ .before = &before, .after = &after, .now_ms = now_ms };
    if (r == 0) r = control_spec(&before, &arena, &p.spec);
    if (r == 0) r = replay(db, &p, EVIDENCE_GROUPS_N_);
    if (r == 0) r = replay(db, &p, EVIDENCE_FAST);
    if (r == 0) r = replay(db, &p, EVIDENCE_JUDGED);
    if (r == 0) r = check_evidence(db, &p);
    if (r == 0) check_move(db, &p, t->command != COMMAND_NONE || back || preflight);
    return r;
}

static int replica_fiber(void *arg)
{
    Tick *t = arg;
    CHECK_INT(store_call_wait(t->f->store, tick_job, t), 0);
    return 0;
}

/* --- tasks ------------------------------------------------------------------------------------ */

typedef struct {
    Fixture *f;
    TaskNew new;
    char session[32], user[32];
    TaskSummary summary;
} Submit;

static int submit_fiber(void *arg)
{
    Submit *s = arg;
    CHECK_INT(queue_submit_wait(s->f->queue, &s->new, &s->summary), 0);
    CHECK(s->summary.version_id[0] != 0);
    return 0;
}

static void submit_some(Fixture *f)
{
    static Submit submits[SUBMIT_MAX];
    size_t n = chance() < 0.03 ? SUBMIT_MAX : (size_t)(chance() * 14);
    for (size_t i = 0; i < n; i++) {
        Submit *s = &submits[i];
        double kind = chance();
        *s = (Submit){ .f = f };
        int m = snprintf(s->session, sizeof(s->session), "s%d", (int)(chance() * SESSIONS));
        int u = snprintf(s->user, sizeof(s->user), "u%d", (int)(chance() * SESSIONS));
        s->new = (TaskNew){ .agent = STR("support"),
                            .lane = LANE_NORMAL,
                            .input = STR("1"),
                            .session_id = str_make(s->session, (size_t)m),
                            .user_id = str_make(s->user, (size_t)u),
                            .time_limit_ms = kind < 0.5 ? 2 * 3600000 : 0 };
        if (kind < 0.02) s->new.version_id = str_of(VERSION_A);
        else if (kind < 0.08) s->new.run_at_ms = real_now + (int64_t)(chance() * 5 * 3600000);
        else if (kind > 0.97) s->new.lane = LANE_LOW; /* hardly ever started */
    }
    each(submit_fiber, submits, sizeof(submits[0]), n);
    sim.tally.tasks += (int64_t)n;
}

/* What becomes of a task that has just been claimed. */
static Running started(const Task *task)
{
    double u = chance();
    Running run = { .ref = { task->id, task->fence },
                    .canary = str_eq(task->version_id, str_of(sim.canary)),
                    .end_at_ms = real_now + (int64_t)(-log(chance()) * 25 * 60000) };
    if (chance() < 0.01) run.end_at_ms = INT64_MAX;
    run.finish = (TaskFinish){ .task = run.ref, .outcome = TASK_OUTCOME_SUCCEEDED };
    if (u < (run.canary ? sim.error : 0.02)) run.finish.outcome = TASK_OUTCOME_FAILED_FINAL;
    else if (u > 0.99) run.finish.outcome = TASK_OUTCOME_FAILED_RETRYABLE;
    else if (u > 0.98) run.finish.outcome = TASK_OUTCOME_CANCELED;
    if (run.finish.outcome == TASK_OUTCOME_SUCCEEDED) run.finish.result = STR("1");
    return run;
}

static void claim_some(Fixture *f, Uuid worker)
{
    Task *tasks = NULL;
    int64_t use = (int64_t)sim.running_n;
    LaneConfig slots = { .shared = MAX(RUNNING_MAX - use, 0) };
    if (slots.shared == 0 || chance() < 0.05) return;
    size_t n = claim(f, worker, slots, &tasks);
    for (size_t i = 0; i < n && sim.running_n < RUNNING_MAX; i++)
        sim.running[sim.running_n++] = started(&tasks[i]);
}

typedef struct {
    Fixture *f;
    Running run;
    double value;
    bool succeeded;
} Finish;

static int finish_fiber(void *arg)
{
    Finish *e = arg;
    TaskState state;
    int r = queue_finish_wait(e->f->queue, &e->run.finish, &state);
    CHECK(r == 0 || r == QUEUE_E_STALE);
    e->succeeded = r == 0 && state == TASK_SUCCEEDED;
    return 0;
}

static void score_later(const Finish *e)
{
    if (!e->succeeded || sim.scores_n == SCORES_MAX || chance() < 0.1) return;
    sim.scores[sim.scores_n++] = (LateScore){ .id = e->run.ref.id,
                                              .at_ms = real_now + (int64_t)(chance() * 4 * 3600000),
                                              .value = e->value };
}

/* Those whose time has come, and those that were stopped. */
static void finish_some(Fixture *f)
{
    static Finish ends[RUNNING_MAX];
    size_t n = 0, kept = 0;
    for (size_t i = 0; i < sim.running_n; i++) {
        Running *run = &sim.running[i];
        if (run->end_at_ms > real_now) {
            sim.running[kept++] = *run;
            continue;
        }
        double mean = run->canary && sim.bad ? 0.5 : 0.8;
        ends[n++] = (Finish){ .f = f,
                              .run = *run,
                              .value = rng_beta(&sim.rng, 8 * mean, 8 - 8 * mean) };
    }
    sim.running_n = kept;
    each(finish_fiber, ends, sizeof(ends[0]), n);
    for (size_t i = 0; i < n; i++) score_later(&ends[i]);
}

typedef struct {
    Fixture *f;
    LateScore score;
} DueScore;

static int score_fiber(void *arg)
{
    DueScore *s = arg;
    double quality;
    TaskScore score = { .id = s->score.id, .name = STR("judge"), .value = s->score.value };
    CHECK_INT(queue_score_wait(s->f->queue, &score, &quality), 0);
    return 0;
}

static void score_some(Fixture *f)
{
    static DueScore due[SUBMIT_MAX];
    size_t n = 0, kept = 0;
    for (size_t i = 0; i < sim.scores_n; i++) {
        if (sim.scores[i].at_ms > real_now || n == ARRAY_N(due)) sim.scores[kept++] = sim.scores[i];
        else due[n++] = (DueScore){ f, sim.scores[i] };
    }
    sim.scores_n = kept;
    each(score_fiber, due, sizeof(due[0]), n);
}

/* The worker hears what it has to stop: canceled, or lost to a limit. */
static void hear(Fixture *f, Uuid worker)
{
    TaskRef held[RUNNING_MAX];
    for (size_t i = 0; i < sim.running_n; i++) held[i] = sim.running[i].ref;
    HeartbeatReply reply = heartbeat(f, worker, held, sim.running_n);
    for (size_t s = 0; s < reply.stops_n; s++)
        for (size_t i = 0; i < sim.running_n; i++) {
            Running *run = &sim.running[i];
            if (!uuid_eq(run->ref.id, reply.stops[s].task.id)) continue;
            run->end_at_ms = real_now;
            run->finish.outcome = TASK_OUTCOME_CANCELED;
            run->finish.result = STR_NULL;
        }
}

static int degrade_job(Db *db, void *arg)
{
    (void)arg;
    DbStmt *s = db_stmt(db, "UPDATE task SET degraded_calls = 1 WHERE state = 1 AND seq % 20 = 3");
    return db_run(s, NULL);
}

/* --- invariants ------------------------------------------------------------------------------- */

static int64_t count_of(Db *db, const char *sql)
{
    DbStmt *s = db_stmt(db, sql);
    int64_t n = db_step(s) == DB_E_ROW ? db_i64(s, 0) : -1;
    db_reset(s);
    return n;
}

/* The stable version is the one of the last completion or of the last rollback by hand. */
static void check_stable(Db *db, Arena *arena)
{
    Str routed;
    DbStmt *s = db_stmt(db, "SELECT version_id, seq, type = 'rollout.completed' FROM event"
                            " WHERE seq > ?1 ORDER BY seq");
    db_bind_i64(s, 1, sim.events);
    while (db_step(s) == DB_E_ROW) {
        if (db_i64(s, 2)) str_copy(sim.stable, sizeof(sim.stable), db_str(s, 0));
        sim.events = db_i64(s, 1);
    }
    CHECK_INT(routing_get(db, STR("support"), arena, &routed), 0);
    CHECK_STR(routed, str_of(sim.stable));
}

/* 6, 7, 8: rolled back, aborted, superseded. What ran then ends there, also when it is tried
 * again. */
#define QUEUED_BEHIND_AN_END                                        \
    "SELECT count(*) FROM task WHERE state = 0 AND attempt = 0 AND" \
    " coalesce(rollout_seq, 1) <> 0 AND version_id IN"              \
    " (SELECT version_id FROM rollout WHERE state IN (6, 7, 8) AND seq > "

/* After each step: what may have changed in it, so that a year costs no more a day than a week. */
static int check_job(Db *db, void *arg)
{
    CHECK_INT(count_of(db, "SELECT count(*) FROM routing WHERE agent = 'support'"), 1);
    CHECK(count_of(db, "SELECT count(*) FROM rollout WHERE state < 5") <= 1);
    CHECK_INT(count_of(db, QUEUED_BEHIND_AN_END "(SELECT max(seq) - 3 FROM rollout))"), 0);
    CHECK_INT(count_of(db, "SELECT count(*) FROM rollout WHERE state > 5 AND weight_bp <> 0"), 0);
    /* who serves is who is routed to; what is decommissioned has nothing that was not named */
    CHECK_INT(count_of(db, "SELECT count(*) FROM serving s WHERE state = 0 AND version_id NOT IN"
                           " (SELECT version_id FROM routing UNION SELECT version_id FROM rollout"
                           " WHERE state < 5 AND weight_bp > 0)"),
              0);
    CHECK_INT(count_of(db,
                       "SELECT count(*) FROM task t JOIN serving s USING (version_id)"
                       " WHERE s.state = 3 AND t.state = 1 AND coalesce(t.rollout_seq, 1) <> 0"),
              0);
    check_stable(db, arg);
    return 0;
}

/* --- a step ----------------------------------------------------------------------------------- */

static int active_job(Db *db, void *arg)
{
    RolloutRow row;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, 4 << 20);
    int r = rollout_active(db, STR("support"), &arena, &row);
    *(int *)arg = r == 0 ? (int)row.state.state : -1;
    return r == -ENOENT ? 0 : r;
}

static int active_state(Fixture *f)
{
    int state = -1;
    CHECK_INT(store_read_wait(f->store, active_job, &state), 0);
    return state;
}

/* Either replica, or both at once: in whatever order their jobs come. */
static void tick_replicas(Fixture *f)
{
    Tick ticks[2] = { { .f = f, .replica = 0, .dice = chance() },
                      { .f = f, .replica = 1, .dice = chance() } };
    double who = chance();
    for (int i = 0; i < 2; i++) sim.skew_ms[i] = (int64_t)((chance() - 0.5) * 120000);
    if (who < 0.7) each(replica_fiber, ticks, sizeof(ticks[0]), 2);
    else each(replica_fiber, &ticks[who < 0.85], sizeof(ticks[0]), 1);
}

static void one_step(Fixture *f, Uuid worker)
{
    arena_clear(&f->arena);
    pass_ms(STEP_MS);
    if (chance() < 0.01) real_now -= 600000; /* somebody sets the clock */
    hear(f, worker);                         /* before its lease is looked at */
    CHECK(queue_tick_wait(f->queue) >= 0);
    finish_some(f);
    score_some(f);
    claim_some(f, worker);
    submit_some(f);
    if (chance() < 0.1) CHECK_INT(store_call_wait(f->store, degrade_job, NULL), 0);
    if (chance() < (active_state(f) < 0 ? 0.2 : 0.004)) begin(f); /* the older is superseded */
    tick_replicas(f);
    CHECK_INT(serving_tick_wait(f->store, real_now), 0);
    CHECK_INT(store_read_wait(f->store, check_job, &f->arena), 0);
}

/* Now and then: of all tasks there have ever been. */
static int check_all_job(Db *db, void *arg)
{
    (void)arg;
    CHECK_INT(count_of(db, QUEUED_BEHIND_AN_END "0)"), 0);
    CHECK_INT(count_of(db, "SELECT count(*) FROM task t JOIN serving s USING (version_id)"
                           " WHERE s.state = 3 AND t.state IN (0, 1)"
                           " AND coalesce(t.rollout_seq, 1) <> 0"),
              0);
    CHECK_INT(count_of(db, "SELECT count(*) FROM task WHERE NOT EXISTS (SELECT 1 FROM version"
                           " WHERE version.id = task.version_id)"),
              0);
    return 0;
}

static int chunk(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    for (int i = 0; i < CHUNK; i++) one_step(f, worker);
    if (++sim.chunks % CHECK_ALL_CHUNKS == 0)
        CHECK_INT(store_read_wait(f->store, check_all_job, NULL), 0);
    int state = active_state(f);
    if (state >= 0) sim.tally.killed[state]++;
    return 0;
}

static void run_days(uint64_t seed)
{
    void *state = NULL;
    assert_int_equal(setup(&state), 0);
    Fixture *f = state;
    int days = sim.days;
    typeof(sim.tally) tally = sim.tally;
    memset(&sim, 0, sizeof(sim));
    sim.tally = tally;
    sim.days = days;
    sim.rng = rng_seeded(seed);
    str_copy(sim.stable, sizeof(sim.stable), STR(VERSION_A));
    print_message("seed %d\n", (int)seed);
    for (int i = 0; i < days * (int)(INT64_C(86400000) / STEP_MS) / CHUNK; i++) {
        run(&state, chunk);
        close_queue(f); /* whatever was running is lost */
        sim.running_n = 0;
        pass_ms(60000);
        open_queue(f);
    }
    (void)teardown(&state);
}

static int days_given = 3, seeds_given;

static void test_production(void **state)
{
    (void)state;
    const char *one = getenv("GANTRY_SEED");
    uint64_t first = one ? strtoull(one, NULL, 10) : 2;
    sim.days = days_given;
    uint64_t n = seeds_given ? (uint64_t)seeds_given : one ? 1 : SEEDS;
    for (uint64_t seed = first; seed < first + n; seed++) run_days(seed);
    print_message(
        "%d tasks, %d units, rollouts completed %d/%d, rolled back %d/%d (good/bad), by hand %d; "
        "%d advances proved; killed in preflight %d, step %d, paused %d\n",
        (int)sim.tally.tasks, (int)sim.tally.units, (int)sim.tally.completed[0],
        (int)sim.tally.completed[1], (int)sim.tally.rolled_back[0], (int)sim.tally.rolled_back[1],
        (int)sim.tally.other, (int)sim.tally.advances, (int)sim.tally.killed[ROLLOUT_PREFLIGHT],
        (int)sim.tally.killed[ROLLOUT_STEP], (int)sim.tally.killed[ROLLOUT_PAUSED]);
    assert_true(sim.tally.tasks > 0 && sim.made > 0);
    if (one || days_given * seeds_given < 60) return; /* too short to be sure of each */
    assert_true(sim.tally.completed[0] > 0 && sim.tally.rolled_back[1] > 0);
    assert_true(sim.tally.advances > 0 && sim.tally.killed[ROLLOUT_STEP] > 0);
}

/* Syncs of a disk are most of what this would wait for, and none of what it tests. */
static void work_in_memory(void)
{
    struct statvfs fs;
    if (access("/dev/shm", W_OK) != 0 || statvfs("/dev/shm", &fs) != 0) return;
    if (fs.f_bavail * fs.f_frsize >= (UINT64_C(512) << 20)) setenv("TMPDIR", "/dev/shm", 1);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_production) };
    if (argc > 1) days_given = (int)strtol(argv[1], NULL, 10);
    if (argc > 2) seeds_given = (int)strtol(argv[2], NULL, 10);
    work_in_memory();
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
