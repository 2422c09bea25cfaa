#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "codec/openmetrics.h"
#include "random.h"

static void write_all(Buf *buf, OmFormat format)
{
    OmOut out = om_out(buf, format);
    const OmLabel lane[] = { { "lane", STR("critical") }, { "model", STR("a\"b\\c\nd") } };
    const double bounds[] = { 0.005, 1, 10 };
    const uint64_t counts[] = { 2, 0, 3, 1 };
    om_family(&out, "gantry_tasks", OM_COUNTER, NULL, "Tasks \"done\",\na line \\.");
    om_sample_i64(&out, lane, 2, 12);
    om_sample(&out, NULL, 0, 0.5);
    om_family(&out, "gantry_wait_seconds", OM_HISTOGRAM, "seconds", "Wait.");
    om_histogram(&out, lane, 1, bounds, 3, counts, 20.25);
    om_family(&out, "gantry_up", OM_GAUGE, NULL, "Up.");
    om_sample(&out, NULL, 0, 1);
    om_family(&out, "gantry_build", OM_INFO, NULL, "Build.");
    om_sample_i64(&out, lane, 1, 1);
    assert_int_equal(om_end(&out), 0);
}

static void test_prometheus(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf = { 0 };
    buf_init(&buf, 10000);
    write_all(&buf, OM_PROMETHEUS);
    assert_string_equal(buf.ptr,
                        "# TYPE gantry_tasks_total counter\n"
                        "# HELP gantry_tasks_total Tasks \"done\",\\na line \\\\.\n"
                        "gantry_tasks_total{lane=\"critical\",model=\"a\\\"b\\\\c\\nd\"} 12\n"
                        "gantry_tasks_total 0.5\n"
                        "# TYPE gantry_wait_seconds histogram\n"
                        "# HELP gantry_wait_seconds Wait.\n"
                        "gantry_wait_seconds_bucket{lane=\"critical\",le=\"0.005\"} 2\n"
                        "gantry_wait_seconds_bucket{lane=\"critical\",le=\"1\"} 2\n"
                        "gantry_wait_seconds_bucket{lane=\"critical\",le=\"10\"} 5\n"
                        "gantry_wait_seconds_bucket{lane=\"critical\",le=\"+Inf\"} 6\n"
                        "gantry_wait_seconds_sum{lane=\"critical\"} 20.25\n"
                        "gantry_wait_seconds_count{lane=\"critical\"} 6\n"
                        "# TYPE gantry_up gauge\n"
                        "# HELP gantry_up Up.\n"
                        "gantry_up 1\n"
                        "# TYPE gantry_build_info gauge\n"
                        "# HELP gantry_build_info Build.\n"
                        "gantry_build_info{lane=\"critical\"} 1\n");
}

static void test_openmetrics(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf = { 0 };
    buf_init(&buf, 10000);
    write_all(&buf, OM_OPENMETRICS);
    assert_string_equal(buf.ptr,
                        "# TYPE gantry_tasks counter\n"
                        "# HELP gantry_tasks Tasks \\\"done\\\",\\na line \\\\.\n"
                        "gantry_tasks_total{lane=\"critical\",model=\"a\\\"b\\\\c\\nd\"} 12\n"
                        "gantry_tasks_total 0.5\n"
                        "# TYPE gantry_wait_seconds histogram\n"
                        "# UNIT gantry_wait_seconds seconds\n"
                        "# HELP gantry_wait_seconds Wait.\n"
                        "gantry_wait_seconds_bucket{lane=\"critical\",le=\"0.005\"} 2\n"
                        "gantry_wait_seconds_bucket{lane=\"critical\",le=\"1.0\"} 2\n"
                        "gantry_wait_seconds_bucket{lane=\"critical\",le=\"10.0\"} 5\n"
                        "gantry_wait_seconds_bucket{lane=\"critical\",le=\"+Inf\"} 6\n"
                        "gantry_wait_seconds_sum{lane=\"critical\"} 20.25\n"
                        "gantry_wait_seconds_count{lane=\"critical\"} 6\n"
                        "# TYPE gantry_up gauge\n"
                        "# HELP gantry_up Up.\n"
                        "gantry_up 1\n"
                        "# TYPE gantry_build info\n"
                        "# HELP gantry_build Build.\n"
                        "gantry_build_info{lane=\"critical\"} 1\n"
                        "# EOF\n");
}

