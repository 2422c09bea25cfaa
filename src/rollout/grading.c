#include "rollout/grading.h"

#include <stdlib.h>

#include "base/diag.h"
#include "logic/grade.h"
#include "store/grade_store.h"
#include "sys/fiber.h"

#define READ_ARENA_MAX ((size_t)(GRADING_TASKS_MAX + 4) * (GRADE_RESULT_BYTES_MAX + (1 << 17)))
#define LOOK_ARENA_MAX ((size_t)16 * GRADE_RESULT_BYTES_MAX + (1 << 20))
#define SETTINGS_ARENA_MAX ((size_t)4 << 20)

typedef struct {
    int64_t after_seq;
    Arena arena;
    GradeTask *tasks;
    size_t n;
    TaskGrades grades[GRADING_TASKS_MAX];
} Round;

static void round_free(Round *round)
{
    arena_deinit(&round->arena);
    free(round);
}
DEFINE_FREEP(Round, round_free)

static int next_job(Db *db, void *arg)
{
    Round *round = arg;
    return grade_next(db, round->after_seq, GRADING_TASKS_MAX, GRADE_RESULT_BYTES_MAX,
                      &round->arena, &round->tasks, &round->n);
}

static void look(const GradeTask *task, const Grader *graders, size_t n, Grade *ret)
{
    GradeInput input = { .result = task->result,
                         .tools = task->tools,
                         .cost_nusd = task->cost_nusd,
                         .latency_ms = task->latency_ms,
                         .tool_calls = task->tool_calls };
    for (size_t i = 0; i < n; i++) {
        CLEANUP(arena_deinit) Arena scratch;
        arena_init(&scratch, LOOK_ARENA_MAX);
        ret[i] = (Grade){ .grader = graders[i].name,
                          .value = grade_rule(&graders[i], &input, &scratch),
                          .weight = graders[i].weight };
    }
}

/* Settings that cannot be read have no graders. */
static int look_at(Round *round, const GradeTask *task, TaskGrades *ret)
{
    Grader graders[GRADERS_MAX];
    const Json *settings = NULL;
    *ret = (TaskGrades){ .seq = task->seq,
                         .id = task->id,
                         .agent = task->agent,
                         .version_id = task->version_id,
                         .finished_at_ms = task->finished_at_ms };
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, SETTINGS_ARENA_MAX);
    if (json_parse(&arena, task->settings, NULL, &settings, NULL) != 0) return 0;
    size_t n = graders_read(&arena, json_get(settings, "graders"), graders);
    Grade *grades = ARENA_ARRAY(&round->arena, Grade, n + 1);
    if (!grades) return -ENOMEM;
    look(task, graders, n, grades);
    for (size_t i = 0; i < n; i++) {
        grades[i].grader = arena_str(&round->arena, grades[i].grader);
        if (!grades[i].grader.ptr) return -ENOMEM;
    }
    ret->grades = grades;
    ret->n = n;
    return 0;
}

/* On the thread pool. */
static int round_work(void *arg)
{
    Round *round = arg;
    int r = 0;
    for (size_t i = 0; r == 0 && i < round->n; i++)
        r = look_at(round, &round->tasks[i], &round->grades[i]);
    return r;
}

int grading_wait(Queue *queue, int64_t *ret_tasks)
{
    int64_t tasks = 0, after_seq = 0;
    int r = 0;
    for (int i = 0; r == 0 && i < GRADING_ROUNDS_MAX; i++) {
        CLEANUP(round_freep) Round *round = xcalloc(1, sizeof(*round));
        arena_init(&round->arena, READ_ARENA_MAX);
        round->after_seq = after_seq;
        r = store_read_wait(queue_store(queue), next_job, round);
        if (r != 0 || round->n == 0) break;
        r = work_wait(round_work, round);
        if (r == 0) r = queue_grade_wait(queue, round->grades, round->n);
        after_seq = round->tasks[round->n - 1].seq;
        tasks += (int64_t)round->n;
    }
    if (ret_tasks) *ret_tasks = tasks;
    return r;
}
