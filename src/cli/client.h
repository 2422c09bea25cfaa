/* Client: a command as a client of the server's API. The body of a command runs on a fiber. */
#ifndef GANTRY_CLI_CLIENT_H
#define GANTRY_CLI_CLIENT_H

#include "base/arena.h"
#include "cli/command.h"
#include "codec/json.h"
#include "net/http_client.h"

#define CLIENT_ANSWER_BYTES_MAX ((size_t)64 << 20)

typedef struct {
    const Invocation *in;
    HttpClient *http;
    Arena arena;     /* everything of this command */
    int64_t away_ms; /* a server that is not there is asked again for so long, then given up; 0: at
                      * once. Only for requests that may be made twice */
    bool quiet;      /* that the server cannot be reached is not said */
} Client;

typedef struct {
    int status;
    Str body;
    const Json *json; /* NULL when the body is not JSON */
} ClientAnswer;

/* Runs body on a fiber of a loop of its own; returns the exit status. On a plain thread. */
int client_main(const Invocation *in, int (*body)(Client *client));

/* One request. content_type NULL: application/json. Returns EXIT_OK with *ret for a 2xx answer,
 * else the exit status that fits, after saying on stderr what was wrong. */
MUST_CHECK int client_call_wait(Client *client, const char *method, Str path, Str body,
                                const char *content_type, ClientAnswer *ret);

/* As client_call_wait with extra fields. */
typedef struct {
    const char *method;
    Str path, body;
    const char *content_type;
    HttpClientField extra[4];
    size_t extra_n;
    int64_t timeout_ms; /* 0: none */
} ClientRequest;
MUST_CHECK int client_request_wait(Client *client, const ClientRequest *request, ClientAnswer *ret);

/* Opens a stream of events, those after the one of that id (empty: all); the caller frees it. *ret
 * is NULL when there are none left. Returns as client_call_wait. */
MUST_CHECK int client_events_wait(Client *client, Str path, Str after_id, HttpCall **ret);

/* Text in the client's arena; ends the process when it is full. */
Str client_printf(Client *client, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Member `by`: who asks, for the record: --by, or the user who is logged in. */
void client_put_actor(Client *client, JsonOut *out);

/* The text percent-encoded for a path segment or query value. */
Str client_encoded(Client *client, const char *text);

/* Prints body as it is, with a final newline: what -o json shows. */
void client_print_json(const ClientAnswer *answer);

/* Findings about an agent's files, one a line on stderr, each after the text before. */
void client_say_issues(const char *before, const Json *issues);

/* With -o jsonl: the elements of the answer's array member, one a line. */
void client_print_jsonl(const ClientAnswer *answer, const char *member);

#endif
