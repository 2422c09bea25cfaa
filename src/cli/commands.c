#include "cli/verbs.h"

#define NO_FLAGS NULL

static const Flag dev_flags[] = {
    { "port", "N", "port of the API (default 7070; 0: any free one)" },
    { "data", "DIR", "where the database and artifacts are kept (default .gantry)" },
    { "log-file", "FILE", "log there instead of to stderr: 4 files of 4 MiB, turned over" },
    { "config", "FILE", "configuration (default ./gantry.yaml if it is there)" },
    { 0 },
};
static const Flag doctor_flags[] = {
    { "data", "DIR", "data directory to check (default .gantry)" },
    { "config", "FILE", "configuration (default ./gantry.yaml if it is there)" },
    { 0 },
};
static const Flag serve_flags[] = {
    { "config", "FILE", "configuration (default ./gantry.yaml if it is there)" },
    { "port", "N", "port of the API (default 7070; 0: any free one)" },
    { "data", "DIR", "where the database and artifacts are kept (default /var/lib/gantry)" },
    { "log-file", "FILE", "log there instead of to stderr: 4 files of 4 MiB, turned over" },
    { 0 },
};
static const Flag worker_flags[] = {
    { "config", "FILE", "configuration: providers, prices, lanes, worker" },
    { "data", "DIR", "where code and scratch directories are kept (default /var/lib/gantry)" },
    { "name", "NAME", "how this worker is called in listings (default: the host's name)" },
    { "log-file", "FILE", "log there instead of to stderr: 4 files of 4 MiB, turned over" },
    { "sim", NULL, "also serve sim/* models by the built-in simulator" },
    { 0 },
};
static const Flag supervise_flags[] = {
    { "min", "N", "workers to keep at least (default 1)" },
    { "max", "N", "workers to keep at most (default 4)" },
    { "down-every", "D", "between two workers that are given up (default 10s)" },
    { "hung-after", "D", "a worker without a lease for so long is killed (default 30s)" },
    { "config", "FILE", "configuration of the workers" },
    { "data", "DIR", "where their directories and logs are kept (default gantry-workers)" },
    { "name", "NAME", "how they are called in listings: NAME-1, ... (default: HOST-PID)" },
    { "log-file", "FILE", "its own log, instead of to stderr: 4 files of 4 MiB, turned over" },
    { "sim", NULL, "the workers also serve sim/* models by the built-in simulator" },
    { 0 },
};
static const Flag config_flags[] = {
    { "config", "FILE", "configuration (default ./gantry.yaml if it is there)" },
    { 0 },
};
static const Flag sim_flags[] = {
    { "port", "N", "port to listen on (default 7071; 0: any free one)" },
    { 0 },
};
static const Flag run_flags[] = {
    { "priority", "critical|normal|low", "lane of the task (default normal)" },
    { "session", "S", "session the task belongs to" },
    { "user", "U", "user on whose behalf it runs" },
    { "version-id", "V", "this version, whatever the agent routes to" },
    { "deadline", "TIME", "ends it then: RFC 3339, or a duration from now such as 10m" },
    { "detach", NULL, "print the task's id and do not wait for its end" },
    { "follow", NULL, "print all that happens to it, as `gantry task watch` does" },
    { "key-once", "K", "idempotency key: the same key and input give the same task" },
    { 0 },
};
static const Flag task_list_flags[] = {
    { "status", "STATUS", "only tasks in this state" },
    { "agent", "AGENT", "only tasks of this agent" },
    { "limit", "N", "at most so many, newest first (default 20)" },
    { 0 },
};
static const Flag task_retry_flags[] = {
    { "fresh", NULL, "ask models and tools anew: replay nothing" },
    { "status", "failed|timed_out|canceled", "those (failed and timed out ones when left out)" },
    { "agent", "AGENT", "only tasks of this agent" },
    { "version", "VERSION", "only tasks of this version (its whole id)" },
    { "error", "CODE", "only those that ended with this error code" },
    { "since", "DURATION", "only those submitted in the last 1h, 7d" },
    { "all", NULL, "all of them" },
    { "limit", "N", "at most so many, newest first (default: all)" },
    { "cursor", "CURSOR", "go on where another one ended, which said it" },
    { "dry-run", NULL, "only say how many" },
    { 0 },
};
static const Flag task_logs_flags[] = {
    { "follow", NULL, "go on with what it logs until it has ended" },
    { 0 },
};
static const Flag task_resolve_flags[] = {
    { "by", "NAME", "who answers (default: the user who is logged in)" },
    { 0 },
};
static const Flag version_create_flags[] = {
    { "description", "TEXT", "what changed, for people" },
    { 0 },
};
static const Flag deploy_flags[] = {
    { "strategy", "canary|blue-green|shadow|immediate", "how to ship (default immediate)" },
    { "steps", "LIST", "of a canary: percent[:at least so long],... such as 5:30m,25:30m,50,100" },
    { "by", "NAME", "who asks, for the record (default: the user who is logged in)" },
    { 0 },
};
static const Flag rollout_list_flags[] = {
    { "agent", "AGENT", "only of this agent" },
    { "active", NULL, "only those that have not ended" },
    { 0 },
};
static const Flag demo_canary_flags[] = {
    { "good", NULL, "ship one that is no worse, and see it promoted" },
    { 0 },
};
static const Flag rollout_log_flags[] = {
    { "ticks", NULL, "every tick, with what it was told; equal ones in a row are one" },
    { "limit", "N", "at most so many, newest first (default 50)" },
    { 0 },
};
static const Flag rollout_promote_flags[] = {
    { "full", NULL, "all steps at once" },
    { 0 },
};
static const Flag rollout_gate_flags[] = {
    { "name", "GATE",
      "the gate of that name, ahead of its step too (default: the current step's)" },
    { 0 },
};
static const Flag rollout_simulate_flags[] = {
    { "plan", "FILE", "rollout block, or an agent.yaml with one" },
    { "observations", "FILE", "recorded observations (JSON lines; `-`: standard input)" },
    { "traffic", "N", "tasks a minute (default 60)" },
    { "control", "LIST", "what the stable version is like: errorRate=0.02,quality=0.8" },
    { "canary", "LIST", "what the new one is like, the same way; costPerTask=x1.5" },
    { "runs", "N", "rollouts to simulate (default 200)" },
    { "tasks", "N", "tasks after which a run counts as undecided (default 100000)" },
    { "seed", "N", "of the simulation (default 1)" },
    { 0 },
};
static const Flag rollback_flags[] = {
    { "to", "VERSION", "the version to return to (default: the one before)" },
    { "kill", NULL, "stop running tasks of the version that is left, too" },
    { "by", "NAME", "who asks, for the record (default: the user who is logged in)" },
    { 0 },
};
static const Flag spend_flags[] = {
    { "by", "model|agent|version|user|tenant|provider|day", "what to sum by (default model)" },
    { "window", "DURATION", "how far back, by whole hours (default 24h)" },
    { 0 },
};
static const Flag account_list_flags[] = {
    { "tenant", "TENANT", "only of this tenant" },
    { "limit", "N", "how many at most (default 100)" },
    { 0 },
};
static const Flag alarm_list_flags[] = {
    { "agent", "AGENT", "only of this agent" },
    { "open", NULL, "only those that nobody has acknowledged" },
    { 0 },
};
static const Flag alarm_acknowledge_flags[] = {
    { "by", "NAME", "who has seen it" },
    { "note", "TEXT", "what became of it, for people" },
    { 0 },
};
static const Flag metrics_flags[] = {
    { "window", "DURATION", "how far back (default 24h; at most 30d)" },
    { 0 },
};
static const Flag price_import_flags[] = {
    { "replace", NULL, "forget what was imported before" },
    { 0 },
};
static const Flag cache_purge_flags[] = {
    { "agent", "AGENT", "only responses to this agent" },
    { "tenant", "TENANT", "only responses to tasks of this tenant" },
    { "all", NULL, "everything" },
    { 0 },
};
static const Flag schedule_set_flags[] = {
    { "priority", "critical|normal|low", "lane of its tasks (default normal)" },
    { "input", "INPUT", "of its tasks: JSON, or text" },
    { "zone", "NAME", "time zone of CRON, such as Europe/Berlin (default the server's)" },
    { "missed", "skip|once|all", "times that passed while no server ran (default skip)" },
    { "overlap", "allow|skip|replace", "while the last one's task has not ended (default allow)" },
    { "deadline", "DURATION", "ends each task so long after it was submitted" },
    { "paused", NULL, "do not fire until it is set again" },
    { 0 },
};
static const Flag webhook_list_flags[] = {
    { "state", "failed|pending|delivered|all", "only those in this state (default failed)" },
    { "url", "URL", "only those for this URL" },
    { "limit", "N", "at most so many, newest first (default 50)" },
    { 0 },
};
static const Flag webhook_replay_flags[] = {
    { "url", "URL", "what was given up for this URL" },
    { "since", "DURATION", "what was given up of the last 24h, 7d" },
    { "all", NULL, "everything that was given up" },
    { 0 },
};
static const Flag webhook_rotate_flags[] = {
    { "overlap", "DURATION", "how long the secret before signs too (default 24h)" },
    { 0 },
};
static const Flag flag_set_flags[] = {
    { "agent", "AGENT", "only for tasks of this agent" },
    { "version", "VERSION", "only for tasks of this version (at least 8 digits of its id)" },
    { "tenant", "TENANT", "only for tasks of this tenant" },
    { "user", "USER", "only for tasks of this user" },
    { "percent", "P", "only for so many of 100 units" },
    { "by", "task|session|user|tenant", "what a unit is (default: the session, user or task)" },
    { "description", "TEXT", "what it is for, for people" },
    { "text", NULL, "VALUE is text even if it looks like a number, true or false" },
    { 0 },
};
static const Flag init_flags[] = {
    { "runtime", "builtin|process", "Gantry's own agent loop, or your program (default builtin)" },
    { 0 },
};

