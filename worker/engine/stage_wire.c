/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/stage_wire.h"

#include <stdlib.h>
#include <string.h>

int stage_wire_send(struct rpc_stream *s, const struct ProtobufCMessage *m, const float *rows,
                    size_t n_values)
{
    void *pb;
    size_t n;
    int rc = rpc_pack(m, &pb, &n);
    if (rc != 0)
        return rc;
    unsigned char *head = n <= STAGE_WIRE_MAX_PB ? malloc(n + 4) : NULL;
    if (!head) {
        free(pb);
        return Q_ENOMEM;
    }
    for (unsigned i = 0; i < 4; i++)
        head[i] = (unsigned char)(n >> (8 * i));
    memcpy(head + 4, pb, n);
    free(pb);
    rc = rpc_stream_send2(s, head, n + 4, rows, n_values * sizeof(float));
    free(head);
    return rc;
}

int stage_wire_parse(struct stage_wire *w, const void *data, size_t n)
{
    const unsigned char *p = data;
    if (n < 4)
        return Q_EINVAL;
    size_t n_pb = (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
    if (n_pb > n - 4 || n_pb > STAGE_WIRE_MAX_PB || (n - 4 - n_pb) % sizeof(float) != 0)
        return Q_EINVAL;
    *w = (struct stage_wire){.pb = p + 4,
                             .n_pb = n_pb,
                             .rows = p + 4 + n_pb,
                             .n_values = (n - 4 - n_pb) / sizeof(float)};
    return 0;
}
