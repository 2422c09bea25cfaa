#include "gateway/rate_board.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/diag.h"
#include "base/map.h"
#include "sys/clock.h"
#include "sys/entropy.h"

#define SETS_MAX 8
#define NAME_BYTES 40

typedef struct {
    char name[NAME_BYTES]; /* "": free */
    int64_t told_at_ms;
    RateTelling telling; /* a copy; its arrays are ours */
} BoardWorker;

/* A limit, and who has what of it: holders[unit] by the place of the worker. */
typedef struct {
    char key[2 * 96];
    size_t key_len;
    int64_t silent_until_ms;                  /* the provider asked one of them */
    int64_t open_until_ms[BOARD_WORKERS_MAX]; /* its breaker with each of them, by place */
    RateAmounts learned;                      /* as one of them told last */
    ShareHolder holders[LIMIT_UNITS][BOARD_WORKERS_MAX];
} BoardKey;

struct RateBoard {
    int64_t ttl_ms;
    int64_t grow_at_ms; /* before that nobody gets more than it has */
    Breakers *sets[SETS_MAX];
    size_t sets_n;
    pthread_mutex_t lock; /* of all that follows */
    BoardWorker workers[BOARD_WORKERS_MAX];
    size_t workers_n; /* places ever taken */
    Map by_key;
    BoardKey *keys[BOARD_KEYS_MAX];
    size_t keys_n;
    GatewayLimitStats gone; /* of workers that are no more */
};

/* --- life ------------------------------------------------------------------------------------- */

RateBoard *rate_board_new(int64_t ttl_ms, bool fresh)
{
    RateBoard *board = xcalloc(1, sizeof *board);
    assert(ttl_ms > 0);
    board->ttl_ms = ttl_ms;
    board->grow_at_ms = fresh ? 0 : clock_mono_ms() + ttl_ms;
    map_init(&board->by_key, entropy_u64());
    pthread_mutex_init(&board->lock, NULL);
    return board;
}

static void telling_free(RateTelling *telling)
{
    free(telling->limits);
    free(telling->breakers);
    *telling = (RateTelling){ 0 };
}

void rate_board_free(RateBoard *board)
{
    if (!board) return;
    for (size_t i = 0; i < board->workers_n; i++) telling_free(&board->workers[i].telling);
    for (size_t i = 0; i < board->keys_n; i++) free(board->keys[i]);
    map_deinit(&board->by_key);
    pthread_mutex_destroy(&board->lock);
    free(board);
}

void rate_board_add_breakers(RateBoard *board, Breakers *breakers)
{
    assert(board->sets_n < SETS_MAX);
    board->sets[board->sets_n++] = breakers;
}

int64_t rate_board_ttl_ms(const RateBoard *board)
{
    return board->ttl_ms;
}

/* --- workers ---------------------------------------------------------------------------------- */

static ShareTerms terms_of(const RateBoard *board, int unit)
{
    return (ShareTerms){ board->ttl_ms, unit == LIMIT_CONCURRENT ? 0 : RATE_SPAN_MS };
}

static bool is_alive(const RateBoard *board, const BoardWorker *worker, int64_t now_ms)
{
    return worker->name[0] && now_ms - worker->told_at_ms < board->ttl_ms;
}

/* Nothing that it had counts any more. */
static bool is_over(const RateBoard *board, const BoardWorker *worker, int64_t now_ms)
{
    return now_ms - worker->told_at_ms >= board->ttl_ms + RATE_SPAN_MS;
}

static void stats_add(GatewayLimitStats *sum, const GatewayLimitStats *s)
{
    for (int lane = 0; lane < LANE_N_; lane++) {
        sum->waiting[lane] += s->waiting[lane];
        sum->waited[lane] += s->waited[lane];
    }
    sum->waited_us += s->waited_us;
    sum->queue_full += s->queue_full;
    sum->overdue += s->overdue;
    sum->throttled += s->throttled;
    sum->retries += s->retries;
    sum->retries_exhausted += s->retries_exhausted;
    sum->fallbacks += s->fallbacks;
    sum->models_full += s->models_full;
    sum->heartbeats += s->heartbeats;
}

