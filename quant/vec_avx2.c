/* SPDX-License-Identifier: Apache-2.0 */
/* Vector operations for AVX2 with FMA and F16C: 16 lanes are two registers. */
#include "quant/kern_impl.h"
#include "quant/simd.h"
#include "quant/vec_const.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

typedef struct {
    __m256 a, b;
} vf;

enum { ACC_CHUNK = 4 };

#define BOTH(expr_a, expr_b) ((vf){expr_a, expr_b})

INLINE vf v_set(float x)
{
    return BOTH(_mm256_set1_ps(x), _mm256_set1_ps(x));
}

INLINE vf v_load(const float *p)
{
    return BOTH(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}

INLINE vf v_load_n(const float *p, uint32_t n)
{
    float t[16] = {0};
    memcpy(t, p, n * sizeof *p);
    return v_load(t);
}

INLINE void v_store(float *p, vf v)
{
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}

INLINE void v_store_n(float *p, vf v, uint32_t n)
{
    float t[16];
    v_store(t, v);
    memcpy(p, t, n * sizeof *p);
}

INLINE __m256 load_half(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

INLINE vf v_load_half(const uint16_t *p)
{
    return BOTH(load_half(p), load_half(p + 8));
}

INLINE vf v_load_half_n(const uint16_t *p, uint32_t n)
{
    uint16_t t[16] = {0};
    memcpy(t, p, n * sizeof *p);
    return v_load_half(t);
}

INLINE void store_half(uint16_t *p, __m256 v)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

INLINE void v_store_half(uint16_t *p, vf v)
{
    store_half(p, v.a);
    store_half(p + 8, v.b);
}

INLINE void v_store_half_n(uint16_t *p, vf v, uint32_t n)
{
    uint16_t t[16];
    v_store_half(t, v);
    memcpy(p, t, n * sizeof *p);
}

INLINE vf v_add(vf x, vf y)
{
    return BOTH(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b));
}

INLINE vf v_sub(vf x, vf y)
{
    return BOTH(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b));
}

INLINE vf v_mul(vf x, vf y)
{
    return BOTH(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b));
}

INLINE vf v_div(vf x, vf y)
{
    return BOTH(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b));
}

INLINE vf v_neg(vf x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return BOTH(_mm256_xor_ps(x.a, sign), _mm256_xor_ps(x.b, sign));
}

INLINE vf v_fma(vf x, vf y, vf z)
{
    return BOTH(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b));
}

INLINE vf v_max(vf x, vf y)
{
    return BOTH(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b));
}

INLINE vf v_min(vf x, vf y)
{
    return BOTH(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b));
}

INLINE __m256 round_half(__m256 x)
{
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

INLINE vf v_round(vf x)
{
    return BOTH(round_half(x.a), round_half(x.b));
}

INLINE __m256 two_n(__m256 n)
{
    __m256i i = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(i, 23));
}

INLINE vf v_two_n(vf n)
{
    return BOTH(two_n(n.a), two_n(n.b));
}

INLINE __m256 zero_below(__m256 v, __m256 x, float min)
{
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(min), _CMP_LT_OQ), v);
}

INLINE vf v_zero_below(vf v, vf x, float min)
{
    return BOTH(zero_below(v.a, x.a, min), zero_below(v.b, x.b, min));
}

/* Lane i + lane i + 8, then + 4. */
INLINE __m128 fold_to_4(vf v)
{
    __m256 a = _mm256_add_ps(v.a, v.b);
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

INLINE __m256 twice_each(const float *p)
{
    const __m256i at = _mm256_set_epi32(3, 3, 2, 2, 1, 1, 0, 0);
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), at);
}

/* Even lanes a c - b s, odd lanes b c + a s for pairs (a, b). */
INLINE __m256 rope_pairs(__m256 x, const float *cosine, const float *sine)
{
    __m256 other = _mm256_permute_ps(x, 0xB1);
    return _mm256_fmaddsub_ps(x, twice_each(cosine), _mm256_mul_ps(other, twice_each(sine)));
}

INLINE vf v_rope_pairs(vf x, const float *cosine, const float *sine)
{
    return BOTH(rope_pairs(x.a, cosine, sine), rope_pairs(x.b, cosine + 4, sine + 4));
}

#include "quant/vec_simd.h"

const struct kern_vec kern_vec_avx2 = VEC_TABLE;
