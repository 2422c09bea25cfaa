#include "tests/unit/queue_fixture.h"

#include "store/idempotency_store.h"

static JournalNew recording(const char *call_id, char key, const char *answer)
{
    JournalNew rec = { .kind = REPLAY_MODEL,
                       .name = STR("chat"),
                       .call_id = str_of(call_id),
                       .status = 200,
                       .content_type = STR("application/json"),
                       .complete = true,
                       .answer = { .bytes = str_of(answer), .n = (int64_t)strlen(answer) },
                       .request = { .rest = { .bytes = STR("{}") }, .n = 2 } };
    memset(rec.key, key, sizeof rec.key);
    return rec;
}

static Call call_of(const char *call_id, const JournalNew *rec)
{
    return (Call){ .call_id = str_of(call_id),
                   .provider = STR("p"),
                   .model = STR("m"),
                   .protocol = STR("openai"),
                   .outcome = STR("ok"),
                   .at_ms = 5,
                   .recording = rec };
}

static size_t count(Fixture *f, TaskRef ref, JournalRow **ret)
{
    size_t n = 0;
    CHECK_INT(queue_journal_list_wait(f->queue, ref, 0, 100, &f->arena, ret, &n), 0);
    return n;
}

/* --- kept with the calls, read by the next attempt -------------------------------------------- */

static int body_next_attempt(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    submit(f, LANE_NORMAL);
    TaskRef first = claim_one(f, worker);
    JournalNew rec = recording("c1", 'a', "answer");
    Call call = call_of("c1", &rec);
    JournalRow *rows, row;
    JournalBytes answer;
    CHECK_INT(queue_calls_add_wait(f->queue, first, &call, 1), 0);
    CHECK_INT(queue_calls_add_wait(f->queue, first, &call, 1), 0); /* the answer was lost */
    CHECK_INT(finish(f, first, TASK_OUTCOME_RELEASED, NULL), 0);
    CHECK_INT(queue_calls_add_wait(f->queue, first, &call, 1), QUEUE_E_STALE);
    TaskRef second = claim_one(f, worker);
    size_t n;
    CHECK_INT(queue_journal_list_wait(f->queue, first, 0, 9, &f->arena, &rows, &n), QUEUE_E_STALE);
    if (!CHECK_INT(count(f, second, &rows), 1)) return 0;
    CHECK_INT(rows[0].attempt, 1);
    CHECK_INT(rows[0].key[0], 'a');
    CHECK_INT(queue_journal_answer_wait(f->queue, second, 1, &f->arena, &row, &answer), 0);
    CHECK_STR(answer.bytes, STR("answer"));
    CHECK_INT(queue_journal_answer_wait(f->queue, second, 2, &f->arena, &row, &answer),
              QUEUE_E_NO_RECORDING);
    CHECK_INT(queue_journal_answer_wait(f->queue, first, 1, &f->arena, &row, &answer),
              QUEUE_E_STALE);
    CLEANUP(buf_deinit) Buf request;
    buf_init(&request, 100);
    CHECK_INT(queue_journal_request_wait(f->queue, second, 1, &request), 0);
    CHECK_STR(buf_str(&request), STR("{}"));
    CHECK_INT(queue_journal_request_wait(f->queue, second, 2, &request), QUEUE_E_NO_RECORDING);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.journal_recordings, 1);
    CHECK_INT(stats.journal_bytes, 8);
    return 0;
}

static void test_next_attempt(void **state)
{
    run(state, body_next_attempt);
}

static int keep_one(Fixture *f, TaskRef ref, const char *call_id, const char *text)
{
    JournalNew rec = recording(call_id, 'k', text);
    Call call = call_of(call_id, &rec);
    return queue_calls_add_wait(f->queue, ref, &call, 1);
}

static void check_answer(Fixture *f, TaskRef ref, int64_t n, const char *text)
{
    JournalRow row;
    JournalBytes answer;
    if (!CHECK_INT(queue_journal_answer_wait(f->queue, ref, n, &f->arena, &row, &answer), 0))
        return;
    CHECK_STR(answer.bytes, str_of(text));
    CHECK_INT(row.n, n);
    CHECK_INT(row.status, 200);
}

