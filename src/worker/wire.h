/* Wire: the JSON between a remote worker and `gantry serve`, both directions.
 *
 * link_http.c and the server's routes share these functions, so they cannot disagree. Requests
 * carry `Authorization: Bearer KEY`.
 *
 *   POST /api/workers           {"name","slots":SLOTS}
 *                               201 {"workerId","leaseMs","heartbeatMs","finishMax"}
 *   POST .../{id}/claim         {"free":SLOTS,"waitMs"}
 *                               200 {"tasks":[TASK]}
 *   POST .../{id}/heartbeat     {"tasks":[REF],"holds":[HOLD],"counts":COUNTS}; calls in flight
 *                               200 {"cancel":[taskId],"lost":[taskId],"draining","flagsRevision",
 *                                   "pricesRevision","cacheRevision"}
 *   POST .../{id}/cache         {"seen",FIGURES}
 *                               200 {"revision","purges":[PURGE]}
 *   POST .../{id}/rates         {"limits":[LIMIT],"breakers":[BREAKER],"stats":[...]}
 *                               200 {"ttlMs","shares":[[...]],"known":[[...]]}, one of both for
 *                               each LIMIT
 *   POST .../{id}/finish        FINISH
 *                               204, 409 stale
 *   POST .../{id}/finish-many   {"tasks":[FINISH]}, at most "finishMax" of them
 *                               200 {"tasks":[{"status"}]}, for each what finish would have
 *                               answered: 204, 409, 400
 *   POST .../{id}/calls         {"taskId","fence","payerId","calls":[CALL]}
 *                               204, 409 stale; payerId: under whose lease their money was set
 *                               aside, absent: {id}
 *   POST .../{id}/tools         {"taskId","fence","tools":[TOOL]}
 *                               204, 409 stale
 *   POST .../{id}/score         {"taskId","fence","name","value","comment"}
 *                               204, 409 stale, 422 scores_full
 *   POST .../{id}/logs          {"taskId","fence","entries":[LINE]}
 *                               204, 409 stale
 *   POST .../{id}/children      CHILD_NEW      200 CHILD, 409 stale
 *   GET  .../{id}/children      ?task=&fence=&seen=N&waitMs=
 *                               200 {"children":[{"taskId","status","agent","allotted":AMOUNT,
 *                                   "charged":AMOUNT}]}, 409 stale
 *   GET  .../{id}/children/{taskId}  ?task=&fence=   200 the task, 404, 409 stale
 *   POST .../{id}/children/{taskId}/cancel  REF      204, 404, 409 stale
 *   POST .../{id}/leave         204
 *   GET  /api/flags             200 {"revision","flags":[FLAG]}, see logic/flag.h
 *   GET  .../{id}/journal       ?task=&fence= and one of &after=N, &answer=N, &request=N, &twin
 *                               200 {"recordings":[ROW]}, ANSWER, {"request"}, 404, 409 stale
 *   POST .../{id}/journal       {"taskId","fence","recordings":[RECORDING]}
 *                               204, 409 stale
 *   POST .../{id}/state         {"taskId","fence","what":"get|list|put|delete","key","ifVersion",
 *                               "contentType","value"}; value in base64; see StateAsk
 *                               200 {"outcome","created",STATE,"value","rows":[{STATE}]}, 409 stale
 *   POST .../{id}/escalate      {"taskId","fence","key","occurrence","question","timeoutMs",
 *                               "context","hasDefault","default"}; see EscalationAsk
 *                               200 {"state","answer","by"}, 409 stale, 422 too many
 *   GET  /api/prices/entries    200 {MODEL:ENTRY}, see logic/price.h
 *   POST .../{id}/grants        ASK            200 ANSWER, 400
 *   POST .../{id}/holds         {"workerId","holds":[HOLD]}   204; of a worker that is dead
 *   GET  /api/versions/{id}     200 {"components",...}, 404
 *   GET  .../{id}/artifact      200 canonical tar, gzipped, 404
 *
 * with 404 on the worker routes when the worker is unknown, lost, stopped, or (claim) draining.
 *
 *   COUNTS  see logic/worker_counts.h
 *   SLOTS   {"critical","normal","low","shared"}
 *   REF     {"taskId","fence"}
 *   TASK    {"taskId","fence","attempt","agent","versionId","lane","input","sessionId","userId",
 *            "tenantId","limits","remainingMs","traceparent","metadata","spent":USAGE}; absent
 *            values are null
 *   USAGE   {"inputTokens","outputTokens","cachedTokens","chargedTokens","llmCalls","toolCalls",
 *            "costNusd"}
 *   FINISH  {"taskId","fence","outcome","result","error":{"code","detail"},"stoppedBy",
 *            "retryAfterMs","usage":USAGE,"conduct":{"fingerprint","tools":[{"name","calls"}]}};
 *            outcome is a task_outcome_name; fingerprint: 16 hex digits
 *   TOOL    {"id","name","source","outcome","at","durationMs","bytes","replayed","counted"}
 *   LINE    {"seq","at","stream","text"}; at in RFC 3339
 *   FIGURES "hits","misses","stored","evicted","expired","purged","tooLarge","bytes","entries"
 *   PURGE   {"tenant","agent"}; null stands for any
 *   CALL    the fields of GatewayCall in camelCase, tokens as inputTokens, outputTokens,
 *           cachedTokens, cacheWrite5mTokens, cacheWrite1hTokens, reasoningTokens; and "recording":
 *           RECORDING or null
 *   RECORDING  {"kind","name","callId","key","at","status","contentType","streamed","complete",
 *           "answer":BYTES,"request":{"bytes","base","prefix","suffix","rest":BYTES}}; key in hex
 *   ASK     {"asks","agent","tenant","user","lane","waitedMs","waitMs","min":CHARGE,"good":CHARGE,
 *           "want":CHARGE,"more":CHARGE,"slices":[{"scope","startMs","granted","returned"}]}
 *   ANSWER (of grants)  {"verdict":"grant|wait|exhausted","by","epoch","nowMs","slices":[
 *           {"scope","startMs","endMs","limit","settled","granted","returned","spent",
 *           "applies"}]}; totals, see logic/budget.h
 *   HOLD    {"callId","taskId","fence","attempt","atMs","provider","model","charge":CHARGE}
 *   CHARGE  {"nusd","tokens"}
 *   CHILD_NEW  {"taskId","fence","key","fingerprint","agent","input","metadata","timeLimitMs",
 *           "remainingMs","findOnly","offered":AMOUNT}; fingerprint in hex
 *   CHILD   {"taskId","status","existing","agent","versionId","allotted":AMOUNT} or
 *           {"refused":{"status","code","detail"}}
 *   AMOUNT  {"tokens","nusd","toolCalls"}; null: no limit
 *   BYTES   {"bytes","gzip","data"}; data in base64, compressed or not
 *   ROW     {"n","kind","key","complete"}
 *   ANSWER  {"n","status","contentType","streamed","answer":BYTES}
 *
 *   STATE   "key","version","bytes","updatedAt","contentType"
 *
 * Writers append to a JsonOut, whose owner checks json_out_ok. Readers take a parsed value, whose
 * texts they borrow; they ignore unknown members and return 0 or -EINVAL with diag.
 */
