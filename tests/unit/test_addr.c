#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "codec/addr.h"

static Addr addr_of(const char *text)
{
    Addr addr = { 0 };
    if (addr_from_text(str_of(text), &addr) != 0) fail_msg("%s is not an address", text);
    return addr;
}

static AddrCidr cidr_of(const char *text)
{
    AddrCidr cidr = { 0 };
    if (addr_cidr_from_text(str_of(text), &cidr) != 0) fail_msg("%s is not a range", text);
    return cidr;
}

static void test_text(void **state)
{
    (void)state;
    static const struct {
        const char *text, *canonical;
    } cases[] = {
        { "0.0.0.0", "0.0.0.0" },
        { "255.255.255.255", "255.255.255.255" },
        { "1.20.30.9", "1.20.30.9" },
        { "::", "::" },
        { "::1", "::1" },
        { "1::", "1::" },
        { "0:0:0:0:0:0:0:0", "::" },
        { "0001:0002:0003:0004:0005:0006:0007:0008", "1:2:3:4:5:6:7:8" },
        { "ABCD:EF01::", "abcd:ef01::" },
        { "2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1" },    /* the first of equal runs */
        { "2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1" }, /* one group is not shortened */
        { "2001:0:0:1:0:0:0:1", "2001:0:0:1::1" },          /* the longest run */
        { "1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0" },
        { "::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8" },
        { "::ffff:127.0.0.1", "::ffff:7f00:1" },
        { "64:ff9b::192.0.2.33", "64:ff9b::c000:221" },
        { "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:102:304" },
        { "fe80::ffff:ffff:ffff:ffff", "fe80::ffff:ffff:ffff:ffff" },
        { "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        char out[ADDR_TEXT_MAX];
        Addr addr = addr_of(cases[i].text);
        Str text = addr_text(addr, out);
        assert_string_equal(out, cases[i].canonical);
        assert_int_equal(text.len, strlen(out));
        assert_true(addr_eq(addr_of(out), addr));
    }
}

static void test_not_text(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        " ",
        "1",
        "1.2.3",
        "1.2.3.",
        ".1.2.3",
        "1.2.3.4.",
        "1.2.3.4.5",
        "1..2.3",
        "256.0.0.1",
        "1.2.3.256",
        "01.2.3.4",
        "1.2.3.00",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.1",
        "2130706433",
        "1.2.3.4 ",
        " 1.2.3.4",
        "1.2.3.4\n",
        "+1.2.3.4",
        "1.2.3.-4",
        "1.2.3.4/8",
        "1,2,3,4",
        "\xd9\xa1.2.3.4",
        ":",
        ":::",
        "1:",
        ":1",
        "1::2::3",
        "1:2:3:4:5:6:7",
        "1:2:3:4:5:6:7:8:9",
        "1:2:3:4:5:6:7:8::",
        "1::2:3:4:5:6:7:8",
        "12345::",
        "g::",
        "::g",
        "::1%eth0",
        "::1%25eth0",
        "[::1]",
        "::1.2.3",
        "::1.2.3.4.5",
        "1.2.3.4::",
        "::1.2.3.4:5",
        "::01.2.3.4",
        "::256.2.3.4",
        "1:2:3:4:5:6:7:1.2.3.4",
        "::1 ",
        "0x1::",
        "-1::",
        "localhost",
        "::ffff:0x7f.0.0.1",
    };
    Addr addr;
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        if (addr_from_text(str_of(bad[i]), &addr) != -EINVAL) fail_msg("accepted: %s", bad[i]);
    assert_int_equal(addr_from_text(STR("1.2.3.4\0"), &addr), -EINVAL);
    assert_int_equal(addr_from_text(STR("::1\0"), &addr), -EINVAL);
}

