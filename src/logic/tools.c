#include "logic/tools.h"

#include "logic/manifest.h"

#include "base/diag.h"
#include "codec/duration.h"
#include "codec/url.h"
#include "logic/glob.h"
#include "logic/schema.h"
#include "logic/shape.h"

#define TIMEOUT_DEFAULT_MS 30000
#define TIMEOUT_MAX_MS 3600000
#define OUTPUT_BYTES_DEFAULT 65536
#define INTEGER_MAX INT64_C(9007199254740991)

static const char *const effect_words[] = { "write", "read", NULL };
static const char *const method_words[] = { "POST", "GET", "PUT", "PATCH", "DELETE", NULL };

/* --- rules for single members --------------------------------------------------------------- */

static void rule_name(IssueList *issues, const IssuePath *path, const Json *v)
{
    Str name = json_str(v);
    bool ok = true;
    for (size_t i = 0; i < name.len; i++) {
        char c = name.ptr[i];
        ok &= (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '_' || c == '-';
    }
    if (!ok)
        issue_error(issues, path, "expected letters, digits, `_` and `-` only, found `%.*s`",
                    STR_ARG(name));
}

static void rule_schema(IssueList *issues, const IssuePath *path, const Json *v)
{
    if (json_type(v) != JSON_OBJECT) {
        shape_expected(issues, path, v, "a JSON Schema object");
        return;
    }
    IssuePath at = ISSUE_KEY(path, STR("type"));
    if (!str_eq(json_str(json_get(v, "type")), STR("object")))
        issue_error(issues, &at, "the arguments of a tool are an object: expected \"object\"");
    schema_check(v, path, issues);
}

/* One argument of an allow or deny rule: a pattern or several. */
static void check_globs(IssueList *issues, const IssuePath *path, const Json *v)
{
    if (json_type(v) == JSON_STRING) return;
    if (json_type(v) != JSON_ARRAY || json_len(v) == 0) {
        shape_expected(issues, path, v, "a pattern or an array of patterns");
        return;
    }
    size_t i = 0;
    for (JsonIter it = json_iter(v); json_next(&it); i++) {
        IssuePath at = ISSUE_INDEX(path, i);
        if (json_type(it.value) != JSON_STRING) shape_expected(issues, &at, it.value, "a pattern");
    }
}

static void rule_rules(IssueList *issues, const IssuePath *path, const Json *v)
{
    if (json_type(v) != JSON_ARRAY || json_len(v) > TOOL_RULES_MAX) {
        shape_expected(issues, path, v, "an array of at most 32 rules");
        return;
    }
    size_t i = 0;
    for (JsonIter it = json_iter(v); json_next(&it); i++) {
        IssuePath rule = ISSUE_INDEX(path, i);
        if (json_type(it.value) != JSON_OBJECT || json_len(it.value) == 0) {
            shape_expected(issues, &rule, it.value, "an object such as {\"path\": \"/tmp/*\"}");
            continue;
        }
        for (JsonIter a = json_iter(it.value); json_next(&a);) {
            IssuePath at = ISSUE_KEY(&rule, a.key.ptr ? a.key : STR(""));
            check_globs(issues, &at, a.value);
        }
    }
}

static void rule_url(IssueList *issues, const IssuePath *path, const Json *v)
{
    Url url;
    int r = url_parse(issues->arena, json_str(v), &url);
    if (r == -ENOMEM) issues->failed = true;
    else if (r != 0) issue_error(issues, path, "expected an http or https URL: %s", diag_text());
}

/* RFC 9110 section 5.6.2, and not one that the client sets itself. */
static bool header_name_ok(Str name)
{
    static const Str ours[] = { STR("host"), STR("content-length"), STR("transfer-encoding"),
                                STR("connection") };
    static const Str marks = STR("!#$%&'*+-.^_`|~");
    for (size_t i = 0; i < ARRAY_N(ours); i++)
        if (str_eq_nocase(name, ours[i])) return false;
    for (size_t i = 0; i < name.len; i++) {
        char c = name.ptr[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!alnum && str_find_char(marks, c) < 0) return false;
    }
    return !str_empty(name);
}

static bool header_text_ok(Str s)
{
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] < 0x20 || s.ptr[i] == 0x7f) return false;
    return true;
}

