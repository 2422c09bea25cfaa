/* Judgings: what judges were asked, and what became of it.
 *
 * A judge is an agent, and what it is asked is a task of it. of names what is judged: a task that
 * waits to be graded (its number), or a run of anchors (the negative of its id), of which there is
 * a judging for each anchor. Once none of a task's is open, the task waits for its grades again.
 * Functions run inside a store job. Unless they say more, they return 0 or -errno with diag.
 */
#ifndef GANTRY_STORE_JUDGE_STORE_H
#define GANTRY_STORE_JUDGE_STORE_H

#include "codec/uuid.h"
#include "logic/task.h"
#include "store/db.h"

#define JUDGING_RESULT_MAX 65536 /* of a judge's answer that is read */

typedef enum { JUDGING_OPEN, JUDGING_TOLD, JUDGING_FAILED, JUDGING_HELD } JudgingState;

typedef struct {
    int64_t of;
    Str grader; /* of a run: the anchor */
    JudgingState state;
    Uuid judge_id; /* the task in which it judges; zero: there is none */
    int64_t tries; /* that one included */
    int64_t asked_at_ms;
    double value; /* JUDGING_TOLD: 0..1 */
    Str comment;
} Judging;

/* Puts down those of one task, one of them open at least: the task waits for its judges. Returns 0,
 * -ENOENT (it does not wait to be graded any more), -errno. */
MUST_CHECK int judging_begin(Db *db, const Judging *rows, size_t n);

/* One more. */
MUST_CHECK int judging_add(Db *db, const Judging *row);

/* How many are open. */
MUST_CHECK int judging_count(Db *db, int64_t *ret);

/* An open one whose judge's task has ended, or that was asked before overdue_ms. */
typedef struct {
    Judging judging;
    TaskState state;                                       /* of the judge's task */
    Str agent, version_id, result, stopped_by, error_code; /* likewise */
} JudgingNews;

/* At most max; texts live in arena. Also -ENOMEM. */
MUST_CHECK int judging_news(Db *db, int64_t overdue_ms, size_t max, Arena *arena, JudgingNews **ret,
                            size_t *ret_n);

/* It is asked again, or settled, as row says. What was settled before stays. */
MUST_CHECK int judging_set(Db *db, const Judging *row);

/* All of one; live in arena. Also -ENOMEM. */
#define JUDGING_LIST_MAX 64
MUST_CHECK int judging_list(Db *db, int64_t of, Arena *arena, Judging **ret, size_t *ret_n);

MUST_CHECK int judging_forget(Db *db, int64_t of);

#endif
