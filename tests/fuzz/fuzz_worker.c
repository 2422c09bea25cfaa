/* What a worker reads from elsewhere: messages of the control plane, answers of models, components
 * of versions. What is accepted can be written, and reads back as the same. The first byte
 * chooses. */
#include "tests/fuzz/fuzz.h"
#include "worker/dialogue.h"
#include "worker/wire.h"

#define ARENA_MAX ((size_t)64 << 20)

typedef struct {
    Arena arena;
    Buf first, second;
} Work;

static const Json *parsed(Work *w, Str text)
{
    const Json *v = NULL;
    return json_parse(&w->arena, text, NULL, &v, NULL) == 0 ? v : NULL;
}

static void check_task(Work *w, Str text)
{
    LinkTask task, again;
    const Json *v = parsed(w, text);
    if (!v || wire_task_read(&w->arena, v, &task) != 0) return;
    JsonOut out = json_out(&w->first), out_again = json_out(&w->second);
    wire_task_write(&out, &task);
    assert(json_out_ok(&out));
    v = parsed(w, buf_str(&w->first));
    assert(v && wire_task_read(&w->arena, v, &again) == 0);
    wire_task_write(&out_again, &again);
    assert(str_eq(buf_str(&w->first), buf_str(&w->second)));
}

static void check_finish(Work *w, Str text)
{
    TaskFinish finish, again;
    const Json *v = parsed(w, text);
    if (!v || wire_finish_read(&w->arena, v, &finish) != 0) return;
    assert(finish.outcome < TASK_OUTCOME_N_ && finish.outcome != TASK_OUTCOME_LOST);
    JsonOut out = json_out(&w->first);
    wire_finish_write(&out, &finish);
    assert(json_out_ok(&out));
    v = parsed(w, buf_str(&w->first));
    assert(v && wire_finish_read(&w->arena, v, &again) == 0);
    assert(again.outcome == finish.outcome && str_eq(again.result, finish.result));
}

/* What is asked and told of budgets: within bounds, and the same when written and read again. */
static void check_budgets(Work *w, const Json *v)
{
    BudgetAsk ask, again;
    BudgetAnswer answer;
    BudgetHold hold;
    int64_t wait_ms;
    if (wire_ask_read(&w->arena, v, &ask, &wait_ms) == 0) {
        assert(ask.notes_n <= BUDGET_NOTES_MAX && wait_ms >= 0 && ask.lane < LANE_N_);
        assert(ask.need.min.nusd <= ask.need.good.nusd && ask.need.good.nusd <= ask.need.want.nusd);
        buf_clear(&w->first);
        JsonOut out = json_out(&w->first);
        wire_ask_write(&out, &ask, wait_ms);
        assert(json_out_ok(&out));
        const Json *written = parsed(w, buf_str(&w->first));
        assert(written && wire_ask_read(&w->arena, written, &again, &wait_ms) == 0);
        assert(again.notes_n == ask.notes_n && again.need.want.nusd == ask.need.want.nusd);
        buf_clear(&w->first);
    }
    if (wire_answer_read(&w->arena, v, &answer) == 0)
        for (size_t i = 0; i < answer.told_n; i++) assert(answer.told[i].granted >= 0);
    if (wire_hold_read(v, &hold) == 0) assert(hold.charge.nusd >= 0 && hold.call_id.len > 0);
    const BudgetHold *holds;
    size_t n;
    if (wire_holds_read(&w->arena, json_get(v, "holds"), &holds, &n) == 0)
        for (size_t i = 0; i < n; i++) assert(holds[i].charge.nusd >= 0 && holds[i].at_ms >= 0);
}

/* What is kept for sessions: within bounds, and the same when written and read again. */
static void check_state(Work *w, const Json *v)
{
    StateAsk ask, again;
    StateReply reply;
    if (wire_state_ask_read(&w->arena, v, &ask) == 0) {
        assert(ask.key.len <= STATE_KEY_BYTES_MAX && ask.what < STATE_WHAT_N_);
        buf_clear(&w->first);
        JsonOut out = json_out(&w->first);
        wire_state_ask_write(&out, (TaskRef){ .fence = 1 }, &ask);
        assert(json_out_ok(&out));
        const Json *written = parsed(w, buf_str(&w->first));
        assert(written && wire_state_ask_read(&w->arena, written, &again) == 0);
        assert(str_eq(again.value, ask.value) && again.if_version == ask.if_version);
        buf_clear(&w->first);
    }
    if (wire_state_reply_read(&w->arena, v, &reply) == 0) assert(reply.row.version >= 0);
}

static void check_children(Work *w, const Json *v)
{
    ChildNew child, again;
    LinkChild started;
    FamilyRow *rows;
    size_t n;
    TaskRef ref = { .fence = 1 };
    if (wire_child_new_read(&w->arena, v, &child) == 0) {
        assert(child.time_limit_ms >= 0 && child.offered.tokens >= 0);
        buf_clear(&w->first);
        JsonOut out = json_out(&w->first);
        wire_child_new_write(&out, ref, &child);
        assert(json_out_ok(&out));
        const Json *written = parsed(w, buf_str(&w->first));
        assert(written && wire_child_new_read(&w->arena, written, &again) == 0);
        assert(str_eq(again.key, child.key) && again.offered.nusd == child.offered.nusd);
        buf_clear(&w->first);
    }
    if (wire_child_read(v, &started) == 0) assert(started.status == 0 || started.status >= 400);
    if (wire_children_read(&w->arena, v, &rows, &n) == 0)
        for (size_t i = 0; i < n; i++) assert(rows[i].charged.tokens >= 0);
}

