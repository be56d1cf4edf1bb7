/* SPDX-License-Identifier: Apache-2.0 */
/* The definition of the vector operations, in plain C. All levels give the same bits:
 * sums have 16 lanes (element i goes to lane i % 16, fma), then lane i takes lane i + 8, i + 4,
 * i + 2, i + 1; exp is one polynomial, step by step the same. */
#include "quant/kern_impl.h"
#include "quant/vec_const.h"

#include <math.h>
#include <string.h>

enum { LANES = 16 };

static float fold(float s[LANES])
{
    for (int w = LANES / 2; w > 0; w /= 2)
        for (int i = 0; i < w; i++)
            s[i] += s[i + w];
    return s[0];
}

static float dot_f32(const float *a, const float *b, uint32_t n)
{
    float s[LANES] = {0};
    for (uint32_t i = 0; i < n; i++)
        s[i % LANES] = fmaf(a[i], b[i], s[i % LANES]);
    return fold(s);
}

static void rms_norm(const float *x, const float *w, uint32_t n, float eps, float *y)
{
    float scale = 1.0f / sqrtf(dot_f32(x, x, n) / (float)n + eps);
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] * scale * w[i];
}

static void add(float *y, const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] += x[i];
}

static float exp_one(float x)
{
    if (x < VEC_EXP_MIN)
        return 0;
    if (x > VEC_EXP_MAX)
        x = VEC_EXP_MAX;
    if (isnan(x))
        return x;
    float n = rintf(x * VEC_LOG2E), r = fmaf(n, -VEC_LN2_HI, x);
    r = fmaf(n, -VEC_LN2_LO, r);
    float p = VEC_EXP_C0;
    p = fmaf(p, r, VEC_EXP_C1);
    p = fmaf(p, r, VEC_EXP_C2);
    p = fmaf(p, r, VEC_EXP_C3);
    p = fmaf(p, r, VEC_EXP_C4);
    p = fmaf(p, r, VEC_EXP_C5);
    p = fmaf(p, r * r, r);
    p += 1.0f;
    uint32_t bits = (uint32_t)((int)n + 127) << 23;
    float two_n;
    memcpy(&two_n, &bits, sizeof two_n);
    return p * two_n;
}

static void silu_mul(float *y, const float *gate, const float *up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = gate[i] / (1.0f + exp_one(-gate[i])) * up[i];
}

static void rope(float *x, uint32_t n_rot, bool neox, const float *cosine, const float *sine)
{
    uint32_t half = n_rot / 2, step = neox ? 1 : 2, other = neox ? half : 1;
    for (uint32_t i = 0; i < half; i++) {
        float a = x[i * step], b = x[i * step + other];
        x[i * step] = fmaf(a, cosine[i], -(b * sine[i]));
        x[i * step + other] = fmaf(b, cosine[i], a * sine[i]);
    }
}

static void f32_to_f16(const float *x, uint16_t *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = qtype_f32_to_f16(x[i]);
}

static void f16_to_f32(const uint16_t *x, float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = qtype_f16_to_f32(x[i]);
}

static void dot_keys_f16(const float *q, const uint16_t *k, size_t stride, uint32_t n_keys,
                         uint32_t dim, float *scores)
{
    for (uint32_t j = 0; j < n_keys; j++, k += stride) {
        float s[LANES] = {0};
        for (uint32_t i = 0; i < dim; i++)
            s[i % LANES] = fmaf(q[i], qtype_f16_to_f32(k[i]), s[i % LANES]);
        scores[j] = fold(s);
    }
}

static void acc_values_f16(float *acc, float rescale, const float *p, const uint16_t *v,
                           size_t stride, uint32_t n_keys, uint32_t dim)
{
    for (uint32_t i = 0; i < dim; i++) {
        float a = acc[i] * rescale;
        for (uint32_t j = 0; j < n_keys; j++)
            a = fmaf(p[j], qtype_f16_to_f32(v[j * stride + i]), a);
        acc[i] = a;
    }
}

static float max_f32(const float *x, uint32_t n)
{
    float m = -INFINITY;
    for (uint32_t i = 0; i < n; i++)
        if (x[i] > m)
            m = x[i];
    return m;
}

static float exp_sum(float *x, uint32_t n, float m)
{
    float s[LANES] = {0};
    for (uint32_t i = 0; i < n; i++) {
        x[i] = exp_one(x[i] - m);
        s[i % LANES] += x[i];
    }
    return fold(s);
}

const struct kern_vec kern_vec_ref = {
    .rms_norm = rms_norm,
    .add = add,
    .silu_mul = silu_mul,
    .rope = rope,
    .f32_to_f16 = f32_to_f16,
    .f16_to_f32 = f16_to_f32,
    .dot_f32 = dot_f32,
    .dot_keys_f16 = dot_keys_f16,
    .acc_values_f16 = acc_values_f16,
    .max_f32 = max_f32,
    .exp_sum = exp_sum,
};
