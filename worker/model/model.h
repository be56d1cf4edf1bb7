/* SPDX-License-Identifier: Apache-2.0 */
/* model.h - an opened model file: hyper-parameters and where its tensors are.
 *
 * model_open checks that every tensor the architecture needs exists with the expected shape
 * and reports all faults in one message. Immutable afterwards; any thread may read. */
#ifndef QUIRE_MODEL_MODEL_H
#define QUIRE_MODEL_MODEL_H

#include "quant/gguf.h"

#include <stdbool.h>

struct model;

struct model_hparams {
    char arch[32];
    uint32_t n_layers, width, n_heads, n_kv_heads, head_dim_k, head_dim_v, n_ff, n_vocab;
    uint32_t n_ctx_train;
    float norm_eps;
    /* Positions, see specs of RoPE scaling in docs/architecture.md. */
    uint32_t n_rot;
    bool rope_neox;
    double rope_base, rope_scale; /* scale multiplies the position: 1 / factor */
    bool tied_output;
    uint64_t n_params;
};

Q_MUST_CHECK int model_open(struct model **out, const char *path, struct err *e);
void model_close(struct model *m);
const struct model_hparams *model_hparams(const struct model *m);
const struct gguf *model_gguf(const struct model *m);

/* What placement needs. Bytes as they will be resident for layers [from, to) and the extras. */
size_t model_layer_bytes(const struct model *m, uint32_t layer);
size_t model_embed_bytes(const struct model *m);
size_t model_head_bytes(const struct model *m);
/* KV bytes per position and layer for a KV type (enum kv_type of backend.h). */
size_t model_kv_bytes_per_token(const struct model *m, int kv_type);

#endif
