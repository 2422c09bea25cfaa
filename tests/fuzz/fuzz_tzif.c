/* Files of time zones: one that is taken has an offset of less than 26 hours at any time, or of
 * what its rule says. */
#include "codec/tzif.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Tzif zone;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, (size_t)4 << 20);
    if (tzif_parse(&arena, str_make((const char *)data, size), &zone) != 0) return 0;
    for (int64_t ms = INT64_C(-8000000000000); ms < INT64_C(20000000000000); ms += 700000000001) {
        int64_t offset_ms = tzif_offset_ms(&zone, ms);
        assert(offset_ms > -INT64_C(27) * 3600000 && offset_ms < INT64_C(27) * 3600000);
        assert(offset_ms % 1000 == 0);
    }
    (void)tzif_offset_ms(&zone, INT64_MIN);
    (void)tzif_offset_ms(&zone, INT64_MAX);
    return 0;
}
