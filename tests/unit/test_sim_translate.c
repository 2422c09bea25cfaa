/* Random conversations and answers, written by this test in each API's words: translation from any
 * one to any other must mean the same as what was written for that other, and streams the same as
 * plain answers. A seed as the first argument replays one run. */
#include "tests/unit/translate_fixture.h"

#include <stdlib.h>

#include "codec/sse.h"
#include "logic/translate_private.h"
#include "tests/unit/random.h"

#if defined(__SANITIZE_THREAD__)
#define RUNS 400 /* the plain build and AddressSanitizer run them all */
#else
#define RUNS 4000
#endif
#define TURNS_MAX 8
#define PARTS_MAX 4

static uint64_t only_seed;

static const Str words[] = { STR("hello"),
                             STR("\"quoted\" \\ back"),
                             STR("line\nbreak\ttab"),
                             STR("Grüße"),
                             STR("日本語"),
                             STR("\U0001F600"),
                             STR("{}"),
                             STR("data: [DONE]\n\nx"),
                             STR("a"),
                             STR("\x7f") };
static const Str arguments[] = {
    STR("{}"), STR("{\"a\":1}"), STR("{\"q\":\"x \\\"y\\\"\\n\"}"),
    STR("{\"n\":[1,2.5,null,true],\"o\":{\"é\":12345678901234567890}}")
};
static const Str results[] = { STR("ok"), STR("{\"found\":3}"), STR("Zeile\nzwei") };

/* --- what is said, in no API's words ---------------------------------------------------------- */

typedef struct {
    PartKind kind;
    Str text;
    int id;
    bool is_error, url;
} Said;

typedef struct {
    TalkRole role;
    Said parts[2 * PARTS_MAX];
    size_t n;
} SaidTurn;

typedef struct {
    SaidTurn turns[TURNS_MAX];
    size_t n;
    bool stream, one_call;
    int choice; /* of 4 */
    int64_t cap;
} Conversation;

static Str pick(Random *r, const Str *list, size_t n)
{
    return list[random_next(r) % n];
}
#define PICK(r, list) pick((r), (list), ARRAY_N(list))

static void add_said(SaidTurn *turn, PartKind kind, Str text, int id)
{
    turn->parts[turn->n++] = (Said){ .kind = kind, .text = text, .id = id };
}

static void say_assistant(Random *r, SaidTurn *turn, int *id)
{
    if (random_next(r) % 4) add_said(turn, PART_TEXT, PICK(r, words), 0);
    int64_t calls = random_range(r, turn->n == 0 ? 1 : 0, 3);
    for (int64_t i = 0; i < calls; i++) add_said(turn, PART_CALL, PICK(r, arguments), (*id)++);
}

static void say_user(Random *r, SaidTurn *turn, const SaidTurn *before)
{
    for (size_t i = 0; before && i < before->n; i++) {
        if (before->parts[i].kind != PART_CALL) continue;
        add_said(turn, PART_RESULT, PICK(r, results), before->parts[i].id);
        turn->parts[turn->n - 1].is_error = random_next(r) % 4 == 0;
    }
    int64_t more = random_range(r, turn->n == 0 ? 1 : 0, 2);
    for (int64_t i = 0; i < more; i++) {
        bool image = random_next(r) % 4 == 0;
        add_said(turn, image ? PART_IMAGE : PART_TEXT, image ? STR("aGk=") : PICK(r, words), 0);
        turn->parts[turn->n - 1].url = random_next(r) % 2;
    }
}

static void converse(Random *r, Conversation *c)
{
    memset(c, 0, sizeof *c);
    int id = 0;
    if (random_next(r) % 2) {
        SaidTurn *system = &c->turns[c->n++];
        system->role = ROLE_SYSTEM;
        add_said(system, PART_TEXT, PICK(r, words), 0);
    }
    size_t turns = c->n + (size_t)random_range(r, 1, TURNS_MAX - 2);
    TalkRole role = ROLE_USER;
    for (; c->n < turns; c->n++) {
        SaidTurn *turn = &c->turns[c->n];
        const SaidTurn *before = c->n && c->turns[c->n - 1].role == ROLE_ASSISTANT ? turn - 1
                                                                                   : NULL;
        turn->role = role;
        if (role == ROLE_USER) say_user(r, turn, before);
        else say_assistant(r, turn, &id);
        role = role == ROLE_USER ? ROLE_ASSISTANT : ROLE_USER;
    }
    c->stream = random_next(r) % 2;
    c->one_call = random_next(r) % 4 == 0;
    c->choice = (int)(random_next(r) % 4);
    c->cap = random_range(r, 1, 4000);
}

