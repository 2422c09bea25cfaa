/* Dialogue: what a builtin agent and its model have said, in one form for both protocols. Pure; one
 * run's. Everything lives in the arena it was given.
 */
#ifndef GANTRY_WORKER_DIALOGUE_H
#define GANTRY_WORKER_DIALOGUE_H

#include "logic/protocol.h"
#include "worker/spec.h"

#define DIALOGUE_CALLS_MAX 128 /* tool calls in one answer */

typedef struct {
    Str id, name;
    Str arguments; /* JSON text as the model wrote it */
    Str result;    /* filled in when the tool has run */
    bool is_error;
} DialogueCall;

/* An answer of the model, and the results of the tools it called. */
typedef struct DialogueTurn DialogueTurn;
struct DialogueTurn {
    DialogueTurn *next;
    Str text;
    DialogueCall *calls;
    size_t calls_n;
    bool cut; /* the model stopped for want of output tokens */
};

/* What an earlier task of the session was asked, and answered. */
typedef struct {
    Str user, assistant;
} DialoguePast;

typedef struct {
    const Spec *spec;
    const char *cap_member;   /* API_CHAT: name of the output cap */
    const DialoguePast *past; /* oldest first */
    size_t past_n;
    Str input; /* what the user said */
    DialogueTurn *first, *last;
    size_t turns_n;
} Dialogue;

/* The request for the next answer, appended to out. Of earlier turns only the latest are sent: as
 * many as fit memory.window messages, at least one; and of the past what fits beside them. api:
 * API_CHAT or API_MESSAGES. Returns 0 or -ENOMEM (out full). */
MUST_CHECK int dialogue_request(const Dialogue *dialogue, Api api, Buf *out);

/* Reads the answer to it and adds a turn. scratch holds the parsed answer. Returns 0, -EINVAL (not
 * an answer of that protocol), -ENOMEM; with diag. */
MUST_CHECK int dialogue_answer(Dialogue *dialogue, Api api, Arena *arena, Arena *scratch, Str body,
                               DialogueTurn **ret);

/* The words of an error answer in either protocol, or the empty Str. */
Str dialogue_error(Arena *arena, Str body);

#endif
