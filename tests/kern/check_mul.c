/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix kernels of the level in QUIRE_CPU against the decoder and against the reference.
 *
 * Bounds. Every level must give the reference's bits (kern_impl.h says the arithmetic).
 * Against exact arithmetic in double on the decoded weights:
 * - with the activations as rounded by act_convert, each of the cols / 32 partial sums is
 *   rounded a few times in f32: 2^-22 of sum |w x| per row;
 * - the rounding of activations itself is half a step of amax / 127 per element.
 * One token alone must equal the same token in any batch.
 *
 * --bench [TYPE]: GB/s of file weights with 1 token, from memory and from the cache; Gop/s with
 * more tokens, of float types also as percent of the float multiply-adds that the core does. */
#include "quant/kern.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(cond, ...)                                                                           \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #cond);                                      \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static const enum qtype all_types[] = {QT_F32,  QT_F16,  QT_BF16, QT_Q4_0,   QT_Q4_1,
                                       QT_Q5_0, QT_Q5_1, QT_Q8_0, QT_Q4_K,   QT_Q5_K,
                                       QT_Q6_K, QT_Q2_K, QT_Q3_K, QT_IQ4_NL, QT_IQ4_XS};
enum { N_TYPES = sizeof all_types / sizeof all_types[0] };

static uint64_t seed = 88172645463325252u;

static uint32_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 16);
}

static float rnd_f(void)
{
    return ((float)(rnd() & 0xffffff) - 8388608.0f) / 8388608.0f;
}

static void *room(size_t n)
{
    void *p = NULL;
    CHECK(posix_memalign(&p, 64, n ? (n + 63) & ~(size_t)63 : 64) == 0, "no memory");
    return p;
}

/* Random file blocks: random codes, sane f16 scales (some zero, some subnormal). */
static void fill_weights(const struct qtype_info *t, uint8_t *p, size_t n_blocks)
{
    static const struct {
        enum qtype type;
        int at[2];
    } scale_at[] = {{QT_Q4_0, {0, -1}},   {QT_Q4_1, {0, 2}},    {QT_Q5_0, {0, -1}},
                    {QT_Q5_1, {0, 2}},    {QT_Q8_0, {0, -1}},   {QT_Q4_K, {0, 2}},
                    {QT_Q5_K, {0, 2}},    {QT_Q6_K, {208, -1}}, {QT_Q2_K, {80, 82}},
                    {QT_Q3_K, {108, -1}}, {QT_IQ4_NL, {0, -1}}, {QT_IQ4_XS, {0, -1}}};
    for (size_t b = 0; b < n_blocks; b++, p += t->block_bytes) {
        if (t->block_len == 1) {
            float f = rnd_f();
            uint16_t h = t->id == QT_F16 ? qtype_f32_to_f16(f) : qtype_f32_to_bf16(f);
            if (t->id == QT_F32)
                memcpy(p, &f, 4);
            else
                memcpy(p, &h, 2);
            continue;
        }
        for (uint32_t i = 0; i < t->block_bytes; i++)
            p[i] = (uint8_t)rnd();
        for (size_t s = 0; s < sizeof scale_at / sizeof scale_at[0]; s++)
            for (int k = 0; k < 2 && scale_at[s].type == t->id && scale_at[s].at[k] >= 0; k++) {
                float f = rnd() % 16 ? rnd_f() * 0.01f : rnd() % 2 ? 0 : 0x1p-20f;
                uint16_t h = qtype_f32_to_f16(f);
                memcpy(p + scale_at[s].at[k], &h, 2);
            }
    }
}

struct problem {
    const struct kern_type *k;
    uint32_t rows, cols, n_tokens;
    uint8_t *file; /* rows at an odd address */
    float *x;      /* [n_tokens][cols] */
};

