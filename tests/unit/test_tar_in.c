#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "base/diag.h"
#include "codec/base64.h"
#include "codec/gzip.h"
#include "codec/tar.h"
#include "tests/unit/random.h"

/* --- making archives, wrong ones too ---------------------------------------------------------- */

typedef struct {
    const char *path, *prefix, *link, *contents;
    char type;         /* 0: '0' */
    const char *magic; /* NULL: POSIX's */
    const char *size;  /* NULL: of contents */
    bool bad_checksum;
} Raw;

static void raw_add(Buf *out, const Raw *raw)
{
    char h[512] = { 0 };
    size_t n = raw->contents ? strlen(raw->contents) : 0;
    str_copy(h, 101, str_of(raw->path)); /* the NUL may fall on the next field */
    memcpy(h + 100, "0000644\0000000000\0000000000", 24);
    snprintf(h + 124, 12, "%011o", (unsigned)(n & 0x1fffffff));
    if (raw->size) memcpy(h + 124, raw->size, 12);
    memcpy(h + 136, "00000000000", 12);
    memset(h + 148, ' ', 8);
    h[156] = raw->type ? raw->type : '0';
    if (raw->link) str_copy(h + 157, 101, str_of(raw->link));
    memcpy(h + 257, raw->magic ? raw->magic : "ustar\00000", 8);
    if (raw->prefix) str_copy(h + 345, 156, str_of(raw->prefix));
    unsigned sum = raw->bad_checksum;
    for (size_t i = 0; i < 512; i++) sum += (unsigned char)h[i];
    snprintf(h + 148, 7, "%06o", sum);
    assert_true(buf_add(out, str_make(h, 512)));
    buf_add(out, str_make(raw->contents, n));
    while (out->len % 512) buf_add_char(out, '\0');
}

static void zeros_add(Buf *out, size_t n)
{
    while (n-- > 0) assert_true(buf_add_char(out, '\0'));
}

/* --- reading, into a line an entry ------------------------------------------------------------ */

typedef struct {
    Buf seen;
    uint64_t left; /* of the contents announced */
    int answer;    /* of the handler */
} Seen;

static int on_entry(void *context, const TarEntry *e)
{
    Seen *s = context;
    assert_int_equal(s->left, 0);
    s->left = e->bytes;
    buf_printf(&s->seen, "\n%c %03o %.*s%s%.*s ", "fdl"[e->type], e -> mode, STR_ARG(e->path),
               e -> link.len ? " -> " : "", STR_ARG(e->link));
    return s->answer;
}

static int on_data(void *context, Str chunk)
{
    Seen *s = context;
    assert_true(chunk.len > 0 && chunk.len <= s->left);
    s->left -= chunk.len;
    buf_add(&s->seen, chunk);
    return s->answer;
}

static int read_limited(Str archive, size_t step, const TarLimits *limits, Seen *seen)
{
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(tar_in_freep) TarIn *tar = NULL;
    TarHandler handler = { seen, on_entry, on_data };
    arena_init(&arena, 1 << 20);
    buf_clear(&seen->seen);
    buf_add(&seen->seen, STR("")); /* not NULL */
    seen->left = 0;
    tar = tar_in_new(&arena, limits, &handler, 42);
    assert_non_null(tar);
    diag_clear();
    int r = 0;
    for (size_t at = 0; at < archive.len && r == 0; at += step)
        r = tar_in_feed(tar, str_sub(archive, at, step));
    if (r != 0) {
        assert_int_equal(tar_in_feed(tar, STR("x")), r); /* only repeats it */
        assert_int_equal(tar_in_end(tar), r);
        return r;
    }
    return tar_in_end(tar);
}

static int read_all(Str archive, Seen *seen)
{
    return read_limited(archive, SIZE_MAX / 2, NULL, seen);
}

static void seen_init(Seen *seen)
{
    *seen = (Seen){ .answer = 0 };
    buf_init(&seen->seen, 1 << 20);
}

static void seen_deinit(Seen *seen)
{
    buf_deinit(&seen->seen);
}

/* What an archive of these entries, ended properly, reads as. */
static void check_reads(const Raw *raws, size_t n, const char *want)
{
    CLEANUP(buf_deinit) Buf archive;
    CLEANUP(seen_deinit) Seen seen;
    seen_init(&seen);
    buf_init(&archive, 1 << 20);
    for (size_t i = 0; i < n; i++) raw_add(&archive, &raws[i]);
    zeros_add(&archive, 1024);
    int r = read_all(buf_str(&archive), &seen);
    if (r < 0) print_error("%s\n", diag_text());
    assert_int_equal(r, 0);
    assert_string_equal(seen.seen.ptr, want);
}

