/* An attempt's log on its way: what is sent when it is longer than it may be. */
#include "tests/unit/sys_harness.h"

#include <stdio.h>
#include <string.h>

#include "base/diag.h"
#include "base/log.h"
#include "logic/log_bound.h"
#include "sys/clock.h"
#include "tests/unit/check.h"
#include "worker/task_log.h"

#define LINES_MAX 8192
#define BYTES_MAX 4096 /* of the log: the tail's part is 1024 */
#define PATIENCE_MS 60000

/* A control plane that keeps what it is sent, and fails as told. */
typedef struct {
    WorkerLink link;
    TaskLogLine lines[LINES_MAX]; /* without texts */
    size_t n, batches;
    char last[LOG_LINE_BYTES_MAX + 1]; /* text of the last line */
    int fail_n;                        /* batches that are to fail first */
    int result;                        /* of those after them */
    Cond *hold;                        /* where a batch waits, if anywhere */
} Plane;

static int plane_logs(WorkerLink *link, TaskRef task, const TaskLogLine *lines, size_t n)
{
    Plane *p = CONTAINER_OF(link, Plane, link);
    (void)task;
    p->batches++;
    if (p->hold && cond_wait(p->hold, DEADLINE_NONE) < 0) return -ECANCELED;
    if (p->fail_n > 0) {
        p->fail_n--;
        return diag_set(-ECONNRESET, "made to fail");
    }
    for (size_t i = 0; i < n && p->n < LINES_MAX; i++) p->lines[p->n++] = lines[i];
    snprintf(p->last, sizeof p->last, "%.*s", STR_ARG(lines[n - 1].text));
    return p->result;
}

static const WorkerLinkOps plane_ops = { .logs_wait = plane_logs };

static void plane_init(Plane *p)
{
    memset(p, 0, sizeof *p);
    p->link.ops = &plane_ops;
}

static void open_log(TaskLog *log, Plane *p)
{
    *log = (TaskLog){ 0 };
    CHECK_INT(task_log_open(log, &p->link, (TaskRef){ .fence = 1 }, 1, BYTES_MAX), 0);
}

static void add_lines(TaskLog *log, int from, int to)
{
    for (int i = from; i <= to; i++) {
        char text[64];
        snprintf(text, sizeof text, "line %d", i);
        task_log_add(log, TASK_LOG_STDERR, str_of(text));
    }
}

/* Every line was sent, or told as left out by the one after it. */
static void check_told(const Plane *p, const TaskLog *log, int64_t added)
{
    int64_t last = 0, left_out = 0;
    for (size_t i = 0; i < p->n; i++) {
        CHECK_INT(p->lines[i].seq, last + 1 + p->lines[i].left_out_n);
        last = p->lines[i].seq;
        left_out += p->lines[i].left_out_n;
    }
    CHECK_INT(last, added);
    CHECK_INT(left_out, log->dropped);
    CHECK_INT((int64_t)p->n + left_out, added);
}

static int body_short(void *arg)
{
    Plane *p = arg;
    TaskLog log;
    open_log(&log, p);
    add_lines(&log, 1, 40);
    task_log_close_wait(&log, deadline_after(PATIENCE_MS));
    check_told(p, &log, 40);
    CHECK_INT(log.dropped, 0);
    task_log_close_wait(&log, 0); /* harmless */
    return 0;
}

static int body_long(void *arg)
{
    Plane *p = arg;
    TaskLog log;
    open_log(&log, p);
    add_lines(&log, 1, 100000);
    CHECK(log.pending.cap <= 4 * BYTES_MAX + LOG_LINE_BYTES_MAX + 8192); /* bounded memory */
    task_log_printf(&log, "%s", "the error");
    task_log_close_wait(&log, deadline_after(PATIENCE_MS));
    check_told(p, &log, 100001);
    CHECK(log.dropped > 99000);
    CHECK_INT(strcmp(p->last, "the error"), 0);
    CHECK_INT(p->lines[0].seq, 1); /* the head */
    int64_t kept = 0;              /* the tail: what follows the last gap is a whole one */
    for (size_t i = p->n; i > 0 && kept == 0; i--)
        if (p->lines[i - 1].left_out_n > 0) kept = (int64_t)(p->n - i + 1);
    CHECK(kept >= 1024 / (LOG_LINE_BYTES_EXTRA + 16));
    return 0;
}

