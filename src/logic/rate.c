#include "logic/rate.h"

#include "base/money.h"

const char *rate_unit_name(RateUnit unit)
{
    static const char *const names[RATE_N_] = { "requests", "tokens", "inputTokens",
                                                "outputTokens" };
    assert(unit < RATE_N_);
    return names[unit];
}

RateAmounts rate_amounts(int64_t input_tokens, int64_t output_tokens)
{
    assert(input_tokens >= 0 && output_tokens >= 0);
    RateAmounts amounts = { .v = { [RATE_REQUESTS] = 1 } };
    amounts.v[RATE_INPUT] = input_tokens;
    amounts.v[RATE_OUTPUT] = output_tokens;
    amounts.v[RATE_TOKENS] = money_add(input_tokens, output_tokens);
    return amounts;
}

/* --- the window ------------------------------------------------------------------------------- */

static int64_t bucket_no(int64_t at_ms)
{
    assert(at_ms >= 0);
    return at_ms / RATE_BUCKET_MS;
}

static bool bucket_held(const RateWindow *window, int64_t no)
{
    return no >= 0 && no <= window->newest_no && no > window->newest_no - RATE_BUCKETS;
}

/* What the window still holds at a time not before its newest bucket. */
static int64_t window_sum(const RateWindow *window, int64_t at_ms)
{
    int64_t gone = bucket_no(at_ms) - window->newest_no, sum = window->sum;
    if (gone >= RATE_BUCKETS) return 0;
    int64_t at = (window->newest_no + 1) % RATE_BUCKETS; /* the oldest, or one never used */
    for (int64_t i = 0; i < gone; i++) {
        sum -= window->buckets[at];
        at = at + 1 == RATE_BUCKETS ? 0 : at + 1;
    }
    assert(sum >= 0);
    return sum;
}

static void window_turn(RateWindow *window, int64_t now_ms)
{
    int64_t no = bucket_no(now_ms);
    if (no <= window->newest_no) return;
    window->sum = window_sum(window, now_ms);
    int64_t passed = MIN(no - window->newest_no, RATE_BUCKETS);
    for (int64_t i = 0; i < passed; i++) window->buckets[(no - i) % RATE_BUCKETS] = 0;
    window->newest_no = no;
}

static void window_add(RateWindow *window, int64_t amount, int64_t now_ms)
{
    assert(amount >= 0);
    window_turn(window, now_ms);
    int64_t *bucket = &window->buckets[window->newest_no % RATE_BUCKETS];
    amount = MIN(amount, INT64_MAX / 4 - window->sum);
    *bucket += amount;
    window->sum += amount;
}

/* Gives back what was added at at_ms, if it still counts. */
static void window_return(RateWindow *window, int64_t amount, int64_t at_ms, int64_t now_ms)
{
    window_turn(window, now_ms);
    int64_t no = bucket_no(at_ms);
    if (!bucket_held(window, no)) return;
    int64_t *bucket = &window->buckets[no % RATE_BUCKETS];
    amount = MIN(amount, *bucket); /* less was added when the sum was at its end */
    *bucket -= amount;
    window->sum -= amount;
}

/* --- a rate ----------------------------------------------------------------------------------- */

void rate_init(Rate *rate, const RateAmounts *limit, int64_t concurrent_limit)
{
    *rate = (Rate){ .limit = *limit, .concurrent_limit = concurrent_limit };
}

int64_t rate_limit(const Rate *rate, RateUnit unit)
{
    int64_t own = rate->limit.v[unit], learned = rate->learned.v[unit];
    if (own == 0 || learned == 0) return MAX(own, learned);
    return MIN(own, learned);
}

static int64_t others_at(const RateOthers *others, int64_t at_ms)
{
    if (at_ms >= others->until_ms || others->amount == 0) return 0;
    int64_t left_ms = others->until_ms - MAX(at_ms, others->from_ms);
    int64_t span_ms = others->until_ms - others->from_ms;
    return (int64_t)(((__int128)others->amount * left_ms + span_ms - 1) / span_ms);
}

int64_t rate_own(const Rate *rate, RateUnit unit, int64_t now_ms)
{
    return window_sum(&rate->windows[unit], now_ms);
}

int64_t rate_used(const Rate *rate, RateUnit unit, int64_t now_ms)
{
    return rate_own(rate, unit, now_ms) + others_at(&rate->others[unit], now_ms);
}

/* The shares as they are now: what others use of the limit is not theirs. */
static int64_t share_of(const Rate *rate, RateUnit unit, int64_t now_ms)
{
    return now_ms < rate->share_until_ms ? rate->share.v[unit] : 0;
}

/* The share counts as it is at now_ms, whatever at_ms is: another one will have come by then. */
static bool unit_fits(const Rate *rate, RateUnit unit, int64_t need, int64_t at_ms, int64_t now_ms)
{
    int64_t limit = rate_limit(rate, unit);
    if (limit == 0 || need == 0) return true;
    need = MIN(need, limit);
    if (rate->shared && rate_own(rate, unit, at_ms) > share_of(rate, unit, now_ms) - need)
        return false;
    return rate_used(rate, unit, at_ms) <= limit - need;
}

