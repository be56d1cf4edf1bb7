/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"
#include "proto/rpc_internal.h"

#include <assert.h>
#include <ctype.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t global_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned global_users;

static void forward_log(gpr_log_func_args *a)
{
    const char *file = strrchr(a->file, '/');
    file = file ? file + 1 : a->file;
    if (a->severity == GPR_LOG_SEVERITY_ERROR)
        log_warn("grpc", "%s:%d %s", file, a->line, a->message);
    else
        log_debug("grpc", "%s:%d %s", file, a->line, a->message);
}

/* Signals belong to the main loop, not to the threads of the transport. */
static void block_signals(sigset_t *old)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, old);
}

void rpc_global_init(void)
{
    pthread_mutex_lock(&global_lock);
    if (global_users++ == 0) {
        sigset_t old;
        signal(SIGPIPE, SIG_IGN);
        gpr_set_log_function(forward_log);
        block_signals(&old);
        grpc_init();
        pthread_sigmask(SIG_SETMASK, &old, NULL);
    }
    pthread_mutex_unlock(&global_lock);
}

void rpc_global_fini(void)
{
    pthread_mutex_lock(&global_lock);
    assert(global_users > 0);
    /* Blocking, so that nothing of gRPC runs while the process exits. */
    if (--global_users == 0)
        grpc_shutdown_blocking();
    pthread_mutex_unlock(&global_lock);
}

static void *loop_main(void *arg)
{
    struct rpc_loop *l = arg;
    for (;;) {
        grpc_event ev =
            grpc_completion_queue_next(l->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (ev.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        struct rpc_tag *t = ev.tag;
        RPC_ACQUIRE(t);
        t->fn(t, ev.success != 0);
    }
}

int rpc_loop_open(struct rpc_loop **out, const char *name, struct err *e)
{
    *out = NULL;
    struct rpc_loop *l = calloc(1, sizeof *l);
    if (!l)
        return err_set(e, Q_ENOMEM, "out of memory");
    snprintf(l->name, sizeof l->name, "%s", name);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->idle, NULL);
    rpc_global_init();
    l->cq = grpc_completion_queue_create_for_next(NULL);
    sigset_t old;
    block_signals(&old);
    int rc = pthread_create(&l->thread, NULL, loop_main, l);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0) {
        grpc_completion_queue_shutdown(l->cq);
        grpc_completion_queue_destroy(l->cq);
        rpc_global_fini();
        pthread_cond_destroy(&l->idle);
        pthread_mutex_destroy(&l->lock);
        free(l);
        return err_set(e, Q_EIO, "cannot start a thread: %s", strerror(rc));
    }
    pthread_setname_np(l->thread, l->name);
    *out = l;
    return 0;
}

void rpc_loop_hold(struct rpc_loop *l)
{
    pthread_mutex_lock(&l->lock);
    l->n_users++;
    pthread_mutex_unlock(&l->lock);
}

void rpc_loop_drop(struct rpc_loop *l)
{
    pthread_mutex_lock(&l->lock);
    assert(l->n_users > 0);
    if (--l->n_users == 0)
        pthread_cond_broadcast(&l->idle);
    pthread_mutex_unlock(&l->lock);
}

void rpc_loop_close(struct rpc_loop *l)
{
    if (!l)
        return;
    assert(!pthread_equal(pthread_self(), l->thread));
    /* Work started on a queue that was shut down may crash: wait for the last stream. */
    pthread_mutex_lock(&l->lock);
    while (l->n_users > 0)
        pthread_cond_wait(&l->idle, &l->lock);
    pthread_mutex_unlock(&l->lock);
    grpc_completion_queue_shutdown(l->cq);
    pthread_join(l->thread, NULL);
    grpc_completion_queue_destroy(l->cq);
    pthread_cond_destroy(&l->idle);
    pthread_mutex_destroy(&l->lock);
    free(l);
    rpc_global_fini();
}

