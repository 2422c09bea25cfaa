#include "store/family_store.h"

#include "base/diag.h"
#include "base/money.h"
#include "store/row.h"
#include "store/task_sql.h"

static void in_amount(RowIn *in, const FamilyAmount *a)
{
    in_i64(in, a->tokens);
    in_i64(in, a->nusd);
    in_i64(in, a->tool_calls);
}

static FamilyAmount out_amount(RowOut *out)
{
    FamilyAmount a;
    a.tokens = out_i64(out);
    a.nusd = out_i64(out);
    a.tool_calls = out_i64(out);
    return a;
}

int family_get(Db *db, int64_t task_seq, Family *ret)
{
    DbStmt *s = db_stmt(db, "SELECT task_seq, parent_seq, root_seq, depth, open, allotted_tokens,"
                            " allotted_nusd, allotted_tool_calls, kids_tokens, kids_nusd,"
                            " kids_tool_calls, children, members FROM family WHERE task_seq = ?1");
    db_bind_i64(s, 1, task_seq);
    int r = row_first(s);
    if (r != 0) return r;
    RowOut out = row_out(s, NULL);
    ret->task_seq = out_i64(&out);
    ret->parent_seq = out_i64(&out);
    ret->root_seq = out_i64(&out);
    ret->depth = out_i64(&out);
    ret->open = out_i64(&out) != 0;
    ret->allotted = out_amount(&out);
    ret->kids = out_amount(&out);
    ret->children = out_i64(&out);
    ret->members = out_i64(&out);
    db_reset(s);
    return 0;
}

/* --- growing ---------------------------------------------------------------------------------- */

int family_begin(Db *db, int64_t task_seq)
{
    DbStmt *s = db_stmt(db, "INSERT INTO family (task_seq, parent_seq, root_seq, depth, members)"
                            " VALUES (?1, 0, ?1, 0, 1)");
    db_bind_i64(s, 1, task_seq);
    return row_run(s);
}

static int child_insert(Db *db, const Family *parent, const FamilyChild *child)
{
    RowIn in = row_in(db,
                      "INSERT INTO family (task_seq, parent_seq, root_seq, depth, key, fingerprint,"
                      " allotted_tokens, allotted_nusd, allotted_tool_calls)"
                      " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)");
    in_i64(&in, child->task_seq);
    in_i64(&in, parent->task_seq);
    in_i64(&in, parent->root_seq);
    in_i64(&in, parent->depth + 1);
    in_text(&in, child->key);
    in_blob(&in, child->fingerprint);
    in_amount(&in, &child->allotted);
    return row_run(in.stmt);
}

static int kids_add(Db *db, int64_t task_seq, const FamilyAmount *more)
{
    RowIn in = row_in(db, "UPDATE family SET kids_tokens = kids_tokens + ?2,"
                          " kids_nusd = kids_nusd + ?3, kids_tool_calls = kids_tool_calls + ?4"
                          " WHERE task_seq = ?1");
    in_i64(&in, task_seq);
    in_amount(&in, more);
    return row_change(in.stmt);
}

static int count_up(Db *db, const char *sql, int64_t seq)
{
    DbStmt *s = db_stmt(db, sql);
    db_bind_i64(s, 1, seq);
    return row_change(s);
}

static int task_place(Db *db, const FamilyChild *child)
{
    DbStmt *s = db_stmt(db, "UPDATE task SET ready_at_ms = ?2, deadline_at_ms = ?3 WHERE seq = ?1");
    db_bind_i64(s, 1, child->task_seq);
    db_bind_i64(s, 2, child->ready_at_ms);
    db_bind_i64(s, 3, child->deadline_at_ms);
    return row_change(s);
}

int family_add(Db *db, const Family *parent, const FamilyChild *child)
{
    int r = child_insert(db, parent, child);
    if (r == 0) r = task_place(db, child);
    if (r == 0) r = kids_add(db, parent->task_seq, &child->allotted);
    if (r == 0)
        r = count_up(db, "UPDATE family SET children = children + 1 WHERE task_seq = ?1",
                     parent->task_seq);
    if (r == 0)
        r = count_up(db, "UPDATE task SET children = children + 1 WHERE seq = ?1",
                     parent->task_seq);
    if (r == 0)
        r = count_up(db, "UPDATE family SET members = members + 1 WHERE task_seq = ?1",
                     parent->root_seq);
    return r == -ENOENT ? diag_set(-EIO, "a task of a family is gone") : r;
}

