/* Schema: a documented subset of JSON Schema 2020-12, for the arguments of tools.
 *
 * Checked:  type (a name or a list), enum, const, anyOf, oneOf, allOf, not, $ref to "#" or
 *           "#/$defs/NAME" or "#/definitions/NAME", boolean schemas;
 *   objects properties, required, additionalProperties (a schema or a boolean), minProperties,
 *           maxProperties;
 *   arrays  items (a schema), prefixItems, minItems, maxItems, uniqueItems;
 *   strings minLength, maxLength (in code points), pattern in the subset below;
 *   numbers minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf (whole numbers only).
 * Every other keyword is ignored, as the specification asks of unknown ones: title, description,
 * default, examples, format, deprecated, … and, without effect, if/then/else, dependentRequired,
 * dependentSchemas, patternProperties, propertyNames, contains, unevaluated…, $dynamicRef. A schema
 * that relies on those is too lax here, never too strict: except that additionalProperties: false
 * counts only `properties`, which is why schema_check refuses it together with patternProperties.
 * 1.0 is an integer, as in the specification.
 *
 * pattern: ^ $ . [...] [^...] \d \w \s \D \W \S, escaped punctuation, and * + ? {m} {m,} {m,n}
 * after one of those. Groups, alternatives, look-around and back-references are not there:
 * schema_check reports them. Matching takes at most SCHEMA_PATTERN_STEPS_MAX steps and then fails.
 *
 * A value may be nested 48 deep, $ref included, and cost a bounded number of steps; beyond that it
 * does not fit. Pure; any thread.
 */
#ifndef GANTRY_LOGIC_SCHEMA_H
#define GANTRY_LOGIC_SCHEMA_H

#include "logic/issue.h"

#define SCHEMA_DEPTH_MAX 32
#define SCHEMA_PATTERN_STEPS_MAX 100000
#define SCHEMA_PATTERN_BYTES_MAX 512
#define SCHEMA_PATH_MAX 256
#define SCHEMA_MESSAGE_MAX 256

#define SCHEMA_E_INVALID 1

/* Why a value does not fit: the first reason found. */
typedef struct {
    char path[SCHEMA_PATH_MAX];       /* "order.items[2].id"; "" is the value itself; cut to fit */
    char message[SCHEMA_MESSAGE_MAX]; /* "expected a string, found a number" */
} SchemaError;

/* Looks for what schema_validate could not honour: misspelt types, wrong kinds of keyword values, a
 * pattern outside the subset, a $ref to nowhere, nesting beyond SCHEMA_DEPTH_MAX. path is where the
 * schema stands in its file. */
void schema_check(const Json *schema, const IssuePath *path, IssueList *issues);

/* Whether value fits schema. schema must have passed schema_check (what has not is ignored).
 * Returns 0, SCHEMA_E_INVALID with *ret_error (may be NULL) filled. */
MUST_CHECK int schema_validate(const Json *schema, const Json *value, SchemaError *ret_error);

/* Whether text contains a match of pattern (the subset above). Returns 0 (it does),
 * SCHEMA_E_INVALID (it does not, or too many steps), -EINVAL (the pattern is outside the subset;
 * diag says where). */
MUST_CHECK int schema_pattern(Str pattern, Str text);

#endif
