#include "api/api.h"

#include <stdlib.h>

#include "api/auth.h"
#include "api/call.h"
#include "api/models.h"
#include "api/route.h"
#include "base/diag.h"

#define ARENA_BYTES_MAX ((size_t)8 << 20)
#define UPLOADS_DEFAULT 2
#define UNPACKED_BYTES_MAX_DEFAULT ((size_t)128 << 20)
#define LEASE_DEFAULT_MS 10000
#define ALLOW_BYTES_MAX 64

/* --- life ------------------------------------------------------------------------------------- */

static void defaults_fill(ApiOptions *o)
{
    if (o->body_bytes_max == 0) o->body_bytes_max = API_BODY_BYTES_MAX_DEFAULT;
    if (o->upload_bytes_max == 0) o->upload_bytes_max = API_UPLOAD_BYTES_MAX_DEFAULT;
    if (o->unpacked_bytes_max == 0) o->unpacked_bytes_max = UNPACKED_BYTES_MAX_DEFAULT;
    if (o->uploads_max == 0) o->uploads_max = UPLOADS_DEFAULT;
    if (o->lease_ms == 0) o->lease_ms = LEASE_DEFAULT_MS;
}

static int keys_copy(ApiServer *api)
{
    uint8_t(*keys)[SHA256_BYTES] = arena_alloc(&api->arena,
                                               (api->options.keys_n + 1) * SHA256_BYTES);
    if (!keys) return -ENOMEM;
    if (api->options.keys_n > 0)
        memcpy(keys, api->options.keys, api->options.keys_n * SHA256_BYTES);
    api->options.keys = (const uint8_t(*)[SHA256_BYTES])keys;
    return 0;
}

static int url_copy(ApiServer *api)
{
    Str text = api->options.public_url;
    if (str_empty(text)) return 0;
    Url url;
    int r = url_parse(&api->arena, text, &url);
    if (r < 0) return diag_prefix(r, "public URL");
    while (str_ends_with(text, STR("/"))) text.len--;
    api->options.public_url = arena_str(&api->arena, text);
    api->public_host = url.host_is_addr ? auth_host_name(url.host) : url.host;
    return api->options.public_url.ptr ? 0 : -ENOMEM;
}

static int document_make(ApiServer *api)
{
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, ARENA_BYTES_MAX / 2);
    int r = openapi_write(api->options.public_url, &text);
    if (r < 0) return r;
    api->openapi = arena_str(&api->arena, buf_str(&text));
    return api->openapi.ptr ? 0 : -ENOMEM;
}

int api_new(const ApiOptions *options, ApiServer **ret)
{
    assert(options->queue && options->metrics);
    if (options->keys_n == 0 && !options->dev)
        return diag_set(-EINVAL, "an API without keys is for dev mode only");
    ApiServer *api = xcalloc(1, sizeof *api);
    api->options = *options;
    defaults_fill(&api->options);
    arena_init(&api->arena, ARENA_BYTES_MAX);
    int r = keys_copy(api);
    if (r == 0) r = url_copy(api);
    if (r == 0) r = document_make(api);
    if (r < 0) api_free(api);
    else *ret = api;
    return r;
}

void api_free(ApiServer *api)
{
    if (!api) return;
    arena_deinit(&api->arena);
    free(api);
}

size_t api_body_bytes_max(const ApiServer *api)
{
    return MAX(api->options.body_bytes_max, api->options.upload_bytes_max);
}

void api_set_deploying(ApiServer *api, bool deploying)
{
    atomic_store(&api->deploying, deploying);
}

void api_set_draining(ApiServer *api, bool draining)
{
    atomic_store(&api->draining, draining);
}

void api_set_leaving(ApiServer *api)
{
    atomic_store(&api->leaving, true);
}

/* --- dispatch --------------------------------------------------------------------------------- */

static bool method_fits(const Route *route, Str method)
{
    if (str_eq(method, str_of(route->method))) return true;
    return str_eq(method, STR("HEAD")) && strcmp(route->method, "GET") == 0;
}

static void allow_add(Buf *allow, const char *method)
{
    if (allow->len > 0) buf_add(allow, STR(", "));
    buf_add(allow, str_of(method));
    if (strcmp(method, "GET") == 0) buf_add(allow, STR(", HEAD"));
}

