#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/diag.h"
#include "codec/digest.h"
#include "codec/hex.h"

/* FIPS 180-4 examples and the empty message. */
static const struct {
    const char *bytes, *hex;
} sha_vectors[] = {
    { "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
    { "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
    { "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1" },
};

static void test_sha256(void **state)
{
    (void)state;
    char hex[SHA256_HEX_MAX];
    for (size_t i = 0; i < ARRAY_N(sha_vectors); i++)
        assert_string_equal(sha256_hex(str_of(sha_vectors[i].bytes), hex), sha_vectors[i].hex);
    assert_string_equal(sha256_hex(STR_NULL, hex), sha_vectors[0].hex);
}

/* A million times "a", in pieces that do not divide the block size. */
static void test_sha256_in_parts(void **state)
{
    (void)state;
    char piece[997], hex[SHA256_HEX_MAX];
    uint8_t digest[SHA256_BYTES];
    CLEANUP(sha256_deinit) Sha256 sha = { 0 };
    memset(piece, 'a', sizeof piece);
    sha256_init(&sha);
    for (size_t left = 1000000; left > 0;) {
        size_t n = MIN(left, sizeof piece);
        sha256_add(&sha, str_make(piece, n));
        left -= n;
    }
    sha256_end(&sha, digest);
    hex_encode(hex, digest, sizeof digest);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void test_sha256_may_be_given_up_and_run_again(void **state)
{
    (void)state;
    uint8_t digest[SHA256_BYTES], want[SHA256_BYTES];
    Sha256 sha = { 0 };
    sha256_deinit(&sha); /* never begun */
    sha256_init(&sha);
    sha256_add(&sha, STR("xyz"));
    sha256_deinit(&sha);
    sha256_init(&sha);
    sha256_add(&sha, STR("a"));
    sha256_add(&sha, STR_NULL);
    sha256_add(&sha, STR("bc"));
    sha256_end(&sha, digest);
    sha256(STR("abc"), want);
    assert_memory_equal(digest, want, sizeof want);
    sha256_deinit(&sha); /* after the end */
}

/* RFC 4231, test cases 1, 2, 6 (a key longer than a block). */
static void test_hmac(void **state)
{
    (void)state;
    uint8_t mac[SHA256_BYTES];
    char key[131], hex[SHA256_HEX_MAX];
    memset(key, 0x0b, 20);
    hmac_sha256(str_make(key, 20), STR("Hi There"), mac);
    hex_encode(hex, mac, sizeof mac);
    assert_string_equal(hex, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    hmac_sha256(STR("Jefe"), STR("what do ya want for nothing?"), mac);
    hex_encode(hex, mac, sizeof mac);
    assert_string_equal(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(key, 0xaa, sizeof key);
    hmac_sha256(str_make(key, sizeof key),
                STR("Test Using Larger Than Block-Size Key - Hash Key First"), mac);
    hex_encode(hex, mac, sizeof mac);
    assert_string_equal(hex, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

static void test_digest_eq(void **state)
{
    (void)state;
    assert_true(digest_eq(STR("same"), STR("same")));
    assert_true(digest_eq(STR_NULL, STR("")));
    assert_false(digest_eq(STR("same"), STR("samf")));
    assert_false(digest_eq(STR("tame"), STR("same")));
    assert_false(digest_eq(STR("same"), STR("same ")));
    assert_false(digest_eq(STR(""), STR("a")));
}

/* --- Standard Webhooks: the vector that its libraries share ----------------------------------- */

#define SECRET STR("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
#define ID STR("msg_p5jXN8AQM9LWM0D4loKWxJek")
#define BODY STR("{\"test\": 2432232314}")
#define SIGNATURE "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
static const int64_t at_s = 1614265330;

static void test_webhook_sign(void **state)
{
    (void)state;
    char out[WEBHOOK_SIGNATURE_MAX];
    assert_int_equal(webhook_sign(SECRET, ID, at_s, BODY, out), 0);
    assert_string_equal(out, SIGNATURE);
    assert_int_equal(strlen(out), WEBHOOK_SIGNATURE_MAX - 1);
}

static void test_webhook_sign_with_raw_secret(void **state)
{
    (void)state;
    char out[WEBHOOK_SIGNATURE_MAX];
    uint8_t key[24];
    /* the bytes behind the base64 of SECRET */
    assert_int_equal(hex_decode(STR("31f290f6bf06298aab4f08d43c3f082cf648a362da2da4b0"), key, 24),
                     0);
    assert_int_equal(webhook_sign(str_make((char *)key, 24), ID, at_s, BODY, out), 0);
    assert_string_equal(out, SIGNATURE);
}

static void test_webhook_refuses_bad_secrets_and_ids(void **state)
{
    (void)state;
    char sixty_five_bytes[] = "whsec_0123456701234567012345670123456701234567"
                              "01234567012345670123456701234567012345670123456=";
    const char *const bad[] = {
        "",
        "whsec_",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa==", /* 22 bytes */
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",  /* not base64 */
        "whsec_-fKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", /* another alphabet */
        sixty_five_bytes,
    };
    char out[WEBHOOK_SIGNATURE_MAX];
    for (size_t i = 0; i < ARRAY_N(bad); i++) {
        diag_clear();
        assert_int_equal(webhook_sign(str_of(bad[i]), ID, at_s, BODY, out), -EINVAL);
        assert_true(strlen(diag_text()) > 0);
        assert_null(strstr(diag_text(), "MfKQ")); /* secrets stay out of messages */
    }
    assert_int_equal(webhook_sign(SECRET, STR(""), at_s, BODY, out), -EINVAL);
    assert_int_equal(webhook_sign(SECRET, STR("a.b"), at_s, BODY, out), -EINVAL);
}

static void test_webhook_verify(void **state)
{
    (void)state;
    Str good = STR(SIGNATURE);
    Str among = STR("v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= v1a,xyz " SIGNATURE);
    Str other = STR("v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    Str other_version = STR("v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    assert_int_equal(webhook_verify(SECRET, ID, at_s, BODY, good, at_s), 0);
    assert_int_equal(webhook_verify(SECRET, ID, at_s, BODY, among, at_s), 0);
    assert_int_equal(webhook_verify(SECRET, ID, at_s, BODY, other, at_s), -EBADMSG);
    assert_int_equal(webhook_verify(SECRET, ID, at_s, BODY, other_version, at_s), -EBADMSG);
    assert_int_equal(webhook_verify(SECRET, ID, at_s, BODY, STR(""), at_s), -EBADMSG);
    assert_int_equal(webhook_verify(SECRET, ID, at_s, STR("{}"), good, at_s), -EBADMSG);
    assert_int_equal(webhook_verify(SECRET, STR("msg_2"), at_s, BODY, good, at_s), -EBADMSG);
    assert_int_equal(webhook_verify(SECRET, ID, at_s + 1, BODY, good, at_s), -EBADMSG);
}

static void test_webhook_skew(void **state)
{
    (void)state;
    Str good = STR(SIGNATURE);
    assert_int_equal(webhook_verify(SECRET, ID, at_s, BODY, good, at_s + WEBHOOK_SKEW_S), 0);
    assert_int_equal(webhook_verify(SECRET, ID, at_s, BODY, good, at_s - WEBHOOK_SKEW_S), 0);
    assert_int_equal(webhook_verify(SECRET, ID, at_s, BODY, good, at_s + WEBHOOK_SKEW_S + 1),
                     -ETIME);
    assert_int_equal(webhook_verify(SECRET, ID, at_s, BODY, good, at_s - WEBHOOK_SKEW_S - 1),
                     -ETIME);
    assert_int_equal(webhook_verify(SECRET, ID, INT64_MIN, BODY, good, INT64_MAX), -ETIME);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_sha256_in_parts),
        cmocka_unit_test(test_sha256_may_be_given_up_and_run_again),
        cmocka_unit_test(test_hmac),
        cmocka_unit_test(test_digest_eq),
        cmocka_unit_test(test_webhook_sign),
        cmocka_unit_test(test_webhook_sign_with_raw_secret),
        cmocka_unit_test(test_webhook_refuses_bad_secrets_and_ids),
        cmocka_unit_test(test_webhook_verify),
        cmocka_unit_test(test_webhook_skew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
