/* The simulator's control plane: rows, the jobs that change them, the store's transactions, the
 * process. What it decides by is src/logic; what a job does besides is what src/queue and src/store
 * do. */
#ifndef GANTRY_TESTS_QUEUE_WORLD_SERVER_H
#define GANTRY_TESTS_QUEUE_WORLD_SERVER_H

#include "queue_world_turns.h"

/* --- rows ------------------------------------------------------------------------------------- */

static Row *row_of(Disk *disk, int64_t id)
{
    for (int i = 0; i < disk->rows_n; i++)
        if (disk->rows[i].id == id) return &disk->rows[i];
    return NULL;
}

static Row *row_of_key(Disk *disk, int key)
{
    for (int i = 0; i < disk->rows_n && key != 0; i++)
        if (disk->rows[i].key == key) return &disk->rows[i];
    return NULL;
}

/* Only what is there. rows: they may have changed. */
static void disk_copy(Disk *to, const Disk *from, bool rows)
{
    size_t leases = (size_t)from->leases_n * sizeof from->leases[0];
    if (rows) memcpy(to->rows, from->rows, (size_t)from->rows_n * sizeof from->rows[0]);
    memcpy(to->leases, from->leases, leases);
    to->rows_n = from->rows_n;
    to->leases_n = from->leases_n;
    to->lease_last = from->lease_last;
    to->fence = from->fence;
}

static Holder *holder_of(Disk *disk, int id)
{
    for (int i = 0; i < disk->leases_n; i++)
        if (disk->leases[i].id == id) return &disk->leases[i];
    return NULL;
}

static bool holder_lives(const Holder *holder)
{
    return holder && holder->state <= HOLDER_DRAINING;
}

/* What the server takes for the time of the calendar. */
static int64_t server_ms(const World *w)
{
    if (BREAKS(w, CALENDAR_TRUSTED) || BREAKS(w, CALENDAR_RACED)) return calendar(w);
    return CALENDAR_MS + w->now_ms + w->server.known_ms;
}

static int64_t steady_ms(const World *w)
{
    if (BREAKS(w, LEASE_BY_CALENDAR)) return calendar(w);
    return w->server.steady_ms + w->now_ms;
}

/* What holds for every step of every task, whoever takes it. */
static void check_step(World *w, const Row *was, const Row *is)
{
    w->server.changed = true;
    if (was->state != is->state) MUST(task_state_may(was->state, is->state));
    MUST(is->fence >= was->fence && is->attempt >= was->attempt);
    MUST(is->attempt == is->ended_n + (is->state == TASK_RUNNING));
    MUST(is->failures == is->failed_n && is->losses == is->lost_n);
    MUST(is->losses <= TASK_LOSSES_MAX && is->failures <= w->retry.attempts_max);
    MUST(is->results <= 1);
    MUST(is->charged == __builtin_popcountll(is->calls));
    MUST(is->state != TASK_ESCALATED || is->question == ESCALATION_PENDING); /* or for ever */
    MUST(is->asked_n <= 1);
}

static void check_start(World *w, const Row *was, const Row *is)
{
    MUST(is->fence > was->fence);
    for (int i = 0; i < w->disk.rows_n; i++)
        MUST(&w->disk.rows[i] == is || w->disk.rows[i].fence != is->fence);
    MUST(!was->cancel);
    MUST(w->now_ms >= was->due_ms - CALENDAR_SET_MS);
    if (was->attempt == 0 && was->lives == 0)
        MUST(MAX(w->latest_ms, calendar(w)) >= was->run_at_ms - CALENDAR_SET_MS - 4 * w->lease_ms);
    if (is->limit_ms && is->first_ms >= 0)
        MUST(w->now_ms < is->first_ms + is->answered_in_ms + is->limit_ms + CALENDAR_SET_MS);
    if (is->bound_ms) MUST(w->now_ms < is->bound_ms + is->answered_in_ms + CALENDAR_SET_MS);
    if (is->client_over_ms) MUST(w->now_ms < is->client_over_ms + CALENDAR_SET_MS);
    check_session(w, is);
}

/* When its time is over at the earliest; monotonic. */
static int64_t over_ms(const Row *row)
{
    int64_t own_ms = row->limit_ms && row->first_ms >= 0 ? row->first_ms + row->limit_ms
                                                         : INT64_MAX;
    int64_t over = MIN(own_ms, row->bound_ms ? row->bound_ms : INT64_MAX);
    if (over < INT64_MAX) over += row->answered_in_ms;
    return MIN(over, row->client_over_ms ? row->client_over_ms : INT64_MAX);
}

/* Nobody's time is over before it is. */
static void check_late(World *w, const Row *row)
{
    int64_t over = over_ms(row);
    if (!MUST_HOLD(over < INT64_MAX)) return;
    MUST(w->now_ms > over - CALENDAR_SET_MS - w->retry.max_ms);
}

/* Full jitter, but no sooner than was asked for. */
static void check_retry(World *w, const Item *end, const TaskNext *next, int64_t now_ms)
{
    int64_t most_ms = w->retry.initial_ms, delay_ms = next->ready_at_ms - now_ms;
    for (int64_t i = 1; i < next->failures; i++) most_ms = MIN(2 * most_ms, w->retry.max_ms);
    int64_t asked_ms = MIN(end->retry_after_ms, RETRY_AFTER_MAX_MS);
    MUST(delay_ms >= asked_ms && delay_ms <= MAX(most_ms, asked_ms));
    if (asked_ms > 0) return;
    w->tally.backoff_ms += (uint64_t)delay_ms;
    w->tally.backoff_most_ms += (uint64_t)most_ms;
}

