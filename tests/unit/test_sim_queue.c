/* The protocol between clients, queue and workers, on the rules that the program goes by
 * (logic/task, attempt, lease, slots, lane, line, fair, retry, family, escalation), in virtual
 * time: a network that loses, doubles, delays and reorders what is said; a store that loses what
 * was not committed, and is full for a while; a server that is killed between commit and answer;
 * workers that are killed, drain, or are stopped and wake up with old tokens; clients that ask
 * again, cancel, change their minds; a calendar that is set. Then all that stops, and everything
 * must come to its end.
 *
 *   no task is lost that was acknowledged; a key makes one task
 *   a token is had by one attempt, and only the one that goes on records anything
 *   one result a task, one charge a call, attempts and failures counted to one
 *   no slot is taken twice or lost; nobody works under a lease that the queue has let run out
 *   deadlines and waits are spans of time, whatever the calendar says; retries come no sooner than
 *     asked for, and evenly up to the most
 *   tasks of a session run one after another, in the order in which they came
 *   in a lane the tenant that has used least is next, with its oldest task; limits of tenants and
 *     agents hold, and keep nobody from those it waits for
 *   a sub-agent is begun once, in its parent's lane, with its parent's time, within the bounds;
 *     what ends or is cancelled leaves nothing below it that goes on; a parent has no slot while it
 *     waits, and goes on when all that it waits for have ended
 *   a question is put once; nobody waits for a person who has answered; its time over, the default
 *     answers it
 *   every task ends
 *
 * (What families may spend is played by test_sim_family, what parts tenants and lanes get by
 * test_sim_lanes.) The same runs with a rule broken must fail, for each rule.
 * usage: test_sim_queue [SEED [RULE]] replays one; test_sim_queue FIRST-LAST plays many. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "queue_world_server.h"
#include "queue_world_workers.h"
#include "sim_args.h"

#define SEEDS_SLOW 1500
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SEEDS SEEDS_SLOW
#else
#define SEEDS 20000
#endif
#define SEEDS_BROKEN 4000 /* by then a broken rule must have shown */

/* --- clients ---------------------------------------------------------------------------------- */

static void order_sends(World *w, int at)
{
    Order *o = &w->orders[at];
    if (o->settled || o->stage == ORDER_UNKNOWN) return;
    Msg m = { .kind = o->wish, .worker = -1, .order = at, .id = o->id, .call = chance(w, 300) };
    m.serial = o->serial = ++w->serials;
    o->sent++;
    carry(w, &m, EV_REQUEST);
    after(w, w->lease_ms, EV_ORDER_TIMEOUT, -1, o->serial);
    o->stage = ORDER_SENT;
}

static void order_settles(World *w, Order *o)
{
    o->serial = 0;
    o->settled = true;
    if (o->cancels || o->retries) {
        o->settled = false;
        o->wish = o->cancels ? MSG_CANCEL : MSG_RETRY;
        o->cancels = false;
        if (o->wish == MSG_RETRY) o->retries = false;
        after(w, upto(w, (o->wish == MSG_RETRY ? 8 : 3) * w->lease_ms), EV_ORDER, -1,
              (int)(o - w->orders));
    }
}

/* What was acknowledged is there, and stays. */
static void submit_taken(World *w, Order *o, const Msg *m)
{
    const Row *row = row_of(&w->kept, m->id);
    if (!MUST_HOLD(row)) return;
    MUST(o->id == 0 || o->id == m->id);
    MUST(row->key == o->key && row->body == o->body);
    if (o->key == 0)
        for (int i = 0; i < w->orders_n; i++) MUST(w->orders[i].id != m->id);
    o->id = m->id;
    o->stage = ORDER_TAKEN;
    order_settles(w, o);
}

static void client_hears(World *w, const Msg *m)
{
    Order *o = &w->orders[m->order];
    if (m->kind == MSG_RESOLVE || m->serial != o->serial) return;
    if (m->said == SAID_TROUBLE) { /* and nothing was done */
        o->serial = 0;
        after(w, upto(w, w->lease_ms), EV_ORDER, -1, m->order);
        return;
    }
    if (m->kind == MSG_SUBMIT && m->said == SAID_OK) {
        submit_taken(w, o, m);
        return;
    }
    if (m->kind == MSG_SUBMIT) {
        o->stage = ORDER_REFUSED;
        o->serial = 0;
        o->settled = true;
        return;
    }
    if (m->kind == MSG_CANCEL && m->said == SAID_OK) o->cancelled_life = (int)m->ms;
    order_settles(w, o);
}

