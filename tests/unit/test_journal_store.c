/* The journal's rows: each test is a job (on the store thread, so it uses CHECK). */
#include "tests/unit/sys_harness.h"

#include "base/diag.h"
#include "codec/gzip.h"
#include "store/agent_store.h"
#include "store/call_store.h"
#include "store/journal_store.h"
#include "store/store.h"
#include "store/task_store.h"
#include "store/version_store.h"
#include "tests/unit/check.h"
#include "tests/unit/temp_dir.h"

#define VERSION "9f3ac21d0b7e9f3ac21d0b7e9f3ac21d0b7e9f3ac21d0b7e9f3ac21d0b7e9f3a"
#define OTHER "00000000000000000000000000000000000000000000000000000000000000ff"

static const JournalLimits wide = { 1 << 20, 1000 };

static int64_t put_task(Db *db, char digit, TaskState state, int64_t finished_at_ms)
{
    int64_t seq = 0;
    TaskRow row = { .agent = STR("support"),
                    .version_id = STR(VERSION),
                    .lane = LANE_NORMAL,
                    .created_at_ms = 1,
                    .ready_at_ms = 1,
                    .input = STR("{}") };
    memset(row.id.bytes, digit, sizeof row.id.bytes);
    CHECK_INT(task_insert(db, &row, &seq), 0);
    DbStmt *s = db_stmt(db, "UPDATE task SET state = ?2, finished_at_ms = ?3 WHERE seq = ?1");
    db_bind_i64(s, 1, seq);
    db_bind_i64(s, 2, state);
    db_bind_i64(s, 3, finished_at_ms);
    CHECK_INT(db_run(s, NULL), 0);
    return seq;
}

/* Tasks 1 to 9. */
static int setup_job(Db *db, void *arg)
{
    (void)arg;
    CHECK_INT(agent_ensure(db, STR("support"), 1), 0);
    CHECK_INT(version_insert(db, &(Version){ .id = STR(VERSION),
                                             .agent = STR("support"),
                                             .components = STR("{}"),
                                             .manifest = STR("{}") }),
              0);
    for (char i = 1; i < 10; i++) CHECK_INT(put_task(db, i, TASK_QUEUED, 0), i);
    return 0;
}

static void run(StoreFn fn)
{
    TempDir dir;
    Store *store;
    Arena arena;
    temp_dir_init(&dir);
    arena_init(&arena, 16 << 20);
    assert_int_equal(store_open(&(StoreOptions){ .path = dir.path }, &store), 0);
    assert_int_equal(store_call(store, setup_job, NULL), 0);
    assert_int_equal(store_call(store, fn, &arena), 0);
    store_close(store);
    arena_deinit(&arena);
    temp_dir_deinit(&dir);
    check_none();
}

static JournalNew recording(const char *call_id, char key, const char *answer)
{
    JournalNew rec = { .kind = REPLAY_MODEL,
                       .name = STR("chat"),
                       .call_id = str_of(call_id),
                       .at_ms = 1000,
                       .status = 200,
                       .content_type = STR("application/json"),
                       .complete = true,
                       .answer = { .bytes = str_of(answer), .n = (int64_t)strlen(answer) } };
    memset(rec.key, key, sizeof rec.key);
    return rec;
}

static JournalNew with_request(JournalNew rec, Str base_text, const char *base, Str text)
{
    rec.request = (JournalRequest){ .base = str_of(base), .n = (int64_t)text.len };
    if (base[0]) rec.request.share = replay_share(base_text, text);
    rec.request.rest.bytes = replay_rest(text, rec.request.share);
    return rec;
}

static int64_t last_call(Db *db, int64_t seq)
{
    DbStmt *s = db_stmt(db, "SELECT last_call_id FROM task WHERE seq = ?1");
    db_bind_i64(s, 1, seq);
    CHECK_INT(db_step(s), DB_E_ROW);
    int64_t id = db_i64(s, 0);
    db_reset(s);
    return id;
}

