#include "logic/cache_policy.h"

#include <stdlib.h>

#include "logic/glob.h"

int64_t cache_ttl_ms(const CacheConfig *config)
{
    assert(config->ttl_ms >= 0);
    return config->ttl_ms ? config->ttl_ms : CACHE_TTL_MS_DEFAULT;
}

size_t cache_bytes_max(const CacheConfig *config)
{
    if (config->bytes_max < 0) return 0;
    return (size_t)(config->bytes_max ? config->bytes_max : CACHE_BYTES_MAX_DEFAULT);
}

size_t cache_entry_bytes_max(const CacheConfig *config)
{
    return cache_bytes_max(config) / CACHE_ENTRY_SHARE;
}

bool cache_is_on(const CacheConfig *config, Str agent, bool forced)
{
    if (cache_bytes_max(config) == 0) return false;
    if (forced) return true;
    for (size_t i = 0; i < config->agents_n; i++)
        if (glob_match(str_of(config->agents[i]), agent)) return true;
    return false;
}

bool cache_purge_fits(const CachePurge *purge, Str tenant, Str agent)
{
    return (!purge->by_tenant || str_eq(purge->tenant, tenant)) &&
           (!purge->by_agent || str_eq(purge->agent, agent));
}

/* --- requests --------------------------------------------------------------------------------- */

bool cache_request_ok(const RequestInfo *info, const Json *body)
{
    if (info->hides_input || info->server_tools > 0 || info->no_output) return false;
    return !json_bool(json_get(body, "store"), false);
}

static bool names_who_asks(Api api, Str member)
{
    static const char *const openai[] = { "user", "safety_identifier", "prompt_cache_key",
                                          "prompt_cache_retention", "metadata" };
    if (api == API_MESSAGES) return str_eq(member, STR("metadata"));
    if (api == API_RESPONSES) return false;
    for (size_t i = 0; i < ARRAY_N(openai); i++)
        if (str_eq(member, str_of(openai[i]))) return true;
    return false;
}

/* Lengths in front: no two lists of parts give the same bytes. */
static void add_part(Sha256 *sha, Str part)
{
    uint8_t length[8];
    for (size_t i = 0; i < sizeof length; i++) length[i] = (uint8_t)((uint64_t)part.len >> (8 * i));
    sha256_add(sha, str_make((const char *)length, sizeof length));
    sha256_add(sha, part);
}

typedef struct {
    Str key;
    const Json *value;
} Member;

static int member_cmp(const void *a, const void *b)
{
    return str_cmp(((const Member *)a)->key, ((const Member *)b)->key);
}

/* The members that count, by name. Returns 0 or -EINVAL (too many). */
static int members_of(const CacheQuestion *question, Member members[CACHE_MEMBERS_MAX],
                      size_t *ret_n)
{
    size_t n = 0;
    for (JsonIter it = json_iter(question->body); json_next(&it);) {
        if (str_eq(it.key, STR("stream")) || names_who_asks(question->api, it.key)) continue;
        if (n == CACHE_MEMBERS_MAX) return -EINVAL;
        members[n++] = (Member){ it.key, it.value };
    }
    qsort(members, n, sizeof *members, member_cmp);
    *ret_n = n;
    return 0;
}

static int add_body(Sha256 *sha, const CacheQuestion *question, Buf *scratch)
{
    Member members[CACHE_MEMBERS_MAX];
    size_t n = 0;
    int r = members_of(question, members, &n);
    for (size_t i = 0; i < n && r == 0; i++) {
        buf_clear(scratch);
        r = json_canonical(members[i].value, scratch);
        if (r < 0) break;
        add_part(sha, members[i].key);
        add_part(sha, buf_str(scratch));
    }
    return r;
}

int cache_key(const CacheQuestion *question, Buf *scratch, CacheKey *ret)
{
    CLEANUP(sha256_deinit) Sha256 sha = { 0 };
    assert(question->api < API_N_ && question->target_api < API_N_);
    assert(json_type(question->body) == JSON_OBJECT);
    const char kind[] = { (char)('0' + (char)question->api),
                          (char)('0' + (char)question->target_api), question->stream ? 's' : 'p' };
    const Str parts[] = {
        STR("gantry-cache-1"),       question->tenant,         question->agent,
        question->version_id,        question->provider,       question->model,
        question->anthropic_version, question->anthropic_beta, str_make(kind, sizeof kind)
    };
    sha256_init(&sha);
    for (size_t i = 0; i < ARRAY_N(parts); i++) add_part(&sha, parts[i]);
    int r = add_body(&sha, question, scratch);
    if (r == 0) sha256_end(&sha, ret->bytes);
    return r;
}

/* --- answers ---------------------------------------------------------------------------------- */

CacheFate cache_answer_fate(const CacheConfig *config, const CacheAnswer *answer)
{
    if (answer->status != 200 || !answer->complete || !answer->as_asked || answer->encoded)
        return CACHE_UNFIT;
    /* an answer that was too large to be recorded is not whole */
    if (!answer->whole || answer->bytes > cache_entry_bytes_max(config)) return CACHE_TOO_LARGE;
    return CACHE_KEEP;
}

bool cache_hit_fits(const CapLimits *limits, const CapState *caps, int64_t tool_calls)
{
    assert(tool_calls >= 0);
    if (caps->tool_calls > limits->tool_calls) return false;
    return tool_calls == 0 || caps->tool_calls < limits->tool_calls;
}
