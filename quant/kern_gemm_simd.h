/* SPDX-License-Identifier: Apache-2.0 */
/* kern_gemm_simd.h - quantised panels times many tokens, for levels with a dot product of bytes.
 *
 * A strip of up to STRIP blocks (32 columns each) of a few panels is unpacked once into a buffer
 * that stays in the first-level cache: codes as bytes, scales as floats. Then all tokens pass
 * over it, a tile of them at a time. Panels share each broadcast of four activation codes: with
 * one, loads are as scarce as multiplications, and a core that shares its front end with another
 * program has too few of both; so where there are registers four panels go with WIDE_TILE tokens.
 * The integer sums of a block live in registers; the f32 accumulators don't fit beside them and
 * are kept in memory, one load and one store for eight dot products. Between strips they rest in
 * `out`. Arithmetic: kern_impl.h.
 *
 * The including file defines what kern_simd.h asks for, R, TILE (tokens at once: 4 or 8),
 * WIDE_PANELS and WIDE_TILE (4 and 6, or 2 and TILE), HALVES_TILE (4 or 6: with two scales),
 * bcast4, ask_ahead, ask_line(p): a line of memory is wanted soon, vi_dot(sum, unsigned bytes,
 * signed bytes), vi_store, vf_load, vf_store, vf_zero, and rows_load(p, n), rows_store(p, v, n):
 * the first n of R floats anywhere. */

/* So many tokens at once that unpacking costs little beside them. */
enum { STRIP = 16, SLAB_BYTES = 512 << 10, BLOCK_TOKENS = 132 };

struct strip_block {
    alignas(64) uint8_t code[8][4 * R]; /* [g]: column 4g + j of row r at 4r + j */
    float scale[2][R], min[2][R];
    float less[R]; /* -KERN_MAGIC_F times the first scale */
};

/* What a tile works on: strips of neighbouring panels. */
struct gemm {
    const struct strip_block *strip; /* room_of(panels) blocks of each */
    unsigned n_blocks;
    const struct kern_act *acts;
    size_t stride, start; /* blocks of a token; place of the sum's start in struct kern_act */
    float *out;
    size_t ld_out;
    uint32_t n_rows; /* of the last panel */
    bool first;      /* nothing in out yet */
    /* Every block of a tile asks for so many lines of each panel's next strip: so they arrive
     * while there is work to do. */
    const uint8_t *ask;
    size_t ask_stride;
    unsigned ask_lines;
};

/* What was stored stays in memory: held in registers it would push the sums out. */
#define IN_MEMORY __asm__ volatile("" ::: "memory")

/* Types that differ in codes alone share their tiles. */
#define GEMM_ONE        KERN_SHAPE_VALUE(Q8_0, 8, KERN_D, 128, false)
#define GEMM_MIN        KERN_SHAPE_VALUE(Q4_1, 4, KERN_DM, 0, false)
#define GEMM_HALVES     KERN_SHAPE_VALUE(Q6_K, 6, KERN_K16, 32, false)
#define GEMM_HALVES_4   KERN_SHAPE_VALUE(Q3_K, 4, KERN_K16, 4, false)
#define GEMM_HALVES_MIN KERN_SHAPE_VALUE(Q2_K, 4, KERN_K16M, 0, false)

INLINE size_t gemm_start(const struct kern_shape s)
{
    switch (s.offset) {
    case 8:
        return offsetof(struct kern_act, start8);
    case 16:
        return offsetof(struct kern_act, start16);
    case 128:
        return offsetof(struct kern_act, start128);
    default:
        return offsetof(struct kern_act, start0);
    }
}

