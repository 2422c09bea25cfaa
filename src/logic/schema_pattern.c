#include "base/diag.h"
#include "codec/utf8.h"
#include "logic/schema.h"

#define REPEATS_MAX 32 /* repeated atoms, each a level of recursion */
#define COUNT_MAX 1000 /* {m,n} */

typedef enum { ATOM_ANY, ATOM_CHAR, ATOM_CLASS, ATOM_SET } AtomKind;

/* One thing that matches one character, and how often. */
typedef struct {
    AtomKind kind;
    uint32_t c;        /* ATOM_CHAR; ATOM_CLASS: its letter */
    Str set;           /* ATOM_SET: between the brackets, without a leading ^ */
    bool negated;      /* ATOM_SET */
    uint32_t min, max; /* max UINT32_MAX: no end */
} Atom;

typedef struct {
    Str pattern;
    Str text;
    uint32_t steps;
} Match;

/* --- characters ----------------------------------------------------------------------------- */

/* \d \w \s and their capital opposites, of ASCII and the spaces ECMAScript counts. */
static bool class_has(uint32_t letter, uint32_t c)
{
    bool digit = c >= '0' && c <= '9';
    bool alpha = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    bool space = (c >= 9 && c <= 13) || c == ' ' || c == 0xa0 || c == 0x1680 ||
                 (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
                 c == 0x205f || c == 0x3000 || c == 0xfeff;
    assert(letter < 0x80);
    switch (letter) {
    case 'd': return digit;
    case 'D': return !digit;
    case 'w': return digit || alpha || c == '_';
    case 'W': return !(digit || alpha || c == '_');
    case 's': return space;
    default: return !space;
    }
}

/* What stands after a backslash at *at: a class, a control or a literal. NULL, or what is wrong. */
static const char *read_escape(Str s, size_t *at, Atom *ret)
{
    if (*at >= s.len) return "ends in a backslash";
    uint32_t c = utf8_next(s, at);
    static const char controls[] = "t\tn\nr\rf\fv\v";
    *ret = (Atom){ .kind = ATOM_CHAR, .c = c };
    for (const char *p = controls; *p; p += 2)
        if (c == (unsigned char)*p) ret->c = (unsigned char)p[1];
    if (ret->c != c) return NULL;
    if (c > 0 && c < 0x80 && strchr("dDwWsS", (int)c)) ret->kind = ATOM_CLASS;
    else if (c >= 0x80 || class_has('w', c)) return "has an escape that is not supported";
    return NULL;
}

/* --- sets ----------------------------------------------------------------------------------- */

/* Next item of a set: a class, or a range of characters (from c to max). */
static const char *next_item(Str set, size_t *at, Atom *ret)
{
    const char *wrong = NULL;
    uint32_t c = utf8_next(set, at);
    *ret = (Atom){ .kind = ATOM_CHAR, .c = c };
    if (c == '\\') wrong = read_escape(set, at, ret);
    ret->max = ret->c;
    if (wrong || ret->kind == ATOM_CLASS) return wrong;
    if (*at + 1 >= set.len || set.ptr[*at] != '-') return NULL;
    ++*at;
    Atom end = { .kind = ATOM_CHAR, .c = utf8_next(set, at) };
    if (end.c == '\\') wrong = read_escape(set, at, &end);
    if (wrong) return wrong;
    if (end.kind != ATOM_CHAR || end.c < ret->c) return "has a range in brackets that ends early";
    ret->max = end.c;
    return NULL;
}

static bool set_has(const Atom *atom, uint32_t c)
{
    size_t at = 0;
    while (at < atom->set.len) {
        Atom item;
        if (next_item(atom->set, &at, &item)) break;
        bool in = item.kind == ATOM_CLASS ? class_has(item.c, c) : c >= item.c && c <= item.max;
        if (in) return !atom->negated;
    }
    return atom->negated;
}

static const char *read_set(Str p, size_t *at, Atom *ret)
{
    *ret = (Atom){ .kind = ATOM_SET };
    assert(*at > 0 && p.ptr[*at - 1] == '[');
    if (*at < p.len && p.ptr[*at] == '^') {
        ret->negated = true;
        ++*at;
    }
    size_t from = *at;
    while (*at < p.len && p.ptr[*at] != ']') *at += p.ptr[*at] == '\\' ? 2 : 1;
    if (*at >= p.len) return "has a bracket that is not closed";
    ret->set = str_sub(p, from, *at - from);
    ++*at;
    for (size_t i = 0; i < ret->set.len;) {
        Atom item;
        const char *wrong = next_item(ret->set, &i, &item);
        if (wrong) return wrong;
    }
    return NULL;
}

/* --- atoms ---------------------------------------------------------------------------------- */

static bool read_count(Str p, size_t *at, uint32_t *ret)
{
    size_t from = *at;
    uint32_t n = 0;
    while (*at < p.len && p.ptr[*at] >= '0' && p.ptr[*at] <= '9' && n <= COUNT_MAX)
        n = n * 10 + (uint32_t)(p.ptr[(*at)++] - '0');
    *ret = n;
    return *at > from && n <= COUNT_MAX;
}

/* {m}, {m,} or {m,n}; *at stands behind the brace. */
static const char *read_braces(Str p, size_t *at, Atom *atom)
{
    static const char wrong[] = "has a repeat count that is not {m}, {m,} or {m,n} up to 1000";
    if (!read_count(p, at, &atom->min)) return wrong;
    atom->max = atom->min;
    if (*at < p.len && p.ptr[*at] == ',') {
        ++*at;
        atom->max = UINT32_MAX;
        if (*at < p.len && p.ptr[*at] != '}' && !read_count(p, at, &atom->max)) return wrong;
    }
    if (*at >= p.len || p.ptr[*at] != '}' || atom->max < atom->min) return wrong;
    ++*at;
    return NULL;
}

static const char *read_repeat(Str p, size_t *at, Atom *atom)
{
    atom->min = atom->max = 1;
    char c = *at < p.len ? p.ptr[*at] : '\0';
    const char *wrong = NULL;
    switch (c) {
    case '*': atom->min = 0, atom->max = UINT32_MAX; break;
    case '+': atom->max = UINT32_MAX; break;
    case '?': atom->min = 0; break;
    case '{': break;
    default: return NULL;
    }
    ++*at;
    if (c == '{') wrong = read_braces(p, at, atom);
    /* A lazy repeat finds the same matches, in another order. */
    if (!wrong && *at < p.len && p.ptr[*at] == '?') ++*at;
    return wrong;
}

/* The atom at *at with its repeat. NULL, or what is wrong with the pattern. */
static const char *next_atom(Str p, size_t *at, Atom *ret)
{
    const char *wrong = NULL;
    uint32_t c = utf8_next(p, at);
    *ret = (Atom){ .kind = ATOM_CHAR, .c = c };
    switch (c) {
    case '(':
    case ')': return "has a group, which is not supported";
    case '|': return "has alternatives, which are not supported";
    case '*':
    case '+':
    case '?':
    case '{': return "repeats nothing";
    case '^': return "has ^ elsewhere than at its beginning";
    case '$': return "has $ elsewhere than at its end";
    case '.': ret->kind = ATOM_ANY; break;
    case '[': wrong = read_set(p, at, ret); break;
    case '\\': wrong = read_escape(p, at, ret); break;
    default: break;
    }
    return wrong ? wrong : read_repeat(p, at, ret);
}

static bool atom_has(const Atom *atom, uint32_t c)
{
    switch (atom->kind) {
    case ATOM_ANY: return c != '\n' && c != '\r' && c != 0x2028 && c != 0x2029;
    case ATOM_CHAR: return c == atom->c;
    case ATOM_CLASS: return class_has(atom->c, c);
    case ATOM_SET: return set_has(atom, c);
    }
    return false;
}

/* --- matching ------------------------------------------------------------------------------- */

static const char *check(Str p)
{
    if (p.len > SCHEMA_PATTERN_BYTES_MAX) return "is longer than 512 bytes";
    size_t at = str_starts_with(p, STR("^")), repeats = 0;
    while (at < p.len) {
        if (at + 1 == p.len && p.ptr[at] == '$') break;
        Atom atom;
        const char *wrong = next_atom(p, &at, &atom);
        if (wrong) return wrong;
        repeats += atom.min != 1 || atom.max != 1;
    }
    return repeats > REPEATS_MAX ? "repeats more than 32 things" : NULL;
}

/* Whether the pattern from p on matches the text from t on. Recursion only at repeated atoms. */
static bool match_here(Match *m, size_t p, size_t t)
{
    assert(t <= m->text.len);
    while (p < m->pattern.len) {
        if (p + 1 == m->pattern.len && m->pattern.ptr[p] == '$') return t == m->text.len;
        Atom atom;
        (void)next_atom(m->pattern, &p, &atom);
        assert(atom.min <= atom.max && p <= m->pattern.len);
        size_t last = t; /* where the fewest repeats end */
        uint32_t n = 0;
        for (; n < atom.min; n++) {
            if (last >= m->text.len || ++m->steps > SCHEMA_PATTERN_STEPS_MAX) return false;
            if (!atom_has(&atom, utf8_next(m->text, &last))) return false;
        }
        t = last;
        for (; n < atom.max; n++) {
            if (match_here(m, p, t)) return true;
            if (t >= m->text.len || ++m->steps > SCHEMA_PATTERN_STEPS_MAX) return false;
            if (!atom_has(&atom, utf8_next(m->text, &t))) return false;
        }
    }
    return true;
}

int schema_pattern(Str pattern, Str text)
{
    const char *wrong = check(pattern);
    if (wrong) return diag_set(-EINVAL, "pattern %s", wrong);
    bool anchored = str_starts_with(pattern, STR("^"));
    Match m = { .pattern = anchored ? str_skip(pattern, 1) : pattern, .text = text };
    size_t t = 0;
    do {
        if (match_here(&m, 0, t)) return 0;
        if (anchored || t >= text.len) break;
        (void)utf8_next(text, &t);
    } while (++m.steps <= SCHEMA_PATTERN_STEPS_MAX);
    return SCHEMA_E_INVALID;
}
