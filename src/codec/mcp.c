#include "codec/mcp.h"

#include "base/diag.h"

#define META "io.modelcontextprotocol/"

const char *mcp_method_name(McpMethod method)
{
    static const char *const names[MCP_METHOD_N_] = { "initialize", "tools/list", "tools/call" };
    assert(method < MCP_METHOD_N_);
    return names[method];
}

/* --- writing ---------------------------------------------------------------------------------- */

static void message_begin(JsonOut *out)
{
    json_out_object(out);
    json_out_kcstr(out, "jsonrpc", "2.0");
}

static void client_info(JsonOut *out, const char *key)
{
    json_out_key(out, key);
    json_out_object(out);
    json_out_kcstr(out, "name", "gantry");
    json_out_kcstr(out, "version", "1");
    json_out_object_end(out);
}

static void empty_object(JsonOut *out, const char *key)
{
    json_out_key(out, key);
    json_out_object(out);
    json_out_object_end(out);
}

static void meta(JsonOut *out)
{
    json_out_key(out, "_meta");
    json_out_object(out);
    json_out_kcstr(out, META "protocolVersion", MCP_VERSION_STATELESS);
    client_info(out, META "clientInfo");
    empty_object(out, META "clientCapabilities");
    json_out_object_end(out);
}

static void params(JsonOut *out, const McpRequest *request)
{
    json_out_key(out, "params");
    json_out_object(out);
    if (request->method == MCP_INITIALIZE) {
        json_out_kcstr(out, "protocolVersion", MCP_VERSION_SESSION);
        empty_object(out, "capabilities");
        client_info(out, "clientInfo");
    } else if (request->method == MCP_TOOLS_CALL) {
        json_out_kstr(out, "name", request->name);
        json_out_kraw(out, "arguments", request->arguments);
    } else if (!str_empty(request->cursor)) {
        json_out_kstr(out, "cursor", request->cursor);
    }
    if (request->stateless) meta(out);
    json_out_object_end(out);
}

void mcp_request_write(JsonOut *out, const McpRequest *request)
{
    assert(request->method != MCP_TOOLS_CALL || !str_empty(request->arguments));
    message_begin(out);
    json_out_ki64(out, "id", request->id);
    json_out_kcstr(out, "method", mcp_method_name(request->method));
    params(out, request);
    json_out_object_end(out);
}

void mcp_initialized_write(JsonOut *out)
{
    message_begin(out);
    json_out_kcstr(out, "method", "notifications/initialized");
    json_out_object_end(out);
}

void mcp_cancelled_write(JsonOut *out, int64_t id)
{
    message_begin(out);
    json_out_kcstr(out, "method", "notifications/cancelled");
    json_out_key(out, "params");
    json_out_object(out);
    json_out_ki64(out, "requestId", id);
    json_out_kcstr(out, "reason", "the caller does not wait any longer");
    json_out_object_end(out);
    json_out_object_end(out);
}

void mcp_answer_write(JsonOut *out, const Json *id, Str method)
{
    message_begin(out);
    json_out_kval(out, "id", id);
    if (str_eq(method, STR("ping"))) {
        empty_object(out, "result");
    } else {
        json_out_key(out, "error");
        json_out_object(out);
        json_out_ki64(out, "code", MCP_ERROR_METHOD);
        json_out_kcstr(out, "message", "this client offers no methods");
        json_out_object_end(out);
    }
    json_out_object_end(out);
}

/* --- reading ---------------------------------------------------------------------------------- */

static bool id_ok(const Json *id)
{
    JsonType type = json_type(id);
    return type == JSON_STRING || type == JSON_INT || type == JSON_REAL;
}

