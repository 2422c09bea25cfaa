#include "store/db.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include <sqlite3.h>

#include "base/diag.h"
#include "base/list.h"
#include "base/log.h"
#include "store/db_engine.h"
#include "store/db_given.h"
#include "store/log_vfs.h"

#define DB_FILE "gantry.db"
#define DB_PATH_MAX 4096
#define DB_STMTS_MAX 512           /* power of two; at most half of it is used */
#define WAL_PAGES_CHECKPOINT 16384 /* 64 MiB: rarer checkpoints rewrite hot pages less often */
#define READER_BUSY_MS 5000
#define WRITER_BUSY_MS 10000
#define LOOKASIDE_BYTES 1200
#define LOOKASIDE_N 1000

struct DbStmt {
    Db *db;
    const char *sql;
    sqlite3_stmt *stmt;
    ListNode open_node; /* on Db.open while rows are left */
};

struct Db {
    sqlite3 *handle;
    bool writer;
    int failure;           /* see db_failure, */
    Diag failure_diag;     /* db_failure_text */
    bool wrote;            /* see db_wrote */
    int64_t wal_pages;     /* in the log after the last commit, */
    int64_t wal_pages_max; /* after which it is moved into the database */
    DbReserve fences;
    List open;
    DbStmt *stmts[DB_STMTS_MAX]; /* by the address of the text */
    size_t stmts_n;
};

/* SQLite 3.7.0 to 3.51.2 may corrupt the file when two connections write or checkpoint at once. */
static _Atomic int writers_open;

/* --- errors ----------------------------------------------------------------------------------- */

static int errno_of(int rc)
{
    if (rc == SQLITE_IOERR_SHMSIZE) return -ENOSPC; /* -shm could not grow */
    switch (rc & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE: return 0;
    case SQLITE_NOMEM: return -ENOMEM;
    case SQLITE_FULL: return -ENOSPC;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return -EBUSY;
    case SQLITE_READONLY: return -EROFS;
    case SQLITE_PERM:
    case SQLITE_AUTH: return -EACCES;
    case SQLITE_TOOBIG: return -EFBIG;
    case SQLITE_CONSTRAINT: return -EPERM;
    default: return -EIO;
    }
}

static bool is_conflict(int rc)
{
    return rc == SQLITE_CONSTRAINT_UNIQUE || rc == SQLITE_CONSTRAINT_PRIMARYKEY ||
           rc == SQLITE_CONSTRAINT_ROWID;
}

/* Translates and notes rc, which is not OK, ROW or DONE. */
static int fail(Db *db, int rc, const char *what)
{
    int r = errno_of(rc);
    assert(r < 0);
    bool spoils = r == -ENOSPC || r == -EIO || r == -ENOMEM, first = spoils && db->failure == 0;
    const char *text = sqlite3_errmsg(db->handle);
    if (first) db->failure = r;
    diag_set(r, "database: %s (SQLite code %d): %s", text, rc, what);
    if (first) str_copy(db->failure_diag.text, DIAG_BYTES_MAX, str_of(diag_text()));
    return r;
}

int db_failure(const Db *db)
{
    return db->failure;
}

const char *db_failure_text(const Db *db)
{
    return db->failure ? db->failure_diag.text : "";
}

/* --- statements ------------------------------------------------------------------------------- */

static size_t slot_of(const char *sql)
{
    return (size_t)(((uint64_t)(uintptr_t)sql * UINT64_C(0x9e3779b97f4a7c15)) >> 40) &
           (DB_STMTS_MAX - 1);
}

static DbStmt *stmt_prepare(Db *db, const char *sql)
{
    assert(db->stmts_n < DB_STMTS_MAX / 2);
    DbStmt *s = xcalloc(1, sizeof *s);
    *s = (DbStmt){ .db = db, .sql = sql };
    list_init(&s->open_node);
    int rc = sqlite3_prepare_v3(db->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &s->stmt, NULL);
    if (rc != SQLITE_OK) DIE("cannot prepare \"%s\": %s", sql, sqlite3_errmsg(db->handle));
    db->stmts_n++;
    return s;
}

