#include "rollout/control.h"

#include <math.h>
#include <stdlib.h>

#include "base/log.h"
#include "store/agent_store.h"

#define HISTORY_MAX 2000 /* tasks that a baseline is taken from */
#define HISTORY_MIN 20
#define BATCH_MAX 256
#define ARENA_BYTES ((size_t)4 << 20)

/* Tasks may still be submitted for a moment that has passed for the controller. */
#define ELIGIBLE_LAG_MS 1000

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

static int64_t latency_ms(const RolloutOutcome *outcome)
{
    return MAX(0, outcome->finished_at_ms - outcome->started_at_ms);
}

RolloutBaseline control_baseline(RolloutOutcome *outcomes, size_t n)
{
    RolloutBaseline b = { .cost_cap_nusd = 500000000,
                          .tokens_cap = 200000,
                          .latency_p95_ms = 600000,
                          .tool_calls_p95 = 40 };
    if (n < HISTORY_MIN) return b;
    CLEANUP(freep) int64_t *values = xcalloc(n, sizeof(*values));
    for (size_t i = 0; i < n; i++) values[i] = outcomes[i].cost_nusd;
    b.cost_cap_nusd = MAX(1, quantile(values, n, 0.995));
    for (size_t i = 0; i < n; i++) values[i] = outcomes[i].tokens;
    b.tokens_cap = MAX(1, quantile(values, n, 0.995));
    for (size_t i = 0; i < n; i++) values[i] = latency_ms(&outcomes[i]);
    b.latency_p95_ms = quantile(values, n, 0.95);
    for (size_t i = 0; i < n; i++) values[i] = outcomes[i].tool_calls;
    b.tool_calls_p95 = quantile(values, n, 0.95);
    return b;
}

/* --- harm ------------------------------------------------------------------------------------- */

static double capped(int64_t value, int64_t cap)
{
    return (double)MIN(MAX(value, 0), cap) / (double)cap;
}

/* NaN: the outcome says nothing about the metric. */
static double harm_of(Str name, const RolloutBaseline *b, const RolloutOutcome *o)
{
    if (str_eq(name, STR("errorRate")))
        return o->state == TASK_FAILED || o->state == TASK_TIMED_OUT;
    if (str_eq(name, STR("completionRate"))) return o->state != TASK_SUCCEEDED;
    if (str_eq(name, STR("escalationRate"))) return o->state == TASK_ESCALATED;
    if (str_eq(name, STR("costPerTask"))) return capped(o->cost_nusd, b->cost_cap_nusd);
    if (str_eq(name, STR("tokensPerTask"))) return capped(o->tokens, b->tokens_cap);
    if (str_eq(name, STR("latency"))) return latency_ms(o) > b->latency_p95_ms;
    if (str_eq(name, STR("toolCalls"))) return o->tool_calls > b->tool_calls_p95;
    if (str_eq(name, STR("quality"))) return 1 - o->quality;
    return NAN;
}

void control_harm(const RolloutSpec *spec, const RolloutBaseline *baseline,
                  const RolloutOutcome *outcome, EvidenceUnit *ret)
{
    *ret = (EvidenceUnit){ .canary = outcome->canary, .pi = outcome->pi };
    for (size_t m = 0; m < spec->evidence.metrics_n; m++) {
        double harm = harm_of(str_of(spec->names[m]), baseline, outcome);
        if (!(harm >= 0 && harm <= 1)) continue;
        ret->harm[m] = harm;
        ret->has |= UINT32_C(1) << m;
    }
}

/* --- evidence --------------------------------------------------------------------------------- */

/* A tick on its way; on the heap, for a store thread's stack is small. */
typedef struct {
    RolloutSpec spec;
    Evidence evidence;
    RolloutOutcome outcomes[BATCH_MAX];
    bool changed; /* the evidence */
} Control;

static bool is_resolved(const RolloutOutcome *o, EvidenceGroup group, int64_t now_ms)
{
    bool at_rest = task_state_ended(o->state) || o->state == TASK_ESCALATED;
    if (group == EVIDENCE_FAST || !at_rest) return at_rest;
    if (o->state == TASK_CANCELED || !isnan(o->quality)) return true;
    return now_ms - o->finished_at_ms >= CONTROL_JUDGE_WAIT_MS;
}