/* Whoever has sent no key does not ask again: it may be there. */
static void order_times_out(World *w, int serial)
{
    for (int i = 0; i < w->orders_n; i++) {
        Order *o = &w->orders[i];
        if (o->serial != serial) continue;
        o->serial = 0;
        if (o->key == 0 && o->wish == MSG_SUBMIT) {
            o->stage = ORDER_UNKNOWN;
            o->settled = true;
        } else {
            after(w, upto(w, w->lease_ms / 2), EV_ORDER, -1, i);
        }
    }
}

/* People answer those who ask. */
static void people_answer(World *w)
{
    for (int i = 0; i < w->kept.rows_n; i++) {
        const Row *row = &w->kept.rows[i];
        if (!row->asked || row->question != ESCALATION_PENDING || !chance(w, 50)) continue;
        Msg m = { .kind = MSG_RESOLVE, .worker = -1, .id = row->id };
        carry(w, &m, EV_REQUEST);
    }
}

/* --- what goes wrong -------------------------------------------------------------------------- */

static int64_t off_ms(World *w)
{
    static const int64_t most[] = { 900, 15000, 3600000, DAY_MS };
    int64_t by_ms = most[upto(w, 3)];
    return upto(w, 2 * by_ms) - by_ms;
}

/* Never off by more than a day: keys are kept for two. */
static void calendar_is_set(World *w)
{
    int64_t by_ms = off_ms(w), is_ms = w->calendar_ms + w->ambush_ms + by_ms;
    if (!w->server.up || is_ms > DAY_MS || is_ms < -DAY_MS) return;
    w->tally.sets++;
    if (chance(w, 500)) w->ambush_ms += by_ms;
    else w->calendar_ms += by_ms;
}

static void disk_fills(World *w)
{
    w->low = true;
    w->full = chance(w, 500);
    w->tally.fulls++;
    after(w, upto(w, 2 * w->lease_ms), EV_FULL_OVER, -1, 0);
}

static void worker_suffers(World *w, int64_t what)
{
    int i = (int)upto(w, w->workers_n - 1);
    SimWorker *k = &w->workers[i];
    if (what == 0 && k->alive && !k->embedded) worker_dies(w, i);
    if (what == 1 && k->alive && !k->embedded) {
        k->stopped_until_ms = w->now_ms + upto(w, chance(w, 500) ? w->lease_ms : 6 * w->lease_ms);
        w->tally.stops++;
    }
    if (what == 2) {
        k->cut_until_ms = w->now_ms + upto(w, 3 * w->lease_ms);
        k->deaf = chance(w, 300);
        w->tally.cuts++;
    }
    if (what == 3 && k->alive && !k->embedded) worker_drains(w, i);
}

/* It stands still, with what it has in memory, and all that was sent to it. */
static void server_stalls(World *w)
{
    if (!w->server.up) return;
    w->server.stopped_until_ms = w->now_ms + upto(w, 3 * w->lease_ms);
    w->tally.stalls++;
}

static void fault(World *w)
{
    if (w->calm) return;
    int64_t what = upto(w, 10);
    if (what < 6) worker_suffers(w, what % 4);
    else if (what < 8) server_dies(w, upto(w, chance(w, 700) ? w->lease_ms / 4 : 2 * w->lease_ms));
    else if (what == 8) calendar_is_set(w);
    else if (what == 9) server_stalls(w);
    else disk_fills(w);
    after(w, upto(w, 3 * w->lease_ms), EV_FAULT, -1, 0);
}

/* From here on nothing goes wrong, and all that was begun must end. */
static void calm_begins(World *w)
{
    w->calm = true;
    w->full = w->low = false;
    w->ambush_ms = 0;
    w->server.stopped_until_ms = MIN(w->server.stopped_until_ms, w->now_ms);
    if (w->server.up) w->calendar_ms = 0;
    for (int i = 0; i < w->workers_n; i++) {
        SimWorker *k = &w->workers[i];
        k->stopped_until_ms = MIN(k->stopped_until_ms, w->now_ms);
        k->cut_until_ms = 0;
    }
}

/* --- the end ---------------------------------------------------------------------------------- */

