/* price import, list, show. */
#include <stdio.h>

#include "base/diag.h"
#include "cli/client.h"
#include "cli/file.h"
#include "cli/table.h"
#include "cli/verbs.h"

#define LIST_BYTES_MAX ((size_t)16 << 20)

static int price_import_body(Client *client)
{
    Str list;
    ClientAnswer answer;
    if (file_read(&client->arena, client->in->args[0], LIST_BYTES_MAX, &list) < 0) {
        fprintf(stderr, "gantry: %s\n", diag_text());
        return EXIT_FAILED;
    }
    Str path = flag_given(client->in, "replace") ? STR("/api/prices?replace=true")
                                                 : STR("/api/prices");
    int r = client_call_wait(client, "POST", path, list, NULL, &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output != OUTPUT_TABLE) {
        client_print_json(&answer);
        return EXIT_OK;
    }
    Str skipped = json_str(json_get(answer.json, "firstSkipped"));
    int64_t skipped_n = json_i64_or(json_get(answer.json, "skipped"), 0);
    printf("%" PRId64 " prices imported, %" PRId64 " entries passed over%s%.*s%s\n",
           json_i64_or(json_get(answer.json, "imported"), 0), skipped_n, skipped_n ? " (" : "",
           STR_ARG(skipped), skipped_n ? ", ...)" : "");
    return EXIT_OK;
}

static int prices_wait(Client *client, const char *param, ClientAnswer *ret)
{
    const Invocation *in = client->in;
    Str path = in->args_n ? client_printf(client, "/api/prices?%s=%.*s", param,
                                          STR_ARG(client_encoded(client, in->args[0])))
                          : STR("/api/prices");
    return client_call_wait(client, "GET", path, STR_NULL, NULL, ret);
}

static Str text_of(const Json *price, const char *key)
{
    Str text = json_str(json_get(price, key));
    return str_empty(text) ? STR("-") : text;
}

static int price_list_body(Client *client)
{
    static const char *const names[] = { "MODEL",     "INPUT", "CACHED", "OUTPUT",
                                         "MAX INPUT", "TIERS", "SOURCE", NULL };
    ClientAnswer answer;
    Table table;
    int r = prices_wait(client, "contains", &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output == OUTPUT_JSON) client_print_json(&answer);
    if (client->in->output == OUTPUT_JSONL) client_print_jsonl(&answer, "prices");
    if (client->in->output != OUTPUT_TABLE) return EXIT_OK;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(answer.json, "prices")); json_next(&it);) {
        const Json *p = it.value;
        table_add(&table,
                  (Str[]){ json_str(json_get(p, "model")), text_of(p, "inputUsdPerMillion"),
                           text_of(p, "cacheReadUsdPerMillion"), text_of(p, "outputUsdPerMillion"),
                           client_printf(client, "%" PRId64,
                                         json_i64_or(json_get(p, "maxInputTokens"), 0)),
                           client_printf(client, "%zu", json_len(json_get(p, "tiers"))),
                           json_str(json_get(p, "source")) });
    }
    table_print(&table);
    return EXIT_OK;
}

static int price_show_body(Client *client)
{
    ClientAnswer answer;
    int r = prices_wait(client, "model", &answer);
    if (r != EXIT_OK) return r;
    const Json *price = json_at(json_get(answer.json, "prices"), 0);
    if (!price) {
        fprintf(stderr, "gantry: the price of %s is not known: calls to it are refused\n",
                client->in->args[0]);
        return EXIT_FAILED;
    }
    if (client->in->output != OUTPUT_TABLE) {
        client_print_json(&answer);
        return EXIT_OK;
    }
    for (JsonIter it = json_iter(price); json_next(&it);) {
        CLEANUP(buf_deinit) Buf text;
        buf_init(&text, LIST_BYTES_MAX);
        JsonOut out = json_out(&text);
        Str value = json_str(it.value);
        if (json_type(it.value) != JSON_STRING) {
            json_out_value(&out, it.value);
            value = buf_str(&text);
        }
        printf("%-24.*s %.*s\n", STR_ARG(it.key), STR_ARG(value));
    }
    return EXIT_OK;
}

int price_import_run(const Invocation *in)
{
    return client_main(in, price_import_body);
}

int price_list_run(const Invocation *in)
{
    return client_main(in, price_list_body);
}

int price_show_run(const Invocation *in)
{
    return client_main(in, price_show_body);
}
