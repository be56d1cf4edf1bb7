/* SPDX-License-Identifier: Apache-2.0 */
/* kern_plain_simd.h - panels of F32, F16 and BF16 times tokens; every vector level includes it
 * once. Internal to quant/. Arithmetic: kern_impl.h.
 *
 * Up to PLAIN_FEW tokens pass one panel together, weights converted in registers. For more, a
 * strip of KERN_PLAIN_BLOCK columns of one or two panels is converted once into a buffer that stays
 * in the first-level cache (F32 is one already), and all tokens pass over it, up to PLAIN_TILE at a
 * time: its even columns, then its odd ones, so that one accumulator an output is enough. Between
 * them the sums rest in `out`.
 *
 * The including file defines R, PLAIN_FEW (4 or 8), PLAIN_TILE (6 or 8), the type vf (R floats),
 * vf_set, vf_add, vf_fma_n(w, x, acc) with one float x, load_f32, load_half, load_bf16 (R weights
 * as floats), vf_load, vf_store (64-byte aligned), rows_load(p, n), rows_store(p, v, n): the first
 * n of R floats anywhere, ask_ahead and ask_line(p): a line of memory is wanted soon. */

INLINE vf plain_load(const enum qtype type, const uint8_t *panel, size_t c)
{
    if (type == QT_F32)
        return load_f32(panel + 4 * R * c);
    if (type == QT_F16)
        return load_half(panel + 2 * R * c);
    return load_bf16(panel + 2 * R * c);
}

INLINE size_t plain_column_bytes(const enum qtype type)
{
    return (type == QT_F32 ? 4 : 2) * (size_t)R;
}

/* Floats from one token's activations to the next. */
INLINE size_t plain_stride(uint32_t cols)
{
    return (cols + 15u) & ~(size_t)15;
}

/* Activations of neighbouring tokens at one column. Of four tokens each is one address away, of
 * eight two: held as eight pointers they would not fit the registers beside the rest. */
struct plain_at {
    const char *x0, *x4;
    size_t stride, stride3; /* bytes to the next token and to the third */
};

INLINE struct plain_at plain_at(const float *x, size_t stride)
{
    const size_t bytes = stride * sizeof *x;
    const char *x0 = (const char *)x;
    return (struct plain_at){x0, x0 + 4 * bytes, bytes, 3 * bytes};
}

INLINE float plain_x(const struct plain_at *a, const unsigned t)
{
    const char *x = t < 4 ? a->x0 : a->x4;
    float f;
    switch (t % 4) {
    case 1:
        x += a->stride;
        break;
    case 2:
        x += 2 * a->stride;
        break;
    case 3:
        x += a->stride3;
        break;
    default:
        break;
    }
    memcpy(&f, x, sizeof f);
    return f;
}

/* n columns on. The compiler must not take the distances for something to compute before. */
INLINE void plain_step(struct plain_at *a, unsigned n)
{
    a->x0 += n * sizeof(float);
    a->x4 += n * sizeof(float);
    __asm__("" : "+r"(a->stride), "+r"(a->stride3));
}

INLINE void plain_few(const enum qtype type, const uint8_t *panel, uint32_t cols, uint32_t n_rows,
                      const float *acts, const unsigned tile, float *out, size_t ld_out)
{
    struct plain_at x = plain_at(acts, plain_stride(cols));
    const size_t pair = 2 * plain_column_bytes(type);
    const size_t ahead = kern_ahead();
    vf sum[PLAIN_FEW];
    UNROLL for (unsigned t = 0; t < tile; t++) sum[t] = vf_set(0);
    for (uint32_t c = 0; c < cols;) {
        const uint32_t end = cols - c < KERN_PLAIN_BLOCK ? cols : c + KERN_PLAIN_BLOCK;
        vf even[PLAIN_FEW], odd[PLAIN_FEW];
        UNROLL for (unsigned t = 0; t < tile; t++) even[t] = odd[t] = vf_set(0);
        for (; c + 2 <= end; c += 2) {
            if (ahead)
                ask_ahead(panel + c / 2 * pair, ahead, pair);
            vf w0 = plain_load(type, panel, c), w1 = plain_load(type, panel, c + 1);
            UNROLL for (unsigned t = 0; t < tile; t++) even[t] =
                vf_fma_n(w0, plain_x(&x, t), even[t]);
            plain_step(&x, 1);
            UNROLL for (unsigned t = 0; t < tile; t++) odd[t] =
                vf_fma_n(w1, plain_x(&x, t), odd[t]);
            plain_step(&x, 1);
        }
        if (c < end) {
            vf w0 = plain_load(type, panel, c);
            UNROLL for (unsigned t = 0; t < tile; t++) even[t] =
                vf_fma_n(w0, plain_x(&x, t), even[t]);
            c++;
        }
        UNROLL for (unsigned t = 0; t < tile; t++) sum[t] = vf_add(vf_add(sum[t], even[t]), odd[t]);
    }
    UNROLL for (unsigned t = 0; t < tile; t++) rows_store(out + t * ld_out, sum[t], n_rows);
}

