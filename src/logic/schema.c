#include "logic/schema.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/diag.h"

#define STEPS_MAX 200000 /* schemas applied for one value: alternatives multiply */
#define NEAR_NAMES_MAX 64
#define VALIDATE_DEPTH_MAX 48 /* half a kilobyte of stack a level */

/* Keeps a function's arrays out of the frames of the recursion: it may run on a small stack. */
#define OWN_FRAME __attribute__((noinline))

static const char *const type_names[] = { "null",   "boolean", "integer", "number",
                                          "string", "array",   "object" };

static bool is_schema(const Json *v)
{
    return json_type(v) == JSON_OBJECT || json_type(v) == JSON_BOOL;
}

static bool is_number(const Json *v)
{
    JsonType t = json_type(v);
    return t == JSON_INT || t == JSON_REAL || t == JSON_BIG;
}

/* The schema that a $ref names, or NULL. */
OWN_FRAME
static const Json *ref_target(const Json *root, Str ref)
{
    static const char *const places[] = { "$defs", "definitions" };
    if (str_eq(ref, STR("#"))) return root;
    for (size_t i = 0; i < ARRAY_N(places); i++) {
        char prefix[32];
        (void)snprintf(prefix, sizeof prefix, "#/%s/", places[i]);
        if (!str_starts_with(ref, str_of(prefix))) continue;
        return json_get_str(json_get(root, places[i]), str_skip(ref, strlen(prefix)));
    }
    return NULL;
}

/* --- checking a schema ---------------------------------------------------------------------- */

typedef struct {
    IssueList *issues;
    const Json *root;
} Checker;

static void check(Checker *c, const IssuePath *path, const Json *schema, int depth);

typedef void (*KeywordCheck)(Checker *c, const IssuePath *path, const Json *v, int depth);

static void expected(Checker *c, const IssuePath *path, const Json *v, const char *what)
{
    issue_error(c->issues, path, "expected %s, found %s", what, json_type_name(json_type(v)));
}

OWN_FRAME
static void check_type_name(Checker *c, const IssuePath *path, const Json *v)
{
    Str names[ARRAY_N(type_names)];
    for (size_t i = 0; i < ARRAY_N(type_names); i++) names[i] = str_of(type_names[i]);
    Str name = json_str(v);
    for (size_t i = 0; i < ARRAY_N(type_names); i++)
        if (json_type(v) == JSON_STRING && str_eq(name, names[i])) return;
    Str near = issue_nearest(name, names, ARRAY_N(names));
    issue_error(
        c->issues, path, "expected null, boolean, integer, number, string, array or object%s%.*s%s",
        str_empty(near) ? "" : ": did you mean `", STR_ARG(near), str_empty(near) ? "" : "`?");
}

static void check_type(Checker *c, const IssuePath *path, const Json *v, int depth)
{
    (void)depth;
    if (json_type(v) != JSON_ARRAY) {
        check_type_name(c, path, v);
        return;
    }
    size_t i = 0;
    for (JsonIter it = json_iter(v); json_next(&it); i++) {
        IssuePath at = ISSUE_INDEX(path, i);
        check_type_name(c, &at, it.value);
    }
}

static void check_enum(Checker *c, const IssuePath *path, const Json *v, int depth)
{
    (void)depth;
    if (json_len(v) == 0 || json_type(v) != JSON_ARRAY)
        expected(c, path, v, "an array with at least one value");
}

static void check_schema(Checker *c, const IssuePath *path, const Json *v, int depth)
{
    check(c, path, v, depth + 1);
}

static void check_items(Checker *c, const IssuePath *path, const Json *v, int depth)
{
    if (json_type(v) == JSON_ARRAY)
        issue_error(c->issues, path, "an array of schemas belongs in `prefixItems`");
    else check(c, path, v, depth + 1);
}

static void check_schemas(Checker *c, const IssuePath *path, const Json *v, int depth)
{
    if (json_type(v) != JSON_ARRAY || json_len(v) == 0) {
        expected(c, path, v, "an array with at least one schema");
        return;
    }
    size_t i = 0;
    for (JsonIter it = json_iter(v); json_next(&it); i++) {
        IssuePath at = ISSUE_INDEX(path, i);
        check(c, &at, it.value, depth + 1);
    }
}

static void check_named_schemas(Checker *c, const IssuePath *path, const Json *v, int depth)
{
    if (json_type(v) != JSON_OBJECT) {
        expected(c, path, v, "an object of schemas");
        return;
    }
    for (JsonIter it = json_iter(v); json_next(&it);) {
        IssuePath at = ISSUE_KEY(path, it.key.ptr ? it.key : STR(""));
        check(c, &at, it.value, depth + 1);
    }
}

