/* Text for the simulator: words, sentences, and how alike two texts are. Pure, deterministic, and
 * no more clever than a demonstration needs. Not for other folders. */
#ifndef GANTRY_GATEWAY_SIM_TEXT_H
#define GANTRY_GATEWAY_SIM_TEXT_H

#include "base/arena.h"

#define SIM_WORDS_MAX 1024
#define SIM_SENTENCES_MAX 256

/* Distinct content words of a text (stop words left out), as hashes of their stems. */
typedef struct {
    uint64_t hashes[SIM_WORDS_MAX];
    uint16_t counts[SIM_WORDS_MAX];
    size_t n;
} SimWords;

/* Next run of letters and digits; a change from lower to upper case parts words too (getOrder).
 * *rest shrinks. False at the end. */
bool sim_word_next(Str *rest, Str *ret_word);

/* Hash of the word's stem, lower-cased; 0 for a stop word. */
uint64_t sim_word_hash(Str word);

/* At most SIM_WORDS_MAX distinct ones. NULL when the arena is full. */
SimWords *sim_words(Arena *arena, Str text);

bool sim_words_has(const SimWords *words, uint64_t hash);

/* How many distinct content words of text are in words. */
size_t sim_words_shared(const SimWords *words, Str text);

/* Sentences of text, trimmed, in order; also lines count. Returns how many (at most max). */
size_t sim_sentences(Str text, Str *out, size_t max);

/* The n sentences that say most, in the order of the text, joined with a space (or as a list with
 * bullets). The empty Str when the arena is full. */
Str sim_summary(Arena *arena, Str text, size_t n, bool bullets);

/* First occurrence, ASCII case ignored; -1 if none. */
ptrdiff_t sim_find_nocase(Str text, Str needle);

/* At most max bytes, cut between characters (UTF-8). */
Str sim_cut(Str text, size_t max);

#endif
