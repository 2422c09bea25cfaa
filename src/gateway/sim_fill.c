#include "gateway/sim_private.h"

#include "logic/schema.h"

#define FILL_DEPTH_MAX 6
#define PHRASE_BYTES_MAX 240

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool name_has(Str name, const char *const *parts, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (sim_find_nocase(name, str_of(parts[i])) >= 0) return true;
    return false;
}
#define NAME_HAS(name, ...)                                \
    name_has((name), (const char *const[]){ __VA_ARGS__ }, \
             ARRAY_N(((const char *const[]){ __VA_ARGS__ })))

/* --- looking things up in the user's text ----------------------------------------------------- */

/* Next run of bytes without blanks, bare of the punctuation around it. */
static bool token_next(Str *rest, Str *ret)
{
    Str s = str_trim(*rest);
    if (s.len == 0) return false;
    size_t n = 0;
    while (n < s.len && !strchr(" \t\r\n,;", s.ptr[n])) n++;
    *rest = str_skip(s, MAX(n, 1));
    s.len = n;
    while (s.len && strchr("\"'`([{<", s.ptr[0])) s = str_skip(s, 1);
    while (s.len && strchr("\"'`)]}>.!?:", s.ptr[s.len - 1])) s.len--;
    *ret = s;
    return true;
}

typedef bool (*TokenFn)(Str token);

static bool find_token(Str text, TokenFn fits, Str *ret)
{
    Str token;
    while (token_next(&text, &token)) {
        if (!fits(token)) continue;
        *ret = token;
        return true;
    }
    return false;
}

static bool looks_like_email(Str t)
{
    ptrdiff_t at = str_find_char(t, '@');
    return at > 0 && str_find_char(str_skip(t, (size_t)at), '.') > 1;
}

static bool looks_like_url(Str t)
{
    return str_starts_with(t, STR("http://")) || str_starts_with(t, STR("https://"));
}

static bool looks_like_date(Str t)
{
    if (t.len != 10 || t.ptr[4] != '-' || t.ptr[7] != '-') return false;
    for (size_t i = 0; i < t.len; i++)
        if (i != 4 && i != 7 && !is_digit(t.ptr[i])) return false;
    return true;
}

static bool looks_like_path(Str t)
{
    ptrdiff_t dot = str_find_char(t, '.');
    return str_find_char(t, '/') >= 0 ||
           (dot > 0 && (size_t)dot + 1 < t.len && !is_digit(t.ptr[0]));
}

/* A-1234, #4711, INV2024, 10023: something with a digit that is neither a date nor money. */
static bool looks_like_id(Str t)
{
    bool digit = false;
    for (size_t i = 0; i < t.len; i++) digit |= is_digit(t.ptr[i]);
    return digit && t.len >= 2 && t.ptr[0] != '$' && !looks_like_date(t) && !looks_like_url(t) &&
           str_find_char(t, '@') < 0;
}

static bool looks_like_number(Str t)
{
    if (t.len && t.ptr[0] == '$') t = str_skip(t, 1);
    size_t dots = 0;
    for (size_t i = 0; i < t.len; i++) {
        dots += t.ptr[i] == '.';
        if (!is_digit(t.ptr[i]) && t.ptr[i] != '.') return false;
    }
    return t.len > 0 && t.len <= 15 && dots <= 1 && is_digit(t.ptr[0]) &&
           is_digit(t.ptr[t.len - 1]);
}

/* "order: A-12" and "order is A-12": what stands behind the property's name. */
static bool find_after_name(Str text, Str name, Str *ret)
{
    ptrdiff_t at = sim_find_nocase(text, name);
    if (at < 0 || name.len < 3) return false;
    Str rest = str_trim(str_skip(text, (size_t)at + name.len));
    if (str_starts_with(rest, STR("is "))) rest = str_skip(rest, 3);
    else if (rest.len && (rest.ptr[0] == ':' || rest.ptr[0] == '=')) rest = str_skip(rest, 1);
    else return false;
    Str line;
    str_split(rest, '\n', &line, NULL);
    str_split(line, ',', &line, NULL);
    line = str_trim(line);
    while (line.len && strchr(".!?\"'", line.ptr[line.len - 1])) line.len--;
    while (line.len && strchr("\"'", line.ptr[0])) line = str_skip(line, 1);
    *ret = sim_cut(line, PHRASE_BYTES_MAX);
    return ret->len > 0;
}

