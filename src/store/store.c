#include "store/store.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/log.h"
#include "store/db_engine.h"
#include "store/migrations.h"
#include "sys/clock.h"
#include "sys/fiber.h"

#define LOCK_FILE "gantry.lock"
#define BATCH_JOBS_DEFAULT 512
#define COMMIT_SIBLINGS 3 /* jobs in a batch that tell that more are on their way */
#define COMMIT_DELAY_US 2000
#define COMMIT_QUICK_US 600 /* where a commit takes less, half of what it takes */
#define COMMIT_PATIENCE 8   /* smaller batches in a row after which none waits any more */
#define WAITING_JOBS_DEFAULT 65536
#define PATH_BYTES_MAX 4096

/* One job; lives on the stack of its caller, who is parked until it is done. */
typedef struct Job Job;
struct Job {
    Job *next;
    StoreFn fn;
    const StoreMany *many; /* or NULL; fn is its one */
    bool has_run;          /* with others of its kind */
    int64_t due_us;        /* until when it may wait for others; 0: it is in a hurry */
    void (*told)(void *arg, int result); /* or NULL: its done */
    void *arg;
    int result;
    Diag *diag; /* the caller's, lent */
    Loop *loop; /* NULL: the caller is a plain thread, and waits on done */
    LoopMsg msg;
    Op op;
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool is_done; /* guarded by lock */
};

/* Jobs on their way to one thread. Any thread puts, one takes. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t some;
    Job *head, **tail;
    size_t n, max;
    size_t wanted;     /* by the thread before it wakes up */
    size_t usual;      /* jobs in a batch of late: half way up at once, a quarter down */
    unsigned patience; /* batches that may still wait to become as large */
    int64_t due_us;    /* the first of those that wait; 0: one is in a hurry */
    int64_t commit_us; /* half of the commits of late took longer */
    bool closing;
} JobQueue;

struct Store {
    char *path;
    int lock_fd;
    size_t batch_jobs_max;
    void **args; /* of jobs that run together: batch_jobs_max, the writer thread's */
    Db *writer;  /* the writer thread's while it runs */
    Db *reader;  /* the reader thread's while it runs */
    JobQueue writes, reads;
    pthread_t writer_thread, reader_thread;
    bool threads_run;

    int64_t reserve_bytes, room_at_ms; /* when to look again: the writer thread's */
    _Atomic int64_t room_bytes;

    _Atomic uint64_t commits, jobs, jobs_failed, reads_done;
    _Atomic uint64_t refused_full, disk_full, batch_jobs_peak;
    _Atomic int64_t commit_us_total;
};

/* --- the queue of jobs ------------------------------------------------------------------------ */

static void jobs_init(JobQueue *q, size_t max)
{
    pthread_condattr_t attr;
    *q = (JobQueue){ .max = max, .wanted = 1 };
    q->tail = &q->head;
    pthread_mutex_init(&q->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&q->some, &attr);
    pthread_condattr_destroy(&attr);
}

static void jobs_deinit(JobQueue *q)
{
    assert(q->n == 0);
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->some);
}

/* False when the queue is full. Signals only when the thread may be asleep, and without the lock,
 * on which it would fall asleep again. */
static bool jobs_put(JobQueue *q, Job *job)
{
    pthread_mutex_lock(&q->lock);
    assert(!q->closing);
    bool fits = q->n < q->max, wakes = false;
    if (fits) {
        job->next = NULL;
        *q->tail = job;
        q->tail = &job->next;
        int64_t due_us = q->n == 0 ? job->due_us : MIN(q->due_us, job->due_us);
        bool sooner = q->n > 0 && due_us < q->due_us;
        q->due_us = due_us;
        wakes = ++q->n == q->wanted || sooner;
    }
    pthread_mutex_unlock(&q->lock);
    if (wakes) pthread_cond_signal(&q->some);
    return fits;
}

/* False when it is past. */
static bool jobs_wait_until(JobQueue *q, int64_t until_us)
{
    struct timespec until = { .tv_sec = until_us / 1000000, .tv_nsec = until_us % 1000000 * 1000 };
    return pthread_cond_timedwait(&q->some, &q->lock, &until) == 0;
}