/* A claim gives it a token. */
static void row_start(World *w, Row *row, int lease, int64_t fence, int64_t now_ms)
{
    Row was = *row;
    row->state = TASK_RUNNING;
    row->deadline_ms = attempt_deadline_ms(BREAKS(w, DEADLINE_AGAIN) ? 0 : row->attempt,
                                           BREAKS(w, DEADLINE_AGAIN) ? 0 : row->deadline_ms,
                                           row->client_ms, row->limit_ms, now_ms);
    row->attempt++;
    row->fence = BREAKS(w, TOKEN_KEPT) && row->fence ? row->fence : fence;
    row->lease = lease;
    row->started_ms = now_ms;
    row->start_ms = w->now_ms;
    row->recorded = false;
    if (row->first_ms < 0) row->first_ms = w->now_ms;
    check_step(w, &was, row);
    check_start(w, &was, row);
    w->tally.attempts++;
}

/* --- families --------------------------------------------------------------------------------- */

static bool is_below(World *w, const Row *row, int64_t id)
{
    while (row && row->parent && row->parent != id) row = row_of(&w->disk, row->parent);
    return row && row->parent == id;
}

static void row_stop(World *w, Row *row, TaskState state);

static void row_mark(World *w, Row *row)
{
    if (!row->cancel) row->cancelled_ms = w->now_ms;
    row->cancel = true;
}

/* All that is open below a task is stopped, or told to stop. */
static void family_stop(World *w, const Row *row)
{
    int64_t id = row->id;
    for (int i = 0; i < w->disk.rows_n && row->children > 0; i++) {
        Row *below = &w->disk.rows[i];
        if (task_state_ended(below->state) || !is_below(w, below, id)) continue;
        w->tally.trees++;
        if (below->state == TASK_RUNNING) row_mark(w, below);
        else row_stop(w, below, TASK_CANCELED);
    }
}

/* Whoever has ended, or is to, has nothing below it that goes on. */
static void check_family(World *w, const Row *row)
{
    if (row->children == 0 || !(row->cancel || task_state_ended(row->state))) return;
    for (int i = 0; i < w->disk.rows_n; i++) {
        const Row *below = &w->disk.rows[i];
        if (task_state_ended(below->state) || !is_below(w, below, row->id)) continue;
        MUST(below->state == TASK_RUNNING && below->cancel);
    }
}

/* What follows when a task has come to rest. */
static void row_rests(World *w, Row *row, int64_t now_ms)
{
    bool ended = task_state_ended(row->state);
    session_advance(w, row, now_ms);
    if (ended && !BREAKS(w, KIDS_GO_ON)) family_stop(w, row);
    if (ended) check_family(w, row);
}

/* --- ends ------------------------------------------------------------------------------------- */

/* Somebody was faster than the attempt that has asked. */
static void next_if_answered(World *w, const Row *row, const TaskProgress *progress, TaskNext *next)
{
    EscalationEffect effect = escalation_at_rest(row->asked ? &row->question : NULL,
                                                 row->asked && row->question == ESCALATION_PENDING);
    if (effect == ESCALATION_CHANGES_NOTHING || BREAKS(w, ANSWER_MISSED)) return;
    *next = task_after_attempt(progress, TASK_OUTCOME_RELEASED, server_ms(w), 0);
    if (effect == ESCALATION_FAILS) next->state = TASK_FAILED;
    w->tally.answered_fast++;
}

static TaskNext row_next(World *w, const Row *row, const Item *end, TaskOutcome outcome)
{
    int64_t now_ms = server_ms(w);
    TaskProgress progress = { .failures = row->failures,
                              .losses = row->losses,
                              .cancel_requested = row->cancel && !BREAKS(w, CANCEL_FORGOTTEN),
                              .deadline_ms = row->deadline_ms,
                              .retry_after_ms = end->retry_after_ms,
                              .retry = w->retry };
    progress.advanced = row->losses > 0 && attempt_advanced(row->attempt, row->recorded);
    TaskNext next = task_after_attempt(&progress, outcome, now_ms, random_next(&w->random));
    if (next.state == TASK_ESCALATED) next_if_answered(w, row, &progress, &next);
    bool retried = next.state == TASK_QUEUED && outcome == TASK_OUTCOME_FAILED_RETRYABLE;
    if (retried && BREAKS(w, BACKOFF_FORGOTTEN)) next.ready_at_ms = now_ms;
    if (retried) check_retry(w, end, &next, now_ms);
    return next;
}

/* The end of an attempt: what becomes of the task. told: the token of who says so; 0: the queue. */
static void row_end(World *w, Row *row, const Item *end, int64_t told, bool blameless)
{
    Row was = *row;
    int64_t now_ms = server_ms(w);
    TaskOutcome outcome = blameless ? TASK_OUTCOME_RELEASED : end->outcome;
    TaskNext next = row_next(w, row, end, outcome);
    row->state = next.state;
    row->failures = next.failures;
    row->losses = BREAKS(w, LOSS_UNCOUNTED) ? 0 : next.losses;
    if (next.state == TASK_QUEUED) {
        row->gate = gate_of_retry(next.ready_at_ms > now_ms);
        row->ready_ms = next.ready_at_ms;
    }
    row->ended_n++;
    row->ended_ms = now_ms;
    row->end_ms = row->rests_ms = w->now_ms;
    row->due_ms = next.state == TASK_QUEUED ? w->now_ms + next.ready_at_ms - now_ms : 0;
    row->failed_n += outcome == TASK_OUTCOME_FAILED_RETRYABLE && !was.cancel;
    if (outcome == TASK_OUTCOME_LOST && !was.cancel)
        row->lost_n = row->lost_n > 0 && row->recorded ? 1 : row->lost_n + 1;
    row->results += task_state_ended(next.state);
    fair_cost_seen(&w->costs[row->lane], w->kind_keys[row->tenant * AGENTS_N + row->agent],
                   MAX(0, now_ms - row->started_ms), now_ms);
    check_step(w, &was, row);
    MUST(told == 0 || (was.state == TASK_RUNNING && was.fence == told));
    MUST(!was.cancel || task_state_ended(row->state));
    if (next.state == TASK_TIMED_OUT) check_late(w, row);
    w->server.ready |= next.state == TASK_QUEUED;
    if (next.state != TASK_QUEUED) row_rests(w, row, now_ms);
}

