/* Rollout: the life of one new version on its way to an agent's tasks.
 *
 *   pending -> preflight -> [shadow] -> step 0, 1, ... -> completed
 *                 |            |          |  \-> paused (from shadow or a step, and back)
 *                 v            v          v
 *              aborted     rolled_back, aborted, superseded
 *
 * A plan is a list of steps that ends with all traffic. A canary proves each step but the last;
 * blue -green is one step of all traffic that is held for a while (blue stays warm; no control is
 * left, so only tripwires watch it), immediate the same without holding.
 *
 * rollout_next is the only function that changes a rollout. At each tick, or when a person asks, it
 * takes what is known and returns the next state, what has to be done in the same commit, and a
 * plain sentence why. In this order: tripwire, evidence against the canary, what a person asks,
 * advance, deadline, hold. Evidence against the canary counts in every live state, paused too. No
 * evidence never advances. Nothing follows an end state.
 *
 * Pure; any thread.
 */
#ifndef GANTRY_LOGIC_ROLLOUT_H
#define GANTRY_LOGIC_ROLLOUT_H

#include "base/str.h"
#include "logic/evidence.h"

#define ROLLOUT_STEPS_MAX EVIDENCE_STEPS_MAX
#define ROLLOUT_MIN_TASKS 50 /* canary units a step, unless the plan says otherwise */
#define ROLLOUT_WHY_MAX 256

typedef enum {
    ROLLOUT_PENDING,
    ROLLOUT_PREFLIGHT,
    ROLLOUT_SHADOW,
    ROLLOUT_STEP,
    ROLLOUT_PAUSED,
    ROLLOUT_COMPLETED,
    ROLLOUT_ROLLED_BACK,
    ROLLOUT_ABORTED,
    ROLLOUT_SUPERSEDED,
    ROLLOUT_N_
} RolloutState;

/* "pending", "preflight", ..., "rolled_back"; and back: 0 or -EINVAL. */
const char *rollout_state_name(RolloutState state);
MUST_CHECK int rollout_state_from(Str name, RolloutState *ret);
bool rollout_state_is_end(RolloutState state);

typedef struct {
    int32_t weight_bp;
    int64_t for_ms;    /* at least this long in the step */
    int64_t min_tasks; /* canary units consumed in the step, at least */
    bool gate;         /* somebody outside has to open it too */
} RolloutStep;

typedef struct {
    RolloutStep steps[ROLLOUT_STEPS_MAX]; /* weights rise, the last is WEIGHT_BP_ALL */
    size_t steps_n;
    bool preflight;           /* check the version before it gets a task */
    bool shadow;              /* compare it on copies of production tasks first */
    bool shadow_is_first;     /* that evidence stands in for the first step */
    bool shadow_waits;        /* and then for a person's promote */
    int64_t unit_wait_ms;     /* how long a unit may take to start, and to be scored */
    int64_t deadline_ms;      /* in live states, from the start or a resume on; 0: none */
    bool deadline_rolls_back; /* else it pauses and pages */
    bool kills;               /* a rollback stops running tasks of the canary; else they finish */
} RolloutPlan;

RolloutPlan rollout_plan_canary(void); /* 5, 25, 50, 100% with ROLLOUT_MIN_TASKS; preflight */
RolloutPlan rollout_plan_blue_green(int64_t hold_ms);
RolloutPlan rollout_plan_immediate(void);

/* Whether steps exist, rise, and end with all traffic. */
bool rollout_plan_ok(const RolloutPlan *plan);

/* What is stored of a rollout, beside its evidence. Zero is a new one. */
typedef struct {
    RolloutState state;
    RolloutState resumes; /* while paused: ROLLOUT_SHADOW or ROLLOUT_STEP */
    size_t step;          /* current step; in the end states the last one reached */
    int32_t weight_bp;    /* share of new units that go to the canary */
    int64_t state_since_ms;
    int64_t step_since_ms;
    int64_t step_canaries; /* canary units consumed when the step began */
    int64_t deadline_at_ms;
    bool paged;           /* somebody was told that the statistics are not healthy */
    uint32_t gates_open;  /* bit k: that of step k was opened */
    uint32_t gates_asked; /* bit k: that it alone is waited for was told */
} Rollout;

