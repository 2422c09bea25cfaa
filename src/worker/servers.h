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

#include "worker/run.h"
#include "worker/worker.h"

#define SERVERS_MAX 64 /* of a worker; a further one takes the place of one that nobody wants */

typedef struct Servers Servers;
typedef struct Server Server;

/* host is borrowed. */
Servers *servers_new(RunHost *host, const ServersOptions *options);

/* The server of the run's version, healthy, started if need be. On a fiber. Returns 0 (give it back
 * with server_unref), SERVER_E_DOWN (it could not be started, or there are too many: another
 * attempt may find it well; with diag), -ECANCELED. */
#define SERVER_E_DOWN 1
MUST_CHECK int server_ref_wait(Servers *all, Run *run, Server **ret);
void server_unref(Server *server, Run *run);

/* http://127.0.0.1:PORT */
Str server_url(const Server *server);

/* After a task's request to it broke off: why it has ended, with its last words, or "" when it
 * lives on. Waits a moment for that; the text lives until the next wait. */
Str server_reason_wait(Server *server);

/* Ends all servers and frees; nothing may be in use. NULL is accepted. Waits even for a cancelled
 * caller. */
void servers_close_wait(Servers *all);

#endif
