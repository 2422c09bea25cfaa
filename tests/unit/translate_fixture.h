/* JSON in tests of translation: ' stands for ", and documents are compared as values. */
#ifndef GANTRY_TESTS_TRANSLATE_FIXTURE_H
#define GANTRY_TESTS_TRANSLATE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "logic/translate.h"

#define FIXTURE_BYTES ((size_t)64 << 20)

static Arena fixture;

static inline int fixture_setup(void **state)
{
    (void)state;
    arena_init(&fixture, FIXTURE_BYTES);
    return 0;
}

static inline int fixture_teardown(void **state)
{
    (void)state;
    arena_deinit(&fixture);
    return 0;
}

/* The text with every ' made a ". */
static inline Str quoted(const char *text)
{
    char *copy = arena_cstr(&fixture, str_of(text));
    assert_non_null(copy);
    for (char *c = copy; *c; c++)
        if (*c == '\'') *c = '"';
    return str_of(copy);
}

static inline const Json *parsed(Str text)
{
    const Json *v = NULL;
    if (json_parse(&fixture, text, NULL, &v, NULL) != 0) fail_msg("not JSON: %.*s", STR_ARG(text));
    return v;
}

static inline void expect_json(Str got, const char *want)
{
    Str text = quoted(want);
    if (json_eq(parsed(got), parsed(text))) return;
    fail_msg("\n   got %.*s\nwanted %.*s", STR_ARG(got), STR_ARG(text));
}

static inline Str kept(Buf *buf)
{
    Str copy = arena_str(&fixture, buf_str(buf));
    buf_deinit(buf);
    assert_non_null(copy.ptr);
    return copy;
}

#endif
