#include "worker/door_state.h"

#include "base/diag.h"
#include "base/log.h"
#include "codec/time_text.h"
#include "codec/url.h"
#include "sys/clock.h"
#include "worker/door.h"

#define PATIENCE_MS 30000
#define DELAY_MS 100
#define DELAY_MS_MAX 2000
#define VALUE_BYTES_MAX GATEWAY_DOOR_BYTES_MAX /* read; the control plane says what is kept */
#define LIST_BYTES_MAX ((size_t)8 << 20)
#define ETAG_MAX 32

/* --- asking ----------------------------------------------------------------------------------- */

int run_state_wait(Run *run, const StateAsk *ask, Arena *arena, StateReply *ret)
{
    WorkerLink *link = run->host->link;
    bool write = ask->what == STATE_PUT || ask->what == STATE_DELETE;
    bool once = write && ask->if_version != STATE_ANY;
    int64_t delay_ms = DELAY_MS, until_ms = deadline_after(PATIENCE_MS);
    int r;
    while ((r = link->ops->state_wait(link, run->task.ref, ask, arena, ret)) < 0) {
        if (r == -ECANCELED || r == -ENOMEM || once || clock_mono_ms() + delay_ms > until_ms)
            return r;
        LOG_WARN("state not reached", LOG_CSTR("why", diag_text_or(r)),
                 LOG_INT("againMs", delay_ms));
        if (fiber_sleep_wait(delay_ms) < 0) return -ECANCELED;
        delay_ms = MIN(delay_ms * 2, DELAY_MS_MAX);
    }
    if (r == LINK_E_STALE || r == LINK_E_NO_WORKER) {
        run_stop(run, RUN_STALE);
        return -ECANCELED;
    }
    return r > 0 ? -EIO : 0;
}

static int ask_wait(Run *run, HttpReq *req, const StateAsk *ask, StateReply *ret)
{
    int r = run_state_wait(run, ask, &req->arena, ret);
    if (r == 0) return 0;
    if (r == -ECANCELED)
        return http_problem_wait(req, 503, "task_stopped", "the task was stopped meanwhile");
    LOG_WARN("state not reached", LOG_CSTR("why", diag_text_or(r)));
    return http_problem_wait(req, 503, "state_unreachable",
                             ask->what == STATE_PUT || ask->what == STATE_DELETE
                                 ? "the store cannot be reached; whether it was written is "
                                   "unknown: read it again"
                                 : "the store cannot be reached");
}

/* --- what stands in a request ----------------------------------------------------------------- */

static Str etag_text(Arena *arena, int64_t version)
{
    return arena_printf(arena, "\"%" PRId64 "\"", version);
}

/* "7"; a weak one ("W/") never matches strongly. */
static bool etag_parse(Str text, int64_t *ret)
{
    size_t n = text.len;
    return n > 2 && text.ptr[0] == '"' && text.ptr[n - 1] == '"' &&
           str_to_i64(str_sub(text, 1, n - 2), ret) == 0 && *ret > 0;
}

/* The condition of a write. Returns false when it is none that is known. */
static bool condition_read(const HttpReq *req, int64_t *ret)
{
    Str match = str_trim(http_header(req, "if-match"));
    Str none = str_trim(http_header(req, "if-none-match"));
    *ret = STATE_ANY;
    if (match.len && none.len) return false;
    if (none.len) *ret = STATE_ABSENT;
    if (none.len) return str_eq(none, STR("*"));
    if (str_eq(match, STR("*"))) *ret = STATE_PRESENT;
    if (match.len == 0 || *ret == STATE_PRESENT) return true;
    return etag_parse(match, ret);
}

static bool key_ok(Str key)
{
    return key.len > 0 && key.len <= STATE_KEY_BYTES_MAX && str_is_utf8(key) &&
           str_find_char(key, '\n') < 0 && str_find_char(key, '\r') < 0 &&
           str_find_char(key, '\t') < 0;
}

static bool type_ok(Str type)
{
    for (size_t i = 0; i < type.len; i++)
        if (type.ptr[i] < 0x20 || type.ptr[i] > 0x7e) return false;
    return type.len <= STATE_TYPE_BYTES_MAX;
}

/* --- routes ----------------------------------------------------------------------------------- */

static int absent_wait(HttpReq *req)
{
    return http_problem_wait(req, 404, "state_absent", "nothing is kept under that key");
}

static int get_wait(Run *run, HttpReq *req, Str key)
{
    StateAsk ask = { .what = STATE_GET, .key = key, .if_version = STATE_ANY };
    StateReply reply = { .outcome = STATE_OK };
    int64_t known = 0;
    int r = ask_wait(run, req, &ask, &reply);
    if (r != 0 || req->replied) return r;
    if (reply.outcome == STATE_NONE) return absent_wait(req);
    http_header_add(req, "ETag", etag_text(&req->arena, reply.row.version));
    Str none = str_trim(http_header(req, "if-none-match"));
    if (str_eq(none, STR("*")) || (etag_parse(none, &known) && known == reply.row.version))
        return http_reply_wait(req, 304, NULL, STR(""));
    const char *type = reply.row.content_type.len ? arena_cstr(&req->arena, reply.row.content_type)
                                                  : "application/octet-stream";
    return type ? http_reply_wait(req, 200, type, reply.row.value) : -ENOMEM;
}

