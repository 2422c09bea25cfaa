/* limits, breakers. */
#include "cli/client.h"
#include "cli/table.h"
#include "cli/verbs.h"

static Str member(const Json *v, const char *key)
{
    return json_str(json_get(v, key));
}

static Str number(Client *client, const Json *v, const char *key)
{
    return client_printf(client, "%" PRId64, json_i64_or(json_get(v, key), 0));
}

/* Fetches path; prints it unless a table is wanted. True when the caller should print the table. */
static bool fetch(Client *client, const char *path, const char *list, ClientAnswer *answer,
                  int *ret_status)
{
    *ret_status = client_call_wait(client, "GET", str_of(path), STR_NULL, NULL, answer);
    if (*ret_status != EXIT_OK) return false;
    if (client->in->output == OUTPUT_JSON) client_print_json(answer);
    if (client->in->output == OUTPUT_JSONL) client_print_jsonl(answer, list);
    return client->in->output == OUTPUT_TABLE;
}

/* "12/500", or "12" where there is no limit. */
static Str used_of(Client *client, int64_t used, const Json *limit)
{
    if (json_type(limit) == JSON_NULL) return client_printf(client, "%" PRId64, used);
    return client_printf(client, "%" PRId64 "/%" PRId64, used, json_i64_or(limit, 0));
}

static Str unit_of(Client *client, const Json *v, const char *unit)
{
    for (JsonIter it = json_iter(json_get(v, "perMinute")); json_next(&it);)
        if (str_eq(member(it.value, "unit"), str_of(unit)))
            return used_of(client, json_i64_or(json_get(it.value, "used"), 0),
                           json_get(it.value, "limit"));
    return STR("");
}

static Str blocked_of(Client *client, const Json *v)
{
    int64_t ms = json_i64_or(json_get(v, "blockedMs"), 0);
    return ms ? client_printf(client, "%.1fs", (double)ms / 1000) : STR("");
}

static int limits_body(Client *client)
{
    static const char *const names[] = { "PROVIDER",   "MODEL",     "REQUESTS/MIN",
                                         "TOKENS/MIN", "CALLS",     "WAITING",
                                         "BLOCKED",    "THROTTLED", NULL };
    ClientAnswer answer;
    Table table;
    int status;
    if (!fetch(client, "/api/limits", "limits", &answer, &status)) return status;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(answer.json, "limits")); json_next(&it);) {
        const Json *v = it.value;
        Str model = member(v, "model");
        table_add(&table, (Str[]){ member(v, "provider"), model.len ? model : STR("*"),
                                   unit_of(client, v, "requests"), unit_of(client, v, "tokens"),
                                   used_of(client, json_i64_or(json_get(v, "inFlight"), 0),
                                           json_get(v, "concurrent")),
                                   number(client, v, "waiting"), blocked_of(client, v),
                                   number(client, v, "throttled") });
    }
    table_print(&table);
    return EXIT_OK;
}

static Str percent(Client *client, const Json *v, const char *key)
{
    const Json *rate = json_get(v, key);
    if (json_type(rate) == JSON_NULL) return STR("");
    return client_printf(client, "%.0f%%", 100 * json_f64_or(rate, 0));
}

static int breakers_body(Client *client)
{
    static const char *const names[] = { "KIND", "NAME",  "STATE",      "CALLS",  "ERRORS",
                                         "SLOW", "TRIPS", "NEXT PROBE", "WORKER", NULL };
    ClientAnswer answer;
    Table table;
    int status;
    if (!fetch(client, "/api/breakers", "breakers", &answer, &status)) return status;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(answer.json, "breakers")); json_next(&it);) {
        const Json *v = it.value;
        table_add(&table,
                  (Str[]){ member(v, "kind"), member(v, "name"), member(v, "state"),
                           number(client, v, "calls"), percent(client, v, "errorRate"),
                           percent(client, v, "slowRate"), number(client, v, "trips"),
                           str_sub(member(v, "nextProbeAt"), 11, 8), member(v, "workerId") });
    }
    table_print(&table);
    return EXIT_OK;
}

int limits_run(const Invocation *in)
{
    return client_main(in, limits_body);
}

int breakers_run(const Invocation *in)
{
    return client_main(in, breakers_body);
}
