#include "logic/grade.h"

#include <math.h>

#include "base/diag.h"
#include "base/money.h"
#include "codec/hash.h"
#include "logic/manifest.h"
#include "logic/regex.h"
#include "logic/rollup.h"
#include "logic/schema.h"
#include "logic/shape.h"

/* --- what a manifest may say ------------------------------------------------------------------ */

typedef struct {
    Str name, text, agent;
    int type;
    const Json *value, *anchors;
    int64_t threshold;
    double weight, share;
} Draft;

/* In the order of GraderKind; the negated ones behind them. */
static const char *const type_words[] = { "contains",
                                          "icontains",
                                          "equals",
                                          "starts-with",
                                          "regex",
                                          "is-json",
                                          "trajectory:tool-used",
                                          "trajectory:tool-sequence",
                                          "trajectory:step-count",
                                          "cost",
                                          "latency",
                                          "judge",
                                          "not-contains",
                                          "not-icontains",
                                          "not-equals",
                                          "not-starts-with",
                                          "not-regex",
                                          "not-is-json",
                                          "not-trajectory:tool-used",
                                          NULL };

static void rule_name(IssueList *issues, const IssuePath *path, const Json *v)
{
    if (agent_name_ok(json_str(v))) return;
    issue_error(issues, path,
                "expected lower-case letters, digits and dashes, not beginning with a dash, found "
                "`%.*s`",
                STR_ARG(json_str(v)));
}

static void rule_regex(IssueList *issues, const IssuePath *path, const Json *v)
{
    CLEANUP(arena_deinit) Arena arena;
    Regex *regex;
    arena_init(&arena, 1 << 20);
    int r = regex_compile(&arena, json_str(v), &regex);
    if (r == -EINVAL) issue_error(issues, path, "the regular expression %s", diag_text());
    else if (r != 0) issues->failed = true;
}

static void rule_schema(IssueList *issues, const IssuePath *path, const Json *v)
{
    schema_check(v, path, issues);
}

static void check_tools(IssueList *issues, const IssuePath *path, const Json *v, size_t least)
{
    size_t i = 0;
    if (json_len(v) < least || json_len(v) > GRADER_TOOLS_MAX)
        issue_error(issues, path, "must have %zu to %d elements, found %zu", least,
                    GRADER_TOOLS_MAX, json_len(v));
    for (JsonIter it = json_iter(v); json_next(&it); i++) {
        IssuePath at = ISSUE_INDEX(path, i);
        if (str_empty(json_str(it.value)))
            shape_expected(issues, &at, it.value, "the name of a tool");
    }
}

static void rule_tools(IssueList *issues, const IssuePath *path, const Json *v)
{
    if (json_type(v) == JSON_ARRAY) check_tools(issues, path, v, 1);
    else if (str_empty(json_str(v)))
        shape_expected(issues, path, v, "the name of a tool, or an array of them");
}

static void rule_sequence(IssueList *issues, const IssuePath *path, const Json *v)
{
    if (json_type(v) == JSON_ARRAY) check_tools(issues, path, v, 2);
    else shape_expected(issues, path, v, "an array of tools");
}

static void rule_share(IssueList *issues, const IssuePath *path, const Json *v)
{
    if (!(json_f64_or(v, 0) > 0)) issue_error(issues, path, "must be above 0");
}

/* clang-format off */
#define AT(member) .offset = offsetof(Draft, member)
#define NOWHERE .offset = SHAPE_NOWHERE
#define COMMON                                                                              \
    { "name", SHAPE_STR, true, AT(name), .least = 1, .most = GRADER_NAME_BYTES_MAX,         \
      .rule = rule_name },                                                                  \
    { "type", SHAPE_WORD, true, AT(type), .words = type_words },                            \
    { "weight", SHAPE_NUMBER, AT(weight), .most = 100000 }
