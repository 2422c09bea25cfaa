#include "tests/unit/sys_harness.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/diag.h"
#include "sys/cgroup.h"
#include "sys/clock.h"
#include "sys/process.h"
#include "sys/signals.h"

typedef struct {
    const char *script; /* for sh -c */
    const char *input;
    const char *group;
    int kill_after_ms; /* SIGTERM to the group then; 0: never */
    int spawned, waited;
    ProcessExit exit;
    char out[512];
    int64_t took_ms;
} Run;

static const char *const env[] = { "PATH=/usr/bin:/bin", "COLOUR=green", NULL };

static void read_all_wait(Stream *stream, char *out, size_t size)
{
    Str got;
    size_t n = 0;
    int r;
    while ((r = stream_fill_wait(stream, 0, deadline_after(5000), &got)) == 0) {
        size_t take = MIN(got.len, size - 1 - n);
        memcpy(out + n, got.ptr, take);
        n += take;
        stream_consume(stream, got.len);
    }
    out[n] = '\0';
}

static int run_main(void *arg)
{
    Run *run = arg;
    CLEANUP(process_freep) Process *p = NULL;
    int64_t began_ms = clock_mono_ms();
    run->spawned = process_spawn(
        &(ProcessOptions){
            .argv = (const char *[]){ "sh", "-c", run->script, NULL }, .env = env, .cwd = "/" },
        &p);
    if (run->spawned < 0) return 0;
    if (run->input) {
        Str input = str_of(run->input);
        stream_write_wait(process_stdin(p), &input, 1, deadline_after(1000));
    }
    process_close_stdin(p);
    if (run->kill_after_ms) {
        fiber_sleep_wait(run->kill_after_ms);
        process_signal(p, SIGTERM);
    }
    read_all_wait(process_stdout(p), run->out, sizeof run->out);
    run->waited = process_exit_wait(p, deadline_after(5000), &run->exit);
    run->took_ms = clock_mono_ms() - began_ms;
    return 0;
}

static void test_io_and_exit_code(void **state)
{
    (void)state;
    Run run = { .script = "read x; echo \"got $x in $PWD, $COLOUR $HOME\"; exit 75",
                .input = "this\n" };
    harness_run(run_main, &run);
    assert_int_equal(run.waited, 0);
    assert_int_equal(run.exit.exit_code, 75);
    assert_int_equal(run.exit.signal, 0);
    assert_string_equal(run.out, "got this in /, green \n");
}

static void test_group_is_killed_whole(void **state)
{
    (void)state;
    /* the grandchild holds stdout open: only a signal to the group ends the reading */
    Run run = { .script = "sleep 60 & sleep 60", .kill_after_ms = 50 };
    harness_run(run_main, &run);
    assert_int_equal(run.waited, 0);
    assert_int_equal(run.exit.signal, SIGTERM);
    assert_true(run.took_ms < 5000);
}

/* A signal sent to a child that has hardly been born is the child's alone. */
static int newborn_main(void *arg)
{
    int *caught = arg;
    const int term = SIGTERM;
    Signals *signals = signals_open(&term, 1);
    for (int i = 0; i < 100 && *caught == 0; i++) {
        Process *p;
        ProcessExit end;
        ProcessOptions o = { .argv = (const char *[]){ "sleep", "10", NULL },
                             .env = env,
                             .cwd = "/" };
        if (process_spawn(&o, &p) < 0) continue;
        process_signal(p, SIGTERM);
        if (process_exit_wait(p, deadline_after(9000), &end) != 0 || end.signal != SIGTERM)
            *caught += 1000;
        process_free(p);
    }
    *caught += signals_wait(signals, deadline_after(50)) == SIGTERM;
    signals_close(signals);
    return 0;
}

static void test_newborn_is_signalled(void **state)
{
    (void)state;
    int caught = 0;
    harness_run(newborn_main, &caught);
    assert_int_equal(caught, 0);
}

static bool shout; /* as whoever signals the whole group would, just after the fork */

static void on_fork_child(void)
{
    if (shout) kill(getpid(), SIGTERM);
}

/* Who ends a process by its group must not hit what that has just started. */
static void test_newborn_has_left_the_group(void **state)
{
    (void)state;
    assert_int_equal(pthread_atfork(NULL, NULL, on_fork_child), 0);
    shout = true;
    Run run = { .script = "echo lives" };
    harness_run(run_main, &run);
    shout = false;
    assert_int_equal(run.spawned, 0);
    assert_int_equal(run.exit.signal, 0);
    assert_string_equal(run.out, "lives\n");
}

