#include "cli/config.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/log.h"
#include "cli/file.h"
#include "codec/digest.h"
#include "codec/duration.h"
#include "codec/url.h"
#include "codec/yaml.h"
#include "logic/issue.h"
#include "logic/manifest.h"
#include "sys/zone.h"
#include "worker/wire.h"

#define CONFIG_ARENA_BYTES_MAX ((size_t)64 << 20)
#define CONFIG_ISSUES_MAX 50
#define PROVIDER_TOOLS_MAX 64
#define PROVIDERS_MAX 64
#define BUDGETS_MAX 2000
#define DEV_BUDGET_NUSD (5 * NUSD_PER_USD) /* a day, for `gantry dev` */
#define ROUTES_MAX 256
#define FALLBACKS_MAX 8
#define JOURNAL_RULES_MAX 64
#define RETRIES_DEFAULT 2
#define RETRIES_MAX 20
#define RATE_LIMIT_MAX INT64_C(1000000000000)
#define KEY_CHARS_MIN 16
#define BODY_BYTES_MAX (24 << 20) /* what is taken in must fit into the answer to a claim */
#define ENV_NAME_MAX 96

static_assert(BODY_BYTES_MAX + (1 << 20) <= WIRE_CLAIM_BYTES_MAX, "with all the rest of a task");

/* --- scalars: one table for the file, the environment and the dump ---------------------------- */

/* A share is a decimal 0..1, kept in millionths. */
typedef enum {
    SETTING_TEXT,
    SETTING_INT,
    SETTING_BOOL,
    SETTING_DURATION,
    SETTING_SHARE
} SettingType;

typedef struct {
    const char *path; /* dots between members */
    SettingType type;
    size_t offset; /* in Config */
    int64_t min, max;
} Setting;

#define AT(member) offsetof(Config, member)
#define DAY_MS INT64_C(86400000)

static const Setting settings[] = {
    { "server.address", SETTING_TEXT, AT(address), 0, 0 },
    { "server.port", SETTING_INT, AT(port), 0, 65535 },
    { "server.data", SETTING_TEXT, AT(data), 0, 0 },
    { "server.loops", SETTING_INT, AT(loops), 0, 256 },
    { "server.behindProxy", SETTING_BOOL, AT(behind_proxy), 0, 0 },
    { "server.publicUrl", SETTING_TEXT, AT(public_url), 0, 0 },
    { "log.level", SETTING_TEXT, AT(log_level), 0, 0 },
    { "log.format", SETTING_TEXT, AT(log_format), 0, 0 },
    { "log.file", SETTING_TEXT, AT(log_file), 0, 0 },
    { "limits.bodyBytes", SETTING_INT, AT(body_bytes_max), 1024, BODY_BYTES_MAX },
    { "limits.headBytes", SETTING_INT, AT(head_bytes_max), 1024, 1 << 20 },
    { "limits.headFields", SETTING_INT, AT(fields_max), 8, 1000 },
    { "limits.targetBytes", SETTING_INT, AT(target_bytes_max), 256, 1 << 16 },
    { "limits.connections", SETTING_INT, AT(connections_max), 1, 1000000 },
    { "limits.queuedTasks", SETTING_INT, AT(queued_tasks_max), 1, INT64_C(1000000000) },
    { "limits.subagentDepth", SETTING_INT, AT(family.depth_max), 1, 16 },
    { "limits.subagentsPerTask", SETTING_INT, AT(family.children_max), 1, 1000 },
    { "limits.tasksPerFamily", SETTING_INT, AT(family.members_max), 1, 10000 },
    { "limits.diskReserveBytes", SETTING_INT, AT(disk_reserve_bytes), 0, INT64_C(1) << 60 },
    { "limits.accountsPerTenant", SETTING_INT, AT(accounts_max), 1, 10000000 },
    { "limits.eventStreams", SETTING_INT, AT(followers_max), 1, 100000 },
    { "limits.logBytesPerTask", SETTING_INT, AT(log_bytes_max), 1024, INT64_C(1) << 30 },
    { "tasks.keep", SETTING_DURATION, AT(tasks_kept_ms), 0, 36500 * DAY_MS },
    { "idempotency.keep", SETTING_DURATION, AT(keys_kept_ms), 1000, 365 * DAY_MS },
    { "journal.keep", SETTING_DURATION, AT(journal_kept_ms), 1000, 3650 * DAY_MS },
    { "journal.bytesPerTask", SETTING_INT, AT(journal_bytes_max), 4096, INT64_C(1) << 40 },
    { "journal.recordingsPerTask", SETTING_INT, AT(journal_recordings_max), 1, 20000 },
    { "spend.keep", SETTING_DURATION, AT(spend_kept_ms), DAY_MS, 36500 * DAY_MS },
    { "drift.falseAlarm", SETTING_DURATION, AT(drift_false_alarm_ms), 30 * DAY_MS, 3650 * DAY_MS },
    { "state.keep", SETTING_DURATION, AT(state_kept_ms), 1000, 3650 * DAY_MS },
    { "state.keysPerSession", SETTING_INT, AT(state_keys_max), 1, 100000 },
    { "state.bytesPerSession", SETTING_INT, AT(state_bytes_max), 1024, INT64_C(1) << 40 },
    { "state.valueBytes", SETTING_INT, AT(state_value_bytes_max), 1024, 8 << 20 },
    { "timeouts.header", SETTING_DURATION, AT(header_timeout_ms), 10, DAY_MS },
    { "timeouts.body", SETTING_DURATION, AT(body_timeout_ms), 10, DAY_MS },
    { "timeouts.idle", SETTING_DURATION, AT(idle_timeout_ms), 10, DAY_MS },
    { "timeouts.write", SETTING_DURATION, AT(write_timeout_ms), 10, DAY_MS },
    { "worker.lease", SETTING_DURATION, AT(lease_ms), 1000, DAY_MS },
    { "worker.stuckAfter", SETTING_DURATION, AT(stuck_ms), 0, 7 * DAY_MS },
    { "worker.cgroups", SETTING_BOOL, AT(cgroups), 0, 0 },
    { "worker.grace", SETTING_DURATION, AT(grace_ms), 0, DAY_MS },
    { "worker.drain", SETTING_DURATION, AT(drain_ms), 0, 7 * DAY_MS },
    { "lanes.critical.reserved", SETTING_INT, AT(lanes.reserved[LANE_CRITICAL]), 0,
      LANE_SLOTS_MAX },
    { "lanes.normal.reserved", SETTING_INT, AT(lanes.reserved[LANE_NORMAL]), 0, LANE_SLOTS_MAX },
    { "lanes.low.reserved", SETTING_INT, AT(lanes.reserved[LANE_LOW]), 0, LANE_SLOTS_MAX },
    { "lanes.shared", SETTING_INT, AT(lanes.shared), 0, LANE_SLOTS_MAX },
    { "lanes.critical.objective", SETTING_DURATION, AT(wait_objective_ms[LANE_CRITICAL]), 1,
      DAY_MS },
    { "lanes.normal.objective", SETTING_DURATION, AT(wait_objective_ms[LANE_NORMAL]), 1, DAY_MS },
    { "lanes.low.objective", SETTING_DURATION, AT(wait_objective_ms[LANE_LOW]), 1, 30 * DAY_MS },
    { "lanes.critical.queued", SETTING_INT, AT(lane_queued_max[LANE_CRITICAL]), 0,
      INT64_C(1000000000) },
    { "lanes.normal.queued", SETTING_INT, AT(lane_queued_max[LANE_NORMAL]), 0,
      INT64_C(1000000000) },
    { "lanes.low.queued", SETTING_INT, AT(lane_queued_max[LANE_LOW]), 0, INT64_C(1000000000) },
    { "lanes.aging", SETTING_DURATION, AT(aging_ms), 1, DAY_MS },
    { "scaling.utilizationPercent", SETTING_INT, AT(scaling.utilization_percent), 1, 100 },
    { "scaling.workersMin", SETTING_INT, AT(scaling.workers_min), 0, 10000 },
    { "scaling.workersMax", SETTING_INT, AT(scaling.workers_max), 0, 10000 },
    { "scaling.downAfter", SETTING_DURATION, AT(scaling.down_ms), 1000, DAY_MS },
    { "concurrency.perAgent", SETTING_INT, AT(agent_tasks_max), 0, LANE_SLOTS_MAX },
    { "concurrency.perTenant", SETTING_INT, AT(tenant_tasks_max), 0, LANE_SLOTS_MAX },
    { "concurrency.perSession", SETTING_INT, AT(session_tasks_max), 0, LANE_SLOTS_MAX },
    { "cache.ttl", SETTING_DURATION, AT(gateway.cache.ttl_ms), 1000, 365 * DAY_MS },
    { "cache.maxBytes", SETTING_INT, AT(cache_bytes_max), 0, INT64_C(1) << 40 },
    { "budgets.enableCachingAt", SETTING_SHARE, AT(gateway.degrade.cache_at_ppm), 0, PPM_WHOLE },
    { "budgets.degradeToSmallModelAt", SETTING_SHARE, AT(gateway.degrade.model_at_ppm), 0,
      PPM_WHOLE },
    { "budgets.holdLowAt", SETTING_SHARE, AT(gateway.degrade.hold_at_ppm), 0, PPM_WHOLE },
    { "budgets.smallModel", SETTING_TEXT, AT(small_model), 0, 0 },
    { "budgets.timeZone", SETTING_TEXT, AT(time_zone), 0, 0 },
    { "breakers.window", SETTING_DURATION, AT(gateway.breaker.window_ms), 1000, DAY_MS },
    { "breakers.minCalls", SETTING_INT, AT(gateway.breaker.calls_min), 1, 1000000 },
    { "breakers.errorPercent", SETTING_INT, AT(gateway.breaker.error_percent), 0, 100 },
    { "breakers.slowPercent", SETTING_INT, AT(gateway.breaker.slow_percent), 0, 100 },
    { "breakers.slowAfter", SETTING_DURATION, AT(gateway.breaker.slow_ms), 1, DAY_MS },
    { "breakers.open", SETTING_DURATION, AT(gateway.breaker.open_ms), 1, DAY_MS },
    { "breakers.openMax", SETTING_DURATION, AT(gateway.breaker.open_max_ms), 1, DAY_MS },
    { "breakers.probes", SETTING_INT, AT(gateway.breaker.probes), 1, 1000 },
    { "retries.burst", SETTING_INT, AT(gateway.retry_burst), 1, 1000000 },
    { "retries.initial", SETTING_DURATION, AT(gateway.retry_initial_ms), 1, 60000 },
    { "webhooks.allowHttp", SETTING_BOOL, AT(webhook_http), 0, 0 },
    { "webhooks.concurrent", SETTING_INT, AT(webhook_concurrent), 1, 256 },
    { "webhooks.concurrentPerHost", SETTING_INT, AT(webhook_concurrent_per_host), 1, 256 },
    { "waiting.calls", SETTING_INT, AT(gateway.waiting_max), 1, 10000000 },
    { "waiting.bytesPerTask", SETTING_INT, AT(gateway.request_bytes_task_max),
      GATEWAY_REQUEST_BYTES_MAX, INT64_C(1) << 40 },
    { "waiting.bytes", SETTING_INT, AT(gateway.request_bytes_max), GATEWAY_REQUEST_BYTES_MAX,
      INT64_C(1) << 40 },
    { "waiting.heartbeatAfter", SETTING_DURATION, AT(gateway.heartbeat_after_ms), 1, DAY_MS },
    { "waiting.heartbeatEvery", SETTING_DURATION, AT(gateway.heartbeat_every_ms), 1, DAY_MS },
};

