/* Rollouts: begun, shown, steered. */
#include "api/rollouts.h"

#include <stdio.h>

#include "api/tasks.h"
#include "api/versions.h"

#include "base/diag.h"
#include "logic/manifest.h"
#include "observe/task_json.h"
#include "queue/queue.h"
#include "rollout/observations.h"
#include "rollout/preflight.h"
#include "rollout/rollout_json.h"
#include "rollout/settings.h"
#include "rollout/shadow.h"
#include "sys/clock.h"
#include "sys/entropy.h"

#define ISSUES_MAX 8
#define ACTOR_BYTES_MAX 100

const Param rollouts_params[] = {
    { "agent", "string", "Only of this agent" },
    { "active", "boolean", "true: only those that have not ended" },
    { 0 },
};

static const Member command_members[] = {
    { "full", MEMBER_BOOLEAN, false, "promote: all steps at once", NULL },
    { "by", MEMBER_STRING, false, "Who asks, for the record", NULL },
};
const BodySpec rollout_command_body = { .name = "RolloutCommand",
                                        .members = command_members,
                                        .n = ARRAY_N(command_members) };

static const Member gate_members[] = {
    { "gate", MEMBER_STRING, false, "Its name in the plan; left out: that of the current step",
      NULL },
    { "by", MEMBER_STRING, false, "Who asks, for the record", NULL },
};
const BodySpec rollout_gate_body = { .name = "RolloutGateCommand",
                                     .members = gate_members,
                                     .n = ARRAY_N(gate_members) };

/* --- reading ---------------------------------------------------------------------------------- */

int rollout_whole_read(Db *db, const RolloutRow *row, Arena *arena, RolloutWhole *ret)
{
    ret->row = *row;
    int r = control_spec(row, arena, &ret->spec);
    if (r == 0) r = rollout_pace(db, row->seq, clock_real_ms(), &ret->pace);
    if (r == 0) r = serving_load(db, row->control_id, arena, &ret->stable);
    if (r == -ENOENT) r = 0;
    if (r == 0) r = interval_show(db, row->seq, &ret->spec, ret->intervals);
    if (r != 0) return r;
    r = rollout_evidence_get(db, row->seq, ret->spec.evidence.metrics_n, &ret->evidence);
    if (r != -ENOENT && r != -EPROTO) return r;
    evidence_init(&ret->evidence);
    return 0;
}

typedef struct {
    Str id, agent;
    bool active_only;
    Arena *arena;
    RolloutWhole *whole;
    RolloutRow *rows;
    size_t n;
} ReadJob;

static int get_job(Db *db, void *arg)
{
    ReadJob *job = arg;
    RolloutRow row;
    int r = rollout_get(db, job->id, job->arena, &row);
    return r != 0 ? r : rollout_whole_read(db, &row, job->arena, job->whole);
}

static int list_job(Db *db, void *arg)
{
    ReadJob *job = arg;
    return rollout_list(db, job->agent, job->active_only, job->arena, &job->rows, &job->n);
}

static int missing_wait(ApiCall *call)
{
    return api_problem_wait(call, 404, "rollout_not_found", "there is no rollout \"%.*s\"",
                            (int)MIN(call->params[0].len, (size_t)64), call->params[0].ptr);
}

static int reply_wait(ApiCall *call, const RolloutWhole *whole)
{
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    rollout_write(&json.out, &whole->row, &whole->spec, &whole->evidence, whole->intervals,
                  &whole->pace, &whole->stable);
    return api_json_wait(call, 200, &json);
}

int rollout_get_run_wait(ApiCall *call)
{
    CLEANUP(freep) RolloutWhole *whole = xcalloc(1, sizeof(*whole));
    ReadJob job = { .id = call->params[0], .arena = &call->req->arena, .whole = whole };
    int r = store_read_wait(queue_store(call->api->options.queue), get_job, &job);
    if (r == -ENOENT) return missing_wait(call);
    return r < 0 ? api_fail_wait(call, r) : reply_wait(call, whole);
}

