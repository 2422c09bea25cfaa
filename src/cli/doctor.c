/* doctor: checks the installation and prints each problem with its fix. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/diag.h"
#include "cli/client.h"
#include "cli/config.h"
#include "cli/verbs.h"
#include "codec/json.h"
#include "sys/clock.h"

#define DISK_BYTES_WANTED (INT64_C(1) << 30)
#define SERVER_ASKED_MS 5000

static int problems;
static Output output;
static bool listed; /* a check stands in the JSON array already */

/* One check as JSON: in the array of --output json, or a line of its own. */
static void print_json(const char *what, const char *detail, const char *fix)
{
    CLEANUP(buf_deinit) Buf text = { 0 };
    buf_init(&text, 1 << 16);
    JsonOut out = json_out(&text);
    json_out_object(&out);
    json_out_kcstr(&out, "name", what);
    json_out_kbool(&out, "ok", !fix);
    json_out_kcstr(&out, "detail", detail);
    if (fix) json_out_kcstr(&out, "fix", fix);
    json_out_object_end(&out);
    if (output == OUTPUT_JSON) fputs(listed ? "," : "{\"checks\":[", stdout);
    fputs(text.ptr ? text.ptr : "", stdout);
    if (output == OUTPUT_JSONL) putchar('\n');
    listed = true;
}

static void ok(const char *what, const char *detail)
{
    if (output != OUTPUT_TABLE) {
        print_json(what, detail, NULL);
        return;
    }
    printf("ok       %-14s %s\n", what, detail);
}

static void problem(const char *what, const char *detail, const char *fix)
{
    problems++;
    if (output != OUTPUT_TABLE) {
        print_json(what, detail, fix);
        return;
    }
    printf("PROBLEM  %-14s %s\n         %-14s fix: %s\n", what, detail, "", fix);
}

static void check_program(const char *name, const char *what_for, const char *fix)
{
    static const char *const dirs[] = { "/usr/local/bin", "/usr/bin", "/bin" };
    char path[256];
    for (size_t i = 0; i < ARRAY_N(dirs); i++) {
        snprintf(path, sizeof path, "%s/%s", dirs[i], name);
        if (access(path, X_OK) != 0) continue;
        ok(name, path);
        return;
    }
    char detail[256];
    snprintf(detail, sizeof detail, "not found; needed for %s", what_for);
    problem(name, detail, fix);
}

static void check_data(const char *data)
{
    struct statvfs fs;
    char detail[512];
    if (access(data, F_OK) != 0) {
        snprintf(detail, sizeof detail, "%s does not exist yet; it is made at the first start",
                 data);
        ok("data", detail);
        return;
    }
    if (access(data, W_OK | X_OK) != 0) {
        problem("data", data, "give this user write access to it, or name another with --data");
        return;
    }
    if (statvfs(data, &fs) == 0 && (int64_t)fs.f_bavail * (int64_t)fs.f_frsize < DISK_BYTES_WANTED)
        problem("disk", "less than 1 GiB is free in the data directory",
                "free space, or name another with --data");
    else ok("data", data);
}

static void check_limits(void)
{
    long files = sysconf(_SC_OPEN_MAX);
    char detail[128];
    snprintf(detail, sizeof detail, "%ld files at once", files);
    if (files < 1024) problem("files", detail, "ulimit -n 4096, or LimitNOFILE= in the unit");
    else ok("files", detail);
}

static void check_config(const Invocation *in, Config *config)
{
    int r = config_load(config, flag(in, "config"));
    if (r == 0) r = config_add_providers(config, 0);
    if (r < 0) problem("config", diag_text_or(r), "correct the lines named above");
    else ok("config", config->file.len ? config->file.ptr : "defaults (no gantry.yaml here)");
    bool real = config->gateway.providers_n > 0;
    ok("models",
       real
           ? config_models_text(config).ptr
           : "SIMULATED in dev; set OPENAI_API_KEY, ANTHROPIC_API_KEY or OPENAI_BASE_URL for real ones");
}