/* --- in each API's words ---------------------------------------------------------------------- */

static Str call_id(int id)
{
    return arena_printf(&fixture, "call_%d", id);
}

static Str image_url(const Said *said)
{
    return said->url ? STR("https://example.org/a.png")
                     : arena_printf(&fixture, "data:image/png;base64,%.*s", STR_ARG(said->text));
}

static void out_object_of(JsonOut *out, const char *key, const char *inner, Str text)
{
    json_out_key(out, key);
    json_out_object(out);
    json_out_kstr(out, inner, text);
    json_out_object_end(out);
}

/* "Error: " is how an API without a mark for it says so. */
static Str result_text(const Said *said)
{
    return said->is_error ? arena_printf(&fixture, "Error: %.*s", STR_ARG(said->text)) : said->text;
}

static void chat_user(JsonOut *out, const SaidTurn *turn)
{
    bool any = false;
    for (size_t i = 0; i < turn->n; i++) {
        const Said *said = &turn->parts[i];
        any |= said->kind != PART_RESULT;
        if (said->kind != PART_RESULT) continue;
        json_out_object(out);
        json_out_kcstr(out, "role", "tool");
        json_out_kstr(out, "tool_call_id", call_id(said->id));
        json_out_kstr(out, "content", result_text(said));
        json_out_object_end(out);
    }
    if (!any) return;
    json_out_object(out);
    json_out_kcstr(out, "role", "user");
    json_out_key(out, "content");
    json_out_array(out);
    for (size_t i = 0; i < turn->n; i++) {
        const Said *said = &turn->parts[i];
        if (said->kind == PART_RESULT) continue;
        bool image = said->kind == PART_IMAGE;
        json_out_object(out);
        json_out_kcstr(out, "type", image ? "image_url" : "text");
        if (image) out_object_of(out, "image_url", "url", image_url(said));
        else json_out_kstr(out, "text", said->text);
        json_out_object_end(out);
    }
    json_out_array_end(out);
    json_out_object_end(out);
}

static void chat_call(JsonOut *out, const Said *said)
{
    json_out_object(out);
    json_out_kstr(out, "id", call_id(said->id));
    json_out_kcstr(out, "type", "function");
    json_out_key(out, "function");
    json_out_object(out);
    json_out_kcstr(out, "name", "f");
    json_out_kstr(out, "arguments", said->text);
    json_out_object_end(out);
    json_out_object_end(out);
}

static void chat_said(JsonOut *out, const SaidTurn *turn)
{
    static const char *const roles[] = { "system", "user", "assistant" };
    bool calls = false;
    json_out_object(out);
    json_out_kcstr(out, "role", roles[turn->role]);
    for (size_t i = 0; i < turn->n; i++) {
        if (turn->parts[i].kind == PART_TEXT) json_out_kstr(out, "content", turn->parts[i].text);
        calls |= turn->parts[i].kind == PART_CALL;
    }
    if (calls) {
        json_out_key(out, "tool_calls");
        json_out_array(out);
        for (size_t i = 0; i < turn->n; i++)
            if (turn->parts[i].kind == PART_CALL) chat_call(out, &turn->parts[i]);
        json_out_array_end(out);
    }
    json_out_object_end(out);
}

static void write_chat(JsonOut *out, const Conversation *c)
{
    static const char *const choices[] = {
        NULL, "\"auto\"", "\"required\"", "{\"type\":\"function\",\"function\":{\"name\":\"f\"}}"
    };
    json_out_key(out, "messages");
    json_out_array(out);
    for (size_t i = 0; i < c->n; i++) {
        if (c->turns[i].role == ROLE_USER) chat_user(out, &c->turns[i]);
        else chat_said(out, &c->turns[i]);
    }
    json_out_array_end(out);
    json_out_kraw(out, "tools",
                  STR("[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":"
                      "{\"type\":\"object\"}}}]"));
    if (choices[c->choice]) json_out_kraw(out, "tool_choice", str_of(choices[c->choice]));
    if (c->one_call) json_out_kbool(out, "parallel_tool_calls", false);
    json_out_ki64(out, "max_completion_tokens", c->cap);
}

