/* Grade: what an agent's graders say of a task. Graders measure; they are the agent's, not part of
 * any version, so that all versions are measured alike.
 *
 *   spec.graders: [{name, type, value, threshold, weight, …}], at most GRADERS_MAX
 *
 *   contains icontains equals starts-with   value: text, looked for in the result
 *   regex                                   value: logic/regex.h
 *   is-json                                 value: a schema (logic/schema.h), or left out
 *   cost                                    threshold: "0.02" USD at most
 *   latency                                 threshold: 10s at most, of the last attempt
 *   trajectory:tool-used                    value: a tool or several, each of which was called
 *   trajectory:tool-sequence                value: tools, called for the first time in this order
 *   trajectory:step-count                   threshold: tool calls at most
 *   judge                                   agent: another agent, which says how good the result is
 *                                           share: of tasks, 0 < share <= 1 (1)
 *                                           anchors: [{input, output}], see logic/anchor.h
 *
 * not-TYPE turns contains to is-json and trajectory:tool-used round (there: none was called). Rules
 * give 1 or 0. weight, 0..100 (1): in a task's quality, which is the weighted mean of all scores.
 *
 * The result is its text where it is a string, else its JSON. Pure; any thread.
 */
#ifndef GANTRY_LOGIC_GRADE_H
#define GANTRY_LOGIC_GRADE_H

#include "logic/issue.h"

#define GRADERS_MAX 16
#define GRADER_NAME_BYTES_MAX 48
#define GRADER_VALUE_BYTES_MAX 4096
#define GRADER_TOOLS_MAX 32
#define GRADER_ANCHORS_MAX 50
#define GRADE_RESULT_BYTES_MAX (1 << 20)  /* of a result that rules look at */
#define GRADE_REGEX_BYTES_MAX (256 << 10) /* of it, that a regex looks at: the beginning */

typedef enum {
    GRADER_CONTAINS,
    GRADER_ICONTAINS,
    GRADER_EQUALS,
    GRADER_STARTS_WITH,
    GRADER_REGEX,
    GRADER_JSON,
    GRADER_TOOL_USED,
    GRADER_TOOL_SEQUENCE,
    GRADER_STEPS,
    GRADER_COST,
    GRADER_LATENCY,
    GRADER_JUDGE,
    GRADER_N_
} GraderKind;

typedef struct {
    Str name;
    GraderKind kind;
    bool negated;
    Str text;          /* value, where it is one */
    const Json *value; /* a schema or tools, else NULL */
    int64_t threshold; /* nano-USD, milliseconds or calls */
    double weight;
    Str agent;
    double share;
    const Json *anchors; /* NULL: none */
} Grader;

/* A rule for a checked array of graders, in a manifest's table (logic/shape.h). */
void graders_check(IssueList *issues, const IssuePath *path, const Json *graders);

/* Reads what graders_check has passed; what it would not is left out. Borrows from graders and
 * arena. Returns how many. */
size_t graders_read(Arena *arena, const Json *graders, Grader ret[GRADERS_MAX]);

/* What rules look at. */
typedef struct {
    Str result; /* JSON; empty: it is longer than GRADE_RESULT_BYTES_MAX, or there is none */
    Str tools;  /* for tool_use_next: in order of their first call */
    int64_t cost_nusd, latency_ms, tool_calls;
} GradeInput;

/* The score by a grader that is no judge; NaN: it cannot be told (no result, no memory). */
double grade_rule(const Grader *grader, const GradeInput *input, Arena *scratch);

/* Whether a judge of that share is asked about a task: the same whenever one asks, and independent
 * of everything but the two ids. */
bool grade_is_judged(Str grader, Str task_id, double share);

/* What a judge has answered: an object with a number "score" from 0 to 1, or a string that is such
 * an object's JSON; "reason", a text, may be there. The reason borrows from arena. Returns 0 or
 * -EINVAL with diag. */
MUST_CHECK int grade_read_verdict(Str result, Arena *arena, double *ret_score, Str *ret_reason);

#endif
