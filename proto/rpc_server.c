/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"
#include "proto/rpc_internal.h"

#include <assert.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Requests kept waiting per method, so that a burst of calls finds the next one armed. */
#define ARMED_PER_METHOD 4
#define MAX_METHODS      32
#define LINGER_MS        200

struct accept {
    struct rpc_tag tag;
    struct rpc_server *server;
    const struct rpc_method *method; /* NULL: any that is not registered */
    void *registered;
    grpc_call *call;
    gpr_timespec deadline;
    grpc_metadata_array metadata;
    grpc_call_details details;
};

struct rpc_server {
    struct rpc_loop *loop;
    grpc_server *server;
    int port;
    size_t max_message, max_queue;
    struct rpc_method methods[MAX_METHODS];
    size_t n_methods, n_accepts;
    struct accept *accepts;
    struct rpc_tag shutdown_tag;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool closing, shut_down;
    size_t n_armed, n_streams;
};

/* ---- calls to methods that nobody has ----------------------------------------------------- */

static const struct rpc_handler nobody = {.on_message = NULL};

static void accept_done(struct rpc_tag *t, bool ok);

/* Ask for the next call; the caller holds the server's lock. */
static void arm(struct accept *a)
{
    struct rpc_server *srv = a->server;
    grpc_completion_queue *cq = srv->loop->cq;
    grpc_call_error rc;
    if (srv->closing)
        return;
    a->call = NULL;
    grpc_metadata_array_init(&a->metadata);
    RPC_RELEASE(&a->tag);
    if (a->method) {
        rc = grpc_server_request_registered_call(srv->server, a->registered, &a->call, &a->deadline,
                                                 &a->metadata, NULL, cq, cq, &a->tag);
    } else {
        grpc_call_details_init(&a->details);
        rc = grpc_server_request_call(srv->server, &a->call, &a->details, &a->metadata, cq, cq,
                                      &a->tag);
    }
    if (rc != GRPC_CALL_OK) {
        log_error("rpc", "cannot wait for calls: %s", grpc_call_error_to_string(rc));
        grpc_metadata_array_destroy(&a->metadata);
        if (!a->method)
            grpc_call_details_destroy(&a->details);
        return;
    }
    srv->n_armed++;
}

/* "ipv4:1.2.3.4:5" to "1.2.3.4:5". */
static void peer_of(grpc_call *call, char *out, size_t n)
{
    char *peer = grpc_call_get_peer(call);
    const char *from = peer ? peer : "?";
    if (strncmp(from, "ipv4:", 5) == 0 || strncmp(from, "ipv6:", 5) == 0)
        from += 5;
    snprintf(out, n, "%s", from);
    gpr_free(peer);
}

static void open_call(struct rpc_server *srv, const struct rpc_method *method, grpc_call *call,
                      gpr_timespec deadline, const char *unknown)
{
    struct err e;
    char peer[128];
    struct rpc_stream *s;
    peer_of(call, peer, sizeof peer);
    if (rpc_stream_new(&s, srv->loop, call, srv->max_message, srv->max_queue, peer, &e) != 0) {
        log_error("rpc", "call from %s dropped: %s", peer, e.msg);
        return;
    }
    s->server = srv;
    s->deadline = deadline;
    pthread_mutex_lock(&srv->lock);
    srv->n_streams++;
    pthread_mutex_unlock(&srv->lock);
    if (rpc_stream_start(s, &e) != 0) {
        rpc_server_stream_gone(srv);
        return;
    }
    if (method) {
        method->on_open(s, method->ctx);
        if (!s->handler) {
            rpc_stream_set_handler(s, &nobody, NULL);
            rpc_stream_finish(s, RPC_INTERNAL, "the method has no handler");
        }
    } else {
        char text[300];
        snprintf(text, sizeof text, "unknown method %s", unknown);
        rpc_stream_set_handler(s, &nobody, NULL);
        rpc_stream_finish(s, RPC_UNIMPLEMENTED, text);
    }
    rpc_stream_run(s);
}

