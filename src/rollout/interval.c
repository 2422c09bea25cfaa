#include "rollout/interval.h"

#include <math.h>

#define ARENA_BYTES ((size_t)4 << 20)
#define PAGE 256

typedef struct {
    bool shown; /* its margins have a scale */
    EPast past;
    EInterval interval;
} MetricInterval;

/* What is stored: a head, then the metrics of the plan. The sizes tell a program of another build
 * that it cannot read this. */
#define FORM 1
typedef struct {
    uint32_t form, metric_bytes;
    uint64_t metrics_n;
} Head;

static Head head_of(const RolloutSpec *spec)
{
    return (Head){ FORM, sizeof(MetricInterval), spec->evidence.metrics_n };
}

static size_t bytes_of(const RolloutSpec *spec)
{
    return sizeof(Head) + spec->evidence.metrics_n * sizeof(MetricInterval);
}

/* Differences on the scale of the margin, or ratios on that of a relative one. */
static void metric_init(MetricInterval *m, const EvidenceMetric *metric, double alpha)
{
    m->shown = metric->promote_delta > 0 || metric->promote_rho > 1;
    m->past = (EPast){ 0 };
    if (!m->shown) memset(&m->interval, 0, sizeof(m->interval));
    else if (metric->promote_delta > 0)
        einterval_init(&m->interval, metric->promote_rho, metric->promote_delta, alpha);
    else einterval_init_ratios(&m->interval, metric->promote_rho - 1, alpha);
}

/* The metrics, as stored or new. *ret_head says how far they reach. */
static int load(Db *db, int64_t rollout_seq, const RolloutSpec *spec, char *bytes,
                RolloutIntervals *ret_head)
{
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, ARENA_BYTES);
    Head head = head_of(spec);
    int r = rollout_intervals_get(db, rollout_seq, &arena, ret_head);
    if (r != 0 && r != -ENOENT) return r;
    bool ours = r == 0 && ret_head->bytes.len == bytes_of(spec) &&
                memcmp(ret_head->bytes.ptr, &head, sizeof(head)) == 0;
    if (ours) memcpy(bytes, ret_head->bytes.ptr, bytes_of(spec));
    else *ret_head = (RolloutIntervals){ 0 };
    ret_head->bytes = str_make(bytes, bytes_of(spec));
    if (ours) return 0;
    memset(bytes, 0, bytes_of(spec));
    memcpy(bytes, &head, sizeof(head));
    MetricInterval *metrics = (MetricInterval *)(void *)(bytes + sizeof(head));
    for (size_t m = 0; m < spec->evidence.metrics_n; m++)
        metric_init(&metrics[m], &spec->evidence.metrics[m], spec->evidence.alpha_promote);
    return 0;
}

static void take(const RolloutSpec *spec, MetricInterval *metrics, const RolloutConsumed *c)
{
    for (size_t m = 0; m < spec->evidence.metrics_n; m++) {
        if (!(c->unit.has >> m & 1)) continue;
        EUnit unit = { c->unit.canary, c->unit.pi, c->unit.harm[m] };
        ELook look = elook(&metrics[m].past, &unit);
        if (metrics[m].shown) einterval_observe(&metrics[m].interval, &look);
        epast_add(&metrics[m].past, &unit);
    }
}

/* *ret_more: there is more than is taken up at a time. */
static int take_group(Db *db, const RolloutRow *row, const RolloutSpec *spec, EvidenceGroup group,
                      RolloutIntervals *head, bool *ret_more)
{
    MetricInterval *metrics = (MetricInterval *)(void *)((char *)(uintptr_t)head->bytes.ptr +
                                                         sizeof(Head));
    CLEANUP(freep) RolloutConsumed *page = xcalloc(PAGE, sizeof(*page));
    size_t n = PAGE;
    for (int taken = 0; n == PAGE && taken < INTERVAL_UNITS_MAX; taken += PAGE) {
        int r = rollout_consumed_of(db, row->seq, group, head->cursors[group], row->cursors[group],
                                    page, &n);
        if (r != 0) return r;
        for (size_t i = 0; i < n; i++) take(spec, metrics, &page[i]);
        if (n > 0) head->cursors[group] = page[n - 1].at;
    }
    *ret_more |= n == PAGE;
    return 0;
}

static bool is_new(const RolloutRow *row, const RolloutIntervals *head)
{
    return memcmp(row->cursors, head->cursors, sizeof(row->cursors)) != 0;
}

int interval_tick(Db *db, const RolloutRow *row, const RolloutSpec *spec, int64_t now_ms,
                  bool at_once)
{
    RolloutIntervals head = { 0 };
    bool more = false;
    int r = rollout_intervals_head(db, row->seq, &head);
    if (r != 0 && r != -ENOENT) return r;
    int64_t since_ms = now_ms - head.at_ms;
    bool due = at_once || since_ms < 0 || since_ms >= INTERVAL_EVERY_MS;
    if (!due || !is_new(row, &head) || spec->evidence.metrics_n == 0) return 0;
    CLEANUP(freep) char *bytes = xmalloc(bytes_of(spec));
    r = load(db, row->seq, spec, bytes, &head);
    for (EvidenceGroup g = 0; r == 0 && g < EVIDENCE_GROUPS_N_; g++)
        r = take_group(db, row, spec, g, &head, &more);
    if (r != 0) return r;
    head.at_ms = more ? 0 : now_ms;
    return rollout_intervals_put(db, row->seq, &head);
}

static IntervalShown shown_of(const MetricInterval *m)
{
    int from, to;
    const EInterval *v = &m->interval;
    if (!m->shown || m->past.n[0] + m->past.n[1] == 0 || !einterval_read(v, &from, &to))
        return (IntervalShown){ .kind = INTERVAL_NONE };
    return (IntervalShown){ .kind = v->ratios ? INTERVAL_RATIO : INTERVAL_DIFFERENCE,
                            .from = from == -EINTERVAL_HALF ? (double)NAN : from * v->delta / 10,
                            .to = to == EINTERVAL_HALF ? (double)NAN : to * v->delta / 10 };
}

int interval_show(Db *db, int64_t rollout_seq, const RolloutSpec *spec,
                  IntervalShown ret[EVIDENCE_METRICS_MAX])
{
    RolloutIntervals head = { 0 };
    for (size_t m = 0; m < EVIDENCE_METRICS_MAX; m++) ret[m] = (IntervalShown){ INTERVAL_NONE };
    CLEANUP(freep) char *bytes = xmalloc(bytes_of(spec));
    int r = load(db, rollout_seq, spec, bytes, &head);
    if (r != 0) return r;
    const MetricInterval *metrics = (const MetricInterval *)(void *)(bytes + sizeof(Head));
    for (size_t m = 0; m < spec->evidence.metrics_n; m++) ret[m] = shown_of(&metrics[m]);
    return 0;
}
