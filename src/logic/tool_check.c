#include "logic/tool_check.h"

#include <stdio.h>
#include <string.h>

#include "logic/glob.h"
#include "logic/request_info.h"

#define SCHEMA_BYTES_MAX ((size_t)2 << 20)

typedef struct {
    Arena *arena;
    Api api;
    const Json *body;
    const ToolPolicy *policy;
    ToolFinding *items;
    size_t n, cap;
} Check;

static bool word_in(Str word, const Str *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (str_eq(word, list[i])) return true;
    return false;
}

/* null counts as absent, as with the providers. */
static const Json *member(const Json *v, const char *key)
{
    const Json *m = json_get(v, key);
    return json_type(m) == JSON_NULL ? NULL : m;
}

/* --- comparing -------------------------------------------------------------------------------- */

static size_t first_difference(Str a, Str b)
{
    size_t i = 0;
    while (i < a.len && i < b.len && a.ptr[i] == b.ptr[i]) i++;
    return i;
}

/* Numbers without a canonical form have none in a version either, so they differ from all of it. */
static int canonical(Arena *arena, const Json *v, Str *ret)
{
    CLEANUP(buf_deinit) Buf buf;
    buf_init(&buf, SCHEMA_BYTES_MAX);
    int r = v ? json_canonical(v, &buf)
              : (buf_add(&buf, STR("{\"type\":\"object\"}")) ? 0 : -ENOMEM);
    if (r == -EINVAL) {
        *ret = STR("");
        return 0;
    }
    if (r < 0) return r;
    *ret = arena_str(arena, buf_str(&buf));
    return ret->ptr ? 0 : -ENOMEM;
}

int tool_compare(Arena *arena, const Tool *declared, Str description, const Json *schema,
                 ToolFault *ret, size_t *ret_differs_at)
{
    Str ours, theirs;
    *ret_differs_at = 0;
    *ret = TOOL_DESCRIPTION_DIFFERS;
    if (!str_eq(declared->description, description)) {
        *ret_differs_at = first_difference(declared->description, description);
        return 0;
    }
    *ret = TOOL_FIT;
    if (schema && json_eq(declared->input_schema, schema)) return 0; /* as it nearly always is */
    int r = canonical(arena, declared->input_schema, &ours);
    if (r == 0) r = canonical(arena, schema, &theirs);
    if (r < 0) return r;
    bool same = ours.len > 0 && str_eq(ours, theirs);
    *ret = same ? TOOL_FIT : TOOL_SCHEMA_DIFFERS;
    if (!same) *ret_differs_at = first_difference(ours, theirs);
    return 0;
}

/* --- findings --------------------------------------------------------------------------------- */

static int add(Check *c, ToolFinding finding)
{
    if (c->n == c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 16;
        ToolFinding *items = ARENA_ARRAY(c->arena, ToolFinding, cap);
        if (!items) return -ENOMEM;
        if (c->n) memcpy(items, c->items, c->n * sizeof *items);
        c->items = items;
        c->cap = cap;
    }
    c->items[c->n++] = finding;
    return 0;
}

static bool switched_off(const Check *c, Str name)
{
    return c->policy->is_on && !c->policy->is_on(c->policy->ctx, name);
}

/* Members of a function tool that the model is not shown, or that are compared. */
static bool members_known(const Json *tool, Str *ret_name)
{
    static const Str known[] = {
        STR("type"),
        STR("name"),
        STR("description"),
        STR("parameters"),
        STR("input_schema"),
        STR("strict"),
        STR("cache_control"),
        STR("defer_loading"),
        STR("allowed_callers"),
        STR("eager_input_streaming"),
        STR("function"),
    };
    for (JsonIter it = json_iter(tool); json_next(&it);) {
        if (json_type(it.value) == JSON_NULL || word_in(it.key, known, ARRAY_N(known))) continue;
        *ret_name = it.key;
        return false;
    }
    return true;
}

