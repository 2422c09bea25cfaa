#include "logic/provider_ref.h"

const char provider_ref_response[] = "previous_response_id";

#define DEPTH_MAX 16 /* deeper is no place of the APIs' */

typedef struct {
    ProviderRefFn fn;
    void *ctx;
} Out;

static void tell(const Out *out, const char *member, const Json *v)
{
    Str id = json_str(v);
    if (!str_empty(id)) out->fn(out->ctx, member, id);
}

/* A name, or an object that has one. */
static void tell_either(const Out *out, const char *member, const Json *v)
{
    tell(out, member, json_type(v) == JSON_OBJECT ? json_get(v, "id") : v);
}

/* What stands where a request names something, in whatever form. */
static void tell_any(const Out *out, const char *member, const Json *v)
{
    JsonType type = json_type(v);
    if (type == JSON_STRING || type == JSON_OBJECT) tell_either(out, member, v);
    else if (type != JSON_ABSENT && type != JSON_NULL) out->fn(out->ctx, member, STR("?"));
}

/* --- requests --------------------------------------------------------------------------------- */

/* Objects of the agent's own making: what stands in them means nothing to the provider. */
static bool is_foreign(Str key)
{
    static const Str keys[] = { STR("input"),  STR("arguments"), STR("parameters"),
                                STR("schema"), STR("metadata"),  STR("input_schema"),
                                STR("env"),    STR("headers") };
    for (size_t i = 0; i < ARRAY_N(keys); i++)
        if (str_eq(key, keys[i])) return true;
    return false;
}

static const char *naming(Str key)
{
    static const char *const keys[] = { "file_id",   "file_ids",         "container_id",
                                        "container", "vector_store_ids", "skill_id" };
    for (size_t i = 0; i < ARRAY_N(keys); i++)
        if (str_eq(key, str_of(keys[i]))) return keys[i];
    return NULL;
}

static void walk(const Out *out, const Json *v, int depth)
{
    if (depth > DEPTH_MAX) return;
    for (JsonIter it = json_iter(v); json_next(&it);) {
        bool keyed = json_type(v) == JSON_OBJECT;
        const char *member = keyed ? naming(it.key) : NULL;
        if (keyed && is_foreign(it.key)) continue;
        if (member && json_type(it.value) == JSON_ARRAY)
            for (JsonIter each = json_iter(it.value); json_next(&each);)
                tell(out, member, each.value);
        else if (member && json_type(it.value) == JSON_STRING) tell(out, member, it.value);
        else walk(out, it.value, depth + 1);
    }
}

/* Whether an input item has in itself what it says, so that its id is no more than a name. */
static bool is_whole(const Json *item)
{
    static const Str whole[] = { STR("function_call"), STR("function_call_output"),
                                 STR("custom_tool_call"), STR("custom_tool_call_output") };
    Str type = json_str(json_get(item, "type"));
    if (str_empty(type) || str_eq(type, STR("message")))
        return json_type(json_get(item, "content")) > JSON_NULL;
    if (str_eq(type, STR("reasoning")))
        return !str_empty(json_str(json_get(item, "encrypted_content")));
    for (size_t i = 0; i < ARRAY_N(whole); i++)
        if (str_eq(type, whole[i])) return true;
    return false;
}

static void named_responses(const Out *out, const Json *body)
{
    tell_any(out, provider_ref_response, json_get(body, "previous_response_id"));
    tell_any(out, "conversation", json_get(body, "conversation"));
    const Json *variables = json_get(json_get(body, "prompt"), "variables");
    for (JsonIter it = json_iter(variables); json_next(&it);) walk(out, it.value, 1);
    const Json *input = json_get(body, "input");
    if (json_type(input) != JSON_ARRAY) return;
    for (JsonIter it = json_iter(input); json_next(&it);) {
        if (!is_whole(it.value)) tell_any(out, "input", json_get(it.value, "id"));
        walk(out, it.value, 1);
    }
}

static void named_messages(const Out *out, const Json *body, bool audio)
{
    const Json *messages = json_get(body, "messages");
    if (json_type(messages) != JSON_ARRAY) return;
    for (JsonIter it = json_iter(messages); json_next(&it);) {
        if (audio) tell(out, "audio", json_get(json_get(it.value, "audio"), "id"));
        walk(out, json_get(it.value, "content"), 1);
    }
}

