/* Group: the cgroup that a program is started in and ended with, where this worker may make some
 * (sys/cgroup.h). Without, a program is found by looking for it, as it is with one that it has
 * left (allowance.h). Private to worker/.
 */
#ifndef GANTRY_WORKER_GROUP_H
#define GANTRY_WORKER_GROUP_H

#include "sys/cgroup.h"
#include "worker/run.h"

/* Below which the groups of the programs of a worker are made whose directory is dir. Returns 0 or
 * -errno with diag. Blocks. */
MUST_CHECK int group_place(const char *dir, char ret[CGROUP_BASE_MAX]);

/* Makes it, for who holds the lock of the directory: what programs of an earlier worker of it, or
 * of other workers that were killed, have left is ended. Returns a descriptor to be kept open
 * meanwhile; < 0, *ret "": none are used, as the log says. Blocks. */
int group_open(const char *dir, bool wanted, char ret[CGROUP_BASE_MAX]);

/* For the next program of the run, one for a server agent. "": it has none. On a fiber. */
void group_of_run_wait(Run *run, char ret[CGROUP_PATH_MAX]);
void group_of_server_wait(RunHost *host, const char *server_id, const ResourceLimits *limits,
                          char ret[CGROUP_PATH_MAX]);

/* A tool has ended; what it has left goes on. On a fiber. */
void group_leave_wait(const char *group);

/* Ends what the run's programs have left. On a fiber. */
void group_end_run_wait(Run *run);

#endif
