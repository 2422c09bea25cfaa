/* Whose turn it is: what a claim sees of the lines, and how it chooses among them. */
#include "base/diag.h"
#include "queue/queue_private.h"

#define CHOICE_ARENA_MAX (4 << 20)
#define GATES_OPEN_MAX 256 /* a look */

/* --- permits ---------------------------------------------------------------------------------- */

#define PERMIT_ANY 0 /* of those without a limit */

static size_t permit_find(const Choice *c, uint64_t key)
{
    size_t i = 1;
    while (i < c->permits_n && c->permits[i].key != key) i++;
    return i;
}

static size_t permit_add(Choice *c, uint64_t key, int64_t left)
{
    assert(c->permits_n < PERMITS_MAX);
    c->permits[c->permits_n] = (Permit){ key, left };
    return c->permits_n++;
}

/* Whose tasks are counted: all that run, or without those that wait for their sub-agents. */
typedef enum { COUNT_ALL, COUNT_LEAVES, COUNT_N_ } Count;

static uint64_t agent_key(Str agent, Count count)
{
    return fair_key_pair(count == COUNT_ALL ? STR("agent") : STR("agent's leaves"), agent);
}

static uint64_t tenant_key(Str tenant, Count count)
{
    return fair_key_pair(count == COUNT_ALL ? STR("tenant") : STR("tenant's leaves"), tenant);
}

static int agent_permit(Choice *c, Db *db, Str agent, Count count, size_t *ret)
{
    uint64_t key = agent_key(agent, count);
    AgentConcurrency own = AGENT_CONCURRENCY_DEFAULT;
    int64_t running = 0;
    *ret = permit_find(c, key);
    if (*ret < c->permits_n) return 0;
    int r = agent_concurrency(db, agent, &own);
    if (r != 0 && r != -ENOENT) return r;
    int64_t max = own.tasks >= 0 ? own.tasks : c->queue->options.agent_tasks_max;
    if (max > 0)
        r = count == COUNT_ALL ? running_of_agent(db, agent, max, &running)
                               : leaves_of_agent(db, agent, max, &running);
    *ret = permit_add(c, key, max > 0 ? max - running : INT64_MAX);
    return r == -ENOENT ? 0 : r;
}

static int tenant_permit(Choice *c, Db *db, Str tenant, Count count, size_t *ret)
{
    uint64_t key = tenant_key(tenant, count);
    int64_t running = 0, max = c->queue->options.tenant_tasks_max;
    *ret = PERMIT_ANY;
    if (max == 0 || str_empty(tenant)) return 0;
    *ret = permit_find(c, key);
    if (*ret < c->permits_n) return 0;
    int r = count == COUNT_ALL ? running_of_tenant(db, tenant, max, &running)
                               : leaves_of_tenant(db, tenant, max, &running);
    *ret = permit_add(c, key, max - running);
    return r;
}

static int place_permit(Choice *c, Db *db, Count count, LinePlace *place)
{
    int r = agent_permit(c, db, place->head.agent, count, &place->agent);
    return r == 0 ? tenant_permit(c, db, place->head.tenant, count, &place->tenant) : r;
}

static bool place_open(const Choice *c, const LinePlace *place)
{
    return c->permits[place->agent].left > 0 && c->permits[place->tenant].left > 0;
}

/* --- looking ---------------------------------------------------------------------------------- */

/* Where the calendar was set back, what became ready before that seems to do so only later: it
 * comes first all the same, and not behind all that comes until then. */
static int line_before_set(const Choice *c, Db *db, Lane lane, LinePlace *place)
{
    LineSpot spot;
    size_t n = 1;
    if (c->back_since_ms == 0) return 0;
    int r = line_after(db, lane, &place->head, place->child, (LineSpot){ c->now_ms, INT64_MAX },
                       &spot, &n);
    if (r != 0 || n == 0) return r;
    place->head.ready_at_ms = spot.ready_at_ms;
    place->head.seq = spot.seq;
    return 0;
}

/* Takes a line in, unless nothing of it may start. A limit that kept tasks from those which wait
 * for them would keep both for ever: of sub-agents only as many tasks run as the limit says beside
 * those that have open ones. Then one of these always can, for it waits for nobody. */
static int line_add(Choice *c, Db *db, Lane lane, const LineHead *head)
{
    LinePlace place = { .head = *head };
    int r = place_permit(c, db, COUNT_ALL, &place);
    if (r != 0) return r;
    if (!place_open(c, &place)) {
        c->limited[lane]++;
        LineSpot spot;
        size_t n = 1;
        r = line_after(db, lane, head, true, LINE_BEGIN, &spot, &n);
        if (r != 0 || n == 0) return r;
        place.head.ready_at_ms = spot.ready_at_ms;
        place.head.seq = spot.seq;
        place.child = true;
        r = place_permit(c, db, COUNT_LEAVES, &place);
        if (r != 0 || !place_open(c, &place)) return r;
    }
    if ((r = line_before_set(c, db, lane, &place)) != 0) return r;
    head = &place.head;
    Line *line = &c->lines[lane][c->n[lane]];
    *line = (Line){ .tenant = fair_key(head->tenant),
                    .kind = fair_key_pair(head->tenant, head->agent),
                    .ready_at_ms = head->ready_at_ms,
                    .seq = head->seq };
    line->used_ms = fair_used(&c->queue->turns->used[lane], line->tenant, c->steady_ms);
    c->places[lane][c->n[lane]++] = place;
    return 0;
}

