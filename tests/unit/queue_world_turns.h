/* The simulator's lanes: gates, the order of sessions, lines of tenants, limits. As
 * store/line_store and queue/lines do it, on logic/line and logic/fair. */
#ifndef GANTRY_TESTS_QUEUE_WORLD_TURNS_H
#define GANTRY_TESTS_QUEUE_WORLD_TURNS_H

#include <math.h>

#include "queue_world.h"

/* --- sessions --------------------------------------------------------------------------------- */

static bool is_later(const Row *row)
{
    return row->gate == GATE_LATER || row->gate == GATE_SCHEDULED;
}

static bool same_session(const Row *a, const Row *b)
{
    return a->session_max > 0 && b->session_max > 0 && a->session == b->session &&
           a->agent == b->agent && a->tenant == b->tenant && !task_state_ended(b->state);
}

/* Those beside it that have their place. */
static int64_t session_admitted(const World *w, const Row *row)
{
    int64_t n = 0;
    for (int i = 0; i < w->disk.rows_n; i++) {
        const Row *other = &w->disk.rows[i];
        bool waits = BREAKS(w, SESSION_EARLY) && other->state == TASK_QUEUED &&
                     other->gate == GATE_LATER;
        n += other != row && same_session(row, other) && other->gate < GATE_SCHEDULED && !waits;
    }
    return BREAKS(w, SESSION_FORGOTTEN) ? 0 : n;
}

/* It comes, or comes again. */
static void row_enter(World *w, Row *row, bool later)
{
    int64_t admitted = row->session_max > 0 && !later ? session_admitted(w, row) : 0;
    row->gate = gate_of(later, admitted, row->session_max);
    if (!later) row->entered = ++w->entries;
    w->tally.held += row->gate == GATE_SESSION;
}

static void row_enter_again(World *w, Row *row)
{
    row->gate = gate_of(false, row->session_max ? session_admitted(w, row) : 0, row->session_max);
}

static Row *session_first(World *w, const Row *ended)
{
    Row *first = NULL;
    for (int i = 0; i < w->disk.rows_n; i++) {
        Row *row = &w->disk.rows[i];
        if (!same_session(ended, row) || row->gate != GATE_SESSION) continue;
        if (!first || (row->id < first->id) != BREAKS(w, SESSION_LAST)) first = row;
    }
    return first;
}

/* A task has come to rest: those of its session go on. */
static void session_advance(World *w, const Row *ended, int64_t now_ms)
{
    Row *next;
    while (ended->session_max > 0 && (next = session_first(w, ended)) != NULL) {
        if (!line_admits(session_admitted(w, next), next->session_max)) return;
        next->gate = GATE_OPEN;
        next->ready_ms = now_ms;
        w->server.ready = true;
        w->tally.admitted++;
    }
}

/* What came before it and has not ended holds up its start. */
static void check_session(World *w, const Row *row)
{
    int64_t running = 0;
    for (int i = 0; i < w->disk.rows_n; i++) {
        const Row *other = &w->disk.rows[i];
        if (other == row || !same_session(row, other)) continue;
        running += other->state != TASK_QUEUED || other->first_ms >= 0;
        bool before = other->id < row->id && other->entered && other->entered < row->entered;
        if (row->session_max == 1) MUST(!before);
    }
    if (row->session_max > 0) MUST(running < row->session_max);
}

static void gates_open(World *w, int64_t now_ms)
{
    for (int i = 0; i < w->disk.rows_n; i++) {
        Row *row = &w->disk.rows[i];
        if (row->state != TASK_QUEUED || !is_later(row) || row->ready_ms > now_ms) continue;
        w->server.changed = true;
        if (row->gate == GATE_SCHEDULED && !BREAKS(w, DUE_UNASKED)) row_enter(w, row, false);
        else row->gate = GATE_OPEN;
    }
}

/* --- limits ----------------------------------------------------------------------------------- */

