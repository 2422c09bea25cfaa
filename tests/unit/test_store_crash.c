/* What was acknowledged survives kill -9, and a failing disk ends the process. The children are
 * this program again, told what to do by its arguments. */
#include "tests/unit/sys_harness.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sqlite3.h>

#include "base/diag.h"
#include "base/log.h"
#include "store/store.h"
#include "sys/entropy.h"
#include "tests/unit/temp_dir.h"

#define WRITERS 16
#define ROUNDS 12

/* --- the writing child ------------------------------------------------------------------------ */

typedef struct {
    Store *store;
    int64_t next; /* numbers next, next + WRITERS, ... are this writer's */
} Writer;

static int job_write(Db *db, void *arg)
{
    char name[24];
    snprintf(name, sizeof name, "%" PRId64, ((Writer *)arg)->next);
    DbStmt *s = db_stmt(db,
                        "INSERT INTO agent (name, settings, created_at_ms) VALUES (?1, '{}', 1)");
    db_bind_text(s, 1, str_of(name));
    return db_run(s, NULL);
}

/* Writes rows and tells stdout each one that was acknowledged, until it is killed. */
static int writer_main(void *arg)
{
    Writer *w = arg;
    for (;; w->next += WRITERS) {
        if (store_call_wait(w->store, job_write, w) != 0) _exit(2);
        if (write(STDOUT_FILENO, &w->next, sizeof w->next) != sizeof w->next) _exit(3);
    }
}

static int writers_main(void *arg)
{
    Writer *writers = arg;
    FiberRef refs[WRITERS];
    for (int i = 0; i < WRITERS; i++)
        if (fiber_spawn("writer", writer_main, &writers[i], &refs[i]) != 0) _exit(4);
    return fiber_join_wait(refs[0], NULL);
}

static int child_write(const char *path, int64_t first)
{
    Writer writers[WRITERS];
    Store *store = NULL;
    if (store_open(&(StoreOptions){ .path = path }, &store) != 0) return 5;
    for (int i = 0; i < WRITERS; i++) writers[i] = (Writer){ .store = store, .next = first + i };
    harness_run(writers_main, writers);
    return 6;
}

/* --- the child with a broken disk ------------------------------------------------------------- */

static sqlite3_vfs broken_vfs, *sound_vfs;
static struct {
    const sqlite3_io_methods *sound; /* one table for the database, one for the log */
    sqlite3_io_methods broken;
} methods[4];
static int break_sync, break_write; /* the code to answer from now on */

static int broken_sync(sqlite3_file *file, int flags)
{
    return break_sync ? break_sync : methods[0].sound->xSync(file, flags);
}

static int broken_write(sqlite3_file *file, const void *bytes, int n, sqlite3_int64 at)
{
    return break_write ? break_write : methods[0].sound->xWrite(file, bytes, n, at);
}

static int broken_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags,
                       int *ret_flags)
{
    (void)vfs;
    int rc = sound_vfs->xOpen(sound_vfs, name, file, flags, ret_flags);
    if (rc != SQLITE_OK || !file->pMethods) return rc;
    size_t i = 0;
    while (methods[i].sound && methods[i].sound != file->pMethods) i++;
    assert(i < ARRAY_N(methods));
    methods[i].sound = file->pMethods;
    methods[i].broken = *file->pMethods;
    methods[i].broken.xSync = broken_sync;
    methods[i].broken.xWrite = broken_write;
    assert(methods[i].sound->xSync == methods[0].sound->xSync);
    file->pMethods = &methods[i].broken;
    return rc;
}

static int child_broken(const char *path, const char *how)
{
    sound_vfs = sqlite3_vfs_find(NULL);
    broken_vfs = *sound_vfs;
    broken_vfs.zName = "broken";
    broken_vfs.xOpen = broken_open;
    Store *store = NULL;
    Writer w = { .next = 1 };
    if (sqlite3_vfs_register(&broken_vfs, 1) != SQLITE_OK) return 2;
    if (store_open(&(StoreOptions){ .path = path }, &store) != 0) return 3;
    if (store_call(store, job_write, &w) != 0) return 4;
    if (str_eq(str_of(how), STR("sync"))) break_sync = SQLITE_IOERR_FSYNC;
    if (str_eq(str_of(how), STR("write"))) break_write = SQLITE_IOERR_WRITE;
    if (str_eq(str_of(how), STR("full"))) break_write = SQLITE_FULL;
    w.next = 2;
    int r = store_call(store, job_write, &w);
    break_sync = break_write = 0;
    w.next = 3;
    if (r != -ENOSPC || store_call(store, job_write, &w) != 0) return 5;
    store_close(store);
    return 0;
}

