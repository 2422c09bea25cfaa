/* Commits whose sync another thread makes: jobs go on meanwhile, and nobody is told too early. */
#include "tests/unit/sys_harness.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sqlite3.h>

#include "base/log.h"
#include "store/store.h"
#include "tests/unit/temp_dir.h"

#define CROWD_N 8 /* whose sync is left */
#define LOOK_MS 1
#define CHILD_S 60

/* --- a disk that holds syncs ------------------------------------------------------------------ */

static sqlite3_vfs held_vfs, *sound_vfs;
static sqlite3_io_methods held_methods;
static const sqlite3_io_methods *sound_methods;
static struct {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    bool hold, fail;
    int held;
} disk = { .lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER };

static int held_sync(sqlite3_file *file, int flags)
{
    pthread_mutex_lock(&disk.lock);
    disk.held++;
    pthread_cond_broadcast(&disk.moved);
    while (disk.hold) pthread_cond_wait(&disk.moved, &disk.lock);
    disk.held--;
    bool fails = disk.fail;
    pthread_mutex_unlock(&disk.lock);
    return fails ? SQLITE_IOERR_FSYNC : sound_methods->xSync(file, flags);
}

static void disk_hold(bool hold, bool fail)
{
    pthread_mutex_lock(&disk.lock);
    disk.hold = hold;
    disk.fail = fail;
    pthread_cond_broadcast(&disk.moved);
    pthread_mutex_unlock(&disk.lock);
}

static void disk_held_wait(void)
{
    pthread_mutex_lock(&disk.lock);
    while (disk.held == 0) pthread_cond_wait(&disk.moved, &disk.lock);
    pthread_mutex_unlock(&disk.lock);
}

static int held_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags,
                     int *ret_flags)
{
    (void)vfs;
    int rc = sound_vfs->xOpen(sound_vfs, name, file, flags, ret_flags);
    if (rc != SQLITE_OK || !(flags & SQLITE_OPEN_WAL) || !(flags & SQLITE_OPEN_CREATE)) return rc;
    sound_methods = file->pMethods;
    held_methods = *sound_methods;
    held_methods.xSync = held_sync;
    file->pMethods = &held_methods;
    return SQLITE_OK;
}

static int held_disk(void **state)
{
    (void)state;
    sound_vfs = sqlite3_vfs_find(NULL);
    held_vfs = *sound_vfs;
    held_vfs.zName = "held";
    held_vfs.xOpen = held_open;
    return sqlite3_vfs_register(&held_vfs, 1);
}

/* --- jobs ------------------------------------------------------------------------------------- */

typedef struct {
    TempDir dir;
    Store *store;
    pthread_barrier_t entered, leave;
    _Atomic bool durable;
    int early, failed; /* callers told before the sync, or of a failure */
    int64_t rows;
} World;

static int job_gate(Db *db, void *arg)
{
    World *w = arg;
    (void)db;
    pthread_barrier_wait(&w->entered);
    pthread_barrier_wait(&w->leave);
    return 0;
}

static int job_put(Db *db, void *arg)
{
    (void)arg;
    return db_run(db_stmt(db, "INSERT INTO agent (name, settings, created_at_ms)"
                              " VALUES (hex(randomblob(8)), '{}', 1)"),
                  NULL);
}

static int job_rows(Db *db, void *arg)
{
    World *w = arg;
    DbStmt *s = db_stmt(db, "SELECT count(*) FROM agent");
    if (db_step(s) != DB_E_ROW) return -EIO;
    w->rows = db_i64(s, 0);
    return 0;
}

static int told(World *w, int r)
{
    w->early += !atomic_load(&w->durable);
    w->failed += r != 0;
    return r;
}

static int gate_fiber(void *arg)
{
    World *w = arg;
    return store_call_wait(w->store, job_gate, w);
}

static int put_fiber(void *arg)
{
    World *w = arg;
    return told(w, store_call_wait(w->store, job_put, w));
}

