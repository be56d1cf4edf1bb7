/* SPDX-License-Identifier: Apache-2.0 */
/* File blocks to panels, for panels of 8 and 16 rows. Layout: kern_impl.h. */
#include "quant/kern_impl.h"

#include <string.h>

static size_t round64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

static size_t shape_panel_bytes(const struct kern_shape *s, unsigned r, uint32_t cols)
{
    uint32_t super = kern_super_cols(s);
    size_t block = kern_scale_bytes(s, r) + kern_code_bytes(s, r);
    return round64(cols / super * (kern_head_bytes(s, r) + super / 32 * block));
}

static uint32_t rd32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static void nibbles_16_16(const uint8_t *qs, uint8_t codes[32])
{
    for (int j = 0; j < 16; j++) {
        codes[j] = qs[j] & 15;
        codes[j + 16] = qs[j] >> 4;
    }
}

static void fifth_bits(uint32_t qh, uint8_t codes[32])
{
    for (int j = 0; j < 32; j++)
        codes[j] = (uint8_t)(codes[j] | (qh >> j & 1u) << 4);
}

/* Unsigned codes of columns 32b..32b+31 of one file block. */
static void extract(const struct kern_shape *s, const uint8_t *p, unsigned b, uint8_t codes[32])
{
    unsigned half = b / 4, g = b % 4;
    switch (s->type) {
    case QT_Q4_0:
    case QT_IQ4_NL:
        nibbles_16_16(p + 2, codes);
        break;
    case QT_Q4_1:
        nibbles_16_16(p + 4, codes);
        break;
    case QT_Q5_0:
        nibbles_16_16(p + 6, codes);
        fifth_bits(rd32(p + 2), codes);
        break;
    case QT_Q5_1:
        nibbles_16_16(p + 8, codes);
        fifth_bits(rd32(p + 4), codes);
        break;
    case QT_Q8_0:
        for (int j = 0; j < 32; j++)
            codes[j] = p[2 + j] ^ 0x80;
        break;
    case QT_Q2_K:
        for (int j = 0; j < 32; j++)
            codes[j] = p[16 + 32 * half + (unsigned)j] >> 2 * g & 3;
        break;
    case QT_Q3_K:
        for (int j = 0; j < 32; j++)
            codes[j] =
                (uint8_t)((p[32 + 32 * half + (unsigned)j] >> 2 * g & 3) | (p[j] >> b & 1) << 2);
        break;
    case QT_Q4_K:
    case QT_Q5_K: {
        const uint8_t *qs = p + (s->type == QT_Q4_K ? 16 : 48) + 32 * (b / 2);
        for (int j = 0; j < 32; j++)
            codes[j] = qs[j] >> 4 * (b & 1) & 15;
        if (s->type == QT_Q5_K)
            for (int j = 0; j < 32; j++)
                codes[j] = (uint8_t)(codes[j] | (p[16 + j] >> b & 1) << 4);
        break;
    }
    case QT_Q6_K: {
        const uint8_t *ql = p + 64 * half + 32 * (g & 1), *qh = p + 128 + 32 * half;
        for (int j = 0; j < 32; j++)
            codes[j] = (uint8_t)((ql[j] >> 4 * (g >> 1) & 15) | (qh[j] >> 2 * g & 3) << 4);
        break;
    }
    case QT_IQ4_XS:
        nibbles_16_16(p + 8 + 16 * b, codes);
        break;
    default:
        break;
    }
}

/* Planes of one row and 32 columns; `to` is the low plane of the block. Words of four codes
 * move whole: the lane of a row is 32 bits wide. */
