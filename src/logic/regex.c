#include "logic/regex.h"

#include "base/diag.h"
#include "codec/utf8.h"

#define COUNT_MAX 1000 /* {m,n} */
#define NO_END UINT32_MAX
#define LAST_CHAR 0x10ffffu

typedef struct {
    uint32_t from, to;
} Range;

typedef struct {
    const Range *ranges;
    size_t n;
    bool negated;
} Set;

/* --- the tree --------------------------------------------------------------------------------- */

typedef enum {
    NODE_CHAR,
    NODE_ANY,
    NODE_SET,
    NODE_EDGE,   /* ^ $ \b \B */
    NODE_ALL,    /* the list at a, one after the other */
    NODE_EITHER, /* one of the list at a */
    NODE_REPEAT,
} NodeKind;

typedef struct Node Node;
struct Node {
    NodeKind kind;
    uint32_t c; /* NODE_CHAR; NODE_EDGE: its sign */
    Set set;
    const Node *a;
    const Node *next;  /* in its list */
    uint32_t min, max; /* NODE_REPEAT; max NO_END: none */
};

/* --- the program ------------------------------------------------------------------------------ */

typedef enum { OP_CHAR, OP_ANY, OP_SET, OP_EDGE, OP_SPLIT, OP_JUMP, OP_MATCH } Op;

typedef struct {
    Op op;
    uint32_t x, y; /* OP_CHAR, OP_EDGE: x; OP_SPLIT, OP_JUMP: where to go on */
    const Set *set;
} Instruction;

/* Places in the program, each at most once, in constant time (Briggs & Torczon 1993). */
typedef struct {
    uint32_t n;
    uint32_t dense[REGEX_SIZE_MAX], sparse[REGEX_SIZE_MAX];
} Places;

struct Regex {
    Instruction program[REGEX_SIZE_MAX];
    uint32_t n;
    size_t weight; /* what a character costs where all states are alive */
    bool any_case, dot_all, lines;
    Places now, next;
    uint32_t stack[2 * REGEX_SIZE_MAX];
};

/* --- reading ---------------------------------------------------------------------------------- */

#define SET_RANGES_MAX 128

typedef struct {
    Range ranges[SET_RANGES_MAX];
    size_t n;
    bool full;
} Ranges;

typedef struct {
    Arena *arena;
    Str s;
    size_t at;
    int depth;
    const char *wrong; /* the first thing that is */
    size_t wrong_at;
    bool full;  /* the arena is */
    Ranges set; /* being read: sets do not nest */
    Regex *re;
} Reader;

static bool sees(const Reader *rd, const char *text)
{
    return str_starts_with(str_skip(rd->s, rd->at), str_of(text));
}

static bool takes(Reader *rd, const char *text)
{
    if (!sees(rd, text)) return false;
    rd->at += strlen(text);
    return true;
}

/* NULL, which whoever gets it hands on. */
static Node *fails(Reader *rd, const char *why)
{
    if (rd->wrong) return NULL;
    rd->wrong = why;
    rd->wrong_at = rd->at;
    return NULL;
}

static Node *no_room(Reader *rd)
{
    rd->full = true;
    return fails(rd, "does not fit into memory");
}

static Node *node(Reader *rd, Node n)
{
    Node *ret = ARENA_NEW(rd->arena, Node);
    if (!ret) return no_room(rd);
    *ret = n;
    return ret;
}

/* --- characters and sets ---------------------------------------------------------------------- */

static void range_add(Ranges *r, uint32_t from, uint32_t to)
{
    if (from > to) return;
    if (r->n == SET_RANGES_MAX) r->full = true;
    else r->ranges[r->n++] = (Range){ from, to };
}

