#include "worker/stuck.h"

#include "sys/clock.h"
#include "worker/allowance.h"
#include "worker/run.h"
#include "worker/servers.h"

#define LOOKS 4 /* in the time after which it is taken for hung */
#define LOOK_MS_MIN 20
#define CPU_SHARE 100 /* of the time one part in so many is no more than a timer, or pings */

typedef struct {
    int session;
    int64_t cpu_ms;
} CpuJob;

static int cpu_job(void *arg)
{
    CpuJob *job = arg;
    job->cpu_ms = allowance_cpu_ms(job->session);
    return 0;
}

static void look_later(Run *run, int64_t now_ms)
{
    run->stuck.look_at_ms = now_ms + MAX(run->host->stuck_ms / LOOKS, LOOK_MS_MIN);
}

void stuck_begin(Run *run)
{
    int64_t now_ms = clock_mono_ms();
    run->stuck = (Stuck){ .look_at_ms = INT64_MAX, .active_at_ms = now_ms };
    if (run->host->stuck_ms > 0) look_later(run, now_ms);
}

static bool changed(int64_t *seen, int64_t now)
{
    bool moved = *seen != now;
    *seen = now;
    return moved;
}

/* What can be seen without leaving the loop. */
static bool is_active(Run *run)
{
    GatewayTotals totals;
    bool builtin = run->version && run->version->spec.runtime == RUNTIME_BUILTIN;
    bool seen = run->process || run->server || builtin;
    if (!run->gateway || !seen || run->door_calls_n > 0 || run->tools_n > 0) return true;
    ServerSigns signs = run->server ? server_signs(run->server->server) : (ServerSigns){ 0 };
    if (changed(&run->stuck.wrote, signs.wrote) || signs.busy) return true;
    gateway_task_totals(run->gateway, &totals);
    bool calls = changed(&run->stuck.calls, totals.calls + totals.calls_refused);
    bool lines = changed(&run->stuck.lines, run->log.seq);
    bool tools = changed(&run->stuck.tools, run->tool_records);
    return calls || lines || tools || totals.caps.in_flight > 0;
}

/* Whether the processes have used more than a little CPU time since anything was seen, or one of
 * them has ended. */
static bool is_computing(const Run *run, int64_t cpu_ms)
{
    int64_t used_ms = cpu_ms - run->stuck.cpu_ms;
    return used_ms < 0 || used_ms > run->host->stuck_ms / CPU_SHARE;
}

bool stuck_look_wait(Run *run)
{
    bool active = is_active(run);
    CpuJob job = { .session = run->process ? process_pid(run->process) : 0 };
    if (run->server) job.session = server_signs(run->server->server).pid;
    if (job.session > 0) (void)work_wait(cpu_job, &job);
    int64_t now_ms = clock_mono_ms();
    active |= is_computing(run, job.cpu_ms);
    if (active) run->stuck.active_at_ms = now_ms, run->stuck.cpu_ms = job.cpu_ms;
    look_later(run, now_ms);
    return now_ms - run->stuck.active_at_ms >= run->host->stuck_ms;
}
