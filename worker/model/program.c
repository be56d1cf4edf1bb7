/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/program.h"

#include <stdlib.h>

#define OPS_PER_LAYER 4

static struct prog_op *append(struct program *p, enum prog_kind kind, uint32_t layer)
{
    struct prog_op *op = &p->ops[p->n_ops++];
    op->kind = kind;
    op->layer = layer;
    return op;
}

static void add_layer(struct program *p, uint32_t layer)
{
    const struct model *m = p->model;
    struct prog_op *op = append(p, PROG_QKV, layer);
    op->norm = model_tensor(m, ROLE_ATTN_NORM, layer);
    op->q_norm = model_tensor(m, ROLE_ATTN_Q_NORM, layer);
    op->k_norm = model_tensor(m, ROLE_ATTN_K_NORM, layer);
    op->mat[PROG_Q].w = model_tensor(m, ROLE_ATTN_Q, layer);
    op->mat[PROG_Q].bias = model_tensor(m, ROLE_ATTN_Q_BIAS, layer);
    op->mat[PROG_K].w = model_tensor(m, ROLE_ATTN_K, layer);
    op->mat[PROG_K].bias = model_tensor(m, ROLE_ATTN_K_BIAS, layer);
    op->mat[PROG_V].w = model_tensor(m, ROLE_ATTN_V, layer);
    op->mat[PROG_V].bias = model_tensor(m, ROLE_ATTN_V_BIAS, layer);

    bool last = layer + 1 == p->layer_to;
    op = append(p, PROG_ATTN, layer);
    op->crop = last; /* queries of unwanted rows have no reader */

    op = append(p, PROG_OUT, layer);
    op->crop = last;
    op->mat[PROG_W].w = model_tensor(m, ROLE_ATTN_OUT, layer);
    op->mat[PROG_W].bias = model_tensor(m, ROLE_ATTN_OUT_BIAS, layer);

    op = append(p, PROG_FFN, layer);
    op->norm = model_tensor(m, ROLE_FFN_NORM, layer);
    op->mat[PROG_GATE].w = model_tensor(m, ROLE_FFN_GATE, layer);
    op->mat[PROG_UP].w = model_tensor(m, ROLE_FFN_UP, layer);
    op->mat[PROG_DOWN].w = model_tensor(m, ROLE_FFN_DOWN, layer);
}

int program_compile(struct program **out, const struct model *m, uint32_t from, uint32_t to,
                    bool embed, bool head, struct err *e)
{
    *out = NULL;
    if (from > to || to > model_hparams(m)->n_layers) {
        return err_set(e, Q_EINVAL, "layers %u to %u of a model with %u", from, to,
                       model_hparams(m)->n_layers);
    }
    size_t n = (size_t)(to - from) * OPS_PER_LAYER + 2;
    struct program *p = calloc(1, sizeof(*p) + n * sizeof(p->ops[0]));
    if (!p)
        return err_set(e, Q_ENOMEM, "no memory for the layer program");
    p->model = m;
    p->layer_from = from;
    p->layer_to = to;
    p->embed = embed;
    p->head = head;
    if (embed)
        append(p, PROG_EMBED, 0)->mat[PROG_W].w = model_tensor(m, ROLE_TOKEN_EMBD, 0);
    for (uint32_t layer = from; layer < to; layer++)
        add_layer(p, layer);
    if (head) {
        struct prog_op *op = append(p, PROG_HEAD, 0);
        op->crop = from == to;
        op->norm = model_tensor(m, ROLE_OUTPUT_NORM, 0);
        op->mat[PROG_W].w = model_tensor(m, ROLE_OUTPUT, 0);
    }
    *out = p;
    return 0;
}

void program_free(struct program *p)
{
    free(p);
}
