/* SPDX-License-Identifier: Apache-2.0 */
/* Many tokens on CPUs with AVX-VNNI, the 256-bit dot product of bytes: a part of the AVX2 level
 * where the CPU has it, and the same bits. */
#include "quant/kern_prim_avx2.h"

#include <stdalign.h>
#include <stddef.h>

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

INLINE void store_codes(uint8_t *p, __m256i v)
{
    _mm256_store_si256((__m256i *)(void *)p, v);
}

#define vi_dot      _mm256_dpbusd_avx_epi32
#define vi_store    store_codes
#define vf_zero     _mm256_setzero_ps
#define vf_load     _mm256_load_ps
#define vf_store    _mm256_store_ps
#define TILE        4
#define GEMM_TOKENS 3
#define ASK_HINT    _MM_HINT_T1
#include "quant/kern_gemm_simd.h"

void kern_pairs_avxvnni(struct kern_rows *rows)
{
    KERN_SHAPES(GEMM_PAIR_ROW)
}
