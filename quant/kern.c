/* SPDX-License-Identifier: Apache-2.0 */
/* Choice of the instruction-set level, the table, and whole matrices. */
#include "quant/kern_impl.h"

#include "base/num.h"

#include <cpuid.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static struct kern_rows tables[3];
static struct kern levels[3];
size_t kern_ahead_bytes;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static size_t act_bytes_f32(uint32_t cols)
{
    return ((size_t)cols * 4 + 63) & ~(size_t)63;
}

static size_t act_bytes_q8(uint32_t cols)
{
    return cols / 32 * sizeof(struct kern_act);
}

void kern_rows_set(struct kern_rows *rows, enum qtype type, unsigned r, uint32_t act_format,
                   void (*act_convert)(const float *x, uint32_t cols, void *act),
                   kern_panel_mul_fn *mul)
{
    const struct kern_layout *l = kern_layout_find(type, r);
    rows->by_type[type] = (struct kern_type){
        .type = qtype_info(type),
        .panel_rows = r,
        .panel_bytes = l->panel_bytes,
        .pack = l->pack,
        .act_bytes = act_format == KERN_ACT_Q8 ? act_bytes_q8 : act_bytes_f32,
        .act_convert = act_convert,
        .act_format = act_format,
        .panel_mul = mul,
    };
}

static const struct kern_type *find_in(enum kern_level level, enum qtype type)
{
    if ((unsigned)type >= KERN_MAX_TYPE || !tables[level].by_type[type].panel_mul)
        return NULL;
    return &tables[level].by_type[type];
}

static const struct kern_type *find_ref(enum qtype type)
{
    return find_in(KERN_REF, type);
}

static const struct kern_type *find_avx2(enum qtype type)
{
    return find_in(KERN_AVX2, type);
}

static const struct kern_type *find_avx512(enum qtype type)
{
    return find_in(KERN_AVX512, type);
}

/* The state components that the system saves: bits 1-2 for AVX, 5-7 more for AVX-512. */
static uint32_t saved_state(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo;
}

/* What the files of each level are compiled with, no more and no less. */
static enum kern_level detect(void)
{
    enum { AVX_STATE = 0x06, AVX512_STATE = 0xe6 };
    unsigned a, b, c, d, b7, c7, d7;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA) || !(c & bit_F16C))
        return KERN_REF;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7) || !(b7 & bit_AVX2) || !(b7 & bit_BMI2))
        return KERN_REF;
    uint32_t state = saved_state();
    if ((state & AVX_STATE) != AVX_STATE)
        return KERN_REF;
    const unsigned need_b = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
    const unsigned need_c = bit_AVX512VNNI | bit_AVX512VBMI;
    if ((state & AVX512_STATE) != AVX512_STATE || (b7 & need_b) != need_b ||
        (c7 & need_c) != need_c)
        return KERN_AVX2;
    return KERN_AVX512;
}

static enum kern_level detected;

static bool made_by_intel(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(0, &a, &b, &c, &d) && b == signature_INTEL_ebx && d == signature_INTEL_edx &&
           c == signature_INTEL_ecx;
}

/* Each level starts from the weaker one and overwrites what it does better. */
static void init(void)
{
    detected = detect();
    kern_ahead_bytes = made_by_intel() ? 6144 : 0;
    for (int level = KERN_REF; level <= KERN_AVX512; level++) {
        kern_rows_ref(&tables[level]);
        if (level >= KERN_AVX2)
            kern_rows_avx2(&tables[level]);
        if (level >= KERN_AVX512)
            kern_rows_avx512(&tables[level]);
    }
    levels[KERN_REF] = (struct kern){KERN_REF, "ref", find_ref, &kern_vec_ref};
    levels[KERN_AVX2] = (struct kern){KERN_AVX2, "avx2", find_avx2, &kern_vec_avx2};
    levels[KERN_AVX512] = (struct kern){KERN_AVX512, "avx512", find_avx512, &kern_vec_avx512};
}

const struct kern *kern_at_level(enum kern_level level)
{
    pthread_once(&once, init);
    return level <= detected ? &levels[level] : NULL;
}

int kern_get(const struct kern **out, struct err *e)
{
    pthread_once(&once, init);
    *out = &levels[detected];
    const char *want = getenv("QUIRE_CPU");
    if (!want || !*want)
        return 0;
    for (int level = KERN_REF; level <= KERN_AVX512; level++) {
        if (strcmp(want, levels[level].name) != 0)
            continue;
        if (level > (int)detected)
            return err_set(e, Q_EINVAL, "QUIRE_CPU=%s, but this CPU has no more than %s", want,
                           levels[detected].name);
        *out = &levels[level];
        return 0;
    }
    return err_set(e, Q_EINVAL, "QUIRE_CPU=%s: use ref, avx2 or avx512", want);
}

int kern_mat_init(struct kern_mat *m, const struct kern *k, enum qtype type, uint32_t rows,
                  uint32_t cols, struct err *e)
{
    const struct kern_type *t = k->find(type);
    if (!t)
        return err_set(e, Q_EUNSUPPORTED, "no matrix kernel for type %s", qtype_id_name(type));
    if (rows == 0 || cols == 0 || cols % t->type->block_len)
        return err_set(e, Q_EINVAL, "a %s matrix cannot have %u rows of %u columns", t->type->name,
                       rows, cols);
    m->k = t;
    m->rows = rows;
    m->cols = cols;
    m->panel_bytes = t->panel_bytes(cols);
    m->n_panels = (rows - 1) / t->panel_rows + 1;
    m->data = NULL;
    size_t bytes;
    if (!num_mul(m->panel_bytes, m->n_panels, &bytes))
        return err_set(e, Q_EINVAL, "the size of a matrix of %u x %u overflows", rows, cols);
    return 0;
}

size_t kern_mat_bytes(const struct kern_mat *m)
{
    return m->panel_bytes * m->n_panels;
}

static uint32_t rows_in(const struct kern_mat *m, uint32_t panel)
{
    return NUM_MIN(m->k->panel_rows, m->rows - panel * m->k->panel_rows);
}

void kern_mat_pack(const struct kern_mat *m, const void *src, uint32_t from, uint32_t to, void *dst)
{
    size_t row_bytes = qtype_row_bytes(m->k->type, m->cols);
    for (uint32_t p = from; p < to; p++)
        m->k->pack((const char *)src + (size_t)p * m->k->panel_rows * row_bytes, row_bytes,
                   rows_in(m, p), m->cols, (char *)dst + p * m->panel_bytes);
}

void kern_mat_mul(const struct kern_mat *m, uint32_t from, uint32_t to, const void *acts,
                  uint32_t n_tokens, float *out, size_t ld_out)
{
    /* Activations of one chunk of tokens stay in the second-level cache while all panels pass. */
    enum { CHUNK_BYTES = 1 << 20 };
    const struct kern_type *k = m->k;
    size_t act_bytes = k->act_bytes(m->cols);
    uint32_t chunk = (uint32_t)(CHUNK_BYTES / act_bytes) & ~7u;
    chunk = NUM_MAX(chunk, 8u);
    for (uint32_t t = 0; t < n_tokens; t += chunk) {
        uint32_t n = NUM_MIN(chunk, n_tokens - t);
        const char *a = (const char *)acts + t * act_bytes;
        for (uint32_t p = from; p < to; p++)
            k->panel_mul(m->data + p * m->panel_bytes, m->cols, rows_in(m, p), a, n,
                         out + t * ld_out + (size_t)p * k->panel_rows, ld_out);
    }
}
