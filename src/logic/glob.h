/* Glob: text against a pattern in which `*` stands for any bytes, also none. Nothing else is
 * special. Case matters. Linear in pattern x text at worst, no recursion. */
#ifndef GANTRY_LOGIC_GLOB_H
#define GANTRY_LOGIC_GLOB_H

#include "base/str.h"

/* Whether all of text fits pattern. */
bool glob_match(Str pattern, Str text);

/* Index of the first of n patterns that text fits, or -1. Model -> provider routing goes by it. */
ptrdiff_t glob_find(const Str *patterns, size_t n, Str text);

#endif
