#include "tests/unit/sys_harness.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/log.h"
#include "store/db_engine.h"
#include "store/migrations.h"
#include "store/schema.h"
#include "store/store.h"
#include "store/task_sql.h"
#include "tests/unit/temp_dir.h"

typedef struct {
    TempDir dir;
    Store *store;
} Fixture;

static Store *open_store(const char *path, StoreOptions options)
{
    Store *store = NULL;
    options.path = path;
    assert_int_equal(store_open(&options, &store), 0);
    return store;
}

static int setup(void **state)
{
    Fixture *f = xcalloc(1, sizeof *f);
    temp_dir_init(&f->dir);
    f->store = open_store(f->dir.path, (StoreOptions){ 0 });
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    Fixture *f = *state;
    store_close(f->store);
    temp_dir_deinit(&f->dir);
    free(f);
    return 0;
}

/* --- jobs ------------------------------------------------------------------------------------- */

/* The agent table serves as "some table with a key". */
static int put_row(Db *db, Str name)
{
    DbStmt *s = db_stmt(db,
                        "INSERT INTO agent (name, settings, created_at_ms) VALUES (?1, '{}', 1)");
    db_bind_text(s, 1, name);
    return db_run(s, NULL);
}

static int job_put(Db *db, void *arg)
{
    return put_row(db, str_of(arg));
}

static int job_put_and_fail(Db *db, void *arg)
{
    int r = put_row(db, str_of(arg));
    return r != 0 ? r : diag_set(7, "no, not %s", (const char *)arg);
}

static int job_count(Db *db, void *arg)
{
    DbStmt *s = db_stmt(db, "SELECT count(*) FROM agent");
    if (db_step(s) != DB_E_ROW) return -EIO;
    *(int64_t *)arg = db_i64(s, 0);
    return 0; /* the statement is left open on purpose: the store gives it up */
}

static int64_t count(Store *store)
{
    int64_t n = -1;
    assert_int_equal(store_read(store, job_count, &n), 0);
    return n;
}

static void test_call_and_read(void **state)
{
    Fixture *f = *state;
    assert_int_equal(store_call(f->store, job_put, "a"), 0);
    assert_int_equal(count(f->store), 1);
    assert_int_equal(store_call(f->store, job_put, "a"), DB_E_CONFLICT);
    assert_int_equal(store_call(f->store, job_put_and_fail, "b"), 7);
    assert_string_equal(diag_text(), "no, not b");
    assert_int_equal(count(f->store), 1);
    assert_string_equal(store_path(f->store), f->dir.path);
}

static int job_write_on_reader(Db *db, void *arg)
{
    int r = put_row(db, str_of(arg));
    return r;
}

static void test_reader_cannot_write(void **state)
{
    Fixture *f = *state;
    assert_int_equal(store_read(f->store, job_write_on_reader, "a"), -EROFS);
    assert_int_equal(count(f->store), 0);
}

static int job_types(Db *db, void *arg)
{
    Arena *arena = arg;
    DbStmt *s = db_stmt(db, "SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8");
    db_bind_i64(s, 1, INT64_MIN);
    db_bind_f64(s, 2, 0.5);
    db_bind_text(s, 3, STR("a\0b"));
    db_bind_blob(s, 4, STR("\xff"));
    db_bind_text(s, 5, STR_NULL);
    db_bind_text_or_null(s, 6, STR_NULL);
    db_bind_null(s, 7);
    if (db_step(s) != DB_E_ROW) return 1;
    if (db_i64(s, 0) != INT64_MIN || db_f64(s, 1) != 0.5) return 2;
    if (!str_eq(db_str(s, 2), STR("a\0b")) || !str_eq(db_str(s, 3), STR("\xff"))) return 3;
    if (db_is_null(s, 4) || db_str(s, 4).len != 0) return 4;
    if (!db_is_null(s, 5) || !db_is_null(s, 6) || !db_is_null(s, 7)) return 5;
    Str kept = db_str_dup(s, 2, arena);
    if (db_step(s) != 0) return 6;
    if (!str_eq(kept, STR("a\0b")) || kept.ptr[kept.len] != '\0') return 7;
    s = db_stmt(db, "SELECT ?1");
    return db_step(s) == DB_E_ROW && db_is_null(s, 0) ? 0 : 8;
}

static void test_types(void **state)
{
    Fixture *f = *state;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, 4096);
    assert_int_equal(store_call(f->store, job_types, &arena), 0);
}

