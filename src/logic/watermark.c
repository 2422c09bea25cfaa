#include "logic/watermark.h"

#include <string.h>

static WatermarkSlot *slot_of(Watermark *w, int64_t seq)
{
    return &w->slots[seq % WATERMARK_MAX];
}

bool watermark_add(Watermark *w, bool canary, double pi, int64_t limit_ms, int64_t *ret_seq)
{
    assert(w->next - w->first <= WATERMARK_MAX);
    if (w->next - w->first == WATERMARK_MAX) return false;
    *ret_seq = w->next++;
    *slot_of(w, *ret_seq) = (WatermarkSlot){ .state = SLOT_OPEN,
                                             .limit_ms = limit_ms,
                                             .unit = { .canary = canary, .pi = pi } };
    return true;
}

static bool is_open(Watermark *w, int64_t seq)
{
    return seq >= w->first && seq < w->next && slot_of(w, seq)->state == SLOT_OPEN;
}

bool watermark_resolve(Watermark *w, int64_t seq, uint32_t has, const double *harm, size_t harm_n)
{
    assert(harm_n <= EVIDENCE_METRICS_MAX);
    if (!is_open(w, seq)) return false;
    WatermarkSlot *slot = slot_of(w, seq);
    slot->state = SLOT_RESOLVED;
    slot->unit.has = has;
    if (harm_n) memcpy(slot->unit.harm, harm, harm_n * sizeof(*harm));
    return true;
}

bool watermark_drop(Watermark *w, int64_t seq)
{
    if (!is_open(w, seq)) return false;
    slot_of(w, seq)->state = SLOT_DROPPED;
    return true;
}

int64_t watermark_expire(Watermark *w, int64_t now_ms, uint32_t on_limit)
{
    int64_t expired = 0;
    double harm[EVIDENCE_METRICS_MAX];
    for (size_t m = 0; m < EVIDENCE_METRICS_MAX; m++) harm[m] = on_limit >> m & 1 ? 1 : 0;
    for (int64_t seq = w->first; seq < w->next; seq++) {
        if (slot_of(w, seq)->limit_ms > now_ms) continue;
        expired += watermark_resolve(w, seq, on_limit, harm, EVIDENCE_METRICS_MAX);
    }
    return expired;
}

bool watermark_take(Watermark *w, EvidenceUnit *ret)
{
    while (w->first < w->next) {
        WatermarkSlot *slot = slot_of(w, w->first);
        if (slot->state == SLOT_OPEN) return false;
        w->first++;
        if (slot->state == SLOT_DROPPED) continue;
        *ret = slot->unit;
        return true;
    }
    return false;
}
