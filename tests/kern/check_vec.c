/* SPDX-License-Identifier: Apache-2.0 */
/* Vector operations of the level in QUIRE_CPU against the reference and against double.
 *
 * Every level must give the reference's bits. The reference itself must lie within the bounds
 * written at each check; f16 conversions must be exact. --bench prints cycles-free figures:
 * elements per nanosecond. */
#include "base/clock.h"
#include "quant/kern.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(cond, ...)                                                                           \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #cond);                                      \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

enum { MAX = 700, GUARD = 32 };

static uint64_t seed = 88172645463325252u;

static uint32_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 16);
}

static float rnd_f(float scale)
{
    return ((float)(rnd() & 0xffffff) - 8388608.0f) / 8388608.0f * scale;
}

/* An output with guards on both sides, at a deliberately odd place. */
struct box {
    float all[MAX + 2 * GUARD];
};

static float *box_open(struct box *b, const float *init, uint32_t n)
{
    for (size_t i = 0; i < MAX + 2 * GUARD; i++)
        b->all[i] = -4321.0f;
    if (init)
        memcpy(b->all + GUARD + 1, init, n * sizeof *init);
    return b->all + GUARD + 1;
}

static void box_same(const struct box *a, const struct box *b, uint32_t n, const char *what)
{
    for (size_t i = 0; i < MAX + 2 * GUARD; i++) {
        bool inside = i >= GUARD + 1 && i < GUARD + 1 + n;
        CHECK(inside || (a->all[i] == -4321.0f && b->all[i] == -4321.0f), "%s n=%u: guard %zu",
              what, n, i);
        CHECK(memcmp(&a->all[i], &b->all[i], 4) == 0, "%s n=%u element %zu: %.9g, reference %.9g",
              what, n, i - GUARD - 1, (double)a->all[i], (double)b->all[i]);
    }
}

static void fill(float *x, uint32_t n, float scale)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] = rnd_f(scale);
}

static bool same(float a, float b)
{
    return memcmp(&a, &b, 4) == 0;
}

static void check_n(const struct kern_vec *v, const struct kern_vec *ref, uint32_t n)
{
    static struct box a, b;
    float x[MAX], w[MAX], u[MAX];
    fill(x, n, 3);
    fill(w, n, 2);
    fill(u, n, 20);
    float *ya = box_open(&a, NULL, n), *yb = box_open(&b, NULL, n);
    v->rms_norm(x, w, n, 1e-5f, ya);
    ref->rms_norm(x, w, n, 1e-5f, yb);
    box_same(&a, &b, n, "rms_norm");
    double ss = 0, dot = 0, size = 0;
    for (uint32_t i = 0; i < n; i++) {
        ss += (double)x[i] * (double)x[i];
        dot += (double)x[i] * (double)w[i];
        size += fabs((double)x[i] * (double)w[i]);
    }
    for (uint32_t i = 0; i < n; i++) {
        double want = (double)x[i] / sqrt(ss / n + 1e-5) * (double)w[i];
        CHECK(fabs((double)yb[i] - want) <= 1e-6 * fabs(want), "rms_norm %u", n);
    }
    CHECK(same(v->dot_f32(x, w, n), ref->dot_f32(x, w, n)), "dot %u", n);
    CHECK(fabs((double)ref->dot_f32(x, w, n) - dot) <= 1e-6 * size, "dot %u", n);

    ya = box_open(&a, x, n), yb = box_open(&b, x, n);
    v->add(ya, w, n);
    ref->add(yb, w, n);
    box_same(&a, &b, n, "add");

    if (n > 3)
        u[1] = 200, u[2] = -200, u[3] = 0;
    ya = box_open(&a, NULL, n), yb = box_open(&b, NULL, n);
    v->silu_mul(ya, u, w, n);
    ref->silu_mul(yb, u, w, n);
    box_same(&a, &b, n, "silu_mul");
    for (uint32_t i = 0; i < n; i++) {
        double want = (double)u[i] / (1 + exp(-(double)u[i])) * (double)w[i];
        CHECK(fabs((double)yb[i] - want) <= 1e-6 * fabs(want) + 1e-30, "silu_mul %g: %g want %g",
              (double)u[i], (double)yb[i], want);
    }

    CHECK(same(v->max_f32(u, n), ref->max_f32(u, n)), "max %u", n);
    float m = ref->max_f32(u, n);
    if (n > 5)
        u[4] = -INFINITY;
    ya = box_open(&a, u, n), yb = box_open(&b, u, n);
    float sa = v->exp_sum(ya, n, m), sb = ref->exp_sum(yb, n, m);
    CHECK(same(sa, sb), "exp_sum %u: %.9g, reference %.9g", n, (double)sa, (double)sb);
    box_same(&a, &b, n, "exp_sum");
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        double want = exp((double)u[i] - (double)m);
        if ((double)u[i] - (double)m < -87.3)
            want = 0;
        /* u - m is rounded before exp, by up to 2^-24 of 220. */
        CHECK(fabs((double)yb[i] - want) <= 3e-7 * want + 1.4e-5 * want, "exp %g: %g want %g",
              (double)(u[i] - m), (double)yb[i], want);
        sum += want;
    }
    CHECK(fabs((double)sb - sum) <= 1.5e-5 * sum, "exp_sum %u", n);
}

