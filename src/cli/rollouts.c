/* rollout list, get, watch, promote, gate, pause, resume, abort. */
#include <math.h>
#include <stdio.h>

#include "base/buf.h"
#include "cli/client.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "sys/clock.h"
#include "sys/fiber.h"

#define WATCH_EVERY_MS 500
#define GATE_BODY_BYTES_MAX 4096
#define WATCH_MS (INT64_C(24) * 3600 * 1000)

static Str member(const Json *v, const char *key)
{
    return json_str(json_get(v, key));
}

static Str rollout_path(Client *client, const char *verb)
{
    return client_printf(client, "/api/rollouts/%.*s%s%s",
                         STR_ARG(client_encoded(client, client->in->args[0])), *verb ? "/" : "",
                         verb);
}

static int rollout_list_body(Client *client)
{
    static const char *const names[] = { "ROLLOUT", "AGENT",   "VERSION", "STATE",
                                         "WEIGHT",  "CHANGED", "WHY",     NULL };
    ClientAnswer answer;
    Table table;
    const char *agent = flag(client->in, "agent");
    Str path = client_printf(client, "/api/rollouts?active=%s%s%.*s",
                             flag_given(client->in, "active") ? "true" : "false",
                             agent ? "&agent=" : "",
                             STR_ARG(agent ? client_encoded(client, agent) : STR("")));
    int r = client_call_wait(client, "GET", path, STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output == OUTPUT_JSON) client_print_json(&answer);
    if (client->in->output == OUTPUT_JSONL) client_print_jsonl(&answer, "rollouts");
    if (client->in->output != OUTPUT_TABLE) return EXIT_OK;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(answer.json, "rollouts")); json_next(&it);)
        table_add(
            &table,
            (Str[]){ member(it.value, "rolloutId"), member(it.value, "agent"),
                     str_sub(member(it.value, "versionId"), 0, 12), member(it.value, "state"),
                     client_printf(client, "%g%%", json_f64_or(json_get(it.value, "weight"), 0)),
                     str_sub(member(it.value, "changedAt"), 0, 19), member(it.value, "why") });
    table_print(&table);
    return EXIT_OK;
}

static Str number_text(Client *client, const Json *v)
{
    if (json_type(v) == JSON_NULL || !v) return STR("-");
    return client_printf(client, "%.3f", json_f64_or(v, 0));
}

/* "42 s", "3.5 min", "2.1 h" */
static Str span_text(Client *client, double seconds)
{
    if (seconds < 120) return client_printf(client, "%.0f s", seconds);
    if (seconds < 7200) return client_printf(client, "%.1f min", seconds / 60);
    return client_printf(client, "%.1f h", seconds / 3600);
}

static void end_text(char out[32], double v, bool ratio)
{
    if (ratio) snprintf(out, 32, "%+.0f%%", 100 * v);
    else snprintf(out, 32, "%+.3f", v);
}

/* "-0.004 .. +0.012", "-12% .. +8%"; an end beyond what is looked at is left out. */
static Str interval_text(Client *client, const Json *v)
{
    double from = json_f64_or(json_get(v, "from"), NAN), to = json_f64_or(json_get(v, "to"), NAN);
    bool ratio = str_eq(member(v, "of"), STR("ratio"));
    char ends[2][32] = { "", "" };
    if (isnan(from) && isnan(to)) return STR("-");
    if (!isnan(from)) end_text(ends[0], from, ratio);
    if (!isnan(to)) end_text(ends[1], to, ratio);
    return client_printf(client, "%s .. %s", ends[0], ends[1]);
}

static void print_left(Client *client, const Json *v)
{
    double units = json_f64_or(json_get(v, "expectedUnitsLeft"), 0);
    double seconds = json_f64_or(json_get(v, "expectedSecondsLeft"), -1);
    if (!str_eq(member(v, "state"), STR("step"))) return;
    if (units > 0) printf("about %.0f more units until this step is decided", units);
    if (units > 0 && seconds >= 0)
        printf(": %.*s at this pace", STR_ARG(span_text(client, seconds)));
    if (units > 0) putchar('\n');
}

static void print_gates(const Json *gates)
{
    for (JsonIter it = json_iter(gates); json_next(&it);)
        printf("gate %.*s of step %" PRId64 " is %s\n", STR_ARG(member(it.value, "name")),
               json_i64_or(json_get(it.value, "step"), 0),
               json_bool(json_get(it.value, "open"), false) ? "open" : "closed");
}

