#include "rollout/anchors.h"

#include <math.h>
#include <stdio.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/hash.h"
#include "logic/grade.h"
#include "rollout/drift_watch.h"

#define DAY_MS INT64_C(86400000)
#define AGENTS_ARENA_MAX ((size_t)128 << 20)
#define RUN_ARENA_MAX ((size_t)16 << 20)
#define METRIC_BYTES_MAX (GRADER_NAME_BYTES_MAX + 16)

/* --- beginning -------------------------------------------------------------------------------- */

typedef struct {
    Arena arena;
    Agent *agents;
    size_t n;
} ListJob;

static void list_free(ListJob *job)
{
    arena_deinit(&job->arena);
}

static int list_job(Db *db, void *arg)
{
    ListJob *job = arg;
    return agent_list_judging(db, &job->arena, &job->agents, &job->n);
}

/* A grader's examples, and its judge. */
typedef struct {
    const Agent *agent;
    const Grader *grader;
    int64_t day_ms;
    Arena *arena;
    AnchorRun run;
    bool begun; /* else the judge has no version */
} BeginJob;

static int key_of(const BeginJob *job, Str version, uint64_t *ret)
{
    CLEANUP(buf_deinit) Buf text = { 0 };
    buf_init(&text, RUN_ARENA_MAX);
    buf_add(&text, version);
    JsonOut out = json_out(&text);
    json_out_value(&out, job->grader->anchors);
    *ret = hash_xxh64(buf_str(&text)) | 1; /* 0: no chart */
    return json_out_ok(&out) ? 0 : -ENOMEM;
}

static int known_job(Db *db, void *arg)
{
    BeginJob *job = arg;
    int r = anchor_run_get(db, job->agent->name, job->grader->name, job->day_ms, job->arena,
                           &job->run);
    job->begun = r == 0;
    return r == -ENOENT ? 0 : r;
}

static int begin_job(Db *db, void *arg)
{
    BeginJob *job = arg;
    AnchorRun run = { .agent = job->agent->name,
                      .grader = job->grader->name,
                      .day_ms = job->day_ms };
    int r = routing_get(db, job->grader->agent, job->arena, &run.judge_version);
    if (r != 0) return r == -ENOENT ? 0 : r;
    r = key_of(job, run.judge_version, &run.key);
    job->begun = r == 0;
    return r == 0 ? anchor_run_begin(db, &run, job->arena, &job->run) : r;
}

/* --- asking ----------------------------------------------------------------------------------- */

typedef struct {
    int64_t run_id;
    Judging rows[GRADER_ANCHORS_MAX];
    size_t n;
} AskedJob;

static int asked_job(Db *db, void *arg)
{
    const AskedJob *job = arg;
    int r = anchor_run_set(db, job->run_id, ANCHOR_ASKED);
    for (size_t i = 0; r == 0 && i < job->n; i++) r = judging_add(db, &job->rows[i]);
    return r;
}

static int text_of(Arena *arena, const Json *v, Str *ret)
{
    CLEANUP(buf_deinit) Buf text = { 0 };
    buf_init(&text, RUN_ARENA_MAX);
    JsonOut out = json_out(&text);
    json_out_value(&out, v);
    *ret = arena_str(arena, buf_str(&text));
    return json_out_ok(&out) && ret->ptr ? 0 : -ENOMEM;
}

static int ask_one_wait(Judges *judges, const BeginJob *job, const Json *anchor, size_t i,
                        Judging *ret)
{
    Question question = { .agent = job->grader->agent,
                          .of = -job->run.id,
                          .grader = arena_printf(job->arena, "%02zu", i),
                          .subject = arena_printf(job->arena, "anchors of %.*s",
                                                  STR_ARG(job->grader->name)) };
    int r = text_of(job->arena, json_get(anchor, "input"), &question.input);
    if (r == 0) r = text_of(job->arena, json_get(anchor, "output"), &question.output);
    if (r != 0 || !question.grader.ptr || !question.subject.ptr) return -ENOMEM;
    return judge_ask_wait(judges, &question, job->arena, ret);
}

/* Those that a process asked before it died are found again. */
static int ask_wait(Judges *judges, const BeginJob *job)
{
    CLEANUP(freep) AskedJob *asked = xcalloc(1, sizeof(*asked));
    asked->run_id = job->run.id;
    for (JsonIter it = json_iter(job->grader->anchors);
         json_next(&it) && asked->n < GRADER_ANCHORS_MAX; asked->n++) {
        int r = ask_one_wait(judges, job, it.value, asked->n, &asked->rows[asked->n]);
        if (r != 0) return r;
    }
    return store_call_wait(queue_store(judges->queue), asked_job, asked);
}

/* Once a day, as soon as there is room. */
static int grader_wait(Judges *judges, const Agent *agent, const Grader *grader)
{
    if (!grader->anchors || judges->room < (int64_t)json_len(grader->anchors)) return 0;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, RUN_ARENA_MAX);
    BeginJob job = { .agent = agent,
                     .grader = grader,
                     .day_ms = judges->now_ms - judges->now_ms % DAY_MS,
                     .arena = &arena };
    int r = store_read_wait(queue_store(judges->queue), known_job, &job);
    if (r == 0 && !job.begun) r = store_call_wait(queue_store(judges->queue), begin_job, &job);
    if (r != 0 || !job.begun || job.run.state != ANCHOR_BEGUN) return r;
    return ask_wait(judges, &job);
}

