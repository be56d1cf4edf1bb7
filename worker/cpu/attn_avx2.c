/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/cpu/attn_kern.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define VF        __m256
#define VI        __m256i
#define LANES     8
#define S_TILE    4
#define V_MOST    4
#define V_TILE(n) 2

#define v_zero                _mm256_setzero_ps
#define v_set1                _mm256_set1_ps
#define v_load                _mm256_loadu_ps
#define v_store               _mm256_storeu_ps
#define v_half(p)             _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define v_fma                 _mm256_fmadd_ps
#define v_add                 _mm256_add_ps
#define v_sub                 _mm256_sub_ps
#define v_mul                 _mm256_mul_ps
#define v_max                 _mm256_max_ps
#define v_abs(x)              _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x)
#define v_min                 _mm256_min_ps
#define v_real(x)             _mm256_and_ps(_mm256_cmp_ps(x, x, _CMP_ORD_Q), x)
#define v_zero_below(x, t, y) _mm256_and_ps(_mm256_cmp_ps(t, x, _CMP_LT_OQ), y)

static inline __m256 v_scale2(__m256 x, __m256 n)
{
    __m256i e = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), e));
}

static inline float v_hmax(__m256 x)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

#define vi_float _mm256_cvtepi32_ps
#define vi_near  _mm256_cvtps_epi32
#define vi_set1  _mm256_set1_epi32
#define vi_add   _mm256_add_epi32

static inline int32_t vi_sum(__m256i x)
{
    __m128i m = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    m = _mm_add_epi32(m, _mm_unpackhi_epi64(m, m));
    return _mm_cvtsi128_si32(_mm_add_epi32(m, _mm_shuffle_epi32(m, 1)));
}

static inline float v_tree16(const __m256 *x)
{
    __m256 half = _mm256_add_ps(x[0], x[1]);
    __m128 m = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    m = _mm_add_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_add_ss(m, _mm_movehdup_ps(m)));
}

/* Half of what dots() does: 8 columns. */
static inline __attribute__((always_inline)) void
dots8(const unsigned char *const *codes, const unsigned char *const *next, uint32_t n_codes,
      uint32_t n, size_t step, const unsigned char *units, const size_t unit_step,
      const size_t lane_step, const int32_t *sums, const int nq, size_t column, __m256i (*out)[2])
{
    __m256i sum[S_TILE][2];
    for (int i = 0; i < nq; i++)
        sum[i][0] = sum[i][1] = _mm256_setzero_si256();
    for (uint32_t c = 0; c < n_codes; c++) {
        const __m128i *at = (const __m128i *)(const void *)(codes[c] + column * 4);
        for (uint32_t u = 0; u < n; u++, units += unit_step) {
            __m256i k0 = _mm256_cvtepu8_epi16(_mm_loadu_si128(at));
            __m256i k1 = _mm256_cvtepu8_epi16(_mm_loadu_si128(at + 1));
            if (column == 0)
                __builtin_prefetch(next[c] + u * step, 0, 3);
            at = (const __m128i *)(const void *)((const unsigned char *)at + step);
            for (int i = 0; i < nq; i++) {
                int64_t unit;
                memcpy(&unit, units + (size_t)i * lane_step, sizeof(unit));
                __m256i q = _mm256_set1_epi64x(unit);
                sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(k0, q));
                sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(k1, q));
            }
        }
    }
    for (int i = 0; i < nq; i++) {
        __m256i pairs = _mm256_hadd_epi32(sum[i][0], sum[i][1]);
        pairs = _mm256_permute4x64_epi64(pairs, _MM_SHUFFLE(3, 1, 2, 0));
        out[i][column / 8] = _mm256_sub_epi32(pairs, _mm256_set1_epi32(sums[i]));
    }
}

/* Sums over n_codes times n groups of 4 of (code + 128) x integer, less sums[], 16 columns at
 * once. Groups of codes are `step` bytes apart, next[] is fetched alike; units hold 4
 * integers. */
static inline __attribute__((always_inline)) void
dots(const unsigned char *const *codes, const unsigned char *const *next, uint32_t n_codes,
     uint32_t n, size_t step, const unsigned char *units, const size_t unit_step,
     const size_t lane_step, const int32_t *sums, const int nq, __m256i (*out)[2])
{
    dots8(codes, next, n_codes, n, step, units, unit_step, lane_step, sums, nq, 0, out);
    dots8(codes, next, n_codes, n, step, units, unit_step, lane_step, sums, nq, 8, out);
}

static inline void put_units(const __m256i *x, unsigned char *units)
{
    for (int h = 0; h < 2; h++) {
        __m256i mixed = _mm256_packs_epi32(x[2 * h], x[2 * h + 1]);
        __m256i straight = _mm256_permute4x64_epi64(mixed, _MM_SHUFFLE(3, 1, 2, 0));
        _mm256_storeu_si256((__m256i *)(void *)(units + 32 * h), straight);
    }
}

static inline void put_codes(const __m256i *x, unsigned char *out)
{
    for (int h = 0; h < 2; h++) {
        __m256i mixed = _mm256_packs_epi32(x[2 * h], x[2 * h + 1]);
        __m256i words = _mm256_permute4x64_epi64(mixed, _MM_SHUFFLE(3, 1, 2, 0));
        __m128i bytes =
            _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128((__m128i *)(void *)(out + 16 * h), bytes);
    }
}

#include "worker/cpu/attn_simd.h"

const struct attn_kern attn_kern_avx2 = {
    {block_f16, block_q8, block_f32}, exp1, largest, codes, units, false};

#endif
