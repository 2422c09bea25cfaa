/* Recordings: kept with every call, served again to a later attempt, followed while they are
 * made. */
#include "tests/unit/gateway_rig.h"

#include "codec/gzip.h"
#include "gateway/gateway_journal.h"
#include "gateway/gateway_private.h"

#define KEPT_MAX 64

/* --- a journal in memory, as the store keeps it ----------------------------------------------- */

typedef struct {
    JournalNew rec; /* texts in journal.arena */
    int64_t attempt;
} Kept;

static struct {
    Rig *rig;
    Arena arena;
    Kept kept[KEPT_MAX];
    size_t n;
    size_t kept_from; /* recordings before belong to another task */
    int result;       /* of reading */
    int64_t delay_ms; /* of reading */
    bool held;        /* likewise, until it is not */
    size_t lists;     /* asked for so far */
    bool damage;      /* answers are cut short */
    bool forget;      /* nothing is kept: there is only so much room */
    char notes[2048]; /* lines of the task's log */
} journal;

static Str keep(Str text)
{
    return arena_str(&journal.arena, text);
}

static int keep_recording(void *ctx, const JournalNew *rec)
{
    (void)ctx;
    if (journal.forget) return 0;
    if (!CHECK(journal.n < KEPT_MAX)) return -ENOSPC;
    Kept *to = &journal.kept[journal.n++];
    *to = (Kept){ *rec, journal.rig->options.attempt };
    to->rec.name = keep(rec->name);
    to->rec.call_id = keep(rec->call_id);
    to->rec.content_type = keep(rec->content_type);
    to->rec.answer.bytes = keep(rec->answer.bytes);
    to->rec.request.base = keep(rec->request.base);
    to->rec.request.rest.bytes = keep(rec->request.rest.bytes);
    return 0;
}

static int record_wait(void *ctx, const GatewayCall *call)
{
    int r = rig_record_wait(ctx, call);
    return r == 0 && call->recording ? keep_recording(NULL, call->recording) : r;
}

static const JournalNew *kept_by_id(Str call_id)
{
    for (size_t i = 0; i < journal.n; i++)
        if (str_eq(journal.kept[i].rec.call_id, call_id)) return &journal.kept[i].rec;
    return NULL;
}

static int request_of(const JournalNew *rec, Buf *out)
{
    CLEANUP(buf_deinit) Buf base, rest;
    buf_init(&base, JOURNAL_REQUEST_MAX);
    buf_init(&rest, JOURNAL_REQUEST_MAX);
    if (!rec || rec->request.n == 0) return -ENOENT;
    if (rec->request.rest.gzip) CHECK_INT(gzip_decompress(rec->request.rest.bytes, &rest), 0);
    else buf_add(&rest, rec->request.rest.bytes);
    if (rec->request.base.len == 0) return buf_add(out, buf_str(&rest)) ? 0 : -ENOMEM;
    int r = request_of(kept_by_id(rec->request.base), &base);
    return r < 0 ? r : replay_join(buf_str(&base), rec->request.share, buf_str(&rest), out);
}

static int list(const JournalAsk *ask, Arena *arena, JournalReply *ret)
{
    journal.lists++;
    ret->rows = ARENA_ARRAY(arena, JournalRow, journal.n + 1);
    for (size_t i = MAX((size_t)ask->n, journal.kept_from); i < journal.n; i++) {
        JournalRow *row = &ret->rows[ret->rows_n++];
        const JournalNew *rec = &journal.kept[i].rec;
        *row = (JournalRow){ .n = (int64_t)i + 1, .kind = rec->kind, .complete = rec->complete };
        row->call_id = rec->call_id;
        memcpy(row->key, rec->key, sizeof row->key);
    }
    return 0;
}

static int journal_wait(void *ctx, const JournalAsk *ask, Arena *arena, JournalReply *ret)
{
    (void)ctx;
    if (journal.delay_ms) fiber_sleep_wait(journal.delay_ms);
    while (journal.held) fiber_sleep_wait(1);
    if (journal.result < 0) return journal.result;
    if (ask->what == JOURNAL_LIST) return list(ask, arena, ret);
    if (!CHECK(ask->n > 0 && ask->n <= (int64_t)journal.n)) return -ENOENT;
    const JournalNew *rec = &journal.kept[ask->n - 1].rec;
    if (ask->what == JOURNAL_ANSWER) {
        ret->row = (JournalRow){ .n = ask->n,
                                 .status = rec->status,
                                 .content_type = rec->content_type,
                                 .streamed = rec->streamed };
        ret->answer = rec->answer;
        if (journal.damage) ret->answer.bytes.len /= 2;
        return 0;
    }
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, JOURNAL_REQUEST_MAX);
    int r = request_of(rec, &text);
    if (r == 0) ret->request = arena_str(arena, buf_str(&text));
    return r;
}

static void note(void *ctx, const char *text)
{
    (void)ctx;
    size_t at = strlen(journal.notes);
    snprintf(journal.notes + at, sizeof journal.notes - at, "%s\n", text);
}

/* The task again, as after a crash. */
static void next_attempt(Rig *rig)
{
    rig->options.attempt++;
    journal.notes[0] = '\0';
    rig_task_wait(rig, rig->options.limits);
}

static void begin(Rig *rig)
{
    journal.rig = rig;
    rig->sink.call_record_wait = record_wait;
    rig->sink.journal_wait = journal_wait;
    rig->sink.journal_add_wait = keep_recording;
    rig->sink.note = note;
    rig_task_wait(rig, rig_no_limits);
}

static atomic_int answers;

static void run_with(void (*body_wait)(void *rig), StubFn stub)
{
    atomic_store(&answers, 0);
    memset(&journal, 0, sizeof journal);
    arena_init(&journal.arena, 256u << 20);
    rig_run_with(body_wait, stub, NULL);
    arena_deinit(&journal.arena);
}

static bool replayed(const Reply *reply)
{
    return strstr(reply->all, "x-gantry-replayed: 1\n") != NULL;
}

static uint64_t stat_of(const Rig *rig, size_t offset)
{
    GatewayStats *stats = calloc(1, sizeof *stats);
    uint64_t value;
    gateway_stats(rig->gateway, stats);
    memcpy(&value, (char *)stats + offset, sizeof value);
    free(stats);
    return value;
}
#define STAT(rig, field) stat_of(rig, offsetof(GatewayStats, field))

/* --- served again ----------------------------------------------------------------------------- */

static void check_same(const Reply *first, const Reply *second)
{
    CHECK_INT(second->opened, 0);
    CHECK_INT(second->ended, HTTP_CALL_E_END);
    CHECK_INT(second->status, first->status);
    CHECK_STR(reply_str(second), reply_str(first));
    CHECK_STR(str_of(second->type), str_of(first->type));
    CHECK(replayed(second) && !replayed(first));
    CHECK_STR(str_of(second->cost), STR("0.000000000"));
}

