#include "rollout/control.h"

#include <stdio.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/json.h"
#include "logic/grade.h"
#include "rollout/anchors.h"
#include "rollout/interval.h"
#include "rollout/record.h"
#include "rollout/serving.h"
#include "rollout/shadow.h"
#include "store/agent_store.h"
#include "store/alarm_store.h"
#include "store/event_store.h"
#include "store/version_store.h"

#define ARENA_BYTES ((size_t)4 << 20)

/* --- deciding --------------------------------------------------------------------------------- */

/* Of what the first metric is that is worse than it may be. */
static Str culprit_of(const Gather *g, const ShadowGather *shadow)
{
    if (g->evidence.rollback) return str_of(g->spec.names[g->evidence.culprit]);
    return shadow->verdict == CHECK_FAILED ? str_of(g->spec.names[shadow->evidence.culprit])
                                           : STR_NULL;
}

/* What a tick is asked to do, and by whom. */
typedef struct {
    RolloutCommand command;
    Str actor;
    Str gate; /* OPEN_GATE: its name; empty: the current step's */
} Asked;

/* A name that no gate has is that of a step that no plan has. */
static uint32_t gates_of(const Gather *g, const Asked *asked)
{
    static_assert(ROLLOUT_STEPS_MAX < 32, "a bit is left");
    if (str_empty(asked->gate)) return 0;
    uint32_t gates = rollout_spec_gates(&g->spec, asked->gate);
    return gates ? gates : UINT32_C(1) << 31;
}

static RolloutInput input_of(const Gather *g, const ShadowGather *shadow, const RolloutRow *row,
                             const Asked *asked, Tripwire tripwire, int64_t now_ms)
{
    const Evidence *e = &g->evidence;
    return (RolloutInput){
        .now_ms = now_ms,
        .command = asked->command,
        .actor = asked->actor,
        .gates = gates_of(g, asked),
        .tripwire = tripwire,
        .preflight = row->preflight,
        .preflight_why = row->preflight_why,
        .shadow = shadow->verdict,
        .shadow_biased = shadow->evidence.biased,
        .shadow_why = str_of(shadow->why),
        .evidence_rollback = e->rollback,
        .culprit = culprit_of(g, shadow),
        .proved = evidence_proved(e, &g->spec.evidence, row->state.step),
        .unproved = rollout_spec_unproved(&g->spec, e, row->state.step),
        .canaries = evidence_canaries(e, &g->spec.evidence),
        .srm_ok = evidence_srm_ok(e),
        .judge_ok = true,
    };
}

/* Looked at while there are tasks to lose. */
static int look(Db *db, const Gather *g, const RolloutRow *row, Tripwire *ret)
{
    *ret = TRIPWIRE_NONE;
    if (row->state.weight_bp == 0) return 0;
    CLEANUP(freep) TripwireTail *tails = xcalloc(2, sizeof(*tails));
    int r = rollout_tail(db, row->version_id, row->seq, &tails[0]);
    if (r == 0) r = rollout_tail(db, row->control_id, 0, &tails[1]);
    if (r != 0) return r;
    TripwireMeanwhile meanwhile = { .goes_on = row->state.weight_bp < WEIGHT_BP_ALL };
    int64_t since_ms = tripwire_crashes_since(&g->spec.tripwires, &tails[0]);
    if (since_ms < INT64_MAX) r = rollout_meanwhile(db, row->control_id, since_ms, &meanwhile);
    if (r == 0)
        *ret = tripwire_look(&g->spec.tripwires, &tails[0], &tails[1], &meanwhile,
                             row->baseline.cost_cap_nusd);
    return r;
}

