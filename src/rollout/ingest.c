#include "rollout/ingest.h"

#include <math.h>

#include "store/agent_store.h"
#include "store/grade_store.h"
#include "store/rollup_store.h"
#include "store/version_store.h"

/* What the news change in a minute of a version. */
typedef struct {
    char agent[AGENT_NAME_BYTES_MAX + 1], version_id[VERSION_ID_LEN + 1];
    int64_t minute_ms;
    Rollup difference;
} Cell;

typedef struct {
    Cell cells[INGEST_CELLS_MAX];
    size_t n, last; /* the cell used last: news come in runs */
    int64_t news, last_n;
    Rollup scratch;
} Ingest;

/* --- folding ---------------------------------------------------------------------------------- */

static bool is_cell(const Cell *cell, const RollupNews *news, int64_t minute_ms)
{
    return cell->minute_ms == minute_ms && str_eq(str_of(cell->version_id), news->version_id) &&
           str_eq(str_of(cell->agent), news->agent);
}

/* The cell of the news, a new one if there is room, else NULL. */
static Cell *cell_of(Ingest *in, const RollupNews *news)
{
    int64_t minute_ms = rollup_start_ms(ROLLUP_MINUTE, MAX(news->at_ms, 0));
    if (in->n > 0 && is_cell(&in->cells[in->last], news, minute_ms)) return &in->cells[in->last];
    for (in->last = 0; in->last < in->n; in->last++)
        if (is_cell(&in->cells[in->last], news, minute_ms)) return &in->cells[in->last];
    if (in->n == INGEST_CELLS_MAX) {
        in->last = 0;
        return NULL;
    }
    Cell *cell = &in->cells[in->n++];
    str_copy(cell->agent, sizeof(cell->agent), news->agent);
    str_copy(cell->version_id, sizeof(cell->version_id), news->version_id);
    cell->minute_ms = minute_ms;
    return cell;
}

static void fold_tools(Rollup *r, const RollupNews *news)
{
    Str name, rest = news->tools;
    int64_t calls;
    while (tool_use_next(&rest, &name, &calls)) {
        if (news->sign > 0) rollup_add_tool(r, name, calls);
        else rollup_remove_tool(r, name, calls);
    }
}

static void fold_task(Rollup *r, const RollupNews *news)
{
    if (news->sign > 0) rollup_add_task(r, &news->task);
    else rollup_remove_task(r, &news->task);
    if (news->task.outcome != OUTCOME_CANCELED && !news->task.degraded) fold_tools(r, news);
}

/* Scores of tasks that count nowhere else are none of the version's. */
static void fold_score(Rollup *r, const RollupNews *news)
{
    if (isnan(news->quality) || news->task.degraded) return;
    if (news->task.outcome == OUTCOME_CANCELED) return;
    double score = fmin(fmax(news->quality, 0), 1);
    if (news->sign > 0) rollup_add_score(r, score);
    else rollup_remove_score(r, score);
}

static bool fold(const RollupNews *news, void *ctx)
{
    Ingest *in = ctx;
    Cell *cell = news->what ? cell_of(in, news) : NULL;
    if (!cell && news->what) return false;
    if (news->what & NEWS_TASK) fold_task(&cell->difference, news);
    if (news->what & NEWS_SCORE) fold_score(&cell->difference, news);
    in->last_n = news->n;
    in->news++;
    return true;
}

/* --- putting them there ----------------------------------------------------------------------- */

static int apply(Db *db, Ingest *in, const Cell *cell)
{
    int r = 0;
    for (RollupSpan span = 0; r == 0 && span < ROLLUP_SPANS_N_; span++) {
        RollupKey key = { .span = span,
                          .start_ms = rollup_start_ms(span, cell->minute_ms),
                          .agent = str_of(cell->agent),
                          .version_id = str_of(cell->version_id) };
        r = rollup_apply(db, &key, &cell->difference, &in->scratch);
    }
    return r;
}

int ingest_job(Db *db, void *arg)
{
    IngestDone *done = arg;
    CLEANUP(freep) Ingest *in = xcalloc(1, sizeof(*in));
    *done = (IngestDone){ 0 };
    int r = rollup_news_read(db, INGEST_NEWS_MAX, fold, in);
    if (r == 0 && in->news > 0) r = rollup_news_delete(db, in->last_n);
    int64_t news = in->news;
    if (r == 0) r = grade_settle_due(db, (size_t)(INGEST_NEWS_MAX - news));
    if (r == 0) r = rollup_due_read(db, (size_t)(INGEST_NEWS_MAX - news), fold, in);
    if (r == 0 && in->news > news) r = grade_add_due(db, in->last_n);
    if (r == 0 && in->news > news) r = rollup_due_delete(db, in->last_n);
    for (size_t i = 0; r == 0 && i < in->n; i++) r = apply(db, in, &in->cells[i]);
    if (r != 0) return r;
    done->news = in->news;
    done->more = in->news == INGEST_NEWS_MAX || in->n == INGEST_CELLS_MAX;
    return 0;
}

static int count_job(Db *db, void *arg)
{
    return rollup_news_count(db, arg);
}

int ingest_wait(Store *store, int64_t *ret_news)
{
    int64_t waiting = 0, taken = 0;
    int r = store_read_wait(store, count_job, &waiting);
    for (bool more = waiting > 0; r == 0 && more;) {
        IngestDone done;
        r = store_call_wait(store, ingest_job, &done);
        if (r != 0) break;
        taken += done.news;
        more = done.more && taken < waiting;
    }
    if (ret_news) *ret_news = taken;
    return r;
}
