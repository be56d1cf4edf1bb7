/* SPDX-License-Identifier: Apache-2.0 */
/* Choice of the instruction-set level, the table, and whole matrices. */
#include "quant/kern_impl.h"

#include "base/num.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct kern_rows tables[KERN_LEVELS];
static struct kern levels[KERN_LEVELS];
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
                   kern_panel_mul_fn *mul, kern_outliers_fn *outliers)
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
        .outliers_add = outliers,
    };
}

void kern_rows_set_many(struct kern_rows *rows, enum qtype type, uint32_t many_tokens,
                        uint32_t block_tokens, kern_many_mul_fn *mul)
{
    rows->by_type[type].many_mul = mul;
    rows->by_type[type].many_tokens = many_tokens;
    rows->by_type[type].block_tokens = block_tokens;
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

static const struct kern_type *find_neon(enum qtype type)
{
    return find_in(KERN_NEON, type);
}

static enum kern_level detected;

/* Each level starts from the weaker one and overwrites what it does better. */
static void init(void)
{
    static const struct kern_type *(*const find[KERN_LEVELS])(enum qtype type) = {
        find_ref, find_avx2, find_avx512, find_neon};
    detected = kern_cpu_level();
    for (unsigned i = 0; i < kern_isa_count; i++) {
        const struct kern_isa *isa = &kern_isas[i];
        for (unsigned weaker = 0; weaker <= i; weaker++)
            kern_isas[weaker].rows(&tables[isa->level]);
        levels[isa->level] = (struct kern){isa->level, isa->name, find[isa->level], isa->vec};
    }
}

/* The levels of a build are ordered, and a CPU runs all up to its best. */
const struct kern *kern_at_level(enum kern_level level)
{
    pthread_once(&once, init);
    return (unsigned)level < KERN_LEVELS && levels[level].name && level <= detected ? &levels[level]
                                                                                    : NULL;
}

/* "ref, avx2 or avx512" */
static const char *level_names(char *to, size_t n)
{
    size_t at = 0;
    for (unsigned i = 0; i < kern_isa_count; i++) {
        const char *after = i + 2 < kern_isa_count ? ", " : i + 1 < kern_isa_count ? " or " : "";
        int len = snprintf(to + at, n - at, "%s%s", kern_isas[i].name, after);
        at = NUM_MIN(at + (size_t)len, n - 1);
    }
    return to;
}

int kern_get(const struct kern **out, struct err *e)
{
    pthread_once(&once, init);
    *out = &levels[detected];
    const char *want = getenv("QUIRE_CPU");
    if (!want || !*want)
        return 0;
    for (unsigned i = 0; i < kern_isa_count; i++) {
        if (strcmp(want, kern_isas[i].name) != 0)
            continue;
        if (kern_isas[i].level > detected)
            return err_set(e, Q_EINVAL, "QUIRE_CPU=%s, but this CPU has no more than %s", want,
                           levels[detected].name);
        *out = &levels[kern_isas[i].level];
        return 0;
    }
    char names[64];
    return err_set(e, Q_EINVAL, "QUIRE_CPU=%s: use %s", want, level_names(names, sizeof names));
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

uint32_t kern_token_block(const struct kern_mat *m, uint32_t n_tokens)
{
    /* Activations that stay in the second-level cache while panels of weights pass. */
    enum { ACTS_IN_CACHE = 256 << 10, MIN_BLOCK = 32 };
    uint32_t most = m->k->block_tokens;
    if (most == 0) {
        most = (uint32_t)(ACTS_IN_CACHE / m->k->act_bytes(m->cols));
        most = NUM_MAX(most, (uint32_t)MIN_BLOCK);
    }
    uint32_t blocks = (n_tokens + most - 1) / most;
    /* Tiles are of 4, 6 or 8 tokens. */
    return blocks < 2 ? n_tokens : ((n_tokens + blocks - 1) / blocks + 11) / 12 * 12;
}

void kern_panels_mul(const struct kern_mat *m, uint32_t from, uint32_t to, const void *acts,
                     const struct kern_outliers *outliers, uint32_t n_tokens, float *out,
                     size_t ld_out)
{
    const struct kern_type *k = m->k;
    const unsigned char *panels = m->data + from * m->panel_bytes;
    bool many = k->many_mul && n_tokens >= k->many_tokens;
    if (many && to > from)
        k->many_mul(panels, m->panel_bytes, m->cols,
                    NUM_MIN(to * k->panel_rows, m->rows) - from * k->panel_rows, acts, n_tokens,
                    out, ld_out);
    for (uint32_t p = from; p < to; p++, panels += m->panel_bytes, out += k->panel_rows) {
        if (!many)
            k->panel_mul(panels, m->cols, rows_in(m, p), acts, n_tokens, out, ld_out);
        if (outliers && k->outliers_add)
            k->outliers_add(panels, rows_in(m, p), outliers, n_tokens, out, ld_out);
    }
}

void kern_mat_mul(const struct kern_mat *m, uint32_t from, uint32_t to, const void *acts,
                  uint32_t n_tokens, float *out, size_t ld_out)
{
    const struct kern_type *k = m->k;
    size_t act_bytes = k->act_bytes(m->cols);
    uint32_t block = kern_token_block(m, n_tokens);
    for (uint32_t t = 0; t < n_tokens; t += block) {
        uint32_t n = NUM_MIN(block, n_tokens - t);
        const char *a = (const char *)acts + t * act_bytes;
        kern_panels_mul(m, from, to, a, NULL, n, out + t * ld_out + (size_t)from * k->panel_rows,
                        ld_out);
    }
}

/* How far above the mean amplitude of blocks an outlier's block is. SmolLM2, mean KL divergence
 * from f32 activations and outliers a row: 2.0 0.0009 and 2, 3.0 0.0015 and 1, none 0.0028. */
#define OUTLIER_RATIO 2.0f

/* The first of 32 values that is as large as the largest; NaN is none. */
static uint32_t peak_of(const float *x)
{
    int32_t bits[32], most = -1;
    memcpy(bits, x, sizeof bits);
    for (unsigned c = 0; c < 32; c++) { /* ordered as the amplitudes are */
        int32_t v = bits[c] & INT32_MAX;
        bits[c] = v > 0x7f800000 ? -1 : v;
        most = NUM_MAX(most, bits[c]);
    }
    for (uint32_t c = 0; c < 32; c++) {
        if (bits[c] == most)
            return c;
    }
    return 0;
}

void kern_act_convert(const struct kern_type *k, const float *x, uint32_t cols, void *act,
                      struct kern_outliers *o)
{
    enum { MOST = 2 * KERN_OUTLIERS };
    struct kern_act *a = act;
    uint32_t n_blocks = cols / 32, high[MOST], n_high = 0;
    float sum = 0;

    k->act_convert(x, cols, act);
    o->n = 0;
    for (uint32_t b = 0; b < n_blocks; b++)
        sum += a[b].d;
    const float limit = OUTLIER_RATIO * sum / (float)n_blocks;
    /* Blocks above the limit are few; where there are more, the highest of them. */
    for (uint32_t b = 0; b < n_blocks; b++) {
        if (!(a[b].d > limit))
            continue;
        if (n_high == MOST) {
            uint32_t least = 0;
            for (uint32_t i = 1; i < MOST; i++) {
                if (a[high[i]].d <= a[high[least]].d)
                    least = i;
            }
            if (!(a[b].d > a[high[least]].d))
                continue;
            memmove(high + least, high + least + 1, (MOST - least - 1) * sizeof *high);
            n_high--;
        }
        high[n_high++] = b;
    }
    while (o->n < KERN_OUTLIERS) {
        uint32_t most = 0;
        float rest[32];
        for (uint32_t i = 1; i < n_high; i++) {
            if (a[high[i]].d > a[high[most]].d)
                most = i;
        }
        if (n_high == 0 || !(a[high[most]].d > limit))
            return;
        most = high[most];
        memcpy(rest, x + 32 * (size_t)most, sizeof rest);
        for (uint32_t i = 0; i < o->n; i++) {
            if (o->column[i] / 32 == most)
                rest[o->column[i] % 32] = 0;
        }
        uint32_t column = peak_of(rest);
        o->column[o->n] = 32 * most + column;
        o->x[o->n++] = rest[column];
        rest[column] = 0;
        k->act_convert(rest, 32, &a[most]);
    }
}
