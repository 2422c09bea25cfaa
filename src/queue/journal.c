/* Recordings of a task: kept with its calls, read by its later attempts. */
#include <stdlib.h>

#include "base/diag.h"
#include "base/log.h"
#include "queue/queue_private.h"
#include "store/account_store.h"

#define FACTS_ARENA_MAX (64 * 1024)

int journal_keep(const Queue *queue, Db *db, const JournalOf *of, const JournalNew *rec,
                 JournalFill *fill, JournalLast *last, JournalKept *kept)
{
    JournalLimits limits = { .bytes_max = queue->options.journal_bytes_max,
                             .recordings_max = queue->options.journal_recordings_max };
    bool was_closed = fill->closed;
    int r = journal_add(db, of, rec, &limits, fill, last);
    kept->closed += fill->closed && !was_closed;
    if (r == JOURNAL_E_CLOSED) {
        kept->dropped++;
        return 0; /* the call itself must not fail for it */
    }
    if (r != 0) return r;
    kept->recordings++;
    kept->bytes += rec->answer.bytes.len + rec->request.rest.bytes.len;
    return 0;
}

void journal_apply(Queue *queue, Uuid task_id, const JournalKept *kept)
{
    char id[UUID_TEXT_MAX];
    if (kept->recordings + kept->dropped == 0) return;
    pthread_mutex_lock(&queue->lock);
    queue->stats.journal_recordings += kept->recordings;
    queue->stats.journal_bytes += kept->bytes;
    queue->stats.journal_dropped += kept->dropped;
    queue->stats.journal_closed += kept->closed;
    pthread_mutex_unlock(&queue->lock);
    if (kept->closed)
        LOG_WARN("journal of a task is full: its further calls are not recorded",
                 LOG_CSTR("task", uuid_text(task_id, id)),
                 LOG_INT("bytesMax", queue->options.journal_bytes_max),
                 LOG_INT("recordingsMax", queue->options.journal_recordings_max));
}

void journal_purged(Queue *queue, int64_t recordings)
{
    pthread_mutex_lock(&queue->lock);
    queue->stats.journal_purged += (uint64_t)recordings;
    pthread_mutex_unlock(&queue->lock);
}

/* --- tools' results --------------------------------------------------------------------------- */

typedef struct {
    Queue *queue;
    TaskRef task;
    const JournalNew *recordings;
    size_t n;
    JournalKept kept;
} AddJob;

static int add_job(Db *db, void *arg)
{
    AddJob *job = arg;
    TaskFacts facts;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, FACTS_ARENA_MAX);
    int r = task_facts(db, job->task.id, job->task.fence, &arena, &facts);
    if (r == -ENOENT || (r == 0 && !ref_is_of(job->task, facts.worker_id))) return task_stale();
    if (r != 0) return r;
    JournalOf of = { .task_seq = facts.seq,
                     .attempt = facts.attempt,
                     .version_id = facts.version_id };
    known_tasks_forget(job->queue->known, job->task.id); /* its journal moves on */
    for (size_t i = 0; i < job->n && r == 0; i++) {
        const JournalNew *recording = &job->recordings[i];
        r = journal_has(db, facts.seq, recording->call_id);
        if (r == -ENOENT)
            r = journal_keep(job->queue, db, &of, recording, &facts.journal, NULL, &job->kept);
    }
    return r == 0 ? journal_fill_write(db, facts.seq, &facts.journal) : r;
}

int queue_journal_add_wait(Queue *queue, TaskRef task, const JournalNew *recordings, size_t n)
{
    AddJob job = { .queue = queue, .task = task, .recordings = recordings, .n = n };
    int r = store_call_wait(queue->store, add_job, &job);
    if (r == QUEUE_E_STALE) queue_apply(queue, &(Effects){ .stale = 1 });
    if (r != 0) return r;
    journal_apply(queue, task.id, &job.kept);
    queue_task_changed(queue, task.id);
    return 0;
}

