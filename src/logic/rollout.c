#include "logic/rollout.h"

#include <stdarg.h>
#include <stdio.h>

#include "codec/time_text.h"

/* --- names ----------------------------------------------------------------------------------- */

static const char *const state_names[ROLLOUT_N_] = {
    [ROLLOUT_PENDING] = "pending",         [ROLLOUT_PREFLIGHT] = "preflight",
    [ROLLOUT_SHADOW] = "shadow",           [ROLLOUT_STEP] = "step",
    [ROLLOUT_PAUSED] = "paused",           [ROLLOUT_COMPLETED] = "completed",
    [ROLLOUT_ROLLED_BACK] = "rolled_back", [ROLLOUT_ABORTED] = "aborted",
    [ROLLOUT_SUPERSEDED] = "superseded",
};

const char *rollout_state_name(RolloutState state)
{
    assert(state < ROLLOUT_N_);
    return state_names[state];
}

int rollout_state_from(Str name, RolloutState *ret)
{
    for (RolloutState s = 0; s < ROLLOUT_N_; s++) {
        if (!str_eq(name, str_of(state_names[s]))) continue;
        *ret = s;
        return 0;
    }
    return -EINVAL;
}

bool rollout_state_is_end(RolloutState state)
{
    return state >= ROLLOUT_COMPLETED;
}

const char *rollout_verdict_name(RolloutVerdict verdict)
{
    static const char *const names[VERDICT_N_] = { "hold", "advance", "rollback" };
    assert(verdict < VERDICT_N_);
    return names[verdict];
}

static const char *const tripwire_texts[TRIPWIRE_N_] = {
    [TRIPWIRE_NONE] = "nothing",
    [TRIPWIRE_BUDGET] = "its spending ran away",
    [TRIPWIRE_SANDBOX] = "it reaches for more than its sandbox allows",
    [TRIPWIRE_CRASH_LOOP] = "it crashes again and again",
};

/* --- plans ----------------------------------------------------------------------------------- */

RolloutPlan rollout_plan_canary(void)
{
    RolloutPlan plan = { .steps_n = 4, .preflight = true };
    static const int32_t weights[] = { 500, 2500, 5000, WEIGHT_BP_ALL };
    for (size_t i = 0; i < plan.steps_n; i++)
        plan.steps[i] = (RolloutStep){ .weight_bp = weights[i], .min_tasks = ROLLOUT_MIN_TASKS };
    return plan;
}

RolloutPlan rollout_plan_blue_green(int64_t hold_ms)
{
    return (RolloutPlan){ .steps = { { .weight_bp = WEIGHT_BP_ALL, .for_ms = hold_ms } },
                          .steps_n = 1,
                          .preflight = true };
}

RolloutPlan rollout_plan_immediate(void)
{
    return (RolloutPlan){ .steps = { { .weight_bp = WEIGHT_BP_ALL } }, .steps_n = 1 };
}

bool rollout_plan_ok(const RolloutPlan *plan)
{
    if (plan->steps_n < 1 || plan->steps_n > ROLLOUT_STEPS_MAX) return false;
    int32_t last = 0;
    for (size_t i = 0; i < plan->steps_n; i++) {
        if (plan->steps[i].weight_bp <= last) return false;
        last = plan->steps[i].weight_bp;
    }
    return last == WEIGHT_BP_ALL;
}

/* --- moves ----------------------------------------------------------------------------------- */

#define TO(state) (1u << (state))
#define TO_END (TO(ROLLOUT_ROLLED_BACK) | TO(ROLLOUT_ABORTED) | TO(ROLLOUT_SUPERSEDED))

