#include "logic/watermark.h"

static Fate fate_of_open(const UnitNews *news, int64_t wait_ms, int64_t now_ms)
{
    if (news->started_at_ms == 0)
        return now_ms - news->eligible_ms < wait_ms ? FATE_OPEN : FATE_DROPPED;
    int64_t limit_ms = news->deadline_at_ms > 0
                           ? news->deadline_at_ms
                           : news->eligible_ms + MAX(wait_ms, WATERMARK_RUN_MS);
    return now_ms < limit_ms ? FATE_OPEN : FATE_FAILED;
}

Fate watermark_fate(const UnitNews *news, EvidenceGroup group, int64_t wait_ms, int64_t now_ms)
{
    bool at_rest = task_state_ended(news->state) || news->state == TASK_ESCALATED;
    assert(group < EVIDENCE_GROUPS_N_);
    if (news->state == TASK_CANCELED) return FATE_DROPPED;
    if (!at_rest) return fate_of_open(news, wait_ms, now_ms);
    if (news->started_at_ms == 0 || news->degraded) return FATE_DROPPED;
    if (group == EVIDENCE_FAST || news->scored) return FATE_COUNTS;
    if (news->state == TASK_FAILED || news->state == TASK_TIMED_OUT) return FATE_DROPPED;
    int64_t since_ms = MAX(news->finished_at_ms, news->started_at_ms);
    if (now_ms - since_ms < wait_ms) return FATE_OPEN;
    return news->partly ? FATE_COUNTS : FATE_DROPPED;
}
