/* What heads of answers say of rate limits: every number within its bounds, whatever stands there.
 * A line is a field, "name: value". */
#include "logic/rate.h"
#include "tests/fuzz/fuzz.h"

#define NOW_REAL_MS INT64_C(1767225600000)
#define NOW_MS INT64_C(1000000)

static void check_report(const RateReport *report)
{
    assert(report->retry_after_ms >= -1 && report->retry_after_ms <= RATE_BLOCK_MAX_MS);
    for (RateUnit unit = 0; unit < RATE_N_; unit++) {
        assert(report->limit[unit] >= -1 && report->remaining[unit] >= -1);
        assert(report->reset_ms[unit] >= -1 && report->reset_ms[unit] <= RATE_BLOCK_MAX_MS);
    }
}

/* Nothing that is learned blocks for longer than the bound and a window. */
static void check_learned(const RateReport *report)
{
    static Rate rate;
    RateAmounts none = { 0 }, need = rate_amounts(1, 1);
    rate_init(&rate, &none, 0);
    rate_take(&rate, &need, NOW_MS);
    rate_learn(&rate, report, NOW_MS);
    int64_t at_ms = rate_fits_at_ms(&rate, &need, NOW_MS);
    assert(at_ms >= NOW_MS && at_ms <= NOW_MS + RATE_BLOCK_MAX_MS + RATE_SPAN_MS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Str rest = str_make((const char *)data, size), line, name;
    RateReport report = RATE_REPORT_NONE;
    while (rest.len) {
        rest = str_split(rest, '\n', &line, NULL);
        Str value = str_split(line, ':', &name, NULL);
        rate_report_field(&report, name, value, NOW_REAL_MS);
        check_report(&report);
    }
    check_learned(&report);
    return 0;
}