/* Model calls at the server's port are for tenants: their keys, or why there are none. */
static void check_callers(const Config *config)
{
    char detail[160];
    size_t n = config->front_keys_n;
    snprintf(detail, sizeof detail, "%zu key%s with role: tenant for model calls at /v1/", n,
             n == 1 ? "" : "s");
    if (n == 0)
        ok("callers",
           "none: `gantry serve` takes no model calls at /v1/ (auth.keys with role: tenant); "
           "`gantry dev` takes those of this machine, as tenant `dev`");
    else if (config->gateway.providers_n == 0)
        problem("callers", detail,
                "name a provider and models for them, as docs/operating.md shows");
    else ok("callers", detail);
}

static int ask_wait(Client *client, const char *path, HttpResponse *ret)
{
    const char *key = client->in->key;
    HttpClientField field = { "x-api-key", str_of(key) };
    HttpCallOptions options = { .url = client_printf(client, "%s%s", client->in->server, path),
                                .fields = &field,
                                .fields_n = key && *key ? 1 : 0,
                                .deadline_ms = deadline_after(SERVER_ASKED_MS) };
    return http_fetch_wait(client->http, &options, CLIENT_ANSWER_BYTES_MAX, &client->arena, ret);
}

static void check_workers(Client *client, Str body)
{
    const Json *answer = NULL;
    size_t n = 0;
    if (json_parse(&client->arena, body, NULL, &answer, NULL) < 0) answer = NULL;
    for (JsonIter it = json_iter(json_get(answer, "workers")); json_next(&it);)
        n += str_eq(json_str(json_get(it.value, "state")), STR("active"));
    if (n == 0)
        problem("workers", "none: tasks stay queued",
                client_printf(client, "gantry worker --server %s", client->in->server).ptr);
    else ok("workers", client_printf(client, "%zu active", n).ptr);
}

/* The server that commands talk to. None is no problem unless somebody has named it. */
static int check_server_wait(Client *client)
{
    const char *url = client->in->server;
    HttpResponse answer;
    bool named = strcmp(url, SERVER_DEFAULT) != 0;
    int r = ask_wait(client, "/readyz", &answer);
    if (r == -ECONNREFUSED && !named)
        ok("server",
           client_printf(client, "none at %s; `gantry dev` or `gantry serve` starts one", url).ptr);
    else if (r != 0)
        problem("server", client_printf(client, "%s: %s", url, diag_text_or(r)).ptr,
                "start it (`gantry serve`), or name another with --server or GANTRY_SERVER");
    else if (answer.status != 200)
        problem("server",
                client_printf(client, "%s: /readyz answers %d: %.*s", url, answer.status,
                              (int)MIN(str_trim(answer.body).len, 200), answer.body.ptr)
                    .ptr,
                "wait for its start, or see its log");
    else ok("server", client_printf(client, "%s is ready", url).ptr);
    if (r != 0 || answer.status != 200 || ask_wait(client, "/api/workers", &answer) != 0)
        return EXIT_OK;
    if (answer.status == 401 || answer.status == 403)
        problem("key", "the server does not take it", "give its key with --key or GANTRY_API_KEY");
    else if (answer.status == 200) check_workers(client, answer.body);
    return EXIT_OK;
}

int doctor_run(const Invocation *in)
{
    Config config;
    output = in->output;
    config_init(&config, CONFIG_DEV);
    check_config(in, &config);
    check_callers(&config);
    check_data(flag(in, "data") ? flag(in, "data") : config.data);
    check_limits();
    check_program("python3", "Python agents", "apt-get install python3");
    check_program("node", "Node agents", "apt-get install nodejs");
    config_deinit(&config);
    if (client_main(in, check_server_wait) != EXIT_OK) problems++;
    if (output == OUTPUT_JSON) puts("]}");
    if (problems == 0) return EXIT_OK;
    return fail(EXIT_FAILED, "%d problem%s", problems, problems == 1 ? "" : "s");
}
