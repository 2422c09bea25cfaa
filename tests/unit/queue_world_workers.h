/* The simulator's workers: how they register, claim, beat, run and report, as src/worker does. */
#ifndef GANTRY_TESTS_QUEUE_WORLD_WORKERS_H
#define GANTRY_TESTS_QUEUE_WORLD_WORKERS_H

#include "queue_world.h"

#define REPORT_MS_MAX(w) ((w)->lease_ms / 5)

/* --- workers ---------------------------------------------------------------------------------- */

static void asks(World *w, int i, Msg *m, int64_t timeout_ms)
{
    m->worker = i;
    m->epoch = w->workers[i].epoch;
    m->serial = ++w->serials;
    m->lease = w->workers[i].lease;
    carry(w, m, EV_REQUEST);
    after(w, timeout_ms, EV_TIMEOUT, i, m->serial);
}

static void hangs_up(World *w, int i, int serial)
{
    if (serial == 0) return;
    carry(w, &(Msg){ .kind = MSG_GONE, .worker = i, .serial = serial }, EV_REQUEST);
}

static void worker_starts(World *w, int i)
{
    SimWorker *k = &w->workers[i];
    LaneConfig total = k->slots.total;
    SimWorker is = { .alive = true, .embedded = k->embedded, .epoch = k->epoch + 1 };
    is.cut_until_ms = k->cut_until_ms;
    *k = is;
    slots_init(&k->slots, &total);
    after(w, 0, EV_REGISTER, i, 0);
}

static void worker_dies(World *w, int i)
{
    SimWorker *k = &w->workers[i];
    for (int c = 0; c < SLOTS_CLAIMS_MAX; c++) hangs_up(w, i, k->claims[c]);
    k->alive = k->registered = false;
    k->stopped_until_ms = 0;
    k->epoch++;
    w->tally.kills++;
    after(w, w->calm ? 0 : upto(w, 2 * w->lease_ms), EV_BOOT, i, 0);
}

static void worker_registers(World *w, int i)
{
    SimWorker *k = &w->workers[i];
    if (k->registered || k->register_serial) return;
    if (k->draining) { /* it has lost its lease, and nothing to say */
        worker_dies(w, i);
        return;
    }
    k->register_asked_ms = w->now_ms;
    Msg m = { .kind = MSG_REGISTER };
    asks(w, i, &m, w->lease_ms);
    k->register_serial = m.serial;
}

static void run_over(World *w, int i, SimRun *run)
{
    SimWorker *k = &w->workers[i];
    bool leak = BREAKS(w, SLOT_LEAKED) && run->stage != RUN_REPORTS;
    if (run->stage == RUN_SUSPENDED && !BREAKS(w, SLOT_KEPT)) slots_resume(&k->slots, run->lane);
    if (!leak) slots_release(&k->slots, run->lane);
    run->stage = RUN_NONE;
    run->gen++;
    after(w, 0, EV_CLAIM, i, 0);
}

static void lease_lost(World *w, int i)
{
    SimWorker *k = &w->workers[i];
    if (!k->registered) return;
    k->registered = false;
    for (int r = 0; r < RUNS_MAX; r++)
        if (k->runs[r].stage != RUN_NONE) run_over(w, i, &k->runs[r]);
    after(w, 0, EV_REGISTER, i, 0);
}

static void worker_beats(World *w, int i)
{
    SimWorker *k = &w->workers[i];
    if (!k->registered || k->beat_serial) return;
    if (lease_is_over(&k->held, w->now_ms)) {
        lease_lost(w, i);
        return;
    }
    Msg m = { .kind = MSG_BEAT };
    for (int r = 0; r < RUNS_MAX; r++)
        if (k->runs[r].stage != RUN_NONE) m.items[m.n++] = (Item){ .ref = k->runs[r].ref };
    k->beat_asked_ms = w->now_ms;
    asks(w, i, &m, w->lease_ms / 3);
    k->beat_serial = m.serial;
}