/* --- where recordings are --------------------------------------------------------------------- */

#define PLACES_TASKS_N 64
#define PLACES_BYTES_MAX ((size_t)1 << 20)

/* The rows of a task's recordings. To find one goes through all calls of the task, and an attempt
 * that is served what others were answered asks for one after the other. */
typedef struct {
    int64_t task_seq; /* 0: free */
    int64_t *rows;    /* as journal_places has them */
    size_t n;
    Arena arena;
} Places;

struct JournalPlaces {
    Places list[PLACES_TASKS_N]; /* by the task: the newer displaces the older */
};

JournalPlaces *journal_places_new(void)
{
    return xcalloc(1, sizeof(JournalPlaces));
}

static void places_clear(Places *places)
{
    if (places->task_seq == 0) return;
    arena_deinit(&places->arena);
    *places = (Places){ 0 };
}

void journal_places_free(JournalPlaces *all)
{
    for (size_t i = 0; all && i < PLACES_TASKS_N; i++) places_clear(&all->list[i]);
    free(all);
}

static Places *places_of(JournalPlaces *all, int64_t task_seq)
{
    return &all->list[(uint64_t)task_seq % PLACES_TASKS_N];
}

static int places_read(JournalPlaces *all, Db *db, int64_t task_seq)
{
    Places *places = places_of(all, task_seq);
    places_clear(places);
    arena_init(&places->arena, PLACES_BYTES_MAX);
    int r = journal_places(db, task_seq, &places->arena, &places->rows, &places->n);
    if (r == 0) places->task_seq = task_seq;
    else arena_deinit(&places->arena);
    return r;
}

/* 0: not known. */
static int64_t place_of(JournalPlaces *all, int64_t task_seq, int64_t n)
{
    const Places *places = places_of(all, task_seq);
    bool known = places->task_seq == task_seq && n >= 1 && (uint64_t)n <= places->n;
    return known ? places->rows[n - 1] : 0;
}

/* --- reading ---------------------------------------------------------------------------------- */

typedef struct {
    JournalPlaces *places; /* the reading thread's */
    TaskRef task;
    bool twin; /* of the production task that it repeats */
    int64_t after, n;
    size_t max;
    Arena *arena;
    Buf *request;
    JournalRow *rows, row;
    size_t rows_n;
    JournalBytes answer;
} ReadJob;

/* Whose recordings they are. -ENOENT: there is no such production task (any more). */
static int read_of(Db *db, const ReadJob *job, int64_t *ret_seq)
{
    TaskHead head;
    Task task;
    int r = task_held(db, job->task, &head);
    *ret_seq = head.seq;
    if (r != 0 || !job->twin) return r;
    r = task_get_by_seq(db, head.seq, 0, job->arena, &task);
    if (r == 0) r = task_head(db, task.shadow_of, &head);
    *ret_seq = head.seq;
    return r;
}

static int list_job(Db *db, void *arg)
{
    ReadJob *job = arg;
    int64_t seq;
    int r = read_of(db, job, &seq);
    if (r == -ENOENT && job->twin) return job->rows_n = 0, 0;
    if (r != 0) return r;
    return journal_list(db, seq, true, job->after, job->max, job->arena, &job->rows, &job->rows_n);
}

/* Tasks come and go under a number, and recordings are added: what is not where it was known to be
 * is looked for once more. */
static int answer_job(Db *db, void *arg)
{
    ReadJob *job = arg;
    int64_t seq;
    int r = read_of(db, job, &seq);
    if (r != 0) return r;
    for (bool looked = false;; looked = true) {
        int64_t place = place_of(job->places, seq, job->n);
        r = -ENOENT;
        if (place) r = journal_at(db, seq, job->n, place, job->arena, &job->row, &job->answer);
        if (r != -ENOENT || looked) return r;
        r = places_read(job->places, db, seq);
        if (r != 0) return r;
    }
}