static int job_given(Db *db, void *arg)
{
    (void)arg;
    const DbCell cells[] = {
        { .kind = DB_CELL_I64, .i64 = INT64_MIN }, { .kind = DB_CELL_TEXT, .str = STR("a\0b") },
        { .kind = DB_CELL_BLOB, .str = STR_NULL }, { .kind = DB_CELL_NULL },
        { .kind = DB_CELL_TEXT, .str = STR_NULL }, { .kind = DB_CELL_BLOB, .str = STR("\xff") },
    };
    const DbGiven given = { cells, 2, 3 }, none = { NULL, 0, 3 };
    DbStmt *s = db_stmt(db, "SELECT c0, c1, c2, c3 FROM given(?1)");
    db_bind_given(s, 1, &given);
    if (db_step(s) != DB_E_ROW || db_i64(s, 0) != INT64_MIN) return 1;
    if (!str_eq(db_str(s, 1), STR("a\0b")) || db_is_null(s, 2) || !db_is_null(s, 3)) return 2;
    if (db_step(s) != DB_E_ROW || !db_is_null(s, 0) || db_is_null(s, 1)) return 3;
    if (db_str(s, 1).len != 0 || !str_eq(db_str(s, 2), STR("\xff"))) return 4;
    if (db_step(s) != 0) return 5;
    s = db_stmt(db, "SELECT c0, c1, c2, c3 FROM given(?1)");
    db_bind_given(s, 1, &none);
    if (db_step(s) != 0) return 6;
    s = db_stmt(db, "SELECT c0 FROM given(?1)"); /* nothing given */
    return db_step(s) == 0 ? 0 : 7;
}

static void test_given(void **state)
{
    Fixture *f = *state;
    assert_int_equal(store_call(f->store, job_given, NULL), 0);
    assert_int_equal(store_read(f->store, job_given, NULL), 0);
}

/* --- group commit ----------------------------------------------------------------------------- */

/* Holds the store thread inside a job, so that what is posted meanwhile waits together. */
typedef struct {
    Store *store;
    pthread_barrier_t entered, leave;
} Gate;

static int job_gate(Db *db, void *arg)
{
    (void)db;
    Gate *gate = arg;
    pthread_barrier_wait(&gate->entered);
    pthread_barrier_wait(&gate->leave);
    return 0;
}

static int gate_fiber(void *arg)
{
    return store_call_wait(((Gate *)arg)->store, job_gate, arg);
}

/* Runs fn(&args[i]) as n fibers whose jobs wait together. */
static int gate_run(Gate *gate, FiberFn fn, void *args, size_t size, size_t n)
{
    FiberRef refs[80], holder;
    assert(n <= ARRAY_N(refs));
    pthread_barrier_init(&gate->entered, NULL, 2);
    pthread_barrier_init(&gate->leave, NULL, 2);
    int r = fiber_spawn("gate", gate_fiber, gate, &holder);
    (void)fiber_yield_wait();
    pthread_barrier_wait(&gate->entered);
    for (size_t i = 0; i < n; i++) r |= fiber_spawn("job", fn, (char *)args + i * size, &refs[i]);
    (void)fiber_yield_wait();
    pthread_barrier_wait(&gate->leave);
    for (size_t i = 0; i < n; i++) (void)fiber_join_wait(refs[i], NULL);
    (void)fiber_join_wait(holder, NULL);
    pthread_barrier_destroy(&gate->entered);
    pthread_barrier_destroy(&gate->leave);
    return r;
}

#define GROUP_N 64

typedef struct {
    Store *store;
    int id;
    int result;
    int done; /* 1 + what job_done was told */
} Producer;

static int job_numbered(Db *db, void *arg)
{
    Producer *p = arg;
    char name[32];
    snprintf(name, sizeof name, "%04d", p->id);
    int r = put_row(db, str_of(name));
    return r == 0 && p->id % 8 == 3 ? diag_set(9, "%d", p->id) : r;
}

static int producer_main(void *arg)
{
    Producer *p = arg;
    p->result = store_call_wait(p->store, job_numbered, p);
    if (p->result == 9 && (size_t)p->id != (size_t)strtoul(diag_text(), NULL, 10)) p->result = -1;
    return 0;
}

static int group_main(void *arg)
{
    Producer *p = arg;
    Gate gate = { .store = p->store };
    return gate_run(&gate, producer_main, p, sizeof *p, GROUP_N);
}

