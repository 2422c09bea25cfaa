/* Files of time zones, made here; those of the system are compared with the C library in
 * test_zone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/diag.h"
#include "codec/time_text.h"
#include "codec/tzif.h"

#define HOUR_S 3600

typedef struct {
    int64_t at_s;
    uint8_t type;
} Set;

static const int32_t types_s[] = { 3208, HOUR_S, 2 * HOUR_S };

static void put_int(Buf *out, int64_t v, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--) {
        char c = (char)((uint64_t)v >> (8 * i));
        buf_add(out, str_make(&c, 1));
    }
}

static void put_block(Buf *out, char version, const Set *sets, size_t n, int bytes)
{
    const size_t counts[] = { 0, 0, 0, n, ARRAY_N(types_s), 4 };
    buf_add(out, STR("TZif"));
    buf_add(out, str_make(&version, 1));
    for (int i = 0; i < 15; i++) put_int(out, 0, 1);
    for (size_t i = 0; i < ARRAY_N(counts); i++) put_int(out, (int64_t)counts[i], 4);
    for (size_t i = 0; i < n; i++) put_int(out, sets[i].at_s, bytes);
    for (size_t i = 0; i < n; i++) put_int(out, sets[i].type, 1);
    for (size_t i = 0; i < ARRAY_N(types_s); i++) {
        put_int(out, types_s[i], 4);
        put_int(out, 0, 2);
    }
    buf_add(out, str_make("LMT", 4));
}

static void put_file(Buf *out, const Set *sets, size_t n, const char *rule)
{
    put_block(out, '2', sets, n, 4);
    put_block(out, '2', sets, n, 8);
    buf_add(out, STR("\n"));
    buf_add(out, str_of(rule));
    buf_add(out, STR("\n"));
}

/* The offset in seconds at that time. */
static int64_t offset_s(const Set *sets, size_t n, const char *rule, const char *at)
{
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(buf_deinit) Buf file;
    Tzif zone;
    int64_t ms = 0;
    arena_init(&arena, 1 << 20);
    buf_init(&file, 1 << 16);
    put_file(&file, sets, n, rule);
    if (tzif_parse(&arena, buf_str(&file), &zone) != 0) fail_msg("%s: %s", rule, diag_text());
    assert_int_equal(time_parse(str_of(at), &ms), 0);
    return tzif_offset_ms(&zone, ms) / 1000;
}

static void test_times(void **state)
{
    (void)state;
    static const Set sets[] = { { 0, 1 }, { 86400, 2 } };
    assert_int_equal(offset_s(sets, 2, "", "1969-12-31T23:59:59.999Z"), 3208);
    assert_int_equal(offset_s(sets, 2, "", "1970-01-01T00:00:00Z"), HOUR_S);
    assert_int_equal(offset_s(sets, 2, "", "1970-01-02T00:00:00Z"), 2 * HOUR_S);
    assert_int_equal(offset_s(sets, 2, "", "2500-01-02T00:00:00Z"), 2 * HOUR_S);
    assert_int_equal(offset_s(sets, 2, "XST-3", "1970-01-01T00:00:00Z"), HOUR_S);
    assert_int_equal(offset_s(sets, 2, "XST-3", "1970-01-02T00:00:00Z"), 3 * HOUR_S);
}

