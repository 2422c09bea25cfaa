#include "rollout/shadow.h"

#include <stdio.h>

#include "base/diag.h"
#include "base/log.h"
#include "base/money.h"
#include "codec/time_text.h"
#include "rollout/record.h"
#include "store/family_store.h"

#define ARENA_BYTES ((size_t)4 << 20)
#define TASKS_PAGE 256
#define PAGES_MAX 16 /* of new tasks, a tick */
#define LEFTOVERS_MAX 16
#define UNIT_MAX (ROUTE_UNIT_MAX + 16)

bool shadow_is_on(const RolloutRow *row)
{
    const Rollout *r = &row->state;
    return r->state == ROLLOUT_SHADOW ||
           (r->state == ROLLOUT_PAUSED && r->resumes == ROLLOUT_SHADOW);
}

/* --- comparing -------------------------------------------------------------------------------- */

/* One task of a pair. */
typedef struct {
    RolloutOutcome outcome;
    EvidenceUnit harm;
    GatherTold told;
} Side;

static int side_read(Db *db, const RolloutRow *row, const RolloutSpec *spec, int64_t task_seq,
                     Side *ret)
{
    double scores[EVIDENCE_METRICS_MAX];
    *ret = (Side){ .outcome = { .state = TASK_CANCELED } };
    int r = task_seq > 0 ? shadow_outcome(db, task_seq, &ret->outcome) : -ENOENT;
    if (r == -ENOENT) return 0; /* gone: as if it had been canceled */
    if (r == 0) r = gather_scores(db, spec, &ret->outcome, scores, &ret->told);
    if (r == 0) gather_harm(spec, &row->baseline, &ret->outcome, scores, &ret->harm);
    return r;
}

static ShadowSide side_news(const Side *side)
{
    return (ShadowSide){ .state = side->outcome.state,
                         .started = side->outcome.started_at_ms > 0,
                         .degraded = side->outcome.degraded,
                         .scored = side->told.all,
                         .finished_at_ms = side->outcome.finished_at_ms };
}

static bool is_judged(const RolloutSpec *spec)
{
    for (size_t m = 0; m < spec->evidence.metrics_n; m++)
        if (spec->evidence.metrics[m].group == EVIDENCE_JUDGED) return true;
    return false;
}

/* Of a pair whose fate is known: what waits has waited long enough. */
static bool is_untold(const Side *side)
{
    return side->told.untold || side->told.waits;
}

static bool was_judged(const Side *side)
{
    return side->outcome.state == TASK_SUCCEEDED && (side->told.complete || is_untold(side));
}

typedef struct {
    const RolloutRow *row;
    const RolloutSpec *spec;
    ShadowEvidence *evidence;
    int64_t now_ms;
    bool given_up; /* the pair is before one that was capped */
} Comparing;

static int compare(Db *db, Comparing *c, const ShadowRow *pair, const Side *production,
                   const Side *shadow, ShadowPair *ret)
{
    *ret = (ShadowPair){ .self = pair->self,
                         .judged = was_judged(production) && was_judged(shadow),
                         .production_untold = is_untold(production),
                         .untold = is_untold(shadow),
                         .production = production->harm,
                         .shadow = shadow->harm };
    int r = shadow_differ(db, pair->task_seq, pair->shadow_seq, &ret->differs, &ret->path_differs);
    if (r == 0) r = shadow_cost(db, pair->task_seq, &ret->production_nusd);
    if (r == 0) r = shadow_cost(db, pair->shadow_seq, &ret->shadow_nusd);
    ret->differs |= production->outcome.state != shadow->outcome.state;
    if (r == 0) shadow_observe(c->evidence, &c->spec->evidence, &c->spec->shadow, ret);
    return r;
}

/* What is known now of one pair. */
static int settle(Db *db, Comparing *c, const ShadowRow *pair, ShadowState fate,
                  const Side *production, const Side *shadow)
{
    ShadowPair compared = { .self = false };
    int64_t cost_nusd = 0;
    int r = 0;
    if (pair->shadow_seq > 0) r = shadow_cost(db, pair->shadow_seq, &cost_nusd);
    if (r == 0 && fate == SHADOW_COMPARED) r = compare(db, c, pair, production, shadow, &compared);
    if (r != 0) return r;
    record_shadow(fate);
    c->evidence->spent_nusd[pair->self] += cost_nusd;
    c->evidence->dropped += fate == SHADOW_DROPPED;
    if (fate == SHADOW_DIVERGED) {
        c->evidence->results.diverged++;
        c->evidence->paths.diverged++;
    }
    return shadow_settle(db, c->row->seq, pair->task_seq, fate, compared.differs,
                         compared.path_differs, c->now_ms);
}