static Reply ask(Rig *rig, Api api, bool stream)
{
    char body[256];
    if (api != API_RESPONSES)
        return rig_say_wait(rig, api, "sim/echo", stream, rig_cap(api), "hello there");
    snprintf(body, sizeof body, "{\"model\":\"stub\",%s\"input\":\"hello there\"}",
             stream ? "\"stream\":true," : "");
    return rig_post_wait(rig, api, body);
}

static void replay_of(Rig *rig, Api api, bool stream)
{
    size_t records = rig->calls_n, recordings = journal.n;
    next_attempt(rig);
    journal.kept_from = journal.n; /* a task of its own */
    CLEANUP(reply_deinit) Reply first = ask(rig, api, stream);
    CHECK_INT(first.status, 200);
    CHECK_INT(journal.n, recordings + 1);
    CHECK(rig_last(rig)->call.charged.nusd > 0 && !rig_last(rig)->call.replayed);
    next_attempt(rig);
    CLEANUP(reply_deinit) Reply second = ask(rig, api, stream);
    check_same(&first, &second);
    CHECK_INT(rig->calls_n, records + 2);
    const GatewayCall *call = &rig_last(rig)->call;
    CHECK(call->replayed && call->outcome == GATEWAY_COMPLETE);
    CHECK_INT(call->charged.nusd + call->charged.tokens + call->usage.tool_calls, 0);
    CHECK_INT(journal.n, recordings + 1);
    GatewayTotals totals = rig_totals(rig);
    CHECK_INT(totals.calls, 0);
    CHECK_INT(totals.caps.settled_tokens + totals.caps.settled_nusd, 0);
    CHECK_INT(strlen(journal.notes), 0);
}

/* The Responses API, which the simulator does not speak. */
static StubEnd responses(StubRequest *request, void *ctx)
{
    static const char response[] =
        "{\"id\":\"resp_1\",\"object\":\"response\",\"status\":\"completed\",\"output\":[],"
        "\"usage\":{\"input_tokens\":5,\"output_tokens\":2,\"total_tokens\":7}}";
    char all[1000];
    (void)ctx;
    if (str_find(request->body, STR("\"stream\":true")) < 0)
        snprintf(all, sizeof all,
                 "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                 "Connection: close\r\nContent-Length: %zu\r\n\r\n%s",
                 strlen(response), response);
    else
        snprintf(all, sizeof all,
                 "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
                 "event: response.output_text.delta\n"
                 "data: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n"
                 "event: response.completed\n"
                 "data: {\"type\":\"response.completed\",\"response\":%s}\n\n",
                 response);
    stub_sends(request, all);
    return STUB_CLOSE;
}

static void body_replay(void *arg)
{
    Rig *rig = arg;
    begin(rig);
    for (int stream = 0; stream < 2; stream++) {
        replay_of(rig, API_CHAT, stream);
        replay_of(rig, API_RESPONSES, stream);
        replay_of(rig, API_MESSAGES, stream);
    }
    CHECK_INT(STAT(rig, replayed), 6);
    CHECK_INT(STAT(rig, replay_misses), 0);
}

static void test_replay(void **state)
{
    (void)state;
    run_with(body_replay, responses);
}

static Reply embed(Rig *rig)
{
    return rig_post_wait(rig, API_EMBEDDINGS, "{\"model\":\"sim/echo\",\"input\":\"words\"}");
}

static void body_embeddings(void *arg)
{
    Rig *rig = arg;
    begin(rig);
    CLEANUP(reply_deinit) Reply first = embed(rig);
    next_attempt(rig);
    CLEANUP(reply_deinit) Reply second = embed(rig);
    CHECK_INT(first.status, 200);
    check_same(&first, &second);
}

static void test_embeddings(void **state)
{
    (void)state;
    run_with(body_embeddings, rig_no_stub);
}

/* A long stream is kept compressed, and comes out as it went in. */
static void body_long_stream(void *arg)
{
    Rig *rig = arg;
    begin(rig);
    CLEANUP(reply_deinit)
    Reply first = rig_say_wait(rig, API_CHAT, "sim/ramble", true, "\"max_tokens\":600,", "go on");
    CHECK(first.body.len > 20000 && journal.kept[0].rec.answer.gzip);
    CHECK(journal.kept[0].rec.answer.bytes.len < first.body.len / 4);
    next_attempt(rig);
    CLEANUP(reply_deinit)
    Reply second = rig_say_wait(rig, API_CHAT, "sim/ramble", true, "\"max_tokens\":600,", "go on");
    check_same(&first, &second);
}

static void test_long_stream(void **state)
{
    (void)state;
    run_with(body_long_stream, rig_no_stub);
}

/* --- order and differences -------------------------------------------------------------------- */

/* Every answer has a number of its own. */
static StubEnd counting(StubRequest *request, void *ctx)
{
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                               "Content-Length: %zu\r\n\r\n%s";
    char body[300], all[500];
    (void)ctx;
    snprintf(body, sizeof body,
             "{\"id\":\"answer-%d\",\"model\":\"stub\",\"choices\":[{\"index\":0,\"message\":"
             "{\"role\":\"assistant\",\"content\":\"x\"},\"finish_reason\":\"stop\"}],"
             "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1,\"total_tokens\":4}}",
             atomic_fetch_add(&answers, 1) + 1);
    snprintf(all, sizeof all, head, strlen(body), body);
    stub_sends(request, all);
    return STUB_KEEP;
}

/* The number of the answer to a text; negative when it was replayed. */
static int say(Rig *rig, const char *text)
{
    CLEANUP(reply_deinit) Reply reply = rig_say_wait(rig, API_CHAT, "stub", false, "", text);
    ptrdiff_t at = reply.body.len ? str_find(reply_str(&reply), STR("answer-")) : -1;
    if (!CHECK(reply.status == 200 && at >= 0)) return 0;
    int n = (int)strtol(reply.body.ptr + at + 7, NULL, 10);
    return replayed(&reply) ? -n : n;
}

static void body_order(void *arg)
{
    Rig *rig = arg;
    begin(rig);
    CHECK_INT(say(rig, "a"), 1);
    CHECK_INT(say(rig, "b"), 2);
    CHECK_INT(say(rig, "a"), 3);
    next_attempt(rig);
    CHECK_INT(say(rig, "b"), -2); /* calls beside each other come in any order */
    CHECK_INT(say(rig, "a"), -1);
    CHECK_INT(say(rig, "a"), -3);
    CHECK_INT(strlen(journal.notes), 0);
    CHECK_INT(say(rig, "a"), 4); /* the journal is at its end: no difference */
    CHECK_INT(strlen(journal.notes), 0);
    CHECK_INT(STAT(rig, replay_misses), 0);
    next_attempt(rig); /* what two attempts paid for */
    CHECK_INT(say(rig, "a"), -1);
    CHECK_INT(say(rig, "a"), -3);
    CHECK_INT(say(rig, "a"), -4);
    CHECK_INT(say(rig, "b"), -2);
    CHECK_INT(rig_totals(rig).calls, 0);
}

