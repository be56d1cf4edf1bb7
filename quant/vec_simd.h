/* SPDX-License-Identifier: Apache-2.0 */
/* vec_simd.h - the vector operations over 16 lanes, for the files of each level.
 *
 * The including file defines the type vf (16 floats) and v_set, v_load, v_load_n, v_store,
 * v_store_n, v_load_half, v_load_half_n, v_store_half, v_store_half_n, v_add, v_sub, v_mul,
 * v_div, v_neg, v_fma, v_max, v_min (second operand when one is NaN), v_round, v_two_n (2^n of an
 * integral n), v_zero_below(v, x, min) (0 where x < min), v_fold, v_store_fold4, v_rope_pairs and
 * ACC_CHUNK. The *_n forms touch n < 16 elements; missing ones load as 0. Same bits as
 * vec_ref.c, which is the definition. */

INLINE float dot_n(const float *a, const float *b, uint32_t n)
{
    vf s = v_set(0);
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        s = v_fma(v_load(a + i), v_load(b + i), s);
    if (i < n)
        s = v_fma(v_load_n(a + i, n - i), v_load_n(b + i, n - i), s);
    return v_fold(s);
}

static float dot_f32(const float *a, const float *b, uint32_t n)
{
    return dot_n(a, b, n);
}

static void rms_norm(const float *x, const float *w, uint32_t n, float eps, float *y)
{
    vf scale = v_set(1.0f / sqrtf(dot_n(x, x, n) / (float)n + eps));
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(y + i, v_mul(v_mul(v_load(x + i), scale), v_load(w + i)));
    if (i < n) {
        vf v = v_mul(v_mul(v_load_n(x + i, n - i), scale), v_load_n(w + i, n - i));
        v_store_n(y + i, v, n - i);
    }
}

static void add(float *y, const float *x, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(y + i, v_add(v_load(y + i), v_load(x + i)));
    if (i < n)
        v_store_n(y + i, v_add(v_load_n(y + i, n - i), v_load_n(x + i, n - i)), n - i);
}

INLINE vf v_exp(vf x0)
{
    vf x = v_min(v_set(VEC_EXP_MAX), x0);
    vf n = v_round(v_mul(x, v_set(VEC_LOG2E)));
    vf r = v_fma(n, v_set(-VEC_LN2_HI), x);
    r = v_fma(n, v_set(-VEC_LN2_LO), r);
    vf p = v_set(VEC_EXP_C0);
    p = v_fma(p, r, v_set(VEC_EXP_C1));
    p = v_fma(p, r, v_set(VEC_EXP_C2));
    p = v_fma(p, r, v_set(VEC_EXP_C3));
    p = v_fma(p, r, v_set(VEC_EXP_C4));
    p = v_fma(p, r, v_set(VEC_EXP_C5));
    p = v_add(v_fma(p, v_mul(r, r), r), v_set(1.0f));
    return v_zero_below(v_mul(p, v_two_n(n)), x0, VEC_EXP_MIN);
}

INLINE vf v_silu_mul(vf gate, vf up)
{
    return v_mul(v_div(gate, v_add(v_set(1.0f), v_exp(v_neg(gate)))), up);
}

static void silu_mul(float *y, const float *gate, const float *up, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(y + i, v_silu_mul(v_load(gate + i), v_load(up + i)));
    if (i < n)
        v_store_n(y + i, v_silu_mul(v_load_n(gate + i, n - i), v_load_n(up + i, n - i)), n - i);
}

static void rope(float *x, uint32_t n_rot, bool neox, const float *cosine, const float *sine)
{
    uint32_t half = n_rot / 2, i = 0;
    if (!neox) {
        for (; i + 8 <= half; i += 8)
            v_store(x + 2 * i, v_rope_pairs(v_load(x + 2 * i), cosine + i, sine + i));
    } else {
        for (; i + 16 <= half; i += 16) {
            vf a = v_load(x + i), b = v_load(x + half + i);
            vf c = v_load(cosine + i), s = v_load(sine + i);
            v_store(x + i, v_fma(a, c, v_neg(v_mul(b, s))));
            v_store(x + half + i, v_fma(b, c, v_mul(a, s)));
        }
    }
    uint32_t step = neox ? 1 : 2, other = neox ? half : 1;
    for (; i < half; i++) {
        float a = x[i * step], b = x[i * step + other];
        x[i * step] = fmaf(a, cosine[i], -(b * sine[i]));
        x[i * step + other] = fmaf(b, cosine[i], a * sine[i]);
    }
}

static void f32_to_f16(const float *x, uint16_t *y, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store_half(y + i, v_load(x + i));
    if (i < n)
        v_store_half_n(y + i, v_load_n(x + i, n - i), n - i);
}

static void f16_to_f32(const uint16_t *x, float *y, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        v_store(y + i, v_load_half(x + i));
    if (i < n)
        v_store_n(y + i, v_load_half_n(x + i, n - i), n - i);
}