/* Sets call->route and its parameters. When there is none, allow lists the methods of the path, ""
 * when no route has it. */
static void route_find(ApiCall *call, Buf *allow)
{
    for (size_t i = 0; i < api_routes_n; i++) {
        const Route *route = &api_routes[i];
        Str params[URL_PARAMS_MAX] = { 0 };
        if (url_path_match(route->pattern, call->req->path, params) < 0) continue;
        allow_add(allow, route->method);
        if (!method_fits(route, call->req->method)) continue;
        call->route = route;
        memcpy(call->params, params, sizeof params);
        return;
    }
}

static int path_decode_wait(ApiCall *call)
{
    for (size_t i = 0; i < URL_PARAMS_MAX; i++) {
        if (str_empty(call->params[i])) continue;
        int r = url_decode(&call->req->arena, call->params[i], false, &call->params[i]);
        if (r == -EINVAL)
            return api_problem_wait(call, 400, "path_invalid",
                                    "the path has a broken percent-escape");
        if (r < 0) return api_fail_wait(call, r);
    }
    return 0;
}

static int param_index(const Route *route, Str name)
{
    for (int i = 0; route->params && route->params[i].name; i++)
        if (str_eq(name, str_of(route->params[i].name))) return i;
    return -1;
}

/* Each parameter is one that the route declares, given once, with a value that decodes. */
static int query_check_wait(ApiCall *call)
{
    if (call->route->any_params) return 0;
    Arena *arena = &call->req->arena;
    Str rest = call->req->query, raw_name, raw_value, name, value;
    unsigned seen = 0;
    while (url_query_next(&rest, &raw_name, &raw_value)) {
        if (url_decode(arena, raw_name, true, &name) < 0 ||
            url_decode(arena, raw_value, true, &value) < 0)
            return api_problem_wait(call, 400, "parameter_invalid",
                                    "the query has a broken percent-escape");
        int i = param_index(call->route, name);
        if (i < 0)
            return api_problem_wait(call, 400, "parameter_unknown", "there is no parameter ?%.*s",
                                    (int)MIN(name.len, (size_t)64), name.ptr);
        if (seen & (1u << i))
            return api_problem_wait(call, 400, "parameter_repeated", "?%.*s is given twice",
                                    STR_ARG(name));
        seen |= 1u << i;
    }
    return 0;
}

static int no_route_wait(ApiCall *call, Str allow)
{
    HttpReq *req = call->req;
    if (str_empty(allow))
        return api_problem_wait(call, 404, "route_not_found",
                                "there is nothing at this path; /openapi.json lists what there is");
    http_header_add(req, "Allow", allow);
    if (str_eq(req->method, STR("OPTIONS"))) return api_reply_wait(call, 204, NULL, STR(""));
    return api_problem_wait(call, 405, "method_not_allowed", "%.*s is not allowed here, but %.*s",
                            STR_ARG(req->method), STR_ARG(allow));
}

static int dispatch_wait(ApiCall *call)
{
    CLEANUP(buf_deinit) Buf allow;
    buf_init(&allow, ALLOW_BYTES_MAX);
    route_find(call, &allow);
    bool open = call->route && call->route->open;
    if (!call->route && str_starts_with(call->req->path, STR("/v1/")))
        return model_no_route_wait(call, buf_str(&allow));
    int r = open ? 0 : auth_check_wait(call);
    if (r != 0) return r;
    if (!call->route) {
        bool methods_left = buf_add(&allow,
                                    str_empty(buf_str(&allow)) ? STR("") : STR(", OPTIONS"));
        return no_route_wait(call, methods_left ? buf_str(&allow) : STR("OPTIONS"));
    }
    if ((r = path_decode_wait(call)) != 0) return r;
    if ((r = query_check_wait(call)) != 0) return r;
    return call->route->run_wait(call);
}

int api_handler(HttpReq *req, void *ctx)
{
    ApiCall call = { .api = ctx, .req = req };
    diag_clear();
    int r = dispatch_wait(&call);
    if (r < 0 && r != -ECANCELED && !req->replied) r = api_fail_wait(&call, r);
    return MIN(r, 0);
}
