/* The worker when the control plane, a version or a server agent lets it down. */
#include "worker_bench.h"

#include <dirent.h>

#include "stub_server.h"

/* --- a link that fails when told -------------------------------------------------------------- */

typedef struct {
    WorkerLink link;
    WorkerLink *inner;
    /* how many of the next calls fail, with what; lost: the call is made, its answer lost */
    int beats, finishes, calls, artifacts;
    int beat_error, finish_error, call_error;
    bool finish_lost, call_lost, artifact_spoilt, no_version, unreachable;
    bool beat_hangs;          /* heartbeats are answered once it is cleared */
    bool state_hangs;         /* what is asked of sessions is not answered while it is set */
    int state_puts;           /* of the next ones: not made; the last made, its answer lost */
    bool claim_late, claimed; /* claimed: tasks, which arrive once claim_late is cleared */
    int64_t call_delay_ms;    /* before the calls are made to fail */
    int64_t news_delay_ms;    /* that what heartbeats bring takes to be read */
    int news_seen;
    bool call_late; /* calls arrive once it is cleared */
    bool deadlocks; /* one in three records fails, every other one of these after it was made */
    Uuid payer_id;  /* of the last call that arrived */
    char first_id[UUID_TEXT_MAX];
    int finishes_seen, calls_seen, registrations, held_twice;
} Flaky;

static Flaky *flaky_of(WorkerLink *link)
{
    return CONTAINER_OF(link, Flaky, link);
}

static int flaky_register(WorkerLink *link, const LinkWorker *worker, LinkLease *ret)
{
    Flaky *f = flaky_of(link);
    f->registrations++;
    if (f->unreachable) return diag_set(-ECONNREFUSED, "there is no control plane");
    int r = f->inner->ops->register_wait(f->inner, worker, ret);
    if (f->registrations == 1) memcpy(f->first_id, ret->worker_id, sizeof f->first_id);
    return r;
}

static int flaky_claim(WorkerLink *link, const LaneConfig *slots, int64_t wait_ms, Arena *arena,
                       LinkTask **ret, size_t *ret_n)
{
    Flaky *f = flaky_of(link);
    int r = f->inner->ops->claim_wait(f->inner, slots, wait_ms, arena, ret, ret_n);
    f->claimed |= r == 0 && *ret_n > 0;
    while (r == 0 && *ret_n > 0 && f->claim_late && fiber_sleep_wait(10) == 0) continue;
    return r;
}

static int flaky_heartbeat(WorkerLink *link, const Heartbeat *beat, Arena *arena,
                           HeartbeatReply *ret)
{
    Flaky *f = flaky_of(link);
    for (size_t i = 1; i < beat->held_n; i++)
        f->held_twice += uuid_eq(beat->held[i].id, beat->held[0].id);
    while (f->beat_hangs && fiber_sleep_wait(10) == 0) continue;
    if (f->beats > 0) {
        f->beats--;
        return f->beat_error;
    }
    return f->inner->ops->heartbeat_wait(f->inner, beat, arena, ret);
}

static int flaky_signal(WorkerLink *link, uint64_t mark, int64_t deadline_ms)
{
    Flaky *f = flaky_of(link);
    return f->inner->ops->signal_wait(f->inner, mark, deadline_ms);
}

static int flaky_cache(WorkerLink *link, const CacheFigures *figures, int64_t seen, Arena *arena,
                       CacheNews *ret)
{
    Flaky *f = flaky_of(link);
    if (f->news_delay_ms) (void)fiber_sleep_wait(f->news_delay_ms);
    f->news_seen++;
    return f->inner->ops->cache_wait(f->inner, figures, seen, arena, ret);
}

static int flaky_flags(WorkerLink *link, Arena *arena, LinkFlags *ret)
{
    Flaky *f = flaky_of(link);
    return f->inner->ops->flags_wait(f->inner, arena, ret);
}

static int flaky_finish(WorkerLink *link, const TaskFinish *finish)
{
    Flaky *f = flaky_of(link);
    f->finishes_seen++;
    if (f->finishes == 0) return f->inner->ops->finish_wait(f->inner, finish);
    f->finishes--;
    if (f->finish_lost) CHECK_INT(f->inner->ops->finish_wait(f->inner, finish), 0);
    return diag_set(f->finish_error, "the finish was made to fail");
}