static void test_ranges(void **state)
{
    (void)state;
    assert_true(addr_in_cidr(addr_of("10.1.2.3"), cidr_of("10.0.0.0/8")));
    assert_false(addr_in_cidr(addr_of("11.0.0.0"), cidr_of("10.0.0.0/8")));
    assert_true(addr_in_cidr(addr_of("1.2.3.4"), cidr_of("0.0.0.0/0")));
    assert_true(addr_in_cidr(addr_of("1.2.3.4"), cidr_of("1.2.3.4")));
    assert_false(addr_in_cidr(addr_of("1.2.3.5"), cidr_of("1.2.3.4")));
    assert_true(addr_in_cidr(addr_of("1.2.3.5"), cidr_of("1.2.3.4/31")));
    assert_false(addr_in_cidr(addr_of("::1"), cidr_of("0.0.0.0/0")));
    assert_false(addr_in_cidr(addr_of("0.0.0.1"), cidr_of("::/0")));
    assert_true(addr_in_cidr(addr_of("2001:db8:ffff::"), cidr_of("2001:db8::/32")));
    assert_true(addr_in_cidr(addr_of("::1"), cidr_of("::1")));
    assert_false(addr_in_cidr(addr_of("::3"), cidr_of("::/127")));
    assert_true(addr_in_cidr(addr_of("2001:dbf:ffff::"), cidr_of("2001:db8::/29")));
    assert_false(addr_in_cidr(addr_of("2001:dc0::"), cidr_of("2001:db8::/29")));
}

static void test_not_ranges(void **state)
{
    (void)state;
    static const char *const bad[] = { "",
                                       "/8",
                                       "10.0.0.0/",
                                       "10.0.0.0/33",
                                       "::/129",
                                       "10.0.0.0/-1",
                                       "10.0.0.0/08",
                                       "10.0.0.0/8/8",
                                       "10.0.0.1/8",
                                       "::1/127",
                                       "10.0.0.0/8 ",
                                       "10/8",
                                       "10.0.0.0/255.0.0.0",
                                       "1.2.3.4/0" };
    AddrCidr cidr;
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        if (addr_cidr_from_text(str_of(bad[i]), &cidr) != -EINVAL) fail_msg("accepted: %s", bad[i]);
}

/* Every range by its edges: what is before the first, the first, the last, what is behind the
 * last. */
