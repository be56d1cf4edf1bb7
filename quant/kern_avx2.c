/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix kernels for AVX2 with FMA and F16C: panels of 8 rows, one row per 32-bit lane.
 *
 * Codes times activations are added in 16 bits without saturation: a product pair is at most
 * 2 * 127 * code, so 8 pairs of 4-bit codes (30,480), 4 of 5-bit (31,496) and 2 of 6-bit ones
 * (32,004) fit. 8-bit codes are taken as two nibbles. Arithmetic: kern_impl.h. */
#include "quant/kern_prim_avx2.h"

#include <math.h>

enum { MAX_TILE = 4 };

INLINE __m256i dot2(__m256i lo, __m256i hi, const int8_t *q)
{
    return _mm256_add_epi16(_mm256_maddubs_epi16(lo, bcast4(q)),
                            _mm256_maddubs_epi16(hi, bcast4(q + 4)));
}

/* Integer sums of one half (half < 2) or of all 32 columns (half 2) for `tile` tokens. */
INLINE void int_dots(const struct kern_shape s, const uint8_t *low, const struct kern_act *const *a,
                     size_t b, unsigned tile, unsigned half, __m256i *sum)
{
    const __m256i one = _mm256_set1_epi16(1), sixteen = _mm256_set1_epi16(16);
    const __m256i nibble = _mm256_set1_epi8(15);
    const bool wide = s.bits == 8 || s.iq4;
    /* Groups of 8 columns whose 16-bit sums may be added before they are widened. */
    const unsigned safe = s.bits == 5 ? 2 : s.bits == 6 ? 1 : 4;
    const unsigned from = half == 1 ? 2 : 0, to = half == 0 ? 2 : 4;
    __m256i acc[MAX_TILE], acc_hi[MAX_TILE];
    UNROLL for (unsigned t = 0; t < tile; t++)
    {
        sum[t] = start_sum(s, &a[t][b], half & 1);
        acc[t] = acc_hi[t] = _mm256_setzero_si256();
    }
    UNROLL for (unsigned g = from; g < to; g++)
    {
        __m256i lo, hi;
        operands(s, low, g, &lo, &hi);
        UNROLL for (unsigned t = 0; t < tile; t++)
        {
            const int8_t *q = a[t][b].q + 8 * g;
            if (wide) {
                __m256i lo4 = _mm256_and_si256(_mm256_srli_epi16(lo, 4), nibble);
                __m256i hi4 = _mm256_and_si256(_mm256_srli_epi16(hi, 4), nibble);
                acc_hi[t] = _mm256_add_epi16(acc_hi[t], dot2(lo4, hi4, q));
                lo4 = _mm256_and_si256(lo, nibble);
                hi4 = _mm256_and_si256(hi, nibble);
                acc[t] = _mm256_add_epi16(acc[t], dot2(lo4, hi4, q));
            } else {
                acc[t] = _mm256_add_epi16(acc[t], dot2(lo, hi, q));
            }
            if ((g + 1) % safe == 0 || g + 1 == to) {
                sum[t] = _mm256_add_epi32(sum[t], _mm256_madd_epi16(acc[t], one));
                acc[t] = _mm256_setzero_si256();
            }
        }
    }
    if (wide)
        UNROLL for (unsigned t = 0; t < tile; t++) sum[t] =
            _mm256_add_epi32(sum[t], _mm256_madd_epi16(acc_hi[t], sixteen));
}

/* 32 columns for `tile` tokens whose blocks are a[t][b]. */
INLINE void block_mul(const struct kern_shape s, const struct scales *w, const uint8_t *low,
                      const struct kern_act *const *a, size_t b, unsigned tile, __m256 *acc)
{
    __m256i sum[MAX_TILE];
    __m256 v[MAX_TILE];
    const __m256 less = vf_mul(w->scale[0], vf_set(-KERN_MAGIC_F));
    int_dots(s, low, a, b, tile, halves(s) ? 0 : 2, sum);
    UNROLL for (unsigned t = 0; t < tile; t++) v[t] = scaled(sum[t], w->scale[0], less);
    if (halves(s))
        int_dots(s, low, a, b, tile, 1, sum);
    UNROLL for (unsigned t = 0; t < tile; t++) acc[t] =
        finish_block(s, w->scale[1], w->min[0], w->min[1], &a[t][b], v[t], sum[t], acc[t]);
}

#define ASK_TOKENS 2
#define PLAIN_FEW  4
#define PLAIN_TILE 6
#include "quant/kern_plain_simd.h"
#include "quant/kern_tile_simd.h"

static void act_f32(const float *x, uint32_t cols, void *act)
{
    memcpy(act, x, cols * sizeof *x);
}

INLINE int sum_i32(__m256i v)
{
    __m128i a = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    a = _mm_add_epi32(a, _mm_shuffle_epi32(a, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32(a, 0xB1)));
}

static void act_q8(const float *x, uint32_t cols, void *act)
{
    struct kern_act *a = act;
    const __m256 sign = _mm256_set1_ps(-0.0f);
    const __m256i low = _mm256_set1_epi32(-127), high = _mm256_set1_epi32(127);
    for (uint32_t b = 0; b < cols / 32; b++, x += 32, a++) {
        __m256 m = _mm256_setzero_ps();
        /* The maximum takes its second operand when one is NaN: NaN does not count. */
        for (int k = 0; k < 4; k++)
            m = _mm256_max_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(x + 8 * k)), m);
        __m128 h = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
        h = _mm_max_ps(h, _mm_movehl_ps(h, h));
        float amax = _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
        bool tiny = !(amax > KERN_ACT_TINY);
        __m256 scale = _mm256_set1_ps(tiny ? 0 : 127.0f / amax);
        int sum[2];
        for (int k = 0; k < 2; k++) {
            __m256i q0 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 16 * k), scale));
            __m256i q1 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 16 * k + 8), scale));
            q0 = _mm256_min_epi32(_mm256_max_epi32(q0, low), high);
            q1 = _mm256_min_epi32(_mm256_max_epi32(q1, low), high);
            sum[k] = sum_i32(_mm256_add_epi32(q0, q1));
            __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(q0, q1), 0xD8);
            __m128i q = _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
            _mm_store_si128((__m128i *)(void *)(a->q + 16 * k), q);
        }
        kern_act_set(a, amax, sum[0], sum[1]);
    }
}

#include "quant/kern_outlier_simd.h"

KERN_DEFINE_ROWS_AND(kern_rows_avx2,
                     PLAIN_MANY_ROWS if (kern_cpu_avxvnni()) kern_many_avxvnni(rows);)
