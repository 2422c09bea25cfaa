#include "tests/unit/queue_fixture.h"

#include <math.h>
#include <stdio.h>

#include "rollout/drift_watch.h"
#include "store/event_store.h"
#include "store/rollup_store.h"

#define DAY INT64_C(86400000)

static WatchConfig config;
static int64_t input_bytes = 500; /* of the days that are added */

/* A day of a version: so many tasks with that score. */
typedef struct {
    int64_t day_ms;
    const char *version;
    double score;
    int64_t input_bytes; /* -1: not known */
} Day;

static int day_job(Db *db, void *arg)
{
    const Day *day = arg;
    static Rollup r, scratch; /* one store thread */
    memset(&r, 0, sizeof(r));
    for (int i = 0; i < 60; i++) {
        rollup_add_task(&r, &(RollupTask){ .outcome = OUTCOME_SUCCEEDED,
                                           .tokens = 100 + i,
                                           .has_input = day->input_bytes >= 0,
                                           .input_bytes = day->input_bytes + 10 * i });
        rollup_add_score(&r, fmin(1, day->score + 0.001 * (i % 60 - 30)));
    }
    RollupKey key = { ROLLUP_DAY, day->day_ms, STR("support"), str_of(day->version) };
    return rollup_apply(db, &key, &r, &scratch);
}

static void add_day(Fixture *f, int64_t day_ms, const char *version, double score)
{
    Day day = { day_ms, version, score + 0.005 * (double)(day_ms / DAY * 7 % 5 - 2), input_bytes };
    CHECK_INT(store_call_wait(f->store, day_job, &day), 0);
}

typedef struct {
    Arena *arena;
    Alarm *alarms;
    size_t n;
    EventPage events;
} Lists;

static int lists_job(Db *db, void *arg)
{
    Lists *l = arg;
    int r = alarm_list(db, STR("support"), true, l->arena, &l->alarms, &l->n);
    EventFilter filter = { .type = STR("drift.alarm"), .limit = 50 };
    return r == 0 ? event_list(db, &filter, l->arena, &l->events) : r;
}

static Lists lists(Fixture *f)
{
    Lists l = { .arena = &f->arena };
    CHECK_INT(store_read_wait(f->store, lists_job, &l), 0);
    return l;
}

static int64_t look(Fixture *f, int64_t now_ms)
{
    int64_t alarms = -1;
    CHECK_INT(drift_watch_wait(f->store, &config, now_ms, &alarms), 0);
    return alarms;
}

/* A day is looked at once it is over and late scores are in; a decline raises one alarm. */
static int decline(void *arg)
{
    Fixture *f = arg;
    int64_t first = 20000 * DAY;
    CHECK_INT(look(f, first), 0);
    for (int d = 0; d < 35; d++) add_day(f, first + d * DAY, VERSION_A, 0.8);
    CHECK_INT(look(f, first + 35 * DAY + DRIFT_LAG_MS), 0);
    for (int d = 35; d < 45; d++) add_day(f, first + d * DAY, VERSION_A, 0.7);
    CHECK_INT(look(f, first + 35 * DAY + DRIFT_LAG_MS), 0); /* none of them is over */
    CHECK_INT(look(f, first + 45 * DAY + DRIFT_LAG_MS), 1);
    CHECK_INT(look(f, first + 45 * DAY + DRIFT_LAG_MS), 0);
    Lists l = lists(f);
    CHECK_INT(l.n, 1);
    CHECK_STR(l.alarms[0].metric, STR("qualityScore"));
    CHECK_STR(l.alarms[0].version_id, STR(VERSION_A));
    CHECK(l.alarms[0].day_ms >= first + 35 * DAY && l.alarms[0].slope < 0);
    CHECK_HAS(l.alarms[0].text, "a week");
    CHECK_INT(l.events.n, 1);
    CHECK_HAS(l.events.events[0].data, "\"metric\":\"qualityScore\"");
    int64_t id = l.alarms[0].id;
    CHECK_INT(drift_acknowledge_wait(f->store, id + 1, STR("ada"), STR(""), real_now), -ENOENT);
    CHECK_INT(drift_acknowledge_wait(f->store, id, STR("ada"), STR("seen"), real_now), 0);
    CHECK_INT(drift_acknowledge_wait(f->store, id, STR("ada"), STR("seen"), real_now), -ENOENT);
    CHECK_INT(lists(f).n, 0);
    for (int d = 45; d < 80; d++) add_day(f, first + d * DAY, VERSION_A, 0.7);
    CHECK_INT(look(f, first + 100 * DAY), 0); /* that is how it is now */
    return 0;
}

