#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "base/diag.h"
#include "codec/digest.h"
#include "codec/tar.h"

static TarEntry file(const char *path)
{
    return (TarEntry){ .path = str_of(path), .type = TAR_FILE, .mode = 0644 };
}

static void add_file(TarOut *tar, const char *path, unsigned mode, const char *contents)
{
    TarEntry e = { .path = str_of(path), .type = TAR_FILE, .mode = mode };
    assert_int_equal(tar_out_file(tar, &e, str_of(contents)), 0);
}

static void add_other(TarOut *tar, TarType type, const char *path, const char *link)
{
    TarEntry e = { .path = str_of(path), .type = type, .link = str_of(link), .mode = 0777 };
    assert_int_equal(tar_out_entry(tar, &e), 0);
}

/* --- the bytes -------------------------------------------------------------------------------- */

/* A small tree, as every machine must write it. The digest is part of version ids: if it changes,
 * every agent gets new ones. */
static void test_golden_digest(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf out;
    TarOut tar;
    char hex[SHA256_HEX_MAX];
    buf_init(&out, 1 << 20);
    tar_out_init(&tar, &out);
    add_file(&tar, "agent.yaml", 0600, "name: x\n");
    add_other(&tar, TAR_DIR, "bin", NULL);
    add_file(&tar, "bin/run", 0755, "#!/bin/sh\nexec true\n");
    add_other(&tar, TAR_SYMLINK, "link", "bin/run");
    add_file(&tar, "\xc3\xa9/empty", 0444, "");
    assert_int_equal(tar_out_end(&tar), 0);
    assert_int_equal(out.len, 5 * 512 + 2 * 512 + 1024);
    assert_string_equal(sha256_hex(buf_str(&out), hex),
                        "68efbe66c7b4615196e5318ef47c1320642ef73b379530cbe79447ce2e369432");
}

static void test_header(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf out;
    TarOut tar;
    buf_init(&out, 1 << 20);
    tar_out_init(&tar, &out);
    add_file(&tar, "dir/name", 04711, "hello");
    assert_int_equal(tar_out_end(&tar), 0);
    const char *h = out.ptr;
    assert_string_equal(h, "dir/name");
    assert_memory_equal(h + 100,
                        "0000755\0"
                        "0000000\0"
                        "0000000\0",
                        24); /* mode, uid, gid */
    assert_memory_equal(h + 124,
                        "00000000005\0"
                        "00000000000\0",
                        24);                 /* size, mtime */
    assert_memory_equal(h + 154, "\0 0", 3); /* checksum of six digits; a file */
    assert_memory_equal(h + 257,
                        "ustar\0"
                        "00",
                        8);
    assert_memory_equal(h + 265, "\0\0\0\0", 4); /* no names of owner and group */
    assert_memory_equal(h + 512, "hello\0\0\0", 8);
    assert_int_equal(out.len, 2 * 512 + 1024);
    for (size_t i = 517; i < out.len; i++) assert_int_equal(out.ptr[i], 0);
}

static void test_modes_and_types(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf out;
    TarOut tar;
    buf_init(&out, 1 << 20);
    tar_out_init(&tar, &out);
    add_file(&tar, "a", 0666, "");
    add_file(&tar, "b", 0100, "");
    add_other(&tar, TAR_DIR, "c", NULL);
    add_other(&tar, TAR_SYMLINK, "d", "a");
    static const char *const modes[] = { "0000644", "0000755", "0000755", "0000644" };
    static const char *const names[] = { "a", "b", "c/", "d" };
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(out.ptr + 512 * i, names[i]);
        if (i < 3) assert_string_equal(out.ptr + 512 * i + 100, modes[i]);
        assert_int_equal(out.ptr[512 * i + 156], "0052"[i]);
    }
    assert_string_equal(out.ptr + 512 * 3 + 157, "a");
}

/* --- long names ------------------------------------------------------------------------------- */

