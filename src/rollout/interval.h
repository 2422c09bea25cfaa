/* Interval: how much worse a canary may still be, and how much better, to be shown beside what is
 * decided. From what was consumed, a while behind it. Functions run inside a store job. */
#ifndef GANTRY_ROLLOUT_INTERVAL_H
#define GANTRY_ROLLOUT_INTERVAL_H

#include "logic/rollout_spec.h"
#include "store/rollout_store.h"

#define INTERVAL_EVERY_MS 10000 /* they are some 20 KB a metric, so not with every tick */
#define INTERVAL_UNITS_MAX 4096 /* a group, at a time; more follow with the next tick */

/* Takes up what was consumed since, if it is time to, or at once. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int interval_tick(Db *db, const RolloutRow *row, const RolloutSpec *spec, int64_t now_ms,
                             bool at_once);

typedef enum {
    INTERVAL_NONE,       /* nothing is known, or no margin of its scale is possible */
    INTERVAL_DIFFERENCE, /* harm of the canary less (its ratio times) that of the stable version */
    INTERVAL_RATIO,      /* harm of the canary over that of the stable version, less 1 */
} IntervalKind;

/* Of both ends; NaN: beyond four margins. */
typedef struct {
    IntervalKind kind;
    double from, to;
} IntervalShown;

/* By metric of the plan; none where nothing was taken up yet. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int interval_show(Db *db, int64_t rollout_seq, const RolloutSpec *spec,
                             IntervalShown ret[EVIDENCE_METRICS_MAX]);

#endif
