/* Whatever the writer does, another connection reads what was committed, and the log is written in
 * few pieces. */
#include "tests/unit/sys_harness.h"

#include <string.h>
#include <sys/stat.h>

#include <sqlite3.h>

#include "logic/rng.h"
#include "store/log_vfs.h"
#include "tests/unit/temp_dir.h"

#define ROUNDS 80
#define KEYS 400
#define VALUE_BYTES_MAX 9000

/* --- a disk that counts ----------------------------------------------------------------------- */

static sqlite3_vfs counting_vfs, *sound_vfs;
static sqlite3_io_methods counting_methods;
static const sqlite3_io_methods *sound_methods;
static int log_writes, log_zeros; /* of frames, of nothing */
static bool no_room;              /* for the latter */

static bool is_zeros(const char *bytes, int n)
{
    return n > 0 && bytes[0] == 0 && memcmp(bytes, bytes + 1, (size_t)n - 1) == 0;
}

static int counting_write(sqlite3_file *file, const void *bytes, int n, sqlite3_int64 offset)
{
    bool zeros = is_zeros(bytes, n);
    log_writes += !zeros;
    log_zeros += zeros;
    if (zeros && no_room) return SQLITE_FULL;
    return sound_methods->xWrite(file, bytes, n, offset);
}

static int log_syncs;

static int counting_sync(sqlite3_file *file, int flags)
{
    log_syncs++;
    return sound_methods->xSync(file, flags);
}

static int counting_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags,
                         int *ret_flags)
{
    (void)vfs;
    int rc = sound_vfs->xOpen(sound_vfs, name, file, flags, ret_flags);
    if (rc != SQLITE_OK || !(flags & SQLITE_OPEN_WAL)) return rc;
    sound_methods = file->pMethods;
    counting_methods = *sound_methods;
    counting_methods.xWrite = counting_write;
    counting_methods.xSync = counting_sync;
    file->pMethods = &counting_methods;
    return SQLITE_OK;
}

static int counting_disk(void **state)
{
    (void)state;
    sound_vfs = sqlite3_vfs_find(NULL);
    counting_vfs = *sound_vfs;
    counting_vfs.zName = "counting";
    counting_vfs.xOpen = counting_open;
    return sqlite3_vfs_register(&counting_vfs, 1);
}

/* --- the two connections ---------------------------------------------------------------------- */

typedef struct {
    TempDir dir;
    sqlite3 *writer, *reader;
    int64_t now[KEYS], committed[KEYS]; /* lengths of values, 0: no row */
} Fixture;

