#include "codec/uuid.h"

#include "codec/hex.h"

#define UUID7_MS_MAX ((INT64_C(1) << 48) - 1)
#define COUNTER_MAX 0xfffu
#define COUNTER_SEED_MASK 0x7ffu /* the top bit starts clear, to leave room to count */

static Uuid uuid7_pack(int64_t unix_ms, unsigned rand_a, const uint8_t rand_b[8])
{
    Uuid id;
    assert(unix_ms >= 0 && unix_ms <= UUID7_MS_MAX);
    assert(rand_a <= COUNTER_MAX);
    for (int i = 0; i < 6; i++) id.bytes[i] = (uint8_t)(unix_ms >> (40 - 8 * i));
    id.bytes[6] = (uint8_t)(0x70 | rand_a >> 8); /* version 7 */
    id.bytes[7] = (uint8_t)rand_a;
    memcpy(id.bytes + 8, rand_b, 8);
    id.bytes[8] = (uint8_t)(0x80 | (id.bytes[8] & 0x3f)); /* variant 10 */
    return id;
}

static unsigned rand_a_of(const uint8_t random[UUID7_RANDOM_BYTES])
{
    return ((unsigned)random[0] << 8 | random[1]) & COUNTER_MAX;
}

Uuid uuid7_make(int64_t unix_ms, const uint8_t random[UUID7_RANDOM_BYTES])
{
    return uuid7_pack(unix_ms, rand_a_of(random), random + 2);
}

Uuid uuid7_next(Uuid7Gen *gen, int64_t unix_ms, const uint8_t random[UUID7_RANDOM_BYTES])
{
    assert(unix_ms >= 0 && unix_ms <= UUID7_MS_MAX);
    bool same_ms = unix_ms <= gen->last_ms; /* or the clock stepped back */
    if (same_ms && gen->counter < COUNTER_MAX) {
        gen->counter++;
    } else {
        gen->last_ms = same_ms ? gen->last_ms + 1 : unix_ms;
        gen->counter = (uint16_t)(rand_a_of(random) & COUNTER_SEED_MASK);
    }
    return uuid7_pack(gen->last_ms, gen->counter, random + 2);
}

int64_t uuid7_ms(Uuid id)
{
    int64_t ms = 0;
    for (int i = 0; i < 6; i++) ms = ms << 8 | id.bytes[i];
    return ms;
}

/* The digits before each hyphen: 8-4-4-4-12. */
static const uint8_t group_bytes[] = { 4, 2, 2, 2, 6 };

char *uuid_text(Uuid id, char out[UUID_TEXT_MAX])
{
    const uint8_t *from = id.bytes;
    char *to = out;
    for (size_t i = 0; i < ARRAY_N(group_bytes); i++) {
        if (i > 0) *to++ = '-';
        hex_encode(to, from, group_bytes[i]);
        from += group_bytes[i];
        to += 2 * group_bytes[i];
    }
    assert(to == out + UUID_TEXT_MAX - 1 && *to == '\0');
    return out;
}

int uuid_from_text(Str text, Uuid *ret)
{
    Uuid id;
    uint8_t *to = id.bytes;
    size_t at = 0;
    if (text.len != UUID_TEXT_MAX - 1) return -EINVAL;
    for (size_t i = 0; i < ARRAY_N(group_bytes); i++) {
        if (i > 0 && text.ptr[at++] != '-') return -EINVAL;
        size_t digits = 2 * (size_t)group_bytes[i];
        if (hex_decode(str_sub(text, at, digits), to, group_bytes[i]) < 0) return -EINVAL;
        to += group_bytes[i];
        at += digits;
    }
    *ret = id;
    return 0;
}

int uuid_cmp(Uuid a, Uuid b)
{
    return memcmp(a.bytes, b.bytes, sizeof a.bytes);
}

bool uuid_eq(Uuid a, Uuid b)
{
    return uuid_cmp(a, b) == 0;
}

bool uuid_is_zero(Uuid id)
{
    return uuid_eq(id, (Uuid){ { 0 } });
}