static void test_rules(void **state)
{
    (void)state;
    static const struct {
        const char *rule, *at;
        int64_t offset_s;
    } cases[] = {
        { "CET-1CEST,M3.5.0,M10.5.0/3", "2026-03-29T00:59:59Z", HOUR_S },
        { "CET-1CEST,M3.5.0,M10.5.0/3", "2026-03-29T01:00:00Z", 2 * HOUR_S },
        { "CET-1CEST,M3.5.0,M10.5.0/3", "2026-10-25T00:59:59Z", 2 * HOUR_S },
        { "CET-1CEST,M3.5.0,M10.5.0/3", "2026-10-25T01:00:00Z", HOUR_S },
        { "EST5EDT,M3.2.0,M11.1.0", "2099-03-08T06:59:59Z", -5 * HOUR_S },
        { "EST5EDT,M3.2.0,M11.1.0", "2099-03-08T07:00:00Z", -4 * HOUR_S },
        { "AEST-10AEDT,M10.1.0,M4.1.0/3", "2026-01-01T00:00:00Z", 11 * HOUR_S }, /* the south */
        { "AEST-10AEDT,M10.1.0,M4.1.0/3", "2026-07-01T00:00:00Z", 10 * HOUR_S },
        { "<+0330>-3:30", "2026-07-01T00:00:00Z", 12600 },
        { "<-02>2<-01>,M3.5.0/-1,M10.5.0/0", "2026-03-29T00:59:59Z", -2 * HOUR_S },
        { "<-02>2<-01>,M3.5.0/-1,M10.5.0/0", "2026-03-29T01:00:00Z", -HOUR_S },
        { "IST-1GMT0,M10.5.0,M3.5.0/1", "2026-01-01T00:00:00Z", 0 }, /* less in winter */
        { "IST-1GMT0,M10.5.0,M3.5.0/1", "2026-07-01T00:00:00Z", HOUR_S },
        { "XST0XDT,J60/0,J61/0", "2024-03-01T12:00:00Z", HOUR_S }, /* never 29 February */
        { "XST0XDT,J60/0,J61/0", "2023-03-01T12:00:00Z", HOUR_S },
        { "XST0XDT,59/0,60/0", "2024-02-29T12:00:00Z", HOUR_S },
        { "XST0XDT,59/0,60/0", "2023-03-01T12:00:00Z", HOUR_S },
        { "XST0XDT,0/0,J365/25", "2026-12-31T23:00:00Z", HOUR_S }, /* always */
        { "XST0XDT,0/0,J365/25", "2026-01-01T00:00:00Z", HOUR_S },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++)
        if (offset_s(NULL, 0, cases[i].rule, cases[i].at) != cases[i].offset_s)
            fail_msg("%s at %s", cases[i].rule, cases[i].at);
}

static void refuse(Str bytes)
{
    CLEANUP(arena_deinit) Arena arena;
    Tzif zone = { .n = 7 };
    arena_init(&arena, 1 << 20);
    assert_int_equal(tzif_parse(&arena, bytes, &zone), -EINVAL);
    assert_int_equal(zone.n, 7);
}

static void test_what_is_broken(void **state)
{
    (void)state;
    static const char *const rules[] = { "C-1",
                                         "CET",
                                         "CET-1CEST",
                                         "CET-1CEST,M3",
                                         "CET-1CEST,M3.5.0,M13.5.0",
                                         "CET-99",
                                         "<+01-1",
                                         "CET-1CEST,M3.5.0,M10.5.0x",
                                         "CET-1CEST,J0,J1" };
    static const Set twice[] = { { 5, 1 }, { 5, 2 } }, none[] = { { 5, 3 } };
    CLEANUP(buf_deinit) Buf file;
    buf_init(&file, 1 << 16);
    for (size_t i = 0; i < ARRAY_N(rules); i++) {
        buf_clear(&file);
        put_file(&file, NULL, 0, rules[i]);
        refuse(buf_str(&file));
    }
    buf_clear(&file);
    put_file(&file, twice, 2, "");
    refuse(buf_str(&file));
    buf_clear(&file);
    put_file(&file, none, 1, "");
    refuse(buf_str(&file));
    buf_clear(&file);
    put_file(&file, twice, 1, "CET-1");
    for (size_t n = 0; n < file.len; n++) refuse(str_sub(buf_str(&file), 0, n)); /* cut off */
    refuse(STR("TZif2 is not all of it, by far, although it is long enough for a head"));
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_times), cmocka_unit_test(test_rules),
                                        cmocka_unit_test(test_what_is_broken) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