/* A function with a schema: the kind that tools.json declares. */
static int add_function(Check *c, const char *list, const Json *item, const Json *function,
                        const char *schema_key)
{
    Str extra = STR_NULL, name = json_str(json_get(function, "name"));
    ToolFinding f = { .name = name, .list = list, .item = item };
    if (switched_off(c, name)) f.fault = TOOL_SWITCHED_OFF;
    if (f.fault || !c->policy->declared) return add(c, f);
    const Tool *declared = tools_find(c->policy->declared, name);
    if (!declared) {
        f.fault = TOOL_UNDECLARED;
        return add(c, f);
    }
    const Json *description = member(function, "description");
    Str text = json_str(description);
    int r = tool_compare(c->arena, declared, text, member(function, schema_key), &f.fault,
                         &f.differs_at);
    if (r < 0) return r;
    if (description && json_type(description) != JSON_STRING) f.fault = TOOL_DESCRIPTION_DIFFERS;
    if (f.fault == TOOL_FIT && (!members_known(function, &extra) || !members_known(item, &extra))) {
        f.fault = TOOL_MEMBER_UNKNOWN;
        f.name = arena_printf(c->arena, "%.*s.%.*s", STR_ARG(name), STR_ARG(extra));
        if (!f.name.ptr) return -ENOMEM;
    }
    return add(c, f);
}

/* A tool that the agent runs, of a kind that tools.json cannot declare: free-form ("custom"), or
 * one that the provider has trained for (bash, computer). */
static int add_other(Check *c, const char *list, const Json *item, Str name)
{
    ToolFinding f = { .name = name, .list = list, .item = item };
    if (switched_off(c, name)) f.fault = TOOL_SWITCHED_OFF;
    else if (c->policy->declared)
        f.fault = tools_find(c->policy->declared, name) ? TOOL_KIND_DIFFERS : TOOL_UNDECLARED;
    return add(c, f);
}

/* Without a date or a preview at the end: web_search_20250305, web_search_preview. */
static Str kind_of(Str type)
{
    for (;;) { /* _20250305, or _2025_08_26 */
        size_t i = type.len;
        while (i > 0 && type.ptr[i - 1] >= '0' && type.ptr[i - 1] <= '9') i--;
        if (i <= 1 || i == type.len || type.ptr[i - 1] != '_') break;
        type.len = i - 1;
    }
    if (str_ends_with(type, STR("_preview"))) type.len -= STR("_preview").len;
    return type;
}

static bool is_listed(const Check *c, Str kind)
{
    return glob_find(c->policy->provider_tools, c->policy->provider_tools_n, kind) >= 0;
}

static int add_provider_tool(Check *c, const char *list, const Json *item, Str type)
{
    Str kind = kind_of(type);
    ToolFinding f = { .name = kind, .list = list, .item = item };
    if (switched_off(c, kind)) f.fault = TOOL_SWITCHED_OFF;
    else if (c->policy->declared && !is_listed(c, kind)) f.fault = TOOL_PROVIDER_UNLISTED;
    return add(c, f);
}

/* A member that brings in tools nobody here can see. */
static int add_hidden(Check *c, const char *key, const Json *v)
{
    if (!v || !c->policy->declared) return 0;
    return add(c, (ToolFinding){ .name = str_of(key), .fault = TOOL_HIDDEN, .list = key });
}

/* --- the three APIs --------------------------------------------------------------------------- */

static int check_chat(Check *c)
{
    int r = 0;
    for (JsonIter it = json_iter(member(c->body, "tools")); r == 0 && json_next(&it);) {
        const Json *function = member(it.value, "function"), *custom = member(it.value, "custom");
        Str type = json_str(json_get(it.value, "type"));
        if (function && (str_empty(type) || str_eq(type, STR("function"))) && !custom)
            r = add_function(c, "tools", it.value, function, "parameters");
        else if (custom && !function)
            r = add_other(c, "tools", it.value, json_str(json_get(custom, "name")));
        else r = add_provider_tool(c, "tools", it.value, type);
    }
    for (JsonIter it = json_iter(member(c->body, "functions")); r == 0 && json_next(&it);)
        r = add_function(c, "functions", it.value, it.value, "parameters");
    if (r == 0 && member(c->body, "web_search_options"))
        r = add_provider_tool(c, "web_search_options", NULL, STR("web_search"));
    return r;
}

/* --- tools within tools ----------------------------------------------------------------------- */

#define NESTED_MAX 4 /* namespaces within one another; deeper ones are hidden */

/* A list that stands in an item of list: a namespace's tools, or what a search has found. Findings
 * are the item's: it goes or stays whole. compares: with what is declared; flags hold in any case.
 * MCP servers list their tools without a type. */
