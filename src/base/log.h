/* Structured logs: one line a record on stderr, or in a file (log_to), as logfmt (default) or JSON.
 *
 *     LOG_INFO("task finished", LOG_STR("outcome", s), LOG_INT("attempt", n));
 *
 * Every record carries time, level, event, and the ids of the running fiber's LogContext (task,
 * trace). Any thread. A line is one write(2), so lines of several threads never mix; a full pipe
 * blocks nobody: what cannot be written is counted and dropped. Never log payloads or keys.
 */
#ifndef GANTRY_BASE_LOG_H
#define GANTRY_BASE_LOG_H

#include "base/str.h"

typedef enum { LOG_DEBUG_, LOG_INFO_, LOG_WARN_, LOG_ERROR_, LOG_LEVEL_N_ } LogLevel;
typedef enum { LOG_LOGFMT, LOG_JSON } LogFormat;

typedef struct {
    const char *key; /* lowerCamelCase, a literal */
    enum { LOG_FIELD_STR, LOG_FIELD_INT, LOG_FIELD_F64 } type;
    Str str;
    int64_t i64;
    double f64;
} LogField;

/* What the running fiber is working on; empty strings are left out. */
typedef struct {
    char task_id[37];
    char trace_id[33];
} LogContext;

#define LOG_STR(k, v) ((LogField){ .key = (k), .type = LOG_FIELD_STR, .str = (v) })
#define LOG_CSTR(k, v) ((LogField){ .key = (k), .type = LOG_FIELD_STR, .str = str_of(v) })
#define LOG_INT(k, v) ((LogField){ .key = (k), .type = LOG_FIELD_INT, .i64 = (int64_t)(v) })
#define LOG_F64(k, v) ((LogField){ .key = (k), .type = LOG_FIELD_F64, .f64 = (v) })

#define LOG_AT(level, event, ...)                                                           \
    do {                                                                                    \
        if (log_enabled(level))                                                             \
            log_write(level, event, (const LogField[]){ __VA_ARGS__ __VA_OPT__(, ){ 0 } }); \
    } while (0)
#define LOG_DEBUG(...) LOG_AT(LOG_DEBUG_, __VA_ARGS__)
#define LOG_INFO(...) LOG_AT(LOG_INFO_, __VA_ARGS__)
#define LOG_WARN(...) LOG_AT(LOG_WARN_, __VA_ARGS__)
#define LOG_ERROR(...) LOG_AT(LOG_ERROR_, __VA_ARGS__)

/* Set once at start, before other threads exist. */
void log_setup(LogLevel least, LogFormat format);

/* Lines go to write (from any thread, one at a time a thread) instead of stderr; those it returns
 * false for, and what it logs itself, to stderr all the same. NULL: none. Set as log_setup. */
void log_to(bool (*write)(Str line));

/* "debug", "info", "warn", "error" -> level; 0 or -EINVAL. */
MUST_CHECK int log_level_from(Str name, LogLevel *ret);

bool log_enabled(LogLevel level);

/* fields end with one whose key is NULL. Use the macros. */
void log_write(LogLevel level, const char *event, const LogField *fields);

/* Lines dropped because stderr did not take them. */
uint64_t log_dropped(void);

/* For the fiber runtime, as diag_switch. */
LogContext *log_context_switch(LogContext *context);

/* The context of the running fiber (or thread), to be filled in. */
LogContext *log_context(void);

#endif
