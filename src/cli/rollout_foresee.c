/* rollout simulate without observations: how rollouts of a plan would end, by seeded simulation. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "cli/rollout_simulate.h"
#include "cli/table.h"
#include "codec/duration.h"
#include "codec/json.h"
#include "logic/rng.h"

#define RUNS_MAX 10000
#define TASKS_MAX 10000000
#define CASES_MAX (2 + EVIDENCE_METRICS_MAX)

/* --- what is assumed ------------------------------------------------------------------------- */

typedef enum { DRAW_RATE, DRAW_SCORE, DRAW_COST } DrawKind;

/* Harm of one metric: a rate (0 or 1), a score's distance from 1 (Beta, a + b = 10), or a cost as a
 * share of its cap (lognormal, sigma 1, clipped). Means by arm. */
typedef struct {
    DrawKind kind;
    double mean[2];
} Draw;

typedef struct {
    const char *name;
    Draw draws[EVIDENCE_METRICS_MAX];
} Case;

typedef struct {
    const RolloutSpec *spec;
    double tasks_per_minute;
    int64_t runs, tasks_most;
    uint64_t seed;
    Case cases[CASES_MAX];
    size_t cases_n;
    char names[CASES_MAX][METRIC_NAME_MAX + 32];
} Foresight;

static Draw usual_draw(Str name)
{
    static const struct {
        const char *name;
        Draw draw;
    } usual[] = {
        { "errorRate", { DRAW_RATE, { .02, .02 } } },
        { "completionRate", { DRAW_RATE, { .02, .02 } } },
        { "escalationRate", { DRAW_RATE, { .05, .05 } } },
        { "latency", { DRAW_RATE, { .05, .05 } } },
        { "toolCalls", { DRAW_RATE, { .05, .05 } } },
        { "costOverrun", { DRAW_RATE, { .005, .005 } } },
        { "costPerTask", { DRAW_COST, { .125, .125 } } },
        { "tokensPerTask", { DRAW_COST, { .125, .125 } } },
    };
    for (size_t i = 0; i < ARRAY_N(usual); i++)
        if (str_eq(name, str_of(usual[i].name))) return usual[i].draw;
    return (Draw){ DRAW_SCORE, { .2, .2 } };
}

static double draw(const Draw *d, bool canary, Rng *rng)
{
    double mean = d->mean[canary];
    switch (d->kind) {
    case DRAW_RATE: return rng_uniform(rng) < mean;
    case DRAW_SCORE: return rng_beta(rng, 10 * mean, 10 * (1 - mean));
    default: return fmin(1, rng_lognormal(rng, mean, 1));
    }
}

/* --- what is given on the command line ------------------------------------------------------- */

/* "0.03", or for costs a multiple of the control's "x1.5". False: not a number in range. */
static bool set_mean(Draw *d, Str name, bool canary, Str value)
{
    bool times = value.len > 1 && value.ptr[0] == 'x';
    char text[32], *end;
    if (!str_copy(text, sizeof(text), str_skip(value, times)) || !*text) return false;
    double v = strtod(text, &end);
    if (*end || !isfinite(v) || v < 0) return false;
    if (times) v *= d->mean[0];
    bool more_is_better = d->kind != DRAW_COST && !metric_lower_is_better(name);
    if (more_is_better && !times) v = 1 - v;
    double least = d->kind == DRAW_RATE ? 0 : 0.001, most = d->kind == DRAW_RATE ? 1 : 0.999;
    if (!(v >= least && v <= most)) return false;
    d->mean[canary] = v;
    if (!canary) d->mean[1] = v;
    return true;
}

/* "errorRate=0.02,quality=0.8" */
static int read_means(const RolloutSpec *spec, const char *flag_name, const char *text, bool canary,
                      Draw draws[EVIDENCE_METRICS_MAX])
{
    Str rest = str_of(text);
    while (!str_empty(rest)) {
        Str part, name;
        rest = str_split(rest, ',', &part, NULL);
        Str value = str_split(part, '=', &name, NULL);
        int m = rollout_spec_metric(spec, str_trim(name));
        if (m < 0)
            return fail(EXIT_USAGE, "--%s: %.*s is not a metric of the plan", flag_name,
                        STR_ARG(name));
        if (!set_mean(&draws[m], str_of(spec->names[m]), canary, str_trim(value)))
            return fail(EXIT_USAGE, "--%s: %.*s is no value for it", flag_name, STR_ARG(part));
    }
    return EXIT_OK;
}

static int read_number(const Invocation *in, const char *name, int64_t least, int64_t most,
                       int64_t *ret)
{
    const char *text = flag(in, name);
    if (!text) return EXIT_OK;
    if (str_to_i64(str_of(text), ret) < 0 || *ret < least || *ret > most)
        return fail(EXIT_USAGE, "--%s: a whole number from %" PRId64 " to %" PRId64, name, least,
                    most);
    return EXIT_OK;
}

