/* What MCP servers say: read without a fault whatever it is, and what we answer is JSON. */
#include "codec/mcp.h"
#include "tests/fuzz/fuzz.h"

static void check_answer(Arena *arena, const McpMessage *message)
{
    Buf text;
    const Json *v;
    buf_init(&text, 1 << 20);
    JsonOut out = json_out(&text);
    mcp_answer_write(&out, message->id, message->method);
    assert(json_out_ok(&out) && json_parse(arena, buf_str(&text), NULL, &v, NULL) == 0);
    buf_deinit(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Arena arena;
    Buf text;
    const Json *v;
    McpMessage message;
    McpPage page;
    Str version;
    bool is_error;
    arena_init(&arena, 64 << 20);
    buf_init(&text, size * 3 + 4096);
    if (json_parse(&arena, str_make((const char *)data, size), NULL, &v, NULL) == 0) {
        const Json *result = v;
        if (mcp_message_read(v, &message) == 0) {
            assert(!(mcp_message_answers(&message, 1) && mcp_message_answers(&message, 2)));
            if (message.kind == MCP_ASKED) check_answer(&arena, &message);
            if (message.kind == MCP_RESULT) result = message.result;
        }
        if (mcp_initialize_read(result, &version) == 0) assert(version.len == 10);
        if (mcp_tools_read(result, STR("t"), &page) == 0)
            assert(page.found_n <= json_len(json_get(result, "tools")));
        if (mcp_call_read(result, &text, &is_error) == 0) assert(!text.failed);
    }
    buf_deinit(&text);
    arena_deinit(&arena);
    return 0;
}
