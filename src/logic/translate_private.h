/* Talk: a request or an answer in a form that belongs to no API. What the translate files share;
 * not for others. Everything lives in the arena or borrows from the document it was read from. */
#ifndef GANTRY_LOGIC_TRANSLATE_PRIVATE_H
#define GANTRY_LOGIC_TRANSLATE_PRIVATE_H

#include "logic/translate.h"

typedef enum { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT } TalkRole;

typedef enum {
    PART_TEXT,
    PART_REFUSAL, /* the model's words for no */
    PART_IMAGE,
    PART_FILE,
    PART_CALL,   /* of a tool, by the assistant */
    PART_RESULT, /* of a call, in a user's turn */
} PartKind;

typedef struct Part Part;
typedef struct {
    Part *first, *last;
    size_t n;
} Parts;

struct Part {
    Part *next;
    PartKind kind;
    Str text;       /* TEXT, REFUSAL: the words; CALL: arguments, JSON text as the model wrote it */
    Str id;         /* CALL: its id; RESULT: of the call */
    Str name;       /* CALL: the tool; FILE: file name */
    Str media_type; /* IMAGE, FILE: of data; "" when it is a URL */
    Str data;       /* IMAGE, FILE: base64, or the URL */
    Str detail;     /* IMAGE: OpenAI's word for how closely to look */
    bool is_error;  /* RESULT */
    Parts content;  /* RESULT: texts, images, files */
};

typedef struct Turn Turn;
struct Turn { /* neighbours differ in role */
    Turn *next;
    TalkRole role;
    Parts parts;
};

typedef struct TalkTool TalkTool;
struct TalkTool {
    TalkTool *next;
    Str name, description;
    const Json *schema; /* may be NULL */
    bool strict;
};

typedef enum { CHOICE_UNSAID, CHOICE_AUTO, CHOICE_NONE, CHOICE_ANY, CHOICE_TOOL } TalkChoice;
typedef enum { FORMAT_TEXT, FORMAT_JSON, FORMAT_SCHEMA } TalkFormat;

#define TALK_STOPS_MAX 16

typedef struct {
    Turn *first, *last;
    /* --- requests */
    TalkTool *tools, *tools_last;
    TalkChoice choice;
    Str choice_tool;
    bool one_call; /* calls in parallel are switched off */
    bool stream;
    bool include_usage;
    int64_t out_cap; /* 0: none */
    const Json *temperature, *top_p;
    Str stops[TALK_STOPS_MAX];
    size_t stops_n;
    TalkFormat format;
    Str format_name;
    const Json *format_schema;
    bool format_strict;
    Str user, effort, verbosity, cache_key;
    bool standard_tier; /* the client pinned it */
    /* --- answers: one turn of the assistant's */
    Str id, model;
    StopReason stop;
    Str stop_sequence;
} Talk;

/* Reading: what a reader of an API has in hand. */
typedef struct {
    Arena *arena;
    Talk *talk;
    TranslateFault *fault;
} TalkReader;

