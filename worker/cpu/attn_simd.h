/* SPDX-License-Identifier: Apache-2.0 */
/* attn_simd.h - the attention step for a vector ISA; included by the file of each level,
 * which defines first:
 *
 *   VF, LANES            vector of floats and its length (16 is a multiple of it); VI: of int32
 *   v_zero, v_set1, v_load, v_store, v_half (16-bit floats widened), v_fma(a, b, c) = ab + c,
 *   v_add, v_sub, v_mul, v_min, v_max, v_abs, v_real (NaN as 0), v_hmax,
 *   v_scale2(x, n) = x 2^n for integral n, v_tree16(array of 16 / LANES),
 *   v_zero_below(x, t, y) = t < x ? y : 0 per lane
 *   vi_float, vi_near (to int32, nearest), vi_set1, vi_add, vi_sum
 *   dots(...)            integer dot products, see the files
 *   put_units, put_codes 32 integers as 8 units, as bytes
 *   S_TILE, V_MOST       queries that share loaded keys, and values
 *   V_TILE(n)            vectors of values that n queries share at once
 *
 * attn_kern.h states the order of every sum; no tile size below enters into it. */

#define PAGE       BACKEND_PAGE_TOKENS
#define PER_PAGE   (PAGE / LANES)
#define PER_BLOCK  (ATTN_BLOCK / LANES)
#define LINE       64
#define UNIT_STEP  ((size_t)ATTN_TILE * ATTN_UNIT)
#define PAGE_UNITS (PAGE / 4)
#define LANE_STEP  ((size_t)ATTN_BLOCK / 4 * ATTN_UNIT) /* of a query's weights */

#define INLINE static inline __attribute__((always_inline))

/* f(n) with a constant for each number of queries. */
#define BY_COUNT(n, call)                                                                          \
    switch (n) {                                                                                   \
    case 8:                                                                                        \
        call(8);                                                                                   \
        break;                                                                                     \
    case 7:                                                                                        \
        call(7);                                                                                   \
        break;                                                                                     \
    case 6:                                                                                        \
        call(6);                                                                                   \
        break;                                                                                     \
    case 5:                                                                                        \
        call(5);                                                                                   \
        break;                                                                                     \
    case 4:                                                                                        \
        call(4);                                                                                   \
        break;                                                                                     \
    case 3:                                                                                        \
        call(3);                                                                                   \
        break;                                                                                     \
    case 2:                                                                                        \
        call(2);                                                                                   \
        break;                                                                                     \
    default:                                                                                       \
        call(1);                                                                                   \
        break;                                                                                     \
    }

/* Some of a block's queries: those of one tile. */
struct part {
    const struct attn_block *b;
    const unsigned char *q; /* the tile */
    uint32_t q0, n;
    uint32_t lo, hi; /* what any of them sees */
    float rescale[ATTN_TILE];
    float s[ATTN_TILE][ATTN_BLOCK] __attribute__((aligned(LINE))); /* scores, then weights */
};

INLINE VF load_kv(const unsigned char *p, size_t i, bool f32)
{
    return f32 ? v_load((const float *)(const void *)p + i)
               : v_half((const uint16_t *)(const void *)p + i);
}

/* Where a loop over a page at `from` finds what to fetch: the same place in the page that will
 * be read a block later. Only the first tile fetches; the others touch what they have. One
 * line per turn of a loop keeps the few buffers for lines under way busy all the time. */
INLINE const unsigned char *ahead(const struct part *t, uint32_t page, bool first)
{
    const unsigned char *next = t->b->next[page];
    return t->q0 == 0 && first && next ? next : t->b->page[page];
}

INLINE void fetch(const unsigned char *p)
{
    __builtin_prefetch(p, 0, 3);
}

