/* Allowance: looks at what a program and everything it has started use of the machine, and ends all
 * of it when that is too much, or when it must end for another reason. Private to worker/.
 *
 * It looks ten times a second (less often where a look takes long), so for a moment more can be
 * used; the limits that the kernel keeps for each process (process.h) bound what happens meanwhile.
 */
#ifndef GANTRY_WORKER_ALLOWANCE_H
#define GANTRY_WORKER_ALLOWANCE_H

#include "logic/resource.h"
#include "sys/process.h"

typedef struct {
    const ResourceLimits *limits;
    int session;         /* the program's process id: it leads a session of its own */
    const char *scratch; /* its directory; NULL: not looked at */
    const char *homes;   /* as for allowance_end_wait */
    const char *cgroup;  /* likewise */
    /* Judges the CPU time instead of limits, after each look, on the watching fiber; true: it is
     * too much. NULL: limits do. */
    bool (*cpu_over)(void *ctx, int64_t cpu_ms);
    void *ctx;
    int looks;
    ResourceUse use; /* of the last look; not to be read while it watches */
    Resource over;   /* out: of what it used too much; set before all of it is sent SIGKILL */
} AllowanceWatch;

/* Sends SIGKILL to what a program that must end has started: who is in its cgroup, which is removed
 * (sys/cgroup.h; "": it has none); who is in its session and who descends
 * from one that is, unless session is 0 (it has ended: the number may be another's soon); who has
 * mark ("NAME=VALUE", which no other program was given; NULL: none) in its environment, wherever it
 * has moved; and to strays (sys/process.h), which programs that have ended have left behind,
 * whosever they were: except those that live in a home below tasks/ or servers/ of homes (the
 * worker's directory; "": none), as their environment says, and are known by their mark when that
 * ends. Waits even for a cancelled caller. */
void allowance_end_wait(const char *cgroup, int session, const char *mark, const char *homes);

/* Likewise for a program that has ended and been waited for. It costs little where its cgroup could
 * be ended: whoever has left that would be a stray or descend from one, and all processes of the
 * machine are only looked at when there is any. */
void allowance_sweep_wait(const char *cgroup, const char *mark, const char *homes);

/* Sends SIGKILL to what programs of an earlier worker of this directory (absolute) have left
 * behind: processes of this user that live in a home below its tasks/ or servers/, as their
 * environment says. For who holds the directory's lock and has started nothing yet. Blocks on
 * /proc. */
void allowance_end_before(const char *dir);

/* CPU time of the living processes of a session and of those that descend from one of these. Blocks
 * on /proc. */
int64_t allowance_cpu_ms(int session);

/* Those that the kernel keeps for each process. */
void allowance_of_process(const ResourceLimits *limits, ProcessOptions *options);

/* Whether there is anything to look at. */
bool allowance_watched(const ResourceLimits *limits);

/* Looks again and again until something is over its limit. On a fiber. Returns 0, -ECANCELED. */
MUST_CHECK int allowance_watch_wait(AllowanceWatch *watch);

/* What made a program fail that has ended by itself: the signal of a limit that the kernel keeps,
 * or what its last words (of stderr) say; not these when it asks to be tried again (exit code 75).
 * signal: 0 when it exited. */
Resource allowance_blame(const AllowanceWatch *watch, int signal, int exit_code, Str last_words);

#endif
