/* Tasks that running tasks start: found again, stopped with their parent, paid for by it. */
#include "queue_fixture.h"

#include "random.h"
#include "store/family_store.h"

#define PRINT_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define PRINT_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static ChildNew child_new(const char *key)
{
    return (ChildNew){ .key = str_of(key),
                       .fingerprint = STR(PRINT_A),
                       .input = STR("1"),
                       .offered = { 1000, 2000, 3 } };
}

static ChildStarted start(Fixture *f, TaskRef parent, const char *key)
{
    ChildNew child = child_new(key);
    ChildStarted started = { .allotted = { 0 } };
    CHECK_INT(queue_child_wait(f->queue, parent, &child, &started), 0);
    return started;
}

static TaskRef root(Fixture *f)
{
    add_worker(f, 1, WORKER_REMOTE);
    submit(f, LANE_LOW);
    return claim_one(f, worker_of(1));
}

typedef struct {
    Uuid id;
    Family family;
    FamilyAmount own;
} FamilyRead;

static int family_job(Db *db, void *arg)
{
    FamilyRead *read = arg;
    TaskHead head;
    int r = task_head(db, read->id, &head);
    if (r == 0) r = family_own(db, head.seq, &read->own);
    return r == 0 ? family_get(db, head.seq, &read->family) : r;
}

static FamilyRead family_of(Fixture *f, Uuid id)
{
    FamilyRead read = { .id = id };
    CHECK_INT(store_call_wait(f->store, family_job, &read), 0);
    return read;
}

static void expect(const FamilyAmount *found, int64_t tokens, int64_t nusd, int64_t tool_calls)
{
    CHECK_INT(found->tokens, tokens);
    CHECK_INT(found->nusd, nusd);
    CHECK_INT(found->tool_calls, tool_calls);
}

static void spend(Fixture *f, TaskRef ref, const char *id, int64_t tokens, int64_t nusd, int want)
{
    Call call = { .call_id = str_of(id),
                  .provider = STR("p"),
                  .model = STR("m"),
                  .protocol = STR("openai"),
                  .outcome = STR("ok"),
                  .charged_tokens = tokens,
                  .cost_nusd = nusd,
                  .fence = ref.fence,
                  .at_ms = real_now };
    CHECK_INT(queue_calls_add_wait(f->queue, ref, &call, 1), want);
}

/* --- starting --------------------------------------------------------------------------------- */

static int inherits_body(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    TaskNew new = { .agent = STR("support"),
                    .lane = LANE_CRITICAL,
                    .input = STR("1"),
                    .user_id = STR("u"),
                    .tenant_id = STR("t"),
                    .session_id = STR("s"),
                    .traceparent = STR("00-0123456789abcdef0123456789abcdef-0123456789abcdef-01") };
    TaskSummary summary;
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    TaskRef ref = claim_one(f, worker_of(1));
    ChildNew child = child_new("k");
    child.remaining_ms = 60000;
    child.time_limit_ms = 90000;
    child.metadata = STR("{\"a\":1}");
    ChildStarted started;
    CHECK_INT(queue_child_wait(f->queue, ref, &child, &started), 0);
    CHECK(!started.task.existing);
    expect(&started.allotted, 1000, 2000, 3);
    Task task = get(f, started.task.id);
    CHECK_INT(task.lane, LANE_CRITICAL);
    CHECK_STR(task.agent, STR("support"));
    CHECK_STR(task.version_id, STR(VERSION_A));
    CHECK_STR(task.user_id, STR("u"));
    CHECK_STR(task.tenant_id, STR("t"));
    CHECK(str_empty(task.session_id));
    CHECK_INT(task.deadline_at_ms, real_now + 60000);
    CHECK_STR(str_sub(task.traceparent, 0, 36), str_sub(new.traceparent, 0, 36));
    CHECK(!str_eq(task.traceparent, new.traceparent));
    CHECK_STR(task.limits, STR("{\"tokensPerTask\":1000,\"toolCallsPerTask\":3,"
                               "\"usdPerTask\":\"0.000002000\",\"secondsPerTask\":90}"));
    CHECK(uuid_eq(task.parent_id, ref.id));
    CHECK_INT(get(f, ref.id).children, 1);
    check_counts(f, LANE_CRITICAL, 1, 1);
    TaskRef run = claim_one(f, worker_of(1));
    CHECK(uuid_eq(run.id, started.task.id));
    CHECK_INT(get(f, run.id).deadline_at_ms, real_now + 60000); /* not later than its parent's */
    return 0;
}

static void test_inherits(void **state)
{
    run(state, inherits_body);
}

