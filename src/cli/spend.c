/* spend, account list. */
#include "cli/client.h"
#include "cli/table.h"
#include "cli/verbs.h"

static Str number_of(Client *client, const Json *row, const char *key)
{
    return client_printf(client, "%" PRId64, json_i64_or(json_get(row, key), 0));
}

static void row_add(Client *client, Table *table, Str key, const Json *row)
{
    table_add(table, (Str[]){ str_empty(key) ? STR("-") : key, number_of(client, row, "calls"),
                              number_of(client, row, "inputTokens"),
                              number_of(client, row, "cachedTokens"),
                              number_of(client, row, "outputTokens"),
                              json_str(json_get(row, "costUsd")) });
}

static int spend_body(Client *client)
{
    static const char *const names[] = { "", "CALLS", "INPUT", "CACHED", "OUTPUT", "USD", NULL };
    const char *by = flag(client->in, "by"), *window = flag(client->in, "window");
    ClientAnswer answer;
    Table table;
    Str path = client_printf(client, "/api/spend?by=%.*s&window=%.*s",
                             STR_ARG(client_encoded(client, by ? by : "model")),
                             STR_ARG(client_encoded(client, window ? window : "24h")));
    int r = client_call_wait(client, "GET", path, STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output == OUTPUT_JSON) client_print_json(&answer);
    if (client->in->output == OUTPUT_JSONL) client_print_jsonl(&answer, "rows");
    if (client->in->output != OUTPUT_TABLE) return EXIT_OK;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(answer.json, "rows")); json_next(&it);)
        row_add(client, &table, json_str(json_get(it.value, "key")), it.value);
    row_add(client, &table, STR("total"), answer.json);
    table_print(&table);
    return EXIT_OK;
}

int spend_run(const Invocation *in)
{
    return client_main(in, spend_body);
}

static int account_list_body(Client *client)
{
    static const char *const names[] = { "USED",  "TENANT", "AGENT",  "USER", "CALLS",
                                         "INPUT", "CACHED", "OUTPUT", "USD",  NULL };
    const char *tenant = flag(client->in, "tenant"), *limit = flag(client->in, "limit");
    ClientAnswer answer;
    Table table;
    Str path = client_printf(client, "/api/accounts?limit=%.*s%s%.*s",
                             STR_ARG(client_encoded(client, limit ? limit : "100")),
                             tenant ? "&tenant=" : "",
                             STR_ARG(tenant ? client_encoded(client, tenant) : STR("")));
    int r = client_call_wait(client, "GET", path, STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output == OUTPUT_JSON) client_print_json(&answer);
    if (client->in->output == OUTPUT_JSONL) client_print_jsonl(&answer, "accounts");
    if (client->in->output != OUTPUT_TABLE) return EXIT_OK;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(answer.json, "accounts")); json_next(&it);) {
        Str agent = json_str(json_get(it.value, "agent"));
        Str user = json_str(json_get(it.value, "userId"));
        table_add(&table,
                  (Str[]){ str_sub(json_str(json_get(it.value, "usedAt")), 0, 19),
                           json_str(json_get(it.value, "tenantId")),
                           str_empty(agent) ? STR("-") : agent, str_empty(user) ? STR("-") : user,
                           number_of(client, it.value, "llmCalls"),
                           number_of(client, it.value, "inputTokens"),
                           number_of(client, it.value, "cachedTokens"),
                           number_of(client, it.value, "outputTokens"),
                           json_str(json_get(it.value, "costUsd")) });
    }
    table_print(&table);
    return EXIT_OK;
}

int account_list_run(const Invocation *in)
{
    return client_main(in, account_list_body);
}
