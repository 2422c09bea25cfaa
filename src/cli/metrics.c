/* metrics: the signals of an agent's versions. */
#include <stdio.h>

#include "cli/client.h"
#include "cli/table.h"
#include "cli/verbs.h"

/* "-" where nobody measured it. */
static Str shown(Client *client, const Json *row, const char *key, const char *fmt, double unit)
{
    const Json *v = json_get(row, key);
    if (json_type(v) != JSON_REAL && json_type(v) != JSON_INT) return STR("-");
    double value = json_f64_or(v, 0) * unit;
    /* one format of each kind, for the compiler to check */
    if (strcmp(fmt, "%") == 0) return client_printf(client, "%.1f%%", 100 * value);
    if (strcmp(fmt, "s") == 0) return client_printf(client, "%.2fs", value);
    if (strcmp(fmt, "d") == 0) return client_printf(client, "%.1fd", value);
    if (strcmp(fmt, "3") == 0) return client_printf(client, "%.3f", value);
    return client_printf(client, "%.0f", value);
}

static Str cost_of(const Json *row)
{
    Str usd = json_str(json_get(row, "tokenCostPerTask"));
    return str_empty(usd) ? STR("-") : usd;
}

static void print_versions(Client *client, const Json *versions)
{
    static const char *const names[] = { "VERSION", "AGE",      "TASKS",     "DONE",
                                         "ERRORS",  "QUALITY",  "ESCALATED", "USD/TASK",
                                         "P95",     "VARIANCE", "SHIFT",     NULL };
    Table table;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(versions); json_next(&it);)
        table_add(&table, (Str[]){ str_sub(json_str(json_get(it.value, "versionId")), 0, 12),
                                   shown(client, it.value, "versionAge", "d", 1.0 / 86400),
                                   shown(client, it.value, "taskCount", "n", 1),
                                   shown(client, it.value, "taskCompletionRate", "%", 1),
                                   shown(client, it.value, "errorRate", "%", 1),
                                   shown(client, it.value, "qualityScore", "3", 1),
                                   shown(client, it.value, "escalationRate", "%", 1),
                                   cost_of(it.value), shown(client, it.value, "latencyP95", "s", 1),
                                   shown(client, it.value, "responsePatternVariance", "3", 1),
                                   shown(client, it.value, "patternShift", "3", 1) });
    table_print(&table);
}

/* A line a version: what its calls of tools were. */
static void print_tools(const Json *versions)
{
    for (JsonIter it = json_iter(versions); json_next(&it);) {
        const Json *tools = json_get(it.value, "toolCallDistribution");
        if (json_type(tools) != JSON_OBJECT) continue;
        printf("tools of %.12s:", json_str(json_get(it.value, "versionId")).ptr);
        for (JsonIter tool = json_iter(tools); json_next(&tool);)
            printf("  %.*s %.0f%%", STR_ARG(str_empty(tool.key) ? STR("(others)") : tool.key),
                   100 * json_f64_or(tool.value, 0));
        printf("\n");
    }
}

/* A line a grader and version. */
static void print_graders(Client *client, const Json *versions)
{
    static const char *const names[] = { "GRADER", "VERSION", "SCORE",   "TASKS",
                                         "FAILED", "HELD",    "ANCHORS", NULL };
    Table table;
    bool any = false;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(versions); json_next(&it);) {
        Str version = str_sub(json_str(json_get(it.value, "versionId")), 0, 12);
        for (JsonIter g = json_iter(json_get(it.value, "graders")); json_next(&g); any = true)
            table_add(&table, (Str[]){ g.key, version, shown(client, g.value, "score", "3", 1),
                                       shown(client, g.value, "scoredCount", "n", 1),
                                       shown(client, g.value, "failedCount", "n", 1),
                                       shown(client, g.value, "heldCount", "n", 1),
                                       shown(client, g.value, "anchorScore", "3", 1) });
    }
    if (any) table_print(&table);
}

static int metrics_body(Client *client)
{
    const char *window = flag(client->in, "window");
    ClientAnswer answer;
    Str path = client_printf(client, "/api/metrics/versions?agent=%.*s&window=%.*s",
                             STR_ARG(client_encoded(client, client->in->args[0])),
                             STR_ARG(client_encoded(client, window ? window : "24h")));
    int r = client_call_wait(client, "GET", path, STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    const Json *versions = json_get(answer.json, "versions");
    if (json_len(versions) == 0) { /* an agent that nobody has, or nothing yet */
        ClientAnswer agent;
        path = client_printf(client, "/api/agents/%.*s/versions?limit=1",
                             STR_ARG(client_encoded(client, client->in->args[0])));
        if ((r = client_call_wait(client, "GET", path, STR_NULL, NULL, &agent)) != EXIT_OK)
            return r;
    }
    if (client->in->output == OUTPUT_JSON) client_print_json(&answer);
    if (client->in->output == OUTPUT_JSONL) client_print_jsonl(&answer, "versions");
    if (client->in->output != OUTPUT_TABLE) return EXIT_OK;
    print_versions(client, versions);
    print_tools(versions);
    print_graders(client, versions);
    return EXIT_OK;
}

int metrics_run(const Invocation *in)
{
    return client_main(in, metrics_body);
}
