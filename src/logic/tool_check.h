/* Tool check: the tools a model request declares, against those its version declares.
 *
 * What a version may do is part of what it is: so an agent that was talked into offering the model
 * another tool, or a server that changed a tool's description after it was reviewed, must not get
 * through. Name and description are compared byte by byte, the input schema in canonical form (RFC
 * 8785), so only order of members and white space do not matter. A request that offers fewer tools
 * than the version declares is fine.
 *
 * Tools that the provider runs itself (web search, code interpreters, MCP servers of its own) are
 * in no tools.json: they pass only when the operator lists their kind.
 *
 * Pure; any thread. Everything lives in the arena or in the documents.
 */
#ifndef GANTRY_LOGIC_TOOL_CHECK_H
#define GANTRY_LOGIC_TOOL_CHECK_H

#include "logic/protocol.h"
#include "logic/tools.h"

typedef enum {
    TOOL_FIT,                 /* as declared, or a listed tool of the provider */
    TOOL_UNDECLARED,          /* no tool of that name */
    TOOL_DESCRIPTION_DIFFERS, /* from the version's */
    TOOL_SCHEMA_DIFFERS,
    TOOL_MEMBER_UNKNOWN,    /* says more than name, description and schema to the model */
    TOOL_KIND_DIFFERS,      /* of that name, but no function with a JSON schema */
    TOOL_PROVIDER_UNLISTED, /* run by the provider, not listed */
    TOOL_HIDDEN,            /* tools that the request brings in where they cannot be compared */
    TOOL_SWITCHED_OFF,      /* by a flag */
    TOOL_FAULT_N_
} ToolFault;
const char *tool_fault_name(ToolFault fault); /* "undeclared", "description", ... */

/* What is compared with. */
typedef struct {
    const ToolSet *declared;   /* NULL: nothing is declared, only flags and kinds apply */
    const Str *provider_tools; /* kinds allowed, as globs: "web_search" */
    size_t provider_tools_n;
    /* Whether flags leave the tool on; NULL: all are on. */
    bool (*is_on)(void *ctx, Str name);
    void *ctx;
} ToolPolicy;

typedef struct {
    Str name;          /* or the kind, or the member, that is to be named */
    ToolFault fault;   /* TOOL_FIT: none */
    size_t differs_at; /* of description and schema (in canonical form): the first byte */
    const char *list;  /* the member of the body it stands in: "tools", "functions", ... */
    const Json *item;  /* in that list; NULL: the member itself */
} ToolFinding;

/* Everything the request declares, in its order. */
typedef struct {
    const ToolFinding *items;
    size_t n;
    size_t faults_n;
} ToolReport;

/* Compares. body has been read (logic/request_info.h). Returns 0 or -ENOMEM (the arena is full). */
MUST_CHECK int tool_check(Arena *arena, Api api, const Json *body, const ToolPolicy *policy,
                          ToolReport *ret);

/* The first fault in words, for the agent's developer; the report must have one. */
#define TOOL_FAULT_TEXT_MAX 400
void tool_fault_text(const ToolFinding *finding, char out[TOOL_FAULT_TEXT_MAX]);
const ToolFinding *tool_report_first(const ToolReport *report); /* NULL: no fault */

/* One change of the body's members that takes the faulty tools out. */
typedef struct {
    const char *member;
    Str value; /* JSON; empty: the member is to be dropped */
} ToolEdit;
#define TOOL_EDITS_MAX 8

/* The changes that leave the model without the faulty tools: the lists without them, and the choice
 * of a tool that is not there any more made free. Returns 0, -ENOMEM, or -ENOTSUP: what is hidden
 * cannot be taken out, refuse the request. */
MUST_CHECK int tool_edits(Arena *arena, Api api, const Json *body, const ToolReport *report,
                          ToolEdit edits[TOOL_EDITS_MAX], size_t *ret_n);

/* One tool as an MCP server describes it (name already matched), against the version's. Returns
 * TOOL_FIT, TOOL_DESCRIPTION_DIFFERS, TOOL_SCHEMA_DIFFERS in *ret; 0 or -ENOMEM. */
MUST_CHECK int tool_compare(Arena *arena, const Tool *declared, Str description, const Json *schema,
                            ToolFault *ret, size_t *ret_differs_at);

#endif
