/* Escalation: a question that a task puts to a person, and what becomes of the task.
 *
 * A question is recorded before the attempt that asks ends, so it may be settled before, after or
 * while the task is put to rest; which of them came first must not matter. A later attempt that
 * asks the same is told what became of it. Pure; any thread.
 */
#ifndef GANTRY_LOGIC_ESCALATION_H
#define GANTRY_LOGIC_ESCALATION_H

#include "logic/task.h"

typedef enum {
    ESCALATION_PENDING,
    ESCALATION_ANSWERED,  /* by a person */
    ESCALATION_DEFAULTED, /* nobody answered in time: the default */
    ESCALATION_EXPIRED,   /* nobody did, and there is no default */
    ESCALATION_CLOSED,    /* the task has ended, or was begun anew */
    ESCALATION_STATE_N_
} EscalationState;

/* What a pending question becomes when its time is over. */
EscalationState escalation_overtime(TaskState task, bool has_default);

typedef enum {
    ESCALATION_CHANGES_NOTHING,
    ESCALATION_RESUMES, /* the task is queued again */
    ESCALATION_FAILS    /* the task fails: escalation_unanswered */
} EscalationEffect;

/* What follows for a task in that state when its last pending question is settled so. */
EscalationEffect escalation_effect(TaskState task, EscalationState settled);

/* An attempt ends to wait for a person. last: what became of its last question; NULL: it has asked
 * none. pending: one of them is not settled yet. ESCALATION_CHANGES_NOTHING: the task waits. */
EscalationEffect escalation_at_rest(const EscalationState *last, bool pending);

#endif
