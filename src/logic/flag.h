/* Flags: values that operators change while agents run, and switches that turn things off.
 *
 * A flag has a value (boolean, string or number) and rules; the first rule that fits the task gives
 * its own value instead, which has the same type. Agents read flags. A flag whose key is one of
 *   tool:NAME    a tool (NAME may be a glob, logic/glob.h)
 *   model:NAME   a model, likewise
 *   tasks        whole tasks
 * is a switch: a boolean, and what it names is off for a task while it is false. Agents do not see
 * switches. A rule is an object of conditions, all of which must hold, and a value:
 *   agents, users, tenants   the task's is in the list
 *   versions                 the task's begins with one of the list (8 digits at least)
 *   percent                  the unit's bucket is below so many of 100 (two decimals)
 *   by                       the unit: "task", "session", "user", "tenant"; by default the session,
 *                            else the user, else the task. Without one the rule does not fit
 *   value
 *
 * Pure; any thread. Everything lives in the arena it was read into.
 */
#ifndef GANTRY_LOGIC_FLAG_H
#define GANTRY_LOGIC_FLAG_H

#include "codec/json.h"

#define FLAG_KEY_BYTES_MAX 128
#define FLAG_RULES_MAX 64
#define FLAG_LIST_MAX 1000
#define FLAG_TEXT_BYTES_MAX 65536 /* of a definition */
#define FLAGS_MAX 1000
#define FLAGS_BYTES_MAX ((size_t)4 << 20) /* of all definitions */

typedef enum { FLAG_VALUE, FLAG_TOOL, FLAG_MODEL, FLAG_TASKS } FlagKind;

typedef struct {
    const Json *agents, *users, *tenants, *versions; /* arrays of text; NULL: any */
    int64_t percent_bp;                              /* of 10,000; -1: all */
    Str by;                                          /* "" is the default */
    const Json *value;
} FlagRule;

typedef struct {
    Str key;
    FlagKind kind;
    Str pattern; /* of a switch: NAME */
    Str description;
    const Json *value;
    const FlagRule *rules;
    size_t rules_n;
} Flag;

typedef struct FlagSet {
    const Flag *items;
    size_t n;
} FlagSet;

/* Whom a flag is asked for. Empty: none, or not known. */
typedef struct {
    Str agent, version_id, tenant_id, user_id, session_id, task_id;
} FlagContext;

/* What is wrong with a definition: member in dots and brackets, "" for the whole. */
typedef struct {
    char member[96];
    char message[160];
} FlagFault;

#define FLAG_E_INVALID 1

bool flag_key_ok(Str key);

/* Reads {"value", "rules"?, "description"?}; other members are refused unless they are in the
 * answers of the API ("key", "updatedAt", "revision"), which are passed over. Returns 0,
 * FLAG_E_INVALID with *ret_fault, -ENOMEM. */
MUST_CHECK int flag_parse(Arena *arena, Str key, const Json *definition, Flag *ret,
                          FlagFault *ret_fault);

/* Reads an array of definitions with "key". What is invalid (written by a newer program) is left
 * out. Returns 0, -EINVAL (no array, too many), -ENOMEM. */
MUST_CHECK int flags_parse(Arena *arena, const Json *array, FlagSet *ret);

typedef enum { FLAG_STATIC, FLAG_DEFAULT, FLAG_TARGETED, FLAG_SPLIT } FlagReason;
typedef struct {
    const Json *value;
    FlagReason reason; /* no rules; none fits; one fits; one with a percentage fits */
    ptrdiff_t rule;    /* -1: the flag's own value */
} FlagAnswer;
FlagAnswer flag_eval(const Flag *flag, const FlagContext *context);
const char *flag_reason_name(
    FlagReason reason); /* "STATIC", "DEFAULT", ... as OpenFeature has it */

const Flag *flags_find(const FlagSet *set, Str key);

/* Switches: on unless one that fits says no. set may be NULL: everything is on. */
bool flags_tool_on(const FlagSet *set, const FlagContext *context, Str tool);
bool flags_model_on(const FlagSet *set, const FlagContext *context, Str model);
bool flags_tasks_on(const FlagSet *set, const FlagContext *context);

/* {"key":value,...} of the flags that agents see. set may be NULL. */
void flags_write(JsonOut *out, const FlagSet *set, const FlagContext *context);

/* {"value","rules","description"}: what flag_parse reads, defaults left out. */
void flag_write(JsonOut *out, const Flag *flag);

#endif
