#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/cap.h"
#include "random.h"

/* 1 nano-USD an input token, 4 an output token. */
static Price price = { .base = {
                           .input = 1000, .output = 4000, .cached = 1000, .reasoning = 4000 } };

static const CapLimits usual = {
    .tokens = 10000, .tool_calls = 3, .usd_nusd = 20000, .wall_ms = 60000
};

static CapCall asks(int64_t in_ub, int64_t out_cap)
{
    return (
        CapCall){ .price = &price, .in_ub = in_ub, .out_cap = out_cap, .out_max = 4000, .n = 1 };
}

static CapVerdict expect(const CapLimits *limits, CapState *state, const CapCall *call,
                         CapKind kind, CapReason reason)
{
    CapVerdict v = cap_admit(limits, state, call, state->started_ms + 1);
    assert_int_equal(v.kind, kind);
    assert_int_equal(v.reason, reason);
    return v;
}

static void test_admits_and_holds_the_worst_case(void **state)
{
    (void)state;
    CapState s = { 0 };
    CapCall call = asks(1000, 500);
    CapVerdict v = expect(&usual, &s, &call, CAP_ADMIT, CAP_BY_NOTHING);
    assert_int_equal(v.hold.tokens, 1500);
    assert_int_equal(v.hold.nusd, 1000 + 2000);
    assert_int_equal(v.out_cap, 500);
    assert_false(v.clamped || v.tools_spent);
    assert_int_equal(s.reserved_tokens, 1500);
    assert_int_equal(s.reserved_nusd, 3000);
    assert_int_equal(s.in_flight, 1);

    CapHold actual = { 700, 1300 };
    assert_true(cap_settle(&s, &v.hold, &actual, 2));
    assert_int_equal(s.reserved_tokens, 0);
    assert_int_equal(s.reserved_nusd, 0);
    assert_int_equal(s.settled_tokens, 700);
    assert_int_equal(s.settled_nusd, 1300);
    assert_int_equal(s.tool_calls, 2);
    assert_int_equal(s.in_flight, 0);
}

static void test_without_a_cap_of_its_own_a_call_gets_the_models(void **state)
{
    (void)state;
    CapState s = { 0 };
    CapCall call = asks(100, 0);
    CapVerdict v = expect(&usual, &s, &call, CAP_ADMIT, CAP_BY_NOTHING);
    assert_int_equal(v.out_cap, 4000);
    assert_false(v.clamped);
    cap_release(&s, &v.hold);
    call.out_cap = 1000000; /* more than the model can */
    v = expect(&usual, &s, &call, CAP_ADMIT, CAP_BY_NOTHING);
    assert_int_equal(v.out_cap, 4000);
    assert_true(v.clamped); /* 4000 are held, so no more may be asked for */
    cap_release(&s, &v.hold);
    call.out_max = 0; /* the model's is unknown */
    call.out_cap = 0;
    CapLimits wide = { CAP_NONE, CAP_NONE, CAP_NONE, CAP_NONE };
    v = expect(&wide, &s, &call, CAP_ADMIT, CAP_BY_NOTHING);
    assert_int_equal(v.out_cap, CAP_OUT_UNKNOWN);
}

/* A bound that did not hold is not trusted again. */
static void test_times(void **state)
{
    (void)state;
    CapHold hold = { .tokens = 1000, .nusd = 500 };
    assert_int_equal(cap_times(1, &hold, &hold), 1);
    assert_int_equal(cap_times(1, &hold, &(CapHold){ 1001, 500 }), 2);
    assert_int_equal(cap_times(1, &hold, &(CapHold){ 10, 2501 }), 6);
    assert_int_equal(cap_times(5, &hold, &(CapHold){ 10, 10 }), 5);
    assert_int_equal(cap_times(5, &hold, &(CapHold){ 1400, 10 }), 7); /* 200 should have done */
    assert_int_equal(cap_times(1, &(CapHold){ 0 }, &hold), CAP_TIMES_MAX);
    assert_int_equal(cap_times(1, &hold, &(CapHold){ INT64_MAX, 1 }), CAP_TIMES_MAX);

    CapState s = { 0 };
    CapCall call = asks(1000, 100);
    call.times = 3;
    CapVerdict v = expect(&usual, &s, &call, CAP_ADMIT, CAP_BY_NOTHING);
    assert_int_equal(v.hold.tokens, 3 * 1100);
    assert_int_equal(v.hold.nusd, 3 * 1400);
    assert_int_equal(v.out_cap, 100);
    cap_release(&s, &v.hold);
    s.settled_tokens = 10000 - 3 * 1050; /* room for half of the output */
    v = expect(&usual, &s, &call, CAP_ADMIT, CAP_BY_NOTHING);
    assert_int_equal(v.out_cap, 50);
    assert_int_equal(v.hold.tokens, 3 * 1050);
    cap_release(&s, &v.hold);
    s.settled_tokens = 10000 - 3 * 1016 + 1;
    expect(&usual, &s, &call, CAP_REFUSE, CAP_BY_TOKENS);
    s.settled_tokens = 0;
    call.times = CAP_TIMES_MAX;
    CapLimits none = { CAP_NONE, CAP_NONE, CAP_NONE, CAP_NONE };
    v = expect(&none, &s, &call, CAP_ADMIT, CAP_BY_NOTHING);
    assert_true(v.hold.tokens <= CAP_CALL_MAX && v.hold.nusd <= CAP_CALL_MAX);
}

