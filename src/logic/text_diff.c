#include "logic/text_diff.h"

#include "base/diag.h"

typedef struct {
    Str text; /* with its LF, if it has one */
    uint64_t hash;
} Line;

/* One of the two texts. */
typedef struct {
    Line *lines;
    bool *changed; /* a line: it has no partner in the other text */
    size_t n;
} Side;

/* --- lines ---------------------------------------------------------------------------------- */

static uint64_t line_hash(Str s)
{
    uint64_t h = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < s.len; i++) h = (h ^ (unsigned char)s.ptr[i]) * UINT64_C(1099511628211);
    return h;
}

static bool line_eq(const Line *a, const Line *b)
{
    return a->hash == b->hash && str_eq(a->text, b->text);
}

static size_t lines_count(Str text)
{
    size_t n = 0;
    for (size_t i = 0; i < text.len; i++) n += text.ptr[i] == '\n';
    return n + (text.len > 0 && text.ptr[text.len - 1] != '\n');
}

static int side_init(Side *side, Arena *scratch, Str text)
{
    *side = (Side){ .n = lines_count(text) };
    if (side->n > TEXT_DIFF_LINES_MAX)
        return diag_set(-EMSGSIZE, "a text of %zu lines is too long to compare (the most is %d)",
                        side->n, TEXT_DIFF_LINES_MAX);
    side->lines = ARENA_ARRAY(scratch, Line, side->n + 1);
    side->changed = ARENA_ARRAY(scratch, bool, side->n + 1);
    if (!side->lines || !side->changed) return -ENOMEM;
    for (size_t i = 0; i < side->n; i++) {
        ptrdiff_t lf = str_find_char(text, '\n');
        size_t len = lf < 0 ? text.len : (size_t)lf + 1;
        side->lines[i].text = str_sub(text, 0, len);
        side->lines[i].hash = line_hash(side->lines[i].text);
        text = str_skip(text, len);
    }
    assert(str_empty(text));
    return 0;
}

/* --- Myers ---------------------------------------------------------------------------------- */

/* The middles of both texts, between common head and tail. */
typedef struct {
    Side *old_side, *new_side;
    size_t head;                         /* lines before the middle, the same number in both */
    int n, m;                            /* lines of the middle: old, new */
    int *reach[TEXT_DIFF_EDITS_MAX + 1]; /* by edits d: furthest x on diagonals -d..d */
} Middle;

static bool middle_eq(const Middle *mid, int x, int y)
{
    return line_eq(&mid->old_side->lines[mid->head + (size_t)x],
                   &mid->new_side->lines[mid->head + (size_t)y]);
}

/* Furthest x on diagonal k with d - 1 edits; k is within reach or one beyond it. */
static int reach_at(const Middle *mid, int d, int k)
{
    assert(d >= 0 && k >= -d && k <= d);
    return mid->reach[d][k + d];
}

/* Whether diagonal k is entered at d by an insertion (from k + 1) rather than a deletion. */
static bool comes_down(const Middle *mid, int d, int k)
{
    if (k == -d) return true;
    if (k == d) return false;
    return reach_at(mid, d - 1, k - 1) < reach_at(mid, d - 1, k + 1);
}

/* The point on diagonal k where its snake with d edits begins. */
static int snake_start(const Middle *mid, int d, int k)
{
    if (d == 0) return 0;
    return comes_down(mid, d, k) ? reach_at(mid, d - 1, k + 1) : reach_at(mid, d - 1, k - 1) + 1;
}

/* Least number of edits, -1 when it is beyond the maximum, -ENOMEM. */
static int middle_search(Middle *mid, Arena *scratch)
{
    int most = MIN(mid->n + mid->m, TEXT_DIFF_EDITS_MAX);
    assert(mid->n >= 0 && mid->m >= 0);
    for (int d = 0; d <= most; d++) {
        mid->reach[d] = ARENA_ARRAY(scratch, int, 2 * (size_t)d + 1);
        if (!mid->reach[d]) return -ENOMEM;
        for (int k = -d; k <= d; k += 2) {
            int x = snake_start(mid, d, k), y = x - k;
            while (x < mid->n && y < mid->m && middle_eq(mid, x, y)) x++, y++;
            mid->reach[d][k + d] = x;
            if (x >= mid->n && y >= mid->m) return d;
        }
    }
    return -1;
}

/* Walks back from the end over the snakes and marks the edits between them. */
static void middle_mark(Middle *mid, int edits)
{
    int k = mid->n - mid->m;
    for (int d = edits; d > 0; d--) {
        bool down = comes_down(mid, d, k);
        int x = snake_start(mid, d, k), y = x - k;
        if (down) {
            assert(y >= 1);
            mid->new_side->changed[mid->head + (size_t)y - 1] = true;
            k++;
        } else {
            assert(x >= 1);
            mid->old_side->changed[mid->head + (size_t)x - 1] = true;
            k--;
        }
    }
    assert(k == 0);
}