static int list_write(ApiCall *call, const ReadJob *job, JsonOut *out)
{
    CLEANUP(freep) RolloutSpec *spec = xcalloc(1, sizeof(*spec));
    json_out_object(out);
    json_out_key(out, "rollouts");
    json_out_array(out);
    for (size_t i = 0; i < job->n; i++) {
        int r = control_spec(&job->rows[i], &call->req->arena, spec);
        if (r < 0) return r;
        rollout_write(out, &job->rows[i], spec, NULL, NULL, NULL, NULL);
    }
    json_out_array_end(out);
    json_out_object_end(out);
    return 0;
}

int rollout_list_run_wait(ApiCall *call)
{
    ReadJob job = { .agent = api_param(call, "agent"),
                    .active_only = str_eq(api_param(call, "active"), STR("true")),
                    .arena = &call->req->arena };
    int r = store_read_wait(queue_store(call->api->options.queue), list_job, &job);
    if (r < 0) return api_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    r = list_write(call, &job, &json.out);
    return r < 0 ? api_fail_wait(call, r) : api_json_wait(call, 200, &json);
}

/* --- its shadow ------------------------------------------------------------------------------- */

typedef struct {
    Str id;
    int64_t now_ms;
    Arena *arena;
    RolloutSpec *spec;
    ApiJson *json;
} ShadowJob;

#define NO_SHADOW 1

static int shadow_job(Db *db, void *arg)
{
    ShadowJob *job = arg;
    RolloutRow row;
    int r = rollout_get(db, job->id, job->arena, &row);
    if (r == 0) r = control_spec(&row, job->arena, job->spec);
    if (r != 0) return r;
    if (!job->spec->plan.shadow) return NO_SHADOW;
    return shadow_report_write(db, &row, job->spec, job->now_ms, job->arena, &job->json->out);
}

int rollout_shadow_run_wait(ApiCall *call)
{
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    CLEANUP(freep) RolloutSpec *spec = xcalloc(1, sizeof(*spec));
    api_json(&json, API_JSON_BYTES_MAX);
    ShadowJob job = { .id = call->params[0],
                      .now_ms = queue_now_ms(call->api->options.queue),
                      .arena = &call->req->arena,
                      .spec = spec,
                      .json = &json };
    int r = store_read_wait(queue_store(call->api->options.queue), shadow_job, &job);
    if (r == -ENOENT) return missing_wait(call);
    if (r == NO_SHADOW)
        return api_problem_wait(call, 404, "no_shadow", "this rollout has no shadow in its plan");
    return r < 0 ? api_fail_wait(call, r) : api_json_wait(call, 200, &json);
}

/* --- what ticks decided ----------------------------------------------------------------------- */

const Param rollout_ticks_params[] = {
    { "limit", "integer", "Ticks, 1 to 1000; 50 when left out" },
    { 0 },
};

typedef struct {
    Str id;
    size_t max;
    Arena *arena;
    RolloutTick *ticks;
    size_t n;
} TicksJob;

static int ticks_job(Db *db, void *arg)
{
    TicksJob *job = arg;
    RolloutRow row;
    int r = rollout_get(db, job->id, job->arena, &row);
    return r != 0 ? r : rollout_ticks(db, row.seq, job->max, job->arena, &job->ticks, &job->n);
}

static void tick_write(JsonOut *out, const RolloutTick *tick)
{
    json_out_object(out);
    json_out_ki64(out, "n", tick->n);
    json_out_ktime(out, "at", tick->at_ms);
    json_out_ktime(out, "lastAt", tick->last_ms);
    json_out_ki64(out, "again", tick->again);
    json_out_kcstr(out, "state", rollout_state_name(tick->state));
    json_out_ki64(out, "step", tick->step);
    json_out_kcstr(out, "verdict", rollout_verdict_name(tick->verdict));
    json_out_kstr(out, "why", tick->why);
    json_out_kraw(out, "inputs", tick->inputs);
    json_out_object_end(out);
}

