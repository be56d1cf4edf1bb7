/* SPDX-License-Identifier: Apache-2.0 */
/* stage_wire.h - messages between shards: a protobuf part, then raw f32 rows.
 *
 *     u32 n (little endian) | n bytes of protobuf | rows, 4 bytes per value
 *
 * f32 on the wire, so that a split changes no bit. Both ends are little endian. Any thread. */
#ifndef QUIRE_ENGINE_STAGE_WIRE_H
#define QUIRE_ENGINE_STAGE_WIRE_H

#include "proto/rpc.h"

/* Bounds of one message: its protobuf part (a plan with its page tables) and all of it. */
#define STAGE_WIRE_MAX_PB      ((size_t)16 << 20)
#define STAGE_WIRE_MAX_MESSAGE ((size_t)256 << 20)
/* Outgoing bytes that may wait in one stream. */
#define STAGE_WIRE_QUEUE ((size_t)64 << 20)

#define STAGE_SESSION_METHOD "/quire.Stage/Session"
#define STAGE_HIDDEN_METHOD  "/quire.Stage/Hidden"

/* Results of rpc_stream_send. */
int stage_wire_send(struct rpc_stream *s, const struct ProtobufCMessage *m, const float *rows,
                    size_t n_values);

struct stage_wire {
    const void *pb;
    size_t n_pb;
    const void *rows; /* unaligned */
    size_t n_values;
};
/* Q_EINVAL when the lengths do not fit together. */
Q_MUST_CHECK int stage_wire_parse(struct stage_wire *w, const void *data, size_t n);

#endif
