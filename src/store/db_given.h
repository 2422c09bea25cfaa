/* The table given(?n): rows that a statement is given with db_bind_given. Only db_sqlite.c uses
 * this. */
#ifndef GANTRY_STORE_DB_GIVEN_H
#define GANTRY_STORE_DB_GIVEN_H

#include <sqlite3.h>

#include "store/db.h"

/* Makes the table known to a connection; and the parameter: given lives until the statement is
 * reset. Both return SQLite's code. */
int given_register(sqlite3 *handle);
int given_bind(sqlite3_stmt *stmt, int index, const DbGiven *given);

#endif
