/* alarm list, acknowledge. */
#include <stdio.h>

#include "cli/client.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "codec/json.h"

static int list_body(Client *client)
{
    static const char *const names[] = { "ALARM",  "RAISED", "AGENT", "VERSION",
                                         "METRIC", "STATE",  "WHAT",  NULL };
    ClientAnswer answer;
    Table table;
    const char *agent = flag(client->in, "agent");
    Str path = client_printf(
        client, "/api/alarms?open=%s%s%.*s", flag_given(client->in, "open") ? "true" : "false",
        agent ? "&agent=" : "", STR_ARG(agent ? client_encoded(client, agent) : STR("")));
    int r = client_call_wait(client, "GET", path, STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output == OUTPUT_JSON) client_print_json(&answer);
    if (client->in->output == OUTPUT_JSONL) client_print_jsonl(&answer, "alarms");
    if (client->in->output != OUTPUT_TABLE) return EXIT_OK;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(answer.json, "alarms")); json_next(&it);)
        table_add(&table, (Str[]){ client_printf(client, "%" PRId64,
                                                 json_i64_or(json_get(it.value, "alarmId"), 0)),
                                   str_sub(json_str(json_get(it.value, "raisedAt")), 0, 19),
                                   json_str(json_get(it.value, "agent")),
                                   str_sub(json_str(json_get(it.value, "versionId")), 0, 12),
                                   json_str(json_get(it.value, "metric")),
                                   json_type(json_get(it.value, "acknowledgedAt")) == JSON_NULL
                                       ? STR("open")
                                       : STR("seen"),
                                   json_str(json_get(it.value, "text")) });
    table_print(&table);
    return EXIT_OK;
}

int alarm_list_run(const Invocation *in)
{
    return client_main(in, list_body);
}

static int acknowledge_body(Client *client)
{
    ClientAnswer answer;
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 65536);
    const char *by = flag(client->in, "by"), *note = flag(client->in, "note");
    JsonOut out = json_out(&body);
    json_out_object(&out);
    if (by) json_out_kcstr(&out, "by", by);
    if (note) json_out_kcstr(&out, "note", note);
    json_out_object_end(&out);
    Str path = client_printf(client, "/api/alarms/%.*s/acknowledge",
                             STR_ARG(client_encoded(client, client->in->args[0])));
    int r = client_call_wait(client, "POST", path, buf_str(&body), NULL, &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output != OUTPUT_TABLE) client_print_json(&answer);
    else printf("alarm %s acknowledged; its metric is watched from anew\n", client->in->args[0]);
    return EXIT_OK;
}

int alarm_acknowledge_run(const Invocation *in)
{
    return client_main(in, acknowledge_body);
}
