#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "logic/rollout.h"

#define HOUR INT64_C(3600000)

/* 5% for an hour, 50% behind a gate, all for an hour. */
static RolloutPlan three_steps(void)
{
    return (RolloutPlan){
        .steps = { { .weight_bp = 500, .for_ms = HOUR, .min_tasks = 10 },
                   { .weight_bp = 5000, .min_tasks = 10, .gate = true },
                   { .weight_bp = 10000, .for_ms = HOUR } },
        .steps_n = 3,
        .preflight = true,
        .shadow = true,
        .deadline_ms = 10 * HOUR,
    };
}

/* A rollout as it stands in a state, since long ago enough or not. */
static Rollout standing(const RolloutPlan *plan, RolloutState state, RolloutState resumes,
                        size_t step)
{
    Rollout r = { .state = state, .resumes = resumes, .step = step, .deadline_at_ms = 20 * HOUR };
    bool stepping = state == ROLLOUT_STEP || (state == ROLLOUT_PAUSED && resumes == ROLLOUT_STEP);
    if (stepping) r.weight_bp = plan->steps[step].weight_bp;
    if (state == ROLLOUT_COMPLETED) r.weight_bp = WEIGHT_BP_ALL;
    r.state_since_ms = r.step_since_ms = 10 * HOUR;
    r.step_canaries = 100;
    return r;
}

static RolloutInput quiet(void)
{
    return (RolloutInput){ .now_ms = 10 * HOUR, .canaries = 100, .srm_ok = true, .judge_ok = true };
}

/* --- every state with every input ------------------------------------------------------------ */

static bool is_live(RolloutState s)
{
    return s == ROLLOUT_SHADOW || s == ROLLOUT_STEP || s == ROLLOUT_PAUSED;
}

/* Whether the step may be left on what the tick knows. */
static bool evidence_suffices(const Rollout *r, const RolloutPlan *plan, const RolloutInput *in)
{
    const RolloutStep *step = &plan->steps[r->step];
    if (in->now_ms - r->step_since_ms < step->for_ms) return false;
    if (step->gate && !(r->gates_open >> r->step & 1)) return false;
    if (step->weight_bp == WEIGHT_BP_ALL) return true;
    return in->proved && in->srm_ok && in->judge_ok &&
           in->canaries - r->step_canaries >= step->min_tasks;
}

static void check_end(const Rollout *r, const RolloutInput *in, const RolloutMove *m)
{
    assert_memory_equal(&m->next, r, sizeof(*r));
    assert_int_equal(m->actions, 0);
    assert_int_equal(m->refused, in->command != COMMAND_NONE);
}

static void check_forward(const Rollout *r, const RolloutPlan *plan, const RolloutInput *in,
                          const RolloutMove *m)
{
    bool further = m->next.state == ROLLOUT_COMPLETED ||
                   (m->next.state == ROLLOUT_STEP && m->next.step > r->step);
    bool promoted = in->command == COMMAND_PROMOTE || in->command == COMMAND_PROMOTE_ALL;
    if (further && !promoted) {
        assert_true(r->state == ROLLOUT_STEP ||
                    (r->state == ROLLOUT_SHADOW && in->shadow == CHECK_PASSED));
        if (r->state == ROLLOUT_STEP) assert_true(evidence_suffices(r, plan, in));
        else assert_true(in->judge_ok);
    }
    assert_int_equal(m->next.gates_open != r->gates_open, !!(m->actions & ROLLOUT_DO_OPENED));
    if (m->actions & ROLLOUT_DO_OPENED) {
        assert_int_equal(in->command, COMMAND_OPEN_GATE);
        assert_false(further);
    }
    if (m->next.state == ROLLOUT_STEP && m->next.step > r->step + 1)
        assert_true(in->command == COMMAND_PROMOTE_ALL);
    if (further) assert_int_equal(m->verdict, VERDICT_ADVANCE);
}