static bool has_run(const World *w, const Row *row)
{
    for (int i = 0; i < w->workers_n; i++)
        for (int r = 0; r < RUNS_MAX; r++) {
            const SimRun *run = &w->workers[i].runs[r];
            bool its = run->ref.id == row->id && run->ref.fence == row->fence;
            if (its && run->stage != RUN_NONE && w->workers[i].alive) return true;
        }
    return false;
}

/* While nothing goes wrong: what nobody runs is found out, what waits for another attempt gets
 * it. */
static void check_calm(World *w)
{
    int64_t slack_ms = 5 * w->lease_ms + 4 * w->tick_ms + CALENDAR_SET_MS;
    if (!w->calm || !w->server.up) return;
    for (int i = 0; i < w->kept.rows_n; i++) {
        const Row *row = &w->kept.rows[i];
        if (row->state != TASK_RUNNING || has_run(w, row)) w->alone_ms[i] = w->now_ms;
        MUST(w->now_ms - MAX(MAX(w->calm_ms, row->start_ms), w->alone_ms[i]) < slack_ms);
        if (row->state == TASK_RUNNING && row->cancel)
            MUST(w->now_ms - MAX(w->calm_ms, row->cancelled_ms) < slack_ms);
        if (row->state != TASK_QUEUED || row->gate != GATE_LATER || row->attempt == 0) continue;
        if (w->now_ms < w->calm_ms + slack_ms) continue;
        MUST(row->ready_ms - server_ms(w) < w->retry.max_ms + 1);
    }
}

static bool is_over(const World *w)
{
    if (!w->calm || !w->server.up || w->server.committing) return false;
    for (int i = 0; i < w->orders_n; i++)
        if (!w->orders[i].settled) return false;
    for (int i = 0; i < w->kept.rows_n; i++)
        if (!task_state_ended(w->kept.rows[i].state)) return false;
    for (int i = 0; i < w->workers_n; i++) {
        if (!w->workers[i].registered) return false;
        for (int r = 0; r < RUNS_MAX; r++)
            if (w->workers[i].runs[r].stage != RUN_NONE) return false;
    }
    return true;
}

static void check_order(World *w, const Order *o)
{
    const Row *row = o->id ? row_of(&w->kept, o->id) : NULL;
    if (o->stage == ORDER_REFUSED) MUST(row_of_key(&w->kept, o->key)->body != o->body);
    if (o->id == 0) return;
    if (!MUST_HOLD(row)) return;
    MUST((w->calls_told[o->id] & ~row->calls) == 0); /* what was taken is kept */
    if (o->cancelled_life == row->lives)
        MUST(row->state == TASK_CANCELED || row->state == TASK_SUCCEEDED);
}

static void check_end(World *w)
{
    MUST(w->kept.rows_n == w->disk.rows_n);
    MUST(memcmp(w->kept.rows, w->disk.rows, (size_t)w->kept.rows_n * sizeof(Row)) == 0);
    for (int i = 0; i < w->orders_n; i++) check_order(w, &w->orders[i]);
    for (int i = 0; i < w->kept.rows_n; i++) {
        const Row *row = &w->kept.rows[i];
        MUST(row->results == 1);
        for (int k = 0; k < i; k++) MUST(row->key == 0 || row->key != w->kept.rows[k].key);
        w->tally.ended[row->state]++;
    }
    for (int i = 0; i < w->workers_n; i++) {
        const Slots *s = &w->workers[i].slots;
        int64_t slots = lane_slots(&s->free);
        for (int c = 0; c < SLOTS_CLAIMS_MAX; c++) slots += lane_slots(&s->promised[c]);
        MUST(slots == lane_slots(&s->total) && slots_running(s) == 0 && slots_beyond(s) == 0);
    }
}

/* --- a run ------------------------------------------------------------------------------------ */

static void world_event(World *w, const Event *e)
{
    switch (e->what) {
    case EV_REQUEST: server_hears(w, e->arg); break;
    case EV_ANSWER:
        client_hears(w, &w->msgs[e->arg]);
        msg_free(w, e->arg);
        break;
    case EV_COMMIT:
        if (e->epoch == w->server.epoch) store_committed(w);
        break;
    case EV_TICK:
        if (e->epoch != w->server.epoch) break;
        people_answer(w);
        check_calm(w);
        server_ticks(w);
        break;
    case EV_SERVER_UP: server_opens(w); break;
    case EV_FAULT: fault(w); break;
    case EV_FULL_OVER: w->full = w->low = false; break;
    case EV_CALM: calm_begins(w); break;
    case EV_ORDER: order_sends(w, e->arg); break;
    case EV_ORDER_TIMEOUT: order_times_out(w, e->arg); break;
    default: break;
    }
}

