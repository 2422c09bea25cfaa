#include "base/diag.h"
#include "store/package.h"

struct PackageRule {
    Str pattern;   /* without '!' and outer slashes */
    bool negated;  /* takes back in */
    bool dir_only; /* ended in a slash */
    bool anchored; /* matched against the whole path, not the last name */
};

/* Before the file's own rules, so that it can take these back in. */
static const struct PackageRule rules_first[] = {
    { .pattern = { "__pycache__", 11 }, .dir_only = true },
    { .pattern = { "*.pyc", 5 } },
    { .pattern = { ".DS_Store", 9 } },
    { .pattern = { ".env", 4 } },
    { .pattern = { ".env.*", 6 } },
};

/* Whether c is in the class that begins at p[at] == '['; *ret_end is what follows its ']'. The
 * pattern was checked by class_end. */
static bool class_match(Str p, size_t at, char c, size_t *ret_end)
{
    size_t i = at + 1;
    bool negated = i < p.len && (p.ptr[i] == '!' || p.ptr[i] == '^');
    if (negated) i++;
    bool found = false;
    for (size_t first = i; i < p.len && (p.ptr[i] != ']' || i == first);) {
        if (p.ptr[i] == '\\' && i + 1 < p.len) i++;
        unsigned char low = (unsigned char)p.ptr[i++], high = low;
        if (i + 1 < p.len && p.ptr[i] == '-' && p.ptr[i + 1] != ']') {
            i += p.ptr[i + 1] == '\\' && i + 2 < p.len ? 2 : 1;
            high = (unsigned char)p.ptr[i++];
        }
        if ((unsigned char)c >= low && (unsigned char)c <= high) found = true;
    }
    *ret_end = i + 1;
    return found != negated;
}

/* Whether the element of p at *at (anything but a star) fits c; moves *at behind it. */
static bool element_match(Str p, size_t *at, char c)
{
    size_t i = *at;
    switch (p.ptr[i]) {
    case '?': *at = i + 1; return true;
    case '[': return class_match(p, i, c, at);
    case '\\': *at = i + 2; return p.ptr[i + 1] == c;
    default: *at = i + 1; return p.ptr[i] == c;
    }
}

/* Matches one name. A mismatch goes back to the last star only, so the cost is a product at most.
 */
static bool name_match(Str p, Str name)
{
    size_t pi = 0, ni = 0, star = SIZE_MAX, star_ni = 0;
    while (ni < name.len) {
        if (pi < p.len && p.ptr[pi] == '*') {
            star = ++pi;
            star_ni = ni;
            continue;
        }
        if (pi < p.len && element_match(p, &pi, name.ptr[ni])) {
            ni++;
            continue;
        }
        if (star == SIZE_MAX) return false;
        pi = star;
        ni = ++star_ni;
    }
    while (pi < p.len && p.ptr[pi] == '*') pi++;
    return pi == p.len;
}

/* Cuts the first component off *rest. False when nothing is left. */
static bool part_next(Str *rest, Str *ret)
{
    if (!rest->ptr) return false;
    bool more;
    Str tail = str_split(*rest, '/', ret, &more);
    *rest = more ? tail : STR_NULL;
    return true;
}

/* Matches component by component. "**" stands for any number of them, for one at least at the end.
 * A mismatch goes back to the last "**" only. */
static bool path_match(Str pattern, Str path)
{
    Str p = pattern, s = path, star_p = STR_NULL, star_s = STR_NULL, want, name;
    bool starred = false;
    while (s.ptr) {
        if (part_next(&p, &want)) {
            if (str_eq(want, STR("**"))) {
                if (!p.ptr) return true;
                starred = true;
                star_p = p;
                star_s = s;
                continue;
            }
            part_next(&s, &name);
            if (name_match(want, name)) continue;
        }
        if (!starred) return false;
        part_next(&star_s, &name);
        p = star_p;
        s = star_s;
    }
    return !p.ptr;
}

static bool rule_fits(const PackageRule *rule, Str path, Str name, bool is_dir)
{
    if (rule->dir_only && !is_dir) return false;
    return rule->anchored ? path_match(rule->pattern, path) : name_match(rule->pattern, name);
}

