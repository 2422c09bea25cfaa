/* Schema migrations: numbered steps, each applied once, in order, in a transaction. Only store/
 * uses it. A step that has been released never changes: its checksum is kept beside its number.
 */
#ifndef GANTRY_STORE_MIGRATIONS_H
#define GANTRY_STORE_MIGRATIONS_H

#include "store/db.h"

typedef struct {
    int64_t number; /* 1, 2, 3, ... */
    const char *name;
    const char *sql;
} Migration;

/* Brings the database up to what this program knows. Between transactions. Returns 0, -EPROTO (it
 * was written by a newer program, or a step differs from what was applied), -errno; diag says what
 * to do. */
MUST_CHECK int migrations_run(Db *db);

/* The same with the steps given: for tests. */
MUST_CHECK int migrations_run_steps(Db *db, const Migration *steps, size_t n);

#endif
