/* The disk fails at the Nth call of a kind, once, for a while or from then on, while clients and
 * workers are at work: who is not served is told why, the process goes on or says why it cannot,
 * and whatever was acknowledged is there when it is started again; also when the machine fails too.
 *
 *     test_disk_faults [all | KIND NTH CALLS [SEED]]     all: at every call of each kind */
#include "tests/unit/disk_world.h"

#include <sys/wait.h>
#include <unistd.h>

#include "sys/entropy.h"

#define TURNS 4
#define SAMPLES 2 /* calls of a kind, unless all are tried */
#define FOR_A_WHILE 40
#define FOR_EVER SIZE_MAX
#define SAID_MAX 16384
#define REFUSED 3 /* exit status: it could not be opened, and said why */

static uint64_t seed;
static bool all;
static struct {
    DiskFault fault;
    size_t nth, calls;
} one; /* to be tried alone */

typedef struct {
    DiskFault fault;
    size_t nth, calls;
} Case;

typedef struct {
    TempDir dir;
    DiskState base;
    Random random;
    char said[SAID_MAX]; /* by the child, to stderr */
    size_t children, died, refused, images;
} Faults;

/* --- the child -------------------------------------------------------------------------------- */

static NO_RETURN void child(Faults *f, const Case *c, Told *told, uint64_t child_seed)
{
    World w = { .told = told, .random = { child_seed }, .turns = TURNS, .wal_pages = 60 };
    w.fails = c->fault != DISK_FAULT_NONE;
    disk.fault = c->fault;
    disk.fault_nth = c->nth;
    disk.fault_calls = c->calls;
    if (world_open(&w, f->dir.path) != 0) _exit(diag_text()[0] ? REFUSED : 10);
    world_run(&w);
    world_close(&w);
    if (atomic_load(&check_failures)) _exit(11);
    if (told->silent) _exit(12);
    _exit(told->strange ? 13 : 0);
}

static void listen_to(Faults *f, int fd)
{
    size_t n = 0;
    for (ssize_t got = 1; got > 0 && n<SAID_MAX - 1; n += got> 0 ? (size_t)got : 0)
        got = read(fd, f->said + n, SAID_MAX - 1 - n);
    f->said[n] = '\0';
    close(fd);
}