/* The stable version, when it is left. */
static void print_stable(const Json *stable)
{
    Str state = member(stable, "state");
    if (!stable || str_eq(state, STR("serving"))) return;
    printf("stable %.12s is %.*s", member(stable, "versionId").ptr, STR_ARG(state));
    if (str_eq(state, STR("draining")))
        printf(": %" PRId64 " queued, %" PRId64 " running",
               json_i64_or(json_get(stable, "queued"), 0),
               json_i64_or(json_get(stable, "running"), 0));
    putchar('\n');
}

/* "5% for at least 10.0 min, 100%" */
static void print_steps(Client *client, const Json *v)
{
    const Json *seconds = json_get(v, "stepSeconds");
    size_t i = 0;
    printf("steps: ");
    for (JsonIter it = json_iter(json_get(v, "steps")); json_next(&it); i++) {
        double least = json_f64_or(json_at(seconds, i), 0);
        printf("%s%g%%", i > 0 ? ", " : "", json_f64_or(it.value, 0));
        if (least > 0) printf(" for at least %.*s", STR_ARG(span_text(client, least)));
    }
    printf("\n");
}

static void print_rollout(Client *client, const Json *v)
{
    static const char *const names[] = { "METRIC",         "HARM STABLE",
                                         "HARM CANARY",    "CANARY IS WORSE BY",
                                         "LOG E ROLLBACK", "LOG E PROMOTE",
                                         "PROVED",         NULL };
    Table table;
    const Json *units = json_get(v, "units");
    printf("%.*s  %.*s  %.12s at %g%%\n%.*s\n", STR_ARG(member(v, "agent")),
           STR_ARG(member(v, "state")), member(v, "versionId").ptr,
           json_f64_or(json_get(v, "weight"), 0), STR_ARG(member(v, "why")));
    printf("compared: %" PRId64 " stable units, %" PRId64 " canary units\n",
           json_i64_or(json_get(units, "stable"), 0), json_i64_or(json_get(units, "canary"), 0));
    print_steps(client, v);
    print_stable(json_get(v, "stable"));
    print_left(client, v);
    print_gates(json_get(v, "gates"));
    for (JsonIter it = json_iter(json_get(v, "preflight")); json_next(&it);)
        if (!str_eq(member(it.value, "result"), STR("skipped")))
            printf("%.*s %.*s: %.*s\n", STR_ARG(member(it.value, "result")),
                   STR_ARG(member(it.value, "name")), STR_ARG(member(it.value, "detail")));
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(v, "metrics")); json_next(&it);)
        table_add(&table, (Str[]){ it.key, number_text(client, json_get(it.value, "harmStable")),
                                   number_text(client, json_get(it.value, "harmCanary")),
                                   interval_text(client, json_get(it.value, "interval")),
                                   number_text(client, json_get(it.value, "logERollback")),
                                   number_text(client, json_get(it.value, "logEPromote")),
                                   json_bool(json_get(it.value, "proved"), false) ? STR("yes")
                                                                                  : STR("no") });
    table_print(&table);
}

static int show(Client *client, const ClientAnswer *answer)
{
    if (client->in->output != OUTPUT_TABLE) client_print_json(answer);
    else print_rollout(client, answer->json);
    return EXIT_OK;
}

static int rollout_get_body(Client *client)
{
    ClientAnswer answer;
    int r = client_call_wait(client, "GET", rollout_path(client, ""), STR_NULL, NULL, &answer);
    return r == EXIT_OK ? show(client, &answer) : r;
}

/* Whether the state is an end, and the exit status of it. */
static bool is_over(Str state, int *ret_status)
{
    static const char *const bad[] = { "rolled_back", "aborted", "superseded" };
    *ret_status = EXIT_OK;
    if (str_eq(state, STR("completed"))) return true;
    for (size_t i = 0; i < ARRAY_N(bad); i++) {
        if (!str_eq(state, str_of(bad[i]))) continue;
        *ret_status = EXIT_GATE;
        return true;
    }
    return false;
}

static void print_news(Client *client, const Json *v, char *last, size_t size)
{
    double seconds = json_f64_or(json_get(v, "expectedSecondsLeft"), -1);
    char now[512];
    snprintf(now, sizeof(now), "%.*s  %g%%  %.*s", STR_ARG(member(v, "state")),
             json_f64_or(json_get(v, "weight"), 0), STR_ARG(member(v, "why")));
    if (strcmp(now, last) == 0) return;
    fprintf(stderr, "%s", now);
    if (seconds > 0) fprintf(stderr, " (about %.*s left)", STR_ARG(span_text(client, seconds)));
    fputc('\n', stderr);
    str_copy(last, size, str_of(now));
}

