/* Old records: what is deleted, what is needed still, and that it goes in pieces. */
#include "queue_fixture.h"

#include "store/retention_store.h"

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup_retention, teardown)
#define KEPT_MS 1000

/* The rollout 7 of the agent, in that state. */
#define ROLLOUT_IN(state)                                                                \
    "INSERT INTO rollout (seq, id, agent, version_id, control_id, state, resumes, step," \
    " weight_bp, state_since_ms, step_since_ms, step_canaries, deadline_at_ms, paged,"   \
    " cost_cap_nusd, tokens_cap, latency_p95_ms, tool_calls_p95, created_at_ms,"         \
    " changed_at_ms, why, block, settings) VALUES (7, 'r', 'support', '', '', " state    \
    ", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, '', '', '')"

static int setup_retention(void **state)
{
    int r = setup(state);
    if (r != 0) return r;
    Fixture *f = *state;
    close_queue(f);
    f->options.tasks_kept_ms = KEPT_MS;
    f->options.key_kept_ms = KEPT_MS;
    f->options.lease_ms = 3600000;
    open_queue(f);
    return 0;
}

/* --- shorthands ------------------------------------------------------------------------------- */

static int sql_job(Db *db, void *arg)
{
    return db_run(db_stmt(db, arg), NULL);
}

static void change(Fixture *f, const char *sql)
{
    CHECK_INT(store_call_wait(f->store, sql_job, (void *)(uintptr_t)sql), 0);
}

typedef struct {
    const char *sql;
    int64_t n;
} Count;

static int count_job(Db *db, void *arg)
{
    Count *count = arg;
    DbStmt *s = db_stmt(db, count->sql);
    int r = db_step(s);
    if (r == DB_E_ROW) count->n = db_i64(s, 0);
    db_reset(s);
    return r < 0 ? r : 0;
}

static int64_t count(Fixture *f, const char *sql)
{
    Count c = { sql, -1 };
    CHECK_INT(store_read_wait(f->store, count_job, &c), 0);
    return c.n;
}

static Uuid submit_with(Fixture *f, const char *key, const char *webhook)
{
    TaskNew new = { .agent = STR("support"),
                    .lane = LANE_NORMAL,
                    .input = STR("1"),
                    .webhook_url = str_of(webhook),
                    .idempotency_key = str_of(key),
                    .fingerprint = STR("f") };
    TaskSummary summary = { 0 };
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    return summary.id;
}

static void run_one(Fixture *f, Uuid worker)
{
    TaskRef ref = claim_one(f, worker);
    TaskLogLine line = { .seq = 1, .at_ms = real_now, .text = STR("said") };
    CHECK_INT(queue_logs_append_wait(f->queue, ref, &line, 1, NULL), 0);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, NULL), 0);
}

static bool is_there(Fixture *f, Uuid id)
{
    Task task;
    int r = queue_get_wait(f->queue, id, 0, &f->arena, &task);
    CHECK(r == 0 || r == QUEUE_E_NO_TASK);
    return r == 0;
}

/* Time for another walk, and that walk. */
static void walk(Fixture *f)
{
    pass_ms(60000);
    CHECK_INT(queue_tick_wait(f->queue), 0);
}

/* A call of that task, after that one of it. */
#define CALL_ROW(task, before) \
    "(" task ", 0, 0, 0, 0, '', '', '', '', 0, 0, 0, 0, 0, 0, 0, 0, " before ")"
#define CALL_OF(task, before)                                                          \
    "INSERT INTO call (task_seq, attempt, fence, at_ms, duration_ms, provider, model," \
    " protocol, outcome, streamed, replayed, status, input_tokens, output_tokens,"     \
    " cached_tokens, reasoning_tokens, cost_nusd, before_id) VALUES " CALL_ROW(task, before)

/* --- tests ------------------------------------------------------------------------------------ */