/* The control plane is away while the log goes on. */
static int body_away(void *arg)
{
    Plane *p = arg;
    TaskLog log;
    p->fail_n = 2;
    open_log(&log, p);
    for (int i = 0; i < 2000; i++) {
        add_lines(&log, i * 10 + 1, i * 10 + 10);
        if (i % 500 == 0) CHECK_INT(fiber_sleep_wait(60), 0);
    }
    task_log_close_wait(&log, deadline_after(PATIENCE_MS));
    check_told(p, &log, 20000);
    CHECK_INT(strcmp(p->last, "line 20000"), 0);
    return 0;
}

/* Lines come while a batch of the tail is under way: it is not changed under it. */
static int body_under_way(void *arg)
{
    Plane *p = arg;
    TaskLog log;
    Cond hold;
    cond_init(&hold);
    open_log(&log, p);
    p->hold = &hold;
    add_lines(&log, 1, 100); /* the head and some of the tail */
    while (p->batches == 0) CHECK_INT(fiber_sleep_wait(5), 0);
    add_lines(&log, 101, 5000);
    p->hold = NULL;
    cond_broadcast(&hold);
    task_log_close_wait(&log, deadline_after(PATIENCE_MS));
    check_told(p, &log, 5000);
    CHECK_INT(strcmp(p->last, "line 5000"), 0);
    return 0;
}

/* The tail is told while the attempt still runs. */
static int body_live(void *arg)
{
    Plane *p = arg;
    TaskLog log;
    open_log(&log, p);
    add_lines(&log, 1, 1000);
    int64_t deadline_ms = deadline_after(PATIENCE_MS);
    while (strcmp(p->last, "line 1000") != 0 && clock_mono_ms() < deadline_ms)
        CHECK_INT(fiber_sleep_wait(20), 0);
    CHECK_INT(strcmp(p->last, "line 1000"), 0);
    check_told(p, &log, 1000);
    task_log_close_wait(&log, deadline_after(PATIENCE_MS));
    return 0;
}

static int body_large_lines(void *arg)
{
    Plane *p = arg;
    TaskLog log;
    char large[LOG_LINE_BYTES_MAX + 1000];
    memset(large, 'x', sizeof large);
    open_log(&log, p);
    for (int i = 0; i < 100; i++)
        task_log_add(&log, TASK_LOG_STDERR, str_make(large, sizeof large));
    task_log_close_wait(&log, deadline_after(PATIENCE_MS));
    check_told(p, &log, 100);
    CHECK_INT(strlen(p->last), 1024 - LOG_LINE_BYTES_EXTRA); /* cut, so that the tail holds it */
    return 0;
}

/* Lines of an attempt that was lost, or that are refused: counted. */
static int body_refused(void *arg)
{
    Plane *p = arg;
    TaskLog log;
    p->result = LINK_E_REFUSED;
    open_log(&log, p);
    add_lines(&log, 1, 3);
    while (p->batches == 0) CHECK_INT(fiber_sleep_wait(5), 0);
    CHECK_INT(fiber_sleep_wait(0), 0);
    p->result = LINK_E_STALE;
    add_lines(&log, 4, 4);
    while (p->batches < 2) CHECK_INT(fiber_sleep_wait(5), 0);
    CHECK_INT(fiber_sleep_wait(0), 0);
    add_lines(&log, 5, 5);
    task_log_close_wait(&log, deadline_after(PATIENCE_MS));
    CHECK_INT(log.dropped, 3 + 1);
    return 0;
}

#define CASE(name)                                      \
    static void test_##name(void **state)               \
    {                                                   \
        static Plane plane; /* too large for a stack */ \
        (void)state;                                    \
        plane_init(&plane);                             \
        harness_run(body_##name, &plane);               \
        check_none();                                   \
    }
CASE(short)
CASE(long)
CASE(away)
CASE(under_way)
CASE(live)
CASE(large_lines)
CASE(refused)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_short),   cmocka_unit_test(test_long),
        cmocka_unit_test(test_away),    cmocka_unit_test(test_under_way),
        cmocka_unit_test(test_live),    cmocka_unit_test(test_large_lines),
        cmocka_unit_test(test_refused),
    };
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    return cmocka_run_group_tests_name("task_log", tests, NULL, NULL);
}