/* Where they are is remembered; not of what was added since, nor of another task. */
static int body_places(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 2, WORKER_EMBEDDED);
    JournalRow row;
    JournalBytes answer;
    submit(f, LANE_NORMAL);
    submit(f, LANE_NORMAL);
    TaskRef one = claim_one(f, worker), two = claim_one(f, worker);
    CHECK_INT(keep_one(f, one, "a1", "first"), 0);
    CHECK_INT(keep_one(f, two, "b1", "other"), 0);
    CHECK_INT(keep_one(f, one, "a2", "second"), 0);
    for (int i = 0; i < 2; i++) {
        check_answer(f, one, 2, "second");
        check_answer(f, two, 1, "other");
        check_answer(f, one, 1, "first");
    }
    CHECK_INT(queue_journal_answer_wait(f->queue, one, 3, &f->arena, &row, &answer),
              QUEUE_E_NO_RECORDING);
    CHECK_INT(queue_journal_answer_wait(f->queue, one, 0, &f->arena, &row, &answer),
              QUEUE_E_NO_RECORDING);
    CHECK_INT(keep_one(f, one, "a3", "third"), 0);
    check_answer(f, one, 3, "third");
    check_answer(f, one, 1, "first");
    return 0;
}

static void test_places(void **state)
{
    run(state, body_places);
}

/* Tried again by hand: served what there is, or nothing of it. */
static int body_fresh(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED), id = submit(f, LANE_NORMAL);
    JournalNew rec[3] = { recording("c1", 'a', "1"), recording("c2", 'b', "2"),
                          recording("c3", 'c', "3") };
    JournalRow *rows;
    for (int i = 0; i < 3; i++) {
        char call_id[] = { 'c', (char)('1' + i), 0 };
        TaskRef ref = claim_one(f, worker);
        Call call = call_of(call_id, &rec[i]);
        CHECK_INT(count(f, ref, &rows), i);
        CHECK_INT(queue_calls_add_wait(f->queue, ref, &call, 1), 0);
        CHECK_INT(finish(f, ref, TASK_OUTCOME_FAILED_FINAL, NULL), 0);
        CHECK_INT(queue_retry_wait(f->queue, id, i == 2), 0);
    }
    TaskRef fresh = claim_one(f, worker);
    Call again = call_of("c4", &rec[0]);
    rec[0].call_id = STR("c4");
    CHECK_INT(count(f, fresh, &rows), 0);
    CHECK_INT(queue_calls_add_wait(f->queue, fresh, &again, 1), 0);
    CHECK_INT(count(f, fresh, &rows), 1);
    CHECK_INT(rows[0].n, 4); /* the others are there to be looked at */
    return 0;
}

/* Attempt after attempt is lost, but each gets further: only those in a row that do not are to
 * blame. */
static int body_losses(void *arg)
{
    Fixture *f = arg;
    Uuid id = submit(f, LANE_NORMAL);
    for (int i = 0; i < 3 * TASK_LOSSES_MAX; i++) {
        char call_id[] = { 'c', (char)('a' + i), 0 };
        JournalNew rec = recording(call_id, call_id[1], "answer");
        Call call = call_of(call_id, &rec);
        Uuid worker = add_worker(f, i + 1, WORKER_REMOTE);
        TaskRef ref = claim_one(f, worker);
        if (i % 2 == 0) CHECK_INT(queue_calls_add_wait(f->queue, ref, &call, 1), 0);
        pass_ms(10001);
        CHECK_INT(queue_tick_wait(f->queue), 0);
        CHECK_INT(get(f, id).losses, i % 2 + 1);
        pass_ms(300000);
    }
    CHECK_INT(get(f, id).state, TASK_QUEUED);
    return 0;
}

static void test_losses(void **state)
{
    run(state, body_losses);
}

static void test_fresh(void **state)
{
    run(state, body_fresh);
}

static int body_tools(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    submit(f, LANE_NORMAL);
    TaskRef ref = claim_one(f, worker);
    JournalNew tools[2] = { recording("t1", 'a', "1"), recording("t2", 'a', "2") };
    JournalRow *rows;
    tools[0].kind = tools[1].kind = REPLAY_TOOL;
    CHECK_INT(queue_journal_add_wait(f->queue, ref, tools, 2), 0);
    CHECK_INT(queue_journal_add_wait(f->queue, ref, tools, 2), 0); /* the answer was lost */
    CHECK_INT(count(f, ref, &rows), 2);
    ref.fence++;
    CHECK_INT(queue_journal_add_wait(f->queue, ref, tools, 1), QUEUE_E_STALE);
    return 0;
}

