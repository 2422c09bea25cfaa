/* Judge: asks other agents how good results are.
 *
 * A judge is an agent like any other: what it is (prompt, model, sampling) is a version, what it
 * spends has the budget of its name, what it does is in its own signals. Its stable version is
 * asked, never a candidate: scores compare only within one version. It is told input and
 * output and nothing else: not which agent, version or arm. An answer that cannot be read is asked
 * for once more; then it is counted as failed, and no score. At most JUDGINGS_MAX are under way, in
 * the lane low, of tasks JUDGINGS_OF_TASKS_MAX, so that anchors find room; what is beyond, and all
 * while the judge's budget is used up, goes unjudged and is counted as held. Functions run on a
 * fiber, one at a time.
 */
#ifndef GANTRY_ROLLOUT_JUDGE_H
#define GANTRY_ROLLOUT_JUDGE_H

#include "queue/queue.h"
#include "store/judge_store.h"

#define JUDGINGS_MAX 256
#define JUDGINGS_OF_TASKS_MAX 206 /* the other places are kept for a grader's anchors */
#define JUDGE_TRIES_MAX 2
#define JUDGE_WAIT_MS INT64_C(1800000)   /* from the question to the answer */
#define JUDGE_TASK_MS INT64_C(600000)    /* of the judge's task, from its first start */
#define JUDGE_TEXT_BYTES_MAX (256 << 10) /* of an input or output that is judged */
#define JUDGE_AGENTS_MAX 32              /* whose budgets are remembered for a round */

/* How the judges stand, for a round of questions. */
typedef struct {
    Queue *queue;
    int64_t now_ms; /* calendar */
    int64_t room;   /* further questions */
    struct {
        char agent[AGENT_NAME_BYTES_MAX + 1];
        const char *why;                     /* it is not asked; NULL: it is */
        bool held;                           /* for now */
        char version_id[VERSION_ID_LEN + 1]; /* its stable one; empty: none */
    } known[JUDGE_AGENTS_MAX];
    size_t known_n;
} Judges;

/* Returns 0 or -errno. */
MUST_CHECK int judges_look_wait(Queue *queue, int64_t now_ms, Judges *ret);

typedef struct {
    Str agent;
    int64_t of; /* as in Judging, with grader */
    Str grader;
    Str subject;       /* for people: the id of the task, or the name of the anchors' run */
    Str input, output; /* JSON */
} Question;

/* Submits the question, once however often it is called for the same of, grader and subject. *ret
 * is what it came to, open or not; texts live in arena. Returns 0 or -errno (nothing came of it:
 * try again later). */
MUST_CHECK int judge_ask_wait(Judges *judges, const Question *question, Arena *arena, Judging *ret);

/* Takes in what judges have answered since. Returns 0 or -errno. */
MUST_CHECK int judges_hear_wait(Queue *queue, int64_t now_ms);

#endif