static void test_group_commit(void **state)
{
    Fixture *f = *state;
    Producer p[GROUP_N];
    for (int i = 0; i < GROUP_N; i++) p[i] = (Producer){ .store = f->store, .id = i, .result = -1 };
    harness_run(group_main, p);
    int kept = 0;
    for (int i = 0; i < GROUP_N; i++) {
        assert_int_equal(p[i].result, i % 8 == 3 ? 9 : 0);
        kept += p[i].result == 0;
    }
    StoreStats stats;
    store_stats(f->store, &stats);
    assert_int_equal(stats.jobs, GROUP_N + 1);
    assert_int_equal(stats.commits, 2); /* the gate's, and one for all others */
    assert_int_equal(stats.batch_jobs_peak, GROUP_N);
    assert_int_equal(stats.jobs_failed, 8);
    assert_int_equal(count(f->store), kept);
}

#define ALONE_N 12 /* more than a batch is waited for others */

static int alone_main(void *arg)
{
    Producer *p = arg;
    int r = group_main(p);
    for (int i = 0; i < ALONE_N && r == 0; i++) r = producer_main(&p[GROUP_N + i]);
    return r;
}

/* After many at a time each that comes alone is waited for others, which do not come. */
static void test_alone_after_a_crowd(void **state)
{
    Fixture *f = *state;
    Producer p[GROUP_N + ALONE_N];
    for (int i = 0; i < GROUP_N + ALONE_N; i++)
        p[i] = (Producer){ .store = f->store, .id = 8 * i, .result = -1 };
    harness_run(alone_main, p);
    for (int i = 0; i < GROUP_N + ALONE_N; i++) assert_int_equal(p[i].result, 0);
    StoreStats stats;
    store_stats(f->store, &stats);
    assert_int_equal(stats.commits, 2 + ALONE_N);
    assert_int_equal(count(f->store), GROUP_N + ALONE_N);
}

/* --- jobs that are in no hurry ---------------------------------------------------------------- */

#define PATIENT_N 3
#define NEVER_US INT64_C(3600000000)

static int numbered_all(Db *db, void *const *args, size_t n)
{
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) r = job_numbered(db, args[i]);
    return r;
}

static const StoreMany patient = { .one = job_numbered, .all = numbered_all };

static int late_main(void *arg)
{
    Producer *p = arg;
    p->result = store_many_late_wait(p->store, &patient, p, NEVER_US);
    return 0;
}

static int soon_main(void *arg)
{
    Producer *p = arg;
    p->result = store_many_late_wait(p->store, &patient, p, 3000);
    return 0;
}

/* After a crowd some would wait for an hour, until last comes. */
static int patient_main(void *arg, FiberFn last)
{
    Producer *p = arg;
    FiberRef refs[PATIENT_N];
    int r = group_main(p);
    p += GROUP_N;
    for (int i = 0; i < PATIENT_N; i++) r |= fiber_spawn("late", late_main, &p[i], &refs[i]);
    (void)fiber_yield_wait();
    r |= last(&p[PATIENT_N]);
    for (int i = 0; i < PATIENT_N; i++) (void)fiber_join_wait(refs[i], NULL);
    return r;
}

static int patient_then_hurried(void *arg)
{
    return patient_main(arg, producer_main);
}

static int patient_then_sooner(void *arg)
{
    return patient_main(arg, soon_main);
}

static void ride_along(Fixture *f, FiberFn main_fn)
{
    Producer p[GROUP_N + PATIENT_N + 1];
    for (size_t i = 0; i < ARRAY_N(p); i++)
        p[i] = (Producer){ .store = f->store, .id = 8 * (int)i, .result = -1 };
    harness_run(main_fn, p);
    for (size_t i = 0; i < ARRAY_N(p); i++) assert_int_equal(p[i].result, 0);
    StoreStats stats;
    store_stats(f->store, &stats);
    assert_int_equal(stats.commits, 2 + 1); /* those of the crowd, and one */
    assert_int_equal(count(f->store), ARRAY_N(p));
}

/* They go with the first that is in a hurry, or that waits less. */
static void test_patient_ride_along(void **state)
{
    ride_along(*state, patient_then_hurried);
}

static void test_patient_until_the_first(void **state)
{
    ride_along(*state, patient_then_sooner);
}

/* Where none came at a time of late nobody else is waited for. */
static void test_patient_alone(void **state)
{
    Fixture *f = *state;
    Producer p = { .store = f->store, .result = -1 };
    harness_run(late_main, &p);
    assert_int_equal(p.result, 0);
}

/* --- jobs of one kind ------------------------------------------------------------------------- */

static size_t together_calls, together_n; /* the store thread's */
static bool one_kind;                     /* there are no others in the batch */

static int jobs_numbered(Db *db, void *const *args, size_t n)
{
    int r = 0;
    together_calls++;
    together_n += n;
    for (size_t i = 0; i < n && r == 0; i++) r = job_numbered(db, args[i]);
    return r;
}

static _Atomic size_t told; /* callers of the batch that have their answer */

