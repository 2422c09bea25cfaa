/* Alarms of drift, and what is known of versions day by day (logic/watch.h). Functions run inside a
 * store job. Unless they say more, they return 0 or -errno with diag.
 */
#ifndef GANTRY_STORE_ALARM_STORE_H
#define GANTRY_STORE_ALARM_STORE_H

#include "logic/watch.h"
#include "store/db.h"

#define ALARM_LIST_MAX 500
#define ALARM_NOTE_BYTES_MAX 2000

/* --- days ------------------------------------------------------------------------------------- */

/* A version that has a rollup of a day. */
typedef struct {
    Str agent, version_id;
} WatchedVersion;

/* The day that was looked at last (its start); 0: none yet. */
MUST_CHECK int watch_last_day(Db *db, int64_t *ret_ms);
MUST_CHECK int watch_set_last_day(Db *db, int64_t day_ms);

/* Start of the first day after after_ms of which there is a rollup; -ENOENT. */
MUST_CHECK int watch_next_day(Db *db, int64_t after_ms, int64_t *ret_ms);

/* Versions of that day in order, after the one given (empty: from the first), at most *n, which
 * becomes their number; texts live in arena. Also -ENOMEM. */
MUST_CHECK int watch_versions(Db *db, int64_t day_ms, const WatchedVersion *after, Arena *arena,
                              WatchedVersion *ret, size_t *n);

/* Returns 0, -ENOENT, -EPROTO (of another build: to be begun anew), -errno. */
MUST_CHECK int watch_get(Db *db, Str agent, Str version_id, Watch *ret);
MUST_CHECK int watch_put(Db *db, Str agent, Str version_id, const Watch *watch);

/* Forgets what is known of the version: its days count anew. */
MUST_CHECK int watch_forget(Db *db, Str agent, Str version_id);

/* Forgets versions that had no day since. */
MUST_CHECK int watch_purge(Db *db, int64_t before_ms);

/* --- alarms ----------------------------------------------------------------------------------- */

typedef struct {
    int64_t id;
    Str agent, version_id;
    Str metric;
    int64_t day_ms, at_ms;          /* the day it is about, when it was raised */
    double value, before, slope, p; /* as in WatchAlarm */
    Str text;
    Str cause;                  /* "judge", "inputs" or "agent" has moved; empty: unknown */
    int64_t acknowledged_at_ms; /* 0: open */
    Str acknowledged_by, note;
} Alarm;

MUST_CHECK int alarm_insert(Db *db, const Alarm *alarm, int64_t *ret_id);

/* Newest first, at most ALARM_LIST_MAX; agent empty: all. Texts live in arena. Also -ENOMEM. */
MUST_CHECK int alarm_list(Db *db, Str agent, bool open_only, Arena *arena, Alarm **ret,
                          size_t *ret_n);

/* Whether one of the agent is open whose metric begins so. */
MUST_CHECK int alarm_any_open(Db *db, Str agent, Str metric_prefix, bool *ret);

/* Returns 0, -ENOENT, -ENOMEM, -errno. */
MUST_CHECK int alarm_get(Db *db, int64_t id, Arena *arena, Alarm *ret);

/* Returns 0, -ENOENT (no such alarm, or acknowledged before), -errno. */
MUST_CHECK int alarm_acknowledge(Db *db, int64_t id, Str by, Str note, int64_t now_ms);

#endif