/* What the move asks for, beside the rollout's own row. */
static int act(Db *db, const RolloutRow *row, const RolloutMove *move, int64_t now_ms)
{
    int64_t n;
    int r = 0;
    if (move->actions & ROLLOUT_DO_STABLE) {
        r = routing_set(db, row->agent, row->version_id, now_ms);
        if (r == 0) r = agent_set_settings(db, row->agent, row->settings);
        if (r == 0) r = watch_forget(db, row->agent, row->version_id);
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
    if (move->actions & (ROLLOUT_DO_PAGE | ROLLOUT_DO_ASK))
        LOG_WARN("rollout needs a person", LOG_STR("rollout", row->id),
                 LOG_STR("agent", row->agent), LOG_CSTR("why", move->why));
}

static int tick(Db *db, Gather *g, RolloutRow *row, const RolloutInput *input, Arena *arena,
                RolloutMove *ret)
{
    RolloutRow from = *row;
    *ret = rollout_next(&row->state, &g->spec.plan, input);
    row->state = ret->next;
    if (!ret->refused) { /* what somebody could not do is told them, and says nothing of it */
        row->verdict = ret->verdict;
        row->why = arena_str(arena, str_of(ret->why));
        if (!row->why.ptr) return -ENOMEM;
    }
    if (ret->actions & ROLLOUT_DO_TELL) row->changed_at_ms = input->now_ms;
    int r = act(db, row, ret, input->now_ms);
    if (r == 0) r = rollout_update(db, row);
    if (r == 0 && (ret->actions & (ROLLOUT_DO_ROUTE | ROLLOUT_DO_STABLE)))
        r = serving_moved(db, row->agent, input->now_ms);
    if (r == 0) r = record_tick(db, row, &from, g, input, ret);
    if (r == 0 && row->state.state >= ROLLOUT_STEP)
        r = interval_tick(db, row, &g->spec, input->now_ms, rollout_state_is_end(row->state.state));
    if (r == 0) tell(row, ret);
    return r;
}

/* Why what is missing forbids to conclude from what they said; empty: it does not. */
static Str silence_of(const Evidence *e, Arena *arena)
{
    EvidenceJudges judges = evidence_judges(&e->told);
    if (judges == JUDGES_OK && evidence_judged_alike(e)) return STR_NULL;
    if (judges == JUDGES_OK)
        return STR("tasks of one version lack a result or a score more often than the other's, so "
                   "what is judged proves nothing");
    return arena_printf(arena,
                        "graders could not tell of %.0f%% of the new version's tasks and of %.0f%%"
                        " of the stable one's, %s, so what is judged proves nothing",
                        100 * evidence_untold(&e->told, true),
                        100 * evidence_untold(&e->told, false),
                        judges == JUDGES_SILENT ? "too many" : "not alike");
}

/* A judge that got another version since the rollout began: *ret_why says so. */
static int judge_replaced(Db *db, const RolloutRow *row, Arena *arena, Str *ret_why)
{
    Agent agent, judge;
    Grader graders[GRADERS_MAX];
    const Json *settings = NULL;
    int r = agent_get(db, row->agent, arena, &agent);
    if (r == 0) r = json_parse(arena, agent.settings, NULL, &settings, NULL);
    if (r != 0) return r == -EINVAL ? 0 : r;
    size_t n = graders_read(arena, json_get(settings, "graders"), graders);
    for (size_t i = 0; i < n && str_empty(*ret_why); i++) {
        if (str_empty(graders[i].agent)) continue;
        r = agent_get(db, graders[i].agent, arena, &judge);
        if (r != 0 && r != -ENOENT) return r;
        if (r == -ENOENT || judge.routing_changed_at_ms <= row->created_at_ms) continue;
        *ret_why = arena_printf(arena,
                                "the judge %.*s got another version since the rollout began, and "
                                "scores compare only within one: begin a new rollout",
                                STR_ARG(str_sub(graders[i].agent, 0, 64)));
    }
    return 0;
}

/* A judge that has changed compares nothing, nor do graders that cannot tell. */
static int judge_look(Db *db, const Gather *g, const RolloutRow *row, Arena *arena,
                      RolloutInput *ret)
{
    bool judged = false, changed = false;
    for (size_t m = 0; m < g->spec.evidence.metrics_n; m++)
        judged |= g->spec.evidence.metrics[m].group == EVIDENCE_JUDGED;
    int r = judged ? alarm_any_open(db, row->agent, STR(ANCHOR_METRIC), &changed) : 0;
    ret->judge_why = judged && !changed ? silence_of(&g->evidence, arena) : STR_NULL;
    if (r == 0 && judged && !changed && str_empty(ret->judge_why))
        r = judge_replaced(db, row, arena, &ret->judge_why);
    ret->judge_ok = !changed && str_empty(ret->judge_why);
    return r;
}

static int tick_asked(Db *db, RolloutRow *row, const Asked *asked, int64_t now_ms, Arena *arena,
                      RolloutMove *ret_move)
{
    RolloutMove move;
    CLEANUP(freep) Gather *g = xcalloc(1, sizeof(*g));
    CLEANUP(freep) ShadowGather *shadow = xcalloc(1, sizeof(*shadow));
    int r = gather(db, g, row, now_ms, arena);
    if (r == 0 && g->changed)
        r = rollout_evidence_put(db, row->seq, &g->evidence, g->spec.evidence.metrics_n);
    if (r == 0 && shadow_is_on(row)) r = shadow_gather(db, shadow, row, &g->spec, now_ms);
    if (r != 0) return r;
    g->changed |= shadow->changed;
    Tripwire tripwire;
    r = look(db, g, row, &tripwire);
    if (r != 0) return r;
    RolloutInput input = input_of(g, shadow, row, asked, tripwire, now_ms);
    input.unmeasured = gather_unmeasured(g, row, arena);
    r = judge_look(db, g, row, arena, &input);
    if (r == 0) r = tick(db, g, row, &input, arena, &move);
    if (r == 0 && ret_move) *ret_move = move;
    return r;
}

int control_tick(Db *db, RolloutRow *row, RolloutCommand command, Str actor, int64_t now_ms,
                 Arena *arena, RolloutMove *ret_move)
{
    return tick_asked(db, row, &(Asked){ .command = command, .actor = actor }, now_ms, arena,
                      ret_move);
}

/* --- commands --------------------------------------------------------------------------------- */

/* What has ended stays as it is, why it ended too. */
static RolloutMove move_of_ended(const RolloutRow *row, RolloutCommand command)
{
    RolloutMove move = { .next = row->state, .refused = command != COMMAND_NONE };
    snprintf(move.why, sizeof(move.why), "The rollout has ended: %s.",
             rollout_state_name(row->state.state));
    return move;
}

static int command_asked(Db *db, Str id, const Asked *asked, int64_t now_ms, Arena *arena,
                         RolloutRow *ret, RolloutMove *ret_move)
{
    int r = rollout_get(db, id, arena, ret);
    if (r != 0) return r;
    if (!rollout_state_is_end(ret->state.state))
        return tick_asked(db, ret, asked, now_ms, arena, ret_move);
    if (ret_move) *ret_move = move_of_ended(ret, asked->command);
    return 0;
}

int control_command(Db *db, Str id, RolloutCommand command, Str actor, int64_t now_ms, Arena *arena,
                    RolloutRow *ret, RolloutMove *ret_move)
{
    return command_asked(db, id, &(Asked){ .command = command, .actor = actor }, now_ms, arena, ret,
                         ret_move);
}

int control_open_gate(Db *db, Str id, Str gate, Str actor, int64_t now_ms, Arena *arena,
                      RolloutRow *ret, RolloutMove *ret_move)
{
    const Asked asked = { .command = COMMAND_OPEN_GATE, .actor = actor, .gate = gate };
    return command_asked(db, id, &asked, now_ms, arena, ret, ret_move);
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

/* How long a task of the version may run; 0: unknown. */
static int limit_of(Db *db, Str version_id, Arena *arena, int64_t *ret_ms)
{
    Version version;
    const Json *v;
    *ret_ms = 0;
    int r = version_get(db, version_id, arena, &version);
    if (r != 0) return r;
    r = json_parse(arena, version.components, NULL, &v, NULL);
    if (r != 0) return r == -EINVAL ? 0 : r;
    *ret_ms = rollout_spec_limit_ms(json_get(v, "limits"));
    return 0;
}

static int limit_of_both(Db *db, const RolloutRow *row, Arena *arena, int64_t *ret_ms)
{
    int64_t stable_ms, canary_ms;
    int r = limit_of(db, row->control_id, arena, &stable_ms);
    if (r == 0) r = limit_of(db, row->version_id, arena, &canary_ms);
    if (r == 0) *ret_ms = MAX(stable_ms, canary_ms);
    return r;
}

static int check_start(Db *db, const ControlStart *start, Arena *arena, Agent *ret)
{
    int r = agent_get(db, start->agent, arena, ret);
    if (r != 0) return r;
    if (str_empty(ret->version_id)) return CONTROL_E_NOTHING;
    return str_eq(ret->version_id, start->version_id) ? CONTROL_E_SAME : 0;
}

int control_start(Db *db, const ControlStart *start, Arena *arena, RolloutRow *ret,
                  unsigned *ret_actions)
{
    Agent agent;
    *ret_actions = 0;
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
                       .checks = STR("[]"),
                       .created_at_ms = start->now_ms,
                       .changed_at_ms = start->now_ms };
    r = limit_of_both(db, &row, arena, &row.limit_ms);
    if (r != 0) return r;
    r = control_spec(&row, arena, spec);
    if (r != 0) return r == -EINVAL ? CONTROL_E_METRICS : r;
    row.unit = spec->unit;
    r = control_end(db, start->agent, COMMAND_SUPERSEDE, start->actor, start->now_ms, ret_actions);
    if (r == 0) r = gather_history(db, row.control_id, &row.baseline);
    if (r == 0) r = rollout_insert(db, &row, &row.seq);
    assert(r != DB_E_CONFLICT);
    if (r == 0) /* into the preflight, which goes on outside */
        r = control_tick(db, &row, COMMAND_NONE, start->actor, start->now_ms, arena, NULL);
    if (r == 0) *ret = row;
    return r;
}

int control_checked(Db *db, Str id, const ControlChecked *checked, Arena *arena, RolloutRow *ret)
{
    int r = rollout_get(db, id, arena, ret);
    if (r != 0 || ret->state.state != ROLLOUT_PREFLIGHT || ret->preflight != CHECK_RUNNING)
        return r;
    ret->preflight = checked->passed ? CHECK_PASSED : CHECK_FAILED;
    ret->preflight_why = checked->why;
    ret->checks = checked->checks;
    r = rollout_set_checks(db, ret);
    if (r != 0) return r;
    return control_tick(db, ret, COMMAND_NONE, STR_NULL, checked->now_ms, arena, NULL);
}

/* --- every second ----------------------------------------------------------------------------- */

typedef struct {
    int64_t after_seq, now_ms;
    Arena arena;
    const RolloutRow *rows; /* as they were when they were listed */
    size_t n;
    ControlTickAll done;
} TickJob;

static void tick_job_deinit(TickJob *job)
{
    arena_deinit(&job->arena);
}

static int list_job(Db *db, void *arg)
{
    TickJob *job = arg;
    RolloutRow *rows = NULL;
    int r = rollout_list_active(db, job->after_seq, &job->arena, &rows, &job->n);
    job->rows = rows;
    return r;
}

static int tick_one(Db *db, Str id, int64_t now_ms, Arena *arena, ControlTickAll *done)
{
    RolloutRow row;
    RolloutMove move;
    int r = rollout_get(db, id, arena, &row);
    if (r != 0) return r;
    if (rollout_state_is_end(row.state.state)) return 0;
    r = control_tick(db, &row, COMMAND_NONE, STR_NULL, now_ms, arena, &move);
    if (r != 0) return r;
    done->ticked++;
    done->actions |= move.actions;
    done->changed += (move.actions & ROLLOUT_DO_TELL) != 0;
    return 0;
}

static int tick_job(Db *db, void *arg)
{
    TickJob *job = arg;
    int r = 0;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, ARENA_BYTES);
    job->done = (ControlTickAll){ 0 };
    for (size_t i = 0; r == 0 && i < job->n; i++) {
        arena_clear(&arena);
        r = tick_one(db, job->rows[i].id, job->now_ms, &arena, &job->done);
    }
    return r;
}