/* \d \w \s, and what is in none of their ranges for the capitals. */
static void class_add(Ranges *r, char letter)
{
    static const Range digits[] = { { '0', '9' } };
    static const Range words[] = { { '0', '9' }, { 'A', 'Z' }, { '_', '_' }, { 'a', 'z' } };
    static const Range spaces[] = { { '\t', '\r' }, { ' ', ' ' } };
    char small = (char)(letter | 0x20);
    const Range *list = small == 'd' ? digits : small == 'w' ? words : spaces;
    size_t n = small == 'd' ? ARRAY_N(digits) : small == 'w' ? ARRAY_N(words) : ARRAY_N(spaces);
    uint32_t from = 0;
    for (size_t i = 0; i < n; i++) {
        if (letter == small) range_add(r, list[i].from, list[i].to);
        else range_add(r, from, list[i].from - 1);
        from = list[i].to + 1;
    }
    if (letter != small) range_add(r, from, LAST_CHAR);
}

static bool is_word(uint32_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

/* What stands behind a backslash: true and *ret_class for a class, else *ret_c. */
static bool read_escape(Reader *rd, char *ret_class, uint32_t *ret_c)
{
    static const char controls[] = "t\tn\nr\rf\fv\v";
    *ret_c = 0;
    if (rd->at == rd->s.len) {
        fails(rd, "ends in a backslash");
        return false;
    }
    *ret_c = utf8_next(rd->s, &rd->at);
    if (*ret_c < 0x80 && *ret_c > 0 && strchr("dDwWsS", (int)*ret_c)) {
        *ret_class = (char)*ret_c;
        return true;
    }
    for (const char *p = controls; *p; p += 2)
        if (*ret_c == (unsigned char)*p) {
            *ret_c = (unsigned char)p[1];
            return false;
        }
    if (*ret_c >= 0x80 || is_word(*ret_c)) fails(rd, "has an escape that is not supported");
    return false;
}

static Node *set_node(Reader *rd, bool negated)
{
    const Ranges *r = &rd->set;
    if (r->full) return fails(rd, "has a set that is too long");
    Range *ranges = ARENA_ARRAY(rd->arena, Range, r->n + 1);
    if (!ranges) return no_room(rd);
    memcpy(ranges, r->ranges, r->n * sizeof(*ranges));
    return node(rd, (Node){ .kind = NODE_SET, .set = { ranges, r->n, negated } });
}

/* One character of a set, a class (then true) or an escaped one. */
static bool read_set_char(Reader *rd, uint32_t *ret_c)
{
    char class = 0;
    if (!takes(rd, "\\")) {
        *ret_c = utf8_next(rd->s, &rd->at);
        return false;
    }
    if (!read_escape(rd, &class, ret_c)) return false;
    class_add(&rd->set, class);
    return true;
}

/* Behind the bracket. */
static Node *read_set(Reader *rd)
{
    rd->set = (Ranges){ .n = 0 };
    bool negated = takes(rd, "^");
    for (bool first = true; first || !sees(rd, "]"); first = false) {
        if (rd->at == rd->s.len) return fails(rd, "has a [ without its ]");
        if (rd->wrong) return NULL;
        uint32_t from, to;
        if (read_set_char(rd, &from)) continue;
        to = from;
        bool range = sees(rd, "-") && !sees(rd, "-]") && rd->at + 1 < rd->s.len;
        if (range) {
            rd->at++;
            if (read_set_char(rd, &to) || to < from) return fails(rd, "has a range backwards");
        }
        range_add(&rd->set, from, to);
    }
    rd->at++;
    return set_node(rd, negated);
}

/* --- expressions ------------------------------------------------------------------------------ */

static Node *read_either(Reader *rd);

static Node *read_group(Reader *rd)
{
    if (!takes(rd, "?:") && sees(rd, "?")) return fails(rd, "has a group that is not supported");
    if (++rd->depth > REGEX_GROUPS_MAX) return fails(rd, "has too many groups within one another");
    Node *inner = read_either(rd);
    rd->depth--;
    return takes(rd, ")") ? inner : fails(rd, "has a ( without its )");
}

static Node *read_atom(Reader *rd)
{
    char class = 0;
    uint32_t c = utf8_next(rd->s, &rd->at);
    switch (c) {
    case '(': return read_group(rd);
    case '[': return read_set(rd);
    case '.': return node(rd, (Node){ .kind = NODE_ANY });
    case '^':
    case '$': return node(rd, (Node){ .kind = NODE_EDGE, .c = c });
    case '*':
    case '+':
    case '?': return fails(rd, "repeats nothing");
    case '\\': break;
    default: return node(rd, (Node){ .kind = NODE_CHAR, .c = c });
    }
    if (takes(rd, "b")) return node(rd, (Node){ .kind = NODE_EDGE, .c = 'b' });
    if (takes(rd, "B")) return node(rd, (Node){ .kind = NODE_EDGE, .c = 'B' });
    bool is_class = read_escape(rd, &class, &c);
    if (rd->wrong) return NULL;
    if (!is_class) return node(rd, (Node){ .kind = NODE_CHAR, .c = c });
    rd->set = (Ranges){ .n = 0 };
    class_add(&rd->set, class);
    return set_node(rd, false);
}

static bool read_number(Reader *rd, uint32_t *ret)
{
    size_t digits = 0;
    for (*ret = 0; rd->at < rd->s.len && digits < 6; rd->at++, digits++) {
        char d = rd->s.ptr[rd->at];
        if (d < '0' || d > '9') break;
        *ret = *ret * 10 + (uint32_t)(d - '0');
    }
    return digits > 0;
}

/* {m}, {m,} or {m,n}; a brace that begins nothing of the kind stands for itself: false. */
static bool read_count(Reader *rd, uint32_t *ret_min, uint32_t *ret_max)
{
    size_t before = rd->at;
    bool ok = takes(rd, "{") && read_number(rd, ret_min);
    *ret_max = *ret_min;
    if (ok && takes(rd, ",") && !read_number(rd, ret_max)) *ret_max = NO_END;
    if (!ok || !takes(rd, "}")) {
        rd->at = before;
        return false;
    }
    if (*ret_min > COUNT_MAX || (*ret_max != NO_END && *ret_max > COUNT_MAX))
        fails(rd, "repeats too often");
    else if (*ret_min > *ret_max) fails(rd, "has a repetition backwards");
    return true;
}

static Node *read_repeat(Reader *rd)
{
    Node *atom = read_atom(rd);
    if (!atom) return NULL;
    uint32_t min = 0, max = NO_END;
    if (takes(rd, "+")) min = 1;
    else if (takes(rd, "?")) max = 1;
    else if (!takes(rd, "*") && !read_count(rd, &min, &max)) return atom;
    (void)takes(rd, "?"); /* as few as may be: a match all the same */
    if (sees(rd, "*") || sees(rd, "+") || sees(rd, "?")) return fails(rd, "repeats a repetition");
    return node(rd, (Node){ .kind = NODE_REPEAT, .a = atom, .min = min, .max = max });
}

static Node *read_all(Reader *rd)
{
    Node *all = node(rd, (Node){ .kind = NODE_ALL });
    const Node **end = all ? &all->a : NULL;
    while (all && rd->at < rd->s.len && !sees(rd, "|") && !sees(rd, ")")) {
        Node *one = read_repeat(rd);
        if (!one) return NULL;
        *end = one;
        end = &one->next;
    }
    return all;
}

static Node *read_either(Reader *rd)
{
    Node *either = node(rd, (Node){ .kind = NODE_EITHER });
    const Node **end = either ? &either->a : NULL;
    do {
        Node *one = either ? read_all(rd) : NULL;
        if (!one) return NULL;
        *end = one;
        end = &one->next;
    } while (takes(rd, "|"));
    return either;
}

static void read_flags(Reader *rd)
{
    if (!sees(rd, "(?")) return;
    Str rest = str_skip(rd->s, rd->at + 2);
    ptrdiff_t end = str_find_char(rest, ')');
    if (end <= 0) return;
    for (ptrdiff_t i = 0; i < end; i++)
        if (!strchr("ims", rest.ptr[i]) || !rest.ptr[i]) return;
    rd->re->any_case = str_find_char(str_sub(rest, 0, (size_t)end), 'i') >= 0;
    rd->re->lines = str_find_char(str_sub(rest, 0, (size_t)end), 'm') >= 0;
    rd->re->dot_all = str_find_char(str_sub(rest, 0, (size_t)end), 's') >= 0;
    rd->at += (size_t)end + 3;
}

/* --- writing the program ---------------------------------------------------------------------- */

static uint32_t put(Reader *rd, Instruction in)
{
    Regex *re = rd->re;
    if (re->n < REGEX_SIZE_MAX) re->program[re->n++] = in;
    else fails(rd, "is too long once its repetitions are written out");
    re->weight += in.op == OP_SET ? MAX(in.set->n, 1) : 1;
    if (re->weight > REGEX_WEIGHT_MAX) fails(rd, "repeats long sets too often");
    return re->n - 1;
}

static void put_node(Reader *rd, const Node *n);

/* As often as must be, then as often as may be. What writes nothing is written once: only what
 * grows ends at REGEX_SIZE_MAX. */
static void put_repeat(Reader *rd, const Node *n)
{
    Regex *re = rd->re;
    for (uint32_t i = 0; i < n->min && !rd->wrong; i++) {
        uint32_t before = re->n;
        put_node(rd, n->a);
        if (re->n == before) break;
    }
    if (n->max == NO_END) {
        uint32_t split = put(rd, (Instruction){ .op = OP_SPLIT });
        put_node(rd, n->a);
        put(rd, (Instruction){ .op = OP_JUMP, .x = split });
        re->program[split].x = split + 1;
        re->program[split].y = re->n;
        return;
    }
    /* a?: each of them may go straight behind itself, which is before the next one's choice */
    for (uint32_t i = n->min; i < n->max && !rd->wrong; i++) {
        uint32_t split = put(rd, (Instruction){ .op = OP_SPLIT });
        put_node(rd, n->a);
        re->program[split].x = split + 1;
        re->program[split].y = re->n;
    }
}

/* Each but the last is a choice before it and a jump to the end behind it. Until the end is known
 * a jump holds the one before it. */
static void put_either(Reader *rd, const Node *n)
{
    Regex *re = rd->re;
    uint32_t last = UINT32_MAX;
    for (const Node *one = n->a; one && !rd->wrong; one = one->next) {
        uint32_t split = one->next ? put(rd, (Instruction){ .op = OP_SPLIT }) : 0;
        put_node(rd, one);
        if (!one->next) break;
        last = put(rd, (Instruction){ .op = OP_JUMP, .x = last });
        re->program[split].x = split + 1;
        re->program[split].y = re->n;
    }
    while (!rd->wrong && last != UINT32_MAX) {
        uint32_t before = re->program[last].x;
        re->program[last].x = re->n;
        last = before;
    }
}

static void put_node(Reader *rd, const Node *n)
{
    if (rd->wrong) return;
    switch (n->kind) {
    case NODE_CHAR: put(rd, (Instruction){ .op = OP_CHAR, .x = n->c }); return;
    case NODE_ANY: put(rd, (Instruction){ .op = OP_ANY }); return;
    case NODE_SET: put(rd, (Instruction){ .op = OP_SET, .set = &n->set }); return;
    case NODE_EDGE: put(rd, (Instruction){ .op = OP_EDGE, .x = n->c }); return;
    case NODE_EITHER: put_either(rd, n); return;
    case NODE_REPEAT: put_repeat(rd, n); return;
    case NODE_ALL: break;
    }
    for (const Node *one = n->a; one; one = one->next) put_node(rd, one);
}

int regex_compile(Arena *arena, Str pattern, Regex **ret)
{
    if (pattern.len > REGEX_PATTERN_BYTES_MAX)
        return diag_set(-EINVAL, "is longer than %d bytes", REGEX_PATTERN_BYTES_MAX);
    Reader rd = { .arena = arena, .s = pattern, .re = ARENA_NEW(arena, Regex) };
    if (!rd.re) return -ENOMEM;
    read_flags(&rd);
    const Node *root = read_either(&rd);
    if (root && rd.at < pattern.len) fails(&rd, "has a ) without its (");
    if (root) put_node(&rd, root);
    put(&rd, (Instruction){ .op = OP_MATCH });
    if (rd.full) return -ENOMEM;
    if (rd.wrong) return diag_set(-EINVAL, "%s, at byte %zu", rd.wrong, rd.wrong_at);
    *ret = rd.re;
    return 0;
}

/* --- matching --------------------------------------------------------------------------------- */

static uint32_t folded(uint32_t c)
{
    return c >= 'A' && c <= 'Z' ? c | 0x20 : c;
}

static bool set_holds(const Set *set, uint32_t c)
{
    for (size_t i = 0; i < set->n; i++)
        if (c >= set->ranges[i].from && c <= set->ranges[i].to) return true;
    return false;
}

static bool set_has(const Regex *re, const Set *set, uint32_t c)
{
    bool in = set_holds(set, c);
    bool letter = folded(c) >= 'a' && folded(c) <= 'z';
    if (!in && re->any_case && letter) in = set_holds(set, c ^ 0x20);
    return in != set->negated;
}

/* At byte at of text. */
static bool edge_is(const Regex *re, uint32_t edge, Str text, size_t at)
{
    char before = at > 0 ? text.ptr[at - 1] : '\n', after = at < text.len ? text.ptr[at] : '\n';
    if (edge == '^') return at == 0 || (re->lines && before == '\n');
    if (edge == '$') return at == text.len || (re->lines && after == '\n');
    bool boundary = is_word((unsigned char)before) != is_word((unsigned char)after);
    return boundary == (edge == 'b');
}

static bool places_add(Places *p, uint32_t place)
{
    uint32_t i = p->sparse[place];
    if (i < p->n && p->dense[i] == place) return false;
    p->sparse[place] = p->n;
    p->dense[p->n++] = place;
    return true;
}

/* Adds the place and all that can be reached from it without reading a character. True: the end. */
static bool follow(Regex *re, Places *p, uint32_t start, Str text, size_t at)
{
    size_t depth = 0;
    re->stack[depth++] = start;
    while (depth > 0) {
        uint32_t place = re->stack[--depth];
        if (!places_add(p, place)) continue;
        const Instruction *in = &re->program[place];
        if (in->op == OP_MATCH) return true;
        if (in->op == OP_JUMP) re->stack[depth++] = in->x;
        if (in->op == OP_EDGE && edge_is(re, in->x, text, at)) re->stack[depth++] = place + 1;
        if (in->op != OP_SPLIT) continue;
        re->stack[depth++] = in->y;
        re->stack[depth++] = in->x;
    }
    return false;
}

static bool reads(const Regex *re, const Instruction *in, uint32_t c)
{
    switch (in->op) {
    case OP_CHAR: return re->any_case ? folded(in->x) == folded(c) : in->x == c;
    case OP_ANY: return re->dot_all || c != '\n';
    case OP_SET: return set_has(re, in->set, c);
    default: return false;
    }
}

bool regex_matches(Regex *re, Str text)
{
    Places *now = &re->now, *next = &re->next;
    now->n = 0;
    for (size_t at = 0;;) {
        if (follow(re, now, 0, text, at)) return true;
        if (at == text.len) return false;
        uint32_t c = utf8_next(text, &at);
        next->n = 0;
        for (uint32_t i = 0; i < now->n; i++)
            if (reads(re, &re->program[now->dense[i]], c) &&
                follow(re, next, now->dense[i] + 1, text, at))
                return true;
        Places *read = now;
        now = next;
        next = read;
    }
}