static int list_wait(Run *run, HttpReq *req)
{
    StateAsk ask = { .what = STATE_LIST, .if_version = STATE_ANY };
    StateReply reply = { .outcome = STATE_OK };
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, LIST_BYTES_MAX);
    int r = ask_wait(run, req, &ask, &reply);
    if (r != 0 || req->replied) return r;
    JsonOut out = json_out(&body);
    json_out_object(&out);
    json_out_key(&out, "keys");
    json_out_array(&out);
    for (size_t i = 0; i < reply.rows_n; i++) {
        char at[TIME_TEXT_MAX];
        json_out_object(&out);
        json_out_kstr(&out, "key", reply.rows[i].key);
        json_out_kstr(&out, "etag", etag_text(&req->arena, reply.rows[i].version));
        json_out_ki64(&out, "bytes", reply.rows[i].bytes);
        json_out_kstr(&out, "contentType", reply.rows[i].content_type);
        json_out_kcstr(&out, "updatedAt", time_format(reply.rows[i].updated_at_ms, at));
        json_out_object_end(&out);
    }
    json_out_array_end(&out);
    json_out_object_end(&out);
    if (!json_out_ok(&out)) return diag_set(-ENOMEM, "the list is too large");
    return http_reply_wait(req, 200, "application/json", buf_str(&body));
}

/* What a write that was not made is answered. */
static int refused_wait(HttpReq *req, const StateReply *reply)
{
    if (reply->row.version)
        http_header_add(req, "ETag", etag_text(&req->arena, reply->row.version));
    switch (reply->outcome) {
    case STATE_NONE: return absent_wait(req);
    case STATE_MISMATCH:
        return http_problem_wait(req, 412, "precondition_failed",
                                 reply->row.version ? "another version is there: see ETag"
                                                    : "nothing is kept under that key");
    case STATE_FULL:
        return http_problem_wait(req, 507, "state_full",
                                 "the session has as many keys or bytes as it may have");
    default:
        return http_problem_wait(req, 413, "value_too_large",
                                 "the value has more bytes than one may have");
    }
}

static int put_wait(Run *run, HttpReq *req, StateAsk *ask)
{
    StateReply reply = { .outcome = STATE_OK };
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 16 << 10);
    int r = door_body_wait(run, req, VALUE_BYTES_MAX, &ask->value);
    if (r == HTTP_E_TOO_LARGE)
        return refused_wait(req, &(StateReply){ .outcome = STATE_TOO_LARGE });
    if (r != 0) return r == HTTP_E_GONE ? 0 : r;
    ask->content_type = http_header(req, "content-type");
    if (!type_ok(ask->content_type))
        return http_problem_wait(req, 400, "content_type_invalid",
                                 "Content-Type is to be at most %d bytes of ASCII",
                                 STATE_TYPE_BYTES_MAX);
    r = ask_wait(run, req, ask, &reply);
    if (r != 0 || req->replied) return r;
    if (reply.outcome != STATE_OK) return refused_wait(req, &reply);
    Str etag = etag_text(&req->arena, reply.row.version);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    json_out_kstr(&out, "key", ask->key);
    json_out_kstr(&out, "etag", etag);
    json_out_object_end(&out);
    http_header_add(req, "ETag", etag);
    return http_reply_wait(req, reply.created ? 201 : 200, "application/json", buf_str(&body));
}

static int delete_wait(Run *run, HttpReq *req, const StateAsk *ask)
{
    StateReply reply = { .outcome = STATE_OK };
    int r = ask_wait(run, req, ask, &reply);
    if (r != 0 || req->replied) return r;
    return reply.outcome == STATE_OK ? http_reply_wait(req, 204, NULL, STR(""))
                                     : refused_wait(req, &reply);
}

static int write_wait(Run *run, HttpReq *req, Str key)
{
    bool put = str_eq(req->method, STR("PUT"));
    StateAsk ask = { .what = put ? STATE_PUT : STATE_DELETE, .key = key };
    if (str_starts_with(key, STR(STATE_KEY_RESERVED)))
        return http_problem_wait(req, 403, "key_reserved",
                                 "keys that begin with " STATE_KEY_RESERVED " are Gantry's own");
    if (!condition_read(req, &ask.if_version))
        return http_problem_wait(req, 400, "precondition_invalid",
                                 "If-Match is an ETag or *, If-None-Match is *, one of both");
    return put ? put_wait(run, req, &ask) : delete_wait(run, req, &ask);
}

static int method_wait(HttpReq *req, Str allowed)
{
    http_header_add(req, "allow", allowed);
    return http_problem_wait(req, 405, "method_not_allowed", "the methods are %.*s",
                             STR_ARG(allowed));
}

int door_state_wait(Run *run, HttpReq *req)
{
    Str key = STR_NULL, rest = str_skip(req->path, strlen(DOOR_STATE_PATH));
    bool get = str_eq(req->method, STR("GET"));
    if (rest.len <= 1) return get ? list_wait(run, req) : method_wait(req, STR("GET"));
    int r = url_decode(&req->arena, str_skip(rest, 1), false, &key);
    if (r == -ENOMEM) return r;
    if (r < 0 || !key_ok(key))
        return http_problem_wait(req, 400, "key_invalid",
                                 "a key is 1 to %d bytes of text on one line", STATE_KEY_BYTES_MAX);
    if (get) return get_wait(run, req, key);
    if (str_eq(req->method, STR("PUT")) || str_eq(req->method, STR("DELETE")))
        return write_wait(run, req, key);
    return method_wait(req, STR("GET, PUT, DELETE"));
}
