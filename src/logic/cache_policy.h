/* Cache policy: whose answers are kept, what tells one request from another, and which answers are
 * worth keeping.
 *
 * The cache is exact: an answer is served again only to the same tenant's same version of the same
 * agent, for a request that a provider could not tell from the first. Operators opt in, agent by
 * agent, and say so knowingly: a request that samples (temperature above 0) gets its first answer
 * again. A running-out budget switches it on for everybody (logic/degrade.h).
 *
 * Streamed and plain answers are kept apart: what is served is what was once sent, byte for byte,
 * and a stream stays a stream.
 *
 * Pure; any thread.
 */
#ifndef GANTRY_LOGIC_CACHE_POLICY_H
#define GANTRY_LOGIC_CACHE_POLICY_H

#include "base/buf.h"
#include "codec/digest.h"
#include "logic/cap.h"
#include "logic/request_info.h"

#define CACHE_TTL_MS_DEFAULT INT64_C(3600000)
#define CACHE_BYTES_MAX_DEFAULT (INT64_C(64) << 20)
#define CACHE_AGENTS_MAX 64
/* An answer may take at most this part of the cache: one must not drive out all others. */
#define CACHE_ENTRY_SHARE 8
/* Top-level members of a request; one with more has no key. */
#define CACHE_MEMBERS_MAX 128

/* What the operator says, read-only once made. */
typedef struct {
    const char *const *agents; /* globs (logic/glob.h) of agents that opted in */
    size_t agents_n;
    int64_t ttl_ms;    /* how long an answer is served; 0: CACHE_TTL_MS_DEFAULT */
    int64_t bytes_max; /* of one gateway's cache; 0: CACHE_BYTES_MAX_DEFAULT; < 0: no cache */
} CacheConfig;

int64_t cache_ttl_ms(const CacheConfig *config);
size_t cache_bytes_max(const CacheConfig *config);       /* 0: there is no cache */
size_t cache_entry_bytes_max(const CacheConfig *config); /* of one answer and what describes it */

/* Whether the agent's calls are looked up. forced: its budget asks for it. */
bool cache_is_on(const CacheConfig *config, Str agent, bool forced);

/* What a cache has done since it was made, and what it holds. */
typedef struct {
    uint64_t hits, misses;
    uint64_t stored, evicted, expired, purged;
    uint64_t too_large; /* answers that would have taken too much of it */
    int64_t bytes, entries;
} CacheFigures;

/* What is to be forgotten: everything, or what both parts that are given have in common. */
typedef struct {
    bool by_tenant, by_agent;
    Str tenant, agent;
} CachePurge;

bool cache_purge_fits(const CachePurge *purge, Str tenant, Str agent);

/* --- requests --------------------------------------------------------------------------------- */

/* Whether a request has an answer that holds for its repetition. Not when part of the input lies
 * with the provider (previous_response_id, conversation, prompt, references), when
 * the provider is to store the answer (store: true), when it searches or runs tools itself, or is
 * only to fill its cache. */
bool cache_request_ok(const RequestInfo *info, const Json *body);

/* What an answer depends on, and whose it is. */
typedef struct {
    Str tenant, agent, version_id;
    Api api;             /* the agent's */
    Api target_api;      /* the upstream's */
    Str provider, model; /* the upstream's; with a degraded call not what the body names */
    bool stream;
    Str anthropic_version, anthropic_beta; /* header fields that change what is answered */
    const Json *body;                      /* the request, as the agent sent it */
} CacheQuestion;

typedef struct {
    uint8_t bytes[SHA256_BYTES];
} CacheKey;

/* SHA-256 over all of the question, every part framed by its length. Of the body every member
 * counts, in the canonical form of RFC 8785, save those that name who asks and change nothing in
 * the answer:
 *   stream                                      is part of the key of its own
 *   user, safety_identifier, prompt_cache_key,  chat and embeddings; the Responses API repeats
 *   prompt_cache_retention, metadata            them in its answers, so there they count
 *   metadata                                    messages: it holds a user id
 * stream_options count: whether usage is sent is part of a stream. cache_control counts too.
 * scratch is cleared; it needs as much as the largest member in canonical form, at most six times
 * its text. Returns 0, -EINVAL (a number without a canonical form, too many members: such a request
 * is not cached) or -ENOMEM. */
MUST_CHECK int cache_key(const CacheQuestion *question, Buf *scratch, CacheKey *ret);

/* --- answers ---------------------------------------------------------------------------------- */

typedef struct {
    int status;
    bool complete; /* the provider said that it was finished, and it was recorded so */
    bool whole;    /* what the agent was sent is known to its last byte */
    bool as_asked; /* sent upstream as the agent wrote it: no output cap lowered, no tool taken */
    bool encoded;  /* content-encoding: not read */
    size_t bytes;  /* of the entry */
} CacheAnswer;

typedef enum {
    CACHE_KEEP,
    CACHE_UNFIT,     /* an error, cut, incomplete, or an answer to something else than was asked */
    CACHE_TOO_LARGE, /* more than cache_entry_bytes_max */
} CacheFate;

CacheFate cache_answer_fate(const CacheConfig *config, const CacheAnswer *answer);

/* Whether an answer that calls so many tools may be served to a task: the agent will run them, so
 * they count as those of a fresh answer would. While at least one tool call is left a fresh answer
 * may ask for any number, and at the cap for none. */
bool cache_hit_fits(const CapLimits *limits, const CapState *caps, int64_t tool_calls);

#endif