static int request_job(Db *db, void *arg)
{
    ReadJob *job = arg;
    TaskHead head;
    int r = task_held(db, job->task, &head);
    return r == 0 ? journal_request(db, head.seq, job->n, job->request) : r;
}

static int read_wait(Queue *queue, StoreFn fn, ReadJob *job)
{
    int r = store_read_wait(queue->store, fn, job);
    if (r == QUEUE_E_STALE) queue_apply(queue, &(Effects){ .stale = 1 });
    return r == -ENOENT ? diag_set(QUEUE_E_NO_RECORDING, "there is no such recording") : r;
}

static int rows_read_wait(Queue *queue, ReadJob *job, JournalRow **ret, size_t *ret_n)
{
    int r = read_wait(queue, list_job, job);
    if (r != 0) return r;
    *ret = job->rows;
    *ret_n = job->rows_n;
    return 0;
}

static int answer_read_wait(Queue *queue, ReadJob *job, JournalRow *ret_row, JournalBytes *ret)
{
    job->places = queue->places;
    int r = read_wait(queue, answer_job, job);
    if (r != 0) return r;
    *ret_row = job->row;
    *ret = job->answer;
    return 0;
}

int queue_journal_list_wait(Queue *queue, TaskRef task, int64_t after, size_t max, Arena *arena,
                            JournalRow **ret, size_t *ret_n)
{
    ReadJob job = { .task = task, .after = after, .max = max, .arena = arena };
    return rows_read_wait(queue, &job, ret, ret_n);
}

int queue_journal_answer_wait(Queue *queue, TaskRef task, int64_t n, Arena *arena,
                              JournalRow *ret_row, JournalBytes *ret)
{
    ReadJob job = { .task = task, .n = n, .arena = arena };
    return answer_read_wait(queue, &job, ret_row, ret);
}

int queue_twin_list_wait(Queue *queue, TaskRef task, int64_t after, size_t max, Arena *arena,
                         JournalRow **ret, size_t *ret_n)
{
    ReadJob job = { .task = task, .twin = true, .after = after, .max = max, .arena = arena };
    return rows_read_wait(queue, &job, ret, ret_n);
}

int queue_twin_answer_wait(Queue *queue, TaskRef task, int64_t n, Arena *arena, JournalRow *ret_row,
                           JournalBytes *ret)
{
    ReadJob job = { .task = task, .twin = true, .n = n, .arena = arena };
    return answer_read_wait(queue, &job, ret_row, ret);
}

typedef struct {
    TaskRef task;
    Str response_id;
} OwnedJob;

static int owned_job(Db *db, void *arg)
{
    const OwnedJob *job = arg;
    CLEANUP(arena_deinit) Arena arena;
    TaskHead head;
    TaskFacts facts;
    arena_init(&arena, FACTS_ARENA_MAX);
    bool account = job->task.fence == TASK_FENCE_ACCOUNT;
    int r = account ? 0 : task_held(db, job->task, &head);
    if (r != 0) return r;
    r = account ? account_facts(db, job->task.id, &arena, &facts)
                : task_facts(db, job->task.id, job->task.fence, &arena, &facts);
    return r == 0 ? call_response_of(db, job->response_id, facts.tenant_id) : r;
}

int queue_response_owned_wait(Queue *queue, TaskRef task, Str response_id)
{
    OwnedJob job = { .task = task, .response_id = response_id };
    int r = store_read_wait(queue->store, owned_job, &job);
    if (r == QUEUE_E_STALE) queue_apply(queue, &(Effects){ .stale = 1 });
    return r == -ENOENT ? diag_set(QUEUE_E_NO_RECORDING, "the tenant has no such response") : r;
}

int queue_journal_request_wait(Queue *queue, TaskRef task, int64_t n, Buf *out)
{
    ReadJob job = { .task = task, .n = n, .request = out };
    return read_wait(queue, request_job, &job);
}
