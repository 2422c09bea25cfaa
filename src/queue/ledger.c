#include "queue/ledger.h"

#include <stdlib.h>

#include "base/diag.h"
#include "base/log.h"
#include "queue/queue_private.h"
#include "store/budget_store.h"
#include "store/spend_store.h"
#include "sys/clock.h"
#include "sys/entropy.h"
#include "sys/fiber.h"
#include "sys/zone.h"

#define RULES_ARENA_MAX ((size_t)64 << 20)
#define LOOK_AGAIN_MS 500  /* who is among the first looks again after so long, whatever happens, */
#define LOOK_LATER_MS 4000 /* others after so long */
#define FIRST_N 8          /* in turn, who look when something may have become free */
#define WINDOWS_KEPT_MS (INT64_C(63) * 24 * 3600 * 1000)
#define PAST_KEYS_MAX 50000 /* read at a time */
#define FOLDED_MAX 1000     /* a purge */
#define PURGED_HOURS_MAX 48 /* likewise */
#define HOLDERS_MAX 64      /* that one who waits has told to return what they hold */

typedef struct {
    int64_t start_ms, end_ms;
} Window;

/* Every call asks for the same few: what the calendar said last is remembered by each thread. */
static Window window_of(BudgetPeriod period, int64_t at_ms)
{
    static _Thread_local Window last[BUDGET_PERIOD_N_];
    Window *w = &last[period];
    if (at_ms >= w->start_ms && at_ms < w->end_ms) return *w;
    if (period == BUDGET_DAY) zone_day(at_ms, &w->start_ms, &w->end_ms);
    else zone_month(at_ms, &w->start_ms, &w->end_ms);
    return *w;
}

/* --- rules ------------------------------------------------------------------------------------ */

static int rule_order(const void *a, const void *b)
{
    return budget_scope_cmp(&((const BudgetRule *)a)->scope, &((const BudgetRule *)b)->scope);
}

static bool rule_add(RuleList *list, size_t cap, BudgetRule rule)
{
    assert(list->n < cap && rule.limit >= 0);
    if (rule.scope.key.len) rule.scope.key = arena_str(&list->arena, rule.scope.key);
    list->list[list->n++] = rule;
    return rule.scope.kind == BUDGET_ALL || rule.scope.key.ptr;
}

static void rules_sort(RuleList *list)
{
    if (list->n) qsort(list->list, list->n, sizeof *list->list, rule_order);
}

static bool limit_has(const BudgetLimit *limits, size_t n, const BudgetScope *scope)
{
    char text[BUDGET_SCOPE_TEXT_MAX];
    budget_scope_text(scope, text);
    for (size_t i = 0; i < n; i++)
        if (str_eq(limits[i].scope, str_of(text))) return true;
    return false;
}

/* The limits set through the API, and those of the configuration that they leave. */
static int rules_merge(const Ledger *ledger, const BudgetLimit *limits, size_t n, RuleList *ret)
{
    size_t cap = n + ledger->config.n;
    bool ok = true;
    ret->list = ARENA_ARRAY(&ret->arena, BudgetRule, cap + 1);
    if (!ret->list) return -ENOMEM;
    for (size_t i = 0; i < n && ok; i++) {
        BudgetRule rule = { .limit = limits[i].limit };
        if (budget_scope_from(limits[i].scope, &rule.scope) == 0) ok = rule_add(ret, cap, rule);
    }
    for (size_t i = 0; i < ledger->config.n && ok; i++)
        if (!limit_has(limits, n, &ledger->config.list[i].scope))
            ok = rule_add(ret, cap, ledger->config.list[i]);
    rules_sort(ret);
    return ok ? 0 : -ENOMEM;
}

static int past_put(Db *db, const BudgetScope *scope, const BudgetSpent *spent, int64_t start_ms)
{
    BudgetScope own = *scope;
    char text[BUDGET_SCOPE_TEXT_MAX];
    own.key = spent->key;
    if (scope->kind != BUDGET_ALL && (!own.key.len || own.key.len > BUDGET_KEY_BYTES_MAX)) return 0;
    budget_scope_text(&own, text);
    return budget_slice_found(db, str_of(text), start_ms, spent->spent);
}

/* What calls of the rule's window have cost so far is where its count begins. */
static int rule_count_past(Db *db, const BudgetScope *scope, int64_t now_ms)
{
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(buf_deinit) Buf after;
    BudgetSpent *spent = NULL;
    size_t n = 0;
    BudgetSpentAsk ask = { .kind = scope->kind,
                           .unit = scope->unit,
                           .start_ms = window_of(scope->period, now_ms).start_ms,
                           .max = PAST_KEYS_MAX };
    if (scope->kind != BUDGET_ALL && !str_eq(scope->key, STR("*"))) ask.key = scope->key;
    arena_init(&arena, RULES_ARENA_MAX);
    buf_init(&after, RULES_ARENA_MAX);
    do {
        arena_clear(&arena);
        int r = budget_spent_since(db, &ask, &arena, &spent, &n);
        for (size_t i = 0; i < n && r == 0; i++) r = past_put(db, scope, &spent[i], ask.start_ms);
        if (r != 0) return r;
        buf_clear(&after);
        if (n && !buf_add(&after, spent[n - 1].key)) return -ENOMEM;
        ask.after = buf_str(&after);
    } while (n == PAST_KEYS_MAX);
    return 0;
}

