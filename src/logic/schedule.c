#include "logic/schedule.h"

static int64_t next_of(const Cron *cron, int64_t after_ms, const CronZone *zone)
{
    int64_t at_ms = cron_next(cron, after_ms, zone);
    return at_ms == INT64_MAX ? 0 : at_ms;
}

bool schedule_skips(OverlapPolicy overlap, bool last_open, int64_t last_at_ms, int64_t at_ms)
{
    return overlap == OVERLAP_SKIP && last_open && last_at_ms != at_ms;
}

int64_t schedule_first_ms(const Cron *cron, int64_t now_ms, const CronZone *zone)
{
    return next_of(cron, now_ms - SCHEDULE_AGO_MS, zone);
}

int64_t schedule_due_ms(const Cron *cron, int64_t due_ms, int64_t now_ms, const CronZone *zone)
{
    if (due_ms <= now_ms) return due_ms; /* never, or due */
    int64_t next_ms = next_of(cron, now_ms, zone);
    return next_ms == 0 ? due_ms : MIN(due_ms, next_ms);
}

/* The last time that is not after now_ms, from at_ms on; by days, for it may be long ago. */
static int64_t last_until(const Cron *cron, int64_t at_ms, int64_t now_ms, const CronZone *zone)
{
    int64_t from_ms = now_ms;
    for (int64_t back_ms = SCHEDULE_LATE_MS; from_ms > at_ms; back_ms *= 4) {
        from_ms = MAX(at_ms, now_ms - back_ms);
        int64_t next_ms = next_of(cron, from_ms - 1, zone);
        if (next_ms != 0 && next_ms <= now_ms) at_ms = next_ms;
        if (at_ms >= from_ms) break;
    }
    for (int64_t next_ms = at_ms; next_ms != 0 && next_ms <= now_ms;
         next_ms = next_of(cron, next_ms, zone))
        at_ms = next_ms;
    return at_ms;
}

ScheduleStep schedule_step(const Cron *cron, MissedPolicy missed, int64_t due_ms, int64_t now_ms,
                           const CronZone *zone)
{
    assert(missed < MISSED_N_ && due_ms > 0 && due_ms <= now_ms);
    ScheduleStep step = { .fires = true, .at_ms = due_ms };
    bool late = due_ms < now_ms - SCHEDULE_LATE_MS;
    if (late && missed != MISSED_ALL) {
        step.at_ms = last_until(cron, due_ms, now_ms, zone);
        bool fresh = step.at_ms >= now_ms - SCHEDULE_LATE_MS; /* this one was not missed */
        step.fires = fresh || missed == MISSED_ONCE;
    }
    if (missed == MISSED_ALL && due_ms < now_ms - SCHEDULE_CATCH_UP_MS) {
        step.at_ms = last_until(cron, due_ms, now_ms - SCHEDULE_CATCH_UP_MS, zone);
        step.fires = false;
    }
    step.next_at_ms = next_of(cron, step.at_ms, zone);
    return step;
}
