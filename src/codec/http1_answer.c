#include "codec/http1_answer.h"

#include <llhttp.h>

#include "base/diag.h"

_Static_assert(sizeof(llhttp_t) <= HTTP1_LLHTTP_BYTES, "raise HTTP1_LLHTTP_BYTES");

static llhttp_t *llhttp_of(Http1Answer *answer)
{
    return (llhttp_t *)(void *)answer->llhttp;
}

static Http1Answer *answer_of(llhttp_t *llhttp)
{
    return CONTAINER_OF((unsigned char(*)[HTTP1_LLHTTP_BYTES])(void *)llhttp, Http1Answer, llhttp);
}

static int refuse(Http1Answer *answer, int result, const char *reason)
{
    answer->result = result;
    answer->reason = reason;
    return HPE_USER;
}

/* --- the head --------------------------------------------------------------------------------- */

/* While fields come in, their Strs hold offsets into text, which may still move. */
static Str as_offset(size_t at, size_t n)
{
    return (Str){ (const char *)at, n }; // NOLINT(performance-no-int-to-ptr)
}

static int text_add(Http1Answer *answer, const char *at, size_t n)
{
    if (answer->head_done) return 0; /* a trailer */
    if (buf_add(&answer->text, str_make(at, n))) return 0;
    return refuse(answer, -EPROTO, "the head of the answer is too large");
}

static int on_name(llhttp_t *llhttp, const char *at, size_t n)
{
    Http1Answer *answer = answer_of(llhttp);
    return text_add(answer, at, n);
}

static int on_name_complete(llhttp_t *llhttp)
{
    Http1Answer *answer = answer_of(llhttp);
    answer->value_at = answer->text.len;
    return 0;
}

static int on_value(llhttp_t *llhttp, const char *at, size_t n)
{
    return text_add(answer_of(llhttp), at, n);
}

static int on_value_complete(llhttp_t *llhttp)
{
    Http1Answer *answer = answer_of(llhttp);
    if (answer->head_done) return 0;
    Http1Field field = {
        .name = as_offset(answer->name_at, answer->value_at - answer->name_at),
        .value = as_offset(answer->value_at, answer->text.len - answer->value_at),
    };
    if (!buf_add(&answer->list, str_make((const char *)&field, sizeof field)))
        return refuse(answer, -EPROTO, "the answer has too many header fields");
    answer->name_at = answer->text.len;
    return 0;
}

static Str settled(const Http1Answer *answer, Str offset)
{
    return str_make(answer->text.ptr + (size_t)offset.ptr, offset.len);
}

static void head_reset(Http1Answer *answer)
{
    buf_clear(&answer->text);
    buf_clear(&answer->list);
    answer->name_at = answer->value_at = 0;
}

static int on_head_complete(llhttp_t *llhttp)
{
    Http1Answer *answer = answer_of(llhttp);
    if (llhttp->status_code == 101 || llhttp->upgrade)
        return refuse(answer, -EPROTO, "the answer switches protocols unasked");
    if (llhttp->http_major != 1) return refuse(answer, -EPROTO, "the answer is not HTTP/1");
    if (llhttp->status_code < 100 || llhttp->status_code > 599)
        return refuse(answer, -EPROTO, "the answer has no valid status");
    if (llhttp->status_code < 200) return 1; /* never has a body */
    answer->status = llhttp->status_code;
    answer->fields = (Http1Field *)(void *)answer->list.ptr;
    answer->fields_n = answer->list.len / sizeof *answer->fields;
    for (size_t i = 0; i < answer->fields_n; i++) {
        Http1Field *field = &answer->fields[i];
        field->name = settled(answer, field->name);
        field->value = str_trim(settled(answer, field->value));
    }
    answer->head_done = true;
    return answer->no_body ? 1 : 0;
}

static int on_body(llhttp_t *llhttp, const char *at, size_t n)
{
    Http1Answer *answer = answer_of(llhttp);
    return buf_add(answer->body, str_make(at, n)) ? 0 : refuse(answer, -ENOMEM, "out of memory");
}