static void place_clear(RateBoard *board, size_t place)
{
    BoardWorker *worker = &board->workers[place];
    memset(worker->telling.stats.waiting, 0, sizeof worker->telling.stats.waiting);
    stats_add(&board->gone, &worker->telling.stats);
    telling_free(&worker->telling);
    *worker = (BoardWorker){ .told_at_ms = 0 };
    for (size_t i = 0; i < board->keys_n; i++) {
        board->keys[i]->open_until_ms[place] = 0;
        for (int unit = 0; unit < LIMIT_UNITS; unit++)
            board->keys[i]->holders[unit][place] = (ShareHolder){ 0 };
    }
}

static BoardWorker *worker_find(RateBoard *board, Str name)
{
    for (size_t i = 0; i < board->workers_n; i++)
        if (str_eq(str_of(board->workers[i].name), name)) return &board->workers[i];
    return NULL;
}

/* Its place, or a free one; NULL: there is none. */
static BoardWorker *worker_place(RateBoard *board, Str name, int64_t now_ms)
{
    BoardWorker *worker = worker_find(board, name);
    for (size_t i = 0; i < board->workers_n && !worker; i++) {
        if (!is_over(board, &board->workers[i], now_ms)) continue;
        place_clear(board, i);
        worker = &board->workers[i];
    }
    if (!worker && board->workers_n < BOARD_WORKERS_MAX)
        worker = &board->workers[board->workers_n++];
    if (worker) str_copy(worker->name, sizeof worker->name, name);
    return worker;
}

static void *copy_of(const void *from, size_t n, size_t size)
{
    if (n == 0) return NULL;
    void *copy = xmalloc(n * size);
    memcpy(copy, from, n * size);
    return copy;
}

static void telling_keep(BoardWorker *worker, const RateTelling *telling, int64_t now_ms)
{
    telling_free(&worker->telling);
    worker->told_at_ms = now_ms;
    worker->telling = *telling;
    worker->telling.limits = copy_of(telling->limits, telling->limits_n, sizeof(GatewayLimit));
    worker->telling.breakers = copy_of(telling->breakers, telling->breakers_n, sizeof(BreakerInfo));
}

/* --- keys ------------------------------------------------------------------------------------- */

static size_t key_make(const GatewayLimit *limit, char key[2 * 96])
{
    size_t provider = strlen(limit->provider), model = strlen(limit->model);
    memcpy(key, limit->provider, provider + 1); /* the NUL parts them */
    memcpy(key + provider + 1, limit->model, model);
    return provider + 1 + model;
}

/* For how much longer it is open with one of the others; place: the asker's, or none. */
static int64_t key_open_ms(const RateBoard *board, const BoardKey *key, size_t place,
                           int64_t now_ms)
{
    int64_t until_ms = 0;
    for (size_t i = 0; i < board->workers_n; i++)
        if (i != place) until_ms = MAX(until_ms, key->open_until_ms[i]);
    return MAX(until_ms - now_ms, 0);
}

static bool key_is_idle(const RateBoard *board, const BoardKey *key, int64_t now_ms)
{
    if (now_ms < key->silent_until_ms) return false;
    if (key_open_ms(board, key, BOARD_WORKERS_MAX, now_ms) > 0) return false;
    for (int unit = 0; unit < LIMIT_UNITS; unit++) {
        ShareTerms terms = terms_of(board, unit);
        for (size_t i = 0; i < board->workers_n; i++)
            if (share_held(&key->holders[unit][i], &terms, now_ms) > 0) return false;
    }
    return true;
}

static BoardKey *key_room(RateBoard *board, int64_t now_ms)
{
    if (board->keys_n < BOARD_KEYS_MAX)
        return board->keys[board->keys_n++] = xcalloc(1, sizeof(BoardKey));
    for (size_t i = 0; i < board->keys_n; i++) {
        BoardKey *key = board->keys[i];
        if (!key_is_idle(board, key, now_ms)) continue;
        map_remove(&board->by_key, str_make(key->key, key->key_len));
        memset(key, 0, sizeof *key);
        return key;
    }
    return NULL;
}

