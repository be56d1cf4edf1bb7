/* SPDX-License-Identifier: Apache-2.0 */
/* Vector operations for AVX-512. */
#include "quant/kern_impl.h"
#include "quant/simd.h"
#include "quant/vec_const.h"

#include <immintrin.h>
#include <math.h>

typedef __m512 vf;

enum { ACC_CHUNK = 8 };

INLINE __mmask16 first(uint32_t n)
{
    return (__mmask16)((1u << n) - 1);
}

INLINE vf v_set(float x)
{
    return _mm512_set1_ps(x);
}

INLINE vf v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

INLINE vf v_load_n(const float *p, uint32_t n)
{
    return _mm512_maskz_loadu_ps(first(n), p);
}

INLINE void v_store(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}

INLINE void v_store_n(float *p, vf v, uint32_t n)
{
    _mm512_mask_storeu_ps(p, first(n), v);
}

INLINE vf v_load_half(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

INLINE vf v_load_half_n(const uint16_t *p, uint32_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p));
}

INLINE __m256i to_half(vf v)
{
    return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
}

INLINE void v_store_half(uint16_t *p, vf v)
{
    _mm256_storeu_si256((__m256i *)(void *)p, to_half(v));
}

INLINE void v_store_half_n(uint16_t *p, vf v, uint32_t n)
{
    _mm256_mask_storeu_epi16(p, first(n), to_half(v));
}

INLINE vf v_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

INLINE vf v_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}

INLINE vf v_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

INLINE vf v_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}

INLINE vf v_neg(vf a)
{
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}

INLINE vf v_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

INLINE vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

INLINE vf v_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

INLINE vf v_round(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

INLINE vf v_two_n(vf n)
{
    __m512i i = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(i, 23));
}

INLINE vf v_zero_below(vf v, vf x, float min)
{
    return _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask(x, _mm512_set1_ps(min), _CMP_LT_OQ),
                              _mm512_setzero_ps());
}

/* Lane i + lane i + 8, then + 4. */
INLINE __m128 fold_to_4(vf v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
}

INLINE float v_fold(vf v)
{
    __m128 a = fold_to_4(v);
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

/* to[i] = v_fold(v<i>) */
INLINE void v_store_fold4(float *to, vf v0, vf v1, vf v2, vf v3)
{
    __m128 a = fold_to_4(v0), b = fold_to_4(v1), c = fold_to_4(v2), d = fold_to_4(v3);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, _mm_add_ps(_mm_add_ps(a, c), _mm_add_ps(b, d)));
}

INLINE vf twice_each(const float *p)
{
    const __m512i at = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    return _mm512_permutexvar_ps(at, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}

/* Even lanes a c - b s, odd lanes b c + a s for pairs (a, b). */
INLINE vf v_rope_pairs(vf x, const float *cosine, const float *sine)
{
    vf other = _mm512_permute_ps(x, 0xB1);
    return _mm512_fmaddsub_ps(x, twice_each(cosine), _mm512_mul_ps(other, twice_each(sine)));
}

#include "quant/vec_simd.h"

const struct kern_vec kern_vec_avx512 = VEC_TABLE;
