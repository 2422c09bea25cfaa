#include "worker/holds.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/log.h"
#include "base/map.h"
#include "sys/entropy.h"

#define MAGIC UINT64_C(0x32736c6f68746e67) /* "gntholds2", little-endian */
#define HEAD_BYTES 4096

typedef struct {
    _Atomic uint32_t held; /* written last, and cleared first */
    uint32_t reserved;
    Uuid worker_id, task_id;
    int64_t fence, attempt, at_ms;
    int64_t nusd, tokens;
    char call_id[40];
    char provider[32];
    char model[64];
} Entry;
_Static_assert(HOLDS_MAX <= UINT16_MAX + 1, "free holds what numbers entries");
_Static_assert(sizeof(Entry) == 216, "the file's layout");

typedef struct {
    uint64_t magic;
    uint64_t workers_n;
    char boot[40];                   /* the machine's boot that it was written in */
    Uuid workers[HOLDS_WORKERS_MAX]; /* oldest first; the last one is this one */
} Head;
_Static_assert(sizeof(Head) <= HEAD_BYTES, "the head's place");

#define FILE_BYTES (HEAD_BYTES + HOLDS_MAX * sizeof(Entry))

struct Holds {
    void *bytes;
    Head *head;
    Entry *entries; /* HOLDS_MAX */
    Map by_call;    /* the held ones */
    /* Of entries; the last freed is taken first, so that few pages of the file are touched. */
    uint16_t free[HOLDS_MAX];
    size_t free_n;
};

/* --- the file --------------------------------------------------------------------------------- */

static bool text_ok(const char *text, size_t size)
{
    size_t n = strnlen(text, size);
    return n < size && str_is_utf8(str_make(text, n));
}

static bool entry_ok(const Entry *e)
{
    return e->fence >= TASK_FENCE_ACCOUNT && e->attempt >= 0 && e->nusd >= 0 && e->tokens >= 0 &&
           e->call_id[0] && text_ok(e->call_id, sizeof e->call_id) &&
           text_ok(e->provider, sizeof e->provider) && text_ok(e->model, sizeof e->model);
}

/* Takes in what is there; false: this is no list of ours. */
static bool file_read(Holds *holds)
{
    if (holds->head->magic != MAGIC || holds->head->workers_n > HOLDS_WORKERS_MAX) return false;
    for (size_t i = 0; i < HOLDS_MAX; i++) {
        Entry *e = &holds->entries[i];
        if (e->held == 0) continue;
        if (e->held != 1 || !entry_ok(e)) return false;
        map_put(&holds->by_call, str_of(e->call_id), e);
    }
    return true;
}

static int file_map(const char *path, void **ret)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return diag_set(-errno, "cannot open %s: %s", path, strerror(errno));
    int r = ftruncate(fd, (off_t)FILE_BYTES) == 0 ? 0 : -errno;
    if (r == 0) r = -posix_fallocate(fd, 0, (off_t)FILE_BYTES); /* or a full disk were a SIGBUS */
    void *bytes = MAP_FAILED;
    if (r == 0) bytes = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (r == 0 && bytes == MAP_FAILED) r = -errno;
    close(fd);
    if (r == -ENOSPC || r == -EDQUOT)
        return diag_set(r, "cannot make %s: %s: free space, or name another directory with --data",
                        path, strerror(-r));
    if (r < 0) return diag_set(r, "cannot map %s: %s", path, strerror(-r));
    *ret = bytes;
    return 0;
}

/* Nothing was synced: after the machine itself died, the file may be what it was at any time
 * before, and proves nothing. */
static bool boot_ok(const Head *head, const char *boot)
{
    return boot[0] && strncmp(head->boot, boot, sizeof head->boot) == 0;
}

static void file_begin(Holds *holds, const char *boot)
{
    memset(holds->bytes, 0, FILE_BYTES);
    holds->head->magic = MAGIC;
    str_copy(holds->head->boot, sizeof holds->head->boot, str_of(boot));
}

static void free_find(Holds *holds)
{
    for (size_t i = HOLDS_MAX; i-- > 0;)
        if (!holds->entries[i].held) holds->free[holds->free_n++] = (uint16_t)i;
}

int holds_open(const char *path, const char *boot, Holds **ret)
{
    void *bytes = NULL;
    int r = file_map(path, &bytes);
    if (r < 0) return r;
    Holds *holds = xcalloc(1, sizeof *holds);
    holds->bytes = bytes;
    holds->head = bytes;
    holds->entries = (Entry *)(void *)((char *)bytes + HEAD_BYTES);
    map_init(&holds->by_call, entropy_u64());
    bool readable = file_read(holds), current = boot_ok(holds->head, boot);
    if (!readable || !current) {
        if (holds->head->magic != 0)
            LOG_ERROR("the list of holds proves nothing: what it held counts as spent",
                      LOG_CSTR("file", path),
                      LOG_CSTR("why", readable ? "the machine has restarted" : "it is unreadable"));
        map_deinit(&holds->by_call);
        map_init(&holds->by_call, entropy_u64());
        file_begin(holds, boot);
    }
    free_find(holds);
    *ret = holds;
    return 0;
}

