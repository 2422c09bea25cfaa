#include "store/row.h"

#include "base/diag.h"

static int arena_full(void)
{
    return diag_set(-ENOMEM, "the answer is too big for its memory limit");
}

int row_out_end(RowOut *out)
{
    if (!out->full) return 0;
    db_reset(out->stmt);
    return arena_full();
}

void *row_list_add(RowList *list)
{
    assert(list->size > 0 && list->n <= list->cap);
    if (list->n == list->max) return NULL;
    if (list->n == list->cap) {
        size_t cap = MIN(list->cap ? 2 * list->cap : 16, list->max);
        void *rows = arena_realloc(list->arena, list->rows, list->cap * list->size,
                                   cap * list->size);
        if (!rows) return NULL;
        list->rows = rows;
        list->cap = cap;
    }
    void *row = (char *)list->rows + list->n * list->size;
    list->n++;
    memset(row, 0, list->size);
    return row;
}

int row_list_fill(RowList *list, DbStmt *stmt, RowReadFn read)
{
    int r = 0;
    while (list->n < list->max && (r = db_step(stmt)) == DB_E_ROW) {
        RowOut out = row_out(stmt, list->arena);
        void *row = row_list_add(list);
        if (row) read(&out, row);
        if (!row || out.full) {
            db_reset(stmt);
            return arena_full();
        }
    }
    if (r == DB_E_ROW) db_reset(stmt); /* max is reached */
    return r < 0 ? r : 0;
}

int row_change(DbStmt *stmt)
{
    int64_t changed = 0;
    int r = db_run(stmt, &changed);
    assert(r != DB_E_CONFLICT);
    if (r != 0) return r;
    return changed > 0 ? 0 : -ENOENT;
}

int row_run(DbStmt *stmt)
{
    int r = db_run(stmt, NULL);
    assert(r != DB_E_CONFLICT);
    return r;
}

int row_first(DbStmt *stmt)
{
    int r = db_step(stmt);
    assert(r != DB_E_CONFLICT);
    if (r == DB_E_ROW) return 0;
    return r == 0 ? -ENOENT : r;
}