static void rule_headers(IssueList *issues, const IssuePath *path, const Json *v)
{
    if (json_type(v) != JSON_OBJECT || json_len(v) > TOOL_HEADERS_MAX) {
        shape_expected(issues, path, v, "an object of at most 32 header fields");
        return;
    }
    for (JsonIter it = json_iter(v); json_next(&it);) {
        IssuePath at = ISSUE_KEY(path, it.key.ptr ? it.key : STR(""));
        const Json *env = json_get(it.value, "env");
        const Json *text = env && json_len(it.value) == 1 ? env : it.value;
        if (!header_name_ok(it.key))
            issue_error(issues, &at, "is not a header field that a tool may set");
        if (json_type(text) != JSON_STRING || (env && str_empty(json_str(env))))
            shape_expected(issues, &at, it.value, "text or {\"env\": \"NAME\"}");
        else if (!header_text_ok(json_str(text)))
            issue_error(issues, &at, "must not contain control characters");
    }
}

/* --- the tables ----------------------------------------------------------------------------- */

/* What the tables fill, before it becomes a Tool. */
typedef struct {
    Str name, description;
    const Json *input_schema, *allow, *deny;
    int effect;
    int64_t timeout_ms, output_bytes_max;
    ShapeStrs command;
    Str agent, dry_run;
    struct {
        Str url;
        int method;
        const Json *headers;
    } http;
    struct {
        Str url, tool;
        ShapeStrs command;
        const Json *headers;
    } mcp;
} Draft;

#define AT(member) .offset = offsetof(Draft, member)
#define MEMBERS(table) .members = (table), .members_n = ARRAY_N(table)

/* clang-format off */
static const ShapeMember http_members[] = {
    { "method", SHAPE_WORD, AT(http.method), .words = method_words },
    { "url", SHAPE_STR, true, AT(http.url), .least = 1, .most = URL_BYTES_MAX, .rule = rule_url },
    { "headers", SHAPE_JSON, AT(http.headers), .rule = rule_headers },
};
static const ShapeMember mcp_members[] = {
    { "url", SHAPE_STR, AT(mcp.url), .least = 1, .most = URL_BYTES_MAX, .rule = rule_url },
    { "command", SHAPE_STRS, AT(mcp.command), .least = 1, .most = 64 },
    { "tool", SHAPE_STR, AT(mcp.tool), .least = 1, .most = 256 },
    { "headers", SHAPE_JSON, AT(mcp.headers), .rule = rule_headers },
};
static const ShapeMember source_members[] = {
    { "command", SHAPE_STRS, AT(command), .least = 1, .most = 64 },
    { "http", SHAPE_OBJECT, MEMBERS(http_members) },
    { "mcp", SHAPE_OBJECT, MEMBERS(mcp_members) },
    { "agent", SHAPE_STR, AT(agent), .least = 1, .most = MANIFEST_NAME_BYTES_MAX },
};
static const ShapeMember tool_members[] = {
    { "name", SHAPE_STR, true, AT(name), .least = 1, .most = TOOL_NAME_BYTES_MAX,
      .rule = rule_name },
    { "description", SHAPE_STR, AT(description), .most = 4096 },
    { "inputSchema", SHAPE_JSON, AT(input_schema), .rule = rule_schema },
    { "effect", SHAPE_WORD, AT(effect), .words = effect_words },
    { "allow", SHAPE_JSON, AT(allow), .rule = rule_rules },
    { "deny", SHAPE_JSON, AT(deny), .rule = rule_rules },
    { "source", SHAPE_OBJECT, MEMBERS(source_members) },
    { "timeout", SHAPE_DURATION, AT(timeout_ms), .least = 10, .most = TIMEOUT_MAX_MS },
    { "outputBytesMax", SHAPE_INT, AT(output_bytes_max), .least = 1, .most = 16777216 },
    { "dryRun", SHAPE_STR, AT(dry_run), .least = 1, .most = TOOL_NAME_BYTES_MAX },
};
static const ShapeMember file_members[] = {
    { "tools", SHAPE_JSON, true, SHAPE_NOWHERE },
};
/* clang-format on */

