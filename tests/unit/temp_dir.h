/* A directory of a test's own, removed with all it holds. */
#ifndef GANTRY_TESTS_TEMP_DIR_H
#define GANTRY_TESTS_TEMP_DIR_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/common.h"

typedef struct {
    char path[256];
} TempDir;

static inline void temp_dir_init(TempDir *dir)
{
    const char *base = getenv("TMPDIR");
    snprintf(dir->path, sizeof dir->path, "%s/gantry-test-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(dir->path)) DIE("cannot make %s", dir->path);
}

static inline int temp_dir_remove_one(const char *path, const struct stat *st, int type,
                                      struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static inline void temp_dir_deinit(TempDir *dir)
{
    if (nftw(dir->path, temp_dir_remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0)
        DIE("cannot remove %s", dir->path);
}

#endif