static void test_order(void **state)
{
    (void)state;
    run_with(body_order, counting);
}

static void body_difference(void *arg)
{
    Rig *rig = arg;
    begin(rig);
    CHECK_INT(say(rig, "it is 10:00"), 1);
    CHECK_INT(say(rig, "later"), 2);
    next_attempt(rig);
    CHECK_INT(say(rig, "it is 10:05"), 3);
    /* {"messages":[{"content":"it is 10:0 are 35 bytes */
    CHECK_HAS(str_of(journal.notes), "recording 1 was expected, the request differs at byte 35 ");
    CHECK_HAS(str_of(journal.notes), "expected `:[{\"content\":\"it is 10:00");
    CHECK_HAS(str_of(journal.notes), "came `:[{\"content\":\"it is 10:05");
    CHECK(rig_last(rig)->call.replay_missed);
    CHECK_INT(say(rig, "it is 10:06"), 4); /* told once */
    CHECK_INT(strlen(journal.notes), (size_t)(strchr(journal.notes, '\n') - journal.notes) + 1);
    CHECK_INT(say(rig, "later"), -2); /* paid for: not again */
    CHECK(!rig_last(rig)->call.replay_missed);
    CHECK_INT(STAT(rig, replay_misses), 2);
}

static void test_difference(void **state)
{
    (void)state;
    run_with(body_difference, counting);
}

/* Requests are kept against one another, and still compared byte by byte. */
static void body_growing(void *arg)
{
    Rig *rig = arg;
    char text[3000] = "";
    begin(rig);
    for (int i = 0; i < 40; i++) {
        memset(text, 'x', 1000 + 40 * (size_t)i);
        CHECK_INT(say(rig, text), i + 1);
    }
    size_t kept = 0;
    for (size_t i = 0; i < journal.n; i++) kept += journal.kept[i].rec.request.rest.bytes.len;
    CHECK(kept < 6000); /* of 70,000 */
    next_attempt(rig);
    text[1000] = '\0'; /* the first again, the last with another end */
    CHECK_INT(say(rig, text), -1);
    memset(text, 'x', 2560);
    text[2559] = 'y';
    CHECK_INT(say(rig, text), 41);
    CHECK_HAS(str_of(journal.notes), "recording 2 was expected");
    CHECK_HAS(str_of(journal.notes), "at byte 1065 ");
}

static void test_growing(void **state)
{
    (void)state;
    run_with(body_growing, counting);
}

static void body_mask(void *arg)
{
    Rig *rig = arg;
    Str pointers[] = { STR("/messages/0/content") };
    GatewayJournalRule rules[] = { { .match = "billing", .off = true },
                                   { .match = "supp*", .mask = { pointers, 1 } } };
    rig->config.journal_rules = rules;
    rig->config.journal_rules_n = ARRAY_N(rules);
    begin(rig);
    CHECK_INT(say(rig, "it is 10:00"), 1);
    next_attempt(rig);
    CHECK_INT(say(rig, "it is 10:05"), -1);
    rules[1].off = true;
    size_t recordings = journal.n;
    next_attempt(rig);
    CHECK_INT(say(rig, "it is 10:00"), 2);
    CHECK_INT(journal.n, recordings);
    rig->config.journal_rules_n = 0;
}

static void test_mask(void **state)
{
    (void)state;
    run_with(body_mask, counting);
}

/* --- what is not served ----------------------------------------------------------------------- */

/* The first answer breaks off. */
static StubEnd cutting(StubRequest *request, void *ctx)
{
    (void)ctx;
    stub_sends(request, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
                        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"half\"}}]}\n\n");
    if (atomic_load(&request->stub->requests) == 1) return STUB_CLOSE;
    stub_sends(request,
               "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],"
               "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1,\"total_tokens\":4}}\n\n"
               "data: [DONE]\n\n");
    return STUB_CLOSE;
}

static void body_incomplete(void *arg)
{
    Rig *rig = arg;
    begin(rig);
    CLEANUP(reply_deinit) Reply cut = rig_say_wait(rig, API_CHAT, "stub", true, "", "a");
    CHECK_HAS(reply_str(&cut), "error");
    CHECK(journal.n == 1 && !journal.kept[0].rec.complete);
    CHECK_INT(journal.kept[0].rec.answer.bytes.len, 0);
    next_attempt(rig);
    CLEANUP(reply_deinit) Reply whole = rig_say_wait(rig, API_CHAT, "stub", true, "", "a");
    CHECK(!replayed(&whole));
    CHECK_HAS(reply_str(&whole), "[DONE]");
    CHECK_HAS(str_of(journal.notes), "the recorded answer is incomplete");
    next_attempt(rig);
    CLEANUP(reply_deinit) Reply again = rig_say_wait(rig, API_CHAT, "stub", true, "", "a");
    check_same(&whole, &again);
}

static void test_incomplete(void **state)
{
    (void)state;
    run_with(body_incomplete, cutting);
}

/* The first is passed on, and is no answer to give a second time; the second has no finish reason,
 * and was paid for like any other. */
static StubEnd doubtful(StubRequest *request, void *ctx)
{
    (void)ctx;
    static const char *const bodies[] = {
        "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"unread\"}}",
        "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"half\"}}]}",
        "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"all\"},\"finish_reason\":\"stop\"}]}",
    };
    char answer[512];
    size_t i = MIN((size_t)atomic_load(&request->stub->requests), ARRAY_N(bodies)) - 1;
    snprintf(answer, sizeof answer,
             "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
             strlen(bodies[i]), bodies[i]);
    stub_sends(request, answer);
    return STUB_KEEP;
}

static void body_doubtful(void *arg)
{
    static const char *const says[] = { "unread", "half", "all" };
    Rig *rig = arg;
    begin(rig);
    for (size_t i = 0; i < ARRAY_N(says); i++) {
        CLEANUP(reply_deinit) Reply reply = rig_say_wait(rig, API_CHAT, "stub", false, "", "a");
        CHECK(reply.status == 200 && !replayed(&reply));
        CHECK_HAS(reply_str(&reply), says[i]);
        CHECK(journal.n == i + 1 && journal.kept[i].rec.complete == (i > 0));
    }
    next_attempt(rig);
    for (size_t i = 1; i < ARRAY_N(says); i++) {
        CLEANUP(reply_deinit) Reply again = rig_say_wait(rig, API_CHAT, "stub", false, "", "a");
        CHECK(again.status == 200 && replayed(&again));
        CHECK_HAS(reply_str(&again), says[i]);
    }
}