/* Worse than the control by this many margins: at 0 identical, at 1 as bad as is still allowed. */
static void make_worse(const EvidenceMetric *metric, Draw *d, double margins)
{
    double harm = metric->promote_rho * d->mean[0] + metric->promote_delta;
    d->mean[1] = fmin(0.99, d->mean[0] + margins * (harm - d->mean[0]));
}

/* Without --canary: identical, and worse by three margins in one metric after the other. */
static void usual_cases(Foresight *f, const Draw base[EVIDENCE_METRICS_MAX])
{
    const EvidencePlan *plan = &f->spec->evidence;
    for (size_t i = 0; i <= plan->metrics_n; i++) {
        Case *c = &f->cases[f->cases_n];
        memcpy(c->draws, base, sizeof(c->draws));
        char *name = f->names[f->cases_n++];
        c->name = name;
        if (i == 0) snprintf(name, sizeof(f->names[0]), "identical");
        if (i == 0) continue;
        make_worse(&plan->metrics[i - 1], &c->draws[i - 1], 3);
        snprintf(name, sizeof(f->names[0]), "%s worse by 3 margins", f->spec->names[i - 1]);
    }
}

static int read_cases(const Invocation *in, Foresight *f)
{
    Draw base[EVIDENCE_METRICS_MAX];
    for (size_t m = 0; m < f->spec->evidence.metrics_n; m++)
        base[m] = usual_draw(str_of(f->spec->names[m]));
    if (flag(in, "control")) {
        int r = read_means(f->spec, "control", flag(in, "control"), false, base);
        if (r != EXIT_OK) return r;
    }
    if (!flag(in, "canary")) {
        usual_cases(f, base);
        return EXIT_OK;
    }
    int r = read_means(f->spec, "canary", flag(in, "canary"), true, base);
    f->cases[0] = (Case){ .name = "as given" };
    memcpy(f->cases[0].draws, base, sizeof(base));
    f->cases_n = 1;
    return r;
}

static int read_assumptions(const Invocation *in, Foresight *f)
{
    int64_t traffic = 60, seed = 1;
    f->runs = 200;
    f->tasks_most = 100000;
    int r = read_number(in, "traffic", 1, 10000000, &traffic);
    if (r == EXIT_OK) r = read_number(in, "seed", 0, INT64_MAX, &seed);
    if (r == EXIT_OK) r = read_number(in, "runs", 1, RUNS_MAX, &f->runs);
    if (r == EXIT_OK) r = read_number(in, "tasks", 1, TASKS_MAX, &f->tasks_most);
    f->tasks_per_minute = (double)traffic;
    f->seed = (uint64_t)seed;
    return r == EXIT_OK ? read_cases(in, f) : r;
}

/* --- simulation ------------------------------------------------------------------------------ */

typedef struct {
    int64_t completed, rolled_back; /* runs; the others were not decided */
    int64_t tasks_median, canary_median;
    double minutes_median;
} Ending;

static void simulate_one(const Foresight *f, const Case *c, Rng *rng, Replay *replay)
{
    replay_init(replay, f->spec);
    double ms_a_task = 60000 / f->tasks_per_minute;
    while (!replay_ended(replay) && replay->observations < f->tasks_most) {
        size_t step = replay_step(replay);
        EvidenceUnit unit = { .pi = (double)f->spec->evidence.weight_bp[step] / WEIGHT_BP_ALL };
        unit.canary = rng_uniform(rng) < unit.pi;
        unit.has = (UINT32_C(1) << f->spec->evidence.metrics_n) - 1;
        for (size_t m = 0; m < f->spec->evidence.metrics_n; m++)
            unit.harm[m] = draw(&c->draws[m], unit.canary, rng);
        int64_t now_ms = (int64_t)((double)(replay->observations + 1) * ms_a_task);
        if (replay->rollout.state == ROLLOUT_PAUSED) break; /* the deadline: a person has to look */
        replay_observe(replay, &unit, now_ms);
        if (!evidence_step_tests(&f->spec->evidence, replay->rollout.step)) break; /* decided */
    }
}