/* A walk through all lines of a lane that begins in the middle, behind a line, and ends with it. */
typedef struct {
    Db *db;
    Lane lane;
    LineHead from; /* without an agent: from the first on */
    bool wrapped;
    LineHead head;
} Walk;

/* Whether the walk has come round to where it began. */
static bool walk_round(const Walk *w)
{
    int order = str_cmp(w->head.tenant, w->from.tenant);
    return w->wrapped && (order != 0 ? order > 0 : str_cmp(w->head.agent, w->from.agent) > 0);
}

static int walk_wrap(Walk *w, Arena *arena)
{
    if (w->wrapped || str_empty(w->from.agent)) return -ENOENT;
    w->wrapped = true;
    return line_of_next_tenant(w->db, w->lane, STR(""), true, arena, &w->head);
}

static int walk_next(Walk *w, Arena *arena)
{
    int r = line_of_next_agent(w->db, w->lane, &w->head, arena, &w->head);
    if (r == -ENOENT)
        r = line_of_next_tenant(w->db, w->lane, w->head.tenant, false, arena, &w->head);
    if (r == -ENOENT) r = walk_wrap(w, arena);
    return r == 0 && walk_round(w) ? -ENOENT : r;
}

static int walk_first(Walk *w, const LineCursor *cursor, Arena *arena)
{
    w->from.tenant = arena_str(arena, str_of(cursor->tenant));
    w->from.agent = arena_str(arena, str_of(cursor->agent));
    if (!w->from.tenant.ptr || !w->from.agent.ptr) return -ENOMEM;
    w->head = w->from;
    if (!str_empty(w->from.agent)) return walk_next(w, arena);
    return line_of_next_tenant(w->db, w->lane, STR(""), true, arena, &w->head);
}

/* The next look goes on behind the line; what is longer than any may be is forgotten. */
static void cursor_set(LineCursor *cursor, const LineHead *line)
{
    bool fits = str_copy(cursor->tenant, sizeof cursor->tenant, line->tenant) &&
                str_copy(cursor->agent, sizeof cursor->agent, line->agent);
    if (!fits) *cursor = (LineCursor){ .agent = "" };
}

static int lane_look(Choice *c, Db *db, Lane lane)
{
    LineCursor *cursor = &c->queue->turns->cursor[lane];
    Walk walk = { .db = db, .lane = lane };
    int r = walk_first(&walk, cursor, &c->arena);
    LineHead last = walk.from;
    for (int probes = 0; r == 0; probes++) {
        bool full = c->permits_n + 4 > (size_t)(lane + 1) * (PERMITS_MAX / LANE_N_);
        if (probes == LINES_PROBES_MAX || c->n[lane] == LINES_MAX || full) {
            c->more = true;
            cursor_set(cursor, &last);
            return 0;
        }
        last = walk.head;
        r = line_add(c, db, lane, &walk.head);
        if (r == 0) r = walk_next(&walk, &c->arena);
    }
    *cursor = (LineCursor){ .agent = "" };
    return r == -ENOENT ? 0 : r;
}

int choice_init(Choice *c, Db *db, const Queue *queue, const Claim *claim, int64_t now_ms)
{
    /* not the long lists, of which a look needs a few places only */
    c->queue = queue;
    c->claim = claim;
    c->now_ms = now_ms;
    c->steady_ms = queue_steady_ms(queue);
    c->back_since_ms = clock_back_since_ms(&queue->sets, now_ms);
    c->use = claim->use;
    c->permits_n = c->ahead_at = c->ahead_n = 0;
    c->more = false;
    for (int lane = 0; lane < LANE_N_; lane++) {
        c->n[lane] = 0;
        c->limited[lane] = 0;
    }
    arena_init(&c->arena, CHOICE_ARENA_MAX);
    permit_add(c, 0, INT64_MAX);
    for (int lane = 0; lane < LANE_N_; lane++) {
        int64_t opened;
        if (lane_free(&claim->slots, &c->use, (Lane)lane) == 0) continue;
        int r = gates_open(db, (Lane)lane, now_ms, GATES_OPEN_MAX, &opened);
        if (r == 0) r = lane_look(c, db, (Lane)lane);
        if (r != 0) return r;
        c->more |= opened == GATES_OPEN_MAX;
    }
    return 0;
}

bool choice_empty(const Choice *c)
{
    for (int lane = 0; lane < LANE_N_; lane++)
        if (c->n[lane] + c->limited[lane] > 0) return false;
    return !c->more;
}