static void *setting_at(const Setting *s, Config *config)
{
    return (char *)config + s->offset;
}

static void keep_text(Config *config, char **slot, Str value)
{
    *slot = arena_cstr(&config->arena, value);
    if (!*slot) DIE("the configuration is larger than %zu bytes", CONFIG_ARENA_BYTES_MAX);
}

static int check_range(const Setting *s, int64_t v)
{
    if (v >= s->min && v <= s->max) return 0;
    return diag_set(-ERANGE, "must be between %" PRId64 " and %" PRId64, s->min, s->max);
}

/* Sets from text (the environment) or from a value's text. Returns 0 or -EINVAL/-ERANGE, diag. */
static int setting_from_text(const Setting *s, Config *config, Str text)
{
    int64_t v = 0;
    int r = 0;
    switch (s->type) {
    case SETTING_TEXT:
        if (memchr(text.ptr ? text.ptr : "", 0, text.len))
            return diag_set(-EINVAL, "must not contain NUL");
        keep_text(config, setting_at(s, config), text);
        return 0;
    case SETTING_BOOL:
        if (!str_eq(text, STR("true")) && !str_eq(text, STR("false")))
            return diag_set(-EINVAL, "must be true or false, not `%.*s`", STR_ARG(text));
        *(bool *)setting_at(s, config) = str_eq(text, STR("true"));
        return 0;
    case SETTING_INT:
        r = str_to_i64(text, &v);
        if (r < 0) diag_set(r, "must be a whole number, not `%.*s`", STR_ARG(text));
        break;
    case SETTING_DURATION: r = duration_parse(text, &v); break;
    case SETTING_SHARE:
        if (money_from_text(text, PPM_WHOLE, &v) < 0 || v > PPM_WHOLE)
            return diag_set(-EINVAL, "must be a share between 0 and 1, such as 0.25");
        break;
    }
    if (r == 0) r = check_range(s, v);
    if (r == 0) *(int64_t *)setting_at(s, config) = v;
    return r;
}

static int setting_from_json(const Setting *s, Config *config, const Json *v)
{
    int64_t number;
    if (s->type == SETTING_BOOL && json_type(v) == JSON_BOOL) {
        *(bool *)setting_at(s, config) = json_bool(v, false);
        return 0;
    }
    if (s->type == SETTING_INT && json_i64(v, &number) == 0) {
        int r = check_range(s, number);
        if (r == 0) *(int64_t *)setting_at(s, config) = number;
        return r;
    }
    if (s->type == SETTING_SHARE && (json_type(v) == JSON_INT || json_type(v) == JSON_REAL)) {
        char text[JSON_NUMBER_TEXT_MAX];
        size_t n = json_number_format(json_f64_or(v, -1), text);
        return setting_from_text(s, config, str_make(text, n));
    }
    if (json_type(v) == JSON_STRING && s->type != SETTING_INT && s->type != SETTING_BOOL)
        return setting_from_text(s, config, json_str(v));
    static const char *const wanted[] = { "a string", "a whole number", "true or false",
                                          "a duration such as 30s", "a share such as 0.25" };
    return diag_set(-EINVAL, "must be %s, not %s", wanted[s->type], json_type_name(json_type(v)));
}

/* --- reading the file ------------------------------------------------------------------------- */

typedef struct {
    Config *config;
    IssueList issues;
    const YamlMarks *marks;
    const Json *providers; /* the document's, for routes to look names up */
} Reader;

static void place_in_yaml(const void *arg, Str pointer, size_t *ret_line, size_t *ret_column)
{
    yaml_mark(arg, pointer, ret_line, ret_column);
}

/* Reports members of obj that names (ends with NULL) does not list; false when obj is no object. */
static bool check_members(Reader *rd, const IssuePath *path, const Json *obj,
                          const char *const *names)
{
    Str known[32];
    size_t n = 0;
    if (json_type(obj) != JSON_OBJECT) {
        issue_error(&rd->issues, path, "must be a mapping, not %s", json_type_name(json_type(obj)));
        return false;
    }
    for (; names[n]; n++) known[n] = str_of(names[n]);
    for (JsonIter it = json_iter(obj); json_next(&it);) {
        bool ok = false;
        for (size_t i = 0; i < n; i++) ok = ok || str_eq(it.key, known[i]);
        if (ok) continue;
        Str near = issue_nearest(it.key, known, n);
        IssuePath at = ISSUE_KEY(path, it.key);
        if (near.len)
            issue_error(&rd->issues, &at, "unknown member; did you mean `%.*s`?", STR_ARG(near));
        else issue_error(&rd->issues, &at, "unknown member");
    }
    return true;
}

static char *text_member(Reader *rd, const IssuePath *path, const Json *obj, const char *key,
                         bool required)
{
    const Json *v = json_get(obj, key);
    IssuePath at = ISSUE_KEY(path, str_of(key));
    char *text = NULL;
    if (!v && required) issue_error(&rd->issues, &at, "is missing");
    if (!v) return NULL;
    if (json_type(v) != JSON_STRING || json_str(v).len == 0 ||
        memchr(json_str(v).ptr, 0, json_str(v).len)) {
        issue_error(&rd->issues, &at, "must be a non-empty string");
        return NULL;
    }
    keep_text(rd->config, &text, json_str(v));
    return text;
}

/* {env: NAME} or {file: PATH}; an unset variable is an error when required. */
/* What v, a mapping that was looked at, names. */
static char *secret_read(Reader *rd, const IssuePath *path, const Json *v)
{
    char *text = NULL;
    char *env = text_member(rd, path, v, "env", false),
         *file = text_member(rd, path, v, "file", false);
    if (!env == !file) {
        issue_error(&rd->issues, path, "needs exactly one of `env` and `file`");
        return NULL;
    }
    if (env) {
        const char *value = getenv(env);
        if (!value || !*value)
            issue_error(&rd->issues, path, "the environment variable %s is not set", env);
        else keep_text(rd->config, &text, str_of(value));
        return text;
    }
    Str content;
    int r = file_read(&rd->config->arena, file, 65536, &content);
    if (r < 0) issue_error(&rd->issues, path, "%s", diag_text_or(r));
    else keep_text(rd->config, &text, str_trim(content));
    return text;
}

static char *secret_member(Reader *rd, const IssuePath *path, const Json *v)
{
    static const char *const names[] = { "env", "file", NULL };
    if (json_type(v) == JSON_STRING) {
        issue_error(&rd->issues, path,
                    "must not stand in the file: write {env: NAME} or {file: PATH}");
        return NULL;
    }
    return check_members(rd, path, v, names) ? secret_read(rd, path, v) : NULL;
}

static void read_rate(Reader *rd, const IssuePath *path, const Json *obj, const char *key,
                      bool required, int64_t *ret)
{
    const Json *v = json_get(obj, key);
    IssuePath at = ISSUE_KEY(path, str_of(key));
    if (!v && required) issue_error(&rd->issues, &at, "is missing");
    if (!v) return;
    Str text = json_type(v) == JSON_STRING ? json_str(v) : json_number_text(v);
    if (price_from_usd_per_million(text, ret) < 0)
        issue_error(&rd->issues, &at,
                    "must be USD a million tokens as a decimal in quotes, such as \"0.15\"");
}

