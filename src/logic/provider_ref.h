/* What a request names of what its provider has stored: earlier responses, conversations, items,
 * files, containers. All who share the provider's key share that too, so a request may only name
 * what its own side was given; and what an answer gives.
 *
 * Pure; any thread. Texts borrow from the document.
 */
#ifndef GANTRY_LOGIC_PROVIDER_REF_H
#define GANTRY_LOGIC_PROVIDER_REF_H

#include "codec/json.h"
#include "logic/protocol.h"

#define PROVIDER_REF_BYTES_MAX 256 /* longer ids are none */

/* member: where it stands, in the words of an error. */
extern const char provider_ref_response[]; /* the member for earlier responses */
typedef void (*ProviderRefFn)(void *ctx, const char *member, Str id);

/* Calls fn for all that the request's body names. What cannot be told from a name is one: a refusal
 * that is wrong shows, a leak does not. Stored prompts are the operator's own and are no names
 * here. */
void provider_refs_named(Api api, const Json *body, ProviderRefFn fn, void *ctx);

/* Calls fn for all that an answer gives, or an event of a streamed one: what the provider itself
 * has made, and nothing that it only repeats of a request (metadata, tools, arguments). */
void provider_refs_given(Api api, const Json *doc, ProviderRefFn fn, void *ctx);

#endif