#ifndef GANTRY_WORKER_WIRE_H
#define GANTRY_WORKER_WIRE_H

#include "worker/link.h"

/* Largest answer to a claim; the server claims no more than fits. */
#define WIRE_CLAIM_BYTES_MAX ((size_t)32 << 20)

void wire_slots_write(JsonOut *out, const LaneConfig *slots);
MUST_CHECK int wire_slots_read(const Json *v, LaneConfig *ret);

/* "taskId" and "fence", into an object that is open. */
void wire_ref_write(JsonOut *out, TaskRef ref);
MUST_CHECK int wire_ref_read(const Json *v, TaskRef *ret);

/* The claimed task as the link gives it. Its time is reckoned from its start: a clock that has been
 * set since is none of its concern. */
LinkTask link_task_from(const Task *task);
void wire_task_write(JsonOut *out, const LinkTask *task);
/* arena holds the texts of input, limits and metadata. Also -ENOMEM. */
MUST_CHECK int wire_task_read(Arena *arena, const Json *v, LinkTask *ret);

/* stops and draining; the mark stays behind. */
void wire_beat_write(JsonOut *out, const HeartbeatReply *beat);
/* held: what the request had, for the fences. Also -ENOMEM. */
MUST_CHECK int wire_beat_read(Arena *arena, const Json *v, const TaskRef *held, size_t held_n,
                              HeartbeatReply *ret);

/* figures, into an object that is open. */
void wire_figures_write(JsonOut *out, const CacheFigures *figures);
void wire_cache_write(JsonOut *out, const CacheFigures *figures, int64_t seen);
void wire_cache_read(const Json *v, CacheFigures *ret_figures, int64_t *ret_seen);
void wire_news_write(JsonOut *out, const CacheNews *news);
/* Also -ENOMEM. */
MUST_CHECK int wire_news_read(Arena *arena, const Json *v, CacheNews *ret);

/* How good an agent says its work is. Returns 0, -EINVAL with diag. */
void wire_score_write(JsonOut *out, const TaskScore *score);
MUST_CHECK int wire_score_read(const Json *v, TaskScore *ret);

void wire_finish_write(JsonOut *out, const TaskFinish *finish);
/* Also -ENOMEM. */
MUST_CHECK int wire_finish_read(Arena *arena, const Json *v, TaskFinish *ret);

