#include "store/rollout_store.h"

#include <math.h>

#include "store/escalation_store.h"
#include "store/family_store.h"
#include "store/journal_store.h"
#include "store/outcome_sql.h"
#include "store/row.h"
#include "store/score_store.h"
#include "store/task_sql.h"

static_assert(TASK_CANCELED == 5, "a statement names it");

#define PACE_MS (INT64_C(10) * 60 * 1000)

/* --- rollouts --------------------------------------------------------------------------------- */

#define ROLLOUT_COLUMNS                                                                          \
    "seq, id, agent, version_id, control_id, block, settings, state, resumes, step, weight_bp,"  \
    " state_since_ms, step_since_ms, step_canaries, deadline_at_ms, paged, gates_open,"          \
    " gates_asked, cost_cap_nusd,"                                                               \
    " tokens_cap, latency_p95_ms, tool_calls_p95, fast_ms, fast_seq, judged_ms, judged_seq,"     \
    " seen_ms, seen_seq, verdict, why, created_at_ms, changed_at_ms, unit, limit_ms, preflight," \
    " checks, baseline_tasks, baseline_since_ms"
#define ROLLOUT_SELECT "SELECT " ROLLOUT_COLUMNS " FROM rollout"

static void in_state(RowIn *in, const Rollout *r)
{
    in_i64(in, r->state);
    in_i64(in, r->resumes);
    in_i64(in, (int64_t)r->step);
    in_i64(in, r->weight_bp);
    in_i64(in, r->state_since_ms);
    in_i64(in, r->step_since_ms);
    in_i64(in, r->step_canaries);
    in_i64(in, r->deadline_at_ms);
    in_i64(in, r->paged);
    in_i64(in, r->gates_open);
    in_i64(in, r->gates_asked);
}

static void in_baseline(RowIn *in, const RolloutBaseline *b)
{
    in_i64(in, b->cost_cap_nusd);
    in_i64(in, b->tokens_cap);
    in_i64(in, b->latency_p95_ms);
    in_i64(in, b->tool_calls_p95);
    in_i64(in, b->tasks);
    in_i64(in, b->since_ms);
}

int rollout_insert(Db *db, const RolloutRow *row, int64_t *ret_seq)
{
    RowIn in = row_in(db, "INSERT INTO rollout (state, resumes, step, weight_bp, state_since_ms,"
                          " step_since_ms, step_canaries, deadline_at_ms, paged, gates_open,"
                          " gates_asked, id, agent,"
                          " version_id, control_id, block, settings, cost_cap_nusd, tokens_cap,"
                          " latency_p95_ms, tool_calls_p95, baseline_tasks, baseline_since_ms, why,"
                          " created_at_ms, changed_at_ms, unit, limit_ms)"
                          " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14,"
                          " ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28)");
    in_state(&in, &row->state);
    in_text(&in, row->id);
    in_text(&in, row->agent);
    in_text(&in, row->version_id);
    in_text(&in, row->control_id);
    in_text(&in, row->block);
    in_text(&in, row->settings);
    in_baseline(&in, &row->baseline);
    in_text(&in, row->why);
    in_i64(&in, row->created_at_ms);
    in_i64(&in, row->changed_at_ms);
    in_i64(&in, row->unit);
    in_i64(&in, row->limit_ms);
    int r = db_run(in.stmt, NULL);
    if (r == 0) *ret_seq = db_last_insert_id(db);
    return r;
}

int rollout_update(Db *db, const RolloutRow *row)
{
    RowIn in = row_in(db, "UPDATE rollout SET state = ?1, resumes = ?2, step = ?3, weight_bp = ?4,"
                          " state_since_ms = ?5, step_since_ms = ?6, step_canaries = ?7,"
                          " deadline_at_ms = ?8, paged = ?9, gates_open = ?10, gates_asked = ?11,"
                          " fast_ms = ?12, fast_seq = ?13, judged_ms = ?14, judged_seq = ?15,"
                          " seen_ms = ?16, seen_seq = ?17, verdict = ?18, why = ?19,"
                          " changed_at_ms = ?20 WHERE seq = ?21");
    in_state(&in, &row->state);
    for (size_t g = 0; g < EVIDENCE_GROUPS_N_; g++) {
        in_i64(&in, row->cursors[g].eligible_ms);
        in_i64(&in, row->cursors[g].task_seq);
    }
    in_i64(&in, row->seen.eligible_ms);
    in_i64(&in, row->seen.task_seq);
    in_i64(&in, row->verdict);
    in_text(&in, row->why);
    in_i64(&in, row->changed_at_ms);
    in_i64(&in, row->seq);
    return row_change(in.stmt);
}

int rollout_move(Db *db, int64_t ms)
{
    RowIn in = row_in(db,
                      "UPDATE rollout SET state_since_ms = state_since_ms + ?1,"
                      " step_since_ms = iif(step_since_ms > 0, max(1, step_since_ms + ?1), 0),"
                      " deadline_at_ms = iif(deadline_at_ms > 0, max(1, deadline_at_ms + ?1), 0)"
                      " WHERE state < 5");
    in_i64(&in, ms);
    return row_run(in.stmt);
}

int rollout_set_baseline(Db *db, const RolloutRow *row)
{
    RowIn in = row_in(db, "UPDATE rollout SET cost_cap_nusd = ?1, tokens_cap = ?2,"
                          " latency_p95_ms = ?3, tool_calls_p95 = ?4, baseline_tasks = ?5,"
                          " baseline_since_ms = ?6 WHERE seq = ?7");
    in_baseline(&in, &row->baseline);
    in_i64(&in, row->seq);
    return row_change(in.stmt);
}

