/* SPDX-License-Identifier: Apache-2.0 */
/* kern_impl.h - what the kernel files of all levels share: packed layouts and the tables.
 * A change of a layout raises KERN_LAYOUT_VERSION (kern.h).
 * Internal to quant/. Everything here is constant after kern_get's first call.
 *
 * Quantised panel of R rows, K walked in file blocks ("supers") of 32 or 256 columns:
 *
 *   super: [head] then per 32 columns [scales][low plane][high plane]
 *
 *   head    f16 d[R] (and f16 -dmin[R]) for 256-wide types, nothing for 32-wide ones
 *   scales  KERN_D    f16 d[R]
 *           KERN_DM   f16 d[R], f16 m[R]
 *           KERN_KDM  u8 scale[R], u8 min[R]                  (Q4_K, Q5_K)
 *           KERN_K32  i8 scale[R]                             (IQ4_XS)
 *           KERN_K16  i8 scale[2][R], one per 16 columns      (Q3_K, Q6_K)
 *           KERN_K16M u8 scale[2][R], u8 min[2][R]            (Q2_K)
 *   low     byte 4R g + 4r + j, g < 4, j < 4: column 8g + j of row r in the low nibble, column
 *           8g + 4 + j in the high one. 8-bit codes: byte 4R g + 4r + j, g < 8: column 4g + j
 *   high    5 bits: byte 4r + j, bit g: fifth bit of column 4g + j, g < 8
 *           6 bits: byte 4R h + 4r + j, bits 2g and 2g+1: of column 16h + 4g + j, h < 2, g < 4
 *
 * So a 4R-byte load holds for every row (32-bit lane) four neighbouring columns: an operand of
 * a dot product against four activation codes broadcast to all lanes. Codes are unsigned;
 * the offset of signed types is taken from the integer sum by means of the activations'
 * sums, exactly. Sub-scales stay integers: d times them is exact in f32.
 *
 * What every level computes, bit for bit, per row, token and 32 columns, in column order:
 *
 *   i = sum code[c] * q[c] - offset * sum q[c]                       exact in i32 and f32
 *   t = f32(i) * scale;  t = fma(minimum, sum q[c], t)               (second part: if any)
 *   16-wide scales: t = f32(i0) * scale0; t = fma(f32(i1), scale1, t); then the minima
 *   acc = fma(t, d of the activations, acc)
 *
 * Outliers of the activations come after all columns: kern_outlier_simd.h.
 *
 * F32, F16, BF16: panel [column][R]; per row, token and KERN_PLAIN_BLOCK columns (the last may be
 * fewer), even and odd columns have an accumulator each, from zero, fma in column order;
 * sum = sum + even; sum = sum + odd. */
#ifndef QUIRE_QUANT_KERN_IMPL_H
#define QUIRE_QUANT_KERN_IMPL_H

#include "quant/kern.h"

#include <stdatomic.h>

enum kern_scales { KERN_D, KERN_DM, KERN_KDM, KERN_K32, KERN_K16, KERN_K16M };

/* One quantised type. offset: what the code of zero is (0, 4, 8, 16, 32, 128). */
struct kern_shape {
    enum qtype type;
    unsigned bits; /* 4, 5, 6 or 8 */
    enum kern_scales scales;
    int offset;
    bool iq4; /* codes stand for qtype_iq4_values, used as value + 128 */
};

/* X(name, bits, scales, offset, iq4) */
#define KERN_SHAPES(X)                                                                             \
    X(Q4_0, 4, KERN_D, 8, false)                                                                   \
    X(Q4_1, 4, KERN_DM, 0, false)                                                                  \
    X(Q5_0, 5, KERN_D, 16, false)                                                                  \
    X(Q5_1, 5, KERN_DM, 0, false)                                                                  \
    X(Q8_0, 8, KERN_D, 128, false)                                                                 \
    X(Q2_K, 4, KERN_K16M, 0, false)                                                                \
    X(Q3_K, 4, KERN_K16, 4, false)                                                                 \
    X(Q4_K, 4, KERN_KDM, 0, false)                                                                 \
    X(Q5_K, 5, KERN_KDM, 0, false)                                                                 \
    X(Q6_K, 6, KERN_K16, 32, false)                                                                \
    X(IQ4_NL, 4, KERN_D, 128, true)                                                                \
    X(IQ4_XS, 4, KERN_K32, 128, true)

