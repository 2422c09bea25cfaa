/* /openapi.json, made from the routes and schemas. */
#include <stdio.h>

#include "api/execute.h"
#include "api/route.h"

/* --- types ------------------------------------------------------------------------------------ */

static const struct {
    const char *name, *type, *format, *pattern;
} simple_types[] = {
    { "string", "string", NULL, NULL },          { "integer", "integer", NULL, NULL },
    { "number", "number", NULL, NULL },          { "boolean", "boolean", NULL, NULL },
    { "object", "object", NULL, NULL },          { "time", "string", "date-time", NULL },
    { "uuid", "string", "uuid", NULL },          { "usd", "string", NULL, "^[0-9]+\\.[0-9]{9}$" },
    { "hex", "string", NULL, "^[0-9a-f]{64}$" },
};

static void type_member(JsonOut *out, const char *type, bool nullable)
{
    json_out_key(out, "type");
    if (nullable) json_out_array(out);
    json_out_str(out, str_of(type));
    if (nullable) json_out_str(out, STR("null"));
    if (nullable) json_out_array_end(out);
}

static void ref_member(JsonOut *out, Str schema)
{
    char text[96];
    snprintf(text, sizeof text, "#/components/schemas/%.*s", STR_ARG(schema));
    json_out_kcstr(out, "$ref", text);
}

/* The members of a schema for a type that is not an array. */
static void type_write(JsonOut *out, Str type)
{
    bool nullable = str_ends_with(type, STR("?"));
    if (nullable) type.len--;
    if (str_eq(type, STR("any"))) return;
    for (size_t i = 0; i < ARRAY_N(simple_types); i++) {
        if (!str_eq(type, str_of(simple_types[i].name))) continue;
        type_member(out, simple_types[i].type, nullable);
        if (simple_types[i].format) json_out_kcstr(out, "format", simple_types[i].format);
        if (simple_types[i].pattern) json_out_kcstr(out, "pattern", simple_types[i].pattern);
        return;
    }
    ref_member(out, type);
}

static void field_type_write(JsonOut *out, Str type)
{
    json_out_object(out);
    if (str_starts_with(type, STR("["))) {
        json_out_kcstr(out, "type", "array");
        json_out_key(out, "items");
        json_out_object(out);
        type_write(out, str_sub(type, 1, type.len - 2));
        json_out_object_end(out);
    } else {
        type_write(out, type);
    }
    json_out_object_end(out);
}

/* --- schemas ---------------------------------------------------------------------------------- */

/* Next "name:type"; false at the end. */
static bool field_next(Str *rest, Str *ret_name, Str *ret_type, bool *ret_optional)
{
    Str field;
    do {
        if (str_empty(*rest)) return false;
        *rest = str_split(*rest, ' ', &field, NULL);
    } while (str_empty(field));
    *ret_type = str_split(field, ':', ret_name, NULL);
    *ret_optional = str_ends_with(*ret_name, STR("?"));
    if (*ret_optional) ret_name->len--;
    return true;
}

static void schema_write(JsonOut *out, const Schema *schema)
{
    Str rest = str_of(schema->fields), name, type;
    bool optional;
    json_out_key(out, schema->name);
    json_out_object(out);
    json_out_kcstr(out, "type", "object");
    if (str_empty(rest)) { /* with any members */
        json_out_object_end(out);
        return;
    }
    json_out_key(out, "properties");
    json_out_object(out);
    while (field_next(&rest, &name, &type, &optional)) {
        json_out_key_str(out, name);
        field_type_write(out, type);
    }
    json_out_object_end(out);
    json_out_key(out, "required");
    json_out_array(out);
    for (rest = str_of(schema->fields); field_next(&rest, &name, &type, &optional);)
        if (!optional) json_out_str(out, name);
    json_out_array_end(out);
    json_out_object_end(out);
}

static const char *member_type_name(MemberType type)
{
    switch (type) {
    case MEMBER_INTEGER: return "integer";
    case MEMBER_NUMBER: return "number";
    case MEMBER_BOOLEAN: return "boolean";
    case MEMBER_OBJECT: return "object";
    case MEMBER_ARRAY: return "array";
    default: return "string";
    }
}

static void words_write(JsonOut *out, const Member *m)
{
    Str rest = str_of(m->words), word;
    json_out_key(out, "enum");
    json_out_array(out);
    for (bool more = true; more;) {
        rest = str_split(rest, '|', &word, &more);
        json_out_str(out, word);
    }
    if (!m->required) json_out_null(out);
    json_out_array_end(out);
}

static void member_write(JsonOut *out, const Member *m)
{
    json_out_key(out, m->name);
    json_out_object(out);
    if (m->type != MEMBER_ANY) type_member(out, member_type_name(m->type), !m->required);
    if (m->type == MEMBER_ARRAY) json_out_kraw(out, "items", STR("{}"));
    if (m->words) words_write(out, m);
    if (m->description[0]) json_out_kcstr(out, "description", m->description);
    json_out_object_end(out);
}

