/* POST /agent/execute. Its body and its query mean the same; see execute.c. */
#ifndef GANTRY_API_EXECUTE_H
#define GANTRY_API_EXECUTE_H

#include "api/route.h"

extern const BodySpec execute_body;
extern const Param execute_params[];

/* The key in the header Idempotency-Key: a quoted string (RFC 8941) or the same text bare is one
 * key. Empty when the header is. Returns 0, -EINVAL (malformed, empty or too long), -ENOMEM. */
MUST_CHECK int idempotency_key_read(Arena *arena, Str header, Str *ret);

#endif
