/* The world of test_sim_control: who submits tasks, the worker that runs them, those who score what
 * came of it, who are asked and who try again what is dead. And what is known of all of it from
 * outside: `sim`. */
#ifndef GANTRY_TESTS_SIM_CONTROL_WORLD_H
#define GANTRY_TESTS_SIM_CONTROL_WORLD_H

#include "tests/unit/queue_fixture.h"

#include <math.h>
#include <stdio.h>

#include "logic/rng.h"
#include "logic/rollout_spec.h"
#include "store/rollout_store.h"

#define MINUTE_MS INT64_C(60000)
#define HOUR_MS (60 * MINUTE_MS)
#define SESSIONS 3000
#define RUNNING_MAX 60
#define SUBMIT_MAX 128
#define SCORES_MAX 4096
#define ROUTES_MAX 16
#define SHADOWS_A_STEP 12
#define ASKED_MAX 512
#define DEAD_MAX 256
#define BULK_MAX 60 /* tried again at once */

/* States in which a rollout is found; one paused in its shadow beside the others. */
enum { SLOT_PAUSED_IN_SHADOW = ROLLOUT_N_, SLOT_NONE, SLOT_N_ };

/* Who says that a version is the stable one from now on. */
typedef enum {
    BY_EVIDENCE,
    BY_PERSON, /* who promoted it out of a step, or whole */
    BY_BLUE_GREEN,
    BY_IMMEDIATE,
    BY_N_
} CompletedBy;

/* Why a version went back. */
typedef enum { BACK_EVIDENCE, BACK_SHADOW, BACK_TRIPWIRE, BACK_DEADLINE, BACK_N_ } BackBy;

/* Over all seeds. [2]: of good versions, of bad ones. */
typedef struct {
    int64_t tasks, bursts, units, pairs, advances, ticks;
    int64_t ended[TASK_STATE_N_]; /* tasks, as they are found at the end */
    int64_t begun[2], judged[2];  /* rollouts; of these, those that evidence decides */
    int64_t completed[BY_N_][2], back[BACK_N_][2];
    int64_t killed[SLOT_N_], lost[SLOT_N_]; /* restarts, and losses of leadership */
    int64_t fights;                         /* steps in which both replicas led */
    int64_t superseded, refused, commands[COMMAND_N_], back_by_hand, back_to;
    int64_t deadline_pauses, late_checks, upgrades;
    int64_t calls, children;
    int64_t questions[ESCALATION_STATE_N_]; /* by what became of them */
    int64_t retried, retries_refused, bulk; /* tasks; and times that many were */
} Tally;

typedef struct {
    TaskRef ref;
    bool canary;
    bool asks;         /* a person, before it succeeds */
    int64_t end_at_ms; /* INT64_MAX: it hangs */
    TaskFinish finish;
} Running;

typedef struct {
    Uuid id;
    int64_t at_ms;
    double value;
} LateScore;

typedef struct {
    Uuid id;
    int64_t at_ms; /* when somebody answers; INT64_MAX: nobody does */
} Asked;

/* A replica's checks of a version before its first task. */
typedef struct {
    char id[UUID_TEXT_MAX]; /* the rollout's; empty: there are none */
    bool passed;
    int64_t at_ms; /* when they are through */
} Checking;

static struct {
    Rng rng;
    int step, steps;
    size_t first_block;
    int made; /* rollouts, and versions */
    Uuid worker;

    /* the rollout that was begun last */
    char id[UUID_TEXT_MAX], canary[VERSION_ID_LEN + 1];
    double error; /* of the canary, in truth */
    bool bad;
    bool gated;           /* a step of it waits for a person */
    bool by_hand;         /* somebody has promoted it out of a step */
    Evidence fresh;       /* computed beside the controller, as is: */
    ShadowEvidence pairs; /* of its shadow */
    int64_t consumed[EVIDENCE_GROUPS_N_], seen;