static void row_stop(World *w, Row *row, TaskState state)
{
    Row was = *row;
    MUST(row->state != TASK_RUNNING);
    row->state = state;
    row->gate = GATE_OPEN;
    row->results++;
    if (was.state == TASK_ESCALATED && row->question == ESCALATION_PENDING)
        row->question = ESCALATION_CLOSED;
    check_step(w, &was, row);
    if (state == TASK_TIMED_OUT) check_late(w, row);
    if (!BREAKS(w, SESSION_STUCK)) session_advance(w, row, server_ms(w));
    if (!BREAKS(w, KIDS_GO_ON)) family_stop(w, row);
    check_family(w, row);
}

/* --- jobs: what the store's thread does ------------------------------------------------------- */

static void job_submit(World *w, Msg *m)
{
    const Order *order = &w->orders[m->order];
    Row *known = BREAKS(w, KEY_FORGOTTEN) ? NULL : row_of_key(&w->disk, order->key);
    if (known) {
        bool same = known->body == order->body || BREAKS(w, BODY_FORGOTTEN);
        m->said = same ? SAID_OK : SAID_REFUSED;
        m->id = known->id;
        w->tally.same_key += same;
        w->tally.other_body += !same;
        return;
    }
    int64_t now_ms = server_ms(w);
    if (!MUST_HOLD(w->disk.rows_n < ROWS_MAX && w->ids + 1 < IDS_MAX)) return;
    Row *row = &w->disk.rows[w->disk.rows_n++];
    *row = (Row){ .id = ++w->ids,
                  .state = TASK_QUEUED,
                  .lane = order->lane,
                  .key = order->key,
                  .body = order->body,
                  .tenant = order->tenant,
                  .agent = order->agent,
                  .session = order->session,
                  .session_max = order->session ? w->session_most : 0,
                  .root = w->ids,
                  .members = 1,
                  .kids = order->kids,
                  .asks = order->asks,
                  .fallback = order->fallback,
                  .ready_ms = MAX(order->run_at_ms, now_ms),
                  .limit_ms = order->limit_ms,
                  .run_at_ms = order->run_at_ms,
                  .first_ms = -1 };
    if (order->client_ms) {
        row->client_ms = row->deadline_ms = now_ms + order->client_ms;
        row->client_over_ms = w->now_ms + order->client_ms;
    }
    row_enter(w, row, order->run_at_ms > now_ms);
    m->id = row->id;
    w->server.ready = true;
}

static void job_cancel(World *w, Msg *m)
{
    Row *row = row_of(&w->disk, m->id);
    if (!MUST_HOLD(row)) return;
    CancelEffect effect = task_cancel(row->state);
    if (effect == CANCEL_REFUSED) m->said = SAID_REFUSED;
    if (effect == CANCEL_MARKS) {
        row_mark(w, row);
        if (!BREAKS(w, TREE_LEFT)) family_stop(w, row);
        check_family(w, row);
    }
    if (effect == CANCEL_ENDS) {
        if (BREAKS(w, STOPPED_STARTS) && row->state == TASK_QUEUED) row->cancel = true;
        else row_stop(w, row, TASK_CANCELED);
    }
    m->ms = row->lives;
}

/* What goes on below a task that asks a person is found again, or, by a fresh one, stopped. */
static void family_anew(World *w, Row *row, bool fresh)
{
    if (fresh) family_stop(w, row);
    for (int i = 0; i < w->disk.rows_n; i++) {
        Row *kid = &w->disk.rows[i];
        bool stops = kid->cancel && kid->state != TASK_SUCCEEDED;
        bool failed = task_state_ended(kid->state) && kid->state != TASK_SUCCEEDED;
        if (kid->parent == row->id && (fresh || stops || failed)) kid->kid_key = -1;
    }
}

static void job_retry(World *w, Msg *m)
{
    Row *row = row_of(&w->disk, m->id);
    if (!MUST_HOLD(row)) return;
    Row was = *row;
    if (!task_may_retry(row->state)) {
        m->said = SAID_REFUSED;
        return;
    }
    family_anew(w, row, m->call != 0);
    if (row->state == TASK_ESCALATED) row_enter_again(w, row); /* it keeps its place */
    else row_enter(w, row, false);
    row->state = TASK_QUEUED;
    row->ready_ms = server_ms(w);
    if (row->client_ms <= row->ready_ms) row->client_ms = 0;
    row->deadline_ms = row->client_ms;
    row->client_over_ms = row->client_ms ? w->now_ms + row->client_ms - row->ready_ms : 0;
    row->failures = row->losses = row->due_ms = 0;
    row->failed_n = row->lost_n = row->results = 0;
    row->cancel = false;
    row->first_ms = -1;
    row->answered_in_ms = 0;
    row->asked_n = row->asked = row->asked && row->question == ESCALATION_ANSWERED;
    row->lives++;
    check_step(w, &was, row);
    w->server.ready = true;
}

/* The task goes on, with the time it has left: that in which it waited is not counted. */
static void row_resume(World *w, Row *row)
{
    Row was = *row;
    int64_t now_ms = server_ms(w);
    row_enter_again(w, row);
    row->state = TASK_QUEUED;
    row->ready_ms = now_ms;
    if (row->deadline_ms && !BREAKS(w, TIME_ASKED))
        row->deadline_ms = MAX(1, row->deadline_ms + now_ms - row->ended_ms);
    if (row->client_ms && !BREAKS(w, CLIENT_WAITS))
        row->deadline_ms = MIN(row->deadline_ms, row->client_ms);
    row->answered_in_ms += w->now_ms - row->rests_ms;
    check_step(w, &was, row);
    w->server.ready = true;
}

