#include "store/line_store.h"

#include "store/row.h"
#include "store/task_sql.h"

#define PROMOTE_MAX 256 /* gates opened by one call */
#define ADVANCE_MAX 64  /* tasks of a session that one end lets go: its limit may have grown */

/* --- gates ------------------------------------------------------------------------------------ */

static int first_i64(DbStmt *stmt, int64_t *ret)
{
    int r = row_first(stmt);
    assert(r != -ENOENT); /* counts always have a row */
    if (r != 0) return r;
    *ret = db_i64(stmt, 0);
    db_reset(stmt);
    return 0;
}

int gate_new(Db *db, const TaskRow *row, Gate *ret)
{
    bool later = row->ready_at_ms > row->created_at_ms;
    int64_t admitted = 0;
    int r = 0;
    if (row->session_max > 0 && !later) {
        RowIn in = row_in(db, SESSION_ADMITTED_SQL);
        in_text(&in, row->session_id);
        in_text(&in, row->agent);
        in_text(&in, row->tenant_id);
        in_i64(&in, row->session_max);
        r = first_i64(in.stmt, &admitted);
    }
    *ret = gate_of(later, admitted, row->session_max);
    if (*ret == GATE_OPEN && !uuid_is_zero(row->shadow_of)) *ret = GATE_SHADOW;
    return r;
}

/* How many of the task's session are admitted, up to its limit, which goes into *ret_max; 0: it
 * does not take part. */
static int session_of(Db *db, int64_t seq, int64_t *ret_admitted, int64_t *ret_max)
{
    DbStmt *s = db_stmt(db, "SELECT session_max FROM task WHERE seq = ?1");
    db_bind_i64(s, 1, seq);
    *ret_admitted = 0;
    int r = row_first(s);
    if (r != 0) return r;
    *ret_max = db_i64(s, 0);
    db_reset(s);
    if (*ret_max == 0) return 0;
    s = db_stmt(db, SESSION_ADMITTED_BESIDE_SQL);
    db_bind_i64(s, 1, seq);
    db_bind_i64(s, 2, *ret_max);
    return first_i64(s, ret_admitted);
}

int gate_again(Db *db, int64_t seq, Gate *ret)
{
    int64_t admitted, max = 0;
    int r = session_of(db, seq, &admitted, &max);
    *ret = gate_of(false, admitted, max);
    return r;
}

int gate_get(Db *db, int64_t seq, Gate *ret)
{
    DbStmt *s = db_stmt(db, "SELECT gate FROM task WHERE seq = ?1 AND state = 0");
    db_bind_i64(s, 1, seq);
    int r = row_first(s);
    if (r != 0) return r;
    *ret = (Gate)db_i64(s, 0);
    db_reset(s);
    return 0;
}

static int gate_set(Db *db, int64_t seq, Gate gate)
{
    DbStmt *s = db_stmt(db,
                        "UPDATE task SET gate = " GATE_OF("?2") " WHERE seq = ?1 AND state = 0");
    db_bind_i64(s, 1, seq);
    db_bind_i64(s, 2, (int64_t)gate);
    return row_change(s);
}

int gates_open(Db *db, Lane lane, int64_t now_ms, int64_t max, int64_t *ret_n)
{
    struct {
        int64_t seq;
        Gate gate;
    } due[PROMOTE_MAX];
    size_t n = 0;
    int r = 0;
    DbStmt *s = db_stmt(db, TASK_DUE_SQL);
    db_bind_i64(s, 1, (int64_t)lane);
    db_bind_i64(s, 2, now_ms);
    db_bind_i64(s, 3, MIN(max, PROMOTE_MAX));
    while (n < PROMOTE_MAX && (r = db_step(s)) == DB_E_ROW) {
        due[n].seq = db_i64(s, 0);
        due[n++].gate = (Gate)db_i64(s, 1);
    }
    db_reset(s);
    r = MIN(r, 0);
    for (size_t i = 0; i < n && r == 0; i++) {
        Gate gate = GATE_OPEN;
        if (due[i].gate == GATE_SCHEDULED) r = gate_again(db, due[i].seq, &gate);
        if (r == 0) r = gate_set(db, due[i].seq, gate);
    }
    *ret_n = (int64_t)n;
    return r;
}

