#include "store/shadow_store.h"

#include <math.h>

#include "base/money.h"
#include "store/outcome_sql.h"
#include "store/row.h"
#include "store/score_store.h"

/* --- choosing --------------------------------------------------------------------------------- */

int shadow_tasks(Db *db, Str version_id, int64_t after_seq, Arena *arena, ShadowTask *ret,
                 size_t *n)
{
    RowIn in = row_in(db, "SELECT seq, id, session_id, user_id, tenant_id FROM task"
                          " WHERE version_id = ?1 AND seq > ?2 AND parent_id IS NULL"
                          " AND shadow_of IS NULL AND coalesce(rollout_seq, 1) <> 0"
                          " ORDER BY seq LIMIT ?3");
    in_text(&in, version_id);
    in_i64(&in, after_seq);
    in_i64(&in, (int64_t)*n);
    size_t found = 0;
    int r;
    while ((r = db_step(in.stmt)) == DB_E_ROW) {
        RowOut out = row_out(in.stmt, arena);
        ShadowTask *task = &ret[found++];
        task->seq = out_i64(&out);
        task->id = out_uuid(&out);
        task->session_id = out_text(&out);
        task->user_id = out_text(&out);
        task->tenant_id = out_text(&out);
        r = row_out_end(&out);
        if (r != 0) return r;
    }
    if (r == 0) *n = found;
    return r;
}

/* A count, a sum or a maximum. */
static int number(RowIn *in, int64_t *ret)
{
    int r = row_first(in->stmt);
    if (r != 0) return r;
    *ret = db_i64(in->stmt, 0);
    db_reset(in->stmt);
    return 0;
}

int shadow_newest(Db *db, int64_t *ret_seq)
{
    RowIn in = row_in(db, "SELECT coalesce(max(seq), 0) FROM task");
    return number(&in, ret_seq);
}

int shadow_add(Db *db, int64_t rollout_seq, int64_t task_seq, bool self, Str unit, int64_t now_ms)
{
    RowIn in = row_in(db, "INSERT OR IGNORE INTO shadow_pair (rollout_seq, task_seq, self, unit,"
                          " chosen_at_ms) VALUES (?1, ?2, ?3, ?4, ?5)");
    in_i64(&in, rollout_seq);
    in_i64(&in, task_seq);
    in_i64(&in, self);
    in_text(&in, unit);
    in_i64(&in, now_ms);
    int r = row_change(in.stmt);
    return r == -ENOENT ? DB_E_CONFLICT : r;
}

/* --- pairs ------------------------------------------------------------------------------------ */

#define PAIR_COLUMNS "SELECT task_seq, shadow_seq, self, state, chosen_at_ms FROM shadow_pair"

static int pairs_read(Db *db, const char *sql, int64_t rollout_seq, ShadowRow *ret, size_t *n)
{
    RowIn in = row_in(db, sql);
    in_i64(&in, rollout_seq);
    in_i64(&in, (int64_t)*n);
    size_t found = 0;
    int r;
    while ((r = db_step(in.stmt)) == DB_E_ROW)
        ret[found++] = (ShadowRow){ .task_seq = db_i64(in.stmt, 0),
                                    .shadow_seq = db_i64(in.stmt, 1),
                                    .self = db_i64(in.stmt, 2) != 0,
                                    .state = (ShadowState)db_i64(in.stmt, 3),
                                    .chosen_at_ms = db_i64(in.stmt, 4) };
    if (r == 0) *n = found;
    return r;
}

int shadow_move(Db *db, int64_t ms)
{
    RowIn in = row_in(db, "UPDATE shadow_pair INDEXED BY shadow_pair_open"
                          " SET chosen_at_ms = chosen_at_ms + ?1 WHERE state < 2");
    in_i64(&in, ms);
    return row_run(in.stmt);
}

int shadow_open(Db *db, int64_t rollout_seq, ShadowRow *ret, size_t *n)
{
    const char *sql = PAIR_COLUMNS " INDEXED BY shadow_pair_open WHERE rollout_seq = ?1"
                                   " AND state < 2 ORDER BY task_seq LIMIT ?2";
    return pairs_read(db, sql, rollout_seq, ret, n);
}

