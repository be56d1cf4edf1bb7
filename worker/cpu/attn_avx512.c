/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/cpu/attn_kern.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define VF        __m512
#define VI        __m512i
#define LANES     16
#define S_TILE    8
#define V_MOST    8
#define V_TILE(n) ((n) > 4 ? 2 : 4)

#define v_zero                _mm512_setzero_ps
#define v_set1                _mm512_set1_ps
#define v_load                _mm512_loadu_ps
#define v_store               _mm512_storeu_ps
#define v_half(p)             _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define v_fma                 _mm512_fmadd_ps
#define v_add                 _mm512_add_ps
#define v_sub                 _mm512_sub_ps
#define v_mul                 _mm512_mul_ps
#define v_max                 _mm512_max_ps
#define v_round(x)            _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define v_scale2              _mm512_scalef_ps
#define v_hmax                _mm512_reduce_max_ps
#define v_zero_below(x, t, y) _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(t, x, _CMP_LT_OQ), y)

#define vi_float    _mm512_cvtepi32_ps
#define vi_near     _mm512_cvtps_epi32
#define vi_set1     _mm512_set1_epi32
#define vi_unbiased _mm512_sub_epi32
#define vi_add      _mm512_add_epi32
#define vi_sum      _mm512_reduce_add_epi32

static inline float v_tree16(const __m512 *x)
{
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(*x), _mm512_extractf32x8_ps(*x, 1));
    __m128 m = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    m = _mm_add_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_add_ss(m, _mm_movehdup_ps(m)));
}

/* Sums over n_codes times n groups of 4 of (code + 128) x integer, 16 columns at once. Groups
 * of codes are `step` bytes apart, next[] is fetched alike; units hold 4 high parts and 4 low
 * ones. */
static inline __attribute__((always_inline)) void
dots(const unsigned char *const *codes, const unsigned char *const *next, uint32_t n_codes,
     uint32_t n, size_t step, const unsigned char *units, const int nq, __m512i (*out)[1])
{
    __m512i high[S_TILE], low[S_TILE];
    for (int i = 0; i < nq; i++)
        high[i] = low[i] = _mm512_setzero_si512();
    for (uint32_t c = 0; c < n_codes; c++) {
        const unsigned char *at = codes[c];
        for (uint32_t u = 0; u < n; u++, at += step, units += ATTN_TILE * ATTN_UNIT) {
            __m512i k = _mm512_loadu_si512(at);
            __builtin_prefetch(next[c] + u * step, 0, 3);
            for (int i = 0; i < nq; i++) {
                int32_t parts[2];
                memcpy(parts, units + i * ATTN_UNIT, sizeof(parts));
                high[i] = _mm512_dpbusd_epi32(high[i], k, _mm512_set1_epi32(parts[0]));
                low[i] = _mm512_dpbusd_epi32(low[i], k, _mm512_set1_epi32(parts[1]));
            }
        }
    }
    for (int i = 0; i < nq; i++)
        out[i][0] = _mm512_add_epi32(_mm512_slli_epi32(high[i], 7), low[i]);
}

/* Integers of 16 positions, 0 to ATTN_INT_MAX, as 4 units. */
static inline void put_units(const __m512i *x, unsigned char *units)
{
    __m512i high = _mm512_srli_epi32(_mm512_add_epi32(*x, _mm512_set1_epi32(64)), 7);
    __m128i h = _mm512_cvtepi32_epi8(high);
    __m128i l = _mm512_cvtepi32_epi8(_mm512_sub_epi32(*x, _mm512_slli_epi32(high, 7)));
    __m128i first = _mm_unpacklo_epi32(h, l), second = _mm_unpackhi_epi32(h, l);
    size_t step = (size_t)ATTN_TILE * ATTN_UNIT;
    _mm_storel_epi64((__m128i *)(void *)units, first);
    _mm_storeh_pd((double *)(void *)(units + step), _mm_castsi128_pd(first));
    _mm_storel_epi64((__m128i *)(void *)(units + 2 * step), second);
    _mm_storeh_pd((double *)(void *)(units + 3 * step), _mm_castsi128_pd(second));
}

#include "worker/cpu/attn_simd.h"

const struct attn_kern attn_kern_avx512 = {{block_f16, block_q8, block_f32}, exp1, true};

#endif
