#include "logic/escalation.h"

EscalationState escalation_overtime(TaskState task, bool has_default)
{
    if (task_state_ended(task)) return ESCALATION_CLOSED;
    return has_default ? ESCALATION_DEFAULTED : ESCALATION_EXPIRED;
}

EscalationEffect escalation_effect(TaskState task, EscalationState settled)
{
    assert(settled < ESCALATION_STATE_N_);
    if (task != TASK_ESCALATED) return ESCALATION_CHANGES_NOTHING;
    if (settled == ESCALATION_EXPIRED) return ESCALATION_FAILS;
    bool answered = settled == ESCALATION_ANSWERED || settled == ESCALATION_DEFAULTED;
    return answered ? ESCALATION_RESUMES : ESCALATION_CHANGES_NOTHING;
}

EscalationEffect escalation_at_rest(const EscalationState *last, bool pending)
{
    if (!last || pending) return ESCALATION_CHANGES_NOTHING;
    return escalation_effect(TASK_ESCALATED, *last);
}
