/* Prices through the API: imported, shown, told to workers; and the accounts. */
#include "tests/unit/api_fixture.h"

#define CHAT "\"mode\":\"chat\",\"input_cost_per_token\":1.5e-07,\"output_cost_per_token\":6e-07"

static int setup(void **state)
{
    ApiFixture *f = xcalloc(1, sizeof *f);
    api_start(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    ApiFixture *f = *state;
    api_stop(f);
    free(f);
    return 0;
}

static const Json *price(ApiFixture *f, const char *model)
{
    Reply reply = get(f, format(f, "/api/prices?model=%s", model));
    EXPECT(reply, 200);
    return json_at(member(&reply, "prices"), 0);
}

static void test_import(void **state)
{
    ApiFixture *f = *state;
    Reply reply = post(
        f, "/api/prices",
        "{\"m\":{" CHAT ",\"junk\":[1],\"supports_vision\":true,"
        "\"input_cost_per_token_above_200k_tokens\":3e-07},"
        "\"picture\":{\"mode\":\"image_generation\",\"output_cost_per_image\":0.04}}");
    EXPECT(reply, 200);
    assert_int_equal(number(&reply, "imported"), 1);
    assert_int_equal(number(&reply, "skipped"), 1);
    assert_int_equal(number(&reply, "revision"), 1);
    EXPECT_TEXT(text(&reply, "firstSkipped"), "picture");
    const Json *m = price(f, "m");
    EXPECT_TEXT(json_str(json_get(m, "inputUsdPerMillion")), "0.15");
    EXPECT_TEXT(json_str(json_get(m, "source")), "imported");
    const Json *tier = json_at(json_get(m, "tiers"), 0);
    assert_int_equal(json_i64_or(json_get(tier, "aboveTokens"), 0), 200000);
    EXPECT_TEXT(json_str(json_get(tier, "inputUsdPerMillion")), "0.3");
    assert_null(price(f, "picture"));
    EXPECT_TEXT(json_str(json_get(price(f, "sim%2Fecho"), "model")), "sim/*");
    /* kept as it was, digits too, without what has no price in it */
    reply = get(f, "/api/prices/entries");
    EXPECT(reply, 200);
    EXPECT_TEXT(reply.body, "{\"m\":{" CHAT ",\"input_cost_per_token_above_200k_tokens\":3e-07}}");

    EXPECT(post(f, "/api/prices", "{\"n\":{" CHAT "}}"), 200);
    EXPECT_TEXT(json_str(json_get(price(f, "m"), "source")), "imported");
    EXPECT(post(f, "/api/prices?replace=true", "{\"n\":{" CHAT "}}"), 200);
    assert_null(price(f, "m"));
    reply = get(f, "/api/prices?contains=n");
    assert_true(json_len(member(&reply, "prices")) > 5);
    assert_int_equal(number(&reply, "revision"), 3);
}

static void test_refused(void **state)
{
    ApiFixture *f = *state;
    EXPECT(post(f, "/api/prices", "{\"m\":"), 400);
    EXPECT(post(f, "/api/prices", "[]"), 422);
    Reply reply = post(f, "/api/prices", "{\"m\":{\"mode\":\"chat\"}}");
    EXPECT(reply, 422);
    EXPECT_TEXT(text(&reply, "code"), "prices_invalid");
    EXPECT(get(f, "/api/prices?nonsense=1"), 400);
    EXPECT(get(f, "/api/spend?by=nonsense"), 400);
    EXPECT(get(f, "/api/spend?window=x"), 400);
    EXPECT(get(f, "/api/spend?limit=0"), 400);
    reply = get(f, "/api/prices");
    assert_int_equal(number(&reply, "revision"), 0);
}

static void test_told_to_workers(void **state)
{
    ApiFixture *f = *state;
    Reply reply = post(
        f, "/api/workers",
        "{\"name\":\"w\",\"slots\":{\"critical\":0,\"normal\":1,\"low\":0,\"shared\":0}}");
    EXPECT(reply, 201);
    const char *path = format(f, "/api/workers/%.*s/heartbeat", STR_ARG(text(&reply, "workerId")));
    reply = post(f, path, "{\"tasks\":[]}");
    EXPECT(reply, 200);
    assert_int_equal(number(&reply, "pricesRevision"), 0);
    EXPECT(post(f, "/api/prices", "{\"m\":{" CHAT "}}"), 200);
    reply = post(f, path, "{\"tasks\":[]}");
    assert_int_equal(number(&reply, "pricesRevision"), 1);
}

static void test_no_spend(void **state)
{
    ApiFixture *f = *state;
    Reply reply = get(f, "/api/spend?by=day&window=30d");
    EXPECT(reply, 200);
    EXPECT_TEXT(text(&reply, "by"), "day");
    EXPECT_TEXT(text(&reply, "costUsd"), "0.000000000");
    assert_int_equal(json_len(member(&reply, "rows")), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_import, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_told_to_workers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_spend, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