int rollout_ticks_run_wait(ApiCall *call)
{
    int64_t max;
    int r = api_param_i64_wait(call, "limit", 1, ROLLOUT_TICKS_KEPT, 50, &max);
    if (r != 0) return r;
    TicksJob job = { .id = call->params[0], .max = (size_t)max, .arena = &call->req->arena };
    r = store_read_wait(queue_store(call->api->options.queue), ticks_job, &job);
    if (r == -ENOENT) return missing_wait(call);
    if (r < 0) return api_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_key(&json.out, "ticks");
    json_out_array(&json.out);
    for (size_t i = 0; i < job.n; i++) tick_write(&json.out, &job.ticks[i]);
    json_out_array_end(&json.out);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}

/* --- what the evidence was made of ------------------------------------------------------------ */

#define CURSOR_BYTES_MAX 48

const Param rollout_observations_params[] = {
    { "cursor", "string", "nextCursor of the page before" },
    { 0 },
};

typedef struct {
    Str id;
    RolloutCursor after, next;
    Arena *arena;
    RolloutSpec *spec;
    Observation *list;
    size_t n;
} ObservationsJob;

static int observations_job(Db *db, void *arg)
{
    ObservationsJob *job = arg;
    return observations_list(db, job->id, job->after, job->arena, &job->spec, &job->list, &job->n,
                             &job->next);
}

/* A unit is named by its place, which is the cursor that follows it. */
static const char *place_text(RolloutCursor at, char out[CURSOR_BYTES_MAX])
{
    snprintf(out, CURSOR_BYTES_MAX, "%" PRId64 "-%" PRId64, at.eligible_ms, at.task_seq);
    return out;
}

static bool place_read(Str text, RolloutCursor *ret)
{
    Str eligible, seq = str_split(text, '-', &eligible, NULL);
    return str_to_i64(eligible, &ret->eligible_ms) == 0 && str_to_i64(seq, &ret->task_seq) == 0;
}

static void observation_write(JsonOut *out, const RolloutSpec *spec, const Observation *o)
{
    char place[CURSOR_BYTES_MAX];
    json_out_object(out);
    json_out_kcstr(out, "unit", place_text(o->at, place));
    json_out_kcstr(out, "arm", o->unit.canary ? "canary" : "control");
    json_out_key(out, "prob");
    json_out_f64(out, o->unit.pi);
    json_out_key(out, "metrics");
    json_out_object(out);
    for (size_t m = 0; m < spec->evidence.metrics_n; m++) {
        if (!(o->unit.has & UINT32_C(1) << m)) continue;
        json_out_key(out, spec->names[m]);
        json_out_f64(out, o->unit.harm[m]);
    }
    json_out_object_end(out);
    json_out_object_end(out);
}

int rollout_observations_run_wait(ApiCall *call)
{
    char next[CURSOR_BYTES_MAX];
    Str cursor = api_param(call, "cursor");
    ObservationsJob job = { .id = call->params[0], .arena = &call->req->arena };
    if (!str_empty(cursor) && !place_read(cursor, &job.after)) return api_cursor_problem_wait(call);
    int r = store_read_wait(queue_store(call->api->options.queue), observations_job, &job);
    if (r == -ENOENT) return missing_wait(call);
    if (r < 0) return api_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_key(&json.out, "observations");
    json_out_array(&json.out);
    for (size_t i = 0; i < job.n; i++) observation_write(&json.out, job.spec, &job.list[i]);
    json_out_array_end(&json.out);
    json_out_key(&json.out, "nextCursor");
    if (job.next.task_seq) json_out_str(&json.out, str_of(place_text(job.next, next)));
    else json_out_null(&json.out);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}

/* --- commands --------------------------------------------------------------------------------- */

typedef struct {
    Str id, actor;
    Str gate; /* of OPEN_GATE */
    RolloutCommand command;
    int64_t now_ms;
    Arena *arena;
    RolloutMove move;
    RolloutWhole *whole;
} CommandJob;

