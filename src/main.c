#include <malloc.h>

#include "cli/command.h"

/* Bodies and rows of some 100 kB come and go with every call: glibc's defaults would map each, or
 * give the heap's end back to the system and ask for it again. One arena: those of threads grow by
 * a system call for each page, and the few threads here seldom allocate at a time. */
static void malloc_setup(void)
{
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_MMAP_THRESHOLD, 4 << 20);
    mallopt(M_TRIM_THRESHOLD, 32 << 20);
    mallopt(M_TOP_PAD, 1 << 20);
}

int main(int argc, char **argv)
{
    malloc_setup();
    return command_main(argc, argv);
}
