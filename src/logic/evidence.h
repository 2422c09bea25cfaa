/* Evidence: everything a rollout has learned about its canary, and what may be decided from it.
 *
 * Each metric of the plan runs one rollback null and one promote null for every step that is still
 * to come, all from the first unit on (logic/eprocess.h). Metrics whose outcomes become known at
 * the same time form a group; e-values are added only inside a group.
 *
 *   roll back   in any group, sum of w_m E_m >= 1/alpha_rollback, with sum of w over ALL metrics 1:
 *               then the chance of ever rolling back a canary within its margins is at most
 *               alpha_rollback, whatever the dependence between metrics and groups.
 *   advance     every required metric's promote E has reached 1/alpha_promote at the step's margin
 *               (intersection-union: needs no correction).
 *
 * The margin of a step is that of full traffic divided by the share pi' of the next one: excess
 * harm on all traffic stays below the margin at every exposure. Both decisions are latched. No
 * metric, or no data, proves nothing.
 *
 * Units come in the order in which they were assigned, each once a group. Constant time and memory
 * a unit: about 0.1 us a null. Pure; a struct belongs to whoever holds it; no allocation.
 */
#ifndef GANTRY_LOGIC_EVIDENCE_H
#define GANTRY_LOGIC_EVIDENCE_H

#include "logic/eprocess.h"

#define EVIDENCE_METRICS_MAX 16
#define EVIDENCE_STEPS_MAX 20
#define WEIGHT_BP_ALL 10000 /* basis points */

typedef enum {
    EVIDENCE_FAST,   /* known when the task ends */
    EVIDENCE_JUDGED, /* known when somebody has scored it */
    EVIDENCE_GROUPS_N_
} EvidenceGroup;

typedef struct {
    EvidenceGroup group;
    double weight;                       /* in the rollback sum; over all metrics they make 1 */
    bool required;                       /* no advance without its proof */
    double rollback_rho, rollback_delta; /* H0 mu1 - rho mu0 <= delta */
    double promote_rho, promote_delta;   /* at full traffic */
} EvidenceMetric;

typedef struct {
    EvidenceMetric metrics[EVIDENCE_METRICS_MAX];
    size_t metrics_n;
    int32_t weight_bp[EVIDENCE_STEPS_MAX]; /* rising */
    size_t steps_n;
    double alpha_rollback, alpha_promote;
} EvidencePlan;

/* A metric with an absolute margin delta, or a relative one r (0.2: a fifth more than the control):
 * roll back beyond half of it, promote below it. weight and required are set (1 and true). */
EvidenceMetric evidence_absolute(EvidenceGroup group, double delta);
EvidenceMetric evidence_relative(EvidenceGroup group, double r);

/* Makes the weights sum to 1. */
void evidence_plan_weigh(EvidencePlan *plan);

/* Whether a step has anything to prove: its weight is below all traffic. */
bool evidence_step_tests(const EvidencePlan *plan, size_t step);

ENull evidence_rollback_null(const EvidencePlan *plan, size_t metric);
ENull evidence_promote_null(const EvidencePlan *plan, size_t metric, size_t step);

typedef struct {
    EPast past;
    EValue rollback;
    EValue promote[EVIDENCE_STEPS_MAX]; /* by step */
    uint32_t proved;                    /* bit k: promote[k] has reached its bound once */
    Srm told;                           /* of a judged one: units that it has, or was not told */
    double mark_log[2];                 /* log of the current step's promote E ... */
    int64_t mark_units[2];              /* ... when so many units were in, older first */
    size_t mark_step;
} MetricEvidence;

/* How graders fare with the tasks that they are to judge: past.sum counts those of which one could
 * not tell. That says nothing of a version, and hides what would be said of it: where it happens
 * often, or more often in one arm, what is judged proves nothing. */
typedef struct {
    EPast past;
    EValue more, fewer; /* of the canary's */
} EvidenceTold;

#define EVIDENCE_TOLD_MIN 20        /* tasks of an arm from which a share is read */
#define EVIDENCE_UNTOLD_MAX 0.2     /* share that may go untold */
#define EVIDENCE_UNTOLD_BOUND 100.0 /* e-value of a difference between the arms ... */
#define EVIDENCE_UNTOLD_FEW 0.02    /* ... that is larger than this now: less cannot hide much */

typedef enum { JUDGES_OK, JUDGES_SILENT, JUDGES_UNEQUAL } EvidenceJudges;

typedef struct {
    MetricEvidence metrics[EVIDENCE_METRICS_MAX];
    Srm seen;     /* every unit at first sight */
    Srm consumed; /* units of the fast group: unequal dropping shows here ... */
    bool uneven;  /* ... and that of the judged one here: latched */
    int64_t units[EVIDENCE_GROUPS_N_][2];   /* consumed, by arm */
    double group_log_e[EVIDENCE_GROUPS_N_]; /* of the rollback sum when the latch closed, else 0 */
    bool rollback;                          /* latched */
    EvidenceGroup rollback_group;
    int culprit; /* metric that gave most of the sum, valid when rollback */
    EvidenceTold told;
} Evidence;

/* A unit's outcome. Metrics without a bit in has are left out for this unit. */
typedef struct {
    bool canary;
    double pi;    /* at assignment, 0 < pi < 1 */
    uint32_t has; /* bit m */
    uint32_t
        untold; /* bit m: a grader was to tell it, and could not: evidence_judged sees to that */
    double harm[EVIDENCE_METRICS_MAX];
} EvidenceUnit;

void evidence_init(Evidence *evidence);

/* A unit was assigned to an arm. */
void evidence_seen(Evidence *evidence, bool canary, double pi);

/* A unit's outcome in one group is known. step: the current one; nulls of earlier steps rest. */
void evidence_observe(Evidence *evidence, const EvidencePlan *plan, size_t step,
                      EvidenceGroup group, const EvidenceUnit *unit);

/* A task that was to be judged is through; untold: a grader could not tell. Not latched: graders
 * may recover. */
void evidence_judged(Evidence *evidence, bool canary, double pi, bool untold);
void evidence_told_init(EvidenceTold *told);
EvidenceJudges evidence_judges(const EvidenceTold *told);

/* Share of an arm that went untold; NaN without any. */
double evidence_untold(const EvidenceTold *told, bool canary);

/* Every required metric has its proof at this step's margin. False without required metrics. */
bool evidence_proved(const Evidence *evidence, const EvidencePlan *plan, size_t step);

/* Canary units consumed by every group that the plan uses, and that say something about every
 * required metric: a unit without quality is none where quality has to be proved. */
int64_t evidence_canaries(const Evidence *evidence, const EvidencePlan *plan);

/* The sample ratio is as planned, at first sight and after dropping. */
bool evidence_srm_ok(const Evidence *evidence);

/* Units that have no result, or that nobody scores, are no more frequent in one arm: the mean over
 * judged metrics of the e-values of their sample ratios has never reached SRM_ALARM. */
bool evidence_judged_alike(const Evidence *evidence);

/* log of a group's rollback sum; -infinity when the plan has no metric in it. */
double evidence_rollback_log(const Evidence *evidence, const EvidencePlan *plan,
                             EvidenceGroup group);

/* How many more units until the step is proved, from the growth of the slowest metric's log E over
 * the last few hundred units. 0: proved; -1: no growth, cannot be told. */
double evidence_units_left(const Evidence *evidence, const EvidencePlan *plan, size_t step);

#endif
