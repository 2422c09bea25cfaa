/* schedule set, list, delete. */
#include <stdio.h>

#include "base/buf.h"
#include "cli/client.h"
#include "cli/table.h"
#include "cli/verbs.h"

#define BODY_BYTES_MAX ((size_t)1 << 20)

static Str text_of(const Json *v, const char *key)
{
    return json_str(json_get(v, key));
}

static void schedules_print(Client *client, const ClientAnswer *answer, bool one)
{
    static const char *const names[] = { "SCHEDULE",   "AGENT",   "CRON", "NEXT (UTC)",
                                         "LAST (UTC)", "SKIPPED", "TASK", NULL };
    Table table;
    table_init(&table, &client->arena, names);
    const Json *list = json_get(answer->json, "schedules");
    for (JsonIter it = json_iter(list); one || json_next(&it);) {
        const Json *s = one ? answer->json : it.value;
        Str next = text_of(s, "nextAt"), last = text_of(s, "lastAt"),
            task = text_of(s, "lastTaskId");
        bool paused = json_bool(json_get(s, "paused"), false);
        if (text_of(s, "lastError").len) task = text_of(s, "lastError");
        table_add(&table, (Str[]){ text_of(s, "name"), text_of(s, "agent"), text_of(s, "cron"),
                                   paused     ? STR("paused")
                                   : next.len ? str_sub(next, 0, 16)
                                              : STR("-"),
                                   last.len ? str_sub(last, 0, 16) : STR("-"),
                                   client_printf(client, "%" PRId64,
                                                 json_i64_or(json_get(s, "skipped"), 0)),
                                   task.len ? str_sub(task, 0, 60) : STR("-") });
        if (one) break;
    }
    table_print(&table);
}

static void schedules_say(Client *client, const ClientAnswer *answer, bool one)
{
    if (client->in->output == OUTPUT_TABLE) schedules_print(client, answer, one);
    else if (client->in->output == OUTPUT_JSONL && !one) client_print_jsonl(answer, "schedules");
    else client_print_json(answer);
}

static int schedule_list_body(Client *client)
{
    ClientAnswer answer;
    int r = client_call_wait(client, "GET", STR("/api/schedules"), STR_NULL, NULL, &answer);
    if (r == EXIT_OK) schedules_say(client, &answer, false);
    return r;
}

static Str path_of(Client *client)
{
    return client_printf(client, "/api/schedules/%.*s",
                         STR_ARG(client_encoded(client, client->in->args[0])));
}

/* JSON as it is, else a text of it. */
static void input_write(Client *client, JsonOut *out, const char *input)
{
    const Json *v = NULL;
    json_out_key(out, "input");
    if (json_parse(&client->arena, str_of(input), NULL, &v, NULL) == 0) json_out_value(out, v);
    else json_out_str(out, str_of(input));
}

static int schedule_set_body(Client *client)
{
    const Invocation *in = client->in;
    CLEANUP(buf_deinit) Buf body = { 0 };
    ClientAnswer answer;
    buf_init(&body, BODY_BYTES_MAX);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    json_out_kcstr(&out, "agent", in->args[1]);
    json_out_kcstr(&out, "cron", in->args[2]);
    if (flag(in, "input")) input_write(client, &out, flag(in, "input"));
    if (flag(in, "priority")) json_out_kcstr(&out, "priority", flag(in, "priority"));
    if (flag(in, "missed")) json_out_kcstr(&out, "missed", flag(in, "missed"));
    if (flag(in, "zone")) json_out_kcstr(&out, "timeZone", flag(in, "zone"));
    if (flag(in, "overlap")) json_out_kcstr(&out, "overlap", flag(in, "overlap"));
    if (flag(in, "deadline")) json_out_kcstr(&out, "deadline", flag(in, "deadline"));
    if (flag_given(in, "paused")) json_out_kbool(&out, "paused", true);
    json_out_object_end(&out);
    if (!json_out_ok(&out)) return fail(EXIT_USAGE, "the input is too large");
    int r = client_call_wait(client, "PUT", path_of(client), buf_str(&body), NULL, &answer);
    if (r == EXIT_OK) schedules_say(client, &answer, true);
    return r;
}

static int schedule_delete_body(Client *client)
{
    ClientAnswer answer;
    return client_call_wait(client, "DELETE", path_of(client), STR_NULL, NULL, &answer);
}

int schedule_list_run(const Invocation *in)
{
    return client_main(in, schedule_list_body);
}

int schedule_set_run(const Invocation *in)
{
    return client_main(in, schedule_set_body);
}

int schedule_delete_run(const Invocation *in)
{
    return client_main(in, schedule_delete_body);
}
