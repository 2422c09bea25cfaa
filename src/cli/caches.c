/* cache stats, purge. */
#include "base/buf.h"
#include "cli/client.h"
#include "cli/table.h"
#include "cli/verbs.h"

#define BODY_BYTES_MAX 4096

static Str number(Client *client, const Json *v, const char *key)
{
    return client_printf(client, "%" PRId64, json_i64_or(json_get(v, key), 0));
}

static void row_add(Client *client, Table *table, Str name, const Json *v)
{
    table_add(table, (Str[]){ name, number(client, v, "hits"), number(client, v, "misses"),
                              number(client, v, "entries"), number(client, v, "bytes"),
                              number(client, v, "evicted"), number(client, v, "expired"),
                              number(client, v, "tooLarge") });
}

static int cache_stats_body(Client *client)
{
    static const char *const names[] = { "WORKER",  "HITS",    "MISSES",    "ENTRIES", "BYTES",
                                         "EVICTED", "EXPIRED", "TOO LARGE", NULL };
    ClientAnswer answer;
    Table table;
    int r = client_call_wait(client, "GET", STR("/api/cache"), STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output == OUTPUT_JSON) client_print_json(&answer);
    if (client->in->output == OUTPUT_JSONL) client_print_jsonl(&answer, "workers");
    if (client->in->output != OUTPUT_TABLE) return EXIT_OK;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(answer.json, "workers")); json_next(&it);)
        row_add(client, &table, json_str(json_get(it.value, "name")), it.value);
    row_add(client, &table, STR("(all)"), answer.json);
    table_print(&table);
    return EXIT_OK;
}

static int cache_purge_body(Client *client)
{
    const char *agent = flag(client->in, "agent"), *tenant = flag(client->in, "tenant");
    bool all = flag_given(client->in, "all");
    CLEANUP(buf_deinit) Buf body = { 0 };
    ClientAnswer answer;
    if (all == (agent || tenant))
        return fail(EXIT_USAGE, "say what to forget: --agent, --tenant or both, or --all");
    buf_init(&body, BODY_BYTES_MAX);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    if (agent) json_out_kcstr(&out, "agent", agent);
    if (tenant) json_out_kcstr(&out, "tenantId", tenant);
    if (all) json_out_kbool(&out, "all", true);
    json_out_object_end(&out);
    if (!json_out_ok(&out)) return fail(EXIT_USAGE, "a name is too long");
    int r = client_call_wait(client, "POST", STR("/api/cache/purge"), buf_str(&body), NULL,
                             &answer);
    if (r == EXIT_OK && client->in->output != OUTPUT_TABLE) client_print_json(&answer);
    return r;
}

int cache_stats_run(const Invocation *in)
{
    return client_main(in, cache_stats_body);
}

int cache_purge_run(const Invocation *in)
{
    return client_main(in, cache_purge_body);
}
