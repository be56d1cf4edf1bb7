/* SPDX-License-Identifier: Apache-2.0 */
/* The attention step of one instruction set: the same bits as the plain C reference, which is
 * held against double precision; a query's result must not depend on the queries beside it.
 * --bench prints nanoseconds and cycles per query and key with the cache in L1, and how fast a
 * decode step walks a cache larger than L2. The level comes from QUIRE_CPU. */
#include "base/clock.h"
#include "quant/qtype.h"
#include "worker/cpu/attn_kern.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE     BACKEND_PAGE_TOKENS
#define MAX_D    256U
#define MAX_Q    20U
#define MAX_PAGE (2 * MAX_D * PAGE * sizeof(float))
#define MAX_TILE (MAX_D * ATTN_TILE * sizeof(float) + 4096)
#define GUARD    16U

static uint32_t seed = 12345;

static float noise(void)
{
    seed = seed * 1664525U + 1013904223U;
    return (float)(int32_t)seed / 2147483648.0f;
}

static const char *const type_names[KV_TYPES] = {"f16", "q8_0", "f32"};

struct data {
    _Alignas(64) unsigned char pages[ATTN_PAGES][MAX_PAGE];
    _Alignas(64) unsigned char tiles[(MAX_Q + ATTN_TILE - 1) / ATTN_TILE * MAX_TILE];
    float k[ATTN_BLOCK][MAX_D], v[ATTN_BLOCK][MAX_D], q[MAX_Q][MAX_D];
    float acc[GUARD + MAX_Q * MAX_D + GUARD], before[GUARD + MAX_Q * MAX_D + GUARD];
    uint8_t lo[MAX_Q], hi[MAX_Q];
    float max[MAX_Q], sum[MAX_Q], max0[MAX_Q], sum0[MAX_Q];
};

static struct data d, ref;
static const struct attn_kern *kern;
static const struct kern_vec *vec;
static int failures;

static void fill(void)
{
    for (uint32_t j = 0; j < ATTN_BLOCK; j++) {
        for (uint32_t i = 0; i < MAX_D; i++) {
            /* Dimensions of different size, as keys after RoPE have. */
            d.k[j][i] = noise() * (i % 11 == 3 ? 4 : 1) * 0.5f;
            d.v[j][i] = noise();
        }
    }
    for (uint32_t i = 0; i < MAX_Q; i++) {
        for (uint32_t k = 0; k < MAX_D; k++)
            d.q[i][k] = noise();
    }
    for (size_t i = 0; i < sizeof(d.before) / sizeof(*d.before); i++)
        d.before[i] = noise();
}

/* Bounds and running results of n_q queries. */
static void start(uint32_t n_q, uint32_t dv_pad)
{
    for (uint32_t i = 0; i < n_q; i++) {
        uint32_t style = i % 5;
        d.hi[i] = (uint8_t)(style < 3 ? ATTN_BLOCK : (uint32_t)(fabsf(noise()) * ATTN_BLOCK));
        d.lo[i] = (uint8_t)(style < 2 ? 0 : (uint32_t)(fabsf(noise()) * 20));
        bool fresh = i % 3 == 0;
        d.max[i] = d.max0[i] = fresh ? ATTN_MASKED : 3 * noise();
        d.sum[i] = d.sum0[i] = fresh ? 0 : 1 + noise();
        if (fresh)
            memset(d.before + GUARD + (size_t)i * dv_pad, 0, dv_pad * sizeof(float));
    }
    memcpy(d.acc, d.before, sizeof(d.acc));
}

/* The layout of a kernel with everything stored and placed in `to`. */
static struct attn_layout store(const struct attn_kern *k, struct data *to, enum kv_type type,
                                uint32_t dk, uint32_t dv, uint32_t n_q)
{
    struct attn_layout l = attn_layout_of(k, type, dk, dv);
    _Alignas(64) unsigned char query[MAX_D * sizeof(float) + 4096];
    memset(to->pages, 0, sizeof(to->pages));
    memset(to->tiles, 0xee, sizeof(to->tiles)); /* unused lanes hold anything */
    for (uint32_t j = 0; j < ATTN_BLOCK; j++) {
        attn_store_k(k, &l, vec, to->pages[j / PAGE], j % PAGE, d.k[j]);
        attn_store_v(k, &l, vec, to->pages[j / PAGE], j % PAGE, d.v[j]);
    }
    for (uint32_t i = 0; i < n_q; i++) {
        attn_set_query(k, &l, d.q[i], 0.25f, query);
        attn_put_query(&l, query, i % ATTN_TILE, to->tiles + i / ATTN_TILE * l.tile_bytes);
    }
    return l;
}

