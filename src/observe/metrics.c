#include "observe/metrics.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/diag.h"
#include "base/log.h"
#include "gateway/gateway_stats.h"
#include "observe/capacity.h"
#include "observe/process_stats.h"
#include "observe/signals.h"
#include "queue/ledger.h"
#include "rollout/record.h"
#include "store/alarm_store.h"
#include "sys/clock.h"

#define WINDOW_MS (60 * 60 * 1000)
#define READING_MEMORY_MAX ((size_t)64 << 20)
#define KEPT_BYTES_MAX ((size_t)8 << 20)
#define THROUGHPUT_SPAN_MS 15000 /* throughput is over at least so long, once there is so much */
#define SHOWN_VERSION_LEN 12

typedef enum {
    PART_LOOP,
    PART_SERVER,
    PART_GATEWAY,
    PART_WEBHOOKS,
    PART_BOARD,
    PART_FRONT,
    PART_WORKER,
    PART_N_
} PartKind;

/* Text of the families that come from the store. */
typedef struct {
    bool taken;
    int64_t at_ms; /* clock_mono_ms */
    Buf text;
} Kept;

/* Tasks ended so far, at a moment: two of them make a rate. */
typedef struct {
    int64_t at_ms;
    uint64_t ended[LANE_N_];
} RatePoint;

struct Metrics {
    Queue *queue;
    pthread_mutex_t lock; /* of all that follows */
    const void *parts[PART_N_][METRICS_SOURCES_MAX];
    size_t parts_n[PART_N_];
    RatePoint older, newer;
    Kept kept[2]; /* by OmFormat */
    int64_t started_real_ms;
};

/* --- parts ------------------------------------------------------------------------------------ */

Metrics *metrics_new(Queue *queue)
{
    Metrics *m = xcalloc(1, sizeof *m);
    m->queue = queue;
    pthread_mutex_init(&m->lock, NULL);
    for (size_t i = 0; i < ARRAY_N(m->kept); i++) buf_init(&m->kept[i].text, KEPT_BYTES_MAX);
    m->started_real_ms = clock_real_ms();
    m->older.at_ms = m->newer.at_ms = clock_mono_ms();
    return m;
}

void metrics_free(Metrics *m)
{
    if (!m) return;
    pthread_mutex_destroy(&m->lock);
    for (size_t i = 0; i < ARRAY_N(m->kept); i++) buf_deinit(&m->kept[i].text);
    free(m);
}

static void part_add(Metrics *m, PartKind kind, const void *part)
{
    pthread_mutex_lock(&m->lock);
    if (m->parts_n[kind] < METRICS_SOURCES_MAX) m->parts[kind][m->parts_n[kind]++] = part;
    pthread_mutex_unlock(&m->lock);
}

void metrics_add_loop(Metrics *m, const Loop *loop)
{
    part_add(m, PART_LOOP, loop);
}

void metrics_add_server(Metrics *m, const HttpServer *server)
{
    part_add(m, PART_SERVER, server);
}

void metrics_add_gateway(Metrics *m, const Gateway *gateway)
{
    part_add(m, PART_GATEWAY, gateway);
}

void metrics_add_board(Metrics *m, RateBoard *board)
{
    part_add(m, PART_BOARD, board);
}

void metrics_add_webhooks(Metrics *m, const Webhooks *webhooks)
{
    part_add(m, PART_WEBHOOKS, webhooks);
}

void metrics_add_front(Metrics *m, const Front *front)
{
    part_add(m, PART_FRONT, front);
}

void metrics_add_worker(Metrics *m, const WorkerHost *worker)
{
    part_add(m, PART_WORKER, worker);
}

void metrics_remove(Metrics *m, const void *part)
{
    pthread_mutex_lock(&m->lock);
    for (int kind = 0; kind < PART_N_; kind++)
        for (size_t i = 0; i < m->parts_n[kind]; i++)
            if (m->parts[kind][i] == part) {
                m->parts[kind][i] = m->parts[kind][--m->parts_n[kind]];
                break;
            }
    pthread_mutex_unlock(&m->lock);
}

/* --- writing ---------------------------------------------------------------------------------- */

/* A family with one sample and no labels, from a field of a struct of counters. */
typedef struct {
    const char *name;
    OmType type;
    const char *help;
    size_t offset;
    bool is_signed; /* int64_t, else uint64_t */
} FieldFamily;

#define COUNTER_OF(struct_, field_, name_, help_)                                                 \
    {                                                                                             \
        .name = (name_), .type = OM_COUNTER, .help = (help_), .offset = offsetof(struct_, field_) \
    }
#define GAUGE_OF(struct_, field_, name_, help_)                                                  \
    {                                                                                            \
        .name = (name_), .type = OM_GAUGE, .help = (help_), .offset = offsetof(struct_, field_), \
        .is_signed = true                                                                        \
    }

static void fields_write(OmOut *out, const FieldFamily *families, size_t n, const void *stats)
{
    for (size_t i = 0; i < n; i++) {
        const char *at = (const char *)stats + families[i].offset;
        int64_t value;
        if (families[i].is_signed) value = *(const int64_t *)(const void *)at;
        else value = (int64_t) * (const uint64_t *)(const void *)at;
        om_family(out, families[i].name, families[i].type, NULL, families[i].help);
        om_sample_i64(out, NULL, 0, value);
    }
}

static void one_write(OmOut *out, const char *name, OmType type, const char *unit, const char *help,
                      double value)
{
    om_family(out, name, type, unit, help);
    om_sample(out, NULL, 0, value);
}

/* --- this process ----------------------------------------------------------------------------- */

static int process_read(void *arg)
{
    process_stats(arg);
    return 0;
}

static void process_write(OmOut *out, const ProcessStats *p, int64_t started_real_ms)
{
    om_family(out, "gantry_build", OM_INFO, NULL, "The running program");
    om_sample(out, &(OmLabel){ "version", STR(GANTRY_VERSION) }, 1, 1);
    one_write(out, "process_cpu_seconds", OM_COUNTER, "seconds", "User and system CPU time",
              p->cpu_seconds);
    one_write(out, "process_resident_memory_bytes", OM_GAUGE, "bytes", "Resident memory",
              (double)p->resident_bytes);
    one_write(out, "process_virtual_memory_bytes", OM_GAUGE, "bytes", "Virtual memory",
              (double)p->virtual_bytes);
    if (p->open_fds >= 0)
        one_write(out, "process_open_fds", OM_GAUGE, NULL, "Open descriptors", (double)p->open_fds);
    if (p->max_fds >= 0)
        one_write(out, "process_max_fds", OM_GAUGE, NULL, "Descriptors allowed",
                  (double)p->max_fds);
    one_write(out, "process_start_time_seconds", OM_GAUGE, "seconds", "Start, in Unix time",
              (double)started_real_ms / 1000);
    one_write(out, "gantry_log_lines_dropped", OM_COUNTER, NULL,
              "Log lines that standard error did not take", (double)log_dropped());
}

/* --- loops, servers, webhooks ----------------------------------------------------------------- */

typedef struct {
    uint64_t slow_slices;
    HttpServerStats http;
    WebhookStats webhooks;
    FrontStats front;
    WorkerStats worker;
} PartSums;

static void http_add(HttpServerStats *sum, const HttpServer *server)
{
    HttpServerStats s;
    http_server_stats(server, &s);
    sum->connections += s.connections;
    sum->requests += s.requests;
    sum->bad_requests += s.bad_requests;
    sum->refused_connections += s.refused_connections;
    sum->timeouts += s.timeouts;
    sum->body_too_large += s.body_too_large;
    sum->headers_too_large += s.headers_too_large;
    sum->write_stalls += s.write_stalls;
    sum->open_connections += s.open_connections;
}

static void webhooks_add(WebhookStats *sum, const Webhooks *webhooks)
{
    WebhookStats s;
    webhooks_stats(webhooks, &s);
    sum->attempts += s.attempts;
    sum->delivered += s.delivered;
    sum->retried += s.retried;
    sum->failed += s.failed;
    sum->postponed += s.postponed;
    sum->host_full += s.host_full;
    sum->full += s.full;
    sum->disabled += s.disabled;
    sum->in_flight += s.in_flight;
}

/* Under the lock, so that no part goes while it is read. */
static PartSums parts_sum(Metrics *m)
{
    PartSums sum = { 0 };
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < m->parts_n[PART_LOOP]; i++)
        sum.slow_slices += loop_slow_slices(m->parts[PART_LOOP][i]);
    for (size_t i = 0; i < m->parts_n[PART_SERVER]; i++)
        http_add(&sum.http, m->parts[PART_SERVER][i]);
    for (size_t i = 0; i < m->parts_n[PART_WEBHOOKS]; i++)
        webhooks_add(&sum.webhooks, m->parts[PART_WEBHOOKS][i]);
    for (size_t i = 0; i < m->parts_n[PART_FRONT]; i++) /* there is one */
        front_stats(m->parts[PART_FRONT][i], &sum.front);
    for (size_t i = 0; i < m->parts_n[PART_WORKER]; i++) /* likewise */
        worker_stats(m->parts[PART_WORKER][i], &sum.worker);
    pthread_mutex_unlock(&m->lock);
    return sum;
}

