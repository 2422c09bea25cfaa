#include <stdio.h>

#include "cli/command.h"

static void print_name(FILE *f, const Command *c)
{
    fprintf(f, "gantry %s%s%s", c->verb, c->noun ? " " : "", c->noun ? c->noun : "");
}

static void print_flags(const Flag *flags)
{
    for (; flags && flags->name; flags++) {
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", flags->name, flags->value ? " " : "",
                 flags->value ? flags->value : "");
        printf("  %-32s %s\n", left, flags->help);
    }
}

void help_program(void)
{
    puts("gantry " GANTRY_VERSION
         ": runs AI agents in production\n\nusage: gantry COMMAND [ARGUMENTS] [FLAGS]\n");
    for (size_t i = 0; i < commands_n; i++) {
        char left[64];
        if (commands[i].hidden) continue;
        snprintf(left, sizeof left, "%s%s%s %s", commands[i].verb, commands[i].noun ? " " : "",
                 commands[i].noun ? commands[i].noun : "", commands[i].args);
        printf("  %-30s %s\n", left, commands[i].summary);
    }
    puts("\nflags of every command:");
    print_flags(global_flags);
    puts(
        "\nexit status: 0 ok, 1 failed, 2 usage, 4 not authorised, 5 not found, 6 conflict, 7 a gate failed,\n"
        "8 still pending at the timeout, 130 interrupted\n\nfirst steps:  gantry init my-agent && gantry dev my-agent");
}

void help_command(const Command *c)
{
    print_name(stdout, c);
    printf(": %s\n\nusage: ", c->summary);
    print_name(stdout, c);
    printf(" %s%s[FLAGS]\n", c->args, *c->args ? " " : "");
    if (c->detail) printf("\n%s\n", c->detail);
    if (c->flags) puts("\nflags:");
    print_flags(c->flags);
    puts("\nflags of every command:");
    print_flags(global_flags);
}

int help_run(const Invocation *in)
{
    size_t shown = 0;
    if (in->args_n == 0) {
        help_program();
        return EXIT_OK;
    }
    for (size_t i = 0; i < commands_n; i++) {
        const Command *c = &commands[i];
        if (strcmp(c->verb, in->args[0]) != 0) continue;
        if (in->args_n > 1 && (!c->noun || strcmp(c->noun, in->args[1]) != 0)) continue;
        if (shown++) puts("");
        help_command(c);
    }
    return shown ? EXIT_OK
                 : fail(EXIT_USAGE, "unknown command `%s`; `gantry help` lists them", in->args[0]);
}

/* --- completion ------------------------------------------------------------------------------- */

static bool verb_seen(size_t i)
{
    for (size_t j = 0; j < i; j++)
        if (strcmp(commands[j].verb, commands[i].verb) == 0) return true;
    return false;
}

static void print_verbs(void)
{
    for (size_t i = 0; i < commands_n; i++)
        if (!commands[i].hidden && !verb_seen(i)) printf("%s ", commands[i].verb);
}

static void print_words_after(const char *verb)
{
    for (size_t i = 0; i < commands_n; i++) {
        if (strcmp(commands[i].verb, verb) != 0) continue;
        if (commands[i].noun) printf("%s ", commands[i].noun);
        for (const Flag *f = commands[i].flags; f && f->name; f++) printf("--%s ", f->name);
    }
}

static void print_global_flags(void)
{
    for (const Flag *f = global_flags; f->name; f++) printf("--%s ", f->name);
}

static void completion_bash(void)
{
    puts("# bash completion for gantry\n_gantry() {\n  local cur=${COMP_WORDS[COMP_CWORD]} words\n"
         "  if [ \"$COMP_CWORD\" -eq 1 ]; then");
    printf("    words=\"");
    print_verbs();
    puts("\"\n  else\n    case ${COMP_WORDS[1]} in");
    for (size_t i = 0; i < commands_n; i++) {
        if (commands[i].hidden || verb_seen(i)) continue;
        printf("      %s) words=\"", commands[i].verb);
        print_words_after(commands[i].verb);
        puts("\" ;;");
    }
    printf("    esac\n    words=\"$words ");
    print_global_flags();
    puts(
        "\"\n  fi\n  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
        "  [ ${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- \"$cur\"))\n}\ncomplete -F _gantry gantry");
}