int family_find(Db *db, int64_t parent_seq, Str key, Str fingerprint, int64_t *ret_seq,
                bool *ret_same)
{
    RowIn in = row_in(db, "SELECT task_seq, fingerprint = ?3 FROM family"
                          " WHERE parent_seq = ?1 AND key = ?2");
    in_i64(&in, parent_seq);
    in_text(&in, key);
    in_blob(&in, fingerprint);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret_seq = db_i64(in.stmt, 0);
    *ret_same = db_i64(in.stmt, 1) != 0;
    db_reset(in.stmt);
    return 0;
}

/* Who is not found any more and has ended counts no more, with all below. */
static int recount(Db *db, int64_t root_seq)
{
    DbStmt *s = db_stmt(db, "WITH RECURSIVE live (seq) AS (SELECT ?1"
                            " UNION ALL SELECT f.task_seq FROM live CROSS JOIN family f"
                            " WHERE f.parent_seq > 0 AND f.parent_seq = live.seq"
                            " AND (f.key IS NOT NULL OR f.open = 1))"
                            " UPDATE family SET members = (SELECT count(*) FROM live),"
                            " children = (SELECT count(*) FROM family f WHERE f.parent_seq > 0"
                            " AND f.parent_seq = ?1 AND (f.key IS NOT NULL OR f.open = 1))"
                            " WHERE task_seq = ?1");
    db_bind_i64(s, 1, root_seq);
    return row_run(s);
}

int family_forget(Db *db, int64_t root_seq, bool all)
{
    DbStmt *s = db_stmt(db, "UPDATE family SET key = NULL WHERE parent_seq = ?1 AND (?2 OR"
                            " (SELECT state IN (3, 4, 5) OR (state <> 2 AND cancel_requested)"
                            " FROM task WHERE seq = task_seq))");
    db_bind_i64(s, 1, root_seq);
    db_bind_i64(s, 2, all);
    int r = row_run(s);
    return r == 0 ? recount(db, root_seq) : r;
}

/* --- what is borne ---------------------------------------------------------------------------- */

int family_own(Db *db, int64_t task_seq, FamilyAmount *ret)
{
    DbStmt *s = db_stmt(db,
                        "SELECT charged_tokens, cost_nusd, tool_calls FROM task WHERE seq = ?1");
    db_bind_i64(s, 1, task_seq);
    int r = row_first(s);
    if (r != 0) return r;
    RowOut out = row_out(s, NULL);
    *ret = out_amount(&out);
    db_reset(s);
    return 0;
}

/* What a task's children cost has changed. Who has ended costs its own parent that much more. */
static int kids_change(Db *db, int64_t task_seq, const FamilyAmount *more)
{
    while (task_seq != 0) {
        Family family;
        int r = kids_add(db, task_seq, more);
        if (r == 0) r = family_get(db, task_seq, &family);
        if (r != 0) return r == -ENOENT ? diag_set(-EIO, "a task of a family is gone") : r;
        task_seq = family.open ? 0 : family.parent_seq;
    }
    return 0;
}

/* The ends of a task's children are numbered. */
static int close_row(Db *db, int64_t task_seq, int64_t parent_seq)
{
    int r = count_up(db, "UPDATE family SET ends = ends + 1 WHERE task_seq = ?1", parent_seq);
    if (r == -ENOENT) return diag_set(-EIO, "a task of a family is gone");
    if (r != 0) return r;
    return count_up(db,
                    "UPDATE family SET open = 0, end_n = (SELECT ends FROM family AS parent"
                    " WHERE parent.task_seq = family.parent_seq) WHERE task_seq = ?1",
                    task_seq);
}

int family_close(Db *db, int64_t task_seq)
{
    FamilyMember member = { .open = true };
    Family family;
    int r = family_get(db, task_seq, &family);
    if (r != 0) return r == -ENOENT ? 0 : r;
    if (!family.open || family.parent_seq == 0) return 0;
    r = family_own(db, task_seq, &member.own);
    if (r == 0) r = close_row(db, task_seq, family.parent_seq);
    if (r != 0) return r;
    member.allotted = family.allotted;
    member.kids = family.kids;
    FamilyAmount before = family_charge(&member);
    member.open = false;
    FamilyAmount after = family_charge(&member), more = family_difference(&after, &before);
    return kids_change(db, family.parent_seq, &more);
}

