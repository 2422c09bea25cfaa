/* Request info: what admission must know of a model request, read from its body.
 *
 * Pure; any thread. Strings borrow from the document.
 */
#ifndef GANTRY_LOGIC_REQUEST_INFO_H
#define GANTRY_LOGIC_REQUEST_INFO_H

#include "base/arena.h"
#include "codec/json.h"
#include "logic/protocol.h"

#define REQUEST_N_MAX 128
#define REQUEST_TOOLS_MAX 512
#define REQUEST_MODEL_BYTES_MAX 256
#define REQUEST_OUT_CAP_MAX INT64_C(1000000000)

typedef struct {
    Api api;
    Str model;
    bool stream;
    bool include_usage;         /* chat: the client asked for stream_options.include_usage */
    int64_t out_cap;            /* tokens a choice; 0: the client gave none */
    const char *out_cap_member; /* "max_tokens", "max_completion_tokens", ...; NULL: none */
    bool no_output;             /* Anthropic: max_tokens 0: the prompt is cached, and no more */
    int64_t out_min;            /* a lower cap is refused by the provider: it thinks for longer */
    int64_t n;                  /* choices, 1..REQUEST_N_MAX */
    int64_t messages;           /* or input items, or texts to embed; a system prompt counts one */
    bool has_tools;
    int64_t tool_prompts;  /* that the provider adds to the input: one when there are tools, and one
                           * for each that it has defined itself and the client runs */
    bool functions;        /* chat: they are in `functions`, as they were before `tools` */
    const Str *tool_names; /* of the client's own tools, in order */
    size_t tool_names_n;
    bool has_media;       /* image, audio, file, or a part of unknown kind: bytes bound nothing */
    int64_t images;       /* of the media, images; each has a bound of its own */
    bool other_media;     /* there are others than images, or media are asked for */
    bool hides_input;     /* input that is not in the body: previous_response_id, conversation,
                           * prompt, items by reference, what server tools find */
    bool cache_write;     /* input may be written to the provider's cache: Anthropic with
                           * cache_control; OpenAI always, it does so by itself */
    bool prediction;      /* chat: predicted output is there, and its rejected tokens are billed */
    int64_t server_tools; /* tools that the provider runs itself, and bills */
    int64_t server_uses_max; /* calls of them at most; -1: one has no bound; 0: there are none */
    bool web_search_only;    /* there are server tools, and all are web searches */
    unsigned server_kinds;   /* which there are: 1 << ServerTool */
    SearchSize search_size;  /* of web searches; UNKNOWN: the provider's usual one */
    Str service_tier;        /* "" when absent; Anthropic's speed when it has one */
    Service service;         /* what it means */
    Region region;           /* asked for */
    Str user;                /* user, or metadata.user_id; "" */
} RequestInfo;

/* What is wrong, in the terms of the API's error objects. */
typedef struct {
    const char *param; /* the top-level member; NULL: the body */
    char message[256];
} RequestFault;

#define REQUEST_E_INVALID 1

/* Reads body, which must be an object. Only what admission depends on is checked; the rest is the
 * provider's business. Returns 0, REQUEST_E_INVALID with *ret_fault, -ENOMEM (arena full). */
MUST_CHECK int request_info_read(Arena *arena, Api api, const Json *body, RequestInfo *ret,
                                 RequestFault *ret_fault);

#endif
