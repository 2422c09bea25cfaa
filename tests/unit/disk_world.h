/* Clients and workers of a queue on a disk of the test's (disk.h), who write down what they were
 * told; and what must hold of every disk that is found afterwards. */
#ifndef GANTRY_TESTS_DISK_WORLD_H
#define GANTRY_TESTS_DISK_WORLD_H

#include "tests/unit/queue_fixture.h"

#include "tests/unit/disk.h"

#define WORLD_CLIENTS 3
#define WORLD_CROWD 12 /* of clients: the next transaction runs while a commit is synced */
#define WORLD_WORKERS 2
#define WORLD_ACKS_MAX 8192
#define WORLD_TRIES 60 /* of a call that fails, before one gives up */

typedef enum { ACK_SUBMIT, ACK_CLAIM, ACK_CALL, ACK_END, ACK_CANCEL } AckKind;

/* What somebody was told, when the disk had done so much. */
typedef struct {
    AckKind kind;
    size_t at;
    Uuid id;
    int64_t fence, n; /* the number in its key, call id or result */
    TaskState state;  /* what the task was said to be then */
} Ack;

/* In memory that the parent of the process sees. */
typedef struct {
    Ack acks[WORLD_ACKS_MAX];
    size_t acks_n;
    int64_t next;         /* number */
    int64_t errors;       /* calls that failed */
    bool silent, strange; /* one without a text; one that is no disk's */
} Told;

typedef struct {
    Fixture f;
    Told *told;
    Random random;
    bool crowd;
    int turns; /* of each client */
    int64_t wal_pages;
    bool fails; /* calls may */
    int busy;   /* clients and workers at work */
    int clients_busy;
} World;

static const BudgetRule world_rules[] = {
    { { .kind = BUDGET_ALL, .period = BUDGET_DAY }, INT64_C(1000000000000) },
};

/* --- opening ---------------------------------------------------------------------------------- */

/* dir: for the lock file; the database is on the disk. Returns 0 or -errno with diag. */
static inline int world_open(World *w, const char *dir)
{
    Fixture *f = &w->f;
    str_copy(f->dir.path, sizeof f->dir.path, str_of(dir));
    f->options = (QueueOptions){ .clock = &fake_clock,
                                 .budgets = world_rules,
                                 .budgets_n = ARRAY_N(world_rules) };
    StoreOptions options = { .path = dir, .wal_pages = w->wal_pages };
    int r = store_open(&options, &f->store);
    if (r != 0) return r;
    r = queue_open(f->store, &f->options, &f->queue);
    if (r != 0) store_close(TAKE(f->store));
    return r;
}

static inline void world_close(World *w)
{
    close_queue(&w->f);
}

/* --- those at work ---------------------------------------------------------------------------- */

static inline void told(World *w, Ack ack)
{
    assert(w->told->acks_n < WORLD_ACKS_MAX);
    ack.at = disk_position();
    w->told->acks[w->told->acks_n++] = ack;
}

/* Whether it failed and should be tried again, n times up to now. */
static inline bool world_again(World *w, int r, int n)
{
    if (r >= 0) return false;
    w->told->errors++;
    w->told->silent = w->told->silent || !diag_text()[0];
    w->told->strange = w->told->strange || (r != -ENOSPC && r != -ENOMEM && r != -EIO);
    CHECK(w->fails);
    (void)fiber_sleep_wait(0);
    return n < WORLD_TRIES;
}

static inline int world_submit(World *w, int64_t n, TaskSummary *ret)
{
    char key[32], input[32], user[8];
    snprintf(key, sizeof key, "k%" PRId64, n);
    snprintf(input, sizeof input, "{\"n\":%" PRId64 "}", n);
    snprintf(user, sizeof user, "u%d", (int)(n % 3));
    TaskNew new = { .agent = STR("support"),
                    .lane = (Lane)(n % LANE_N_),
                    .input = str_of(input),
                    .user_id = str_of(user),
                    .webhook_url = n % 3 ? STR("") : STR("http://127.0.0.1:9/hook"),
                    .idempotency_key = str_of(key),
                    .fingerprint = STR("f") };
    return queue_submit_wait(w->f.queue, &new, ret);
}