static void sql(sqlite3 *db, const char *text)
{
    char *message = NULL;
    if (sqlite3_exec(db, text, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", text, message);
}

static sqlite3 *open_db(const char *dir, const char *vfs)
{
    char path[300];
    sqlite3 *db = NULL;
    snprintf(path, sizeof path, "%s/x.db", dir);
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    assert_int_equal(sqlite3_open_v2(path, &db, flags, vfs), SQLITE_OK);
    return db;
}

static void start(Fixture *f, const char *synchronous)
{
    char text[64];
    *f = (Fixture){ 0 };
    temp_dir_init(&f->dir);
    f->writer = open_db(f->dir.path, log_vfs_use());
    sql(f->writer, "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;"
                   "PRAGMA cache_size = 20;" /* spills: frames are written before any commit */
                   "CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB)");
    snprintf(text, sizeof text, "PRAGMA synchronous = %s", synchronous);
    sql(f->writer, text);
    f->reader = open_db(f->dir.path, NULL);
}

static void stop(Fixture *f)
{
    sqlite3_close(f->reader);
    sqlite3_close(f->writer);
    temp_dir_deinit(&f->dir);
}

static uint64_t below(Rng *rng, uint64_t n)
{
    return rng_next(rng) % n;
}

static void change(Fixture *f, Rng *rng)
{
    char text[120];
    int key = (int)below(rng, KEYS), bytes = 1 + (int)below(rng, VALUE_BYTES_MAX);
    bool drop = below(rng, 4) == 0;
    if (drop) snprintf(text, sizeof text, "DELETE FROM t WHERE k = %d", key);
    else snprintf(text, sizeof text, "REPLACE INTO t VALUES (%d, randomblob(%d))", key, bytes);
    sql(f->writer, text);
    f->now[key] = drop ? 0 : bytes;
}

/* Some changes, kept or undone, some of them undone to a savepoint before that. */
static void transact(Fixture *f, Rng *rng)
{
    int64_t saved[KEYS];
    sql(f->writer, "BEGIN IMMEDIATE");
    for (uint64_t n = below(rng, 60); n > 0; n--) change(f, rng);
    memcpy(saved, f->now, sizeof saved);
    sql(f->writer, "SAVEPOINT s");
    for (uint64_t n = below(rng, 20); n > 0; n--) change(f, rng);
    if (below(rng, 3) == 0) {
        sql(f->writer, "ROLLBACK TO s");
        memcpy(f->now, saved, sizeof saved);
    }
    bool keep = below(rng, 4) != 0;
    sql(f->writer, keep ? "COMMIT" : "ROLLBACK");
    memcpy(keep ? f->committed : f->now, keep ? f->now : f->committed, sizeof f->now);
}

static void check_reader(Fixture *f)
{
    int64_t found[KEYS] = { 0 };
    sqlite3_stmt *stmt = NULL;
    const char *text = "SELECT k, length(v) FROM t";
    assert_int_equal(sqlite3_prepare_v2(f->reader, text, -1, &stmt, NULL), SQLITE_OK);
    while (sqlite3_step(stmt) == SQLITE_ROW)
        found[sqlite3_column_int(stmt, 0)] = sqlite3_column_int64(stmt, 1);
    assert_int_equal(sqlite3_finalize(stmt), SQLITE_OK);
    assert_memory_equal(found, f->committed, sizeof found);
}

static void check_sound(sqlite3 *db)
{
    sqlite3_stmt *stmt = NULL;
    assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &stmt, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    assert_string_equal((const char *)sqlite3_column_text(stmt, 0), "ok");
    sqlite3_finalize(stmt);
}

static void random_work(const char *synchronous, uint64_t seed)
{
    Fixture f;
    Rng rng = rng_seeded(seed);
    start(&f, synchronous);
    for (int i = 0; i < ROUNDS; i++) {
        transact(&f, &rng);
        check_reader(&f);
        if (below(&rng, 20) == 0) sql(f.writer, "PRAGMA wal_checkpoint(TRUNCATE)");
        else if (below(&rng, 20) == 0) sql(f.writer, "PRAGMA wal_checkpoint(RESTART)");
    }
    check_sound(f.reader);
    stop(&f);
}

static void test_readers_see_commits(void **state)
{
    (void)state;
    const char *const each[] = { "FULL", "NORMAL", "OFF" };
    for (size_t i = 0; i < ARRAY_N(each); i++) random_work(each[i], 7 + i);
}

static void test_few_pieces(void **state)
{
    (void)state;
    Fixture f;
    start(&f, "FULL");
    sql(f.writer, "PRAGMA cache_size = 1000; BEGIN IMMEDIATE");
    for (int i = 0; i < 20; i++) sql(f.writer, "INSERT INTO t (v) VALUES (randomblob(4000))");
    log_writes = 0;
    sql(f.writer, "COMMIT");
    assert_int_equal(log_writes, 1); /* twenty pages, each in two pieces */
    stop(&f);
}

static int64_t log_bytes(const Fixture *f)
{
    char path[300];
    struct stat st;
    snprintf(path, sizeof path, "%s/x.db-wal", f->dir.path);
    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

static void insert_pages(Fixture *f, int n)
{
    for (int i = 0; i < n; i++) sql(f->writer, "INSERT INTO t (v) VALUES (randomblob(4000))");
}

/* What is committed goes where zeros were, most often, and the log does not grow by it. */
static void test_filled_ahead(void **state)
{
    (void)state;
    Fixture f;
    start(&f, "FULL");
    insert_pages(&f, 100);
    int64_t before = log_bytes(&f);
    int grown = 0;
    log_writes = log_zeros = 0;
    for (int i = 0; i < 100; i++) {
        int64_t was = log_bytes(&f);
        insert_pages(&f, 1);
        grown += log_bytes(&f) != was;
    }
    assert_in_range(log_writes, 100, 110);
    assert_in_range(grown, 1, 2);
    assert_in_range(log_bytes(&f), before, 4 * before);
    stop(&f);
}

/* A log that was used before is written over, and filled only where it ends. */
static void test_not_filled_twice(void **state)
{
    (void)state;
    Fixture f;
    start(&f, "FULL");
    insert_pages(&f, 100);
    sql(f.writer, "PRAGMA wal_checkpoint(RESTART)");
    log_zeros = 0;
    insert_pages(&f, 40);
    assert_int_equal(log_zeros, 0);
    sql(f.writer, "PRAGMA wal_checkpoint(TRUNCATE)");
    insert_pages(&f, 1);
    assert_in_range(log_zeros, 1, 2);
    stop(&f);
}

/* Frames find a place where zeros do not. */
static void test_no_room_to_fill(void **state)
{
    (void)state;
    Fixture f;
    start(&f, "FULL");
    no_room = true;
    log_zeros = 0;
    insert_pages(&f, 100);
    no_room = false;
    assert_in_range(log_zeros, 1, 20); /* tried seldom */
    check_sound(f.reader);
    stop(&f);
}

typedef struct {
    int calls, syncs, writes; /* before it */
} Seen;

static void note(void *arg)
{
    Seen *seen = arg;
    *seen = (Seen){ seen->calls + 1, log_syncs, log_writes };
}

/* Between the writing and the sync, once; not where nothing is synced. */
static void test_meanwhile(void **state)
{
    (void)state;
    Fixture f;
    Seen seen = { 0 }, none = { 0 };
    start(&f, "FULL");
    insert_pages(&f, 1);
    log_syncs = log_writes = 0;
    log_vfs_meanwhile(f.writer, note, &seen);
    insert_pages(&f, 2);
    assert_int_equal(seen.calls, 1);
    assert_int_equal(seen.syncs, 0);
    assert_int_equal(seen.writes, 1);
    assert_int_equal(log_syncs, 2); /* it takes the place of none */
    log_vfs_meanwhile(f.writer, note, &none);
    sql(f.writer, "BEGIN IMMEDIATE; COMMIT");
    log_vfs_meanwhile(f.writer, NULL, NULL);
    log_vfs_meanwhile(f.reader, note, &none); /* has no such log */
    insert_pages(&f, 1);
    assert_int_equal(none.calls, 0);
    stop(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_readers_see_commits), cmocka_unit_test(test_few_pieces),
        cmocka_unit_test(test_filled_ahead),        cmocka_unit_test(test_not_filled_twice),
        cmocka_unit_test(test_no_room_to_fill),     cmocka_unit_test(test_meanwhile),
    };
    return cmocka_run_group_tests(tests, counting_disk, NULL);
}
