/* The journal of a task: what is recorded of its calls, and what a later attempt is served. */
#include "gateway/gateway_journal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/gzip.h"
#include "gateway/gateway_call.h"
#include "logic/glob.h"
#include "sys/entropy.h"

#define ENTRIES_MAX 20000 /* recordings an attempt looks at */
#define ARENA_BYTES_MAX ((size_t)8 << 20)
#define ANSWER_ARENA_BYTES_MAX (4 * (size_t)GATEWAY_RECORDING_BYTES_MAX)
#define CANONICAL_FACTOR 6 /* 1e20 becomes 21 digits */

/* Compressing pays where text repeats itself: streams soon, other texts when they are large. */
#define GZIP_STREAM_BYTES 8192
#define GZIP_OTHER_BYTES 65536
#define BASE_SHARED_MIN 256 /* bytes; with less in common a request is kept whole */
#define BASE_CHAIN_MAX 32

/* A client that says it asks again is given so long to be seen leaving its first connection. */
#define RETRY_LOOK_MS 500
#define RETRY_STEP_MS 20

#define REPLAY_E_DAMAGED 100 /* beside those of replay_next: the recording cannot be read */

/* --- a task ----------------------------------------------------------------------------------- */

static const GatewayJournalRule *rule_of(const GatewayConfig *config, Str agent)
{
    for (size_t i = 0; i < config->journal_rules_n; i++)
        if (glob_match(str_of(config->journal_rules[i].match), agent))
            return &config->journal_rules[i];
    return NULL;
}

void journal_open(GatewayTask *task)
{
    TaskJournal *journal = &task->journal;
    const GatewayJournalRule *rule = rule_of(task->gateway->config, task->options.agent);
    journal->on = task->options.sink->journal_wait && !(rule && rule->off);
    journal->mask = rule ? &rule->mask : NULL;
    journal->state = task->options.attempt > 1 ? REPLAY_UNREAD : REPLAY_READ;
    cond_init(&journal->read);
    arena_init(&journal->arena, ARENA_BYTES_MAX);
    buf_init(&journal->base, JOURNAL_REQUEST_MAX);
}

void journal_close(GatewayTask *task)
{
    arena_deinit(&task->journal.arena);
    buf_deinit(&task->journal.base);
    replay_marks_deinit(&task->journal.base_marks);
    free(task->journal.undelivered);
}

static void note(const GatewayTask *task, const char *text)
{
    const GatewaySink *sink = task->options.sink;
    if (sink->note) sink->note(sink->ctx, text);
}

/* --- reading what there is -------------------------------------------------------------------- */

static int ask_wait(const GatewayTask *task, const JournalAsk *ask, Arena *arena, JournalReply *ret)
{
    const GatewaySink *sink = task->options.sink;
    diag_clear();
    *ret = (JournalReply){ 0 };
    return sink->journal_wait(sink->ctx, ask, arena, ret);
}

/* Grows at the end of the journal's own arena. */
static bool entries_add(TaskJournal *journal, Replay *replay, const JournalReply *page)
{
    size_t n = replay->n + page->rows_n, size = sizeof *replay->entries;
    ReplayEntry *entries = replay->entries ? arena_realloc(&journal->arena, replay->entries,
                                                           replay->n * size, n * size)
                                           : arena_alloc(&journal->arena, MAX(n, 1) * size);
    if (!entries || n > ENTRIES_MAX) return false;
    for (size_t i = 0; i < page->rows_n; i++) {
        const JournalRow *row = &page->rows[i];
        ReplayEntry *entry = &entries[replay->n + i];
        *entry = (ReplayEntry){ .n = row->n, .kind = row->kind, .complete = row->complete };
        memcpy(entry->key, row->key, sizeof entry->key);
    }
    replay->entries = entries;
    replay->n = n;
    return true;
}