/* In another time zone than last time all windows begin at other times, and are counted anew. */
static int rules_count(Db *db, const RuleList *rules, int64_t now_ms)
{
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, RULES_ARENA_MAX);
    Str *scopes = ARENA_ARRAY(&arena, Str, rules->n + 1);
    Str zone = arena_printf(&arena, "zone %s", zone_name());
    if (!scopes || !zone.ptr) return -ENOMEM;
    bool same_zone = false;
    int r = budget_counted(db, zone, &same_zone);
    for (size_t i = 0; i < rules->n && r == 0; i++) {
        char text[BUDGET_SCOPE_TEXT_MAX];
        bool counted = false;
        scopes[i] = arena_str(&arena, str_of(budget_scope_text(&rules->list[i].scope, text)));
        if (!scopes[i].ptr) return -ENOMEM;
        r = budget_counted(db, scopes[i], &counted);
        if (r != 0 || (counted && same_zone)) continue;
        r = rule_count_past(db, &rules->list[i].scope, now_ms);
        if (r == 0) r = budget_counted_put(db, scopes[i], now_ms);
    }
    scopes[rules->n] = zone;
    if (r == 0) r = budget_counted_put(db, zone, now_ms);
    return r == 0 ? budget_counted_keep(db, scopes, rules->n + 1) : r;
}

static void rules_free(RuleList *rules)
{
    arena_deinit(&rules->arena);
    *rules = (RuleList){ 0 };
}

/* Puts in force what the table and the configuration say. */
static int rules_load(Db *db, void *arg)
{
    Queue *queue = arg;
    CLEANUP(arena_deinit) Arena arena;
    RuleList rules = { 0 };
    BudgetLimit *limits = NULL;
    size_t n = 0;
    arena_init(&arena, RULES_ARENA_MAX);
    arena_init(&rules.arena, RULES_ARENA_MAX);
    int r = budget_limits_read(db, &arena, &limits, &n);
    if (r == 0) r = rules_merge(&queue->ledger, limits, n, &rules);
    if (r == 0) r = rules_count(db, &rules, queue_now_ms(queue));
    if (r != 0) {
        rules_free(&rules);
        return r;
    }
    rules_free(&queue->ledger.rules);
    queue->ledger.rules = rules;
    return 0;
}

/* Windows of the worker's slices that the rules know nothing of end by themselves. */
static const BudgetRule *rule_of(const RuleList *rules, const BudgetScope *scope,
                                 BudgetRule room[BUDGET_SCOPES_MAX])
{
    BudgetOwner owner = { .agent = scope->kind == BUDGET_AGENT ? scope->key : STR_NULL,
                          .tenant = scope->kind == BUDGET_TENANT ? scope->key : STR_NULL,
                          .user = scope->kind == BUDGET_USER ? scope->key : STR_NULL };
    size_t n = budget_rules_of(rules->list, rules->n, &owner, room);
    for (size_t i = 0; i < n; i++)
        if (budget_scope_cmp(&room[i].scope, scope) == 0) return &room[i];
    return NULL;
}

int ledger_open(Queue *queue)
{
    Ledger *ledger = &queue->ledger;
    const QueueOptions *options = &queue->options;
    arena_init(&ledger->config.arena, RULES_ARENA_MAX);
    ledger->config.list = ARENA_ARRAY(&ledger->config.arena, BudgetRule, options->budgets_n + 1);
    bool ok = ledger->config.list != NULL;
    for (size_t i = 0; i < options->budgets_n && ok; i++)
        ok = rule_add(&ledger->config, options->budgets_n, options->budgets[i]);
    if (!ok) return -ENOMEM;
    rules_sort(&ledger->config);
    ledger->epoch = entropy_u64() >> 12; /* not that of the process before */
    map_init(&ledger->in_flight, entropy_u64());
    return store_call(queue->store, rules_load, queue);
}

void ledger_close(Queue *queue)
{
    assert(list_empty(&queue->ledger.askers));
    in_flight_deinit(&queue->ledger.in_flight);
    rules_free(&queue->ledger.rules);
    rules_free(&queue->ledger.config);
}

/* --- who waits -------------------------------------------------------------------------------- */

/* Who asks, while it is not answered. On its fiber's stack; on the list, in turn, under the
 * lock. */
typedef struct {
    ListNode node;
    int64_t turn_ms;
    uint64_t number; /* for those of the same turn */
    const BudgetAsk *ask;
    Mark mark; /* moves when it is to look again */

    /* the store thread's; the flags under the lock */
    BudgetRule scopes[BUDGET_SCOPES_MAX];
    Window windows[BUDGET_SCOPES_MAX];
    int64_t settled[BUDGET_SCOPES_MAX]; /* when it looked last, and since then */
    size_t n;
    size_t by; /* of these, what stood in the way when it looked last */
    bool done; /* it has its answer, and leaves */
    bool look; /* it is to look, and has not done so yet; */
    bool told; /* it knows */
} Asker;

static Asker *asker_of(ListNode *node)
{
    return CONTAINER_OF(node, Asker, node);
}

static int64_t amount_of(const CapHold *hold, BudgetUnit unit)
{
    return unit == BUDGET_USD ? hold->nusd : hold->tokens;
}

static bool is_before(const Asker *a, const Asker *b)
{
    return a->turn_ms != b->turn_ms ? a->turn_ms < b->turn_ms : a->number < b->number;
}

/* Which of its scopes it is; its n: none. */
static size_t scope_index(const Asker *asker, const BudgetScope *scope, int64_t start_ms)
{
    size_t i = 0;
    while (i < asker->n && (asker->windows[i].start_ms != start_ms ||
                            budget_scope_cmp(&asker->scopes[i].scope, scope) != 0))
        i++;
    return i;
}