/* --- one tool ------------------------------------------------------------------------------- */

static void check_source(IssueList *issues, const IssuePath *path, const Json *source)
{
    if (json_type(source) != JSON_OBJECT) return;
    IssuePath at = ISSUE_KEY(path, STR("source"));
    if (json_len(source) != 1)
        issue_error(issues, &at,
                    "expected exactly one of command, http, mcp and agent, found %zu members",
                    json_len(source));
    const Json *mcp = json_get(source, "mcp");
    IssuePath mcp_at = ISSUE_KEY(&at, STR("mcp"));
    if (json_type(mcp) == JSON_OBJECT && !json_get(mcp, "url") == !json_get(mcp, "command"))
        issue_error(issues, &mcp_at, "expected either a url or a command");
    const Json *agent = json_get(source, "agent");
    IssuePath agent_at = ISSUE_KEY(&at, STR("agent"));
    if (json_type(agent) == JSON_STRING && !agent_name_ok(json_str(agent)))
        issue_error(issues, &agent_at, "expected the name of an agent");
}

/* A version is hashed over these numbers, which needs each to have one form (RFC 8785). */
static void check_numbers(IssueList *issues, const IssuePath *path, const Json *v)
{
    int64_t n = 0;
    JsonType type = json_type(v);
    bool bad = type == JSON_BIG;
    if (type == JSON_INT) bad = json_i64(v, &n) != 0 || n > INTEGER_MAX || n < -INTEGER_MAX;
    if (bad) issue_error(issues, path, "a whole number must be within 2^53 - 1 of 0");
    size_t i = 0;
    for (JsonIter it = json_iter(v); json_next(&it); i++) {
        IssuePath at = type == JSON_OBJECT ? ISSUE_KEY(path, it.key.ptr ? it.key : STR(""))
                                           : ISSUE_INDEX(path, i);
        check_numbers(issues, &at, it.value);
    }
}

/* An argument that the tool does not know would be passed over, and the tool do its work. */
static void check_dry_run(IssueList *issues, const IssuePath *path, const Json *v)
{
    const Json *name = json_get(v, "dryRun");
    const Json *properties = json_get(json_get(v, "inputSchema"), "properties");
    IssuePath at = ISSUE_KEY(path, STR("dryRun"));
    if (json_type(name) != JSON_STRING) return;
    for (JsonIter it = json_iter(properties); json_next(&it);)
        if (str_eq(it.key, json_str(name)) &&
            str_eq(json_str(json_get(it.value, "type")), STR("boolean")))
            return;
    issue_error(issues, &at, "expected a boolean argument that `inputSchema` declares");
}

static int headers_fill(Arena *arena, const Json *headers, Tool *tool)
{
    assert(json_len(headers) <= TOOL_HEADERS_MAX);
    ToolHeader *list = ARENA_ARRAY(arena, ToolHeader, json_len(headers) + 1);
    if (!list) return -ENOMEM;
    size_t n = 0;
    for (JsonIter it = json_iter(headers); json_next(&it);) {
        const Json *env = json_get(it.value, "env");
        list[n++] = (ToolHeader){ it.key, json_str(env ? env : it.value), env != NULL };
    }
    tool->headers = list;
    tool->headers_n = n;
    return 0;
}

static int source_fill(Arena *arena, const Draft *d, const Json *source, Tool *tool)
{
    if (json_get(source, "command")) {
        tool->source = TOOL_BY_COMMAND;
        tool->command = d->command.items;
        tool->command_n = d->command.n;
    } else if (json_get(source, "http")) {
        tool->source = TOOL_BY_HTTP;
        tool->method = str_of(method_words[d->http.method]);
        tool->url = d->http.url;
        return headers_fill(arena, d->http.headers, tool);
    } else if (json_get(source, "mcp")) {
        tool->source = TOOL_BY_MCP;
        tool->url = d->mcp.url;
        tool->command = d->mcp.command.items;
        tool->command_n = d->mcp.command.n;
        tool->remote_name = str_empty(d->mcp.tool) ? d->name : d->mcp.tool;
        return headers_fill(arena, d->mcp.headers, tool);
    } else if (json_get(source, "agent")) {
        tool->source = TOOL_BY_SUBAGENT;
        tool->agent = d->agent;
    }
    return 0;
}

