/* Agents and versions: reading them. */
#include "api/versions.h"

#include "api/tasks.h"
#include "base/diag.h"
#include "logic/version.h"
#include "observe/task_json.h"
#include "store/agent_store.h"
#include "store/artifact_store.h"
#include "store/package.h"

#define ROW_MEMORY_MAX ((size_t)160 << 20) /* the components of one version, parsed */
#define ARTIFACT_BYTES_MAX ((size_t)256 << 20)

/* --- agents ----------------------------------------------------------------------------------- */

typedef struct {
    Arena *arena;
    Agent *agents;
    int64_t *versions; /* how many each has */
    size_t n;
} AgentsRead;

static int agents_job(Db *db, void *arg)
{
    AgentsRead *read = arg;
    int r = agent_list(db, read->arena, &read->agents, &read->n);
    if (r < 0) return r;
    read->versions = ARENA_ARRAY(read->arena, int64_t, read->n + 1);
    if (!read->versions) return -ENOMEM;
    for (size_t i = 0; r == 0 && i < read->n; i++)
        r = version_count(db, read->agents[i].name, &read->versions[i]);
    return r;
}

static void id_or_null(JsonOut *out, const char *key, Str id)
{
    json_out_key(out, key);
    if (str_empty(id)) json_out_null(out);
    else json_out_str(out, id);
}

int agent_list_run_wait(ApiCall *call)
{
    AgentsRead read = { .arena = &call->req->arena };
    int r = store_read_wait(queue_store(call->api->options.queue), agents_job, &read);
    if (r < 0) return api_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    JsonOut *out = &json.out;
    json_out_object(out);
    json_out_key(out, "agents");
    json_out_array(out);
    for (size_t i = 0; i < read.n; i++) {
        const Agent *agent = &read.agents[i];
        json_out_object(out);
        json_out_kstr(out, "agent", agent->name);
        id_or_null(out, "versionId", agent->version_id);
        id_or_null(out, "previousVersionId", agent->previous_version_id);
        json_out_ki64(out, "versions", read.versions[i]);
        json_out_ktime(out, "createdAt", agent->created_at_ms);
        json_out_ktime(out, "changedAt", agent->routing_changed_at_ms);
        json_out_object_end(out);
    }
    json_out_array_end(out);
    json_out_object_end(out);
    return api_json_wait(call, 200, &json);
}

/* --- one version ------------------------------------------------------------------------------ */

typedef struct {
    Str id;
    Arena *arena;
    Version *version;
} VersionRead;

static int version_job(Db *db, void *arg)
{
    VersionRead *read = arg;
    return version_get(db, read->id, read->arena, read->version);
}

static int version_missing_wait(ApiCall *call, Str id)
{
    return api_problem_wait(call, 404, "version_not_found",
                            "there is no version \"%.*s\"; an id is 64 hexadecimal digits, or the "
                            "first %d or more of them",
                            (int)MIN(id.len, (size_t)80), id.ptr, VERSION_PREFIX_LEN_MIN);
}

int version_find_wait(ApiCall *call, Str id, Version *ret)
{
    if (!version_prefix_ok(id)) return version_missing_wait(call, id);
    VersionRead read = { .id = id, .arena = &call->req->arena, .version = ret };
    int r = store_read_wait(queue_store(call->api->options.queue), version_job, &read);
    if (r == -ENOENT) return version_missing_wait(call, id);
    if (r == VERSION_E_AMBIGUOUS)
        return api_problem_wait(call, 409, "version_ambiguous",
                                "several versions begin with \"%.*s\"; give more digits",
                                STR_ARG(id));
    return r < 0 ? api_fail_wait(call, r) : 0;
}

static void version_write(JsonOut *out, const Version *v, Str model)
{
    json_out_kstr(out, "versionId", v->id);
    json_out_kstr(out, "agent", v->agent);
    json_out_ktime(out, "createdAt", v->created_at_ms);
    json_out_kstr(out, "description", v->description);
    json_out_kstr(out, "commit", v->git_commit);
    json_out_kstr(out, "artifact", v->artifact);
    json_out_kstr(out, "model", model);
}

int version_get_run_wait(ApiCall *call)
{
    Version version;
    const Json *components;
    int r = version_find_wait(call, call->params[0], &version);
    if (r != 0) return r;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, ROW_MEMORY_MAX);
    r = json_parse(&arena, version.components, NULL, &components, NULL);
    if (r < 0) return api_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    version_write(&json.out, &version, json_str(json_get(components, "model")));
    json_out_kraw(&json.out, "components", version.components);
    json_out_kraw(&json.out, "manifest", version.manifest);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}

/* --- lists ------------------------------------------------------------------------------------ */

const Param page_params[] = {
    { "limit", "integer", "Rows a page, 1 to 500; 50 when left out" },
    { "cursor", "string", "nextCursor of the page before" },
    { 0 },
};

typedef struct {
    Str agent, cursor;
    size_t limit;
    Arena *arena;
    VersionPage page;
    Str *models;
    Str stable;
} ListRead;

/* The model of a version stands in its components, which may be large: one at a time. */
static int model_read(Db *db, Str id, Arena *arena, Str *ret)
{
    CLEANUP(arena_deinit) Arena scratch;
    arena_init(&scratch, ROW_MEMORY_MAX);
    Version version;
    const Json *components;
    int r = version_get(db, id, &scratch, &version);
    if (r == 0) r = json_parse(&scratch, version.components, NULL, &components, NULL);
    if (r != 0) return r;
    *ret = arena_str(arena, json_str(json_get(components, "model")));
    return ret->ptr ? 0 : -ENOMEM;
}

