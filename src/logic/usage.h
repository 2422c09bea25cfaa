/* Usage: what a model's answer consumed, from plain answers and from streams.
 *
 * Counts are brought to one form whatever the provider: input and output are totals, the others are
 * parts of them. (OpenAI reports totals with parts; Anthropic reports three disjoint input counts,
 * which are summed here.) Counts are read from any event that carries them, a later report replaces
 * an earlier one and is never added, and when a count shrinks the dearer of the two is kept and
 * .shrunk is set. Null counts are absent; negative, fractional and absurd ones too, and set
 * .malformed. Explicit zeros are counts. What cannot be told is taken as the dearer case.
 *
 * Pure; any thread; a StreamState belongs to one call.
 */
#ifndef GANTRY_LOGIC_USAGE_H
#define GANTRY_LOGIC_USAGE_H

#include "base/arena.h"
#include "codec/json.h"
#include "logic/protocol.h"

typedef struct {
    int64_t input_tokens;            /* all of it */
    int64_t output_tokens;           /* all of it */
    int64_t cached_tokens;           /* of input: read from the provider's cache */
    int64_t cache_write_5m_tokens;   /* of input: written to it (OpenAI's only kind) */
    int64_t cache_write_1h_tokens;   /* of input; Anthropic's without a breakdown too: the dearer */
    int64_t reasoning_tokens;        /* of output */
    int64_t audio_input_tokens;      /* of input */
    int64_t audio_output_tokens;     /* of output */
    int64_t image_input_tokens;      /* of input */
    int64_t image_output_tokens;     /* of output */
    int64_t server_calls[SERVER_N_]; /* of the provider's own tools, billed by the piece */
    int64_t tool_calls;              /* distinct calls in the answer; counted, not reported */
    Service service;                 /* as reported */
    Region region;                   /* as reported */
    bool valid;     /* the provider reported both totals: the call may be settled by them */
    bool shrunk;    /* a later report was smaller than an earlier one: alarm */
    bool malformed; /* a count was not a whole number >= 0, or a part was larger than its total */
} Usage;

/* Counts of one call as reported, before they are brought to one form. Private to usage.c, here for
 * its size. */
#define USAGE_RAW_N 14
typedef struct {
    int64_t v[USAGE_RAW_N]; /* -1: not reported */
    Service service;
    Region region;
    bool shrunk, malformed;
} UsageRaw;

/* Tool calls already counted. Private to usage.c. Beyond the maximum only fragments that begin a
 * call count, so too many rather than too few. */
#define USAGE_CALLS_MAX 128
typedef struct {
    struct {
        uint64_t id_hash; /* 0: no id yet */
        uint32_t choice, index;
    } seen[USAGE_CALLS_MAX];
    size_t seen_n;
    int64_t n;
    int64_t server[SERVER_N_]; /* of them, the provider's own */
} UsageCalls;

#define ANSWER_TOOLS_MAX 64
#define ANSWER_REASON_MAX 32
#define ANSWER_ERROR_MAX 256

/* The provider's words for services ("default", "flex", "standard_only", ...), regions and its own
 * tools; "auto" and "" are unknown. */
Service service_of(Str word);
Region region_of(Str word);
ServerTool server_tool_of(Str type);

/* A plain (not streamed) answer. */
typedef struct {
    Usage usage;
    char finish_reason[ANSWER_REASON_MAX]; /* of the first choice, provider's word; "" when none */
    Str tool_names[ANSWER_TOOLS_MAX];      /* in order; borrow from the document */
    size_t tool_names_n;
    bool complete; /* chat: every choice has a finish_reason; Responses: its status is an end;
                    * Anthropic: stop_reason is set; embeddings: data is an array */
    bool empty;    /* chat: no choices; else no array where one belongs */
    bool error;    /* an error object in place of an answer */
    char error_text[ANSWER_ERROR_MAX];
} Answer;

/* Reads a parsed answer of status 2xx. n: choices asked for (chat; else 1). Never fails: what is
 * missing is zero, and usage.valid is false. */
void answer_read(Api api, const Json *body, int64_t n, Answer *ret);

typedef enum {
    STREAM_OPEN,     /* no terminal marker yet: if it ends now it was cut */
    STREAM_COMPLETE, /* chat: a finish_reason for all n choices; Responses: completed or incomplete,
                      * with the response; Anthropic: message_stop after a stop_reason */
    STREAM_FAILED,   /* the provider ended it with an error event, response.failed or .cancelled */
} StreamPhase;

/* A streamed answer as far as it has come.  */
typedef struct {
    Api api;
    int64_t n; /* choices that must finish */
    StreamPhase phase;
    Usage usage;         /* current after every event */
    bool done_marker;    /* [DONE] was there, which only chat should end with */
    bool usage_is_final; /* a report came where totals stand: with the end or after it */
    bool usage_is_last;  /* after it: chat, where one with the end may be followed by another */
    bool cut;            /* set by the caller: it broke off after its end */
    char finish_reason[ANSWER_REASON_MAX]; /* "" until known; of choice 0 */
    char error_text[ANSWER_ERROR_MAX];     /* STREAM_FAILED */
    uint64_t events, bad_events;           /* seen; not JSON */
    uint64_t finished[2];                  /* private: a bit a choice */
    UsageRaw raw;                          /* private */
    UsageCalls calls;                      /* private */
} StreamState;

/* What one event was. Pointers live in the scratch arena. */
typedef struct {
    const Json *json;  /* the data, parsed; NULL for [DONE] and for what is not JSON */
    bool usage_only;   /* chat: usage and nothing else: not for a client that did not ask for it */
    bool terminal;     /* with this event the phase left STREAM_OPEN */
    bool cut;          /* it says that the stream has ended, which is open: the answer was cut */
    Str tool_names[8]; /* calls that begin with this event */
    size_t tool_names_n;
    Str text; /* the piece of visible text it adds (choice 0); for response patterns */
} StreamNote;

/* n: choices asked for, 1..128 (other APIs: 1). */
void stream_init(StreamState *s, Api api, int64_t n);

/* Takes one SSE event: event is its name ("" when none), data its data. Events after the terminal
 * one are read for usage only. scratch holds the parsed data (13 times its size) and may be cleared
 * after the call when the note is no longer used. Returns 0, or -ENOMEM (scratch full: counts as a
 * bad event; the stream can still complete). ret_note may be NULL. */
MUST_CHECK int stream_feed(StreamState *s, Arena *scratch, Str event, Str data,
                           StreamNote *ret_note);

/* Whether the call may be settled by s->usage: complete, or failed with the provider's own final
 * count; and the usage is valid, and was not followed by more that is lost. Otherwise the whole
 * hold is charged. */
bool stream_settles(const StreamState *s);

#endif