static void test_doubtful(void **state)
{
    (void)state;
    run_with(body_doubtful, doubtful);
}

static void body_errors(void *arg)
{
    Rig *rig = arg;
    begin(rig);
    CLEANUP(reply_deinit) Reply failed = rig_say_wait(rig, API_CHAT, "sim/quota", false, "", "a");
    CHECK(failed.status >= 400);
    CLEANUP(reply_deinit) Reply refused = rig_post_wait(rig, API_CHAT, "{}");
    CHECK_INT(refused.status, 400);
    CHECK_INT(journal.n, 0);
}

static void test_errors(void **state)
{
    (void)state;
    run_with(body_errors, rig_no_stub);
}

static void body_damaged(void *arg)
{
    Rig *rig = arg;
    begin(rig);
    CHECK_INT(say(rig, "a"), 1);
    journal.damage = true;
    next_attempt(rig);
    CHECK_INT(say(rig, "a"), 2);
    CHECK_HAS(str_of(journal.notes), "the recording is damaged");
}

static void test_damaged(void **state)
{
    (void)state;
    run_with(body_damaged, counting);
}

/* Rather no answer than one that is paid twice. */
static void body_unreadable(void *arg)
{
    Rig *rig = arg;
    begin(rig);
    CHECK_INT(say(rig, "a"), 1);
    journal.result = -EIO;
    next_attempt(rig);
    CLEANUP(reply_deinit) Reply reply = rig_say_wait(rig, API_CHAT, "stub", false, "", "a");
    CHECK_INT(reply.status, 500);
    CHECK_INT(rig_totals(rig).calls, 0);
    journal.result = 0;
    CHECK_INT(say(rig, "a"), -1); /* asked again */
    next_attempt(rig);
    journal.result = -ESTALE;
    CLEANUP(reply_deinit) Reply stale = rig_say_wait(rig, API_CHAT, "stub", false, "", "a");
    CHECK_INT(stale.status, 403);
    CHECK_INT(rig_totals(rig).stop, GATEWAY_STOP_STALE);
    journal.result = 0;
}

static void test_unreadable(void **state)
{
    (void)state;
    run_with(body_unreadable, counting);
}

static StubEnd huge(StubRequest *request, void *ctx)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n = 14u << 20;
    char *pad = malloc(n), head[400];
    uint64_t x = 88172645463325252u;
    (void)ctx;
    for (size_t i = 0; i < n; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        pad[i] = digits[x & 63];
    }
    static const char front[] =
        "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1,\"total_tokens\":4},\"pad\":\"";
    snprintf(head, sizeof head,
             "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
             strlen(front) + n + 2, front);
    stub_sends(request, head);
    stub_send(request, str_make(pad, n));
    stub_sends(request, "\"}");
    free(pad);
    return STUB_KEEP;
}

static void body_too_large(void *arg)
{
    Rig *rig = arg;
    begin(rig);
    CLEANUP(reply_deinit) Reply first = rig_say_wait(rig, API_CHAT, "stub", false, "", "a");
    CHECK_INT(first.status, 200);
    CHECK(journal.n == 1 && !journal.kept[0].rec.complete);
    CHECK_HAS(str_of(journal.notes), "too large to be recorded");
    CHECK_INT(STAT(rig, not_recorded), 1);
    next_attempt(rig);
    CLEANUP(reply_deinit) Reply second = rig_say_wait(rig, API_CHAT, "stub", false, "", "a");
    CHECK(second.status == 200 && !replayed(&second));
}

static void test_too_large(void **state)
{
    (void)state;
    run_with(body_too_large, huge);
}

/* --- caps ------------------------------------------------------------------------------------- */

/* What is replayed was counted when it was bought: a spent cap does not stand in its way. */
static void body_caps(void *arg)
{
    Rig *rig = arg;
    rig->options.limits = (CapLimits){
        .tokens = 5000, .tool_calls = 1, .usd_nusd = CAP_NONE, .wall_ms = CAP_NONE
    };
    begin(rig);
    rig_task_wait(rig, (CapLimits){ 5000, 1, CAP_NONE, CAP_NONE });
    CHECK_INT(say(rig, "a"), 1);
    rig->options.spent.settled_tokens = 5000;
    rig->options.spent.tool_calls = 1;
    next_attempt(rig);
    CHECK_INT(say(rig, "a"), -1);
    CLEANUP(reply_deinit) Reply reply = rig_say_wait(rig, API_CHAT, "stub", false, "", "b");
    CHECK_INT(reply.status, 402);
    GatewayTotals totals;
    gateway_task_totals(rig->task, &totals);
    CHECK_INT(totals.caps.settled_tokens, 5000);
    CHECK_INT(totals.caps.tool_calls, 1);
}

static void test_caps(void **state)
{
    (void)state;
    run_with(body_caps, counting);
}

static void body_stopped(void *arg)
{
    Rig *rig = arg;
    begin(rig);
    CHECK_INT(say(rig, "a"), 1);
    next_attempt(rig);
    gateway_task_stop(rig->task, GATEWAY_STOP_CANCELLED);
    CLEANUP(reply_deinit) Reply reply = rig_say_wait(rig, API_CHAT, "stub", false, "", "a");
    CHECK_INT(reply.status, 403);
}

static void test_stopped(void **state)
{
    (void)state;
    run_with(body_stopped, counting);
}

/* --- calls that are still going --------------------------------------------------------------- */

typedef struct {
    Rig *rig;
    const char *body;
    int64_t timeout_ms;
    bool retry;
    const char *client_key;
    GatewayMemory memory;
    bool left; /* the reader */
    int result;
    char heads[1024];
    FiberRef fiber;
} Reader;

static int reader_start(void *ctx, int status, const GatewayField *fields, size_t n, bool streamed)
{
    Reader *reader = ctx;
    (void)streamed;
    if (reader->left) return HTTP_E_GONE;
    reader->memory.status = status;
    for (size_t i = 0; i < n; i++) {
        size_t at = strlen(reader->heads);
        snprintf(reader->heads + at, sizeof reader->heads - at, "%s: %.*s\n", fields[i].name,
                 STR_ARG(fields[i].value));
    }
    return 0;
}

static int reader_write(void *ctx, Str bytes)
{
    Reader *reader = ctx;
    if (reader->left) return HTTP_E_GONE;
    return buf_add(&reader->memory.body, bytes) ? 0 : -EMSGSIZE;
}