static int command_job(Db *db, void *arg)
{
    CommandJob *job = arg;
    RolloutRow row;
    int r = job->command == COMMAND_OPEN_GATE
                ? control_open_gate(db, job->id, job->gate, job->actor, job->now_ms, job->arena,
                                    &row, &job->move)
                : control_command(db, job->id, job->command, job->actor, job->now_ms, job->arena,
                                  &row, &job->move);
    return r != 0 ? r : rollout_whole_read(db, &row, job->arena, job->whole);
}

int rollout_actor_wait(ApiCall *call, const Json *body, Str *ret)
{
    *ret = json_str(json_get(body, "by"));
    if (ret->len <= ACTOR_BYTES_MAX && str_is_utf8(*ret)) return 0;
    return api_problem_wait(call, 400, "member_invalid", "`by` is at most %d bytes of text",
                            ACTOR_BYTES_MAX);
}

static int command_wait(ApiCall *call, RolloutCommand command)
{
    Str text, by;
    const Json *body;
    int r = api_body_wait(call, &text, &body);
    if (r == 0) r = rollout_actor_wait(call, body, &by);
    if (r != 0) return r;
    if (command == COMMAND_PROMOTE && json_bool(json_get(body, "full"), false))
        command = COMMAND_PROMOTE_ALL;
    CLEANUP(freep) RolloutWhole *whole = xcalloc(1, sizeof(*whole));
    CommandJob job = { .id = call->params[0],
                       .actor = by,
                       .gate = json_str(json_get(body, "gate")),
                       .command = command,
                       .now_ms = queue_now_ms(call->api->options.queue),
                       .arena = &call->req->arena,
                       .whole = whole };
    r = store_call_wait(queue_store(call->api->options.queue), command_job, &job);
    if (r == -ENOENT) return missing_wait(call);
    if (r < 0) return api_fail_wait(call, r);
    control_signal_wait(call->api->options.queue, job.move.actions);
    if (job.move.refused) return api_problem_wait(call, 409, "rollout_state", "%s", job.move.why);
    return reply_wait(call, whole);
}

int rollout_promote_run_wait(ApiCall *call)
{
    return command_wait(call, COMMAND_PROMOTE);
}

int rollout_gate_run_wait(ApiCall *call)
{
    return command_wait(call, COMMAND_OPEN_GATE);
}

int rollout_pause_run_wait(ApiCall *call)
{
    return command_wait(call, COMMAND_PAUSE);
}

int rollout_resume_run_wait(ApiCall *call)
{
    return command_wait(call, COMMAND_RESUME);
}

int rollout_abort_run_wait(ApiCall *call)
{
    return command_wait(call, COMMAND_ABORT);
}

/* --- beginning -------------------------------------------------------------------------------- */

typedef struct {
    ControlStart start;
    Arena *arena;
    RolloutRow row;
    unsigned actions;
} BeginJob;

static int begin_job(Db *db, void *arg)
{
    BeginJob *job = arg;
    return control_start(db, &job->start, job->arena, &job->row, &job->actions);
}

/* The rollout block of the version's manifest, if it is for this strategy. */
static const Json *block_of_version(ApiCall *call, const Version *version, Str strategy)
{
    const Json *manifest;
    if (json_parse(&call->req->arena, version->manifest, NULL, &manifest, NULL) != 0) return NULL;
    const Json *block = json_get(json_get(manifest, "spec"), "rollout");
    Str its = json_str(json_get(block, "strategy"));
    if (str_empty(its)) its = STR("canary");
    return str_eq(its, strategy) ? block : NULL;
}

