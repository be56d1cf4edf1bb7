/* SPDX-License-Identifier: Apache-2.0 */
#include "base/num.h"
#include "quant/qtype.h"
#include "worker/cpu/attn_kern.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define PAGE  BACKEND_PAGE_TOKENS
#define LANES 16

static float half_at(const unsigned char *p, size_t i)
{
    return qtype_f16_to_f32(((const uint16_t *)(const void *)p)[i]);
}

static float load(const unsigned char *p, size_t i, enum kv_type type)
{
    return type == KV_F32 ? ((const float *)(const void *)p)[i] : half_at(p, i);
}

/* exp for x <= 0; 0 below -87. Cody-Waite reduction, degree 6, error about 1e-7. */
static float exp1(float x)
{
    if (!(x > -87.0f))
        return 0;
    float n = fmaf(x, 1.44269504f, 12582912.0f) - 12582912.0f;
    float r = fmaf(n, -0.693359375f, x);
    r = fmaf(n, 2.12194440e-4f, r);
    float y = 1.9875691500e-4f;
    y = fmaf(y, r, 1.3981999507e-3f);
    y = fmaf(y, r, 8.3334519073e-3f);
    y = fmaf(y, r, 4.1665795894e-2f);
    y = fmaf(y, r, 1.6666665459e-1f);
    y = fmaf(y, r, 5.0000001201e-1f);
    y = fmaf(y, r * r, r) + 1.0f;
    return ldexpf(y, (int)n);
}

static float score_float(const struct attn_block *b, uint32_t i, uint32_t j)
{
    const struct attn_layout *l = b->l;
    const unsigned char *tile = b->q + i / ATTN_TILE * l->tile_bytes;
    const float *q = (const float *)(const void *)tile + i % ATTN_TILE;
    float part[2] = {0, 0};

    for (size_t d = 0; d < l->dk; d++) {
        float k = load(b->page[j / PAGE], d * PAGE + j % PAGE, l->type);
        part[d % 2] = fmaf(q[d * ATTN_TILE], k, part[d % 2]);
    }
    return part[0] + part[1];
}

static float score_q8(const struct attn_block *b, uint32_t i, uint32_t j)
{
    const struct attn_layout *l = b->l;
    const unsigned char *page = b->page[j / PAGE];
    const unsigned char *tile = b->q + i / ATTN_TILE * l->tile_bytes;
    size_t k4 = ((size_t)l->dk + 3) / 4;
    const float *back = (const float *)(const void *)(tile + k4 * ATTN_TILE * ATTN_UNIT);
    float total = 0;

    for (size_t from = 0; from < k4; from += ATTN_K_GROUP / 4) {
        size_t end = NUM_MIN(from + ATTN_K_GROUP / 4, k4);
        int32_t dot = 0;
        for (size_t u = from; u < end; u++) {
            int16_t q[4];
            memcpy(q, tile + (u * ATTN_TILE + i % ATTN_TILE) * ATTN_UNIT, sizeof(q));
            for (size_t d = 0; d < 4; d++)
                dot += q[d] * (page[(u * PAGE + j % PAGE) * 4 + d] - 128);
        }
        float scale = half_at(page + l->k_scales, from / (ATTN_K_GROUP / 4) * PAGE + j % PAGE);
        total = fmaf((float)dot, scale, total);
    }
    return total * back[i % ATTN_TILE];
}

static float tree_sum(float *x)
{
    for (uint32_t n = LANES / 2; n > 0; n /= 2) {
        for (uint32_t i = 0; i < n; i++)
            x[i] += x[i + n];
    }
    return x[0];
}

static void values_float(const struct attn_block *b, uint32_t i, const float *s, float rescale)
{
    const struct attn_layout *l = b->l;
    float *acc = b->acc + (size_t)i * l->dv_pad;

    for (uint32_t d = 0; d < l->dv_pad; d++)
        acc[d] *= rescale;
    for (uint32_t j = b->lo[i]; j < b->hi[i]; j++) {
        const unsigned char *v = b->page[j / PAGE] + l->v;
        for (uint32_t d = 0; d < l->dv_pad; d++)
            acc[d] = fmaf(s[j], load(v, (size_t)(j % PAGE) * l->dv_pad + d, l->type), acc[d]);
    }
}

