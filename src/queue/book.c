/* Booking of recorded calls: rows, journal, usage of their tasks, budgets and spend.
 *
 * Calls that are recorded at a time are booked at a time: what they add to the same budgets and the
 * same sums of spend is added up first and written once.
 */
#include <stdlib.h>

#include "base/diag.h"
#include "base/map.h"
#include "queue/queue_private.h"
#include "store/account_store.h"
#include "store/spend_store.h"
#include "sys/entropy.h"

#define BOOK_ARENA_MAX ((size_t)16 << 20)
#define FACTS_BYTES_MAX (64 * 1024)
#define SUM_KEY_BYTES_MAX (64 * 1024)
#define KNOWN_TASKS_N 1024
#define CALL_SLACK_DIVISOR 24
#define CALL_SLACK_MAX_US 8000
#define CALL_LONG_MS 60000

/* --- tasks that call often -------------------------------------------------------------------- */

/* What is the same in all calls of an attempt, and where its journal stood. The store thread's. */
typedef struct {
    TaskRef task; /* id zero: free */
    TaskFacts facts;
    JournalLast last;
    Arena arena;
} KnownTask;

struct KnownTasks {
    uint64_t seed;                 /* of the maps: what is in them is chosen by others */
    KnownTask list[KNOWN_TASKS_N]; /* by a hash of the id: the newer displaces the older */
};

KnownTasks *known_tasks_new(void)
{
    KnownTasks *tasks = xcalloc(1, sizeof *tasks);
    tasks->seed = entropy_u64();
    return tasks;
}

static void known_clear(KnownTask *known)
{
    if (uuid_is_zero(known->task.id)) return;
    arena_deinit(&known->arena);
    *known = (KnownTask){ 0 };
}

static void known_clear_all(KnownTasks *tasks)
{
    for (size_t i = 0; i < KNOWN_TASKS_N; i++) known_clear(&tasks->list[i]);
}

void known_tasks_free(KnownTasks *tasks)
{
    if (!tasks) return;
    known_clear_all(tasks);
    free(tasks);
}

/* The last bytes of an id are random. */
static KnownTask *known_slot(KnownTasks *tasks, Uuid id)
{
    size_t i = id.bytes[14] * 256u + id.bytes[15];
    return &tasks->list[i % KNOWN_TASKS_N];
}

void known_tasks_forget(KnownTasks *tasks, Uuid id)
{
    known_clear(known_slot(tasks, id));
}

static bool is_account(TaskRef task)
{
    return task.fence == TASK_FENCE_ACCOUNT;
}

/* fence: as in task_facts; of no account. */
static int facts_of(Db *db, TaskRef task, int64_t fence, Arena *arena, TaskFacts *ret)
{
    return is_account(task) ? account_facts(db, task.id, arena, ret)
                            : task_facts(db, task.id, fence, arena, ret);
}

/* Of an account everybody may report calls. */
static int known_of(const KnownTask *known, TaskRef task)
{
    return is_account(task) || ref_is_of(task, known->facts.worker_id) ? 0 : -ENOENT;
}

/* Returns 0, -ENOENT (the task does not run under that fence, or with that worker), -ENOMEM,
 * -errno. */
static int known_task(KnownTasks *tasks, Db *db, TaskRef task, KnownTask **ret)
{
    KnownTask *known = *ret = known_slot(tasks, task.id);
    if (known->task.fence == task.fence && uuid_eq(known->task.id, task.id))
        return known_of(known, task);
    known_clear(known);
    arena_init(&known->arena, FACTS_BYTES_MAX);
    int r = facts_of(db, task, task.fence, &known->arena, &known->facts);
    if (r == 0) known->task = task;
    else arena_deinit(&known->arena);
    return r == 0 ? known_of(known, task) : r;
}

/* --- sums ------------------------------------------------------------------------------------- */

/* What calls of one owner, that one worker reported, have cost in a day. */
typedef struct {
    BudgetOwner owner;
    Uuid worker_id;
    int64_t at_ms; /* of one of them */
    CapHold spent;
} OwnerSum;

typedef struct {
    SpendKey key;
    Spend sum;
} SpendSum;

typedef struct {
    int64_t seq, used_at_ms;
    Spend sum;
} AccountSum;

typedef struct {
    Queue *queue;
    Db *db;
    Arena arena;
    Buf key;
    bool full;
    Map owners, spends, accounts; /* OwnerSum, SpendSum, AccountSum */
} Booking;