/* So much more is spent: it refuses those for whom not even the least fits beside it now. */
static void askers_refuse(Queue *queue, const BudgetScope *scope, int64_t start_ms, int64_t spent)
{
    pthread_mutex_lock(&queue->lock);
    LIST_EACH (&queue->ledger.askers, node) {
        Asker *asker = asker_of(node);
        size_t i = scope_index(asker, scope, start_ms);
        if (i == asker->n) continue;
        int64_t min = amount_of(&asker->ask->need.min, scope->unit);
        asker->settled[i] = money_add(asker->settled[i], spent);
        asker->look |= money_add(asker->settled[i], min) > asker->scopes[i].limit;
    }
    pthread_mutex_unlock(&queue->lock);
}

/* Something of the scope has become free. Those look in whose way nothing else stood: the first n
 * in turn, for when they get nothing of it, neither do those behind them. */
static void askers_serve(Queue *queue, const BudgetScope *scope, int64_t start_ms, size_t n)
{
    pthread_mutex_lock(&queue->lock);
    LIST_EACH (&queue->ledger.askers, node) {
        Asker *asker = asker_of(node);
        if (n == 0) break;
        if (asker->done || asker->look || asker->by >= asker->n) continue;
        if (scope_index(asker, scope, start_ms) != asker->by) continue;
        asker->look = true;
        n--;
    }
    pthread_mutex_unlock(&queue->lock);
}

/* With the lock. Somebody has left: */
static void askers_first(Queue *queue)
{
    LIST_EACH (&queue->ledger.askers, node) {
        if (asker_of(node)->done || asker_of(node)->look) continue;
        asker_of(node)->look = true;
        return;
    }
}

/* With the lock. */
static void askers_wake(Queue *queue, bool all)
{
    LIST_EACH (&queue->ledger.askers, node) {
        Asker *asker = asker_of(node);
        if (asker->told || (!all && !asker->look)) continue;
        asker->look = asker->told = true;
        mark_move(&asker->mark);
        queue->ledger.stats.woken++;
    }
}

void ledger_changed(Queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    askers_wake(queue, true);
    pthread_mutex_unlock(&queue->lock);
}

void ledger_settled(Queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    askers_wake(queue, false);
    pthread_mutex_unlock(&queue->lock);
}

/* --- spend ------------------------------------------------------------------------------------ */

int64_t ledger_day_ms(int64_t at_ms)
{
    return window_of(BUDGET_DAY, at_ms).start_ms;
}

/* The slice of the worker in the window of at_ms, of a rule's scope; text: for its name. */
static BudgetSliceKey slice_key(const BudgetScope *scope, Uuid worker_id, int64_t at_ms,
                                char text[BUDGET_SCOPE_TEXT_MAX])
{
    return (BudgetSliceKey){ str_of(budget_scope_text(scope, text)),
                             window_of(scope->period, at_ms).start_ms, worker_id };
}

int ledger_settle(Queue *queue, Db *db, const BudgetOwner *owner, Uuid worker_id, int64_t at_ms,
                  const CapHold *spent)
{
    const RuleList *rules = &queue->ledger.rules;
    BudgetRule scopes[BUDGET_SCOPES_MAX];
    size_t n = budget_rules_of(rules->list, rules->n, owner, scopes);
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        char text[BUDGET_SCOPE_TEXT_MAX];
        BudgetSliceKey key = slice_key(&scopes[i].scope, worker_id, at_ms, text);
        int64_t amount = amount_of(spent, scopes[i].scope.unit);
        r = budget_slice_settle(db, &key, amount);
        askers_refuse(queue, &scopes[i].scope, key.start_ms, amount);
    }
    return r;
}

/* Takes up to *less off what the slice has settled, and off *less. It is returned, and does not
 * become outstanding with a worker that may be gone; but for up to again, which is settled next. */
static int slice_refund(Db *db, const BudgetSliceKey *key, int64_t *less, int64_t again)
{
    BudgetSlice before;
    int r = budget_slice_get(db, key, &before);
    if (r != 0) return r;
    int64_t part = MIN(*less, before.settled);
    BudgetSlice after = before;
    after.settled -= part;
    int64_t freed = budget_outstanding(&after) - budget_outstanding(&before);
    after.returned += MAX(freed - again, 0);
    *less -= part;
    if (part == 0) return 0;
    r = budget_slice_put(db, key, &after);
    return r == 0 ? budget_slice_settle(db, key, -part) : r;
}

int ledger_refund(Queue *queue, Db *db, const BudgetOwner *owner, Uuid worker_id, int64_t at_ms,
                  const CapHold *less, const CapHold *again)
{
    const RuleList *rules = &queue->ledger.rules;
    BudgetRule scopes[BUDGET_SCOPES_MAX];
    size_t n = budget_rules_of(rules->list, rules->n, owner, scopes);
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        char text[BUDGET_SCOPE_TEXT_MAX];
        BudgetSliceKey key = slice_key(&scopes[i].scope, worker_id, at_ms, text);
        int64_t amount = amount_of(less, scopes[i].scope.unit);
        r = slice_refund(db, &key, &amount, amount_of(again, scopes[i].scope.unit));
        key.worker_id = (Uuid){ 0 }; /* what became of slices of workers that are gone */
        if (r == 0) r = slice_refund(db, &key, &amount, 0);
    }
    return r;
}

