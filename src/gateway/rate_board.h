/* RateBoard: what the workers tell of rate limits and breakers, and what share of each limit each
 * of them gets.
 *
 * In the control plane's memory, one for all workers. After a restart the calls of the last minute
 * count as far as they are recorded (rate_board_seed), and until every worker that lives has asked
 * again, or its share has run out, nobody gets more than it has. Any thread; nothing waits.
 */
#ifndef GANTRY_GATEWAY_RATE_BOARD_H
#define GANTRY_GATEWAY_RATE_BOARD_H

#include "gateway/gateway_limits.h"

typedef struct RateBoard RateBoard;

#define BOARD_WORKERS_MAX 256 /* more get no share, and wait until others have gone */
#define BOARD_KEYS_MAX 512
#define BOARD_BREAKERS_MAX 512 /* that a worker may report */

/* ttl_ms: how long a share lasts; the lease of a worker. fresh: no worker can have a share from
 * before. */
RateBoard *rate_board_new(int64_t ttl_ms, bool fresh);
/* NULL is accepted. */
void rate_board_free(RateBoard *board);
DEFINE_FREEP(RateBoard, rate_board_free)

/* What was sent to a model before this board was made, age_ms ago or longer: it counts against the
 * limits of the model and of its provider until a minute is over. */
void rate_board_seed(RateBoard *board, Str provider, Str model, const RateAmounts *used,
                     int64_t age_ms);

/* Breakers of this process, to be shown with the workers'; they must stay until the board goes. At
 * most 8 sets. */
void rate_board_add_breakers(RateBoard *board, Breakers *breakers);

/* What a worker tells. */
typedef struct {
    GatewayLimit *limits;
    size_t limits_n; /* at most GATEWAY_LIMITS_MAX */
    BreakerInfo *breakers;
    size_t breakers_n; /* at most BOARD_BREAKERS_MAX */
    GatewayLimitStats stats;
} RateTelling;

/* Takes in what the worker of that name tells and writes its shares: one for each of
 * telling->limits, in their order. Returns 0, -ENOSPC (too many workers or limits; what is missing
 * gets a share of nothing). */
int rate_board_tell(RateBoard *board, Str name, const RateTelling *telling, GatewayShare *ret);
int64_t rate_board_ttl_ms(const RateBoard *board);

/* The worker has stopped sending: what it has not used is free for others. */
void rate_board_leave(RateBoard *board, Str name);

/* A limit over all workers that live: usage added up. */
typedef struct {
    GatewayLimit limit;
    int64_t workers;
    int64_t in_force[LIMIT_UNITS]; /* 0: none */
} BoardLimit;
/* At most max, by provider and model; returns how many. */
size_t rate_board_limits(RateBoard *board, BoardLimit *ret, size_t max);

typedef struct {
    BreakerInfo breaker;
    char worker[40]; /* "": this process */
} BoardBreaker;
/* At most max, open ones first, then by kind and name; returns how many. */
size_t rate_board_breakers(RateBoard *board, BoardBreaker *ret, size_t max);

/* Added up over all workers there ever were; waiting: those that live. */
void rate_board_stats(RateBoard *board, GatewayLimitStats *ret);

#endif