static int read_all_wait(GatewayTask *task, Replay *replay, bool twin)
{
    TaskJournal *journal = &task->journal;
    CLEANUP(arena_deinit) Arena arena = { 0 };
    JournalReply page;
    JournalAsk ask = { .what = JOURNAL_LIST, .twin = twin };
    arena_init(&arena, ARENA_BYTES_MAX);
    do {
        arena_clear(&arena);
        int r = ask_wait(task, &ask, &arena, &page);
        if (r < 0) return r;
        if (!entries_add(journal, replay, &page)) {
            LOG_WARN("journal of a task is too long: its end is not replayed",
                     LOG_INT("recordings", replay->n));
            return 0;
        }
        if (page.rows_n) ask.n = page.rows[page.rows_n - 1].n;
    } while (page.rows_n == JOURNAL_PAGE_MAX);
    return 0;
}

/* Once a task: who comes meanwhile waits. Returns 0 or a negative errno. */
static int read_wait(GatewayTask *task)
{
    TaskJournal *journal = &task->journal;
    while (journal->state == REPLAY_READING) {
        int r = cond_wait(&journal->read, DEADLINE_NONE);
        if (r < 0) return r;
    }
    if (journal->state == REPLAY_READ) return 0;
    journal->state = REPLAY_READING;
    int r = read_all_wait(task, &journal->replay, false);
    if (r < 0) journal->replay = (Replay){ 0 };
    journal->state = r < 0 ? REPLAY_UNREAD : REPLAY_READ;
    cond_broadcast(&journal->read);
    return r;
}

typedef struct {
    Str packed;
    Buf *out;
} UnpackJob;

static int unpack_job(void *arg)
{
    UnpackJob *job = arg;
    return gzip_decompress(job->packed, job->out);
}

/* The bytes of an answer. body is initialised. Returns 0, -ENOENT (not there, or unreadable: go
 * live), other -errno. */
static int answer_wait(const GatewayTask *task, const JournalAsk *ask, Arena *arena,
                       JournalReply *ret, Buf *body)
{
    int r = ask_wait(task, ask, arena, ret);
    if (r < 0) return r;
    UnpackJob job = { ret->answer.bytes, body };
    if (!ret->answer.gzip) r = buf_add(body, ret->answer.bytes) ? 0 : -EFBIG;
    else r = work_wait(unpack_job, &job);
    bool whole = r == 0 && (int64_t)body->len == ret->answer.n;
    if (whole || r == -ECANCELED) return r;
    LOG_ERROR("recording is damaged: the call is made again", LOG_INT("recording", ask->n));
    return -ENOENT;
}

/* --- the first difference --------------------------------------------------------------------- */

/* What was sent is in the task's own log only. */
static void tell_difference(const GatewayTask *task, int64_t n, Str expected, Str came)
{
    char text[480];
    ReplayDiff diff = replay_diff(expected, came);
    snprintf(text, sizeof text,
             "replay went live: recording %" PRId64 " was expected, the request differs at byte "
             "%zu of its canonical form: expected `%s`, came `%s`",
             n, diff.offset, diff.expected, diff.came);
    note(task, text);
    LOG_INFO("replay went live", LOG_INT("recording", n), LOG_INT("byte", diff.offset));
}

static void tell_reason(const GatewayTask *task, int why)
{
    char text[160];
    const char *reason = why == REPLAY_E_INCOMPLETE ? "the recorded answer is incomplete"
                         : why == REPLAY_E_DIFFERS  ? "the call is not one that was recorded"
                                                    : "the recording is damaged";
    snprintf(text, sizeof text, "replay went live: %s", reason);
    note(task, text);
    LOG_INFO("replay went live", LOG_CSTR("why", reason));
}