static void booking_init(Booking *b, Queue *queue, Db *db)
{
    b->queue = queue;
    b->db = db;
    arena_init(&b->arena, BOOK_ARENA_MAX);
    buf_init(&b->key, SUM_KEY_BYTES_MAX);
    b->full = false;
    map_init(&b->owners, queue->known->seed);
    map_init(&b->spends, queue->known->seed);
    map_init(&b->accounts, queue->known->seed);
}

static void booking_deinit(Booking *b)
{
    map_deinit(&b->owners);
    map_deinit(&b->spends);
    map_deinit(&b->accounts);
    buf_deinit(&b->key);
    arena_deinit(&b->arena);
}

static void key_text(Buf *key, Str text)
{
    uint32_t len = (uint32_t)text.len;
    buf_add(key, str_make((const char *)&len, sizeof len));
    buf_add(key, text);
}

static void key_i64(Buf *key, int64_t v)
{
    buf_add(key, str_make((const char *)&v, sizeof v));
}

/* The sum of b->key in the map; a new one is zero but for what its caller fills in. NULL: no
 * memory. */
static void *sum_of(Booking *b, Map *map, size_t size, bool *ret_new)
{
    if (b->key.failed) return NULL;
    void *sum = map_get(map, buf_str(&b->key));
    *ret_new = !sum;
    if (sum) return sum;
    Str key = arena_str(&b->arena, buf_str(&b->key));
    sum = arena_zalloc(&b->arena, size);
    if (!key.ptr || !sum) return NULL;
    map_put(map, key, sum);
    return sum;
}

static int no_memory(void)
{
    return diag_set(-ENOMEM, "no memory to add up calls");
}

/* Facts last until another task takes their place, sums to the end. */
static Str keep(Booking *b, Str text)
{
    Str kept = arena_str(&b->arena, text);
    b->full = b->full || !kept.ptr;
    return kept;
}

/* What repeats production's tasks is limited by its rollout, and by what limits everything. */
static BudgetOwner owner_of(const TaskFacts *facts)
{
    if (facts->shadow) return (BudgetOwner){ STR_NULL };
    return (BudgetOwner){ facts->agent, facts->tenant_id, facts->user_id };
}

static int owner_add(Booking *b, const TaskFacts *facts, const Call *call)
{
    bool is_new;
    if (call->replayed || call->cached) return 0;
    if (call->charged_tokens == 0 && call->cost_nusd == 0) return 0;
    buf_clear(&b->key);
    BudgetOwner owner = owner_of(facts);
    key_text(&b->key, owner.agent);
    key_text(&b->key, owner.tenant);
    key_text(&b->key, owner.user);
    key_text(&b->key, str_make((const char *)call->worker_id.bytes, sizeof call->worker_id.bytes));
    key_i64(&b->key, ledger_day_ms(call->at_ms));
    OwnerSum *sum = sum_of(b, &b->owners, sizeof *sum, &is_new);
    if (!sum) return no_memory();
    if (is_new) {
        sum->owner = (BudgetOwner){ keep(b, owner.agent), keep(b, owner.tenant),
                                    keep(b, owner.user) };
        sum->worker_id = call->worker_id;
        sum->at_ms = call->at_ms;
    }
    if (b->full) return no_memory();
    sum->spent.tokens = money_add(sum->spent.tokens, call->charged_tokens);
    sum->spent.nusd = money_add(sum->spent.nusd, call->cost_nusd);
    return 0;
}

static void sum_add(Spend *sum, const Call *call)
{
    sum->calls++;
    sum->input_tokens = money_add(sum->input_tokens, call->input_tokens);
    sum->output_tokens = money_add(sum->output_tokens, call->output_tokens);
    sum->cached_tokens = money_add(sum->cached_tokens, call->cached_tokens);
    sum->cost_nusd = money_add(sum->cost_nusd, call->cost_nusd);
    sum->charged_tokens = money_add(sum->charged_tokens, call->charged_tokens);
}

static void shadow_sum_add(Spend *sum, const Call *call)
{
    sum->shadow_nusd = money_add(sum->shadow_nusd, call->cost_nusd);
    sum->shadow_tokens = money_add(sum->shadow_tokens, call->charged_tokens);
}