/* Weights of a group become integers relative to the largest; returns their unit. */
static float weights_q8(const struct attn_block *b, uint32_t i, size_t group, const float *s,
                        int32_t *w)
{
    const struct attn_layout *l = b->l;
    float scaled[ATTN_BLOCK], max = 0;

    for (uint32_t j = b->lo[i]; j < b->hi[i]; j++) {
        scaled[j] = s[j] * half_at(b->page[j / PAGE] + l->v_scales, group * PAGE + j % PAGE);
        max = NUM_MAX(max, scaled[j]);
    }
    float inv = max > ATTN_TINY ? ATTN_INT_MAX / max : 0;
    for (uint32_t j = b->lo[i]; j < b->hi[i]; j++)
        w[j] = (int32_t)rintf(scaled[j] * inv);
    return max > ATTN_TINY ? max / ATTN_INT_MAX : 0;
}

static void values_q8(const struct attn_block *b, uint32_t i, const float *s, float rescale)
{
    const struct attn_layout *l = b->l;
    float *acc = b->acc + (size_t)i * l->dv_pad, back = 0;
    int32_t w[ATTN_BLOCK];

    for (uint32_t d = 0; d < l->dv_pad; d++) {
        int32_t dot = 0;
        if (d % ATTN_V_GROUP == 0)
            back = weights_q8(b, i, d / ATTN_V_GROUP, s, w);
        for (uint32_t j = b->lo[i]; j < b->hi[i]; j++) {
            const unsigned char *v = b->page[j / PAGE] + l->v;
            dot += w[j] * (v[((size_t)(j % PAGE / 4) * l->dv_pad + d) * 4 + j % 4] - 128);
        }
        acc[d] = fmaf((float)dot, back, acc[d] * rescale);
    }
}

static void one_query(const struct attn_block *b, uint32_t i)
{
    bool q8 = b->l->type == KV_Q8_0;
    float s[ATTN_BLOCK], lanes[LANES] = {0}, max = b->max[i];

    for (uint32_t j = b->lo[i]; j < b->hi[i]; j++) {
        s[j] = q8 ? score_q8(b, i, j) : score_float(b, i, j);
        max = s[j] > max ? s[j] : max;
    }
    float rescale = max != b->max[i] ? exp1(b->max[i] - max) : 1;
    for (uint32_t j = b->lo[i]; j < b->hi[i]; j++) {
        s[j] = exp1(s[j] - max);
        lanes[j % LANES] += s[j];
    }
    if (q8) {
        values_q8(b, i, s, rescale);
    } else {
        values_float(b, i, s, rescale);
    }
    b->sum[i] = b->sum[i] * rescale + tree_sum(lanes);
    b->max[i] = max;
}

static void block(const struct attn_block *b)
{
    for (uint32_t i = 0; i < b->n_q; i++) {
        if (b->lo[i] < b->hi[i])
            one_query(b, i);
    }
}

static float largest(const float *x, uint32_t n)
{
    float most = 0;
    for (uint32_t i = 0; i < n; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return most;
}

static int32_t nearest(float x, float limit)
{
    x = isnan(x) ? 0 : x;
    return (int32_t)rintf(fminf(fmaxf(x, -limit), limit));
}

static void codes(const float *x, uint32_t n, float inv, unsigned char *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = (unsigned char)(nearest(x[i] * inv, 127) + 128);
}

static int32_t units(const float *x, uint32_t n, float inv, unsigned char *out)
{
    int32_t sum = 0;
    for (uint32_t i = 0; i < (n + 3) / 4 * 4; i++) {
        int16_t whole = i < n ? (int16_t)nearest(x[i] * inv, ATTN_INT_MAX) : 0;
        memcpy(out + i * sizeof(whole), &whole, sizeof(whole));
        sum += whole;
    }
    return sum;
}

const struct attn_kern attn_kern_ref = {{block, block, block}, exp1, largest, codes, units, false};

const struct attn_kern *attn_kern_at(enum kern_level level)
{
#if defined(__x86_64__)
    if (level == KERN_AVX512)
        return &attn_kern_avx512;
    if (level == KERN_AVX2)
        return &attn_kern_avx2;
#elif defined(__aarch64__)
    if (level == KERN_NEON)
        return &attn_kern_neon;
#endif
    (void)level;
    return &attn_kern_ref;
}
