/* SPDX-License-Identifier: Apache-2.0 */
/* model.h - an opened model file: hyper-parameters and where its tensors are.
 *
 * model_open checks that every tensor the architecture needs exists with the expected shape
 * and reports all faults in one message. Immutable afterwards; any thread may read. */
#ifndef QUIRE_MODEL_MODEL_H
#define QUIRE_MODEL_MODEL_H

#include "quant/gguf.h"
#include "worker/model/arch.h"

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
    float rope_magnitude;         /* cos and sin are multiplied by it; 1 without YaRN */
    float attn_scale; /* of the scores, 1 / sqrt(head_dim_k) unless the file says otherwise */
    uint32_t window;  /* a key is seen from window - 1 positions ahead at most; 0: always */
    bool tied_output;
    uint64_t n_params;
};

Q_MUST_CHECK int model_open(struct model **out, const char *path, struct err *e);
void model_close(struct model *m);
const struct model_hparams *model_hparams(const struct model *m);
const struct gguf *model_gguf(const struct model *m);

/* The tensor in a role; `layer` counts for roles of a layer. NULL: the model has none. The
 * output matrix of a tied model is its embedding. */
const struct gguf_tensor *model_tensor(const struct model *m, enum model_role role, uint32_t layer);
/* Angle per position of each rotated pair, n_rot / 2 of them, all scaling included. */
const double *model_rope_freqs(const struct model *m);

/* What placement needs. Bytes as they will be resident for layers [from, to) and the extras. */
size_t model_layer_bytes(const struct model *m, uint32_t layer);
size_t model_embed_bytes(const struct model *m);
size_t model_head_bytes(const struct model *m);
/* KV bytes per position and layer for a KV type (enum kv_type of backend.h). */
size_t model_kv_bytes_per_token(const struct model *m, int kv_type);

#endif