/* Pack, convert and multiply; the outputs stand in a wider matrix full of guards. */
static float *multiply(const struct kern *kern, const struct problem *pr, uint32_t first,
                       uint32_t n_tokens, size_t ld)
{
    struct kern_mat m;
    struct err e;
    CHECK(kern_mat_init(&m, kern, pr->k->type->id, pr->rows, pr->cols, &e) == 0, "%s", e.msg);
    size_t bytes = kern_mat_bytes(&m), act_bytes = m.k->act_bytes(pr->cols);
    CHECK(m.panel_bytes % 64 == 0 && act_bytes % 64 == 0, "sizes");
    uint8_t *packed = room(bytes + 64), *acts = room(act_bytes * n_tokens + 64);
    memset(packed + bytes, 0xa5, 64);
    memset(acts + act_bytes * n_tokens, 0xa5, 64);
    /* In two parts, as two threads would. */
    kern_mat_pack(&m, pr->file, 0, m.n_panels / 2, packed);
    kern_mat_pack(&m, pr->file, m.n_panels / 2, m.n_panels, packed);
    m.data = packed;
    for (uint32_t t = 0; t < n_tokens; t++)
        m.k->act_convert(pr->x + (size_t)(first + t) * pr->cols, pr->cols, acts + t * act_bytes);
    for (int i = 0; i < 64; i++)
        CHECK(packed[bytes + (size_t)i] == 0xa5 && acts[act_bytes * n_tokens + (size_t)i] == 0xa5,
              "%s wrote past its room", m.k->type->name);
    float *out = room((ld * n_tokens + 32) * sizeof *out);
    for (size_t i = 0; i < ld * n_tokens + 32; i++)
        out[i] = -12345.0f;
    kern_mat_mul(&m, 0, m.n_panels / 2, acts, n_tokens, out + 16, ld);
    kern_mat_mul(&m, m.n_panels / 2, m.n_panels, acts, n_tokens, out + 16, ld);
    for (size_t i = 0; i < ld * n_tokens + 32; i++) {
        bool inside = i >= 16 && i < 16 + ld * n_tokens && (i - 16) % ld < pr->rows;
        CHECK(inside || out[i] == -12345.0f, "%s rows %u: guard %zu overwritten", m.k->type->name,
              pr->rows, i);
    }
    free(packed);
    free(acts);
    return out;
}

static void check_exact(const struct problem *pr, const float *out, size_t ld)
{
    const struct qtype_info *t = pr->k->type;
    size_t row_bytes = qtype_row_bytes(t, pr->cols);
    float *w = room(pr->cols * sizeof *w);
    for (uint32_t r = 0; r < pr->rows; r++) {
        t->decode(pr->file + r * row_bytes, w, pr->cols);
        for (uint32_t tok = 0; tok < pr->n_tokens; tok++) {
            const float *x = pr->x + (size_t)tok * pr->cols;
            double want = 0, size = 0, slack = 0;
            for (uint32_t c = 0; c < pr->cols; c++) {
                want += (double)w[c] * (double)x[c];
                size += fabs((double)w[c] * (double)x[c]);
            }
            if (t->block_len > 1)
                for (uint32_t b = 0; b < pr->cols; b += 32) {
                    double amax = 0, sum = 0;
                    for (uint32_t c = b; c < b + 32; c++) {
                        amax = fmax(amax, fabs((double)x[c]));
                        sum += fabs((double)w[c]);
                    }
                    slack += sum * amax / 127 * 0.501;
                    size += sum * amax;
                }
            /* The terms before offsets and minima are taken off are larger than w itself. */
            double bound = slack + size * 64 * 0x1p-22 + 1e-30;
            double got = (double)out[16 + tok * ld + r];
            CHECK(fabs(got - want) <= bound, "%s %ux%u token %u row %u: %.9g, exact %.9g +- %.3g",
                  t->name, pr->rows, pr->cols, tok, r, got, want, bound);
        }
    }
    free(w);
}

