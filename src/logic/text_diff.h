/* Text diff: two texts compared by lines, as a unified diff.
 *
 * Myers' O(ND) algorithm ("An O(ND) Difference Algorithm and Its Variations", 1986) on what is left
 * between the common head and tail. Cost is bounded: beyond TEXT_DIFF_EDITS_MAX edits the middle is
 * given as replaced whole. Pure; any thread.
 */
#ifndef GANTRY_LOGIC_TEXT_DIFF_H
#define GANTRY_LOGIC_TEXT_DIFF_H

#include "base/arena.h"
#include "base/buf.h"

#define TEXT_DIFF_CONTEXT 3
#define TEXT_DIFF_EDITS_MAX 512
#define TEXT_DIFF_LINES_MAX 100000

/* Appends the diff of old_text to new_text with 3 lines of context, "--- old_name" and "+++
 * new_name" first; nothing when the texts are equal. Lines end with LF; a last line without one is
 * marked
 * "\ No newline at end of file", as diff(1) does. scratch holds the line tables (at most 16 bytes
 * a line and 2 MiB). Returns 0, -EMSGSIZE (more than TEXT_DIFF_LINES_MAX lines), -ENOMEM. */
MUST_CHECK int text_diff(Arena *scratch, Str old_name, Str new_name, Str old_text, Str new_text,
                         Buf *out);

#endif
