/* Every way in which an upstream fails, for each API, streamed and not, of a provider that speaks
 * the agent's API and of one that does not: what the agent is sent, what is charged, how often it
 * was tried, and what the breaker was told. A line a failure. MATRIX=text runs those whose name
 * contains it. */
#include "tests/unit/gateway_rig.h"

#include <dlfcn.h>
#include <netdb.h>

#include "gateway/gateway_limits.h"

/* --- what the provider sends ------------------------------------------------------------------ */

/* The pieces of an answer in each API. Usage is 10 in, 5 out: 20,000 nano-USD at the stub's
 * price. */
typedef struct {
    const char *begin;     /* a first piece of text */
    const char *other;     /* the same, of another model than was asked */
    const char *wide;      /* a piece with characters of several bytes */
    const char *tool;      /* a call whose arguments are not whole */
    const char *finish;    /* the end, without usage */
    const char *finish_by; /* the end, with usage */
    const char *usage;     /* a report of usage on its own */
    const char *done;
    const char *early; /* an end, where nothing has finished */
    const char *error;
    const char *half;
    const char *plain, *plain_other, *plain_no_usage, *plain_empty, *plain_bad_utf8;
    const char *plain_error, *plain_none;
} Shape;

#define C_USAGE "\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5,\"total_tokens\":15}"
#define C_CHUNK(model, choice) \
    "data: {\"id\":\"c\",\"model\":\"" model "\",\"choices\":[{\"index\":0," choice "}]}\n\n"
#define C_PLAIN(model, content, finish) \
    "{\"id\":\"c\",\"model\":\"" model  \
    "\",\"choices\":[{\"index\":0,\"message\":{\"content\":" content "}," finish "}]"
#define C_STOP "\"finish_reason\":\"stop\""

#define R_EVENT(type, rest) \
    "event: " type "\ndata: {\"type\":\"" type "\",\"sequence_number\":1," rest "}\n\n"
#define R_USAGE "\"usage\":{\"input_tokens\":10,\"output_tokens\":5,\"total_tokens\":15}"
#define R_CREATED(model) \
    R_EVENT("response.created", "\"response\":{\"id\":\"r\",\"model\":\"" model "\"}")
#define R_DELTA(text) R_EVENT("response.output_text.delta", "\"delta\":\"" text "\"")
#define R_PLAIN(model, output) \
    "{\"id\":\"r\",\"model\":\"" model "\",\"status\":\"completed\",\"output\":[" output "]"

#define A_EVENT(type, rest) "event: " type "\ndata: {\"type\":\"" type "\"" rest "}\n\n"
#define A_START(model)                                                       \
    A_EVENT("message_start", ",\"message\":{\"id\":\"m\",\"model\":\"" model \
                             "\",\"usage\":{\"input_tokens\":10,\"output_tokens\":1}}")
#define A_DELTA(text)              \
    A_EVENT("content_block_delta", \
            ",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"" text "\"}")
#define A_END(usage)                                                            \
    A_EVENT("content_block_stop", ",\"index\":0")                               \
    A_EVENT("message_delta", ",\"delta\":{\"stop_reason\":\"end_turn\"}" usage) \
    A_EVENT("message_stop", "")
#define A_USAGE ",\"usage\":{\"input_tokens\":10,\"output_tokens\":5}"
#define A_PLAIN(model, content)                                                        \
    "{\"id\":\"m\",\"type\":\"message\",\"model\":\"" model "\",\"content\":[" content \
    "],\"stop_reason\":\"end_turn\""

