/* doctor: checks the installation and prints each problem with its fix. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/diag.h"
#include "cli/config.h"
#include "cli/verbs.h"

#define DISK_BYTES_WANTED (INT64_C(1) << 30)

static int problems;

static void ok(const char *what, const char *detail)
{
    printf("ok       %-14s %s\n", what, detail);
}

static void problem(const char *what, const char *detail, const char *fix)
{
    problems++;
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

int doctor_run(const Invocation *in)
{
    Config config;
    config_init(&config, CONFIG_DEV);
    check_config(in, &config);
    check_callers(&config);
    check_data(flag(in, "data") ? flag(in, "data") : config.data);
    check_limits();
    check_program("python3", "Python agents", "apt-get install python3");
    check_program("node", "Node agents", "apt-get install nodejs");
    config_deinit(&config);
    if (problems == 0) return EXIT_OK;
    return fail(EXIT_FAILED, "%d problem%s", problems, problems == 1 ? "" : "s");
}
