#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/diag.h"
#include "codec/gzip.h"
#include "codec/tar.h"
#include "store/package.h"
#include "tests/unit/temp_dir.h"

#define MANIFEST                       \
    "apiVersion: gantry/v1\n"          \
    "kind: Agent\n"                    \
    "metadata: {name: support}\n"      \
    "spec:\n"                          \
    "  command: [python3, agent.py]\n" \
    "  prompt: prompts/system.md\n"    \
    "  tools: tools.json\n"            \
    "  model: sim/echo-1\n"
#define TOOLS "[{\"name\":\"look\",\"description\":\"looks\",\"effect\":\"read\"}]"

typedef struct {
    TempDir dir;
    Arena arena;
    Buf upload, code;
    Package *package;
} Fixture;

static int setup(void **state)
{
    Fixture *f = xcalloc(1, sizeof *f);
    temp_dir_init(&f->dir);
    arena_init(&f->arena, (size_t)256 << 20);
    buf_init(&f->upload, (size_t)64 << 20);
    buf_init(&f->code, (size_t)64 << 20);
    f->package = ARENA_NEW(&f->arena, Package);
    assert_non_null(f->package);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    Fixture *f = *state;
    temp_dir_deinit(&f->dir);
    arena_deinit(&f->arena);
    buf_deinit(&f->upload);
    buf_deinit(&f->code);
    free(f);
    return 0;
}