/* What it says that it has left may have been on its way for a while. */
static int late_ask_body(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    TaskNew new = {
        .agent = STR("support"), .lane = LANE_LOW, .input = STR("1"), .time_limit_ms = 60000
    };
    TaskSummary summary;
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    TaskRef ref = claim_one(f, worker_of(1));
    int64_t deadline_ms = real_now + 60000;
    pass_ms(20000);
    ChildNew child = child_new("k");
    child.remaining_ms = 60000;
    ChildStarted started;
    CHECK_INT(queue_child_wait(f->queue, ref, &child, &started), 0);
    CHECK_INT(get(f, started.task.id).deadline_at_ms, deadline_ms);
    return 0;
}

static void test_no_later_than_its_parent(void **state)
{
    run(state, late_ask_body);
}

/* Both wait, and their time is over together: one is ended with the other, before its turn. */
static int late_together_body(void *arg)
{
    Fixture *f = arg;
    add_worker(f, 1, WORKER_REMOTE);
    TaskNew new = {
        .agent = STR("support"), .lane = LANE_LOW, .input = STR("1"), .time_limit_ms = 60000
    };
    TaskSummary summary;
    CHECK_INT(queue_submit_wait(f->queue, &new, &summary), 0);
    TaskRef ref = claim_one(f, worker_of(1));
    Uuid child = start(f, ref, "k").task.id;
    CHECK_INT(get(f, child).deadline_at_ms, get(f, ref.id).deadline_at_ms);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_RELEASED, NULL), 0);
    CHECK_INT(get(f, ref.id).state, TASK_QUEUED);
    pass_ms(60000);
    CHECK_INT(queue_tick_wait(f->queue), 0);
    CHECK_INT(get(f, ref.id).state, TASK_TIMED_OUT);
    CHECK_INT(get(f, child).state, TASK_CANCELED);
    check_counts(f, LANE_LOW, 0, 0);
    return 0;
}

static void test_late_together(void **state)
{
    run(state, late_together_body);
}

static int first_in_line_body(void *arg)
{
    Fixture *f = arg;
    TaskRef ref = root(f);
    pass_ms(10);
    Uuid later = submit(f, LANE_LOW);
    ChildStarted a = start(f, ref, "a"), b = start(f, ref, "b");
    TaskRef first = claim_one(f, worker_of(1));
    CHECK(uuid_eq(first.id, a.task.id));
    ChildStarted below = start(f, first, "a");
    CHECK(uuid_eq(claim_one(f, worker_of(1)).id, below.task.id)); /* before its uncle */
    CHECK(uuid_eq(claim_one(f, worker_of(1)).id, b.task.id));
    CHECK(uuid_eq(claim_one(f, worker_of(1)).id, later));

    /* first, but not for hours: nor does it hide who is behind it */
    pass_ms(1000);
    start(f, ref, "c");
    QueueStats stats;
    CHECK_INT(queue_stats_wait(f->queue, &stats), 0);
    CHECK_INT(stats.lane[LANE_LOW].oldest_ready_at_ms, real_now);
    int64_t since_ms = real_now;
    submit(f, LANE_LOW);
    pass_ms(1000);
    start(f, ref, "d");
    CHECK_INT(queue_stats_wait(f->queue, &stats), 0);
    CHECK_INT(stats.lane[LANE_LOW].oldest_ready_at_ms, since_ms);
    return 0;
}

static void test_a_family_is_finished_first(void **state)
{
    run(state, first_in_line_body);
}

static int again_body(void *arg)
{
    Fixture *f = arg;
    TaskRef ref = root(f);
    ChildStarted a = start(f, ref, "k"), b = start(f, ref, "k");
    CHECK(b.task.existing && uuid_eq(a.task.id, b.task.id));
    expect(&b.allotted, 1000, 2000, 3);
    ChildNew free = child_new("free"); /* told as it was, not as what is held for it */
    free.offered = (FamilyAmount){ CAP_NONE, 5, CAP_NONE };
    for (int i = 0; i < 2; i++) {
        CHECK_INT(queue_child_wait(f->queue, ref, &free, &b), 0);
        CHECK(b.task.existing == (i == 1));
        expect(&b.allotted, CAP_NONE, 5, CAP_NONE);
    }
    CHECK_INT(queue_child_cancel_wait(f->queue, ref, b.task.id), 0);
    ChildNew other = child_new("k");
    other.fingerprint = STR(PRINT_B);
    ChildStarted refused;
    CHECK_INT(queue_child_wait(f->queue, ref, &other, &refused), 0);
    CHECK_INT(refused.refusal.status, 422);
    CHECK(strcmp(refused.refusal.code, "key_reused") == 0);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_RELEASED, NULL), 0);
    ChildNew stale = child_new("x");
    CHECK_INT(queue_child_wait(f->queue, ref, &stale, &refused), QUEUE_E_STALE);
    TaskRef first = claim_one(f, worker_of(1)), second = claim_one(f, worker_of(1));
    TaskRef parent = uuid_eq(first.id, ref.id) ? first : second;
    ChildStarted c = start(f, parent, "k");
    CHECK(c.task.existing && uuid_eq(a.task.id, c.task.id));
    CHECK_INT(c.task.state, TASK_RUNNING);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.children_started, 2);
    CHECK_INT(stats.children_found, 3);
    return 0;
}