/* An empty list of rules is none. */
static const Json *rules_or_none(const Json *rules)
{
    return json_len(rules) > 0 ? rules : NULL;
}

static int tool_fill(Arena *arena, const Draft *d, const Json *v, Tool *ret)
{
    assert(d->timeout_ms > 0 && d->output_bytes_max > 0 && !str_empty(d->name));
    *ret = (Tool){
        .name = d->name,
        .description = d->description,
        .input_schema = d->input_schema,
        .effect = (ToolEffect)d->effect,
        .allow = rules_or_none(d->allow),
        .deny = rules_or_none(d->deny),
        .timeout_ms = d->timeout_ms,
        .output_bytes_max = d->output_bytes_max,
        .dry_run = d->dry_run,
    };
    if (!ret->input_schema &&
        json_parse(arena, STR("{\"type\":\"object\"}"), NULL, &ret->input_schema, NULL) != 0)
        return -ENOMEM;
    return source_fill(arena, d, json_get(v, "source"), ret);
}

static int tool_read(IssueList *issues, const IssuePath *path, const Json *v, Tool *ret)
{
    Draft draft = { .timeout_ms = TIMEOUT_DEFAULT_MS, .output_bytes_max = OUTPUT_BYTES_DEFAULT };
    if (json_get(json_get(v, "source"), "agent")) draft.timeout_ms = TIMEOUT_MAX_MS;
    shape_read(issues, path, v, tool_members, ARRAY_N(tool_members), &draft);
    check_source(issues, path, json_get(v, "source"));
    check_dry_run(issues, path, v);
    check_numbers(issues, path, v);
    if (json_type(v) == JSON_OBJECT && str_empty(draft.description))
        issue_warn(issues, path, "has no description: a model chooses tools by what they say");
    if (issues->errors > 0) return 0;
    return tool_fill(issues->arena, &draft, v, ret);
}

/* --- the file ------------------------------------------------------------------------------- */

static void check_unique(IssueList *issues, const IssuePath *path, const Json *array)
{
    size_t i = 0;
    for (JsonIter a = json_iter(array); json_next(&a); i++) {
        Str name = json_str(json_get(a.value, "name"));
        size_t k = i + 1;
        for (JsonIter b = a; json_next(&b); k++) {
            if (str_empty(name) || !str_eq(json_str(json_get(b.value, "name")), name)) continue;
            IssuePath tool = ISSUE_INDEX(path, k), at = ISSUE_KEY(&tool, STR("name"));
            issue_error(issues, &at, "`%.*s` is the name of an earlier tool too",
                        STR_ARG(str_sub(name, 0, TOOL_NAME_BYTES_MAX)));
        }
    }
}

static int array_read(IssueList *issues, const IssuePath *path, const Json *array, ToolSet *ret)
{
    size_t n = json_len(array);
    if (json_type(array) != JSON_ARRAY || n > TOOLS_N_MAX) {
        shape_expected(issues, path, array, "an array of at most 256 tools");
        return 0;
    }
    Tool *tools = ARENA_ARRAY(issues->arena, Tool, n + 1);
    if (!tools) return -ENOMEM;
    size_t i = 0;
    for (JsonIter it = json_iter(array); json_next(&it); i++) {
        IssuePath at = ISSUE_INDEX(path, i);
        int r = tool_read(issues, &at, it.value, &tools[i]);
        if (r != 0) return r;
    }
    check_unique(issues, path, array);
    assert(i == n);
    *ret = (ToolSet){ .items = tools, .n = n, .definitions = array };
    return 0;
}

