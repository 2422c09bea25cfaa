#include "api/auth.h"

#include "codec/addr.h"
#include "codec/digest.h"

Str auth_host_name(Str authority)
{
    if (str_starts_with(authority, STR("["))) {
        ptrdiff_t end = str_find_char(authority, ']');
        return end < 0 ? STR_NULL : str_sub(authority, 1, (size_t)end - 1);
    }
    Str host;
    str_split(authority, ':', &host, NULL);
    return host;
}

static bool ends_nocase(Str s, Str end)
{
    return s.len >= end.len && str_eq_nocase(str_skip(s, s.len - end.len), end);
}

bool auth_is_loopback(Str host)
{
    if (str_eq_nocase(host, STR("localhost")) || ends_nocase(host, STR(".localhost"))) return true;
    Addr addr;
    if (addr_from_text(host, &addr) < 0) return false;
    return addr_class(addr, NULL, 0) == ADDR_LOOPBACK;
}

Str auth_key_of(const HttpReq *req)
{
    Str value = http_header(req, "authorization"), scheme;
    Str rest = str_split(value, ' ', &scheme, NULL);
    if (str_eq_nocase(scheme, STR("bearer"))) return str_trim(rest);
    return http_header(req, "x-api-key");
}

/* Every key is compared, whichever fits: the time says nothing. */
bool auth_is_operator(const ApiServer *api, Str key)
{
    if (str_empty(key) || key.len > AUTH_KEY_BYTES_MAX) return false;
    uint8_t digest[SHA256_BYTES];
    sha256(key, digest);
    unsigned found = 0;
    for (size_t i = 0; i < api->options.keys_n; i++)
        found |= digest_eq(str_make((const char *)digest, sizeof digest),
                           str_make((const char *)api->options.keys[i], SHA256_BYTES));
    return found != 0;
}

static int key_check_wait(ApiCall *call)
{
    Str key = auth_key_of(call->req);
    const Front *front = call->api->options.front;
    if (auth_is_operator(call->api, key)) return 0;
    if (front && key.len <= AUTH_KEY_BYTES_MAX && front_key(front, key))
        return api_problem_wait(call, 403, "key_not_allowed",
                                "a tenant's key is for model calls (/v1/...) only");
    http_header_add(call->req, "WWW-Authenticate", STR("Bearer realm=\"gantry\""));
    return api_problem_wait(call, 401, "not_authorised",
                            str_empty(key) ? "send an API key: Authorization: Bearer KEY"
                                           : "this API key is not accepted");
}

static bool changes_something(const HttpReq *req)
{
    return !str_eq(req->method, STR("GET")) && !str_eq(req->method, STR("HEAD")) &&
           !str_eq(req->method, STR("OPTIONS"));
}

static bool host_ok(const ApiServer *api, Str host)
{
    Str name = auth_host_name(host);
    return auth_is_loopback(name) ||
           (!str_empty(api->public_host) && str_eq_nocase(name, api->public_host));
}

/* A page's origin is its scheme and authority; ours is whatever Host says, which was checked. */
static bool origin_ok(const ApiServer *api, Str origin, Str host)
{
    if (str_eq_nocase(origin, api->options.public_url) && !str_empty(origin)) return true;
    ptrdiff_t at = str_find(origin, STR("://"));
    return at > 0 && str_eq_nocase(str_skip(origin, (size_t)at + 3), host);
}

static int origin_check_wait(ApiCall *call)
{
    Str host = http_header(call->req, "host");
    if (!str_empty(host) && !host_ok(call->api, host))
        return api_problem_wait(call, 403, "host_refused",
                                "without API keys only loopback names are served, not \"%.*s\"",
                                (int)MIN(host.len, (size_t)128), host.ptr);
    Str origin = http_header(call->req, "origin");
    if (str_empty(origin) || !changes_something(call->req)) return 0;
    if (origin_ok(call->api, origin, host)) return 0;
    return api_problem_wait(call, 403, "origin_refused",
                            "pages of \"%.*s\" may not change anything here",
                            (int)MIN(origin.len, (size_t)128), origin.ptr);
}

bool auth_is_open(const ApiServer *api)
{
    return api->options.keys_n == 0;
}

int auth_check_wait(ApiCall *call)
{
    return auth_is_open(call->api) ? origin_check_wait(call) : key_check_wait(call);
}