static void read_tokens(Reader *rd, const IssuePath *path, const Json *obj, const char *key,
                        int64_t *ret)
{
    const Json *v = json_get(obj, key);
    IssuePath at = ISSUE_KEY(path, str_of(key));
    if (!v) return;
    if (json_i64(v, ret) < 0 || *ret < 1 || *ret > 1000000000)
        issue_error(&rd->issues, &at, "must be a whole number of tokens");
}

static Price read_price(Reader *rd, const IssuePath *path, const Json *obj)
{
    Price p = { .base = PRICE_RATES_UNSET };
    read_rate(rd, path, obj, "inputUsdPerMillion", true, &p.base.input);
    read_rate(rd, path, obj, "outputUsdPerMillion", true, &p.base.output);
    read_rate(rd, path, obj, "cachedInputUsdPerMillion", false, &p.base.cached);
    read_tokens(rd, path, obj, "maxInputTokens", &p.input_max);
    read_tokens(rd, path, obj, "maxOutputTokens", &p.output_max);
    read_tokens(rd, path, obj, "imageTokensMax", &p.image_tokens_max);
    return p;
}

static const Price *keep_price(Config *config, Price price)
{
    Price *kept = ARENA_NEW(&config->arena, Price);
    if (!kept) DIE("the configuration is larger than %zu bytes", CONFIG_ARENA_BYTES_MAX);
    *kept = price;
    price_fill(kept);
    return kept;
}

static void read_prices(Reader *rd, const Json *v)
{
    static const char *const names[] = {
        "model",          "inputUsdPerMillion", "outputUsdPerMillion", "cachedInputUsdPerMillion",
        "maxInputTokens", "maxOutputTokens",    "imageTokensMax",      NULL
    };
    IssuePath root = ISSUE_KEY(NULL, STR("prices"));
    size_t i = 0;
    if (v && json_type(v) != JSON_ARRAY) issue_error(&rd->issues, &root, "must be a list");
    for (JsonIter it = json_iter(json_type(v) == JSON_ARRAY ? v : NULL); json_next(&it); i++) {
        IssuePath at = ISSUE_INDEX(&root, i);
        size_t errors = rd->issues.errors;
        if (!check_members(rd, &at, it.value, names)) continue;
        char *model = text_member(rd, &at, it.value, "model", true);
        Price price = read_price(rd, &at, it.value);
        if (rd->issues.errors != errors) continue;
        price.model = str_of(model);
        if (price_table_add(&rd->config->prices, &price) < 0)
            issue_error(&rd->issues, &at, "%s", diag_text());
    }
}

static void check_url(Reader *rd, const IssuePath *path, const char *text)
{
    Url url;
    if (text && url_parse(&rd->config->arena, str_of(text), &url) < 0) {
        IssuePath at = ISSUE_KEY(path, STR("baseUrl"));
        issue_error(&rd->issues, &at, "is not an absolute http or https URL: %s", diag_text());
    }
}

/* slots: requests, tokens, concurrent. */
static void read_rate_limits(Reader *rd, const IssuePath *path, const Json *v,
                             int64_t *const slots[3])
{
    static const char *const names[] = { "requestsPerMinute", "tokensPerMinute", "concurrent",
                                         NULL };
    IssuePath at = ISSUE_KEY(path, STR("limits"));
    if (!v || !check_members(rd, &at, v, names)) return;
    for (size_t i = 0; names[i]; i++) {
        const Json *number = json_get(v, names[i]);
        IssuePath at_number = ISSUE_KEY(&at, str_of(names[i]));
        if (!number) continue;
        if (json_i64(number, slots[i]) < 0 || *slots[i] < 1 || *slots[i] > RATE_LIMIT_MAX)
            issue_error(&rd->issues, &at_number, "must be a whole number, at least 1");
    }
}

static void read_retries(Reader *rd, const IssuePath *path, const Json *v, int64_t *ret)
{
    IssuePath at = ISSUE_KEY(path, STR("retries"));
    *ret = RETRIES_DEFAULT;
    if (v && (json_i64(v, ret) < 0 || *ret < 0 || *ret > RETRIES_MAX))
        issue_error(&rd->issues, &at, "must be a whole number from 0 to %d", RETRIES_MAX);
}

static void read_provider(Reader *rd, const IssuePath *path, Str name, const Json *v)
{
    static const char *const names[] = { "protocol",  "baseUrl", "key",     "limits", "price",
                                         "capMember", "timeout", "retries", NULL };
    static const char *const price_names[] = { "inputUsdPerMillion",
                                               "outputUsdPerMillion",
                                               "cachedInputUsdPerMillion",
                                               "maxInputTokens",
                                               "maxOutputTokens",
                                               "imageTokensMax",
                                               NULL };
    GatewayProvider p = { 0 };
    if (!check_members(rd, path, v, names)) return;
    char *kept_name = NULL;
    keep_text(rd->config, &kept_name, name);
    p.name = kept_name;
    Str protocol = json_str(json_get(v, "protocol"));
    if (str_eq(protocol, STR("anthropic"))) p.protocol = GATEWAY_ANTHROPIC;
    else if (!str_eq(protocol, STR("openai"))) {
        IssuePath at = ISSUE_KEY(path, STR("protocol"));
        issue_error(&rd->issues, &at, "must be openai or anthropic");
    }
    p.base_url = text_member(rd, path, v, "baseUrl", true);
    check_url(rd, path, p.base_url);
    p.cap_member = text_member(rd, path, v, "capMember", false);
    if (json_get(v, "key")) {
        IssuePath at = ISSUE_KEY(path, STR("key"));
        p.key = secret_member(rd, &at, json_get(v, "key"));
    }
    read_rate_limits(rd, path, json_get(v, "limits"),
                     (int64_t *const[]){ &p.requests_per_minute_max, &p.tokens_per_minute_max,
                                         &p.concurrent_max });
    read_retries(rd, path, json_get(v, "retries"), &p.retries_max);
    if (json_get(v, "price")) {
        IssuePath at = ISSUE_KEY(path, STR("price"));
        size_t errors = rd->issues.errors;
        Price price = { 0 };
        if (check_members(rd, &at, json_get(v, "price"), price_names))
            price = read_price(rd, &at, json_get(v, "price"));
        if (rd->issues.errors == errors) p.default_price = keep_price(rd->config, price);
    }
    if (json_get(v, "timeout") &&
        duration_parse(json_str(json_get(v, "timeout")), &p.timeout_ms) < 0) {
        IssuePath at = ISSUE_KEY(path, STR("timeout"));
        issue_error(&rd->issues, &at, "must be a duration such as 60s");
    }
    if (rd->config->gateway.providers_n < PROVIDERS_MAX)
        rd->config->providers[rd->config->gateway.providers_n++] = p;
}

static void read_providers(Reader *rd, const Json *v)
{
    IssuePath root = ISSUE_KEY(NULL, STR("providers"));
    if (v && json_type(v) != JSON_OBJECT)
        issue_error(&rd->issues, &root, "must be a mapping of name to provider");
    if (json_len(v) > PROVIDERS_MAX - 2)
        issue_error(&rd->issues, &root, "more than %d providers", PROVIDERS_MAX - 2);
    for (JsonIter it = json_iter(json_type(v) == JSON_OBJECT ? v : NULL); json_next(&it);) {
        IssuePath at = ISSUE_KEY(&root, it.key);
        read_provider(rd, &at, it.key, it.value);
    }
}

static GatewayRoute *add_route(Config *config, const char *match, size_t provider)
{
    assert(config->gateway.routes_n < ROUTES_MAX && provider < config->gateway.providers_n);
    GatewayRoute *route = &config->routes[config->gateway.routes_n++];
    *route = (GatewayRoute){ .match = match, .provider = provider };
    return route;
}

/* The list lives in the arena; what is no list of texts is reported. */
static void read_fallbacks(Reader *rd, const IssuePath *at, const Json *v, GatewayRoute *route)
{
    size_t n = json_len(v);
    if (!v) return;
    if (json_type(v) != JSON_ARRAY || n > FALLBACKS_MAX) {
        issue_error(&rd->issues, at, "must be a list of at most %d model ids", FALLBACKS_MAX);
        return;
    }
    const char **list = ARENA_ARRAY(&rd->config->arena, const char *, MAX(n, 1));
    if (!list) DIE("the configuration is larger than %zu bytes", CONFIG_ARENA_BYTES_MAX);
    for (JsonIter it = json_iter(v); json_next(&it);) {
        char *model = NULL;
        if (str_empty(json_str(it.value))) {
            issue_error(&rd->issues, at, "must be a list of model ids");
            return;
        }
        keep_text(rd->config, &model, json_str(it.value));
        list[route->fallbacks_n++] = model;
    }
    route->fallbacks = list;
}

static void read_models(Reader *rd, const Json *v)
{
    static const char *const names[] = { "match", "provider", "fallbacks", "limits", NULL };
    IssuePath root = ISSUE_KEY(NULL, STR("models"));
    Config *config = rd->config;
    size_t i = 0;
    if (v && json_type(v) != JSON_ARRAY) issue_error(&rd->issues, &root, "must be a list");
    if (json_len(v) > ROUTES_MAX - 8)
        issue_error(&rd->issues, &root, "more than %d entries", ROUTES_MAX - 8);
    for (JsonIter it = json_iter(json_type(v) == JSON_ARRAY ? v : NULL);
         json_next(&it) && i < ROUTES_MAX - 8; i++) {
        IssuePath at = ISSUE_INDEX(&root, i);
        if (!check_members(rd, &at, it.value, names)) continue;
        char *match = text_member(rd, &at, it.value, "match", true),
             *provider = text_member(rd, &at, it.value, "provider", true);
        IssuePath at_provider = ISSUE_KEY(&at, STR("provider")),
                  at_fallbacks = ISSUE_KEY(&at, STR("fallbacks"));
        if (!match || !provider) continue;
        size_t p = 0;
        while (p < config->gateway.providers_n &&
               strcmp(config->gateway.providers[p].name, provider) != 0)
            p++;
        if (p == config->gateway.providers_n) {
            issue_error(&rd->issues, &at_provider, "no provider is called `%s`", provider);
            continue;
        }
        GatewayRoute *route = add_route(config, match, p);
        read_fallbacks(rd, &at_fallbacks, json_get(it.value, "fallbacks"), route);
        read_rate_limits(rd, &at, json_get(it.value, "limits"),
                         (int64_t *const[]){ &route->requests_per_minute_max,
                                             &route->tokens_per_minute_max,
                                             &route->concurrent_max });
    }
}

