#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/special.h"
#include "vectors.h"

static void test_student_t(void **state)
{
    (void)state;
    for (JsonIter it = json_iter(vectors("special", "tCdf")); json_next(&it);) {
        double p = student_t_cdf(vectors_f64(it.value, "x"), vectors_f64(it.value, "df"));
        assert_near(p, vectors_f64(it.value, "p"), 1e-12);
    }
    assert_near(student_t_cdf(0, 7), 0.5, 1e-15);
    assert_near(student_t_cdf(INFINITY, 3), 1, 0);
    assert_near(student_t_cdf(-INFINITY, 3), 0, 0);
    for (int i = -81; i <= 81; i++) { /* Cauchy, in closed form */
        double x = i * 0.37;
        assert_near(student_t_cdf(x, 1), 0.5 + atan(x) / M_PI, 1e-14);
    }
    for (int i = -16; i <= 16; i++) /* close to the normal */
        assert_near(student_t_cdf(i * 0.37, 1e7), normal_cdf(i * 0.37), 1e-7);
}

static void test_normal(void **state)
{
    (void)state;
    for (JsonIter it = json_iter(vectors("special", "normInv")); json_next(&it);)
        assert_near(normal_quantile(vectors_f64(it.value, "p")), vectors_f64(it.value, "z"), 1e-12);
    for (int i = -800; i <= 600; i++) { /* there and back; 1 - p has few digits near 1 */
        double z = i * 0.01;
        assert_near(normal_quantile(normal_cdf(z)), z, z > 4 ? 1e-6 : 1e-11);
    }
}

static void test_chi_square(void **state)
{
    (void)state;
    for (JsonIter it = json_iter(vectors("special", "chi2Sf")); json_next(&it);) {
        double p = chi2_sf(vectors_f64(it.value, "x"), vectors_f64(it.value, "df"));
        assert_near(p, vectors_f64(it.value, "p"), 1e-12);
    }
    assert_near(chi2_sf(0, 4), 1, 0);
    for (int i = 0; i < 194; i++) { /* two degrees of freedom, in closed form; and one */
        double x = 0.01 + i * 0.31;
        assert_near(chi2_sf(x, 2), exp(-x / 2), 1e-14);
        assert_near(chi2_sf(x, 1), erfc(sqrt(x / 2)), 1e-14);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_student_t),
        cmocka_unit_test(test_normal),
        cmocka_unit_test(test_chi_square),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