static int64_t jobs_delay_us(const JobQueue *q)
{
    return q->commit_us < COMMIT_QUICK_US ? q->commit_us / 2 : COMMIT_DELAY_US;
}

/* Under load a little patience makes the next batch larger, and a commit costs the same for few and
 * for many (commit_delay and commit_siblings of PostgreSQL): where some came at a time of late, the
 * first waits for as many as usual. Calls that were answered together come back together, the first
 * of them alone: what came at the last time only says little. Where the disk is quick that is not
 * worth as much as to commit some while others are answered and come back. While all that wait have
 * more time than that, any number of others is waited for. */
static void jobs_linger(JobQueue *q, size_t max)
{
    if (q->patience == 0) return;
    int64_t delayed_us = clock_mono_us() + jobs_delay_us(q);
    for (bool more = true; more && !q->closing;) {
        bool late = q->due_us > delayed_us;
        q->wanted = late ? max : q->usual;
        if (q->n >= q->wanted) break;
        more = jobs_wait_until(q, late ? q->due_us : delayed_us);
    }
    q->wanted = 1;
}

/* A batch of n is taken. */
static void jobs_note_batch(JobQueue *q, size_t n)
{
    if (n >= COMMIT_SIBLINGS) q->patience = COMMIT_PATIENCE;
    else if (q->patience > 0) q->patience--;
    if (n > q->usual) q->usual += (n - q->usual + 1) / 2;
    else q->usual -= (q->usual - n + 3) / 4;
}

/* By steps, so that one that took very long says no more than that it did. */
static void jobs_note_commit(JobQueue *q, int64_t took_us)
{
    int64_t step_us = q->commit_us / 16 + 1;
    q->commit_us += took_us > q->commit_us ? step_us : -step_us;
}

/* The longest waiting jobs, at most max; waits for one, and then for others if some are on their
 * way. NULL: the queue is closed and empty. */
static Job *jobs_take(JobQueue *q, size_t max, size_t *ret_n)
{
    pthread_mutex_lock(&q->lock);
    while (q->n == 0 && !q->closing) pthread_cond_wait(&q->some, &q->lock);
    jobs_linger(q, max);
    Job *first = q->head, **end = &q->head;
    size_t n = MIN(q->n, max);
    jobs_note_batch(q, n);
    for (size_t i = 0; i < n; i++) end = &(*end)->next;
    q->head = *end;
    q->n -= n;
    q->due_us = 0; /* of those that are left nothing is known */
    if (q->n == 0) q->tail = &q->head;
    else if (n > 0) *end = NULL;
    pthread_mutex_unlock(&q->lock);
    *ret_n = n;
    return n > 0 ? first : NULL;
}

static void jobs_close(JobQueue *q)
{
    pthread_mutex_lock(&q->lock);
    q->closing = true;
    pthread_cond_signal(&q->some);
    pthread_mutex_unlock(&q->lock);
}

/* --- running a batch -------------------------------------------------------------------------- */

/* Gives the job back; it may be gone when this returns. */
static void job_acknowledge(Job *job)
{
    if (job->loop) {
        loop_post(job->loop, &job->msg);
        return;
    }
    pthread_mutex_lock(&job->lock);
    job->is_done = true;
    pthread_cond_signal(&job->done);
    pthread_mutex_unlock(&job->lock);
}

static int job_run(Db *db, Job *job)
{
    Diag *before = diag_switch(job->diag);
    int r = job->fn(db, job->arg);
    db_reset_open(db);
    diag_switch(before);
    return r;
}

/* What was promised may not be on the disk, and asking again would be told that all is well
 * (https://wiki.postgresql.org/wiki/Fsync_Errors): the truth is found by starting anew. */
static NO_RETURN void disk_broken(const Db *db, int code)
{
    const char *text = db_failure_text(db);
    if (!text[0]) text = diag_text_or(code);
    LOG_ERROR("database failed, stopping", LOG_CSTR("detail", text));
    DIE("the database cannot be written: %s", text);
}

/* Runs one of several jobs; its changes stay only if it returns 0. */
static int job_run_saved(Db *db, Job *job)
{
    int r = db_savepoint(db);
    if (r != 0) return r;
    job->result = job_run(db, job);
    if (db_failure(db) != 0) return db_failure(db);
    return job->result == 0 ? db_savepoint_keep(db) : db_savepoint_undo(db);
}

