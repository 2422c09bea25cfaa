/* The commands' functions; the table in commands.c names them. Each returns an exit status. */
#ifndef GANTRY_CLI_VERBS_H
#define GANTRY_CLI_VERBS_H

#include "cli/command.h"

/* run_server.c: long-running processes */
int dev_run(const Invocation *in);
int serve_run(const Invocation *in);
int worker_run(const Invocation *in);
int sim_run(const Invocation *in);
int config_dump_run(const Invocation *in);

/* init.c */
int init_run(const Invocation *in);

/* tasks.c */
int run_run(const Invocation *in);
int task_list_run(const Invocation *in);
int task_get_run(const Invocation *in);
int task_watch_run(const Invocation *in);
int task_cancel_run(const Invocation *in);
int task_retry_run(const Invocation *in);
int task_resolve_run(const Invocation *in);
int task_logs_run(const Invocation *in);
int task_timeline_run(const Invocation *in);
int task_journal_run(const Invocation *in);

/* versions.c */
int version_create_run(const Invocation *in);
int version_list_run(const Invocation *in);
int version_show_run(const Invocation *in);
int version_diff_run(const Invocation *in);
int deploy_run(const Invocation *in);
int rollback_run(const Invocation *in);

/* operate.c */
int agents_run(const Invocation *in);
int queue_run(const Invocation *in);
int workers_run(const Invocation *in);
int supervise_run(const Invocation *in);
int worker_get_run(const Invocation *in);
int worker_drain_run(const Invocation *in);
int doctor_run(const Invocation *in);

/* prices.c */
int price_import_run(const Invocation *in);
int price_list_run(const Invocation *in);
int price_show_run(const Invocation *in);

/* schedules.c */
int schedule_list_run(const Invocation *in);
int schedule_set_run(const Invocation *in);
int schedule_delete_run(const Invocation *in);

/* webhooks.c */
int webhook_list_run(const Invocation *in);
int webhook_replay_run(const Invocation *in);
int webhook_endpoints_run(const Invocation *in);
int webhook_enable_run(const Invocation *in);
int webhook_rotate_run(const Invocation *in);

/* alarms.c */
int alarm_list_run(const Invocation *in);
int alarm_acknowledge_run(const Invocation *in);

/* metrics.c */
int metrics_run(const Invocation *in);

/* spend.c */
int spend_run(const Invocation *in);
int account_list_run(const Invocation *in);
/* budgets.c */
int budget_get_run(const Invocation *in);
int budget_set_run(const Invocation *in);

/* caches.c */
int cache_stats_run(const Invocation *in);
int cache_purge_run(const Invocation *in);
/* limits.c */
int limits_run(const Invocation *in);
int breakers_run(const Invocation *in);

/* flags.c */
int flag_list_run(const Invocation *in);
int flag_get_run(const Invocation *in);
int flag_set_run(const Invocation *in);
int flag_delete_run(const Invocation *in);

/* rollout_simulate.c */
int rollout_simulate_run(const Invocation *in);

/* rollouts.c */
int rollout_list_run(const Invocation *in);
int rollout_get_run(const Invocation *in);
int demo_canary_run(const Invocation *in);
int rollout_watch_run(const Invocation *in);
int rollout_log_run(const Invocation *in);
int rollout_observations_run(const Invocation *in);
int rollout_shadow_run(const Invocation *in);
int rollout_promote_run(const Invocation *in);
int rollout_gate_run(const Invocation *in);
int rollout_pause_run(const Invocation *in);
int rollout_resume_run(const Invocation *in);
int rollout_abort_run(const Invocation *in);

#endif