static int spend_sum_add(Booking *b, const TaskFacts *facts, const Call *call)
{
    bool is_new;
    if (call->replayed || str_eq(call->outcome, STR(CALL_REFUSED))) return 0;
    SpendKey key = { .hour_ms = call->at_ms - call->at_ms % SPEND_HOUR_MS,
                     .model = call->model,
                     .provider = call->provider };
    buf_clear(&b->key);
    key_i64(&b->key, key.hour_ms);
    key_text(&b->key, facts->version_id);
    key_text(&b->key, facts->agent);
    BudgetOwner owner = owner_of(facts);
    key_text(&b->key, owner.user);
    key_text(&b->key, owner.tenant);
    key_text(&b->key, call->model);
    key_text(&b->key, call->provider);
    SpendSum *of = sum_of(b, &b->spends, sizeof *of, &is_new);
    if (!of) return no_memory();
    if (is_new) {
        of->key = key;
        of->key.agent = keep(b, facts->agent);
        of->key.version_id = keep(b, facts->version_id);
        of->key.user_id = keep(b, owner.user);
        of->key.tenant_id = keep(b, owner.tenant);
    }
    if (b->full) return no_memory();
    sum_add(&of->sum, call);
    if (facts->shadow) shadow_sum_add(&of->sum, call);
    return 0;
}

static int account_sum_add(Booking *b, int64_t seq, const Call *call)
{
    bool is_new;
    buf_clear(&b->key);
    key_i64(&b->key, seq);
    AccountSum *of = sum_of(b, &b->accounts, sizeof *of, &is_new);
    if (!of) return no_memory();
    of->seq = seq;
    of->used_at_ms = MAX(of->used_at_ms, call->at_ms);
    sum_add(&of->sum, call);
    return 0;
}

static int sums_write(Booking *b)
{
    size_t at = 0;
    int r = 0;
    for (const OwnerSum *s; r == 0 && (s = map_next(&b->owners, &at));)
        r = ledger_settle(b->queue, b->db, &s->owner, s->worker_id, s->at_ms, &s->spent);
    at = 0;
    for (const SpendSum *s; r == 0 && (s = map_next(&b->spends, &at));)
        r = spend_add(b->db, &s->key, &s->sum);
    at = 0;
    for (const AccountSum *s; r == 0 && (s = map_next(&b->accounts, &at));)
        r = account_add(b->db, s->seq, &s->sum, s->used_at_ms);
    return r;
}

/* --- calls ------------------------------------------------------------------------------------ */

static void usage_add(TaskUsage *sum, const Call *call)
{
    if (call->replayed) { /* its tokens were counted when they were bought */
        sum->replayed_calls++;
        return;
    }
    sum->degraded_calls += call->degraded.len > 0;
    if (str_eq(call->outcome, STR(CALL_REFUSED))) return;
    sum->llm_calls++;
    sum->cached_calls += call->cached;
    sum->input_tokens = money_add(sum->input_tokens, call->input_tokens);
    sum->output_tokens = money_add(sum->output_tokens, call->output_tokens);
    sum->cached_tokens = money_add(sum->cached_tokens, call->cached_tokens);
    sum->cost_nusd = money_add(sum->cost_nusd, call->cost_nusd);
    sum->charged_tokens = money_add(sum->charged_tokens, call->charged_tokens);
    sum->tool_calls += call->tool_calls;
}

/* Returns 0, DB_E_CONFLICT (it is there already, recording and all), -errno. */
static int call_add(Booking *b, TaskFacts *facts, const Call *call, JournalFill *fill,
                    JournalLast *last, JournalKept *kept)
{
    int64_t row = facts->seq < 0 ? 0 : facts->last_call_id; /* accounts have no list */
    int r = call_insert(b->db, facts->seq, call, &row);
    if (r == 0) facts->last_call_id = row;
    JournalOf of = { .task_seq = facts->seq,
                     .call_row = row,
                     .attempt = facts->attempt,
                     .version_id = facts->version_id };
    if (r == 0) r = owner_add(b, facts, call);
    if (r == 0) r = spend_sum_add(b, facts, call);
    if (r == 0 && facts->seq < 0) r = account_sum_add(b, facts->seq, call);
    if (r == 0 && call->recording)
        r = journal_keep(b->queue, b->db, &of, call->recording, fill, last, kept);
    if (r == 0 && call->replay_missed) r = journal_add_misses(b->db, facts->seq, 1, call->at_ms);
    return r;
}