static void test_choices_multiply_output_not_input(void **state)
{
    (void)state;
    CapState s = { 0 };
    CapCall call = asks(1000, 100);
    call.n = 3;
    CapVerdict v = expect(&usual, &s, &call, CAP_ADMIT, CAP_BY_NOTHING);
    assert_int_equal(v.hold.tokens, 1300);
    assert_int_equal(v.hold.nusd, 1000 + 1200);
    assert_int_equal(v.out_cap, 100);
}

static void test_clamps_to_what_is_left(void **state)
{
    (void)state;
    CapState s = { .settled_tokens = 8000 };
    CapCall call = asks(1000, 2000);
    CapVerdict v = expect(&usual, &s, &call, CAP_ADMIT, CAP_BY_NOTHING);
    assert_int_equal(v.out_cap, 1000); /* tokens: 10000 - 8000 - 1000 */
    assert_true(v.clamped);
    s = (CapState){ .settled_nusd = 18000 };
    v = expect(&usual, &s, &call, CAP_ADMIT, CAP_BY_NOTHING);
    assert_int_equal(v.out_cap, 250); /* money: (2000 - 1000) / 4 */
    assert_true(v.clamped);
    assert_int_equal(v.hold.nusd, 2000);
}

static void test_refuses_only_when_nothing_useful_fits(void **state)
{
    (void)state;
    CapState s = { .settled_tokens = 10000 - 100 - 16 };
    CapCall call = asks(100, 500);
    CapVerdict v = expect(&usual, &s, &call, CAP_ADMIT, CAP_BY_NOTHING);
    assert_int_equal(v.out_cap, CAP_OUT_MIN_DEFAULT);
    s = (CapState){ .settled_tokens = 10000 - 100 - 15 };
    expect(&usual, &s, &call, CAP_REFUSE, CAP_BY_TOKENS);
    call.out_cap = 15; /* the client itself wants less than what is useful to others */
    v = expect(&usual, &s, &call, CAP_ADMIT, CAP_BY_NOTHING);
    assert_false(v.clamped);
    s = (CapState){ .settled_nusd = 20000 - 100 - 59 };
    expect(&usual, &s, &call, CAP_REFUSE, CAP_BY_USD);
    s.settled_nusd--;
    expect(&usual, &s, &call, CAP_ADMIT, CAP_BY_NOTHING);
    CapState spent = { .settled_tokens = 20000, .settled_nusd = 99999 };
    expect(&usual, &spent, &call, CAP_REFUSE, CAP_BY_TOKENS);
    assert_int_equal(spent.in_flight, 0);
}

static void test_waits_when_only_holds_stand_in_the_way(void **state)
{
    (void)state;
    CapState s = { 0 };
    CapCall big = asks(5000, 3000), small = asks(3000, 100);
    CapVerdict first = expect(&usual, &s, &big, CAP_ADMIT, CAP_BY_NOTHING);
    expect(&usual, &s, &small, CAP_WAIT, CAP_BY_TOKENS);
    assert_int_equal(s.in_flight, 1); /* waiting holds nothing */
    CapHold actual = { 100, 100 };
    assert_true(cap_settle(&s, &first.hold, &actual, 0));
    expect(&usual, &s, &small, CAP_ADMIT, CAP_BY_NOTHING);
}

