#include "store/db_given.h"

#define POINTER_TYPE "gantry-given"
#define COLUMN_GIVEN DB_GIVEN_COLUMNS_MAX /* behind those of the rows; hidden: the argument */
#define COST_WITHOUT 1e12

typedef struct {
    sqlite3_vtab_cursor base;
    const DbGiven *given;
    size_t row;
} Cursor;

static const char declaration[] =
    "CREATE TABLE x (c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11,"
    " c12, c13, c14, c15, c16, c17, c18, c19, given HIDDEN)";
static_assert(DB_GIVEN_COLUMNS_MAX == 20, "the declaration names as many");

static int given_connect(sqlite3 *handle, void *aux, int argc, const char *const *argv,
                         sqlite3_vtab **ret, char **ret_error)
{
    (void)aux, (void)argc, (void)argv, (void)ret_error;
    int rc = sqlite3_declare_vtab(handle, declaration);
    if (rc != SQLITE_OK) return rc;
    *ret = sqlite3_malloc(sizeof **ret);
    if (!*ret) return SQLITE_NOMEM;
    **ret = (sqlite3_vtab){ 0 };
    return SQLITE_OK;
}

static int given_disconnect(sqlite3_vtab *table)
{
    sqlite3_free(table);
    return SQLITE_OK;
}

/* Few rows, and the argument before anything else. */
static int given_best_index(sqlite3_vtab *table, sqlite3_index_info *info)
{
    (void)table;
    for (int i = 0; i < info->nConstraint; i++) {
        if (info->aConstraint[i].iColumn != COLUMN_GIVEN) continue;
        if (!info->aConstraint[i].usable) return SQLITE_CONSTRAINT;
        info->aConstraintUsage[i].argvIndex = 1;
        info->aConstraintUsage[i].omit = 1;
        info->estimatedCost = 1;
        info->estimatedRows = 4;
        return SQLITE_OK;
    }
    info->estimatedCost = COST_WITHOUT;
    return SQLITE_OK;
}

static int given_open(sqlite3_vtab *table, sqlite3_vtab_cursor **ret)
{
    (void)table;
    Cursor *cursor = sqlite3_malloc(sizeof *cursor);
    if (!cursor) return SQLITE_NOMEM;
    *cursor = (Cursor){ .given = NULL };
    *ret = &cursor->base;
    return SQLITE_OK;
}

static int given_close(sqlite3_vtab_cursor *base)
{
    sqlite3_free(base);
    return SQLITE_OK;
}

static int given_filter(sqlite3_vtab_cursor *base, int plan, const char *plan_text, int argc,
                        sqlite3_value **argv)
{
    (void)plan, (void)plan_text;
    Cursor *cursor = (Cursor *)base;
    cursor->given = argc == 1 ? sqlite3_value_pointer(argv[0], POINTER_TYPE) : NULL;
    cursor->row = 0;
    return SQLITE_OK;
}

static int given_next(sqlite3_vtab_cursor *base)
{
    ((Cursor *)base)->row++;
    return SQLITE_OK;
}

static int given_eof(sqlite3_vtab_cursor *base)
{
    const Cursor *cursor = (const Cursor *)base;
    return !cursor->given || cursor->row >= cursor->given->n;
}

static int given_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int column)
{
    const Cursor *cursor = (const Cursor *)base;
    const DbGiven *given = cursor->given;
    if ((size_t)column >= given->columns) return SQLITE_OK; /* NULL */
    const DbCell *cell = &given->cells[cursor->row * given->columns + (size_t)column];
    switch (cell->kind) {
    case DB_CELL_NULL: break;
    case DB_CELL_I64: sqlite3_result_int64(context, cell->i64); break;
    case DB_CELL_TEXT:
        sqlite3_result_text64(context, cell->str.len ? cell->str.ptr : "", cell->str.len,
                              SQLITE_STATIC, SQLITE_UTF8);
        break;
    case DB_CELL_BLOB:
        sqlite3_result_blob64(context, cell->str.len ? cell->str.ptr : "", cell->str.len,
                              SQLITE_STATIC);
        break;
    }
    return SQLITE_OK;
}

static int given_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *ret)
{
    *ret = (sqlite3_int64)((const Cursor *)base)->row;
    return SQLITE_OK;
}

/* Without xCreate there is one such table, which statements name without making it. */
static const sqlite3_module given_module = {
    .xConnect = given_connect,
    .xBestIndex = given_best_index,
    .xDisconnect = given_disconnect,
    .xOpen = given_open,
    .xClose = given_close,
    .xFilter = given_filter,
    .xNext = given_next,
    .xEof = given_eof,
    .xColumn = given_column,
    .xRowid = given_rowid,
};

int given_register(sqlite3 *handle)
{
    return sqlite3_create_module_v2(handle, "given", &given_module, NULL, NULL);
}

int given_bind(sqlite3_stmt *stmt, int index, const DbGiven *given)
{
    return sqlite3_bind_pointer(stmt, index, (void *)given, POINTER_TYPE, NULL);
}
