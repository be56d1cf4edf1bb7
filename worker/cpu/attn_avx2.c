/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/cpu/attn_kern.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>

#define VF     __m256
#define LANES  8
#define Q_TILE 8
#define V_TILE 2

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
#define v_round(x)            _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
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

static inline float v_hadd(__m256 x)
{
    __m128 m = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    m = _mm_add_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_add_ss(m, _mm_movehdup_ps(m)));
}

#include "worker/cpu/attn_simd.h"

const struct attn_kern attn_kern_avx2 = {block_f16, block_f32, exp1};

#endif
