/* The calling thread, as the system schedules it. */
#ifndef GANTRY_SYS_THREAD_H
#define GANTRY_SYS_THREAD_H

/* For a thread that mostly waits, and for which others wait: its turns are to be short, in return
 * it goes on as soon as it can, though others compute. No rights are needed, and its share of the
 * processor stays as it is. Before Linux 6.12, or where it is not allowed, nothing changes. */
void thread_short_turns(void);

#endif