static const FieldFamily part_families[] = {
    COUNTER_OF(PartSums, front.served, "gantry_front_requests",
               "Requests to models at the server's port that reached the gateway"),
    COUNTER_OF(PartSums, front.refused, "gantry_front_refused",
               "Requests to models at the server's port without a key for it, or malformed"),
    COUNTER_OF(PartSums, front.away, "gantry_front_away",
               "Requests to models refused while starting, ending or with too many callers"),
    GAUGE_OF(PartSums, front.callers, "gantry_front_callers",
             "Keys and users whose calls have a place in memory"),
    COUNTER_OF(PartSums, front.evicted, "gantry_front_evicted",
               "Keys and users that made room for others"),
    COUNTER_OF(PartSums, worker.stuck, "gantry_agents_stuck",
               "Attempts ended by this process because the agent did nothing any more"),
    GAUGE_OF(PartSums, worker.suspended, "gantry_tasks_suspended",
             "Tasks here that wait for sub-agents without a slot"),
    COUNTER_OF(PartSums, worker.suspensions, "gantry_suspensions",
               "Times a task here has given its slot back to wait for sub-agents"),
    COUNTER_OF(PartSums, worker.suspensions_refused, "gantry_suspensions_refused",
               "Tasks given back to the queue because too many wait for sub-agents"),
    COUNTER_OF(PartSums, worker.limits_hit[RESOURCE_MEMORY], "gantry_limit_memory",
               "Agents and tools of this process ended at limits.memoryBytes"),
    COUNTER_OF(PartSums, worker.limits_hit[RESOURCE_CPU], "gantry_limit_cpu",
               "Agents and tools of this process ended at limits.cpuSeconds"),
    COUNTER_OF(PartSums, worker.limits_hit[RESOURCE_PROCESSES], "gantry_limit_processes",
               "Agents and tools of this process ended at limits.processes"),
    COUNTER_OF(PartSums, worker.limits_hit[RESOURCE_FILES], "gantry_limit_files",
               "Agents and tools of this process that failed at limits.files"),
    COUNTER_OF(PartSums, worker.limits_hit[RESOURCE_SCRATCH], "gantry_limit_scratch",
               "Agents and tools of this process ended at limits.scratchBytes"),
    COUNTER_OF(PartSums, worker.outputs_too_large, "gantry_limit_output",
               "Agents of this process whose result was too large"),
    COUNTER_OF(PartSums, worker.servers_started, "gantry_server_agents_started",
               "Server agents started by this process"),
    COUNTER_OF(
        PartSums, worker.servers_failed, "gantry_server_agents_failed",
        "Server agents of this process that ended by themselves, fell sick or did not start"),
    COUNTER_OF(PartSums, worker.servers_crowded, "gantry_server_agents_crowded",
               "Attempts that found no room for their server agent"),
    COUNTER_OF(PartSums, slow_slices, "gantry_loop_slow_slices",
               "Times something held an event loop for more than 50 ms"),
    COUNTER_OF(PartSums, http.connections, "gantry_http_connections", "Connections accepted"),
    COUNTER_OF(PartSums, http.requests, "gantry_http_requests", "Requests received whole"),
    COUNTER_OF(PartSums, http.bad_requests, "gantry_http_bad_requests",
               "Requests refused as malformed"),
    COUNTER_OF(PartSums, http.refused_connections, "gantry_http_refused_connections",
               "Connections over the limit"),
    COUNTER_OF(PartSums, http.timeouts, "gantry_http_timeouts",
               "Requests that did not arrive in time"),
    COUNTER_OF(PartSums, http.body_too_large, "gantry_http_bodies_too_large",
               "Requests whose body was over its limit"),
    COUNTER_OF(PartSums, http.headers_too_large, "gantry_http_heads_too_large",
               "Requests whose head was over its limit"),
    COUNTER_OF(PartSums, http.write_stalls, "gantry_http_write_stalls",
               "Answers cut off because the client did not read"),
    GAUGE_OF(PartSums, http.open_connections, "gantry_http_open_connections",
             "Connections open now"),
    COUNTER_OF(PartSums, webhooks.attempts, "gantry_webhook_attempts", "Webhook requests begun"),
    COUNTER_OF(PartSums, webhooks.delivered, "gantry_webhooks_delivered", "Webhooks delivered"),
    COUNTER_OF(PartSums, webhooks.retried, "gantry_webhooks_retried",
               "Webhook attempts that will be made again"),
    COUNTER_OF(PartSums, webhooks.failed, "gantry_webhooks_failed", "Webhooks given up"),
    COUNTER_OF(PartSums, webhooks.postponed, "gantry_webhooks_postponed",
               "Webhook attempts put off because their host's breaker was open"),
    COUNTER_OF(PartSums, webhooks.host_full, "gantry_webhooks_host_full",
               "Times webhooks waited because their host had all attempts it may have"),
    COUNTER_OF(PartSums, webhooks.full, "gantry_webhooks_full",
               "Searches that left something due: all attempts were under way"),
    COUNTER_OF(PartSums, webhooks.disabled, "gantry_webhook_endpoints_disabled",
               "Webhook endpoints that answered 410"),
    GAUGE_OF(PartSums, webhooks.in_flight, "gantry_webhooks_in_flight", "Webhooks being sent"),
};

/* --- store ------------------------------------------------------------------------------------ */

static const FieldFamily store_families[] = {
    COUNTER_OF(StoreStats, commits, "gantry_store_commits", "Transactions committed"),
    COUNTER_OF(StoreStats, jobs, "gantry_store_jobs", "Write jobs run"),
    COUNTER_OF(StoreStats, jobs_failed, "gantry_store_jobs_failed",
               "Write jobs undone for an outcome or an error"),
    COUNTER_OF(StoreStats, reads, "gantry_store_reads", "Read jobs run"),
    COUNTER_OF(StoreStats, refused_full, "gantry_store_refused",
               "Jobs refused because too many were waiting"),
    COUNTER_OF(StoreStats, disk_full, "gantry_store_disk_full",
               "Transactions undone because the disk was full"),
    GAUGE_OF(StoreStats, room_bytes, "gantry_store_room_bytes",
             "Bytes left on the disk and in the database's free pages"),
    GAUGE_OF(StoreStats, batch_jobs_peak, "gantry_store_batch_jobs_peak",
             "Most jobs in one transaction"),
};

static void store_write(OmOut *out, const Store *store)
{
    StoreStats s;
    store_stats(store, &s);
    fields_write(out, store_families, ARRAY_N(store_families), &s);
    one_write(out, "gantry_store_commit_seconds", OM_COUNTER, "seconds", "Time spent in commits",
              (double)s.commit_us_total / 1e6);
}

/* --- lanes ------------------------------------------------------------------------------------ */

static OmLabel lane_label(int lane)
{
    return (OmLabel){ "lane", str_of(lane_name((Lane)lane)) };
}

typedef struct {
    const char *name;
    OmType type;
    const char *help;
    size_t offset; /* in QueueStats.lane[] */
} LaneFamily;

#define LANE_FIELD(field_) (offsetof(QueueStats, lane[0].field_) - offsetof(QueueStats, lane[0]))

static const LaneFamily lane_families[] = {
    { "gantry_queue_depth", OM_GAUGE, "Tasks waiting", LANE_FIELD(queued) },
    { "gantry_tasks_running", OM_GAUGE, "Tasks running", LANE_FIELD(running) },
    { "gantry_tasks_submitted", OM_COUNTER, "Tasks accepted", LANE_FIELD(submitted) },
    { "gantry_tasks_claimed", OM_COUNTER, "Attempts begun", LANE_FIELD(claimed) },
    { "gantry_tasks_refused", OM_COUNTER, "Tasks refused because the lane was full",
      LANE_FIELD(refused_full) },
    { "gantry_tasks_late", OM_COUNTER, "Attempts begun after longer than the lane's objective",
      LANE_FIELD(late) },
    { "gantry_attempts_ended", OM_COUNTER, "Attempts ended", LANE_FIELD(ran) },
    { "gantry_tasks_retried", OM_COUNTER, "Attempts that were queued again after a failure",
      LANE_FIELD(retried) },
    { "gantry_tasks_lost", OM_COUNTER, "Attempts lost with their worker", LANE_FIELD(lost) },
    { "gantry_tasks_released", OM_COUNTER, "Attempts given back unfinished", LANE_FIELD(released) },
};