static const Shape shapes[API_EMBEDDINGS] = {
    [API_CHAT] = { .begin = C_CHUNK("stub-1", "\"delta\":{\"content\":\"hi\"}"),
                   .other = C_CHUNK("other-9", "\"delta\":{\"content\":\"hi\"}"),
                   .wide = C_CHUNK("stub-1",
                                   "\"delta\":{\"content\":\"\xe2\x82\xac \xf0\x9f\x98\x80\"}"),
                   .tool = C_CHUNK("stub-1",
                                   "\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"t\","
                                   "\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\"}}]}"),
                   .finish = C_CHUNK("stub-1", "\"delta\":{}," C_STOP),
                   .finish_by = C_CHUNK(
                       "stub-1", "\"delta\":{}," C_STOP) "data: {\"choices\":[]," C_USAGE "}\n\n",
                   .usage = "data: {\"choices\":[]," C_USAGE "}\n\n",
                   .done = "data: [DONE]\n\n",
                   .early = "data: [DONE]\n\n",
                   .error =
                       "data: {\"error\":{\"message\":\"boom\",\"type\":\"server_error\"}}\n\n",
                   .half = "data: {\"id\":\"c\",\"choi",
                   .plain = C_PLAIN("stub-1", "\"hi\"", C_STOP) "," C_USAGE "}",
                   .plain_other = C_PLAIN("other-9", "\"hi\"", C_STOP) "," C_USAGE "}",
                   .plain_no_usage = C_PLAIN("stub-1", "\"hi\"", C_STOP) "}",
                   .plain_empty = C_PLAIN("stub-1", "null", C_STOP) "," C_USAGE "}",
                   .plain_bad_utf8 = C_PLAIN("stub-1", "\"\xc3\x28\"", C_STOP) "," C_USAGE "}",
                   .plain_error = "{\"error\":{\"message\":\"boom\",\"type\":\"server_error\"}}",
                   .plain_none = "{\"choices\":[]}" },
    [API_RESPONSES] = { .begin = R_CREATED("stub-1") R_DELTA("hi"),
                        .other = R_CREATED("other-9") R_DELTA("hi"),
                        .wide = R_CREATED("stub-1") R_DELTA("\xe2\x82\xac \xf0\x9f\x98\x80"),
                        .tool = R_CREATED("stub-1") R_EVENT(
                            "response.output_item.added",
                            "\"output_index\":0,\"item\":{\"type\":\"function_call\",\"call_id\":\"t\","
                            "\"name\":\"f\"}") R_EVENT("response.function_call_arguments.delta",
                                                       "\"delta\":\"{\\\"a\""),
                        .finish = R_EVENT("response.completed",
                                          "\"response\":{\"status\":\"completed\"}"),
                        .finish_by = R_EVENT("response.completed",
                                             "\"response\":{\"status\":\"completed\"," R_USAGE "}"),
                        .usage = R_EVENT("response.in_progress", "\"response\":{" R_USAGE "}"),
                        .done = "",
                        .early = R_EVENT("response.completed", "\"x\":1"),
                        .error =
                            "event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\","
                            "\"message\":\"boom\",\"sequence_number\":2}\n\n",
                        .half = "event: response.output_text.delta\ndata: {\"type\":\"resp",
                        .plain = R_PLAIN("stub-1", "{\"type\":\"message\"}") "," R_USAGE "}",
                        .plain_other = R_PLAIN("other-9", "{\"type\":\"message\"}") "," R_USAGE "}",
                        .plain_no_usage = R_PLAIN("stub-1", "{\"type\":\"message\"}") "}",
                        .plain_empty = R_PLAIN("stub-1", "") "," R_USAGE "}",
                        .plain_bad_utf8 = R_PLAIN("stub-1", "{\"type\":\"\xc3\x28\"}") "," R_USAGE
                                                                                       "}",
                        .plain_error =
                            "{\"error\":{\"message\":\"boom\",\"code\":\"server_error\"}}",
                        .plain_none = "{\"status\":\"completed\"}" },
    [API_MESSAGES] = { .begin = A_START("stub-1") A_DELTA("hi"),
                       .other = A_START("other-9") A_DELTA("hi"),
                       .wide = A_START("stub-1") A_DELTA("\xe2\x82\xac \xf0\x9f\x98\x80"),
                       .tool = A_START("stub-1")
                           A_EVENT("content_block_start",
                                   ",\"index\":0,\"content_block\":{\"type\":\"tool_use\","
                                   "\"id\":\"t\",\"name\":\"f\",\"input\":{}}")
                               A_EVENT("content_block_delta",
                                       ",\"index\":0,\"delta\":{\"type\":\"input_json_delta\","
                                       "\"partial_json\":\"{\\\"a\"}"),
                       .finish = A_END(""),
                       .finish_by = A_END(A_USAGE),
                       .usage = A_EVENT("message_delta", ",\"delta\":{}" A_USAGE),
                       .done = "",
                       .early = A_EVENT("content_block_stop", ",\"index\":0")
                           A_EVENT("message_stop", ""),
                       .error = A_EVENT("error", ",\"error\":{\"type\":\"overloaded_error\","
                                                 "\"message\":\"boom\"}"),
                       .half = "event: content_block_delta\ndata: {\"type\":\"con",
                       .plain = A_PLAIN("stub-1", "{\"type\":\"text\",\"text\":\"hi\"}") A_USAGE
                       "}",
                       .plain_other = A_PLAIN("other-9", "{\"type\":\"text\",\"text\":\"hi\"}")
                           A_USAGE "}",
                       .plain_no_usage = A_PLAIN("stub-1",
                                                 "{\"type\":\"text\",\"text\":\"hi\"}") "}",
                       .plain_empty = A_PLAIN("stub-1", "") A_USAGE "}",
                       .plain_bad_utf8 = A_PLAIN(
                           "stub-1", "{\"type\":\"text\",\"text\":\"\xc3\x28\"}") A_USAGE "}",
                       .plain_error =
                           "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\","
                           "\"message\":\"boom\"}}",
                       .plain_none = "{\"stop_reason\":\"end_turn\"}" },
};

/* A script is a head, pieces, and an end; each a letter. */
typedef struct {
    Buf wire;    /* all bytes, framing included */
    Buf payload; /* the body alone */
    StubEnd end;
    bool hold_open; /* says nothing more, until the gateway closes */
    bool dribble;   /* byte by byte */
    size_t flood;   /* so many bytes of `a` follow */
} Built;

static const char *piece_of(const Shape *s, char letter)
{
    switch (letter) {
    case 'b': return s->begin;
    case 'm': return s->other;
    case 'w': return s->wide;
    case 't': return s->tool;
    case 'f': return s->finish;
    case 'F': return s->finish_by;
    case 'u': return s->usage;
    case 'd': return s->done;
    case 'e': return s->error;
    case 'E': return s->early;
    case 'x': return s->half;
    case 'c': return ": keep-alive\n\n";
    case '{': return "{";
    case '}': return "}";
    case '[': return s->plain_none;
    case 'B': return "{\"id\":\"x\",\"choices\":[{\"message\":{\"content\":\"a\"}}";
    case 'D': return "data: [DONE]\n\n"; /* whatever the API */
    case 'i': return "data: {\"x\":\"\xc3\x28\"}\n\n";
    case 'g': return "\x1f\x8b\x08\x01\x02\x03\n\n\x04";
    case 'P': return s->plain;
    case 'M': return s->plain_other;
    case 'Q': return s->plain_no_usage;
    case 'O': return s->plain_empty;
    case 'I': return s->plain_bad_utf8;
    case 'X': return s->plain_error;
    case 'p': return "{\"id\":\"half of";
    case 'h': return "<html>not what was asked for</html>";
    case 'l': return "data: ";
    default: return NULL;
    }
}