/* Tells the task once where it left its recordings. came: canonical, may be empty. */
static void miss_wait(GatewayTask *task, int why, const ReplayEntry *expected, Str came)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    JournalReply reply;
    JournalAsk ask = { .what = JOURNAL_REQUEST, .n = expected ? expected->n : 0 };
    atomic_fetch_add(&task->gateway->replay_misses, 1);
    if (task->journal.differed) return;
    task->journal.differed = true;
    arena_init(&arena, 4 * JOURNAL_REQUEST_MAX);
    bool known = expected && came.len && ask_wait(task, &ask, &arena, &reply) == 0;
    if (known && reply.request.len) tell_difference(task, ask.n, reply.request, came);
    else tell_reason(task, why);
}

/* --- serving ---------------------------------------------------------------------------------- */

static void record_begin(ModelCall *call)
{
    GatewayCall *record = &call->record;
    const GatewayTaskOptions *options = &call->task->options;
    uint8_t random[UUID7_RANDOM_BYTES];
    entropy_fill(random, sizeof random);
    uuid_text(uuid7_next(&call->task->gateway->ids, clock_real_ms(), random), record->id);
    record->task_id = options->task_id;
    record->request_id = call->request->request_id;
    record->agent = options->agent;
    record->version_id = options->version_id;
    record->attempt = options->attempt;
    record->api = call->info.api;
    record->provider = STR("journal");
    record->model = call->info.model;
    record->streamed = call->info.stream;
    record->started_real_ms = clock_real_ms();
    record->ttfb_us = -1;
    record->replayed = true;
}

/* earlier: it is of an attempt before this one, which has not counted its tool calls. Returns
 * CALL_E_ANSWERED or the sink's error. */
static int serve_wait(ModelCall *call, const Recording *recording, bool earlier)
{
    record_begin(call);
    call->record.status = recording->status;
    int64_t tools = recording_note(call, recording);
    if (earlier) recording_note_state(call, recording);
    if (earlier) task_note_asked_again(call->task, tools);
    int r = call_close_served_wait(call);
    if (r < 0) {
        reply_problem_wait(call);
        return r;
    }
    atomic_fetch_add(&call->task->gateway->replayed, 1);
    reply_recording_wait(call, recording, &(GatewayField){ "x-gantry-replayed", STR("1") });
    return CALL_E_ANSWERED;
}

static int unreadable(ModelCall *call, int r)
{
    if (r == -ECANCELED) return r;
    if (r == -ESTALE) {
        gateway_task_stop(call->task, GATEWAY_STOP_STALE);
        return call_problem(call, PROBLEM_STOPPED, NULL, "%s", task_stop_text(GATEWAY_STOP_STALE));
    }
    LOG_ERROR("journal cannot be read", LOG_CSTR("why", diag_text_or(r)));
    return call_problem(call, PROBLEM_INTERNAL, NULL,
                        "what earlier attempts of the task were answered cannot be read");
}

/* Answers with a recording. Returns CALL_E_ANSWERED, -ENOENT (it is not there, or damaged),
 * CALL_E_PROBLEM, another negative errno. */
static int serve_recorded_wait(ModelCall *call, int64_t n, bool earlier)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    JournalReply reply;
    Recording recording = { .status = 0 };
    JournalAsk ask = { .what = JOURNAL_ANSWER, .n = n };
    arena_init(&arena, ANSWER_ARENA_BYTES_MAX);
    buf_init(&recording.body, GATEWAY_RECORDING_BYTES_MAX);
    int r = answer_wait(call->task, &ask, &arena, &reply, &recording.body);
    if (r == 0) {
        recording.status = (int)reply.row.status;
        recording.streamed = reply.row.streamed;
        str_copy(recording.content_type, sizeof recording.content_type, reply.row.content_type);
        call->served_n = n;
        r = serve_wait(call, &recording, earlier);
    } else if (r != -ENOENT) r = unreadable(call, r);
    buf_deinit(&recording.body);
    return r;
}

