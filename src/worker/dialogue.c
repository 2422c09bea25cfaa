#include "worker/dialogue.h"

#include "base/diag.h"

#define MESSAGES_OUTPUT_TOKENS_DEFAULT 4096 /* Anthropic demands a cap */

/* --- what is sent ----------------------------------------------------------------------------- */

/* The oldest turn that is sent: a turn counts one message for the answer and one for each
 * result. */
static const DialogueTurn *window_first(const Dialogue *d)
{
    size_t total = 1, skip_max = d->turns_n ? d->turns_n - 1 : 0;
    const DialogueTurn *first = d->first;
    for (const DialogueTurn *t = d->first; t; t = t->next) total += 1 + t->calls_n;
    assert((d->first == NULL) == (d->turns_n == 0));
    while (skip_max-- > 0 && total > (size_t)MAX(d->spec->memory_window, 0)) {
        total -= 1 + first->calls_n;
        first = first->next;
    }
    return first;
}

/* The oldest exchange of the past that is sent: what the task says itself goes first. */
static size_t past_first(const Dialogue *d)
{
    size_t own = 1, window = (size_t)MAX(d->spec->memory_window, 0);
    for (const DialogueTurn *t = d->first; t; t = t->next) own += 1 + t->calls_n;
    size_t room = own < window ? (window - own) / 2 : 0;
    return d->past_n - MIN(room, d->past_n);
}

/* Members of the sampling object that one protocol knows, under its name. */
typedef struct {
    const char *key, *name;
} SamplingName;

static void sampling_write(JsonOut *out, const Json *sampling, const SamplingName *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const Json *v = json_get(sampling, names[i].key);
        if (v) json_out_kval(out, names[i].name, v);
    }
}

static void role(JsonOut *out, const char *name)
{
    json_out_object(out);
    json_out_kcstr(out, "role", name);
}

/* --- OpenAI chat ------------------------------------------------------------------------------ */

static void chat_text(JsonOut *out, const char *who, Str text)
{
    role(out, who);
    json_out_kstr(out, "content", text);
    json_out_object_end(out);
}

static void chat_call(JsonOut *out, const DialogueCall *call)
{
    json_out_object(out);
    json_out_kstr(out, "id", call->id);
    json_out_kcstr(out, "type", "function");
    json_out_key(out, "function");
    json_out_object(out);
    json_out_kstr(out, "name", call->name);
    json_out_kstr(out, "arguments", call->arguments);
    json_out_object_end(out);
    json_out_object_end(out);
}

static void chat_turn(JsonOut *out, const DialogueTurn *turn)
{
    role(out, "assistant");
    json_out_key(out, "content");
    if (turn->text.len) json_out_str(out, turn->text);
    else json_out_null(out);
    json_out_key(out, "tool_calls");
    json_out_array(out);
    for (size_t i = 0; i < turn->calls_n; i++) chat_call(out, &turn->calls[i]);
    json_out_array_end(out);
    json_out_object_end(out);
    for (size_t i = 0; i < turn->calls_n; i++) {
        role(out, "tool");
        json_out_kstr(out, "tool_call_id", turn->calls[i].id);
        json_out_kstr(out, "content", turn->calls[i].result);
        json_out_object_end(out);
    }
}

static void chat_tools(JsonOut *out, const ToolSet *tools)
{
    json_out_key(out, "tools");
    json_out_array(out);
    for (size_t i = 0; i < tools->n; i++) {
        const Tool *tool = &tools->items[i];
        json_out_object(out);
        json_out_kcstr(out, "type", "function");
        json_out_key(out, "function");
        json_out_object(out);
        json_out_kstr(out, "name", tool->name);
        json_out_kstr(out, "description", tool->description);
        json_out_kval(out, "parameters", tool->input_schema);
        json_out_object_end(out);
        json_out_object_end(out);
    }
    json_out_array_end(out);
}

static void chat_write(const Dialogue *d, JsonOut *out)
{
    static const SamplingName names[] = {
        { "temperature", "temperature" },
        { "topP", "top_p" },
        { "seed", "seed" },
        { "stop", "stop" },
        { "presencePenalty", "presence_penalty" },
        { "frequencyPenalty", "frequency_penalty" },
        { "reasoningEffort", "reasoning_effort" },
    };
    SamplingName cap = { "maxOutputTokens", d->cap_member };
    json_out_kstr(out, "model", d->spec->model);
    sampling_write(out, d->spec->sampling, names, ARRAY_N(names));
    sampling_write(out, d->spec->sampling, &cap, 1);
    json_out_key(out, "messages");
    json_out_array(out);
    if (d->spec->prompt_text.len) chat_text(out, "system", d->spec->prompt_text);
    for (size_t i = past_first(d); i < d->past_n; i++) {
        chat_text(out, "user", d->past[i].user);
        chat_text(out, "assistant", d->past[i].assistant);
    }
    chat_text(out, "user", d->input);
    for (const DialogueTurn *t = window_first(d); t; t = t->next) chat_turn(out, t);
    json_out_array_end(out);
    if (d->spec->tools.n) chat_tools(out, &d->spec->tools);
}