/* Unpack n blocks, whole supers. */
INLINE void strip_unpack(const struct kern_shape s, const uint8_t *p, unsigned n,
                         struct strip_block *w)
{
    const unsigned super = kern_super_cols(&s) / 32;
    const size_t scale_bytes = kern_scale_bytes(&s, R);
    const size_t block_bytes = scale_bytes + kern_code_bytes(&s, R);
    for (unsigned b = 0; b < n; b += super) {
        vf d = vf_zero(), dmin = vf_zero();
        if (super > 1) {
            d = load_half(p);
            if (s.scales == KERN_KDM || s.scales == KERN_K16M)
                dmin = load_half(p + 2 * R);
            p += kern_head_bytes(&s, R);
        }
        for (unsigned k = 0; k < super; k++, w++, p += block_bytes) {
            struct scales f = load_scales(s, d, dmin, p);
            vf_store(w->scale[0], f.scale[0]);
            vf_store(w->less, vf_mul(f.scale[0], vf_set(-KERN_MAGIC_F)));
            if (halves(s))
                vf_store(w->scale[1], f.scale[1]);
            if (s.scales == KERN_DM || s.scales == KERN_KDM || s.scales == KERN_K16M)
                vf_store(w->min[0], f.min[0]);
            if (s.scales == KERN_K16M)
                vf_store(w->min[1], f.min[1]);
            UNROLL for (unsigned g = 0; g < 4; g++)
            {
                vi lo, hi;
                operands(s, p + scale_bytes, g, &lo, &hi);
                vi_store(w->code[2 * g], lo);
                vi_store(w->code[2 * g + 1], hi);
            }
        }
    }
}

INLINE void ask_lines(const struct gemm *m, unsigned panels, unsigned b)
{
    const uint8_t *at = m->ask + (size_t)64 * m->ask_lines * b;
    for (unsigned k = 0; k < m->ask_lines; k++, at += 64) {
        UNROLL for (unsigned p = 0; p < panels; p++) ask_line(at + p * m->ask_stride);
    }
}

/* Strips of panels that are worked on together share one buffer. */
INLINE unsigned room_of(unsigned panels)
{
    return panels > 2 ? STRIP / 2 : STRIP;
}

INLINE vi gemm_sum(const struct kern_shape s, size_t start, const struct kern_act *x)
{
    int32_t v;
    if (halves(s))
        return start_sum(s, x, 0);
    memcpy(&v, (const char *)x + start, sizeof v);
    return vi_set32(v);
}

/* Tokens at once. With two scales the first halves' sums need registers too. */
INLINE uint32_t tile_of(const struct kern_shape s, unsigned panels)
{
    return halves(s) ? HALVES_TILE : panels > 2 ? WIDE_TILE : TILE;
}

/* Accumulator i is of token i / panels and panel i % panels. */
INLINE void gemm_tile(const struct kern_shape s, const struct gemm *m, const unsigned panels,
                      const unsigned tile, uint32_t t0)
{
    enum { MOST = WIDE_PANELS * WIDE_TILE > 2 * TILE ? WIDE_PANELS * WIDE_TILE : 2 * TILE };
    alignas(64) float acc[MOST][R];
    vf part[MOST]; /* of the first halves */
    const unsigned n = tile * panels;
    const struct kern_act *a = m->acts + t0 * m->stride;
    const struct strip_block *w = m->strip;
    const size_t stride = m->stride, start = m->start;
    float *out = m->out + t0 * m->ld_out;
    UNROLL for (unsigned i = 0; i < n; i++)
    {
        const float *from = out + i / panels * m->ld_out + i % panels * R;
        vf v = vf_zero();
        if (!m->first)
            v = rows_load(from, i % panels + 1 < panels ? R : m->n_rows);
        vf_store(acc[i], v);
    }
    for (unsigned b = 0; b < m->n_blocks; b++, a++, w++) {
        vi sum[MOST];
        ask_lines(m, panels, b);
        /* With two panels, whose strips are twice as long, there is no room for the next tile. */
        if (panels > 2) {
            UNROLL for (unsigned t = 0; t < tile; t++)
                __builtin_prefetch(&a[(t + tile) * stride], 0, 3);
        }
        UNROLL for (unsigned i = 0; i < n; i++) sum[i] =
            gemm_sum(s, start, &a[i / panels * stride]);
        UNROLL for (unsigned g = 0; g < 8; g++)
        {
            if (g == 4 && halves(s)) {
                UNROLL for (unsigned i = 0; i < n; i++)
                {
                    const struct strip_block *v = w + i % panels * room_of(panels);
                    part[i] = scaled(sum[i], vf_load(v->scale[0]), vf_load(v->less));
                    sum[i] = start_sum(s, &a[i / panels * stride], 1);
                }
            }
            vi c[WIDE_PANELS];
            UNROLL for (unsigned p = 0; p < panels; p++) c[p] =
                vi_load(w[p * room_of(panels)].code[g]);
            UNROLL for (unsigned t = 0; t < tile; t++)
            {
                vi x = bcast4(a[t * stride].q + 4 * g);
                UNROLL for (unsigned p = 0; p < panels; p++) sum[t * panels + p] =
                    vi_dot(sum[t * panels + p], c[p], x);
            }
        }
        UNROLL for (unsigned i = 0; i < n; i++)
        {
            const struct strip_block *v = w + i % panels * room_of(panels);
            vf one = halves(s) ? part[i] : scaled(sum[i], vf_load(v->scale[0]), vf_load(v->less));
            vf_store(acc[i],
                     finish_block(s, vf_load(v->scale[1]), vf_load(v->min[0]), vf_load(v->min[1]),
                                  &a[i / panels * stride], one, sum[i], vf_load(acc[i])));
        }
        IN_MEMORY;
    }
    UNROLL for (unsigned i = 0; i < n; i++)
        rows_store(out + i / panels * m->ld_out + i % panels * R, vf_load(acc[i]),
                   i % panels + 1 < panels ? R : m->n_rows);
}

