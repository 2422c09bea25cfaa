/* Clocks. Any thread. */
#ifndef GANTRY_SYS_CLOCK_H
#define GANTRY_SYS_CLOCK_H

#include "base/common.h"

/* Monotonic time for timeouts and durations; unrelated to the calendar. */
int64_t clock_mono_ms(void);
int64_t clock_mono_us(void);

/* Unix time in milliseconds for records and display; may jump. */
int64_t clock_real_ms(void);

/* A deadline far away enough to mean "none". */
#define DEADLINE_NONE INT64_MAX

/* now + duration_ms, saturating; a negative duration means no deadline. */
int64_t deadline_after(int64_t duration_ms);

/* Names the time since the machine was last started: a random id of the kernel's, of another value
 * after each start. "": the kernel does not tell. Reads a file of /proc. */
#define BOOT_ID_SIZE 40
void boot_id_read(char ret[BOOT_ID_SIZE]);

#endif