int gate_next(Db *db, Lane lane, int64_t *ret_at_ms)
{
    DbStmt *s = db_stmt(db, TASK_NEXT_DUE_SQL);
    db_bind_i64(s, 1, (int64_t)lane);
    int r = row_first(s);
    if (r != 0 && r != -ENOENT) return r;
    *ret_at_ms = r == 0 ? db_i64(s, 0) : INT64_MAX;
    db_reset(s);
    return 0;
}

int shadow_next(Db *db, int64_t *ret_seq)
{
    DbStmt *s = db_stmt(db, SHADOW_NEXT_SQL);
    int r = row_first(s);
    if (r != 0) return r;
    *ret_seq = db_i64(s, 0);
    db_reset(s);
    return 0;
}

/* --- sessions --------------------------------------------------------------------------------- */

/* The first that waits in the session of a task. Returns 0, -ENOENT, -errno. */
static int session_first(Db *db, int64_t seq, int64_t *ret_seq, Lane *ret_lane)
{
    DbStmt *s = db_stmt(db, SESSION_NEXT_SQL);
    db_bind_i64(s, 1, seq);
    int r = row_first(s);
    if (r != 0) return r;
    *ret_seq = db_i64(s, 0);
    *ret_lane = (Lane)db_i64(s, 1);
    assert(*ret_lane < LANE_N_);
    db_reset(s);
    return 0;
}

int session_advance(Db *db, const TaskHead *ended, int64_t now_ms, unsigned ret_opened[LANE_N_])
{
    for (int i = 0; ended->session_max > 0 && i < ADVANCE_MAX; i++) {
        int64_t next, admitted, max = 0;
        Lane lane;
        int r = session_first(db, ended->seq, &next, &lane);
        if (r == -ENOENT) return 0;
        if (r == 0) r = session_of(db, next, &admitted, &max);
        if (r != 0) return r;
        if (!line_admits(admitted, max)) return 0;
        DbStmt *s = db_stmt(db, "UPDATE task SET gate = 0, ready_at_ms = ?2"
                                " WHERE seq = ?1 AND state = 0");
        db_bind_i64(s, 1, next);
        db_bind_i64(s, 2, now_ms);
        r = row_change(s);
        if (r != 0) return r;
        ret_opened[lane]++;
    }
    return 0;
}

int session_ahead(Db *db, int64_t seq, int64_t max, int64_t *ret)
{
    DbStmt *s = db_stmt(db, SESSION_AHEAD_SQL);
    db_bind_i64(s, 1, seq);
    db_bind_i64(s, 2, max);
    return first_i64(s, ret);
}

/* --- lines ------------------------------------------------------------------------------------ */

static int head_first(DbStmt *stmt, Arena *arena, LineHead *ret)
{
    int r = row_first(stmt);
    if (r != 0) return r;
    RowOut out = row_out(stmt, arena);
    LineHead head = { .tenant = out_text(&out), .agent = out_text(&out) };
    head.ready_at_ms = out_i64(&out);
    head.seq = out_i64(&out);
    r = row_out_end(&out);
    db_reset(stmt);
    if (r == 0) *ret = head;
    return r;
}

int line_of_next_tenant(Db *db, Lane lane, Str tenant, bool at_least, Arena *arena, LineHead *ret)
{
    RowIn in = at_least ? row_in(db, LINE_FROM_TENANT_SQL) : row_in(db, LINE_NEXT_TENANT_SQL);
    in_i64(&in, (int64_t)lane);
    in_text(&in, tenant);
    return head_first(in.stmt, arena, ret);
}

