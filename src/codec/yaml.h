/* YAML 1.2 as the same tree as JSON, by libfyaml.
 *
 * The JSON subset of YAML: mappings with scalar keys, sequences, scalars. Plain scalars follow the
 * JSON schema strictly: what is a number in JSON is a number; true, false, null, ~ and nothing at
 * all are what they say (also True, TRUE, Null, NULL: the core schema); everything else (no, yes,
 * on, 010, 0x1f, .5, dates) is a string, quoted scalars always. Aliases are expanded. Refused:
 * duplicate keys, merge keys (<<), tags other than !!str, directives (lines that begin with %),
 * tabs as indentation, a second document, depth over JSON_DEPTH_DEFAULT, more than YAML_NODES_MAX
 * nodes after expansion.
 *
 * libfyaml allocates by itself, in proportion to the text, and frees everything before return.
 */
#ifndef GANTRY_CODEC_YAML_H
#define GANTRY_CODEC_YAML_H

#include "codec/json.h"

#define YAML_BYTES_MAX ((size_t)256 << 10)     /* of text */
#define YAML_NODES_MAX ((size_t)100000)        /* scalars, keys, containers; aliases expanded */
#define YAML_JSON_BYTES_MAX ((size_t)16 << 20) /* of the expanded tree as JSON text */

/* Where the members of a document stand. Opaque; lives in the arena of its document. */
typedef struct YamlMarks YamlMarks;

/* Parses text, exactly one document (an empty one is null). ret_marks may be NULL. Any thread; pure
 * CPU. Returns 0, -EINVAL (diag: "line L column C: message"), -EFBIG (text or expansion over the
 * limits above), -ENOMEM (arena full). */
MUST_CHECK int yaml_parse(Arena *arena, Str text, const Json **ret, YamlMarks **ret_marks);

/* Position, from 1, column in characters, of the member (its key) or element that json_pointer
 * (RFC 6901, such as "/spec/limits/usdPerTask") names; of its nearest parent that exists when it
 * does not, with result false; the root for "". Inside an expanded alias: the alias itself. */
bool yaml_mark(const YamlMarks *marks, Str json_pointer, size_t *ret_line, size_t *ret_column);

#endif
