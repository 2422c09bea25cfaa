#include "store/retention_store.h"

#include "logic/rollout.h"
#include "logic/task.h"
#include "store/call_store.h"
#include "store/row.h"

#define PAGE_MAX 128

static_assert(TASK_SUCCEEDED == 2 && TASK_ESCALATED == 6, "the statements name them");
static_assert(ROLLOUT_COMPLETED == 5, "likewise");

/* Number, whether it is old enough to have been looked for, whether it may go. ?1: after this
 * number, ?2: before this time. */
static const char *const page_sql[RETENTION_N_] = {
    [RETENTION_TASKS] =
        ("SELECT seq, created_at_ms < ?2,"
         " state BETWEEN 2 AND 5 AND finished_at_ms < ?2"
         " AND seq < (SELECT max(seq) FROM task)"
         " AND NOT EXISTS (SELECT 1 FROM rollup_due WHERE task_seq = task.seq)"
         " AND NOT EXISTS (SELECT 1 FROM grade WHERE task_seq = task.seq)"
         " AND NOT EXISTS (SELECT 1 FROM webhook WHERE task_seq = task.seq AND state = 0)"
         " AND NOT EXISTS (SELECT 1 FROM rollout WHERE seq = task.rollout_seq AND state < 5)"
         " AND NOT EXISTS (SELECT 1 FROM family"
         " WHERE parent_seq = task.seq AND parent_seq > 0 AND open = 1)"
         " AND (parent_id IS NULL"
         " OR NOT EXISTS (SELECT 1 FROM task AS parent WHERE parent.id = task.parent_id))"
         " FROM task WHERE seq > ?1 ORDER BY seq LIMIT ?3"),
    [RETENTION_CALLS] = ("SELECT id, at_ms < ?2, task_seq < 0 AND at_ms < ?2"
                         " FROM call WHERE id > ?1 ORDER BY id LIMIT ?3"),
    [RETENTION_WEBHOOKS] = ("SELECT id, created_at_ms < ?2,"
                            " state <> 0 AND created_at_ms < ?2 AND task_seq = 0"
                            " FROM webhook WHERE id > ?1 ORDER BY id LIMIT ?3"),
    [RETENTION_ROLLOUTS] = ("SELECT seq, created_at_ms < ?2, state >= 5 AND changed_at_ms < ?2"
                            " FROM rollout WHERE seq > ?1 ORDER BY seq LIMIT ?3"),
};

static const char calls_of_task[] = ""; /* not by a statement: see calls_delete */

/* What goes with a record, many rows first; the record itself last. ?1: its number, ?2: how many
 * rows at most, where there may be many. */
static const char *const delete_sql[RETENTION_N_][16] = {
    [RETENTION_TASKS] = {
        (CALLS_OF_TASK "DELETE FROM journal WHERE id IN (SELECT journal.id FROM calls"
                      " JOIN journal ON journal.id = calls.id UNION ALL SELECT id FROM journal"
                      " WHERE task_seq = ?1 AND id < 0 LIMIT ?2)"),
        calls_of_task,
        ("DELETE FROM tool_call WHERE (task_seq, id) IN"
        " (SELECT task_seq, id FROM tool_call WHERE task_seq = ?1 LIMIT ?2)"),
        ("DELETE FROM task_log WHERE (task_seq, attempt, seq) IN"
        " (SELECT task_seq, attempt, seq FROM task_log WHERE task_seq = ?1 LIMIT ?2)"),
        ("DELETE FROM attempt WHERE (task_seq, attempt) IN"
        " (SELECT task_seq, attempt FROM attempt WHERE task_seq = ?1 LIMIT ?2)"),
        ("DELETE FROM escalation WHERE id IN"
        " (SELECT id FROM escalation WHERE task_seq = ?1 LIMIT ?2)"),
        ("DELETE FROM task_score WHERE (task_seq, name) IN"
        " (SELECT task_seq, name FROM task_score WHERE task_seq = ?1 LIMIT ?2)"),
        "DELETE FROM webhook WHERE id IN (SELECT id FROM webhook WHERE task_seq = ?1 LIMIT ?2)",
        "DELETE FROM task_log_tail WHERE task_seq = ?1",
        "DELETE FROM journal_task WHERE task_seq = ?1",
        "DELETE FROM family WHERE task_seq = ?1",
        "DELETE FROM task_resolved WHERE task_seq = ?1",
        "DELETE FROM task_result WHERE seq = ?1",
        "DELETE FROM task_payload WHERE seq = ?1",
        "DELETE FROM task WHERE seq = ?1",
    },
    [RETENTION_CALLS] = { "DELETE FROM call WHERE id = ?1" },
    [RETENTION_WEBHOOKS] = { "DELETE FROM webhook WHERE id = ?1" },
    [RETENTION_ROLLOUTS] = {
        ("DELETE FROM rollout_tick WHERE (rollout_seq, n) IN"
        " (SELECT rollout_seq, n FROM rollout_tick WHERE rollout_seq = ?1 LIMIT ?2)"),
        ("DELETE FROM rollout_unit WHERE (rollout_seq, kind, unit) IN"
        " (SELECT rollout_seq, kind, unit FROM rollout_unit WHERE rollout_seq = ?1 LIMIT ?2)"),
        ("DELETE FROM rollout_consumed WHERE (rollout_seq, eligible_ms, task_seq, evidence_group) IN"
        " (SELECT rollout_seq, eligible_ms, task_seq, evidence_group FROM rollout_consumed"
        " WHERE rollout_seq = ?1 LIMIT ?2)"),
        ("DELETE FROM shadow_pair WHERE (rollout_seq, task_seq) IN"
        " (SELECT rollout_seq, task_seq FROM shadow_pair WHERE rollout_seq = ?1 LIMIT ?2)"),
        "DELETE FROM shadow_evidence WHERE rollout_seq = ?1",
        "DELETE FROM rollout_interval WHERE rollout_seq = ?1",
    },
};