static int body_needed(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    Uuid sending = submit_with(f, "", "http://127.0.0.1:9/");
    run_one(f, worker);
    Uuid plain = submit_with(f, "", "");
    run_one(f, worker);
    Uuid routed = submit_with(f, "", "");
    run_one(f, worker);
    Uuid running = submit(f, LANE_NORMAL);
    claim_one(f, worker);
    Uuid waiting = submit(f, LANE_NORMAL);
    pass_ms(KEPT_MS);
    CHECK_INT(queue_tick_wait(f->queue), 0); /* a millisecond early */
    CHECK(is_there(f, plain));
    change(f, "INSERT OR IGNORE INTO rollup_due SELECT seq FROM task WHERE state = 2");
    walk(f);
    CHECK(is_there(f, plain)); /* it has not been counted yet */
    change(f, "DELETE FROM rollup_due");
    change(f, ROLLOUT_IN("3"));
    change(f, "UPDATE task SET rollout_seq = 7 WHERE seq = 3");
    walk(f);
    CHECK(!is_there(f, plain));
    CHECK(is_there(f, sending) && is_there(f, routed));
    CHECK(is_there(f, running) && is_there(f, waiting));
    CHECK_INT(count(f, "SELECT count(*) FROM task"), 4);
    change(f, "UPDATE webhook SET state = 1");
    change(f, "UPDATE rollout SET state = 5");
    walk(f);
    CHECK(!is_there(f, sending) && !is_there(f, routed));
    CHECK(is_there(f, running) && is_there(f, waiting));
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.tasks_purged, 3);
    CHECK(stats.rows_purged >= 3 * 5);
    return 0;
}

static void test_what_is_needed_stays(void **state)
{
    run(state, body_needed);
}

static int body_everything(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    submit_with(f, "", "http://127.0.0.1:9/");
    run_one(f, worker);
    submit(f, LANE_NORMAL); /* the newest stays */
    change(f, "UPDATE webhook SET state = 2");
    change(f, "INSERT INTO task_score (task_seq, name, value, at_ms) VALUES (1, 'x', 0.5, 0)");
    change(f, "INSERT INTO journal_task (task_seq, due_ms) VALUES (1, 0)");
    change(f, "INSERT INTO task_log_tail VALUES (1, 1, 1, 0, 0, 0, 0)");
    change(f, CALL_OF("1", "0") ", " CALL_ROW("1", "1"));
    change(f, "UPDATE task SET last_call_id = 2 WHERE seq = 1");
    change(f, "INSERT INTO journal (id, task_seq, n, version_id, attempt, kind, name, key, at_ms,"
              " status, content_type, streamed, complete, answer_bytes, request_bytes, base_id,"
              " prefix, suffix, answer_gzip, request_gzip, answer)"
              " VALUES (1, 1, 1, '', 1, 0, '', zeroblob(32), 0, 200, '', 0, 1, 0, 0, 0, 0, 0, 0,"
              " 0, x''), (-5, 1, 2, '', 1, 0, '', zeroblob(32), 0, 200, '', 0, 1, 0, 0, 0, 0, 0,"
              " 0, 0, x'')");
    change(f, "INSERT INTO family (task_seq, parent_seq, root_seq, depth) VALUES (1, 0, 1, 0)");
    change(f, "DELETE FROM rollup_due");
    pass_ms(KEPT_MS + 1);
    walk(f);
    static const char *const left[] = {
        "SELECT count(*) FROM task WHERE seq = 1",
        "SELECT count(*) FROM task_payload WHERE seq = 1",
        "SELECT count(*) FROM task_result WHERE seq = 1",
        "SELECT count(*) FROM attempt WHERE task_seq = 1",
        "SELECT count(*) FROM call",
        "SELECT count(*) FROM journal",
        "SELECT count(*) FROM task_log WHERE task_seq = 1",
        "SELECT count(*) FROM webhook WHERE task_seq = 1",
        "SELECT count(*) FROM task_score WHERE task_seq = 1",
        "SELECT count(*) FROM journal_task WHERE task_seq = 1",
        "SELECT count(*) FROM task_log_tail WHERE task_seq = 1",
        "SELECT count(*) FROM family WHERE task_seq = 1",
    };
    for (size_t i = 0; i < ARRAY_N(left); i++) CHECK_INT(count(f, left[i]), 0);
    CHECK_INT(count(f, "SELECT count(*) FROM task"), 1);
    return 0;
}

