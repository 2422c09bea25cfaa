#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/tar.h"
#include "tests/unit/temp_dir.h"
#include "worker/fs.h"
#include "worker/log_file.h"

static int setup(void **state)
{
    TempDir *dir = xcalloc(1, sizeof *dir);
    temp_dir_init(dir);
    *state = dir;
    return 0;
}

static int teardown(void **state)
{
    temp_dir_deinit(*state);
    free(*state);
    return 0;
}

static const char *path_in(const TempDir *dir, const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", dir->path, name);
    return path;
}

static const char *content_of(const char *path)
{
    static char text[256];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    ssize_t n = read(fd, text, sizeof text - 1);
    assert_true(n >= 0);
    text[n] = '\0';
    close(fd);
    return text;
}

static mode_t mode_of(const char *path)
{
    struct stat st;
    assert_int_equal(lstat(path, &st), 0);
    return st.st_mode & 07777;
}

static bool is_there(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

static void add(TarOut *tar, const char *path, TarType type, unsigned mode, const char *text)
{
    TarEntry entry = { .path = str_of(path), .type = type, .mode = mode };
    if (type == TAR_SYMLINK) entry.link = str_of(text);
    if (type == TAR_FILE) assert_int_equal(tar_out_file(tar, &entry, str_of(text)), 0);
    else assert_int_equal(tar_out_entry(tar, &entry), 0);
}

static void make_tar(Buf *buf)
{
    CLEANUP(freep) TarOut *tar = xcalloc(1, sizeof *tar);
    buf_init(buf, 1 << 20);
    tar_out_init(tar, buf);
    add(tar, "deep/er/run.sh", TAR_FILE, 0755, "#!/bin/sh\n");
    add(tar, "deep/link", TAR_SYMLINK, 0777, "../readme");
    add(tar, "empty", TAR_DIR, 0755, "");
    add(tar, "readme", TAR_FILE, 0644, "hello");
    assert_int_equal(tar_out_end(tar), 0);
}

static void test_unpack_and_protect(void **state)
{
    TempDir *dir = *state;
    CLEANUP(buf_deinit) Buf tar;
    make_tar(&tar);
    char root[512];
    snprintf(root, sizeof root, "%s", path_in(dir, "made/on/the/way"));
    assert_int_equal(fs_dir_make(root), 0);
    assert_int_equal(fs_dir_make(root), 0); /* being there is fine */
    assert_int_equal(fs_unpack(root, buf_str(&tar)), 0);
    assert_int_equal(fs_write(root, STR("prompts/system.md"), STR("You help.")), 0);
    assert_int_equal(fs_write(root, STR("readme"), STR("replaced")), 0);
    assert_int_equal(fs_protect(root), 0);

    assert_string_equal(content_of(path_in(dir, "made/on/the/way/deep/er/run.sh")), "#!/bin/sh\n");
    assert_int_equal(mode_of(path_in(dir, "made/on/the/way/deep/er/run.sh")), 0555);
    assert_string_equal(content_of(path_in(dir, "made/on/the/way/deep/link")), "replaced");
    assert_string_equal(content_of(path_in(dir, "made/on/the/way/prompts/system.md")), "You help.");
    assert_int_equal(mode_of(path_in(dir, "made/on/the/way/prompts/system.md")), 0444);
    assert_int_equal(mode_of(path_in(dir, "made/on/the/way/deep")), 0555);
    assert_int_equal(mode_of(path_in(dir, "made/on/the/way/empty")), 0555);

    assert_int_equal(fs_remove(path_in(dir, "made")), 0);
    assert_false(is_there(path_in(dir, "made")));
    assert_int_equal(fs_remove(path_in(dir, "made")), 0); /* being gone is fine */
}

static void test_damaged_archives_are_refused(void **state)
{
    TempDir *dir = *state;
    CLEANUP(buf_deinit) Buf tar;
    make_tar(&tar);
    assert_int_equal(fs_dir_make(path_in(dir, "cut")), 0);
    assert_int_equal(fs_unpack(path_in(dir, "cut"), str_sub(buf_str(&tar), 0, tar.len / 2)),
                     -EINVAL);
    assert_int_equal(fs_dir_make(path_in(dir, "noise")), 0);
    tar.ptr[3] ^= 1;
    assert_int_equal(fs_unpack(path_in(dir, "noise"), buf_str(&tar)), -EINVAL);
    assert_int_equal(fs_unpack(path_in(dir, "absent"), buf_str(&tar)), -ENOENT);
    assert_non_null(strstr(diag_text(), "absent"));
}

/* What an agent leaves behind must not lead the removal out of its scratch space. */
static void test_remove_follows_no_symlink(void **state)
{
    TempDir *dir = *state;
    char target[512];
    snprintf(target, sizeof target, "%s", path_in(dir, "kept"));
    assert_int_equal(fs_dir_make(target), 0);
    assert_int_equal(fs_write(target, STR("file"), STR("x")), 0);
    assert_int_equal(fs_dir_make(path_in(dir, "scratch/sub")), 0);
    assert_int_equal(symlink(target, path_in(dir, "scratch/sub/out")), 0);
    assert_int_equal(symlink(target, path_in(dir, "scratch/top")), 0);
    assert_int_equal(chmod(path_in(dir, "scratch/sub"), 0), 0);
    assert_int_equal(fs_remove(path_in(dir, "scratch")), 0);
    assert_false(is_there(path_in(dir, "scratch")));
    assert_true(is_there(path_in(dir, "kept/file")));
    assert_int_equal(symlink(target, path_in(dir, "itself")), 0);
    assert_int_equal(fs_remove(path_in(dir, "itself")), 0);
    assert_true(is_there(path_in(dir, "kept/file")));
}

/* An agent's tree must not be able to stay: a worker does not start on what it cannot remove. */
static void test_remove_of_a_deep_tree(void **state)
{
    TempDir *dir = *state;
    int at = open(dir->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < 500; i++) {
        assert_int_equal(mkdirat(at, "d", 0700), 0);
        int next = openat(at, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(next >= 0);
        assert_int_equal(mkdirat(next, "beside", 0), 0);
        assert_int_equal(symlinkat("/", next, "out"), 0);
        close(at);
        at = next;
    }
    close(at);
    assert_int_equal(fs_remove(path_in(dir, "d")), 0);
    assert_false(is_there(path_in(dir, "d")));
}

static int64_t size_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? st.st_size : -1;
}

/* Files are turned over before they grow too large; what is oldest is dropped. */
static void test_log_files(void **state)
{
    TempDir *dir = *state;
    LogFile log = { 0 };
    char name[32];
    assert_int_equal(log_file_open(&log, path_in(dir, "a.log"), 100), 0);
    for (int i = 0; i < 1000; i++) log_file_add(&log, STR("ten bytes\n"));
    log_file_add(&log, STR_NULL);
    assert_int_equal(log.dropped, 0);
    log_file_close(&log);
    assert_int_equal(size_of(path_in(dir, "a.log")), 100);
    for (int i = 1; i < LOG_FILES_MAX; i++) {
        snprintf(name, sizeof name, "a.log.%d", i);
        assert_int_equal(size_of(path_in(dir, name)), 100);
    }
    snprintf(name, sizeof name, "a.log.%d", LOG_FILES_MAX);
    assert_false(is_there(path_in(dir, name)));

    /* another process goes on where this one has ended */
    assert_int_equal(log_file_open(&log, path_in(dir, "a.log"), 105), 0);
    log_file_add(&log, STR("12345"));
    assert_int_equal(size_of(path_in(dir, "a.log")), 105);
    log_file_add(&log, STR("6"));
    assert_int_equal(size_of(path_in(dir, "a.log")), 1);
    assert_int_equal(unlink(path_in(dir, "a.log")), 0);
    log_file_add(&log, STR("anew"));
    assert_int_equal(size_of(path_in(dir, "a.log")), 4);
    log_file_close(&log);
    log_file_add(&log, STR("lost"));
    assert_int_equal(log.dropped, 4);
    assert_int_equal(log_files_prune(dir->path, 2), 0);
    int left = 0;
    for (int i = 0; i <= LOG_FILES_MAX; i++) {
        snprintf(name, sizeof name, i ? "a.log.%d" : "a.log", i);
        left += is_there(path_in(dir, name));
    }
    assert_int_equal(left, 2);
    assert_true(is_there(path_in(dir, "a.log")));
}

#define LINES 300
#define WRITERS 4

static void *lines_write(void *arg)
{
    for (int i = 0; i < LINES; i++) LOG_INFO("written", LOG_INT("writer", *(int *)arg));
    return NULL;
}

/* Lines of all threads, whole, in files of their size; another process may not log there. */
static void test_own_log(void **state)
{
    TempDir *dir = *state;
    pthread_t threads[WRITERS];
    int numbers[WRITERS];
    LogFile other = { .alone = true };
    assert_int_equal(log_file_take_log(path_in(dir, "own.log"), 1 << 20), 0);
    assert_int_equal(log_file_open(&other, path_in(dir, "own.log"), 100), -EBUSY);
    for (int i = 0; i < WRITERS; i++) {
        numbers[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, lines_write, &numbers[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
    log_file_leave_log();
    FILE *file = fopen(path_in(dir, "own.log"), "r");
    char line[256];
    int n = 0;
    assert_non_null(file);
    for (; fgets(line, sizeof line, file); n++)
        assert_true(strncmp(line, "time=", 5) == 0 && strstr(line, "event=written writer="));
    assert_int_equal(fclose(file), 0);
    assert_int_equal(n, LINES * WRITERS);

    /* turned over it is still this process's alone */
    assert_int_equal(log_file_take_log(path_in(dir, "own.log"), 100), 0);
    LOG_INFO("a line that is longer than half of what the file takes, so that it is turned over");
    LOG_INFO("a line that is longer than half of what the file takes, so that it is turned over");
    assert_in_range(size_of(path_in(dir, "own.log")), 1, 200);
    assert_in_range(size_of(path_in(dir, "own.log.1")), 1, 200);
    assert_int_equal(log_file_open(&other, path_in(dir, "own.log"), 100), -EBUSY);
    log_file_leave_log();
    LOG_INFO("this line goes to stderr");
    assert_int_equal(log_file_open(&other, path_in(dir, "own.log"), 100), 0);
    log_file_close(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_own_log, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unpack_and_protect, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_archives_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_remove_follows_no_symlink, setup, teardown),
        cmocka_unit_test_setup_teardown(test_remove_of_a_deep_tree, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_files, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