/* Returns CALL_E_ANSWERED, 0 (live), CALL_E_PROBLEM, a negative errno. */
static int replay_wait(ModelCall *call)
{
    GatewayTask *task = call->task;
    const ReplayEntry *entry;
    int r = read_wait(task);
    if (r < 0) return unreadable(call, r);
    int why = replay_next(&task->journal.replay, REPLAY_MODEL, call->key, &entry);
    if (why == 0) {
        r = serve_recorded_wait(call, entry->n, true);
        if (r != -ENOENT) return r;
        why = REPLAY_E_DAMAGED;
        entry = NULL;
    }
    if (why == REPLAY_E_END) return 0;
    call->replay_missed = true;
    miss_wait(task, why, entry, buf_str(&call->canonical));
    return 0;
}

/* --- a call that is still going --------------------------------------------------------------- */

/* Somebody is there who is given its answer already. */
static bool is_followed(const ModelCall *other)
{
    LIST_EACH (&other->task->calls, node) {
        ModelCall *call = CONTAINER_OF(node, ModelCall, node);
        if (call->leader == other && !call_has_left(call)) return true;
    }
    return other->taken;
}

/* An equal call that this one is once more: its reader has left, or both have the same key of the
 * client's own. One whose reader is there is no call that is made again: equal bodies alone prove
 * nothing. *ret_live: there is such a one. */
static ModelCall *find_leader(const ModelCall *call, bool *ret_live)
{
    *ret_live = false;
    LIST_EACH (&call->task->calls, node) {
        ModelCall *other = CONTAINER_OF(node, ModelCall, node);
        if (other == call || !other->journaled || (other->over && !other->answered)) continue;
        if (!call_is_same(call, other->key, other->client_key)) continue;
        if (call_has_client_key(call)) return other;
        if (call_has_left(other) && !is_followed(other)) return other;
        *ret_live |= !other->left;
    }
    return NULL;
}

/* Passes on what the other call has been answered so far. */
static void follow_show_wait(ModelCall *call, const ModelCall *other, size_t *shown)
{
    const Recording *recording = &other->recording;
    while (*shown < other->shown && !call->gone) {
        /* a copy: the recording grows, and moves, while this fiber writes */
        size_t n = MIN(other->shown - *shown, (size_t)65536);
        CLEANUP(buf_deinit) Buf piece;
        buf_init(&piece, n);
        if (!buf_add(&piece, str_make(recording->body.ptr + *shown, n))) return;
        *shown += n;
        reply_follow_wait(call, recording, buf_str(&piece));
    }
}

/* The other call has ended well. */
static int follow_end_wait(ModelCall *call, const ModelCall *other, size_t *shown)
{
    int r;
    if (!call->begun) return serve_wait(call, &other->recording, false);
    record_begin(call);
    call->record.status = other->recording.status;
    if (!other->recording.streamed) { /* a heartbeat has promised one */
        call_problem(call, PROBLEM_UNREACHABLE, NULL, "the provider did not answer with a stream");
        reply_problem_wait(call);
        return -EIO;
    }
    r = call_close_served_wait(call);
    if (r < 0) {
        reply_problem_wait(call);
        return r;
    }
    atomic_fetch_add(&call->task->gateway->replayed, 1);
    follow_show_wait(call, other, shown);
    reply_follow_end_wait(call);
    return CALL_E_ANSWERED;
}

/* Until there is more of the other call, or it is over. Whose head is not sent yet is told in time
 * to ask again, and is then attached again. Returns 0 (look), CALL_E_PROBLEM, HTTP_E_GONE,
 * -ECANCELED. */
static int follow_more_wait(ModelCall *call, Cond *more)
{
    int64_t until_ms = call->begun ? DEADLINE_NONE : call_deadline_ms(call);
    int r = call_pause_wait(call, more, until_ms);
    if (r != -ETIMEDOUT || call->begun) return r == -ETIMEDOUT ? 0 : r;
    call->retry_after_s = 1;
    return call_problem(call, PROBLEM_QUEUED, NULL,
                        "the same call, made before, is not answered yet");
}