/* The provider's own tools; those of the agent's have names of their own making. */
static void named_tools(const Out *out, const Json *body)
{
    for (JsonIter it = json_iter(json_get(body, "tools")); json_next(&it);) {
        Str type = json_str(json_get(it.value, "type"));
        if (!str_eq(type, STR("function")) && !str_eq(type, STR("custom"))) walk(out, it.value, 1);
    }
}

/* All but those that the provider has for everybody. */
static void named_skills(const Out *out, const Json *skills)
{
    for (JsonIter it = json_iter(skills); json_next(&it);)
        if (!str_eq(json_str(json_get(it.value, "type")), STR("anthropic"))) walk(out, it.value, 1);
}

void provider_refs_named(Api api, const Json *body, ProviderRefFn fn, void *ctx)
{
    Out out = { fn, ctx };
    if (api == API_EMBEDDINGS || json_type(body) != JSON_OBJECT) return;
    if (api == API_RESPONSES) named_responses(&out, body);
    else named_messages(&out, body, api == API_CHAT);
    if (api == API_MESSAGES) {
        tell_any(&out, "container", json_get(body, "container"));
        named_skills(&out, json_get(json_get(body, "container"), "skills"));
        walk(&out, json_get(body, "system"), 1);
    }
    named_tools(&out, body);
}

/* --- answers ---------------------------------------------------------------------------------- */

static void given_note(const Out *out, const Json *annotation)
{
    tell(out, "file_id", json_get(annotation, "file_id"));
    tell(out, "container_id", json_get(annotation, "container_id"));
}

static void given_item(const Out *out, const Json *item)
{
    tell(out, "input", json_get(item, "id"));
    tell(out, "container_id", json_get(item, "container_id"));
    if (!str_eq(json_str(json_get(item, "type")), STR("message"))) return;
    for (JsonIter it = json_iter(json_get(item, "content")); json_next(&it);)
        for (JsonIter a = json_iter(json_get(it.value, "annotations")); json_next(&a);)
            given_note(out, a.value);
}

static void given_response(const Out *out, const Json *response)
{
    tell(out, provider_ref_response, json_get(response, "id"));
    tell_either(out, "conversation", json_get(response, "conversation"));
    for (JsonIter it = json_iter(json_get(response, "output")); json_next(&it);)
        given_item(out, it.value);
}

static void given_responses(const Out *out, const Json *doc)
{
    const Json *response = json_get(doc, "response");
    if (response) given_response(out, response);
    else if (json_type(json_get(doc, "output")) == JSON_ARRAY) given_response(out, doc);
    given_item(out, json_get(doc, "item"));
    given_note(out, json_get(doc, "annotation"));
}

/* What code that the provider ran has written. */
static void given_block(const Out *out, const Json *block)
{
    if (!str_ends_with(json_str(json_get(block, "type")), STR("code_execution_tool_result")))
        return;
    const Json *files = json_get(json_get(block, "content"), "content");
    for (JsonIter it = json_iter(files); json_next(&it);)
        tell(out, "file_id", json_get(it.value, "file_id"));
}

static void given_messages(const Out *out, const Json *doc)
{
    const Json *from[] = { doc, json_get(doc, "message"), json_get(doc, "delta") };
    for (size_t i = 0; i < ARRAY_N(from); i++)
        tell(out, "container", json_get(json_get(from[i], "container"), "id"));
    given_block(out, json_get(doc, "content_block"));
    for (JsonIter it = json_iter(json_get(doc, "content")); json_next(&it);)
        given_block(out, it.value);
}

static void given_chat(const Out *out, const Json *doc)
{
    for (JsonIter it = json_iter(json_get(doc, "choices")); json_next(&it);) {
        tell(out, "audio", json_get(json_get(json_get(it.value, "message"), "audio"), "id"));
        tell(out, "audio", json_get(json_get(json_get(it.value, "delta"), "audio"), "id"));
    }
}

void provider_refs_given(Api api, const Json *doc, ProviderRefFn fn, void *ctx)
{
    Out out = { fn, ctx };
    switch (api) {
    case API_RESPONSES: given_responses(&out, doc); break;
    case API_MESSAGES: given_messages(&out, doc); break;
    case API_CHAT: given_chat(&out, doc); break;
    case API_EMBEDDINGS:
    case API_N_: break;
    }
}
