/* The answering half of codec/http1.h. */
#include "codec/http1.h"

const char *http1_status_text(int status)
{
    static const struct {
        int status;
        const char *text;
    } texts[] = {
        { 200, "OK" },
        { 201, "Created" },
        { 202, "Accepted" },
        { 204, "No Content" },
        { 206, "Partial Content" },
        { 100, "Continue" },
        { 207, "Multi-Status" },
        { 301, "Moved Permanently" },
        { 302, "Found" },
        { 303, "See Other" },
        { 304, "Not Modified" },
        { 307, "Temporary Redirect" },
        { 308, "Permanent Redirect" },
        { 400, "Bad Request" },
        { 401, "Unauthorized" },
        { 402, "Payment Required" },
        { 403, "Forbidden" },
        { 404, "Not Found" },
        { 405, "Method Not Allowed" },
        { 406, "Not Acceptable" },
        { 408, "Request Timeout" },
        { 409, "Conflict" },
        { 410, "Gone" },
        { 411, "Length Required" },
        { 412, "Precondition Failed" },
        { 413, "Content Too Large" },
        { 414, "URI Too Long" },
        { 415, "Unsupported Media Type" },
        { 416, "Range Not Satisfiable" },
        { 417, "Expectation Failed" },
        { 421, "Misdirected Request" },
        { 422, "Unprocessable Content" },
        { 425, "Too Early" },
        { 426, "Upgrade Required" },
        { 428, "Precondition Required" },
        { 429, "Too Many Requests" },
        { 431, "Request Header Fields Too Large" },
        { 500, "Internal Server Error" },
        { 501, "Not Implemented" },
        { 502, "Bad Gateway" },
        { 503, "Service Unavailable" },
        { 504, "Gateway Timeout" },
        { 505, "HTTP Version Not Supported" },
        { 507, "Insufficient Storage" },
        { 529, "Site Is Overloaded" },
    };
    for (size_t i = 0; i < ARRAY_N(texts); i++)
        if (texts[i].status == status) return texts[i].text;
    return "";
}

/* tchar of RFC 9110 section 5.6.2. */
static const bool token_bytes[256] = {
    ['0' ... '9'] = true, ['a' ... 'z'] = true, ['A' ... 'Z'] = true, ['!'] = true,  ['#'] = true,
    ['$'] = true,         ['%'] = true,         ['&'] = true,         ['\''] = true, ['*'] = true,
    ['+'] = true,         ['-'] = true,         ['.'] = true,         ['^'] = true,  ['_'] = true,
    ['`'] = true,         ['|'] = true,         ['~'] = true
};

bool http1_name_ok(Str name)
{
    for (size_t i = 0; i < name.len; i++)
        if (!token_bytes[(unsigned char)name.ptr[i]]) return false;
    return name.len > 0;
}

static bool value_byte_ok(unsigned char c)
{
    return (c >= 0x20 && c != 0x7f) || c == '\t';
}

/* Sixteen at once: every head is checked, of what is sent as of what is passed on. */
static bool value_block_ok(const char *p)
{
    typedef uint8_t Block __attribute__((vector_size(16)));
    uint64_t halves[2];
    Block v;
    memcpy(&v, p, sizeof v);
    Block bad = (Block)(((v < 0x20) & (v != '\t')) | (v == 0x7f));
    memcpy(halves, &bad, sizeof halves);
    return (halves[0] | halves[1]) == 0;
}

bool http1_value_ok(Str value)
{
    size_t i = 0;
    for (; value.len - i >= 16; i += 16)
        if (!value_block_ok(value.ptr + i)) return false;
    if (i > 0) return value_block_ok(value.ptr + value.len - 16);
    while (i < value.len && value_byte_ok((unsigned char)value.ptr[i])) i++;
    return i == value.len;
}

bool http1_add_status(Buf *buf, int status)
{
    assert(status >= 100 && status <= 999);
    char line[] = "HTTP/1.1 000 ";
    line[9] = (char)('0' + status / 100);
    line[10] = (char)('0' + status / 10 % 10);
    line[11] = (char)('0' + status % 10);
    buf_add(buf, str_make(line, sizeof line - 1));
    buf_add(buf, str_of(http1_status_text(status)));
    buf_add(buf, STR("\r\n"));
    return !buf->failed;
}

bool http1_add_field(Buf *buf, Str name, Str value)
{
    assert(http1_name_ok(name) && http1_value_ok(value));
    char *p = buf_reserve(buf, name.len + value.len + 4);
    if (!p) return false;
    memcpy(p, name.ptr, name.len);
    memcpy(p + name.len, ": ", 2);
    if (value.len > 0) memcpy(p + name.len + 2, value.ptr, value.len);
    memcpy(p + name.len + 2 + value.len, "\r\n", 2);
    buf_added(buf, name.len + value.len + 4);
    return true;
}

/* Digits of v in a base up to 16, at the end of out; returns them. Faster than snprintf, which the
 * head of every message would pay for. */
static Str number_text(uint64_t v, unsigned base, char out[HTTP1_CHUNK_LINE_MAX])
{
    size_t at = HTTP1_CHUNK_LINE_MAX;
    do {
        out[--at] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v > 0);
    return str_make(out + at, HTTP1_CHUNK_LINE_MAX - at);
}

bool http1_add_port(Buf *buf, uint16_t port)
{
    char digits[HTTP1_CHUNK_LINE_MAX];
    return buf_add(buf, STR(":")) && buf_add(buf, number_text(port, 10, digits));
}

bool http1_add_content_length(Buf *buf, uint64_t bytes)
{
    char digits[HTTP1_CHUNK_LINE_MAX];
    return http1_add_field(buf, STR("Content-Length"), number_text(bytes, 10, digits));
}

bool http1_add_chunked(Buf *buf)
{
    return buf_add(buf, STR("Transfer-Encoding: chunked\r\n"));
}

bool http1_add_head_end(Buf *buf)
{
    return buf_add(buf, STR("\r\n"));
}

Str http1_chunk_line(size_t n, char out[HTTP1_CHUNK_LINE_MAX])
{
    assert(n > 0); /* a chunk of 0 would end the body */
    char digits[HTTP1_CHUNK_LINE_MAX];
    Str text = number_text(n, 16, digits);
    memcpy(out, text.ptr, text.len);
    memcpy(out + text.len, "\r\n", 2);
    return str_make(out, text.len + 2);
}