static void check_escalation(Work *w, const Json *v)
{
    EscalationAsk ask, again;
    EscalationReply reply;
    if (wire_escalation_ask_read(&w->arena, v, &ask) == 0) {
        assert(ask.occurrence >= 1 && ask.timeout_ms >= 1 && ask.question.len > 0);
        buf_clear(&w->first);
        JsonOut out = json_out(&w->first);
        wire_escalation_ask_write(&out, (TaskRef){ .fence = 1 }, &ask);
        assert(json_out_ok(&out));
        const Json *written = parsed(w, buf_str(&w->first));
        assert(written && wire_escalation_ask_read(&w->arena, written, &again) == 0);
        assert(str_eq(again.question, ask.question) && str_eq(again.fallback, ask.fallback));
        buf_clear(&w->first);
    }
    if (wire_escalation_reply_read(&w->arena, v, &reply) == 0)
        assert(reply.state < ESCALATION_STATE_N_);
}

static void check_rest(Work *w, Str text)
{
    TaskRef held[2] = { { .fence = 1 }, { .fence = 2 } };
    HeartbeatReply beat;
    LaneConfig slots;
    TaskLogLine line;
    Call call;
    const Json *v = parsed(w, text);
    if (!v) return;
    if (wire_beat_read(&w->arena, v, held, 2, &beat) == 0) assert(beat.stops_n <= 4);
    if (wire_slots_read(v, &slots) == 0) assert(slots.shared >= 0);
    if (wire_line_read(v, &line) == 0) assert(line.stream < TASK_LOG_STREAM_N_);
    if (wire_call_read(&w->arena, v, &call) == 0) assert(call.cost_nusd >= 0);
    int statuses[2];
    if (wire_finished_read(v, statuses, 2) == 0) assert(statuses[0] >= 100 && statuses[1] <= 599);
    check_budgets(w, v);
    check_state(w, v);
    check_children(w, v);
    check_escalation(w, v);
    RateTelling telling;
    if (wire_telling_read(&w->arena, v, &telling) == 0) {
        GatewayShare shares[4];
        int64_t ttl_ms;
        telling.limits_n = MIN(telling.limits_n, ARRAY_N(shares));
        JsonOut out = json_out(&w->first);
        wire_telling_write(&out, &telling);
        assert(json_out_ok(&out));
        if (wire_shares_read(v, &telling, shares, &ttl_ms) != 0) ttl_ms = telling.limits_n = 0;
        assert(ttl_ms >= 0);
        for (size_t i = 0; i < telling.limits_n; i++)
            assert(shares[i].silent_ms >= 0 && shares[i].learned.v[RATE_TOKENS] >= 0);
    }
    JournalNew recording;
    if (wire_recording_read(&w->arena, v, &recording) == 0)
        assert(recording.request.share.prefix <= JOURNAL_REQUEST_MAX);
    for (int what = JOURNAL_LIST; what <= JOURNAL_REQUEST; what++) {
        JournalReply reply;
        JournalAsk ask = { .what = (JournalWhat)what };
        if (wire_journal_read(&w->arena, v, &ask, &reply) == 0)
            assert(reply.rows_n <= JOURNAL_PAGE_MAX);
    }
}

/* An answer becomes part of the next request, which is to be JSON whatever the model wrote. */
static void check_answer(Work *w, Api api, Str text)
{
    Spec spec = { .model = STR("m"), .memory_window = 20 };
    Dialogue dialogue = { .spec = &spec, .input = STR("hi"), .cap_member = "max_tokens" };
    CLEANUP(arena_deinit) Arena scratch = { 0 };
    DialogueTurn *turn = NULL;
    arena_init(&scratch, ARENA_MAX);
    if (dialogue_answer(&dialogue, api, &w->arena, &scratch, text, &turn) != 0) return;
    for (size_t i = 0; i < turn->calls_n; i++) turn->calls[i].result = turn->calls[i].arguments;
    assert(dialogue_request(&dialogue, api, &w->first) == 0);
    assert(parsed(w, buf_str(&w->first)));
}

static void check_spec(Work *w, Str text)
{
    Spec spec;
    CapLimits limits;
    if (spec_read(&w->arena, text, &spec) != 0) return;
    assert(spec.runtime < RUNTIME_N_);
    assert(!spec.prompt_path.len || agent_path_ok(spec.prompt_path));
    assert(!spec.tools_path.len || agent_path_ok(spec.tools_path));
    assert(spec_task_limits(&spec, STR_NULL, 0, 5, &limits) == 0 && limits.wall_ms <= 5);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Work w = { 0 };
    if (size == 0) return 0;
    Str text = str_make((const char *)data + 1, size - 1);
    arena_init(&w.arena, ARENA_MAX);
    buf_init(&w.first, ARENA_MAX);
    buf_init(&w.second, ARENA_MAX);
    switch (data[0]) {
    case 't': check_task(&w, text); break;
    case 'f': check_finish(&w, text); break;
    case 'r': check_rest(&w, text); break;
    case 'c': check_answer(&w, API_CHAT, text); break;
    case 'm': check_answer(&w, API_MESSAGES, text); break;
    case 's': check_spec(&w, text); break;
    }
    arena_deinit(&w.arena);
    buf_deinit(&w.first);
    buf_deinit(&w.second);
    return 0;
}
