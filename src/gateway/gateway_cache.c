/* The exact response cache of a gateway: in memory, bounded in bytes, least recently used out
 * first. Which calls may be answered from it and whose answers are kept is logic/cache_policy.h.
 *
 * An entry that is being served is referred to, because serving switches fibers: it may be dropped
 * meanwhile, and its memory goes with the last reference. */
#include <stdlib.h>

#include "gateway/gateway_call.h"

#define JOIN_MS_MAX 60000 /* that a call waits for another's answer, at most half its patience */
#define ENTRY_OVERHEAD 64 /* of the map and the allocator, a guess */

typedef struct {
    ListNode node; /* on cache->used while it is in the map */
    CacheKey key;
    size_t refs; /* the map's, and one for each call that serves it */
    size_t bytes;
    int64_t expires_ms; /* clock_mono_ms */
    Buf data;           /* all texts below lie in it */
    Recording recording;
    Str tenant, agent;
    Str model_used, finish;
    Str tool_names[GATEWAY_TOOL_NAMES_MAX];
    size_t tool_names_n;
    int64_t tool_calls;
} Entry;

static Str key_str(const CacheKey *key)
{
    return str_make((const char *)key->bytes, sizeof key->bytes);
}

static void entry_unref(Entry *entry)
{
    assert(entry->refs > 0);
    if (--entry->refs > 0) return;
    buf_deinit(&entry->data);
    free(entry);
}

/* --- the table -------------------------------------------------------------------------------- */

void cache_init(Cache *cache, uint64_t seed)
{
    map_init(&cache->entries, seed);
    map_init(&cache->flights, ~seed);
    cond_init(&cache->landed);
    list_init(&cache->used);
}

static void drop(Cache *cache, Entry *entry)
{
    map_remove(&cache->entries, key_str(&entry->key));
    list_remove(&entry->node);
    atomic_fetch_sub(&cache->bytes, (int64_t)entry->bytes);
    atomic_fetch_sub(&cache->entries_n, 1);
    entry_unref(entry);
}

void cache_deinit(Cache *cache)
{
    LIST_EACH (&cache->used, node) drop(cache, CONTAINER_OF(node, Entry, node));
    map_deinit(&cache->entries);
    assert(cache->flights.n == 0);
    map_deinit(&cache->flights);
}

static Entry *find(Cache *cache, const CacheKey *key)
{
    Entry *entry = map_get(&cache->entries, key_str(key));
    if (!entry) return NULL;
    if (clock_mono_ms() >= entry->expires_ms) {
        atomic_fetch_add(&cache->expired, 1);
        drop(cache, entry);
        return NULL;
    }
    list_remove(&entry->node);
    list_push_back(&cache->used, &entry->node);
    return entry;
}

/* Takes the entry. The caller has made sure that it fits. */
static void put(Cache *cache, Entry *entry, size_t bytes_max)
{
    Entry *old = map_get(&cache->entries, key_str(&entry->key));
    if (old) drop(cache, old); /* two calls asked the same at a time */
    while ((size_t)atomic_load(&cache->bytes) + entry->bytes > bytes_max) {
        assert(!list_empty(&cache->used));
        atomic_fetch_add(&cache->evicted, 1);
        drop(cache, CONTAINER_OF(cache->used.next, Entry, node));
    }
    map_put(&cache->entries, key_str(&entry->key), entry);
    list_push_back(&cache->used, &entry->node);
    atomic_fetch_add(&cache->bytes, (int64_t)entry->bytes);
    atomic_fetch_add(&cache->entries_n, 1);
    atomic_fetch_add(&cache->stored, 1);
}

size_t gateway_cache_purge(Gateway *gateway, const CachePurge *purge)
{
    Cache *cache = &gateway->cache;
    size_t n = 0;
    LIST_EACH (&cache->used, node) {
        Entry *entry = CONTAINER_OF(node, Entry, node);
        if (!cache_purge_fits(purge, entry->tenant, entry->agent)) continue;
        drop(cache, entry);
        n++;
    }
    atomic_fetch_add(&cache->purged, n);
    return n;
}

CacheFigures gateway_cache_figures(const Gateway *gateway)
{
    const Cache *cache = &gateway->cache;
    return (CacheFigures){ .hits = atomic_load(&cache->hits),
                           .misses = atomic_load(&cache->misses),
                           .stored = atomic_load(&cache->stored),
                           .evicted = atomic_load(&cache->evicted),
                           .expired = atomic_load(&cache->expired),
                           .purged = atomic_load(&cache->purged),
                           .too_large = atomic_load(&cache->too_large),
                           .bytes = atomic_load(&cache->bytes),
                           .entries = atomic_load(&cache->entries_n) };
}

/* --- looking up ------------------------------------------------------------------------------- */