/* Whether what was allotted to the shadow has stopped it: less than its version may spend, and than
 * who asked for production's task allowed that. */
static int is_capped(Db *db, const RolloutRow *row, const ShadowRow *pair, bool *ret)
{
    int64_t allotted = 0, asked = 0;
    FamilyAmount own = FAMILY_UNLIMITED;
    int r = shadow_capped(db, pair->shadow_seq, ret);
    if (r != 0 || !*ret) return r;
    r = shadow_allotted(db, pair->shadow_seq, &allotted);
    if (r == 0) r = shadow_allotted(db, pair->task_seq, &asked);
    if (r == 0) r = family_version_limits(db, pair->self ? row->control_id : row->version_id, &own);
    *ret = r == 0 && allotted < (asked > 0 ? MIN(asked, own.nusd) : own.nusd);
    return r;
}

/* Of the pairs that are started. */
typedef struct {
    int64_t nusd;    /* what they have spent, or may still: what is settled is not among it */
    int64_t running; /* one that is over takes no place, however long its scores take */
    size_t capped;   /* the last that was stopped by what it was allotted, from 1; 0: none */
} Held;

static int held_add(Db *db, const RolloutRow *row, const ShadowRow *pair, Held *held, size_t place)
{
    RolloutOutcome o;
    int64_t allotted = 0, cost = 0;
    bool capped = false;
    int r = shadow_outcome(db, pair->shadow_seq, &o);
    if (r != 0) return r == -ENOENT ? 0 : r; /* gone: it is dropped */
    bool over = task_state_ended(o.state);
    r = over ? is_capped(db, row, pair, &capped) : shadow_allotted(db, pair->shadow_seq, &allotted);
    if (r == 0) r = shadow_cost(db, pair->shadow_seq, &cost);
    held->nusd = money_add(held->nusd, MAX(allotted, cost));
    held->running += !over;
    if (capped) held->capped = place;
    return r;
}

static int held_of(Db *db, const RolloutRow *row, const ShadowRow *pairs, size_t n, Held *ret)
{
    int r = 0;
    *ret = (Held){ .capped = 0 };
    for (size_t i = 0; i < n && r == 0; i++)
        if (pairs[i].state == SHADOW_STARTED) r = held_add(db, row, &pairs[i], ret, i + 1);
    return r;
}

/* One that hangs is taken as it stands, and as failed. */
static void side_timed_out(const Comparing *c, Side *side)
{
    gather_overdue(&side->outcome, c->now_ms);
    gather_harm(c->spec, &c->row->baseline, &side->outcome, NULL, &side->harm);
}

/* Returns 0 (it is settled), 1: its fate is open, -errno. */
static int take(Db *db, Comparing *c, const ShadowRow *pair)
{
    Side production, shadow;
    bool stubbed = false, capped = false, started = pair->state == SHADOW_STARTED;
    int r = side_read(db, c->row, c->spec, pair->task_seq, &production);
    if (r == 0) r = side_read(db, c->row, c->spec, pair->shadow_seq, &shadow);
    if (r == 0 && started) r = shadow_stubbed(db, pair->shadow_seq, &stubbed);
    if (r == 0 && started) r = is_capped(db, c->row, pair, &capped);
    if (r != 0) return r;
    ShadowNews news = { .state = pair->state,
                        .production = side_news(&production),
                        .shadow = side_news(&shadow),
                        .stubbed = stubbed,
                        .capped = capped,
                        .given_up = c->given_up,
                        .judged = is_judged(c->spec),
                        .chosen_at_ms = pair->chosen_at_ms };
    ShadowState fate = shadow_fate(&news, &c->spec->shadow, c->now_ms);
    if (fate == SHADOW_CHOSEN || fate == SHADOW_STARTED) return 1;
    if (fate == SHADOW_COMPARED && !task_state_ended(news.shadow.state) && shadow_hangs(&news))
        side_timed_out(c, &shadow);
    c->evidence->capped += fate == SHADOW_DROPPED && capped;
    return settle(db, c, pair, fate, &production, &shadow);
}

/* The first time: from here on production's tasks are looked at. */
static int begin(Db *db, ShadowEvidence *evidence, int64_t now_ms)
{
    shadow_init(evidence);
    evidence->began_ms = now_ms;
    return shadow_newest(db, &evidence->cursor_seq);
}

/* What another build has gathered is gathered anew from the pairs, which are still there: what was
 * spent and what was stopped too. */