static const char *head_of(char letter)
{
    switch (letter) {
    case 'H': return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
    case 'K':
        return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
               "Transfer-Encoding: chunked\r\n";
    case 'S': return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
    case 'J':
    case 'W': return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    case 'G':
        return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n";
    case 'T': return "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n";
    case 'N': return "HTTP/1.1 200 OK\r\n";
    case 'Y':
        return "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n"
               "Content-Type: text/event-stream\r\n";
    default: return NULL;
    }
}

static void build(Api api, const char *script, Built *ret)
{
    const Shape *shape = &shapes[api];
    char head = script[0];
    CLEANUP(buf_deinit) Buf chunks;
    bool whole = head != 'K' && head != 'H' && head != 'W'; /* framed, so the connection stays */
    *ret = (Built){ .end = whole || strchr(script, 'Z') ? STUB_KEEP : STUB_CLOSE };
    buf_init(&ret->wire, 1 << 20);
    buf_init(&ret->payload, 1 << 20);
    buf_init(&chunks, 1 << 20);
    for (const char *at = script + 1; *at; at++) {
        const char *piece = piece_of(shape, *at);
        if (piece) {
            buf_add(&ret->payload, str_of(piece));
            if (*piece) buf_printf(&chunks, "%zx\r\n%s\r\n", strlen(piece), piece);
        }
        if (*at == 'Z') buf_add(&chunks, STR("0\r\n\r\n"));
        if (*at == '!') ret->end = STUB_RESET;
        ret->hold_open |= *at == '|';
        ret->dribble |= *at == ',';
        if (*at == 'L') ret->flood = 100u << 20;
    }
    buf_add(&ret->wire, str_of(head_of(head)));
    size_t length = ret->payload.len + (head == 'W' ? 100 : 0) + ret->flood;
    if (head != 'K' && head != 'H') buf_printf(&ret->wire, "Content-Length: %zu\r\n", length);
    buf_add(&ret->wire, STR("\r\n"));
    buf_add(&ret->wire, head == 'K' ? buf_str(&chunks) : buf_str(&ret->payload));
}

static void built_free(Built *built)
{
    buf_deinit(&built->wire);
    buf_deinit(&built->payload);
}

/* Between the test's fiber and the stub's threads. */
static struct {
    pthread_mutex_t lock;
    const char *script; /* or */
    const char *raw;
    const char *good;
    StubEnd raw_end;
    int failing; /* so many answers more; then comes a good one */
} shared = { .lock = PTHREAD_MUTEX_INITIALIZER };

static Api api_of(const StubRequest *request)
{
    if (str_ends_with(request->path, STR("/messages"))) return API_MESSAGES;
    return str_ends_with(request->path, STR("/responses")) ? API_RESPONSES : API_CHAT;
}

static void until_closed(const StubRequest *request)
{
    char byte;
    while (recv(request->fd, &byte, 1, 0) > 0) continue;
}

static void send_flood(const StubRequest *request, size_t n)
{
    static const char line[65536] = { 'a' };
    for (size_t sent = 0; sent < n; sent += sizeof line)
        if (send(request->fd, line, sizeof line, MSG_NOSIGNAL) <= 0) return;
}

static StubEnd play(StubRequest *request, const Built *built)
{
    if (built->dribble)
        for (size_t i = 0; i < built->wire.len; i++)
            stub_send(request, str_make(built->wire.ptr + i, 1));
    else stub_send(request, buf_str(&built->wire));
    send_flood(request, built->flood);
    if (built->hold_open) until_closed(request);
    return built->end;
}

static StubEnd answer(StubRequest *request, void *ctx)
{
    (void)ctx;
    pthread_mutex_lock(&shared.lock);
    const char *script = shared.script, *raw = shared.raw;
    StubEnd end = shared.raw_end;
    if (shared.failing-- <= 0) script = shared.good;
    pthread_mutex_unlock(&shared.lock);
    if (!script) {
        if (strcmp(raw, "hang") == 0) until_closed(request);
        else stub_sends(request, raw);
        return end;
    }
    Built built;
    build(api_of(request), script, &built);
    end = play(request, &built);
    built_free(&built);
    return end;
}

/* --- what is to come of it -------------------------------------------------------------------- */

typedef enum {
    WHOLE,   /* the provider's answer, byte by byte */
    EVENT,   /* what had come, then an error event, and nothing that looks like an end */
    PROBLEM, /* an error of the gateway's own, in the API's shape */
    PASSED,  /* the provider's own error */
} Sent;

typedef enum { FREE, USED, HELD } Charged; /* of each attempt */

typedef struct {
    int status;
    Sent sent;
    Charged charged;
    GatewayOutcome outcome;
    int tries;
    int bad; /* that the breaker counts */
} Want;

#define OK_USED                                  \
    {                                            \
        200, WHOLE, USED, GATEWAY_COMPLETE, 1, 0 \
    }
#define OK_HELD                                  \
    {                                            \
        200, WHOLE, HELD, GATEWAY_COMPLETE, 1, 0 \
    }
#define CUT_LATE                            \
    {                                       \
        200, EVENT, HELD, GATEWAY_CUT, 1, 1 \
    } /* bytes were given away */
#define CUT_EARLY                             \
    {                                         \
        502, PROBLEM, HELD, GATEWAY_CUT, 2, 2 \
    } /* none was */
#define TIME_LATE                               \
    {                                           \
        200, EVENT, HELD, GATEWAY_TIMEOUT, 1, 1 \
    }
#define TIME_EARLY                                \
    {                                             \
        504, PROBLEM, HELD, GATEWAY_TIMEOUT, 2, 2 \
    }
