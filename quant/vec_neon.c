/* SPDX-License-Identifier: Apache-2.0 */
/* Vector operations for 64-bit ARM: 16 lanes are four registers. */
#include "quant/kern_impl.h"
#include "quant/simd.h"
#include "quant/vec_const.h"

#include <arm_neon.h>
#include <math.h>
#include <string.h>

typedef struct {
    float32x4_t r[4];
} vf;

enum { ACC_CHUNK = 4 };

/* The same expression of register k of the operands, for all four. */
#define EACH(expr)                                                                                 \
    vf to;                                                                                         \
    UNROLL for (int k = 0; k < 4; k++) to.r[k] = (expr);                                           \
    return to

INLINE vf v_set(float x)
{
    EACH(vdupq_n_f32(x));
}

INLINE vf v_load(const float *p)
{
    EACH(vld1q_f32(p + 4 * k));
}

INLINE vf v_load_n(const float *p, uint32_t n)
{
    float t[16] = {0};
    memcpy(t, p, n * sizeof *p);
    return v_load(t);
}

INLINE void v_store(float *p, vf v)
{
    UNROLL for (int k = 0; k < 4; k++) vst1q_f32(p + 4 * k, v.r[k]);
}

INLINE void v_store_n(float *p, vf v, uint32_t n)
{
    float t[16];
    v_store(t, v);
    memcpy(p, t, n * sizeof *p);
}

INLINE vf v_load_half(const uint16_t *p)
{
    EACH(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * k))));
}

INLINE vf v_load_half_n(const uint16_t *p, uint32_t n)
{
    uint16_t t[16] = {0};
    memcpy(t, p, n * sizeof *p);
    return v_load_half(t);
}

INLINE void v_store_half(uint16_t *p, vf v)
{
    UNROLL for (int k = 0; k < 4; k++)
        vst1_u16(p + 4 * k, vreinterpret_u16_f16(vcvt_f16_f32(v.r[k])));
}

INLINE void v_store_half_n(uint16_t *p, vf v, uint32_t n)
{
    uint16_t t[16];
    v_store_half(t, v);
    memcpy(p, t, n * sizeof *p);
}

INLINE vf v_add(vf x, vf y)
{
    EACH(vaddq_f32(x.r[k], y.r[k]));
}

INLINE vf v_sub(vf x, vf y)
{
    EACH(vsubq_f32(x.r[k], y.r[k]));
}

INLINE vf v_mul(vf x, vf y)
{
    EACH(vmulq_f32(x.r[k], y.r[k]));
}

INLINE vf v_div(vf x, vf y)
{
    EACH(vdivq_f32(x.r[k], y.r[k]));
}

INLINE vf v_neg(vf x)
{
    EACH(vnegq_f32(x.r[k]));
}

INLINE vf v_fma(vf x, vf y, vf z)
{
    EACH(vfmaq_f32(z.r[k], x.r[k], y.r[k]));
}

/* Not fmax and fmin, which give NaN when either operand is one. */
INLINE vf v_max(vf x, vf y)
{
    EACH(vbslq_f32(vcgtq_f32(x.r[k], y.r[k]), x.r[k], y.r[k]));
}

INLINE vf v_min(vf x, vf y)
{
    EACH(vbslq_f32(vcltq_f32(x.r[k], y.r[k]), x.r[k], y.r[k]));
}

INLINE vf v_round(vf x)
{
    EACH(vrndnq_f32(x.r[k]));
}

INLINE vf v_two_n(vf n)
{
    EACH(vreinterpretq_f32_s32(
        vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.r[k]), vdupq_n_s32(127)), 23)));
}

INLINE vf v_zero_below(vf v, vf x, float min)
{
    EACH(vreinterpretq_f32_u32(
        vbicq_u32(vreinterpretq_u32_f32(v.r[k]), vcltq_f32(x.r[k], vdupq_n_f32(min)))));
}

/* Lane i + lane i + 8, then + 4. */
INLINE float32x4_t fold_to_4(vf v)
{
    return vaddq_f32(vaddq_f32(v.r[0], v.r[2]), vaddq_f32(v.r[1], v.r[3]));
}

INLINE float v_fold(vf v)
{
    float32x4_t a = fold_to_4(v);
    float32x2_t b = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
}

/* to[i] = v_fold(v<i>) */
INLINE void v_store_fold4(float *to, vf v0, vf v1, vf v2, vf v3)
{
    to[0] = v_fold(v0);
    to[1] = v_fold(v1);
    to[2] = v_fold(v2);
    to[3] = v_fold(v3);
}

/* Even lanes a c - b s, odd lanes b c + a s for pairs (a, b). */
INLINE vf v_rope_pairs(vf x, const float *cosine, const float *sine)
{
    vf to;
    UNROLL for (int k = 0; k < 2; k++)
    {
        float32x4_t a = vuzp1q_f32(x.r[2 * k], x.r[2 * k + 1]);
        float32x4_t b = vuzp2q_f32(x.r[2 * k], x.r[2 * k + 1]);
        float32x4_t c = vld1q_f32(cosine + 4 * k), s = vld1q_f32(sine + 4 * k);
        float32x4_t a2 = vfmaq_f32(vnegq_f32(vmulq_f32(b, s)), a, c);
        float32x4_t b2 = vfmaq_f32(vmulq_f32(a, s), b, c);
        to.r[2 * k] = vzip1q_f32(a2, b2);
        to.r[2 * k + 1] = vzip2q_f32(a2, b2);
    }
    return to;
}

#include "quant/vec_simd.h"

const struct kern_vec kern_vec_neon = VEC_TABLE;