static void accept_done(struct rpc_tag *t, bool ok)
{
    struct accept *a = (struct accept *)(void *)((char *)t - offsetof(struct accept, tag));
    struct rpc_server *srv = a->server;
    const struct rpc_method *method = a->method;
    grpc_call *call = a->call;
    gpr_timespec deadline = method ? a->deadline : a->details.deadline;
    char unknown[256] = "";
    if (!method) {
        size_t n = GRPC_SLICE_LENGTH(a->details.method);
        if (n >= sizeof unknown)
            n = sizeof unknown - 1;
        memcpy(unknown, GRPC_SLICE_START_PTR(a->details.method), n);
        unknown[n] = '\0';
        grpc_call_details_destroy(&a->details);
    }
    grpc_metadata_array_destroy(&a->metadata);
    if (ok) {
        /* The next caller first, then this one. n_armed still counts this tag, so that the
         * server outlives the function. */
        pthread_mutex_lock(&srv->lock);
        arm(a);
        pthread_mutex_unlock(&srv->lock);
        open_call(srv, method, call, deadline, unknown);
    }
    pthread_mutex_lock(&srv->lock);
    srv->n_armed--;
    pthread_cond_broadcast(&srv->changed);
    pthread_mutex_unlock(&srv->lock);
}

void rpc_server_stream_gone(struct rpc_server *srv)
{
    pthread_mutex_lock(&srv->lock);
    srv->n_streams--;
    pthread_cond_broadcast(&srv->changed);
    pthread_mutex_unlock(&srv->lock);
}

static void shutdown_done(struct rpc_tag *t, bool ok)
{
    (void)ok;
    struct rpc_server *srv =
        (struct rpc_server *)(void *)((char *)t - offsetof(struct rpc_server, shutdown_tag));
    pthread_mutex_lock(&srv->lock);
    srv->shut_down = true;
    pthread_cond_broadcast(&srv->changed);
    pthread_mutex_unlock(&srv->lock);
}

/* ---- open and close ------------------------------------------------------------------------ */

static grpc_server *make_server(size_t max_message)
{
    grpc_arg args[RPC_MAX_ARGS];
    size_t n = rpc_common_args(args, max_message);
    args[n++] = rpc_int_arg(GRPC_ARG_ALLOW_REUSEPORT, 0);
    args[n++] = rpc_int_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, 1024);
    /* Below the client's 2 s, or its keepalive would count as an attack. */
    args[n++] = rpc_int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500);
    args[n++] = rpc_int_arg(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 2);
    args[n++] = rpc_int_arg(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10000);
    grpc_resource_quota *quota = grpc_resource_quota_create("quire");
    size_t bytes = 64 * max_message;
    grpc_resource_quota_resize(quota, bytes > (256u << 20) ? bytes : (256u << 20));
    args[n++] = (grpc_arg){.type = GRPC_ARG_POINTER,
                           .key = (char *)GRPC_ARG_RESOURCE_QUOTA,
                           .value.pointer = {quota, grpc_resource_quota_arg_vtable()}};
    grpc_server *s = grpc_server_create(&(grpc_channel_args){n, args}, NULL);
    grpc_resource_quota_unref(quota);
    return s;
}

static void free_server(struct rpc_server *srv)
{
    for (size_t i = 0; i < srv->n_methods; i++)
        free((char *)srv->methods[i].name);
    free(srv->accepts);
    pthread_cond_destroy(&srv->changed);
    pthread_mutex_destroy(&srv->lock);
    free(srv);
}

static int register_methods(struct rpc_server *srv, const struct rpc_server_config *cfg,
                            struct err *e)
{
    srv->n_accepts = cfg->n_methods * ARMED_PER_METHOD + 1;
    srv->accepts = calloc(srv->n_accepts, sizeof *srv->accepts);
    if (!srv->accepts)
        return err_set(e, Q_ENOMEM, "out of memory");
    for (size_t i = 0; i < srv->n_accepts; i++) {
        srv->accepts[i].tag.fn = accept_done;
        srv->accepts[i].server = srv;
    }
    for (size_t i = 0; i < cfg->n_methods; i++) {
        struct rpc_method *m = &srv->methods[i];
        *m = cfg->methods[i];
        m->name = strdup(cfg->methods[i].name);
        if (!m->name)
            return err_set(e, Q_ENOMEM, "out of memory");
        srv->n_methods++;
        void *registered =
            grpc_server_register_method(srv->server, m->name, NULL, GRPC_SRM_PAYLOAD_NONE, 0);
        if (!registered)
            return err_set(e, Q_EINVAL, "method %s cannot be registered", m->name);
        for (size_t k = 0; k < ARMED_PER_METHOD; k++) {
            srv->accepts[i * ARMED_PER_METHOD + k].method = m;
            srv->accepts[i * ARMED_PER_METHOD + k].registered = registered;
        }
    }
    return 0;
}