static void completion_zsh(void)
{
    puts(
        "#compdef gantry\n_gantry() {\n  local -a verbs words\n  if (( CURRENT == 2 )); then\n    verbs=(");
    for (size_t i = 0; i < commands_n; i++)
        if (!commands[i].hidden && !verb_seen(i))
            printf("      '%s:%s'\n", commands[i].verb, commands[i].summary);
    puts("    )\n    _describe command verbs\n    return\n  fi\n  case $words[2] in");
    for (size_t i = 0; i < commands_n; i++) {
        if (commands[i].hidden || verb_seen(i)) continue;
        printf("    %s) compadd -- ", commands[i].verb);
        print_words_after(commands[i].verb);
        puts(";;");
    }
    printf("  esac\n  compadd -- ");
    print_global_flags();
    puts("\n  _files\n}\ncompdef _gantry gantry");
}

static void fish_quoted(const char *s)
{
    putchar('\'');
    for (; *s; s++) printf(*s == '\'' ? "\\'" : "%c", *s);
    putchar('\'');
}

static void completion_fish(void)
{
    puts("# fish completion for gantry");
    for (size_t i = 0; i < commands_n; i++) {
        const Command *c = &commands[i];
        if (c->hidden) continue;
        if (!verb_seen(i)) {
            printf("complete -c gantry -n __fish_use_subcommand -f -a %s -d ", c->verb);
            fish_quoted(c->summary);
            puts("");
        }
        if (c->noun)
            printf("complete -c gantry -n '__fish_seen_subcommand_from %s' -f -a %s\n", c->verb,
                   c->noun);
        for (const Flag *f = c->flags; f && f->name; f++) {
            printf("complete -c gantry -n '__fish_seen_subcommand_from %s' -l %s %s-d ", c->verb,
                   f->name, f->value ? "-r " : "");
            fish_quoted(f->help);
            puts("");
        }
    }
    for (const Flag *f = global_flags; f->name; f++) {
        printf("complete -c gantry -l %s %s-d ", f->name, f->value ? "-r " : "");
        fish_quoted(f->help);
        puts("");
    }
}

int completion_run(const Invocation *in)
{
    static const struct {
        const char *shell;
        void (*print)(void);
    } shells[] = { { "bash", completion_bash },
                   { "zsh", completion_zsh },
                   { "fish", completion_fish } };
    for (size_t i = 0; i < ARRAY_N(shells); i++) {
        if (strcmp(in->args[0], shells[i].shell) != 0) continue;
        shells[i].print();
        return EXIT_OK;
    }
    return fail(EXIT_USAGE, "completion is for bash, zsh or fish, not `%s`", in->args[0]);
}

/* --- man page --------------------------------------------------------------------------------- */

static void man_text(const char *s)
{
    bool at_start = true;
    for (; *s; s++) {
        if (at_start && (*s == '.' || *s == '\'')) fputs("\\&", stdout);
        if (*s == '\\') fputs("\\e", stdout);
        else if (*s == '-') fputs("\\-", stdout);
        else putchar(*s);
        at_start = *s == '\n';
    }
}

static void man_flags(const Flag *flags)
{
    for (; flags && flags->name; flags++) {
        printf(".TP\n.B \\-\\-");
        man_text(flags->name);
        if (flags->value) printf(" \\fI%s\\fR", flags->value);
        puts("");
        man_text(flags->help);
        puts("");
    }
}

int man_run(const Invocation *in)
{
    (void)in;
    puts(
        ".TH GANTRY 1 \"\" \"gantry " GANTRY_VERSION
        "\" \"User Commands\"\n.SH NAME\ngantry \\- runs AI agents in production\n"
        ".SH SYNOPSIS\n.B gantry\n\\fICOMMAND\\fR [\\fIARGUMENTS\\fR] [\\fIFLAGS\\fR]\n.SH COMMANDS");
    for (size_t i = 0; i < commands_n; i++) {
        const Command *c = &commands[i];
        if (c->hidden) continue;
        printf(".SS gantry %s%s%s ", c->verb, c->noun ? " " : "", c->noun ? c->noun : "");
        man_text(c->args);
        puts("");
        man_text(c->summary);
        puts("");
        if (c->detail) {
            puts(".PP\n.nf");
            man_text(c->detail);
            puts("\n.fi");
        }
        man_flags(c->flags);
    }
    puts(".SH FLAGS OF EVERY COMMAND");
    man_flags(global_flags);
    puts(
        ".SH EXIT STATUS\n0 ok, 1 failed, 2 usage, 4 not authorised, 5 not found, 6 conflict, 7 a gate failed, 8 still pending at\n"
        "the timeout, 130 interrupted.");
    return EXIT_OK;
}