static void consume_one(Control *c, const RolloutRow *row, EvidenceGroup group,
                        const RolloutOutcome *outcome)
{
    EvidenceUnit unit;
    if (outcome->state == TASK_CANCELED) return; /* dropped, arms alike */
    control_harm(&c->spec, &row->baseline, outcome, &unit);
    if (group == EVIDENCE_JUDGED && isnan(outcome->quality)) return; /* nobody has judged it */
    evidence_observe(&c->evidence, &c->spec.evidence, row->state.step, group, &unit);
    c->changed = true;
}

static bool has_group(const RolloutSpec *spec, EvidenceGroup group)
{
    for (size_t m = 0; m < spec->evidence.metrics_n; m++)
        if (spec->evidence.metrics[m].group == group) return true;
    return false;
}

/* Outcomes in eligible order, up to the first that is not known yet. */
static int consume_group(Db *db, Control *c, RolloutRow *row, EvidenceGroup group, int64_t now_ms)
{
    if (group != EVIDENCE_FAST && !has_group(&c->spec, group)) return 0;
    for (int64_t taken = 0; taken < CONTROL_UNITS_MAX;) {
        size_t n = BATCH_MAX, i = 0;
        int r = rollout_outcomes(db, row->seq, row->cursors[group], now_ms - ELIGIBLE_LAG_MS,
                                 c->outcomes, &n);
        if (r != 0) return r;
        for (; i < n && is_resolved(&c->outcomes[i], group, now_ms); i++) {
            consume_one(c, row, group, &c->outcomes[i]);
            row->cursors[group] = c->outcomes[i].at;
        }
        if (i < n || n < BATCH_MAX) return 0;
        taken += (int64_t)n;
    }
    return 0;
}

/* Every unit at first sight, whatever becomes of it. */
static int count_seen(Db *db, Control *c, RolloutRow *row, int64_t now_ms)
{
    for (int64_t taken = 0; taken < CONTROL_UNITS_MAX;) {
        size_t n = BATCH_MAX;
        int r = rollout_outcomes(db, row->seq, row->seen, now_ms - ELIGIBLE_LAG_MS, c->outcomes,
                                 &n);
        if (r != 0 || n == 0) return r;
        for (size_t i = 0; i < n; i++)
            evidence_seen(&c->evidence, c->outcomes[i].canary, c->outcomes[i].pi);
        row->seen = c->outcomes[n - 1].at;
        c->changed = true;
        taken += (int64_t)n;
    }
    return 0;
}

/* A form that this build cannot read is gathered anew: every outcome is still there. */
static int load_evidence(Db *db, Control *c, RolloutRow *row)
{
    int r = rollout_evidence_get(db, row->seq, c->spec.evidence.metrics_n, &c->evidence);
    if (r != -ENOENT && r != -EPROTO) return r;
    evidence_init(&c->evidence);
    memset(row->cursors, 0, sizeof(row->cursors));
    row->seen = (RolloutCursor){ 0 };
    row->state.step_canaries = 0;
    return 0;
}

int control_spec(const RolloutRow *row, Arena *arena, RolloutSpec *ret)
{
    const Json *block;
    int r = json_parse(arena, row->block, NULL, &block, NULL);
    if (r == 0 && rollout_spec_read(block, ret) != 0) r = -EINVAL;
    return r;
}

static int gather(Db *db, Control *c, RolloutRow *row, int64_t now_ms, Arena *arena)
{
    int r = control_spec(row, arena, &c->spec);
    if (r == 0) r = load_evidence(db, c, row);
    if (r == 0) r = count_seen(db, c, row, now_ms);
    for (EvidenceGroup g = 0; r == 0 && g < EVIDENCE_GROUPS_N_; g++)
        r = consume_group(db, c, row, g, now_ms);
    return r;
}

/* --- deciding --------------------------------------------------------------------------------- */