static void put_codes(const struct kern_shape *s, unsigned r, unsigned row, const uint8_t codes[32],
                      uint8_t *to)
{
    uint32_t w[8], high[2] = {0, 0};
    memcpy(w, codes, 32);
    size_t plane = 4 * (size_t)r;
    if (s->bits == 8) {
        for (unsigned g = 0; g < 8; g++)
            memcpy(to + plane * g + 4 * row, &w[g], 4);
        return;
    }
    for (unsigned g = 0; g < 4; g++) {
        uint32_t v = (w[2 * g] & 0x0f0f0f0fu) | (w[2 * g + 1] & 0x0f0f0f0fu) << 4;
        memcpy(to + plane * g + 4 * row, &v, 4);
    }
    to += 4 * plane + 4 * row;
    if (s->bits == 5) {
        for (unsigned g = 0; g < 8; g++)
            high[0] |= (w[g] >> 4 & 0x01010101u) << g;
        memcpy(to, &high[0], 4);
    } else if (s->bits == 6) {
        for (unsigned g = 0; g < 4; g++) {
            high[0] |= (w[g] >> 4 & 0x03030303u) << 2 * g;
            high[1] |= (w[g + 4] >> 4 & 0x03030303u) << 2 * g;
        }
        memcpy(to, &high[0], 4);
        memcpy(to + plane, &high[1], 4);
    }
}

static void put_half(uint8_t *to, const uint8_t *from, unsigned flip_sign)
{
    to[0] = from[0];
    to[1] = (uint8_t)(from[1] ^ (flip_sign ? 0x80 : 0));
}

static void put_head(const struct kern_shape *s, unsigned r, unsigned row, const uint8_t *p,
                     uint8_t *to)
{
    switch (s->type) {
    case QT_Q2_K:
        put_half(to + 2 * row, p + 80, 0);
        put_half(to + 2 * r + 2 * row, p + 82, 1);
        break;
    case QT_Q3_K:
        put_half(to + 2 * row, p + 108, 0);
        break;
    case QT_Q6_K:
        put_half(to + 2 * row, p + 208, 0);
        break;
    case QT_Q4_K:
    case QT_Q5_K:
        put_half(to + 2 * row, p, 0);
        put_half(to + 2 * r + 2 * row, p + 2, 1);
        break;
    case QT_IQ4_XS:
        put_half(to + 2 * row, p, 0);
        break;
    default:
        break;
    }
}

static uint8_t q3_scale(const uint8_t *sc, unsigned j)
{
    int low = j < 8 ? sc[j] & 15 : sc[j - 8] >> 4;
    return (uint8_t)((low | (sc[8 + j % 4] >> 2 * (j / 4) & 3) << 4) - 32);
}

static void put_scales(const struct kern_shape *s, unsigned r, unsigned row, const uint8_t *p,
                       unsigned b, uint8_t *to)
{
    switch (s->type) {
    case QT_Q4_1:
    case QT_Q5_1:
        put_half(to + 2 * r + 2 * row, p + 2, 0);
        put_half(to + 2 * row, p, 0);
        break;
    case QT_Q2_K:
        for (unsigned h = 0; h < 2; h++) {
            to[h * r + row] = p[2 * b + h] & 15;
            to[(2 + h) * r + row] = p[2 * b + h] >> 4;
        }
        break;
    case QT_Q3_K:
        for (unsigned h = 0; h < 2; h++)
            to[h * r + row] = q3_scale(p + 96, 2 * b + h);
        break;
    case QT_Q4_K:
    case QT_Q5_K:
        qtype_k_scale_min(p + 4, b, &to[row], &to[r + row]);
        break;
    case QT_Q6_K:
        for (unsigned h = 0; h < 2; h++)
            to[h * r + row] = p[192 + 2 * b + h];
        break;
    case QT_IQ4_XS: {
        unsigned high = p[2] | (unsigned)p[3] << 8;
        unsigned ls = ((unsigned)p[4 + b / 2] >> 4 * (b & 1) & 15u) | (high >> 2 * b & 3u) << 4;
        to[row] = (uint8_t)(ls - 32);
        break;
    }
    default: /* the 32-wide types without a minimum */
        put_half(to + 2 * row, p, 0);
        break;
    }
}

