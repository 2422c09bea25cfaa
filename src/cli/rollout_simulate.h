/* `gantry rollout simulate`: the real engine without a server. Plain thread; blocking I/O. */
#ifndef GANTRY_CLI_ROLLOUT_SIMULATE_H
#define GANTRY_CLI_ROLLOUT_SIMULATE_H

#include "cli/command.h"
#include "logic/rollout_spec.h"

/* One run of the engine: observations in, decisions out. About 50 KB. */
typedef struct {
    const RolloutSpec *spec;
    Evidence evidence;
    Rollout rollout;
    RolloutMove move; /* of the last observation */
    RolloutVerdict verdict;
    int64_t observations, canaries;
} Replay;

/* Starts at the first step. */
void replay_init(Replay *replay, const RolloutSpec *spec);

/* One unit, at a virtual time; then one tick. After the end it is recorded but decides nothing. */
void replay_observe(Replay *replay, const EvidenceUnit *unit, int64_t now_ms);

/* The step whose nulls the evidence is about: the last one that proves something at most. */
size_t replay_step(const Replay *replay);
bool replay_ended(const Replay *replay);

/* Feeds the file's lines ("-": standard input) to the engine and prints what it decides. */
int replay_run(const Invocation *in, RolloutSpec *spec, const char *path);

/* Simulates rollouts under assumed traffic and effects and prints how they end. */
int foresee_run(const Invocation *in, const RolloutSpec *spec);

#endif
