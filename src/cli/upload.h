/* Uploading an agent directory: shared by `version create` and `dev`. On a fiber. */
#ifndef GANTRY_CLI_UPLOAD_H
#define GANTRY_CLI_UPLOAD_H

#include "cli/client.h"

/* Packs DIR and posts it as a new version of the agent that its agent.yaml names. description may
 * be NULL. Returns EXIT_OK with the server's answer (201 new, 200 known), else an exit status after
 * saying why; warnings are printed too. */
MUST_CHECK int version_upload_wait(Client *client, const char *dir, const char *description,
                                   ClientAnswer *ret);

typedef struct {
    Str agent, version_id; /* in the client's arena */
    bool changed;          /* new tasks went elsewhere before */
    Str before;            /* the version they went to; may be empty */
    const char *left;      /* why new tasks go elsewhere still; NULL: they do not */
} Deployed;

/* The same, then routes the agent to it. gently: not when the version was there already and
 * somebody has taken the agent away from it since, or is bringing it to it by a rollout. */
MUST_CHECK int upload_and_route_wait(Client *client, const char *dir, bool gently, Deployed *ret);

#endif