static int flaky_calls(WorkerLink *link, TaskRef task, Uuid payer, const GatewayCall *calls,
                       size_t n)
{
    Flaky *f = flaky_of(link);
    f->calls_seen++;
    while (f->call_late && fiber_sleep_wait(10) == 0) continue;
    f->payer_id = payer;
    if (f->deadlocks && f->calls_seen % 3 == 0) {
        if (f->calls_seen % 2)
            CHECK_INT(f->inner->ops->calls_wait(f->inner, task, payer, calls, n), 0);
        return diag_set(-EBUSY, "deadlock");
    }
    if (f->calls == 0) return f->inner->ops->calls_wait(f->inner, task, payer, calls, n);
    f->calls--;
    fiber_sleep_wait(f->call_delay_ms);
    if (f->call_lost) CHECK_INT(f->inner->ops->calls_wait(f->inner, task, payer, calls, n), 0);
    return diag_set(f->call_error, "the calls were made to fail");
}

static int flaky_score(WorkerLink *link, const TaskScore *score)
{
    Flaky *f = flaky_of(link);
    return f->inner->ops->score_wait(f->inner, score);
}

static int flaky_children(WorkerLink *link, TaskRef task, int64_t seen, int64_t wait_ms,
                          Arena *arena, FamilyRow **ret, size_t *ret_n)
{
    Flaky *f = flaky_of(link);
    return f->inner->ops->children_wait(f->inner, task, seen, wait_ms, arena, ret, ret_n);
}

static int flaky_tools(WorkerLink *link, TaskRef task, const ToolRecord *records, size_t n)
{
    Flaky *f = flaky_of(link);
    return f->inner->ops->tools_wait(f->inner, task, records, n);
}

static int flaky_journal(WorkerLink *link, TaskRef task, const JournalAsk *ask, Arena *arena,
                         JournalReply *ret)
{
    Flaky *f = flaky_of(link);
    return f->inner->ops->journal_wait(f->inner, task, ask, arena, ret);
}

static int flaky_journal_add(WorkerLink *link, TaskRef task, const JournalNew *recording)
{
    Flaky *f = flaky_of(link);
    return f->inner->ops->journal_add_wait(f->inner, task, recording);
}

static int flaky_rates(WorkerLink *link, const RateTelling *telling, GatewayShare *ret,
                       int64_t *ret_ttl_ms)
{
    Flaky *f = flaky_of(link);
    return f->inner->ops->rates_wait(f->inner, telling, ret, ret_ttl_ms);
}

static int flaky_prices(WorkerLink *link, Buf *out)
{
    Flaky *f = flaky_of(link);
    return f->inner->ops->prices_wait(f->inner, out);
}

static int flaky_grants(WorkerLink *link, const BudgetAsk *ask, int64_t wait_ms, Arena *arena,
                        BudgetAnswer *ret)
{
    Flaky *f = flaky_of(link);
    return f->inner->ops->grants_wait(f->inner, ask, wait_ms, arena, ret);
}

static int flaky_holds(WorkerLink *link, Uuid dead_id, const BudgetHold *holds, size_t n)
{
    Flaky *f = flaky_of(link);
    return f->inner->ops->holds_wait(f->inner, dead_id, holds, n);
}

static int flaky_logs(WorkerLink *link, TaskRef task, const TaskLogLine *lines, size_t n)
{
    Flaky *f = flaky_of(link);
    return f->inner->ops->logs_wait(f->inner, task, lines, n);
}

static int flaky_version(WorkerLink *link, Str id, Arena *arena, LinkVersion *ret)
{
    Flaky *f = flaky_of(link);
    if (f->no_version) return diag_set(LINK_E_NO_VERSION, "there is no such version");
    return f->inner->ops->version_wait(f->inner, id, arena, ret);
}

static int flaky_artifact(WorkerLink *link, const LinkVersion *version, Buf *out)
{
    Flaky *f = flaky_of(link);
    if (f->artifacts > 0) {
        f->artifacts--;
        return diag_set(-ECONNRESET, "the artifact was made to fail");
    }
    int r = f->inner->ops->artifact_wait(f->inner, version, out);
    if (r == 0 && f->artifact_spoilt) out->ptr[out->len / 2] ^= 1;
    return r;
}

static int flaky_drain(WorkerLink *link)
{
    Flaky *f = flaky_of(link);
    return f->inner->ops->drain_wait(f->inner);
}

static int flaky_state(WorkerLink *link, TaskRef task, const StateAsk *ask, Arena *arena,
                       StateReply *ret)
{
    Flaky *f = flaky_of(link);
    while (f->state_hangs)
        if (fiber_sleep_wait(5) < 0) return -ECANCELED;
    bool lost = ask->what == STATE_PUT && f->state_puts > 0;
    if (lost && --f->state_puts > 0) return diag_set(-ECONNREFUSED, "there is no control plane");
    int r = f->inner->ops->state_wait(f->inner, task, ask, arena, ret);
    return lost ? diag_set(-ECONNRESET, "the answer was lost") : r;
}

