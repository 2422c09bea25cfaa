/* agents, queue, workers, worker drain. */
#include <stdio.h>

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

static int agents_body(Client *client)
{
    static const char *const names[] = { "AGENT", "VERSION", "VERSIONS", "CREATED", NULL };
    ClientAnswer answer;
    Table table;
    int status;
    if (!fetch(client, "/api/agents", "agents", &answer, &status)) return status;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(answer.json, "agents")); json_next(&it);)
        table_add(&table,
                  (Str[]){ member(it.value, "agent"), str_sub(member(it.value, "versionId"), 0, 12),
                           number(client, it.value, "versions"),
                           str_sub(member(it.value, "createdAt"), 0, 19) });
    table_print(&table);
    return EXIT_OK;
}

static Str seconds(Client *client, const Json *ms)
{
    int64_t n = json_i64_or(ms, 0);
    return n > 0 ? client_printf(client, "%.1f s", (double)n / 1000) : STR("-");
}

static int queue_body(Client *client)
{
    static const char *const names[] = { "LANE",     "QUEUED",    "RUNNING", "OLDEST",
                                         "WAIT P99", "OBJECTIVE", NULL };
    ClientAnswer answer;
    Table table;
    int status;
    if (!fetch(client, "/api/queue", "lanes", &answer, &status)) return status;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(answer.json, "lanes")); json_next(&it);) {
        const Json *waits = json_get(it.value, "waits");
        table_add(&table, (Str[]){ member(it.value, "lane"), number(client, it.value, "queued"),
                                   number(client, it.value, "running"),
                                   seconds(client, json_get(it.value, "oldestQueuedMs")),
                                   seconds(client, json_get(waits, "p99Ms")),
                                   seconds(client, json_get(waits, "objectiveMs")) });
    }
    table_print(&table);
    return EXIT_OK;
}

static int workers_body(Client *client)
{
    static const char *const names[] = { "WORKER", "NAME", "KIND", "STATE", "RUNNING", NULL };
    ClientAnswer answer;
    Table table;
    int status;
    if (!fetch(client, "/api/workers", "workers", &answer, &status)) return status;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(answer.json, "workers")); json_next(&it);)
        table_add(&table, (Str[]){ member(it.value, "workerId"), member(it.value, "name"),
                                   member(it.value, "kind"), member(it.value, "state"),
                                   number(client, it.value, "running") });
    table_print(&table);
    return EXIT_OK;
}

static Str second_of(const Json *v, const char *name)
{
    Str at = member(v, name);
    return at.len ? str_sub(at, 0, 19) : STR("-");
}

static int worker_get_body(Client *client)
{
    static const char *const names[] = {
        "TASK", "ATTEMPT", "PRIORITY", "STARTED", "DEADLINE", NULL
    };
    ClientAnswer answer;
    Table table;
    int status;
    Str path = client_printf(client, "/api/workers/%.*s",
                             STR_ARG(client_encoded(client, client->in->args[0])));
    if (!fetch(client, arena_cstr(&client->arena, path), "tasks", &answer, &status)) return status;
    printf("%.*s  %.*s  %.*s  busy until %.*s\n", STR_ARG(member(answer.json, "workerId")),
           STR_ARG(member(answer.json, "name")), STR_ARG(member(answer.json, "state")),
           STR_ARG(second_of(answer.json, "busyUntil")));
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(answer.json, "tasks")); json_next(&it);)
        table_add(&table, (Str[]){ member(it.value, "taskId"), number(client, it.value, "attempt"),
                                   member(it.value, "priority"), second_of(it.value, "startedAt"),
                                   second_of(it.value, "deadline") });
    table_print(&table);
    return EXIT_OK;
}

static int worker_drain_body(Client *client)
{
    ClientAnswer answer;
    Str path = client_printf(client, "/api/workers/%.*s/drain",
                             STR_ARG(client_encoded(client, client->in->args[0])));
    int r = client_call_wait(client, "POST", path, STR(""), NULL, &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output == OUTPUT_TABLE) printf("%s drains\n", client->in->args[0]);
    else client_print_json(&answer);
    return EXIT_OK;
}

int agents_run(const Invocation *in)
{
    return client_main(in, agents_body);
}

int queue_run(const Invocation *in)
{
    return client_main(in, queue_body);
}

int workers_run(const Invocation *in)
{
    return client_main(in, workers_body);
}

int worker_get_run(const Invocation *in)
{
    return client_main(in, worker_get_body);
}

int worker_drain_run(const Invocation *in)
{
    return client_main(in, worker_drain_body);
}