static void messages_part(JsonOut *out, const Said *said)
{
    json_out_object(out);
    switch (said->kind) {
    case PART_CALL:
        json_out_kcstr(out, "type", "tool_use");
        json_out_kstr(out, "id", call_id(said->id));
        json_out_kcstr(out, "name", "f");
        json_out_kraw(out, "input", said->text);
        break;
    case PART_RESULT:
        json_out_kcstr(out, "type", "tool_result");
        json_out_kstr(out, "tool_use_id", call_id(said->id));
        json_out_kstr(out, "content", said->text);
        if (said->is_error) json_out_kbool(out, "is_error", true);
        break;
    case PART_IMAGE:
        json_out_kcstr(out, "type", "image");
        json_out_key(out, "source");
        json_out_object(out);
        json_out_kcstr(out, "type", said->url ? "url" : "base64");
        if (!said->url) json_out_kcstr(out, "media_type", "image/png");
        json_out_kstr(out, said->url ? "url" : "data", said->url ? image_url(said) : said->text);
        json_out_object_end(out);
        break;
    default: json_out_kcstr(out, "type", "text"); json_out_kstr(out, "text", said->text);
    }
    json_out_object_end(out);
}

static void write_messages(JsonOut *out, const Conversation *c)
{
    static const char *const choices[] = { "auto", "auto", "any", "tool" };
    if (c->turns[0].role == ROLE_SYSTEM) json_out_kstr(out, "system", c->turns[0].parts[0].text);
    json_out_key(out, "messages");
    json_out_array(out);
    for (size_t i = 0; i < c->n; i++) {
        const SaidTurn *turn = &c->turns[i];
        if (turn->role == ROLE_SYSTEM) continue;
        json_out_object(out);
        json_out_kcstr(out, "role", turn->role == ROLE_USER ? "user" : "assistant");
        json_out_key(out, "content");
        json_out_array(out);
        for (size_t p = 0; p < turn->n; p++) messages_part(out, &turn->parts[p]);
        json_out_array_end(out);
        json_out_object_end(out);
    }
    json_out_array_end(out);
    json_out_kraw(out, "tools", STR("[{\"name\":\"f\",\"input_schema\":{\"type\":\"object\"}}]"));
    if (c->choice || c->one_call) {
        json_out_key(out, "tool_choice");
        json_out_object(out);
        json_out_kcstr(out, "type", choices[c->choice]);
        if (c->choice == 3) json_out_kcstr(out, "name", "f");
        if (c->one_call) json_out_kbool(out, "disable_parallel_tool_use", true);
        json_out_object_end(out);
    }
    json_out_ki64(out, "max_tokens", c->cap);
}

static void responses_part(JsonOut *out, TalkRole role, const Said *said)
{
    static const char *const roles[] = { "developer", "user", "assistant" };
    json_out_object(out);
    if (said->kind == PART_CALL) {
        json_out_kcstr(out, "type", "function_call");
        json_out_kstr(out, "call_id", call_id(said->id));
        json_out_kcstr(out, "name", "f");
        json_out_kstr(out, "arguments", said->text);
    } else if (said->kind == PART_RESULT) {
        json_out_kcstr(out, "type", "function_call_output");
        json_out_kstr(out, "call_id", call_id(said->id));
        json_out_kstr(out, "output", result_text(said));
    } else {
        json_out_kcstr(out, "role", roles[role]);
        json_out_key(out, "content");
        json_out_array(out);
        json_out_object(out);
        bool image = said->kind == PART_IMAGE;
        json_out_kcstr(out, "type",
                       image                    ? "input_image"
                       : role == ROLE_ASSISTANT ? "output_text"
                                                : "input_text");
        json_out_kstr(out, image ? "image_url" : "text", image ? image_url(said) : said->text);
        json_out_object_end(out);
        json_out_array_end(out);
    }
    json_out_object_end(out);
}

static void write_responses(JsonOut *out, const Conversation *c)
{
    static const char *const choices[] = { NULL, "\"auto\"", "\"required\"",
                                           "{\"type\":\"function\",\"name\":\"f\"}" };
    json_out_key(out, "input");
    json_out_array(out);
    for (size_t i = 0; i < c->n; i++)
        for (size_t p = 0; p < c->turns[i].n; p++)
            responses_part(out, c->turns[i].role, &c->turns[i].parts[p]);
    json_out_array_end(out);
    json_out_kraw(out, "tools",
                  STR("[{\"type\":\"function\",\"name\":\"f\",\"strict\":false,\"parameters\":"
                      "{\"type\":\"object\"}}]"));
    if (choices[c->choice]) json_out_kraw(out, "tool_choice", str_of(choices[c->choice]));
    if (c->one_call) json_out_kbool(out, "parallel_tool_calls", false);
    json_out_ki64(out, "max_output_tokens", c->cap);
}

