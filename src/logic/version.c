#include "logic/version.h"

#include "base/diag.h"
#include "base/money.h"
#include "codec/digest.h"
#include "logic/text_diff.h"

static_assert(VERSION_ID_BYTES + 1 == SHA256_HEX_MAX, "an id is a SHA-256 in hex");

/* --- components ----------------------------------------------------------------------------- */

static void put_strs(JsonOut *out, const char *key, const Str *items, size_t n)
{
    json_out_key(out, key);
    json_out_array(out);
    for (size_t i = 0; i < n; i++) json_out_str(out, items[i]);
    json_out_array_end(out);
}

static void put_code(JsonOut *out, const AgentSpec *spec, Str digest)
{
    json_out_key(out, "code");
    json_out_object(out);
    json_out_kstr(out, "digest", digest);
    json_out_kcstr(out, "runtime", runtime_name(spec->runtime));
    if (spec->command_n > 0) put_strs(out, "command", spec->command, spec->command_n);
    if (!str_empty(spec->url)) json_out_kstr(out, "url", spec->url);
    json_out_object_end(out);
}

static void put_limits(JsonOut *out, const AgentLimits *limits)
{
    char usd[MONEY_TEXT_MAX];
    assert(limits->usd_nusd > 0 && limits->tokens > 0);
    Str amount = str_of(money_text(limits->usd_nusd, usd));
    while (str_ends_with(amount, STR("0"))) amount.len--;
    if (str_ends_with(amount, STR("."))) amount.len--;
    json_out_key(out, "limits");
    json_out_object(out);
    json_out_ki64(out, "tokensPerTask", limits->tokens);
    json_out_ki64(out, "toolCallsPerTask", limits->tool_calls);
    json_out_ki64(out, "secondsPerTask", limits->seconds);
    json_out_kstr(out, "usdPerTask", amount);
    resource_limits_write(out, &limits->resources); /* those that are given: ids stay otherwise */
    json_out_object_end(out);
}

static void put_retry(JsonOut *out, const RetryPolicy *retry)
{
    assert(retry->factor_milli >= RETRY_FACTOR_ONE);
    json_out_key(out, "retry");
    json_out_object(out);
    json_out_ki64(out, "maxAttempts", retry->attempts_max);
    json_out_key(out, "backoff");
    json_out_object(out);
    json_out_ki64(out, "initialMs", retry->initial_ms);
    json_out_key(out, "factor");
    json_out_f64(out, (double)retry->factor_milli / RETRY_FACTOR_ONE);
    json_out_ki64(out, "maxMs", retry->max_ms);
    json_out_object_end(out);
    json_out_object_end(out);
}

static void put_prompt(JsonOut *out, const AgentSpec *spec, Str text)
{
    json_out_key(out, "prompt");
    json_out_object(out);
    json_out_kstr(out, "path", spec->prompt);
    json_out_kstr(out, "text", text);
    json_out_object_end(out);
}

static void put_tools(JsonOut *out, const AgentSpec *spec, Str definitions)
{
    json_out_key(out, "tools");
    json_out_object(out);
    json_out_kstr(out, "path", spec->tools);
    json_out_kraw(out, "definitions", definitions);
    json_out_object_end(out);
}

/* In any order: the canonical form sorts. */
static void put_components(JsonOut *out, const AgentSpec *spec, Str prompt, Str tools, Str digest)
{
    json_out_object(out);
    json_out_ki64(out, "schema", VERSION_SCHEMA);
    json_out_kstr(out, "agent", spec->name);
    put_code(out, spec, digest);
    put_prompt(out, spec, prompt);
    put_tools(out, spec, tools);
    json_out_kstr(out, "model", spec->model);
    put_strs(out, "fallbacks", spec->fallbacks, spec->fallbacks_n);
    json_out_kval(out, "sampling", spec->sampling.json);
    json_out_key(out, "memory");
    json_out_object(out);
    json_out_ki64(out, "window", spec->memory_window);
    json_out_object_end(out);
    put_limits(out, &spec->limits);
    put_retry(out, &spec->retry);
    json_out_object_end(out);
}

