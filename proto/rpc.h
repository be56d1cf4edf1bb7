/* SPDX-License-Identifier: Apache-2.0 */
/* rpc.h - calls between Quire's processes. The only face of gRPC core in the project.
 *
 * Every method is a bidirectional stream of byte messages; a unary call is a stream with one
 * message each way. Both ends use the same `struct rpc_stream`: send, receive by callback,
 * close. Messages are bytes; rpc_pack / rpc_unpack turn them into the structs generated from
 * the .proto files.
 *
 * Threads. An rpc_loop is a thread that polls one completion queue. All callbacks of its streams
 * run on that thread and must not block. rpc_stream_send, _finish, _cancel and _unref may be
 * called from any thread. A process that carries tensors uses two loops, so that a flood of
 * hidden states never delays a lease.
 *
 * Life. A stream is counted: the library holds one reference until on_close has run. On the
 * client rpc_stream_open gives the creator another, dropped with rpc_stream_unref. On the server
 * there is only the library's: take one with rpc_stream_ref to keep a stream past on_close.
 * After on_close no callback runs.
 * Fork children before rpc_global_init, or exec at once: gRPC does not survive a fork. */
#ifndef QUIRE_PROTO_RPC_H
#define QUIRE_PROTO_RPC_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rpc_loop;
struct rpc_server;
struct rpc_channel;
struct rpc_stream;

void rpc_global_init(void); /* counted; routes gRPC's log into ours, ignores SIGPIPE */
void rpc_global_fini(void);

Q_MUST_CHECK int rpc_loop_open(struct rpc_loop **out, const char *name, struct err *e);
/* Joins the thread. All servers, channels and streams of the loop must be closed before. */
void rpc_loop_close(struct rpc_loop *l);

/* gRPC status codes that the project uses. */
enum rpc_status {
    RPC_OK = 0,
    RPC_CANCELLED = 1,
    RPC_UNKNOWN = 2,
    RPC_INVALID = 3,
    RPC_DEADLINE = 4,
    RPC_NOT_FOUND = 5,
    RPC_EXISTS = 6,
    RPC_PERMISSION = 7,
    RPC_EXHAUSTED = 8,
    RPC_FAILED_PRECONDITION = 9,
    RPC_ABORTED = 10,
    RPC_UNIMPLEMENTED = 12,
    RPC_INTERNAL = 13,
    RPC_UNAVAILABLE = 14,
    RPC_UNAUTHENTICATED = 16
};
enum rpc_status rpc_status_of(int q_err); /* enum q_err to status and back */
int rpc_err_of(enum rpc_status s);

struct rpc_handler {
    /* One message; data is lent for the call. */
    void (*on_message)(struct rpc_stream *s, const void *data, size_t n, void *ctx);
    /* The peer sends no more (half close, or the call broke: on_close tells). May be NULL. */
    void (*on_end)(struct rpc_stream *s, void *ctx);
    /* The outgoing queue fell below half of its bound after a send said Q_EFULL. May be NULL. */
    void (*on_writable)(struct rpc_stream *s, void *ctx);
    /* The call is over, exactly once and last. Client: the server's status. Server: RPC_OK when
     * it finished itself, else RPC_CANCELLED (the client left, its deadline passed, the
     * connection broke). */
    void (*on_close)(struct rpc_stream *s, enum rpc_status status, const char *msg, void *ctx);
};

/* ---- server ---------------------------------------------------------------------------- */

struct rpc_method {
    const char *name; /* "/quire.Cluster/Join" */
    /* A call came in. Set the handler with rpc_stream_set_handler before returning, or finish
     * the stream with an error status. Runs on the loop thread. */
    void (*on_open)(struct rpc_stream *s, void *ctx);
    void *ctx;
};

struct rpc_server_config {
    const char *address; /* "127.0.0.1:0"; port 0 picks one */
    const struct rpc_method *methods;
    size_t n_methods;
    size_t max_message_bytes; /* both directions */
    size_t max_queue_bytes;   /* bound of a stream's outgoing queue; 0: 1 MiB */
};

/* Unknown methods are answered with UNIMPLEMENTED; no SO_REUSEPORT, so that a taken port is an
 * error. */
Q_MUST_CHECK int rpc_server_open(struct rpc_server **out, struct rpc_loop *l,
                                 const struct rpc_server_config *cfg, struct err *e);
int rpc_server_port(const struct rpc_server *s);
/* Stop accepting, give running streams grace_ms, cancel the rest, wait for all on_close. Not
 * from the loop thread. */
