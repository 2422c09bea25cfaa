/* Db: one database connection as the record functions see it, whatever engine is below.
 *
 * Statements are named by their SQL text (a literal), prepared once a connection and kept. Used on
 * the store's threads only, inside a job. Parameters are numbered from 1, columns from 0.
 *
 * Sums of amounts use plus(a, b) and the aggregate total_of(a), which stay within 64 bits: what is
 * more is the largest number. total_of is 0 of no rows.
 */
#ifndef GANTRY_STORE_DB_H
#define GANTRY_STORE_DB_H

#include "base/arena.h"

typedef struct Db Db;
typedef struct DbStmt DbStmt;

/* Outcomes of the functions below, beside 0 and -errno (-EIO, -ENOSPC, -ENOMEM, with diag). */
#define DB_E_ROW 1      /* db_step: a row is there */
#define DB_E_CONFLICT 2 /* a UNIQUE or PRIMARY KEY constraint refused the row */

/* The statement of sql (a string literal that lives for ever), reset and without parameters. One
 * use at a time a connection. Broken SQL is a programming error: asserts. */
DbStmt *db_stmt(Db *db, const char *sql);

void db_bind_i64(DbStmt *stmt, int index, int64_t v);
void db_bind_f64(DbStmt *stmt, int index, double v);
void db_bind_text(DbStmt *stmt, int index, Str v); /* bytes must live until the step */
void db_bind_blob(DbStmt *stmt, int index, Str v);
void db_bind_null(DbStmt *stmt, int index);
void db_bind_text_or_null(DbStmt *stmt, int index, Str v); /* NULL when empty */

/* Rows that a statement reads like a table: "FROM given(?1)", with columns c0, c1, ... A statement
 * on many rows costs a fraction of one on each. Columns beyond those given are NULL. */
#define DB_GIVEN_COLUMNS_MAX 20
typedef enum { DB_CELL_NULL, DB_CELL_I64, DB_CELL_TEXT, DB_CELL_BLOB } DbCellKind;
typedef struct {
    DbCellKind kind;
    union {
        int64_t i64;
        Str str; /* bytes must live until the statement has run */
    };
} DbCell;
typedef struct {
    const DbCell *cells; /* n rows of so many columns */
    size_t n, columns;
} DbGiven;
void db_bind_given(DbStmt *stmt, int index, const DbGiven *given); /* must live likewise */

/* Next row: DB_E_ROW, 0 at the end (the statement is then reset), DB_E_CONFLICT, -errno. */
MUST_CHECK int db_step(DbStmt *stmt);

/* Runs to the end, rows ignored: 0, DB_E_CONFLICT, -errno. ret_changed (may be NULL) is the number
 * of rows inserted, updated or deleted. */
MUST_CHECK int db_run(DbStmt *stmt, int64_t *ret_changed);

/* Gives up the rest of the rows. Needed when db_step is not run to its end. */
void db_reset(DbStmt *stmt);

bool db_is_null(DbStmt *stmt, int column);
int64_t db_i64(DbStmt *stmt, int column);
double db_f64(DbStmt *stmt, int column);
Str db_str(DbStmt *stmt, int column);               /* text or blob; valid until the next step */
Str db_str_dup(DbStmt *stmt, int column, Arena *a); /* copied, NUL-terminated; .ptr NULL if a is
                                                       full */

int64_t db_last_insert_id(Db *db);

/* Numbers that were reserved in the database and are given out from memory: next up to end, none
 * when both are 0. Undoing a transaction or a savepoint empties it, for that may have undone the
 * reservation. Writer only. */
typedef struct {
    int64_t next, end;
} DbReserve;
DbReserve *db_fences(Db *db);

#endif
