#include "gateway/sim_mode.h"

#define SLOW_DELAY_MS 2000

static const SimMode modes[] = {
    { "assistant", SIM_BY_ASSISTANT, 0, 0, 0 },
    { "echo", SIM_BY_ECHO, 0, 0, 0 },
    { "ramble", SIM_BY_RAMBLE, 0, 0, 0 },
    { "loop", SIM_BY_LOOP, 0, 0, 0 },
    { "silent", SIM_BY_NOTHING, 0, 0, 0 },
    { "slow", SIM_BY_ASSISTANT, 0, 0, SLOW_DELAY_MS },
    { "fail", SIM_BY_ASSISTANT, 0, 500, 0 },
    { "overload", SIM_BY_ASSISTANT, 0, 529, 0 },
    { "rate-limit", SIM_BY_ASSISTANT, 0, 429, 0 },
    { "quota", SIM_BY_ASSISTANT, SIM_QUOTA, 429, 0 },
    { "html", SIM_BY_ASSISTANT, SIM_HTML, 502, 0 },
    { "truncate", SIM_BY_ASSISTANT, SIM_CUT, 0, 0 },
    { "no-finish", SIM_BY_ASSISTANT, SIM_NO_FINISH, 0, 0 },
    { "done-early", SIM_BY_ASSISTANT, SIM_NO_FINISH | SIM_DONE_EARLY, 0, 0 },
    { "no-done", SIM_BY_ASSISTANT, SIM_NO_DONE, 0, 0 },
    { "no-usage", SIM_BY_ASSISTANT, SIM_NO_USAGE, 0, 0 },
    { "usage-each", SIM_BY_ASSISTANT, SIM_USAGE_EACH, 0, 0 },
    { "usage-twice", SIM_BY_ASSISTANT, SIM_USAGE_TWICE, 0, 0 },
    { "error-event", SIM_BY_ASSISTANT, SIM_ERROR_EVENT, 0, 0 },
    { "stall", SIM_BY_ASSISTANT, SIM_STALL, 0, 0 },
    { "left-open", SIM_BY_ASSISTANT, SIM_LEFT_OPEN, 0, 0 },
    { "keep-alives", SIM_BY_ASSISTANT, SIM_KEEP_ALIVES, 0, 0 },
    { "dribble", SIM_BY_ASSISTANT, SIM_DRIBBLE, 0, 0 },
    { "other-model", SIM_BY_ASSISTANT, SIM_OTHER_MODEL, 0, 0 },
    { "empty", SIM_BY_ASSISTANT, SIM_EMPTY, 0, 0 },
    { "garbage", SIM_BY_ASSISTANT, SIM_GARBAGE, 0, 0 },
    { "bad-utf8", SIM_BY_ASSISTANT, SIM_BAD_UTF8, 0, 0 },
    { "huge", SIM_BY_ASSISTANT, SIM_HUGE, 0, 0 },
    { "hang", SIM_BY_ASSISTANT, SIM_HANG, 0, 0 },
};

const SimMode *sim_mode_at(size_t i)
{
    return i < ARRAY_N(modes) ? &modes[i] : NULL;
}

/* A mode's name, alone or with more behind a hyphen or colon. The longest one wins. */
static const SimMode *find(Str name)
{
    const SimMode *best = NULL;
    for (size_t i = 0; i < ARRAY_N(modes); i++) {
        Str mode = str_of(modes[i].name);
        if (!str_starts_with(name, mode) || (best && strlen(best->name) > mode.len)) continue;
        if (name.len == mode.len || strchr("-:", name.ptr[mode.len])) best = &modes[i];
    }
    return best;
}

static const SimMode *by_model(Str model)
{
    static const char *const sizes[] = { "small", "large" };
    if (!str_starts_with(model, STR("sim/"))) return NULL;
    Str name = str_skip(model, 4);
    for (size_t i = 0; i < ARRAY_N(sizes); i++)
        if (str_starts_with(name, str_of(sizes[i]))) name = str_skip(name, strlen(sizes[i]) + 1);
    return find(name);
}

SimMode sim_mode(const SimRequest *request)
{
    Str name;
    const SimMode *found = sim_directive(request, "mode", &name) ? find(name)
                                                                 : by_model(request->model);
    bool applies = (int64_t)(request->hash % 100) < sim_directive_i64(request, "rate", 100);
    SimMode mode = found && applies ? *found : modes[0];
    mode.delay_ms = sim_directive_i64(request, "delay", mode.delay_ms);
    if (mode.status == 500) mode.status = (int)sim_directive_i64(request, "status", mode.status);
    if (mode.status != 0 && (mode.status < 400 || mode.status > 599)) mode.status = 500;
    return mode;
}