static void check_weight(const Rollout *r, const RolloutPlan *plan, const RolloutMove *m)
{
    const Rollout *n = &m->next;
    int32_t want = 0;
    if (n->state == ROLLOUT_STEP || (n->state == ROLLOUT_PAUSED && n->resumes == ROLLOUT_STEP))
        want = plan->steps[n->step].weight_bp;
    if (n->state == ROLLOUT_COMPLETED) want = WEIGHT_BP_ALL;
    assert_int_equal(n->weight_bp, want);
    assert_int_equal(!!(m->actions & ROLLOUT_DO_ROUTE), n->weight_bp != r->weight_bp);
    bool back = n->state == ROLLOUT_ROLLED_BACK || n->state == ROLLOUT_ABORTED ||
                n->state == ROLLOUT_SUPERSEDED;
    assert_int_equal(!!(m->actions & ROLLOUT_DO_REBIND), back);
    assert_int_equal(!!(m->actions & ROLLOUT_DO_STABLE), n->state == ROLLOUT_COMPLETED);
    bool changed = n->state != r->state || n->step != r->step;
    assert_int_equal(!!(m->actions & ROLLOUT_DO_TELL), changed);
}

static void check_tick(const Rollout *r, const RolloutPlan *plan, const RolloutInput *in)
{
    RolloutMove m = rollout_next(r, plan, in), again = rollout_next(r, plan, in);
    assert_int_equal(m.next.state, again.next.state); /* pure */
    assert_true(strlen(m.why) > 0 && m.why[strlen(m.why) - 1] == '.');
    if (rollout_state_is_end(r->state)) {
        check_end(r, in, &m);
        return;
    }
    RolloutState at = r->state == ROLLOUT_PAUSED ? r->resumes : r->state;
    bool bad = in->tripwire != TRIPWIRE_NONE || in->evidence_rollback ||
               (at == ROLLOUT_SHADOW && in->shadow == CHECK_FAILED);
    if (is_live(r->state) && bad) assert_int_equal(m.next.state, ROLLOUT_ROLLED_BACK);
    else if (in->command == COMMAND_ABORT) assert_int_equal(m.next.state, ROLLOUT_ABORTED);
    else if (in->command == COMMAND_SUPERSEDE) assert_int_equal(m.next.state, ROLLOUT_SUPERSEDED);
    else if (r->state == ROLLOUT_PAUSED && in->command == COMMAND_NONE)
        assert_int_equal(m.next.state, ROLLOUT_PAUSED);
    if (m.refused) assert_int_equal(m.next.state, r->state);
    check_forward(r, plan, in, &m);
    check_weight(r, plan, &m);
}

/* Bits: rollback, proved, srm, judge, gate, enough units, waited, past the deadline. */
static RolloutInput input_of(unsigned bits, RolloutCommand command, Tripwire tripwire,
                             CheckResult preflight, CheckResult shadow)
{
    RolloutInput in = quiet();
    in.command = command;
    in.tripwire = tripwire;
    in.preflight = preflight;
    in.shadow = shadow;
    in.evidence_rollback = bits & 1;
    in.proved = bits & 2;
    in.srm_ok = bits & 4;
    in.judge_ok = bits & 8;
    if (bits & 32) in.canaries += 10;
    if (bits & 64) in.now_ms += HOUR;
    if (bits & 128) in.now_ms += 10 * HOUR;
    return in;
}

/* With its gate open, too, and asked to be opened. */
static int64_t check_all_inputs(const Rollout *standing, const RolloutPlan *plan)
{
    Rollout open = *standing;
    open.gates_open = 2;
    int64_t ticks = 0;
    for (RolloutCommand command = 0; command < COMMAND_N_; command++)
        for (Tripwire tripwire = 0; tripwire < TRIPWIRE_N_; tripwire++)
            for (CheckResult preflight = 0; preflight <= CHECK_FAILED; preflight++)
                for (CheckResult shadow = 0; shadow <= CHECK_FAILED; shadow++)
                    for (unsigned bits = 0; bits < 256; bits++, ticks++) {
                        RolloutInput in = input_of(bits, command, tripwire, preflight, shadow);
                        check_tick(bits & 16 ? &open : standing, plan, &in);
                    }
    return ticks;
}

