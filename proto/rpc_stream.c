/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a call, the same on both ends:
 *
 *   rpc_stream_new -> rpc_stream_start -> rpc_stream_run
 *                         |                  |
 *                      over tag      recv tag: message, arm again ... until the end
 *                         |          sent tag: next of the queue, at most one in flight
 *                         v
 *              over, and no tag pending  ->  close_now: on_close, call released
 *
 * 1. `pending` counts the tags in flight; close_now runs on the loop thread when the over tag
 *    has come and none is left. No operation starts after that.
 * 2. Only the sent tag pops the queue: a reply may overtake the completion of the send that
 *    caused it, so "the last message went out" is not known any earlier.
 * 3. Receiving goes on until gRPC reports the end, whatever happened to the call: a client's
 *    status comes only after the messages before it were read. */
#include "base/log.h"
#include "proto/rpc_internal.h"

#include <assert.h>
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CONTAINER(tag, field)                                                                      \
    ((struct rpc_stream *)(void *)((char *)(tag)-offsetof(struct rpc_stream, field)))

static void over_done(struct rpc_tag *t, bool ok);
static void recv_done(struct rpc_tag *t, bool ok);
static void sent_done(struct rpc_tag *t, bool ok);

int rpc_stream_new(struct rpc_stream **out, struct rpc_loop *l, grpc_call *call, size_t max_message,
                   size_t max_queue, const char *peer, struct err *e)
{
    struct rpc_stream *s = calloc(1, sizeof *s);
    char *peer_copy = strdup(peer);
    if (!s || !peer_copy) {
        free(s);
        free(peer_copy);
        grpc_call_unref(call);
        return err_set(e, Q_ENOMEM, "out of memory");
    }
    atomic_init(&s->refs, 1);
    s->loop = l;
    s->call = call;
    s->max_message = max_message;
    s->max_queue = max_queue ? max_queue : RPC_QUEUE_DEFAULT;
    s->peer = peer_copy;
    s->deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    s->on_over.fn = over_done;
    s->on_recv.fn = recv_done;
    s->on_sent.fn = sent_done;
    s->queue_tail = &s->queue;
    s->details = grpc_empty_slice();
    s->finish_details = grpc_empty_slice();
    grpc_metadata_array_init(&s->initial_md);
    grpc_metadata_array_init(&s->trailing_md);
    pthread_mutex_init(&s->lock, NULL);
    *out = s;
    return 0;
}

static void out_free(struct rpc_out *o)
{
    if (!o)
        return;
    grpc_byte_buffer_destroy(o->bytes);
    free(o);
}

static void queue_drop(struct rpc_stream *s)
{
    while (s->queue) {
        struct rpc_out *o = s->queue;
        s->queue = o->next;
        s->queue_bytes -= o->cost;
        out_free(o);
    }
    s->queue_tail = &s->queue;
}

/* The caller holds the lock (or is alone with the stream). */
static bool start_batch(struct rpc_stream *s, const grpc_op *ops, size_t n, struct rpc_tag *tag)
{
    RPC_RELEASE(tag);
    grpc_call_error rc = grpc_call_start_batch(s->call, ops, n, tag, NULL);
    if (rc != GRPC_CALL_OK) {
        log_error("rpc", "start_batch: %s (peer %s)", grpc_call_error_to_string(rc), s->peer);
        return false;
    }
    s->pending++;
    return true;
}

int rpc_stream_start(struct rpc_stream *s, struct err *e)
{
    grpc_op op;
    memset(&op, 0, sizeof op);
    if (s->server) {
        op.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
        op.data.recv_close_on_server.cancelled = &s->was_cancelled;
    } else {
        op.op = GRPC_OP_RECV_STATUS_ON_CLIENT;
        op.data.recv_status_on_client.trailing_metadata = &s->trailing_md;
        op.data.recv_status_on_client.status = &s->status;
        op.data.recv_status_on_client.status_details = &s->details;
    }
    rpc_loop_hold(s->loop);
    pthread_mutex_lock(&s->lock);
    bool ok = start_batch(s, &op, 1, &s->on_over);
    if (!ok) {
        grpc_call_unref(s->call);
        s->call = NULL;
    }
    pthread_mutex_unlock(&s->lock);
    if (ok)
        return 0;
    rpc_loop_drop(s->loop);
    rpc_stream_unref(s);
    return err_set(e, Q_EINTERNAL, "cannot start the call");
}

static void cancel_locked(struct rpc_stream *s)
{
    if (s->call && !s->cancelled) {
        s->cancelled = true;
        grpc_call_cancel(s->call, NULL);
    }
}

