#include "sys/clock.h"

#include <time.h>

static int64_t read_us(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t clock_mono_us(void)
{
    return read_us(CLOCK_MONOTONIC);
}

int64_t clock_mono_ms(void)
{
    return read_us(CLOCK_MONOTONIC) / 1000;
}

int64_t clock_real_ms(void)
{
    return read_us(CLOCK_REALTIME) / 1000;
}

int64_t deadline_after(int64_t duration_ms)
{
    int64_t deadline;
    if (duration_ms < 0 || __builtin_add_overflow(clock_mono_ms(), duration_ms, &deadline))
        return DEADLINE_NONE;
    return deadline;
}
