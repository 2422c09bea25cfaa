#include "cli/upload.h"

#include <stdio.h>

#include "base/buf.h"
#include "base/diag.h"
#include "cli/file.h"
#include "codec/gzip.h"
#include "codec/yaml.h"
#include "logic/manifest.h"
#include "store/package.h"
#include "sys/clock.h"
#include "sys/process.h"

#define UPLOAD_BYTES_MAX ((size_t)512 << 20)
#define MISTAKES_MAX 50

static Str member(const Json *v, const char *key)
{
    return json_str(json_get(v, key));
}

/* What is wrong with a manifest that has no name to send it under; as the server would say it. */
static int say_mistakes(Client *client, Str manifest)
{
    CLEANUP(buf_deinit) Buf line = { 0 };
    AgentSpec spec;
    Issue issues[MISTAKES_MAX];
    size_t n = 0;
    buf_init(&line, 65536);
    if (manifest_parse(&client->arena, manifest, &spec, issues, ARRAY_N(issues), &n) < 0)
        return fail(EXIT_FAILED, "%s", diag_text());
    fail(0, "the agent is not valid:");
    for (size_t i = 0; i < n; i++) {
        buf_clear(&line);
        issue_text(&issues[i], STR(PACKAGE_MANIFEST), &line);
        fprintf(stderr, "  %.*s\n", STR_ARG(buf_str(&line)));
    }
    return EXIT_FAILED;
}

/* metadata.name of DIR/agent.yaml; the server checks everything else. */
static int agent_name(Client *client, const char *dir, Str *ret)
{
    Str text;
    const Json *doc = NULL;
    Str path = client_printf(client, "%s/" PACKAGE_MANIFEST, dir);
    int r = file_read(&client->arena, path.ptr, YAML_BYTES_MAX, &text);
    if (r < 0)
        return fail(EXIT_FAILED, "%s; `gantry init %s` makes a new agent there", diag_text(), dir);
    r = yaml_parse(&client->arena, text, &doc, NULL);
    *ret = r < 0 ? STR_NULL : member(json_get(doc, "metadata"), "name");
    return agent_name_ok(*ret) ? EXIT_OK : say_mistakes(client, text);
}

typedef struct {
    const char *dir;
    Buf tar, gzip;
} Packing;

static int pack(void *arg)
{
    Packing *p = arg;
    int r = package_from_dir(p->dir, NULL, &p->tar);
    return r < 0 ? r : gzip_compress(buf_str(&p->tar), &p->gzip);
}

/* The commit that DIR is at, when it is in a git checkout and git is there; else empty. */
static Str commit_of(Client *client, const char *dir)
{
    static const char *const env[] = { "PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/nonexistent",
                                       NULL };
    CLEANUP(process_freep) Process *git = NULL;
    ProcessExit end;
    Str text = STR_NULL;
    const char *argv[] = { "git", "-C", dir, "-c", "safe.directory=*", "rev-parse", "HEAD", NULL };
    if (process_spawn(&(ProcessOptions){ .argv = argv, .env = env }, &git) < 0) return STR_NULL;
    process_close_stdin(git);
    while (stream_fill_wait(process_stdout(git), text.len, deadline_after(5000), &text) == 0) {
    }
    text = str_trim(stream_peek(process_stdout(git)));
    Str commit = text.len == 40 || text.len == 64 ? arena_str(&client->arena, text) : STR_NULL;
    if (process_exit_wait(git, deadline_after(5000), &end) < 0 || end.exit_code != 0 || end.signal)
        return STR_NULL;
    return commit;
}

int version_upload_wait(Client *client, const char *dir, const char *description, ClientAnswer *ret)
{
    Str agent = STR_NULL;
    Packing p = { .dir = dir };
    int r = agent_name(client, dir, &agent);
    if (r != EXIT_OK) return r;
    buf_init(&p.tar, UPLOAD_BYTES_MAX);
    buf_init(&p.gzip, UPLOAD_BYTES_MAX);
    r = work_wait(pack, &p);
    buf_deinit(&p.tar);
    if (r < 0) {
        buf_deinit(&p.gzip);
        return fail(EXIT_FAILED, "%s: %s", dir, diag_text_or(r));
    }
    Str commit = commit_of(client, dir);
    Str path = client_printf(client, "/api/agents/%.*s/versions?commit=%.*s%s%.*s",
                             STR_ARG(client_encoded(client, agent.ptr)), STR_ARG(commit),
                             description ? "&description=" : "",
                             STR_ARG(description ? client_encoded(client, description) : STR_NULL));
    *ret = (ClientAnswer){ 0 };
    r = client_call_wait(client, "POST", path, buf_str(&p.gzip), "application/gzip", ret);
    if (r != EXIT_OK && ret->status == 413)
        fail(0, "%s has %.1f MiB when packed: leave files out with .gantryignore", dir,
             (double)p.gzip.len / (1 << 20));
    buf_deinit(&p.gzip);
    if (r == EXIT_OK) client_say_issues("warning: ", json_get(ret->json, "warnings"));
    return r;
}

