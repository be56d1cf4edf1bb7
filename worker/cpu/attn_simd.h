/* SPDX-License-Identifier: Apache-2.0 */
/* attn_simd.h - the attention step for a vector ISA; included by attn_avx2.c and
 * attn_avx512.c, which define first:
 *
 *   VF, LANES            vector of floats and its length (16 is a multiple of it)
 *   v_zero, v_set1, v_load, v_store, v_half (16-bit floats widened), v_fma(a, b, c) = ab + c,
 *   v_add, v_sub, v_mul, v_max, v_round, v_scale2(x, n) = x 2^n for integral n,
 *   v_hmax, v_hadd, v_zero_below(x, t, y) = t < x ? y : 0 per lane
 *   Q_TILE               queries that share loaded keys
 *
 * Per query all reductions have one order, whatever the tile: scores sum even and odd
 * dimensions apart, values add position by position. */

#define PAGE        BACKEND_PAGE_TOKENS
#define V_PER_PAGE  (PAGE / LANES)
#define V_PER_BLOCK (ATTN_BLOCK / LANES)

#define INLINE static inline __attribute__((always_inline))

INLINE VF load_kv(const void *p, size_t i, bool f32)
{
    return f32 ? v_load((const float *)p + i) : v_half((const uint16_t *)p + i);
}

/* exp for x <= 0; 0 below -87. Cody-Waite reduction, degree 6, error about 1e-7. */
INLINE VF v_exp(VF x)
{
    VF n = v_round(v_mul(x, v_set1(1.44269504f)));
    VF r = v_fma(n, v_set1(-0.693359375f), x);
    r = v_fma(n, v_set1(2.12194440e-4f), r);
    VF y = v_set1(1.9875691500e-4f);
    y = v_fma(y, r, v_set1(1.3981999507e-3f));
    y = v_fma(y, r, v_set1(8.3334519073e-3f));
    y = v_fma(y, r, v_set1(4.1665795894e-2f));
    y = v_fma(y, r, v_set1(1.6666665459e-1f));
    y = v_fma(y, r, v_set1(5.0000001201e-1f));
    y = v_fma(y, v_mul(r, r), r);
    y = v_add(y, v_set1(1.0f));
    return v_zero_below(x, v_set1(-87.0f), v_scale2(y, n));
}

INLINE void scores_tile(const struct attn_block *b, uint32_t q0, const int nq, uint32_t page,
                        float (*s)[ATTN_BLOCK], bool f32)
{
    const void *k = b->k[page];
    const float *q[Q_TILE];
    for (int i = 0; i < nq; i++)
        q[i] = b->q[q0 + (uint32_t)i];
    for (size_t h = 0; h < V_PER_PAGE; h++) {
        VF even[Q_TILE], odd[Q_TILE];
        for (int i = 0; i < nq; i++)
            even[i] = odd[i] = v_zero();
        size_t d = 0;
        for (; d + 2 <= b->dk; d += 2) {
            VF k0 = load_kv(k, d * PAGE + h * LANES, f32);
            VF k1 = load_kv(k, (d + 1) * PAGE + h * LANES, f32);
            for (int i = 0; i < nq; i++) {
                even[i] = v_fma(v_set1(q[i][d]), k0, even[i]);
                odd[i] = v_fma(v_set1(q[i][d + 1]), k1, odd[i]);
            }
        }
        if (d < b->dk) {
            VF k0 = load_kv(k, d * PAGE + h * LANES, f32);
            for (int i = 0; i < nq; i++)
                even[i] = v_fma(v_set1(q[i][d]), k0, even[i]);
        }
        for (int i = 0; i < nq; i++)
            v_store(s[i] + page * PAGE + h * LANES, v_add(even[i], odd[i]));
    }
}

/* Turn the scores of one query into weights; returns the factor for what it had before. */
INLINE float softmax_step(const struct attn_block *b, uint32_t i, float *s)
{
    for (uint32_t j = 0; j < b->lo[i]; j++)
        s[j] = ATTN_MASKED;
    for (uint32_t j = b->hi[i]; j < ATTN_BLOCK; j++)
        s[j] = ATTN_MASKED;
    VF m = v_load(s);
    for (size_t h = 1; h < V_PER_BLOCK; h++)
        m = v_max(m, v_load(s + h * LANES));
    float max = v_hmax(m);
    max = max > b->max[i] ? max : b->max[i];
    VF sum = v_zero();
    for (size_t h = 0; h < V_PER_BLOCK; h++) {
        VF p = v_exp(v_sub(v_load(s + h * LANES), v_set1(max)));
        v_store(s + h * LANES, p);
        sum = v_add(sum, p);
    }
    float rescale = 1;
    if (max != b->max[i]) {
        float tmp[LANES];
        v_store(tmp, v_exp(v_set1(b->max[i] - max)));
        rescale = tmp[0];
    }
    b->sum[i] = b->sum[i] * rescale + v_hadd(sum);
    b->max[i] = max;
    return rescale;
}