static void test_waits_rather_than_send_a_crippled_call(void **state)
{
    (void)state;
    CapLimits rich = usual;
    rich.usd_nusd = CAP_NONE;
    CapState s = { 0 };
    CapCall first = asks(100, 3900), second = asks(5800, 4000);
    expect(&rich, &s, &first, CAP_ADMIT, CAP_BY_NOTHING);
    /* 200 tokens of output would fit now, 4000 later: 256 are worth sending */
    expect(&rich, &s, &second, CAP_WAIT, CAP_BY_TOKENS);
    second.out_good = 200;
    CapVerdict v = expect(&rich, &s, &second, CAP_ADMIT, CAP_BY_NOTHING);
    assert_int_equal(v.out_cap, 200);
    /* with nothing to wait for, little is better than nothing */
    s = (CapState){ .settled_tokens = 4000 };
    second.out_good = 0;
    v = expect(&rich, &s, &second, CAP_ADMIT, CAP_BY_NOTHING);
    assert_int_equal(v.out_cap, 200);
}

static void test_time(void **state)
{
    (void)state;
    CapState s = { .started_ms = 1000 };
    CapCall call = asks(10, 20);
    assert_int_equal(cap_admit(&usual, &s, &call, 60999).kind, CAP_ADMIT);
    CapVerdict v = cap_admit(&usual, &s, &call, 61000);
    assert_int_equal(v.kind, CAP_REFUSE);
    assert_int_equal(v.reason, CAP_BY_SECONDS);
    assert_int_equal(cap_admit_tool(&usual, &s, 61000).reason, CAP_BY_SECONDS);
}

static void test_tool_calls(void **state)
{
    (void)state;
    CapState s = { 0 };
    CapCall call = asks(10, 20);
    call.has_tools = true;
    assert_false(expect(&usual, &s, &call, CAP_ADMIT, CAP_BY_NOTHING).tools_spent);
    for (int i = 0; i < 3; i++) assert_int_equal(cap_admit_tool(&usual, &s, 1).kind, CAP_ADMIT);
    CapVerdict v = cap_admit_tool(&usual, &s, 1);
    assert_int_equal(v.kind, CAP_REFUSE);
    assert_int_equal(v.reason, CAP_BY_TOOL_CALLS);
    assert_int_equal(s.tool_calls, 3);
    /* an answer without tools is still possible; one call too many ends it */
    assert_true(expect(&usual, &s, &call, CAP_ADMIT, CAP_BY_NOTHING).tools_spent);
    call.has_tools = false;
    assert_false(expect(&usual, &s, &call, CAP_ADMIT, CAP_BY_NOTHING).tools_spent);
    s.tool_calls++;
    expect(&usual, &s, &call, CAP_REFUSE, CAP_BY_TOOL_CALLS);
}

static void test_embeddings_have_nothing_to_clamp(void **state)
{
    (void)state;
    CapState s = { 0 };
    CapCall call = asks(10000, 0);
    call.no_output = true;
    CapVerdict v = expect(&usual, &s, &call, CAP_ADMIT, CAP_BY_NOTHING);
    assert_int_equal(v.hold.tokens, 10000);
    assert_int_equal(v.out_cap, 0);
    assert_false(v.clamped);
    cap_release(&s, &v.hold);
    call.in_ub = 10001;
    expect(&usual, &s, &call, CAP_REFUSE, CAP_BY_TOKENS);
}

static void test_unbounded_input_is_never_admitted(void **state)
{
    (void)state;
    CapLimits none = { CAP_NONE, CAP_NONE, CAP_NONE, CAP_NONE };
    CapState s = { 0 };
    CapCall call = asks(request_in_ub(10, 1, 0, true, 0), 100);
    expect(&none, &s, &call, CAP_REFUSE, CAP_BY_TOKENS);
}

static void test_overshoot_is_booked_and_told(void **state)
{
    (void)state;
    CapState s = { 0 };
    CapCall call = asks(100, 100);
    CapVerdict v = expect(&usual, &s, &call, CAP_ADMIT, CAP_BY_NOTHING);
    CapHold actual = { v.hold.tokens + 1, v.hold.nusd };
    assert_false(cap_settle(&s, &v.hold, &actual, 0));
    assert_int_equal(s.settled_tokens, 201);
    v = expect(&usual, &s, &call, CAP_ADMIT, CAP_BY_NOTHING);
    cap_charge_full(&s, &v.hold);
    assert_int_equal(s.settled_tokens, 401);
}

