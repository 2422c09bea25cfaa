#include "rollout/judge.h"

#include <math.h>
#include <stdio.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/digest.h"
#include "logic/grade.h"
#include "queue/ledger.h"
#include "store/agent_store.h"

#define NEWS_MAX 32
#define NEWS_ARENA_MAX ((size_t)NEWS_MAX * (JUDGING_RESULT_MAX + 8192))
#define VERDICT_ARENA_MAX ((size_t)32 * JUDGING_RESULT_MAX)
#define TASK_ARENA_MAX ((size_t)16 << 20)
#define INPUT_BYTES_MAX (2 * JUDGE_TEXT_BYTES_MAX + 1024)
#define REASON_BYTES_MAX 1000

/* --- whether a judge is asked ----------------------------------------------------------------- */

static int count_job(Db *db, void *arg)
{
    return judging_count(db, arg);
}

int judges_look_wait(Queue *queue, int64_t now_ms, Judges *ret)
{
    int64_t open = 0;
    *ret = (Judges){ .queue = queue, .now_ms = now_ms };
    int r = store_read_wait(queue_store(queue), count_job, &open);
    ret->room = MAX(JUDGINGS_MAX - open, 0);
    return r;
}

/* Whether one of its own budgets is used up. */
static int budget_wait(Queue *queue, Str agent, bool *ret_used_up)
{
    *ret_used_up = false;
    for (BudgetPeriod period = 0; period < BUDGET_PERIOD_N_; period++)
        for (BudgetUnit unit = 0; unit < BUDGET_UNIT_N_; unit++) {
            Budget budget;
            BudgetScope scope = { BUDGET_AGENT, period, unit, agent };
            int r = queue_budget_get_wait(queue, &scope, &budget);
            if (r < 0) return r;
            *ret_used_up |= r == 0 && budget.limited && budget.settled >= budget.limit;
        }
    return 0;
}

typedef struct {
    Str agent;
    Arena *arena;
    bool exists;
    int64_t judges;
    Str version_id;
} AgentJob;

static int agent_job(Db *db, void *arg)
{
    AgentJob *job = arg;
    job->version_id = STR_NULL;
    int r = agent_judges(db, job->agent, &job->judges);
    job->exists = r == 0;
    if (r == 0) r = routing_get(db, job->agent, job->arena, &job->version_id);
    return r == -ENOENT ? 0 : r;
}

/* Why it is not asked; NULL: it is, that version of it. */
static int refusal_wait(Judges *judges, Str agent, Arena *arena, const char **ret_why,
                        bool *ret_held, Str *ret_version_id)
{
    for (size_t i = 0; i < judges->known_n; i++) {
        if (!str_eq(str_of(judges->known[i].agent), agent)) continue;
        *ret_why = judges->known[i].why;
        *ret_held = judges->known[i].held;
        *ret_version_id = str_of(judges->known[i].version_id);
        return 0;
    }
    AgentJob job = { .agent = agent, .arena = arena };
    bool used_up = false;
    int r = store_read_wait(queue_store(judges->queue), agent_job, &job);
    if (r == 0) r = budget_wait(judges->queue, agent, &used_up);
    if (r != 0) return r;
    *ret_why = NULL;
    *ret_held = false;
    *ret_version_id = job.version_id;
    if (!job.exists) *ret_why = "there is no such judge";
    else if (job.judges > 0) *ret_why = "the judge is itself judged by a model";
    else if (used_up) {
        *ret_why = "the judge's budget is used up";
        *ret_held = true;
    }
    if (judges->known_n == JUDGE_AGENTS_MAX) return 0;
    size_t i = judges->known_n++;
    str_copy(judges->known[i].agent, sizeof(judges->known[i].agent), agent);
    str_copy(judges->known[i].version_id, sizeof(judges->known[i].version_id), job.version_id);
    judges->known[i].why = *ret_why;
    judges->known[i].held = *ret_held;
    if (*ret_why)
        LOG_WARN("a judge is not asked", LOG_STR("judge", agent), LOG_CSTR("why", *ret_why));
    return 0;
}

