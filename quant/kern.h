/* SPDX-License-Identifier: Apache-2.0 */
/* kern.h - matrix kernels of one CPU, chosen once at start.
 *
 * A weight matrix W [rows][cols] is packed into panels of `panel_rows` interleaved rows (16 on
 * AVX-512, 8 elsewhere), so that a vector lane is an output row: no horizontal sums, one
 * sequential read. Activations are converted once per token by act_convert into the form
 * that the weight type wants (int8 blocks of 32 with an f32 scale and the sum of codes for
 * quantised types; f32 for F32, F16 and BF16).
 *
 * Sameness: out[t][r] is reduced over cols in one fixed order that depends on (type, cols)
 * alone, never on n_tokens, the panel range or the thread. GEMV is GEMM with one token.
 *
 * The table is immutable after kern_get's first call; kernels are pure. Any thread. */
#ifndef QUIRE_QUANT_KERN_H
#define QUIRE_QUANT_KERN_H

#include "base/err.h"
#include "quant/qtype.h"

#include <stdbool.h>
#include <stdint.h>

/* Raise it with every change of a packed layout: packed weights that were kept in files under
 * another number are packed anew. */
#define KERN_LAYOUT_VERSION 1

/* Each build has the levels of its architecture, weakest first. */
enum kern_level { KERN_REF, KERN_AVX2, KERN_AVX512, KERN_NEON, KERN_LEVELS };

/* A packed matrix; the memory behind `data` (64-byte aligned) is the caller's. */
struct kern_mat {
    const struct kern_type *k; /* the row of the table that packs and multiplies it */
    uint32_t rows, cols;
    size_t panel_bytes; /* all panels are equal; rows past the end are zero */
    uint32_t n_panels;
    const unsigned char *data;
};

/* Activations that stand so far above the rest of their row that a scale which spans them would
 * leave the others few steps: at most KERN_OUTLIERS columns, multiplied exactly. */
#define KERN_OUTLIERS 4
struct kern_outliers {
    uint32_t n;
    uint32_t column[KERN_OUTLIERS];
    float x[KERN_OUTLIERS];
};

/* One storage type on one ISA level. */
struct kern_type {
    const struct qtype_info *type;
    uint32_t panel_rows;
    /* Bytes of one panel for a matrix of `cols` columns; multiple of 64. */
    size_t (*panel_bytes)(uint32_t cols);
    /* Pack up to panel_rows rows (n_rows valid ones) of file blocks, row_bytes apart. */
    void (*pack)(const void *rows, size_t row_bytes, uint32_t n_rows, uint32_t cols, void *panel);
    /* Bytes of one converted activation row (multiple of 64), and the conversion. */
    size_t (*act_bytes)(uint32_t cols);
    void (*act_convert)(const float *x, uint32_t cols, void *act);
    /* Rows with equal act_format share converted activations (q, k, v of mixed types). */
    uint32_t act_format;
    /* out[t * ld_out + r] = W[row0 + r] . x[t] for one panel: r < n_rows, t < n_tokens.
     * acts are act_bytes(cols) apart. */
    void (*panel_mul)(const void *panel, uint32_t cols, uint32_t n_rows, const void *acts,
                      uint32_t n_tokens, float *out, size_t ld_out);
    /* The same for any number of neighbouring panels, n_rows counting the rows of all; preferred
     * from many_tokens tokens on. NULL: this level has none. */
    void (*many_mul)(const void *panel, size_t panel_bytes, uint32_t cols, uint32_t n_rows,
                     const void *acts, uint32_t n_tokens, float *out, size_t ld_out);
    uint32_t many_tokens;
    /* Tokens that many_mul is fastest with at once; 0: as many as a cache holds. */
    uint32_t block_tokens;
    /* out[t * ld_out + r] += sum of W[row0 + r][column] * x over the outliers o[t] of each token.
     * NULL: activations are not rounded, so there are none. */
    void (*outliers_add)(const void *panel, uint32_t n_rows, const struct kern_outliers *o,
                         uint32_t n_tokens, float *out, size_t ld_out);
};

