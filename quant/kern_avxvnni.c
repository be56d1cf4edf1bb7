/* SPDX-License-Identifier: Apache-2.0 */
/* Many tokens on CPUs with AVX-VNNI, the 256-bit dot product of bytes: a part of the AVX2 level
 * where the CPU has it, and the same bits. */
#include "quant/kern_prim_avx2.h"

#include <stddef.h>

INLINE void store_codes(uint8_t *p, __m256i v)
{
    _mm256_store_si256((__m256i *)(void *)p, v);
}

#define vi_dot      _mm256_dpbusd_avx_epi32
#define vi_store    store_codes
#define TILE        4
#define WIDE_PANELS 2
#define WIDE_TILE   4
#define HALVES_TILE 4
#define GEMM_TOKENS 3
#include "quant/kern_gemm_simd.h"

void kern_many_avxvnni(struct kern_rows *rows)
{
    KERN_SHAPES(GEMM_MANY_ROW)
}