static struct attn_block block(const struct attn_layout *l, struct data *from, uint32_t n_q)
{
    struct attn_block b = {.l = l,
                           .n_q = n_q,
                           .q = from->tiles,
                           .lo = from->lo,
                           .hi = from->hi,
                           .max = from->max,
                           .sum = from->sum,
                           .acc = from->acc + GUARD};
    for (uint32_t p = 0; p < ATTN_PAGES; p++)
        b.page[p] = from->pages[p];
    b.next[1] = from->pages[2];
    return b;
}

/* Query i in double precision from the same start; the error of one code or half is `unit` of
 * the largest. */
static bool right(const struct attn_block *b, uint32_t i, double unit)
{
    const struct attn_layout *l = b->l;
    const float *acc = d.before + GUARD + (size_t)i * l->dv_pad;
    double s[ATTN_BLOCK], max = (double)d.max0[i], size = 0;
    for (uint32_t j = b->lo[i]; j < b->hi[i]; j++) {
        s[j] = 0;
        for (uint32_t k = 0; k < l->dk; k++)
            s[j] += (double)(d.q[i][k] * 0.25f) * (double)d.k[j][k];
        max = fmax(max, s[j]);
    }
    for (uint32_t k = 0; k < l->dk; k++)
        size += fabs((double)(d.q[i][k] * 0.25f)) * 2; /* the largest key is 2 */
    double off = 1e-5 + unit * size;                   /* of a score */
    double back = exp((double)d.max0[i] - max), sum = (double)d.sum0[i] * back;
    for (uint32_t j = b->lo[i]; j < b->hi[i]; j++)
        sum += exp(s[j] - max);
    if (fabs((double)b->max[i] - max) > off || fabs((double)b->sum[i] - sum) > 2 * off * sum)
        return false;
    for (uint32_t k = 0; k < l->dv; k++) {
        double want = (double)acc[k] * back;
        for (uint32_t j = b->lo[i]; j < b->hi[i]; j++)
            want += exp(s[j] - max) * (double)d.v[j][k];
        double got = (double)b->acc[(size_t)i * l->dv_pad + k];
        if (fabs(got - want) > (2 * off + unit) * (1 + sum))
            return false;
    }
    return true;
}

/* Query i of b alone, in lane 0 of a tile of its own: the same bits. */
static bool alone(const struct attn_block *b, uint32_t i)
{
    const struct attn_layout *l = b->l;
    static _Alignas(64) unsigned char query[MAX_TILE], tile[MAX_TILE];
    float acc[MAX_D], max = d.max0[i], sum = d.sum0[i];
    struct attn_block one = *b;

    memcpy(acc, d.before + GUARD + (size_t)i * l->dv_pad, l->dv_pad * sizeof(float));
    attn_set_query(kern, l, d.q[i], 0.25f, query);
    attn_put_query(l, query, 0, tile);
    one.n_q = 1;
    one.q = tile;
    one.lo = b->lo + i;
    one.hi = b->hi + i;
    one.max = &max;
    one.sum = &sum;
    one.acc = acc;
    kern->block[l->type](&one);
    return memcmp(acc, b->acc + (size_t)i * l->dv_pad, l->dv_pad * sizeof(float)) == 0 &&
           sum == b->sum[i] && max == b->max[i];
}