static void test_reason_names(void **state)
{
    (void)state;
    assert_string_equal(cap_reason_name(CAP_BY_TOKENS), "tokensPerTask");
    assert_string_equal(cap_reason_name(CAP_BY_TOOL_CALLS), "toolCallsPerTask");
    assert_string_equal(cap_reason_name(CAP_BY_USD), "usdPerTask");
    assert_string_equal(cap_reason_name(CAP_BY_SECONDS), "secondsPerTask");
    assert_string_equal(cap_reason_name(CAP_BY_NOTHING), "");
}

static void test_input_bound(void **state)
{
    (void)state;
    assert_int_equal(request_in_ub(1000, 3, 0, false, 128000), 1048);
    assert_int_equal(request_in_ub(1000, 3, 1, false, 128000), 2072);
    assert_int_equal(request_in_ub(1000, 3, 4, false, 128000), 1048 + 4 * 1024);
    assert_int_equal(request_in_ub(1000000, 3, 1, false, 128000), 128000);
    assert_int_equal(request_in_ub(1000000, 3, 1, false, 0), 1000000 + 48 + 1024);
    assert_int_equal(request_in_ub(10, 1, 0, true, 128000), 128000);
    assert_int_equal(request_in_ub(10, 1, 0, true, 0), INT64_MAX);
}

/* --- many calls in any order ---------------------------------------------------------------- */

#define OPEN_MAX 8

typedef struct {
    CapLimits limits;
    CapState state;
    Price price;
    CapHold open[OPEN_MAX];
    size_t open_n;
    int64_t tokens, nusd; /* what was really used so far, counted apart */
    int admitted, waited, refused;
} Run;

static void check(const Run *run)
{
    int64_t tokens = 0, nusd = 0;
    for (size_t i = 0; i < run->open_n; i++) {
        tokens += run->open[i].tokens;
        nusd += run->open[i].nusd;
    }
    const CapState *s = &run->state;
    assert_int_equal(s->reserved_tokens, tokens);
    assert_int_equal(s->reserved_nusd, nusd);
    assert_int_equal(s->in_flight, run->open_n);
    assert_int_equal(s->settled_tokens, run->tokens);
    assert_int_equal(s->settled_nusd, run->nusd);
    assert_true(s->settled_tokens + s->reserved_tokens <= run->limits.tokens);
    assert_true(s->settled_nusd + s->reserved_nusd <= run->limits.usd_nusd);
}

/* The least useful form of the call, beside what is settled and nothing else. */
static bool least_fits(const Run *run, const CapCall *c)
{
    int64_t want = c->out_cap > 0 ? MIN(c->out_cap, c->out_max) : c->out_max;
    int64_t out = MIN(want, CAP_OUT_MIN_DEFAULT) * c->n;
    return run->state.settled_tokens + c->in_ub + out <= run->limits.tokens &&
           run->state.settled_nusd + price_hold(c->price, c->in_ub, out, &c->terms) <=
               run->limits.usd_nusd;
}

static void try_call(Run *run, Random *r)
{
    if (run->open_n == OPEN_MAX) return;
    CapCall c = { .price = &run->price,
                  .in_ub = random_range(r, 0, 3000),
                  .out_cap = random_range(r, 0, 2) ? random_range(r, 1, 3000) : 0,
                  .out_max = random_range(r, 1, 4000),
                  .n = random_range(r, 1, 3),
                  .terms = { .cache_write = random_range(r, 0, 1) } };
    CapState before = run->state;
    CapVerdict v = cap_admit(&run->limits, &run->state, &c, 0);
    switch (v.kind) {
    case CAP_ADMIT:
        run->open[run->open_n++] = v.hold;
        run->admitted++;
        assert_int_equal(v.hold.tokens, c.in_ub + v.out_cap * c.n);
        assert_int_equal(v.hold.nusd, price_hold(c.price, c.in_ub, v.out_cap * c.n, &c.terms));
        assert_true(v.out_cap >= 1 && v.out_cap <= c.out_max);
        assert_true(c.out_cap == 0 || v.out_cap <= c.out_cap);
        break;
    case CAP_WAIT:
        run->waited++;
        assert_true(run->open_n > 0);
        assert_true(least_fits(run, &c));
        assert_memory_equal(&before, &run->state, sizeof before);
        break;
    case CAP_REFUSE:
        run->refused++;
        assert_false(least_fits(run, &c));
        assert_memory_equal(&before, &run->state, sizeof before);
        break;
    }
}

