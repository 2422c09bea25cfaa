/* A TLS server on loopback for tests: a thread, one connection after the other, a certificate of
 * its own making for 127.0.0.1. What it does with a connection is the test's. */
#ifndef GANTRY_TESTS_TLS_SERVER_H
#define GANTRY_TESTS_TLS_SERVER_H

#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "base/str.h"

typedef struct TlsServer TlsServer;
struct TlsServer {
    void (*serve)(TlsServer *server, SSL *ssl); /* after the handshake */
    bool stall;                                 /* never shake hands */
    SSL_CTX *context;
    X509 *certificate;
    EVP_PKEY *key;
    int listener;
    uint16_t port;
    pthread_t thread;
    atomic_int connections;
    atomic_bool closing;
};

static inline void tls_make_certificate(TlsServer *server)
{
    server->key = EVP_EC_gen("P-256");
    X509 *x = server->certificate = X509_new();
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_gmtime_adj(X509_getm_notBefore(x), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_set_pubkey(x, server->key);
    X509_NAME *name = X509_get_subject_name(x);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"test", -1, -1, 0);
    X509_set_issuer_name(x, name);
    X509V3_CTX v3;
    X509V3_set_ctx_nodb(&v3);
    X509V3_set_ctx(&v3, x, x, NULL, NULL, 0);
    static const struct {
        int nid;
        const char *value;
    } extensions[] = { { NID_subject_alt_name, "IP:127.0.0.1" },
                       { NID_basic_constraints, "critical,CA:TRUE" } };
    for (size_t i = 0; i < ARRAY_N(extensions); i++) {
        X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &v3, extensions[i].nid, extensions[i].value);
        X509_add_ext(x, e, -1);
        X509_EXTENSION_free(e);
    }
    X509_sign(x, server->key, EVP_sha256());
}

static inline void tls_write_certificate(const TlsServer *server, const char *path)
{
    FILE *f = fopen(path, "w");
    assert(f && PEM_write_X509(f, server->certificate) == 1);
    fclose(f);
}

static inline void *tls_main(void *arg)
{
    TlsServer *server = arg;
    while (!atomic_load(&server->closing)) {
        int fd = accept(server->listener, NULL, NULL);
        if (fd < 0) break;
        atomic_fetch_add(&server->connections, 1);
        struct timeval patience = { .tv_sec = 5 };
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        SSL *ssl = SSL_new(server->context);
        SSL_set_fd(ssl, fd);
        char byte;
        if (server->stall)
            (void)!recv(fd, &byte, 1, MSG_PEEK), (void)!read(fd, &byte, 1), usleep(400000);
        else if (SSL_accept(ssl) == 1) server->serve(server, ssl);
        SSL_free(ssl);
        close(fd);
    }
    return NULL;
}

static inline void tls_open(TlsServer *server)
{
    tls_make_certificate(server);
    server->context = SSL_CTX_new(TLS_server_method());
    SSL_CTX_use_certificate(server->context, server->certificate);
    SSL_CTX_use_PrivateKey(server->context, server->key);
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof at;
    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert(bind(server->listener, (struct sockaddr *)&at, size) == 0);
    assert(listen(server->listener, 64) == 0);
    getsockname(server->listener, (struct sockaddr *)&at, &size);
    server->port = ntohs(at.sin_port);
    pthread_create(&server->thread, NULL, tls_main, server);
}

static inline void tls_close(TlsServer *server)
{
    atomic_store(&server->closing, true);
    shutdown(server->listener, SHUT_RDWR);
    pthread_join(server->thread, NULL);
    close(server->listener);
    SSL_CTX_free(server->context);
    X509_free(server->certificate);
    EVP_PKEY_free(server->key);
}

#endif