static int chat_read(const Json *v, Arena *arena, DialogueTurn *turn)
{
    const Json *choice = json_at(json_get(v, "choices"), 0);
    const Json *message = json_get(choice, "message");
    const Json *calls = json_get(message, "tool_calls");
    if (json_type(message) != JSON_OBJECT) return diag_set(-EINVAL, "the answer has no message");
    turn->text = arena_str(arena, json_str(json_get(message, "content")));
    turn->cut = str_eq(json_str(json_get(choice, "finish_reason")), STR("length"));
    for (JsonIter it = json_iter(calls); json_next(&it) && turn->calls_n < DIALOGUE_CALLS_MAX;) {
        const Json *function = json_get(it.value, "function");
        turn->calls[turn->calls_n++] = (DialogueCall){
            .id = arena_str(arena, json_str(json_get(it.value, "id"))),
            .name = arena_str(arena, json_str(json_get(function, "name"))),
            .arguments = arena_str(arena, json_str(json_get(function, "arguments"))),
        };
    }
    return 0;
}

/* --- Anthropic messages ----------------------------------------------------------------------- */

static void block(JsonOut *out, const char *type)
{
    json_out_object(out);
    json_out_kcstr(out, "type", type);
}

static void messages_text(JsonOut *out, const char *who, Str text)
{
    role(out, who);
    json_out_kstr(out, "content", text);
    json_out_object_end(out);
}

static void messages_turn(JsonOut *out, const DialogueTurn *turn)
{
    role(out, "assistant");
    json_out_key(out, "content");
    json_out_array(out);
    if (turn->text.len) {
        block(out, "text");
        json_out_kstr(out, "text", turn->text);
        json_out_object_end(out);
    }
    for (size_t i = 0; i < turn->calls_n; i++) {
        block(out, "tool_use");
        json_out_kstr(out, "id", turn->calls[i].id);
        json_out_kstr(out, "name", turn->calls[i].name);
        json_out_kraw(out, "input", turn->calls[i].arguments);
        json_out_object_end(out);
    }
    json_out_array_end(out);
    json_out_object_end(out);
}

static void messages_results(JsonOut *out, const DialogueTurn *turn)
{
    role(out, "user");
    json_out_key(out, "content");
    json_out_array(out);
    for (size_t i = 0; i < turn->calls_n; i++) {
        block(out, "tool_result");
        json_out_kstr(out, "tool_use_id", turn->calls[i].id);
        json_out_kstr(out, "content", turn->calls[i].result);
        if (turn->calls[i].is_error) json_out_kbool(out, "is_error", true);
        json_out_object_end(out);
    }
    json_out_array_end(out);
    json_out_object_end(out);
}

static void messages_tools(JsonOut *out, const ToolSet *tools)
{
    json_out_key(out, "tools");
    json_out_array(out);
    for (size_t i = 0; i < tools->n; i++) {
        json_out_object(out);
        json_out_kstr(out, "name", tools->items[i].name);
        json_out_kstr(out, "description", tools->items[i].description);
        json_out_kval(out, "input_schema", tools->items[i].input_schema);
        json_out_object_end(out);
    }
    json_out_array_end(out);
}

static void messages_write(const Dialogue *d, JsonOut *out)
{
    static const SamplingName names[] = {
        { "temperature", "temperature" },
        { "topP", "top_p" },
        { "topK", "top_k" },
        { "stop", "stop_sequences" },
    };
    const Json *cap = json_get(d->spec->sampling, "maxOutputTokens");
    json_out_kstr(out, "model", d->spec->model);
    json_out_ki64(out, "max_tokens", json_i64_or(cap, MESSAGES_OUTPUT_TOKENS_DEFAULT));
    sampling_write(out, d->spec->sampling, names, ARRAY_N(names));
    if (d->spec->prompt_text.len) json_out_kstr(out, "system", d->spec->prompt_text);
    json_out_key(out, "messages");
    json_out_array(out);
    for (size_t i = past_first(d); i < d->past_n; i++) {
        messages_text(out, "user", d->past[i].user);
        messages_text(out, "assistant", d->past[i].assistant);
    }
    messages_text(out, "user", d->input);
    for (const DialogueTurn *t = window_first(d); t; t = t->next) {
        messages_turn(out, t);
        messages_results(out, t);
    }
    json_out_array_end(out);
    if (d->spec->tools.n) messages_tools(out, &d->spec->tools);
}

