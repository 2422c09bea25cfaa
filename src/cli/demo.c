/* demo canary: ships a version that is worse on purpose, drives traffic, and shows how it is rolled
 * back; or one that is no worse, and how it is promoted. Simulated models only: it costs
 * nothing. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/diag.h"
#include "cli/file.h"
#include "cli/upload.h"
#include "cli/verbs.h"
#include "sys/clock.h"
#include "sys/fiber.h"

#define AGENT "canary-demo"
#define DEMO_MS 60000
#define BEAT_MS 100
#define TASKS_A_BEAT 3
#define SHOW_BEATS 10
#define WARM_TASKS 24
#define BAR_WIDTH 20
#define ID_MAX 80

static const char manifest_text[] =
    "apiVersion: gantry/v1\n"
    "kind: Agent\n"
    "metadata: {name: " AGENT "}\n"
    "spec:\n"
    "  runtime: builtin\n"
    "  prompt: prompt.md\n"
    "  model: sim/assistant\n"
    "  limits: {secondsPerTask: 10}\n"
    "  retry: {maxAttempts: 1}\n"
    "  rollout:\n"
    "    steps: [{weight: 25, minTasks: 20}, {weight: 50, minTasks: 20}, {weight: 100}]\n"
    "    rollbackOn: {errorRate: 0.1, costPerTask: 0.5}\n"
    "    deadline: 5m\n"
    "    onDeadline: rollback\n";

static const char stable_prompt[] = "Answer the customer in one sentence.\n";
static const char good_prompt[] = "Answer the customer in one sentence, and politely.\n";
static const char bad_prompt[] =
    "Answer the customer in one sentence.\n"
    "\n"
    "This version is worse on purpose: its model refuses 45 of 100 requests.\n"
    "[[sim mode=fail status=400 rate=45]]\n";

typedef struct {
    Client *client;
    bool good;
    char dir[64];
    char stable[ID_MAX], canary[ID_MAX], rollout[ID_MAX];
    int64_t began_ms, deadline_ms, submitted;
    char last[600]; /* what was shown last */
} Demo;

static Str member(const Json *v, const char *key)
{
    return json_str(json_get(v, key));
}

static double number(const Json *v, const char *key)
{
    return json_f64_or(json_get(v, key), 0);
}

/* --- versions --------------------------------------------------------------------------------- */

static int write_file(Demo *d, const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", d->dir, name);
    int r = file_write(path, str_of(text), 0644, true);
    return r < 0 ? fail(EXIT_FAILED, "%s", diag_text_or(r)) : EXIT_OK;
}

static void remove_files(const Demo *d)
{
    static const char *const names[] = { "agent.yaml", "prompt.md" };
    char path[128];
    for (size_t i = 0; i < ARRAY_N(names); i++) {
        snprintf(path, sizeof(path), "%s/%s", d->dir, names[i]);
        unlink(path);
    }
    rmdir(d->dir);
}

/* The stable version, at which the agent is routed, and the one to come. */
static int make_versions_wait(Demo *d)
{
    Deployed deployed;
    ClientAnswer answer;
    int r = write_file(d, "agent.yaml", manifest_text);
    if (r == EXIT_OK) r = write_file(d, "prompt.md", stable_prompt);
    if (r == EXIT_OK) r = upload_and_route_wait(d->client, d->dir, false, &deployed);
    if (r != EXIT_OK) return r;
    str_copy(d->stable, sizeof(d->stable), deployed.version_id);
    r = write_file(d, "prompt.md", d->good ? good_prompt : bad_prompt);
    if (r == EXIT_OK)
        r = version_upload_wait(d->client, d->dir, d->good ? "no worse" : "worse on purpose",
                                &answer);
    if (r == EXIT_OK) str_copy(d->canary, sizeof(d->canary), member(answer.json, "versionId"));
    return r;
}

