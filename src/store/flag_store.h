/* Flags as operators set them (logic/flag.h says what they mean). Every change moves a revision
 * that never repeats, so that who holds a copy knows whether it is the last. Functions run inside a
 * store job. */
#ifndef GANTRY_STORE_FLAG_STORE_H
#define GANTRY_STORE_FLAG_STORE_H

#include "codec/json.h"
#include "store/db.h"

typedef struct {
    Str key;
    Str definition; /* JSON: {"value","rules","description"} */
    int64_t revision;
    int64_t updated_at_ms;
} FlagRow;

/* Sets a flag; definition has been checked. Returns 0 with its revision, FLAG_E_FULL (as many
 * flags, or as much text, as there may be), -errno. */
#define FLAG_E_FULL 1
MUST_CHECK int flag_put(Db *db, Str key, Str definition, int64_t now_ms, int64_t *ret_revision);

/* Returns 0, -ENOENT, -errno. */
MUST_CHECK int flag_delete(Db *db, Str key);

/* Texts live in arena. Returns 0, -ENOENT, -ENOMEM, -errno. */
MUST_CHECK int flag_get(Db *db, Str key, Arena *arena, FlagRow *ret);

/* All flags by key. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int flag_list(Db *db, Arena *arena, FlagRow **ret, size_t *ret_n);

/* Of the last change of any flag; 0: none ever. */
MUST_CHECK int flag_revision(Db *db, int64_t *ret);

/* {"key",...the definition's members...,"revision","updatedAt"}. */
void flag_row_write(JsonOut *out, const FlagRow *row);

#endif
