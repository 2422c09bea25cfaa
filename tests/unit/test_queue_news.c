#include "tests/unit/queue_fixture.h"

#include "store/webhook_store.h"

/* --- journals, webhooks, watching ------------------------------------------------------------- */

static int calls_job(Db *db, void *arg)
{
    Fixture *f = arg;
    Call *calls;
    TaskLogLine *lines;
    size_t n;
    CHECK_INT(call_list(db, 1, &f->arena, &calls, &n), 0);
    CHECK_INT(n, 3);
    CHECK_INT(calls[0].attempt, 1);
    CHECK_INT(task_log_list(db, 1, (TaskLogCursor){ 0 }, &f->arena, &lines, &n), 0);
    CHECK_INT(n, 3);
    return 0;
}

static int body_journal(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED), id = submit(f, LANE_NORMAL);
    TaskRef ref = claim_one(f, worker);
    Call calls[3] = {
        { .input_tokens = 10, .output_tokens = 2, .cost_nusd = 5, .tool_calls = 3 },
        { .input_tokens = 1, .cached_tokens = 1, .cost_nusd = 6, .charged_tokens = 500 },
        { .input_tokens = 99, .output_tokens = 99, .replayed = true }
    };
    for (int i = 0; i < 3; i++)
        calls[i].provider = calls[i].model = calls[i].protocol = calls[i].outcome = STR("x");
    calls[0].call_id = STR("c-0");
    CHECK_INT(queue_calls_add_wait(f->queue, ref, calls, 3), 0);
    CHECK_INT(queue_calls_add_wait(f->queue, ref, calls, 1), 0); /* again: the answer was lost */
    CHECK_INT(queue_calls_add_wait(f->queue, ref, calls, 0), 0);
    TaskUsage u = get(f, id).usage;
    CHECK_INT(u.input_tokens, 11);
    CHECK_INT(u.output_tokens, 2);
    CHECK_INT(u.cached_tokens, 1);
    CHECK_INT(u.llm_calls, 2);
    CHECK_INT(u.replayed_calls, 1);
    CHECK_INT(u.cost_nusd, 11);
    CHECK_INT(u.charged_tokens, 500);
    CHECK_INT(u.tool_calls, 3); /* known although the attempt has not ended */

    TaskLogLine lines[3] = { { .seq = 1, .text = STR("12345") },
                             { .seq = 2, .text = STR("123456") },
                             { .seq = 3, .text = STR("12345") } };
    size_t left_out = 9;
    CHECK_INT(queue_logs_append_wait(f->queue, ref, lines, 3, &left_out), 0);
    CHECK_INT(left_out, 0);
    CHECK_INT(queue_logs_append_wait(f->queue, ref, lines, 1, &left_out), 0);
    CHECK_INT(store_read_wait(f->store, calls_job, f), 0);
    ref.fence++;
    CHECK_INT(queue_logs_append_wait(f->queue, ref, lines, 1, NULL), QUEUE_E_STALE);
    return 0;
}

static void test_journal(void **state)
{
    run(state, body_journal);
}

/* --- logs over their limit -------------------------------------------------------------------- */

#define LOG_MAX 4000 /* the tail's part is 1000 */

typedef struct {
    Arena *arena;
    int64_t seq; /* the task's */
    TaskLogLine *lines;
    size_t n;
    int64_t bytes, dropped;
    TaskLogTail tail;
} LogRead;

static int log_read_job(Db *db, void *arg)
{
    LogRead *l = arg;
    int r = task_log_list(db, l->seq, (TaskLogCursor){ 0 }, l->arena, &l->lines, &l->n);
    if (r == 0) r = task_log_usage(db, l->seq, &l->bytes, &l->dropped);
    if (r != 0) return r;
    r = task_log_tail(db, l->seq, &l->tail);
    return r == -ENOENT ? 0 : r;
}

static LogRead log_read(Fixture *f, Uuid id)
{
    LogRead l = { .arena = &f->arena, .seq = get(f, id).seq };
    CHECK_INT(store_read_wait(f->store, log_read_job, &l), 0);
    return l;
}

static size_t append(Fixture *f, TaskRef ref, TaskLogLine line)
{
    size_t left_out = 0;
    CHECK_INT(queue_logs_append_wait(f->queue, ref, &line, 1, &left_out), 0);
    return left_out;
}

static TaskLogLine log_line(Fixture *f, int64_t seq, int len)
{
    return (TaskLogLine){ .seq = seq,
                          .at_ms = 1000 + seq,
                          .text = arena_printf(&f->arena, "%0*" PRId64, len, seq) };
}