static void test_all_of_a_task_goes(void **state)
{
    run(state, body_everything);
}

static int piece_job(Db *db, void *arg)
{
    return retention_step(db, real_now, 10, arg);
}

static int body_pieces(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    submit(f, LANE_NORMAL);
    run_one(f, worker);
    submit(f, LANE_NORMAL);
    change(f, "DELETE FROM rollup_due");
    change(f, "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 100)"
              " INSERT INTO task_log (task_seq, attempt, seq, at_ms, stream, text)"
              " SELECT 1, 1, i, 0, 0, 'x' FROM n");
    RetentionWalk w = { .what = RETENTION_TASKS };
    int steps = 0;
    int64_t rows = 0;
    pass_ms(KEPT_MS + 1);
    while (!w.over) {
        CHECK_INT(store_call_wait(f->store, piece_job, &w), 0);
        CHECK(w.all <= 10);
        rows += w.all;
        steps++;
    }
    CHECK_INT(rows, 100 + 4); /* lines; attempt, result, payload, the task */
    CHECK(steps >= 11);
    CHECK_INT(count(f, "SELECT count(*) FROM task"), 1);
    return 0;
}

static void test_a_large_task_goes_in_pieces(void **state)
{
    run(state, body_pieces);
}

static int body_family(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED), ids[3];
    for (int i = 0; i < 3; i++) ids[i] = submit(f, LANE_NORMAL);
    run_one(f, worker);
    run_one(f, worker);
    change(f, "DELETE FROM rollup_due");
    change(f, "UPDATE task SET parent_id = (SELECT id FROM task WHERE seq = 1) WHERE seq = 2");
    change(f, "INSERT INTO family (task_seq, parent_seq, root_seq, depth, open)"
              " VALUES (1, 0, 1, 0, 0), (2, 1, 1, 1, 1)");
    pass_ms(KEPT_MS + 1);
    walk(f);
    CHECK(is_there(f, ids[0]) && is_there(f, ids[1])); /* the child's end is not booked */
    change(f, "UPDATE family SET open = 0");
    walk(f);
    walk(f); /* the child when its parent has gone */
    CHECK(!is_there(f, ids[0]) && !is_there(f, ids[1]));
    CHECK(is_there(f, ids[2]));
    return 0;
}

static void test_families(void **state)
{
    run(state, body_family);
}

static int body_key(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    Uuid first = submit_with(f, "k", "");
    run_one(f, worker);
    submit(f, LANE_NORMAL);
    change(f, "DELETE FROM rollup_due");
    Uuid again = submit_with(f, "k", "");
    CHECK(uuid_eq(first, again));
    change(f, "UPDATE idempotency SET created_at_ms = created_at_ms + 3600000");
    pass_ms(KEPT_MS + 1);
    walk(f);
    CHECK(!is_there(f, first));
    again = submit_with(f, "k", ""); /* the key is there still, its task is not */
    CHECK(!uuid_eq(first, again));
    Uuid third = submit_with(f, "k", "");
    CHECK(uuid_eq(third, again));
    return 0;
}

static void test_a_key_goes_with_its_task(void **state)
{
    run(state, body_key);
}