    /* what is stable, and what was before that may be gone back to */
    char stable[VERSION_ID_LEN + 1], previous[VERSION_ID_LEN + 1];
    char was_stable[64][VERSION_ID_LEN + 1];
    int was_stable_n;
    int completions;
    char routes[ROUTES_MAX][VERSION_ID_LEN + 1]; /* where new tasks may have gone in this step */
    size_t routes_n;

    bool leads[2]; /* as the replicas see it */
    int64_t skew_ms[2];
    Checking checking[2];
    int slot; /* of the last rollout, after the last step */
    int64_t killed_at_ms;

    Running running[RUNNING_MAX];
    size_t running_n;
    int away; /* the worker claims nothing before this step */
    LateScore scores[SCORES_MAX];
    size_t scores_n;
    Asked asked[ASKED_MAX];
    size_t asked_n;
    Uuid dead[DEAD_MAX]; /* the last of those that did not succeed */
    size_t dead_n;
    Tally tally;
} sim;

static inline double chance(void)
{
    return rng_uniform(&sim.rng);
}

static inline size_t any_below(size_t n)
{
    return (size_t)(chance() * (double)n);
}

/* --- many at once: a fiber each, so that their commits are one -------------------------------- */

static inline void each(int (*fn)(void *arg), void *args, size_t size, size_t n)
{
    FiberRef refs[SUBMIT_MAX];
    assert(n <= ARRAY_N(refs));
    for (size_t i = 0; i < n; i++)
        CHECK_INT(fiber_spawn("sim", fn, (char *)args + i * size, &refs[i]), 0);
    for (size_t i = 0; i < n; i++) CHECK_INT(fiber_join_wait(refs[i], NULL), 0);
}

/* --- who submits ------------------------------------------------------------------------------ */

typedef struct {
    Fixture *f;
    TaskNew new;
    char session[32], user[32];
    TaskSummary summary;
} Submit;

static inline int submit_fiber(void *arg)
{
    Submit *s = arg;
    CHECK_INT(queue_submit_wait(s->f->queue, &s->new, &s->summary), 0);
    CHECK(s->summary.version_id[0] != 0);
    return 0;
}

static inline void submit_plan(Fixture *f, Submit *s)
{
    double kind = chance();
    *s = (Submit){ .f = f };
    int m = snprintf(s->session, sizeof(s->session), "s%d", (int)(chance() * SESSIONS));
    int u = snprintf(s->user, sizeof(s->user), "u%d", (int)(chance() * SESSIONS));
    s->new = (TaskNew){ .agent = STR("support"),
                        .lane = LANE_NORMAL,
                        .input = STR("1"),
                        .session_id = str_make(s->session, (size_t)m),
                        .user_id = str_make(s->user, (size_t)u),
                        .time_limit_ms = kind < 0.5 ? 2 * HOUR_MS : 0 };
    if (kind < 0.02) s->new.version_id = str_of(VERSION_A);
    else if (kind < 0.08) s->new.run_at_ms = real_now + (int64_t)(chance() * 5 * HOUR_MS);
    else if (kind > 0.97) s->new.lane = LANE_LOW; /* hardly ever started */
}

static inline void submit_some(Fixture *f)
{
    static Submit submits[SUBMIT_MAX];
    bool burst = chance() < 0.03;
    size_t n = burst ? SUBMIT_MAX : (size_t)(chance() * 14);
    sim.tally.bursts += burst;
    for (size_t i = 0; i < n; i++) submit_plan(f, &submits[i]);
    each(submit_fiber, submits, sizeof(submits[0]), n);
    sim.tally.tasks += (int64_t)n;
}

/* --- the worker ------------------------------------------------------------------------------- */