static void check_exp(const struct kern_vec *v)
{
    /* Arguments that are exact: the polynomial's own error, 2^-22 relative. */
    for (int i = -87 * 8; i <= 0; i++) {
        float x = (float)i / 8;
        v->exp_sum(&x, 1, 0);
        double want = exp((double)i / 8);
        CHECK(fabs((double)x - want) <= want * 0x1p-22, "exp(%g) = %.9g, want %.9g", i / 8.0,
              (double)x, want);
    }
}

static void check_rope(const struct kern_vec *v, const struct kern_vec *ref, uint32_t n, bool neox)
{
    static struct box a, b;
    float x[MAX], c[MAX], s[MAX];
    fill(x, n, 3);
    for (uint32_t i = 0; i < n / 2; i++) {
        c[i] = cosf((float)i * 0.7f);
        s[i] = sinf((float)i * 0.7f);
    }
    float *ya = box_open(&a, x, n), *yb = box_open(&b, x, n);
    v->rope(ya, n, neox, c, s);
    ref->rope(yb, n, neox, c, s);
    box_same(&a, &b, n, neox ? "rope neox" : "rope");
    for (uint32_t i = 0; i < n / 2; i++) {
        uint32_t p = neox ? i : 2 * i, q = neox ? i + n / 2 : 2 * i + 1;
        double want = (double)x[p] * (double)c[i] - (double)x[q] * (double)s[i];
        double want2 = (double)x[q] * (double)c[i] + (double)x[p] * (double)s[i];
        CHECK(fabs((double)yb[p] - want) < 2e-6 && fabs((double)yb[q] - want2) < 2e-6, "rope %u",
              n);
    }
}

static void check_half(const struct kern_vec *v)
{
    static uint16_t h[65536 + 2], back[65536 + 2];
    static float f[65536 + 1];
    for (uint32_t i = 0; i < 65536; i++)
        h[i + 1] = (uint16_t)i;
    v->f16_to_f32(h + 1, f + 1, 65536);
    for (uint32_t i = 0; i < 65536; i++) {
        float want = qtype_f16_to_f32((uint16_t)i);
        CHECK(same(f[i + 1], want), "f16 %04x", i);
    }
    v->f32_to_f16(f + 1, back + 1, 65536);
    for (uint32_t i = 0; i < 65536; i++)
        CHECK(back[i + 1] == (isnan(f[i + 1]) ? i | 0x200 : i), "f16 %04x back", i);
    for (int round = 0; round < 2000; round++) {
        uint32_t n = 1 + rnd() % 40;
        float x[40];
        uint16_t y[42];
        memset(y, 0xab, sizeof y);
        for (uint32_t i = 0; i < n; i++)
            x[i] = ldexpf(rnd_f(1), (int)(rnd() % 44) - 26);
        v->f32_to_f16(x, y + 1, n);
        for (uint32_t i = 0; i < n; i++)
            CHECK(y[i + 1] == qtype_f32_to_f16(x[i]), "f32_to_f16(%.9g)", (double)x[i]);
        CHECK(y[0] == 0xabab && y[n + 1] == 0xabab, "f32_to_f16 guards");
        float g[42];
        memset(g, 0, sizeof g);
        v->f16_to_f32(y + 1, g + 1, n);
        CHECK(g[0] == 0 && g[n + 1] == 0, "f16_to_f32 guards");
    }
}

