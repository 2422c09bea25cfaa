#include "rollout/grading.h"

#include <math.h>
#include <stdlib.h>

#include "base/diag.h"
#include "logic/grade.h"
#include "rollout/judge.h"
#include "store/grade_store.h"
#include "sys/fiber.h"

#define READ_ARENA_MAX ((size_t)128 << 20)
#define LOOK_ARENA_MAX ((size_t)16 * GRADE_RESULT_BYTES_MAX + (1 << 20))

static_assert(JUDGINGS_MAX - JUDGINGS_OF_TASKS_MAX >= GRADER_ANCHORS_MAX, "anchors find room");

/* A task on its way through a round. */
typedef struct {
    const GradeTask *task;
    Grader graders[GRADERS_MAX];
    size_t graders_n;
    Judging *judgings; /* what its judges have said before */
    size_t judgings_n;
    Grade grades[GRADERS_MAX];
    size_t grades_n;
    size_t asks[GRADERS_MAX]; /* graders that are to be asked */
    size_t asks_n;
    bool waits; /* for its judges */
} Item;

typedef struct {
    int64_t after_seq;
    Arena arena;
    GradeTask *tasks;
    Item items[GRADING_TASKS_MAX];
    size_t n;
} Round;

static void round_free(Round *round)
{
    arena_deinit(&round->arena);
    free(round);
}
DEFINE_FREEP(Round, round_free)

/* --- reading ---------------------------------------------------------------------------------- */

static int next_job(Db *db, void *arg)
{
    Round *round = arg;
    int r = grade_next(db, round->after_seq, GRADING_TASKS_MAX, GRADE_RESULT_BYTES_MAX,
                       &round->arena, &round->tasks, &round->n);
    for (size_t i = 0; r == 0 && i < round->n; i++) {
        Item *item = &round->items[i];
        item->task = &round->tasks[i];
        if (!item->task->judged) continue;
        r = judging_list(db, item->task->seq, &round->arena, &item->judgings, &item->judgings_n);
    }
    return r;
}

/* --- looking ---------------------------------------------------------------------------------- */

static void grade_add(Item *item, const Grader *grader, double value)
{
    item->grades[item->grades_n++] = (Grade){ .grader = grader->name,
                                              .value = value,
                                              .weight = grader->weight };
}

/* What came of a judging that is not open. */
static void judging_take(Item *item, const Grader *grader, const Judging *judging)
{
    grade_add(item, grader, judging->state == JUDGING_TOLD ? judging->value : NAN);
    item->grades[item->grades_n - 1].held = judging->state == JUDGING_HELD;
    item->grades[item->grades_n - 1].comment = judging->comment;
}

/* Said before, or to be asked for if the task is of its share. */
static void look_for_judge(Item *item, size_t i)
{
    char id[UUID_TEXT_MAX];
    const Grader *grader = &item->graders[i];
    for (size_t j = 0; j < item->judgings_n; j++)
        if (str_eq(item->judgings[j].grader, grader->name))
            judging_take(item, grader, &item->judgings[j]);
    if (item->task->judged) return;
    if (grade_is_judged(grader->name, str_of(uuid_text(item->task->id, id)), grader->share))
        item->asks[item->asks_n++] = i;
}

static void look(Item *item)
{
    const GradeTask *task = item->task;
    GradeInput input = { .result = task->result,
                         .tools = task->tools,
                         .cost_nusd = task->cost_nusd,
                         .latency_ms = task->latency_ms,
                         .tool_calls = task->tool_calls };
    for (size_t i = 0; i < item->graders_n; i++) {
        CLEANUP(arena_deinit) Arena scratch;
        arena_init(&scratch, LOOK_ARENA_MAX);
        if (item->graders[i].kind == GRADER_JUDGE) look_for_judge(item, i);
        else grade_add(item, &item->graders[i], grade_rule(&item->graders[i], &input, &scratch));
    }
}