const Command commands[] = {
    { "init", NULL, "[DIR]", 0, 1, "write a new agent directory that runs as it is",
      "Writes agent.yaml, a prompt and tools (builtin) or agent.py (process) into DIR, which must not\n"
      "hold an agent yet.\n\n"
      "  gantry init my-agent && gantry dev my-agent",
      init_flags, init_run, false },
    { "dev", NULL, "[DIR...]", 0, COMMAND_ARGS_MAX, "run everything in one process on this machine",
      "Server, worker, gateway and store in one process, on loopback only, for development. Deploys the\n"
      "agent directories given, but leaves alone what was rolled back since or is being rolled out, while\n"
      "its directory has not changed. Without a key for a real provider every model is answered by the\n"
      "built-in simulator. Ctrl-C drains: running tasks finish; a second one kills.\n\n"
      "  gantry dev examples/triage\n"
      "  OPENAI_API_KEY=... gantry dev examples/triage     real models\n"
      "  OPENAI_BASE_URL=http://127.0.0.1:8000/v1 gantry dev examples/triage     a local model",
      dev_flags, dev_run, false },
    { "serve", NULL, "", 0, 0, "run the control plane: API, queue and store",
      "Needs an API key (auth.keys in the configuration, or GANTRY_API_KEY). Binds loopback unless\n"
      "server.behindProxy is true. Workers connect with `gantry worker --server URL`.",
      serve_flags, serve_run, false },
    { "worker", NULL, "", 0, 0, "run agents for a control plane",
      "Claims tasks from the server, runs agents, and holds the gateway they talk through. Provider keys\n"
      "are this process's: configuration or OPENAI_API_KEY, ANTHROPIC_API_KEY. SIGTERM drains: running\n"
      "tasks finish, then it exits 0; a second one kills them and hands them back. SIGHUP drains, too.",
      worker_flags, worker_run, false },
    { "worker", "get", "WORKER", 1, 1, "what a worker runs, and until when at most", NULL, NO_FLAGS,
      worker_get_run, false },
    { "worker", "drain", "WORKER", 1, 1, "let a worker finish what it runs and take nothing new",
      NULL, NO_FLAGS, worker_drain_run, false },
    { "supervise", NULL, "", 0, 0, "keep as many workers on this machine as the lanes need",
      "Asks the server for the workers that its lanes need, and starts and drains `gantry worker`\n"
      "processes by that: more at once, fewer one by one. SIGHUP replaces them one after another, new ones\n"
      "first, which then run the program file as it is now. SIGTERM drains them and exits 0.",
      supervise_flags, supervise_run, false },
    { "run", NULL, "AGENT [INPUT|-]", 1, 2, "submit a task, follow it and print its result",
      "INPUT is JSON, or text; `-` reads it from standard input. The result goes to stdout, progress to\n"
      "stderr. Exit 0 when it succeeded, 1 when it failed, 8 when it is still pending at the timeout.\n\n"
      "  gantry run triage \"I was charged twice\"\n"
      "  gantry run triage - < ticket.txt -o json",
      run_flags, run_run, false },
    { "task", "list", "", 0, 0, "list tasks, newest first", NULL, task_list_flags, task_list_run,
      false },
    { "task", "get", "ID", 1, 1, "show a task", NULL, NO_FLAGS, task_get_run, false },
    { "task", "watch", "ID", 1, 1, "follow a task to its end",
      "Prints its states, attempts, calls, log lines, sub-agents and questions to stderr as they come,\n"
      "through a restart of the server too, and its result to stdout.",
      NO_FLAGS, task_watch_run, false },
    { "task", "cancel", "ID", 1, 1, "cancel a task, also a running one", NULL, NO_FLAGS,
      task_cancel_run, false },
    { "task", "retry", "[ID...]", 0, COMMAND_ARGS_MAX, "queue ended tasks again",
      "Named ones, or with flags those that they fit. What models and tools answered before is served to\n"
      "them again, at no cost, so that they go on where they ended. When that is why they failed, --fresh\n"
      "asks anew.\n\n"
      "  gantry task retry --agent triage --error agent_unreachable --since 2h",
      task_retry_flags, task_retry_run, false },
    { "task", "resolve", "ID ANSWER|-", 2, 2, "answer what an escalated task asks",
      "ANSWER is JSON, or text; `-` reads it from standard input. The task goes on with it. What it asks\n"
      "is shown by `gantry task get ID`; those that wait by `gantry task list --status escalated`.\n\n"
      "  gantry task resolve 0192f3aa-1f2e-7c3d-8a4b-5c6d7e8f9a0b '{\"approved\":true}'",
      task_resolve_flags, task_resolve_run, false },
    { "task", "logs", "ID", 1, 1, "print what the agent logged", NULL, task_logs_flags,
      task_logs_run, false },
    { "task", "timeline", "ID", 1, 1, "what happened to a task, in order",
      "Attempts, model and tool calls, log lines, sub-agents, questions and webhooks, with what each\n"
      "took and cost.",
      NO_FLAGS, task_timeline_run, false },
    { "task", "journal", "ID [NUMBER]", 1, 2, "show what models and tools answered",
      "Lists the recordings that a later attempt of the task is served, or shows one with its request\n"
      "and its answer.\n\n"
      "  gantry task journal 0192f3aa-1f2e-7c3d-8a4b-5c6d7e8f9a0b 3",
      NO_FLAGS, task_journal_run, false },
    { "version", "create", "DIR", 1, 1, "make a behavioural version of an agent directory",
      "Checks agent.yaml and what it names, packs the code reproducibly, and records it under the hash of\n"
      "everything that shapes behaviour. The same content always gives the same id. An agent's first\n"
      "version is deployed at once; later ones by `gantry deploy`.",
      version_create_flags, version_create_run, false },
    { "version", "list", "AGENT", 1, 1, "list an agent's versions, newest first", NULL, NO_FLAGS,
      version_list_run, false },
    { "version", "show", "VERSION", 1, 1, "show a version; a unique prefix of 8 digits is enough",
      NULL, NO_FLAGS, version_show_run, false },
    { "version", "diff", "OLD NEW", 2, 2,
      "show which components changed, with the text of prompt and tools", NULL, NO_FLAGS,
      version_diff_run, false },
    { "deploy", NULL, "AGENT VERSION", 2, 2, "send new tasks to a version",
      "Strategy immediate switches all new tasks at once; running and queued ones keep their version.\n"
      "Strategy canary gives it a share of new sessions, compares, and promotes or rolls back by itself,\n"
      "by the rollout block of its agent.yaml; blue-green switches and can return within holdFor (1h); shadow\n"
      "repeats a share of production's tasks with it first, unseen, until somebody promotes it.\n\n"
      "  gantry deploy triage 9f3ac21d --strategy canary --steps 5:30m,25:30m,50:30m,100",
      deploy_flags, deploy_run, false },
    { "rollback", NULL, "AGENT", 1, 1, "return to the version before, whole", NULL, rollback_flags,
      rollback_run, false },
    { "demo", "canary", "", 0, 0, "ship a version that is worse on purpose, and see it rolled back",
      "On a running `gantry dev`, with simulated models: it costs nothing and takes less than a minute.\n"
      "Exit 0 when it ended as it should, 8 when it is not decided at the timeout (1m).",
      demo_canary_flags, demo_canary_run, false },
    { "rollout", "list", "", 0, 0, "list rollouts, newest first", NULL, rollout_list_flags,
      rollout_list_run, false },
    { "rollout", "get", "ROLLOUT", 1, 1, "show a rollout with its evidence", NULL, NO_FLAGS,
      rollout_get_run, false },
    { "rollout", "shadow", "ROLLOUT", 1, 1, "show how its version does beside production", NULL,
      NO_FLAGS, rollout_shadow_run, false },
    { "rollout", "watch", "ROLLOUT", 1, 1, "follow a rollout to its end",
      "Exit 0 when it was completed, 7 when it was rolled back, aborted or superseded, 8 at the timeout.",
      NO_FLAGS, rollout_watch_run, false },
    { "rollout", "log", "ROLLOUT", 1, 1, "what became of a rollout, and why", NULL,
      rollout_log_flags, rollout_log_run, false },
    { "rollout", "observations", "ROLLOUT", 1, 1, "what its evidence was made of, as JSON lines",
      "One line a unit, as `gantry rollout simulate --observations` reads them: with the rollout's block\n"
      "as the plan it comes to the e-values of the server, and to its verdict. A score or an end that\n"
      "came after its unit was consumed shows here, and was not counted there.\n",
      NO_FLAGS, rollout_observations_run, false },
    { "rollout", "promote", "ROLLOUT", 1, 1, "go one step on, without evidence", NULL,
      rollout_promote_flags, rollout_promote_run, false },
    { "rollout", "gate", "ROLLOUT", 1, 1, "open a gate: its step still needs its evidence", NULL,
      rollout_gate_flags, rollout_gate_run, false },
    { "rollout", "pause", "ROLLOUT", 1, 1, "keep the weight; it may still be rolled back", NULL,
      NO_FLAGS, rollout_pause_run, false },
    { "rollout", "resume", "ROLLOUT", 1, 1, "go on where it was paused", NULL, NO_FLAGS,
      rollout_resume_run, false },
    { "rollout", "abort", "ROLLOUT", 1, 1, "end it: everything goes back to the stable version",
      NULL, NO_FLAGS, rollout_abort_run, false },
    { "rollout", "simulate", "", 0, 0, "foresee how rollouts end, or decide recorded ones again",
      "Without --observations it simulates rollouts of the plan: chance of each ending, tasks and time\n"
      "until then, for a canary like the control and for one that is worse in each metric, or as said\n"
      "with --canary. With it every line goes through the engine that decides in the server; -o jsonl\n"
      "prints the evidence after each. Steps then last as long as their tasks: lines carry no time.\n\n"
      "  gantry rollout simulate --plan plan.yaml --traffic 200 --canary errorRate=0.06\n"
      "  gantry rollout simulate --plan plan.yaml --observations seen.jsonl -o jsonl",
      rollout_simulate_flags, rollout_simulate_run, false },
    { "agents", NULL, "", 0, 0, "list agents and the version each routes to", NULL, NO_FLAGS,
      agents_run, false },
    { "queue", NULL, "", 0, 0, "show the lanes", NULL, NO_FLAGS, queue_run, false },
    { "workers", NULL, "", 0, 0, "list workers", NULL, NO_FLAGS, workers_run, false },
    { "metrics", NULL, "AGENT", 1, 1, "show how each version of an agent has been doing",
      "Completion, errors, quality, escalations, cost and time of the tasks that came to rest within the\n"
      "window, by version; how much its answers vary, and which tools it called.\n\n"
      "  gantry metrics support --window 7d",
      metrics_flags, metrics_run, false },
    { "alarm", "list", "", 0, 0, "list alarms of drift, newest first", NULL, alarm_list_flags,
      alarm_list_run, false },
    { "alarm", "acknowledge", "ALARM", 1, 1, "say that an alarm was seen",
      "Its metric is watched from anew: what it is like now counts as normal from then on.",
      alarm_acknowledge_flags, alarm_acknowledge_run, false },
    { "spend", NULL, "", 0, 0, "show what was spent, by whom and on what",
      "  gantry spend --by agent --window 7d\n  gantry spend --by day --window 30d -o json",
      spend_flags, spend_run, false },
    { "account", "list", "", 0, 0, "list users who called models without a task",
      "Those who called last come first. Their limits: gantry budget set user:NAME:day USD.",
      account_list_flags, account_list_run, false },
    { "price", "import", "FILE", 1, 1, "import a price list",
      "FILE (- is standard input) has the form of LiteLLM's model_prices_and_context_window.json: an\n"
      "object keyed by model, USD a token. All of it, or the entries you need. Workers take it over\n"
      "within a second; calls under way keep the price they began with. `prices` in gantry.yaml come\n"
      "before imported ones, those before the built-in list.\n\n"
      "  gantry price import model_prices_and_context_window.json",
      price_import_flags, price_import_run, false },
    { "price", "list", "[TEXT]", 0, 1, "list prices in USD a million tokens",
      "Those of models with TEXT in their names; all without.", NO_FLAGS, price_list_run, false },
    { "price", "show", "MODEL", 1, 1, "show all that a model is billed by", NULL, NO_FLAGS,
      price_show_run, false },
    { "budget", "get", "[SCOPE]", 0, 1, "what may be spent, and what was", NULL, NO_FLAGS,
      budget_get_run, false },
    { "budget", "set", "SCOPE AMOUNT", 2, 2, "limit what tasks spend together",
      "SCOPE is day or month for all tasks, or agent:NAME:day, tenant:NAME:month, user:NAME:day;\n"
      "NAME may be * for each that has no limit of its own. AMOUNT is USD. With -tokens behind\n"
      "the SCOPE it is tokens. `default` goes back to what the configuration says.\n"
      "  gantry budget set day 50\n"
      "  gantry budget set agent:support:month 200\n"
      "  gantry budget set 'user:*:day-tokens' 200000\n"
      "Spend of the day or month so far counts. Calls that do not fit are answered 402.",
      NO_FLAGS, budget_set_run, false },
    { "cache", "stats", "", 0, 0, "response caches of the workers", NULL, NO_FLAGS, cache_stats_run,
      false },
    { "cache", "purge", "", 0, 0, "forget cached responses",
      "Workers obey with their next heartbeat, which is asked for at once.", cache_purge_flags,
      cache_purge_run, false },
    { "limits", NULL, "", 0, 0, "show rate limits of providers and models, and who waits",
      "USED/LIMIT of the last minute, over all workers. `*` stands for a provider's models together.\n"
      "Limits are configured or learned from the provider's answers; calls over them wait.",
      NO_FLAGS, limits_run, false },
    { "breakers", NULL, "", 0, 0, "show circuit breakers of models, tools and webhook hosts",
      "Open ones first. An open breaker lets nothing through until its next probe.", NO_FLAGS,
      breakers_run, false },
    { "schedule", "list", "", 0, 0, "list schedules and when they fire next", NULL, NO_FLAGS,
      schedule_list_run, false },
    { "schedule", "set", "ID AGENT CRON", 3, 3, "submit a task again and again",
      "CRON has five fields (minute, hour, day, month, weekday), read in the time zone of --zone or of the server\n"
      "(budgets.timeZone), or is @hourly, @daily, @weekly, @monthly or @yearly.\n"
      "Each of its times is one task, also when the server is restarted then.\n\n"
      "  gantry schedule set morning-report reporter '0 7 * * MON-FRI' --input '{\"days\":1}'",
      schedule_set_flags, schedule_set_run, false },
    { "schedule", "delete", "ID", 1, 1, "take a schedule away", NULL, NO_FLAGS, schedule_delete_run,
      false },
    { "webhook", "list", "", 0, 0, "list webhooks that were given up, or others", NULL,
      webhook_list_flags, webhook_list_run, false },
    { "webhook", "replay", "[WEBHOOK...]", 0, COMMAND_ARGS_MAX, "send webhooks again",
      "Named ones that were delivered or given up, or with a flag those that were given up. They keep\n"
      "their id, by which receivers know what they have seen.\n\n"
      "  gantry webhook replay --url https://example.com/hook --since 24h",
      webhook_replay_flags, webhook_replay_run, false },
    { "webhook", "endpoints", "", 0, 0,
      "list endpoints that are disabled because they answered 410", NULL, NO_FLAGS,
      webhook_endpoints_run, false },
    { "webhook", "enable", "URL", 1, 1, "send webhooks to a disabled endpoint again", NULL,
      NO_FLAGS, webhook_enable_run, false },
    { "webhook", "rotate", "", 0, 0, "make a new secret and print it",
      "Both sign for a while: give receivers the new one in that time. A secret that is configured is\n"
      "changed in the configuration: webhooks.secret and webhooks.previousSecret.",
      webhook_rotate_flags, webhook_rotate_run, false },
    { "flag", "list", "", 0, 0, "list flags and switches", NULL, NO_FLAGS, flag_list_run, false },
    { "flag", "get", "KEY", 1, 1, "show a flag", NULL, NO_FLAGS, flag_get_run, false },
    { "flag", "set", "KEY VALUE", 2, 2, "set a flag, or switch a tool, a model or tasks off",
      "VALUE is true, false, a number or text. Without --agent and the like it is for everybody, and\n"
      "what was said for some before is forgotten; with them it is said for those only. Agents read\n"
      "flags at GET /gantry/v1/flags. The keys tool:NAME, model:NAME (NAME may hold *) and tasks are\n"
      "switches: false turns off what they name, within a second, also for tasks that run.\n\n"
      "  gantry flag set new-search true --percent 10\n"
      "  gantry flag set tool:refund false --tenant acme\n"
      "  gantry flag set tasks false --version 9f3ac21d",
      flag_set_flags, flag_set_run, false },
    { "flag", "delete", "KEY", 1, 1, "take a flag away", NULL, NO_FLAGS, flag_delete_run, false },
    { "doctor", NULL, "", 0, 0, "check the installation and name each problem with its fix",
      "Checks the configuration, models, data directory, limits and programs on this machine, and the\n"
      "server that commands talk to: whether it is there, takes the key, and has a worker. Exit 1 when\n"
      "there is a problem.\n\n"
      "  gantry doctor --data /var/lib/gantry",
      doctor_flags, doctor_run, false },
    { "config", "dump", "", 0, 0, "print the effective configuration, secrets masked", NULL,
      config_flags, config_dump_run, false },
    { "sim", NULL, "", 0, 0, "serve the simulated model alone, for tests of clients", NULL,
      sim_flags, sim_run, false },
    { "help", NULL, "[COMMAND...]", 0, 2, "explain the program or a command", NULL, NO_FLAGS,
      help_run, false },
    { "completion", NULL, "bash|zsh|fish", 1, 1, "print shell completion",
      "  source <(gantry completion bash)\n"
      "  gantry completion fish > ~/.config/fish/completions/gantry.fish",
      NO_FLAGS, completion_run, false },
    { "man", NULL, "", 0, 0, "print the man page", NULL, NO_FLAGS, man_run, true },
};

const size_t commands_n = ARRAY_N(commands);