int mcp_message_read(const Json *v, McpMessage *ret)
{
    const Json *id = json_get(v, "id"), *method = json_get(v, "method"),
               *error = json_get(v, "error"), *result = json_get(v, "result");
    McpMessage message = { .id = id_ok(id) ? id : NULL };
    if (json_type(v) != JSON_OBJECT || !str_eq(json_str(json_get(v, "jsonrpc")), STR("2.0")))
        return diag_set(-EINVAL, "the server's answer is not a JSON-RPC message");
    if (json_type(method) == JSON_STRING) {
        message.method = json_str(method);
        message.kind = message.id ? MCP_ASKED : MCP_NOTICE;
    } else if (json_type(error) == JSON_OBJECT) {
        message.kind = MCP_ERROR;
        message.error_code = json_i64_or(json_get(error, "code"), 0);
        message.error_message = json_str(json_get(error, "message"));
    } else if (json_type(result) == JSON_OBJECT && message.id) {
        message.kind = MCP_RESULT;
        message.result = result;
    } else {
        return diag_set(-EINVAL, "the server's message has neither method, result nor error");
    }
    *ret = message;
    return 0;
}

bool mcp_message_answers(const McpMessage *message, int64_t id)
{
    int64_t n;
    bool answer = message->kind == MCP_RESULT || message->kind == MCP_ERROR;
    return answer && message->id && json_i64(message->id, &n) == 0 && n == id;
}

int mcp_initialize_read(const Json *result, Str *ret_version)
{
    static const char *const known[] = { MCP_VERSION_SESSION, "2025-06-18", "2025-03-26",
                                         "2024-11-05" };
    Str version = json_str(json_get(result, "protocolVersion"));
    for (size_t i = 0; i < ARRAY_N(known); i++) {
        if (!str_eq(version, str_of(known[i]))) continue;
        *ret_version = str_of(known[i]);
        return 0;
    }
    return diag_set(-EPROTO, "the server speaks version \"%.*s\" of MCP, which is not known here",
                    STR_ARG(str_sub(version, 0, 32)));
}

int mcp_tools_read(const Json *result, Str name, McpPage *ret)
{
    const Json *tools = json_get(result, "tools");
    McpPage page = { .next = json_str(json_get(result, "nextCursor")) };
    if (json_type(tools) != JSON_ARRAY)
        return diag_set(-EINVAL, "the server's list of tools is no list");
    for (JsonIter it = json_iter(tools); json_next(&it);) {
        if (!str_eq(json_str(json_get(it.value, "name")), name)) continue;
        page.found_n++;
        page.found = (McpTool){ json_str(json_get(it.value, "description")),
                                json_get(it.value, "inputSchema") };
    }
    *ret = page;
    return 0;
}

static void part_add(Buf *out, bool *first, Str text)
{
    if (!*first) buf_add_char(out, '\n');
    *first = false;
    buf_add(out, text);
}

/* What is no text is named, so that a model knows that there was something. */
static void content_add(Buf *out, bool *first, const Json *part)
{
    Str type = json_str(json_get(part, "type"));
    const Json *resource = json_get(part, "resource");
    if (str_eq(type, STR("text"))) {
        part_add(out, first, json_str(json_get(part, "text")));
    } else if (json_type(json_get(resource, "text")) == JSON_STRING) {
        part_add(out, first, json_str(json_get(resource, "text")));
    } else {
        Str mime = json_str(json_get(resource ? resource : part, "mimeType"));
        Str uri = json_str(json_get(resource ? resource : part, "uri"));
        part_add(out, first, STR(""));
        buf_printf(out, "[%.*s%s%.*s%s%.*s]", STR_ARG(str_sub(type, 0, 64)), mime.len ? " " : "",
                   STR_ARG(str_sub(mime, 0, 128)), uri.len ? " " : "",
                   STR_ARG(str_sub(uri, 0, 2048)));
    }
}

int mcp_call_read(const Json *result, Buf *out, bool *ret_is_error)
{
    const Json *content = json_get(result, "content"),
               *structured = json_get(result, "structuredContent");
    Str type = json_str(json_get(result, "resultType"));
    bool first = true;
    if (str_eq(type, STR("input_required")))
        return diag_set(-EINVAL, "the tool asks for input, which nobody can give here");
    if (json_type(result) != JSON_OBJECT || (json_type(content) != JSON_ARRAY && !structured))
        return diag_set(-EINVAL, "the tool's result has no content");
    for (JsonIter it = json_iter(content); json_next(&it);) content_add(out, &first, it.value);
    if (first && structured) {
        JsonOut json = json_out(out);
        json_out_value(&json, structured);
    }
    *ret_is_error = json_bool(json_get(result, "isError"), false);
    return out->failed ? -ENOMEM : 0;
}
