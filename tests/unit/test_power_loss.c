/* The power fails: whatever a disk may then hold, everything acknowledged is there, once, and every
 * sum is right. With less syncing (synchronous=NORMAL) acknowledgements are lost, which shows that
 * they could be.
 *
 *     test_power_loss [IMAGES [SEED]] */
#include "tests/unit/disk_world.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sys/entropy.h"

#define IMAGES_A_ROUND 10
#define ROUNDS_A_DISK 4 /* on what the round before left */
#define IMAGES_OF_NORMAL 40
#define IMAGES_OF_CREATION 20

static uint64_t seed;
static int64_t images_wanted = 100;

typedef struct {
    TempDir dir;
    DiskState base; /* what a round begins with */
    Random random;
    int64_t next;
    bool creating;      /* the database, in this round */
    size_t deployed_at; /* creating: when the first version was there */
    size_t images, bytes, acks, lost, damaged, kinds[IMAGE_N_];
} PowerLoss;

/* Written beforehand: a signal handler must not format. */
static char seed_text[64];

static void say_seed(int sig)
{
    if (write(STDERR_FILENO, seed_text, strlen(seed_text)) < 0) _exit(2);
    signal(sig, SIG_DFL);
}

/* The program's own: the database's directory is synced on the disk of the test. */
int fsync(int fd)
{
    struct stat st;
    if (!disk.log || fstat(fd, &st) != 0 || !S_ISDIR(st.st_mode))
        return (int)syscall(SYS_fsync, fd);
    pthread_mutex_lock(&disk.lock);
    disk_note((DiskEntry){ .what = DISK_DIR_SYNC }, NULL);
    pthread_mutex_unlock(&disk.lock);
    return 0;
}

/* A round of work, with a restart in the middle of some. */
static Told *work(PowerLoss *p)
{
    disk_insert(&p->base);
    Told *told = disk_shared_alloc(sizeof *told);
    memset(told, 0, sizeof *told);
    told->next = p->next;
    World w = { .told = told, .random = { random_next(&p->random) } };
    w.crowd = random_next(&p->random) % 3 == 0;
    w.turns = (int)random_range(&p->random, 1, w.crowd ? 3 : 12);
    w.wal_pages = random_range(&p->random, 10, 200);
    for (int64_t runs = random_range(&p->random, 1, 2); runs > 0; runs--) {
        assert_int_equal(world_open(&w, p->dir.path), 0);
        if (p->creating && !p->deployed_at) {
            deploy(&w.f, "support", VERSION_A);
            p->deployed_at = disk_position();
        }
        world_run(&w);
        world_close(&w);
    }
    check_none();
    p->next = told->next;
    return told;
}

/* The files as they were found, for who looks for the reason. */
static void keep(const PowerLoss *p, const DiskState *found, const char *why)
{
    static const char *const suffixes[DISK_NAMES] = { "", "-wal", "-journal" };
    for (int i = 0; i < DISK_NAMES; i++) {
        char path[512];
        if (found->names[i] < 0) continue;
        const DiskFile *file = &found->files[found->names[i]];
        snprintf(path, sizeof path, "%s-lost.db%s", p->dir.path, suffixes[i]);
        FILE *f = fopen(path, "w");
        if (!f || fwrite(file->bytes, 1, file->n, f) != file->n || fclose(f) != 0)
            DIE("cannot write %s", path);
    }
    fail_msg("image %zu of seed %" PRIu64 ": %s; it is kept as %s-lost.db", p->images, seed, why,
             p->dir.path);
}

static int has_version(Db *db, void *arg)
{
    (void)arg;
    DbStmt *s = db_stmt(db, "SELECT 1 FROM agent JOIN version");
    return db_step(s) == DB_E_ROW ? 0 : -ENOENT;
}

/* A database that was being made is there with what was acknowledged, or it is a new one. */
static const char *inspect_new(World *w, bool deployed, Inspection *in)
{
    int r = store_read(w->f.store, has_version, NULL);
    if (r == -ENOENT) {
        if (deployed) return in->lost = 1, "the first version is lost";
        deploy(&w->f, "support", VERSION_A);
    } else if (r != 0) {
        return "the store cannot be read";
    }
    return world_inspect(w, in);
}

/* Opens the image, and looks. */
static const char *inspect(PowerLoss *p, const DiskState *image, Inspection *in)
{
    Told *scratch = xcalloc(1, sizeof *scratch);
    World w = { .told = scratch, .random = { random_next(&p->random) } };
    scratch->next = p->next;
    disk_insert(image);
    const char *wrong = "it cannot be opened";
    if (world_open(&w, p->dir.path) == 0) {
        wrong = p->creating ? inspect_new(&w, in->cut >= p->deployed_at, in)
                            : world_inspect(&w, in);
        world_close(&w);
    }
    free(scratch);
    return wrong;
}