static void read_cidrs(Reader *rd, const IssuePath *path, const Json *v, AddrGuard *guard)
{
    size_t i = 0;
    if (v && json_type(v) != JSON_ARRAY)
        issue_error(&rd->issues, path, "must be a list of address ranges");
    for (JsonIter it = json_iter(json_type(v) == JSON_ARRAY ? v : NULL); json_next(&it); i++) {
        IssuePath at = ISSUE_INDEX(path, i);
        if (addr_guard_allow(guard, json_str(it.value)) < 0)
            issue_error(&rd->issues, &at, "%s", diag_text());
    }
}

static void read_ports(Reader *rd, const IssuePath *path, const Json *v, AddrGuard *guard)
{
    size_t i = 0;
    if (v && json_type(v) != JSON_ARRAY) issue_error(&rd->issues, path, "must be a list of ports");
    for (JsonIter it = json_iter(json_type(v) == JSON_ARRAY ? v : NULL); json_next(&it); i++) {
        IssuePath at = ISSUE_INDEX(path, i);
        if (addr_guard_allow_port(guard, json_i64_or(it.value, 0)) < 0)
            issue_error(&rd->issues, &at, "%s", diag_text());
    }
}

/* URLs that get every event. */
static void read_receivers(Reader *rd, const IssuePath *path, const Json *v)
{
    Config *config = rd->config;
    if (v && (json_type(v) != JSON_ARRAY || json_len(v) > EVENT_RECEIVERS_MAX))
        issue_error(&rd->issues, path, "must be a list of at most %d URLs", EVENT_RECEIVERS_MAX);
    size_t i = 0;
    for (JsonIter it = json_iter(json_type(v) == JSON_ARRAY ? v : NULL); json_next(&it); i++) {
        Url url;
        IssuePath at = ISSUE_INDEX(path, i);
        if (config->receivers_n == EVENT_RECEIVERS_MAX) return;
        if (url_parse(&config->arena, json_str(it.value), &url) < 0)
            issue_error(&rd->issues, &at, "is not an absolute http or https URL: %s", diag_text());
        char *kept = NULL;
        keep_text(config, &kept, json_str(it.value));
        config->receivers[config->receivers_n++] = str_of(kept);
    }
}

static void read_webhooks(Reader *rd, const Json *v)
{
    static const char *const names[] = {
        "secret",     "previousSecret",    "allow",  "allowHttp", "ports",
        "concurrent", "concurrentPerHost", "events", NULL
    };
    const Json *previous = json_get(v, "previousSecret");
    IssuePath root = ISSUE_KEY(NULL, STR("webhooks")), events = ISSUE_KEY(&root, STR("events")),
              previous_at = ISSUE_KEY(&root, STR("previousSecret")),
              secret = ISSUE_KEY(&root, STR("secret")), allow = ISSUE_KEY(&root, STR("allow")),
              ports = ISSUE_KEY(&root, STR("ports"));
    if (!v || !check_members(rd, &root, v, names)) return;
    if (json_get(v, "secret"))
        rd->config->webhook_secret = str_of(secret_member(rd, &secret, json_get(v, "secret")));
    if (previous && !json_get(v, "secret"))
        issue_error(&rd->issues, &previous_at, "needs `secret`");
    else if (previous)
        rd->config->webhook_previous = str_of(secret_member(rd, &previous_at, previous));
    read_cidrs(rd, &allow, json_get(v, "allow"), &rd->config->webhook_guard);
    read_ports(rd, &ports, json_get(v, "ports"), &rd->config->webhook_guard);
    read_receivers(rd, &events, json_get(v, "events"));
}

static void read_undeclared(Reader *rd, const IssuePath *path, const Json *v)
{
    if (!v) return;
    bool remove = str_eq(json_str(v), STR("remove"));
    if (!remove && !str_eq(json_str(v), STR("refuse")))
        issue_error(&rd->issues, path, "must be refuse or remove");
    rd->config->gateway.undeclared_tools = remove ? GATEWAY_TOOLS_REMOVE : GATEWAY_TOOLS_REFUSE;
}

/* A list of words, each such as `like`. */
static void read_words(Reader *rd, const IssuePath *path, const Json *v, const char *like,
                       const Str **ret, size_t *ret_n)
{
    size_t n = 0;
    Arena *arena = &rd->config->arena;
    if (!v) return;
    Str *words = ARENA_ARRAY(arena, Str, json_len(v) + 1);
    if (json_type(v) != JSON_ARRAY || json_len(v) > PROVIDER_TOOLS_MAX || !words) {
        issue_error(&rd->issues, path, "must be a list of at most %d %s", PROVIDER_TOOLS_MAX, like);
        return;
    }
    for (JsonIter it = json_iter(v); json_next(&it); n++) {
        IssuePath at = ISSUE_INDEX(path, n);
        if (str_empty(json_str(it.value)))
            issue_error(&rd->issues, &at, "must be one of the %s", like);
        words[n] = arena_str(arena, json_str(it.value));
    }
    *ret = words;
    *ret_n = n;
}

static void read_tools(Reader *rd, const Json *v)
{
    static const char *const names[] = { "allow", "undeclared", "providerTools", "providerState",
                                         NULL };
    IssuePath root = ISSUE_KEY(NULL, STR("tools")), allow = ISSUE_KEY(&root, STR("allow")),
              undeclared = ISSUE_KEY(&root, STR("undeclared")),
              provider_tools = ISSUE_KEY(&root, STR("providerTools")),
              provider_state = ISSUE_KEY(&root, STR("providerState"));
    GatewayConfig *gateway = &rd->config->gateway;
    if (!v || !check_members(rd, &root, v, names)) return;
    read_cidrs(rd, &allow, json_get(v, "allow"), &rd->config->tool_guard);
    read_undeclared(rd, &undeclared, json_get(v, "undeclared"));
    read_words(rd, &provider_tools, json_get(v, "providerTools"), "kinds such as web_search",
               &gateway->provider_tools, &gateway->provider_tools_n);
    read_words(rd, &provider_state, json_get(v, "providerState"), "ids such as file-*",
               &gateway->provider_state, &gateway->provider_state_n);
}

static void add_key(Config *config, const char *key)
{
    assert(config->keys_n < CONFIG_KEYS_MAX);
    sha256(str_of(key), config->keys[config->keys_n++]);
}

/* A name that budgets and records are kept by. */
static Str owner_member(Reader *rd, const IssuePath *path, const Json *v, const char *name,
                        bool required)
{
    IssuePath at = ISSUE_KEY(path, str_of(name));
    char *text = text_member(rd, path, v, name, required);
    if (!text) return STR_NULL;
    if (!*text || strlen(text) > BUDGET_KEY_BYTES_MAX)
        issue_error(&rd->issues, &at, "must have 1 to %d bytes", BUDGET_KEY_BYTES_MAX);
    return str_of(text);
}

static void read_call_limits(Reader *rd, const IssuePath *up, const Json *v, CapHold *ret)
{
    static const char *const names[] = { "usdPerCall", "tokensPerCall", NULL };
    IssuePath path = ISSUE_KEY(up, STR("limits")), usd = ISSUE_KEY(&path, STR("usdPerCall")),
              tokens = ISSUE_KEY(&path, STR("tokensPerCall"));
    if (!v || !check_members(rd, &path, v, names)) return;
    const Json *money = json_get(v, "usdPerCall"), *n = json_get(v, "tokensPerCall");
    if (money && (json_type(money) != JSON_STRING ||
                  money_from_text(json_str(money), NUSD_PER_USD, &ret->nusd) < 0 || ret->nusd <= 0))
        issue_error(&rd->issues, &usd, "must be an amount of USD in quotes, such as \"0.05\"");
    if (n && (json_i64(n, &ret->tokens) < 0 || ret->tokens <= 0))
        issue_error(&rd->issues, &tokens, "must be a whole number from 1 up");
}

static void read_key_lane(Reader *rd, const IssuePath *up, const Json *v, Lane *ret)
{
    IssuePath at = ISSUE_KEY(up, STR("priority"));
    *ret = LANE_NORMAL;
    if (v && (json_type(v) != JSON_STRING || lane_from(json_str(v), ret) < 0))
        issue_error(&rd->issues, &at, "must be critical, normal or low");
}

static void read_tenant_key(Reader *rd, const IssuePath *at, const Json *v, const char *key)
{
    Config *config = rd->config;
    FrontKey front = { .tenant = owner_member(rd, at, v, "tenant", true),
                       .agent = owner_member(rd, at, v, "agent", false) };
    read_call_limits(rd, at, json_get(v, "limits"), &front.call_max);
    read_key_lane(rd, at, json_get(v, "priority"), &front.lane);
    sha256(str_of(key ? key : ""), front.digest);
    if (key) config->front_keys[config->front_keys_n++] = front;
}

