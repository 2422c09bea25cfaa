/* Metrics: collects what the parts of this process count, and writes it for Prometheus.
 *
 * Names and labels are those of docs: prefix gantry_, base units, labels agent, version (12 hex),
 * lane, model, provider, outcome, worker; never a task or a user. Parts are added as they start and
 * removed before they end; all functions but metrics_write_wait may be called on any thread.
 */
#ifndef GANTRY_OBSERVE_METRICS_H
#define GANTRY_OBSERVE_METRICS_H

#include "codec/openmetrics.h"
#include "gateway/rate_board.h"
#include "net/http_server.h"
#include "observe/webhook.h"
#include "queue/queue.h"
#include "sys/loop.h"
#include "worker/front.h"
#include "worker/worker.h"

typedef struct Metrics Metrics;

#define METRICS_SOURCES_MAX 256 /* of each kind; more are not counted */

/* Borrows queue. */
Metrics *metrics_new(Queue *queue);
/* NULL is accepted. */
void metrics_free(Metrics *metrics);
DEFINE_FREEP(Metrics, metrics_free)

/* The part is read until metrics_remove, which must come before its memory goes. */
void metrics_add_loop(Metrics *metrics, const Loop *loop);
void metrics_add_server(Metrics *metrics, const HttpServer *server);
void metrics_add_gateway(Metrics *metrics, const Gateway *gateway);
void metrics_add_board(Metrics *metrics, RateBoard *board); /* at most one */
void metrics_add_webhooks(Metrics *metrics, const Webhooks *webhooks);
void metrics_add_front(Metrics *metrics, const Front *front);        /* at most one */
void metrics_add_worker(Metrics *metrics, const WorkerHost *worker); /* at most one */
void metrics_remove(Metrics *metrics, const void *part);

/* On a fiber. Appends all families. Figures that come from the store (versions, workers) are at
 * most METRICS_STALE_MS old; when the store cannot be read they are left out. Returns 0, -ENOMEM
 * (out is full), -ECANCELED. */
#define METRICS_STALE_MS 5000
MUST_CHECK int metrics_write_wait(Metrics *metrics, OmFormat format, Buf *out);

#endif
