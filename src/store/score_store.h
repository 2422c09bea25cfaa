/* Scores: what people, graders and agents think of a task's result. Functions run inside a store
 * job. Unless they say more, they return 0 or -errno with diag.
 */
#ifndef GANTRY_STORE_SCORE_STORE_H
#define GANTRY_STORE_SCORE_STORE_H

#include "store/db.h"

#define SCORE_NAMES_MAX 32        /* of a task */
#define SCORE_OF_GRADER "grader:" /* what names of scores by graders begin with */

typedef struct {
    Str name;      /* who or what judged */
    double value;  /* 0..1 */
    double weight; /* in the mean, 0 or more */
    Str comment;
    int64_t at_ms;
} Score;

/* Keeps the score; one of that name before is replaced. Returns 0, SCORE_E_SAME (it was there, with
 * this value: nothing was changed), SCORE_E_FULL (the task has SCORE_NAMES_MAX others), -errno. */
#define SCORE_E_SAME 1
#define SCORE_E_FULL 2
MUST_CHECK int score_put(Db *db, int64_t task_seq, const Score *score);

/* The score of that name; NaN: there is none. */
MUST_CHECK int score_get(Db *db, int64_t task_seq, Str name, double *ret);

/* The weighted mean over names; NaN without any, or without weight. */
MUST_CHECK int score_mean(Db *db, int64_t task_seq, double *ret);

/* By name, at most SCORE_NAMES_MAX; texts live in arena. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int score_list(Db *db, int64_t task_seq, Arena *arena, Score **ret, size_t *ret_n);

/* Whether a grader that was asked could not tell. Of one that counts: the mean is then one of other
 * things than that of tasks that all have scored, and no quality. */
enum {
    SCORE_UNTOLD_COUNTS = 1,
    SCORE_UNTOLD_OTHER = 2, /* of one without weight */
};
MUST_CHECK int score_set_untold(Db *db, int64_t task_seq, unsigned untold);

/* The result they were given for is gone, and with it the mark. */
MUST_CHECK int score_forget(Db *db, int64_t task_seq);

#endif