/* A key twice would let its role depend on the order. */
static bool is_taken(const Config *config, const char *key)
{
    uint8_t digest[SHA256_BYTES];
    bool taken = false;
    sha256(str_of(key), digest);
    for (size_t i = 0; i < config->keys_n; i++)
        taken |= memcmp(config->keys[i], digest, sizeof digest) == 0;
    for (size_t i = 0; i < config->front_keys_n; i++)
        taken |= memcmp(config->front_keys[i].digest, digest, sizeof digest) == 0;
    return taken;
}

static void read_key(Reader *rd, const IssuePath *at, const Json *v)
{
    static const char *const names[] = { "env",   "file",   "role",     "tenant",
                                         "agent", "limits", "priority", NULL },
                             *const operators[] = { "env", "file", "role", NULL };
    IssuePath role_at = ISSUE_KEY(at, STR("role"));
    bool tenant = json_type(v) == JSON_OBJECT &&
                  str_eq(json_str(json_get(v, "role")), STR("tenant"));
    if (json_type(v) == JSON_STRING) {
        issue_error(&rd->issues, at,
                    "must not stand in the file: write {env: NAME} or {file: PATH}");
        return;
    }
    if (!check_members(rd, at, v, tenant ? names : operators)) return;
    const Json *role = json_get(v, "role");
    if (role && !tenant && !str_eq(json_str(role), STR("operator")))
        issue_error(&rd->issues, &role_at, "must be operator (the default) or tenant");
    char *key = secret_read(rd, at, v);
    if (key && strlen(key) < KEY_CHARS_MIN) {
        issue_error(&rd->issues, at, "is shorter than %d characters", KEY_CHARS_MIN);
        key = NULL;
    }
    if (key && str_starts_with(str_of(key), STR(GATEWAY_TASK_KEY_PREFIX)))
        issue_error(&rd->issues, at, "begins with %s, as keys of tasks do",
                    GATEWAY_TASK_KEY_PREFIX);
    if (key && is_taken(rd->config, key)) {
        issue_error(&rd->issues, at, "is the same key as one before it");
        key = NULL;
    }
    if (tenant) read_tenant_key(rd, at, v, key);
    else if (key) add_key(rd->config, key);
}

static void read_auth(Reader *rd, const Json *v)
{
    static const char *const names[] = { "keys", NULL };
    IssuePath root = ISSUE_KEY(NULL, STR("auth")), keys = ISSUE_KEY(&root, STR("keys"));
    size_t i = 0;
    if (!v || !check_members(rd, &root, v, names)) return;
    const Json *list = json_get(v, "keys");
    if (json_type(list) != JSON_ARRAY || json_len(list) == 0 || json_len(list) > CONFIG_KEYS_MAX) {
        issue_error(&rd->issues, &keys,
                    "must be a list of 1 to %d keys, each {env: NAME} or {file: PATH}",
                    CONFIG_KEYS_MAX);
        return;
    }
    for (JsonIter it = json_iter(list); json_next(&it); i++) {
        IssuePath at = ISSUE_INDEX(&keys, i);
        read_key(rd, &at, it.value);
    }
}

/* --- scalars in the document ------------------------------------------------------------------ */

static const Json *json_find(const Json *v, Str path)
{
    while (v && path.len) {
        Str head;
        path = str_split(path, '.', &head, NULL);
        v = json_get_str(v, head);
    }
    return v;
}

static void setting_issue(Reader *rd, const char *path, const IssuePath *up)
{
    Str head;
    Str rest = str_split(str_of(path), '.', &head, NULL);
    IssuePath at = ISSUE_KEY(up, head);
    if (rest.len) setting_issue(rd, rest.ptr, &at); /* as deep as the table's paths: three */
    else issue_error(&rd->issues, &at, "%s", diag_text());
}

static void read_settings(Reader *rd, const Json *doc)
{
    for (size_t i = 0; i < ARRAY_N(settings); i++) {
        const Json *v = json_find(doc, str_of(settings[i].path));
        if (v && setting_from_json(&settings[i], rd->config, v) < 0)
            setting_issue(rd, settings[i].path, NULL);
    }
}

/* Unknown members of the blocks that hold only scalars: known are the table's own paths. */
static void check_scalars(Reader *rd, const IssuePath *path, Str prefix, const Json *v)
{
    const char *names[32];
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_N(settings); i++) {
        Str p = str_of(settings[i].path), head;
        if (!str_starts_with(p, prefix) || p.ptr[prefix.len] != '.') continue;
        str_split(str_skip(p, prefix.len + 1), '.', &head, NULL);
        char *name = arena_cstr(&rd->config->arena, head);
        if (name && n + 1 < ARRAY_N(names)) names[n++] = name;
    }
    names[n] = NULL;
    check_members(rd, path, v, names);
}

static void budget_add(Config *config, BudgetScope scope, int64_t limit)
{
    for (size_t i = 0; i < config->budgets_n; i++) {
        if (budget_scope_cmp(&config->budgets[i].scope, &scope) != 0) continue;
        config->budgets[i].limit = limit;
        return;
    }
    if (config->budgets_n == BUDGETS_MAX) return;
    if (scope.key.len) scope.key = arena_str(&config->arena, scope.key);
    config->budgets[config->budgets_n++] = (BudgetRule){ scope, limit };
}

/* A limit in USD, or in tokens. */
static void read_limit(Reader *rd, const IssuePath *path, const Json *obj, const char *key,
                       BudgetScope scope)
{
    const Json *v = json_get(obj, key);
    IssuePath at = ISSUE_KEY(path, str_of(key));
    int64_t limit = -1;
    if (!v) return;
    bool usd = scope.unit == BUDGET_USD;
    Str text = json_type(v) == JSON_STRING ? json_str(v) : json_number_text(v);
    int r = usd ? money_from_text(text, NUSD_PER_USD, &limit) : json_i64(v, &limit);
    if (r < 0 || limit < 0 || limit > INT64_MAX / 4)
        issue_error(&rd->issues, &at,
                    usd ? "must be USD as a decimal in quotes, such as \"50\""
                        : "must be a whole number of tokens");
    else if (rd->config->budgets_n == BUDGETS_MAX)
        issue_error(&rd->issues, &at, "there are more than %d budgets", BUDGETS_MAX);
    else budget_add(rd->config, scope, limit);
}

/* {NAME: {dailyUsd, ...}}; `*` is each that is not named. */
static void read_budgets_of(Reader *rd, const IssuePath *root, const Json *v, const char *key,
                            BudgetKind kind)
{
    static const char *const names[] = { "dailyUsd", "monthlyUsd", "tokensPerDay", "tokensPerMonth",
                                         NULL };
    const Json *list = json_get(v, key);
    IssuePath path = ISSUE_KEY(root, str_of(key));
    if (!list) return;
    if (json_type(list) != JSON_OBJECT) {
        issue_error(&rd->issues, &path, "must be a mapping of name to limits");
        return;
    }
    for (JsonIter it = json_iter(list); json_next(&it);) {
        IssuePath at = ISSUE_KEY(&path, it.key);
        BudgetScope scope = { .kind = kind, .key = it.key };
        if (it.key.len == 0 || it.key.len > BUDGET_KEY_BYTES_MAX ||
            memchr(it.key.ptr, 0, it.key.len))
            issue_error(&rd->issues, &at, "is no name");
        else if (check_members(rd, &at, it.value, names))
            for (int i = 0; names[i]; i++) {
                scope.period = i % 2 ? BUDGET_MONTH : BUDGET_DAY;
                scope.unit = i < 2 ? BUDGET_USD : BUDGET_TOKENS;
                read_limit(rd, &at, it.value, names[i], scope);
            }
    }
}

static void read_ceiling_price(Reader *rd, const IssuePath *root, const Json *v)
{
    static const char *const names[] = { "inputUsdPerMillion",
                                         "outputUsdPerMillion",
                                         "cachedInputUsdPerMillion",
                                         "maxInputTokens",
                                         "maxOutputTokens",
                                         "imageTokensMax",
                                         NULL };
    IssuePath at = ISSUE_KEY(root, STR("ceilingPrice"));
    size_t errors = rd->issues.errors;
    if (!v || !check_members(rd, &at, v, names)) return;
    Price price = read_price(rd, &at, v);
    if (rd->issues.errors == errors)
        rd->config->gateway.ceiling_price = keep_price(rd->config, price);
}

/* The thresholds are settings. */
static void read_budgets(Reader *rd, const Json *v)
{
    static const char *const names[] = {
        "enableCachingAt", "degradeToSmallModelAt", "holdLowAt", "smallModel", "dailyUsd",
        "monthlyUsd",      "tokensPerUserPerDay",   "timeZone",  "agents",     "tenants",
        "users",           "ceilingPrice",          NULL
    };
    IssuePath root = ISSUE_KEY(NULL, STR("budgets"));
    if (!v || !check_members(rd, &root, v, names)) return;
    read_limit(rd, &root, v, "dailyUsd", (BudgetScope){ .period = BUDGET_DAY });
    read_limit(rd, &root, v, "monthlyUsd", (BudgetScope){ .period = BUDGET_MONTH });
    read_limit(rd, &root, v, "tokensPerUserPerDay",
               (BudgetScope){ BUDGET_USER, BUDGET_DAY, BUDGET_TOKENS, STR("*") });
    read_budgets_of(rd, &root, v, "agents", BUDGET_AGENT);
    read_budgets_of(rd, &root, v, "tenants", BUDGET_TENANT);
    read_budgets_of(rd, &root, v, "users", BUDGET_USER);
    read_ceiling_price(rd, &root, json_get(v, "ceilingPrice"));
}

