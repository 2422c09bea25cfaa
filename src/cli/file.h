/* Whole small files, for commands and configuration. Blocking: plain threads only. */
#ifndef GANTRY_CLI_FILE_H
#define GANTRY_CLI_FILE_H

#include "base/arena.h"

/* Reads path ("-": standard input) into the arena, at most max bytes. Returns 0, -EFBIG, -ENOMEM or
 * -errno, with diag naming the file. */
MUST_CHECK int file_read(Arena *arena, const char *path, size_t max, Str *ret);

/* Writes a new file, or replaces it when force. Returns 0, -EEXIST or -errno, with diag. */
MUST_CHECK int file_write(const char *path, Str bytes, unsigned mode, bool force);

#endif