static int ship_wait(Demo *d)
{
    ClientAnswer answer;
    Str body = client_printf(d->client, "{\"versionId\":\"%s\",\"strategy\":\"canary\"}",
                             d->canary);
    int r = client_call_wait(d->client, "POST", STR("/api/agents/" AGENT "/rollouts"), body, NULL,
                             &answer);
    if (r != EXIT_OK) return r;
    const Json *rollout = json_get(answer.json, "rollout");
    str_copy(d->rollout, sizeof(d->rollout), member(rollout, "rolloutId"));
    printf("\nshipped %.12s as a canary: rollout %s\n", d->canary, d->rollout);
    for (JsonIter it = json_iter(json_get(rollout, "preflight")); json_next(&it);)
        if (str_eq(member(it.value, "result"), STR("passed")))
            printf("  checked  %.*s: %.*s\n", STR_ARG(member(it.value, "name")),
                   STR_ARG(member(it.value, "detail")));
    return EXIT_OK;
}

/* --- traffic ---------------------------------------------------------------------------------- */

static int submit_wait(Demo *d, Str *ret_task)
{
    ClientAnswer answer;
    /* never the same question twice: the simulator answers the same in the same way */
    Str body = client_printf(d->client,
                             "{\"agent\":\"" AGENT "\",\"input\":\"Question %" PRId64 "-%" PRId64
                             ": where is my order?\",\"sessionId\":\"demo-%" PRId64 "-%" PRId64
                             "\"}",
                             d->began_ms, d->submitted, d->began_ms, d->submitted);
    d->submitted++;
    int r = client_call_wait(d->client, "POST", STR("/agent/execute"), body, NULL, &answer);
    if (r == EXIT_OK && ret_task) *ret_task = member(answer.json, "taskId");
    return r;
}

/* So that there is something to compare costs with. */
static int warm_up_wait(Demo *d)
{
    Str task;
    ClientAnswer answer;
    int r = EXIT_OK;
    printf("%d tasks for the stable version %.12s\n", WARM_TASKS, d->stable);
    for (int i = 0; i < WARM_TASKS && r == EXIT_OK; i++) r = submit_wait(d, &task);
    if (r != EXIT_OK) return r;
    return client_call_wait(d->client, "GET",
                            client_printf(d->client, "/agent/tasks/%.*s?wait=30s", STR_ARG(task)),
                            STR_NULL, NULL, &answer);
}

/* --- what is shown ---------------------------------------------------------------------------- */

static const char *paint(const Demo *d, const char *code)
{
    return d->client->in->color ? code : "";
}

static void print_arm(const Demo *d, const char *branch, const char *name, const char *id,
                      double weight, double units, const Json *harm)
{
    char bar[BAR_WIDTH + 1];
    int filled = (int)(weight / 100 * BAR_WIDTH + 0.5);
    for (int i = 0; i < BAR_WIDTH; i++) bar[i] = i < filled ? '#' : '.';
    bar[BAR_WIDTH] = 0;
    printf("%s %-6s %.12s %s%s%s %3.0f%%  %4.0f compared", branch, name, id, paint(d, "\033[36m"),
           bar, paint(d, "\033[0m"), weight, units);
    double failed = json_f64_or(harm, -1);
    if (failed >= 0) printf(", %4.1f%% failed", 100 * failed);
    putchar('\n');
}

/* The tree, whenever it has changed. */
static void show(Demo *d, const Json *v)
{
    char now[sizeof(d->last)];
    const Json *units = json_get(v, "units");
    const Json *errors = json_get(json_get(v, "metrics"), "errorRate");
    double weight = number(v, "weight");
    bool completed = str_eq(member(v, "state"), STR("completed"));
    snprintf(now, sizeof(now), "%.*s %g %g %g", STR_ARG(member(v, "why")), weight,
             number(units, "stable"), number(units, "canary"));
    if (strcmp(now, d->last) == 0) return;
    str_copy(d->last, sizeof(d->last), str_of(now));
    if (completed) weight = 100;
    printf("\n%5.1f s  " AGENT "  %.*s\n", (double)(clock_mono_ms() - d->began_ms) / 1000,
           STR_ARG(member(v, "state")));
    print_arm(d, "  |--", "stable", d->stable, 100 - weight, number(units, "stable"),
              json_get(errors, "harmStable"));
    print_arm(d, "  `--", "canary", d->canary, weight, number(units, "canary"),
              json_get(errors, "harmCanary"));
    printf("      against it: log E %.2f, for it: %.2f (3.00 decides)\n",
           number(errors, "logERollback"), number(errors, "logEPromote"));
    const char *color = str_eq(member(v, "verdict"), STR("rollback"))  ? "\033[31m"
                        : str_eq(member(v, "verdict"), STR("advance")) ? "\033[32m"
                                                                       : "\033[33m";
    printf("      %s%.*s%s: %.*s\n", paint(d, color), STR_ARG(member(v, "verdict")),
           paint(d, "\033[0m"), STR_ARG(member(v, "why")));
    fflush(stdout);
}

