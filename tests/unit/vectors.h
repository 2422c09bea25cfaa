/* tests/vectors/rollout.json: the numbers that rollout code must reproduce. Read once, kept.
 *
 * None is forgotten: each value has an owner in vector_owners, a test that fails when it has ended
 * well without having read all that is its own; test_vectors finds values without one. */
#ifndef GANTRY_TESTS_VECTORS_H
#define GANTRY_TESTS_VECTORS_H

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "codec/json.h"

#define VECTORS_BYTES_MAX (1 << 20)

/* A group by its path: vectors("engine", "fixed40"), NULL-terminated by the macro. */
#define vectors(...) vectors_at((const char *const[]){ __VA_ARGS__, NULL })

static inline const Json *vectors_root(void)
{
    static Arena arena;
    static const Json *root;
    static char text[VECTORS_BYTES_MAX];
    if (root) return root;
    FILE *f = fopen(VECTORS_DIR "/rollout.json", "r");
    size_t n = f ? fread(text, 1, sizeof(text), f) : 0;
    if (f) fclose(f);
    arena_init(&arena, 32 * VECTORS_BYTES_MAX);
    if (n == 0 || json_parse(&arena, str_make(text, n), NULL, &root, NULL) != 0) {
        fprintf(stderr, "cannot read " VECTORS_DIR "/rollout.json\n");
        abort();
    }
    return root;
}

static inline const Json *vectors_at(const char *const *path)
{
    const Json *v = vectors_root();
    for (; *path; path++) v = json_get(v, *path);
    if (!v) abort(); /* a test that reads nothing would pass */
    return v;
}

/* --- what has been read ----------------------------------------------------------------------- */

/* Whose each part is: its path, and the test. What a longer path names is not the shorter one's. */
static const struct {
    const char *path, *owner;
} vector_owners[] = {
    { "tolerance", "vectors" },
    { "generator", "eprocess" },
    { "engine", "eprocess" },
    { "engine.margins", "evidence" },
    { "ratio", "eprocess" },
    { "srm", "eprocess" },
    { "confseq", "vectors" },
    { "special", "special" },
    { "cusum", "drift" },
    { "distribution", "drift" },
    { "responsePattern", "pattern" },
    { "responsePattern.xxh64", "hash" },
    { "shadow", "pair" },
    { "bucketing", "hash" },
    { "bucketing.own", "route" },
    { "bucketing.ownOtherSalt", "route" },
    { "bucketing.ownShare", "route" },
    { "simulation", "rollout_protocol" },
    { "simulation.shadowPairs", "pair" },
    { "simulation.drift", "drift" },
};

/* Explanations for people; a rule among them is written as code. */
static inline bool vectors_is_prose(Str key)
{
    static const char *const prose[] = { "what", "rule", "generate", "generator" };
    for (size_t i = 0; i < ARRAY_N(prose); i++)
        if (str_eq(key, str_of(prose[i]))) return true;
    return false;
}

#define VECTORS_VALUES_MAX 8192 /* a power of two */
static const Json *vectors_seen[VECTORS_VALUES_MAX];

static inline const Json **vectors_seen_at(const Json *v)
{
    size_t i = (size_t)((uintptr_t)v >> 4) & (VECTORS_VALUES_MAX - 1);
    while (vectors_seen[i] && vectors_seen[i] != v) i = (i + 1) & (VECTORS_VALUES_MAX - 1);
    return &vectors_seen[i];
}

/* Notes that v is read, any value of any document; returns it. */
static inline const Json *vectors_read(const Json *v)
{
    static size_t n;
    const Json **at = v ? vectors_seen_at(v) : NULL;
    if (!at || *at) return v;
    if (++n == VECTORS_VALUES_MAX) abort();
    return *at = v;
}

typedef struct {
    const char *owner; /* NULL: whoever has none */
    size_t n;          /* values of his that were not read */
    char path[256];
} VectorsUnread;