int family_spent_late(Db *db, int64_t task_seq, const FamilyAmount *more)
{
    Family family;
    int r = family_get(db, task_seq, &family);
    if (r != 0) return r == -ENOENT ? 0 : r;
    return family.open ? 0 : kids_change(db, family.parent_seq, more);
}

/* --- looking down ----------------------------------------------------------------------------- */

#define FAMILY_BELOW                                                        \
    "WITH RECURSIVE below (seq) AS ("                                       \
    " SELECT task_seq FROM family WHERE parent_seq > 0 AND parent_seq = ?1" \
    " UNION ALL SELECT f.task_seq FROM below CROSS JOIN family f"           \
    " WHERE f.parent_seq > 0 AND f.parent_seq = below.seq) "

int family_open_count(Db *db, int64_t task_seq, size_t *ret)
{
    DbStmt *s = db_stmt(db, FAMILY_BELOW "SELECT count(*) FROM task"
                                         " WHERE seq IN (SELECT seq FROM below)"
                                         " AND state NOT BETWEEN 2 AND 5");
    db_bind_i64(s, 1, task_seq);
    int r = row_first(s);
    if (r != 0) return r;
    *ret = (size_t)db_i64(s, 0);
    db_reset(s);
    return 0;
}

int family_open_below(Db *db, int64_t task_seq, TaskHead *heads, size_t *n)
{
    DbStmt *s = db_stmt(db, FAMILY_BELOW "SELECT " TASK_HEAD_COLUMNS
                                         " FROM task WHERE seq IN (SELECT seq FROM below)"
                                         " AND state NOT BETWEEN 2 AND 5 LIMIT ?2");
    db_bind_i64(s, 1, task_seq);
    db_bind_i64(s, 2, (int64_t)*n);
    return task_heads_read(s, heads, n);
}

static void row_read(RowOut *out, void *ret)
{
    FamilyRow *row = ret;
    row->id = out_uuid(out);
    row->state = (TaskState)out_i64(out);
    row->agent = out_text(out);
    row->version_id = out_text(out);
    row->error_code = out_text(out);
    row->stopped_by = out_text(out);
    row->created_at_ms = out_i64(out);
    row->finished_at_ms = out_i64(out);
    row->allotted = out_amount(out);
    row->charged = out_amount(out);
    row->children = out_i64(out);
    row->seq = out_i64(out);
    row->end_n = out_i64(out);
}

#define FAMILY_ROWS                                                   \
    "SELECT id, state, agent, version_id, error_code, stopped_by,"    \
    " created_at_ms, finished_at_ms, allotted_tokens, allotted_nusd," \
    " allotted_tool_calls, charged_tokens + kids_tokens,"             \
    " cost_nusd + kids_nusd, tool_calls + kids_tool_calls,"           \
    " task.children, task_seq, end_n"                                 \
    " FROM family CROSS JOIN task ON task.seq = family.task_seq"      \
    " WHERE parent_seq > 0 AND parent_seq = ?1"

