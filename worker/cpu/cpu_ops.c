/* SPDX-License-Identifier: Apache-2.0 */
/* The operations of a program, run by all threads of the pool in step.
 *
 * Barriers per layer and step: after QKV, after ATTN, after OUT, between FFN's two halves and
 * after FFN; five, and one more before each matrix when a batch has more rows than every
 * thread converts for itself. */
#include "base/num.h"
#include "worker/cpu/cpu_int.h"

#include <math.h>
#include <string.h>

/* Converted rows that stay in the second-level cache while panels of weights pass. */
#define ACTS_IN_CACHE (256U << 10)
#define MIN_BLOCK     32U

/* One thread's view of the run: how many rows go on, and whether the crop has happened. */
struct run {
    struct cpu_stage *s;
    struct cpu_thread *th;
    uint32_t tid, n;
    bool cropped;
    const unsigned char *acts[CPU_FORMATS];
};

static void barrier(const struct run *r)
{
    pool_barrier(r->s->pool);
}

static uint32_t share(const struct run *r, uint32_t n, uint32_t tid)
{
    return (uint32_t)((uint64_t)n * tid / r->s->n_threads);
}

/* Row of the batch behind row i when `op` is the one that crops. */
static uint32_t source(const struct run *r, bool crop, uint32_t i)
{
    return crop ? r->s->map[i] : i;
}

/* ---- input --------------------------------------------------------------------------------- */

static void rope_tables(const struct run *r, uint32_t row)
{
    struct cpu_stage *s = r->s;
    const double *freqs = model_rope_freqs(s->model);
    uint32_t pairs = s->hp.n_rot / 2;
    double pos = s->rows[row].pos, mag = (double)s->hp.rope_magnitude;
    for (uint32_t i = 0; i < pairs; i++) {
        s->cosines[(size_t)row * pairs + i] = (float)(cos(pos * freqs[i]) * mag);
        s->sines[(size_t)row * pairs + i] = (float)(sin(pos * freqs[i]) * mag);
    }
}

static void input(const struct run *r, const struct cpu_op *embed)
{
    struct cpu_stage *s = r->s;
    const struct batch *b = s->batch;
    size_t width = s->hp.width;
    uint32_t to = share(r, r->n, r->tid + 1);

    for (uint32_t i = share(r, r->n, r->tid); i < to; i++) {
        if (embed) {
            const struct gguf_tensor *t = embed->rows;
            size_t row_bytes = qtype_row_bytes(t->type, width);
            t->type->decode((const char *)t->data + b->tokens[i] * row_bytes, s->x + i * width,
                            width);
        } else {
            memcpy(s->x + i * width, b->hidden + i * width, width * sizeof(float));
        }
        if (s->n_layers > 0)
            rope_tables(r, i);
    }
    barrier(r);
}

/* ---- matrices ------------------------------------------------------------------------------ */

/* Normalise (if norm) and convert the rows of `in` for multiplication; sets r->acts. */
static void prepare(struct run *r, const float *in, uint32_t cols, bool crop, const float *norm,
                    const struct kern_type *const *formats, uint32_t n_formats)
{
    struct cpu_stage *s = r->s;
    bool own = r->n <= CPU_OWN_ROWS;
    unsigned char *base = own ? r->th->acts : s->acts;
    size_t slot = s->act_row * (own ? CPU_OWN_ROWS : s->max_tokens);
    uint32_t from = own ? 0 : share(r, r->n, r->tid);
    uint32_t to = own ? r->n : share(r, r->n, r->tid + 1);

    for (uint32_t i = from; i < to; i++) {
        const float *x = in + (size_t)source(r, crop, i) * cols;
        if (norm) {
            s->kern->vec->rms_norm(x, norm, cols, s->hp.norm_eps, r->th->row);
            x = r->th->row;
        }
        for (uint32_t f = 0; f < n_formats; f++)
            formats[f]->act_convert(x, cols, base + f * slot + i * formats[f]->act_bytes(cols));
    }
    for (uint32_t f = 0; f < n_formats; f++)
        r->acts[f] = base + f * slot;
    if (!own)
        barrier(r);
}

/* out[t * ld + i] for the rows i of panels [from, to), counted from the first, and tokens
 * [t0, t0 + n). */
