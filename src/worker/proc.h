/* Proc: what /proc says of the processes that belong to a program. Blocks; any thread. Private to
 * worker/.
 */
#ifndef GANTRY_WORKER_PROC_H
#define GANTRY_WORKER_PROC_H

#include <sys/types.h>

#include "logic/resource.h"

#define PROC_TEXT_MAX 4096

/* The beginning of /proc/PID/name; false: there is none, or the process has ended. */
bool proc_text(int pid, const char *name, char text[PROC_TEXT_MAX]);

/* Memory of those that are own: pages of each, and pages of shared memory (mmap, shm_open), which
 * are counted once however many of them have mapped them. Files, and programs and their libraries,
 * are not the task's. Cheap as long as it is clear that there are no more than enough; then it may
 * leave out what is shared. */
int64_t proc_memory_bytes(const ResourceProcess *processes, size_t n, int64_t enough);

/* What those that are own keep on a device in files that have no name any more, as far as they have
 * them open; each file once. */
int64_t proc_unlinked_bytes(const ResourceProcess *processes, size_t n, dev_t device);

#endif
