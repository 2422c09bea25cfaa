#include "cli/client.h"

#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/diag.h"
#include "base/log.h"
#include "codec/url.h"
#include "sys/clock.h"

#define CLIENT_ARENA_BYTES_MAX ((size_t)1 << 30)
#define AWAY_LOOK_MS 500

typedef struct {
    const Invocation *in;
    int (*body)(Client *client);
    int status;
} Job;

static int job_fiber(void *arg)
{
    Job *job = arg;
    Client client = { .in = job->in, .http = http_client_new() };
    arena_init(&client.arena, CLIENT_ARENA_BYTES_MAX);
    job->status = job->body(&client);
    http_client_free(client.http);
    arena_deinit(&client.arena);
    loop_stop(loop_here());
    return 0;
}

int client_main(const Invocation *in, int (*body)(Client *client))
{
    Job job = { .in = in, .body = body, .status = EXIT_FAILED };
    log_setup(LOG_ERROR_, LOG_LOGFMT); /* what goes on inside is not what was asked for */
    Loop *loop = loop_new("client");
    fiber_spawn_on(loop, "command", job_fiber, &job);
    loop_run(loop);
    loop_free(loop);
    return job.status;
}

void client_put_actor(Client *client, JsonOut *out)
{
    const char *given = flag(client->in, "by"), *by = given ? given : getenv("USER");
    const struct passwd *user = by && by[0] ? NULL : getpwuid(geteuid());
    if (user) by = user->pw_name;
    if (by && by[0]) json_out_kcstr(out, "by", by);
}

Str client_printf(Client *client, const char *fmt, ...)
{
    char text[4096];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof text) DIE("a text of %d bytes is too long", n);
    Str s = arena_str(&client->arena, str_make(text, (size_t)n));
    if (!s.ptr) DIE("out of memory");
    return s;
}

Str client_encoded(Client *client, const char *text)
{
    CLEANUP(buf_deinit) Buf buf = { 0 };
    buf_init(&buf, 3 * strlen(text));
    url_encode(&buf, str_of(text));
    Str s = arena_str(&client->arena, buf_str(&buf));
    if (!s.ptr) DIE("out of memory");
    return s;
}

static int exit_of_status(int status, Str code)
{
    if (str_eq(code, STR("switched_off"))) return EXIT_FAILED; /* whoever asks */
    if (str_eq(code, STR("key_reused"))) return EXIT_CONFLICT;
    if (str_eq(code, STR("deadline_passed")) || str_eq(code, STR("rollout_invalid")))
        return EXIT_USAGE;
    if (status == 400 || status == 413) return EXIT_USAGE;
    if (status == 401 || status == 403) return EXIT_NOT_AUTHORISED;
    if (status == 404) return EXIT_NOT_FOUND;
    if (status == 409) return EXIT_CONFLICT;
    if (status == 412) return EXIT_GATE;
    return EXIT_FAILED;
}

/* "agent.yaml:12:5: spec.model: message"; a finding about a whole file has no line. */
static void say_issue(const char *before, const Json *issue)
{
    Str file = json_str(json_get(issue, "file")), member = json_str(json_get(issue, "member"));
    int64_t line = json_i64_or(json_get(issue, "line"), 0);
    fprintf(stderr, "%s%.*s", before, STR_ARG(file));
    if (line > 0)
        fprintf(stderr, ":%" PRId64 ":%" PRId64, line, json_i64_or(json_get(issue, "column"), 0));
    fprintf(stderr, "%s%.*s%s%.*s\n", file.len ? ": " : "", STR_ARG(member), member.len ? ": " : "",
            STR_ARG(json_str(json_get(issue, "message"))));
}

void client_say_issues(const char *before, const Json *issues)
{
    for (JsonIter it = json_iter(issues); json_next(&it);) say_issue(before, it.value);
}

/* Where to look for what there is, after a name that is nothing. */
static void say_where(Str code)
{
    if (str_eq(code, STR("agent_not_found"))) fail(0, "`gantry agents` lists those there are");
    if (str_eq(code, STR("version_not_found")))
        fail(0, "`gantry version list AGENT` lists those there are");
    if (str_eq(code, STR("schedule_not_found")))
        fail(0, "`gantry schedule list` lists those there are");
    if (str_eq(code, STR("rollout_not_found")))
        fail(0, "`gantry rollout list` lists those there are");
    if (str_eq(code, STR("worker_not_found"))) fail(0, "`gantry workers` lists those there are");
}

static int say_problem(const ClientAnswer *answer)
{
    Str detail = json_str(json_get(answer->json, "detail")),
        code = json_str(json_get(answer->json, "code"));
    if (!detail.len) detail = json_str(json_get(answer->json, "title"));
    if (str_eq(code, STR("agent_invalid")) && json_get(answer->json, "errors"))
        fail(0, "the agent is not valid:");
    else if (detail.len) fail(0, "%.*s (%.*s)", STR_ARG(detail), STR_ARG(code));
    else
        fail(0, "the server answered %d: %.*s", answer->status, (int)MIN(answer->body.len, 300),
             answer->body.ptr ? answer->body.ptr : "");
    client_say_issues("  ", json_get(answer->json, "errors"));
    if (answer->status == 404) say_where(code);
    if (answer->status == 401) fail(0, "give a key with --key or GANTRY_API_KEY");
    return exit_of_status(answer->status, code);
}

