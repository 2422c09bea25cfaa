/* Child: runs a program to its end and gathers what it writes. Private to worker/.
 *
 * What a child may do to its parent is bounded: one that does not read its stdin holds up nothing,
 * one that closes its pipes and stays is waited for until the deadline, one that leaves processes
 * behind that hold the pipes open is not waited for, one that floods stderr or stdout meets a
 * limit.
 */
#ifndef GANTRY_WORKER_CHILD_H
#define GANTRY_WORKER_CHILD_H

#include "worker/allowance.h"
#include "worker/run.h"

#define CHILD_TAIL_BYTES 2048

typedef struct {
    Run *run;           /* whose stops are obeyed, whose log gets the lines of stderr */
    const Str *command; /* argv */
    size_t command_n;
    bool agent; /* the agent itself: gets the models' addresses, is run->process while it runs */
    Str input;  /* stdin, then end of file */
    size_t output_bytes_max;
    int64_t deadline_ms; /* clock_mono_ms, or DEADLINE_NONE */
    int64_t grace_ms;    /* between SIGTERM and SIGKILL */
} ChildOptions;

/* Starts a program in the version's directory with the environment of a tool or of the agent, under
 * the limits of the version that the kernel keeps, in a cgroup (group.h). On a fiber.
 * Returns as process_spawn and run_scratch_wait. */
MUST_CHECK int child_start_wait(Run *run, const Str *command, size_t command_n, bool agent,
                                char ret_group[CGROUP_PATH_MAX], Process **ret);

typedef struct {
    ProcessExit how;
    Buf output;     /* stdout */
    bool too_large; /* it wrote more than output_bytes_max, and was killed */
    Resource over;  /* the limit of its version that made it fail */
    size_t tail_len;
    char tail[CHILD_TAIL_BYTES]; /* the last lines of stderr */
} ChildResult;

/* Runs in the version's directory, under its limits. On a fiber. Returns 0 (it ended; also when
 * too_large), -ETIMEDOUT and -ECANCELED (it was made to end; a run that was killed or is stale gets
 * no grace), -ENOENT and -EACCES (no such program), -errno; with diag. */
MUST_CHECK int child_run_wait(const ChildOptions *options, ChildResult *ret);

/* The run's agent, if its process lives, is killed, grace or not. Never waits. */
void child_stop_now(Run *run);

/* Large: on the heap. */
ChildResult *child_result_new(size_t output_bytes_max);
void child_result_free(ChildResult *result);
DEFINE_FREEP(ChildResult, child_result_free)

#endif
