#include "store/schedule_store.h"

#include "store/row.h"

static const char *const missed_names[MISSED_N_] = { "skip", "once", "all" };
static const char *const overlap_names[OVERLAP_N_] = { "allow", "skip", "replace" };

static int name_find(const char *const *names, int n, Str name, int *ret)
{
    for (*ret = 0; *ret < n; ++*ret)
        if (str_eq(name, str_of(names[*ret]))) return 0;
    return -EINVAL;
}

const char *missed_policy_name(MissedPolicy policy)
{
    assert(policy < MISSED_N_);
    return missed_names[policy];
}

int missed_policy_from(Str name, MissedPolicy *ret)
{
    int i, r = name_find(missed_names, MISSED_N_, name, &i);
    if (r == 0) *ret = (MissedPolicy)i;
    return r;
}

const char *overlap_policy_name(OverlapPolicy policy)
{
    assert(policy < OVERLAP_N_);
    return overlap_names[policy];
}

int overlap_policy_from(Str name, OverlapPolicy *ret)
{
    int i, r = name_find(overlap_names, OVERLAP_N_, name, &i);
    if (r == 0) *ret = (OverlapPolicy)i;
    return r;
}

static int others(Db *db, Str name, int64_t *ret)
{
    RowIn in = row_in(db, "SELECT count(*) FROM schedule WHERE name <> ?1");
    in_text(&in, name);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret = db_i64(in.stmt, 0);
    db_reset(in.stmt);
    return 0;
}

int schedule_put(Db *db, const Schedule *s)
{
    int64_t n = 0;
    int r = others(db, s->name, &n);
    if (r != 0) return r;
    if (n >= SCHEDULES_MAX) return SCHEDULE_E_FULL;
    RowIn in = row_in(db, "INSERT INTO schedule (name, agent, cron, input, lane, missed, paused,"
                          " next_at_ms, updated_at_ms, overlap, task_ms, time_zone)"
                          " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
                          " ON CONFLICT (name) DO UPDATE SET agent = excluded.agent,"
                          " cron = excluded.cron, input = excluded.input, lane = excluded.lane,"
                          " missed = excluded.missed, paused = excluded.paused,"
                          " next_at_ms = excluded.next_at_ms,"
                          " updated_at_ms = excluded.updated_at_ms,"
                          " overlap = excluded.overlap, task_ms = excluded.task_ms,"
                          " time_zone = excluded.time_zone");
    in_text(&in, s->name);
    in_text(&in, s->agent);
    in_text(&in, s->cron);
    in_text(&in, s->input);
    in_i64(&in, (int64_t)s->lane);
    in_i64(&in, (int64_t)s->missed);
    in_i64(&in, s->paused);
    in_i64(&in, s->next_at_ms);
    in_i64(&in, s->updated_at_ms);
    in_i64(&in, (int64_t)s->overlap);
    in_i64(&in, s->task_ms);
    in_text_or_null(&in, s->time_zone);
    return row_run(in.stmt);
}

#define SCHEDULE_COLUMNS_WITH(input)                                                 \
    "name, agent, cron, " input ", lane, missed, paused, next_at_ms, updated_at_ms," \
    " last_at_ms, last_task_id, last_error, overlap, task_ms, skipped, time_zone"
#define SCHEDULE_COLUMNS SCHEDULE_COLUMNS_WITH("input")

static void schedule_read(RowOut *out, void *ret)
{
    Schedule *s = ret;
    s->name = out_text(out);
    s->agent = out_text(out);
    s->cron = out_text(out);
    s->input = out_text(out);
    s->lane = (Lane)out_i64(out);
    s->missed = (MissedPolicy)out_i64(out);
    s->paused = out_i64(out) != 0;
    s->next_at_ms = out_i64(out);
    s->updated_at_ms = out_i64(out);
    s->last_at_ms = out_i64(out);
    s->last_task_id = out_uuid(out);
    s->last_error = out_text(out);
    s->overlap = (OverlapPolicy)out_i64(out);
    s->task_ms = out_i64(out);
    s->skipped = out_i64(out);
    s->time_zone = out_text(out);
}

static int schedule_first(DbStmt *stmt, Arena *arena, Schedule *ret)
{
    int r = row_first(stmt);
    if (r != 0) return r;
    RowOut out = row_out(stmt, arena);
    schedule_read(&out, ret);
    r = row_out_end(&out);
    db_reset(stmt);
    return r;
}

int schedule_get(Db *db, Str name, Arena *arena, Schedule *ret)
{
    RowIn in = row_in(db, "SELECT " SCHEDULE_COLUMNS " FROM schedule WHERE name = ?1");
    in_text(&in, name);
    return schedule_first(in.stmt, arena, ret);
}

int schedule_due(Db *db, int64_t now_ms, const ScheduleBehind *behind, Arena *arena, Schedule *ret)
{
    RowIn in = row_in(db, "SELECT " SCHEDULE_COLUMNS " FROM schedule WHERE next_at_ms > 0"
                          " AND next_at_ms <= ?1 AND (next_at_ms, name) > (?2, ?3)"
                          " ORDER BY next_at_ms, name LIMIT 1");
    in_i64(&in, now_ms);
    in_i64(&in, behind->next_at_ms);
    in_text(&in, behind->name);
    return schedule_first(in.stmt, arena, ret);
}

int schedule_list(Db *db, Arena *arena, Schedule **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = SCHEDULES_MAX, .size = sizeof(Schedule) };
    DbStmt *s = db_stmt(db, "SELECT " SCHEDULE_COLUMNS_WITH("NULL") " FROM schedule ORDER BY name");
    int r = row_list_fill(&list, s, schedule_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int schedule_delete(Db *db, Str name)
{
    RowIn in = row_in(db, "DELETE FROM schedule WHERE name = ?1");
    in_text(&in, name);
    return row_change(in.stmt);
}

#define STILL " WHERE name = ?1 AND next_at_ms = ?2 AND updated_at_ms = ?3"

int schedule_still(Db *db, const Schedule *s)
{
    RowIn in = row_in(db, "SELECT 1 FROM schedule" STILL);
    in_text(&in, s->name);
    in_i64(&in, s->next_at_ms);
    in_i64(&in, s->updated_at_ms);
    int r = row_first(in.stmt);
    if (r == 0) db_reset(in.stmt);
    return r;
}

int schedule_move(Db *db, const Schedule *s, const ScheduleFired *fired)
{
    RowIn in = row_in(db, "UPDATE schedule SET next_at_ms = ?4,"
                          " last_at_ms = CASE WHEN ?5 THEN ?6 ELSE last_at_ms END,"
                          " last_task_id = CASE WHEN ?5 THEN ?7 ELSE last_task_id END,"
                          " last_error = CASE WHEN ?5 THEN ?8 ELSE last_error END,"
                          " skipped = skipped + ?9" STILL);
    in_text(&in, s->name);
    in_i64(&in, s->next_at_ms);
    in_i64(&in, s->updated_at_ms);
    in_i64(&in, fired->next_at_ms);
    in_i64(&in, fired->fired);
    in_i64(&in, fired->at_ms);
    in_uuid(&in, &fired->task_id);
    in_text_or_null(&in, fired->error);
    in_i64(&in, fired->skipped);
    int r = row_change(in.stmt);
    return r == -ENOENT ? 0 : r;
}
