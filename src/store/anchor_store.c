#include "store/anchor_store.h"

#include "store/row.h"

#define CHART_FORM 1

typedef struct {
    uint64_t form, size;
} ChartHead;

#define RUN_COLUMNS "id, agent, grader, judge_version, key, day_ms, state"

static void run_read(RowOut *out, void *ret)
{
    AnchorRun *run = ret;
    run->id = out_i64(out);
    run->agent = out_text(out);
    run->grader = out_text(out);
    run->judge_version = out_text(out);
    run->key = (uint64_t)out_i64(out);
    run->day_ms = out_i64(out);
    run->state = (AnchorState)out_i64(out);
}

int anchor_run_get(Db *db, Str agent, Str grader, int64_t day_ms, Arena *arena, AnchorRun *ret)
{
    RowIn in = row_in(db, "SELECT " RUN_COLUMNS " FROM anchor_run"
                          " WHERE agent = ?1 AND grader = ?2 AND day_ms = ?3");
    in_text(&in, agent);
    in_text(&in, grader);
    in_i64(&in, day_ms);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, arena);
    run_read(&out, ret);
    r = row_out_end(&out);
    if (r == 0) db_reset(in.stmt);
    return r;
}

int anchor_run_begin(Db *db, const AnchorRun *run, Arena *arena, AnchorRun *ret)
{
    RowIn in = row_in(db, "INSERT OR IGNORE INTO anchor_run (agent, grader, judge_version, key,"
                          " day_ms, state) VALUES (?1, ?2, ?3, ?4, ?5, 0)");
    in_text(&in, run->agent);
    in_text(&in, run->grader);
    in_text(&in, run->judge_version);
    in_i64(&in, (int64_t)run->key);
    in_i64(&in, run->day_ms);
    int r = row_run(in.stmt);
    return r == 0 ? anchor_run_get(db, run->agent, run->grader, run->day_ms, arena, ret) : r;
}

int anchor_run_set(Db *db, int64_t id, AnchorState state)
{
    RowIn in = row_in(db, "UPDATE anchor_run SET state = ?2 WHERE id = ?1");
    in_i64(&in, id);
    in_i64(&in, state);
    return row_run(in.stmt);
}

int anchor_runs_over(Db *db, Arena *arena, AnchorRun **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = ANCHOR_RUNS_MAX, .size = sizeof(AnchorRun) };
    DbStmt *s = db_stmt(db, "SELECT " RUN_COLUMNS " FROM anchor_run WHERE state = 1 AND NOT EXISTS"
                            " (SELECT 1 FROM judging j WHERE j.of = -id AND j.state = 0)"
                            " ORDER BY id");
    int r = row_list_fill(&list, s, run_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int anchor_purge(Db *db, int64_t now_ms)
{
    RowIn in = row_in(db, "DELETE FROM anchor_run WHERE day_ms < ?1 AND state = 2");
    in_i64(&in, now_ms - ANCHOR_RUNS_KEPT_MS);
    return row_run(in.stmt);
}

int anchor_chart_get(Db *db, Str agent, Str grader, AnchorChart *ret)
{
    RowIn in = row_in(db, "SELECT bytes FROM anchor_chart WHERE agent = ?1 AND grader = ?2");
    in_text(&in, agent);
    in_text(&in, grader);
    *ret = (AnchorChart){ 0 };
    int r = row_first(in.stmt);
    if (r != 0) return r == -ENOENT ? 0 : r;
    ChartHead head = { CHART_FORM, sizeof(*ret) };
    Str bytes = db_str(in.stmt, 0);
    if (bytes.len == sizeof(head) + sizeof(*ret) && memcmp(bytes.ptr, &head, sizeof(head)) == 0)
        memcpy(ret, bytes.ptr + sizeof(head), sizeof(*ret));
    db_reset(in.stmt);
    return 0;
}

int anchor_chart_put(Db *db, Str agent, Str grader, const AnchorChart *chart)
{
    struct {
        ChartHead head;
        AnchorChart chart;
    } bytes = { { CHART_FORM, sizeof(*chart) }, *chart };
    RowIn in = row_in(db, "INSERT INTO anchor_chart (agent, grader, bytes) VALUES (?1, ?2, ?3)"
                          " ON CONFLICT DO UPDATE SET bytes = excluded.bytes");
    in_text(&in, agent);
    in_text(&in, grader);
    in_blob(&in, str_make((const char *)&bytes, sizeof(bytes)));
    return row_run(in.stmt);
}

int anchor_chart_any(Db *db, Str agent, bool *ret)
{
    RowIn in = row_in(db, "SELECT EXISTS (SELECT 1 FROM anchor_chart WHERE agent = ?1)");
    in_text(&in, agent);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret = db_i64(in.stmt, 0) != 0;
    db_reset(in.stmt);
    return 0;
}

int anchor_chart_forget(Db *db, Str agent, Str grader)
{
    RowIn in = row_in(db, "DELETE FROM anchor_chart WHERE agent = ?1 AND grader = ?2");
    in_text(&in, agent);
    in_text(&in, grader);
    return row_run(in.stmt);
}