/* A path of parts so long: "aaa/bbb/...". */
static char *path_of(char *out, const size_t *lengths, size_t n)
{
    char *p = out;
    for (size_t i = 0; i < n; i++) {
        if (i > 0) *p++ = '/';
        memset(p, 'a' + (int)i, lengths[i]);
        p += lengths[i];
    }
    *p = '\0';
    return out;
}

static void check_split(const size_t *lengths, size_t n, TarType type, bool splits)
{
    CLEANUP(buf_deinit) Buf out;
    TarOut tar;
    char path[TAR_PATH_MAX + 1];
    buf_init(&out, 1 << 20);
    tar_out_init(&tar, &out);
    add_other(&tar, type, path_of(path, lengths, n), "x");
    assert_int_equal(out.ptr[156] == 'x', !splits);
    if (!splits) return;
    CLEANUP(buf_deinit) Buf joined;
    buf_init(&joined, 1000);
    size_t prefix_len = strnlen(out.ptr + 345, 155);
    if (prefix_len > 0) {
        buf_add(&joined, str_make(out.ptr + 345, prefix_len));
        buf_add_char(&joined, '/');
    }
    buf_add(&joined, str_make(out.ptr, strnlen(out.ptr, 100)));
    if (type == TAR_DIR) assert_int_equal(joined.ptr[--joined.len], '/');
    assert_true(str_eq(buf_str(&joined), str_of(path)));
}

static void test_path_splits(void **state)
{
    (void)state;
    check_split((size_t[]){ 100 }, 1, TAR_SYMLINK, true);
    check_split((size_t[]){ 101 }, 1, TAR_SYMLINK, false);
    check_split((size_t[]){ 155, 100 }, 2, TAR_SYMLINK, true);
    check_split((size_t[]){ 155, 101 }, 2, TAR_SYMLINK, false);
    check_split((size_t[]){ 156, 100 }, 2, TAR_SYMLINK, false);
    check_split((size_t[]){ 1, 100 }, 2, TAR_SYMLINK, true);
    check_split((size_t[]){ 50, 50, 50, 100 }, 4, TAR_SYMLINK, true);
    check_split((size_t[]){ 77, 77, 50, 49 }, 4, TAR_SYMLINK, true);
    check_split((size_t[]){ 99 }, 1, TAR_DIR, true);
    check_split((size_t[]){ 100 }, 1, TAR_DIR, false); /* its slash is the 101st byte */
    check_split((size_t[]){ 155, 99 }, 2, TAR_DIR, true);
    check_split((size_t[]){ 155, 100 }, 2, TAR_DIR, false);
    check_split((size_t[]){ 150, 150, 150 }, 3, TAR_SYMLINK, false);
}

static void test_pax_header(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf out, want;
    TarOut tar;
    char path[300], link[200];
    memset(path, 'p', 200), path[200] = '\0';
    memset(link, 'l', 101), link[101] = '\0';
    buf_init(&out, 1 << 20);
    buf_init(&want, 1 << 20);
    tar_out_init(&tar, &out);
    add_other(&tar, TAR_SYMLINK, path, link);
    buf_printf(&want, "210 path=%s\n115 linkpath=%s\n", path, link);
    assert_int_equal(out.ptr[156], 'x');
    assert_memory_equal(out.ptr + 124, "00000000505", 11); /* 325 bytes */
    assert_memory_equal(out.ptr + 512, want.ptr, want.len);
    assert_int_equal(out.ptr[1024 + 156], '2');
    assert_int_equal(out.len, 3 * 512);
}