/* exp for x <= 0; 0 below -87. Cody-Waite reduction, degree 6, error about 1e-7. */
INLINE VF v_exp(VF x)
{
    /* What is added and taken away rounds to nearest. */
    VF n = v_sub(v_fma(x, v_set1(1.44269504f), v_set1(12582912.0f)), v_set1(12582912.0f));
    VF r = v_fma(n, v_set1(-0.693359375f), x);
    r = v_fma(n, v_set1(2.12194440e-4f), r);
    VF y = v_set1(1.9875691500e-4f);
    y = v_fma(y, r, v_set1(1.3981999507e-3f));
    y = v_fma(y, r, v_set1(8.3334519073e-3f));
    y = v_fma(y, r, v_set1(4.1665795894e-2f));
    y = v_fma(y, r, v_set1(1.6666665459e-1f));
    y = v_fma(y, r, v_set1(5.0000001201e-1f));
    y = v_fma(y, v_mul(r, r), r);
    y = v_add(y, v_set1(1.0f));
    return v_zero_below(x, v_set1(-87.0f), v_scale2(y, n));
}

/* ---- scores -------------------------------------------------------------------------------- */

/* Float keys of one page, for queries [i0, i0 + nq) of the tile. */
INLINE void scores_float(struct part *t, uint32_t i0, const int nq, uint32_t page, bool f32)
{
    const unsigned char *k = t->b->page[page];
    const unsigned char *next = ahead(t, page, i0 == 0);
    const float *q = (const float *)(const void *)t->q + i0;
    size_t dk = t->b->l->dk, line = (f32 ? sizeof(float) : sizeof(uint16_t)) * PAGE;
    for (size_t h = 0; h < PER_PAGE; h++) {
        VF even[S_TILE], odd[S_TILE];
        for (int i = 0; i < nq; i++)
            even[i] = odd[i] = v_zero();
        size_t d = 0;
        for (; d + 2 <= dk; d += 2) {
            fetch(next + d * line);
            if (f32)
                fetch(next + (d + 1) * line);
            VF k0 = load_kv(k, d * PAGE + h * LANES, f32);
            VF k1 = load_kv(k, (d + 1) * PAGE + h * LANES, f32);
            for (int i = 0; i < nq; i++) {
                even[i] = v_fma(v_set1(q[d * ATTN_TILE + (size_t)i]), k0, even[i]);
                odd[i] = v_fma(v_set1(q[(d + 1) * ATTN_TILE + (size_t)i]), k1, odd[i]);
            }
        }
        if (d < dk) {
            VF k0 = load_kv(k, d * PAGE + h * LANES, f32);
            for (int i = 0; i < nq; i++)
                even[i] = v_fma(v_set1(q[d * ATTN_TILE + (size_t)i]), k0, even[i]);
        }
        for (int i = 0; i < nq; i++)
            v_store(t->s[i0 + (size_t)i] + page * PAGE + h * LANES, v_add(even[i], odd[i]));
    }
}

INLINE void scores_q8(struct part *t, uint32_t i0, const int nq, uint32_t page)
{
    const struct attn_layout *l = t->b->l;
    const unsigned char *k = t->b->page[page], *fetched = ahead(t, page, i0 == 0);
    size_t k4 = ((size_t)l->dk + 3) / 4;
    const float *back = (const float *)(const void *)(t->q + k4 * UNIT_STEP);
    const int32_t *sums = (const int32_t *)(const void *)(back + ATTN_TILE);
    VF total[S_TILE][PER_PAGE];

    for (int i = 0; i < nq; i++) {
        for (size_t h = 0; h < PER_PAGE; h++)
            total[i][h] = v_zero();
    }
    for (size_t g = 0, from = 0; from < k4; g++, from += ATTN_K_GROUP / 4) {
        uint32_t n = (uint32_t)(k4 - from < ATTN_K_GROUP / 4 ? k4 - from : ATTN_K_GROUP / 4);
        const unsigned char *codes = k + from * 4 * PAGE;
        const unsigned char *next = fetched + from * 4 * PAGE;
        VI dot[S_TILE][PER_PAGE];
        dots(&codes, &next, 1, n, (size_t)4 * PAGE, t->q + from * UNIT_STEP + i0 * ATTN_UNIT,
             UNIT_STEP, ATTN_UNIT, sums + g * ATTN_TILE + i0, nq, dot);
        for (size_t h = 0; h < PER_PAGE; h++) {
            const void *at = k + l->k_scales + (g * PAGE + h * LANES) * sizeof(uint16_t);
            VF scale = v_half((const uint16_t *)at);
            for (int i = 0; i < nq; i++)
                total[i][h] = v_fma(vi_float(dot[i][h]), scale, total[i][h]);
        }
    }
    for (int i = 0; i < nq; i++) {
        for (size_t h = 0; h < PER_PAGE; h++) {
            VF x = v_mul(total[i][h], v_set1(back[i0 + (size_t)i]));
            v_store(t->s[i0 + (size_t)i] + page * PAGE + h * LANES, x);
        }
    }
}

