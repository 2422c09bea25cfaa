#include "logic/manifest.h"

#include <math.h>

#include "base/diag.h"
#include "base/money.h"
#include "codec/url.h"
#include "codec/yaml.h"
#include "logic/grade.h"
#include "logic/lane.h"
#include "logic/shadow.h"
#include "logic/shape.h"

#define DAY_MS INT64_C(86400000)

static const char *const runtime_words[] = { "process", "server", "builtin", NULL };

/* --- names, models, paths ------------------------------------------------------------------- */

const char *runtime_name(Runtime runtime)
{
    assert(runtime < RUNTIME_N_);
    return runtime_words[runtime];
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_lower(char c)
{
    return c >= 'a' && c <= 'z';
}

bool agent_name_ok(Str name)
{
    if (str_empty(name) || name.len > MANIFEST_NAME_BYTES_MAX || name.ptr[0] == '-') return false;
    for (size_t i = 0; i < name.len; i++)
        if (!is_lower(name.ptr[i]) && !is_digit(name.ptr[i]) && name.ptr[i] != '-') return false;
    return true;
}

bool model_id_ok(Str model)
{
    static const Str marks = STR("._-/:@+");
    if (str_empty(model) || model.len > 128) return false;
    if (str_find_char(marks, model.ptr[0]) >= 0) return false;
    for (size_t i = 0; i < model.len; i++) {
        char c = model.ptr[i];
        bool letter = is_lower(c) || (c >= 'A' && c <= 'Z');
        if (!letter && !is_digit(c) && str_find_char(marks, c) < 0) return false;
    }
    return true;
}

/* Ends in -YYYY-MM-DD, or in - and at least four digits (-0125, -20250929). */
static bool ends_in_date(Str model)
{
    size_t digits = 0, i = model.len;
    while (i > 0 && is_digit(model.ptr[i - 1])) i--, digits++;
    if (i == 0 || model.ptr[i - 1] != '-') return false;
    if (digits >= 4) return true;
    Str rest = str_sub(model, 0, i - 1); /* …-YYYY-MM */
    return digits == 2 && rest.len > 8 && is_digit(rest.ptr[rest.len - 1]) &&
           rest.ptr[rest.len - 3] == '-' && is_digit(rest.ptr[rest.len - 4]) &&
           rest.ptr[rest.len - 8] == '-';
}

/* OpenAI: every id without a date is an alias, its open weights apart. */
static bool openai_floats(Str model)
{
    bool o_series = model.len > 1 && model.ptr[0] == 'o' && is_digit(model.ptr[1]);
    bool gpt = str_starts_with(model, STR("gpt-")) || str_starts_with(model, STR("chatgpt-"));
    if (!o_series && !gpt) return false;
    return !str_starts_with(model, STR("gpt-oss")) && !ends_in_date(model);
}

/* Anthropic: up to 4.5 the short ids are aliases of dated ones; from 4.6 on they are the ids. */
static bool anthropic_floats(Str model)
{
    static const Str aliases[] = {
        STR("claude-opus-4-0"),   STR("claude-opus-4-1"),   STR("claude-opus-4-5"),
        STR("claude-sonnet-4-0"), STR("claude-sonnet-4-5"), STR("claude-haiku-4-5"),
    };
    for (size_t i = 0; i < ARRAY_N(aliases); i++)
        if (str_eq(model, aliases[i])) return true;
    return false;
}

bool model_is_floating(Str model)
{
    if (str_starts_with(model, STR("sim/"))) return false;
    if (str_eq(model, STR("latest")) || str_ends_with(model, STR("-latest")) ||
        str_ends_with(model, STR(":latest")))
        return true;
    static const Str providers[] = { STR("openai/"), STR("anthropic/") };
    for (size_t i = 0; i < ARRAY_N(providers); i++)
        if (str_starts_with(model, providers[i])) model = str_skip(model, providers[i].len);
    return openai_floats(model) || anthropic_floats(model);
}

bool agent_path_ok(Str path)
{
    if (str_eq(path, STR("."))) return true;
    if (str_empty(path) || path.len > MANIFEST_PATH_BYTES_MAX) return false;
    for (size_t i = 0; i < path.len; i++)
        if ((unsigned char)path.ptr[i] < 0x20 || path.ptr[i] == 0x7f || path.ptr[i] == '\\')
            return false;
    bool more = true;
    while (more) {
        Str part;
        path = str_split(path, '/', &part, &more);
        if (str_empty(part) || str_eq(part, STR(".")) || str_eq(part, STR(".."))) return false;
    }
    return true;
}

/* --- rules for single members --------------------------------------------------------------- */

static void rule_name(IssueList *issues, const IssuePath *path, const Json *v)
{
    if (!agent_name_ok(json_str(v)))
        issue_error(issues, path,
                    "expected lower-case letters, digits and dashes, not beginning with a dash, "
                    "found `%.*s`",
                    STR_ARG(json_str(v)));
}

static void rule_dir(IssueList *issues, const IssuePath *path, const Json *v)
{
    if (!agent_path_ok(json_str(v)))
        issue_error(issues, path,
                    "expected a relative path that stays inside the agent's directory, found "
                    "`%.*s`",
                    STR_ARG(json_str(v)));
}

static void rule_file(IssueList *issues, const IssuePath *path, const Json *v)
{
    if (str_eq(json_str(v), STR("."))) issue_error(issues, path, "expected a file, found `.`");
    else rule_dir(issues, path, v);
}

static void rule_url(IssueList *issues, const IssuePath *path, const Json *v)
{
    Url url;
    int r = url_parse(issues->arena, json_str(v), &url);
    if (r == -ENOMEM) issues->failed = true;
    else if (r != 0) issue_error(issues, path, "expected an http or https URL: %s", diag_text());
}

static void rule_model(IssueList *issues, const IssuePath *path, const Json *v)
{
    Str model = json_str(v);
    if (!model_id_ok(model))
        issue_error(issues, path,
                    "expected a model id such as gpt-4o-mini-2024-07-18, found `%.*s`",
                    STR_ARG(str_sub(model, 0, 64)));
    else if (model_is_floating(model))
        issue_warn(issues, path,
                   "`%.*s` is an alias that the provider may point elsewhere: name an exact model",
                   STR_ARG(model));
}

static void rule_models(IssueList *issues, const IssuePath *path, const Json *v)
{
    size_t i = 0;
    for (JsonIter it = json_iter(v); json_next(&it); i++) {
        IssuePath at = ISSUE_INDEX(path, i);
        rule_model(issues, &at, it.value);
    }
}

/* As thousandths, or -1 when there are more decimals than that. */
static int64_t milli_of(double x)
{
    assert(x >= 0 && x < 1e9);
    int64_t milli = (int64_t)(x * 1000 + 0.5);
    double back = (double)milli / 1000;
    return back == x ? milli : -1;
}

static void rule_factor(IssueList *issues, const IssuePath *path, const Json *v)
{
    if (milli_of(json_f64_or(v, 0)) < 0)
        issue_error(issues, path, "must have at most three decimals");
}

static void rule_margin(IssueList *issues, const IssuePath *path, const Json *v)
{
    if (!(json_f64_or(v, 0) > 0)) issue_error(issues, path, "must be above 0");
}

/* --- rollout -------------------------------------------------------------------------------- */

static const char *const strategy_words[] = { "canary", "blue-green", "immediate", "shadow", NULL };

static const ShapeMember step_members[] = {
    { "weight", SHAPE_NUMBER, true, SHAPE_NOWHERE, .least = 10, .most = 100000 },
    { "for", SHAPE_DURATION, .offset = SHAPE_NOWHERE, .most = 30 * DAY_MS },
    { "minTasks", SHAPE_INT, .offset = SHAPE_NOWHERE, .most = 1000000000 },
    { "gate", SHAPE_STR, .offset = SHAPE_NOWHERE, .least = 1, .most = 64 },
};

static const ShapeMember margin_member = { "margin", SHAPE_NUMBER, .offset = SHAPE_NOWHERE,
                                           .most = 10000, .rule = rule_margin };

static const ShapeMember metric_members[] = {
    { "rollbackMargin", SHAPE_NUMBER, .offset = SHAPE_NOWHERE, .most = 10000 },
    { "promoteMargin", SHAPE_NUMBER, .offset = SHAPE_NOWHERE, .most = 10000, .rule = rule_margin },
    { "ratio", SHAPE_NUMBER, .offset = SHAPE_NOWHERE, .most = 100000, .rule = rule_margin },
};

static const ShapeMember metric_member = { "metric", SHAPE_OBJECT, .members = metric_members,
                                           .members_n = ARRAY_N(metric_members) };

/* Scores of one's own may be named too, so a strange name is worth a warning at most. */
static void rule_metrics(IssueList *issues, const IssuePath *path, const Json *v)
{
    static const Str known[] = {
        STR("errorRate"), STR("completionRate"), STR("escalationRate"),
        STR("quality"),   STR("costPerTask"),    STR("tokensPerTask"),
        STR("latency"),   STR("toolCalls"),      STR("costOverrun"),
    };
    for (JsonIter it = json_iter(v); json_next(&it);) {
        bool own = false;
        for (size_t i = 0; i < ARRAY_N(known); i++) own |= str_eq(it.key, known[i]);
        Str near = own ? STR_NULL : issue_nearest(it.key, known, ARRAY_N(known));
        if (str_empty(near)) continue;
        IssuePath at = ISSUE_KEY(path, it.key);
        issue_warn(issues, &at, "is not a metric that Gantry measures: did you mean `%.*s`?",
                   STR_ARG(near));
    }
}

static const ShapeMember tripwire_members[] = {
    { "costFactor", SHAPE_INT, .offset = SHAPE_NOWHERE, .most = 1000000 },
    { "crashes", SHAPE_INT, .offset = SHAPE_NOWHERE, .most = 64 },
    { "limits", SHAPE_INT, .offset = SHAPE_NOWHERE, .most = 64 },
};

static const ShapeMember evaluation_members[] = {
    { "atLeast", SHAPE_NUMBER, true, SHAPE_NOWHERE, .most = 1000 },
    { "tasks", SHAPE_INT, .offset = SHAPE_NOWHERE, .least = 1, .most = 1000 },
};

static const char *const deadline_words[] = { "pause", "rollback", NULL };
static const char *const unit_words[] = { "session", "user", "tenant", "task", NULL };
static const char *const rollback_words[] = { "finish", "kill", NULL };

static void rule_bool(IssueList *issues, const IssuePath *path, const Json *v)
{
    if (json_type(v) != JSON_BOOL) shape_expected(issues, path, v, "true or false");
}

static const ShapeMember shadow_members[] = {
    { "share", SHAPE_NUMBER, .offset = SHAPE_NOWHERE, .least = 10, .most = 100000 },
    { "control", SHAPE_NUMBER, .offset = SHAPE_NOWHERE, .least = 0, .most = 90000 },
    { "tasks", SHAPE_INT, .offset = SHAPE_NOWHERE, .least = 1, .most = INT64_C(1000000000) },
    { "for", SHAPE_DURATION, .offset = SHAPE_NOWHERE, .most = 30 * DAY_MS },
    { "parallel", SHAPE_INT, .offset = SHAPE_NOWHERE, .least = 1, .most = SHADOW_PARALLEL_MAX },
    { "budgetUsd", SHAPE_MONEY, .offset = SHAPE_NOWHERE, .least = 1, .most = INT64_MAX },
    { "standsIn", SHAPE_JSON, .offset = SHAPE_NOWHERE, .rule = rule_bool },
};

static const ShapeMember rollout_members[] = {
    { "strategy", SHAPE_WORD, .offset = SHAPE_NOWHERE, .words = strategy_words },
    { "steps", SHAPE_OBJECTS, .offset = SHAPE_NOWHERE, .least = 1, .most = MANIFEST_STEPS_MAX,
      .members = step_members, .members_n = ARRAY_N(step_members) },
    { "rollbackOn", SHAPE_MAP, .offset = SHAPE_NOWHERE, .members = &margin_member, .members_n = 1,
      .rule = rule_metrics },
    { "metrics", SHAPE_MAP, .offset = SHAPE_NOWHERE, .members = &metric_member, .members_n = 1,
      .rule = rule_metrics },
    { "holdFor", SHAPE_DURATION, .offset = SHAPE_NOWHERE, .most = 30 * DAY_MS },
    { "shadow", SHAPE_OBJECT, .members = shadow_members, .members_n = ARRAY_N(shadow_members) },
    { "deadline", SHAPE_DURATION, .offset = SHAPE_NOWHERE, .most = 90 * DAY_MS },
    { "onDeadline", SHAPE_WORD, .offset = SHAPE_NOWHERE, .words = deadline_words },
    { "tripwires", SHAPE_OBJECT, .offset = SHAPE_NOWHERE, .members = tripwire_members,
      .members_n = ARRAY_N(tripwire_members) },
    { "evaluation", SHAPE_OBJECT, .offset = SHAPE_NOWHERE, .members = evaluation_members,
      .members_n = ARRAY_N(evaluation_members) },
    { "unit", SHAPE_WORD, .offset = SHAPE_NOWHERE, .words = unit_words },
    { "unitWait", SHAPE_DURATION, .offset = SHAPE_NOWHERE, .least = 1, .most = 30 * DAY_MS },
    { "onRollback", SHAPE_WORD, .offset = SHAPE_NOWHERE, .words = rollback_words },
};

static void check_weights(IssueList *issues, const IssuePath *path, const Json *steps)
{
    double last = 0;
    size_t i = 0;
    for (JsonIter it = json_iter(steps); json_next(&it); i++) {
        /* in basis points, as rollouts count */
        double weight = round(json_f64_or(json_get(it.value, "weight"), last) * 100) / 100;
        IssuePath step = ISSUE_INDEX(path, i), at = ISSUE_KEY(&step, STR("weight"));
        if (weight < last || (weight == last && i > 0))
            issue_error(issues, &at, "weights must rise: %g does not follow %g", weight, last);
        last = weight;
        if (i + 1 == json_len(steps) && weight != 100)
            issue_error(issues, &at, "the last step must have weight 100, found %g", weight);
    }
}

static void rule_rollout(IssueList *issues, const IssuePath *path, const Json *v)
{
    Str strategy = json_str(json_get(v, "strategy"));
    const Json *steps = json_get(v, "steps");
    IssuePath at = ISSUE_KEY(path, STR("steps"));
    bool stepwise = str_empty(strategy) || str_eq(strategy, STR("canary")) ||
                    str_eq(strategy, STR("shadow"));
    IssuePath shadow = ISSUE_KEY(path, STR("shadow"));
    if (str_eq(strategy, STR("immediate")) && json_get(v, "shadow"))
        issue_error(issues, &shadow, "an immediate switch has nothing before it");
    bool bare = stepwise && !json_get(v, "shadow") && !str_eq(strategy, STR("shadow"));
    if (stepwise) check_weights(issues, &at, steps);
    else if (steps)
        issue_error(issues, &at, "belongs to the strategy canary, not to `%.*s`",
                    STR_ARG(str_sub(strategy, 0, 32)));
    if (bare && json_len(steps) == 1)
        issue_error(issues, &at,
                    "a canary that begins with all traffic is compared with nothing: begin below "
                    "100, as [{weight: 5}, {weight: 100}], put a shadow before it, or take the "
                    "strategy blue-green");
}

int manifest_check_rollout(const Json *rollout, const IssuePath *path, IssueList *issues)
{
    size_t before = issues->errors;
    shape_read(issues, path, rollout, rollout_members, ARRAY_N(rollout_members), NULL);
    if (json_type(rollout) == JSON_OBJECT) rule_rollout(issues, path, rollout);
    if (issues->failed) return -ENOMEM;
    return issues->errors > before ? MANIFEST_E_INVALID : 0;
}

/* --- the tables ----------------------------------------------------------------------------- */

/* What the tables fill, before it becomes an AgentSpec. */
typedef struct {
    Str name, description, url, code, prompt, tools, model;
    int runtime;
    ShapeStrs command, fallbacks, stop;
    double temperature, top_p, factor;
    int64_t max_output_tokens, top_k, seed, memory_window;
    AgentLimits limits;
    RetryPolicy retry;
    int64_t tasks_max, session_max;
} Draft;

static const char *const api_words[] = { "gantry/v1", NULL };
static const char *const kind_words[] = { "Agent", NULL };
static const char *const effort_words[] = { "none", "minimal", "low", "medium",
                                            "high", "xhigh",   NULL };
#define AT(member) .offset = offsetof(Draft, member)
#define NOWHERE .offset = SHAPE_NOWHERE
#define MEMBERS(table) .members = (table), .members_n = ARRAY_N(table)

/* clang-format off */
static const ShapeMember metadata_members[] = {
    { "name", SHAPE_STR, true, AT(name), .least = 1, .most = MANIFEST_NAME_BYTES_MAX,
      .rule = rule_name },
    { "description", SHAPE_STR, AT(description), .most = 1000 },
};
static const ShapeMember sampling_members[] = {
    { "temperature", SHAPE_NUMBER, AT(temperature), .most = 2000 },
    { "topP", SHAPE_NUMBER, AT(top_p), .most = 1000 },
    { "topK", SHAPE_INT, AT(top_k), .least = 1, .most = 1000 },
    { "maxOutputTokens", SHAPE_INT, AT(max_output_tokens), .least = 1, .most = 1000000000 },
    { "seed", SHAPE_INT, AT(seed), .least = -9007199254740991, .most = 9007199254740991 },
    { "stop", SHAPE_STRS, AT(stop), .least = 1, .most = MANIFEST_STOP_MAX },
    { "presencePenalty", SHAPE_NUMBER, NOWHERE, .least = -2000, .most = 2000 },
    { "frequencyPenalty", SHAPE_NUMBER, NOWHERE, .least = -2000, .most = 2000 },
    { "reasoningEffort", SHAPE_WORD, NOWHERE, .words = effort_words },
};
static const ShapeMember memory_members[] = {
    { "window", SHAPE_INT, AT(memory_window), .most = 1000 },
};
static const ShapeMember limits_members[] = {
    { "tokensPerTask", SHAPE_INT, AT(limits.tokens), .least = 1, .most = 1000000000000 },
    { "toolCallsPerTask", SHAPE_INT, AT(limits.tool_calls), .most = 1000000 },
    { "secondsPerTask", SHAPE_INT, AT(limits.seconds), .least = 1, .most = 604800 },
    { "memoryBytes", SHAPE_INT, AT(limits.resources.memory_bytes), .least = 16 << 20,
      .most = RESOURCE_BYTES_MAX },
    { "cpuSeconds", SHAPE_INT, AT(limits.resources.cpu_seconds), .least = 1, .most = 604800 },
    { "processes", SHAPE_INT, AT(limits.resources.processes), .least = 1, .most = 10000 },
    { "files", SHAPE_INT, AT(limits.resources.files), .least = 16, .most = 1048576 },
    { "outputBytes", SHAPE_INT, AT(limits.resources.output_bytes), .least = 1, .most = 8388608 },
    { "scratchBytes", SHAPE_INT, AT(limits.resources.scratch_bytes), .least = 4096,
      .most = RESOURCE_BYTES_MAX },
    { "usdPerTask", SHAPE_MONEY, AT(limits.usd_nusd), .least = 1, .most = 1000000 * NUSD_PER_USD },
};
static const ShapeMember backoff_members[] = {
    { "initial", SHAPE_DURATION, AT(retry.initial_ms), .most = 3600000 },
    { "factor", SHAPE_NUMBER, AT(factor), .least = 1000, .most = 10000, .rule = rule_factor },
    { "max", SHAPE_DURATION, AT(retry.max_ms), .most = DAY_MS },
};
static const ShapeMember retry_members[] = {
    { "maxAttempts", SHAPE_INT, AT(retry.attempts_max), .least = 1, .most = 100 },
    { "backoff", SHAPE_OBJECT, MEMBERS(backoff_members) },
};
static const ShapeMember concurrency_members[] = {
    { "tasks", SHAPE_INT, AT(tasks_max), .most = LANE_SLOTS_MAX },
    { "perSession", SHAPE_INT, AT(session_max), .most = LANE_SLOTS_MAX },
};
static const ShapeMember spec_members[] = {
    { "runtime", SHAPE_WORD, AT(runtime), .words = runtime_words },
    { "command", SHAPE_STRS, AT(command), .least = 1, .most = MANIFEST_COMMAND_MAX },
    { "url", SHAPE_STR, AT(url), .least = 1, .most = URL_BYTES_MAX, .rule = rule_url },
    { "code", SHAPE_STR, AT(code), .least = 1, .most = 4096, .rule = rule_dir },
    { "prompt", SHAPE_STR, AT(prompt), .least = 1, .most = 4096, .rule = rule_file },
    { "tools", SHAPE_STR, AT(tools), .least = 1, .most = 4096, .rule = rule_file },
    { "model", SHAPE_STR, AT(model), .least = 1, .most = 4096, .rule = rule_model },
    { "fallbacks", SHAPE_STRS, AT(fallbacks), .most = MANIFEST_FALLBACKS_MAX,
      .rule = rule_models },
    { "sampling", SHAPE_OBJECT, MEMBERS(sampling_members) },
    { "memory", SHAPE_OBJECT, MEMBERS(memory_members) },
    { "limits", SHAPE_OBJECT, MEMBERS(limits_members) },
    { "retry", SHAPE_OBJECT, MEMBERS(retry_members) },
    { "concurrency", SHAPE_OBJECT, MEMBERS(concurrency_members) },
    { "rollout", SHAPE_OBJECT, MEMBERS(rollout_members), .rule = rule_rollout },
    { "graders", SHAPE_JSON, NOWHERE, .rule = graders_check },
};
static const ShapeMember manifest_members[] = {
    { "apiVersion", SHAPE_WORD, true, SHAPE_NOWHERE, .words = api_words },
    { "kind", SHAPE_WORD, true, SHAPE_NOWHERE, .words = kind_words },
    { "metadata", SHAPE_OBJECT, true, MEMBERS(metadata_members) },
    { "spec", SHAPE_OBJECT, true, MEMBERS(spec_members) },
};
/* clang-format on */

/* --- what members mean together ------------------------------------------------------------- */

/* A member of spec that this runtime needs, or must not have. */
static void need(IssueList *issues, const Json *spec, const char *name, const char *why)
{
    IssuePath up = ISSUE_KEY(NULL, STR("spec")), at = ISSUE_KEY(&up, str_of(name));
    if (!json_get(spec, name)) issue_error(issues, &at, "missing: %s", why);
}

static void refuse(IssueList *issues, const Json *spec, const char *name, const char *why)
{
    IssuePath up = ISSUE_KEY(NULL, STR("spec")), at = ISSUE_KEY(&up, str_of(name));
    if (json_get(spec, name)) issue_error(issues, &at, "%s", why);
}

static void check_runtime(IssueList *issues, const Json *spec, Runtime runtime)
{
    bool has_url = json_get(spec, "url") != NULL;
    switch (runtime) {
    case RUNTIME_PROCESS:
        need(issues, spec, "command", "runtime process runs a command for every task");
        refuse(issues, spec, "url", "belongs to runtime server");
        break;
    case RUNTIME_SERVER:
        if (!has_url)
            need(issues, spec, "command", "runtime server needs a command to start, or a url");
        else refuse(issues, spec, "command", "cannot stand beside `url`: the agent runs elsewhere");
        if (has_url) refuse(issues, spec, "code", "cannot stand beside `url`: nothing is packed");
        break;
    case RUNTIME_BUILTIN:
        need(issues, spec, "prompt", "runtime builtin is a prompt and a model");
        need(issues, spec, "model", "runtime builtin is a prompt and a model");
        refuse(issues, spec, "command", "runtime builtin has no code of its own to run");
        refuse(issues, spec, "url", "belongs to runtime server");
        break;
    case RUNTIME_N_: assert(false);
    }
}

static void check_backoff(IssueList *issues, const Draft *d)
{
    if (d->retry.max_ms >= d->retry.initial_ms) return;
    IssuePath spec = ISSUE_KEY(NULL, STR("spec")), retry = ISSUE_KEY(&spec, STR("retry"));
    IssuePath backoff = ISSUE_KEY(&retry, STR("backoff")), at = ISSUE_KEY(&backoff, STR("max"));
    issue_error(issues, &at, "must not be shorter than `initial`");
}

static void check_judges(IssueList *issues, const Json *spec, const Draft *d)
{
    IssuePath up = ISSUE_KEY(NULL, STR("spec")), graders = ISSUE_KEY(&up, STR("graders"));
    size_t i = 0;
    for (JsonIter it = json_iter(json_get(spec, "graders")); json_next(&it); i++) {
        IssuePath one = ISSUE_INDEX(&graders, i), at = ISSUE_KEY(&one, STR("agent"));
        if (!str_empty(d->name) && str_eq(json_str(json_get(it.value, "agent")), d->name))
            issue_error(issues, &at, "an agent cannot judge itself");
    }
}

/* --- the whole ------------------------------------------------------------------------------ */

static Draft draft_defaults(void)
{
    return (Draft){
        .runtime = RUNTIME_PROCESS,
        .memory_window = 20,
        .limits = { .tokens = 200000,
                    .tool_calls = 40,
                    .seconds = 600,
                    .usd_nusd = NUSD_PER_USD / 2 },
        .factor = 2,
        .retry = RETRY_POLICY_DEFAULT,
        .tasks_max = -1,
        .session_max = -1,
    };
}

static AgentSampling sampling_of(const Draft *d, const Json *json)
{
    return (AgentSampling){
        .has_temperature = json_get(json, "temperature") != NULL,
        .has_top_p = json_get(json, "topP") != NULL,
        .has_seed = json_get(json, "seed") != NULL,
        .temperature = d->temperature,
        .top_p = d->top_p,
        .max_output_tokens = d->max_output_tokens,
        .top_k = d->top_k,
        .seed = d->seed,
        .stop = d->stop.items,
        .stop_n = d->stop.n,
        .json = json,
    };
}

static int spec_fill(Arena *arena, const Draft *d, const Json *spec, AgentSpec *ret)
{
    assert(d->runtime >= 0 && d->runtime < RUNTIME_N_ && d->factor >= 1);
    const Json *sampling = json_get(spec, "sampling");
    if (!sampling && json_parse(arena, STR("{}"), NULL, &sampling, NULL) != 0) return -ENOMEM;
    bool packs = str_empty(d->url) && d->runtime != RUNTIME_BUILTIN;
    *ret = (AgentSpec){
        .name = d->name,
        .description = d->description,
        .runtime = (Runtime)d->runtime,
        .command = d->command.items,
        .command_n = d->command.n,
        .url = d->url,
        .code = packs && str_empty(d->code) ? STR(".") : d->code,
        .prompt = d->prompt,
        .tools = d->tools,
        .model = d->model,
        .fallbacks = d->fallbacks.items,
        .fallbacks_n = d->fallbacks.n,
        .sampling = sampling_of(d, sampling),
        .memory_window = d->memory_window,
        .limits = d->limits,
        .retry = d->retry,
        .tasks_max = d->tasks_max,
        .session_max = d->session_max,
        .rollout = json_get(spec, "rollout"),
        .graders = json_get(spec, "graders"),
    };
    ret->retry.factor_milli = milli_of(d->factor);
    assert(ret->retry.factor_milli >= RETRY_FACTOR_ONE);
    assert(ret->retry.max_ms >= ret->retry.initial_ms && ret->retry.attempts_max >= 1);
    return 0;
}

static void place_by_marks(const void *arg, Str json_pointer, size_t *ret_line, size_t *ret_column)
{
    (void)yaml_mark(arg, json_pointer, ret_line, ret_column);
}

/* What follows "line L column C: ", whose numbers are taken off; all of text if it does not begin
 * so. */
static Str take_place(Str text, uint64_t *ret_line, uint64_t *ret_column)
{
    Str line, column, rest = text;
    if (!str_starts_with(rest, STR("line "))) return text;
    rest = str_split(str_skip(rest, strlen("line ")), ' ', &line, NULL);
    if (!str_starts_with(rest, STR("column "))) return text;
    rest = str_split(str_skip(rest, strlen("column ")), ':', &column, NULL);
    if (str_to_u64(line, ret_line) != 0 || str_to_u64(column, ret_column) != 0) return text;
    return str_trim(rest);
}

/* What is not YAML at all is one error, at the place the parser names. */
static int read_yaml(Arena *arena, Str text, IssueList *issues, const Json **ret)
{
    YamlMarks *marks = NULL;
    if (text.len > MANIFEST_BYTES_MAX) {
        issue_error(issues, NULL, "is larger than %d bytes", MANIFEST_BYTES_MAX);
        return MANIFEST_E_INVALID;
    }
    int r = yaml_parse(arena, text, ret, &marks);
    if (r == -ENOMEM) return r;
    if (r == 0) {
        issues->place = place_by_marks;
        issues->place_arg = marks;
        return 0;
    }
    const char *why = diag_text();
    uint64_t line = 0, column = 0;
    Str message = take_place(str_of(why), &line, &column);
    issue_error(issues, NULL, "%.*s", STR_ARG(message));
    if (issues->n > 0) {
        issues->items[issues->n - 1].line = line;
        issues->items[issues->n - 1].column = column;
    }
    return MANIFEST_E_INVALID;
}

static int check_all(Arena *arena, const Json *root, IssueList *issues, AgentSpec *ret)
{
    Draft draft = draft_defaults();
    shape_read(issues, NULL, root, manifest_members, ARRAY_N(manifest_members), &draft);
    const Json *spec = json_get(root, "spec");
    if (json_type(spec) == JSON_OBJECT) {
        const Json *word = json_get(spec, "runtime");
        if (!word || str_eq(json_str(word), str_of(runtime_words[draft.runtime])))
            check_runtime(issues, spec, (Runtime)draft.runtime);
        check_backoff(issues, &draft);
        check_judges(issues, spec, &draft);
    }
    issue_sort(issues);
    if (issues->failed) return -ENOMEM;
    if (issues->errors > 0) return MANIFEST_E_INVALID;
    return spec_fill(arena, &draft, spec, ret);
}

int manifest_parse(Arena *arena, Str yaml_text, AgentSpec *ret, ManifestError *errors,
                   size_t errors_max, size_t *ret_errors_n)
{
    IssueList issues;
    issue_list_init(&issues, arena, errors, errors_max, NULL, NULL);
    const Json *root = NULL;
    int r = read_yaml(arena, yaml_text, &issues, &root);
    if (r == 0) r = check_all(arena, root, &issues, ret);
    *ret_errors_n = issues.n;
    assert(r == 0 ? issues.errors == 0 : r == -ENOMEM || issues.errors > 0);
    return r;
}
