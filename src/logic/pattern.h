/* Pattern: the shape of what an agent did in a task, as 64 bits that can be averaged.
 *
 * A task is a row of tokens in order of occurrence: `tool:name` or `tool:name:err`; for each
 * non-empty text `text:<floor of log2 of its bytes>`, then what it contains of `md:list`,
 * `md:code`, `md:table`, `md:heading` (in this order), `json:<8 hex of the hash of its sorted
 * keys>`, `refusal`; at the end `fin:reason`. Between `^` and `$` its distinct 1-, 2- and 3-grams
 * (joined by `|`) are hashed by XXH64; bit b of the fingerprint is set when more grams have it than
 * not (SimHash: Charikar 2002). Like tasks have like fingerprints.
 *
 * From counts of set bits, which merge by addition, come responsePatternVariance (how far two tasks
 * of a day are apart: 0 identical, 1/2 unrelated) and patternShift (how far today is from before).
 * Pure; any thread; the struct belongs to whoever holds it.
 */
#ifndef GANTRY_LOGIC_PATTERN_H
#define GANTRY_LOGIC_PATTERN_H

#include "base/arena.h"

#define PATTERN_BITS 64
#define PATTERN_TOKEN_MAX 96   /* a longer token is cut */
#define PATTERN_GRAMS_MAX 1536 /* distinct ones; more are left out and .cut is set */
#define PATTERN_SLOTS 4096     /* of the hash table, a power of two */
#define PATTERN_JSON_MAX 65536 /* a longer text is not looked at as JSON */

/* A task on its way, about 33 KB: never on a fiber's stack. */
typedef struct {
    char last[2][PATTERN_TOKEN_MAX]; /* the two tokens before, older first; "" before the start */
    uint64_t slots[PATTERN_SLOTS];   /* 0: free */
    int32_t grams;
    int32_t votes[PATTERN_BITS];
    bool cut;
} PatternTask;

void pattern_begin(PatternTask *task);
void pattern_token(PatternTask *task, Str token);
void pattern_tool(PatternTask *task, Str name, bool failed);
void pattern_text(PatternTask *task, Arena *scratch, Str text); /* scratch full: no json token */

/* Ends the task with `fin:reason` (empty: without) and gives its fingerprint. */
uint64_t pattern_end(PatternTask *task, Str reason);

/* --- days ------------------------------------------------------------------------------------ */

typedef struct {
    int64_t n;
    int64_t ones[PATTERN_BITS];
} PatternCounts;

/* sign 1 counts the task, -1 takes it back. */
void pattern_count(PatternCounts *counts, uint64_t fingerprint, int64_t sign);
void pattern_merge(PatternCounts *into, const PatternCounts *from);

/* Mean pairwise Hamming distance over bits: (1/bits) sum of 2 c (n-c) / (n (n-1)); 0 for n < 2. */
double pattern_variance(const int64_t *ones, int64_t n, size_t bits);

/* (1/bits) sum of (p-q)^2 - p (1-p)/n with p = ones/n today and q before: around 0 while nothing
 * changes. n >= 1. Pool 20 days or more for q: its noise counts as shift. */
double pattern_shift(const int64_t *ones, int64_t n, const double *q, size_t bits);

/* Shares of set bits, for q. n >= 1. */
void pattern_shares(const PatternCounts *counts, double ret_q[PATTERN_BITS]);

#endif