static void put(Fixture *f, const char *path, const char *text, mode_t mode)
{
    char full[1024];
    snprintf(full, sizeof full, "%s/%s", f->dir.path, path);
    for (char *slash = strchr(full + strlen(f->dir.path) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(full, 0755);
        *slash = '/';
    }
    int fd = open(full, O_WRONLY | O_CREAT | O_TRUNC, mode);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void put_agent(Fixture *f)
{
    put(f, "agent.yaml", MANIFEST, 0644);
    put(f, "agent.py", "print(1)\n", 0644);
    put(f, "prompts/system.md", "You help.\n", 0644);
    put(f, "tools.json", TOOLS, 0644);
}

static int pack(Fixture *f)
{
    buf_clear(&f->upload);
    return package_from_dir(f->dir.path, NULL, &f->upload);
}

static int read_upload(Fixture *f)
{
    buf_clear(&f->code);
    return package_read(&f->arena, buf_str(&f->upload), NULL, 7, &f->code, f->package);
}

/* The paths in an archive, each followed by a newline. */
static int list_entry(void *context, const TarEntry *entry)
{
    Buf *out = context;
    buf_printf(out, "%.*s%s\n", STR_ARG(entry->path),
               entry->type == TAR_SYMLINK  ? "@"
               : (entry->mode & 0100) != 0 ? "*"
               : entry->type == TAR_DIR    ? "/"
                                           : "");
    return 0;
}

static void assert_paths(Fixture *f, Str tar, const char *want)
{
    CLEANUP(buf_deinit) Buf list;
    buf_init(&list, 65536);
    TarHandler handler = { .context = &list, .entry = list_entry };
    TarIn *in = tar_in_new(&f->arena, NULL, &handler, 1);
    assert_int_equal(tar_in_feed(in, tar), 0);
    assert_int_equal(tar_in_end(in), 0);
    tar_in_free(in);
    assert_string_equal(list.ptr ? list.ptr : "", want);
}

/* --- .gantryignore ---------------------------------------------------------------------------- */

static void test_ignore_rules(void **state)
{
    static const struct {
        const char *rules, *path;
        bool dir, out;
    } rows[] = {
        { "", "a.py", false, false },
        { "# *.py\n\n", "a.py", false, false },
        { "*.log", "x/y/a.log", false, true },
        { "*.log", "a.logs", false, false },
        { "*.log\r\n", "a.log", false, true },
        { "*.log  ", "a.log", false, true },
        { "a\\ ", "a ", false, true },
        { "\\#x", "#x", false, true },
        { "\\!x", "!x", false, true },
        { "a?c", "abc", false, true },
        { "a?c", "ac", false, false },
        { "[ab].txt", "b.txt", false, true },
        { "[!ab].txt", "b.txt", false, false },
        { "[a-c]x", "bx", false, true },
        { "[]x]", "]", false, true },
        { "*.py[cod]", "m.pyd", false, true },
        { "build/", "build", false, false },
        { "build/", "build", true, true },
        { "build/", "x/build/y", false, true },
        { "/build", "build", true, true },
        { "/build", "x/build", true, false },
        { "a/b", "a/b", false, true },
        { "a/b", "x/a/b", false, false },
        { "a/*", "a/b", false, true },
        { "a/*/c", "a/b/c", false, true },
        { "a/*/c", "a/b/d/c", false, false },
        { "**/c", "c", false, true },
        { "**/c", "a/b/c", false, true },
        { "a/**", "a/b/c", false, true },
        { "a/**", "a", true, false },
        { "a/**/c", "a/c", false, true },
        { "a/**/c", "a/x/y/c", false, true },
        { "a/**/c/**/e", "a/x/c/y/z/e", false, true },
        { "a/**/c/**/e", "a/x/c/y/z/f", false, false },
        { "*.md\n!keep.md", "keep.md", false, false },
        { "*.md\n!keep.md", "other.md", false, true },
        { "!keep.md\n*.md", "keep.md", false, true },
        { "docs/\n!docs/keep.md", "docs/keep.md", false, true }, /* the directory is out */
        { "docs/*\n!docs/keep.md", "docs/keep.md", false, false },
        { "", "__pycache__/a.txt", false, true },
        { "!__pycache__/", "__pycache__/a.txt", false, false },
        { "", "x/m.pyc", false, true },
        { "", ".env", false, true }, /* secrets */
        { "", "app/.env.local", false, true },
        { "!.env.example", ".env.example", false, false },
        { "", ".environment", false, false },
        { "", ".git/config", false, true },
        { "!.git\n!.git/", ".git/config", false, true }, /* never */
        { "", "x/.gantry/gantry.db", false, true },
        { "", "node_modules/a/index.js", false, false },
        { "node_modules", "node_modules/a/index.js", false, true },
        { "", ".gitignore", false, false },
    };
    Fixture *f = *state;
    for (size_t i = 0; i < ARRAY_N(rows); i++) {
        PackageIgnore ignore;
        assert_int_equal(package_ignore_parse(&f->arena, str_of(rows[i].rules), &ignore), 0);
        if (package_ignored(&ignore, str_of(rows[i].path), rows[i].dir) != rows[i].out)
            fail_msg("row %zu: %s against %s", i, rows[i].rules, rows[i].path);
    }
}

static void test_ignore_refuses(void **state)
{
    Fixture *f = *state;
    PackageIgnore ignore;
    assert_int_equal(package_ignore_parse(&f->arena, STR("ok\n[ab\n"), &ignore), -EINVAL);
    assert_string_equal(diag_text(), "line 2: '[' without ']'");
    assert_int_equal(package_ignore_parse(&f->arena, STR("a\\"), &ignore), -EINVAL);
    assert_int_equal(package_ignore_parse(&f->arena, STR("a\\/b"), &ignore), -EINVAL);
    assert_int_equal(package_ignore_parse(&f->arena, STR("a\0b"), &ignore), -EINVAL);
    CLEANUP(buf_deinit) Buf many;
    buf_init(&many, 1 << 20);
    for (int i = 0; i <= PACKAGE_IGNORE_RULES_MAX; i++) buf_add(&many, STR("x\n"));
    assert_int_equal(package_ignore_parse(&f->arena, buf_str(&many), &ignore), -E2BIG);
}

/* A pattern of many stars costs a product at most: this ends at once or not in a lifetime. */
static void test_ignore_is_not_exponential(void **state)
{
    Fixture *f = *state;
    char pattern[201], path[256 * 16];
    for (size_t i = 0; i < 200; i += 2) memcpy(pattern + i, "*a", 2);
    pattern[200] = '\0';
    memset(path, 'a', sizeof path - 2);
    path[sizeof path - 2] = 'b';
    path[sizeof path - 1] = '\0';
    PackageIgnore ignore;
    assert_int_equal(package_ignore_parse(&f->arena, str_of(pattern), &ignore), 0);
    assert_false(package_ignored(&ignore, str_of(path), false));
}

/* --- from a directory ------------------------------------------------------------------------- */

static void test_dir_is_packed_sorted_and_filtered(void **state)
{
    Fixture *f = *state;
    put_agent(f);
    put(f, "bin/run", "#!/bin/sh\n", 0755);
    put(f, ".git/config", "x", 0644);
    put(f, "lib/.gantry/x", "x", 0644);
    put(f, "lib/__pycache__/x.pyc", "x", 0644);
    put(f, "notes.log", "x", 0644);
    put(f, ".gantryignore", "*.log\nagent.yaml\n", 0644);
    char link[1024];
    snprintf(link, sizeof link, "%s/current", f->dir.path);
    assert_int_equal(symlink("bin/run", link), 0);
    assert_int_equal(pack(f), 0);
    assert_paths(f, buf_str(&f->upload),
                 ".gantryignore\nagent.py\nagent.yaml\nbin/run*\ncurrent@\nprompts/system.md\n"
                 "tools.json\n");
}

static void test_dir_refuses(void **state)
{
    Fixture *f = *state;
    assert_int_equal(pack(f), -ENOENT); /* no agent.yaml */
    assert_int_equal(package_from_dir("/nonexistent/x", NULL, &f->upload), -ENOENT);
    put_agent(f);
    char path[1024];
    snprintf(path, sizeof path, "%s/out", f->dir.path);
    assert_int_equal(symlink("../../etc/passwd", path), 0);
    assert_int_equal(pack(f), -EINVAL);
    assert_true(str_starts_with(str_of(diag_text()), STR("out: ")));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(pack(f), -EINVAL);
    assert_string_equal(diag_text(), "out is neither a file, a directory nor a symlink");
}

static void test_dir_limits(void **state)
{
    Fixture *f = *state;
    put_agent(f);
    PackageLimits few = { .entries_max = 3 }, small = { .bytes_max = 20 };
    assert_int_equal(package_from_dir(f->dir.path, &few, &f->upload), -E2BIG);
    buf_clear(&f->upload);
    assert_int_equal(package_from_dir(f->dir.path, &small, &f->upload), -EFBIG);
    CLEANUP(buf_deinit) Buf tiny;
    buf_init(&tiny, 700);
    assert_int_equal(package_from_dir(f->dir.path, NULL, &tiny), -ENOMEM);
}

/* --- reading ---------------------------------------------------------------------------------- */

static void test_upload_is_read(void **state)
{
    Fixture *f = *state;
    put_agent(f);
    put(f, "lib/a.py", "a", 0644);
    put(f, ".gantryignore", "*.log", 0644);
    assert_int_equal(pack(f), 0);
    assert_int_equal(read_upload(f), 0);
    Package *p = f->package;
    assert_true(str_eq(p->spec.name, STR("support")));
    assert_true(str_eq(p->prompt, STR("You help.\n")));
    assert_int_equal(p->tools.n, 1);
    assert_true(p->has_code);
    assert_paths(f, buf_str(&f->code), "agent.py\nlib/a.py\n");
    char digest[SHA256_HEX_MAX];
    assert_string_equal(p->code_digest, sha256_hex(buf_str(&f->code), digest));
    assert_string_equal(p->version_id, sha256_hex(p->components, digest));
}

/* The same agent in other archives: another order, a directory around it, gzip, other modes. */
static void test_archives_of_one_agent_agree(void **state)
{
    Fixture *f = *state;
    put_agent(f);
    assert_int_equal(pack(f), 0);
    assert_int_equal(read_upload(f), 0);
    char id[SHA256_HEX_MAX];
    memcpy(id, f->package->version_id, sizeof id);

    buf_clear(&f->upload);
    TarOut tar;
    tar_out_init(&tar, &f->upload);
    static const struct {
        const char *path, *text;
    } files[] = { { "x/agent.py", "print(1)\n" },
                  { "x/agent.yaml", MANIFEST },
                  { "x/m.pyc", "junk" },
                  { "x/prompts/system.md", "You help.\n" },
                  { "x/tools.json", TOOLS } };
    for (size_t i = 0; i < ARRAY_N(files); i++)
        assert_int_equal(tar_out_file(&tar,
                                      &(TarEntry){ .path = str_of(files[i].path), .mode = 0600 },
                                      str_of(files[i].text)),
                         0);
    assert_int_equal(tar_out_end(&tar), 0);
    assert_int_equal(read_upload(f), 0);
    assert_string_equal(f->package->version_id, id);

    CLEANUP(buf_deinit) Buf gz;
    buf_init(&gz, 1 << 20);
    assert_int_equal(gzip_compress(buf_str(&f->upload), &gz), 0);
    assert_int_equal(package_read(&f->arena, buf_str(&gz), NULL, 7, &f->code, f->package), 0);
    assert_string_equal(f->package->version_id, id);
}

static void test_prompt_is_apart_from_code(void **state)
{
    Fixture *f = *state;
    put_agent(f);
    assert_int_equal(pack(f), 0);
    assert_int_equal(read_upload(f), 0);
    char id[SHA256_HEX_MAX], digest[SHA256_HEX_MAX];
    memcpy(id, f->package->version_id, sizeof id);
    memcpy(digest, f->package->code_digest, sizeof digest);
    put(f, "prompts/system.md", "You help a lot.\n", 0644);
    assert_int_equal(pack(f), 0);
    assert_int_equal(read_upload(f), 0);
    assert_string_equal(f->package->code_digest, digest);
    assert_string_not_equal(f->package->version_id, id);
}

static void test_code_in_a_directory(void **state)
{
    Fixture *f = *state;
    put_agent(f);
    put(f, "agent.yaml", MANIFEST "  code: src\n", 0644);
    put(f, "src/agent.py", "x", 0644);
    put(f, "src/tools.json", "not the tools file", 0644);
    put(f, "srcx/no.py", "x", 0644);
    assert_int_equal(pack(f), 0);
    assert_int_equal(read_upload(f), 0);
    assert_paths(f, buf_str(&f->code), "agent.py\ntools.json\n");
    put(f, "agent.yaml", MANIFEST "  code: nowhere\n", 0644);
    assert_int_equal(pack(f), 0);
    assert_int_equal(read_upload(f), PACKAGE_E_INVALID);
    assert_true(str_eq(f->package->issues[0].issue.path, STR("spec.code")));
}

static void test_errors_of_all_files_are_collected(void **state)
{
    Fixture *f = *state;
    put(f, "agent.yaml", MANIFEST "  sampling: {temperature: 3}\n  surprise: 1\n", 0644);
    assert_int_equal(pack(f), 0);
    assert_int_equal(read_upload(f), PACKAGE_E_INVALID);
    assert_int_equal(f->package->issues_n, 2);
    assert_int_equal(f->package->issues[0].issue.line, 9);
    assert_true(str_eq(f->package->issues[1].issue.path, STR("spec.surprise")));

    put(f, "agent.yaml", MANIFEST, 0644); /* neither prompt nor tools are there */
    assert_int_equal(pack(f), 0);
    assert_int_equal(read_upload(f), PACKAGE_E_INVALID);
    assert_int_equal(f->package->issues_n, 2);
    assert_true(str_eq(f->package->issues[0].issue.path, STR("spec.prompt")));
    assert_int_equal(f->package->issues[0].issue.line, 6);
    assert_int_equal(f->package->issues[0].issue.column, 3);
    assert_true(str_eq(f->package->issues[0].issue.message,
                       STR("prompts/system.md is not in the archive")));

    put(f, "prompts/system.md", "\xff\xfe", 0644);
    put(f, "tools.json", "[{\"name\":\"a b\"}]", 0644);
    put(f, ".gantryignore", "[", 0644);
    CLEANUP(buf_deinit) Buf tar;
    buf_init(&tar, 1 << 20);
    assert_int_equal(pack(f), -EINVAL); /* on the client's side already */
    unlink(arena_printf(&f->arena, "%s/.gantryignore", f->dir.path).ptr);
    assert_int_equal(pack(f), 0);
    assert_int_equal(read_upload(f), PACKAGE_E_INVALID);
    assert_true(str_eq(f->package->issues[0].file, STR("prompts/system.md")));
    assert_true(str_eq(f->package->issues[1].file, STR("tools.json")));
}

static void test_what_is_no_agent(void **state)
{
    Fixture *f = *state;
    buf_add(&f->upload, STR("hello"));
    assert_int_equal(read_upload(f), PACKAGE_E_INVALID);
    assert_int_equal(f->package->issues_n, 1);
    buf_clear(&f->upload);
    buf_add(&f->upload, STR("\x1f\x8b\x08junk"));
    assert_int_equal(read_upload(f), PACKAGE_E_INVALID);
    buf_clear(&f->upload);
    TarOut tar;
    tar_out_init(&tar, &f->upload);
    assert_int_equal(tar_out_file(&tar, &(TarEntry){ .path = STR("a/b") }, STR("x")), 0);
    assert_int_equal(tar_out_end(&tar), 0);
    assert_int_equal(read_upload(f), PACKAGE_E_INVALID);
    assert_true(str_find(f->package->issues[0].issue.message, STR("no agent.yaml")) >= 0);
}

static void test_read_limits(void **state)
{
    Fixture *f = *state;
    put_agent(f);
    CLEANUP(buf_deinit) Buf zeros;
    buf_init(&zeros, 4 << 20);
    memset(buf_reserve(&zeros, 4 << 20), 0, 4 << 20);
    buf_added(&zeros, 4 << 20);
    TarOut tar;
    tar_out_init(&tar, &f->upload);
    assert_int_equal(tar_out_file(&tar, &(TarEntry){ .path = STR("zeros") }, buf_str(&zeros)), 0);
    assert_int_equal(tar_out_end(&tar), 0);
    CLEANUP(buf_deinit) Buf gz;
    buf_init(&gz, 1 << 20);
    assert_int_equal(gzip_compress(buf_str(&f->upload), &gz), 0);
    PackageLimits limits = { .bytes_max = 1 << 20, .entries_max = 10 };
    Buf *code = &f->code;
    assert_int_equal(package_read(&f->arena, buf_str(&gz), &limits, 7, code, f->package), -EFBIG);
    assert_int_equal(package_read(&f->arena, buf_str(&f->upload), &limits, 7, code, f->package),
                     -EFBIG);
    assert_int_equal(pack(f), 0);
    limits.entries_max = 2;
    assert_int_equal(package_read(&f->arena, buf_str(&f->upload), &limits, 7, code, f->package),
                     -E2BIG);
}

/* A link that stays inside the archive but leaves the code directory must not be packed. */
static void test_link_out_of_the_code_directory(void **state)
{
    Fixture *f = *state;
    put_agent(f);
    put(f, "agent.yaml", MANIFEST "  code: src\n", 0644);
    put(f, "src/agent.py", "x", 0644);
    char path[1024];
    snprintf(path, sizeof path, "%s/src/up", f->dir.path);
    assert_int_equal(symlink("../agent.yaml", path), 0);
    assert_int_equal(pack(f), 0);
    assert_int_equal(read_upload(f), PACKAGE_E_INVALID);
    assert_true(str_eq(f->package->issues[0].file, STR("up")));
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_ignore_rules),
        CASE(test_ignore_refuses),
        CASE(test_ignore_is_not_exponential),
        CASE(test_dir_is_packed_sorted_and_filtered),
        CASE(test_dir_refuses),
        CASE(test_dir_limits),
        CASE(test_upload_is_read),
        CASE(test_archives_of_one_agent_agree),
        CASE(test_prompt_is_apart_from_code),
        CASE(test_code_in_a_directory),
        CASE(test_errors_of_all_files_are_collected),
        CASE(test_what_is_no_agent),
        CASE(test_read_limits),
        CASE(test_link_out_of_the_code_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