static int read_fiber(void *arg)
{
    World *w = arg;
    return told(w, store_read_wait(w->store, job_rows, w));
}

/* A crowd whose jobs wait together, and whose sync is held when this returns. */
static int crowd_start_wait(World *w, FiberRef refs[CROWD_N + 1])
{
    int r = fiber_spawn("gate", gate_fiber, w, &refs[CROWD_N]);
    (void)fiber_yield_wait();
    pthread_barrier_wait(&w->entered);
    for (size_t i = 0; i < CROWD_N; i++) r |= fiber_spawn("put", put_fiber, w, &refs[i]);
    (void)fiber_yield_wait();
    pthread_barrier_wait(&w->leave);
    disk_held_wait();
    return r;
}

static int left_main(void *arg)
{
    World *w = arg;
    FiberRef refs[CROWD_N + 3];
    StoreStats stats;
    disk_hold(true, false);
    w->failed += crowd_start_wait(w, refs) != 0;
    w->failed += fiber_spawn("put", put_fiber, w, &refs[CROWD_N + 1]) != 0;
    w->failed += fiber_spawn("read", read_fiber, w, &refs[CROWD_N + 2]) != 0;
    do { /* both run, though the disk is held */
        (void)fiber_sleep_wait(LOOK_MS);
        store_stats(w->store, &stats);
    } while (stats.jobs < CROWD_N + 2 || stats.reads < 1);
    for (int i = 0; i < 5; i++) (void)fiber_sleep_wait(LOOK_MS); /* who is told early comes now */
    atomic_store(&w->durable, true);
    disk_hold(false, false);
    for (size_t i = 0; i < ARRAY_N(refs); i++) (void)fiber_join_wait(refs[i], NULL);
    return 0;
}

static void world_open(World *w)
{
    assert_int_equal(store_open(&(StoreOptions){ .path = w->dir.path }, &w->store), 0);
    pthread_barrier_init(&w->entered, NULL, 2);
    pthread_barrier_init(&w->leave, NULL, 2);
}

static void world_close(World *w)
{
    store_close(w->store);
    pthread_barrier_destroy(&w->entered);
    pthread_barrier_destroy(&w->leave);
}

static void test_nobody_is_told_early(void **state)
{
    (void)state;
    World w = { 0 };
    StoreStats stats;
    temp_dir_init(&w.dir);
    world_open(&w);
    harness_run(left_main, &w);
    assert_int_equal(w.early, 0);
    assert_int_equal(w.failed, 0);
    assert_in_range(w.rows, CROWD_N, CROWD_N + 1); /* it saw the crowd's commit */
    store_stats(w.store, &stats);
    assert_int_equal(stats.commits, 3);
    assert_int_equal(stats.commits_left, 3);
    assert_int_equal(store_call(w.store, job_put, NULL), 0); /* alone: no other thread is needed */
    store_stats(w.store, &stats);
    assert_int_equal(stats.commits_left, 3);
    world_close(&w);
    temp_dir_deinit(&w.dir);
}

/* --- a sync that fails ------------------------------------------------------------------------ */

static int broken_main(void *arg)
{
    World *w = arg;
    FiberRef refs[CROWD_N + 1];
    disk_hold(true, false);
    w->failed += crowd_start_wait(w, refs) != 0;
    disk_hold(false, true);
    for (size_t i = 0; i < ARRAY_N(refs); i++) (void)fiber_join_wait(refs[i], NULL);
    return 0;
}

static void test_a_failure_stops_the_process(void **state)
{
    (void)state;
    World w = { 0 };
    int status = 0;
    temp_dir_init(&w.dir);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(CHILD_S);
        world_open(&w);
        harness_run(broken_main, &w);
        _exit(w.early > 0 ? 1 : 2); /* it should not have come to this */
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    temp_dir_deinit(&w.dir);
}

int main(void)
{
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_failure_stops_the_process), /* first: it forks */
        cmocka_unit_test(test_nobody_is_told_early),
    };
    return cmocka_run_group_tests_name("store_left", tests, held_disk, NULL);
}