/* A clock that was ahead for two days leaves days behind that are yet to come: the watch does not
 * wait for them. */
static int clock_was_ahead(void *arg)
{
    Fixture *f = arg;
    int64_t first = 20000 * DAY;
    for (int d = 0; d < 20; d++) add_day(f, first + d * DAY, VERSION_A, 0.8);
    CHECK_INT(look(f, first + 20 * DAY + DRIFT_LAG_MS), 0);
    for (int d = 400; d < 402; d++) add_day(f, first + d * DAY, VERSION_A, 0.8);
    CHECK_INT(look(f, first + 402 * DAY + DRIFT_LAG_MS), 0);
    for (int d = 20; d < 35; d++) {
        add_day(f, first + d * DAY, VERSION_A, 0.8);
        CHECK_INT(look(f, first + (d + 1) * DAY + DRIFT_LAG_MS), 0);
    }
    for (int d = 35; d < 45; d++) add_day(f, first + d * DAY, VERSION_A, 0.7);
    CHECK_INT(look(f, first + 45 * DAY + DRIFT_LAG_MS), 1);
    CHECK_INT(look(f, first + 45 * DAY + DRIFT_LAG_MS), 0);
    return 0;
}

static void test_clock_was_ahead(void **state)
{
    run(state, clock_was_ahead);
}

static int sql_job(Db *db, void *arg)
{
    return db_run(db_stmt(db, arg), NULL);
}

/* What the alarm of a decline says at its end. */
static void check_cause(Fixture *f, const char *sql, const char *want)
{
    int64_t first = 20000 * DAY;
    CHECK_INT(store_call_wait(f->store, sql_job, (void *)(uintptr_t)sql), 0);
    for (int d = 0; d < 45; d++) add_day(f, first + d * DAY, VERSION_A, d < 35 ? 0.8 : 0.7);
    CHECK_INT(look(f, first + 45 * DAY + DRIFT_LAG_MS), 1);
    Lists l = lists(f);
    for (size_t i = 0; i < l.n; i++)
        if (str_eq(l.alarms[i].metric, STR("qualityScore"))) CHECK_HAS(l.alarms[i].text, want);
}

/* The first 35 days' inputs are of one length, those of the last ten of another. */
static void check_inputs(Fixture *f, int64_t before, int64_t after, const char *want,
                         const char *cause)
{
    int64_t first = 20000 * DAY;
    for (int d = 0; d < 45; d++) {
        input_bytes = d < 35 ? before : after;
        add_day(f, first + d * DAY, VERSION_A, d < 35 ? 0.8 : 0.7);
    }
    input_bytes = 500;
    CHECK_INT(look(f, first + 45 * DAY + DRIFT_LAG_MS), 1);
    Lists l = lists(f);
    CHECK_INT(l.n, 1);
    CHECK_HAS(l.alarms[0].text, want);
    CHECK_STR(l.alarms[0].cause, str_of(cause));
    CHECK_HAS(l.events.events[0].data, *cause ? "\"cause\":\"" : "\"cause\":null");
}

static int agent_moved(void *arg)
{
    check_inputs(arg, 500, 520, "Cause: agent moved: the input mix has not", "agent");
    return 0;
}

static int inputs_moved(void *arg)
{
    check_inputs(arg, 500, 4000, "Cause: input mix moved (distance 0.", "inputs");
    return 0;
}

static int nothing_known(void *arg)
{
    check_inputs(arg, -1, 500, "Cause unknown", "");
    return 0;
}

static void test_the_agent_moved(void **state)
{
    run(state, agent_moved);
}

static void test_the_inputs_moved(void **state)
{
    run(state, inputs_moved);
}

static void test_inputs_unknown(void **state)
{
    run(state, nothing_known);
}

static int not_the_judge(void *arg)
{
    check_cause(arg, "INSERT INTO anchor_chart (agent, grader, bytes) VALUES ('support', 'x', x'')",
                "anchors have raised no alarm");
    return 0;
}

static int maybe_the_judge(void *arg)
{
    check_cause(arg,
                "INSERT INTO alarm (agent, version_id, metric, day_ms, at_ms, text)"
                " VALUES ('support', 'c', 'judge:x', 1, 1, 'x')",
                "Cause: judge anchors moved.");
    return 0;
}

