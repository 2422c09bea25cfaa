/* Gather: the evidence of a rollout, grown by what is resolved since. Functions run inside a store
 * job; texts live in the arena given. */
#ifndef GANTRY_ROLLOUT_GATHER_H
#define GANTRY_ROLLOUT_GATHER_H

#include "logic/rollout_spec.h"
#include "logic/watermark.h"
#include "store/rollout_store.h"

#define GATHER_UNITS_MAX 1024 /* units a tick and group; more wait for the next */
#define GATHER_BATCH 256

/* On the heap: a store thread's stack is small. */
typedef struct {
    RolloutSpec spec;
    Evidence evidence;
    RolloutOutcome outcomes[GATHER_BATCH];
    double scores[EVIDENCE_METRICS_MAX]; /* of the unit at hand, by metric; NaN: none */
    bool changed;                        /* the evidence, or how far it reaches */
    int64_t history_n;                   /* without a baseline: tasks that are there for one */
    int64_t fates[FATE_N_];              /* of units consumed by this tick, in either group */
} Gather;

/* Reads the plan and the evidence, and consumes what is resolved; the row's cursors move along.
 * What is consumed is recorded: evidence of another build is gathered anew from that. Returns 0,
 * -EINVAL (the plan), -ENOMEM, -errno. */
MUST_CHECK int gather(Db *db, Gather *g, RolloutRow *row, int64_t now_ms, Arena *arena);

/* The plans of a stored rollout. */
MUST_CHECK int control_spec(const RolloutRow *row, Arena *arena, RolloutSpec *ret);

/* Harm of an outcome in every metric of the plan; ret->has says which: none that is measured from a
 * baseline that was not there when the unit was eligible. scores: by metric, of those
 * that are judged; NULL: none. */
void gather_harm(const RolloutSpec *spec, const RolloutBaseline *baseline,
                 const RolloutOutcome *outcome, const double *scores, EvidenceUnit *ret);

/* A task that still runs beyond its limit is taken as it stands, and as timed out. */
void gather_overdue(RolloutOutcome *outcome, int64_t now_ms);

/* What is known of the scores that a plan asks for. */
typedef struct {
    bool judged;     /* it asks for some */
    bool complete;   /* none is missing, nor given up */
    bool any;        /* one is there */
    bool all;        /* none is missing, and no grader is still to be heard */
    bool waits;      /* for its graders */
    bool untold;     /* of one that is not there a grader could not tell, so it will not come */
    uint32_t hushed; /* bit m: the metric is not there, and a grader has not told it in time */
} GatherTold;

/* Scores of a task in the metrics that are judged: quality is the mean of all, any other goes by
 * its name; NaN where there is none. scores: by metric. Where a grader could not tell, there is no
 * quality, and none is missing: the mean of the others would flatter whoever makes graders fail. */
MUST_CHECK int gather_scores(Db *db, const RolloutSpec *spec, const RolloutOutcome *outcome,
                             double *scores, GatherTold *ret);

#define HISTORY_MAX 2000 /* tasks that a baseline is taken from */
#define HISTORY_MIN 20

/* From a version's last tasks. Without enough of them it is none: caps stand where limits usually
 * do, for who must have one. */
RolloutBaseline gather_baseline(RolloutOutcome *outcomes, size_t n);
MUST_CHECK int gather_history(Db *db, Str version_id, RolloutBaseline *ret);

/* The same from a version's first tasks, up to the first whose fate is open: those that happen to
 * be quick are no baseline. *ret_n: how many there are. wait_ms: as watermark_fate has it. */
MUST_CHECK int gather_first(Db *db, Str version_id, int64_t wait_ms, int64_t now_ms,
                            RolloutBaseline *ret, int64_t *ret_n);

/* Why the rollout measures nothing in some metric yet; empty: it does. */
Str gather_unmeasured(const Gather *g, const RolloutRow *row, Arena *arena);

#endif
