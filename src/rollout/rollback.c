/* Rollback: one verb for everything back. What was there before is read in the transaction that
 * acts, so a rollout that completes meanwhile is gone back from too. */
#include "rollout/control.h"
#include "rollout/settings.h"
#include "store/agent_store.h"
#include "store/version_store.h"

/* What has just gone back by itself is likely what somebody wants to go back from. */
#define JUST_BACK_MS (10 * 60 * INT64_C(1000))

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
    if (r != 0) return r;
    r = control_switch(db,
                       &(ControlSwitch){ .agent = back->agent,
                                         .version_id = version.id,
                                         .settings = settings,
                                         .actor = back->actor,
                                         .kind = SWITCH_ROLLBACK,
                                         .now_ms = back->now_ms },
                       arena);
    return r == 0 ? leave_version(db, back, agent->version_id, version.id, ret_actions) : r;
}

static bool just_went_back(const RolloutRow *row, int64_t now_ms)
{
    return row->state.state == ROLLOUT_ROLLED_BACK && now_ms - row->changed_at_ms < JUST_BACK_MS;
}

/* Where to go without being told. */
static int find_previous(Db *db, const ControlBack *back, const Agent *agent, Arena *arena,
                         Str *ret_to)
{
    RolloutRow *rows;
    size_t n;
    int r = rollout_list(db, back->agent, false, arena, &rows, &n);
    if (r != 0) return r;
    if (n > 0 && just_went_back(&rows[0], back->now_ms)) return CONTROL_E_JUST_BACK;
    *ret_to = agent->previous_version_id;
    return str_empty(*ret_to) ? CONTROL_E_NO_PREVIOUS : 0;
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
    Str to = back->to;
    if (str_empty(to)) r = find_previous(db, back, &agent, arena, &to);
    return r == 0 ? go_to(db, back, to, arena, &agent, ret_actions) : r;
}
