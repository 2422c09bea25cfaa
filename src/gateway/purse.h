/* Purse: the slices of budgets that this worker holds, and the calls that wait for more of them.
 * Not for other folders. One a gateway, on its loop.
 *
 * A call's budgets are those of its owner (agent, tenant, user); which they are, the control plane
 * says. A call that fits reserves in memory; one that does not waits in turn while the purse asks
 * for more, one question an owner at a time. Without control plane (GatewayControl.grants_wait)
 * there are no budgets.
 */
#ifndef GANTRY_GATEWAY_PURSE_H
#define GANTRY_GATEWAY_PURSE_H

#include "base/list.h"
#include "gateway/gateway.h"
#include "logic/budget.h"
#include "sys/fiber.h"

typedef struct Purse Purse;
typedef struct PurseOwner PurseOwner;
typedef struct PurseSlot PurseSlot;

/* What a call has reserved. Zeroed: nothing. */
typedef struct {
    PurseSlot *slots[BUDGET_SCOPES_MAX];
    size_t n;
    CapHold hold;
} PurseHold;

/* A call that may have to wait. Prepared with purse_waiter_init. */
typedef struct {
    ListNode node; /* on its owner's list, while it waits */
    Cond *wake;
    Lane lane;
    int64_t since_ms; /* clock_mono_ms */
    uint64_t joined;
    BudgetNeed need;
} PurseWaiter;
void purse_waiter_init(PurseWaiter *waiter, Lane lane, Cond *wake);

/* control: where *control is read whenever something is asked. */
Purse *purse_new(const GatewayControl *const *control);
/* After purse_close_wait, with no owner left. NULL is accepted. */
void purse_free(Purse *purse);
/* Ends what is being asked. Waits even for a cancelled fiber. */
void purse_close_wait(Purse *purse);

/* The owner, shared by all who name it; texts are copied. */
PurseOwner *purse_owner_ref(Purse *purse, const BudgetOwner *names);
/* NULL is accepted. Nobody of it may wait; holds may go on. */
void purse_owner_unref(PurseOwner *owner);

/* Whether a call that needs so much may go ahead. BUDGET_GRANT: *ret_room is what it may reserve:
 * purse_take or purse_leave before the next wait. BUDGET_WAIT: it is in the list now, and its wake
 * will be signalled when it should try again; purse_leave if it will not. BUDGET_EXHAUSTED: it has
 * left; *ret_by lives until the next wait. */
BudgetVerdict purse_try(PurseOwner *owner, PurseWaiter *waiter, const BudgetNeed *need,
                        CapHold *ret_room, const BudgetScope **ret_by);
void purse_take(PurseOwner *owner, PurseWaiter *waiter, const CapHold *hold, PurseHold *ret);
void purse_leave(PurseOwner *owner, PurseWaiter *waiter);

/* When the call is to be booked (calendar): now, but never outside the windows it has reserved in,
 * whatever this machine's calendar says. */
int64_t purse_booked_ms(const PurseHold *hold);

/* Ends a reservation with what it has cost (nothing: released). Harmless on a zeroed one, which it
 * becomes. */
void purse_settle(Purse *purse, PurseHold *hold, const CapHold *actual);

/* The tightest settled share of the owner's budgets as last told, in millionths. */
int64_t purse_settled_ppm(const PurseOwner *owner);

/* What is known of one of its scopes, as purse_try named it. */
const BudgetPurse *purse_state(const PurseOwner *owner, const BudgetScope *scope);

/* Asks what limits the owner, if that is not known. Returns 0 or -ECANCELED; when the control plane
 * does not answer within wait_ms it stays unknown, and no call of the owner gets through. */
MUST_CHECK int purse_know_wait(PurseOwner *owner, Cond *wake, int64_t wait_ms);

/* How long a slice whose window is over is kept after its last call (10 min): for tests. */
void purse_quiet(Purse *purse, int64_t quiet_ms);
/* What a heartbeat told: the epoch of the rules, and whether others want what is held here. */
void purse_beat(Purse *purse, uint64_t epoch, bool wanted);
/* The worker has a new lease: what was granted to the old one is not its any more. */
void purse_reset(Purse *purse);

#endif