/* Whatever a heartbeat waits for, the lease is over when it is. */
static void lease_looks(World *w, int i)
{
    SimWorker *k = &w->workers[i];
    if (!k->registered) return;
    if (lease_is_over(&k->held, w->now_ms)) lease_lost(w, i);
    else after(w, k->held.until_ms - w->now_ms, EV_LEASE, i, 0);
}

static void worker_claims(World *w, int i)
{
    SimWorker *k = &w->workers[i];
    Msg m = { .kind = MSG_CLAIM };
    if (!k->registered || k->draining) return;
    int claim = slots_promise(&k->slots, &m.slots);
    if (claim < 0) return;
    m.ms = w->now_ms + 2 * w->lease_ms;
    asks(w, i, &m, 3 * w->lease_ms);
    k->claims[claim] = m.serial;
}

/* --- attempts --------------------------------------------------------------------------------- */

static int run_arg(const SimWorker *k, const SimRun *run)
{
    return (int)(run - k->runs) | (int)(run->gen << 8);
}

static void run_plan(World *w, SimRun *run)
{
    static const struct {
        int part;
        TaskOutcome outcome;
    } plan[] = { { 66, TASK_OUTCOME_SUCCEEDED },
                 { 14, TASK_OUTCOME_FAILED_RETRYABLE },
                 { 5, TASK_OUTCOME_FAILED_FINAL },
                 { 5, TASK_OUTCOME_CAPPED },
                 { 10, TASK_OUTCOME_RELEASED } };
    int64_t at = upto(w, 99);
    size_t i = 0;
    while (at >= plan[i].part) at -= plan[i++].part;
    bool again = w->calm && plan[i].outcome != TASK_OUTCOME_FAILED_RETRYABLE;
    run->end.outcome = again ? TASK_OUTCOME_SUCCEEDED : plan[i].outcome;
    if (chance(w, 100)) run->end.retry_after_ms = upto(w, w->retry.max_ms);
    run->calls_left = (int)upto(w, 2);
}

static int64_t run_takes(World *w)
{
    return upto(w, chance(w, 200) ? 3 * w->lease_ms : w->lease_ms / 2);
}

static void run_starts(World *w, int i, int claim, const Item *given)
{
    SimWorker *k = &w->workers[i];
    int64_t fence = given->ref.fence;
    SimRun *run = k->runs;
    if (!MUST_HOLD(slots_take(&k->slots, claim, given->lane))) return;
    while (run < k->runs + RUNS_MAX && run->stage != RUN_NONE) run++;
    if (!MUST_HOLD(run < k->runs + RUNS_MAX && fence < FENCES_MAX)) return;
    MUST(!(w->started[fence / 8] & (1 << fence % 8))); /* a token is had once */
    w->started[fence / 8] |= (uint8_t)(1 << fence % 8);
    *run = (SimRun){ .stage = RUN_GOES,
                     .gen = (run->gen + 1) & 0xffff,
                     .ref = given->ref,
                     .lane = given->lane,
                     .call = MIN(given->attempt * 2, 62),
                     .asks = given->asks,
                     .kids_left = given->kids,
                     .until_ms = INT64_MAX };
    if (given->remaining_ms != INT64_MAX) run->until_ms = w->now_ms + given->remaining_ms;
    run_plan(w, run);
    after(w, MIN(run_takes(w), run->until_ms - w->now_ms), EV_STEP, i, run_arg(k, run));
}

static void call_tells(World *w, int i, SimRun *run)
{
    Msg m = { .kind = MSG_CALL, .n = 1, .call = run->call };
    m.items[0].ref = run->ref;
    run->stage = RUN_CALLS;
    asks(w, i, &m, w->lease_ms);
    run->serial = m.serial;
}

static void run_ends(World *w, int i, SimRun *run)
{
    run->stage = RUN_ENDS;
    run->serial = 0;
    run->delay_ms = w->lease_ms / 100;
    run->end.ref = run->ref;
    after(w, 0, EV_FLUSH, i, 0);
}

