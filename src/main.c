#include <malloc.h>

#include "cli/command.h"

/* Bodies and rows of some 100 kB come and go with every call: glibc's defaults would map each, or
 * give the heap's end back to the system and ask for it again. */
static void malloc_setup(void)
{
    mallopt(M_MMAP_THRESHOLD, 4 << 20);
    mallopt(M_TRIM_THRESHOLD, 32 << 20);
    mallopt(M_TOP_PAD, 1 << 20);
}

int main(int argc, char **argv)
{
    malloc_setup();
    return command_main(argc, argv);
}
