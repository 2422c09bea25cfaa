/* agent.yaml and tools.json from anybody: every text is either refused with findings that have a
 * message and a place inside the text, or gives a spec within its limits, whose version has one id
 * however often it is made. */
#include "base/diag.h"
#include "logic/version.h"
#include "tests/fuzz/fuzz.h"

#define ARENA_BYTES ((size_t)64 << 20)
#define ISSUES_MAX 32
#define DIGEST "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static void check_issues(const Issue *issues, size_t n, bool invalid, Str text)
{
    size_t errors = 0;
    assert(n <= ISSUES_MAX);
    for (size_t i = 0; i < n; i++) {
        errors += !issues[i].warning;
        assert(issues[i].message.len > 0 && issues[i].message.ptr[issues[i].message.len] == '\0');
        assert(issues[i].line <= text.len + 2 && issues[i].column <= text.len + 2);
        for (size_t k = 0; k < issues[i].message.len; k++)
            assert((unsigned char)issues[i].message.ptr[k] >= 0x20);
        CLEANUP(buf_deinit) Buf out = { .max = 1 << 16 };
        issue_text(&issues[i], STR("f"), &out);
        assert(!out.failed);
    }
    assert(invalid ? errors > 0 || n == ISSUES_MAX : errors == 0);
}

static void check_spec(const AgentSpec *s)
{
    assert(agent_name_ok(s->name) && s->runtime < RUNTIME_N_);
    assert(s->command_n <= MANIFEST_COMMAND_MAX && s->fallbacks_n <= MANIFEST_FALLBACKS_MAX);
    assert(str_empty(s->code) || agent_path_ok(s->code));
    assert(str_empty(s->prompt) || agent_path_ok(s->prompt));
    assert(str_empty(s->model) || model_id_ok(s->model));
    assert(s->limits.tokens > 0 && s->limits.seconds > 0 && s->limits.usd_nusd > 0);
    assert(s->retry.attempts_max > 0 && s->retry.factor_milli >= RETRY_FACTOR_ONE);
    assert(s->retry.max_ms >= s->retry.initial_ms);
    assert(json_type(s->sampling.json) == JSON_OBJECT);
}

/* The components read back as JSON whose canonical form they are. */
static void check_version(Arena *arena, const AgentSpec *spec, const ToolSet *tools)
{
    CLEANUP(buf_deinit) Buf first = { .max = VERSION_COMPONENTS_BYTES_MAX };
    CLEANUP(buf_deinit) Buf again = { .max = VERSION_COMPONENTS_BYTES_MAX };
    Str digest = str_empty(spec->code) ? STR_NULL : STR(DIGEST);
    int r = version_components(arena, spec, STR("prompt"), tools, digest, &first);
    if (r != 0) { /* nested to the limit of JSON, or too large */
        assert(r == -EINVAL || r == -ENOMEM);
        return;
    }
    const Json *v;
    VersionDiff diff;
    r = json_parse(arena, buf_str(&first), NULL, &v, NULL);
    if (r == -ENOMEM) return;
    assert(r == 0);
    assert(json_canonical(v, &again) == 0 && str_eq(buf_str(&first), buf_str(&again)));
    assert(version_diff(arena, v, v, &diff) == 0 && diff.n == 0);
}

/* What the tools become in a version is a tools.json that means the same. */
static void check_normal_form(Arena *arena, const ToolSet *set)
{
    CLEANUP(buf_deinit) Buf once = { .max = VERSION_COMPONENTS_BYTES_MAX };
    CLEANUP(buf_deinit) Buf twice = { .max = VERSION_COMPONENTS_BYTES_MAX };
    Issue issues[ISSUES_MAX];
    size_t n;
    ToolSet back;
    assert(tools_normalize(set, &once) == 0);
    if (once.len > TOOLS_BYTES_MAX) return;
    int r = tools_parse(arena, buf_str(&once), &back, issues, ISSUES_MAX, &n);
    if (r == -ENOMEM) return;
    assert(r == 0 && back.n == set->n);
    assert(tools_normalize(&back, &twice) == 0 && str_eq(buf_str(&once), buf_str(&twice)));
}

static void tools_input(Arena *arena, Str text)
{
    static const char yaml[] =
        "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: a}\nspec: {command: [a]}\n";
    Issue issues[ISSUES_MAX];
    size_t n;
    ToolSet set;
    AgentSpec spec;
    int r = tools_parse(arena, text, &set, issues, ISSUES_MAX, &n);
    if (r == -ENOMEM) return;
    check_issues(issues, n, r == TOOLS_E_INVALID, text);
    if (r != 0) return;
    check_normal_form(arena, &set);
    r = manifest_parse(arena, str_of(yaml), &spec, issues, ISSUES_MAX, &n);
    if (r == 0) check_version(arena, &spec, &set);
}

static void manifest_input(Arena *arena, Str text)
{
    Issue issues[ISSUES_MAX];
    size_t n;
    AgentSpec spec;
    int r = manifest_parse(arena, text, &spec, issues, ISSUES_MAX, &n);
    if (r == -ENOMEM) return;
    check_issues(issues, n, r == MANIFEST_E_INVALID, text);
    if (r != 0) return;
    check_spec(&spec);
    check_version(arena, &spec, NULL);
}

/* The first byte chooses the file: `[` and `{` begin tools.json, everything else agent.yaml. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(arena_deinit) Arena arena = { .max = ARENA_BYTES };
    Str text = str_make((const char *)data, size);
    bool tools = size > 0 && (data[0] == '[' || data[0] == '{');
    if (tools) tools_input(&arena, text);
    else manifest_input(&arena, text);
    return 0;
}