/* A capitalised name: behind "in", "to", "for", "from" or "at", or anywhere but at the front. */
static bool find_proper_name(Str text, Str *ret)
{
    Str rest = text, token, before = STR_NULL;
    bool first = true;
    while (token_next(&rest, &token)) {
        bool capital = token.len > 1 && token.ptr[0] >= 'A' && token.ptr[0] <= 'Z' &&
                       !looks_like_id(token);
        bool leads = str_eq_nocase(before, STR("in")) || str_eq_nocase(before, STR("to")) ||
                     str_eq_nocase(before, STR("for")) || str_eq_nocase(before, STR("from")) ||
                     str_eq_nocase(before, STR("at"));
        if (capital && (leads || !first)) {
            *ret = token;
            if (leads) return true;
        }
        before = token;
        first = false;
    }
    return ret->len > 0;
}

/* The sentence that has most to do with what is asked for; the first one when none has. */
static Str phrase(const SimMind *mind, Str name, const Json *schema)
{
    Str sentences[32], best = str_trim(mind->text);
    size_t n = sim_sentences(mind->text, sentences, ARRAY_N(sentences)), most = 0;
    if (n) best = sentences[0];
    Str about = arena_printf(mind->arena, "%.*s %.*s", STR_ARG(name),
                             STR_ARG(json_str(json_get(schema, "description"))));
    const SimWords *words = sim_words(mind->arena, about);
    for (size_t i = 0; words && i < n; i++) {
        size_t shared = sim_words_shared(words, sentences[i]);
        if (shared > most) best = sentences[i], most = shared;
    }
    return sim_cut(best, PHRASE_BYTES_MAX);
}

/* --- values ----------------------------------------------------------------------------------- */

static bool find_by_pattern(const SimMind *mind, Str name, Str *ret)
{
    Str text = mind->text;
    if (NAME_HAS(name, "email", "mail")) return find_token(text, looks_like_email, ret);
    if (NAME_HAS(name, "url", "link", "website")) return find_token(text, looks_like_url, ret);
    if (NAME_HAS(name, "date", "day")) return find_token(text, looks_like_date, ret);
    if (NAME_HAS(name, "path", "file")) return find_token(text, looks_like_path, ret);
    if (NAME_HAS(name, "city", "location", "place", "country", "customer", "person"))
        return find_proper_name(text, ret);
    if (NAME_HAS(name, "id", "number", "order", "ticket", "invoice", "reference", "code", "sku"))
        return find_token(text, looks_like_id, ret);
    return false;
}

/* What an answer's member means by its name. */
static bool find_by_meaning(const SimMind *mind, Str name, Str *ret)
{
    static const Str moods[] = { { "positive", 8 }, { "negative", 8 }, { "neutral", 7 } };
    static const Str levels[] = { { "high", 4 }, { "normal", 6 }, { "low", 3 } };
    if (mind->options_n && NAME_HAS(name, "category", "label", "class", "type", "topic", "intent",
                                    "department", "queue", "tag"))
        *ret = sim_choose(mind, mind->options, mind->options_n);
    else if (NAME_HAS(name, "sentiment", "mood", "tone")) *ret = sim_choose(mind, moods, 3);
    else if (NAME_HAS(name, "urgency", "priority", "severity")) *ret = sim_choose(mind, levels, 3);
    else if (NAME_HAS(name, "summary", "abstract"))
        *ret = sim_summary(mind->arena, mind->text, 1, false);
    else if (NAME_HAS(name, "title", "subject", "headline"))
        *ret = sim_cut(sim_summary(mind->arena, mind->text, 1, false), 80);
    else if (NAME_HAS(name, "answer", "reply", "response", "result", "output"))
        *ret = sim_answer_text(mind);
    else if (NAME_HAS(name, "language", "lang", "locale")) *ret = STR("en");
    else if (NAME_HAS(name, "reason", "explanation", "rationale")) *ret = phrase(mind, name, NULL);
    else return false;
    return ret->len > 0;
}

bool sim_find_pattern(const SimMind *mind, Str pattern, Str *ret)
{
    Str rest = mind->text, token;
    while (token_next(&rest, &token)) {
        if (schema_pattern(pattern, token) != 0) continue;
        *ret = token;
        return true;
    }
    return false;
}

static Str string_value(const SimMind *mind, Str name, const Json *schema)
{
    Str found = STR_NULL, pattern = json_str(json_get(schema, "pattern"));
    if (pattern.len && sim_find_pattern(mind, pattern, &found)) return found;
    if (find_after_name(mind->text, name, &found)) return found;
    if (find_by_pattern(mind, name, &found)) return found;
    if (find_by_meaning(mind, name, &found)) return found;
    const Json *known = json_get(schema, "default");
    if (!known) known = json_at(json_get(schema, "examples"), 0);
    if (json_type(known) == JSON_STRING) return json_str(known);
    return phrase(mind, name, schema);
}

