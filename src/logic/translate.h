/* Translation between the model APIs: chat completions, Responses, Anthropic messages.
 *
 * A request, an answer, an error or a stream of one API is read into a form that belongs to none
 * (a Talk, or the items of a stream) and written in another's. Carried over: system and developer
 * texts, user and assistant texts, images and documents (base64 or URL), tools, tool choice, tool
 * calls and their results, stop sequences, sampling, output cap, JSON formats, user; stop reasons
 * and usage. What has no counterpart and can be left out without harm is left out: hints to the
 * provider's cache, thinking of earlier turns, penalties, seeds, names of participants. Where the
 * meaning would change (several choices, log probabilities, audio, tools that the provider runs,
 * input that only it knows) there is no translation: TRANSLATE_E_CANNOT and the reason.
 *
 * A stream's translation depends on its events only, not on how they were cut into chunks. It never
 * writes an end by itself: who knows that the upstream ended well calls translate_stream_finish().
 *
 * Pure; any thread; a TranslateStream belongs to one call.
 */
#ifndef GANTRY_LOGIC_TRANSLATE_H
#define GANTRY_LOGIC_TRANSLATE_H

#include "logic/usage.h"

/* The meaning cannot be carried over: the fault says why. */
#define TRANSLATE_E_CANNOT 1

typedef struct {
    const char *param; /* a top-level member of the request; NULL: none in particular */
    char text[200];
} TranslateFault;

/* Whether there is a translation: between chat, Responses and messages, not from one to itself. */
bool translate_pair(Api from, Api to);

/* What the target's API must know beside the request. */
typedef struct {
    Str model;       /* the target's name for it */
    int64_t out_max; /* messages: cap sent when the client gave none; 0: TRANSLATE_OUT_DEFAULT */
    const char *cap_member; /* chat: the member this server knows; NULL: max_completion_tokens */
} TranslateTarget;

#define TRANSLATE_OUT_DEFAULT 4096

/* Appends to out the request body (an object as json_parse gave it) in the API to. Returns 0,
 * TRANSLATE_E_CANNOT with *ret_fault, -ENOMEM (arena or out full). */
MUST_CHECK int translate_request(Arena *arena, Api from, const Json *body, Api to,
                                 const TranslateTarget *target, Buf *out,
                                 TranslateFault *ret_fault);

/* What an answer must say that does not stand in the other API's. */
typedef struct {
    const Usage *usage; /* of the upstream's answer; left out where the API lets it, if not valid */
    int64_t created_s;  /* Unix time */
} TranslateAbout;

/* Appends to out a plain answer. Returns 0, TRANSLATE_E_CANNOT (it is not an answer of that API),
 * -ENOMEM. */
MUST_CHECK int translate_answer(Arena *arena, Api from, const Json *body, Api to,
                                const TranslateAbout *about, Buf *out);

/* Appends to out an error of the provider's in the API to: its words, with the type that the other
 * API has for the status. body: as received, whatever it is. False when out is full. */
bool translate_error(Arena *arena, Str body, int status, Api to, Str request_id, Buf *out);

/* --- streams ---------------------------------------------------------------------------------- */

#define TRANSLATE_ITEMS_MAX 128                    /* texts and calls in one answer */
#define TRANSLATE_HELD_BYTES_MAX (8 * 1024 * 1024) /* of them kept for later, together */

typedef enum {
    STOP_UNKNOWN,
    STOP_END,      /* end_turn, stop */
    STOP_LENGTH,   /* max_tokens, length */
    STOP_TOOLS,    /* tool_use, tool_calls */
    STOP_SEQUENCE, /* stop_sequence; OpenAI calls it stop */
    STOP_REFUSED,  /* refusal, content_filter */
    STOP_PAUSED,   /* pause_turn: to be continued; elsewhere length */
    STOP_N_
} StopReason;

typedef enum { ITEM_TEXT, ITEM_REFUSAL, ITEM_CALL } TranslateItemKind;

/* A text or a tool call of a streamed answer. Private to the translation, here for its size. */
typedef struct {
    TranslateItemKind kind;
    int64_t source; /* what the upstream's events call it by */
    int64_t number; /* what the client's events call it by */
    Str id, name;   /* of a call; live in the stream's arena */
    Str said_id;    /* the upstream's, which id may have been made from */
    Str wire_id;    /* Responses: the item's own */
    Buf held;       /* what was not given away yet; for Responses all of it */
    size_t given;   /* bytes of held that are */
    bool opened;    /* the client knows of it */
    bool any;       /* and has got some of it */
    bool closed;    /* the upstream has finished it */
    bool ended;     /* and so has the client's */
} TranslateItem;

typedef struct {
    Api from, to;
    bool include_usage; /* chat: the client asked for it */
    int64_t created_s;
    Arena arena; /* names */
    Str id, model;
    Str answer_id; /* as the client sees it */
    bool begun;    /* the first event is written */
    bool finished; /* translate_stream_finish was called */
    StopReason stop;
    Str stop_sequence;
    TranslateItem items[TRANSLATE_ITEMS_MAX];
    size_t items_n;
    size_t live; /* the first item that is not finished */
    size_t held_bytes;
    int64_t opened_n, calls_n;
    int64_t sequence; /* Responses: of the next event */
    Buf data;         /* the event being written */
} TranslateStream;

/* include_usage matters when to is API_CHAT. created_s: Unix time. */
void translate_stream_init(TranslateStream *t, Api from, Api to, bool include_usage,
                           int64_t created_s);
void translate_stream_deinit(TranslateStream *t);

/* Takes one event of the upstream: its name ("" when none) and its data (NULL when it was no JSON,
 * [DONE] too). Appends what the client is to get now, which may be nothing. Errors and the end are
 * not translated: the caller knows of them from its StreamState. Returns 0, -EMSGSIZE (more than
 * the maxima above: the answer cannot be given), -ENOMEM (out full). */
MUST_CHECK int translate_stream_feed(TranslateStream *t, Str event, const Json *data, Buf *out);

/* The upstream ended well: appends the rest, the stop reason, the usage and the terminal event.
 * Call it once, for a complete stream only. Returns as translate_stream_feed. */
MUST_CHECK int translate_stream_finish(TranslateStream *t, const Usage *usage, Buf *out);

/* The sequence_number of the next event (Responses), for an error that ends the stream. */
int64_t translate_stream_sequence(const TranslateStream *t);

#endif