#define GEMM_CASE(shape, panels, tile)                                                             \
    case 16 * (panels) + (tile):                                                                   \
        gemm_tile(shape, m, panels, tile, t0);                                                     \
        break;
#define GEMM_CASES_4(shape, panels)                                                                \
    GEMM_CASE(shape, panels, 1)                                                                    \
    GEMM_CASE(shape, panels, 2)                                                                    \
    GEMM_CASE(shape, panels, 3)                                                                    \
    GEMM_CASE(shape, panels, 4)
#if TILE == 4
#define GEMM_CASES GEMM_CASES_4
#else
#define GEMM_CASES(shape, panels)                                                                  \
    GEMM_CASES_4(shape, panels)                                                                    \
    GEMM_CASE(shape, panels, 5)                                                                    \
    GEMM_CASE(shape, panels, 6)                                                                    \
    GEMM_CASE(shape, panels, 7)                                                                    \
    GEMM_CASE(shape, panels, 8)
#endif
#if WIDE_PANELS > 2
#define GEMM_CASES_WIDE(shape)                                                                     \
    GEMM_CASES_4(shape, WIDE_PANELS)                                                               \
    GEMM_CASE(shape, WIDE_PANELS, 5)                                                               \
    GEMM_CASE(shape, WIDE_PANELS, 6)
#else
#define GEMM_CASES_WIDE(shape)
#endif
#if HALVES_TILE > 4
#define GEMM_CASES_HALVES(shape, panels)                                                           \
    GEMM_CASES_4(shape, panels)                                                                    \
    GEMM_CASE(shape, panels, 5)                                                                    \
    GEMM_CASE(shape, panels, 6)
#else
#define GEMM_CASES_HALVES GEMM_CASES_4
#endif
#define GEMM_TILES(name, shape, cases, wide)                                                       \
    static void name(const struct gemm *m, unsigned panels, unsigned tile, uint32_t t0)            \
    {                                                                                              \
        switch (16 * panels + tile) {                                                              \
            cases(shape, 1) cases(shape, 2) wide                                                   \
        }                                                                                          \
    }
GEMM_TILES(gemm_one, GEMM_ONE, GEMM_CASES, GEMM_CASES_WIDE(GEMM_ONE))
GEMM_TILES(gemm_min, GEMM_MIN, GEMM_CASES, GEMM_CASES_WIDE(GEMM_MIN))
GEMM_TILES(gemm_halves, GEMM_HALVES, GEMM_CASES_HALVES, )
GEMM_TILES(gemm_halves_4, GEMM_HALVES_4, GEMM_CASES_HALVES, )
GEMM_TILES(gemm_halves_min, GEMM_HALVES_MIN, GEMM_CASES_HALVES, )

