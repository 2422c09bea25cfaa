/* UUIDs, version 7: a millisecond clock first, so that ids sort by age (RFC 9562 section 5.7).
 *
 * Pure: clock and randomness come from the caller.
 */
#ifndef GANTRY_CODEC_UUID_H
#define GANTRY_CODEC_UUID_H

#include "base/str.h"

#define UUID_TEXT_MAX 37 /* 36 characters and a NUL */
#define UUID7_RANDOM_BYTES 10

typedef struct {
    uint8_t bytes[16];
} Uuid;

/* Makes ids that grow strictly, also within a millisecond and when the clock steps back. Zeroed at
 * first; owned by one thread (or behind its owner's lock). */
typedef struct {
    int64_t last_ms;  /* time of the last id; may run ahead of the clock, see uuid7_next */
    uint16_t counter; /* rand_a of the last id */
} Uuid7Gen;

/* The id of unix_ms (0 to 2^48-1) and 80 random bits, six of which are not used. */
Uuid uuid7_make(int64_t unix_ms, const uint8_t random[UUID7_RANDOM_BYTES]);

/* An id greater than every earlier one of gen. rand_a is a counter, seeded below 2^11 every
 * millisecond (RFC 9562 section 6.2, method 1): after at least 2048 ids within one millisecond the
 * next is stamped one millisecond ahead of the clock. rand_b is 62 random bits every time. */
Uuid uuid7_next(Uuid7Gen *gen, int64_t unix_ms, const uint8_t random[UUID7_RANDOM_BYTES]);

/* Milliseconds since 1970 in a version 7 id. */
int64_t uuid7_ms(Uuid id);

/* Lower-case text, NUL-terminated, into out. Returns out. */
char *uuid_text(Uuid id, char out[UUID_TEXT_MAX]);

/* Reads "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", digits of either case, any version. Returns 0 or
 * -EINVAL; *ret is written on success only. */
MUST_CHECK int uuid_from_text(Str text, Uuid *ret);

bool uuid_eq(Uuid a, Uuid b);
int uuid_cmp(Uuid a, Uuid b); /* <0, 0, >0: by age for version 7 */
bool uuid_is_zero(Uuid id);   /* the nil id: "none" in our structs */

#endif