/* What is kept of `told` lines is the first and the last of them, within the limit; the line
 * between says how many are not. */
static void check_kept(const LogRead *l, int64_t told, int64_t last)
{
    size_t marks = 0;
    int64_t bytes = 0, kept = 0;
    for (size_t i = 0; i < l->n; i++) {
        bool mark = str_starts_with(l->lines[i].text, STR("["));
        marks += mark;
        kept += !mark;
        if (!mark) bytes += (int64_t)l->lines[i].text.len;
        if (i > 0 && l->lines[i].attempt == l->lines[i - 1].attempt &&
            l->lines[i].seq != l->lines[i - 1].seq + 1) /* nothing is missing elsewhere */
            CHECK(str_starts_with(l->lines[i - 1].text, STR("[")));
    }
    CHECK_INT(l->bytes, bytes);
    CHECK(bytes <= LOG_MAX);
    CHECK_INT(kept + l->dropped, told);
    CHECK_INT(l->dropped, l->tail.left_out_n);
    CHECK_INT(marks, l->dropped > 0);
    CHECK_INT(l->lines[l->n - 1].seq, last);
}

static int body_log(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED), id = submit(f, LANE_NORMAL);
    TaskRef ref = claim_one(f, worker);
    size_t left_out = 0;
    int64_t told = 0, seq = 0;
    for (int i = 0; i < 200; i++) { /* lines of 0 to 99 bytes */
        TaskLogLine line = log_line(f, ++seq, 1 + (i * 7) % 99);
        if (i % 5 == 0) line.text = STR("");
        left_out += append(f, ref, line);
        told++;
        if (i % 3 == 0) CHECK_INT(append(f, ref, line), 0); /* again: the answer was lost */
        if (i > 0 && i % 50 == 0) CHECK_INT(append(f, ref, log_line(f, seq - 40, 9)), 0);
        if (i % 20 == 0) {
            LogRead l = log_read(f, id);
            check_kept(&l, told, seq);
        }
    }
    LogRead l = log_read(f, id);
    check_kept(&l, told, seq);
    CHECK_INT(left_out, l.dropped);
    CHECK(l.dropped > 80 && l.dropped < 160);
    CHECK_HAS(l.lines[l.n - 1].text, "200");

    /* the worker itself left lines out: the tail begins anew */
    TaskLogLine line = log_line(f, seq + 31, 20);
    line.left_out_n = 30;
    line.left_out_bytes = 600;
    CHECK(append(f, ref, line) > 30);
    CHECK_INT(append(f, ref, line), 0);
    told += 31;
    seq += 31;
    l = log_read(f, id);
    check_kept(&l, told, seq);
    CHECK(l.tail.left_out_bytes > 600 && l.tail.bytes == 20 + 64);
    Str mark = l.lines[l.n - 2].text;
    CHECK_STR(mark, arena_printf(&f->arena,
                                 "[%" PRId64 " lines, %" PRId64
                                 " bytes, left out here: limits.logBytesPerTask]",
                                 l.tail.left_out_n, l.tail.left_out_bytes));

    /* a line as large as the tail; numbers that no worker has */
    append(f, ref, log_line(f, ++seq, 5000));
    told++;
    l = log_read(f, id);
    check_kept(&l, told, seq);
    CHECK_INT(l.lines[l.n - 1].text.len, 1000 - 64);
    CHECK_INT(append(f, ref, log_line(f, 0, 3)), 0);
    CHECK_INT(append(f, ref, log_line(f, TASK_LOG_TOLD_SEQ, 3)), 0);
    l = log_read(f, id);
    check_kept(&l, told, seq);

    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.log_lines_left_out, l.dropped);
    CHECK_INT(stats.log_bytes_left_out, l.tail.left_out_bytes);

    /* the next attempt says how it ends, too */
    CHECK_INT(finish(f, ref, TASK_OUTCOME_FAILED_RETRYABLE, NULL), 0);
    pass_ms(600000);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    worker = add_worker(f, 1, WORKER_EMBEDDED);
    ref = claim_one(f, worker);
    for (seq = 0; seq < 30;) {
        append(f, ref, log_line(f, ++seq, 30));
        told++;
    }
    l = log_read(f, id);
    check_kept(&l, told, seq);
    CHECK_INT(l.lines[l.n - 1].attempt, 2);
    return 0;
}