int shadow_open_counts(Db *db, int64_t rollout_seq, int64_t *ret_open, int64_t *ret_started)
{
    RowIn in = row_in(db, "SELECT count(*), coalesce(sum(state = 1), 0) FROM shadow_pair"
                          " WHERE rollout_seq = ?1 AND state < 2");
    in_i64(&in, rollout_seq);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret_open = db_i64(in.stmt, 0);
    *ret_started = db_i64(in.stmt, 1);
    db_reset(in.stmt);
    return 0;
}

/* states: 2 shadow, 4 paused, which goes on from 2 */
#define PAST_SHADOW "NOT (r.state = 2 OR (r.state = 4 AND r.resumes = 2))"

int shadow_leftover(Db *db, int64_t *ret_seqs, size_t *n)
{
    RowIn in = row_in(db, "SELECT p.rollout_seq FROM shadow_pair p"
                          " JOIN rollout r ON r.seq = p.rollout_seq"
                          " WHERE p.state < 2 AND " PAST_SHADOW
                          " UNION SELECT rollout_seq FROM shadow_pair WHERE stopping = 1 LIMIT ?1");
    in_i64(&in, (int64_t)*n);
    size_t found = 0;
    int r;
    while ((r = db_step(in.stmt)) == DB_E_ROW) ret_seqs[found++] = db_i64(in.stmt, 0);
    if (r == 0) *n = found;
    return r;
}

int shadow_to_stop(Db *db, int64_t rollout_seq, ShadowRow *ret, size_t *n)
{
    const char *sql = PAIR_COLUMNS " WHERE rollout_seq = ?1 AND stopping = 1"
                                   " UNION ALL " PAIR_COLUMNS " WHERE rollout_seq = ?1"
                                   " AND state < 2 AND EXISTS (SELECT 1 FROM rollout r"
                                   " WHERE r.seq = ?1 AND " PAST_SHADOW ") LIMIT ?2";
    return pairs_read(db, sql, rollout_seq, ret, n);
}

int shadow_stopped(Db *db, int64_t rollout_seq, int64_t task_seq)
{
    RowIn in = row_in(db, "UPDATE shadow_pair SET stopping = 0"
                          " WHERE rollout_seq = ?1 AND task_seq = ?2");
    in_i64(&in, rollout_seq);
    in_i64(&in, task_seq);
    return row_change(in.stmt);
}

int shadow_started(Db *db, int64_t rollout_seq, int64_t task_seq, int64_t shadow_seq)
{
    RowIn in = row_in(db, "UPDATE shadow_pair SET state = 1, shadow_seq = ?3"
                          " WHERE rollout_seq = ?1 AND task_seq = ?2 AND state = 0");
    in_i64(&in, rollout_seq);
    in_i64(&in, task_seq);
    in_i64(&in, shadow_seq);
    return row_change(in.stmt);
}

int shadow_settle(Db *db, int64_t rollout_seq, int64_t task_seq, ShadowState state, bool differs,
                  bool path_differs, int64_t now_ms)
{
    assert(state >= SHADOW_COMPARED && state < SHADOW_STATE_N_);
    RowIn in = row_in(
        db, "UPDATE shadow_pair SET state = ?3, differs = ?4, path_differs = ?5,"
            " ended_at_ms = ?6, stopping = EXISTS (SELECT 1 FROM task t WHERE t.seq = shadow_seq"
            " AND (t.state = 1 OR (t.state IN (0, 6) AND ?3 = 4)))"
            " WHERE rollout_seq = ?1 AND task_seq = ?2");
    in_i64(&in, rollout_seq);
    in_i64(&in, task_seq);
    in_i64(&in, state);
    in_i64(&in, differs);
    in_i64(&in, path_differs);
    in_i64(&in, now_ms);
    return row_change(in.stmt);
}