static int begin_wait(Judges *judges)
{
    CLEANUP(list_free) ListJob job = { 0 };
    arena_init(&job.arena, AGENTS_ARENA_MAX);
    int r = store_read_wait(queue_store(judges->queue), list_job, &job);
    for (size_t i = 0; r == 0 && i < job.n; i++) {
        Grader graders[GRADERS_MAX];
        CLEANUP(arena_deinit) Arena arena;
        const Json *settings = NULL;
        arena_init(&arena, RUN_ARENA_MAX);
        r = json_parse(&arena, job.agents[i].settings, NULL, &settings, NULL);
        if (r == -EINVAL) continue;
        if (r != 0) break;
        size_t n = graders_read(&arena, json_get(settings, "graders"), graders);
        for (size_t g = 0; r == 0 && g < n; g++)
            r = grader_wait(judges, &job.agents[i], &graders[g]);
    }
    return r == -EINVAL ? 0 : r;
}

/* --- closing ---------------------------------------------------------------------------------- */

typedef struct {
    const WatchConfig *config;
    int64_t now_ms;
    int64_t alarms;
} CloseJob;

static int day_tell(Db *db, const CloseJob *job, const AnchorRun *run, const AnchorDay *day)
{
    char metric[METRIC_BYTES_MAX];
    snprintf(metric, sizeof(metric), ANCHOR_METRIC "%.*s", STR_ARG(run->grader));
    Alarm alarm = { .agent = run->agent,
                    .version_id = run->judge_version,
                    .metric = str_of(metric),
                    .day_ms = run->day_ms,
                    .at_ms = job->now_ms,
                    .value = day->value,
                    .before = day->before,
                    .slope = day->slope,
                    .p = day->p,
                    .text = str_of(day->text),
                    .cause = STR("judge") };
    return drift_alarm_tell(db, &alarm);
}

static int chart_day(Db *db, CloseJob *job, const AnchorRun *run, double mean, int64_t told)
{
    AnchorChart chart;
    CLEANUP(freep) TrendWork *work = xcalloc(1, sizeof(*work));
    int r = anchor_chart_get(db, run->agent, run->grader, &chart);
    if (r != 0) return r;
    AnchorDay day = anchor_observe(&chart, job->config->h[WATCH_QUALITY],
                                   job->config->baseline_days, run->key, run->day_ms, mean, told,
                                   work);
    LOG_INFO("anchors judged", LOG_STR("agent", run->agent), LOG_STR("grader", run->grader),
             LOG_INT("answers", told), LOG_INT("meanPercent", (int64_t)lround(100 * mean)),
             LOG_INT("chartPercent", (int64_t)lround(100 * day.c)));
    r = anchor_chart_put(db, run->agent, run->grader, &chart);
    if (r != 0 || !day.alarm) return r;
    job->alarms++;
    return day_tell(db, job, run, &day);
}

static int close_one(Db *db, CloseJob *job, const AnchorRun *run, Arena *arena)
{
    Judging *rows;
    size_t n;
    int64_t told = 0;
    double sum = 0;
    int r = judging_list(db, -run->id, arena, &rows, &n);
    if (r != 0) return r;
    for (size_t i = 0; i < n; i++) {
        if (rows[i].state != JUDGING_TOLD) continue;
        sum += rows[i].value;
        told++;
    }
    if (told > 0 && told == (int64_t)n) /* others have another mean */
        r = chart_day(db, job, run, fmin(sum / (double)told, 1), told);
    else
        LOG_WARN("anchors were not judged", LOG_STR("agent", run->agent),
                 LOG_STR("grader", run->grader), LOG_INT("answers", told));
    if (r == 0) r = judging_forget(db, -run->id);
    return r == 0 ? anchor_run_set(db, run->id, ANCHOR_DONE) : r;
}

static int close_job(Db *db, void *arg)
{
    CloseJob *job = arg;
    AnchorRun *runs;
    size_t n;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, RUN_ARENA_MAX);
    job->alarms = 0;
    int r = anchor_runs_over(db, &arena, &runs, &n);
    for (size_t i = 0; r == 0 && i < n; i++) r = close_one(db, job, &runs[i], &arena);
    return r == 0 && n > 0 ? anchor_purge(db, job->now_ms) : r;
}

static int over_job(Db *db, void *arg)
{
    CLEANUP(arena_deinit) Arena arena;
    AnchorRun *runs;
    arena_init(&arena, RUN_ARENA_MAX);
    return anchor_runs_over(db, &arena, &runs, arg);
}

int anchors_wait(Queue *queue, const WatchConfig *config, int64_t now_ms, int64_t *ret_alarms)
{
    Judges judges;
    CloseJob close = { .config = config, .now_ms = now_ms };
    size_t over = 0;
    int r = judges_look_wait(queue, now_ms, &judges);
    if (r == 0) r = begin_wait(&judges);
    if (r == 0) r = store_read_wait(queue_store(queue), over_job, &over);
    if (r == 0 && over > 0) r = store_call_wait(queue_store(queue), close_job, &close);
    if (ret_alarms) *ret_alarms = close.alarms;
    return r;
}
