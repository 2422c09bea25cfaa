/* ApiServer: the control plane's HTTP interface. Routes and their JSON; the services do the work.
 *
 * One ApiServer serves any number of HTTP servers on any number of loops: it is read-only but for a
 * few atomic counters. Routes stand in one table (api/routes.c) that dispatch, 404 against 405,
 * HEAD, OPTIONS and /openapi.json are all made from.
 */
#ifndef GANTRY_API_API_H
#define GANTRY_API_API_H

#include "codec/digest.h"
#include "gateway/gateway.h"
#include "gateway/rate_board.h"
#include "net/http_server.h"
#include "observe/metrics.h"
#include "observe/webhook_secret.h"
#include "queue/queue.h"
#include "worker/front.h"

typedef struct ApiServer ApiServer;

#define API_BODY_BYTES_MAX_DEFAULT ((size_t)1 << 20)
#define API_UPLOAD_BYTES_MAX_DEFAULT ((size_t)32 << 20)
#define API_WAIT_MS_MAX 60000

/* What main gives to api_new. Everything but the texts is borrowed and must outlive the ApiServer.
 */
typedef struct {
    Queue *queue;                 /* required; artifacts lie below the path of its store */
    Metrics *metrics;             /* required */
    const GatewayConfig *gateway; /* models and prices, to warn at upload; NULL: no such warnings */
    const GatewayConfig
        *preflight; /* what a rollout's version needs is looked up in it; one without
                                     * routes, or NULL: workers alone know the models */
    const AddrGuard *webhook_guard; /* to refuse a hopeless webhookUrl at once; NULL: not checked */

    WebhookSecrets *webhook_secrets; /* to rotate them; NULL: they cannot be */

    /* SHA-256 of each accepted API key. None: allowed in dev mode only. */
    const uint8_t (*keys)[SHA256_BYTES];
    size_t keys_n;

    bool dev;       /* without keys: loopback names only, no foreign Origin */
    Str public_url; /* "https://gantry.example.com", for documents; its host is also accepted in
                     * dev mode; empty: unknown */

    Front *front; /* takes model calls; NULL: there are none at this port */

    RateBoard *board; /* rate limits and breakers; NULL: none are known, nothing is shared */

    int64_t lease_ms; /* of remote workers, as the queue was told; 0: 10,000 */

    size_t body_bytes_max;     /* of a JSON body, 413 beyond; 0: 1 MiB */
    size_t upload_bytes_max;   /* of an uploaded archive, 413 beyond; 0: 32 MiB */
    size_t unpacked_bytes_max; /* of what an archive unpacks to, 422 beyond; 0: 128 MiB */
    size_t uploads_max;        /* archives worked on at a time, 503 beyond; 0: 2 */
} ApiOptions;

/* options is copied. Returns 0, -EINVAL with diag (no keys outside dev mode, a malformed
 * public_url), -ENOMEM. */
MUST_CHECK int api_new(const ApiOptions *options, ApiServer **ret);

/* No request may be running. NULL is accepted. */
void api_free(ApiServer *api);
DEFINE_FREEP(ApiServer, api_free)

/* The HttpHandler for http_server_open; ctx is the ApiServer. */
int api_handler(HttpReq *req, void *ctx);

/* The least HttpServerOptions.body_bytes_max that lets every route take its largest body. */
size_t api_body_bytes_max(const ApiServer *api);

/* Any thread. While draining /readyz answers 503 and waits (long polls, event streams, claims) end
 * within a second; everything else goes on, a submitted task is still durable. */
void api_set_draining(ApiServer *api, bool draining);

/* Any thread. The process drains but serves until its own tasks have ended: /readyz answers 503,
 * and who waits for a task goes on waiting. api_set_draining follows. */
void api_set_leaving(ApiServer *api);

/* Any thread. Before what is to be served is deployed /readyz answers 503; everything else
 * works. */
void api_set_deploying(ApiServer *api, bool deploying);

#endif
