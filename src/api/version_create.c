/* Making a version of an uploaded archive. Unpacking, checking and hashing run on the thread pool;
 * the version, the agent and the first routing are one transaction. */
#include "api/versions.h"

#include "api/prices.h"
#include "base/diag.h"
#include "base/log.h"
#include "codec/yaml.h"
#include "observe/task_json.h"
#include "rollout/control.h"
#include "rollout/settings.h"
#include "store/agent_store.h"
#include "store/artifact_store.h"
#include "store/package.h"
#include "sys/clock.h"
#include "sys/entropy.h"

#define WORK_MEMORY_MAX ((size_t)192 << 20)
#define ENTRIES_MAX 20000
#define ENTRY_HEADERS_MAX 2048
#define DESCRIPTION_BYTES_MAX 1000
#define COMMIT_LEN_MAX 64

const Param version_create_params[] = {
    { "description", "string", "A line for people" },
    { "commit", "string", "The git commit that it was made from" },
    { 0 },
};

/* --- the archive ------------------------------------------------------------------------------ */

/* An upload being worked on; used by the thread pool while the fiber waits. */
typedef struct {
    ApiCall *call;
    const char *data_dir;
    Str agent, description, commit;
    Str upload;
    PackageLimits limits;
    uint64_t seed;
    Arena arena;
    Buf code;
    Package *package;
    ArtifactDigest artifact;
    Str manifest, settings; /* JSON */
    int64_t now_ms;
    /* by the store */
    Version version;
    bool created, routed;
} Upload;

static void upload_deinit(Upload *u)
{
    arena_deinit(&u->arena);
    buf_deinit(&u->code);
    atomic_fetch_sub(&u->call->api->uploads, 1);
}

static int manifest_json(Upload *u)
{
    const Json *manifest;
    int r = yaml_parse(&u->arena, u->package->manifest, &manifest, NULL);
    if (r < 0) return r;
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, YAML_JSON_BYTES_MAX);
    JsonOut out = json_out(&text);
    json_out_value(&out, manifest);
    u->manifest = arena_str(&u->arena, buf_str(&text));
    return json_out_ok(&out) && u->manifest.ptr ? 0 : -ENOMEM;
}

/* On the thread pool. */
static int upload_work(void *arg)
{
    Upload *u = arg;
    u->package = ARENA_NEW(&u->arena, Package);
    if (!u->package) return -ENOMEM;
    int r = package_read(&u->arena, u->upload, &u->limits, u->seed, &u->code, u->package);
    if (r == 0) r = manifest_json(u);
    if (r == 0) r = settings_of_spec(&u->arena, &u->package->spec, &u->settings);
    if (r != 0 || !str_eq(u->package->spec.name, u->agent) || !u->package->has_code) return r;
    return artifact_put(u->data_dir, buf_str(&u->code), str_of(u->package->code_digest),
                        &u->artifact);
}

/* --- the version ------------------------------------------------------------------------------ */

static int version_job(Db *db, void *arg)
{
    Upload *u = arg;
    Version version = { .id = str_of(u->package->version_id),
                        .agent = u->agent,
                        .components = u->package->components,
                        .manifest = u->manifest,
                        .artifact = str_of(u->artifact.hex),
                        .description = u->description,
                        .git_commit = u->commit,
                        .created_at_ms = u->now_ms };
    Str stable;
    int r = agent_ensure(db, u->agent, u->now_ms);
    if (r == 0) r = version_insert(db, &version);
    u->created = r == 0;
    if (r == VERSION_E_EXISTS) r = 0;
    if (r == 0) r = routing_get(db, u->agent, &u->arena, &stable);
    if (r == -ENOENT) {
        r = control_switch(db,
                           &(ControlSwitch){ .agent = u->agent,
                                             .version_id = version.id,
                                             .settings = u->settings,
                                             .kind = SWITCH_FIRST,
                                             .now_ms = u->now_ms },
                           &u->arena);
        stable = version.id;
    }
    u->routed = r == 0 && str_eq(stable, version.id);
    /* what belongs to the agent may differ where the version is the same */
    if (u->routed) r = agent_set_settings(db, u->agent, u->settings);
    return r < 0 ? r : version_get(db, version.id, &u->arena, &u->version);
}

/* --- answers ---------------------------------------------------------------------------------- */

static void issues_write(JsonOut *out, const char *key, const Package *package, bool warnings)
{
    json_out_key(out, key);
    json_out_array(out);
    for (size_t i = 0; i < package->issues_n; i++) {
        const PackageIssue *p = &package->issues[i];
        if (p->issue.warning != warnings) continue;
        json_out_object(out);
        json_out_kstr(out, "file", p->file);
        json_out_ki64(out, "line", (int64_t)p->issue.line);
        json_out_ki64(out, "column", (int64_t)p->issue.column);
        json_out_kstr(out, "member", p->issue.path);
        json_out_kstr(out, "message", p->issue.message);
        json_out_object_end(out);
    }
    json_out_array_end(out);
}

static int invalid_wait(Upload *u)
{
    HttpReq *req = u->call->req;
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    JsonOut *out = &json.out;
    json_out_object(out);
    json_out_kcstr(out, "type", "about:blank");
    json_out_kcstr(out, "title", http_status_text(422));
    json_out_ki64(out, "status", 422);
    json_out_kcstr(out, "detail", "the archive is not a valid agent; `errors` lists what is wrong");
    json_out_kcstr(out, "code", "agent_invalid");
    json_out_kcstr(out, "requestId", req->request_id);
    issues_write(out, "errors", u->package, false);
    issues_write(out, "warnings", u->package, true);
    json_out_object_end(out);
    if (!json_out_ok(out)) return api_fail_wait(u->call, -ENOMEM);
    return api_reply_wait(u->call, 422, "application/problem+json", buf_str(&json.buf));
}

