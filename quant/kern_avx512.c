/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix kernels for AVX-512 with VNNI: panels of 16 rows, one row per 32-bit lane.
 * Arithmetic: kern_impl.h. */
#include "quant/kern_impl.h"
#include "quant/simd.h"

#include <immintrin.h>
#include <math.h>
#include <stdalign.h>
#include <stddef.h>
#include <string.h>

enum { R = 16, MAX_TILE = 4 };

INLINE __m512 load_half(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

INLINE __m512 load_u8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(
        _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}

INLINE __m512 load_i8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}

INLINE __m512i bcast4(const int8_t *p)
{
    int v;
    memcpy(&v, p, 4);
    return _mm512_set1_epi32(v);
}

#define vi_load               _mm512_loadu_si512
#define vi_and                _mm512_and_si512
#define vi_and_or(a, mask, c) _mm512_ternarylogic_epi32(a, mask, c, 0xEA)
#define vi_shl16              _mm512_slli_epi16
#define vi_shr16              _mm512_srli_epi16
#define vi_sra32              _mm512_srai_epi32
#define vi_add32              _mm512_add_epi32
#define vi_sub32              _mm512_sub_epi32
#define vi_set8               _mm512_set1_epi8
#define vi_set32              _mm512_set1_epi32
#define vi_table              _mm512_broadcast_i32x4
#define vi_lookup             _mm512_shuffle_epi8
#define vf_set                _mm512_set1_ps
#define vf_mul                _mm512_mul_ps
#define vf_sub                _mm512_sub_ps
#define vf_fma                _mm512_fmadd_ps
#define vf_of                 _mm512_castsi512_ps
typedef __m512 vf;
typedef __m512i vi;
#include "quant/kern_simd.h"

/* Ask for the n bytes that lie kern_ahead_bytes after p. Past the end of the matrix this is a
 * wasted request, no fault. */
INLINE void ask_ahead(const uint8_t *p, size_t ahead, size_t n)
{
    for (size_t i = 0; i < n; i += 64)
        _mm_prefetch((const char *)(p + ahead + i), _MM_HINT_T0);
}

INLINE void ask_line(const uint8_t *p)
{
    _mm_prefetch((const char *)p, _MM_HINT_T1);
}

/* 32 columns for `tile` tokens whose blocks are a[t][b]. */
INLINE void block_mul(const struct kern_shape s, const struct scales *w, const uint8_t *low,
                      const struct kern_act *const *a, size_t b, unsigned tile, __m512 *acc)
{
    __m512i sum[MAX_TILE];
    __m512 part[MAX_TILE];
    const __m512 less = vf_mul(w->scale[0], vf_set(-KERN_MAGIC_F));
    UNROLL for (unsigned t = 0; t < tile; t++) sum[t] = start_sum(s, &a[t][b], 0);
    UNROLL for (unsigned g = 0; g < 4; g++)
    {
        __m512i lo, hi;
        operands(s, low, g, &lo, &hi);
        if (g == 2 && halves(s)) {
            UNROLL for (unsigned t = 0; t < tile; t++)
            {
                part[t] = scaled(sum[t], w->scale[0], less);
                sum[t] = start_sum(s, &a[t][b], 1);
            }
        }
        UNROLL for (unsigned t = 0; t < tile; t++)
        {
            sum[t] = _mm512_dpbusd_epi32(sum[t], lo, bcast4(a[t][b].q + 8 * g));
            sum[t] = _mm512_dpbusd_epi32(sum[t], hi, bcast4(a[t][b].q + 8 * g + 4));
        }
    }
    UNROLL for (unsigned t = 0; t < tile; t++)
    {
        __m512 v = halves(s) ? part[t] : scaled(sum[t], w->scale[0], less);
        acc[t] = finish_block(s, w->scale[1], w->min[0], w->min[1], &a[t][b], v, sum[t], acc[t]);
    }
}

INLINE __m512 rows_load(const float *p, uint32_t n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}

INLINE void rows_store(float *p, __m512 v, uint32_t n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v);
}

#define vi_dot      _mm512_dpbusd_epi32
#define vi_store    _mm512_store_si512
#define vf_zero     _mm512_setzero_ps
#define vf_load     _mm512_load_ps
#define vf_store    _mm512_store_ps
#define TILE        8
#define WIDE_PANELS 4
#define WIDE_TILE   6
#define HALVES_TILE 6
#define GEMM_TOKENS 3
#include "quant/kern_gemm_simd.h"