/* Vector operations on f32, same rule of sameness. n may be anything, pointers unaligned. */
struct kern_vec {
    /* y = x / sqrt(mean(x^2) + eps) * w */
    void (*rms_norm)(const float *x, const float *w, uint32_t n, float eps, float *y);
    void (*add)(float *y, const float *x, uint32_t n); /* y += x */
    void (*silu_mul)(float *y, const float *gate, const float *up, uint32_t n);
    /* Rotate one head in place. cos/sin [n_rot/2]. neox: pairs (i, i+n_rot/2), else (2i, 2i+1). */
    void (*rope)(float *x, uint32_t n_rot, bool neox, const float *cos, const float *sin);
    void (*f32_to_f16)(const float *x, uint16_t *y, uint32_t n); /* nearest even */
    void (*f16_to_f32)(const uint16_t *x, float *y, uint32_t n);
    float (*dot_f32)(const float *a, const float *b, uint32_t n);
    /* Scores of one query row against n_keys f16 key rows, `stride` elements apart. */
    void (*dot_keys_f16)(const float *q, const uint16_t *k, size_t stride, uint32_t n_keys,
                         uint32_t dim, float *scores);
    /* acc = acc * rescale + sum_j p[j] * v[j][.], j in order; v f16 rows `stride` apart. */
    void (*acc_values_f16)(float *acc, float rescale, const float *p, const uint16_t *v,
                           size_t stride, uint32_t n_keys, uint32_t dim);
    float (*max_f32)(const float *x, uint32_t n);
    /* x[i] = exp(x[i] - m); returns the sum, added in index order per fixed lanes. */
    float (*exp_sum)(float *x, uint32_t n, float m);
};

struct kern {
    enum kern_level level;
    const char *name; /* "ref", "avx2", "avx512", "neon" */
    /* Row for a storage type, or NULL if this build cannot multiply it. */
    const struct kern_type *(*find)(enum qtype type);
    const struct kern_vec *vec;
};

/* The table of this machine: the best level that the CPU has, lowered by
 * QUIRE_CPU=ref|avx2|avx512, on ARM ref|neon (an unknown word or a level that the CPU lacks is
 * an error: e says which). */
Q_MUST_CHECK int kern_get(const struct kern **out, struct err *e);
/* One level explicitly, for tests; NULL if the CPU or the build lacks it. */
const struct kern *kern_at_level(enum kern_level level);

/* Set up m for a matrix (data stays NULL). Q_EUNSUPPORTED if the type has no kernel. */
Q_MUST_CHECK int kern_mat_init(struct kern_mat *m, const struct kern *k, enum qtype type,
                               uint32_t rows, uint32_t cols, struct err *e);
/* Try on a packed matrix of 8 MB or more how its kind is best read from memory; the first call of
 * a process decides, in 1 to 2 ms. No result depends on it. */
void kern_tune(const struct kern_mat *m);
size_t kern_mat_bytes(const struct kern_mat *m);
/* Pack panels [from, to) of file rows at src into dst (kern_mat_bytes large): threads share it. */
void kern_mat_pack(const struct kern_mat *m, const void *src, uint32_t from, uint32_t to,
                   void *dst);
/* How many of n_tokens to give kern_panels_mul at once. */
uint32_t kern_token_block(const struct kern_mat *m, uint32_t n_tokens);
/* out[t * ld_out + r] for the rows r of panels [from, to), counted from the first of them. Fastest
 * with kern_token_block tokens. outliers [n_tokens]: added; NULL: none. */
void kern_panels_mul(const struct kern_mat *m, uint32_t from, uint32_t to, const void *acts,
                     const struct kern_outliers *outliers, uint32_t n_tokens, float *out,
                     size_t ld_out);
/* out[t * ld_out + r] for all rows r of panels [from, to), however many tokens. */
void kern_mat_mul(const struct kern_mat *m, uint32_t from, uint32_t to, const void *acts,
                  uint32_t n_tokens, float *out, size_t ld_out);

/* act_convert for types with outliers_add: the outliers of x go to *o, the rest to act. Depends on
 * x alone, the same at every level. */
void kern_act_convert(const struct kern_type *k, const float *x, uint32_t cols, void *act,
                      struct kern_outliers *o);

#endif