typedef struct {
    int64_t number;
    bool old, may_go;
} Record;

static int page_read(Db *db, int64_t before_ms, const RetentionWalk *walk, Record *page,
                     size_t *ret_n)
{
    DbStmt *s = db_stmt(db, page_sql[walk->what]);
    db_bind_i64(s, 1, walk->at);
    db_bind_i64(s, 2, before_ms);
    db_bind_i64(s, 3, PAGE_MAX);
    int r;
    *ret_n = 0;
    while ((r = db_step(s)) == DB_E_ROW)
        page[(*ret_n)++] = (Record){ db_i64(s, 0), db_i64(s, 1) != 0, db_i64(s, 2) != 0 };
    return r;
}

static int rows_delete(Db *db, const char *sql, int64_t number, int64_t max, int64_t *ret_n)
{
    DbStmt *s = db_stmt(db, sql);
    db_bind_i64(s, 1, number);
    if (strstr(sql, "?2")) db_bind_i64(s, 2, max);
    return db_run(s, ret_n);
}

static int last_call(Db *db, int64_t seq, int64_t *ret)
{
    DbStmt *s = db_stmt(db, "SELECT last_call_id FROM task WHERE seq = ?1");
    db_bind_i64(s, 1, seq);
    int r = row_first(s);
    *ret = r == 0 ? db_i64(s, 0) : 0;
    db_reset(s);
    return r == -ENOENT ? 0 : r;
}

static int call_delete(Db *db, int64_t *id)
{
    DbStmt *s = db_stmt(db, "DELETE FROM call WHERE id = ?1 RETURNING before_id");
    db_bind_i64(s, 1, *id);
    int r = row_first(s);
    *id = r == 0 ? db_i64(s, 0) : 0;
    return r == 0 ? row_run(s) : r == -ENOENT ? 0 : r;
}

/* Calls of a task, whose recordings are gone: from the last one back, as they are found. */
static int calls_delete(Db *db, int64_t seq, int64_t max, int64_t *ret_n)
{
    int64_t id = 0;
    int r = last_call(db, seq, &id);
    for (*ret_n = 0; r == 0 && id != 0 && *ret_n < max; (*ret_n)++) r = call_delete(db, &id);
    return r == 0 && *ret_n > 0 ? call_note_last(db, seq, id) : r;
}

/* Deletes up to max rows; *left: there may be more. */
static int record_delete(Db *db, RetentionWhat what, int64_t number, int64_t max, int64_t *rows,
                         bool *ret_left)
{
    *ret_left = false;
    for (const char *const *sql = delete_sql[what]; *sql; sql++) {
        int64_t n = 0;
        int r = *sql == calls_of_task ? calls_delete(db, number, max - *rows, &n)
                                      : rows_delete(db, *sql, number, max - *rows, &n);
        if (r != 0) return r;
        *rows += n;
        *ret_left = *rows >= max && (sql[1] || strstr(*sql, "?2"));
        if (*ret_left) return 0;
    }
    return 0;
}

int retention_step(Db *db, int64_t before_ms, int64_t rows_max, RetentionWalk *walk)
{
    Record page[PAGE_MAX];
    size_t n, old = 0;
    bool left = false;
    int r = page_read(db, before_ms, walk, page, &n);
    walk->n = walk->all = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        old += page[i].old;
        if (page[i].may_go) {
            int64_t rows = 0;
            r = record_delete(db, walk->what, page[i].number, rows_max - walk->all, &rows, &left);
            walk->all += rows;
            walk->n += rows > 0 && !left;
        }
        if (left) return r;
        walk->at = page[i].number;
        if (walk->all >= rows_max) return r;
    }
    walk->over = n < PAGE_MAX || old == 0; /* a clock that was set shows here and there only */
    return r;
}