static void lanes_write(OmOut *out, const QueueStats *q)
{
    for (size_t i = 0; i < ARRAY_N(lane_families); i++) {
        const LaneFamily *f = &lane_families[i];
        om_family(out, f->name, f->type, NULL, f->help);
        for (int lane = 0; lane < LANE_N_; lane++) {
            OmLabel label = lane_label(lane);
            /* gauges are int64_t, counters uint64_t: both fit the read below 2^63 */
            const char *at = (const char *)&q->lane[lane] + f->offset;
            om_sample_i64(out, &label, 1, *(const int64_t *)(const void *)at);
        }
    }
}

/* How long tasks waited of late, against how long they may. */
static void waits_write(OmOut *out, const QueueStats *q, const QueueOptions *options)
{
    om_family(out, "gantry_wait_objective_seconds", OM_GAUGE, "seconds",
              "How long a task of the lane may wait for a slot");
    for (int lane = 0; lane < LANE_N_; lane++) {
        OmLabel label = lane_label(lane);
        om_sample(out, &label, 1, (double)options->wait_objective_ms[lane] / 1000);
    }
    om_family(out, "gantry_wait_p50_seconds", OM_GAUGE, "seconds",
              "Median wait for a slot in the last minutes");
    for (int lane = 0; lane < LANE_N_; lane++) {
        OmLabel label = lane_label(lane);
        om_sample(out, &label, 1, (double)q->lane[lane].waits.p50_ms / 1000);
    }
    om_family(out, "gantry_wait_p99_seconds", OM_GAUGE, "seconds",
              "99th percentile of waits for a slot in the last minutes");
    for (int lane = 0; lane < LANE_N_; lane++) {
        OmLabel label = lane_label(lane);
        om_sample(out, &label, 1, (double)q->lane[lane].waits.p99_ms / 1000);
    }
    om_family(out, "gantry_attempt_seconds", OM_COUNTER, "seconds",
              "Time that attempts which ended held their slots");
    for (int lane = 0; lane < LANE_N_; lane++) {
        OmLabel label = lane_label(lane);
        om_sample(out, &label, 1, (double)q->lane[lane].ran_ms / 1000);
    }
}

static void ended_write(OmOut *out, const QueueStats *q)
{
    om_family(out, "gantry_tasks", OM_COUNTER, NULL, "Tasks ended or escalated, by outcome");
    for (int lane = 0; lane < LANE_N_; lane++)
        for (int state = TASK_SUCCEEDED; state < TASK_STATE_N_; state++) {
            OmLabel labels[] = { lane_label(lane),
                                 { "outcome", str_of(task_state_name((TaskState)state)) } };
            om_sample_i64(out, labels, 2, (int64_t)q->lane[lane].ended[state]);
        }
}

static const FieldFamily queue_families[] = {
    COUNTER_OF(QueueStats, tools_ok, "gantry_tool_calls_ok", "Calls of tools that went well"),
    COUNTER_OF(QueueStats, tools_failed, "gantry_tool_calls_failed",
               "Calls of tools that ran and did not go well"),
    COUNTER_OF(QueueStats, tools_refused, "gantry_tool_calls_refused",
               "Calls of tools that were not made: arguments, rules, flags, caps, breakers"),
    COUNTER_OF(QueueStats, children_started, "gantry_subagents_started",
               "Tasks started by running tasks"),
    COUNTER_OF(QueueStats, children_found, "gantry_subagents_found",
               "Of these, found again by a later attempt or request"),
    COUNTER_OF(QueueStats, children_refused[FAMILY_TOO_DEEP], "gantry_subagents_too_deep",
               "Sub-agents refused because they would be too deep"),
    COUNTER_OF(QueueStats, children_refused[FAMILY_TOO_WIDE], "gantry_subagents_too_many",
               "Sub-agents refused because their task had started too many"),
    COUNTER_OF(QueueStats, children_refused[FAMILY_TOO_LARGE], "gantry_subagents_too_large",
               "Sub-agents refused because the first task has too many below it"),
    COUNTER_OF(QueueStats, claims_lost, "gantry_claims_lost",
               "Tasks claimed that never reached their worker, and were queued again"),
    COUNTER_OF(QueueStats, stale, "gantry_stale_reports",
               "Reports refused because their task had been given to another attempt"),
    COUNTER_OF(QueueStats, log_lines_left_out, "gantry_task_log_lines_left_out",
               "Lines of tasks' logs left out between the first and the last, for the limit"),
    COUNTER_OF(QueueStats, log_bytes_left_out, "gantry_task_log_left_out_bytes",
               "Text of these lines"),
    COUNTER_OF(QueueStats, journal_recordings, "gantry_journal_recordings",
               "Answers of models and tools recorded, to be served to later attempts"),
    COUNTER_OF(QueueStats, journal_bytes, "gantry_journal_bytes", "Bytes recorded, as stored"),
    COUNTER_OF(QueueStats, journal_dropped, "gantry_journal_dropped",
               "Answers not recorded because the journal of their task was full"),
    COUNTER_OF(QueueStats, journal_closed, "gantry_journal_full",
               "Tasks whose journal became full"),
    COUNTER_OF(QueueStats, journal_purged, "gantry_journal_purged",
               "Recordings deleted after their time"),
    COUNTER_OF(QueueStats, tasks_purged, "gantry_tasks_purged",
               "Tasks deleted, with all that belonged to them, after their time"),
    COUNTER_OF(QueueStats, rows_purged, "gantry_rows_purged",
               "Rows of the database deleted with them, and other old ones"),
    COUNTER_OF(QueueStats, schedules_fired, "gantry_schedules_fired",
               "Tasks submitted by schedules"),
    COUNTER_OF(QueueStats, schedules_missed, "gantry_schedules_missed",
               "Times of schedules passed over because no server ran then"),
    COUNTER_OF(QueueStats, schedules_skipped, "gantry_schedules_skipped",
               "Times of schedules passed over because the task of the last one had not ended"),
    COUNTER_OF(QueueStats, schedules_failed, "gantry_schedules_failed",
               "Times of schedules for which no task could be submitted"),
    COUNTER_OF(QueueStats, graded, "gantry_graded_tasks", "Tasks that graders have looked at"),
    COUNTER_OF(QueueStats, grades_failed, "gantry_grades_failed",
               "Scores that a grader could not give"),
    COUNTER_OF(QueueStats, grades_held, "gantry_grades_held",
               "Scores a judge was not asked for, for want of money or room"),
    COUNTER_OF(QueueStats, escalations[ESCALATION_PENDING], "gantry_escalations",
               "Questions put to a person"),
    COUNTER_OF(QueueStats, escalations[ESCALATION_ANSWERED], "gantry_escalations_answered",
               "Questions that a person has answered"),
    COUNTER_OF(QueueStats, escalations[ESCALATION_DEFAULTED], "gantry_escalations_defaulted",
               "Questions that nobody answered in time: the default was taken"),
    COUNTER_OF(QueueStats, escalations[ESCALATION_EXPIRED], "gantry_escalations_expired",
               "Questions that nobody answered in time, without a default"),
    COUNTER_OF(QueueStats, state_reads, "gantry_state_reads", "Reads of what agents keep"),
    COUNTER_OF(QueueStats, state_writes, "gantry_state_writes", "Writes of what agents keep"),
    COUNTER_OF(QueueStats, state_mismatches, "gantry_state_mismatches",
               "Conditional writes that met another version"),
    COUNTER_OF(QueueStats, state_refused, "gantry_state_refused",
               "Writes refused because a value or a session was too large"),
    COUNTER_OF(QueueStats, state_purged, "gantry_state_purged",
               "Values and sessions deleted after their time"),
    COUNTER_OF(QueueStats, accounts_refused, "gantry_accounts_refused",
               "Calls of new users refused because their tenant has its maximum of accounts"),
    COUNTER_OF(QueueStats, refused_disk, "gantry_tasks_refused_disk",
               "Tasks refused because the disk is nearly full"),
    COUNTER_OF(QueueStats, session_waits, "gantry_session_waits",
               "Tasks that waited for others of their session until they might start"),
    COUNTER_OF(QueueStats, escalations_refused, "gantry_escalations_refused",
               "Questions not put to a person because the task had asked too many"),
    COUNTER_OF(QueueStats, schedules_refused, "gantry_schedules_refused",
               "Schedules not made because there were too many"),
    COUNTER_OF(QueueStats, scores_refused, "gantry_scores_refused",
               "Scores not kept because the task had those of too many names"),
    COUNTER_OF(QueueStats, limited, "gantry_lines_limited",
               "Lines of tasks that claims passed over at a limit of their agent or tenant"),
    GAUGE_OF(QueueStats, claimers, "gantry_claims_waiting", "Claims waiting for a task"),
    GAUGE_OF(QueueStats, watchers, "gantry_watchers", "Clients waiting for a change of a task"),
    GAUGE_OF(QueueStats, followers, "gantry_event_streams", "Open streams of tasks' events"),
    COUNTER_OF(QueueStats, followers_refused, "gantry_event_streams_refused",
               "Streams of events refused for limits.eventStreams"),
};