static BoardKey *key_find(const RateBoard *board, const GatewayLimit *limit)
{
    char text[2 * 96];
    return map_get(&board->by_key, str_make(text, key_make(limit, text)));
}

static BoardKey *key_of(RateBoard *board, const GatewayLimit *limit, int64_t now_ms)
{
    char text[2 * 96];
    Str name = str_make(text, key_make(limit, text));
    BoardKey *key = key_find(board, limit);
    if (key || !(key = key_room(board, now_ms))) return key;
    memcpy(key->key, text, name.len);
    key->key_len = name.len;
    map_put(&board->by_key, str_make(key->key, key->key_len), key);
    return key;
}

/* --- shares ----------------------------------------------------------------------------------- */

static int64_t lower(int64_t a, int64_t b)
{
    return a == 0 || b == 0 ? MAX(a, b) : MIN(a, b);
}

static int64_t limit_in_force(const GatewayLimit *limit, int unit)
{
    if (unit == LIMIT_CONCURRENT) return limit->concurrent_limit;
    return lower(limit->configured.v[unit], limit->learned.v[unit]);
}

static int64_t share_of(RateBoard *board, BoardKey *key, size_t place, const GatewayLimit *limit,
                        int unit, int64_t now_ms)
{
    ShareTerms terms = terms_of(board, unit);
    int64_t in_force = limit_in_force(limit, unit);
    if (unit != LIMIT_CONCURRENT) in_force = lower(in_force, key->learned.v[unit]);
    if (in_force == 0) return INT64_MAX / 4; /* nothing to share */
    return share_ask(key->holders[unit], board->workers_n, place, in_force, &limit->asks[unit],
                     &terms, now_ms >= board->grow_at_ms, now_ms);
}

/* What one of them was told holds for all of them. */
static void key_hear(BoardKey *key, const GatewayLimit *limit, int64_t now_ms)
{
    int64_t silent_ms = MIN(limit->silent_ms, RATE_BLOCK_MAX_MS);
    if (silent_ms > 0) key->silent_until_ms = MAX(key->silent_until_ms, now_ms + silent_ms);
    for (RateUnit unit = 0; unit < RATE_N_; unit++)
        if (limit->learned.v[unit] > 0) key->learned.v[unit] = limit->learned.v[unit];
}

/* Only what has a limit, is to be silent, or has an open breaker takes room. */
static bool has_limit(const GatewayLimit *limit)
{
    if (limit->silent_ms > 0 || limit->open_ms > 0) return true;
    for (int unit = 0; unit < LIMIT_UNITS; unit++)
        if (limit_in_force(limit, unit)) return true;
    return false;
}

static int share_out(RateBoard *board, size_t place, const GatewayLimit *limit, int64_t now_ms,
                     GatewayShare *ret)
{
    *ret = (GatewayShare){ .v = { 0 } };
    memcpy(ret->provider, limit->provider, sizeof ret->provider);
    memcpy(ret->model, limit->model, sizeof ret->model);
    BoardKey *key = has_limit(limit) ? key_of(board, limit, now_ms) : key_find(board, limit);
    if (!key && !has_limit(limit)) return 0;
    if (!key) return diag_set(-ENOSPC, "there are %d limits already", BOARD_KEYS_MAX);
    key_hear(key, limit, now_ms);
    key->open_until_ms[place] = limit->open_ms > 0 ? now_ms + limit->open_ms : 0;
    ret->open_ms = key_open_ms(board, key, place, now_ms);
    ret->learned = key->learned;
    ret->silent_ms = MAX(key->silent_until_ms - now_ms, 0);
    for (int unit = 0; unit < LIMIT_UNITS; unit++)
        ret->v[unit] = share_of(board, key, place, limit, unit, now_ms);
    return 0;
}

/* As if a worker of that name had left just after it had sent the newest of them. */
static void seed_key(RateBoard *board, size_t place, const GatewayLimit *limit,
                     const RateAmounts *used, int64_t ended_ms)
{
    BoardKey *key = key_of(board, limit, clock_mono_ms());
    for (RateUnit unit = 0; key && unit < RATE_N_; unit++) {
        ShareHolder *holder = &key->holders[unit][place];
        holder->held = holder->used = holder->held + used->v[unit];
        holder->expires_ms = MAX(holder->expires_ms, ended_ms);
    }
}