typedef struct {
    int64_t running, leaves; /* leaves: those that have no open sub-agent to wait for */
} Running;

typedef struct {
    Running tenant[TENANTS_N], agent[AGENTS_N];
} Use;

static bool has_open_kid(const World *w, const Row *row)
{
    for (int i = 0; i < w->disk.rows_n && row->children > 0; i++)
        if (w->disk.rows[i].parent == row->id && !task_state_ended(w->disk.rows[i].state))
            return true;
    return false;
}

static void use_count(const World *w, Use *use)
{
    *use = (Use){ 0 };
    for (int i = 0; i < w->disk.rows_n; i++) {
        const Row *row = &w->disk.rows[i];
        if (row->state != TASK_RUNNING) continue;
        bool leaf = !has_open_kid(w, row);
        use->tenant[row->tenant].running++;
        use->tenant[row->tenant].leaves += leaf;
        use->agent[row->agent].running++;
        use->agent[row->agent].leaves += leaf;
    }
}

static bool limits_admit(const World *w, const Use *use, int tenant, int agent, bool kid)
{
    const Running *t = &use->tenant[tenant], *a = &use->agent[agent];
    int64_t tenant_most = tenant == 0 ? 0 : w->tenant_most;
    return line_admits(kid ? t->leaves : t->running, tenant_most) &&
           line_admits(kid ? a->leaves : a->running, w->agent_most[agent]);
}

/* What holds for every start, whoever has chosen: was it one that may start? */
static bool may_start(const World *w, const Use *use, const Row *row)
{
    return row->state == TASK_QUEUED && row->gate == GATE_OPEN &&
           (limits_admit(w, use, row->tenant, row->agent, false) ||
            (row->parent && limits_admit(w, use, row->tenant, row->agent, true)));
}

/* --- lines ------------------------------------------------------------------------------------ */

static const char *const tenant_names[TENANTS_N] = { "", "acme", "busy", "calm" };
static const char *const agent_names[AGENTS_N] = { "support", "writer" };

static void names_make(World *w)
{
    for (int tenant = 0; tenant < TENANTS_N; tenant++)
        w->tenant_keys[tenant] = fair_key(str_of(tenant_names[tenant]));
    for (int at = 0; at < LINES_N; at++)
        w->kind_keys[at] = fair_key_pair(str_of(tenant_names[at / AGENTS_N]),
                                         str_of(agent_names[at % AGENTS_N]));
}

static bool is_first(const Row *row, const Row *first)
{
    if (!first || row->ready_ms != first->ready_ms)
        return !first || row->ready_ms < first->ready_ms;
    return row->id < first->id;
}

/* The first tasks of each line of each lane, and the first that others have started. */
typedef struct {
    Row *first[LANE_N_][LINES_N], *kid[LANE_N_][LINES_N];
} Heads;

static void heads_of(World *w, Heads *ret)
{
    *ret = (Heads){ 0 };
    for (int i = 0; i < w->disk.rows_n; i++) {
        Row *row = &w->disk.rows[i];
        if (row->state != TASK_QUEUED || row->gate != GATE_OPEN) continue;
        int at = row->tenant * AGENTS_N + row->agent;
        Row **first = &ret->first[row->lane][at], **kid = &ret->kid[row->lane][at];
        if (is_first(row, *first)) *first = row;
        if (row->parent && is_first(row, *kid)) *kid = row;
    }
}

typedef struct {
    Line lines[LINES_N];
    Row *rows[LINES_N]; /* the first of each that may start */
    size_t n;
} LaneLines;

static Row *line_head(World *w, const Use *use, const Heads *heads, Lane lane, int at)
{
    int tenant = at / AGENTS_N, agent = at % AGENTS_N;
    Row *first = heads->first[lane][at];
    if (!first || BREAKS(w, LIMIT_FORGOTTEN)) return first;
    if (limits_admit(w, use, tenant, agent, false)) return first;
    w->tally.limited++;
    if (BREAKS(w, LIMIT_ON_KIDS) || !limits_admit(w, use, tenant, agent, true)) return NULL;
    return heads->kid[lane][at];
}

