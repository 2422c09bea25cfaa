/* Escalations: questions that tasks have put to a person, and what was answered. Functions run
 * inside a store job. Unless they say more, they return 0 or -errno with diag.
 */
#ifndef GANTRY_STORE_ESCALATION_STORE_H
#define GANTRY_STORE_ESCALATION_STORE_H

#include "codec/digest.h"
#include "logic/escalation.h"
#include "store/db.h"

#define ESCALATIONS_MAX 100 /* of a task */

const char *escalation_state_name(EscalationState state);

typedef struct {
    int64_t id, task_seq;
    uint8_t key[SHA256_BYTES]; /* of what was asked, by which a later attempt finds it */
    int64_t occurrence;        /* of that key in an attempt, from 1 */
    EscalationState state;
    Str question;          /* text */
    Str context, fallback; /* JSON, or empty: none. fallback: the default answer */
    int64_t asked_at_ms, expires_at_ms;
    int64_t answered_at_ms; /* 0: not yet */
    Str answer;             /* JSON, or empty */
    Str answered_by;        /* may be empty */
} Escalation;

/* Adds a pending one: id and what is of the answer are not looked at. */
MUST_CHECK int escalation_insert(Db *db, const Escalation *escalation);

/* The task's live one of that key and occurrence; texts live in arena. Returns 0, -ENOENT, -ENOMEM,
 * -errno. */
MUST_CHECK int escalation_find(Db *db, int64_t task_seq, const uint8_t key[SHA256_BYTES],
                               int64_t occurrence, Arena *arena, Escalation *ret);

/* The one that waits the longest; likewise. */
MUST_CHECK int escalation_pending(Db *db, int64_t task_seq, Arena *arena, Escalation *ret);

/* How many the task has, and how many of these are pending. */
MUST_CHECK int escalation_counts(Db *db, int64_t task_seq, int64_t *ret_all, int64_t *ret_pending);

/* What became of the last live one. Returns 0, -ENOENT, -errno. */
MUST_CHECK int escalation_last(Db *db, int64_t task_seq, EscalationState *ret);

/* A pending one whose time is over; likewise. Returns also -ENOENT. */
MUST_CHECK int escalation_overdue(Db *db, int64_t now_ms, Arena *arena, Escalation *ret);

/* Ends a pending one. Returns 0, -ENOENT (no such row, or not pending), -errno. */
MUST_CHECK int escalation_settle(Db *db, int64_t id, EscalationState state, Str answer, Str by,
                                 int64_t now_ms);

/* Of a task that is begun anew: what was not answered is not found any more; all: nothing is. */
MUST_CHECK int escalation_retire(Db *db, int64_t task_seq, bool all);

/* Of a task that has ended: what is pending is closed. */
MUST_CHECK int escalation_close(Db *db, int64_t task_seq);

/* All of a task in order; texts live in arena. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int escalation_list(Db *db, int64_t task_seq, Arena *arena, Escalation **ret,
                               size_t *ret_n);

/* Likewise those whose ids are greater than after_id, at most max. */
MUST_CHECK int escalation_list_after(Db *db, int64_t task_seq, int64_t after_id, size_t max,
                                     Arena *arena, Escalation **ret, size_t *ret_n);

/* Moves the times at which questions that wait are given up by ms, which may be negative: for a
 * clock that was set. Returns 0 or -errno. */
MUST_CHECK int escalation_move(Db *db, int64_t ms);

#endif
