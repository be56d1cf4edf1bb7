/* SPDX-License-Identifier: Apache-2.0 */
/* attn_kern.h - one step of attention: a block of keys and values for a few queries.
 *
 * Layout of a page and head in KV memory, 16 positions:
 *
 *     K: [head_dim_k][16]    dimension-major, so that a vector holds one dimension of 16 keys
 *                            and a score needs no horizontal sum
 *     V: [16][dv_pad]        dv_pad = head_dim_v rounded up to 16; the padding stays zero
 *
 * A query walks its keys in blocks of ATTN_BLOCK positions, aligned from position 0, with a
 * running maximum. What a query gets from a block depends on its own bounds alone, not on the
 * queries beside it: sameness for any batch. Pure functions, any thread. */
#ifndef QUIRE_CPU_ATTN_KERN_H
#define QUIRE_CPU_ATTN_KERN_H

#include "quant/kern.h"
#include "worker/model/backend.h"

#define ATTN_BLOCK   64
#define ATTN_PAGES   (ATTN_BLOCK / BACKEND_PAGE_TOKENS)
#define ATTN_V_ALIGN 16
#define ATTN_MASKED  (-1e30f) /* below any score; exp of it is 0 */

struct attn_block {
    const void *k[ATTN_PAGES], *v[ATTN_PAGES]; /* those that any query sees are set */
    uint32_t dk, dv_pad;
    uint32_t n_q;
    const float *const *q; /* [n_q], each [dk], score scale included */
    /* Query i sees keys [lo[i], hi[i]) of the block; hi <= lo: none, it is left alone. */
    const uint8_t *lo, *hi;
    float *max, *sum; /* [n_q] running maximum (ATTN_MASKED at first) and sum of exponentials */
    float *acc;       /* [n_q][dv_pad] running sum of values */
};

struct attn_kern {
    void (*f16)(const struct attn_block *b);
    void (*f32)(const struct attn_block *b);
    /* exp(x) as the steps above compute it: merging partial results must agree. */
    float (*exp1)(float x);
};

const struct attn_kern *attn_kern_at(enum kern_level level);

extern const struct attn_kern attn_kern_ref;
#if defined(__x86_64__)
extern const struct attn_kern attn_kern_avx2, attn_kern_avx512;
#endif

#endif
