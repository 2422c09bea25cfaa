#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "base/diag.h"
#include "sys/cgroup.h"
#include "temp_dir.h"

/* --- where ------------------------------------------------------------------------------------ */

#define HYBRID                                                            \
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n" \
    "37 31 0:34 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n" \
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
#define UNIFIED "29 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
#define PART "29 22 0:26 /user.slice/a /mnt/a rw shared:4 - cgroup2 cgroup2 rw\n"

static void test_find(void **state)
{
    static const struct {
        const char *mounts, *groups, *want; /* NULL: nothing */
    } cases[] = {
        { UNIFIED, "0::/system.slice/gantry.service\n",
          "/sys/fs/cgroup/system.slice/gantry.service" },
        { HYBRID, "12:pids:/x\n1:name=systemd:/y\n0::/z\n", "/sys/fs/cgroup/unified/z" },
        { HYBRID, "0::/\n", "/sys/fs/cgroup/unified" },
        { HYBRID, "0::/z", "/sys/fs/cgroup/unified/z" },
        { PART, "0::/user.slice/a\n", "/mnt/a" },
        { PART, "0::/user.slice/a/b\n", "/mnt/a/b" },
        { PART, "0::/user.slice/ab\n", NULL },
        { PART "1 2 0:3 / /mnt/b rw - cgroup2 none rw\n", "0::/c\n", "/mnt/b/c" },
        { "1 2 0:3 / /mnt/a\\040b rw - cgroup2 none rw\n", "0::/c\n", NULL },
        { UNIFIED, "0::/../other\n", NULL }, /* outside of this namespace */
        { UNIFIED, "1:cpu:/a\n", NULL },
        { UNIFIED, "", NULL },
        { "", "0::/\n", NULL },
        { "- cgroup2 ", "0::/\n", NULL },
        { "1 2 - cgroup2 cgroup2 rw", "0::/\n", NULL },
    };
    char path[CGROUP_PATH_MAX];
    (void)state;
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        int r = cgroup_find(str_of(cases[i].mounts), str_of(cases[i].groups), path);
        assert_int_equal(r, cases[i].want ? 0 : -ENOENT);
        if (r == 0) assert_string_equal(path, cases[i].want);
    }
}

static void test_find_too_long(void **state)
{
    char own[CGROUP_PATH_MAX + 8] = "0::/", path[CGROUP_PATH_MAX];
    (void)state;
    memset(own + 4, 'a', CGROUP_PATH_MAX - 4);
    assert_int_equal(cgroup_find(STR(UNIFIED), str_of(own), path), -ENAMETOOLONG);
}

/* --- what the kernel does, where it lets us --------------------------------------------------- */

typedef struct {
    char above[CGROUP_BASE_MAX]; /* where no other process opens any */
    char base[CGROUP_BASE_MAX + 16], path[CGROUP_BASE_MAX + 32];
    int lock;
    atomic_int *steps; /* shared with the programs */
} Place;

static int place_make(Place *place)
{
    char name[64];
    snprintf(name, sizeof name, "test-cgroup-%d", (int)getpid());
    int r = cgroup_place(name, place->above);
    if (r == 0) r = cgroup_make(place->above, 0);
    snprintf(place->base, sizeof place->base, "%s/" CGROUP_PREFIX "a", place->above);
    snprintf(place->path, sizeof place->path, "%s/leaf", place->base);
    return r == 0 ? cgroup_open(place->base, &place->lock) : r;
}