static int file_read(IssueList *issues, const Json *root, ToolSet *ret)
{
    if (json_type(root) != JSON_OBJECT) return array_read(issues, NULL, root, ret);
    shape_read(issues, NULL, root, file_members, ARRAY_N(file_members), NULL);
    IssuePath at = ISSUE_KEY(NULL, STR("tools"));
    const Json *array = json_get(root, "tools");
    return array ? array_read(issues, &at, array, ret) : 0;
}

/* The document, or one issue. */
static int read_json(Arena *arena, Str text, IssueList *issues, const Json **ret)
{
    JsonError error = { 0 };
    if (text.len > TOOLS_BYTES_MAX) {
        issue_error(issues, NULL, "is larger than %d bytes", TOOLS_BYTES_MAX);
        return TOOLS_E_INVALID;
    }
    int r = json_parse(arena, text, NULL, ret, &error);
    if (r != -EINVAL) return r;
    issue_error(issues, NULL, "%s", error.message);
    if (issues->n > 0) {
        issues->items[issues->n - 1].line = error.line;
        issues->items[issues->n - 1].column = error.column;
    }
    return TOOLS_E_INVALID;
}

int tools_parse(Arena *arena, Str json_text, ToolSet *ret, Issue *issues, size_t issues_max,
                size_t *ret_issues_n)
{
    IssueList list;
    issue_list_init(&list, arena, issues, issues_max, NULL, NULL);
    const Json *root = NULL;
    ToolSet set = { 0 };
    int r = read_json(arena, json_text, &list, &root);
    if (r == 0) {
        list.place = issue_place_in_json;
        list.place_arg = &json_text;
        r = file_read(&list, root, &set);
        issue_sort(&list);
        if (r == 0 && list.failed) r = -ENOMEM;
        if (r == 0 && list.errors > 0) r = TOOLS_E_INVALID;
    }
    *ret_issues_n = list.n;
    assert(r == 0 ? list.errors == 0 : r == -ENOMEM || list.errors > 0);
    if (r == 0) *ret = set;
    return r;
}

/* --- use ------------------------------------------------------------------------------------ */

const Tool *tools_find(const ToolSet *set, Str name)
{
    for (size_t i = 0; i < set->n; i++)
        if (str_eq(set->items[i].name, name)) return &set->items[i];
    return NULL;
}

const Tool *tools_without_source(const ToolSet *set)
{
    for (size_t i = 0; i < set->n; i++)
        if (set->items[i].source == TOOL_BY_AGENT) return &set->items[i];
    return NULL;
}

const Tool *tools_write_without_source(const ToolSet *set)
{
    for (size_t i = 0; i < set->n; i++)
        if (set->items[i].source == TOOL_BY_AGENT && set->items[i].effect == TOOL_WRITE)
            return &set->items[i];
    return NULL;
}

const char *tool_effect_name(ToolEffect effect)
{
    assert(effect < TOOL_EFFECT_N_);
    return effect_words[effect];
}

/* An argument as text to hold against patterns; false when it has none. */
static bool argument_text(const Json *v, char number[JSON_NUMBER_TEXT_MAX], Str *ret)
{
    switch (json_type(v)) {
    case JSON_STRING: *ret = json_str(v); return true;
    case JSON_BOOL: *ret = json_bool(v, false) ? STR("true") : STR("false"); return true;
    case JSON_BIG: *ret = json_number_text(v); return true;
    case JSON_INT:
    case JSON_REAL:
        *ret = str_make(number, json_number_format(json_f64_or(v, 0), number));
        return true;
    default: return false;
    }
}

static bool fits_a_glob(const Json *globs, Str text)
{
    if (json_type(globs) == JSON_STRING) return glob_match(json_str(globs), text);
    for (JsonIter it = json_iter(globs); json_next(&it);)
        if (glob_match(json_str(it.value), text)) return true;
    return false;
}

/* Whether every argument the rule names is there and fits. textless: what is said of an argument
 * that is there but is no scalar, such as a list in place of a path. */
static bool rule_matches(const Json *rule, const Json *args, bool textless)
{
    for (JsonIter it = json_iter(rule); json_next(&it);) {
        char number[JSON_NUMBER_TEXT_MAX];
        Str text;
        const Json *argument = json_get_str(args, it.key);
        if (!argument) return false;
        bool fits = argument_text(argument, number, &text) ? fits_a_glob(it.value, text) : textless;
        if (!fits) return false;
    }
    return true;
}