static void worker_event(World *w, const Event *e)
{
    int i = e->who;
    SimWorker *k = &w->workers[i];
    if (e->what == EV_HEARD) {
        worker_hears(w, i, &w->msgs[e->arg]);
        msg_free(w, e->arg);
    } else if (e->what == EV_BOOT) {
        if (!k->alive && (!k->embedded || w->server.up)) worker_starts(w, i);
        else if (!k->alive) after(w, w->lease_ms / 4, EV_BOOT, i, 0);
    }
    if (!k->alive || e->epoch != k->epoch) return;
    switch (e->what) {
    case EV_REGISTER: worker_registers(w, i); break;
    case EV_BEAT: worker_beats(w, i); break;
    case EV_LEASE: lease_looks(w, i); break;
    case EV_CLAIM: worker_claims(w, i); break;
    case EV_STEP: run_steps(w, i, e->arg); break;
    case EV_FLUSH: worker_flushes(w, i); break;
    case EV_RENEW: claims_renew(w, i, e->arg); break;
    case EV_TIMEOUT: worker_gives_up(w, i, e->arg); break;
    default: break;
    }
    worker_leaves(w, i);
}

/* What befalls a stopped process befalls it when it goes on, in any order. */
static bool is_stopped(World *w, const Event *e)
{
    bool server = e->what <= EV_SERVER_LAST_;
    if (!server && e->what < EV_WORKER_FIRST_) return false;
    int64_t until_ms = server ? w->server.stopped_until_ms : w->workers[e->who].stopped_until_ms;
    if (until_ms <= w->now_ms) return false;
    Event later = *e;
    later.at_ms = until_ms;
    later.order = random_next(&w->random) >> 1;
    event_put(w, &later);
    return true;
}

static void orders_make(World *w)
{
    int keys = 0;
    w->orders_n = (int)upto(w, ORDERS_MAX - 1) + 1;
    for (int i = 0; i < w->orders_n; i++) {
        Order *o = &w->orders[i];
        *o = (Order){ .lane = (Lane)upto(w, LANE_N_ - 1), .cancelled_life = -1 };
        o->tenant = (int)upto(w, TENANTS_N - 1);
        o->agent = (int)upto(w, AGENTS_N - 1);
        o->session = chance(w, 500) ? 1 + (int)upto(w, SESSIONS_N - 2) : 0;
        if (o->session && chance(w, 600)) o->tenant = o->agent = 1; /* or there is hardly one */
        o->kids = chance(w, 250) ? 1 + (int)upto(w, KIDS_MAX - 1) : 0;
        o->asks = chance(w, 80);
        o->fallback = chance(w, 500);
        o->key = chance(w, 250) ? 0 : ++keys;
        if (keys > 1 && chance(w, 120)) { /* somebody takes a key that was used */
            o->key = (int)upto(w, keys - 1) + 1;
            o->body = chance(w, 500);
        }
        int64_t at_ms = upto(w, 12 * w->lease_ms);
        if (chance(w, 200)) o->run_at_ms = CALENDAR_MS + at_ms + upto(w, 6 * w->lease_ms);
        if (chance(w, 250)) o->limit_ms = 1 + upto(w, 10 * w->lease_ms);
        if (chance(w, 250)) o->client_ms = 1 + upto(w, 16 * w->lease_ms);
        o->cancels = chance(w, 150);
        o->retries = chance(w, 150);
        after(w, at_ms, EV_ORDER, -1, i);
    }
}

static void workers_make(World *w)
{
    w->workers_n = 1 + (int)upto(w, WORKERS_MAX - 1);
    for (int i = 0; i < w->workers_n; i++) {
        SimWorker *k = &w->workers[i];
        LaneConfig *total = &k->slots.total;
        do {
            total->shared = upto(w, 2);
            for (int lane = 0; lane < LANE_N_; lane++) total->reserved[lane] = chance(w, 200);
        } while (!lane_config_ok(total) || lane_slots(total) > RUNS_MAX - SUSPENDED_MAX);
        k->embedded = i == 0 && chance(w, 300);
        after(w, upto(w, w->lease_ms), EV_BOOT, i, 0);
    }
}