static void body_schema_write(JsonOut *out, const BodySpec *body)
{
    json_out_key(out, body->name);
    json_out_object(out);
    json_out_kcstr(out, "type", "object");
    json_out_kbool(out, "additionalProperties", false);
    json_out_key(out, "properties");
    json_out_object(out);
    for (size_t i = 0; i < body->n; i++) member_write(out, &body->members[i]);
    json_out_object_end(out);
    json_out_key(out, "required");
    json_out_array(out);
    if (body->whole_else) json_out_str(out, str_of(body->members[0].name));
    for (size_t i = 0; i < body->n; i++)
        if (body->members[i].required) json_out_str(out, str_of(body->members[i].name));
    json_out_array_end(out);
    json_out_object_end(out);
}

/* Whether an earlier route has the same body. */
static bool body_seen(size_t route)
{
    for (size_t i = 0; i < route; i++)
        if (api_routes[i].body == api_routes[route].body) return true;
    return false;
}

static void components_write(JsonOut *out)
{
    json_out_key(out, "components");
    json_out_object(out);
    json_out_key(out, "schemas");
    json_out_object(out);
    for (size_t i = 0; i < api_schemas_n; i++) schema_write(out, &api_schemas[i]);
    for (size_t i = 0; i < api_routes_n; i++)
        if (api_routes[i].body && !body_seen(i)) body_schema_write(out, api_routes[i].body);
    json_out_object_end(out);
    json_out_kraw(out, "securitySchemes",
                  STR("{\"bearer\":{\"type\":\"http\",\"scheme\":\"bearer\"},\"apiKey\":{\"type\":"
                      "\"apiKey\",\"in\":\"header\",\"name\":\"X-API-Key\"}}"));
    json_out_object_end(out);
}

/* --- operations ------------------------------------------------------------------------------- */

static void parameter_write(JsonOut *out, Str name, const char *in, const char *type,
                            const char *description)
{
    json_out_object(out);
    json_out_kstr(out, "name", name);
    json_out_kcstr(out, "in", in);
    json_out_kbool(out, "required", strcmp(in, "path") == 0);
    if (description) json_out_kcstr(out, "description", description);
    json_out_key(out, "schema");
    json_out_object(out);
    json_out_kcstr(out, "type", type);
    json_out_object_end(out);
    json_out_object_end(out);
}

static void parameters_write(JsonOut *out, const Route *route)
{
    json_out_key(out, "parameters");
    json_out_array(out);
    Str rest = str_of(route->pattern), part;
    while (url_path_next(&rest, &part))
        if (str_starts_with(part, STR("{")))
            parameter_write(out, str_sub(part, 1, part.len - 2), "path", "string", NULL);
    for (const Param *p = route->params; p && p->name; p++)
        parameter_write(out, str_of(p->name), "query", p->type, p->description);
    if (route->body == &execute_body) {
        parameter_write(out, STR("Idempotency-Key"), "header", "string",
                        "The same key and body within 48 hours: the same task");
        parameter_write(out, STR("traceparent"), "header", "string", "W3C Trace Context");
    }
    json_out_array_end(out);
}

static void body_ref_write(JsonOut *out, const BodySpec *body)
{
    json_out_key(out, "schema");
    json_out_object(out);
    if (body->whole_else) {
        json_out_key(out, "anyOf");
        json_out_array(out);
        json_out_object(out);
        ref_member(out, str_of(body->name));
        json_out_object_end(out);
        json_out_raw(out, STR("{\"description\":\"Any other JSON is itself the input\"}"));
        json_out_array_end(out);
    } else {
        ref_member(out, str_of(body->name));
    }
    json_out_object_end(out);
}

static void content_type_write(JsonOut *out, const char *type, const char *schema)
{
    json_out_key(out, type);
    json_out_object(out);
    json_out_key(out, "schema");
    json_out_object(out);
    if (schema) ref_member(out, str_of(schema));
    else json_out_kcstr(out, "type", "string");
    json_out_object_end(out);
    json_out_object_end(out);
}

static void content_write(JsonOut *out, const char *type, const char *schema)
{
    json_out_key(out, "content");
    json_out_object(out);
    content_type_write(out, type, schema);
    json_out_object_end(out);
}

static void request_body_write(JsonOut *out, const Route *route)
{
    if (!route->body && !route->upload && !route->json) return;
    json_out_key(out, "requestBody");
    json_out_object(out);
    json_out_kbool(out, "required", !route->body || route->body->required);
    json_out_key(out, "content");
    json_out_object(out);
    if (route->body) {
        json_out_key(out, "application/json");
        json_out_object(out);
        body_ref_write(out, route->body);
        json_out_object_end(out);
    }
    if (route->json) content_type_write(out, "application/json", route->json);
    Str rest = str_of(route->upload), type;
    while (!str_empty(rest)) {
        rest = str_trim(str_split(rest, ',', &type, NULL));
        json_out_key_str(out, type);
        json_out_raw(out, STR("{\"schema\":{\"type\":\"string\",\"format\":\"binary\"}}"));
    }
    json_out_object_end(out);
    json_out_object_end(out);
}

