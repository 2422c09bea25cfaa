/* What models and tools answered a task, for people. */
#include "api/tasks.h"
#include "base/diag.h"
#include "codec/gzip.h"
#include "codec/hex.h"
#include "gateway/gateway.h"
#include "observe/task_json.h"
#include "sys/fiber.h"

#define PAGE_ROWS 200
#define MEMORY_BYTES_MAX ((size_t)64 << 20)
#define ANSWER_BYTES_MAX ((size_t)16 << 20) /* unpacked; of a longer one only the size is told */

const Param task_journal_params[] = {
    { "after", "integer", "nextAfter of the page before: the number of its last recording" },
    { 0 },
};

typedef struct {
    Uuid id;
    Arena *arena;
    int64_t n; /* list: recordings above it; else the one */
    Task task;
    JournalFill fill;
    int64_t misses;
    JournalRow *rows, row;
    size_t rows_n;
    JournalBytes answer;
    Buf request;
} JournalRead;

static int list_job(Db *db, void *arg)
{
    JournalRead *read = arg;
    int r = task_get(db, read->id, 0, read->arena, &read->task);
    if (r == 0) r = journal_fill_read(db, read->task.seq, &read->fill);
    if (r == 0) r = journal_misses(db, read->task.seq, &read->misses);
    if (r != 0) return r;
    return journal_list(db, read->task.seq, false, read->n, PAGE_ROWS + 1, read->arena, &read->rows,
                        &read->rows_n);
}

static int one_job(Db *db, void *arg)
{
    JournalRead *read = arg;
    int r = task_get(db, read->id, 0, read->arena, &read->task);
    if (r == 0) r = journal_get(db, read->task.seq, read->n, read->arena, &read->row);
    if (r == 0) r = journal_answer(db, read->task.seq, read->n, read->arena, &read->answer);
    if (r != 0) return r;
    r = journal_request(db, read->task.seq, read->n, &read->request);
    return r == -ENOENT || r == -EINVAL || r == -EFBIG ? 0 : r; /* shown without it */
}

static void row_write(JsonOut *out, const JournalRow *row)
{
    char key[SHA256_HEX_MAX];
    hex_encode(key, row->key, sizeof row->key);
    json_out_ki64(out, "number", row->n);
    json_out_ktime(out, "at", row->at_ms);
    json_out_ki64(out, "attempt", row->attempt);
    json_out_kcstr(out, "kind", replay_kind_name(row->kind));
    json_out_kstr(out, "name", row->name);
    json_out_kstr(out, "callId", row->call_id);
    json_out_kcstr(out, "hash", key);
    json_out_ki64(out, "status", row->status);
    json_out_kstr(out, "contentType", row->content_type);
    json_out_kbool(out, "streamed", row->streamed);
    json_out_kbool(out, "complete", row->complete);
    json_out_ki64(out, "answerBytes", row->answer_bytes);
    json_out_ki64(out, "requestBytes", row->request_bytes);
}

int task_journal_run_wait(ApiCall *call)
{
    JournalRead read = { .arena = &call->req->arena };
    int r = api_task_id_wait(call, &read.id);
    if (r == 0) r = api_param_i64_wait(call, "after", 0, INT64_MAX, 0, &read.n);
    if (r != 0) return r;
    r = store_read_wait(queue_store(call->api->options.queue), list_job, &read);
    if (r == -ENOENT) return api_problem_wait(call, 404, "task_not_found", "there is no such task");
    if (r < 0) return api_fail_wait(call, r);
    size_t n = MIN(read.rows_n, (size_t)PAGE_ROWS);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    JsonOut *out = &json.out;
    json_out_object(out);
    json_out_kuuid(out, "taskId", read.id);
    json_out_ki64(out, "replayedCalls", read.task.usage.replayed_calls);
    json_out_ki64(out, "missedCalls", read.misses);
    json_out_ki64(out, "bytes", read.fill.bytes);
    json_out_kbool(out, "full", read.fill.closed);
    json_out_key(out, "recordings");
    json_out_array(out);
    for (size_t i = 0; i < n; i++) {
        json_out_object(out);
        row_write(out, &read.rows[i]);
        json_out_object_end(out);
    }
    json_out_array_end(out);
    json_out_key(out, "nextAfter");
    if (read.rows_n > PAGE_ROWS) json_out_i64(out, read.rows[n - 1].n);
    else json_out_null(out);
    json_out_object_end(out);
    return api_json_wait(call, 200, &json);
}

/* --- one -------------------------------------------------------------------------------------- */

typedef struct {
    const JournalBytes *packed;
    Buf *out;
} UnpackJob;

static int unpack_job(void *arg)
{
    UnpackJob *job = arg;
    if (job->packed->gzip) return gzip_decompress(job->packed->bytes, job->out);
    return buf_add(job->out, job->packed->bytes) ? 0 : -EFBIG;
}

static void one_write(JsonOut *out, const JournalRead *read, Str answer, bool known)
{
    bool text = known && str_is_utf8(answer);
    json_out_object(out);
    json_out_kuuid(out, "taskId", read->id);
    row_write(out, &read->row);
    json_out_key(out, "request");
    if (read->row.kind == REPLAY_MODEL && read->request.len)
        json_out_raw(out, buf_str(&read->request));
    else json_out_null(out);
    json_out_key(out, "answer");
    if (text) json_out_str(out, answer);
    else json_out_null(out);
    json_out_key(out, "answerBase64");
    if (known && !text) json_out_base64(out, answer);
    else json_out_null(out);
    json_out_object_end(out);
}

int task_recording_run_wait(ApiCall *call)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    CLEANUP(buf_deinit) Buf answer = { 0 };
    JournalRead read = { .arena = &arena };
    int r = api_task_id_wait(call, &read.id);
    if (r != 0) return r;
    if (str_to_i64(call->params[1], &read.n) < 0) read.n = 0; /* there is none of that number */
    arena_init(&arena, MEMORY_BYTES_MAX);
    buf_init(&answer, ANSWER_BYTES_MAX);
    buf_init(&read.request, JOURNAL_REQUEST_MAX);
    r = store_read_wait(queue_store(call->api->options.queue), one_job, &read);
    if (r == 0) {
        CLEANUP(api_json_deinit) ApiJson json = { 0 };
        api_json(&json, API_JSON_BYTES_MAX);
        UnpackJob job = { &read.answer, &answer };
        bool known = work_wait(unpack_job, &job) == 0;
        one_write(&json.out, &read, buf_str(&answer), known);
        r = api_json_wait(call, 200, &json);
    } else if (r == -ENOENT)
        r = api_problem_wait(call, 404, "recording_not_found", "there is no such recording");
    else r = api_fail_wait(call, r);
    buf_deinit(&read.request);
    return r;
}
