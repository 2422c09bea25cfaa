#include "gateway/sim_brain.h"

#include "gateway/sim_private.h"

#define THINK_BYTES_MAX (16 * 1024)
#define ARGUMENTS_BYTES_MAX (64 * 1024)
#define RESULT_BYTES_MAX 600
#define PLAIN_DEPTH_MAX 4
#define STEPS_MAX 4 /* tool calls before it answers */

static int mind_init(SimMind *mind, Arena *arena, const SimRequest *request)
{
    *mind = (SimMind){ .arena = arena, .request = request };
    mind->text = sim_cut(request->user, THINK_BYTES_MAX);
    mind->prompt = sim_cut(request->system, THINK_BYTES_MAX);
    mind->words = sim_words(arena, mind->text);
    if (!mind->words) return -ENOMEM;
    mind_read(mind);
    return 0;
}

/* --- tools ------------------------------------------------------------------------------------ */

static bool was_called(const SimRequest *request, Str name, size_t *ret_calls)
{
    bool called = false;
    *ret_calls = 0;
    for (size_t i = request->turn; i < request->items_n; i++) {
        if (request->items[i].kind != SIM_CALL) continue;
        ++*ret_calls;
        called |= str_eq(request->items[i].text, name);
    }
    return called;
}

/* Words of the name that no tool called before has: "refund" of refund_order after get_order. */
static size_t new_words(const SimMind *mind, Str name)
{
    const SimRequest *request = mind->request;
    size_t n = 0;
    Str rest = name, word;
    while (sim_word_next(&rest, &word)) {
        uint64_t hash = sim_word_hash(word);
        bool seen = !sim_words_has(mind->words, hash);
        for (size_t i = request->turn; i < request->items_n && !seen; i++) {
            if (request->items[i].kind != SIM_CALL) continue;
            Str other = request->items[i].text, other_word;
            while (sim_word_next(&other, &other_word)) seen |= sim_word_hash(other_word) == hash;
        }
        n += !seen;
    }
    return n;
}

static bool only_reads(Str name)
{
    static const char *const verbs[] = { "get",   "look", "find",  "search", "list",
                                         "fetch", "read", "check", "show",   "query" };
    for (size_t i = 0; i < ARRAY_N(verbs); i++)
        if (str_eq_nocase(str_sub(name, 0, strlen(verbs[i])), str_of(verbs[i]))) return true;
    return false;
}

/* Whether the text lacks what a required property must look like: no order number, no look-up. */
static bool lacks_what_it_needs(const SimMind *mind, const Json *schema)
{
    for (JsonIter it = json_iter(json_get(schema, "required")); json_next(&it);) {
        const Json *property = json_get_str(json_get(schema, "properties"), json_str(it.value));
        Str pattern = json_str(json_get(property, "pattern")), found;
        if (pattern.len && !sim_find_pattern(mind, pattern, &found)) return true;
    }
    return false;
}

/* How well a tool fits the user's words; below 30 it does not. */
static int64_t tool_weight(const SimMind *mind, const SimTool *tool)
{
    if (lacks_what_it_needs(mind, tool->schema)) return 0;
    size_t calls, named = new_words(mind, tool->name);
    if (was_called(mind->request, tool->name, &calls) || calls >= STEPS_MAX) return 0;
    if (calls && !named) return 0;
    size_t described = sim_words_shared(mind->words, tool->description);
    return 30 * (int64_t)named + 10 * (int64_t)MIN(described, 5) + (only_reads(tool->name) ? 5 : 0);
}

