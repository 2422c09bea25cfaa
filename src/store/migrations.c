#include "store/migrations.h"

#include "base/diag.h"
#include "base/log.h"
#include "codec/digest.h"
#include "store/db_engine.h"
#include "store/schema.h"
#include "sys/clock.h"

#define MIGRATION_TABLE                                                        \
    "CREATE TABLE IF NOT EXISTS migration ("                                   \
    " number INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL," \
    " applied_at_ms INTEGER NOT NULL) STRICT"

/* The number of the last step applied, 0 for none. */
static int applied_last(Db *db, int64_t *ret)
{
    DbStmt *s = db_stmt(db, "SELECT coalesce(max(number), 0) FROM migration");
    int r = db_step(s);
    assert(r != 0);
    if (r < 0) return r;
    *ret = db_i64(s, 0);
    db_reset(s);
    return 0;
}

/* Whether the step is the one that was applied under its number. */
static int applied_check(Db *db, const Migration *step)
{
    char checksum[SHA256_HEX_MAX];
    sha256_hex(str_of(step->sql), checksum);
    DbStmt *s = db_stmt(db, "SELECT checksum FROM migration WHERE number = ?1");
    db_bind_i64(s, 1, step->number);
    int r = db_step(s);
    if (r < 0) return r;
    bool same = r == DB_E_ROW && str_eq(db_str(s, 0), str_of(checksum));
    db_reset(s);
    if (same) return 0;
    return diag_set(-EPROTO,
                    "the database was made by another build: migration %" PRId64
                    " (%s) is not the one it has. Use the program that made it, or another data "
                    "directory",
                    step->number, step->name);
}

static int step_record(Db *db, const Migration *step)
{
    char checksum[SHA256_HEX_MAX];
    DbStmt *s = db_stmt(db, "INSERT INTO migration (number, name, checksum, applied_at_ms)"
                            " VALUES (?1, ?2, ?3, ?4)");
    db_bind_i64(s, 1, step->number);
    db_bind_text(s, 2, str_of(step->name));
    db_bind_text(s, 3, str_of(sha256_hex(str_of(step->sql), checksum)));
    db_bind_i64(s, 4, clock_real_ms());
    int r = db_run(s, NULL);
    assert(r != DB_E_CONFLICT);
    return r;
}

static int step_apply(Db *db, const Migration *step)
{
    int r = db_begin(db);
    if (r != 0) return r;
    r = db_script(db, step->sql);
    if (r == 0) r = step_record(db, step);
    if (r == 0) r = db_commit(db);
    else db_rollback(db);
    if (r != 0) return diag_prefix(r, "migration %" PRId64 " (%s)", step->number, step->name);
    LOG_DEBUG("database migrated", LOG_INT("number", step->number), LOG_CSTR("name", step->name));
    return 0;
}

int migrations_run_steps(Db *db, const Migration *steps, size_t n)
{
    int64_t last = 0;
    int r = db_script(db, MIGRATION_TABLE);
    if (r == 0) r = applied_last(db, &last);
    if (r != 0) return r;
    if (last > (int64_t)n)
        return diag_set(-EPROTO,
                        "the database was written by a newer gantry (schema %" PRId64
                        ", this one knows %zu): upgrade this program",
                        last, n);
    for (size_t i = 0; i < n; i++) {
        assert(steps[i].number == (int64_t)i + 1);
        r = steps[i].number <= last ? applied_check(db, &steps[i]) : step_apply(db, &steps[i]);
        if (r != 0) return r;
    }
    if (last < (int64_t)n)
        LOG_INFO(last ? "database upgraded" : "database made", LOG_INT("from", last),
                 LOG_INT("to", (int64_t)n));
    return 0;
}

int migrations_run(Db *db)
{
    return migrations_run_steps(db, schema_steps, schema_steps_n);
}
