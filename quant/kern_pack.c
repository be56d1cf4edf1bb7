/* SPDX-License-Identifier: Apache-2.0 */
/* File blocks to panels, for panels of 8 and 16 rows. Layout: kern_impl.h. */
#include "quant/kern_impl.h"
#include "quant/simd.h"

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

static uint64_t rd64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static uint32_t rd32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* Eight codes are one word, that of columns 8k..8k+7: arithmetic on all of them at once. */
#define EACH(byte) (UINT64_C(0x0101010101010101) * (byte))

INLINE void nibbles_16_16(const uint8_t *qs, uint64_t w[4])
{
    for (unsigned k = 0; k < 2; k++) {
        uint64_t v = rd64(qs + 8 * k);
        w[k] = v & EACH(15);
        w[k + 2] = v >> 4 & EACH(15);
    }
}

/* Bit 8k + j of qh becomes bit 4 of byte j of word k. The product puts four copies side by
 * side, 7 bits apart, so that each byte finds its bit at the bottom. */
INLINE void fifth_bits(uint32_t qh, uint64_t w[4])
{
    for (unsigned k = 0; k < 4; k++) {
        uint32_t low = (qh >> 8 * k & 15u) * 0x00204081u & 0x01010101u;
        uint32_t high = (qh >> (8 * k + 4) & 15u) * 0x00204081u & 0x01010101u;
        w[k] |= ((uint64_t)high << 32 | low) << 4;
    }
}

/* Unsigned codes of columns 32b..32b+31 of one file block. */
INLINE void extract(const struct kern_shape s, const uint8_t *p, unsigned b, uint64_t w[4])
{
    const unsigned half = b / 4, g = b % 4;
    switch (s.type) {
    case QT_Q4_0:
    case QT_IQ4_NL:
        nibbles_16_16(p + 2, w);
        break;
    case QT_Q4_1:
        nibbles_16_16(p + 4, w);
        break;
    case QT_Q5_0:
        nibbles_16_16(p + 6, w);
        fifth_bits(rd32(p + 2), w);
        break;
    case QT_Q5_1:
        nibbles_16_16(p + 8, w);
        fifth_bits(rd32(p + 4), w);
        break;
    case QT_Q8_0:
        for (unsigned k = 0; k < 4; k++)
            w[k] = rd64(p + 2 + 8 * k) ^ EACH(128);
        break;
    case QT_Q2_K:
        for (unsigned k = 0; k < 4; k++)
            w[k] = rd64(p + 16 + 32 * half + 8 * k) >> 2 * g & EACH(3);
        break;
    case QT_Q3_K:
        for (unsigned k = 0; k < 4; k++)
            w[k] = (rd64(p + 32 + 32 * half + 8 * k) >> 2 * g & EACH(3)) |
                   (rd64(p + 8 * k) >> b & EACH(1)) << 2;
        break;
    case QT_Q4_K:
        for (unsigned k = 0; k < 4; k++)
            w[k] = rd64(p + 16 + 32 * (b / 2) + 8 * k) >> 4 * (b & 1) & EACH(15);
        break;
    case QT_Q5_K:
        for (unsigned k = 0; k < 4; k++)
            w[k] = (rd64(p + 48 + 32 * (b / 2) + 8 * k) >> 4 * (b & 1) & EACH(15)) |
                   (rd64(p + 16 + 8 * k) >> b & EACH(1)) << 4;
        break;
    case QT_Q6_K:
        for (unsigned k = 0; k < 4; k++) {
            uint64_t low = rd64(p + 64 * half + 32 * (g & 1) + 8 * k);
            uint64_t high = rd64(p + 128 + 32 * half + 8 * k);
            w[k] = (low >> 4 * (g >> 1) & EACH(15)) | (high >> 2 * g & EACH(3)) << 4;
        }
        break;
    case QT_IQ4_XS:
        nibbles_16_16(p + 8 + 16 * b, w);
        break;
    default:
        break;
    }
}

/* The second four bytes of a word laid over the first four, n bits higher. */
INLINE uint32_t fold(uint64_t w, unsigned n)
{
    return (uint32_t)(w | w >> (32 - n));
}

/* Planes of one row and 32 columns; `to` is the low plane of the block. Words of four codes
 * move whole: the lane of a row is 32 bits wide. */