INLINE void scores(struct part *t, const enum kv_type type)
{
    for (uint32_t page = t->lo / PAGE; page * PAGE < t->hi; page++) {
        for (uint32_t i = 0; i < t->n; i += S_TILE) {
            uint32_t n = t->n - i < S_TILE ? t->n - i : S_TILE;
#define CALL(N)                                                                                    \
    if (N <= S_TILE && type == KV_Q8_0) {                                                          \
        scores_q8(t, i, N <= S_TILE ? N : 1, page);                                                \
    } else if (N <= S_TILE) {                                                                      \
        scores_float(t, i, N <= S_TILE ? N : 1, page, type == KV_F32);                             \
    }
            BY_COUNT(n, CALL)
#undef CALL
        }
    }
}

/* Turn the scores of query i of the tile into weights and note the factor for what it had. */
INLINE void softmax(struct part *t, uint32_t i)
{
    const struct attn_block *b = t->b;
    uint32_t at = t->q0 + i;
    float *s = t->s[i];
    t->rescale[i] = 1;
    if (b->lo[at] >= b->hi[at]) {
        memset(s, 0, sizeof(t->s[i]));
        return;
    }
    for (uint32_t j = 0; j < b->lo[at]; j++)
        s[j] = ATTN_MASKED;
    for (uint32_t j = b->hi[at]; j < ATTN_BLOCK; j++)
        s[j] = ATTN_MASKED;
    VF m = v_load(s);
    for (size_t h = 1; h < PER_BLOCK; h++)
        m = v_max(m, v_load(s + h * LANES));
    float max = v_hmax(m);
    max = max > b->max[at] ? max : b->max[at];
    VF sum[PER_PAGE];
    for (size_t h = 0; h < PER_BLOCK; h++) {
        VF p = v_exp(v_sub(v_load(s + h * LANES), v_set1(max)));
        v_store(s + h * LANES, p);
        sum[h % PER_PAGE] = h < PER_PAGE ? p : v_add(sum[h % PER_PAGE], p);
    }
    if (max != b->max[at]) {
        float tmp[LANES];
        v_store(tmp, v_exp(v_set1(b->max[at] - max)));
        t->rescale[i] = tmp[0];
    }
    b->sum[at] = b->sum[at] * t->rescale[i] + v_tree16(sum);
    b->max[at] = max;
}

/* ---- values -------------------------------------------------------------------------------- */

INLINE float *acc_of(const struct part *t, uint32_t i)
{
    return t->b->acc + (size_t)(t->q0 + i) * t->b->l->dv_pad;
}