/* Runs the job and those of its kind behind it together; those of which nothing stays have not
 * run, and are of no kind any more. Returns as job_run_saved. */
static int jobs_run_together(Store *store, Job *first)
{
    Db *db = store->writer;
    Diag scratch = { 0 }, *before = diag_switch(&scratch);
    const StoreMany *many = first->many;
    size_t n = 0;
    for (Job *job = first; job; job = job->next)
        if (job->many == many) store->args[n++] = job->arg;
    int r = db_savepoint(db), result = r == 0 ? many->all(db, store->args, n) : r;
    db_reset_open(db);
    diag_switch(before);
    if (r == 0) r = db_failure(db);
    if (r == 0) r = result == 0 ? db_savepoint_keep(db) : db_savepoint_undo(db);
    if (r != 0) return r;
    for (Job *job = first; job; job = job->next) {
        if (job->many != many) continue;
        job->has_run = result == 0;
        if (result != 0) job->many = NULL; /* by itself, then */
    }
    return 0;
}

/* One of several, or of a kind that is run together. */
static int job_run_in_batch(Store *store, Job *job)
{
    if (job->has_run) return 0;
    int r = job->many ? jobs_run_together(store, job) : 0;
    return r != 0 || job->has_run ? r : job_run_saved(store->writer, job);
}

static bool all_of_a_kind(const Job *batch)
{
    for (const Job *job = batch; job; job = job->next)
        if (!job->many || job->many != batch->many) return false;
    return true;
}

/* Runs a batch of one kind without a savepoint, which would copy every page that it changes: there
 * is nothing else in the transaction that an undoing could spoil. Where one is needed the batch
 * begins anew, without a kind. Returns as batch_transact. */
static int jobs_run_at_once(Store *store, Job *batch)
{
    Db *db = store->writer;
    Diag scratch = { 0 }, *before = diag_switch(&scratch);
    size_t n = 0;
    for (Job *job = batch; job; job = job->next) store->args[n++] = job->arg;
    int result = batch->many->all(db, store->args, n);
    db_reset_open(db);
    diag_switch(before);
    if (db_failure(db) != 0) return db_failure(db);
    for (Job *job = batch; job; job = job->next) {
        job->has_run = result == 0;
        if (result != 0) job->many = NULL;
    }
    if (result == 0) return 0;
    db_rollback(db);
    return db_begin(db);
}

static int batch_commit(Store *store, Job *batch, size_t n)
{
    const StoreMany *many = n == 1 ? batch->many : NULL;
    if (many && many->meanwhile) return db_commit_while(store->writer, many->meanwhile, batch->arg);
    return db_commit(store->writer);
}

/* Runs the jobs in one transaction and leaves their results in them. Returns 0 when those stand, or
 * why all of it was undone. */
static int batch_transact(Store *store, Job *batch, size_t n)
{
    Db *db = store->writer;
    int r = db_begin(db);
    if (r != 0) return r;
    if (all_of_a_kind(batch)) r = jobs_run_at_once(store, batch);
    bool alone = r == 0 && n == 1 && !batch->many;
    if (alone) {
        batch->result = job_run(db, batch);
        r = db_failure(db);
    }
    for (Job *job = alone ? NULL : batch; job && r == 0; job = job->next)
        r = job_run_in_batch(store, job);
    if (r != 0 || (alone && batch->result != 0)) {
        db_rollback(db);
        return r;
    }
    int64_t began_us = clock_mono_us();
    r = batch_commit(store, batch, n);
    int64_t took_us = clock_mono_us() - began_us;
    atomic_fetch_add(&store->commit_us_total, took_us);
    if (db_wrote(db)) jobs_note_commit(&store->writes, took_us);
    if (r == 0) atomic_fetch_add(&store->commits, 1);
    return r;
}

/* What one job saw of another is undone with it: every answer of the batch is void. */
static void batch_fail(Job *batch, int code)
{
    for (Job *job = batch; job; job = job->next) {
        job->result = code;
        Diag *before = diag_switch(job->diag);
        diag_set(code, code == -ENOSPC ? "the disk is full" : "the database is out of memory");
        diag_switch(before);
    }
}