static bool always_out(Str name)
{
    return str_eq(name, STR(".git")) || str_eq(name, STR(".gantry"));
}

/* The verdict about this very path, its parents aside. */
static bool entry_ignored(const PackageIgnore *ignore, Str path, Str name, bool is_dir)
{
    if (always_out(name)) return true;
    for (size_t i = ignore->n; i-- > 0;)
        if (rule_fits(&ignore->rules[i], path, name, is_dir)) return !ignore->rules[i].negated;
    return false;
}

bool package_ignored(const PackageIgnore *ignore, Str path, bool is_dir)
{
    for (size_t start = 0; start <= path.len;) {
        Str rest = str_skip(path, start);
        ptrdiff_t slash = str_find_char(rest, '/');
        size_t end = slash < 0 ? path.len : start + (size_t)slash;
        bool dir = slash >= 0 || is_dir;
        if (entry_ignored(ignore, str_sub(path, 0, end), str_sub(path, start, end - start), dir))
            return true;
        start = end + 1;
    }
    return false;
}

/* Index behind the ']' of the class that begins at p[at], or 0. */
static size_t class_end(Str p, size_t at)
{
    size_t i = at + 1;
    if (i < p.len && (p.ptr[i] == '!' || p.ptr[i] == '^')) i++;
    for (size_t first = i; i < p.len && p.ptr[i] != '/'; i++) {
        if (p.ptr[i] == ']' && i > first) return i + 1;
        if (p.ptr[i] == '\\') i++;
    }
    return 0;
}

static int pattern_check(Str p, size_t line)
{
    for (size_t i = 0; i < p.len;) {
        if (p.ptr[i] == '\\' && i + 1 == p.len)
            return diag_set(-EINVAL, "line %zu: a backslash at the end", line);
        if (p.ptr[i] == '\0') return diag_set(-EINVAL, "line %zu: a NUL byte", line);
        if (p.ptr[i] == '\\' && p.ptr[i + 1] == '/')
            return diag_set(-EINVAL, "line %zu: a backslash before a slash", line);
        if (p.ptr[i] == '[') {
            if ((i = class_end(p, i)) == 0)
                return diag_set(-EINVAL, "line %zu: '[' without ']'", line);
        } else {
            i += p.ptr[i] == '\\' ? 2 : 1;
        }
    }
    return 0;
}

/* Without spaces at the end, unless a backslash stands before them. */
static Str line_trim(Str line)
{
    if (str_ends_with(line, STR("\r"))) line.len--;
    while (line.len > 0 && line.ptr[line.len - 1] == ' ' &&
           !(line.len > 1 && line.ptr[line.len - 2] == '\\'))
        line.len--;
    return line;
}

static PackageRule rule_read(Str line)
{
    PackageRule rule = { 0 };
    if (str_starts_with(line, STR("!"))) {
        rule.negated = true;
        line = str_skip(line, 1);
    }
    if (str_ends_with(line, STR("/"))) {
        rule.dir_only = true;
        line.len--;
    }
    rule.anchored = str_find_char(line, '/') >= 0;
    if (str_starts_with(line, STR("/"))) line = str_skip(line, 1);
    rule.pattern = line;
    return rule;
}

int package_ignore_parse(Arena *arena, Str text, PackageIgnore *ret)
{
    size_t max = ARRAY_N(rules_first) + PACKAGE_IGNORE_RULES_MAX;
    PackageRule *rules = ARENA_ARRAY(arena, PackageRule, max);
    if (!rules) return -ENOMEM;
    memcpy(rules, rules_first, sizeof rules_first);
    size_t n = ARRAY_N(rules_first), number = 0;
    for (bool more = true; more;) {
        Str line;
        text = str_split(text, '\n', &line, &more);
        line = line_trim(line);
        number++;
        if (str_empty(line) || line.ptr[0] == '#') continue;
        PackageRule rule = rule_read(line);
        if (str_empty(rule.pattern)) continue;
        int r = pattern_check(rule.pattern, number);
        if (r < 0) return r;
        if (n == max)
            return diag_set(-E2BIG, "line %zu: more than %d patterns", number,
                            PACKAGE_IGNORE_RULES_MAX);
        rules[n++] = rule;
    }
    *ret = (PackageIgnore){ .rules = rules, .n = n };
    return 0;
}