static void check_refused(const Raw *raws, size_t n, const char *why)
{
    CLEANUP(buf_deinit) Buf archive;
    CLEANUP(seen_deinit) Seen seen;
    seen_init(&seen);
    buf_init(&archive, 1 << 20);
    for (size_t i = 0; i < n; i++) raw_add(&archive, &raws[i]);
    zeros_add(&archive, 1024);
    assert_int_equal(read_all(buf_str(&archive), &seen), -EINVAL);
    if (!strstr(diag_text(), why)) print_error("got  %s\nwant %s\n", diag_text(), why);
    assert_non_null(strstr(diag_text(), why));
}

#define READS(want, ...)                                                                          \
    check_reads((const Raw[]){ __VA_ARGS__ }, sizeof((const Raw[]){ __VA_ARGS__ }) / sizeof(Raw), \
                want)
#define REFUSED(why, ...)                       \
    check_refused((const Raw[]){ __VA_ARGS__ }, \
                  sizeof((const Raw[]){ __VA_ARGS__ }) / sizeof(Raw), why)

/* --- archives of other programs: the same tree by each ---------------------------------------- */

static const char fixture_gnu[] =
    "H4sIAAAAAAAAA+3a3W6CMBQHcK73FCy77ydtk13tfr4Ei0zNJhrFRN9+hW0XyCZjrC2u/98NBk0oHM7poUho4hyzjFLN"
    "1jrfNp+5koxplTEp7X5jOEtS5X5oSXLYV/kuTZPdZlNd+l3f91eK0N2hJPuly2P0xp+Ldvw5Z1mWpMzloD5FHv+7W/q0"
    "Kul+eRN6JBACoYQ+zDblYrYqXxwdo05xbRP6u/wXkrfmApv/ypgknTkaT0vk+U9oOUmhr0ssfMS/L/87/Z/MjMT87wWh"
    "xXpbnZw+BQzu/+v+T6P/94HQ+Qg/u20Gx19IlRnE34cp9H/cqPP+TzON/s+HkflfjOBh5Qn6+Ij/4PovZb0L9d+DKdR/"
    "YUS3/meo/z6ErP/PI2Dy+Buo/7Hnf/j6L7+q/wr134errf+LEUh1/I+x/A1f9f/y+q86q//CGIX1Xx/mRbHFq994Efrq"
    "buL/0PR/xgxY/xfN+q/IF0VZkVO+fnU3uMjzn1D3F7m3/vPO+x+tOeq/D2W+Lu7TI6aASE3h+Y+bzv9/NLP5/+hoPC2R"
    "5/8ykNDnDe9s/2eT320POLj/k8qwuv/zcSNGnv8AAAAAAAAAAAAAAAAAAABw/d4AX6E14gBQAAA=";
static const char fixture_pax[] =
    "H4sIAAAAAAAAA+2bXZOaMBSGvd5fYaf3IScn4aMze9/L/gVaqTpd0FF2xv33DWw/AEUEzGEdznOjDjIBw/uEk6DwvsWn"
    "r0m8Sg5HTyycIC2+1uWrpfkqAdUCDNovGS0RFxIkGrlYntwcTp3XYx4f7KFQtPUBQblM822aPEMQGQxBBUZo36Dvywif"
    "7Nb4bGsYSqnABMXWH+37Tn1mzC0Iz30bRcYDY1rzX7yv5x8U2Pwb94f2P/+H3S6/9r2u7c2TexBE1f+H10wcN3dvo7//"
    "QSP7nwT2/7wRrkJfodP/0My/QquLJUkmZ+7/z5+879vMO244r7OkNv5nbuga/zHQ9fwjyiL/PP67B3y13Mf55lm46v2R"
    "PA24Q6lu5TuUq1B0e1f+z+o/9O0NAI//FNT8n6T7/O3+bQyo/9AA+58Crv/mjXgPvdNZwM7672z+z+rf5/k/Cmr+X43g"
    "Shu9/a+0NIr9T8FF/5so1D5Eaoj//+079ZkxtyBGhf62YaO3/5WROmD/UzCy/6vFQytd/kfdrP+grP/Y/+4B1H/nf0Zd"
    "CO293413eY6HRyECKLq9t/9R2w/sfwqo+v+a/zWapv+R5/9pgMhM7/+fI+DBYxTsf/Y/Rf9f87+55H/D/qdAmejB/b8e"
    "gchPedsCswqNvRiHLYH82Xfqzr2Bj5B/a4Cm/+3vyOu/FKySZP8I1ynjhtr6z8s2++Wgja78X1j/B/7/Dw28/j9vhKvQ"
    "VyjrvyDosf6vy/UfFa+TLBdvcfri7uBmPv7X/O/o9+7vf6V4/Z+GNv+jAn+o/9/3nfrMmFsQrkJfobP+g6b/EXzg+o+C"
    "LE6TL8sTp3Wm1Ou/XbZ2cDvYlf+z5z9ASeTnv0konv8ourycA95MxJD/+HAVeheEq9BX6F3/YaBkUf9RXHszH/8ZhmEY"
    "hpkfvwHw94BOAFAAAA==";