int line_of_next_agent(Db *db, Lane lane, const LineHead *after, Arena *arena, LineHead *ret)
{
    RowIn in = row_in(db, LINE_NEXT_AGENT_SQL);
    in_i64(&in, (int64_t)lane);
    in_text(&in, after->tenant);
    in_text(&in, after->agent);
    return head_first(in.stmt, arena, ret);
}

int line_after(Db *db, Lane lane, const LineHead *line, bool children, LineSpot after,
               LineSpot *ret, size_t *n)
{
    RowIn in = children ? row_in(db, LINE_CHILDREN_SQL) : row_in(db, LINE_AFTER_SQL);
    in_i64(&in, (int64_t)lane);
    in_text(&in, line->tenant);
    in_text(&in, line->agent);
    in_i64(&in, after.ready_at_ms);
    in_i64(&in, after.seq);
    in_i64(&in, (int64_t)*n);
    size_t found = 0;
    int r = 0;
    while (found < *n && (r = db_step(in.stmt)) == DB_E_ROW)
        ret[found++] = (LineSpot){ db_i64(in.stmt, 0), db_i64(in.stmt, 1) };
    db_reset(in.stmt);
    *n = found;
    return MIN(r, 0);
}

#define LOOK_ARENA_MAX (8 << 20)
#define AHEAD_LINES_MAX 256 /* agents of a tenant whose tasks are counted */

/* Children stand before who came after their parent: since when the first of a line really waits,
 * and, if it jumped the queue, who waits behind such ones. Lowers *oldest_ms. */
static int line_oldest(Db *db, Lane lane, const LineHead *head, int64_t *oldest_ms)
{
    int64_t created_ms;
    if (head->ready_at_ms >= *oldest_ms) return 0;
    DbStmt *s = db_stmt(db, "SELECT created_at_ms FROM task WHERE seq = ?1");
    db_bind_i64(s, 1, head->seq);
    int r = first_i64(s, &created_ms);
    if (r != 0) return r;
    *oldest_ms = MIN(*oldest_ms, MAX(head->ready_at_ms, created_ms));
    if (created_ms <= head->ready_at_ms) return 0;
    RowIn in = row_in(db, LINE_NO_CHILD_SQL);
    in_i64(&in, (int64_t)lane);
    in_text(&in, head->tenant);
    in_text(&in, head->agent);
    r = row_first(in.stmt);
    if (r != 0) return r == -ENOENT ? 0 : r;
    *oldest_ms = MIN(*oldest_ms, db_i64(in.stmt, 0));
    db_reset(in.stmt);
    return 0;
}

int lines_oldest(Db *db, Lane lane, int64_t *ret_ready_at_ms)
{
    CLEANUP(arena_deinit) Arena arena;
    LineHead head;
    int64_t oldest_ms = INT64_MAX;
    arena_init(&arena, LOOK_ARENA_MAX);
    int r = gate_next(db, lane, &oldest_ms);
    if (r == 0) r = line_of_next_tenant(db, lane, STR(""), true, &arena, &head);
    for (int n = 0; r == 0 && n < LINES_LOOK_MAX; n++) {
        LineHead next;
        r = line_oldest(db, lane, &head, &oldest_ms);
        if (r == 0) r = line_of_next_agent(db, lane, &head, &arena, &next);
        if (r == -ENOENT) r = line_of_next_tenant(db, lane, head.tenant, false, &arena, &next);
        head = next;
    }
    *ret_ready_at_ms = oldest_ms;
    return r == -ENOENT || r == -ENOMEM ? 0 : r;
}

int lines_tenants(Db *db, Lane lane, int64_t max, int64_t *ret)
{
    CLEANUP(arena_deinit) Arena arena;
    LineHead head = { .tenant = STR("") };
    arena_init(&arena, LOOK_ARENA_MAX);
    int r = 0;
    int64_t n = 0;
    while (n < max && r == 0) {
        r = line_of_next_tenant(db, lane, head.tenant, n == 0, &arena, &head);
        n += r == 0;
    }
    *ret = n;
    return r == -ENOENT || r == -ENOMEM ? 0 : r;
}