/* Models' answers belong to calls. */
static int add_within(Db *db, int64_t seq, const JournalNew *rec, const JournalLimits *limits)
{
    JournalOf of = { .task_seq = seq, .attempt = 1, .version_id = STR(VERSION) };
    JournalFill fill;
    Call call = { .call_id = rec->call_id,
                  .provider = STR("p"),
                  .model = STR("m"),
                  .protocol = STR("chat"),
                  .outcome = STR("complete") };
    if (rec->kind == REPLAY_MODEL) {
        of.call_row = last_call(db, seq);
        CHECK_INT(call_insert(db, seq, &call, &of.call_row), 0);
        CHECK_INT(call_note_last(db, seq, of.call_row), 0);
    }
    CHECK_INT(journal_fill_read(db, seq, &fill), 0);
    int r = journal_add(db, &of, rec, limits, &fill, NULL);
    CHECK_INT(journal_fill_write(db, seq, &fill), 0);
    return r;
}

static int add(Db *db, int64_t seq, JournalNew rec)
{
    return add_within(db, seq, &rec, &wide);
}

/* --- adding and reading ----------------------------------------------------------------------- */

static int job_round_trip(Db *db, void *arg)
{
    Arena *arena = arg;
    JournalRow *rows, row;
    JournalBytes answer;
    JournalFill state;
    size_t n;
    JournalNew second = recording("c2", 'b', "data: 2\n\n");
    second.streamed = true;
    second.complete = false;
    second.kind = REPLAY_TOOL;
    second.name = STR("search");
    CHECK_INT(journal_fill_read(db, 7, &state), 0);
    CHECK_INT(state.recordings, 0);
    CHECK_INT(add(db, 7, recording("c1", 'a', "{\"a\":1}")), 0);
    CHECK_INT(add(db, 7, second), 0);
    CHECK_INT(add(db, 8, recording("c1", 'a', "")), 0); /* another task */
    CHECK_INT(journal_list(db, 7, true, 0, 10, arena, &rows, &n), 0);
    if (!CHECK_INT(n, 2)) return 0;
    CHECK_INT(rows[0].n, 1);
    CHECK_INT(rows[0].attempt, 1);
    CHECK_STR(rows[0].name, STR("chat"));
    CHECK_STR(rows[0].call_id, STR("c1"));
    CHECK_STR(rows[0].content_type, STR("application/json"));
    CHECK(rows[0].complete && !rows[0].streamed && rows[0].key[31] == 'a');
    CHECK_INT(rows[0].answer_bytes, 7);
    CHECK_INT(rows[0].request_bytes, 0);
    CHECK(rows[1].kind == REPLAY_TOOL && rows[1].streamed && !rows[1].complete);
    CHECK_INT(journal_list(db, 7, false, 1, 10, arena, &rows, &n), 0);
    CHECK_INT(n, 1);
    CHECK_INT(db_run(db_stmt(db, "UPDATE task SET version_id = '" OTHER "'"), NULL), 0);
    CHECK_INT(journal_list(db, 7, true, 0, 10, arena, &rows, &n), 0);
    CHECK_INT(n, 0); /* a new version begins a new journal */
    CHECK_INT(journal_list(db, 7, false, 0, 10, arena, &rows, &n), 0);
    CHECK_INT(n, 2);
    CHECK_INT(journal_get(db, 7, 2, arena, &row), 0);
    CHECK_STR(row.name, STR("search"));
    CHECK_INT(journal_get(db, 7, 3, arena, &row), -ENOENT);
    CHECK_INT(journal_answer(db, 7, 2, arena, &answer), 0);
    CHECK_STR(answer.bytes, STR("data: 2\n\n"));
    CHECK(!answer.gzip);
    CHECK_INT(journal_answer(db, 8, 1, arena, &answer), 0);
    CHECK_INT(answer.bytes.len, 0);
    CHECK_INT(journal_answer(db, 9, 1, arena, &answer), -ENOENT);
    int64_t *places = NULL;
    CHECK_INT(journal_places(db, 7, arena, &places, &n), 0);
    if (!CHECK_INT(n, 2)) return 0;
    CHECK_INT(journal_at(db, 7, 2, places[1], arena, &row, &answer), 0);
    CHECK_STR(row.name, STR("search"));
    CHECK_STR(answer.bytes, STR("data: 2\n\n"));
    CHECK_INT(answer.n, 9);
    CHECK_INT(journal_at(db, 7, 1, places[1], arena, &row, &answer), -ENOENT);
    CHECK_INT(journal_at(db, 8, 2, places[1], arena, &row, &answer), -ENOENT);
    CHECK_INT(journal_places(db, 99, arena, &places, &n), -ENOENT);
    CHECK_INT(journal_fill_read(db, 7, &state), 0);
    CHECK_INT(state.recordings, 2);
    CHECK_INT(state.bytes, 16);
    CHECK(!state.closed);
    return 0;
}

