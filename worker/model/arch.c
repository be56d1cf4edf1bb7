/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/arch.h"

#include "base/num.h"

#include <stddef.h>
#include <string.h>

static const struct arch_role roles[ROLE_COUNT] = {
    [ROLE_TOKEN_EMBD] = {"token_embd.weight", DIM_WIDTH, DIM_VOCAB},
    [ROLE_OUTPUT_NORM] = {"output_norm.weight", DIM_WIDTH, DIM_NONE},
    [ROLE_OUTPUT] = {"output.weight", DIM_WIDTH, DIM_VOCAB},
    [ROLE_ROPE_FREQS] = {"rope_freqs.weight", DIM_ROT_PAIRS, DIM_NONE},
    [ROLE_ATTN_NORM] = {"attn_norm.weight", DIM_WIDTH, DIM_NONE},
    [ROLE_ATTN_Q] = {"attn_q.weight", DIM_WIDTH, DIM_Q},
    [ROLE_ATTN_Q_BIAS] = {"attn_q.bias", DIM_Q, DIM_NONE},
    [ROLE_ATTN_K] = {"attn_k.weight", DIM_WIDTH, DIM_K},
    [ROLE_ATTN_K_BIAS] = {"attn_k.bias", DIM_K, DIM_NONE},
    [ROLE_ATTN_V] = {"attn_v.weight", DIM_WIDTH, DIM_V},
    [ROLE_ATTN_V_BIAS] = {"attn_v.bias", DIM_V, DIM_NONE},
    [ROLE_ATTN_OUT] = {"attn_output.weight", DIM_O, DIM_WIDTH},
    [ROLE_ATTN_OUT_BIAS] = {"attn_output.bias", DIM_WIDTH, DIM_NONE},
    [ROLE_ATTN_Q_NORM] = {"attn_q_norm.weight", DIM_HEAD_K, DIM_NONE},
    [ROLE_ATTN_K_NORM] = {"attn_k_norm.weight", DIM_HEAD_K, DIM_NONE},
    [ROLE_FFN_NORM] = {"ffn_norm.weight", DIM_WIDTH, DIM_NONE},
    [ROLE_FFN_GATE] = {"ffn_gate.weight", DIM_WIDTH, DIM_FF},
    [ROLE_FFN_UP] = {"ffn_up.weight", DIM_WIDTH, DIM_FF},
    [ROLE_FFN_DOWN] = {"ffn_down.weight", DIM_FF, DIM_WIDTH},
};

#define BASE                                                                                       \
    (ARCH_BIT(ROLE_TOKEN_EMBD) | ARCH_BIT(ROLE_OUTPUT_NORM) | ARCH_BIT(ROLE_ATTN_NORM) |           \
     ARCH_BIT(ROLE_ATTN_Q) | ARCH_BIT(ROLE_ATTN_K) | ARCH_BIT(ROLE_ATTN_V) |                       \
     ARCH_BIT(ROLE_ATTN_OUT) | ARCH_BIT(ROLE_FFN_NORM) | ARCH_BIT(ROLE_FFN_GATE) |                 \
     ARCH_BIT(ROLE_FFN_UP) | ARCH_BIT(ROLE_FFN_DOWN))
#define QKV_BIAS                                                                                   \
    (ARCH_BIT(ROLE_ATTN_Q_BIAS) | ARCH_BIT(ROLE_ATTN_K_BIAS) | ARCH_BIT(ROLE_ATTN_V_BIAS))
#define QK_NORM  (ARCH_BIT(ROLE_ATTN_Q_NORM) | ARCH_BIT(ROLE_ATTN_K_NORM))
#define OUTPUT   ARCH_BIT(ROLE_OUTPUT)
#define FREQS    ARCH_BIT(ROLE_ROPE_FREQS)
#define OUT_BIAS ARCH_BIT(ROLE_ATTN_OUT_BIAS)

static const struct arch archs[] = {
    {"llama", false, true, BASE, OUTPUT | FREQS | QKV_BIAS | OUT_BIAS},
    {"qwen2", true, false, BASE | QKV_BIAS, OUTPUT | FREQS | OUT_BIAS},
    {"qwen3", true, false, BASE | QK_NORM, OUTPUT | FREQS | QKV_BIAS},
};

const struct arch *arch_find(const char *name)
{
    for (size_t i = 0; i < NUM_COUNT(archs); i++) {
        if (strcmp(archs[i].name, name) == 0)
            return &archs[i];
    }
    return NULL;
}

const char *arch_names(void)
{
    return "llama, qwen2, qwen3";
}

const struct arch_role *arch_role(enum model_role role)
{
    return &roles[role];
}
