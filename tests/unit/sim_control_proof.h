/* What test_sim_control asks of a rollout: the evidence computed anew beside the controller, from
 * the tables and in the controller's own transaction, and what may follow from it. */
#ifndef GANTRY_TESTS_SIM_CONTROL_PROOF_H
#define GANTRY_TESTS_SIM_CONTROL_PROOF_H

#include "tests/unit/sim_control_world.h"

#include "logic/watermark.h"
#include "rollout/gather.h"
#include "rollout/shadow.h"

/* What somebody does to the rollout. */
typedef enum {
    ACT_TICK,
    ACT_CHECKED,
    ACT_COMMAND,
    ACT_BACK,
    ACT_BEGIN,
    ACT_SUBMIT,
    ACT_RETRY
} ActKind;

typedef struct {
    Fixture *f;
    int replica;
    ActKind kind;
    RolloutCommand command;      /* COMMAND */
    char to[VERSION_ID_LEN + 1]; /* BACK: an earlier version; empty: where it was before */
    Checking checking;           /* CHECKED */
    bool kill;                   /* BACK */
    bool dies;                   /* before it has told anybody what it has committed */
    const char *block;           /* BEGIN */
    Submit *submit;              /* SUBMIT */
    Retry *retry;                /* RETRY */
    unsigned actions;            /* out */
} Act;

/* A rollout before and after that. */
typedef struct {
    const Act *act;
    RolloutRow before, after;
    RolloutSpec spec;
    int64_t now_ms;
    Tripwire tripwire;
    ShadowRow open[SHADOWS_OPEN_MAX]; /* pairs that were open before */
    size_t open_n;
} Moment;

static inline int64_t count_of(Db *db, const char *sql)
{
    DbStmt *s = db_stmt(db, sql);
    int64_t n = db_step(s) == DB_E_ROW ? db_i64(s, 0) : -1;
    db_reset(s);
    return n;
}

/* --- evidence of the steps -------------------------------------------------------------------- */

static inline bool is_after(RolloutCursor a, RolloutCursor b)
{
    return a.eligible_ms > b.eligible_ms ||
           (a.eligible_ms == b.eligible_ms && a.task_seq > b.task_seq);
}

/* The arm is the version that the unit's first task was bound to. */
static inline void check_arm(Db *db, const RolloutRow *row, const RolloutOutcome *o)
{
    DbStmt *s = db_stmt(db, "SELECT version_id FROM task WHERE seq = ?1");
    db_bind_i64(s, 1, o->at.task_seq);
    CHECK(db_step(s) == DB_E_ROW);
    CHECK_INT(str_eq(db_str(s, 0), row->version_id), o->canary);
    db_reset(s);
}

static inline void replay_one(const Moment *m, RolloutOutcome *o, EvidenceGroup group)
{
    EvidenceUnit unit;
    double scores[EVIDENCE_METRICS_MAX];
    for (size_t i = 0; i < ARRAY_N(scores); i++) scores[i] = o->quality;
    bool result = group == EVIDENCE_JUDGED &&
                  task_state_ended(o->now); /* which is what is judged */
    UnitNews news = { .state = result ? o->now : o->state,
                      .degraded = o->degraded,
                      .scored = !isnan(o->quality),
                      .partly = !isnan(o->quality),
                      .eligible_ms = o->at.eligible_ms,
                      .started_at_ms = o->started_at_ms,
                      .finished_at_ms = o->finished_at_ms,
                      .deadline_at_ms = o->deadline_at_ms };
    Fate fate = watermark_fate(&news, group, m->spec.plan.unit_wait_ms, m->now_ms);
    CHECK(fate != FATE_OPEN); /* only what lies below the watermark was used */
    sim.consumed[group]++;
    sim.tally.units++;
    if (fate == FATE_DROPPED || (fate == FATE_FAILED && group == EVIDENCE_JUDGED)) return;
    if (fate == FATE_FAILED) o->state = TASK_TIMED_OUT;
    gather_harm(&m->spec, &m->before.baseline, o, group == EVIDENCE_JUDGED ? scores : NULL, &unit);
    evidence_observe(&sim.fresh, &m->spec.evidence, m->before.state.step, group, &unit);
}

