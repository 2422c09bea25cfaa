#include "codec/openmetrics.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

OmFormat om_format_from_accept(Str accept)
{
    Str wanted = STR("application/openmetrics-text");
    bool more = true;
    while (more) {
        Str range, type;
        accept = str_split(accept, ',', &range, &more);
        str_split(range, ';', &type, NULL);
        if (str_eq_nocase(str_trim(type), wanted)) return OM_OPENMETRICS;
    }
    return OM_PROMETHEUS;
}

const char *om_content_type(OmFormat format)
{
    if (format == OM_OPENMETRICS)
        return "application/openmetrics-text; version=1.0.0; charset=utf-8";
    return "text/plain; version=0.0.4; charset=utf-8";
}

/* --- numbers ---------------------------------------------------------------------------------- */

size_t om_number_format(double v, char out[OM_NUMBER_TEXT_MAX])
{
    int n = 0;
    if (isnan(v)) return (size_t)snprintf(out, OM_NUMBER_TEXT_MAX, "NaN");
    if (isinf(v)) return (size_t)snprintf(out, OM_NUMBER_TEXT_MAX, v > 0 ? "+Inf" : "-Inf");
    /* 17 digits always read back as the same double; fewer usually do. */
    for (int digits = 15; digits <= 17; digits++) {
        n = snprintf(out, OM_NUMBER_TEXT_MAX, "%.*g", digits, v);
        if (strtod(out, NULL) == v) break;
    }
    assert(n > 0 && n < OM_NUMBER_TEXT_MAX);
    return (size_t)n;
}

static void add_number(Buf *buf, double v)
{
    char text[OM_NUMBER_TEXT_MAX];
    size_t n = om_number_format(v, text);
    buf_add(buf, str_make(text, n));
}

static void add_u64(Buf *buf, uint64_t v)
{
    buf_printf(buf, "%" PRIu64, v);
}

/* A bucket's bound. OpenMetrics compares them as text, so a whole number must show its point. */
static void add_bound(OmOut *out, double v)
{
    char text[OM_NUMBER_TEXT_MAX];
    Str number = str_make(text, om_number_format(v, text));
    buf_add(out->buf, number);
    bool whole = str_find_char(number, '.') < 0 && str_find_char(number, 'e') < 0;
    if (out->format == OM_OPENMETRICS && whole && isfinite(v)) buf_add(out->buf, STR(".0"));
}

/* --- names and escapes ------------------------------------------------------------------------ */

static bool name_ok(Str name)
{
    if (name.len == 0 || (name.ptr[0] >= '0' && name.ptr[0] <= '9')) return false;
    for (size_t i = 0; i < name.len; i++) {
        char c = name.ptr[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
        if (!letter && !(c >= '0' && c <= '9')) return false;
    }
    return true;
}

/* Label values and OpenMetrics' help escape the quote too; help in the older format must not. */
static void add_escaped(Buf *buf, Str text, bool quote)
{
    bool utf8 = str_is_utf8(text);
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (c == '\n') buf_add(buf, STR("\\n"));
        else if (c == '\\') buf_add(buf, STR("\\\\"));
        else if (c == '"' && quote) buf_add(buf, STR("\\\""));
        else if (!utf8 && ((unsigned char)c < 0x20 || (unsigned char)c >= 0x80))
            buf_add_char(buf, '?');
        else buf_add_char(buf, c);
    }
}

static void add_label(Buf *buf, const char *name, bool first)
{
    assert(name_ok(str_of(name)));
    buf_add_char(buf, first ? '{' : ',');
    buf_add(buf, str_of(name));
    buf_add(buf, STR("=\""));
}

/* --- families --------------------------------------------------------------------------------- */

/* What sample names of a type end in; the older format's family is named like its samples. */
static Str type_suffix(OmType type)
{
    if (type == OM_COUNTER) return STR("_total");
    if (type == OM_INFO) return STR("_info");
    return STR("");
}

static const char *type_text(const OmOut *out)
{
    static const char *const text[OM_TYPE_N_] = { "counter", "gauge", "histogram", "info" };
    if (out->type == OM_INFO && out->format == OM_PROMETHEUS) return "gauge";
    return text[out->type];
}

OmOut om_out(Buf *buf, OmFormat format)
{
    return (OmOut){ .buf = buf, .format = format };
}

