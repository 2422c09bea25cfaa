/* SHA-256, HMAC-SHA256 and Standard Webhooks signatures, on OpenSSL's EVP. Any thread. */
#ifndef GANTRY_CODEC_DIGEST_H
#define GANTRY_CODEC_DIGEST_H

#include "base/str.h"

#define SHA256_BYTES 32
#define SHA256_HEX_MAX 65 /* 64 digits and a NUL */

/* The digest of bytes whole. Out of memory inside OpenSSL ends the process: the state is small. */
void sha256(Str bytes, uint8_t out[SHA256_BYTES]);

/* The same as 64 lower-case digits and a NUL. Returns out. */
char *sha256_hex(Str bytes, char out[SHA256_HEX_MAX]);

/* A digest in parts: sha256_init, sha256_add..., then sha256_end or, to give up, sha256_deinit.
 * Holds one allocation between init and end. */
typedef struct {
    void *context; /* EVP_MD_CTX, NULL when not running */
} Sha256;

void sha256_init(Sha256 *sha);
void sha256_add(Sha256 *sha, Str bytes);
void sha256_end(Sha256 *sha, uint8_t out[SHA256_BYTES]); /* leaves it as after sha256_deinit */
void sha256_deinit(Sha256 *sha);                         /* usable with CLEANUP, also twice */

/* to, not running, becomes a digest of what from was given so far; both go on by themselves. */
void sha256_copy(Sha256 *to, const Sha256 *from);

/* HMAC-SHA256 (RFC 2104). The key may have any length. */
void hmac_sha256(Str key, Str bytes, uint8_t out[SHA256_BYTES]);

/* Equality in a time that depends on the lengths only: for secrets and signatures. */
bool digest_eq(Str a, Str b);

/* --- Standard Webhooks 1.0.0, symmetric signatures ("v1") ------------------------------------- */

#define WEBHOOK_SIGNATURE_MAX 48 /* "v1,", 44 characters and a NUL */
#define WEBHOOK_SECRET_BYTES_MIN 24
#define WEBHOOK_SECRET_BYTES_MAX 64
#define WEBHOOK_SKEW_S 300 /* the clock skew receivers allow */

/* The value of the header webhook-signature over "id.timestamp_s.body". secret is "whsec_" and the
 * base64 of 24 to 64 bytes, or without that prefix the key's bytes themselves. id must not contain
 * a dot. Returns 0, or -EINVAL (diag) for a malformed secret or id. */
MUST_CHECK int webhook_sign(Str secret, Str id, int64_t timestamp_s, Str body,
                            char out[WEBHOOK_SIGNATURE_MAX]);

/* Whether one of the space-separated signatures in header is ours; those of other versions are
 * passed over. now_s and timestamp_s may differ by WEBHOOK_SKEW_S either way. Returns 0, -EINVAL
 * (malformed secret or id), -ETIME (too old or too new), -EBADMSG (no signature matches); diag. */
MUST_CHECK int webhook_verify(Str secret, Str id, int64_t timestamp_s, Str body, Str header,
                              int64_t now_s);

#endif