static void check_required(Checker *c, const IssuePath *path, const Json *v, int depth)
{
    (void)depth;
    if (json_type(v) != JSON_ARRAY) {
        expected(c, path, v, "an array of strings");
        return;
    }
    size_t i = 0;
    for (JsonIter it = json_iter(v); json_next(&it); i++) {
        IssuePath at = ISSUE_INDEX(path, i);
        if (json_type(it.value) != JSON_STRING) expected(c, &at, it.value, "a string");
    }
}

static void check_count(Checker *c, const IssuePath *path, const Json *v, int depth)
{
    (void)depth;
    if (json_i64_or(v, -1) < 0) expected(c, path, v, "a whole number, 0 or more");
}

static void check_number(Checker *c, const IssuePath *path, const Json *v, int depth)
{
    (void)depth;
    if (!is_number(v)) expected(c, path, v, "a number");
}

static void check_multiple(Checker *c, const IssuePath *path, const Json *v, int depth)
{
    (void)depth;
    if (json_i64_or(v, 0) < 1) expected(c, path, v, "a whole number, 1 or more");
}

static void check_bool(Checker *c, const IssuePath *path, const Json *v, int depth)
{
    (void)depth;
    if (json_type(v) != JSON_BOOL) expected(c, path, v, "a boolean");
}

static void check_pattern(Checker *c, const IssuePath *path, const Json *v, int depth)
{
    (void)depth;
    if (json_type(v) != JSON_STRING) expected(c, path, v, "a string");
    else if (schema_pattern(json_str(v), STR("")) == -EINVAL)
        issue_error(c->issues, path, "%s", diag_text());
}

static void check_ref(Checker *c, const IssuePath *path, const Json *v, int depth)
{
    (void)depth;
    if (json_type(v) != JSON_STRING) expected(c, path, v, "a string");
    else if (!is_schema(ref_target(c->root, json_str(v))))
        issue_error(c->issues, path,
                    "`%.*s` is not there: supported are \"#\", \"#/$defs/NAME\" and "
                    "\"#/definitions/NAME\" of this schema",
                    STR_ARG(str_sub(json_str(v), 0, 64)));
}

static const struct {
    const char *keyword;
    KeywordCheck check;
} keywords[] = {
    { "type", check_type },
    { "enum", check_enum },
    { "anyOf", check_schemas },
    { "oneOf", check_schemas },
    { "allOf", check_schemas },
    { "not", check_schema },
    { "$ref", check_ref },
    { "$defs", check_named_schemas },
    { "definitions", check_named_schemas },
    { "properties", check_named_schemas },
    { "required", check_required },
    { "additionalProperties", check_schema },
    { "minProperties", check_count },
    { "maxProperties", check_count },
    { "items", check_items },
    { "prefixItems", check_schemas },
    { "minItems", check_count },
    { "maxItems", check_count },
    { "uniqueItems", check_bool },
    { "minLength", check_count },
    { "maxLength", check_count },
    { "pattern", check_pattern },
    { "minimum", check_number },
    { "maximum", check_number },
    { "exclusiveMinimum", check_number },
    { "exclusiveMaximum", check_number },
    { "multipleOf", check_multiple },
};

static void check(Checker *c, const IssuePath *path, const Json *schema, int depth)
{
    if (depth > SCHEMA_DEPTH_MAX) {
        issue_error(c->issues, path, "nested more than %d deep", SCHEMA_DEPTH_MAX);
        return;
    }
    if (!is_schema(schema)) {
        expected(c, path, schema, "a schema (an object or a boolean)");
        return;
    }
    for (size_t i = 0; i < ARRAY_N(keywords); i++) {
        const Json *v = json_get(schema, keywords[i].keyword);
        IssuePath at = ISSUE_KEY(path, str_of(keywords[i].keyword));
        if (v) keywords[i].check(c, &at, v, depth);
    }
    const Json *more = json_get(schema, "additionalProperties");
    IssuePath at = ISSUE_KEY(path, STR("patternProperties"));
    if (json_get(schema, "patternProperties") && more && !json_bool(more, false))
        issue_error(c->issues, &at, "is not supported beside `additionalProperties`");
}

void schema_check(const Json *schema, const IssuePath *path, IssueList *issues)
{
    assert(issues);
    Checker c = { .issues = issues, .root = schema };
    check(&c, path, schema, 0);
}