void rpc_server_close(struct rpc_server *s, unsigned grace_ms);

/* ---- client ---------------------------------------------------------------------------- */

/* Connects in the background, keeps reconnecting (100 ms to 1 s), own TCP connection, keepalive
 * 2 s + 2 s, no proxy, no retries, no compression. */
Q_MUST_CHECK int rpc_channel_open(struct rpc_channel **out, struct rpc_loop *l, const char *address,
                                  size_t max_message_bytes, struct err *e);
/* All its streams must be over or are cancelled; they still get their on_close. */
void rpc_channel_close(struct rpc_channel *c);

struct rpc_call_config {
    const char *method;
    const struct rpc_handler *handler; /* borrowed for the stream's life */
    void *ctx;
    uint64_t deadline_ms;   /* from now; 0: none (long streams: keepalive finds dead peers) */
    bool wait_for_ready;    /* wait for a connection instead of failing fast (joins) */
    size_t max_queue_bytes; /* bound of the outgoing queue; 0: 1 MiB */
};
Q_MUST_CHECK int rpc_stream_open(struct rpc_stream **out, struct rpc_channel *c,
                                 const struct rpc_call_config *cfg, struct err *e);
/* Callbacks may run before rpc_stream_open returns; *out is set before the first. */

/* One message out, one message back. done runs once on the loop thread: status RPC_OK with the
 * reply, or an error with text. Not at all when this returns an error. deadline_ms 0: 30 s. */
Q_MUST_CHECK int rpc_call(struct rpc_channel *c, const char *method, const void *data, size_t n,
                          uint64_t deadline_ms,
                          void (*done)(void *ctx, enum rpc_status status, const char *msg,
                                       const void *data, size_t n),
                          void *ctx, struct err *e);

/* ---- both ends -------------------------------------------------------------------------- */

void rpc_stream_set_handler(struct rpc_stream *s, const struct rpc_handler *h, void *ctx);
void *rpc_stream_ctx(const struct rpc_stream *s);
const char *rpc_stream_peer(const struct rpc_stream *s); /* address, for logs */

/* Milliseconds until the call's deadline; UINT64_MAX when it has none. */
uint64_t rpc_stream_deadline_ms(const struct rpc_stream *s);

/* Queue one message (copied). Q_EFULL: over the bound, nothing was queued, wait for
 * on_writable; an empty queue takes any message up to max_message_bytes. Q_EINVAL: larger than
 * that. Q_ECANCELLED: the stream is over or finished. */
int rpc_stream_send(struct rpc_stream *s, const void *data, size_t n);
/* Two pieces as one message, one copy: a header and a tensor. */
int rpc_stream_send2(struct rpc_stream *s, const void *head, size_t n_head, const void *body,
                     size_t n_body);
/* Client: no more messages from us. Server: end the call with a status after what is queued. */
void rpc_stream_finish(struct rpc_stream *s, enum rpc_status status, const char *msg);
/* End the call now; on_close follows, on_message and on_writable do not run any more. */
void rpc_stream_cancel(struct rpc_stream *s);
/* Back-pressure on the peer: while on, at most one more on_message runs, then the transport's
 * window fills and the peer's sends stop. A pause ends by itself when the call is over. */
void rpc_stream_pause(struct rpc_stream *s, bool on);
struct rpc_stream *rpc_stream_ref(struct rpc_stream *s);
void rpc_stream_unref(struct rpc_stream *s); /* NULL is fine */

/* ---- messages --------------------------------------------------------------------------- */

/* protobuf-c's generic message; each generated struct begins with it as `base`. */
struct ProtobufCMessage;
struct ProtobufCMessageDescriptor;

/* Pack and send. Same results as rpc_stream_send, plus Q_ENOMEM. */
int rpc_stream_send_msg(struct rpc_stream *s, const struct ProtobufCMessage *m);
/* Bytes (malloc'ed, caller's) of a message. */
Q_MUST_CHECK int rpc_pack(const struct ProtobufCMessage *m, void **data, size_t *n);
/* NULL when the bytes are not such a message, a string in it is not UTF-8, or memory beyond
 * max_bytes would be needed. Free with rpc_msg_free. */
struct ProtobufCMessage *rpc_unpack(const struct ProtobufCMessageDescriptor *d, const void *data,
                                    size_t n, size_t max_bytes);
void rpc_msg_free(struct ProtobufCMessage *m); /* NULL is fine */

#endif
