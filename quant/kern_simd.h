/* SPDX-License-Identifier: Apache-2.0 */
/* kern_simd.h - unpacking of panels of R rows, for kern_avx2.c and kern_avx512.c.
 *
 * The including file defines R (rows of a panel, one per 32-bit lane), the types vf (R floats)
 * and vi (4 R bytes), and vi_load, vi_and, vi_and_or(a, mask, c) = (a & mask) | c, vi_shl16,
 * vi_shr16, vi_sra32 (by a constant), vi_add32, vi_sub32, vi_set8, vi_set32, vi_lookup(table of
 * 16, indices), vi_table (16 bytes to every lane of 128 bits), vf_set, vf_mul, vf_sub,
 * vf_fma(a, b, c) = a * b + c, vf_of (bits as floats), and load_half, load_u8, load_i8 (R values as
 * floats). The layout and the arithmetic are kern_impl.h's. */

#include "quant/kern_scales_simd.h"

/* Move the bit field at pos of every byte to bit 4; neighbours' bits are masked off later. */
INLINE vi to_bit4(vi v, unsigned pos)
{
    switch (pos) {
    case 0:
        return vi_shl16(v, 4);
    case 1:
        return vi_shl16(v, 3);
    case 2:
        return vi_shl16(v, 2);
    case 3:
        return vi_shl16(v, 1);
    case 5:
        return vi_shr16(v, 1);
    case 6:
        return vi_shr16(v, 2);
    case 7:
        return vi_shr16(v, 3);
    default:
        return v;
    }
}

/* Codes of columns 8g..8g+3 and 8g+4..8g+7 of R rows. */
INLINE void operands(const struct kern_shape s, const uint8_t *low, unsigned g, vi *lo, vi *hi)
{
    if (s.bits == 8) {
        *lo = vi_load(low + 8 * R * g);
        *hi = vi_load(low + 8 * R * g + 4 * R);
        return;
    }
    const vi nibble = vi_set8(15);
    vi v = vi_load(low + 4 * R * g);
    *lo = vi_and(v, nibble);
    *hi = vi_and(vi_shr16(v, 4), nibble);
    if (s.bits == 5) {
        const vi bit = vi_set8(0x10);
        vi h = vi_load(low + 16 * R);
        *lo = vi_and_or(to_bit4(h, 2 * g), bit, *lo);
        *hi = vi_and_or(to_bit4(h, 2 * g + 1), bit, *hi);
    }
    if (s.bits == 6) {
        const vi bits = vi_set8(0x30);
        vi h = vi_load(low + 16 * R + 4 * R * (g / 2));
        *lo = vi_and_or(to_bit4(h, 4 * (g % 2)), bits, *lo);
        *hi = vi_and_or(to_bit4(h, 4 * (g % 2) + 2), bits, *hi);
    }
    if (s.iq4) {
        const vi values = vi_table(_mm_xor_si128(
            _mm_loadu_si128((const __m128i *)(const void *)qtype_iq4_values), _mm_set1_epi8(-128)));
        *lo = vi_lookup(values, *lo);
        *hi = vi_lookup(values, *hi);
    }
}

/* What the integer sum starts at: KERN_MAGIC minus the offset times the sum of the activations. */
INLINE vi start_sum(const struct kern_shape s, const struct kern_act *a, unsigned half)
{
    switch (s.offset) {
    case 4: {
        const vi magic = vi_set32(KERN_MAGIC);
        return vi_add32(vi_sra32(vi_sub32(vi_set32(a->start32[half]), magic), 3), magic);
    }
    case 8:
        return vi_set32(a->start8);
    case 16:
        return vi_set32(a->start16);
    case 32:
        return vi_set32(a->start32[half]);
    case 128:
        return vi_set32(a->start128);
    default:
        return vi_set32(KERN_MAGIC);
    }
}

/* An integer sum times the first scale; less is -KERN_MAGIC_F times the scale. */
INLINE vf scaled(vi sum, vf scale, vf less)
{
    return vf_fma(vf_of(sum), scale, less);
}

/* The integer sum itself. */
INLINE vf value_of(vi sum)
{
    return vf_sub(vf_of(sum), vf_set(KERN_MAGIC_F));
}

/* What follows the integer sums of 32 columns, all but the first scale; v: the first half or all.
 */
INLINE vf finish_block(const struct kern_shape s, const vf scale1, const vf min0, const vf min1,
                       const struct kern_act *x, vf v, vi sum1, vf acc)
{
    if (halves(s))
        v = vf_fma(value_of(sum1), scale1, v);
    if (s.scales == KERN_DM || s.scales == KERN_KDM)
        v = vf_fma(min0, vf_set(x->sum), v);
    if (s.scales == KERN_K16M) {
        v = vf_fma(min0, value_of(vi_set32(x->start32[0])), v);
        v = vf_fma(min1, value_of(vi_set32(x->start32[1])), v);
    }
    return vf_fma(v, vf_set(x->d), acc);
}