static RolloutInput input_of(const Control *c, const RolloutRow *row, RolloutCommand command,
                             Str actor, int64_t now_ms)
{
    const Evidence *e = &c->evidence;
    return (RolloutInput){
        .now_ms = now_ms,
        .command = command,
        .actor = actor,
        .preflight = CHECK_PASSED, /* a stored version is checked and whole */
        .shadow = CHECK_RUNNING,
        .evidence_rollback = e->rollback,
        .culprit = e->rollback ? str_of(c->spec.names[e->culprit]) : STR_NULL,
        .proved = evidence_proved(e, &c->spec.evidence, row->state.step),
        .unproved = rollout_spec_unproved(&c->spec, e, row->state.step),
        .canaries = evidence_canaries(e, &c->spec.evidence),
        .srm_ok = evidence_srm_ok(e),
        .judge_ok = true,
        .gate_open = false, /* a gate is passed by `promote` */
    };
}

/* What the move asks for, beside the rollout's own row. */
static int act(Db *db, const RolloutRow *row, const RolloutMove *move, int64_t now_ms)
{
    int64_t n;
    int r = 0;
    if (move->actions & ROLLOUT_DO_STABLE) {
        r = routing_set(db, row->agent, row->version_id, now_ms);
        if (r == 0) r = agent_set_settings(db, row->agent, row->settings);
    }
    if (r == 0 && (move->actions & ROLLOUT_DO_REBIND))
        r = rollout_rebind(db, row->version_id, row->control_id, &n);
    if (r == 0 && (move->actions & ROLLOUT_DO_KILL)) r = rollout_kill(db, row->version_id, &n);
    return r;
}

static void tell(const RolloutRow *row, const RolloutMove *move)
{
    if (move->actions & ROLLOUT_DO_TELL)
        LOG_INFO("rollout moved", LOG_STR("rollout", row->id), LOG_STR("agent", row->agent),
                 LOG_CSTR("state", rollout_state_name(row->state.state)),
                 LOG_INT("weightBp", row->state.weight_bp), LOG_CSTR("why", move->why));
    if (move->actions & ROLLOUT_DO_PAGE)
        LOG_WARN("rollout needs a person", LOG_STR("rollout", row->id),
                 LOG_STR("agent", row->agent), LOG_CSTR("why", move->why));
}

static int tick(Db *db, Control *c, RolloutRow *row, const RolloutInput *input, Arena *arena,
                RolloutMove *ret)
{
    *ret = rollout_next(&row->state, &c->spec.plan, input);
    row->state = ret->next;
    row->verdict = ret->verdict;
    row->why = arena_str(arena, str_of(ret->why));
    if (!row->why.ptr) return -ENOMEM;
    if (ret->actions & ROLLOUT_DO_TELL) row->changed_at_ms = input->now_ms;
    int r = act(db, row, ret, input->now_ms);
    if (r == 0) r = rollout_update(db, row);
    if (r == 0) tell(row, ret);
    return r;
}

int control_tick(Db *db, RolloutRow *row, RolloutCommand command, Str actor, int64_t now_ms,
                 Arena *arena, RolloutMove *ret_move)
{
    RolloutMove move;
    CLEANUP(freep) Control *c = xcalloc(1, sizeof(*c));
    int r = gather(db, c, row, now_ms, arena);
    if (r == 0 && c->changed)
        r = rollout_evidence_put(db, row->seq, &c->evidence, c->spec.evidence.metrics_n);
    if (r != 0) return r;
    RolloutInput input = input_of(c, row, command, actor, now_ms);
    r = tick(db, c, row, &input, arena, &move);
    if (r == 0 && ret_move) *ret_move = move;
    return r;
}

/* --- commands --------------------------------------------------------------------------------- */

int control_command(Db *db, Str id, RolloutCommand command, Str actor, int64_t now_ms, Arena *arena,
                    RolloutRow *ret, RolloutMove *ret_move)
{
    int r = rollout_get(db, id, arena, ret);
    return r != 0 ? r : control_tick(db, ret, command, actor, now_ms, arena, ret_move);
}

