/* Watermark: when it is known what became of a unit.
 *
 * Tasks end in any order, and quick ones first: taken as they come, early evidence would be biased
 * towards them. So units are consumed in the order in which they were assigned, up to the first
 * whose fate is open. That none stays open for ever is what this rule sees to:
 *
 *   ended, or escalated           counts, as it was then for the first time, whatever a person
 *                                 answers, or has tried again; in the judged group once it has
 *                                 every score that is asked for; when the time for that is over
 *                                 with the scores it has, and if it has none, or no result, it is
 *                                 dropped
 *   running beyond its limit      counts as failed
 *   never started in time         dropped: it says nothing about its version
 *   canceled, or ended unstarted  dropped
 *   answered by a stand-in model  dropped: it says nothing about its version either
 *
 * A unit that counts without one of its scores is none to the metrics that go by it, and one like
 * any other to the rest: which metrics it is told to depends on which scores are there, never on
 * what any of them says, and it is told to all of them at its place in the order, at once.
 *
 * Dropping treats arms alike; where it does not, the sample ratio of consumed units shows it
 * (logic/evidence.h). Pure; any thread.
 */
#ifndef GANTRY_LOGIC_WATERMARK_H
#define GANTRY_LOGIC_WATERMARK_H

#include "logic/evidence.h"
#include "logic/task.h"

#define WATERMARK_WAIT_MS (INT64_C(60) * 60 * 1000)     /* to start, and to be scored */
#define WATERMARK_RUN_MS (INT64_C(24) * 60 * 60 * 1000) /* of a task without a limit */

typedef enum { FATE_OPEN, FATE_COUNTS, FATE_FAILED, FATE_DROPPED, FATE_N_ } Fate;

/* What is known of a unit's task. */
typedef struct {
    TaskState state;
    bool degraded;
    bool scored; /* every score that is asked for is there, or will not come */
    bool partly; /* one is there at least, or fails to be for a grader alone */
    int64_t eligible_ms;
    int64_t started_at_ms;  /* 0: it never was */
    int64_t finished_at_ms; /* 0: it has not */
    int64_t deadline_at_ms; /* when it is stopped at the latest; 0: it has no limit */
} UnitNews;

/* wait_ms: how long a unit may take to start, and to be scored. */
Fate watermark_fate(const UnitNews *news, EvidenceGroup group, int64_t wait_ms, int64_t now_ms);

#endif