/* at_ms: of those that have a third parameter; NULL: it has none. */
static int count_in(Db *db, const char *sql, Lane lane, int64_t max, const int64_t *at_ms,
                    int64_t *ret)
{
    RowIn in = row_in(db, sql);
    in_i64(&in, (int64_t)lane);
    in_i64(&in, max);
    if (at_ms) in_i64(&in, *at_ms);
    return first_i64(in.stmt, ret);
}

/* Gates of tasks that are due are opened by who claims, so not while there is no worker. */
int lines_waiting(Db *db, Lane lane, int64_t now_ms, int64_t max, LinesWaiting *ret)
{
    int64_t open, due, shadows, later = 0;
    int r = count_in(db, LINES_OPEN_SQL, lane, max, NULL, &open);
    if (r == 0) r = count_in(db, LINES_DUE_SQL, lane, max, &now_ms, &due);
    if (r == 0) r = count_in(db, LINES_SHADOW_SQL, lane, max, NULL, &shadows);
    if (r != 0) return r;
    bool whole = open < max && due < max && shadows < max;
    if (!whole) r = count_in(db, LINES_LATER_SQL, lane, max, &now_ms, &later);
    *ret = (LinesWaiting){ .waiting = open + due + shadows, .later = later, .whole = whole };
    return r;
}

static int ahead_of_agent(Db *db, const Task *task, Str agent, int64_t max, int64_t *ret)
{
    RowIn in = row_in(db, LINE_AHEAD_SQL);
    in_i64(&in, (int64_t)task->lane);
    in_text(&in, task->tenant_id);
    in_text(&in, agent);
    in_i64(&in, task->ready_at_ms);
    in_i64(&in, task->seq);
    in_i64(&in, max);
    return first_i64(in.stmt, ret);
}

int line_ahead(Db *db, const Task *task, int64_t max, int64_t *ret)
{
    CLEANUP(arena_deinit) Arena arena;
    LineHead line = { .tenant = task->tenant_id, .agent = STR("") };
    int64_t ahead = 0;
    arena_init(&arena, LOOK_ARENA_MAX);
    int r = 0;
    for (int i = 0; i < AHEAD_LINES_MAX && ahead < max; i++) {
        int64_t more;
        r = line_of_next_agent(db, task->lane, &line, &arena, &line);
        if (r != 0) break;
        r = ahead_of_agent(db, task, line.agent, max - ahead, &more);
        if (r != 0) break;
        ahead += more;
    }
    *ret = ahead;
    return r == -ENOENT || r == -ENOMEM ? 0 : r;
}

/* --- running ---------------------------------------------------------------------------------- */

static int running_of(DbStmt *stmt, Str whose, int64_t max, int64_t *ret)
{
    RowIn in = { .stmt = stmt, .index = 1 };
    in_text(&in, whose);
    in_i64(&in, max);
    return first_i64(in.stmt, ret);
}

int running_of_agent(Db *db, Str agent, int64_t max, int64_t *ret)
{
    return running_of(db_stmt(db, RUNNING_OF_AGENT_SQL), agent, max, ret);
}

int running_of_tenant(Db *db, Str tenant, int64_t max, int64_t *ret)
{
    return running_of(db_stmt(db, RUNNING_OF_TENANT_SQL), tenant, max, ret);
}

int leaves_of_agent(Db *db, Str agent, int64_t max, int64_t *ret)
{
    return running_of(db_stmt(db, LEAVES_OF_AGENT_SQL), agent, max, ret);
}

int leaves_of_tenant(Db *db, Str tenant, int64_t max, int64_t *ret)
{
    return running_of(db_stmt(db, LEAVES_OF_TENANT_SQL), tenant, max, ret);
}
