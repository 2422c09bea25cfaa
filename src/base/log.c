#include "base/log.h"

#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define LOG_LINE_BYTES_MAX 4096

static LogLevel least_level = LOG_INFO_;
static LogFormat line_format = LOG_LOGFMT;
static atomic_uint_fast64_t dropped;
static bool (*line_write)(Str line);
static _Thread_local bool writing;
static _Thread_local LogContext own;
static _Thread_local LogContext *current;

static const char *const level_names[LOG_LEVEL_N_] = { "debug", "info", "warn", "error" };

typedef struct {
    char text[LOG_LINE_BYTES_MAX];
    size_t len;
} Line;

void log_setup(LogLevel least, LogFormat format)
{
    assert(least < LOG_LEVEL_N_);
    least_level = least;
    line_format = format;
}

void log_to(bool (*write)(Str line))
{
    line_write = write;
}

/* Whether it went where lines are to go. */
static bool line_taken(Str line)
{
    if (!line_write || writing) return false;
    writing = true;
    bool taken = line_write(line);
    writing = false;
    return taken;
}

int log_level_from(Str name, LogLevel *ret)
{
    for (size_t i = 0; i < LOG_LEVEL_N_; i++) {
        if (!str_eq(name, str_of(level_names[i]))) continue;
        *ret = (LogLevel)i;
        return 0;
    }
    return -EINVAL;
}

bool log_enabled(LogLevel level)
{
    return level >= least_level;
}

uint64_t log_dropped(void)
{
    return atomic_load(&dropped);
}

LogContext *log_context(void)
{
    return current ? current : &own;
}

LogContext *log_context_switch(LogContext *context)
{
    LogContext *before = current;
    current = context;
    return before;
}

static void put(Line *line, const char *bytes, size_t n)
{
    size_t room = sizeof line->text - 2 - line->len; /* the closing brace and the newline */
    n = MIN(n, room);
    memcpy(line->text + line->len, bytes, n);
    line->len += n;
}

static void put_text(Line *line, const char *s)
{
    put(line, s, strlen(s));
}

/* Quoted with JSON escapes in both formats; bytes of broken UTF-8 become '?'. */
static void put_quoted(Line *line, Str s)
{
    bool clean = str_is_utf8(s);
    put_text(line, "\"");
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        char esc[8];
        if (c == '"' || c == '\\') snprintf(esc, sizeof esc, "\\%c", c);
        else if (c == '\n') snprintf(esc, sizeof esc, "\\n");
        else if (c < 0x20) snprintf(esc, sizeof esc, "\\u%04x", c);
        else if (c >= 0x7f && !clean) snprintf(esc, sizeof esc, "?");
        else snprintf(esc, sizeof esc, "%c", c);
        put_text(line, esc);
    }
    put_text(line, "\"");
}

static bool is_bare(Str s)
{
    if (s.len == 0) return false;
    for (size_t i = 0; i < s.len; i++)
        if (s.ptr[i] <= ' ' || s.ptr[i] == '"' || s.ptr[i] == '=' || s.ptr[i] == '\\' ||
            (unsigned char)s.ptr[i] >= 0x7f)
            return false;
    return true;
}

static void put_key(Line *line, const char *key)
{
    if (line_format == LOG_JSON) {
        put_text(line, line->len > 1 ? ",\"" : "\"");
        put_text(line, key);
        put_text(line, "\":");
    } else {
        if (line->len) put_text(line, " ");
        put_text(line, key);
        put_text(line, "=");
    }
}

static void put_str(Line *line, const char *key, Str value)
{
    put_key(line, key);
    if (line_format == LOG_LOGFMT && is_bare(value)) put(line, value.ptr, value.len);
    else put_quoted(line, value);
}

static void put_field(Line *line, const LogField *f)
{
    char number[40];
    if (f->type == LOG_FIELD_STR) {
        put_str(line, f->key, f->str);
        return;
    }
    if (f->type == LOG_FIELD_INT) snprintf(number, sizeof number, "%" PRId64, f->i64);
    else snprintf(number, sizeof number, "%.6g", f->f64);
    put_key(line, f->key);
    put_text(line, number);
}

static void put_time(Line *line)
{
    struct timespec now;
    struct tm tm;
    char text[48], whole[32];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(whole, sizeof whole, "%.19s.%03dZ", text, (int)(now.tv_nsec / 1000000));
    put_str(line, "time", str_of(whole));
}

void log_write(LogLevel level, const char *event, const LogField *fields)
{
    Line line = { .len = 0 };
    const LogContext *context = log_context();
    if (line_format == LOG_JSON) put_text(&line, "{");
    put_time(&line);
    put_str(&line, "level", str_of(level_names[level]));
    put_str(&line, "event", str_of(event));
    if (context->task_id[0]) put_str(&line, "taskId", str_of(context->task_id));
    if (context->trace_id[0]) put_str(&line, "traceId", str_of(context->trace_id));
    for (const LogField *f = fields; f->key; f++) put_field(&line, f);
    if (line_format == LOG_JSON) line.text[line.len++] = '}';
    line.text[line.len++] = '\n';
    assert(line.len <= sizeof line.text);
    if (line_taken(str_make(line.text, line.len))) return;
    if (write(STDERR_FILENO, line.text, line.len) != (ssize_t)line.len)
        atomic_fetch_add(&dropped, 1);
}
