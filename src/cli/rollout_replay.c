/* rollout simulate --observations: recorded observations through the real engine. */
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/diag.h"
#include "base/map.h"
#include "cli/rollout_simulate.h"
#include "cli/table.h"
#include "codec/json.h"

#define LINE_BYTES_MAX ((size_t)1 << 20)
#define UNITS_BYTES_MAX ((size_t)2 << 30) /* of the ids of all units */

typedef struct {
    const Invocation *in;
    const char *path;
    Replay *replay;
    Map units;       /* ids that have counted */
    Arena ids, line; /* all units' ids; one line's document */
    int64_t lines, repeated;
    bool ignored; /* said already that a metric is not in the plan */
} Reader;

/* --- one line -------------------------------------------------------------------------------- */

static int wrong(const Reader *rd, const char *what)
{
    return fail(EXIT_USAGE, "%s:%" PRId64 ": %s", rd->path, rd->lines, what);
}

static int read_metrics(Reader *rd, const Json *metrics, EvidenceUnit *ret)
{
    if (json_type(metrics) != JSON_OBJECT) return wrong(rd, "`metrics` must be an object");
    for (JsonIter it = json_iter(metrics); json_next(&it);) {
        double harm = json_f64_or(it.value, -1);
        if (!(harm >= 0 && harm <= 1)) return wrong(rd, "a metric is a harm from 0 to 1");
        int m = rollout_spec_metric(rd->replay->spec, it.key);
        if (m < 0) {
            if (!rd->ignored)
                fprintf(stderr, "%s:%" PRId64 ": %.*s is not in the plan and is left out\n",
                        rd->path, rd->lines, STR_ARG(it.key));
            rd->ignored = true;
            continue;
        }
        ret->has |= UINT32_C(1) << m;
        ret->harm[m] = harm;
    }
    return EXIT_OK;
}

static int check_members(Reader *rd, const Json *v)
{
    static const Str names[] = { STR("unit"), STR("arm"), STR("prob"), STR("metrics") };
    if (json_type(v) != JSON_OBJECT) return wrong(rd, "expected an object");
    for (JsonIter it = json_iter(v); json_next(&it);) {
        bool known = false;
        for (size_t i = 0; i < ARRAY_N(names); i++) known |= str_eq(it.key, names[i]);
        if (!known)
            return fail(EXIT_USAGE, "%s:%" PRId64 ": unknown member `%.*s`", rd->path, rd->lines,
                        STR_ARG(str_sub(it.key, 0, 64)));
    }
    return EXIT_OK;
}

static int read_unit(Reader *rd, const Json *v, EvidenceUnit *ret)
{
    Str arm = json_str(json_get(v, "arm"));
    *ret = (EvidenceUnit){ .canary = str_eq(arm, STR("canary")) };
    if (!ret->canary && !str_eq(arm, STR("control")))
        return wrong(rd, "`arm` must be \"control\" or \"canary\"");
    ret->pi = json_f64_or(json_get(v, "prob"), -1);
    if (!(ret->pi > 0 && ret->pi < 1))
        return wrong(rd, "`prob` must lie between 0 and 1: where no one has a choice there is "
                         "nothing to compare");
    return read_metrics(rd, json_get(v, "metrics"), ret);
}

/* Whether the unit counts now for the first time. Units without id always do. */
static int first_sight(Reader *rd, Str unit, bool *ret_first)
{
    *ret_first = true;
    if (str_empty(unit)) return EXIT_OK;
    if (map_get(&rd->units, unit)) {
        rd->repeated++;
        *ret_first = false;
        return EXIT_OK;
    }
    Str id = arena_str(&rd->ids, unit);
    if (!id.ptr) return fail(EXIT_FAILED, "%s: too many units", rd->path);
    (void)map_put(&rd->units, id, rd);
    return EXIT_OK;
}

/* --- output ---------------------------------------------------------------------------------- */

static void put_metrics(JsonOut *out, const Replay *replay)
{
    size_t step = replay_step(replay);
    json_out_key(out, "metrics");
    json_out_object(out);
    for (size_t m = 0; m < replay->spec->evidence.metrics_n; m++) {
        const MetricEvidence *metric = &replay->evidence.metrics[m];
        json_out_key(out, replay->spec->names[m]);
        json_out_object(out);
        json_out_key(out, "logERollback");
        json_out_f64(out, evalue_log(&metric->rollback));
        json_out_key(out, "logEPromote");
        json_out_f64(out, evalue_log(&metric->promote[step]));
        json_out_object_end(out);
    }
    json_out_object_end(out);
}

static void print_object(const Replay *replay, bool whole)
{
    CLEANUP(buf_deinit) Buf buf;
    buf_init(&buf, LINE_BYTES_MAX);
    JsonOut out = json_out(&buf);
    json_out_object(&out);
    json_out_ki64(&out, "n", replay->observations);
    put_metrics(&out, replay);
    json_out_kcstr(&out, "verdict", rollout_verdict_name(replay->verdict));
    json_out_ki64(&out, "step", (int64_t)replay->rollout.step);
    if (whole) {
        json_out_kcstr(&out, "state", rollout_state_name(replay->rollout.state));
        json_out_kcstr(&out, "why", replay->move.why);
        json_out_ki64(&out, "canaryUnits", replay->canaries);
        json_out_key(&out, "sampleRatioLogE");
        json_out_f64(&out, srm_log(&replay->evidence.seen));
    }
    json_out_object_end(&out);
    printf("%.*s\n", STR_ARG(buf_str(&buf)));
}

