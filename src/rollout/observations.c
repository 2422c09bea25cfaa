#include "rollout/observations.h"

#include <stdlib.h>

#define ROWS_MAX ((size_t)OBSERVATIONS_MAX * EVIDENCE_GROUPS_N_)

static_assert(EVIDENCE_GROUPS_N_ == 2, "a full page that ends amid a unit has units to spare");

/* Nobody had a choice, or nothing is said. */
static bool is_mute(const EvidenceUnit *unit)
{
    return !(unit->pi > 0 && unit->pi < 1) || unit->has == 0;
}

static void add_group(EvidenceUnit *unit, const EvidenceUnit *part)
{
    for (size_t m = 0; m < EVIDENCE_METRICS_MAX; m++)
        if (part->has >> m & 1) unit->harm[m] = part->harm[m];
    unit->has |= part->has;
}

/* The unit of the row at *i and of those that follow; *i becomes the next unit's. */
static Observation unit_at(const RolloutConsumed *rows, size_t n, size_t *i)
{
    Observation o = { .at = rows[*i].at,
                      .unit = { .canary = rows[*i].unit.canary, .pi = rows[*i].unit.pi } };
    for (; *i < n && rows[*i].at.task_seq == o.at.task_seq; (*i)++)
        add_group(&o.unit, &rows[*i].unit);
    return o;
}

static int read_page(Db *db, int64_t rollout_seq, RolloutCursor after, Observation *list,
                     size_t *ret_n, RolloutCursor *ret_next)
{
    size_t n = ROWS_MAX, i = 0, units = 0;
    CLEANUP(freep) RolloutConsumed *rows = xcalloc(n, sizeof(*rows));
    int r = rollout_consumed_list(db, rollout_seq, after, EVIDENCE_GROUPS_N_, rows, &n);
    if (r != 0) return r;
    for (; i < n && units < OBSERVATIONS_MAX; units++) {
        list[*ret_n] = unit_at(rows, n, &i);
        if (!is_mute(&list[*ret_n].unit)) (*ret_n)++;
    }
    if (n > 0 && units == OBSERVATIONS_MAX) *ret_next = rows[i - 1].at;
    return 0;
}

int observations_list(Db *db, Str rollout_id, RolloutCursor after, Arena *arena,
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
    *ret_n = 0;
    *ret_next = (RolloutCursor){ 0 };
    if (r == 0) r = read_page(db, row.seq, after, list, ret_n, ret_next);
    *ret_spec = spec;
    *ret = list;
    return r;
}
