/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix kernels for AVX-512 with VNNI: panels of 16 rows, one row per 32-bit lane.
 * A tile of 1-8 tokens shares each unpacked piece of weights. Arithmetic: kern_impl.h. */
#include "quant/kern_impl.h"
#include "quant/simd.h"

#include <immintrin.h>
#include <string.h>

enum { R = 16, MAX_TILE = 8 };

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
#define vi_set8               _mm512_set1_epi8
#define vi_set32              _mm512_set1_epi32
#define vi_table              _mm512_broadcast_i32x4
#define vi_lookup             _mm512_shuffle_epi8
#define vf_set                _mm512_set1_ps
#define vf_mul                _mm512_mul_ps
typedef __m512 vf;
typedef __m512i vi;
#include "quant/kern_simd.h"

/* 32 columns for `tile` tokens whose blocks are a[t][b]. */
INLINE void block_mul(const struct kern_shape s, const struct scales *w, const uint8_t *low,
                      const struct kern_act *const *a, size_t b, unsigned tile, __m512 *acc)
{
    __m512i sum[MAX_TILE];
    __m512 part[MAX_TILE];
    UNROLL for (unsigned t = 0; t < tile; t++) sum[t] = start_sum(s, &a[t][b], 0);
    UNROLL for (unsigned g = 0; g < 4; g++)
    {
        __m512i lo, hi;
        operands(s, low, g, &lo, &hi);
        if (g == 2 && halves(s)) {
            UNROLL for (unsigned t = 0; t < tile; t++)
            {
                part[t] = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[t]), w->scale[0]);
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
        const struct kern_act *x = &a[t][b];
        __m512 v = _mm512_cvtepi32_ps(sum[t]);
        v = halves(s) ? _mm512_fmadd_ps(v, w->scale[1], part[t]) : _mm512_mul_ps(v, w->scale[0]);
        if (s.scales == KERN_DM || s.scales == KERN_KDM)
            v = _mm512_fmadd_ps(w->min[0], _mm512_set1_ps(x->sum), v);
        if (s.scales == KERN_K16M) {
            v = _mm512_fmadd_ps(w->min[0], _mm512_cvtepi32_ps(_mm512_set1_epi32(x->x32[0])), v);
            v = _mm512_fmadd_ps(w->min[1], _mm512_cvtepi32_ps(_mm512_set1_epi32(x->x32[1])), v);
        }
        acc[t] = _mm512_fmadd_ps(v, _mm512_set1_ps(x->d), acc[t]);
    }
}

/* Ask for the n bytes that lie kern_ahead_bytes after p. Past the end of the matrix this is a
 * wasted request, no fault. */
INLINE void ask_ahead(const uint8_t *p, size_t ahead, size_t n)
{
    for (size_t i = 0; i < n; i += 64)
        _mm_prefetch((const char *)(p + ahead + i), _MM_HINT_T0);
}

INLINE void shape_tile(const struct kern_shape s, const uint8_t *p, uint32_t cols, __mmask16 rows,
                       const struct kern_act *acts, unsigned tile, float *out, size_t ld_out)
{
    const uint32_t super = kern_super_cols(&s);
    const size_t scale_bytes = kern_scale_bytes(&s, R);
    const size_t block_bytes = scale_bytes + kern_code_bytes(&s, R), n_blocks = cols / 32;
    const size_t ahead = kern_ahead_bytes;
    const bool few = tile <= 4; /* more tokens: arithmetic decides */
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
            if (few && ahead)
                ask_ahead(p, ahead, block_bytes);
            struct scales w = load_scales(s, d, dmin, p);
            block_mul(s, &w, p + scale_bytes, a, b, tile, acc);
        }
    }
    UNROLL for (unsigned t = 0; t < tile; t++)
        _mm512_mask_storeu_ps(out + t * ld_out, rows, acc[t]);
}

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
    __m512 even[MAX_TILE], odd[MAX_TILE];
    UNROLL for (unsigned t = 0; t < tile; t++) even[t] = odd[t] = _mm512_setzero_ps();
    const size_t ahead = kern_ahead_bytes, pair = 2 * R * (type == QT_F32 ? 4u : 2u);
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

static unsigned tile_of(uint32_t n_tokens)
{
    return n_tokens >= 8 ? 8 : n_tokens >= 4 ? 4 : n_tokens;
}

/* Largest tiles first; the tile never changes a result. */
INLINE void shape_mul(const struct kern_shape s, const void *panel, uint32_t cols, uint32_t n_rows,
                      const struct kern_act *a, uint32_t n_tokens, float *out, size_t ld_out)
{
    const __mmask16 rows = (__mmask16)((1u << n_rows) - 1);
    while (n_tokens > 0) {
        unsigned tile = tile_of(n_tokens);
        switch (tile) {
        case 8:
            shape_tile(s, panel, cols, rows, a, 8, out, ld_out);
            break;
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
        unsigned tile = tile_of(n_tokens);
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
        int all = sum0 + sum1;
        a->d = tiny ? 0 : amax / 127.0f;
        a->sum = (float)all;
        a->x8 = -8 * all;
        a->x16 = -16 * all;
        a->x128 = -128 * all;
        a->x32[0] = -32 * sum0;
        a->x32[1] = -32 * sum1;
        a->zero = 0;
    }
}

KERN_DEFINE_ROWS(kern_rows_avx512)