static void check_one(const struct kern *kern, enum qtype type, uint32_t rows, uint32_t cols,
                      uint32_t n_tokens)
{
    struct problem pr = {kern->find(type), rows, cols, n_tokens, NULL, NULL};
    size_t row_bytes = qtype_row_bytes(pr.k->type, cols), ld = rows + 3;
    uint8_t *file = room(rows * row_bytes + 2);
    pr.file = file + 1;
    fill_weights(pr.k->type, pr.file, rows * (cols / pr.k->type->block_len));
    pr.x = room((size_t)cols * n_tokens * sizeof(float));
    for (size_t i = 0; i < (size_t)cols * n_tokens; i++) {
        float scale = i / 32 % 7 == 3 ? 0 : i / 32 % 7 == 5 ? 1e4f : 1;
        pr.x[i] = rnd_f() * scale;
    }
    float *out = multiply(kern, &pr, 0, n_tokens, ld);
    check_exact(&pr, out, ld);
    float *ref = multiply(kern_at_level(KERN_REF), &pr, 0, n_tokens, ld);
    for (uint32_t t = 0; t < n_tokens; t++)
        for (uint32_t r = 0; r < rows; r++)
            CHECK(memcmp(&out[16 + t * ld + r], &ref[16 + t * ld + r], 4) == 0,
                  "%s %ux%u token %u of %u row %u: %.9g, reference %.9g", pr.k->type->name, rows,
                  cols, t, n_tokens, r, (double)out[16 + t * ld + r], (double)ref[16 + t * ld + r]);
    for (uint32_t t = 0; t < n_tokens; t += n_tokens > 100 ? 17 : 1) {
        float *one = multiply(kern, &pr, t, 1, ld);
        CHECK(memcmp(one + 16, out + 16 + t * ld, rows * 4) == 0,
              "%s %ux%u: token %u of %u differs from the token alone", pr.k->type->name, rows, cols,
              t, n_tokens);
        free(one);
    }
    free(out);
    free(ref);
    free(file);
    free(pr.x);
}

static void check_type(const struct kern *kern, enum qtype type)
{
    static const uint32_t cols[] = {1, 31, 32, 64, 129, 255, 256, 288, 512, 576, 896};
    static const uint32_t tokens[] = {1, 2, 3, 4, 5, 7, 8, 9, 13, 17, 67};
    const struct kern_type *k = kern->find(type);
    CHECK(k, "no kernel for type %s", qtype_id_name(type));
    uint32_t r = k->panel_rows;
    const uint32_t rows[] = {1, r - 1, r, r + 1, 3 * r + 5};
    for (size_t c = 0; c < sizeof cols / sizeof cols[0]; c++) {
        if (cols[c] % k->type->block_len)
            continue;
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
            for (size_t t = 0; t < sizeof tokens / sizeof tokens[0]; t++)
                if ((c + i + t) % 3 == 0 || rows[i] == 3 * r + 5) /* a third of the small ones */
                    check_one(kern, type, rows[i], cols[c], tokens[t]);
    }
    /* More columns than all panels pass over at once. */
    check_one(kern, type, 4 * r + 1, 2304, 128);
    printf("%-7s %-7s ok (%u rows)\n", kern->name, k->type->name, r);
}

/* Activations: codes and sums of all levels are the reference's, also for odd input. */
static void check_act(const struct kern *kern)
{
    const struct kern_type *k = kern->find(QT_Q8_0), *ref = kern_at_level(KERN_REF)->find(QT_Q8_0);
    enum { COLS = 512 };
    float x[COLS];
    uint8_t *a = room(k->act_bytes(COLS)), *b = room(k->act_bytes(COLS));
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < COLS; i++) {
            x[i] = rnd_f() * powf(10, (float)((round + i / 32) % 40 - 30));
            if (round % 5 == 1 && i % 32 == 7)
                x[i] = i % 3 ? NAN : INFINITY;
            if (round % 5 == 2)
                x[i] = i / 32 % 2 ? 0 : ((float)(rnd() % 255) - 127) / 2; /* halfway cases */
        }
        k->act_convert(x, COLS, a);
        ref->act_convert(x, COLS, b);
        CHECK(memcmp(a, b, k->act_bytes(COLS)) == 0, "converted activations, round %d", round);
    }
    free(a);
    free(b);
}

