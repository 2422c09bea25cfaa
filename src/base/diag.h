/* Diag: the text of the last error of the running fiber (or thread).
 *
 * Set where an error arises, read where it is reported (the boundary: a request, a job, a tick);
 * everything between only forwards the code. The fiber runtime swaps the current Diag on a switch.
 */
#ifndef GANTRY_BASE_DIAG_H
#define GANTRY_BASE_DIAG_H

#include "base/str.h"

#define DIAG_BYTES_MAX 512

typedef struct {
    char text[DIAG_BYTES_MAX];
} Diag;

/* Records the text (cut to fit) and returns code, so that `return diag_set(-EINVAL, "...")` reads
 * straight. code may be negative or a positive outcome. */
int diag_set(int code, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Puts "prefix: " before the text that is there; returns code. */
int diag_prefix(int code, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The text, "" if none. Valid until the next diag_set on this fiber. */
const char *diag_text(void);

/* The text, or strerror(-code) when nothing was set. */
const char *diag_text_or(int code);

void diag_clear(void);

/* For the fiber runtime: makes diag current on this thread (NULL: the thread's own) and returns
 * the one that was. */
Diag *diag_switch(Diag *diag);

#endif