/* What is used only shrinks: the first time it fits is found by halving. */
static int64_t unit_fits_at_ms(const Rate *rate, RateUnit unit, int64_t need, int64_t now_ms)
{
    if (unit_fits(rate, unit, need, now_ms, now_ms)) return now_ms;
    int64_t no = now_ms, yes = MAX(now_ms + RATE_SPAN_MS, rate->others[unit].until_ms);
    if (!unit_fits(rate, unit, need, yes, now_ms)) return RATE_NEVER;
    while (yes - no > 1) {
        int64_t middle = no + (yes - no) / 2;
        if (unit_fits(rate, unit, need, middle, now_ms)) yes = middle;
        else no = middle;
    }
    return yes;
}

static int64_t concurrent_now(const Rate *rate, int64_t now_ms)
{
    if (!rate->shared) return rate->concurrent_limit;
    int64_t share = now_ms < rate->share_until_ms ? rate->concurrent_share : 0;
    return MIN(share, rate->concurrent_limit);
}

int64_t rate_fits_at_ms(const Rate *rate, const RateAmounts *need, int64_t now_ms)
{
    if (rate->concurrent_limit > 0 && rate->in_flight >= concurrent_now(rate, now_ms))
        return RATE_NEVER;
    int64_t at_ms = MAX(now_ms, rate->blocked_until_ms);
    for (RateUnit unit = 0; unit < RATE_N_; unit++)
        at_ms = MAX(at_ms, unit_fits_at_ms(rate, unit, need->v[unit], now_ms));
    return at_ms;
}

bool rate_lacks_share(const Rate *rate, const RateAmounts *need, int64_t now_ms)
{
    if (!rate->shared) return false;
    if (rate->concurrent_limit > 0 && rate->in_flight >= concurrent_now(rate, now_ms) &&
        rate->in_flight < rate->concurrent_limit)
        return true;
    for (RateUnit unit = 0; unit < RATE_N_; unit++) {
        int64_t limit = rate_limit(rate, unit), share = share_of(rate, unit, now_ms);
        int64_t wanted = rate_own(rate, unit, now_ms) + MIN(need->v[unit], limit);
        if (limit > 0 && need->v[unit] > 0 && share < limit && wanted > share) return true;
    }
    return false;
}

void rate_take(Rate *rate, const RateAmounts *need, int64_t now_ms)
{
    for (RateUnit unit = 0; unit < RATE_N_; unit++)
        window_add(&rate->windows[unit], need->v[unit], now_ms);
    rate->in_flight++;
}

void rate_settle(Rate *rate, const RateAmounts *taken, int64_t taken_at_ms,
                 const RateAmounts *actual, int64_t now_ms)
{
    assert(rate->in_flight > 0);
    rate->in_flight--;
    for (RateUnit unit = 0; unit < RATE_N_; unit++) {
        int64_t over = actual->v[unit] - taken->v[unit];
        if (over > 0) window_add(&rate->windows[unit], over, now_ms);
        else window_return(&rate->windows[unit], -over, taken_at_ms, now_ms);
    }
}

void rate_block_heard(Rate *rate, int64_t until_ms, int64_t now_ms)
{
    until_ms = MIN(until_ms, now_ms + RATE_BLOCK_MAX_MS);
    rate->blocked_until_ms = MAX(rate->blocked_until_ms, until_ms);
}

void rate_block(Rate *rate, int64_t until_ms, int64_t now_ms)
{
    rate_block_heard(rate, until_ms, now_ms);
    until_ms = MIN(until_ms, now_ms + RATE_BLOCK_MAX_MS);
    rate->silent_until_ms = MAX(rate->silent_until_ms, until_ms);
}

void rate_learn_heard(Rate *rate, const RateAmounts *learned)
{
    for (RateUnit unit = 0; unit < RATE_N_; unit++)
        if (rate->learned.v[unit] == 0) rate->learned.v[unit] = MAX(learned->v[unit], 0);
}

void rate_learn(Rate *rate, const RateReport *report, int64_t now_ms)
{
    for (RateUnit unit = 0; unit < RATE_N_; unit++) {
        int64_t limit = report->limit[unit], remaining = report->remaining[unit];
        int64_t reset_ms = report->reset_ms[unit];
        if (limit > 0) rate->learned.v[unit] = limit;
        if (remaining < 0) continue;
        limit = rate->learned.v[unit];
        if (limit == 0) continue;
        int64_t beyond = limit - MIN(remaining, limit) - window_sum(&rate->windows[unit], now_ms);
        if (reset_ms < 0) reset_ms = RATE_WINDOW_MS;
        rate->others[unit] = (RateOthers){ .amount = MAX(beyond, 0),
                                           .from_ms = now_ms,
                                           .until_ms = now_ms + MAX(reset_ms, 1) };
    }
}

