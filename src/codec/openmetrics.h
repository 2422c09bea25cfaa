/* Metrics as text: Prometheus 0.0.4 and OpenMetrics 1.0.
 *
 * A family at a time: om_family, then its samples, families never twice. Names and labels are the
 * program's own (asserted); label values may be anything and are escaped.
 */
#ifndef GANTRY_CODEC_OPENMETRICS_H
#define GANTRY_CODEC_OPENMETRICS_H

#include "base/buf.h"

typedef enum { OM_PROMETHEUS, OM_OPENMETRICS } OmFormat;
typedef enum { OM_COUNTER, OM_GAUGE, OM_HISTOGRAM, OM_INFO, OM_TYPE_N_ } OmType;

typedef struct {
    const char *name;
    Str value; /* invalid UTF-8 is written with '?' in place of each bad byte */
} OmLabel;

typedef struct {
    Buf *buf;
    OmFormat format;
    OmType type;      /* of the family in progress */
    const char *name; /* its name */
} OmOut;

/* The format for an Accept field: OM_OPENMETRICS when it asks for application/openmetrics-text. */
OmFormat om_format_from_accept(Str accept);

/* "text/plain; version=0.0.4; charset=utf-8" or OpenMetrics' own. */
const char *om_content_type(OmFormat format);

OmOut om_out(Buf *buf, OmFormat format);

/* Begins a family. name is without the suffixes that samples get ("gantry_tasks" for
 * gantry_tasks_total, "gantry_build" for gantry_build_info) and must live until the next family.
 * unit ("seconds", or NULL) must be how the name ends. */
void om_family(OmOut *out, const char *name, OmType type, const char *unit, const char *help);

/* A sample of a counter, gauge or info family (info: value 1). labels may be NULL when labels_n
 * is 0. */
void om_sample(OmOut *out, const OmLabel *labels, size_t labels_n, double value);
void om_sample_i64(OmOut *out, const OmLabel *labels, size_t labels_n, int64_t value);

/* A histogram's samples. bounds are the finite upper bounds, ascending; counts has bounds_n + 1
 * members, each of its bucket alone (not cumulative), the last above every bound. */
void om_histogram(OmOut *out, const OmLabel *labels, size_t labels_n, const double *bounds,
                  size_t bounds_n, const uint64_t *counts, double sum);

/* Ends the text ("# EOF" in OpenMetrics). Returns 0, or -ENOMEM when the Buf did not take all. */
MUST_CHECK int om_end(OmOut *out);

/* Decimal text that reads back as v, of 15 digits where they suffice; "NaN", "+Inf", "-Inf".
 * NUL-terminated; returns its length. */
#define OM_NUMBER_TEXT_MAX 32
size_t om_number_format(double v, char out[OM_NUMBER_TEXT_MAX]);

#endif