/* --- asking ----------------------------------------------------------------------------------- */

/* A judge's task; the same one for the same try. Returns 0, a positive outcome of the queue,
 * -errno. */
static int submit_wait(Queue *queue, const Judging *judging, Str agent, Str version_id, Str input,
                       Str metadata, Arena *arena, Uuid *ret)
{
    uint8_t print[SHA256_BYTES];
    TaskSummary summary;
    Str key = arena_printf(arena, "gantry.judge:%" PRId64 ":%.*s:%" PRId64, judging->of,
                           STR_ARG(judging->grader), judging->tries);
    if (!key.ptr) return -ENOMEM;
    sha256(key, print);
    TaskNew task = { .agent = agent,
                     .version_id = version_id,
                     .lane = LANE_LOW,
                     .time_limit_ms = JUDGE_TASK_MS,
                     .input = input,
                     .metadata = metadata,
                     .idempotency_key = key,
                     .fingerprint = str_make((const char *)print, sizeof print) };
    int r = queue_submit_wait(queue, &task, &summary);
    if (r == 0) *ret = summary.id;
    return r;
}

/* What the judge sees. */
static int input_write(const Question *q, Arena *arena, Str *ret)
{
    CLEANUP(buf_deinit) Buf text = { 0 };
    buf_init(&text, INPUT_BYTES_MAX);
    JsonOut out = json_out(&text);
    json_out_object(&out);
    json_out_kraw(&out, "input", q->input);
    json_out_kraw(&out, "output", q->output);
    json_out_object_end(&out);
    *ret = arena_str(arena, buf_str(&text));
    return json_out_ok(&out) && ret->ptr ? 0 : -ENOMEM;
}

/* What people see who look at the judge's task. */
static Str metadata_write(const Question *q, Arena *arena)
{
    return arena_printf(arena, "{\"judges\":\"%.*s\",\"grader\":\"%.*s\"}", STR_ARG(q->subject),
                        STR_ARG(q->grader));
}

static int not_asked(Judging *judging, const char *why, bool held)
{
    judging->state = held ? JUDGING_HELD : JUDGING_FAILED;
    judging->comment = str_of(why);
    return 0;
}

/* Why nobody can be asked for now; NULL: that is not why. */
static const char *hold_of(int r)
{
    if (r == QUEUE_E_FULL || r == -ENOSPC) return "the lane low is full";
    return r == QUEUE_E_SWITCHED_OFF ? "the judge is switched off" : NULL;
}

int judge_ask_wait(Judges *judges, const Question *q, Arena *arena, Judging *ret)
{
    const char *why = NULL;
    bool held = false;
    *ret = (Judging){
        .of = q->of, .grader = q->grader, .tries = 1, .asked_at_ms = judges->now_ms, .value = NAN
    };
    if (str_empty(q->output) || q->output.len > JUDGE_TEXT_BYTES_MAX || str_empty(q->input) ||
        q->input.len > JUDGE_TEXT_BYTES_MAX)
        return not_asked(ret, "input or output is too long to be judged", false);
    Str version_id;
    int r = refusal_wait(judges, q->agent, arena, &why, &held, &version_id);
    if (r != 0) return r;
    if (why) return not_asked(ret, why, held);
    if (judges->room == 0) return not_asked(ret, "too many judgings are under way", true);
    Str input, metadata = metadata_write(q, arena);
    r = input_write(q, arena, &input);
    if (r != 0 || !metadata.ptr) return -ENOMEM;
    r = submit_wait(judges->queue, ret, q->agent, version_id, input, metadata, arena,
                    &ret->judge_id);
    if (hold_of(r)) return not_asked(ret, hold_of(r), true);
    if (r > 0) return not_asked(ret, "the judge cannot be asked", false);
    judges->room -= r == 0;
    return r;
}

/* --- hearing ---------------------------------------------------------------------------------- */