/* Ends of several attempts go together. */
static void worker_flushes(World *w, int i)
{
    SimWorker *k = &w->workers[i];
    Msg m = { .kind = MSG_FINISH };
    for (int r = 0; r < RUNS_MAX; r++)
        if (k->runs[r].stage == RUN_ENDS) m.items[m.n++] = k->runs[r].end;
    if (m.n == 0) return;
    asks(w, i, &m, w->lease_ms);
    for (int r = 0; r < RUNS_MAX; r++) {
        SimRun *run = &k->runs[r];
        if (run->stage != RUN_ENDS) continue;
        run->stage = RUN_REPORTS;
        run->serial = m.serial;
    }
}

static void run_goes(World *w, int i, SimRun *run)
{
    run->stage = RUN_GOES;
    after(w, MIN(run_takes(w), run->until_ms - w->now_ms), EV_STEP, i,
          run_arg(&w->workers[i], run));
}

/* It starts a sub-agent; its key makes it safe to ask again, with what it asked at first. */
static void run_forks(World *w, int i, SimRun *run)
{
    if (run->stage != RUN_FORKS) run->remaining_ms = run->until_ms - w->now_ms;
    if (run->until_ms == INT64_MAX) run->remaining_ms = INT64_MAX;
    Msg m = { .kind = MSG_CHILD, .n = 1, .call = run->kid, .ms = run->remaining_ms };
    m.items[0].ref = run->ref;
    run->stage = RUN_FORKS;
    asks(w, i, &m, w->lease_ms);
    run->serial = m.serial;
}

static void run_questions(World *w, int i, SimRun *run)
{
    Msg m = { .kind = MSG_ASK, .n = 1 };
    m.items[0].ref = run->ref;
    run->stage = RUN_ASKS;
    asks(w, i, &m, w->lease_ms);
    run->serial = m.serial;
}

/* Beyond the bound it is given back whole; so is what waits with a worker that drains. */
static void run_suspends(World *w, int i, SimRun *run)
{
    SimWorker *k = &w->workers[i];
    bool crowded = slots_beyond(&k->slots) >= SUSPENDED_MAX;
    w->tally.crowded += crowded;
    if (crowded || k->draining) {
        run->end.outcome = TASK_OUTCOME_RELEASED;
        run_ends(w, i, run);
        return;
    }
    if (!BREAKS(w, SLOT_KEPT)) slots_suspend(&k->slots, run->lane);
    w->tally.suspended++;
    run->stage = RUN_SUSPENDED;
    run->serial = 0;
    after(w, 0, EV_CLAIM, i, 0);
    after(w, 0, EV_STEP, i, run_arg(k, run));
}

/* Which of them have ended? Now and then, until all have. */
static void run_watches(World *w, int i, SimRun *run)
{
    if (run->serial) return; /* it has asked */
    Msg m = { .kind = MSG_KIDS, .id = run->ref.id, .fence = run->ref.fence, .n = run->kids_n };
    for (int n = 0; n < run->kids_n; n++) m.items[n].ref.id = run->kids[n];
    asks(w, i, &m, w->lease_ms / 4);
    run->serial = m.serial;
}

static void run_resumes(World *w, int i, SimRun *run)
{
    SimWorker *k = &w->workers[i];
    for (int n = 0; n < run->kids_n; n++) {
        const Row *kid = row_of(&w->kept, run->kids[n]);
        if (MUST_HOLD(kid)) MUST(task_state_ended(kid->state) || kid->lives > 0);
    }
    run->kids_n = 0;
    if (!BREAKS(w, SLOT_KEPT)) slots_resume(&k->slots, run->lane);
    run_goes(w, i, run);
}