static void sum_up(ControlTickAll *all, const ControlTickAll *done)
{
    all->ticked += done->ticked;
    all->changed += done->changed;
    all->actions |= done->actions;
}

/* All in one commit; if that fails each in its own, so that one bad rollout holds up no other. */
static int tick_page_wait(Store *store, TickJob *page, ControlTickAll *all)
{
    int r = store_call_wait(store, tick_job, page);
    if (r == 0) sum_up(all, &page->done);
    if (r == 0 || r == -ECANCELED) return r;
    for (size_t i = 0; i < page->n; i++) {
        TickJob one = { .now_ms = page->now_ms, .rows = &page->rows[i], .n = 1 };
        r = store_call_wait(store, tick_job, &one);
        if (r == -ECANCELED) return r;
        if (r == 0) sum_up(all, &one.done);
        if (r == 0) continue;
        all->failed++;
        LOG_ERROR("a rollout was not ticked", LOG_STR("rollout", page->rows[i].id),
                  LOG_STR("agent", page->rows[i].agent), LOG_CSTR("why", diag_text_or(r)));
    }
    return 0;
}

static int any_active_job(Db *db, void *arg)
{
    return rollout_any_active(db, arg);
}

/* A page at a time: there may be as many as there are agents. */
static int tick_pages_wait(Store *store, int64_t now_ms, ControlTickAll *all)
{
    CLEANUP(tick_job_deinit) TickJob page = { .now_ms = now_ms };
    arena_init(&page.arena, 64 * ARENA_BYTES);
    do {
        arena_clear(&page.arena);
        int r = store_read_wait(store, list_job, &page);
        if (r == 0 && page.n > 0) r = tick_page_wait(store, &page, all);
        if (r != 0) return r;
        if (page.n > 0) page.after_seq = page.rows[page.n - 1].seq;
    } while (page.n == ROLLOUT_LIST_MAX);
    return 0;
}