/* Answers with the other call's answer as it comes. Returns CALL_E_ANSWERED, 0 (it came to nothing,
 * make the call), CALL_E_PROBLEM, HTTP_E_GONE, a negative errno. */
static int follow_wait(ModelCall *call, ModelCall *other)
{
    size_t shown = 0;
    int r = 0;
    call->leader = other;
    other->followers++;
    atomic_fetch_add(&call->task->gateway->attached, 1);
    while (!other->over && r == 0 && !call->gone) {
        if (other->recording.streamed) follow_show_wait(call, other, &shown);
        if (!other->over && shown == other->shown) r = follow_more_wait(call, &other->grown);
    }
    if (call->gone) r = HTTP_E_GONE;
    else if (r == 0 && other->answered) r = follow_end_wait(call, other, &shown);
    else if (r == 0 && shown > 0) {
        call_problem(call, other->problem ? other->problem : PROBLEM_UNREACHABLE, NULL, "%s",
                     other->message);
        reply_problem_wait(call);
        r = -EIO;
    }
    other->taken |= r == CALL_E_ANSWERED && !call->gone && !call->left;
    call->leader = NULL;
    other->followers--;
    cond_broadcast(&other->grown);
    return r;
}

/* An earlier call with the same key of the client's own is still looking for what it was answered,
 * so that nobody can follow it yet. Earlier: no two wait for each other. */
static bool is_undecided(const ModelCall *call)
{
    if (!call_has_client_key(call)) return false;
    LIST_EACH (&call->task->calls, node) {
        const ModelCall *other = CONTAINER_OF(node, ModelCall, node);
        if (other == call) break;
        if (other->journaled || other->over) continue;
        if (call_is_same(call, other->key, other->client_key)) return true;
    }
    return false;
}

/* Follows the call that this one is once more. Returns as follow_wait, 0 also when there is none.
 */
static int attach_wait(ModelCall *call)
{
    int64_t until_ms = deadline_after(RETRY_LOOK_MS);
    for (;;) {
        bool live;
        ModelCall *other = find_leader(call, &live);
        if (other) return follow_wait(call, other);
        bool undecided = is_undecided(call);
        if (!undecided && (!live || !call->asked->retry || clock_mono_ms() >= until_ms)) return 0;
        int r = undecided ? follow_more_wait(call, &call->task->changed)
                          : call_pause_wait(call, &call->wake, deadline_after(RETRY_STEP_MS));
        if (r != 0 && r != -ETIMEDOUT) return r;
    }
}

/* --- a call that is over, and whose reader had left ------------------------------------------- */

/* The number of the recording that a call of this attempt has made; 0: it has none to be served. */
static int number_wait(ModelCall *call, Str call_id, int64_t *ret)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    JournalReply page;
    JournalAsk ask = { .what = JOURNAL_LIST };
    arena_init(&arena, ARENA_BYTES_MAX);
    *ret = 0;
    do {
        arena_clear(&arena);
        int r = ask_wait(call->task, &ask, &arena, &page);
        if (r < 0) return r;
        for (size_t i = 0; i < page.rows_n; i++) {
            const JournalRow *row = &page.rows[i];
            if (str_eq(row->call_id, call_id)) return *ret = row->complete ? row->n : 0, 0;
            ask.n = row->n;
        }
    } while (page.rows_n == JOURNAL_PAGE_MAX);
    return 0;
}

/* What was paid for, and did not arrive, is given to who asks for it again: once, unless a key of
 * the client's own says that it is the same call. Returns CALL_E_ANSWERED, 0 (there is nothing),
 * CALL_E_PROBLEM, a negative errno. */
static int redeliver_wait(ModelCall *call)
{
    Undelivered it;
    if (!undelivered_take(call, &it)) return 0;
    int r = it.n ? 0 : number_wait(call, str_of(it.call_id), &it.n);
    if (r < 0) r = unreadable(call, r);
    else r = it.n ? serve_recorded_wait(call, it.n, false) : -ENOENT;
    if (r == CALL_E_ANSWERED) atomic_fetch_add(&call->task->gateway->redelivered, 1);
    else if (r != -ENOENT) {
        call->served_n = 0;
        undelivered_put_back(call, &it);
    }
    return r == -ENOENT ? 0 : r;
}

