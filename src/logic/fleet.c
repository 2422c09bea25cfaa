#include "logic/fleet.h"

typedef struct {
    int64_t young, working; /* of this generation, not draining; of these, those that work */
    int64_t old;            /* index of one of an earlier generation, or -1 */
    int64_t idlest; /* index of the young one that runs least, of several the latest, or -1 */
} Count;

static bool is_idler(const FleetMember *m, const FleetMember *than)
{
    if (m->running != than->running) return m->running < than->running;
    return m->started_ms >= than->started_ms;
}

static Count count(const Fleet *fleet, const FleetMember *members, size_t n)
{
    Count c = { .old = -1, .idlest = -1 };
    for (size_t i = 0; i < n; i++) {
        const FleetMember *m = &members[i];
        if (m->state == MEMBER_DRAINING) continue;
        if (m->generation != fleet->generation) {
            if (c.old < 0) c.old = (int64_t)i;
            continue;
        }
        c.young++;
        c.working += m->state == MEMBER_WORKING;
        if (c.idlest < 0 || is_idler(m, &members[c.idlest])) c.idlest = (int64_t)i;
    }
    return c;
}

FleetPlan fleet_plan(Fleet *fleet, const FleetRule *rule, const FleetMember *members, size_t n,
                     int64_t wanted, int64_t now_ms)
{
    assert(rule->min >= 0 && rule->max >= rule->min && rule->max <= FLEET_MAX);
    int64_t target = MIN(MAX(wanted, rule->min), rule->max);
    Count c = count(fleet, members, n);
    FleetPlan plan = { .drain = -1 };
    bool due = fleet->drained_at_ms == 0 || now_ms - fleet->drained_at_ms >= rule->down_every_ms;
    int64_t room = MAX(2 * rule->max - (int64_t)n, 0); /* with those that drain */
    if (c.young < target && now_ms >= fleet->rest_until_ms)
        plan.start = MIN(MIN(target - c.young, MAX(c.young, 1)), room);
    bool makes_room = room == 0 && c.young < target; /* replaced again before it was done */
    if (c.old >= 0 && (c.working >= target || makes_room)) plan.drain = c.old;
    else if (c.old < 0 && c.young > target && due) plan.drain = c.idlest;
    if (plan.drain >= 0) fleet->drained_at_ms = now_ms;
    return plan;
}

bool fleet_look(const FleetRule *rule, FleetMember *m, bool listed, int64_t now_ms)
{
    assert(rule->hung_ms > 0);
    if (listed) {
        if (m->state == MEMBER_STARTING) m->state = MEMBER_WORKING;
        m->missed_ms = 0;
        return false;
    }
    if (!m->missed_ms) m->missed_ms = now_ms;
    int64_t times = m->state == MEMBER_STARTING ? FLEET_START_TIMES : 1;
    return now_ms - m->missed_ms >= times * rule->hung_ms;
}

void fleet_unseen(FleetMember *m)
{
    m->missed_ms = 0;
}

void fleet_failed(Fleet *fleet, int64_t now_ms)
{
    int64_t rest_ms = FLEET_REST_MS;
    if (now_ms - fleet->failed_at_ms >= FLEET_STABLE_MS + FLEET_REST_MS_MAX) fleet->failures = 0;
    for (int64_t i = 0; i < fleet->failures && rest_ms < FLEET_REST_MS_MAX; i++) rest_ms *= 2;
    fleet->failures++;
    fleet->failed_at_ms = now_ms;
    fleet->rest_until_ms = now_ms + MIN(rest_ms, FLEET_REST_MS_MAX);
}

void fleet_replace(Fleet *fleet)
{
    fleet->generation++;
}