/* A record's length counts its own digits: at 99 and 100 bytes, and 999 and 1000. */
static void test_pax_record_lengths(void **state)
{
    (void)state;
    static const size_t path_lens[] = { 988, 989, 990, 991, 4096 };
    static const char *const starts[] = { "998 path=", "999 path=", "1001 path=", "1002 path=",
                                          "4107 path=" };
    for (size_t i = 0; i < ARRAY_N(path_lens); i++) {
        CLEANUP(buf_deinit) Buf out;
        TarOut tar;
        char path[TAR_PATH_MAX + 1];
        buf_init(&out, 1 << 20);
        tar_out_init(&tar, &out);
        memset(path, 'p', path_lens[i]);
        path[path_lens[i]] = '\0';
        add_other(&tar, TAR_SYMLINK, path, "x");
        assert_memory_equal(out.ptr + 512, starts[i], strlen(starts[i]));
        size_t n = strlen(starts[i]) + path_lens[i] + 1;
        assert_int_equal(out.ptr[512 + n - 1], '\n');
        assert_int_equal(strtoul(starts[i], NULL, 10), n);
    }
}

static void test_sizes(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf out;
    TarOut tar;
    TarEntry e = file("big");
    buf_init(&out, 1 << 20);
    tar_out_init(&tar, &out);
    e.bytes = (UINT64_C(1) << 33) - 1;
    assert_int_equal(tar_out_entry(&tar, &e), 0);
    assert_memory_equal(out.ptr + 124, "77777777777", 12);
    buf_clear(&out);
    tar_out_init(&tar, &out);
    e.bytes++;
    assert_int_equal(tar_out_entry(&tar, &e), 0);
    assert_string_equal(out.ptr + 512, "19 size=8589934592\n");
    assert_memory_equal(out.ptr + 1024 + 124, "00000000000", 12);
}

/* --- use -------------------------------------------------------------------------------------- */

static void test_contents_in_parts(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf out;
    TarOut tar;
    TarEntry e = file("a");
    buf_init(&out, 1 << 20);
    tar_out_init(&tar, &out);
    e.bytes = 1000;
    assert_int_equal(tar_out_entry(&tar, &e), 0);
    for (int i = 0; i < 99; i++) assert_int_equal(tar_out_data(&tar, STR("0123456789")), 0);
    assert_int_equal(tar_out_data(&tar, STR_NULL), 0);
    assert_int_equal(tar_out_data(&tar, STR("0123456789x")), -EINVAL); /* more than it has */
    e = file("b");
    assert_int_equal(tar_out_entry(&tar, &e), -EINVAL); /* less */
    assert_int_equal(tar_out_end(&tar), -EINVAL);
    assert_int_equal(tar_out_data(&tar, STR("0123456789")), 0);
    assert_int_equal(out.len, 512 + 1024);
    assert_int_equal(tar_out_entry(&tar, &e), 0);
    assert_int_equal(tar_out_end(&tar), 0);
}

/* The Buf may be emptied between calls. */
static void test_streaming(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf whole, piece, all;
    TarOut a, b;
    buf_init(&whole, 1 << 20);
    buf_init(&piece, 2048);
    buf_init(&all, 1 << 20);
    tar_out_init(&a, &whole);
    tar_out_init(&b, &piece);
    for (int i = 0; i < 26; i++) {
        char name[] = { (char)('a' + i), '\0' };
        add_file(&a, name, 0644, "contents");
        add_file(&b, name, 0644, "contents");
        buf_add(&all, buf_str(&piece));
        buf_clear(&piece);
    }
    assert_true(str_eq(buf_str(&whole), buf_str(&all)));
}

static void test_order(void **state)
{
    (void)state;
    static const char *const after_b[] = { "a", "b", "B", "a/z" };
    for (size_t i = 0; i < ARRAY_N(after_b); i++) {
        CLEANUP(buf_deinit) Buf out;
        TarOut tar;
        TarEntry e = file(after_b[i]);
        buf_init(&out, 1 << 20);
        tar_out_init(&tar, &out);
        add_file(&tar, "b", 0644, "");
        assert_int_equal(tar_out_entry(&tar, &e), -EINVAL);
        assert_non_null(strstr(diag_text(), "out of order"));
        assert_int_equal(out.len, 512);
    }
}

