#include "logic/waits.h"

#include <math.h>
#include <string.h>

static size_t bucket_of(int64_t waited_ms)
{
    if (waited_ms <= 1) return 0;
    double i = ceil(log2((double)waited_ms) * 4);
    return i >= WAITS_BUCKETS ? WAITS_BUCKETS - 1 : (size_t)i;
}

static int64_t bucket_most_ms(size_t bucket)
{
    return (int64_t)floor(exp2((double)bucket / 4));
}

static void turn(Waits *waits)
{
    memcpy(waits->counts[1], waits->counts[0], sizeof waits->counts[0]);
    memset(waits->counts[0], 0, sizeof waits->counts[0]);
    waits->late[1] = waits->late[0];
    waits->late[0] = 0;
}

void waits_add(Waits *waits, int64_t waited_ms, bool late, int64_t now_ms)
{
    int64_t past_ms = now_ms - waits->since_ms;
    if (past_ms >= WAITS_WINDOW_MS || past_ms < 0) {
        turn(waits);
        if (past_ms < 0 || past_ms >= 2 * WAITS_WINDOW_MS) turn(waits);
        waits->since_ms = now_ms;
    }
    waits->counts[0][bucket_of(waited_ms)]++;
    waits->late[0] += late;
}

static int64_t quantile(const int64_t counts[WAITS_BUCKETS], int64_t rank)
{
    int64_t below = 0;
    for (size_t i = 0; i < WAITS_BUCKETS; i++) {
        below += counts[i];
        if (below >= rank) return bucket_most_ms(i);
    }
    return 0;
}

WaitsFigures waits_figures(const Waits *waits, int64_t now_ms)
{
    WaitsFigures figures = { 0 };
    int64_t counts[WAITS_BUCKETS] = { 0 }, past_ms = now_ms - waits->since_ms;
    int windows = past_ms < WAITS_WINDOW_MS ? 2 : past_ms < 2 * WAITS_WINDOW_MS ? 1 : 0;
    for (int w = 0; w < windows; w++) {
        figures.late += waits->late[w];
        for (size_t i = 0; i < WAITS_BUCKETS; i++) {
            counts[i] += waits->counts[w][i];
            figures.n += waits->counts[w][i];
        }
    }
    if (figures.n == 0) return figures;
    figures.p50_ms = quantile(counts, (figures.n + 1) / 2);
    figures.p99_ms = quantile(counts, (figures.n * 99 + 99) / 100);
    return figures;
}