/* --- throughput ------------------------------------------------------------------------------- */

static RatePoint rate_point(const QueueStats *q)
{
    RatePoint point = { .at_ms = clock_mono_ms() };
    for (int lane = 0; lane < LANE_N_; lane++)
        for (int state = TASK_SUCCEEDED; state < TASK_STATE_N_; state++)
            point.ended[lane] += q->lane[lane].ended[state];
    return point;
}

/* Tasks a second since a moment at least THROUGHPUT_SPAN_MS ago, once there is one. */
static const FieldFamily ledger_families[] = {
    COUNTER_OF(LedgerStats, granted, "gantry_budget_granted",
               "Questions of workers that were answered with a slice of a budget"),
    COUNTER_OF(LedgerStats, waited, "gantry_budget_waited",
               "Questions that waited for reserved money to be settled or returned"),
    COUNTER_OF(LedgerStats, refused, "gantry_budget_refused",
               "Questions that were refused because a budget is spent"),
    COUNTER_OF(LedgerStats, proven, "gantry_budget_proven",
               "Dead workers whose calls in flight became known"),
    COUNTER_OF(LedgerStats, looked, "gantry_budget_looked",
               "Looks whether a question can be answered, first ones included"),
    COUNTER_OF(LedgerStats, woken, "gantry_budget_woken",
               "Of these, because something had been spent or returned"),
    COUNTER_OF(LedgerStats, folded, "gantry_budget_slices_folded",
               "Slices of workers that are gone, added up"),
    COUNTER_OF(LedgerStats, purged, "gantry_spend_purged", "Hourly sums of spend deleted by age"),
    GAUGE_OF(LedgerStats, asking, "gantry_budget_waiting", "Questions waiting now"),
};

/* Budgets of users are left out: their names are no labels. */
static void budgets_write(OmOut *out, const Budget *budgets, size_t n)
{
    static const struct {
        const char *names[BUDGET_UNIT_N_];
        const char *help;
        size_t offset;
    } families[] = {
        { { "gantry_budget_limit_usd", "gantry_budget_limit_tokens" },
          "What may be spent in the day or month",
          offsetof(Budget, limit) },
        { { "gantry_budget_settled_usd", "gantry_budget_settled_tokens" },
          "What is spent in the day or month",
          offsetof(Budget, settled) },
        { { "gantry_budget_reserved_usd", "gantry_budget_reserved_tokens" },
          "What is set aside for workers",
          offsetof(Budget, leased) },
    };
    for (size_t i = 0; i < ARRAY_N(families) * BUDGET_UNIT_N_; i++) {
        BudgetUnit unit = (BudgetUnit)(i % BUDGET_UNIT_N_);
        size_t f = i / BUDGET_UNIT_N_;
        om_family(out, families[f].names[unit], OM_GAUGE, unit == BUDGET_USD ? "usd" : NULL,
                  families[f].help);
        for (size_t k = 0; k < n; k++) {
            const Budget *b = &budgets[k];
            char scope[BUDGET_SCOPE_TEXT_MAX];
            bool shown = b->limited && b->scope.unit == unit && b->scope.kind != BUDGET_USER &&
                         !str_eq(b->scope.key, STR("*"));
            if (!shown) continue;
            OmLabel label = { "scope", str_of(budget_scope_text(&b->scope, scope)) };
            const char *at = (const char *)b + families[f].offset;
            double value = (double)*(const int64_t *)(const void *)at;
            om_sample(out, &label, 1, unit == BUDGET_USD ? value / NUSD_PER_USD : value);
        }
    }
}

static void throughput_write(Metrics *m, OmOut *out, const QueueStats *q)
{
    RatePoint now = rate_point(q), from;
    pthread_mutex_lock(&m->lock);
    from = m->older;
    if (now.at_ms - m->newer.at_ms >= THROUGHPUT_SPAN_MS) {
        m->older = m->newer;
        m->newer = now;
    }
    pthread_mutex_unlock(&m->lock);
    double seconds = (double)MAX(now.at_ms - from.at_ms, 1) / 1000;
    om_family(out, "gantry_task_throughput", OM_GAUGE, NULL,
              "Tasks ended a second, over the last half minute or so");
    for (int lane = 0; lane < LANE_N_; lane++) {
        OmLabel label = lane_label(lane);
        om_sample(out, &label, 1, (double)(now.ended[lane] - from.ended[lane]) / seconds);
    }
}

/* --- rate limits, breakers -------------------------------------------------------------------- */

#define BREAKERS_READ_MAX 2048

static const FieldFamily limit_families[] = {
    COUNTER_OF(GatewayLimitStats, queue_full, "gantry_gateway_queue_full",
               "Model calls refused because too many waited already"),
    COUNTER_OF(GatewayLimitStats, overdue, "gantry_gateway_overdue",
               "Model calls for which a rate limit left no room in time"),
    COUNTER_OF(GatewayLimitStats, throttled, "gantry_gateway_throttled",
               "Answers of providers that said that they were asked too often"),
    COUNTER_OF(GatewayLimitStats, retries, "gantry_gateway_retries",
               "Attempts made again at the same model"),
    COUNTER_OF(GatewayLimitStats, retries_exhausted, "gantry_gateway_retries_exhausted",
               "Attempts not made again for want of retry budget"),
    COUNTER_OF(GatewayLimitStats, fallbacks, "gantry_gateway_fallbacks",
               "Attempts at the next model"),
    COUNTER_OF(GatewayLimitStats, heartbeats, "gantry_gateway_heartbeats",
               "Comments sent to streams that waited"),
    COUNTER_OF(GatewayLimitStats, models_full, "gantry_gateway_models_full",
               "Model calls of models beyond those that are counted one by one"),
};

static void lane_counts_write(OmOut *out, const char *name, OmType type, const char *help,
                              const uint64_t counts[LANE_N_])
{
    om_family(out, name, type, NULL, help);
    for (int lane = 0; lane < LANE_N_; lane++) {
        OmLabel label = lane_label(lane);
        om_sample_i64(out, &label, 1, (int64_t)counts[lane]);
    }
}

static void limits_write(OmOut *out, RateBoard *board)
{
    GatewayLimitStats stats;
    rate_board_stats(board, &stats);
    lane_counts_write(out, "gantry_gateway_waiting", OM_GAUGE,
                      "Model calls that wait for a rate limit", stats.waiting);
    lane_counts_write(out, "gantry_gateway_limited", OM_COUNTER,
                      "Model calls that had to wait for a rate limit", stats.waited);
    one_write(out, "gantry_gateway_limited_seconds", OM_COUNTER, "seconds",
              "How long they waited, all together", (double)stats.waited_us / 1e6);
    fields_write(out, limit_families, ARRAY_N(limit_families), &stats);
}

static void breakers_write(OmOut *out, RateBoard *board)
{
    static const struct {
        const char *kind, *name, *help;
    } families[] = {
        { "model", "gantry_model_breakers", "Circuit breakers of models, by state" },
        { "tool", "gantry_tool_breakers", "Circuit breakers of tool sources, by state" },
        { "webhook", "gantry_webhook_breakers", "Circuit breakers of webhook hosts, by state" },
    };
    BoardBreaker *list = xcalloc(BREAKERS_READ_MAX, sizeof *list);
    size_t n = rate_board_breakers(board, list, BREAKERS_READ_MAX);
    for (size_t f = 0; f < ARRAY_N(families); f++) {
        om_family(out, families[f].name, OM_GAUGE, NULL, families[f].help);
        for (BreakerState state = 0; state < BREAKER_N_; state++) {
            OmLabel label = { "outcome", str_of(breaker_state_name(state)) };
            int64_t count = 0;
            for (size_t i = 0; i < n; i++)
                count += list[i].breaker.state == state &&
                         strcmp(list[i].breaker.kind, families[f].kind) == 0;
            om_sample_i64(out, &label, 1, count);
        }
    }
    free(list);
}

/* Under the lock, so that it does not go meanwhile. */
static void board_write(Metrics *m, OmOut *out)
{
    pthread_mutex_lock(&m->lock);
    if (m->parts_n[PART_BOARD] > 0) {
        RateBoard *board = (RateBoard *)(uintptr_t)m->parts[PART_BOARD][0];
        limits_write(out, board);
        breakers_write(out, board);
    }
    pthread_mutex_unlock(&m->lock);
}

/* --- gateway ---------------------------------------------------------------------------------- */