/* The store thread's, and before any of them. */
static void job_done(void *arg, int result)
{
    Producer *p = arg;
    assert_int_equal(p->done, 0);
    assert_int_equal(told, 0);
    p->done = 1 + result;
}

static int together_producer(void *arg)
{
    static const StoreMany many = { .one = job_numbered, .all = jobs_numbered, .done = job_done };
    Producer *p = arg;
    p->result = p->id % 5 == 4 && !one_kind ? store_call_wait(p->store, job_numbered, p)
                                            : store_many_wait(p->store, &many, p);
    told++;
    if (p->result == 9 && (size_t)p->id != (size_t)strtoul(diag_text(), NULL, 10)) p->result = -1;
    return 0;
}

static int together_main(void *arg)
{
    Producer *p = arg;
    Gate gate = { .store = p->store };
    return gate_run(&gate, together_producer, p, sizeof *p, GROUP_N);
}

/* Together when that goes well; else each gets the answer it would get by itself. */
static void together(Fixture *f, int id_step, size_t want_kept)
{
    Producer p[GROUP_N];
    StoreStats before, after;
    store_stats(f->store, &before);
    int64_t rows = count(f->store);
    together_calls = together_n = 0;
    told = 0;
    for (int i = 0; i < GROUP_N; i++)
        p[i] = (Producer){ .store = f->store, .id = i * id_step, .result = -1 };
    harness_run(together_main, p);
    for (int i = 0; i < GROUP_N; i++) assert_int_equal(p[i].result, p[i].id % 8 == 3 ? 9 : 0);
    for (int i = 0; i < GROUP_N; i++)
        if (p[i].done != 0 || p[i].id % 5 != 4 || one_kind)
            assert_int_equal(p[i].done, 1 + p[i].result);
    store_stats(f->store, &after);
    assert_int_equal(count(f->store) - rows, want_kept);
    assert_int_equal(together_calls, 1);
    assert_int_equal(after.commits - before.commits, 2); /* the gate's, and one for all others */
    assert_int_equal(after.jobs - before.jobs, GROUP_N + 1);
    assert_int_equal(after.jobs_failed - before.jobs_failed, GROUP_N - want_kept);
}

static void test_together(void **state)
{
    together(*state, 16, GROUP_N);
    assert_int_equal(together_n, 52); /* every fifth is of no kind */
}

static void test_together_undone(void **state)
{
    together(*state, 1, GROUP_N - 8);
}

static int meanwhiles;

/* The store thread's: after the job, before it is done. */
static void job_meanwhile(void *arg)
{
    Producer *p = arg;
    assert_int_equal(p->done, 0);
    meanwhiles++;
}

static int by_itself_main(void *arg)
{
    static const StoreMany many = {
        .one = job_numbered, .all = jobs_numbered, .meanwhile = job_meanwhile, .done = job_done
    };
    Producer *p = arg;
    told = 0;
    p->result = store_many_wait(p->store, &many, p);
    return 0;
}

/* Who is alone is told when the disk writes, if there is something to write. */
static void test_meanwhile(void **state)
{
    Fixture *f = *state;
    for (int id = 16; id < 20; id++) {
        Producer p = { .store = f->store, .id = id, .result = -1 };
        meanwhiles = 0;
        harness_run(by_itself_main, &p);
        assert_int_equal(p.result, id % 8 == 3 ? 9 : 0);
        assert_int_equal(meanwhiles, p.result == 0);
        assert_int_equal(p.done, 1 + p.result);
    }
}

/* There is no savepoint then. */
static void test_one_kind(void **state)
{
    one_kind = true;
    together(*state, 16, GROUP_N);
    one_kind = false;
    assert_int_equal(together_n, GROUP_N);
}

/* And all of the transaction is undone. */
static void test_one_kind_undone(void **state)
{
    one_kind = true;
    together(*state, 1, GROUP_N - 8);
    one_kind = false;
}

#define LOOPS 4
#define LOOP_JOBS 50

static int loop_producer(void *arg)
{
    Producer *p = arg;
    for (int i = 0; i < LOOP_JOBS; i++) {
        Producer one = { .store = p->store, .id = p->id * 1000 + i * 8 };
        if (store_call_wait(p->store, job_numbered, &one) != 0) p->result = 1;
        int64_t n = 0; /* what was acknowledged is there for a reader */
        if (store_read_wait(p->store, job_count, &n) != 0 || n <= i) p->result = 2;
    }
    loop_stop(loop_here());
    return 0;
}