/* Units between two cursors: seen (group EVIDENCE_GROUPS_N_), or consumed. */
static inline int replay(Db *db, const Moment *m, EvidenceGroup group)
{
    static RolloutOutcome outcomes[256];
    bool seen = group == EVIDENCE_GROUPS_N_;
    RolloutCursor at = seen ? m->before.seen : m->before.cursors[group];
    RolloutCursor end = seen ? m->after.seen : m->after.cursors[group];
    if (!is_after(end, at)) return 0;
    for (size_t n = ARRAY_N(outcomes); n == ARRAY_N(outcomes);) {
        int r = rollout_outcomes(db, m->before.seq, at, INT64_MAX, outcomes, &n);
        if (r != 0) return r;
        for (size_t i = 0; i < n; i++) {
            at = outcomes[i].at;
            if (is_after(at, end)) return 0;
            if (!rollout_state_is_end(m->after.state.state))
                check_arm(db, &m->before, &outcomes[i]);
            if (!seen) replay_one(m, &outcomes[i], group);
            else {
                evidence_seen(&sim.fresh, outcomes[i].canary, outcomes[i].pi);
                sim.seen++;
            }
        }
    }
    return 0;
}

static inline int64_t counted_until(Db *db, int64_t seq, RolloutCursor until)
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
static inline int check_evidence(Db *db, const Moment *m)
{
    static Evidence kept;
    const EvidencePlan *plan = &m->spec.evidence;
    int r = rollout_evidence_get(db, m->before.seq, plan->metrics_n, &kept);
    if (r == -ENOENT) return 0;
    if (r != 0) return r;
    for (size_t i = 0; i < plan->metrics_n; i++) {
        CHECK(evalue_log(&kept.metrics[i].rollback) == evalue_log(&sim.fresh.metrics[i].rollback));
        CHECK_INT(kept.metrics[i].proved, sim.fresh.metrics[i].proved);
    }
    CHECK_INT(kept.rollback, sim.fresh.rollback);
    CHECK_INT(evidence_srm_ok(&kept), evidence_srm_ok(&sim.fresh));
    CHECK_INT(counted_until(db, m->before.seq, m->after.seen), sim.seen);
    CHECK_INT(counted_until(db, m->before.seq, m->after.cursors[EVIDENCE_FAST]),
              sim.consumed[EVIDENCE_FAST]);
    if (sim.consumed[EVIDENCE_JUDGED] > 0)
        CHECK_INT(counted_until(db, m->before.seq, m->after.cursors[EVIDENCE_JUDGED]),
                  sim.consumed[EVIDENCE_JUDGED]);
    return 0;
}

/* --- evidence of the shadow ------------------------------------------------------------------- */

static inline bool in_shadow(const Rollout *r)
{
    return r->state == ROLLOUT_SHADOW ||
           (r->state == ROLLOUT_PAUSED && r->resumes == ROLLOUT_SHADOW);
}

typedef struct {
    RolloutOutcome outcome;
    EvidenceUnit harm;
    GatherTold told;
} PairSide;

static inline int side_of(Db *db, const Moment *m, int64_t task_seq, PairSide *ret)
{
    double scores[EVIDENCE_METRICS_MAX];
    *ret = (PairSide){ .outcome = { .state = TASK_CANCELED } };
    int r = task_seq > 0 ? shadow_outcome(db, task_seq, &ret->outcome) : 0;
    if (r != 0 || task_seq == 0) return r;
    r = gather_scores(db, &m->spec, &ret->outcome, scores, &ret->told);
    if (r == 0) gather_harm(&m->spec, &m->before.baseline, &ret->outcome, scores, &ret->harm);
    return r;
}

static inline ShadowSide side_news(const PairSide *side)
{
    return (ShadowSide){ .state = side->outcome.state,
                         .started = side->outcome.started_at_ms > 0,
                         .degraded = side->outcome.degraded,
                         .scored = side->told.all,
                         .finished_at_ms = side->outcome.finished_at_ms };
}

static inline bool is_judged(const RolloutSpec *spec)
{
    for (size_t i = 0; i < spec->evidence.metrics_n; i++)
        if (spec->evidence.metrics[i].group == EVIDENCE_JUDGED) return true;
    return false;
}

/* What the pair has become in this tick; SHADOW_CHOSEN and STARTED: its fate is open. */
static inline ShadowState pair_state(Db *db, int64_t rollout_seq, int64_t task_seq)
{
    DbStmt *s = db_stmt(db, "SELECT state FROM shadow_pair WHERE rollout_seq = ?1 AND task_seq ="
                            " ?2");
    db_bind_i64(s, 1, rollout_seq);
    db_bind_i64(s, 2, task_seq);
    CHECK(db_step(s) == DB_E_ROW);
    ShadowState state = (ShadowState)db_i64(s, 0);
    db_reset(s);
    return state;
}