static int flaky_leave(WorkerLink *link)
{
    Flaky *f = flaky_of(link);
    return f->inner->ops->leave_wait(f->inner);
}

static void flaky_free(WorkerLink *link)
{
    Flaky *f = flaky_of(link);
    link_free(f->inner);
    free(f);
}

static const WorkerLinkOps flaky_ops = {
    .register_wait = flaky_register,
    .claim_wait = flaky_claim,
    .heartbeat_wait = flaky_heartbeat,
    .signal_wait = flaky_signal,
    .flags_wait = flaky_flags,
    .cache_wait = flaky_cache,
    .finish_wait = flaky_finish,
    .calls_wait = flaky_calls,
    .tools_wait = flaky_tools,
    .children_wait = flaky_children,
    .score_wait = flaky_score,
    .state_wait = flaky_state,
    .journal_wait = flaky_journal,
    .journal_add_wait = flaky_journal_add,
    .rates_wait = flaky_rates,
    .prices_wait = flaky_prices,
    .grants_wait = flaky_grants,
    .holds_wait = flaky_holds,
    .logs_wait = flaky_logs,
    .version_wait = flaky_version,
    .artifact_wait = flaky_artifact,
    .drain_wait = flaky_drain,
    .leave_wait = flaky_leave,
    .free = flaky_free,
};

static Flaky *flaky;

static void make_flaky(Bench *b, WorkerOptions *options)
{
    flaky = xcalloc(1, sizeof *flaky);
    flaky->link.ops = &flaky_ops;
    flaky->inner = b->link;
    flaky->beat_error = flaky->finish_error = flaky->call_error = -EIO;
    b->link = &flaky->link;
    options->link = b->link;
    options->versions_max = 2;
}

static void with_faults(int (*scenario)(Bench *b), int64_t lease_ms)
{
    bench_with((Bench){ .scenario = scenario, .configure = make_flaky, .lease_ms = lease_ms });
}

static WorkerStats stats_of(const Bench *b)
{
    WorkerStats stats;
    worker_stats(b->worker, &stats);
    return stats;
}

static void deploy_asker(Bench *b)
{
    bench_deploy(b, "python3",
                 "import json, os, urllib.request\n"
                 "body = {'model': 'sim/echo', 'messages': [{'role': 'user', 'content': 'hi'}]}\n"
                 "request = urllib.request.Request(\n"
                 "    os.environ['OPENAI_BASE_URL'] + '/chat/completions',\n"
                 "    json.dumps(body).encode(), {'content-type': 'application/json'})\n"
                 "print(urllib.request.urlopen(request).status)\n",
                 "");
}

/* --- a builtin agent that does nothing any more ----------------------------------------------- */

static void make_stuck(Bench *b, WorkerOptions *options)
{
    make_flaky(b, options);
    flaky->state_hangs = true;
    options->stuck_ms = 1500;
}

/* It waits for what its session remembers, which nobody tells; the next attempt is told. */
static int builtin_stuck(Bench *b)
{
    BenchFile files[] = {
        { "agent.yaml", "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: a}\nspec:\n"
                        "  {runtime: builtin, prompt: p, model: sim/echo, memory: {window: 5}}\n" },
        { "p", "x" },
    };
    bench_deploy_files(b, files, ARRAY_N(files));
    Uuid id = bench_submit(b, "\"hi\"", NULL);
    int64_t deadline_ms = deadline_after(BENCH_PATIENCE_MS);
    while (stats_of(b).stuck == 0 && clock_mono_ms() < deadline_ms) fiber_sleep_wait(10);
    CHECK(stats_of(b).stuck > 0);
    flaky->state_hangs = false;
    Task task = bench_end(b, id);
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK(task.attempt > 1);
    return 0;
}

static void test_a_builtin_agent_is_stuck(void **state)
{
    (void)state;
    bench_with((Bench){ .scenario = builtin_stuck, .configure = make_stuck, .lease_ms = 3000 });
}

/* --- a builtin agent's memory while the control plane is away --------------------------------- */

typedef struct {
    Arena *arena;
    Str value;
} Remembered;

static int remembered_job(Db *db, void *arg)
{
    Remembered *kept = arg;
    DbStmt *s = db_stmt(db, "SELECT CAST(value AS TEXT) FROM state WHERE key = 'gantry.memory'");
    int r = db_step(s);
    kept->value = r == DB_E_ROW ? arena_str(kept->arena, db_str(s, 0)) : STR_NULL;
    db_reset(s);
    return MIN(r, 0);
}

