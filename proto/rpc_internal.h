/* SPDX-License-Identifier: Apache-2.0 */
/* rpc_internal.h - what the rpc_*.c files share; the only header that shows gRPC.
 *
 * Tags. Every operation started on a completion queue carries a struct rpc_tag, embedded in the
 * object that waits. The loop thread calls its fn exactly once. An object with tags in flight
 * is never freed, so each one counts them (`pending`).
 *
 * Threads. All of a stream's fields below `lock` belong to that mutex, and so does every
 * grpc_call_start_batch on its call: sends come from any thread, the rest from the loop. gRPC
 * never runs our code inside a call of ours, so holding the mutex across one cannot deadlock. */
#ifndef QUIRE_PROTO_RPC_INTERNAL_H
#define QUIRE_PROTO_RPC_INTERNAL_H

#include "proto/rpc.h"

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdatomic.h>

#if defined(__SANITIZE_THREAD__)
#define RPC_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RPC_TSAN 1
#endif
#endif

/* The hand-over of a tag goes through locks inside gRPC that TSan does not see. */
#ifdef RPC_TSAN
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define RPC_ACQUIRE(tag) __tsan_acquire(tag)
#define RPC_RELEASE(tag) __tsan_release(tag)
#else
#define RPC_ACQUIRE(tag) ((void)(tag))
#define RPC_RELEASE(tag) ((void)(tag))
#endif

#define RPC_QUEUE_DEFAULT (1u << 20)
/* Counted per queued message beside its bytes, so that empty messages are bounded too. */
#define RPC_MESSAGE_COST 64
#define RPC_STATUS_TEXT  1024

struct rpc_tag {
    void (*fn)(struct rpc_tag *t, bool ok); /* on the loop thread */
};

struct rpc_loop {
    grpc_completion_queue *cq;
    pthread_t thread;
    char name[16];
    pthread_mutex_t lock;
    pthread_cond_t idle;
    size_t n_users; /* servers, and streams whose on_close has not run */
};

void rpc_loop_hold(struct rpc_loop *l);
void rpc_loop_drop(struct rpc_loop *l);

struct rpc_out {
    struct rpc_out *next;
    grpc_byte_buffer *bytes;
    size_t cost;
};

struct rpc_stream {
    atomic_uint refs;
    struct rpc_loop *loop;
    struct rpc_server *server; /* NULL on the client */
    const struct rpc_handler *handler;
    void *ctx;
    size_t max_message, max_queue;
    uint32_t initial_flags;
    gpr_timespec deadline;
    char *peer;

    struct rpc_tag on_over, on_recv, on_sent;
    /* Filled by gRPC, read when the tag has come. */
    grpc_metadata_array initial_md, trailing_md;
    grpc_status_code status;
    grpc_slice details;
    int was_cancelled;
    grpc_byte_buffer *in;

    pthread_mutex_t lock;
    grpc_call *call; /* NULL once closed */
    unsigned pending;
    bool running;       /* rpc_stream_run was called */
    bool over;          /* status or close has come */
    bool cancelled;     /* by us */
    bool initial_asked; /* client: RECV_INITIAL_METADATA was started */
    bool initial_sent;
    bool recv_ended;
    bool recv_idle; /* no RECV_MESSAGE in flight, because paused */
    bool paused;
    bool send_busy;
    bool send_broken;
    bool finishing;      /* rpc_stream_finish was called */
    bool finish_started; /* its operation is in flight or done */
    bool want_writable;
    struct rpc_out *queue, **queue_tail, *sending;
    size_t queue_bytes; /* queued and in flight */
    grpc_status_code finish_status;
    grpc_slice finish_details;
};

/* A stream around a call, not started. Takes the call (also on failure). */
Q_MUST_CHECK int rpc_stream_new(struct rpc_stream **out, struct rpc_loop *l, grpc_call *call,
                                size_t max_message, size_t max_queue, const char *peer,
                                struct err *e);
/* Start the "call is over" batch, first and alone. On failure the stream is gone. */
Q_MUST_CHECK int rpc_stream_start(struct rpc_stream *s, struct err *e);
/* Begin to receive and to send what is queued. */
void rpc_stream_run(struct rpc_stream *s);
/* Called by the stream's end; the server may be freed right after. */
void rpc_server_stream_gone(struct rpc_server *s);

/* The options both ends share; returns how many were written. */
size_t rpc_common_args(grpc_arg *args, size_t max_message);
grpc_arg rpc_int_arg(const char *key, int value);
#define RPC_MAX_ARGS 32

/* "host:port" with nothing else in it, so that no other target scheme gets in. */
bool rpc_address_ok(const char *address);

/* Queue bytes made with malloc; takes them in every case. Results of rpc_stream_send. */
int rpc_stream_send_owned(struct rpc_stream *s, void *data, size_t n);

#endif
