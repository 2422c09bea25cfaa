/* The public JSON of a task: what GET /agent/tasks/{id}, lists and webhooks say of it. Pure. */
#ifndef GANTRY_OBSERVE_TASK_JSON_H
#define GANTRY_OBSERVE_TASK_JSON_H

#include "codec/json.h"
#include "queue/queue.h"
#include "store/family_store.h"
#include "store/task_store.h"

/* Leaves result and metadata out, says "resultTruncated": true instead, and cuts a long error. */
#define TASK_JSON_BRIEF 1u
/* The result was read, so one that is not there is null. */
#define TASK_JSON_RESULT 2u

/* Writes an object: taskId, status, agent, versionId, priority, attempt, createdAt, startedAt,
 * finishedAt, result (when it succeeded) or error (when there is one), escalation (what it
 * asks, when that was read), usage, costUsd, costNusd,
 * quality; and what the task has of parentTaskId, sessionId, userId, tenantId, webhookUrl,
 * metadata, cancelRequested, stoppedBy. Result and metadata appear when they were read
 * (TASK_PART_...). */
void task_json(JsonOut *out, const Task *task, unsigned flags);

/* What is around a task. */
typedef struct {
    const FamilyRow *children;
    size_t children_n;
    const FamilyTotals *totals; /* of all tasks below it; NULL: there are none */
    const TaskPlace *place;     /* NULL, or not queued: left out */
} TaskAround;

/* As task_json, with the members children, as listed, and descendants: how many tasks are below the
 * task, how many of them have not ended, and what they have used; and queue: what it waits for, its
 * place and the time it may take. */
void task_json_with(JsonOut *out, const Task *task, unsigned flags, const TaskAround *around);

/* An RFC 3339 time member, null for 0. */
void json_out_ktime(JsonOut *out, const char *key, int64_t unix_ms);

/* A UUID member, null for the zero one. */
void json_out_kuuid(JsonOut *out, const char *key, Uuid id);

#endif