static int begin_anew(Db *db, int64_t rollout_seq, ShadowEvidence *evidence, int64_t now_ms)
{
    int64_t began_ms, dropped;
    int r = shadow_reopen(db, rollout_seq, &began_ms, &dropped);
    if (r == 0) r = begin(db, evidence, now_ms);
    if (r != 0) return r;
    evidence->dropped = dropped;
    if (began_ms > 0) evidence->began_ms = began_ms;
    return 0;
}

/* It cannot begin in time to come: then the clock was set back, which is to hold it no longer. Less
 * is what clocks differ by. */
#define CLOCK_BACK_MS 300000

static int evidence_load(Db *db, const RolloutRow *row, ShadowGather *shadow, int64_t now_ms)
{
    int r = shadow_evidence_get(db, row->seq, &shadow->evidence);
    if (r == 0 && shadow->evidence.began_ms - now_ms < CLOCK_BACK_MS) return 0;
    shadow->changed = true;
    if (r == 0) shadow->evidence.began_ms = now_ms;
    if (r == -EPROTO) return begin_anew(db, row->seq, &shadow->evidence, now_ms);
    return r == -ENOENT ? begin(db, &shadow->evidence, now_ms) : r;
}

static void tell_why(ShadowGather *shadow, const RolloutSpec *spec, int64_t now_ms)
{
    const ShadowEvidence *e = &shadow->evidence;
    const ShadowPlan *plan = &spec->shadow;
    int64_t pairs = shadow_pairs(e, &spec->evidence), lasted_ms = now_ms - e->began_ms;
    int unproved = shadow_unproved(e, &spec->evidence);
    char until[TIME_TEXT_MAX];
    shadow->why[0] = '\0';
    if (shadow_allot(plan, e->spent_nusd[0] + e->spent_nusd[1], 0, INT64_MAX, 0) == 0)
        snprintf(shadow->why, sizeof(shadow->why), "its budget is spent, and nothing is decided");
    else if (e->capped > 0)
        snprintf(shadow->why, sizeof(shadow->why),
                 "its budget has stopped %" PRId64 " tasks, so it is too small to tell", e->capped);
    else if (evidence_judges(&e->told) != JUDGES_OK)
        snprintf(shadow->why, sizeof(shadow->why),
                 "graders could not tell of %.0f%% of its tasks and of %.0f%% of production's, so"
                 " what is judged proves nothing",
                 100 * evidence_untold(&e->told, true), 100 * evidence_untold(&e->told, false));
    else if (pairs < plan->min_pairs)
        snprintf(shadow->why, sizeof(shadow->why),
                 "%" PRId64 " of at least %" PRId64 " pairs are compared", pairs, plan->min_pairs);
    else if (unproved >= 0)
        snprintf(shadow->why, sizeof(shadow->why), "%s is not proved to be within its margin yet",
                 spec->names[unproved]);
    else if (lasted_ms < plan->for_ms)
        snprintf(shadow->why, sizeof(shadow->why), "it lasts until %s at least",
                 time_format_s(e->began_ms + plan->for_ms, until));
}

int shadow_gather(Db *db, ShadowGather *shadow, const RolloutRow *row, const RolloutSpec *spec,
                  int64_t now_ms)
{
    size_t n = SHADOWS_OPEN_MAX;
    CLEANUP(freep) ShadowRow *pairs = xcalloc(n, sizeof(*pairs));
    Comparing c = { row, spec, &shadow->evidence, now_ms, .given_up = false };
    Held held = { .capped = 0 };
    *shadow = (ShadowGather){ .changed = false };
    int r = evidence_load(db, row, shadow, now_ms);
    if (r == 0) r = shadow_open(db, row->seq, pairs, &n);
    if (r == 0) r = held_of(db, row, pairs, n, &held);
    for (size_t i = 0; i < n && r == 0; i++) {
        c.given_up = i < held.capped; /* nothing is decided, so nothing more is started */
        r = take(db, &c, &pairs[i]);
        shadow->changed |= r == 0;
    }
    if (r >= 0 && shadow->changed) r = shadow_evidence_put(db, row->seq, &shadow->evidence);
    if (r < 0) return r;
    shadow->verdict = shadow_verdict(&shadow->evidence, &spec->evidence, &spec->shadow, now_ms);
    tell_why(shadow, spec, now_ms);
    return 0;
}

/* --- choosing --------------------------------------------------------------------------------- */

typedef struct {
    Str id; /* the rollout's */
    int64_t now_ms;
    Arena arena;

    /* out: what is to be started now */
    int64_t rollout_seq;
    ShadowNew news[SHADOWS_MAX];
    size_t news_n;
} ChooseJob;