/* Several, as they are listed. */
void wire_finishes_write(JsonOut *out, const TaskFinish *const *list, size_t n);
/* What became of each: 204 (taken), or the status of its problem. */
void wire_finished_write(JsonOut *out, const int *statuses, size_t n);
/* ret: of n that were sent; -EINVAL also when the answer is about another number. */
MUST_CHECK int wire_finished_read(const Json *v, int *ret, size_t n);

void wire_tool_write(JsonOut *out, const ToolRecord *record);
/* attempt is left 0: the queue knows it. */
MUST_CHECK int wire_tool_read(const Json *v, ToolRecord *ret);

void wire_line_write(JsonOut *out, const TaskLogLine *line);
/* attempt is left 0: the queue knows it. */
MUST_CHECK int wire_line_read(const Json *v, TaskLogLine *ret);

void wire_call_write(JsonOut *out, const GatewayCall *call);
/* arena holds its recording. Also -ENOMEM. */
MUST_CHECK int wire_call_read(Arena *arena, const Json *v, Call *ret);
/* The row of a call; borrows its texts. */
Call call_from_gateway(const GatewayCall *call);

/* wire_child.c. What is read borrows texts of v but for JSON values, which live in arena as arrays
 * do; also -ENOMEM. */
void wire_child_new_write(JsonOut *out, TaskRef parent, const ChildNew *child);
MUST_CHECK int wire_child_new_read(Arena *arena, const Json *v, ChildNew *ret);
/* detail: why it was refused. Borrows all. */
LinkChild link_child_from(const ChildStarted *started, Str detail);
void wire_child_write(JsonOut *out, const LinkChild *child);
MUST_CHECK int wire_child_read(const Json *v, LinkChild *ret);
void wire_children_write(JsonOut *out, const FamilyRow *rows, size_t n);
MUST_CHECK int wire_children_read(Arena *arena, const Json *v, FamilyRow **ret, size_t *ret_n);
/* Compact text of a value, empty when it is absent or null. Returns 0 or -ENOMEM. */
MUST_CHECK int wire_text_of(Arena *arena, const Json *v, Str *ret);

/* wire_budget.c. What is read borrows texts of v; arrays live in arena; also -ENOMEM. */
void wire_ask_write(JsonOut *out, const BudgetAsk *ask, int64_t wait_ms);
MUST_CHECK int wire_ask_read(Arena *arena, const Json *v, BudgetAsk *ret, int64_t *ret_wait_ms);
void wire_answer_write(JsonOut *out, const BudgetAnswer *answer);
MUST_CHECK int wire_answer_read(Arena *arena, const Json *v, BudgetAnswer *ret);
void wire_hold_write(JsonOut *out, const BudgetHold *hold);
MUST_CHECK int wire_hold_read(const Json *v, BudgetHold *ret);
/* list: an array or NULL. */
MUST_CHECK int wire_holds_read(Arena *arena, const Json *list, const BudgetHold **ret,
                               size_t *ret_n);

/* wire_journal.c. What is read lives in arena; also -ENOMEM. */
void wire_recording_write(JsonOut *out, const JournalNew *recording);
MUST_CHECK int wire_recording_read(Arena *arena, const Json *v, JournalNew *ret);
void wire_journal_write(JsonOut *out, const JournalAsk *ask, const JournalReply *reply);
MUST_CHECK int wire_journal_read(Arena *arena, const Json *v, const JournalAsk *ask,
                                 JournalReply *ret);

/* wire_state.c. What is read lives in arena; also -ENOMEM. */
void wire_state_ask_write(JsonOut *out, TaskRef task, const StateAsk *ask);
MUST_CHECK int wire_state_ask_read(Arena *arena, const Json *v, StateAsk *ret);
void wire_state_reply_write(JsonOut *out, const StateReply *reply);
MUST_CHECK int wire_state_reply_read(Arena *arena, const Json *v, StateReply *ret);

/* wire_escalation.c. What is read lives in arena; also -ENOMEM. */
void wire_escalation_ask_write(JsonOut *out, TaskRef task, const EscalationAsk *ask);
MUST_CHECK int wire_escalation_ask_read(Arena *arena, const Json *v, EscalationAsk *ret);
void wire_escalation_reply_write(JsonOut *out, const EscalationReply *reply);
MUST_CHECK int wire_escalation_reply_read(Arena *arena, const Json *v, EscalationReply *ret);

/* What a worker tells of rate limits and breakers, and the shares it gets. */
void wire_telling_write(JsonOut *out, const RateTelling *telling);
/* What is told lives in arena. Also -ENOMEM. */
MUST_CHECK int wire_telling_read(Arena *arena, const Json *v, RateTelling *ret);
void wire_shares_write(JsonOut *out, int64_t ttl_ms, const GatewayShare *shares, size_t n);
/* ret: as many as telling->limits, named after them. */
MUST_CHECK int wire_shares_read(const Json *v, const RateTelling *telling, GatewayShare *ret,
                                int64_t *ret_ttl_ms);

#endif
