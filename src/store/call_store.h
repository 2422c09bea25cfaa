/* LLM calls of tasks, for the timeline and the accounts: one row a call, payloads stay elsewhere.
 * Functions run inside a store job. */
#ifndef GANTRY_STORE_CALL_STORE_H
#define GANTRY_STORE_CALL_STORE_H

#include "store/journal_store.h"

#define CALL_LIST_MAX 5000

/* The ids of the calls of task ?1, from its last one back. */
#define CALLS_OF_TASK                                                                  \
    "WITH RECURSIVE calls (id) AS (SELECT last_call_id FROM task WHERE seq = ?1"       \
    " AND last_call_id > 0 UNION ALL SELECT before_id FROM calls JOIN call USING (id)" \
    " WHERE before_id > 0) "

/* Outcomes: of calls whose worker died with them, and of those that were never sent, which count as
 * no call in sums. */
#define CALL_LOST "lost"
#define CALL_REFUSED "refused"

typedef struct {
    int64_t id;  /* set by the store */
    Str call_id; /* the gateway's, by which a call is kept once; empty: unknown */
    int64_t attempt;
    int64_t fence;
    int64_t at_ms; /* when it began */
    int64_t duration_ms;
    Str response_id; /* of Responses: what later requests may name; empty: none. Not read */
    Str request_id;  /* of the answer to the agent; empty: none */
    Str upstream_id; /* that the provider gave its answer; empty: none */
    Str provider, model;
    Str protocol; /* "openai", "anthropic", ... */
    Str outcome;  /* "ok", or what went wrong, in a word */
    bool streamed;
    bool replayed;  /* answered from the journal: cost nothing */
    bool cached;    /* answered from the response cache, likewise */
    Str degraded;   /* why it was not answered as usual ("cache", "model", "fallback"); or empty */
    int64_t status; /* HTTP, 0 when none came */
    int64_t input_tokens, output_tokens, cached_tokens, reasoning_tokens;
    int64_t cost_nusd;
    int64_t charged_tokens; /* against caps and budgets of tokens; written, not read */
    /* For the counts, not kept in the row. */
    int64_t tool_calls; /* that the answer asks for */
    Uuid worker_id;     /* under whose lease its money was set aside: whose slices of budgets pay */
    /* For the journal, likewise. */
    const JournalNew *recording; /* what was answered; NULL: not recorded */
    bool replay_missed;          /* an attempt before had made other calls than this one */
} Call;

/* last_id: in, the task's call before it, 0 for its first; out, the new one, which the task's row
 * must be told. Returns 0, DB_E_CONFLICT (the task has a call of that call_id already: nothing was
 * changed), -errno. */
/* Whether a response of that id was an answer to the tenant (empty: to none). Returns 0 (it was),
 * -ENOENT, -errno. */
MUST_CHECK int call_response_of(Db *db, Str response_id, Str tenant);

MUST_CHECK int call_insert(Db *db, int64_t task_seq, const Call *call, int64_t *last_id);

/* Puts what is known of a call after all in the place of its row, if that says that it was lost.
 * ret_lost: what it said; texts live in arena. Returns 0, -ENOENT (it says something else),
 * -ENOMEM, -errno. */
MUST_CHECK int call_replace_lost(Db *db, int64_t task_seq, const Call *call, Arena *arena,
                                 Call *ret_lost);

/* The chain of a task's calls is in that order; its row has the last. Returns 0, -ENOENT,
 * -errno. */
MUST_CHECK int call_note_last(Db *db, int64_t task_seq, int64_t last_id);

/* Calls of a task in order, at most CALL_LIST_MAX; texts live in arena. Returns 0, -ENOMEM, -errno.
 */
MUST_CHECK int call_list(Db *db, int64_t task_seq, Arena *arena, Call **ret, size_t *ret_n);

/* Whether the task has that call: it has ended. Returns 0, -errno. */
MUST_CHECK int call_is_recorded(Db *db, int64_t task_seq, Str call_id, bool *ret);

/* The first of them whose ids are greater than after_id, at most max; likewise. */
MUST_CHECK int call_list_after(Db *db, int64_t task_seq, int64_t after_id, size_t max, Arena *arena,
                               Call **ret, size_t *ret_n);

/* What calls of a model that began lately have sent and got, added up. */
typedef struct {
    Str provider, model;
    int64_t newest_at_ms;
    int64_t calls, input_tokens, output_tokens;
    int64_t tokens; /* both, or what was charged where that is more */
} CallUse;
#define CALL_RECENT_MAX 100000 /* older calls than so many are not looked at */
#define CALL_USES_MAX 1000

/* Of calls that began at or after since_ms and went to a provider, a row a model; texts live in
 * arena. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int call_recent(Db *db, int64_t since_ms, Arena *arena, CallUse **ret, size_t *ret_n);

#endif