void call_journal_show(ModelCall *call)
{
    call->shown = call->recording.body.len;
    if (call->followers > 0) cond_broadcast(&call->grown);
}

void call_journal_end_wait(ModelCall *call)
{
    call->over = true;
    if (call->answered) call->shown = call->recording.body.len;
    cond_broadcast(&call->grown);
    fiber_shield();
    while (call->followers > 0) cond_wait(&call->grown, DEADLINE_NONE);
    fiber_unshield();
    undelivered_keep(call);
}

/* --- a call ----------------------------------------------------------------------------------- */

static void key_make(ModelCall *call)
{
    Str body = call->asked->body; /* whatever was taken out of it */
    buf_init(&call->canonical, CANONICAL_FACTOR * body.len + 64);
    (void)buf_reserve(&call->canonical, body.len);
    const TaskJournal *journal = &call->task->journal;
    ReplayKnown base = { .route = str_of(gateway_api_name(journal->base_api)),
                         .form = buf_str(&journal->base),
                         .marks = &journal->base_marks };
    replay_model_key(str_of(gateway_api_name(call->info.api)), call->asked_json, body,
                     journal->mask, &base, &call->canonical, &call->marks, call->key);
}

int call_replay_wait(ModelCall *call)
{
    GatewayTask *task = call->task;
    /* who is to be refused is refused, recorded or not */
    if (!task->journal.on || task->totals.stop != GATEWAY_STOP_NONE || task_past_deadline(task))
        return 0;
    key_make(call);
    if (!str_empty(call->asked->client_key)) sha256(call->asked->client_key, call->client_key);
    int r = attach_wait(call);
    if (r == 0) r = redeliver_wait(call);
    if (r == 0) r = replay_wait(call);
    if (r == 0) call->journaled = call->keep_answer = true; /* from here on it may be followed */
    if (r == 0 && call_has_client_key(call)) cond_broadcast(&task->changed);
    return r;
}

/* --- recording -------------------------------------------------------------------------------- */

typedef struct {
    Str bytes;
    Buf *out;
} PackJob;

static int pack_job(void *arg)
{
    PackJob *job = arg;
    return gzip_compress_fast(job->bytes, job->out);
}

static JournalBytes pack_wait(Str bytes, size_t from_bytes, Buf *out)
{
    JournalBytes plain = { .bytes = bytes, .n = (int64_t)bytes.len };
    PackJob job = { bytes, out };
    if (bytes.len < from_bytes) return plain;
    buf_init(out, bytes.len - bytes.len / 8); /* or it does not pay */
    if (work_wait(pack_job, &job) < 0) return plain;
    return (JournalBytes){ .bytes = buf_str(out), .gzip = true, .n = (int64_t)bytes.len };
}

static bool against_base(const TaskJournal *journal, Str text, ReplayShare *ret)
{
    if (!journal->base_id[0] || journal->base_chain >= BASE_CHAIN_MAX) return false;
    *ret = replay_share(buf_str(&journal->base), text);
    return ret->prefix + ret->suffix >= BASE_SHARED_MIN;
}

static JournalRequest request_wait(const ModelCall *call, Journaled *journaled)
{
    const TaskJournal *journal = &call->task->journal;
    JournalRequest request = { .n = 0 };
    Str text = buf_str(&call->canonical);
    if (text.len == 0 || text.len > JOURNAL_REQUEST_MAX) return request;
    request.n = (int64_t)text.len;
    journaled->against_base = against_base(journal, text, &request.share);
    if (journaled->against_base) {
        memcpy(journaled->base_id, journal->base_id, sizeof journaled->base_id);
        request.base = str_of(journaled->base_id);
    } else request.share = (ReplayShare){ 0 };
    request.rest = pack_wait(replay_rest(text, request.share), GZIP_OTHER_BYTES,
                             &journaled->request);
    return request;
}

