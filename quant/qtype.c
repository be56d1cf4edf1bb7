/* SPDX-License-Identifier: Apache-2.0 */
#include "quant/qtype.h"

#include <assert.h>
#include <string.h>
#include <strings.h>

/* Blocks are unaligned in files: every field is read bytewise or by memcpy. */

static uint32_t rd16(const uint8_t *p)
{
    return (uint32_t)(p[0] | p[1] << 8);
}

static uint32_t rd32(const uint8_t *p)
{
    return rd16(p) | rd16(p + 2) << 16;
}

static float f32_of_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static uint32_t bits_of_f32(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

float qtype_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = h >> 10 & 31u, man = h & 1023u;
    if (exp == 31)
        return f32_of_bits(sign | 0x7f800000u | man << 13 | (man ? 0x400000u : 0));
    if (exp != 0)
        return f32_of_bits(sign | (exp + 112) << 23 | man << 13);
    float f = (float)man * 0x1p-24f; /* subnormal or zero: exact */
    return sign ? -f : f;
}

uint16_t qtype_f32_to_f16(float f)
{
    uint32_t u = bits_of_f32(f), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) /* NaN, made quiet */
        return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x3ffu));
    if (a >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (a >= 0x38800000u) { /* normal half: round the 13 dropped bits to even */
        a += 0xfffu + (a >> 13 & 1u);
        return (uint16_t)(sign | (a - 0x38000000u) >> 13);
    }
    /* Subnormal: adding 0.5 leaves the value in units of 2^-24 in the low bits, rounded to even
     * by the addition itself. */
    float s = f32_of_bits(a) + 0.5f;
    return (uint16_t)(sign | (bits_of_f32(s) - 0x3f000000u));
}

float qtype_bf16_to_f32(uint16_t h)
{
    return f32_of_bits((uint32_t)h << 16);
}

uint16_t qtype_f32_to_bf16(float f)
{
    uint32_t u = bits_of_f32(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

static float rdh(const uint8_t *p)
{
    return qtype_f16_to_f32((uint16_t)rd16(p));
}

static void decode_f32(const void *src, float *y, size_t n)
{
    memcpy(y, src, n * sizeof *y);
}

static void decode_f16(const void *src, float *y, size_t n)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i++)
        y[i] = rdh(p + 2 * i);
}

static void decode_bf16(const void *src, float *y, size_t n)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i++)
        y[i] = qtype_bf16_to_f32((uint16_t)rd16(p + 2 * i));
}

static void decode_q4_0(const void *src, float *y, size_t n)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 32, p += 18) {
        float d = rdh(p);
        for (int j = 0; j < 16; j++) {
            y[i + (size_t)j] = d * (float)((p[2 + j] & 15) - 8);
            y[i + (size_t)j + 16] = d * (float)((p[2 + j] >> 4) - 8);
        }
    }
}

static void decode_q4_1(const void *src, float *y, size_t n)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 32, p += 20) {
        float d = rdh(p), m = rdh(p + 2);
        for (int j = 0; j < 16; j++) {
            y[i + (size_t)j] = d * (float)(p[4 + j] & 15) + m;
            y[i + (size_t)j + 16] = d * (float)(p[4 + j] >> 4) + m;
        }
    }
}

/* Code of element j in a block of nibbles plus a word of fifth bits. */
static int q5_code(const uint8_t *qs, uint32_t qh, int j)
{
    int low = j < 16 ? qs[j] & 15 : qs[j - 16] >> 4;
    return low | (int)(qh >> j & 1u) << 4;
}

static void decode_q5_0(const void *src, float *y, size_t n)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 32, p += 22) {
        float d = rdh(p);
        uint32_t qh = rd32(p + 2);
        for (int j = 0; j < 32; j++)
            y[i + (size_t)j] = d * (float)(q5_code(p + 6, qh, j) - 16);
    }
}

static void decode_q5_1(const void *src, float *y, size_t n)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 32, p += 24) {
        float d = rdh(p), m = rdh(p + 2);
        uint32_t qh = rd32(p + 4);
        for (int j = 0; j < 32; j++)
            y[i + (size_t)j] = d * (float)q5_code(p + 8, qh, j) + m;
    }
}

