#include "rollout/drift_watch.h"

#include <math.h>
#include <stdio.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/json.h"
#include "codec/time_text.h"
#include "rollout/anchors.h"
#include "store/agent_store.h"
#include "store/event_store.h"
#include "store/rollup_store.h"
#include "store/version_store.h"

#define DAY_MS INT64_C(86400000)
#define NAMES_ARENA_MAX 65536
#define CAUSE_TEXT_MAX 128

typedef struct {
    const WatchConfig *config;
    int64_t now_ms;
    int64_t day_ms; /* being looked at; 0: find it */
    char agent[AGENT_NAME_BYTES_MAX + 1], version_id[VERSION_ID_LEN + 1]; /* done with it */
    bool ahead; /* the last day that was looked at is yet to come: the clock was ahead */
    bool done;  /* no day is left that is over */
    int64_t alarms;
} Step;

/* On the heap: a store thread's stack is small. */
typedef struct {
    Watch watch;
    WatchWork work;
    Rollup rollup;
    WatchAlarm alarms[WATCH_ALARMS_MAX];
} Room;

/* --- alarms ----------------------------------------------------------------------------------- */

static void kf64(JsonOut *out, const char *key, double value)
{
    json_out_key(out, key);
    json_out_f64(out, value);
}

static int event_add(Db *db, const Alarm *alarm, int64_t id)
{
    char subject[24];
    CLEANUP(buf_deinit) Buf data = { 0 };
    buf_init(&data, EVENT_DATA_BYTES_MAX);
    snprintf(subject, sizeof(subject), "%" PRId64, id);
    JsonOut out = json_out(&data);
    json_out_object(&out);
    json_out_ki64(&out, "alarmId", id);
    json_out_kstr(&out, "metric", alarm->metric);
    char at[TIME_TEXT_MAX];
    json_out_kcstr(&out, "day", time_format(alarm->day_ms, at));
    kf64(&out, "value", alarm->value);
    kf64(&out, "before", alarm->before);
    kf64(&out, "slopePerWeek", alarm->slope);
    kf64(&out, "p", alarm->p);
    json_out_kstr(&out, "text", alarm->text);
    json_out_kstr_or_null(&out, "cause", alarm->cause);
    json_out_object_end(&out);
    return event_insert(db, &(Event){ .at_ms = alarm->at_ms,
                                      .type = STR("drift.alarm"),
                                      .agent = alarm->agent,
                                      .version_id = alarm->version_id,
                                      .subject = str_of(subject),
                                      .data = buf_str(&data) });
}

int drift_alarm_tell(Db *db, const Alarm *alarm)
{
    int64_t id;
    LOG_WARN("drift", LOG_STR("agent", alarm->agent),
             LOG_STR("version", str_sub(alarm->version_id, 0, 12)), LOG_STR("why", alarm->text));
    int r = alarm_insert(db, alarm, &id);
    return r == 0 ? event_add(db, alarm, id) : r;
}

/* What has moved, in a word, and as the end of the sentence. */
typedef struct {
    Str name;
    char text[CAUSE_TEXT_MAX];
} Cause;

/* Whether the anchors of the agent's judges have moved, and whether there are any. */
static int judges_look(Db *db, Str agent, bool *ret_moved, bool *ret_charted)
{
    int r = alarm_any_open(db, agent, STR(ANCHOR_METRIC), ret_moved);
    return r == 0 ? anchor_chart_any(db, agent, ret_charted) : r;
}

