#include "observe/capacity.h"

#include "codec/json.h"
#include "worker/wire.h"

static void slots_add(LaneConfig *sum, const LaneConfig *slots)
{
    for (int lane = 0; lane < LANE_N_; lane++) sum->reserved[lane] += slots->reserved[lane];
    sum->shared += slots->shared;
}

Capacity capacity_of(Arena *scratch, const Worker *workers, size_t workers_n)
{
    Capacity sum = { 0 };
    for (size_t i = 0; i < workers_n; i++) {
        sum.by_state[workers[i].state]++;
        if (workers[i].state != WORKER_ACTIVE) continue;
        const Json *json;
        LaneConfig slots;
        if (json_parse(scratch, workers[i].slots, NULL, &json, NULL) < 0) continue;
        if (wire_slots_read(json, &slots) == 0) slots_add(&sum.slots, &slots);
    }
    return sum;
}

int64_t capacity_lane(const Capacity *capacity, Lane lane)
{
    return capacity->slots.reserved[lane] + capacity->slots.shared;
}

/* Of a worker, on average. */
static double part_of(const Capacity *capacity, int64_t slots, int64_t otherwise)
{
    int64_t workers = capacity->by_state[WORKER_ACTIVE];
    return workers > 0 ? (double)slots / (double)workers : (double)otherwise;
}

int64_t capacity_wanted(const Capacity *capacity, const QueueOptions *options,
                        const QueueLaneStats *stats, Lane lane)
{
    int64_t workers = capacity->by_state[WORKER_ACTIVE], slots = capacity_lane(capacity, lane);
    const LaneConfig *one = &options->worker_slots;
    int64_t wanted = scaling_workers(&options->scaling, stats->slots_wanted,
                                     workers > 0 ? slots / workers
                                                 : one->reserved[lane] + one->shared);
    return scaling_keep(&options->scaling, wanted, workers, stats->slots_known);
}

int64_t capacity_wanted_all(const Capacity *capacity, const QueueOptions *options,
                            const QueueLaneStats stats[LANE_N_])
{
    double slots[LANE_N_], reserved[LANE_N_];
    const LaneConfig *one = &options->worker_slots;
    bool known = true;
    for (int lane = 0; lane < LANE_N_; lane++) {
        known = known && stats[lane].slots_known;
        slots[lane] = stats[lane].slots_wanted;
        reserved[lane] = part_of(capacity, capacity->slots.reserved[lane], one->reserved[lane]);
    }
    double shared = part_of(capacity, capacity->slots.shared, one->shared);
    int64_t wanted = scaling_workers_all(&options->scaling, slots, reserved, shared);
    return scaling_keep(&options->scaling, wanted, capacity->by_state[WORKER_ACTIVE], known);
}

int capacity_read(Db *db, Arena *arena, WorkerRoster *ret)
{
    int r = worker_list(db, arena, &ret->workers, &ret->n);
    if (r < 0) return r;
    ret->capacity = capacity_of(arena, ret->workers, ret->n);
    return 0;
}