static void lines_of(World *w, const Use *use, const Heads *heads, Lane lane, int64_t now_ms,
                     LaneLines *ret)
{
    for (int at = 0; at < LINES_N; at++) {
        Row *first = line_head(w, use, heads, lane, at);
        if (!first) continue;
        Line *line = &ret->lines[ret->n];
        *line = (Line){ .tenant = w->tenant_keys[first->tenant],
                        .kind = w->kind_keys[at],
                        .ready_at_ms = first->ready_ms,
                        .seq = first->id };
        line->used_ms = fair_used(&w->used[lane], line->tenant, now_ms);
        ret->rows[ret->n++] = first;
    }
}

/* What the simulator has counted, by the time that the server goes by. */
static double spent_ms(const World *w, Lane lane, int tenant, int64_t now_ms)
{
    int64_t past_ms = MAX(0, now_ms - w->server.spent_at_ms[lane][tenant]);
    return w->server.spent_ms[lane][tenant] * exp2(-(double)past_ms / FAIR_HALF_LIFE_MS);
}

/* Whoever has used least of those that could start comes first, with its oldest task. */
static void check_turn(World *w, const Use *use, const Row *row, int64_t now_ms)
{
    double spent = spent_ms(w, row->lane, row->tenant, now_ms);
    for (int i = 0; i < w->disk.rows_n; i++) {
        const Row *other = &w->disk.rows[i];
        if (other == row || other->lane != row->lane || !may_start(w, use, other)) continue;
        if (other->tenant == row->tenant) MUST(is_first(row, other));
        else MUST(spent <= spent_ms(w, row->lane, other->tenant, now_ms) * (1 + 1e-9));
        w->tally.passed += other->tenant != row->tenant;
    }
}

static void turn_taken(World *w, LaneLines *lines, size_t at, int64_t now_ms)
{
    const Row *row = lines->rows[at];
    double cost_ms = fair_cost(&w->costs[row->lane], lines->lines[at].kind);
    w->server.spent_ms[row->lane][row->tenant] = spent_ms(w, row->lane, row->tenant, now_ms) +
                                                 cost_ms;
    w->server.spent_at_ms[row->lane][row->tenant] = now_ms;
    if (BREAKS(w, TENANT_UNCHARGED)) return;
    line_started(lines->lines, lines->n, at, &w->used[row->lane], cost_ms, now_ms);
}

/* A process begins with tables that are empty: these have nothing but what the world's names put
 * there. */
static void turns_clear(World *w)
{
    memset(w->server.spent_ms, 0, sizeof w->server.spent_ms);
    w->server.turns = (LaneTurns){ 0 };
    for (int lane = 0; lane < LANE_N_; lane++) {
        for (int at = 0; at < LINES_N; at++) {
            size_t tenant = (w->tenant_keys[at / AGENTS_N] >> 32) % FAIR_SETS;
            size_t kind = (w->kind_keys[at] >> 32) % FAIR_SETS;
            memset(w->used[lane].entries[tenant], 0, sizeof w->used[lane].entries[tenant]);
            memset(w->costs[lane].entries[kind], 0, sizeof w->costs[lane].entries[kind]);
        }
        w->costs[lane].all_ms = 0;
    }
}

static bool turns_are_clear(const World *w)
{
    for (int lane = 0; lane < LANE_N_; lane++)
        for (int i = 0; i < FAIR_SETS * FAIR_WAYS; i++) {
            const FairEntry *used = &w->used[lane].entries[i / FAIR_WAYS][i % FAIR_WAYS];
            const FairEntry *cost = &w->costs[lane].entries[i / FAIR_WAYS][i % FAIR_WAYS];
            if (used->key || cost->key) return false;
        }
    return true;
}

#endif