static const struct {
    const char *before, *first, *last, *behind;
    AddrClass class, class_before, class_behind;
} edges[] = {
    { NULL, "0.0.0.0", "0.255.255.255", "1.0.0.0", ADDR_RESERVED, 0, ADDR_PUBLIC },
    { "9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0", ADDR_PRIVATE, 0, 0 },
    { "100.63.255.255", "100.64.0.0", "100.100.100.199", "100.100.100.200", ADDR_SHARED, 0,
      ADDR_METADATA },
    { "100.100.100.199", "100.100.100.200", "100.100.100.200", "100.100.100.201", ADDR_METADATA,
      ADDR_SHARED, ADDR_SHARED },
    { "100.100.100.200", "100.100.100.201", "100.127.255.255", "100.128.0.0", ADDR_SHARED,
      ADDR_METADATA, 0 },
    { "126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0", ADDR_LOOPBACK, 0, 0 },
    { "168.63.129.15", "168.63.129.16", "168.63.129.16", "168.63.129.17", ADDR_METADATA, 0, 0 },
    { "169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0", ADDR_METADATA, 0, 0 },
    { "172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0", ADDR_PRIVATE, 0, 0 },
    { "191.255.255.255", "192.0.0.0", "192.0.0.191", "192.0.0.192", ADDR_RESERVED, 0,
      ADDR_METADATA },
    { "192.0.0.192", "192.0.0.193", "192.0.0.255", "192.0.1.0", ADDR_RESERVED, ADDR_METADATA, 0 },
    { "192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0", ADDR_RESERVED, 0, 0 },
    { "192.88.98.255", "192.88.99.0", "192.88.99.255", "192.88.100.0", ADDR_RESERVED, 0, 0 },
    { "192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0", ADDR_PRIVATE, 0, 0 },
    { "198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0", ADDR_RESERVED, 0, 0 },
    { "198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0", ADDR_RESERVED, 0, 0 },
    { "203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0", ADDR_RESERVED, 0, 0 },
    { "223.255.255.255", "224.0.0.0", "239.255.255.255", "240.0.0.0", ADDR_MULTICAST, 0,
      ADDR_RESERVED },
    { "239.255.255.255", "240.0.0.0", "255.255.255.255", NULL, ADDR_RESERVED, ADDR_MULTICAST, 0 },

    { NULL, "::", "::", "::1", ADDR_RESERVED, 0, ADDR_LOOPBACK },
    { "::", "::1", "::1", "::2", ADDR_LOOPBACK, ADDR_RESERVED, ADDR_EMBEDDED_V4 },
    { "::1", "::2", "::ffff:ffff", "::1:0:0", ADDR_EMBEDDED_V4, ADDR_LOOPBACK, ADDR_RESERVED },
    { "::fffe:ffff:ffff", "::ffff:0.0.0.0", "::ffff:255.255.255.255", "::1:0:0:0", ADDR_EMBEDDED_V4,
      ADDR_RESERVED, ADDR_RESERVED },
    { "::fffe:ffff:ffff:ffff", "::ffff:0:0.0.0.0", "::ffff:0:255.255.255.255", "::ffff:1:0:0",
      ADDR_EMBEDDED_V4, ADDR_RESERVED, ADDR_RESERVED },
    { "64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff", "64:ff9b::", "64:ff9b::ffff:ffff", "64:ff9b::1:0:0",
      ADDR_EMBEDDED_V4, ADDR_RESERVED, ADDR_RESERVED },
    { "64:ff9b:0:ffff:ffff:ffff:ffff:ffff", "64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
      "64:ff9b:2::", ADDR_EMBEDDED_V4, ADDR_RESERVED, ADDR_RESERVED },
    { "64:ffff::", "100::", "100::ffff:ffff:ffff:ffff", "101::", ADDR_RESERVED, ADDR_RESERVED,
      ADDR_RESERVED },
    { "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
      "2000::", "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001::", ADDR_PUBLIC, ADDR_RESERVED,
      ADDR_EMBEDDED_V4 },
    { "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff",
      "2001:1::", ADDR_EMBEDDED_V4, 0, ADDR_RESERVED },
    { "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", "2001:1::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
      "2001:200::", ADDR_RESERVED, ADDR_EMBEDDED_V4, 0 },
    { "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
      "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::", ADDR_RESERVED, 0, 0 },
    { "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
      "2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2003::", ADDR_EMBEDDED_V4, 0, 0 },
    { "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
      "3fff:1000::", ADDR_RESERVED, 0, 0 },
    { "3fff:1000::", "3fff:1000::1", "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
      "4000::", ADDR_PUBLIC, 0, ADDR_RESERVED },
    { "5eff:ffff::", "5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "5f01::", ADDR_RESERVED,
      ADDR_RESERVED, ADDR_RESERVED },
    { "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
      "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fe00::", ADDR_PRIVATE, ADDR_RESERVED,
      ADDR_RESERVED },
    { "fd00:ec2::253", "fd00:ec2::254", "fd00:ec2::254", "fd00:ec2::255", ADDR_METADATA,
      ADDR_PRIVATE, ADDR_PRIVATE },
    { "fd20:ce::253", "fd20:ce::254", "fd20:ce::254", "fd20:ce::255", ADDR_METADATA, ADDR_PRIVATE,
      ADDR_PRIVATE },
    { "fe7f:ffff::", "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fec0::", ADDR_LINK_LOCAL,
      ADDR_RESERVED, ADDR_RESERVED },
    { "feff:ffff::", "ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NULL, ADDR_MULTICAST,
      ADDR_RESERVED, 0 },
    { "2600::5efd:ffff:ffff", "2600::5efe:0:0", "2600::5efe:ffff:ffff", "2600::5eff:0:0",
      ADDR_EMBEDDED_V4, 0, 0 },
    { "2600::200:5efd:ffff:ffff", "2600::200:5efe:7f00:1", "2600::200:5efe:ffff:ffff",
      "2600::200:5eff:0:0", ADDR_EMBEDDED_V4, 0, 0 },
};

