#include "logic/issue.h"

#include <stdarg.h>
#include <stdio.h>

#define STEPS_MAX 72 /* deeper than any document that json_parse accepts */
#define NAME_BYTES_MAX 64
#define MESSAGE_BYTES_MAX 512
#define POINTER_BYTES_MAX 8192

void issue_list_init(IssueList *list, Arena *arena, Issue *items, size_t max, IssuePlaceFn place,
                     const void *place_arg)
{
    assert(items || max == 0);
    *list = (IssueList){
        .arena = arena, .items = items, .max = max, .place = place, .place_arg = place_arg
    };
}

/* --- paths ---------------------------------------------------------------------------------- */

/* The steps from the outermost in; those beyond STEPS_MAX are left off. */
static size_t path_steps(const IssuePath *path, const IssuePath *steps[STEPS_MAX])
{
    size_t depth = 0;
    for (const IssuePath *p = path; p; p = p->up) depth++;
    size_t n = MIN(depth, (size_t)STEPS_MAX);
    for (; path; path = path->up)
        if (--depth < n) steps[depth] = path;
    return n;
}

void issue_path_text(const IssuePath *path, Buf *out)
{
    const IssuePath *steps[STEPS_MAX];
    size_t n = path_steps(path, steps);
    for (size_t i = 0; i < n; i++) {
        if (!steps[i]->key.ptr) {
            buf_printf(out, "[%zu]", steps[i]->index);
            continue;
        }
        if (i > 0) buf_add_char(out, '.');
        buf_add(out, steps[i]->key);
    }
}

/* RFC 6901. */
static void path_pointer(const IssuePath *path, Buf *out)
{
    const IssuePath *steps[STEPS_MAX];
    size_t n = path_steps(path, steps);
    for (size_t i = 0; i < n; i++) {
        buf_add_char(out, '/');
        Str key = steps[i]->key;
        if (!key.ptr) {
            buf_printf(out, "%zu", steps[i]->index);
            continue;
        }
        for (size_t k = 0; k < key.len; k++) {
            char c = key.ptr[k];
            if (c == '~') buf_add(out, STR("~0"));
            else if (c == '/') buf_add(out, STR("~1"));
            else buf_add_char(out, c);
        }
    }
}

/* --- adding --------------------------------------------------------------------------------- */

static Str clean_copy(Arena *arena, Str text)
{
    char *copy = arena_cstr(arena, text);
    for (size_t i = 0; copy && i < text.len; i++)
        if ((unsigned char)copy[i] < 0x20 || copy[i] == 0x7f) copy[i] = '?';
    return str_make(copy, copy ? text.len : 0);
}

static void issue_add(IssueList *list, bool warning, const IssuePath *path, Str message)
{
    assert(list->n <= list->max);
    list->errors += !warning;
    if (list->n == list->max) {
        list->dropped++;
        return;
    }
    Issue *issue = &list->items[list->n++];
    *issue = (Issue){ .warning = warning, .message = clean_copy(list->arena, message) };
    CLEANUP(buf_deinit) Buf text = { 0 };
    buf_init(&text, POINTER_BYTES_MAX);
    issue_path_text(path, &text);
    issue->path = clean_copy(list->arena, buf_str(&text));
    if (!issue->message.ptr || !issue->path.ptr) list->failed = true;
    if (!list->place) return;
    buf_clear(&text);
    path_pointer(path, &text);
    list->place(list->place_arg, buf_str(&text), &issue->line, &issue->column);
}

PRINTF_LIKE(2, 0)
static Str format(char out[MESSAGE_BYTES_MAX], const char *fmt, va_list args)
{
    int len = vsnprintf(out, MESSAGE_BYTES_MAX, fmt, args);
    return str_make(out, MIN((size_t)MAX(len, 0), (size_t)MESSAGE_BYTES_MAX - 1));
}

void issue_error(IssueList *list, const IssuePath *path, const char *fmt, ...)
{
    char text[MESSAGE_BYTES_MAX];
    va_list args;
    va_start(args, fmt);
    issue_add(list, false, path, format(text, fmt, args));
    va_end(args);
}

void issue_warn(IssueList *list, const IssuePath *path, const char *fmt, ...)
{
    char text[MESSAGE_BYTES_MAX];
    va_list args;
    va_start(args, fmt);
    issue_add(list, true, path, format(text, fmt, args));
    va_end(args);
}

/* --- reporting ------------------------------------------------------------------------------ */

static bool stands_before(const Issue *a, const Issue *b)
{
    return a->line != b->line ? a->line < b->line : a->column < b->column;
}

/* By insertion: checkers find most things in order already. */
void issue_sort(IssueList *list)
{
    for (size_t i = 1; i < list->n; i++) {
        Issue moved = list->items[i];
        size_t k = i;
        for (; k > 0 && stands_before(&moved, &list->items[k - 1]); k--)
            list->items[k] = list->items[k - 1];
        list->items[k] = moved;
    }
}

void issue_text(const Issue *issue, Str file, Buf *out)
{
    buf_add(out, file);
    if (issue->line > 0) buf_printf(out, ":%zu:%zu", issue->line, issue->column);
    buf_add(out, STR(": "));
    if (!str_empty(issue->path)) {
        buf_add(out, issue->path);
        buf_add(out, STR(": "));
    }
    if (issue->warning) buf_add(out, STR("warning: "));
    buf_add(out, issue->message);
}

