#include "rollout/serving.h"

#include "base/log.h"
#include "codec/time_text.h"
#include "store/event_store.h"
#include "store/version_store.h"

#define WORK_BYTES ((size_t)1 << 20)
#define DATA_BYTES 512

static int tell(Db *db, const Serving *s)
{
    static const char *const types[SERVING_N_] = { [SERVING_DRAINS] = "version.draining",
                                                   [SERVING_WARM] = "version.drained",
                                                   [SERVING_GONE] = "version.decommissioned" };
    CLEANUP(buf_deinit) Buf data;
    buf_init(&data, DATA_BYTES);
    JsonOut out = json_out(&data);
    json_out_object(&out);
    json_out_kstr(&out, "versionId", s->version_id);
    json_out_kcstr(&out, "state", serving_state_name(s->state));
    json_out_object_end(&out);
    LOG_INFO("a version is left", LOG_STR("agent", s->agent), LOG_STR("version", s->version_id),
             LOG_CSTR("state", serving_state_name(s->state)));
    return event_insert(db, &(Event){ .at_ms = s->since_ms,
                                      .type = str_of(types[s->state]),
                                      .agent = s->agent,
                                      .version_id = s->version_id,
                                      .subject = s->version_id,
                                      .data = buf_str(&data) });
}

static int become(Db *db, Serving *s, ServingState state, int64_t now_ms)
{
    s->state = state;
    s->since_ms = now_ms;
    int r = serving_set(db, s);
    return r == 0 ? tell(db, s) : r;
}

int serving_moved(Db *db, Str agent, int64_t now_ms)
{
    Serving *left = NULL;
    size_t n = 0;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, WORK_BYTES);
    int r = serving_mark(db, agent, now_ms);
    if (r == 0) r = serving_left(db, agent, &arena, &left, &n);
    for (size_t i = 0; r == 0 && i < n; i++) r = become(db, &left[i], SERVING_DRAINS, now_ms);
    return r;
}

/* --- every second ----------------------------------------------------------------------------- */

/* What follows for one that leaves. A warm one is left alone: to find that it has nothing is to
 * look at all that is queued. */
static int next_of(Db *db, const Serving *s, Serving *ret)
{
    bool target;
    *ret = *s;
    int r = serving_is_target(db, s, &target);
    if (r != 0 || (target && s->state == SERVING_WARM)) return r;
    r = serving_find_open(db, s, &ret->witness);
    if (r != 0) return r;
    if (ret->witness != 0) ret->state = SERVING_DRAINS; /* also one that was warm: they end first */
    else ret->state = target ? SERVING_WARM : SERVING_GONE;
    return 0;
}

typedef struct {
    int64_t now_ms;
    char after[VERSION_ID_LEN + 1], last[VERSION_ID_LEN + 1]; /* the page begins, ends with it */
    size_t n;                                                 /* of this page */
    bool changes;                                             /* something is to be written */
} TickJob;

static int step(Db *db, TickJob *job, const Serving *s, bool write)
{
    Serving next;
    int r = next_of(db, s, &next);
    if (r != 0) return r;
    bool moves = next.state != s->state, changes = moves || next.witness != s->witness;
    job->changes |= changes;
    if (!write || !changes) return 0;
    return moves ? become(db, &next, next.state, job->now_ms) : serving_set(db, &next);
}

static int page(Db *db, TickJob *job, bool write)
{
    Serving *rows = NULL;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, WORK_BYTES);
    int r = serving_leaving(db, STR_NULL, str_of(job->after), &arena, &rows, &job->n);
    for (size_t i = 0; r == 0 && i < job->n; i++) r = step(db, job, &rows[i], write);
    if (r == 0 && job->n > 0) str_copy(job->last, sizeof(job->last), rows[job->n - 1].version_id);
    return r;
}

static int look_job(Db *db, void *arg)
{
    return page(db, arg, false);
}

static int act_job(Db *db, void *arg)
{
    return page(db, arg, true);
}

int serving_tick_wait(Store *store, int64_t now_ms)
{
    TickJob job = { .now_ms = now_ms };
    do {
        job.changes = false;
        int r = store_read_wait(store, look_job, &job);
        if (r == 0 && job.changes) r = store_call_wait(store, act_job, &job);
        if (r != 0) return r;
        memcpy(job.after, job.last, sizeof(job.after));
    } while (job.n == SERVING_LIST_MAX);
    return 0;
}

/* --- showing ---------------------------------------------------------------------------------- */

int serving_load(Db *db, Str version_id, Arena *arena, ServingLoad *ret)
{
    *ret = (ServingLoad){ 0 };
    int r = serving_get(db, version_id, arena, &ret->serving);
    if (r != 0 || ret->serving.state == SERVING_TAKES || ret->serving.state == SERVING_GONE)
        return r;
    return serving_count(db, version_id, &ret->queued, &ret->running);
}

void serving_write(JsonOut *out, const ServingLoad *load)
{
    char at[TIME_TEXT_MAX];
    const Serving *s = &load->serving;
    json_out_object(out);
    json_out_kstr(out, "versionId", s->version_id);
    json_out_kcstr(out, "state", serving_state_name(s->state));
    json_out_kcstr(out, "since", time_format(s->since_ms, at));
    json_out_ki64(out, "queued", load->queued);
    json_out_ki64(out, "running", load->running);
    json_out_object_end(out);
}
