#include "sys/zone.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/diag.h"
#include "codec/tzif.h"

#define ZONE_NAME_MAX 64
#define ZONE_DIR "/usr/share/zoneinfo"

static char name_set[ZONE_NAME_MAX] = "UTC";

/* It becomes part of a path. */
static bool name_ok(Str name)
{
    if (name.len == 0 || name.len >= ZONE_NAME_MAX || name.ptr[0] == '/') return false;
    if (str_find(name, STR("//")) >= 0) return false; /* one zone, one name */
    for (size_t i = 0; i < name.len; i++) {
        char c = name.ptr[i];
        bool alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        if (!alnum && !strchr("/_+-", c)) return false;
    }
    return true;
}

static bool is_utc(const char *name)
{
    return strcmp(name, "UTC") == 0;
}

static FILE *file_open(const char *name)
{
    char path[sizeof ZONE_DIR + ZONE_NAME_MAX + 1];
    snprintf(path, sizeof path, ZONE_DIR "/%s", name);
    return fopen(path, "re");
}

static bool in_database(const char *name)
{
    char magic[4];
    FILE *file = file_open(name);
    if (!file) return false;
    bool ok = fread(magic, 1, sizeof magic, file) == sizeof magic && memcmp(magic, "TZif", 4) == 0;
    fclose(file);
    return ok;
}

static int unknown(const char *name)
{
    return diag_set(-EINVAL, "this system knows no time zone `%s` (%s, package tzdata)", name,
                    ZONE_DIR);
}

int zone_set(Str name)
{
    char text[ZONE_NAME_MAX];
    if (!name_ok(name)) return diag_set(-EINVAL, "is no name of a time zone");
    str_copy(text, sizeof text, name);
    if (!is_utc(text) && !in_database(text)) return unknown(text);
    memcpy(name_set, text, sizeof name_set);
    if (is_utc(text)) return 0;
    setenv("TZ", text, 1); /* the C library reads zones by this name only */
    tzset();
    return 0;
}

const char *zone_name(void)
{
    return name_set;
}

static void local_of(time_t at, struct tm *ret)
{
    if (is_utc(name_set)) gmtime_r(&at, ret);
    else localtime_r(&at, ret);
}

/* The first moment of a date; fields may be out of range. Where a zone skips midnight it is the
 * moment that mktime makes of it, the same one each time it is asked for. */
static int64_t moment_ms(int year, int month, int day)
{
    struct tm date = { .tm_year = year, .tm_mon = month, .tm_mday = day, .tm_isdst = -1 };
    return (int64_t)(is_utc(name_set) ? timegm(&date) : mktime(&date)) * 1000;
}

static int64_t floor_s(int64_t ms)
{
    return ms / 1000 - (ms % 1000 < 0);
}

void zone_day(int64_t now_ms, int64_t *ret_start_ms, int64_t *ret_end_ms)
{
    struct tm now;
    local_of((time_t)floor_s(now_ms), &now);
    int day = now.tm_mday;
    if (now_ms < moment_ms(now.tm_year, now.tm_mon, day)) day--;
    *ret_start_ms = moment_ms(now.tm_year, now.tm_mon, day);
    *ret_end_ms = moment_ms(now.tm_year, now.tm_mon, day + 1);
}

void zone_month(int64_t now_ms, int64_t *ret_start_ms, int64_t *ret_end_ms)
{
    struct tm now;
    local_of((time_t)floor_s(now_ms), &now);
    int month = now.tm_mon;
    if (now_ms < moment_ms(now.tm_year, month, 1)) month--;
    *ret_start_ms = moment_ms(now.tm_year, month, 1);
    *ret_end_ms = moment_ms(now.tm_year, month + 1, 1);
}

int64_t zone_offset_ms(int64_t unix_ms)
{
    struct tm tm;
    time_t seconds = (time_t)(unix_ms / 1000 - (unix_ms % 1000 < 0));
    if (is_utc(name_set) || !localtime_r(&seconds, &tm)) return 0;
    return (int64_t)tm.tm_gmtoff * 1000;
}

/* --- others ----------------------------------------------------------------------------------- */

struct Zone {
    struct Zone *next;
    char name[ZONE_NAME_MAX];
    Arena arena;
    Tzif tzif;
};

/* As many as names of the database have been asked for: a few hundred at most. */
static struct {
    pthread_mutex_t lock;
    Zone *first;
} known = { .lock = PTHREAD_MUTEX_INITIALIZER };

static int bytes_read(FILE *file, Arena *arena, Str *ret)
{
    char *bytes = arena_alloc(arena, TZIF_BYTES_MAX);
    if (!bytes) return -ENOMEM;
    *ret = str_make(bytes, fread(bytes, 1, TZIF_BYTES_MAX, file));
    return ferror(file) ? -EIO : 0;
}

static int zone_read(const char *name, Arena *arena, Tzif *ret)
{
    CLEANUP(arena_deinit) Arena scratch;
    Str bytes;
    arena_init(&scratch, 2 * TZIF_BYTES_MAX);
    FILE *file = file_open(name);
    if (!file) return unknown(name);
    int r = bytes_read(file, &scratch, &bytes);
    fclose(file);
    if (r == 0) r = tzif_parse(arena, bytes, ret);
    return r == 0 ? 0 : unknown(name);
}

/* Under the lock. */
static int zone_load(const char *name, const Zone **ret)
{
    for (const Zone *z = known.first; z; z = z->next)
        if (strcmp(z->name, name) == 0) {
            *ret = z;
            return 0;
        }
    Zone *zone = xcalloc(1, sizeof *zone);
    arena_init(&zone->arena, 4 * TZIF_BYTES_MAX);
    memcpy(zone->name, name, strlen(name) + 1);
    int r = is_utc(name) ? 0 : zone_read(name, &zone->arena, &zone->tzif);
    if (r < 0) {
        arena_deinit(&zone->arena);
        free(zone);
        return r;
    }
    zone->next = known.first;
    *ret = known.first = zone;
    return 0;
}

int zone_find(Str name, const Zone **ret)
{
    char text[ZONE_NAME_MAX];
    if (str_empty(name)) name = str_of(name_set);
    if (!name_ok(name)) return diag_set(-EINVAL, "is no name of a time zone");
    str_copy(text, sizeof text, name);
    pthread_mutex_lock(&known.lock);
    int r = zone_load(text, ret);
    pthread_mutex_unlock(&known.lock);
    return r;
}

int64_t zone_offset_of_ms(const void *zone, int64_t unix_ms)
{
    const Zone *of = zone;
    return tzif_offset_ms(&of->tzif, unix_ms);
}
