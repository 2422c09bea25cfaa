/* Who may ask: keys, and without keys only people and programs of this machine. */
#ifndef GANTRY_API_AUTH_H
#define GANTRY_API_AUTH_H

#include "api/call.h"

#define AUTH_KEY_BYTES_MAX 512 /* longer keys are nobody's */

/* The key sent, or the empty Str. */
Str auth_key_of(const HttpReq *req);
/* Whether it is one of ApiOptions.keys. */
bool auth_is_operator(const ApiServer *api, Str key);
/* No keys are needed: dev mode. */
bool auth_is_open(const ApiServer *api);

/* Whether the request may go on. Returns 0, or what was answered: 401 without a valid key when
 * there are keys (403 for one of a tenant); in dev mode without keys 403 for a Host that is no
 * loopback name (DNS rebinding), and for a request that may change something from a page of another
 * origin. */
MUST_CHECK int auth_check_wait(ApiCall *call);

/* The host of "host:port" or "[::1]:port", without port and brackets. */
Str auth_host_name(Str authority);

/* "localhost", a name below it, 127.0.0.0/8 or ::1; case does not matter. */
bool auth_is_loopback(Str host);

#endif