static inline void world_cancel_some(World *w)
{
    TaskState state = TASK_QUEUED;
    int r, tries = 0;
    const Ack *of = &w->told->acks[random_next(&w->random) % w->told->acks_n];
    Uuid id = of->id;
    do {
        r = queue_cancel_wait(w->f.queue, id, STR("user"), &state);
    } while (world_again(w, r, tries++));
    CHECK(r <= 0 || r == QUEUE_E_STATE);
    if (r == 0) told(w, (Ack){ .kind = ACK_CANCEL, .id = id, .state = state });
}

/* Reads what is there, on the other connection. */
static inline void world_look(World *w, Uuid id)
{
    CLEANUP(arena_deinit) Arena arena;
    Task task = { 0 };
    int r, tries = 0;
    arena_init(&arena, 1 << 20);
    do {
        r = queue_get_wait(w->f.queue, id, TASK_PART_PAYLOAD, &arena, &task);
    } while (world_again(w, r, tries++));
    CHECK(r <= 0);
}

static int world_client(void *arg)
{
    World *w = arg;
    for (int i = 0; i < w->turns; i++) {
        int64_t n = ++w->told->next;
        TaskSummary summary = { 0 };
        int r, tries = 0;
        do {
            r = world_submit(w, n, &summary);
        } while (world_again(w, r, tries++));
        if (r == 0) told(w, (Ack){ .kind = ACK_SUBMIT, .id = summary.id, .n = n });
        CHECK(r <= 0);
        if (r == 0) world_look(w, summary.id);
        if (w->told->acks_n && random_next(&w->random) % 8 == 0) world_cancel_some(w);
    }
    w->clients_busy--;
    w->busy--;
    return 0;
}

static inline int64_t world_cost(int64_t n)
{
    return 1000 + n;
}

/* Reports a call, sometimes twice. */
static inline void world_call(World *w, TaskRef task, Uuid worker)
{
    char id[32];
    int64_t n = ++w->told->next;
    snprintf(id, sizeof id, "c%" PRId64, n);
    Call call = { .call_id = str_of(id),
                  .provider = STR("p"),
                  .model = n % 2 ? STR("m") : STR("other"),
                  .protocol = STR("chat"),
                  .outcome = STR("complete"),
                  .at_ms = real_now,
                  .input_tokens = n,
                  .output_tokens = 1,
                  .cost_nusd = world_cost(n),
                  .charged_tokens = n + 1,
                  .worker_id = worker };
    for (int times = random_next(&w->random) % 4 ? 1 : 2, tries = 0; times > 0; times--) {
        int r;
        do {
            r = queue_calls_add_wait(w->f.queue, task, &call, 1);
        } while (world_again(w, r, tries++));
        CHECK(r <= 0);
        Ack ack = { .kind = ACK_CALL, .id = task.id, .fence = task.fence, .n = n };
        if (r == 0) told(w, ack);
    }
}

static inline void world_finish(World *w, TaskRef task)
{
    static const TaskOutcome outcomes[] = {
        TASK_OUTCOME_SUCCEEDED,        TASK_OUTCOME_SUCCEEDED,    TASK_OUTCOME_SUCCEEDED,
        TASK_OUTCOME_FAILED_RETRYABLE, TASK_OUTCOME_FAILED_FINAL, TASK_OUTCOME_RELEASED
    };
    char result[32];
    int r, tries = 0;
    TaskState state = TASK_QUEUED;
    int64_t n = ++w->told->next;
    snprintf(result, sizeof result, "\"r%" PRId64 "\"", n);
    TaskFinish finish = { .task = task,
                          .outcome = outcomes[random_next(&w->random) % ARRAY_N(outcomes)] };
    if (finish.outcome == TASK_OUTCOME_SUCCEEDED) finish.result = str_of(result);
    else finish.error_code = STR("failed");
    do {
        r = queue_finish_wait(w->f.queue, &finish, &state);
    } while (world_again(w, r, tries++));
    CHECK(r <= 0);
    Ack ack = { .kind = ACK_END, .id = task.id, .fence = task.fence, .n = n, .state = state };
    if (r == 0) told(w, ack);
}

