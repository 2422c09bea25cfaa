#include "sys/clock.h"

#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

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

void boot_id_read(char ret[BOOT_ID_SIZE])
{
    ssize_t n = 0;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) n = read(fd, ret, BOOT_ID_SIZE - 1);
    if (fd >= 0) close(fd);
    ret[MAX(n, 0)] = '\0';
    ret[strcspn(ret, "\n")] = '\0';
}