static const char fixture_py[] =
    "H4sICBtYA2sC/3B5LnRnegDtmstuwjAQRbPOV6TqPrE9fkAlpC677C+kwgVUEhAECf6+AVS1JUBBqZ1S37MhAiQvknvG"
    "nkmapdnjc75+svnQLiInsD2nPhkj+Xm9/Z4zwUWUrCMPrJZVvqiXj8JE9JKimhR2wE1fUY8Lo1LNqCc1xRH496SZ+zW2"
    "oTZKnc5/fc0VMaaV3LvAGMWjRPnM/2I2q87976ffb/b+w//w/3f/S62IBPwfhv/zkS2rdJMXU5f+11Kezj//6n+q88+N"
    "qP3PfOY/UP+XeWEfkjWyHmz+Uf9R/w/qv+rj/BdM/octyC7O/+Xnv7r+C9LM4PwXiv+FFE3/E/zvA04ymefVeNBSBLYF"
    "WYwqdKP+v+j+Xu1/IiYZ/B+K/4lMw/+Cwf9e/N9X3fv/tQUoHvA//H/T/pek4f+u+j+qf+P+H7UgrdZVLMzREZjoqRj+"
    "/y3/n53/MNXwPynMf3wwtHaOXVLI+z/MfzD/ab7/oTWHFoLIvy3m1cbpW4BXn/8450zj/Af/w//wP3Cb/+mkfHO7xs7/"
    "xlzhf7Gb/wv3rybC/5j/Bz//3xpg1wMcd0SMKtSh/2flyG0NuNr/pIzc+t/Hswf/d+9/c2T+g/2/H/9r8TH/Kf8kqA2O"
    "8+/+Fv48/zn0vzRGYv6D/g/8j/4PcJv/xapMl2Pn/Z9z/f867I3+P/zvhfu77GVSZssx0g4AAAAAEATvXgOAzABQAAA=";
static const char fixture_ustar[] =
    "H4sIAAAAAAAAA+3X2YrCMBgF4Fz7FBXv7Z+tAd8mg3VBG6UL6NubKQMDBZcao9Se7yYXDSQ/h0OJXeeunp9tsWfRkJcp"
    "1a5edyXixLiWfpNWJCUjLkkollC8K/1rqtqW/irl4VDf2nfve3e4gXC2yBfJafLpe8BnLAOkD57x2wej9fX+U6f/Qhku"
    "WKKjTv5n5P3PA0TLX5HOsoHnH1Ks10540ypAtPy1yrgecf5pSCv7jZ8Xx/r8aJBP6p0/F4Lzgec/EPut28U+o83fmB75"
    "y/b/L+wbHicjz79s3LzaxD3jbv992N3+k8H77x1m0/Rn69JqgxcgAAAAAAAAAAAAAMDXuAABjfSSACgAAA==";
static const char fixture_git[] =
    "H4sIAAAAAAAAA+3Yy47aMBQG4Kz7FFTdgy/Hl1SaZxnZsQOjQkCQkejb12S6ChoKExyK8n+bCILkJOa3z8nOHV+X6613"
    "69dVdCHui/tjida6Oyb9YzpJBVcyHRUZY9L3nNLHYpnhWs68H1q3T0Put9v20u/+db5/c09CiVm13Wxi077o4Mj4Wrv0"
    "9KOpeKyilZYZH3TFrKHSsqq0JX179DXD/bhlmvr5b7dZ5xvjI+L0ef456+dfMpLFKCGaeP4bt4k/Z0dkeqLCAIsrxzjl"
    "wSj1ef5ZP/+CjOSFynrnf008/3GAfPNPTDP13PM/JFj3vcOL6gHyzb8iLWm6878Yksrbbp+q4IXQKkgmGPl4evJeWm7I"
    "i2ij4aa0gpia79zxqw1iV/9d6P+I8f76nypAUxxvH+p2E1//hTKznWtXLw/7vy4GLUHLAebtsZ164Xt1/oNr3RfH6PJ/"
    "qf9Le32v/9PGoP8bQ4hxN/UMTNn6rfmVe4yu/utyfW39l3b/1P+JMV5OTTz/VBvBhec8eOVsXTPLpYylZqYsjbNennaC"
    "oOuc9Z9g+qz+kwb13xi4pNlpDehqwNWDYAN6mPW2WebeA25f/4VQyhTiEOMs9wI18fxHXYYoSu9F4EGTJG+9KF00Rrlg"
    "KxHJVkqWPOv6T2fzz7QgrP8j4Jp99P/Nfwk7Q2ZX5z9r/39W/xtSAv3/CPbvzfywyjtGt/9fev/PRX/+hRAa8z+CH98X"
    "/q1ZHFCDAwAAAAAAAAAAAAAAAAAAAAAAAAA8hz/ClQsmAFAAAA==";

