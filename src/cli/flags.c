/* flag list, get, set, delete. */
#include <stdio.h>

#include "base/buf.h"
#include "cli/client.h"
#include "cli/table.h"
#include "cli/verbs.h"

#define BODY_BYTES_MAX ((size_t)1 << 20)

static Str flag_path(Client *client)
{
    return client_printf(client, "/api/flags/%.*s",
                         STR_ARG(client_encoded(client, client->in->args[0])));
}

static Str value_text(Client *client, const Json *v)
{
    CLEANUP(buf_deinit) Buf buf;
    buf_init(&buf, BODY_BYTES_MAX);
    JsonOut out = json_out(&buf);
    json_out_value(&out, v);
    return client_printf(client, "%.*s", STR_ARG(buf_str(&buf)));
}

static int flag_list_body(Client *client)
{
    static const char *const names[] = { "FLAG", "VALUE", "RULES", "UPDATED", "DESCRIPTION", NULL };
    ClientAnswer answer;
    Table table;
    int r = client_call_wait(client, "GET", STR("/api/flags"), STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output == OUTPUT_JSON) client_print_json(&answer);
    if (client->in->output == OUTPUT_JSONL) client_print_jsonl(&answer, "flags");
    if (client->in->output != OUTPUT_TABLE) return EXIT_OK;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(answer.json, "flags")); json_next(&it);)
        table_add(&table,
                  (Str[]){ json_str(json_get(it.value, "key")),
                           value_text(client, json_get(it.value, "value")),
                           client_printf(client, "%zu", json_len(json_get(it.value, "rules"))),
                           str_sub(json_str(json_get(it.value, "updatedAt")), 0, 19),
                           json_str(json_get(it.value, "description")) });
    table_print(&table);
    return EXIT_OK;
}

static int flag_get_body(Client *client)
{
    ClientAnswer answer;
    int r = client_call_wait(client, "GET", flag_path(client), STR_NULL, NULL, &answer);
    if (r == EXIT_OK) client_print_json(&answer);
    return r;
}

static int flag_delete_body(Client *client)
{
    ClientAnswer answer;
    return client_call_wait(client, "DELETE", flag_path(client), STR_NULL, NULL, &answer);
}

/* --- setting ---------------------------------------------------------------------------------- */

static bool is_targeted(const Invocation *in)
{
    static const char *const conditions[] = { "agent", "version", "tenant", "user", "percent" };
    bool targeted = false;
    for (size_t i = 0; i < ARRAY_N(conditions); i++) targeted |= flag_given(in, conditions[i]);
    return targeted;
}

/* The value as JSON: what reads as true, false or a number is one. */
static Str value_json(Client *client)
{
    const char *text = client->in->args[1];
    const Json *v;
    if (!flag_given(client->in, "text") &&
        json_parse(&client->arena, str_of(text), NULL, &v, NULL) == 0 &&
        (json_type(v) == JSON_BOOL || json_type(v) == JSON_INT || json_type(v) == JSON_REAL ||
         json_type(v) == JSON_STRING))
        return str_of(text);
    CLEANUP(buf_deinit) Buf buf;
    buf_init(&buf, BODY_BYTES_MAX);
    JsonOut out = json_out(&buf);
    json_out_str(&out, str_of(text));
    return client_printf(client, "%.*s", STR_ARG(buf_str(&buf)));
}

static void list_of_one(JsonOut *out, const Invocation *in, const char *name, const char *key)
{
    if (!flag_given(in, name)) return;
    json_out_key(out, key);
    json_out_array(out);
    json_out_str(out, str_of(flag(in, name)));
    json_out_array_end(out);
}

static void rule_write(Client *client, JsonOut *out, Str value)
{
    const Invocation *in = client->in;
    json_out_object(out);
    list_of_one(out, in, "agent", "agents");
    list_of_one(out, in, "version", "versions");
    list_of_one(out, in, "tenant", "tenants");
    list_of_one(out, in, "user", "users");
    if (flag_given(in, "percent")) {
        const Json *v;
        Str percent = str_of(flag(in, "percent"));
        bool number = json_parse(&client->arena, percent, NULL, &v, NULL) == 0;
        json_out_kraw(out, "percent", number ? percent : STR("-1")); /* the server says why not */
    }
    if (flag_given(in, "by")) json_out_kcstr(out, "by", flag(in, "by"));
    json_out_kraw(out, "value", value);
    json_out_object_end(out);
}

