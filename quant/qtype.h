/* SPDX-License-Identifier: Apache-2.0 */
/* qtype.h - the tensor storage types: ids, block sizes, exact decoding.
 *
 * Ids are GGUF's. A row of n elements is n / block_len blocks of block_bytes, dense.
 * Decoding is plain C and the definition of what a stored block means; kernels are checked
 * against it. Pure functions, any thread. */
#ifndef QUIRE_QUANT_QTYPE_H
#define QUIRE_QUANT_QTYPE_H

#include "base/err.h"

#include <stdint.h>

enum qtype {
    QT_F32 = 0,
    QT_F16 = 1,
    QT_Q4_0 = 2,
    QT_Q4_1 = 3,
    QT_Q5_0 = 6,
    QT_Q5_1 = 7,
    QT_Q8_0 = 8,
    QT_Q2_K = 10,
    QT_Q3_K = 11,
    QT_Q4_K = 12,
    QT_Q5_K = 13,
    QT_Q6_K = 14,
    QT_IQ4_NL = 20,
    QT_IQ4_XS = 23,
    QT_BF16 = 30
};

struct qtype_info {
    uint32_t id;
    const char *name; /* "Q4_K" */
    uint32_t block_len, block_bytes;
    /* Decode n elements (a multiple of block_len) to f32; NULL: the layout is known (sizes can
     * be checked) but the type cannot be run yet. */
    void (*decode)(const void *blocks, float *y, size_t n);
};

/* NULL for ids that do not exist or were withdrawn. */
const struct qtype_info *qtype_info(uint32_t id);
/* By name, any letter case; NULL if unknown. */
const struct qtype_info *qtype_by_name(const char *name);
/* A word for a withdrawn or private id ("Q4_0_4_4", "an ik_llama.cpp type"); never NULL. */
const char *qtype_id_name(uint32_t id);
/* Bytes of a row of n elements; n must be a multiple of block_len. */
size_t qtype_row_bytes(const struct qtype_info *t, size_t n);

/* Sub-scale and sub-minimum j (0-7) of the 12 packed bytes in Q4_K and Q5_K blocks. */
void qtype_k_scale_min(const uint8_t s[12], unsigned j, uint8_t *scale, uint8_t *min);
/* The 16 values that an IQ4_NL or IQ4_XS code stands for. */
extern const int8_t qtype_iq4_values[16];

float qtype_f16_to_f32(uint16_t h); /* subnormals kept */
uint16_t qtype_f32_to_f16(float f); /* round to nearest even */
float qtype_bf16_to_f32(uint16_t h);
uint16_t qtype_f32_to_bf16(float f);

#endif