/* Of a database that is made: mostly within that. */
static size_t some_cut(PowerLoss *p, size_t end)
{
    if (p->creating && random_next(&p->random) % 4) end = p->deployed_at;
    return (size_t)random_range(&p->random, 0, (int64_t)end);
}

/* Images of what has just been done. The last is where the next round begins, if all is well. */
static void images(PowerLoss *p, const Told *told, size_t n, bool durable)
{
    DiskState *found = xcalloc(n, sizeof *found), base = p->base;
    Inspection *ins = xcalloc(n, sizeof *ins);
    size_t acks_n = told->acks_n; /* what is told lies where the next disk's log will */
    Ack *acks = xcalloc(acks_n + 1, sizeof *acks);
    memcpy(acks, told->acks, acks_n * sizeof *acks);
    for (size_t i = 0; i < n; i++) {
        ImageKind kind = (ImageKind)(random_next(&p->random) % IMAGE_N_);
        ins[i] = (Inspection){ .acks = acks, .n = acks_n, .cut = some_cut(p, disk.log->entries_n) };
        disk_image(&base, ins[i].cut, kind, &p->random, &found[i]);
        p->kinds[kind]++;
    }
    for (size_t i = 0; i < n; i++, p->images++) {
        const char *wrong = inspect(p, &found[i], &ins[i]);
        if (wrong && durable) keep(p, &found[i], wrong);
        p->lost += ins[i].lost > 0;
        p->damaged += wrong && !ins[i].lost;
        for (size_t j = 0; j < acks_n; j++) p->acks += acks[j].at <= ins[i].cut;
        if (i + 1 < n || !durable) disk_state_deinit(&found[i]);
    }
    if (durable) {
        disk_state_deinit(&p->base);
        disk_state_copy(&disk.now, &p->base);
        disk_state_deinit(&found[n - 1]);
    }
    free(found), free(ins), free(acks);
}

static void run_images(PowerLoss *p, size_t n, bool durable)
{
    *p = (PowerLoss){ .random = { seed } };
    temp_dir_init(&p->dir);
    disk.sync_less = !durable;
    for (int round = 0; p->images < n; round++) {
        if (round % ROUNDS_A_DISK == 0) {
            disk_state_deinit(&p->base);
            world_begin(p->dir.path, &p->base);
        }
        images(p, work(p), MIN(n - p->images, IMAGES_A_ROUND), durable);
    }
    disk.sync_less = false;
    disk_state_deinit(&p->base);
    temp_dir_deinit(&p->dir);
}

/* A new data directory for each round. */
static void test_creation(void **state)
{
    (void)state;
    PowerLoss p = { .random = { seed }, .creating = true };
    size_t n = MAX(IMAGES_OF_CREATION, (size_t)images_wanted / 10);
    while (p.images < n) {
        temp_dir_init(&p.dir);
        disk_state_init(&p.base);
        real_now = 1700000000000;
        mono_now = 5000;
        p.deployed_at = 0;
        images(&p, work(&p), MIN(n - p.images, IMAGES_A_ROUND), true);
        disk_state_deinit(&p.base);
        temp_dir_deinit(&p.dir);
    }
    print_message("%zu images of a database that is made: all can be opened, 0 lost\n", p.images);
    assert_int_equal(p.lost + p.damaged, 0);
}

static void test_nothing_is_lost(void **state)
{
    (void)state;
    PowerLoss p;
    run_images(&p, (size_t)images_wanted, true);
    print_message("%zu images (seed %" PRIu64 "), %zu acknowledgements in them: 0 lost\n", p.images,
                  seed, p.acks);
    assert_int_equal(p.lost + p.damaged, 0);
}

static void test_less_syncing_loses(void **state)
{
    (void)state;
    PowerLoss p;
    size_t n = MAX(IMAGES_OF_NORMAL, (size_t)images_wanted / 10);
    run_images(&p, n, false);
    print_message("synchronous=NORMAL: %zu of %zu images have lost what was acknowledged\n", p.lost,
                  p.images);
    assert_true(p.lost > 0);
}

int main(int argc, char **argv)
{
    int64_t given = 0;
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    seed = entropy_u64() >> 1;
    if (argc > 1 && str_to_i64(str_of(argv[1]), &images_wanted) != 0) return 2;
    if (argc > 2) {
        if (str_to_i64(str_of(argv[2]), &given) != 0) return 2;
        seed = (uint64_t)given;
    }
    (void)snprintf(seed_text, sizeof seed_text, "stopped with seed %" PRIu64 "\n", seed);
    signal(SIGABRT, say_seed);
    signal(SIGSEGV, say_seed);
    (void)setenv("TMPDIR", "/dev/shm", 0); /* for the lock alone: the database is in memory */
    disk_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_creation),
        cmocka_unit_test(test_nothing_is_lost),
        cmocka_unit_test(test_less_syncing_loses),
    };
    return cmocka_run_group_tests_name("power_loss", tests, NULL, NULL);
}
