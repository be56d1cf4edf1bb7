/* SPDX-License-Identifier: Apache-2.0 */
/* program.h - what a stage computes, as a flat array of fat operations.
 *
 * The running state is x [rows][width], the residual stream in f32. Operations, in order:
 *
 *   EMBED  x = embedding rows of the tokens (a stage without it starts from hidden states)
 *   QKV    h = norm(x); q, k, v = h W + bias; q and k normed per head if q_norm, k_norm;
 *          q and k rotated; k and v written to the KV pages of the rows
 *   ATTN   a = softmax(q k^T * scale) v over the keys that a row may see
 *   OUT    x += a W + bias
 *   FFN    h = norm(x); x += (silu(h Wgate) * (h Wup)) Wdown
 *   HEAD   logits = norm(x) W
 *
 * `crop` marks the first operation after which only the rows with a wanted result go on.
 * A program borrows tensors from its model and is immutable: any thread may read it. */
#ifndef QUIRE_MODEL_PROGRAM_H
#define QUIRE_MODEL_PROGRAM_H

#include "worker/model/model.h"

enum prog_kind { PROG_EMBED, PROG_QKV, PROG_ATTN, PROG_OUT, PROG_FFN, PROG_HEAD };

/* Places in prog_op.mat. */
enum { PROG_Q = 0, PROG_K = 1, PROG_V = 2 };
enum { PROG_GATE = 0, PROG_UP = 1, PROG_DOWN = 2 };
enum { PROG_W = 0 }; /* EMBED, OUT, HEAD */
#define PROG_MATS 3

struct prog_mat {
    const struct gguf_tensor *w, *bias; /* bias NULL: none; w NULL: place not used */
};

struct prog_op {
    enum prog_kind kind;
    bool crop;
    uint32_t layer; /* of the model */
    const struct gguf_tensor *norm, *q_norm, *k_norm;
    struct prog_mat mat[PROG_MATS];
};

struct program {
    const struct model *model;
    uint32_t layer_from, layer_to;
    bool embed, head;
    uint32_t n_ops;
    struct prog_op ops[];
};

/* Compile layers [from, to) of a model. The result is the caller's, freed by program_free. */
Q_MUST_CHECK int program_compile(struct program **out, const struct model *m, uint32_t from,
                                 uint32_t to, bool embed, bool head, struct err *e);
void program_free(struct program *p); /* NULL is fine */

#endif