int ledger_purge(Queue *queue, Db *db, int64_t now_ms)
{
    int64_t folded = 0, purged = 0, month_ms = window_of(BUDGET_MONTH, now_ms).start_ms;
    /* a budget that is new counts what the month has cost */
    int64_t spend_before_ms = MIN(now_ms - queue->options.spend_kept_ms, month_ms);
    int r = budget_slices_purge(db, now_ms - WINDOWS_KEPT_MS);
    if (r == 0) r = budget_slices_fold(db, month_ms, FOLDED_MAX, &folded);
    if (r == 0) r = spend_purge(db, spend_before_ms, PURGED_HOURS_MAX, &purged);
    pthread_mutex_lock(&queue->lock);
    queue->ledger.stats.folded += (uint64_t)folded;
    queue->ledger.stats.purged += (uint64_t)purged;
    pthread_mutex_unlock(&queue->lock);
    return r;
}

/* --- grants ----------------------------------------------------------------------------------- */

typedef struct {
    Queue *queue;
    Uuid worker_id;
    const BudgetAsk *ask;
    Asker *asker;
    Arena *arena;
    bool last; /* tell how things are, whatever that is */

    bool returned; /* something came back */
    BudgetAnswer answer;
    Uuid holders[HOLDERS_MAX]; /* BUDGET_WAIT: who could return some */
    size_t holders_n;
} GrantJob;

/* What those before it ask for in the i-th of its scopes. */
static int64_t ahead_of(GrantJob *job, size_t i)
{
    const Asker *own = job->asker;
    int64_t ahead = 0;
    pthread_mutex_lock(&job->queue->lock);
    LIST_EACH (&job->queue->ledger.askers, node) {
        const Asker *other = asker_of(node);
        const BudgetScope *scope = &own->scopes[i].scope;
        if (other == own) break;
        if (other->done) continue;
        if (scope_index(other, scope, own->windows[i].start_ms) < other->n)
            ahead = money_add(ahead, amount_of(&other->ask->need.want, scope->unit));
    }
    pthread_mutex_unlock(&job->queue->lock);
    return ahead;
}

static int64_t seen_of(const BudgetAsk *ask, const BudgetScope *scope, int64_t start_ms)
{
    for (size_t i = 0; i < ask->notes_n; i++)
        if (ask->notes[i].start_ms == start_ms &&
            budget_scope_cmp(&ask->notes[i].scope, scope) == 0)
            return ask->notes[i].granted;
    return 0;
}

static int grant_take_back(Db *db, GrantJob *job)
{
    const BudgetAsk *ask = job->ask;
    int r = 0;
    for (size_t i = 0; i < ask->notes_n && r == 0; i++) {
        char text[BUDGET_SCOPE_TEXT_MAX];
        BudgetSlice slice;
        BudgetSliceKey key = { str_of(budget_scope_text(&ask->notes[i].scope, text)),
                               ask->notes[i].start_ms, job->worker_id };
        if (ask->notes[i].returned == 0) continue;
        r = budget_slice_get(db, &key, &slice);
        int64_t returned = MIN(ask->notes[i].returned, slice.granted);
        if (r != 0 || returned <= slice.returned) continue;
        slice.returned = returned;
        job->returned = true;
        r = budget_slice_put(db, &key, &slice);
        askers_serve(job->queue, &ask->notes[i].scope, ask->notes[i].start_ms, FIRST_N);
    }
    return r;
}

static BudgetSliceKey key_of(const GrantJob *job, size_t i, char text[BUDGET_SCOPE_TEXT_MAX])
{
    const Asker *asker = job->asker;
    return (BudgetSliceKey){ str_of(budget_scope_text(&asker->scopes[i].scope, text)),
                             asker->windows[i].start_ms, job->worker_id };
}

static int account_read(Db *db, GrantJob *job, size_t i, BudgetSlice *ret_own, BudgetAccount *ret)
{
    char text[BUDGET_SCOPE_TEXT_MAX];
    const BudgetRule *rule = &job->asker->scopes[i];
    BudgetSliceKey key = key_of(job, i, text);
    *ret = (BudgetAccount){ .unit = rule->scope.unit, .limit = rule->limit };
    int r = budget_account(db, key.scope, key.start_ms, &ret->settled, &ret->leased);
    if (r == 0) r = budget_slice_get(db, &key, ret_own);
    if (r != 0) return r;
    int64_t seen = seen_of(job->ask, &rule->scope, key.start_ms);
    ret->unseen = MIN(MAX(ret_own->granted - seen, 0), budget_outstanding(ret_own));
    ret->ahead = ahead_of(job, i);
    job->asker->settled[i] = ret->settled;
    return 0;
}

static int wanted_note(Db *db, GrantJob *job)
{
    char text[BUDGET_SCOPE_TEXT_MAX];
    BudgetSliceKey key = key_of(job, job->answer.by, text);
    job->holders_n = HOLDERS_MAX;
    return budget_holders(db, key.scope, key.start_ms, job->holders, &job->holders_n);
}