static void test_round_trip(void **state)
{
    (void)state;
    run(job_round_trip);
}

static int job_misses(Db *db, void *arg)
{
    (void)arg;
    JournalFill state;
    CHECK_INT(journal_add_misses(db, 7, 0, 5), 0);
    CHECK_INT(journal_add_misses(db, 7, 2, 5), 0);
    CHECK_INT(add(db, 7, recording("c1", 'a', "x")), 0);
    CHECK_INT(journal_add_misses(db, 7, 1, 5), 0);
    CHECK_INT(journal_fill_read(db, 7, &state), 0);
    int64_t misses;
    CHECK_INT(journal_misses(db, 8, &misses), 0);
    CHECK_INT(misses, 0);
    CHECK_INT(journal_misses(db, 7, &misses), 0);
    CHECK_INT(misses, 3);
    CHECK_INT(state.recordings, 1);
    return 0;
}

static void test_misses(void **state)
{
    (void)state;
    run(job_misses);
}

/* --- requests --------------------------------------------------------------------------------- */

static void check_request(Db *db, int64_t n, Str expected)
{
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, 1 << 20);
    CHECK_INT(journal_request(db, 7, n, &text), 0);
    CHECK_STR(buf_str(&text), expected);
}

static int job_requests(Db *db, void *arg)
{
    (void)arg;
    Str one = STR("{\"messages\":[1],\"model\":\"m\"}");
    Str two = STR("{\"messages\":[1,2],\"model\":\"m\"}");
    Str three = STR("{\"messages\":[1,2,3],\"model\":\"m\"}");
    CLEANUP(buf_deinit) Buf text, packed;
    JournalFill state;
    buf_init(&text, 1000);
    buf_init(&packed, 1000);
    CHECK_INT(add(db, 7, with_request(recording("c1", 'a', ""), STR_NULL, "", one)), 0);
    CHECK_INT(add(db, 7, with_request(recording("c2", 'b', ""), one, "c1", two)), 0);
    CHECK_INT(add(db, 7, with_request(recording("c3", 'c', ""), two, "c2", three)), 0);
    CHECK_INT(journal_fill_read(db, 7, &state), 0);
    CHECK_INT(state.bytes, (int64_t)one.len + 2 + 2); /* only what was put in */
    check_request(db, 1, one);
    check_request(db, 2, two);
    check_request(db, 3, three);
    /* kept against nothing that is there: the recording stands, the request does not */
    CHECK_INT(add(db, 7, with_request(recording("c4", 'd', ""), two, "gone", three)), 0);
    CHECK_INT(journal_request(db, 7, 4, &text), -ENOENT);
    CHECK_INT(journal_request(db, 7, 5, &text), -ENOENT);
    CHECK_INT(journal_request(db, 7, 0, &text), -ENOENT);
    JournalNew zipped = with_request(recording("c5", 'e', ""), STR_NULL, "", one);
    CHECK_INT(gzip_compress(one, &packed), 0);
    zipped.request.rest = (JournalBytes){ buf_str(&packed), true, (int64_t)one.len };
    CHECK_INT(add(db, 7, zipped), 0);
    check_request(db, 5, one);
    Buf small;
    buf_init(&small, 10);
    CHECK_INT(journal_request(db, 7, 1, &small), -EFBIG);
    buf_deinit(&small);
    return 0;
}

static void test_requests(void **state)
{
    (void)state;
    run(job_requests);
}

static int job_chain_too_long(Db *db, void *arg)
{
    (void)arg;
    char id[16], base[16] = "";
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, 1000);
    for (int i = 0; i <= JOURNAL_CHAIN_MAX; i++) {
        snprintf(id, sizeof id, "c%d", i);
        CHECK_INT(add(db, 7, with_request(recording(id, 'a', ""), STR("same"), base, STR("same"))),
                  0);
        str_copy(base, sizeof base, str_of(id));
    }
    CHECK_INT(journal_request(db, 7, JOURNAL_CHAIN_MAX, &text), 0);
    CHECK_STR(buf_str(&text), STR("same"));
    CHECK_INT(journal_request(db, 7, JOURNAL_CHAIN_MAX + 1, &text), -EINVAL);
    return 0;
}

