/* Table: aligned columns on stdout. */
#ifndef GANTRY_CLI_TABLE_H
#define GANTRY_CLI_TABLE_H

#include "base/arena.h"

#define TABLE_COLUMNS_MAX 12

typedef struct {
    Arena *arena;
    size_t columns;
    const char *names[TABLE_COLUMNS_MAX];
    Str *cells; /* row after row */
    size_t rows, rows_cap;
} Table;

/* names ends with NULL. Cells are copied into the arena. */
void table_init(Table *table, Arena *arena, const char *const *names);

/* cells has as many as there are columns. */
void table_add(Table *table, const Str *cells);

void table_print(const Table *table);

#endif