typedef struct {
    int64_t overdue_ms;
    Arena arena;
    JudgingNews *news;
    size_t n;
} HearJob;

static void hear_free(HearJob *job)
{
    arena_deinit(&job->arena);
}

static int news_job(Db *db, void *arg)
{
    HearJob *job = arg;
    return judging_news(db, job->overdue_ms, NEWS_MAX, &job->arena, &job->news, &job->n);
}

static int set_job(Db *db, void *arg)
{
    return judging_set(db, arg);
}

/* Asks the same again in a new task. */
static int again_wait(Queue *queue, const JudgingNews *news, Judging *ret)
{
    CLEANUP(arena_deinit) Arena arena;
    Task task;
    arena_init(&arena, TASK_ARENA_MAX);
    int r = queue_get_wait(queue, news->judging.judge_id, TASK_PART_PAYLOAD, &arena, &task);
    if (r != 0) return r;
    ret->tries++;
    return submit_wait(queue, ret, news->agent, news->version_id, task.input, task.metadata, &arena,
                       &ret->judge_id);
}

static void verdict(const JudgingNews *news, Arena *arena, Judging *ret)
{
    Str reason = STR_NULL;
    CLEANUP(arena_deinit) Arena scratch;
    arena_init(&scratch, VERDICT_ARENA_MAX);
    ret->state = JUDGING_FAILED;
    if (news->state != TASK_SUCCEEDED) {
        ret->comment = arena_printf(arena, "the judge's task %s: %.*s",
                                    task_state_name(news->state), STR_ARG(news->error_code));
        return;
    }
    if (grade_read_verdict(news->result, &scratch, &ret->value, &reason) != 0) {
        ret->comment = arena_str(arena, str_of(diag_text()));
        return;
    }
    ret->state = JUDGING_TOLD;
    size_t len = MIN(reason.len, (size_t)REASON_BYTES_MAX);
    while (len > 0 && len < reason.len && ((unsigned char)reason.ptr[len] & 0xc0) == 0x80) len--;
    ret->comment = arena_printf(arena, "by %.12s%s%.*s", arena_cstr(arena, news->version_id),
                                len > 0 ? ": " : "", (int)len, reason.ptr ? reason.ptr : "");
}

/* One judging is settled, or asked once more. */
static int hear_wait(Queue *queue, HearJob *job, const JudgingNews *news)
{
    Judging judging = news->judging;
    bool ended = task_state_ended(news->state);
    if (!ended) { /* overdue, or it asks a person */
        TaskState state;
        int r = queue_cancel_wait(queue, judging.judge_id, STR("grader"), &state);
        if (r < 0) return r;
    }
    verdict(news, &job->arena, &judging);
    if (judging.state == JUDGING_FAILED && str_starts_with(news->stopped_by, STR("budget")))
        judging.state = JUDGING_HELD;
    if (judging.state == JUDGING_FAILED && ended && judging.tries < JUDGE_TRIES_MAX) {
        int r = again_wait(queue, news, &judging);
        if (hold_of(r)) (void)not_asked(&judging, hold_of(r), true);
        else if (r < 0) return r;
        if (r == 0) judging.state = JUDGING_OPEN;
    }
    return store_call_wait(queue_store(queue), set_job, &judging);
}

int judges_hear_wait(Queue *queue, int64_t now_ms)
{
    int r = 0, failed = 0;
    for (int i = 0; r == 0 && i < JUDGINGS_MAX / NEWS_MAX; i++) {
        CLEANUP(hear_free) HearJob job = { .overdue_ms = now_ms - JUDGE_WAIT_MS };
        arena_init(&job.arena, NEWS_ARENA_MAX);
        r = store_read_wait(queue_store(queue), news_job, &job);
        for (size_t n = 0; r == 0 && n < job.n; n++) {
            int one = hear_wait(queue, &job, &job.news[n]);
            if (one != 0 && failed == 0) failed = one; /* the others are heard all the same */
        }
        if (r == 0) r = failed;
        if (job.n < NEWS_MAX) break;
    }
    return r;
}
