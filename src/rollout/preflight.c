#include "rollout/preflight.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/digest.h"
#include "logic/version.h"
#include "net/dial.h"
#include "store/artifact_store.h"
#include "store/price_store.h"
#include "store/version_store.h"
#include "sys/clock.h"
#include "sys/fiber.h"

#define WORK_BYTES_MAX ((size_t)192 << 20)
#define ARTIFACT_BYTES_MAX ((size_t)256 << 20)
#define CHECKS_BYTES_MAX 16000
#define DETAIL_BYTES_MAX 300

typedef enum { RESULT_PASSED, RESULT_FAILED, RESULT_SKIPPED, RESULT_WARNED, RESULT_N_ } Result;

typedef struct {
    const char *name;
    Result result;
    Str detail;
} Check;

/* One preflight; on the heap of its fiber. */
typedef struct {
    const PreflightOptions *options;
    Arena arena;
    RolloutRow row;
    RolloutSpec *spec;
    Version version, control;
    int found; /* of the version: 0 or -ENOENT */
    int64_t now_ms;
    int64_t scores;
    double mean;
    int64_t units, units_tasks; /* users or tenants of so many tasks */
    int64_t history_n;          /* without a baseline: tasks that are there for one */
    const Json *components;
    AgentSpec agent;
    Check checks[PREFLIGHT_CHECKS_MAX];
    size_t n;
    bool failed;
} Preflight;

static void preflight_deinit(Preflight *p)
{
    arena_deinit(&p->arena);
}