static void question_settles(World *w, Row *row, EscalationState state)
{
    MUST(row->asked && row->question == ESCALATION_PENDING);
    w->server.changed = true;
    row->question = state;
    EscalationEffect effect = escalation_effect(row->state, state);
    if (effect == ESCALATION_RESUMES) row_resume(w, row);
    if (effect == ESCALATION_FAILS) row_stop(w, row, TASK_FAILED);
}

/* A person answers. */
static void job_resolve(World *w, Msg *m)
{
    Row *row = row_of(&w->disk, m->id);
    if (!MUST_HOLD(row)) return;
    bool asks = row->asked && row->question == ESCALATION_PENDING;
    if (!asks || task_state_ended(row->state)) {
        m->said = SAID_REFUSED;
        return;
    }
    question_settles(w, row, ESCALATION_ANSWERED);
    w->tally.resumed++;
}

/* It is recorded before the attempt ends; a later attempt finds it. */
static void job_ask(World *w, Msg *m)
{
    Row *row = row_of(&w->disk, m->items[0].ref.id);
    if (!MUST_HOLD(row)) return;
    if (!attempt_goes_on(row->state, row->fence, m->items[0].ref.fence)) {
        m->said = SAID_STALE;
        return;
    }
    if (!row->asked || BREAKS(w, ASKED_AGAIN)) {
        Row was = *row;
        row->asked = true;
        row->asked_n++;
        row->question = ESCALATION_PENDING;
        row->asked_ms = w->now_ms;
        row->expires_ms = server_ms(w) + QUESTION_MS(w);
        check_step(w, &was, row);
    }
    m->question = row->question;
}

/* --- sub-agents ------------------------------------------------------------------------------- */

static Row *kid_of(World *w, const Row *parent, int key)
{
    for (int i = 0; i < w->disk.rows_n; i++)
        if (w->disk.rows[i].parent == parent->id && w->disk.rows[i].kid_key == key)
            return &w->disk.rows[i];
    return NULL;
}

/* It has its parent's, or an earlier one of its own. */
static void kid_client(World *w, Row *kid, const Row *parent, int64_t now_ms)
{
    int64_t own_ms = chance(w, 150) ? 1 + upto(w, 6 * w->lease_ms) : 0;
    if (BREAKS(w, KID_UNBOUND)) return;
    kid->client_ms = family_deadline_ms(parent->client_ms, own_ms, now_ms);
    kid->client_over_ms = family_deadline_ms(parent->client_over_ms, own_ms, w->now_ms);
    if (kid->client_ms && (kid->deadline_ms == 0 || kid->client_ms < kid->deadline_ms))
        kid->deadline_ms = kid->client_ms;
}

/* What it inherits. */
static void kid_add(World *w, Row *parent, const Msg *m)
{
    int64_t now_ms = server_ms(w), remaining_ms = m->ms == INT64_MAX ? 0 : MAX(m->ms, 1);
    Row *root = row_of(&w->disk, parent->root);
    Row *kid = &w->disk.rows[w->disk.rows_n++];
    *kid = (Row){ .id = ++w->ids,
                  .state = TASK_QUEUED,
                  .lane = parent->lane,
                  .tenant = parent->tenant,
                  .agent = chance(w, 700) ? parent->agent : (int)upto(w, AGENTS_N - 1),
                  .parent = parent->id,
                  .root = parent->root,
                  .kid_key = m->call,
                  .depth = parent->depth + 1,
                  .kids = chance(w, 400) ? (int)upto(w, KIDS_MAX) : 0,
                  .asks = chance(w, 60),
                  .fallback = chance(w, 500),
                  .ready_ms = MAX(parent->ready_ms - 1, 0),
                  .limit_ms = chance(w, 200) ? 1 + upto(w, 10 * w->lease_ms) : 0,
                  .first_ms = -1 };
    int64_t parent_ms = BREAKS(w, KID_LATE_ASK) ? 0 : parent->deadline_ms;
    if (!BREAKS(w, KID_UNBOUND))
        kid->deadline_ms = family_deadline_ms(parent_ms, remaining_ms, now_ms);
    kid_client(w, kid, parent, now_ms);
    if (parent->deadline_ms) kid->bound_ms = w->now_ms + parent->deadline_ms - now_ms;
    parent->children++;
    root->members++;
    w->server.ready = true;
    w->tally.kids++;
}

static bool family_grows(World *w, const Row *parent)
{
    const FamilyBounds bounds = FAMILY_BOUNDS;
    const Row *root = row_of(&w->disk, parent->root);
    FamilyGrowth growth = family_may_grow(&bounds, parent->depth, parent->children, root->members);
    w->tally.too_deep += growth == FAMILY_TOO_DEEP;
    w->tally.too_wide += growth == FAMILY_TOO_WIDE;
    w->tally.too_large += growth == FAMILY_TOO_LARGE;
    return growth == FAMILY_MAY_GROW || BREAKS(w, BOUNDS_FORGOTTEN);
}

static void check_bounds(World *w, const Row *parent)
{
    const FamilyBounds bounds = FAMILY_BOUNDS;
    int64_t kids = 0, members = 0;
    for (int i = 0; i < w->disk.rows_n; i++) {
        const Row *row = &w->disk.rows[i];
        kids += row->parent == parent->id;
        members += row->root == parent->root;
        if (row->parent != parent->id || row->kid_key < 0) continue;
        MUST(row->lane == parent->lane && row->tenant == parent->tenant);
        for (int k = 0; k < i; k++)
            MUST(w->disk.rows[k].parent != row->parent || w->disk.rows[k].kid_key != row->kid_key);
    }
    MUST(parent->depth + 1 <= bounds.depth_max && kids <= bounds.children_max);
    MUST(members <= bounds.members_max);
}

