/* SPDX-License-Identifier: Apache-2.0 */
/* Where keys and values lie in a page and how they get there; the forms of a query. */
#include "base/num.h"
#include "quant/qtype.h"
#include "worker/cpu/attn_kern.h"

#include <string.h>

#define PAGE  BACKEND_PAGE_TOKENS
#define PIECE 256U /* dimensions converted to f16 at once */

static size_t up(size_t n, size_t to)
{
    return (n + to - 1) / to;
}

struct attn_layout attn_layout_of(const struct attn_kern *k, enum kv_type type, uint32_t dk,
                                  uint32_t dv)
{
    struct attn_layout l = {.type = type, .split = k->split, .dk = dk, .dv = dv};
    size_t elem = type == KV_F32 ? sizeof(float) : sizeof(uint16_t);

    l.dv_pad = (uint32_t)up(dv, ATTN_V_ALIGN) * ATTN_V_ALIGN;
    if (type == KV_Q8_0) {
        size_t k4 = up(dk, 4), groups = up(dk, ATTN_K_GROUP);
        l.k_scales = k4 * 4 * PAGE;
        l.v = l.k_scales + groups * PAGE * sizeof(uint16_t);
        l.v_scales = l.v + (size_t)l.dv_pad * PAGE;
        l.bytes = l.v_scales + up(dv, ATTN_V_GROUP) * PAGE * sizeof(uint16_t);
        l.query_bytes = k4 * ATTN_UNIT + sizeof(float) + groups * sizeof(int32_t);
    } else {
        l.v = (size_t)dk * PAGE * elem;
        l.bytes = l.v + (size_t)l.dv_pad * PAGE * elem;
        l.query_bytes = dk * sizeof(float);
    }
    l.bytes = up(l.bytes, 64) * 64;
    l.tile_bytes = up(l.query_bytes * ATTN_TILE, 64) * 64;
    l.query_bytes = up(l.query_bytes, ATTN_UNIT) * ATTN_UNIT;
    return l;
}

/* n <= 64 values become codes + 128; returns their scale. The codes are for the scale as it is
 * stored; what is beyond the range of f16 is clipped. */
static uint16_t quantise(const struct attn_kern *k, const float *x, uint32_t n,
                         unsigned char *codes)
{
    uint16_t half = qtype_f32_to_f16(NUM_MIN(k->largest(x, n) / 127, 65504.0f));
    float scale = qtype_f16_to_f32(half), inv = scale > 0 ? 1 / scale : 0;
    for (uint32_t i = 0; i < n; i += 32)
        k->codes(x + i, NUM_MIN(n - i, 32U), inv, codes + i);
    return half;
}

static void put_half(unsigned char *p, size_t i, uint16_t half)
{
    ((uint16_t *)(void *)p)[i] = half;
}

static void store_k_q8(const struct attn_kern *k, const struct attn_layout *l, unsigned char *page,
                       uint32_t slot, const float *x)
{
    for (uint32_t from = 0; from < l->dk; from += ATTN_K_GROUP) {
        unsigned char codes[ATTN_K_GROUP] = {0};
        uint32_t n = NUM_MIN(l->dk - from, (uint32_t)ATTN_K_GROUP);
        uint16_t scale = quantise(k, x + from, n, codes);
        for (uint32_t d = 0; d < n; d += 4)
            memcpy(page + ((from + d) / 4 * PAGE + slot) * 4, codes + d, 4);
        put_half(page + l->k_scales, from / ATTN_K_GROUP * PAGE + slot, scale);
    }
}

void attn_store_k(const struct attn_kern *k, const struct attn_layout *l,
                  const struct kern_vec *vec, unsigned char *page, uint32_t slot, const float *x)
{
    uint16_t half[PIECE];
    switch (l->type) {
    case KV_F32:
        for (size_t d = 0; d < l->dk; d++)
            ((float *)(void *)page)[d * PAGE + slot] = x[d];
        return;
    case KV_Q8_0:
        store_k_q8(k, l, page, slot, x);
        return;
    case KV_F16:
        for (uint32_t at = 0; at < l->dk; at += PIECE) {
            uint32_t n = NUM_MIN(l->dk - at, PIECE);
            vec->f32_to_f16(x + at, half, n);
            for (size_t d = 0; d < n; d++)
                put_half(page, (at + d) * PAGE + slot, half[d]);
        }
        return;
    }
}

void attn_store_v(const struct attn_kern *k, const struct attn_layout *l,
                  const struct kern_vec *vec, unsigned char *page, uint32_t slot, const float *x)
{
    unsigned char *v = page + l->v;
    size_t row = (size_t)slot * l->dv_pad;
    switch (l->type) {
    case KV_F32:
        memcpy((float *)(void *)v + row, x, l->dv * sizeof(*x));
        return;
    case KV_Q8_0:
        v += (size_t)(slot / 4) * l->dv_pad * 4 + slot % 4;
        for (uint32_t from = 0; from < l->dv; from += ATTN_V_GROUP) {
            unsigned char codes[ATTN_V_GROUP];
            uint32_t n = NUM_MIN(l->dv - from, (uint32_t)ATTN_V_GROUP);
            put_half(page + l->v_scales, from / ATTN_V_GROUP * PAGE + slot,
                     quantise(k, x + from, n, codes));
            for (uint32_t d = 0; d < n; d++)
                v[(size_t)(from + d) * 4] = codes[d];
        }
        return;
    case KV_F16:
        vec->f32_to_f16(x, (uint16_t *)(void *)v + row, l->dv);
        return;
    }
}

/* ---- queries ------------------------------------------------------------------------------- */

void attn_set_query(const struct attn_kern *k, const struct attn_layout *l, const float *x,
                    float scale, void *query)
{
    float *f = query;
    if (l->type != KV_Q8_0) {
        for (uint32_t d = 0; d < l->dk; d++)
            f[d] = x[d] * scale;
        return;
    }
    unsigned char *unit = query, *sums = unit + up(l->dk, 4) * ATTN_UNIT + sizeof(float);
    float most = k->largest(x, l->dk), inv = most > ATTN_TINY ? ATTN_INT_MAX / most : 0;
    float back = most > ATTN_TINY ? most / ATTN_INT_MAX * scale : 0;
    memcpy(sums - sizeof(back), &back, sizeof(back));
    for (uint32_t from = 0; from < l->dk; from += ATTN_K_GROUP, sums += sizeof(int32_t)) {
        uint32_t n = NUM_MIN(l->dk - from, (uint32_t)ATTN_K_GROUP);
        int32_t sum = 128 * k->units(x + from, n, inv, unit + from / 4 * ATTN_UNIT);
        memcpy(sums, &sum, sizeof(sum));
    }
}

void attn_put_query(const struct attn_layout *l, const void *query, uint32_t lane,
                    unsigned char *tile)
{
    const unsigned char *from = query;
    size_t units = l->type == KV_Q8_0 ? up(l->dk, 4) : 0;
    size_t words = l->type == KV_Q8_0 ? 1 + up(l->dk, ATTN_K_GROUP) : l->dk;

    tile += lane * (units ? ATTN_UNIT : sizeof(float));
    for (size_t u = 0; u < units; u++, from += ATTN_UNIT, tile += ATTN_TILE * ATTN_UNIT)
        memcpy(tile, from, ATTN_UNIT);
    if (units)
        tile -= lane * (ATTN_UNIT - sizeof(float));
    for (size_t w = 0; w < words; w++, from += sizeof(float), tile += ATTN_TILE * sizeof(float))
        memcpy(tile, from, sizeof(float));
}