static void check_fixture(const char *base64, bool with_long_names, bool with_empty_dir)
{
    CLEANUP(buf_deinit) Buf packed, archive;
    CLEANUP(seen_deinit) Seen seen;
    size_t n;
    seen_init(&seen);
    buf_init(&packed, 1 << 16);
    buf_init(&archive, 1 << 20);
    char *room = buf_reserve(&packed, BASE64_BYTES_MAX(strlen(base64)));
    assert_int_equal(base64_decode(str_of(base64), room, &n), 0);
    buf_added(&packed, n);
    assert_int_equal(gzip_decompress(buf_str(&packed), &archive), 0);
    assert_int_equal(read_all(buf_str(&archive), &seen), 0);
    assert_non_null(strstr(seen.seen.ptr, "\nf 644 agent.yaml name: x\n"));
    assert_non_null(strstr(seen.seen.ptr, "\nf 755 run.sh #!/bin/sh\n"));
    assert_non_null(strstr(seen.seen.ptr, "\nl 777 link -> agent.yaml "));
    assert_int_equal(strstr(seen.seen.ptr, "\nd 755 empty ") != NULL, with_empty_dir);
    if (!with_long_names) return;
    char parts[5][151], want[1000];
    static const size_t lengths[] = { 60, 60, 60, 60, 150 };
    for (size_t i = 0; i < 5; i++) {
        memset(parts[i], "defgn"[i], lengths[i]);
        parts[i][lengths[i]] = '\0';
    }
    snprintf(want, sizeof want, "\nf 644 %s/%s/%s/%s.txt deep\n", parts[0], parts[1], parts[2],
             parts[3]);
    assert_non_null(strstr(seen.seen.ptr, want));
    snprintf(want, sizeof want, "\nf 644 %s ", parts[4]);
    assert_non_null(strstr(seen.seen.ptr, want));
    memset(parts[0], 'h', 120), parts[0][120] = '\0';
    snprintf(want, sizeof want, "\nl 777 longlink -> %s ", parts[0]);
    assert_non_null(strstr(seen.seen.ptr, want));
}

static void test_archives_of_other_programs(void **state)
{
    (void)state;
    check_fixture(fixture_gnu, true, true);  /* tar --format=gnu . */
    check_fixture(fixture_pax, true, true);  /* tar --format=pax . */
    check_fixture(fixture_py, true, true);   /* Python's tarfile */
    check_fixture(fixture_git, true, false); /* git archive: a global header */
    check_fixture(fixture_ustar, false, true);
}

/* --- what is read ----------------------------------------------------------------------------- */

static void test_entries(void **state)
{
    (void)state;
    READS("\nf 644 a hello\nd 644 d \nl 644 d/l -> ../a ", { "a", .contents = "hello" },
          { "d/", .type = '5' }, { "d/l", .type = '2', .link = "../a" });
    READS("", { "./", .type = '5' });
    READS("\nf 644 a \nf 644 b/c ", { "./", .type = '5' }, { "./a" }, { "././b/c" });
    READS("\nd 644 d ", { "./d/", .type = '5' });
    READS("\nf 644 pre/fix/name ", { "name", .prefix = "pre/fix" });
    READS("\nf 644 name ", { "name", .prefix = "123", .magic = "ustar  " }); /* times, in GNU's */
    READS("\nd 644 d \nf 644 d/a ", { "d", .type = '5' }, { "d/a" });
    READS("\nf 644 d/a \nd 644 d ", { "d/a" }, { "d/", .type = '5' }); /* after it was implied */
}