static int grant_decide(Db *db, GrantJob *job)
{
    Asker *asker = job->asker;
    BudgetAccount accounts[BUDGET_SCOPES_MAX];
    BudgetSlice own[BUDGET_SCOPES_MAX];
    int64_t grants[BUDGET_SCOPES_MAX];
    int r = 0;
    for (size_t i = 0; i < asker->n && r == 0; i++)
        r = account_read(db, job, i, &own[i], &accounts[i]);
    if (r != 0) return r;
    job->answer.verdict = budget_decide(accounts, asker->n, &job->ask->need, grants,
                                        &job->answer.by);
    if (job->answer.verdict == BUDGET_WAIT) return wanted_note(db, job);
    if (job->answer.verdict != BUDGET_GRANT) return 0;
    for (size_t i = 0; i < asker->n && r == 0; i++) {
        char text[BUDGET_SCOPE_TEXT_MAX];
        BudgetSliceKey key = key_of(job, i, text);
        own[i].granted += grants[i];
        if (grants[i] > 0) r = budget_slice_put(db, &key, &own[i]);
    }
    return r;
}

/* What applies to the owner now. */
static void asker_scopes(GrantJob *job)
{
    Asker *asker = job->asker;
    const RuleList *rules = &job->queue->ledger.rules;
    int64_t now_ms = queue_now_ms(job->queue);
    asker->n = 0;
    if (!job->ask->asks) return;
    asker->n = budget_rules_of(rules->list, rules->n, &job->ask->owner, asker->scopes);
    for (size_t i = 0; i < asker->n; i++)
        asker->windows[i] = window_of(asker->scopes[i].scope.period, now_ms);
}

static bool applies(const Asker *asker, const BudgetScope *scope, int64_t start_ms)
{
    for (size_t i = 0; i < asker->n; i++)
        if (asker->windows[i].start_ms == start_ms &&
            budget_scope_cmp(&asker->scopes[i].scope, scope) == 0)
            return true;
    return false;
}

static int tell_own(Db *db, GrantJob *job, size_t i)
{
    char text[BUDGET_SCOPE_TEXT_MAX];
    const Asker *asker = job->asker;
    BudgetSlice slice;
    BudgetSliceKey key = key_of(job, i, text);
    int r = budget_slice_get(db, &key, &slice);
    job->answer.told[job->answer.told_n++] = (BudgetTold){
        .scope = asker->scopes[i].scope,
        .start_ms = asker->windows[i].start_ms,
        .end_ms = asker->windows[i].end_ms,
        .limit = asker->scopes[i].limit,
        .settled = asker->settled[i],
        .granted = slice.granted,
        .returned = slice.returned,
        .spent = slice.settled,
        .applies = true,
    };
    return r;
}

/* The slices of the answer: those that apply, then what else the worker is thought to hold, for it
 * may not have heard of it. */
static int grant_tell(Db *db, GrantJob *job)
{
    BudgetSliceRow *rows = NULL;
    size_t n = 0;
    BudgetAnswer *answer = &job->answer;
    int r = budget_slices_of(db, job->worker_id, job->arena, &rows, &n);
    answer->told = ARENA_ARRAY(job->arena, BudgetTold, job->asker->n + n + 1);
    answer->told_n = 0;
    if (r == 0 && !answer->told) r = diag_set(-ENOMEM, "no memory for the answer");
    for (size_t i = 0; i < job->asker->n && r == 0; i++) r = tell_own(db, job, i);
    for (size_t i = 0; i < n && r == 0; i++) {
        BudgetTold told = { .start_ms = rows[i].start_ms,
                            .granted = rows[i].slice.granted,
                            .returned = rows[i].slice.returned,
                            .spent = rows[i].slice.settled };
        if (budget_scope_from(rows[i].scope, &told.scope) < 0) continue;
        if (applies(job->asker, &told.scope, told.start_ms)) continue;
        told.end_ms = window_of(told.scope.period, told.start_ms).end_ms;
        answer->told[answer->told_n++] = told;
    }
    return r;
}

int worker_lives(Db *db, Uuid id)
{
    WorkerState state;
    int r = worker_state(db, id, &state);
    if (r == -ENOENT || (r == 0 && state > WORKER_DRAINING))
        return diag_set(QUEUE_E_NO_WORKER, "the worker is unknown, lost or stopped");
    return r;
}

static void asker_looks(Queue *queue, Asker *asker)
{
    pthread_mutex_lock(&queue->lock);
    asker->look = asker->told = false;
    queue->ledger.stats.looked += asker->ask->asks;
    pthread_mutex_unlock(&queue->lock);
}

static void asker_done(Queue *queue, Asker *asker)
{
    pthread_mutex_lock(&queue->lock);
    asker->done = true;
    pthread_mutex_unlock(&queue->lock);
}

/* What stood in an asker's way when it looked last. */
typedef struct {
    bool is_one;
    size_t by;
    BudgetRule rule;
    int64_t start_ms;
} Obstacle;

/* Not all of the asker is the store thread's: the list it is on changes meanwhile. */
static Obstacle obstacle_of(const Asker *asker)
{
    Obstacle o = { .is_one = asker->by < asker->n, .by = asker->by };
    if (!o.is_one) return o;
    o.rule = asker->scopes[o.by];
    o.start_ms = asker->windows[o.by].start_ms;
    return o;
}

/* It has got what it needs of some scopes, or waits for another one now: those behind it are to
 * look at what it leaves. */
static void asker_looked(GrantJob *job, const Obstacle *before)
{
    Asker *asker = job->asker;
    bool waits = job->answer.verdict == BUDGET_WAIT;
    if (waits) asker->by = job->answer.by;
    if (waits && before->is_one && asker->by != before->by)
        askers_serve(job->queue, &before->rule.scope, before->start_ms, 1);
    if (job->last || !waits) asker_done(job->queue, asker);
    for (size_t i = 0; i < asker->n && !waits; i++)
        askers_serve(job->queue, &asker->scopes[i].scope, asker->windows[i].start_ms, FIRST_N);
}