static int reader_end(void *ctx)
{
    Reader *reader = ctx;
    if (reader->left) return HTTP_E_GONE;
    reader->memory.ended = true;
    return 0;
}

static bool reader_gone(void *ctx)
{
    Reader *reader = ctx;
    return reader->left;
}

static int reader_main(void *arg)
{
    Reader *reader = arg;
    GatewayRequest request = { .api = API_CHAT,
                               .body = str_of(reader->body),
                               .timeout_ms = reader->timeout_ms,
                               .retry = reader->retry,
                               .client_key = str_of(reader->client_key) };
    GatewayReply reply = { reader_start, reader_write, reader_end, reader_gone, reader };
    reader->result = gateway_call_wait(reader->rig->task, &request, &reply);
    return 0;
}

static void reader_spawn_for(Reader *reader, Rig *rig, const char *body, int64_t timeout_ms)
{
    *reader = (Reader){ .rig = rig, .body = body, .timeout_ms = timeout_ms };
    gateway_memory_init(&reader->memory, 16 << 20);
    CHECK_INT(fiber_spawn("reader", reader_main, reader, &reader->fiber), 0);
}

static void reader_spawn(Reader *reader, Rig *rig, const char *body)
{
    reader_spawn_for(reader, rig, body, 0);
}

static void reader_join(Reader *reader)
{
    fiber_join_wait(reader->fiber, NULL);
}

static void reader_deinit(Reader *reader)
{
    gateway_memory_deinit(&reader->memory);
}

/* Answers in steps: the next one is made when the test says so. */
static struct {
    atomic_int steps;
    atomic_bool fails;
} gate;

static void gate_wait(int step)
{
    for (int i = 0; i < 20000 && atomic_load(&gate.steps) < step; i++) stub_sleep_ms(1);
}