static void print_metrics(const Replay *replay)
{
    static const char *const names[] = { "METRIC",         "CONTROL",       "CANARY",
                                         "LOG E ROLLBACK", "LOG E PROMOTE", NULL };
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, LINE_BYTES_MAX);
    Table table;
    table_init(&table, &arena, names);
    for (size_t m = 0; m < replay->spec->evidence.metrics_n; m++) {
        const MetricEvidence *metric = &replay->evidence.metrics[m];
        const EPast *past = &metric->past;
        Str mean[2];
        for (int arm = 0; arm < 2; arm++)
            mean[arm] = past->n[arm]
                            ? arena_printf(&arena, "%.4f", past->sum[arm] / (double)past->n[arm])
                            : STR("-");
        table_add(&table,
                  (Str[]){ str_of(replay->spec->names[m]), mean[0], mean[1],
                           arena_printf(&arena, "%.3f", evalue_log(&metric->rollback)),
                           arena_printf(&arena, "%.3f",
                                        evalue_log(&metric->promote[replay_step(replay)])) });
    }
    table_print(&table);
}

static void print_end(const Reader *rd)
{
    const Replay *replay = rd->replay;
    if (rd->repeated > 0)
        fprintf(stderr, "%" PRId64 " observations of units that had counted already are left out\n",
                rd->repeated);
    if (rd->in->output == OUTPUT_JSON) print_object(replay, true);
    if (rd->in->output != OUTPUT_TABLE) return;
    print_metrics(replay);
    printf("after %" PRId64 " observations (%" PRId64 " canary): %s. %s\n", replay->observations,
           replay->canaries, rollout_state_name(replay->rollout.state), replay->move.why);
}

/* --- the file -------------------------------------------------------------------------------- */

static int take_line(Reader *rd, Str text)
{
    const Json *v;
    EvidenceUnit unit;
    bool first = false;
    arena_clear(&rd->line);
    if (json_parse(&rd->line, text, NULL, &v, NULL) < 0) return wrong(rd, diag_text());
    int r = check_members(rd, v);
    if (r == EXIT_OK) r = read_unit(rd, v, &unit);
    if (r == EXIT_OK) r = first_sight(rd, json_str(json_get(v, "unit")), &first);
    if (r != EXIT_OK || !first) return r;
    size_t step = rd->replay->rollout.step;
    bool ended = replay_ended(rd->replay);
    replay_observe(rd->replay, &unit, 0);
    if (rd->in->output == OUTPUT_JSONL) print_object(rd->replay, false);
    bool news = replay_ended(rd->replay) != ended || rd->replay->rollout.step != step;
    if (news && rd->in->output == OUTPUT_TABLE)
        printf("%" PRId64 ": %s\n", rd->replay->observations, rd->replay->move.why);
    return EXIT_OK;
}

static int take_lines(Reader *rd, FILE *f)
{
    char *line = NULL;
    size_t size = 0;
    ssize_t n;
    int r = EXIT_OK;
    while (r == EXIT_OK && (n = getline(&line, &size, f)) > 0) {
        rd->lines++;
        Str text = str_trim(str_make(line, (size_t)n));
        if (text.len > LINE_BYTES_MAX) r = wrong(rd, "the line is too long");
        else if (!str_empty(text)) r = take_line(rd, text);
    }
    if (r == EXIT_OK && ferror(f)) r = fail(EXIT_FAILED, "%s cannot be read", rd->path);
    free(line);
    return r;
}

/* Recorded observations carry no time: steps last as long as their tasks. A block without steps of
 * its own is one decision, straight to all traffic. */
static void without_time(RolloutSpec *spec)
{
    if (!spec->own_steps) {
        spec->plan.steps_n = spec->evidence.steps_n = 2;
        spec->plan.steps[1] = (RolloutStep){ .weight_bp = WEIGHT_BP_ALL };
        spec->evidence.weight_bp[1] = WEIGHT_BP_ALL;
        if (spec->plan.steps[0].weight_bp == WEIGHT_BP_ALL) {
            spec->plan.steps[0] = rollout_plan_canary().steps[0];
            spec->evidence.weight_bp[0] = spec->plan.steps[0].weight_bp;
        }
    }
    spec->plan.deadline_ms = 0;
    for (size_t i = 0; i < spec->plan.steps_n; i++) spec->plan.steps[i].for_ms = 0;
}

int replay_run(const Invocation *in, RolloutSpec *spec, const char *path)
{
    bool standard = strcmp(path, "-") == 0;
    FILE *f = standard ? stdin : fopen(path, "re");
    if (!f) return fail(EXIT_USAGE, "%s cannot be opened", path);
    without_time(spec);
    CLEANUP(freep) Replay *replay = xcalloc(1, sizeof(*replay));
    replay_init(replay, spec);
    Reader rd = { .in = in, .path = standard ? "standard input" : path, .replay = replay };
    map_init(&rd.units, 0);
    arena_init(&rd.ids, UNITS_BYTES_MAX);
    arena_init(&rd.line, 16 * LINE_BYTES_MAX);
    int r = take_lines(&rd, f);
    if (r == EXIT_OK) print_end(&rd);
    map_deinit(&rd.units);
    arena_deinit(&rd.ids);
    arena_deinit(&rd.line);
    if (!standard) (void)fclose(f);
    return r;
}