static void check_attention(const struct kern_vec *v, const struct kern_vec *ref, uint32_t dim,
                            uint32_t n_keys)
{
    static struct box a, b;
    static uint16_t k[160 * MAX];
    float q[MAX], p[160];
    size_t stride = dim + 7;
    fill(q, dim, 1);
    fill(p, n_keys, 1);
    for (size_t i = 0; i < n_keys * stride; i++)
        k[i] = qtype_f32_to_f16(rnd_f(2));
    float *ya = box_open(&a, NULL, n_keys), *yb = box_open(&b, NULL, n_keys);
    v->dot_keys_f16(q, k, stride, n_keys, dim, ya);
    ref->dot_keys_f16(q, k, stride, n_keys, dim, yb);
    box_same(&a, &b, n_keys, "dot_keys_f16");
    for (uint32_t j = 0; j < n_keys; j++) {
        double want = 0;
        for (uint32_t i = 0; i < dim; i++)
            want += (double)q[i] * (double)qtype_f16_to_f32(k[j * stride + i]);
        CHECK(fabs((double)yb[j] - want) < 1e-6 * dim, "dot_keys_f16 %u", dim);
        float one; /* a key's score does not depend on how many keys there are */
        v->dot_keys_f16(q, k + j * stride, stride, 1, dim, &one);
        CHECK(same(one, ya[j]), "dot_keys_f16: key %u of %u", j, n_keys);
    }
    float acc[MAX];
    fill(acc, dim, 1);
    ya = box_open(&a, acc, dim), yb = box_open(&b, acc, dim);
    v->acc_values_f16(ya, 0.75f, p, k, stride, n_keys, dim);
    ref->acc_values_f16(yb, 0.75f, p, k, stride, n_keys, dim);
    box_same(&a, &b, dim, "acc_values_f16");
    for (uint32_t i = 0; i < dim; i++) {
        double want = 0.75 * (double)acc[i];
        for (uint32_t j = 0; j < n_keys; j++)
            want += (double)p[j] * (double)qtype_f16_to_f32(k[j * stride + i]);
        CHECK(fabs((double)yb[i] - want) < 1e-6 * (n_keys + 1), "acc_values_f16");
    }
}

static void bench(const struct kern *kern)
{
    enum { DIM = 128, KEYS = 1024, N = 4096 };
    static uint16_t k[DIM * KEYS];
    static float x[N], y[N], z[N];
    const struct kern_vec *v = kern->vec;
    fill(x, N, 1);
    fill(y, N, 1);
    for (size_t i = 0; i < DIM * KEYS; i++)
        k[i] = qtype_f32_to_f16(rnd_f(1));
    double best[5] = {1e9, 1e9, 1e9, 1e9, 1e9};
    for (int round = 0; round < 200; round++) {
        uint64_t t[6];
        t[0] = clock_mono_ns();
        v->dot_keys_f16(x, k, DIM, KEYS, DIM, z);
        t[1] = clock_mono_ns();
        v->acc_values_f16(z, 1, x, k, DIM, KEYS, DIM);
        t[2] = clock_mono_ns();
        v->silu_mul(z, x, y, N);
        t[3] = clock_mono_ns();
        v->rms_norm(x, y, N, 1e-5f, z);
        t[4] = clock_mono_ns();
        memcpy(z, x, sizeof z);
        v->exp_sum(z, N, 1);
        t[5] = clock_mono_ns();
        for (int i = 0; i < 5; i++)
            best[i] = fmin(best[i], (double)(t[i + 1] - t[i]));
    }
    static const char *const names[] = {"dot_keys_f16", "acc_values_f16", "silu_mul", "rms_norm",
                                        "exp_sum"};
    for (int i = 0; i < 5; i++)
        printf("%-7s %-15s %.2f elements/ns\n", kern->name, names[i],
               (i < 2 ? DIM * KEYS : N) / best[i]);
}

int main(int argc, char **argv)
{
    const struct kern *kern;
    struct err e;
    if (kern_get(&kern, &e) != 0) {
        printf("%s: skipped\n", e.msg);
        return 77;
    }
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench(kern);
        return 0;
    }
    const struct kern_vec *v = kern->vec, *ref = kern_at_level(KERN_REF)->vec;
    static const uint32_t sizes[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 576};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        check_n(v, ref, sizes[i]);
        check_rope(v, ref, sizes[i] & ~1u, false);
        check_rope(v, ref, sizes[i] & ~1u, true);
    }
    CHECK(v->max_f32(NULL, 0) == -INFINITY, "max of nothing");
    check_exp(v);
    check_half(v);
    static const uint32_t dims[] = {4, 16, 20, 64, 80, 96, 100, 128, 192, 256, 300};
    static const uint32_t keys[] = {1, 3, 4, 5, 16, 37};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
        for (size_t j = 0; j < sizeof keys / sizeof keys[0]; j++)
            check_attention(v, ref, dims[i], keys[j]);
    printf("%s ok\n", kern->name);
    return 0;
}
