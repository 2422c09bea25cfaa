/* Switch: all new tasks of an agent to one of its versions at once, without a rollout; and the
 * event that says so. */
#include "base/log.h"
#include "codec/json.h"
#include "rollout/control.h"
#include "rollout/serving.h"
#include "store/agent_store.h"
#include "store/event_store.h"

#define DATA_BYTES 2048

static const char *kind_name(SwitchKind kind)
{
    static const char *const names[SWITCH_N_] = { "first", "immediate", "rollback" };
    assert(kind < SWITCH_N_);
    return names[kind];
}

static int tell(Db *db, const ControlSwitch *s, Str from)
{
    CLEANUP(buf_deinit) Buf data;
    buf_init(&data, DATA_BYTES);
    JsonOut out = json_out(&data);
    json_out_object(&out);
    json_out_kstr_or_null(&out, "from", from);
    json_out_kstr(&out, "to", s->version_id);
    json_out_kcstr(&out, "kind", kind_name(s->kind));
    if (!str_empty(s->actor)) json_out_kstr(&out, "by", s->actor);
    json_out_object_end(&out);
    if (!json_out_ok(&out)) return -ENOMEM;
    LOG_INFO("an agent routes to another version", LOG_STR("agent", s->agent),
             LOG_STR("version", s->version_id), LOG_CSTR("kind", kind_name(s->kind)));
    return event_insert(db, &(Event){ .at_ms = s->now_ms,
                                      .type = STR("version.routed"),
                                      .agent = s->agent,
                                      .version_id = s->version_id,
                                      .subject = s->version_id,
                                      .data = buf_str(&data) });
}

int control_switch(Db *db, const ControlSwitch *s, Arena *arena)
{
    Agent agent;
    int r = agent_get(db, s->agent, arena, &agent);
    if (r == 0) r = routing_set(db, s->agent, s->version_id, s->now_ms);
    /* to go back once more would go forward, to what was left for a reason */
    if (r == 0 && s->kind == SWITCH_ROLLBACK) r = routing_forget_previous(db, s->agent);
    if (r == 0) r = agent_set_settings(db, s->agent, s->settings);
    if (r == 0) r = serving_moved(db, s->agent, s->now_ms);
    if (r != 0 || str_eq(agent.version_id, s->version_id)) return r;
    return tell(db, s, agent.version_id);
}