static int grant_job(Db *db, void *arg)
{
    GrantJob *job = arg;
    asker_looks(job->queue, job->asker);
    job->answer = (BudgetAnswer){ .verdict = BUDGET_GRANT };
    job->returned = false;
    job->holders_n = 0;
    int r = worker_lives(db, job->worker_id);
    if (r == 0) r = grant_take_back(db, job);
    if (r != 0) return r;
    Obstacle before = obstacle_of(job->asker);
    asker_scopes(job);
    if (job->ask->asks) r = grant_decide(db, job);
    if (r == 0 && job->ask->asks) asker_looked(job, &before);
    bool tells = job->last || job->answer.verdict != BUDGET_WAIT;
    return r == 0 && tells ? grant_tell(db, job) : r;
}

static void asker_enter(Queue *queue, Asker *asker)
{
    Ledger *ledger = &queue->ledger;
    asker->turn_ms = budget_turn_ms(asker->ask->lane, clock_mono_ms() - asker->ask->waited_ms);
    pthread_mutex_lock(&queue->lock);
    asker->number = ledger->asked++;
    if (asker->ask->asks) {
        ListNode *at = ledger->askers.prev;
        while (at != &ledger->askers && is_before(asker, asker_of(at))) at = at->prev;
        list_push_front(at, &asker->node);
        ledger->stats.asking++;
    }
    pthread_mutex_unlock(&queue->lock);
}

/* Those behind it may be next: when it has got its answer, they are to look already. */
static void asker_leave(Queue *queue, Asker *asker, const BudgetAnswer *answer, bool waited)
{
    Ledger *ledger = &queue->ledger;
    pthread_mutex_lock(&queue->lock);
    if (list_linked(&asker->node)) ledger->stats.asking--;
    list_remove(&asker->node);
    ledger->stats.waited += waited;
    if (answer && asker->n) {
        ledger->stats.granted += answer->verdict == BUDGET_GRANT;
        ledger->stats.refused += answer->verdict == BUDGET_EXHAUSTED;
    }
    if (asker->ask->asks && !asker->done) askers_first(queue);
    askers_wake(queue, false);
    pthread_mutex_unlock(&queue->lock);
}

/* Asks for a heartbeat of who holds what is waited for, once until it has come. */
static void wanted_signal(Queue *queue, Uuid id)
{
    Ledger *ledger = &queue->ledger;
    bool add = true;
    pthread_mutex_lock(&queue->lock);
    for (size_t i = 0; i < ledger->wanted_n; i++) add = add && !uuid_eq(ledger->wanted[i], id);
    add = add && ledger->wanted_n < WANTED_MAX;
    if (add) ledger->wanted[ledger->wanted_n++] = id;
    pthread_mutex_unlock(&queue->lock);
    if (add) queue_worker_signal(queue, id);
}

void ledger_beat(Queue *queue, Uuid worker_id, HeartbeatReply *reply)
{
    Ledger *ledger = &queue->ledger;
    pthread_mutex_lock(&queue->lock);
    reply->budget_epoch = ledger->epoch;
    for (size_t i = 0; i < ledger->wanted_n; i++) {
        if (!uuid_eq(ledger->wanted[i], worker_id)) continue;
        ledger->wanted[i] = ledger->wanted[--ledger->wanted_n];
        reply->budget_wanted = true;
        break;
    }
    pthread_mutex_unlock(&queue->lock);
}

static uint64_t epoch_now(Queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    uint64_t epoch = queue->ledger.epoch;
    pthread_mutex_unlock(&queue->lock);
    return epoch;
}

/* How long it waits when nothing happens. */
static int64_t look_again_ms(Queue *queue, const Asker *own)
{
    size_t before = 0;
    pthread_mutex_lock(&queue->lock);
    LIST_EACH (&queue->ledger.askers, node) {
        if (asker_of(node) == own || before == FIRST_N) break;
        before++;
    }
    pthread_mutex_unlock(&queue->lock);
    return before < FIRST_N ? LOOK_AGAIN_MS : LOOK_LATER_MS;
}

static int grants_until(GrantJob *job, int64_t deadline_ms, bool *ret_waited)
{
    Queue *queue = job->queue;
    Mark *own = &job->asker->mark;
    for (;;) {
        uint64_t mark = mark_read(queue, own), epoch = epoch_now(queue);
        job->last = clock_mono_ms() >= deadline_ms;
        int r = store_call_wait(queue->store, grant_job, job);
        if (r != 0) return r;
        ledger_settled(queue); /* those that the job has told to look */
        job->answer.epoch = epoch;
        job->answer.now_ms = queue_now_ms(queue);
        if (job->last || job->answer.verdict != BUDGET_WAIT) return 0;
        if (fiber_cancelled()) return -ECANCELED;
        *ret_waited = true;
        for (size_t i = 0; i < job->holders_n; i++)
            if (!uuid_eq(job->holders[i], job->worker_id)) wanted_signal(queue, job->holders[i]);
        r = mark_wait(queue, own, mark,
                      MIN(deadline_ms, deadline_after(look_again_ms(queue, job->asker))));
        if (r != 0 && r != -ETIMEDOUT) return r;
    }
}

