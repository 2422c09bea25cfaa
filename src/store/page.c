#include "store/page.h"

#include <stdio.h>

#include "base/diag.h"

int page_cursor_parse(Str cursor, int64_t *ret_below_seq)
{
    int64_t seq = INT64_MAX;
    if (!str_empty(cursor) && (str_to_i64(cursor, &seq) != 0 || seq <= 0))
        return diag_set(-EINVAL, "cursor: not one that a list gave out");
    *ret_below_seq = seq;
    return 0;
}

PageCursor page_cursor_make(int64_t seq)
{
    assert(seq > 0);
    PageCursor cursor;
    snprintf(cursor.text, sizeof cursor.text, "%" PRId64, seq);
    return cursor;
}

size_t page_rows(size_t asked)
{
    return asked == 0 ? PAGE_ROWS_DEFAULT : MIN(asked, PAGE_ROWS_MAX);
}