int rollout_set_checks(Db *db, const RolloutRow *row)
{
    RowIn in = row_in(db, "UPDATE rollout SET preflight = ?1, checks = ?2 WHERE seq = ?3");
    in_i64(&in, row->preflight);
    in_text(&in, row->checks);
    in_i64(&in, row->seq);
    return row_change(in.stmt);
}

static void out_state(RowOut *out, Rollout *r)
{
    r->state = (RolloutState)out_i64(out);
    r->resumes = (RolloutState)out_i64(out);
    r->step = (size_t)out_i64(out);
    r->weight_bp = (int32_t)out_i64(out);
    r->state_since_ms = out_i64(out);
    r->step_since_ms = out_i64(out);
    r->step_canaries = out_i64(out);
    r->deadline_at_ms = out_i64(out);
    r->paged = out_i64(out) != 0;
    r->gates_open = (uint32_t)out_i64(out);
    r->gates_asked = (uint32_t)out_i64(out);
}

static void rollout_read(RowOut *out, void *ret)
{
    RolloutRow *row = ret;
    row->seq = out_i64(out);
    row->id = out_text(out);
    row->agent = out_text(out);
    row->version_id = out_text(out);
    row->control_id = out_text(out);
    row->block = out_text(out);
    row->settings = out_text(out);
    out_state(out, &row->state);
    row->baseline.cost_cap_nusd = out_i64(out);
    row->baseline.tokens_cap = out_i64(out);
    row->baseline.latency_p95_ms = out_i64(out);
    row->baseline.tool_calls_p95 = out_i64(out);
    for (size_t g = 0; g < EVIDENCE_GROUPS_N_; g++) {
        row->cursors[g].eligible_ms = out_i64(out);
        row->cursors[g].task_seq = out_i64(out);
    }
    row->seen.eligible_ms = out_i64(out);
    row->seen.task_seq = out_i64(out);
    row->verdict = (RolloutVerdict)out_i64(out);
    row->why = out_text(out);
    row->created_at_ms = out_i64(out);
    row->changed_at_ms = out_i64(out);
    row->unit = (RouteBy)out_i64(out);
    row->limit_ms = out_i64(out);
    row->preflight = (CheckResult)out_i64(out);
    row->checks = out_text(out);
    row->baseline.tasks = out_i64(out);
    row->baseline.since_ms = out_i64(out);
}

static int rollout_one(RowIn *in, Arena *arena, RolloutRow *ret)
{
    RolloutRow row;
    int r = row_first(in->stmt);
    if (r != 0) return r;
    RowOut out = row_out(in->stmt, arena);
    rollout_read(&out, &row);
    r = row_out_end(&out);
    if (r != 0) return r;
    db_reset(in->stmt);
    *ret = row;
    return 0;
}

int rollout_get(Db *db, Str id, Arena *arena, RolloutRow *ret)
{
    RowIn in = row_in(db, ROLLOUT_SELECT " WHERE id = ?1");
    in_text(&in, id);
    return rollout_one(&in, arena, ret);
}

int rollout_active(Db *db, Str agent, Arena *arena, RolloutRow *ret)
{
    RowIn in = row_in(db, ROLLOUT_SELECT " WHERE agent = ?1 AND state < 5");
    in_text(&in, agent);
    return rollout_one(&in, arena, ret);
}

int rollout_routing(Db *db, Str agent, RolloutRouting *ret)
{
    RowIn in = row_in(db, "SELECT seq, weight_bp, id, version_id, unit,"
                          " max(seen_ms, baseline_since_ms) FROM rollout"
                          " WHERE agent = ?1 AND state < 5");
    in_text(&in, agent);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    ret->seq = db_i64(in.stmt, 0);
    ret->weight_bp = (int32_t)db_i64(in.stmt, 1);
    bool fits = str_copy(ret->id, sizeof(ret->id), db_str(in.stmt, 2));
    fits &= str_copy(ret->version_id, sizeof(ret->version_id), db_str(in.stmt, 3));
    assert(fits);
    ret->unit = (RouteBy)db_i64(in.stmt, 4);
    ret->seen_ms = db_i64(in.stmt, 5);
    db_reset(in.stmt);
    return 0;
}

