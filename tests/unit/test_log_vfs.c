/* Whatever the writer does, another connection reads what was committed, and the log is written in
 * few pieces. Where blocks can be synced by themselves, most commits do that. */
#include "tests/unit/sys_harness.h"

#include <string.h>
#include <sys/stat.h>

#include <sqlite3.h>

#include "base/str.h"
#include "logic/rng.h"
#include "store/log_vfs.h"
#include "sys/block_sync.h"
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
static int log_syncs;
static int64_t new_at, new_end; /* frames since any sync */

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
    if (!zeros) new_at = new_end ? MIN(new_at, offset) : offset;
    if (!zeros) new_end = MAX(new_end, offset + n);
    return sound_methods->xWrite(file, bytes, n, offset);
}

static int counting_sync(sqlite3_file *file, int flags)
{
    log_syncs++;
    new_at = new_end = 0;
    return sound_methods->xSync(file, flags);
}

/* In place of the operating system's. */
static struct BlockSync {
    int calls, result;
} blocks;
static bool has_blocks;

BlockSync *block_sync_open(const char *path)
{
    assert_true(str_ends_with(str_of(path), STR("-wal")));
    return has_blocks ? &blocks : NULL;
}

int block_sync(BlockSync *s, int64_t at, int64_t n)
{
    s->calls++;
    assert_true(new_end > 0 && at <= new_at && at + n >= new_end);
    if (s->result == 0) new_at = new_end = 0;
    return s->result;
}

void block_sync_close(BlockSync *s)
{
    if (s) assert_ptr_equal(s, &blocks);
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

static int blocks_begin(void **state)
{
    (void)state;
    has_blocks = true;
    blocks = (struct BlockSync){ 0 };
    return 0;
}

static int blocks_end(void **state)
{
    (void)state;
    has_blocks = false;
    return 0;
}

/* The log is synced as a whole when it has grown. */
static void test_blocks_synced(void **state)
{
    (void)state;
    Fixture f;
    start(&f, "FULL");
    insert_pages(&f, 100);
    log_syncs = blocks.calls = 0;
    insert_pages(&f, 100);
    assert_in_range(log_syncs, 1, 3);
    assert_int_equal(log_syncs + blocks.calls, 100);
    stop(&f);
}

/* A log that was cut off has to grow again. */
static void test_blocks_are_gone(void **state)
{
    (void)state;
    Fixture f;
    start(&f, "FULL");
    insert_pages(&f, 100);
    sql(f.writer, "PRAGMA wal_checkpoint(TRUNCATE)");
    log_syncs = blocks.calls = 0;
    insert_pages(&f, 1);
    assert_int_equal(log_syncs, 1); /* with its head, and what is filled ahead of that */
    assert_int_equal(blocks.calls, 1);
    stop(&f);
}

static void test_blocks_in_random_work(void **state)
{
    (void)state;
    random_work("FULL", 3);
    assert_true(blocks.calls > 0);
}

static void copy_file(const Fixture *f, const char *from, const char *to)
{
    static char bytes[4 << 20];
    char path[300];
    snprintf(path, sizeof path, "%s/%s", f->dir.path, from);
    FILE *in = fopen(path, "rb");
    snprintf(path, sizeof path, "%s/%s", f->dir.path, to);
    FILE *out = fopen(path, "wb");
    assert_true(in && out);
    size_t n = fread(bytes, 1, sizeof bytes, in);
    assert_true(n < sizeof bytes);
    assert_int_equal(fwrite(bytes, 1, n, out), n);
    assert_int_equal(fclose(in) | fclose(out), 0);
}

/* What a crash has left may have no blocks where it has bytes. */
static void test_found_log_is_not_trusted(void **state)
{
    (void)state;
    Fixture f;
    start(&f, "FULL");
    insert_pages(&f, 100);
    sql(f.writer, "PRAGMA wal_checkpoint(RESTART)");
    insert_pages(&f, 1);
    copy_file(&f, "x.db", "y.db");
    copy_file(&f, "x.db-wal", "y.db-wal");
    sqlite3_close(f.reader);
    sqlite3_close(f.writer);
    copy_file(&f, "y.db", "x.db");
    copy_file(&f, "y.db-wal", "x.db-wal");
    f.writer = open_db(f.dir.path, log_vfs_use());
    f.reader = open_db(f.dir.path, NULL);
    sql(f.writer, "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0");
    log_syncs = log_zeros = blocks.calls = 0;
    insert_pages(&f, 50);
    assert_int_equal(log_zeros, 0); /* the file is long enough */
    assert_int_equal(blocks.calls, 0);
    assert_true(log_syncs >= 50);
    sql(f.writer, "PRAGMA wal_checkpoint(RESTART)");
    insert_pages(&f, 10); /* a first time, from the start on */
    int first = blocks.calls;
    sql(f.writer, "PRAGMA wal_checkpoint(RESTART)");
    insert_pages(&f, 10);
    assert_true(first == 0 && blocks.calls > 0);
    check_sound(f.reader);
    stop(&f);
}

static void test_blocks_fail(void **state)
{
    (void)state;
    Fixture f;
    start(&f, "FULL");
    insert_pages(&f, 100);
    blocks.result = -EIO;
    int rc = sqlite3_exec(f.writer, "INSERT INTO t (v) VALUES (randomblob(400))", NULL, NULL, NULL);
    assert_int_equal(rc, SQLITE_IOERR);
    assert_int_equal(sqlite3_extended_errcode(f.writer), SQLITE_IOERR_FSYNC);
    blocks.result = 0;
    stop(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_readers_see_commits),
        cmocka_unit_test(test_few_pieces),
        cmocka_unit_test(test_filled_ahead),
        cmocka_unit_test(test_not_filled_twice),
        cmocka_unit_test(test_no_room_to_fill),
        cmocka_unit_test_setup_teardown(test_blocks_synced, blocks_begin, blocks_end),
        cmocka_unit_test_setup_teardown(test_blocks_are_gone, blocks_begin, blocks_end),
        cmocka_unit_test_setup_teardown(test_blocks_in_random_work, blocks_begin, blocks_end),
        cmocka_unit_test_setup_teardown(test_found_log_is_not_trusted, blocks_begin, blocks_end),
        cmocka_unit_test_setup_teardown(test_blocks_fail, blocks_begin, blocks_end),
    };
    return cmocka_run_group_tests(tests, counting_disk, NULL);
}
