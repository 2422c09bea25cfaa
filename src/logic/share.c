#include "logic/share.h"

int64_t share_held(const ShareHolder *holder, const ShareTerms *terms, int64_t now_ms)
{
    bool over = now_ms >= holder->expires_ms + terms->linger_ms;
    return holder->expires_ms == 0 || over ? 0 : holder->held;
}

static bool is_alive(const ShareHolder *holder, int64_t now_ms)
{
    return holder->expires_ms != 0 && now_ms < holder->expires_ms;
}

static int64_t sum_held(const ShareHolder *holders, size_t n, size_t except,
                        const ShareTerms *terms, int64_t now_ms)
{
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        if (i != except) sum += share_held(&holders[i], terms, now_ms);
    return sum;
}

/* What a holder may still be given in this round: of a lane's wants, or (LANE_N_) of anything. */
static int64_t room(const ShareHolder *holder, int lane)
{
    if (lane == LANE_N_) return INT64_MAX;
    int64_t wanted = holder->used;
    for (int l = 0; l <= lane; l++) wanted += holder->want[l];
    return MAX(wanted - holder->target, 0);
}

static int64_t count_open(const ShareHolder *holders, size_t n, int lane, int64_t now_ms)
{
    int64_t open = 0;
    for (size_t i = 0; i < n; i++) open += is_alive(&holders[i], now_ms) && room(&holders[i], lane);
    return open;
}

/* Evenly among those that want more, until nobody does or nothing is left. Returns what is left. */
static int64_t fill(ShareHolder *holders, size_t n, int lane, int64_t left, int64_t now_ms)
{
    int64_t open;
    while (left > 0 && (open = count_open(holders, n, lane, now_ms)) > 0) {
        int64_t each = MAX(left / open, 1);
        for (size_t i = 0; i < n && left > 0; i++) {
            if (!is_alive(&holders[i], now_ms)) continue;
            int64_t give = MIN(MIN(each, left), room(&holders[i], lane));
            holders[i].target += give;
            left -= give;
        }
    }
    return left;
}

/* Who comes next of those whose first call waits; NULL: nobody. */
static ShareHolder *next_first(ShareHolder *holders, size_t n, int64_t now_ms)
{
    ShareHolder *next = NULL;
    for (size_t i = 0; i < n; i++) {
        ShareHolder *holder = &holders[i];
        if (!is_alive(holder, now_ms) || holder->served || holder->first == 0) continue;
        if (!next || holder->first_rank_ms < next->first_rank_ms) next = holder;
    }
    return next;
}

static int64_t fill_firsts(ShareHolder *holders, size_t n, int64_t left, int64_t now_ms)
{
    ShareHolder *next;
    for (size_t i = 0; i < n; i++) holders[i].served = false;
    while (left > 0 && (next = next_first(holders, n, now_ms))) {
        int64_t give = MIN(next->first, left);
        next->served = true;
        next->target += give;
        left -= give;
    }
    return left;
}

/* What each would have if all could be shared out anew. */
static void set_targets(ShareHolder *holders, size_t n, int64_t limit, const ShareTerms *terms,
                        int64_t now_ms)
{
    int64_t left = limit;
    for (size_t i = 0; i < n; i++) {
        bool alive = is_alive(&holders[i], now_ms);
        holders[i].target = alive ? holders[i].used : 0;
        left -= alive ? holders[i].used : share_held(&holders[i], terms, now_ms);
    }
    left = fill_firsts(holders, n, left, now_ms);
    for (int lane = 0; lane <= LANE_N_; lane++) left = fill(holders, n, lane, left, now_ms);
}

int64_t share_ask(ShareHolder *holders, size_t n, size_t asker, int64_t limit, const ShareAsk *ask,
                  const ShareTerms *terms, bool grow, int64_t now_ms)
{
    assert(asker < n && limit > 0 && ask->have >= 0 && ask->used >= 0 && now_ms >= 0);
    ShareHolder *holder = &holders[asker];
    holder->used = ask->used;
    holder->first = MIN(MAX(ask->first, 0), limit);
    holder->first_rank_ms = now_ms - ask->first_late_ms;
    holder->expires_ms = now_ms + terms->ttl_ms;
    for (int lane = 0; lane < LANE_N_; lane++) holder->want[lane] = MAX(ask->want[lane], 0);
    set_targets(holders, n, limit, terms, now_ms);
    int64_t left = limit - sum_held(holders, n, asker, terms, now_ms);
    int64_t share = MAX(MIN(holder->target, left), 0);
    if (!grow) share = MIN(share, ask->have);
    holder->held = MAX(share, MAX(ask->have, ask->used));
    return MIN(share, limit);
}

void share_leave(ShareHolder *holder, int64_t used, int64_t now_ms)
{
    if (holder->expires_ms == 0) return;
    holder->held = MIN(holder->held, used);
    holder->expires_ms = MIN(holder->expires_ms, now_ms);
    holder->first = 0;
    for (int lane = 0; lane < LANE_N_; lane++) holder->want[lane] = 0;
}
