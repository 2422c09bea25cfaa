/* version ..., deploy, rollback. */
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "cli/client.h"
#include "cli/table.h"
#include "cli/upload.h"
#include "cli/verbs.h"

static Str member(const Json *v, const char *key)
{
    return json_str(json_get(v, key));
}

static int version_create_body(Client *client)
{
    ClientAnswer answer;
    int r = version_upload_wait(client, client->in->args[0], flag(client->in, "description"),
                                &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output != OUTPUT_TABLE) client_print_json(&answer);
    else printf("%.*s\n", STR_ARG(member(answer.json, "versionId")));
    if (answer.status == 200) fprintf(stderr, "nothing changed: this version exists already\n");
    return EXIT_OK;
}

static int version_list_body(Client *client)
{
    static const char *const names[] = { "VERSION", "CREATED",     "MODEL",
                                         "ROUTED",  "DESCRIPTION", NULL };
    ClientAnswer answer;
    Table table;
    Str path = client_printf(client, "/api/agents/%.*s/versions",
                             STR_ARG(client_encoded(client, client->in->args[0])));
    int r = client_call_wait(client, "GET", path, STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output == OUTPUT_JSON) client_print_json(&answer);
    if (client->in->output == OUTPUT_JSONL) client_print_jsonl(&answer, "versions");
    if (client->in->output != OUTPUT_TABLE) return EXIT_OK;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(answer.json, "versions")); json_next(&it);)
        table_add(&table,
                  (Str[]){ str_sub(member(it.value, "versionId"), 0, 12),
                           str_sub(member(it.value, "createdAt"), 0, 19), member(it.value, "model"),
                           json_bool(json_get(it.value, "routed"), false) ? STR("yes") : STR(""),
                           member(it.value, "description") });
    table_print(&table);
    return EXIT_OK;
}

static int version_show_body(Client *client)
{
    ClientAnswer answer;
    Str path = client_printf(client, "/api/versions/%.*s",
                             STR_ARG(client_encoded(client, client->in->args[0])));
    int r = client_call_wait(client, "GET", path, STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output != OUTPUT_TABLE) {
        client_print_json(&answer);
        return EXIT_OK;
    }
    CLEANUP(buf_deinit) Buf text = { 0 };
    buf_init(&text, CLIENT_ANSWER_BYTES_MAX);
    for (JsonIter it = json_iter(answer.json); json_next(&it);) {
        if (json_type(it.value) == JSON_NULL || str_eq(it.key, STR("components"))) continue;
        buf_clear(&text);
        JsonOut out = json_out(&text);
        json_out_value(&out, it.value);
        Str shown = json_type(it.value) == JSON_STRING ? json_str(it.value) : buf_str(&text);
        printf("%-14.*s %.*s\n", STR_ARG(it.key), STR_ARG(shown));
    }
    puts("components");
    for (JsonIter it = json_iter(json_get(answer.json, "components")); json_next(&it);) {
        buf_clear(&text);
        JsonOut out = json_out(&text);
        json_out_value(&out, it.value);
        printf("  %-12.*s %s\n", STR_ARG(it.key), text.ptr);
    }
    return EXIT_OK;
}

static int version_diff_body(Client *client)
{
    ClientAnswer answer;
    Str path = client_printf(client, "/api/versions/%.*s/diff/%.*s",
                             STR_ARG(client_encoded(client, client->in->args[0])),
                             STR_ARG(client_encoded(client, client->in->args[1])));
    int r = client_call_wait(client, "GET", path, STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output != OUTPUT_TABLE) {
        client_print_json(&answer);
        return EXIT_OK;
    }
    if (json_len(json_get(answer.json, "changes")) == 0) puts("no difference");
    for (JsonIter it = json_iter(json_get(answer.json, "changes")); json_next(&it);) {
        Str diff = member(it.value, "diff");
        printf("%.*s changed\n", STR_ARG(member(it.value, "component")));
        if (diff.len) printf("%.*s", STR_ARG(diff));
        else {
            CLEANUP(buf_deinit) Buf text = { 0 };
            buf_init(&text, CLIENT_ANSWER_BYTES_MAX);
            JsonOut out = json_out(&text);
            json_out_array(&out);
            json_out_value(&out, json_get(it.value, "old"));
            json_out_value(&out, json_get(it.value, "new"));
            json_out_array_end(&out);
            printf("  [old, new]: %s\n", text.ptr);
        }
    }
    return EXIT_OK;
}