/* It is not written, then it is and nobody says so: it is looked at, and is there once. */
static int memory_survives(Bench *b)
{
    BenchFile files[] = {
        { "agent.yaml", "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: a}\nspec:\n"
                        "  {runtime: builtin, prompt: p, model: sim/echo, memory: {window: 5}}\n" },
        { "p", "x" },
    };
    bench_deploy_files(b, files, ARRAY_N(files));
    flaky->state_puts = 2;
    TaskNew new = {
        .agent = STR("a"), .lane = LANE_NORMAL, .input = STR("\"hi\""), .session_id = STR("s")
    };
    TaskSummary summary = { 0 };
    CHECK_INT(queue_submit_wait(b->queue, &new, &summary), 0);
    Task task = bench_end(b, summary.id);
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_INT(flaky->state_puts, 0);
    Remembered kept = { .arena = &b->arena };
    CHECK_INT(store_read_wait(b->store, remembered_job, &kept), 0);
    ptrdiff_t at = str_find(kept.value, STR("\"user\":\"hi\""));
    CHECK(at >= 0);
    CHECK(str_find(str_skip(kept.value, (size_t)MAX(at, 0) + 1), STR("\"user\":")) < 0);
    return 0;
}

static void test_memory_survives_the_control_plane(void **state)
{
    (void)state;
    bench_with((Bench){ .scenario = memory_survives, .configure = make_flaky });
}

/* --- leases ----------------------------------------------------------------------------------- */

static int lease_lost(Bench *b)
{
    bench_deploy(b, "sh",
                 "trap '' TERM; grep -q '\"attempt\":1' && echo \"pid $$\" >&2 && exec sleep 1000;"
                 "echo second",
                 "");
    Uuid id = bench_submit(b, "null", NULL);
    Str line = bench_log_until(b, id, "pid ");
    int64_t pid = 0, fence = bench_get(b, id).fence;
    str_split(line, '\n', &line, NULL);
    CHECK(str_to_i64(line, &pid) == 0 && pid > 1);
    flaky->beats = 1000000;
    if (pid > 1) bench_dies((pid_t)pid); /* without grace: it is somebody else's task now */
    flaky->beats = 0;
    Task task = bench_end(b, id);
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_STR(task.result, STR("\"second\""));
    CHECK_INT(task.losses, 1);
    CHECK(task.fence > fence);
    CHECK_INT(stats_of(b).stale, 1);
    CHECK_INT(stats_of(b).leases_lost, 1);
    CHECK_INT(stats_of(b).ended[TASK_OUTCOME_SUCCEEDED], 1);
    CHECK(stats_of(b).heartbeats_failed > 0);
    CHECK_INT(flaky->registrations, 2);
    CHECK_INT(flaky->finishes_seen, 1); /* of the first attempt nothing was reported */
    return 0;
}

static void test_lost_lease_kills(void **state)
{
    (void)state;
    with_faults(lease_lost, 1000);
}

/* A heartbeat that hangs keeps no agent at work: others have its task from then on. */
static int lease_lost_in_a_beat(Bench *b)
{
    bench_deploy(b, "sh",
                 "grep -q '\"attempt\":1' && echo \"pid $$\" >&2 && exec sleep 1000; echo second",
                 "");
    Uuid id = bench_submit(b, "null", NULL);
    Str line = bench_log_until(b, id, "pid ");
    int64_t pid = 0;
    str_split(line, '\n', &line, NULL);
    CHECK(str_to_i64(line, &pid) == 0 && pid > 1);
    flaky->beat_hangs = true;
    if (pid > 1) bench_dies((pid_t)pid);
    while (stats_of(b).leases_lost == 0) fiber_sleep_wait(10);
    flaky->beat_hangs = false;
    Task task = bench_end(b, id);
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_STR(task.result, STR("\"second\""));
    CHECK_INT(task.losses, 1);
    CHECK_INT(flaky->registrations, 2);
    return 0;
}

static void test_a_lease_ends_while_a_heartbeat_hangs(void **state)
{
    (void)state;
    with_faults(lease_lost_in_a_beat, 1000);
}

/* While the report of a call hangs, its task is lost, and claimed again by this very worker. */
static int claimed_again(Bench *b)
{
    deploy_asker(b);
    flaky->calls = 2;
    flaky->call_delay_ms = 6000;
    Uuid id = bench_submit(b, "null", NULL);
    while (flaky->calls == 2) fiber_sleep_wait(10);
    flaky->call_delay_ms = 1500;
    flaky->beats = 1000000;
    while (stats_of(b).leases_lost == 0) fiber_sleep_wait(10);
    flaky->beats = 0;
    Task task = bench_end(b, id);
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_INT(task.attempt, 2);
    CHECK_INT(flaky->held_twice, 0);
    while (stats_of(b).stale == 0) fiber_sleep_wait(10);
    return 0;
}