static void test_log(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->options.log_bytes_max = LOG_MAX;
    open_queue(f);
    run(state, body_log);
}

/* The worker's own limit is lower than the queue's. */
static int body_log_gap(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED), id = submit(f, LANE_NORMAL);
    TaskRef ref = claim_one(f, worker);
    append(f, ref, log_line(f, 1, 10));
    TaskLogLine line = log_line(f, 5, 10);
    line.left_out_n = 99; /* more than there can be */
    line.left_out_bytes = 7;
    CHECK_INT(append(f, ref, line), 3);
    LogRead l = log_read(f, id);
    CHECK_INT(l.n, 3);
    CHECK_STR(l.lines[1].text, STR("[3 lines, 7 bytes, left out here: limits.logBytesPerTask]"));
    CHECK_INT(l.lines[1].seq, 4);
    return 0;
}

static void test_log_gap(void **state)
{
    run(state, body_log_gap);
}

static void webhook_body(Buf *out, const Task *task, int64_t now_ms)
{
    buf_printf(out, "%s %.*s %" PRId64, task_state_name(task->state), STR_ARG(task->result),
               now_ms - task->created_at_ms);
}

typedef struct {
    Fixture *f;
    Webhook *due;
    size_t n;
} DueJob;

static int due_job(Db *db, void *arg)
{
    DueJob *job = arg;
    WebhookSearch search = { .now_ms = real_now, .limit = 10, .host_max = 10 };
    WebhookDue due;
    int r = webhook_due(db, &search, &job->f->arena, &due);
    job->due = due.rows;
    job->n = due.n;
    return r;
}

static int postpone_job(Db *db, void *arg)
{
    return webhook_postpone(db, ((const DueJob *)arg)->due[0].id, real_now + 5000);
}

/* Between two attempts is a span of time, whatever the clock does. */
static int body_set(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    TaskNew new = { .lane = LANE_NORMAL, .input = STR("1"), .webhook_url = STR("http://h/") };
    TaskSummary s;
    TaskState state;
    DueJob job = { .f = f };
    CHECK_INT(queue_submit_wait(f->queue, &new, &s), 0);
    CHECK_INT(finish(f, claim_one(f, worker), TASK_OUTCOME_SUCCEEDED, &state), 0);
    CHECK_INT(store_read_wait(f->store, due_job, &job), 0);
    if (!CHECK_INT(job.n, 1)) return 0;
    CHECK_INT(store_call_wait(f->store, postpone_job, &job), 0);
    for (int i = 0; i < 4; i++) {
        real_now += i == 0 || i == 3 ? 86400000 : -86400000;
        CHECK_INT(queue_tick_wait(f->queue), 0);
        CHECK_INT(store_read_wait(f->store, due_job, &job), 0);
        CHECK_INT(job.n, 0);
        pass_ms(1000);
    }
    pass_ms(1000);
    CHECK_INT(store_read_wait(f->store, due_job, &job), 0);
    CHECK_INT(job.n, 1);
    return 0;
}

static void test_webhook_and_a_clock_that_is_set(void **state)
{
    run(state, body_set);
}

static int body_webhook(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    TaskNew new = { .lane = LANE_NORMAL, .input = STR("1"), .webhook_url = STR("http://h/") };
    TaskSummary s;
    TaskState state;
    DueJob job = { .f = f };
    uint64_t mark = queue_webhook_mark(f->queue);
    CHECK_INT(queue_submit_wait(f->queue, &new, &s), 0);
    CHECK_INT(finish(f, claim_one(f, worker), TASK_OUTCOME_RELEASED, &state), 0);
    CHECK_INT(queue_webhook_wait(f->queue, mark, clock_mono_ms()), -ETIMEDOUT);
    pass_ms(30);
    CHECK_INT(finish(f, claim_one(f, worker), TASK_OUTCOME_SUCCEEDED, &state), 0);
    CHECK_INT(queue_webhook_wait(f->queue, mark, clock_mono_ms() + 5000), 0);
    CHECK_INT(store_read_wait(f->store, due_job, &job), 0);
    CHECK_INT(job.n, 1);
    CHECK_STR(job.due[0].body, STR("succeeded \"done\" 30"));
    CHECK_STR(job.due[0].url, STR("http://h/"));
    CHECK_STR(job.due[0].host, STR("h:80"));
    CHECK(str_starts_with(job.due[0].webhook_id, STR("msg_")));
    CHECK(str_find_char(job.due[0].webhook_id, '.') < 0);
    CHECK_INT(queue_submit_wait(f->queue, &new, &s), 0);
    CHECK_INT(queue_cancel_wait(f->queue, s.id, STR("user"), &state), 0);
    CHECK_INT(store_read_wait(f->store, due_job, &job), 0);
    CHECK_INT(job.n, 2);
    CHECK_STR(job.due[1].body, STR("canceled  0"));
    submit(f, LANE_NORMAL); /* without an address: none */
    CHECK_INT(finish(f, claim_one(f, worker), TASK_OUTCOME_SUCCEEDED, &state), 0);
    CHECK_INT(store_read_wait(f->store, due_job, &job), 0);
    CHECK_INT(job.n, 2);
    return 0;
}

