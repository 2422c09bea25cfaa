/* Regex: regular expressions, matched in time that grows with the text and never explodes.
 *
 * Literals; . [...] [^...] with ranges; \d \w \s \D \W \S \t \n \r \f \v and escaped punctuation;
 * ^ $ \b \B; ( ), (?: ) and |; * + ? {m} {m,} {m,n}, a ? behind which changes nothing, because only
 * whether there is a match is told. (?i) at the beginning: ASCII letters in either case; (?s): . is
 * a newline too; (?m): ^ and $ are those of lines; (?is) and so on. Back-references and look-around
 * are refused. Characters are code points; \d \w \s and \b are ASCII's.
 *
 * All states are followed at once (Thompson 1968): at most REGEX_SIZE_MAX steps a character, which
 * look at REGEX_WEIGHT_MAX characters and ranges. Pure; a Regex belongs to whoever made it.
 */
#ifndef GANTRY_LOGIC_REGEX_H
#define GANTRY_LOGIC_REGEX_H

#include "base/arena.h"

#define REGEX_PATTERN_BYTES_MAX 1024
#define REGEX_SIZE_MAX 1000   /* instructions, after {m,n} are written out */
#define REGEX_WEIGHT_MAX 4000 /* of instructions: 1, of a set its ranges */
#define REGEX_GROUPS_MAX 32   /* within one another */

typedef struct Regex Regex;

/* Lives in arena. Returns 0, -EINVAL with diag (what is wrong, and at which byte), -ENOMEM. */
MUST_CHECK int regex_compile(Arena *arena, Str pattern, Regex **ret);

/* Whether text, valid UTF-8, contains a match. */
bool regex_matches(Regex *regex, Str text);

#endif
