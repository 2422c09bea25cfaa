#include "sys/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/log.h"
#include "sys/cgroup.h"
#include "sys/loop_private.h"

#define PROGRAM_PATH_MAX 4096
#define FILES_DEFAULT 1024

struct Process {
    ListNode node; /* of those that are not reaped */
    pid_t pid;
    int pidfd;
    uv_poll_t poll; /* readable once the child has ended */
    Stream *pipes[3];
    Op *waiter;
    ProcessExit exit;
    bool ended;
    bool released; /* process_free was called */
};

/* Those that were started and are not reaped, of all loops. Held while one is forked or reaped, so
 * that a number in or not in the list is what it seems. */
static List living = { &living, &living };
static pthread_mutex_t living_lock = PTHREAD_MUTEX_INITIALIZER;

/* --- the child, between fork and exec: async-signal-safe calls only --------------------------- */

static void limit_set(int what, int64_t max)
{
    if (max <= 0) return;
    struct rlimit limit = { (rlim_t)max, (rlim_t)max };
    setrlimit((__rlimit_resource_t)what, &limit);
}

/* Leaves the parent's process group. What was sent to that meanwhile, such as a SIGTERM by whoever
 * ends the parent, is not for this process, whose work is to be finished; what the parent has sent
 * stays pending. All signals are blocked. */
static void group_leave(pid_t parent)
{
    static const struct timespec at_once = { 0 };
    bool meant[32] = { false };
    sigset_t all;
    siginfo_t info;
    int s;
    sigfillset(&all);
    setsid();
    while ((s = sigtimedwait(&all, &info, &at_once)) > 0)
        if (s < (int)ARRAY_N(meant)) meant[s] |= info.si_code == SI_USER && info.si_pid == parent;
    for (s = 1; s < (int)ARRAY_N(meant); s++)
        if (meant[s]) kill(getpid(), s);
}

NO_RETURN static void child_exec(const ProcessOptions *o, const char *program, const int fds[3],
                                 pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    group_leave(parent);
    for (int s = 1; s < 32; s++) signal(s, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, o->death_signal > 0 ? o->death_signal : SIGKILL);
    if (getppid() != parent) _exit(127); /* it died before the line above */
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    for (int i = 0; i < 3; i++)
        if (dup2(fds[i], i) < 0) _exit(127);
    syscall(SYS_close_range, 3U, ~0U, 0U);
    limit_set(RLIMIT_DATA, o->memory_bytes_max);
    limit_set(RLIMIT_FSIZE, o->file_bytes_max);
    if (o->cpu_seconds_max > 0) { /* so that the signal tells */
        struct rlimit cpu = { (rlim_t)o->cpu_seconds_max, (rlim_t)o->cpu_seconds_max + 1 };
        setrlimit(RLIMIT_CPU, &cpu);
    }
    limit_set(RLIMIT_NOFILE, o->files_max > 0 ? o->files_max : FILES_DEFAULT);
    limit_set(RLIMIT_CORE, 1);
    if (o->cwd && chdir(o->cwd) != 0) _exit(127);
    execve(program, (char *const *)o->argv, (char *const *)o->env);
    static const char text[] = "cannot execute the program\n";
    if (write(2, text, sizeof text - 1) < 0) _exit(126);
    _exit(127);
}

/* --- finding the program ---------------------------------------------------------------------- */

static int is_program(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0) return -errno;
    if (!S_ISREG(st.st_mode)) return -EACCES;
    return access(path, X_OK) == 0 ? 0 : -errno;
}

static const char *env_value(const char *const *env, const char *name)
{
    size_t n = strlen(name);
    for (; env && *env; env++)
        if (strncmp(*env, name, n) == 0 && (*env)[n] == '=') return *env + n + 1;
    return NULL;
}

static int program_join(Str dir, const char *name, char out[PROGRAM_PATH_MAX])
{
    int n = snprintf(out, PROGRAM_PATH_MAX, "%.*s/%s", STR_ARG(dir), name);
    return n < 0 || n >= PROGRAM_PATH_MAX ? -ENAMETOOLONG : is_program(out);
}

/* A name with a slash is taken from the working directory, one without from PATH. */
static int program_find(const ProcessOptions *o, char out[PROGRAM_PATH_MAX])
{
    const char *name = o->argv[0];
    Str path = str_of(env_value(o->env, "PATH"));
    int r = -ENOENT;
    if (name[0] == '/') {
        if (!str_copy(out, PROGRAM_PATH_MAX, str_of(name))) return -ENAMETOOLONG;
        return is_program(out);
    }
    if (strchr(name, '/')) return program_join(str_of(o->cwd ? o->cwd : "."), name, out);
    while (path.len && r != 0) {
        Str dir;
        path = str_split(path, ':', &dir, NULL);
        int found = dir.len ? program_join(dir, name, out) : -ENOENT;
        if (found == 0 || r == -ENOENT) r = found;
    }
    return r;
}