static void mul(const struct run *r, const struct cpu_mat *mat, uint32_t from, uint32_t to,
                uint32_t t0, uint32_t n, float *out, size_t ld)
{
    const struct kern_mat *m = &mat->m;
    const unsigned char *acts = r->acts[mat->format] + t0 * m->k->act_bytes(m->cols);
    uint32_t pr = m->k->panel_rows;

    for (uint32_t p = from; p < to; p++) {
        m->k->panel_mul(m->data + p * m->panel_bytes, m->cols, NUM_MIN(pr, m->rows - p * pr), acts,
                        n, out + (size_t)(p - from) * pr, ld);
    }
}

static uint32_t token_block(const struct cpu_mat *mat)
{
    size_t row = mat->m.k->act_bytes(mat->m.cols);
    return (uint32_t)NUM_MAX(ACTS_IN_CACHE / row, (size_t)MIN_BLOCK);
}

/* ---- QKV ----------------------------------------------------------------------------------- */

static void add_bias(const struct cpu_stage *s, float *x, const float *bias, uint32_t n)
{
    if (bias)
        s->kern->vec->add(x, bias, n);
}

static void store_k(const struct cpu_stage *s, struct cpu_thread *th, unsigned char *kv,
                    uint32_t slot, const float *x)
{
    uint32_t dk = s->hp.head_dim_k;
    if (s->kv_type == KV_F32) {
        float *k = (float *)(void *)kv;
        for (uint32_t d = 0; d < dk; d++)
            k[d * BACKEND_PAGE_TOKENS + slot] = x[d];
    } else {
        uint16_t *k = (uint16_t *)(void *)kv;
        s->kern->vec->f32_to_f16(x, th->half, dk);
        for (uint32_t d = 0; d < dk; d++)
            k[d * BACKEND_PAGE_TOKENS + slot] = th->half[d];
    }
}

static void store_v(const struct cpu_stage *s, unsigned char *kv, uint32_t slot, const float *x)
{
    unsigned char *v = kv + s->kv_k_bytes + (size_t)slot * s->dv_pad * s->kv_elem;
    if (s->kv_type == KV_F32) {
        memcpy(v, x, s->hp.head_dim_v * sizeof(*x));
    } else {
        s->kern->vec->f32_to_f16(x, (uint16_t *)(void *)v, s->hp.head_dim_v);
    }
}

/* What follows the product for one head of one row: x is changed. */
static void finish_head(const struct run *r, const struct cpu_op *op, uint32_t which, uint32_t row,
                        uint32_t head, float *x)
{
    struct cpu_stage *s = r->s;
    const struct kern_vec *v = s->kern->vec;
    const struct cpu_row *info = &s->rows[row];
    const float *bias = op->mat[which].bias;
    uint32_t dim = which == PROG_V ? s->hp.head_dim_v : s->hp.head_dim_k;
    uint32_t pairs = s->hp.n_rot / 2;

    add_bias(s, x, bias ? bias + (size_t)head * dim : NULL, dim);
    if (which != PROG_V) {
        const float *norm = which == PROG_Q ? op->q_norm : op->k_norm;
        if (norm)
            v->rms_norm(x, norm, dim, s->hp.norm_eps, x);
        v->rope(x, s->hp.n_rot, s->hp.rope_neox, s->cosines + (size_t)row * pairs,
                s->sines + (size_t)row * pairs);
    }
    if (which == PROG_Q) {
        float *q = s->q + ((size_t)row * s->hp.n_heads + head) * dim;
        for (uint32_t d = 0; d < dim; d++)
            q[d] = x[d] * s->hp.attn_scale;
        return;
    }
    const uint32_t *pages = s->batch->seqs[info->seq].pages;
    unsigned char *kv = cpu_kv_at(s, op->layer, pages[info->pos / BACKEND_PAGE_TOKENS], head);
    uint32_t slot = info->pos % BACKEND_PAGE_TOKENS;
    if (which == PROG_K) {
        store_k(s, r->th, kv, slot, x);
    } else {
        store_v(s, kv, slot, x);
    }
}

