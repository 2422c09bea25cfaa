/* Agents that are killed at random between and during their calls, and tried again, in virtual
 * time: what was recorded is never bought again, whatever the order calls come in, and the agent
 * ends as one that was never killed. usage: test_sim_replay [SEED] replays one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "logic/replay.h"
#include "random.h"

#define RUNS 50000
#define ROUNDS_MAX 8
#define WIDTH_MAX 5
#define ENTRIES_MAX 1000
#define KEYS_MAX 64
#define ATTEMPTS_MAX 200

static uint64_t seed_first = 1, seed_n = RUNS;

#define MUST(condition)                                                                        \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            fprintf(stderr, "seed %" PRIu64 ", attempt %d: failed: %s (line %d)\n", run->seed, \
                    run->attempt, #condition, __LINE__);                                       \
            fail();                                                                            \
        }                                                                                      \
    } while (0)

/* What became of calls of one key. */
typedef struct {
    uint64_t key;
    int wanted; /* by an agent that is never killed */
    int bought;
    int lost; /* bought, and killed before the record */
} Account;

typedef struct {
    uint64_t seed;
    Random random;
    int attempt;
    int rounds, width[ROUNDS_MAX];
    bool repeats[ROUNDS_MAX]; /* all calls of the round are equal */
    ReplayEntry entries[ENTRIES_MAX];
    uint64_t answers[ENTRIES_MAX]; /* of entries */
    size_t entries_n;
    Account accounts[KEYS_MAX];
    size_t accounts_n;
    Replay replay;
} Run;

static Account *account(Run *run, uint64_t key)
{
    for (size_t i = 0; i < run->accounts_n; i++)
        if (run->accounts[i].key == key) return &run->accounts[i];
    MUST(run->accounts_n < KEYS_MAX);
    run->accounts[run->accounts_n].key = key;
    return &run->accounts[run->accounts_n++];
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    Random r = { a * 31 + b };
    return random_next(&r);
}

/* The answer of the model depends on what was asked only, so every run of the agent is alike. */
static uint64_t key_at(const Run *run, uint64_t transcript, int round, int index)
{
    return mix(transcript, (uint64_t)round * 100 + (run->repeats[round] ? 0 : (uint64_t)index));
}

static void key_bytes(uint64_t key, uint8_t out[SHA256_BYTES])
{
    memset(out, 0, SHA256_BYTES);
    memcpy(out, &key, sizeof key);
}

static void shuffle(Run *run, int *order, int n)
{
    for (int i = 0; i < n; i++) order[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int j = (int)random_range(&run->random, 0, i), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
}

static void record(Run *run, uint64_t key, bool complete)
{
    MUST(run->entries_n < ENTRIES_MAX);
    ReplayEntry *entry = &run->entries[run->entries_n];
    *entry = (ReplayEntry){ .n = (int64_t)run->entries_n + 1,
                            .kind = REPLAY_MODEL,
                            .complete = complete };
    key_bytes(key, entry->key);
    run->answers[run->entries_n++] = mix(key, 1);
}

/* One of the calls of a round: served, or bought, which leaves it pending. */
static void ask(Run *run, uint64_t key, uint64_t *pending, int *pending_n)
{
    uint8_t bytes[SHA256_BYTES];
    const ReplayEntry *entry;
    key_bytes(key, bytes);
    if (replay_next(&run->replay, REPLAY_MODEL, bytes, &entry) == 0) {
        MUST(entry->complete && entry->passed);
        MUST(run->answers[entry->n - 1] == mix(key, 1));
        return;
    }
    account(run, key)->bought++;
    pending[(*pending_n)++] = key;
}

/* Answers come in any order; each is recorded before the agent has it. Returns false: killed. */
static bool settle(Run *run, const uint64_t *pending, int n, int percent)
{
    int order[WIDTH_MAX];
    shuffle(run, order, n);
    for (int i = 0; i < n; i++) {
        if (random_range(&run->random, 0, 99) < percent) {
            for (int j = i; j < n; j++) {
                account(run, pending[order[j]])->lost++;
                if (random_range(&run->random, 0, 1)) record(run, pending[order[j]], false);
            }
            return false;
        }
        record(run, pending[order[i]], true);
    }
    return true;
}

/* Returns false when it was killed; *ret is what it made of all answers. */
static bool attempt(Run *run, int percent, uint64_t *ret)
{
    uint64_t transcript = run->seed;
    for (size_t i = 0; i < run->entries_n; i++) run->entries[i].passed = false;
    run->replay = (Replay){ .entries = run->entries, .n = run->entries_n };
    for (int round = 0; round < run->rounds; round++) {
        int order[WIDTH_MAX], pending_n = 0;
        uint64_t pending[WIDTH_MAX], sum = 0;
        shuffle(run, order, run->width[round]);
        for (int i = 0; i < run->width[round]; i++)
            ask(run, key_at(run, transcript, round, order[i]), pending, &pending_n);
        if (!settle(run, pending, pending_n, percent)) return false;
        if (random_range(&run->random, 0, 99) < percent) return false;
        for (int i = 0; i < run->width[round]; i++)
            sum += mix(key_at(run, transcript, round, i), 1);
        transcript = mix(transcript, sum);
    }
    *ret = transcript;
    return true;
}

static void make(Run *run)
{
    run->rounds = (int)random_range(&run->random, 1, ROUNDS_MAX);
    for (int i = 0; i < run->rounds; i++) {
        run->width[i] = (int)random_range(&run->random, 1, WIDTH_MAX);
        run->repeats[i] = random_range(&run->random, 0, 3) == 0;
    }
}

/* What an agent asks that is never killed. */
static uint64_t undisturbed(Run *run)
{
    uint64_t transcript = run->seed;
    for (int round = 0; round < run->rounds; round++) {
        uint64_t sum = 0;
        for (int i = 0; i < run->width[round]; i++) {
            uint64_t key = key_at(run, transcript, round, i);
            account(run, key)->wanted++;
            sum += mix(key, 1);
        }
        transcript = mix(transcript, sum);
    }
    return transcript;
}

static void run_seed(Run *run, uint64_t seed)
{
    *run = (Run){ .seed = seed, .random = { seed } };
    make(run);
    uint64_t wanted = undisturbed(run), end = 0;
    int percent = (int)random_range(&run->random, 0, 40);
    for (run->attempt = 1; !attempt(run, percent, &end); run->attempt++)
        if (run->attempt == ATTEMPTS_MAX) percent = 0;
    MUST(end == wanted);
    for (size_t i = 0; i < run->accounts_n; i++) {
        const Account *a = &run->accounts[i];
        MUST(a->bought == a->wanted + a->lost);
    }
    for (int i = 0; i < 2; i++) { /* and once more, all of it from the journal */
        size_t before = run->entries_n;
        MUST(attempt(run, 0, &end) && end == wanted && run->entries_n == before);
        MUST(run->replay.misses == 0);
    }
}

static void test_runs(void **state)
{
    (void)state;
    Run *run = calloc(1, sizeof *run);
    for (uint64_t seed = seed_first; seed < seed_first + seed_n; seed++) run_seed(run, seed);
    free(run);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_runs) };
    if (argc > 1) {
        seed_first = strtoull(argv[1], NULL, 10);
        seed_n = 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