static Str unit_of(const ShadowTask *task, RouteBy by, char out[UNIT_MAX])
{
    char id[UUID_TEXT_MAX], text[ROUTE_UNIT_MAX];
    RouteUnit kind;
    RouteWho who = { .session = task->session_id,
                     .user = task->user_id,
                     .tenant = task->tenant_id,
                     .task = str_of(uuid_text(task->id, id)) };
    Str unit = route_unit(&who, by, &kind, text);
    snprintf(out, UNIT_MAX, "%d:%.*s", (int)kind, (int)MIN(unit.len, (size_t)UNIT_MAX - 16),
             unit.ptr);
    return str_of(out);
}

static int choose_page(Db *db, const RolloutRow *row, const RolloutSpec *spec,
                       const ShadowTask *tasks, size_t n, int64_t *open, int64_t now_ms)
{
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        char text[UNIT_MAX];
        Str unit = unit_of(&tasks[i], spec->unit, text);
        ShadowChoice choice = shadow_choose(&spec->shadow, row->id, unit);
        if (choice == SHADOW_NOT) continue;
        if (*open >= SHADOWS_OPEN_MAX) {
            record_shadow_left_out();
            continue;
        }
        r = shadow_add(db, row->seq, tasks[i].seq, choice == SHADOW_SELF, unit, now_ms);
        *open += r == 0;
        if (r == 0) record_shadow(SHADOW_CHOSEN);
        if (r == DB_E_CONFLICT) r = 0; /* its unit has one */
    }
    return r;
}

/* Production's new tasks, in the order in which they were submitted. */
static int choose(Db *db, ChooseJob *job, const RolloutRow *row, const RolloutSpec *spec,
                  ShadowEvidence *evidence, int64_t open)
{
    int64_t newest, from = evidence->cursor_seq;
    ShadowTask *tasks = ARENA_ARRAY(&job->arena, ShadowTask, TASKS_PAGE);
    if (!tasks) return -ENOMEM;
    int r = shadow_newest(db, &newest);
    for (int page = 0; page < PAGES_MAX && r == 0 && evidence->cursor_seq < newest; page++) {
        size_t n = TASKS_PAGE;
        r = shadow_tasks(db, row->control_id, evidence->cursor_seq, &job->arena, tasks, &n);
        if (r == 0) r = choose_page(db, row, spec, tasks, n, &open, job->now_ms);
        evidence->cursor_seq = n == TASKS_PAGE ? tasks[n - 1].seq : newest;
    }
    if (r != 0 || from == evidence->cursor_seq) return r;
    return shadow_evidence_put(db, row->seq, evidence);
}

/* --- starting --------------------------------------------------------------------------------- */

/* Whether production's task is over and worth repeating. */
static int is_due(Db *db, const ShadowRow *pair, bool *ret)
{
    RolloutOutcome o;
    *ret = false;
    if (pair->state != SHADOW_CHOSEN) return 0;
    int r = shadow_outcome(db, pair->task_seq, &o);
    if (r == 0)
        *ret = (task_state_ended(o.state) || o.state == TASK_ESCALATED) && o.started_at_ms > 0 &&
               !o.degraded && o.state != TASK_CANCELED;
    return r == -ENOENT ? 0 : r;
}

static int start_list(Db *db, ChooseJob *job, const RolloutRow *row, const RolloutSpec *spec,
                      const ShadowEvidence *evidence)
{
    FamilyAmount own[2];
    Held held;
    int64_t spent = evidence->spent_nusd[0] + evidence->spent_nusd[1];
    size_t n = SHADOWS_OPEN_MAX;
    ShadowRow *pairs = ARENA_ARRAY(&job->arena, ShadowRow, SHADOWS_OPEN_MAX);
    if (!pairs) return -ENOMEM;
    int r = shadow_open(db, row->seq, pairs, &n);
    if (r == 0) r = held_of(db, row, pairs, n, &held);
    if (r == 0 && held.capped > 0) return 0;
    if (r == 0) r = family_version_limits(db, row->version_id, &own[0]);
    if (r == 0) r = family_version_limits(db, row->control_id, &own[1]);
    for (size_t i = 0; i < n && r == 0 && held.running < spec->shadow.parallel; i++) {
        bool due;
        int64_t cost = 0;
        r = is_due(db, &pairs[i], &due);
        if (r != 0 || !due) continue;
        r = shadow_cost(db, pairs[i].task_seq, &cost);
        int64_t allotted = shadow_allot(&spec->shadow, spent, held.nusd, own[pairs[i].self].nusd,
                                        cost);
        if (r != 0 || allotted == 0) return r;
        Str version = pairs[i].self ? row->control_id : row->version_id;
        job->news[job->news_n++] = (ShadowNew){ pairs[i].task_seq, version, allotted };
        held.nusd += allotted;
        held.running++;
    }
    return r;
}

