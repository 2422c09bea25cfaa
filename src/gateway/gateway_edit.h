/* Edits: the few changes made to a request's body before it goes upstream. Every byte that is not
 * part of a changed member stays as the client sent it. Pure. */
#ifndef GANTRY_GATEWAY_GATEWAY_EDIT_H
#define GANTRY_GATEWAY_GATEWAY_EDIT_H

#include "base/buf.h"
#include "logic/request_info.h"

typedef struct {
    Str model;              /* to be asked for; empty: the client's */
    int64_t out_cap;        /* to be set; 0: leave the client's */
    const char *cap_member; /* where this server looks for it (API_CHAT); NULL: the usual one */
    bool no_tools;          /* forbid tool calls */
    bool usual_service;     /* ask for the usual service tier (OpenAI) */
    bool include_usage;     /* chat streams: ask for usage */
} Edits;

/* body has been read into info. Returns 0 with the text to send in *ret, which is body itself when
 * nothing changes and else lives in scratch; or -ENOMEM (scratch's maximum: body and 2 KiB do). */
MUST_CHECK int body_edit(Str body, const RequestInfo *info, const Edits *edits, Buf *scratch,
                         Str *ret);

/* Whether the usual service must be asked for in words when the request names none: OpenAI's
 * projects may be set to a dearer one, whatever is known of its rates. Servers that only speak its
 * API may not know the member: it goes to them where they have such rates. Anthropic's dearer
 * service has to be asked for. */
bool edit_pins_service(const RequestInfo *info, Str base_url, bool has_priority_rates);

#endif
