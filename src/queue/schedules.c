/* Tasks that come by themselves. A schedule's time is worth one task however often it is looked at,
 * by whomever: the task's idempotency key is made of both. */
#include "base/diag.h"
#include "base/log.h"
#include "codec/digest.h"
#include "codec/time_text.h"
#include "logic/schedule.h"
#include "queue/queue_private.h"
#include "store/idempotency_store.h"
#include "store/schedule_store.h"
#include "sys/zone.h"

#define FIRED_MAX 32 /* a tick */
#define ARENA_MAX ((size_t)8 << 20)

/* --- when ------------------------------------------------------------------------------------- */

/* False: it is of a newer program, and not due any more. */
static bool cron_of(const Schedule *s, Cron *ret)
{
    return cron_parse(s->cron, ret) == 0;
}

static CronZone cron_zone(const Zone *zone)
{
    return (CronZone){ zone_offset_of_ms, zone };
}

/* A zone that this system knows no more is taken for the server's. */
static CronZone zone_of(const Schedule *s)
{
    const Zone *zone = NULL;
    int r = zone_find(s->time_zone, &zone);
    if (r < 0) {
        LOG_WARN("a schedule is read in the server's time zone", LOG_STR("schedule", s->name),
                 LOG_CSTR("why", diag_text()));
        r = zone_find(STR_NULL, &zone);
    }
    if (r < 0) r = zone_find(STR("UTC"), &zone);
    assert(r == 0);
    return cron_zone(zone);
}

/* A schedule that the calendar has left behind is not to wait until that comes to it: it is due
 * with its next time, as if it had been set now. */
typedef struct {
    int64_t now_ms;
    int64_t moved;
} BackJob;

static int back_job(Db *db, void *arg)
{
    CLEANUP(arena_deinit) Arena arena;
    BackJob *job = arg;
    Schedule *rows;
    size_t n;
    job->moved = 0;
    arena_init(&arena, ARENA_MAX);
    int r = schedule_list(db, &arena, &rows, &n);
    for (size_t i = 0; i < n && r == 0; i++) {
        Cron cron;
        ScheduleFired moved = { .next_at_ms = rows[i].next_at_ms };
        const CronZone zone = zone_of(&rows[i]);
        if (cron_of(&rows[i], &cron))
            moved.next_at_ms = schedule_due_ms(&cron, rows[i].next_at_ms, job->now_ms, &zone);
        if (moved.next_at_ms == rows[i].next_at_ms) continue;
        r = schedule_move(db, &rows[i], &moved);
        job->moved++;
    }
    return r;
}

/* When a server begins, and when its calendar has been set back. */
static int schedules_look_wait(Queue *queue)
{
    int64_t calendar_ms = queue->calendar_ms;
    if (calendar_ms >= queue->schedules_looked_ms) {
        queue->schedules_looked_ms = calendar_ms;
        return 0;
    }
    BackJob job = { .now_ms = queue_now_ms(queue) };
    int r = store_call_wait(queue->store, back_job, &job);
    if (r != 0) return r;
    queue->schedules_looked_ms = calendar_ms;
    if (job.moved > 0)
        LOG_WARN("the clock was set back: schedules are due again",
                 LOG_INT("schedules", job.moved));
    return 0;
}

/* --- firing ----------------------------------------------------------------------------------- */

typedef struct {
    Queue *queue;
    int64_t now_ms;
    ScheduleBehind behind;
    Arena *arena;
    Schedule schedule;
    ScheduleFired fired;
    TaskHead last; /* the task of its last time */
    bool found, last_open;
    bool reserved, made; /* a place for a task, and that */
    bool gone;           /* it was set anew, paused or deleted since it was read */
    Effects effects;
} FireJob;

static int last_look(Db *db, FireJob *job)
{
    job->last_open = false;
    if (uuid_is_zero(job->schedule.last_task_id)) return 0;
    int r = task_head(db, job->schedule.last_task_id, &job->last);
    if (r == 0) job->last_open = !task_state_ended(job->last.state);
    return r == -ENOENT ? 0 : r; /* it has had its time */
}