static GatewayModelStats *model_of(GatewayStats *sum, const GatewayModelStats *like)
{
    for (size_t i = 0; i < sum->models_n; i++)
        if (strcmp(sum->models[i].provider, like->provider) == 0 &&
            strcmp(sum->models[i].model, like->model) == 0)
            return &sum->models[i];
    if (sum->models_n > GATEWAY_STATS_MODELS_MAX) return NULL;
    GatewayModelStats *model = &sum->models[sum->models_n++];
    memcpy(model->provider, like->provider, sizeof model->provider);
    memcpy(model->model, like->model, sizeof model->model);
    return model;
}

static void gateway_add(GatewayStats *sum, const GatewayStats *s)
{
    for (int i = 0; i < GATEWAY_REFUSED_N_; i++) sum->refused[i] += s->refused[i];
    for (int i = 0; i < GATEWAY_DEGRADED_N_; i++) sum->degraded[i] += s->degraded[i];
    sum->waited += s->waited;
    sum->clamped += s->clamped;
    sum->disarmed += s->disarmed;
    sum->usage_missing += s->usage_missing;
    sum->over_hold += s->over_hold;
    sum->room_waited += s->room_waited;
    sum->room_refused += s->room_refused;
    sum->request_bytes += s->request_bytes;
    sum->cache.hits += s->cache.hits;
    sum->cache.misses += s->cache.misses;
    sum->cache.stored += s->cache.stored;
    sum->cache.evicted += s->cache.evicted;
    sum->cache.expired += s->cache.expired;
    sum->cache.purged += s->cache.purged;
    sum->cache.too_large += s->cache.too_large;
    sum->cache.bytes += s->cache.bytes;
    sum->cache.entries += s->cache.entries;
    sum->tools_removed += s->tools_removed;
    sum->state_forgotten += s->state_forgotten;
    sum->listener_refused += s->listener_refused;
    sum->listener_bad += s->listener_bad;
    sum->listener_stalls += s->listener_stalls;
    sum->translated += s->translated;
    sum->untranslatable += s->untranslatable;
    sum->untranslated += s->untranslated;
    sum->replayed += s->replayed;
    sum->attached += s->attached;
    sum->undelivered += s->undelivered;
    sum->redelivered += s->redelivered;
    sum->undelivered_dropped += s->undelivered_dropped;
    sum->cache_joined += s->cache_joined;
    sum->replayed_tools += s->replayed_tools;
    sum->replay_misses += s->replay_misses;
    sum->not_recorded += s->not_recorded;
    sum->in_flight += s->in_flight;
    sum->tasks_open += s->tasks_open;
    for (size_t i = 0; i < s->models_n; i++) {
        const GatewayModelStats *from = &s->models[i];
        GatewayModelStats *to = model_of(sum, from);
        if (!to) continue;
        for (int o = 0; o < GATEWAY_OUTCOME_N_; o++) to->calls[o] += from->calls[o];
        to->input_tokens += from->input_tokens;
        to->output_tokens += from->output_tokens;
        to->cached_tokens += from->cached_tokens;
        to->cost_nusd += from->cost_nusd;
        to->duration_us += from->duration_us;
    }
}

static const FieldFamily gateway_families[] = {
    COUNTER_OF(GatewayStats, waited, "gantry_gateway_waited",
               "Calls that queued for spend held by others"),
    COUNTER_OF(GatewayStats, clamped, "gantry_gateway_clamped",
               "Calls whose output limit was lowered to fit"),
    COUNTER_OF(GatewayStats, disarmed, "gantry_gateway_disarmed",
               "Calls sent so that they can ask for no tool: toolCallsPerTask is reached"),
    COUNTER_OF(GatewayStats, usage_missing, "gantry_gateway_usage_missing",
               "Calls charged in full because the provider reported no usage"),
    COUNTER_OF(GatewayStats, over_hold, "gantry_gateway_over_hold",
               "Calls that cost more than was held for them"),
    COUNTER_OF(GatewayStats, room_waited, "gantry_gateway_room_waited",
               "Requests that waited until others' bytes had gone"),
    COUNTER_OF(GatewayStats, room_refused, "gantry_gateway_room_refused",
               "Requests refused because there was no room for their bytes in time"),
    GAUGE_OF(GatewayStats, request_bytes, "gantry_gateway_request_bytes",
             "Bytes of the requests that are in the gateway"),
    COUNTER_OF(GatewayStats, cache.hits, "gantry_gateway_cache_hits",
               "Calls answered from the response cache, at no cost"),
    COUNTER_OF(GatewayStats, cache.misses, "gantry_gateway_cache_misses",
               "Calls that the response cache had no answer for"),
    COUNTER_OF(GatewayStats, cache.stored, "gantry_gateway_cache_stored",
               "Answers put into the response cache"),
    COUNTER_OF(GatewayStats, cache.evicted, "gantry_gateway_cache_evicted",
               "Cached answers dropped to make room"),
    COUNTER_OF(GatewayStats, cache.expired, "gantry_gateway_cache_expired",
               "Cached answers found too old"),
    COUNTER_OF(GatewayStats, cache.purged, "gantry_gateway_cache_purged",
               "Cached answers dropped on request"),
    COUNTER_OF(GatewayStats, cache.too_large, "gantry_gateway_cache_too_large",
               "Answers too large for the response cache"),
    GAUGE_OF(GatewayStats, cache.bytes, "gantry_gateway_cache_bytes",
             "Memory the response cache takes"),
    GAUGE_OF(GatewayStats, cache.entries, "gantry_gateway_cache_entries",
             "Answers in the response cache"),
    COUNTER_OF(GatewayStats, translated, "gantry_gateway_translated",
               "Attempts in another API than the agent's"),
    COUNTER_OF(GatewayStats, untranslatable, "gantry_gateway_untranslatable",
               "Models refused or passed over because the request does not fit their API"),
    COUNTER_OF(GatewayStats, untranslated, "gantry_gateway_untranslated",
               "Answers that could not be put in the agent's API"),
    COUNTER_OF(GatewayStats, listener_refused, "gantry_gateway_listener_refused",
               "Connections beyond those that a task may have, counted at its end"),
    COUNTER_OF(GatewayStats, listener_bad, "gantry_gateway_listener_bad",
               "Agents' requests that were malformed, too large or too late, counted at their end"),
    COUNTER_OF(GatewayStats, listener_stalls, "gantry_gateway_listener_stalls",
               "Answers that agents did not read in time, counted at their end"),
    COUNTER_OF(GatewayStats, state_forgotten, "gantry_gateway_state_forgotten",
               "Ids of what providers keep that are not remembered any more: only the last are"),
    COUNTER_OF(GatewayStats, tools_removed, "gantry_gateway_tools_removed",
               "Tools taken out of requests: undeclared, declared otherwise, or switched off"),
    COUNTER_OF(GatewayStats, replayed, "gantry_gateway_replayed",
               "Calls answered from the journal of their task, at no cost"),
    COUNTER_OF(GatewayStats, cache_joined, "gantry_gateway_cache_joined",
               "Calls that waited for the answer to the same call, and were given it"),
    COUNTER_OF(GatewayStats, attached, "gantry_gateway_attached",
               "Calls made again that followed the one still going"),
    COUNTER_OF(GatewayStats, undelivered, "gantry_gateway_undelivered",
               "Recorded answers whose client had left before their end"),
    COUNTER_OF(GatewayStats, redelivered, "gantry_gateway_redelivered",
               "Calls made again that were given the answer to the first, at no cost"),
    COUNTER_OF(GatewayStats, undelivered_dropped, "gantry_gateway_undelivered_dropped",
               "Answers forgotten because too many of their task waited for clients to come back"),
    COUNTER_OF(GatewayStats, replayed_tools, "gantry_gateway_replayed_tools",
               "Tool calls answered from the journal of their task"),
    COUNTER_OF(GatewayStats, replay_misses, "gantry_gateway_replay_misses",
               "Calls made anew by attempts that had recordings left to replay"),
    COUNTER_OF(GatewayStats, not_recorded, "gantry_gateway_not_recorded",
               "Answers too large for the journal"),
    GAUGE_OF(GatewayStats, in_flight, "gantry_gateway_in_flight", "Model calls under way"),
    GAUGE_OF(GatewayStats, tasks_open, "gantry_gateway_tasks_open",
             "Tasks with a gateway listener"),
};

typedef struct {
    const char *name, *unit, *help;
    size_t offset; /* of a uint64_t in GatewayModelStats */
    double scale;
} ModelFamily;

static const ModelFamily model_families[] = {
    { "gantry_llm_input_tokens", NULL, "Input tokens billed",
      offsetof(GatewayModelStats, input_tokens), 1 },
    { "gantry_llm_output_tokens", NULL, "Output tokens billed",
      offsetof(GatewayModelStats, output_tokens), 1 },
    { "gantry_llm_cached_tokens", NULL, "Input tokens read from the provider's cache",
      offsetof(GatewayModelStats, cached_tokens), 1 },
    { "gantry_llm_cost_usd", "usd", "What model calls cost", offsetof(GatewayModelStats, cost_nusd),
      1e-9 },
    { "gantry_llm_duration_seconds", "seconds", "Time that model calls took, summed",
      offsetof(GatewayModelStats, duration_us), 1e-6 },
};