#define KERN_SHAPE_VALUE(name, bits, scales, offset, iq4)                                          \
    ((struct kern_shape){QT_##name, bits, scales, offset, iq4})

/* Even: a column is even or odd in its block as it is in the row. */
#define KERN_PLAIN_BLOCK 128u

enum kern_act_format { KERN_ACT_F32 = 1, KERN_ACT_Q8 = 2 };

/* Integer sums start at this, which read as a float is KERN_MAGIC_F: then any sum i below 2^22 in
 * size, read as a float, is exactly KERN_MAGIC_F + i, and no level converts integers one by one.
 * fma(that, scale, -KERN_MAGIC_F * scale) is f32(i) * scale rounded once, since magic times scale
 * is exact: a scale has at most 19 significant bits. */
#define KERN_MAGIC   0x4b400000
#define KERN_MAGIC_F 12582912.0f

/* 32 activations: x = d * q. What the integer sums of types with an offset start at: KERN_MAGIC
 * minus the offset times the sum of q. One cache line. */
struct kern_act {
    int8_t q[32];
    float d;
    float sum;
    int32_t start0, start8, start16, start128;
    int32_t start32[2]; /* of each half */
};

/* Below this amplitude a block counts as zero: 127 / amax must stay finite. */
#define KERN_ACT_TINY 1e-35f

/* Everything but the codes, from the largest amplitude and the sums of codes of each half. */
static inline void kern_act_set(struct kern_act *a, float amax, int sum0, int sum1)
{
    int all = sum0 + sum1;
    a->d = amax > KERN_ACT_TINY ? amax / 127.0f : 0;
    a->sum = (float)all;
    a->start0 = KERN_MAGIC;
    a->start8 = KERN_MAGIC - 8 * all;
    a->start16 = KERN_MAGIC - 16 * all;
    a->start128 = KERN_MAGIC - 128 * all;
    a->start32[0] = KERN_MAGIC - 32 * sum0;
    a->start32[1] = KERN_MAGIC - 32 * sum1;
}

static inline uint32_t kern_super_cols(const struct kern_shape *s)
{
    return s->scales == KERN_D || s->scales == KERN_DM ? 32 : 256;
}

static inline size_t kern_head_bytes(const struct kern_shape *s, unsigned r)
{
    switch (s->scales) {
    case KERN_KDM:
    case KERN_K16M:
        return 4 * (size_t)r;
    case KERN_K16:
    case KERN_K32:
        return 2 * (size_t)r;
    default:
        return 0;
    }
}

static inline size_t kern_scale_bytes(const struct kern_shape *s, unsigned r)
{
    switch (s->scales) {
    case KERN_DM:
    case KERN_K16M:
        return 4 * (size_t)r;
    case KERN_K32:
        return r;
    default:
        return 2 * (size_t)r;
    }
}

static inline size_t kern_code_bytes(const struct kern_shape *s, unsigned r)
{
    return 4 * (size_t)s->bits * r;
}

/* Panel layout functions of one type for R = 8 or 16; NULL for an unknown type. */
struct kern_layout {
    enum qtype type;
    size_t (*panel_bytes)(uint32_t cols);
    void (*pack)(const void *rows, size_t row_bytes, uint32_t n_rows, uint32_t cols, void *panel);
};
const struct kern_layout *kern_layout_find(enum qtype type, unsigned r);

/* Rows of the table by type; each level overwrites what it does better. */
enum { KERN_MAX_TYPE = 32 };
struct kern_rows {
    struct kern_type by_type[KERN_MAX_TYPE]; /* panel_mul NULL: no kernel */
};

typedef void kern_panel_mul_fn(const void *panel, uint32_t cols, uint32_t n_rows, const void *acts,
                               uint32_t n_tokens, float *out, size_t ld_out);
typedef void kern_many_mul_fn(const void *panel, size_t panel_bytes, uint32_t cols, uint32_t n_rows,
                              const void *acts, uint32_t n_tokens, float *out, size_t ld_out);

/* How far ahead of the weights in use few-token kernels ask for memory; 0: leave it to the CPU
 * (kern_tune.c decides). */
extern _Atomic size_t kern_ahead_bytes;

static inline size_t kern_ahead(void)
{
    return atomic_load_explicit(&kern_ahead_bytes, memory_order_relaxed);
}

typedef void kern_outliers_fn(const void *panel, uint32_t n_rows, const struct kern_outliers *o,
                              uint32_t n_tokens, float *out, size_t ld_out);

/* Set one row. act_convert of the format is taken from the arguments. */
void kern_rows_set(struct kern_rows *rows, enum qtype type, unsigned r, uint32_t act_format,
                   void (*act_convert)(const float *x, uint32_t cols, void *act),
                   kern_panel_mul_fn *mul, kern_outliers_fn *outliers);
/* And what multiplies many_tokens tokens or more, best block_tokens at once. */
void kern_rows_set_many(struct kern_rows *rows, enum qtype type, uint32_t many_tokens,
                        uint32_t block_tokens, kern_many_mul_fn *mul);

void kern_rows_ref(struct kern_rows *rows);
void kern_rows_avx2(struct kern_rows *rows);
void kern_many_avxvnni(struct kern_rows *rows);
void kern_rows_avx512(struct kern_rows *rows);
void kern_rows_neon(struct kern_rows *rows);

extern const struct kern_vec kern_vec_ref, kern_vec_avx2, kern_vec_avx512, kern_vec_neon;

/* kern_cpu.c: the levels of this build from the weakest on, and the best that the CPU runs. */
struct kern_isa {
    enum kern_level level;
    const char *name;
    void (*rows)(struct kern_rows *rows);
    const struct kern_vec *vec;
};
extern const struct kern_isa kern_isas[];
extern const unsigned kern_isa_count;
enum kern_level kern_cpu_level(void);
bool kern_cpu_avxvnni(void); /* and the AVX2 level */

/* The end of each level's file: panel_mul of every type from the level's shape_mul and plain_mul,
 * and the function that puts them, act_q8 and act_f32 into the table. */
#define KERN_SHAPE_MUL(name, bits, scales, offset, iq4)                                            \
    static void mul_##name(const void *panel, uint32_t cols, uint32_t n_rows, const void *acts,    \
                           uint32_t n_tokens, float *out, size_t ld_out)                           \
    {                                                                                              \
        const struct kern_shape s = KERN_SHAPE_VALUE(name, bits, scales, offset, iq4);             \
        shape_mul(s, panel, cols, n_rows, acts, n_tokens, out, ld_out);                            \
    }
#define KERN_PLAIN_MUL(name)                                                                       \
    static void mul_##name(const void *panel, uint32_t cols, uint32_t n_rows, const void *acts,    \
                           uint32_t n_tokens, float *out, size_t ld_out)                           \
    {                                                                                              \
        plain_mul(QT_##name, panel, cols, n_rows, acts, n_tokens, out, ld_out);                    \
    }
#define KERN_SHAPE_ROW(name, bits, scales, offset, iq4)                                            \
    kern_rows_set(rows, QT_##name, R, KERN_ACT_Q8, act_q8, mul_##name, outliers_##name);
#define KERN_PLAIN_ROW(name)                                                                       \
    kern_rows_set(rows, QT_##name, R, KERN_ACT_F32, act_f32, mul_##name, NULL);
#define KERN_DEFINE_ROWS_AND(function, more)                                                       \
    KERN_SHAPES(KERN_SHAPE_MUL)                                                                    \
    KERN_PLAIN_MUL(F32)                                                                            \
    KERN_PLAIN_MUL(F16)                                                                            \
    KERN_PLAIN_MUL(BF16)                                                                           \
    void function(struct kern_rows *rows)                                                          \
    {                                                                                              \
        KERN_SHAPES(KERN_SHAPE_ROW)                                                                \
        KERN_PLAIN_ROW(F32)                                                                        \
        KERN_PLAIN_ROW(F16)                                                                        \
        KERN_PLAIN_ROW(BF16)                                                                       \
        more                                                                                       \
    }
#define KERN_DEFINE_ROWS(function) KERN_DEFINE_ROWS_AND(function, )

#endif