/* Says when nobody sells the model: the version is made all the same, its tasks would fail. */
static void model_warn(Upload *u)
{
    const GatewayConfig *config = u->call->api->options.gateway;
    Str model = u->package->spec.model;
    if (!config || str_empty(model)) return;
    for (int p = 0; p < GATEWAY_PROTOCOL_N_; p++)
        if (gateway_resolve(config, NULL, model, (GatewayProtocol)p, NULL, NULL) == 0) return;
    if (str_empty(model) || price_is_imported_wait(u->call->api, model)) return;
    Str why = arena_str(&u->arena, str_of(diag_text()));
    if (why.ptr) package_warn(&u->arena, u->package, STR("spec.model"), why);
}

static int created_wait(Upload *u)
{
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    JsonOut *out = &json.out;
    json_out_object(out);
    json_out_kstr(out, "versionId", u->version.id);
    json_out_kstr(out, "agent", u->version.agent);
    json_out_ktime(out, "createdAt", u->version.created_at_ms);
    json_out_kstr(out, "artifact", u->version.artifact);
    json_out_kstr(out, "description", u->version.description);
    json_out_kstr(out, "commit", u->version.git_commit);
    json_out_kstr(out, "model", u->package->spec.model);
    json_out_kbool(out, "created", u->created);
    json_out_kbool(out, "routed", u->routed);
    issues_write(out, "warnings", u->package, true);
    json_out_object_end(out);
    Str url = arena_printf(&u->arena, "/api/versions/%.*s", STR_ARG(u->version.id));
    if (url.ptr) http_header_add(u->call->req, "Location", url);
    return api_json_wait(u->call, u->created ? 201 : 200, &json);
}

static int upload_failed_wait(Upload *u, int r)
{
    if (r == PACKAGE_E_INVALID) return invalid_wait(u);
    if (r == -EFBIG || r == -E2BIG)
        return api_problem_wait(u->call, 422, "archive_too_large", "%s", diag_text());
    return api_fail_wait(u->call, r);
}

/* --- the request ------------------------------------------------------------------------------ */

static bool commit_ok(Str commit)
{
    if (commit.len > COMMIT_LEN_MAX) return false;
    for (size_t i = 0; i < commit.len; i++) {
        char c = commit.ptr[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
    }
    return true;
}

static int upload_read_wait(Upload *u)
{
    ApiCall *call = u->call;
    u->agent = call->params[0];
    u->description = api_param(call, "description");
    u->commit = api_param(call, "commit");
    if (!agent_name_ok(u->agent))
        return api_problem_wait(call, 400, "agent_invalid",
                                "\"%.*s\" is no name of an agent: up to %d lower-case letters, "
                                "digits and '-', the first no '-'",
                                (int)MIN(u->agent.len, (size_t)64), u->agent.ptr,
                                MANIFEST_NAME_BYTES_MAX);
    if (u->description.len > DESCRIPTION_BYTES_MAX || !str_is_utf8(u->description))
        return api_problem_wait(call, 400, "parameter_invalid",
                                "?description is to be at most %d bytes of text",
                                DESCRIPTION_BYTES_MAX);
    if (!commit_ok(u->commit))
        return api_problem_wait(call, 400, "parameter_invalid",
                                "?commit is to be a commit's hexadecimal id");
    Str type = api_content_type(call);
    static const char *const types[] = { "application/gzip", "application/x-gzip",
                                         "application/x-tar", "application/octet-stream" };
    bool known = str_empty(type);
    for (size_t i = 0; i < ARRAY_N(types); i++) known |= str_eq(type, str_of(types[i]));
    if (!known)
        return api_problem_wait(call, 415, "content_type",
                                "send a tar as application/gzip or application/x-tar");
    int r = api_bytes_wait(call, call->api->options.upload_bytes_max, &u->upload);
    if (r == 0 && str_empty(u->upload))
        return api_problem_wait(call, 400, "body_invalid",
                                "the body is empty; send a tar of the agent directory");
    return r;
}

static int upload_run_wait(Upload *u)
{
    int r = upload_read_wait(u);
    if (r != 0) return r;
    r = work_wait(upload_work, u);
    if (r != 0) return upload_failed_wait(u, r);
    if (!str_eq(u->package->spec.name, u->agent))
        return api_problem_wait(u->call, 422, "agent_mismatch",
                                "agent.yaml is of \"%.*s\", but was sent to \"%.*s\"",
                                STR_ARG(u->package->spec.name), STR_ARG(u->agent));
    r = store_call_wait(queue_store(u->call->api->options.queue), version_job, u);
    if (r < 0) return upload_failed_wait(u, r);
    model_warn(u);
    return created_wait(u);
}

int version_create_run_wait(ApiCall *call)
{
    ApiServer *api = call->api;
    size_t before = atomic_fetch_add(&api->uploads, 1);
    CLEANUP(upload_deinit)
    Upload u = { .call = call,
                 .data_dir = store_path(queue_store(api->options.queue)),
                 .limits = { .entries_max = ENTRIES_MAX,
                             .bytes_max = api->options.unpacked_bytes_max },
                 .seed = entropy_u64(),
                 .now_ms = clock_real_ms() };
    arena_init(&u.arena, WORK_MEMORY_MAX);
    buf_init(&u.code, api->options.unpacked_bytes_max + (size_t)ENTRIES_MAX * ENTRY_HEADERS_MAX);
    if (before >= api->options.uploads_max) {
        http_header_add(call->req, "Retry-After", STR("2"));
        return api_problem_wait(call, 503, "uploads_busy",
                                "%zu archives are being worked on already",
                                api->options.uploads_max);
    }
    return upload_run_wait(&u);
}