static void test_many_loops(void **state)
{
    Fixture *f = *state;
    Loop *loops[LOOPS];
    Producer p[LOOPS];
    for (int i = 0; i < LOOPS; i++) {
        p[i] = (Producer){ .store = f->store, .id = i };
        loops[i] = loop_new("producer");
        fiber_spawn_on(loops[i], "producer", loop_producer, &p[i]);
        loop_start_thread(loops[i]);
    }
    for (int i = 0; i < LOOPS; i++) {
        loop_join(loops[i]);
        loop_free(loops[i]);
        assert_int_equal(p[i].result, 0);
    }
    assert_int_equal(count(f->store), LOOPS * LOOP_JOBS);
    StoreStats stats;
    store_stats(f->store, &stats);
    assert_int_equal(stats.jobs, LOOPS * LOOP_JOBS);
    assert_true(stats.commits <= stats.jobs);
    assert_int_equal(stats.reads, LOOPS * LOOP_JOBS + 1);
}

/* --- limits ----------------------------------------------------------------------------------- */

static int crowd_one(void *arg)
{
    Producer *p = arg;
    int64_t n;
    return p->result = store_call_wait(p->store, job_count, &n);
}

static int crowd_main(void *arg)
{
    Producer *p = arg;
    Gate gate = { .store = p->store };
    return gate_run(&gate, crowd_one, p, sizeof *p, 8);
}

static void test_too_many_jobs(void **state)
{
    Fixture *f = *state;
    store_close(f->store);
    f->store = open_store(f->dir.path, (StoreOptions){ .waiting_jobs_max = 4 });
    Producer p[8];
    for (int i = 0; i < 8; i++) p[i] = (Producer){ .store = f->store, .id = i };
    harness_run(crowd_main, p);
    for (int i = 0; i < 8; i++) assert_int_equal(p[i].result, i < 4 ? 0 : -EAGAIN);
    StoreStats stats;
    store_stats(f->store, &stats);
    assert_int_equal(stats.refused_full, 4);
}

static int job_put_big(Db *db, void *arg)
{
    DbStmt *s = db_stmt(db, "INSERT INTO agent (name, settings, created_at_ms)"
                            " VALUES (?1, hex(zeroblob(100000)), 1)");
    db_bind_text(s, 1, str_of(arg));
    return db_run(s, NULL);
}

static int job_delete_all(Db *db, void *arg)
{
    (void)arg;
    return db_run(db_stmt(db, "DELETE FROM agent"), NULL);
}

static void test_disk_full(void **state)
{
    Fixture *f = *state;
    store_close(f->store);
    f->store = open_store(f->dir.path, (StoreOptions){ .pages_max = 200 });
    char name[16];
    int r = 0, n = 0;
    for (; n < 100 && r == 0; n++) {
        snprintf(name, sizeof name, "%d", n);
        r = store_call(f->store, job_put_big, name);
    }
    assert_int_equal(r, -ENOSPC);
    assert_string_equal(diag_text(), "the disk is full");
    assert_int_equal(count(f->store), n - 1);
    StoreStats stats;
    store_stats(f->store, &stats);
    assert_int_equal(stats.disk_full, 1);
    assert_int_equal(store_call(f->store, job_delete_all, NULL), 0); /* it goes on */
    assert_int_equal(store_call(f->store, job_put_big, "again"), 0);
    assert_int_equal(count(f->store), 1);
}

static int job_rewrite(Db *db, void *arg)
{
    (void)arg;
    return db_run(db_stmt(db, "INSERT INTO agent (name, settings, created_at_ms)"
                              " VALUES ('a', hex(randomblob(1000000)), 1) ON CONFLICT (name)"
                              " DO UPDATE SET settings = excluded.settings"),
                  NULL);
}

static void test_log_is_bounded(void **state)
{
    Fixture *f = *state;
    char path[300];
    struct stat st;
    for (int i = 0; i < 80; i++) assert_int_equal(store_call(f->store, job_rewrite, NULL), 0);
    snprintf(path, sizeof path, "%s/gantry.db-wal", f->dir.path);
    assert_int_equal(stat(path, &st), 0);
    assert_in_range(st.st_size, 60 << 20, 70 << 20); /* 160 MB were written */
}

/* --- one owner -------------------------------------------------------------------------------- */

/* A child process's exit status; fn runs there. */
static int in_child(int (*fn)(const char *path), const char *path)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(99);
        _exit(fn(path));
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int child_open(const char *path)
{
    Store *store = NULL;
    return -store_open(&(StoreOptions){ .path = path }, &store);
}

