/* Rollback: one verb for everything back. What was there before is read in the transaction that
 * acts, so a rollout that completes meanwhile is gone back from too. */
#include "rollout/control.h"
#include "rollout/serving.h"
#include "rollout/settings.h"
#include "store/agent_store.h"
#include "store/version_store.h"

/* Queued tasks of a version that is left, and running ones if they are to stop. */
static int leave_version(Db *db, const ControlBack *back, Str from, Str to, unsigned *ret_actions)
{
    int64_t n;
    if (str_eq(from, to)) return 0;
    int r = rollout_rebind(db, from, to, &n);
    *ret_actions |= ROLLOUT_DO_ROUTE | ROLLOUT_DO_REBIND;
    if (r != 0 || !back->kill) return r;
    *ret_actions |= ROLLOUT_DO_KILL;
    return rollout_kill(db, from, &n);
}

static int go_to(Db *db, const ControlBack *back, Str to, Arena *arena, const Agent *agent,
                 unsigned *ret_actions)
{
    Version version;
    Str settings;
    int r = version_get(db, to, arena, &version);
    if (r != 0) return r;
    r = settings_of_manifest(arena, version.manifest, &settings);
    if (r == 0) r = routing_set(db, back->agent, version.id, back->now_ms);
    if (r == 0) r = agent_set_settings(db, back->agent, settings);
    if (r == 0) r = serving_moved(db, back->agent, back->now_ms);
    return r == 0 ? leave_version(db, back, agent->version_id, version.id, ret_actions) : r;
}

int control_rollback(Db *db, const ControlBack *back, Arena *arena, unsigned *ret_actions)
{
    Agent agent;
    RolloutRow active;
    int r = agent_get(db, back->agent, arena, &agent);
    if (r != 0) return r;
    int found = rollout_active(db, back->agent, arena, &active);
    if (found != 0 && found != -ENOENT) return found;
    r = control_end(db, back->agent, COMMAND_ABORT, back->actor, back->now_ms, ret_actions);
    if (r == 0 && found == 0 && back->kill)
        r = leave_version(db, back, active.version_id, active.control_id, ret_actions);
    if (r != 0 || (found == 0 && str_empty(back->to))) return r;
    Str to = str_empty(back->to) ? agent.previous_version_id : back->to;
    return str_empty(to) ? CONTROL_E_NO_PREVIOUS : go_to(db, back, to, arena, &agent, ret_actions);
}
