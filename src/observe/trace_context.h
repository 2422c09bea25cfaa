/* W3C Trace Context, level 2: the header traceparent. Pure functions, any thread. */
#ifndef GANTRY_OBSERVE_TRACE_CONTEXT_H
#define GANTRY_OBSERVE_TRACE_CONTEXT_H

#include "base/str.h"

#define TRACEPARENT_LEN 55
#define TRACEPARENT_MAX (TRACEPARENT_LEN + 1)
#define TRACEPARENT_RANDOM_BYTES 24

/* Whether text can be continued: "00-<32 hex>-<16 hex>-<2 hex>", lower case, neither id all zeros;
 * a version after 00 (not ff) may have more behind. */
bool traceparent_ok(Str text);

/* The traceparent to work under: the one received, brought to version 00 and the two flags that it
 * knows (sampled, random); or, when it cannot be continued, a new sampled one made of random. */
void traceparent_continue(Str received, const uint8_t random[TRACEPARENT_RANDOM_BYTES],
                          char out[TRACEPARENT_MAX]);

#endif