static void test_not_the_judge(void **state)
{
    run(state, not_the_judge);
}

static void test_maybe_the_judge(void **state)
{
    run(state, maybe_the_judge);
}

static void test_decline(void **state)
{
    run(state, decline);
}

static int first_half(void *arg)
{
    Fixture *f = arg;
    for (int d = 0; d < 30; d++) add_day(f, (20000 + d) * DAY, VERSION_A, 0.8);
    CHECK_INT(look(f, (20000 + 31) * DAY), 0);
    return 0;
}

static int second_half(void *arg)
{
    Fixture *f = arg;
    for (int d = 30; d < 40; d++) add_day(f, (20000 + d) * DAY, VERSION_A, 0.7);
    CHECK_INT(look(f, (20000 + 60) * DAY), 1);
    return 0;
}

/* What was learned before a restart is not learned anew. */
static void test_restart(void **state)
{
    Fixture *f = *state;
    run(state, first_half);
    close_queue(f);
    open_queue(f);
    run(state, second_half);
}

typedef struct {
    const char *version;
    int64_t days;
} Known;

static int known_job(Db *db, void *arg)
{
    Known *known = arg;
    CLEANUP(freep) Watch *watch = xcalloc(1, sizeof(*watch));
    int r = watch_get(db, STR("support"), str_of(known->version), watch);
    known->days = watch->charts[WATCH_QUALITY].n;
    return r;
}

/* More versions a day than one transaction takes, each looked at once a day. */
static int many_versions(void *arg)
{
    Fixture *f = arg;
    char ids[3 * DRIFT_VERSIONS_MAX][VERSION_ID_LEN + 1];
    for (size_t i = 0; i < ARRAY_N(ids); i++) {
        memset(ids[i], 'a' + (char)(i % 6), VERSION_ID_LEN);
        ids[i][VERSION_ID_LEN] = '\0';
        snprintf(ids[i], 9, "%08zx", i);
        ids[i][8] = 'f';
    }
    for (int d = 0; d < 5; d++) {
        for (size_t i = 0; i < ARRAY_N(ids); i++) add_day(f, (20000 + d) * DAY, ids[i], 0.8);
        CHECK_INT(look(f, (20000 + d + 2) * DAY), 0);
    }
    for (size_t i = 0; i < ARRAY_N(ids); i++) {
        Known known = { .version = ids[i] };
        CHECK_INT(store_read_wait(f->store, known_job, &known), 0);
        CHECK_INT(known.days, 5);
    }
    return 0;
}

static void test_many_versions(void **state)
{
    run(state, many_versions);
}

static int spoil_job(Db *db, void *arg)
{
    DbStmt *s = db_stmt(db, "UPDATE rollup SET bytes = x'0102' WHERE version_id = ?1");
    db_bind_text(s, 1, str_of(arg));
    return db_run(s, NULL);
}

/* A day of one that cannot be read is left out; the other's is looked at, and both go on. */
static int unreadable_day(void *arg)
{
    Fixture *f = arg;
    int64_t first = 20000 * DAY;
    Known a = { .version = VERSION_A }, b = { .version = VERSION_B };
    add_day(f, first, VERSION_A, 0.8);
    add_day(f, first, VERSION_B, 0.8);
    CHECK_INT(store_call_wait(f->store, spoil_job, (void *)(uintptr_t)VERSION_A), 0);
    add_day(f, first + DAY, VERSION_A, 0.8);
    add_day(f, first + DAY, VERSION_B, 0.8);
    CHECK_INT(look(f, first + 3 * DAY), 0);
    CHECK_INT(store_read_wait(f->store, known_job, &a), 0);
    CHECK_INT(store_read_wait(f->store, known_job, &b), 0);
    CHECK_INT(a.days, 1);
    CHECK_INT(b.days, 2);
    return 0;
}

static void test_unreadable_day(void **state)
{
    run(state, unreadable_day);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    static CusumWork work;
    watch_configure(&config, 365, &work);
    const struct CMUnitTest tests[] = {
        CASE(test_decline),         CASE(test_not_the_judge),   CASE(test_maybe_the_judge),
        CASE(test_clock_was_ahead), CASE(test_the_agent_moved), CASE(test_the_inputs_moved),
        CASE(test_inputs_unknown),  CASE(test_restart),         CASE(test_many_versions),
        CASE(test_unreadable_day),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