static void test_what_is_lost_is_not_held(void **state)
{
    (void)state;
    with_faults(claimed_again, 1000);
}

/* What a lost lease had set aside for a call pays for it, also when another lease reports it. */
static int reported_late(Bench *b)
{
    char payer[UUID_TEXT_MAX];
    deploy_asker(b);
    flaky->call_late = true;
    Uuid id = bench_submit(b, "null", NULL);
    while (flaky->calls_seen == 0) fiber_sleep_wait(10);
    flaky->beats = 1000000;
    while (stats_of(b).leases_lost == 0) fiber_sleep_wait(10);
    flaky->beats = 0;
    while (flaky->registrations < 2) fiber_sleep_wait(10);
    flaky->call_late = false;
    while (stats_of(b).stale == 0) fiber_sleep_wait(10);
    CHECK_STR(str_of(uuid_text(flaky->payer_id, payer)), str_of(flaky->first_id));
    CHECK_INT(bench_end(b, id).state, TASK_SUCCEEDED);
    CHECK(!str_eq(str_of(uuid_text(flaky->payer_id, payer)), str_of(flaky->first_id)));
    return 0;
}

static void test_a_lost_lease_pays_for_its_calls(void **state)
{
    (void)state;
    with_faults(reported_late, 1000);
}

static int claimed_late(Bench *b)
{
    bench_deploy(b, "sh", "echo fine", "");
    flaky->claim_late = true;
    Uuid id = bench_submit(b, "null", NULL);
    while (!flaky->claimed) fiber_sleep_wait(10);
    flaky->unreachable = true;
    flaky->beats = 1000000;
    while (stats_of(b).leases_lost == 0) fiber_sleep_wait(10);
    flaky->claim_late = false;
    fiber_sleep_wait(100);
    CHECK_INT(stats_of(b).started, 0);
    flaky->unreachable = false;
    flaky->beats = 0;
    Task task = bench_end(b, id);
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_INT(task.attempt, 2);
    CHECK_INT(stats_of(b).started, 1);
    return 0;
}

static void test_a_claim_without_lease_is_not_run(void **state)
{
    (void)state;
    with_faults(claimed_late, 1000);
}

static int unknown_worker(Bench *b)
{
    bench_deploy(b, "sh", "echo fine", "");
    CHECK_INT(bench_run(b, "null").state, TASK_SUCCEEDED);
    flaky->beat_error = LINK_E_NO_WORKER;
    flaky->beats = 1;
    while (flaky->registrations < 2) fiber_sleep_wait(10);
    CHECK_INT(bench_run(b, "null").state, TASK_SUCCEEDED); /* under its new name */
    CHECK_INT(stats_of(b).leases_lost, 1);
    return 0;
}

static void test_an_unknown_worker_registers_again(void **state)
{
    (void)state;
    with_faults(unknown_worker, 1000);
}

/* Each request succeeds, but what follows a heartbeat takes longer than the lease. */
static int slow_news(Bench *b)
{
    bench_deploy(b, "sh", "echo fine", "");
    CHECK_STR(bench_run(b, "null").result, STR("\"fine\""));
    while (flaky->news_seen < 1) fiber_sleep_wait(10);
    CHECK_INT(stats_of(b).leases_lost, 0);
    CHECK_INT(flaky->registrations, 1);
    return 0;
}

static void make_slow(Bench *b, WorkerOptions *options)
{
    make_flaky(b, options);
    flaky->news_delay_ms = 3 * b->lease_ms / 2;
}

static void test_what_follows_a_heartbeat_is_slow(void **state)
{
    (void)state;
    bench_with((Bench){
        .scenario = slow_news, .configure = make_slow, .lease_ms = 1000 * bench_slower() });
}

#define FIRST_DELAY_MS 200 /* of the worker, doubled with every try */

static void make_unreachable(Bench *b, WorkerOptions *options)
{
    make_flaky(b, options);
    flaky->unreachable = true;
}

/* Who asks a worker to go that has never reached its control plane does not wait for its next
 * try. */