static void job_child(World *w, Msg *m)
{
    Row *parent = row_of(&w->disk, m->items[0].ref.id);
    if (!MUST_HOLD(parent)) return;
    const Row *known = BREAKS(w, KID_AGAIN) ? NULL : kid_of(w, parent, m->call);
    if (!attempt_goes_on(parent->state, parent->fence, m->items[0].ref.fence)) {
        m->said = SAID_STALE;
    } else if (known) {
        m->id = known->id;
        w->tally.kids_found++;
    } else if (parent->cancel) {
        m->said = SAID_STALE;
    } else if (w->disk.rows_n == ROWS_MAX || w->ids + 1 == IDS_MAX || !family_grows(w, parent)) {
        m->said = SAID_REFUSED;
    } else {
        kid_add(w, parent, m);
        m->id = w->ids;
        check_bounds(w, parent);
    }
}

/* Which of those that it names have ended: looked up beside the writer, in what is durable. */
static void kids_read(World *w, Msg *m)
{
    const Row *parent = row_of(&w->kept, m->id);
    if (!MUST_HOLD(parent)) return;
    bool goes_on = attempt_goes_on(parent->state, parent->fence, m->fence);
    m->said = goes_on ? SAID_OK : SAID_STALE;
    for (int i = 0; i < m->n; i++) {
        const Row *kid = row_of(&w->kept, m->items[i].ref.id);
        if (!MUST_HOLD(kid)) return;
        m->items[i].said = task_state_ended(kid->state) ? SAID_OK : SAID_NOTHING_YET;
    }
    answer(w, m);
}

/* --- workers and what they claim -------------------------------------------------------------- */

/* Forgets those that have gone and hold nothing. */
static void holders_purge(World *w)
{
    int kept = 0;
    for (int i = 0; i < w->disk.leases_n; i++) {
        const Holder *h = &w->disk.leases[i];
        bool holds = holder_lives(h);
        for (int k = 0; k < w->disk.rows_n && !holds; k++)
            holds = w->disk.rows[k].state == TASK_RUNNING && w->disk.rows[k].lease == h->id;
        if (holds) w->disk.leases[kept++] = *h;
    }
    w->disk.leases_n = kept;
}

static void job_register(World *w, Msg *m)
{
    if (w->disk.leases_n == LEASES_MAX) holders_purge(w);
    if (!MUST_HOLD(w->disk.leases_n < LEASES_MAX)) return;
    m->lease = ++w->disk.lease_last;
    w->disk.leases[w->disk.leases_n++] = (Holder){ .id = m->lease,
                                                   .expires_ms = steady_ms(w) + w->lease_ms,
                                                   .worker = m->worker,
                                                   .epoch = m->epoch };
}

/* Starts it, or ends it instead. */
static bool claim_one(World *w, Msg *m, Row *row, int64_t now_ms)
{
    bool cancel = row->cancel && !BREAKS(w, STOPPED_STARTS);
    AttemptStart start = attempt_start(cancel, row->deadline_ms, now_ms);
    if (start != ATTEMPT_STARTS) {
        row_stop(w, row, start == ATTEMPT_CANCELED ? TASK_CANCELED : TASK_TIMED_OUT);
        return false;
    }
    row_start(w, row, m->lease, ++w->disk.fence, now_ms);
    int64_t remaining_ms = row->deadline_ms ? row->deadline_ms - now_ms : INT64_MAX;
    m->items[m->n++] = (Item){ .ref = { row->id, row->fence },
                               .remaining_ms = remaining_ms,
                               .attempt = (int)row->attempt,
                               .lane = row->lane,
                               .asks = row->asks,
                               .kids = row->kids };
    return true;
}

/* The next one to start. False: none fits. */
static bool claim_next(World *w, Msg *m, LaneUse *use, int64_t now_ms)
{
    LaneLines lines[LANE_N_];
    LaneHead heads[LANE_N_];
    Use running;
    Heads firsts;
    use_count(w, &running);
    heads_of(w, &firsts);
    for (int lane = 0; lane < LANE_N_; lane++) {
        lines[lane].n = 0;
        if (lane_free(&m->slots, use, (Lane)lane) > 0)
            lines_of(w, &running, &firsts, (Lane)lane, now_ms, &lines[lane]);
        int64_t waited_ms = lines_waited_ms(lines[lane].lines, lines[lane].n, now_ms);
        heads[lane] = (LaneHead){ waited_ms >= 0, waited_ms };
    }
    Lane lane = lane_next(&m->slots, use, heads, 2 * w->lease_ms, &w->server.turns);
    if (lane == LANE_N_) return false;
    LaneLines *its = &lines[lane];
    size_t at = BREAKS(w, LINE_JUMPED) ? 0 : line_next(its->lines, its->n);
    if (!MUST_HOLD(at < its->n)) return false;
    Row *row = its->rows[at];
    MUST(may_start(w, &running, row));
    check_turn(w, &running, row, now_ms);
    if (!claim_one(w, m, row, now_ms)) return true;
    lane_started(&m->slots, use, heads, lane, &w->server.turns);
    turn_taken(w, its, at, now_ms);
    use->running[lane]++;
    return true;
}

static void job_claim(World *w, Msg *m)
{
    const Holder *holder = holder_of(&w->disk, m->lease);
    int64_t now_ms = server_ms(w);
    LaneUse use = { 0 };
    m->n = 0;
    m->said = SAID_NO_WORKER;
    if (!holder || holder->state != HOLDER_ACTIVE) return;
    gates_open(w, now_ms);
    while (m->n < RUNS_MAX && claim_next(w, m, &use, now_ms)) {
    }
    m->said = m->n > 0 ? SAID_OK : SAID_NOTHING_YET;
}

static bool beat_has(const Msg *m, const Row *row)
{
    for (int i = 0; i < m->n; i++)
        if (m->items[i].ref.id == row->id && m->items[i].ref.fence == row->fence) return true;
    return false;
}