#define TEXT "value", SHAPE_STR, true, AT(text), .least = 1
static const ShapeMember text_members[] = {
    COMMON, { TEXT, .most = GRADER_VALUE_BYTES_MAX },
};
static const ShapeMember regex_members[] = {
    COMMON, { TEXT, .most = REGEX_PATTERN_BYTES_MAX, .rule = rule_regex },
};
static const ShapeMember json_members[] = {
    COMMON, { "value", SHAPE_JSON, AT(value), .rule = rule_schema },
};
static const ShapeMember used_members[] = {
    COMMON, { "value", SHAPE_JSON, true, AT(value), .rule = rule_tools },
};
static const ShapeMember sequence_members[] = {
    COMMON, { "value", SHAPE_JSON, true, AT(value), .rule = rule_sequence },
};
static const ShapeMember steps_members[] = {
    COMMON, { "threshold", SHAPE_INT, true, AT(threshold), .most = 1000000 },
};
static const ShapeMember cost_members[] = {
    COMMON, { "threshold", SHAPE_MONEY, true, AT(threshold), .least = 1,
              .most = 1000000 * NUSD_PER_USD },
};
static const ShapeMember latency_members[] = {
    COMMON, { "threshold", SHAPE_DURATION, true, AT(threshold), .least = 1,
              .most = INT64_C(604800000) },
};
static const ShapeMember anchor_members[] = {
    { "input", SHAPE_JSON, true, NOWHERE },
    { "output", SHAPE_JSON, true, NOWHERE },
};
static const ShapeMember judge_members[] = {
    COMMON,
    { "agent", SHAPE_STR, true, AT(agent), .least = 1, .most = MANIFEST_NAME_BYTES_MAX,
      .rule = rule_name },
    { "share", SHAPE_NUMBER, AT(share), .most = 1000, .rule = rule_share },
    { "anchors", SHAPE_OBJECTS, NOWHERE, .least = 1, .most = GRADER_ANCHORS_MAX,
      .members = anchor_members, .members_n = ARRAY_N(anchor_members) },
};
#define TABLE(members) { members, ARRAY_N(members) }
static const struct {
    const ShapeMember *members;
    size_t n;
} tables[GRADER_N_] = {
    [GRADER_CONTAINS] = TABLE(text_members), [GRADER_ICONTAINS] = TABLE(text_members),
    [GRADER_EQUALS] = TABLE(text_members), [GRADER_STARTS_WITH] = TABLE(text_members),
    [GRADER_REGEX] = TABLE(regex_members), [GRADER_JSON] = TABLE(json_members),
    [GRADER_TOOL_USED] = TABLE(used_members), [GRADER_TOOL_SEQUENCE] = TABLE(sequence_members),
    [GRADER_STEPS] = TABLE(steps_members), [GRADER_COST] = TABLE(cost_members),
    [GRADER_LATENCY] = TABLE(latency_members), [GRADER_JUDGE] = TABLE(judge_members),
};
static const ShapeMember any_members[] = { /* while the type is not known */
    { "name", SHAPE_STR, true, AT(name), .least = 1, .most = GRADER_NAME_BYTES_MAX,
      .rule = rule_name },
    { "type", SHAPE_WORD, true, AT(type), .words = type_words },
    { "value", SHAPE_JSON, NOWHERE },
    { "threshold", SHAPE_JSON, NOWHERE },
    { "weight", SHAPE_JSON, NOWHERE },
    { "agent", SHAPE_JSON, NOWHERE },
    { "share", SHAPE_JSON, NOWHERE },
    { "anchors", SHAPE_JSON, NOWHERE },
};
/* clang-format on */

/* The index of the word, or -1. */
static int type_of(const Json *grader)
{
    Str word = json_str(json_get(grader, "type"));
    for (int i = 0; type_words[i]; i++)
        if (str_eq(word, str_of(type_words[i]))) return i;
    return -1;
}

