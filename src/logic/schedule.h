/* Schedule: what one does that is due, and when it is due next.
 *
 * Each of its times is worth one task, however often it is looked at: the task of a time that has
 * been there before is found again. Times that passed unseen (no server
 * ran, its lane was full, the calendar was set ahead) are missed; what becomes of them the policy
 * says. Where the calendar is set back, times come again: they are due again, and their tasks are
 * found. Pure; any thread. Times: Unix time.
 */
#ifndef GANTRY_LOGIC_SCHEDULE_H
#define GANTRY_LOGIC_SCHEDULE_H

#include "logic/cron.h"

/* Later than that a time counts as missed: a server looks every second. */
#define SCHEDULE_LATE_MS 60000
/* Times that were missed for longer are passed over in any case. */
#define SCHEDULE_CATCH_UP_MS (INT64_C(24) * 3600 * 1000)
/* One that is set just after its time has fired, or fires now. */
#define SCHEDULE_AGO_MS 2000

/* What becomes of times that were missed. */
typedef enum {
    MISSED_SKIP, /* nothing */
    MISSED_ONCE, /* one task, for the last of them */
    MISSED_ALL,  /* a task each */
    MISSED_N_
} MissedPolicy;

/* What becomes of a time that comes while the task of the last one has not ended. */
typedef enum {
    OVERLAP_ALLOW,   /* a task: both go on */
    OVERLAP_SKIP,    /* none */
    OVERLAP_REPLACE, /* a task, and the last one is canceled */
    OVERLAP_N_
} OverlapPolicy;

/* Whether the time is passed over: last_at_ms is that of the last task, which has not ended if
 * last_open. A time that has come again finds its own task. */
bool schedule_skips(OverlapPolicy overlap, bool last_open, int64_t last_at_ms, int64_t at_ms);

/* When one is due that is set, or looked at anew, at now_ms. 0: never. */
int64_t schedule_first_ms(const Cron *cron, int64_t now_ms, const CronZone *zone);

/* The same for one that is due at due_ms (0: never), which the calendar may have left far behind:
 * no later than its next time. */
int64_t schedule_due_ms(const Cron *cron, int64_t due_ms, int64_t now_ms, const CronZone *zone);

typedef struct {
    bool fires;         /* a task is made for at_ms; else times up to at_ms are passed over */
    int64_t at_ms;      /* from due_ms to now_ms */
    int64_t next_at_ms; /* then it is due again; 0: never */
} ScheduleStep;

/* One is due: due_ms <= now_ms. */
ScheduleStep schedule_step(const Cron *cron, MissedPolicy missed, int64_t due_ms, int64_t now_ms,
                           const CronZone *zone);

#endif
