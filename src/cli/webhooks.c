/* webhook list, replay, endpoints, enable, rotate. */
#include <stdio.h>

#include "base/buf.h"
#include "cli/client.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "codec/duration.h"
#include "codec/time_text.h"
#include "sys/clock.h"

#define BODY_BYTES_MAX 16384

static Str text_of(const Json *v, const char *key)
{
    return json_str(json_get(v, key));
}

static Str number(Client *client, const Json *v, const char *key)
{
    return client_printf(client, "%" PRId64, json_i64_or(json_get(v, key), 0));
}

/* --- list ------------------------------------------------------------------------------------- */

static void list_print(Client *client, const Json *list)
{
    static const char *const names[] = { "WEBHOOK", "STATE", "CREATED", "ATTEMPTS",
                                         "STATUS",  "URL",   "ERROR",   NULL };
    Table table;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(list); json_next(&it);)
        table_add(&table,
                  (Str[]){ text_of(it.value, "webhookId"), text_of(it.value, "state"),
                           str_sub(text_of(it.value, "createdAt"), 0, 19),
                           number(client, it.value, "attempts"), number(client, it.value, "status"),
                           text_of(it.value, "url"), str_sub(text_of(it.value, "error"), 0, 60) });
    table_print(&table);
}

static int webhook_list_body(Client *client)
{
    const Invocation *in = client->in;
    const char *state = flag(in, "state"), *limit = flag(in, "limit"), *url = flag(in, "url");
    ClientAnswer answer;
    Str path = client_printf(client, "/api/webhooks?limit=%s", limit ? limit : "50");
    if (!state) state = "failed";
    if (strcmp(state, "all") != 0)
        path = client_printf(client, "%.*s&state=%.*s", STR_ARG(path),
                             STR_ARG(client_encoded(client, state)));
    if (url)
        path = client_printf(client, "%.*s&url=%.*s", STR_ARG(path),
                             STR_ARG(client_encoded(client, url)));
    int r = client_call_wait(client, "GET", path, STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    if (in->output == OUTPUT_JSON) client_print_json(&answer);
    if (in->output == OUTPUT_JSONL) client_print_jsonl(&answer, "webhooks");
    if (in->output == OUTPUT_TABLE) list_print(client, json_get(answer.json, "webhooks"));
    return EXIT_OK;
}

/* --- replay ----------------------------------------------------------------------------------- */

static int replay_one(Client *client, const char *id)
{
    ClientAnswer answer;
    Str path = client_printf(client, "/api/webhooks/%.*s/replay",
                             STR_ARG(client_encoded(client, id)));
    int r = client_call_wait(client, "POST", path, STR(""), NULL, &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output != OUTPUT_TABLE) client_print_json(&answer);
    else printf("%s: %.*s\n", id, STR_ARG(text_of(answer.json, "state")));
    return EXIT_OK;
}

static int replay_many(Client *client)
{
    const Invocation *in = client->in;
    const char *url = flag(in, "url"), *since = flag(in, "since");
    CLEANUP(buf_deinit) Buf body = { 0 };
    char at[TIME_TEXT_MAX];
    ClientAnswer answer;
    int64_t ago_ms = 0;
    if (since && duration_parse(str_of(since), &ago_ms) < 0)
        return fail(EXIT_USAGE, "--since is a duration such as 24h");
    buf_init(&body, BODY_BYTES_MAX);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    if (url) json_out_kcstr(&out, "url", url);
    if (since) json_out_kcstr(&out, "since", time_format(clock_real_ms() - ago_ms, at));
    if (flag_given(in, "all")) json_out_kbool(&out, "all", true);
    json_out_object_end(&out);
    if (!json_out_ok(&out)) return fail(EXIT_USAGE, "the URL is too long");
    int r = client_call_wait(client, "POST", STR("/api/webhooks/replay"), buf_str(&body), NULL,
                             &answer);
    if (r != EXIT_OK) return r;
    if (in->output != OUTPUT_TABLE) client_print_json(&answer);
    else printf("%" PRId64 " sent again\n", json_i64_or(json_get(answer.json, "replayed"), 0));
    return EXIT_OK;
}

static int webhook_replay_body(Client *client)
{
    const Invocation *in = client->in;
    bool many = flag(in, "url") || flag(in, "since") || flag_given(in, "all");
    if (many == (in->args_n > 0))
        return fail(EXIT_USAGE, "name webhooks, or say which: --url, --since, --all");
    if (many) return replay_many(client);
    int result = EXIT_OK;
    for (size_t i = 0; i < (size_t)in->args_n; i++) {
        int r = replay_one(client, in->args[i]);
        if (r != EXIT_OK) result = r;
    }
    return result;
}

/* --- endpoints -------------------------------------------------------------------------------- */

static int webhook_endpoints_body(Client *client)
{
    static const char *const names[] = { "URL", "DISABLED", "BY", NULL };
    ClientAnswer answer;
    Table table;
    int r = client_call_wait(client, "GET", STR("/api/webhooks/endpoints"), STR_NULL, NULL,
                             &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output == OUTPUT_JSON) client_print_json(&answer);
    if (client->in->output == OUTPUT_JSONL) client_print_jsonl(&answer, "endpoints");
    if (client->in->output != OUTPUT_TABLE) return EXIT_OK;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(answer.json, "endpoints")); json_next(&it);)
        table_add(&table, (Str[]){ text_of(it.value, "url"),
                                   str_sub(text_of(it.value, "disabledAt"), 0, 19),
                                   text_of(it.value, "webhookId") });
    table_print(&table);
    return EXIT_OK;
}

/* POSTs an object of one text, or {}. */
static int post_text(Client *client, const char *path, const char *key, const char *value,
                     ClientAnswer *ret)
{
    CLEANUP(buf_deinit) Buf body = { 0 };
    buf_init(&body, BODY_BYTES_MAX);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    if (value) json_out_kcstr(&out, key, value);
    json_out_object_end(&out);
    if (!json_out_ok(&out)) return fail(EXIT_USAGE, "the text is too long");
    return client_call_wait(client, "POST", str_of(path), buf_str(&body), NULL, ret);
}

static int webhook_enable_body(Client *client)
{
    ClientAnswer answer;
    int r = post_text(client, "/api/webhooks/endpoints/enable", "url", client->in->args[0],
                      &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output != OUTPUT_TABLE) client_print_json(&answer);
    else
        printf("enabled; what was given up is sent by `gantry webhook replay --url %s`\n",
               client->in->args[0]);
    return EXIT_OK;
}

/* --- the secret ------------------------------------------------------------------------------- */

static int webhook_rotate_body(Client *client)
{
    ClientAnswer answer;
    int r = post_text(client, "/api/webhooks/secret/rotate", "overlap", flag(client->in, "overlap"),
                      &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output != OUTPUT_TABLE) {
        client_print_json(&answer);
        return EXIT_OK;
    }
    printf("%.*s\n", STR_ARG(text_of(answer.json, "secret")));
    fprintf(stderr, "the secret before signs too until %.*s\n",
            STR_ARG(text_of(answer.json, "previousUntil")));
    return EXIT_OK;
}

int webhook_list_run(const Invocation *in)
{
    return client_main(in, webhook_list_body);
}

int webhook_replay_run(const Invocation *in)
{
    return client_main(in, webhook_replay_body);
}

int webhook_endpoints_run(const Invocation *in)
{
    return client_main(in, webhook_endpoints_body);
}

int webhook_enable_run(const Invocation *in)
{
    return client_main(in, webhook_enable_body);
}

int webhook_rotate_run(const Invocation *in)
{
    return client_main(in, webhook_rotate_body);
}
