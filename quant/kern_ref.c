/* SPDX-License-Identifier: Apache-2.0 */
/* The definition of the matrix kernels in plain C; layout and arithmetic: kern_impl.h. */
#include "quant/kern_impl.h"
#include "quant/simd.h"

#include "base/num.h"

#include <math.h>
#include <string.h>

enum { R = 8 };

static float half_at(const uint8_t *p, unsigned i)
{
    return qtype_f16_to_f32((uint16_t)(p[2 * i] | p[2 * i + 1] << 8));
}

static void act_f32(const float *x, uint32_t cols, void *act)
{
    memcpy(act, x, cols * sizeof *x);
}

static void act_q8(const float *x, uint32_t cols, void *act)
{
    struct kern_act *a = act;
    for (uint32_t b = 0; b < cols / 32; b++, x += 32, a++) {
        float amax = 0;
        for (int j = 0; j < 32; j++)
            if (fabsf(x[j]) > amax)
                amax = fabsf(x[j]);
        bool tiny = !(amax > KERN_ACT_TINY);
        float scale = tiny ? 0 : 127.0f / amax;
        int sum[2] = {0, 0};
        for (int j = 0; j < 32; j++) {
            float v = rintf(x[j] * scale);
            int q = v >= -127.0f ? (v <= 127.0f ? (int)v : 127) : -127; /* NaN: -127 */
            a->q[j] = (int8_t)q;
            sum[j / 16] += q;
        }
        kern_act_set(a, amax, sum[0], sum[1]);
    }
}

/* Unsigned code of column c of a row. */
static int code_at(const struct kern_shape *s, const uint8_t *low, unsigned row, unsigned c)
{
    const size_t plane = 4 * R;
    const unsigned lane = 4 * row + c % 4, g = c / 4;
    if (s->bits == 8)
        return low[plane * g + lane];
    int q = low[plane * (g / 2) + lane] >> 4 * (g & 1) & 15;
    const uint8_t *high = low + 4 * plane;
    if (s->bits == 5)
        q |= (high[lane] >> g & 1) << 4;
    if (s->bits == 6)
        q |= (high[plane * (g / 4) + lane] >> 2 * (g % 4) & 3) << 4;
    return s->iq4 ? qtype_iq4_values[q] + 128 : q;
}

/* Scales of one row and 32 columns: for each half, and the minima likewise. */
struct scales {
    float scale[2], min[2];
};

static struct scales scales_at(const struct kern_shape *s, const uint8_t *head, const uint8_t *sc,
                               unsigned row)
{
    struct scales o = {{0, 0}, {0, 0}};
    switch (s->scales) {
    case KERN_D:
        o.scale[0] = half_at(sc, row);
        break;
    case KERN_DM:
        o.scale[0] = half_at(sc, row);
        o.min[0] = half_at(sc, R + row);
        break;
    case KERN_KDM:
        o.scale[0] = half_at(head, row) * (float)sc[row];
        o.min[0] = half_at(head, R + row) * (float)sc[R + row];
        break;
    case KERN_K32:
        o.scale[0] = half_at(head, row) * (float)(int8_t)sc[row];
        break;
    case KERN_K16:
        for (unsigned h = 0; h < 2; h++)
            o.scale[h] = half_at(head, row) * (float)(int8_t)sc[h * R + row];
        break;
    case KERN_K16M:
        for (unsigned h = 0; h < 2; h++) {
            o.scale[h] = half_at(head, row) * (float)sc[h * R + row];
            o.min[h] = half_at(head, R + row) * (float)sc[(2 + h) * R + row];
        }
        break;
    }
    return o;
}

