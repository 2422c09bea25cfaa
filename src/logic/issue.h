/* Issue: one finding about a file that a person wrote (agent.yaml, tools.json).
 *
 * A checker reports everything it finds, not only the first thing. Issues live in an array of the
 * caller's, their texts in the arena that was given to the checker. Pure; any thread.
 */
#ifndef GANTRY_LOGIC_ISSUE_H
#define GANTRY_LOGIC_ISSUE_H

#include "base/arena.h"
#include "codec/json.h"

typedef struct {
    size_t line, column; /* from 1, column in characters; 0 when the place is not known */
    bool warning;        /* worth saying, but the file is valid */
    Str path;            /* "spec.limits.usdPerTask", "[2].inputSchema.type"; empty: the file */
    Str message;         /* one sentence without the place or a full stop; NUL-terminated */
} Issue;

/* Where a checker stands in a document: a list on the stack, innermost first. */
typedef struct IssuePath IssuePath;
struct IssuePath {
    const IssuePath *up; /* NULL at the outermost step */
    Str key;             /* a member; .ptr NULL: an element */
    size_t index;
};

#define ISSUE_KEY(up_, key_) ((IssuePath){ .up = (up_), .key = (key_) })
#define ISSUE_INDEX(up_, i_) ((IssuePath){ .up = (up_), .index = (i_) })

/* Finds the line and column of what an RFC 6901 pointer names, or of its nearest parent. */
typedef void (*IssuePlaceFn)(const void *arg, Str json_pointer, size_t *ret_line,
                             size_t *ret_column);

/* Appends "spec.steps[2].weight"; nothing for NULL. */
void issue_path_text(const IssuePath *path, Buf *out);

/* Where issues are collected. Beyond max they are only counted. */
typedef struct {
    Arena *arena;
    Issue *items;
    size_t max;
    size_t n;           /* items filled */
    size_t dropped;     /* did not fit */
    size_t errors;      /* of all found, those that are not warnings */
    bool failed;        /* the arena was full: a text is missing */
    IssuePlaceFn place; /* NULL: places are not known */
    const void *place_arg;
} IssueList;

/* An empty list that fills items[max]; everything is borrowed. place may be NULL. */
void issue_list_init(IssueList *list, Arena *arena, Issue *items, size_t max, IssuePlaceFn place,
                     const void *place_arg);

/* Adds an error or a warning about what stands at path (NULL: the file). Control characters in the
 * texts become `?`, so that a file cannot steer the terminal it is reported on. */
void issue_error(IssueList *list, const IssuePath *path, const char *fmt, ...) PRINTF_LIKE(3, 4);
void issue_warn(IssueList *list, const IssuePath *path, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Puts the issues in the order of their places; those of one place stay in theirs. */
void issue_sort(IssueList *list);

/* Appends "agent.yaml:12:5: spec.model: message"; with "warning: " before the message of one. */
void issue_text(const Issue *issue, Str file, Buf *out);

/* The nearest of n names to name, for "did you mean": at most a third of its letters (and one at
 * least) changed, added, lost or swapped with their neighbour; case does not count. Else the empty
 * Str. Names over 64 bytes are never near. */
Str issue_nearest(Str name, const Str *names, size_t n);

/* An IssuePlaceFn for JSON text that json_parse has accepted; arg is a `const Str *` to it. O(n).
 */
void issue_place_in_json(const void *arg, Str json_pointer, size_t *ret_line, size_t *ret_column);

#endif