static void job_beat(World *w, Msg *m)
{
    Holder *holder = holder_of(&w->disk, m->lease);
    m->said = holder_lives(holder) ? SAID_OK : SAID_NO_WORKER;
    if (m->said != SAID_OK) return;
    holder->expires_ms = steady_ms(w) + w->lease_ms;
    m->draining = holder->state == HOLDER_DRAINING;
    for (int i = 0; i < m->n; i++) {
        Item *item = &m->items[i];
        const Row *row = row_of(&w->disk, item->ref.id);
        if (!MUST_HOLD(row)) return;
        bool goes_on = attempt_goes_on(row->state, row->fence, item->ref.fence);
        item->said = goes_on ? SAID_OK : SAID_STALE;
        item->cancel = goes_on && row->cancel;
    }
    for (int i = 0; i < w->disk.rows_n; i++) {
        Row *row = &w->disk.rows[i];
        if (row->state != TASK_RUNNING || row->lease != m->lease || beat_has(m, row)) continue;
        if (!attempt_is_orphan(row->fence, m->fence) || BREAKS(w, ORPHAN_FORGOTTEN)) continue;
        row_end(w, row, &(Item){ .outcome = TASK_OUTCOME_RELEASED }, 0, false);
        row->astray += w->calm;
        MUST(row->astray <= ASTRAY_MAX);
        w->tally.orphans++;
        m->released++;
    }
    m->fence = w->disk.fence;
}

/* What a call has cost is charged, whoever runs the task by now. */
static void job_call(World *w, Msg *m)
{
    Row *row = row_of(&w->disk, m->items[0].ref.id);
    if (!MUST_HOLD(row)) return;
    Row was = *row;
    uint64_t bit = UINT64_C(1) << m->call;
    if (!(row->calls & bit) || BREAKS(w, CHARGED_AGAIN)) row->charged++;
    row->calls |= bit;
    bool goes_on = attempt_goes_on(row->state, row->fence, m->items[0].ref.fence);
    if (!goes_on) m->said = SAID_STALE;
    row->recorded |= goes_on && !(was.calls & bit);
    check_step(w, &was, row);
}

static void job_finish(World *w, Msg *m)
{
    for (int i = 0; i < m->n; i++) {
        Item *item = &m->items[i];
        Row *row = row_of(&w->disk, item->ref.id);
        if (!MUST_HOLD(row)) return;
        bool goes_on = attempt_goes_on(row->state, row->fence, item->ref.fence) ||
                       (BREAKS(w, TOKEN_IGNORED) && row->state == TASK_RUNNING);
        item->said = goes_on ? SAID_OK : SAID_STALE;
        w->tally.stale += !goes_on;
        if (goes_on) row_end(w, row, item, item->ref.fence, false);
    }
}

static void holder_end_all(World *w, int lease, TaskOutcome outcome, bool blameless)
{
    for (int i = 0; i < w->disk.rows_n; i++) {
        Row *row = &w->disk.rows[i];
        if (row->state != TASK_RUNNING || row->lease != lease) continue;
        row_end(w, row, &(Item){ .outcome = outcome }, 0,
                blameless && attempt_is_blameless(row->attempt));
    }
}

static void job_leave(World *w, Msg *m)
{
    Holder *holder = holder_of(&w->disk, m->lease);
    if (!holder_lives(holder)) {
        m->said = SAID_NO_WORKER;
    } else if (m->kind == MSG_DRAIN) {
        holder->state = HOLDER_DRAINING;
    } else {
        holder_end_all(w, m->lease, TASK_OUTCOME_RELEASED, false);
        holder->state = HOLDER_STOPPED;
    }
}

/* Whoever lives has noticed before the queue: of its own there is nothing left to run. */
static void check_expired(World *w, const Holder *holder)
{
    const SimWorker *k = &w->workers[holder->worker];
    if (!k->alive || k->epoch != holder->epoch || k->stopped_until_ms > w->now_ms) return;
    MUST(!k->registered || k->lease != holder->id || lease_is_over(&k->held, w->now_ms));
}

static void tick_leases(World *w)
{
    for (int i = 0; i < w->disk.leases_n; i++) {
        Holder *holder = &w->disk.leases[i];
        if (!holder_lives(holder) || holder->expires_ms >= steady_ms(w)) continue;
        check_expired(w, holder);
        if (!BREAKS(w, EXPIRY_FORGOTTEN)) holder_end_all(w, holder->id, TASK_OUTCOME_LOST, false);
        holder->state = HOLDER_LOST;
        w->tally.expired++;
    }
}

static void tick_deadlines(World *w)
{
    int64_t now_ms = server_ms(w);
    for (int i = 0; i < w->disk.rows_n; i++) {
        Row *row = &w->disk.rows[i];
        bool asks = row->state == TASK_ESCALATED && !BREAKS(w, CLIENT_WAITS);
        if (asks && row->client_ms && row->client_ms <= now_ms) {
            row_stop(w, row, TASK_TIMED_OUT);
            w->tally.late_asking++;
        }
        if (row->deadline_ms == 0) continue;
        if (row->state == TASK_RUNNING && row->deadline_ms < now_ms - OVERDUE_GRACE_MS) {
            row_end(w, row, &(Item){ .outcome = TASK_OUTCOME_TIMED_OUT }, 0, false);
            w->tally.late_ends++;
        } else if (row->state == TASK_QUEUED && row->deadline_ms <= now_ms) {
            row_stop(w, row, TASK_TIMED_OUT);
        }
    }
}

/* Nobody has answered. */
static void tick_questions(World *w)
{
    for (int i = 0; i < w->disk.rows_n; i++) {
        Row *row = &w->disk.rows[i];
        if (!row->asked || row->question != ESCALATION_PENDING) continue;
        if (row->expires_ms > server_ms(w)) continue;
        MUST(w->now_ms > row->asked_ms + QUESTION_MS(w) - CALENDAR_SET_MS);
        bool waited = row->state == TASK_ESCALATED;
        bool has_default = row->fallback && !BREAKS(w, DEFAULT_FORGOTTEN);
        question_settles(w, row, escalation_overtime(row->state, has_default));
        MUST(!waited || row->state == (row->fallback ? TASK_QUEUED : TASK_FAILED));
        w->tally.unanswered += waited && !row->fallback;
        w->tally.defaulted += row->question == ESCALATION_DEFAULTED;
    }
}

