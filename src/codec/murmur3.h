/* MurmurHash3_x86_32 (Austin Appleby, public domain algorithm): spreads units over buckets. Not for
 * secrets: who knows the input chooses the output. Any thread. */
#ifndef GANTRY_CODEC_MURMUR3_H
#define GANTRY_CODEC_MURMUR3_H

#include "base/str.h"

uint32_t murmur3_32(Str bytes, uint32_t seed);

/* The bucket of unit, 0..9999: over salt, a zero byte and unit. Equal on every machine and for
 * ever: a weight that grows only ever adds units. salt and unit together at most 1023 bytes; what
 * is beyond does not count. */
#define BUCKETS 10000
uint32_t murmur3_bucket(Str salt, Str unit);

#endif