/* --- the tests -------------------------------------------------------------------------------- */

static pid_t start(const char *what, const char *path, const char *detail, int *ret_out)
{
    int out[2];
    assert_int_equal(pipe(out), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        close(out[0]), close(out[1]);
        if (!freopen("/dev/null", "w", stderr)) _exit(99);
        execl("/proc/self/exe", "test", what, path, detail, (char *)NULL);
        _exit(98);
    }
    close(out[1]);
    *ret_out = out[0];
    return pid;
}

static int job_has(Db *db, void *arg)
{
    char name[24];
    snprintf(name, sizeof name, "%" PRId64, *(int64_t *)arg);
    DbStmt *s = db_stmt(db, "SELECT 1 FROM agent WHERE name = ?1");
    db_bind_text(s, 1, str_of(name));
    return db_step(s) == DB_E_ROW ? 0 : -ENOENT;
}

static int job_integrity(Db *db, void *arg)
{
    (void)arg;
    DbStmt *s = db_stmt(db, "PRAGMA integrity_check");
    return db_step(s) == DB_E_ROW && str_eq(db_str(s, 0), STR("ok")) ? 0 : -EIO;
}

/* Reads acknowledged numbers until the pipe ends; kills the child once enough were seen. */
static int64_t *collect(int fd, pid_t pid, size_t enough, size_t *ret_n)
{
    size_t n = 0, cap = 0;
    int64_t *seen = NULL, one;
    while (read(fd, &one, sizeof one) == sizeof one) {
        if (n == cap) seen = xrealloc(seen, (cap = cap ? 2 * cap : 1024) * sizeof *seen);
        seen[n++] = one;
        if (n == enough) kill(pid, SIGKILL);
    }
    *ret_n = n;
    return seen;
}

static void check_round(const char *path, const int64_t *seen, size_t n)
{
    Store *store = NULL;
    assert_int_equal(store_open(&(StoreOptions){ .path = path }, &store), 0);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(store_read(store, job_has, (void *)&seen[i]), 0);
    assert_int_equal(store_read(store, job_integrity, NULL), 0);
    store_close(store);
}

static void test_killed_while_writing(void **state)
{
    (void)state;
    TempDir dir;
    temp_dir_init(&dir);
    for (int round = 0; round < ROUNDS; round++) {
        char first[24];
        snprintf(first, sizeof first, "%d", round * 1000000);
        int fd = -1, status = 0;
        pid_t pid = start("write", dir.path, first, &fd);
        size_t n = 0, enough = 1 + (size_t)(entropy_u64() % 600);
        int64_t *seen = collect(fd, pid, enough, &n);
        close(fd);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        assert_true(n >= enough);
        check_round(dir.path, seen, n);
        free(seen);
    }
    temp_dir_deinit(&dir);
}

static int run_broken(const char *how)
{
    TempDir dir;
    temp_dir_init(&dir);
    int fd = -1, status = 0;
    pid_t pid = start("broken", dir.path, how, &fd);
    close(fd);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    int64_t first = 1;
    check_round(dir.path, &first, 1);
    temp_dir_deinit(&dir);
    return status;
}

static void test_sync_error_stops_the_process(void **state)
{
    (void)state;
    int status = run_broken("sync");
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void test_write_error_stops_the_process(void **state)
{
    (void)state;
    int status = run_broken("write");
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void test_full_disk_does_not(void **state)
{
    (void)state;
    assert_int_equal(run_broken("full"), 0);
}

int main(int argc, char **argv)
{
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    int64_t first = 0;
    if (argc == 4 && str_eq(str_of(argv[1]), STR("write")))
        return str_to_i64(str_of(argv[3]), &first) == 0 ? child_write(argv[2], first) : 1;
    if (argc == 4 && str_eq(str_of(argv[1]), STR("broken"))) return child_broken(argv[2], argv[3]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed_while_writing),
        cmocka_unit_test(test_sync_error_stops_the_process),
        cmocka_unit_test(test_write_error_stops_the_process),
        cmocka_unit_test(test_full_disk_does_not),
    };
    return cmocka_run_group_tests_name("store_crash", tests, NULL, NULL);
}