static void batch_run(Store *store, Job *batch, size_t n)
{
    int r = batch_transact(store, batch, n);
    if (r != 0 && r != -ENOSPC && r != -ENOMEM) disk_broken(store->writer, r);
    if (r != 0) batch_fail(batch, r);
    if (r == -ENOSPC) atomic_fetch_add(&store->disk_full, 1);
    atomic_fetch_add(&store->jobs, n);
    if (n > atomic_load(&store->batch_jobs_peak)) atomic_store(&store->batch_jobs_peak, n);
    for (Job *job = batch; job; job = job->next)
        if (job->told) job->told(job->arg, job->result);
    for (Job *job = batch, *next; job; job = next) {
        next = job->next;
        if (job->result != 0) atomic_fetch_add(&store->jobs_failed, 1);
        job_acknowledge(job);
    }
}

#define ROOM_EVERY_MS 100

static int64_t disk_free(const Store *store)
{
    struct statvfs fs;
    if (statvfs(store->path, &fs) != 0) return INT64_MAX;
    return (int64_t)MIN((uint64_t)fs.f_bavail * fs.f_frsize, (uint64_t)INT64_MAX / 2);
}

/* Between batches. That the room is not known is no reason to refuse anything. */
static void room_look(Store *store)
{
    int64_t growth = 0, unused = 0, now_ms = clock_mono_ms();
    if (store->reserve_bytes == 0 || now_ms < store->room_at_ms) return;
    store->room_at_ms = now_ms + ROOM_EVERY_MS;
    if (db_room(store->writer, &growth, &unused) != 0) return;
    int64_t room = MIN(growth, disk_free(store)), was = atomic_load(&store->room_bytes);
    room += MIN(unused, INT64_MAX - room);
    bool low = room < store->reserve_bytes, was_low = was < store->reserve_bytes;
    atomic_store(&store->room_bytes, room);
    if (low && !was_low)
        LOG_WARN("disk is nearly full: no new tasks", LOG_INT("bytesLeft", room),
                 LOG_INT("reserveBytes", store->reserve_bytes));
    if (!low && was_low) LOG_INFO("disk has room again", LOG_INT("bytesLeft", room));
}

static void *writer_main(void *arg)
{
    Store *store = arg;
    size_t n;
    Job *batch;
    while ((batch = jobs_take(&store->writes, store->batch_jobs_max, &n)) != NULL) {
        batch_run(store, batch, n);
        int r = db_checkpoint_if_due(store->writer);
        if (r != 0 && r != -ENOSPC && r != -EBUSY) disk_broken(store->writer, r);
        room_look(store);
    }
    return NULL;
}

/* A transaction of its own for each job, so that it sees one state of the database, and the latest.
 */
static int read_transact(Db *db, Job *job)
{
    Diag *before = diag_switch(job->diag);
    int r = db_begin(db);
    diag_switch(before);
    if (r != 0) return r;
    r = job_run(db, job);
    db_rollback(db);
    return r;
}

static void *reader_main(void *arg)
{
    Store *store = arg;
    size_t n;
    Job *job;
    while ((job = jobs_take(&store->reads, 1, &n)) != NULL) {
        job->result = read_transact(store->reader, job);
        atomic_fetch_add(&store->reads_done, 1);
        job_acknowledge(job);
    }
    return NULL;
}

/* --- calling ---------------------------------------------------------------------------------- */

static void job_arrived(LoopMsg *msg)
{
    op_done(&CONTAINER_OF(msg, Job, msg)->op, 0);
}

static int refuse(Store *store)
{
    atomic_fetch_add(&store->refused_full, 1);
    return diag_set(-EAGAIN, "the store is overloaded, try again");
}

static int call_wait(Store *store, JobQueue *q, StoreFn fn, const StoreMany *many, void *arg,
                     int64_t slack_us)
{
    Diag *own = diag_switch(NULL);
    diag_switch(own);
    Job job = { .fn = fn, .many = many, .arg = arg, .diag = own, .loop = loop_here() };
    job.told = many ? many->done : NULL;
    job.msg.run = job_arrived;
    if (slack_us > 0) job.due_us = clock_mono_us() + slack_us;
    op_init(&job.op, NULL);
    if (!jobs_put(q, &job)) return refuse(store);
    (void)op_wait(&job.op, DEADLINE_NONE);
    return job.result;
}