/* --- waiting ---------------------------------------------------------------------------------- */

void rate_queue_init(RateQueue *queue, size_t n_max)
{
    *queue = (RateQueue){ .n_max = n_max };
    list_init(&queue->waiting);
}

static RateWaiter *waiter_of(ListNode *node)
{
    return CONTAINER_OF(node, RateWaiter, node);
}

bool rate_queue_join(RateQueue *queue, RateWaiter *waiter, int64_t now_ms)
{
    static const int64_t handicaps_ms[LANE_N_] = {
        [LANE_NORMAL] = RATE_HANDICAP_NORMAL_MS, [LANE_LOW] = RATE_HANDICAP_LOW_MS
    };
    assert(waiter->lane < LANE_N_ && waiter->rates_n >= 1 && waiter->rates_n <= RATE_SCOPES_MAX);
    list_init(&waiter->node);
    waiter->admitted = false;
    if (queue->n >= queue->n_max) {
        queue->refused_full++;
        return false;
    }
    waiter->rank_ms = now_ms + handicaps_ms[waiter->lane];
    ListNode *after = queue->waiting.prev;
    while (after != &queue->waiting && waiter_of(after)->rank_ms > waiter->rank_ms)
        after = after->prev;
    list_push_front(after, &waiter->node); /* behind it */
    queue->n++;
    queue->by_lane[waiter->lane]++;
    for (size_t i = 0; i < waiter->rates_n; i++) waiter->rates[i]->waiting++;
    return true;
}

void rate_queue_leave(RateQueue *queue, RateWaiter *waiter)
{
    if (waiter->admitted || !list_linked(&waiter->node)) return;
    list_remove(&waiter->node);
    assert(queue->n > 0 && queue->by_lane[waiter->lane] > 0);
    queue->n--;
    queue->by_lane[waiter->lane]--;
    for (size_t i = 0; i < waiter->rates_n; i++) waiter->rates[i]->waiting--;
}

static bool any_closed(const RateQueue *queue, const RateWaiter *waiter)
{
    for (size_t i = 0; i < waiter->rates_n; i++)
        if (waiter->rates[i]->closed_in == queue->pass) return true;
    return false;
}

/* Closes the rates that have no room for it to those behind it. *closed_n: how many of those that
 * wait are behind a closed one. */
static int64_t close_full(RateQueue *queue, const RateWaiter *waiter, int64_t now_ms,
                          size_t *closed_n)
{
    int64_t at_ms = now_ms;
    for (size_t i = 0; i < waiter->rates_n; i++) {
        Rate *rate = waiter->rates[i];
        int64_t fits_ms = rate_fits_at_ms(rate, &waiter->need, now_ms);
        if (fits_ms <= now_ms) continue;
        rate->closed_in = queue->pass;
        *closed_n += rate->waiting;
        at_ms = MAX(at_ms, fits_ms);
    }
    return at_ms;
}

static void admit(RateQueue *queue, RateWaiter *waiter, int64_t now_ms, List *ret)
{
    rate_queue_leave(queue, waiter);
    for (size_t i = 0; i < waiter->rates_n; i++) rate_take(waiter->rates[i], &waiter->need, now_ms);
    waiter->admitted = true;
    waiter->taken_at_ms = now_ms;
    list_push_back(ret, &waiter->node);
}

void rate_queue_admit(RateQueue *queue, int64_t now_ms, List *ret, int64_t *ret_next_ms)
{
    size_t closed_n = 0;
    int64_t next_ms = RATE_NEVER;
    queue->pass++;
    LIST_EACH (&queue->waiting, node) {
        RateWaiter *waiter = waiter_of(node);
        if (any_closed(queue, waiter)) continue;
        int64_t at_ms = close_full(queue, waiter, now_ms, &closed_n);
        if (at_ms <= now_ms) admit(queue, waiter, now_ms, ret);
        next_ms = MIN(next_ms, at_ms > now_ms ? at_ms : RATE_NEVER);
        if (closed_n >= queue->n) break;
    }
    *ret_next_ms = next_ms;
}

void rate_waiter_settle(RateWaiter *waiter, const RateAmounts *actual, int64_t now_ms)
{
    assert(waiter->admitted);
    waiter->admitted = false;
    for (size_t i = 0; i < waiter->rates_n; i++)
        rate_settle(waiter->rates[i], &waiter->need, waiter->taken_at_ms, actual, now_ms);
}

/* --- how long answers get --------------------------------------------------------------------- */

void rate_output_note(RateOutput *output, int64_t tokens)
{
    assert(tokens >= 0);
    output->high = MAX(tokens, output->high - output->high / 32);
    output->seen++;
}

int64_t rate_output_guess(const RateOutput *output, int64_t upper_bound)
{
    if (output->seen < RATE_OUTPUT_SEEN_MIN) return upper_bound;
    return MIN(upper_bound, output->high + output->high / 4 + 16);
}
