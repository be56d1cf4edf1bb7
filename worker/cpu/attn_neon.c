/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/cpu/attn_kern.h"

#include <arm_neon.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define VF        float32x4_t
#define VI        int32x4_t
#define LANES     4
#define S_TILE    4
#define V_MOST    8
#define V_TILE(n) ((n) > 4 ? 2 : 4)

#define v_set1                vdupq_n_f32
#define v_zero()              vdupq_n_f32(0)
#define v_load                vld1q_f32
#define v_store               vst1q_f32
#define v_half(p)             vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))
#define v_fma(a, b, c)        vfmaq_f32(c, a, b)
#define v_add                 vaddq_f32
#define v_sub                 vsubq_f32
#define v_mul                 vmulq_f32
#define v_max(a, b)           vbslq_f32(vcgtq_f32(a, b), a, b) /* b if one is NaN, as on x86 */
#define v_min(a, b)           vbslq_f32(vcltq_f32(a, b), a, b)
#define v_abs                 vabsq_f32
#define v_real(x)             v_keep(vceqq_f32(x, x), x)
#define v_hmax                vmaxvq_f32
#define v_zero_below(x, t, y) v_keep(vcltq_f32(t, x), y)

static inline float32x4_t v_keep(uint32x4_t mask, float32x4_t x)
{
    return vreinterpretq_f32_u32(vandq_u32(mask, vreinterpretq_u32_f32(x)));
}

static inline float32x4_t v_scale2(float32x4_t x, float32x4_t n)
{
    int32x4_t e = vshlq_n_s32(vcvtnq_s32_f32(n), 23);
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), e));
}

static inline float v_tree16(const float32x4_t *x)
{
    float32x4_t m = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
    float32x2_t two = vadd_f32(vget_low_f32(m), vget_high_f32(m));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

#define vi_float vcvtq_f32_s32
#define vi_near  vcvtnq_s32_f32
#define vi_set1  vdupq_n_s32
#define vi_add   vaddq_s32
#define vi_sum   vaddvq_s32

/* Half of what dots() does: 8 columns. */
static inline __attribute__((always_inline)) void
dots8(const unsigned char *const *codes, const unsigned char *const *next, uint32_t n_codes,
      uint32_t n, size_t step, const unsigned char *units, const size_t unit_step,
      const size_t lane_step, const int nq, size_t column, int32x4_t (*out)[4])
{
    const uint8x16_t top = vdupq_n_u8(0x80);
    int32x4_t high[S_TILE][2], low[S_TILE][2];
    for (int i = 0; i < nq; i++)
        high[i][0] = high[i][1] = low[i][0] = low[i][1] = vdupq_n_s32(0);
    for (uint32_t c = 0; c < n_codes; c++) {
        const unsigned char *at = codes[c] + column * 4;
        for (uint32_t u = 0; u < n; u++, at += step, units += unit_step) {
            int8x16_t k0 = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(at), top));
            int8x16_t k1 = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(at + 16), top));
            if (column == 0)
                __builtin_prefetch(next[c] + u * step, 0, 3);
            for (int i = 0; i < nq; i++) {
                int8x8_t q = vreinterpret_s8_u8(vld1_u8(units + (size_t)i * lane_step));
                high[i][0] = vdotq_lane_s32(high[i][0], k0, q, 0);
                high[i][1] = vdotq_lane_s32(high[i][1], k1, q, 0);
                low[i][0] = vdotq_lane_s32(low[i][0], k0, q, 1);
                low[i][1] = vdotq_lane_s32(low[i][1], k1, q, 1);
            }
        }
    }
    for (int i = 0; i < nq; i++) {
        out[i][column / 4] = vaddq_s32(vshlq_n_s32(high[i][0], 8), low[i][0]);
        out[i][column / 4 + 1] = vaddq_s32(vshlq_n_s32(high[i][1], 8), low[i][1]);
    }
}

/* Sums over n_codes times n groups of 4 of code x integer, 16 columns at once. Groups of codes
 * are `step` bytes apart, next[] is fetched alike; units hold 4 high parts and 4 low ones. The
 * codes are taken as signed ones: nothing to subtract. */
static inline __attribute__((always_inline)) void
dots(const unsigned char *const *codes, const unsigned char *const *next, uint32_t n_codes,
     uint32_t n, size_t step, const unsigned char *units, const size_t unit_step,
     const size_t lane_step, const int32_t *sums, const int nq, int32x4_t (*out)[4])
{
    (void)sums;
    dots8(codes, next, n_codes, n, step, units, unit_step, lane_step, nq, 0, out);
    dots8(codes, next, n_codes, n, step, units, unit_step, lane_step, nq, 8, out);
}

static inline int8x16_t low_bytes(const int32x4_t *x)
{
    int16x8_t a = vcombine_s16(vmovn_s32(x[0]), vmovn_s32(x[1]));
    int16x8_t b = vcombine_s16(vmovn_s32(x[2]), vmovn_s32(x[3]));
    return vcombine_s8(vmovn_s16(a), vmovn_s16(b));
}

/* x = 256 high + low: the low byte of x + 128 is low + 128. */
static inline void put_units(const int32x4_t *x, unsigned char *units)
{
    for (int k = 0; k < 8; k += 4, units += 32) {
        int32x4_t high[4], low[4];
        for (int i = 0; i < 4; i++) {
            low[i] = x[k + i];
            high[i] = vshrq_n_s32(vaddq_s32(low[i], vdupq_n_s32(128)), 8);
        }
        int32x4_t h = vreinterpretq_s32_s8(low_bytes(high));
        int32x4_t l = vreinterpretq_s32_s8(low_bytes(low));
        vst1q_u8(units, vreinterpretq_u8_s32(vzip1q_s32(h, l)));
        vst1q_u8(units + 16, vreinterpretq_u8_s32(vzip2q_s32(h, l)));
    }
}

static inline void put_codes(const int32x4_t *x, unsigned char *out)
{
    vst1q_s8((int8_t *)out, low_bytes(x));
    vst1q_s8((int8_t *)out + 16, low_bytes(x + 4));
}

#include "worker/cpu/attn_simd.h"

const struct attn_kern attn_kern_neon = {
    {block_f16, block_q8, block_f32}, exp1, largest, codes, units, true};