static void op_qkv(struct run *r, const struct cpu_op *op)
{
    struct cpu_stage *s = r->s;
    prepare(r, s->x, s->hp.width, false, op->norm, op->formats, op->n_formats);
    for (uint32_t u = op->split[r->tid]; u < op->split[r->tid + 1]; u++) {
        const struct cpu_unit *unit = &op->units[u];
        const struct cpu_mat *mat = &op->mat[unit->mat];
        uint32_t pr = mat->m.k->panel_rows, row0 = unit->panel_from * pr;
        uint32_t rows = NUM_MIN(unit->panel_to * pr, mat->m.rows) - row0;
        uint32_t dim = unit->mat == PROG_V ? s->hp.head_dim_v : s->hp.head_dim_k;
        uint32_t step = (uint32_t)NUM_MIN((size_t)token_block(mat), s->tile_floats / rows);
        for (uint32_t t0 = 0; t0 < r->n; t0 += step) {
            uint32_t n = NUM_MIN(step, r->n - t0);
            mul(r, mat, unit->panel_from, unit->panel_to, t0, n, r->th->tile, rows);
            for (uint32_t t = 0; t < n; t++) {
                for (uint32_t h = 0; h < rows / dim; h++)
                    finish_head(r, op, unit->mat, t0 + t, row0 / dim + h,
                                r->th->tile + (size_t)t * rows + (size_t)h * dim);
            }
        }
    }
    barrier(r);
}

/* ---- OUT and FFN --------------------------------------------------------------------------- */

/* x += W a + bias over this thread's panels; rows come from behind the crop when crop. */
static void add_product(const struct run *r, const struct cpu_mat *mat, const uint32_t *split,
                        bool crop)
{
    struct cpu_stage *s = r->s;
    const struct kern_mat *m = &mat->m;
    uint32_t pr = m->k->panel_rows, to = split[r->tid + 1];
    uint32_t block = NUM_MIN(token_block(mat), r->n);
    uint32_t group = (uint32_t)NUM_MAX(s->tile_floats / ((size_t)block * pr), (size_t)1);
    size_t width = s->hp.width;

    for (uint32_t p = split[r->tid]; p < to; p += group) {
        uint32_t end = NUM_MIN(p + group, to);
        uint32_t row0 = p * pr, rows = NUM_MIN(end * pr, m->rows) - row0;
        uint32_t step = (uint32_t)NUM_MIN((size_t)block, s->tile_floats / rows);
        for (uint32_t t0 = 0; t0 < r->n; t0 += step) {
            uint32_t n = NUM_MIN(step, r->n - t0);
            mul(r, mat, p, end, t0, n, r->th->tile, rows);
            for (uint32_t t = t0; t < t0 + n; t++) {
                float *y = r->th->tile + (size_t)(t - t0) * rows;
                float *x = s->x + t * width + row0;
                add_bias(s, y, mat->bias ? mat->bias + row0 : NULL, rows);
                /* Ascending rows: a row is read before a later one overwrites it. */
                if (crop && s->map[t] != t)
                    memcpy(x, s->x + s->map[t] * width + row0, rows * sizeof(*x));
                s->kern->vec->add(x, y, rows);
            }
        }
    }
    barrier(r);
}

static void op_out(struct run *r, const struct cpu_op *op)
{
    struct cpu_stage *s = r->s;
    bool crop = op->crop && s->crop;
    if (crop) {
        r->n = s->n_live;
        r->cropped = true;
    }
    if (r->n == 0)
        return; /* the same for all threads */
    prepare(r, s->att, s->hp.n_heads * s->hp.head_dim_v, crop, NULL, op->formats, op->n_formats);
    add_product(r, &op->mat[PROG_W], op->split, crop);
}

