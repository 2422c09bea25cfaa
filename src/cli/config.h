/* Config: what gantry.yaml, the environment and flags say, checked as a whole before any start.
 *
 * Precedence: built-in default < file < environment (GANTRY_A__B for the scalar a.b) < flag. Every
 * problem is reported at once, with line and column. Secrets come from the environment or a file,
 * never from the text of gantry.yaml, and are masked by config_dump.
 */
#ifndef GANTRY_CLI_CONFIG_H
#define GANTRY_CLI_CONFIG_H

#include "base/log.h"
#include "gateway/gateway.h"
#include "logic/family.h"
#include "logic/lane.h"
#include "logic/scaling.h"
#include "net/addr_guard.h"
#include "store/event_store.h"
#include "worker/front.h"

#define CONFIG_KEYS_MAX 32
#define CONFIG_KEY_BYTES 32 /* SHA-256 of an API key */

typedef struct {
    Arena arena; /* owns every text below */
    Str file;    /* where it came from; empty: no file */

    /* server */
    char *address; /* numeric */
    int64_t port;
    char *data;    /* directory */
    int64_t loops; /* event loops for the API; 0: one a core */
    bool behind_proxy;
    char *public_url; /* for statusUrl and callbacks; empty: from address and port */
    uint8_t keys[CONFIG_KEYS_MAX][CONFIG_KEY_BYTES];
    size_t keys_n;
    bool key_short;                       /* GANTRY_API_KEY is the key, and could be guessed */
    FrontKey front_keys[CONFIG_KEYS_MAX]; /* of tenants; texts in the arena */
    size_t front_keys_n;

    /* log */
    char *log_level, *log_format;
    char *log_file; /* "": stderr */

    /* limits and time-outs of the HTTP server */
    int64_t body_bytes_max, head_bytes_max, fields_max, target_bytes_max, connections_max;
    int64_t header_timeout_ms, body_timeout_ms, idle_timeout_ms, write_timeout_ms;
    int64_t queued_tasks_max;         /* a lane, */
    int64_t lane_queued_max[LANE_N_]; /* but for these; 0: as that */
    int64_t wait_objective_ms[LANE_N_], aging_ms;
    ScalingRule scaling;
    int64_t agent_tasks_max, tenant_tasks_max, session_tasks_max; /* at a time; 0: any */
    int64_t accounts_max;                                         /* of a tenant */
    int64_t log_bytes_max;                                        /* a task */
    int64_t followers_max;                                        /* streams of tasks' events */
    int64_t disk_reserve_bytes;                                   /* no new tasks beyond */
    int64_t tasks_kept_ms;                                        /* after their end; 0: for ever */
    int64_t keys_kept_ms;         /* idempotency keys, from their task's acceptance on */
    int64_t journal_kept_ms;      /* after a task has come to rest */
    int64_t spend_kept_ms;        /* hourly sums */
    int64_t drift_false_alarm_ms; /* a version raises one by chance in so long */
    int64_t journal_bytes_max, journal_recordings_max; /* a task */
    int64_t lease_ms;

    /* worker */
    LaneConfig lanes;
    int64_t stuck_ms;
    bool cgroups;
    int64_t grace_ms; /* between SIGTERM and SIGKILL of an agent */
    int64_t drain_ms; /* how long a drain waits for running tasks; 0: until they end */

    /* gateway */
    GatewayConfig gateway; /* of the arrays below */
    GatewayProvider *providers;
    GatewayRoute *routes;
    PriceTable prices;
    BudgetRule *budgets; /* texts in the arena */
    size_t budgets_n;
    char *time_zone;         /* in which their days and months begin */
    int64_t cache_bytes_max; /* of cached responses; 0: none are kept */
    char *small_model;       /* while a budget runs low; empty: the agent's own fallbacks */

    /* what agents keep in sessions */
    FamilyBounds family; /* of tasks and their sub-agents */
    int64_t state_keys_max, state_bytes_max, state_value_bytes_max, state_kept_ms;

    /* webhooks */
    Str webhook_secret;   /* empty: one is made and kept in the data directory */
    Str webhook_previous; /* signs too; empty: none */
    int64_t webhook_concurrent, webhook_concurrent_per_host; /* attempts at a time; 0: default */
    bool webhook_http; /* also of addresses that webhooks.allow does not name */
    AddrGuard webhook_guard;
    Str receivers[EVENT_RECEIVERS_MAX]; /* URLs that get every event */
    size_t receivers_n;
    AddrGuard tool_guard;
} Config;

typedef enum { CONFIG_DEV, CONFIG_SERVE, CONFIG_WORKER } ConfigMode;

/* Fills config with the defaults of mode. */
void config_init(Config *config, ConfigMode mode);
void config_deinit(Config *config);

/* Reads path (NULL: ./gantry.yaml if it is there), then the environment. Blocking; on a plain
 * thread. Returns 0, or -EINVAL after printing every problem on stderr, -errno with diag when the
 * file cannot be read. */
MUST_CHECK int config_load(Config *config, const char *path);

/* Adds the providers that the environment names (OPENAI_API_KEY, OPENAI_BASE_URL,
 * ANTHROPIC_API_KEY, ANTHROPIC_BASE_URL) where the file names none, and the simulator on sim_port
 * (0: none) for what is left. Returns 0 or -EINVAL with diag. */
MUST_CHECK int config_add_providers(Config *config, uint16_t sim_port);

/* One line about where models are served, for the banner; in the arena. */
Str config_models_text(Config *config);

/* The effective configuration as YAML, secrets masked. */
void config_dump(const Config *config, Buf *out);

/* The file, every setting and the providers as one JSON object; no secret is in it. */
void config_dump_json(const Config *config, Buf *text);

#endif
