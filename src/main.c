#include "cli/command.h"

/* Read by jemalloc, which is the allocator of the program where no sanitizer is: bodies and rows of
 * some 100 kB come and go with every call, and glibc's spends a tenth of a call on them. One arena:
 * the few threads here seldom allocate at a time, and what one gives back another takes. */
extern const char *malloc_conf;
__attribute__((visibility("default"))) const char *malloc_conf = "narenas:1";

int main(int argc, char **argv)
{
    return command_main(argc, argv);
}
