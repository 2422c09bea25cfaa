/* Manifest: agent.yaml, read and checked whole.
 *
 * Members with their defaults ("-": required; none: absent stays absent):
 *
 *   apiVersion                    -         gantry/v1
 *   kind                          -         Agent
 *   metadata.name                 -         ^[a-z0-9][a-z0-9-]{0,62}$
 *   metadata.description          none      at most 1000 bytes; not part of the version
 *   spec.runtime                  process   process | server | builtin
 *   spec.command                  none      argv, 1..64 strings; process needs it, builtin has none
 *   spec.url                      none      server only: an agent that already runs elsewhere
 *   spec.code                     .         directory that is packed; never with url, and for
 *                                           builtin only where given: for its tools' commands
 *   spec.prompt                   none      file; builtin needs it
 *   spec.tools                    none      file, see logic/tools.h
 *   spec.model                    none      exact model id; builtin needs it; an alias is warned of
 *   spec.fallbacks                []        at most 8 model ids
 *   spec.sampling                 {}        see below
 *   spec.memory.window            20        0..1000 messages; 0: no memory
 *   spec.limits.tokensPerTask     200000    1..1e12
 *   spec.limits.toolCallsPerTask  40        0..1e6
 *   spec.limits.secondsPerTask    600       1..604800 (7 days)
 *   spec.limits.usdPerTask        "0.50"    money as text, above 0
 *   spec.limits.memoryBytes       none      16 MiB..1 TiB, see logic/resource.h for these
 *   spec.limits.cpuSeconds        none      1..604800
 *   spec.limits.processes         none      1..10000
 *   spec.limits.files             none      16..1048576
 *   spec.limits.outputBytes       none      1..8 MiB
 *   spec.limits.scratchBytes      none      4096..1 TiB
 *   spec.retry.maxAttempts        3         1..100
 *   spec.retry.backoff.initial    1s        0s..1h
 *   spec.retry.backoff.factor     2         1..10, three decimals at most
 *   spec.retry.backoff.max        5m        initial..24h
 *   spec.concurrency.tasks        as configured  0..100000 tasks of the agent at a time; 0: any
 *   spec.concurrency.perSession   as configured  0..100000 of a session; 1: one after another
 *   spec.rollout                  none      strategy canary (default) | blue-green | immediate;
 *                                           steps: 1..20 of {weight 1..100 (required), for 0s..30d,
 *                                           minTasks 0..1e9, gate}, weights rise and end at 100;
 *                                           rollbackOn: {metric: margin above 0}; metrics: {metric:
 *                                           {rollbackMargin, promoteMargin, ratio}};
 *                                           holdFor 0s..30d; deadline 0s..90d, onDeadline pause
 *                                           (default) | rollback
 *   spec.graders                  none      see logic/grade.h; not part of the version
 *
 * Sampling: temperature 0..2, topP 0..1, topK 1..1000, maxOutputTokens 1..1e9, seed (a whole number
 * within 2^53), stop (1..16 strings), presencePenalty and frequencyPenalty -2..2, reasoningEffort
 * none | minimal | low | medium | high | xhigh. What is absent is the provider's default.
 *
 * Paths are relative and stay inside the agent's directory. No text contains NUL. Unknown members
 * are errors. Pure; any thread. Everything in an AgentSpec lives in the arena.
 */
#ifndef GANTRY_LOGIC_MANIFEST_H
#define GANTRY_LOGIC_MANIFEST_H

#include "logic/issue.h"
#include "logic/resource.h"
#include "logic/retry.h"

#define MANIFEST_BYTES_MAX 65536
#define MANIFEST_COMMAND_MAX 64
#define MANIFEST_FALLBACKS_MAX 8
#define MANIFEST_STOP_MAX 16
#define MANIFEST_STEPS_MAX 20
#define MANIFEST_NAME_BYTES_MAX 63
#define MANIFEST_PATH_BYTES_MAX 255

typedef enum { RUNTIME_PROCESS, RUNTIME_SERVER, RUNTIME_BUILTIN, RUNTIME_N_ } Runtime;

/* How the model is asked; a has_ flag tells 0 from absent. */
typedef struct {
    bool has_temperature, has_top_p, has_seed;
    double temperature;
    double top_p;
    int64_t max_output_tokens; /* 0: absent */
    int64_t top_k;             /* 0: absent */
    int64_t seed;
    const Str *stop;
    size_t stop_n;
    const Json *json; /* the whole checked object, never NULL */
} AgentSampling;

/* The caps of one task. */
typedef struct {
    int64_t tokens;
    int64_t tool_calls;
    int64_t seconds;
    int64_t usd_nusd;
    ResourceLimits resources;
} AgentLimits;

typedef struct {
    Str name;
    Str description;
    Runtime runtime;
    const Str *command; /* argv */
    size_t command_n;
    Str url;
    Str code; /* "." or a directory; empty: nothing is packed */
    Str prompt;
    Str tools;
    Str model;
    const Str *fallbacks;
    size_t fallbacks_n;
    AgentSampling sampling;
    int64_t memory_window; /* messages */
    AgentLimits limits;
    RetryPolicy retry;
    int64_t tasks_max, session_max; /* spec.concurrency; -1: absent */
    const Json *rollout; /* the checked object as written (durations are text); NULL: absent */
    const Json *graders; /* likewise, an array */
} AgentSpec;

typedef Issue ManifestError;

#define MANIFEST_E_INVALID 1 /* errors[] says what is wrong */

/* Reads and checks yaml_text. errors[0..*ret_errors_n) are the findings in the order of the file,
 * warnings among them; what does not fit errors_max is dropped. Returns 0 (*ret is filled; there
 * may be warnings), MANIFEST_E_INVALID (at least one error, *ret untouched), -ENOMEM (the arena is
 * full; 16 times the text and 64 KiB are enough). */
MUST_CHECK int manifest_parse(Arena *arena, Str yaml_text, AgentSpec *ret, ManifestError *errors,
                              size_t errors_max, size_t *ret_errors_n);

/* Checks a rollout block that came on its own (a request, a plan file). path is where it stands in
 * its document, NULL at the top. Returns 0, MANIFEST_E_INVALID, -ENOMEM. */
MUST_CHECK int manifest_check_rollout(const Json *rollout, const IssuePath *path,
                                      IssueList *issues);

/* "process", "server", "builtin". */
const char *runtime_name(Runtime runtime);

/* ^[a-z0-9][a-z0-9-]{0,62}$: agents, budgets and other names that stand in URLs. */
bool agent_name_ok(Str name);

/* 1..128 bytes of [A-Za-z0-9._:/@+-], not beginning with one of "._-/:@+". */
bool model_id_ok(Str model);

/* Whether the provider may change what the id means without notice: "…-latest", "…:latest", OpenAI
 * ids without a date (gpt-4o, o3), Anthropic's undated aliases up to 4.5. A guess by form: ids of
 * self-hosted models and sim/… never count. */
bool model_is_floating(Str model);

/* Relative, inside its directory, no "..", no empty part, no backslash, no control character, at
 * most MANIFEST_PATH_BYTES_MAX. "." alone is allowed. */
bool agent_path_ok(Str path);

#endif