/* Positions [from, to) for queries [i0, i0 + nq), nv vectors from dimension d0 on. */
INLINE void values_float(const struct part *t, uint32_t i0, const int nq, size_t d0, const int nv,
                         uint32_t from, uint32_t to, bool f32)
{
    const struct attn_layout *l = t->b->l;
    size_t elem = f32 ? sizeof(float) : sizeof(uint16_t);
    VF acc[ATTN_TILE][4];
    for (int i = 0; i < nq; i++) {
        for (int c = 0; c < nv; c++)
            acc[i][c] = v_load(acc_of(t, i0 + (uint32_t)i) + d0 + (size_t)c * LANES);
    }
    for (uint32_t j = from; j < to;) {
        const unsigned char *v = t->b->page[j / PAGE] + l->v;
        const unsigned char *next = ahead(t, j / PAGE, i0 == 0) + l->v;
        uint32_t end = (j / PAGE + 1) * PAGE;
        end = end < to ? end : to;
        for (; j < end; j++) {
            size_t at = (size_t)(j % PAGE) * l->dv_pad + d0;
            VF val[4];
            for (size_t c = 0; c < (size_t)nv * LANES * elem; c += LINE)
                fetch(next + at * elem + c);
            for (int c = 0; c < nv; c++)
                val[c] = load_kv(v, at + (size_t)c * LANES, f32);
            for (int i = 0; i < nq; i++) {
                VF p = v_set1(t->s[i0 + (uint32_t)i][j]);
                for (int c = 0; c < nv; c++)
                    acc[i][c] = v_fma(p, val[c], acc[i][c]);
            }
        }
    }
    for (int i = 0; i < nq; i++) {
        for (int c = 0; c < nv; c++)
            v_store(acc_of(t, i0 + (uint32_t)i) + d0 + (size_t)c * LANES, acc[i][c]);
    }
}

/* Positions that all of some queries see. */
INLINE void values_run(const struct part *t, uint32_t i0, const int nq, uint32_t from, uint32_t to,
                       bool f32)
{
    const int nv = V_TILE(nq);
    size_t d = 0, pad = t->b->l->dv_pad, step = (size_t)nv * LANES;
    for (; d + step <= pad; d += step)
        values_float(t, i0, nq, d, nv, from, to, f32);
    for (; d < pad; d += LANES)
        values_float(t, i0, nq, d, 1, from, to, f32);
}

static void __attribute__((noinline))
values_some(const struct part *t, uint32_t i0, uint32_t n, uint32_t from, uint32_t to, bool f32)
{
    if (from >= to)
        return;
    for (uint32_t at = 0; at < n; at += V_MOST) {
        uint32_t m = n - at < V_MOST ? n - at : V_MOST;
#define CALL(N)                                                                                    \
    if (N <= V_MOST && f32) {                                                                      \
        values_run(t, i0 + at, N <= V_MOST ? N : 1, from, to, true);                               \
    } else if (N <= V_MOST) {                                                                      \
        values_run(t, i0 + at, N <= V_MOST ? N : 1, from, to, false);                              \
    }
        BY_COUNT(m, CALL)
#undef CALL
    }
}

INLINE void rescale_acc(const struct part *t)
{
    for (uint32_t i = 0; i < t->n; i++) {
        VF by = v_set1(t->rescale[i]);
        float *acc = acc_of(t, i);
        for (size_t d = 0; t->rescale[i] != 1 && d < t->b->l->dv_pad; d += LANES)
            v_store(acc + d, v_mul(v_load(acc + d), by));
    }
}

/* Every query adds its own positions in order: what all see in the middle, together. */
INLINE void values(const struct part *t, bool f32)
{
    const uint8_t *lo = t->b->lo + t->q0, *hi = t->b->hi + t->q0;
    uint32_t from = 0, to = ATTN_BLOCK;
    for (uint32_t i = 0; i < t->n; i++) {
        from = lo[i] > from ? lo[i] : from;
        to = hi[i] < to ? hi[i] : to;
    }
    bool middle = from < to;
    for (uint32_t pass = 0; pass < 3; pass++) {
        if (pass == 1 && middle)
            values_some(t, 0, t->n, from, to, f32);
        for (uint32_t i = 0, n; pass != 1 && i < t->n; i += n) {
            for (n = 1; i + n < t->n && lo[i + n] == lo[i] && hi[i + n] == hi[i];)
                n++;
            if (pass == 0)
                values_some(t, i, n, lo[i], middle ? from : hi[i], f32);
            else if (middle)
                values_some(t, i, n, to, hi[i], f32);
        }
    }
}

/* Weights of query i, times the values' scales of a group, as integers from 0 to ATTN_INT_MAX.
 * Returns what they must be multiplied by; *sum: of them. */
