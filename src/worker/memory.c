#include "worker/memory.h"

#include "base/diag.h"
#include "base/log.h"
#include "worker/door_state.h"

#define SCRATCH_BYTES_MAX ((size_t)128 << 20)
#define TRIES_MAX 10 /* when others write at the same time, or the answer to a write is lost */

/* What the key held. */
typedef struct {
    const Json *exchanges; /* [{"taskId","user","assistant"}] */
    int64_t version;       /* 0: nothing was there */
} Kept;

static bool remembers(const Run *run)
{
    return run->task.session_id.len > 0 && run->version->spec.memory_window > 0;
}

static int kept_read_wait(Run *run, Arena *arena, Kept *ret)
{
    const Json *v = NULL;
    StateAsk ask = { .what = STATE_GET, .key = STR(MEMORY_KEY), .if_version = STATE_ANY };
    StateReply reply = { .outcome = STATE_NONE };
    *ret = (Kept){ 0 };
    int r = run_state_wait(run, &ask, arena, &reply);
    if (r != 0 || reply.outcome != STATE_OK) return r;
    r = json_parse(arena, reply.row.value, NULL, &v, NULL);
    if (r == -ENOMEM) return r;
    *ret = (Kept){ json_get(v, "exchanges"), reply.row.version }; /* none, if it is not ours */
    return 0;
}

static bool is_own(const Run *run, const Json *exchange)
{
    return str_eq(json_str(json_get(exchange, "taskId")), str_of(run->id));
}

/* --- reading ---------------------------------------------------------------------------------- */

static int past_fill(Run *run, const Json *exchanges, Dialogue *dialogue)
{
    DialoguePast *past = ARENA_ARRAY(&run->arena, DialoguePast, json_len(exchanges) + 1);
    if (!past) return diag_set(-ENOMEM, "the session's memory is too long");
    for (JsonIter it = json_iter(exchanges); json_next(&it);) {
        if (is_own(run, it.value)) continue;
        DialoguePast *p = &past[dialogue->past_n++];
        p->user = arena_str(&run->arena, json_str(json_get(it.value, "user")));
        p->assistant = arena_str(&run->arena, json_str(json_get(it.value, "assistant")));
        if (!p->user.ptr || !p->assistant.ptr)
            return diag_set(-ENOMEM, "the session's memory is too long");
    }
    dialogue->past = past;
    return 0;
}

int memory_load_wait(Run *run, Dialogue *dialogue)
{
    CLEANUP(arena_deinit) Arena scratch = { 0 };
    Kept kept;
    if (!remembers(run)) return 0;
    arena_init(&scratch, SCRATCH_BYTES_MAX);
    int r = kept_read_wait(run, &scratch, &kept);
    return r == 0 ? past_fill(run, kept.exchanges, dialogue) : r;
}

/* --- writing ---------------------------------------------------------------------------------- */

static void exchange_write(JsonOut *out, Str task_id, Str user, Str assistant)
{
    json_out_object(out);
    json_out_kstr(out, "taskId", task_id);
    json_out_kstr(out, "user", user);
    json_out_kstr(out, "assistant", assistant);
    json_out_object_end(out);
}

/* The latest of what was kept, at most keep of them, and what is new. */
static bool memory_write(const Run *run, const Kept *kept, size_t keep, const Dialogue *dialogue,
                         Str answer, Buf *buf)
{
    size_t n = 0;
    JsonOut out = json_out(buf);
    for (JsonIter it = json_iter(kept->exchanges); json_next(&it);) n += !is_own(run, it.value);
    size_t skip = n > keep ? n - keep : 0;
    json_out_object(&out);
    json_out_key(&out, "exchanges");
    json_out_array(&out);
    for (JsonIter it = json_iter(kept->exchanges); json_next(&it);) {
        if (is_own(run, it.value) || (skip > 0 && skip--)) continue;
        json_out_value(&out, it.value);
    }
    exchange_write(&out, str_of(run->id), dialogue->input, answer);
    json_out_array_end(&out);
    json_out_object_end(&out);
    return json_out_ok(&out);
}

static int put_wait(Run *run, const Kept *kept, size_t keep, const Dialogue *dialogue, Str answer,
                    StateOutcome *ret)
{
    CLEANUP(buf_deinit) Buf buf = { 0 };
    CLEANUP(arena_deinit) Arena scratch = { 0 };
    StateReply reply;
    buf_init(&buf, SCRATCH_BYTES_MAX);
    arena_init(&scratch, SCRATCH_BYTES_MAX);
    *ret = STATE_TOO_LARGE;
    if (!memory_write(run, kept, keep, dialogue, answer, &buf)) return 0;
    StateAsk ask = { .what = STATE_PUT,
                     .key = STR(MEMORY_KEY),
                     .value = buf_str(&buf),
                     .content_type = STR("application/json"),
                     .if_version = kept->version };
    int r = run_state_wait(run, &ask, &scratch, &reply);
    *ret = r == 0 ? reply.outcome : STATE_MISMATCH; /* not known: to be looked at again */
    return r;
}

/* Reads, adds, writes; with half as much of the past as often as it is too long. */
static int save_once_wait(Run *run, const Dialogue *dialogue, Str answer, StateOutcome *ret)
{
    CLEANUP(arena_deinit) Arena scratch = { 0 };
    Kept kept;
    size_t keep = (size_t)run->version->spec.memory_window / 2;
    keep = keep ? keep - 1 : 0; /* the new one has its place */
    arena_init(&scratch, SCRATCH_BYTES_MAX);
    int r = kept_read_wait(run, &scratch, &kept);
    for (; r == 0; keep /= 2) {
        r = put_wait(run, &kept, keep, dialogue, answer, ret);
        bool too_long = *ret == STATE_TOO_LARGE || *ret == STATE_FULL;
        if (r != 0 || !too_long || keep == 0) break;
    }
    return r;
}

int memory_save_wait(Run *run, const Dialogue *dialogue, Str answer)
{
    StateOutcome outcome = STATE_MISMATCH;
    int r = 0;
    if (!remembers(run)) return 0;
    for (int i = 0; i < TRIES_MAX && outcome == STATE_MISMATCH; i++) {
        r = save_once_wait(run, dialogue, answer, &outcome);
        if (r == -ECANCELED) return r;
    }
    if (r == 0 && outcome == STATE_OK) return 0;
    const char *why = r < 0                       ? diag_text_or(r)
                      : outcome == STATE_MISMATCH ? "others write too"
                                                  : "there is no room";
    LOG_WARN("conversation not remembered", LOG_CSTR("why", why));
    task_log_printf(&run->log, "the conversation was not remembered: %s", why);
    return 0;
}
