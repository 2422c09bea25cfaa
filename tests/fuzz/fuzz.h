/* What the targets share. A finding is a failed assertion or a sanitizer's report. */
#ifndef GANTRY_TESTS_FUZZ_H
#define GANTRY_TESTS_FUZZ_H

#include "base/str.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A number from the bytes, for what is to vary with the input but is not part of it. FNV-1a. */
static inline uint64_t fuzz_seed(const uint8_t *data, size_t size)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < size; i++) hash = (hash ^ data[i]) * UINT64_C(0x100000001b3);
    return hash | 1;
}

#endif