static void job_tick(World *w, Msg *m)
{
    (void)m;
    tick_leases(w);
    tick_deadlines(w);
    tick_questions(w);
    w->server.ready = true; /* tasks whose time has come meanwhile */
}

/* Deadlines move with the calendar, and so does what waits for another attempt. */
static void job_calendar(World *w, Msg *m)
{
    SimServer *s = &w->server;
    int64_t off_ms = m->ms - s->known_ms;
    if (BREAKS(w, CALENDAR_TRUSTED)) return;
    for (int i = 0; i < w->disk.rows_n && off_ms != 0; i++) {
        Row *row = &w->disk.rows[i];
        bool asks = row->asked && row->question == ESCALATION_PENDING;
        if (asks && !BREAKS(w, WAITS_LEFT)) row->expires_ms += off_ms;
        if (task_state_ended(row->state)) continue;
        if (row->client_ms && !BREAKS(w, CLIENT_LEFT))
            row->client_ms = MAX(1, row->client_ms + off_ms);
        if (row->state != TASK_QUEUED && row->state != TASK_RUNNING) continue;
        if (row->deadline_ms) row->deadline_ms = MAX(1, row->deadline_ms + off_ms);
        bool waits = row->state == TASK_QUEUED && row->gate == GATE_LATER && row->attempt > 0;
        if (waits && !BREAKS(w, WAITS_LEFT)) row->ready_ms = MAX(1, row->ready_ms + off_ms);
    }
    s->known_ms += off_ms;
    s->undo_ms += off_ms;
}

/* --- the store -------------------------------------------------------------------------------- */

typedef void (*Job)(World *w, Msg *m);

static void job_run(World *w, Msg *m)
{
    static const Job jobs[] = {
        [MSG_SUBMIT] = job_submit,     [MSG_CANCEL] = job_cancel,     [MSG_RETRY] = job_retry,
        [MSG_RESOLVE] = job_resolve,   [MSG_REGISTER] = job_register, [MSG_CLAIM] = job_claim,
        [MSG_BEAT] = job_beat,         [MSG_CALL] = job_call,         [MSG_FINISH] = job_finish,
        [MSG_DRAIN] = job_leave,       [MSG_LEAVE] = job_leave,       [MSG_TICK] = job_tick,
        [MSG_CALENDAR] = job_calendar, [MSG_CHILD] = job_child,       [MSG_ASK] = job_ask,
    };
    bool by_steps = m->kind == MSG_TICK || m->kind == MSG_BEAT || m->kind == MSG_CLAIM;
    m->said = SAID_OK;
    w->server.changed |= !by_steps; /* these change rows by steps */
    jobs[m->kind](w, m);
}

static void job_add(World *w, int msg)
{
    SimServer *s = &w->server;
    if (!MUST_HOLD(s->jobs_n < JOBS_MAX)) return;
    s->jobs[s->jobs_n++] = msg;
}

static int parked_take(World *w, int at)
{
    SimServer *s = &w->server;
    int msg = s->parked[at].msg;
    s->parked[at] = s->parked[--s->parked_n];
    return msg;
}

/* Who waits for a task is given it in the transaction that makes it durable. */
static void parked_give(World *w, Lane lane)
{
    SimServer *s = &w->server;
    for (int i = 0; i < s->parked_n; i++) {
        Msg *m = &w->msgs[s->parked[i].msg];
        if (lane_free(&m->slots, &(LaneUse){ 0 }, lane) == 0) continue;
        s->batch[s->batch_n] = parked_take(w, i);
        job_run(w, &w->msgs[s->batch[s->batch_n++]]);
        return;
    }
}

/* All that waits is one transaction. */
static void store_begin(World *w)
{
    SimServer *s = &w->server;
    if (s->committing || s->jobs_n == 0) return;
    int n = s->jobs_n;
    memcpy(s->batch, s->jobs, (size_t)n * sizeof s->jobs[0]);
    s->batch_n = n;
    s->jobs_n = 0;
    s->ready = s->changed = false;
    s->undo_ms = 0;
    for (int i = 0; i < n; i++) {
        Msg *m = &w->msgs[s->batch[i]];
        job_run(w, m);
        if (m->kind != MSG_SUBMIT || m->said != SAID_OK) continue;
        if (BREAKS(w, ACK_BEFORE)) answer(w, m);
        parked_give(w, w->orders[m->order].lane);
    }
    s->committing = true;
    after(w, upto(w, w->lease_ms / (chance(w, 20) ? 2 : 1000)), EV_COMMIT, -1, 0);
}

/* A claim that has found nothing waits until there may be something. */
static void claim_park(World *w, int msg)
{
    SimServer *s = &w->server;
    if (!MUST_HOLD(s->parked_n < PARKED_MAX)) return;
    s->parked[s->parked_n].msg = msg;
    s->parked[s->parked_n++].until_ms = w->msgs[msg].ms;
}

static void parked_wake(World *w)
{
    SimServer *s = &w->server;
    while (s->parked_n > 0) job_add(w, parked_take(w, 0));
}

/* A commit that fails leaves everything as it was. */
static void store_undo(World *w)
{
    SimServer *s = &w->server;
    disk_copy(&w->disk, &w->kept, true);
    s->known_ms -= s->undo_ms;
    s->ready = false;
}

static bool has_hung_up(const World *w, const Msg *m)
{
    return m->kind == MSG_CLAIM && m->serial < SERIALS_MAX &&
           (w->hung_up[m->serial / 8] & (1 << m->serial % 8));
}

/* Gives back what was claimed by one that has hung up, as far as that is known. */
static void claim_unwanted(World *w, const Msg *m)
{
    Msg back = *m;
    back.kind = MSG_FINISH;
    back.worker = -1;
    for (int i = 0; i < m->n; i++) back.items[i].outcome = TASK_OUTCOME_RELEASED;
    if (m->said == SAID_OK) job_add(w, msg_new(w, &back));
}

