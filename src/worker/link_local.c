#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "logic/flag.h"
#include "store/artifact_store.h"
#include "store/flag_store.h"
#include "store/price_store.h"
#include "sys/clock.h"
#include "sys/entropy.h"
#include "worker/wire.h"

#define LEASE_DEFAULT_MS 10000

typedef struct {
    WorkerLink link;
    Queue *queue;
    RateBoard *board;
    void (*task_json)(JsonOut *out, const Task *task, unsigned flags);
    int64_t lease_ms;
    Uuid7Gen ids;
    Uuid worker_id;
} LocalLink;

static LocalLink *local_of(WorkerLink *link)
{
    return CONTAINER_OF(link, LocalLink, link);
}

/* What a worker tells of a task, it tells of one that it holds. */
static TaskRef held(WorkerLink *link, TaskRef task)
{
    task.worker_id = local_of(link)->worker_id;
    return task;
}

/* The queue's outcomes in the link's words. */
static int outcome(int r)
{
    if (r <= 0) return r;
    if (r == QUEUE_E_STALE || r == QUEUE_E_NO_TASK) return LINK_E_STALE;
    if (r == QUEUE_E_NO_WORKER) return LINK_E_NO_WORKER;
    if (r == QUEUE_E_NO_RECORDING) return LINK_E_NO_RECORDING;
    return LINK_E_REFUSED;
}

static int slots_text(const LaneConfig *slots, Buf *buf)
{
    buf_init(buf, 1024);
    JsonOut out = json_out(buf);
    wire_slots_write(&out, slots);
    return json_out_ok(&out) ? 0 : -ENOMEM;
}

static int local_register_wait(WorkerLink *link, const LinkWorker *worker, LinkLease *ret)
{
    LocalLink *local = local_of(link);
    uint8_t random[UUID7_RANDOM_BYTES];
    CLEANUP(buf_deinit) Buf slots = { 0 };
    int r = slots_text(&worker->slots, &slots);
    if (r < 0) return r;
    entropy_fill(random, sizeof random);
    WorkerNew new = {
        .id = uuid7_next(&local->ids, clock_real_ms(), random),
        .name = str_of(worker->name),
        .kind = WORKER_EMBEDDED,
        .slots = buf_str(&slots),
    };
    r = outcome(queue_register_wait(local->queue, &new));
    if (r != 0) return r;
    local->worker_id = new.id;
    uuid_text(new.id, ret->worker_id);
    ret->lease_ms = local->lease_ms;
    ret->heartbeat_ms = local->lease_ms / 3;
    return 0;
}

static int local_claim_wait(WorkerLink *link, const LaneConfig *free, int64_t wait_ms, Arena *arena,
                            LinkTask **ret, size_t *ret_n)
{
    LocalLink *local = local_of(link);
    assert(!uuid_is_zero(local->worker_id));
    Claim claim = { .worker_id = local->worker_id, .slots = *free };
    Task *tasks;
    size_t n;
    *ret_n = 0;
    int r = queue_claim_wait(local->queue, &claim, deadline_after(wait_ms), arena, &tasks, &n);
    if (r == -ETIMEDOUT) return 0;
    if (r != 0) return outcome(r);
    LinkTask *list = ARENA_ARRAY(arena, LinkTask, n);
    if (!list) return diag_set(-ENOMEM, "no memory for %zu claimed tasks", n);
    for (size_t i = 0; i < n; i++) list[i] = link_task_from(&tasks[i]);
    *ret = list;
    *ret_n = n;
    return 0;
}

static int local_heartbeat_wait(WorkerLink *link, const Heartbeat *beat, Arena *arena,
                                HeartbeatReply *ret)
{
    LocalLink *local = local_of(link);
    return outcome(queue_heartbeat_wait(local->queue, local->worker_id, beat, arena, ret));
}

static int local_signal_wait(WorkerLink *link, uint64_t mark, int64_t deadline_ms)
{
    LocalLink *local = local_of(link);
    return queue_signal_wait(local->queue, local->worker_id, mark, deadline_ms);
}

static int local_finish_wait(WorkerLink *link, const TaskFinish *finish)
{
    TaskFinish mine = *finish;
    mine.task = held(link, finish->task);
    return outcome(queue_finish_wait(local_of(link)->queue, &mine, NULL));
}