static void test_second_process(void **state)
{
    Fixture *f = *state;
    store_close(TAKE(f->store)); /* no threads may run across the fork */
    TempDir *dir = &f->dir;
    int ready[2], leave[2];
    assert_int_equal(pipe(ready) | pipe(leave), 0);
    pid_t owner = fork();
    if (owner == 0) {
        Store *store = NULL;
        char c = store_open(&(StoreOptions){ .path = dir->path }, &store) == 0 ? 'y' : 'n';
        if (write(ready[1], &c, 1) != 1 || read(leave[0], &c, 1) != 1) _exit(1);
        store_close(store);
        _exit(0);
    }
    char c = 0;
    assert_int_equal(read(ready[0], &c, 1), 1);
    assert_int_equal(c, 'y');
    Store *second = NULL;
    assert_int_equal(store_open(&(StoreOptions){ .path = dir->path }, &second), -EBUSY);
    assert_null(second);
    char want[64];
    snprintf(want, sizeof want, "held by process %d:", (int)owner);
    assert_non_null(strstr(diag_text(), want));
    assert_int_equal(write(leave[1], "x", 1), 1);
    int status = -1;
    assert_int_equal(waitpid(owner, &status, 0), owner);
    assert_int_equal(status, 0);
    assert_int_equal(in_child(child_open, dir->path), 0); /* the lock is free again */
    for (int i = 0; i < 2; i++) close(ready[i]), close(leave[i]);
}

/* The owner is gone, but what it was starting has still its lock, for a moment. */
static void test_lock_left_behind(void **state)
{
    Fixture *f = *state;
    char path[512];
    store_close(TAKE(f->store));
    snprintf(path, sizeof path, "%s/gantry.lock", f->dir.path);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
    pid_t child = fork();
    if (child == 0) {
        usleep(50000);
        _exit(0);
    }
    close(fd);
    assert_int_equal(store_open(&(StoreOptions){ .path = f->dir.path }, &f->store), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
}

static int child_two_writers(const char *path)
{
    Db *a = NULL, *b = NULL;
    if (db_open_writer(path, 0, 0, &a) != 0) return 1;
    return db_open_writer(path, 0, 0, &b) == 0 ? 2 : 3;
}

static void test_second_writer_aborts(void **state)
{
    Fixture *f = *state;
    store_close(TAKE(f->store));
    assert_int_equal(in_child(child_two_writers, f->dir.path), 1000 + SIGABRT);
}

/* Readers of SQLite take the write lock for a moment when they find the log's header half written;
 * another process does here what one of our threads would, and is slow to give it back. */
#define WAL_WRITE_LOCK_AT 120 /* a byte of the file -shm, by SQLite's "WAL-mode File Format" */

static NO_RETURN void hold_write_lock(const char *shm, int said)
{
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = WAL_WRITE_LOCK_AT, .l_len = 1
    };
    int fd = open(shm, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fcntl(fd, F_SETLKW, &lock) != 0 || write(said, "h", 1) != 1) _exit(1);
    usleep(150 * 1000);
    _exit(0);
}