/* Which columns stand apart: the largest of the block with the largest amplitude, the first of
 * equal ones, while that is above twice the mean. Also where very many blocks are high. */
static void check_choice(const struct kern *kern)
{
    enum { COLS = 2048, BLOCKS = COLS / 32 };
    const struct kern_type *k = kern->find(QT_Q4_1);
    float x[COLS], left[COLS], d[BLOCKS];
    uint8_t *a = room(k->act_bytes(COLS)), *b = room(k->act_bytes(COLS));
    for (int round = 0; round < 300; round++) {
        struct kern_outliers o;
        float sum = 0;
        uint32_t n = 0, n_high = (uint32_t)round % 14;
        for (uint32_t i = 0; i < COLS; i++)
            x[i] = rnd_f();
        for (uint32_t i = 0; i < n_high; i++) /* of few sizes, so that some are equal */
            x[rnd() % COLS] = (i % 2 ? 1.0f : -1.0f) * (float)(50 + rnd() % 4);
        if (round % 7 == 3)
            x[rnd() % COLS] = NAN;
        memcpy(left, x, sizeof left);
        kern_act_convert(k, x, COLS, a, &o);
        for (bool first = true;; first = false) {
            uint32_t block = 0, column = 0;
            for (uint32_t i = 0; i < BLOCKS; i++) {
                float most = 0;
                for (uint32_t c = 0; c < 32; c++)
                    most = fmaxf(most, fabsf(left[32 * i + c]));
                d[i] = most / 127.0f;
                sum += first ? d[i] : 0;
                block = d[i] > d[block] ? i : block;
            }
            if (n == KERN_OUTLIERS || !(d[block] > 2.0f * sum / BLOCKS))
                break;
            for (uint32_t c = 32 * block, most = c; c < 32 * block + 32; c++) {
                most = fabsf(left[c]) > fabsf(left[most]) || isnan(left[most]) ? c : most;
                column = most;
            }
            CHECK(n < o.n && o.column[n] == column && o.x[n] == x[column],
                  "outlier %u of round %d is column %u", n, round, column);
            left[column] = 0;
            n++;
        }
        CHECK(o.n == n, "%u outliers in round %d, not %u", o.n, round, n);
        k->act_convert(left, COLS, b);
        CHECK(memcmp(a, b, k->act_bytes(COLS)) == 0, "what outliers leave, round %d", round);
    }
    free(a);
    free(b);
}

/* Rows with a few activations far above the rest: taken out, multiplied apart. */
struct spiky {
    uint32_t rows, cols, n_tokens;
    const uint8_t *file;
    float *x;
    struct kern_outliers *o;
    uint8_t *acts;
};

static float *multiply_spiky(const struct kern *kern, enum qtype type, struct spiky *p)
{
    struct kern_mat m;
    struct err e;
    CHECK(kern_mat_init(&m, kern, type, p->rows, p->cols, &e) == 0, "%s", e.msg);
    size_t act_bytes = m.k->act_bytes(p->cols), n_out = (size_t)p->rows * p->n_tokens;
    uint8_t *packed = room(kern_mat_bytes(&m));
    float *out = room((n_out + 16) * sizeof *out);
    p->acts = room(act_bytes * p->n_tokens);
    p->o = room(p->n_tokens * sizeof *p->o);
    memset(p->o, 0, p->n_tokens * sizeof *p->o);
    kern_mat_pack(&m, p->file, 0, m.n_panels, packed);
    m.data = packed;
    for (uint32_t t = 0; t < p->n_tokens; t++)
        kern_act_convert(m.k, p->x + (size_t)t * p->cols, p->cols, p->acts + t * act_bytes,
                         &p->o[t]);
    for (size_t i = 0; i < n_out + 16; i++)
        out[i] = -12345.0f;
    kern_mat_mul(&m, 0, m.n_panels, p->acts, p->n_tokens, out, p->rows);
    for (uint32_t i = 0; i < m.n_panels; i++) {
        uint32_t from = i * m.k->panel_rows, left = p->rows - from;
        uint32_t n_rows = left < m.k->panel_rows ? left : m.k->panel_rows;
        uint32_t together = i % 2 ? 1 : p->n_tokens; /* the same alone and in a batch */
        for (uint32_t t = 0; t < p->n_tokens; t += together)
            m.k->outliers_add(packed + i * m.panel_bytes, n_rows, p->o + t, together,
                              out + (size_t)t * p->rows + from, p->rows);
    }
    for (size_t i = n_out; i < n_out + 16; i++)
        CHECK(out[i] == -12345.0f, "%s: guard %zu overwritten", m.k->type->name, i - n_out);
    free(packed);
    return out;
}

