/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix kernels for 64-bit ARM with the dot product of ARMv8.2: panels of 8 rows, one row per
 * 32-bit lane of two registers.
 *
 * sdot takes signed codes. Those of 4 to 6 bits are positive bytes anyway; 8-bit ones and the
 * values of IQ4 are taken as signed, so that their offset of 128 falls away. Integer sums are
 * exact, so the results are those of kern_impl.h bit for bit. */
#include "quant/kern_impl.h"
#include "quant/simd.h"

#include <arm_neon.h>
#include <math.h>
#include <stdalign.h>
#include <string.h>

enum { R = 8, MAX_TILE = 4 };

/* Rows 0-3 and 4-7. */
typedef struct {
    float32x4_t a, b;
} vf;

typedef struct {
    uint8x16_t a, b;
} vi;

typedef struct {
    int32x4_t a, b;
} vsum;

INLINE vf vf_set(float x)
{
    return (vf){vdupq_n_f32(x), vdupq_n_f32(x)};
}

INLINE vf vf_mul(vf x, vf y)
{
    return (vf){vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b)};
}

INLINE vf vf_fma_n(vf x, float y, vf z) /* x y + z */
{
    return (vf){vfmaq_n_f32(z.a, x.a, y), vfmaq_n_f32(z.b, x.b, y)};
}

INLINE vf load_half(const uint8_t *p)
{
    uint8x16_t h = vld1q_u8(p);
    return (vf){vcvt_f32_f16(vreinterpret_f16_u8(vget_low_u8(h))),
                vcvt_f32_f16(vreinterpret_f16_u8(vget_high_u8(h)))};
}

INLINE vf load_bf16(const uint8_t *p)
{
    uint16x8_t h = vreinterpretq_u16_u8(vld1q_u8(p));
    return (vf){vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)),
                vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(h), 16))};
}

INLINE vf load_f32(const uint8_t *p)
{
    return (vf){vreinterpretq_f32_u8(vld1q_u8(p)), vreinterpretq_f32_u8(vld1q_u8(p + 16))};
}

INLINE vf vf_load(const float *p)
{
    return (vf){vld1q_f32(p), vld1q_f32(p + 4)};
}

INLINE void vf_store(float *p, vf v)
{
    vst1q_f32(p, v.a);
    vst1q_f32(p + 4, v.b);
}

INLINE vf vf_add(vf x, vf y)
{
    return (vf){vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b)};
}

INLINE vf load_u8(const uint8_t *p)
{
    uint16x8_t w = vmovl_u8(vld1_u8(p));
    return (vf){vcvtq_f32_u32(vmovl_u16(vget_low_u16(w))),
                vcvtq_f32_u32(vmovl_u16(vget_high_u16(w)))};
}

INLINE vf load_i8(const uint8_t *p)
{
    int16x8_t w = vmovl_s8(vreinterpret_s8_u8(vld1_u8(p)));
    return (vf){vcvtq_f32_s32(vmovl_s16(vget_low_s16(w))),
                vcvtq_f32_s32(vmovl_s16(vget_high_s16(w)))};
}

INLINE vi load_codes(const uint8_t *p)
{
    return (vi){vld1q_u8(p), vld1q_u8(p + 16)};
}

INLINE vi signed_codes(vi v)
{
    const uint8x16_t top = vdupq_n_u8(0x80);
    return (vi){veorq_u8(v.a, top), veorq_u8(v.b, top)};
}

/* Move the bits at pos of every byte to bit 4 and take those of the mask. */
INLINE uint8x16_t high_bits(uint8x16_t v, unsigned pos, uint8x16_t mask)
{
    switch (pos) {
    case 0:
        return vandq_u8(vshlq_n_u8(v, 4), mask);
    case 1:
        return vandq_u8(vshlq_n_u8(v, 3), mask);
    case 2:
        return vandq_u8(vshlq_n_u8(v, 2), mask);
    case 3:
        return vandq_u8(vshlq_n_u8(v, 1), mask);
    case 5:
        return vandq_u8(vshrq_n_u8(v, 1), mask);
    case 6:
        return vandq_u8(vshrq_n_u8(v, 2), mask);
    case 7:
        return vandq_u8(vshrq_n_u8(v, 3), mask);
    default:
        return vandq_u8(v, mask);
    }
}

INLINE vi or_high(vi v, vi high, unsigned pos, uint8_t mask)
{
    const uint8x16_t m = vdupq_n_u8(mask);
    return (vi){vorrq_u8(v.a, high_bits(high.a, pos, m)), vorrq_u8(v.b, high_bits(high.b, pos, m))};
}