static void test_leftovers_die_with_the_child(void **state)
{
    (void)state;
    Run run = { .script = "sleep 60 & echo $!; exit 0" };
    harness_run(run_main, &run);
    assert_int_equal(run.exit.exit_code, 0);
    pid_t left = (pid_t)strtol(run.out, NULL, 10);
    assert_true(left > 1);
    for (int i = 0; i < 100 && kill(left, 0) == 0; i++) {
        char path[64], state_text[256] = "";
        snprintf(path, sizeof path, "/proc/%d/stat", (int)left);
        FILE *f = fopen(path, "r");
        if (!f || !fgets(state_text, sizeof state_text, f)) state_text[0] = '\0';
        if (f) fclose(f);
        const char *close_paren = strrchr(state_text, ')');
        if (close_paren && close_paren[2] == 'Z')
            return; /* dead; whoever inherited it has yet to reap */
        usleep(20000);
    }
    assert_int_not_equal(kill(left, 0), 0);
}

static void test_only_three_descriptors(void **state)
{
    (void)state;
    Run run = { .script = "ls /proc/self/fd | tr '\\n' ' '" };
    harness_run(run_main, &run);
    assert_string_equal(run.out, "0 1 2 3 "); /* 3 is the directory ls reads */
}

/* 1 when a child of the same user can read the environment of a process without privileges, 0 when
 * it cannot, 2 when that cannot be tried here. */