static void test_the_same_child_again(void **state)
{
    run(state, again_body);
}

static int only_find_body(void *arg)
{
    Fixture *f = arg;
    TaskRef ref = root(f);
    ChildNew child = child_new("k");
    ChildStarted said;
    child.find_only = true;
    CHECK_INT(queue_child_wait(f->queue, ref, &child, &said), 0);
    CHECK_INT(said.refusal.status, CHILD_NONE_STATUS);
    start(f, ref, "k");
    CHECK_INT(queue_child_wait(f->queue, ref, &child, &said), 0);
    CHECK(said.refusal.status == 0 && said.task.existing);
    child.find_only = false;
    child.key = STR("other");
    child.agent = STR("nobody");
    CHECK_INT(queue_child_wait(f->queue, ref, &child, &said), 0);
    CHECK_INT(said.refusal.status, 404);
    return 0;
}

static void test_finds_only(void **state)
{
    run(state, only_find_body);
}

/* --- bounds ----------------------------------------------------------------------------------- */

static void refused(Fixture *f, TaskRef ref, const char *key, const char *code)
{
    ChildStarted said = start(f, ref, key);
    CHECK_INT(said.refusal.status, 422);
    CHECK(said.refusal.code && strcmp(said.refusal.code, code) == 0);
}

static int bounds_body(void *arg)
{
    Fixture *f = arg;
    TaskRef ref = root(f);
    start(f, ref, "a");
    start(f, ref, "b");
    refused(f, ref, "c", "subagents_too_many");
    TaskRef child = claim_one(f, worker_of(1));
    start(f, child, "a");
    TaskRef below = claim_one(f, worker_of(1));
    refused(f, below, "a", "subagents_too_deep");
    refused(f, child, "b", "subagents_too_many"); /* four in all */
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.children_refused[FAMILY_TOO_DEEP], 1);
    CHECK_INT(stats.children_refused[FAMILY_TOO_WIDE], 1);
    CHECK_INT(stats.children_refused[FAMILY_TOO_LARGE], 1);
    check_counts(f, LANE_LOW, 1, 3);
    return 0;
}

/* Who is tried again by hand may start anew all that did not succeed, with what that had
 * started. */
