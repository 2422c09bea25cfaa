/* budget get, set. */
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "cli/client.h"
#include "cli/table.h"
#include "cli/verbs.h"

#define BODY_BYTES_MAX 4096

static Str scope_path(Client *client)
{
    return client_printf(client, "/api/budgets/%.*s",
                         STR_ARG(client_encoded(client, client->in->args[0])));
}

/* "$4.50", "1200 tokens"; "-" where it has none. */
static Str amount_text(Client *client, const Json *budget, const char *name)
{
    Str usd_key = client_printf(client, "%sUsd", name);
    Str tokens_key = client_printf(client, "%sTokens", name);
    const Json *usd = json_get_str(budget, usd_key), *tokens = json_get_str(budget, tokens_key);
    if (json_type(usd) == JSON_STRING) {
        Str text = json_str(usd);
        while (text.len > 3 && text.ptr[text.len - 1] == '0' && text.ptr[text.len - 3] != '.')
            text.len--;
        return client_printf(client, "$%.*s", STR_ARG(text));
    }
    if (json_type(tokens) != JSON_ABSENT)
        return client_printf(client, "%" PRId64 " tokens", json_i64_or(tokens, 0));
    return STR("-");
}

static void budget_row(Client *client, Table *table, const Json *budget)
{
    Str source = json_str(json_get(budget, "source"));
    table_add(table,
              (Str[]){ json_str(json_get(budget, "scope")), amount_text(client, budget, "limit"),
                       amount_text(client, budget, "settled"),
                       amount_text(client, budget, "reserved"),
                       amount_text(client, budget, "remaining"),
                       str_sub(json_str(json_get(budget, "until")), 0, 19),
                       source.len ? source : STR("-") });
}

static void budgets_print(Client *client, const ClientAnswer *answer, bool one)
{
    static const char *const names[] = { "BUDGET",    "LIMIT", "SPENT",  "RESERVED",
                                         "REMAINING", "UNTIL", "SET BY", NULL };
    Table table;
    if (client->in->output == OUTPUT_JSON || (one && client->in->output == OUTPUT_JSONL))
        client_print_json(answer);
    else if (client->in->output == OUTPUT_JSONL) client_print_jsonl(answer, "budgets");
    if (client->in->output != OUTPUT_TABLE) return;
    table_init(&table, &client->arena, names);
    if (one) budget_row(client, &table, answer->json);
    else
        for (JsonIter it = json_iter(json_get(answer->json, "budgets")); json_next(&it);)
            budget_row(client, &table, it.value);
    table_print(&table);
}

static int budget_get_body(Client *client)
{
    ClientAnswer answer;
    bool one = client->in->args_n > 0;
    Str path = one ? scope_path(client) : STR("/api/budgets");
    int r = client_call_wait(client, "GET", path, STR_NULL, NULL, &answer);
    if (r == EXIT_OK) budgets_print(client, &answer, one);
    return r;
}

static bool is_tokens(Str scope)
{
    return str_ends_with(scope, STR("-tokens"));
}

static int budget_set_body(Client *client)
{
    CLEANUP(buf_deinit) Buf buf = { 0 };
    ClientAnswer answer;
    Str scope = str_of(client->in->args[0]), amount = str_of(client->in->args[1]);
    bool as_configured = str_eq(amount, STR("default"));
    int64_t tokens;
    if (is_tokens(scope) && !as_configured && str_to_i64(amount, &tokens) < 0)
        return fail(EXIT_USAGE, "AMOUNT is a whole number of tokens, or `default`");
    buf_init(&buf, BODY_BYTES_MAX);
    JsonOut out = json_out(&buf);
    json_out_object(&out);
    json_out_key(&out, is_tokens(scope) ? "limitTokens" : "limitUsd");
    if (as_configured) json_out_null(&out);
    else if (is_tokens(scope)) json_out_i64(&out, tokens);
    else json_out_str(&out, str_starts_with(amount, STR("$")) ? str_skip(amount, 1) : amount);
    json_out_object_end(&out);
    int r = client_call_wait(client, "PUT", scope_path(client), buf_str(&buf), NULL, &answer);
    if (r == EXIT_OK) budgets_print(client, &answer, true);
    return r;
}

int budget_get_run(const Invocation *in)
{
    return client_main(in, budget_get_body);
}

int budget_set_run(const Invocation *in)
{
    return client_main(in, budget_set_body);
}
