/* Version: what an agent is made of, and the id of exactly that.
 *
 * The components are one JSON object in canonical form (RFC 8785):
 *   {"agent", "code": {"digest", "runtime", "command" | "url"}, "fallbacks", "limits", "memory",
 *    "model", "prompt": {"path", "text"}, "retry", "sampling", "schema": 1,
 *    "tools": {"path", "definitions"}}
 * and the id is the SHA-256 of that text, all 64 hex digits. Twelve are shown, a unique prefix of 8
 * or more is accepted.
 *
 * Decisions:
 *   - The git commit is recorded beside the version, not hashed: a commit elsewhere in the
 * repository must not change an agent's identity.
 *   - The rollout block is not hashed: it says how to ship, not how the agent behaves. Neither is
 *     metadata.description.
 *   - agent.yaml, the prompt file and the tools file are left out of the code artifact, so a
 * changed prompt shows as a change of the prompt and nothing else.
 *   - Defaults are written out before hashing, so writing one into agent.yaml changes nothing.
 * Sampling is the exception: an absent parameter means the provider's default, which nobody can
 * write out.
 *   - Numbers are hashed in canonical form: 0.20 equals 0.2, 1.0 equals 1. Money is text without
 *     needless zeros, durations are milliseconds.
 *   - The order of tools, fallbacks, command words and stop strings counts (a model sees it, or it
 *     acts on it); the order of members never does.
 *   - Every member takes part at every depth. (The classic mistake is JSON.stringify(o,
 *     Object.keys(o).sort()): the key list filters nested objects too, so two temperatures share an
 *     id.)
 *
 * Pure; any thread.
 */
#ifndef GANTRY_LOGIC_VERSION_H
#define GANTRY_LOGIC_VERSION_H

#include "logic/manifest.h"
#include "logic/tools.h"

#define VERSION_SCHEMA 1
#define VERSION_ID_BYTES 64
#define VERSION_ID_SHOWN 12
#define VERSION_PREFIX_MIN 8
#define VERSION_COMPONENTS_BYTES_MAX (8 << 20)

/* Appends the components. prompt_text is the prompt file's content (empty without one) and must be
 * UTF-8; tools may be NULL; code_digest is "sha256:…" of the artifact, or empty when nothing is
 * packed. scratch is used for the text before it is canonical (about 20 times the result). Returns
 * 0, -EINVAL with diag (prompt or digest is not what it should be, a number in tools has no
 * canonical form), -ENOMEM. */
MUST_CHECK int version_components(Arena *scratch, const AgentSpec *spec, Str prompt_text,
                                  const ToolSet *tools, Str code_digest, Buf *out);

/* The id of components in canonical form: lower-case hex and a NUL. */
void version_id(Str components, char out[VERSION_ID_BYTES + 1]);

/* 64 lower-case hex digits; or for a prefix, 8 to 64 of them. */
bool version_id_ok(Str id);
bool version_prefix_ok(Str prefix);

/* The parts a diff speaks of, in the order it lists them. */
typedef enum {
    VERSION_CODE,
    VERSION_PROMPT,
    VERSION_TOOLS,
    VERSION_MODEL,
    VERSION_FALLBACKS,
    VERSION_SAMPLING,
    VERSION_MEMORY,
    VERSION_LIMITS,
    VERSION_RETRY,
    VERSION_AGENT,
    VERSION_SCHEMA_NO,
    VERSION_PART_N_
} VersionPart;

const char *version_part_name(VersionPart part); /* "code", "prompt", … as in the components */

typedef struct {
    VersionPart part;
    Str old_text; /* canonical JSON; empty: the part was absent */
    Str new_text;
    Str text_diff; /* unified diff for prompt (its text) and tools (one member a line); else empty
                    */
} VersionChange;

typedef struct {
    VersionChange changes[VERSION_PART_N_];
    size_t n; /* 0: the same version */
} VersionDiff;

/* What changed from one version's components to another's (both parsed). Texts live in the arena.
 * Returns 0, -EINVAL (not components), -ENOMEM. */
MUST_CHECK int version_diff(Arena *arena, const Json *old_components, const Json *new_components,
                            VersionDiff *ret);

/* v with one member or element a line, two spaces a level, members in canonical order: text made to
 * be compared by lines. Ends with a newline. Returns 0, -EINVAL, -ENOMEM. */
MUST_CHECK int version_pretty(const Json *v, Buf *out);

#endif
