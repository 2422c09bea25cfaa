/* Commands: one table that gives parsing, help, completion and the man page.
 *
 * A command runs on a plain thread; those that talk to a server run their body on a fiber
 * (cli/client.h). Data goes to stdout, progress and errors to stderr.
 */
#ifndef GANTRY_CLI_COMMAND_H
#define GANTRY_CLI_COMMAND_H

#include "base/str.h"

/* What commands talk to when nothing names another. */
#define SERVER_DEFAULT "http://127.0.0.1:7070"

/* Exit statuses, as documented in docs/cli.md. */
enum {
    EXIT_OK = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_NOT_AUTHORISED = 4,
    EXIT_NOT_FOUND = 5,
    EXIT_CONFLICT = 6,
    EXIT_GATE = 7,
    EXIT_PENDING = 8,
    EXIT_INTERRUPTED = 130,
};

#define COMMAND_FLAGS_MAX 16
#define COMMAND_ARGS_MAX 64

typedef enum { OUTPUT_TABLE, OUTPUT_JSON, OUTPUT_JSONL } Output;

typedef struct {
    const char *name;  /* "--name" */
    const char *value; /* placeholder in help, NULL: a switch */
    const char *help;
} Flag;

typedef struct Command Command;

/* What was typed. */
typedef struct {
    const Command *command;
    const char *args[COMMAND_ARGS_MAX];
    int args_n;
    const char *values[COMMAND_FLAGS_MAX]; /* of command->flags; "" for a switch that was given */
    /* flags of every command */
    const char *server;
    const char *key;
    Output output;
    bool color;
    int64_t timeout_ms; /* 0: the command's own */
} Invocation;

struct Command {
    const char *verb;
    const char *noun; /* NULL: the verb stands alone */
    const char *args; /* for help: "AGENT [INPUT|-]" */
    int args_min, args_max;
    const char *summary; /* one line */
    const char *detail;  /* paragraphs and examples, may be NULL */
    const Flag *flags;   /* ends with one without name; may be NULL */
    int (*run)(const Invocation *in);
    bool hidden;
};

extern const Command commands[];
extern const size_t commands_n;
extern const Flag global_flags[]; /* ends with one without name */

/* Value of a flag of the command: NULL when not given, "" for a switch. name is in its table. */
const char *flag(const Invocation *in, const char *name);
bool flag_given(const Invocation *in, const char *name);

/* Parses and runs; returns the exit status. */
int command_main(int argc, char **argv);

/* cli/help.c */
void help_program(void);
void help_command(const Command *command);
int help_run(const Invocation *in);
int completion_run(const Invocation *in);
int man_run(const Invocation *in);

/* Prints "gantry: ..." on stderr and returns status. */
int fail(int status, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
