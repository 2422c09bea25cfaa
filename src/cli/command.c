#include "cli/command.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/diag.h"
#include "cli/verbs.h"
#include "codec/duration.h"
#include "logic/issue.h"
#include "sys/process.h"

const Flag global_flags[] = {
    { "server", "URL", "the server to talk to (or GANTRY_SERVER; default http://127.0.0.1:7070)" },
    { "key", "KEY", "API key (or GANTRY_API_KEY)" },
    { "output", "table|json|jsonl", "how to print results; also -o" },
    { "timeout", "DURATION", "give up waiting after this long, such as 5m" },
    { "no-color", NULL, "plain text (also when NO_COLOR is set or stdout is not a terminal)" },
    { "help", NULL, "explain this command" },
    { 0 },
};

int fail(int status, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fputs("gantry: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    return status;
}

static int flag_index(const Command *command, const char *name)
{
    for (int i = 0; command->flags && command->flags[i].name; i++)
        if (strcmp(command->flags[i].name, name) == 0) return i;
    return -1;
}

const char *flag(const Invocation *in, const char *name)
{
    int i = flag_index(in->command, name);
    assert(i >= 0 && i < COMMAND_FLAGS_MAX);
    return in->values[i];
}

bool flag_given(const Invocation *in, const char *name)
{
    return flag(in, name) != NULL;
}

/* --- which command ---------------------------------------------------------------------------- */

static bool has_noun(const char *verb)
{
    for (size_t i = 0; i < commands_n; i++)
        if (commands[i].noun && strcmp(commands[i].verb, verb) == 0) return true;
    return false;
}

static const Command *command_find(const char *verb, const char *noun)
{
    const Command *bare = NULL;
    for (size_t i = 0; i < commands_n; i++) {
        if (strcmp(commands[i].verb, verb) != 0) continue;
        if (!commands[i].noun) bare = &commands[i];
        else if (noun && strcmp(commands[i].noun, noun) == 0) return &commands[i];
    }
    return bare;
}

static void list_nouns(const char *verb)
{
    for (size_t i = 0; i < commands_n; i++)
        if (commands[i].noun && !commands[i].hidden && strcmp(commands[i].verb, verb) == 0)
            fprintf(stderr, "  gantry %s %s%s%s\n", verb, commands[i].noun,
                    *commands[i].args ? " " : "", commands[i].args);
}

static int unknown(const char *verb, const char *noun)
{
    if (has_noun(verb)) {
        if (noun) fail(EXIT_USAGE, "`%s` is nothing that `gantry %s` knows; try", noun, verb);
        else fail(EXIT_USAGE, "`gantry %s` needs one more word:", verb);
        list_nouns(verb);
        return EXIT_USAGE;
    }
    Str names[128];
    size_t n = 0;
    for (size_t i = 0; i < commands_n && n < ARRAY_N(names); i++)
        names[n++] = str_of(commands[i].verb);
    Str near = issue_nearest(str_of(verb), names, n);
    if (verb[0] == '-')
        return fail(EXIT_USAGE,
                    "`%s` stands before a command; flags stand after it: "
                    "`gantry COMMAND ... %s`",
                    verb, verb);
    if (near.len)
        return fail(EXIT_USAGE, "unknown command `%s`; did you mean `gantry %.*s`?", verb,
                    STR_ARG(near));
    return fail(EXIT_USAGE, "unknown command `%s`; `gantry help` lists them", verb);
}

/* --- flags ------------------------------------------------------------------------------------ */

enum { GLOBAL_BASE = 1000, COMMAND_BASE = 2000 };

static int set_global(Invocation *in, int i, const char *value)
{
    const char *name = global_flags[i].name;
    if (strcmp(name, "server") == 0) in->server = value;
    else if (strcmp(name, "key") == 0) in->key = value;
    else if (strcmp(name, "no-color") == 0) in->color = false;
    else if (strcmp(name, "timeout") == 0) {
        if (duration_parse(str_of(value), &in->timeout_ms) < 0)
            return fail(EXIT_USAGE, "--timeout: %s", diag_text());
    } else if (strcmp(name, "output") == 0) {
        if (strcmp(value, "json") == 0) in->output = OUTPUT_JSON;
        else if (strcmp(value, "jsonl") == 0) in->output = OUTPUT_JSONL;
        else if (strcmp(value, "table") != 0)
            return fail(EXIT_USAGE, "--output must be table, json or jsonl, not `%s`", value);
    }
    return EXIT_OK;
}

static void add_option(struct option *o, const Flag *f, int value)
{
    *o = (struct option){ .name = f->name,
                          .has_arg = f->value ? required_argument : no_argument,
                          .val = value };
}

/* Which flag of the line getopt_long did not take, and why. */
static int bad_flag(const Invocation *in, int why, const char *word)
{
    const Command *c = in->command;
    if (why == ':') return fail(EXIT_USAGE, "`%s` needs a value", word);
    if (optopt >= GLOBAL_BASE) return fail(EXIT_USAGE, "`%s`: this flag takes no value", word);
    char letter[] = { '-', (char)optopt, '\0' }; /* one of several in a word, perhaps */
    if (optopt > 0) word = letter;
    return fail(EXIT_USAGE, "unknown flag `%s`; `gantry %s%s%s --help` lists them%s", word, c->verb,
                c->noun ? " " : "", c->noun ? c->noun : "",
                optopt > 0 ? "; an argument that begins with - stands after --" : "");
}

/* Fills in; EXIT_OK, EXIT_USAGE, or -1 when help was asked for. */
static int parse_flags(Invocation *in, int argc, char **argv)
{
    struct option options[COMMAND_FLAGS_MAX + 16] = { 0 };
    size_t n = 0;
    for (int i = 0; global_flags[i].name; i++)
        add_option(&options[n++], &global_flags[i], GLOBAL_BASE + i);
    for (int i = 0; in->command->flags && in->command->flags[i].name; i++)
        add_option(&options[n++], &in->command->flags[i], COMMAND_BASE + i);
    assert(n < ARRAY_N(options));
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, ":o:h", options, NULL)) != -1;) {
        int r = EXIT_OK;
        if (c == '?' || c == ':') return bad_flag(in, c, argv[optind - 1]);
        if (c == 'h') return -1;
        if (c == 'o') r = set_global(in, 2, optarg);
        else if (c >= COMMAND_BASE) in->values[c - COMMAND_BASE] = optarg ? optarg : "";
        else if (strcmp(global_flags[c - GLOBAL_BASE].name, "help") == 0) return -1;
        else r = set_global(in, c - GLOBAL_BASE, optarg);
        if (r != EXIT_OK) return r;
    }
    for (; optind < argc; optind++) {
        if (in->args_n == COMMAND_ARGS_MAX)
            return fail(EXIT_USAGE, "more than %d arguments", COMMAND_ARGS_MAX);
        in->args[in->args_n++] = argv[optind];
    }
    return EXIT_OK;
}