INLINE __m512 load_bf16(const uint8_t *p)
{
    __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

INLINE __m512 vf_fma_n(__m512 w, float x, __m512 acc)
{
    return _mm512_fmadd_ps(w, _mm512_set1_ps(x), acc);
}

#define load_f32   _mm512_loadu_ps
#define vf_add     _mm512_add_ps
#define PLAIN_FEW  8
#define PLAIN_TILE 8
#define ASK_TOKENS 4
#include "quant/kern_plain_simd.h"
#include "quant/kern_tile_simd.h"

static void act_f32(const float *x, uint32_t cols, void *act)
{
    memcpy(act, x, cols * sizeof *x);
}

/* kern_act_set with all its fields in one vector; code: 32 codes. */
INLINE void act_set(struct kern_act *a, float amax, __m256i code)
{
    _Static_assert(offsetof(struct kern_act, d) == 32 && offsetof(struct kern_act, start32) == 56 &&
                       sizeof(struct kern_act) == 64,
                   "d, sum, start0, start8, start16, start128, start32[2] are 8 words");
    const __m256i bias = _mm256_setr_epi32(4096, 4096, 4096, 4096, 4096, 4096, 2048, 2048);
    const __m256i times = _mm256_setr_epi32(32, 32, 32, 3, 4, 7, 5, 5); /* 32: nothing is left */
    /* Sums of codes + 128: of each half in all words of its lane, then of both. */
    __m256i s =
        _mm256_sad_epu8(_mm256_xor_si256(code, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
    s = _mm256_shuffle_epi32(_mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0x4e)), 0);
    __m256i other = _mm256_permute4x64_epi64(s, 0x4e), all = _mm256_add_epi32(s, other);
    s = _mm256_blend_epi32(_mm256_blend_epi32(all, other, 0x40), s, 0x80);
    s = _mm256_sub_epi32(s, bias);
    __m256i start = _mm256_sub_epi32(_mm256_set1_epi32(KERN_MAGIC), _mm256_sllv_epi32(s, times));
    __m256 v = _mm256_blend_ps(_mm256_castsi256_ps(start), _mm256_cvtepi32_ps(s), 2);
    __m256 d = _mm256_set1_ps(amax > KERN_ACT_TINY ? amax / 127.0f : 0);
    _mm256_storeu_ps(&a->d, _mm256_blend_ps(v, d, 1));
}

static void act_q8(const float *x, uint32_t cols, void *act)
{
    struct kern_act *a = act;
    const __m512 zero = _mm512_setzero_ps();
    const __m512i low = _mm512_set1_epi32(-127);
    for (uint32_t b = 0; b < cols / 32; b++, x += 32, a++) {
        __m512 x0 = _mm512_loadu_ps(x), x1 = _mm512_loadu_ps(x + 16);
        /* The maximum takes its second operand when one is NaN: NaN does not count. */
        __m512 m = _mm512_max_ps(_mm512_max_ps(_mm512_abs_ps(x0), zero),
                                 _mm512_max_ps(_mm512_abs_ps(x1), zero));
        float amax = _mm512_reduce_max_ps(m);
        bool tiny = !(amax > KERN_ACT_TINY);
        __m512 scale = _mm512_set1_ps(tiny ? 0 : 127.0f / amax);
        __m512i q0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, scale));
        __m512i q1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, scale));
        /* Saturation is the upper bound. */
        __m128i c0 = _mm512_cvtsepi32_epi8(_mm512_max_epi32(q0, low));
        __m128i c1 = _mm512_cvtsepi32_epi8(_mm512_max_epi32(q1, low));
        __m256i code = _mm256_inserti128_si256(_mm256_castsi128_si256(c0), c1, 1);
        _mm256_storeu_si256((__m256i *)(void *)a->q, code);
        act_set(a, amax, code);
    }
}

#include "quant/kern_outlier_simd.h"

KERN_DEFINE_ROWS_AND(kern_rows_avx512, KERN_SHAPES(GEMM_MANY_ROW) PLAIN_MANY_ROWS)
