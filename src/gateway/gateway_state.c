/* What providers keep between calls belongs to all who use the operator's key, so a request may
 * name only what its own tenant was given through this gateway, or what the operator has everybody
 * name. */
#include <stdio.h>
#include <stdlib.h>

#include "codec/sse.h"
#include "gateway/gateway_call.h"
#include "logic/glob.h"
#include "logic/provider_ref.h"

/* An id that a tenant was given. */
typedef struct {
    ListNode node;
    uint8_t key[SHA256_BYTES];
} Given;

void given_init(GivenIds *given, uint64_t seed)
{
    map_init(&given->ids, seed);
    list_init(&given->oldest);
}

static void forget(GivenIds *given, Given *id)
{
    map_remove(&given->ids, str_make((const char *)id->key, sizeof id->key));
    list_remove(&id->node);
    given->n--;
    free(id);
}

void given_deinit(GivenIds *given)
{
    while (!list_empty(&given->oldest))
        forget(given, CONTAINER_OF(given->oldest.next, Given, node));
    map_deinit(&given->ids);
}

static void key_make(const GatewayTask *task, Str id, uint8_t ret[SHA256_BYTES])
{
    Sha256 sha;
    sha256_init(&sha);
    sha256_add(&sha, task->options.tenant_id);
    sha256_add(&sha, str_make("", 1)); /* which stands in no name */
    sha256_add(&sha, id);
    sha256_end(&sha, ret);
}

static bool is_known(const GatewayTask *task, Str id)
{
    uint8_t key[SHA256_BYTES];
    key_make(task, id, key);
    return map_get(&task->gateway->given.ids, str_make((const char *)key, sizeof key)) != NULL;
}

static void learn(GatewayTask *task, Str id)
{
    GivenIds *given = &task->gateway->given;
    Given *it = xcalloc(1, sizeof *it);
    Str key = str_make((const char *)it->key, sizeof it->key);
    key_make(task, id, it->key);
    if (map_get(&given->ids, key)) {
        free(it);
        return;
    }
    if (given->n == GIVEN_IDS_MAX) {
        forget(given, CONTAINER_OF(given->oldest.next, Given, node));
        atomic_fetch_add(&task->gateway->state_forgotten, 1);
    }
    list_push_back(&given->oldest, &it->node);
    map_put(&given->ids, key, it);
    given->n++;
}

/* --- what answers give ------------------------------------------------------------------------ */

static void on_given(void *ctx, const char *member, Str id)
{
    ModelCall *call = ctx;
    GatewayCall *record = &call->record;
    if (id.len > PROVIDER_REF_BYTES_MAX) return;
    if (member == provider_ref_response && str_empty(record->response_id))
        record->response_id = arena_str(&call->arena, id);
    learn(call->task, id);
}

void call_note_state(ModelCall *call, Api api, const Json *doc)
{
    provider_refs_given(api, doc, on_given, call);
}

static bool may_give(Api api, Str answer)
{
    static const Str words[] = { STR("\"container\""), STR("\"audio\""), STR("\"file_id\"") };
    if (api == API_RESPONSES) return true;
    for (size_t i = 0; i < ARRAY_N(words); i++)
        if (str_find(answer, words[i]) >= 0) return true;
    return false;
}

static void read_stream(ModelCall *call, Str body, Arena *scratch)
{
    CLEANUP(sse_deinit) SseParser parser;
    SsePiece piece;
    const Json *doc;
    int r;
    sse_init(&parser, GATEWAY_EVENT_BYTES_MAX);
    while ((r = sse_next(&parser, &body, &piece)) == SSE_EVENT || r == SSE_OTHER) {
        if (r == SSE_OTHER) continue;
        if (json_parse(scratch, piece.data, NULL, &doc, NULL) == 0)
            call_note_state(call, call->info.api, doc);
        arena_clear(scratch);
    }
}

void recording_note_state(ModelCall *call, const Recording *recording)
{
    CLEANUP(arena_deinit) Arena scratch = { 0 };
    const Json *doc;
    Str body = buf_str(&recording->body);
    if (!may_give(call->info.api, body)) return;
    arena_init(&scratch, GATEWAY_JSON_FACTOR * body.len + 65536);
    if (recording->streamed) read_stream(call, body, &scratch);
    else if (json_parse(&scratch, body, NULL, &doc, NULL) == 0)
        call_note_state(call, call->info.api, doc);
}

/* --- what requests name ----------------------------------------------------------------------- */

typedef struct {
    const GatewayTask *task;
    StateName *ret; /* the first that is not known */
    Str response;   /* likewise, of earlier responses: the control plane may know it */
} Naming;

static void on_named(void *ctx, const char *member, Str id)
{
    Naming *naming = ctx;
    const GatewayConfig *config = naming->task->gateway->config;
    if (glob_find(config->provider_state, config->provider_state_n, id) >= 0) return;
    if (id.len <= PROVIDER_REF_BYTES_MAX && is_known(naming->task, id)) return;
    if (member == provider_ref_response && id.len <= PROVIDER_REF_BYTES_MAX) naming->response = id;
    else if (!naming->ret->member) *naming->ret = (StateName){ member, id };
}

/* Returns 0 (the tenant was given it), -ENOENT, another negative errno. */
static int ask_wait(const GatewayTask *task, Str id)
{
    const GatewaySink *sink = task->options.sink;
    JournalAsk ask = { .what = JOURNAL_OWNS, .id = id };
    JournalReply reply = { .rows_n = 0 };
    if (!sink->state_wait) return -ENOENT;
    CLEANUP(arena_deinit) Arena arena = { 0 };
    arena_init(&arena, 65536);
    return sink->state_wait(sink->ctx, &ask, &arena, &reply);
}

int task_check_state_wait(GatewayTask *task, Api api, const Json *body, StateName *ret)
{
    Naming naming = { .task = task, .ret = ret };
    *ret = (StateName){ .member = NULL };
    provider_refs_named(api, body, on_named, &naming);
    if (ret->member || str_empty(naming.response)) return 0;
    int r = ask_wait(task, naming.response);
    if (r == 0) learn(task, naming.response);
    else if (r == -ENOENT) *ret = (StateName){ provider_ref_response, naming.response };
    return r == -ENOENT ? 0 : r;
}

void state_name_text(const StateName *name, char *out, size_t n)
{
    Str id = str_sub(name->id, 0, 64);
    snprintf(out, n,
             "`%s` names `%.*s`, which your tenant was not given through this gateway: what a "
             "provider keeps belongs to all who use its key (tools.providerState lists what may be "
             "named all the same)",
             name->member, STR_ARG(id));
}

int call_check_state_wait(ModelCall *call)
{
    StateName name;
    char text[CALL_MESSAGE_MAX];
    int r = task_check_state_wait(call->task, call->info.api, call->json, &name);
    if (r == -ECANCELED) return r;
    if (r < 0)
        return call_problem(call, PROBLEM_INTERNAL, NULL,
                            "whose response that is cannot be looked up just now");
    if (!name.member) return 0;
    state_name_text(&name, text, sizeof text);
    return call_problem(call, PROBLEM_STATE, name.member, "%s", text);
}