static int drained_before_registered(Bench *b)
{
    while (flaky->registrations < 4) fiber_sleep_wait(5);
    int64_t next_ms = clock_mono_ms() + 7 * FIRST_DELAY_MS; /* eight of them are to pass */
    worker_drain(b->worker);
    CHECK_INT(fiber_join_wait(b->runner, NULL), 0);
    CHECK_INT(b->worker_result, 0);
    CHECK(clock_mono_ms() < next_ms);
    CHECK_INT(flaky->registrations, 4);
    return 0;
}

static void test_drain_before_registration(void **state)
{
    (void)state;
    bench_with((Bench){
        .scenario = drained_before_registered, .configure = make_unreachable, .lease_ms = 3000 });
}

/* --- reports ---------------------------------------------------------------------------------- */

static int finish_again(Bench *b)
{
    bench_deploy(b, "sh", "echo fine", "");
    flaky->finishes = 3;
    Task task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_INT(task.attempt, 1);
    CHECK_INT(flaky->finishes_seen, 4);

    flaky->finishes = 1; /* recorded, but the answer is lost: saying it again changes nothing */
    flaky->finish_lost = true;
    task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_SUCCEEDED);
    while (stats_of(b).stale == 0) fiber_sleep_wait(10);
    CHECK_INT(bench_get(b, task.id).attempt, 1);
    CHECK_INT(bench_get(b, task.id).state, TASK_SUCCEEDED);
    return 0;
}

static void test_a_finish_is_reported_until_it_is_taken(void **state)
{
    (void)state;
    with_faults(finish_again, 3000);
}

static int finish_refused(Bench *b)
{
    bench_deploy(b, "sh", "echo fine", "");
    flaky->finishes = 1;
    flaky->finish_error = LINK_E_REFUSED;
    Task task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_FAILED);
    CHECK_STR(task.error_code, STR("result_refused"));
    CHECK_HAS(task.error_detail, "made to fail");
    CHECK_INT(task.result.len, 0);
    return 0;
}

static void test_a_refused_result_is_a_failure(void **state)
{
    (void)state;
    with_faults(finish_refused, 3000);
}

static int calls_again(Bench *b)
{
    deploy_asker(b);
    flaky->calls = 2;
    Task task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_INT(task.usage.llm_calls, 1); /* recorded once, before the answer went out */
    CHECK_INT(flaky->calls, 0);

    flaky->calls = 2; /* recorded, but the answer is lost */
    flaky->call_lost = true;
    task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_INT(task.usage.llm_calls, 1);
    CHECK_INT(flaky->calls, 0);
    return 0;
}

static void test_a_call_is_recorded_before_it_is_answered(void **state)
{
    (void)state;
    with_faults(calls_again, 3000);
}

/* A store that gives up one transaction in three loses no spend, and counts none twice. */
static int deadlocked(Bench *b)
{
    bench_deploy(b, "python3",
                 "import json, os, urllib.request\n"
                 "def ask(n):\n"
                 "    body = {'model': 'sim/echo',\n"
                 "            'messages': [{'role': 'user', 'content': 'word ' * (n + 1)}]}\n"
                 "    request = urllib.request.Request(\n"
                 "        os.environ['OPENAI_BASE_URL'] + '/chat/completions',\n"
                 "        json.dumps(body).encode(), {'content-type': 'application/json'})\n"
                 "    return urllib.request.urlopen(request).status\n"
                 "print([ask(n) for n in range(8)].count(200))\n",
                 "");
    flaky->deadlocks = true;
    Task task = bench_run(b, "null");
    SimStats bill;
    sim_stats(b->sim, &bill);
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_STR(task.result, STR("8"));
    CHECK(flaky->calls_seen > 8);
    CHECK_INT(bill.calls, 8);
    CHECK_INT(task.usage.llm_calls, 8);
    CHECK_INT(task.usage.input_tokens, bill.input_tokens);
    CHECK_INT(task.usage.output_tokens, bill.output_tokens);
    CHECK_INT(task.usage.charged_tokens, bill.input_tokens + bill.output_tokens);
    return 0;
}

static void test_deadlocks_lose_no_spend(void **state)
{
    (void)state;
    with_faults(deadlocked, 30000);
}

static int calls_stale(Bench *b)
{
    deploy_asker(b);
    flaky->calls = 1;
    flaky->call_error = LINK_E_STALE;
    Uuid id = bench_submit(b, "null", NULL);
    int64_t deadline_ms = deadline_after(BENCH_PATIENCE_MS);
    while (stats_of(b).stale == 0 && clock_mono_ms() < deadline_ms) fiber_sleep_wait(10);
    CHECK_INT(stats_of(b).stale, 1);
    CHECK_INT(flaky->finishes_seen, 0);
    CHECK_INT(bench_get(b, id).usage.llm_calls, 0);
    return 0;
}