/* {ttl, maxBytes, agents: [GLOB]}: the agents that have opted in. */
static void read_cache(Reader *rd, const Json *v)
{
    static const char *const names[] = { "ttl", "maxBytes", "agents", NULL };
    CacheConfig *cache = &rd->config->gateway.cache;
    IssuePath root = ISSUE_KEY(NULL, STR("cache"));
    IssuePath list = ISSUE_KEY(&root, STR("agents"));
    const Json *agents = json_get(v, "agents");
    if (!v || !check_members(rd, &root, v, names) || !agents) return;
    if (json_type(agents) != JSON_ARRAY || json_len(agents) > CACHE_AGENTS_MAX) {
        issue_error(&rd->issues, &list,
                    "must be a list of at most %d agents (`*` stands for any part)",
                    CACHE_AGENTS_MAX);
        return;
    }
    const char **kept = ARENA_ARRAY(&rd->config->arena, const char *, CACHE_AGENTS_MAX);
    if (!kept) DIE("no memory for the configuration");
    cache->agents = kept;
    for (JsonIter it = json_iter(agents); json_next(&it);) {
        IssuePath at = ISSUE_INDEX(&list, cache->agents_n);
        Str name = json_str(it.value);
        char *text = NULL;
        if (name.len == 0 || memchr(name.ptr, 0, name.len))
            issue_error(&rd->issues, &at, "must be a non-empty string");
        keep_text(rd->config, &text, name);
        kept[cache->agents_n++] = text;
    }
}

static void read_mask(Reader *rd, const IssuePath *path, const Json *v, ReplayMask *ret)
{
    Arena *arena = &rd->config->arena;
    Str *pointers = ARENA_ARRAY(arena, Str, REPLAY_MASK_MAX);
    if (!v) return;
    if (json_type(v) != JSON_ARRAY || json_len(v) > REPLAY_MASK_MAX || !pointers) {
        issue_error(&rd->issues, path, "must be a list of at most %d JSON pointers",
                    REPLAY_MASK_MAX);
        return;
    }
    ret->pointers = pointers;
    for (JsonIter it = json_iter(v); json_next(&it); ret->n++) {
        IssuePath at = ISSUE_INDEX(path, ret->n);
        if (!str_starts_with(json_str(it.value), STR("/")))
            issue_error(&rd->issues, &at, "must be a JSON pointer such as /messages/0/content");
        pointers[ret->n] = arena_str(arena, json_str(it.value));
    }
}

/* [{match, off, mask}]: what is recorded of which agent's calls. */
static void read_journal_rules(Reader *rd, const IssuePath *path, const Json *v)
{
    static const char *const names[] = { "match", "off", "mask", NULL };
    GatewayConfig *gateway = &rd->config->gateway;
    if (!v) return;
    GatewayJournalRule *rules = ARENA_ARRAY(&rd->config->arena, GatewayJournalRule,
                                            JOURNAL_RULES_MAX);
    if (json_type(v) != JSON_ARRAY || json_len(v) > JOURNAL_RULES_MAX || !rules) {
        issue_error(&rd->issues, path, "must be a list of at most %d rules", JOURNAL_RULES_MAX);
        return;
    }
    gateway->journal_rules = rules;
    for (JsonIter it = json_iter(v); json_next(&it);) {
        IssuePath at = ISSUE_INDEX(path, gateway->journal_rules_n);
        IssuePath at_off = ISSUE_KEY(&at, STR("off")), at_mask = ISSUE_KEY(&at, STR("mask"));
        const Json *off = json_get(it.value, "off");
        if (!check_members(rd, &at, it.value, names)) continue;
        GatewayJournalRule *rule = &rules[gateway->journal_rules_n++];
        rule->match = text_member(rd, &at, it.value, "match", true);
        rule->off = json_bool(off, false);
        if (off && json_type(off) != JSON_BOOL)
            issue_error(&rd->issues, &at_off, "must be true or false");
        read_mask(rd, &at_mask, json_get(it.value, "mask"), &rule->mask);
    }
}

/* Its numbers are settings. */
static void read_journal(Reader *rd, const Json *v)
{
    static const char *const names[] = { "keep", "bytesPerTask", "recordingsPerTask", "agents",
                                         NULL };
    IssuePath root = ISSUE_KEY(NULL, STR("journal")), agents = ISSUE_KEY(&root, STR("agents"));
    if (v && check_members(rd, &root, v, names))
        read_journal_rules(rd, &agents, json_get(v, "agents"));
}

static void read_document(Reader *rd, const Json *doc)
{
    static const char *const names[] = {
        "server",   "log",     "limits",   "timeouts", "worker", "lanes",       "providers",
        "models",   "prices",  "webhooks", "tools",    "auth",   "budgets",     "cache",
        "breakers", "retries", "waiting",  "journal",  "state",  "concurrency", "scaling",
        "drift",    "tasks",   "spend",    NULL
    };
    static const char *const scalar_blocks[] = { "server",  "log",   "limits",      "timeouts",
                                                 "worker",  "lanes", "breakers",    "retries",
                                                 "waiting", "state", "concurrency", "scaling",
                                                 "drift",   "tasks", "spend" };
    if (json_type(doc) == JSON_NULL) return;
    if (!check_members(rd, NULL, doc, names)) return;
    for (size_t i = 0; i < ARRAY_N(scalar_blocks); i++) {
        IssuePath at = ISSUE_KEY(NULL, str_of(scalar_blocks[i]));
        if (json_get(doc, scalar_blocks[i]))
            check_scalars(rd, &at, str_of(scalar_blocks[i]), json_get(doc, scalar_blocks[i]));
    }
    read_settings(rd, doc);
    read_budgets(rd, json_get(doc, "budgets"));
    read_cache(rd, json_get(doc, "cache"));
    read_journal(rd, json_get(doc, "journal"));
    read_prices(rd, json_get(doc, "prices"));
    read_providers(rd, json_get(doc, "providers"));
    read_models(rd, json_get(doc, "models"));
    read_webhooks(rd, json_get(doc, "webhooks"));
    read_tools(rd, json_get(doc, "tools"));
    read_auth(rd, json_get(doc, "auth"));
}

static int report(Reader *rd, Str file)
{
    CLEANUP(buf_deinit) Buf text = { 0 };
    size_t errors = rd->issues.errors;
    buf_init(&text, 1 << 20);
    issue_sort(&rd->issues);
    for (size_t i = 0; i < rd->issues.n; i++) {
        issue_text(&rd->issues.items[i], file, &text);
        buf_add_char(&text, '\n');
    }
    if (text.len) fprintf(stderr, "%s", text.ptr);
    if (rd->issues.dropped) fprintf(stderr, "... and %zu more\n", rd->issues.dropped);
    if (errors == 0) return 0;
    return diag_set(-EINVAL, "%zu mistake%s in %.*s", errors, errors == 1 ? "" : "s",
                    STR_ARG(file));
}

static int load_file(Config *config, const char *path)
{
    Issue items[CONFIG_ISSUES_MAX];
    Reader rd = { .config = config };
    Str text;
    const Json *doc;
    YamlMarks *marks;
    int r = file_read(&config->arena, path, YAML_BYTES_MAX, &text);
    if (r < 0) return r;
    config->file = arena_str(&config->arena, str_of(path));
    r = yaml_parse(&config->arena, text, &doc, &marks);
    if (r < 0) return diag_prefix(r, "%s", path);
    issue_list_init(&rd.issues, &config->arena, items, ARRAY_N(items), place_in_yaml, marks);
    read_document(&rd, doc);
    return report(&rd, str_of(path));
}

/* --- the environment -------------------------------------------------------------------------- */

/* server.behindProxy -> GANTRY_SERVER__BEHINDPROXY */
static void env_name(const char *path, char out[ENV_NAME_MAX])
{
    size_t n = 0;
    for (const char *p = "GANTRY_"; *p; p++) out[n++] = *p;
    for (; *path && n + 3 < ENV_NAME_MAX; path++) {
        if (*path == '.') out[n++] = '_', out[n++] = '_';
        else out[n++] = *path >= 'a' && *path <= 'z' ? (char)(*path - 'a' + 'A') : *path;
    }
    out[n] = '\0';
}

/* Says which variables are meant for a setting that there is not; false when there are any. */
static bool environment_known(void)
{
    char names[ARRAY_N(settings)][ENV_NAME_MAX];
    Str known[ARRAY_N(settings)];
    bool ok = true;
    for (size_t i = 0; i < ARRAY_N(settings); i++) {
        env_name(settings[i].path, names[i]);
        known[i] = str_of(names[i]);
    }
    for (char **at = environ; *at; at++) {
        Str name = str_make(*at, strcspn(*at, "="));
        bool found = !str_starts_with(name, STR("GANTRY_")) || !strstr(*at, "__") ||
                     strstr(*at, "__") >= name.ptr + name.len ||
                     str_starts_with(name, STR("GANTRY_TOOL_"));
        for (size_t i = 0; i < ARRAY_N(known) && !found; i++) found = str_eq(name, known[i]);
        if (found) continue;
        Str near = issue_nearest(name, known, ARRAY_N(known));
        fprintf(stderr, "gantry: %.*s: there is no such setting%s%.*s%s\n", STR_ARG(name),
                near.len ? "; did you mean `" : "", STR_ARG(near), near.len ? "`?" : "");
        ok = false;
    }
    return ok;
}

