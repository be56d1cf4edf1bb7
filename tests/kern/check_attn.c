/* SPDX-License-Identifier: Apache-2.0 */
/* The attention step of one instruction set against double precision, and against itself: a
 * query's result must not depend on the queries beside it. --bench prints nanoseconds per
 * query and key. The level comes from QUIRE_CPU. */
#include "base/clock.h"
#include "quant/qtype.h"
#include "worker/cpu/attn_kern.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE  BACKEND_PAGE_TOKENS
#define MAX_D 128U
#define MAX_Q 20U
#define GUARD 16U

static uint32_t seed = 12345;

static float noise(void)
{
    seed = seed * 1664525U + 1013904223U;
    return (float)(int32_t)seed / 2147483648.0f;
}

struct data {
    float k32[ATTN_PAGES][MAX_D * PAGE], v32[ATTN_PAGES][MAX_D * PAGE];
    uint16_t k16[ATTN_PAGES][MAX_D * PAGE], v16[ATTN_PAGES][MAX_D * PAGE];
    float q[MAX_Q][MAX_D];
    float acc[GUARD + MAX_Q * MAX_D + GUARD], before[GUARD + MAX_Q * MAX_D + GUARD];
};

static struct data d;
static const struct attn_kern *kern;
static int failures;

static void fill(void)
{
    for (uint32_t p = 0; p < ATTN_PAGES; p++) {
        for (uint32_t i = 0; i < MAX_D * PAGE; i++) {
            d.k16[p][i] = qtype_f32_to_f16(noise());
            d.v16[p][i] = qtype_f32_to_f16(noise());
            d.k32[p][i] = qtype_f16_to_f32(d.k16[p][i]);
            d.v32[p][i] = qtype_f16_to_f32(d.v16[p][i]);
        }
    }
    for (uint32_t i = 0; i < MAX_Q; i++) {
        for (uint32_t k = 0; k < MAX_D; k++)
            d.q[i][k] = noise();
    }
    for (size_t i = 0; i < sizeof(d.before) / sizeof(*d.before); i++)
        d.before[i] = noise();
}

static struct attn_block block(uint32_t dk, uint32_t dv_pad, bool f32)
{
    struct attn_block b = {.dk = dk, .dv_pad = dv_pad};
    for (uint32_t p = 0; p < ATTN_PAGES; p++) {
        b.k[p] = f32 ? (const void *)d.k32[p] : d.k16[p];
        b.v[p] = f32 ? (const void *)d.v32[p] : d.v16[p];
    }
    return b;
}

static void step(const struct attn_block *b, bool f32)
{
    if (f32) {
        kern->f32(b);
    } else {
        kern->f16(b);
    }
}

/* One query in double precision from the same start. */
static bool right(const struct attn_block *b, uint32_t i, float max0, float sum0, const float *acc)
{
    double s[ATTN_BLOCK], max = (double)max0;
    for (uint32_t j = b->lo[i]; j < b->hi[i]; j++) {
        s[j] = 0;
        for (uint32_t k = 0; k < b->dk; k++)
            s[j] += (double)b->q[i][k] * (double)d.k32[j / PAGE][k * PAGE + j % PAGE];
        max = fmax(max, s[j]);
    }
    double back = exp((double)max0 - max), sum = (double)sum0 * back;
    for (uint32_t j = b->lo[i]; j < b->hi[i]; j++)
        sum += exp(s[j] - max);
    if (fabs((double)b->max[i] - max) > 1e-5 || fabs((double)b->sum[i] - sum) > 2e-5 * sum)
        return false;
    for (uint32_t k = 0; k < b->dv_pad; k++) {
        double want = (double)acc[k] * back;
        for (uint32_t j = b->lo[i]; j < b->hi[i]; j++)
            want += exp(s[j] - max) * (double)d.v32[j / PAGE][(j % PAGE) * b->dv_pad + k];
        if (fabs((double)b->acc[(size_t)i * b->dv_pad + k] - want) > 2e-5 * (1 + sum))
            return false;
    }
    return true;
}

