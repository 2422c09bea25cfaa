#include <stdarg.h>
#include <stdio.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/json.h"
#include "net/http_private.h"

#define PROBLEM_TYPE "application/problem+json"
#define DETAIL_BYTES_MAX 1024

/* The code of an error that was found before there was a handler to name one. */
static const char *code_of(int status)
{
    switch (status) {
    case 400: return "bad_request";
    case 408: return "request_timeout";
    case 413: return "body_too_large";
    case 414: return "target_too_long";
    case 417: return "expectation_failed";
    case 431: return "headers_too_large";
    case 503: return "overloaded";
    default: return "internal_error";
    }
}

/* The members of RFC 9457 section 3.1, and ours. */
static void problem_write(Buf *body, const HttpReq *req, int status, const char *code, Str detail)
{
    JsonOut out = json_out(body);
    json_out_object(&out);
    json_out_kcstr(&out, "type", "about:blank");
    json_out_kcstr(&out, "title", http1_status_text(status));
    json_out_ki64(&out, "status", status);
    json_out_kstr(&out, "detail", detail);
    json_out_kcstr(&out, "code", code);
    json_out_kcstr(&out, "requestId", req->request_id);
    json_out_object_end(&out);
    if (!json_out_ok(&out)) DIE("no memory for a problem's body"); /* its parts are all bounded */
}

int http_problem_wait(HttpReq *req, int status, const char *code, const char *fmt, ...)
{
    CLEANUP(buf_deinit) Buf body = { 0 };
    char detail[DETAIL_BYTES_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(detail, sizeof detail, fmt, args);
    va_end(args);
    buf_init(&body, HTTP_ERROR_BYTES_MAX);
    problem_write(&body, req, status, code, str_of(detail));
    return http_reply_wait(req, status, PROBLEM_TYPE, buf_str(&body));
}

int http_error_wait(HttpConn *c, int status, const char *detail)
{
    CLEANUP(buf_deinit) Buf body = { 0 };
    const HttpServer *server = c->server;
    const char *type = PROBLEM_TYPE;
    buf_init(&body, HTTP_ERROR_BYTES_MAX);
    if (server->options.error_body)
        server->options.error_body(&c->req, status, detail, &body, &type, server->ctx);
    else problem_write(&body, &c->req, status, code_of(status), str_of(detail));
    return http_reply_wait(&c->req, status, type, buf_str(&body));
}
