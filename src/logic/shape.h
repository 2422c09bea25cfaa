/* Shape: tables that say what an object may hold, and one function that checks a document by them
 * and copies what it says into a struct.
 *
 * For manifest.c, tools.c and whoever reads files that people write. A member that is absent leaves
 * the struct as it is: defaults are what stands there before. Pure; any thread.
 */
#ifndef GANTRY_LOGIC_SHAPE_H
#define GANTRY_LOGIC_SHAPE_H

#include "logic/issue.h"

typedef enum {
    SHAPE_STR,      /* Str; least..most bytes, no NUL */
    SHAPE_STRS,     /* ShapeStrs; array of least..most strings, each not empty and without NUL */
    SHAPE_INT,      /* int64_t; least..most */
    SHAPE_NUMBER,   /* double; within least..most thousandths */
    SHAPE_MONEY,    /* int64_t nano-USD from text or a number; least..most */
    SHAPE_DURATION, /* int64_t milliseconds from text; least..most */
    SHAPE_WORD,     /* int: index in words */
    SHAPE_OBJECT,   /* by members, into the same struct (offsets count from its start) */
    SHAPE_OBJECTS,  /* array of least..most objects by members; nothing is copied */
    SHAPE_MAP,      /* object with any keys, each value by members[0]; nothing is copied */
    SHAPE_JSON,     /* const Json *, as it is */
} ShapeKind;

/* Strings in a struct. */
typedef struct {
    const Str *items;
    size_t n;
} ShapeStrs;

#define SHAPE_NOWHERE SIZE_MAX

typedef struct ShapeMember ShapeMember;
struct ShapeMember {
    const char *name;
    ShapeKind kind;
    bool required;
    size_t offset; /* where it goes in the struct, or SHAPE_NOWHERE */
    int64_t least, most;
    const char *const *words; /* SHAPE_WORD, ended by NULL */
    const ShapeMember *members;
    size_t members_n;
    /* A further rule for a value of the right kind, or NULL: reports what it finds. */
    void (*rule)(IssueList *issues, const IssuePath *path, const Json *v);
};

/* Checks v, which should be an object, by members: unknown and missing ones, kinds, ranges, rules.
 * What is right is copied into *ret. Finds everything; issues tells what. */
void shape_read(IssueList *issues, const IssuePath *path, const Json *v, const ShapeMember *members,
                size_t members_n, void *ret);

/* For rules: reports a value of the wrong kind, "expected X, found Y". */
void shape_expected(IssueList *issues, const IssuePath *path, const Json *v, const char *expected);

#endif
