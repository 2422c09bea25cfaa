/* MCP: the messages of the Model Context Protocol that a client of tools needs, written and read.
 *
 * JSON-RPC 2.0 in two revisions: 2025-11-25 (and its forerunners) with initialize and sessions, and
 * 2026-07-28, where every request stands alone and carries its version. Transport is elsewhere.
 * Pure; any thread. What is read borrows from the document.
 */
#ifndef GANTRY_CODEC_MCP_H
#define GANTRY_CODEC_MCP_H

#include "codec/json.h"

#define MCP_VERSION_SESSION "2025-11-25"
#define MCP_VERSION_STATELESS "2026-07-28"

typedef enum { MCP_INITIALIZE, MCP_TOOLS_LIST, MCP_TOOLS_CALL, MCP_METHOD_N_ } McpMethod;
const char *mcp_method_name(McpMethod method); /* "initialize", "tools/list", "tools/call" */

typedef struct {
    McpMethod method;
    int64_t id;
    bool stateless;
    Str cursor;    /* MCP_TOOLS_LIST: nextCursor of the page before; empty: the first */
    Str name;      /* MCP_TOOLS_CALL */
    Str arguments; /* MCP_TOOLS_CALL: a JSON object */
} McpRequest;
void mcp_request_write(JsonOut *out, const McpRequest *request);

/* Notifications: after initialize; and that the request id is not wanted any more. */
void mcp_initialized_write(JsonOut *out);
void mcp_cancelled_write(JsonOut *out, int64_t id);
/* The answer to a request of the server's: pings are answered, nothing else is offered. */
void mcp_answer_write(JsonOut *out, const Json *id, Str method);

typedef enum {
    MCP_RESULT, /* of a request */
    MCP_ERROR,  /* likewise */
    MCP_ASKED,  /* the server asks something */
    MCP_NOTICE, /* it tells something */
} McpKind;

typedef struct {
    McpKind kind;
    const Json *id; /* NULL: a notice, or an error about nothing in particular */
    Str method;     /* MCP_ASKED, MCP_NOTICE */
    const Json *result;
    int64_t error_code;
    Str error_message;
} McpMessage;

/* Error codes of JSON-RPC, and of the newer revision. */
#define MCP_ERROR_METHOD (-32601)
#define MCP_ERROR_VERSION (-32022)

/* Returns 0 or -EINVAL with diag: not a message. */
MUST_CHECK int mcp_message_read(const Json *v, McpMessage *ret);
/* Whether the message answers the request of that id. */
bool mcp_message_answers(const McpMessage *message, int64_t id);

/* The version that an initialize agreed on: 0, or -EPROTO with diag when it is one we cannot. */
MUST_CHECK int mcp_initialize_read(const Json *result, Str *ret_version);

/* One page of tools/list: how many of its tools are called name, the last of these, and the cursor
 * of the next page (empty: none). Returns 0 or -EINVAL with diag. */
typedef struct {
    Str description;
    const Json *input_schema;
} McpTool;
typedef struct {
    size_t found_n;
    McpTool found;
    Str next;
} McpPage;
MUST_CHECK int mcp_tools_read(const Json *result, Str name, McpPage *ret);

/* The result of tools/call as text for a model: texts, one after the other; other content is named
 * only; without content what is structured, as JSON. Returns 0, -EINVAL with diag (no result, or
 * one that asks for input), -ENOMEM (out full). */
MUST_CHECK int mcp_call_read(const Json *result, Buf *out, bool *ret_is_error);

#endif