static int check_args(const Invocation *in)
{
    const Command *c = in->command;
    if (in->args_n >= c->args_min && in->args_n <= c->args_max) return EXIT_OK;
    return fail(EXIT_USAGE, "%s\nusage: gantry %s%s%s %s",
                in->args_n < c->args_min ? "something is missing" : "too many arguments", c->verb,
                c->noun ? " " : "", c->noun ? c->noun : "", c->args);
}

/* What was printed and did not arrive is no success; a reader that has left (EPIPE) wants no
 * more. */
static int output_end(int status)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) return status;
    if (errno == EPIPE) return status;
    int r = fail(EXIT_FAILED, "cannot write the output: %s",
                 errno ? strerror(errno) : "an earlier write failed");
    return status == EXIT_OK ? r : status;
}

static int invoke(int argc, char **argv)
{
    if (argc < 2) {
        help_program();
        return EXIT_USAGE;
    }
    const char *verb = argv[1], *noun = argc > 2 ? argv[2] : NULL;
    if (strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0) verb = "help";
    if (strcmp(verb, "--version") == 0) verb = "version-of-program";
    if (strcmp(verb, "version-of-program") == 0) {
        puts("gantry " GANTRY_VERSION);
        return EXIT_OK;
    }
    const Command *command = command_find(verb, noun);
    if (!command && noun && (strcmp(noun, "--help") == 0 || strcmp(noun, "-h") == 0) &&
        has_noun(verb)) {
        list_nouns(verb);
        return EXIT_OK;
    }
    if (!command) return unknown(verb, noun);
    int used = command->noun ? 2 : 1;
    const char *env_server = getenv("GANTRY_SERVER"), *env_key = getenv("GANTRY_API_KEY"),
               *no_color = getenv("NO_COLOR");
    Invocation in = { .command = command,
                      .server = env_server && *env_server ? env_server : SERVER_DEFAULT,
                      .key = env_key,
                      .color = isatty(STDOUT_FILENO) && !(no_color && *no_color) };
    int r = parse_flags(&in, argc - used, argv + used);
    if (r == -1) {
        help_command(command);
        return EXIT_OK;
    }
    if (r == EXIT_OK) r = check_args(&in);
    return r == EXIT_OK ? command->run(&in) : r;
}

int command_main(int argc, char **argv)
{
    process_stdio_fill();
    return output_end(invoke(argc, argv));
}
