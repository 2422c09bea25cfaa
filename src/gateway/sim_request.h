/* A model request as the simulator sees it: both protocols in one form. Pure; everything lives in
 * the arena. Not for other folders. */
#ifndef GANTRY_GATEWAY_SIM_REQUEST_H
#define GANTRY_GATEWAY_SIM_REQUEST_H

#include "base/arena.h"
#include "codec/json.h"
#include "logic/protocol.h"

#define SIM_ITEMS_MAX 8192
#define SIM_TOOLS_MAX 256
#define SIM_CHOICES_MAX 8

typedef enum { SIM_SYSTEM, SIM_USER, SIM_ASSISTANT, SIM_CALL, SIM_RESULT } SimItemKind;

/* One thing that was said, in order. */
typedef struct {
    SimItemKind kind;
    Str text; /* SIM_CALL: the tool's name */
} SimItem;

typedef struct {
    Str name, description;
    const Json *schema; /* may be NULL */
} SimTool;

typedef struct {
    Api api;
    Str model;
    uint64_t hash; /* of the body */
    bool stream;
    bool include_usage;
    int64_t out_cap; /* tokens; 0: none given */
    int64_t n;
    Str system; /* all of it, joined with a line end */
    const SimItem *items;
    size_t items_n;
    size_t turn;    /* index behind the last user text: what happened since */
    Str user;       /* that text, directives taken out */
    Str directives; /* "key=value key=value ..." of all [[sim ...]] in the system prompt, then of
                     * the last user text */
    const SimTool *tools;
    size_t tools_n;
    bool tools_off, tools_must;
    Str tool_forced; /* "" when none */
    bool json;       /* an answer in JSON is asked for by response_format */
    const Json *json_schema;
    int64_t input_tokens; /* what it will be billed as */
} SimRequest;

/* Returns 0, -EINVAL with diag (what a provider would answer 400 to), -ENOMEM. */
MUST_CHECK int sim_request_read(Arena *arena, Api api, Str body, SimRequest *ret);

/* Value of a directive; the last one of that name counts. */
bool sim_directive(const SimRequest *request, const char *key, Str *ret);
int64_t sim_directive_i64(const SimRequest *request, const char *key, int64_t otherwise);

/* About four bytes a token, and at least one for any text. */
int64_t sim_tokens(size_t bytes);

uint64_t sim_hash(Str bytes);

#endif