/* What becomes of a task that has just been claimed. */
static inline Running started(const Task *task)
{
    double u = chance();
    Running run = { .ref = { task->id, task->fence },
                    .canary = str_eq(task->version_id, str_of(sim.canary)),
                    .end_at_ms = real_now + (int64_t)(-log(chance()) * 25 * MINUTE_MS) };
    if (chance() < 0.01) run.end_at_ms = INT64_MAX;
    run.finish = (TaskFinish){ .task = run.ref, .outcome = TASK_OUTCOME_SUCCEEDED };
    if (u < (run.canary ? sim.error : 0.02)) run.finish.outcome = TASK_OUTCOME_FAILED_FINAL;
    else if (u > 0.99) run.finish.outcome = TASK_OUTCOME_FAILED_RETRYABLE;
    else if (u > 0.98) run.finish.outcome = TASK_OUTCOME_CANCELED;
    if (run.finish.outcome == TASK_OUTCOME_SUCCEEDED) {
        run.finish.result = STR("1");
        run.asks = chance() < (run.canary && sim.bad ? 0.15 : 0.04);
    }
    return run;
}

/* What a task does that is recorded: it calls a model, and starts a task of its own. */
typedef struct {
    Fixture *f;
    TaskRef ref;
    bool calls, starts;
    bool started; /* out */
} Doing;

static inline int do_fiber(void *arg)
{
    Doing *d = arg;
    char id[32];
    snprintf(id, sizeof(id), "c%" PRId64, d->ref.fence);
    Call call = { .call_id = str_of(id),
                  .worker_id = sim.worker,
                  .provider = STR("p"),
                  .model = STR("m"),
                  .protocol = STR("openai"),
                  .outcome = STR("ok"),
                  .at_ms = real_now,
                  .cost_nusd = 1000000 };
    ChildNew child = { .key = STR("k"),
                       .fingerprint = STR("0123456789abcdef0123456789abcdef"),
                       .input = STR("1"),
                       .offered = { 1000, 10000000, 3 } };
    ChildStarted started = { .refusal = { 0 } };
    if (d->calls) CHECK_INT(queue_calls_add_wait(d->f->queue, d->ref, &call, 1), 0);
    if (d->starts) CHECK_INT(queue_child_wait(d->f->queue, d->ref, &child, &started), 0);
    d->started = d->starts && started.refusal.status == 0 && !started.task.existing;
    return 0;
}

static inline void do_some(Fixture *f, const Task *tasks, size_t n)
{
    static Doing doing[RUNNING_MAX];
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        doing[k] = (Doing){ .f = f,
                            .ref = { tasks[i].id, tasks[i].fence },
                            .calls = chance() < 0.25,
                            .starts = chance() < 0.03 };
        k += doing[k].calls || doing[k].starts;
    }
    each(do_fiber, doing, sizeof(doing[0]), k);
    for (size_t i = 0; i < k; i++) {
        sim.tally.calls += doing[i].calls;
        sim.tally.children += doing[i].started;
    }
}

static inline size_t claim_once(Fixture *f)
{
    Task *tasks = NULL;
    int64_t use = (int64_t)sim.running_n;
    LaneConfig slots = { .shared = MAX(RUNNING_MAX - use, 0) };
    size_t n = slots.shared > 0 ? claim(f, sim.worker, slots, &tasks) : 0;
    for (size_t i = 0; i < n; i++) sim.running[sim.running_n++] = started(&tasks[i]);
    do_some(f, tasks, n);
    return n;
}

/* Repetitions come one at a time, when there is nothing else. */
static inline void claim_some(Fixture *f)
{
    if (chance() < 0.03) sim.away = sim.step + 1 + (int)(chance() * 8); /* it is looked for */
    if (sim.step < sim.away) return;
    size_t n = claim_once(f);
    bool shadow = sim.slot == ROLLOUT_SHADOW || sim.slot == SLOT_PAUSED_IN_SHADOW;
    for (int i = 0; shadow && n > 0 && i < SHADOWS_A_STEP; i++) n = claim_once(f);
}

typedef struct {
    Fixture *f;
    Running run;
    double value;
    bool fallback;
    int64_t timeout_ms;
    TaskState state; /* out; RUNNING: it was not its task any more */
} Finish;