static void test_write_lock_is_waited_for(void **state)
{
    Fixture *f = *state;
    char shm[PATH_MAX], said;
    int pipe_fds[2], status;
    assert_int_equal(store_call(f->store, job_put, "first"), 0); /* -shm is there now */
    snprintf(shm, sizeof shm, "%s/gantry.db-shm", f->dir.path);
    assert_int_equal(pipe(pipe_fds), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) hold_write_lock(shm, pipe_fds[1]);
    assert_int_equal(read(pipe_fds[0], &said, 1), 1);
    assert_int_equal(store_call(f->store, job_put, "second"), 0);
    assert_int_equal(count(f->store), 2);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static void test_wal_reset_fixed(void **state)
{
    (void)state;
    assert_false(db_wal_reset_fixed(3040001));
    assert_false(db_wal_reset_fixed(3044005));
    assert_true(db_wal_reset_fixed(3044006));
    assert_false(db_wal_reset_fixed(3045001));
    assert_false(db_wal_reset_fixed(3050006));
    assert_true(db_wal_reset_fixed(3050007));
    assert_false(db_wal_reset_fixed(3051002));
    assert_true(db_wal_reset_fixed(3051003));
    assert_false(db_wal_reset_fixed(3052000));
    assert_true(db_wal_reset_fixed(3052001));
}

static void test_open_errors(void **state)
{
    Fixture *f = *state;
    Store *store = NULL;
    char path[512];
    snprintf(path, sizeof path, "%s/gantry.lock/below", f->dir.path); /* not a directory */
    assert_int_equal(store_open(&(StoreOptions){ .path = path }, &store), -ENOTDIR);
    assert_non_null(strstr(diag_text(), "gantry.lock"));
    assert_null(store);
}

static void test_makes_directories(void **state)
{
    Fixture *f = *state;
    store_close(TAKE(f->store));
    char path[512];
    snprintf(path, sizeof path, "%s/x/y/z/", f->dir.path);
    f->store = open_store(path, (StoreOptions){ 0 });
    assert_int_equal(store_call(f->store, job_put, "a"), 0);
}

/* --- migrations ------------------------------------------------------------------------------- */

static int job_from_the_future(Db *db, void *arg)
{
    (void)arg;
    return db_run(db_stmt(db, "INSERT INTO migration (number, name, checksum, applied_at_ms)"
                              " VALUES (1000, 'later', '', 1)"),
                  NULL);
}

static void test_newer_database(void **state)
{
    Fixture *f = *state;
    assert_int_equal(store_call(f->store, job_from_the_future, NULL), 0);
    store_close(TAKE(f->store));
    assert_int_equal(store_open(&(StoreOptions){ .path = f->dir.path }, &f->store), -EPROTO);
    assert_null(f->store);
    assert_non_null(strstr(diag_text(), "newer gantry"));
}

static const Migration steps[] = {
    { 1, "one", "CREATE TABLE one (a INTEGER)" },
    { 2, "two", "CREATE TABLE two (a INTEGER); INSERT INTO two VALUES (2)" },
};
static const Migration steps_changed[] = { { 1, "one", "CREATE TABLE one (b INTEGER)" } };
static const Migration steps_broken[] = {
    { 1, "one", "CREATE TABLE one (a INTEGER)" },
    { 2, "two", "CREATE TABLE two (a INTEGER); INSERT INTO nowhere VALUES (2)" },
};

static void test_migration_steps(void **state)
{
    (void)state;
    TempDir dir;
    temp_dir_init(&dir);
    Db *db = NULL;
    assert_int_equal(db_open_writer(dir.path, 0, 0, &db), 0);
    assert_int_equal(migrations_run_steps(db, steps_broken, 2), -EIO);
    assert_non_null(strstr(diag_text(), "migration 2 (two)"));
    assert_int_equal(db_script(db, "INSERT INTO one VALUES (1)"), 0); /* the first one stays */
    assert_int_equal(db_script(db, "INSERT INTO two VALUES (1)"),
                     -EIO); /* the second is undone whole */
    assert_int_equal(migrations_run_steps(db, steps, 2), 0);
    assert_int_equal(migrations_run_steps(db, steps, 2), 0); /* once only: no second row in two */
    DbStmt *s = db_stmt(db, "SELECT count(*) FROM two");
    assert_int_equal(db_step(s), DB_E_ROW);
    assert_int_equal(db_i64(s, 0), 1);
    db_reset(s);
    assert_int_equal(migrations_run_steps(db, steps, 1), -EPROTO);
    assert_non_null(strstr(diag_text(), "newer"));
    assert_int_equal(migrations_run_steps(db, steps_changed, 1), -EPROTO);
    db_close(db);
    temp_dir_deinit(&dir);
}

static void test_migration_changed(void **state)
{
    (void)state;
    TempDir dir;
    temp_dir_init(&dir);
    Db *db = NULL;
    assert_int_equal(db_open_writer(dir.path, 0, 0, &db), 0);
    assert_int_equal(migrations_run_steps(db, steps, 1), 0);
    assert_int_equal(migrations_run_steps(db, steps_changed, 1), -EPROTO);
    assert_non_null(strstr(diag_text(), "another build"));
    db_close(db);
    temp_dir_deinit(&dir);
}

static int64_t first_of(Db *db, const char *sql)
{
    DbStmt *s = db_stmt(db, sql);
    assert_int_equal(db_step(s), DB_E_ROW);
    int64_t n = db_i64(s, 0);
    db_reset(s);
    return n;
}

/* How many steps came before the one with that name. */
static size_t steps_before(const char *name)
{
    size_t n = 0;
    while (n < schema_steps_n && strcmp(schema_steps[n].name, name) != 0) n++;
    assert_true(n < schema_steps_n);
    return n;
}

/* What was not queued any more had kept its gate. */
static void test_migration_of_gates(void **state)
{
    (void)state;
    TempDir dir;
    temp_dir_init(&dir);
    Db *db = NULL;
    assert_int_equal(db_open_writer(dir.path, 0, 0, &db), 0);
    assert_int_equal(migrations_run_steps(db, schema_steps, steps_before("slim indexes")), 0);
    assert_int_equal(db_script(db, "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1"
                                   " FROM n WHERE i < 34)"
                                   " INSERT INTO task (id, state, lane, gate, worker_id,"
                                   " created_at_ms, ready_at_ms, agent, version_id, session_max,"
                                   " session_id)"
                                   " SELECT CAST(printf('%016d', i) AS BLOB), i % 7, 1, i / 7,"
                                   " iif(i % 7 = 1, zeroblob(16), NULL), 0, i, 'a', 'v',"
                                   " i / 7 = 3, 's' FROM n"),
                     0);
    assert_int_equal(migrations_run(db), 0);
    assert_int_equal(first_of(db, "SELECT count(*) FROM task WHERE state <> 0 AND gate <> 0"), 0);
    assert_int_equal(first_of(db, "SELECT sum(gate) FROM task WHERE state = 0"), 1 + 2 + 3 + 4);
    assert_int_equal(first_of(db, "SELECT count(*) FROM (" TASK_QUEUED_SQL ")"), 5);
    assert_int_equal(first_of(db, "SELECT count(*) FROM task INDEXED BY task_running"
                                  " WHERE state = 1"),
                     5);
    assert_int_equal(first_of(db, "SELECT count(*) FROM pragma_integrity_check"
                                  " WHERE integrity_check = 'ok'"),
                     1);
    db_close(db);
    temp_dir_deinit(&dir);
}

/* What a rollout has drawn goes on where a tenant's name is part of its units. */
static void test_migration_of_units(void **state)
{
    (void)state;
    TempDir dir;
    temp_dir_init(&dir);
    Db *db = NULL;
    assert_int_equal(db_open_writer(dir.path, 0, 0, &db), 0);
    assert_int_equal(migrations_run_steps(db, schema_steps, steps_before("tenants' units")), 0);
    assert_int_equal(
        db_script(db, "INSERT INTO task (seq, id, state, lane, created_at_ms, ready_at_ms, agent,"
                      " version_id, tenant_id) VALUES (1, zeroblob(16), 0, 1, 0, 0, 'a', 'v', 't'),"
                      " (2, CAST('0123456789abcdef' AS BLOB), 0, 1, 0, 0, 'a', 'v', NULL);"
                      "INSERT INTO rollout (seq, id, agent, version_id, control_id, block,"
                      " settings, state, resumes, step, weight_bp, state_since_ms, step_since_ms,"
                      " step_canaries, deadline_at_ms, paged, cost_cap_nusd, tokens_cap,"
                      " latency_p95_ms, tool_calls_p95, why, created_at_ms, changed_at_ms) VALUES"
                      " (1, 'r', 'a', 'v', 'w', '{}', '{}', 3, 0, 0, 5000, 0, 0, 0, 0, 0, 1, 1, 1,"
                      " 1, '', 0, 0);"
                      "INSERT INTO rollout_unit (rollout_seq, kind, unit, arm, counts, eligible_ms,"
                      " task_seq, pi) VALUES (1, 0, 's', 1, 1, 0, 1, 0.5),"
                      " (1, 1, 'u', 1, 1, 0, 2, 0.5), (1, 2, 't', 1, 1, 0, 1, 0.5)"),
        0);
    assert_int_equal(migrations_run(db), 0);
    assert_int_equal(first_of(db, "SELECT count(*) FROM rollout_unit WHERE (kind, unit) IN"
                                  " ((0, 't' || char(10) || 's'), (1, 'u'), (2, 't'))"),
                     3);
    db_close(db);
    temp_dir_deinit(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_call_and_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reader_cannot_write, setup, teardown),
        cmocka_unit_test_setup_teardown(test_types, setup, teardown),
        cmocka_unit_test_setup_teardown(test_given, setup, teardown),
        cmocka_unit_test_setup_teardown(test_group_commit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_alone_after_a_crowd, setup, teardown),
        cmocka_unit_test_setup_teardown(test_patient_ride_along, setup, teardown),
        cmocka_unit_test_setup_teardown(test_patient_until_the_first, setup, teardown),
        cmocka_unit_test_setup_teardown(test_patient_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_together, setup, teardown),
        cmocka_unit_test_setup_teardown(test_together_undone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_meanwhile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_kind, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_kind_undone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_loops, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_many_jobs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_disk_full, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_second_process, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lock_left_behind, setup, teardown),
        cmocka_unit_test_setup_teardown(test_second_writer_aborts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_write_lock_is_waited_for, setup, teardown),
        cmocka_unit_test(test_wal_reset_fixed),
        cmocka_unit_test_setup_teardown(test_open_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_makes_directories, setup, teardown),
        cmocka_unit_test_setup_teardown(test_newer_database, setup, teardown),
        cmocka_unit_test(test_migration_steps),
        cmocka_unit_test(test_migration_changed),
        cmocka_unit_test(test_migration_of_gates),
        cmocka_unit_test(test_migration_of_units),
    };
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