/* --- life ------------------------------------------------------------------------------------- */

static void on_poll_close(uv_handle_t *handle)
{
    Process *p = handle->data;
    close(p->pidfd);
    free(p);
}

static void dispose(Process *p)
{
    if (p->ended && p->released) uv_close((uv_handle_t *)&p->poll, on_poll_close);
}

static bool process_reap(Process *p, int options, int *ret_code)
{
    pthread_mutex_lock(&living_lock);
    bool reaped = waitpid(p->pid, ret_code, options) == p->pid;
    if (reaped) list_remove(&p->node);
    pthread_mutex_unlock(&living_lock);
    return reaped;
}

static void on_ended(uv_poll_t *poll, int status, int events)
{
    Process *p = poll->data;
    int code;
    (void)status, (void)events;
    kill(-p->pid, SIGKILL); /* before reaping: the group's number cannot have been reused yet */
    if (!process_reap(p, WNOHANG, &code)) return;
    uv_poll_stop(poll);
    p->ended = true;
    if (WIFSIGNALED(code)) p->exit.signal = WTERMSIG(code);
    else p->exit.exit_code = WEXITSTATUS(code);
    Op *op = p->waiter;
    p->waiter = NULL;
    if (op) op_done(op, 0);
    dispose(p);
}

static void close_fds(int *fds, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (fds[i] >= 0) close(fds[i]);
}

/* ends[i] is the child's end of pipe i, mine[i] ours. */
static int pipes_open(int ends[3], int mine[3])
{
    for (int i = 0; i < 3; i++) {
        int pair[2];
        if (pipe2(pair, O_CLOEXEC) != 0) return -errno;
        ends[i] = pair[i == 0 ? 0 : 1];
        mine[i] = pair[i == 0 ? 1 : 0];
    }
    return 0;
}

static int pipes_adopt(Process *p, int mine[3])
{
    for (int i = 0; i < 3; i++) {
        int r = stream_open(mine[i], &p->pipes[i]);
        if (r < 0) return r;
        mine[i] = -1;
    }
    return 0;
}

static int process_watch(Process *p)
{
    p->pidfd = (int)syscall(SYS_pidfd_open, p->pid, 0U);
    if (p->pidfd < 0) return -errno;
    int r = uv_poll_init(loop_uv(loop_here()), &p->poll, p->pidfd);
    if (r < 0) {
        close(p->pidfd);
        return uv_errno(r);
    }
    p->poll.data = p;
    return uv_errno(uv_poll_start(&p->poll, UV_READABLE, on_ended));
}

/* With all signals blocked until the child has handlers of its own: one that is sent to it right
 * away would run the parent's, which writes to a pipe that both have, and the parent would take it
 * for its own. */
