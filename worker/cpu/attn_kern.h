/* SPDX-License-Identifier: Apache-2.0 */
/* attn_kern.h - one step of attention: a block of keys and values for a few queries.
 *
 * Layout of a page and head in KV memory, 16 positions (attn_layout_of has the places):
 *
 *     f16, f32:  K [dk][16]          dimension-major, so that a vector holds one dimension of 16
 *                                    keys and a score needs no horizontal sum
 *                V [16][dv_pad]      dv_pad = head_dim_v rounded up to 16; padding stays zero
 *
 *     q8_0:      K [dk4][16][4]      code + 128; 4 dimensions of a key side by side for integer
 *                                    dot products, dk4 = ceil(dk / 4)
 *                scales [ceil(dk / 32)][16] f16
 *                V [4][dv_pad][4]    code + 128; 4 positions of a dimension side by side
 *                scales [ceil(dv / 64)][16] f16
 *
 * A key has a scale for 32 dimensions, as in GGUF's q8_0; a value one for 64, because its
 * scales are folded into the weights, which then become 16-bit integers group by group. The
 * last group of a head may be shorter. Queries are 16-bit integers too, so that what is lost
 * is lost in the cache alone.
 *
 * A query walks its keys in blocks of ATTN_BLOCK positions, aligned from position 0, with a
 * running maximum. What a query gets from a block depends on its own bounds alone, not on the
 * queries beside it: sameness for any batch. All levels give the same bits: a float score sums
 * even and odd dimensions apart, values are fused onto the sum position by position, the
 * exponentials of a block are added in 16 lanes and these as a tree; integer sums are exact.
 * Pure functions, any thread. */
#ifndef QUIRE_CPU_ATTN_KERN_H
#define QUIRE_CPU_ATTN_KERN_H

#include "quant/kern.h"
#include "worker/model/backend.h"

#define ATTN_BLOCK   64
#define ATTN_PAGES   (ATTN_BLOCK / BACKEND_PAGE_TOKENS)
#define ATTN_TILE    8  /* queries that share loaded keys */
#define ATTN_K_GROUP 32 /* dimensions of a q8_0 scale */
#define ATTN_V_GROUP 64
#define ATTN_UNIT    8 /* bytes of 4 integers of a query: int16, or high and low parts */
#define ATTN_V_ALIGN 16
#define ATTN_MASKED  (-1e30f) /* below any score; exp of it is 0 */
#define ATTN_INT_MAX 32512    /* of a query's or weight's integers: 127 * 256 */
#define ATTN_TINY    (1e-30f) /* largest magnitudes below this count as zero */

/* Places in the bytes of a page and head. */
struct attn_layout {
    enum kv_type type;
    bool split; /* q8_0 units hold 4 high and 4 low parts: x = 256 high + low */
    uint32_t dk, dv, dv_pad;
    size_t k_scales, v, v_scales, bytes; /* bytes: a multiple of 64 */
    size_t query_bytes, tile_bytes;      /* of a prepared query; of a tile of them */
};

struct attn_kern;
struct attn_layout attn_layout_of(const struct attn_kern *k, enum kv_type type, uint32_t dk,
                                  uint32_t dv);

/* Write one key [dk] or value [dv] to slot 0..15 of a page and head. */
void attn_store_k(const struct attn_kern *k, const struct attn_layout *l,
                  const struct kern_vec *vec, unsigned char *page, uint32_t slot, const float *x);
void attn_store_v(const struct attn_kern *k, const struct attn_layout *l,
                  const struct kern_vec *vec, unsigned char *page, uint32_t slot, const float *x);

/* A query, times `scale`, in the form that attn_put_query wants: query_bytes. */
void attn_set_query(const struct attn_kern *k, const struct attn_layout *l, const float *x,
                    float scale, void *query);
/* Place a prepared query in lane 0..ATTN_TILE - 1 of a tile. Floats: [dk][ATTN_TILE]. q8_0:
 * units [dk4][ATTN_TILE], float scale [ATTN_TILE], int32 [groups][ATTN_TILE] 128 x sum. */
void attn_put_query(const struct attn_layout *l, const void *query, uint32_t lane,
                    unsigned char *tile);

struct attn_block {
    const struct attn_layout *l;
    const unsigned char *page[ATTN_PAGES]; /* those that any query sees are set */
    /* Pages that will be read soon and are fetched meanwhile; NULL: none. */
    const unsigned char *next[ATTN_PAGES];
    uint32_t n_q;
    const unsigned char *q; /* tiles */
    /* Query i sees keys [lo[i], hi[i]) of the block; hi <= lo: none, it is left alone. */
    const uint8_t *lo, *hi;
    float *max, *sum; /* [n_q] running maximum (ATTN_MASKED at first) and sum of exponentials */
    float *acc;       /* [n_q][dv_pad] running sum of values */
};

struct attn_kern {
    void (*block[KV_TYPES])(const struct attn_block *b); /* by enum kv_type */
    /* exp(x) as the steps above compute it: merging partial results must agree. */
    float (*exp1)(float x);
    /* For q8_0. Largest magnitude, NaN passed over. */
    float (*largest)(const float *x, uint32_t n);
    /* Up to 32 values times inv, to the nearest integer (half way: even), NaN as 0: as codes
     * clipped to 127 and plus 128; as units clipped to ATTN_INT_MAX, the last one filled with
     * zeros. The latter returns their sum. */
    void (*codes)(const float *x, uint32_t n, float inv, unsigned char *out);
    int32_t (*units)(const float *x, uint32_t n, float inv, unsigned char *out);
    bool split; /* of its layouts */
};

const struct attn_kern *attn_kern_at(enum kern_level level);

extern const struct attn_kern attn_kern_ref;
#if defined(__x86_64__)
extern const struct attn_kern attn_kern_avx2, attn_kern_avx512;
#elif defined(__aarch64__)
extern const struct attn_kern attn_kern_neon;
#endif

#endif