static void world_make(World *w, uint64_t seed, Rule broken)
{
    memset(w, 0, offsetof(World, tenant_keys));
    w->seed = seed;
    w->broken = broken;
    w->random.state = seed * 0x9e3779b97f4a7c15 + 1;
    w->events_n = 0;
    w->pushed = 0;
    w->msgs_free_n = MSGS_MAX;
    for (int i = 0; i < MSGS_MAX; i++) w->msgs_free[i] = i;
    int64_t least_ms = INT64_C(2000) << upto(w, 11);
    w->lease_ms = least_ms + upto(w, least_ms);
    w->tick_ms = MAX(w->lease_ms / 8, 500);
    w->hop_ms = w->lease_ms / (30 + upto(w, 400));
    w->lose = (int)upto(w, 100);
    w->twice = (int)upto(w, 60);
    w->slow = (int)upto(w, 60);
    w->retry = RETRY_POLICY_DEFAULT;
    w->retry.attempts_max = 1 + upto(w, 4);
    w->retry.initial_ms = w->lease_ms / 8;
    w->retry.max_ms = MIN(3 * w->lease_ms, RETRY_AFTER_MAX_MS);
    w->calm_ms = (8 + upto(w, 16)) * w->lease_ms;
    w->bound_ms = w->calm_ms + 1500 * w->lease_ms;
    w->tenant_most = upto(w, 3);
    w->session_most = chance(w, 800) ? 1 : 2;
    for (int i = 0; i < AGENTS_N; i++) w->agent_most[i] = upto(w, 3);
    turns_clear(w);
    workers_make(w);
    orders_make(w);
    after(w, 0, EV_SERVER_UP, -1, 0);
    after(w, upto(w, 2 * w->lease_ms), EV_FAULT, -1, 0);
    after(w, w->calm_ms, EV_CALM, -1, 0);
}

static void world_run(World *w)
{
    while (!is_over(w)) {
        if (!MUST_HOLD(w->events_n > 0) || w->why) return;
        Event e = event_take(w);
        MUST(e.at_ms >= w->now_ms);
        w->now_ms = e.at_ms;
        MUST(w->now_ms < w->bound_ms); /* all has ended long before */
        w->latest_ms = MAX(w->latest_ms, calendar(w));
        w->tally.events++;
        if (is_stopped(w, &e)) continue;
        if (e.what < EV_WORKER_FIRST_) world_event(w, &e);
        else worker_event(w, &e);
    }
    check_end(w);
    w->tally.tasks += (uint64_t)w->kept.rows_n;
    w->tally.years += (double)w->now_ms / (365.25 * (double)DAY_MS);
}

/* False: an invariant does not hold; w->why. */
static bool seed_holds(World *w, uint64_t seed, Rule broken)
{
    world_make(w, seed, broken);
    world_run(w);
    return !w->why;
}

/* --- tests ------------------------------------------------------------------------------------ */

static uint64_t seed_first = 1, seed_n = SEEDS;
static Rule rule_given = NOTHING_BROKEN;

static const char *const rules[RULE_N_] = {
    [NOTHING_BROKEN] = "none",
    [TOKEN_IGNORED] = "token-ignored",
    [TOKEN_KEPT] = "token-kept",
    [KEY_FORGOTTEN] = "key-forgotten",
    [BODY_FORGOTTEN] = "body-forgotten",
    [ACK_BEFORE] = "ack-before",
    [CHARGED_AGAIN] = "charged-again",
    [LOSS_UNCOUNTED] = "loss-uncounted",
    [EXPIRY_FORGOTTEN] = "expiry-forgotten",
    [ORPHAN_FORGOTTEN] = "orphan-forgotten",
    [CLAIM_DROPPED] = "claim-dropped",
    [CALENDAR_TRUSTED] = "calendar-trusted",
    [WAITS_LEFT] = "waits-left",
    [CALENDAR_RACED] = "calendar-raced",
    [LEASE_BY_CALENDAR] = "lease-by-calendar",
    [LEASE_FROM_ANSWER] = "lease-from-answer",
    [SLOT_LEAKED] = "slot-leaked",
    [CANCEL_FORGOTTEN] = "cancel-forgotten",
    [DEADLINE_AGAIN] = "deadline-again",
    [STOPPED_STARTS] = "stopped-starts",
    [BACKOFF_FORGOTTEN] = "backoff-forgotten",
    [SESSION_FORGOTTEN] = "session-forgotten",
    [SESSION_LAST] = "session-last",
    [SESSION_STUCK] = "session-stuck",
    [SESSION_EARLY] = "session-early",
    [DUE_UNASKED] = "due-unasked",
    [TENANT_UNCHARGED] = "tenant-uncharged",
    [LINE_JUMPED] = "line-jumped",
    [LIMIT_FORGOTTEN] = "limit-forgotten",
    [LIMIT_ON_KIDS] = "limit-on-kids",
    [KID_AGAIN] = "kid-again",
    [KID_UNBOUND] = "kid-unbound",
    [KID_LATE_ASK] = "kid-late-ask",
    [BOUNDS_FORGOTTEN] = "bounds-forgotten",
    [TREE_LEFT] = "tree-left",
    [KIDS_GO_ON] = "kids-go-on",
    [SLOT_KEPT] = "slot-kept",
    [RESUMED_EARLY] = "resumed-early",
    [DEFAULT_FORGOTTEN] = "default-forgotten",
    [ANSWER_MISSED] = "answer-missed",
    [ASKED_AGAIN] = "asked-again",
    [TIME_ASKED] = "time-asked",
    [CLIENT_WAITS] = "client-waits",
    [CLIENT_LEFT] = "client-left",
};

