#include "api/models.h"

#include "api/auth.h"
#include "codec/time_text.h"

#define ACCOUNTS_DEFAULT 100

const Param accounts_params[] = {
    { "tenant", "string", "Accounts of this tenant only" },
    { "limit", "integer", "At most so many, 1 to 1000; default 100" },
    { NULL, NULL, NULL },
};

/* --- who calls -------------------------------------------------------------------------------- */

/* A call that may go on, or the answer that it gets. */
typedef struct {
    FrontCaller caller;
    Problem problem; /* PROBLEM_NONE: go on */
    const char *message;
} Admission;

static Admission refused(Problem problem, const char *message)
{
    return (Admission){ .problem = problem, .message = message };
}

static Admission of_tenant(ApiCall *call, const FrontKey *key)
{
    Str user = http_header(call->req, "x-gantry-user");
    bool ok = user.len <= FRONT_USER_BYTES_MAX && str_is_utf8(user);
    for (size_t i = 0; ok && i < user.len; i++) ok = (unsigned char)user.ptr[i] >= ' ';
    if (!ok)
        return refused(PROBLEM_INVALID, "x-gantry-user must be UTF-8 text of at most 255 bytes");
    return (Admission){ .caller = { .key = key, .user = user } };
}

static Admission admission_of(ApiCall *call)
{
    const ApiServer *api = call->api;
    const Front *front = api->options.front;
    Str key = auth_key_of(call->req);
    if (!front)
        return refused(PROBLEM_KEY,
                       "this server takes no model calls: agents make them at the base URL in "
                       "their environment; for others add a key with `role: tenant` to auth.keys "
                       "in gantry.yaml");
    if (str_starts_with(key, STR(GATEWAY_TASK_KEY_PREFIX)))
        return (Admission){ .caller = { .task_key = key } };
    const FrontKey *known = str_empty(key) || key.len > AUTH_KEY_BYTES_MAX ? NULL
                                                                           : front_key(front, key);
    if (known) return of_tenant(call, known);
    if (auth_is_operator(api, key))
        return refused(PROBLEM_ROLE,
                       "this is an operator's key, which names nobody to account a call to: use a "
                       "key with `role: tenant` of auth.keys in gantry.yaml");
    if (auth_is_open(api) && front_keys_n(front) == 0) return of_tenant(call, front_anyone(front));
    return refused(PROBLEM_KEY, str_empty(key)
                                    ? "send the key of a tenant or of a task: Authorization: "
                                      "Bearer KEY, or x-api-key: KEY"
                                    : "this key is not accepted");
}

/* --- calls ------------------------------------------------------------------------------------ */

static int body_failed_wait(ApiCall *call, const GatewayHttp *http, int r)
{
    Front *front = call->api->options.front;
    if (r == HTTP_E_TOO_LARGE || r == -ENOMEM)
        return front_refuse_wait(front, call->req, http, PROBLEM_TOO_LARGE,
                                 "the request is too large");
    http_close_after(call->req);
    if (r == -ETIMEDOUT || r == -EINVAL)
        return front_refuse_wait(front, call->req, http, PROBLEM_INVALID,
                                 "the request's body did not arrive whole");
    return r == HTTP_E_GONE ? 0 : r;
}

/* The key is looked at before the body is read; without keys, pages of other origins and other
 * names of this machine are turned away as everywhere. */
int model_call_run_wait(ApiCall *call)
{
    HttpReq *req = call->req;
    Front *front = call->api->options.front;
    GatewayHttp http;
    gateway_http_read(req, &http);
    int r = auth_is_open(call->api) ? auth_check_wait(call) : 0;
    if (r != 0) return r;
    Admission admission = admission_of(call);
    if (admission.problem != PROBLEM_NONE)
        return front_refuse_wait(front, req, &http, admission.problem, admission.message);
    if (str_eq(req->method, STR("POST"))) {
        r = http_body_wait(req, GATEWAY_REQUEST_BYTES_MAX, &http.body);
        if (r != 0) return body_failed_wait(call, &http, r);
    }
    return front_serve_wait(front, &admission.caller, req, &http);
}

int model_no_route_wait(ApiCall *call, Str allow)
{
    GatewayHttp http;
    gateway_http_read(call->req, &http);
    if (!str_empty(allow)) http_header_add(call->req, "allow", allow);
    return front_refuse_wait(call->api->options.front, call->req, &http,
                             str_empty(allow) ? PROBLEM_PATH : PROBLEM_METHOD,
                             str_empty(allow) ? "there is no such route in the gateway"
                                              : "this route has another method");
}

/* --- accounts --------------------------------------------------------------------------------- */

static void account_write(JsonOut *out, const Account *a)
{
    char id[UUID_TEXT_MAX], at[TIME_TEXT_MAX], usd[MONEY_TEXT_MAX];
    json_out_object(out);
    json_out_kcstr(out, "accountId", uuid_text(a->id, id));
    json_out_kstr(out, "tenantId", a->tenant);
    json_out_kstr_or_null(out, "agent", a->agent);
    json_out_kstr_or_null(out, "userId", a->user);
    json_out_kcstr(out, "createdAt", time_format(a->created_at_ms, at));
    json_out_kcstr(out, "usedAt", time_format(a->used_at_ms, at));
    json_out_ki64(out, "llmCalls", a->calls);
    json_out_ki64(out, "inputTokens", a->input_tokens);
    json_out_ki64(out, "outputTokens", a->output_tokens);
    json_out_ki64(out, "cachedTokens", a->cached_tokens);
    json_out_kcstr(out, "costUsd", money_text(a->cost_nusd, usd));
    json_out_ki64(out, "costNusd", a->cost_nusd);
    json_out_object_end(out);
}

int account_list_run_wait(ApiCall *call)
{
    Account *list;
    size_t n;
    int64_t limit;
    int r = api_param_i64_wait(call, "limit", 1, ACCOUNT_LIST_MAX, ACCOUNTS_DEFAULT, &limit);
    if (r != 0) return r;
    r = queue_accounts_wait(call->api->options.queue, api_param(call, "tenant"), (size_t)limit,
                            &call->req->arena, &list, &n);
    if (r != 0) return api_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json;
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_key(&json.out, "accounts");
    json_out_array(&json.out);
    for (size_t i = 0; i < n; i++) account_write(&json.out, &list[i]);
    json_out_array_end(&json.out);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}