#define NOT_REACHED(status)                            \
    {                                                  \
        status, PROBLEM, FREE, GATEWAY_UNREACHED, 2, 2 \
    }
#define SAID(status, tries, bad)                           \
    {                                                      \
        status, PASSED, FREE, GATEWAY_UPSTREAM, tries, bad \
    }
#define SAID_ELSE(tries, bad)                            \
    {                                                    \
        502, PROBLEM, FREE, GATEWAY_UPSTREAM, tries, bad \
    }
#define BOTH(...) .streamed = __VA_ARGS__, .plain = __VA_ARGS__

typedef enum { NET_STUB, NET_REFUSED, NET_NO_HOST, NET_SLOW_DNS, NET_TLS } Net;

typedef struct {
    const char *name;
    const char *stream, *whole; /* scripts of a streamed and of a plain answer; or */
    const char *raw;            /* both, byte by byte */
    StubEnd end;                /* of raw; STUB_KEEP: the connection stays */
    Net net;
    int timeout_ms; /* 0: long */
    Want streamed, plain;
    Want streamed_across, plain_across; /* translated; tries 0: no different */
    bool alike; /* it takes long, and nobody looks at an answer: not repeated across */
} Mode;

/* An API that the agent speaks, and the provider. */
typedef struct {
    Api api, up;
    bool stream;
} Cell;

static bool is_across(const Cell *cell)
{
    return gateway_api_protocol(cell->api) != gateway_api_protocol(cell->up);
}

static Want want_of(const Mode *mode, const Cell *cell)
{
    const Want *across = cell->stream ? &mode->streamed_across : &mode->plain_across;
    if (is_across(cell) && across->tries) return *across;
    return cell->stream ? mode->streamed : mode->plain;
}

#define ERROR "{\"error\":{\"message\":\"no\",\"type\":\"some_error\",\"code\":\"some_code\"}}"
#define RAW_(status, fields, n, body)                                                        \
    "HTTP/1.1 " status "\r\nContent-Type: application/json\r\n" fields "Content-Length: " #n \
    "\r\n\r\n" body
#define RAW(status, fields) RAW_(status, fields, 65, ERROR)
#define QUOTA \
    "{\"error\":{\"message\":\"no\",\"type\":\"insufficient_quota\",\"code\":\"insufficient_quota\"}}"
static_assert(sizeof ERROR == 66, "the length that RAW says");