/* --- validating a value --------------------------------------------------------------------- */

typedef struct {
    const Json *root;
    SchemaError *error; /* NULL: only the result matters */
    int steps, depth;
    bool exhausted; /* over a limit: no alternative may turn it into a success */
} Validator;

static bool validate(Validator *v, const IssuePath *path, const Json *schema, const Json *value);

PRINTF_LIKE(3, 4)
static bool fail(Validator *v, const IssuePath *path, const char *fmt, ...)
{
    if (!v->error) return false;
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(v->error->message, sizeof v->error->message, fmt, args);
    va_end(args);
    CLEANUP(buf_deinit) Buf text = { 0 };
    buf_init(&text, 4096);
    issue_path_text(path, &text);
    str_copy(v->error->path, sizeof v->error->path, buf_str(&text));
    return false;
}

static bool is_integer(const Json *v)
{
    int64_t n;
    if (json_type(v) == JSON_BIG) {
        Str text = json_number_text(v);
        return str_find_char(text, '.') < 0 && str_find_char(text, 'e') < 0 &&
               str_find_char(text, 'E') < 0;
    }
    if (json_type(v) == JSON_REAL) {
        double x = json_f64_or(v, 0.5);
        return x < -9007199254740992.0 || x > 9007199254740992.0 || json_i64(v, &n) == 0;
    }
    return json_type(v) == JSON_INT;
}

static bool type_is(const Json *value, Str name)
{
    switch (json_type(value)) {
    case JSON_NULL: return str_eq(name, STR("null"));
    case JSON_BOOL: return str_eq(name, STR("boolean"));
    case JSON_STRING: return str_eq(name, STR("string"));
    case JSON_ARRAY: return str_eq(name, STR("array"));
    case JSON_OBJECT: return str_eq(name, STR("object"));
    case JSON_INT:
    case JSON_REAL:
    case JSON_BIG:
        return str_eq(name, STR("number")) || (str_eq(name, STR("integer")) && is_integer(value));
    case JSON_ABSENT: break;
    }
    return false;
}

OWN_FRAME
static bool validate_type(Validator *v, const IssuePath *path, const Json *type, const Json *value)
{
    if (!type) return true;
    if (json_type(type) == JSON_STRING) {
        if (type_is(value, json_str(type))) return true;
        return fail(v, path, "expected type %.*s, found %s", STR_ARG(json_str(type)),
                    json_type_name(json_type(value)));
    }
    char list[128] = "";
    size_t len = 0;
    for (JsonIter it = json_iter(type); json_next(&it);) {
        if (type_is(value, json_str(it.value))) return true;
        if (len < sizeof list)
            len += (size_t)snprintf(list + len, sizeof list - len, "%s%.*s", len > 0 ? " or " : "",
                                    STR_ARG(json_str(it.value)));
    }
    return fail(v, path, "expected type %s, found %s", list, json_type_name(json_type(value)));
}

/* <0, 0, >0. Exact for integers of 64 bits; both are numbers. */
static int number_cmp(const Json *a, const Json *b)
{
    int64_t x, y;
    if (json_type(a) == JSON_INT && json_type(b) == JSON_INT && json_i64(a, &x) == 0 &&
        json_i64(b, &y) == 0)
        return x < y ? -1 : x > y;
    double f = json_f64_or(a, 0), g = json_f64_or(b, 0);
    return f < g ? -1 : f > g;
}

static bool same(const Json *a, const Json *b)
{
    if (is_number(a) && is_number(b) && json_type(a) != JSON_BIG && json_type(b) != JSON_BIG)
        return number_cmp(a, b) == 0;
    return json_eq(a, b);
}

OWN_FRAME
static bool validate_constants(Validator *v, const IssuePath *path, const Json *schema,
                               const Json *value)
{
    const Json *constant = json_get(schema, "const"), *list = json_get(schema, "enum");
    if (constant && !same(constant, value)) return fail(v, path, "is not the one value allowed");
    if (!list) return true;
    char shown[128] = "";
    size_t len = 0;
    for (JsonIter it = json_iter(list); json_next(&it);) {
        if (same(it.value, value)) return true;
        if (len < sizeof shown && json_type(it.value) == JSON_STRING)
            len += (size_t)snprintf(shown + len, sizeof shown - len, "%s%.*s", len > 0 ? ", " : "",
                                    STR_ARG(json_str(it.value)));
    }
    return fail(v, path, "is not one of the values allowed%s%s", len > 0 ? ": " : "", shown);
}