/* The block as text with its strategy said, checked. Answers what is wrong. */
static int block_text_wait(ApiCall *call, const Json *block, Str strategy, Str *ret)
{
    CLEANUP(buf_deinit) Buf text, whole;
    buf_init(&text, MANIFEST_BYTES_MAX);
    buf_init(&whole, MANIFEST_BYTES_MAX);
    JsonOut out = json_out(&text);
    if (block) json_out_value(&out, block);
    else {
        json_out_object(&out);
        json_out_object_end(&out);
    }
    Str quoted = arena_printf(&call->req->arena, "\"%.*s\"", STR_ARG(strategy));
    if (!quoted.ptr || !json_out_ok(&out) ||
        json_member_set(buf_str(&text), STR("strategy"), quoted, &whole) != 0)
        return api_fail_wait(call, -ENOMEM);
    *ret = arena_str(&call->req->arena, buf_str(&whole));
    return ret->ptr ? 0 : api_fail_wait(call, -ENOMEM);
}

static int block_check_wait(ApiCall *call, Str text)
{
    const Json *block;
    Issue items[ISSUES_MAX];
    IssueList issues;
    int r = json_parse(&call->req->arena, text, NULL, &block, NULL);
    if (r < 0) return api_fail_wait(call, r);
    issue_list_init(&issues, &call->req->arena, items, ISSUES_MAX, NULL, NULL);
    r = manifest_check_rollout(block, NULL, &issues);
    if (r < 0) return api_fail_wait(call, r);
    for (size_t i = 0; i < issues.n; i++)
        if (!items[i].warning)
            return api_problem_wait(call, 422, "rollout_invalid", "rollout.%.*s: %.*s",
                                    STR_ARG(items[i].path), STR_ARG(items[i].message));
    return 0;
}

static int begin_problem_wait(ApiCall *call, int r)
{
    switch (r) {
    case CONTROL_E_SAME:
        return api_problem_wait(call, 409, "already_routed", "the agent routes to it already");
    case CONTROL_E_NOTHING:
        return api_problem_wait(call, 409, "nothing_to_compare",
                                "the agent has no version yet: deploy this one immediately");
    case CONTROL_E_METRICS:
        return api_problem_wait(call, 422, "rollout_invalid", "at most %d metrics are compared",
                                EVIDENCE_METRICS_MAX);
    default: return api_fail_wait(call, r);
    }
}

/* A version that fails its checks is refused; the record of it stays. */
static int preflight_wait(ApiCall *call, Str id)
{
    RolloutRow row;
    PreflightOptions options = { call->api->options.queue, call->api->options.preflight };
    int r = preflight_run_wait(&options, id, &call->req->arena, &row);
    if (r < 0) return api_fail_wait(call, r);
    if (row.state.state != ROLLOUT_ABORTED) return 0;
    return api_problem_wait(call, 412, "preflight_failed", "rollout %.*s: %.*s", STR_ARG(row.id),
                            STR_ARG(row.why));
}

int rollout_begin_wait(ApiCall *call, const Version *version, Str strategy, const Json *block,
                       Str by)
{
    char id[UUID_TEXT_MAX];
    uint8_t random[UUID7_RANDOM_BYTES];
    Uuid7Gen gen = { 0 };
    BeginJob job = { .start = { .agent = version->agent,
                                .version_id = version->id,
                                .actor = by,
                                .now_ms = queue_now_ms(call->api->options.queue) },
                     .arena = &call->req->arena };
    entropy_fill(random, sizeof(random));
    job.start.id = str_of(uuid_text(uuid7_next(&gen, job.start.now_ms, random), id));
    if (!block) block = block_of_version(call, version, strategy);
    int r = block_text_wait(call, block, strategy, &job.start.block);
    if (r == 0) r = block_check_wait(call, job.start.block);
    if (r != 0) return r;
    r = settings_of_manifest(&call->req->arena, version->manifest, &job.start.settings);
    if (r < 0) return api_fail_wait(call, r);
    r = store_call_wait(queue_store(call->api->options.queue), begin_job, &job);
    if (r == 0) control_signal_wait(call->api->options.queue, job.actions);
    return r == 0 ? preflight_wait(call, job.row.id) : begin_problem_wait(call, r);
}