int queue_grants_wait(Queue *queue, Uuid worker_id, const BudgetAsk *ask, int64_t deadline_ms,
                      Arena *arena, BudgetAnswer *ret)
{
    assert(ask->notes_n <= BUDGET_NOTES_MAX && ask->lane < LANE_N_);
    CLEANUP(freep) Asker *asker = xcalloc(1, sizeof *asker);
    CLEANUP(freep) GrantJob *job = xcalloc(1, sizeof *job);
    bool waited = false;
    asker->ask = ask;
    asker->by = SIZE_MAX;
    asker->look = asker->told = true;
    list_init(&asker->node);
    list_init(&asker->mark.waiters);
    job->queue = queue;
    job->worker_id = worker_id;
    job->ask = ask;
    job->asker = asker;
    job->arena = arena;
    asker_enter(queue, asker);
    int r = grants_until(job, deadline_ms, &waited);
    asker_leave(queue, asker, r == 0 ? &job->answer : NULL, waited);
    if (r == 0) *ret = job->answer;
    return r;
}

/* --- holds of the dead ------------------------------------------------------------------------ */

typedef struct {
    Queue *queue;
    Uuid worker_id, dead_id;
    const BudgetHold *holds;
    size_t n;
    bool more;
    EndAll all;
} HoldsJob;

/* Books what the dead worker had in flight, ends what it ran, whose totals then have it, and
 * closes, all in one. */
static int holds_job(Db *db, void *arg)
{
    HoldsJob *job = arg;
    WorkerState state;
    job->more = false;
    int r = worker_lives(db, job->worker_id);
    for (size_t i = 0; i < job->n && r == 0; i++)
        r = hold_lose(job->queue, db, job->dead_id, &job->holds[i]);
    if (r != 0) return r;
    r = worker_state(db, job->dead_id, &state);
    if (r == 0 && state <= WORKER_DRAINING) {
        r = worker_end_all(db, job->dead_id, &job->all);
        job->more = job->all.more;
        if (r == 0 && !job->more) r = worker_set_state(db, job->dead_id, WORKER_LOST);
    } else if (r == -ENOENT) r = 0;
    return r == 0 && !job->more ? budget_slices_close(db, job->dead_id) : r;
}

static void holds_news(Queue *queue, const HoldsJob *job)
{
    queue_apply_all(queue, &job->all);
    if (job->more) return;
    for (size_t i = 0; i < job->n; i++) queue_task_changed(queue, job->holds[i].task.id);
    pthread_mutex_lock(&queue->lock);
    queue->ledger.stats.proven++;
    pthread_mutex_unlock(&queue->lock);
    queue_worker_signal(queue, job->dead_id);
    ledger_changed(queue);
}

int queue_holds_wait(Queue *queue, Uuid worker_id, Uuid dead_id, const BudgetHold *holds, size_t n)
{
    assert(n <= BUDGET_HOLDS_MAX);
    CLEANUP(freep) HoldsJob *job = xcalloc(1, sizeof *job);
    int r;
    if (uuid_eq(worker_id, dead_id))
        return diag_set(-EINVAL, "a worker cannot be its own successor");
    do {
        *job = (HoldsJob){ .queue = queue,
                           .worker_id = worker_id,
                           .dead_id = dead_id,
                           .holds = holds,
                           .n = n,
                           .all = { .queue = queue,
                                    .outcome = TASK_OUTCOME_LOST,
                                    .now_ms = queue_now_ms(queue),
                                    .random = entropy_u64() } };
        r = store_call_wait(queue->store, holds_job, job);
        if (r == 0) holds_news(queue, job);
    } while (r == 0 && job->more);
    return r;
}

/* --- for people ------------------------------------------------------------------------------- */

typedef struct {
    Queue *queue;
    Arena *arena;
    BudgetScope scope; /* for one */
    int64_t limit;     /* to set */
    Budget *list;
    size_t n;
} BudgetJob;

static int budget_fill(Db *db, BudgetJob *job, const BudgetScope *scope, Budget *ret)
{
    char text[BUDGET_SCOPE_TEXT_MAX];
    BudgetRule room[BUDGET_SCOPES_MAX];
    const BudgetRule *rule = rule_of(&job->queue->ledger.rules, scope, room);
    Window w = window_of(scope->period, queue_now_ms(job->queue));
    *ret = (Budget){ .scope = *scope,
                     .limited = rule != NULL,
                     .limit = rule ? rule->limit : 0,
                     .start_ms = w.start_ms,
                     .end_ms = w.end_ms };
    if (str_eq(scope->key, STR("*"))) return 0;
    budget_scope_text(scope, text);
    return budget_account(db, str_of(text), w.start_ms, &ret->settled, &ret->leased);
}

static bool budget_listed(const BudgetJob *job, const BudgetScope *scope)
{
    for (size_t i = 0; i < job->n; i++)
        if (budget_scope_cmp(&job->list[i].scope, scope) == 0) return true;
    return false;
}

static int budget_list_add(Db *db, BudgetJob *job, const BudgetScope *scope)
{
    BudgetScope own = *scope;
    if (own.key.len) own.key = arena_str(job->arena, own.key);
    if (own.kind != BUDGET_ALL && !own.key.ptr) return -ENOMEM;
    return budget_fill(db, job, &own, &job->list[job->n++]);
}

static int budget_order(const void *a, const void *b)
{
    return budget_scope_cmp(&((const Budget *)a)->scope, &((const Budget *)b)->scope);
}

static int from_api_mark(Db *db, BudgetJob *job)
{
    BudgetLimit *limits;
    size_t n;
    int r = budget_limits_read(db, job->arena, &limits, &n);
    for (size_t i = 0; i < job->n && r == 0; i++)
        job->list[i].from_api = limit_has(limits, n, &job->list[i].scope);
    return r;
}