static int call_blocking(Store *store, JobQueue *q, StoreFn fn, void *arg)
{
    assert(!loop_here_or_null());
    Diag diag = { 0 };
    Job job = { .fn = fn, .arg = arg, .diag = &diag };
    pthread_mutex_init(&job.lock, NULL);
    pthread_cond_init(&job.done, NULL);
    bool fits = jobs_put(q, &job);
    pthread_mutex_lock(&job.lock);
    while (fits && !job.is_done) pthread_cond_wait(&job.done, &job.lock);
    pthread_mutex_unlock(&job.lock);
    pthread_mutex_destroy(&job.lock);
    pthread_cond_destroy(&job.done);
    if (!fits) return refuse(store);
    if (diag.text[0]) diag_set(job.result, "%s", diag.text);
    return job.result;
}

int store_call_wait(Store *store, StoreFn fn, void *arg)
{
    return call_wait(store, &store->writes, fn, NULL, arg, 0);
}

int store_many_wait(Store *store, const StoreMany *many, void *arg)
{
    return call_wait(store, &store->writes, many->one, many, arg, 0);
}

int store_many_late_wait(Store *store, const StoreMany *many, void *arg, int64_t slack_us)
{
    assert(slack_us >= 0);
    return call_wait(store, &store->writes, many->one, many, arg, slack_us);
}

int store_read_wait(Store *store, StoreFn fn, void *arg)
{
    return call_wait(store, &store->reads, fn, NULL, arg, 0);
}

int store_call(Store *store, StoreFn fn, void *arg)
{
    return call_blocking(store, &store->writes, fn, arg);
}

int store_read(Store *store, StoreFn fn, void *arg)
{
    return call_blocking(store, &store->reads, fn, arg);
}

/* --- opening and closing ---------------------------------------------------------------------- */

/* Makes the directory's entries durable: a new file is lost in a power cut without this. */
static int sync_dir(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = fd < 0 || fsync(fd) != 0 ? -errno : 0;
    if (fd >= 0) close(fd);
    return r == 0 ? 0 : diag_set(r, "cannot sync the directory %s: %s", dir, strerror(-r));
}

/* That of a directory itself, in its parent. Who may not read the parent did not make it there:
 * then it was there before. */
static int sync_parent(const char *dir)
{
    char path[PATH_BYTES_MAX + 4];
    if (snprintf(path, sizeof path, "%s/..", dir) >= (int)sizeof path) return -ENAMETOOLONG;
    int r = sync_dir(path);
    return r == -EACCES ? 0 : r;
}

/* Creates dir and the directories above it. */
static int make_dirs(const char *dir)
{
    char path[PATH_BYTES_MAX];
    if (!str_copy(path, sizeof path, str_of(dir)))
        return diag_set(-ENAMETOOLONG, "%s: too long", dir);
    for (char *p = path + 1; *p; p++) {
        if (*p != '/') continue;
        *p = '\0';
        bool made = mkdir(path, 0755) == 0;
        if (!made && errno != EEXIST) goto fail;
        int r = made ? sync_parent(path) : 0;
        if (r < 0) return r;
        *p = '/';
    }
    if (mkdir(path, 0700) == 0 || errno == EEXIST) return 0;
fail:
    return diag_set(-errno, "cannot make the directory %s: %s", path, strerror(errno));
}

static int lock_refused(const char *path, int fd)
{
    char text[32] = "";
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    Str pid = str_trim(str_make(text, n > 0 ? (size_t)n : 0));
    return diag_set(-EBUSY, "%s is held by process %.*s: stop it, or choose another data directory",
                    path, STR_ARG(pid));
}

#define LOCK_WAIT_MS 1000
#define LOCK_LOOK_MS 10

/* What the owner was just starting when it was killed has its lock until it runs as a program of
 * its own, which closes it: a moment, and longer on a machine under load. */
static int lock_try(const char *path, int fd)
{
    const struct timespec pause = { .tv_nsec = LOCK_LOOK_MS * 1000000L };
    for (int waited_ms = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; waited_ms += LOCK_LOOK_MS) {
        if (errno != EWOULDBLOCK) return -errno;
        if (waited_ms >= LOCK_WAIT_MS) return lock_refused(path, fd);
        nanosleep(&pause, NULL);
    }
    return 0;
}