/* Works until the clients are done and there is nothing to do. */
static int world_worker(void *arg)
{
    World *w = arg;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, 1 << 20);
    Claim claim = { .worker_id = worker_of(1), .slots = { .shared = 2 } };
    for (int idle = 0; idle < 3;) {
        Task *tasks = NULL;
        size_t n = 0;
        bool last = w->clients_busy == 0;
        arena_clear(&arena);
        int r = queue_claim_wait(w->f.queue, &claim, clock_mono_ms(), &arena, &tasks, &n);
        bool failed = r != 0 && r != -ETIMEDOUT;
        if (failed) (void)world_again(w, r, 0);
        if (r != 0) (void)fiber_sleep_wait(0);
        idle += (r != 0 && last) || (failed && w->told->errors > 1000);
        for (size_t i = 0; r == 0 && i < n; i++)
            told(w, (Ack){ .kind = ACK_CLAIM, .id = tasks[i].id, .fence = tasks[i].fence });
        for (size_t i = 0; r == 0 && i < n; i++) {
            TaskRef ref = { tasks[i].id, tasks[i].fence };
            for (uint64_t calls = random_next(&w->random) % 3; calls > 0; calls--)
                world_call(w, ref, claim.worker_id);
            world_finish(w, ref);
        }
    }
    w->busy--;
    return 0;
}

static int world_register(World *w)
{
    WorkerNew new = {
        .id = worker_of(1), .name = STR("w"), .kind = WORKER_REMOTE, .slots = STR("{}")
    };
    int r, tries = 0;
    do {
        r = queue_register_wait(w->f.queue, &new);
    } while (world_again(w, r, tries++));
    return r;
}

static int world_main(void *arg)
{
    World *w = arg;
    if (world_register(w) != 0) return 0;
    int clients = w->crowd ? WORLD_CROWD : WORLD_CLIENTS, n = clients + WORLD_WORKERS;
    FiberRef refs[WORLD_CROWD + WORLD_WORKERS];
    w->clients_busy = clients;
    w->busy = n;
    for (int i = 0; i < n; i++)
        if (fiber_spawn("world", i < clients ? world_client : world_worker, w, &refs[i]) != 0)
            DIE("no fiber");
    for (int i = 0; i < n; i++) (void)fiber_join_wait(refs[i], NULL);
    return 0;
}

/* A worker's leases stand still, and what is released is ready at once. */
static inline void world_run(World *w)
{
    harness_run(world_main, w);
}

/* --- what must hold --------------------------------------------------------------------------- */

typedef struct {
    const Ack *acks;
    size_t n, cut; /* those told up to then */
    size_t lost;   /* acknowledged, and not there */
    const char *wrong;
} Inspection;