static int on_end(llhttp_t *llhttp)
{
    Http1Answer *answer = answer_of(llhttp);
    if (!answer->head_done) { /* 1xx: the answer proper is still to come */
        head_reset(answer);
        return 0;
    }
    answer->ended = true;
    answer->keep = llhttp_should_keep_alive(llhttp);
    return HPE_PAUSED;
}

/* --- life ------------------------------------------------------------------------------------- */

static const llhttp_settings_t settings = {
    .on_header_field = on_name,
    .on_header_field_complete = on_name_complete,
    .on_header_value = on_value,
    .on_header_value_complete = on_value_complete,
    .on_headers_complete = on_head_complete,
    .on_body = on_body,
    .on_message_complete = on_end,
};

void http1_answer_init(Http1Answer *answer, size_t head_bytes_max, bool head)
{
    *answer = (Http1Answer){ .head_bytes_max = head_bytes_max, .no_body = head };
    buf_init(&answer->text, head_bytes_max);
    buf_init(&answer->list, HTTP1_ANSWER_FIELDS_MAX * sizeof(Http1Field));
    llhttp_init(llhttp_of(answer), HTTP_RESPONSE, &settings);
}

void http1_answer_deinit(Http1Answer *answer)
{
    buf_deinit(&answer->text);
    buf_deinit(&answer->list);
    answer->fields = NULL;
    answer->fields_n = 0;
}

/* --- taking ----------------------------------------------------------------------------------- */

static int failed(Http1Answer *answer, llhttp_t *llhttp)
{
    if (answer->result == 0) {
        answer->result = -EPROTO;
        answer->reason = llhttp_get_error_reason(llhttp);
    }
    if (answer->result == -ENOMEM) return diag_set(-ENOMEM, "no memory for the answer");
    return diag_set(answer->result, "%s", answer->reason ? answer->reason : "not an HTTP answer");
}

/* Bytes that bring no body have a limit, be they a head, chunk lines or trailers. */
static int count_head(Http1Answer *answer, size_t bytes, size_t body_bytes)
{
    answer->head_bytes = body_bytes ? 0 : answer->head_bytes + bytes;
    if (answer->head_bytes <= answer->head_bytes_max) return 0;
    answer->result = -EPROTO;
    return diag_set(-EPROTO, "the head of the answer is larger than %zu bytes",
                    answer->head_bytes_max);
}

int http1_answer_take(Http1Answer *answer, Str input, Buf *body, size_t *ret_used)
{
    llhttp_t *llhttp = llhttp_of(answer);
    assert(!answer->ended && answer->result == 0);
    *ret_used = 0;
    if (str_empty(input)) return 0;
    size_t body_before = body->len;
    answer->body = body;
    llhttp_errno_t e = llhttp_execute(llhttp, input.ptr, input.len);
    answer->body = NULL;
    if (e == HPE_OK) *ret_used = input.len;
    else if (e == HPE_PAUSED && answer->ended)
        *ret_used = (size_t)(llhttp_get_error_pos(llhttp) - input.ptr);
    else return failed(answer, llhttp);
    return count_head(answer, *ret_used, body->len - body_before);
}

int http1_answer_close(Http1Answer *answer)
{
    llhttp_t *llhttp = llhttp_of(answer);
    assert(!answer->ended);
    bool ends = answer->head_done && llhttp_message_needs_eof(llhttp) &&
                llhttp_finish(llhttp) == HPE_PAUSED;
    if (ends || answer->ended) {
        answer->ended = true;
        answer->keep = false;
        return 0;
    }
    return diag_set(-ECONNRESET, answer->head_done
                                     ? "the connection was closed before the answer was complete"
                                     : "the connection was closed before an answer came");
}

int http1_answer_status(const Http1Answer *answer)
{
    if (answer->head_done) return answer->status;
    return ((const llhttp_t *)(const void *)answer->llhttp)->status_code;
}

Str http1_answer_field(const Http1Answer *answer, Str name)
{
    for (size_t i = 0; i < answer->fields_n; i++)
        if (str_eq_nocase(answer->fields[i].name, name)) return answer->fields[i].value;
    return STR_NULL;
}
