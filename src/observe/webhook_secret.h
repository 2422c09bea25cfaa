/* WebhookSecrets: what webhooks are signed with. After a rotation the secret before goes on signing
 * too for a while, so that receivers can change over without refusing anything.
 *
 * They come from the configuration, or from the file webhook-secret (mode 0600) in the data
 * directory: the secret, made at random when the file is not there, and perhaps a second line with
 * the one before and the Unix time in milliseconds until which it signs. Any thread.
 */
#ifndef GANTRY_OBSERVE_WEBHOOK_SECRET_H
#define GANTRY_OBSERVE_WEBHOOK_SECRET_H

#include "base/str.h"
#include "codec/digest.h"

typedef struct WebhookSecrets WebhookSecrets;

#define WEBHOOK_SECRET_TEXT_MAX 128 /* "whsec_" and base64, with a NUL */
#define WEBHOOK_SIGNATURES_MAX (2 * WEBHOOK_SIGNATURE_MAX)

enum { WEBHOOK_E_CONFIGURED = 1 }; /* the secret is the configuration's to change */

typedef struct {
    Str secret;           /* "whsec_…" or the key's bytes; empty: the file's */
    Str previous;         /* signs too as long as it is configured; empty: none */
    const char *data_dir; /* of the file; NULL: none, secret is given */
} WebhookSecretOptions;

/* Blocks on files. Returns 0, -EINVAL (malformed, or the file holds no secret), -errno with
 * diag. */
MUST_CHECK int webhook_secrets_open(const WebhookSecretOptions *options, WebhookSecrets **ret);

/* Nobody may be using them. NULL is accepted. */
void webhook_secrets_free(WebhookSecrets *secrets);
DEFINE_FREEP(WebhookSecrets, webhook_secrets_free)

/* The value of the header webhook-signature: a signature by each secret that signs at
 * timestamp_s, the newest first. Returns as webhook_sign. */
MUST_CHECK int webhook_secrets_sign(WebhookSecrets *secrets, Str id, int64_t timestamp_s, Str body,
                                    char out[WEBHOOK_SIGNATURES_MAX]);

/* Makes a new secret, durably; the one there was signs too until now_ms + overlap_ms (Unix time),
 * the one before it no more. Blocks on files. Returns 0, WEBHOOK_E_CONFIGURED, -errno with diag. */
MUST_CHECK int webhook_secrets_rotate(WebhookSecrets *secrets, int64_t overlap_ms, int64_t now_ms,
                                      char ret[WEBHOOK_SECRET_TEXT_MAX]);

#endif
