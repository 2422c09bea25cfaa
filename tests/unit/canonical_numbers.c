/* Prints doubles and what json_number_format makes of them, a line each: 16 hexadecimal digits of
 * the bits, a space, the text. tests/e2e/canonical-numbers.test has another implementation of
 * ECMAScript check every line.
 *
 * usage: canonical_numbers COUNT SEED       COUNT random ones follow the systematic ones
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "codec/json.h"
#include "tests/unit/random.h"

#define ULPS 3

static void print_bits(uint64_t bits)
{
    char text[JSON_NUMBER_TEXT_MAX];
    double v;
    memcpy(&v, &bits, sizeof v);
    if (!isfinite(v)) return;
    json_number_format(v, text);
    printf("%016" PRIx64 " %s\n", bits, text);
}

static void print_double(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    print_bits(bits);
}

/* v and what lies up to ULPS steps beside it. */
static void print_around(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    for (uint64_t i = 0; i <= 2 * ULPS; i++)
        if (bits + i >= ULPS) print_bits(bits + i - ULPS);
}

/* Where shortest digits are hard: the distance to the neighbour below halves. */
static void print_powers(void)
{
    for (int e = -1074; e <= 1023; e++) print_around(ldexp(1, e));
    for (int e = -323; e <= 308; e++) {
        char text[16];
        snprintf(text, sizeof text, "1e%d", e);
        print_around(strtod(text, NULL));
    }
}

/* What people write: tenths, prices, large counts. */
static void print_decimals(void)
{
    for (int k = 0; k < 50000; k++) {
        print_double(0.1 * k);
        print_double(-k / 1000.0);
        print_double(k * 1e-9);
    }
    for (int k = -1000; k <= 1000; k++) print_double(0x1p53 + k);
    for (int k = -1000; k <= 1000; k++) print_double(-0x1p53 + k);
    for (int e = 54; e < 72; e++)
        for (int k = -50; k <= 50; k++) print_around(ldexp(1, e) + ldexp(k, e - 50));
}

int main(int argc, char **argv)
{
    uint64_t count, seed;
    if (argc != 3 || str_to_u64(str_of(argv[1]), &count) < 0 ||
        str_to_u64(str_of(argv[2]), &seed) < 0) {
        fprintf(stderr, "usage: canonical_numbers COUNT SEED\n");
        return 2;
    }
    Random random = { seed };
    print_double(-0.0);
    print_powers();
    print_decimals();
    for (uint64_t i = 0; i < count; i++) print_bits(random_next(&random));
    return fflush(stdout) == 0 ? 0 : 1;
}