enum rpc_status rpc_status_of(int q_err)
{
    switch (q_err) {
    case 0:
        return RPC_OK;
    case Q_EINVAL:
        return RPC_INVALID;
    case Q_ENOMEM:
    case Q_EFULL:
        return RPC_EXHAUSTED;
    case Q_ENOTFOUND:
        return RPC_NOT_FOUND;
    case Q_EEXIST:
        return RPC_EXISTS;
    case Q_ECANCELLED:
        return RPC_CANCELLED;
    case Q_ETIMEOUT:
        return RPC_DEADLINE;
    case Q_EUNSUPPORTED:
        return RPC_UNIMPLEMENTED;
    case Q_EUNAVAILABLE:
        return RPC_UNAVAILABLE;
    case Q_EPERM:
        return RPC_PERMISSION;
    default:
        return RPC_INTERNAL;
    }
}

int rpc_err_of(enum rpc_status s)
{
    switch (s) {
    case RPC_OK:
        return 0;
    case RPC_CANCELLED:
    case RPC_ABORTED:
        return Q_ECANCELLED;
    case RPC_INVALID:
    case RPC_FAILED_PRECONDITION:
        return Q_EINVAL;
    case RPC_DEADLINE:
        return Q_ETIMEOUT;
    case RPC_NOT_FOUND:
        return Q_ENOTFOUND;
    case RPC_EXISTS:
        return Q_EEXIST;
    case RPC_PERMISSION:
    case RPC_UNAUTHENTICATED:
        return Q_EPERM;
    case RPC_EXHAUSTED:
        return Q_EFULL;
    case RPC_UNIMPLEMENTED:
        return Q_EUNSUPPORTED;
    case RPC_UNAVAILABLE:
        return Q_EUNAVAILABLE;
    case RPC_UNKNOWN:
    case RPC_INTERNAL:
        break;
    }
    return Q_EINTERNAL;
}

grpc_arg rpc_int_arg(const char *key, int value)
{
    /* gRPC copies keys; the field only lacks a const. */
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

size_t rpc_common_args(grpc_arg *args, size_t max_message)
{
    size_t n = 0;
    args[n++] = rpc_int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)max_message);
    args[n++] = rpc_int_arg(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, (int)max_message);
    args[n++] = rpc_int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, 2000);
    args[n++] = rpc_int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 2000);
    args[n++] = rpc_int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    args[n++] = rpc_int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    args[n++] = rpc_int_arg(GRPC_ARG_MAX_METADATA_SIZE, 8192);
    args[n++] = rpc_int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0);
    /* Not decompressed either: a small message must not become a huge one behind the limit. */
    args[n++] = rpc_int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
    args[n++] = rpc_int_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1);
    if (max_message >= (1u << 20)) {
        args[n++] = rpc_int_arg(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 1 << 20);
        args[n++] = rpc_int_arg(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 8 << 20);
        args[n++] = rpc_int_arg(GRPC_ARG_TCP_READ_CHUNK_SIZE, 256 << 10);
    }
    return n;
}

bool rpc_address_ok(const char *a)
{
    if (!a || strlen(a) > 255)
        return false;
    const char *colon = strrchr(a, ':');
    if (!colon || colon == a || !colon[1] || strlen(colon + 1) > 5)
        return false;
    for (const char *p = colon + 1; *p; p++)
        if (!isdigit((unsigned char)*p))
            return false;
    if (strtol(colon + 1, NULL, 10) > 65535)
        return false;
    if (a[0] == '[') { /* IPv6: "[::1]:9998" */
        if (colon[-1] != ']')
            return false;
        for (const char *p = a + 1; p < colon - 1; p++)
            if (!isxdigit((unsigned char)*p) && *p != ':' && *p != '.')
                return false;
        return colon - a > 2;
    }
    for (const char *p = a; p < colon; p++)
        if (!isalnum((unsigned char)*p) && *p != '.' && *p != '-' && *p != '_')
            return false;
    return true;
}