/* It is to stop; what it then says is that it was. */
static void run_stops(World *w, int i, SimRun *run, TaskOutcome outcome)
{
    if (run->stage == RUN_NONE || run->stage >= RUN_ENDS) return;
    if (run->stage == RUN_SUSPENDED && !BREAKS(w, SLOT_KEPT))
        slots_resume(&w->workers[i].slots, run->lane);
    run->end.outcome = outcome;
    run_ends(w, i, run);
}

static void run_steps(World *w, int i, int arg)
{
    SimWorker *k = &w->workers[i];
    SimRun *run = &k->runs[arg & 0xff];
    if (run->gen != (unsigned)arg >> 8) return;
    if (run->stage != RUN_GOES && run->stage != RUN_SUSPENDED) return;
    if (w->now_ms >= run->until_ms) run_stops(w, i, run, TASK_OUTCOME_TIMED_OUT);
    else if (run->stage == RUN_SUSPENDED) run_watches(w, i, run);
    else if (run->kids_left > 0) run_forks(w, i, run);
    else if (run->kids_n > 0) run_suspends(w, i, run);
    else if (run->calls_left > 0) {
        run->calls_left--;
        call_tells(w, i, run);
    } else if (run->asks) {
        run_questions(w, i, run);
    } else {
        run_ends(w, i, run);
    }
}

/* --- what workers hear ------------------------------------------------------------------------ */

static void hears_register(World *w, int i, const Msg *m)
{
    SimWorker *k = &w->workers[i];
    if (m->serial != k->register_serial) return;
    k->register_serial = 0;
    if (m->said != SAID_OK) {
        after(w, w->lease_ms / 20, EV_REGISTER, i, 0);
        return;
    }
    int64_t asked_ms = BREAKS(w, LEASE_FROM_ANSWER) ? w->now_ms : k->register_asked_ms;
    k->held = lease_begin(w->lease_ms, w->lease_ms, asked_ms);
    k->registered = true;
    k->lease = m->lease;
    k->beat_serial = 0;
    after(w, 0, EV_BEAT, i, 0);
    after(w, 0, EV_CLAIM, i, 0);
    lease_looks(w, i);
}

static SimRun *run_of(SimWorker *k, const Ref *ref)
{
    for (int r = 0; r < RUNS_MAX; r++) {
        SimRun *run = &k->runs[r];
        if (run->stage && run->ref.id == ref->id && run->ref.fence == ref->fence) return run;
    }
    return NULL;
}

/* Its answer is not waited for any longer. */
static void claim_ends(World *w, int i, int claim)
{
    SimWorker *k = &w->workers[i];
    if (!k->claims[claim]) return;
    hangs_up(w, i, k->claims[claim]);
    k->claims[claim] = 0;
    slots_promise_end(&k->slots, claim);
    after(w, 0, EV_CLAIM, i, 0);
}

/* Those that have been under way since others were lost. */
static void claims_renew(World *w, int i, int serial)
{
    for (int c = 0; c < SLOTS_CLAIMS_MAX; c++)
        if (w->workers[i].claims[c] <= serial) claim_ends(w, i, c);
}

static void worker_drains(World *w, int i)
{
    SimWorker *k = &w->workers[i];
    if (k->draining || !k->registered) return;
    k->draining = true;
    Msg m = { .kind = MSG_DRAIN };
    asks(w, i, &m, w->lease_ms);
    for (int r = 0; r < RUNS_MAX; r++)
        if (k->runs[r].stage == RUN_SUSPENDED || chance(w, 300)) /* it waits for what cannot come */
            run_stops(w, i, &k->runs[r], TASK_OUTCOME_RELEASED);
}