/* Undoes what was charged for a call that was thought lost, and became this one. */
static int lost_refund(Booking *b, const TaskFacts *facts, const Call *lost, const Call *call)
{
    const BudgetOwner owner = owner_of(facts);
    const SpendKey key = { .hour_ms = lost->at_ms - lost->at_ms % SPEND_HOUR_MS,
                           .agent = facts->agent,
                           .version_id = facts->version_id,
                           .user_id = owner.user,
                           .tenant_id = owner.tenant,
                           .model = lost->model,
                           .provider = lost->provider };
    const CapHold charge = { lost->charged_tokens, lost->cost_nusd };
    const CapHold again = { call->charged_tokens, call->cost_nusd };
    const Spend refund = { .calls = -1,
                           .cost_nusd = -charge.nusd,
                           .charged_tokens = -charge.tokens,
                           .shadow_nusd = facts->shadow ? -charge.nusd : 0,
                           .shadow_tokens = facts->shadow ? -charge.tokens : 0 };
    const TaskUsage less = { .llm_calls = -1,
                             .cost_nusd = -lost->cost_nusd,
                             .charged_tokens = -lost->charged_tokens };
    int r = ledger_refund(b->queue, b->db, &owner, call->worker_id, lost->at_ms, &charge, &again);
    if (r == 0) r = spend_add(b->db, &key, &refund);
    if (facts->seq < 0) return r == 0 ? account_refund(b->db, facts->seq, lost->cost_nusd) : r;
    if (r == 0) r = task_add_usage(b->db, facts->seq, &less);
    return r == 0 ? family_late(b->db, facts->seq, &less) : r;
}

/* The task has it already. Most often it was sent twice, for the answer was lost. But its worker
 * may have outlived its lease, at whose end the call was recorded as lost and charged in full: then
 * this is what became of it. */
static int call_known(Booking *b, const TaskFacts *facts, const Call *call, TaskUsage *sum)
{
    Call lost;
    if (str_eq(call->outcome, STR(CALL_LOST))) return 0;
    int r = call_replace_lost(b->db, facts->seq, call, &b->arena, &lost);
    if (r == -ENOENT) return 0;
    if (r == 0) r = lost_refund(b, facts, &lost, call);
    if (r == 0) r = owner_add(b, facts, call);
    if (r == 0) r = spend_sum_add(b, facts, call);
    if (r == 0 && facts->seq < 0) r = account_sum_add(b, facts->seq, call);
    if (r == 0) usage_add(sum, call);
    return r;
}

int calls_book(Queue *queue, Db *db, TaskRef task, const Call *calls, size_t n, JournalKept *kept)
{
    Booking b;
    TaskFacts facts;
    TaskUsage sum = { 0 };
    booking_init(&b, queue, db);
    known_tasks_forget(queue->known, task.id); /* its journal moves on */
    int r = facts_of(db, task, 0, &b.arena, &facts);
    for (size_t i = 0; i < n && r == 0; i++) {
        r = call_add(&b, &facts, &calls[i], &facts.journal, NULL, kept);
        if (r == 0) usage_add(&sum, &calls[i]);
        if (r == DB_E_CONFLICT) r = call_known(&b, &facts, &calls[i], &sum);
    }
    if (r == 0 && !is_account(task)) r = task_add_usage(db, facts.seq, &sum);
    if (r == 0 && !is_account(task)) r = call_note_last(db, facts.seq, facts.last_call_id);
    if (r == 0 && !is_account(task)) r = family_late(db, facts.seq, &sum);
    if (r == 0 && kept->recordings + kept->dropped)
        r = journal_fill_write(db, facts.seq, &facts.journal);
    if (r == 0) r = sums_write(&b);
    booking_deinit(&b);
    return r;
}

/* --- reports ---------------------------------------------------------------------------------- */

typedef struct {
    Queue *queue;
    TaskRef task;
    const Call *calls;
    size_t n;
    JournalKept kept;
    bool stale; /* recorded, but of an attempt that is not the task's any more */
} Report;

/* Calls of an attempt that is not the task's any more were paid for all the same. Without an id
 * they could be counted twice, so those are left out. */
