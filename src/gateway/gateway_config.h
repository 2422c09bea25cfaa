/* Gateway configuration: upstream providers, and which of them serves which model at what price.
 *
 * Made once from gantry.yaml by whoever owns it, read-only afterwards, shared by all threads.
 */
#ifndef GANTRY_GATEWAY_GATEWAY_CONFIG_H
#define GANTRY_GATEWAY_GATEWAY_CONFIG_H

#include "base/str.h"
#include "logic/breaker.h"
#include "logic/cache_policy.h"
#include "logic/degrade.h"
#include "logic/price.h"
#include "logic/protocol.h"
#include "logic/replay.h"

typedef enum { GATEWAY_OPENAI, GATEWAY_ANTHROPIC, GATEWAY_PROTOCOL_N_ } GatewayProtocol;
const char *gateway_protocol_name(GatewayProtocol protocol); /* "openai", "anthropic" */

/* One upstream. A server that speaks both protocols is two of these. */
typedef struct {
    const char *name; /* shown in records and metrics */
    GatewayProtocol protocol;
    const char *base_url; /* openai: ends in /v1, anthropic: does not; no final slash */
    const char *key;      /* secret, never logged; NULL or "": none is sent */

    /* For models the table does not know, made whole by price_fill; NULL: such models are refused.
     */
    const Price *default_price;

    /* Which member this server looks for the output cap in: "max_completion_tokens" (NULL), or
     * "max_tokens" for servers that know only that: a cap sent in the other one is put there too.
     * OpenAI protocol only. */
    const char *cap_member;

    int64_t timeout_ms;         /* whole call; 0: 600 s */
    int64_t connect_timeout_ms; /* 0: 10 s */
    int64_t idle_timeout_ms;    /* silence after the request was sent; 0: timeout_ms */

    /* Rate limits of all its models together; calls wait for them. 0: none. */
    int64_t requests_per_minute_max, tokens_per_minute_max, concurrent_max;
    int64_t retries_max; /* attempts at a model after the first one failed; 0: none */

    bool simulated; /* the built-in simulator: said so in /gantry/v1/task and in records */
} GatewayProvider;

/* The first route whose glob matches the model and whose provider speaks the protocol of the call
 * wins. */
typedef struct {
    const char *match;            /* logic/glob.h */
    size_t provider;              /* index into providers */
    const char *const *fallbacks; /* models tried, in order, when this one fails */
    size_t fallbacks_n;
    /* Rate limits of each model by itself. 0: none. */
    int64_t requests_per_minute_max, tokens_per_minute_max, concurrent_max;
} GatewayRoute;

/* What becomes of a request that offers tools its version does not declare, or declares otherwise
 * (logic/tool_check.h). Versions without a tools file are not checked. */
typedef enum { GATEWAY_TOOLS_REFUSE, GATEWAY_TOOLS_REMOVE } GatewayUndeclared;
/* What is recorded of agents' calls, to be served to later attempts (logic/replay.h). The first
 * rule whose glob matches the agent holds; without one everything is recorded. */
typedef struct {
    const char *match; /* logic/glob.h */
    bool off;
    ReplayMask mask;
} GatewayJournalRule;

typedef struct {
    const GatewayProvider *providers;
    size_t providers_n;
    const GatewayRoute *routes;
    size_t routes_n;
    const GatewayJournalRule *journal_rules;
    size_t journal_rules_n;
    const PriceTable *prices; /* required; an empty one knows the built-in list */
    /* What the operator has models cost at most whose price nobody knows, made whole by price_fill;
     * NULL: they are refused. */
    const Price *ceiling_price;
    CacheConfig cache;     /* of responses */
    DegradeConfig degrade; /* while a budget runs low */
    GatewayUndeclared undeclared_tools;
    const Str *provider_tools; /* kinds of tools that providers may run, as globs */
    size_t provider_tools_n;
    const Str *provider_state; /* ids that every request may name at its provider, as globs */
    size_t provider_state_n;
    BreakerPolicy breaker;    /* of each model; calls_min 0: the default */
    int64_t waiting_max;      /* calls that may wait for a provider; 0: 10,000 */
    int64_t retry_burst;      /* retries at once, beyond one in ten calls; 0: 10 */
    int64_t retry_initial_ms; /* ceiling of the wait before the first retry; 0: 500 */
    /* A stream that waits is sent comments: the first so late, the next ones so often. 0: 5 s, 12 s
     */
    int64_t heartbeat_after_ms, heartbeat_every_ms;
    /* Bytes of requests that are in the gateway at once: of a task, of all; what does not fit waits
     * so long. 0: 64 MiB, 256 MiB, 30 s */
    int64_t request_bytes_task_max, request_bytes_max, request_wait_ms;
} GatewayConfig;
#define GATEWAY_TASK_BYTES_MAX ((size_t)64 << 20)
#define GATEWAY_ALL_BYTES_MAX ((size_t)256 << 20)

/* "chat", "responses", "messages", "embeddings" */
const char *gateway_api_name(Api api);
GatewayProtocol gateway_api_protocol(Api api);

/* The route of a model, or NULL. Any thread. */
const GatewayRoute *gateway_route(const GatewayConfig *config, Str model, GatewayProtocol protocol);

/* Provider and price of a model, also for pre-flight. prices: to look in, of gateway_prices();
 * NULL: those of the configuration alone. Returns 0, -ENOENT (no route; diag names the
 * fix) or -ENODATA (no price; diag names the fix; *ret_provider is set). Either ret may be NULL.
 * Any thread. */
MUST_CHECK int gateway_resolve(const GatewayConfig *config, const PriceTable *prices, Str model,
                               GatewayProtocol protocol, const GatewayProvider **ret_provider,
                               const Price **ret_price);

#endif
