/* Degradation: what is given up, and in which order, while a budget runs low or models do not
 * answer.
 *
 *   remaining <= cache_at   the response cache is used for every agent
 *   remaining <= model_at   calls go to a smaller model
 *   remaining <= hold_at    calls of the low lane wait for the budget to recover
 *   nothing left            the budget itself refuses (402)
 *
 * Remaining is what is not settled of the tightest budget that applies: money that is only reserved
 * may come back and degrades nothing. A step is left again only when clearly more than its
 * threshold remains, so a call more or less does not change the model back and forth.
 *
 * A model whose breaker is open takes its calls down the same steps: the cache while another of the
 * call's models may be asked, then the small model, then the low lane waits for a probe, the others
 * are refused. It leaves them as soon as one of them may be asked.
 *
 * Shares are whole parts of a million (ppm). Pure; any thread.
 */
#ifndef GANTRY_LOGIC_DEGRADE_H
#define GANTRY_LOGIC_DEGRADE_H

#include "logic/lane.h"
#include "logic/price.h"

#define PPM_WHOLE INT64_C(1000000)
#define DEGRADE_CACHE_PPM_DEFAULT INT64_C(250000)
#define DEGRADE_MODEL_PPM_DEFAULT INT64_C(100000)
#define DEGRADE_HOLD_PPM_DEFAULT INT64_C(50000)

/* Thresholds of what remains, 0..PPM_WHOLE; 0: that step is never taken. */
typedef struct {
    int64_t cache_at_ppm, model_at_ppm, hold_at_ppm;
    const char *small_model; /* NULL: the agent's first fallback that is cheaper */
} DegradeConfig;

#define DEGRADE_CONFIG_DEFAULT                                              \
    ((DegradeConfig){ DEGRADE_CACHE_PPM_DEFAULT, DEGRADE_MODEL_PPM_DEFAULT, \
                      DEGRADE_HOLD_PPM_DEFAULT, NULL })

/* Each includes those before it that are configured. */
typedef enum { DEGRADE_NONE, DEGRADE_CACHE, DEGRADE_MODEL, DEGRADE_HOLD, DEGRADE_N_ } DegradeStep;
const char *degrade_step_name(DegradeStep step); /* "none", "cache", "model", "hold" */

/* What is not settled of limit, rounded down; 0 when settled is beyond it. limit >= 0: of a limit
 * of 0 nothing remains. */
int64_t degrade_remaining_ppm(int64_t limit, int64_t settled);

/* The tighter of two shares. */
int64_t degrade_tighter(int64_t a_ppm, int64_t b_ppm);

/* The step for what remains, coming from was (DEGRADE_NONE at first). Down at once, however far; up
 * only where more than the threshold and a fifth of it (at least 10,000 ppm) remains, and always
 * when all is there again. */
DegradeStep degrade_step(const DegradeConfig *config, DegradeStep was, int64_t remaining_ppm);

/* The step for breakers. asked, fallbacks, small: whether the model asked for, one of those that
 * stand in for it, the small one may be asked now. Of steps that are left out the next lower
 * one. */
DegradeStep degrade_step_unhealthy(const DegradeConfig *config, bool asked, bool fallbacks,
                                   bool small);

/* What a step means for one call. */
typedef struct {
    bool force_cache;
    bool small_model;
    bool hold; /* do not send it now */
} DegradeAction;
DegradeAction degrade_action(const DegradeConfig *config, DegradeStep step, Lane lane);

/* Whether other is cheaper than asked: no plain rate above, one below. NULL is not. */
bool degrade_is_cheaper(const Price *other, const Price *asked);

/* The index of the first cheaper one of n, or -1. Entries may be NULL (no price, no route). */
int degrade_choose(const Price *asked, const Price *const *others, size_t n);

#endif
