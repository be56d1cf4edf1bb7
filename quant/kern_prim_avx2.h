/* SPDX-License-Identifier: Apache-2.0 */
/* kern_prim_avx2.h - 256-bit primitives under the names that the shared kernels (kern_*_simd.h)
 * use, for kern_avx2.c and kern_avxvnni.c: panels of 8 rows. */
#ifndef QUIRE_QUANT_KERN_PRIM_AVX2_H
#define QUIRE_QUANT_KERN_PRIM_AVX2_H

#include "quant/kern_impl.h"
#include "quant/simd.h"

#include <immintrin.h>
#include <stdalign.h>
#include <string.h>

enum { R = 8 };

INLINE __m256 load_half(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

INLINE __m256 load_u8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}

INLINE __m256 load_i8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}

INLINE __m256 load_bf16(const uint8_t *p)
{
    __m128i h = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

INLINE __m256 load_f32(const uint8_t *p)
{
    return _mm256_loadu_ps((const float *)(const void *)p);
}

INLINE __m256 vf_fma_n(__m256 w, float x, __m256 acc)
{
    return _mm256_fmadd_ps(w, _mm256_set1_ps(x), acc);
}

INLINE __m256i load_codes(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

INLINE __m256i bcast4(const int8_t *p)
{
    int v;
    memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}

#define vi_load               load_codes
#define vi_and                _mm256_and_si256
#define vi_and_or(a, mask, c) _mm256_or_si256(_mm256_and_si256(a, mask), c)
#define vi_shl16              _mm256_slli_epi16
#define vi_shr16              _mm256_srli_epi16
#define vi_sra32              _mm256_srai_epi32
#define vi_add32              _mm256_add_epi32
#define vi_sub32              _mm256_sub_epi32
#define vi_set8               _mm256_set1_epi8
#define vi_set32              _mm256_set1_epi32
#define vi_table              _mm256_broadcastsi128_si256
#define vi_lookup             _mm256_shuffle_epi8
#define vf_set                _mm256_set1_ps
#define vf_mul                _mm256_mul_ps
#define vf_sub                _mm256_sub_ps
#define vf_fma                _mm256_fmadd_ps
#define vf_of                 _mm256_castsi256_ps
#define vf_add                _mm256_add_ps
#define vf_zero               _mm256_setzero_ps
#define vf_load               _mm256_load_ps
#define vf_store              _mm256_store_ps
typedef __m256 vf;
typedef __m256i vi;
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

INLINE __m256i first_rows(uint32_t n)
{
    const __m256i row = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), row);
}

INLINE __m256 rows_load(const float *p, uint32_t n)
{
    return _mm256_maskload_ps(p, first_rows(n));
}

INLINE void rows_store(float *p, __m256 v, uint32_t n)
{
    _mm256_maskstore_ps(p, first_rows(n), v);
}

#endif