#include "quant/kern_scales_simd.h"

/* Signed codes of columns 8g..8g+3 and 8g+4..8g+7 of all rows. */
INLINE void operands(const struct kern_shape s, const uint8_t *low, unsigned g, vi *lo, vi *hi)
{
    if (s.bits == 8) {
        *lo = signed_codes(load_codes(low + 8 * R * g));
        *hi = signed_codes(load_codes(low + 8 * R * g + 4 * R));
        return;
    }
    const uint8x16_t nibble = vdupq_n_u8(15);
    vi v = load_codes(low + 4 * R * g);
    *lo = (vi){vandq_u8(v.a, nibble), vandq_u8(v.b, nibble)};
    *hi = (vi){vshrq_n_u8(v.a, 4), vshrq_n_u8(v.b, 4)};
    if (s.bits == 5) {
        vi h = load_codes(low + 16 * R);
        *lo = or_high(*lo, h, 2 * g, 0x10);
        *hi = or_high(*hi, h, 2 * g + 1, 0x10);
    }
    if (s.bits == 6) {
        vi h = load_codes(low + 16 * R + 4 * R * (g / 2));
        *lo = or_high(*lo, h, 4 * (g % 2), 0x30);
        *hi = or_high(*hi, h, 4 * (g % 2) + 2, 0x30);
    }
    if (s.iq4) {
        const uint8x16_t values = vreinterpretq_u8_s8(vld1q_s8(qtype_iq4_values));
        *lo = (vi){vqtbl1q_u8(values, lo->a), vqtbl1q_u8(values, lo->b)};
        *hi = (vi){vqtbl1q_u8(values, hi->a), vqtbl1q_u8(values, hi->b)};
    }
}

/* What the integer sum starts with: minus the offset times the sum of the activations. Sums are
 * converted to floats here, so they leave KERN_MAGIC out. */
INLINE vsum start_sum(const struct kern_shape s, const struct kern_act *a, unsigned half)
{
    int32_t x;
    switch (s.offset) {
    case 4:
        x = (a->start32[half] - KERN_MAGIC) / 8;
        break;
    case 8:
        x = a->start8 - KERN_MAGIC;
        break;
    case 16:
        x = a->start16 - KERN_MAGIC;
        break;
    case 32:
        x = a->start32[half] - KERN_MAGIC;
        break;
    default: /* none, or 128: the codes are signed */
        x = 0;
        break;
    }
    return (vsum){vdupq_n_s32(x), vdupq_n_s32(x)};
}

/* Four codes of every row times four activations, the given lane of q. */
INLINE int32x4_t dot_lane(int32x4_t sum, uint8x16_t codes, int8x16_t q, unsigned lane)
{
    int8x16_t w = vreinterpretq_s8_u8(codes);
    switch (lane) {
    case 0:
        return vdotq_laneq_s32(sum, w, q, 0);
    case 1:
        return vdotq_laneq_s32(sum, w, q, 1);
    case 2:
        return vdotq_laneq_s32(sum, w, q, 2);
    default:
        return vdotq_laneq_s32(sum, w, q, 3);
    }
}

INLINE vsum dot(vsum sum, vi lo, vi hi, int8x16_t q, unsigned lane)
{
    sum.a = dot_lane(sum.a, lo.a, q, lane);
    sum.b = dot_lane(sum.b, lo.b, q, lane);
    sum.a = dot_lane(sum.a, hi.a, q, lane + 1);
    sum.b = dot_lane(sum.b, hi.b, q, lane + 1);
    return sum;
}

INLINE vf sum_f32(vsum s)
{
    return (vf){vcvtq_f32_s32(s.a), vcvtq_f32_s32(s.b)};
}

INLINE vf vf_fma(vf x, vf y, vf z)
{
    return (vf){vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b)};
}

