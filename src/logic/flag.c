#include "logic/flag.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "codec/murmur3.h"
#include "logic/glob.h"

#define VERSION_PREFIX_MIN 8
#define ITEM_BYTES_MAX 256
#define VALUE_BYTES_MAX 4096
#define DESCRIPTION_BYTES_MAX 1024

static const Str tool_prefix = STR("tool:"), model_prefix = STR("model:"), tasks_key = STR("tasks");

/* --- keys ------------------------------------------------------------------------------------- */

static FlagKind key_kind(Str key, Str *ret_pattern)
{
    *ret_pattern = STR_NULL;
    if (str_eq(key, tasks_key)) return FLAG_TASKS;
    bool tool = str_starts_with(key, tool_prefix);
    if (!tool && !str_starts_with(key, model_prefix)) return FLAG_VALUE;
    *ret_pattern = str_skip(key, tool ? tool_prefix.len : model_prefix.len);
    return tool ? FLAG_TOOL : FLAG_MODEL;
}

bool flag_key_ok(Str key)
{
    Str pattern;
    FlagKind kind = key_kind(key, &pattern);
    if (str_empty(key) || key.len > FLAG_KEY_BYTES_MAX) return false;
    if (kind != FLAG_VALUE && kind != FLAG_TASKS && str_empty(pattern)) return false;
    for (size_t i = 0; i < key.len; i++) {
        unsigned char c = (unsigned char)key.ptr[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        bool mark = i > 0 && (c == '.' || c == '_' || c == '-');
        bool in_name = kind != FLAG_VALUE && c > 0x20 && c < 0x7f;
        if (!alnum && !mark && !in_name) return false;
    }
    return true;
}

/* --- reading ---------------------------------------------------------------------------------- */

typedef struct {
    Arena *arena;
    FlagFault *fault;
    char at[64]; /* the rule that is being read, with a dot: "rules[2]." */
    bool is_switch;
    JsonType type; /* of the flag's value */
} Reader;

static int refuse(Reader *r, const char *member, const char *fmt, ...) PRINTF_LIKE(3, 4);
static int refuse(Reader *r, const char *member, const char *fmt, ...)
{
    va_list args;
    snprintf(r->fault->member, sizeof r->fault->member, "%s%s", r->at, member);
    va_start(args, fmt);
    vsnprintf(r->fault->message, sizeof r->fault->message, fmt, args);
    va_end(args);
    return FLAG_E_INVALID;
}

static JsonType value_type(const Json *v)
{
    JsonType type = json_type(v);
    return type == JSON_REAL ? JSON_INT : type;
}

static int read_value(Reader *r, const Json *v, const Json **ret)
{
    JsonType type = value_type(v);
    if (type != JSON_BOOL && type != JSON_STRING && type != JSON_INT)
        return refuse(r, "value", "expected true, false, a string or a number");
    if (r->is_switch && type != JSON_BOOL)
        return refuse(r, "value", "a switch is true (on) or false (off)");
    if (r->type != JSON_ABSENT && type != r->type)
        return refuse(r, "value", "has another type than the flag's own value");
    if (json_str(v).len > VALUE_BYTES_MAX)
        return refuse(r, "value", "is longer than %d bytes", VALUE_BYTES_MAX);
    r->type = type;
    *ret = v;
    return 0;
}

static int read_list(Reader *r, const char *key, const Json *v, size_t least, const Json **ret)
{
    if (json_type(v) != JSON_ARRAY || json_len(v) == 0 || json_len(v) > FLAG_LIST_MAX)
        return refuse(r, key, "expected an array of 1 to %d texts", FLAG_LIST_MAX);
    for (JsonIter it = json_iter(v); json_next(&it);) {
        Str text = json_str(it.value);
        if (text.len < least || text.len > ITEM_BYTES_MAX)
            return refuse(r, key, "expected texts of %zu to %d bytes", least, ITEM_BYTES_MAX);
    }
    *ret = v;
    return 0;
}

static int read_percent(Reader *r, const Json *v, int64_t *ret)
{
    double percent = json_f64_or(v, -1);
    if (!(percent >= 0 && percent <= 100))
        return refuse(r, "percent", "expected a number from 0 to 100");
    *ret = (int64_t)(percent * 100 + 0.5);
    return 0;
}

static int read_by(Reader *r, const Json *v, Str *ret)
{
    static const Str units[] = { STR("task"), STR("session"), STR("user"), STR("tenant") };
    for (size_t i = 0; i < ARRAY_N(units); i++) {
        if (!str_eq(json_str(v), units[i])) continue;
        *ret = units[i];
        return 0;
    }
    return refuse(r, "by", "expected task, session, user or tenant");
}

static int read_rule_member(Reader *r, Str key, const Json *v, FlagRule *rule)
{
    if (str_eq(key, STR("agents"))) return read_list(r, "agents", v, 1, &rule->agents);
    if (str_eq(key, STR("users"))) return read_list(r, "users", v, 1, &rule->users);
    if (str_eq(key, STR("tenants"))) return read_list(r, "tenants", v, 1, &rule->tenants);
    if (str_eq(key, STR("versions")))
        return read_list(r, "versions", v, VERSION_PREFIX_MIN, &rule->versions);
    if (str_eq(key, STR("percent"))) return read_percent(r, v, &rule->percent_bp);
    if (str_eq(key, STR("by"))) return read_by(r, v, &rule->by);
    if (str_eq(key, STR("value"))) return read_value(r, v, &rule->value);
    return refuse(r, "", "\"%.*s\" is not a member of a rule", STR_ARG(str_sub(key, 0, 64)));
}

static int read_rule(Reader *r, const Json *v, FlagRule *rule)
{
    *rule = (FlagRule){ .percent_bp = -1 };
    if (json_type(v) != JSON_OBJECT) return refuse(r, "", "expected an object");
    for (JsonIter it = json_iter(v); json_next(&it);) {
        if (json_type(it.value) == JSON_NULL) continue;
        int e = read_rule_member(r, it.key, it.value, rule);
        if (e != 0) return e;
    }
    return rule->value ? 0 : refuse(r, "value", "is missing");
}

static int read_rules(Reader *r, const Json *v, Flag *flag)
{
    size_t n = json_len(v), i = 0;
    if (json_type(v) != JSON_ARRAY || n > FLAG_RULES_MAX)
        return refuse(r, "rules", "expected an array of at most %d rules", FLAG_RULES_MAX);
    FlagRule *rules = ARENA_ARRAY(r->arena, FlagRule, n + 1);
    if (!rules) return -ENOMEM;
    for (JsonIter it = json_iter(v); json_next(&it); i++) {
        snprintf(r->at, sizeof r->at, "rules[%zu].", i);
        int e = read_rule(r, it.value, &rules[i]);
        if (e != 0) return e;
    }
    r->at[0] = '\0';
    flag->rules = rules;
    flag->rules_n = n;
    return 0;
}

static int read_members(Reader *r, const Json *definition, Flag *flag)
{
    static const Str passed[] = { STR("key"),   STR("updatedAt"), STR("revision"),
                                  STR("value"), STR("rules"),     STR("description") };
    for (JsonIter it = json_iter(definition); json_next(&it);) {
        bool known = false;
        for (size_t i = 0; i < ARRAY_N(passed); i++) known |= str_eq(it.key, passed[i]);
        if (!known)
            return refuse(r, "", "\"%.*s\" is not a member of a flag",
                          STR_ARG(str_sub(it.key, 0, 64)));
    }
    int e = read_value(r, json_get(definition, "value"), &flag->value);
    const Json *rules = json_get(definition, "rules"), *text = json_get(definition, "description");
    if (e == 0 && rules && json_type(rules) != JSON_NULL) e = read_rules(r, rules, flag);
    if (e != 0) return e;
    if (text && json_type(text) != JSON_STRING && json_type(text) != JSON_NULL)
        return refuse(r, "description", "expected a string");
    flag->description = json_str(text);
    if (flag->description.len > DESCRIPTION_BYTES_MAX)
        return refuse(r, "description", "is longer than %d bytes", DESCRIPTION_BYTES_MAX);
    return 0;
}

int flag_parse(Arena *arena, Str key, const Json *definition, Flag *ret, FlagFault *ret_fault)
{
    Flag flag = { .key = key };
    flag.kind = key_kind(key, &flag.pattern);
    Reader r = { .arena = arena, .fault = ret_fault, .is_switch = flag.kind != FLAG_VALUE };
    if (!flag_key_ok(key))
        return refuse(&r, "key",
                      "expected up to %d letters, digits, '.', '_' and '-', or tool:NAME, "
                      "model:NAME, tasks",
                      FLAG_KEY_BYTES_MAX);
    if (json_type(definition) != JSON_OBJECT) return refuse(&r, "", "expected an object");
    int e = read_members(&r, definition, &flag);
    if (e == 0) *ret = flag;
    return e;
}

int flags_parse(Arena *arena, const Json *array, FlagSet *ret)
{
    size_t n = 0;
    FlagFault fault;
    if (json_type(array) != JSON_ARRAY || json_len(array) > FLAGS_MAX) return -EINVAL;
    Flag *items = ARENA_ARRAY(arena, Flag, json_len(array) + 1);
    if (!items) return -ENOMEM;
    for (JsonIter it = json_iter(array); json_next(&it);) {
        int r = flag_parse(arena, json_str(json_get(it.value, "key")), it.value, &items[n], &fault);
        if (r < 0) return r;
        n += r == 0;
    }
    *ret = (FlagSet){ items, n };
    return 0;
}

/* --- deciding --------------------------------------------------------------------------------- */

static bool in_list(const Json *list, Str text)
{
    if (!list) return true;
    for (JsonIter it = json_iter(list); json_next(&it);)
        if (str_eq(json_str(it.value), text)) return true;
    return false;
}

static bool in_versions(const Json *list, Str version_id)
{
    if (!list) return true;
    for (JsonIter it = json_iter(list); json_next(&it);)
        if (str_starts_with(version_id, json_str(it.value))) return true;
    return false;
}

static Str unit_of(Str by, const FlagContext *c)
{
    if (str_eq(by, STR("task"))) return c->task_id;
    if (str_eq(by, STR("session"))) return c->session_id;
    if (str_eq(by, STR("user"))) return c->user_id;
    if (str_eq(by, STR("tenant"))) return c->tenant_id;
    if (!str_empty(c->session_id)) return c->session_id;
    return !str_empty(c->user_id) ? c->user_id : c->task_id;
}

/* The flag's key is the salt: so different flags split differently. */
static bool in_percent(const Flag *flag, const FlagRule *rule, const FlagContext *c)
{
    if (rule->percent_bp < 0) return true;
    Str unit = unit_of(rule->by, c);
    return !str_empty(unit) && murmur3_bucket(flag->key, unit) < (uint32_t)rule->percent_bp;
}

static bool rule_fits(const Flag *flag, const FlagRule *rule, const FlagContext *c)
{
    return in_list(rule->agents, c->agent) && in_list(rule->users, c->user_id) &&
           in_list(rule->tenants, c->tenant_id) && in_versions(rule->versions, c->version_id) &&
           in_percent(flag, rule, c);
}

FlagAnswer flag_eval(const Flag *flag, const FlagContext *context)
{
    for (size_t i = 0; i < flag->rules_n; i++) {
        const FlagRule *rule = &flag->rules[i];
        if (!rule_fits(flag, rule, context)) continue;
        return (FlagAnswer){ rule->value, rule->percent_bp < 0 ? FLAG_TARGETED : FLAG_SPLIT,
                             (ptrdiff_t)i };
    }
    return (FlagAnswer){ flag->value, flag->rules_n ? FLAG_DEFAULT : FLAG_STATIC, -1 };
}

const char *flag_reason_name(FlagReason reason)
{
    static const char *const names[] = { "STATIC", "DEFAULT", "TARGETING_MATCH", "SPLIT" };
    assert((size_t)reason < ARRAY_N(names));
    return names[reason];
}

const Flag *flags_find(const FlagSet *set, Str key)
{
    for (size_t i = 0; set && i < set->n; i++)
        if (str_eq(set->items[i].key, key)) return &set->items[i];
    return NULL;
}

static bool is_on(const FlagSet *set, const FlagContext *context, FlagKind kind, Str name)
{
    for (size_t i = 0; set && i < set->n; i++) {
        const Flag *flag = &set->items[i];
        if (flag->kind != kind) continue;
        if (kind != FLAG_TASKS && !glob_match(flag->pattern, name)) continue;
        if (!json_bool(flag_eval(flag, context).value, true)) return false;
    }
    return true;
}

bool flags_tool_on(const FlagSet *set, const FlagContext *context, Str tool)
{
    return is_on(set, context, FLAG_TOOL, tool);
}

bool flags_model_on(const FlagSet *set, const FlagContext *context, Str model)
{
    return is_on(set, context, FLAG_MODEL, model);
}

bool flags_tasks_on(const FlagSet *set, const FlagContext *context)
{
    return is_on(set, context, FLAG_TASKS, STR_NULL);
}

/* --- writing ---------------------------------------------------------------------------------- */

void flags_write(JsonOut *out, const FlagSet *set, const FlagContext *context)
{
    json_out_object(out);
    for (size_t i = 0; set && i < set->n; i++) {
        const Flag *flag = &set->items[i];
        if (flag->kind != FLAG_VALUE) continue;
        json_out_key_str(out, flag->key);
        json_out_value(out, flag_eval(flag, context).value);
    }
    json_out_object_end(out);
}

static void write_list(JsonOut *out, const char *key, const Json *list)
{
    if (list) json_out_kval(out, key, list);
}

static void write_rule(JsonOut *out, const FlagRule *rule)
{
    json_out_object(out);
    write_list(out, "agents", rule->agents);
    write_list(out, "users", rule->users);
    write_list(out, "tenants", rule->tenants);
    write_list(out, "versions", rule->versions);
    if (rule->percent_bp >= 0) {
        json_out_key(out, "percent");
        json_out_f64(out, (double)rule->percent_bp / 100);
    }
    if (!str_empty(rule->by)) json_out_kstr(out, "by", rule->by);
    json_out_kval(out, "value", rule->value);
    json_out_object_end(out);
}

void flag_write(JsonOut *out, const Flag *flag)
{
    json_out_object(out);
    json_out_kval(out, "value", flag->value);
    json_out_key(out, "rules");
    json_out_array(out);
    for (size_t i = 0; i < flag->rules_n; i++) write_rule(out, &flag->rules[i]);
    json_out_array_end(out);
    json_out_kstr(out, "description", flag->description);
    json_out_object_end(out);
}
