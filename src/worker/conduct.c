#include "worker/conduct.h"

#include <stdlib.h>

#define NAMES_BYTES_MAX (ROLLUP_TOOLS_MAX * (ROLLUP_TOOL_BYTES + 1))

void conduct_init(Conduct *conduct)
{
    *conduct = (Conduct){ 0 };
    buf_init(&conduct->names, NAMES_BYTES_MAX);
}

void conduct_deinit(Conduct *conduct)
{
    free(conduct->pattern);
    buf_deinit(&conduct->names);
}

static PatternTask *pattern_of(Conduct *conduct)
{
    if (conduct->pattern) return conduct->pattern;
    conduct->pattern = xcalloc(1, sizeof(*conduct->pattern));
    pattern_begin(conduct->pattern);
    return conduct->pattern;
}

static void count(Conduct *conduct, Str name)
{
    Str rest = buf_str(&conduct->names), one;
    name = str_sub(name, 0, ROLLUP_TOOL_BYTES);
    for (size_t i = 0; i < conduct->tools_n; i++) {
        rest = str_split(rest, '\0', &one, NULL);
        if (!str_eq(one, name)) continue;
        conduct->calls[i]++;
        return;
    }
    if (conduct->tools_n == ROLLUP_TOOLS_MAX || str_find_char(name, '\0') >= 0) return;
    buf_add(&conduct->names, name);
    buf_add_char(&conduct->names, '\0');
    assert(!conduct->names.failed);
    conduct->calls[conduct->tools_n++] = 1;
}

void conduct_model(Conduct *conduct, const GatewayCall *call)
{
    if (call->outcome != GATEWAY_COMPLETE) return;
    for (size_t i = 0; i < call->tool_names_n; i++) {
        pattern_tool(pattern_of(conduct), call->tool_names[i], false);
        count(conduct, call->tool_names[i]);
    }
    str_copy(conduct->finish, sizeof(conduct->finish), call->finish);
}

static bool has_failed(Str outcome)
{
    static const Str words[] = { STR("error"), STR("trouble"), STR("timeout"), STR("too_large") };
    for (size_t i = 0; i < ARRAY_N(words); i++)
        if (str_eq(outcome, words[i])) return true;
    return false;
}

/* One that a model's answer asked for is there already, but for how it went. */
void conduct_tool(Conduct *conduct, const ToolRecord *record)
{
    bool failed = has_failed(record->outcome);
    if (record->counted) count(conduct, record->name);
    if (record->counted || failed) pattern_tool(pattern_of(conduct), record->name, failed);
}

void conduct_text(Conduct *conduct, Str text)
{
    CLEANUP(arena_deinit) Arena scratch;
    arena_init(&scratch, (size_t)14 * PATTERN_JSON_MAX + 65536);
    pattern_text(pattern_of(conduct), &scratch, text);
}

TaskConduct conduct_end(Conduct *conduct, const char *outcome, Arena *arena)
{
    CLEANUP(buf_deinit) Buf tools;
    Str rest = buf_str(&conduct->names), name;
    buf_init(&tools, TASK_CONDUCT_TOOLS_MAX);
    for (size_t i = 0; i < conduct->tools_n; i++) {
        rest = str_split(rest, '\0', &name, NULL);
        tool_use_add(&tools, name, conduct->calls[i]);
    }
    Str finish = str_of(conduct->finish[0] ? conduct->finish : outcome);
    TaskConduct ret = { .known = true,
                        .fingerprint = pattern_end(pattern_of(conduct), finish),
                        .tools = tools.failed ? STR_NULL : arena_str(arena, buf_str(&tools)) };
    free(TAKE(conduct->pattern));
    return ret;
}
