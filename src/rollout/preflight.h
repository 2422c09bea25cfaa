/* Preflight: what is checked of a version before it gets a task.
 *
 *   version     is stored, is the agent's, and its parts still make its id
 *   artifact    its packed code is there and undamaged
 *   prompt      is there, when the manifest names one; its digest is shown
 *   tools       are declared, and a builtin agent can run all of them
 *   model       every model is served by a configured provider, at a known price
 *   provider    takes connections
 *   shadow      (where the plan has one) no tool that writes is run by the agent's own code
 *   baseline    the stable version has done enough tasks to measure harm from
 *   units       where these are users or tenants, enough have been seen lately for even arms
 *   evaluation  the version's scored tasks are as good as the rollout block wants
 *
 * Each passes, fails, warns and holds up nothing, or is skipped because there is nothing to check
 * or this server cannot know it. A rollout whose preflight was cut short by the end of the process
 * is checked anew.
 */
#ifndef GANTRY_ROLLOUT_PREFLIGHT_H
#define GANTRY_ROLLOUT_PREFLIGHT_H

#include "gateway/gateway_config.h"
#include "rollout/control.h"

#define PREFLIGHT_CHECKS_MAX 10
#define PREFLIGHT_UNITS_MIN 100 /* fewer users or tenants: the arms are uneven */
#define PREFLIGHT_CONNECT_MS 3000
#define PREFLIGHT_STALE_MS 10000 /* who began it is not at it any more */

typedef struct {
    Queue *queue;
    const GatewayConfig *models; /* borrowed; NULL: workers alone know them */
} PreflightOptions;

/* On a fiber. Checks a rollout that is in its preflight, and moves it on. *ret: as it is then.
 * Returns 0, -ENOENT (no such rollout), -ENOMEM, -errno. */
MUST_CHECK int preflight_run_wait(const PreflightOptions *options, Str rollout_id, Arena *arena,
                                  RolloutRow *ret);

/* The same for all that have been in it for PREFLIGHT_STALE_MS. */
MUST_CHECK int preflight_stale_wait(const PreflightOptions *options, int64_t now_ms);

#endif