/* Returns 0, 1: this pair and those behind it are still open, -errno. */
static inline int replay_pair(Db *db, const Moment *m, const ShadowRow *pair)
{
    PairSide production, shadow;
    int r = side_of(db, m, pair->task_seq, &production);
    if (r == 0) r = side_of(db, m, pair->shadow_seq, &shadow);
    if (r != 0) return r;
    ShadowNews news = { .state = pair->state,
                        .production = side_news(&production),
                        .shadow = side_news(&shadow),
                        .judged = is_judged(&m->spec),
                        .chosen_at_ms = pair->chosen_at_ms };
    ShadowState fate = shadow_fate(&news, &m->spec.shadow, m->now_ms);
    CHECK_INT(pair_state(db, m->before.seq, pair->task_seq), fate);
    if (fate == SHADOW_CHOSEN || fate == SHADOW_STARTED) return 1;
    if (fate != SHADOW_COMPARED) return 0;
    if (news.shadow.state == TASK_RUNNING) { /* it hangs: as one that has timed out, unjudged */
        shadow.outcome.state = TASK_TIMED_OUT;
        shadow.outcome.ran_ms += m->now_ms - shadow.outcome.started_at_ms;
        shadow.outcome.finished_at_ms = m->now_ms;
        gather_harm(&m->spec, &m->before.baseline, &shadow.outcome, NULL, &shadow.harm);
    }
    ShadowPair compared = { .self = pair->self,
                            .production = production.harm,
                            .shadow = shadow.harm };
    shadow_observe(&sim.pairs, &m->spec.evidence, &m->spec.shadow, &compared);
    sim.tally.pairs++;
    return 0;
}

static inline int check_pairs(Db *db, const Moment *m)
{
    static ShadowEvidence kept;
    int r = shadow_evidence_get(db, m->before.seq, &kept);
    if (r == -ENOENT) return 0;
    if (r != 0) return r;
    for (size_t i = 0; i < m->spec.evidence.metrics_n; i++) {
        const ShadowMetric *a = &kept.metrics[i], *b = &sim.pairs.metrics[i];
        CHECK(evalue_log(&a->rollback) == evalue_log(&b->rollback));
        CHECK(evalue_log(&a->promote) == evalue_log(&b->promote));
        CHECK_INT(a->proved, b->proved);
        CHECK(a->n[0] == b->n[0] && a->n[1] == b->n[1]);
    }
    CHECK_INT(kept.rollback, sim.pairs.rollback);
    CHECK_INT(kept.biased, sim.pairs.biased);
    if (sim.pairs.began_ms == 0) sim.pairs.began_ms = m->now_ms;
    CHECK_INT(kept.began_ms, sim.pairs.began_ms);
    return 0;
}

/* Of a rollout in its shadow: the pairs that this tick has compared, in their order. */
static inline int replay_pairs(Db *db, const Moment *m)
{
    int r = 0;
    if (!in_shadow(&m->before.state)) return 0;
    for (size_t i = 0; i < m->open_n && r == 0; i++) r = replay_pair(db, m, &m->open[i]);
    return r < 0 ? r : check_pairs(db, m);
}

static inline CheckResult pairs_say(const Moment *m)
{
    return shadow_verdict(&sim.pairs, &m->spec.evidence, &m->spec.shadow, m->now_ms);
}

/* --- what may follow -------------------------------------------------------------------------- */

static inline bool is_live(RolloutState state)
{
    return state == ROLLOUT_SHADOW || state == ROLLOUT_STEP || state == ROLLOUT_PAUSED;
}

static inline bool is_late(const Moment *m)
{
    const Rollout *from = &m->before.state;
    return from->state != ROLLOUT_PAUSED && from->deadline_at_ms > 0 &&
           m->now_ms >= from->deadline_at_ms;
}

