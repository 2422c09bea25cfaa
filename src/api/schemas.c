/* The objects that answers are made of. */
#include "api/route.h"

#define RECORDING_FIELDS                                                                     \
    "number:integer at:time attempt:integer kind:string name:string callId:string hash:hex " \
    "status:integer contentType:string streamed:boolean complete:boolean "                   \
    "answerBytes:integer requestBytes:integer"
#define STATE_FIELDS "key:string version:integer bytes:integer updatedAt:time contentType:string"
#define WORKER_FIELDS                                                                  \
    "workerId:uuid name:string kind:string state:string slots:object running:integer " \
    "registeredAt:time heartbeatAt:time?"
#define TASK_USAGE                                                                    \
    "inputTokens:integer outputTokens:integer cachedTokens:integer llmCalls:integer " \
    "toolCalls:integer "

#define VERSION_FIELDS                                                                            \
    "versionId:hex agent:string createdAt:time description:string commit:string artifact:string " \
    "model:string "

#define SPEND_SUMS                                                                             \
    "calls:integer inputTokens:integer outputTokens:integer cachedTokens:integer costUsd:usd " \
    "costNusd:integer "
#define PRICE_RATES                                                                        \
    "inputUsdPerMillion:string outputUsdPerMillion:string cacheReadUsdPerMillion?:string " \
    "cacheWriteUsdPerMillion?:string cacheWrite1hUsdPerMillion?:string "                   \
    "reasoningUsdPerMillion?:string audioInputUsdPerMillion?:string "                      \
    "audioOutputUsdPerMillion?:string imageInputUsdPerMillion?:string "                    \
    "imageOutputUsdPerMillion?:string "
#define CACHE_FIGURES                                                             \
    "hits:integer misses:integer stored:integer evicted:integer expired:integer " \
    "purged:integer tooLarge:integer bytes:integer entries:integer"