static GraderKind kind_of(int type)
{
    return type < GRADER_N_ ? (GraderKind)type : (GraderKind)(type - GRADER_N_);
}

static void read_one(IssueList *issues, const IssuePath *path, const Json *v, Draft *ret)
{
    int type = type_of(v);
    *ret = (Draft){ .weight = 1, .share = 1, .anchors = json_get(v, "anchors") };
    if (type < 0) shape_read(issues, path, v, any_members, ARRAY_N(any_members), ret);
    else shape_read(issues, path, v, tables[kind_of(type)].members, tables[kind_of(type)].n, ret);
}

static void check_names(IssueList *issues, const IssuePath *path, const Json *graders)
{
    Str names[GRADERS_MAX];
    size_t n = 0;
    for (JsonIter it = json_iter(graders); json_next(&it) && n < GRADERS_MAX; n++) {
        names[n] = json_str(json_get(it.value, "name"));
        bool again = false;
        for (size_t i = 0; i < n; i++) again |= !str_empty(names[n]) && str_eq(names[i], names[n]);
        IssuePath one = ISSUE_INDEX(path, n), at = ISSUE_KEY(&one, STR("name"));
        if (again) issue_error(issues, &at, "there are two graders `%.*s`", STR_ARG(names[n]));
    }
}

void graders_check(IssueList *issues, const IssuePath *path, const Json *graders)
{
    Draft draft;
    size_t i = 0;
    if (json_type(graders) != JSON_ARRAY) {
        shape_expected(issues, path, graders, "an array of graders");
        return;
    }
    if (json_len(graders) > GRADERS_MAX)
        issue_error(issues, path, "must have at most %d elements, found %zu", GRADERS_MAX,
                    json_len(graders));
    for (JsonIter it = json_iter(graders); json_next(&it); i++) {
        IssuePath at = ISSUE_INDEX(path, i);
        read_one(issues, &at, it.value, &draft);
    }
    check_names(issues, path, graders);
}

size_t graders_read(Arena *arena, const Json *graders, Grader ret[GRADERS_MAX])
{
    size_t n = 0;
    for (JsonIter it = json_iter(graders); json_next(&it) && n < GRADERS_MAX;) {
        IssueList issues;
        Draft d;
        issue_list_init(&issues, arena, NULL, 0, NULL, NULL);
        read_one(&issues, NULL, it.value, &d);
        if (issues.errors > 0 || issues.failed) continue;
        ret[n++] = (Grader){ .name = d.name,
                             .kind = kind_of(d.type),
                             .negated = d.type >= GRADER_N_,
                             .text = d.text,
                             .value = d.value,
                             .threshold = d.threshold,
                             .weight = d.weight,
                             .agent = d.agent,
                             .share = d.share,
                             .anchors = d.anchors };
    }
    return n;
}

/* --- rules ------------------------------------------------------------------------------------ */

static bool contains_nocase(Str text, Str part)
{
    for (size_t i = 0; i + part.len <= text.len; i++)
        if (str_eq_nocase(str_sub(text, i, part.len), part)) return true;
    return false;
}

/* 1 or 0; NaN without memory. */
static double regex_score(const Grader *g, Str text, Arena *scratch)
{
    Regex *regex;
    text = str_sub(text, 0, GRADE_REGEX_BYTES_MAX);
    while (text.len > 0 && text.len == GRADE_REGEX_BYTES_MAX &&
           ((unsigned char)text.ptr[text.len - 1] & 0x80))
        text.len--; /* not in the middle of a character */
    return regex_compile(scratch, g->text, &regex) == 0 ? regex_matches(regex, text) : NAN;
}

/* A builtin agent's JSON is text. */
static double json_score(const Grader *g, const Json *result, Arena *scratch)
{
    if (json_type(result) == JSON_STRING) {
        int r = json_parse(scratch, json_str(result), NULL, &result, NULL);
        if (r != 0) return r == -ENOMEM ? NAN : 0;
    }
    return !g->value || schema_validate(g->value, result, NULL) == 0;
}