static void hears_beat(World *w, int i, const Msg *m)
{
    SimWorker *k = &w->workers[i];
    if (m->serial != k->beat_serial) return;
    k->beat_serial = 0;
    if (m->said == SAID_NO_WORKER) {
        lease_lost(w, i);
        return;
    }
    if (m->said != SAID_OK) {
        after(w, k->held.every_ms / 10, EV_BEAT, i, 0);
        return;
    }
    lease_renew(&k->held, BREAKS(w, LEASE_FROM_ANSWER) ? w->now_ms : k->beat_asked_ms);
    if (m->released > 0)
        after(w, BREAKS(w, CLAIM_DROPPED) ? 0 : w->lease_ms / 4, EV_RENEW, i, w->serials);
    for (int n = 0; n < m->n; n++) {
        SimRun *run = run_of(k, &m->items[n].ref);
        if (run && m->items[n].said == SAID_STALE) run_over(w, i, run);
        else if (run && m->items[n].cancel) run_stops(w, i, run, TASK_OUTCOME_CANCELED);
    }
    after(w, k->beat_asked_ms + k->held.every_ms - w->now_ms, EV_BEAT, i, 0);
}

static void hears_claim(World *w, int i, const Msg *m)
{
    SimWorker *k = &w->workers[i];
    for (int c = 0; c < SLOTS_CLAIMS_MAX; c++) {
        if (k->claims[c] != m->serial) continue;
        k->claims[c] = 0;
        bool mine = k->registered && m->lease == k->lease;
        for (int n = 0; n < m->n && mine && m->said == SAID_OK; n++)
            run_starts(w, i, c, &m->items[n]);
        slots_promise_end(&k->slots, c);
        after(w, m->said == SAID_OK ? 0 : w->lease_ms / 20, EV_CLAIM, i, 0);
    }
}

static void hears_call(World *w, int i, const Msg *m)
{
    SimWorker *k = &w->workers[i];
    if (m->said != SAID_TROUBLE) w->calls_told[m->items[0].ref.id] |= UINT64_C(1) << m->call;
    SimRun *run = run_of(k, &m->items[0].ref);
    if (!run || run->stage != RUN_CALLS || run->serial != m->serial) return;
    if (m->said == SAID_TROUBLE) {
        call_tells(w, i, run);
    } else if (m->said == SAID_STALE) {
        run_over(w, i, run);
    } else {
        run->call++;
        run_goes(w, i, run);
    }
}

static void hears_child(World *w, int i, const Msg *m)
{
    SimRun *run = run_of(&w->workers[i], &m->items[0].ref);
    if (!run || run->stage != RUN_FORKS || run->serial != m->serial) return;
    if (m->said == SAID_TROUBLE) {
        run_forks(w, i, run);
        return;
    }
    if (m->said == SAID_STALE) {
        run_over(w, i, run);
        return;
    }
    if (m->said == SAID_OK) run->kids[run->kids_n++] = m->id;
    run->kid++;
    run->kids_left--;
    run_goes(w, i, run);
}

static void hears_kids(World *w, int i, const Msg *m)
{
    SimWorker *k = &w->workers[i];
    SimRun *run = run_of(k, &(Ref){ m->id, m->fence });
    int ended = 0;
    if (!run || run->stage != RUN_SUSPENDED || run->serial != m->serial) return;
    run->serial = 0;
    if (m->said == SAID_STALE) {
        run_over(w, i, run);
        return;
    }
    for (int n = 0; n < m->n && m->said == SAID_OK; n++) ended += m->items[n].said == SAID_OK;
    if (ended == run->kids_n || (ended > 0 && BREAKS(w, RESUMED_EARLY))) run_resumes(w, i, run);
    else after(w, MIN(w->lease_ms / 8, run->until_ms - w->now_ms), EV_STEP, i, run_arg(k, run));
}

/* Who has no answer yet goes, and comes again with it. */
static void hears_ask(World *w, int i, const Msg *m)
{
    SimRun *run = run_of(&w->workers[i], &m->items[0].ref);
    if (!run || run->stage != RUN_ASKS || run->serial != m->serial) return;
    run->asks = false;
    if (m->said == SAID_TROUBLE) {
        run_questions(w, i, run);
        run->asks = true;
    } else if (m->said == SAID_STALE) {
        run_over(w, i, run);
    } else if (m->question == ESCALATION_PENDING) {
        run_stops(w, i, run, TASK_OUTCOME_ESCALATED);
    } else if (m->question == ESCALATION_EXPIRED) {
        run_stops(w, i, run, TASK_OUTCOME_FAILED_FINAL);
    } else {
        MUST(m->question != ESCALATION_CLOSED);
        run_goes(w, i, run);
    }
}