static void test_every_state_with_every_input(void **state)
{
    (void)state;
    int64_t ticks = 0;
    for (int variant = 0; variant < 4; variant++) {
        RolloutPlan plan = three_steps();
        plan.deadline_rolls_back = variant & 1;
        plan.shadow = plan.shadow_is_first = variant & 2;
        for (RolloutState s = 0; s < ROLLOUT_N_; s++)
            for (size_t step = 0; step < plan.steps_n; step++) {
                if (step > 0 && s < ROLLOUT_STEP) continue;
                Rollout r = standing(&plan, s, ROLLOUT_STEP, step);
                ticks += check_all_inputs(&r, &plan);
            }
        Rollout r = standing(&plan, ROLLOUT_PAUSED, ROLLOUT_SHADOW, 0);
        ticks += check_all_inputs(&r, &plan);
    }
    assert_true(ticks > 1000000);
}

/* --- lives ----------------------------------------------------------------------------------- */

static Rollout after(Rollout r, const RolloutPlan *plan, RolloutInput in, RolloutState want)
{
    RolloutMove m = rollout_next(&r, plan, &in);
    if (m.next.state != want)
        fail_msg("%s, not %s: %s", rollout_state_name(m.next.state), rollout_state_name(want),
                 m.why);
    return m.next;
}

static void test_a_whole_life(void **state)
{
    (void)state;
    RolloutPlan plan = three_steps();
    Rollout r = { 0 };
    RolloutInput in = quiet();
    r = after(r, &plan, in, ROLLOUT_PREFLIGHT);
    r = after(r, &plan, in, ROLLOUT_PREFLIGHT);
    in.preflight = CHECK_PASSED;
    r = after(r, &plan, in, ROLLOUT_SHADOW);
    assert_int_equal(r.weight_bp, 0);
    in.shadow = CHECK_PASSED;
    in.judge_ok = false; /* what it scored is not comparable */
    r = after(r, &plan, in, ROLLOUT_SHADOW);
    in.judge_ok = true;
    in.unmeasured = STR("latency is measured from nothing"); /* so nothing is proved of it */
    r = after(r, &plan, in, ROLLOUT_SHADOW);
    in.unmeasured = STR_NULL;
    r = after(r, &plan, in, ROLLOUT_STEP);
    assert_int_equal(r.weight_bp, 500);
    in.proved = true;
    in.now_ms += HOUR;
    in.canaries += 10;
    in.unmeasured = STR("latency is measured from nothing");
    r = after(r, &plan, in, ROLLOUT_STEP);
    assert_int_equal(r.step, 0);
    in.unmeasured = STR_NULL;
    r = after(r, &plan, in, ROLLOUT_STEP);
    assert_int_equal(r.step, 1);
    in.canaries += 10;
    in.proved = false;
    r = after(r, &plan, in, ROLLOUT_STEP);
    assert_int_equal(r.step, 1);
    in.proved = true;
    r = after(r, &plan, in, ROLLOUT_STEP);
    assert_int_equal(r.step, 1); /* behind its gate */
    in.command = COMMAND_OPEN_GATE;
    r = after(r, &plan, in, ROLLOUT_STEP);
    in.command = COMMAND_NONE;
    r = after(r, &plan, in, ROLLOUT_STEP);
    assert_int_equal(r.weight_bp, WEIGHT_BP_ALL);
    r = after(r, &plan, in, ROLLOUT_STEP); /* held for its hour */
    in.now_ms += HOUR;
    r = after(r, &plan, in, ROLLOUT_COMPLETED);
}

static void test_pause_keeps_the_weight_and_stays_armed(void **state)
{
    (void)state;
    RolloutPlan plan = three_steps();
    Rollout r = standing(&plan, ROLLOUT_STEP, 0, 1);
    RolloutInput in = quiet();
    in.command = COMMAND_PAUSE;
    r = after(r, &plan, in, ROLLOUT_PAUSED);
    assert_int_equal(r.weight_bp, 5000);
    in.command = COMMAND_NONE;
    in.proved = true;
    in.canaries += 50;
    in.now_ms += 2 * HOUR;
    r = after(r, &plan, in, ROLLOUT_PAUSED);
    Rollout bad = r;
    in.evidence_rollback = true;
    bad = after(bad, &plan, in, ROLLOUT_ROLLED_BACK);
    assert_int_equal(bad.weight_bp, 0);
    in.evidence_rollback = false;
    in.command = COMMAND_RESUME;
    r = after(r, &plan, in, ROLLOUT_STEP);
    assert_int_equal(r.step, 1);
    assert_int_equal(r.deadline_at_ms, in.now_ms + plan.deadline_ms);
}

