/* Calls of tools that Gantry made for agents. Functions run inside a store job. */
#ifndef GANTRY_STORE_TOOL_STORE_H
#define GANTRY_STORE_TOOL_STORE_H

#include "store/db.h"

#define TOOL_RECORD_LIST_MAX 1000

typedef struct {
    Str id; /* UUIDv7, made by the worker: sorts by time */
    int64_t attempt;
    Str name;
    Str source;  /* "command", "http", "mcp", "agent" */
    Str outcome; /* "ok", "error", ... */
    int64_t at_ms;
    int64_t duration_ms;
    int64_t bytes; /* of the result */
    bool replayed; /* an earlier attempt's result was given; nothing was run */
    bool counted;  /* by itself; a call that a model's answer asked for counts with the answer */
    Str mode;      /* in a shadow: "live", "production", "dry_run", "stub"; else empty */
    int64_t n;     /* given by the store: 1 for the first that the task recorded, and so on */
} ToolRecord;

/* Adds a call. Returns 0, DB_E_CONFLICT (it is there already: nothing was changed), -errno. */
MUST_CHECK int tool_record_insert(Db *db, int64_t task_seq, const ToolRecord *record);

/* Whether the task has a stubbed call of a sub-agent of that name. */
MUST_CHECK int tool_record_stubbed(Db *db, int64_t task_seq, Str agent, bool *ret);

/* Of a task, in order of time, at most TOOL_RECORD_LIST_MAX; texts live in arena. Returns 0,
 * -ENOMEM, -errno. */
MUST_CHECK int tool_record_list(Db *db, int64_t task_seq, Arena *arena, ToolRecord **ret,
                                size_t *ret_n);

/* Likewise those whose n is greater than after_n, as they were recorded, at most max. */
MUST_CHECK int tool_record_list_after(Db *db, int64_t task_seq, int64_t after_n, size_t max,
                                      Arena *arena, ToolRecord **ret, size_t *ret_n);

#endif
