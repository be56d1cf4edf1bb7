/* SPDX-License-Identifier: Apache-2.0 */
#include "quant/qtype.h"
#include "worker/cpu/attn_kern.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#define PAGE BACKEND_PAGE_TOKENS

static float load(const void *p, size_t i, bool f32)
{
    return f32 ? ((const float *)p)[i] : qtype_f16_to_f32(((const uint16_t *)p)[i]);
}

static void one_query(const struct attn_block *b, uint32_t i, bool f32)
{
    float s[ATTN_BLOCK], max = b->max[i], sum = 0;
    float *acc = b->acc + (size_t)i * b->dv_pad;

    for (uint32_t j = b->lo[i]; j < b->hi[i]; j++) {
        const void *k = b->k[j / PAGE];
        float dot = 0;
        for (uint32_t d = 0; d < b->dk; d++)
            dot += b->q[i][d] * load(k, (size_t)d * PAGE + j % PAGE, f32);
        s[j] = dot;
        max = dot > max ? dot : max;
    }
    float rescale = expf(b->max[i] - max);
    for (uint32_t d = 0; d < b->dv_pad; d++)
        acc[d] *= rescale;
    for (uint32_t j = b->lo[i]; j < b->hi[i]; j++) {
        float p = expf(s[j] - max);
        sum += p;
        for (uint32_t d = 0; d < b->dv_pad; d++)
            acc[d] += p * load(b->v[j / PAGE], (size_t)(j % PAGE) * b->dv_pad + d, f32);
    }
    b->sum[i] = b->sum[i] * rescale + sum;
    b->max[i] = max;
}

static void block_f16(const struct attn_block *b)
{
    for (uint32_t i = 0; i < b->n_q; i++) {
        if (b->lo[i] < b->hi[i])
            one_query(b, i, false);
    }
}

static void block_f32(const struct attn_block *b)
{
    for (uint32_t i = 0; i < b->n_q; i++) {
        if (b->lo[i] < b->hi[i])
            one_query(b, i, true);
    }
}

static float exp1(float x)
{
    return expf(x);
}

const struct attn_kern attn_kern_ref = {block_f16, block_f32, exp1};

const struct attn_kern *attn_kern_at(enum kern_level level)
{
#if defined(__x86_64__)
    if (level == KERN_AVX512)
        return &attn_kern_avx512;
    if (level == KERN_AVX2)
        return &attn_kern_avx2;
#endif
    (void)level;
    return &attn_kern_ref;
}