static void test_extensions(void **state)
{
    (void)state;
    READS("\nf 644 long ok", { "x", .type = 'x', .contents = "13 path=long\n" },
          { "short", .contents = "ok" });
    READS("\nf 644 a \nf 644 b ", { "x", .type = 'x', .contents = "10 path=a\n" }, { "1" },
          { "b" });
    READS("\nl 644 l -> to ", { "x", .type = 'x', .contents = "15 linkpath=to\n" },
          { "l", .type = '2', .link = "from" });
    READS("\nf 644 a 123", { "x", .type = 'x', .contents = "30 mtime=1767323045.123456789\n" },
          { "a", .contents = "123" });
    READS("\nf 644 a 123", { "x", .type = 'x', .contents = "10 size=3\n" },
          { "a", .contents = "123", .size = "00000000000" });
    READS("\nf 644 a ", { "x", .type = 'g', .contents = "16 comment=hash\n" }, { "a" });
    READS("\nf 644 a ", { "x", .type = 'x' }, { "a" }); /* says nothing */
    READS("\nf 644 long ", { "././@LongLink", .type = 'L', .contents = "long", .magic = "ustar  " },
          { "short", .magic = "ustar  " });
    READS("\nl 644 l -> to ", { "././@LongLink", .type = 'K', .contents = "to" },
          { "l", .type = '2', .link = "from" });
}

/* Fed in pieces of any size, an archive reads the same. */
static void test_any_pieces(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf archive;
    CLEANUP(seen_deinit) Seen whole, pieces;
    seen_init(&whole);
    seen_init(&pieces);
    buf_init(&archive, 1 << 20);
    raw_add(&archive, &(Raw){ "x", .type = 'x', .contents = "13 path=long\n" });
    raw_add(&archive, &(Raw){ "a", .contents = "contents of a" });
    raw_add(&archive, &(Raw){ "b" });
    raw_add(&archive, &(Raw){ "c", .contents = "c" });
    zeros_add(&archive, 10240 - archive.len % 10240);
    assert_int_equal(read_all(buf_str(&archive), &whole), 0);
    static const size_t steps[] = { 1, 2, 3, 7, 511, 512, 513, 1000, 1024, 5000 };
    for (size_t i = 0; i < ARRAY_N(steps); i++) {
        assert_int_equal(read_limited(buf_str(&archive), steps[i], NULL, &pieces), 0);
        assert_string_equal(whole.seen.ptr, pieces.seen.ptr);
    }
}

/* What the writer writes, the reader reads. */
static void test_reads_our_own(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf out;
    CLEANUP(seen_deinit) Seen seen;
    TarOut tar;
    char deep[400], want[1000];
    memset(deep, 'd', 399), deep[399] = '\0';
    for (size_t i = 50; i < 399; i += 51) deep[i] = '/';
    seen_init(&seen);
    buf_init(&out, 1 << 20);
    tar_out_init(&tar, &out);
    TarEntry entries[] = { { .path = STR("a"), .mode = 0100 },
                           { .path = STR("b"), .type = TAR_DIR },
                           { .path = STR("b/l"), .type = TAR_SYMLINK, .link = STR("../a") },
                           { .path = str_of(deep) } };
    assert_int_equal(tar_out_file(&tar, &entries[0], STR("run")), 0);
    assert_int_equal(tar_out_entry(&tar, &entries[1]), 0);
    assert_int_equal(tar_out_entry(&tar, &entries[2]), 0);
    assert_int_equal(tar_out_file(&tar, &entries[3], STR("deep")), 0);
    assert_int_equal(tar_out_end(&tar), 0);
    assert_int_equal(read_all(buf_str(&out), &seen), 0);
    snprintf(want, sizeof want, "\nf 755 a run\nd 755 b \nl 755 b/l -> ../a \nf 644 %s deep", deep);
    assert_string_equal(seen.seen.ptr, want);
}

/* --- what is refused -------------------------------------------------------------------------- */

static void test_paths_refused(void **state)
{
    (void)state;
    REFUSED("is absolute", { "/etc/passwd" });
    REFUSED("is absolute", { "/", .type = '5' });
    REFUSED("contains . or ..", { "../a" });
    REFUSED("contains . or ..", { "./../a" });
    REFUSED("contains . or ..", { "a/../../b" });
    REFUSED("contains . or ..", { "a/./b" });
    REFUSED("contains . or ..", { "..", .type = '5' });
    REFUSED("contains . or ..", { "../", .type = '5' });
    REFUSED("is empty", { "" });
    REFUSED("is empty", { "", .type = '5' });
    REFUSED("is empty", { "./" });
    REFUSED("empty part", { "a//b" });
    REFUSED("empty part", { "a/" });
    REFUSED("empty part", { "a//", .type = '5' });
    REFUSED("is absolute", { "a", .prefix = "/etc" });
    REFUSED("is absolute", { "x", .type = 'x', .contents = "11 path=/a\n" }, { "a" });
    REFUSED("contains . or ..", { "x", .type = 'L', .contents = "../a" }, { "a" });
    REFUSED("is empty", { "x", .type = 'x', .contents = "8 path=\n" }, { "a" });
    REFUSED("is empty", { "x", .type = 'L' }, { "a" });
}