static int load_environment(Config *config)
{
    int result = environment_known() ? 0 : diag_set(-EINVAL, "the environment has mistakes");
    for (size_t i = 0; i < ARRAY_N(settings); i++) {
        char name[ENV_NAME_MAX];
        env_name(settings[i].path, name);
        const char *value = getenv(name);
        if (!value || setting_from_text(&settings[i], config, str_of(value)) == 0) continue;
        fprintf(stderr, "gantry: %s: %s\n", name, diag_text());
        result = diag_set(-EINVAL, "the environment has mistakes");
    }
    return result;
}

/* What gets every event is to be reachable by what the whole configuration says. */
static int check_receivers(Config *config)
{
    int r = 0;
    AddrGuard *guard = &config->webhook_guard;
    guard->section = "webhooks";
    guard->https_only = !config->webhook_http;
    guard->ports_only = true;
    for (size_t i = 0; i < config->receivers_n; i++) {
        Url url;
        Str text = config->receivers[i];
        if (url_parse(&config->arena, text, &url) < 0) continue; /* said already */
        if (addr_guard_check_url(guard, &url) == 0) continue;
        r = -EINVAL;
        fprintf(stderr, "gantry: webhooks.events: %.*s: %s\n", STR_ARG(text), diag_text());
    }
    return r;
}

static int check_whole(Config *config)
{
    LogLevel level;
    int r = 0;
    diag_clear(); /* what is wrong is said here */
    if (log_level_from(str_of(config->log_level), &level) < 0)
        r = -EINVAL,
        fprintf(stderr, "gantry: log.level must be debug, info, warn or error, not `%s`\n",
                config->log_level);
    if (strcmp(config->log_format, "logfmt") != 0 && strcmp(config->log_format, "json") != 0)
        r = -EINVAL, fprintf(stderr, "gantry: log.format must be logfmt or json, not `%s`\n",
                             config->log_format);
    config->gateway.cache.bytes_max = config->cache_bytes_max ? config->cache_bytes_max : -1;
    config->gateway.degrade.small_model = *config->small_model ? config->small_model : NULL;
    if (*config->small_model && !model_id_ok(str_of(config->small_model)))
        r = -EINVAL,
        fprintf(stderr, "gantry: budgets.smallModel: `%s` is no model id\n", config->small_model);
    if (zone_set(str_of(config->time_zone)) < 0)
        r = -EINVAL, fprintf(stderr, "gantry: budgets.timeZone: %s\n", diag_text());
    if (!lane_config_ok(&config->lanes))
        r = -EINVAL,
        fprintf(stderr, "gantry: lanes: every lane needs at least one slot, reserved or shared\n");
    if (config->scaling.workers_max < config->scaling.workers_min)
        r = -EINVAL,
        fprintf(stderr, "gantry: scaling.workersMax must not be less than scaling.workersMin\n");
    if (check_receivers(config) < 0) r = -EINVAL;
    if (!breaker_policy_ok(&config->gateway.breaker))
        r = -EINVAL,
        fprintf(stderr, "gantry: breakers.openMax must not be less than breakers.open\n");
    return r;
}

int config_load(Config *config, const char *path)
{
    int r = 0;
    if (path || access("gantry.yaml", F_OK) == 0)
        r = load_file(config, path ? path : "gantry.yaml");
    if (r < 0) return r;
    r = load_environment(config);
    const char *key = getenv("GANTRY_API_KEY");
    if (r == 0 && key && *key && config->keys_n == 0) {
        add_key(config, key);
        config->key_short = strlen(key) < KEY_CHARS_MIN;
    }
    return r < 0 ? r : check_whole(config);
}

/* --- defaults and providers ------------------------------------------------------------------- */

void config_init(Config *config, ConfigMode mode)
{
    *config = (Config){ .port = mode == CONFIG_WORKER ? 0 : 7070,
                        .lanes = { .reserved = { 2, 2, 1 }, .shared = 3 },
                        .wait_objective_ms = { 1000, 10000, 600000 },
                        .aging_ms = 30000,
                        .scaling = SCALING_RULE_DEFAULT,
                        .session_tasks_max = 1,
                        .body_bytes_max = 1 << 20,
                        .head_bytes_max = 64 << 10,
                        .fields_max = 100,
                        .target_bytes_max = 8 << 10,
                        .connections_max = 10000,
                        .header_timeout_ms = 10000,
                        .body_timeout_ms = 30000,
                        .idle_timeout_ms = 75000,
                        .write_timeout_ms = 30000,
                        .queued_tasks_max = 1000000,
                        .disk_reserve_bytes = 64 << 20,
                        .webhook_concurrent = 8,
                        .webhook_concurrent_per_host = 4,
                        .accounts_max = 100000,
                        .log_bytes_max = 1 << 20,
                        .followers_max = 1000,
                        .tasks_kept_ms = 35 * DAY_MS,
                        .keys_kept_ms = 2 * DAY_MS,
                        .journal_kept_ms = 7 * DAY_MS,
                        .spend_kept_ms = 400 * DAY_MS,
                        .journal_bytes_max = 32 << 20,
                        .journal_recordings_max = 2000,
                        .drift_false_alarm_ms = 365 * DAY_MS,
                        .state_kept_ms = 30 * DAY_MS,
                        .state_keys_max = 1000,
                        .state_bytes_max = 16 << 20,
                        .state_value_bytes_max = 256 << 10,
                        .family = FAMILY_BOUNDS_DEFAULT,
                        .grace_ms = 5000,
                        .stuck_ms = 900000,
                        .cgroups = true,
                        .lease_ms = 8000, /* and a tick: recovered within 10 s */
                        .cache_bytes_max = CACHE_BYTES_MAX_DEFAULT };
    arena_init(&config->arena, CONFIG_ARENA_BYTES_MAX);
    keep_text(config, &config->address, STR("127.0.0.1"));
    keep_text(config, &config->data, mode == CONFIG_DEV ? STR(".gantry") : STR("/var/lib/gantry"));
    keep_text(config, &config->public_url, STR(""));
    keep_text(config, &config->small_model, STR(""));
    keep_text(config, &config->log_level, mode == CONFIG_DEV ? STR("warn") : STR("info"));
    keep_text(config, &config->log_file, STR(""));
    keep_text(config, &config->log_format, mode == CONFIG_DEV ? STR("logfmt") : STR("json"));
    price_table_init(&config->prices, &config->arena);
    config->providers = ARENA_ARRAY(&config->arena, GatewayProvider, PROVIDERS_MAX);
    config->routes = ARENA_ARRAY(&config->arena, GatewayRoute, ROUTES_MAX);
    config->gateway = (GatewayConfig){ .providers = config->providers,
                                       .routes = config->routes,
                                       .prices = &config->prices,
                                       .cache = { .ttl_ms = CACHE_TTL_MS_DEFAULT },
                                       .degrade = DEGRADE_CONFIG_DEFAULT,
                                       .breaker = BREAKER_POLICY_DEFAULT,
                                       .waiting_max = 10000,
                                       .retry_burst = 10,
                                       .retry_initial_ms = 500,
                                       .heartbeat_after_ms = 5000,
                                       .heartbeat_every_ms = 12000,
                                       .request_bytes_task_max = GATEWAY_TASK_BYTES_MAX,
                                       .request_bytes_max = GATEWAY_ALL_BYTES_MAX };
    config->budgets = ARENA_ARRAY(&config->arena, BudgetRule, BUDGETS_MAX);
    keep_text(config, &config->time_zone, STR("UTC"));
    if (!config->providers || !config->routes || !config->budgets)
        DIE("no memory for the configuration");
    if (addr_guard_deny_own(&config->webhook_guard) < 0 ||
        addr_guard_deny_own(&config->tool_guard) < 0)
        LOG_WARN("webhooks and tools may reach this machine", LOG_CSTR("why", diag_text()));
    if (mode != CONFIG_DEV) return;
    budget_add(config, (BudgetScope){ .period = BUDGET_DAY }, DEV_BUDGET_NUSD);
    /* a laptop's own receivers and tools are what dev mode is for */
    static const char *const loopback[] = { "127.0.0.0/8", "::1/128" };
    for (size_t i = 0; i < ARRAY_N(loopback); i++) {
        if (addr_guard_allow(&config->webhook_guard, str_of(loopback[i])) < 0)
            DIE("%s", diag_text());
        if (addr_guard_allow(&config->tool_guard, str_of(loopback[i])) < 0) DIE("%s", diag_text());
    }
}

void config_deinit(Config *config)
{
    arena_deinit(&config->arena);
}

static bool is_loopback_url(Config *config, const char *text)
{
    Url url;
    if (url_parse(&config->arena, str_of(text), &url) < 0) return false;
    return str_eq(url.host, STR("localhost")) || str_starts_with(url.host, STR("127.")) ||
           str_eq(url.host, STR("[::1]"));
}

/* A provider from NAME_API_KEY and NAME_BASE_URL, when either is set. A server on this machine
 * costs nothing and may be asked for any model. */