static void test_promotion_by_hand(void **state)
{
    (void)state;
    RolloutPlan plan = three_steps();
    RolloutInput in = quiet();
    in.command = COMMAND_PROMOTE;
    in.actor = STR("ada");
    Rollout r = standing(&plan, ROLLOUT_STEP, 0, 0);
    RolloutMove m = rollout_next(&r, &plan, &in);
    assert_int_equal(m.next.step, 1);
    assert_string_equal(m.why, "It was promoted by ada.");
    r = standing(&plan, ROLLOUT_PAUSED, ROLLOUT_SHADOW, 0);
    r = after(r, &plan, in, ROLLOUT_STEP);
    assert_int_equal(r.step, 0);
    in.command = COMMAND_PROMOTE_ALL;
    r = standing(&plan, ROLLOUT_PAUSED, ROLLOUT_SHADOW, 0);
    r = after(r, &plan, in, ROLLOUT_COMPLETED);
    assert_int_equal(r.weight_bp, WEIGHT_BP_ALL);
    r = (Rollout){ 0 };
    m = rollout_next(&r, &plan, &in); /* nothing that was not checked gets tasks */
    assert_true(m.refused);
}

static RolloutMove tick_on(Rollout *r, const RolloutPlan *plan, const RolloutInput *in)
{
    RolloutMove m = rollout_next(r, plan, in);
    *r = m.next;
    return m;
}

/* A gate does without no evidence, and evidence not without the gate. */
static void test_a_gate(void **state)
{
    (void)state;
    RolloutPlan plan = three_steps();
    RolloutInput in = quiet(), open = in;
    open.command = COMMAND_OPEN_GATE;
    open.actor = STR("ada");
    Rollout r = standing(&plan, ROLLOUT_STEP, 0, 1);
    assert_int_equal(tick_on(&r, &plan, &in).actions, 0); /* it waits for more than that */
    in.proved = open.proved = true;
    in.canaries = open.canaries = 110;
    RolloutMove m = tick_on(&r, &plan, &in);
    assert_int_equal(m.actions, ROLLOUT_DO_ASK);
    assert_non_null(strstr(m.why, "its gate is closed"));
    assert_int_equal(tick_on(&r, &plan, &in).actions, 0); /* told once */
    m = tick_on(&r, &plan, &open);
    assert_int_equal(m.actions, ROLLOUT_DO_OPENED);
    assert_string_equal(m.why, "The gate of this step was opened by ada.");
    Rollout unproved = r;
    in.proved = false;
    assert_int_equal(tick_on(&unproved, &plan, &in).next.step, 1);
    in.proved = true;
    assert_int_equal(tick_on(&r, &plan, &in).next.step, 2);
}

static void test_which_gate(void **state)
{
    (void)state;
    RolloutPlan plan = three_steps();
    RolloutInput in = quiet();
    in.command = COMMAND_OPEN_GATE;
    Rollout r = standing(&plan, ROLLOUT_STEP, 0, 0);
    RolloutMove m = tick_on(&r, &plan, &in);
    assert_true(m.refused && m.actions == 0); /* this step has none */
    in.gates = UINT32_C(1) << 31;
    assert_true(tick_on(&r, &plan, &in).refused); /* a name that none has */
    in.gates = 2;
    m = tick_on(&r, &plan, &in); /* ahead of its time */
    assert_int_equal(m.actions, ROLLOUT_DO_OPENED);
    m = tick_on(&r, &plan, &in);
    assert_true(!m.refused && m.actions == 0); /* and again */
    r = standing(&plan, ROLLOUT_PAUSED, ROLLOUT_STEP, 1);
    m = tick_on(&r, &plan, &in);
    assert_int_equal(m.next.state, ROLLOUT_PAUSED);
    assert_int_equal(m.actions, ROLLOUT_DO_OPENED);
    r = standing(&plan, ROLLOUT_STEP, 0, 2);
    assert_true(tick_on(&r, &plan, &in).refused); /* it is behind */
}