static int due_job(Db *db, void *arg)
{
    FireJob *job = arg;
    int r = schedule_due(db, job->now_ms, &job->behind, job->arena, &job->schedule);
    job->found = r == 0;
    if (r == 0) return last_look(db, job);
    return r == -ENOENT ? 0 : r;
}

static void decide(FireJob *job)
{
    const Schedule *s = &job->schedule;
    Cron cron;
    job->fired = (ScheduleFired){ .at_ms = s->next_at_ms, .fired = true };
    if (!cron_of(s, &cron)) return;
    const CronZone zone = zone_of(s);
    ScheduleStep step = schedule_step(&cron, s->missed, s->next_at_ms, job->now_ms, &zone);
    job->fired.skipped = step.fires &&
                         schedule_skips(s->overlap, job->last_open, s->last_at_ms, step.at_ms);
    job->fired.fired = step.fires && !job->fired.skipped;
    job->fired.at_ms = step.at_ms;
    job->fired.next_at_ms = step.next_at_ms;
}

static int key_of(const FireJob *job, Arena *arena, Str *ret_key, Str *ret_print)
{
    uint8_t *print = arena_alloc(arena, SHA256_BYTES);
    *ret_key = arena_printf(arena, "gantry.schedule:%.*s:%" PRId64, STR_ARG(job->schedule.name),
                            job->fired.at_ms);
    if (!print || !ret_key->ptr) return -ENOMEM;
    sha256(*ret_key, print);
    *ret_print = str_make((const char *)print, SHA256_BYTES);
    return 0;
}

static int task_submit(Db *db, FireJob *job, Arena *arena, Str key, Str print)
{
    const Schedule *s = &job->schedule;
    char at[TIME_TEXT_MAX];
    SubmitJob submit = { .queue = job->queue, .now_ms = queue_now_ms(job->queue) };
    TaskNew task = { .agent = s->agent,
                     .lane = s->lane,
                     .input = s->input,
                     .metadata = arena_printf(arena,
                                              "{\"schedule\":\"%.*s\",\"scheduledFor\":\"%s\"}",
                                              STR_ARG(s->name), time_format(job->fired.at_ms, at)),
                     .due_at_ms = s->task_ms ? submit.now_ms + s->task_ms : 0,
                     .idempotency_key = key,
                     .fingerprint = print };
    if (!task.metadata.ptr) return -ENOMEM;
    submit.task = &task;
    int r = submit_choose(db, &submit, arena);
    if (r == 0) r = submit_insert(db, &submit);
    job->made = r == 0;
    job->fired.task_id = submit.summary.id;
    return r;
}

/* The task of its time, or the one that there is already. */
static int task_make(Db *db, FireJob *job)
{
    CLEANUP(arena_deinit) Arena arena;
    Str key, print;
    bool same;
    arena_init(&arena, ARENA_MAX);
    int r = key_of(job, &arena, &key, &print);
    if (r == 0) r = idempotency_get(db, STR_NULL, key, print, &job->fired.task_id, &same);
    return r == -ENOENT ? task_submit(db, job, &arena, key, print) : r;
}

static int last_replace(Db *db, FireJob *job)
{
    bool own = uuid_eq(job->last.id, job->fired.task_id);
    if (job->schedule.overlap != OVERLAP_REPLACE || !job->last_open || own) return 0;
    return task_cancel_for(job->queue, db, &job->last, STR("schedule"), queue_now_ms(job->queue),
                           &job->effects);
}

/* All in one transaction: whenever it is looked at, the last task is the one it knows of. Where no
 * place was taken for a task none is made, though the last one may have ended meanwhile. */
