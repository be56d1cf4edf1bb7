/* SPDX-License-Identifier: Apache-2.0 */
/* Messages from hostile peers: the first byte picks the type, the rest are its bytes. What is
 * accepted must pack again, and the packed form must be accepted too. */
#include "base/num.h"
#include "proto/cluster.pb-c.h"
#include "proto/engine.pb-c.h"
#include "proto/rpc.h"
#include "proto/stage.pb-c.h"

#include <assert.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const ProtobufCMessageDescriptor *const types[] = {
        &quire__worker_up__descriptor,        &quire__supervisor_down__descriptor,
        &quire__generate_request__descriptor, &quire__generate_event__descriptor,
        &quire__tokenize_request__descriptor, &quire__tokenize_reply__descriptor,
        &quire__status_reply__descriptor,     &quire__session_up__descriptor,
        &quire__session_down__descriptor,     &quire__hidden_head__descriptor,
        &quire__step_plan__descriptor,        &quire__hello__descriptor,
    };
    if (n == 0)
        return 0;
    const ProtobufCMessageDescriptor *d = types[data[0] % NUM_COUNT(types)];
    ProtobufCMessage *m = rpc_unpack(d, data + 1, n - 1, 4u << 20);
    if (!m)
        return 0;
    void *packed;
    size_t n_packed;
    if (rpc_pack(m, &packed, &n_packed) == 0) {
        ProtobufCMessage *again = rpc_unpack(d, packed, n_packed, 64u << 20);
        assert(again);
        rpc_msg_free(again);
        free(packed);
    }
    rpc_msg_free(m);
    return 0;
}