static void test_nul_in_extensions(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf archive;
    CLEANUP(seen_deinit) Seen seen;
    seen_init(&seen);
    buf_init(&archive, 1 << 20);
    raw_add(&archive, &(Raw){ "x", .type = 'L', .contents = "a#../b" });
    *strchr(archive.ptr + 512, '#') = '\0';
    raw_add(&archive, &(Raw){ "short" });
    zeros_add(&archive, 1024);
    assert_int_equal(read_all(buf_str(&archive), &seen), -EINVAL);
    assert_non_null(strstr(diag_text(), "NUL"));
}

static void test_types_refused(void **state)
{
    (void)state;
    REFUSED("hard link", { "a" }, { "b", .type = '1', .link = "a" });
    REFUSED("device or fifo", { "a", .type = '3' });
    REFUSED("device or fifo", { "a", .type = '4' });
    REFUSED("device or fifo", { "a", .type = '6' });
    REFUSED("unknown type", { "a", .type = '7' });
    REFUSED("unknown type", { "a", .type = 'S' });
    REFUSED("unknown type", { "a", .type = 'V' });
    REFUSED("unknown type", { "a", .type = 'M' });
    REFUSED("sparse", { "x", .type = 'x', .contents = "22 GNU.sparse.major=1\n" }, { "a" });
    REFUSED("cannot have contents", { "d", .type = '5', .contents = "x" });
    REFUSED("cannot have contents", { "l", .type = '2', .link = "a", .contents = "x" });
}

static void test_links_refused(void **state)
{
    (void)state;
    REFUSED("absolute path", { "l", .type = '2', .link = "/etc/passwd" });
    REFUSED("leaves the tree", { "l", .type = '2', .link = ".." });
    REFUSED("leaves the tree", { "d/l", .type = '2', .link = "../../x" });
    REFUSED("behind a name", { "l", .type = '2', .link = "d/../x" });
    REFUSED("malformed target", { "l", .type = '2' });
    REFUSED("leaves the tree", { "x", .type = 'x', .contents = "15 linkpath=..\n" },
            { "l", .type = '2', .link = "a" });
    /* a link that is used as a directory would be a way out */
    REFUSED("not a directory", { "d/l", .type = '2', .link = ".." }, { "d/l/x" });
    REFUSED("not a directory", { "l", .type = '2', .link = "." },
            { "l/l/l", .type = '2', .link = "../.." });
    REFUSED("comes twice", { "l/x" }, { "l", .type = '2', .link = "d" });
}

static void test_conflicts_refused(void **state)
{
    (void)state;
    REFUSED("comes twice", { "a" }, { "a" });
    REFUSED("comes twice", { "a" }, { "./a" });
    REFUSED("comes twice", { "d", .type = '5' }, { "d/", .type = '5' });
    REFUSED("comes twice", { "d", .type = '5' }, { "d" });
    REFUSED("comes twice", { "d/a" }, { "d" });
    REFUSED("comes twice", { "d/a" }, { "d/", .type = '5' }, { "d/", .type = '5' });
    REFUSED("not a directory", { "a" }, { "a/b" });
    REFUSED("not a directory", { "a" }, { "a/b/c/d" });
    REFUSED("comes twice", { "x", .type = 'x', .contents = "10 path=a\n" }, { "b" }, { "a" });
}

static void test_headers_refused(void **state)
{
    (void)state;
    REFUSED("checksum", { "a", .bad_checksum = true });
    REFUSED("format", { "a", .magic = "\0\0\0\0\0\0\0" });
    REFUSED("format", { "a", .magic = "ustar\00001" });
    REFUSED("format", { "a", .magic = "ustar 00" });
    REFUSED("malformed number", { "a", .size = "99999999999" });
    REFUSED("malformed number", { "a", .size = "           " });
    REFUSED("malformed number", { "a", .size = "-0000000001" });
    REFUSED("malformed number", { "a", .size = "\x80\0\0\0\0\0\0\0\0\0\0\1" }); /* GNU's binary */
    REFUSED("malformed number", { "a", .size = "0000x000000" });
}