static const SimTool *choose_tool(const SimMind *mind)
{
    const SimRequest *request = mind->request;
    const SimTool *best = NULL;
    int64_t best_weight = 29;
    size_t calls;
    if (request->tools_off) return NULL;
    for (size_t i = 0; i < request->tools_n; i++) {
        const SimTool *tool = &request->tools[i];
        if (!str_empty(request->tool_forced) && !str_eq(tool->name, request->tool_forced)) continue;
        int64_t weight = tool_weight(mind, tool);
        if (weight > best_weight) best = tool, best_weight = weight;
        bool must = request->tools_must && !was_called(request, tool->name, &calls) && calls == 0;
        if (must && !best) best = tool;
    }
    return best;
}

static int call_tool(const SimMind *mind, const SimTool *tool, SimThought *ret)
{
    CLEANUP(buf_deinit) Buf arguments;
    buf_init(&arguments, ARGUMENTS_BYTES_MAX);
    JsonOut out = json_out(&arguments);
    if (json_get(tool->schema, "properties")) sim_fill(mind, &out, tool->name, tool->schema);
    else json_out_raw(&out, STR("{}"));
    if (!json_out_ok(&out)) return -ENOMEM;
    Str copy = arena_str(mind->arena, buf_str(&arguments));
    ret->calls[0] = (SimCall){ tool->name, copy };
    ret->calls_n = 1;
    return copy.ptr ? 0 : -ENOMEM;
}

int sim_think_tool(Arena *arena, const SimRequest *request, SimThought *ret)
{
    SimMind *mind = ARENA_NEW(arena, SimMind);
    *ret = (SimThought){ .text = STR_NULL };
    if (!mind || mind_init(mind, arena, request) < 0) return -ENOMEM;
    const SimTool *tool = request->tools_off ? NULL : request->tools_n ? &request->tools[0] : NULL;
    for (size_t i = 0; i < request->tools_n; i++)
        if (str_eq(request->tools[i].name, request->tool_forced)) tool = &request->tools[i];
    return tool ? call_tool(mind, tool, ret) : 0;
}

/* --- words ------------------------------------------------------------------------------------ */

static void plain_value(Buf *out, const Json *v, int depth);

/* ["gateway", ["a", "b"]] reads "gateway: a; b", other lists their elements. */
static void plain_list(Buf *out, const Json *v, int depth)
{
    bool named = json_len(v) == 2 && json_type(json_at(v, 0)) == JSON_STRING &&
                 json_type(json_at(v, 1)) == JSON_ARRAY;
    size_t i = 0;
    for (JsonIter it = json_iter(v); json_next(&it); i++) {
        if (i) buf_add(out, named ? STR(": ") : depth ? STR("; ") : STR("\n- "));
        else if (!depth) buf_add(out, STR("\n- "));
        plain_value(out, it.value, depth + 1);
    }
}

static void plain_value(Buf *out, const Json *v, int depth)
{
    size_t i = 0;
    switch (json_type(v)) {
    case JSON_STRING: buf_add(out, json_str(v)); break;
    case JSON_ARRAY:
        if (depth < PLAIN_DEPTH_MAX) plain_list(out, v, depth);
        break;
    case JSON_OBJECT:
        for (JsonIter it = json_iter(v); json_next(&it) && depth < PLAIN_DEPTH_MAX; i++) {
            buf_printf(out, "%s%.*s: ", i ? ", " : "", STR_ARG(it.key));
            plain_value(out, it.value, depth + 1);
        }
        break;
    default: {
        JsonOut json = json_out(out);
        json_out_value(&json, v);
    }
    }
}

/* {"status":"shipped","eta":"Monday"} becomes "status: shipped, eta: Monday". */
static Str plain_result(const SimMind *mind, Str result)
{
    CLEANUP(buf_deinit) Buf text;
    const Json *value = NULL;
    buf_init(&text, 4 * RESULT_BYTES_MAX);
    if (json_parse(mind->arena, result, NULL, &value, NULL) < 0)
        return sim_cut(str_trim(result), RESULT_BYTES_MAX);
    plain_value(&text, value, 0);
    return arena_str(mind->arena, sim_cut(buf_str(&text), RESULT_BYTES_MAX));
}

