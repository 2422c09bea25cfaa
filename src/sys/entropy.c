#include "sys/entropy.h"

#include <string.h>
#include <sys/random.h>

/* Ids ask for a few bytes a call, and a system call for each is what they would cost most. */
#define POOL_BYTES 512
#define POOL_ASK_MAX 64

static _Thread_local struct {
    unsigned char bytes[POOL_BYTES];
    size_t left; /* at the end; what was given away is wiped */
} pool;

static void kernel_fill(void *out, size_t n)
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

void entropy_fill(void *out, size_t n)
{
    if (n > POOL_ASK_MAX) {
        kernel_fill(out, n);
        return;
    }
    if (pool.left < n) {
        kernel_fill(pool.bytes, sizeof pool.bytes);
        pool.left = sizeof pool.bytes;
    }
    unsigned char *from = pool.bytes + sizeof pool.bytes - pool.left;
    memcpy(out, from, n);
    memset(from, 0, n);
    pool.left -= n;
}

uint64_t entropy_u64(void)
{
    uint64_t v;
    entropy_fill(&v, sizeof v);
    return v;
}