static void add_meta(OmOut *out, const char *keyword)
{
    buf_add(out->buf, STR("# "));
    buf_add(out->buf, str_of(keyword));
    buf_add_char(out->buf, ' ');
    buf_add(out->buf, str_of(out->name));
    if (out->format == OM_PROMETHEUS) buf_add(out->buf, type_suffix(out->type));
    buf_add_char(out->buf, ' ');
}

void om_family(OmOut *out, const char *name, OmType type, const char *unit, const char *help)
{
    assert(name_ok(str_of(name)) && type < OM_TYPE_N_);
    assert(!str_ends_with(str_of(name), STR("_total")));
    assert(!unit || str_ends_with(str_of(name), str_of(unit)));
    out->name = name;
    out->type = type;
    add_meta(out, "TYPE");
    buf_add(out->buf, str_of(type_text(out)));
    buf_add_char(out->buf, '\n');
    if (unit && out->format == OM_OPENMETRICS) {
        add_meta(out, "UNIT");
        buf_add(out->buf, str_of(unit));
        buf_add_char(out->buf, '\n');
    }
    add_meta(out, "HELP");
    add_escaped(out->buf, str_of(help), out->format == OM_OPENMETRICS);
    buf_add_char(out->buf, '\n');
}

/* --- samples ---------------------------------------------------------------------------------- */

/* "name_suffix{labels" without the closing brace; returns whether one was opened. */
static bool add_series(OmOut *out, Str suffix, const OmLabel *labels, size_t labels_n)
{
    assert(out->name);
    assert(labels || labels_n == 0);
    buf_add(out->buf, str_of(out->name));
    buf_add(out->buf, suffix);
    for (size_t i = 0; i < labels_n; i++) {
        add_label(out->buf, labels[i].name, i == 0);
        add_escaped(out->buf, labels[i].value, true);
        buf_add_char(out->buf, '"');
    }
    return labels_n > 0;
}

static void add_plain_series(OmOut *out, Str suffix, const OmLabel *labels, size_t labels_n)
{
    if (add_series(out, suffix, labels, labels_n)) buf_add_char(out->buf, '}');
    buf_add_char(out->buf, ' ');
}

void om_sample(OmOut *out, const OmLabel *labels, size_t labels_n, double value)
{
    assert(out->type != OM_HISTOGRAM);
    add_plain_series(out, type_suffix(out->type), labels, labels_n);
    add_number(out->buf, value);
    buf_add_char(out->buf, '\n');
}

void om_sample_i64(OmOut *out, const OmLabel *labels, size_t labels_n, int64_t value)
{
    assert(out->type != OM_HISTOGRAM);
    add_plain_series(out, type_suffix(out->type), labels, labels_n);
    buf_printf(out->buf, "%" PRId64 "\n", value);
}

static void add_bucket(OmOut *out, const OmLabel *labels, size_t labels_n, double bound,
                       uint64_t count)
{
    bool open = add_series(out, STR("_bucket"), labels, labels_n);
    add_label(out->buf, "le", !open);
    add_bound(out, bound);
    buf_add(out->buf, STR("\"} "));
    add_u64(out->buf, count);
    buf_add_char(out->buf, '\n');
}

void om_histogram(OmOut *out, const OmLabel *labels, size_t labels_n, const double *bounds,
                  size_t bounds_n, const uint64_t *counts, double sum)
{
    assert(out->type == OM_HISTOGRAM);
    uint64_t total = 0;
    for (size_t i = 0; i < bounds_n; i++) {
        assert(isfinite(bounds[i]) && (i == 0 || bounds[i] > bounds[i - 1]));
        total += counts[i];
        add_bucket(out, labels, labels_n, bounds[i], total);
    }
    total += counts[bounds_n];
    add_bucket(out, labels, labels_n, INFINITY, total);
    add_plain_series(out, STR("_sum"), labels, labels_n);
    add_number(out->buf, sum);
    buf_add_char(out->buf, '\n');
    add_plain_series(out, STR("_count"), labels, labels_n);
    add_u64(out->buf, total);
    buf_add_char(out->buf, '\n');
}

int om_end(OmOut *out)
{
    if (out->format == OM_OPENMETRICS) buf_add(out->buf, STR("# EOF\n"));
    out->name = NULL;
    return out->buf->failed ? -ENOMEM : 0;
}