static void check(uint32_t dk, uint32_t dv_pad, uint32_t n_q, bool f32)
{
    const float *q[MAX_Q];
    uint8_t lo[MAX_Q], hi[MAX_Q];
    float max[MAX_Q], sum[MAX_Q], max0[MAX_Q], sum0[MAX_Q];
    struct attn_block b = block(dk, dv_pad, f32);

    for (uint32_t i = 0; i < n_q; i++) {
        q[i] = d.q[i];
        uint32_t style = i % 5;
        hi[i] = (uint8_t)(style < 3 ? ATTN_BLOCK : (uint32_t)(fabsf(noise()) * ATTN_BLOCK));
        lo[i] = (uint8_t)(style < 2 ? 0 : (uint32_t)(fabsf(noise()) * 20));
        bool fresh = i % 3 == 0;
        max[i] = max0[i] = fresh ? ATTN_MASKED : 3 * noise();
        sum[i] = sum0[i] = fresh ? 0 : 1 + noise();
        if (fresh)
            memset(d.before + GUARD + (size_t)i * dv_pad, 0, dv_pad * sizeof(float));
    }
    memcpy(d.acc, d.before, sizeof(d.acc));
    b.n_q = n_q;
    b.q = q;
    b.lo = lo;
    b.hi = hi;
    b.max = max;
    b.sum = sum;
    b.acc = d.acc + GUARD;
    step(&b, f32);

    bool ok = true;
    for (uint32_t i = 0; i < n_q && ok; i++) {
        const float *start = d.before + GUARD + (size_t)i * dv_pad;
        const float *got = b.acc + (size_t)i * dv_pad;
        if (lo[i] >= hi[i]) {
            ok = memcmp(got, start, dv_pad * sizeof(float)) == 0 && sum[i] == sum0[i];
            continue;
        }
        ok = right(&b, i, max0[i], sum0[i], start);
        /* alone */
        float acc1[MAX_D], max1 = max0[i], sum1 = sum0[i];
        memcpy(acc1, start, dv_pad * sizeof(float));
        struct attn_block one = b;
        one.n_q = 1;
        one.q = q + i;
        one.lo = lo + i;
        one.hi = hi + i;
        one.max = &max1;
        one.sum = &sum1;
        one.acc = acc1;
        step(&one, f32);
        ok = ok && memcmp(acc1, got, dv_pad * sizeof(float)) == 0 && sum1 == sum[i] &&
             max1 == max[i];
    }
    size_t end = GUARD + (size_t)n_q * dv_pad;
    ok = ok && memcmp(d.acc, d.before, GUARD * sizeof(float)) == 0 &&
         memcmp(d.acc + end, d.before + end, GUARD * sizeof(float)) == 0;
    if (!ok) {
        printf("wrong: dk %u dv %u queries %u %s\n", dk, dv_pad, n_q, f32 ? "f32" : "f16");
        failures++;
    }
}

static void bench(uint32_t dim, uint32_t n_q)
{
    const float *q[MAX_Q];
    uint8_t lo[MAX_Q] = {0}, hi[MAX_Q];
    float max[MAX_Q], sum[MAX_Q];
    struct attn_block b = block(dim, dim, false);
    for (uint32_t i = 0; i < n_q; i++) {
        q[i] = d.q[i];
        hi[i] = ATTN_BLOCK;
        max[i] = ATTN_MASKED;
        sum[i] = 0;
    }
    b.n_q = n_q;
    b.q = q;
    b.lo = lo;
    b.hi = hi;
    b.max = max;
    b.sum = sum;
    b.acc = d.acc;
    memset(d.acc, 0, sizeof(d.acc));
    uint64_t best = UINT64_MAX;
    for (int r = 0; r < 50; r++) {
        uint64_t t0 = clock_mono_ns();
        for (int k = 0; k < 200; k++)
            step(&b, false);
        uint64_t t = clock_mono_ns() - t0;
        best = t < best ? t : best;
    }
    printf("head %3u, %2u queries: %.2f ns per query and key\n", dim, n_q,
           (double)best / 200 / n_q / ATTN_BLOCK);
}

int main(int argc, char **argv)
{
    static const uint32_t dks[] = {1, 2, 7, 16, 33, 64, 80, 128};
    static const uint32_t dvs[] = {16, 32, 48, 64, 80, 128};
    const struct kern *k;
    struct err e = {0};
    if (kern_get(&k, &e)) {
        printf("skipped: %s\n", e.msg);
        return 77;
    }
    kern = attn_kern_at(k->level);
    fill();
    for (size_t i = 0; i < sizeof(dks) / sizeof(*dks); i++) {
        for (size_t j = 0; j < sizeof(dvs) / sizeof(*dvs); j++) {
            for (uint32_t n_q = 1; n_q <= MAX_Q; n_q += n_q < 9 ? 1 : 11) {
                if ((size_t)n_q * dvs[j] > (size_t)MAX_Q * MAX_D)
                    continue;
                check(dks[i], dvs[j], n_q, false);
                check(dks[i], dvs[j], n_q, true);
            }
        }
    }
    /* exp agrees with the library's */
    for (float x = 0; x > -86; x -= 0.37f) {
        if (fabs((double)kern->exp1(x) / exp((double)x) - 1) > 1e-6) {
            printf("wrong: exp(%g)\n", (double)x);
            failures++;
        }
    }
    printf("attention step, %s: %s\n", k->name, failures ? "WRONG" : "right");
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench(64, 1);
        bench(64, 7);
        bench(128, 1);
        bench(128, 4);
        bench(128, 16);
    }
    return failures ? 1 : 0;
}