INLINE void gemm_tokens(const struct kern_shape s, const struct gemm *m, unsigned panels,
                        uint32_t from, uint32_t to)
{
    switch (s.scales) {
    case KERN_D:
    case KERN_K32:
        gemm_one(m, panels, to - from, from);
        break;
    case KERN_DM:
    case KERN_KDM:
        gemm_min(m, panels, to - from, from);
        break;
    case KERN_K16:
        if (s.offset == 4)
            gemm_halves_4(m, panels, to - from, from);
        else
            gemm_halves(m, panels, to - from, from);
        break;
    default:
        gemm_halves_min(m, panels, to - from, from);
        break;
    }
}

/* Bytes of n blocks, whole supers, in a panel. */
INLINE size_t blocks_bytes(const struct kern_shape s, size_t n)
{
    const size_t block = kern_scale_bytes(&s, R) + kern_code_bytes(&s, R);
    return n * block + n * 32 / kern_super_cols(&s) * kern_head_bytes(&s, R);
}

/* One strip and all tokens; next: what follows it. */
INLINE void gemm_strip(const struct kern_shape s, struct gemm *m, unsigned panels,
                       uint32_t n_tokens, const uint8_t *next)
{
    const uint32_t tiles = (n_tokens + tile_of(s, panels) - 1) / tile_of(s, panels);
    const size_t bytes = blocks_bytes(s, room_of(panels));
    size_t asked = 0;
    m->ask = next;
    m->ask_lines = (unsigned)(bytes / 64 / (tiles * m->n_blocks)) + 1;
    for (uint32_t i = 0; i < tiles; i++) {
        gemm_tokens(s, m, panels, (uint32_t)((uint64_t)n_tokens * i / tiles),
                    (uint32_t)((uint64_t)n_tokens * (i + 1) / tiles));
        size_t done = (size_t)64 * m->ask_lines * m->n_blocks;
        m->ask += done;
        asked += done;
        if (asked >= bytes)
            m->ask_lines = 0;
    }
}

/* Any number of panels. Activations of all tokens may be too many for the second-level cache:
 * all panels pass over a slab of columns that fits it, then over the next. */
INLINE void gemm_mul(const struct kern_shape s, const uint8_t *panel, size_t panel_bytes,
                     uint32_t cols, uint32_t n_rows, const struct kern_act *acts, uint32_t n_tokens,
                     float *out, size_t ld_out)
{
    struct strip_block strips[2 * STRIP];
    const unsigned n_blocks = cols / 32;
    const size_t fit = SLAB_BYTES / sizeof *acts / n_tokens / STRIP;
    const unsigned slab = STRIP * (unsigned)(fit < 1 ? 1 : fit);
    struct gemm m = {.strip = strips,
                     .stride = n_blocks,
                     .start = gemm_start(s),
                     .ld_out = ld_out,
                     .ask_stride = panel_bytes};
    for (unsigned from = 0, to; from < n_blocks; from = to) {
        to = n_blocks - from < slab ? n_blocks : from + slab;
        for (uint32_t row = 0, rows; row < n_rows; row += rows) {
            const uint32_t left = n_rows - row;
            const unsigned panels = !halves(s) && left > (WIDE_PANELS - 1) * R ? WIDE_PANELS
                                    : left > R                                 ? 2
                                                                               : 1;
            const unsigned room = room_of(panels);
            const uint8_t *first = panel + row / R * panel_bytes;
            rows = left < panels * R ? left : panels * R;
            m.out = out + row;
            m.n_rows = rows - (panels - 1) * R;
            for (unsigned b = from; b < to; b += room) {
                const uint8_t *at = first + blocks_bytes(s, b), *next;
                m.n_blocks = to - b < room ? to - b : room;
                m.acts = acts + b;
                m.first = b == 0;
                for (unsigned i = 0; i < panels; i++)
                    strip_unpack(s, at + i * panel_bytes, m.n_blocks, strips + i * room);
                /* Past the matrix this is a wasted request. */
                if (b + room < to)
                    next = at + blocks_bytes(s, room);
                else if (row + rows < n_rows || to == n_blocks)
                    next = first + panels * panel_bytes + blocks_bytes(s, from);
                else
                    next = panel + blocks_bytes(s, to);
                gemm_strip(s, &m, panels, n_tokens, next);
            }
        }
    }
}