static int check_inputs(const AgentSpec *spec, Str prompt_text, Str code_digest)
{
    bool digest_ok = str_empty(code_digest) ||
                     (str_starts_with(code_digest, STR("sha256:")) &&
                      version_id_ok(str_skip(code_digest, strlen("sha256:"))));
    if (!digest_ok) return diag_set(-EINVAL, "the code digest must be sha256: and 64 hex digits");
    if (str_empty(code_digest) != str_empty(spec->code))
        return diag_set(-EINVAL, "a code digest is needed exactly when there is code to pack");
    if (!str_is_utf8(prompt_text))
        return diag_set(-EINVAL, "the prompt file must be UTF-8 text without control characters");
    return 0;
}

int version_components(Arena *scratch, const AgentSpec *spec, Str prompt_text, const ToolSet *tools,
                       Str code_digest, Buf *out)
{
    int r = check_inputs(spec, prompt_text, code_digest);
    if (r != 0) return r;
    CLEANUP(buf_deinit) Buf definitions = { 0 };
    CLEANUP(buf_deinit) Buf plain = { 0 };
    buf_init(&definitions, VERSION_COMPONENTS_BYTES_MAX);
    buf_init(&plain, VERSION_COMPONENTS_BYTES_MAX);
    r = tools_normalize(tools ? tools : &(ToolSet){ 0 }, &definitions);
    if (r != 0) return r;
    JsonOut json = json_out(&plain);
    put_components(&json, spec, prompt_text, buf_str(&definitions), code_digest);
    if (!json_out_ok(&json))
        return diag_set(-ENOMEM, "the version is larger than %d bytes",
                        VERSION_COMPONENTS_BYTES_MAX);
    const Json *parsed;
    r = json_parse(scratch, buf_str(&plain), NULL, &parsed, NULL);
    if (r != 0) return r;
    return json_canonical(parsed, out);
}

/* --- ids ------------------------------------------------------------------------------------ */

void version_id(Str components, char out[VERSION_ID_BYTES + 1])
{
    sha256_hex(components, out);
}

static bool is_hex(Str s)
{
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f')) return false;
    }
    return true;
}

bool version_id_ok(Str id)
{
    return id.len == VERSION_ID_BYTES && is_hex(id);
}

bool version_prefix_ok(Str prefix)
{
    return prefix.len >= VERSION_PREFIX_MIN && prefix.len <= VERSION_ID_BYTES && is_hex(prefix);
}

/* --- pretty form ---------------------------------------------------------------------------- */

static void indent(Buf *out, size_t depth)
{
    buf_add_char(out, '\n');
    for (size_t i = 0; i < depth; i++) buf_add(out, STR("  "));
}

/* Spreads canonical text over lines: after each opening bracket and comma, before each closing
 * bracket; an empty container stays on its line. Canonical text has no space outside strings. */
static int spread(Str text, Buf *out)
{
    size_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        bool opens = c == '{' || c == '[', closes = c == '}' || c == ']';
        bool empty = closes && i > 0 && (text.ptr[i - 1] == '{' || text.ptr[i - 1] == '[');
        if (in_string) {
            buf_add_char(out, c);
            if (c == '\\' && i + 1 < text.len) buf_add_char(out, text.ptr[++i]);
            else if (c == '"') in_string = false;
            continue;
        }
        in_string = c == '"';
        assert(!closes || depth > 0);
        depth -= closes;
        if (closes && !empty) indent(out, depth);
        buf_add_char(out, c);
        if (c == ':') buf_add_char(out, ' ');
        depth += opens;
        bool fills = opens && i + 1 < text.len && text.ptr[i + 1] != '}' && text.ptr[i + 1] != ']';
        if (fills || c == ',') indent(out, depth);
    }
    assert(depth == 0 && !in_string);
    buf_add_char(out, '\n');
    return out->failed ? -ENOMEM : 0;
}

int version_pretty(const Json *v, Buf *out)
{
    CLEANUP(buf_deinit) Buf canonical = { 0 };
    buf_init(&canonical, VERSION_COMPONENTS_BYTES_MAX);
    int r = json_canonical(v, &canonical);
    return r == 0 ? spread(buf_str(&canonical), out) : r;
}

