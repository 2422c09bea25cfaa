#include "base/money.h"

#include <stdio.h>

#pragma GCC poison float double /* money is whole numbers */

#define EXPONENT_MAX 40

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Splits "digits[.digits][e[+-]digits]" into its digits (at most 60, dot removed) and the power of
 * ten of the last one. */
static int decimal_scan(Str text, char digits[64], size_t *ret_n, int64_t *ret_exponent)
{
    size_t n = 0, i = 0;
    int64_t exponent = 0;
    bool dot = false, any = false;
    for (; i < text.len && (is_digit(text.ptr[i]) || (text.ptr[i] == '.' && !dot)); i++) {
        if (text.ptr[i] == '.') {
            dot = true;
            continue;
        }
        if (n == 60) return -ERANGE;
        any = true;
        digits[n++] = text.ptr[i];
        if (dot) exponent--;
    }
    if (!any || (i && text.ptr[i - 1] == '.')) return -EINVAL;
    if (i < text.len) {
        int64_t e;
        if (text.ptr[i] != 'e' && text.ptr[i] != 'E') return -EINVAL;
        Str rest = str_skip(text, i + 1);
        if (rest.len > 1 && rest.ptr[0] == '+') rest = str_skip(rest, 1);
        int r = str_to_i64(rest, &e);
        if (r < 0) return r;
        if (e > EXPONENT_MAX || e < -EXPONENT_MAX) return -ERANGE;
        exponent += e;
    }
    *ret_n = n;
    *ret_exponent = exponent;
    return 0;
}

int money_from_text(Str text, int64_t scale, int64_t *ret)
{
    char digits[64];
    size_t n = 0;
    int64_t exponent = 0;
    assert(scale > 0);
    int r = decimal_scan(text, digits, &n, &exponent);
    if (r < 0) return r;
    for (; scale > 1; scale /= 10) {
        assert(scale % 10 == 0);
        exponent++;
    }
    __int128 value = 0;
    bool dropped = false; /* a non-zero digit below the unit: round up */
    for (size_t i = 0; i < n; i++) {
        int64_t power = exponent + (int64_t)(n - 1 - i); /* of this digit */
        if (power < 0) {
            dropped = dropped || digits[i] != '0';
            continue;
        }
        value = value * 10 + (digits[i] - '0');
        if (value > INT64_MAX) return -ERANGE;
    }
    for (int64_t p = exponent; p > 0 && value; p--) {
        value *= 10;
        if (value > INT64_MAX) return -ERANGE;
    }
    value += dropped;
    if (value > INT64_MAX) return -ERANGE;
    *ret = (int64_t)value;
    return 0;
}

char *money_text(int64_t nusd, char out[MONEY_TEXT_MAX])
{
    char digits[MONEY_TEXT_MAX], *at = digits + sizeof digits;
    uint64_t rest = nusd < 0 ? 0 - (uint64_t)nusd : (uint64_t)nusd;
    *--at = '\0';
    for (int i = 0; i < MONEY_DECIMALS || rest > 0 || *at == '.'; i++, rest /= 10) {
        *--at = (char)('0' + rest % 10);
        if (i == MONEY_DECIMALS - 1) *--at = '.';
    }
    if (nusd < 0) *--at = '-';
    return memcpy(out, at, (size_t)(digits + sizeof digits - at));
}

bool money_add_tokens(__int128 *sum_pusd, int64_t tokens, int64_t pusd_per_token)
{
    __int128 sum;
    assert(tokens >= 0 && pusd_per_token >= 0);
    if (__builtin_add_overflow(*sum_pusd, (__int128)tokens * pusd_per_token, &sum)) return false;
    *sum_pusd = sum;
    return true;
}

int64_t money_nusd_from_pusd(__int128 pusd)
{
    assert(pusd >= 0);
    __int128 nusd = pusd / 1000 + (pusd % 1000 != 0);
    return nusd > INT64_MAX ? INT64_MAX : (int64_t)nusd;
}

int64_t money_add(int64_t a, int64_t b)
{
    int64_t sum;
    assert(a >= 0 && b >= 0);
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}
