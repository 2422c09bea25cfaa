#include "logic/glob.h"

/* On a mismatch only the last `*` needs to be tried again, one byte longer: earlier ones could gain
 * nothing that it cannot. */
bool glob_match(Str pattern, Str text)
{
    size_t p = 0, t = 0;
    size_t star = SIZE_MAX, star_t = 0; /* place after the last `*`, and where it began to match */
    while (t < text.len) {
        assert(p <= pattern.len && star_t <= t);
        if (p < pattern.len && pattern.ptr[p] == '*') {
            star = ++p;
            star_t = t;
        } else if (p < pattern.len && pattern.ptr[p] == text.ptr[t]) {
            p++;
            t++;
        } else if (star != SIZE_MAX) {
            p = star;
            t = ++star_t;
        } else {
            return false;
        }
    }
    while (p < pattern.len && pattern.ptr[p] == '*') p++;
    assert(p <= pattern.len);
    return p == pattern.len;
}

ptrdiff_t glob_find(const Str *patterns, size_t n, Str text)
{
    for (size_t i = 0; i < n; i++)
        if (glob_match(patterns[i], text)) return (ptrdiff_t)i;
    return -1;
}