/* Values for nq queries with equal bounds, nv vectors from dimension d0 on. */
INLINE void values_tile(const struct attn_block *b, uint32_t q0, const int nq, size_t d0,
                        const int nv, const float (*s)[ATTN_BLOCK], const float *rescale, bool f32)
{
    VF acc[4][4];
    for (int i = 0; i < nq; i++) {
        const float *from = b->acc + (q0 + (size_t)i) * b->dv_pad + d0;
        for (int c = 0; c < nv; c++)
            acc[i][c] = v_mul(v_load(from + c * LANES), v_set1(rescale[i]));
    }
    uint32_t hi = b->hi[q0];
    for (uint32_t j = b->lo[q0]; j < hi;) {
        const void *v = b->v[j / PAGE];
        uint32_t end = (j / PAGE + 1) * PAGE;
        end = end < hi ? end : hi;
        for (; j < end; j++) {
            size_t at = (size_t)(j % PAGE) * b->dv_pad + d0;
            VF val[4];
            for (int c = 0; c < nv; c++)
                val[c] = load_kv(v, at + (size_t)c * LANES, f32);
            for (int i = 0; i < nq; i++) {
                VF p = v_set1(s[i][j]);
                for (int c = 0; c < nv; c++)
                    acc[i][c] = v_fma(p, val[c], acc[i][c]);
            }
        }
    }
    for (int i = 0; i < nq; i++) {
        float *to = b->acc + (q0 + (size_t)i) * b->dv_pad + d0;
        for (int c = 0; c < nv; c++)
            v_store(to + c * LANES, acc[i][c]);
    }
}

INLINE void values(const struct attn_block *b, uint32_t q0, const int nq,
                   const float (*s)[ATTN_BLOCK], const float *rescale, bool f32)
{
    size_t d = 0;
    for (; d + V_TILE * LANES <= b->dv_pad; d += V_TILE * LANES)
        values_tile(b, q0, nq, d, V_TILE, s, rescale, f32);
    for (; d < b->dv_pad; d += LANES)
        values_tile(b, q0, nq, d, 1, s, rescale, f32);
}

INLINE void scores_pages(const struct attn_block *b, uint32_t q0, const int nq,
                         float (*s)[ATTN_BLOCK], bool f32)
{
    uint32_t lo = ATTN_BLOCK, hi = 0;
    for (int i = 0; i < nq; i++) {
        uint32_t q = q0 + (uint32_t)i;
        if (b->lo[q] >= b->hi[q])
            continue;
        lo = b->lo[q] < lo ? b->lo[q] : lo;
        hi = b->hi[q] > hi ? b->hi[q] : hi;
    }
    for (uint32_t page = lo / PAGE; page * PAGE < hi; page++)
        scores_tile(b, q0, nq, page, s, f32);
}

INLINE void block(const struct attn_block *b, bool f32)
{
    for (uint32_t q0 = 0; q0 < b->n_q; q0 += Q_TILE) {
        float s[Q_TILE][ATTN_BLOCK] __attribute__((aligned(64)));
        float rescale[Q_TILE];
        uint32_t n = b->n_q - q0 < Q_TILE ? b->n_q - q0 : Q_TILE;
        switch (n) {
        case 8:
            scores_pages(b, q0, 8, s, f32);
            break;
        case 7:
            scores_pages(b, q0, 7, s, f32);
            break;
        case 6:
            scores_pages(b, q0, 6, s, f32);
            break;
        case 5:
            scores_pages(b, q0, 5, s, f32);
            break;
        case 4:
            scores_pages(b, q0, 4, s, f32);
            break;
        case 3:
            scores_pages(b, q0, 3, s, f32);
            break;
        case 2:
            scores_pages(b, q0, 2, s, f32);
            break;
        default:
            scores_pages(b, q0, 1, s, f32);
            break;
        }
        for (uint32_t i = 0; i < n; i++) {
            bool any = b->lo[q0 + i] < b->hi[q0 + i];
            rescale[i] = any ? softmax_step(b, q0 + i, s[i]) : 1;
        }
        for (uint32_t i = 0; i < n;) {
            uint32_t lo = b->lo[q0 + i], hi = b->hi[q0 + i], same = 1;
            while (i + same < n && same < 4 && b->lo[q0 + i + same] == lo &&
                   b->hi[q0 + i + same] == hi)
                same++;
            const float(*si)[ATTN_BLOCK] = (const float(*)[ATTN_BLOCK])(s + i);
            if (lo >= hi) {
                /* nothing to see */
            } else if (same == 4) {
                values(b, q0 + i, 4, si, rescale + i, f32);
            } else if (same == 3) {
                values(b, q0 + i, 3, si, rescale + i, f32);
            } else if (same == 2) {
                values(b, q0 + i, 2, si, rescale + i, f32);
            } else {
                values(b, q0 + i, 1, si, rescale + i, f32);
            }
            i += same;
        }
    }
}

static void block_f16(const struct attn_block *b)
{
    block(b, false);
}

static void block_f32(const struct attn_block *b)
{
    block(b, true);
}

static float exp1(float x)
{
    float tmp[LANES];
    v_store(tmp, v_exp(v_set1(x)));
    return tmp[0];
}
