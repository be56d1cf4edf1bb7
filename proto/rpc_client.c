/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/rpc_internal.h"

#include <arpa/inet.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/time.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALL_DEADLINE_MS 30000

struct rpc_channel {
    struct rpc_loop *loop;
    grpc_channel *channel;
    size_t max_message;
    char *address;
};

/* Literal addresses skip the resolver; for names it asks again after a second, since a restarted
 * container may come back elsewhere. */
static void target_of(const char *address, char *out, size_t n)
{
    char host[256];
    struct in_addr v4;
    snprintf(host, sizeof host, "%s", address);
    *strrchr(host, ':') = '\0';
    if (address[0] == '[')
        snprintf(out, n, "ipv6:%s", address);
    else if (inet_pton(AF_INET, host, &v4) == 1)
        snprintf(out, n, "ipv4:%s", address);
    else
        snprintf(out, n, "dns:///%s", address);
}

int rpc_channel_open(struct rpc_channel **out, struct rpc_loop *l, const char *address,
                     size_t max_message_bytes, struct err *e)
{
    *out = NULL;
    if (!rpc_address_ok(address))
        return err_set(e, Q_EINVAL, "'%.80s' is not host:port", address ? address : "");
    if (max_message_bytes == 0 || max_message_bytes > INT_MAX)
        return err_set(e, Q_EINVAL, "message limit out of range");
    struct rpc_channel *c = calloc(1, sizeof *c);
    if (!c || !(c->address = strdup(address))) {
        free(c);
        return err_set(e, Q_ENOMEM, "out of memory");
    }
    c->loop = l;
    c->max_message = max_message_bytes;

    grpc_arg args[RPC_MAX_ARGS];
    size_t n = rpc_common_args(args, max_message_bytes);
    args[n++] = rpc_int_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    /* This one is the time that an attempt may take: a busy peer needs longer than a wait. */
    args[n++] = rpc_int_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 3000);
    args[n++] = rpc_int_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
    args[n++] = rpc_int_arg(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, 1000);
    args[n++] = rpc_int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    args[n++] = rpc_int_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    args[n++] = rpc_int_arg(GRPC_ARG_ENABLE_RETRIES, 0);
    args[n++] = rpc_int_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);

    char target[300];
    target_of(address, target, sizeof target);
    grpc_channel_credentials *creds = grpc_insecure_credentials_create();
    c->channel = grpc_channel_create(target, creds, &(grpc_channel_args){n, args});
    grpc_channel_credentials_release(creds);
    if (!c->channel) {
        free(c->address);
        free(c);
        return err_set(e, Q_EINTERNAL, "cannot create a channel to %s", address);
    }
    grpc_channel_check_connectivity_state(c->channel, 1); /* begin to connect now */
    *out = c;
    return 0;
}

void rpc_channel_close(struct rpc_channel *c)
{
    if (!c)
        return;
    grpc_channel_destroy(c->channel); /* calls hold their own reference */
    free(c->address);
    free(c);
}

/* A started stream; the caller queues what it wants in the first packet, then runs it. */
static int open_stream(struct rpc_stream **out, struct rpc_channel *c,
                       const struct rpc_call_config *cfg, struct err *e)
{
    *out = NULL;
    if (!cfg->method || cfg->method[0] != '/' || strlen(cfg->method) > 255)
        return err_set(e, Q_EINVAL, "bad method name");
    gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (cfg->deadline_ms > 0 && cfg->deadline_ms < INT64_MAX / 2)
        deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                gpr_time_from_millis((int64_t)cfg->deadline_ms, GPR_TIMESPAN));
    grpc_slice method = grpc_slice_from_copied_string(cfg->method);
    grpc_call *call = grpc_channel_create_call(c->channel, NULL, GRPC_PROPAGATE_DEFAULTS,
                                               c->loop->cq, method, NULL, deadline, NULL);
    grpc_slice_unref(method);
    if (!call)
        return err_set(e, Q_EINTERNAL, "cannot create a call to %s", c->address);
    struct rpc_stream *s;
    int rc = rpc_stream_new(&s, c->loop, call, c->max_message, cfg->max_queue_bytes, c->address, e);
    if (rc != 0)
        return rc;
    s->deadline = deadline;
    if (cfg->wait_for_ready)
        s->initial_flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY |
                           GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET;
    rpc_stream_set_handler(s, cfg->handler, cfg->ctx);
    rpc_stream_ref(s); /* the creator's */
    *out = s;          /* before the first callback can run */
    rc = rpc_stream_start(s, e);
    if (rc != 0) {
        *out = NULL;
        rpc_stream_unref(s);
    }
    return rc;
}

