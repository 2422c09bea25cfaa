/* Control: what happens to a rollout, each time in one transaction. Functions run inside a store
 * job; texts live in the arena given. */
#ifndef GANTRY_ROLLOUT_CONTROL_H
#define GANTRY_ROLLOUT_CONTROL_H

#include "queue/queue.h"
#include "rollout/gather.h"

typedef struct {
    Str id; /* UUID text, new */
    Str agent, version_id;
    Str block;    /* JSON text of a block that manifest_check_rollout accepted */
    Str settings; /* what the agent takes over at the end */
    Str actor;    /* who asks; may be empty */
    int64_t now_ms;
} ControlStart;

#define CONTROL_E_SAME 1    /* the version is what the agent routes to already */
#define CONTROL_E_NOTHING 2 /* the agent has no version yet to compare with */
#define CONTROL_E_METRICS 3 /* the block compares too much (rollout_spec_read) */

/* Begins a rollout, up to its preflight; an active one of the agent is superseded. The version is
 * the agent's own. *ret_actions: for control_signal_wait, after the commit.
 * Returns 0, CONTROL_E_..., -ENOENT (no such agent), -ENOMEM, -errno. */
MUST_CHECK int control_start(Db *db, const ControlStart *start, Arena *arena, RolloutRow *ret,
                             unsigned *ret_actions);

/* What the preflight found. Nothing happens when the rollout is not in it any more. */
typedef struct {
    bool passed;
    Str why;    /* what is wrong, when not */
    Str checks; /* JSON array of {"name", "result", "detail"} */
    int64_t now_ms;
} ControlChecked;
MUST_CHECK int control_checked(Db *db, Str id, const ControlChecked *checked, Arena *arena,
                               RolloutRow *ret);

/* One tick: consumes what is resolved, decides, does it. *row is as read in this job and becomes
 * what is stored. ret_move (may be NULL): what it did. */
MUST_CHECK int control_tick(Db *db, RolloutRow *row, RolloutCommand command, Str actor,
                            int64_t now_ms, Arena *arena, RolloutMove *ret_move);

/* A person's command: a tick with it. -ENOENT: no such rollout. The move says whether it was
 * refused; one that has ended refuses all, and nothing is written. */
MUST_CHECK int control_command(Db *db, Str id, RolloutCommand command, Str actor, int64_t now_ms,
                               Arena *arena, RolloutRow *ret, RolloutMove *ret_move);

/* Opens the gate of that name, at whatever steps from the current one on it is; the current step's
 * without a name. Otherwise as a command. An open one stays open. */
MUST_CHECK int control_open_gate(Db *db, Str id, Str gate, Str actor, int64_t now_ms, Arena *arena,
                                 RolloutRow *ret, RolloutMove *ret_move);

/* Ends the agent's active rollout, if there is one, by ABORT or SUPERSEDE. *ret_actions: what that
 * did; 0: there was none. */
MUST_CHECK int control_end(Db *db, Str agent, RolloutCommand command, Str actor, int64_t now_ms,
                           unsigned *ret_actions);

/* Everything back in one commit. An active rollout ends by ABORT, and without `to` that is all.
 * Otherwise new tasks go to the version `to`, or to the one that was stable before, whole: with its
 * settings; and so do queued tasks of the stable one. */
typedef struct {
    Str agent, actor;
    Str to;    /* a whole id of the agent's; empty: where it was before */
    bool kill; /* running tasks of the version that is left are stopped */
    int64_t now_ms;
} ControlBack;

#define CONTROL_E_NO_PREVIOUS 4 /* no other version since it was last gone back from one */
#define CONTROL_E_JUST_BACK 5   /* a rollout of the agent has rolled back by itself just now */

/* *ret_actions: for control_signal_wait, after the commit. Returns 0, CONTROL_E_NO_PREVIOUS,
 * CONTROL_E_JUST_BACK, -ENOENT (no such agent or version), -EINVAL (its manifest), -ENOMEM,
 * -errno. */
MUST_CHECK int control_rollback(Db *db, const ControlBack *back, Arena *arena,
                                unsigned *ret_actions);

typedef enum {
    SWITCH_FIRST,     /* the agent had no version */
    SWITCH_IMMEDIATE, /* a person deployed it so */
    SWITCH_ROLLBACK,  /* and what was left is nothing to go back to */
    SWITCH_N_
} SwitchKind;

/* All new tasks of the agent go to one of its versions at once, with its settings; unless they did
 * already that is an event, version.routed. Queued tasks and rollouts are not touched. */
typedef struct {
    Str agent, version_id;
    Str settings; /* of the version (rollout/settings.h) */
    Str actor;    /* may be empty */
    SwitchKind kind;
    int64_t now_ms;
} ControlSwitch;

/* Returns 0, -ENOENT (no such agent, or the version is not its own), -ENOMEM, -errno. */
MUST_CHECK int control_switch(Db *db, const ControlSwitch *s, Arena *arena);

/* On a fiber: events that wait go to the outbox of each receiver. */
MUST_CHECK int control_publish_wait(Queue *queue, const Str *urls, size_t urls_n, int64_t now_ms);

/* On a fiber, after the commit: tells who has to know at once, and ends what is stopped and does
 * not run. */
void control_signal_wait(Queue *queue, unsigned actions);

typedef struct {
    int64_t ticked;
    int64_t changed;  /* went to another state or step */
    int64_t failed;   /* could not be ticked, which is logged */
    unsigned actions; /* of all of them; they have been signaled */
} ControlTickAll;

/* On a fiber: ticks every active rollout; without one nothing is written. One that fails holds up
 * no other. now_ms: queue_now_ms, which deadlines and holds follow. ret may be NULL. */
MUST_CHECK int control_tick_all_wait(Queue *queue, int64_t now_ms, ControlTickAll *ret);

#endif