static int environment_readable(bool hide)
{
    int status = -1;
    pid_t pid = fork();
    if (pid == 0) {
        char path[64], byte;
        if (getuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(2);
        prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* a change of user takes it away */
        if (hide) process_hide();
        snprintf(path, sizeof path, "/proc/%d/environ", (int)getpid());
        pid = fork();
        if (pid == 0) {
            int fd = open(path, O_RDONLY | O_CLOEXEC);
            _exit(fd >= 0 && read(fd, &byte, 1) == 1);
        }
        if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status)) _exit(2);
        _exit(WEXITSTATUS(status));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_hidden_from_its_children(void **state)
{
    (void)state;
    if (environment_readable(false) != 1) skip(); /* this system hides it anyway */
    assert_int_equal(environment_readable(true), 0);
}

static void test_closed_stdio_is_filled(void **state)
{
    (void)state;
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        close(0);
        for (int fd = 2; fd < 10; fd++) close(fd);
        process_stdio_fill();
        bool filled = fcntl(0, F_GETFD) == 0 && fcntl(1, F_GETFD) == 0 && fcntl(2, F_GETFD) == 0;
        _exit(filled && fcntl(3, F_GETFD) < 0 ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_descriptors_up_to_the_hard_limit(void **state)
{
    (void)state;
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit limit = { 64, 128 };
        bool set = setrlimit(RLIMIT_NOFILE, &limit) == 0;
        process_files_raise();
        _exit(set && getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur == 128 ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static int missing_main(void *arg)
{
    Run *run = arg;
    Process *p = NULL;
    run->spawned = process_spawn(
        &(ProcessOptions){ .argv = (const char *[]){ "no-such-program", NULL }, .env = env }, &p);
    str_copy(run->out, sizeof run->out, str_of(diag_text()));
    run->waited = process_spawn(
        &(ProcessOptions){ .argv = (const char *[]){ "/etc/passwd", NULL }, .env = env }, &p);
    return 0;
}

static void test_missing_program(void **state)
{
    (void)state;
    Run run = { 0 };
    harness_run(missing_main, &run);
    assert_int_equal(run.spawned, -ENOENT);
    assert_non_null(strstr(run.out, "no-such-program"));
    assert_int_equal(run.waited, -EACCES);
}

/* A child is the parent of what its own children leave behind. */
static void test_orphans_stay_below(void **state)
{
    (void)state;
    Run run = { .script = "x=$( (sh -c 'until [ \"$(cut -d\" \" -f4 /proc/$$/stat)\" = $0 ]; do "
                          "sleep 0.01; done; echo mine' $$ &) ); echo $x" };
    harness_run(run_main, &run);
    assert_string_equal(run.out, "mine\n");
}

/* What leaves its group is left when the child ends, and is found. */
static void test_strays(void **state)
{
    (void)state;
    Run run = { .script = "x=$( (setsid sh -c 'echo $$; exec sleep 1000 > /dev/null 2>&1' &) ); "
                          "echo $x" };
    process_adopt();
    int mine = fork();
    if (mine == 0) pause();
    assert_false(process_has_strays());
    harness_run(run_main, &run);
    int pid = (int)strtol(run.out, NULL, 10);
    assert_true(pid > 1);
    assert_true(process_is_stray(pid));
    assert_true(process_has_strays());
    assert_false(process_is_stray(mine));
    assert_false(process_is_stray(getppid()));
    process_stray_reap(pid); /* it lives */
    assert_true(process_is_stray(pid));
    kill(pid, SIGKILL);
    kill(mine, SIGKILL);
    while (process_is_stray(pid)) process_stray_reap(pid);
    assert_int_equal(kill(pid, 0), -1);
    assert_false(process_has_strays());
    process_stray_reap(mine);
    assert_int_equal(waitpid(mine, NULL, 0), mine);
}

static int limits_main(void *arg)
{
    Run *run = arg;
    CLEANUP(process_freep) Process *p = NULL;
    run->spawned = process_spawn(
        &(ProcessOptions){
            .argv = (const char *[]){ "sh", "-c", "ulimit -n; ulimit -f; ulimit -t", NULL },
            .env = env,
            .files_max = 77,
            .file_bytes_max = 512 * 10,
            .cpu_seconds_max = 9 },
        &p);
    if (run->spawned < 0) return 0;
    read_all_wait(process_stdout(p), run->out, sizeof run->out);
    run->waited = process_exit_wait(p, deadline_after(5000), &run->exit);
    return 0;
}

static int group_main(void *arg)
{
    Run *run = arg;
    CLEANUP(process_freep) Process *p = NULL;
    run->spawned = process_spawn(
        &(ProcessOptions){ .argv = (const char *[]){ "sh", "-c", run->script, NULL },
                           .env = env,
                           .cgroup = run->group },
        &p);
    if (run->spawned < 0) return 0;
    read_all_wait(process_stdout(p), run->out, sizeof run->out);
    run->waited = process_exit_wait(p, deadline_after(5000), &run->exit);
    return 0;
}

static void test_begins_in_a_cgroup(void **state)
{
    char name[64], base[CGROUP_BASE_MAX], leaf[CGROUP_PATH_MAX];
    int lock = -1;
    (void)state;
    snprintf(name, sizeof name, CGROUP_PREFIX "test-%d", (int)getpid());
    if (cgroup_place(name, base) < 0 || cgroup_open(base, &lock) < 0) skip();
    snprintf(leaf, sizeof leaf, "%s/leaf", base);
    assert_int_equal(cgroup_make(leaf, 0), 0);
    Run run = { .script = "grep ^0:: /proc/self/cgroup", .group = leaf };
    harness_run(group_main, &run);
    assert_int_equal(cgroup_end(base), 0);
    close(lock);
    assert_non_null(strstr(run.out, name));
    assert_non_null(strstr(run.out, "/leaf\n"));
}

/* One that is not there keeps no program from being started. */
static void test_cgroup_is_gone(void **state)
{
    (void)state;
    Run run = { .script = "echo lives", .group = "/no/such/group" };
    harness_run(group_main, &run);
    assert_string_equal(run.out, "lives\n");
    run = (Run){ .script = "echo lives", .group = "/tmp" };
    harness_run(group_main, &run);
    assert_string_equal(run.out, "lives\n");
}

static void test_limits(void **state)
{
    (void)state;
    Run run = { 0 };
    harness_run(limits_main, &run);
    assert_string_equal(run.out, "77\n10\n9\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_io_and_exit_code),
        cmocka_unit_test(test_group_is_killed_whole),
        cmocka_unit_test(test_newborn_is_signalled),
        cmocka_unit_test(test_newborn_has_left_the_group),
        cmocka_unit_test(test_leftovers_die_with_the_child),
        cmocka_unit_test(test_only_three_descriptors),
        cmocka_unit_test(test_hidden_from_its_children),
        cmocka_unit_test(test_closed_stdio_is_filled),
        cmocka_unit_test(test_descriptors_up_to_the_hard_limit),
        cmocka_unit_test(test_missing_program),
        cmocka_unit_test(test_orphans_stay_below),
        cmocka_unit_test(test_strays),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_begins_in_a_cgroup),
        cmocka_unit_test(test_cgroup_is_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