static int key_of(const ModelCall *call, const CallTarget *target, CacheKey *ret)
{
    const GatewayTaskOptions *options = &call->task->options;
    const GatewayRequest *request = call->request;
    CLEANUP(buf_deinit) Buf scratch;
    buf_init(&scratch, 6 * request->body.len + 64);
    CacheQuestion question = {
        .tenant = options->tenant_id,
        .agent = options->agent,
        .version_id = options->version_id,
        .api = call->info.api,
        .target_api = target->api,
        .provider = str_of(target->provider->name),
        .model = target->model,
        .stream = call->info.stream,
        .anthropic_version = request->anthropic_version,
        .anthropic_beta = request->anthropic_beta,
        .body = call->json,
    };
    return cache_key(&question, &scratch, ret);
}

/* What would refuse a fresh call before a model is asked refuses a hit too: then it is not served,
 * and the call goes on to be refused. Money and tokens do not count, because a hit costs none. */
static bool may_be_served(const ModelCall *call, const Entry *entry)
{
    const GatewayTask *task = call->task;
    if (call->begun && !entry->recording.streamed) return false; /* a stream was promised */
    return task->totals.stop == GATEWAY_STOP_NONE && !task_past_deadline(task) &&
           cache_hit_fits(&task->options.limits, &task->totals.caps, entry->tool_calls);
}

/* Whether only the budget asks for the cache. */
static bool is_forced(const ModelCall *call)
{
    return call->degrade.force_cache &&
           !cache_is_on(&call->task->gateway->config->cache, call->task->options.agent, false);
}

static void record_hit(ModelCall *call, const Entry *entry)
{
    call_record_begin(call);
    GatewayCall *record = &call->record;
    if (is_forced(call) && !record->degraded_by)
        record->degraded_by = gateway_degraded_name(GATEWAY_DEGRADED_CACHE);
    record->cached = true;
    record->status = entry->recording.status;
    record->model_used = entry->model_used;
    record->finish = entry->finish;
    record->usage.tool_calls = entry->tool_calls;
    memcpy(record->tool_names, entry->tool_names, sizeof record->tool_names);
    record->tool_names_n = entry->tool_names_n;
    if (call->keep_answer) record->answer = &entry->recording;
}

static int serve_wait(ModelCall *call, Entry *entry)
{
    entry->refs++;
    record_hit(call, entry);
    int r = call_close_served_wait(call);
    if (r == 0) {
        call->cache = CALL_CACHE_HIT;
        atomic_fetch_add(&call->task->gateway->cache.hits, 1);
        reply_recording_wait(call, &entry->recording, NULL);
    } else reply_problem_wait(call);
    call->record = (GatewayCall){ 0 }; /* it borrows from the entry */
    entry_unref(entry);
    return r < 0 ? r : CALL_E_ANSWERED;
}

/* What another of its models has answered, while the one asked for does not; call->target is that
 * one then. */
static Entry *find_stand_in(ModelCall *call)
{
    for (size_t i = 1; i < call->targets_n; i++) {
        CacheKey key;
        if (key_of(call, &call->targets[i], &key) < 0) continue;
        Entry *entry = find(&call->task->gateway->cache, &key);
        if (!entry || !may_be_served(call, entry)) continue;
        call->target = &call->targets[i];
        return entry;
    }
    return NULL;
}

int call_cache_wait(ModelCall *call)
{
    Cache *cache = &call->task->gateway->cache;
    const CacheConfig *config = &call->task->gateway->config->cache;
    assert(call->target == &call->targets[0]);
    call->cache = CALL_CACHE_OFF;
    if (call->task->options.shadow ||
        !cache_is_on(config, call->task->options.agent, call->degrade.force_cache) ||
        !cache_request_ok(&call->info, call->json) ||
        key_of(call, call->target, &call->cache_key) < 0)
        return 0;
    call->cache = CALL_CACHE_MISS;
    if (is_forced(call)) stats_degraded(call->task->gateway, GATEWAY_DEGRADED_CACHE);
    Entry *entry = find(cache, &call->cache_key);
    if (entry && may_be_served(call, entry)) return serve_wait(call, entry);
    if (call->unhealthy != DEGRADE_NONE && (entry = find_stand_in(call)))
        return serve_wait(call, entry);
    atomic_fetch_add(&cache->misses, 1);
    return 0;
}

/* --- the same call at a time ------------------------------------------------------------------ */

int call_cache_fly(ModelCall *call)
{
    Cache *cache = &call->task->gateway->cache;
    assert(!call->flying);
    if (call->cache != CALL_CACHE_MISS || call->target != &call->targets[0]) return 0;
    if (map_get(&cache->flights, key_str(&call->cache_key)))
        return call->joined ? 0 : CALL_E_FLIGHT;
    map_put(&cache->flights, key_str(&call->cache_key), call);
    call->flying = true;
    return 0;
}

void call_cache_land(ModelCall *call)
{
    Cache *cache = &call->task->gateway->cache;
    if (!call->flying) return;
    call->flying = false;
    map_remove(&cache->flights, key_str(&call->cache_key));
    cond_broadcast(&cache->landed);
}