static int local_score_wait(WorkerLink *link, const TaskScore *score)
{
    double quality;
    TaskScore mine = *score;
    mine.worker_id = local_of(link)->worker_id;
    return outcome(queue_score_wait(local_of(link)->queue, &mine, &quality));
}

static int local_calls_wait(WorkerLink *link, TaskRef task, Uuid payer_id, const GatewayCall *calls,
                            size_t calls_n)
{
    Call rows[16];
    if (uuid_is_zero(payer_id)) payer_id = local_of(link)->worker_id;
    assert(calls_n <= ARRAY_N(rows));
    for (size_t i = 0; i < calls_n; i++) {
        rows[i] = call_from_gateway(&calls[i]);
        rows[i].fence = task.fence;
        rows[i].worker_id = payer_id;
    }
    return outcome(queue_calls_add_wait(local_of(link)->queue, held(link, task), rows, calls_n));
}

static int local_tools_wait(WorkerLink *link, TaskRef task, const ToolRecord *records, size_t n)
{
    return outcome(queue_tools_add_wait(local_of(link)->queue, held(link, task), records, n));
}

static int request_read_wait(Queue *queue, TaskRef task, int64_t n, Arena *arena, Str *ret)
{
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, JOURNAL_REQUEST_MAX);
    int r = queue_journal_request_wait(queue, task, n, &text);
    if (r != 0) return r;
    *ret = arena_str(arena, buf_str(&text));
    return ret->ptr ? 0 : -ENOMEM;
}

static int local_journal_wait(WorkerLink *link, TaskRef task, const JournalAsk *ask, Arena *arena,
                              JournalReply *ret)
{
    Queue *queue = local_of(link)->queue;
    task = held(link, task);
    switch (ask->what) {
    case JOURNAL_LIST:
        if (ask->twin)
            return outcome(queue_twin_list_wait(queue, task, ask->n, JOURNAL_PAGE_MAX, arena,
                                                &ret->rows, &ret->rows_n));
        return outcome(queue_journal_list_wait(queue, task, ask->n, JOURNAL_PAGE_MAX, arena,
                                               &ret->rows, &ret->rows_n));
    case JOURNAL_ANSWER:
        if (ask->twin)
            return outcome(
                queue_twin_answer_wait(queue, task, ask->n, arena, &ret->row, &ret->answer));
        return outcome(
            queue_journal_answer_wait(queue, task, ask->n, arena, &ret->row, &ret->answer));
    case JOURNAL_OWNS: return outcome(queue_response_owned_wait(queue, task, ask->id));
    case JOURNAL_REQUEST:
        return outcome(request_read_wait(queue, task, ask->n, arena, &ret->request));
    }
    return -EINVAL;
}

static int local_journal_add_wait(WorkerLink *link, TaskRef task, const JournalNew *recording)
{
    return outcome(queue_journal_add_wait(local_of(link)->queue, held(link, task), recording, 1));
}

static int local_state_wait(WorkerLink *link, TaskRef task, const StateAsk *ask, Arena *arena,
                            StateReply *ret)
{
    return outcome(queue_state_wait(local_of(link)->queue, held(link, task), ask, arena, ret));
}

static int local_escalate_wait(WorkerLink *link, TaskRef task, const EscalationAsk *ask,
                               Arena *arena, EscalationReply *ret)
{
    return outcome(queue_escalate_wait(local_of(link)->queue, held(link, task), ask, arena, ret));
}

static int local_grants_wait(WorkerLink *link, const BudgetAsk *ask, int64_t wait_ms, Arena *arena,
                             BudgetAnswer *ret)
{
    LocalLink *local = local_of(link);
    return outcome(queue_grants_wait(local->queue, local->worker_id, ask, deadline_after(wait_ms),
                                     arena, ret));
}

static int local_account_wait(WorkerLink *link, const BudgetOwner *owner, Uuid *ret)
{
    return outcome(queue_account_wait(local_of(link)->queue, owner, ret));
}

static int local_holds_wait(WorkerLink *link, Uuid dead_id, const BudgetHold *holds, size_t n)
{
    LocalLink *local = local_of(link);
    return outcome(queue_holds_wait(local->queue, local->worker_id, dead_id, holds, n));
}

static int local_logs_wait(WorkerLink *link, TaskRef task, const TaskLogLine *lines, size_t lines_n)
{
    return outcome(
        queue_logs_append_wait(local_of(link)->queue, held(link, task), lines, lines_n, NULL));
}