static int rows_list(DbStmt *s, int64_t task_seq, int64_t after, size_t max, Arena *arena,
                     FamilyRow **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = max, .size = sizeof(FamilyRow) };
    db_bind_i64(s, 1, task_seq);
    db_bind_i64(s, 2, after);
    int r = row_list_fill(&list, s, row_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int family_list_after(Db *db, int64_t task_seq, int64_t after_seq, size_t max, Arena *arena,
                      FamilyRow **ret, size_t *ret_n)
{
    DbStmt *s = db_stmt(db, FAMILY_ROWS " AND task_seq > ?2 ORDER BY task_seq");
    return rows_list(s, task_seq, after_seq, max, arena, ret, ret_n);
}

int family_ends_after(Db *db, int64_t task_seq, int64_t after_n, size_t max, Arena *arena,
                      FamilyRow **ret, size_t *ret_n)
{
    DbStmt *s = db_stmt(db, FAMILY_ROWS " AND open = 0 AND end_n > ?2 ORDER BY end_n");
    return rows_list(s, task_seq, after_n, max, arena, ret, ret_n);
}

int family_list(Db *db, int64_t task_seq, Arena *arena, FamilyRow **ret, size_t *ret_n)
{
    return family_list_after(db, task_seq, 0, FAMILY_LIST_MAX, arena, ret, ret_n);
}

int family_totals(Db *db, int64_t task_seq, FamilyTotals *ret)
{
    DbStmt *s = db_stmt(db, FAMILY_BELOW
                        "SELECT count(*), sum(state NOT BETWEEN 2 AND 5), sum(input_tokens),"
                        " sum(output_tokens), sum(cached_tokens), sum(llm_calls), sum(tool_calls),"
                        " sum(replayed_calls), sum(cost_nusd), sum(charged_tokens),"
                        " sum(cached_calls), sum(degraded_calls)"
                        " FROM task WHERE seq IN (SELECT seq FROM below)");
    db_bind_i64(s, 1, task_seq);
    int r = row_first(s);
    if (r != 0) return r;
    RowOut out = row_out(s, NULL);
    *ret = (FamilyTotals){ .tasks = out_i64(&out) };
    ret->open = out_i64(&out);
    ret->usage.input_tokens = out_i64(&out);
    ret->usage.output_tokens = out_i64(&out);
    ret->usage.cached_tokens = out_i64(&out);
    ret->usage.llm_calls = out_i64(&out);
    ret->usage.tool_calls = out_i64(&out);
    ret->usage.replayed_calls = out_i64(&out);
    ret->usage.cost_nusd = out_i64(&out);
    ret->usage.charged_tokens = out_i64(&out);
    ret->usage.cached_calls = out_i64(&out);
    ret->usage.degraded_calls = out_i64(&out);
    db_reset(s);
    return 0;
}

/* --- limits of versions ----------------------------------------------------------------------- */

int family_limited(Db *db, int64_t task_seq, FamilyAmount *amount)
{
    DbStmt *s = db_stmt(db, "SELECT json_type(limits, '$.tokensPerTask') IS NULL,"
                            " json_type(limits, '$.usdPerTask') IS NULL,"
                            " json_type(limits, '$.toolCallsPerTask') IS NULL"
                            " FROM task_payload WHERE seq = ?1");
    db_bind_i64(s, 1, task_seq);
    int r = row_first(s);
    if (r != 0) return r;
    if (db_i64(s, 0)) amount->tokens = CAP_NONE;
    if (db_i64(s, 1)) amount->nusd = CAP_NONE;
    if (db_i64(s, 2)) amount->tool_calls = CAP_NONE;
    db_reset(s);
    return 0;
}

int family_version_writes(Db *db, Str version_id, bool *ret)
{
    RowIn in = row_in(db, "SELECT EXISTS (SELECT 1 FROM json_each(components,"
                          " '$.tools.definitions') WHERE json_extract(value, '$.effect') = 'write'"
                          " AND json_type(value, '$.source') IS NULL) FROM version WHERE id = ?1");
    in_text(&in, version_id);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret = db_i64(in.stmt, 0) != 0;
    db_reset(in.stmt);
    return 0;
}

int family_version_limits(Db *db, Str version_id, FamilyAmount *ret)
{
    RowIn in = row_in(db, "SELECT coalesce(json_extract(components, '$.limits.tokensPerTask'), -1),"
                          " coalesce(json_extract(components, '$.limits.toolCallsPerTask'), -1),"
                          " CAST(json_extract(components, '$.limits.usdPerTask') AS TEXT)"
                          " FROM version WHERE id = ?1");
    in_text(&in, version_id);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    FamilyAmount limits = FAMILY_UNLIMITED;
    int64_t tokens = db_i64(in.stmt, 0), tools = db_i64(in.stmt, 1), nusd = CAP_NONE;
    if (tokens >= 0) limits.tokens = tokens;
    if (tools >= 0) limits.tool_calls = tools;
    if (!db_is_null(in.stmt, 2) && money_from_text(db_str(in.stmt, 2), NUSD_PER_USD, &nusd) == 0)
        limits.nusd = nusd;
    *ret = limits;
    db_reset(in.stmt);
    return 0;
}