/* Whether there is still a point in waiting for it. */
static bool is_joinable(const ModelCall *call, const ModelCall *other, int64_t began_us)
{
    const GatewayTask *task = call->task;
    const ModelCall *now = map_get(&task->gateway->cache.flights, key_str(&call->cache_key));
    return now == other && now->started_us == began_us && !call_flags_moved(call) &&
           task->totals.stop == GATEWAY_STOP_NONE && !task_past_deadline(task);
}

int call_cache_join_wait(ModelCall *call)
{
    Cache *cache = &call->task->gateway->cache;
    const ModelCall *other = map_get(&cache->flights, key_str(&call->cache_key));
    int64_t now_ms = clock_mono_ms(), left_ms = call_deadline_ms(call) - now_ms;
    int64_t until_ms = now_ms + MIN(MAX(left_ms / 2, 0), JOIN_MS_MAX);
    int64_t began_us = other ? other->started_us : 0;
    call->joined = true;
    while (other && is_joinable(call, other, began_us)) {
        int r = call_pause_wait(call, &cache->landed, until_ms);
        if (r == -ETIMEDOUT) return 0;
        if (r != 0) return r;
    }
    Entry *entry = find(cache, &call->cache_key);
    if (!entry || call_flags_moved(call) || !may_be_served(call, entry)) return 0;
    atomic_fetch_add(&cache->joined, 1);
    atomic_fetch_sub(&cache->misses, 1); /* it was none after all */
    return serve_wait(call, entry);
}

/* --- keeping ---------------------------------------------------------------------------------- */

static size_t texts_bytes(const ModelCall *call)
{
    const GatewayTaskOptions *options = &call->task->options;
    const GatewayCall *record = &call->record;
    size_t n = call->recording.body.len + options->tenant_id.len + options->agent.len +
               record->model_used.len + record->finish.len;
    for (size_t i = 0; i < record->tool_names_n; i++) n += record->tool_names[i].len;
    return n;
}

/* The data has room for all of it, so nothing moves. */
static Str keep(Entry *entry, Str text)
{
    size_t at = entry->data.len;
    bool kept = buf_add(&entry->data, text);
    assert(kept);
    return str_make(entry->data.ptr + at, text.len);
}

/* NULL when memory runs out. */
static Entry *entry_new(const ModelCall *call, const CacheKey *key)
{
    const GatewayTask *task = call->task;
    const GatewayCall *record = &call->record;
    Entry *entry = xcalloc(1, sizeof *entry);
    size_t n = texts_bytes(call);
    buf_init(&entry->data, n);
    if (!buf_reserve(&entry->data, n)) {
        free(entry);
        return NULL;
    }
    entry->key = *key;
    entry->refs = 1;
    entry->bytes = sizeof *entry + entry->data.cap + ENTRY_OVERHEAD;
    entry->expires_ms = deadline_after(cache_ttl_ms(&task->gateway->config->cache));
    entry->tenant = keep(entry, task->options.tenant_id);
    entry->agent = keep(entry, task->options.agent);
    entry->model_used = keep(entry, record->model_used);
    entry->finish = keep(entry, record->finish);
    entry->tool_calls = record->usage.tool_calls;
    for (size_t i = 0; i < record->tool_names_n; i++)
        entry->tool_names[entry->tool_names_n++] = keep(entry, record->tool_names[i]);
    Str body = keep(entry, buf_str(&call->recording.body));
    entry->recording = call->recording;
    entry->recording.body = (Buf){ .ptr = entry->data.ptr + (body.ptr - entry->data.ptr),
                                   .len = body.len,
                                   .max = body.len };
    return entry;
}

static CacheAnswer answer_of(const ModelCall *call)
{
    const Recording *recording = &call->recording;
    bool tools_taken = call->verdict.tools_spent && call->info.has_tools;
    return (CacheAnswer){
        .status = recording->status,
        .complete = call->record.outcome == GATEWAY_COMPLETE && !call->doubtful,
        .whole = !recording->overflow,
        .as_asked = !call->verdict.clamped && !tools_taken,
        .encoded = !str_empty(http_call_field(call->upstream, "content-encoding")),
        .bytes = sizeof(Entry) + texts_bytes(call) + ENTRY_OVERHEAD,
    };
}

void call_cache_keep(ModelCall *call)
{
    if (call->cache != CALL_CACHE_MISS || call->record.outcome != GATEWAY_COMPLETE) return;
    Gateway *gateway = call->task->gateway;
    CacheAnswer answer = answer_of(call);
    CacheFate fate = cache_answer_fate(&gateway->config->cache, &answer);
    CacheKey key = call->cache_key;
    if (fate == CACHE_TOO_LARGE) atomic_fetch_add(&gateway->cache.too_large, 1);
    if (fate != CACHE_KEEP) return;
    if (call->target != &call->targets[0] && key_of(call, call->target, &key) < 0) return;
    Entry *entry = entry_new(call, &key);
    if (entry) put(&gateway->cache, entry, cache_bytes_max(&gateway->config->cache));
}
