#include "worker/tool_once.h"

#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "logic/replay.h"
#include "sys/clock.h"

#define CANONICAL_FACTOR 6 /* 1e20 becomes 21 digits */
#define CLIENT_LOOK_MS 1000

struct ToolOnce {
    ListNode node; /* on run->tools_once, those that ended last at the end */
    uint8_t key[SHA256_BYTES];
    Str id;                /* empty: none was given */
    const HttpReq *client; /* who asked last; NULL: has left */
    size_t followers;      /* that wait for it */
    Cond ended;
    bool over, kept, lost; /* kept: told to who asks later; lost: but not its result */
    bool owed;             /* nobody was there to take its result: the next who asks is given it */
    int error;             /* over: its end */
    ToolResult result;
};

static Str text_copy(Str text)
{
    if (!text.len) return STR("");
    char *copy = xmalloc(text.len);
    memcpy(copy, text.ptr, text.len);
    return str_make(copy, text.len);
}

static void text_free(Str *text)
{
    if (text->len) free((char *)text->ptr);
    *text = STR("");
}

static void once_free(ToolOnce *once)
{
    assert(once->over && !once->followers);
    list_remove(&once->node);
    text_free(&once->id);
    text_free(&once->result.text);
    free(once);
}

/* Newest first: the oldest are forgotten. */
static void trim(Run *run)
{
    size_t kept = 0, bytes = 0;
    for (ListNode *node = run->tools_once.prev, *prev; node != &run->tools_once; node = prev) {
        ToolOnce *once = CONTAINER_OF(node, ToolOnce, node);
        prev = node->prev;
        if (!once->over || once->followers) continue;
        if (!once->kept || ++kept > TOOL_ONCE_MAX) {
            once_free(once);
            continue;
        }
        bytes += once->result.text.len;
        if (bytes <= TOOL_ONCE_BYTES_MAX) continue;
        bytes -= once->result.text.len;
        text_free(&once->result.text);
        once->lost = true;
    }
}

static bool client_left(const ToolOnce *once)
{
    return !once->client || http_gone(once->client);
}

static ToolOnce *find(const ToolCall *call, const uint8_t key[SHA256_BYTES])
{
    Str id = call->ask->call_id;
    LIST_EACH (&call->run->tools_once, node) {
        ToolOnce *once = CONTAINER_OF(node, ToolOnce, node);
        bool equal = memcmp(once->key, key, SHA256_BYTES) == 0;
        bool left = once->over ? once->owed : client_left(once);
        if (id.len ? str_eq(once->id, id) : equal && left) return once;
    }
    return NULL;
}

static int answer(ToolCall *call, const ToolOnce *once)
{
    if (once->lost) return TOOL_E_LOST;
    if (once->error) return once->error;
    atomic_fetch_add(&call->run->host->counters.tools_repeated, 1);
    call->result = once->result;
    call->result.text = arena_str(call->arena, once->result.text);
    call->result.replayed = true;
    return call->result.text.ptr ? TOOL_E_AGAIN : -ENOMEM;
}

/* Nobody waits for long whose client has left. */
static int follow_wait(ToolCall *call, ToolOnce *once)
{
    const HttpReq *client = call->ask->client;
    int r = 0;
    once->client = client;
    once->followers++;
    while (!once->over && (r == 0 || (r == -ETIMEDOUT && !http_gone(client))))
        r = cond_wait(&once->ended, deadline_after(CLIENT_LOOK_MS));
    once->followers--;
    if (once->client == client) once->client = NULL;
    if (once->owed && !http_gone(client)) once->owed = once->kept = false;
    r = once->over ? answer(call, once) : -ECANCELED;
    trim(call->run);
    return r;
}

int tool_once_wait(ToolCall *call)
{
    CLEANUP(buf_deinit) Buf canonical = { 0 };
    uint8_t key[SHA256_BYTES];
    buf_init(&canonical, CANONICAL_FACTOR * call->arguments.len + 64);
    replay_tool_key(call->tool->name, call->args, call->arguments, &canonical, key);
    ToolOnce *once = find(call, key);
    if (once) return memcmp(once->key, key, sizeof key) ? TOOL_E_OTHER : follow_wait(call, once);
    once = xcalloc(1, sizeof *once);
    memcpy(once->key, key, sizeof key);
    once->id = text_copy(call->ask->call_id);
    once->client = call->ask->client;
    cond_init(&once->ended);
    list_push_back(&call->run->tools_once, &once->node);
    call->once = once;
    return 0;
}

void tool_once_done(ToolCall *call, int r)
{
    ToolOnce *once = call->once;
    bool left = client_left(once); /* whoever asked last; its fiber may not have seen it yet */
    bool ran = r == 0 ? tool_outcome_ran(call->result.outcome) : call->started;
    call->once = NULL;
    once->over = true;
    once->error = r;
    once->client = NULL;
    once->owed = !once->id.len && ran && left;
    once->kept = once->owed || (once->id.len && ran);
    once->lost = r < 0 && ran;
    if (r == 0) {
        once->result = call->result;
        once->result.text = text_copy(call->result.text);
    }
    list_remove(&once->node);
    list_push_back(&call->run->tools_once, &once->node);
    cond_broadcast(&once->ended);
    trim(call->run);
}

void tool_once_close(Run *run)
{
    while (!list_empty(&run->tools_once))
        once_free(CONTAINER_OF(run->tools_once.next, ToolOnce, node));
}
