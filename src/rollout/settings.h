/* Settings: what an agent takes over from a version when all its tasks go there: "retry",
 * "concurrency", "rollout" and "graders", as store/agent_store.h keeps them. Pure; any thread. */
#ifndef GANTRY_ROLLOUT_SETTINGS_H
#define GANTRY_ROLLOUT_SETTINGS_H

#include "logic/manifest.h"

/* Settings of a manifest that has been read; JSON text in the arena. Returns 0 or -ENOMEM. */
MUST_CHECK int settings_of_spec(Arena *arena, const AgentSpec *spec, Str *ret);

/* The same from a version's manifest. Also -EINVAL with diag: it is not valid. */
MUST_CHECK int settings_of_manifest(Arena *arena, Str manifest, Str *ret);

#endif