static void tally_add(Tally *sum, const Tally *t)
{
    const uint64_t *from = (const uint64_t *)(const void *)t;
    uint64_t *to = (uint64_t *)(void *)sum;
    for (size_t i = 0; i < offsetof(Tally, years) / sizeof *to; i++) to[i] += from[i];
    sum->years += t->years;
}

static void tally_print(const Tally *t, uint64_t seeds)
{
#define N(field) (unsigned long long)t->field
    print_message("%llu seeds, %.1f years: %llu tasks, %llu attempts, %llu events; %llu messages "
                  "(%llu lost, %llu doubled, %llu late), %llu commits (%llu cut off)\n",
                  (unsigned long long)seeds, t->years, N(tasks), N(attempts), N(events),
                  N(messages), N(lost), N(doubled), N(late), N(commits), N(torn));
    print_message(
        "server killed %llu times, stopped %llu; workers ended %llu, stopped %llu, cut off %llu, "
        "drained %llu; disk full %llu, calendar set %llu\n",
        N(crashes), N(stalls), N(kills), N(stops), N(cuts), N(drains), N(fulls), N(sets));
    print_message("leases expired %llu, stale reports %llu, orphans %llu, answers of people %llu, "
                  "keys again %llu, with another body %llu\n",
                  N(expired), N(stale), N(orphans), N(resumed), N(same_key), N(other_body));
    print_message(
        "sub-agents %llu, found again %llu, refused %llu too deep, %llu too wide, %llu too "
        "large; parents waited %llu, crowded %llu, below them stopped %llu\n",
        N(kids), N(kids_found), N(too_deep), N(too_wide), N(too_large), N(suspended), N(crowded),
        N(trees));
    print_message(
        "held up by their session %llu, let go %llu; lines at a limit %llu, tenants passed "
        "over %llu; unanswered %llu, by default %llu, answered before asked %llu; back-off "
        "%.3f of the most\n",
        N(held), N(admitted), N(limited), N(passed), N(unanswered), N(defaulted), N(answered_fast),
        (double)t->backoff_ms / (double)MAX(t->backoff_most_ms, 1));
    for (int i = 0; i < TASK_STATE_N_; i++)
        if (t->ended[i]) print_message("%s %llu  ", task_state_name((TaskState)i), N(ended[i]));
    print_message("\n");
#undef N
}

/* It does get there. */
static void check_tally(const Tally *t)
{
    assert_true(t->lost && t->doubled && t->late && t->torn && t->crashes && t->stalls &&
                t->kills && t->stops);
    assert_true(t->cuts && t->drains && t->fulls && t->sets && t->expired && t->stale);
    assert_true(t->orphans && t->resumed && t->unanswered && t->late_ends && t->same_key &&
                t->other_body);
    assert_true(t->ended[TASK_SUCCEEDED] && t->ended[TASK_FAILED] && t->ended[TASK_TIMED_OUT]);
    assert_true(t->ended[TASK_CANCELED] > 0);
    assert_true(t->kids && t->kids_found && t->too_deep && t->too_wide && t->too_large);
    assert_true(t->suspended && t->crowded && t->trees && t->held && t->admitted && t->limited);
    assert_true(t->passed && t->defaulted && t->answered_fast && t->late_asking);
    /* full jitter */
    assert_in_range(t->backoff_ms * 100, t->backoff_most_ms * 45, t->backoff_most_ms * 55);
}