static int rollout_watch_body(Client *client)
{
    char last[512] = "";
    int64_t span = client->in->timeout_ms ? client->in->timeout_ms : WATCH_MS;
    int64_t deadline = deadline_after(span);
    Str path = rollout_path(client, "");
    char kept[128];
    if (!str_copy(kept, sizeof(kept), path)) return fail(EXIT_USAGE, "no such rollout");
    for (;;) {
        ClientAnswer answer;
        int status, r = client_call_wait(client, "GET", str_of(kept), STR_NULL, NULL, &answer);
        if (r != EXIT_OK) return r;
        print_news(client, answer.json, last, sizeof(last));
        if (is_over(member(answer.json, "state"), &status)) {
            (void)show(client, &answer);
            return status;
        }
        if (clock_mono_ms() >= deadline) return EXIT_PENDING;
        arena_clear(&client->arena);
        if (fiber_sleep_wait(WATCH_EVERY_MS) != 0) return EXIT_INTERRUPTED;
    }
}

/* --- its shadow ------------------------------------------------------------------------------- */

static int64_t count_of(const Json *v, const char *arm, const char *state)
{
    return json_i64_or(json_get(json_get(v, arm), state), 0);
}

static void print_pairs(const Json *v, const char *arm, const char *what)
{
    printf("%s: %" PRId64 " compared, %" PRId64 " diverged, %" PRId64 " dropped, %" PRId64
           " under way, %" PRId64 " waiting\n",
           what, count_of(v, arm, "compared"), count_of(v, arm, "diverged"),
           count_of(v, arm, "dropped"), count_of(v, arm, "started"), count_of(v, arm, "chosen"));
}

static Str share_text(Client *client, const Json *v)
{
    if (json_type(v) == JSON_NULL || !v) return STR("-");
    return client_printf(client, "%.0f%%", 100 * json_f64_or(v, 0));
}

static Str signed_text(Client *client, const Json *v)
{
    if (json_type(v) == JSON_NULL || !v) return STR("-");
    return client_printf(client, "%+.3f", json_f64_or(v, 0));
}

static void print_shadow(Client *client, const Json *v)
{
    static const char *const names[] = {
        "METRIC",         "HARM PRODUCTION", "HARM CANDIDATE", "DIFFERENCE", "SELF",
        "LOG E ROLLBACK", "LOG E PROMOTE",   "PROVED",         NULL
    };
    Table table;
    const Json *cost = json_get(v, "cost");
    printf("%.*s  %.*s  %.12s in the shadow of %.12s: %.*s\n%.*s\n", STR_ARG(member(v, "agent")),
           STR_ARG(member(v, "state")), member(v, "versionId").ptr,
           member(v, "stableVersionId").ptr, STR_ARG(member(v, "result")),
           STR_ARG(member(v, "why")));
    print_pairs(v, "candidatePairs", "pairs");
    print_pairs(v, "selfPairs", "production with itself");
    printf("answers differ %.*s, self-noise %.*s; ways through the tools differ %.*s, self-noise "
           "%.*s\n",
           STR_ARG(share_text(client, json_get(v, "differs"))),
           STR_ARG(share_text(client, json_get(v, "selfDiffers"))),
           STR_ARG(share_text(client, json_get(v, "toolPathDiffers"))),
           STR_ARG(share_text(client, json_get(v, "selfToolPathDiffers"))));
    printf("spent %.*s of %.*s USD\n", STR_ARG(member(cost, "spentUsd")),
           STR_ARG(member(cost, "budgetUsd")));
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(v, "metrics")); json_next(&it);) {
        const Json *pairs = json_get(it.value, "candidate");
        table_add(
            &table,
            (Str[]){ it.key, number_text(client, json_get(pairs, "harmProduction")),
                     number_text(client, json_get(pairs, "harmShadow")),
                     signed_text(client, json_get(pairs, "difference")),
                     signed_text(client, json_get(json_get(it.value, "self"), "difference")),
                     number_text(client, json_get(it.value, "logERollback")),
                     number_text(client, json_get(it.value, "logEPromote")),
                     json_bool(json_get(it.value, "proved"), false) ? STR("yes") : STR("no") });
    }
    table_print(&table);
}

static int rollout_shadow_body(Client *client)
{
    ClientAnswer answer;
    Str path = rollout_path(client, "shadow");
    int r = client_call_wait(client, "GET", path, STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output == OUTPUT_TABLE) print_shadow(client, answer.json);
    else if (client->in->output == OUTPUT_JSON) client_print_json(&answer);
    else client_print_jsonl(&answer, "pairs");
    return EXIT_OK;
}

int rollout_shadow_run(const Invocation *in)
{
    return client_main(in, rollout_shadow_body);
}