/* Again and again, until it is taken or stale. */
static void report_again(World *w, int i, SimRun *run)
{
    run->stage = RUN_ENDS;
    after(w, run->delay_ms, EV_FLUSH, i, 0);
    run->delay_ms = MIN(2 * run->delay_ms, REPORT_MS_MAX(w));
}

static void hears_finish(World *w, int i, const Msg *m)
{
    SimWorker *k = &w->workers[i];
    for (int n = 0; n < m->n; n++) {
        SimRun *run = run_of(k, &m->items[n].ref);
        if (!run || run->stage != RUN_REPORTS || run->serial != m->serial) continue;
        if (m->said == SAID_TROUBLE) report_again(w, i, run);
        else run_over(w, i, run);
    }
}

/* It has gone; another process comes in its place. */
static void hears_leave(World *w, int i, const Msg *m)
{
    if (m->serial != w->workers[i].leave_serial || m->said == SAID_TROUBLE) return;
    worker_dies(w, i);
    w->tally.drains++;
}

static void worker_hears(World *w, int i, const Msg *m)
{
    if (!w->workers[i].alive || m->epoch != w->workers[i].epoch) return;
    switch (m->kind) {
    case MSG_REGISTER: hears_register(w, i, m); break;
    case MSG_BEAT: hears_beat(w, i, m); break;
    case MSG_CLAIM: hears_claim(w, i, m); break;
    case MSG_CALL: hears_call(w, i, m); break;
    case MSG_CHILD: hears_child(w, i, m); break;
    case MSG_KIDS: hears_kids(w, i, m); break;
    case MSG_ASK: hears_ask(w, i, m); break;
    case MSG_FINISH: hears_finish(w, i, m); break;
    case MSG_LEAVE: hears_leave(w, i, m); break;
    default: break;
    }
}

/* No answer has come. */
static void worker_gives_up(World *w, int i, int serial)
{
    SimWorker *k = &w->workers[i];
    Msg none = { .worker = i, .serial = serial, .lease = k->lease, .said = SAID_TROUBLE };
    if (serial == k->register_serial) hears_register(w, i, &none);
    else if (serial == k->beat_serial) hears_beat(w, i, &none);
    else if (serial == k->leave_serial) worker_dies(w, i); /* its lease will run out */
    else hears_claim(w, i, &none);
    for (int r = 0; r < RUNS_MAX; r++) {
        SimRun *run = &k->runs[r];
        if (run->serial != serial) continue;
        if (run->stage == RUN_CALLS) call_tells(w, i, run);
        if (run->stage == RUN_FORKS) run_forks(w, i, run);
        if (run->stage == RUN_ASKS) run_questions(w, i, run);
        if (run->stage == RUN_SUSPENDED) {
            run->serial = 0;
            run_watches(w, i, run);
        }
        if (run->stage == RUN_REPORTS) report_again(w, i, run);
    }
}

/* A worker that drains leaves when nothing runs and nothing is on its way to it. */
static void worker_leaves(World *w, int i)
{
    SimWorker *k = &w->workers[i];
    if (!k->draining || k->leave_serial || !k->registered) return;
    for (int c = 0; c < SLOTS_CLAIMS_MAX; c++)
        if (k->claims[c]) return;
    for (int r = 0; r < RUNS_MAX; r++)
        if (k->runs[r].stage != RUN_NONE) return;
    Msg m = { .kind = MSG_LEAVE };
    asks(w, i, &m, w->lease_ms);
    k->leave_serial = m.serial;
}

#endif
