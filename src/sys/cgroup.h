/* Cgroups: groups of processes that the kernel keeps (cgroups(7), version 2). Whatever a program
 * starts is in its group, wherever it moves and however fast, and all of it is ended at once.
 *
 * Best effort: there is not everywhere a hierarchy of version 2 that this process may write to.
 * Who may write to it, so a program of the same user, can leave its group. Paths are those of the
 * groups' directories. Everything here blocks for a moment, except cgroup_find; any thread.
 */
#ifndef GANTRY_SYS_CGROUP_H
#define GANTRY_SYS_CGROUP_H

#include <sys/types.h>

#include "base/str.h"

#define CGROUP_PATH_MAX 512
#define CGROUP_BASE_MAX 384 /* of one that others are made in */

/* How the names of those that cgroup_open makes begin: no unit of systemd has such a name, whatever
 * it is called, as these end in their type. */
#define CGROUP_PREFIX "gantry.dir-"

/* The directory of a process's group, from its /proc/PID/mountinfo and /proc/PID/cgroup. Pure.
 * Returns 0, -ENOENT (no such hierarchy, or the group is not in what is mounted of it),
 * -ENAMETOOLONG. */
MUST_CHECK int cgroup_find(Str mountinfo, Str cgroup, char ret[CGROUP_PATH_MAX]);

/* Where a group name of this process would be: below its own, or beside it where systemd has
 * delegated the one above (DelegateSubgroup=). Returns 0, as cgroup_find; with diag. */
MUST_CHECK int cgroup_place(const char *name, char ret[CGROUP_BASE_MAX]);

/* Makes the group that cgroup_place has found, for groups of programs to be made in, and tries
 * whether a program can be started there. What is in one that is there already is ended, and what
 * is in those beside it that were opened by a process that has ended since: their names begin with
 * CGROUP_PREFIX, as this one's must. *ret_lock: closed by the caller when it is not used any more.
 * Returns 0, -EOPNOTSUPP (a kernel before 5.14), -errno; with diag. */
MUST_CHECK int cgroup_open(const char *path, int *ret_lock);

/* Makes an empty group. tasks_max: as for cgroup_bound; 0: any number. Returns 0 or -errno. */
MUST_CHECK int cgroup_make(const char *path, int64_t tasks_max);

/* So many processes and threads may be in a group; beyond it they cannot start others. Returns 0
 * (also when it has no controller `pids`: there is no bound then) or -errno. */
MUST_CHECK int cgroup_bound(const char *path, int64_t tasks_max);

/* As fork(2), but the child begins in the group of this directory's descriptor, if that is
 * possible; < 0: none. In the child only async-signal-safe calls are allowed. Returns -errno. */
MUST_CHECK pid_t cgroup_fork(int group);

/* Removes a group in which nobody is any more. Returns 0 (also when there is none), -EBUSY,
 * -errno. */
int cgroup_remove(const char *path);

/* Ends all that are in a group and in those below it by SIGKILL, and removes it. Waits until they
 * are gone, 2 s at most. Returns 0 (also when there is none), -EBUSY (some are not gone), -errno.
 */
int cgroup_end(const char *path);

#endif