/* --- its log ---------------------------------------------------------------------------------- */

static int log_print(Client *client, Str path, const char *list)
{
    static const char *const names[] = { "AT", "STATE", "WEIGHT", "VERDICT", "WHY", NULL };
    ClientAnswer answer;
    Table table;
    int r = client_call_wait(client, "GET", path, STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output == OUTPUT_JSON) client_print_json(&answer);
    if (client->in->output == OUTPUT_JSONL) client_print_jsonl(&answer, list);
    if (client->in->output != OUTPUT_TABLE) return EXIT_OK;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(answer.json, list)); json_next(&it);) {
        const Json *rollout = json_get(json_get(it.value, "data"), "rollout");
        const Json *v = rollout ? rollout : it.value;
        Str weight = rollout ? client_printf(client, "%g%%",
                                             json_f64_or(json_get(rollout, "weight"), 0))
                             : STR("");
        table_add(&table, (Str[]){ str_sub(member(it.value, "at"), 0, 23), member(v, "state"),
                                   weight, member(v, "verdict"), member(v, "why") });
    }
    table_print(&table);
    return EXIT_OK;
}

static int rollout_log_body(Client *client)
{
    const char *limit = flag(client->in, "limit");
    Str id = client_encoded(client, client->in->args[0]);
    if (!limit) limit = "50";
    if (!flag_given(client->in, "ticks"))
        return log_print(
            client, client_printf(client, "/api/events?subject=%.*s&limit=%s", STR_ARG(id), limit),
            "events");
    return log_print(client,
                     client_printf(client, "/api/rollouts/%.*s/ticks?limit=%s", STR_ARG(id), limit),
                     "ticks");
}

int rollout_log_run(const Invocation *in)
{
    return client_main(in, rollout_log_body);
}

/* --- what its evidence was made of ------------------------------------------------------------ */

static int rollout_observations_body(Client *client)
{
    Str id = client_encoded(client, client->in->args[0]), cursor = STR("");
    do {
        ClientAnswer answer;
        Str path = client_printf(client, "/api/rollouts/%.*s/observations?cursor=%.*s", STR_ARG(id),
                                 STR_ARG(cursor));
        int r = client_call_wait(client, "GET", path, STR_NULL, NULL, &answer);
        if (r != EXIT_OK) return r;
        client_print_jsonl(&answer, "observations");
        cursor = json_str(json_get(answer.json, "nextCursor"));
    } while (!str_empty(cursor));
    return EXIT_OK;
}

int rollout_observations_run(const Invocation *in)
{
    return client_main(in, rollout_observations_body);
}

/* --- steering it ------------------------------------------------------------------------------ */

static int command(Client *client, const char *verb, Str body)
{
    ClientAnswer answer;
    int r = client_call_wait(client, "POST", rollout_path(client, verb), body, NULL, &answer);
    return r == EXIT_OK ? show(client, &answer) : r;
}

static int rollout_promote_body(Client *client)
{
    return command(client, "promote",
                   flag_given(client->in, "full") ? STR("{\"full\":true}") : STR("{}"));
}

static int rollout_gate_body(Client *client)
{
    CLEANUP(buf_deinit) Buf body;
    const char *gate = flag(client->in, "name");
    buf_init(&body, GATE_BODY_BYTES_MAX);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    if (gate) json_out_kcstr(&out, "gate", gate);
    json_out_object_end(&out);
    if (!json_out_ok(&out)) return fail(EXIT_USAGE, "no gate has such a long name");
    return command(client, "gate", buf_str(&body));
}

static int rollout_pause_body(Client *client)
{
    return command(client, "pause", STR("{}"));
}

static int rollout_resume_body(Client *client)
{
    return command(client, "resume", STR("{}"));
}

static int rollout_abort_body(Client *client)
{
    return command(client, "abort", STR("{}"));
}

int rollout_list_run(const Invocation *in)
{
    return client_main(in, rollout_list_body);
}

int rollout_get_run(const Invocation *in)
{
    return client_main(in, rollout_get_body);
}

int rollout_watch_run(const Invocation *in)
{
    return client_main(in, rollout_watch_body);
}

int rollout_promote_run(const Invocation *in)
{
    return client_main(in, rollout_promote_body);
}

int rollout_gate_run(const Invocation *in)
{
    return client_main(in, rollout_gate_body);
}

int rollout_pause_run(const Invocation *in)
{
    return client_main(in, rollout_pause_body);
}

int rollout_resume_run(const Invocation *in)
{
    return client_main(in, rollout_resume_body);
}

int rollout_abort_run(const Invocation *in)
{
    return client_main(in, rollout_abort_body);
}
