/* Capacity: the slots of all workers together, and how far they are taken. */
#ifndef GANTRY_OBSERVE_CAPACITY_H
#define GANTRY_OBSERVE_CAPACITY_H

#include "queue/queue.h"
#include "store/worker_store.h"

typedef struct {
    LaneConfig slots; /* of active workers */
    int64_t by_state[WORKER_STATE_N_];
} Capacity;

/* Adds up workers; scratch holds their slots while they are read. */
Capacity capacity_of(Arena *scratch, const Worker *workers, size_t workers_n);

/* Slots a lane can have at most: its own and all shared ones. */
int64_t capacity_lane(const Capacity *capacity, Lane lane);

/* Workers that all lanes need together, which share slots. */
int64_t capacity_wanted_all(const Capacity *capacity, const QueueOptions *options,
                            const QueueLaneStats stats[LANE_N_]);

/* Workers the lane needs, each with as many slots as those there are have on average. */
int64_t capacity_wanted(const Capacity *capacity, const QueueOptions *options,
                        const QueueLaneStats *stats, Lane lane);

/* Reads the workers. Everything lives in arena. Returns 0, -ENOMEM, -errno. */
typedef struct {
    Worker *workers;
    size_t n;
    Capacity capacity;
} WorkerRoster;
MUST_CHECK int capacity_read(Db *db, Arena *arena, WorkerRoster *ret);

#endif
