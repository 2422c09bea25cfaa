#include "observe/trace_context.h"

#include "codec/hex.h"

#define TRACE_ID_AT 3
#define TRACE_ID_LEN 32
#define PARENT_ID_AT 36
#define PARENT_ID_LEN 16
#define FLAGS_AT 53
#define FLAGS_KNOWN 0x03 /* sampled, random trace id */

/* Lower-case hexadecimal digits only (section 3.2.2). */
static bool hex_ok(Str s, size_t at, size_t n)
{
    for (size_t i = at; i < at + n; i++) {
        char c = s.ptr[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
    }
    return true;
}

static bool all_zero(Str s, size_t at, size_t n)
{
    for (size_t i = at; i < at + n; i++)
        if (s.ptr[i] != '0') return false;
    return true;
}

bool traceparent_ok(Str text)
{
    if (text.len < TRACEPARENT_LEN) return false;
    if (text.ptr[2] != '-' || text.ptr[35] != '-' || text.ptr[52] != '-') return false;
    if (!hex_ok(text, 0, 2) || !hex_ok(text, TRACE_ID_AT, TRACE_ID_LEN)) return false;
    if (!hex_ok(text, PARENT_ID_AT, PARENT_ID_LEN) || !hex_ok(text, FLAGS_AT, 2)) return false;
    if (str_starts_with(text, STR("ff"))) return false;
    bool version_0 = str_starts_with(text, STR("00"));
    if (text.len > TRACEPARENT_LEN && (version_0 || text.ptr[TRACEPARENT_LEN] != '-')) return false;
    return !all_zero(text, TRACE_ID_AT, TRACE_ID_LEN) &&
           !all_zero(text, PARENT_ID_AT, PARENT_ID_LEN);
}

void traceparent_continue(Str received, const uint8_t random[TRACEPARENT_RANDOM_BYTES],
                          char out[TRACEPARENT_MAX])
{
    uint8_t ids[TRACEPARENT_RANDOM_BYTES], flags = FLAGS_KNOWN;
    memcpy(ids, random, sizeof ids);
    ids[0] |= 1; /* never all zeros */
    ids[16] |= 1;
    if (traceparent_ok(received)) {
        int r = hex_decode(str_sub(received, TRACE_ID_AT, TRACE_ID_LEN), ids, 16);
        if (r == 0) r = hex_decode(str_sub(received, PARENT_ID_AT, PARENT_ID_LEN), ids + 16, 8);
        if (r == 0) r = hex_decode(str_sub(received, FLAGS_AT, 2), &flags, 1);
        assert(r == 0);
        flags &= FLAGS_KNOWN;
    }
    memcpy(out, "00-", 3);
    hex_encode(out + TRACE_ID_AT, ids, 16);
    out[TRACE_ID_AT + TRACE_ID_LEN] = '-';
    hex_encode(out + PARENT_ID_AT, ids + 16, 8);
    out[PARENT_ID_AT + PARENT_ID_LEN] = '-';
    hex_encode(out + FLAGS_AT, &flags, 1);
    assert(out[TRACEPARENT_LEN] == '\0');
}
