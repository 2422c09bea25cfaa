/* Tasks that come by themselves. A schedule's time is worth one task however often it is looked at,
 * by whomever: the task's idempotency key is made of both. */
#include "base/diag.h"
#include "base/log.h"
#include "codec/digest.h"
#include "codec/time_text.h"
#include "logic/cron.h"
#include "queue/queue_private.h"
#include "store/schedule_store.h"
#include "sys/zone.h"

#define FIRED_MAX 32 /* a tick */
#define ARENA_MAX ((size_t)8 << 20)

/* --- when ------------------------------------------------------------------------------------- */

/* Later than that a time counts as missed: a server ticks every second. */
#define LATE_MS 60000
#define CATCH_UP_MS (INT64_C(24) * 3600 * 1000) /* what is missed for longer is passed over */
#define AGO_MS 2000 /* a schedule that is set just after its time has fired, or fires now */

static int64_t next_of(const Schedule *s, int64_t after_ms)
{
    Cron cron;
    if (cron_parse(s->cron, &cron) < 0) return 0; /* of a newer program */
    int64_t at_ms = cron_next(&cron, after_ms, zone_offset_ms);
    return at_ms == INT64_MAX ? 0 : at_ms;
}

/* The last time that is not after now_ms, from at_ms on; by days, for it may be long ago. */
static int64_t last_until(const Schedule *s, int64_t at_ms, int64_t now_ms)
{
    int64_t from_ms = now_ms;
    for (int64_t back_ms = LATE_MS; from_ms > at_ms; back_ms *= 4) {
        from_ms = MAX(at_ms, now_ms - back_ms);
        int64_t next_ms = next_of(s, from_ms - 1);
        if (next_ms != 0 && next_ms <= now_ms) at_ms = next_ms;
        if (at_ms >= from_ms) break;
    }
    for (int64_t next_ms = at_ms; next_ms != 0 && next_ms <= now_ms; next_ms = next_of(s, next_ms))
        at_ms = next_ms;
    return at_ms;
}

/* --- firing ----------------------------------------------------------------------------------- */

typedef struct {
    int64_t now_ms;
    ScheduleBehind behind;
    Arena *arena;
    Schedule schedule;
    ScheduleFired fired;
    bool found;
} FireJob;

static int due_job(Db *db, void *arg)
{
    FireJob *job = arg;
    int r = schedule_due(db, job->now_ms, &job->behind, job->arena, &job->schedule);
    job->found = r == 0;
    return r == -ENOENT ? 0 : r;
}

static int move_job(Db *db, void *arg)
{
    FireJob *job = arg;
    return schedule_move(db, &job->schedule, &job->fired);
}

static int submit(Queue *queue, FireJob *job)
{
    const Schedule *s = &job->schedule;
    char at[TIME_TEXT_MAX];
    uint8_t print[SHA256_BYTES];
    TaskSummary summary;
    Str key = arena_printf(job->arena, "gantry.schedule:%.*s:%" PRId64, STR_ARG(s->name),
                           job->fired.at_ms);
    Str metadata = arena_printf(job->arena, "{\"schedule\":\"%.*s\",\"scheduledFor\":\"%s\"}",
                                STR_ARG(s->name), time_format(job->fired.at_ms, at));
    if (!key.ptr || !metadata.ptr) return -ENOMEM;
    sha256(key, print);
    TaskNew task = { .agent = s->agent,
                     .lane = s->lane,
                     .input = s->input,
                     .metadata = metadata,
                     .idempotency_key = key,
                     .fingerprint = str_make((const char *)print, sizeof print) };
    int r = queue_submit_wait(queue, &task, &summary);
    if (r == 0) job->fired.task_id = summary.id;
    return r;
}