static int place_setup(void **state)
{
    static Place place;
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    int r = place_make(&place);
    if (r < 0) print_message("no cgroups can be made here: %s\n", diag_text_or(r));
    place.steps = mmap(NULL, sizeof *place.steps, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *state = r == 0 ? &place : NULL;
    return place.steps == MAP_FAILED;
}

static int place_teardown(void **state)
{
    Place *place = *state;
    while (waitpid(-1, NULL, WNOHANG) > 0) continue;
    if (!place) return 0;
    int r = cgroup_end(place->above);
    close(place->lock);
    munmap(place->steps, sizeof *place->steps);
    return r;
}

/* 0 in the child. */
static pid_t fork_in(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    pid_t pid = cgroup_fork(fd);
    if (pid == 0) return 0;
    close(fd);
    assert_true(pid > 0);
    return pid;
}

#define STEPS_MAX 20000

/* Each starts another in a session of its own and is gone; in the end by itself, if nobody ends it.
 */
NO_RETURN static void comet(const Place *place)
{
    atomic_int *steps = place->steps;
    time_t begun = time(NULL);
    close(place->lock); /* as a program's start does */
    for (;;) {
        pid_t pid = fork();
        if (pid > 0 || time(NULL) > begun + 10 || atomic_load(steps) > STEPS_MAX) _exit(0);
        if (pid == 0) setsid();
        usleep(200);
        atomic_fetch_add(steps, 1);
    }
}

static void steps_more(const Place *place)
{
    int seen = atomic_load(place->steps);
    while (atomic_load(place->steps) < seen + 3) usleep(1000);
}

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

static void test_comet_is_ended(void **state)
{
    Place *place = *state;
    if (!place) skip();
    assert_int_equal(cgroup_make(place->path, 0), 0);
    if (fork_in(place->path) == 0) comet(place);
    steps_more(place);
    assert_int_equal(cgroup_remove(place->path), -EBUSY);
    assert_int_equal(cgroup_end(place->path), 0);
    int seen = atomic_load(place->steps);
    assert_false(is_there(place->path));
    usleep(20000);
    assert_int_equal(atomic_load(place->steps), seen);
    assert_int_equal(cgroup_end(place->path), 0); /* there is none */
    assert_int_equal(cgroup_remove(place->path), 0);
}

static void test_empty_is_removed(void **state)
{
    Place *place = *state;
    if (!place) skip();
    assert_int_equal(cgroup_make(place->path, 0), 0);
    assert_int_equal(cgroup_make(place->path, 0), -EEXIST);
    pid_t pid = fork_in(place->path);
    if (pid == 0) _exit(7);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WEXITSTATUS(status), 7);
    int r;
    while ((r = cgroup_remove(place->path)) == -EBUSY) usleep(1000); /* it may lag behind */
    assert_int_equal(r, 0);
    assert_false(is_there(place->path));
}

/* Programs may make groups in their own. */
static void test_groups_below(void **state)
{
    Place *place = *state;
    char below[CGROUP_PATH_MAX + 8], deeper[CGROUP_PATH_MAX + 16];
    if (!place) skip();
    snprintf(below, sizeof below, "%s/b", place->path);
    snprintf(deeper, sizeof deeper, "%s/c", below);
    assert_int_equal(cgroup_make(place->path, 0), 0);
    assert_int_equal(cgroup_make(below, 0), 0);
    assert_int_equal(cgroup_make(deeper, 0), 0);
    if (fork_in(deeper) == 0) comet(place);
    steps_more(place);
    assert_int_equal(cgroup_end(place->path), 0);
    assert_false(is_there(place->path));
}

static void ended_by(const Place *place, const char *opened, int *ret_lock)
{
    int r = cgroup_open(opened, ret_lock);
    if (r < 0) print_message("%s\n", diag_text_or(r));
    assert_int_equal(r, 0);
    int seen = atomic_load(place->steps);
    assert_true(is_there(opened));
    assert_false(is_there(place->path));
    usleep(20000);
    assert_int_equal(atomic_load(place->steps), seen);
}

/* By another process with the same name, after this one was killed. */
static void test_what_was_left_is_ended(void **state)
{
    Place *place = *state;
    if (!place) skip();
    assert_int_equal(cgroup_make(place->path, 0), 0);
    if (fork_in(place->path) == 0) comet(place);
    steps_more(place);
    close(place->lock);
    ended_by(place, place->base, &place->lock);
}