DbStmt *db_stmt(Db *db, const char *sql)
{
    size_t i = slot_of(sql);
    while (db->stmts[i] && db->stmts[i]->sql != sql) i = (i + 1) & (DB_STMTS_MAX - 1);
    DbStmt *s = db->stmts[i];
    if (!s) return db->stmts[i] = stmt_prepare(db, sql);
    db_reset(s);
    sqlite3_clear_bindings(s->stmt);
    return s;
}

static void bound(const DbStmt *stmt, int rc, int index)
{
    if (rc != SQLITE_OK) DIE("cannot bind parameter %d of \"%s\": code %d", index, stmt->sql, rc);
}

void db_bind_i64(DbStmt *stmt, int index, int64_t v)
{
    bound(stmt, sqlite3_bind_int64(stmt->stmt, index, v), index);
}

void db_bind_f64(DbStmt *stmt, int index, double v)
{
    bound(stmt, sqlite3_bind_double(stmt->stmt, index, v), index);
}

/* SQLite takes a NULL pointer for NULL: empty texts get another. SQLITE_STATIC: no copy is made. */
void db_bind_text(DbStmt *stmt, int index, Str v)
{
    const char *p = v.len ? v.ptr : "";
    int rc = sqlite3_bind_text64(stmt->stmt, index, p, v.len, SQLITE_STATIC, SQLITE_UTF8);
    bound(stmt, rc, index);
}

void db_bind_blob(DbStmt *stmt, int index, Str v)
{
    const char *p = v.len ? v.ptr : "";
    bound(stmt, sqlite3_bind_blob64(stmt->stmt, index, p, v.len, SQLITE_STATIC), index);
}

void db_bind_null(DbStmt *stmt, int index)
{
    bound(stmt, sqlite3_bind_null(stmt->stmt, index), index);
}

void db_bind_text_or_null(DbStmt *stmt, int index, Str v)
{
    if (v.len == 0) db_bind_null(stmt, index);
    else db_bind_text(stmt, index, v);
}

void db_bind_given(DbStmt *stmt, int index, const DbGiven *given)
{
    assert(given->columns <= DB_GIVEN_COLUMNS_MAX);
    bound(stmt, given_bind(stmt->stmt, index, given), index);
}

void db_reset(DbStmt *stmt)
{
    list_remove(&stmt->open_node);
    sqlite3_reset(stmt->stmt); /* repeats the error of the last step, which was reported */
}

int db_step(DbStmt *stmt)
{
    int rc = sqlite3_step(stmt->stmt);
    if (rc == SQLITE_ROW) {
        if (!list_linked(&stmt->open_node)) list_push_back(&stmt->db->open, &stmt->open_node);
        return DB_E_ROW;
    }
    int r = 0;
    if (is_conflict(rc)) r = DB_E_CONFLICT;
    else if (rc != SQLITE_DONE) r = fail(stmt->db, rc, stmt->sql);
    db_reset(stmt);
    return r;
}

int db_run(DbStmt *stmt, int64_t *ret_changed)
{
    int r;
    do {
        r = db_step(stmt);
    } while (r == DB_E_ROW);
    if (r == 0 && ret_changed) *ret_changed = sqlite3_changes64(stmt->db->handle);
    return r;
}

void db_reset_open(Db *db)
{
    LIST_EACH (&db->open, node) db_reset(CONTAINER_OF(node, DbStmt, open_node));
    assert(list_empty(&db->open));
}

bool db_is_null(DbStmt *stmt, int column)
{
    return sqlite3_column_type(stmt->stmt, column) == SQLITE_NULL;
}

int64_t db_i64(DbStmt *stmt, int column)
{
    return sqlite3_column_int64(stmt->stmt, column);
}

double db_f64(DbStmt *stmt, int column)
{
    return sqlite3_column_double(stmt->stmt, column);
}

Str db_str(DbStmt *stmt, int column)
{
    const char *p = sqlite3_column_blob(stmt->stmt, column); /* the bytes as they are, text too */
    return str_make(p, (size_t)sqlite3_column_bytes(stmt->stmt, column));
}

Str db_str_dup(DbStmt *stmt, int column, Arena *a)
{
    return arena_str(a, db_str(stmt, column));
}