static void test_histogram_without_labels(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf = { 0 };
    buf_init(&buf, 1000);
    OmOut out = om_out(&buf, OM_PROMETHEUS);
    const uint64_t counts[] = { 4 };
    om_family(&out, "h", OM_HISTOGRAM, NULL, "");
    om_histogram(&out, NULL, 0, NULL, 0, counts, 0);
    assert_int_equal(om_end(&out), 0);
    assert_string_equal(
        buf.ptr, "# TYPE h histogram\n# HELP h \nh_bucket{le=\"+Inf\"} 4\nh_sum 0\nh_count 4\n");
}

static void test_bad_utf8(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf = { 0 };
    buf_init(&buf, 1000);
    OmOut out = om_out(&buf, OM_PROMETHEUS);
    const OmLabel bad[] = { { "a", STR("x\xff\"\n") }, { "b", STR("\xc3\xa4") } };
    om_family(&out, "g", OM_GAUGE, NULL, "");
    om_sample_i64(&out, bad, 2, -1);
    assert_true(str_ends_with(buf_str(&buf), STR("g{a=\"x?\\\"\\n\",b=\"\xc3\xa4\"} -1\n")));
}

static void test_full(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf = { 0 };
    buf_init(&buf, 30);
    OmOut out = om_out(&buf, OM_PROMETHEUS);
    om_family(&out, "gantry_up", OM_GAUGE, NULL, "Whether it is up.");
    om_sample(&out, NULL, 0, 1);
    assert_int_equal(om_end(&out), -ENOMEM);
}

static void test_numbers(void **state)
{
    (void)state;
    static const struct {
        double v;
        const char *text;
    } cases[] = {
        { 0, "0" },
        { 1, "1" },
        { -1.5, "-1.5" },
        { 0.1, "0.1" },
        { 1e21, "1e+21" },
        { 5e-324, "4.94065645841247e-324" },
        { 0.1 + 0.2, "0.30000000000000004" },
        { 123456789012, "123456789012" },
        { NAN, "NaN" },
        { INFINITY, "+Inf" },
        { -INFINITY, "-Inf" },
    };
    char out[OM_NUMBER_TEXT_MAX];
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        assert_int_equal(om_number_format(cases[i].v, out), strlen(cases[i].text));
        assert_string_equal(out, cases[i].text);
    }
}

static void test_numbers_read_back(void **state)
{
    (void)state;
    Random random = { 7 };
    for (int i = 0; i < 100000; i++) {
        uint64_t bits = random_next(&random);
        double v;
        char out[OM_NUMBER_TEXT_MAX];
        memcpy(&v, &bits, sizeof v);
        if (isnan(v)) continue;
        om_number_format(v, out);
        assert_true(strtod(out, NULL) == v);
    }
}

static void test_accept(void **state)
{
    (void)state;
    assert_int_equal(om_format_from_accept(STR("")), OM_PROMETHEUS);
    assert_int_equal(om_format_from_accept(STR("text/plain;version=0.0.4, */*")), OM_PROMETHEUS);
    assert_int_equal(om_format_from_accept(STR("application/openmetrics-textual")), OM_PROMETHEUS);
    assert_int_equal(
        om_format_from_accept(STR("text/html, Application/OpenMetrics-Text ;version=1.0.0;q=0.8")),
        OM_OPENMETRICS);
    assert_string_equal(om_content_type(OM_PROMETHEUS), "text/plain; version=0.0.4; charset=utf-8");
    assert_string_equal(om_content_type(OM_OPENMETRICS),
                        "application/openmetrics-text; version=1.0.0; charset=utf-8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prometheus),
        cmocka_unit_test(test_openmetrics),
        cmocka_unit_test(test_histogram_without_labels),
        cmocka_unit_test(test_bad_utf8),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_numbers_read_back),
        cmocka_unit_test(test_accept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