/* Against double on the decoded weights; only what is no outlier is rounded. */
static void check_spiky(const struct qtype_info *t, const struct spiky *p, const float *out)
{
    float *w = room(p->cols * sizeof *w), *rest = room(p->cols * sizeof *rest);
    for (uint32_t tok = 0; tok < p->n_tokens; tok++) {
        const float *x = p->x + (size_t)tok * p->cols;
        memcpy(rest, x, p->cols * sizeof *rest);
        for (uint32_t i = 0; i < p->o[tok].n; i++) {
            CHECK(p->o[tok].column[i] < p->cols && p->o[tok].x[i] == x[p->o[tok].column[i]],
                  "%s: outlier %u of token %u", t->name, i, tok);
            rest[p->o[tok].column[i]] = 0;
        }
        for (uint32_t r = 0; r < p->rows; r++) {
            double want = 0, bound = 1e-30;
            t->decode(p->file + r * qtype_row_bytes(t, p->cols), w, p->cols);
            for (uint32_t b = 0; b < p->cols; b += 32) {
                double amax = 0, sum = 0;
                for (uint32_t c = b; c < b + 32; c++) {
                    want += (double)w[c] * (double)x[c];
                    bound += fabs((double)w[c] * (double)x[c]) * 0x1p-16;
                    amax = fmax(amax, fabs((double)rest[c]));
                    sum += fabs((double)w[c]);
                }
                bound += sum * amax * (0.501 / 127 + 0x1p-16);
            }
            double got = (double)out[(size_t)tok * p->rows + r];
            CHECK(fabs(got - want) <= bound, "%s token %u row %u: %.9g, exact %.9g +- %.3g",
                  t->name, tok, r, got, want, bound);
        }
    }
    free(w);
    free(rest);
}