static void store_committed(World *w)
{
    SimServer *s = &w->server;
    bool failed = w->full;
    if (failed) store_undo(w);
    else disk_copy(&w->kept, &w->disk, s->changed);
    w->tally.commits++;
    s->committing = false;
    for (int i = 0; i < s->batch_n; i++) {
        Msg *m = &w->msgs[s->batch[i]];
        if (failed) m->said = SAID_TROUBLE;
        if (has_hung_up(w, m)) {
            claim_unwanted(w, m);
            msg_free(w, s->batch[i]);
            continue;
        }
        if (m->kind == MSG_CLAIM && m->said == SAID_NOTHING_YET && m->ms > w->now_ms) {
            claim_park(w, s->batch[i]);
            continue;
        }
        if (m->kind == MSG_BEAT && m->said == SAID_OK)
            fence_marks_note(&s->fences, w->lease_ms, m->fence, steady_ms(w));
        answer(w, m);
        msg_free(w, s->batch[i]);
    }
    s->batch_n = 0;
    if (s->ready) parked_wake(w);
    store_begin(w);
}

/* --- the server ------------------------------------------------------------------------------- */

/* As queue_calendar_wait: when the calendar is off, deadlines are moved before anything else. */
static void calendar_look(World *w)
{
    int64_t off_ms = w->calendar_ms - w->server.known_ms;
    if (off_ms <= -CALENDAR_SET_MS || off_ms >= CALENDAR_SET_MS)
        job_add(w, msg_new(w, &(Msg){ .kind = MSG_CALENDAR, .worker = -1, .ms = w->calendar_ms }));
    w->calendar_ms += w->ambush_ms;
    w->ambush_ms = 0;
}

static void parked_leave(World *w, int serial)
{
    SimServer *s = &w->server;
    if (!MUST_HOLD(serial < SERIALS_MAX)) return;
    w->hung_up[serial / 8] |= (uint8_t)(1 << serial % 8);
    for (int i = s->parked_n - 1; i >= 0; i--)
        if (w->msgs[s->parked[i].msg].serial == serial) msg_free(w, parked_take(w, i));
}

static void server_hears(World *w, int msg)
{
    Msg *m = &w->msgs[msg];
    if (!w->server.up) {
        msg_free(w, msg);
        return;
    }
    if (m->kind == MSG_GONE) {
        parked_leave(w, m->serial);
        msg_free(w, msg);
        return;
    }
    if (m->kind == MSG_KIDS) {
        kids_read(w, m);
        msg_free(w, msg);
        return;
    }
    if (w->low && (m->kind == MSG_SUBMIT || m->kind == MSG_RETRY)) {
        m->said = SAID_TROUBLE;
        answer(w, m);
        msg_free(w, msg);
        return;
    }
    if (m->kind == MSG_SUBMIT || m->kind == MSG_CLAIM || m->kind == MSG_FINISH) calendar_look(w);
    if (m->kind == MSG_BEAT)
        m->fence = fence_marks_arrived(&w->server.fences, w->lease_ms, steady_ms(w));
    job_add(w, msg);
    store_begin(w);
}

static void server_ticks(World *w)
{
    if (!w->server.up) return;
    calendar_look(w);
    job_add(w, msg_new(w, &(Msg){ .kind = MSG_TICK, .worker = -1 }));
    for (int i = w->server.parked_n - 1; i >= 0; i--) {
        if (w->server.parked[i].until_ms > w->now_ms) continue;
        int msg = parked_take(w, i);
        answer(w, &w->msgs[msg]);
        msg_free(w, msg);
    }
    store_begin(w);
    after(w, w->tick_ms, EV_TICK, -1, 0);
}

/* The process that has the store: what its own worker had is not lost by that one's fault. */
static void server_opens(World *w)
{
    SimServer *s = &w->server;
    s->up = true;
    s->known_ms = w->calendar_ms;
    s->steady_ms = CALENDAR_MS + w->calendar_ms;
    for (int i = 0; i < w->disk.leases_n; i++) {
        Holder *holder = &w->disk.leases[i];
        if (!holder_lives(holder)) continue;
        holder->expires_ms = steady_ms(w) + w->lease_ms;
        if (!w->workers[holder->worker].embedded) continue;
        holder_end_all(w, holder->id, TASK_OUTCOME_LOST, true);
        holder->state = HOLDER_LOST;
    }
    disk_copy(&w->kept, &w->disk, true);
    if (w->calm) w->calendar_ms = 0;
    after(w, 0, EV_TICK, -1, 0);
}

static void worker_dies(World *w, int i);

/* A commit under way is durable, or it is not. (A calendar that is set while nobody looks is not
 * known: that is not played.) */
static void server_dies(World *w, int64_t down_ms)
{
    SimServer *s = &w->server;
    if (!s->up) return;
    bool durable = s->committing && !w->full && chance(w, 500);
    w->tally.torn += s->committing;
    if (s->committing && !durable) store_undo(w);
    if (durable) disk_copy(&w->kept, &w->disk, true);
    w->calendar_ms = s->known_ms;
    w->ambush_ms = 0;
    for (int i = 0; i < s->batch_n; i++) msg_free(w, s->batch[i]);
    for (int i = 0; i < s->jobs_n; i++) msg_free(w, s->jobs[i]);
    while (s->parked_n > 0) msg_free(w, parked_take(w, 0));
    s->batch_n = s->jobs_n = 0;
    s->up = s->committing = false;
    s->stopped_until_ms = 0;
    turns_clear(w);
    s->fences = (FenceMarks){ 0 };
    s->epoch++;
    w->tally.crashes++;
    for (int i = 0; i < w->workers_n; i++)
        if (w->workers[i].embedded) worker_dies(w, i);
    after(w, down_ms, EV_SERVER_UP, -1, 0);
}

#endif