static int list_job(Db *db, void *arg)
{
    ListRead *read = arg;
    int r = agent_check(db, read->agent);
    if (r == 0)
        r = version_list(db, read->agent, read->cursor, read->limit, read->arena, &read->page);
    if (r < 0) return r;
    read->models = ARENA_ARRAY(read->arena, Str, read->page.n + 1);
    if (!read->models) return -ENOMEM;
    for (size_t i = 0; r == 0 && i < read->page.n; i++)
        r = model_read(db, read->page.versions[i].id, read->arena, &read->models[i]);
    if (r == 0) r = routing_get(db, read->agent, read->arena, &read->stable);
    return r == -ENOENT ? 0 : r; /* nothing deployed */
}

static int list_reply_wait(ApiCall *call, const ListRead *read)
{
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    JsonOut *out = &json.out;
    json_out_object(out);
    json_out_key(out, "versions");
    json_out_array(out);
    for (size_t i = 0; i < read->page.n; i++) {
        json_out_object(out);
        version_write(out, &read->page.versions[i], read->models[i]);
        json_out_kbool(out, "routed", str_eq(read->stable, read->page.versions[i].id));
        json_out_object_end(out);
    }
    json_out_array_end(out);
    api_cursor_write(out, read->page.next);
    json_out_object_end(out);
    return api_json_wait(call, 200, &json);
}

int version_list_run_wait(ApiCall *call)
{
    int64_t limit;
    int r = api_param_i64_wait(call, "limit", 1, PAGE_ROWS_MAX, PAGE_ROWS_DEFAULT, &limit);
    if (r != 0) return r;
    ListRead read = { .agent = call->params[0],
                      .cursor = api_param(call, "cursor"),
                      .limit = (size_t)limit,
                      .arena = &call->req->arena };
    r = store_read_wait(queue_store(call->api->options.queue), list_job, &read);
    if (r == -EINVAL) return api_cursor_problem_wait(call);
    if (r == -ENOENT)
        return api_problem_wait(call, 404, "agent_not_found", "there is no agent \"%.*s\"",
                                (int)MIN(read.agent.len, (size_t)64), read.agent.ptr);
    return r < 0 ? api_fail_wait(call, r) : list_reply_wait(call, &read);
}

/* --- difference ------------------------------------------------------------------------------- */

static void json_or_null(JsonOut *out, const char *key, Str text)
{
    json_out_kraw(out, key, str_empty(text) ? STR("null") : text);
}

static int diff_reply_wait(ApiCall *call, const Version *from, const Version *to,
                           const VersionDiff *diff)
{
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    JsonOut *out = &json.out;
    json_out_object(out);
    json_out_kstr(out, "from", from->id);
    json_out_kstr(out, "to", to->id);
    json_out_key(out, "changes");
    json_out_array(out);
    for (size_t i = 0; i < diff->n; i++) {
        const VersionChange *change = &diff->changes[i];
        json_out_object(out);
        json_out_kcstr(out, "component", version_part_name(change->part));
        json_or_null(out, "old", change->old_text);
        json_or_null(out, "new", change->new_text);
        json_out_kstr(out, "diff", change->text_diff);
        json_out_object_end(out);
    }
    json_out_array_end(out);
    json_out_object_end(out);
    return api_json_wait(call, 200, &json);
}

/* Comparing long texts takes a while: it runs on the thread pool. */
typedef struct {
    Arena arena;
    const Version *from, *to;
    VersionDiff diff;
} DiffWork;

static void diff_deinit(DiffWork *work)
{
    arena_deinit(&work->arena);
}

static int diff_work(void *arg)
{
    DiffWork *work = arg;
    const Json *from, *to;
    int r = json_parse(&work->arena, work->from->components, NULL, &from, NULL);
    if (r == 0) r = json_parse(&work->arena, work->to->components, NULL, &to, NULL);
    return r < 0 ? r : version_diff(&work->arena, from, to, &work->diff);
}

int version_diff_run_wait(ApiCall *call)
{
    Version from, to;
    int r = version_find_wait(call, call->params[0], &from);
    if (r == 0) r = version_find_wait(call, call->params[1], &to);
    if (r != 0) return r;
    CLEANUP(diff_deinit) DiffWork work = { .from = &from, .to = &to };
    arena_init(&work.arena, 2 * ROW_MEMORY_MAX);
    r = work_wait(diff_work, &work);
    return r < 0 ? api_fail_wait(call, r) : diff_reply_wait(call, &from, &to, &work.diff);
}

/* --- artifact --------------------------------------------------------------------------------- */

typedef struct {
    const char *data_dir;
    Str hex;
    Buf bytes;
} ArtifactWork;

static void artifact_deinit(ArtifactWork *work)
{
    buf_deinit(&work->bytes);
}

static int artifact_work(void *arg)
{
    ArtifactWork *work = arg;
    return artifact_get(work->data_dir, work->hex, &work->bytes);
}

int version_artifact_run_wait(ApiCall *call)
{
    Version version;
    int r = version_find_wait(call, call->params[0], &version);
    if (r != 0) return r;
    if (str_empty(version.artifact))
        return api_problem_wait(call, 404, "no_artifact", "this version has no code of its own");
    CLEANUP(artifact_deinit)
    ArtifactWork work = { .data_dir = store_path(queue_store(call->api->options.queue)),
                          .hex = version.artifact };
    buf_init(&work.bytes, ARTIFACT_BYTES_MAX);
    if ((r = work_wait(artifact_work, &work)) < 0) return api_fail_wait(call, r);
    Str digest = arena_printf(&call->req->arena, "sha256:%.*s", STR_ARG(version.artifact));
    if (digest.ptr) http_header_add(call->req, "x-gantry-digest", digest);
    return api_reply_wait(call, 200, "application/x-tar", buf_str(&work.bytes));
}