static void test_a_stale_call_stops_the_attempt(void **state)
{
    (void)state;
    with_faults(calls_stale, 3000);
}

/* --- versions --------------------------------------------------------------------------------- */

static int versions_bad(Bench *b)
{
    bench_deploy(b, "sh", "echo one", "");
    flaky->artifacts = 1;
    Task task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_SUCCEEDED); /* fetched by the second attempt */
    CHECK_INT(task.attempt, 2);
    CHECK_INT(stats_of(b).versions_fetched, 1);

    bench_deploy(b, "sh", "echo two", "");
    flaky->artifact_spoilt = true;
    task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_FAILED);
    CHECK_STR(task.error_code, STR("version_unusable"));
    CHECK_HAS(task.error_detail, "digest");
    flaky->artifact_spoilt = false;

    flaky->no_version = true;
    task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_FAILED);
    CHECK_STR(task.error_code, STR("version_unusable"));
    flaky->no_version = false;
    CHECK_STR(bench_run(b, "null").result, STR("\"two\""));
    return 0;
}

static void test_versions_that_cannot_be_had(void **state)
{
    (void)state;
    with_faults(versions_bad, 3000);
}

static size_t entries_in(const char *dir, const char *name)
{
    char path[400];
    size_t n = 0;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    DIR *d = opendir(path);
    if (!CHECK(d != NULL)) return 0;
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static int versions_many(Bench *b)
{
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 4; i++) {
            char script[64], want[16];
            snprintf(script, sizeof script, "echo version-%d", i);
            snprintf(want, sizeof want, "\"version-%d\"", i);
            bench_deploy(b, "sh", script, "");
            CHECK_STR(bench_run(b, "null").result, str_of(want));
        }
    }
    CHECK_INT(stats_of(b).versions_fetched, 8); /* only two fit at a time */
    CHECK(entries_in(b->worker_dir, "versions") <= 3);
    return 0;
}

static void test_versions_make_room(void **state)
{
    (void)state;
    with_faults(versions_many, 3000);
}

/* --- agents behind a URL ---------------------------------------------------------------------- */

typedef struct {
    Stub stub;
    const char *ping;   /* body of the answer to GET /ping */
    const char *answer; /* body of the answer to POST /invocations */
    int status;         /* of it */
    atomic_int pings, invocations;
    atomic_bool release; /* status 0: no answer before */
    char seen[4096];
} Server;

static Server *server;

static void server_say(StubRequest *request, int status, const char *body)
{
    char head[160];
    snprintf(head, sizeof head, "HTTP/1.1 %d X\r\nRetry-After: 0\r\nContent-Length: %zu\r\n\r\n",
             status, strlen(body));
    stub_sends(request, head);
    stub_sends(request, body);
}

static StubEnd server_play(StubRequest *request, void *ctx)
{
    Server *s = ctx;
    if (str_eq(request->line, STR("GET /base/ping HTTP/1.1"))) {
        atomic_fetch_add(&s->pings, 1);
        server_say(request, 200, s->ping);
    } else if (str_eq(request->line, STR("POST /base/invocations HTTP/1.1"))) {
        atomic_fetch_add(&s->invocations, 1);
        snprintf(s->seen, sizeof s->seen, "%.*s", STR_ARG(request->body));
        while (s->status == 0 && !atomic_load(&s->release)) stub_sleep_ms(5);
        server_say(request, s->status, s->answer);
    } else {
        server_say(request, 404, "");
    }
    return STUB_KEEP;
}

static void deploy_url(Bench *b, uint16_t port)
{
    Str yaml = arena_printf(&b->arena,
                            "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: a}\nspec:\n"
                            "  {runtime: server, url: \"http://127.0.0.1:%u/base\","
                            "   retry: {maxAttempts: 2, backoff: {initial: 10ms, max: 10ms}}}\n",
                            port);
    bench_deploy_files(b, (BenchFile[]){ { "agent.yaml", yaml.ptr } }, 1);
}

static int by_url(Bench *b)
{
    deploy_url(b, server->stub.port);
    server->ping = "{\"status\":\"HealthyBusy\"}";
    server->answer = "{\"from\":\"afar\"}";
    server->status = 200;
    Task task = bench_run(b, "{\"q\":1}");
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_STR(task.result, STR("{\"from\":\"afar\"}"));
    CHECK_HAS(str_of(server->seen), "\"input\":{\"q\":1},\"sessionId\":\"session-1\"");
    CHECK_INT(bench_run(b, "null").state, TASK_SUCCEEDED);
    CHECK_INT(atomic_load(&server->pings), 1); /* before the first use only */
    CHECK_INT(atomic_load(&server->invocations), 2);

    server->status = 422;
    server->answer = "no such order";
    task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_FAILED);
    CHECK_INT(task.attempt, 1);
    CHECK_HAS(task.error_detail, "HTTP 422: no such order");

    server->status = 503;
    task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_FAILED);
    CHECK_INT(task.attempt, 2); /* worth another attempt */
    return 0;
}