static double result_score(const Grader *g, const GradeInput *input, Arena *scratch)
{
    const Json *result;
    if (str_empty(input->result)) return NAN;
    if (json_parse(scratch, input->result, NULL, &result, NULL) != 0) return NAN;
    Str text = json_type(result) == JSON_STRING ? json_str(result) : input->result;
    switch (g->kind) {
    case GRADER_CONTAINS: return str_find(text, g->text) >= 0;
    case GRADER_ICONTAINS: return contains_nocase(text, g->text);
    case GRADER_EQUALS: return str_eq(str_trim(text), str_trim(g->text));
    case GRADER_STARTS_WITH: return str_starts_with(text, g->text);
    case GRADER_REGEX: return regex_score(g, text, scratch);
    default: return json_score(g, result, scratch);
    }
}

/* Where in the order of first calls, from 0; -1: never called. */
static int place_of(Str tools, Str name)
{
    Str one;
    int64_t calls;
    for (int i = 0; tool_use_next(&tools, &one, &calls); i++)
        if (str_eq(one, str_sub(name, 0, ROLLUP_TOOL_BYTES))) return i;
    return -1;
}

/* Turned round, none of them may have been called. */
static double used_score(const Grader *g, Str tools)
{
    size_t used = 0, n = json_type(g->value) == JSON_ARRAY ? json_len(g->value) : 1;
    if (n == 1 && json_type(g->value) != JSON_ARRAY)
        used = place_of(tools, json_str(g->value)) >= 0;
    for (JsonIter it = json_iter(g->value); json_next(&it);)
        used += place_of(tools, json_str(it.value)) >= 0;
    return g->negated ? used == 0 : used == n;
}

static double sequence_score(const Grader *g, Str tools)
{
    int last = -1;
    for (JsonIter it = json_iter(g->value); json_next(&it);) {
        int place = place_of(tools, json_str(it.value));
        if (place <= last) return 0;
        last = place;
    }
    return 1;
}

double grade_rule(const Grader *g, const GradeInput *input, Arena *scratch)
{
    switch (g->kind) {
    case GRADER_COST: return input->cost_nusd <= g->threshold;
    case GRADER_LATENCY: return input->latency_ms <= g->threshold;
    case GRADER_STEPS: return input->tool_calls <= g->threshold;
    case GRADER_TOOL_USED: return used_score(g, input->tools);
    case GRADER_TOOL_SEQUENCE: return sequence_score(g, input->tools);
    default: break;
    }
    assert(g->kind < GRADER_TOOL_USED);
    double score = result_score(g, input, scratch);
    return g->negated ? 1 - score : score;
}

/* --- judges ----------------------------------------------------------------------------------- */

bool grade_is_judged(Str grader, Str task_id, double share)
{
    return (double)hash_murmur3_32_pair(grader, task_id, 0) / 4294967296.0 < share;
}

int grade_read_verdict(Str result, Arena *arena, double *ret_score, Str *ret_reason)
{
    const Json *v;
    int r = json_parse(arena, result, NULL, &v, NULL);
    if (r == 0 && json_type(v) == JSON_STRING) r = json_parse(arena, json_str(v), NULL, &v, NULL);
    if (r != 0) return diag_set(-EINVAL, "the judge did not answer JSON");
    const Json *score = json_get(v, "score");
    bool number = json_type(score) == JSON_INT || json_type(score) == JSON_REAL;
    double value = json_f64_or(score, -1);
    if (!number) return diag_set(-EINVAL, "the judge's answer has no number `score`");
    if (!(value >= 0 && value <= 1))
        return diag_set(-EINVAL, "the judge's `score` is not between 0 and 1");
    *ret_score = value;
    *ret_reason = json_str(json_get(v, "reason"));
    return 0;
}
