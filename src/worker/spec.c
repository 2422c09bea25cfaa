#include "worker/spec.h"

#include "base/diag.h"
#include "logic/version.h"

#define LIMITS_ARENA_BYTES_MAX 65536

static int broken(const char *what)
{
    return diag_set(-EINVAL, "the version's components are not readable: %s", what);
}

static int strings_read(Arena *arena, const Json *v, const Str **ret, size_t *ret_n)
{
    size_t n = 0;
    Str *list = ARENA_ARRAY(arena, Str, json_len(v) + 1);
    if (!list) return -ENOMEM;
    for (JsonIter it = json_iter(v); json_next(&it);) list[n++] = json_str(it.value);
    *ret = list;
    *ret_n = n;
    return 0;
}

static int runtime_read(const Json *v, Runtime *ret)
{
    for (int i = 0; i < RUNTIME_N_; i++) {
        if (!str_eq(json_str(v), str_of(runtime_name((Runtime)i)))) continue;
        *ret = (Runtime)i;
        return 0;
    }
    return broken("runtime");
}

static int code_read(Arena *arena, const Json *code, Spec *spec)
{
    int r = runtime_read(json_get(code, "runtime"), &spec->runtime);
    if (r < 0) return r;
    spec->url = json_str(json_get(code, "url"));
    return strings_read(arena, json_get(code, "command"), &spec->command, &spec->command_n);
}

static int money_read(const Json *v, int64_t *ret)
{
    Str text = json_type(v) == JSON_STRING ? json_str(v) : json_number_text(v);
    return money_from_text(text, NUSD_PER_USD, ret);
}

static int limits_read(const Json *v, CapLimits *ret)
{
    int64_t seconds;
    if (json_i64(json_get(v, "tokensPerTask"), &ret->tokens) < 0) return broken("tokensPerTask");
    if (json_i64(json_get(v, "toolCallsPerTask"), &ret->tool_calls) < 0)
        return broken("toolCallsPerTask");
    if (json_i64(json_get(v, "secondsPerTask"), &seconds) < 0 || seconds > INT64_MAX / 1000)
        return broken("secondsPerTask");
    if (money_read(json_get(v, "usdPerTask"), &ret->usd_nusd) < 0) return broken("usdPerTask");
    ret->wall_ms = seconds * 1000;
    return 0;
}

static int tools_read(Arena *arena, const Json *tools, Spec *spec)
{
    CLEANUP(buf_deinit) Buf text = { 0 };
    Issue issue;
    size_t issues_n;
    const Json *definitions = json_get(tools, "definitions");
    spec->tools_path = json_str(json_get(tools, "path"));
    if (json_type(definitions) != JSON_ARRAY) return 0;
    buf_init(&text, TOOLS_BYTES_MAX);
    JsonOut out = json_out(&text);
    json_out_value(&out, definitions);
    if (!json_out_ok(&out)) return broken("tools");
    spec->tools_text = arena_str(arena, buf_str(&text));
    if (!spec->tools_text.ptr) return -ENOMEM;
    int r = tools_parse(arena, spec->tools_text, &spec->tools, &issue, 1, &issues_n);
    if (r == TOOLS_E_INVALID)
        return diag_set(-EINVAL, "the version's tools are not readable: %.*s",
                        STR_ARG(issue.message));
    return r;
}

static int parts_read(Arena *arena, const Json *v, Spec *spec)
{
    const Json *prompt = json_get(v, "prompt");
    int r = code_read(arena, json_get(v, "code"), spec);
    if (r == 0)
        r = strings_read(arena, json_get(v, "fallbacks"), &spec->fallbacks, &spec->fallbacks_n);
    if (r == 0) r = limits_read(json_get(v, "limits"), &spec->limits);
    if (r == 0 && resource_limits_read(json_get(v, "limits"), &spec->resources) < 0)
        r = broken("limits");
    if (r == 0) r = tools_read(arena, json_get(v, "tools"), spec);
    if (r < 0) return r;
    spec->agent = json_str(json_get(v, "agent"));
    spec->model = json_str(json_get(v, "model"));
    spec->prompt_path = json_str(json_get(prompt, "path"));
    spec->prompt_text = json_str(json_get(prompt, "text"));
    spec->sampling = json_get(v, "sampling");
    spec->memory_window = json_i64_or(json_get(json_get(v, "memory"), "window"), 0);
    if (spec->prompt_path.len && !agent_path_ok(spec->prompt_path)) return broken("prompt.path");
    if (spec->tools_path.len && !agent_path_ok(spec->tools_path)) return broken("tools.path");
    return 0;
}

int spec_read(Arena *arena, Str components, Spec *ret)
{
    Spec spec = { 0 };
    const Json *v;
    int r = json_parse(arena, components, NULL, &v, NULL);
    if (r < 0) return r;
    if (json_i64_or(json_get(v, "schema"), 0) != VERSION_SCHEMA)
        return diag_set(-EINVAL, "the version was made by a newer program");
    r = parts_read(arena, v, &spec);
    if (r == -ENOMEM) return diag_set(r, "the version is too large");
    if (r == 0) *ret = spec;
    return r;
}

/* --- limits of a task ------------------------------------------------------------------------- */

static int lower(int64_t *limit, const Json *limits, const char *key, int64_t scale)
{
    int64_t v;
    const Json *member = json_get(limits, key);
    if (json_type(member) == JSON_ABSENT || json_type(member) == JSON_NULL) return 0;
    int r = scale == NUSD_PER_USD ? money_read(member, &v)
                                  : str_to_i64(json_number_text(member), &v);
    if (r < 0 || v < 0) return diag_set(-EINVAL, "the task's limit `%s` is not readable", key);
    if (scale != NUSD_PER_USD && __builtin_mul_overflow(v, scale, &v)) v = INT64_MAX;
    *limit = MIN(*limit, v);
    return 0;
}

static int limits_lower(const Json *v, CapLimits *limits)
{
    int r = lower(&limits->tokens, v, "tokensPerTask", 1);
    if (r == 0) r = lower(&limits->tool_calls, v, "toolCallsPerTask", 1);
    if (r == 0) r = lower(&limits->wall_ms, v, "secondsPerTask", 1000);
    if (r == 0) r = lower(&limits->usd_nusd, v, "usdPerTask", NUSD_PER_USD);
    return r;
}

int spec_task_limits(const Spec *spec, Str limits_json, int64_t ran_ms, int64_t remaining_ms,
                     CapLimits *ret)
{
    CapLimits limits = spec->limits;
    if (limits_json.len) {
        CLEANUP(arena_deinit) Arena arena = { 0 };
        arena_init(&arena, LIMITS_ARENA_BYTES_MAX);
        JsonLimits as_text = { .numbers_as_text = true };
        const Json *v;
        int r = json_parse(&arena, limits_json, &as_text, &v, NULL);
        if (r == 0) r = limits_lower(v, &limits);
        if (r < 0) return r;
    }
    if (limits.wall_ms != CAP_NONE) limits.wall_ms -= MIN(limits.wall_ms, ran_ms);
    limits.wall_ms = MIN(limits.wall_ms, MAX(remaining_ms, 0));
    assert(limits.tokens <= spec->limits.tokens && limits.usd_nusd <= spec->limits.usd_nusd);
    *ret = limits;
    return 0;
}