static Str written(Api api, const Conversation *c)
{
    Buf text;
    buf_init(&text, 1 << 20);
    JsonOut out = json_out(&text);
    json_out_object(&out);
    json_out_kcstr(&out, "model", "m");
    if (c->stream) json_out_kbool(&out, "stream", true);
    if (api == API_CHAT) write_chat(&out, c);
    else if (api == API_MESSAGES) write_messages(&out, c);
    else write_responses(&out, c);
    json_out_object_end(&out);
    assert_true(json_out_ok(&out));
    return kept(&text);
}

/* --- what it means ---------------------------------------------------------------------------- */

static const TalkApi *const readers[API_N_] = { &talk_chat, &talk_responses, &talk_messages, NULL };

static void mean_part(Buf *out, const Part *part)
{
    static const char *const kinds[] = { "text", "refusal", "image", "file", "call", "result" };
    Str joined = STR_NULL;
    buf_printf(out, "  %s %.*s %.*s: ", kinds[part->kind], STR_ARG(part->id), STR_ARG(part->name));
    if (part->is_error) buf_printf(out, "Error: ");
    if (part->kind == PART_RESULT) {
        assert_int_equal(talk_joined_text(&fixture, &part->content, &joined), 0);
        buf_add(out, joined);
    } else {
        buf_add(out, part->text);
        buf_printf(out, " %.*s %.*s", STR_ARG(part->media_type), STR_ARG(part->data));
    }
    buf_add_char(out, '\n');
}

static void mean_call(Buf *out, const Part *part)
{
    buf_printf(out, "  call %.*s %.*s: %.*s\n", STR_ARG(part->id), STR_ARG(part->name),
               STR_ARG(talk_json_text(&fixture, parsed(part->text))));
}

static void mean_parts(Buf *out, const Parts *parts)
{
    for (const Part *part = parts->first; part; part = part->next)
        if (part->kind == PART_RESULT) mean_part(out, part);
    for (const Part *part = parts->first; part; part = part->next) {
        if (part->kind == PART_CALL) mean_call(out, part);
        else if (part->kind != PART_RESULT) mean_part(out, part);
    }
}

static Str meaning(Api api, Str body)
{
    static const char *const roles[] = { "system", "user", "assistant" };
    TranslateFault fault = { .param = NULL };
    Talk *talk = ARENA_NEW(&fixture, Talk);
    TalkReader reader = { &fixture, talk, &fault };
    if (readers[api]->read_request(&reader, parsed(body)) != 0)
        fail_msg("%s: %.*s", fault.text, STR_ARG(body));
    Buf out;
    buf_init(&out, 1 << 20);
    for (const Turn *turn = talk->first; turn; turn = turn->next) {
        buf_printf(&out, "%s\n", roles[turn->role]);
        mean_parts(&out, &turn->parts);
    }
    TalkChoice choice = talk->choice == CHOICE_AUTO ? CHOICE_UNSAID : talk->choice;
    for (const TalkTool *tool = talk->tools; tool; tool = tool->next)
        buf_printf(&out, "tool %.*s %d %.*s\n", STR_ARG(tool->name), tool->strict,
                   STR_ARG(talk_json_text(&fixture, tool->schema)));
    buf_printf(&out, "choice %d %.*s one %d stream %d cap %" PRId64 "\n", choice,
               STR_ARG(talk->choice_tool), talk->one_call, talk->stream, talk->out_cap);
    return kept(&out);
}

static Str translated(Api from, Api to, Str body)
{
    static const TranslateTarget target = { .model = { "m", 1 } };
    TranslateFault fault;
    Buf out;
    buf_init(&out, 1 << 20);
    int r = translate_request(&fixture, from, parsed(body), to, &target, &out, &fault);
    if (r != 0) fail_msg("%s: %.*s", fault.text, STR_ARG(body));
    return kept(&out);
}

static void expect_same(uint64_t seed, const char *what, Str got, Str want)
{
    if (str_eq(got, want)) return;
    fail_msg("seed %" PRIu64 ", %s:\n%.*s\nis not\n%.*s", seed, what, STR_ARG(got), STR_ARG(want));
}