/* What the tripwires see before anything is done, as the controller is to see it. */
static inline int look_at_wires(Db *db, Moment *m)
{
    static TripwireTail tails[2];
    const RolloutRow *row = &m->before;
    m->tripwire = TRIPWIRE_NONE;
    if (row->state.weight_bp == 0) return 0;
    TripwireMeanwhile meanwhile = { .goes_on = row->state.weight_bp < WEIGHT_BP_ALL };
    int r = rollout_tail(db, row->version_id, row->seq, &tails[0]);
    if (r == 0) r = rollout_tail(db, row->control_id, 0, &tails[1]);
    if (r != 0) return r;
    int64_t since_ms = tripwire_crashes_since(&m->spec.tripwires, &tails[0]);
    if (since_ms < INT64_MAX) r = rollout_meanwhile(db, row->control_id, since_ms, &meanwhile);
    m->tripwire = tripwire_look(&m->spec.tripwires, &tails[0], &tails[1], &meanwhile,
                                row->baseline.cost_cap_nusd);
    return r;
}

/* Out of a step, by the controller alone. */
static inline void check_proof(const Moment *m)
{
    const Rollout *from = &m->before.state;
    const RolloutStep *step = &m->spec.plan.steps[from->step];
    int64_t canaries = evidence_canaries(&sim.fresh, &m->spec.evidence);
    CHECK(m->now_ms - from->step_since_ms >= step->for_ms);
    CHECK(m->after.state.state == ROLLOUT_COMPLETED || m->after.state.step == from->step + 1);
    CHECK(!step->gate || from->gates_open >> from->step & 1);
    if (from->weight_bp == WEIGHT_BP_ALL) return;
    sim.tally.advances++;
    CHECK(evidence_proved(&sim.fresh, &m->spec.evidence, from->step));
    CHECK(canaries - from->step_canaries >= step->min_tasks);
    CHECK(evidence_srm_ok(&sim.fresh));
    CHECK(!sim.fresh.rollback);
}

/* Out of the shadow: by the controller only what has passed, by a person to the first step. What
 * the shadow stands in for is skipped only when it has passed. */
static inline void check_unveiled(const Moment *m, bool by_hand)
{
    const Rollout *to = &m->after.state;
    bool passed = pairs_say(m) == CHECK_PASSED;
    if (!by_hand) {
        CHECK(passed && !m->spec.plan.shadow_waits);
        CHECK(m->before.state.state == ROLLOUT_SHADOW);
    }
    if (to->state != ROLLOUT_STEP) return; /* promoted whole */
    CHECK_INT(to->step, passed && m->spec.plan.shadow_is_first);
}

static inline bool is_promoted(const Moment *m)
{
    return m->act->kind == ACT_COMMAND &&
           (m->act->command == COMMAND_PROMOTE || m->act->command == COMMAND_PROMOTE_ALL);
}

/* Nothing goes on but for one of these reasons. */
static inline void check_forward(const Moment *m)
{
    const Rollout *from = &m->before.state, *to = &m->after.state;
    bool by_hand = m->act->kind == ACT_COMMAND &&
                   (m->act->command == COMMAND_PROMOTE || m->act->command == COMMAND_PROMOTE_ALL);
    bool first = from->state == ROLLOUT_PREFLIGHT;
    if (to->state != ROLLOUT_COMPLETED && to->state != ROLLOUT_STEP &&
        !(first && to->state == ROLLOUT_SHADOW))
        return;
    if (first) {
        CHECK(!m->spec.plan.preflight || (m->act->kind == ACT_CHECKED && m->act->checking.passed));
        CHECK_INT(to->state == ROLLOUT_SHADOW, m->spec.plan.shadow);
        CHECK_INT(to->step, 0);
    } else if (in_shadow(from)) check_unveiled(m, by_hand);
    else if (to->state == ROLLOUT_COMPLETED || to->step > from->step) {
        if (by_hand) sim.by_hand = true;
        else {
            CHECK_INT(from->state, ROLLOUT_STEP);
            check_proof(m);
        }
    } else if (from->state == ROLLOUT_PAUSED)
        CHECK(m->act->kind == ACT_COMMAND && m->act->command == COMMAND_RESUME);
}

/* Of tasks that wait: those that are routed, and have done nothing that is recorded; what has may
 * end where it began, since that is served to attempts of the same version only. What somebody has
 * tried again (it has no fence until it starts) begins anew, unless something of it goes on. */
#define WAITS_UNTOUCHED                                                                  \
    " state = 0 AND coalesce(rollout_seq, 1) <> 0 AND (attempt = 0 OR (llm_calls = 0"    \
    " AND children = 0 AND NOT EXISTS"                                                   \
    " (SELECT 1 FROM escalation WHERE escalation.task_seq = task.seq))"                  \
    " OR (fence = 0 AND NOT EXISTS (SELECT 1 FROM task AS c WHERE c.parent_id = task.id" \
    " AND c.state IN (0, 1, 6))))"

