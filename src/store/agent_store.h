/* Agents and the version each of them routes to. Functions run inside a store job. */
#ifndef GANTRY_STORE_AGENT_STORE_H
#define GANTRY_STORE_AGENT_STORE_H

#include "codec/json.h"
#include "logic/retry.h"
#include "store/db.h"

#define AGENT_NAME_BYTES_MAX 63
#define AGENT_LIST_MAX 1000

typedef struct {
    Str name;
    Str settings; /* JSON object: "retry", "concurrency", "rollout", "graders"; "{}" when none were
                     given */
    Str version_id;          /* stable version, empty while nothing is deployed */
    Str previous_version_id; /* what a rollback without an argument goes to; may be empty */
    int64_t created_at_ms;
    int64_t routing_changed_at_ms; /* 0 while nothing is deployed */
} Agent;

/* The "retry" member of an agent's settings: {"maxAttempts", "initialMs", "factorMilli", "maxMs"}.
 * What is absent or no number keeps the default. */
void agent_retry_write(JsonOut *out, const RetryPolicy *policy); /* the object alone */
RetryPolicy agent_retry_read(const Json *settings);

/* The "concurrency" member: {"tasks", "perSession"}, how many tasks of the agent run at a time, and
 * of one session; 0: any number, -1 (not written): what is configured. */
typedef struct {
    int64_t tasks, per_session;
} AgentConcurrency;
#define AGENT_CONCURRENCY_DEFAULT ((AgentConcurrency){ -1, -1 })
void agent_concurrency_write(JsonOut *out, const AgentConcurrency *concurrency);

/* As last set. Returns 0, -ENOENT, -errno. */
MUST_CHECK int agent_concurrency(Db *db, Str name, AgentConcurrency *ret);

/* How many of its graders ask a judge. Returns 0, -ENOENT, -errno. */
MUST_CHECK int agent_judges(Db *db, Str name, int64_t *ret);

/* Adds the agent unless it is there. Returns 0 or -errno. */
MUST_CHECK int agent_ensure(Db *db, Str name, int64_t now_ms);

/* settings: JSON text, already checked. Returns 0, -ENOENT, -errno. */
MUST_CHECK int agent_set_settings(Db *db, Str name, Str settings);

/* Texts live in arena. Returns 0, -ENOENT, -ENOMEM (arena full), -errno. */
MUST_CHECK int agent_get(Db *db, Str name, Arena *arena, Agent *ret);

/* Whether there is such an agent: 0, -ENOENT, -errno. */
MUST_CHECK int agent_check(Db *db, Str name);

/* Settings of the agent of a task; live in arena. Returns 0, -ENOENT, -ENOMEM, -errno. */
MUST_CHECK int agent_settings_of_task(Db *db, int64_t task_seq, Arena *arena, Str *ret);

/* The name of the agent when exactly one exists. Returns 0, -ENOENT (none), AGENT_E_SEVERAL,
 * -errno. */
#define AGENT_E_SEVERAL 1
MUST_CHECK int agent_only(Db *db, Arena *arena, Str *ret);

/* All agents by name, at most AGENT_LIST_MAX. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int agent_list(Db *db, Arena *arena, Agent **ret, size_t *ret_n);

/* Those of them that have a judge among their graders. */
MUST_CHECK int agent_list_judging(Db *db, Arena *arena, Agent **ret, size_t *ret_n);

/* Makes version_id the stable version; what was stable becomes the previous one. Setting the same
 * version again changes nothing. Returns 0, -ENOENT (no such agent, or the version is not its own),
 * -errno. */
MUST_CHECK int routing_set(Db *db, Str agent, Str version_id, int64_t now_ms);

/* What was routed to before is nothing to go back to. Returns 0, -ENOENT (no such agent),
 * -errno. */
MUST_CHECK int routing_forget_previous(Db *db, Str agent);

/* The stable version id. Returns 0, -ENOENT (no such agent, or nothing deployed), -ENOMEM, -errno.
 */
MUST_CHECK int routing_get(Db *db, Str agent, Arena *arena, Str *ret_version_id);

#endif
