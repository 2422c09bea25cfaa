/* What was spent, by whom and on what. */
#include <stdio.h>

#include "api/prices.h"
#include "codec/time_text.h"
#include "observe/task_json.h"
#include "store/spend_store.h"
#include "sys/clock.h"

#define DAY_MS INT64_C(86400000)
#define WINDOW_MAX_MS (400 * DAY_MS)
#define ROWS_DEFAULT 100

const Param spend_params[] = {
    { "by", "string", "agent, version, user, tenant, model (the default), provider or day (UTC)" },
    { "window", "string", "How far back, by whole hours, such as 24h (the default); at most 400d" },
    { "limit", "integer", "At most so many rows, the most spent first (days: the newest)" },
    { 0 },
};

typedef struct {
    SpendBy by;
    int64_t from_ms, limit;
    Arena *arena;
    Spend *rows; /* out, as what follows */
    size_t n;
    Spend total;
} SpendJob;

static int spend_job(Db *db, void *arg)
{
    SpendJob *job = arg;
    return spend_list(db, job->by, job->from_ms, (size_t)job->limit, job->arena, &job->rows,
                      &job->n, &job->total);
}

static void sums_write(JsonOut *out, const Spend *spend)
{
    char usd[MONEY_TEXT_MAX];
    json_out_ki64(out, "calls", spend->calls);
    json_out_ki64(out, "inputTokens", spend->input_tokens);
    json_out_ki64(out, "outputTokens", spend->output_tokens);
    json_out_ki64(out, "cachedTokens", spend->cached_tokens);
    json_out_kcstr(out, "costUsd", money_text(spend->cost_nusd, usd));
    json_out_ki64(out, "costNusd", spend->cost_nusd);
}

static int spend_reply_wait(ApiCall *call, const SpendJob *job)
{
    int64_t rest = job->total.cost_nusd;
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    JsonOut *out = &json.out;
    json_out_object(out);
    json_out_kcstr(out, "by", spend_by_name(job->by));
    json_out_ktime(out, "from", job->from_ms - job->from_ms % SPEND_HOUR_MS);
    sums_write(out, &job->total);
    json_out_key(out, "rows");
    json_out_array(out);
    for (size_t i = 0; i < job->n; i++) {
        json_out_object(out);
        json_out_kstr(out, "key", job->rows[i].key);
        sums_write(out, &job->rows[i]);
        json_out_object_end(out);
        rest -= job->rows[i].cost_nusd;
    }
    json_out_array_end(out);
    json_out_kbool(out, "truncated", rest > 0);
    json_out_object_end(out);
    return api_json_wait(call, 200, &json);
}

static int by_read_wait(ApiCall *call, SpendBy *ret)
{
    Str word = api_param(call, "by");
    if (str_empty(word)) {
        *ret = SPEND_BY_MODEL;
        return 0;
    }
    for (SpendBy by = 0; by < SPEND_BY_N_; by++) {
        if (!str_eq(word, str_of(spend_by_name(by)))) continue;
        *ret = by;
        return 0;
    }
    return api_problem_wait(call, 400, "parameter_invalid",
                            "by: agent, version, user, tenant, model, provider or day");
}

int spend_run_wait(ApiCall *call)
{
    int64_t window_ms;
    SpendJob job = { .arena = &call->req->arena };
    int r = by_read_wait(call, &job.by);
    if (r == 0) r = api_param_duration_wait(call, "window", WINDOW_MAX_MS, DAY_MS, &window_ms);
    if (r == 0) r = api_param_i64_wait(call, "limit", 1, SPEND_ROWS_MAX, ROWS_DEFAULT, &job.limit);
    if (r != 0) return r;
    job.from_ms = MAX(clock_real_ms() - window_ms, 0);
    r = store_read_wait(queue_store(call->api->options.queue), spend_job, &job);
    return r < 0 ? api_fail_wait(call, r) : spend_reply_wait(call, &job);
}
