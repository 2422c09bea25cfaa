/* Families of tasks: who started whom, what each was allotted, and what its children cost it
 * (logic/family.h). A task that neither was started by another nor has started one has no row.
 * Functions run inside a store job. Unless they say more, they return 0 or -errno with diag.
 */
#ifndef GANTRY_STORE_FAMILY_STORE_H
#define GANTRY_STORE_FAMILY_STORE_H

#include "logic/family.h"
#include "store/task_store.h"

typedef struct {
    int64_t task_seq;
    int64_t parent_seq; /* 0: the first of its family */
    int64_t root_seq;   /* the first; its own for the first */
    int64_t depth;
    bool open; /* its end has not been booked */
    FamilyAmount allotted, kids;
    int64_t children; /* that it has started */
    int64_t members;  /* of the whole family; of the first task's row only */
} Family;

/* Returns 0, -ENOENT, -errno. */
MUST_CHECK int family_get(Db *db, int64_t task_seq, Family *ret);

/* The first row of a family, for a task that is about to start its first child. */
MUST_CHECK int family_begin(Db *db, int64_t task_seq);

typedef struct {
    int64_t task_seq;
    Str key, fingerprint;
    FamilyAmount allotted;
    int64_t ready_at_ms;    /* its place in the queue */
    int64_t deadline_at_ms; /* 0: none */
} FamilyChild;

/* A child of parent (as read in this job): its row, the counts, and what it costs its parent. */
MUST_CHECK int family_add(Db *db, const Family *parent, const FamilyChild *child);

/* The child its parent knows under key. *ret_same: its fingerprint is that one. Returns 0, -ENOENT,
 * -errno. */
MUST_CHECK int family_find(Db *db, int64_t parent_seq, Str key, Str fingerprint, int64_t *ret_seq,
                           bool *ret_same);

/* Children of a family's first task are not found by their keys any more: all, or those that have
 * ended or are being stopped without success. Who still waits, runs or asks a person stays known:
 * it is not begun twice. Those forgotten that have ended, and all below them, count no more. */
MUST_CHECK int family_forget(Db *db, int64_t root_seq, bool all);

/* What a task has spent itself. */
MUST_CHECK int family_own(Db *db, int64_t task_seq, FamilyAmount *ret);

/* The end of a child (of a task that was begun by none: nothing happens) is booked, once: what its
 * parent bears becomes what was spent. */
MUST_CHECK int family_close(Db *db, int64_t task_seq);

/* An ended child turns out to have spent more. */
MUST_CHECK int family_spent_late(Db *db, int64_t task_seq, const FamilyAmount *more);

/* How many tasks below this one have not ended. Returns 0 or -errno. */
MUST_CHECK int family_open_count(Db *db, int64_t task_seq, size_t *ret);

/* These, at most *n; *n becomes their number. */
MUST_CHECK int family_open_below(Db *db, int64_t task_seq, TaskHead *heads, size_t *n);

typedef struct {
    Uuid id;
    TaskState state;
    Str agent, version_id, error_code, stopped_by;
    int64_t created_at_ms, finished_at_ms;
    FamilyAmount allotted;
    FamilyAmount charged; /* its own and what is below it; open ones: so far */
    int64_t children;
    int64_t seq;
    int64_t end_n; /* the how many-th end of a child of its parent its own was; 0: open */
} FamilyRow;

#define FAMILY_LIST_MAX 1000

/* The children of a task in the order in which they were started. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int family_list(Db *db, int64_t task_seq, Arena *arena, FamilyRow **ret, size_t *ret_n);

/* Likewise those that were started after the one of that seq, at most max. */
MUST_CHECK int family_list_after(Db *db, int64_t task_seq, int64_t after_seq, size_t max,
                                 Arena *arena, FamilyRow **ret, size_t *ret_n);

/* Those that have ended after the end of that number, in the order in which they did, at most
 * max. */
MUST_CHECK int family_ends_after(Db *db, int64_t task_seq, int64_t after_n, size_t max,
                                 Arena *arena, FamilyRow **ret, size_t *ret_n);

/* What all tasks below this one have spent, and how many they are. */
typedef struct {
    int64_t tasks, open;
    TaskUsage usage;
} FamilyTotals;
MUST_CHECK int family_totals(Db *db, int64_t task_seq, FamilyTotals *ret);

/* What is held for a task tells no limit from none: *amount of what it has no limit of becomes
 * CAP_NONE. Returns 0, -ENOENT, -errno. */
MUST_CHECK int family_limited(Db *db, int64_t task_seq, FamilyAmount *amount);

/* Whether the version declares a tool that writes and has no source: its own code runs it. Returns
 * 0, -ENOENT, -errno. */
MUST_CHECK int family_version_writes(Db *db, Str version_id, bool *ret);

/* The limits that a version sets for each of its tasks. Returns 0, -ENOENT, -errno. */
MUST_CHECK int family_version_limits(Db *db, Str version_id, FamilyAmount *ret);

#endif
