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
#define v_abs                 _mm512_abs_ps
#define v_min                 _mm512_min_ps
#define v_real(x)             _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), x)
#define v_scale2              _mm512_scalef_ps
#define v_hmax                _mm512_reduce_max_ps
#define v_zero_below(x, t, y) _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(t, x, _CMP_LT_OQ), y)

#define vi_float _mm512_cvtepi32_ps
#define vi_near  _mm512_cvtps_epi32
#define vi_set1  _mm512_set1_epi32
#define vi_add   _mm512_add_epi32
#define vi_sum   _mm512_reduce_add_epi32

static inline float v_tree16(const __m512 *x)
{
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(*x), _mm512_extractf32x8_ps(*x, 1));
    __m128 m = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    m = _mm_add_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_add_ss(m, _mm_movehdup_ps(m)));
}

/* Sums over n_codes times n groups of 4 of (code + 128) x integer, less sums[], 16 columns at
 * once. Groups of codes are `step` bytes apart, next[] is fetched alike; units hold 4 high
 * parts and 4 low ones. */
static inline __attribute__((always_inline)) void
dots(const unsigned char *const *codes, const unsigned char *const *next, uint32_t n_codes,
     uint32_t n, size_t step, const unsigned char *units, const size_t unit_step,
     const size_t lane_step, const int32_t *sums, const int nq, __m512i (*out)[1])
{
    __m512i high[S_TILE], low[S_TILE];
    for (int i = 0; i < nq; i++) {
        high[i] = _mm512_setzero_si512();
        low[i] = _mm512_set1_epi32(-sums[i]);
    }
    for (uint32_t c = 0; c < n_codes; c++) {
        const unsigned char *at = codes[c];
        for (uint32_t u = 0; u < n; u++, at += step, units += unit_step) {
            __m512i k = _mm512_loadu_si512(at);
            __builtin_prefetch(next[c] + u * step, 0, 3);
            for (int i = 0; i < nq; i++) {
                int32_t parts[2];
                memcpy(parts, units + (size_t)i * lane_step, sizeof(parts));
                high[i] = _mm512_dpbusd_epi32(high[i], k, _mm512_set1_epi32(parts[0]));
                low[i] = _mm512_dpbusd_epi32(low[i], k, _mm512_set1_epi32(parts[1]));
            }
        }
    }
    for (int i = 0; i < nq; i++)
        out[i][0] = _mm512_add_epi32(_mm512_slli_epi32(high[i], 8), low[i]);
}

/* Where the 4 high and 4 low bytes of 8 units stand among 32 integers. */
#define UNIT(u)                                                                                    \
    16 * (u) + 1, 16 * (u) + 5, 16 * (u) + 9, 16 * (u) + 13, 16 * (u), 16 * (u) + 4, 16 * (u) + 8, \
        16 * (u) + 12
static const unsigned char unit_bytes[64] = {UNIT(0), UNIT(1), UNIT(2), UNIT(3),
                                             UNIT(4), UNIT(5), UNIT(6), UNIT(7)};

/* x = 256 high + low: the low byte of x + 128 is low + 128. */
static inline void put_units(const __m512i *x, unsigned char *units)
{
    __m512i half = _mm512_set1_epi32(128);
    __m512i all = _mm512_permutex2var_epi8(
        _mm512_add_epi32(x[0], half), _mm512_loadu_si512(unit_bytes), _mm512_add_epi32(x[1], half));
    __m512i flip = _mm512_set1_epi64((long long)0x8080808000000000U);
    _mm512_storeu_si512(units, _mm512_xor_si512(all, flip));
}

static inline void put_codes(const __m512i *x, unsigned char *out)
{
    _mm_storeu_si128((__m128i *)(void *)out, _mm512_cvtepi32_epi8(x[0]));
    _mm_storeu_si128((__m128i *)(void *)(out + 16), _mm512_cvtepi32_epi8(x[1]));
}

#include "worker/cpu/attn_simd.h"

const struct attn_kern attn_kern_avx512 = {
    {block_f16, block_q8, block_f32}, exp1, largest, codes, units, true};

#endif
