/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix kernels for AVX-512 with VNNI: panels of 16 rows, one row per 32-bit lane.
 * A tile of 1-8 tokens shares each unpacked piece of weights. Arithmetic: kern_impl.h. */
#include "quant/kern_impl.h"
#include "quant/simd.h"

#include <immintrin.h>
#include <math.h>
#include <stdalign.h>
#include <stddef.h>
#include <string.h>

enum { R = 16, MAX_TILE = 4, PLAIN_TILE = 8 };

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

INLINE void shape_tile(const struct kern_shape s, const uint8_t *p, uint32_t cols, __mmask16 rows,
                       const struct kern_act *acts, unsigned tile, float *out, size_t ld_out)
{
    const uint32_t super = kern_super_cols(&s);
    const size_t scale_bytes = kern_scale_bytes(&s, R);
    const size_t block_bytes = scale_bytes + kern_code_bytes(&s, R), n_blocks = cols / 32;
    const size_t ahead = kern_ahead();
    const struct kern_act *a[MAX_TILE];
    __m512 acc[MAX_TILE];
    UNROLL for (unsigned t = 0; t < tile; t++)
    {
        a[t] = acts + t * n_blocks;
        acc[t] = _mm512_setzero_ps();
    }
    for (size_t b = 0; b < n_blocks;) {
        __m512 d = _mm512_setzero_ps(), dmin = _mm512_setzero_ps();
        if (super > 32) {
            d = load_half(p);
            if (s.scales == KERN_KDM || s.scales == KERN_K16M)
                dmin = load_half(p + 2 * R);
            p += kern_head_bytes(&s, R);
        }
        for (uint32_t k = 0; k < super / 32; k++, b++, p += block_bytes) {
            if (ahead)
                ask_ahead(p, ahead, block_bytes);
            struct scales w = load_scales(s, d, dmin, p);
            block_mul(s, &w, p + scale_bytes, a, b, tile, acc);
        }
    }
    UNROLL for (unsigned t = 0; t < tile; t++)
        _mm512_mask_storeu_ps(out + t * ld_out, rows, acc[t]);
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
#define GEMM_TOKENS 3
#define ASK_HINT    _MM_HINT_T1
#include "quant/kern_gemm_simd.h"

INLINE __m512 load_plain(enum qtype type, const uint8_t *panel, size_t c)
{
    if (type == QT_F32)
        return _mm512_loadu_ps(panel + 4 * R * c);
    if (type == QT_F16)
        return load_half(panel + 2 * R * c);
    __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)(panel + 2 * R * c));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

INLINE void plain_tile(enum qtype type, const uint8_t *panel, uint32_t cols, __mmask16 rows,
                       const float *acts, unsigned tile, float *out, size_t ld_out)
{
    const size_t stride = (cols + 15u) & ~(size_t)15;
    __m512 even[PLAIN_TILE], odd[PLAIN_TILE];
    UNROLL for (unsigned t = 0; t < tile; t++) even[t] = odd[t] = _mm512_setzero_ps();
    const size_t ahead = kern_ahead(), pair = 2 * R * (type == QT_F32 ? 4u : 2u);
    size_t c = 0;
    for (; c + 2 <= cols; c += 2) {
        if (tile <= 4 && ahead)
            ask_ahead(panel + c / 2 * pair, ahead, pair);
        __m512 w0 = load_plain(type, panel, c), w1 = load_plain(type, panel, c + 1);
        UNROLL for (unsigned t = 0; t < tile; t++)
        {
            const float *x = acts + t * stride + c;
            even[t] = _mm512_fmadd_ps(w0, _mm512_set1_ps(x[0]), even[t]);
            odd[t] = _mm512_fmadd_ps(w1, _mm512_set1_ps(x[1]), odd[t]);
        }
    }
    if (c < cols) {
        __m512 w0 = load_plain(type, panel, c);
        UNROLL for (unsigned t = 0; t < tile; t++) even[t] =
            _mm512_fmadd_ps(w0, _mm512_set1_ps(acts[t * stride + c]), even[t]);
    }
    UNROLL for (unsigned t = 0; t < tile; t++)
        _mm512_mask_storeu_ps(out + t * ld_out, rows, _mm512_add_ps(even[t], odd[t]));
}

/* Largest tiles first; the tile never changes a result. */
INLINE void shape_mul(const struct kern_shape s, const void *panel, uint32_t cols, uint32_t n_rows,
                      const struct kern_act *a, uint32_t n_tokens, float *out, size_t ld_out)
{
    const __mmask16 rows = (__mmask16)((1u << n_rows) - 1);
    while (n_tokens > 0) {
        unsigned tile = n_tokens < MAX_TILE ? n_tokens : MAX_TILE;
        switch (tile) {
        case 4:
            shape_tile(s, panel, cols, rows, a, 4, out, ld_out);
            break;
        case 3:
            shape_tile(s, panel, cols, rows, a, 3, out, ld_out);
            break;
        case 2:
            shape_tile(s, panel, cols, rows, a, 2, out, ld_out);
            break;
        default:
            shape_tile(s, panel, cols, rows, a, 1, out, ld_out);
            break;
        }
        a += (size_t)(cols / 32) * tile;
        out += ld_out * tile;
        n_tokens -= tile;
    }
}

INLINE void plain_mul(enum qtype type, const void *panel, uint32_t cols, uint32_t n_rows,
                      const float *a, uint32_t n_tokens, float *out, size_t ld_out)
{
    const __mmask16 rows = (__mmask16)((1u << n_rows) - 1);
    while (n_tokens > 0) {
        unsigned tile = n_tokens >= 8 ? 8 : n_tokens >= 4 ? 4 : n_tokens;
        switch (tile) {
        case 8:
            plain_tile(type, panel, cols, rows, a, 8, out, ld_out);
            break;
        case 4:
            plain_tile(type, panel, cols, rows, a, 4, out, ld_out);
            break;
        case 3:
            plain_tile(type, panel, cols, rows, a, 3, out, ld_out);
            break;
        case 2:
            plain_tile(type, panel, cols, rows, a, 2, out, ld_out);
            break;
        default:
            plain_tile(type, panel, cols, rows, a, 1, out, ld_out);
            break;
        }
        a += ((cols + 15u) & ~(size_t)15) * tile;
        out += ld_out * tile;
        n_tokens -= tile;
    }
}

static void act_f32(const float *x, uint32_t cols, void *act)
{
    memcpy(act, x, cols * sizeof *x);
}

static void act_q8(const float *x, uint32_t cols, void *act)
{
    struct kern_act *a = act;
    const __m512 zero = _mm512_setzero_ps();
    const __m512i low = _mm512_set1_epi32(-127), high = _mm512_set1_epi32(127);
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
        q0 = _mm512_min_epi32(_mm512_max_epi32(q0, low), high);
        q1 = _mm512_min_epi32(_mm512_max_epi32(q1, low), high);
        int sum0 = _mm512_reduce_add_epi32(q0), sum1 = _mm512_reduce_add_epi32(q1);
        _mm_store_si128((__m128i *)(void *)a->q, _mm512_cvtepi32_epi8(q0));
        _mm_store_si128((__m128i *)(void *)(a->q + 16), _mm512_cvtepi32_epi8(q1));
        kern_act_set(a, amax, sum0, sum1);
    }
}

#include "quant/kern_outlier_simd.h"

KERN_DEFINE_ROWS_AND(kern_rows_avx512, KERN_SHAPES(GEMM_PAIR_ROW))