static void test_pax_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "x",       "5",        "5 a=b",       "6 a=b",       "7 a=b\n",
        "0 a=b\n", "-6 a=b\n", " 6 a=b\n",    "6  a=b",      "5 ab\n",
        "4 =\n",   "6 a=bx",   "6 a=b\n7 c=", "6 a=b\nrest", "99999999999999999999999999 a=b\n",
    };
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        REFUSED("malformed pax header", { "x", .type = 'x', .contents = bad[i] }, { "a" });
    REFUSED("malformed size", { "x", .type = 'x', .contents = "11 size=-1\n" }, { "a" });
    REFUSED("malformed size", { "x", .type = 'x', .contents = "11 size=1k\n" }, { "a" });
    REFUSED("one path or size", { "x", .type = 'g', .contents = "10 path=a\n" }, { "a" });
    REFUSED("one path or size", { "x", .type = 'g', .contents = "10 size=0\n" }, { "a" });
    REFUSED("ends behind a pax header", { "a" }, { "x", .type = 'x', .contents = "10 path=a\n" });
    REFUSED("too long", { "x", .type = 'x', .size = "00000200001" });
    REFUSED("too long", { "x", .type = 'L', .size = "00000200001" });
}

static void test_paths_too_long(void **state)
{
    (void)state;
    char text[TAR_PATH_MAX + 100], path[TAR_PATH_MAX + 2];
    CLEANUP(buf_deinit) Buf archive;
    CLEANUP(seen_deinit) Seen seen;
    seen_init(&seen);
    buf_init(&archive, 1 << 20);
    memset(path, 'p', sizeof path);
    snprintf(text, sizeof text, "4107 path=%.*s\n", TAR_PATH_MAX, path);
    raw_add(&archive, &(Raw){ "x", .type = 'x', .contents = text });
    raw_add(&archive, &(Raw){ "a" });
    zeros_add(&archive, 1024);
    assert_int_equal(read_all(buf_str(&archive), &seen), 0);
    snprintf(text, sizeof text, "4108 path=%.*s\n", TAR_PATH_MAX + 1, path);
    REFUSED("too long", { "x", .type = 'x', .contents = text }, { "a" });
    REFUSED("too long", { "x", .type = 'L', .contents = text }, { "a" });
}

/* --- the end ---------------------------------------------------------------------------------- */

static void test_every_truncation(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf archive;
    CLEANUP(seen_deinit) Seen seen;
    seen_init(&seen);
    buf_init(&archive, 1 << 20);
    raw_add(&archive, &(Raw){ "x", .type = 'x', .contents = "13 path=long\n" });
    raw_add(&archive, &(Raw){ "a", .contents = "contents" });
    zeros_add(&archive, 1024);
    for (size_t n = 0; n < archive.len; n++) {
        assert_int_equal(read_all(str_sub(buf_str(&archive), 0, n), &seen), -EINVAL);
        assert_non_null(strstr(diag_text(), "cut short"));
    }
    assert_int_equal(read_all(buf_str(&archive), &seen), 0);
}

static void test_after_the_end(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf archive;
    CLEANUP(seen_deinit) Seen seen;
    seen_init(&seen);
    buf_init(&archive, 1 << 20);
    zeros_add(&archive, 1024);
    assert_int_equal(read_all(buf_str(&archive), &seen), 0); /* nothing in it */
    zeros_add(&archive, 9216);
    assert_int_equal(read_all(buf_str(&archive), &seen), 0); /* a record of tar(1)'s */
    archive.ptr[10239] = 'x';
    assert_int_equal(read_all(buf_str(&archive), &seen), -EINVAL);
    archive.ptr[10239] = '\0';
    raw_add(&archive, &(Raw){ "a" });
    assert_int_equal(read_all(buf_str(&archive), &seen), -EINVAL);
    assert_non_null(strstr(diag_text(), "behind its end"));
}

static void test_one_zero_block_is_no_end(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf archive;
    CLEANUP(seen_deinit) Seen seen;
    seen_init(&seen);
    buf_init(&archive, 1 << 20);
    zeros_add(&archive, 512);
    raw_add(&archive, &(Raw){ "a" });
    zeros_add(&archive, 1024);
    assert_int_equal(read_all(buf_str(&archive), &seen), -EINVAL);
}

/* --- limits ----------------------------------------------------------------------------------- */

static int read_with(const Raw *raws, size_t n, TarLimits limits)
{
    CLEANUP(buf_deinit) Buf archive;
    CLEANUP(seen_deinit) Seen seen;
    seen_init(&seen);
    buf_init(&archive, 1 << 20);
    for (size_t i = 0; i < n; i++) raw_add(&archive, &raws[i]);
    zeros_add(&archive, 1024);
    return read_limited(buf_str(&archive), SIZE_MAX / 2, &limits, &seen);
}