int rpc_server_open(struct rpc_server **out, struct rpc_loop *l,
                    const struct rpc_server_config *cfg, struct err *e)
{
    *out = NULL;
    if (!rpc_address_ok(cfg->address))
        return err_set(e, Q_EINVAL, "'%.80s' is not host:port", cfg->address ? cfg->address : "");
    if (cfg->max_message_bytes == 0 || cfg->max_message_bytes > INT_MAX)
        return err_set(e, Q_EINVAL, "message limit out of range");
    if (cfg->n_methods > MAX_METHODS)
        return err_set(e, Q_EINVAL, "too many methods");
    struct rpc_server *srv = calloc(1, sizeof *srv);
    if (!srv)
        return err_set(e, Q_ENOMEM, "out of memory");
    srv->loop = l;
    srv->max_message = cfg->max_message_bytes;
    srv->max_queue = cfg->max_queue_bytes;
    srv->shutdown_tag.fn = shutdown_done;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&srv->changed, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&srv->lock, NULL);

    srv->server = make_server(cfg->max_message_bytes);
    grpc_server_register_completion_queue(srv->server, l->cq, NULL);
    rpc_loop_hold(l);
    int rc = register_methods(srv, cfg, e);
    if (rc == 0) {
        grpc_server_credentials *creds = grpc_insecure_server_credentials_create();
        srv->port = grpc_server_add_http2_port(srv->server, cfg->address, creds);
        grpc_server_credentials_release(creds);
        if (srv->port <= 0)
            rc = err_set(e, Q_EIO,
                         "cannot listen on %s: the port is taken or the address is "
                         "not of this machine",
                         cfg->address);
    }
    grpc_server_start(srv->server); /* also on failure: a server must be shut down to be freed */
    if (rc != 0) {
        rpc_server_close(srv, 0);
        return rc;
    }
    pthread_mutex_lock(&srv->lock);
    for (size_t i = 0; i < srv->n_accepts; i++)
        arm(&srv->accepts[i]);
    pthread_mutex_unlock(&srv->lock);
    *out = srv;
    return 0;
}

int rpc_server_port(const struct rpc_server *s)
{
    return s->port;
}

void rpc_server_close(struct rpc_server *srv, unsigned grace_ms)
{
    if (!srv)
        return;
    assert(!pthread_equal(pthread_self(), srv->loop->thread));
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += grace_ms / 1000;
    until.tv_nsec += (long)(grace_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&srv->lock);
    srv->closing = true;
    pthread_mutex_unlock(&srv->lock);
    RPC_RELEASE(&srv->shutdown_tag);
    grpc_server_shutdown_and_notify(srv->server, srv->loop->cq, &srv->shutdown_tag);

    pthread_mutex_lock(&srv->lock);
    while (srv->n_streams > 0)
        if (pthread_cond_timedwait(&srv->changed, &srv->lock, &until) != 0)
            break;
    /* A client that has read its last status and our goodbye closes the connection. If we close
     * it while bytes from there are unread, the system resets it, and statuses on their way are
     * lost. But a client that keeps it open must not hold us up. */
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += LINGER_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    while (!srv->shut_down)
        if (pthread_cond_timedwait(&srv->changed, &srv->lock, &until) != 0)
            break;
    pthread_mutex_unlock(&srv->lock);
    grpc_server_cancel_all_calls(srv->server);
    pthread_mutex_lock(&srv->lock);
    while (!srv->shut_down || srv->n_streams > 0 || srv->n_armed > 0)
        pthread_cond_wait(&srv->changed, &srv->lock);
    pthread_mutex_unlock(&srv->lock);
    grpc_server_destroy(srv->server);
    struct rpc_loop *l = srv->loop;
    free_server(srv);
    rpc_loop_drop(l);
}
