/* rollout simulate: the plan file, and the engine that both ways of simulating run. */
#include "cli/rollout_simulate.h"

#include <stdio.h>

#include "base/diag.h"
#include "cli/file.h"
#include "cli/verbs.h"
#include "codec/yaml.h"
#include "logic/manifest.h"

#define PLAN_ARENA_BYTES ((size_t)32 << 20)
#define ISSUES_MAX 20

/* --- the engine ------------------------------------------------------------------------------ */

static RolloutInput replay_input(const Replay *replay, int64_t now_ms)
{
    const Rollout *r = &replay->rollout;
    return (RolloutInput){
        .now_ms = now_ms,
        .preflight = CHECK_PASSED,
        .shadow = CHECK_RUNNING,
        .evidence_rollback = replay->evidence.rollback,
        .culprit = replay->evidence.rollback ? str_of(replay->spec->names[replay->evidence.culprit])
                                             : STR_NULL,
        .proved = evidence_proved(&replay->evidence, &replay->spec->evidence, r->step),
        .unproved = rollout_spec_unproved(replay->spec, &replay->evidence, r->step),
        .canaries = evidence_canaries(&replay->evidence, &replay->spec->evidence),
        .srm_ok = evidence_srm_ok(&replay->evidence),
        .judge_ok = evidence_judged_alike(&replay->evidence),
        .judge_why = STR("tasks of one arm lack a score more often than the other's"),
    };
}

static void replay_tick(Replay *replay, int64_t now_ms)
{
    RolloutInput in = replay_input(replay, now_ms);
    replay->move = rollout_next(&replay->rollout, &replay->spec->plan, &in);
    replay->rollout = replay->move.next;
}

void replay_init(Replay *replay, const RolloutSpec *spec)
{
    *replay = (Replay){ .spec = spec, .rollout = { .gates_open = UINT32_MAX } };
    evidence_init(&replay->evidence);
    while (replay->rollout.state < ROLLOUT_STEP) replay_tick(replay, 0);
}

bool replay_ended(const Replay *replay)
{
    return rollout_state_is_end(replay->rollout.state);
}

size_t replay_step(const Replay *replay)
{
    size_t step = replay->rollout.step;
    while (step > 0 && !evidence_step_tests(&replay->spec->evidence, step)) step--;
    return step;
}

/* Units with nothing to say to a group are not units of it: a judge has looked at none of them. */
static bool speaks_to(const RolloutSpec *spec, EvidenceGroup group, uint32_t has)
{
    for (size_t m = 0; m < spec->evidence.metrics_n; m++)
        if (spec->evidence.metrics[m].group == group && (has >> m & 1)) return true;
    return false;
}

void replay_observe(Replay *replay, const EvidenceUnit *unit, int64_t now_ms)
{
    const RolloutSpec *spec = replay->spec;
    replay->observations++;
    replay->canaries += unit->canary;
    evidence_seen(&replay->evidence, unit->canary, unit->pi);
    size_t step = replay_step(replay);
    for (EvidenceGroup g = 0; g < EVIDENCE_GROUPS_N_; g++)
        if (g == EVIDENCE_FAST || speaks_to(spec, g, unit->has))
            evidence_observe(&replay->evidence, &spec->evidence, step, g, unit);
    if (replay_ended(replay)) return;
    size_t before = replay->rollout.step;
    replay_tick(replay, now_ms);
    replay->verdict = replay->move.verdict;
    bool all = replay->rollout.state == ROLLOUT_STEP && replay->rollout.step > before &&
               !evidence_step_tests(&spec->evidence, replay->rollout.step);
    if (all && spec->plan.steps[replay->rollout.step].for_ms == 0)
        replay_tick(replay, now_ms); /* nothing is left to wait for at all traffic */
}

/* --- the plan file --------------------------------------------------------------------------- */

/* The rollout block of an agent.yaml, of a document with a rollout, or the document itself. */
static const Json *find_block(const Json *doc)
{
    const Json *of_agent = json_get(json_get(doc, "spec"), "rollout");
    if (of_agent) return of_agent;
    const Json *named = json_get(doc, "rollout");
    return named ? named : doc;
}

static int report(const char *path, const IssueList *issues)
{
    for (size_t i = 0; i < issues->n; i++) {
        CLEANUP(buf_deinit) Buf line;
        buf_init(&line, 4096);
        issue_text(&issues->items[i], str_of(path), &line);
        fprintf(stderr, "%.*s\n", STR_ARG(buf_str(&line)));
    }
    return issues->errors > 0 ? EXIT_USAGE : EXIT_OK;
}

static int read_plan(Arena *arena, const char *path, RolloutSpec *ret)
{
    Str text;
    const Json *doc;
    Issue items[ISSUES_MAX];
    IssueList issues;
    if (file_read(arena, path, YAML_BYTES_MAX, &text) < 0)
        return fail(EXIT_USAGE, "%s", diag_text());
    if (yaml_parse(arena, text, &doc, NULL) < 0)
        return fail(EXIT_USAGE, "%s: %s", path, diag_text());
    const Json *block = find_block(doc);
    issue_list_init(&issues, arena, items, ISSUES_MAX, NULL, NULL);
    int r = manifest_check_rollout(block, NULL, &issues);
    if (r < 0) return fail(EXIT_FAILED, "%s: out of memory", path);
    if (report(path, &issues) != EXIT_OK) return EXIT_USAGE;
    if (rollout_spec_read(block, ret) != 0)
        return fail(EXIT_USAGE, "%s: at most %d metrics, each name at most %d bytes", path,
                    EVIDENCE_METRICS_MAX, METRIC_NAME_MAX);
    rollout_spec_outlast(ret, rollout_spec_limit_ms(json_get(json_get(doc, "spec"), "limits")));
    ret->plan.shadow = false; /* what is simulated is what follows */
    return EXIT_OK;
}

int rollout_simulate_run(const Invocation *in)
{
    const char *plan = flag(in, "plan"), *observations = flag(in, "observations");
    if (!plan) return fail(EXIT_USAGE, "--plan is missing: the file with the rollout block");
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, PLAN_ARENA_BYTES);
    CLEANUP(freep) RolloutSpec *spec = xcalloc(1, sizeof(*spec));
    int r = read_plan(&arena, plan, spec);
    if (r != EXIT_OK) return r;
    return observations ? replay_run(in, spec, observations) : foresee_run(in, spec);
}
