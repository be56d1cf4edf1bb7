/* SPDX-License-Identifier: Apache-2.0 */
/* kern_outlier_simd.h - columns of packed panels, for activations that stand apart from their row.
 * Internal to quant/; every level includes it once.
 *
 * The including file defines R (rows of a panel), vf (R floats in order, in memory as in an
 * array), and load_half, load_u8, load_i8 (R values as floats). The layout is kern_impl.h's. What
 * every level computes, bit for bit, per row, token and outlier, in the order of the list:
 *
 *   w   = fma(code - offset, scale, minimum)      scale and minimum are exact
 *   out = fma(w, x, out)
 */

struct column_scales {
    float scale[R], min[R];
};

INLINE void put_floats(float *to, vf v)
{
    memcpy(to, &v, R * sizeof *to);
}

INLINE void times(float *x, const float *y)
{
    for (unsigned r = 0; r < R; r++)
        x[r] *= y[r];
}

/* Scales and minima of one column; sc: those of its block, half: which 16 columns of it. */
INLINE void column_scales(const struct kern_shape s, const uint8_t *head, const uint8_t *sc,
                          unsigned half, struct column_scales *w)
{
    float d[R];
    memset(w->min, 0, sizeof w->min);
    switch (s.scales) {
    case KERN_D:
    case KERN_DM:
        put_floats(w->scale, load_half(sc));
        if (s.scales == KERN_DM)
            put_floats(w->min, load_half(sc + 2 * R));
        return;
    case KERN_KDM:
        put_floats(w->scale, load_u8(sc));
        put_floats(w->min, load_u8(sc + R));
        break;
    case KERN_K32:
        put_floats(w->scale, load_i8(sc));
        break;
    case KERN_K16:
        put_floats(w->scale, load_i8(sc + R * half));
        break;
    case KERN_K16M:
        put_floats(w->scale, load_u8(sc + R * half));
        put_floats(w->min, load_u8(sc + R * (2 + half)));
        break;
    }
    put_floats(d, load_half(head));
    times(w->scale, d);
    if (s.scales == KERN_KDM || s.scales == KERN_K16M) {
        put_floats(d, load_half(head + 2 * R));
        times(w->min, d);
    }
}

/* Bits of every row from a plane of 32-bit lanes. */
INLINE void lane_bits(const uint8_t *plane, unsigned shift, uint32_t mask, uint32_t *q)
{
    uint32_t v[R];
    memcpy(v, plane, sizeof v);
    for (unsigned r = 0; r < R; r++)
        q[r] = v[r] >> shift & mask;
}

/* Codes of column c of 32 as they count: signed, the offset taken off. */
INLINE void column_codes(const struct kern_shape s, const uint8_t *low, unsigned c, float *code)
{
    const unsigned g = c / 4, shift = 8 * (c % 4);
    uint32_t q[R], high[R];
    if (s.bits == 8) {
        lane_bits(low + 4 * R * g, shift, 255, q);
    } else {
        lane_bits(low + 4 * R * (g / 2), shift + 4 * (g & 1), 15, q);
    }
    if (s.bits == 5) {
        lane_bits(low + 16 * R, shift + g, 1, high);
        for (unsigned r = 0; r < R; r++)
            q[r] |= high[r] << 4;
    }
    if (s.bits == 6) {
        lane_bits(low + 16 * R + 4 * R * (g / 4), shift + 2 * (g % 4), 3, high);
        for (unsigned r = 0; r < R; r++)
            q[r] |= high[r] << 4;
    }
    for (unsigned r = 0; r < R; r++)
        code[r] = s.iq4 ? (float)qtype_iq4_values[q[r]] : (float)((int)q[r] - s.offset);
}

INLINE void column_decode(const struct kern_shape s, const uint8_t *panel, uint32_t c, float *w)
{
    const uint32_t super = kern_super_cols(&s);
    const size_t head_bytes = kern_head_bytes(&s, R), scale_bytes = kern_scale_bytes(&s, R);
    const size_t block_bytes = scale_bytes + kern_code_bytes(&s, R);
    const uint8_t *head = panel + c / super * (head_bytes + super / 32 * block_bytes);
    const uint8_t *sc = head + head_bytes + c % super / 32 * block_bytes;
    struct column_scales f;
    column_scales(s, head, sc, c % 32 / 16, &f);
    column_codes(s, sc + scale_bytes, c % 32, w);
    for (unsigned r = 0; r < R; r++)
        w[r] = fmaf(w[r], f.scale[r], f.min[r]);
}

INLINE void add_column(float *acc, const float *w, float x)
{
    for (unsigned r = 0; r < R; r++)
        acc[r] = fmaf(w[r], x, acc[r]);
}

/* One token, as decoding has it; whole panels without a copy of unknown length. */
INLINE void outliers_one(const struct kern_shape s, const uint8_t *panel, uint32_t n_rows,
                         const struct kern_outliers *o, float *out)
{
    float acc[R] = {0}, w[R];
    if (n_rows == R) {
        memcpy(acc, out, sizeof acc);
    } else {
        memcpy(acc, out, n_rows * sizeof *out);
    }
    for (uint32_t i = 0; i < o->n; i++) {
        column_decode(s, panel, o->column[i], w);
        add_column(acc, w, o->x[i]);
    }
    if (n_rows == R) {
        memcpy(out, acc, sizeof acc);
    } else {
        memcpy(out, acc, n_rows * sizeof *out);
    }
}

/* Outliers come in the same few columns for most tokens: those decoded last are kept. */
INLINE void outliers_add(const struct kern_shape s, const uint8_t *panel, uint32_t n_rows,
                         const struct kern_outliers *o, uint32_t n_tokens, float *out,
                         size_t ld_out)
{
    enum { KEPT = 8 };
    float w[KEPT][R], acc[R] = {0};
    uint32_t column[KEPT];
    if (n_tokens == 1) {
        if (o->n > 0)
            outliers_one(s, panel, n_rows, o, out);
        return;
    }
    memset(column, 0xff, sizeof column);
    for (uint32_t t = 0; t < n_tokens; t++, o++, out += ld_out) {
        if (o->n == 0)
            continue;
        memcpy(acc, out, n_rows * sizeof *out);
        for (uint32_t i = 0; i < o->n; i++) {
            const uint32_t c = o->column[i], at = c % KEPT;
            if (column[at] != c) {
                column_decode(s, panel, c, w[at]);
                column[at] = c;
            }
            add_column(acc, w[at], o->x[i]);
        }
        memcpy(out, acc, n_rows * sizeof *out);
    }
}

#define OUTLIERS_ADD(name, bits, scales, offset, iq4)                                              \
    static void outliers_##name(const void *panel, uint32_t n_rows, const struct kern_outliers *o, \
                                uint32_t n_tokens, float *out, size_t ld_out)                      \
    {                                                                                              \
        const struct kern_shape s = KERN_SHAPE_VALUE(name, bits, scales, offset, iq4);             \
        outliers_add(s, panel, n_rows, o, n_tokens, out, ld_out);                                  \
    }
KERN_SHAPES(OUTLIERS_ADD)