static void test_output_full(void **state)
{
    (void)state;
    for (size_t max = 0; max < 2048; max += 100) {
        CLEANUP(buf_deinit) Buf out;
        TarOut tar;
        TarEntry e = file("a");
        buf_init(&out, max);
        tar_out_init(&tar, &out);
        int r = tar_out_file(&tar, &e, STR("x"));
        assert_int_equal(r, max < 1024 ? -ENOMEM : 0);
        if (r == 0) assert_int_equal(tar_out_end(&tar), -ENOMEM);
    }
}

/* --- rules ------------------------------------------------------------------------------------ */

static void test_path_check(void **state)
{
    (void)state;
    static const char *const good[] = { "a",   "a/b", "...",  "a..b",     ".hidden", "a/.b/..c",
                                        "a b", "-",   "a\\b", "\xc3\xa9", "C:" };
    static const char *const bad[] = { "",    "/",    "/a",  "a/",   "a//b",   ".",     "..",
                                       "./a", "../a", "a/.", "a/..", "a/../b", "a/./b", "//" };
    for (size_t i = 0; i < ARRAY_N(good); i++) assert_int_equal(tar_path_check(str_of(good[i])), 0);
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        assert_int_equal(tar_path_check(str_of(bad[i])), -EINVAL);
    assert_int_equal(tar_path_check(STR("a\0b")), -EINVAL);
    char path[TAR_PATH_MAX + 2];
    memset(path, 'a', sizeof path);
    assert_int_equal(tar_path_check(str_make(path, TAR_PATH_MAX)), 0);
    assert_int_equal(tar_path_check(str_make(path, TAR_PATH_MAX + 1)), -EINVAL);
    for (size_t i = 1; i < sizeof path; i += 2) path[i] = '/';
    assert_int_equal(tar_path_check(str_make(path, 2 * TAR_DEPTH_MAX - 1)), 0);
    assert_int_equal(tar_path_check(str_make(path, 2 * TAR_DEPTH_MAX + 1)), -EINVAL);
}

static void test_link_check(void **state)
{
    (void)state;
    static const struct {
        const char *path, *link;
        bool good;
    } links[] = {
        { "l", "a", true },           { "l", "a/b", true },
        { "l", ".", true },           { "l", "./a", true },
        { "l", "..", false },         { "l", "../a", false },
        { "l", "a/..", false },       { "l", "a/../b", false },
        { "d/l", "..", true },        { "d/l", "../a", true },
        { "d/l", "./../a", true },    { "d/l", "../..", false },
        { "d/l", ".././..", false },  { "d/l", "../a/..", false },
        { "d/e/l", "../../a", true }, { "d/e/l", "../../../a", false },
        { "l", "/", false },          { "l", "/etc/passwd", false },
        { "l", "", false },
    };
    for (size_t i = 0; i < ARRAY_N(links); i++)
        assert_int_equal(tar_link_check(str_of(links[i].path), str_of(links[i].link)),
                         links[i].good ? 0 : -EINVAL);
    assert_int_equal(tar_link_check(STR("l"), STR("a\0b")), -EINVAL);
}

static void test_writer_applies_the_rules(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf out;
    TarOut tar;
    TarEntry e = file("../a"), l = { .path = STR("l"), .link = STR("/x"), .type = TAR_SYMLINK };
    buf_init(&out, 1 << 20);
    tar_out_init(&tar, &out);
    assert_int_equal(tar_out_entry(&tar, &e), -EINVAL);
    assert_int_equal(tar_out_entry(&tar, &l), -EINVAL);
    assert_int_equal(out.len, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_digest),   cmocka_unit_test(test_header),
        cmocka_unit_test(test_modes_and_types), cmocka_unit_test(test_path_splits),
        cmocka_unit_test(test_pax_header),      cmocka_unit_test(test_pax_record_lengths),
        cmocka_unit_test(test_sizes),           cmocka_unit_test(test_contents_in_parts),
        cmocka_unit_test(test_streaming),       cmocka_unit_test(test_order),
        cmocka_unit_test(test_output_full),     cmocka_unit_test(test_path_check),
        cmocka_unit_test(test_link_check),      cmocka_unit_test(test_writer_applies_the_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
