/* Child processes for fibers.
 *
 * A child runs in a session and process group of its own, with an environment built from scratch,
 * only descriptors 0-2 open, no new privileges, and gets a signal when its parent's thread dies.
 * The group is signalled as a whole, so grandchildren are reached too. A child is the parent of
 * whatever it has started that is left by its own parent (prctl(2), PR_SET_CHILD_SUBREAPER), so
 * that nothing leaves its tree while it lives.
 */
#ifndef GANTRY_SYS_PROCESS_H
#define GANTRY_SYS_PROCESS_H

#include "sys/stream.h"

typedef struct Process Process;

typedef struct {
    const char *const *argv; /* NULL-terminated; argv[0] is looked up in the PATH of env */
    const char *const *env;  /* NULL-terminated "K=V" */
    const char *cwd;
    const char *cgroup;       /* where it begins, if it can (sys/cgroup.h); "" or NULL: as this */
    int64_t memory_bytes_max; /* RLIMIT_DATA; 0: unlimited */
    int64_t file_bytes_max;   /* RLIMIT_FSIZE; 0: unlimited */
    int64_t files_max;        /* RLIMIT_NOFILE; 0: default 1024 */
    int64_t cpu_seconds_max;  /* RLIMIT_CPU: SIGXCPU, a second later SIGKILL; 0: unlimited */
    int death_signal; /* it gets when this process dies, perhaps several times; 0: SIGKILL */
} ProcessOptions;

typedef struct {
    int exit_code; /* valid when signal is 0 */
    int signal;    /* 0 when it exited by itself */
} ProcessExit;

/* Starts a child with pipes on stdin, stdout, stderr. The Streams belong to the Process; closing
 * stdin early: process_close_stdin. Returns 0, -ENOENT (no such program), -EACCES, or -errno, with
 * diag naming the program. */
MUST_CHECK int process_spawn(const ProcessOptions *options, Process **ret);

int process_pid(const Process *process);
Stream *process_stdin(Process *process);
Stream *process_stdout(Process *process);
Stream *process_stderr(Process *process);
void process_close_stdin(Process *process);

/* Signals the whole group; harmless when it has ended. */
void process_signal(Process *process, int signal);

/* Waits for the child itself to end. Returns 0 with *ret, -ETIMEDOUT, -ECANCELED. */
int process_exit_wait(Process *process, int64_t deadline_ms, ProcessExit *ret);

/* SIGKILLs what is left of the group, closes the pipes and frees. NULL is accepted. Never waits:
 * the child is reaped by the loop. */
void process_free(Process *process);
DEFINE_FREEP(Process, process_free)

/* --- strays: what is left of the trees of children that have ended ---------------------------- */

/* From now on this process is the parent of what its children leave behind. It must look for such
 * strays, which nothing else ends or reaps. */
void process_adopt(void);

/* Whether it is a child of this process that process_spawn has not started but a descendant of such
 * a one has; it may be a zombie. Others, which this process had before it was this program, or
 * which a library forks, are told by their session and their privileges. Any thread. */
bool process_is_stray(int pid);

/* Whether there is any; true when the kernel does not tell. One that comes or goes meanwhile may be
 * seen or not. Any thread. */
bool process_has_strays(void);

/* Frees the number of a stray that has ended; others are left alone. Any thread. */
void process_stray_reap(int pid);

/* --- this process ----------------------------------------------------------------------------- */

/* Opens /dev/null as whichever of descriptors 0-2 is closed, so that no database or connection
 * becomes one of them and is written log lines. Call it before anything is opened. */
void process_stdio_fill(void);

/* Raises the soft limit on descriptors to the hard one: the soft one is often 1024 for the sake of
 * select(2), which nothing here uses. Children get their own limit whatever this one is. */
void process_files_raise(void);

/* Keeps other processes of the same user, so agents too, from reading this one's memory and
 * environment through /proc or ptrace, and keeps it from dumping core (prctl(2), PR_SET_DUMPABLE).
 * Children that execute a program are not affected. */
void process_hide(void);

#endif