static void one_conversation(uint64_t seed)
{
    Random r = { seed };
    Conversation *c = ARENA_NEW(&fixture, Conversation);
    converse(&r, c);
    Str want = meaning(API_CHAT, written(API_CHAT, c));
    for (Api from = API_CHAT; from <= API_MESSAGES; from++) {
        Str body = written(from, c);
        /* is_error becomes words on the way; written so, all say the same */
        expect_same(seed, "written", meaning(from, body), want);
        for (Api to = API_CHAT; to <= API_MESSAGES; to++) {
            if (to == from) continue;
            Str there = translated(from, to, body);
            expect_same(seed, "there", meaning(to, there), want);
            expect_same(seed, "and back", meaning(from, translated(to, from, there)), want);
        }
    }
}

static void test_conversations(void **state)
{
    (void)state;
    for (uint64_t seed = only_seed; seed < (only_seed ? only_seed + 1 : RUNS); seed++) {
        one_conversation(seed);
        arena_clear(&fixture);
    }
}

/* --- answers, plain and streamed -------------------------------------------------------------- */

/* One turn of the assistant's; the texts come before the calls, as they do. */
typedef struct {
    SaidTurn turn;
    StopReason stop;
    int64_t input, cached, output;
} Reply;

static Reply reply_make(Random *r)
{
    Reply reply = { .stop = STOP_END };
    int id = 0;
    say_assistant(r, &reply.turn, &id);
    if (id > 0) reply.stop = STOP_TOOLS;
    else if (random_next(r) % 3 == 0) reply.stop = STOP_LENGTH;
    reply.cached = random_range(r, 0, 50);
    reply.input = reply.cached + random_range(r, 0, 100);
    reply.output = random_range(r, 0, 100);
    return reply;
}

static Str plain(Api api, const Reply *reply)
{
    Buf text;
    buf_init(&text, 1 << 20);
    JsonOut out = json_out(&text);
    json_out_object(&out);
    json_out_kcstr(&out, "id", "x1");
    json_out_kcstr(&out, "model", "m");
    if (api == API_CHAT) {
        json_out_key(&out, "choices");
        json_out_array(&out);
        json_out_object(&out);
        json_out_kcstr(&out, "finish_reason", talk_stop_word(API_CHAT, reply->stop));
        json_out_key(&out, "message");
        chat_said(&out, &reply->turn);
        json_out_object_end(&out);
        json_out_array_end(&out);
        json_out_kraw(&out, "usage",
                      arena_printf(&fixture,
                                   "{\"prompt_tokens\":%" PRId64 ",\"completion_tokens\":%" PRId64
                                   ",\"prompt_tokens_details\":{\"cached_tokens\":%" PRId64 "}}",
                                   reply->input, reply->output, reply->cached));
    } else {
        json_out_key(&out, "content");
        json_out_array(&out);
        for (size_t i = 0; i < reply->turn.n; i++) messages_part(&out, &reply->turn.parts[i]);
        json_out_array_end(&out);
        json_out_kcstr(&out, "stop_reason", talk_stop_word(API_MESSAGES, reply->stop));
        json_out_kraw(&out, "usage",
                      arena_printf(&fixture,
                                   "{\"input_tokens\":%" PRId64 ",\"output_tokens\":%" PRId64
                                   ",\"cache_read_input_tokens\":%" PRId64 "}",
                                   reply->input - reply->cached, reply->output, reply->cached));
    }
    json_out_object_end(&out);
    return kept(&text);
}

/* Where the next fragment of the text may end: not inside a character. */
static size_t fragment(Random *r, Str text, size_t at)
{
    size_t end = at + (size_t)random_range(r, 1, 9);
    while (end < text.len && ((unsigned char)text.ptr[end] & 0xc0) == 0x80) end++;
    return MIN(end, text.len);
}

/* A string as JSON. */
static Str json_string(Str text)
{
    Buf buf;
    buf_init(&buf, 1 << 16);
    JsonOut out = json_out(&buf);
    json_out_str(&out, text);
    return kept(&buf);
}

/* A chunk whose delta is head, the text as JSON, and tail. */
static void chat_event(Buf *out, Str head, Str text, const char *tail)
{
    buf_printf(
        out,
        "data: {\"id\":\"x1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{%.*s%.*s%s}}]"
        "}\n\n",
        STR_ARG(head), STR_ARG(json_string(text)), tail);
}