/* Asks, and ends as is to follow: a shadow is told at once. False: it may not ask any more. */
static inline bool ask(Finish *e)
{
    CLEANUP(arena_deinit) Arena arena;
    EscalationReply reply;
    EscalationAsk question = { .occurrence = 1,
                               .question = STR("may I?"),
                               .fallback = e->fallback ? STR("2") : STR_NULL,
                               .timeout_ms = e->timeout_ms };
    arena_init(&arena, 1 << 20);
    sha256(question.question, question.key);
    int r = queue_escalate_wait(e->f->queue, e->run.ref, &question, &arena, &reply);
    CHECK(r == 0 || r == QUEUE_E_STALE);
    if (r != 0 || reply.state == ESCALATION_ANSWERED || reply.state == ESCALATION_DEFAULTED)
        return r == 0;
    e->run.finish.result = STR_NULL;
    e->run.finish.outcome = reply.state == ESCALATION_PENDING ? TASK_OUTCOME_ESCALATED
                                                              : TASK_OUTCOME_FAILED_FINAL;
    return true;
}

static inline int finish_fiber(void *arg)
{
    Finish *e = arg;
    TaskState state = TASK_RUNNING;
    e->state = TASK_RUNNING;
    if (e->run.asks && !ask(e)) return 0;
    int r = queue_finish_wait(e->f->queue, &e->run.finish, &state);
    CHECK(r == 0 || r == QUEUE_E_STALE);
    if (r == 0) e->state = state;
    return 0;
}

static inline void note_asked(Uuid id)
{
    if (sim.asked_n == ASKED_MAX) return;
    double u = chance(); /* the last third is never answered */
    int64_t at_ms = u < 0.66 ? real_now + (int64_t)(u * 9 * HOUR_MS) : INT64_MAX;
    if (at_ms < INT64_MAX) sim.asked[sim.asked_n++] = (Asked){ id, at_ms };
}

static inline void score_later(const Finish *e)
{
    if (sim.scores_n == SCORES_MAX || chance() < 0.1) return;
    sim.scores[sim.scores_n++] = (LateScore){ .id = e->run.ref.id,
                                              .at_ms = real_now + (int64_t)(chance() * 4 * HOUR_MS),
                                              .value = e->value };
}

static inline void note_end(const Finish *e)
{
    Uuid id = e->run.ref.id;
    if (e->state == TASK_SUCCEEDED) score_later(e);
    else if (e->state == TASK_ESCALATED) note_asked(id);
    else if (task_state_ended(e->state)) sim.dead[sim.dead_n++ % DEAD_MAX] = id;
}

/* Those whose time has come, and those that were stopped. */
static inline void finish_some(Fixture *f)
{
    static Finish ends[RUNNING_MAX];
    size_t n = 0, kept = 0;
    for (size_t i = 0; i < sim.running_n; i++) {
        Running *run = &sim.running[i];
        if (run->end_at_ms > real_now) {
            sim.running[kept++] = *run;
            continue;
        }
        double mean = run->canary && sim.bad ? 0.5 : 0.8;
        ends[n++] = (Finish){ .f = f,
                              .run = *run,
                              .fallback = chance() < 0.5,
                              .timeout_ms = (int64_t)(chance() * 8 * HOUR_MS) + 1,
                              .value = rng_beta(&sim.rng, 8 * mean, 8 - 8 * mean) };
    }
    sim.running_n = kept;
    each(finish_fiber, ends, sizeof(ends[0]), n);
    for (size_t i = 0; i < n; i++) note_end(&ends[i]);
}

/* The worker hears what it has to stop: canceled, or lost to a limit. */
static inline void hear(Fixture *f)
{
    TaskRef held[RUNNING_MAX];
    for (size_t i = 0; i < sim.running_n; i++) held[i] = sim.running[i].ref;
    HeartbeatReply reply = heartbeat(f, sim.worker, held, sim.running_n);
    for (size_t s = 0; s < reply.stops_n; s++)
        for (size_t i = 0; i < sim.running_n; i++) {
            Running *run = &sim.running[i];
            if (!uuid_eq(run->ref.id, reply.stops[s].task.id)) continue;
            run->end_at_ms = real_now;
            run->asks = false;
            run->finish.outcome = TASK_OUTCOME_CANCELED;
            run->finish.result = STR_NULL;
        }
}

