/* Prices: a list is imported, and shown as calls find it. Workers fetch the imported entries when a
 * heartbeat tells them of a new revision. */
#include "api/prices.h"

#include "base/diag.h"
#include "base/log.h"
#include "logic/price.h"
#include "store/price_store.h"
#include "sys/clock.h"
#include "sys/fiber.h"

#define ENTRY_BYTES_MAX ((size_t)32 << 10)
#define ARENA_BYTES_MAX ((size_t)512 << 20)

const Param price_list_params[] = {
    { "model", "string", "Only what this model costs; an empty list when it has no price" },
    { "contains", "string", "Only models with this in their names" },
    { 0 },
};
const Param price_import_params[] = {
    { "replace", "boolean",
      "Forget what was imported before; else it stays where it is not named" },
    { 0 },
};

static const JsonLimits list_limits = { .members_max = PRICE_ENTRIES_MAX, .numbers_as_text = true };

/* --- import ----------------------------------------------------------------------------------- */

typedef struct {
    Arena arena;
    PriceTable table; /* to check against */
    PriceEntry *entries;
    size_t n;
    PriceImport result;
    Str text;
    JsonError error;
    JsonType found;
    bool replace;
    int64_t now_ms, revision;
} Import;

static void import_deinit(Import *in)
{
    arena_deinit(&in->arena);
}

/* Keeps what is usable of one entry. 0, or -errno. */
static int take_entry(Import *in, Str model, const Json *entry)
{
    Price price;
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, ENTRY_BYTES_MAX);
    int r = price_entry_read(&in->arena, model, entry, &price);
    if (r == 0) r = price_table_add(&in->table, &price);
    if (r == -ENOMEM || r == -ENOSPC) return r;
    JsonOut out = json_out(&text);
    if (r == 0) price_entry_write(entry, &out);
    if (r != 0 || !json_out_ok(&out)) {
        if (in->result.skipped++ == 0)
            str_copy(in->result.first_skipped, sizeof in->result.first_skipped, model);
        return 0;
    }
    PriceEntry *to = &in->entries[in->n++];
    *to = (PriceEntry){ model, arena_str(&in->arena, buf_str(&text)) };
    return to->entry.ptr ? 0 : -ENOMEM;
}

/* On the thread pool: a whole list takes longer than a loop may be busy. */
static int read_list(void *arg)
{
    Import *in = arg;
    const Json *root;
    int r = json_parse(&in->arena, in->text, &list_limits, &root, &in->error);
    if (r < 0) return r;
    in->found = json_type(root);
    if (in->found != JSON_OBJECT) return 0;
    in->entries = ARENA_ARRAY(&in->arena, PriceEntry, json_len(root) + 1);
    if (!in->entries) return -ENOMEM;
    for (JsonIter it = json_iter(root); json_next(&it) && r == 0;)
        r = take_entry(in, it.key, it.value);
    return r;
}

static int read_list_wait(ApiCall *call, Import *in)
{
    int r = work_wait(read_list, in);
    if (r == -EINVAL)
        return api_problem_wait(call, 400, "body_invalid",
                                "not valid JSON: line %zu column %zu: %s", in->error.line,
                                in->error.column, in->error.message);
    if (r < 0) return api_fail_wait(call, r);
    if (in->found == JSON_OBJECT) return 0;
    return api_problem_wait(call, 422, "prices_invalid",
                            "a price list is an object keyed by model, not %s",
                            json_type_name(in->found));
}

static int import_job(Db *db, void *arg)
{
    Import *in = arg;
    return price_put(db, in->entries, in->n, in->replace, in->now_ms, &in->revision);
}

static int imported_wait(ApiCall *call, const Import *in)
{
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_ki64(&json.out, "imported", (int64_t)in->n);
    json_out_ki64(&json.out, "skipped", (int64_t)in->result.skipped);
    json_out_kcstr(&json.out, "firstSkipped", in->result.first_skipped);
    json_out_ki64(&json.out, "revision", in->revision);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}

int price_import_run_wait(ApiCall *call)
{
    CLEANUP(import_deinit) Import in = { .now_ms = clock_real_ms() };
    arena_init(&in.arena, ARENA_BYTES_MAX);
    price_table_init(&in.table, &in.arena);
    in.replace = str_eq(api_param(call, "replace"), STR("true"));
    int r = api_bytes_wait(call, MIN(call->api->options.upload_bytes_max, PRICE_LIST_BYTES_MAX),
                           &in.text);
    if (r == 0) r = read_list_wait(call, &in);
    if (r != 0) return r;
    if (in.n == 0)
        return api_problem_wait(call, 422, "prices_invalid",
                                "no entry has a mode of chat, completion, responses or embedding, "
                                "and a price");
    r = store_call_wait(queue_store(call->api->options.queue), import_job, &in);
    if (r == PRICE_E_FULL)
        return api_problem_wait(call, 409, "prices_full",
                                "there would be more than %d entries, or %zu bytes of them",
                                PRICE_ENTRIES_MAX, PRICE_LIST_BYTES_MAX);
    if (r < 0) return api_fail_wait(call, r);
    queue_signal_workers(call->api->options.queue);
    LOG_INFO("prices imported", LOG_INT("entries", (int64_t)in.n),
             LOG_INT("revision", in.revision));
    return imported_wait(call, &in);
}

