/* Checks for code that runs on fibers and in helper threads, where cmocka's assertions must not be
 * used (they jump): they print and count, and the test asserts on the count with check_none(). */
#ifndef GANTRY_TESTS_CHECK_H
#define GANTRY_TESTS_CHECK_H

#include <stdatomic.h>
#include <stdio.h>

#include "base/str.h"

static atomic_int check_failures;

static inline bool check_at(bool ok, const char *file, int line, const char *what)
{
    if (ok) return true;
    atomic_fetch_add(&check_failures, 1);
    fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
    return false;
}
#define CHECK(condition) check_at((condition), __FILE__, __LINE__, #condition)

static inline bool check_int_at(int64_t got, int64_t want, const char *file, int line,
                                const char *what)
{
    if (got == want) return true;
    atomic_fetch_add(&check_failures, 1);
    fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", file, line, what, (long long)got,
            (long long)want);
    return false;
}
#define CHECK_INT(got, want) check_int_at((int64_t)(got), (int64_t)(want), __FILE__, __LINE__, #got)

static inline bool check_str_at(Str got, Str want, const char *file, int line, const char *what)
{
    if (str_eq(got, want)) return true;
    atomic_fetch_add(&check_failures, 1);
    fprintf(stderr, "%s:%d: %s is \"%.*s\", not \"%.*s\"\n", file, line, what, STR_ARG(got),
            STR_ARG(want));
    return false;
}
#define CHECK_STR(got, want) check_str_at((got), (want), __FILE__, __LINE__, #got)

#define CHECK_HAS(text, part) check_has_at((text), (part), __FILE__, __LINE__)
static inline bool check_has_at(Str text, const char *part, const char *file, int line)
{
    if (str_find(text, str_of(part)) >= 0) return true;
    atomic_fetch_add(&check_failures, 1);
    fprintf(stderr, "%s:%d: no \"%s\" in \"%.*s\"\n", file, line, part, STR_ARG(text));
    return false;
}

#define check_none() assert_int_equal(atomic_exchange(&check_failures, 0), 0)

#endif