/* By one with another name, but only then. */
static void test_what_another_left_is_ended(void **state)
{
    Place *place = *state;
    char other[CGROUP_PATH_MAX];
    int lock;
    if (!place) skip();
    snprintf(other, sizeof other, "%s/" CGROUP_PREFIX "b", place->above);
    assert_int_equal(cgroup_make(place->path, 0), 0);
    if (fork_in(place->path) == 0) comet(place);
    assert_int_equal(cgroup_open(other, &lock), 0);
    steps_more(place);
    close(lock);
    close(place->lock);
    place->lock = open("/dev/null", O_RDONLY | O_CLOEXEC);
    ended_by(place, other, &lock);
    assert_false(is_there(place->base));
    close(lock);
}

/* Such as systemd's group of a service of that name, which nobody locks. */
static void test_what_nobody_opened_stays(void **state)
{
    Place *place = *state;
    char service[CGROUP_PATH_MAX], other[CGROUP_PATH_MAX];
    int lock, status;
    if (!place) skip();
    snprintf(service, sizeof service, "%s/gantry.service", place->above);
    snprintf(other, sizeof other, "%s/" CGROUP_PREFIX "c", place->above);
    assert_int_equal(cgroup_make(service, 0), 0);
    pid_t pid = fork_in(service);
    if (pid == 0) pause();
    assert_int_equal(cgroup_open(other, &lock), 0);
    assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
    assert_true(is_there(service));
    assert_int_equal(cgroup_end(service), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(cgroup_end(other), 0);
    close(lock);
}

/* A process in the group below one that was delegated makes others beside its own. */
static void test_delegated(void **state)
{
    Place *place = *state;
    char own[CGROUP_PATH_MAX + 8], want[CGROUP_PATH_MAX + 8], got[CGROUP_BASE_MAX];
    int status;
    if (!place) skip();
    snprintf(own, sizeof own, "%s/main", place->path);
    snprintf(want, sizeof want, "%s/x", place->path);
    assert_int_equal(cgroup_make(place->path, 0), 0);
    assert_int_equal(cgroup_make(own, 0), 0);
    if (setxattr(place->path, "user.delegate", "1", 1, 0) != 0) skip();
    pid_t pid = fork_in(own);
    if (pid == 0) _exit(cgroup_place("x", got) == 0 && strcmp(got, want) == 0 ? 0 : 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(cgroup_end(place->path), 0);
}

/* --- bounds ----------------------------------------------------------------------------------- */

/* Not every system has the controller for this hierarchy, so on a directory like a group's. */
static void test_bound(void **state)
{
    TempDir dir;
    char path[300], text[32] = "";
    (void)state;
    temp_dir_init(&dir);
    assert_int_equal(cgroup_bound(dir.path, 4096), 0); /* no controller */
    snprintf(path, sizeof path, "%s/pids.max", dir.path);
    assert_false(is_there(path));
    FILE *file = fopen(path, "w+");
    assert_non_null(file);
    assert_int_equal(cgroup_bound(dir.path, 4096), 0);
    assert_non_null(fgets(text, sizeof text, file));
    assert_string_equal(text, "4096");
    fclose(file);
    temp_dir_deinit(&dir);
}

static void test_not_a_hierarchy(void **state)
{
    TempDir dir;
    char path[300];
    (void)state;
    temp_dir_init(&dir);
    snprintf(path, sizeof path, "%s/a/b", dir.path);
    assert_int_equal(cgroup_make(path, 0), -ENOENT);
    assert_int_equal(cgroup_end(path), 0);
    temp_dir_deinit(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_find_too_long),
        cmocka_unit_test_setup_teardown(test_comet_is_ended, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_empty_is_removed, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_groups_below, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_what_was_left_is_ended, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_what_another_left_is_ended, place_setup,
                                        place_teardown),
        cmocka_unit_test_setup_teardown(test_what_nobody_opened_stays, place_setup, place_teardown),
        cmocka_unit_test_setup_teardown(test_delegated, place_setup, place_teardown),
        cmocka_unit_test(test_bound),
        cmocka_unit_test(test_not_a_hierarchy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
