#include "cli/table.h"

#include <stdio.h>

void table_init(Table *table, Arena *arena, const char *const *names)
{
    *table = (Table){ .arena = arena };
    while (names[table->columns]) {
        assert(table->columns < TABLE_COLUMNS_MAX);
        table->names[table->columns] = names[table->columns];
        table->columns++;
    }
}

void table_add(Table *table, const Str *cells)
{
    if (table->rows == table->rows_cap) {
        size_t row_bytes = table->columns * sizeof(Str), cap = MAX(32, table->rows_cap * 2);
        table->cells = arena_realloc(table->arena, table->cells, table->rows_cap * row_bytes,
                                     cap * row_bytes);
        if (!table->cells) DIE("out of memory");
        table->rows_cap = cap;
    }
    for (size_t c = 0; c < table->columns; c++) {
        Str copy = arena_str(table->arena, cells[c]);
        if (!copy.ptr) DIE("out of memory");
        table->cells[table->rows * table->columns + c] = copy;
    }
    table->rows++;
}

/* Characters, not bytes: continuation bytes of UTF-8 take no column. */
static int width_of(Str s)
{
    int n = 0;
    for (size_t i = 0; i < s.len; i++) n += ((unsigned char)s.ptr[i] & 0xc0) != 0x80;
    return n;
}

static void print_row(const Table *table, const Str *cells, const int *widths)
{
    for (size_t c = 0; c < table->columns; c++) {
        int pad = c + 1 < table->columns ? widths[c] - width_of(cells[c]) + 2 : 0;
        printf("%.*s%*s", STR_ARG(cells[c]), pad, "");
    }
    putchar('\n');
}

void table_print(const Table *table)
{
    int widths[TABLE_COLUMNS_MAX] = { 0 };
    Str head[TABLE_COLUMNS_MAX];
    for (size_t c = 0; c < table->columns; c++) {
        head[c] = str_of(table->names[c]);
        widths[c] = width_of(head[c]);
        for (size_t r = 0; r < table->rows; r++)
            widths[c] = MAX(widths[c], width_of(table->cells[r * table->columns + c]));
    }
    print_row(table, head, widths);
    for (size_t r = 0; r < table->rows; r++)
        print_row(table, &table->cells[r * table->columns], widths);
}