static void decode_q8_0(const void *src, float *y, size_t n)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 32, p += 34) {
        float d = rdh(p);
        for (size_t j = 0; j < 32; j++)
            y[i + j] = d * (float)(int8_t)p[2 + j];
    }
}

static void decode_q2_k(const void *src, float *y, size_t n)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 256, p += 84) {
        float d = rdh(p + 80), dmin = rdh(p + 82);
        for (size_t j = 0; j < 256; j++) {
            int q = p[16 + 32 * (j / 128) + j % 32] >> 2 * (j % 128 / 32) & 3;
            int s = p[j / 16];
            y[i + j] = d * (float)((s & 15) * q) - dmin * (float)(s >> 4);
        }
    }
}

static void decode_q3_k(const void *src, float *y, size_t n)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 256, p += 110) {
        const uint8_t *hmask = p, *qs = p + 32, *sc = p + 96;
        float d = rdh(p + 108);
        for (size_t j = 0; j < 256; j++) {
            size_t s16 = j / 16;
            int low = s16 < 8 ? sc[s16] & 15 : sc[s16 - 8] >> 4;
            int s = low | (sc[8 + s16 % 4] >> 2 * (s16 / 4) & 3) << 4;
            int q = qs[32 * (j / 128) + j % 32] >> 2 * (j % 128 / 32) & 3;
            int high = hmask[j % 32] >> (j / 32) & 1;
            y[i + j] = d * (float)((s - 32) * (q - (high ? 0 : 4)));
        }
    }
}

void qtype_k_scale_min(const uint8_t s[12], unsigned j, uint8_t *scale, uint8_t *min)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (uint8_t)((s[j + 4] & 15) | s[j - 4] >> 6 << 4);
        *min = (uint8_t)(s[j + 4] >> 4 | s[j] >> 6 << 4);
    }
}

/* Q4_K and Q5_K differ by the plane of fifth bits alone (qh NULL: Q4_K). */
static void decode_k45(const uint8_t *p, const uint8_t *qh, const uint8_t *qs, float *y)
{
    float d = rdh(p), dmin = rdh(p + 2);
    for (unsigned b = 0; b < 8; b++) {
        uint8_t sc, mn;
        qtype_k_scale_min(p + 4, b, &sc, &mn);
        for (unsigned l = 0; l < 32; l++) {
            int c = qs[32 * (b / 2) + l];
            int q = b & 1 ? c >> 4 : c & 15;
            if (qh)
                q |= (qh[l] >> b & 1) << 4;
            y[32 * b + l] = d * (float)(sc * q) - dmin * (float)mn;
        }
    }
}

static void decode_q4_k(const void *src, float *y, size_t n)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 256, p += 144)
        decode_k45(p, NULL, p + 16, y + i);
}

static void decode_q5_k(const void *src, float *y, size_t n)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 256, p += 176)
        decode_k45(p, p + 16, p + 48, y + i);
}

static void decode_q6_k(const void *src, float *y, size_t n)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 256, p += 210) {
        float d = rdh(p + 208);
        for (size_t j = 0; j < 256; j++) {
            size_t half = j / 128, g = j % 128 / 32, l = j % 32;
            int c = p[64 * half + l + 32 * (g & 1)];
            int q = (g >= 2 ? c >> 4 : c & 15) | (p[128 + 32 * half + l] >> 2 * g & 3) << 4;
            y[i + j] = d * (float)((int8_t)p[192 + j / 16] * (q - 32));
        }
    }
}

const int8_t qtype_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};

static void decode_iq4_nl(const void *src, float *y, size_t n)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 32, p += 18) {
        float d = rdh(p);
        for (size_t j = 0; j < 16; j++) {
            y[i + j] = d * (float)qtype_iq4_values[p[2 + j] & 15];
            y[i + j + 16] = d * (float)qtype_iq4_values[p[2 + j] >> 4];
        }
    }
}

static void decode_iq4_xs(const void *src, float *y, size_t n)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i += 256, p += 136) {
        float d = rdh(p);
        uint32_t high = rd16(p + 2);
        for (size_t b = 0; b < 8; b++) {
            int ls = (p[4 + b / 2] >> 4 * (b & 1) & 15) | (int)(high >> 2 * b & 3u) << 4;
            const uint8_t *q = p + 8 + 16 * b;
            float *o = y + i + 32 * b;
            for (size_t j = 0; j < 16; j++) {
                o[j] = d * (float)((ls - 32) * qtype_iq4_values[q[j] & 15]);
                o[j + 16] = d * (float)((ls - 32) * qtype_iq4_values[q[j] >> 4]);
            }
        }
    }
}