static void models_write(OmOut *out, const GatewayStats *g)
{
    om_family(out, "gantry_llm_calls", OM_COUNTER, NULL, "Model calls sent, by outcome");
    for (size_t i = 0; i < g->models_n; i++)
        for (int o = 0; o < GATEWAY_REFUSED; o++) { /* which is not sent */
            OmLabel labels[] = { { "provider", str_of(g->models[i].provider) },
                                 { "model", str_of(g->models[i].model) },
                                 { "outcome", str_of(gateway_outcome_name((GatewayOutcome)o)) } };
            om_sample_i64(out, labels, 3, (int64_t)g->models[i].calls[o]);
        }
    for (size_t f = 0; f < ARRAY_N(model_families); f++) {
        om_family(out, model_families[f].name, OM_COUNTER, model_families[f].unit,
                  model_families[f].help);
        for (size_t i = 0; i < g->models_n; i++) {
            OmLabel labels[] = { { "provider", str_of(g->models[i].provider) },
                                 { "model", str_of(g->models[i].model) } };
            const char *at = (const char *)&g->models[i] + model_families[f].offset;
            uint64_t value = *(const uint64_t *)(const void *)at;
            om_sample(out, labels, 2, (double)value * model_families[f].scale);
        }
    }
}

static void gateways_write(Metrics *m, OmOut *out)
{
    GatewayStats *sum = xcalloc(1, sizeof *sum), *one = xcalloc(1, sizeof *one);
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < m->parts_n[PART_GATEWAY]; i++) {
        gateway_stats(m->parts[PART_GATEWAY][i], one);
        gateway_add(sum, one);
    }
    pthread_mutex_unlock(&m->lock);
    models_write(out, sum);
    om_family(
        out, "gantry_gateway_refused", OM_COUNTER, NULL,
        "Model calls refused, by reason; failed: also those whose answer could not be recorded");
    for (int i = 0; i < GATEWAY_REFUSED_N_; i++) {
        OmLabel label = { "outcome", str_of(gateway_refused_name((GatewayRefused)i)) };
        om_sample_i64(out, &label, 1, (int64_t)sum->refused[i]);
    }
    om_family(out, "gantry_gateway_degraded", OM_COUNTER, NULL,
              "Calls degraded for want of money or of a healthy model, by step");
    for (size_t i = 0; i < GATEWAY_DEGRADED_N_; i++) {
        OmLabel label = { "step", str_of(gateway_degraded_name((GatewayDegraded)i)) };
        om_sample_i64(out, &label, 1, (int64_t)sum->degraded[i]);
    }
    fields_write(out, gateway_families, ARRAY_N(gateway_families), sum);
    free(sum);
    free(one);
}

/* --- rollouts --------------------------------------------------------------------------------- */

static const FieldFamily rollout_families[] = {
    COUNTER_OF(RecordStats, ticks, "gantry_rollout_ticks", "Ticks of rollouts"),
    COUNTER_OF(RecordStats, fates[FATE_COUNTS], "gantry_rollout_units_compared",
               "Outcomes of units that were compared, of both arms"),
    COUNTER_OF(RecordStats, fates[FATE_FAILED], "gantry_rollout_units_late",
               "Units that counted as failed because they ran beyond their limit"),
    COUNTER_OF(RecordStats, fates[FATE_DROPPED], "gantry_rollout_units_dropped",
               "Units left out: canceled, never started, not scored, answered by another model"),
    COUNTER_OF(RecordStats, paged, "gantry_rollout_pages", "Times a rollout needed a person"),
    COUNTER_OF(RecordStats, judge_holds, "gantry_rollout_judge_holds",
               "Ticks at which a judge had changed, or graders could not tell of too many tasks"),
    COUNTER_OF(RecordStats, shadows[SHADOW_CHOSEN], "gantry_shadow_pairs_chosen",
               "Production tasks that were chosen to be repeated unseen"),
    COUNTER_OF(RecordStats, shadows[SHADOW_COMPARED], "gantry_shadow_pairs_compared",
               "Pairs of a production task and its repetition that were compared"),
    COUNTER_OF(RecordStats, shadows[SHADOW_DIVERGED], "gantry_shadow_pairs_diverged",
               "Pairs left out because a tool had to be stubbed"),
    COUNTER_OF(RecordStats, shadows[SHADOW_DROPPED], "gantry_shadow_pairs_dropped",
               "Pairs left out: canceled, never started, not scored, stopped by the budget"),
    COUNTER_OF(RecordStats, shadows_left_out, "gantry_shadow_tasks_left_out",
               "Production tasks not chosen because too many pairs are open"),
};

static void rollout_counts_write(OmOut *out)
{
    RecordStats stats;
    record_stats(&stats);
    fields_write(out, rollout_families, ARRAY_N(rollout_families), &stats);
    om_family(out, "gantry_rollout_transitions", OM_COUNTER, NULL,
              "Moves of rollouts, by the state they came to");
    for (RolloutState s = 0; s < ROLLOUT_N_; s++) {
        OmLabel label = { "outcome", str_of(rollout_state_name(s)) };
        om_sample_i64(out, &label, 1, (int64_t)stats.entered[s]);
    }
    om_family(out, "gantry_rollout_verdicts", OM_COUNTER, NULL, "Ticks, by what they decided");
    for (RolloutVerdict v = 0; v < VERDICT_N_; v++) {
        OmLabel label = { "outcome", str_of(rollout_verdict_name(v)) };
        om_sample_i64(out, &label, 1, (int64_t)stats.verdicts[v]);
    }
    om_family(out, "gantry_rollout_tripwires", OM_COUNTER, NULL,
              "Rollbacks at once, by what tripped them");
    for (Tripwire t = TRIPWIRE_NONE + 1; t < TRIPWIRE_N_; t++) {
        OmLabel label = { "outcome", str_of(tripwire_name(t)) };
        om_sample_i64(out, &label, 1, (int64_t)stats.tripped[t]);
    }
}

/* Of every active one: where it is and how much of its agent's traffic it gets. */
static void rollouts_write(OmOut *out, const RolloutRow *rows, size_t n)
{
    om_family(out, "gantry_rollouts_active", OM_GAUGE, NULL, "Rollouts under way, by state");
    for (RolloutState s = 0; !rollout_state_is_end(s); s++) {
        OmLabel label = { "outcome", str_of(rollout_state_name(s)) };
        int64_t count = 0;
        for (size_t i = 0; i < n; i++) count += rows[i].state.state == s;
        om_sample_i64(out, &label, 1, count);
    }
    om_family(out, "gantry_rollout_weight_ratio", OM_GAUGE, NULL,
              "Share of new units that go to the canary");
    for (size_t i = 0; i < n; i++) {
        OmLabel labels[] = { { "agent", rows[i].agent },
                             { "version", str_sub(rows[i].version_id, 0, SHOWN_VERSION_LEN) } };
        om_sample(out, labels, 2, (double)rows[i].state.weight_bp / WEIGHT_BP_ALL);
    }
}

/* --- what comes from the store ---------------------------------------------------------------- */

/* Read at most every METRICS_STALE_MS. */
typedef struct {
    Arena arena;
    int64_t now_ms; /* calendar */
    QueueStats queue;
    WorkerRoster roster;
    Signals signals;
    Alarm *alarms; /* open */
    size_t alarms_n;
    Budget *budgets;
    size_t budgets_n;
    RolloutRow *rollouts; /* active, at most ROLLOUT_LIST_MAX */
    size_t rollouts_n;
} Reading;

static void reading_deinit(Reading *in)
{
    arena_deinit(&in->arena);
}

static int roster_job(Db *db, void *arg)
{
    Reading *in = arg;
    int r = rollout_list_active(db, 0, &in->arena, &in->rollouts, &in->rollouts_n);
    return r != 0 ? r : capacity_read(db, &in->arena, &in->roster);
}

static int alarms_job(Db *db, void *arg)
{
    Reading *in = arg;
    return alarm_list(db, STR_NULL, true, &in->arena, &in->alarms, &in->alarms_n);
}

static int reading_fill_wait(Metrics *m, Reading *in)
{
    in->now_ms = clock_real_ms();
    SignalsQuery query = { .window_ms = WINDOW_MS, .now_ms = in->now_ms };
    int r = queue_stats_wait(m->queue, &in->queue);
    if (r == 0) r = store_read_wait(queue_store(m->queue), roster_job, in);
    if (r == 0) r = store_read_wait(queue_store(m->queue), alarms_job, in);
    if (r == 0) r = queue_budgets_wait(m->queue, &in->arena, &in->budgets, &in->budgets_n);
    return r < 0 ? r : signals_collect_wait(m->queue, &query, &in->arena, &in->signals);
}

