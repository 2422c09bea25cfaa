/* Shares: one limit among several workers, without a round trip a call.
 *
 * Each worker asks every so often, saying under which share it works, what of it is in use and what
 * more it wants, by lane; the answer is its share from then on, for a time. The sum of what workers
 * may still have never exceeds the limit: a share that is made smaller counts at its old size until
 * the worker says that it works under the new one, and at what it has used of it as long as that
 * counts for the provider; a worker that is not heard of keeps its share until its time is over,
 * and what it may have used keeps counting for as long as it would for the provider.
 *
 * What there is goes first to what is in use; then to what the first call in each worker's queue
 * needs, whole and one after the other, so that two large calls do not starve each other with half
 * of the limit each; then to what else is wanted, critical before normal before low and evenly
 * within a lane; what is left goes to all alike.
 *
 * Pure; times are of one clock that does not run backwards.
 */
#ifndef GANTRY_LOGIC_SHARE_H
#define GANTRY_LOGIC_SHARE_H

#include "logic/lane.h"

/* A worker's part in one limit, as the one who shares out knows it. Zeroed at first. */
typedef struct {
    int64_t held; /* the most it may have: counts against the limit */
    int64_t used; /* as it said */
    int64_t first, first_rank_ms;
    int64_t want[LANE_N_];
    int64_t expires_ms; /* of its share; 0: it has none */
    int64_t target;     /* private */
    bool served;        /* private */
} ShareHolder;

typedef struct {
    int64_t have;          /* the share it works under; 0 when its time is over */
    int64_t used;          /* what counts of it: sent within the window, or under way */
    int64_t first;         /* beyond that: of the call that is next; 0: none waits for this */
    int64_t first_late_ms; /* for how long it has been first, see logic/rate.h; may be negative */
    int64_t want[LANE_N_]; /* of all that wait, that one included */
} ShareAsk;

/* The time of a share, and for how long what was used of it counts after its end. */
typedef struct {
    int64_t ttl_ms, linger_ms;
} ShareTerms;

/* Answers holders[asker] (of n), and notes it. limit > 0; grow: whether it may get more than it
 * has. Returns its share, 0..limit. */
int64_t share_ask(ShareHolder *holders, size_t n, size_t asker, int64_t limit, const ShareAsk *ask,
                  const ShareTerms *terms, bool grow, int64_t now_ms);

/* The worker says goodbye: it sends nothing more, and has used so much. */
void share_leave(ShareHolder *holder, int64_t used, int64_t now_ms);

/* What still counts of it at now_ms. */
int64_t share_held(const ShareHolder *holder, const ShareTerms *terms, int64_t now_ms);

#endif