static int budgets_job(Db *db, void *arg)
{
    BudgetJob *job = arg;
    const RuleList *rules = &job->queue->ledger.rules;
    Window month = window_of(BUDGET_MONTH, queue_now_ms(job->queue));
    Window day = window_of(BUDGET_DAY, queue_now_ms(job->queue));
    Str *spent = NULL;
    size_t spent_n = 0;
    int r = budget_scopes_since(db, MIN(month.start_ms, day.start_ms), BUDGETS_LIST_MAX, job->arena,
                                &spent, &spent_n);
    job->n = 0;
    job->list = ARENA_ARRAY(job->arena, Budget, MIN(rules->n, BUDGETS_LIST_MAX) + spent_n + 1);
    if (r == 0 && !job->list) r = -ENOMEM;
    for (size_t i = 0; i < rules->n && i < BUDGETS_LIST_MAX && r == 0; i++)
        r = budget_list_add(db, job, &rules->list[i].scope);
    for (size_t i = 0; i < spent_n && r == 0; i++) {
        BudgetScope scope;
        if (budget_scope_from(spent[i], &scope) < 0 || budget_listed(job, &scope)) continue;
        r = budget_list_add(db, job, &scope);
        if (r == 0 && job->list[job->n - 1].settled == 0 && job->list[job->n - 1].leased == 0)
            job->n--; /* of another day */
    }
    if (r == 0) r = from_api_mark(db, job);
    if (r == 0 && job->n) qsort(job->list, job->n, sizeof *job->list, budget_order);
    return r;
}

int queue_budgets_wait(Queue *queue, Arena *arena, Budget **ret, size_t *ret_n)
{
    BudgetJob job = { .queue = queue, .arena = arena };
    int r = store_call_wait(queue->store, budgets_job, &job);
    if (r != 0) return r;
    *ret = job.list;
    *ret_n = job.n;
    return 0;
}

static int no_budget(void)
{
    return diag_set(QUEUE_E_NO_BUDGET, "there is no such budget");
}

static int budget_job(Db *db, void *arg)
{
    BudgetJob *job = arg;
    job->n = 1;
    int r = budget_fill(db, job, &job->scope, job->list);
    if (r == 0) r = from_api_mark(db, job);
    return r == 0 && !job->list->limited ? no_budget() : r;
}

int queue_budget_get_wait(Queue *queue, const BudgetScope *scope, Budget *ret)
{
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, RULES_ARENA_MAX);
    BudgetJob job = { .queue = queue, .arena = &arena, .scope = *scope, .list = ret };
    return store_call_wait(queue->store, budget_job, &job);
}

/* Whether there is a rule for the scope itself: it can be changed however many there are. */
static bool has_rule(const RuleList *rules, const BudgetScope *scope)
{
    BudgetRule key = { .scope = *scope };
    return rules->n && bsearch(&key, rules->list, rules->n, sizeof key, rule_order);
}

static int budget_set_job(Db *db, void *arg)
{
    BudgetJob *job = arg;
    char text[BUDGET_SCOPE_TEXT_MAX];
    Str scope = str_of(budget_scope_text(&job->scope, text));
    const RuleList *rules = &job->queue->ledger.rules;
    int r;
    if (job->limit == BUDGET_AS_CONFIGURED) {
        r = budget_limit_remove(db, scope);
        if (r == -ENOENT) return no_budget();
    } else {
        if (rules->n >= BUDGET_LIMITS_MAX && !has_rule(rules, &job->scope))
            return diag_set(QUEUE_E_FULL, "there are %d budgets already", BUDGET_LIMITS_MAX);
        r = budget_limit_put(db, &(BudgetLimit){ scope, job->limit, queue_now_ms(job->queue) });
    }
    return r == 0 ? rules_load(db, job->queue) : r;
}

static int signal_all_job(Db *db, void *arg)
{
    BudgetJob *job = arg;
    CLEANUP(arena_deinit) Arena arena;
    Worker *workers;
    size_t n;
    arena_init(&arena, RULES_ARENA_MAX);
    int r = worker_list(db, &arena, &workers, &n);
    for (size_t i = 0; i < n && r == 0; i++) queue_worker_signal(job->queue, workers[i].id);
    return r;
}

int queue_budget_set_wait(Queue *queue, const BudgetScope *scope, int64_t limit)
{
    assert(limit >= 0 || limit == BUDGET_AS_CONFIGURED);
    BudgetJob job = { .queue = queue, .scope = *scope, .limit = limit };
    int r = store_call_wait(queue->store, budget_set_job, &job);
    if (r < 0) { /* undone: back to what the table says */
        int again = store_call_wait(queue->store, rules_load, queue);
        if (again != 0) LOG_ERROR("budgets not read", LOG_CSTR("why", diag_text_or(again)));
    }
    if (r != 0) return r;
    pthread_mutex_lock(&queue->lock);
    queue->ledger.epoch++;
    askers_wake(queue, true);
    pthread_mutex_unlock(&queue->lock);
    r = store_read_wait(queue->store, signal_all_job, &job);
    if (r < 0) LOG_WARN("workers are told of budgets late", LOG_CSTR("why", diag_text_or(r)));
    return 0;
}

void queue_ledger_stats(Queue *queue, LedgerStats *ret)
{
    pthread_mutex_lock(&queue->lock);
    *ret = queue->ledger.stats;
    pthread_mutex_unlock(&queue->lock);
}