int64_t db_last_insert_id(Db *db)
{
    return sqlite3_last_insert_rowid(db->handle);
}

int db_script(Db *db, const char *sql)
{
    int rc = sqlite3_exec(db->handle, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? 0 : fail(db, rc, "script");
}

/* --- transactions ----------------------------------------------------------------------------- */

/* A reader that comes upon the log's header while it is being changed takes the write lock for a
 * second look (walIndexReadHdr of SQLite), and may be put aside by the system while it has it. Only
 * this waits for it: a checkpoint that finds readers goes on without. */
static int begin_immediate(Db *db)
{
    sqlite3_busy_timeout(db->handle, WRITER_BUSY_MS);
    int r = db_run(db_stmt(db, "BEGIN IMMEDIATE"), NULL);
    sqlite3_busy_timeout(db->handle, 0);
    return r;
}

int db_begin(Db *db)
{
    assert(sqlite3_get_autocommit(db->handle));
    db->failure = 0;
    return db->writer ? begin_immediate(db) : db_run(db_stmt(db, "BEGIN"), NULL);
}

int db_commit(Db *db)
{
    assert(db->failure == 0 && list_empty(&db->open));
    db->wrote = false;
    int r = db_run(db_stmt(db, "COMMIT"), NULL);
    if (r != 0) db_rollback(db);
    return r;
}

int db_commit_while(Db *db, void (*fn)(void *arg), void *arg)
{
    log_vfs_meanwhile(db->handle, fn, arg);
    int r = db_commit(db);
    log_vfs_meanwhile(db->handle, NULL, NULL); /* where there was nothing to sync */
    return r;
}

bool db_wrote(const Db *db)
{
    return db->wrote;
}

DbReserve *db_fences(Db *db)
{
    assert(db->writer);
    return &db->fences;
}

void db_rollback(Db *db)
{
    db->fences = (DbReserve){ 0 };
    db_reset_open(db);
    if (sqlite3_get_autocommit(db->handle)) return; /* SQLite did it by itself */
    int r = db_run(db_stmt(db, "ROLLBACK"), NULL);
    if (r != 0) DIE("cannot roll back: %s", sqlite3_errmsg(db->handle));
}

int db_savepoint(Db *db)
{
    return db_run(db_stmt(db, "SAVEPOINT job"), NULL);
}

int db_savepoint_keep(Db *db)
{
    return db_run(db_stmt(db, "RELEASE job"), NULL);
}

int db_savepoint_undo(Db *db)
{
    db->fences = (DbReserve){ 0 };
    int r = db_run(db_stmt(db, "ROLLBACK TO job"), NULL);
    return r != 0 ? r : db_savepoint_keep(db);
}

static int wal_committed(void *ctx, sqlite3 *handle, const char *name, int pages)
{
    Db *db = ctx;
    (void)handle, (void)name;
    db->wal_pages = pages;
    db->wrote = true;
    return SQLITE_OK;
}

int db_checkpoint_if_due(Db *db)
{
    assert(db->writer && sqlite3_get_autocommit(db->handle));
    if (db->wal_pages < db->wal_pages_max) return 0;
    /* PASSIVE does not wait for a reader; what it could not move, the next one will */
    int left = 0, moved = 0;
    int rc = sqlite3_wal_checkpoint_v2(db->handle, NULL, SQLITE_CHECKPOINT_PASSIVE, &left, &moved);
    if (rc != SQLITE_OK) return fail(db, rc, "checkpoint");
    if (moved == left) db->wal_pages = 0;
    return 0;
}

/* --- opening ---------------------------------------------------------------------------------- */

bool db_wal_reset_fixed(int v)
{
    if (v >= 3044006 && v < 3045000) return true;
    if (v >= 3050007 && v < 3051000) return true;
    return v >= 3051003 && v != 3052000;
}

/* Once a process, before anything is open. */
static void library_setup(void)
{
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0); /* a lock at every allocation, for figures unread */
    if (sqlite3_libversion_number() < SQLITE_VERSION_NUMBER)
        DIE("SQLite %s is older than %s, which this program was built with", sqlite3_libversion(),
            SQLITE_VERSION);
    if (!sqlite3_threadsafe()) DIE("this SQLite was built without threads");
}