/* What a due schedule does now: fires for at_ms, or not at all, and when it is next due. */
static void decide(FireJob *job)
{
    const Schedule *s = &job->schedule;
    bool late = s->next_at_ms < job->now_ms - LATE_MS;
    job->fired = (ScheduleFired){ .at_ms = s->next_at_ms, .fired = true };
    if (late && s->missed != MISSED_ALL) {
        job->fired.at_ms = last_until(s, s->next_at_ms, job->now_ms);
        bool fresh = job->fired.at_ms >= job->now_ms - LATE_MS; /* this one was not missed */
        job->fired.fired = fresh || s->missed == MISSED_ONCE;
    }
    if (s->missed == MISSED_ALL && s->next_at_ms < job->now_ms - CATCH_UP_MS) {
        job->fired.at_ms = last_until(s, s->next_at_ms, job->now_ms - CATCH_UP_MS);
        job->fired.fired = false;
    }
    job->fired.next_at_ms = next_of(s, job->fired.at_ms);
}

/* Returns 0, QUEUE_E_FULL (of the lane or the disk: it stays due), -errno. */
static int fire_one(Queue *queue, FireJob *job)
{
    decide(job);
    int r = job->fired.fired ? submit(queue, job) : 0;
    if (r == -ENOSPC) r = QUEUE_E_FULL;
    if (r < 0 || r == QUEUE_E_FULL) return r;
    if (r > 0) {
        job->fired.error = arena_str(job->arena, str_of(diag_text()));
        LOG_WARN("schedule did not fire", LOG_STR("schedule", job->schedule.name),
                 LOG_STR("why", job->fired.error));
    }
    pthread_mutex_lock(&queue->lock);
    queue->stats.schedules_fired += job->fired.fired && r == 0;
    queue->stats.schedules_failed += r > 0;
    queue->stats.schedules_missed += !job->fired.fired;
    pthread_mutex_unlock(&queue->lock);
    return store_call_wait(queue->store, move_job, job);
}

/* One whose lane is full does not hold up those behind it, however many there are: they are looked
 * at and passed over. */
int schedules_tick_wait(Queue *queue)
{
    CLEANUP(arena_deinit) Arena kept;
    ScheduleBehind behind = { .name = STR("") };
    arena_init(&kept, ARENA_MAX);
    for (int fired = 0, i = 0; fired < FIRED_MAX && i < SCHEDULES_MAX; i++) {
        CLEANUP(arena_deinit) Arena arena;
        FireJob job = { .now_ms = queue_now_ms(queue), .behind = behind, .arena = &arena };
        arena_init(&arena, ARENA_MAX);
        int r = store_read_wait(queue->store, due_job, &job);
        if (r != 0 || !job.found) return r;
        r = fire_one(queue, &job);
        if (r < 0) return r;
        fired += r != QUEUE_E_FULL;
        if (r != QUEUE_E_FULL) continue;
        behind.next_at_ms = job.schedule.next_at_ms;
        behind.name = arena_str(&kept, job.schedule.name);
        if (!behind.name.ptr) return -ENOMEM;
    }
    return 0;
}

/* --- setting ---------------------------------------------------------------------------------- */

typedef struct {
    const Schedule *given;
    Schedule made;
    Arena *arena;
} PutJob;

static int put_job(Db *db, void *arg)
{
    PutJob *job = arg;
    Str agent = job->given->agent;
    int r = agent_check(db, agent);
    if (r == -ENOENT)
        return diag_set(QUEUE_E_NO_AGENT, "there is no agent \"%.*s\"", STR_ARG(agent));
    if (r == 0) r = schedule_put(db, &job->made);
    if (r == SCHEDULE_E_FULL)
        return diag_set(QUEUE_E_SCHEDULES, "there are %d schedules already", SCHEDULES_MAX);
    return r != 0 ? r : schedule_get(db, job->made.name, job->arena, &job->made);
}

int queue_schedule_put_wait(Queue *queue, const Schedule *schedule, Arena *arena, Schedule *ret)
{
    int64_t now_ms = queue_now_ms(queue);
    PutJob job = { .given = schedule, .made = *schedule, .arena = arena };
    job.made.updated_at_ms = now_ms;
    job.made.next_at_ms = schedule->paused ? 0 : next_of(schedule, now_ms - AGO_MS);
    int r = store_call_wait(queue->store, put_job, &job);
    if (r == 0) *ret = job.made;
    return r;
}