static inline __attribute__((always_inline)) void shape_pack(const struct kern_shape s, unsigned r,
                                                             const uint8_t *rows, size_t row_bytes,
                                                             uint32_t n_rows, uint32_t cols,
                                                             uint8_t *panel)
{
    uint32_t super = kern_super_cols(&s);
    size_t file_block = qtype_info(s.type)->block_bytes;
    size_t scales = kern_scale_bytes(&s, r), block = scales + kern_code_bytes(&s, r);
    memset(panel, 0, shape_panel_bytes(&s, r, cols));
    for (uint32_t k = 0; k < cols / super; k++) {
        uint8_t *head = panel + k * (kern_head_bytes(&s, r) + super / 32 * block);
        for (unsigned row = 0; row < n_rows; row++) {
            const uint8_t *p = rows + row * row_bytes + k * file_block;
            put_head(&s, r, row, p, head);
            for (unsigned b = 0; b < super / 32; b++) {
                uint8_t codes[32], *to = head + kern_head_bytes(&s, r) + b * block;
                put_scales(&s, r, row, p, b, to);
                extract(&s, p, b, codes);
                put_codes(&s, r, row, codes, to + scales);
            }
        }
    }
}

static void plain_pack(unsigned r, size_t size, const uint8_t *rows, size_t row_bytes,
                       uint32_t n_rows, uint32_t cols, uint8_t *panel)
{
    memset(panel, 0, round64((size_t)cols * r * size));
    for (unsigned row = 0; row < n_rows; row++)
        for (uint32_t c = 0; c < cols; c++)
            memcpy(panel + (c * (size_t)r + row) * size, rows + row * row_bytes + c * size, size);
}

#define SHAPE_FNS(name, bits, scales, offset, iq4, r)                                              \
    static size_t bytes_##name##_##r(uint32_t cols)                                                \
    {                                                                                              \
        const struct kern_shape s = KERN_SHAPE_VALUE(name, bits, scales, offset, iq4);             \
        return shape_panel_bytes(&s, r, cols);                                                     \
    }                                                                                              \
    static void pack_##name##_##r(const void *rows, size_t row_bytes, uint32_t n_rows,             \
                                  uint32_t cols, void *panel)                                      \
    {                                                                                              \
        const struct kern_shape s = KERN_SHAPE_VALUE(name, bits, scales, offset, iq4);             \
        shape_pack(s, r, rows, row_bytes, n_rows, cols, panel);                                    \
    }
#define SHAPE_FNS_8(name, bits, scales, offset, iq4)  SHAPE_FNS(name, bits, scales, offset, iq4, 8)
#define SHAPE_FNS_16(name, bits, scales, offset, iq4) SHAPE_FNS(name, bits, scales, offset, iq4, 16)
KERN_SHAPES(SHAPE_FNS_8)
KERN_SHAPES(SHAPE_FNS_16)

#define PLAIN_FNS(name, size, r)                                                                   \
    static size_t bytes_##name##_##r(uint32_t cols)                                                \
    {                                                                                              \
        return round64((size_t)cols * r * size);                                                   \
    }                                                                                              \
    static void pack_##name##_##r(const void *rows, size_t row_bytes, uint32_t n_rows,             \
                                  uint32_t cols, void *panel)                                      \
    {                                                                                              \
        plain_pack(r, size, rows, row_bytes, n_rows, cols, panel);                                 \
    }
PLAIN_FNS(F32, 4, 8)
PLAIN_FNS(F16, 2, 8)
PLAIN_FNS(BF16, 2, 8)
PLAIN_FNS(F32, 4, 16)
PLAIN_FNS(F16, 2, 16)
PLAIN_FNS(BF16, 2, 16)

#define ROW_8(name, bits, scales, offset, iq4)  {QT_##name, bytes_##name##_8, pack_##name##_8},
#define ROW_16(name, bits, scales, offset, iq4) {QT_##name, bytes_##name##_16, pack_##name##_16},
static const struct kern_layout layouts_8[] = {KERN_SHAPES(ROW_8) ROW_8(F32, , , , )
                                                   ROW_8(F16, , , , ) ROW_8(BF16, , , , )};
static const struct kern_layout layouts_16[] = {KERN_SHAPES(ROW_16) ROW_16(F32, , , , )
                                                    ROW_16(F16, , , , ) ROW_16(BF16, , , , )};

const struct kern_layout *kern_layout_find(enum qtype type, unsigned r)
{
    const struct kern_layout *l = r == 16 ? layouts_16 : layouts_8;
    for (size_t i = 0; i < sizeof layouts_8 / sizeof layouts_8[0]; i++)
        if (l[i].type == type)
            return &l[i];
    return NULL;
}
