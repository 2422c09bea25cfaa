#include "tests/unit/api_fixture.h"

#include <math.h>

#include "observe/signals.h"

static int setup(void **state)
{
    ApiFixture *f = xcalloc(1, sizeof *f);
    api_start(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    ApiFixture *f = *state;
    api_stop(f);
    free(f);
    return 0;
}

/* The value of a sample by its name and labels as written, NaN when it is not there. */
static double sample(Str bytes, const char *name)
{
    Str rest = bytes, line;
    bool more = true;
    while (more) {
        rest = str_split(rest, '\n', &line, &more);
        if (str_starts_with(line, str_of(name)) && line.len > strlen(name) &&
            line.ptr[strlen(name)] == ' ')
            return strtod(line.ptr + strlen(name) + 1, NULL);
    }
    return NAN;
}

/* Three tasks of "support" end as succeeded, failed, timed_out; one waits. Returns the version. */
static Str some_history(ApiFixture *f)
{
    Str version = deploy(f, "support");
    const char *worker = worker_register(f);
    static const char *const outcomes[] = { "succeeded", "failed_final", "timed_out" };
    for (size_t i = 0; i < ARRAY_N(outcomes); i++) {
        const char *id = submit(f, "{\"input\":1,\"userId\":\"secret-user\"}");
        const char *usage = ",\"usage\":{\"inputTokens\":90,\"outputTokens\":10,\"llmCalls\":2,"
                            "\"toolCalls\":1,\"costNusd\":3000000},\"conduct\":{"
                            "\"fingerprint\":\"00000000000000ff\",\"tools\":["
                            "{\"name\":\"find\",\"calls\":3},{\"name\":\"pay\",\"calls\":1}]}";
        work_once(f, worker, outcomes[i], usage);
        if (i > 0) continue;
        Reply reply = post(f, format(f, "/api/tasks/%s/score", id), "{\"value\":0.5}");
        EXPECT(reply, 200);
    }
    submit(f, "{\"input\":1}");
    return version;
}

static void test_figures(void **state)
{
    ApiFixture *f = *state;
    Str version = some_history(f);
    Reply reply = get(f, "/metrics");
    EXPECT(reply, 200);
    EXPECT_TEXT(field(&reply, "content-type"), "text/plain; version=0.0.4; charset=utf-8");
    Str t = reply.body;
    assert_true(sample(t, "gantry_queue_depth{lane=\"normal\"}") == 1);
    assert_true(sample(t, "gantry_tasks_running{lane=\"normal\"}") == 0);
    assert_true(sample(t, "gantry_tasks_submitted_total{lane=\"normal\"}") == 4);
    assert_true(sample(t, "gantry_tasks_total{lane=\"normal\",outcome=\"succeeded\"}") == 1);
    assert_true(sample(t, "gantry_tasks_total{lane=\"normal\",outcome=\"timed_out\"}") == 1);
    assert_true(sample(t, "gantry_tasks_total{lane=\"low\",outcome=\"failed\"}") == 0);
    assert_true(sample(t, "gantry_worker_slots{lane=\"shared\"}") == 4);
    assert_true(sample(t, "gantry_workers_active") == 1);
    assert_true(sample(t, "gantry_http_requests_total") >= 10);
    assert_true(sample(t, "gantry_store_commits_total") >= 10);
    assert_true(sample(t, "process_resident_memory_bytes") > 1e6);
    assert_true(sample(t, "process_open_fds") > 3);
    double started = sample(t, "process_start_time_seconds");
    assert_true(fabs(started - (double)clock_real_ms() / 1000) < 120);
    char *labels = format(f, "{agent=\"support\",version=\"%.12s\"}", version.ptr);
    assert_true(sample(t, format(f, "gantry_task_count%s", labels)) == 3);
    assert_true(fabs(sample(t, format(f, "gantry_error_rate%s", labels)) - 2.0 / 3) < 1e-9);
    assert_true(sample(t, format(f, "gantry_quality_score%s", labels)) == 0.5);
    assert_true(sample(t, format(f, "gantry_tokens_per_task%s", labels)) == 100);
    assert_true(sample(t, format(f, "gantry_token_cost_per_task_usd%s", labels)) == 0.003);
    labels = format(f, "{agent=\"support\",version=\"%.12s\",tool=\"find\"}", version.ptr);
    assert_true(sample(t, format(f, "gantry_tool_call_distribution%s", labels)) == 0.75);
    labels = format(f, "{agent=\"support\",version=\"%.12s\",tool=\"pay\"}", version.ptr);
    assert_true(sample(t, format(f, "gantry_tool_call_distribution%s", labels)) == 0.25);
    assert_int_equal(str_find(t, STR("secret-user")), -1);
    assert_int_equal(str_find(t, version), -1); /* never the whole id */
}

static bool one_of(Str name, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (str_eq(name, str_of(names[i]))) return true;
    return false;
}

/* Every label is of the known vocabulary, whatever its value. */
static void check_labels(Str line)
{
    static const char *const known[] = { "agent",    "version", "lane", "model",
                                         "provider", "outcome", "step", "tool" };
    ptrdiff_t open = str_find_char(line, '{'), close = str_find_char(line, '}');
    if (open < 0) return;
    Str rest = str_sub(line, (size_t)open + 1, (size_t)(close - open - 1)), label, name;
    for (bool more = true; more;) {
        rest = str_split(rest, ',', &label, &more);
        str_split(label, '=', &name, NULL);
        if (!one_of(name, known, ARRAY_N(known))) fail_msg("label %.*s", STR_ARG(name));
    }
}

/* The rules of the text format that a scraper relies on, and our own about names. */
static void test_text_format(void **state)
{
    ApiFixture *f = *state;
    some_history(f);
    Reply reply = get(f, "/metrics");
    Str rest = reply.body, line, family = STR(""), type = STR(""), seen[400];
    size_t families = 0;
    for (bool more = true; more;) {
        rest = str_split(rest, '\n', &line, &more);
        if (str_empty(line) || str_starts_with(line, STR("# HELP "))) continue;
        if (str_starts_with(line, STR("# TYPE "))) {
            type = str_split(str_skip(line, 7), ' ', &family, NULL);
            for (size_t i = 0; i < families; i++)
                if (str_eq(seen[i], family)) fail_msg("%.*s twice", STR_ARG(family));
            assert_true(families < ARRAY_N(seen));
            seen[families++] = family;
            bool ours = str_starts_with(family, STR("gantry_")) ||
                        str_starts_with(family, STR("process_"));
            bool total = str_ends_with(family, STR("_total"));
            if (!ours || total != str_eq(type, STR("counter")))
                fail_msg("%.*s %.*s", STR_ARG(family), STR_ARG(type));
            continue;
        }
        if (!str_starts_with(line, family))
            fail_msg("%.*s in %.*s", STR_ARG(line), STR_ARG(family));
        check_labels(line);
    }
    assert_true(families > 50);
}

static void test_openmetrics(void **state)
{
    ApiFixture *f = *state;
    Reply reply = call_with(f, "GET", "/metrics",
                            "Accept: application/openmetrics-text;version=1.0.0\r\n", STR_NULL);
    EXPECT(reply, 200);
    EXPECT_HAS(field(&reply, "content-type"), "application/openmetrics-text; version=1.0.0");
    assert_true(str_ends_with(reply.body, STR("# EOF\n")));
    EXPECT_HAS(reply.body, "# TYPE gantry_tasks_submitted counter\n");
    EXPECT_HAS(reply.body, "gantry_tasks_submitted_total{lane=\"critical\"} 0\n");
}

/* What comes from the store is kept for a while; what is in memory is always current. */
static void test_store_figures_are_kept(void **state)
{
    ApiFixture *f = *state;
    deploy(f, "support");
    Reply before = get(f, "/metrics");
    worker_register(f);
    submit(f, "{\"input\":1}");
    Reply after = get(f, "/metrics");
    double slots = sample(before.body, "gantry_worker_slots{lane=\"shared\"}");
    assert_true(sample(after.body, "gantry_worker_slots{lane=\"shared\"}") == slots);
    assert_true(sample(after.body, "gantry_queue_depth{lane=\"normal\"}") == 1);
}

static void test_version_signals(void **state)
{
    ApiFixture *f = *state;
    Str version = some_history(f);
    Reply reply = get(f, "/api/metrics/versions?agent=support&window=1d");
    EXPECT(reply, 200);
    assert_int_equal(number(&reply, "windowSeconds"), 86400);
    const Json *row = json_at(member(&reply, "versions"), 0);
    assert_true(str_eq(json_str(json_get(row, "versionId")), version));
    assert_int_equal(json_i64_or(json_get(row, "taskCount"), 0), 3);
    assert_int_equal(json_i64_or(json_get(row, "finishedCount"), 0), 3);
    assert_true(fabs(json_f64_or(json_get(row, "taskCompletionRate"), 0) - 1.0 / 3) < 1e-9);
    EXPECT_TEXT(json_str(json_get(row, "tokenCostPerTask")), "0.003000000");
    assert_true(json_f64_or(json_get(row, "latencyP99"), -1) >= 0);
    assert_true(json_i64_or(json_get(row, "versionAge"), -1) >= 0);
    assert_true(json_type(json_get(row, "patternShift")) == JSON_NULL);
    reply = get(f, "/api/metrics/versions?agent=other");
    assert_int_equal(json_len(member(&reply, "versions")), 0);
    reply = get(f, "/api/metrics/versions?window=1h");
    assert_int_equal(json_len(member(&reply, "versions")), 1); /* "all" is all agents */
}

static void test_what_nobody_measured(void **state)
{
    (void)state;
    static VersionSignals v = { .pattern_shift = NAN };
    for (SignalKind kind = 0; kind < SIGNAL_N_; kind++)
        assert_true(kind == SIGNAL_TASKS || isnan(signal_figure(kind, &v, 1000)));
    rollup_add_task(&v.sum, &(RollupTask){ .outcome = OUTCOME_CANCELED });
    rollup_add_task(&v.sum, &(RollupTask){ .outcome = OUTCOME_FAILED, .degraded = true });
    v.figures = rollup_signals(&v.sum);
    assert_true(signal_figure(SIGNAL_TASKS, &v, 1000) == 2);
    assert_true(isnan(signal_figure(SIGNAL_ERROR, &v, 1000)));
    rollup_add_task(&v.sum, &(RollupTask){ .outcome = OUTCOME_FAILED, .latency_ms = 7 });
    v.figures = rollup_signals(&v.sum);
    assert_true(signal_figure(SIGNAL_ERROR, &v, 1000) == 1);
    assert_true(signal_figure(SIGNAL_P99, &v, 1000) == 0.007);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_figures),         CASE(test_text_format),
        CASE(test_openmetrics),     CASE(test_store_figures_are_kept),
        CASE(test_version_signals), cmocka_unit_test(test_what_nobody_measured),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