/* The first column of the first row of sql, as text into out. */
static int pragma_text(Db *db, const char *sql, char *out, size_t size)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db->handle, sql, -1, &stmt, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) str_copy(out, size, str_of((const char *)sqlite3_column_text(stmt, 0)));
    sqlite3_finalize(stmt);
    return rc == SQLITE_ROW ? 0 : fail(db, rc, sql);
}

static int pragma_expect(Db *db, const char *sql, const char *want)
{
    char got[32] = "";
    int r = pragma_text(db, sql, got, sizeof got);
    if (r != 0) return r;
    if (str_eq(str_of(got), str_of(want))) return 0;
    return diag_set(-EIO, "database: %s gave \"%s\" where \"%s\" is needed", sql, got, want);
}

/* --- sums ------------------------------------------------------------------------------------- */

/* SQLite's own sums turn into floating point or errors beyond 64 bits, which a column of integers
 * then refuses. */
static int64_t plus(int64_t a, int64_t b)
{
    int64_t sum;
    if (!__builtin_add_overflow(a, b, &sum)) return sum;
    return b > 0 ? INT64_MAX : INT64_MIN;
}

static void plus_call(sqlite3_context *context, int n, sqlite3_value **args)
{
    (void)n;
    int64_t sum = plus(sqlite3_value_int64(args[0]), sqlite3_value_int64(args[1]));
    sqlite3_result_int64(context, sum);
}

static void total_step(sqlite3_context *context, int n, sqlite3_value **args)
{
    (void)n;
    int64_t *sum = sqlite3_aggregate_context(context, sizeof *sum);
    if (!sum) sqlite3_result_error_nomem(context);
    else *sum = plus(*sum, sqlite3_value_int64(args[0]));
}

static void total_final(sqlite3_context *context)
{
    const int64_t *sum = sqlite3_aggregate_context(context, 0);
    sqlite3_result_int64(context, sum ? *sum : 0);
}

