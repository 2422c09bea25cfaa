/* Answers of this attempt that were paid for, and that nobody was there to take. See
 * gateway_journal.c. */
#include <stdlib.h>

#include "gateway/gateway_call.h"

static const uint8_t no_client_key[SHA256_BYTES];

bool call_has_client_key(const ModelCall *call)
{
    return memcmp(call->client_key, no_client_key, sizeof no_client_key) != 0;
}

bool call_is_same(const ModelCall *call, const uint8_t key[SHA256_BYTES],
                  const uint8_t client_key[SHA256_BYTES])
{
    return memcmp(key, call->key, sizeof call->key) == 0 &&
           memcmp(client_key, call->client_key, sizeof call->client_key) == 0;
}

static void drop(TaskJournal *journal, size_t i)
{
    assert(i < journal->undelivered_n);
    journal->undelivered_n--;
    memmove(&journal->undelivered[i], &journal->undelivered[i + 1],
            (journal->undelivered_n - i) * sizeof journal->undelivered[0]);
}

static bool is_there(const ModelCall *call)
{
    const TaskJournal *journal = &call->task->journal;
    for (size_t i = 0; i < journal->undelivered_n; i++) {
        const Undelivered *there = &journal->undelivered[i];
        if (call_is_same(call, there->key, there->client_key)) return true;
    }
    return false;
}

void undelivered_keep(ModelCall *call)
{
    TaskJournal *journal = &call->task->journal;
    bool kept = call->journaled && call->answered;
    bool known = call_has_client_key(call);
    if (!kept && call->served_n == 0) return;
    if (!known && (call->taken || !(call->gone || call->left))) return;
    if (known && is_there(call)) return;
    if (!known) atomic_fetch_add(&call->task->gateway->undelivered, 1);
    if (!journal->undelivered)
        journal->undelivered = xcalloc(UNDELIVERED_MAX, sizeof *journal->undelivered);
    if (journal->undelivered_n == UNDELIVERED_MAX) {
        drop(journal, 0);
        atomic_fetch_add(&call->task->gateway->undelivered_dropped, 1);
    }
    Undelivered *it = &journal->undelivered[journal->undelivered_n++];
    *it = (Undelivered){ .n = call->served_n };
    memcpy(it->key, call->key, sizeof it->key);
    memcpy(it->client_key, call->client_key, sizeof it->client_key);
    if (it->n == 0) str_copy(it->call_id, sizeof it->call_id, str_of(call->record.id));
}

bool undelivered_take(ModelCall *call, Undelivered *ret)
{
    TaskJournal *journal = &call->task->journal;
    for (size_t i = 0; i < journal->undelivered_n; i++) {
        const Undelivered *there = &journal->undelivered[i];
        if (!call_is_same(call, there->key, there->client_key)) continue;
        *ret = *there;
        drop(journal, i);
        return true;
    }
    return false;
}

void undelivered_put_back(ModelCall *call, const Undelivered *taken)
{
    TaskJournal *journal = &call->task->journal;
    if (journal->undelivered_n == UNDELIVERED_MAX) drop(journal, UNDELIVERED_MAX - 1);
    memmove(&journal->undelivered[1], &journal->undelivered[0],
            journal->undelivered_n * sizeof journal->undelivered[0]);
    journal->undelivered[0] = *taken;
    journal->undelivered_n++;
}
