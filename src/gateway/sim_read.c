#include "gateway/sim_private.h"

#define OPTION_BYTES_MAX 40

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Without the quotes, brackets and list marks people put around a word. */
static Str bare(Str s)
{
    static const char marks[] = " \t\r\n\"'`()[]{}<>*-:;.";
    while (s.len && strchr(marks, s.ptr[0])) s = str_skip(s, 1);
    while (s.len && strchr(marks, s.ptr[s.len - 1])) s.len--;
    if (str_starts_with(s, STR("or "))) s = str_trim(str_skip(s, 3));
    if (str_starts_with(s, STR("and "))) s = str_trim(str_skip(s, 4));
    return s;
}

static void add_option(Str option, Str out[SIM_OPTIONS_MAX], size_t *n)
{
    option = bare(option);
    size_t blanks = 0;
    for (size_t i = 0; i < option.len; i++) blanks += is_blank(option.ptr[i]);
    if (option.len == 0 || option.len > OPTION_BYTES_MAX || blanks > 3 || *n == SIM_OPTIONS_MAX)
        return;
    for (size_t i = 0; i < *n; i++)
        if (str_eq_nocase(out[i], option)) return;
    out[(*n)++] = option;
}

/* Bytes before the next separator, and the separator's length in *ret_skip. */
static size_t option_bytes(Str list, size_t *ret_skip)
{
    for (size_t i = 0; i < list.len; i++) {
        Str rest = str_skip(list, i);
        *ret_skip = 1;
        if (strchr(",|/\n", rest.ptr[0])) return i;
        if (str_starts_with(rest, STR(" or ")) || str_starts_with(rest, STR(" and "))) {
            *ret_skip = str_starts_with(rest, STR(" or ")) ? 4 : 5;
            return i;
        }
    }
    *ret_skip = 0;
    return list.len;
}

size_t sim_options(Str list, Str out[SIM_OPTIONS_MAX])
{
    size_t n = 0, skip;
    while (list.len) {
        size_t bytes = option_bytes(list, &skip);
        add_option(str_sub(list, 0, bytes), out, &n);
        list = str_skip(list, bytes + skip);
    }
    return n;
}

/* The list that follows a marker: the rest of the line to its full stop, or the lines below it that
 * begin with - or *. */
static Str list_after(Str text)
{
    size_t i = 0, end;
    while (i < text.len && is_blank(text.ptr[i])) i++;
    if (i < text.len && (text.ptr[i] == '-' || text.ptr[i] == '*')) {
        end = i;
        while (end < text.len && (text.ptr[end] == '-' || text.ptr[end] == '*')) {
            while (end < text.len && text.ptr[end] != '\n') end++;
            while (end < text.len && is_blank(text.ptr[end])) end++;
        }
    } else {
        for (end = i; end < text.len && !strchr("\n)};", text.ptr[end]); end++)
            if (text.ptr[end] == '.' && (end + 1 == text.len || is_blank(text.ptr[end + 1]))) break;
    }
    return str_sub(text, i, end - i);
}

static bool find_options(SimMind *mind, Str text)
{
    static const char *const markers[] = {
        "one of the following:", "one of these:", "one of:",   "one of",    "categories:",
        "categories are",        "labels:",       "classes:",  "category:", "label:",
        "classify it as",        "classify as",   "as either", "into:"
    };
    for (size_t i = 0; i < ARRAY_N(markers); i++) {
        ptrdiff_t at = sim_find_nocase(text, str_of(markers[i]));
        if (at < 0) continue;
        mind->options_n = sim_options(list_after(str_skip(text, (size_t)at + strlen(markers[i]))),
                                      mind->options);
        if (mind->options_n >= 2) return true;
    }
    mind->options_n = 0;
    return false;
}

static void add_key(SimMind *mind, Str key)
{
    key = bare(key);
    if (key.len == 0 || key.len > OPTION_BYTES_MAX || mind->keys_n == SIM_KEYS_MAX) return;
    for (size_t i = 0; i < mind->keys_n; i++)
        if (str_eq(mind->keys[i], key)) return;
    mind->keys[mind->keys_n++] = key;
}

/* The keys of a template such as {"category": "...", "summary": "..."}. */
static void find_template_keys(SimMind *mind, Str text)
{
    ptrdiff_t open = str_find_char(text, '{');
    if (open < 0) return;
    Str rest = str_skip(text, (size_t)open);
    while (rest.len && rest.ptr[0] != '}') {
        ptrdiff_t from = str_find_char(rest, '"');
        if (from < 0) return;
        rest = str_skip(rest, (size_t)from + 1);
        ptrdiff_t to = str_find_char(rest, '"');
        if (to < 0) return;
        Str key = str_sub(rest, 0, (size_t)to);
        rest = str_skip(rest, (size_t)to + 1);
        if (rest.len && str_trim(rest).len && str_trim(rest).ptr[0] == ':') add_key(mind, key);
    }
}

static void find_keys(SimMind *mind, Str text)
{
    static const char *const markers[] = { "with the keys",   "with keys",   "keys:",
                                           "with the fields", "with fields", "fields:" };
    for (size_t i = 0; i < ARRAY_N(markers) && mind->keys_n == 0; i++) {
        ptrdiff_t at = sim_find_nocase(text, str_of(markers[i]));
        Str names[SIM_OPTIONS_MAX];
        if (at < 0) continue;
        size_t n = sim_options(list_after(str_skip(text, (size_t)at + strlen(markers[i]))), names);
        for (size_t k = 0; k < n; k++) add_key(mind, names[k]);
    }
    if (mind->keys_n == 0) find_template_keys(mind, text);
}

/* In the first paragraph: what stands below a question is material, not a wish. */
static bool asks_for_json(Str text)
{
    ptrdiff_t gap = str_find(text, STR("\n\n"));
    return sim_find_nocase(gap > 0 ? str_sub(text, 0, (size_t)gap) : text, STR("json")) >= 0;
}

void mind_read(SimMind *mind)
{
    if (!find_options(mind, mind->prompt)) (void)find_options(mind, mind->text);
    bool in_prompt = sim_find_nocase(mind->prompt, STR("json")) >= 0;
    mind->json = mind->request->json || in_prompt || asks_for_json(mind->text);
    if (!mind->json || mind->request->json_schema) return;
    find_keys(mind, in_prompt ? mind->prompt : mind->text);
}
