/* Cursors of lists: newest first, continued below the last sequence number seen. */
#ifndef GANTRY_STORE_PAGE_H
#define GANTRY_STORE_PAGE_H

#include "base/str.h"

#define PAGE_ROWS_DEFAULT 50
#define PAGE_ROWS_MAX 500

/* Opaque to clients; "" means that there is nothing more. */
typedef struct {
    char text[24];
} PageCursor;

/* The sequence number to stay below for the cursor a client sent back (INT64_MAX for none). Returns
 * 0 or -EINVAL with diag. Any thread. */
MUST_CHECK int page_cursor_parse(Str cursor, int64_t *ret_below_seq);

/* The cursor that continues below seq (> 0). */
PageCursor page_cursor_make(int64_t seq);

/* The rows a page may have: asked for (0: the default), at most PAGE_ROWS_MAX. */
size_t page_rows(size_t asked);

#endif