int choice_offer(Choice *c, Db *db, Lane lane, const LineHead *head)
{
    return line_add(c, db, lane, head);
}

void choice_deinit(Choice *c)
{
    arena_deinit(&c->arena);
}

/* --- choosing --------------------------------------------------------------------------------- */

/* The longest wait in a lane; -1: nothing is there. Of what became ready before the calendar was
 * set back it is known only that it has waited since. */
static int64_t lane_waited_ms(const Choice *c, int lane)
{
    int64_t waited_ms = lines_waited_ms(c->lines[lane], c->n[lane], c->now_ms);
    for (size_t i = 0; i < c->n[lane] && c->back_since_ms > 0; i++) {
        const Line *line = &c->lines[lane][i];
        if (!line->closed && line->ready_at_ms > c->now_ms)
            waited_ms = MAX(waited_ms, c->now_ms - c->back_since_ms);
    }
    return waited_ms;
}

int64_t choice_next(Choice *c)
{
    for (;;) {
        LaneHead *heads = c->heads;
        for (int i = 0; i < LANE_N_; i++) {
            int64_t waited_ms = lane_waited_ms(c, i);
            heads[i] = (LaneHead){ waited_ms >= 0, waited_ms };
        }
        Turns *turns = c->queue->turns;
        c->lane = lane_next(&c->claim->slots, &c->use, heads, c->queue->options.aging_ms,
                            &turns->turns);
        if (c->lane == LANE_N_) return 0;
        c->at = line_next(c->lines[c->lane], c->n[c->lane]);
        assert(c->at < c->n[c->lane]);
        Line *line = &c->lines[c->lane][c->at];
        if (place_open(c, &c->places[c->lane][c->at])) return line->seq;
        line->closed = true; /* what started in this look has used up its permits */
        c->limited[c->lane]++;
    }
}

/* Whoever starts counts for all that look at it. */
static void permit_use(Choice *c, uint64_t key)
{
    size_t i = permit_find(c, key);
    if (i < c->permits_n && c->permits[i].left != INT64_MAX) c->permits[i].left--;
}

static void started(Choice *c)
{
    Turns *turns = c->queue->turns;
    Line *lines = c->lines[c->lane];
    const LinePlace *place = &c->places[c->lane][c->at];
    double cost_ms = fair_cost(&turns->costs[c->lane], lines[c->at].kind);
    lane_started(&c->claim->slots, &c->use, c->heads, c->lane, &turns->turns);
    line_started(lines, c->n[c->lane], c->at, &turns->used[c->lane], cost_ms, c->steady_ms);
    c->use.running[c->lane]++;
    for (int count = 0; count < COUNT_N_; count++) {
        permit_use(c, agent_key(place->head.agent, (Count)count));
        permit_use(c, tenant_key(place->head.tenant, (Count)count));
    }
}

/* Those that come next in the line of the task chosen, which need not be written as started: more
 * of it when it has been read before, for then it is likely that they are all wanted, but none
 * beyond the free slots: none at all, when there are no such slots. */
static int ahead_read(Choice *c, Db *db)
{
    bool same = c->ahead_n > 0 && c->ahead_lane == c->lane && c->ahead_of == c->at;
    size_t most = (size_t)MIN(LINE_AHEAD_MAX, lane_free(&c->claim->slots, &c->use, c->lane));
    const LinePlace *place = &c->places[c->lane][c->at];
    const Line *line = &c->lines[c->lane][c->at];
    LineSpot last = { line->ready_at_ms, line->seq };
    size_t n = MIN(same ? 8 * c->ahead_n : 1, most);
    c->ahead_at = c->ahead_n = 0;
    c->ahead_lane = c->lane;
    c->ahead_of = c->at;
    if (n == 0) return 0;
    int r = line_after(db, c->lane, &place->head, place->child, last, c->ahead, &n);
    if (r == 0) c->ahead_n = n;
    return r;
}

/* Whether what was read ahead is of another line, or used up. */
static bool ahead_ends(const Choice *c)
{
    return c->ahead_at == c->ahead_n || c->ahead_lane != c->lane || c->ahead_of != c->at;
}

size_t choice_ahead(const Choice *c, int64_t *ret_seqs, size_t max)
{
    size_t n = 0;
    for (size_t i = c->ahead_at; i < c->ahead_n && n < max && !ahead_ends(c); i++)
        ret_seqs[n++] = c->ahead[i].seq;
    return n;
}

void choice_forget(Choice *c)
{
    c->ahead_at = c->ahead_n = 0;
}

int choice_made(Choice *c, Db *db, bool has_started)
{
    Line *line = &c->lines[c->lane][c->at];
    if (has_started) started(c);
    int r = ahead_ends(c) ? ahead_read(c, db) : 0;
    line->closed |= c->ahead_n == 0;
    if (r != 0 || line->closed) return r;
    line->ready_at_ms = c->ahead[c->ahead_at].ready_at_ms;
    line->seq = c->ahead[c->ahead_at++].seq;
    return 0;
}