/* Whether the rule that is there says the same of the same tasks, but for its value. */
static bool same_conditions(const Json *a, const Json *b)
{
    size_t same = 0, b_n = json_len(b);
    for (JsonIter it = json_iter(a); json_next(&it);) {
        if (str_eq(it.key, STR("value"))) continue;
        if (!json_eq(it.value, json_get_str(b, it.key))) return false;
        same++;
    }
    return same + 1 == b_n;
}

/* The new rule first, then those there were for others. */
static int rules_write(Client *client, JsonOut *out, const Json *old, Str value)
{
    CLEANUP(buf_deinit) Buf rule;
    const Json *parsed;
    buf_init(&rule, BODY_BYTES_MAX);
    JsonOut rule_out = json_out(&rule);
    rule_write(client, &rule_out, value);
    Str text = client_printf(client, "%.*s", STR_ARG(buf_str(&rule)));
    if (json_parse(&client->arena, text, NULL, &parsed, NULL) < 0) return EXIT_FAILED;
    json_out_key(out, "rules");
    json_out_array(out);
    json_out_raw(out, text);
    for (JsonIter it = json_iter(json_get(old, "rules")); json_next(&it);)
        if (!same_conditions(it.value, parsed)) json_out_value(out, it.value);
    json_out_array_end(out);
    return EXIT_OK;
}

/* What the flag says to all others: as before, else the opposite of a boolean. */
static int others_value(const Json *old, Str value, Str *ret)
{
    if (old) return EXIT_OK;
    if (str_eq(value, STR("true"))) *ret = STR("false");
    else if (str_eq(value, STR("false"))) *ret = STR("true");
    else {
        fprintf(stderr, "gantry: set a value for everybody first: gantry flag set KEY VALUE\n");
        return EXIT_USAGE;
    }
    return EXIT_OK;
}

/* The flag as it is; *ret NULL when there is none. */
static int old_wait(Client *client, const Json **ret)
{
    ClientAnswer answer;
    Str key = str_of(client->in->args[0]);
    *ret = NULL;
    int r = client_call_wait(client, "GET", STR("/api/flags"), STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    for (JsonIter it = json_iter(json_get(answer.json, "flags")); json_next(&it);)
        if (str_eq(json_str(json_get(it.value, "key")), key)) *ret = it.value;
    return EXIT_OK;
}

static int body_write(Client *client, JsonOut *out, const Json *old)
{
    Str value = value_json(client), others = STR_NULL;
    const char *description = flag(client->in, "description");
    bool targeted = is_targeted(client->in);
    int r = targeted ? others_value(old, value, &others) : EXIT_OK;
    if (r != EXIT_OK) return r;
    json_out_object(out);
    if (!targeted) json_out_kraw(out, "value", value);
    else if (old) json_out_kval(out, "value", json_get(old, "value"));
    else json_out_kraw(out, "value", others);
    if (targeted) r = rules_write(client, out, old, value);
    json_out_kstr(out, "description",
                  description ? str_of(description) : json_str(json_get(old, "description")));
    json_out_object_end(out);
    return r;
}

static int flag_set_body(Client *client)
{
    ClientAnswer answer;
    const Json *old;
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, BODY_BYTES_MAX);
    JsonOut out = json_out(&body);
    int r = old_wait(client, &old);
    if (r == EXIT_OK) r = body_write(client, &out, old);
    if (r == EXIT_OK)
        r = client_call_wait(client, "PUT", flag_path(client), buf_str(&body), NULL, &answer);
    if (r == EXIT_OK && client->in->output != OUTPUT_TABLE) client_print_json(&answer);
    return r;
}

int flag_list_run(const Invocation *in)
{
    return client_main(in, flag_list_body);
}

int flag_get_run(const Invocation *in)
{
    return client_main(in, flag_get_body);
}

int flag_set_run(const Invocation *in)
{
    return client_main(in, flag_set_body);
}

int flag_delete_run(const Invocation *in)
{
    return client_main(in, flag_delete_body);
}