static int compact(Arena *arena, const Json *v, Str *ret)
{
    CLEANUP(buf_deinit) Buf buf = { 0 };
    buf_init(&buf, arena->max);
    JsonOut out = json_out(&buf);
    if (v) json_out_value(&out, v);
    else json_out_raw(&out, STR("{}"));
    *ret = json_out_ok(&out) ? arena_str(arena, buf_str(&buf)) : STR_NULL;
    return ret->ptr ? 0 : -ENOMEM;
}

static int messages_block_read(const Json *v, Arena *arena, Buf *text, DialogueTurn *turn)
{
    Str type = json_str(json_get(v, "type"));
    if (str_eq(type, STR("text")))
        return buf_add(text, json_str(json_get(v, "text"))) ? 0 : -ENOMEM;
    if (!str_eq(type, STR("tool_use")) || turn->calls_n == DIALOGUE_CALLS_MAX) return 0;
    DialogueCall *call = &turn->calls[turn->calls_n++];
    call->id = arena_str(arena, json_str(json_get(v, "id")));
    call->name = arena_str(arena, json_str(json_get(v, "name")));
    return compact(arena, json_get(v, "input"), &call->arguments);
}

static int messages_read(const Json *v, Arena *arena, DialogueTurn *turn)
{
    CLEANUP(buf_deinit) Buf text = { 0 };
    const Json *content = json_get(v, "content");
    int r = 0;
    if (json_type(content) != JSON_ARRAY) return diag_set(-EINVAL, "the answer has no content");
    buf_init(&text, arena->max);
    turn->cut = str_eq(json_str(json_get(v, "stop_reason")), STR("max_tokens"));
    for (JsonIter it = json_iter(content); r == 0 && json_next(&it);)
        r = messages_block_read(it.value, arena, &text, turn);
    turn->text = arena_str(arena, buf_str(&text));
    return r;
}

/* --- both ------------------------------------------------------------------------------------- */

int dialogue_request(const Dialogue *d, Api api, Buf *buf)
{
    JsonOut out = json_out(buf);
    assert(api == API_CHAT || api == API_MESSAGES);
    json_out_object(&out);
    if (api == API_CHAT) chat_write(d, &out);
    else messages_write(d, &out);
    json_out_object_end(&out);
    return json_out_ok(&out) ? 0 : diag_set(-ENOMEM, "the dialogue is too long");
}

static bool turn_whole(const DialogueTurn *turn)
{
    bool whole = turn->text.ptr != NULL;
    for (size_t i = 0; i < turn->calls_n; i++)
        whole = whole && turn->calls[i].id.ptr && turn->calls[i].name.ptr &&
                turn->calls[i].arguments.ptr;
    return whole;
}

int dialogue_answer(Dialogue *d, Api api, Arena *arena, Arena *scratch, Str body,
                    DialogueTurn **ret)
{
    const Json *v;
    DialogueTurn *turn = ARENA_NEW(arena, DialogueTurn);
    int r = json_parse(scratch, body, NULL, &v, NULL);
    if (r < 0) return r;
    if (turn) turn->calls = ARENA_ARRAY(arena, DialogueCall, DIALOGUE_CALLS_MAX);
    if (!turn || !turn->calls) return diag_set(-ENOMEM, "the dialogue is too long");
    r = api == API_CHAT ? chat_read(v, arena, turn) : messages_read(v, arena, turn);
    if (r == 0 && !turn_whole(turn)) r = -ENOMEM;
    if (r == -ENOMEM) return diag_set(r, "the dialogue is too long");
    if (r < 0) return r;
    if (d->last) d->last->next = turn;
    else d->first = turn;
    d->last = turn;
    d->turns_n++;
    *ret = turn;
    return 0;
}

Str dialogue_error(Arena *arena, Str body)
{
    const Json *v;
    if (json_parse(arena, body, NULL, &v, NULL) < 0) return STR_NULL;
    const Json *error = json_get(v, "error");
    return json_type(error) == JSON_STRING ? json_str(error) : json_str(json_get(error, "message"));
}
