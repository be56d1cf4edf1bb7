/* SPDX-License-Identifier: Apache-2.0 */
/* Messages as bytes. protobuf-c copies strings without looking at them and allocates what the
 * bytes ask for; the limits are set here. */
#include "base/utf8.h"
#include "proto/rpc.h"

#include <malloc.h>
#include <protobuf-c/protobuf-c.h>
#include <stdlib.h>
#include <string.h>

int rpc_pack(const struct ProtobufCMessage *m, void **data, size_t *n)
{
    *n = protobuf_c_message_get_packed_size(m);
    *data = malloc(*n ? *n : 1);
    if (!*data) {
        *n = 0;
        return Q_ENOMEM;
    }
    protobuf_c_message_pack(m, *data);
    return 0;
}

struct budget {
    size_t used, max;
};

static void *budget_alloc(void *ctx, size_t n)
{
    struct budget *b = ctx;
    if (n > b->max || b->used > b->max - n)
        return NULL;
    void *p = malloc(n ? n : 1);
    if (p)
        b->used += malloc_usable_size(p);
    return p;
}

static void budget_free(void *ctx, void *p)
{
    struct budget *b = ctx;
    if (p)
        b->used -= malloc_usable_size(p);
    free(p);
}

static bool string_ok(const char *s)
{
    return !s || utf8_valid(s, strlen(s), NULL);
}

static bool accept_message(ProtobufCMessage *m);

static bool field_ok(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
    const char *base = (const char *)m;
    bool is_string = f->type == PROTOBUF_C_TYPE_STRING;
    if (!is_string && f->type != PROTOBUF_C_TYPE_MESSAGE)
        return true;
    if (f->label == PROTOBUF_C_LABEL_REPEATED) {
        size_t n = *(const size_t *)(const void *)(base + f->quantifier_offset);
        void *const *items = *(void *const *const *)(const void *)(base + f->offset);
        for (size_t i = 0; i < n; i++)
            if (is_string ? !string_ok(items[i]) : !accept_message(items[i]))
                return false;
        return true;
    }
    if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
        *(const uint32_t *)(const void *)(base + f->quantifier_offset) != f->id)
        return true;
    void *p = *(void *const *)(const void *)(base + f->offset);
    return is_string ? string_ok(p) : !p || accept_message(p);
}

/* Check the strings and forget fields of newer versions, which nobody here passes on.
 * Depth is bounded by the .proto files: no message of ours contains itself. */
static bool accept_message(ProtobufCMessage *m)
{
    for (unsigned i = 0; i < m->n_unknown_fields; i++)
        free(m->unknown_fields[i].data);
    free(m->unknown_fields);
    m->unknown_fields = NULL;
    m->n_unknown_fields = 0;
    for (unsigned i = 0; i < m->descriptor->n_fields; i++)
        if (!field_ok(m, &m->descriptor->fields[i]))
            return false;
    return true;
}

struct ProtobufCMessage *rpc_unpack(const struct ProtobufCMessageDescriptor *d, const void *data,
                                    size_t n, size_t max_bytes)
{
    struct budget b = {0, max_bytes};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &b};
    /* Not even an empty message may come from NULL. */
    ProtobufCMessage *m =
        protobuf_c_message_unpack(d, &allocator, n, data ? data : (const void *)"");
    if (m && !accept_message(m)) {
        rpc_msg_free(m);
        return NULL;
    }
    return m;
}

void rpc_msg_free(struct ProtobufCMessage *m)
{
    if (m)
        protobuf_c_message_free_unpacked(m, NULL); /* its memory is malloc's */
}
