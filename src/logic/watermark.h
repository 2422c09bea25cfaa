/* Watermark: outcomes of units in the order in which these were assigned.
 *
 * Tasks end in any order, and quick ones first: taken as they come, early evidence would be biased
 * towards them. So a unit's outcome is handed on only when every unit before it is resolved, at the
 * latest at its time limit, when it counts as failed. Units that cannot tell anything (canceled,
 * never started) are dropped, arms alike. A fixed ring: when it is full the next unit is refused
 * and is left out of the statistics (the caller counts those). Pure; owned by one fiber or thread.
 */
#ifndef GANTRY_LOGIC_WATERMARK_H
#define GANTRY_LOGIC_WATERMARK_H

#include "logic/evidence.h"

#define WATERMARK_MAX 4096

typedef enum { SLOT_OPEN, SLOT_RESOLVED, SLOT_DROPPED } SlotState;

typedef struct {
    SlotState state;
    int64_t limit_ms; /* when the unit counts as failed */
    EvidenceUnit unit;
} WatermarkSlot;

/* About 700 KB: on the heap of its owner. */
typedef struct {
    WatermarkSlot slots[WATERMARK_MAX];
    int64_t first, next; /* units first..next-1 are in; numbers are given from 0 on, without gaps */
} Watermark;

/* The next unit; its number in *ret_seq. False: the ring is full, nothing was added. */
MUST_CHECK bool watermark_add(Watermark *w, bool canary, double pi, int64_t limit_ms,
                              int64_t *ret_seq);

/* What became of a unit. False, and nothing happens, when it is not open any more (late news after
 * its limit, or told twice). has and harm as in EvidenceUnit; the arm stays what it was. */
bool watermark_resolve(Watermark *w, int64_t seq, uint32_t has, const double *harm, size_t harm_n);
bool watermark_drop(Watermark *w, int64_t seq);

/* Units past their limit count as failed: harm 1 in the metrics of on_limit, no other. Returns how
 * many did. */
int64_t watermark_expire(Watermark *w, int64_t now_ms, uint32_t on_limit);

/* The next unit whose turn it is; false when the first one is still open or none is in. */
bool watermark_take(Watermark *w, EvidenceUnit *ret);

#endif