static void test_limits(void **state)
{
    (void)state;
    const Raw raws[] = { { "a", .contents = "12345" }, { "d/e/b", .contents = "1234" } };
    assert_int_equal(read_with(raws, 2, (TarLimits){ 4, 9, 5 }), 0); /* d and d/e count */
    assert_int_equal(read_with(raws, 2, (TarLimits){ 3, 9, 5 }), -E2BIG);
    assert_non_null(strstr(diag_text(), "over 3 entries"));
    assert_int_equal(read_with(raws, 2, (TarLimits){ 4, 8, 5 }), -EFBIG);
    assert_non_null(strstr(diag_text(), "over 8 bytes"));
    assert_int_equal(read_with(raws, 2, (TarLimits){ 4, 9, 4 }), -EFBIG);
    assert_non_null(strstr(diag_text(), "\"a\" is over 4 bytes"));
    const Raw huge[] = { { "x", .type = 'x', .contents = "29 size=18446744073709551615\n" },
                         { "a" } };
    assert_int_equal(read_with(huge, 2, (TarLimits){ 0, UINT64_MAX - 1, UINT64_MAX }), -EFBIG);
    assert_int_equal(read_with(huge, 2, (TarLimits){ 0, 0, 0 }), -EFBIG);
}

static void test_arena_full(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf archive;
    size_t refused = 0;
    buf_init(&archive, 1 << 20);
    for (int i = 0; i < 50; i++) {
        char path[100];
        snprintf(path, sizeof path, "directory-%d/below-%d/file-%d", i, i, i);
        raw_add(&archive, &(Raw){ path });
    }
    zeros_add(&archive, 1024);
    for (size_t quota = 0; quota < 60000; quota += 500) {
        CLEANUP(arena_deinit) Arena arena;
        TarHandler none = { 0 };
        arena_init(&arena, quota);
        CLEANUP(tar_in_freep) TarIn *tar = tar_in_new(&arena, NULL, &none, 1);
        int r = tar ? tar_in_feed(tar, buf_str(&archive)) : -ENOMEM;
        assert_true(r == 0 || r == -ENOMEM);
        refused += r != 0;
    }
    assert_true(refused > 10 && refused < 120);
}

static void test_handler_stops(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf archive;
    CLEANUP(seen_deinit) Seen seen;
    seen_init(&seen);
    buf_init(&archive, 1 << 20);
    raw_add(&archive, &(Raw){ "a", .contents = "x" });
    raw_add(&archive, &(Raw){ "b" });
    zeros_add(&archive, 1024);
    seen.answer = -ENOSPC;
    assert_int_equal(read_all(buf_str(&archive), &seen), -ENOSPC);
    assert_string_equal(seen.seen.ptr, "\nf 644 a ");
    seen.answer = 7;
    assert_int_equal(read_all(buf_str(&archive), &seen), 7);
}

/* Any byte of a good archive changed: never more than a refusal. */
static void test_damage(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf archive;
    CLEANUP(seen_deinit) Seen seen;
    Random random = { 77 };
    size_t refused = 0;
    seen_init(&seen);
    buf_init(&archive, 1 << 20);
    raw_add(&archive, &(Raw){ "x", .type = 'x', .contents = "13 path=long\n" });
    raw_add(&archive, &(Raw){ "a", .contents = "contents" });
    raw_add(&archive, &(Raw){ "d/l", .type = '2', .link = "../long" });
    zeros_add(&archive, 1024);
    for (size_t i = 0; i < archive.len; i++) {
        char before = archive.ptr[i];
        archive.ptr[i] = (char)(before ^ (char)random_range(&random, 1, 255));
        refused += read_all(buf_str(&archive), &seen) != 0;
        archive.ptr[i] = before;
    }
    assert_true(refused >= 3 * 500 + 1024); /* all but contents and padding */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_archives_of_other_programs),
        cmocka_unit_test(test_entries),
        cmocka_unit_test(test_extensions),
        cmocka_unit_test(test_any_pieces),
        cmocka_unit_test(test_reads_our_own),
        cmocka_unit_test(test_paths_refused),
        cmocka_unit_test(test_nul_in_extensions),
        cmocka_unit_test(test_types_refused),
        cmocka_unit_test(test_links_refused),
        cmocka_unit_test(test_conflicts_refused),
        cmocka_unit_test(test_headers_refused),
        cmocka_unit_test(test_pax_refused),
        cmocka_unit_test(test_paths_too_long),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_after_the_end),
        cmocka_unit_test(test_one_zero_block_is_no_end),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_arena_full),
        cmocka_unit_test(test_handler_stops),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