static void expect_class(const char *text, AddrClass want)
{
    if (!text) return;
    AddrClass got = addr_class(addr_of(text), NULL, 0);
    if (got != want)
        fail_msg("%s is %s, not %s", text, addr_class_text(got), addr_class_text(want));
    assert_int_equal(addr_class_ok(got), want == ADDR_PUBLIC || want == ADDR_ALLOWED);
}

static void test_edges(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_N(edges); i++) {
        expect_class(edges[i].before, edges[i].class_before);
        expect_class(edges[i].first, edges[i].class);
        expect_class(edges[i].last, edges[i].class);
        expect_class(edges[i].behind, edges[i].class_behind);
    }
}

static void test_public(void **state)
{
    (void)state;
    static const char *const good[] = { "1.1.1.1",
                                        "8.8.8.8",
                                        "93.184.216.34",
                                        "172.64.0.1",
                                        "2606:4700:4700::1111",
                                        "2001:4860:4860::8888",
                                        "2a00:1450:4001::200e" };
    for (size_t i = 0; i < ARRAY_N(good); i++) expect_class(good[i], ADDR_PUBLIC);
}

/* Exceptions lift the deny list and nothing else. */
static void test_allow(void **state)
{
    (void)state;
    const AddrCidr all[] = { cidr_of("0.0.0.0/0"), cidr_of("::/0") };
    static const char *const never[] = {
        "169.254.169.254", "169.254.0.1",      "100.100.100.200",     "168.63.129.16",
        "fd00:ec2::254",   "::ffff:127.0.0.1", "::127.0.0.1",         "64:ff9b::a00:1",
        "2002:7f00:1::",   "2001::1",          "2600::5efe:127.0.0.1"
    };
    static const char *const lifted[] = { "127.0.0.1", "10.0.0.1",  "::1",     "fc00::1",
                                          "fe80::1",   "224.0.0.1", "8.8.8.8", "2001:db8::1" };
    for (size_t i = 0; i < ARRAY_N(never); i++)
        assert_false(addr_class_ok(addr_class(addr_of(never[i]), all, ARRAY_N(all))));
    for (size_t i = 0; i < ARRAY_N(lifted); i++)
        assert_int_equal(addr_class(addr_of(lifted[i]), all, ARRAY_N(all)), ADDR_ALLOWED);
}

static void test_allow_is_narrow(void **state)
{
    (void)state;
    const AddrCidr some[] = { cidr_of("10.1.0.0/16"), cidr_of("::1") };
    assert_int_equal(addr_class(addr_of("10.1.255.255"), some, 2), ADDR_ALLOWED);
    assert_int_equal(addr_class(addr_of("10.2.0.0"), some, 2), ADDR_PRIVATE);
    assert_int_equal(addr_class(addr_of("127.0.0.1"), some, 2), ADDR_LOOPBACK);
    assert_int_equal(addr_class(addr_of("::1"), some, 2), ADDR_ALLOWED);
    assert_int_equal(addr_class(addr_of("1.1.1.1"), some, 2), ADDR_PUBLIC);
}

static void test_every_class_has_a_text(void **state)
{
    (void)state;
    for (int i = 0; i < ADDR_CLASS_N_; i++) assert_true(strlen(addr_class_text((AddrClass)i)) > 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_not_text),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_not_ranges),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_public),
        cmocka_unit_test(test_allow),
        cmocka_unit_test(test_allow_is_narrow),
        cmocka_unit_test(test_every_class_has_a_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
