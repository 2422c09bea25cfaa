#include "base/diag.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local Diag own;
static _Thread_local Diag *current;

static Diag *here(void)
{
    return current ? current : &own;
}

int diag_set(int code, const char *fmt, ...)
{
    char text[DIAG_BYTES_MAX]; /* the arguments may point into the old text */
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    memcpy(here()->text, text, sizeof text);
    return code;
}

int diag_prefix(int code, const char *fmt, ...)
{
    char text[DIAG_BYTES_MAX];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    size_t used = n < 0 ? 0 : MIN((size_t)n, sizeof text - 1);
    int room = (int)(sizeof text - used) - 3; /* the colon, the blank and the NUL */
    if (room > 0) snprintf(text + used, sizeof text - used, ": %.*s", room, here()->text);
    memcpy(here()->text, text, sizeof text);
    return code;
}

const char *diag_text(void)
{
    return here()->text;
}

const char *diag_text_or(int code)
{
    if (here()->text[0]) return here()->text;
    return code < 0 ? strerror(-code) : "no detail";
}

void diag_clear(void)
{
    here()->text[0] = '\0';
}

Diag *diag_switch(Diag *diag)
{
    Diag *before = current;
    current = diag;
    return before;
}