static void check_outliers(const struct kern *kern, enum qtype type)
{
    const struct kern_type *k = kern->find(type);
    const struct qtype_info *t = k->type;
    if (!k->outliers_add) {
        CHECK(t->block_len == 1, "%s rounds activations and has no outliers_add", t->name);
        return;
    }
    struct spiky p = {.rows = 37, .cols = t->block_len == 32 ? 576 : 768, .n_tokens = 11};
    size_t bytes = p.rows * qtype_row_bytes(t, p.cols);
    uint8_t *file = room(bytes);
    fill_weights(t, file, bytes / t->block_bytes);
    p.file = file;
    p.x = room((size_t)p.n_tokens * p.cols * sizeof *p.x);
    for (uint32_t i = 0; i < p.n_tokens * p.cols; i++)
        p.x[i] = rnd_f();
    /* Token n has n outliers: mostly in the columns of the others, two in one block, one last. */
    for (uint32_t tok = 0; tok < 8; tok++) {
        static const uint32_t columns[] = {5, 290, 291, 575, 33, 97, 130};
        for (uint32_t i = 0; i < tok; i++)
            p.x[tok * p.cols + columns[i]] = (i % 2 ? -20.0f : 30.0f) + rnd_f();
    }
    memset(p.x + 8 * p.cols, 0, p.cols * sizeof *p.x);
    p.x[9 * p.cols + 40] = INFINITY; /* whatever comes out: no harm */
    p.x[10 * p.cols + 41] = NAN;

    struct spiky q = p;
    float *out = multiply_spiky(kern, type, &p);
    float *ref = multiply_spiky(kern_at_level(KERN_REF), type, &q);
    for (uint32_t tok = 0; tok < 8; tok++)
        CHECK(p.o[tok].n == (tok < KERN_OUTLIERS ? tok : KERN_OUTLIERS), "%s token %u: %u outliers",
              t->name, tok, p.o[tok].n);
    CHECK(p.o[8].n == 0, "%s: outliers among zeros", t->name);
    CHECK(memcmp(p.o, q.o, p.n_tokens * sizeof *p.o) == 0, "%s: other outliers", t->name);
    CHECK(memcmp(p.acts, q.acts, p.n_tokens * k->act_bytes(p.cols)) == 0, "%s: other codes",
          t->name);
    CHECK(memcmp(out, ref, (size_t)p.rows * 9 * sizeof *out) == 0, "%s: not the reference's bits",
          t->name);
    p.n_tokens = 9;
    check_spiky(t, &p, out);
    free(p.o);
    free(p.acts);
    free(q.o);
    free(q.acts);
    free(p.x);
    free(file);
    free(out);
    free(ref);
}

/* Time of this thread alone: other programs on the machine count less. */
static uint64_t cpu_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Fused multiply-adds of floats that depend on nothing: operations in FMA_ROUNDS rounds, 0 where
 * this level has no such loop. */
enum { FMA_ROUNDS = 4000 };
#if defined(__x86_64__)
#define FMA_LOOP(isa, type, constraint)                                                            \
    __attribute__((target(isa))) static double fma_loop_##type(void)                               \
    {                                                                                              \
        type x = {0}, s[12] = {{0}};                                                               \
        for (int r = 0; r < FMA_ROUNDS; r++)                                                       \
            for (int i = 0; i < 12; i++)                                                           \
                __asm__ volatile("vfmadd231ps %1, %1, %0" : "+" constraint(s[i]) : constraint(x)); \
        return FMA_ROUNDS * 12.0 * 2 * sizeof(type) / sizeof(float);                               \
    }
typedef float floats_8 __attribute__((vector_size(32)));
typedef float floats_16 __attribute__((vector_size(64)));
FMA_LOOP("avx2,fma", floats_8, "x")
FMA_LOOP("avx512f", floats_16, "v")
#endif

static double fma_loop(enum kern_level level)
{
#if defined(__x86_64__)
    if (level == KERN_AVX512)
        return fma_loop_floats_16();
    if (level == KERN_AVX2)
        return fma_loop_floats_8();
#endif
    (void)level;
    return 0;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* n_tokens through the first n panels, in cache: Gop/s of the best round; for types that multiply
 * floats also percent of what a loop of multiply-adds did beside it, the median of rounds. */
static void bench_tokens(const struct kern *kern, const struct kern_mat *m, uint32_t n,
                         const void *acts, uint32_t n_tokens, float *out)
{
    enum { ROUNDS = 51 };
    double best = 1e9, percent[ROUNDS], ops = 2.0 * n * m->k->panel_rows * m->cols * n_tokens;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t t0 = cpu_ns();
        double loop = m->k->outliers_add ? 0 : fma_loop(kern->level);
        uint64_t t1 = cpu_ns();
        kern_mat_mul(m, 0, n, acts, n_tokens, out, m->rows);
        double s = 1e-9 * (double)(cpu_ns() - t1), speed = 1e-9 * (double)(t1 - t0) / s;
        percent[round] = loop > 0 ? 100 * ops / loop * speed : 0;
        best = fmin(best, s);
    }
    qsort(percent, ROUNDS, sizeof *percent, by_size);
    printf("  %6.1f", 1e-9 * ops / best);
    if (percent[ROUNDS / 2] > 0)
        printf(" %3.0f%%", percent[ROUNDS / 2]);
}