int shadow_reopen(Db *db, int64_t rollout_seq, int64_t *ret_began_ms, int64_t *ret_dropped)
{
    RowIn in = row_in(db, "UPDATE shadow_pair SET state = 1, stopping = 0 WHERE rollout_seq = ?1"
                          " AND state >= 2 AND shadow_seq > 0");
    in_i64(&in, rollout_seq);
    int r = row_run(in.stmt);
    if (r != 0) return r;
    in = row_in(db, "SELECT coalesce(min(chosen_at_ms), 0), coalesce(sum(state = 4), 0)"
                    " FROM shadow_pair WHERE rollout_seq = ?1");
    in_i64(&in, rollout_seq);
    r = row_first(in.stmt);
    if (r != 0) return r;
    *ret_began_ms = db_i64(in.stmt, 0);
    *ret_dropped = db_i64(in.stmt, 1);
    db_reset(in.stmt);
    return 0;
}

/* --- what a task was like --------------------------------------------------------------------- */

int shadow_outcome(Db *db, int64_t task_seq, RolloutOutcome *ret)
{
    RowIn in = row_in(db,
                      "SELECT t.created_at_ms, " OUTCOME_FIGURES " FROM task t WHERE t.seq = ?1");
    in_i64(&in, task_seq);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret = rollout_outcome_read(in.stmt, 1);
    ret->at = (RolloutCursor){ db_i64(in.stmt, 0), task_seq };
    db_reset(in.stmt);
    return 0;
}

int shadow_cost(Db *db, int64_t task_seq, int64_t *ret_nusd)
{
    RowIn in = row_in(db, "SELECT cost_nusd + coalesce((SELECT kids_nusd FROM family"
                          " WHERE task_seq = ?1), 0) FROM task WHERE seq = ?1");
    in_i64(&in, task_seq);
    *ret_nusd = 0;
    int r = number(&in, ret_nusd);
    return r == -ENOENT ? 0 : r;
}

int shadow_allotted(Db *db, int64_t shadow_seq, int64_t *ret_nusd)
{
    RowIn in = row_in(db, "SELECT limits ->> 'usdPerTask' FROM task_payload WHERE seq = ?1");
    in_i64(&in, shadow_seq);
    *ret_nusd = 0;
    int r = row_first(in.stmt);
    if (r != 0) return r == -ENOENT ? 0 : r;
    if (!db_is_null(in.stmt, 0) && money_from_text(db_str(in.stmt, 0), NUSD_PER_USD, ret_nusd) != 0)
        *ret_nusd = 0;
    db_reset(in.stmt);
    return 0;
}

int shadow_capped(Db *db, int64_t shadow_seq, bool *ret)
{
    int64_t found = 0;
    RowIn in = row_in(db, "SELECT count(*) FROM task WHERE seq = ?1 AND stopped_by = 'usdPerTask'");
    in_i64(&in, shadow_seq);
    int r = number(&in, &found);
    *ret = found > 0;
    return r;
}

int shadow_stubbed(Db *db, int64_t shadow_seq, bool *ret)
{
    int64_t found = 0;
    RowIn in = row_in(db, "WITH RECURSIVE below (seq) AS (SELECT ?1 UNION SELECT f.task_seq"
                          " FROM family f JOIN below b ON f.parent_seq = b.seq"
                          " WHERE f.parent_seq > 0)"
                          " SELECT count(*) FROM (SELECT 1 FROM below b JOIN tool_call c"
                          " ON c.task_seq = b.seq WHERE c.mode = 'stub' LIMIT 1)");
    in_i64(&in, shadow_seq);
    int r = number(&in, &found);
    *ret = found > 0;
    return r;
}

#define PATH_OF(seq)                                                            \
    "(SELECT coalesce(group_concat(name), '') FROM (SELECT name FROM tool_call" \
    " WHERE task_seq = " seq " AND replayed = 0 ORDER BY id LIMIT 1000))"
#define RESULT_OF(seq) "(SELECT result FROM task_result WHERE seq = " seq ")"

int shadow_differ(Db *db, int64_t a_seq, int64_t b_seq, bool *ret_result, bool *ret_path)
{
    RowIn in = row_in(db, "SELECT " RESULT_OF("?1") " IS NOT " RESULT_OF("?2") ", " PATH_OF(
                              "?1") " <> " PATH_OF("?2"));
    in_i64(&in, a_seq);
    in_i64(&in, b_seq);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret_result = db_i64(in.stmt, 0) != 0;
    *ret_path = db_i64(in.stmt, 1) != 0;
    db_reset(in.stmt);
    return 0;
}

