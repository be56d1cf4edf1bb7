/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/cpu/attn_kern.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>

#define VF     __m512
#define LANES  16
#define Q_TILE 8
#define V_TILE 4

#define v_zero                _mm512_setzero_ps
#define v_set1                _mm512_set1_ps
#define v_load                _mm512_loadu_ps
#define v_store               _mm512_storeu_ps
#define v_half(p)             _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define v_fma                 _mm512_fmadd_ps
#define v_add                 _mm512_add_ps
#define v_sub                 _mm512_sub_ps
#define v_mul                 _mm512_mul_ps
#define v_max                 _mm512_max_ps
#define v_round(x)            _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define v_scale2              _mm512_scalef_ps
#define v_hmax                _mm512_reduce_max_ps
#define v_hadd                _mm512_reduce_add_ps
#define v_zero_below(x, t, y) _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(t, x, _CMP_LT_OQ), y)

#include "worker/cpu/attn_simd.h"

const struct attn_kern attn_kern_avx512 = {block_f16, block_f32, exp1};

#endif