static int check_nested(Check *c, const char *list, const Json *item, const Json *nested,
                        bool compares, int depth)
{
    const ToolPolicy *all = c->policy;
    ToolPolicy flags_only = { .is_on = all->is_on, .ctx = all->ctx };
    int r = 0;
    if (nested && depth == NESTED_MAX)
        return add(c, (ToolFinding){
                          .name = STR("tools"), .fault = TOOL_HIDDEN, .list = list, .item = item });
    if (!compares) c->policy = &flags_only;
    for (JsonIter it = json_iter(nested); r == 0 && json_next(&it);) {
        Str type = json_str(json_get(it.value, "type")),
            name = json_str(json_get(it.value, "name"));
        size_t at = c->n;
        if (str_empty(type) || str_eq(type, STR("function")))
            r = add_function(c, list, it.value, it.value, "parameters");
        else r = add_other(c, list, it.value, str_empty(name) ? type : name);
        if (r == 0) c->items[at].item = item;
        if (r == 0) r = check_nested(c, list, item, member(it.value, "tools"), compares, depth + 1);
    }
    c->policy = all;
    return r;
}

/* Items that bring in tools with their schemas, as a provider's own search or server found them. */
static int check_input_item(Check *c, const Json *item)
{
    static const struct {
        Str type, kind;
    } loads[] = { { STR("tool_search_output"), STR("tool_search") },
                  { STR("mcp_list_tools"), STR("mcp") },
                  { STR("additional_tools"), STR("additional_tools") } };
    Str type = json_str(json_get(item, "type"));
    for (size_t i = 0; i < ARRAY_N(loads); i++) {
        if (!str_eq(type, loads[i].type)) continue;
        if (!c->policy->declared || is_listed(c, loads[i].kind))
            return check_nested(c, "input", item, member(item, "tools"), false, 0);
        return add(c, (ToolFinding){ .name = type, .fault = TOOL_HIDDEN, .list = "input" });
    }
    return 0;
}

static int check_responses(Check *c)
{
    static const Str own[] = { STR("custom"),      STR("local_shell"),          STR("shell"),
                               STR("apply_patch"), STR("computer_use_preview"), STR("computer") };
    int r = 0;
    for (JsonIter it = json_iter(member(c->body, "tools")); r == 0 && json_next(&it);) {
        Str type = json_str(json_get(it.value, "type")),
            name = json_str(json_get(it.value, "name"));
        if (str_eq(type, STR("function")))
            r = add_function(c, "tools", it.value, it.value, "parameters");
        else if (word_in(type, own, ARRAY_N(own)))
            r = add_other(c, "tools", it.value, str_empty(name) ? type : name);
        else r = add_provider_tool(c, "tools", it.value, type);
        const Json *nested = member(it.value, "tools");
        if (r == 0) r = check_nested(c, "tools", it.value, nested, c->policy->declared, 0);
    }
    if (r == 0) r = add_hidden(c, "prompt", member(c->body, "prompt"));
    for (JsonIter it = json_iter(json_get(c->body, "input")); r == 0 && json_next(&it);) {
        r = check_input_item(c, it.value);
    }
    return r;
}

static int check_messages_tool(Check *c, const Json *tool)
{
    static const Str own[] = { STR("bash_"), STR("text_editor_"), STR("computer_"),
                               STR("memory_") };
    Str type = json_str(member(tool, "type"));
    if (str_empty(type) || str_eq(type, STR("custom")))
        return add_function(c, "tools", tool, tool, "input_schema");
    for (size_t i = 0; i < ARRAY_N(own); i++)
        if (str_starts_with(type, own[i]))
            return add_other(c, "tools", tool, json_str(json_get(tool, "name")));
    return add_provider_tool(c, "tools", tool, type);
}

static int check_messages(Check *c)
{
    int r = 0;
    for (JsonIter it = json_iter(member(c->body, "tools")); r == 0 && json_next(&it);)
        r = check_messages_tool(c, it.value);
    if (r == 0 && json_len(member(c->body, "mcp_servers")) > 0)
        r = add_provider_tool(c, "mcp_servers", NULL, STR("mcp"));
    return r;
}

int tool_check(Arena *arena, Api api, const Json *body, const ToolPolicy *policy, ToolReport *ret)
{
    Check c = { .arena = arena, .api = api, .body = body, .policy = policy };
    int r = 0;
    switch (api) {
    case API_CHAT: r = check_chat(&c); break;
    case API_RESPONSES: r = check_responses(&c); break;
    case API_MESSAGES: r = check_messages(&c); break;
    case API_EMBEDDINGS: break;
    case API_N_: assert(false);
    }
    if (r < 0) return r;
    ToolReport report = { .items = c.items, .n = c.n };
    for (size_t i = 0; i < c.n; i++) report.faults_n += c.items[i].fault != TOOL_FIT;
    *ret = report;
    return 0;
}