/* Keeps a second process away from the database; released by the kernel when this one ends. */
static int lock_take(const char *dir, int *ret_fd)
{
    char path[PATH_BYTES_MAX], pid[32];
    int n = snprintf(path, sizeof path, "%s/" LOCK_FILE, dir);
    if (n < 0 || (size_t)n >= sizeof path) return diag_set(-ENAMETOOLONG, "%s: too long", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return diag_set(-errno, "cannot open %s: %s", path, strerror(errno));
    int r = lock_try(path, fd);
    size_t pid_n = (size_t)snprintf(pid, sizeof pid, "%d\n", (int)getpid());
    if (r == 0 && (ftruncate(fd, 0) != 0 || pwrite(fd, pid, pid_n, 0) != (ssize_t)pid_n))
        r = -errno;
    if (r != 0) {
        close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

static int open_files(Store *store, const StoreOptions *options)
{
    int r = make_dirs(store->path);
    if (r == 0) r = lock_take(store->path, &store->lock_fd);
    if (r == 0)
        r = db_open_writer(store->path, options->pages_max, options->wal_pages, &store->writer);
    if (r == 0) r = migrations_run(store->writer);
    if (r == 0) r = sync_dir(store->path);
    if (r == 0) r = sync_parent(store->path);
    if (r == 0) r = db_open_reader(store->path, &store->reader);
    return r;
}

static int start_threads(Store *store)
{
    int r = pthread_create(&store->writer_thread, NULL, writer_main, store);
    if (r != 0) return diag_set(-r, "cannot start a thread: %s", strerror(r));
    r = pthread_create(&store->reader_thread, NULL, reader_main, store);
    if (r != 0) DIE("cannot start a thread: %s", strerror(r));
    pthread_setname_np(store->writer_thread, "store-write");
    pthread_setname_np(store->reader_thread, "store-read");
    store->threads_run = true;
    return 0;
}

int store_open(const StoreOptions *options, Store **ret)
{
    assert(options->path && options->path[0]);
    CLEANUP(store_closep) Store *store = xcalloc(1, sizeof *store);
    store->path = xstrdup(options->path);
    store->lock_fd = -1;
    store->batch_jobs_max = options->batch_jobs_max ? options->batch_jobs_max : BATCH_JOBS_DEFAULT;
    store->args = xcalloc(store->batch_jobs_max, sizeof *store->args);
    size_t waiting = options->waiting_jobs_max ? options->waiting_jobs_max : WAITING_JOBS_DEFAULT;
    jobs_init(&store->writes, waiting);
    jobs_init(&store->reads, waiting);
    store->reserve_bytes = options->reserve_bytes;
    store->room_bytes = INT64_MAX;
    int r = open_files(store, options);
    if (r == 0) room_look(store);
    if (r == 0) r = start_threads(store);
    if (r != 0) return r;
    *ret = TAKE(store);
    return 0;
}

void store_close(Store *store)
{
    if (!store) return;
    if (store->threads_run) {
        jobs_close(&store->reads);
        jobs_close(&store->writes);
        pthread_join(store->reader_thread, NULL);
        pthread_join(store->writer_thread, NULL);
    }
    db_close(store->reader);
    db_close(store->writer); /* last: it checkpoints */
    jobs_deinit(&store->reads);
    jobs_deinit(&store->writes);
    if (store->lock_fd >= 0) close(store->lock_fd);
    free(store->path);
    free(store->args);
    free(store);
}

bool store_room_low(const Store *store)
{
    return store->reserve_bytes > 0 && atomic_load(&store->room_bytes) < store->reserve_bytes;
}

const char *store_path(const Store *store)
{
    return store->path;
}

void store_stats(const Store *store, StoreStats *ret)
{
    *ret = (StoreStats){
        .commits = atomic_load(&store->commits),
        .jobs = atomic_load(&store->jobs),
        .jobs_failed = atomic_load(&store->jobs_failed),
        .reads = atomic_load(&store->reads_done),
        .refused_full = atomic_load(&store->refused_full),
        .disk_full = atomic_load(&store->disk_full),
        .room_bytes = atomic_load(&store->room_bytes),
        .batch_jobs_peak = atomic_load(&store->batch_jobs_peak),
        .commit_us_total = atomic_load(&store->commit_us_total),
    };
}