/* --- diff ----------------------------------------------------------------------------------- */

static const char *const part_names[VERSION_PART_N_] = {
    [VERSION_CODE] = "code",     [VERSION_PROMPT] = "prompt",       [VERSION_TOOLS] = "tools",
    [VERSION_MODEL] = "model",   [VERSION_FALLBACKS] = "fallbacks", [VERSION_SAMPLING] = "sampling",
    [VERSION_MEMORY] = "memory", [VERSION_LIMITS] = "limits",       [VERSION_RETRY] = "retry",
    [VERSION_AGENT] = "agent",   [VERSION_SCHEMA_NO] = "schema",
};

const char *version_part_name(VersionPart part)
{
    assert(part < VERSION_PART_N_);
    return part_names[part];
}

static int canonical_of(Arena *arena, const Json *v, Str *ret)
{
    *ret = STR_NULL;
    if (!v) return 0;
    CLEANUP(buf_deinit) Buf text = { 0 };
    buf_init(&text, VERSION_COMPONENTS_BYTES_MAX);
    int r = json_canonical(v, &text);
    if (r != 0) return r;
    *ret = arena_str(arena, buf_str(&text));
    return ret->ptr ? 0 : -ENOMEM;
}

/* Text of a part made to be compared by lines: the prompt as it is, the tools one member a line. */
static int lines_of(VersionPart part, const Json *v, Buf *out)
{
    if (part == VERSION_PROMPT) {
        buf_add(out, json_str(json_get(v, "text")));
        return out->failed ? -ENOMEM : 0;
    }
    const Json *definitions = json_get(v, "definitions");
    return definitions ? version_pretty(definitions, out) : 0;
}

static int diff_texts(Arena *arena, VersionPart part, const Json *a, const Json *b, Str *ret)
{
    CLEANUP(buf_deinit) Buf old_lines = { 0 };
    CLEANUP(buf_deinit) Buf new_lines = { 0 };
    CLEANUP(buf_deinit) Buf diff = { 0 };
    buf_init(&old_lines, 2 * VERSION_COMPONENTS_BYTES_MAX);
    buf_init(&new_lines, 2 * VERSION_COMPONENTS_BYTES_MAX);
    buf_init(&diff, 4 * VERSION_COMPONENTS_BYTES_MAX);
    int r = lines_of(part, a, &old_lines);
    if (r == 0) r = lines_of(part, b, &new_lines);
    if (r == 0)
        r = text_diff(arena, json_str(json_get(a, "path")), json_str(json_get(b, "path")),
                      buf_str(&old_lines), buf_str(&new_lines), &diff);
    if (r == -EMSGSIZE) return 0; /* too long to compare by lines: old and new stand in full */
    if (r != 0) return r;
    *ret = arena_str(arena, buf_str(&diff));
    return ret->ptr ? 0 : -ENOMEM;
}

static int diff_part(Arena *arena, VersionPart part, const Json *a, const Json *b, VersionDiff *ret)
{
    VersionChange change = { .part = part };
    int r = canonical_of(arena, a, &change.old_text);
    if (r == 0) r = canonical_of(arena, b, &change.new_text);
    if (r != 0 || str_eq(change.old_text, change.new_text)) return r;
    if (part == VERSION_PROMPT || part == VERSION_TOOLS)
        r = diff_texts(arena, part, a, b, &change.text_diff);
    assert(ret->n < VERSION_PART_N_);
    if (r == 0) ret->changes[ret->n++] = change;
    return r;
}

int version_diff(Arena *arena, const Json *old_components, const Json *new_components,
                 VersionDiff *ret)
{
    if (json_type(old_components) != JSON_OBJECT || json_type(new_components) != JSON_OBJECT)
        return diag_set(-EINVAL, "the components of a version are an object");
    VersionDiff diff = { 0 };
    for (int part = 0; part < VERSION_PART_N_; part++) {
        const Json *a = json_get(old_components, part_names[part]);
        const Json *b = json_get(new_components, part_names[part]);
        int r = diff_part(arena, (VersionPart)part, a, b, &diff);
        if (r != 0) return r;
    }
    *ret = diff;
    return 0;
}