void rate_board_seed(RateBoard *board, Str provider, Str model, const RateAmounts *used,
                     int64_t age_ms)
{
    GatewayLimit limit = { .provider = "" };
    int64_t now_ms = clock_mono_ms(), ended_ms = MAX(now_ms - age_ms, 1);
    str_copy(limit.provider, sizeof limit.provider, provider);
    pthread_mutex_lock(&board->lock);
    BoardWorker *worker = worker_place(board, STR("(before the restart)"), now_ms);
    if (worker) {
        size_t place = (size_t)(worker - board->workers);
        worker->told_at_ms = now_ms - board->ttl_ms; /* a minute, and its place is free */
        seed_key(board, place, &limit, used, ended_ms);
        str_copy(limit.model, sizeof limit.model, model);
        seed_key(board, place, &limit, used, ended_ms);
    }
    pthread_mutex_unlock(&board->lock);
}

int rate_board_tell(RateBoard *board, Str name, const RateTelling *telling, GatewayShare *ret)
{
    int64_t now_ms = clock_mono_ms();
    int r = 0;
    assert(telling->limits_n <= GATEWAY_LIMITS_MAX && telling->breakers_n <= BOARD_BREAKERS_MAX);
    memset(ret, 0, telling->limits_n * sizeof *ret);
    pthread_mutex_lock(&board->lock);
    BoardWorker *worker = worker_place(board, str_sub(name, 0, NAME_BYTES - 1), now_ms);
    if (!worker) r = diag_set(-ENOSPC, "there are %d workers already", BOARD_WORKERS_MAX);
    if (worker) telling_keep(worker, telling, now_ms);
    for (size_t i = 0; worker && i < telling->limits_n; i++) {
        int shared = share_out(board, (size_t)(worker - board->workers), &telling->limits[i],
                               now_ms, &ret[i]);
        if (shared < 0) r = shared;
    }
    pthread_mutex_unlock(&board->lock);
    return r;
}

void rate_board_leave(RateBoard *board, Str name)
{
    int64_t now_ms = clock_mono_ms();
    pthread_mutex_lock(&board->lock);
    BoardWorker *worker = worker_find(board, str_sub(name, 0, NAME_BYTES - 1));
    if (worker && worker->name[0]) {
        size_t place = (size_t)(worker - board->workers);
        for (size_t i = 0; i < board->keys_n; i++) {
            board->keys[i]->open_until_ms[place] = 0;
            for (int unit = 0; unit < LIMIT_UNITS; unit++) {
                ShareHolder *holder = &board->keys[i]->holders[unit][place];
                share_leave(holder, holder->used, now_ms);
            }
        }
        worker->told_at_ms = MIN(worker->told_at_ms, now_ms - board->ttl_ms);
    }
    pthread_mutex_unlock(&board->lock);
}

/* --- what there is to see --------------------------------------------------------------------- */

static void limit_add(BoardLimit *sum, const GatewayLimit *limit)
{
    GatewayLimit *to = &sum->limit;
    sum->workers++;
    for (RateUnit unit = 0; unit < RATE_N_; unit++) {
        to->configured.v[unit] = lower(to->configured.v[unit], limit->configured.v[unit]);
        to->learned.v[unit] = lower(to->learned.v[unit], limit->learned.v[unit]);
        to->used.v[unit] += limit->asks[unit].used;
    }
    to->concurrent_limit = lower(to->concurrent_limit, limit->concurrent_limit);
    to->in_flight += limit->in_flight;
    for (int lane = 0; lane < LANE_N_; lane++) to->waiting[lane] += limit->waiting[lane];
    to->waiting_all += limit->waiting_all;
    to->blocked_ms = MAX(to->blocked_ms, limit->blocked_ms);
    to->throttled += limit->throttled;
    for (int unit = 0; unit < LIMIT_UNITS; unit++) sum->in_force[unit] = limit_in_force(to, unit);
}