static void say(Preflight *p, const char *name, Result result, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
static void say(Preflight *p, const char *name, Result result, const char *fmt, ...)
{
    char text[DETAIL_BYTES_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    assert(p->n < PREFLIGHT_CHECKS_MAX);
    p->checks[p->n++] = (Check){ name, result, arena_str(&p->arena, str_of(text)) };
    p->failed |= result == RESULT_FAILED;
}

/* --- what is stored --------------------------------------------------------------------------- */

static int load_job(Db *db, void *arg)
{
    Preflight *p = arg;
    RolloutBaseline baseline;
    int r = control_spec(&p->row, &p->arena, p->spec);
    if (r != 0) return r;
    p->found = version_get(db, p->row.version_id, &p->arena, &p->version);
    if (p->found < 0 && p->found != -ENOENT) return p->found;
    if (p->spec->plan.shadow) r = version_get(db, p->row.control_id, &p->arena, &p->control);
    if (r < 0 && r != -ENOENT) return r;
    r = p->row.baseline.tasks > 0 ? 0
                                  : gather_first(db, p->row.control_id, p->spec->plan.unit_wait_ms,
                                                 p->now_ms, &baseline, &p->history_n);
    if (r != 0) return r;
    r = rollout_units_lately(db, p->row.control_id, p->spec->unit, &p->units, &p->units_tasks);
    if (r != 0) return r;
    p->scores = p->spec->evaluation_tasks;
    if (p->scores == 0) return 0;
    return rollout_scores(db, p->row.version_id, &p->scores, &p->mean);
}

static bool check_version(Preflight *p)
{
    char id[VERSION_ID_BYTES + 1];
    ManifestError error;
    size_t n;
    if (p->found != 0) say(p, "version", RESULT_FAILED, "the version is not stored");
    else if (!str_eq(p->version.agent, p->row.agent))
        say(p, "version", RESULT_FAILED, "the version is of another agent");
    else {
        version_id(p->version.components, id);
        bool whole = str_eq(p->version.id, str_of(id)) &&
                     json_parse(&p->arena, p->version.components, NULL, &p->components, NULL) ==
                         0 &&
                     manifest_parse(&p->arena, p->version.manifest, &p->agent, &error, 1, &n) == 0;
        say(p, "version", whole ? RESULT_PASSED : RESULT_FAILED,
            whole ? "its parts make its id" : "its parts do not make its id: the store is damaged");
    }
    return !p->failed;
}

static void check_artifact(Preflight *p)
{
    Str hex = p->version.artifact;
    CLEANUP(buf_deinit) Buf bytes;
    buf_init(&bytes, ARTIFACT_BYTES_MAX);
    if (str_empty(hex)) {
        say(p, "artifact", RESULT_SKIPPED, "the version has no code");
        return;
    }
    int r = artifact_get(store_path(queue_store(p->options->queue)), hex, &bytes);
    if (r == 0) say(p, "artifact", RESULT_PASSED, "%zu bytes, sha256:%.12s", bytes.len, hex.ptr);
    else say(p, "artifact", RESULT_FAILED, "the packed code cannot be read: %s", diag_text_or(r));
}

static void check_prompt(Preflight *p)
{
    uint8_t digest[SHA256_BYTES];
    CLEANUP(sha256_deinit) Sha256 sha;
    sha256_init(&sha);
    Str text = json_str(json_get(json_get(p->components, "prompt"), "text"));
    if (str_empty(p->agent.prompt)) {
        say(p, "prompt", RESULT_SKIPPED, "the manifest names none");
        return;
    }
    sha256_add(&sha, text);
    sha256_end(&sha, digest);
    say(p, "prompt", str_empty(text) ? RESULT_FAILED : RESULT_PASSED,
        "%zu bytes, sha256:%02x%02x%02x%02x%02x%02x", text.len, digest[0], digest[1], digest[2],
        digest[3], digest[4], digest[5]);
}

/* The tools that a version declares; none: an empty set. Returns 0, TOOLS_E_INVALID, -ENOMEM. */
static int tools_of(Preflight *p, const Json *components, ToolSet *ret)
{
    Issue issue = { 0 };
    size_t n = 0;
    const Json *definitions = json_get(json_get(components, "tools"), "definitions");
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, TOOLS_BYTES_MAX * 2);
    *ret = (ToolSet){ 0 };
    if (json_len(definitions) == 0) return 0;
    JsonOut out = json_out(&text);
    json_out_value(&out, definitions);
    return json_out_ok(&out) ? tools_parse(&p->arena, buf_str(&text), ret, &issue, 1, &n) : -ENOMEM;
}

static void check_tools(Preflight *p)
{
    ToolSet tools;
    int r = tools_of(p, p->components, &tools);
    if (r == 0 && tools.n == 0) {
        say(p, "tools", RESULT_SKIPPED, "the version declares none");
        return;
    }
    const Tool *orphan = r == 0 && p->agent.runtime == RUNTIME_BUILTIN
                             ? tools_without_source(&tools)
                             : NULL;
    if (r != 0) say(p, "tools", RESULT_FAILED, "the tools cannot be read");
    else if (orphan)
        say(p, "tools", RESULT_FAILED, "nobody can run the tool \"%.*s\": it has no source",
            STR_ARG(orphan->name));
    else say(p, "tools", RESULT_PASSED, "%zu declared", tools.n);
}

/* The first tool that writes and is run by the agent's own code, where nobody can hold it back. */
static const Tool *unsafe_tool(Preflight *p, const Json *components)
{
    ToolSet tools;
    return tools_of(p, components, &tools) == 0 ? tools_write_without_source(&tools) : NULL;
}

static void check_shadow(Preflight *p)
{
    const Json *control = NULL;
    if (!p->spec->plan.shadow) return;
    const Tool *tool = unsafe_tool(p, p->components);
    bool own = !tool && p->spec->shadow.self_bp > 0 &&
               json_parse(&p->arena, p->control.components, NULL, &control, NULL) == 0;
    if (own) tool = unsafe_tool(p, control);
    if (!tool)
        say(p, "shadow", RESULT_PASSED, "no tool that writes is run by the agent's own code");
    else
        say(p, "shadow", RESULT_FAILED,
            "the tool \"%.*s\" of %s writes and has no source, so in the shadow it would really be "
            "called",
            STR_ARG(tool->name), own ? "the stable version" : "the version");
}

/* On the thread pool. */
static int stored_work(void *arg)
{
    Preflight *p = arg;
    if (!check_version(p)) return 0;
    check_artifact(p);
    check_prompt(p);
    check_tools(p);
    check_shadow(p);
    return 0;
}

/* --- models and providers --------------------------------------------------------------------- */

typedef struct {
    Str model;
    bool there;
} PriceJob;

static int price_job(Db *db, void *arg)
{
    PriceJob *job = arg;
    int r = price_exists(db, job->model);
    job->there = r == 0;
    return r == -ENOENT ? 0 : r;
}

/* A provider that serves the model at a known price; NULL: *ret_why says what is missing. */
static const GatewayProvider *provider_of_wait(Preflight *p, Str model, Str *ret_why)
{
    const GatewayProvider *provider = NULL;
    *ret_why = STR_NULL;
    for (int protocol = 0; protocol < GATEWAY_PROTOCOL_N_; protocol++) {
        PriceJob job = { .model = model };
        int r = gateway_resolve(p->options->models, NULL, model, (GatewayProtocol)protocol,
                                &provider, NULL);
        if (r == 0) return provider;
        *ret_why = arena_str(&p->arena, str_of(diag_text_or(r)));
        if (r != -ENODATA) continue;
        /* it would be asked: another that happens to sell the model does not help */
        bool read = store_read_wait(queue_store(p->options->queue), price_job, &job) == 0;
        return read && job.there ? provider : NULL;
    }
    return NULL;
}

static void on_dial(void *ctx)
{
    cond_signal(ctx);
}

static int connect_wait(const GatewayProvider *provider, Arena *arena)
{
    Url url;
    Cond changed;
    int r = url_parse(arena, str_of(provider->base_url), &url);
    if (r != 0) return r;
    CLEANUP(dial_freep)
    DialConn *conn = dial_new(
        &(DialOptions){ .url = &url, .connect_timeout_ms = PREFLIGHT_CONNECT_MS });
    if (!conn) return -ENOMEM;
    cond_init(&changed);
    dial_notify(conn, on_dial, &changed);
    int64_t deadline_ms = deadline_after(PREFLIGHT_CONNECT_MS);
    while (r == 0 && dial_state(conn) == DIAL_CONNECTING) r = cond_wait(&changed, deadline_ms);
    return r == 0 && dial_state(conn) == DIAL_FAILED ? dial_result(conn) : r;
}

/* The models are what matters; fallbacks are for when the provider is down. */
static int check_models_wait(Preflight *p)
{
    size_t n = p->agent.fallbacks_n + (str_empty(p->agent.model) ? 0 : 1);
    const GatewayProvider *first = NULL;
    if (n == 0 || !p->options->models || p->options->models->routes_n == 0) {
        const char *why = n == 0 ? "the manifest names no model"
                                 : "workers alone know the providers";
        say(p, "model", RESULT_SKIPPED, "%s", why);
        say(p, "provider", RESULT_SKIPPED, "%s", why);
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        Str model = i < p->agent.fallbacks_n ? p->agent.fallbacks[i] : p->agent.model;
        Str why;
        const GatewayProvider *provider = provider_of_wait(p, model, &why);
        if (!provider) {
            say(p, "model", RESULT_FAILED, "%.*s", STR_ARG(why));
            return 0;
        }
        first = provider; /* the model itself comes last */
    }
    say(p, "model", RESULT_PASSED, "%zu served at known prices", n);
    int r = connect_wait(first, &p->arena);
    if (r == -ECANCELED) return r;
    if (r == 0) say(p, "provider", RESULT_PASSED, "\"%s\" takes connections", first->name);
    else
        say(p, "provider", RESULT_FAILED, "\"%s\" cannot be reached: %s", first->name,
            diag_text_or(r));
    return 0;
}

/* --- together --------------------------------------------------------------------------------- */

/* A rollout whose stable version has done hardly anything may begin, and holds. */
static void check_baseline(Preflight *p)
{
    Str name = rollout_spec_by_baseline(p->spec);
    const RolloutBaseline *b = &p->row.baseline;
    if (str_empty(name)) say(p, "baseline", RESULT_SKIPPED, "nothing is measured from one");
    else if (b->tasks > 0)
        say(p, "baseline", RESULT_PASSED, "measured from %" PRId64 " tasks of the stable version",
            b->tasks);
    else
        say(p, "baseline", RESULT_SKIPPED,
            "%" PRId64 " of %d tasks of the stable version are in: %.*s says nothing before",
            p->history_n, HISTORY_MIN, STR_ARG(name));
}

/* Arms of few units differ by chance, and each that is dear or hard counts for many. */
static void check_units(Preflight *p)
{
    const char *what = p->spec->unit == ROUTE_BY_USER ? "users" : "tenants";
    if (p->spec->unit != ROUTE_BY_USER && p->spec->unit != ROUTE_BY_TENANT)
        say(p, "units", RESULT_SKIPPED, "they are neither users nor tenants");
    else if (p->units >= PREFLIGHT_UNITS_MIN)
        say(p, "units", RESULT_PASSED,
            "%" PRId64 " %s in the stable version's last %" PRId64 " tasks", p->units, what,
            p->units_tasks);
    else
        say(p, "units", RESULT_WARNED,
            "%" PRId64 " %s in the stable version's last %" PRId64 " tasks: with fewer than %d the "
            "arms are uneven, and a decision takes long",
            p->units, what, p->units_tasks, PREFLIGHT_UNITS_MIN);
}

static void check_evaluation(Preflight *p)
{
    int64_t wanted = p->spec->evaluation_tasks;
    double least = p->spec->evaluation_at_least;
    if (wanted == 0) say(p, "evaluation", RESULT_SKIPPED, "the rollout asks for none");
    else if (p->scores < wanted)
        say(p, "evaluation", RESULT_FAILED, "%" PRId64 " of %" PRId64 " scored tasks are there",
            p->scores, wanted);
    else
        say(p, "evaluation", p->mean >= least ? RESULT_PASSED : RESULT_FAILED,
            "the last %" PRId64 " scored tasks have %.3f, at least %.3f is asked for", p->scores,
            p->mean, least);
}

static int checks_write(Preflight *p, ControlChecked *ret)
{
    static const char *const names[RESULT_N_] = { "passed", "failed", "skipped", "warned" };
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, CHECKS_BYTES_MAX);
    JsonOut out = json_out(&text);
    json_out_array(&out);
    for (size_t i = 0; i < p->n; i++) {
        const Check *check = &p->checks[i];
        if (check->result == RESULT_FAILED && str_empty(ret->why)) ret->why = check->detail;
        json_out_object(&out);
        json_out_kcstr(&out, "name", check->name);
        json_out_kcstr(&out, "result", names[check->result]);
        json_out_kstr(&out, "detail", check->detail);
        json_out_object_end(&out);
    }
    json_out_array_end(&out);
    ret->checks = arena_str(&p->arena, buf_str(&text));
    ret->passed = !p->failed;
    return json_out_ok(&out) && ret->checks.ptr ? 0 : -ENOMEM;
}