/* --- telling ---------------------------------------------------------------------------------- */

const ToolFinding *tool_report_first(const ToolReport *report)
{
    for (size_t i = 0; i < report->n; i++)
        if (report->items[i].fault != TOOL_FIT) return &report->items[i];
    return NULL;
}

const char *tool_fault_name(ToolFault fault)
{
    static const char *const names[TOOL_FAULT_N_] = { "fit",      "undeclared", "description",
                                                      "schema",   "member",     "kind",
                                                      "provider", "hidden",     "switched_off" };
    assert(fault < TOOL_FAULT_N_);
    return names[fault];
}

void tool_fault_text(const ToolFinding *finding, char out[TOOL_FAULT_TEXT_MAX])
{
    Str name = str_sub(finding->name, 0, 128);
    int at = snprintf(out, TOOL_FAULT_TEXT_MAX, "tool \"%.*s\" ", STR_ARG(name));
    size_t max = TOOL_FAULT_TEXT_MAX - (size_t)at;
    switch (finding->fault) {
    case TOOL_UNDECLARED:
        snprintf(out + at, max, "is not declared by the agent's version (tools.json)");
        break;
    case TOOL_DESCRIPTION_DIFFERS:
        snprintf(out + at, max,
                 "has another description than the agent's version declares, from byte %zu on",
                 finding->differs_at);
        break;
    case TOOL_SCHEMA_DIFFERS:
        snprintf(out + at, max,
                 "has another input schema than the agent's version declares, from byte %zu of its "
                 "canonical form on",
                 finding->differs_at);
        break;
    case TOOL_MEMBER_UNKNOWN:
        snprintf(out + at, max, "is a member that the agent's version cannot declare");
        break;
    case TOOL_KIND_DIFFERS:
        snprintf(out + at, max, "is declared by the agent's version as a function with a schema");
        break;
    case TOOL_PROVIDER_UNLISTED:
        snprintf(out + at, max,
                 "is run by the provider, and is not listed in tools.providerTools of the "
                 "configuration");
        break;
    case TOOL_HIDDEN:
        snprintf(out + at, max, "may bring in tools that cannot be compared with those declared");
        break;
    case TOOL_SWITCHED_OFF: snprintf(out + at, max, "is switched off by a flag"); break;
    case TOOL_FIT:
    case TOOL_FAULT_N_: assert(false);
    }
}

/* --- taking out ------------------------------------------------------------------------------- */

typedef struct {
    Arena *arena;
    const Json *body;
    const ToolReport *report;
    ToolEdit *edits;
    size_t n;
} Editor;

/* One fault is enough: of an item's nested tools, none goes alone. */
static bool is_faulty(const ToolReport *report, const Json *item)
{
    for (size_t i = 0; i < report->n; i++)
        if (report->items[i].item == item && report->items[i].fault != TOOL_FIT) return true;
    return false;
}

/* Whether the tool of that name is offered after the edits. Provider tools go by their kind. */
static bool is_left(const ToolReport *report, Str name)
{
    for (size_t i = 0; i < report->n; i++) {
        const ToolFinding *f = &report->items[i];
        if (f->fault != TOOL_FIT || !str_eq(f->name, name)) continue;
        if (!f->item || !is_faulty(report, f->item)) return true;
    }
    return false;
}

static bool any_left(const ToolReport *report)
{
    for (size_t i = 0; i < report->n; i++) {
        const ToolFinding *f = &report->items[i];
        if (f->fault == TOOL_FIT && (!f->item || !is_faulty(report, f->item))) return true;
    }
    return false;
}

static bool has_fault_in(const Editor *e, const char *list)
{
    for (size_t i = 0; i < e->report->n; i++)
        if (e->report->items[i].fault != TOOL_FIT && strcmp(e->report->items[i].list, list) == 0)
            return true;
    return false;
}

static void put(Editor *e, const char *name, Str value)
{
    assert(e->n < TOOL_EDITS_MAX);
    e->edits[e->n++] = (ToolEdit){ name, value };
}