static float block_dot(const struct kern_shape *s, const struct scales *w, const uint8_t *low,
                       unsigned row, const struct kern_act *a, float acc)
{
    int i[2] = {0, 0}, sum[2] = {0, 0};
    for (unsigned c = 0; c < 32; c++) {
        i[c / 16] += code_at(s, low, row, c) * a->q[c];
        sum[c / 16] += a->q[c];
    }
    float t;
    if (s->scales == KERN_K16 || s->scales == KERN_K16M) {
        t = (float)(i[0] - s->offset * sum[0]) * w->scale[0];
        t = fmaf((float)(i[1] - s->offset * sum[1]), w->scale[1], t);
        if (s->scales == KERN_K16M) {
            t = fmaf(w->min[0], (float)sum[0], t);
            t = fmaf(w->min[1], (float)sum[1], t);
        }
    } else {
        t = (float)(i[0] + i[1] - s->offset * (sum[0] + sum[1])) * w->scale[0];
        if (s->scales == KERN_DM || s->scales == KERN_KDM)
            t = fmaf(w->min[0], a->sum, t);
    }
    return fmaf(t, a->d, acc);
}

static void shape_mul(struct kern_shape shape, const uint8_t *panel, uint32_t cols, uint32_t n_rows,
                      const struct kern_act *acts, uint32_t n_tokens, float *out, size_t ld_out)
{
    const struct kern_shape *s = &shape;
    const uint32_t super = kern_super_cols(s);
    const size_t head_bytes = kern_head_bytes(s, R), scale_bytes = kern_scale_bytes(s, R);
    const size_t block_bytes = scale_bytes + kern_code_bytes(s, R);
    for (uint32_t t = 0; t < n_tokens; t++)
        for (uint32_t row = 0; row < n_rows; row++) {
            const struct kern_act *a = acts + (size_t)t * (cols / 32);
            const uint8_t *p = panel;
            float acc = 0;
            for (uint32_t k = 0; k < cols; k += super) {
                const uint8_t *head = p;
                p += head_bytes;
                for (uint32_t b = 0; b < super / 32; b++, p += block_bytes, a++) {
                    struct scales w = scales_at(s, head, p, row);
                    acc = block_dot(s, &w, p + scale_bytes, row, a, acc);
                }
            }
            out[t * ld_out + row] = acc;
        }
}

static float plain_at(enum qtype type, const uint8_t *p, size_t i)
{
    uint16_t h;
    float f;
    if (type == QT_F32) {
        memcpy(&f, p + 4 * i, 4);
        return f;
    }
    memcpy(&h, p + 2 * i, 2);
    return type == QT_F16 ? qtype_f16_to_f32(h) : qtype_bf16_to_f32(h);
}

static void plain_mul(enum qtype type, const uint8_t *panel, uint32_t cols, uint32_t n_rows,
                      const char *acts, uint32_t n_tokens, float *out, size_t ld_out)
{
    const size_t act_bytes = ((size_t)cols * 4 + 63) & ~(size_t)63;
    for (uint32_t t = 0; t < n_tokens; t++) {
        const float *x = (const float *)(const void *)(acts + t * act_bytes);
        for (uint32_t row = 0; row < n_rows; row++) {
            float sum = 0;
            for (uint32_t c = 0; c < cols;) {
                const uint32_t end = NUM_MIN(cols - c, KERN_PLAIN_BLOCK) + c;
                float acc[2] = {0, 0};
                for (; c < end; c++)
                    acc[c & 1] = fmaf(plain_at(type, panel, (size_t)c * R + row), x[c], acc[c & 1]);
                sum = sum + acc[0] + acc[1];
            }
            out[t * ld_out + row] = sum;
        }
    }
}

typedef struct {
    float f[R];
} vf;

INLINE vf load_half(const uint8_t *p)
{
    vf v;
    for (unsigned r = 0; r < R; r++)
        v.f[r] = half_at(p, r);
    return v;
}

INLINE vf load_u8(const uint8_t *p)
{
    vf v;
    for (unsigned r = 0; r < R; r++)
        v.f[r] = (float)p[r];
    return v;
}

INLINE vf load_i8(const uint8_t *p)
{
    vf v;
    for (unsigned r = 0; r < R; r++)
        v.f[r] = (float)(int8_t)p[r];
    return v;
}

#include "quant/kern_outlier_simd.h"

KERN_DEFINE_ROWS(kern_rows_ref)
