/* What agents keep in their sessions. */
#include "base/diag.h"
#include "base/log.h"
#include "queue/queue_private.h"

typedef struct {
    const Queue *queue;
    TaskRef task;
    const StateAsk *ask;
    int64_t now_ms;
    Arena *arena;
    StateReply reply;
    int64_t session_id; /* read: 0 unless it is to be touched */
} StateJob;

#define TOUCH_MS (INT64_C(24) * 3600 * 1000) /* a write for a read, so often at most */

/* --- reading ---------------------------------------------------------------------------------- */

static int read_job(Db *db, void *arg)
{
    StateJob *job = arg;
    TaskHead head;
    Session session;
    StateReply *reply = &job->reply;
    *reply = (StateReply){ .outcome = STATE_NONE };
    int r = task_held(db, job->task, &head);
    if (r == 0) r = session_of_task(db, head.seq, &session);
    if (r == 0 && job->ask->what == STATE_LIST)
        r = state_list(db, session.id, (size_t)job->queue->options.state_keys_max, job->arena,
                       &reply->rows, &reply->rows_n);
    else if (r == 0) r = state_get(db, session.id, job->ask->key, job->arena, &reply->row);
    if (r != 0) return r == -ENOENT ? 0 : r;
    reply->outcome = STATE_OK;
    int64_t often_ms = MIN(TOUCH_MS, job->queue->options.state_kept_ms / 2);
    if (session.used_at_ms + often_ms <= job->now_ms) job->session_id = session.id;
    return 0;
}

static int touch_job(Db *db, void *arg)
{
    const StateJob *job = arg;
    int r = session_touch(db, job->session_id, job->now_ms);
    return r == -ENOENT ? 0 : r;
}

/* What is read is used. */
static int read_wait(Queue *queue, StateJob *job)
{
    int r = store_read_wait(queue->store, read_job, job);
    if (r != 0 || job->session_id == 0) return r;
    if (store_call_wait(queue->store, touch_job, job) != 0)
        LOG_WARN("a session that is read does not count as used");
    return 0;
}

/* --- writing ---------------------------------------------------------------------------------- */

/* What a key counts against the session's bytes. */
static int64_t weight(const StateRow *row)
{
    return (int64_t)row->key.len + row->bytes;
}

static StateOutcome write_fits(const StateJob *job, const Session *session, const StateRow *old)
{
    const QueueOptions *o = &job->queue->options;
    StateRow new = { .key = job->ask->key, .bytes = (int64_t)job->ask->value.len };
    if (new.bytes > o->state_value_bytes_max) return STATE_TOO_LARGE;
    if (old->version == 0 && session->keys >= o->state_keys_max) return STATE_FULL;
    int64_t freed = old->version ? weight(old) : 0;
    return session->bytes - freed + weight(&new) > o->state_bytes_max ? STATE_FULL : STATE_OK;
}

/* Whether what is there (version 0: nothing) is what the writer expects. */
static bool expected(int64_t if_version, int64_t version)
{
    if (if_version == STATE_ANY) return true;
    return if_version == STATE_PRESENT ? version != 0 : if_version == version;
}

static int put(Db *db, StateJob *job, Session *session, const StateRow *old)
{
    StateReply *reply = &job->reply;
    StateRow row = { .key = job->ask->key,
                     .version = session->revision + 1,
                     .bytes = (int64_t)job->ask->value.len,
                     .updated_at_ms = job->now_ms,
                     .content_type = job->ask->content_type,
                     .value = job->ask->value };
    reply->outcome = write_fits(job, session, old);
    if (reply->outcome != STATE_OK) return 0;
    reply->created = old->version == 0;
    session->revision++;
    session->keys += old->version == 0;
    session->bytes += weight(&row) - (old->version ? weight(old) : 0);
    reply->row.version = row.version;
    int r = state_put(db, session->id, &row);
    return r == 0 ? session_update(db, session, job->now_ms) : r;
}

static int delete (Db *db, StateJob *job, Session *session, const StateRow *old)
{
    job->reply.outcome = old->version ? STATE_OK : STATE_NONE;
    if (old->version == 0) return 0;
    session->keys--;
    session->bytes -= weight(old);
    int r = state_delete(db, session->id, job->ask->key);
    return r == 0 ? session_update(db, session, job->now_ms) : r;
}

static int write_job(Db *db, void *arg)
{
    StateJob *job = arg;
    TaskHead head;
    Session session = { 0 };
    StateRow old = { .key = job->ask->key };
    job->reply = (StateReply){ .outcome = STATE_OK };
    int r = task_held(db, job->task, &head);
    if (r == 0) r = session_of_task(db, head.seq, &session);
    if (r == 0) r = state_head(db, session.id, job->ask->key, &old);
    if (r != 0 && r != -ENOENT) return r;
    job->reply.row.version = old.version;
    if (!expected(job->ask->if_version, old.version)) {
        job->reply.outcome = STATE_MISMATCH;
        return 0;
    }
    if (job->ask->what == STATE_DELETE) return delete (db, job, &session, &old);
    r = session.id ? 0 : session_add(db, head.seq, job->now_ms, &session);
    return r == 0 ? put(db, job, &session, &old) : r;
}

/* --- asking ----------------------------------------------------------------------------------- */

static void count(Queue *queue, const StateJob *job, bool writes)
{
    pthread_mutex_lock(&queue->lock);
    queue->stats.state_reads += !writes;
    queue->stats.state_writes += writes && job->reply.outcome == STATE_OK;
    queue->stats.state_mismatches += job->reply.outcome == STATE_MISMATCH;
    queue->stats.state_refused += job->reply.outcome == STATE_FULL ||
                                  job->reply.outcome == STATE_TOO_LARGE;
    pthread_mutex_unlock(&queue->lock);
}

int queue_state_wait(Queue *queue, TaskRef task, const StateAsk *ask, Arena *arena, StateReply *ret)
{
    bool writes = ask->what == STATE_PUT || ask->what == STATE_DELETE;
    StateJob job = {
        .queue = queue, .task = task, .ask = ask, .arena = arena, .now_ms = queue_now_ms(queue)
    };
    int r = writes ? store_call_wait(queue->store, write_job, &job) : read_wait(queue, &job);
    if (r == QUEUE_E_STALE) queue_apply(queue, &(Effects){ .stale = 1 });
    if (r != 0) return r;
    count(queue, &job, writes);
    *ret = job.reply;
    return 0;
}

void states_purged(Queue *queue, int64_t n)
{
    pthread_mutex_lock(&queue->lock);
    queue->stats.state_purged += (uint64_t)n;
    pthread_mutex_unlock(&queue->lock);
}