static Str enum_value(const SimMind *mind, const Json *choices)
{
    Str options[SIM_OPTIONS_MAX];
    size_t n = 0;
    for (JsonIter it = json_iter(choices); json_next(&it) && n < SIM_OPTIONS_MAX;)
        if (json_type(it.value) == JSON_STRING) options[n++] = json_str(it.value);
    return n ? sim_choose(mind, options, n) : STR_NULL;
}

static void fill_number(const SimMind *mind, JsonOut *out, Str name, const Json *schema, bool whole)
{
    Str found = STR_NULL;
    const Json *known = json_get(schema, "default");
    if (!known) known = json_get(schema, "minimum");
    if (NAME_HAS(name, "confidence", "score", "probability") && !whole) {
        json_out_raw(out, STR("0.9"));
        return;
    }
    bool there = find_after_name(mind->text, name, &found) && looks_like_number(found);
    if (!there) there = find_token(mind->text, looks_like_number, &found);
    if (there && found.ptr[0] == '$') found = str_skip(found, 1);
    if (there && whole) str_split(found, '.', &found, NULL);
    while (there && found.len > 1 && found.ptr[0] == '0' && is_digit(found.ptr[1]))
        found = str_skip(found, 1);
    if (there) json_out_raw(out, found);
    else if (known) json_out_value(out, known);
    else json_out_i64(out, 1);
}

static Str schema_type(const Json *schema)
{
    const Json *type = json_get(schema, "type");
    if (json_type(type) == JSON_ARRAY) type = json_at(type, 0);
    if (json_type(type) == JSON_STRING) return json_str(type);
    return json_get(schema, "properties") ? STR("object") : STR("string");
}

static void fill(const SimMind *mind, JsonOut *out, Str name, const Json *schema, int depth);

/* Required properties, and of the others those that the text names. */
static void fill_object(const SimMind *mind, JsonOut *out, const Json *schema, int depth)
{
    const Json *required = json_get(schema, "required");
    json_out_object(out);
    for (JsonIter it = json_iter(json_get(schema, "properties")); json_next(&it);) {
        bool wanted = json_type(required) != JSON_ARRAY ||
                      sim_words_shared(mind->words, it.key) > 0;
        for (JsonIter r = json_iter(required); !wanted && json_next(&r);)
            wanted = str_eq(json_str(r.value), it.key);
        if (!wanted) continue;
        json_out_key_str(out, it.key);
        fill(mind, out, it.key, it.value, depth + 1);
    }
    json_out_object_end(out);
}

static void fill_array(const SimMind *mind, JsonOut *out, Str name, const Json *schema, int depth)
{
    json_out_array(out);
    fill(mind, out, name, json_get(schema, "items"), depth + 1);
    json_out_array_end(out);
}

static void fill(const SimMind *mind, JsonOut *out, Str name, const Json *schema, int depth)
{
    Str type = schema_type(schema);
    const Json *choices = json_get(schema, "enum"), *constant = json_get(schema, "const");
    Str chosen = enum_value(mind, choices);
    if (depth > FILL_DEPTH_MAX) json_out_null(out);
    else if (constant) json_out_value(out, constant);
    else if (chosen.len) json_out_str(out, chosen);
    else if (json_len(choices)) json_out_value(out, json_at(choices, 0));
    else if (str_eq(type, STR("object"))) fill_object(mind, out, schema, depth);
    else if (str_eq(type, STR("array"))) fill_array(mind, out, name, schema, depth);
    else if (str_eq(type, STR("integer"))) fill_number(mind, out, name, schema, true);
    else if (str_eq(type, STR("number"))) fill_number(mind, out, name, schema, false);
    else if (str_eq(type, STR("boolean")))
        json_out_bool(out, sim_words_shared(mind->words, name) > 0);
    else if (str_eq(type, STR("null"))) json_out_null(out);
    else json_out_str(out, string_value(mind, name, schema));
}

void sim_fill(const SimMind *mind, JsonOut *out, Str name, const Json *schema)
{
    bool number = !schema &&
                  NAME_HAS(name, "confidence", "score", "probability", "count", "amount");
    if (number) fill_number(mind, out, name, NULL, false);
    else fill(mind, out, name, schema, 0);
}