/* --- evidence --------------------------------------------------------------------------------- */

#define EVIDENCE_FORM 1
typedef struct {
    uint32_t form, bytes;
} EvidenceHead;

int shadow_evidence_put(Db *db, int64_t rollout_seq, const ShadowEvidence *evidence)
{
    EvidenceHead head = { EVIDENCE_FORM, sizeof(*evidence) };
    size_t size = sizeof(head) + sizeof(*evidence);
    CLEANUP(freep) char *bytes = xmalloc(size);
    memcpy(bytes, &head, sizeof(head));
    memcpy(bytes + sizeof(head), evidence, sizeof(*evidence));
    RowIn in = row_in(db, "INSERT INTO shadow_evidence (rollout_seq, bytes) VALUES (?1, ?2)"
                          " ON CONFLICT (rollout_seq) DO UPDATE SET bytes = excluded.bytes");
    in_i64(&in, rollout_seq);
    in_blob(&in, str_make(bytes, size));
    return row_run(in.stmt);
}

int shadow_evidence_get(Db *db, int64_t rollout_seq, ShadowEvidence *ret)
{
    EvidenceHead head = { EVIDENCE_FORM, sizeof(*ret) };
    RowIn in = row_in(db, "SELECT bytes FROM shadow_evidence WHERE rollout_seq = ?1");
    in_i64(&in, rollout_seq);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    Str bytes = db_str(in.stmt, 0);
    bool ours = bytes.len == sizeof(head) + sizeof(*ret) &&
                memcmp(bytes.ptr, &head, sizeof(head)) == 0;
    if (ours) memcpy(ret, bytes.ptr + sizeof(head), sizeof(*ret));
    db_reset(in.stmt);
    return ours ? 0 : -EPROTO;
}

/* --- for people ------------------------------------------------------------------------------- */

int shadow_counts(Db *db, int64_t rollout_seq, ShadowCounts *ret)
{
    RowIn in = row_in(db, "SELECT self, state, count(*) FROM shadow_pair WHERE rollout_seq = ?1"
                          " GROUP BY self, state");
    in_i64(&in, rollout_seq);
    *ret = (ShadowCounts){ 0 };
    int r;
    while ((r = db_step(in.stmt)) == DB_E_ROW) {
        int64_t self = db_i64(in.stmt, 0), state = db_i64(in.stmt, 1);
        assert(self >= 0 && self < 2 && state >= 0 && state < SHADOW_STATE_N_);
        ret->n[self][state] = db_i64(in.stmt, 2);
    }
    return r;
}

static void seen_read(RowOut *out, void *ret)
{
    ShadowSeen *seen = ret;
    seen->task_id = out_uuid(out);
    seen->shadow_id = out_uuid(out);
    seen->self = out_i64(out) != 0;
    seen->state = (ShadowState)out_i64(out);
    seen->differs = out_i64(out) != 0;
    seen->path_differs = out_i64(out) != 0;
    seen->production = rollout_outcome_read(out->stmt, out->column);
    seen->shadow = rollout_outcome_read(out->stmt, out->column + OUTCOME_FIGURES_N);
    out->column += 2 * OUTCOME_FIGURES_N;
}

#define SEEN_FROM                                                    \
    " FROM shadow_pair p JOIN task t ON t.seq = p.task_seq"          \
    " LEFT JOIN task s ON s.seq = p.shadow_seq AND p.shadow_seq > 0" \
    " WHERE p.rollout_seq = ?1 ORDER BY p.task_seq DESC"
int shadow_last(Db *db, int64_t rollout_seq, size_t max, Arena *arena, ShadowSeen **ret,
                size_t *ret_n)
{
    RowList list = { .arena = arena, .max = max, .size = sizeof(ShadowSeen) };
    RowIn in = row_in(db, "SELECT t.id, s.id, p.self, p.state, p.differs, p.path_differs,"
                          " " OUTCOME_FIGURES ", " OUTCOME_FIGURES_OF("s") SEEN_FROM);
    in_i64(&in, rollout_seq);
    int r = row_list_fill(&list, in.stmt, seen_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}