static int functions_add(Db *db)
{
    int flags = SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS;
    int rc = sqlite3_create_function_v2(db->handle, "plus", 2, flags, NULL, plus_call, NULL, NULL,
                                        NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_create_function_v2(db->handle, "total_of", 1, flags, NULL, NULL, total_step,
                                        total_final, NULL);
    if (rc == SQLITE_OK) rc = given_register(db->handle);
    return rc == SQLITE_OK ? 0 : fail(db, rc, "functions");
}

static int handle_open(Db *db, const char *dir, int flags)
{
    char path[DB_PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/" DB_FILE, dir);
    if (n < 0 || (size_t)n >= sizeof path) return diag_set(-ENAMETOOLONG, "%s: path too long", dir);
    flags |= SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE | SQLITE_OPEN_EXRESCODE;
    const char *vfs = db->writer ? log_vfs_use() : NULL; /* without memory: the default will do */
    int rc = sqlite3_open_v2(path, &db->handle, flags, vfs);
    if (rc == SQLITE_OK) return functions_add(db);
    return db->handle ? fail(db, rc, path) : diag_set(-ENOMEM, "database: out of memory");
}

static Db *db_new(bool writer)
{
    Db *db = xcalloc(1, sizeof *db);
    db->writer = writer;
    list_init(&db->open);
    if (writer && atomic_fetch_add(&writers_open, 1) != 0)
        DIE("a second connection that writes would risk the database");
    return db;
}

static int writer_setup(Db *db, int64_t pages_max)
{
    sqlite3_db_config(db->handle, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(db->handle, SQLITE_DBCONFIG_LOOKASIDE, NULL, LOOKASIDE_BYTES, LOOKASIDE_N);
    int r = pragma_expect(db, "PRAGMA journal_mode = WAL", "wal");
    if (r != 0) return r;
    /* secure_delete: rows hold no secrets, and zeroing them would cost a write each */
    r = db_script(db, "PRAGMA synchronous = FULL;"
                      "PRAGMA secure_delete = OFF;"
                      "PRAGMA wal_autocheckpoint = 0;"
                      "PRAGMA mmap_size = 0;"
                      "PRAGMA journal_size_limit = 268435456;"
                      "PRAGMA cache_size = -65536;"
                      "PRAGMA temp_store = MEMORY;"
                      "PRAGMA trusted_schema = OFF;");
    if (r == 0) r = pragma_expect(db, "PRAGMA synchronous", "2");
    if (r != 0) return r;
    sqlite3_wal_hook(db->handle, wal_committed, db);
    if (pages_max == 0) return 0;
    char limit[64];
    snprintf(limit, sizeof limit, "PRAGMA max_page_count = %" PRId64, pages_max);
    return db_script(db, limit);
}

int db_open_writer(const char *dir, int64_t pages_max, int64_t wal_pages, Db **ret)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, library_setup);
    CLEANUP(db_closep) Db *db = db_new(true);
    db->wal_pages_max = wal_pages ? wal_pages : WAL_PAGES_CHECKPOINT;
    int r = handle_open(db, dir, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    if (r == 0) r = writer_setup(db, pages_max);
    if (r != 0) return r;
    bool fixed = db_wal_reset_fixed(sqlite3_libversion_number());
    LOG_INFO("database opened", LOG_CSTR("sqlite", sqlite3_libversion()),
             LOG_CSTR("sourceId", sqlite3_sourceid()), LOG_INT("walResetFixed", fixed));
    *ret = TAKE(db);
    return 0;
}

/* READONLY besides query_only: a handle that may write still checkpoints under query_only. */
static int reader_setup(Db *db)
{
    sqlite3_db_config(db->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_busy_timeout(db->handle, READER_BUSY_MS);
    int r = db_script(db, "PRAGMA query_only = ON;"
                          "PRAGMA mmap_size = 0;"
                          "PRAGMA cache_size = -16384;"
                          "PRAGMA temp_store = MEMORY;"
                          "PRAGMA trusted_schema = OFF;");
    return r != 0 ? r : pragma_expect(db, "PRAGMA journal_mode", "wal");
}

int db_open_reader(const char *dir, Db **ret)
{
    assert(atomic_load(&writers_open) == 1);
    CLEANUP(db_closep) Db *db = db_new(false);
    int r = handle_open(db, dir, SQLITE_OPEN_READONLY);
    if (r == 0) r = reader_setup(db);
    if (r != 0) return r;
    *ret = TAKE(db);
    return 0;
}

void db_close(Db *db)
{
    if (!db) return;
    db_reset_open(db);
    for (size_t i = 0; i < DB_STMTS_MAX; i++) {
        if (!db->stmts[i]) continue;
        sqlite3_finalize(db->stmts[i]->stmt);
        free(db->stmts[i]);
    }
    if (sqlite3_close(db->handle) != SQLITE_OK) DIE("statements left open on close");
    if (db->writer) atomic_fetch_sub(&writers_open, 1);
    free(db);
}

/* --- room ------------------------------------------------------------------------------------- */

#define PAGE_BYTES 4096
#define PAGES_ANY INT64_C(1000000000) /* SQLite's own limit is above: nobody set one */

static int pragma_i64(Db *db, const char *sql, int64_t *ret)
{
    DbStmt *s = db_stmt(db, sql);
    int r = db_step(s);
    if (r < 0) return r;
    *ret = r == DB_E_ROW ? db_i64(s, 0) : 0;
    db_reset(s);
    return 0;
}

int db_room(Db *db, int64_t *ret_growth, int64_t *ret_free)
{
    int64_t pages = 0, pages_max = 0, pages_free = 0;
    int r = pragma_i64(db, "PRAGMA page_count", &pages);
    if (r == 0) r = pragma_i64(db, "PRAGMA max_page_count", &pages_max);
    if (r == 0) r = pragma_i64(db, "PRAGMA freelist_count", &pages_free);
    if (r != 0) return r;
    *ret_growth = pages_max >= PAGES_ANY ? INT64_MAX : MAX(0, pages_max - pages) * PAGE_BYTES;
    *ret_free = pages_free * PAGE_BYTES;
    return 0;
}