typedef enum {
    COMMAND_NONE,
    COMMAND_PAUSE,
    COMMAND_RESUME,
    COMMAND_PROMOTE,     /* one step, without evidence */
    COMMAND_PROMOTE_ALL, /* to the end */
    COMMAND_OPEN_GATE,   /* a step behind it still needs its evidence */
    COMMAND_ABORT,
    COMMAND_SUPERSEDE, /* a newer rollout of the agent was created */
    COMMAND_N_
} RolloutCommand;

typedef enum {
    TRIPWIRE_NONE,
    TRIPWIRE_BUDGET,
    TRIPWIRE_SANDBOX,
    TRIPWIRE_CRASH_LOOP,
    TRIPWIRE_N_
} Tripwire;

typedef enum { CHECK_RUNNING, CHECK_PASSED, CHECK_FAILED } CheckResult;

typedef struct {
    int64_t now_ms;
    RolloutCommand command;
    Str actor;      /* who commands; may be empty */
    uint32_t gates; /* OPEN_GATE: bit k: that of step k; 0: that of the current step */
    Tripwire tripwire;
    CheckResult preflight;
    Str preflight_why;      /* of a failed one: what is wrong */
    CheckResult shadow;     /* of the paired test */
    bool shadow_biased;     /* production differs from itself: it proves nothing */
    Str shadow_why;         /* what the paired test still waits for; may be empty */
    bool evidence_rollback; /* evidence_observe has decided so */
    Str culprit;            /* the metric that decided, may be empty */
    bool proved;            /* evidence_proved() of the current step */
    Str unproved;           /* a required metric that is not, for the sentence */
    Str unmeasured;         /* why one has no harm yet, of any unit; may be empty */
    int64_t canaries;       /* evidence_canaries() */
    bool srm_ok, judge_ok;
    Str judge_why; /* when it is not; may be empty */
} RolloutInput;

/* What has to be done in the commit that stores the next state. */
enum {
    ROLLOUT_DO_PREFLIGHT = 1 << 0, /* start the checks */
    ROLLOUT_DO_SHADOW = 1 << 1,    /* start shadowing */
    ROLLOUT_DO_ROUTE = 1 << 2,     /* the weight has changed */
    ROLLOUT_DO_REBIND = 1 << 3,    /* queued canary tasks go back to the stable version */
    ROLLOUT_DO_STABLE = 1 << 4,    /* the canary is the stable version now; drift starts anew */
    ROLLOUT_DO_PAGE = 1 << 5,      /* a person is needed */
    ROLLOUT_DO_TELL = 1 << 6,      /* event and webhook: the state or the step has changed */
    ROLLOUT_DO_KILL = 1 << 7,      /* running canary tasks are stopped */
    ROLLOUT_DO_ASK = 1 << 8,       /* event: nothing but its gate holds the step */
    ROLLOUT_DO_OPENED = 1 << 9,    /* event: a gate was opened */
};

typedef enum { VERDICT_HOLD, VERDICT_ADVANCE, VERDICT_ROLLBACK, VERDICT_N_ } RolloutVerdict;
const char *rollout_verdict_name(RolloutVerdict verdict); /* "hold", "advance", "rollback" */

typedef struct {
    Rollout next;
    unsigned actions;
    RolloutVerdict verdict;
    bool refused; /* the command does not fit the state, nothing happened; why says how */
    char why[ROLLOUT_WHY_MAX];
} RolloutMove;

/* One tick. input->now_ms never goes back. */
RolloutMove rollout_next(const Rollout *r, const RolloutPlan *plan, const RolloutInput *input);

#endif