static void bench(const struct kern *kern, const char *only)
{
    enum { ROWS = 4096, COLS = 4096, TOKENS = 64, N = 7 };
    static const uint32_t n_tokens[N] = {2, 3, 4, 6, 8, 16, 64};
    printf("%-7s %8s %8s %9s", kern->name, "GB/s", "in cache", "pack GB/s");
    for (int k = 0; k < N; k++)
        printf("  t=%-4u", n_tokens[k]);
    printf(" Gop/s\n");
    for (size_t i = 0; i < N_TYPES; i++) {
        struct kern_mat m;
        struct err e;
        if (only && qtype_by_name(only) != qtype_info(all_types[i]))
            continue;
        /* Several copies, so that the weights come from memory. */
        CHECK(kern_mat_init(&m, kern, all_types[i], ROWS, COLS, &e) == 0, "%s", e.msg);
        size_t bytes = kern_mat_bytes(&m), act_bytes = m.k->act_bytes(COLS);
        size_t row_bytes = qtype_row_bytes(m.k->type, COLS), file_bytes = ROWS * row_bytes;
        size_t copies = (400u << 20) / bytes;
        uint8_t *file = room(file_bytes), *packed = room(bytes * copies);
        uint8_t *acts = room(act_bytes * TOKENS);
        float *out = room(sizeof(float) * ROWS * TOKENS), *x = room(COLS * sizeof *x);
        fill_weights(m.k->type, file, file_bytes / m.k->type->block_bytes);
        for (size_t c = 0; c < copies; c++)
            memset(packed + c * bytes, 0, bytes);
        uint64_t t0 = cpu_ns();
        kern_mat_pack(&m, file, 0, m.n_panels, packed);
        double pack_s = 1e-9 * (double)(cpu_ns() - t0);
        for (size_t c = 1; c < copies; c++)
            memcpy(packed + c * bytes, packed, bytes);
        for (int t = 0; t < TOKENS; t++) {
            for (int c = 0; c < COLS; c++)
                x[c] = rnd_f();
            m.k->act_convert(x, COLS, acts + (size_t)t * act_bytes);
        }
        m.data = packed;
        kern_tune(&m);
        double best = 1e9;
        for (int round = 0; round < 3; round++) {
            t0 = cpu_ns();
            for (size_t c = 0; c < copies; c++) {
                m.data = packed + c * bytes;
                kern_mat_mul(&m, 0, m.n_panels, acts, 1, out, ROWS);
            }
            best = fmin(best, 1e-9 * (double)(cpu_ns() - t0) / (double)copies);
        }
        /* The same from the second-level cache: what the arithmetic alone allows. */
        uint32_t few = (uint32_t)((1u << 20) / m.panel_bytes);
        double hot = 1e9;
        for (int round = 0; round < 50; round++) {
            t0 = cpu_ns();
            kern_mat_mul(&m, 0, few, acts, 1, out, ROWS);
            hot = fmin(hot, 1e-9 * (double)(cpu_ns() - t0));
        }
        hot = (double)(few * m.k->panel_rows * row_bytes) / hot;
        printf("%-7s %8.2f %8.2f %9.2f", m.k->type->name, 1e-9 * (double)file_bytes / best,
               1e-9 * hot, 1e-9 * (double)file_bytes / pack_s);
        for (int k = 0; k < N; k++)
            bench_tokens(kern, &m, few, acts, n_tokens[k], out);
        printf("\n");
        fflush(stdout);
        free(file);
        free(packed);
        free(acts);
        free(out);
        free(x);
    }
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
        bench(kern, argc > 2 ? argv[2] : NULL);
        return 0;
    }
    check_act(kern);
    check_choice(kern);
    for (size_t i = 0; i < N_TYPES; i++)
        check_type(kern, all_types[i]);
    for (size_t i = 0; i < N_TYPES; i++)
        check_outliers(kern, all_types[i]);
    return 0;
}