static int process_fork(const ProcessOptions *o, const char *program, const int ends[3], Process *p)
{
    sigset_t all, before;
    pid_t parent = getpid();
    int group = o->cgroup && *o->cgroup ? open(o->cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_mutex_lock(&living_lock);
    p->pid = cgroup_fork(group);
    if (p->pid < 0 && group >= 0) p->pid = cgroup_fork(-1);
    if (p->pid == 0) child_exec(o, program, ends, parent);
    if (p->pid > 0) list_push_back(&living, &p->node);
    pthread_mutex_unlock(&living_lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (group >= 0) close(group);
    return MIN(p->pid, 0);
}

static int process_start(const ProcessOptions *o, const char *program, Process *p)
{
    int ends[3] = { -1, -1, -1 }, mine[3] = { -1, -1, -1 }, code;
    int r = pipes_open(ends, mine);
    if (r == 0) r = pipes_adopt(p, mine);
    if (r == 0) r = process_fork(o, program, ends, p);
    close_fds(ends, 3);
    close_fds(mine, 3);
    if (r < 0) return r;
    r = process_watch(p);
    if (r < 0) {
        kill(-p->pid, SIGKILL);
        kill(p->pid, SIGKILL);
        (void)process_reap(p, 0, &code);
    }
    return r;
}

int process_spawn(const ProcessOptions *o, Process **ret)
{
    char program[PROGRAM_PATH_MAX];
    assert(o->argv && o->argv[0] && o->env);
    int r = program_find(o, program);
    if (r < 0) return diag_set(r, "cannot run `%s`: %s", o->argv[0], strerror(-r));
    Process *p = xcalloc(1, sizeof *p);
    r = process_start(o, program, p);
    if (r < 0) {
        for (int i = 0; i < 3; i++) stream_close(p->pipes[i]);
        free(p);
        return diag_set(r, "cannot start `%s`: %s", o->argv[0], strerror(-r));
    }
    *ret = p;
    return 0;
}

int process_pid(const Process *p)
{
    return p->pid;
}

Stream *process_stdin(Process *p)
{
    return p->pipes[0];
}

Stream *process_stdout(Process *p)
{
    return p->pipes[1];
}

Stream *process_stderr(Process *p)
{
    return p->pipes[2];
}

void process_close_stdin(Process *p)
{
    stream_close(TAKE(p->pipes[0]));
}

void process_signal(Process *p, int signal)
{
    if (p->ended) return;
    if (kill(-p->pid, signal) != 0) kill(p->pid, signal); /* before setsid there is no group yet */
}

typedef struct {
    Op op;
    Process *process;
} ExitWait;

static void cancel_exit_wait(Op *op, int code)
{
    CONTAINER_OF(op, ExitWait, op)->process->waiter = NULL;
    op_done(op, code);
}

int process_exit_wait(Process *p, int64_t deadline_ms, ProcessExit *ret)
{
    assert(!p->waiter);
    if (!p->ended) {
        ExitWait wait = { .process = p };
        op_init(&wait.op, cancel_exit_wait);
        p->waiter = &wait.op;
        int r = op_wait(&wait.op, deadline_ms);
        if (r < 0) return r;
    }
    *ret = p->exit;
    return 0;
}

void process_free(Process *p)
{
    if (!p) return;
    assert(!p->released && !p->waiter);
    process_signal(p, SIGKILL);
    for (int i = 0; i < 3; i++) stream_close(p->pipes[i]);
    p->released = true;
    dispose(p);
}

/* --- strays ----------------------------------------------------------------------------------- */

void process_adopt(void)
{
    if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0)
        LOG_WARN("what agents leave behind may not be found", LOG_CSTR("why", strerror(errno)));
}

static bool is_living(int pid)
{
    LIST_EACH (&living, node)
        if (CONTAINER_OF(node, Process, node)->pid == pid) return true;
    return false;
}

static bool is_child(int pid)
{
    siginfo_t info;
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

/* Nobody gets these back. */
static bool is_without_privileges(int pid)
{
    char path[32], line[256];
    int set = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *file = fopen(path, "re");
    if (!file) return false;
    while (fgets(line, sizeof line, file) && sscanf(line, "NoNewPrivs: %d", &set) != 1) continue;
    fclose(file);
    return set == 1;
}

static bool is_stray(int pid)
{
    return !is_living(pid) && is_child(pid) && getsid(pid) != getsid(0) &&
           is_without_privileges(pid);
}

bool process_is_stray(int pid)
{
    pthread_mutex_lock(&living_lock);
    bool stray = is_stray(pid);
    pthread_mutex_unlock(&living_lock);
    return stray;
}

/* < 0: the kernel does not tell, or the thread has ended. */
static int thread_has_strays(const char *thread)
{
    char path[64];
    int pid;
    bool found = false;
    snprintf(path, sizeof path, "/proc/self/task/%.20s/children", thread);
    FILE *file = fopen(path, "re");
    if (!file) return -errno;
    while (!found && fscanf(file, "%d", &pid) == 1) found = process_is_stray(pid);
    fclose(file);
    return found;
}

bool process_has_strays(void)
{
    DIR *threads = opendir("/proc/self/task");
    bool found = false, told = false;
    if (!threads) return true;
    for (struct dirent *e; !found && (e = readdir(threads)) != NULL;) {
        if (e->d_name[0] == '.') continue;
        int r = thread_has_strays(e->d_name);
        told |= r >= 0;
        found = r > 0;
    }
    closedir(threads);
    return found || !told;
}

void process_stray_reap(int pid)
{
    pthread_mutex_lock(&living_lock);
    if (is_stray(pid)) waitpid(pid, NULL, WNOHANG);
    pthread_mutex_unlock(&living_lock);
}

/* --- this process ----------------------------------------------------------------------------- */

void process_stdio_fill(void)
{
    int fd;
    do fd = open("/dev/null", O_RDWR); /* inherited, as what it stands for would be */
    while (fd >= 0 && fd <= 2);
    if (fd > 2) close(fd);
}

void process_files_raise(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        LOG_WARN("cannot have more descriptors", LOG_CSTR("why", strerror(errno)));
}

void process_hide(void)
{
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
        LOG_WARN("cannot be hidden from other processes", LOG_CSTR("why", strerror(errno)));
}
