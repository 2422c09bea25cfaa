#include "sys/entropy.h"

#include <sys/random.h>

void entropy_fill(void *out, size_t n)
{
    char *p = out;
    while (n) {
        ssize_t got = getrandom(p, n, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) DIE("the kernel gives no random bytes (getrandom: %d)", errno);
        p += got;
        n -= (size_t)got;
    }
}

uint64_t entropy_u64(void)
{
    uint64_t v;
    entropy_fill(&v, sizeof v);
    return v;
}