static const Mode modes[] = {
    /* statuses */
    { "status 400", .raw = RAW("400 Bad", ""), BOTH(SAID(400, 1, 0)) },
    { "status 401", .raw = RAW("401 No", ""), BOTH(SAID(401, 1, 0)) },
    { "status 403", .raw = RAW("403 No", ""), BOTH(SAID(403, 1, 0)) },
    { "status 404", .raw = RAW("404 No", ""), BOTH(SAID(404, 1, 0)) },
    { "status 408", .raw = RAW("408 Late", ""), BOTH(SAID(408, 2, 2)) },
    { "status 409", .raw = RAW("409 No", ""), BOTH(SAID(409, 2, 0)) },
    { "status 413", .raw = RAW("413 Large", ""), BOTH(SAID(413, 1, 0)) },
    { "status 422", .raw = RAW("422 No", ""), BOTH(SAID(422, 1, 0)) },
    { "status 500", .raw = RAW("500 Oh", ""), BOTH(SAID(500, 2, 2)) },
    { "status 503", .raw = RAW("503 Busy", "Retry-After: 0\r\n"), BOTH(SAID(503, 2, 2)) },
    { "status 504", .raw = RAW("504 Late", ""), BOTH(SAID(504, 2, 2)) },
    { "status 529", .raw = RAW("529 Overloaded", ""), BOTH(SAID(529, 2, 2)) },
    { "status 500, told not to retry", .raw = RAW("500 Oh", "x-should-retry: false\r\n"),
      BOTH(SAID(500, 1, 1)) },
    { "rate limit", .raw = RAW("429 Slow", "retry-after-ms: 5\r\n"), BOTH(SAID(429, 2, 0)) },
    { "rate limit until a date long past",
      .raw = RAW("429 Slow", "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\nretry-after-ms: 5\r\n"),
      BOTH(SAID(429, 2, 0)) },
    { "rate limit until a date far off",
      .raw = RAW("429 Slow", "Retry-After: Fri, 21 Oct 2095 07:28:00 GMT\r\n"),
      BOTH(SAID(429, 1, 0)), .alike = true },
    { "rate limit, negative", .raw = RAW("429 Slow", "Retry-After: -5\r\n"), BOTH(SAID(429, 2, 0)),
      .alike = true },
    { "rate limit, huge", .raw = RAW("429 Slow", "Retry-After: 99999999999\r\n"),
      BOTH(SAID(429, 1, 0)), .alike = true },
    { "rate limit, no number", .raw = RAW("429 Slow", "Retry-After: soon\r\n"),
      BOTH(SAID(429, 2, 0)), .alike = true },
    { "quota", .raw = RAW_("429 Broke", "", 82, QUOTA), BOTH(SAID(429, 1, 0)) },
    { "web page",
      .raw = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 15\r\n\r\n"
             "<html>no</html>",
      BOTH(SAID(502, 2, 2)) },
    { "error cut short", .raw = "HTTP/1.1 503 Busy\r\nContent-Length: 500\r\n\r\n{\"err",
      .end = STUB_CLOSE, BOTH(SAID_ELSE(2, 2)) },
    { "error without a body", .raw = "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
      BOTH(SAID(500, 2, 2)) },
    { "redirect",
      .raw = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
      BOTH(SAID_ELSE(1, 0)) },
    { "permanent redirect",
      .raw = "HTTP/1.1 308 Moved\r\nLocation: /v1/elsewhere\r\nContent-Length: 0\r\n\r\n",
      BOTH(SAID_ELSE(1, 0)) },

    /* connections */
    { "refused", .net = NET_REFUSED, BOTH(NOT_REACHED(502)) },
    { "no such host", .net = NET_NO_HOST, BOTH(NOT_REACHED(0)), .alike = true },
    { "DNS does not answer", .net = NET_SLOW_DNS, BOTH(NOT_REACHED(504)), .alike = true },
    { "TLS stalls", .net = NET_TLS, .raw = "hang", .end = STUB_CLOSE, BOTH(NOT_REACHED(504)),
      .alike = true },
    { "closed without a word", .raw = "", .end = STUB_CLOSE, BOTH(NOT_REACHED(502)) },
    { "reset without a word", .raw = "", .end = STUB_RESET, BOTH(NOT_REACHED(502)) },
    { "half a head", .raw = "HTTP/1.1 200 OK\r\nContent-Ty", .end = STUB_CLOSE, BOTH(CUT_EARLY) },
    { "half a head of an error", .raw = "HTTP/1.1 500 Oh\r\nContent-Ty", .end = STUB_CLOSE,
      BOTH(NOT_REACHED(502)) },
    { "a head that cannot be read", .raw = "HTTP/1.1 200 OK\r\nno field\r\n\r\n{}",
      .end = STUB_CLOSE, BOTH(CUT_EARLY) },
    { "no HTTP", .raw = "SSH-2.0-OpenSSH_9.2\r\n\r\n", .end = STUB_CLOSE, BOTH(NOT_REACHED(502)) },
    { "hangs", .raw = "hang", .end = STUB_CLOSE, .timeout_ms = 60, BOTH(TIME_EARLY),
      .alike = true },

    /* heads without answers */
    { "reset after the head", .stream = "K!", .whole = "W!", BOTH(CUT_EARLY) },
    { "closed after the head", .stream = "K", .whole = "W", BOTH(CUT_EARLY) },
    { "stalls after the head", .stream = "K|", .whole = "W|", .timeout_ms = 60, BOTH(TIME_EARLY) },
    { "empty", .stream = "S", .whole = "J", BOTH(CUT_EARLY) },
    { "empty, closed", .stream = "H", .whole = "N", BOTH(CUT_EARLY) },
    { "an empty object", .stream = "S", .whole = "J{}", BOTH(CUT_EARLY) },
    { "an empty list", .stream = "S", .whole = "J[", BOTH(CUT_EARLY) },
    { "the last bracket is missing", .stream = "Kx", .whole = "JB", .streamed = CUT_EARLY,
      .plain = OK_HELD, .plain_across = CUT_EARLY },
    { "the last bracket is missing, closed", .stream = "Kx", .whole = "HB", BOTH(CUT_EARLY) },
    { "no content", .raw = "HTTP/1.1 204 No Content\r\n\r\n", BOTH(CUT_EARLY) },
    { "informed first", .stream = "YbFd", .whole = "YP", .streamed = OK_USED, .plain = OK_USED },

    /* answers that break off */
    { "cut in an event", .stream = "Kbx", .whole = "Wp", .streamed = CUT_LATE, .plain = CUT_EARLY },
    { "cut in an event, framed whole", .stream = "KbxZ", .whole = "Jp", .streamed = CUT_LATE,
      .plain = CUT_EARLY },
    { "cut in the first event", .stream = "Kx", .whole = "Wp!", BOTH(CUT_EARLY) },
    { "cut in tool arguments", .stream = "Kt", .whole = "Jp", .streamed = CUT_LATE,
      .plain = CUT_EARLY },
    { "reset in the middle", .stream = "Kb!", .whole = "Wp!", .streamed = CUT_LATE,
      .plain = CUT_EARLY },
    { "no finish", .stream = "KbZ", .whole = "Jp", .streamed = CUT_LATE, .plain = CUT_EARLY },
    { "done without a finish", .stream = "KbDZ", .whole = "Jp", .streamed = CUT_LATE,
      .plain = CUT_EARLY },
    { "an end without a finish", .stream = "KbEZ", .whole = "Jp", .streamed = CUT_LATE,
      .plain = CUT_EARLY },
    { "done first", .stream = "KDZ", .whole = "Jp", BOTH(CUT_EARLY) },
    { "no finish, closed", .stream = "Hb", .whole = "Wp", .streamed = CUT_LATE,
      .plain = CUT_EARLY },
    { "a last chunk is missing", .stream = "Kb", .whole = "WP", .streamed = CUT_LATE,
      .plain = CUT_EARLY },
    { "stalls in the middle", .stream = "Kb|", .whole = "Wp|", .timeout_ms = 60,
      .streamed = TIME_LATE, .plain = TIME_EARLY },
    { "error event first", .stream = "KeZ", .whole = "JX", BOTH(CUT_EARLY) },
    { "error event in the middle", .stream = "KbeZ", .whole = "JX", .streamed = CUT_LATE,
      .plain = CUT_EARLY },
    { "a line of 100 MB", .stream = "SlL", .whole = "JpL", BOTH(CUT_EARLY), .alike = true },
    { "a line of 100 MB in the middle", .stream = "SblL", .whole = "Jp", .streamed = CUT_LATE,
      .plain = CUT_EARLY, .alike = true },

    /* answers of another kind */
    { "compressed", .stream = "Ggggg", .whole = "Gg", BOTH(CUT_EARLY) },
    { "compressed bomb", .stream = "GgL", .whole = "GgL", BOTH(CUT_EARLY) },
    { "web page in place of an answer", .stream = "Th", .whole = "Th", BOTH(CUT_EARLY) },
    { "the other kind", .stream = "JP", .whole = "KbFdZ",
      .streamed = { 502, PROBLEM, USED, GATEWAY_CUT, 2, 2 }, .plain = CUT_EARLY },

    /* answers that only look broken */
    { "whole", .stream = "KbFdZ", .whole = "JP", BOTH(OK_USED) },
    { "whole, closed", .stream = "HbFd", .whole = "HP", BOTH(OK_USED) },
    { "no done marker", .stream = "KbFZ", .whole = "JP", BOTH(OK_USED) },
    { "the last chunk is missing after the end", .stream = "KbFd", .whole = "JP", BOTH(OK_USED) },
    { "reset after the end", .stream = "KbFd!", .whole = "JP", BOTH(OK_USED) },
    { "left open", .stream = "KbFd|", .whole = "JP|", BOTH(OK_USED) },
    { "keep-alives", .stream = "KccbccFdZ", .whole = "JP", BOTH(OK_USED) },
    { "no content but a finish", .stream = "KFdZ", .whole = "JO", BOTH(OK_USED) },
    { "usage twice", .stream = "KbuFdZ", .whole = "JP", BOTH(OK_USED) },
    { "no usage", .stream = "KbfdZ", .whole = "JQ", BOTH(OK_HELD) },
    { "another model's name", .stream = "KmFdZ", .whole = "JM", BOTH(OK_USED) },
    { "bytes that are no UTF-8", .stream = "KbiFdZ", .whole = "JI", .streamed = OK_USED,
      .plain = OK_USED, .streamed_across = CUT_LATE, .plain_across = CUT_EARLY },
    { "characters split between packets", .stream = "Kw,FdZ", .whole = "JP,", BOTH(OK_USED) },
    { "byte by byte", .stream = "SbcFd,", .whole = "JP,", BOTH(OK_USED) },
};