INLINE vf key_lanes(const float *q, const uint16_t *k, uint32_t dim)
{
    vf s = v_set(0);
    uint32_t i = 0;
    for (; i + 16 <= dim; i += 16)
        s = v_fma(v_load(q + i), v_load_half(k + i), s);
    if (i < dim)
        s = v_fma(v_load_n(q + i, dim - i), v_load_half_n(k + i, dim - i), s);
    return s;
}

static void dot_keys_f16(const float *q, const uint16_t *k, size_t stride, uint32_t n_keys,
                         uint32_t dim, float *scores)
{
    uint32_t j = 0;
    for (; j + 4 <= n_keys; j += 4, k += 4 * stride) {
        vf s0 = v_set(0), s1 = s0, s2 = s0, s3 = s0;
        uint32_t i = 0;
        for (; i + 16 <= dim; i += 16) {
            vf x = v_load(q + i);
            s0 = v_fma(x, v_load_half(k + i), s0);
            s1 = v_fma(x, v_load_half(k + stride + i), s1);
            s2 = v_fma(x, v_load_half(k + 2 * stride + i), s2);
            s3 = v_fma(x, v_load_half(k + 3 * stride + i), s3);
        }
        if (i < dim) {
            vf x = v_load_n(q + i, dim - i);
            s0 = v_fma(x, v_load_half_n(k + i, dim - i), s0);
            s1 = v_fma(x, v_load_half_n(k + stride + i, dim - i), s1);
            s2 = v_fma(x, v_load_half_n(k + 2 * stride + i, dim - i), s2);
            s3 = v_fma(x, v_load_half_n(k + 3 * stride + i, dim - i), s3);
        }
        v_store_fold4(scores + j, s0, s1, s2, s3);
    }
    for (; j < n_keys; j++, k += stride)
        scores[j] = v_fold(key_lanes(q, k, dim));
}

/* n_vec vectors of the accumulator stay in registers while the keys pass. */
INLINE void acc_chunk(float *acc, float rescale, const float *p, const uint16_t *v, size_t stride,
                      uint32_t n_keys, unsigned n_vec)
{
    vf a[ACC_CHUNK];
    UNROLL for (unsigned k = 0; k < n_vec; k++) a[k] = v_mul(v_load(acc + 16 * k), v_set(rescale));
    for (uint32_t j = 0; j < n_keys; j++, v += stride) {
        vf w = v_set(p[j]);
        UNROLL for (unsigned k = 0; k < n_vec; k++) a[k] = v_fma(w, v_load_half(v + 16 * k), a[k]);
    }
    UNROLL for (unsigned k = 0; k < n_vec; k++) v_store(acc + 16 * k, a[k]);
}

static void acc_values_f16(float *acc, float rescale, const float *p, const uint16_t *v,
                           size_t stride, uint32_t n_keys, uint32_t dim)
{
    uint32_t i = 0;
    for (; i + 16 * ACC_CHUNK <= dim; i += 16 * ACC_CHUNK)
        acc_chunk(acc + i, rescale, p, v + i, stride, n_keys, ACC_CHUNK);
    for (; i + 64 <= dim; i += 64)
        acc_chunk(acc + i, rescale, p, v + i, stride, n_keys, 4);
    for (; i + 16 <= dim; i += 16)
        acc_chunk(acc + i, rescale, p, v + i, stride, n_keys, 1);
    if (i < dim) {
        vf a = v_mul(v_load_n(acc + i, dim - i), v_set(rescale));
        for (uint32_t j = 0; j < n_keys; j++)
            a = v_fma(v_set(p[j]), v_load_half_n(v + j * stride + i, dim - i), a);
        v_store_n(acc + i, a, dim - i);
    }
}

static float max_f32(const float *x, uint32_t n)
{
    vf m = v_set(-INFINITY);
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16)
        m = v_max(v_load(x + i), m);
    float lanes[16], best = -INFINITY;
    v_store(lanes, m);
    for (int k = 0; k < 16; k++)
        best = lanes[k] > best ? lanes[k] : best;
    for (; i < n; i++)
        best = x[i] > best ? x[i] : best;
    return best;
}

static float exp_sum(float *x, uint32_t n, float m)
{
    vf s = v_set(0), mv = v_set(m);
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        vf v = v_exp(v_sub(v_load(x + i), mv));
        v_store(x + i, v);
        s = v_add(s, v);
    }
    if (i < n) { /* missing lanes add 0 */
        v_store_n(x + i, v_exp(v_sub(v_load_n(x + i, n - i), mv)), n - i);
        s = v_add(s, v_load_n(x + i, n - i));
    }
    return v_fold(s);
}

#define VEC_TABLE                                                                                  \
    {                                                                                              \
        .rms_norm = rms_norm, .add = add, .silu_mul = silu_mul, .rope = rope,                      \
        .f32_to_f16 = f32_to_f16, .f16_to_f32 = f16_to_f32, .dot_f32 = dot_f32,                    \
        .dot_keys_f16 = dot_keys_f16, .acc_values_f16 = acc_values_f16, .max_f32 = max_f32,        \
        .exp_sum = exp_sum                                                                         \
    }