static void end_call(Run *run, Random *r)
{
    if (run->open_n == 0) return;
    size_t i = (size_t)random_range(r, 0, (int64_t)run->open_n - 1);
    CapHold hold = run->open[i];
    run->open[i] = run->open[--run->open_n];
    CapHold actual = { random_range(r, 0, hold.tokens), random_range(r, 0, hold.nusd) };
    switch (random_range(r, 0, 3)) {
    case 0: cap_release(&run->state, &hold); return;
    case 1:
        cap_charge_full(&run->state, &hold);
        actual = hold;
        break;
    default: assert_true(cap_settle(&run->state, &hold, &actual, 0)); break;
    }
    run->tokens += actual.tokens;
    run->nusd += actual.nusd;
}

static void test_random_interleavings(void **state)
{
    (void)state;
    int admitted = 0, waited = 0, refused = 0;
    for (uint64_t seed = 0; seed < 10000; seed++) {
        Random r = { seed };
        Run run = { .limits = { random_range(&r, 0, 30000), 1000, random_range(&r, 0, 100000),
                                CAP_NONE } };
        run.price.base = PRICE_RATES_UNSET;
        run.price.base.input = random_range(&r, 0, 3000);
        run.price.base.output = random_range(&r, 0, 9000);
        run.price.base.write_1h = random_range(&r, 0, 6000);
        price_fill(&run.price);
        for (int step = 0; step < 60; step++) {
            if (random_range(&r, 0, 2)) try_call(&run, &r);
            else end_call(&run, &r);
            check(&run);
        }
        while (run.open_n > 0) end_call(&run, &r);
        check(&run);
        admitted += run.admitted;
        waited += run.waited;
        refused += run.refused;
    }
    assert_true(admitted > 50000 && waited > 5000 && refused > 50000);
}

/* Budgets beside the caps bound the hold: what fits both is sent. */
static void test_within_a_budget(void **state)
{
    (void)state;
    CapState s = { 0 };
    CapCall call = asks(1000, 500);
    CapNeed need;
    assert_int_equal(cap_look(&usual, &s, &call, 1, &need).kind, CAP_ADMIT);
    assert_int_equal(s.in_flight, 0);
    assert_int_equal(need.min.tokens, 1016);
    assert_int_equal(need.min.nusd, 1064);
    assert_int_equal(need.good.tokens, 1256);
    assert_int_equal(need.want.tokens, 1500);
    assert_int_equal(need.want.nusd, 3000);
    CapHold most = { .tokens = CAP_NONE, .nusd = 1200 };
    CapVerdict v = cap_admit_within(&usual, &s, &call, &most, 1);
    assert_int_equal(v.kind, CAP_ADMIT);
    assert_true(v.clamped);
    assert_int_equal(v.out_cap, 50);
    assert_int_equal(v.hold.nusd, 1200);
    most.tokens = 1015;
    assert_int_equal(cap_admit_within(&usual, &s, &call, &most, 1).kind, CAP_WAIT);
    most = need.want;
    v = cap_admit_within(&usual, &s, &call, &most, 1);
    assert_int_equal(v.kind, CAP_ADMIT);
    assert_false(v.clamped);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_admits_and_holds_the_worst_case),
        cmocka_unit_test(test_within_a_budget),
        cmocka_unit_test(test_without_a_cap_of_its_own_a_call_gets_the_models),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_choices_multiply_output_not_input),
        cmocka_unit_test(test_clamps_to_what_is_left),
        cmocka_unit_test(test_refuses_only_when_nothing_useful_fits),
        cmocka_unit_test(test_waits_when_only_holds_stand_in_the_way),
        cmocka_unit_test(test_waits_rather_than_send_a_crippled_call),
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_tool_calls),
        cmocka_unit_test(test_embeddings_have_nothing_to_clamp),
        cmocka_unit_test(test_unbounded_input_is_never_admitted),
        cmocka_unit_test(test_overshoot_is_booked_and_told),
        cmocka_unit_test(test_reason_names),
        cmocka_unit_test(test_input_bound),
        cmocka_unit_test(test_random_interleavings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