int tool_may(const Tool *tool, const Json *args)
{
    assert(tool);
    size_t i = 0;
    for (JsonIter it = json_iter(tool->deny); json_next(&it); i++)
        if (rule_matches(it.value, args, true))
            return diag_set(TOOL_E_DENIED,
                            "tool `%.*s`: rule %zu of `deny` forbids these arguments",
                            STR_ARG(tool->name), i);
    if (!tool->allow) return 0;
    for (JsonIter it = json_iter(tool->allow); json_next(&it);)
        if (rule_matches(it.value, args, false)) return 0;
    return diag_set(TOOL_E_DENIED, "tool `%.*s`: no rule of `allow` permits these arguments",
                    STR_ARG(tool->name));
}

/* --- normal form ---------------------------------------------------------------------------- */

static void put_strs(JsonOut *out, const char *key, const Str *items, size_t n)
{
    json_out_key(out, key);
    json_out_array(out);
    for (size_t i = 0; i < n; i++) json_out_str(out, items[i]);
    json_out_array_end(out);
}

static void put_headers(JsonOut *out, const Tool *t)
{
    json_out_key(out, "headers");
    json_out_object(out);
    for (size_t i = 0; i < t->headers_n; i++) {
        const ToolHeader *h = &t->headers[i];
        json_out_key_str(out, h->name);
        if (!h->from_env) {
            json_out_str(out, h->value);
            continue;
        }
        json_out_object(out);
        json_out_kstr(out, "env", h->value);
        json_out_object_end(out);
    }
    json_out_object_end(out);
}

static void put_source(JsonOut *out, const Tool *t)
{
    assert(t->source < TOOL_SOURCE_N_);
    if (t->source == TOOL_BY_AGENT) return;
    json_out_key(out, "source");
    json_out_object(out);
    if (t->source == TOOL_BY_COMMAND) {
        put_strs(out, "command", t->command, t->command_n);
    } else if (t->source == TOOL_BY_SUBAGENT) {
        json_out_kstr(out, "agent", t->agent);
    } else {
        bool mcp = t->source == TOOL_BY_MCP;
        json_out_key(out, mcp ? "mcp" : "http");
        json_out_object(out);
        if (mcp) json_out_kstr(out, "tool", t->remote_name);
        else json_out_kstr(out, "method", t->method);
        if (!str_empty(t->url)) json_out_kstr(out, "url", t->url);
        else put_strs(out, "command", t->command, t->command_n);
        put_headers(out, t);
        json_out_object_end(out);
    }
    json_out_object_end(out);
}

static void put_rules(JsonOut *out, const char *key, const Json *rules)
{
    json_out_key(out, key);
    if (rules) {
        json_out_value(out, rules);
        return;
    }
    json_out_array(out);
    json_out_array_end(out);
}

static void put_tool(JsonOut *out, const Tool *t)
{
    char timeout[DURATION_TEXT_MAX];
    json_out_object(out);
    json_out_kstr(out, "name", t->name);
    json_out_kstr(out, "description", t->description);
    json_out_kval(out, "inputSchema", t->input_schema);
    json_out_kcstr(out, "effect", tool_effect_name(t->effect));
    put_rules(out, "allow", t->allow);
    put_rules(out, "deny", t->deny);
    put_source(out, t);
    json_out_kcstr(out, "timeout", duration_format(t->timeout_ms, timeout));
    json_out_ki64(out, "outputBytesMax", t->output_bytes_max);
    if (!str_empty(t->dry_run)) json_out_kstr(out, "dryRun", t->dry_run);
    json_out_object_end(out);
}

int tools_normalize(const ToolSet *set, Buf *out)
{
    JsonOut json = json_out(out);
    json_out_array(&json);
    for (size_t i = 0; i < set->n; i++) put_tool(&json, &set->items[i]);
    json_out_array_end(&json);
    return json_out_ok(&json) ? 0 : -ENOMEM;
}