/* An empty list is an error with every provider: then the member goes. */
static int edit_list(Editor *e, const char *list)
{
    CLEANUP(buf_deinit) Buf buf = { 0 };
    const Json *array = json_get(e->body, list);
    size_t kept = 0;
    if (!has_fault_in(e, list)) return 0;
    buf_init(&buf, (size_t)64 << 20);
    JsonOut out = json_out(&buf);
    json_out_array(&out);
    for (JsonIter it = json_iter(array); json_next(&it);) {
        if (is_faulty(e->report, it.value)) continue;
        json_out_value(&out, it.value);
        kept++;
    }
    json_out_array_end(&out);
    if (!json_out_ok(&out)) return -ENOMEM;
    Str text = kept ? arena_str(e->arena, buf_str(&buf)) : STR("");
    if (!text.ptr) return -ENOMEM;
    put(e, list, text);
    return 0;
}

static void edit_drop(Editor *e, const char *key)
{
    if (json_get(e->body, key)) put(e, key, STR(""));
}

/* What a choice names: {"function":{"name"}}, {"name"}, or a tool of the provider by its type. */
static Str choice_name(const Json *choice)
{
    Str name = json_str(json_get(choice, "name"));
    if (str_empty(name)) name = json_str(json_get(json_get(choice, "function"), "name"));
    if (str_empty(name)) name = json_str(json_get(json_get(choice, "custom"), "name"));
    if (str_empty(name)) name = json_str(json_get(choice, "server_label")).ptr ? STR("mcp") : name;
    return str_empty(name) ? kind_of(json_str(json_get(choice, "type"))) : name;
}

/* {"type":"allowed_tools","mode","tools":[...]}, in chat one level deeper: made free within its
 * mode when it names a tool that is gone. True when the choice is one. */
static bool edit_allowed_tools(Editor *e, const Json *choice)
{
    if (!str_eq(json_str(json_get(choice, "type")), STR("allowed_tools"))) return false;
    const Json *inner = member(choice, "allowed_tools");
    if (!inner) inner = choice;
    bool all_left = true;
    for (JsonIter it = json_iter(json_get(inner, "tools")); json_next(&it);)
        all_left &= is_left(e->report, choice_name(it.value));
    if (!all_left)
        put(e, "tool_choice",
            str_eq(json_str(json_get(inner, "mode")), STR("required")) ? STR("\"required\"")
                                                                       : STR("\"auto\""));
    return true;
}

static void edit_choice(Editor *e, Api api)
{
    const Json *choice = json_get(e->body, "tool_choice");
    const Json *call = json_get(e->body, "function_call");
    if (json_type(call) == JSON_OBJECT && !is_left(e->report, json_str(json_get(call, "name"))))
        put(e, "function_call", STR("\"auto\""));
    if (json_type(choice) != JSON_OBJECT || edit_allowed_tools(e, choice)) return;
    Str type = json_str(json_get(choice, "type"));
    bool named = api != API_MESSAGES || str_eq(type, STR("tool"));
    if (named && !is_left(e->report, choice_name(choice)))
        put(e, "tool_choice", api == API_MESSAGES ? STR("{\"type\":\"auto\"}") : STR("\"auto\""));
}

int tool_edits(Arena *arena, Api api, const Json *body, const ToolReport *report,
               ToolEdit edits[TOOL_EDITS_MAX], size_t *ret_n)
{
    Editor e = { .arena = arena, .body = body, .report = report, .edits = edits };
    assert(report->faults_n > 0);
    for (size_t i = 0; i < report->n; i++)
        if (report->items[i].fault == TOOL_HIDDEN ||
            (report->items[i].fault != TOOL_FIT && strcmp(report->items[i].list, "input") == 0))
            return -ENOTSUP;
    int r = edit_list(&e, "tools");
    if (r == 0) r = edit_list(&e, "functions");
    if (r < 0) return r;
    if (has_fault_in(&e, "web_search_options")) edit_drop(&e, "web_search_options");
    if (has_fault_in(&e, "mcp_servers")) edit_drop(&e, "mcp_servers");
    if (any_left(report)) {
        edit_choice(&e, api);
    } else { /* without tools there is nothing to choose from */
        edit_drop(&e, "tool_choice");
        edit_drop(&e, "function_call");
        edit_drop(&e, "parallel_tool_calls");
    }
    *ret_n = e.n;
    return 0;
}
