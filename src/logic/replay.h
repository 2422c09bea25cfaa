/* Replay: what a model or tool call is recorded under, which recording a later attempt of the task
 * is served, and where a call went another way than the one that was recorded.
 *
 * A call is known by its key: the digest of its route and its canonical body. Recordings of equal
 * keys are served in the order they were made, each once an attempt; so calls that ran beside each
 * other may come in another order, and a call that was never answered stands in nobody's way.
 *
 * Pure; any thread. Memory is the caller's.
 */
#ifndef GANTRY_LOGIC_REPLAY_H
#define GANTRY_LOGIC_REPLAY_H

#include "codec/digest.h"
#include "codec/json.h"

typedef enum { REPLAY_MODEL, REPLAY_TOOL, REPLAY_KIND_N_ } ReplayKind;
const char *replay_kind_name(ReplayKind kind);              /* "model", "tool" */
MUST_CHECK int replay_kind_from(Str name, ReplayKind *ret); /* 0 or -EINVAL */

/* --- keys ------------------------------------------------------------------------------------- */

/* Parts of a body that do not make another call of it: JSON pointers (RFC 6901), such as
 * "/messages/0/content" for a prompt that tells the time. */
#define REPLAY_MASK_MAX 16
typedef struct {
    const Str *pointers;
    size_t n; /* more than REPLAY_MASK_MAX are not looked at */
} ReplayMask;

/* Where the digest of a form stood after every so many bytes: the next request of a conversation
 * begins like the one before, and is digested from where they part. Zero: none. Holds allocations
 * until replay_marks_deinit. */
#define REPLAY_MARK_BYTES 8192
#define REPLAY_MARKS_MAX 64
typedef struct {
    Sha256 at[REPLAY_MARKS_MAX];
    size_t n;
} ReplayMarks;
void replay_marks_deinit(ReplayMarks *marks); /* leaves none */

/* A request that was digested before: its route, its form and the marks of that. */
typedef struct {
    Str route, form;
    const ReplayMarks *marks;
} ReplayKnown;

/* The key of a model call: route (the API's name) and body, as the agent sent it, without the
 * members user, metadata, stream_options, prompt_cache_key and safety_identifier and without what
 * mask (may be NULL) names. canonical, empty, becomes the form that was digested (RFC 8785). A body
 * that has none (integers beyond 2^53), or whose form does not fit, is digested as it is: canonical
 * is empty then. raw: the text of body. known (may be NULL) saves work and changes nothing; marks,
 * without any before, become those of canonical. */
void replay_model_key(Str route, const Json *body, Str raw, const ReplayMask *mask,
                      const ReplayKnown *known, Buf *canonical, ReplayMarks *marks,
                      uint8_t ret[SHA256_BYTES]);

/* The key of a tool call, of its name and arguments, likewise. */
void replay_tool_key(Str tool, const Json *args, Str raw, Buf *canonical,
                     uint8_t ret[SHA256_BYTES]);

/* --- an attempt ------------------------------------------------------------------------------- */

/* One recording, as far as matching goes. */
typedef struct {
    int64_t n; /* its number in the task */
    uint8_t key[SHA256_BYTES];
    ReplayKind kind;
    bool complete; /* others are never served */
    bool passed;   /* by this attempt: served, or met and not served */
} ReplayEntry;

/* The recordings of earlier attempts, in order, and which of them this one has come by. */
typedef struct {
    ReplayEntry *entries; /* the caller's */
    size_t n;
    int64_t hits, misses; /* calls that were served; that were not though recordings were left */
} Replay;

enum {
    REPLAY_E_END = 1, /* all recordings of the kind were passed: the attempt goes on from there */
    REPLAY_E_INCOMPLETE, /* this call was recorded, but its answer not to the end */
    REPLAY_E_DIFFERS,    /* recordings are left, none of them of this call */
};

/* The next call of the attempt. Returns 0 (serve *ret, it is passed now), or why it has to be made;
 * with REPLAY_E_DIFFERS *ret is the recording that was expected next, not passed, else NULL. */
MUST_CHECK int replay_next(Replay *replay, ReplayKind kind, const uint8_t key[SHA256_BYTES],
                           const ReplayEntry **ret);

/* --- differences ------------------------------------------------------------------------------ */

#define REPLAY_EXCERPT_MAX 65

typedef struct {
    size_t offset; /* of the first byte that differs, in the canonical forms */
    char expected[REPLAY_EXCERPT_MAX], came[REPLAY_EXCERPT_MAX]; /* around it; valid UTF-8 */
} ReplayDiff;

/* The texts differ, perhaps only in length. */
ReplayDiff replay_diff(Str expected, Str came);

/* --- what requests have in common ------------------------------------------------------------- */

/* Each request of an agent mostly repeats the one before with something put in: kept is what was
 * put in. Bytes shared at the front and at the end. */
typedef struct {
    size_t prefix, suffix;
} ReplayShare;

/* What text shares with base; prefix + suffix is at most the length of either. */
ReplayShare replay_share(Str base, Str text);

/* The bytes of text that are not shared. */
Str replay_rest(Str text, ReplayShare share);

/* Appends the text again. Returns 0, -EINVAL (base is too short for share), -ENOMEM (out full). */
MUST_CHECK int replay_join(Str base, ReplayShare share, Str rest, Buf *out);

#endif