/* --- reading ---------------------------------------------------------------------------------- */

typedef struct {
    Buf entries;
    int64_t revision;
} Stored;

static int stored_job(Db *db, void *arg)
{
    Stored *stored = arg;
    int r = price_revision(db, &stored->revision);
    return r == 0 ? price_entries_write(db, &stored->entries) : r;
}

static int stored_wait(ApiCall *call, Stored *ret)
{
    buf_init(&ret->entries, 2 * PRICE_LIST_BYTES_MAX);
    int r = store_read_wait(queue_store(call->api->options.queue), stored_job, ret);
    return r < 0 ? api_fail_wait(call, r) : 0;
}

int price_entries_run_wait(ApiCall *call)
{
    Stored stored = { .revision = 0 };
    int r = stored_wait(call, &stored);
    if (r == 0) r = api_reply_wait(call, 200, "application/json", buf_str(&stored.entries));
    buf_deinit(&stored.entries);
    return r;
}

/* The layers of prices as this process knows them: workers may have a configuration of their own.
 */
typedef struct {
    PriceTable configured, imported;
} Layers;

static const char *source_of(const Layers *layers, size_t i)
{
    if (i < layers->configured.n) return "config";
    return i < layers->configured.n + layers->imported.n ? "imported" : "builtin";
}

/* The place of a price among all, which says where it comes from. */
static size_t place_of(const Layers *layers, const Price *price)
{
    size_t i = 0;
    const Price *at;
    while ((at = price_at(&layers->configured, i)) && at != price) i++;
    return i;
}

static void shown_write(JsonOut *out, const Layers *layers, Str model, Str contains)
{
    const Price *price;
    if (!str_empty(model)) {
        price = price_find(&layers->configured, STR_NULL, model);
        if (price) price_write(out, price, source_of(layers, place_of(layers, price)));
        return;
    }
    for (size_t i = 0; (price = price_at(&layers->configured, i)); i++) {
        if (str_find(price->model, contains) < 0) continue;
        bool pattern = str_ends_with(price->model, STR("*"));
        bool hidden = !pattern && price_find(&layers->configured, STR_NULL, price->model) != price;
        if (!hidden) price_write(out, price, source_of(layers, i));
    }
}

typedef struct {
    Arena arena;
    Stored stored;
    Layers layers;
} Shown;

static void shown_deinit(Shown *shown)
{
    arena_deinit(&shown->arena);
    buf_deinit(&shown->stored.entries);
}

/* On the thread pool. */
static int read_stored(void *arg)
{
    Shown *shown = arg;
    PriceImport result;
    Str entries = buf_str(&shown->stored.entries);
    return price_import(&shown->layers.imported, &shown->arena, entries, &result);
}

int price_list_run_wait(ApiCall *call)
{
    const GatewayConfig *config = call->api->options.gateway;
    CLEANUP(shown_deinit) Shown shown = { .stored = { .revision = 0 } };
    Layers *layers = &shown.layers;
    arena_init(&shown.arena, ARENA_BYTES_MAX);
    price_table_init(&layers->imported, &shown.arena);
    price_table_init(&layers->configured, &shown.arena);
    if (config) layers->configured = *config->prices;
    layers->configured.below = &layers->imported;
    int r = stored_wait(call, &shown.stored);
    if (r != 0) return r;
    r = work_wait(read_stored, &shown);
    if (r < 0) return api_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_ki64(&json.out, "revision", shown.stored.revision);
    json_out_key(&json.out, "prices");
    json_out_array(&json.out);
    shown_write(&json.out, layers, api_param(call, "model"), api_param(call, "contains"));
    json_out_array_end(&json.out);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}

typedef struct {
    Str model;
} ExistsJob;

static int exists_job(Db *db, void *arg)
{
    const ExistsJob *job = arg;
    return price_exists(db, job->model);
}

bool price_is_imported_wait(ApiServer *api, Str model)
{
    ExistsJob job = { model };
    return store_read_wait(queue_store(api->options.queue), exists_job, &job) == 0;
}