typedef struct {
    Str id;
    ControlChecked checked;
    Arena *arena;
    RolloutRow *row;
} DoneJob;

static int get_job(Db *db, void *arg)
{
    DoneJob *job = arg;
    return rollout_get(db, job->id, job->arena, job->row);
}

static int done_job(Db *db, void *arg)
{
    DoneJob *job = arg;
    return control_checked(db, job->id, &job->checked, job->arena, job->row);
}

static int check_all_wait(Preflight *p)
{
    int r = store_read_wait(queue_store(p->options->queue), load_job, p);
    if (r == 0) r = work_wait(stored_work, p);
    if (r == 0 && !p->failed) r = check_models_wait(p);
    if (r == 0 && !p->failed) check_baseline(p);
    if (r == 0 && !p->failed) check_units(p);
    if (r == 0 && !p->failed) check_evaluation(p);
    return r;
}

int preflight_run_wait(const PreflightOptions *options, Str rollout_id, Arena *arena,
                       RolloutRow *ret)
{
    Store *store = queue_store(options->queue);
    CLEANUP(freep) RolloutSpec *spec = xcalloc(1, sizeof(*spec));
    CLEANUP(preflight_deinit)
    Preflight p = { .options = options, .spec = spec, .now_ms = queue_now_ms(options->queue) };
    arena_init(&p.arena, WORK_BYTES_MAX);
    DoneJob job = { .id = rollout_id, .arena = &p.arena, .row = &p.row };
    int r = store_read_wait(store, get_job, &job);
    job.arena = arena;
    job.row = ret;
    if (r == 0 && p.row.state.state == ROLLOUT_PREFLIGHT) r = check_all_wait(&p);
    if (r == 0) r = checks_write(&p, &job.checked);
    job.checked.now_ms = queue_now_ms(options->queue);
    return r == 0 ? store_call_wait(store, done_job, &job) : r;
}