/* What the tools said since the user spoke. */
static Str quote_results(const SimMind *mind)
{
    const SimRequest *request = mind->request;
    Str text = STR_NULL;
    size_t call = request->turn;
    for (size_t i = request->turn; i < request->items_n; i++) {
        if (request->items[i].kind != SIM_RESULT) continue;
        while (call < i && request->items[call].kind != SIM_CALL) call++;
        Str name = call < i ? request->items[call++].text : STR("the tool");
        text = arena_printf(mind->arena, "%.*s%sAccording to %.*s: %.*s", STR_ARG(text),
                            text.len ? "\n" : "", STR_ARG(name),
                            STR_ARG(plain_result(mind, request->items[i].text)));
    }
    return text;
}

static size_t number_before(Str text, const char *unit, size_t otherwise)
{
    static const char *const words[] = { "zero", "one", "two", "three", "four", "five" };
    ptrdiff_t at = sim_find_nocase(text, str_of(unit));
    Str rest = str_sub(text, 0, at < 0 ? 0 : (size_t)at), word, last = STR_NULL;
    while (sim_word_next(&rest, &word)) last = word;
    int64_t n;
    if (str_to_i64(last, &n) == 0 && n > 0 && n <= 20) return (size_t)n;
    for (size_t i = 1; i < ARRAY_N(words); i++)
        if (str_eq_nocase(last, str_of(words[i]))) return i;
    return otherwise;
}

/* The text to work on: without the line that says what to do with it. */
static Str without_instruction(Str text)
{
    Str head, rest = str_split(text, ':', &head, NULL);
    bool instructs = sim_find_nocase(head, STR("summar")) >= 0 && head.len < 160;
    return instructs && str_trim(rest).len > 20 ? str_trim(rest) : text;
}

static Str summarize(const SimMind *mind)
{
    Str both = arena_printf(mind->arena, "%.*s\n%.*s", STR_ARG(mind->prompt),
                            STR_ARG(sim_cut(mind->text, 400)));
    bool bullets = sim_find_nocase(both, STR("bullet")) >= 0;
    size_t n = number_before(both, bullets ? "bullet" : "sentence", bullets ? 3 : 2);
    return sim_summary(mind->arena, without_instruction(mind->text), n, bullets);
}

/* The sentence of the prompt that answers a question, if one has to do with it. */
static Str look_up(const SimMind *mind)
{
    Str *sentences = ARENA_ARRAY(mind->arena, Str, SIM_SENTENCES_MAX), best = STR_NULL;
    if (!sentences) return best;
    size_t n = sim_sentences(mind->prompt, sentences, SIM_SENTENCES_MAX), most = 1;
    for (size_t i = 0; i < n; i++) {
        size_t shared = sim_words_shared(mind->words, sentences[i]);
        bool instructs = str_eq_nocase(str_sub(sentences[i], 0, 7), STR("you are"));
        if (shared > most && !instructs) best = sentences[i], most = shared;
    }
    return best;
}

/* A question with material below it: the two sentences of the material that have most to do with
 * the question. */
static Str answer_from_material(const SimMind *mind)
{
    ptrdiff_t gap = str_find(mind->text, STR("\n\n"));
    if (gap <= 0) return STR_NULL;
    const SimWords *question = sim_words(mind->arena, str_sub(mind->text, 0, (size_t)gap));
    Str *sentences = ARENA_ARRAY(mind->arena, Str, SIM_SENTENCES_MAX), best[2] = { STR_NULL };
    if (!question || !sentences) return STR_NULL;
    size_t n = sim_sentences(str_skip(mind->text, (size_t)gap), sentences, SIM_SENTENCES_MAX);
    size_t most[2] = { 1, 1 };
    for (size_t i = 0; i < n; i++) {
        size_t shared = sentences[i].len > 30 ? sim_words_shared(question, sentences[i]) : 0;
        if (shared > most[0]) {
            best[1] = best[0], most[1] = most[0];
            best[0] = sentences[i], most[0] = shared;
        } else if (shared > most[1]) best[1] = sentences[i], most[1] = shared;
    }
    if (best[1].len == 0) return best[0];
    return arena_printf(mind->arena, "%.*s %.*s", STR_ARG(best[0]), STR_ARG(best[1]));
}

