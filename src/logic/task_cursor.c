#include "logic/task_cursor.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char letters[TASK_CURSOR_N_] = {
    [TASK_CURSOR_BEGUN] = 'b',        [TASK_CURSOR_ENDED] = 'e',
    [TASK_CURSOR_CALL] = 'c',         [TASK_CURSOR_TOOL] = 't',
    [TASK_CURSOR_LINE_ATTEMPT] = 'm', [TASK_CURSOR_LINE] = 'n',
    [TASK_CURSOR_NOTE_ATTEMPT] = 'o', [TASK_CURSOR_NOTE] = 'p',
    [TASK_CURSOR_CHILD] = 'k',        [TASK_CURSOR_CHILD_END] = 'l',
    [TASK_CURSOR_ASKED] = 'q',        [TASK_CURSOR_ANSWERED] = 'r',
};

char *task_cursor_text(const TaskCursor *cursor, char ret[TASK_CURSOR_TEXT_SIZE])
{
    size_t n = (size_t)snprintf(ret, TASK_CURSOR_TEXT_SIZE, "%s", cursor->state);
    bool any = false;
    for (size_t i = 0; i < TASK_CURSOR_N_; i++) {
        if (cursor->at[i] == 0) continue;
        assert(cursor->at[i] > 0);
        n += (size_t)snprintf(ret + n, TASK_CURSOR_TEXT_SIZE - n, "%s%c%" PRId64, any ? "" : ".",
                              letters[i], cursor->at[i]);
        any = true;
    }
    assert(n < TASK_CURSOR_TEXT_SIZE);
    return ret;
}

static bool state_is_one(Str text)
{
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        bool word = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
        if (!word) return false;
    }
    return text.len < TASK_CURSOR_STATE_SIZE;
}

/* Numbers from the front of text; as they are written, so in the order of the letters. */
static bool places_read(Str text, TaskCursor *ret)
{
    for (size_t i = 0; i < TASK_CURSOR_N_ && text.len > 0; i++) {
        size_t digits = 1;
        if (text.ptr[0] != letters[i]) continue;
        while (digits < text.len && text.ptr[digits] >= '0' && text.ptr[digits] <= '9') digits++;
        if (str_to_i64(str_sub(text, 1, digits - 1), &ret->at[i]) < 0 || ret->at[i] <= 0)
            return false;
        if (text.ptr[1] == '0') return false;
        text = str_skip(text, digits);
    }
    return text.len == 0;
}

int task_cursor_parse(Str text, TaskCursor *ret)
{
    Str state;
    bool dot;
    Str places = str_split(text, '.', &state, &dot);
    *ret = (TaskCursor){ 0 };
    if (state_is_one(state) && (!dot || places.len > 0) && places_read(places, ret)) {
        str_copy(ret->state, sizeof ret->state, state);
        return 0;
    }
    *ret = (TaskCursor){ 0 };
    return -EINVAL;
}