static int mark_changes(Arena *scratch, Side *a, Side *b)
{
    assert(a->lines && b->lines);
    size_t head = 0, tail = 0;
    size_t least = MIN(a->n, b->n);
    while (head < least && line_eq(&a->lines[head], &b->lines[head])) head++;
    while (tail < least - head && line_eq(&a->lines[a->n - 1 - tail], &b->lines[b->n - 1 - tail]))
        tail++;
    Middle *mid = ARENA_NEW(scratch, Middle);
    if (!mid) return -ENOMEM;
    assert(head + tail <= least);
    *mid = (Middle){ .old_side = a,
                     .new_side = b,
                     .head = head,
                     .n = (int)(a->n - head - tail),
                     .m = (int)(b->n - head - tail) };
    int edits = middle_search(mid, scratch);
    if (edits == -ENOMEM) return -ENOMEM;
    if (edits >= 0) {
        middle_mark(mid, edits);
    } else {
        memset(a->changed + head, true, (size_t)mid->n * sizeof *a->changed);
        memset(b->changed + head, true, (size_t)mid->m * sizeof *b->changed);
    }
    return 0;
}

/* --- output --------------------------------------------------------------------------------- */

/* A place in both texts: the lines before it are dealt with. */
typedef struct {
    size_t i, j;
} Place;

static bool at_change(const Side *a, const Side *b, Place p)
{
    return (p.i < a->n && a->changed[p.i]) || (p.j < b->n && b->changed[p.j]);
}

static bool at_end(const Side *a, const Side *b, Place p)
{
    return p.i == a->n && p.j == b->n;
}

static Place skip_change(const Side *a, const Side *b, Place p)
{
    while (p.i < a->n && a->changed[p.i]) p.i++;
    while (p.j < b->n && b->changed[p.j]) p.j++;
    return p;
}

/* Over at most n common lines. */
static Place skip_common(const Side *a, const Side *b, Place p, size_t n)
{
    for (; n > 0 && !at_end(a, b, p) && !at_change(a, b, p); n--) p.i++, p.j++;
    return p;
}

static void put_line(Buf *out, char sign, Str line)
{
    assert(!str_empty(line));
    buf_add_char(out, sign);
    buf_add(out, line);
    if (!str_ends_with(line, STR("\n"))) buf_add(out, STR("\n\\ No newline at end of file\n"));
}

/* Start and count as diff(1) writes them: an empty range names the line before it. */
static void put_range(Buf *out, char sign, size_t from, size_t to)
{
    assert(from <= to);
    size_t n = to - from;
    buf_printf(out, "%c%zu", sign, n == 0 ? from : from + 1);
    if (n != 1) buf_printf(out, ",%zu", n);
}

static void put_hunk(const Side *a, const Side *b, Place from, Place to, Buf *out)
{
    buf_add(out, STR("@@ "));
    put_range(out, '-', from.i, to.i);
    buf_add_char(out, ' ');
    put_range(out, '+', from.j, to.j);
    buf_add(out, STR(" @@\n"));
    while (from.i < to.i || from.j < to.j) {
        for (; from.i < to.i && a->changed[from.i]; from.i++)
            put_line(out, '-', a->lines[from.i].text);
        for (; from.j < to.j && b->changed[from.j]; from.j++)
            put_line(out, '+', b->lines[from.j].text);
        for (; from.i < to.i && from.j < to.j && !at_change(a, b, from); from.i++, from.j++)
            put_line(out, ' ', a->lines[from.i].text);
    }
}

/* Changes closer than two contexts share a hunk. */
static void put_hunks(const Side *a, const Side *b, Buf *out)
{
    Place p = skip_common(a, b, (Place){ 0 }, SIZE_MAX);
    while (!at_end(a, b, p)) {
        size_t before = MIN(MIN(p.i, p.j), TEXT_DIFF_CONTEXT);
        assert(at_change(a, b, p));
        Place from = { p.i - before, p.j - before };
        Place next = p;
        do {
            p = skip_change(a, b, next);
            next = skip_common(a, b, p, 2 * TEXT_DIFF_CONTEXT);
        } while (at_change(a, b, next));
        put_hunk(a, b, from, skip_common(a, b, p, TEXT_DIFF_CONTEXT), out);
        p = skip_common(a, b, next, SIZE_MAX);
    }
}

int text_diff(Arena *scratch, Str old_name, Str new_name, Str old_text, Str new_text, Buf *out)
{
    if (str_eq(old_text, new_text)) return 0;
    Side a, b;
    int r = side_init(&a, scratch, old_text);
    if (r == 0) r = side_init(&b, scratch, new_text);
    if (r == 0) r = mark_changes(scratch, &a, &b);
    if (r != 0) return r;
    buf_printf(out, "--- %.*s\n+++ %.*s\n", STR_ARG(old_name), STR_ARG(new_name));
    put_hunks(&a, &b, out);
    return out->failed ? -ENOMEM : 0;
}
