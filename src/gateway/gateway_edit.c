#include "gateway/gateway_edit.h"

#include <stdio.h>
#include <string.h>

#include "codec/json.h"

/* Sets one member of the text in *at, which may live in scratch. */
static int member_set(Buf *scratch, Str *at, const char *key, Str value)
{
    Buf out;
    buf_init(&out, scratch->max);
    int r = json_member_set(*at, str_of(key), value, &out);
    if (r < 0) {
        buf_deinit(&out);
        return r;
    }
    buf_deinit(scratch);
    *scratch = out;
    *at = buf_str(scratch);
    return 0;
}

static const char *cap_member(const RequestInfo *info, const Edits *edits)
{
    static const char *const usual[API_N_] = {
        [API_CHAT] = "max_completion_tokens",
        [API_RESPONSES] = "max_output_tokens",
        [API_MESSAGES] = "max_tokens",
    };
    if (info->out_cap_member) return info->out_cap_member;
    return edits->cap_member && info->api == API_CHAT ? edits->cap_member : usual[info->api];
}

static int set_cap(Buf *scratch, Str *at, const char *member, int64_t out_cap)
{
    char number[24];
    int n = snprintf(number, sizeof number, "%" PRId64, out_cap);
    return member_set(scratch, at, member, str_make(number, (size_t)n));
}

/* A server that knows only max_tokens takes a cap in max_completion_tokens for none, and answers
 * until its context is full: what was reserved would not hold. It gets the cap in both. */
static bool cap_is_overlooked(const RequestInfo *info, const Edits *edits)
{
    return info->api == API_CHAT && edits->cap_member && info->out_cap_member &&
           strcmp(edits->cap_member, info->out_cap_member) != 0;
}

static int set_model(Buf *scratch, Str *at, Str model)
{
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, 6 * REQUEST_MODEL_BYTES_MAX + 2);
    JsonOut out = json_out(&text);
    json_out_str(&out, model);
    if (!json_out_ok(&out)) return -ENOMEM;
    return member_set(scratch, at, "model", buf_str(&text));
}

/* Other stream options stay as they are. */
static int set_include_usage(Buf *scratch, Str *at)
{
    Str member, options;
    if (json_member_span(*at, STR("stream_options"), &member, &options) < 0 ||
        options.ptr[0] != '{')
        return member_set(scratch, at, "stream_options", STR("{\"include_usage\":true}"));
    CLEANUP(buf_deinit) Buf changed;
    buf_init(&changed, scratch->max);
    int r = json_member_set(options, STR("include_usage"), STR("true"), &changed);
    if (r < 0) return r;
    return member_set(scratch, at, "stream_options", buf_str(&changed));
}

static bool is_openai(Str url)
{
    Str host, own = STR("api.openai.com");
    ptrdiff_t at = str_find(url, STR("://"));
    if (at < 0) return false;
    str_split(str_skip(url, (size_t)at + 3), '/', &host, NULL);
    str_split(host, ':', &host, NULL);
    if (!str_ends_with(host, own)) return false;
    return host.len == own.len || host.ptr[host.len - own.len - 1] == '.'; /* us. and eu. */
}

bool edit_pins_service(const RequestInfo *info, Str base_url, bool has_priority_rates)
{
    bool openai = info->api == API_CHAT || info->api == API_RESPONSES;
    return openai && info->service == SERVICE_UNKNOWN &&
           (has_priority_rates || is_openai(base_url));
}

int body_edit(Str body, const RequestInfo *info, const Edits *edits, Buf *scratch, Str *ret)
{
    assert(edits->out_cap >= 0);
    Str at = body;
    int r = 0;
    if (!str_empty(edits->model)) r = set_model(scratch, &at, edits->model);
    if (r == 0 && edits->out_cap && info->api != API_EMBEDDINGS)
        r = set_cap(scratch, &at, cap_member(info, edits), edits->out_cap);
    if (r == 0 && cap_is_overlooked(info, edits))
        r = set_cap(scratch, &at, edits->cap_member,
                    edits->out_cap ? edits->out_cap : info->out_cap);
    if (r == 0 && edits->include_usage) r = set_include_usage(scratch, &at);
    if (r == 0 && edits->no_tools)
        r = member_set(scratch, &at, info->functions ? "function_call" : "tool_choice",
                       info->api == API_MESSAGES ? STR("{\"type\":\"none\"}") : STR("\"none\""));
    if (r == 0 && edits->usual_service)
        r = member_set(scratch, &at, "service_tier", STR("\"default\""));
    if (r == 0) *ret = at;
    return r;
}
