/* Where waiting tasks stand: their gates, the order of sessions, lines, and what runs of an agent
 * or a tenant. Functions run inside a store job and return 0 or -errno with diag, unless they say
 * more.
 *
 * A queued task has one of the gates of logic/line.h; any other has gate 0. Only open ones are
 * claimed, and shadows where nothing is open; the index of lines holds no others, so a claim looks
 * at tasks that can start and at nothing else.
 */
#ifndef GANTRY_STORE_LINE_STORE_H
#define GANTRY_STORE_LINE_STORE_H

#include "logic/line.h"
#include "store/task_store.h"

/* --- gates ------------------------------------------------------------------------------------ */

/* The gate of a task that is queued now: row->created_at_ms is the time. */
MUST_CHECK int gate_new(Db *db, const TaskRow *row, Gate *ret);

/* The same for a task at rest that is to be queued again at once. */
MUST_CHECK int gate_again(Db *db, int64_t seq, Gate *ret);

/* The gate of a queued task: 0, -ENOENT (it is not queued), -errno. */
MUST_CHECK int gate_get(Db *db, int64_t seq, Gate *ret);

/* Opens gates of the lane's tasks whose time has come, at most max; *ret_n of them, by which
 * lines may have grown. */
MUST_CHECK int gates_open(Db *db, Lane lane, int64_t now_ms, int64_t max, int64_t *ret_n);

/* The earliest time at which gates_open has something to do; INT64_MAX: never. */
MUST_CHECK int gate_next(Db *db, Lane lane, int64_t *ret_at_ms);

/* Lets the next of a session go when a task of it has ended (or was canceled in its place).
 * ret_opened counts them by lane, on top of what is there. */
MUST_CHECK int session_advance(Db *db, const TaskHead *ended, int64_t now_ms,
                               unsigned ret_opened[LANE_N_]);

/* Tasks of the session of a queued task that are before it; at most max are counted. */
MUST_CHECK int session_ahead(Db *db, int64_t seq, int64_t max, int64_t *ret);

/* --- lines ------------------------------------------------------------------------------------ */

/* The first task of a line. Texts live in the arena of the read. */
typedef struct {
    Str tenant, agent;
    int64_t ready_at_ms, seq;
} LineHead;

/* The first line of the lane whose tenant is above (or, at_least, not below) tenant, in the order
 * of bytes; the next one of the same tenant. Return 0, -ENOENT (there is none), -ENOMEM, -errno. */
MUST_CHECK int line_of_next_tenant(Db *db, Lane lane, Str tenant, bool at_least, Arena *arena,
                                   LineHead *ret);
MUST_CHECK int line_of_next_agent(Db *db, Lane lane, const LineHead *after, Arena *arena,
                                  LineHead *ret);

/* The tasks of a line that come after a spot, or those of them that were started by others: at most
 * *n, which becomes their number. */
typedef struct {
    int64_t ready_at_ms, seq;
} LineSpot;
#define LINE_BEGIN ((LineSpot){ INT64_MIN, 0 }) /* before all tasks */
MUST_CHECK int line_after(Db *db, Lane lane, const LineHead *line, bool children, LineSpot after,
                          LineSpot *ret, size_t *n);

/* Since when the task that has waited longest in the lane's lines does so (ready_at_ms, or
 * created_at_ms if that is later: children are placed before who came after their parents), or when
 * the first of its tasks whose time has not come is due, if that is earlier; INT64_MAX for none.
 * Looks at no more than LINES_LOOK_MAX lines. */
#define LINES_LOOK_MAX 4096
MUST_CHECK int lines_oldest(Db *db, Lane lane, int64_t *ret_ready_at_ms);

/* Tenants with tasks in the lane's lines; at most max are counted. */
MUST_CHECK int lines_tenants(Db *db, Lane lane, int64_t max, int64_t *ret);

/* How many of the lane's queued tasks wait for a slot (open, due, or shadows); at most max of each
 * kind are counted. If that is not all of them: also how many wait for their time. Who waits behind
 * others of its session is in neither. */
typedef struct {
    int64_t waiting, later;
    bool whole; /* all that wait for a slot were counted */
} LinesWaiting;
MUST_CHECK int lines_waiting(Db *db, Lane lane, int64_t now_ms, int64_t max, LinesWaiting *ret);

/* Open tasks of the same tenant and lane that start before this one; at most max are counted. */
MUST_CHECK int line_ahead(Db *db, const Task *task, int64_t max, int64_t *ret);

/* The shadow that has waited longest. Returns 0, -ENOENT (none), -errno. */
MUST_CHECK int shadow_next(Db *db, int64_t *ret_seq);

/* --- running ---------------------------------------------------------------------------------- */

/* Running tasks; at most max are counted. */
MUST_CHECK int running_of_agent(Db *db, Str agent, int64_t max, int64_t *ret);
MUST_CHECK int running_of_tenant(Db *db, Str tenant, int64_t max, int64_t *ret);

/* Likewise, without those that have open sub-agents, for which they wait. */
MUST_CHECK int leaves_of_agent(Db *db, Str agent, int64_t max, int64_t *ret);
MUST_CHECK int leaves_of_tenant(Db *db, Str tenant, int64_t max, int64_t *ret);

#endif
