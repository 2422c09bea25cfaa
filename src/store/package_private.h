/* What the two halves of package share: lists of entries. */
#ifndef GANTRY_STORE_PACKAGE_PRIVATE_H
#define GANTRY_STORE_PACKAGE_PRIVATE_H

#include "codec/tar.h"
#include "store/package.h"

typedef struct {
    TarEntry tar;    /* texts NUL-terminated, in the list's arena */
    size_t contents; /* where a file's bytes begin in what the list's owner keeps */
} PackageEntry;

typedef struct {
    PackageEntry *items;
    size_t n, cap;
} PackageEntries;

/* Returns 0 or -ENOMEM (arena full). */
MUST_CHECK int package_entries_add(PackageEntries *list, Arena *arena, const TarEntry *entry,
                                   size_t contents);

/* In byte order of their paths. */
void package_entries_sort(PackageEntries *list);

/* package_ignored, but agent.yaml and .gantryignore are never left out of an upload. */
bool package_leaves_out(const PackageIgnore *ignore, Str path, bool is_dir);

PackageLimits package_limits_filled(const PackageLimits *limits);

#endif