static StubEnd gated(StubRequest *request, void *ctx)
{
    int nth = atomic_load(&request->stub->requests);
    char text[200];
    (void)ctx;
    if (str_find(request->body, STR("\"stream\":true")) < 0) {
        gate_wait(1);
        if (nth == 1 && atomic_load(&gate.fails)) {
            stub_sends(request,
                       "HTTP/1.1 400 Bad\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            return STUB_CLOSE;
        }
        return counting(request, ctx);
    }
    snprintf(text, sizeof text,
             "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
             "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"part %d\"}}]}\n\n",
             nth);
    stub_sends(request, text);
    gate_wait(1);
    stub_sends(request, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"two\"}}]}\n\n");
    gate_wait(2);
    if (atomic_load(&gate.fails)) return STUB_CLOSE;
    stub_sends(request,
               "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],"
               "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1,\"total_tokens\":4}}\n\n"
               "data: [DONE]\n\n");
    return STUB_CLOSE;
}

#define STREAM_BODY \
    "{\"model\":\"stub\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}"
#define PLAIN_BODY "{\"model\":\"stub\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}"

static void body_until(const Reader *reader, const char *text)
{
    for (int i = 0; i < 4000; i++) {
        if (reader->memory.body.len && strstr(reader->memory.body.ptr, text)) return;
        fiber_sleep_wait(5);
    }
    bool came = false;
    CHECK(came);
}

static void attached_until(const Rig *rig, uint64_t n)
{
    for (int i = 0; i < 4000 && STAT(rig, attached) < n; i++) fiber_sleep_wait(5);
    CHECK_INT(STAT(rig, attached), n);
}

static void body_follow_stream(void *arg)
{
    Rig *rig = arg;
    Reader first, second;
    begin(rig);
    reader_spawn(&first, rig, STREAM_BODY);
    body_until(&first, "part 1");
    first.left = true;
    reader_spawn(&second, rig, STREAM_BODY);
    body_until(&second, "part 1"); /* from the beginning */
    atomic_store(&gate.steps, 1);
    body_until(&second, "two"); /* and as it comes */
    CHECK(!strstr(second.memory.body.ptr, "stop"));
    atomic_store(&gate.steps, 2);
    reader_join(&first);
    reader_join(&second);
    CHECK_INT(first.result, HTTP_E_GONE);
    CHECK_INT(second.result, 0);
    CHECK(second.memory.ended && second.memory.status == 200);
    CHECK_HAS(str_of(second.heads), "x-gantry-replayed: 1");
    CHECK_HAS(str_of(second.heads), "content-type: text/event-stream");
    CHECK(journal.n == 1 && journal.kept[0].rec.complete);
    CHECK_STR(buf_str(&second.memory.body), journal.kept[0].rec.answer.bytes);
    CHECK_INT(rig_totals(rig).calls, 1);
    CHECK_INT(atomic_load(&rig->stub.requests), 1);
    CHECK(rig_last(rig)->call.replayed);
    CHECK_INT(rig_last(rig)->call.charged.nusd, 0);
    reader_deinit(&first);
    reader_deinit(&second);
}

static void test_follow_stream(void **state)
{
    (void)state;
    atomic_store(&gate.steps, 0);
    atomic_store(&gate.fails, false);
    run_with(body_follow_stream, gated);
}

static void body_follow_plain(void *arg)
{
    Rig *rig = arg;
    Reader first, second, third;
    begin(rig);
    reader_spawn(&first, rig, PLAIN_BODY);
    rig_sent_wait(rig, 1);
    first.left = true;
    reader_spawn(&second, rig, PLAIN_BODY);
    attached_until(rig, 1);
    second.left = true; /* and again: it follows the first, not the follower */
    reader_spawn(&third, rig, PLAIN_BODY);
    attached_until(rig, 2);
    atomic_store(&gate.steps, 1);
    reader_join(&first);
    reader_join(&second);
    reader_join(&third);
    CHECK_INT(third.memory.status, 200);
    CHECK(third.memory.ended);
    CHECK_HAS(buf_str(&third.memory.body), "answer-1");
    CHECK_INT(rig_totals(rig).calls, 1);
    CHECK_INT(journal.n, 1);
    reader_deinit(&first);
    reader_deinit(&second);
    reader_deinit(&third);
}

static void test_follow_plain(void **state)
{
    (void)state;
    atomic_store(&gate.steps, 0);
    atomic_store(&gate.fails, false);
    run_with(body_follow_plain, gated);
}

static StubEnd late(StubRequest *request, void *ctx)
{
    gate_wait(1);
    return gated(request, ctx);
}

/* Who follows a call that says nothing yet is kept company, may leave, and is told in time. */
static void body_follow_silence(void *arg)
{
    Rig *rig = arg;
    Reader first, second, third;
    rig->config.heartbeat_after_ms = rig->config.heartbeat_every_ms = 5;
    begin(rig);
    reader_spawn(&first, rig, STREAM_BODY);
    rig_sent_wait(rig, 1);
    first.left = true;
    reader_spawn(&second, rig, STREAM_BODY);
    body_until(&second, ": waiting");
    second.left = true;
    reader_join(&second);
    CHECK_INT(second.result, HTTP_E_GONE);
    reader_spawn_for(&third, rig, STREAM_BODY, 1000); /* one that has begun goes on */
    body_until(&third, ": waiting");
    fiber_sleep_wait(1000);
    atomic_store(&gate.steps, 2);
    reader_join(&first);
    reader_join(&third);
    CHECK_INT(third.result, 0);
    CHECK_HAS(buf_str(&third.memory.body), "[DONE]");
    CHECK_INT(atomic_load(&rig->stub.requests), 1);
    reader_deinit(&first);
    reader_deinit(&second);
    reader_deinit(&third);
}

static void body_follow_deadline(void *arg)
{
    Rig *rig = arg;
    Reader first, second;
    begin(rig);
    reader_spawn(&first, rig, PLAIN_BODY);
    rig_sent_wait(rig, 1);
    first.left = true;
    reader_spawn_for(&second, rig, PLAIN_BODY, 50);
    reader_join(&second);
    CHECK_INT(second.memory.status, 429);
    CHECK_HAS(str_of(second.heads), "retry-after: 1");
    atomic_store(&gate.steps, 1);
    reader_join(&first);
    CHECK_INT(atomic_load(&rig->stub.requests), 1);
    reader_deinit(&first);
    reader_deinit(&second);
}

static void test_follow_silence(void **state)
{
    (void)state;
    atomic_store(&gate.steps, 0);
    atomic_store(&gate.fails, false);
    run_with(body_follow_silence, late);
    atomic_store(&gate.steps, 0);
    run_with(body_follow_deadline, gated);
}

/* Two that are both there asked twice. */
static void body_not_a_retry(void *arg)
{
    Rig *rig = arg;
    Reader first, second;
    begin(rig);
    reader_spawn(&first, rig, PLAIN_BODY);
    rig_sent_wait(rig, 1);
    reader_spawn(&second, rig, PLAIN_BODY);
    rig_sent_wait(rig, 2);
    atomic_store(&gate.steps, 1);
    reader_join(&first);
    reader_join(&second);
    CHECK(!str_eq(buf_str(&first.memory.body), buf_str(&second.memory.body)));
    CHECK_INT(STAT(rig, attached), 0);
    CHECK_INT(journal.n, 2);
    reader_deinit(&first);
    reader_deinit(&second);
}

static void test_not_a_retry(void **state)
{
    (void)state;
    atomic_store(&gate.steps, 0);
    atomic_store(&gate.fails, false);
    run_with(body_not_a_retry, gated);
}

/* What came to nothing is asked again. */
static void body_follow_failure(void *arg)
{
    Rig *rig = arg;
    Reader first, second;
    begin(rig);
    reader_spawn(&first, rig, PLAIN_BODY);
    rig_sent_wait(rig, 1);
    first.left = true;
    reader_spawn(&second, rig, PLAIN_BODY);
    attached_until(rig, 1);
    atomic_store(&gate.steps, 1);
    reader_join(&first);
    reader_join(&second);
    CHECK_INT(second.memory.status, 200);
    CHECK_HAS(buf_str(&second.memory.body), "answer-1");
    CHECK_INT(rig_totals(rig).calls, 2);
    reader_deinit(&first);
    reader_deinit(&second);
}

static void test_follow_failure(void **state)
{
    (void)state;
    atomic_store(&gate.steps, 0);
    atomic_store(&gate.fails, true);
    run_with(body_follow_failure, gated);
}

static void body_follow_cut(void *arg)
{
    Rig *rig = arg;
    Reader first, second;
    begin(rig);
    reader_spawn(&first, rig, STREAM_BODY);
    body_until(&first, "part 1");
    first.left = true;
    reader_spawn(&second, rig, STREAM_BODY);
    body_until(&second, "part 1");
    atomic_store(&gate.steps, 2);
    reader_join(&first);
    reader_join(&second);
    CHECK_INT(second.result, GATEWAY_E_CUT);
    CHECK_HAS(buf_str(&second.memory.body), "\"error\"");
    CHECK(str_find(buf_str(&second.memory.body), STR("[DONE]")) < 0);
    reader_deinit(&first);
    reader_deinit(&second);
}

static void test_follow_cut(void **state)
{
    (void)state;
    atomic_store(&gate.steps, 0);
    atomic_store(&gate.fails, true);
    run_with(body_follow_cut, gated);
}

/* --- calls that are over ---------------------------------------------------------------------- */

/* Another reader of the same, to its end. */
static void ask_again(Rig *rig, Reader *reader, const char *body, const char *client_key)
{
    reader_spawn(reader, rig, body);
    reader->client_key = client_key;
    reader_join(reader);
    CHECK_INT(reader->memory.status, 200);
}

static void check_redelivered(const Reader *reader, const char *says)
{
    CHECK_HAS(buf_str(&reader->memory.body), says);
    CHECK_HAS(str_of(reader->heads), "x-gantry-replayed: 1");
    CHECK_HAS(str_of(reader->heads), "x-gantry-cost-usd: 0.000000000");
    CHECK(reader->memory.ended);
}

/* Its reader leaves while the provider answers; it is read to its end, and paid. */
static void abandon(Rig *rig, const char *body)
{
    Reader first;
    int64_t calls = rig_totals(rig).calls;
    atomic_store(&gate.steps, 0);
    reader_spawn(&first, rig, body);
    rig_sent_wait(rig, calls + 1);
    first.left = true;
    atomic_store(&gate.steps, 2);
    reader_join(&first);
    CHECK_INT(first.result, HTTP_E_GONE);
    CHECK(rig_last(rig)->call.client_gone && rig_last(rig)->call.charged.nusd > 0);
    reader_deinit(&first);
}

/* Who comes back after the end is given what was paid for; who asks once more asks anew. */
static void redeliver(Rig *rig, const char *body, const char *first_says, const char *next_says)
{
    Reader second, third;
    abandon(rig, body);
    int64_t calls = rig_totals(rig).calls, cost = rig_totals(rig).cost_nusd;
    int64_t tools = rig_totals(rig).usage.tool_calls;
    size_t recordings = journal.n;
    ask_again(rig, &second, body, "");
    check_redelivered(&second, first_says);
    CHECK_STR(buf_str(&second.memory.body), journal.kept[recordings - 1].rec.answer.bytes);
    CHECK(rig_last(rig)->call.replayed);
    CHECK_INT(rig_totals(rig).calls, calls);
    CHECK_INT(rig_totals(rig).cost_nusd, cost);
    CHECK_INT(rig_totals(rig).usage.tool_calls, tools);
    CHECK_INT(journal.n, recordings);
    ask_again(rig, &third, body, "");
    CHECK_HAS(buf_str(&third.memory.body), next_says);
    CHECK(!strstr(third.heads, "x-gantry-replayed"));
    CHECK_INT(rig_totals(rig).calls, calls + 1);
    reader_deinit(&second);
    reader_deinit(&third);
}

static void body_redeliver(void *arg)
{
    Rig *rig = arg;
    begin(rig);
    redeliver(rig, PLAIN_BODY, "answer-1", "answer-2");
    redeliver(rig, STREAM_BODY, "part 3", "part 4");
    CHECK_INT(STAT(rig, undelivered), 2);
    CHECK_INT(STAT(rig, redelivered), 2);
}

/* One that leaves again finds it again, also when it is an earlier attempt's. */
static void body_redeliver_again(void *arg)
{
    Rig *rig = arg;
    Reader reader;
    begin(rig);
    abandon(rig, PLAIN_BODY);
    for (int attempt = 0; attempt < 2; attempt++) {
        for (int i = 0; i < 2; i++) {
            journal.delay_ms = 20;
            reader_spawn(&reader, rig, PLAIN_BODY);
            fiber_sleep_wait(1);
            reader.left = true;
            reader_join(&reader);
            CHECK_INT(reader.memory.body.len, 0);
            reader_deinit(&reader);
        }
        journal.delay_ms = 0;
        ask_again(rig, &reader, PLAIN_BODY, "");
        check_redelivered(&reader, "answer-1");
        reader_deinit(&reader);
        next_attempt(rig);
    }
    CHECK_INT(atomic_load(&rig->stub.requests), 1);
}

/* The journal fails: nothing is bought, and the answer is there when it is well again. */
static void body_redeliver_unreadable(void *arg)
{
    Rig *rig = arg;
    Reader reader;
    begin(rig);
    abandon(rig, PLAIN_BODY);
    journal.result = -EIO;
    reader_spawn(&reader, rig, PLAIN_BODY);
    reader_join(&reader);
    CHECK_INT(reader.memory.status, 500);
    reader_deinit(&reader);
    journal.result = 0;
    ask_again(rig, &reader, PLAIN_BODY, "");
    check_redelivered(&reader, "answer-1");
    reader_deinit(&reader);
    CHECK_INT(atomic_load(&rig->stub.requests), 1);
}

static void other_body(char out[128], int n)
{
    snprintf(out, 128,
             "{\"model\":\"stub\",\"messages\":[{\"role\":\"user\",\"content\":\"n%d\"}]}", n);
}

/* The oldest is forgotten beyond so many, and bought again. */
static void body_redeliver_bounded(void *arg)
{
    Rig *rig = arg;
    Reader reader;
    char body[128];
    begin(rig);
    journal.forget = true;
    for (int i = 0; i <= UNDELIVERED_MAX; i++) {
        other_body(body, i);
        abandon(rig, body);
    }
    CHECK_INT(STAT(rig, undelivered_dropped), 1);
    journal.forget = false;
    other_body(body, 0);
    ask_again(rig, &reader, body, "");
    CHECK(!strstr(reader.heads, "x-gantry-replayed"));
    reader_deinit(&reader);
}

static void test_redeliver(void **state)
{
    (void)state;
    atomic_store(&gate.fails, false);
    run_with(body_redeliver, gated);
    run_with(body_redeliver_again, gated);
    run_with(body_redeliver_unreadable, gated);
    run_with(body_redeliver_bounded, gated);
}

/* Calls that have the same key of their client's are one, whoever is there; those that have
 * different ones are not. */
static void body_client_key(void *arg)
{
    Rig *rig = arg;
    Reader first, same, other, after;
    begin(rig);
    atomic_store(&gate.steps, 0);
    reader_spawn(&first, rig, PLAIN_BODY);
    first.client_key = "k-1";
    rig_sent_wait(rig, 1);
    reader_spawn(&same, rig, PLAIN_BODY);
    same.client_key = "k-1";
    attached_until(rig, 1);
    reader_spawn(&other, rig, PLAIN_BODY);
    other.client_key = "k-2";
    rig_sent_wait(rig, 2);
    first.left = true;
    atomic_store(&gate.steps, 1);
    reader_join(&first);
    reader_join(&same);
    reader_join(&other);
    CHECK(!str_eq(buf_str(&same.memory.body), buf_str(&other.memory.body)));
    for (int i = 0; i < 2; i++) { /* however often */
        ask_again(rig, &after, PLAIN_BODY, "k-1");
        CHECK_STR(buf_str(&after.memory.body), buf_str(&same.memory.body));
        reader_deinit(&after);
    }
    ask_again(rig, &after, PLAIN_BODY, "k-3");
    CHECK(!strstr(after.heads, "x-gantry-replayed"));
    reader_deinit(&after);
    CHECK_INT(rig_totals(rig).calls, 3);
    reader_deinit(&first);
    reader_deinit(&same);
    reader_deinit(&other);
}

/* Equal calls with one key, made while it is not known yet what the first of them is answered. */
static void check_all_once(Rig *rig, const char *body, const char *key, const char *says)
{
    Reader readers[4];
    journal.delay_ms = 20;
    for (size_t i = 0; i < ARRAY_N(readers); i++) {
        reader_spawn(&readers[i], rig, body);
        readers[i].client_key = key;
    }
    for (size_t i = 0; i < ARRAY_N(readers); i++) {
        reader_join(&readers[i]);
        CHECK_INT(readers[i].memory.status, 200);
        CHECK_HAS(buf_str(&readers[i].memory.body), says);
        reader_deinit(&readers[i]);
    }
    journal.delay_ms = 0;
}

static void body_client_key_at_once(void *arg)
{
    Rig *rig = arg;
    begin(rig);
    atomic_store(&gate.steps, 2);
    next_attempt(rig); /* a live call, */
    check_all_once(rig, PLAIN_BODY, "k-1", "answer-1");
    CHECK_INT(rig_totals(rig).calls, 1);
    check_all_once(rig, PLAIN_BODY, "k-1", "answer-1"); /* one that is over, */
    CHECK_INT(rig_totals(rig).calls, 1);
    next_attempt(rig); /* and an earlier attempt's */
    check_all_once(rig, PLAIN_BODY, "k-1", "answer-1");
    CHECK_INT(rig_totals(rig).calls, 0);
    CHECK_INT(atomic_load(&rig->stub.requests), 1);
}

/* Who waits for the other call to be known is told in time to ask again, or leaves. */
static void body_client_key_impatient(void *arg)
{
    Rig *rig = arg;
    Reader first, second, third;
    begin(rig);
    atomic_store(&gate.steps, 1);
    next_attempt(rig);
    journal.held = true;
    reader_spawn(&first, rig, PLAIN_BODY);
    first.client_key = "k-1";
    reader_spawn_for(&second, rig, PLAIN_BODY, 50);
    second.client_key = "k-1";
    reader_spawn(&third, rig, PLAIN_BODY);
    third.client_key = "k-1";
    third.left = true;
    reader_join(&second);
    CHECK_INT(second.memory.status, 429);
    CHECK_HAS(str_of(second.heads), "retry-after: 1");
    reader_join(&third);
    CHECK_INT(third.result, HTTP_E_GONE);
    journal.held = false;
    reader_join(&first);
    CHECK_INT(first.memory.status, 200);
    CHECK_INT(rig_totals(rig).calls, 1);
    reader_deinit(&first);
    reader_deinit(&second);
    reader_deinit(&third);
}

static void test_client_key(void **state)
{
    (void)state;
    atomic_store(&gate.fails, false);
    run_with(body_client_key, gated);
    run_with(body_client_key_at_once, gated);
    run_with(body_client_key_impatient, gated);
}

/* Who says that it asks again waits a moment for its first connection to be seen closed. */
static void body_said_retry(void *arg)
{
    Rig *rig = arg;
    Reader first, second;
    begin(rig);
    atomic_store(&gate.steps, 0);
    reader_spawn(&first, rig, PLAIN_BODY);
    rig_sent_wait(rig, 1);
    reader_spawn(&second, rig, PLAIN_BODY);
    second.retry = true;
    fiber_sleep_wait(5);
    first.left = true;
    attached_until(rig, 1);
    atomic_store(&gate.steps, 1);
    reader_join(&first);
    reader_join(&second);
    CHECK_HAS(buf_str(&second.memory.body), "answer-1");
    CHECK_INT(rig_totals(rig).calls, 1);
    reader_deinit(&first);
    reader_deinit(&second);
    /* one whose first connection stays is a call of its own */
    atomic_store(&gate.steps, 0);
    reader_spawn(&first, rig, PLAIN_BODY);
    rig_sent_wait(rig, 2);
    reader_spawn(&second, rig, PLAIN_BODY);
    second.retry = true;
    rig_sent_wait(rig, 3);
    atomic_store(&gate.steps, 1);
    reader_join(&first);
    reader_join(&second);
    CHECK(!str_eq(buf_str(&first.memory.body), buf_str(&second.memory.body)));
    reader_deinit(&first);
    reader_deinit(&second);
}

static void test_said_retry(void **state)
{
    (void)state;
    atomic_store(&gate.fails, false);
    run_with(body_said_retry, gated);
}

/* The journal is read once, whoever waits for it. */
static void body_read_once(void *arg)
{
    Rig *rig = arg;
    Reader readers[8];
    begin(rig);
    atomic_store(&gate.steps, 1);
    for (size_t i = 0; i < ARRAY_N(readers); i++) {
        reader_spawn(&readers[i], rig, PLAIN_BODY);
        reader_join(&readers[i]);
        reader_deinit(&readers[i]);
    }
    journal.delay_ms = 50;
    next_attempt(rig);
    for (size_t i = 0; i < ARRAY_N(readers); i++) reader_spawn(&readers[i], rig, PLAIN_BODY);
    for (size_t i = 0; i < ARRAY_N(readers); i++) {
        reader_join(&readers[i]);
        CHECK_INT(readers[i].memory.status, 200);
        CHECK_HAS(str_of(readers[i].heads), "x-gantry-replayed: 1");
        reader_deinit(&readers[i]);
    }
    CHECK_INT(journal.lists, 1);
    CHECK_INT(rig_totals(rig).calls, 0);
}

static void test_read_once(void **state)
{
    (void)state;
    atomic_store(&gate.fails, false);
    run_with(body_read_once, gated);
}

/* --- tools ------------------------------------------------------------------------------------ */

static int tool(Rig *rig, const char *args, ToolReplay *ret)
{
    const Json *v;
    Str text = str_of(args);
    CHECK_INT(json_parse(&journal.arena, text, NULL, &v, NULL), 0);
    return gateway_tool_replay_wait(rig->task, STR("mail"), v, text, &journal.arena, ret);
}

static void body_tools(void *arg)
{
    Rig *rig = arg;
    ToolReplay replay;
    begin(rig);
    CHECK_INT(tool(rig, "{\"to\":\"a\",\"n\":1}", &replay), GATEWAY_E_LIVE);
    CHECK_INT(gateway_tool_record_wait(rig->task, &replay, STR("mail"), 200, STR("text/plain"),
                                       STR("sent")),
              0);
    next_attempt(rig);
    CHECK_INT(tool(rig, "{\"n\": 1, \"to\": \"a\"}", &replay), 0);
    CHECK_INT(replay.status, 200);
    CHECK_STR(replay.body, STR("sent"));
    CHECK_STR(replay.content_type, STR("text/plain"));
    CHECK_INT(tool(rig, "{\"n\":1,\"to\":\"a\"}", &replay), GATEWAY_E_LIVE); /* once an attempt */
    CHECK_INT(strlen(journal.notes), 0);
    next_attempt(rig);
    CHECK_INT(tool(rig, "{\"n\":2,\"to\":\"a\"}", &replay), GATEWAY_E_LIVE);
    CHECK_HAS(str_of(journal.notes), "replay went live");
    CHECK_INT(STAT(rig, replayed_tools), 1);
    journal.result = -EIO;
    next_attempt(rig);
    CHECK_INT(tool(rig, "{}", &replay), -EIO);
    journal.result = 0;
}

static void test_tools(void **state)
{
    (void)state;
    run_with(body_tools, rig_no_stub);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replay),         cmocka_unit_test(test_embeddings),
        cmocka_unit_test(test_long_stream),    cmocka_unit_test(test_order),
        cmocka_unit_test(test_difference),     cmocka_unit_test(test_growing),
        cmocka_unit_test(test_mask),           cmocka_unit_test(test_incomplete),
        cmocka_unit_test(test_doubtful),       cmocka_unit_test(test_errors),
        cmocka_unit_test(test_damaged),        cmocka_unit_test(test_unreadable),
        cmocka_unit_test(test_too_large),      cmocka_unit_test(test_caps),
        cmocka_unit_test(test_stopped),        cmocka_unit_test(test_follow_stream),
        cmocka_unit_test(test_follow_plain),   cmocka_unit_test(test_not_a_retry),
        cmocka_unit_test(test_follow_failure), cmocka_unit_test(test_follow_cut),
        cmocka_unit_test(test_follow_silence), cmocka_unit_test(test_read_once),
        cmocka_unit_test(test_redeliver),      cmocka_unit_test(test_client_key),
        cmocka_unit_test(test_said_retry),     cmocka_unit_test(test_tools),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
