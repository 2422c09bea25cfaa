/* Hexadecimal text of bytes. Pure functions, any thread. */
#ifndef GANTRY_CODEC_HEX_H
#define GANTRY_CODEC_HEX_H

#include "base/str.h"

/* Room for the text of n bytes with its final NUL. */
#define HEX_TEXT_MAX(n) (2 * (n) + 1)

/* Writes n bytes as 2n lower-case digits and a NUL into out, which has HEX_TEXT_MAX(n) bytes. */
void hex_encode(char *out, const void *bytes, size_t n);

/* Reads exactly 2n digits of either case into out (n bytes). Returns 0, or -EINVAL for another
 * length or character; then out is untouched. */
MUST_CHECK int hex_decode(Str text, void *out, size_t n);

#endif