static void test_chain_too_long(void **state)
{
    (void)state;
    run(job_chain_too_long);
}

/* --- limits ----------------------------------------------------------------------------------- */

static int job_full(Db *db, void *arg)
{
    (void)arg;
    JournalLimits limits = { .bytes_max = 10, .recordings_max = 100 };
    JournalNew small = recording("c1", 'a', "123456"), large = recording("c2", 'b', "12345");
    JournalFill state;
    CHECK_INT(add_within(db, 7, &small, &limits), 0);
    CHECK_INT(add_within(db, 7, &large, &limits), JOURNAL_E_CLOSED);
    small.call_id = STR("c3");
    small.answer.bytes = STR("1"); /* closed stays closed: what follows would not be whole */
    CHECK_INT(add_within(db, 7, &small, &limits), JOURNAL_E_CLOSED);
    CHECK_INT(journal_fill_read(db, 7, &state), 0);
    CHECK(state.closed);
    CHECK_INT(state.recordings, 1);
    limits = (JournalLimits){ .bytes_max = 100, .recordings_max = 1 };
    CHECK_INT(add_within(db, 8, &small, &limits), 0);
    CHECK_INT(add_within(db, 8, &large, &limits), JOURNAL_E_CLOSED);
    return 0;
}

static void test_full(void **state)
{
    (void)state;
    run(job_full);
}

/* --- retention -------------------------------------------------------------------------------- */

static int64_t left(Db *db, int64_t seq)
{
    Arena arena;
    JournalRow *rows;
    size_t n = 0;
    arena_init(&arena, 1 << 20);
    CHECK_INT(journal_list(db, seq, false, 0, 100, &arena, &rows, &n), 0);
    arena_deinit(&arena);
    return (int64_t)n;
}

static int job_purge(Db *db, void *arg)
{
    (void)arg;
    JournalFill state;
    bool more = false;
    int64_t old = put_task(db, 11, TASK_SUCCEEDED, 2000), n;
    int64_t young = put_task(db, 12, TASK_FAILED, 9000), queued = 1;
    for (int i = 0; i < 9; i++)
        CHECK_INT(add(db, (int64_t[]){ old, young, queued }[i % 3], recording("", 'a', "x")), 0);
    CHECK_INT(journal_purge(db, 500, 10000, 100, &n, &more), 0); /* recorded at 1000 */
    CHECK_INT(n, 0);
    CHECK_INT(journal_purge(db, 5000, 10000, 2, &n, &more), 0); /* a part at a time */
    CHECK_INT(n, 2);
    CHECK(more);
    CHECK_INT(left(db, old), 1);
    CHECK_INT(journal_purge(db, 5000, 10000, 100, &n, &more), 0);
    CHECK_INT(n, 1);
    CHECK(!more);
    CHECK_INT(left(db, old), 0);
    CHECK_INT(journal_fill_read(db, old, &state), 0);
    CHECK_INT(state.recordings, 0);
    CHECK_INT(left(db, young), 3);
    CHECK_INT(left(db, queued), 3);
    CHECK_INT(journal_purge(db, 9001, 10000, 100, &n, &more), 0);
    CHECK_INT(n, 3);
    CHECK_INT(left(db, young), 0);
    CHECK_INT(left(db, queued), 3);
    CHECK_INT(journal_purge(db, 99999, 100000, 100, &n, &more), 0); /* waits still */
    CHECK_INT(left(db, queued), 3);
    DbStmt *s = db_stmt(db, "SELECT count(*) FROM journal");
    CHECK_INT(db_step(s), DB_E_ROW);
    CHECK_INT(db_i64(s, 0), 3);
    db_reset(s);
    return 0;
}

static void test_purge(void **state)
{
    (void)state;
    run(job_purge);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_misses),
        cmocka_unit_test(test_requests),   cmocka_unit_test(test_chain_too_long),
        cmocka_unit_test(test_full),       cmocka_unit_test(test_purge),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
