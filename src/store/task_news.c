#include "store/task_news.h"

static bool attempts_are_told(const Task *task, const int64_t *at)
{
    int64_t ended = task->state == TASK_RUNNING ? task->attempt - 1 : task->attempt;
    return at[TASK_CURSOR_BEGUN] == task->attempt && at[TASK_CURSOR_ENDED] == ended;
}

static int log_news(Db *db, const Task *task, const int64_t *at, Arena *arena, TaskNews *n)
{
    TaskLogCursor line = { at[TASK_CURSOR_LINE_ATTEMPT], at[TASK_CURSOR_LINE] };
    TaskLogCursor note = { at[TASK_CURSOR_NOTE_ATTEMPT], at[TASK_CURSOR_NOTE] };
    int r = task_log_lines_after(db, task->seq, line, n->max, arena, &n->lines, &n->lines_n);
    if (r != 0) return r;
    return task_log_notes_after(db, task->seq, note, task->attempt, n->max, arena, &n->notes,
                                &n->notes_n);
}

static int family_news(Db *db, const Task *task, const int64_t *at, Arena *arena, TaskNews *n)
{
    if (task->children == 0) return 0;
    int r = family_list_after(db, task->seq, at[TASK_CURSOR_CHILD], n->max, arena, &n->children,
                              &n->children_n);
    if (r != 0) return r;
    return family_ends_after(db, task->seq, at[TASK_CURSOR_CHILD_END], n->max, arena, &n->ends,
                             &n->ends_n);
}

int task_news(Db *db, const Task *task, const TaskCursor *after, size_t max, Arena *arena,
              TaskNews *ret)
{
    const int64_t *at = after->at;
    TaskNews n = { .max = max };
    int r = 0;
    if (!attempts_are_told(task, at))
        r = attempt_list_after(db, task->seq, at[TASK_CURSOR_ENDED], max, arena, &n.attempts,
                               &n.attempts_n);
    if (r == 0)
        r = call_list_after(db, task->seq, at[TASK_CURSOR_CALL], max, arena, &n.calls, &n.calls_n);
    if (r == 0)
        r = tool_record_list_after(db, task->seq, at[TASK_CURSOR_TOOL], max, arena, &n.tools,
                                   &n.tools_n);
    if (r == 0) r = log_news(db, task, at, arena, &n);
    if (r == 0) r = family_news(db, task, at, arena, &n);
    if (r == 0)
        r = escalation_list_after(db, task->seq,
                                  MIN(at[TASK_CURSOR_ASKED], at[TASK_CURSOR_ANSWERED]),
                                  ESCALATIONS_MAX, arena, &n.questions, &n.questions_n);
    *ret = n;
    return r;
}
