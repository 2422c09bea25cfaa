/* Modes: how the simulator behaves, by model name or directive. Pure. Not for other folders. */
#ifndef GANTRY_GATEWAY_SIM_MODE_H
#define GANTRY_GATEWAY_SIM_MODE_H

#include "gateway/sim_request.h"

typedef enum {
    SIM_BY_ASSISTANT, /* thinks */
    SIM_BY_ECHO,      /* the last user text */
    SIM_BY_RAMBLE,    /* filler to the output cap */
    SIM_BY_LOOP,      /* a tool call for ever */
    SIM_BY_NOTHING,   /* finishes without content */
} SimContent;

/* What is wrong with the answer. */
typedef enum {
    SIM_CUT = 1 << 0,       /* breaks off half way, framing and all */
    SIM_NO_FINISH = 1 << 1, /* ends cleanly without a terminal marker */
    SIM_NO_DONE = 1 << 2,   /* chat: without [DONE] */
    SIM_NO_USAGE = 1 << 3,
    SIM_USAGE_EACH = 1 << 4,   /* chat: on every chunk, zero until the last */
    SIM_USAGE_TWICE = 1 << 5,  /* chat: on the finish chunk, then again */
    SIM_ERROR_EVENT = 1 << 6,  /* half way, inside status 200 */
    SIM_STALL = 1 << 7,        /* falls silent half way and keeps the connection open */
    SIM_LEFT_OPEN = 1 << 8,    /* the same when everything is said */
    SIM_KEEP_ALIVES = 1 << 9,  /* comments between the events */
    SIM_DRIBBLE = 1 << 10,     /* byte by byte */
    SIM_OTHER_MODEL = 1 << 11, /* claims to be another one */
    SIM_EMPTY = 1 << 12,       /* status 200 and no body */
    SIM_GARBAGE = 1 << 13,     /* status 200 and no JSON */
    SIM_BAD_UTF8 = 1 << 14,
    SIM_HUGE = 1 << 15,       /* one line without end (20 MB) */
    SIM_HANG = 1 << 16,       /* never answers */
    SIM_HTML = 1 << 17,       /* the error is a web page */
    SIM_QUOTA = 1 << 18,      /* the error is one that retrying cannot mend */
    SIM_DONE_EARLY = 1 << 19, /* [DONE] stands where the terminal marker should */
} SimFault;

typedef struct {
    const char *name;
    SimContent content;
    unsigned faults;
    int status; /* not 0: answers with this error */
    int64_t delay_ms;
} SimMode;

/* The mode of the request: by directive, else by the model's name ("sim/fail", "sim/small-echo",
 * "sim/slow-2025-01-01"); assistant for everything else. With the directive rate=N it only applies
 * to about N of a hundred different requests, the others get the assistant. status= and delay= are
 * taken from the directives. */
SimMode sim_mode(const SimRequest *request);

/* The i-th mode, NULL beyond the last: for GET /v1/models. */
const SimMode *sim_mode_at(size_t i);

#endif
