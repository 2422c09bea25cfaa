/* Parameters and columns in order, for the record functions of store/. */
#ifndef GANTRY_STORE_ROW_H
#define GANTRY_STORE_ROW_H

#include "codec/uuid.h"
#include "store/db.h"

/* Binds one parameter after the other. What is bound must live until the step. */
typedef struct {
    DbStmt *stmt;
    int index;
} RowIn;

static inline RowIn row_in(Db *db, const char *sql)
{
    return (RowIn){ .stmt = db_stmt(db, sql), .index = 1 };
}

static inline void in_i64(RowIn *in, int64_t v)
{
    db_bind_i64(in->stmt, in->index++, v);
}

static inline void in_text(RowIn *in, Str v)
{
    db_bind_text(in->stmt, in->index++, v);
}

/* NULL when empty. */
static inline void in_text_or_null(RowIn *in, Str v)
{
    db_bind_text_or_null(in->stmt, in->index++, v);
}

static inline void in_blob(RowIn *in, Str v)
{
    db_bind_blob(in->stmt, in->index++, v);
}

/* NULL when zero. */
static inline void in_uuid(RowIn *in, const Uuid *id)
{
    if (uuid_is_zero(*id)) db_bind_null(in->stmt, in->index++);
    else db_bind_blob(in->stmt, in->index++, str_make((const char *)id->bytes, sizeof id->bytes));
}

/* Cells of rows that a statement is given. */
static inline DbCell cell_i64(int64_t v)
{
    return (DbCell){ .kind = DB_CELL_I64, .i64 = v };
}

static inline DbCell cell_text(Str v)
{
    return (DbCell){ .kind = DB_CELL_TEXT, .str = v };
}

static inline DbCell cell_text_or_null(Str v)
{
    return (DbCell){ .kind = v.len > 0 ? DB_CELL_TEXT : DB_CELL_NULL, .str = v };
}

/* Borrows the id. */
static inline DbCell cell_uuid(const Uuid *id)
{
    return (DbCell){ .kind = DB_CELL_BLOB,
                     .str = str_make((const char *)id->bytes, sizeof id->bytes) };
}

static inline DbCell cell_uuid_or_null(const Uuid *id)
{
    DbCell none = { .kind = DB_CELL_NULL };
    return uuid_is_zero(*id) ? none : cell_uuid(id);
}

/* Reads one column after the other. Texts are copied into the arena; .full says that one did not
 * fit. */
typedef struct {
    DbStmt *stmt;
    int column;
    Arena *arena;
    bool full;
} RowOut;

static inline RowOut row_out(DbStmt *stmt, Arena *arena)
{
    return (RowOut){ .stmt = stmt, .arena = arena };
}

static inline int64_t out_i64(RowOut *out)
{
    return db_i64(out->stmt, out->column++);
}

/* Empty for NULL. */
static inline Str out_text(RowOut *out)
{
    int column = out->column++;
    if (db_is_null(out->stmt, column)) return STR_NULL;
    Str text = db_str_dup(out->stmt, column, out->arena);
    if (!text.ptr) out->full = true;
    return text;
}

/* Zero for NULL. */
static inline Uuid out_uuid(RowOut *out)
{
    Uuid id = { 0 };
    Str bytes = db_str(out->stmt, out->column++);
    assert(bytes.len == 0 || bytes.len == sizeof id.bytes);
    if (bytes.len) memcpy(id.bytes, bytes.ptr, sizeof id.bytes);
    return id;
}

/* Gives up the rest of the rows when the arena is full. Returns 0 or -ENOMEM. */
MUST_CHECK int row_out_end(RowOut *out);

/* Rows gathered into an array of an arena, at most max of them. */
typedef struct {
    Arena *arena;
    void *rows;
    size_t n, cap, max;
    size_t size; /* of a row */
} RowList;

/* Room for one more row, zeroed; NULL: max is reached, or the arena is full. */
void *row_list_add(RowList *list);

/* Calls read for each row of stmt until its end or until the list is full. Returns 0, -ENOMEM,
 * -errno. */
typedef void (*RowReadFn)(RowOut *out, void *ret_row);
MUST_CHECK int row_list_fill(RowList *list, DbStmt *stmt, RowReadFn read);

/* db_run for statements on one row: 0 when a row was changed, -ENOENT when none was, -errno. */
MUST_CHECK int row_change(DbStmt *stmt);

/* db_run for statements that cannot meet a conflict. Returns 0 or -errno. */
MUST_CHECK int row_run(DbStmt *stmt);

/* db_step for statements of one row: 0 when it is there, -ENOENT, -errno. */
MUST_CHECK int row_first(DbStmt *stmt);

#endif