static const uint16_t rollout_may[ROLLOUT_N_] = {
    /* end states have no row: nothing follows */
    [ROLLOUT_PENDING] = TO(ROLLOUT_PREFLIGHT) | TO_END,
    [ROLLOUT_PREFLIGHT] = TO(ROLLOUT_SHADOW) | TO(ROLLOUT_STEP) | TO_END,
    [ROLLOUT_SHADOW] = TO(ROLLOUT_STEP) | TO(ROLLOUT_PAUSED) | TO_END,
    [ROLLOUT_STEP] = TO(ROLLOUT_STEP) | TO(ROLLOUT_PAUSED) | TO(ROLLOUT_COMPLETED) | TO_END,
    [ROLLOUT_PAUSED] = TO(ROLLOUT_SHADOW) | TO(ROLLOUT_STEP) | TO_END,
};

/* A tick on its way. */
typedef struct {
    const RolloutPlan *plan;
    const RolloutInput *in;
    RolloutMove *move;
} Tick;

static void because(RolloutMove *move, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void because(RolloutMove *move, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(move->why, sizeof(move->why), fmt, args);
    va_end(args);
}

/* The only function that changes a rollout's state. */
static void rollout_move(Tick *t, RolloutState to)
{
    Rollout *r = &t->move->next;
    assert(r->state < ROLLOUT_N_ && to < ROLLOUT_N_);
    assert(rollout_may[r->state] & TO(to));
    r->state = to;
    r->state_since_ms = t->in->now_ms;
    t->move->actions |= ROLLOUT_DO_TELL;
}

static void set_weight(Tick *t, int32_t weight_bp)
{
    if (t->move->next.weight_bp == weight_bp) return;
    t->move->next.weight_bp = weight_bp;
    t->move->actions |= ROLLOUT_DO_ROUTE;
}

static void enter_step(Tick *t, size_t step)
{
    assert(step < t->plan->steps_n);
    rollout_move(t, ROLLOUT_STEP);
    Rollout *r = &t->move->next;
    r->step = step;
    r->step_since_ms = t->in->now_ms;
    r->step_canaries = t->in->canaries;
    set_weight(t, t->plan->steps[step].weight_bp);
}

static void start_deadline(Tick *t)
{
    int64_t span = t->plan->deadline_ms;
    t->move->next.deadline_at_ms = span > 0 ? t->in->now_ms + span : 0;
}

/* Back to where all was before, whichever end it is. */
static void leave(Tick *t, RolloutState to)
{
    rollout_move(t, to);
    set_weight(t, 0);
    t->move->actions |= ROLLOUT_DO_REBIND;
    if (t->plan->kills && to != ROLLOUT_SUPERSEDED) t->move->actions |= ROLLOUT_DO_KILL;
    t->move->verdict = VERDICT_ROLLBACK;
}

static void complete(Tick *t)
{
    rollout_move(t, ROLLOUT_COMPLETED);
    set_weight(t, WEIGHT_BP_ALL);
    t->move->next.step = t->plan->steps_n - 1;
    t->move->actions |= ROLLOUT_DO_STABLE;
    t->move->verdict = VERDICT_ADVANCE;
}

static bool is_last(const Tick *t)
{
    return t->move->next.step + 1 >= t->plan->steps_n;
}

/* One step on, or to the end after the last. */
static void advance(Tick *t)
{
    t->move->verdict = VERDICT_ADVANCE;
    if (is_last(t)) complete(t);
    else enter_step(t, t->move->next.step + 1);
}

static double percent(int32_t weight_bp)
{
    return (double)weight_bp / 100;
}

/* --- what a person asks ---------------------------------------------------------------------- */

static void refuse(Tick *t, const char *what)
{
    t->move->refused = true;
    because(t->move, "A rollout that is %s cannot be %s.", rollout_state_name(t->move->next.state),
            what);
}

static void resume(Tick *t)
{
    Rollout *r = &t->move->next;
    rollout_move(t, r->resumes);
    start_deadline(t);
}

static bool may_pause(RolloutState state)
{
    return state == ROLLOUT_SHADOW || state == ROLLOUT_STEP;
}

static void pause_it(Tick *t)
{
    t->move->next.resumes = t->move->next.state;
    rollout_move(t, ROLLOUT_PAUSED);
}

/* Where evidence of the shadow leads to. */
static size_t step_after_shadow(const Tick *t)
{
    return t->plan->shadow_is_first && t->plan->steps_n > 1 ? 1 : 0;
}

static void promote(Tick *t, bool all)
{
    Rollout *r = &t->move->next;
    if (r->state == ROLLOUT_PAUSED) resume(t);
    if (r->state == ROLLOUT_SHADOW) {
        enter_step(t, t->in->shadow == CHECK_PASSED ? step_after_shadow(t) : 0);
        t->move->verdict = VERDICT_ADVANCE;
        if (!all) return;
    }
    if (all) complete(t);
    else advance(t);
}

/* The gates that the plan has at this step and later. */
static uint32_t gates_ahead(const Tick *t)
{
    uint32_t gates = 0;
    for (size_t i = t->move->next.step; i < t->plan->steps_n; i++)
        gates |= (uint32_t)t->plan->steps[i].gate << i;
    return gates;
}

static bool gate_is_open(const Rollout *r)
{
    return r->gates_open >> r->step & 1;
}

/* Whether one is opened that was not. */
static bool open_gate(Tick *t, Str actor)
{
    Rollout *r = &t->move->next;
    uint32_t gates = (t->in->gates ? t->in->gates : UINT32_C(1) << r->step) & gates_ahead(t);
    if (gates == 0) {
        t->move->refused = true;
        because(t->move, "The plan has no such gate at this step or a later one.");
    }
    if ((gates & ~r->gates_open) == 0) return false;
    r->gates_open |= gates;
    t->move->actions |= ROLLOUT_DO_OPENED;
    because(t->move, "%s was opened by %.*s.",
            gates >> r->step & 1 ? "The gate of this step" : "A gate ahead", STR_ARG(actor));
    return true;
}

/* Whether the command has decided this tick. */
static bool obey(Tick *t)
{
    static const char *const asked[COMMAND_N_] = {
        "", "paused", "resumed", "promoted", "promoted", "", "aborted", "superseded",
    };
    const RolloutInput *in = t->in;
    RolloutState state = t->move->next.state;
    bool live = may_pause(state) || state == ROLLOUT_PAUSED;
    Str actor = str_empty(in->actor) ? STR("a person") : str_sub(in->actor, 0, 100);
    switch (in->command) {
    case COMMAND_ABORT: leave(t, ROLLOUT_ABORTED); break;
    case COMMAND_SUPERSEDE: leave(t, ROLLOUT_SUPERSEDED); break;
    case COMMAND_PAUSE:
        if (!may_pause(state)) return refuse(t, "paused"), false;
        pause_it(t);
        break;
    case COMMAND_RESUME:
        if (state != ROLLOUT_PAUSED) return refuse(t, "resumed"), false;
        resume(t);
        break;
    case COMMAND_PROMOTE:
    case COMMAND_PROMOTE_ALL:
        if (!live) return refuse(t, "promoted"), false;
        promote(t, in->command == COMMAND_PROMOTE_ALL);
        break;
    case COMMAND_OPEN_GATE: return open_gate(t, actor);
    default: return false;
    }
    if (in->command == COMMAND_SUPERSEDE) because(t->move, "A newer rollout took its place.");
    else because(t->move, "It was %s by %.*s.", asked[in->command], STR_ARG(actor));
    return true;
}

/* --- what the tick finds --------------------------------------------------------------------- */

static bool decide_rollback(Tick *t)
{
    const RolloutInput *in = t->in;
    if (in->tripwire != TRIPWIRE_NONE) {
        assert(in->tripwire < TRIPWIRE_N_);
        leave(t, ROLLOUT_ROLLED_BACK);
        because(t->move, "Rolled back at once: %s.", tripwire_texts[in->tripwire]);
        return true;
    }
    const Rollout *r = &t->move->next;
    RolloutState state = r->state == ROLLOUT_PAUSED ? r->resumes : r->state;
    if (!in->evidence_rollback && !(in->shadow == CHECK_FAILED && state == ROLLOUT_SHADOW))
        return false;
    Str culprit = str_empty(in->culprit) ? STR("its metrics") : str_sub(in->culprit, 0, 100);
    leave(t, ROLLOUT_ROLLED_BACK);
    because(t->move, "Rolled back: %.*s of the new version is worse by more than its margin%s.",
            STR_ARG(culprit), in->evidence_rollback ? "" : ", in the shadow");
    return true;
}

static void begin(Tick *t)
{
    rollout_move(t, ROLLOUT_PREFLIGHT);
    t->move->actions |= ROLLOUT_DO_PREFLIGHT;
    because(t->move, "The version is checked before it gets a task.");
}

static void after_preflight(Tick *t)
{
    if (t->plan->preflight && t->in->preflight == CHECK_RUNNING) {
        because(t->move, "The checks before the first task are still running.");
        return;
    }
    if (t->plan->preflight && t->in->preflight == CHECK_FAILED) {
        leave(t, ROLLOUT_ABORTED);
        Str why = str_sub(t->in->preflight_why, 0, 180);
        because(t->move, "Not started: %.*s.",
                STR_ARG(str_empty(why) ? STR("the checks before the first task failed") : why));
        return;
    }
    start_deadline(t);
    if (t->plan->shadow) {
        rollout_move(t, ROLLOUT_SHADOW);
        t->move->actions |= ROLLOUT_DO_SHADOW;
        because(t->move, "Checked; it now runs beside production, unseen.");
        return;
    }
    enter_step(t, 0);
    because(t->move, "Checked; %g%% of new units go to it.", percent(t->move->next.weight_bp));
}

static Str judge_why(const RolloutInput *in)
{
    return str_empty(in->judge_why) ? STR("the judge has changed") : str_sub(in->judge_why, 0, 180);
}

static void after_shadow(Tick *t)
{
    if (t->plan->shadow_waits) {
        because(t->move, "Held: in the shadow it was no worse; a person may promote it.");
        return;
    }
    size_t step = step_after_shadow(t);
    enter_step(t, step);
    t->move->verdict = VERDICT_ADVANCE;
    because(t->move, "In the shadow it was no worse%s; %g%% of new units go to it.",
            step > 0 ? ", which stands in for the first step" : "",
            percent(t->move->next.weight_bp));
}

static void in_shadow(Tick *t)
{
    const RolloutInput *in = t->in;
    if (in->shadow_biased)
        because(t->move, "Held: production repeated by itself differs from itself, so the shadow "
                         "proves nothing.");
    else if (!in->judge_ok) because(t->move, "Held in the shadow: %.*s.", STR_ARG(judge_why(in)));
    else if (!str_empty(in->unmeasured))
        because(t->move, "Held in the shadow: %.*s.", STR_ARG(str_sub(in->unmeasured, 0, 180)));
    else if (in->shadow == CHECK_PASSED) after_shadow(t);
    else if (!str_empty(in->shadow_why))
        because(t->move, "Held in the shadow: %.*s.", STR_ARG(str_sub(in->shadow_why, 0, 180)));
    else because(t->move, "Held: the comparison in the shadow is not decided yet.");
}

/* Tells, once a step, that its gate is all that is waited for. */
static void wait_at_gate(Tick *t)
{
    Rollout *r = &t->move->next;
    uint32_t gate = UINT32_C(1) << r->step;
    if (!(r->gates_asked & gate)) t->move->actions |= ROLLOUT_DO_ASK;
    r->gates_asked |= gate;
    because(t->move, "Held: all else is given, and its gate is closed.");
}

/* Why the step cannot be left yet; false: it can. */
static bool must_hold(Tick *t)
{
    const Rollout *r = &t->move->next;
    const RolloutStep *step = &t->plan->steps[r->step];
    const RolloutInput *in = t->in;
    char until[TIME_TEXT_MAX];
    bool tests = step->weight_bp < WEIGHT_BP_ALL; /* at all traffic there is no control */
    int64_t waited_ms = in->now_ms - r->step_since_ms, canaries = in->canaries - r->step_canaries;
    if (tests && !in->srm_ok)
        because(t->move, "Held: units are not assigned as planned, so no result can be trusted.");
    else if (tests && !in->judge_ok) because(t->move, "Held: %.*s.", STR_ARG(judge_why(in)));
    else if (tests && !str_empty(in->unmeasured))
        because(t->move, "Held: %.*s.", STR_ARG(str_sub(in->unmeasured, 0, 180)));
    else if (waited_ms < step->for_ms)
        because(t->move, "Held: the step lasts until %s at least.",
                time_format_s(r->step_since_ms + step->for_ms, until));
    else if (tests && canaries < step->min_tasks)
        because(t->move, "Held: %" PRId64 " of at least %" PRId64 " canary units are in.", canaries,
                step->min_tasks);
    else if (tests && !in->proved)
        because(t->move, "Held: %.*s is not proved to be within its margin yet.",
                STR_ARG(str_empty(in->unproved) ? STR("not every metric")
                                                : str_sub(in->unproved, 0, 100)));
    else if (step->gate && !gate_is_open(r)) wait_at_gate(t);
    else return false;
    return true;
}

static void at_step(Tick *t)
{
    if (must_hold(t)) return;
    int32_t from = t->move->next.weight_bp;
    advance(t);
    if (t->move->next.state == ROLLOUT_COMPLETED)
        because(t->move, "Completed: all tasks go to the new version.");
    else
        because(t->move, "Every required metric is within its margin: from %g%% to %g%%.",
                percent(from), percent(t->move->next.weight_bp));
}

static bool deadline_passed(const Tick *t)
{
    const Rollout *r = &t->move->next;
    return may_pause(r->state) && r->deadline_at_ms > 0 && t->in->now_ms >= r->deadline_at_ms;
}

/* Undecided for too long. */
static void at_deadline(Tick *t)
{
    if (t->plan->deadline_rolls_back) {
        leave(t, ROLLOUT_ROLLED_BACK);
        because(t->move, "Rolled back: it was not decided before its deadline.");
        return;
    }
    pause_it(t);
    t->move->actions |= ROLLOUT_DO_PAGE;
    because(t->move, "Paused: it was not decided before its deadline. A person has to look.");
}

/* Tells somebody, once, that the statistics cannot be trusted. */
static void page_unhealthy(Tick *t)
{
    bool healthy = t->in->srm_ok && t->in->judge_ok && !t->in->shadow_biased;
    if (!healthy && !t->move->next.paged) t->move->actions |= ROLLOUT_DO_PAGE;
    t->move->next.paged = !healthy;
}

static void go_on(Tick *t)
{
    switch (t->move->next.state) {
    case ROLLOUT_PENDING: begin(t); break;
    case ROLLOUT_PREFLIGHT: after_preflight(t); break;
    case ROLLOUT_SHADOW: in_shadow(t); break;
    case ROLLOUT_STEP: at_step(t); break;
    case ROLLOUT_PAUSED:
        because(t->move, "Paused; evidence goes on, and still may roll it back.");
        break;
    default: break;
    }
}

RolloutMove rollout_next(const Rollout *r, const RolloutPlan *plan, const RolloutInput *input)
{
    assert(rollout_plan_ok(plan));
    assert(r->state < ROLLOUT_N_ && r->step < plan->steps_n);
    RolloutMove move = { .next = *r };
    Tick t = { plan, input, &move };
    if (rollout_state_is_end(r->state)) {
        move.refused = input->command != COMMAND_NONE;
        because(&move, "The rollout has ended: %s.", rollout_state_name(r->state));
        return move;
    }
    bool live = may_pause(r->state) || r->state == ROLLOUT_PAUSED;
    if (live) page_unhealthy(&t);
    if (live && decide_rollback(&t)) return move;
    if (obey(&t) || move.refused) return move;
    go_on(&t);
    if (move.next.state == r->state && move.next.step == r->step && deadline_passed(&t))
        at_deadline(&t);
    return move;
}
