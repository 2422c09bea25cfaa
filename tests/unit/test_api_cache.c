/* Response caches through the API: what workers say of theirs, and what they are told to forget. */
#include "tests/unit/api_fixture.h"

#include "store/cache_store.h"

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

static int64_t beat_revision(ApiFixture *f, const char *worker)
{
    Reply reply = post(f, format(f, "/api/workers/%s/heartbeat", worker), "{\"tasks\":[]}");
    EXPECT(reply, 200);
    return number(&reply, "cacheRevision");
}

static Reply report(ApiFixture *f, const char *worker, int64_t seen, int64_t hits)
{
    return post(f, format(f, "/api/workers/%s/cache", worker),
                format(f,
                       "{\"seen\":%" PRId64 ",\"hits\":%" PRId64 ",\"bytes\":1000,\"entries\":2}",
                       seen, hits));
}

static void test_figures(void **state)
{
    ApiFixture *f = *state;
    const char *one = worker_register(f), *two = worker_register(f);
    Reply reply = get(f, "/api/cache");
    EXPECT(reply, 200);
    assert_int_equal(json_len(member(&reply, "workers")), 0);
    assert_int_equal(number(&reply, "hits"), 0);
    EXPECT(report(f, one, 0, 3), 200);
    EXPECT(report(f, two, 0, 4), 200);
    EXPECT(report(f, one, 0, 5), 200); /* the last one counts */
    reply = get(f, "/api/cache");
    assert_int_equal(json_len(member(&reply, "workers")), 2);
    assert_int_equal(number(&reply, "hits"), 9);
    assert_int_equal(number(&reply, "bytes"), 2000);
    EXPECT(post(f, format(f, "/api/workers/%s/leave", two), "{}"), 204);
    reply = get(f, "/api/cache"); /* who has left has no cache any more */
    assert_int_equal(number(&reply, "hits"), 5);
    EXPECT(post(f, format(f, "/api/workers/%s/cache", one), "{}"), 400);
}

static void test_purges(void **state)
{
    ApiFixture *f = *state;
    const char *worker = worker_register(f);
    assert_int_equal(beat_revision(f, worker), 0);
    EXPECT(post(f, "/api/cache/purge", "{}"), 400); /* everything has to be said */
    EXPECT(post(f, "/api/cache/purge", "{\"all\":true,\"agent\":\"a\"}"), 400);
    EXPECT(post(f, "/api/cache/purge", "{\"agent\":7}"), 400);
    Reply reply = post(f, "/api/cache/purge", "{\"agent\":\"a\"}");
    EXPECT(reply, 202);
    assert_int_equal(number(&reply, "revision"), 1);
    EXPECT(post(f, "/api/cache/purge", "{\"tenantId\":\"\",\"agent\":\"b\"}"), 202);
    assert_int_equal(beat_revision(f, worker), 2);
    reply = report(f, worker, 0, 0);
    assert_int_equal(number(&reply, "revision"), 2);
    EXPECT_HAS(reply.body, "{\"tenant\":null,\"agent\":\"a\"},{\"tenant\":\"\",\"agent\":\"b\"}");
    reply = report(f, worker, 1, 0);
    assert_int_equal(json_len(member(&reply, "purges")), 1);
    reply = report(f, worker, 2, 0);
    assert_int_equal(json_len(member(&reply, "purges")), 0);
    /* a worker that has seen more than there was is of another time: all of it goes */
    reply = report(f, worker, 9, 0);
    EXPECT_HAS(reply.body, "[{\"tenant\":null,\"agent\":null}]");
}

/* Who was away for longer than purges are kept forgets everything. */
static void test_many_purges(void **state)
{
    ApiFixture *f = *state;
    const char *worker = worker_register(f);
    for (int i = 0; i < CACHE_PURGES_KEPT + 3; i++)
        EXPECT(post(f, "/api/cache/purge", "{\"agent\":\"a\"}"), 202);
    Reply reply = report(f, worker, 0, 0);
    EXPECT_HAS(reply.body, "[{\"tenant\":null,\"agent\":null}]");
    assert_int_equal(number(&reply, "revision"), CACHE_PURGES_KEPT + 3);
    reply = report(f, worker, 3, 0);
    assert_int_equal(json_len(member(&reply, "purges")), CACHE_PURGES_KEPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_figures, setup, teardown),
        cmocka_unit_test_setup_teardown(test_purges, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_purges, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