/* Each counts what must not be. */
static const char *const world_rules_sql[] = {
    "SELECT count(*) FROM (SELECT 1 FROM task_payload GROUP BY input HAVING count(*) > 1)",
    "SELECT count(*) FROM task WHERE NOT EXISTS"
    " (SELECT 1 FROM task_payload WHERE task_payload.seq = task.seq)",
    "SELECT count(*) FROM idempotency WHERE task_id NOT IN (SELECT id FROM task)",
    "SELECT count(*) FROM task WHERE id NOT IN (SELECT task_id FROM idempotency)",
    "SELECT count(*) FROM (SELECT 1 FROM call GROUP BY task_seq, call_id HAVING count(*) > 1)",
    "SELECT count(*) FROM task WHERE (cost_nusd, charged_tokens, llm_calls, input_tokens) <>"
    " (SELECT total_of(cost_nusd), total_of(charged_tokens), count(*), total_of(input_tokens)"
    "  FROM call WHERE task_seq = task.seq)",
    "SELECT (SELECT total_of(cost_nusd) FROM spend) <> (SELECT total_of(cost_nusd) FROM call)",
    "SELECT (SELECT total_of(calls) FROM spend) <> (SELECT count(*) FROM call)",
    "SELECT (SELECT total_of(settled) FROM budget_slice) <>"
    " (SELECT total_of(cost_nusd) FROM call)",
    "SELECT count(*) FROM task WHERE (state = 2) <> (SELECT count(*) FROM attempt"
    " WHERE task_seq = task.seq AND outcome = 'succeeded')",
    "SELECT count(*) FROM task WHERE (state = 2) <>"
    " (SELECT count(*) FROM task_result WHERE task_result.seq = task.seq)",
    /* of those that have ended there is a row each; the one that goes on is in its task's row */
    "SELECT count(*) FROM task WHERE attempt - (state = 1) <> (SELECT count(*) FROM attempt AS a"
    " WHERE task_seq = task.seq AND finished_at_ms > 0 AND outcome IS NOT NULL"
    " AND a.attempt <= task.attempt - (state = 1))",
    "SELECT count(*) FROM attempt WHERE finished_at_ms = 0",
    "SELECT count(*) FROM task WHERE state = 1 AND (fence = 0 OR worker_id IS NULL"
    " OR started_at_ms = 0 OR fence <= (SELECT coalesce(max(a.fence), 0) FROM attempt AS a"
    " WHERE task_seq = task.seq))",
    "SELECT count(*) FROM task WHERE webhook_url IS NOT NULL AND (state >= 2) <>"
    " (SELECT count(*) FROM webhook WHERE task_seq = task.seq)",
    "SELECT count(*) FROM (SELECT 1 FROM attempt GROUP BY fence HAVING count(*) > 1)",
    "SELECT (SELECT value FROM counter WHERE name = 'fence') <"
    " max((SELECT coalesce(max(fence), 0) FROM attempt),"
    " (SELECT coalesce(max(fence), 0) FROM task))",
    "SELECT count(*) FROM task WHERE last_call_id <>"
    " (SELECT coalesce(max(id), 0) FROM call WHERE task_seq = task.seq)",
    "SELECT count(*) FROM call c WHERE before_id <>"
    " (SELECT coalesce(max(id), 0) FROM call WHERE task_seq = c.task_seq AND id < c.id)",
    "SELECT integrity_check <> 'ok' FROM pragma_integrity_check",
};

/* The one row that the statement gives, whose first parameter is the task. */
static inline bool ack_row(DbStmt *s, const Ack *ack)
{
    db_bind_blob(s, 1, str_make((const char *)ack->id.bytes, sizeof ack->id.bytes));
    return db_step(s) == DB_E_ROW;
}

static inline bool submit_kept(Db *db, const Ack *ack)
{
    char key[32];
    snprintf(key, sizeof key, "k%" PRId64, ack->n);
    DbStmt *s = db_stmt(db, "SELECT 1 FROM task JOIN idempotency ON task_id = task.id"
                            " WHERE task.id = ?1 AND key = ?2");
    db_bind_text(s, 2, str_of(key));
    return ack_row(s, ack);
}

static inline bool claim_kept(Db *db, const Ack *ack)
{
    DbStmt *s = db_stmt(db, "SELECT 1 FROM task WHERE id = ?1 AND (state = 1 AND fence = ?2 OR"
                            " fence >= ?2 AND EXISTS (SELECT 1 FROM attempt AS a"
                            " WHERE a.task_seq = task.seq AND a.fence = ?2))");
    db_bind_i64(s, 2, ack->fence);
    return ack_row(s, ack);
}

static inline bool call_kept(Db *db, const Ack *ack)
{
    char id[32];
    snprintf(id, sizeof id, "c%" PRId64, ack->n);
    DbStmt *s = db_stmt(db, "SELECT 1 FROM task JOIN call ON task_seq = seq WHERE task.id = ?1"
                            " AND call_id = ?2 AND call.fence = ?3 AND call.cost_nusd = ?4");
    db_bind_text(s, 2, str_of(id));
    db_bind_i64(s, 3, ack->fence);
    db_bind_i64(s, 4, world_cost(ack->n));
    return ack_row(s, ack);
}