static int body_others(void *arg)
{
    Fixture *f = arg;
    change(f, CALL_OF("-1", "0"));
    change(f, "INSERT INTO webhook (webhook_id, task_seq, url, body, state, created_at_ms,"
              " next_at_ms) VALUES ('a', 0, '', '', 1, 0, 0), ('b', 0, '', '', 0, 0, 0)");
    change(f, ROLLOUT_IN("6"));
    change(f, "INSERT INTO rollout_tick (rollout_seq, n, at_ms, state, step, verdict, why, inputs)"
              " VALUES (7, 1, 0, 0, 0, 0, '', ''), (8, 1, 0, 0, 0, 0, '', '')");
    change(f, "INSERT INTO rollout_unit (rollout_seq, kind, unit, arm, counts,"
              " eligible_ms, task_seq, pi) VALUES (7, 0, 'u', 0, 1, 0, 1, 0.5)");
    walk(f);
    CHECK_INT(count(f, "SELECT count(*) FROM call"), 0);
    CHECK_INT(count(f, "SELECT count(*) FROM webhook"), 1);
    CHECK_INT(count(f, "SELECT count(*) FROM rollout_tick"), 1);
    CHECK_INT(count(f, "SELECT count(*) FROM rollout_unit"), 0);
    CHECK_INT(count(f, "SELECT count(*) FROM rollout"), 1);
    return 0;
}

static void test_records_without_a_task(void **state)
{
    run(state, body_others);
}

static int body_units(void *arg)
{
    Fixture *f = arg;
    change(f, ROLLOUT_IN("6"));
    change(f, "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600)"
              " INSERT INTO rollout_unit (rollout_seq, kind, unit, arm, counts,"
              " eligible_ms, task_seq, pi)"
              " SELECT 7, 0, 'u' || i, 0, 1, 0, i, 0.5 FROM n");
    change(f, "INSERT INTO shadow_pair (rollout_seq, task_seq, self, unit, state, chosen_at_ms)"
              " SELECT rollout_seq, task_seq, 0, unit, 2, 0 FROM rollout_unit"
              " UNION ALL SELECT 8, 1, 0, 'u', 2, 0");
    change(f, "INSERT INTO shadow_evidence VALUES (7, x'00'), (8, x'00')");
    change(f, "INSERT INTO rollout_consumed SELECT rollout_seq, 0, task_seq, 0, 0, 1, 0, 0, 0.5, 0,"
              " x'' FROM rollout_unit UNION ALL SELECT 8, 0, 1, 0, 0, 1, 0, 0, 0.5, 0, x''");
    RetentionWalk w = { .what = RETENTION_ROLLOUTS };
    while (!w.over) {
        CHECK_INT(store_call_wait(f->store, piece_job, &w), 0);
        CHECK(w.all <= 10);
    }
    CHECK_INT(count(f, "SELECT count(*) FROM rollout_unit"), 0);
    CHECK_INT(count(f, "SELECT count(*) FROM rollout_consumed"), 1);
    CHECK_INT(count(f, "SELECT count(*) FROM shadow_pair"), 1); /* another rollout's */
    CHECK_INT(count(f, "SELECT count(*) FROM shadow_evidence"), 1);
    return 0;
}

static void test_a_rollouts_units_go_in_one_walk(void **state)
{
    run(state, body_units);
}

static int body_for_ever(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED), id = submit(f, LANE_NORMAL);
    run_one(f, worker);
    submit(f, LANE_NORMAL);
    change(f, "DELETE FROM rollup_due");
    pass_ms(INT64_C(1000) * 86400000);
    walk(f);
    CHECK(is_there(f, id));
    return 0;
}

static void test_kept_for_ever(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->options.tasks_kept_ms = 0;
    f->options.lease_ms = INT64_C(2000) * 86400000;
    open_queue(f);
    run(state, body_for_ever);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_what_is_needed_stays),
        CASE(test_all_of_a_task_goes),
        CASE(test_a_large_task_goes_in_pieces),
        CASE(test_families),
        CASE(test_a_key_goes_with_its_task),
        CASE(test_records_without_a_task),
        CASE(test_a_rollouts_units_go_in_one_walk),
        CASE(test_kept_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
