#include "gateway/sim_text.h"

#include "gateway/sim_request.h"

#define WORD_BYTES_MAX 40

static const char *const stop_words[] = {
    "a",    "about", "after", "all",   "also", "am",   "an",    "and",    "any",  "are",  "as",
    "at",   "be",    "been",  "but",   "by",   "can",  "could", "did",    "do",   "does", "for",
    "from", "get",   "had",   "has",   "have", "he",   "her",   "hi",     "his",  "how",  "i",
    "if",   "in",    "into",  "is",    "it",   "its",  "just",  "like",   "me",   "my",   "no",
    "not",  "now",   "of",    "on",    "or",   "our",  "out",   "please", "she",  "so",   "some",
    "than", "that",  "the",   "their", "them", "then", "there", "they",   "this", "to",   "up",
    "us",   "was",   "we",    "were",  "what", "when", "where", "which",  "who",  "why",  "will",
    "with", "would", "you",   "your",
};

static bool is_upper(char c)
{
    return c >= 'A' && c <= 'Z';
}

static char lower(char c)
{
    return is_upper(c) ? (char)(c + 32) : c;
}

static bool is_word_byte(char c)
{
    char l = lower(c);
    return (l >= 'a' && l <= 'z') || (c >= '0' && c <= '9') || (unsigned char)c >= 0x80;
}

bool sim_word_next(Str *rest, Str *ret_word)
{
    size_t from = 0;
    while (from < rest->len && !is_word_byte(rest->ptr[from])) from++;
    size_t to = from;
    while (to < rest->len && is_word_byte(rest->ptr[to])) {
        if (to > from && is_upper(rest->ptr[to]) && !is_upper(rest->ptr[to - 1])) break;
        to++;
    }
    *ret_word = str_sub(*rest, from, to - from);
    *rest = str_skip(*rest, to);
    return ret_word->len > 0;
}

static bool is_stop_word(Str word)
{
    for (size_t i = 0; i < ARRAY_N(stop_words); i++)
        if (str_eq(word, str_of(stop_words[i]))) return true;
    return false;
}

/* Plurals and common endings, so that "charged" meets "charges". */
static Str stem(Str word)
{
    static const char *const endings[] = { "ing", "ed", "es", "s", "e" };
    for (size_t i = 0; i < ARRAY_N(endings); i++) {
        Str ending = str_of(endings[i]);
        if (word.len >= ending.len + 3 && str_ends_with(word, ending) &&
            !str_ends_with(word, STR("ss")))
            word.len -= ending.len;
    }
    return word;
}

uint64_t sim_word_hash(Str word)
{
    char text[WORD_BYTES_MAX];
    size_t n = MIN(word.len, sizeof text);
    for (size_t i = 0; i < n; i++) text[i] = lower(word.ptr[i]);
    Str low = str_make(text, n);
    return is_stop_word(low) ? 0 : sim_hash(stem(low));
}

static size_t find_hash(const SimWords *words, uint64_t hash)
{
    size_t i = 0;
    while (i < words->n && words->hashes[i] != hash) i++;
    return i;
}

SimWords *sim_words(Arena *arena, Str text)
{
    SimWords *words = ARENA_NEW(arena, SimWords);
    Str word;
    while (words && sim_word_next(&text, &word)) {
        uint64_t hash = sim_word_hash(word);
        if (!hash) continue;
        size_t i = find_hash(words, hash);
        if (i == SIM_WORDS_MAX) break;
        if (i == words->n) {
            words->hashes[words->n++] = hash;
            words->counts[i] = 0;
        }
        if (words->counts[i] < UINT16_MAX) words->counts[i]++;
    }
    return words;
}

bool sim_words_has(const SimWords *words, uint64_t hash)
{
    return hash && find_hash(words, hash) < words->n;
}

size_t sim_words_shared(const SimWords *words, Str text)
{
    uint64_t seen[64];
    size_t seen_n = 0;
    Str word;
    while (seen_n < ARRAY_N(seen) && sim_word_next(&text, &word)) {
        uint64_t hash = sim_word_hash(word);
        if (!sim_words_has(words, hash)) continue;
        size_t i = 0;
        while (i < seen_n && seen[i] != hash) i++;
        if (i == seen_n) seen[seen_n++] = hash;
    }
    return seen_n;
}

/* A sentence ends at a line end, or at . ! ? before a blank or the end. */
static size_t sentence_bytes(Str text)
{
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (c == '\n') return i + 1;
        bool last = i + 1 == text.len || strchr(" \t\r\n", text.ptr[i + 1]);
        if (last && (c == '.' || c == '!' || c == '?')) return i + 1;
    }
    return text.len;
}

size_t sim_sentences(Str text, Str *out, size_t max)
{
    size_t n = 0;
    while (n < max && text.len) {
        size_t bytes = sentence_bytes(text);
        Str sentence = str_trim(str_sub(text, 0, bytes));
        if (sentence.len) out[n++] = sentence;
        text = str_skip(text, bytes);
    }
    return n;
}

/* The weight of its words, by its length (a word or a page is worth little); the first has a
 * bonus. */
static int64_t sentence_weight(const SimWords *words, Str sentence, bool first)
{
    int64_t sum = 0, n = 0;
    Str rest = sentence, word;
    while (n < 200 && sim_word_next(&rest, &word)) {
        uint64_t hash = sim_word_hash(word);
        if (!hash) continue;
        size_t i = find_hash(words, hash);
        sum += i < words->n ? MIN(words->counts[i], 6) : 0;
        n++;
    }
    return sum * 1000 / (n + 4) + (first ? 300 : 0);
}

Str sim_summary(Arena *arena, Str text, size_t n, bool bullets)
{
    Str *sentences = ARENA_ARRAY(arena, Str, SIM_SENTENCES_MAX);
    bool *chosen = ARENA_ARRAY(arena, bool, SIM_SENTENCES_MAX);
    const SimWords *words = sim_words(arena, text);
    if (!sentences || !chosen || !words) return STR_NULL;
    size_t sentences_n = sim_sentences(text, sentences, SIM_SENTENCES_MAX);
    for (size_t k = 0; k < MIN(n, sentences_n); k++) {
        size_t best = SIZE_MAX;
        int64_t best_weight = -1;
        for (size_t i = 0; i < sentences_n; i++) {
            int64_t weight = chosen[i] ? -1 : sentence_weight(words, sentences[i], i == 0);
            if (weight > best_weight) best = i, best_weight = weight;
        }
        chosen[best] = true;
    }
    Str out = STR("");
    for (size_t i = 0; i < sentences_n; i++)
        if (chosen[i])
            out = arena_printf(arena, "%.*s%s%s%.*s", STR_ARG(out),
                               out.len ? bullets ? "\n" : " " : "", bullets ? "- " : "",
                               STR_ARG(sentences[i]));
    return out;
}

ptrdiff_t sim_find_nocase(Str text, Str needle)
{
    for (size_t i = 0; i + needle.len <= text.len; i++)
        if (str_eq_nocase(str_sub(text, i, needle.len), needle)) return (ptrdiff_t)i;
    return -1;
}

Str sim_cut(Str text, size_t max)
{
    if (text.len <= max) return text;
    while (max > 0 && ((unsigned char)text.ptr[max] & 0xc0) == 0x80) max--;
    return str_sub(text, 0, max);
}
