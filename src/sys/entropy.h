/* Randomness from the kernel. Any thread. */
#ifndef GANTRY_SYS_ENTROPY_H
#define GANTRY_SYS_ENTROPY_H

#include "base/common.h"

/* Fills out with n random bytes; ends the process if the kernel cannot give any. */
void entropy_fill(void *out, size_t n);
uint64_t entropy_u64(void);

#endif