INLINE float weights_q8(const struct part *t, uint32_t i, size_t group, unsigned char *units,
                        int32_t *sum)
{
    const struct attn_block *b = t->b;
    VF w[PER_BLOCK], m = v_zero();
    for (uint32_t h = 0; h < PER_BLOCK; h++) {
        uint32_t page = h / PER_PAGE;
        w[h] = v_zero();
        if (page * PAGE >= t->hi || (page + 1) * PAGE <= t->lo)
            continue;
        const void *at = b->page[page] + b->l->v_scales +
                         (group * PAGE + h % PER_PAGE * LANES) * sizeof(uint16_t);
        w[h] = v_mul(v_load(t->s[i] + h * LANES), v_half((const uint16_t *)at));
        m = v_max(m, w[h]);
    }
    float max = v_hmax(m), inv = max > ATTN_TINY ? ATTN_INT_MAX / max : 0;
    VI all = vi_set1(0);
    for (uint32_t h = 0; h < PER_BLOCK; h += 2 * PER_PAGE) {
        VI x[2 * PER_PAGE];
        for (uint32_t c = 0; c < 2 * PER_PAGE; c++) {
            x[c] = vi_near(v_mul(w[h + c], v_set1(inv)));
            all = vi_add(all, x[c]);
        }
        put_units(x, units + h * LANES / 4 * ATTN_UNIT);
    }
    *sum = vi_sum(all) * 128;
    return max > ATTN_TINY ? max / ATTN_INT_MAX : 0;
}

/* 16 dimensions from d0 on for queries [i0, i0 + nq). */
INLINE void values_dims_q8(const struct part *t, uint32_t i0, const int nq, size_t d0,
                           const unsigned char *units, const float *back, const int32_t *sums)
{
    const struct attn_layout *l = t->b->l;
    const unsigned char *codes[ATTN_PAGES], *next[ATTN_PAGES];
    uint32_t first = t->lo / PAGE, n = (t->hi + PAGE - 1) / PAGE - first;
    VI dot[S_TILE][PER_PAGE];
    for (uint32_t p = 0; p < n; p++) {
        codes[p] = t->b->page[first + p] + l->v + d0 * 4;
        next[p] = ahead(t, first + p, i0 == 0) + l->v + d0 * 4;
    }
    dots(codes, next, n, PAGE_UNITS, (size_t)l->dv_pad * 4,
         units + i0 * LANE_STEP + first * PAGE_UNITS * ATTN_UNIT, ATTN_UNIT, LANE_STEP, sums + i0,
         nq, dot);
    for (int i = 0; i < nq; i++) {
        uint32_t at = i0 + (uint32_t)i;
        float *acc = acc_of(t, at) + d0;
        if (t->b->lo[t->q0 + at] >= t->b->hi[t->q0 + at])
            continue;
        for (size_t h = 0; h < PER_PAGE; h++) {
            VF x = vi_float(dot[i][h]);
            VF before = v_mul(v_load(acc + h * LANES), v_set1(t->rescale[at]));
            v_store(acc + h * LANES, v_fma(x, v_set1(back[at]), before));
        }
    }
}

INLINE void values_q8(const struct part *t)
{
    const struct attn_block *b = t->b;
    unsigned char units[ATTN_TILE * LANE_STEP] __attribute__((aligned(LINE)));
    float back[ATTN_TILE];
    int32_t sums[ATTN_TILE];
    for (size_t g = 0, d0 = 0; d0 < b->l->dv_pad; g++, d0 += ATTN_V_GROUP) {
        size_t end = d0 + ATTN_V_GROUP < b->l->dv_pad ? d0 + ATTN_V_GROUP : b->l->dv_pad;
        for (uint32_t i = 0; i < t->n; i++)
            back[i] = weights_q8(t, i, g, units + i * LANE_STEP, &sums[i]);
        for (uint32_t i0 = 0; i0 < t->n;) {
            uint32_t m = t->n - i0 < S_TILE ? t->n - i0 : S_TILE;
            for (size_t d = d0; d < end; d += PAGE) {
#define CALL(N)                                                                                    \
    if (N <= S_TILE)                                                                               \
    values_dims_q8(t, i0, N <= S_TILE ? N : 1, d, units, back, sums)
                BY_COUNT(m, CALL)
#undef CALL
            }
            i0 += m;
        }
    }
}