/* The exit status of a child that works on the disk, or minus the signal that ended it. */
static int work(Faults *f, const Case *c, Told **ret_told)
{
    int err[2], status = 0;
    disk_insert(&f->base);
    Told *told = *ret_told = disk_shared_alloc(sizeof *told);
    memset(told, 0, sizeof *told);
    uint64_t child_seed = random_next(&f->random);
    assert_int_equal(pipe(err), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(err[1], STDERR_FILENO);
        close(err[0]), close(err[1]);
        child(f, c, told, child_seed);
    }
    close(err[1]);
    listen_to(f, err[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    f->children++;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* --- afterwards ------------------------------------------------------------------------------- */

static NO_RETURN void report(const Faults *f, const Case *c, const char *why)
{
    print_error("%s\n%s %s %zu %zu %" PRIu64 "\n", f->said, why, disk_fault_names[c->fault], c->nth,
                c->calls, seed);
    fail();
    abort();
}

/* Opens what the disk may hold now with a sound one. */
static const char *inspect(Faults *f, const DiskState *image, Inspection *in, int64_t next)
{
    Told *scratch = xcalloc(1, sizeof *scratch);
    World w = { .told = scratch, .random = { random_next(&f->random) } };
    scratch->next = next;
    disk_insert(image);
    const char *wrong = "it cannot be opened";
    if (world_open(&w, f->dir.path) == 0) {
        wrong = world_inspect(&w, in);
        world_close(&w);
    }
    free(scratch);
    f->images++;
    return wrong;
}

/* What the process left, and what the machine might have left. */
static void look(Faults *f, const Case *c, const Told *told)
{
    const ImageKind kinds[] = { IMAGE_ALL,
                                (ImageKind)random_range(&f->random, IMAGE_NONE, IMAGE_GARBAGE) };
    DiskState images[ARRAY_N(kinds)];
    int64_t next = told->next;
    size_t n = told->acks_n, end = disk.log->entries_n;
    Ack *acks = xcalloc(n + 1, sizeof *acks);
    memcpy(acks, told->acks, n * sizeof *acks);
    for (size_t i = 0; i < ARRAY_N(kinds); i++)
        disk_image(&f->base, end, kinds[i], &f->random, &images[i]);
    for (size_t i = 0; i < ARRAY_N(kinds); i++) {
        Inspection in = { .acks = acks, .n = n, .cut = end };
        const char *wrong = inspect(f, &images[i], &in, next);
        if (wrong) report(f, c, wrong);
        disk_state_deinit(&images[i]);
    }
    free(acks);
}

/* It died of the disk, and said so. */
static bool said_why(const Faults *f)
{
    const char *at = strstr(f->said, "gantry: fatal: ");
    const char *text = at ? strstr(at, "database: ") : NULL;
    return text && strstr(text, "SQLite code");
}

static void try_case(Faults *f, const Case *c)
{
    Told *told;
    int status = work(f, c, &told);
    bool died = status == -SIGABRT && said_why(f);
    f->died += died;
    f->refused += status == REFUSED;
    if (status != 0 && status != REFUSED && !died) {
        char why[64];
        snprintf(why, sizeof why, "status %d:", status);
        report(f, c, why);
    }
    bool full = c->fault == DISK_FAULT_FULL || c->fault == DISK_FAULT_SHM;
    if (full && died) report(f, c, "a full disk ended it:");
    look(f, c, told);
}

/* --- the tests -------------------------------------------------------------------------------- */

static void try_kind(Faults *f, DiskFault fault, size_t calls_n)
{
    static const size_t hows[] = { 1, FOR_A_WHILE, FOR_EVER };
    size_t step = all ? 1 : MAX((size_t)1, calls_n / SAMPLES);
    for (size_t how = 0; how < ARRAY_N(hows); how++) {
        if (!all && hows[how] == FOR_A_WHILE && fault != DISK_FAULT_FULL) continue;
        size_t first = all ? 1 : 1 + random_next(&f->random) % step;
        for (size_t nth = first; nth <= calls_n; nth += step)
            try_case(f, &(Case){ .fault = fault, .nth = nth, .calls = hows[how] });
    }
}

static void test_calls_that_fail(void **state)
{
    (void)state;
    Faults f = { .random = { seed } };
    Told *told;
    size_t calls[DISK_FAULT_N_];
    temp_dir_init(&f.dir);
    world_begin(f.dir.path, &f.base);
    if (one.nth) {
        try_case(&f, &(Case){ one.fault, one.nth, one.calls });
    } else {
        assert_int_equal(work(&f, &(Case){ .fault = DISK_FAULT_NONE }, &told), 0);
        memcpy(calls, disk.log->calls, sizeof calls);
        for (int fault = DISK_FAULT_OPEN; fault < DISK_FAULT_N_; fault++)
            try_kind(&f, (DiskFault)fault, calls[fault]);
    }
    print_message("%zu processes with a failing disk (seed %" PRIu64 "): %zu said why and died, "
                  "%zu did not start; %zu disks looked at: 0 lost\n",
                  f.children, seed, f.died, f.refused, f.images);
    disk_state_deinit(&f.base);
    temp_dir_deinit(&f.dir);
}

/* Returns 0 or an exit status. */
static int arguments(int argc, char **argv)
{
    int64_t nth = 0, calls = 0, given = 0;
    if (argc == 2 && str_eq(str_of(argv[1]), STR("all"))) {
        all = true;
        return 0;
    }
    if (argc == 1) return 0;
    if (argc < 4 || str_to_i64(str_of(argv[2]), &nth) != 0) return 2;
    for (int i = 0; i < DISK_FAULT_N_; i++)
        if (str_eq(str_of(argv[1]), str_of(disk_fault_names[i]))) one.fault = (DiskFault)i;
    one.nth = (size_t)nth;
    one.calls = str_to_i64(str_of(argv[3]), &calls) == 0 ? (size_t)calls : FOR_EVER;
    if (argc > 4 && str_to_i64(str_of(argv[4]), &given) != 0) return 2;
    if (argc > 4) seed = (uint64_t)given;
    return 0;
}

int main(int argc, char **argv)
{
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    seed = entropy_u64() >> 1;
    if (arguments(argc, argv) != 0) return 2;
    (void)setenv("TMPDIR", "/dev/shm", 0); /* for the lock alone: the database is in memory */
    disk_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls_that_fail),
    };
    return cmocka_run_group_tests_name("disk_faults", tests, NULL, NULL);
}
