/* Servers: agents of `runtime: server` that a worker starts itself, one process a version, and
 * keeps warm between their tasks.
 *
 * A server is started when the first task wants it, is asked GET /ping until it is healthy and then
 * every few seconds, is started again with back-off when it fails, and ends when nobody has wanted
 * it for long or the worker ends (logic/warm.h). What it writes goes to a file (log_file.h); while
 * it has one task only, to the log of that, too. Private to worker/; belongs to the worker's loop.
 */
#ifndef GANTRY_WORKER_SERVERS_H
#define GANTRY_WORKER_SERVERS_H

#include "worker/log_file.h"
#include "worker/run.h"
#include "worker/worker.h"

#define SERVERS_MAX 64 /* of a worker; a further one takes the place of one that nobody wants */
#define SERVER_LOGS_KEPT ((size_t)SERVERS_MAX * LOG_FILES_MAX) /* files; the oldest go */

typedef struct Servers Servers;
typedef struct Server Server;

/* host is borrowed. */
Servers *servers_new(RunHost *host, const ServersOptions *options);

/* A run in a server. Memory of the caller's, where it stays until server_unref. */
typedef struct ServerUse {
    ListNode node;
    Server *server;
    Run *run;
    bool alone; /* no other was in the server in its time */
    int64_t
        cpu_ms; /* its share of what the server has used in its time, with others in equal parts */
} ServerUse;

/* What went wrong with a server. */
typedef struct {
    Str why; /* with its last words; "": it lives on. Lives until the next wait */
    Resource
        over; /* the limit of its version that was reached, as far as this run had to do with it */
    bool crowd; /* others had, too */
} ServerFault;

/* The server of the run's version, healthy, started if need be. On a fiber. Returns 0 (give it back
 * with server_unref), SERVER_E_DOWN (it could not be started, or there are too many: another
 * attempt may find it well unless ret_fault names a limit; with diag), -ECANCELED. */
#define SERVER_E_DOWN 1
MUST_CHECK int server_ref_wait(Servers *all, Run *run, ServerUse *ret, ServerFault *ret_fault);
void server_unref(ServerUse *use);

/* http://127.0.0.1:PORT */
Str server_url(const Server *server);

/* What can be seen of whether a server does anything, for whichever of its runs. */
typedef struct {
    int64_t wrote; /* bytes so far */
    bool busy;     /* it says so: HealthyBusy */
    int pid;       /* 0: it has none now */
} ServerSigns;
ServerSigns server_signs(const Server *server);

/* After a run's request to it broke off: why it has ended. Waits a moment for that. A server that
 * lives on is asked what it wrote last: it may have been refused files. */
ServerFault server_fault_wait(ServerUse *use);

/* A limit that made a server fail which lives on: told by what it wrote since the run came, which
 * must have it for itself, or by text of its answer. */
Resource server_blame(const ServerUse *use, Str text);

/* Ends all servers and frees; nothing may be in use. NULL is accepted. Waits even for a cancelled
 * caller. */
void servers_close_wait(Servers *all);

#endif