static int ship(Client *client, const char *route, Str body)
{
    ClientAnswer answer;
    Str path = client_printf(client, "/api/agents/%.*s/%s",
                             STR_ARG(client_encoded(client, client->in->args[0])), route);
    int r = client_call_wait(client, "POST", path, body, NULL, &answer);
    if (r != EXIT_OK) return r;
    const Json *rollout = json_get(answer.json, "rollout");
    if (client->in->output != OUTPUT_TABLE) client_print_json(&answer);
    else if (rollout)
        printf("rollout %.*s: %g%% of %s goes to %.12s\n", STR_ARG(member(rollout, "rolloutId")),
               json_f64_or(json_get(rollout, "weight"), 0), client->in->args[0],
               member(rollout, "versionId").ptr);
    else printf("%s routes to %.12s\n", client->in->args[0], member(answer.json, "versionId").ptr);
    return EXIT_OK;
}

/* "5:30m,25,100" as the steps of a rollout block. */
static int steps_write(JsonOut *out, const char *steps)
{
    Str rest = str_of(steps);
    json_out_key(out, "steps");
    json_out_array(out);
    while (!str_empty(rest)) {
        Str part, weight;
        char number[32], *end;
        rest = str_split(rest, ',', &part, NULL);
        Str duration = str_split(str_trim(part), ':', &weight, NULL);
        bool fits = str_copy(number, sizeof(number), weight);
        double v = strtod(number, &end);
        if (!fits || end == number || *end || !(v > 0 && v <= 100))
            return fail(EXIT_USAGE, "--steps: \"%.*s\" is no percentage", STR_ARG(weight));
        json_out_object(out);
        json_out_key(out, "weight");
        json_out_f64(out, v);
        if (!str_empty(duration)) json_out_kstr(out, "for", duration);
        json_out_object_end(out);
    }
    json_out_array_end(out);
    return EXIT_OK;
}

static int deploy_body(Client *client)
{
    CLEANUP(buf_deinit) Buf body = { 0 };
    const char *strategy = flag(client->in, "strategy"), *steps = flag(client->in, "steps");
    int r = EXIT_OK;
    buf_init(&body, 65536);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    json_out_kcstr(&out, "versionId", client->in->args[1]);
    json_out_kcstr(&out, "strategy", strategy ? strategy : steps ? "canary" : "immediate");
    client_put_actor(client, &out);
    if (steps) {
        json_out_key(&out, "rollout");
        json_out_object(&out);
        r = steps_write(&out, steps);
        if (r != EXIT_OK) return r;
        json_out_object_end(&out);
    }
    json_out_object_end(&out);
    return ship(client, "rollouts", buf_str(&body));
}

static int rollback_body(Client *client)
{
    CLEANUP(buf_deinit) Buf body = { 0 };
    buf_init(&body, 65536);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    if (flag(client->in, "to")) json_out_kcstr(&out, "to", flag(client->in, "to"));
    if (flag_given(client->in, "kill")) json_out_kbool(&out, "kill", true);
    client_put_actor(client, &out);
    json_out_object_end(&out);
    return ship(client, "rollback", buf_str(&body));
}

int version_create_run(const Invocation *in)
{
    return client_main(in, version_create_body);
}

int version_list_run(const Invocation *in)
{
    return client_main(in, version_list_body);
}

int version_show_run(const Invocation *in)
{
    return client_main(in, version_show_body);
}

int version_diff_run(const Invocation *in)
{
    return client_main(in, version_diff_body);
}

int deploy_run(const Invocation *in)
{
    return client_main(in, deploy_body);
}

int rollback_run(const Invocation *in)
{
    return client_main(in, rollback_body);
}
