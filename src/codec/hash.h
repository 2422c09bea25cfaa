/* Hashes that are not for secrets: for buckets and fingerprints, equal on every machine. Any
 * thread. */
#ifndef GANTRY_CODEC_HASH_H
#define GANTRY_CODEC_HASH_H

#include "base/str.h"

/* MurmurHash3_x86_32 (Appleby, public domain) of the bytes. */
uint32_t hash_murmur3_32(Str bytes, uint32_t seed);

/* The same of a, one NUL and b, without putting them together. */
uint32_t hash_murmur3_32_pair(Str a, Str b, uint32_t seed);

/* XXH64 with seed 0. */
uint64_t hash_xxh64(Str bytes);

#endif