/* On the thread pool. Settings that cannot be read have no graders. */
static int look_work(void *arg)
{
    Round *round = arg;
    for (size_t i = 0; i < round->n; i++) {
        Item *item = &round->items[i];
        const Json *settings = NULL;
        int r = json_parse(&round->arena, item->task->settings, NULL, &settings, NULL);
        if (r == -ENOMEM) return r;
        if (r == 0)
            item->graders_n = graders_read(&round->arena, json_get(settings, "graders"),
                                           item->graders);
        look(item);
    }
    return 0;
}

/* --- judges ----------------------------------------------------------------------------------- */

typedef struct {
    const Judging *rows;
    size_t n;
} BeginJob;

static int begin_job(Db *db, void *arg)
{
    const BeginJob *job = arg;
    int r = judging_begin(db, job->rows, job->n);
    return r == -ENOENT ? 0 : r; /* graded meanwhile, by somebody else */
}

/* Where nobody could be asked, the task has its grades now. */
static int ask_wait(Judges *judges, Round *round, Item *item)
{
    Judging rows[GRADERS_MAX];
    char id[UUID_TEXT_MAX];
    uuid_text(item->task->id, id);
    for (size_t i = 0; i < item->asks_n; i++) {
        const Grader *grader = &item->graders[item->asks[i]];
        Question question = { .agent = grader->agent,
                              .of = item->task->seq,
                              .grader = grader->name,
                              .subject = str_of(id),
                              .input = item->task->input,
                              .output = item->task->result };
        int r = judge_ask_wait(judges, &question, &round->arena, &rows[i]);
        if (r != 0) return r;
        item->waits |= rows[i].state == JUDGING_OPEN;
    }
    BeginJob job = { rows, item->asks_n };
    if (item->waits) return store_call_wait(queue_store(judges->queue), begin_job, &job);
    for (size_t i = 0; i < item->asks_n; i++)
        judging_take(item, &item->graders[item->asks[i]], &rows[i]);
    return 0;
}

/* --- rounds ----------------------------------------------------------------------------------- */

static int keep_wait(Queue *queue, const Round *round)
{
    TaskGrades kept[GRADING_TASKS_MAX];
    size_t n = 0;
    for (size_t i = 0; i < round->n; i++) {
        const Item *item = &round->items[i];
        if (item->waits) continue;
        kept[n] = (TaskGrades){ .seq = item->task->seq,
                                .id = item->task->id,
                                .agent = item->task->agent,
                                .version_id = item->task->version_id,
                                .finished_at_ms = item->task->finished_at_ms,
                                .grades = item->grades,
                                .n = item->grades_n };
        n++;
    }
    return n > 0 ? queue_grade_wait(queue, kept, n) : 0;
}

static int round_wait(Judges *judges, Round *round)
{
    Queue *queue = judges->queue;
    int r = store_read_wait(queue_store(queue), next_job, round);
    if (r != 0 || round->n == 0) return r;
    r = work_wait(look_work, round);
    for (size_t i = 0; r == 0 && i < round->n; i++)
        if (round->items[i].asks_n > 0) r = ask_wait(judges, round, &round->items[i]);
    return r == 0 ? keep_wait(queue, round) : r;
}

int grading_wait(Queue *queue, int64_t now_ms, int64_t *ret_tasks)
{
    Judges judges;
    int64_t tasks = 0, after_seq = 0;
    int heard = judges_hear_wait(queue, now_ms); /* if not all were: other tasks need no judge */
    int r = judges_look_wait(queue, now_ms, &judges);
    judges.room = MAX(judges.room - (JUDGINGS_MAX - JUDGINGS_OF_TASKS_MAX), 0);
    for (int i = 0; r == 0 && i < GRADING_ROUNDS_MAX; i++) {
        CLEANUP(round_freep) Round *round = xcalloc(1, sizeof(*round));
        arena_init(&round->arena, READ_ARENA_MAX);
        round->after_seq = after_seq;
        r = round_wait(&judges, round);
        if (r != 0 || round->n == 0) break;
        after_seq = round->tasks[round->n - 1].seq;
        for (size_t n = 0; n < round->n; n++) tasks += !round->items[n].waits;
    }
    if (ret_tasks) *ret_tasks = tasks;
    return r == 0 ? heard : r;
}