/* The judge, the inputs, or else the agent: each is held against what it was before. */
static int cause_of(Db *db, Str agent, const WatchAlarm *raised, Cause *ret)
{
    bool scored = raised->metric == WATCH_QUALITY, judge = false, charted = false;
    int r = scored ? judges_look(db, agent, &judge, &charted) : 0;
    if (r != 0) return r;
    const char *alike = !scored   ? ""
                        : charted ? ", its judge's anchors have raised no alarm"
                                  : ", and no anchors tell of who scores it";
    if (judge) {
        ret->name = STR("judge");
        snprintf(ret->text, CAUSE_TEXT_MAX, " Cause: judge anchors moved%s.",
                 raised->inputs == WATCH_INPUTS_MOVED ? ", and so did the input mix" : "");
    } else if (raised->inputs == WATCH_INPUTS_MOVED) {
        ret->name = STR("inputs");
        snprintf(ret->text, CAUSE_TEXT_MAX, " Cause: input mix moved (distance %.2f)%s.",
                 raised->inputs_distance, alike);
    } else if (raised->inputs == WATCH_INPUTS_ALIKE) {
        ret->name = STR("agent");
        snprintf(ret->text, CAUSE_TEXT_MAX, " Cause: agent moved: the input mix has not%s.", alike);
    } else {
        snprintf(ret->text, CAUSE_TEXT_MAX, " Cause unknown: earlier inputs are not known%s.",
                 alike);
    }
    return 0;
}

static int alarm_tell(Db *db, const Step *step, const WatchedVersion *of, const WatchAlarm *raised)
{
    Cause cause = { .name = STR_NULL };
    char text[WATCH_TEXT_MAX + CAUSE_TEXT_MAX];
    int r = cause_of(db, of->agent, raised, &cause);
    if (r != 0) return r;
    snprintf(text, sizeof(text), "%s%s", raised->text, cause.text);
    Alarm alarm = { .agent = of->agent,
                    .version_id = of->version_id,
                    .metric = str_of(watch_metric_name(raised->metric)),
                    .day_ms = step->day_ms,
                    .at_ms = step->now_ms,
                    .value = raised->value,
                    .before = raised->before,
                    .slope = raised->slope,
                    .p = raised->p,
                    .text = str_of(text),
                    .cause = cause.name };
    return drift_alarm_tell(db, &alarm);
}

/* --- days ------------------------------------------------------------------------------------- */

/* What is known of it so far. */
static int watch_load(Db *db, const WatchedVersion *of, Watch *ret)
{
    int r = watch_get(db, of->agent, of->version_id, ret);
    if (r != -ENOENT && r != -EPROTO) return r;
    if (r == -EPROTO)
        LOG_WARN("drift of a version is watched from anew", LOG_STR("agent", of->agent));
    memset(ret, 0, sizeof(*ret));
    return 0;
}

static int version_day(Db *db, Step *step, const WatchedVersion *of, Room *room)
{
    RollupKey key = { ROLLUP_DAY, step->day_ms, of->agent, of->version_id };
    int r = rollup_get(db, &key, &room->rollup);
    if (r == -EPROTO) { /* the others have a day to be looked at too */
        LOG_WARN("drift of a version is not looked at", LOG_CSTR("why", diag_text_or(r)));
        return 0;
    }
    if (r == 0) r = watch_load(db, of, &room->watch);
    if (r != 0) return r;
    /* looked at when the clock was ahead */
    if (room->watch.last_day_ms > step->day_ms) room->watch.last_day_ms = 0;
    size_t n = watch_day(&room->watch, step->config, step->day_ms, &room->rollup, &room->work,
                         room->alarms);
    r = watch_put(db, of->agent, of->version_id, &room->watch);
    for (size_t i = 0; r == 0 && i < n; i++) r = alarm_tell(db, step, of, &room->alarms[i]);
    step->alarms += (int64_t)n;
    return r;
}

/* The day to look at, if it is over. */
static int find_day(Db *db, Step *step)
{
    int64_t last_ms = 0;
    if (step->day_ms > 0) return 0;
    int r = watch_last_day(db, &last_ms);
    step->ahead = r == 0 && last_ms > step->now_ms;
    if (step->ahead) return 0;
    if (r == 0) r = watch_next_day(db, last_ms, &step->day_ms);
    step->done = r == -ENOENT || (r == 0 && step->day_ms + DAY_MS + DRIFT_LAG_MS > step->now_ms);
    return r == -ENOENT ? 0 : r;
}