static void test_tools(void **state)
{
    run(state, body_tools);
}

/* --- limits ----------------------------------------------------------------------------------- */

typedef struct {
    JournalFill fill;
    int64_t misses;
} JournalState;

static int state_job(Db *db, void *arg)
{
    JournalState *state = arg;
    int r = journal_misses(db, 1, &state->misses);
    return r == 0 ? journal_fill_read(db, 1, &state->fill) : r;
}

static int body_full(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED), id = submit(f, LANE_NORMAL);
    TaskRef ref = claim_one(f, worker);
    JournalNew recs[3] = { recording("c1", 'a', "123456"), recording("c2", 'b', "123456"),
                           recording("c3", 'c', "") };
    Call calls[3] = { call_of("c1", &recs[0]), call_of("c2", &recs[1]), call_of("c3", &recs[2]) };
    JournalRow *rows;
    calls[2].replay_missed = true;
    CHECK_INT(queue_calls_add_wait(f->queue, ref, calls, 3), 0); /* the calls stand */
    CHECK_INT(get(f, id).usage.llm_calls, 3);
    CHECK_INT(count(f, ref, &rows), 1);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.journal_recordings, 1);
    CHECK_INT(stats.journal_dropped, 2);
    CHECK_INT(stats.journal_closed, 1);
    JournalState state;
    CHECK_INT(store_read_wait(f->store, state_job, &state), 0);
    CHECK(state.fill.closed);
    CHECK_INT(state.misses, 1);
    return 0;
}

static void test_full(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->options.journal_bytes_max = 10;
    open_queue(f);
    run(state, body_full);
}

/* --- retention -------------------------------------------------------------------------------- */

static int body_retention(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    submit(f, LANE_NORMAL);
    TaskRef ref = claim_one(f, worker);
    JournalNew rec = recording("c1", 'a', "answer");
    Call call = call_of("c1", &rec);
    JournalState state;
    CHECK_INT(queue_calls_add_wait(f->queue, ref, &call, 1), 0);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_INT(store_read_wait(f->store, state_job, &state), 0);
    CHECK_INT(state.fill.recordings, 1);
    pass_ms(2000);
    CHECK_INT(queue_tick_wait(f->queue), 0); /* recorded long ago, ended not: looks again later */
    pass_ms(2000);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_INT(store_read_wait(f->store, state_job, &state), 0);
    CHECK_INT(state.fill.recordings, 0);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.journal_purged, 1);
    return 0;
}

static void test_retention(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->options.journal_kept_ms = 1000;
    open_queue(f);
    run(state, body_retention);
}

static int keys_job(Db *db, void *arg)
{
    DbStmt *s = db_stmt(db, "SELECT (SELECT count(*) FROM idempotency),"
                            " (SELECT count(*) FROM journal_task)");
    CHECK_INT(db_step(s), DB_E_ROW);
    for (int i = 0; i < 2; i++) ((int64_t *)arg)[i] = db_i64(s, i);
    db_reset(s);
    return 0;
}

static int add_keys_job(Db *db, void *arg)
{
    (void)arg;
    for (int i = 0; i < 1600; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%d", i);
        int r = idempotency_insert(db, STR(""), str_of(key), STR("f"), worker_of(1), real_now);
        if (r != 0) return r;
    }
    return 0;
}

/* More than one small job takes away. */
static int body_backlog(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    int64_t left[2];
    for (int i = 0; i < 40; i++) {
        submit(f, LANE_NORMAL);
        TaskRef ref = claim_one(f, worker);
        JournalNew rec = recording("c1", 'a', "answer");
        Call call = call_of("c1", &rec);
        CHECK_INT(queue_calls_add_wait(f->queue, ref, &call, 1), 0);
        CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    }
    CHECK_INT(store_call_wait(f->store, add_keys_job, NULL), 0);
    pass_ms(10000);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_INT(store_call_wait(f->store, keys_job, left), 0);
    CHECK(left[0] < 600);
    CHECK(left[1] < 24);
    return 0;
}

static void test_backlog(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->options.journal_kept_ms = f->options.key_kept_ms = 1000;
    open_queue(f);
    run(state, body_backlog);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_next_attempt, setup, teardown),
        cmocka_unit_test_setup_teardown(test_places, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fresh, setup, teardown),
        cmocka_unit_test_setup_teardown(test_losses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tools, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retention, setup, teardown),
        cmocka_unit_test_setup_teardown(test_backlog, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