static void wanted_write(OmOut *out, const Reading *in, const QueueOptions *options)
{
    om_family(out, "gantry_workers_desired", OM_GAUGE, NULL, "Workers that a lane needs");
    for (int lane = 0; lane < LANE_N_; lane++) {
        OmLabel label = lane_label(lane);
        const QueueLaneStats *s = &in->queue.lane[lane];
        om_sample_i64(out, &label, 1,
                      capacity_wanted(&in->roster.capacity, options, s, (Lane)lane));
    }
}

static void workers_write(OmOut *out, const Reading *in)
{
    const Capacity *c = &in->roster.capacity;
    one_write(out, "gantry_workers_active", OM_GAUGE, NULL, "Workers that take tasks",
              (double)c->by_state[WORKER_ACTIVE]);
    one_write(out, "gantry_workers_draining", OM_GAUGE, NULL, "Workers that finish what they have",
              (double)c->by_state[WORKER_DRAINING]);
    om_family(out, "gantry_worker_slots", OM_GAUGE, NULL,
              "Slots of active workers: a lane's own, and those shared by all");
    for (int lane = 0; lane < LANE_N_; lane++) {
        OmLabel label = lane_label(lane);
        om_sample_i64(out, &label, 1, c->slots.reserved[lane]);
    }
    om_sample_i64(out, &(OmLabel){ "lane", STR("shared") }, 1, c->slots.shared);
    om_family(out, "gantry_worker_utilization", OM_GAUGE, NULL,
              "Running tasks of a lane over the slots that it can have");
    for (int lane = 0; lane < LANE_N_; lane++) {
        OmLabel label = lane_label(lane);
        double slots = (double)capacity_lane(c, (Lane)lane);
        double running = (double)in->queue.lane[lane].running;
        om_sample(out, &label, 1, slots > 0 ? running / slots : 0);
    }
    om_family(out, "gantry_queue_oldest_seconds", OM_GAUGE, "seconds",
              "How long the oldest ready task of a lane has waited");
    for (int lane = 0; lane < LANE_N_; lane++) {
        OmLabel label = lane_label(lane);
        int64_t waited_ms = in->now_ms - in->queue.lane[lane].oldest_ready_at_ms;
        bool none = in->queue.lane[lane].oldest_ready_at_ms == INT64_MAX;
        om_sample(out, &label, 1, none ? 0 : (double)MAX(waited_ms, 0) / 1000);
    }
}

#define WORKERS_SHOWN_MAX 100 /* the ones registered last; the rest is added up as "other" */
#define WORKER_ID_SHOWN 12    /* of its end, which differs most */

/* Those that tell what nothing else does; of the control plane's own worker, too. */
static const struct {
    WorkerCount count;
    const char *name, *help;
} worker_families[] = {
    { WORKER_COUNT_ATTEMPTS, "gantry_worker_attempts", "Attempts it has begun" },
    { WORKER_COUNT_SUSPENDED, "gantry_worker_suspended",
      "Tasks in it that wait for sub-agents without a slot" },
    { WORKER_COUNT_SUSPENSIONS, "gantry_worker_suspensions",
      "Times a task has given its slot back to wait for sub-agents" },
    { WORKER_COUNT_SUSPENSIONS_REFUSED, "gantry_worker_suspensions_refused",
      "Tasks given back to the queue because too many wait for sub-agents" },
    { WORKER_COUNT_STUCK, "gantry_worker_agents_stuck",
      "Attempts it ended because the agent did nothing any more" },
    { WORKER_COUNT_STALE, "gantry_worker_stale", "Attempts whose end nobody wanted any more" },
    { WORKER_COUNT_LEASES_LOST, "gantry_worker_leases_lost", "Times it has lost its lease" },
    { WORKER_COUNT_HEARTBEATS_FAILED, "gantry_worker_heartbeats_failed",
      "Heartbeats that did not get through" },
    { WORKER_COUNT_CLAIMS_RENEWED, "gantry_worker_claims_renewed",
      "Times it gave up its claims because tasks given to it never came" },
    { WORKER_COUNT_LIMIT_MEMORY, "gantry_worker_limit_memory",
      "Agents and tools ended at limits.memoryBytes" },
    { WORKER_COUNT_LIMIT_CPU, "gantry_worker_limit_cpu",
      "Agents and tools ended at limits.cpuSeconds" },
    { WORKER_COUNT_LIMIT_PROCESSES, "gantry_worker_limit_processes",
      "Agents and tools ended at limits.processes" },
    { WORKER_COUNT_LIMIT_FILES, "gantry_worker_limit_files",
      "Agents and tools that failed at limits.files" },
    { WORKER_COUNT_LIMIT_SCRATCH, "gantry_worker_limit_scratch",
      "Agents and tools ended at limits.scratchBytes" },
    { WORKER_COUNT_LIMIT_OUTPUT, "gantry_worker_limit_output",
      "Agents whose result was too large" },
    { WORKER_COUNT_SERVERS_STARTED, "gantry_worker_server_agents_started",
      "Server agents it has started" },
    { WORKER_COUNT_SERVERS_FAILED, "gantry_worker_server_agents_failed",
      "Server agents that ended by themselves, fell sick or did not start" },
    { WORKER_COUNT_SERVERS_CROWDED, "gantry_worker_server_agents_crowded",
      "Attempts that found no room for their server agent" },
    { WORKER_COUNT_TOOL_CALLS, "gantry_worker_tool_calls", "Tools it has run" },
    { WORKER_COUNT_TOOL_ERRORS, "gantry_worker_tool_errors",
      "Tools it has run that did not go well" },
    { WORKER_COUNT_TOOLS_CROWDED, "gantry_worker_tools_crowded",
      "Tool calls refused because too many were under way in their task" },
    { WORKER_COUNT_TOOLS_REPEATED, "gantry_worker_tools_repeated",
      "Tool calls made again that were given the result of the first" },
    { WORKER_COUNT_TOOLS_CLASHED, "gantry_worker_tools_clashed",
      "Tool calls refused because their id is another call's, or its result is not kept" },
    { WORKER_COUNT_CHILDREN_CROWDED, "gantry_worker_children_crowded",
      "Requests about sub-agents refused because too many were under way in their task" },
    { WORKER_COUNT_CGROUPS_FAILED, "gantry_worker_cgroups_failed",
      "Programs started without a cgroup, though its worker makes some" },
    { WORKER_COUNT_MCP_CROWDED, "gantry_worker_mcp_crowded",
      "Calls refused because there were too many MCP sessions" },
    { WORKER_COUNT_VERSIONS_FETCHED, "gantry_worker_versions_fetched",
      "Versions it has fetched and unpacked" },
    { WORKER_COUNT_LOG_LINES_DROPPED, "gantry_worker_log_lines_dropped",
      "Lines of agents that were too many for their task's log" },
};
_Static_assert(ARRAY_N(worker_families) == WORKER_COUNT_N_, "a count of workers is not shown");

typedef struct {
    Str name;
    char id[UUID_TEXT_MAX];
    WorkerCounts counts;
} WorkerShown;

/* Of the roster; returns how many, the last perhaps all others. */
static size_t counts_gather(Queue *queue, const WorkerRoster *roster, WorkerShown *out)
{
    size_t n = 0;
    WorkerShown rest = { .name = STR("other") };
    bool more = false;
    for (size_t i = 0; i < roster->n; i++) {
        WorkerShown one = { .name = roster->workers[i].name };
        if (!queue_worker_counts(queue, roster->workers[i].id, &one.counts)) continue;
        uuid_text(roster->workers[i].id, one.id);
        if (n < WORKERS_SHOWN_MAX) {
            out[n++] = one;
            continue;
        }
        more = true;
        for (int k = 0; k < WORKER_COUNT_N_; k++) rest.counts.v[k] += one.counts.v[k];
    }
    if (more) out[n++] = rest;
    return n;
}

static void worker_counts_show(OmOut *out, Queue *queue, const WorkerRoster *roster)
{
    WorkerShown *shown = xcalloc(WORKERS_SHOWN_MAX + 1, sizeof *shown);
    size_t n = counts_gather(queue, roster, shown);
    for (size_t f = 0; f < ARRAY_N(worker_families); f++) {
        WorkerCount count = worker_families[f].count;
        om_family(out, worker_families[f].name,
                  count == WORKER_COUNT_SUSPENDED ? OM_GAUGE : OM_COUNTER, NULL,
                  worker_families[f].help);
        for (size_t i = 0; i < n; i++) {
            Str id = str_of(shown[i].id);
            OmLabel labels[] = { { "worker", shown[i].name },
                                 { "id", str_sub(id, id.len - MIN(id.len, WORKER_ID_SHOWN),
                                                 WORKER_ID_SHOWN) } };
            om_sample_i64(out, labels, 2, shown[i].counts.v[count]);
        }
    }
    free(shown);
}

