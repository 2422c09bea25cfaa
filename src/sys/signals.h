/* Signals for a fiber. The process's signals should be watched on one loop. */
#ifndef GANTRY_SYS_SIGNALS_H
#define GANTRY_SYS_SIGNALS_H

#include "sys/fiber.h"

typedef struct Signals Signals;

#define SIGNALS_MAX 4

/* Watches up to SIGNALS_MAX signals on this thread's loop. Ends the process when it cannot. */
Signals *signals_open(const int *numbers, size_t n);

/* Waits for the next one (earlier ones are not lost): its number, -ETIMEDOUT, -ECANCELED. */
int signals_wait(Signals *signals, int64_t deadline_ms);

/* NULL is accepted. */
void signals_close(Signals *signals);

#endif