static inline bool end_kept(Db *db, const Ack *ack)
{
    char result[32];
    snprintf(result, sizeof result, "\"r%" PRId64 "\"", ack->n);
    DbStmt *s = db_stmt(db, "SELECT state, coalesce(result, '') FROM task"
                            " JOIN attempt ON task_seq = task.seq"
                            " LEFT JOIN task_result ON task_result.seq = task.seq"
                            " WHERE id = ?1 AND attempt.fence = ?2 AND outcome IS NOT NULL");
    db_bind_i64(s, 2, ack->fence);
    if (!ack_row(s, ack)) return false;
    if (ack->state == TASK_SUCCEEDED && !str_eq(db_str(s, 1), str_of(result))) return false;
    return ack->state == TASK_QUEUED || db_i64(s, 0) == (int64_t)ack->state;
}

static inline bool cancel_kept(Db *db, const Ack *ack)
{
    DbStmt *s = db_stmt(db, "SELECT state, cancel_requested FROM task WHERE id = ?1");
    if (!ack_row(s, ack)) return false;
    if (ack->state == TASK_CANCELED) return db_i64(s, 0) == (int64_t)TASK_CANCELED;
    return db_i64(s, 0) > (int64_t)TASK_RUNNING || db_i64(s, 1);
}

static inline bool ack_kept(Db *db, const Ack *ack)
{
    switch (ack->kind) {
    case ACK_SUBMIT: return submit_kept(db, ack);
    case ACK_CLAIM: return claim_kept(db, ack);
    case ACK_CALL: return call_kept(db, ack);
    case ACK_END: return end_kept(db, ack);
    case ACK_CANCEL: return cancel_kept(db, ack);
    }
    return false;
}

static inline int inspect_job(Db *db, void *arg)
{
    Inspection *in = arg;
    for (size_t i = 0; i < in->n; i++) {
        if (in->acks[i].at > in->cut || ack_kept(db, &in->acks[i])) continue;
        in->lost++;
    }
    for (size_t i = 0; i < ARRAY_N(world_rules_sql) && !in->wrong; i++) {
        DbStmt *s = db_stmt(db, world_rules_sql[i]);
        if (db_step(s) != DB_E_ROW || db_i64(s, 0) != 0) in->wrong = world_rules_sql[i];
    }
    return 0;
}

typedef struct {
    World *world;
    const Inspection *in;
} Afterwards;

/* Keys lead to their tasks, ends are not taken again, and work goes on. */
static int afterwards_main(void *arg)
{
    const Afterwards *a = arg;
    World *w = a->world;
    for (int i = 0; i < 4 && a->in->n > 0; i++) {
        const Ack *ack = &a->in->acks[random_next(&w->random) % a->in->n];
        TaskSummary again = { 0 };
        if (ack->at > a->in->cut) continue;
        if (ack->kind == ACK_SUBMIT) {
            CHECK_INT(world_submit(w, ack->n, &again), 0);
            CHECK(again.existing && uuid_eq(again.id, ack->id));
        }
        if (ack->kind == ACK_END)
            CHECK_INT(finish(&w->f, (TaskRef){ ack->id, ack->fence }, TASK_OUTCOME_SUCCEEDED, NULL),
                      QUEUE_E_STALE);
    }
    static Told told_now;
    told_now = (Told){ .next = w->told->next };
    w->told = &told_now;
    w->turns = 1;
    w->fails = false;
    return world_main(w);
}

/* Looks at an open world, and works in it if all is well. Returns what is wrong, or NULL. */
static inline const char *world_inspect(World *w, Inspection *in)
{
    if (store_read(w->f.store, inspect_job, in) != 0) return "the store cannot be read";
    if (in->lost) return "what was acknowledged is lost";
    if (in->wrong) return in->wrong;
    harness_run(afterwards_main, &(Afterwards){ w, in });
    return atomic_exchange(&check_failures, 0) ? "work does not go on" : NULL;
}

/* --- where it begins -------------------------------------------------------------------------- */

/* A disk with a database that is set up and empty. */
static inline void world_begin(const char *dir, DiskState *ret)
{
    World w = { .turns = 0 };
    DiskState nothing;
    disk_state_init(&nothing);
    disk_insert(&nothing);
    real_now = 1700000000000;
    mono_now = 5000;
    assert_int_equal(world_open(&w, dir), 0);
    deploy(&w.f, "support", VERSION_A);
    world_close(&w);
    disk_state_copy(&disk.now, ret);
}

#endif