static void op_ffn(struct run *r, const struct cpu_op *op)
{
    struct cpu_stage *s = r->s;
    const struct cpu_mat *gate = &op->mat[PROG_GATE], *up = &op->mat[PROG_UP];
    uint32_t n_ff = s->hp.n_ff, end = op->split[r->tid + 1];

    prepare(r, s->x, s->hp.width, false, op->norm, op->formats, op->n_formats);
    uint32_t block = NUM_MIN(token_block(gate), r->n);
    for (uint32_t u = op->split[r->tid]; u < end;) {
        /* As many units as fit the tile, so that a decode step reads one long stream. */
        uint32_t pr = gate->m.k->panel_rows, row0 = op->units[u].panel_from * pr, last = u;
        while (last + 1 < end &&
               (size_t)(op->units[last + 1].panel_to * pr - row0) * block <= s->tile_floats)
            last++;
        uint32_t rows = NUM_MIN(op->units[last].panel_to * pr, n_ff) - row0;
        uint32_t up_from = row0 / up->m.k->panel_rows;
        uint32_t up_to = (row0 + rows + up->m.k->panel_rows - 1) / up->m.k->panel_rows;
        uint32_t step = (uint32_t)NUM_MIN((size_t)block, s->tile_floats / rows);
        for (uint32_t t0 = 0; t0 < r->n; t0 += step) {
            uint32_t n = NUM_MIN(step, r->n - t0);
            mul(r, gate, op->units[u].panel_from, op->units[last].panel_to, t0, n, r->th->tile,
                rows);
            mul(r, up, up_from, up_to, t0, n, r->th->tile2, rows);
            for (uint32_t t = 0; t < n; t++)
                s->kern->vec->silu_mul(s->ffn + (size_t)(t0 + t) * n_ff + row0,
                                       r->th->tile + (size_t)t * rows,
                                       r->th->tile2 + (size_t)t * rows, rows);
        }
        u = last + 1;
    }
    barrier(r);
    prepare(r, s->ffn, n_ff, false, NULL, op->formats2, op->n_formats2);
    add_product(r, &op->mat[PROG_DOWN], op->split2, false);
}

/* ---- output -------------------------------------------------------------------------------- */

static void op_head(struct run *r, const struct cpu_op *op)
{
    struct cpu_stage *s = r->s;
    const struct cpu_mat *mat = &op->mat[PROG_W];
    bool crop = op->crop && s->crop;
    if (crop) {
        r->n = s->n_live;
        r->cropped = true;
    }
    if (r->n == 0)
        return;
    prepare(r, s->x, s->hp.width, crop, op->norm, op->formats, op->n_formats);
    uint32_t step = token_block(mat), to = op->split[r->tid + 1];
    /* Several panels per block of tokens, so that both stay in cache. */
    uint32_t group = r->n > 1 ? 4 : to;
    for (uint32_t p = op->split[r->tid]; p < to; p += group) {
        for (uint32_t t0 = 0; t0 < r->n; t0 += step) {
            mul(r, mat, p, NUM_MIN(p + group, to), t0, NUM_MIN(step, r->n - t0),
                s->out + (size_t)t0 * mat->m.rows + (size_t)p * mat->m.k->panel_rows, mat->m.rows);
        }
    }
}

static void copy_hidden(const struct run *r)
{
    struct cpu_stage *s = r->s;
    bool crop = s->crop && !r->cropped;
    uint32_t n = s->crop ? s->n_live : r->n, to = share(r, n, r->tid + 1);
    size_t width = s->hp.width;
    for (uint32_t i = share(r, n, r->tid); i < to; i++)
        memcpy(s->out + i * width, s->x + source(r, crop, i) * width, width * sizeof(float));
}

void cpu_region(void *stage, uint32_t tid)
{
    struct cpu_stage *s = stage;
    struct run r = {.s = s, .th = &s->threads[tid], .tid = tid, .n = s->batch->n_rows};
    uint32_t first = s->embed ? 1 : 0;

    input(&r, s->embed ? &s->ops[0] : NULL);
    for (uint32_t i = first; i < s->n_ops; i++) {
        const struct cpu_op *op = &s->ops[i];
        if (r.cropped && r.n == 0)
            return; /* nobody wants a result: the KV is written, the rest has no reader */
        switch (op->kind) {
        case PROG_QKV:
            op_qkv(&r, op);
            break;
        case PROG_ATTN:
            cpu_attn_op(s, op, &s->claims[i], tid);
            barrier(&r);
            break;
        case PROG_OUT:
            op_out(&r, op);
            break;
        case PROG_FFN:
            op_ffn(&r, op);
            break;
        case PROG_HEAD:
            op_head(&r, op);
            return;
        case PROG_EMBED:
            break;
        }
    }
    copy_hidden(&r);
}