static BoardLimit *limit_place(BoardLimit *list, size_t *n, size_t max, const GatewayLimit *like)
{
    for (size_t i = 0; i < *n; i++)
        if (strcmp(list[i].limit.provider, like->provider) == 0 &&
            strcmp(list[i].limit.model, like->model) == 0)
            return &list[i];
    if (*n == max) return NULL;
    BoardLimit *limit = &list[(*n)++];
    *limit = (BoardLimit){ .workers = 0 };
    memcpy(limit->limit.provider, like->provider, sizeof like->provider);
    memcpy(limit->limit.model, like->model, sizeof like->model);
    return limit;
}

static int limit_cmp(const void *a, const void *b)
{
    const GatewayLimit *left = &((const BoardLimit *)a)->limit;
    const GatewayLimit *right = &((const BoardLimit *)b)->limit;
    int r = strcmp(left->provider, right->provider);
    return r != 0 ? r : strcmp(left->model, right->model);
}

size_t rate_board_limits(RateBoard *board, BoardLimit *ret, size_t max)
{
    int64_t now_ms = clock_mono_ms();
    size_t n = 0;
    pthread_mutex_lock(&board->lock);
    for (size_t i = 0; i < board->workers_n; i++) {
        const BoardWorker *worker = &board->workers[i];
        for (size_t k = 0; k < worker->telling.limits_n && is_alive(board, worker, now_ms); k++) {
            BoardLimit *limit = limit_place(ret, &n, max, &worker->telling.limits[k]);
            if (limit) limit_add(limit, &worker->telling.limits[k]);
        }
    }
    pthread_mutex_unlock(&board->lock);
    qsort(ret, n, sizeof *ret, limit_cmp);
    return n;
}

static int breaker_cmp(const void *a, const void *b)
{
    const BoardBreaker *left = a, *right = b;
    bool open_left = left->breaker.state != BREAKER_CLOSED;
    bool open_right = right->breaker.state != BREAKER_CLOSED;
    if (open_left != open_right) return open_left ? -1 : 1;
    int r = strcmp(left->breaker.kind, right->breaker.kind);
    if (r == 0) r = strcmp(left->breaker.name, right->breaker.name);
    return r != 0 ? r : strcmp(left->worker, right->worker);
}

/* Those of this process. */
static size_t own_breakers(RateBoard *board, BoardBreaker *ret, size_t max)
{
    BreakerInfo *list = xcalloc(BREAKERS_MAX_DEFAULT, sizeof *list);
    size_t n = 0;
    for (size_t s = 0; s < board->sets_n; s++) {
        size_t found = breakers_list(board->sets[s], list, BREAKERS_MAX_DEFAULT);
        for (size_t i = 0; i < found && n < max; i++)
            ret[n++] = (BoardBreaker){ .breaker = list[i] };
    }
    free(list);
    return n;
}

size_t rate_board_breakers(RateBoard *board, BoardBreaker *ret, size_t max)
{
    int64_t now_ms = clock_mono_ms();
    size_t n = own_breakers(board, ret, max);
    pthread_mutex_lock(&board->lock);
    for (size_t i = 0; i < board->workers_n; i++) {
        const BoardWorker *worker = &board->workers[i];
        if (!is_alive(board, worker, now_ms)) continue;
        for (size_t k = 0; k < worker->telling.breakers_n && n < max; k++) {
            ret[n].breaker = worker->telling.breakers[k];
            memcpy(ret[n++].worker, worker->name, sizeof worker->name);
        }
    }
    pthread_mutex_unlock(&board->lock);
    qsort(ret, n, sizeof *ret, breaker_cmp);
    return n;
}

void rate_board_stats(RateBoard *board, GatewayLimitStats *ret)
{
    int64_t now_ms = clock_mono_ms();
    pthread_mutex_lock(&board->lock);
    *ret = board->gone;
    for (size_t i = 0; i < board->workers_n; i++) {
        GatewayLimitStats stats = board->workers[i].telling.stats;
        if (!is_alive(board, &board->workers[i], now_ms))
            memset(stats.waiting, 0, sizeof stats.waiting);
        stats_add(ret, &stats);
    }
    pthread_mutex_unlock(&board->lock);
}