static int local_cache_wait(WorkerLink *link, const CacheFigures *figures, int64_t seen,
                            Arena *arena, CacheNews *ret)
{
    LocalLink *local = local_of(link);
    return queue_cache_report_wait(local->queue, local->worker_id, figures, seen, arena, ret);
}

/* --- children --------------------------------------------------------------------------------- */

/* As outcome, where a child is named. */
static int child_outcome(int r)
{
    return r == QUEUE_E_NO_TASK ? LINK_E_NO_CHILD : outcome(r);
}

static int local_child_start_wait(WorkerLink *link, TaskRef task, const ChildNew *child,
                                  Arena *arena, LinkChild *ret)
{
    ChildStarted started;
    int r = queue_child_wait(local_of(link)->queue, held(link, task), child, &started);
    if (r != 0) return outcome(r);
    *ret = link_child_from(&started, str_of(diag_text()));
    Str *texts[] = { &ret->agent, &ret->version_id, &ret->detail };
    for (size_t i = 0; i < ARRAY_N(texts); i++) {
        *texts[i] = arena_str(arena, *texts[i]);
        if (!texts[i]->ptr) return -ENOMEM;
    }
    return 0;
}

static int local_children_wait(WorkerLink *link, TaskRef task, int64_t seen, int64_t wait_ms,
                               Arena *arena, FamilyRow **ret, size_t *ret_n)
{
    return outcome(queue_children_wait(local_of(link)->queue, held(link, task), seen,
                                       deadline_after(wait_ms), arena, ret, ret_n));
}

static int local_child_wait(WorkerLink *link, TaskRef task, Uuid child, Arena *arena, Str *ret)
{
    LocalLink *local = local_of(link);
    CLEANUP(buf_deinit) Buf text = { 0 };
    Task found;
    assert(local->task_json);
    int r = queue_child_get_wait(local->queue, held(link, task), child, arena, &found);
    if (r != 0) return child_outcome(r);
    buf_init(&text, arena->max);
    JsonOut out = json_out(&text);
    local->task_json(&out, &found, LINK_TASK_JSON_FLAGS);
    *ret = arena_str(arena, buf_str(&text));
    return json_out_ok(&out) && ret->ptr ? 0 : diag_set(-ENOMEM, "the task is too large");
}

static int local_child_cancel_wait(WorkerLink *link, TaskRef task, Uuid child)
{
    return child_outcome(queue_child_cancel_wait(local_of(link)->queue, held(link, task), child));
}

/* --- flags ------------------------------------------------------------------------------------ */

typedef struct {
    Arena *arena;
    LinkFlags flags;
} FlagsJob;

static int rows_parse(Arena *arena, const FlagRow *rows, size_t n, const FlagSet **ret)
{
    FlagFault fault;
    size_t kept = 0;
    Flag *items = ARENA_ARRAY(arena, Flag, n + 1);
    FlagSet *set = ARENA_NEW(arena, FlagSet);
    if (!items || !set) return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        const Json *definition;
        int r = json_parse(arena, rows[i].definition, NULL, &definition, NULL);
        if (r == 0) r = flag_parse(arena, rows[i].key, definition, &items[kept], &fault);
        if (r == -ENOMEM) return r;
        kept += r == 0;
    }
    *set = (FlagSet){ items, kept };
    *ret = set;
    return 0;
}

static int flags_job(Db *db, void *arg)
{
    FlagsJob *job = arg;
    FlagRow *rows;
    size_t n;
    int r = flag_revision(db, &job->flags.revision);
    if (r == 0) r = flag_list(db, job->arena, &rows, &n);
    return r == 0 ? rows_parse(job->arena, rows, n, &job->flags.set) : r;
}

static int local_flags_wait(WorkerLink *link, Arena *arena, LinkFlags *ret)
{
    FlagsJob job = { .arena = arena };
    int r = store_read_wait(queue_store(local_of(link)->queue), flags_job, &job);
    if (r == 0) *ret = job.flags;
    return r;
}

/* --- prices ----------------------------------------------------------------------------------- */

static int prices_job(Db *db, void *arg)
{
    return price_entries_write(db, arg);
}

static int local_prices_wait(WorkerLink *link, Buf *out)
{
    return store_read_wait(queue_store(local_of(link)->queue), prices_job, out);
}