#define PLAIN_FEW_CASE(n)                                                                          \
    case n:                                                                                        \
        plain_few(type, panel, cols, n_rows, a, n, out, ld_out);                                   \
        break;

/* Largest tiles first; the tile never changes a result. */
INLINE void plain_mul(const enum qtype type, const void *panel, uint32_t cols, uint32_t n_rows,
                      const float *a, uint32_t n_tokens, float *out, size_t ld_out)
{
    while (n_tokens > 0) {
        const unsigned tile = n_tokens < PLAIN_FEW ? n_tokens : PLAIN_FEW;
        switch (tile) {
            PLAIN_FEW_CASE(1)
            PLAIN_FEW_CASE(2)
            PLAIN_FEW_CASE(3)
            PLAIN_FEW_CASE(4)
#if PLAIN_FEW == 8
            PLAIN_FEW_CASE(5)
            PLAIN_FEW_CASE(6)
            PLAIN_FEW_CASE(7)
            PLAIN_FEW_CASE(8)
#endif
        }
        a += plain_stride(cols) * tile;
        out += ld_out * tile;
        n_tokens -= tile;
    }
}

/* What a tile works on: the same columns of one or two panels. */
struct plain {
    const float *w[2]; /* [column][R] */
    uint32_t n_cols;
    const float *acts; /* of the first column */
    size_t stride;
    float *out;
    size_t ld_out;
    uint32_t n_rows; /* of the last panel */
    bool first;      /* nothing in out yet */
    /* Where column & ask_mask is 0, a line of each panel's next strip is asked for: so they arrive
     * while there is work to do. */
    const uint8_t *ask[2];
    uint32_t ask_mask;
};

INLINE void plain_tile(const struct plain *m, const unsigned panels, const unsigned tile,
                       uint32_t t0)
{
    enum { MOST = 2 * PLAIN_TILE };
    const unsigned n = tile * panels;
    const uint8_t *ask0 = m->ask[0], *ask1 = m->ask[1];
    float *out = m->out + t0 * m->ld_out;
    for (uint32_t odd = 0; odd < 2; odd++) {
        const float *w0 = m->w[0] + odd * R, *w1 = m->w[1] + odd * R;
        struct plain_at x = plain_at(m->acts + t0 * m->stride + odd, m->stride);
        vf acc[MOST];
        UNROLL for (unsigned i = 0; i < n; i++) acc[i] = vf_set(0);
        for (uint32_t c = odd; c < m->n_cols; c += 2, w0 += 2 * R, w1 += 2 * R) {
            if (!(c & m->ask_mask)) {
                ask_line(ask0);
                ask_line(ask1);
                ask0 += 64;
                ask1 += 64;
            }
            vf w[2] = {vf_load(w0), vf_load(w1)};
            UNROLL for (unsigned t = 0; t < tile; t++)
            {
                UNROLL for (unsigned p = 0; p < panels; p++) acc[t * panels + p] =
                    vf_fma_n(w[p], plain_x(&x, t), acc[t * panels + p]);
            }
            plain_step(&x, 2);
        }
        UNROLL for (unsigned i = 0; i < n; i++)
        {
            const uint32_t rows = i % panels + 1 < panels ? R : m->n_rows;
            float *to = out + i / panels * m->ld_out + i % panels * R;
            vf sum = m->first && !odd ? vf_set(0) : rows_load(to, rows);
            rows_store(to, vf_add(sum, acc[i]), rows);
        }
    }
}

#define PLAIN_CASE(panels, tile)                                                                   \
    case 16 * (panels) + (tile):                                                                   \
        plain_tile(m, panels, tile, t0);                                                           \
        break;
#define PLAIN_CASES_6(panels)                                                                      \
    PLAIN_CASE(panels, 1)                                                                          \
    PLAIN_CASE(panels, 2)                                                                          \
    PLAIN_CASE(panels, 3)                                                                          \
    PLAIN_CASE(panels, 4)                                                                          \
    PLAIN_CASE(panels, 5)                                                                          \
    PLAIN_CASE(panels, 6)
#if PLAIN_TILE == 6
#define PLAIN_CASES PLAIN_CASES_6
#else
#define PLAIN_CASES(panels)                                                                        \
    PLAIN_CASES_6(panels)                                                                          \
    PLAIN_CASE(panels, 7)                                                                          \
    PLAIN_CASE(panels, 8)