static int say_unreachable(const Client *client, int r)
{
    fail(0, "cannot reach %s: %s", client->in->server, diag_text_or(r));
    if (r == -ECONNREFUSED)
        fail(
            0,
            "is a server running there? `gantry dev` starts one; --server or GANTRY_SERVER names another");
    return EXIT_FAILED;
}

static HttpCallOptions options_for(Client *client, const ClientRequest *q,
                                   HttpClientField fields[8])
{
    size_t n = 0;
    Str base = str_of(client->in->server);
    while (base.len && base.ptr[base.len - 1] == '/') base.len--;
    if (client->in->key && *client->in->key)
        fields[n++] = (HttpClientField){ "Authorization",
                                         client_printf(client, "Bearer %s", client->in->key) };
    if (q->body.ptr)
        fields[n++] = (HttpClientField){
            "Content-Type", str_of(q->content_type ? q->content_type : "application/json")
        };
    for (size_t i = 0; i < q->extra_n; i++) fields[n++] = q->extra[i];
    return (
        HttpCallOptions){ .method = str_of(q->method),
                          .url = client_printf(client, "%.*s%.*s", STR_ARG(base), STR_ARG(q->path)),
                          .fields = fields,
                          .fields_n = n,
                          .body = q->body,
                          .deadline_ms = q->timeout_ms ? deadline_after(q->timeout_ms) : 0 };
}

typedef struct {
    Client *client;
    int64_t until_ms;
    bool said;
} Patience;

static Patience patience(Client *client)
{
    return (Patience){ .client = client, .until_ms = deadline_after(client->away_ms) };
}

/* After r: true when it is worth asking again, a moment later. A server that is just started anew
 * is back soon. */
static bool again_wait(Patience *p, int r)
{
    bool away = r == -ECONNREFUSED || r == -ECONNRESET || r == HTTP_CALL_E_CUT;
    if (!away || clock_mono_ms() >= p->until_ms) return false;
    if (!p->said) fail(0, "%s is away: waiting for it", p->client->in->server);
    p->said = true;
    return fiber_sleep_wait(AWAY_LOOK_MS) == 0;
}

int client_request_wait(Client *client, const ClientRequest *q, ClientAnswer *ret)
{
    HttpClientField fields[8];
    HttpResponse response;
    HttpCallOptions options = options_for(client, q, fields);
    Patience p = patience(client);
    int r;
    do
        r = http_fetch_wait(client->http, &options, CLIENT_ANSWER_BYTES_MAX, &client->arena,
                            &response);
    while (again_wait(&p, r));
    if (r != 0) return client->quiet ? EXIT_FAILED : say_unreachable(client, r);
    *ret = (ClientAnswer){ .status = response.status, .body = response.body };
    if (json_parse(&client->arena, response.body, NULL, &ret->json, NULL) < 0) ret->json = NULL;
    return response.status >= 200 && response.status < 300 ? EXIT_OK : say_problem(ret);
}

int client_call_wait(Client *client, const char *method, Str path, Str body,
                     const char *content_type, ClientAnswer *ret)
{
    ClientRequest q = {
        .method = method, .path = path, .body = body, .content_type = content_type
    };
    return client_request_wait(client, &q, ret);
}

int client_events_wait(Client *client, Str path, Str after_id, HttpCall **ret)
{
    HttpClientField fields[8];
    ClientRequest q = { .method = "GET", .path = path };
    if (after_id.len) q.extra[q.extra_n++] = (HttpClientField){ "Last-Event-ID", after_id };
    *ret = NULL;
    HttpCallOptions options = options_for(client, &q, fields);
    HttpCall *call = NULL;
    Patience p = patience(client);
    int r;
    do r = http_call_open_wait(client->http, &options, &call);
    while (again_wait(&p, r));
    if (r < 0) return say_unreachable(client, r);
    if (http_call_status(call) == 200) {
        *ret = call;
        return EXIT_OK;
    }
    bool none_left = http_call_status(call) == 204;
    http_call_free(call);
    if (none_left) return EXIT_OK;
    ClientAnswer answer; /* ask again, to read the problem whole */
    r = client_request_wait(client, &q, &answer);
    return r != EXIT_OK ? r : fail(EXIT_FAILED, "the server has no events at %.*s", STR_ARG(path));
}

void client_print_json(const ClientAnswer *answer)
{
    fwrite(answer->body.ptr, 1, answer->body.len, stdout);
    if (!str_ends_with(answer->body, STR("\n"))) putchar('\n');
}

void client_print_jsonl(const ClientAnswer *answer, const char *member)
{
    CLEANUP(buf_deinit) Buf line = { 0 };
    buf_init(&line, CLIENT_ANSWER_BYTES_MAX);
    const Json *list = json_type(answer->json) == JSON_ARRAY ? answer->json
                                                             : json_get(answer->json, member);
    for (JsonIter it = json_iter(list); json_next(&it);) {
        buf_clear(&line);
        JsonOut out = json_out(&line);
        json_out_value(&out, it.value);
        puts(line.ptr);
    }
}