/* Fragments of all calls, in turns taken at random. */
static void chat_calls(Random *r, const Reply *reply, Buf *out)
{
    size_t at[2 * PARTS_MAX] = { 0 };
    int number[2 * PARTS_MAX], n = 0;
    for (size_t i = 0; i < reply->turn.n; i++) {
        if (reply->turn.parts[i].kind != PART_CALL) continue;
        number[i] = n;
        Str head = arena_printf(&fixture,
                                "\"tool_calls\":[{\"index\":%d,\"id\":\"call_%d\",\"function\":{"
                                "\"name\":\"f\",\"arguments\":",
                                n++, reply->turn.parts[i].id);
        chat_event(out, head, STR(""), "}}]");
    }
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < reply->turn.n; i++) {
            const Said *said = &reply->turn.parts[i];
            if (said->kind != PART_CALL || at[i] == said->text.len) continue;
            more = true;
            if (random_next(r) % 2) continue;
            size_t end = fragment(r, said->text, at[i]);
            Str head = arena_printf(
                &fixture, "\"tool_calls\":[{\"index\":%d,\"function\":{\"arguments\":", number[i]);
            chat_event(out, head, str_sub(said->text, at[i], end - at[i]), "}}]");
            at[i] = end;
        }
    }
}

static void chat_stream(Random *r, const Reply *reply, Buf *out)
{
    for (size_t i = 0; i < reply->turn.n; i++) {
        Str text = reply->turn.parts[i].text;
        if (reply->turn.parts[i].kind != PART_TEXT) continue;
        for (size_t at = 0; at < text.len;) {
            size_t end = fragment(r, text, at);
            chat_event(out, STR("\"content\":"), str_sub(text, at, end - at), "");
            at = end;
        }
    }
    chat_calls(r, reply, out);
    buf_printf(out,
               "data: {\"id\":\"x1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},"
               "\"finish_reason\":\"%s\"}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":"
               "%" PRId64 ",\"completion_tokens\":%" PRId64 ",\"prompt_tokens_details\":{"
               "\"cached_tokens\":%" PRId64 "}}}\n\ndata: [DONE]\n\n",
               talk_stop_word(API_CHAT, reply->stop), reply->input, reply->output, reply->cached);
}

static void messages_stream(Random *r, const Reply *reply, Buf *out)
{
    buf_printf(out,
               "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"x1\","
               "\"model\":\"m\",\"usage\":{\"input_tokens\":%" PRId64
               ",\"cache_read_input_tokens\":%" PRId64 "}}}\n\n",
               reply->input - reply->cached, reply->cached);
    for (size_t i = 0; i < reply->turn.n; i++) {
        const Said *said = &reply->turn.parts[i];
        bool call = said->kind == PART_CALL;
        buf_printf(out,
                   call ? "event: content_block_start\ndata: {\"type\":\"content_block_start\","
                          "\"index\":%zu,\"content_block\":{\"type\":\"tool_use\",\"id\":"
                          "\"call_%d\",\"name\":\"f\",\"input\":{}}}\n\n"
                        : "event: content_block_start\ndata: {\"type\":\"content_block_start\","
                          "\"index\":%zu,\"content_block\":{\"type\":\"text\",\"nr\":%d}}\n\n",
                   i, said->id);
        for (size_t at = 0; at < said->text.len;) {
            size_t end = fragment(r, said->text, at);
            buf_printf(out,
                       "event: content_block_delta\ndata: {\"type\":\"content_block_delta\","
                       "\"index\":%zu,\"delta\":{\"%s\":%.*s}}\n\n",
                       i, call ? "partial_json" : "text",
                       STR_ARG(json_string(str_sub(said->text, at, end - at))));
            at = end;
        }
        buf_printf(
            out,
            "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":%zu}"
            "\n\n",
            i);
        if (random_next(r) % 4 == 0) buf_printf(out, "event: ping\ndata: {\"type\":\"ping\"}\n\n");
    }
    buf_printf(out,
               "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":"
               "\"%s\"},\"usage\":{\"output_tokens\":%" PRId64 "}}\n\nevent: message_stop\ndata: {"
               "\"type\":\"message_stop\"}\n\n",
               talk_stop_word(API_MESSAGES, reply->stop), reply->output);
}