static int fire_job(Db *db, void *arg)
{
    FireJob *job = arg;
    job->effects = (Effects){ 0 };
    job->made = job->gone = false;
    int r = schedule_still(db, &job->schedule);
    job->gone = r == -ENOENT;
    if (r != 0) return job->gone ? 0 : r;
    if (job->reserved) {
        r = last_look(db, job);
        decide(job);
    }
    if (r == 0 && job->fired.fired) {
        r = task_make(db, job);
        if (r == 0) r = last_replace(db, job);
    }
    return r == 0 ? schedule_move(db, &job->schedule, &job->fired) : r;
}

static int move_job(Db *db, void *arg)
{
    FireJob *job = arg;
    return schedule_move(db, &job->schedule, &job->fired);
}

/* A place for the task in its lane. */
static int reserve(Queue *queue, FireJob *job)
{
    int r = queue_room(queue);
    if (r == 0) r = queue_reserve(queue, job->schedule.lane);
    job->reserved = r == 0;
    return r;
}

/* With the place that was taken for it. */
static int fire(Queue *queue, FireJob *job)
{
    int r = store_call_wait(queue->store, fire_job, job);
    bool made = r == 0 && job->made;
    if (job->reserved && !made) queue_unreserve(queue, job->schedule.lane);
    if (made) queue_submitted(queue, job->schedule.lane, false);
    if (r == 0) queue_apply(queue, &job->effects);
    return r;
}

/* It did not fire, and will not for this time. */
static int pass_over(Queue *queue, FireJob *job)
{
    job->fired.error = arena_str(job->arena, str_of(diag_text()));
    LOG_WARN("schedule did not fire", LOG_STR("schedule", job->schedule.name),
             LOG_STR("why", job->fired.error));
    job->fired.task_id = (Uuid){ { 0 } };
    return store_call_wait(queue->store, move_job, job);
}

/* Returns 0, QUEUE_E_FULL (of the lane or the disk: it stays due), -errno. */
static int fire_one(Queue *queue, FireJob *job)
{
    decide(job);
    int r = job->fired.fired ? reserve(queue, job) : 0;
    if (r == 0) r = fire(queue, job);
    if (r == -ENOSPC) r = QUEUE_E_FULL;
    if (r < 0 || r == QUEUE_E_FULL) return r;
    if (job->gone) return 0;
    bool failed = r > 0;
    if (failed) r = pass_over(queue, job);
    pthread_mutex_lock(&queue->lock);
    queue->stats.schedules_fired += job->fired.fired && !failed;
    queue->stats.schedules_failed += failed;
    queue->stats.schedules_skipped += job->fired.skipped;
    queue->stats.schedules_missed += !job->fired.fired && !job->fired.skipped;
    pthread_mutex_unlock(&queue->lock);
    return r;
}

/* One whose lane is full does not hold up those behind it, however many there are: they are looked
 * at and passed over. */
int schedules_tick_wait(Queue *queue)
{
    CLEANUP(arena_deinit) Arena kept;
    ScheduleBehind behind = { .name = STR("") };
    int looked = schedules_look_wait(queue);
    arena_init(&kept, ARENA_MAX);
    if (looked != 0) return looked;
    for (int fired = 0, i = 0; fired < FIRED_MAX && i < SCHEDULES_MAX; i++) {
        CLEANUP(arena_deinit) Arena arena;
        FireJob job = {
            .queue = queue, .now_ms = queue_now_ms(queue), .behind = behind, .arena = &arena
        };
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
    Cron cron;
    PutJob job = { .given = schedule, .made = *schedule, .arena = arena };
    job.made.updated_at_ms = now_ms;
    job.made.next_at_ms = 0;
    const CronZone zone = zone_of(schedule);
    if (!schedule->paused && cron_of(schedule, &cron))
        job.made.next_at_ms = schedule_first_ms(&cron, now_ms, &zone);
    int r = store_call_wait(queue->store, put_job, &job);
    if (r == 0) *ret = job.made;
    if (r == QUEUE_E_SCHEDULES) queue_count(queue, &queue->stats.schedules_refused);
    return r;
}
