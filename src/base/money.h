/* Money: int64 nano-USD in ledgers, int64 pico-USD a token in prices. Never floating point.
 *
 * 1 USD = 10^9 nano-USD = 10^12 pico-USD. int64 nano-USD reaches 9.2 billion USD.
 */
#ifndef GANTRY_BASE_MONEY_H
#define GANTRY_BASE_MONEY_H

#include "base/str.h"

#define NUSD_PER_USD INT64_C(1000000000)
#define MONEY_DECIMALS 9 /* of a USD amount in nano-USD */
#define PUSD_PER_USD INT64_C(1000000000000)
#define MONEY_TEXT_MAX 32

/* Decimal text ("0.50", "12", "7.5e-08") times scale, rounded up to a whole number; negative
 * amounts are refused. Returns 0, -EINVAL for another form, -ERANGE when it does not fit. Exact:
 * works on the digits. */
MUST_CHECK int money_from_text(Str text, int64_t scale, int64_t *ret);

/* "0.004215000": nano-USD as USD with nine decimals, NUL-terminated into out. Returns out. */
char *money_text(int64_t nusd, char out[MONEY_TEXT_MAX]);

/* tokens x pico-USD a token, summed into *sum_pusd; false on overflow, *sum_pusd untouched. */
MUST_CHECK bool money_add_tokens(__int128 *sum_pusd, int64_t tokens, int64_t pusd_per_token);

/* pico-USD to nano-USD, rounding up; saturates at INT64_MAX (above any limit, so it refuses). */
int64_t money_nusd_from_pusd(__int128 pusd);

/* a + b, saturating at INT64_MAX; both must be >= 0. */
int64_t money_add(int64_t a, int64_t b);

#endif