typedef struct {
    int64_t after_seq;
    Arena *arena;
    RolloutRow *rows;
    size_t n;
} StaleJob;

static int stale_job(Db *db, void *arg)
{
    StaleJob *job = arg;
    return rollout_list_active(db, job->after_seq, job->arena, &job->rows, &job->n);
}

static bool is_stale(const RolloutRow *row, int64_t now_ms)
{
    return row->state.state == ROLLOUT_PREFLIGHT &&
           now_ms - row->state.state_since_ms >= PREFLIGHT_STALE_MS;
}

/* Returns 0, whatever becomes of them, or -ECANCELED. */
static int check_stale_wait(const PreflightOptions *options, const StaleJob *page, int64_t now_ms)
{
    for (size_t i = 0; i < page->n; i++) {
        const RolloutRow *row = &page->rows[i];
        RolloutRow after;
        if (!is_stale(row, now_ms)) continue;
        int r = preflight_run_wait(options, row->id, page->arena, &after);
        if (r == -ECANCELED) return r;
        if (r != 0)
            LOG_ERROR("a rollout was not checked", LOG_STR("rollout", row->id),
                      LOG_STR("agent", row->agent), LOG_CSTR("why", diag_text_or(r)));
    }
    return 0;
}

int preflight_stale_wait(const PreflightOptions *options, int64_t now_ms)
{
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, WORK_BYTES_MAX);
    StaleJob page = { .arena = &arena };
    do {
        arena_clear(&arena);
        int r = store_read_wait(queue_store(options->queue), stale_job, &page);
        if (r == 0) r = check_stale_wait(options, &page, now_ms);
        if (r != 0) return r;
        if (page.n > 0) page.after_seq = page.rows[page.n - 1].seq;
    } while (page.n == ROLLOUT_LIST_MAX);
    return 0;
}