int rpc_stream_open(struct rpc_stream **out, struct rpc_channel *c,
                    const struct rpc_call_config *cfg, struct err *e)
{
    int rc = open_stream(out, c, cfg, e);
    if (rc == 0)
        rpc_stream_run(*out);
    return rc;
}

/* ---- one message each way ---------------------------------------------------------------- */

struct unary {
    void (*done)(void *ctx, enum rpc_status status, const char *msg, const void *data, size_t n);
    void *ctx;
    char *data;
    size_t n;
    const char *fault; /* ours, beside the status of the call */
};

static void unary_message(struct rpc_stream *s, const void *data, size_t n, void *ctx)
{
    struct unary *u = ctx;
    if (u->data) {
        u->fault = "more than one reply";
        rpc_stream_cancel(s);
        return;
    }
    u->data = malloc(n ? n : 1);
    if (!u->data) {
        u->fault = "out of memory";
        rpc_stream_cancel(s);
        return;
    }
    if (n)
        memcpy(u->data, data, n);
    u->n = n;
}

static void unary_close(struct rpc_stream *s, enum rpc_status status, const char *msg, void *ctx)
{
    struct unary *u = ctx;
    (void)s;
    if (status == RPC_OK && !u->data)
        u->fault = "no reply";
    if (u->fault)
        u->done(u->ctx, RPC_INTERNAL, u->fault, NULL, 0);
    else if (status != RPC_OK)
        u->done(u->ctx, status, msg, NULL, 0);
    else
        u->done(u->ctx, RPC_OK, "", u->data, u->n);
    free(u->data);
    free(u);
}

int rpc_call(struct rpc_channel *c, const char *method, const void *data, size_t n,
             uint64_t deadline_ms,
             void (*done)(void *ctx, enum rpc_status status, const char *msg, const void *data,
                          size_t n),
             void *ctx, struct err *e)
{
    static const struct rpc_handler handler = {.on_message = unary_message,
                                               .on_close = unary_close};
    if (n > c->max_message)
        return err_set(e, Q_EINVAL, "a message of %zu bytes is over the limit of %zu", n,
                       c->max_message);
    struct unary *u = calloc(1, sizeof *u);
    char *copy = malloc(n ? n : 1);
    if (!u || !copy) {
        free(u);
        free(copy);
        return err_set(e, Q_ENOMEM, "out of memory");
    }
    if (n)
        memcpy(copy, data, n);
    u->done = done;
    u->ctx = ctx;
    const struct rpc_call_config cfg = {.method = method,
                                        .handler = &handler,
                                        .ctx = u,
                                        .deadline_ms =
                                            deadline_ms ? deadline_ms : CALL_DEADLINE_MS};
    struct rpc_stream *s;
    int rc = open_stream(&s, c, &cfg, e);
    if (rc != 0) {
        free(copy);
        free(u);
        return rc;
    }
    /* Headers, message and end leave in one batch. From here on the outcome is on_close's. */
    if (rpc_stream_send_owned(s, copy, n) != 0)
        rpc_stream_cancel(s);
    rpc_stream_finish(s, RPC_OK, NULL);
    rpc_stream_run(s);
    rpc_stream_unref(s);
    return 0;
}