static bool is_greeting(const SimMind *mind)
{
    static const char *const words[] = { "hello", "hi", "hey", "good morning", "good evening" };
    for (size_t i = 0; i < ARRAY_N(words) && mind->text.len < 40; i++)
        if (str_eq_nocase(str_sub(mind->text, 0, strlen(words[i])), str_of(words[i]))) return true;
    return false;
}

Str sim_answer_text(const SimMind *mind)
{
    Str results = quote_results(mind);
    if (results.len) return results;
    if (sim_find_nocase(mind->prompt, STR("summar")) >= 0 ||
        sim_find_nocase(mind->text, STR("summar")) >= 0)
        return summarize(mind);
    if (str_empty(mind->text)) return STR("There is nothing to answer yet.");
    if (is_greeting(mind)) return STR("Hello! How can I help you?");
    Str known = answer_from_material(mind);
    if (known.len == 0) known = look_up(mind);
    if (known.len) return known;
    Str gist = sim_cut(sim_summary(mind->arena, mind->text, 2, false), 400);
    return arena_printf(mind->arena,
                        "I read your message as follows: %.*s (This answer comes from a simulated "
                        "model, which has no knowledge of its own.)",
                        STR_ARG(gist));
}

/* --- JSON ------------------------------------------------------------------------------------- */

static void json_members(const SimMind *mind, JsonOut *out)
{
    json_out_object(out);
    for (size_t i = 0; i < mind->keys_n; i++) {
        json_out_key_str(out, mind->keys[i]);
        sim_fill(mind, out, mind->keys[i], NULL);
    }
    if (mind->keys_n == 0 && mind->options_n)
        json_out_kstr(out, "category", sim_choose(mind, mind->options, mind->options_n));
    else if (mind->keys_n == 0) json_out_kstr(out, "answer", sim_answer_text(mind));
    json_out_object_end(out);
}

static Str answer_json(const SimMind *mind)
{
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, ARGUMENTS_BYTES_MAX);
    JsonOut out = json_out(&text);
    if (mind->request->json_schema) sim_fill(mind, &out, STR("answer"), mind->request->json_schema);
    else json_members(mind, &out);
    return json_out_ok(&out) ? arena_str(mind->arena, buf_str(&text)) : STR_NULL;
}

/* --- thinking --------------------------------------------------------------------------------- */

int sim_think(Arena *arena, const SimRequest *request, SimThought *ret)
{
    SimMind *mind = ARENA_NEW(arena, SimMind);
    *ret = (SimThought){ .text = STR_NULL };
    if (!mind || mind_init(mind, arena, request) < 0) return -ENOMEM;
    const SimTool *tool = choose_tool(mind);
    if (tool) return call_tool(mind, tool, ret);
    if (mind->json) ret->text = answer_json(mind);
    else if (mind->options_n) ret->text = sim_choose(mind, mind->options, mind->options_n);
    else ret->text = sim_answer_text(mind);
    return ret->text.ptr ? 0 : -ENOMEM;
}

Str sim_ramble(Arena *arena, int64_t tokens)
{
    static const char filler[] =
        "And that, in turn, leads to another matter that deserves a few more words. ";
    size_t bytes = (size_t)MAX(tokens, 0) * 4;
    char *text = arena_alloc(arena, bytes + 1);
    if (!text) return STR_NULL;
    for (size_t i = 0; i < bytes; i++) text[i] = filler[i % (sizeof filler - 1)];
    text[bytes] = '\0';
    return str_make(text, bytes);
}