static void check(enum kv_type type, uint32_t dk, uint32_t dv, uint32_t n_q)
{
    static const double units[KV_TYPES] = {1e-3, 1.2e-2, 1e-6};
    struct attn_layout l = store(kern, &d, type, dk, dv, n_q);
    struct attn_block b = block(&l, &d, n_q);
    if (l.bytes > MAX_PAGE || l.bytes % 64 || l.tile_bytes > MAX_TILE) {
        printf("wrong: a page of %zu bytes, a tile of %zu\n", l.bytes, l.tile_bytes);
        failures++;
        return;
    }
    start(n_q, l.dv_pad);
    memcpy(ref.acc, d.acc, sizeof(d.acc));
    memcpy(ref.lo, d.lo, sizeof(d.lo));
    memcpy(ref.hi, d.hi, sizeof(d.hi));
    memcpy(ref.max, d.max, sizeof(d.max));
    memcpy(ref.sum, d.sum, sizeof(d.sum));
    kern->block[type](&b);
    struct attn_layout rl = store(&attn_kern_ref, &ref, type, dk, dv, n_q);
    struct attn_block r = block(&rl, &ref, n_q);
    attn_kern_ref.block[type](&r);

    const char *what = NULL;
    if (memcmp(d.pages, ref.pages, sizeof(d.pages)))
        what = "pages differ from the reference's";
    for (uint32_t i = 0; i < n_q && !what; i++) {
        const float *before = d.before + GUARD + (size_t)i * l.dv_pad;
        size_t n = (b.lo[i] < b.hi[i] ? l.dv : l.dv_pad) * sizeof(float);
        if (b.lo[i] >= b.hi[i] &&
            (memcmp(b.acc + (size_t)i * l.dv_pad, before, n) || d.sum[i] != d.sum0[i]))
            what = "a query that sees nothing";
        if (memcmp(b.acc + (size_t)i * l.dv_pad, r.acc + (size_t)i * l.dv_pad, n) ||
            d.max[i] != ref.max[i] || d.sum[i] != ref.sum[i])
            what = "not the reference's bits";
        else if (b.lo[i] < b.hi[i] && !right(&b, i, units[type]))
            what = "too far from double precision";
        else if (!alone(&b, i))
            what = "another result alone";
    }
    size_t end = GUARD + (size_t)n_q * l.dv_pad;
    if (memcmp(d.acc, d.before, GUARD * sizeof(float)) ||
        memcmp(d.acc + end, d.before + end, GUARD * sizeof(float)))
        what = "wrote outside";
    if (what) {
        printf("wrong: dk %u dv %u queries %u %s: %s\n", dk, dv, n_q, type_names[type], what);
        failures++;
    }
}

/* What the cache can't hold is clipped, not made of it: huge, infinite, tiny values, NaN. */
static void check_extremes(void)
{
    static const float bad[] = {INFINITY, -INFINITY, NAN, 3e38f, -3e38f, 1e-40f, 1e-7f, 0};
    struct attn_layout l = attn_layout_of(kern, KV_Q8_0, 64, 64);
    memset(d.pages, 0, sizeof(d.pages));
    memset(ref.pages, 0, sizeof(ref.pages));
    for (uint32_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        float x[64];
        for (uint32_t k = 0; k < 64; k++)
            x[k] = k == i ? bad[i] : 0.25f * (float)(k % 3);
        attn_store_k(kern, &l, vec, d.pages[0], i, x);
        attn_store_v(kern, &l, vec, d.pages[0], i, x);
        attn_store_k(&attn_kern_ref, &l, vec, ref.pages[0], i, x);
        attn_store_v(&attn_kern_ref, &l, vec, ref.pages[0], i, x);
    }
    if (memcmp(d.pages[0], ref.pages[0], l.bytes)) {
        printf("wrong: extreme keys and values differ from the reference's\n");
        failures++;
    }
    for (size_t i = 0; i < 2 * PAGE; i++) {
        const uint16_t *scales = (const uint16_t *)(const void *)(d.pages[0] + l.k_scales);
        if (!isfinite(qtype_f16_to_f32(scales[i]))) {
            printf("wrong: scale %zu of extreme keys is not finite\n", i);
            failures++;
        }
    }
}

static double ghz(void)
{
    double best = 0;
    for (int r = 0; r < 20; r++) {
        uint64_t t0 = clock_mono_ns();
        uint32_t x = 1;
        for (int i = 0; i < 200000; i++) {
            x += (uint32_t)i; /* one cycle each: the empty statement keeps the additions apart */
            __asm__ volatile("" : "+r"(x));
        }
        best = fmax(best, 200000 / (double)(clock_mono_ns() - t0));
    }
    return best;
}

static void bench(enum kv_type type, uint32_t dim, uint32_t n_q, double cycle)
{
    struct attn_layout l = store(kern, &d, type, dim, dim, n_q);
    struct attn_block b = block(&l, &d, n_q);
    for (uint32_t i = 0; i < n_q; i++) {
        d.lo[i] = 0;
        d.hi[i] = ATTN_BLOCK;
        d.max[i] = ATTN_MASKED;
        d.sum[i] = 0;
    }
    memset(d.acc, 0, sizeof(d.acc));
    uint64_t best = UINT64_MAX;
    for (int r = 0; r < 50; r++) {
        uint64_t t0 = clock_mono_ns();
        for (int k = 0; k < 50; k++)
            kern->block[type](&b);
        uint64_t t = clock_mono_ns() - t0;
        best = t < best ? t : best;
    }
    double ns = (double)best / 50 / n_q / ATTN_BLOCK;
    printf("%-5s head %3u, %2u queries: %6.2f ns %6.2f cycles per query and key\n",
           type_names[type], dim, n_q, ns, ns * cycle);
}