/* Ordered by id. Types without a decoder are listed so that sizes can be checked. */
static const struct qtype_info types[] = {
    {QT_F32, "F32", 1, 4, decode_f32},
    {QT_F16, "F16", 1, 2, decode_f16},
    {QT_Q4_0, "Q4_0", 32, 18, decode_q4_0},
    {QT_Q4_1, "Q4_1", 32, 20, decode_q4_1},
    {QT_Q5_0, "Q5_0", 32, 22, decode_q5_0},
    {QT_Q5_1, "Q5_1", 32, 24, decode_q5_1},
    {QT_Q8_0, "Q8_0", 32, 34, decode_q8_0},
    {9, "Q8_1", 32, 36, NULL},
    {QT_Q2_K, "Q2_K", 256, 84, decode_q2_k},
    {QT_Q3_K, "Q3_K", 256, 110, decode_q3_k},
    {QT_Q4_K, "Q4_K", 256, 144, decode_q4_k},
    {QT_Q5_K, "Q5_K", 256, 176, decode_q5_k},
    {QT_Q6_K, "Q6_K", 256, 210, decode_q6_k},
    {15, "Q8_K", 256, 292, NULL},
    {16, "IQ2_XXS", 256, 66, NULL},
    {17, "IQ2_XS", 256, 74, NULL},
    {18, "IQ3_XXS", 256, 98, NULL},
    {19, "IQ1_S", 256, 50, NULL},
    {QT_IQ4_NL, "IQ4_NL", 32, 18, decode_iq4_nl},
    {21, "IQ3_S", 256, 110, NULL},
    {22, "IQ2_S", 256, 82, NULL},
    {QT_IQ4_XS, "IQ4_XS", 256, 136, decode_iq4_xs},
    {24, "I8", 1, 1, NULL},
    {25, "I16", 1, 2, NULL},
    {26, "I32", 1, 4, NULL},
    {27, "I64", 1, 8, NULL},
    {28, "F64", 1, 8, NULL},
    {29, "IQ1_M", 256, 56, NULL},
    {QT_BF16, "BF16", 1, 2, decode_bf16},
    {34, "TQ1_0", 256, 54, NULL},
    {35, "TQ2_0", 256, 66, NULL},
    {39, "MXFP4", 32, 17, NULL},
    {40, "NVFP4", 64, 36, NULL},
    {41, "Q1_0", 128, 18, NULL},
    {42, "Q2_0", 64, 18, NULL},
};

enum { N_TYPES = sizeof types / sizeof types[0] };

const struct qtype_info *qtype_info(uint32_t id)
{
    for (size_t i = 0; i < N_TYPES; i++)
        if (types[i].id == id)
            return &types[i];
    return NULL;
}

const struct qtype_info *qtype_by_name(const char *name)
{
    for (size_t i = 0; i < N_TYPES; i++)
        if (strcasecmp(types[i].name, name) == 0)
            return &types[i];
    return NULL;
}

const char *qtype_id_name(uint32_t id)
{
    static const struct {
        uint32_t id;
        const char *name;
    } gone[] = {
        {4, "Q4_2, withdrawn"},        {5, "Q4_3, withdrawn"},
        {31, "Q4_0_4_4, withdrawn"},   {32, "Q4_0_4_8, withdrawn"},
        {33, "Q4_0_8_8, withdrawn"},   {36, "I2_S of BitNet or IQ4_NL_4_4, withdrawn"},
        {37, "IQ4_NL_4_8, withdrawn"}, {38, "IQ4_NL_8_8, withdrawn"},
    };
    const struct qtype_info *t = qtype_info(id);
    if (t)
        return t->name;
    for (size_t i = 0; i < sizeof gone / sizeof gone[0]; i++)
        if (gone[i].id == id)
            return gone[i].name;
    return id >= 97 && id < 400 ? "a private type of ik_llama.cpp" : "no known type";
}

size_t qtype_row_bytes(const struct qtype_info *t, size_t n)
{
    assert(n % t->block_len == 0);
    return n / t->block_len * t->block_bytes;
}