static int provider_from_environment(Config *config, const char *name, GatewayProtocol protocol,
                                     const char *default_url, bool *ret_added)
{
    char variable[ENV_NAME_MAX];
    snprintf(variable, sizeof variable, "%s_API_KEY",
             protocol == GATEWAY_OPENAI ? "OPENAI" : "ANTHROPIC");
    const char *key = getenv(variable);
    snprintf(variable, sizeof variable, "%s_BASE_URL",
             protocol == GATEWAY_OPENAI ? "OPENAI" : "ANTHROPIC");
    const char *base_url = getenv(variable);
    Url url;
    *ret_added = (key && *key) || (base_url && *base_url);
    if (!*ret_added) return 0;
    if (!base_url || !*base_url) base_url = default_url;
    if (url_parse(&config->arena, str_of(base_url), &url) < 0)
        return diag_prefix(-EINVAL, "%s", variable);
    char *kept_url = NULL, *kept_key = NULL;
    Str trimmed = str_of(base_url);
    while (trimmed.len && trimmed.ptr[trimmed.len - 1] == '/') trimmed.len--;
    keep_text(config, &kept_url, trimmed);
    keep_text(config, &kept_key, str_of(key));
    GatewayProvider *p = &config->providers[config->gateway.providers_n++];
    *p = (GatewayProvider){ .name = name,
                            .protocol = protocol,
                            .base_url = kept_url,
                            .key = kept_key,
                            .retries_max = RETRIES_DEFAULT };
    if (is_loopback_url(config, kept_url)) {
        p->default_price = keep_price(config, (Price){ 0 });
        p->cap_member = "max_tokens"; /* many local servers know no other */
    }
    return 0;
}

static void add_simulator(Config *config, uint16_t port, GatewayProtocol protocol, bool everything)
{
    char *url = NULL;
    Str text = arena_printf(
        &config->arena,
        protocol == GATEWAY_OPENAI ? "http://127.0.0.1:%u/v1" : "http://127.0.0.1:%u", port);
    keep_text(config, &url, text);
    size_t index = config->gateway.providers_n++;
    const Price *price = price_find(&config->prices, STR("sim"), STR("sim/assistant"));
    config->providers[index] = (GatewayProvider){ .name = "sim",
                                                  .protocol = protocol,
                                                  .base_url = url,
                                                  .retries_max = RETRIES_DEFAULT,
                                                  .simulated = true,
                                                  .default_price = price };
    add_route(config, everything ? "*" : "sim/*", index);
}

int config_add_providers(Config *config, uint16_t sim_port)
{
    static const struct {
        const char *name, *url;
    } known[GATEWAY_PROTOCOL_N_] = { [GATEWAY_OPENAI] = { "openai", "https://api.openai.com/v1" },
                                     [GATEWAY_ANTHROPIC] = { "anthropic",
                                                             "https://api.anthropic.com" } };
    bool from_file[GATEWAY_PROTOCOL_N_] = { 0 };
    for (size_t i = 0; i < config->gateway.providers_n; i++)
        from_file[config->gateway.providers[i].protocol] = true;
    for (GatewayProtocol protocol = 0; protocol < GATEWAY_PROTOCOL_N_; protocol++) {
        bool added = from_file[protocol];
        if (sim_port) add_simulator(config, sim_port, protocol, false);
        if (!added) {
            int r = provider_from_environment(config, known[protocol].name, protocol,
                                              known[protocol].url, &added);
            if (r < 0) return r;
            if (added) add_route(config, "*", config->gateway.providers_n - 1);
        }
        if (!added && sim_port) add_simulator(config, sim_port, protocol, true);
    }
    return 0;
}

Str config_models_text(Config *config)
{
    CLEANUP(buf_deinit) Buf text = { 0 };
    buf_init(&text, 4096);
    bool simulated = true;
    for (size_t i = 0; i < config->gateway.providers_n; i++) {
        const GatewayProvider *p = &config->gateway.providers[i];
        if (p->simulated || !p->base_url) continue;
        simulated = false;
        buf_printf(&text, "%s%s at %s", text.len ? ", " : "", p->name, p->base_url);
    }
    if (simulated)
        return STR(
            "SIMULATED (set OPENAI_API_KEY, ANTHROPIC_API_KEY or OPENAI_BASE_URL to go live)");
    buf_printf(&text, "; sim/* SIMULATED");
    return arena_str(&config->arena, buf_str(&text));
}

/* --- dump ------------------------------------------------------------------------------------- */

static void dump_value(const Setting *s, const Config *config, Buf *out)
{
    const void *at = setting_at(s, (Config *)(uintptr_t)config);
    char duration[DURATION_TEXT_MAX], number[JSON_NUMBER_TEXT_MAX];
    switch (s->type) {
    case SETTING_TEXT: buf_printf(out, "\"%s\"", *(char *const *)at); break;
    case SETTING_INT: buf_printf(out, "%" PRId64, *(const int64_t *)at); break;
    case SETTING_BOOL: buf_printf(out, "%s", *(const bool *)at ? "true" : "false"); break;
    case SETTING_DURATION:
        buf_printf(out, "%s", duration_format(*(const int64_t *)at, duration));
        break;
    case SETTING_SHARE:
        (void)json_number_format((double)*(const int64_t *)at / PPM_WHOLE, number);
        buf_printf(out, "%s", number);
        break;
    }
}

static void dump_value_json(const Setting *s, const Config *config, JsonOut *out)
{
    const void *at = setting_at(s, (Config *)(uintptr_t)config);
    char duration[DURATION_TEXT_MAX];
    switch (s->type) {
    case SETTING_TEXT: json_out_kcstr(out, s->path, *(char *const *)at); break;
    case SETTING_INT: json_out_ki64(out, s->path, *(const int64_t *)at); break;
    case SETTING_BOOL: json_out_kbool(out, s->path, *(const bool *)at); break;
    case SETTING_DURATION:
        json_out_kcstr(out, s->path, duration_format(*(const int64_t *)at, duration));
        break;
    case SETTING_SHARE:
        json_out_key(out, s->path);
        json_out_f64(out, (double)*(const int64_t *)at / PPM_WHOLE);
        break;
    }
}

void config_dump_json(const Config *config, Buf *text)
{
    JsonOut out = json_out(text);
    json_out_object(&out);
    json_out_kstr_or_null(&out, "file", config->file);
    json_out_key(&out, "settings");
    json_out_object(&out);
    for (size_t i = 0; i < ARRAY_N(settings); i++) dump_value_json(&settings[i], config, &out);
    json_out_object_end(&out);
    json_out_key(&out, "providers");
    json_out_array(&out);
    for (size_t i = 0; i < config->gateway.providers_n; i++) {
        const GatewayProvider *p = &config->gateway.providers[i];
        json_out_object(&out);
        json_out_kcstr(&out, "name", p->name);
        json_out_kcstr(&out, "protocol", gateway_protocol_name(p->protocol));
        json_out_kcstr(&out, "baseUrl", p->base_url);
        json_out_kbool(&out, "hasKey", p->key && *p->key);
        json_out_object_end(&out);
    }
    json_out_array_end(&out);
    json_out_object_end(&out);
}

void config_dump(const Config *config, Buf *out)
{
    buf_printf(out, "# file: %s\n", config->file.len ? config->file.ptr : "none");
    for (size_t i = 0; i < ARRAY_N(settings); i++) {
        char name[ENV_NAME_MAX];
        env_name(settings[i].path, name);
        buf_printf(out, "%s: ", settings[i].path);
        dump_value(&settings[i], config, out);
        buf_printf(out, "   # %s\n", name);
    }
    for (size_t i = 0; i < config->gateway.providers_n; i++) {
        const GatewayProvider *p = &config->gateway.providers[i];
        buf_printf(out, "providers.%s: {protocol: %s, baseUrl: \"%s\", key: %s}\n", p->name,
                   gateway_protocol_name(p->protocol), p->base_url,
                   p->key && *p->key ? "********" : "none");
    }
    for (size_t i = 0; i < config->gateway.routes_n; i++)
        buf_printf(out, "models: {match: \"%s\", provider: %s}\n", config->gateway.routes[i].match,
                   config->gateway.providers[config->gateway.routes[i].provider].name);
    buf_printf(out, "tools: {undeclared: %s, providerTools: %zu, providerState: %zu}\n",
               config->gateway.undeclared_tools == GATEWAY_TOOLS_REMOVE ? "remove" : "refuse",
               config->gateway.provider_tools_n, config->gateway.provider_state_n);
    for (size_t i = 0; i < config->gateway.cache.agents_n; i++)
        buf_printf(out, "cache.agents: \"%s\"\n", config->gateway.cache.agents[i]);
    for (size_t i = 0; i < config->gateway.journal_rules_n; i++) {
        const GatewayJournalRule *rule = &config->gateway.journal_rules[i];
        buf_printf(out, "journal.agents: {match: \"%s\", off: %s, mask: %zu}\n", rule->match,
                   rule->off ? "true" : "false", rule->mask.n);
    }
    for (size_t i = 0; i < config->budgets_n; i++) {
        char scope[BUDGET_SCOPE_TEXT_MAX], usd[MONEY_TEXT_MAX];
        const BudgetRule *rule = &config->budgets[i];
        buf_printf(out, "# budget %s: ", budget_scope_text(&rule->scope, scope));
        if (rule->scope.unit == BUDGET_USD)
            buf_printf(out, "%s USD\n", money_text(rule->limit, usd));
        else buf_printf(out, "%" PRId64 " tokens\n", rule->limit);
    }
    for (size_t i = 0; i < config->front_keys_n; i++)
        buf_printf(out,
                   "auth.keys: {key: ********, role: tenant, tenant: \"%.*s\", agent: \"%.*s\"}\n",
                   STR_ARG(config->front_keys[i].tenant), STR_ARG(config->front_keys[i].agent));
    buf_printf(out, "auth.keys: %zu\nwebhooks.secret: %s\n", config->keys_n,
               config->webhook_secret.len ? "********" : "made at start");
}