static bool validate_number(Validator *v, const IssuePath *path, const Json *schema,
                            const Json *value)
{
    static const struct {
        const char *keyword;
        int sign;       /* of value against limit, which is wrong */
        bool equal_too; /* equality is wrong too */
        const char *text;
    } rules[] = {
        { "minimum", -1, false, "at least" },
        { "maximum", 1, false, "at most" },
        { "exclusiveMinimum", -1, true, "more than" },
        { "exclusiveMaximum", 1, true, "less than" },
    };
    for (size_t i = 0; i < ARRAY_N(rules); i++) {
        const Json *limit = json_get(schema, rules[i].keyword);
        if (!is_number(limit)) continue;
        int order = number_cmp(value, limit);
        if (order != rules[i].sign && (order != 0 || !rules[i].equal_too)) continue;
        return fail(v, path, "must be %s %.15g", rules[i].text, json_f64_or(limit, 0));
    }
    int64_t step = json_i64_or(json_get(schema, "multipleOf"), 0), n;
    if (step > 0 && (json_i64(value, &n) != 0 || n % step != 0))
        return fail(v, path, "must be a multiple of %" PRId64, step);
    return true;
}

/* A count against the keywords for its least and most. */
static bool validate_count(Validator *v, const IssuePath *path, const Json *schema, size_t n,
                           const char *least_key, const char *most_key, const char *unit)
{
    assert(n <= INT64_MAX);
    int64_t least = json_i64_or(json_get(schema, least_key), 0);
    int64_t most = json_i64_or(json_get(schema, most_key), INT64_MAX);
    if ((int64_t)n < least)
        return fail(v, path, "must have at least %" PRId64 " %s, found %zu", least, unit, n);
    if ((int64_t)n > most)
        return fail(v, path, "must have at most %" PRId64 " %s, found %zu", most, unit, n);
    return true;
}

static size_t code_points(Str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.len; i++) n += ((unsigned char)s.ptr[i] & 0xc0) != 0x80;
    return n;
}

static bool validate_string(Validator *v, const IssuePath *path, const Json *schema,
                            const Json *value)
{
    Str s = json_str(value);
    if (!validate_count(v, path, schema, code_points(s), "minLength", "maxLength", "characters"))
        return false;
    const Json *pattern = json_get(schema, "pattern");
    if (json_type(pattern) == JSON_STRING &&
        schema_pattern(json_str(pattern), s) == SCHEMA_E_INVALID)
        return fail(v, path, "does not match the pattern %.*s", STR_ARG(json_str(pattern)));
    return true;
}

/* Comparing every pair takes steps like applying schemas does. */
static bool validate_unique(Validator *v, const IssuePath *path, const Json *value)
{
    size_t i = 0;
    for (JsonIter a = json_iter(value); json_next(&a); i++) {
        size_t k = i + 1;
        for (JsonIter b = a; json_next(&b); k++) {
            if (++v->steps > STEPS_MAX) {
                v->exhausted = true;
                return fail(v, path, "is too large to be checked");
            }
            if (!same(a.value, b.value)) continue;
            return fail(v, path, "elements %zu and %zu are the same", i, k);
        }
    }
    return true;
}

static bool validate_array(Validator *v, const IssuePath *path, const Json *schema,
                           const Json *value)
{
    if (!validate_count(v, path, schema, json_len(value), "minItems", "maxItems", "elements"))
        return false;
    const Json *items = json_get(schema, "items");
    JsonIter prefix = json_iter(json_get(schema, "prefixItems"));
    size_t i = 0;
    for (JsonIter it = json_iter(value); json_next(&it); i++) {
        IssuePath at = ISSUE_INDEX(path, i);
        const Json *rule = json_next(&prefix) ? prefix.value : items;
        if (rule && !validate(v, &at, rule, it.value)) return false;
    }
    if (!json_bool(json_get(schema, "uniqueItems"), false)) return true;
    return validate_unique(v, path, value);
}

OWN_FRAME
static bool unknown_member(Validator *v, const IssuePath *path, Str name, const Json *properties)
{
    Str names[NEAR_NAMES_MAX];
    size_t n = 0;
    for (JsonIter it = json_iter(properties); n < NEAR_NAMES_MAX && json_next(&it);)
        names[n++] = it.key;
    Str near = issue_nearest(name, names, n);
    if (str_empty(near)) return fail(v, path, "is not a member that is allowed");
    return fail(v, path, "is not a member that is allowed: did you mean `%.*s`?", STR_ARG(near));
}