/* Then more of them would be spent on nothing. */
static bool is_decided(const ShadowEvidence *evidence, const RolloutSpec *spec, int64_t now_ms)
{
    return evidence->biased || evidence->capped > 0 ||
           shadow_verdict(evidence, &spec->evidence, &spec->shadow, now_ms) != CHECK_RUNNING;
}

static int choose_job(Db *db, void *arg)
{
    ChooseJob *job = arg;
    RolloutRow row;
    arena_clear(&job->arena);
    job->news_n = 0;
    CLEANUP(freep) RolloutSpec *spec = xcalloc(1, sizeof(*spec));
    CLEANUP(freep) ShadowEvidence *evidence = xcalloc(1, sizeof(*evidence));
    int r = rollout_get(db, job->id, &job->arena, &row);
    if (r != 0 || row.state.state != ROLLOUT_SHADOW) return r;
    job->rollout_seq = row.seq;
    r = control_spec(&row, &job->arena, spec);
    if (r == 0) r = shadow_evidence_get(db, row.seq, evidence);
    if (r == -ENOENT || r == -EPROTO) return 0; /* its tick comes first */
    if (r == 0 && is_decided(evidence, spec, job->now_ms)) return 0;
    int64_t open = 0, started;
    if (r == 0) r = shadow_open_counts(db, row.seq, &open, &started);
    if (r == 0 && open > SHADOWS_OPEN_MAX) return 0; /* gathered anew: not all is known yet */
    if (r == 0) r = choose(db, job, &row, spec, evidence, open);
    return r == 0 ? start_list(db, job, &row, spec, evidence) : r;
}

static void choose_job_deinit(ChooseJob *job)
{
    arena_deinit(&job->arena);
}

static int choose_wait(Queue *queue, Str id, int64_t now_ms)
{
    CLEANUP(choose_job_deinit) ChooseJob job = { .id = id, .now_ms = now_ms };
    size_t started;
    arena_init(&job.arena, 4 * ARENA_BYTES);
    int r = store_call_wait(queue_store(queue), choose_job, &job);
    if (r != 0 || job.news_n == 0) return r;
    return queue_shadows_start_wait(queue, job.rollout_seq, job.news, job.news_n, &started);
}

/* --- every second ----------------------------------------------------------------------------- */

typedef struct {
    Arena *arena;
    int64_t after_seq;
    RolloutRow *rows;
    size_t n;
    int64_t leftovers[LEFTOVERS_MAX];
    size_t leftovers_n;
} LookJob;

static int look_job(Db *db, void *arg)
{
    LookJob *job = arg;
    job->leftovers_n = job->after_seq == 0 ? LEFTOVERS_MAX : 0;
    int r = rollout_list_active(db, job->after_seq, job->arena, &job->rows, &job->n);
    if (r == 0 && job->leftovers_n > 0) r = shadow_leftover(db, job->leftovers, &job->leftovers_n);
    return r;
}

static int stop_wait(Queue *queue, const LookJob *look)
{
    int r = 0;
    for (size_t i = 0; i < look->leftovers_n && r == 0; i++) {
        size_t n;
        r = queue_shadows_stop_wait(queue, look->leftovers[i], &n);
    }
    return r;
}

/* One that fails holds up no other. */
static int choose_all_wait(Queue *queue, const LookJob *look, int64_t now_ms)
{
    for (size_t i = 0; i < look->n; i++) {
        const RolloutRow *row = &look->rows[i];
        if (row->state.state != ROLLOUT_SHADOW) continue;
        int r = choose_wait(queue, row->id, now_ms);
        if (r == -ECANCELED) return r;
        if (r < 0)
            LOG_ERROR("a shadow was not gone on with", LOG_STR("rollout", row->id),
                      LOG_CSTR("why", diag_text_or(r)));
    }
    return 0;
}

int shadow_tick_all_wait(Queue *queue, int64_t now_ms)
{
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, 64 * ARENA_BYTES);
    LookJob look = { .arena = &arena };
    do {
        arena_clear(&arena);
        int r = store_read_wait(queue_store(queue), look_job, &look);
        if (r == 0) r = stop_wait(queue, &look);
        if (r == 0) r = choose_all_wait(queue, &look, now_ms);
        if (r != 0) return r;
        if (look.n > 0) look.after_seq = look.rows[look.n - 1].seq;
    } while (look.n == ROLLOUT_LIST_MAX);
    return 0;
}