/* Two panels and few tokens, weights unpacked in registers: rather than pass strips twice through
 * memory for one or two tiles. Tokens past the last are the last again. */
INLINE void pair_tile(const struct kern_shape s, const uint8_t *panel, size_t panel_bytes,
                      uint32_t n_blocks, uint32_t n_rows, const struct kern_act *acts,
                      uint32_t n_tokens, const unsigned tile, const uint8_t *ask,
                      unsigned ask_lines, float *out, size_t ld_out)
{
    enum { MOST = 2 * TILE };
    alignas(64) float acc[MOST][R], part[MOST][R];
    alignas(64) float scale[2][2][R], min[2][2][R], less[2][R], head[2][2][R];
    const struct kern_act *a[TILE];
    const uint32_t super = kern_super_cols(&s) / 32;
    const size_t scale_bytes = kern_scale_bytes(&s, R), head_bytes = kern_head_bytes(&s, R);
    const size_t block_bytes = scale_bytes + kern_code_bytes(&s, R);
    const size_t ahead = ask_lines ? 0 : kern_ahead();
    const uint8_t *p = panel;
    const unsigned n = 2 * tile;
    UNROLL for (unsigned t = 0; t < tile; t++) a[t] =
        acts + (size_t)n_blocks * (t < n_tokens ? t : n_tokens - 1);
    UNROLL for (unsigned i = 0; i < n; i++) vf_store(acc[i], vf_zero());
    UNROLL for (unsigned i = 0; i < 4; i++) vf_store(head[i / 2][i % 2], vf_zero());
    for (uint32_t b = 0; b < n_blocks; b++, p += block_bytes) {
        if (super > 1 && b % super == 0) {
            UNROLL for (unsigned k = 0; k < 2; k++)
            {
                vf_store(head[k][0], load_half(p + k * panel_bytes));
                if (s.scales == KERN_KDM || s.scales == KERN_K16M)
                    vf_store(head[k][1], load_half(p + k * panel_bytes + 2 * R));
            }
            p += head_bytes;
        }
        for (unsigned k = 0; k < ask_lines; k++, ask += 64)
            ask_line(ask);
        UNROLL for (unsigned k = 0; k < 2; k++)
        {
            const uint8_t *at = p + k * panel_bytes;
            if (ahead)
                ask_ahead(at, ahead, block_bytes);
            struct scales f = load_scales(s, vf_load(head[k][0]), vf_load(head[k][1]), at);
            vf_store(scale[k][0], f.scale[0]);
            vf_store(less[k], vf_mul(f.scale[0], vf_set(-KERN_MAGIC_F)));
            vf_store(scale[k][1], f.scale[1]);
            vf_store(min[k][0], f.min[0]);
            vf_store(min[k][1], f.min[1]);
        }
        vi sum[MOST];
        UNROLL for (unsigned i = 0; i < n; i++) sum[i] = start_sum(s, &a[i / 2][b], 0);
        IN_MEMORY;
        UNROLL for (unsigned g = 0; g < 4; g++)
        {
            if (g == 2 && halves(s)) {
                UNROLL for (unsigned i = 0; i < n; i++)
                {
                    vf_store(part[i],
                             scaled(sum[i], vf_load(scale[i % 2][0]), vf_load(less[i % 2])));
                    sum[i] = start_sum(s, &a[i / 2][b], 1);
                }
                IN_MEMORY;
            }
            vi lo[2], hi[2];
            operands(s, p + scale_bytes, g, &lo[0], &hi[0]);
            operands(s, p + panel_bytes + scale_bytes, g, &lo[1], &hi[1]);
            UNROLL for (unsigned t = 0; t < tile; t++)
            {
                vi x = bcast4(a[t][b].q + 8 * g), y = bcast4(a[t][b].q + 8 * g + 4);
                sum[2 * t] = vi_dot(vi_dot(sum[2 * t], lo[0], x), hi[0], y);
                sum[2 * t + 1] = vi_dot(vi_dot(sum[2 * t + 1], lo[1], x), hi[1], y);
            }
        }
        UNROLL for (unsigned i = 0; i < n; i++)
        {
            const unsigned k = i % 2;
            vf one = halves(s) ? vf_load(part[i])
                               : scaled(sum[i], vf_load(scale[k][0]), vf_load(less[k]));
            vf_store(acc[i],
                     finish_block(s, vf_load(scale[k][1]), vf_load(min[k][0]), vf_load(min[k][1]),
                                  &a[i / 2][b], one, sum[i], vf_load(acc[i])));
        }
        IN_MEMORY;
    }
    for (uint32_t t = 0; t < tile && t < n_tokens; t++) {
        rows_store(out + t * ld_out, vf_load(acc[2 * t]), R);
        rows_store(out + t * ld_out + R, vf_load(acc[2 * t + 1]), n_rows - R);
    }
}