static void response_write(JsonOut *out, const Route *route, int status)
{
    char text[8];
    snprintf(text, sizeof text, "%d", status);
    json_out_key(out, text);
    json_out_object(out);
    json_out_kcstr(out, "description", http_status_text(status));
    if (route->answer) content_write(out, "application/json", route->answer);
    else if (route->answer_type) content_write(out, route->answer_type, NULL);
    json_out_object_end(out);
}

static void operation_write(JsonOut *out, const Route *route)
{
    char method[8] = "";
    for (size_t i = 0; route->method[i]; i++) method[i] = (char)(route->method[i] - 'A' + 'a');
    json_out_key(out, method);
    json_out_object(out);
    json_out_kcstr(out, "operationId", route->id);
    json_out_key(out, "tags");
    json_out_array(out);
    json_out_str(out, str_of(route->tag));
    json_out_array_end(out);
    json_out_kcstr(out, "summary", route->summary);
    if (route->open && !route->error) json_out_kraw(out, "security", STR("[]"));
    parameters_write(out, route);
    request_body_write(out, route);
    json_out_key(out, "responses");
    json_out_object(out);
    response_write(out, route, route->status);
    if (route->status_also) response_write(out, route, route->status_also);
    json_out_key(out, "default");
    json_out_object(out);
    json_out_kcstr(out, "description",
                   route->error ? "What went wrong, as the API called has it"
                                : "What went wrong (RFC 9457)");
    content_write(out, route->error ? "application/json" : "application/problem+json",
                  route->error ? route->error : "Problem");
    json_out_object_end(out);
    json_out_object_end(out);
    json_out_object_end(out);
}

/* Whether an earlier route has the same path. */
static bool path_seen(size_t route)
{
    for (size_t i = 0; i < route; i++)
        if (strcmp(api_routes[i].pattern, api_routes[route].pattern) == 0) return true;
    return false;
}

static void paths_write(JsonOut *out)
{
    json_out_key(out, "paths");
    json_out_object(out);
    for (size_t i = 0; i < api_routes_n; i++) {
        if (path_seen(i)) continue;
        json_out_key(out, api_routes[i].pattern);
        json_out_object(out);
        for (size_t j = i; j < api_routes_n; j++)
            if (strcmp(api_routes[i].pattern, api_routes[j].pattern) == 0)
                operation_write(out, &api_routes[j]);
        json_out_object_end(out);
    }
    json_out_object_end(out);
}

static const char *const tags[][2] = {
    { "tasks", "Submitting, reading, steering tasks" },
    { "versions", "Agents and their behavioural versions" },
    { "rollouts", "Which version new tasks get" },
    { "models", "Model calls of tenants and tasks, and what they used" },
    { "operation", "State, metrics, probes" },
    { "webhooks", "What was not delivered, and sending it again" },
    { "prices", "What models cost, and what was spent" },
    { "workers", "The protocol of remote workers" },
};

static void head_write(JsonOut *out, Str public_url)
{
    json_out_kcstr(out, "openapi", "3.1.0");
    json_out_key(out, "info");
    json_out_object(out);
    json_out_kcstr(out, "title", "Gantry");
    json_out_kcstr(out, "version", GANTRY_VERSION);
    json_out_kcstr(out, "description", "Runs AI agents in production.");
    json_out_kraw(out, "license", STR("{\"name\":\"Apache-2.0\",\"identifier\":\"Apache-2.0\"}"));
    json_out_object_end(out);
    json_out_key(out, "servers");
    json_out_array(out);
    json_out_object(out);
    json_out_kstr(out, "url", str_empty(public_url) ? STR("/") : public_url);
    json_out_object_end(out);
    json_out_array_end(out);
    json_out_kraw(out, "security", STR("[{\"bearer\":[]},{\"apiKey\":[]},{}]"));
    json_out_key(out, "tags");
    json_out_array(out);
    for (size_t i = 0; i < ARRAY_N(tags); i++) {
        json_out_object(out);
        json_out_kcstr(out, "name", tags[i][0]);
        json_out_kcstr(out, "description", tags[i][1]);
        json_out_object_end(out);
    }
    json_out_array_end(out);
}

int openapi_write(Str public_url, Buf *text)
{
    JsonOut out = json_out(text);
    json_out_object(&out);
    head_write(&out, public_url);
    paths_write(&out);
    components_write(&out);
    json_out_object_end(&out);
    return json_out_ok(&out) ? 0 : -ENOMEM;
}