/* As the gateway does, the bytes cut at random. */
static Str stream_through(Random *r, Api from, Api to, Str text)
{
    TranslateStream *t = calloc(1, sizeof *t);
    StreamState *s = calloc(1, sizeof *s);
    SseParser sse;
    Buf out;
    sse_init(&sse, 0);
    buf_init(&out, 1 << 20);
    stream_init(s, from, 1);
    translate_stream_init(t, from, to, true, 1700000000);
    while (text.len > 0) {
        Str chunk = str_sub(text, 0, (size_t)random_range(r, 1, 200));
        text = str_skip(text, chunk.len);
        SsePiece piece;
        int kind;
        while ((kind = sse_next(&sse, &chunk, &piece)) != SSE_MORE) {
            StreamNote note;
            assert_int_equal(kind, SSE_EVENT);
            assert_int_equal(stream_feed(s, &fixture, piece.event, piece.data, &note), 0);
            assert_int_equal(translate_stream_feed(t, piece.event, note.json, &out), 0);
        }
    }
    assert_int_equal(s->phase, STREAM_COMPLETE);
    assert_true(s->usage.valid);
    assert_int_equal(translate_stream_finish(t, &s->usage, &out), 0);
    translate_stream_deinit(t);
    sse_deinit(&sse);
    free(t);
    free(s);
    return kept(&out);
}

/* --- putting a stream together, as a client does ---------------------------------------------- */

typedef struct {
    Str id, name;
    Buf text;
    bool call, open;
} Block;

typedef struct {
    Block blocks[16];
    size_t n;
    Str stop;
    const Json *usage, *whole;
    bool ended;
} Client;

static Block *client_block(Client *c, bool call)
{
    assert_true(c->n < ARRAY_N(c->blocks));
    Block *block = &c->blocks[c->n++];
    block->call = call;
    block->open = true;
    buf_init(&block->text, 1 << 16);
    return block;
}

static void client_chat(Client *c, Str data)
{
    if (str_eq(data, STR("[DONE]"))) {
        c->ended = true;
        return;
    }
    const Json *chunk = parsed(data), *choice = json_at(json_get(chunk, "choices"), 0);
    const Json *delta = json_get(choice, "delta");
    Str text = json_str(json_get(delta, "content"));
    if (!str_empty(text)) {
        if (c->n == 0) client_block(c, false);
        buf_add(&c->blocks[c->n - 1].text, text);
    }
    const Json *call = json_at(json_get(delta, "tool_calls"), 0);
    if (call) {
        size_t first = c->n > 0 && !c->blocks[0].call;
        size_t at = first + (size_t)json_i64_or(json_get(call, "index"), 99);
        const Json *function = json_get(call, "function");
        if (json_get(call, "id")) {
            assert_int_equal(at, c->n);
            Block *block = client_block(c, true);
            block->id = json_str(json_get(call, "id"));
            block->name = json_str(json_get(function, "name"));
        }
        buf_add(&c->blocks[at].text, json_str(json_get(function, "arguments")));
    }
    if (!str_empty(json_str(json_get(choice, "finish_reason"))))
        c->stop = json_str(json_get(choice, "finish_reason"));
    if (json_type(json_get(chunk, "usage")) == JSON_OBJECT) c->usage = json_get(chunk, "usage");
}

static void client_messages(Client *c, Str event, Str data)
{
    const Json *v = parsed(data), *delta = json_get(v, "delta");
    assert_true(str_eq(event, json_str(json_get(v, "type"))));
    size_t at = (size_t)json_i64_or(json_get(v, "index"), 0);
    if (str_eq(event, STR("content_block_start"))) {
        assert_int_equal(at, c->n);
        assert_true(c->n == 0 || !c->blocks[c->n - 1].open);
        const Json *b = json_get(v, "content_block");
        Block *block = client_block(c, str_eq(json_str(json_get(b, "type")), STR("tool_use")));
        block->id = json_str(json_get(b, "id"));
        block->name = json_str(json_get(b, "name"));
    } else if (str_eq(event, STR("content_block_delta"))) {
        assert_true(at == c->n - 1 && c->blocks[at].open);
        const char *key = c->blocks[at].call ? "partial_json" : "text";
        buf_add(&c->blocks[at].text, json_str(json_get(delta, key)));
    } else if (str_eq(event, STR("content_block_stop"))) {
        assert_true(at == c->n - 1 && c->blocks[at].open);
        c->blocks[at].open = false;
    } else if (str_eq(event, STR("message_delta"))) {
        c->stop = json_str(json_get(delta, "stop_reason"));
        c->usage = json_get(v, "usage");
    } else if (str_eq(event, STR("message_stop"))) {
        c->ended = true;
    }
}