static void arm_recv(struct rpc_stream *s)
{
    grpc_op ops[2];
    size_t n = 0;
    memset(ops, 0, sizeof ops);
    if (!s->server && !s->initial_asked) {
        ops[n].op = GRPC_OP_RECV_INITIAL_METADATA;
        ops[n++].data.recv_initial_metadata.recv_initial_metadata = &s->initial_md;
        s->initial_asked = true;
    }
    ops[n].op = GRPC_OP_RECV_MESSAGE;
    ops[n++].data.recv_message.recv_message = &s->in;
    s->recv_idle = false;
    if (!start_batch(s, ops, n, &s->on_recv)) {
        s->recv_ended = true;
        cancel_locked(s);
    }
}

/* Start what can be sent now: the head of the queue, and the end of the stream in the same batch
 * when it is the last. The caller holds the lock. */
static void pump(struct rpc_stream *s)
{
    if (!s->running || s->send_busy || s->send_broken || s->over || s->cancelled)
        return;
    bool finish = s->finishing && !s->finish_started && (!s->queue || !s->queue->next);
    if (!s->queue && !finish && (s->server || s->initial_sent))
        return;
    grpc_op ops[3];
    size_t n = 0;
    memset(ops, 0, sizeof ops);
    if (!s->initial_sent) {
        ops[n].op = GRPC_OP_SEND_INITIAL_METADATA;
        ops[n++].flags = s->initial_flags;
        s->initial_sent = true;
    }
    if (s->queue) {
        struct rpc_out *o = s->queue;
        s->queue = o->next;
        if (!s->queue)
            s->queue_tail = &s->queue;
        s->sending = o;
        ops[n].op = GRPC_OP_SEND_MESSAGE;
        ops[n].flags = GRPC_WRITE_NO_COMPRESS;
        ops[n++].data.send_message.send_message = o->bytes;
    }
    if (finish) {
        s->finish_started = true;
        if (s->server) {
            ops[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
            ops[n].data.send_status_from_server.status = s->finish_status;
            ops[n].data.send_status_from_server.status_details = &s->finish_details;
        } else {
            ops[n].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
        }
        n++;
    }
    s->send_busy = true;
    if (!start_batch(s, ops, n, &s->on_sent)) {
        s->send_busy = false;
        s->send_broken = true;
        cancel_locked(s);
    }
}

void rpc_stream_run(struct rpc_stream *s)
{
    pthread_mutex_lock(&s->lock);
    s->running = true;
    if (s->over)
        s->paused = false;
    if (s->paused)
        s->recv_idle = true;
    else
        arm_recv(s);
    pump(s);
    pthread_mutex_unlock(&s->lock);
}

static enum rpc_status known_status(grpc_status_code code)
{
    switch (code) {
    case GRPC_STATUS_OUT_OF_RANGE:
        return RPC_INVALID;
    case GRPC_STATUS_DATA_LOSS:
        return RPC_INTERNAL;
    default:
        break;
    }
    return code >= GRPC_STATUS_OK && code <= GRPC_STATUS_UNAUTHENTICATED ? (enum rpc_status)code
                                                                         : RPC_UNKNOWN;
}

/* Invariant 1 holds: nothing is in flight. */
static void close_now(struct rpc_stream *s)
{
    enum rpc_status status;
    char text[RPC_STATUS_TEXT + 1] = "";
    if (s->server) {
        bool by_us = s->finish_started && !s->was_cancelled && !s->cancelled;
        status = by_us ? RPC_OK : RPC_CANCELLED;
    } else {
        status = known_status(s->status);
        size_t n = GRPC_SLICE_LENGTH(s->details);
        if (n > RPC_STATUS_TEXT)
            n = RPC_STATUS_TEXT;
        memcpy(text, GRPC_SLICE_START_PTR(s->details), n);
        text[n] = '\0';
    }
    if (s->handler && s->handler->on_close)
        s->handler->on_close(s, status, text, s->ctx);

    pthread_mutex_lock(&s->lock);
    grpc_call *call = s->call;
    s->call = NULL;
    queue_drop(s);
    pthread_mutex_unlock(&s->lock);
    grpc_call_unref(call);
    struct rpc_loop *l = s->loop;
    struct rpc_server *server = s->server;
    rpc_stream_unref(s);
    if (server)
        rpc_server_stream_gone(server);
    rpc_loop_drop(l);
}

/* The end of every tag function: give the tag back; the stream may be gone afterwards. */
static void tag_finished(struct rpc_stream *s)
{
    pthread_mutex_lock(&s->lock);
    s->pending--;
    /* A call may be over before it runs; rpc_stream_run then arms a receive, which ends it. */
    bool close = s->running && s->over && s->pending == 0;
    pthread_mutex_unlock(&s->lock);
    if (close)
        close_now(s);
}

static void over_done(struct rpc_tag *t, bool ok)
{
    (void)ok; /* this operation always succeeds */
    struct rpc_stream *s = CONTAINER(t, on_over);
    pthread_mutex_lock(&s->lock);
    s->over = true;
    s->paused = false;
    if (s->recv_idle && !s->recv_ended)
        arm_recv(s);
    pthread_mutex_unlock(&s->lock);
    tag_finished(s);
}

static void deliver(struct rpc_stream *s, grpc_byte_buffer *in)
{
    if (in->type != GRPC_BB_RAW || in->data.raw.compression != GRPC_COMPRESS_NONE) {
        log_warn("rpc", "compressed message from %s refused", s->peer);
        rpc_stream_cancel(s);
        return;
    }
    grpc_byte_buffer_reader r;
    if (!grpc_byte_buffer_reader_init(&r, in)) {
        rpc_stream_cancel(s);
        return;
    }
    if (in->data.raw.slice_buffer.count == 1) {
        grpc_slice *one;
        if (grpc_byte_buffer_reader_peek(&r, &one))
            s->handler->on_message(s, GRPC_SLICE_START_PTR(*one), GRPC_SLICE_LENGTH(*one), s->ctx);
    } else {
        grpc_slice all = grpc_byte_buffer_reader_readall(&r);
        s->handler->on_message(s, GRPC_SLICE_START_PTR(all), GRPC_SLICE_LENGTH(all), s->ctx);
        grpc_slice_unref(all);
    }
    grpc_byte_buffer_reader_destroy(&r);
}

static void recv_done(struct rpc_tag *t, bool ok)
{
    struct rpc_stream *s = CONTAINER(t, on_recv);
    grpc_byte_buffer *in = s->in;
    s->in = NULL;
    pthread_mutex_lock(&s->lock);
    bool ended = !ok || !in;
    s->recv_ended = ended;
    /* A side that has given up, or has answered, wants nothing more. */
    bool wanted = !s->cancelled && !(s->server && s->finishing) && s->handler;
    pthread_mutex_unlock(&s->lock);
    if (wanted && ended && s->handler->on_end)
        s->handler->on_end(s, s->ctx);
    if (wanted && !ended && s->handler->on_message)
        deliver(s, in);
    if (in)
        grpc_byte_buffer_destroy(in);
    if (!ended) {
        pthread_mutex_lock(&s->lock);
        if (s->paused)
            s->recv_idle = true;
        else
            arm_recv(s);
        pthread_mutex_unlock(&s->lock);
    }
    tag_finished(s);
}

static void sent_done(struct rpc_tag *t, bool ok)
{
    struct rpc_stream *s = CONTAINER(t, on_sent);
    pthread_mutex_lock(&s->lock);
    if (s->sending) {
        s->queue_bytes -= s->sending->cost;
        out_free(s->sending);
        s->sending = NULL;
    }
    s->send_busy = false;
    if (!ok) { /* the call is over or about to be; its reason comes with the over tag */
        s->send_broken = true;
        queue_drop(s);
    }
    pump(s);
    bool writable = s->want_writable && s->queue_bytes <= s->max_queue / 2;
    if (writable)
        s->want_writable = false;
    if (s->over || s->cancelled || s->send_broken || s->finishing)
        writable = false;
    pthread_mutex_unlock(&s->lock);
    if (writable && s->handler && s->handler->on_writable)
        s->handler->on_writable(s, s->ctx);
    tag_finished(s);
}

/* ---- the public side ------------------------------------------------------------------- */

void rpc_stream_set_handler(struct rpc_stream *s, const struct rpc_handler *h, void *ctx)
{
    s->handler = h;
    s->ctx = ctx;
}

void *rpc_stream_ctx(const struct rpc_stream *s)
{
    return s->ctx;
}

const char *rpc_stream_peer(const struct rpc_stream *s)
{
    return s->peer;
}

uint64_t rpc_stream_deadline_ms(const struct rpc_stream *s)
{
    gpr_timespec end = gpr_convert_clock_type(s->deadline, GPR_CLOCK_MONOTONIC);
    if (gpr_time_cmp(end, gpr_inf_future(GPR_CLOCK_MONOTONIC)) == 0)
        return UINT64_MAX;
    gpr_timespec left = gpr_time_sub(end, gpr_now(GPR_CLOCK_MONOTONIC));
    int64_t ms = left.tv_sec * 1000 + left.tv_nsec / 1000000;
    return ms > 0 ? (uint64_t)ms : 0;
}

/* Room for n bytes? The caller holds the lock. */
static int may_send(struct rpc_stream *s, size_t n)
{
    if (!s->call || s->over || s->cancelled || s->finishing || s->send_broken)
        return Q_ECANCELLED;
    if (n > s->max_message)
        return Q_EINVAL;
    if (s->queue_bytes > 0 && s->queue_bytes + n + RPC_MESSAGE_COST > s->max_queue) {
        s->want_writable = true;
        return Q_EFULL;
    }
    return 0;
}

static int check_send(struct rpc_stream *s, size_t n)
{
    pthread_mutex_lock(&s->lock);
    int rc = may_send(s, n);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int rpc_stream_send_owned(struct rpc_stream *s, void *data, size_t n)
{
    struct rpc_out *o = calloc(1, sizeof *o);
    if (!o || !data) {
        free(o);
        free(data);
        return Q_ENOMEM;
    }
    grpc_slice slice = grpc_slice_new(data, n, free);
    o->bytes = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice); /* the buffer has its own reference */
    o->cost = n + RPC_MESSAGE_COST;

    pthread_mutex_lock(&s->lock);
    int rc = may_send(s, n);
    if (rc == 0) {
        *s->queue_tail = o;
        s->queue_tail = &o->next;
        s->queue_bytes += o->cost;
        pump(s);
    }
    pthread_mutex_unlock(&s->lock);
    if (rc != 0)
        out_free(o);
    return rc;
}

int rpc_stream_send2(struct rpc_stream *s, const void *head, size_t n_head, const void *body,
                     size_t n_body)
{
    size_t n;
    if (__builtin_add_overflow(n_head, n_body, &n))
        return Q_EINVAL;
    /* Asked once before copying and, since other threads send too, once more with the copy. */
    int rc = check_send(s, n);
    if (rc != 0)
        return rc;
    char *data = malloc(n ? n : 1);
    if (!data)
        return Q_ENOMEM;
    if (n_head)
        memcpy(data, head, n_head);
    if (n_body)
        memcpy(data + n_head, body, n_body);
    return rpc_stream_send_owned(s, data, n);
}

int rpc_stream_send(struct rpc_stream *s, const void *data, size_t n)
{
    return rpc_stream_send2(s, data, n, NULL, 0);
}

int rpc_stream_send_msg(struct rpc_stream *s, const struct ProtobufCMessage *m)
{
    void *data;
    size_t n;
    int rc = rpc_pack(m, &data, &n);
    return rc != 0 ? rc : rpc_stream_send_owned(s, data, n);
}

void rpc_stream_finish(struct rpc_stream *s, enum rpc_status status, const char *msg)
{
    pthread_mutex_lock(&s->lock);
    if (s->call && !s->finishing) {
        s->finishing = true;
        s->finish_status = (grpc_status_code)status;
        if (s->server && msg)
            s->finish_details = grpc_slice_from_copied_buffer(msg, strnlen(msg, RPC_STATUS_TEXT));
        pump(s);
    }
    pthread_mutex_unlock(&s->lock);
}

void rpc_stream_cancel(struct rpc_stream *s)
{
    pthread_mutex_lock(&s->lock);
    cancel_locked(s);
    pthread_mutex_unlock(&s->lock);
}

void rpc_stream_pause(struct rpc_stream *s, bool on)
{
    pthread_mutex_lock(&s->lock);
    if (s->call && !s->over) {
        s->paused = on;
        if (!on && s->recv_idle && !s->recv_ended)
            arm_recv(s);
    }
    pthread_mutex_unlock(&s->lock);
}

struct rpc_stream *rpc_stream_ref(struct rpc_stream *s)
{
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    return s;
}

void rpc_stream_unref(struct rpc_stream *s)
{
    if (!s)
        return;
    unsigned before = atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel);
    assert(before > 0);
    if (before != 1)
        return;
    assert(!s->call && s->pending == 0);
    queue_drop(s);
    grpc_metadata_array_destroy(&s->initial_md);
    grpc_metadata_array_destroy(&s->trailing_md);
    grpc_slice_unref(s->details);
    grpc_slice_unref(s->finish_details);
    pthread_mutex_destroy(&s->lock);
    free(s->peer);
    free(s);
}