static void test_deadline(void **state)
{
    (void)state;
    RolloutPlan plan = three_steps();
    Rollout r = standing(&plan, ROLLOUT_STEP, 0, 0);
    RolloutInput in = quiet();
    in.now_ms = r.deadline_at_ms - 1;
    r = after(r, &plan, in, ROLLOUT_STEP);
    in.now_ms++;
    RolloutMove m = rollout_next(&r, &plan, &in);
    assert_int_equal(m.next.state, ROLLOUT_PAUSED);
    assert_true(m.actions & ROLLOUT_DO_PAGE);
    plan.deadline_rolls_back = true;
    (void)after(r, &plan, in, ROLLOUT_ROLLED_BACK);
    in.proved = true; /* decided in the very tick of the deadline: that counts */
    in.canaries += 10;
    r = after(r, &plan, in, ROLLOUT_STEP);
    assert_int_equal(r.step, 1);
}

static void test_bad_statistics_page_once(void **state)
{
    (void)state;
    RolloutPlan plan = three_steps();
    Rollout r = standing(&plan, ROLLOUT_STEP, 0, 0);
    RolloutInput in = quiet();
    in.srm_ok = false;
    RolloutMove m = rollout_next(&r, &plan, &in);
    assert_true(m.actions & ROLLOUT_DO_PAGE);
    m = rollout_next(&m.next, &plan, &in);
    assert_false(m.actions & ROLLOUT_DO_PAGE);
}

static void test_other_strategies(void **state)
{
    (void)state;
    RolloutPlan plan = rollout_plan_immediate();
    RolloutInput in = quiet();
    Rollout r = { 0 };
    r = after(r, &plan, in, ROLLOUT_PREFLIGHT);
    r = after(r, &plan, in, ROLLOUT_STEP);
    r = after(r, &plan, in, ROLLOUT_COMPLETED);
    plan = rollout_plan_blue_green(HOUR);
    r = (Rollout){ 0 };
    r = after(r, &plan, in, ROLLOUT_PREFLIGHT);
    in.preflight = CHECK_PASSED;
    r = after(r, &plan, in, ROLLOUT_STEP);
    assert_int_equal(r.weight_bp, WEIGHT_BP_ALL);
    r = after(r, &plan, in, ROLLOUT_STEP);
    Rollout back = r;
    in.tripwire = TRIPWIRE_BUDGET; /* within the hold, the reverse commit */
    back = after(back, &plan, in, ROLLOUT_ROLLED_BACK);
    assert_int_equal(back.weight_bp, 0);
    in.tripwire = TRIPWIRE_NONE;
    in.now_ms += HOUR;
    r = after(r, &plan, in, ROLLOUT_COMPLETED);
}

static void test_plans(void **state)
{
    (void)state;
    RolloutPlan plan = rollout_plan_canary();
    assert_true(rollout_plan_ok(&plan));
    plan.steps_n = 3;
    assert_false(rollout_plan_ok(&plan)); /* ends at 50% */
    plan.steps_n = 0;
    assert_false(rollout_plan_ok(&plan));
    plan = rollout_plan_canary();
    plan.steps[1].weight_bp = 500;
    assert_false(rollout_plan_ok(&plan));
    plan = rollout_plan_immediate();
    assert_true(rollout_plan_ok(&plan));
}

static void test_names(void **state)
{
    (void)state;
    for (RolloutState s = 0; s < ROLLOUT_N_; s++) {
        RolloutState back;
        assert_int_equal(rollout_state_from(str_of(rollout_state_name(s)), &back), 0);
        assert_int_equal(back, s);
    }
    RolloutState none;
    assert_int_equal(rollout_state_from(STR("rolled back"), &none), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_state_with_every_input),
        cmocka_unit_test(test_a_whole_life),
        cmocka_unit_test(test_pause_keeps_the_weight_and_stays_armed),
        cmocka_unit_test(test_promotion_by_hand),
        cmocka_unit_test(test_a_gate),
        cmocka_unit_test(test_which_gate),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_bad_statistics_page_once),
        cmocka_unit_test(test_other_strategies),
        cmocka_unit_test(test_plans),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