static int find_job(Db *db, void *arg)
{
    return find_day(db, arg);
}

/* Those before today were looked at then, too. */
static int go_back(Db *db, const Step *step)
{
    LOG_WARN("days are looked at for drift again: the clock was set back");
    return watch_set_last_day(db, step->now_ms - step->now_ms % DAY_MS - DAY_MS);
}

static int step_job(Db *db, void *arg)
{
    Step *step = arg;
    if (step->ahead) return go_back(db, step);
    WatchedVersion versions[DRIFT_VERSIONS_MAX];
    size_t n = DRIFT_VERSIONS_MAX;
    CLEANUP(freep) Room *room = xcalloc(1, sizeof(*room));
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, NAMES_ARENA_MAX);
    WatchedVersion after = { str_of(step->agent), str_of(step->version_id) };
    int r = watch_versions(db, step->day_ms, &after, &arena, versions, &n);
    for (size_t i = 0; r == 0 && i < n; i++) r = version_day(db, step, &versions[i], room);
    if (r != 0) return r;
    if (n < DRIFT_VERSIONS_MAX) {
        r = watch_set_last_day(db, step->day_ms);
        if (r == 0) r = watch_purge(db, step->now_ms - DRIFT_KEPT_MS);
        step->day_ms = 0;
        step->agent[0] = step->version_id[0] = '\0';
        return r;
    }
    str_copy(step->agent, sizeof(step->agent), versions[n - 1].agent);
    str_copy(step->version_id, sizeof(step->version_id), versions[n - 1].version_id);
    return 0;
}

int drift_watch_wait(Store *store, const WatchConfig *config, int64_t now_ms, int64_t *ret_alarms)
{
    Step step = { .config = config, .now_ms = now_ms };
    int r = 0;
    for (int i = 0; r == 0 && i < DRIFT_STEPS_MAX; i++) {
        Step before = step;
        r = store_read_wait(store, find_job, &step);
        if (r != 0 || step.done) break;
        before.day_ms = step.day_ms;
        r = store_call_wait(store, step_job, &step);
        if (r != 0) step.alarms = before.alarms;
    }
    if (ret_alarms) *ret_alarms = step.alarms;
    return r;
}

/* --- acknowledging ---------------------------------------------------------------------------- */

typedef struct {
    int64_t id, now_ms;
    Str by, note;
} Acknowledge;

static int acknowledge_job(Db *db, void *arg)
{
    const Acknowledge *ack = arg;
    Alarm alarm;
    WatchMetric metric;
    CLEANUP(freep) Watch *watch = xcalloc(1, sizeof(*watch));
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, NAMES_ARENA_MAX);
    int r = alarm_get(db, ack->id, &arena, &alarm);
    if (r == 0) r = alarm_acknowledge(db, ack->id, ack->by, ack->note, ack->now_ms);
    if (r == 0 && str_starts_with(alarm.metric, STR(ANCHOR_METRIC)))
        return anchor_chart_forget(db, alarm.agent, str_skip(alarm.metric, strlen(ANCHOR_METRIC)));
    if (r != 0 || watch_metric_from(alarm.metric, &metric) != 0) return r;
    r = watch_get(db, alarm.agent, alarm.version_id, watch);
    if (r != 0) return r == -ENOENT || r == -EPROTO ? 0 : r;
    watch_acknowledge(watch, metric);
    return watch_put(db, alarm.agent, alarm.version_id, watch);
}

int drift_acknowledge_wait(Store *store, int64_t id, Str by, Str note, int64_t now_ms)
{
    Acknowledge ack = { .id = id, .now_ms = now_ms, .by = by, .note = note };
    return store_call_wait(store, acknowledge_job, &ack);
}