/* --- the matrix ------------------------------------------------------------------------------- */

static uint16_t dead_port(int *ret_fd)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof at;
    *ret_fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(*ret_fd, (struct sockaddr *)&at, size) == 0); /* nobody listens */
    getsockname(*ret_fd, (struct sockaddr *)&at, &size);
    return ntohs(at.sin_port);
}

/* A gateway whose breakers and limits know nothing yet. */
#define SLOW_HOST "slow-host.invalid"
#define SLOW_HOST_MS 300

/* In place of the C library's: of one name it hears only when the test has given up on it. */
__attribute__((visibility("default"))) int getaddrinfo(const char *name, const char *service,
                                                       const struct addrinfo *req,
                                                       struct addrinfo **pai)
{
    typedef int Fn(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    static Fn *real;
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    if (name && strcmp(name, SLOW_HOST) == 0) {
        stub_sleep_ms(SLOW_HOST_MS);
        return EAI_AGAIN;
    }
    return real(name, service, req, pai);
}

static void renew_wait(Rig *rig, const Mode *mode, Api up, uint16_t dead)
{
    rig->routes[2].match = up == API_MESSAGES ? "nobody" : "stub*";
    rig->routes[3].match = up == API_MESSAGES ? "stub*" : "nobody";
    gateway_task_close_wait(rig->task, deadline_after(5000));
    rig->task = NULL;
    gateway_free(rig->gateway);
    for (size_t i = 2; i < 4; i++) {
        const char *tail = i == 2 ? "/v1" : "";
        uint16_t port = mode->net == NET_REFUSED ? dead : rig->stub.port;
        const char *host = mode->net == NET_NO_HOST    ? "no-such-host.invalid"
                           : mode->net == NET_SLOW_DNS ? SLOW_HOST
                                                       : "127.0.0.1";
        snprintf(rig->urls[i], sizeof rig->urls[i], "http%s://%s:%u%s",
                 mode->net == NET_TLS ? "s" : "", host, port, tail);
        rig->providers[i].timeout_ms = mode->timeout_ms ? mode->timeout_ms : 20000;
        rig->providers[i].connect_timeout_ms = mode->net == NET_STUB ? 0 : 60;
        rig->providers[i].retries_max = 1;
    }
    rig->gateway = gateway_new(&rig->config);
    CHECK_INT(gateway_task_open(rig->gateway, &rig->options, &rig->task), 0);
}

static Reply ask_wait(Rig *rig, Api api, bool stream)
{
    static const char *const bodies[API_EMBEDDINGS] = {
        [API_CHAT] = "\"max_tokens\":50,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]",
        [API_RESPONSES] = "\"max_output_tokens\":50,\"input\":\"hi\"",
        [API_MESSAGES] = "\"max_tokens\":50,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]",
    };
    char body[512];
    snprintf(body, sizeof body, "{\"model\":\"stub-1\",%s%s}",
             !stream           ? ""
             : api == API_CHAT ? "\"stream\":true,\"stream_options\":{\"include_usage\":true},"
                               : "\"stream\":true,",
             bodies[api]);
    return rig_post_wait(rig, api, body);
}

/* The head and the tail of what an error in the API's own words is. */
static bool is_problem(Api api, Str body)
{
    if (api == API_MESSAGES)
        return str_starts_with(body, STR("{\"type\":\"error\",\"error\":{\"type\":\""));
    return str_starts_with(body, STR("{\"error\":{\"message\":\""));
}

static bool has_end(Str body)
{
    static const Str ends[] = { STR("[DONE]"), STR("message_stop"), STR("response.completed"),
                                STR("\"finish_reason\":\"stop\"") };
    for (size_t i = 0; i < ARRAY_N(ends); i++)
        if (str_find(body, ends[i]) >= 0) return true;
    return false;
}

static bool has_error_event(Api api, Str body)
{
    static const char *const last[API_EMBEDDINGS] = {
        [API_CHAT] = "\n\ndata: {\"error\":{\"message\":\"",
        [API_RESPONSES] = "\n\nevent: error\ndata: {\"type\":\"error\",\"code\":\"",
        [API_MESSAGES] = "\n\nevent: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"",
    };
    return str_find(body, str_of(last[api])) >= 0 && str_ends_with(body, STR("}\n\n"));
}

/* The provider's own bytes, as they are. */
static bool check_forwarded(const Mode *mode, const Want *want, const Cell *cell,
                            const char *script, Str body)
{
    Built built = { .end = STUB_CLOSE };
    bool ok = true;
    if (script) build(cell->up, script, &built);
    Str payload = buf_str(&built.payload);
    if (want->sent == WHOLE) ok = CHECK_STR(body, payload);
    if (want->sent == EVENT) ok = CHECK(str_starts_with(body, str_sub(payload, 0, 60)));
    if (want->sent == PASSED) ok = CHECK(str_ends_with(str_of(mode->raw), body));
    built_free(&built);
    return ok;
}

static Str end_of(const Cell *cell)
{
    static const Str streamed[API_EMBEDDINGS] = { STR("data: [DONE]\n\n"),
                                                  STR("event: response.completed\n"),
                                                  STR("event: message_stop\n") };
    static const Str plain[API_EMBEDDINGS] = { STR("\"finish_reason\":\"stop\""),
                                               STR("\"status\":\"completed\""),
                                               STR("\"stop_reason\":\"end_turn\"") };
    return cell->stream ? streamed[cell->api] : plain[cell->api];
}

static const char *usage_of(const Cell *cell)
{
    return cell->api == API_CHAT ? "\"completion_tokens\":5" : "\"output_tokens\":5";
}

/* In the agent's words, all of it. */
static bool check_translated(const Want *want, const Cell *cell, Str body)
{
    if (want->sent == EVENT) return CHECK(str_find(body, STR("message")) > 0);
    if (want->sent == PASSED) return CHECK(is_problem(cell->api, body));
    if (want->sent != WHOLE) return true;
    bool ok = CHECK(str_find(body, end_of(cell)) >= 0);
    ok &= CHECK(!has_error_event(cell->api, body));
    if (want->charged == USED) ok &= CHECK(str_find(body, str_of(usage_of(cell))) >= 0);
    return ok;
}

static bool check_sent(const Mode *mode, const Want *want, const Cell *cell, const char *script,
                       const Reply *reply)
{
    Str body = reply_str(reply);
    bool ok = CHECK_INT(reply->opened, 0) && CHECK_INT(reply->ended, HTTP_CALL_E_END);
    if (want->sent == EVENT) ok &= CHECK(has_error_event(cell->api, body)) && CHECK(!has_end(body));
    if (want->sent == PROBLEM) ok &= CHECK(is_problem(cell->api, body)) && CHECK(!has_end(body));
    if (is_across(cell)) {
        bool events = cell->stream && reply->status == 200;
        ok &= check_translated(want, cell, body);
        ok &= CHECK_STR(str_of(reply->type),
                        events ? STR("text/event-stream") : STR("application/json"));
    } else ok &= check_forwarded(mode, want, cell, script, body);
    bool again = want->status == 408 || want->status == 409 || want->status == 429 ||
                 reply->status >= 500;
    return ok & CHECK_STR(str_of(reply->retry), again ? STR("false") : STR(""));
}

static bool check_ledger(Rig *rig, const Want *want, size_t before)
{
    int64_t booked = 0;
    bool ok = CHECK_INT(rig->calls_n - before, (size_t)want->tries);
    for (size_t i = before; i < rig->calls_n; i++) {
        const GatewayCall *call = &rig->calls[i].call;
        int64_t nusd = want->charged == HELD ? call->hold.nusd : want->charged == USED ? 20000 : 0;
        ok &= CHECK_INT(call->outcome, want->outcome) && CHECK_INT(call->charged.nusd, nusd) &&
              CHECK_INT(call->full_hold, want->charged == HELD) &&
              CHECK_INT(call->tries, (int64_t)(i - before) + 1);
        booked += call->charged.nusd;
    }
    return ok & CHECK_INT(rig_totals(rig).cost_nusd, booked);
}

/* The breaker has heard of every attempt, but for those that say nothing of the provider's health,
 * and of the bad ones as such: two of them open it. */
static bool check_breaker(Rig *rig, const Want *want, size_t attempts)
{
    static BreakerInfo info[8];
    size_t n = breakers_list(gateway_breakers(rig->gateway), info, ARRAY_N(info));
    BreakerInfo of = { .state = BREAKER_CLOSED };
    for (size_t i = 0; i < n; i++)
        if (str_eq(str_of(info[i].name), STR("stub/stub-1"))) of = info[i];
    bool told = !(want->outcome == GATEWAY_UPSTREAM && want->status == 429);
    bool ok = true;
    if (want->bad >= 2) { /* what it is to count begins anew when it opens */
        ok &= CHECK_INT(of.state, BREAKER_OPEN);
        ok &= CHECK_INT(of.trips, 1);
        ok &= CHECK_INT(attempts, want->bad);
        return CHECK_INT(of.counts.calls, 0) && ok;
    }
    ok &= CHECK_INT(of.state, BREAKER_CLOSED);
    ok &= CHECK_INT(of.trips, 0);
    ok &= CHECK_INT(of.counts.errors, want->bad);
    return CHECK_INT(of.counts.calls, told ? (int64_t)attempts : 0) && ok;
}

static const char *good_script(bool stream)
{
    return stream ? "KbFdZ" : "JP";
}

static Reply cell_wait(Rig *rig, const Mode *mode, const Cell *cell, int failing)
{
    pthread_mutex_lock(&shared.lock);
    shared.script = mode->raw ? NULL : cell->stream ? mode->stream : mode->whole;
    shared.raw = mode->raw ? mode->raw : "";
    shared.raw_end = mode->end;
    shared.good = good_script(cell->stream);
    shared.failing = failing;
    pthread_mutex_unlock(&shared.lock);
    return ask_wait(rig, cell->api, cell->stream);
}

static void say_cell(const Mode *mode, const Cell *cell, const Reply *reply, const char *when)
{
    fprintf(stderr, "  for \"%s\", %s from %s, %s%s: %d, %.*s\n", mode->name,
            gateway_api_name(cell->api), gateway_api_name(cell->up),
            cell->stream ? "streamed" : "plain", when, reply->status,
            (int)MIN(reply->body.len, (size_t)1000), reply->body.ptr ? reply->body.ptr : "");
}

static void check_cell_wait(Rig *rig, const Mode *mode, const Cell *cell, uint16_t dead)
{
    const Want want = want_of(mode, cell);
    size_t before = rig->calls_n;
    renew_wait(rig, mode, cell->up, dead);
    CLEANUP(reply_deinit) Reply reply = cell_wait(rig, mode, cell, 100);
    bool ok = want.status ? CHECK_INT(reply.status, want.status)
                          : CHECK(reply.status == 502 || reply.status == 504);
    ok &= check_sent(mode, &want, cell, cell->stream ? mode->stream : mode->whole, &reply);
    ok &= check_ledger(rig, &want, before);
    ok &= check_breaker(rig, &want, rig->calls_n - before);
    ok &= CHECK_INT(rig_last(rig)->call.api, cell->up);
    if (strcmp(mode->name, "another model's name") == 0)
        ok &= CHECK_STR(str_of(rig_last(rig)->model_used), STR("other-9"));
    if (!ok) say_cell(mode, cell, &reply, "");
}

/* What is tried again, and then answers, is an answer like any: the failed attempt is charged for
 * itself. */
static void check_recovery_wait(Rig *rig, const Mode *mode, const Cell *cell, uint16_t dead)
{
    const Want want = want_of(mode, cell);
    size_t before = rig->calls_n;
    bool slow = want.status == 429 && str_find(str_of(mode->raw), STR("retry-after-ms")) < 0;
    if (want.tries == 1 || mode->net != NET_STUB || slow) return;
    renew_wait(rig, mode, cell->up, dead);
    CLEANUP(reply_deinit) Reply reply = cell_wait(rig, mode, cell, 1);
    const Want good = OK_USED;
    bool ok = CHECK_INT(reply.status, 200) && CHECK_INT(rig->calls_n - before, 2) &&
              check_sent(mode, &good, cell, good_script(cell->stream), &reply);
    if (ok) {
        const GatewayCall *first = &rig->calls[before].call, *last = &rig_last(rig)->call;
        int64_t charged = want.charged == HELD   ? first->hold.nusd
                          : want.charged == USED ? 20000
                                                 : 0;
        ok &= CHECK_INT(first->charged.nusd, charged) && CHECK_INT(first->outcome, want.outcome) &&
              CHECK_INT(last->charged.nusd, 20000) && CHECK_INT(last->outcome, GATEWAY_COMPLETE) &&
              CHECK_INT(rig_totals(rig).cost_nusd, charged + 20000);
    }
    if (!ok) say_cell(mode, cell, &reply, ", then well");
}

static const Cell cells[] = {
    { API_CHAT, API_CHAT, false },           { API_CHAT, API_CHAT, true },
    { API_RESPONSES, API_RESPONSES, false }, { API_RESPONSES, API_RESPONSES, true },
    { API_MESSAGES, API_MESSAGES, false },   { API_MESSAGES, API_MESSAGES, true },
    { API_CHAT, API_MESSAGES, false },       { API_CHAT, API_MESSAGES, true },
    { API_RESPONSES, API_MESSAGES, false },  { API_RESPONSES, API_MESSAGES, true },
    { API_MESSAGES, API_CHAT, false },       { API_MESSAGES, API_CHAT, true },
};

static void mode_wait(Rig *rig, const Mode *mode, uint16_t dead)
{
    rig->calls_n = 0;
    for (size_t i = 0; i < ARRAY_N(cells); i++) {
        if (mode->alike && is_across(&cells[i])) return;
        check_cell_wait(rig, mode, &cells[i], dead);
        check_recovery_wait(rig, mode, &cells[i], dead);
    }
}

static void matrix_wait(void *arg)
{
    Rig *rig = arg;
    const char *only = getenv("MATRIX");
    int fd;
    uint16_t dead = dead_port(&fd);
    static_assert(ARRAY_N(modes) >= 60, "failure modes");
    for (size_t i = 0; i < ARRAY_N(modes); i++)
        if (!only || strstr(modes[i].name, only)) mode_wait(rig, &modes[i], dead);
    close(fd);
}

static void configure(void *arg)
{
    Rig *rig = arg;
    rig->config.retry_initial_ms = 1;
    rig->config.retry_burst = 1000;
    rig->config.breaker.calls_min = 2;
    rig->config.breaker.error_percent = 60;
}

static void test_matrix(void **state)
{
    (void)state;
    rig_run_configured(configure, matrix_wait, answer, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matrix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