#endif

static void plain_tokens(const struct plain *m, unsigned panels, uint32_t t0, uint32_t n)
{
    switch (16 * panels + n) {
        PLAIN_CASES(1)
        PLAIN_CASES(2)
    }
}

INLINE void plain_convert(const enum qtype type, const uint8_t *panel, uint32_t n, float *w)
{
    for (uint32_t c = 0; c < n; c++)
        vf_store(w + c * R, plain_load(type, panel, c));
}

INLINE void plain_pair(const enum qtype type, const uint8_t *panel, size_t panel_bytes,
                       uint32_t cols, uint32_t n_rows, const float *acts, uint32_t n_tokens,
                       float *out, size_t ld_out)
{
    alignas(64) float strips[2][KERN_PLAIN_BLOCK * R];
    const unsigned panels = n_rows > R ? 2 : 1;
    const uint32_t tiles = (n_tokens + PLAIN_TILE - 1) / PLAIN_TILE;
    const size_t column_bytes = plain_column_bytes(type);
    struct plain m = {.stride = plain_stride(cols),
                      .out = out,
                      .ld_out = ld_out,
                      .n_rows = n_rows - (panels - 1) * R};
    for (uint32_t c = 0; c < cols; c += KERN_PLAIN_BLOCK) {
        const uint8_t *p[2] = {panel + c * column_bytes, NULL};
        p[1] = p[0] + (panels - 1) * panel_bytes;
        m.n_cols = cols - c < KERN_PLAIN_BLOCK ? cols - c : KERN_PLAIN_BLOCK;
        m.acts = acts + c;
        m.first = c == 0;
        for (unsigned i = 0; i < 2; i++) {
            m.w[i] = type == QT_F32 ? (const float *)(const void *)p[i] : strips[i % panels];
            if (type != QT_F32 && i < panels)
                plain_convert(type, p[i], m.n_cols, strips[i]);
        }
        /* At the end of these panels the next two follow; past the matrix it is a wasted request.
         */
        const size_t bytes = KERN_PLAIN_BLOCK * column_bytes;
        const bool last = c + KERN_PLAIN_BLOCK >= cols;
        m.ask[0] = last ? panel + panels * panel_bytes : p[0] + bytes;
        m.ask[1] = last ? m.ask[0] + panel_bytes : p[1] + bytes;
        m.ask_mask = 0;
        while ((m.ask_mask + 2) * (bytes / 64) <= (size_t)tiles * m.n_cols)
            m.ask_mask = 2 * m.ask_mask + 2;
        for (uint32_t i = 0; i < tiles; i++) {
            uint32_t from = (uint32_t)((uint64_t)n_tokens * i / tiles);
            uint32_t to = (uint32_t)((uint64_t)n_tokens * (i + 1) / tiles);
            plain_tokens(&m, panels, from, to - from);
            const size_t done = (size_t)m.n_cols * 64 * 2 / (m.ask_mask + 2);
            m.ask[0] += done;
            m.ask[1] += done;
        }
    }
}

INLINE void plain_many(const enum qtype type, const uint8_t *panel, size_t panel_bytes,
                       uint32_t cols, uint32_t n_rows, const float *acts, uint32_t n_tokens,
                       float *out, size_t ld_out)
{
    for (uint32_t row = 0; row < n_rows; row += 2 * R)
        plain_pair(type, panel + row / R * panel_bytes, panel_bytes, cols,
                   n_rows - row < 2 * R ? n_rows - row : 2 * R, acts, n_tokens, out + row, ld_out);
}

#define PLAIN_MANY_MUL(name)                                                                       \
    static void many_##name(const void *panel, size_t panel_bytes, uint32_t cols, uint32_t n_rows, \
                            const void *acts, uint32_t n_tokens, float *out, size_t ld_out)        \
    {                                                                                              \
        plain_many(QT_##name, panel, panel_bytes, cols, n_rows, acts, n_tokens, out, ld_out);      \
    }
#define PLAIN_MANY_ROW(name) kern_rows_set_many(rows, QT_##name, PLAIN_FEW + 1, 0, many_##name);
PLAIN_MANY_MUL(F32)
PLAIN_MANY_MUL(F16)
PLAIN_MANY_MUL(BF16)

/* For KERN_DEFINE_ROWS_AND. */
#define PLAIN_MANY_ROWS                                                                            \
    PLAIN_MANY_ROW(F32)                                                                            \
    PLAIN_MANY_ROW(F16)                                                                            \
    PLAIN_MANY_ROW(BF16)