/* Whole, or not at all. */
static void answer_add_wait(GatewayTask *task, const Recording *answer, Journaled *journaled)
{
    JournalNew *recording = &journaled->recording;
    size_t from_bytes = answer->streamed ? GZIP_STREAM_BYTES : GZIP_OTHER_BYTES;
    if (!answer->overflow)
        recording->answer = pack_wait(buf_str(&answer->body), from_bytes, &journaled->answer);
    recording->complete = !answer->overflow && recording->answer.bytes.len <= JOURNAL_ANSWER_MAX;
    if (recording->complete) return;
    recording->answer = (JournalBytes){ .n = 0 };
    atomic_fetch_add(&task->gateway->not_recorded, 1);
    note(task, "journal: an answer is too large to be recorded");
}

void call_journal_begin_wait(ModelCall *call, Journaled *journaled)
{
    GatewayCall *record = &call->record;
    const Recording *answer = record->answer ? record->answer : &call->recording;
    *journaled = (Journaled){ .against_base = false };
    record->replay_missed = call->replay_missed;
    call->replay_missed = false;
    /* before a byte of an answer there is nothing to remember */
    if (!call->journaled || record->replayed || !answer->status) return;
    JournalNew *recording = &journaled->recording;
    *recording = (JournalNew){
        .kind = REPLAY_MODEL,
        .name = str_of(gateway_api_name(call->info.api)),
        .call_id = str_of(record->id),
        .at_ms = record->started_real_ms,
        .status = answer->status,
        .content_type = str_of(answer->content_type),
        .streamed = answer->streamed,
        .request = request_wait(call, journaled),
    };
    memcpy(recording->key, call->key, sizeof recording->key);
    if (record->answer) answer_add_wait(call->task, answer, journaled);
    record->recording = recording;
}

/* The next request is kept against this one. */
static void base_set(ModelCall *call, const Journaled *journaled)
{
    TaskJournal *journal = &call->task->journal;
    str_copy(journal->base_id, sizeof journal->base_id, str_of(call->record.id));
    journal->base_chain = journaled->against_base ? journal->base_chain + 1 : 0;
    buf_deinit(&journal->base);
    journal->base = call->canonical;
    buf_init(&call->canonical, 0);
    journal->base_api = call->info.api;
    replay_marks_deinit(&journal->base_marks);
    journal->base_marks = call->marks;
    call->marks.n = 0;
}

void call_journal_done(ModelCall *call, Journaled *journaled, bool recorded)
{
    const JournalNew *recording = call->record.recording;
    if (recorded && recording && recording->request.n) base_set(call, journaled);
    call->record.recording = NULL;
    buf_deinit(&journaled->answer);
    buf_deinit(&journaled->request);
}

/* --- tools ------------------------------------------------------------------------------------ */

int gateway_tool_replay_wait(GatewayTask *task, Str tool, const Json *args, Str text, Arena *arena,
                             ToolReplay *ret)
{
    CLEANUP(buf_deinit) Buf canonical = { 0 }, body = { 0 };
    const ReplayEntry *entry;
    JournalReply reply;
    buf_init(&canonical, CANONICAL_FACTOR * text.len + 64);
    buf_init(&body, GATEWAY_RECORDING_BYTES_MAX);
    *ret = (ToolReplay){ .status = 0 };
    replay_tool_key(tool, args, text, &canonical, ret->key);
    if (!task->journal.on) return GATEWAY_E_LIVE;
    int r = read_wait(task);
    if (r < 0) return r;
    int why = replay_next(&task->journal.replay, REPLAY_TOOL, ret->key, &entry);
    if (why == 0) {
        JournalAsk ask = { .what = JOURNAL_ANSWER, .n = entry->n };
        r = answer_wait(task, &ask, arena, &reply, &body);
        if (r != 0 && r != -ENOENT) return r;
        why = r == 0 ? 0 : REPLAY_E_DAMAGED;
        entry = NULL;
    }
    if (why == 0) {
        ret->status = reply.row.status;
        ret->content_type = reply.row.content_type;
        ret->body = arena_str(arena, buf_str(&body));
        atomic_fetch_add(&task->gateway->replayed_tools, 1);
        return ret->body.ptr ? 0 : -ENOMEM;
    }
    if (why != REPLAY_E_END) miss_wait(task, why, entry, buf_str(&canonical));
    return GATEWAY_E_LIVE;
}

