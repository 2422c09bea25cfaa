/* Holds: the worker's list of model calls in flight, in a file that outlives a killed process (it
 * is mapped memory: what was written is there, without a sync, unless the machine dies; then the
 * list is not believed). A worker
 * that finds the list of one before it tells the control plane what that one really had in flight;
 * the rest of what was set aside for it comes back.
 *
 * An entry is made before a call is sent, says what it has cost as soon as that is known, and goes
 * when the control plane has recorded the call. Belongs to the worker's loop.
 */
#ifndef GANTRY_WORKER_HOLDS_H
#define GANTRY_WORKER_HOLDS_H

#include "gateway/gateway.h"
#include "queue/ledger.h"

typedef struct Holds Holds;

#define HOLDS_MAX BUDGET_HOLDS_MAX
#define HOLDS_WORKERS_MAX 64 /* whose entries are kept; of more the oldest are forgotten */

/* Opens or makes the file; one that cannot be read, or that was written in another boot of the
 * machine, is begun anew, which leaves what its worker held counted as spent. boot: what
 * boot_id_read() gave; "": unknown, so that no file is believed. Blocking. Returns 0 or -errno with
 * diag. */
MUST_CHECK int holds_open(const char *path, const char *boot, Holds **ret);
/* NULL is accepted. */
void holds_close(Holds *holds);
DEFINE_FREEP(Holds, holds_close)

/* Who makes the entries from now on. */
void holds_begin(Holds *holds, Uuid worker_id);

/* Enters a call. Returns 0 or -ENOSPC with diag. */
MUST_CHECK int holds_put(Holds *holds, const GatewayCall *call, TaskRef task);
/* What it has cost is known. */
void holds_charge(Holds *holds, const GatewayCall *call);
/* It is recorded, or was never sent. Harmless without an entry. */
void holds_drop(Holds *holds, const GatewayCall *call);

/* Whether the worker has entries. */
bool holds_any(const Holds *holds, Uuid worker_id);

/* A worker before this one of whom the control plane has not been told: false: there is none. */
bool holds_dead(const Holds *holds, Uuid *ret);
/* What a worker, dead or this one, has in flight, in no order, all in arena. Returns 0 or
 * -ENOMEM. */
MUST_CHECK int holds_of(const Holds *holds, Uuid worker_id, Arena *arena, BudgetHold **ret,
                        size_t *ret_n);
/* The control plane has been told. */
void holds_forget(Holds *holds, Uuid worker_id);

#endif
