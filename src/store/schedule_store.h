/* Schedules: when an agent gets a task by itself. Functions run inside a store job. Unless they say
 * more, they return 0 or -errno with diag.
 */
#ifndef GANTRY_STORE_SCHEDULE_STORE_H
#define GANTRY_STORE_SCHEDULE_STORE_H

#include "codec/uuid.h"
#include "logic/lane.h"
#include "logic/schedule.h"
#include "store/db.h"

#define SCHEDULES_MAX 1000
#define SCHEDULE_NAME_BYTES_MAX 64

const char *missed_policy_name(MissedPolicy policy);
MUST_CHECK int missed_policy_from(Str name, MissedPolicy *ret); /* 0 or -EINVAL */
const char *overlap_policy_name(OverlapPolicy policy);
MUST_CHECK int overlap_policy_from(Str name, OverlapPolicy *ret); /* 0 or -EINVAL */

typedef struct {
    Str name, agent, cron;
    Str input;     /* JSON */
    Str time_zone; /* in which cron is read; empty: the process's */
    Lane lane;
    MissedPolicy missed;
    OverlapPolicy overlap;
    int64_t task_ms; /* deadline of each task, from its submission on; 0: none */
    bool paused;
    int64_t next_at_ms; /* 0: never */
    int64_t updated_at_ms;
    int64_t last_at_ms; /* the time it fired for last; 0: never */
    Uuid last_task_id;  /* zero: none */
    Str last_error;     /* why there is none; may be empty */
    int64_t skipped;    /* times passed over because the task of the last one went on */
} Schedule;

/* Adds it, or replaces what it says of the one of that name, whose last_... and skipped stay.
 * Returns 0, SCHEDULE_E_FULL (there are SCHEDULES_MAX others), -errno. */
#define SCHEDULE_E_FULL 1
MUST_CHECK int schedule_put(Db *db, const Schedule *schedule);
/* Texts live in arena. Returns 0, -ENOENT, -ENOMEM, -errno. */
MUST_CHECK int schedule_get(Db *db, Str name, Arena *arena, Schedule *ret);
/* Behind which one to look: next_at_ms 0 and an empty name: from the first on. */
typedef struct {
    int64_t next_at_ms;
    Str name;
} ScheduleBehind;

/* The one that is due the longest at now_ms; likewise. */
MUST_CHECK int schedule_due(Db *db, int64_t now_ms, const ScheduleBehind *behind, Arena *arena,
                            Schedule *ret);
/* By name, at most SCHEDULES_MAX, without their inputs. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int schedule_list(Db *db, Arena *arena, Schedule **ret, size_t *ret_n);
/* Returns 0, -ENOENT, -errno. */
MUST_CHECK int schedule_delete(Db *db, Str name);

/* What came of its time at_ms; it is next due at next_at_ms. Does nothing when it was changed since
 * it was read. */
typedef struct {
    int64_t at_ms, next_at_ms;
    bool fired;   /* last_... are to be kept */
    bool skipped; /* to be counted */
    Uuid task_id;
    Str error;
} ScheduleFired;
MUST_CHECK int schedule_move(Db *db, const Schedule *schedule, const ScheduleFired *fired);

/* Whether it is as it was read: not moved, set anew or deleted since. Returns 0, -ENOENT (it is
 * not), -errno. */
MUST_CHECK int schedule_still(Db *db, const Schedule *schedule);

#endif