/* Returns TRANSLATE_E_CANNOT. */
int talk_cannot(TalkReader *r, const char *param, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* The member, NULL when it is absent or null. */
const Json *talk_member(const Json *v, const char *key);
/* The first member of the list that is there: what cannot be carried over. */
MUST_CHECK int talk_refuse_members(TalkReader *r, const Json *body, const char *const *keys,
                                   size_t n);

/* The last turn when it is of this role, else a new one. NULL: arena full. */
Turn *talk_turn(TalkReader *r, TalkRole role);
Part *talk_part(TalkReader *r, Parts *parts, PartKind kind);
/* An empty text adds nothing. */
MUST_CHECK int talk_add_text(TalkReader *r, Parts *parts, Str text);
MUST_CHECK int talk_add_refusal(TalkReader *r, Parts *parts, Str text);
MUST_CHECK int talk_add_call(TalkReader *r, Parts *parts, Str id, Str name, Str arguments);
/* url: http(s), or data: with base64. kind: PART_IMAGE or PART_FILE. */
MUST_CHECK int talk_add_url(TalkReader *r, Parts *parts, PartKind kind, Str url, Part **ret);
MUST_CHECK int talk_add_tool(TalkReader *r, const TalkTool *tool);
MUST_CHECK int talk_add_stop(TalkReader *r, Str stop);
/* Compact JSON text of a value; .ptr NULL: arena full. */
Str talk_json_text(Arena *arena, const Json *v);

/* Writing. */

typedef struct {
    Arena *arena;
    const Talk *talk;
    const TranslateTarget *target; /* requests */
    TranslateFault *fault;
    JsonOut out;
} TalkWriter;

int talk_write_cannot(TalkWriter *w, const char *param, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* "data:TYPE;base64,DATA", or the URL; .ptr NULL: arena full. */
Str talk_url(Arena *arena, const Part *part);
/* The call's arguments as an object; what is none is wrapped, and "" is an empty one. */
void talk_out_arguments(Arena *arena, JsonOut *out, Str arguments);
/* Whether every name of a tool fits; else the fault. */
MUST_CHECK int talk_check_names(TalkWriter *w, size_t bytes_max);
/* Ids of calls, in the letters and the length that APIs take: the same for the same id, and
 * different for different ones. Most are returned as they are. .ptr NULL: arena full. */
Str talk_call_id(Arena *arena, Str id, size_t bytes_max);
/* An answer's id with the API's prefix in place of another's. */
Str talk_answer_id(Arena *arena, const char *prefix, Str id);
/* The only part when it is a text: the usual case, for which APIs take a string. */
bool talk_is_one_text(const Parts *parts);
/* All texts in one; .ptr NULL: there is none. Returns 0 or -ENOMEM. */
MUST_CHECK int talk_joined_text(Arena *arena, const Parts *parts, Str *ret);
/* Why the answer ends, tool calls considered. */
StopReason talk_stop(const Talk *talk);
bool talk_has(const Parts *parts, PartKind kind);
bool talk_is_blank(Str text);

/* translate_chat.c, translate_responses.c, translate_messages.c. Readers of answers return
 * TRANSLATE_E_CANNOT for what is none. */
typedef struct {
    int (*read_request)(TalkReader *r, const Json *body);
    int (*write_request)(TalkWriter *w);
    int (*read_answer)(TalkReader *r, const Json *body);
    int (*write_answer)(TalkWriter *w, const TranslateAbout *about);
} TalkApi;
extern const TalkApi talk_chat, talk_responses, talk_messages;

StopReason talk_stop_of(Api api, Str word);           /* "" and the unknown: STOP_UNKNOWN */
const char *talk_stop_word(Api api, StopReason stop); /* chat, messages */

void chat_out_usage(JsonOut *out, const Usage *usage);
void responses_out_usage(JsonOut *out, const Usage *usage);
void messages_out_usage(JsonOut *out, const Usage *usage);

/* Pieces of a Responses answer, plain or streamed. */
void responses_out_head(JsonOut *out, Str id, int64_t created_s, const char *status, Str model,
                        StopReason stop); /* members of the response */
void responses_out_message(JsonOut *out, Str id, const char *status, bool refusal, Str text,
                           bool with_content);
void responses_out_content(JsonOut *out, bool refusal, Str text);
void responses_out_call(JsonOut *out, Str id, const char *status, Str call_id, Str name,
                        Str arguments);
const char *responses_status(StopReason stop, bool refusal); /* "completed" or "incomplete" */

/* Streams: translate_stream.c keeps the items, translate_stream_in.c reads events into them, and
 * translate_stream_out.c writes them. */

/* A new item. Returns 0 or -EMSGSIZE. */
MUST_CHECK int stream_item(TranslateStream *t, TranslateItemKind kind, int64_t source,
                           TranslateItem **ret);
/* The newest one of that source, or NULL. */
TranslateItem *stream_find(TranslateStream *t, int64_t source);
MUST_CHECK int stream_add(TranslateStream *t, TranslateItem *item, Str bytes);
/* Keeps the first id and the first name that are not empty. Returns 0 or -ENOMEM. */
MUST_CHECK int stream_name(TranslateStream *t, TranslateItem *item, Str id, Str name);
/* Keeps the first of each. */
MUST_CHECK int stream_head(TranslateStream *t, const Json *head);
StopReason stream_stop(const TranslateStream *t);

MUST_CHECK int stream_read(TranslateStream *t, Str event, const Json *data);

/* What the writers do. Each appends to out; false when it is full. */
typedef struct {
    bool interleaved; /* several items may be open at once */
    bool keeps;       /* items keep what they have given: their end repeats it */
    bool (*begin)(TranslateStream *t, Buf *out);
    bool (*open)(TranslateStream *t, const TranslateItem *item, Buf *out);
    bool (*add)(TranslateStream *t, const TranslateItem *item, Str bytes, Buf *out);
    bool (*close)(TranslateStream *t, const TranslateItem *item, Buf *out);
    bool (*end)(TranslateStream *t, const Usage *usage, Buf *out);
} StreamWriter;
extern const StreamWriter stream_writers[API_N_];

#endif
