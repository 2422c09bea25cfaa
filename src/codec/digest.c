#include "codec/digest.h"

#include <stdatomic.h>
#include <stdio.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "base/diag.h"
#include "codec/base64.h"
#include "codec/hex.h"

/* OpenSSL fails here only for want of memory for a small, fixed state. */
#define MUST(call)                                     \
    do {                                               \
        if (!(call)) DIE("OpenSSL: " #call " failed"); \
    } while (0)

/* Fetched once: EVP_sha256() is looked up among the providers again by each use of it. */
static const EVP_MD *sha256_method(void)
{
    static _Atomic(EVP_MD *) fetched;
    EVP_MD *method = atomic_load(&fetched), *none = NULL;
    if (method) return method;
    MUST(method = EVP_MD_fetch(NULL, "SHA256", NULL));
    if (atomic_compare_exchange_strong(&fetched, &none, method)) return method;
    EVP_MD_free(method); /* another thread was first */
    return none;
}

static const void *some(Str bytes)
{
    return bytes.ptr ? bytes.ptr : "";
}

void sha256(Str bytes, uint8_t out[SHA256_BYTES])
{
    unsigned n = 0;
    MUST(EVP_Digest(some(bytes), bytes.len, out, &n, sha256_method(), NULL));
    assert(n == SHA256_BYTES);
}

char *sha256_hex(Str bytes, char out[SHA256_HEX_MAX])
{
    uint8_t digest[SHA256_BYTES];
    sha256(bytes, digest);
    hex_encode(out, digest, sizeof digest);
    return out;
}

void sha256_init(Sha256 *sha)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    MUST(context);
    MUST(EVP_DigestInit_ex(context, sha256_method(), NULL));
    sha->context = context;
}

void sha256_add(Sha256 *sha, Str bytes)
{
    assert(sha->context);
    MUST(EVP_DigestUpdate(sha->context, some(bytes), bytes.len));
}

void sha256_end(Sha256 *sha, uint8_t out[SHA256_BYTES])
{
    unsigned n = 0;
    assert(sha->context);
    MUST(EVP_DigestFinal_ex(sha->context, out, &n));
    assert(n == SHA256_BYTES);
    sha256_deinit(sha);
}

void sha256_deinit(Sha256 *sha)
{
    EVP_MD_CTX_free(sha->context);
    sha->context = NULL;
}

void sha256_copy(Sha256 *to, const Sha256 *from)
{
    assert(!to->context && from->context);
    MUST(to->context = EVP_MD_CTX_new());
    MUST(EVP_MD_CTX_copy_ex(to->context, from->context));
}

void hmac_sha256(Str key, Str bytes, uint8_t out[SHA256_BYTES])
{
    unsigned n = 0;
    assert(key.len <= INT32_MAX);
    MUST(HMAC(sha256_method(), some(key), (int)key.len, some(bytes), bytes.len, out, &n));
    assert(n == SHA256_BYTES);
}

bool digest_eq(Str a, Str b)
{
    return a.len == b.len && CRYPTO_memcmp(some(a), some(b), a.len) == 0;
}

/* --- Standard Webhooks ------------------------------------------------------------------------ */

#define SECRET_PREFIX STR("whsec_")

/* The key that secret stands for: secret itself, or what follows the prefix, decoded into room. */
static int secret_key(Str secret, uint8_t room[WEBHOOK_SECRET_BYTES_MAX + 3], Str *ret)
{
    size_t n;
    *ret = secret;
    if (!str_starts_with(secret, SECRET_PREFIX)) {
        if (secret.len > 0) return 0;
        return diag_set(-EINVAL, "the webhook secret is empty");
    }
    Str text = str_skip(secret, SECRET_PREFIX.len);
    if (text.len > BASE64_TEXT_MAX(WEBHOOK_SECRET_BYTES_MAX) - 1 ||
        base64_decode(text, room, &n) < 0 || n < WEBHOOK_SECRET_BYTES_MIN ||
        n > WEBHOOK_SECRET_BYTES_MAX)
        return diag_set(-EINVAL, "a webhook secret is whsec_ and the base64 of %d to %d bytes",
                        WEBHOOK_SECRET_BYTES_MIN, WEBHOOK_SECRET_BYTES_MAX);
    *ret = str_make((const char *)room, n);
    return 0;
}

/* HMAC of "id.timestamp.body", without putting the three together. */
static void content_hmac(Str key, Str id, int64_t timestamp_s, Str body, uint8_t out[SHA256_BYTES])
{
    char stamp[24];
    size_t n = 0;
    snprintf(stamp, sizeof stamp, ".%" PRId64 ".", timestamp_s);
    EVP_PKEY *pkey = EVP_PKEY_new_mac_key(EVP_PKEY_HMAC, NULL, some(key), (int)key.len);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    MUST(pkey && context);
    MUST(EVP_DigestSignInit(context, NULL, sha256_method(), NULL, pkey));
    MUST(EVP_DigestSignUpdate(context, some(id), id.len));
    MUST(EVP_DigestSignUpdate(context, stamp, strlen(stamp)));
    MUST(EVP_DigestSignUpdate(context, some(body), body.len));
    n = SHA256_BYTES;
    MUST(EVP_DigestSignFinal(context, out, &n));
    assert(n == SHA256_BYTES);
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(pkey);
}

int webhook_sign(Str secret, Str id, int64_t timestamp_s, Str body, char out[WEBHOOK_SIGNATURE_MAX])
{
    uint8_t room[WEBHOOK_SECRET_BYTES_MAX + 3], mac[SHA256_BYTES];
    Str key;
    int r = secret_key(secret, room, &key);
    if (r < 0) return r;
    if (id.len == 0 || str_find_char(id, '.') >= 0)
        return diag_set(-EINVAL, "a webhook id is not empty and has no dot");
    content_hmac(key, id, timestamp_s, body, mac);
    OPENSSL_cleanse(room, sizeof room);
    memcpy(out, "v1,", 3);
    base64_encode(out + 3, str_make((const char *)mac, sizeof mac));
    return 0;
}

int webhook_verify(Str secret, Str id, int64_t timestamp_s, Str body, Str header, int64_t now_s)
{
    char ours[WEBHOOK_SIGNATURE_MAX];
    int64_t skew_s;
    int r = webhook_sign(secret, id, timestamp_s, body, ours);
    if (r < 0) return r;
    if (__builtin_sub_overflow(now_s, timestamp_s, &skew_s) || skew_s > WEBHOOK_SKEW_S ||
        skew_s < -WEBHOOK_SKEW_S)
        return diag_set(-ETIME, "the webhook's timestamp is more than %d s off", WEBHOOK_SKEW_S);
    while (header.len > 0) {
        Str signature;
        header = str_split(header, ' ', &signature, NULL);
        if (digest_eq(signature, str_of(ours))) return 0;
    }
    return diag_set(-EBADMSG, "no signature of the webhook matches");
}