static int report_late(Db *db, Report *report)
{
    size_t n = 0;
    CLEANUP(freep) Call *late = xcalloc(report->n, sizeof *late);
    report->stale = true;
    for (size_t i = 0; i < report->n; i++) {
        if (str_empty(report->calls[i].call_id)) continue;
        late[n] = report->calls[i];
        late[n++].recording = NULL;
    }
    TaskHead head;
    int r = task_head(db, report->task.id, &head);
    if (r != 0) return r == -ENOENT ? 0 : r;
    /* a task at rest was counted without them */
    r = rollup_news_add(db, head.seq, -1, NEWS_TASK | NEWS_SCORE);
    if (r == 0) r = calls_book(report->queue, db, report->task, late, n, &report->kept);
    return r == 0 ? rollup_news_add(db, head.seq, 1, NEWS_TASK | NEWS_SCORE) : r;
}

static int report_to_account(Db *db, Report *report)
{
    int r = calls_book(report->queue, db, report->task, report->calls, report->n, &report->kept);
    return r == -ENOENT ? diag_set(QUEUE_E_STALE, "there is no such account") : r;
}

static int report_job(Db *db, void *arg)
{
    Report *report = arg;
    TaskHead head;
    report->kept = (JournalKept){ 0 };
    report->stale = false;
    if (is_account(report->task)) return report_to_account(db, report);
    int r = task_held(db, report->task, &head);
    if (r == QUEUE_E_STALE) return report_late(db, report);
    if (r != 0) return r;
    CLEANUP(freep) Call *calls = xcalloc(report->n, sizeof *calls);
    for (size_t i = 0; i < report->n; i++) {
        calls[i] = report->calls[i];
        calls[i].attempt = head.attempt;
        calls[i].fence = head.fence;
    }
    return calls_book(report->queue, db, report->task, calls, report->n, &report->kept);
}

/* Returns 0; else something of it is out of the ordinary. */
static int report_add(Booking *b, Report *report)
{
    KnownTask *known;
    TaskUsage sum = { 0 };
    bool account = is_account(report->task);
    report->kept = (JournalKept){ 0 };
    report->stale = false;
    int r = known_task(b->queue->known, b->db, report->task, &known);
    TaskCalls was = { 0 };
    if (r == 0) was = (TaskCalls){ known->facts.journal, known->facts.last_call_id };
    TaskCalls is = was;
    for (size_t i = 0; i < report->n && r == 0; i++) {
        Call call = report->calls[i];
        if (!account) call.attempt = known->facts.attempt;
        if (!account) call.fence = report->task.fence;
        r = call_add(b, &known->facts, &call, &is.journal, &known->last, &report->kept);
        if (r == 0) usage_add(&sum, &call);
    }
    if (r != 0 || account) return r;
    is.last_id = known->facts.last_call_id;
    known->facts.journal = is.journal;
    return task_add_usage_held(b->db, known->facts.seq, report->task.fence, &sum, &was, &is);
}

static int reports_job(Db *db, void *const *args, size_t n)
{
    Booking b;
    int r = 0;
    Queue *queue = ((const Report *)args[0])->queue;
    booking_init(&b, queue, db);
    for (size_t i = 0; i < n && r == 0; i++) r = report_add(&b, args[i]);
    if (r == 0) r = sums_write(&b);
    if (r != 0) known_clear_all(queue->known); /* what it says of journals is undone */
    booking_deinit(&b);
    return r;
}

/* How much later calls may be durable: little beside the time that they took. */
static int64_t calls_slack_us(const Call *calls, size_t n)
{
    int64_t least_us = CALL_SLACK_MAX_US;
    for (size_t i = 0; i < n; i++) {
        int64_t took_ms = MIN(MAX(calls[i].duration_ms, 0), CALL_LONG_MS);
        least_us = MIN(least_us, took_ms * 1000 / CALL_SLACK_DIVISOR);
    }
    return least_us;
}

int queue_calls_add_wait(Queue *queue, TaskRef task, const Call *calls, size_t calls_n)
{
    static const StoreMany reports = { .one = report_job, .all = reports_job };
    Report report = { .queue = queue, .task = task, .calls = calls, .n = calls_n };
    if (calls_n == 0) return 0;
    int r = store_many_late_wait(queue->store, &reports, &report, calls_slack_us(calls, calls_n));
    if (r != 0) return r;
    journal_apply(queue, task.id, &report.kept);
    queue_task_changed(queue, task.id);
    ledger_settled(queue);
    if (!report.stale) return 0;
    queue_apply(queue, &(Effects){ .stale = 1 });
    return task_stale();
}