/* --- versions --------------------------------------------------------------------------------- */

typedef struct {
    Str id;
    Arena *arena;
    Version version;
} VersionJob;

static int version_job(Db *db, void *arg)
{
    VersionJob *job = arg;
    return version_get(db, job->id, job->arena, &job->version);
}

static int local_version_wait(WorkerLink *link, Str version_id, Arena *arena, LinkVersion *ret)
{
    VersionJob job = { .id = version_id, .arena = arena };
    int r = store_read_wait(queue_store(local_of(link)->queue), version_job, &job);
    if (r == -ENOENT || r > 0) {
        diag_set(0, "there is no version %.*s", STR_ARG(version_id));
        return LINK_E_NO_VERSION;
    }
    if (r < 0) return r;
    *ret = (LinkVersion){ job.version.id, job.version.components, job.version.artifact };
    return 0;
}

typedef struct {
    const char *data_dir;
    Str hex;
    Buf *out;
} ArtifactJob;

static int artifact_job(void *arg)
{
    ArtifactJob *job = arg;
    return artifact_get(job->data_dir, job->hex, job->out);
}

static int local_artifact_wait(WorkerLink *link, const LinkVersion *version, Buf *out)
{
    const char *data_dir = store_path(queue_store(local_of(link)->queue));
    ArtifactJob job = { data_dir, version->artifact, out };
    int r = work_wait(artifact_job, &job);
    return r == -ENOENT ? LINK_E_NO_VERSION : r;
}

static int local_rates_wait(WorkerLink *link, const RateTelling *telling, GatewayShare *ret,
                            int64_t *ret_ttl_ms)
{
    LocalLink *local = local_of(link);
    char id[UUID_TEXT_MAX];
    *ret_ttl_ms = 0;
    if (!local->board) return 0;
    *ret_ttl_ms = rate_board_ttl_ms(local->board);
    return rate_board_tell(local->board, str_of(uuid_text(local->worker_id, id)), telling, ret);
}

static int local_drain_wait(WorkerLink *link)
{
    LocalLink *local = local_of(link);
    return outcome(queue_drain_wait(local->queue, local->worker_id));
}

static int local_leave_wait(WorkerLink *link)
{
    LocalLink *local = local_of(link);
    char id[UUID_TEXT_MAX];
    if (local->board) rate_board_leave(local->board, str_of(uuid_text(local->worker_id, id)));
    return outcome(queue_leave_wait(local->queue, local->worker_id));
}

static void local_free(WorkerLink *link)
{
    free(local_of(link));
}

static const WorkerLinkOps local_ops = {
    .register_wait = local_register_wait,
    .claim_wait = local_claim_wait,
    .heartbeat_wait = local_heartbeat_wait,
    .signal_wait = local_signal_wait,
    .flags_wait = local_flags_wait,
    .prices_wait = local_prices_wait,
    .cache_wait = local_cache_wait,
    .rates_wait = local_rates_wait,
    .finish_wait = local_finish_wait,
    .score_wait = local_score_wait,
    .calls_wait = local_calls_wait,
    .tools_wait = local_tools_wait,
    .journal_wait = local_journal_wait,
    .journal_add_wait = local_journal_add_wait,
    .state_wait = local_state_wait,
    .escalate_wait = local_escalate_wait,
    .grants_wait = local_grants_wait,
    .account_wait = local_account_wait,
    .holds_wait = local_holds_wait,
    .child_start_wait = local_child_start_wait,
    .children_wait = local_children_wait,
    .child_wait = local_child_wait,
    .child_cancel_wait = local_child_cancel_wait,
    .logs_wait = local_logs_wait,
    .version_wait = local_version_wait,
    .artifact_wait = local_artifact_wait,
    .drain_wait = local_drain_wait,
    .leave_wait = local_leave_wait,
    .free = local_free,
};

WorkerLink *link_local_new(const LinkLocalOptions *options)
{
    LocalLink *local = xcalloc(1, sizeof *local);
    assert(options->queue);
    local->link.ops = &local_ops;
    local->queue = options->queue;
    local->board = options->board;
    local->task_json = options->task_json;
    local->lease_ms = options->lease_ms ? options->lease_ms : LEASE_DEFAULT_MS;
    return &local->link;
}

void link_free(WorkerLink *link)
{
    if (link) link->ops->free(link);
}