/* 32 columns for `tile` tokens whose blocks are a[t][b]. */
INLINE void block_mul(const struct kern_shape s, const struct scales *w, const uint8_t *low,
                      const struct kern_act *const *a, size_t b, unsigned tile, vf *acc)
{
    vsum sum[MAX_TILE];
    vf part[MAX_TILE];
    UNROLL for (unsigned t = 0; t < tile; t++) sum[t] = start_sum(s, &a[t][b], 0);
    UNROLL for (unsigned g = 0; g < 4; g++)
    {
        vi lo, hi;
        operands(s, low, g, &lo, &hi);
        if (g == 2 && halves(s)) {
            UNROLL for (unsigned t = 0; t < tile; t++)
            {
                part[t] = vf_mul(sum_f32(sum[t]), w->scale[0]);
                sum[t] = start_sum(s, &a[t][b], 1);
            }
        }
        UNROLL for (unsigned t = 0; t < tile; t++)
        {
            int8x16_t q = vld1q_s8(a[t][b].q + 16 * (g / 2));
            sum[t] = dot(sum[t], lo, hi, q, 2 * (g % 2));
        }
    }
    UNROLL for (unsigned t = 0; t < tile; t++)
    {
        const struct kern_act *x = &a[t][b];
        vf v = sum_f32(sum[t]);
        v = halves(s) ? vf_fma(v, w->scale[1], part[t]) : vf_mul(v, w->scale[0]);
        if (s.scales == KERN_DM || s.scales == KERN_KDM)
            v = vf_fma_n(w->min[0], x->sum, v);
        if (s.scales == KERN_K16M) {
            v = vf_fma_n(w->min[0], (float)(x->start32[0] - KERN_MAGIC), v);
            v = vf_fma_n(w->min[1], (float)(x->start32[1] - KERN_MAGIC), v);
        }
        acc[t] = vf_fma_n(v, x->d, acc[t]);
    }
}

INLINE void rows_store(float *out, vf v, uint32_t n_rows)
{
    if (n_rows == R) {
        vf_store(out, v);
        return;
    }
    float t[R];
    vf_store(t, v);
    memcpy(out, t, n_rows * sizeof *out);
}

INLINE vf rows_load(const float *p, uint32_t n_rows)
{
    float t[R] = {0};
    if (n_rows == R)
        return vf_load(p);
    memcpy(t, p, n_rows * sizeof *p);
    return vf_load(t);
}

/* Asking far ahead while few tokens are multiplied is left to the CPU. */
INLINE void ask_ahead(const uint8_t *p, size_t ahead, size_t n)
{
    (void)p;
    (void)ahead;
    (void)n;
}

INLINE void ask_line(const uint8_t *p)
{
    __builtin_prefetch(p, 0, 2);
}

#define ASK_TOKENS 0
#define PLAIN_FEW  4
#define PLAIN_TILE 6
#include "quant/kern_plain_simd.h"
#include "quant/kern_tile_simd.h"

static void act_f32(const float *x, uint32_t cols, void *act)
{
    memcpy(act, x, cols * sizeof *x);
}

/* Codes of four scaled activations; what is no number becomes -127, as in the reference. */
INLINE int32x4_t codes_of(float32x4_t x, float scale)
{
    const float32x4_t low = vdupq_n_f32(-127), high = vdupq_n_f32(127);
    float32x4_t v = vmulq_n_f32(x, scale);
    v = vbslq_f32(vcgeq_f32(v, low), v, low);
    v = vbslq_f32(vcleq_f32(v, high), v, high);
    return vcvtnq_s32_f32(v);
}

static void act_q8(const float *x, uint32_t cols, void *act)
{
    struct kern_act *a = act;
    for (uint32_t b = 0; b < cols / 32; b++, x += 32, a++) {
        float32x4_t m = vdupq_n_f32(0);
        for (int k = 0; k < 8; k++) { /* a comparison with NaN is false: NaN does not count */
            float32x4_t v = vabsq_f32(vld1q_f32(x + 4 * k));
            m = vbslq_f32(vcgtq_f32(v, m), v, m);
        }
        float amax = vmaxvq_f32(m);
        bool tiny = !(amax > KERN_ACT_TINY);
        float scale = tiny ? 0 : 127.0f / amax;
        int sum[2];
        for (int k = 0; k < 2; k++) {
            const float *from = x + 16 * k;
            int32x4_t q0 = codes_of(vld1q_f32(from), scale);
            int32x4_t q1 = codes_of(vld1q_f32(from + 4), scale);
            int32x4_t q2 = codes_of(vld1q_f32(from + 8), scale);
            int32x4_t q3 = codes_of(vld1q_f32(from + 12), scale);
            sum[k] = vaddvq_s32(vaddq_s32(vaddq_s32(q0, q1), vaddq_s32(q2, q3)));
            int16x8_t h0 = vcombine_s16(vmovn_s32(q0), vmovn_s32(q1));
            int16x8_t h1 = vcombine_s16(vmovn_s32(q2), vmovn_s32(q3));
            vst1q_s8(a->q + 16 * k, vcombine_s8(vmovn_s16(h0), vmovn_s16(h1)));
        }
        kern_act_set(a, amax, sum[0], sum[1]);
    }
}

#include "quant/kern_outlier_simd.h"

KERN_DEFINE_ROWS_AND(kern_rows_neon, PLAIN_MANY_ROWS)