static int compare_i64(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t median(int64_t *values, int64_t n)
{
    qsort(values, (size_t)n, sizeof(*values), compare_i64);
    return values[n / 2];
}

static Ending simulate(const Foresight *f, size_t index, Replay *replay)
{
    CLEANUP(freep) int64_t *tasks = xcalloc((size_t)f->runs, sizeof(*tasks));
    CLEANUP(freep) int64_t *canary = xcalloc((size_t)f->runs, sizeof(*canary));
    Ending ending = { 0 };
    for (int64_t run = 0; run < f->runs; run++) {
        Rng rng = rng_seeded(f->seed << 40 ^ (uint64_t)index << 32 ^ (uint64_t)run);
        simulate_one(f, &f->cases[index], &rng, replay);
        bool all = !evidence_step_tests(&f->spec->evidence, replay->rollout.step);
        if (replay->rollout.state == ROLLOUT_ROLLED_BACK) ending.rolled_back++;
        else if (all) ending.completed++;
        tasks[run] = replay->observations;
        canary[run] = replay->canaries;
    }
    ending.tasks_median = median(tasks, f->runs);
    ending.canary_median = median(canary, f->runs);
    ending.minutes_median = (double)ending.tasks_median / f->tasks_per_minute;
    return ending;
}

/* --- output ---------------------------------------------------------------------------------- */

static double share(const Foresight *f, int64_t runs)
{
    return (double)runs / (double)f->runs;
}

static void put_ending(JsonOut *out, const Foresight *f, size_t i, const Ending *e)
{
    json_out_object(out);
    json_out_kcstr(out, "case", f->cases[i].name);
    json_out_key(out, "promoted");
    json_out_f64(out, share(f, e->completed));
    json_out_key(out, "rolledBack");
    json_out_f64(out, share(f, e->rolled_back));
    json_out_key(out, "undecided");
    json_out_f64(out, share(f, f->runs - e->completed - e->rolled_back));
    json_out_ki64(out, "medianTasks", e->tasks_median);
    json_out_ki64(out, "medianCanaryTasks", e->canary_median);
    json_out_key(out, "medianMinutes");
    json_out_f64(out, e->minutes_median);
    json_out_object_end(out);
}

static void print_json(const Foresight *f, const Ending *endings, bool lines)
{
    CLEANUP(buf_deinit) Buf buf;
    buf_init(&buf, (size_t)1 << 20);
    if (lines) {
        for (size_t i = 0; i < f->cases_n; i++) {
            JsonOut out = json_out(&buf);
            put_ending(&out, f, i, &endings[i]);
            (void)buf_add_char(&buf, '\n');
        }
        printf("%.*s", STR_ARG(buf_str(&buf)));
        return;
    }
    JsonOut out = json_out(&buf);
    json_out_object(&out);
    json_out_ki64(&out, "runs", f->runs);
    json_out_key(&out, "tasksPerMinute");
    json_out_f64(&out, f->tasks_per_minute);
    json_out_key(&out, "cases");
    json_out_array(&out);
    for (size_t i = 0; i < f->cases_n; i++) put_ending(&out, f, i, &endings[i]);
    json_out_array_end(&out);
    json_out_object_end(&out);
    printf("%.*s\n", STR_ARG(buf_str(&buf)));
}

static void print_table(const Foresight *f, const Ending *endings)
{
    static const char *const names[] = {
        "IF THE CANARY IS", "PROMOTED", "ROLLED BACK", "UNDECIDED", "TASKS",
        "OF THEM CANARY",   "TIME",     NULL
    };
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, (size_t)1 << 20);
    Table table;
    table_init(&table, &arena, names);
    for (size_t i = 0; i < f->cases_n; i++) {
        const Ending *e = &endings[i];
        int64_t undecided = f->runs - e->completed - e->rolled_back;
        char time[DURATION_TEXT_MAX];
        duration_format((int64_t)ceil(e->minutes_median) * 60000, time);
        table_add(&table,
                  (Str[]){ str_of(f->cases[i].name),
                           arena_printf(&arena, "%.1f%%", 100 * share(f, e->completed)),
                           arena_printf(&arena, "%.1f%%", 100 * share(f, e->rolled_back)),
                           arena_printf(&arena, "%.1f%%", 100 * share(f, undecided)),
                           arena_printf(&arena, "%" PRId64, e->tasks_median),
                           arena_printf(&arena, "%" PRId64, e->canary_median), str_of(time) });
    }
    table_print(&table);
    printf("medians of %" PRId64 " simulated rollouts at %g tasks a minute, %" PRId64
           " tasks at most\n",
           f->runs, f->tasks_per_minute, f->tasks_most);
}

int foresee_run(const Invocation *in, const RolloutSpec *spec)
{
    if (spec->strategy != STRATEGY_CANARY && spec->strategy != STRATEGY_SHADOW)
        return fail(EXIT_USAGE,
                    "only a canary is decided by evidence: there is nothing to simulate");
    CLEANUP(freep) Foresight *f = xcalloc(1, sizeof(*f));
    f->spec = spec;
    int r = read_assumptions(in, f);
    if (r != EXIT_OK) return r;
    CLEANUP(freep) Replay *replay = xcalloc(1, sizeof(*replay));
    Ending endings[CASES_MAX];
    for (size_t i = 0; i < f->cases_n; i++) endings[i] = simulate(f, i, replay);
    if (in->output == OUTPUT_TABLE) print_table(f, endings);
    else print_json(f, endings, in->output == OUTPUT_JSONL);
    return EXIT_OK;
}
