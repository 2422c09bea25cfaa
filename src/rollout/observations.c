#include "rollout/observations.h"

#include <stdlib.h>

typedef struct {
    Db *db;
    const RolloutRow *row;
    const RolloutSpec *spec;
    int64_t now_ms;
} Reading;

static bool is_consumed(const RolloutRow *row, EvidenceGroup group, RolloutCursor at)
{
    const RolloutCursor *to = &row->cursors[group];
    return at.eligible_ms < to->eligible_ms ||
           (at.eligible_ms == to->eligible_ms && at.task_seq <= to->task_seq);
}

static uint32_t bits_of(const RolloutSpec *spec, EvidenceGroup group)
{
    uint32_t bits = 0;
    for (size_t m = 0; m < spec->evidence.metrics_n; m++)
        if (spec->evidence.metrics[m].group == group) bits |= UINT32_C(1) << m;
    return bits;
}

/* Adds the harm that the group consumed of the outcome, if it did. */
static void add_group(const Reading *rd, EvidenceGroup group, const RolloutOutcome *outcome,
                      const double *scores, const GatherTold *told, EvidenceUnit *unit)
{
    EvidenceUnit part;
    RolloutOutcome o = *outcome;
    if (!is_consumed(rd->row, group, o.at)) return;
    if (!gather_unit(rd->spec, &rd->row->baseline, group, &o, scores, told, rd->now_ms, &part))
        return;
    uint32_t bits = part.has & bits_of(rd->spec, group);
    for (size_t m = 0; m < rd->spec->evidence.metrics_n; m++)
        if (bits & UINT32_C(1) << m) unit->harm[m] = part.harm[m];
    unit->has |= bits;
}

static int observe(const Reading *rd, const RolloutOutcome *o, EvidenceUnit *ret)
{
    double scores[EVIDENCE_METRICS_MAX];
    GatherTold told;
    *ret = (EvidenceUnit){ .canary = o->canary, .pi = o->pi };
    if (!(o->pi > 0 && o->pi < 1)) return 0; /* nobody had a choice */
    int r = gather_scores(rd->db, rd->spec, o, scores, &told);
    if (r != 0) return r;
    add_group(rd, EVIDENCE_FAST, o, NULL, NULL, ret);
    add_group(rd, EVIDENCE_JUDGED, o, scores, &told, ret);
    return 0;
}

static int read_page(const Reading *rd, RolloutCursor after, Observation *list, size_t *ret_n,
                     RolloutCursor *ret_next)
{
    size_t n = OBSERVATIONS_MAX;
    CLEANUP(freep) RolloutOutcome *outcomes = xcalloc(n, sizeof(*outcomes));
    int r = rollout_outcomes(rd->db, rd->row->seq, after, rd->now_ms, outcomes, &n);
    for (size_t i = 0; i < n && r == 0; i++) {
        Observation *at = &list[*ret_n];
        at->at = outcomes[i].at;
        r = observe(rd, &outcomes[i], &at->unit);
        if (at->unit.has) (*ret_n)++;
    }
    if (r == 0 && n == OBSERVATIONS_MAX) *ret_next = outcomes[n - 1].at;
    return r;
}

int observations_list(Db *db, Str rollout_id, RolloutCursor after, int64_t now_ms, Arena *arena,
                      RolloutSpec **ret_spec, Observation **ret, size_t *ret_n,
                      RolloutCursor *ret_next)
{
    RolloutRow row;
    int r = rollout_get(db, rollout_id, arena, &row);
    if (r != 0) return r;
    RolloutSpec *spec = arena_zalloc(arena, sizeof(*spec));
    Observation *list = ARENA_ARRAY(arena, Observation, OBSERVATIONS_MAX);
    if (!spec || !list) return -ENOMEM;
    r = control_spec(&row, arena, spec);
    Reading rd = { .db = db, .row = &row, .spec = spec, .now_ms = now_ms };
    *ret_n = 0;
    *ret_next = (RolloutCursor){ 0 };
    if (r == 0) r = read_page(&rd, after, list, ret_n, ret_next);
    *ret_spec = spec;
    *ret = list;
    return r;
}
