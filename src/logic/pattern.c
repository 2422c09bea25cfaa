#include "logic/pattern.h"

#include <stdio.h>
#include <stdlib.h>

#include "codec/hash.h"
#include "codec/json.h"

/* --- grams ----------------------------------------------------------------------------------- */

/* Whether the hash is new. 0 marks a free slot, so a hash of 0 is kept as 1. */
static bool gram_is_new(PatternTask *task, uint64_t h)
{
    uint64_t key = h ? h : 1;
    size_t i = key & (PATTERN_SLOTS - 1);
    while (task->slots[i] != 0 && task->slots[i] != key) i = (i + 1) & (PATTERN_SLOTS - 1);
    if (task->slots[i] == key) return false;
    if (task->grams == PATTERN_GRAMS_MAX) {
        task->cut = true;
        return false;
    }
    task->slots[i] = key;
    task->grams++;
    return true;
}

static void gram_add(PatternTask *task, Str gram)
{
    uint64_t h = hash_xxh64(gram);
    if (!gram_is_new(task, h)) return;
    for (int b = 0; b < PATTERN_BITS; b++) task->votes[b] += h >> b & 1 ? 1 : -1;
}

static_assert(PATTERN_GRAMS_MAX < PATTERN_SLOTS, "the table always has a free slot");

void pattern_token(PatternTask *task, Str token)
{
    char now[PATTERN_TOKEN_MAX], text[3 * PATTERN_TOKEN_MAX + 3];
    str_copy(now, sizeof(now), token);
    const char *one = task->last[1], *two = task->last[0];
    gram_add(task, str_of(now));
    if (*one) {
        int n = snprintf(text, sizeof(text), "%s|%s", one, now);
        gram_add(task, str_make(text, (size_t)n));
    }
    if (*two) {
        int n = snprintf(text, sizeof(text), "%s|%s|%s", two, one, now);
        gram_add(task, str_make(text, (size_t)n));
    }
    memcpy(task->last[0], task->last[1], sizeof(now));
    memcpy(task->last[1], now, sizeof(now));
}

void pattern_begin(PatternTask *task)
{
    memset(task, 0, sizeof(*task));
    pattern_token(task, STR("^"));
}

void pattern_tool(PatternTask *task, Str name, bool failed)
{
    char token[PATTERN_TOKEN_MAX];
    Str kept = str_sub(name, 0, sizeof(token) - sizeof("tool::err"));
    int n = snprintf(token, sizeof(token), "tool:%.*s%s", STR_ARG(kept), failed ? ":err" : "");
    pattern_token(task, str_make(token, (size_t)n));
}

uint64_t pattern_end(PatternTask *task, Str reason)
{
    if (!str_empty(reason)) {
        char token[PATTERN_TOKEN_MAX];
        Str kept = str_sub(reason, 0, sizeof(token) - sizeof("fin:"));
        int n = snprintf(token, sizeof(token), "fin:%.*s", STR_ARG(kept));
        pattern_token(task, str_make(token, (size_t)n));
    }
    pattern_token(task, STR("$"));
    uint64_t fingerprint = 0;
    for (int b = 0; b < PATTERN_BITS; b++)
        if (task->votes[b] > 0) fingerprint |= UINT64_C(1) << b;
    return fingerprint;
}

/* --- text ------------------------------------------------------------------------------------ */

typedef enum { MD_LIST, MD_CODE, MD_TABLE, MD_HEADING, MD_N_ } Markdown;
static const char *const md_names[MD_N_] = { "md:list", "md:code", "md:table", "md:heading" };

static bool is_list(Str line)
{
    size_t digits = 0;
    while (digits < line.len && line.ptr[digits] >= '0' && line.ptr[digits] <= '9') digits++;
    Str rest = str_skip(line, digits);
    if (digits > 0) return str_starts_with(rest, STR(". ")) || str_starts_with(rest, STR(") "));
    return str_starts_with(line, STR("- ")) || str_starts_with(line, STR("* ")) ||
           str_starts_with(line, STR("+ "));
}

/* The line under a table's head: only bars, dashes, colons and blanks, with a bar and dashes. */
static bool is_table(Str line)
{
    bool bar = false;
    for (size_t i = 0; i < line.len; i++) {
        if (!strchr("|-: ", line.ptr[i])) return false;
        bar |= line.ptr[i] == '|';
    }
    return bar && str_find(line, STR("--")) >= 0;
}

static bool is_heading(Str line)
{
    size_t marks = 0;
    while (marks < line.len && line.ptr[marks] == '#') marks++;
    return marks >= 1 && marks <= 6 && marks < line.len && line.ptr[marks] == ' ';
}

/* Inside a fenced block nothing else is markdown. */
static void find_markdown(Str text, bool ret[MD_N_])
{
    bool fenced = false;
    while (!str_empty(text)) {
        Str line;
        text = str_split(text, '\n', &line, NULL);
        line = str_trim(line);
        if (str_starts_with(line, STR("```"))) {
            ret[MD_CODE] = true;
            fenced = !fenced;
        } else if (!fenced) {
            ret[MD_LIST] |= is_list(line);
            ret[MD_TABLE] |= is_table(line);
            ret[MD_HEADING] |= is_heading(line);
        }
    }
}