/* Tokens that make up for the strips' way through memory: fewer when codes are hard to unpack. */
INLINE uint32_t strips_from(const struct kern_shape s)
{
    return s.bits == 5 || s.bits == 6 ? 3 * TILE : 5 * TILE;
}

INLINE void pair_mul(const struct kern_shape s, const uint8_t *panel, size_t panel_bytes,
                     uint32_t cols, uint32_t n_rows, const struct kern_act *acts, uint32_t n_tokens,
                     float *out, size_t ld_out)
{
    const uint32_t n_blocks = cols / 32, tiles = (n_tokens + TILE - 1) / TILE;
    /* Several tiles: all of them ask for the next pair, or the first would wait for memory and the
     * others not use it. */
    const unsigned lines =
        tiles < 2 ? 0 : (unsigned)(2 * panel_bytes / 64 / (tiles * n_blocks)) + 1;
    const uint8_t *ask = panel + 2 * panel_bytes;
    for (uint32_t i = 0; i < tiles; i++, ask += (size_t)64 * lines * n_blocks) {
        uint32_t from = n_tokens * i / tiles, n = n_tokens * (i + 1) / tiles - from;
        const struct kern_act *a = acts + (size_t)from * n_blocks;
        float *to = out + from * ld_out;
        if (n <= TILE / 2)
            pair_tile(s, panel, panel_bytes, n_blocks, n_rows, a, n, TILE / 2, ask, lines, to,
                      ld_out);
        else if (n <= TILE * 3 / 4)
            pair_tile(s, panel, panel_bytes, n_blocks, n_rows, a, n, TILE * 3 / 4, ask, lines, to,
                      ld_out);
        else
            pair_tile(s, panel, panel_bytes, n_blocks, n_rows, a, n, TILE, ask, lines, to, ld_out);
    }
}

INLINE void many_mul(const struct kern_shape s, const uint8_t *panel, size_t panel_bytes,
                     uint32_t cols, uint32_t n_rows, const struct kern_act *acts, uint32_t n_tokens,
                     float *out, size_t ld_out)
{
    if (n_tokens >= strips_from(s)) {
        gemm_mul(s, panel, panel_bytes, cols, n_rows, acts, n_tokens, out, ld_out);
        return;
    }
    for (; n_rows > R; n_rows -= n_rows < 2 * R ? n_rows : 2 * R) {
        uint32_t n = n_rows < 2 * R ? n_rows : 2 * R;
        pair_mul(s, panel, panel_bytes, cols, n, acts, n_tokens, out, ld_out);
        panel += 2 * panel_bytes;
        out += 2 * R;
    }
    if (n_rows > 0)
        gemm_mul(s, panel, panel_bytes, cols, n_rows, acts, n_tokens, out, ld_out);
}

#define GEMM_MANY_MUL(name, bits, scales, offset, iq4)                                             \
    static void many_##name(const void *panel, size_t panel_bytes, uint32_t cols, uint32_t n_rows, \
                            const void *acts, uint32_t n_tokens, float *out, size_t ld_out)        \
    {                                                                                              \
        const struct kern_shape s = KERN_SHAPE_VALUE(name, bits, scales, offset, iq4);             \
        many_mul(s, panel, panel_bytes, cols, n_rows, acts, n_tokens, out, ld_out);                \
    }
#define GEMM_MANY_ROW(name, bits, scales, offset, iq4)                                             \
    kern_rows_set_many(rows, QT_##name, GEMM_TOKENS, BLOCK_TOKENS, many_##name);
KERN_SHAPES(GEMM_MANY_MUL)