static int anew_body(void *arg)
{
    Fixture *f = arg;
    TaskRef ref = root(f);
    start(f, ref, "a");
    ChildStarted good = start(f, ref, "b");
    TaskRef child = claim_one(f, worker_of(1));
    start(f, child, "x");
    TaskRef below = claim_one(f, worker_of(1));
    CHECK_INT(finish(f, below, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    CHECK_INT(finish(f, child, TASK_OUTCOME_FAILED_FINAL, NULL), 0);
    TaskRef second = claim_one(f, worker_of(1));
    CHECK(uuid_eq(second.id, good.task.id));
    CHECK_INT(finish(f, second, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_FAILED_FINAL, NULL), 0);
    CHECK_INT(queue_retry_wait(f->queue, ref.id, false), 0);
    ref = claim_one(f, worker_of(1));
    CHECK(start(f, ref, "b").task.existing);
    ChildStarted again = start(f, ref, "a");
    CHECK(again.refusal.status == 0 && !again.task.existing);
    refused(f, ref, "c", "subagents_too_many");
    child = claim_one(f, worker_of(1));
    CHECK_INT(start(f, child, "x").refusal.status, 0);
    refused(f, child, "y", "subagents_too_many"); /* four in all, as before */
    /* and to stop it reaches all of them */
    TaskState state;
    CHECK_INT(queue_cancel_wait(f->queue, ref.id, STR("user"), &state), 0);
    CHECK(get(f, child.id).cancel_requested);
    check_counts(f, LANE_LOW, 0, 2);
    return 0;
}

static int bounds_setup(void **state)
{
    int r = setup(state);
    Fixture *f = *state;
    close_queue(f);
    f->options.family = (FamilyBounds){ .depth_max = 2, .children_max = 2, .members_max = 4 };
    open_queue(f);
    return r;
}

static void test_anew(void **state)
{
    run(state, anew_body);
}

static void test_bounds(void **state)
{
    run(state, bounds_body);
}

/* A limit on tasks of the agent holds for who comes from outside, and for sub-agents beside those
 * that wait for theirs: a task that waits for one of its own agent must not wait for ever. */
static int limited_body(void *arg)
{
    Fixture *f = arg;
    TaskRef ref = root(f);
    Uuid outside = submit(f, LANE_LOW);
    Task *tasks = NULL;
    CHECK_INT(claim(f, worker_of(1), roomy, &tasks), 0);
    ChildStarted a = start(f, ref, "a"), b = start(f, ref, "b");
    CHECK_INT(claim(f, worker_of(1), roomy, &tasks), 1);
    CHECK(uuid_eq(tasks[0].id, a.task.id));
    TaskRef child = { tasks[0].id, tasks[0].fence };
    CHECK_INT(claim(f, worker_of(1), roomy, &tasks), 0); /* one at a time */
    ChildStarted deep = start(f, child, "c");            /* it waits now, too */
    CHECK_INT(claim(f, worker_of(1), roomy, &tasks), 1);
    bool deeper = uuid_eq(tasks[0].id, deep.task.id);
    CHECK(deeper || uuid_eq(tasks[0].id, b.task.id));
    TaskRef other = { tasks[0].id, tasks[0].fence };
    CHECK_INT(claim(f, worker_of(1), roomy, &tasks), 0);
    CHECK_INT(finish(f, other, TASK_OUTCOME_RELEASED, NULL), 0);
    CHECK_INT(claim(f, worker_of(1), roomy, &tasks), 1);
    other = (TaskRef){ tasks[0].id, tasks[0].fence };
    CHECK_INT(finish(f, other, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    CHECK_INT(claim(f, worker_of(1), roomy, &tasks), 1);
    other = (TaskRef){ tasks[0].id, tasks[0].fence };
    CHECK_INT(finish(f, other, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    CHECK_INT(finish(f, child, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    CHECK_INT(claim(f, worker_of(1), roomy, &tasks), 0);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    CHECK_INT(claim(f, worker_of(1), roomy, &tasks), 1);
    CHECK(uuid_eq(tasks[0].id, outside));
    return 0;
}

static int limited_setup(void **state)
{
    int r = setup(state);
    Fixture *f = *state;
    close_queue(f);
    f->options.agent_tasks_max = 1;
    open_queue(f);
    return r;
}

static void test_limits_hold_for_who_waits_for_nobody(void **state)
{
    run(state, limited_body);
}

static int full_body(void *arg)
{
    Fixture *f = arg;
    TaskRef ref = root(f);
    ChildStarted a = start(f, ref, "a");
    ChildStarted b = start(f, ref, "b");
    CHECK_INT(b.refusal.status, 429);
    b = start(f, ref, "a"); /* who is there is found all the same */
    CHECK(b.refusal.status == 0 && uuid_eq(a.task.id, b.task.id));
    ChildNew sought = child_new("none");
    sought.find_only = true;
    CHECK_INT(queue_child_wait(f->queue, ref, &sought, &b), 0);
    CHECK_INT(b.refusal.status, CHILD_NONE_STATUS);
    QueueStats stats;
    queue_stats(f->queue, &stats);
    CHECK_INT(stats.lane[LANE_LOW].refused_full, 1); /* the other two were answered */
    check_counts(f, LANE_LOW, 1, 1);
    return 0;
}

static int full_setup(void **state)
{
    int r = setup(state);
    Fixture *f = *state;
    close_queue(f);
    f->options.queued_max[LANE_LOW] = 1;
    open_queue(f);
    return r;
}

static void test_full_lane(void **state)
{
    run(state, full_body);
}

/* --- what is borne ---------------------------------------------------------------------------- */

static int borne_body(void *arg)
{
    Fixture *f = arg;
    TaskRef ref = root(f);
    start(f, ref, "a");
    FamilyRead top = family_of(f, ref.id);
    expect(&top.family.kids, 1000, 2000, 3);
    TaskRef child = claim_one(f, worker_of(1));
    spend(f, child, "c1", 100, 10, 0);
    start(f, child, "a");
    top = family_of(f, ref.id);
    expect(&top.family.kids, 1000, 2000, 3); /* all of it while it is open */
    TaskRef below = claim_one(f, worker_of(1));
    spend(f, below, "c2", 30, 3, 0);
    CHECK_INT(finish(f, below, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    FamilyRead mid = family_of(f, child.id);
    expect(&mid.family.kids, 30, 3, 0);
    CHECK_INT(finish(f, child, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    top = family_of(f, ref.id);
    expect(&top.family.kids, 130, 13, 0);
    spend(f, below, "c3", 7, 1, QUEUE_E_STALE); /* it was paid for all the same */
    top = family_of(f, ref.id);
    expect(&top.family.kids, 137, 14, 0);
    spend(f, below, "c3", 7, 1, QUEUE_E_STALE);
    top = family_of(f, ref.id);
    expect(&top.family.kids, 137, 14, 0);
    return 0;
}

static void test_what_is_not_spent_comes_back(void **state)
{
    run(state, borne_body);
}

/* --- any life --------------------------------------------------------------------------------- */

#define LIVES 6
#define LIFE_STEPS 150
#define LIFE_TASKS_MAX 60

typedef struct {
    Uuid id;
    int parent;  /* -1: none */
    TaskRef run; /* fence 0: not claimed yet */
} LifeTask;

typedef struct {
    Fixture *f;
    Random random;
    LifeTask tasks[LIFE_TASKS_MAX];
    int n, calls;
} Life;

static int life_find(const Life *life, Uuid id)
{
    for (int i = 0; i < life->n; i++)
        if (uuid_eq(life->tasks[i].id, id)) return i;
    return -1;
}

/* Whatever waits is claimed. */
static void life_claim(Life *life)
{
    Task *tasks = NULL;
    size_t n = claim(life->f, worker_of(1), roomy, &tasks);
    for (size_t i = 0; i < n; i++) {
        int at = life_find(life, tasks[i].id);
        if (CHECK(at >= 0)) life->tasks[at].run = (TaskRef){ tasks[i].id, tasks[i].fence };
    }
}

static void life_fork(Life *life, int at)
{
    char key[8];
    ChildStarted said;
    snprintf(key, sizeof key, "%d", (int)random_range(&life->random, 0, 5));
    ChildNew child = child_new(key);
    child.offered.tokens = random_range(&life->random, 1, 1000);
    int r = queue_child_wait(life->f->queue, life->tasks[at].run, &child, &said);
    CHECK(r == 0 || r == QUEUE_E_STALE);
    if (r != 0 || said.refusal.status || said.task.existing) return;
    life->tasks[life->n++] = (LifeTask){ .id = said.task.id, .parent = at };
}

static void life_spend(Life *life, int at)
{
    char id[16];
    snprintf(id, sizeof id, "call%d", life->calls++);
    Call call = { .call_id = str_of(id),
                  .provider = STR("p"),
                  .model = STR("m"),
                  .protocol = STR("openai"),
                  .outcome = STR("ok"),
                  .charged_tokens = random_range(&life->random, 0, 300),
                  .cost_nusd = random_range(&life->random, 0, 300),
                  .at_ms = real_now };
    int r = queue_calls_add_wait(life->f->queue, life->tasks[at].run, &call, 1);
    CHECK(r == 0 || r == QUEUE_E_STALE); /* late ones are booked too */
}

static void life_end(Life *life, int at)
{
    static const TaskOutcome outcomes[] = { TASK_OUTCOME_SUCCEEDED, TASK_OUTCOME_FAILED_FINAL,
                                            TASK_OUTCOME_FAILED_RETRYABLE, TASK_OUTCOME_RELEASED,
                                            TASK_OUTCOME_CANCELED };
    int64_t last = (int64_t)ARRAY_N(outcomes) - 1;
    TaskOutcome outcome =
        outcomes[random_range(&life->random, at == 0 ? 2 : 0, at == 0 ? 3 : last)];
    int r = finish(life->f, life->tasks[at].run, outcome, NULL);
    CHECK(r == 0 || r == QUEUE_E_STALE);
}

typedef struct {
    const Life *life;
    FamilyAmount kids[LIFE_TASKS_MAX], charges[LIFE_TASKS_MAX];
} LifeCheck;

/* What stands in the rows is what the rule says of the rows below. */
static int life_check_job(Db *db, void *arg)
{
    LifeCheck *check = arg;
    for (int i = 0; i < check->life->n; i++) {
        TaskHead head;
        Family family = { .open = true };
        FamilyMember member;
        int r = task_head(db, check->life->tasks[i].id, &head);
        if (r == 0) r = family_get(db, head.seq, &family);
        if (r == -ENOENT) continue; /* it has no relatives yet */
        if (r == 0) r = family_own(db, head.seq, &member.own);
        if (r != 0) return r;
        member.open = !task_state_ended(head.state);
        member.allotted = family.allotted;
        member.kids = check->kids[i] = family.kids;
        CHECK(family.parent_seq == 0 || family.open == member.open);
        check->charges[i] = family_charge(&member);
    }
    return 0;
}

static void life_check(const Life *life)
{
    LifeCheck check = { .life = life };
    CHECK_INT(store_call_wait(life->f->store, life_check_job, &check), 0);
    for (int i = 0; i < life->n; i++) {
        FamilyAmount sum = { 0 };
        for (int k = 0; k < life->n; k++)
            if (life->tasks[k].parent == i) sum = family_sum(&sum, &check.charges[k]);
        CHECK_INT(check.kids[i].tokens, sum.tokens);
        CHECK_INT(check.kids[i].nusd, sum.nusd);
    }
}

static int life_body(void *arg)
{
    Fixture *f = arg;
    int tasks_n = 0;
    add_worker(f, 1, WORKER_REMOTE);
    for (uint64_t seed = 1; seed <= LIVES; seed++) {
        Life life = { .f = f, .random = { seed } };
        life.tasks[life.n++] = (LifeTask){ .id = submit(f, LANE_NORMAL), .parent = -1 };
        for (int step = 0; step < LIFE_STEPS && life.n < LIFE_TASKS_MAX; step++) {
            pass_ms(1000);
            life_claim(&life);
            int at = (int)random_range(&life.random, 0, life.n - 1);
            int64_t what = random_range(&life.random, 0, 9);
            if (life.tasks[at].run.fence == 0) continue;
            if (what < 4) life_fork(&life, at);
            else if (what < 9) life_spend(&life, at);
            else life_end(&life, at);
            if (step % 10 == 0) life_check(&life);
        }
        TaskState state;
        int r = queue_cancel_wait(f->queue, life.tasks[0].id, STR("user"), &state);
        CHECK(r == 0 || r == QUEUE_E_STATE);
        for (int i = 0; i < life.n; i++)
            if (life.tasks[i].run.fence)
                (void)finish(f, life.tasks[i].run, TASK_OUTCOME_CANCELED, NULL);
        life_check(&life);
        if (atomic_load(&check_failures)) fprintf(stderr, "seed %" PRIu64 "\n", seed);
        tasks_n += life.n;
        arena_clear(&f->arena);
    }
    CHECK(tasks_n > 10 * LIVES);
    return 0;
}

static void test_any_life(void **state)
{
    run(state, life_body);
}

/* --- ends ------------------------------------------------------------------------------------- */

static int tree_body(void *arg)
{
    Fixture *f = arg;
    TaskState state;
    TaskRef ref = root(f);
    start(f, ref, "a");
    ChildStarted b = start(f, ref, "b");
    TaskRef child = claim_one(f, worker_of(1));
    ChildStarted below = start(f, child, "a");
    TaskRef held[] = { ref, child };
    HeartbeatReply beat = heartbeat(f, worker_of(1), held, 2);
    CHECK_INT(beat.stops_n, 0);
    CHECK_INT(queue_cancel_wait(f->queue, ref.id, STR("user"), &state), 0);
    CHECK_INT(state, TASK_RUNNING);
    CHECK_INT(queue_signal_wait(f->queue, worker_of(1), beat.mark, DEADLINE_NONE), 0);
    beat = heartbeat(f, worker_of(1), held, 2);
    CHECK_INT(beat.stops_n, 2);
    CHECK_INT(get(f, b.task.id).state, TASK_CANCELED);
    CHECK_INT(get(f, below.task.id).state, TASK_CANCELED);
    ChildNew late = child_new("late");
    ChildStarted said;
    CHECK_INT(queue_child_wait(f->queue, ref, &late, &said), QUEUE_E_STALE);
    CHECK_INT(finish(f, child, TASK_OUTCOME_CANCELED, NULL), 0);
    FamilyRead top = family_of(f, ref.id);
    expect(&top.family.kids, 0, 0, 0);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_CANCELED, NULL), 0);
    check_counts(f, LANE_LOW, 0, 0);
    return 0;
}

static void test_cancel_reaches_the_tree(void **state)
{
    run(state, tree_body);
}

static int left_body(void *arg)
{
    Fixture *f = arg;
    TaskRef ref = root(f);
    start(f, ref, "a");
    ChildStarted b = start(f, ref, "b");
    TaskRef child = claim_one(f, worker_of(1));
    CHECK_INT(finish(f, ref, TASK_OUTCOME_FAILED_FINAL, NULL), 0);
    Task waiting = get(f, b.task.id), running = get(f, child.id);
    CHECK_INT(waiting.state, TASK_CANCELED);
    CHECK_STR(waiting.stopped_by, STR("parent"));
    CHECK(running.state == TASK_RUNNING && running.cancel_requested);
    CHECK_INT(finish(f, child, TASK_OUTCOME_CANCELED, NULL), 0);
    CHECK_INT(queue_retry_wait(f->queue, child.id, false), QUEUE_E_STATE);
    /* by hand its parent starts new ones in place of those that did not succeed */
    CHECK_INT(queue_retry_wait(f->queue, ref.id, false), 0);
    TaskRef again = claim_one(f, worker_of(1));
    CHECK(uuid_eq(again.id, ref.id));
    ChildStarted anew = start(f, again, "a");
    CHECK(!anew.task.existing && !uuid_eq(anew.task.id, child.id));
    CHECK_INT(get(f, ref.id).children, 3);
    return 0;
}

static void test_what_is_left_behind_is_stopped(void **state)
{
    run(state, left_body);
}

/* A family that has grown beyond what may be now is stopped whole. */
static Uuid grown;

static int grown_body(void *arg)
{
    Fixture *f = arg;
    TaskRef ref = root(f);
    grown = ref.id;
    for (char key[2] = "a"; key[0] <= 'f'; key[0]++) start(f, ref, key);
    return 0;
}

static int shrunk_body(void *arg)
{
    Fixture *f = arg;
    TaskState state;
    CHECK_INT(queue_cancel_wait(f->queue, grown, STR("api"), &state), 0);
    CHECK_INT(state, TASK_RUNNING);
    check_counts(f, LANE_LOW, 0, 1);
    return 0;
}

static void test_fewer_are_allowed_now(void **state)
{
    Fixture *f = *state;
    run(state, grown_body);
    close_queue(f);
    f->options.family = (FamilyBounds){ .depth_max = 2, .children_max = 2, .members_max = 3 };
    open_queue(f);
    run(state, shrunk_body);
}

/* Failing for now, or with its worker, a parent leaves its children alone. */
static int retried_body(void *arg)
{
    Fixture *f = arg;
    TaskRef ref = root(f);
    ChildStarted a = start(f, ref, "a");
    CHECK_INT(finish(f, ref, TASK_OUTCOME_FAILED_RETRYABLE, NULL), 0);
    CHECK_INT(get(f, a.task.id).state, TASK_QUEUED);
    TaskRef child = claim_one(f, worker_of(1));
    CHECK(uuid_eq(child.id, a.task.id));
    CHECK_INT(finish(f, child, TASK_OUTCOME_FAILED_RETRYABLE, NULL), 0);
    FamilyRead top = family_of(f, ref.id);
    expect(&top.family.kids, 1000, 2000, 3); /* it is not over */
    return 0;
}

static void test_retries_keep_what_there_is(void **state)
{
    run(state, retried_body);
}

static ChildStarted claimed_child(Fixture *f, TaskRef ref, const char *key, TaskRef *ret)
{
    ChildStarted child = start(f, ref, key);
    *ret = claim_one(f, worker_of(1));
    CHECK(uuid_eq(ret->id, child.task.id));
    return child;
}

/* With its last worker a parent ends, and a child that the same worker has lost is not queued for
 * nobody. */
static int lost_together_body(void *arg)
{
    Fixture *f = arg;
    TaskRef ref = root(f), child = { .fence = 0 };
    for (int losses = 1; losses <= TASK_LOSSES_MAX; losses++) {
        if (losses == TASK_LOSSES_MAX) claimed_child(f, ref, "a", &child);
        pass_ms(20000);
        CHECK_INT(queue_tick_wait(f->queue), 0);
        if (losses == TASK_LOSSES_MAX) break;
        CHECK_INT(get(f, ref.id).state, TASK_QUEUED);
        pass_ms(600000);
        add_worker(f, 1, WORKER_REMOTE);
        ref = claim_one(f, worker_of(1));
    }
    CHECK_INT(get(f, ref.id).state, TASK_FAILED);
    CHECK_INT(get(f, child.id).state, TASK_CANCELED);
    CHECK_STR(get(f, child.id).stopped_by, STR("parent"));
    check_counts(f, LANE_LOW, 0, 0);
    return 0;
}

static void test_lost_with_its_parent(void **state)
{
    run(state, lost_together_body);
}

/* A person has been asked, and what was begun below goes on: the retry finds it, and only who has
 * ended without success is begun anew. A fresh one begins all anew, and nothing goes on beside. */
static int escalated_body(void *arg)
{
    Fixture *f = arg;
    TaskRef ref = root(f), run[4];
    ChildStarted failed = claimed_child(f, ref, "failed", &run[0]);
    ChildStarted done = claimed_child(f, ref, "done", &run[1]);
    ChildStarted stopped = claimed_child(f, ref, "stopped", &run[2]);
    ChildStarted runs = claimed_child(f, ref, "runs", &run[3]);
    ChildStarted waits = start(f, ref, "waits");
    CHECK_INT(finish(f, run[0], TASK_OUTCOME_FAILED_FINAL, NULL), 0);
    CHECK_INT(finish(f, run[1], TASK_OUTCOME_SUCCEEDED, NULL), 0);
    CHECK_INT(queue_child_cancel_wait(f->queue, ref, stopped.task.id), 0);
    CHECK_INT(finish(f, ref, TASK_OUTCOME_ESCALATED, NULL), 0);
    CHECK_INT(queue_retry_wait(f->queue, ref.id, false), 0);
    CHECK(uuid_eq(claim_one(f, worker_of(1)).id, waits.task.id));
    ref = claim_one(f, worker_of(1));
    CHECK(uuid_eq(start(f, ref, "done").task.id, done.task.id));
    CHECK(uuid_eq(start(f, ref, "runs").task.id, runs.task.id));
    CHECK(uuid_eq(start(f, ref, "waits").task.id, waits.task.id));
    CHECK(!uuid_eq(start(f, ref, "failed").task.id, failed.task.id));
    CHECK(!uuid_eq(start(f, ref, "stopped").task.id, stopped.task.id));

    CHECK_INT(finish(f, ref, TASK_OUTCOME_ESCALATED, NULL), 0);
    CHECK_INT(queue_retry_wait(f->queue, ref.id, true), 0);
    CHECK(get(f, runs.task.id).cancel_requested && get(f, waits.task.id).cancel_requested);
    check_counts(f, LANE_LOW, 1, 3); /* the parent; the three that are to stop */
    ref = claim_one(f, worker_of(1));
    CHECK(!start(f, ref, "done").task.existing && !start(f, ref, "runs").task.existing);
    return 0;
}

static void test_a_retry_doubles_nobody(void **state)
{
    run(state, escalated_body);
}

/* --- looking at them -------------------------------------------------------------------------- */

typedef struct {
    Fixture *f;
    TaskRef ref;
    int64_t seen;
    FamilyRow *rows;
    size_t n;
} Look;

static int looker(void *arg)
{
    Look *look = arg;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, 1 << 20);
    CHECK_INT(queue_children_wait(look->f->queue, look->ref, look->seen, DEADLINE_NONE, &arena,
                                  &look->rows, &look->n),
              0);
    CHECK_INT(look->n, 1);
    CHECK_INT(look->rows[0].state, TASK_SUCCEEDED);
    return 0;
}

static int look_body(void *arg)
{
    Fixture *f = arg;
    FiberRef fiber;
    Task task;
    TaskRef ref = root(f);
    ChildStarted a = start(f, ref, "a");
    Look look = { .f = f, .ref = ref };
    CHECK_INT(fiber_spawn("looker", looker, &look, &fiber), 0);
    await_watchers(f, 1);
    TaskRef child = claim_one(f, worker_of(1));
    CHECK_INT(finish(f, child, TASK_OUTCOME_SUCCEEDED, NULL), 0);
    CHECK_INT(fiber_join_wait(fiber, NULL), 0);
    CHECK_INT(queue_child_get_wait(f->queue, ref, a.task.id, &f->arena, &task), 0);
    CHECK_STR(task.result, STR("\"done\""));
    CHECK_INT(queue_child_get_wait(f->queue, ref, ref.id, &f->arena, &task), QUEUE_E_NO_TASK);
    CHECK_INT(queue_child_get_wait(f->queue, child, ref.id, &f->arena, &task), QUEUE_E_STALE);
    CHECK_INT(queue_child_cancel_wait(f->queue, ref, a.task.id), 0); /* it has ended: so be it */
    CHECK_INT(queue_child_cancel_wait(f->queue, ref, worker_of(5)), QUEUE_E_NO_TASK);
    ChildStarted b = start(f, ref, "b");
    CHECK_INT(queue_child_cancel_wait(f->queue, ref, b.task.id), 0);
    CHECK_INT(get(f, b.task.id).state, TASK_CANCELED);
    return 0;
}

/* The fence is looked at where the child is stopped: nothing comes between the two. */
static int cancel_fenced_body(void *arg)
{
    Fixture *f = arg;
    StoreStats before, after;
    TaskRef ref = root(f);
    ChildStarted a = start(f, ref, "a"), b = start(f, ref, "b");
    store_stats(f->store, &before);
    CHECK_INT(queue_child_cancel_wait(f->queue, ref, a.task.id), 0);
    store_stats(f->store, &after);
    CHECK_INT(after.jobs - before.jobs, 1);
    CHECK_STR(get(f, a.task.id).stopped_by, STR("parent"));
    CHECK_INT(finish(f, ref, TASK_OUTCOME_RELEASED, NULL), 0);
    CHECK_INT(queue_child_cancel_wait(f->queue, ref, b.task.id), QUEUE_E_STALE);
    CHECK_INT(get(f, b.task.id).state, TASK_QUEUED);
    return 0;
}

static void test_cancel_is_fenced(void **state)
{
    run(state, cancel_fenced_body);
}

static void test_waits_for_an_end(void **state)
{
    run(state, look_body);
}

/* More tasks than are named one by one are woken too. */
static int many_body(void *arg)
{
    Fixture *f = arg;
    TaskState state;
    char key[16];
    Uuid last = { 0 };
    TaskRef ref = root(f);
    for (int i = 0; i < 50; i++) {
        snprintf(key, sizeof key, "%d", i);
        last = start(f, ref, key).task.id;
    }
    uint64_t mark = queue_watch_mark(f->queue, last);
    CHECK_INT(queue_cancel_wait(f->queue, ref.id, STR("user"), &state), 0);
    CHECK_INT(queue_watch_wait(f->queue, last, mark, DEADLINE_NONE), 0);
    CHECK_INT(get(f, last).state, TASK_CANCELED);
    return 0;
}

static void test_many(void **state)
{
    run(state, many_body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_inherits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_later_than_its_parent, setup, teardown),
        cmocka_unit_test_setup_teardown(test_late_together, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_family_is_finished_first, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_same_child_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_finds_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bounds, bounds_setup, teardown),
        cmocka_unit_test_setup_teardown(test_anew, bounds_setup, teardown),
        cmocka_unit_test_setup_teardown(test_limits_hold_for_who_waits_for_nobody, limited_setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_full_lane, full_setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_not_spent_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_any_life, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cancel_reaches_the_tree, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cancel_is_fenced, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_left_behind_is_stopped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retries_keep_what_there_is, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost_with_its_parent, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_retry_doubles_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fewer_are_allowed_now, setup, teardown),
        cmocka_unit_test_setup_teardown(test_waits_for_an_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
