/* Drift watch: looks at each day of each version once it is over, and raises alarms.
 *
 * A day is looked at DRIFT_LAG_MS after its end, when late scores are in. The position is durable
 * and moves in the transaction that stores what was learned and the alarms: a day counts once,
 * whatever dies in between. An alarm is a row, an event (`drift.alarm`, so a webhook) and a line of
 * the log.
 */
#ifndef GANTRY_ROLLOUT_DRIFT_WATCH_H
#define GANTRY_ROLLOUT_DRIFT_WATCH_H

#include "store/alarm_store.h"
#include "store/store.h"

#define DRIFT_LAG_MS (INT64_C(6) * 3600000)
#define DRIFT_VERSIONS_MAX 8 /* a transaction */
#define DRIFT_STEPS_MAX 64   /* transactions a call; what is left waits for the next */
#define DRIFT_KEPT_MS (INT64_C(120) * 86400000) /* a version without tasks is forgotten */

/* In a store job: keeps the alarm, with its event and a line of the log. Returns 0 or -errno. */
MUST_CHECK int drift_alarm_tell(Db *db, const Alarm *alarm);

/* On a fiber. Takes in the days that are over. ret_alarms (may be NULL): how many were raised.
 * Returns 0 or -errno with diag. */
MUST_CHECK int drift_watch_wait(Store *store, const WatchConfig *config, int64_t now_ms,
                                int64_t *ret_alarms);

/* On a fiber. Somebody has seen the alarm: its metric begins anew. Returns 0, -ENOENT (none open
 * of that id), -errno. */
MUST_CHECK int drift_acknowledge_wait(Store *store, int64_t id, Str by, Str note, int64_t now_ms);

#endif