int control_end(Db *db, Str agent, RolloutCommand command, Str actor, int64_t now_ms,
                unsigned *ret_actions)
{
    RolloutRow row;
    RolloutMove move;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, ARENA_BYTES);
    *ret_actions = 0;
    int r = rollout_active(db, agent, &arena, &row);
    if (r != 0) return r == -ENOENT ? 0 : r;
    r = control_tick(db, &row, command, actor, now_ms, &arena, &move);
    if (r == 0) *ret_actions = move.actions;
    return r;
}

static int check_start(Db *db, const ControlStart *start, Arena *arena, Agent *ret)
{
    int r = agent_get(db, start->agent, arena, ret);
    if (r != 0) return r;
    if (str_empty(ret->version_id)) return CONTROL_E_NOTHING;
    return str_eq(ret->version_id, start->version_id) ? CONTROL_E_SAME : 0;
}

static int read_baseline(Db *db, Str version_id, RolloutBaseline *ret)
{
    size_t n = HISTORY_MAX;
    CLEANUP(freep) RolloutOutcome *outcomes = xcalloc(n, sizeof(*outcomes));
    int r = rollout_history(db, version_id, outcomes, &n);
    if (r == 0) *ret = control_baseline(outcomes, n);
    return r;
}

int control_start(Db *db, const ControlStart *start, Arena *arena, RolloutRow *ret)
{
    Agent agent;
    unsigned actions;
    CLEANUP(freep) RolloutSpec *spec = xcalloc(1, sizeof(*spec));
    int r = check_start(db, start, arena, &agent);
    if (r != 0) return r;
    RolloutRow row = { .id = start->id,
                       .agent = agent.name,
                       .version_id = start->version_id,
                       .control_id = agent.version_id,
                       .block = start->block,
                       .settings = start->settings,
                       .why = STR("The rollout was created."),
                       .created_at_ms = start->now_ms,
                       .changed_at_ms = start->now_ms };
    r = control_spec(&row, arena, spec);
    if (r != 0) return r == -EINVAL ? CONTROL_E_METRICS : r;
    r = control_end(db, start->agent, COMMAND_SUPERSEDE, STR_NULL, start->now_ms, &actions);
    if (r == 0) r = read_baseline(db, row.control_id, &row.baseline);
    if (r == 0) r = rollout_insert(db, &row, &row.seq);
    assert(r != DB_E_CONFLICT);
    while (r == 0 && row.state.state < ROLLOUT_STEP) /* a stored version has passed its checks */
        r = control_tick(db, &row, COMMAND_NONE, STR_NULL, start->now_ms, arena, NULL);
    if (r == 0) *ret = row;
    return r;
}

/* --- every second ----------------------------------------------------------------------------- */

int control_tick_all_job(Db *db, void *arg)
{
    ControlTickAll *all = arg;
    RolloutRow *rows;
    size_t n;
    int64_t after = 0;
    int r;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, 64 * ARENA_BYTES);
    do { /* a page at a time: there may be as many as there are agents */
        arena_clear(&arena);
        r = rollout_list_active(db, after, &arena, &rows, &n);
        for (size_t i = 0; r == 0 && i < n; i++) {
            RolloutMove move;
            after = rows[i].seq;
            r = control_tick(db, &rows[i], COMMAND_NONE, STR_NULL, all->now_ms, &arena, &move);
            all->ticked++;
            if (r == 0) all->actions |= move.actions;
            if (r == 0) all->changed += (move.actions & ROLLOUT_DO_TELL) != 0;
        }
    } while (r == 0 && n == ROLLOUT_LIST_MAX);
    return r;
}

static int any_active_job(Db *db, void *arg)
{
    return rollout_any_active(db, arg);
}

int control_tick_all_wait(Queue *queue, int64_t now_ms)
{
    bool any = false;
    ControlTickAll all = { .now_ms = now_ms };
    int r = store_read_wait(queue_store(queue), any_active_job, &any);
    if (r == 0 && any) r = store_call_wait(queue_store(queue), control_tick_all_job, &all);
    if (r == 0) control_signal(queue, all.actions);
    return r;
}

void control_signal(Queue *queue, unsigned actions)
{
    if (actions & ROLLOUT_DO_KILL) queue_signal_workers(queue);
}