/* --- together --------------------------------------------------------------------------------- */

static bool is_over(Str state)
{
    static const char *const ends[] = { "completed", "rolled_back", "aborted", "superseded" };
    for (size_t i = 0; i < ARRAY_N(ends); i++)
        if (str_eq(state, str_of(ends[i]))) return true;
    return false;
}

static int conclude(const Demo *d, Str state)
{
    bool wanted = str_eq(state, d->good ? STR("completed") : STR("rolled_back"));
    printf("\n%.*s after %.1f s and %" PRId64 " tasks.\n", STR_ARG(state),
           (double)(clock_mono_ms() - d->began_ms) / 1000, d->submitted);
    if (wanted && !d->good)
        printf("Everything goes to %.12s again, queued tasks too. Nobody had to watch.\n",
               d->stable);
    if (wanted && d->good) printf("%.12s is the stable version now.\n", d->canary);
    printf("Why, step by step: gantry rollout log %s --ticks\n", d->rollout);
    return wanted ? EXIT_OK
                  : fail(EXIT_FAILED, "this demo should have ended %s",
                         d->good ? "completed" : "rolled_back");
}

/* A beat: some tasks, and a look now and then. *ret_over: the rollout has ended. */
static int beat_wait(Demo *d, int beat, bool *ret_over, int *ret_status)
{
    ClientAnswer answer;
    int r = EXIT_OK;
    arena_clear(&d->client->arena);
    for (int i = 0; i < TASKS_A_BEAT && r == EXIT_OK; i++) r = submit_wait(d, NULL);
    if (r != EXIT_OK || beat % SHOW_BEATS != 0) return r;
    Str path = client_printf(d->client, "/api/rollouts/%s", d->rollout);
    r = client_call_wait(d->client, "GET", path, STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    show(d, answer.json);
    *ret_over = is_over(member(answer.json, "state"));
    if (*ret_over) *ret_status = conclude(d, member(answer.json, "state"));
    return EXIT_OK;
}

static int drive_wait(Demo *d)
{
    bool over = false;
    int status = EXIT_OK;
    for (int beat = 1; !over; beat++) {
        int r = beat_wait(d, beat, &over, &status);
        if (r != EXIT_OK) return r;
        if (!over && clock_mono_ms() >= d->deadline_ms)
            return fail(EXIT_PENDING, "not decided yet: gantry rollout watch %s", d->rollout);
        if (!over && fiber_sleep_wait(BEAT_MS) != 0) return EXIT_INTERRUPTED;
    }
    return status;
}

static int demo_body(Client *client)
{
    int64_t span = client->in->timeout_ms ? client->in->timeout_ms : DEMO_MS;
    Demo d = { .client = client,
               .good = flag_given(client->in, "good"),
               .began_ms = clock_mono_ms(),
               .deadline_ms = deadline_after(span) };
    const char *tmp = getenv("TMPDIR");
    snprintf(d.dir, sizeof(d.dir), "%.40s/gantry-demo-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(d.dir)) return fail(EXIT_FAILED, "%s: cannot make a directory there", d.dir);
    int r = make_versions_wait(&d);
    remove_files(&d);
    if (r == EXIT_OK) r = warm_up_wait(&d);
    if (r == EXIT_OK) r = ship_wait(&d);
    return r == EXIT_OK ? drive_wait(&d) : r;
}

int demo_canary_run(const Invocation *in)
{
    return client_main(in, demo_body);
}
