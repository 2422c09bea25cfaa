/* Tools: tools.json, read and checked whole.
 *
 * The file is an array of tools, or {"tools": [...]}. A tool:
 *   name            -       ^[a-zA-Z0-9_-]{1,64}$, unique in the file
 *   description     ""      at most 4096 bytes; the model reads it
 *   inputSchema     {"type":"object"}  see logic/schema.h; must describe an object
 *   effect          write   read | write: what a shadow run may do
 *   allow, deny     []      rules on the arguments: a rule is {"argument": "glob"} or {"argument":
 *                           ["glob", ...]} (logic/glob.h, at most 32 rules). A call is refused when
 *                           a deny rule matches, or when there are allow rules and none matches. A
 *                           rule matches when each argument it names is there and its text (of a
 *                           string, number or boolean) fits one of the globs; a list or an object
 *                           always fits a deny rule and never an allow rule.
 *   source          none    absent: the agent runs the tool itself; else exactly one of
 *                           {"command": [argv]}, {"http": {method (POST), url, headers}},
 *                           {"mcp": {url or command, tool (the name), headers}},
 *                           {"agent": "name"}; a header's value is text or {"env": "NAME"}
 *   timeout         30s     10ms..1h; 1h for {"agent"}
 *   outputBytesMax  65536   1..16777216; more is an error of the tool
 *   dryRun          none    a boolean argument, declared in inputSchema, by which the tool changes
 *                           nothing: so a shadow run may call one that writes
 *
 * Pure; any thread. Everything lives in the arena.
 */
#ifndef GANTRY_LOGIC_TOOLS_H
#define GANTRY_LOGIC_TOOLS_H

#include "logic/issue.h"

#define TOOLS_BYTES_MAX (1 << 20)
#define TOOLS_N_MAX 256
#define TOOL_NAME_BYTES_MAX 64
#define TOOL_RULES_MAX 32
#define TOOL_HEADERS_MAX 32

typedef enum { TOOL_WRITE, TOOL_READ, TOOL_EFFECT_N_ } ToolEffect;
typedef enum {
    TOOL_BY_AGENT,
    TOOL_BY_COMMAND,
    TOOL_BY_HTTP,
    TOOL_BY_MCP,
    TOOL_BY_SUBAGENT,
    TOOL_SOURCE_N_
} ToolSource;

typedef struct {
    Str name;
    Str value; /* literal text, or the variable's name when from_env */
    bool from_env;
} ToolHeader;

typedef struct {
    Str name;
    Str description;
    const Json *input_schema; /* never NULL */
    ToolEffect effect;
    const Json *allow, *deny; /* arrays of rules, NULL: none */
    ToolSource source;
    const Str *command; /* TOOL_BY_COMMAND; TOOL_BY_MCP over stdio */
    size_t command_n;
    Str method; /* TOOL_BY_HTTP, upper case */
    Str url;    /* TOOL_BY_HTTP; TOOL_BY_MCP over HTTP */
    const ToolHeader *headers;
    size_t headers_n;
    Str remote_name; /* TOOL_BY_MCP: the tool's name at the server */
    Str agent;       /* TOOL_BY_SUBAGENT: who does it, as a task of its own */
    int64_t timeout_ms;
    int64_t output_bytes_max;
    Str dry_run; /* the argument, set to true, that makes it change nothing; empty: there is none */
} Tool;

typedef struct {
    const Tool *items;
    size_t n;
    const Json *definitions; /* the array as written, NULL when there was no file */
} ToolSet;

#define TOOLS_E_INVALID 1 /* issues[] says what is wrong */

/* Reads and checks json_text. issues as manifest_parse: with line and column. Returns 0 (*ret is
 * filled), TOOLS_E_INVALID (*ret untouched), -ENOMEM (the arena is full; 40 times the text and 64
 * KiB are enough). */
MUST_CHECK int tools_parse(Arena *arena, Str json_text, ToolSet *ret, Issue *issues,
                           size_t issues_max, size_t *ret_issues_n);

/* The tool of that name, or NULL. */
const Tool *tools_find(const ToolSet *set, Str name);

/* The first tool that nobody but the agent's own code could run, or NULL: a builtin agent has none.
 */
const Tool *tools_without_source(const ToolSet *set);

/* The first tool that changes something and is run by the agent's own code, or NULL. */
const Tool *tools_write_without_source(const ToolSet *set);

/* Whether the tool's rules let it be called with args; what is not an object has no arguments.
 * Returns 0 or TOOL_E_DENIED with diag saying which rule. */
#define TOOL_E_DENIED 1
MUST_CHECK int tool_may(const Tool *tool, const Json *args);

/* The tools as an array in which every default is written out, members in a fixed order: what a
 * version is made of. Returns 0 or -ENOMEM (out full). */
MUST_CHECK int tools_normalize(const ToolSet *set, Buf *out);

const char *tool_effect_name(ToolEffect effect); /* "write", "read" */

#endif