static const struct {
    const char *name, *unit, *help;
} signal_families[SIGNAL_N_] = {
    [SIGNAL_AGE] = { "gantry_version_age_seconds", "seconds", "Time since the version was made" },
    [SIGNAL_TASKS] = { "gantry_task_count", NULL, "Tasks that came to rest in the last hour" },
    [SIGNAL_COMPLETION] = { "gantry_task_completion_rate", NULL, "Share that succeeded" },
    [SIGNAL_ERROR] = { "gantry_error_rate", NULL, "Share that failed or timed out" },
    [SIGNAL_ESCALATION] = { "gantry_escalation_rate", NULL, "Share given to a person" },
    [SIGNAL_QUALITY] = { "gantry_quality_score", NULL, "Mean score, 0 to 1" },
    [SIGNAL_COST] = { "gantry_token_cost_per_task_usd", "usd", "Mean cost of model calls" },
    [SIGNAL_TOKENS] = { "gantry_tokens_per_task", NULL, "Mean tokens" },
    [SIGNAL_LLM_CALLS] = { "gantry_llm_calls_per_task", NULL, "Mean calls of models" },
    [SIGNAL_TOOL_CALLS] = { "gantry_tool_calls_per_task", NULL, "Mean calls of tools" },
    [SIGNAL_P50] = { "gantry_latency_p50_seconds", "seconds", "Median run time" },
    [SIGNAL_P95] = { "gantry_latency_p95_seconds", "seconds", "95th percentile of run time" },
    [SIGNAL_P99] = { "gantry_latency_p99_seconds", "seconds", "99th percentile of run time" },
    [SIGNAL_VARIANCE] = { "gantry_response_pattern_variance", NULL,
                          "How far two tasks are apart: 0 identical, 0.5 unrelated" },
    [SIGNAL_SHIFT] = { "gantry_pattern_shift", NULL,
                       "How far patterns are from those of the version's first days: around 0" },
};

/* A figure that nobody measured has no sample. */
static void signals_write(OmOut *out, const Reading *in)
{
    for (int kind = 0; kind < SIGNAL_N_; kind++) {
        om_family(out, signal_families[kind].name, OM_GAUGE, signal_families[kind].unit,
                  signal_families[kind].help);
        for (size_t i = 0; i < in->signals.n; i++) {
            const VersionSignals *v = in->signals.versions[i];
            double value = signal_figure((SignalKind)kind, v, in->now_ms);
            OmLabel labels[] = { { "agent", v->agent },
                                 { "version", str_sub(v->version_id, 0, SHOWN_VERSION_LEN) } };
            if (!isnan(value)) om_sample(out, labels, 2, value);
        }
    }
}

#define TOOLS_SHOWN_MAX 10 /* of a version; the rest is "other" */

/* Of the tools not shown yet the one that was called most, and before others of its kind. */
static int32_t most_called(const Rollup *r, const bool *shown)
{
    int32_t best = -1;
    for (int32_t i = 0; i < r->tools_n; i++)
        if (!shown[i] && r->tools[i].calls > 0 &&
            (best < 0 || r->tools[i].calls > r->tools[best].calls))
            best = i;
    return best;
}

static void tools_write(OmOut *out, const VersionSignals *v)
{
    const Rollup *r = &v->sum;
    bool shown[ROLLUP_TOOLS_MAX] = { false };
    int64_t all = r->other_calls;
    for (int32_t i = 0; i < r->tools_n; i++) all += r->tools[i].calls;
    if (all <= 0) return;
    OmLabel labels[] = { { "agent", v->agent },
                         { "version", str_sub(v->version_id, 0, SHOWN_VERSION_LEN) },
                         { "tool", STR("other") } };
    int64_t left = all;
    for (int n = 0; n < TOOLS_SHOWN_MAX; n++) {
        int32_t i = most_called(r, shown);
        if (i < 0) break;
        shown[i] = true;
        left -= r->tools[i].calls;
        labels[2].value = str_of(r->tools[i].name);
        /* a tool of that very name is the rest's */
        if (str_eq(labels[2].value, STR("other"))) left += r->tools[i].calls;
        else om_sample(out, labels, 3, (double)r->tools[i].calls / (double)all);
    }
    labels[2].value = STR("other");
    if (left > 0) om_sample(out, labels, 3, (double)left / (double)all);
}

static void all_tools_write(OmOut *out, const Reading *in)
{
    om_family(out, "gantry_tool_call_distribution", OM_GAUGE, NULL,
              "Share of a tool in all calls of tools; of a version the ten called most");
    for (size_t i = 0; i < in->signals.n; i++) tools_write(out, in->signals.versions[i]);
}

/* Alarms of the version at i and of it further down; 0 when it was counted before. */
static int64_t alarms_of(const Reading *in, size_t at)
{
    int64_t n = 0;
    Str agent = in->alarms[at].agent, version_id = in->alarms[at].version_id;
    for (size_t i = 0; i < in->alarms_n; i++) {
        bool same = str_eq(in->alarms[i].version_id, version_id) &&
                    str_eq(in->alarms[i].agent, agent);
        if (same && i < at) return 0;
        n += same;
    }
    return n;
}

static void alarms_write(OmOut *out, const Reading *in)
{
    om_family(out, "gantry_drift_alarms_open", OM_GAUGE, NULL,
              "Alarms of drift that nobody has acknowledged");
    for (size_t i = 0; i < in->alarms_n; i++) {
        int64_t n = alarms_of(in, i);
        OmLabel labels[] = { { "agent", in->alarms[i].agent },
                             { "version",
                               str_sub(in->alarms[i].version_id, 0, SHOWN_VERSION_LEN) } };
        if (n > 0) om_sample_i64(out, labels, 2, n);
    }
}

/* Copies the kept text when it is fresh. */
static bool kept_copy(Metrics *m, OmFormat format, Buf *out)
{
    pthread_mutex_lock(&m->lock);
    const Kept *kept = &m->kept[format];
    bool fresh = kept->taken && clock_mono_ms() - kept->at_ms < METRICS_STALE_MS;
    if (fresh) buf_add(out, buf_str(&kept->text));
    pthread_mutex_unlock(&m->lock);
    return fresh;
}

static int stored_write_wait(Metrics *m, OmFormat format, Buf *out)
{
    if (kept_copy(m, format, out)) return 0;
    CLEANUP(reading_deinit) Reading in = { 0 };
    arena_init(&in.arena, READING_MEMORY_MAX);
    int r = reading_fill_wait(m, &in);
    if (r < 0) return r;
    size_t from = out->len;
    OmOut om = om_out(out, format);
    workers_write(&om, &in);
    wanted_write(&om, &in, queue_options(m->queue));
    worker_counts_show(&om, m->queue, &in.roster);
    signals_write(&om, &in);
    all_tools_write(&om, &in);
    alarms_write(&om, &in);
    budgets_write(&om, in.budgets, in.budgets_n);
    rollouts_write(&om, in.rollouts, in.rollouts_n);
    pthread_mutex_lock(&m->lock);
    Kept *kept = &m->kept[format];
    buf_clear(&kept->text);
    kept->taken = !out->failed && buf_add(&kept->text, str_skip(buf_str(out), from));
    kept->at_ms = clock_mono_ms();
    pthread_mutex_unlock(&m->lock);
    return 0;
}

int metrics_write_wait(Metrics *m, OmFormat format, Buf *out)
{
    ProcessStats process;
    QueueStats queue;
    LedgerStats ledger;
    (void)work_wait(process_read, &process);
    int r = stored_write_wait(m, format, out);
    if (r == -ECANCELED) return r;
    if (r < 0) LOG_WARN("metrics without the store's", LOG_CSTR("reason", diag_text_or(r)));

    OmOut om = om_out(out, format);
    PartSums parts = parts_sum(m);
    queue_stats(m->queue, &queue);
    process_write(&om, &process, m->started_real_ms);
    fields_write(&om, part_families, ARRAY_N(part_families), &parts);
    store_write(&om, queue_store(m->queue));
    lanes_write(&om, &queue);
    waits_write(&om, &queue, queue_options(m->queue));
    ended_write(&om, &queue);
    fields_write(&om, queue_families, ARRAY_N(queue_families), &queue);
    one_write(&om, "gantry_tool_calls_seconds", OM_COUNTER, "seconds",
              "Time that calls of tools took, summed", (double)queue.tools_ms / 1000);
    queue_ledger_stats(m->queue, &ledger);
    fields_write(&om, ledger_families, ARRAY_N(ledger_families), &ledger);
    throughput_write(m, &om, &queue);
    gateways_write(m, &om);
    rollout_counts_write(&om);
    board_write(m, &om);
    return om_end(&om);
}