/* Waits for who reads, as read_wait. */
static int twin_read_wait(GatewayTask *task)
{
    TaskJournal *journal = &task->journal;
    while (journal->state == REPLAY_READING) {
        int r = cond_wait(&journal->read, DEADLINE_NONE);
        if (r < 0) return r;
    }
    if (journal->twin_read) return 0;
    bool own_read = journal->state == REPLAY_READ;
    journal->state = REPLAY_READING;
    int r = read_all_wait(task, &journal->twin, true);
    if (r < 0) journal->twin = (Replay){ 0 };
    journal->twin_read = r == 0;
    journal->state = own_read ? REPLAY_READ : REPLAY_UNREAD;
    cond_broadcast(&journal->read);
    return r;
}

int gateway_tool_twin_wait(GatewayTask *task, const ToolReplay *call, Arena *arena, ToolReplay *ret)
{
    CLEANUP(buf_deinit) Buf body = { 0 };
    const ReplayEntry *entry;
    JournalReply reply;
    buf_init(&body, GATEWAY_RECORDING_BYTES_MAX);
    if (!task->options.shadow || !task->options.sink->journal_wait) return GATEWAY_E_LIVE;
    int r = twin_read_wait(task);
    if (r < 0) return r;
    if (replay_next(&task->journal.twin, REPLAY_TOOL, call->key, &entry) != 0)
        return GATEWAY_E_LIVE;
    if (!ret) return 0;
    JournalAsk ask = { .what = JOURNAL_ANSWER, .n = entry->n, .twin = true };
    r = answer_wait(task, &ask, arena, &reply, &body);
    if (r != 0) return r == -ENOENT ? GATEWAY_E_LIVE : r;
    *ret = *call;
    ret->status = reply.row.status;
    ret->content_type = reply.row.content_type;
    ret->body = arena_str(arena, buf_str(&body));
    return ret->body.ptr ? 0 : -ENOMEM;
}

int gateway_tool_record_wait(GatewayTask *task, const ToolReplay *replay, Str tool, int64_t status,
                             Str content_type, Str body)
{
    const GatewaySink *sink = task->options.sink;
    CLEANUP(buf_deinit) Buf packed = { 0 };
    char id[UUID_TEXT_MAX];
    uint8_t random[UUID7_RANDOM_BYTES];
    if (!task->journal.on || !sink->journal_add_wait) return 0;
    entropy_fill(random, sizeof random);
    uuid_text(uuid7_next(&task->gateway->ids, clock_real_ms(), random), id);
    JournalNew recording = { .kind = REPLAY_TOOL,
                             .name = str_sub(tool, 0, JOURNAL_NAME_MAX),
                             .call_id = str_of(id),
                             .at_ms = clock_real_ms(),
                             .status = status,
                             .content_type = content_type,
                             .complete = true };
    memcpy(recording.key, replay->key, sizeof recording.key);
    fiber_shield();
    recording.answer = pack_wait(body, GZIP_OTHER_BYTES, &packed);
    int r = sink->journal_add_wait(sink->ctx, &recording);
    fiber_unshield();
    if (r == -ESTALE) gateway_task_stop(task, GATEWAY_STOP_STALE);
    return r;
}
