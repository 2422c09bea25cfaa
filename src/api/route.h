/* Routes: what the API offers, as data. Dispatch, parameter checks and /openapi.json read it. */
#ifndef GANTRY_API_ROUTE_H
#define GANTRY_API_ROUTE_H

#include "api/call.h"

/* A parameter of the query. */
typedef struct {
    const char *name;
    const char *type; /* JSON Schema type */
    const char *description;
} Param;

#define ROUTE_PARAMS_MAX 12

/* JSON Schema types, as bits. Null stands for absent wherever a member is not required. */
typedef enum {
    MEMBER_STRING = 1,
    MEMBER_INTEGER = 2,
    MEMBER_NUMBER = 4,
    MEMBER_BOOLEAN = 8,
    MEMBER_OBJECT = 16,
    MEMBER_ARRAY = 32,
    MEMBER_ANY = 64,
} MemberType;

/* A member of a JSON body: checked as declared here, and described by it. */
typedef struct {
    const char *name;
    MemberType type;
    bool required;
    const char *description;
    const char *words; /* the values a string may have, separated by '|'; NULL: any */
} Member;

/* A JSON object that a route takes. */
typedef struct {
    const char *name; /* of the schema */
    const Member *members;
    size_t n;
    bool required;   /* a body must be there; else an empty one counts as {} */
    bool whole_else; /* a body without the first member is that member's value itself */
    bool large;      /* may be as large as an upload */
} BodySpec;

struct Route {
    const char *method; /* GET serves HEAD too */
    const char *pattern;
    int (*run_wait)(ApiCall *call); /* answers */
    const char *id;                 /* operationId */
    const char *tag;
    const char *summary;
    const Param *params; /* ends with a NULL name; NULL: none */
    const BodySpec *body;
    const char *json;        /* instead of body: schema of JSON that is passed on as it is */
    const char *error;       /* schema of errors; NULL: problems */
    const char *upload;      /* instead of body: media types of an archive, separated by ", " */
    int status;              /* of success */
    int status_also;         /* of another success, 0: none */
    const char *answer;      /* schema of a JSON answer, NULL: none */
    const char *answer_type; /* media type of another answer */
    bool open;               /* needs no key, and no particular Host */
    bool any_params;         /* the query is the handler's business */
};

extern const Route api_routes[];
extern const size_t api_routes_n;

/* An object that answers are made of; with any members when fields is empty. fields: "name:type"
 * with blanks between. A name with `?` may be missing, a type with `?` may be null. Types: string,
 * integer, number, boolean, any, object, time (RFC 3339), uuid, usd (decimal text), hex; the name
 * of another schema; a type in brackets is an array of it. */
typedef struct {
    const char *name;
    const char *fields;
} Schema;
extern const Schema api_schemas[];
extern const size_t api_schemas_n;

/* Appends the OpenAPI 3.1.0 document. public_url may be empty. Returns 0 or -ENOMEM. */
MUST_CHECK int openapi_write(Str public_url, Buf *out);

#endif