void holds_close(Holds *holds)
{
    if (!holds) return;
    munmap(holds->bytes, FILE_BYTES);
    map_deinit(&holds->by_call);
    free(holds);
}

/* --- entries ---------------------------------------------------------------------------------- */

static void entry_free(Holds *holds, Entry *e)
{
    map_remove(&holds->by_call, str_of(e->call_id));
    e->held = 0;
    holds->free[holds->free_n++] = (uint16_t)(e - holds->entries);
}

static void entries_free(Holds *holds, Uuid worker_id)
{
    for (size_t i = 0; i < HOLDS_MAX; i++)
        if (holds->entries[i].held && uuid_eq(holds->entries[i].worker_id, worker_id))
            entry_free(holds, &holds->entries[i]);
}

static Entry *entry_new(Holds *holds)
{
    return holds->free_n ? &holds->entries[holds->free[--holds->free_n]] : NULL;
}

void holds_begin(Holds *holds, Uuid worker_id)
{
    Head *head = holds->head;
    if (head->workers_n == HOLDS_WORKERS_MAX) holds_forget(holds, head->workers[0]);
    head->workers[head->workers_n] = worker_id;
    head->workers_n++;
}

int holds_put(Holds *holds, const GatewayCall *call, TaskRef task)
{
    Head *head = holds->head;
    assert(head->workers_n > 0);
    Entry *e = entry_new(holds);
    if (!e) return diag_set(-ENOSPC, "%d calls are in flight", HOLDS_MAX);
    e->worker_id = head->workers[head->workers_n - 1];
    e->task_id = task.id;
    e->fence = task.fence;
    e->attempt = call->attempt;
    e->at_ms = call->started_real_ms;
    e->nusd = call->hold.nusd;
    e->tokens = call->hold.tokens;
    str_copy(e->call_id, sizeof e->call_id, str_of(call->id));
    str_copy(e->provider, sizeof e->provider, call->provider);
    str_copy(e->model, sizeof e->model, call->model);
    if (!str_is_utf8(str_of(e->model))) e->model[0] = '\0'; /* cut within a character */
    atomic_thread_fence(memory_order_release);
    e->held = 1;
    map_put(&holds->by_call, str_of(e->call_id), e);
    return 0;
}

void holds_charge(Holds *holds, const GatewayCall *call)
{
    Entry *e = map_get(&holds->by_call, str_of(call->id));
    if (!e) return;
    e->nusd = call->charged.nusd;
    e->tokens = call->charged.tokens;
}

void holds_drop(Holds *holds, const GatewayCall *call)
{
    Entry *e = map_get(&holds->by_call, str_of(call->id));
    if (e) entry_free(holds, e);
}

/* --- those before ----------------------------------------------------------------------------- */

bool holds_any(const Holds *holds, Uuid worker_id)
{
    for (size_t i = 0; i < HOLDS_MAX; i++)
        if (holds->entries[i].held && uuid_eq(holds->entries[i].worker_id, worker_id)) return true;
    return false;
}

bool holds_dead(const Holds *holds, Uuid *ret)
{
    if (holds->head->workers_n < 2) return false;
    *ret = holds->head->workers[0];
    return true;
}

int holds_of(const Holds *holds, Uuid worker_id, Arena *arena, BudgetHold **ret, size_t *ret_n)
{
    BudgetHold *list = ARENA_ARRAY(arena, BudgetHold, holds->by_call.n + 1);
    size_t n = 0, cursor = 0;
    if (!list) return diag_set(-ENOMEM, "no memory for the list of holds");
    for (const Entry *e; (e = map_next(&holds->by_call, &cursor));) {
        if (!uuid_eq(e->worker_id, worker_id)) continue;
        BudgetHold *hold = &list[n++];
        *hold = (BudgetHold){ .call_id = arena_str(arena, str_of(e->call_id)),
                              .task = { e->task_id, e->fence },
                              .attempt = e->attempt,
                              .at_ms = e->at_ms,
                              .provider = arena_str(arena, str_of(e->provider)),
                              .model = arena_str(arena, str_of(e->model)),
                              .charge = { .tokens = e->tokens, .nusd = e->nusd } };
        if (!hold->call_id.ptr || !hold->provider.ptr || !hold->model.ptr)
            return diag_set(-ENOMEM, "no memory for the list of holds");
    }
    *ret = list;
    *ret_n = n;
    return 0;
}

void holds_forget(Holds *holds, Uuid worker_id)
{
    Head *head = holds->head;
    size_t kept = 0;
    entries_free(holds, worker_id);
    for (size_t i = 0; i < head->workers_n; i++)
        if (!uuid_eq(head->workers[i], worker_id)) head->workers[kept++] = head->workers[i];
    head->workers_n = kept;
}
