/* Family: a task, the tasks it started (its children), those that they started, and so on. Together
 * they share the caps of the first: what a child may spend is taken out of what its parent has left
 * when it is started, and what it did not spend comes back when it has ended.
 *
 *   charge of a task, borne by its parent
 *     open    all that it was allotted
 *     ended   what it has spent itself + the charges of its children
 *
 *   own spend + charges of the children <= the task's cap, for each task at any time
 *
 * From which follows, level by level, that a whole family spends no more than the cap of the first,
 * however it forks, crashes and tries again. Pure; any thread.
 */
#ifndef GANTRY_LOGIC_FAMILY_H
#define GANTRY_LOGIC_FAMILY_H

#include "logic/cap.h"

/* CAP_NONE: no limit. */
typedef struct {
    int64_t tokens, nusd, tool_calls;
} FamilyAmount;

#define FAMILY_UNLIMITED ((FamilyAmount){ CAP_NONE, CAP_NONE, CAP_NONE })

/* What of it has to be held: no limit holds nothing. */
FamilyAmount family_hold(const FamilyAmount *amount);
FamilyAmount family_sum(const FamilyAmount *a, const FamilyAmount *b);
FamilyAmount family_difference(const FamilyAmount *a, const FamilyAmount *b);
FamilyAmount family_least(const FamilyAmount *a, const FamilyAmount *b);

/* What a task has left beside what it has spent, reserved and lent. */
FamilyAmount family_left(const CapLimits *limits, const CapState *state);

/* What a child is allotted, of what is left: what was asked for it, or, where nothing was
 * (CAP_NONE), half of it, so that its parent can go on and start others; never more than is left.
 * Returns CAP_BY_NOTHING, or what nothing is left of (tokens or money; a child without tool calls
 * can still think). */
CapReason family_allot(const FamilyAmount *left, const FamilyAmount *asked, FamilyAmount *ret);

/* The parent's side while it runs. Lent tokens and money stand among what is reserved, so calls
 * that want them wait; lent tool calls lower the limit. Each lent amount comes back once, with what
 * was spent of it; more than was lent is booked all the same. */
void family_lend(CapLimits *limits, CapState *state, const FamilyAmount *amount);
void family_return(CapLimits *limits, CapState *state, const FamilyAmount *lent,
                   const FamilyAmount *spent);

/* The durable side. */
typedef struct {
    bool open;
    FamilyAmount allotted; /* as family_hold gives it */
    FamilyAmount own;      /* spent by the task itself, in all its attempts */
    FamilyAmount kids;     /* charges of its children */
} FamilyMember;
FamilyAmount family_charge(const FamilyMember *member);

/* --- bounds ----------------------------------------------------------------------------------- */

typedef struct {
    int64_t depth_max;    /* of a child; the first task has depth 0 */
    int64_t children_max; /* of one task, ended ones too, but not those a retry by hand has left */
    int64_t members_max;  /* of a family likewise, with the first task */
} FamilyBounds;

#define FAMILY_BOUNDS_DEFAULT \
    ((FamilyBounds){ .depth_max = 4, .children_max = 100, .members_max = 1000 })

typedef enum {
    FAMILY_MAY_GROW,
    FAMILY_TOO_DEEP,
    FAMILY_TOO_WIDE,
    FAMILY_TOO_LARGE,
    FAMILY_GROWTH_N_
} FamilyGrowth;

/* Whether a task of that depth, with so many children, in a family of so many, may start one
 * more. */
FamilyGrowth family_may_grow(const FamilyBounds *bounds, int64_t depth, int64_t children,
                             int64_t members);

/* When a child's time is over: its parent has so much left (0: no limit), as it said, which may
 * have been a while ago; and no later than its parent's own (0: none). Calendar time; 0: never. */
int64_t family_deadline_ms(int64_t parent_at_ms, int64_t remaining_ms, int64_t now_ms);

#endif