/* --- who scores ------------------------------------------------------------------------------- */

typedef struct {
    Fixture *f;
    LateScore score;
} DueScore;

static inline int score_fiber(void *arg)
{
    DueScore *s = arg;
    double quality;
    TaskScore score = { .id = s->score.id, .name = STR("judge"), .value = s->score.value };
    CHECK_INT(queue_score_wait(s->f->queue, &score, &quality), 0);
    return 0;
}

static inline void score_some(Fixture *f)
{
    static DueScore due[SUBMIT_MAX];
    size_t n = 0, kept = 0;
    for (size_t i = 0; i < sim.scores_n; i++) {
        if (sim.scores[i].at_ms > real_now || n == ARRAY_N(due)) sim.scores[kept++] = sim.scores[i];
        else due[n++] = (DueScore){ f, sim.scores[i] };
    }
    sim.scores_n = kept;
    each(score_fiber, due, sizeof(due[0]), n);
}

/* --- who is asked ----------------------------------------------------------------------------- */

typedef struct {
    Fixture *f;
    Uuid id;
} Answering;

/* Too late is told so. */
static inline int answer_fiber(void *arg)
{
    Answering *a = arg;
    TaskState state;
    int r = queue_resolve_wait(a->f->queue, a->id, STR("3"), STR("ada"), &state);
    CHECK(r == 0 || r == QUEUE_E_STATE);
    return 0;
}

static inline void answer_some(Fixture *f)
{
    static Answering due[SUBMIT_MAX];
    size_t n = 0, kept = 0;
    for (size_t i = 0; i < sim.asked_n; i++) {
        if (sim.asked[i].at_ms > real_now || n == ARRAY_N(due)) sim.asked[kept++] = sim.asked[i];
        else due[n++] = (Answering){ f, sim.asked[i].id };
    }
    sim.asked_n = kept;
    each(answer_fiber, due, sizeof(due[0]), n);
}

/* --- who tries again -------------------------------------------------------------------------- */

typedef struct {
    Fixture *f;
    Uuid id;
    bool fresh;
    int outcome; /* out */
    char version_id[VERSION_ID_LEN + 1];
    bool named; /* by its caller, or its parent */
} Retry;

static inline int retry_fiber(void *arg)
{
    Retry *t = arg;
    Task task = { .version_id = STR_NULL };
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, 1 << 20);
    t->outcome = queue_retry_wait(t->f->queue, t->id, t->fresh);
    CHECK(t->outcome == 0 || t->outcome == QUEUE_E_STATE);
    CHECK_INT(queue_get_wait(t->f->queue, t->id, 0, &arena, &task), 0);
    str_copy(t->version_id, sizeof(t->version_id), task.version_id);
    t->named = str_eq(task.version_id, STR(VERSION_A)) || !uuid_is_zero(task.parent_id);
    return 0;
}

/* One by one, or the last that have failed. Returns how many. */
static inline size_t retries_plan(Fixture *f, Retry *ret)
{
    double u = chance();
    size_t n = 0;
    TaskPage page = { .n = 0 };
    TaskFilter filter = { .state = TASK_FAILED, .lane = -1, .limit = BULK_MAX };
    if (u < 0.25 && sim.dead_n > 0) {
        size_t among = MIN(sim.dead_n, DEAD_MAX);
        ret[n++].id = sim.dead[(size_t)(chance() * (double)among)];
    } else if (u > (sim.slot == ROLLOUT_STEP ? 0.9 : 0.98)) {
        if (sim.slot == ROLLOUT_STEP && u < 0.97) filter.version_id = str_of(sim.canary);
        CHECK_INT(queue_list_wait(f->queue, &filter, &f->arena, &page), 0);
        for (; n < page.n; n++) ret[n].id = page.tasks[n].id;
        sim.tally.bulk += n > 0;
    }
    for (size_t i = 0; i < n; i++) ret[i] = (Retry){ f, ret[i].id, .fresh = chance() < 0.5 };
    return n;
}

#endif