/* For who replays a seed. */
static void row_print(const World *w, const Row *row)
{
    int64_t deadline_ms = row->deadline_ms ? row->deadline_ms - calendar(w) : 0;
    fprintf(stderr,
            "task %" PRId64 ": %s, attempt %" PRId64 ", token %" PRId64 ", worker %d%s, ready in "
            "%" PRId64 " ms, deadline in %" PRId64 " ms; %s:%s",
            row->id, task_state_name(row->state), row->attempt, row->fence, row->lease,
            row->cancel ? ", to be cancelled" : "", row->ready_ms - calendar(w), deadline_ms,
            tenant_names[row->tenant], agent_names[row->agent]);
    if (row->state == TASK_QUEUED && row->gate) fprintf(stderr, ", gate %d", (int)row->gate);
    if (row->parent) fprintf(stderr, ", begun by %" PRId64, row->parent);
    if (row->session_max)
        fprintf(stderr, ", session %d (entered as %" PRId64 ")", row->session, row->entered);
    if (row->asked) fprintf(stderr, ", question %d", (int)row->question);
    fprintf(stderr, "\n");
}

static void worker_print(const SimWorker *k, int i)
{
    fprintf(stderr, "worker %d (%d):%s%s%s%s", i, k->lease, k->alive ? " alive" : "",
            k->registered ? " registered" : "", k->draining ? " draining" : "",
            k->embedded ? " embedded" : "");
    for (int r = 0; r < RUNS_MAX; r++)
        if (k->runs[r].stage)
            fprintf(stderr, ", task %" PRId64 " by token %" PRId64, k->runs[r].ref.id,
                    k->runs[r].ref.fence);
    fprintf(stderr, "\n");
}

static void world_print(const World *w)
{
    fprintf(stderr, "seed %" PRIu64 ", at %" PRId64 " ms: failed: %s (%s:%d)\n", w->seed, w->now_ms,
            w->why, w->file, w->line);
    fprintf(stderr,
            "lease %" PRId64 " ms, calm at %" PRId64 " ms, calendar off by %" PRId64 " ms\n",
            w->lease_ms, w->calm_ms, w->calendar_ms);
    for (int i = 0; i < w->disk.rows_n; i++) row_print(w, &w->disk.rows[i]);
    for (int i = 0; i < w->workers_n; i++) worker_print(&w->workers[i], i);
    for (int i = 0; i < w->orders_n; i++)
        if (!w->orders[i].settled) fprintf(stderr, "order %d is open\n", i);
    fprintf(stderr, "replay: test_sim_queue %" PRIu64 " %s\n", w->seed, rules[w->broken]);
}

static void test_runs(void **state)
{
    (void)state;
    World *w = calloc(1, sizeof *w);
    names_make(w);
    Tally sum = { 0 };
    for (uint64_t seed = seed_first; seed < seed_first + seed_n; seed++) {
        if (!seed_holds(w, seed, rule_given)) {
            world_print(w);
            fail();
        }
        tally_add(&sum, &w->tally);
    }
    turns_clear(w);
    assert_true(turns_are_clear(w)); /* what a run leaves behind is known */
    tally_print(&sum, seed_n);
    if (seed_n >= SEEDS_SLOW) check_tally(&sum);
    free(w);
}

/* The simulator can fail: whatever rule is broken, it is found out. */
static void test_a_broken_rule_shows(void **state)
{
    (void)state;
    World *w = calloc(1, sizeof *w);
    names_make(w);
    for (int rule = NOTHING_BROKEN + 1; rule < RULE_N_ && seed_n > 1; rule++) {
        uint64_t seed = 1;
        while (seed <= SEEDS_BROKEN && seed_holds(w, seed, (Rule)rule)) seed++;
        print_message("%s: seed %d: %s\n", rules[rule], (int)seed, w->why);
        assert_true(seed <= SEEDS_BROKEN);
    }
    free(w);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_a_broken_rule_shows),
    };
    sim_seeds(argc, argv, &seed_first, &seed_n);
    int rule = argc > 2 ? sim_rule(argv[2], rules, RULE_N_) : NOTHING_BROKEN;
    if (rule < 0) return 2;
    rule_given = (Rule)rule;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