const Schema api_schemas[] = {
    { "Problem", "type:string title:string status:integer detail:string code:string "
                 "requestId:string errors?:[Finding] warnings?:[Finding]" },
    { "Finding", "file:string line:integer column:integer member:string message:string" },

    { "Accepted", "taskId:uuid status:string statusUrl:string webhookUrl:string? agent:string "
                  "versionId:hex priority:string" },
    { "Task",
      "taskId:uuid status:string agent:string versionId:hex priority:string "
      "attempt:integer createdAt:time startedAt:time? finishedAt:time? readyAt?:time "
      "deadline?:time "
      "cancelRequested?:boolean stoppedBy?:string degraded?:boolean result?:any error?:TaskError "
      "escalation?:Escalation "
      "usage:TaskUsage costUsd:usd costNusd:integer quality:number? parentTaskId?:uuid shadow?:boolean "
      "shadowOf?:uuid "
      "sessionId?:string userId?:string tenantId?:string webhookUrl?:string "
      "metadata?:object queue?:TaskPlace children?:[Subagent] descendants?:Descendants" },
    { "TaskPlace", "waitsFor:string position?:integer expectedWaitMs:integer?" },
    { "Subagent", "taskId:uuid status:string agent:string createdAt:time finishedAt:time? "
                  "stoppedBy?:string costUsd:usd costNusd:integer" },
    { "Descendants", "tasks:integer open:integer usage:TaskUsage costUsd:usd costNusd:integer" },
    { "Escalation", "question:string context?:any default?:any askedAt:time expiresAt:time" },
    { "TaskError", "code:string detail:string" },
    { "TaskUsage", TASK_USAGE "replayedCalls:integer cachedCalls:integer "
                              "degradedCalls:integer" },
    { "TaskPage", "tasks:[Task] nextCursor:string?" },
    { "ScheduleList", "schedules:[Schedule]" },
    { "Schedule", "name:string agent:string cron:string timeZone:string input?:any priority:string "
                  "missed:string overlap:string deadline?:string paused:boolean "
                  "skipped:integer nextAt:time? lastAt:time? lastTaskId:uuid? "
                  "lastError?:string" },
    { "TasksRetried",
      "retried:integer skipped:integer more:boolean full:boolean nextCursor:string?" },
    { "TaskStatus", "taskId:uuid status:string" },
    { "TaskScore", "taskId:uuid quality:number?" },
    { "Timeline", "taskId:uuid status:string events:[TimelineEvent] truncated:boolean" },
    { "TimelineEvent",
      "at:time type:string attempt?:integer workerId?:uuid? durationMs?:integer "
      "outcome?:string errorCode?:string errorDetail?:string sandbox?:string "
      "provider?:string model?:string status?:any streamed?:boolean "
      "tool?:string source?:string bytes?:integer replayed?:boolean mode?:string cached?:boolean degraded?:string inputTokens?:integer outputTokens?:integer "
      "callId?:string requestId?:string upstreamRequestId?:string "
      "cachedTokens?:integer reasoningTokens?:integer costUsd?:usd "
      "costNusd?:integer seq?:integer stream?:string text?:string "
      "webhookId?:string url?:string state?:string attempts?:integer "
      "error?:string nextAt?:time subagentTaskId?:uuid agent?:string question?:string answer?:any "
      "by?:string" },
    { "TaskLog", "taskId:uuid entries:[LogLine] nextAfter:string? dropped:integer"
                 " droppedBytes:integer" },
    { "TaskJournal", "taskId:uuid replayedCalls:integer missedCalls:integer bytes:integer "
                     "full:boolean recordings:[Recording] nextAfter:integer?" },
    { "Recording", RECORDING_FIELDS },
    { "TaskRecording", "taskId:uuid " RECORDING_FIELDS " request:any answer:string? "
                       "answerBase64:string?" },
    { "LogLine", "seq:integer attempt:integer at:time stream:string text:string" },

    { "AgentList", "agents:[Agent]" },
    { "Agent", "agent:string versionId:hex? previousVersionId:hex? versions:integer createdAt:time "
               "changedAt:time?" },
    { "VersionPage", "versions:[VersionRow] nextCursor:string?" },
    { "VersionRow", VERSION_FIELDS "routed:boolean" },
    { "VersionCreated", VERSION_FIELDS "created:boolean routed:boolean warnings:[Finding]" },
    { "Version", VERSION_FIELDS "components:object manifest:object" },
    { "VersionDiff", "from:hex to:hex changes:[VersionChange]" },
    { "VersionChange", "component:string old:any new:any diff:string" },

    { "Routing", "agent:string versionId:hex? previousVersionId:hex? changedAt:time? "
                 "arms:[RoutingArm] leaving:[VersionServing] rollout?:Rollout" },
    { "VersionServing", "versionId:hex state:string since:time queued:integer running:integer" },
    { "RoutingArm", "versionId:hex weight:number" },
    { "RolloutList", "rollouts:[Rollout]" },
    { "Rollout",
      "rolloutId:uuid agent:string versionId:hex stableVersionId:hex strategy:string "
      "state:string step:integer steps:[number] stepSeconds:[integer] gates?:[RolloutGate] weight:number verdict:string "
      "why:string preflight:[PreflightCheck] baselineTasks:integer createdAt:time changedAt:time units?:RolloutUnits metrics?:object "
      "expectedUnitsLeft?:number? sampleRatioOk?:boolean untold?:RolloutUntold expectedSecondsLeft?:number? "
      "stable?:VersionServing" },
    { "ShadowReport",
      "rolloutId:uuid agent:string versionId:hex stableVersionId:hex state:string result:string "
      "why:string plan:ShadowPlan candidatePairs:ShadowCounts selfPairs:ShadowCounts "
      "differs:number? selfDiffers:number? toolPathDiffers:number? selfToolPathDiffers:number? "
      "biased:boolean cost:ShadowCost metrics:object pairs:[ShadowPair]" },
    { "ShadowPlan", "share:number control:number tasks:integer parallel:integer standsIn:boolean "
                    "nextWeight:number" },
    { "ShadowCounts", "chosen:integer started:integer compared:integer diverged:integer "
                      "dropped:integer" },
    { "ShadowCost", "budgetUsd:usd spentUsd:usd spentOnSelfUsd:usd productionUsd:usd "
                    "candidateUsd:usd stopped:integer" },
    { "ShadowPair", "state:string self:boolean differs:boolean toolPathDiffers:boolean "
                    "production:ShadowSide? shadow:ShadowSide?" },
    { "ShadowSide", "taskId:uuid status:string costUsd:usd seconds:number? toolCalls:integer "
                    "quality:number?" },
    { "RolloutGate", "step:integer name:string open:boolean" },
    { "RolloutUntold", "stable:number? canary:number?" },
    { "RolloutTickList", "ticks:[RolloutTick]" },
    { "RolloutTick",
      "n:integer at:time lastAt:time again:integer state:string step:integer verdict:string why:string "
      "inputs:object" },
    { "ObservationList", "observations:[Observation] nextCursor:string?" },
    { "Observation", "unit:string arm:string prob:number metrics:object" },
    { "AlarmList", "alarms:[Alarm]" },
    { "Alarm",
      "alarmId:integer agent:string versionId:hex metric:string day:time raisedAt:time "
      "value:number? before:number? slopePerWeek:number? p:number? text:string cause:string? "
      "acknowledgedAt:time? acknowledgedBy:string? note:string?" },
    { "AlarmAcknowledged", "alarmId:integer acknowledged:boolean" },
    { "EventList", "events:[Event] nextCursor:string?" },
    { "Event", "seq:integer at:time type:string agent:string versionId:hex subject:string "
               "data:object" },
    { "PreflightCheck", "name:string result:string detail:string" },
    { "RolloutUnits", "stable:integer canary:integer" },

    { "BudgetList", "timeZone:string budgets:[Budget]" },
    { "Budget", "scope:string unit:string limited:boolean source:string? limitUsd?:usd "
                "limitNusd?:integer limitTokens?:integer settledUsd?:usd settledNusd?:integer "
                "settledTokens?:integer reservedUsd?:usd reservedNusd?:integer "
                "reservedTokens?:integer remainingUsd?:usd remainingNusd?:integer "
                "remainingTokens?:integer from:time until:time" },
    { "BudgetGrants",
      "verdict:string by:integer epoch:integer nowMs:integer slices:[BudgetSlice]" },
    { "BudgetSlice", "scope:string startMs:integer endMs:integer limit:integer settled:integer "
                     "granted:integer returned:integer spent:integer applies:boolean" },

    { "QueueState", "lanes:[LaneState] sharedSlots:integer workers:integer" },
    { "LaneState", "lane:string queued:integer running:integer capacity:integer reserved:integer "
                   "oldestQueuedMs:integer workerUtilization:number queuedMax:integer "
                   "waits:LaneWaits" },
    { "LaneWaits", "objectiveMs:integer p50Ms:integer p99Ms:integer started:integer late:integer" },
    { "ScalingState", "lane:string queued:integer running:integer capacity:integer "
                      "workers:integer desiredWorkers:integer desiredWorkersAll:integer "
                      "arrivalsPerSecond:number serviceMs:integer" },
    { "WorkerList", "workers:[Worker]" },
    { "Worker", WORKER_FIELDS },
    { "WorkerDetail", WORKER_FIELDS " busyUntil:time? tasks:[WorkerTask]" },
    { "WorkerTask", "taskId:uuid attempt:integer priority:string startedAt:time deadline:time?" },
    { "WorkerStatus", "workerId:uuid state:string" },
    { "CacheState", "workers:[WorkerCache] " CACHE_FIGURES },
    { "WorkerCache", "workerId:uuid name:string " CACHE_FIGURES },
    { "CachePurged", "revision:integer" },
    { "LimitList", "limits:[Limit]" },
    { "Limit", "provider:string model:string? workers:integer perMinute:[LimitUnit] "
               "concurrent:integer? inFlight:integer waiting:integer waitingByLane:object "
               "blockedMs:integer throttled:integer" },
    { "LimitUnit", "unit:string limit:integer? configured:integer? learned:integer? used:integer" },
    { "BreakerList", "breakers:[Breaker]" },
    { "Breaker",
      "kind:string name:string state:string heard?:boolean workerId:string? calls:integer "
      "errorRate:number? slowRate:number? changedAt:time openedAt:time? "
      "nextProbeAt:time? probes:integer trips:integer refused:integer" },
    { "WorkerShares", "ttlMs:integer shares:[any] known:[any] openMs:[any]" },
    { "VersionMetrics", "windowSeconds:integer versions:[VersionSignals] truncated:boolean" },
    { "VersionSignals",
      "agent:string versionId:hex versionAge:integer? taskCount:integer finishedCount:integer "
      "scoredCount:integer degradedCount:integer "
      "taskCompletionRate:number? errorRate:number? escalationRate:number? qualityScore:number? "
      "tokenCostPerTask:usd? tokenCostPerTaskNusd:integer? tokensPerTask:number? "
      "llmCallsPerTask:number? toolCallsPerTask:number? latencyP50:number? latencyP95:number? "
      "latencyP99:number? responsePatternVariance:number? patternShift:number? "
      "toolCallDistribution:object? graders:object" },
    { "Document", "openapi:string info:object servers:[object] security:[object] tags:[object] "
                  "paths:object components:object" },

    { "WorkerRegistered", "workerId:uuid leaseMs:integer heartbeatMs:integer finishMax:integer" },
    { "FinishedTasks", "tasks:[FinishedTask]" },
    { "FinishedTask", "status:integer" },
    { "ClaimedTasks", "tasks:[ClaimedTask]" },
    { "ClaimedTask", "taskId:uuid fence:integer attempt:integer agent:string versionId:hex "
                     "lane:string input:any limits:object? metadata:object? sessionId:string? "
                     "userId:string? tenantId:string? traceparent:string? remainingMs:integer? "
                     "deadlineGiven?:boolean ranMs:integer "
                     "spent:AttemptUsage" },
    { "AttemptUsage", TASK_USAGE "chargedTokens:integer costNusd:integer" },
    { "ChildStarted", "taskId?:uuid status?:string existing?:boolean agent?:string versionId?:hex "
                      "allotted?:FamilyAmount refused?:ChildRefused" },
    { "ChildRefused", "status:integer code:string detail:string" },
    { "ChildList", "children:[ChildState]" },
    { "ChildState", "taskId:uuid status:string agent:string allotted:FamilyAmount "
                    "charged:FamilyAmount" },
    { "FamilyAmount", "tokens:integer? nusd:integer? toolCalls:integer?" },
    { "WorkerJournal", "recordings?:[WorkerRecording] n?:integer status?:integer "
                       "contentType?:string streamed?:boolean answer?:RecordedBytes "
                       "request?:string" },
    { "WorkerRecording", "n:integer callId?:string kind:string key:hex complete:boolean" },
    { "WorkerEscalation", "state:string answer:any by:string" },
    { "WorkerState",
      "outcome:string created:boolean " STATE_FIELDS " value:string rows:[StateRow]" },
    { "StateRow", STATE_FIELDS },
    { "RecordedBytes", "bytes:integer gzip:boolean data:string" },
    { "Heartbeat", "cancel:[uuid] lost:[uuid] draining:boolean flagsRevision:integer "
                   "pricesRevision:integer cacheRevision:integer "
                   "budgetEpoch:integer budgetWanted:boolean released:integer mark:integer" },
    { "WorkerSignal", "signalled:boolean" },
    { "WebhookPage", "webhooks:[Webhook] nextCursor:string?" },
    { "Webhook", "webhookId:string taskId:uuid? url:string state:string attempts:integer "
                 "status:integer error:string createdAt:time nextAt?:time" },
    { "WebhookStatus", "webhookId:string state:string" },
    { "WebhooksReplayed", "replayed:integer" },
    { "WebhookEndpoints", "endpoints:[WebhookEndpoint]" },
    { "WebhookEndpoint", "url:string disabledAt:time webhookId:string" },
    { "WebhookEnabled", "url:string" },
    { "WebhookSecret", "secret:string previousUntil:time" },
    { "SpendReport", "by:string from:time " SPEND_SUMS "rows:[Spend] truncated:boolean" },
    { "Spend", "key:string " SPEND_SUMS },
    { "PriceList", "revision:integer prices:[Price]" },
    { "Price", "model:string source:string " PRICE_RATES "tiers?:[PriceTier] services?:object "
               "regionFactors?:object webSearchLowUsd?:string webSearchMediumUsd?:string "
               "webSearchHighUsd?:string fileSearchUsd?:string codeSessionUsd?:string "
               "requestUsd?:string secondUsd?:string imageUsd?:string imageTokensMax?:integer "
               "maxInputTokens?:integer maxOutputTokens?:integer mediaUnpriced?:boolean "
               "fictitious?:boolean" },
    { "PriceTier", "aboveTokens:integer " PRICE_RATES },
    { "PriceEntries", "" },
    { "PriceImport", "imported:integer skipped:integer firstSkipped:string revision:integer" },
    { "ModelRequest", "" }, /* as the provider's API has it, likewise the next two */
    { "ModelAnswer", "" },
    { "ModelError", "" },
    { "AccountList", "accounts:[Account]" },
    { "Account", "accountId:uuid tenantId:string agent:string? userId:string? createdAt:time "
                 "usedAt:time llmCalls:integer inputTokens:integer outputTokens:integer "
                 "cachedTokens:integer costUsd:usd costNusd:integer" },
    { "CacheNews", "revision:integer purges:[CachePurge]" },
    { "CachePurge", "tenant:string? agent:string?" },
    { "FlagList", "revision:integer flags:[Flag]" },
    { "Flag", "key:string value:any rules:[object] description:string revision:integer "
              "updatedAt:time" },
    { "FlagEvaluation", "key:string value:any reason:string variant:string metadata:object" },
    { "FlagEvaluations", "flags:[FlagEvaluation]" },
    { "FlagFailure", "key?:string errorCode?:string errorDetails:string" },
};

const size_t api_schemas_n = ARRAY_N(api_schemas);