static Str first_member(const ClientAnswer *answer, const char *list, const char *key)
{
    for (JsonIter it = json_iter(json_get(answer->json, list)); json_next(&it);)
        return member(it.value, key);
    return STR_NULL;
}

/* Whether the last thing that happened to the routing was a rollback from the version, and when
 * that thing happened. */
static int switched_back_wait(Client *client, Str agent, Str version_id, bool *ret, Str *ret_at)
{
    ClientAnswer answer;
    int r = client_call_wait(
        client, "GET",
        client_printf(client, "/api/events?agent=%.*s&type=version.routed&limit=1", STR_ARG(agent)),
        STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    JsonIter it = json_iter(json_get(answer.json, "events"));
    bool any = json_next(&it);
    const Json *data = any ? json_get(it.value, "data") : NULL;
    *ret = str_eq(member(data, "kind"), STR("rollback")) &&
           str_eq(member(data, "from"), version_id);
    *ret_at = any ? member(it.value, "at") : STR_NULL;
    return EXIT_OK;
}

/* Why new tasks are not to go to a version that is there already; *ret NULL: they are. */
static int left_wait(Client *client, Str agent, Str version_id, const char **ret)
{
    ClientAnswer answer;
    bool back = false;
    Str at;
    int r = switched_back_wait(client, agent, version_id, &back, &at);
    if (r == EXIT_OK)
        r = client_call_wait(client, "GET",
                             client_printf(client, "/api/rollouts?agent=%.*s", STR_ARG(agent)),
                             STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    Str state = first_member(&answer, "rollouts", "state");
    bool own = str_eq(first_member(&answer, "rollouts", "versionId"), version_id) &&
               str_cmp(first_member(&answer, "rollouts", "changedAt"), at) >= 0;
    bool taken_back = str_eq(state, STR("rolled_back")) || str_eq(state, STR("aborted"));
    bool ended = taken_back || str_eq(state, STR("completed")) || str_eq(state, STR("superseded"));
    if (own && !ended) *ret = "is being rolled out";
    else if (back || (own && taken_back)) *ret = "was rolled back";
    return EXIT_OK;
}

int upload_and_route_wait(Client *client, const char *dir, bool gently, Deployed *ret)
{
    CLEANUP(buf_deinit) Buf body = { 0 };
    ClientAnswer version, routing;
    int r = version_upload_wait(client, dir, NULL, &version);
    if (r != EXIT_OK) return r;
    *ret = (Deployed){ .agent = member(version.json, "agent"),
                       .version_id = member(version.json, "versionId") };
    Str agent = client_encoded(client, ret->agent.ptr);
    r = client_call_wait(client, "GET",
                         client_printf(client, "/api/agents/%.*s/routing", STR_ARG(agent)),
                         STR_NULL, NULL, &routing);
    if (r != EXIT_OK) return r;
    Str routed = member(routing.json, "versionId");
    ret->changed = version.status == 201 || !str_eq(routed, ret->version_id);
    if (str_eq(routed, ret->version_id)) return EXIT_OK;
    ret->before = routed;
    if (gently && version.status == 200 && routed.len > 0)
        r = left_wait(client, agent, ret->version_id, &ret->left);
    if (r != EXIT_OK || ret->left) return r;
    buf_init(&body, 4096);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    json_out_kstr(&out, "versionId", ret->version_id);
    json_out_kcstr(&out, "strategy", "immediate");
    json_out_object_end(&out);
    return client_call_wait(client, "POST",
                            client_printf(client, "/api/agents/%.*s/rollouts", STR_ARG(agent)),
                            buf_str(&body), NULL, &routing);
}