/* A rollback has reached whatever was queued, in its own commit. */
static inline void check_left(Db *db, Str version_id)
{
    DbStmt *s = db_stmt(db, "SELECT count(*) FROM task WHERE version_id = ?1 AND" WAITS_UNTOUCHED);
    db_bind_text(s, 1, version_id);
    CHECK(db_step(s) == DB_E_ROW);
    CHECK_INT(db_i64(s, 0), 0);
    db_reset(s);
}

/* Why the controller went back, or a person; and that there was a reason. */
static inline void check_back(const Moment *m)
{
    bool by_shadow = in_shadow(&m->before.state) && sim.pairs.rollback;
    if (m->tripwire != TRIPWIRE_NONE) sim.tally.back[BACK_TRIPWIRE][sim.bad]++;
    else if (sim.fresh.rollback) sim.tally.back[BACK_EVIDENCE][sim.bad]++;
    else if (by_shadow) sim.tally.back[BACK_SHADOW][sim.bad]++;
    else {
        CHECK(m->act->kind == ACT_TICK && is_late(m) && m->spec.plan.deadline_rolls_back);
        sim.tally.back[BACK_DEADLINE][sim.bad]++;
    }
}

static inline void note_completed(const Moment *m)
{
    CompletedBy by = sim.by_hand ? BY_PERSON : BY_EVIDENCE;
    if (is_promoted(m)) by = BY_PERSON;
    else if (m->spec.strategy == STRATEGY_BLUE_GREEN) by = BY_BLUE_GREEN;
    else if (m->spec.strategy == STRATEGY_IMMEDIATE) by = BY_IMMEDIATE;
    sim.tally.completed[by][sim.bad]++;
    sim.completions++;
    str_copy(sim.previous, sizeof(sim.previous), str_of(sim.stable));
    str_copy(sim.stable, sizeof(sim.stable), m->before.version_id);
    int n = sim.was_stable_n++ % (int)ARRAY_N(sim.was_stable);
    str_copy(sim.was_stable[n], sizeof(sim.was_stable[n]), m->before.version_id);
}

static inline void check_end(Db *db, const Moment *m)
{
    const Rollout *to = &m->after.state;
    CHECK_INT(to->weight_bp, to->state == ROLLOUT_COMPLETED ? WEIGHT_BP_ALL : 0);
    if (to->state == ROLLOUT_COMPLETED) note_completed(m);
    else check_left(db, m->after.version_id);
    if (to->state == ROLLOUT_ROLLED_BACK) check_back(m);
    if (to->state == ROLLOUT_SUPERSEDED) {
        CHECK_INT(m->act->kind, ACT_BEGIN);
        sim.tally.superseded++;
    }
    if (to->state == ROLLOUT_ABORTED)
        CHECK(m->act->kind == ACT_BACK ||
              (m->act->kind == ACT_COMMAND && m->act->command == COMMAND_ABORT) ||
              (m->act->kind == ACT_CHECKED && !m->act->checking.passed));
}

static inline void check_pause(const Moment *m)
{
    if (m->after.state.state != ROLLOUT_PAUSED || m->before.state.state == ROLLOUT_PAUSED) return;
    if (m->act->kind == ACT_COMMAND && m->act->command == COMMAND_PAUSE) return;
    CHECK(is_late(m) && !m->spec.plan.deadline_rolls_back);
    sim.tally.deadline_pauses++;
}

/* One rollout, from before to after. */
static inline void check_move(Db *db, const Moment *m)
{
    const Rollout *from = &m->before.state, *to = &m->after.state;
    CHECK(from->state != ROLLOUT_PENDING); /* it does not outlive the commit that creates it */
    if (is_live(from->state) && (sim.fresh.rollback || m->tripwire != TRIPWIRE_NONE ||
                                 (in_shadow(from) && sim.pairs.rollback)))
        CHECK_INT(to->state, ROLLOUT_ROLLED_BACK); /* armed in every live state, whoever asks */
    if (to->gates_open != from->gates_open)
        CHECK(m->act->kind == ACT_COMMAND && m->act->command == COMMAND_OPEN_GATE);
    check_forward(m);
    check_pause(m);
    if (rollout_state_is_end(to->state)) check_end(db, m);
    else if (is_live(to->state) && in_shadow(to)) CHECK_INT(to->weight_bp, 0);
}

#endif