static void body_that_fails(Buf *out, const Task *task, int64_t now_ms)
{
    (void)task, (void)now_ms;
    buf_add(out, STR("half"));
    out->failed = true;
}

static int body_no_webhook_body(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    TaskNew new = { .lane = LANE_NORMAL, .input = STR("1"), .webhook_url = STR("http://h/") };
    TaskSummary s;
    TaskState state;
    DueJob job = { .f = f };
    CHECK_INT(queue_submit_wait(f->queue, &new, &s), 0);
    CHECK_INT(finish(f, claim_one(f, worker), TASK_OUTCOME_SUCCEEDED, &state), 0);
    CHECK_INT(get(f, s.id).state, TASK_SUCCEEDED);
    CHECK_INT(store_read_wait(f->store, due_job, &job), 0);
    CHECK_INT(job.n, 1);
    CHECK_INT(job.due[0].body.len, 0);
    return 0;
}

static void test_no_webhook_body(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->options.webhook_body = body_that_fails;
    open_queue(f);
    run(state, body_no_webhook_body);
}

static void test_webhook(void **state)
{
    Fixture *f = *state;
    close_queue(f);
    f->options.webhook_body = webhook_body;
    open_queue(f);
    run(state, body_webhook);
}

typedef struct {
    Fixture *f;
    Uuid id;
    int result;
    Task task;
    Arena arena;
} Watch;

static int watch_main(void *arg)
{
    Watch *w = arg;
    w->result = queue_end_wait(w->f->queue, w->id, TASK_PART_RESULT, clock_mono_ms() + 60000,
                               &w->arena, &w->task);
    loop_stop(loop_here());
    return 0;
}

static int body_watch(void *arg)
{
    Fixture *f = arg;
    Uuid worker = add_worker(f, 1, WORKER_EMBEDDED);
    Watch w = { .f = f, .id = submit(f, LANE_NORMAL) };
    arena_init(&w.arena, 1 << 20);
    Loop *loop = loop_new("watcher"); /* on another thread than the change */
    fiber_spawn_on(loop, "watcher", watch_main, &w);
    loop_start_thread(loop);
    await_watchers(f, 1);
    TaskRef ref = claim_one(f, worker);
    await_watchers(f, 1);
    TaskState state;
    CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, &state), 0);
    loop_join(loop);
    loop_free(loop);
    CHECK_INT(w.result, 0);
    CHECK_INT(w.task.state, TASK_SUCCEEDED);
    CHECK_STR(w.task.result, STR("\"done\""));
    arena_deinit(&w.arena);

    Uuid id = submit(f, LANE_NORMAL);
    Task t;
    CHECK_INT(queue_end_wait(f->queue, id, 0, clock_mono_ms() + 3, &f->arena, &t), 0);
    CHECK_INT(t.state, TASK_QUEUED); /* the time is over first */
    CHECK_INT(queue_end_wait(f->queue, worker, 0, 0, &f->arena, &t), QUEUE_E_NO_TASK);
    uint64_t mark = queue_watch_mark(f->queue, id);
    CHECK_INT(queue_watch_wait(f->queue, id, mark, clock_mono_ms()), -ETIMEDOUT);
    CHECK_INT(queue_cancel_wait(f->queue, id, STR("user"), &state), 0);
    CHECK_INT(queue_watch_wait(f->queue, id, mark, clock_mono_ms()), 0);
    return 0;
}

static void test_watch(void **state)
{
    run(state, body_watch);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_journal),
        TEST(test_log),
        TEST(test_log_gap),
        TEST(test_webhook),
        TEST(test_webhook_and_a_clock_that_is_set),
        TEST(test_no_webhook_body),
        TEST(test_watch),
    };
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    return cmocka_run_group_tests_name("queue_news", tests, NULL, NULL);
}
