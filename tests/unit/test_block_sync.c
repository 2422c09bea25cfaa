#include "tests/unit/sys_harness.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "sys/block_sync.h"
#include "tests/unit/temp_dir.h"

#define BYTES 16384

/* Makes the file, every block of it written and kept. */
static int make_file(const char *path)
{
    char bytes[BYTES];
    memset(bytes, 'a', sizeof bytes);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, BYTES, 0), BYTES);
    assert_int_equal(fsync(fd), 0);
    return fd;
}

/* That the bytes survive is not seen here: that they are sent off at all is. */
static void test_written_over(void **state)
{
    (void)state;
    TempDir dir;
    char path[300], back[6] = "";
    temp_dir_init(&dir);
    snprintf(path, sizeof path, "%s/log", dir.path);
    int fd = make_file(path);
    BlockSync *s = block_sync_open(path);
    print_message("blocks %s be synced by themselves in %s\n", s ? "can" : "cannot", dir.path);
    for (int64_t at = 0; s && at < BYTES - 5; at += 1000) {
        assert_int_equal(pwrite(fd, "hello", 5, at), 5);
        assert_int_equal(block_sync(s, at, 5), 0);
        assert_int_equal(pread(fd, back, 5, at), 5);
        assert_string_equal(back, "hello");
    }
    block_sync_close(s);
    close(fd);
    temp_dir_deinit(&dir);
}

/* Where nothing is known, nothing is offered. */
static void test_refused(void **state)
{
    (void)state;
    const char *path = "/dev/shm/gantry-test-block-sync";
    assert_null(block_sync_open("/nowhere/at/all"));
    assert_null(block_sync_open("/"));
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return;                 /* there is no such place here */
    assert_null(block_sync_open(path)); /* memory: no disk below it */
    close(fd);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written_over),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("block_sync", tests, NULL, NULL);
}
