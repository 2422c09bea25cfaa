/* What a rollout is told: how its units turned out, in order. */
#include "rollout/gather.h"

#include <math.h>
#include <stdlib.h>

#include "store/grade_store.h"
#include "store/score_store.h"

/* --- baseline --------------------------------------------------------------------------------- */

static int compare_i64(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t quantile(int64_t *values, size_t n, double q)
{
    qsort(values, n, sizeof(*values), compare_i64);
    size_t rank = (size_t)ceil(q * (double)n);
    return values[MIN(n - 1, rank > 0 ? rank - 1 : 0)];
}

/* All attempts together: one that failed took its time too. (Tasks that ended under an old program
 * know of the last only.) */
static int64_t latency_ms(const RolloutOutcome *outcome)
{
    if (outcome->ran_ms > 0) return outcome->ran_ms; /* whatever the clock was set to meanwhile */
    return MAX(0, outcome->finished_at_ms - outcome->started_at_ms);
}

/* What a sum is capped at: nearly all are below it; and twice the mean at least, or where all cost
 * the same nothing dearer could be seen. */
static int64_t cap_of(int64_t *values, size_t n)
{
    int64_t sum = 0;
    assert(n > 0);
    for (size_t i = 0; i < n; i++) sum += values[i];
    int64_t twice_mean = 2 * sum / (int64_t)n;
    return MAX(MAX(quantile(values, n, 0.995), twice_mean), 1);
}

RolloutBaseline gather_baseline(RolloutOutcome *outcomes, size_t n)
{
    RolloutBaseline b = { .cost_cap_nusd = 500000000,
                          .tokens_cap = 200000,
                          .latency_p95_ms = 600000,
                          .tool_calls_p95 = 40 };
    if (n < HISTORY_MIN) return b;
    b.tasks = (int64_t)n;
    CLEANUP(freep) int64_t *values = xcalloc(n, sizeof(*values));
    for (size_t i = 0; i < n; i++) values[i] = outcomes[i].cost_nusd;
    b.cost_cap_nusd = cap_of(values, n);
    for (size_t i = 0; i < n; i++) values[i] = outcomes[i].tokens;
    b.tokens_cap = cap_of(values, n);
    for (size_t i = 0; i < n; i++) values[i] = latency_ms(&outcomes[i]);
    b.latency_p95_ms = quantile(values, n, 0.95);
    for (size_t i = 0; i < n; i++) values[i] = outcomes[i].tool_calls;
    b.tool_calls_p95 = quantile(values, n, 0.95);
    return b;
}

int gather_history(Db *db, Str version_id, RolloutBaseline *ret)
{
    size_t n = HISTORY_MAX;
    CLEANUP(freep) RolloutOutcome *outcomes = xcalloc(n, sizeof(*outcomes));
    int r = rollout_history(db, version_id, outcomes, &n);
    if (r == 0) *ret = gather_baseline(outcomes, n);
    return r;
}

void gather_overdue(RolloutOutcome *outcome, int64_t now_ms)
{
    if (outcome->state == TASK_RUNNING) outcome->ran_ms += now_ms - outcome->started_at_ms;
    outcome->state = TASK_TIMED_OUT;
    outcome->finished_at_ms = now_ms;
}

static UnitNews news_of(const RolloutOutcome *o)
{
    return (UnitNews){ .state = o->state,
                       .degraded = o->degraded,
                       .eligible_ms = o->at.eligible_ms,
                       .started_at_ms = o->started_at_ms,
                       .finished_at_ms = o->finished_at_ms,
                       .deadline_at_ms = o->deadline_at_ms };
}

/* Its fate, as if it were a unit. */
static Fate fate_of_task(const RolloutOutcome *o, int64_t wait_ms, int64_t now_ms)
{
    UnitNews news = news_of(o);
    if (o->started_at_ms == 0 && o->at.eligible_ms > now_ms) return FATE_DROPPED; /* not its turn */
    return watermark_fate(&news, EVIDENCE_FAST, wait_ms, now_ms);
}

/* Keeps those that count, up to one that is open: false. */
static bool keep_resolved(RolloutOutcome *page, size_t n, int64_t wait_ms, int64_t now_ms,
                          RolloutOutcome *kept, size_t *kept_n)
{
    for (size_t i = 0; i < n; i++) {
        Fate fate = fate_of_task(&page[i], wait_ms, now_ms);
        if (fate == FATE_OPEN) return false;
        if (fate == FATE_DROPPED) continue;
        if (fate == FATE_FAILED) gather_overdue(&page[i], now_ms);
        kept[(*kept_n)++] = page[i];
    }
    return true;
}

int gather_first(Db *db, Str version_id, int64_t wait_ms, int64_t now_ms, RolloutBaseline *ret,
                 int64_t *ret_n)
{
    int64_t after = 0;
    size_t kept = 0;
    CLEANUP(freep) RolloutOutcome *page = xcalloc(GATHER_BATCH, sizeof(*page));
    CLEANUP(freep) RolloutOutcome *outcomes = xcalloc(HISTORY_MAX, sizeof(*outcomes));
    for (size_t looked = 0, n = GATHER_BATCH; n == GATHER_BATCH; looked += n) {
        if (looked + n > HISTORY_MAX) break;
        int r = rollout_tasks(db, version_id, after, page, &n);
        if (r != 0) return r;
        if (!keep_resolved(page, n, wait_ms, now_ms, outcomes, &kept)) break;
        if (n > 0) after = page[n - 1].at.task_seq;
    }
    *ret_n = (int64_t)kept;
    *ret = gather_baseline(outcomes, kept);
    return 0;
}

/* --- harm ------------------------------------------------------------------------------------- */

static double capped(int64_t value, int64_t cap)
{
    return (double)MIN(MAX(value, 0), cap) / (double)cap;
}

/* NaN: the outcome says nothing about the metric. */
static double harm_of(Str name, const RolloutBaseline *b, const RolloutOutcome *o)
{
    bool measured = b->tasks > 0 && o->at.eligible_ms >= b->since_ms;
    if (!measured && metric_is_by_baseline(name)) return NAN;
    if (str_eq(name, STR("errorRate")))
        return o->state == TASK_FAILED || o->state == TASK_TIMED_OUT;
    if (str_eq(name, STR("completionRate"))) return o->state != TASK_SUCCEEDED;
    if (str_eq(name, STR("escalationRate"))) return o->escalated || o->state == TASK_ESCALATED;
    if (str_eq(name, STR("costPerTask"))) return capped(o->cost_nusd, b->cost_cap_nusd);
    if (str_eq(name, STR("costOverrun"))) return o->cost_nusd > b->cost_cap_nusd;
    if (str_eq(name, STR("tokensPerTask"))) return capped(o->tokens, b->tokens_cap);
    if (str_eq(name, STR("latency"))) return latency_ms(o) > b->latency_p95_ms;
    if (str_eq(name, STR("toolCalls"))) return o->tool_calls > b->tool_calls_p95;
    return NAN;
}

void gather_harm(const RolloutSpec *spec, const RolloutBaseline *baseline,
                 const RolloutOutcome *outcome, const double *scores, EvidenceUnit *ret)
{
    *ret = (EvidenceUnit){ .canary = outcome->canary, .pi = outcome->pi };
    for (size_t m = 0; m < spec->evidence.metrics_n; m++) {
        bool judged = spec->evidence.metrics[m].group == EVIDENCE_JUDGED;
        double harm = judged ? (scores ? 1 - scores[m] : NAN)
                             : harm_of(str_of(spec->names[m]), baseline, outcome);
        if (!(harm >= 0 && harm <= 1)) continue;
        ret->harm[m] = harm;
        ret->has |= UINT32_C(1) << m;
    }
}

/* --- evidence --------------------------------------------------------------------------------- */

static int score_of(Db *db, const RolloutOutcome *o, Str name, double *ret)
{
    *ret = o->unjudged ? NAN : o->quality;
    return str_eq(name, STR("quality")) ? 0 : score_get(db, o->at.task_seq, name, ret);
}

/* Nor will it be told. */
static bool is_untold(const RolloutOutcome *o, Str name)
{
    if (str_eq(name, STR("quality"))) return o->unjudged;
    return o->untold && str_starts_with(name, STR(SCORE_OF_GRADER));
}

/* Whether it hangs on what graders say. */
static bool is_graded(Str name)
{
    return str_eq(name, STR("quality")) || str_starts_with(name, STR(SCORE_OF_GRADER));
}

/* What graders say of a task comes all at once: a score of theirs that is not there then is none,
 * be it that they could not tell or that they were not asked. */
static bool is_missing(const RolloutOutcome *o, Str name)
{
    bool graded = o->now == TASK_SUCCEEDED && str_starts_with(name, STR(SCORE_OF_GRADER));
    return !graded && !is_untold(o, name);
}

int gather_scores(Db *db, const RolloutSpec *spec, const RolloutOutcome *o, double *scores,
                  GatherTold *ret)
{
    int r = 0;
    bool got = true;
    uint32_t missing = 0; /* of those that graders tell */
    *ret = (GatherTold){ .all = true };
    for (size_t m = 0; r == 0 && m < spec->evidence.metrics_n; m++) {
        Str name = str_of(spec->names[m]);
        scores[m] = NAN;
        if (spec->evidence.metrics[m].group != EVIDENCE_JUDGED) continue;
        ret->judged = true;
        r = score_of(db, o, name, &scores[m]);
        if (r == 0) ret->any |= !isnan(scores[m]);
        if (r != 0 || !isnan(scores[m])) continue;
        got = false;
        ret->all &= !is_missing(o, name);
        ret->untold |= is_untold(o, name);
        ret->hushed |= (uint32_t)is_untold(o, name) << m;
        missing |= (uint32_t)is_graded(name) << m;
    }
    ret->complete = ret->judged && got;
    if (r == 0 && ret->judged) r = grade_waits(db, o->at.task_seq, &ret->waits);
    ret->all &= !ret->waits;
    if (ret->waits) ret->hushed |= missing;
    return r;
}

static Fate fate_of(const RolloutSpec *spec, const RolloutOutcome *o, EvidenceGroup group,
                    const GatherTold *told, int64_t now_ms)
{
    /* what is judged is the result: one that will have none is not waited for */
    UnitNews news = news_of(o);
    if (group == EVIDENCE_JUDGED && task_state_ended(o->now)) news.state = o->now;
    news.scored = told->all;
    news.partly = told->any || told->waits;
    Fate fate = watermark_fate(&news, group, spec->plan.unit_wait_ms, now_ms);
    if (fate == FATE_FAILED && group == EVIDENCE_JUDGED) return FATE_DROPPED; /* no result */
    return fate;
}

static uint32_t bits_of(const RolloutSpec *spec, EvidenceGroup group)
{
    uint32_t bits = 0;
    for (size_t m = 0; m < spec->evidence.metrics_n; m++)
        if (spec->evidence.metrics[m].group == group) bits |= UINT32_C(1) << m;
    return bits;
}

/* What the group takes of the outcome, which gather_overdue may change. */
static EvidenceUnit unit_of(const Gather *g, const RolloutRow *row, EvidenceGroup group, Fate fate,
                            RolloutOutcome *outcome, int64_t now_ms)
{
    EvidenceUnit unit = { .canary = outcome->canary, .pi = outcome->pi };
    if (fate == FATE_DROPPED) return unit;
    if (fate == FATE_FAILED) gather_overdue(outcome, now_ms);
    gather_harm(&g->spec, &row->baseline, outcome, group == EVIDENCE_JUDGED ? g->scores : NULL,
                &unit);
    unit.has &= bits_of(&g->spec, group);
    return unit;
}

static void observe(Gather *g, const RolloutConsumed *c)
{
    if (c->told != TOLD_NOTHING)
        evidence_judged(&g->evidence, c->unit.canary, c->unit.pi, c->told == TOLD_NOT);
    if (c->fate != FATE_DROPPED)
        evidence_observe(&g->evidence, &g->spec.evidence, c->step, c->group, &c->unit);
}

/* How graders fare: those that are still waited for have not told in time. Tasks that are judged in
 * no case, or of which they were not asked, say nothing of that. */
static RolloutTold told_of(const GatherTold *told, const RolloutOutcome *o)
{
    bool untold = told->untold || told->waits;
    if (o->now != TASK_SUCCEEDED || o->degraded || !(untold || told->complete)) return TOLD_NOTHING;
    return untold ? TOLD_NOT : TOLD_ALL;
}

/* Returns 0, 1: its fate is open, -errno. */
static int consume_one(Db *db, Gather *g, RolloutRow *row, EvidenceGroup group,
                       RolloutOutcome *outcome, int64_t now_ms)
{
    GatherTold told = { .all = false };
    int r = 0;
    if (group == EVIDENCE_JUDGED) r = gather_scores(db, &g->spec, outcome, g->scores, &told);
    if (r != 0) return r;
    Fate fate = fate_of(&g->spec, outcome, group, &told, now_ms);
    if (fate == FATE_OPEN) return 1;
    RolloutConsumed c = { .at = outcome->at,
                          .group = group,
                          .step = row->state.step,
                          .fate = fate,
                          .told = told_of(&told, outcome) };
    c.unit = unit_of(g, row, group, fate, outcome, now_ms);
    if (fate != FATE_DROPPED) c.unit.untold = told.hushed;
    r = rollout_consumed_put(db, row->seq, &c);
    if (r != 0) return r;
    observe(g, &c);
    g->fates[fate]++;
    g->changed = true;
    row->cursors[group] = outcome->at;
    return 0;
}

static bool has_group(const RolloutSpec *spec, EvidenceGroup group)
{
    for (size_t m = 0; m < spec->evidence.metrics_n; m++)
        if (spec->evidence.metrics[m].group == group) return true;
    return false;
}

/* Until when a unit's turn has come: what is assigned after a clock was set back comes after what
 * was there before, which that clock has yet to reach. */
static int64_t turn_ms(const RolloutRow *row, int64_t now_ms)
{
    return MAX(now_ms, MAX(row->seen.eligible_ms, row->baseline.since_ms) + 1);
}

/* Outcomes in eligible order, up to the first that is not known yet. */
static int consume_group(Db *db, Gather *g, RolloutRow *row, EvidenceGroup group, int64_t now_ms)
{
    if (group != EVIDENCE_FAST && !has_group(&g->spec, group)) return 0;
    for (int64_t taken = 0; taken < GATHER_UNITS_MAX;) {
        size_t n = GATHER_BATCH, i = 0;
        int64_t until_ms = turn_ms(row, now_ms);
        int r = rollout_outcomes(db, row->seq, row->cursors[group], until_ms, g->outcomes, &n);
        if (r != 0) return r;
        for (; r == 0 && i < n; i++) r = consume_one(db, g, row, group, &g->outcomes[i], now_ms);
        if (r != 0) return r < 0 ? r : 0;
        if (n < GATHER_BATCH) return 0;
        taken += (int64_t)n;
    }
    return 0;
}

/* Every unit at first sight, whatever becomes of it. */
static int count_seen(Db *db, Gather *g, RolloutRow *row, int64_t now_ms)
{
    for (int64_t taken = 0; taken < GATHER_UNITS_MAX;) {
        size_t n = GATHER_BATCH;
        int64_t until_ms = turn_ms(row, now_ms);
        int r = rollout_outcomes(db, row->seq, row->seen, until_ms, g->outcomes, &n);
        if (r != 0 || n == 0) return r;
        for (size_t i = 0; i < n; i++)
            evidence_seen(&g->evidence, g->outcomes[i].canary, g->outcomes[i].pi);
        row->seen = g->outcomes[n - 1].at;
        g->changed = true;
        taken += (int64_t)n;
    }
    return 0;
}

/* --- gathering anew --------------------------------------------------------------------------- */

/* What was consumed, as it was. */
static int observe_again(Db *db, Gather *g, const RolloutRow *row)
{
    RolloutConsumed last = { .group = EVIDENCE_GROUPS_N_ };
    CLEANUP(freep) RolloutConsumed *page = xcalloc(GATHER_BATCH, sizeof(*page));
    for (size_t n = GATHER_BATCH; n == GATHER_BATCH;) {
        int r = rollout_consumed_list(db, row->seq, last.at, last.group, page, &n);
        if (r != 0) return r;
        for (size_t i = 0; i < n; i++) observe(g, &page[i]);
        if (n > 0) last = page[n - 1];
    }
    return 0;
}

static bool is_after(RolloutCursor a, RolloutCursor b)
{
    return a.eligible_ms > b.eligible_ms ||
           (a.eligible_ms == b.eligible_ms && a.task_seq > b.task_seq);
}

/* The units that were seen: they are assigned once and for all. */
static int see_again(Db *db, Gather *g, const RolloutRow *row)
{
    RolloutCursor after = { 0 };
    for (size_t n = GATHER_BATCH; n == GATHER_BATCH;) {
        int r = rollout_outcomes(db, row->seq, after, INT64_MAX, g->outcomes, &n);
        if (r != 0) return r;
        for (size_t i = 0; i < n && !is_after(g->outcomes[i].at, row->seen); i++)
            evidence_seen(&g->evidence, g->outcomes[i].canary, g->outcomes[i].pi);
        if (n > 0) after = g->outcomes[n - 1].at;
        if (is_after(after, row->seen)) break;
    }
    return 0;
}

/* A program that recorded nothing has consumed what there is: the group begins anew, from what the
 * tasks are now. */
static int begin_unrecorded(Db *db, RolloutRow *row)
{
    int r = 0;
    for (EvidenceGroup group = 0; r == 0 && group < EVIDENCE_GROUPS_N_; group++) {
        bool any;
        r = rollout_consumed_any(db, row->seq, group, &any);
        if (r == 0 && !any) row->cursors[group] = (RolloutCursor){ 0 };
    }
    return r;
}

/* A form that this build cannot read is gathered anew, all of it now: how far it reaches stays, and
 * with it what a new unit comes after, and what each step had at its beginning. */
static int load_evidence(Db *db, Gather *g, RolloutRow *row)
{
    int r = rollout_evidence_get(db, row->seq, g->spec.evidence.metrics_n, &g->evidence);
    if (r != -ENOENT && r != -EPROTO) return r;
    g->changed = r == -EPROTO;
    evidence_init(&g->evidence);
    r = begin_unrecorded(db, row);
    if (r == 0) r = observe_again(db, g, row);
    return r == 0 ? see_again(db, g, row) : r;
}

int control_spec(const RolloutRow *row, Arena *arena, RolloutSpec *ret)
{
    const Json *block;
    int r = json_parse(arena, row->block, NULL, &block, NULL);
    if (r == 0 && rollout_spec_read(block, ret) != 0) r = -EINVAL;
    if (r == 0) rollout_spec_outlast(ret, row->limit_ms);
    return r;
}

/* Units from here on are measured from it: when they were assigned it was there. */
static int look_for_baseline(Db *db, Gather *g, RolloutRow *row, int64_t now_ms)
{
    RolloutBaseline found;
    if (row->baseline.tasks > 0 || str_empty(rollout_spec_by_baseline(&g->spec))) return 0;
    int r = gather_first(db, row->control_id, g->spec.plan.unit_wait_ms, now_ms, &found,
                         &g->history_n);
    if (r != 0 || found.tasks == 0) return r;
    row->baseline = found;
    row->baseline.since_ms = now_ms + 1;
    g->changed = true;
    return rollout_set_baseline(db, row);
}

Str gather_unmeasured(const Gather *g, const RolloutRow *row, Arena *arena)
{
    Str name = rollout_spec_by_baseline(&g->spec);
    if (row->baseline.tasks > 0 || str_empty(name)) return STR_NULL;
    return arena_printf(arena,
                        "%.*s is measured from the stable version, of which %" PRId64
                        " of the first %d tasks are in",
                        STR_ARG(str_sub(name, 0, METRIC_NAME_MAX)), g->history_n, HISTORY_MIN);
}

int gather(Db *db, Gather *g, RolloutRow *row, int64_t now_ms, Arena *arena)
{
    int r = control_spec(row, arena, &g->spec);
    if (r == 0) r = look_for_baseline(db, g, row, now_ms);
    if (r == 0) r = load_evidence(db, g, row);
    if (r == 0) r = count_seen(db, g, row, now_ms);
    for (EvidenceGroup group = 0; r == 0 && group < EVIDENCE_GROUPS_N_; group++)
        r = consume_group(db, g, row, group, now_ms);
    return r;
}