/* Its last event repeats everything: that is what must agree with the plain answer. */
static void client_responses(Client *c, Str event, Str data)
{
    if (!str_eq(event, STR("response.completed")) && !str_eq(event, STR("response.incomplete")))
        return;
    c->whole = json_get(parsed(data), "response");
    c->ended = true;
}

static void client_read(Client *c, Api api, Str text)
{
    SseParser sse;
    SsePiece piece;
    sse_init(&sse, 0);
    while (sse_next(&sse, &text, &piece) == SSE_EVENT) {
        assert_false(c->ended);
        Str event = arena_str(&fixture, piece.event), data = arena_str(&fixture, piece.data);
        if (api == API_CHAT) client_chat(c, data);
        else if (api == API_MESSAGES) client_messages(c, event, data);
        else client_responses(c, event, data);
    }
    sse_deinit(&sse);
    assert_true(c->ended);
}

static Str plain_through(Api from, Api to, Str body)
{
    Answer *answer = ARENA_NEW(&fixture, Answer);
    const Json *v = parsed(body);
    answer_read(from, v, 1, answer);
    TranslateAbout about = { .usage = &answer->usage, .created_s = 1700000000 };
    Buf out;
    buf_init(&out, 1 << 20);
    assert_int_equal(translate_answer(&fixture, from, v, to, &about, &out), 0);
    return kept(&out);
}

/* What the stream said, as a plain answer of that API's would be read. */
static Str client_meaning(const Client *c)
{
    Buf out;
    buf_init(&out, 1 << 20);
    for (size_t i = 0; i < c->n; i++) {
        const Block *b = &c->blocks[i];
        if (b->call)
            buf_printf(&out, "  call %.*s %.*s: %.*s\n", STR_ARG(b->id), STR_ARG(b->name),
                       STR_ARG(talk_json_text(&fixture, parsed(buf_str(&b->text)))));
        else buf_printf(&out, "  text  : %.*s  \n", STR_ARG(buf_str(&b->text)));
    }
    return kept(&out);
}

static Str answer_meaning(Api api, Str body, Talk *talk)
{
    TalkReader reader = { &fixture, talk, NULL };
    assert_int_equal(readers[api]->read_answer(&reader, parsed(body)), 0);
    Buf out;
    buf_init(&out, 1 << 20);
    if (talk->first) mean_parts(&out, &talk->first->parts);
    return kept(&out);
}

static void one_reply(uint64_t seed)
{
    Random r = { seed };
    Reply reply = reply_make(&r);
    static const Api froms[] = { API_CHAT, API_MESSAGES };
    for (size_t i = 0; i < ARRAY_N(froms); i++) {
        Api from = froms[i];
        Buf events;
        buf_init(&events, 1 << 20);
        if (from == API_CHAT) chat_stream(&r, &reply, &events);
        else messages_stream(&r, &reply, &events);
        Str text = kept(&events);
        for (Api to = API_CHAT; to <= API_MESSAGES; to++) {
            if (to == from) continue;
            Talk *talk = ARENA_NEW(&fixture, Talk);
            Client *client = ARENA_NEW(&fixture, Client);
            Str body = plain_through(from, to, plain(from, &reply));
            Str want = answer_meaning(to, body, talk);
            Random again = { seed + 1 }, other = { seed + 2 };
            Str got = stream_through(&again, from, to, text);
            expect_same(seed, "other chunks", stream_through(&other, from, to, text), got);
            client_read(client, to, got);
            if (client->whole) {
                const Json *usage = json_get(parsed(body), "usage");
                assert_true(json_eq(json_get(client->whole, "usage"), usage));
                assert_true(
                    json_eq(json_get(client->whole, "output"), json_get(parsed(body), "output")));
                continue;
            }
            expect_same(seed, "stream", client_meaning(client), want);
            assert_true(str_eq(client->stop, str_of(talk_stop_word(to, reply.stop))));
            assert_true(json_eq(client->usage, json_get(parsed(body), "usage")));
            for (size_t b = 0; b < client->n; b++) buf_deinit(&client->blocks[b].text);
        }
    }
}

static void test_replies(void **state)
{
    (void)state;
    for (uint64_t seed = only_seed; seed < (only_seed ? only_seed + 1 : RUNS); seed++) {
        one_reply(seed);
        arena_clear(&fixture);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && str_to_u64(str_of(argv[1]), &only_seed) < 0) return 2;
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_conversations),
        TEST(test_replies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
