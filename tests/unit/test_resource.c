#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/buf.h"
#include "logic/resource.h"

#define MIB (INT64_C(1) << 20)

static void test_over(void **state)
{
    (void)state;
    static const ResourceLimits limits = {
        .memory_bytes = 100, .cpu_seconds = 3, .processes = 4, .scratch_bytes = 50
    };
    static const struct {
        ResourceUse use;
        Resource over;
    } rows[] = {
        { { 0, 0, 0, 0 }, RESOURCE_NONE },
        { { 100, 3999, 4, 50 }, RESOURCE_NONE }, /* all of it may be used */
        { { 101, 0, 0, 0 }, RESOURCE_MEMORY },
        { { 0, 4000, 0, 0 }, RESOURCE_CPU },
        { { 0, 0, 5, 0 }, RESOURCE_PROCESSES },
        { { 0, 0, 0, 51 }, RESOURCE_SCRATCH },
        { { 101, 4000, 5, 51 }, RESOURCE_MEMORY }, /* what harms others most is named */
    };
    for (size_t i = 0; i < ARRAY_N(rows); i++) {
        assert_int_equal(resource_over(&limits, &rows[i].use), rows[i].over);
        assert_int_equal(resource_over(&(ResourceLimits){ 0 }, &rows[i].use), RESOURCE_NONE);
    }
}

static void test_read_and_write(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        int result;
        ResourceLimits limits;
    } rows[] = {
        { "{}", 0, { 0 } },
        { "{\"tokensPerTask\":5,\"usdPerTask\":\"1\"}", 0, { 0 } },
        { "{\"memoryBytes\":1,\"cpuSeconds\":2,\"processes\":3,\"files\":4,\"outputBytes\":5,"
          "\"scratchBytes\":6}",
          0,
          { 1, 2, 3, 4, 5, 6 } },
        { "{\"files\":0}", -EINVAL, { 0 } },
        { "{\"files\":-1}", -EINVAL, { 0 } },
        { "{\"files\":\"9\"}", -EINVAL, { 0 } },
    };
    for (size_t i = 0; i < ARRAY_N(rows); i++) {
        CLEANUP(arena_deinit) Arena arena = { 0 };
        CLEANUP(buf_deinit) Buf text = { 0 };
        const Json *v;
        ResourceLimits limits = { 0 }, again;
        arena_init(&arena, 1 << 20);
        buf_init(&text, 1 << 16);
        assert_int_equal(json_parse(&arena, str_of(rows[i].json), NULL, &v, NULL), 0);
        assert_int_equal(resource_limits_read(v, &limits), rows[i].result);
        assert_memory_equal(&limits, &rows[i].limits, sizeof limits);
        JsonOut out = json_out(&text);
        json_out_object(&out);
        resource_limits_write(&out, &limits);
        json_out_object_end(&out);
        assert_int_equal(json_parse(&arena, buf_str(&text), NULL, &v, NULL), 0);
        assert_int_equal(resource_limits_read(v, &again), 0);
        assert_memory_equal(&limits, &again, sizeof limits);
    }
    assert_string_equal(resource_name(RESOURCE_SCRATCH), "scratchBytes");
    assert_int_equal(resource_limit(&rows[2].limits, RESOURCE_FILES), 4);
}

/* The session, who left it but has a parent in it, however their numbers lie, and nobody else. */
static void test_sum(void **state)
{
    (void)state;
    ResourceProcess processes[] = {
        { .pid = 70, .parent = 1, .session = 70, .memory_bytes = 1 * MIB, .cpu_ms = 1 },
        { .pid = 71, .parent = 70, .session = 70, .memory_bytes = 2 * MIB, .cpu_ms = 2 },
        { .pid = 9, .parent = 71, .session = 9, .memory_bytes = 4 * MIB, .cpu_ms = 4 },
        { .pid = 8, .parent = 9, .session = 9, .memory_bytes = 8 * MIB, .cpu_ms = 8 },
        { .pid = 5, .parent = 1, .session = 70, .memory_bytes = 16 * MIB, .cpu_ms = 16 },
        { .pid = 1, .parent = 0, .session = 1, .memory_bytes = 32 * MIB, .cpu_ms = 32 },
        { .pid = 99, .parent = 98, .session = 97, .memory_bytes = 64 * MIB, .cpu_ms = 64 },
    };
    ResourceUse use = resource_sum(processes, ARRAY_N(processes), 70);
    assert_int_equal(use.processes, 5);
    assert_int_equal(use.memory_bytes, 31 * MIB);
    assert_int_equal(use.cpu_ms, 31);
    assert_int_equal(processes[0].pid, 1); /* sorted */
    assert_false(processes[0].own);
    use = resource_sum(processes, ARRAY_N(processes), 9); /* what an earlier look marked is gone */
    assert_int_equal(use.processes, 2);
    assert_int_equal(resource_sum(NULL, 0, 70).processes, 0);
    processes[0].root = true; /* sorted: 1, whose children are 5 and 70 */
    assert_int_equal(resource_sum(processes, ARRAY_N(processes), -1).processes, 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_over),
        cmocka_unit_test(test_read_and_write),
        cmocka_unit_test(test_sum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