static inline const char *vectors_owner(const char *path)
{
    const char *owner = NULL;
    size_t longest = 0;
    for (size_t i = 0; i < ARRAY_N(vector_owners); i++) {
        size_t n = strlen(vector_owners[i].path);
        bool covers = strncmp(path, vector_owners[i].path, n) == 0 &&
                      (path[n] == '\0' || path[n] == '.' || path[n] == '[');
        if (covers && n > longest) owner = vector_owners[i].owner, longest = n;
    }
    return owner;
}

static inline void vectors_unread_value(const Json *v, VectorsUnread *u)
{
    const char *owner = vectors_owner(u->path);
    if (*vectors_seen_at(v) || (owner ? !u->owner || strcmp(owner, u->owner) != 0 : !!u->owner))
        return;
    fprintf(stderr, "vectors: %s %s\n", u->path, owner ? "was not read" : "has no owner");
    u->n++;
}

static inline void vectors_unread(const Json *v, VectorsUnread *u)
{
    size_t len = strlen(u->path), i = 0;
    bool object = json_type(v) == JSON_OBJECT;
    if (!object && json_type(v) != JSON_ARRAY) vectors_unread_value(v, u);
    for (JsonIter it = json_iter(v); json_next(&it); i++) {
        if (object && vectors_is_prose(it.key)) continue;
        if (object)
            snprintf(u->path + len, sizeof(u->path) - len, "%s%.*s", len ? "." : "",
                     STR_ARG(it.key));
        else snprintf(u->path + len, sizeof(u->path) - len, "[%zu]", i);
        vectors_unread(it.value, u);
        u->path[len] = '\0';
    }
}

/* At the end of the program, unless it failed anyhow or was asked for some of its cases only. */
static inline void vectors_look_back(void)
{
    const char prefix[] = "test_", *name = program_invocation_short_name;
    if (strncmp(name, prefix, sizeof(prefix) - 1) != 0) return;
    VectorsUnread unread = { .owner = name + sizeof(prefix) - 1 };
    vectors_unread(vectors_root(), &unread);
    if (unread.n == 0) return;
    fprintf(stderr, "%zu vectors that %s should meet were not read\n", unread.n, name);
    fflush(NULL);
    _exit(1);
}

__attribute__((constructor)) static void vectors_begin(void)
{
    atexit(vectors_look_back);
}

/* Reading is what makes a value read; to ask for its type or its length is not. */
#define json_str(v) json_str(vectors_read(v))
#define json_bool(v, otherwise) json_bool(vectors_read(v), (otherwise))
#define json_i64(v, ret) json_i64(vectors_read(v), (ret))
#define json_i64_or(v, otherwise) json_i64_or(vectors_read(v), (otherwise))
#define json_f64_or(v, otherwise) json_f64_or(vectors_read(v), (otherwise))

/* --- numbers ---------------------------------------------------------------------------------- */

static inline double vectors_f64(const Json *v, const char *key)
{
    double x = json_f64_or(json_get(v, key), NAN);
    if (isnan(x)) {
        fprintf(stderr, "vectors: no number %s\n", key);
        abort();
    }
    return x;
}

/* How near a value of this entry must be met: its own tolerance, or the one of all. */
static inline double vectors_tolerance(const Json *entry)
{
    const Json *own = json_get(entry, "tolerance");
    return json_f64_or(own ? own : vectors("tolerance", "default"), NAN);
}

/* The generator of the "lcg" streams. */
typedef struct {
    uint64_t x;
} Lcg;

static inline double lcg_next(Lcg *lcg)
{
    lcg->x = lcg->x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(lcg->x >> 11) * 0x1p-53;
}

/* Fails unless got is within tolerance of want; NaN never is. */
#define assert_near(got, want, tolerance) \
    assert_near_at((got), (want), (tolerance), #got, __FILE__, __LINE__)
static inline void assert_near_at(double got, double want, double tolerance, const char *what,
                                  const char *file, int line)
{
    if (fabs(got - want) <= tolerance) return;
    fprintf(stderr, "%s:%d: %s is %.15g, not %.15g\n", file, line, what, got, want);
    _fail(file, line);
}

#endif