/* --- nearest name --------------------------------------------------------------------------- */

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* Optimal string alignment distance (Damerau 1964, restricted): edits of one letter, and swaps of
 * two neighbours. Both at most NAME_BYTES_MAX long. */
static size_t distance(Str a, Str b)
{
    size_t rows[3][NAME_BYTES_MAX + 1];
    size_t *before = rows[0], *last = rows[1], *row = rows[2];
    assert(a.len <= NAME_BYTES_MAX && b.len <= NAME_BYTES_MAX);
    for (size_t j = 0; j <= b.len; j++) last[j] = j;
    for (size_t i = 1; i <= a.len; i++) {
        row[0] = i;
        for (size_t j = 1; j <= b.len; j++) {
            char x = lower(a.ptr[i - 1]), y = lower(b.ptr[j - 1]);
            row[j] = MIN(MIN(last[j], row[j - 1]) + 1, last[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == lower(b.ptr[j - 2]) && lower(a.ptr[i - 2]) == y)
                row[j] = MIN(row[j], before[j - 2] + 1);
        }
        size_t *oldest = before;
        before = last;
        last = row;
        row = oldest;
    }
    return last[b.len];
}

Str issue_nearest(Str name, const Str *names, size_t n)
{
    Str best = STR_NULL;
    if (str_empty(name) || name.len > NAME_BYTES_MAX) return best;
    size_t allowed = MAX(name.len / 3, (size_t)1);
    size_t least = allowed + 1;
    assert(names || n == 0);
    for (size_t i = 0; i < n; i++) {
        if (names[i].len > NAME_BYTES_MAX) continue;
        size_t d = distance(name, names[i]);
        if (d >= least) continue;
        least = d;
        best = names[i];
    }
    return best;
}

/* --- places in JSON text -------------------------------------------------------------------- */

/* A reading head on text that is known to be JSON. */
typedef struct {
    Str text;
    size_t at;
} Head;

static char peek(const Head *h)
{
    return h->at < h->text.len ? h->text.ptr[h->at] : '\0';
}

static void skip_space(Head *h)
{
    while (peek(h) == ' ' || peek(h) == '\t' || peek(h) == '\n' || peek(h) == '\r') h->at++;
}

/* The string's bytes between its quotes, escapes as they are. */
static Str take_string(Head *h)
{
    assert(peek(h) == '"');
    size_t from = ++h->at;
    while (h->at < h->text.len && peek(h) != '"') h->at += peek(h) == '\\' ? 2 : 1;
    Str s = str_sub(h->text, from, h->at - from);
    h->at++;
    return s;
}

static void skip_value(Head *h)
{
    size_t depth = 0;
    do {
        char c = peek(h);
        if (c == '"') {
            (void)take_string(h);
            continue;
        }
        if (depth == 0 && (c == ',' || c == ']' || c == '}')) return;
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        h->at++;
    } while (h->at < h->text.len && (depth > 0 || peek(h) != ','));
}

/* Undoes ~0 and ~1 while comparing. */
static bool segment_is(Str segment, Str key)
{
    size_t k = 0;
    for (size_t i = 0; i < segment.len; i++, k++) {
        char c = segment.ptr[i];
        if (c == '~' && i + 1 < segment.len) c = segment.ptr[++i] == '1' ? '/' : '~';
        if (k >= key.len || key.ptr[k] != c) return false;
    }
    return k == key.len;
}

/* Moves into the member or element that segment names: the head then stands on its value. False,
 * with the head anywhere, when there is none. *ret_place is where the key or element stands. */
static bool enter(Head *h, Str segment, size_t *ret_place)
{
    skip_space(h);
    bool object = peek(h) == '{';
    uint64_t wanted = 0;
    if (!object && (peek(h) != '[' || str_to_u64(segment, &wanted) != 0)) return false;
    for (uint64_t i = 0; h->at < h->text.len; i++) {
        h->at++; /* the bracket, or a comma */
        skip_space(h);
        size_t place = h->at;
        if (peek(h) == '}' || peek(h) == ']') return false;
        bool found = i == wanted;
        if (object) {
            found = segment_is(segment, take_string(h));
            skip_space(h);
            h->at++; /* the colon */
            skip_space(h);
        }
        if (found) {
            *ret_place = place;
            return true;
        }
        skip_value(h);
        skip_space(h);
        if (peek(h) != ',') return false;
    }
    return false;
}

void issue_place_in_json(const void *arg, Str json_pointer, size_t *ret_line, size_t *ret_column)
{
    const Str *text = arg;
    Head h = { .text = *text };
    skip_space(&h);
    size_t place = h.at;
    bool more = !str_empty(json_pointer);
    Str rest = more ? str_skip(json_pointer, 1) : STR_NULL;
    while (more) {
        Str segment;
        rest = str_split(rest, '/', &segment, &more);
        if (!enter(&h, segment, &place)) break;
    }
    *ret_line = *ret_column = 1;
    assert(place <= text->len);
    for (size_t i = 0; i < place; i++) {
        bool continues = ((unsigned char)text->ptr[i] & 0xc0) == 0x80; /* inside a character */
        *ret_column += !continues;
        if (text->ptr[i] == '\n') ++*ret_line, *ret_column = 1;
    }
}
