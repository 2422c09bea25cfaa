#include "rollout/record.h"

#include <stdatomic.h>
#include <stdio.h>

#include "codec/time_text.h"
#include "rollout/rollout_json.h"
#include "store/event_store.h"

#define INPUTS_BYTES_MAX 16000

/* --- what was counted ------------------------------------------------------------------------- */

static struct {
    _Atomic uint64_t ticks, fates[FATE_N_], entered[ROLLOUT_N_], verdicts[VERDICT_N_],
        tripped[TRIPWIRE_N_];
    _Atomic uint64_t paged, judge_holds, shadows[SHADOW_STATE_N_], shadows_left_out;
} counts;

static void count(_Atomic uint64_t *counter, uint64_t by)
{
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

static void count_tick(const Gather *g, const RolloutInput *input, const RolloutMove *move)
{
    count(&counts.ticks, 1);
    for (int i = 0; i < FATE_N_; i++) count(&counts.fates[i], (uint64_t)g->fates[i]);
    count(&counts.verdicts[move->verdict], 1);
    if (move->actions & ROLLOUT_DO_PAGE) count(&counts.paged, 1);
    if (!input->judge_ok) count(&counts.judge_holds, 1);
    if (!(move->actions & ROLLOUT_DO_TELL)) return;
    count(&counts.entered[move->next.state], 1);
    if (input->tripwire != TRIPWIRE_NONE) count(&counts.tripped[input->tripwire], 1);
}

void record_stats(RecordStats *ret)
{
    *ret = (RecordStats){ .ticks = counts.ticks,
                          .paged = counts.paged,
                          .judge_holds = counts.judge_holds };
    for (int i = 0; i < FATE_N_; i++) ret->fates[i] = counts.fates[i];
    for (int i = 0; i < ROLLOUT_N_; i++) ret->entered[i] = counts.entered[i];
    for (int i = 0; i < VERDICT_N_; i++) ret->verdicts[i] = counts.verdicts[i];
    for (int i = 0; i < TRIPWIRE_N_; i++) ret->tripped[i] = counts.tripped[i];
    for (int i = 0; i < SHADOW_STATE_N_; i++) ret->shadows[i] = counts.shadows[i];
    ret->shadows_left_out = counts.shadows_left_out;
}

void record_shadow(ShadowState state)
{
    assert(state < SHADOW_STATE_N_);
    count(&counts.shadows[state], 1);
}

void record_shadow_left_out(void)
{
    count(&counts.shadows_left_out, 1);
}

const char *tripwire_name(Tripwire tripwire)
{
    static const char *const names[TRIPWIRE_N_] = { "none", "budget", "sandbox", "crash_loop" };
    assert(tripwire < TRIPWIRE_N_);
    return names[tripwire];
}

/* --- ticks ------------------------------------------------------------------------------------ */

static const char *command_name(RolloutCommand command)
{
    static const char *const names[COMMAND_N_] = {
        "none", "pause", "resume", "promote", "promoteAll", "openGate", "abort", "supersede"
    };
    assert(command < COMMAND_N_);
    return names[command];
}

static const char *check_name(CheckResult result)
{
    static const char *const names[] = { "running", "passed", "failed" };
    assert(result < ARRAY_N(names));
    return names[result];
}

static void put_inputs(JsonOut *out, const RolloutRow *row, const Gather *g,
                       const RolloutInput *input)
{
    char deadline[TIME_TEXT_MAX];
    json_out_object(out);
    json_out_kcstr(out, "command", command_name(input->command));
    if (!str_empty(input->actor)) json_out_kstr(out, "by", input->actor);
    json_out_kcstr(out, "tripwire", tripwire_name(input->tripwire));
    json_out_kcstr(out, "preflight", check_name(input->preflight));
    json_out_kcstr(out, "shadow", check_name(input->shadow));
    if (!str_empty(input->shadow_why)) json_out_kstr(out, "shadowWhy", input->shadow_why);
    json_out_kbool(out, "evidenceAgainst", input->evidence_rollback);
    if (!str_empty(input->culprit)) json_out_kstr(out, "culprit", input->culprit);
    json_out_kbool(out, "proved", input->proved);
    if (!str_empty(input->unproved)) json_out_kstr(out, "unproved", input->unproved);
    if (!str_empty(input->unmeasured)) json_out_kstr(out, "unmeasured", input->unmeasured);
    json_out_ki64(out, "canaries", input->canaries);
    json_out_kbool(out, "judgeOk", input->judge_ok);
    if (!str_empty(input->judge_why)) json_out_kstr(out, "judgeWhy", input->judge_why);
    rollout_write_gates(out, row, &g->spec);
    if (row->state.deadline_at_ms > 0)
        json_out_kcstr(out, "deadlineAt", time_format(row->state.deadline_at_ms, deadline));
    rollout_write_evidence(out, row, &g->spec, &g->evidence, NULL);
    json_out_object_end(out);
}

/* What was told and decided before is counted there, unless the tick is to have a row. */
static int add_tick(Db *db, const RolloutRow *row, const Gather *g, const RolloutInput *input,
                    bool own)
{
    bool same = false;
    CLEANUP(buf_deinit) Buf inputs;
    buf_init(&inputs, INPUTS_BYTES_MAX);
    JsonOut out = json_out(&inputs);
    put_inputs(&out, row, g, input);
    if (!json_out_ok(&out)) return -ENOMEM;
    const RolloutTick tick = { .at_ms = input->now_ms,
                               .state = row->state.state,
                               .step = (int64_t)row->state.step,
                               .verdict = row->verdict,
                               .why = row->why,
                               .inputs = buf_str(&inputs) };
    int r = own ? 0 : rollout_tick_again(db, row->seq, &tick, &same);
    return r != 0 || same ? r : rollout_tick_add(db, row->seq, &tick);
}

/* --- events ----------------------------------------------------------------------------------- */

static int add_event(Db *db, const char *what, const RolloutRow *row, const RolloutRow *from,
                     const Gather *g, const RolloutInput *input)
{
    char type[64];
    CLEANUP(buf_deinit) Buf data;
    buf_init(&data, EVENT_DATA_BYTES_MAX);
    JsonOut out = json_out(&data);
    snprintf(type, sizeof(type), "rollout.%s", what);
    json_out_object(&out);
    json_out_kcstr(&out, "from", rollout_state_name(from->state.state));
    if (!str_empty(input->actor)) json_out_kstr(&out, "by", input->actor);
    json_out_key(&out, "rollout");
    rollout_write(&out, row, &g->spec, &g->evidence, NULL, NULL, NULL);
    json_out_object_end(&out);
    if (!json_out_ok(&out)) return -ENOMEM;
    return event_insert(db, &(Event){ .at_ms = input->now_ms,
                                      .type = str_of(type),
                                      .agent = row->agent,
                                      .version_id = row->version_id,
                                      .subject = row->id,
                                      .data = buf_str(&data) });
}

int record_tick(Db *db, const RolloutRow *row, const RolloutRow *from, const Gather *g,
                const RolloutInput *input, const RolloutMove *move)
{
    bool moved = move->actions & ROLLOUT_DO_TELL, paged = move->actions & ROLLOUT_DO_PAGE;
    bool asks = move->actions & ROLLOUT_DO_ASK, opened = move->actions & ROLLOUT_DO_OPENED;
    bool own = moved || paged || asks || opened || g->changed;
    int r = add_tick(db, row, g, input, own);
    if (r == 0 && moved)
        r = add_event(db, rollout_state_name(row->state.state), row, from, g, input);
    if (r == 0 && asks) r = add_event(db, "gate_waits", row, from, g, input);
    if (r == 0 && opened) r = add_event(db, "gate_opened", row, from, g, input);
    if (r == 0 && paged) r = add_event(db, "needs_person", row, from, g, input);
    if (r == 0) count_tick(g, input, move);
    return r;
}
