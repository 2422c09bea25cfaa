/* Cron expressions: one that is taken fires, at whole minutes and later than asked. */
#include "logic/cron.h"
#include "tests/fuzz/fuzz.h"

static int64_t zone_ms;

static int64_t offset_ms(const void *ctx, int64_t unix_ms)
{
    (void)ctx;
    /* an hour more for half of each year, by and large */
    return zone_ms + (unix_ms / 15778800000 % 2 ? 3600000 : 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const CronZone zone = { offset_ms, NULL };
    Cron cron;
    if (size < 2) return 0;
    int64_t after_ms = (int64_t)data[0] * 123456789012 + data[1];
    zone_ms = ((int64_t)(data[1] % 53) - 24) * 1800000;
    if (cron_parse(str_make((const char *)data + 2, size - 2), &cron) != 0) return 0;
    assert(cron.minutes != 0 && cron.hours != 0 && cron.days != 0 && cron.months != 0);
    assert(cron.weekdays != 0 && (cron.weekdays >> 7) == 0 && (cron.days & 1) == 0);
    int64_t next_ms = cron_next(&cron, after_ms, &zone);
    assert(next_ms > after_ms && next_ms % 60000 == 0);
    return 0;
}