/* ---- the step ------------------------------------------------------------------------------ */

INLINE void block(const struct attn_block *b, const enum kv_type type)
{
    struct part t;
    t.b = b;
    for (t.q0 = 0; t.q0 < b->n_q; t.q0 += ATTN_TILE) {
        t.n = b->n_q - t.q0 < ATTN_TILE ? b->n_q - t.q0 : ATTN_TILE;
        t.q = b->q + t.q0 / ATTN_TILE * b->l->tile_bytes;
        t.lo = ATTN_BLOCK;
        t.hi = 0;
        for (uint32_t i = t.q0; i < t.q0 + t.n; i++) {
            if (b->lo[i] >= b->hi[i])
                continue;
            t.lo = b->lo[i] < t.lo ? b->lo[i] : t.lo;
            t.hi = b->hi[i] > t.hi ? b->hi[i] : t.hi;
        }
        if (t.lo >= t.hi)
            continue;
        scores(&t, type);
        for (uint32_t i = 0; i < t.n; i++)
            softmax(&t, i);
        if (type == KV_Q8_0) {
            values_q8(&t);
        } else {
            rescale_acc(&t);
            values(&t, type == KV_F32);
        }
    }
}

static void block_f16(const struct attn_block *b)
{
    block(b, KV_F16);
}

static void block_f32(const struct attn_block *b)
{
    block(b, KV_F32);
}

static void block_q8(const struct attn_block *b)
{
    block(b, KV_Q8_0);
}

/* ---- into and out of integers -------------------------------------------------------------- */

static float largest(const float *x, uint32_t n)
{
    VF m = v_zero();
    float most = 0;
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        m = v_max(v_abs(v_load(x + i)), m); /* NaN: the second one */
    most = v_hmax(m);
    for (; i < n; i++) {
        float a = x[i] < 0 ? -x[i] : x[i];
        most = a > most ? a : most;
    }
    return most;
}

/* Up to 32 values; those that are missing are 0. */
INLINE void integers(const float *x, uint32_t n, float inv, float limit, VI *out)
{
    float all[2 * PAGE];
    if (n < 2 * PAGE) {
        memset(all, 0, sizeof(all));
        memcpy(all, x, n * sizeof(*x));
        x = all;
    }
    for (uint32_t c = 0; c < 2 * PER_PAGE; c++) {
        VF y = v_real(v_mul(v_load(x + c * LANES), v_set1(inv)));
        out[c] = vi_near(v_min(v_max(y, v_set1(-limit)), v_set1(limit)));
    }
}

static void codes(const float *x, uint32_t n, float inv, unsigned char *out)
{
    VI ints[2 * PER_PAGE];
    unsigned char bytes[2 * PAGE];
    integers(x, n, inv, 127, ints);
    for (uint32_t c = 0; c < 2 * PER_PAGE; c++)
        ints[c] = vi_add(ints[c], vi_set1(128));
    put_codes(ints, bytes);
    memcpy(out, bytes, n);
}

static int32_t units(const float *x, uint32_t n, float inv, unsigned char *out)
{
    VI ints[2 * PER_PAGE], all = vi_set1(0);
    unsigned char bytes[2 * PAGE / 4 * ATTN_UNIT];
    integers(x, n, inv, ATTN_INT_MAX, ints);
    for (uint32_t c = 0; c < 2 * PER_PAGE; c++)
        all = vi_add(all, ints[c]);
    put_units(ints, bytes);
    memcpy(out, bytes, (size_t)(n + 3) / 4 * ATTN_UNIT);
    return vi_sum(all);
}

static float exp1(float x)
{
    float tmp[LANES];
    v_store(tmp, v_exp(v_set1(x)));
    return tmp[0];
}
