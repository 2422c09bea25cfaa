/* What counting a finished task costs: CPU of the store's thread, with and without its news. Tasks
 * of three versions end a batch of 64 at a time in jobs of their own; then their news are taken
 * into the rollups. Prints microseconds of CPU a task. */
#include "tests/unit/queue_fixture.h"

#include <time.h>

#include "rollout/ingest.h"
#include "store/rollup_store.h"

#define TASKS 20000
#define BATCH 64

static int64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

typedef struct {
    int64_t first, ns, news;
} Batch;

/* Tasks that have ended, as rows. */
static int fill_job(Db *db, void *arg)
{
    const Batch *batch = arg;
    for (int64_t i = 0; i < BATCH; i++) {
        DbStmt *s = db_stmt(db, "INSERT INTO task (seq, id, state, lane, created_at_ms,"
                                " ready_at_ms, started_at_ms, finished_at_ms, input_tokens,"
                                " output_tokens, llm_calls, tool_calls, cost_nusd, quality, agent,"
                                " version_id, fingerprint, tools)"
                                " VALUES (?1, randomblob(16), 2, 1, ?2, ?2, ?2, ?2 + ?1 % 900 + 40,"
                                " 900, 100, 3, 2, 4215000, 0.8, 'support', ?3, random(),"
                                " '2 orders' || char(10) || '1 refund' || char(10))");
        db_bind_i64(s, 1, batch->first + i);
        db_bind_i64(s, 2, INT64_C(1700000000000) + (batch->first + i) * 20);
        db_bind_text(s, 3, (batch->first + i) % 3 ? STR(VERSION_A) : STR(VERSION_B));
        int r = db_run(s, NULL);
        if (r != 0) return -EIO;
    }
    return 0;
}

static int news_job(Db *db, void *arg)
{
    Batch *batch = arg;
    int64_t before = cpu_ns();
    for (int64_t i = 0; i < BATCH; i++) {
        int r = rollup_news_add(db, batch->first + i, 1, NEWS_TASK | NEWS_SCORE);
        if (r != 0) return r;
    }
    batch->ns += cpu_ns() - before;
    return 0;
}

static int ingest_timed_job(Db *db, void *arg)
{
    Batch *batch = arg;
    IngestDone done;
    int64_t before = cpu_ns();
    int r = ingest_job(db, &done);
    batch->ns += cpu_ns() - before;
    batch->news += done.news;
    batch->first = done.more;
    return r;
}

static void check(int r)
{
    if (r != 0) DIE("the job ended with %d: %s", r, diag_text_or(r));
}

int main(void)
{
    void *state = NULL;
    setup(&state);
    Fixture *f = state;
    Batch add = { 0 }, take = { .first = 1 };
    for (add.first = 1; add.first <= TASKS; add.first += BATCH) {
        check(store_call(f->store, fill_job, &add));
        check(store_call(f->store, news_job, &add));
    }
    while (take.first) check(store_call(f->store, ingest_timed_job, &take));
    double added = (double)add.ns / 1000 / (double)take.news;
    double taken = (double)take.ns / 1000 / (double)take.news;
    printf("%d tasks: written down %.2f us, taken into rollups %.2f us, together %.2f us of CPU a "
           "task\n",
           (int)take.news, added, taken, added + taken);
    teardown(&state);
    return added + taken < 5 ? 0 : 1;
}