static int by_url_cancelled(Bench *b)
{
    TaskState now;
    deploy_url(b, server->stub.port);
    server->ping = "{\"status\":\"Healthy\"}";
    server->answer = "{}";
    server->status = 0;
    Uuid id = bench_submit(b, "null", NULL);
    while (atomic_load(&server->invocations) == 0) fiber_sleep_wait(5);
    CHECK_INT(queue_cancel_wait(b->queue, id, STR("user"), &now), 0);
    CHECK_INT(bench_end(b, id).state, TASK_CANCELED); /* without waiting for the answer */
    atomic_store(&server->release, true);
    return 0;
}

static int by_url_unwell(Bench *b)
{
    deploy_url(b, server->stub.port);
    server->ping = "{\"status\":\"Unwell\"}";
    server->status = 200;
    Task task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_FAILED);
    CHECK_INT(task.attempt, 2);
    CHECK_STR(task.error_code, STR("agent_unreachable"));
    CHECK_INT(atomic_load(&server->invocations), 0);
    deploy_url(b, 9); /* nobody there */
    task = bench_run(b, "null");
    CHECK_STR(task.error_code, STR("agent_unreachable"));
    return 0;
}

static void with_server(int (*scenario)(Bench *b))
{
    server = xcalloc(1, sizeof *server);
    stub_open(&server->stub, server_play, server);
    bench(scenario);
    stub_close(&server->stub);
    free(server);
}

static void test_server_by_url(void **state)
{
    (void)state;
    with_server(by_url);
}

static void test_server_cancelled(void **state)
{
    (void)state;
    with_server(by_url_cancelled);
}

static void test_server_unwell(void **state)
{
    (void)state;
    with_server(by_url_unwell);
}

/* --- the loop ends under it ------------------------------------------------------------------- */

static int torn_down(Bench *b)
{
    bench_deploy(b, "sh", "trap '' TERM; echo \"pid $$\" >&2; while :; do sleep 1; done", "");
    Uuid id = bench_submit(b, "null", NULL);
    Str line = bench_log_until(b, id, "pid ");
    int64_t pid = 0;
    str_split(line, '\n', &line, NULL);
    CHECK(str_to_i64(line, &pid) == 0 && pid > 1);
    loop_stop(loop_here());
    fiber_shield();
    fiber_join_wait(b->runner, NULL);
    fiber_unshield();
    CHECK_INT(b->worker_result, -ECANCELED);
    CHECK(bench_is_dead((pid_t)pid));
    CHECK_INT(bench_get(b, id).state, TASK_QUEUED); /* released */
    worker_free(TAKE(b->worker));
    return 0;
}

static void test_loop_stop_releases(void **state)
{
    (void)state;
    bench(torn_down);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_builtin_agent_is_stuck),
        cmocka_unit_test(test_memory_survives_the_control_plane),
        cmocka_unit_test(test_lost_lease_kills),
        cmocka_unit_test(test_a_lease_ends_while_a_heartbeat_hangs),
        cmocka_unit_test(test_what_is_lost_is_not_held),
        cmocka_unit_test(test_a_lost_lease_pays_for_its_calls),
        cmocka_unit_test(test_a_claim_without_lease_is_not_run),
        cmocka_unit_test(test_an_unknown_worker_registers_again),
        cmocka_unit_test(test_what_follows_a_heartbeat_is_slow),
        cmocka_unit_test(test_drain_before_registration),
        cmocka_unit_test(test_a_finish_is_reported_until_it_is_taken),
        cmocka_unit_test(test_a_refused_result_is_a_failure),
        cmocka_unit_test(test_a_call_is_recorded_before_it_is_answered),
        cmocka_unit_test(test_deadlocks_lose_no_spend),
        cmocka_unit_test(test_a_stale_call_stops_the_attempt),
        cmocka_unit_test(test_versions_that_cannot_be_had),
        cmocka_unit_test(test_versions_make_room),
        cmocka_unit_test(test_server_by_url),
        cmocka_unit_test(test_server_cancelled),
        cmocka_unit_test(test_server_unwell),
        cmocka_unit_test(test_loop_stop_releases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