static int compare_keys(const void *a, const void *b)
{
    return str_cmp(*(const Str *)a, *(const Str *)b);
}

/* `json:` and the hash of the sorted keys; false when the text is no object or scratch is full. */
static bool json_token(Arena *scratch, Str text, char *out, size_t size)
{
    text = str_trim(text);
    if (text.len < 2 || text.ptr[0] != '{' || text.len > PATTERN_JSON_MAX) return false;
    const Json *v;
    if (json_parse(scratch, text, NULL, &v, NULL) != 0) return false;
    size_t n = json_len(v), i = 0, bytes = 0;
    Str *keys = ARENA_ARRAY(scratch, Str, n + 1);
    if (!keys) return false;
    for (JsonIter it = json_iter(v); json_next(&it); i++) {
        keys[i] = it.key;
        bytes += it.key.len + 1;
    }
    qsort(keys, n, sizeof(*keys), compare_keys);
    char *joined = arena_alloc(scratch, bytes + 1);
    if (!joined) return false;
    size_t at = 0;
    for (i = 0; i < n; i++) {
        if (i > 0) joined[at++] = ',';
        if (keys[i].len) memcpy(joined + at, keys[i].ptr, keys[i].len);
        at += keys[i].len;
    }
    uint64_t h = hash_xxh64(str_make(joined, at));
    snprintf(out, size, "json:%08" PRIx32, (uint32_t)(h >> 32));
    return true;
}

#define REFUSAL_BYTES 160

/* A refusal says so at its beginning. A guess by common phrases, in English. */
static bool is_refusal(Str text)
{
    static const char *const phrases[] = {
        "i can't ",       "i cannot ",       "i can not ",    "i won't ",
        "i'm unable",     "i am unable",     "i'm not able",  "i am not able",
        "i'm sorry, but", "i am sorry, but", "as an ai",      "i must decline",
        "unable to help", "can't help with", "cannot assist", "can't assist",
    };
    char low[REFUSAL_BYTES + 1];
    size_t n = 0;
    text = str_trim(text);
    for (size_t i = 0; i < text.len && n < REFUSAL_BYTES; i++) {
        char c = text.ptr[i];
        if (str_starts_with(str_skip(text, i), STR("\xe2\x80\x99"))) { /* a typographic ' */
            c = '\'';
            i += 2;
        }
        low[n++] = c >= 'A' && c <= 'Z' ? (char)(c + 'a' - 'A') : c;
    }
    for (size_t i = 0; i < ARRAY_N(phrases); i++)
        if (str_find(str_make(low, n), str_of(phrases[i])) >= 0) return true;
    return false;
}

void pattern_text(PatternTask *task, Arena *scratch, Str text)
{
    if (str_empty(text)) return;
    char token[PATTERN_TOKEN_MAX];
    int log2 = 63 - __builtin_clzll((unsigned long long)text.len);
    snprintf(token, sizeof(token), "text:%d", log2);
    pattern_token(task, str_of(token));
    bool found[MD_N_] = { false };
    find_markdown(text, found);
    for (int i = 0; i < MD_N_; i++)
        if (found[i]) pattern_token(task, str_of(md_names[i]));
    if (json_token(scratch, text, token, sizeof(token))) pattern_token(task, str_of(token));
    if (is_refusal(text)) pattern_token(task, STR("refusal"));
}

/* --- days ------------------------------------------------------------------------------------ */

void pattern_count(PatternCounts *counts, uint64_t fingerprint, int64_t sign)
{
    counts->n += sign;
    for (int b = 0; b < PATTERN_BITS; b++)
        counts->ones[b] += sign * (int64_t)(fingerprint >> b & 1);
}

void pattern_merge(PatternCounts *into, const PatternCounts *from)
{
    into->n += from->n;
    for (int b = 0; b < PATTERN_BITS; b++) into->ones[b] += from->ones[b];
}

double pattern_variance(const int64_t *ones, int64_t n, size_t bits)
{
    if (n < 2) return 0;
    double sum = 0, pairs = (double)n * (double)(n - 1);
    for (size_t b = 0; b < bits; b++) sum += 2 * (double)ones[b] * (double)(n - ones[b]) / pairs;
    return sum / (double)bits;
}

double pattern_shift(const int64_t *ones, int64_t n, const double *q, size_t bits)
{
    assert(n >= 1);
    double sum = 0;
    for (size_t b = 0; b < bits; b++) {
        double p = (double)ones[b] / (double)n;
        sum += (p - q[b]) * (p - q[b]) - p * (1 - p) / (double)n;
    }
    return sum / (double)bits;
}

void pattern_shares(const PatternCounts *counts, double ret_q[PATTERN_BITS])
{
    assert(counts->n >= 1);
    for (int b = 0; b < PATTERN_BITS; b++) ret_q[b] = (double)counts->ones[b] / (double)counts->n;
}