static bool validate_object(Validator *v, const IssuePath *path, const Json *schema,
                            const Json *value)
{
    if (!validate_count(v, path, schema, json_len(value), "minProperties", "maxProperties",
                        "members"))
        return false;
    for (JsonIter it = json_iter(json_get(schema, "required")); json_next(&it);)
        if (json_type(it.value) == JSON_STRING && !json_get_str(value, json_str(it.value)))
            return fail(v, path, "`%.*s` is missing", STR_ARG(json_str(it.value)));
    const Json *properties = json_get(schema, "properties");
    const Json *more = json_get(schema, "additionalProperties");
    for (JsonIter it = json_iter(value); json_next(&it);) {
        IssuePath at = ISSUE_KEY(path, it.key.ptr ? it.key : STR(""));
        const Json *rule = json_get_str(properties, it.key);
        if (!rule && json_type(more) == JSON_BOOL && !json_bool(more, true))
            return unknown_member(v, &at, it.key, properties);
        if (!rule) rule = more;
        if (rule && !validate(v, &at, rule, it.value)) return false;
    }
    return true;
}

/* How many of the schemas fit; stops after enough. */
static size_t fitting(Validator *v, const IssuePath *path, const Json *list, const Json *value,
                      size_t enough)
{
    SchemaError *error = v->error;
    v->error = NULL;
    size_t n = 0;
    assert(enough > 0);
    for (JsonIter it = json_iter(list); n < enough && json_next(&it);)
        n += validate(v, path, it.value, value);
    v->error = error;
    assert(n <= enough);
    return n;
}

static bool validate_alternatives(Validator *v, const IssuePath *path, const Json *schema,
                                  const Json *value)
{
    const Json *any = json_get(schema, "anyOf"), *one = json_get(schema, "oneOf");
    const Json *none = json_get(schema, "not"), *ref = json_get(schema, "$ref");
    for (JsonIter it = json_iter(json_get(schema, "allOf")); json_next(&it);)
        if (!validate(v, path, it.value, value)) return false;
    const Json *target = ref ? ref_target(v->root, json_str(ref)) : NULL;
    if (target && !validate(v, path, target, value)) return false;
    /* The only alternative of a list can say what is wrong by itself. */
    if (json_len(any) == 1 && !validate(v, path, json_at(any, 0), value)) return false;
    if (json_len(any) > 1 && fitting(v, path, any, value, 1) == 0)
        return fail(v, path, "fits none of the %zu alternatives", json_len(any));
    if (one) {
        size_t n = fitting(v, path, one, value, 2);
        if (n != 1)
            return fail(v, path, "fits %s of the %zu alternatives, and must fit one",
                        n == 0 ? "none" : "several", json_len(one));
    }
    if (!none) return true;
    SchemaError *error = v->error;
    v->error = NULL;
    bool fits = validate(v, path, none, value);
    v->error = error;
    return !fits && !v->exhausted ? true : fail(v, path, "fits the schema under `not`");
}

static bool validate_by_type(Validator *v, const IssuePath *path, const Json *schema,
                             const Json *value)
{
    switch (json_type(value)) {
    case JSON_INT:
    case JSON_REAL:
    case JSON_BIG: return validate_number(v, path, schema, value);
    case JSON_STRING: return validate_string(v, path, schema, value);
    case JSON_ARRAY: return validate_array(v, path, schema, value);
    case JSON_OBJECT: return validate_object(v, path, schema, value);
    default: return true;
    }
}

static bool validate(Validator *v, const IssuePath *path, const Json *schema, const Json *value)
{
    if (json_type(schema) == JSON_BOOL)
        return json_bool(schema, true) || fail(v, path, "is not allowed");
    if (++v->steps > STEPS_MAX || v->depth >= VALIDATE_DEPTH_MAX) {
        v->exhausted = true;
        return fail(v, path, "is too large or nested too deeply to be checked");
    }
    assert(v->depth >= 0 && v->steps > 0);
    v->depth++;
    bool ok = validate_type(v, path, json_get(schema, "type"), value) &&
              validate_constants(v, path, schema, value) &&
              validate_by_type(v, path, schema, value) &&
              validate_alternatives(v, path, schema, value);
    v->depth--;
    return ok && !v->exhausted;
}

int schema_validate(const Json *schema, const Json *value, SchemaError *ret_error)
{
    assert(schema && value);
    SchemaError error = { .message = "is too large or nested too deeply to be checked" };
    Validator v = { .root = schema, .error = &error };
    if (validate(&v, NULL, schema, value)) return 0;
    if (ret_error) *ret_error = error;
    return SCHEMA_E_INVALID;
}