INLINE void put_codes(const struct kern_shape s, unsigned r, unsigned row, const uint64_t w[4],
                      uint8_t *to)
{
    const size_t plane = 4 * (size_t)r;
    to += 4 * row;
    if (s.bits == 8) {
        for (unsigned g = 0; g < 4; g++) {
            uint32_t v[2] = {(uint32_t)w[g], (uint32_t)(w[g] >> 32)};
            memcpy(to + plane * (2 * g), &v[0], 4);
            memcpy(to + plane * (2 * g + 1), &v[1], 4);
        }
        return;
    }
    for (unsigned g = 0; g < 4; g++) {
        uint32_t v = fold(s.bits == 4 ? w[g] : w[g] & EACH(15), 4);
        memcpy(to + plane * g, &v, 4);
    }
    to += 4 * plane;
    uint32_t high[2] = {0, 0};
    if (s.bits == 5) {
        for (unsigned g = 0; g < 4; g++)
            high[0] |= fold(w[g] >> 4 & EACH(1), 1) << 2 * g;
        memcpy(to, &high[0], 4);
    } else if (s.bits == 6) {
        for (unsigned g = 0; g < 4; g++)
            high[g / 2] |= fold(w[g] >> 4 & EACH(3), 2) << 4 * (g & 1);
        memcpy(to, &high[0], 4);
        memcpy(to + plane, &high[1], 4);
    }
}

INLINE void put_half(uint8_t *to, const uint8_t *from, unsigned flip_sign)
{
    to[0] = from[0];
    to[1] = (uint8_t)(from[1] ^ (flip_sign ? 0x80 : 0));
}

INLINE void put_head(const struct kern_shape s, unsigned r, unsigned row, const uint8_t *p,
                     uint8_t *to)
{
    switch (s.type) {
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

/* As qtype_k_scale_min, one of the two. */
INLINE uint8_t k_scale(const uint8_t *q, unsigned b, unsigned min)
{
    if (b < 4)
        return q[4 * min + b] & 63;
    return (uint8_t)((q[4 + b] >> 4 * min & 15) | q[4 * min + b - 4] >> 6 << 4);
}

INLINE void put_scales(const struct kern_shape s, unsigned r, unsigned row, const uint8_t *p,
                       unsigned b, uint8_t *to)
{
    switch (s.type) {
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
        to[row] = k_scale(p + 4, b, 0);
        to[r + row] = k_scale(p + 4, b, 1);
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

INLINE void shape_pack(const struct kern_shape s, unsigned r, const uint8_t *rows, size_t row_bytes,
                       uint32_t n_rows, uint32_t cols, uint8_t *panel)
{
    const uint32_t super = kern_super_cols(&s);
    const size_t file_block = qtype_info(s.type)->block_bytes;
    const size_t head_bytes = kern_head_bytes(&s, r), scales = kern_scale_bytes(&s, r);
    const size_t block = scales + kern_code_bytes(&s, r), step = head_bytes + super / 32 * block;
    const size_t used = cols / super * step, all = shape_panel_bytes(&s, r, cols);
    if (n_rows < r)
        memset(panel, 0, used);
    memset(panel + used, 0, all - used);
    for (uint32_t k = 0; k < cols / super; k++) {
        uint8_t *head = panel + k * step;
        for (unsigned row = 0; row < n_rows; row++) {
            const uint8_t *p = rows + row * row_bytes + k * file_block;
            put_head(s, r, row, p, head);
#pragma GCC unroll 8
            for (unsigned b = 0; b < super / 32; b++) {
                uint64_t w[4];
                uint8_t *to = head + head_bytes + b * block;
                put_scales(s, r, row, p, b, to);
                extract(s, p, b, w);
                put_codes(s, r, row, w, to + scales);
            }
        }
    }
}

/* Some columns of all rows at a time, so that lines which are written stay in cache. */
INLINE void plain_pack(unsigned r, size_t size, const uint8_t *rows, size_t row_bytes,
                       uint32_t n_rows, uint32_t cols, uint8_t *panel)
{
    enum { COLUMNS = 32 };
    const size_t used = (size_t)cols * r * size;
    if (n_rows < r)
        memset(panel, 0, used);
    memset(panel + used, 0, round64(used) - used);
    for (uint32_t from = 0; from < cols; from += COLUMNS) {
        const uint32_t n = cols - from < COLUMNS ? cols - from : COLUMNS;
        for (unsigned row = 0; row < n_rows; row++) {
            const uint8_t *p = rows + row * row_bytes + from * size;
            uint8_t *to = panel + (from * (size_t)r + row) * size;
            for (uint32_t c = 0; c < n; c++)
                memcpy(to + c * (size_t)r * size, p + c * size, size);
        }
    }
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
