/* SPDX-License-Identifier: Apache-2.0 */
/* arch.h - architectures as data: which tensors a layer has and which switches differ.
 *
 * An architecture is one row of the table in arch.c. The forward pass is the same program for
 * all of them (program.h); a row says how positions rotate and which of the known tensors must
 * or may exist. Constant data, any thread. */
#ifndef QUIRE_MODEL_ARCH_H
#define QUIRE_MODEL_ARCH_H

#include <stdbool.h>
#include <stdint.h>

/* What a tensor is for. The name in the file follows from the role (arch.c). */
enum model_role {
    ROLE_TOKEN_EMBD,
    ROLE_OUTPUT_NORM,
    ROLE_OUTPUT,
    ROLE_ROPE_FREQS,
    ROLE_ATTN_NORM, /* the first role that exists once per layer */
    ROLE_ATTN_Q,
    ROLE_ATTN_Q_BIAS,
    ROLE_ATTN_K,
    ROLE_ATTN_K_BIAS,
    ROLE_ATTN_V,
    ROLE_ATTN_V_BIAS,
    ROLE_ATTN_OUT,
    ROLE_ATTN_OUT_BIAS,
    ROLE_ATTN_Q_NORM,
    ROLE_ATTN_K_NORM,
    ROLE_FFN_NORM,
    ROLE_FFN_GATE,
    ROLE_FFN_UP,
    ROLE_FFN_DOWN,
    ROLE_COUNT
};
#define ROLE_FIRST_OF_LAYER ROLE_ATTN_NORM

/* A dimension of a tensor, named by what it counts. */
enum arch_dim {
    DIM_NONE,
    DIM_WIDTH,
    DIM_VOCAB,
    DIM_Q,
    DIM_K,
    DIM_V,
    DIM_O,
    DIM_HEAD_K,
    DIM_FF,
    DIM_ROT_PAIRS
};

struct arch_role {
    const char *name;      /* full for global tensors, without "blk.N." for those of a layer */
    enum arch_dim in, out; /* dims[0], dims[1]; out is DIM_NONE for vectors */
};

struct arch {
    const char *name;   /* general.architecture */
    bool rope_neox;     /* pairs (i, i + n_rot/2) instead of (2i, 2i + 1) */
    bool window;        /* attention.sliding_window applies to every layer */
    uint32_t must, may; /* bits of roles: required, optional */
};

#define ARCH_BIT(role) (UINT32_C(1) << (role))

/* NULL when the architecture is not known. */
const struct arch *arch_find(const char *name);
/* All names, comma separated, for messages. */
const char *arch_names(void);
const struct arch_role *arch_role(enum model_role role);

#endif