int rollout_list(Db *db, Str agent, bool active_only, Arena *arena, RolloutRow **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = ROLLOUT_LIST_MAX, .size = sizeof(RolloutRow) };
    RowIn in = row_in(db, active_only
                              ? ROLLOUT_SELECT " WHERE state < 5 AND (?1 = '' OR agent = ?1)"
                                               " ORDER BY seq DESC"
                              : ROLLOUT_SELECT " WHERE ?1 = '' OR agent = ?1 ORDER BY seq DESC");
    in_text(&in, agent.ptr ? agent : STR(""));
    int r = row_list_fill(&list, in.stmt, rollout_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int rollout_list_active(Db *db, int64_t after_seq, Arena *arena, RolloutRow **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = ROLLOUT_LIST_MAX, .size = sizeof(RolloutRow) };
    RowIn in = row_in(db, ROLLOUT_SELECT " WHERE state < 5 AND seq > ?1 ORDER BY seq");
    in_i64(&in, after_seq);
    int r = row_list_fill(&list, in.stmt, rollout_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int rollout_any_active(Db *db, bool *ret)
{
    DbStmt *s = db_stmt(db, "SELECT 1 FROM rollout WHERE state < 5 LIMIT 1");
    int r = row_first(s);
    *ret = r == 0;
    db_reset(s);
    return r == -ENOENT ? 0 : r;
}

/* --- evidence --------------------------------------------------------------------------------- */

/* A head, then the evidence up to the metrics that the plan uses: nothing else has changed. The
 * sizes tell a program of another build that it cannot read this. Form 1 was gathered before what
 * is consumed was recorded. */
#define EVIDENCE_FORM 2
typedef struct {
    uint32_t form, metric_bytes, whole_bytes, metrics_n;
} EvidenceHead;

static EvidenceHead evidence_head(size_t metrics_n)
{
    return (EvidenceHead){ EVIDENCE_FORM, sizeof(MetricEvidence), sizeof(Evidence),
                           (uint32_t)metrics_n };
}

static size_t rest_bytes(void)
{
    return sizeof(Evidence) - offsetof(Evidence, seen);
}

static_assert(offsetof(Evidence, metrics) == 0, "the metrics come first, then all the rest");

int rollout_evidence_put(Db *db, int64_t seq, const Evidence *evidence, size_t metrics_n)
{
    assert(metrics_n <= EVIDENCE_METRICS_MAX);
    EvidenceHead head = evidence_head(metrics_n);
    size_t metrics = metrics_n * sizeof(MetricEvidence);
    size_t size = sizeof(head) + metrics + rest_bytes();
    CLEANUP(freep) char *bytes = xmalloc(size);
    memcpy(bytes, &head, sizeof(head));
    memcpy(bytes + sizeof(head), evidence->metrics, metrics);
    memcpy(bytes + sizeof(head) + metrics, &evidence->seen, rest_bytes());
    RowIn in = row_in(db, "INSERT INTO rollout_evidence (rollout_seq, bytes) VALUES (?1, ?2)"
                          " ON CONFLICT (rollout_seq) DO UPDATE SET bytes = excluded.bytes");
    in_i64(&in, seq);
    in_blob(&in, str_make(bytes, size));
    return row_run(in.stmt);
}

int rollout_evidence_get(Db *db, int64_t seq, size_t metrics_n, Evidence *ret)
{
    assert(metrics_n <= EVIDENCE_METRICS_MAX);
    RowIn in = row_in(db, "SELECT bytes FROM rollout_evidence WHERE rollout_seq = ?1");
    in_i64(&in, seq);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    EvidenceHead head = evidence_head(metrics_n);
    Str bytes = db_str(in.stmt, 0);
    size_t metrics = metrics_n * sizeof(MetricEvidence);
    if (bytes.len != sizeof(head) + metrics + rest_bytes() ||
        memcmp(bytes.ptr, &head, sizeof(head)) != 0) {
        db_reset(in.stmt);
        return -EPROTO;
    }
    evidence_init(ret);
    memcpy(ret->metrics, bytes.ptr + sizeof(head), metrics);
    memcpy(&ret->seen, bytes.ptr + sizeof(head) + metrics, rest_bytes());
    db_reset(in.stmt);
    return 0;
}

/* --- what was consumed ------------------------------------------------------------------------ */

/* The harms in the order of their metrics, those that are there. */
static Str harms_pack(const EvidenceUnit *unit, double out[EVIDENCE_METRICS_MAX])
{
    size_t n = 0;
    for (size_t m = 0; m < EVIDENCE_METRICS_MAX; m++)
        if (unit->has >> m & 1) out[n++] = unit->harm[m];
    return str_make((const char *)out, n * sizeof(*out));
}

static void harms_unpack(Str bytes, EvidenceUnit *unit)
{
    size_t at = 0;
    for (size_t m = 0; m < EVIDENCE_METRICS_MAX; m++) {
        if (!(unit->has >> m & 1)) continue;
        if (at + sizeof(double) <= bytes.len)
            memcpy(&unit->harm[m], bytes.ptr + at, sizeof(double));
        else unit->has &= ~(UINT32_C(1) << m);
        at += sizeof(double);
    }
}

int rollout_consumed_put(Db *db, int64_t rollout_seq, const RolloutConsumed *c)
{
    double harms[EVIDENCE_METRICS_MAX];
    RowIn in = row_in(db, "INSERT INTO rollout_consumed (rollout_seq, eligible_ms, task_seq,"
                          " evidence_group, step, fate, told, arm, pi, has, harms)"
                          " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)");
    in_i64(&in, rollout_seq);
    in_i64(&in, c->at.eligible_ms);
    in_i64(&in, c->at.task_seq);
    in_i64(&in, c->group);
    in_i64(&in, (int64_t)c->step);
    in_i64(&in, c->fate);
    in_i64(&in, c->told);
    in_i64(&in, c->unit.canary ? ARM_CANARY : ARM_CONTROL);
    db_bind_f64(in.stmt, in.index++, c->unit.pi);
    in_i64(&in, (int64_t)((uint64_t)c->unit.untold << 32 | c->unit.has));
    in_blob(&in, harms_pack(&c->unit, harms));
    return row_run(in.stmt);
}

static RolloutConsumed consumed_read(DbStmt *s)
{
    RolloutConsumed c = { .at = { db_i64(s, 0), db_i64(s, 1) },
                          .group = (EvidenceGroup)db_i64(s, 2),
                          .step = (size_t)db_i64(s, 3),
                          .fate = (Fate)db_i64(s, 4),
                          .told = (RolloutTold)db_i64(s, 5),
                          .unit = { .canary = db_i64(s, 6) == ARM_CANARY,
                                    .pi = db_f64(s, 7),
                                    .has = (uint32_t)db_i64(s, 8),
                                    .untold = (uint32_t)((uint64_t)db_i64(s, 8) >> 32) } };
    harms_unpack(db_str(s, 9), &c.unit);
    return c;
}

#define CONSUMED_SQL                                                           \
    "SELECT eligible_ms, task_seq, evidence_group, step, fate, told, arm, pi," \
    " has, harms FROM rollout_consumed WHERE rollout_seq = ?1"

static int consumed_fill(DbStmt *s, RolloutConsumed *ret, size_t *n)
{
    size_t found = 0;
    int r;
    while ((r = db_step(s)) == DB_E_ROW) ret[found++] = consumed_read(s);
    if (r == 0) *n = found;
    return r;
}

int rollout_consumed_list(Db *db, int64_t rollout_seq, RolloutCursor after, EvidenceGroup group,
                          RolloutConsumed *ret, size_t *n)
{
    RowIn in = row_in(db, CONSUMED_SQL " AND (eligible_ms, task_seq, evidence_group) > (?2, ?3, ?4)"
                                       " ORDER BY eligible_ms, task_seq, evidence_group LIMIT ?5");
    in_i64(&in, rollout_seq);
    in_i64(&in, after.eligible_ms);
    in_i64(&in, after.task_seq);
    in_i64(&in, group);
    in_i64(&in, (int64_t)*n);
    return consumed_fill(in.stmt, ret, n);
}

int rollout_consumed_of(Db *db, int64_t rollout_seq, EvidenceGroup group, RolloutCursor after,
                        RolloutCursor until, RolloutConsumed *ret, size_t *n)
{
    RowIn in = row_in(db, CONSUMED_SQL
                      " AND (eligible_ms, task_seq) > (?2, ?3)"
                      " AND (eligible_ms, task_seq) <= (?4, ?5) AND evidence_group = ?6"
                      " ORDER BY eligible_ms, task_seq LIMIT ?7");
    in_i64(&in, rollout_seq);
    in_i64(&in, after.eligible_ms);
    in_i64(&in, after.task_seq);
    in_i64(&in, until.eligible_ms);
    in_i64(&in, until.task_seq);
    in_i64(&in, group);
    in_i64(&in, (int64_t)*n);
    return consumed_fill(in.stmt, ret, n);
}

static void intervals_head(DbStmt *s, RolloutIntervals *ret)
{
    *ret = (RolloutIntervals){ .at_ms = db_i64(s, 0) };
    for (int g = 0; g < EVIDENCE_GROUPS_N_; g++)
        ret->cursors[g] = (RolloutCursor){ db_i64(s, 1 + 2 * g), db_i64(s, 2 + 2 * g) };
}

#define INTERVALS_HEAD "at_ms, fast_ms, fast_seq, judged_ms, judged_seq"

int rollout_intervals_head(Db *db, int64_t rollout_seq, RolloutIntervals *ret)
{
    RowIn in = row_in(db, "SELECT " INTERVALS_HEAD " FROM rollout_interval WHERE rollout_seq = ?1");
    in_i64(&in, rollout_seq);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    intervals_head(in.stmt, ret);
    db_reset(in.stmt);
    return 0;
}

int rollout_intervals_get(Db *db, int64_t rollout_seq, Arena *arena, RolloutIntervals *ret)
{
    RowIn in = row_in(db, "SELECT " INTERVALS_HEAD ", bytes FROM rollout_interval"
                          " WHERE rollout_seq = ?1");
    in_i64(&in, rollout_seq);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    intervals_head(in.stmt, ret);
    ret->bytes = arena_str(arena, db_str(in.stmt, 5));
    db_reset(in.stmt);
    return ret->bytes.ptr ? 0 : -ENOMEM;
}

int rollout_intervals_put(Db *db, int64_t rollout_seq, const RolloutIntervals *v)
{
    RowIn in = row_in(db, "INSERT OR REPLACE INTO rollout_interval (rollout_seq, " INTERVALS_HEAD
                          ", bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)");
    in_i64(&in, rollout_seq);
    in_i64(&in, v->at_ms);
    for (int g = 0; g < EVIDENCE_GROUPS_N_; g++) {
        in_i64(&in, v->cursors[g].eligible_ms);
        in_i64(&in, v->cursors[g].task_seq);
    }
    in_blob(&in, v->bytes);
    return row_run(in.stmt);
}

int rollout_consumed_any(Db *db, int64_t rollout_seq, EvidenceGroup group, bool *ret)
{
    RowIn in = row_in(db, "SELECT 1 FROM rollout_consumed WHERE rollout_seq = ?1"
                          " AND evidence_group = ?2 LIMIT 1");
    in_i64(&in, rollout_seq);
    in_i64(&in, group);
    int r = row_first(in.stmt);
    *ret = r == 0;
    db_reset(in.stmt);
    return r == -ENOENT ? 0 : r;
}

/* --- ticks ------------------------------------------------------------------------------------ */

static RowIn tick_in(Db *db, int64_t rollout_seq, const RolloutTick *tick, const char *sql)
{
    RowIn in = row_in(db, sql);
    in_i64(&in, rollout_seq);
    in_i64(&in, tick->at_ms);
    in_i64(&in, tick->state);
    in_i64(&in, tick->step);
    in_i64(&in, tick->verdict);
    in_text(&in, tick->why);
    in_text(&in, tick->inputs);
    return in;
}

int rollout_tick_again(Db *db, int64_t rollout_seq, const RolloutTick *tick, bool *ret_same)
{
    int64_t n = 0;
    RowIn in = tick_in(db, rollout_seq, tick,
                       "UPDATE rollout_tick SET again = again + 1, last_ms = ?2"
                       " WHERE rollout_seq = ?1 AND n = (SELECT max(n) FROM rollout_tick"
                       " WHERE rollout_seq = ?1) AND state = ?3 AND step = ?4 AND verdict = ?5"
                       " AND why = ?6 AND inputs = ?7");
    int r = db_run(in.stmt, &n);
    assert(r != DB_E_CONFLICT);
    *ret_same = n > 0;
    return r;
}

int rollout_tick_add(Db *db, int64_t rollout_seq, const RolloutTick *tick)
{
    RowIn in = tick_in(db, rollout_seq, tick,
                       "INSERT INTO rollout_tick (rollout_seq, n, at_ms, state, step, verdict,"
                       " why, inputs, last_ms)"
                       " SELECT ?1, coalesce(max(n), 0) + 1, ?2, ?3, ?4, ?5, ?6, ?7, ?2"
                       " FROM rollout_tick WHERE rollout_seq = ?1");
    int r = row_run(in.stmt);
    if (r != 0) return r;
    in = row_in(db, "DELETE FROM rollout_tick WHERE rollout_seq = ?1 AND n <="
                    " (SELECT max(n) FROM rollout_tick WHERE rollout_seq = ?1) - ?2");
    in_i64(&in, rollout_seq);
    in_i64(&in, ROLLOUT_TICKS_KEPT);
    return row_run(in.stmt);
}

static void rollout_tick_read(RowOut *out, void *ret)
{
    RolloutTick *t = ret;
    t->n = out_i64(out);
    t->at_ms = out_i64(out);
    t->state = (RolloutState)out_i64(out);
    t->step = out_i64(out);
    t->verdict = (RolloutVerdict)out_i64(out);
    t->why = out_text(out);
    t->inputs = out_text(out);
    t->again = out_i64(out);
    t->last_ms = out_i64(out);
}

int rollout_ticks(Db *db, int64_t rollout_seq, size_t max, Arena *arena, RolloutTick **ret,
                  size_t *ret_n)
{
    RowList list = { .arena = arena, .max = max, .size = sizeof(RolloutTick) };
    RowIn in = row_in(db, "SELECT n, at_ms, state, step, verdict, why, inputs, again, last_ms"
                          " FROM rollout_tick WHERE rollout_seq = ?1 ORDER BY n DESC");
    in_i64(&in, rollout_seq);
    int r = row_list_fill(&list, in.stmt, rollout_tick_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

/* --- units ------------------------------------------------------------------------------------ */

int rollout_unit_get(Db *db, int64_t rollout_seq, RouteUnit kind, Str unit, RouteBefore *ret)
{
    RowIn in = row_in(db, "SELECT arm, pi FROM rollout_unit WHERE rollout_seq = ?1 AND kind = ?2"
                          " AND unit = ?3");
    in_i64(&in, rollout_seq);
    in_i64(&in, kind);
    in_text(&in, unit);
    *ret = (RouteBefore){ 0 };
    int r = row_first(in.stmt);
    if (r == -ENOENT) return 0;
    if (r != 0) return r;
    *ret = (RouteBefore){ true, (Arm)db_i64(in.stmt, 0), db_f64(in.stmt, 1) };
    db_reset(in.stmt);
    return 0;
}

int rollout_session_lives(Db *db, Str tenant, Str agent, Str session, int64_t since_ms, bool *ret)
{
    RowIn in = row_in(db, SESSION_LIVES_SQL);
    in_text(&in, tenant.ptr ? tenant : STR(""));
    in_text(&in, agent);
    in_text(&in, session);
    in_i64(&in, since_ms);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret = db_i64(in.stmt, 0) != 0;
    db_reset(in.stmt);
    return 0;
}

int rollout_unit_put(Db *db, int64_t rollout_seq, const RolloutUnit *unit)
{
    RowIn in = row_in(db, "INSERT INTO rollout_unit (rollout_seq, kind, unit, arm, counts,"
                          " eligible_ms, task_seq, pi, first_arm)"
                          " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?4)"
                          " ON CONFLICT (rollout_seq, kind, unit) DO UPDATE SET"
                          " arm = excluded.arm");
    in_i64(&in, rollout_seq);
    in_i64(&in, unit->kind);
    in_text(&in, unit->unit);
    in_i64(&in, unit->arm);
    in_i64(&in, unit->counts);
    in_i64(&in, unit->eligible_ms);
    in_i64(&in, unit->task_seq);
    db_bind_f64(in.stmt, in.index, unit->pi);
    return row_run(in.stmt);
}

RolloutOutcome rollout_outcome_read(DbStmt *s, int from)
{
    return (RolloutOutcome){ .state = (TaskState)db_i64(s, from),
                             .now = (TaskState)db_i64(s, from),
                             .started_at_ms = db_i64(s, from + 1),
                             .finished_at_ms = db_i64(s, from + 2),
                             .cost_nusd = db_i64(s, from + 3),
                             .tokens = db_i64(s, from + 4),
                             .tool_calls = db_i64(s, from + 5),
                             .quality = db_is_null(s, from + 6) ? (double)NAN : db_f64(s, from + 6),
                             .degraded = db_i64(s, from + 7) > 0,
                             .deadline_at_ms = db_i64(s, from + 8),
                             .escalated = db_i64(s, from + 9) != 0,
                             .unjudged = db_i64(s, from + 10) & SCORE_UNTOLD_COUNTS,
                             .untold = db_i64(s, from + 10) != 0,
                             .ran_ms = db_i64(s, from + 11) };
}

/* The same, with OUTCOME_RESOLVED behind: whoever has asked, or was tried again by hand, is taken
 * as it was before that. */
static RolloutOutcome resolved_read(DbStmt *s, int from)
{
    RolloutOutcome o = rollout_outcome_read(s, from);
    from += OUTCOME_FIGURES_N;
    if (db_is_null(s, from)) return o;
    o.state = (TaskState)db_i64(s, from + 7);
    o.escalated = o.state == TASK_ESCALATED;
    o.finished_at_ms = db_i64(s, from);
    o.started_at_ms = db_i64(s, from + 1);
    o.ran_ms = db_i64(s, from + 2);
    o.cost_nusd = db_i64(s, from + 3);
    o.tokens = db_i64(s, from + 4);
    o.tool_calls = db_i64(s, from + 5);
    o.degraded = db_i64(s, from + 6) > 0;
    return o;
}

int rollout_outcomes(Db *db, int64_t rollout_seq, RolloutCursor after, int64_t until_ms,
                     RolloutOutcome *ret, size_t *n)
{
    RowIn in = row_in(db,
                      "SELECT u.eligible_ms, u.task_seq, u.first_arm, u.pi, " OUTCOME_FIGURES
                      ", " OUTCOME_RESOLVED
                      " FROM rollout_unit u JOIN task t ON t.seq = u.task_seq" OUTCOME_RESOLVED_OF_T
                      " WHERE u.rollout_seq = ?1 AND u.counts = 1"
                      " AND (u.eligible_ms, u.task_seq) > (?2, ?3) AND u.eligible_ms < ?4"
                      " ORDER BY u.eligible_ms, u.task_seq LIMIT ?5");
    in_i64(&in, rollout_seq);
    in_i64(&in, after.eligible_ms);
    in_i64(&in, after.task_seq);
    in_i64(&in, until_ms);
    in_i64(&in, (int64_t)*n);
    size_t found = 0;
    int r;
    while ((r = db_step(in.stmt)) == DB_E_ROW) {
        RolloutOutcome outcome = resolved_read(in.stmt, 4);
        outcome.at = (RolloutCursor){ db_i64(in.stmt, 0), db_i64(in.stmt, 1) };
        outcome.canary = db_i64(in.stmt, 2) == ARM_CANARY;
        outcome.pi = db_f64(in.stmt, 3);
        ret[found++] = outcome;
    }
    if (r == 0) *n = found;
    return r;
}

int rollout_pace(Db *db, int64_t rollout_seq, int64_t now_ms, RolloutPace *ret)
{
    RowIn in = row_in(db, "SELECT count(*), min(eligible_ms) FROM (SELECT eligible_ms"
                          " FROM rollout_unit WHERE rollout_seq = ?1 AND counts = 1"
                          " AND eligible_ms BETWEEN ?2 AND ?3 ORDER BY eligible_ms DESC LIMIT ?4)");
    in_i64(&in, rollout_seq);
    in_i64(&in, now_ms - PACE_MS);
    in_i64(&in, now_ms);
    in_i64(&in, ROLLOUT_PACE_UNITS);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret = (RolloutPace){ .now_ms = now_ms, .units = db_i64(in.stmt, 0) };
    if (ret->units > 0) ret->span_ms = MAX(now_ms - db_i64(in.stmt, 1), 1);
    db_reset(in.stmt);
    return 0;
}

int rollout_history(Db *db, Str version_id, RolloutOutcome *ret, size_t *n)
{
    RowIn in = row_in(db, "SELECT " OUTCOME_FIGURES ", " OUTCOME_RESOLVED
                          " FROM task t" OUTCOME_RESOLVED_OF_T " WHERE t.version_id = ?1"
                          " AND t.finished_at_ms > 0 AND t.started_at_ms > 0"
                          " AND t.state <> 5 AND t.degraded_calls = 0 AND t.shadow_of IS NULL"
                          " ORDER BY t.seq DESC LIMIT ?2");
    in_text(&in, version_id);
    in_i64(&in, (int64_t)*n);
    size_t found = 0;
    int r;
    while ((r = db_step(in.stmt)) == DB_E_ROW) ret[found++] = resolved_read(in.stmt, 0);
    if (r == 0) *n = found;
    return r;
}

int rollout_tasks(Db *db, Str version_id, int64_t after_seq, RolloutOutcome *ret, size_t *n)
{
    RowIn in = row_in(db, "SELECT t.ready_at_ms, t.seq, " OUTCOME_FIGURES ", " OUTCOME_RESOLVED
                          " FROM task t" OUTCOME_RESOLVED_OF_T
                          " WHERE t.version_id = ?1 AND t.seq > ?2 AND t.shadow_of IS NULL"
                          " ORDER BY t.seq LIMIT ?3");
    in_text(&in, version_id);
    in_i64(&in, after_seq);
    in_i64(&in, (int64_t)*n);
    size_t found = 0;
    int r;
    while ((r = db_step(in.stmt)) == DB_E_ROW) {
        ret[found] = resolved_read(in.stmt, 2);
        ret[found++].at = (RolloutCursor){ db_i64(in.stmt, 0), db_i64(in.stmt, 1) };
    }
    if (r == 0) *n = found;
    return r;
}

/* Newest first, of those that have started: what still waits says nothing, however much there
 * is. */
#define TAIL_OF_ROLLOUT                                                         \
    "(SELECT seq, cost_nusd, stopped_by FROM task INDEXED BY task_tried_routed" \
    " WHERE rollout_seq = ?2 AND rollout_seq > 0 AND version_id = ?1"           \
    " AND attempt > 0 ORDER BY seq DESC LIMIT ?3)"
#define TAIL_OF_VERSION                                                       \
    "(SELECT seq, cost_nusd, stopped_by FROM task INDEXED BY task_tried"      \
    " WHERE version_id = ?1 AND ?2 = 0 AND attempt > 0 AND shadow_of IS NULL" \
    " ORDER BY seq DESC LIMIT ?3)"

#define TAIL_TASKS(tail)                                                            \
    "SELECT cost_nusd, coalesce(stopped_by, '') IN ('tokensPerTask', 'usdPerTask')" \
    " FROM " tail
/* A worker dies once, whatever it took along. */
#define BY_WORKER                                                \
    " GROUP BY CASE a.outcome WHEN 'lost' THEN a.worker_id END," \
    " CASE a.outcome WHEN 'lost' THEN 0 ELSE a.task_seq END,"    \
    " CASE a.outcome WHEN 'lost' THEN 0 ELSE a.attempt END"
#define TAIL_ATTEMPTS(tail)                                                                  \
    "SELECT a.outcome, coalesce(a.error_code, '') = 'resource_limit', max(a.finished_at_ms)" \
    " FROM " tail " t JOIN attempt a ON a.task_seq = t.seq"                                  \
    " WHERE a.finished_at_ms > 0 AND a.outcome IS NOT NULL" BY_WORKER                        \
    " ORDER BY max(a.finished_at_ms) DESC, a.task_seq DESC, a.attempt DESC LIMIT ?4"

static RowIn tail_in(Db *db, const char *sql, Str version_id, int64_t rollout_seq, int64_t tasks)
{
    RowIn in = row_in(db, sql);
    in_text(&in, version_id);
    in_i64(&in, rollout_seq);
    in_i64(&in, tasks);
    return in;
}

static int tail_tasks(Db *db, Str version_id, int64_t rollout_seq, TripwireTail *ret)
{
    int r;
    const char *sql = rollout_seq > 0 ? TAIL_TASKS(TAIL_OF_ROLLOUT) : TAIL_TASKS(TAIL_OF_VERSION);
    RowIn in = tail_in(db, sql, version_id, rollout_seq, TRIPWIRE_TASKS);
    while ((r = db_step(in.stmt)) == DB_E_ROW) {
        assert(ret->tasks_n < TRIPWIRE_TASKS);
        ret->cost_nusd[ret->tasks_n] = db_i64(in.stmt, 0);
        ret->capped[ret->tasks_n++] = db_i64(in.stmt, 1) != 0;
    }
    return r;
}

static int tail_attempts(Db *db, Str version_id, int64_t rollout_seq, int64_t tasks,
                         TripwireTail *ret)
{
    int r;
    const char *sql = rollout_seq > 0 ? TAIL_ATTEMPTS(TAIL_OF_ROLLOUT)
                                      : TAIL_ATTEMPTS(TAIL_OF_VERSION);
    RowIn in = tail_in(db, sql, version_id, rollout_seq, tasks);
    in_i64(&in, TRIPWIRE_ATTEMPTS);
    ret->attempts_n = 0;
    while ((r = db_step(in.stmt)) == DB_E_ROW) {
        TaskOutcome outcome;
        if (task_outcome_from(db_str(in.stmt, 0), &outcome) < 0) continue;
        assert(ret->attempts_n < TRIPWIRE_ATTEMPTS);
        ret->limited[ret->attempts_n] = db_i64(in.stmt, 1) != 0;
        ret->ended_ms[ret->attempts_n] = db_i64(in.stmt, 2);
        ret->attempts[ret->attempts_n++] = outcome;
    }
    return r;
}

/* Whether workers died and nothing succeeded: the last tasks may all have been lost together, on
 * workers that run more of them than are looked at, and each is lost a few times only. */
static bool tail_dies(const TripwireTail *tail)
{
    bool lost = false;
    for (size_t i = 0; i < tail->attempts_n; i++) {
        if (tail->attempts[i] == TASK_OUTCOME_SUCCEEDED) return false;
        lost |= tail->attempts[i] == TASK_OUTCOME_LOST;
    }
    return lost && tail->tasks_n == TRIPWIRE_TASKS && tail->attempts_n < TRIPWIRE_ATTEMPTS;
}

int rollout_tail(Db *db, Str version_id, int64_t rollout_seq, TripwireTail *ret)
{
    *ret = (TripwireTail){ 0 };
    int r = tail_tasks(db, version_id, rollout_seq, ret);
    if (r == 0) r = tail_attempts(db, version_id, rollout_seq, TRIPWIRE_TASKS, ret);
    if (r != 0 || !tail_dies(ret)) return r;
    return tail_attempts(db, version_id, rollout_seq, TRIPWIRE_DEEP_TASKS, ret);
}

int rollout_meanwhile(Db *db, Str version_id, int64_t since_ms, TripwireMeanwhile *ret)
{
    const char *sql = "SELECT count(*), coalesce(sum(outcome IN ('failed_final',"
                      " 'failed_retryable', 'timed_out', 'lost')), 0)"
                      " FROM (SELECT a.outcome FROM " TAIL_OF_VERSION
                      " t JOIN attempt a ON a.task_seq = t.seq WHERE a.finished_at_ms >= ?4"
                      " AND a.outcome NOT IN ('released', 'canceled')" BY_WORKER ")";
    RowIn in = tail_in(db, sql, version_id, 0, TRIPWIRE_DEEP_TASKS);
    in_i64(&in, since_ms);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    ret->attempts = db_i64(in.stmt, 0);
    ret->crashes = db_i64(in.stmt, 1);
    db_reset(in.stmt);
    return 0;
}

int rollout_units_lately(Db *db, Str version_id, RouteBy by, int64_t *ret_units, int64_t *ret_tasks)
{
    *ret_units = *ret_tasks = 0;
    if (by != ROUTE_BY_USER && by != ROUTE_BY_TENANT) return 0;
    RowIn in = row_in(db,
                      "SELECT count(DISTINCT unit), count(*) FROM"
                      " (SELECT iif(?2, user_id, tenant_id) AS unit FROM task"
                      " WHERE version_id = ?1 AND shadow_of IS NULL ORDER BY seq DESC LIMIT ?3)");
    in_text(&in, version_id);
    in_i64(&in, by == ROUTE_BY_USER);
    in_i64(&in, ROLLOUT_LATELY_TASKS);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret_units = db_i64(in.stmt, 0);
    *ret_tasks = db_i64(in.stmt, 1);
    db_reset(in.stmt);
    return 0;
}

int rollout_scores(Db *db, Str version_id, int64_t *n, double *ret_mean)
{
    RowIn in = row_in(db, "SELECT count(*), avg(quality) FROM (SELECT quality FROM task"
                          " WHERE version_id = ?1 AND quality IS NOT NULL AND shadow_of IS NULL"
                          " ORDER BY seq DESC LIMIT ?2)");
    in_text(&in, version_id);
    in_i64(&in, *n);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *n = db_i64(in.stmt, 0);
    *ret_mean = *n > 0 ? db_f64(in.stmt, 1) : NAN;
    db_reset(in.stmt);
    return 0;
}

/* --- tasks ------------------------------------------------------------------------------------ */

int rollout_mark_task(Db *db, int64_t task_seq, int64_t rollout_seq)
{
    RowIn in = row_in(db, "UPDATE task SET rollout_seq = ?1 WHERE seq = ?2");
    in_i64(&in, rollout_seq);
    in_i64(&in, task_seq);
    return row_change(in.stmt);
}

/* Not of a task whose caller named the version. */
#define ROUTED "coalesce(rollout_seq, 1) <> 0"

/* Nothing is recorded of what it did: it may begin anew elsewhere. What is recorded is served to
 * attempts of the same version only. */
#define UNTOUCHED                                                                \
    "(attempt = 0 OR (journal_n = 0 AND last_call_id = 0 AND llm_calls = 0"      \
    " AND tool_calls = 0 AND escalations = 0 AND children = 0"                   \
    " AND NOT EXISTS (SELECT 1 FROM tool_call AS c WHERE c.task_seq = task.seq)" \
    " AND NOT EXISTS (SELECT 1 FROM escalation AS e WHERE e.task_seq = task.seq)))"

/* Somebody has it tried again, and it has not begun since: what it did is to be given to nobody.
 * What it has started and what still goes on is found again only where it is. */
#define TRIED_AGAIN "attempt > 0 AND fence = 0"
#define GOES_ON_BELOW                                                        \
    "EXISTS (SELECT 1 FROM family AS f JOIN task AS c ON c.seq = f.task_seq" \
    " WHERE f.parent_seq = task.seq AND c.state NOT BETWEEN 2 AND 5)"

/* What another version is not given. */
static int forget_one(Db *db, int64_t task_seq)
{
    int r = journal_retire(db, task_seq);
    if (r == 0) r = escalation_retire(db, task_seq, true);
    return r == 0 ? family_forget(db, task_seq, true) : r;
}

/* By the indexes that hold queued tasks alone: a version may have had millions. */
int rollout_rebind(Db *db, Str from, Str to, int64_t *ret_n)
{
    RowIn in = row_in(db, "UPDATE task SET version_id = ?1 WHERE seq IN (" TASK_QUEUED_SQL ")"
                          " AND version_id = ?2 AND " ROUTED " AND (" UNTOUCHED " OR (" TRIED_AGAIN
                          " AND NOT " GOES_ON_BELOW "))"
                          " RETURNING CASE WHEN " TRIED_AGAIN " THEN seq ELSE 0 END");
    in_text(&in, to);
    in_text(&in, from);
    int r;
    *ret_n = 0;
    while ((r = db_step(in.stmt)) == DB_E_ROW) {
        int64_t seq = db_i64(in.stmt, 0);
        if (seq != 0 && (r = forget_one(db, seq)) != 0) break;
        ++*ret_n;
    }
    db_reset(in.stmt);
    assert(r != DB_E_CONFLICT);
    return r;
}

int rollout_rebind_retried(Db *db, int64_t task_seq, bool *ret_moved)
{
    int64_t n = 0;
    RowIn in = row_in(db, "UPDATE task SET version_id = (SELECT version_id FROM routing AS g"
                          " WHERE g.agent = task.agent) WHERE seq = ?1 AND " ROUTED
                          " AND version_id <> (SELECT version_id FROM routing AS g"
                          " WHERE g.agent = task.agent) AND NOT EXISTS (SELECT 1 FROM rollout AS r"
                          " WHERE r.agent = task.agent AND r.state < 5"
                          " AND task.version_id IN (r.version_id, r.control_id))");
    in_i64(&in, task_seq);
    int r = db_run(in.stmt, &n);
    *ret_moved = n > 0;
    return r;
}

#define KILL_SQL                 \
    " SET cancel_requested = 1," \
    " stopped_by = coalesce(stopped_by, 'rollback') WHERE version_id = ?1 AND " ROUTED
static int kill_these(Db *db, const char *sql, Str version_id, int64_t *n)
{
    int64_t changed = 0;
    RowIn in = row_in(db, sql);
    in_text(&in, version_id);
    int r = db_run(in.stmt, &changed);
    assert(r != DB_E_CONFLICT);
    *n += changed;
    return r;
}

int rollout_kill(Db *db, Str version_id, int64_t *ret_n)
{
    *ret_n = 0;
    int r = kill_these(db, "UPDATE task INDEXED BY task_running" KILL_SQL " AND state = 1",
                       version_id, ret_n);
    if (r == 0)
        r = kill_these(db, "UPDATE task" KILL_SQL " AND seq IN (" TASK_QUEUED_SQL ")", version_id,
                       ret_n);
    if (r == 0)
        r = kill_these(db,
                       "UPDATE task" KILL_SQL " AND state = 6 AND seq IN"
                       " (SELECT task_seq FROM escalation WHERE state = 0)",
                       version_id, ret_n);
    return r;
}

int rollout_killed(Db *db, int64_t after_seq, int64_t *ret_seqs, size_t *n)
{
    RowIn in = row_in(db, "SELECT t.seq FROM (" TASK_QUEUED_SQL " UNION"
                          " SELECT task_seq FROM escalation WHERE state = 0) AS idle"
                          " JOIN task AS t ON t.seq = idle.seq WHERE t.state IN (0, 6)"
                          " AND t.cancel_requested = 1 AND t.seq > ?1 ORDER BY t.seq LIMIT ?2");
    in_i64(&in, after_seq);
    in_i64(&in, (int64_t)*n);
    size_t found = 0;
    int r;
    while ((r = db_step(in.stmt)) == DB_E_ROW) ret_seqs[found++] = db_i64(in.stmt, 0);
    if (r == 0) *n = found;
    return r;
}
