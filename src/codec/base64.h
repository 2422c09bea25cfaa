/* Base64, the standard alphabet with padding (RFC 4648 section 4). Pure functions, any thread. */
#ifndef GANTRY_CODEC_BASE64_H
#define GANTRY_CODEC_BASE64_H

#include "base/buf.h"

/* Room for the text of n bytes with its final NUL. */
#define BASE64_TEXT_MAX(n) (((n) + 2) / 3 * 4 + 1)

/* Room for the bytes of a text of n characters. */
#define BASE64_BYTES_MAX(n) ((n) / 4 * 3)

/* Writes the text of bytes and a NUL into out, which has BASE64_TEXT_MAX(bytes.len) bytes. Returns
 * the length without the NUL. */
size_t base64_encode(char *out, Str bytes);

/* Appends the text of bytes. Returns 0 or -ENOMEM (buf full). */
MUST_CHECK int base64_add(Buf *buf, Str bytes);

/* Reads text into out, which has BASE64_BYTES_MAX(text.len) bytes, and sets *ret_n to how many
 * there are. Strict (RFC 4648 section 3): padding is required, unused bits are zero, no character
 * outside the alphabet (so no line ends). Returns 0 or -EINVAL; then out may be partly written. */
MUST_CHECK int base64_decode(Str text, void *out, size_t *ret_n);

#endif