/* A decode step of one thread: n_q queries walk 48 MiB of pages once, chunk by chunk. */
static void bench_walk(enum kv_type type, uint32_t dim, uint32_t n_q)
{
    struct attn_layout l = store(kern, &d, type, dim, dim, n_q);
    uint32_t n = (uint32_t)((48U << 20) / l.bytes) / ATTN_PAGES * ATTN_PAGES;
    unsigned char *mem = aligned_alloc(64, n * l.bytes);
    if (!mem)
        return;
    for (uint32_t i = 0; i < n; i++)
        memcpy(mem + i * l.bytes, d.pages[i % ATTN_PAGES], l.bytes);
    struct attn_block b = block(&l, &d, n_q);
    uint64_t best = UINT64_MAX;
    for (int r = 0; r < 5; r++) {
        for (uint32_t i = 0; i < n_q; i++) {
            d.lo[i] = 0;
            d.hi[i] = ATTN_BLOCK;
            d.max[i] = ATTN_MASKED;
            d.sum[i] = 0;
        }
        memset(d.acc, 0, sizeof(d.acc));
        uint64_t t0 = clock_mono_ns();
        for (uint32_t p = 0; p < n; p += ATTN_PAGES) {
            for (uint32_t i = 0; i < ATTN_PAGES; i++) {
                b.page[i] = mem + (p + i) * l.bytes;
                b.next[i] = p + i + ATTN_PAGES < n ? b.page[i] + ATTN_PAGES * l.bytes : NULL;
            }
            kern->block[type](&b);
        }
        uint64_t t = clock_mono_ns() - t0;
        best = t < best ? t : best;
    }
    printf("%-5s head %3u, %2u queries: %6.2f GB/s of keys and values, %5.2f ns per query and "
           "key\n",
           type_names[type], dim, n_q, (double)(n * l.bytes) / (double)best,
           (double)best / n_q / PAGE / n);
    free(mem);
}

static void bench_all(void)
{
    static const enum kv_type types[] = {KV_F16, KV_Q8_0, KV_F32};
    static const uint32_t shapes[][2] = {{64, 1},  {64, 3},  {64, 7},   {64, 8},
                                         {128, 1}, {128, 4}, {128, 16}, {256, 8}};
    double cycle = ghz();
    printf("clock %.2f GHz\n", cycle);
    for (size_t t = 0; t < 3; t++) {
        for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
            bench(types[t], shapes[i][0], shapes[i][1], cycle);
    }
    for (size_t t = 0; t < 2; t++) {
        bench_walk(types[t], 64, 3);
        bench_walk(types[t], 64, 7);
        bench_walk(types[t], 128, 6);
        bench_walk(types[t], 128, 1);
    }
}

int main(int argc, char **argv)
{
    static const uint32_t dks[] = {1, 2, 3, 7, 16, 31, 33, 64, 72, 80, 96, 128, 256};
    static const uint32_t dvs[] = {1, 16, 33, 48, 64, 72, 80, 96, 128, 160, 256};
    const struct kern *k;
    struct err e = {0};
    if (kern_get(&k, &e)) {
        printf("skipped: %s\n", e.msg);
        return 77;
    }
    kern = attn_kern_at(k->level);
    vec = k->vec;
    fill();
    for (size_t i = 0; i < sizeof(dks) / sizeof(*dks); i++) {
        for (size_t j = 0; j < sizeof(dvs) / sizeof(*dvs); j++) {
            for (int type = 0; type < KV_TYPES; type++) {
                /* All counts for the usual heads, some for the rest. */
                uint32_t step = dks[i] == dvs[j] && dks[i] <= 128 ? 1 : 7;
                for (uint32_t n_q = 1; n_q <= MAX_Q; n_q += step)
                    check((enum kv_type)type, dks[i], dvs[j], n_q);
            }
        }
    }
    check_extremes();
    /* exp agrees with the library's, and with the reference's bits */
    for (float x = 0; x > -90; x -= 0.0371f) {
        float y = kern->exp1(x);
        bool close = x < -86.5f || fabs((double)y / exp((double)x) - 1) < 1e-6;
        if (!close || y != attn_kern_ref.exp1(x)) {
            printf("wrong: exp(%g)\n", (double)x);
            failures++;
        }
    }
    printf("attention step, %s: %s\n", k->name, failures ? "WRONG" : "right");
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        bench_all();
    return failures ? 1 : 0;
}