int control_tick_all_wait(Queue *queue, int64_t now_ms, ControlTickAll *ret)
{
    bool any = false;
    ControlTickAll all = { 0 };
    Store *store = queue_store(queue);
    int r = store_read_wait(store, any_active_job, &any);
    if (r == 0 && any) r = tick_pages_wait(store, now_ms, &all);
    control_signal_wait(queue, all.actions);
    if (ret) *ret = all;
    return r;
}

typedef struct {
    const Str *urls;
    size_t urls_n;
    int64_t now_ms, n;
} PublishJob;

static int any_pending_job(Db *db, void *arg)
{
    return event_any_pending(db, arg);
}

static int publish_job(Db *db, void *arg)
{
    PublishJob *job = arg;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, ARENA_BYTES);
    return event_publish(db, job->urls, job->urls_n, job->now_ms, &arena, &job->n);
}

int control_publish_wait(Queue *queue, const Str *urls, size_t urls_n, int64_t now_ms)
{
    bool any = false;
    PublishJob job = { .urls = urls, .urls_n = urls_n, .now_ms = now_ms };
    int r = store_read_wait(queue_store(queue), any_pending_job, &any);
    return r == 0 && any ? store_call_wait(queue_store(queue), publish_job, &job) : r;
}

void control_signal_wait(Queue *queue, unsigned actions)
{
    if (!(actions & ROLLOUT_DO_KILL)) return;
    queue_signal_workers(queue);
    int r = queue_end_killed_wait(queue);
    if (r != 0 && r != -ECANCELED)
        LOG_WARN("tasks that a rollback stops end later", LOG_CSTR("why", diag_text_or(r)));
}
