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

/* One thread's view of the run: how many rows go on, and whether the crop has happened. */
struct run {
    struct cpu_stage *s;
    struct cpu_thread *th;
    uint32_t tid, n;
    uint32_t n_active;           /* threads that take part */
    uint32_t node_from, node_to; /* those of our memory node, absent ones too */
    bool cropped;
    const unsigned char *acts[CPU_FORMATS];
    const struct kern_outliers *outliers; /* of the rounded format */
    uint32_t set;                         /* of claims */
    struct cpu_claimer claimer;
};

static void barrier(const struct run *r)
{
    pool_barrier(r->s->pool, r->tid);
}

static uint32_t share(const struct run *r, uint32_t n, uint32_t tid)
{
    return (uint32_t)((uint64_t)n * tid / r->n_active);
}

/* Start a phase of claims; a barrier lies between any two. */
static void begin_claims(struct run *r, const uint32_t *split)
{
    struct cpu_claim *all = r->s->claims;
    uint32_t n = r->s->n_threads;
    for (uint32_t t = r->tid; t < n; t += r->n_active)
        atomic_store_explicit(&all[r->set * n + t].taken, 0, memory_order_relaxed);
    r->set ^= 1;
    r->claimer = (struct cpu_claimer){.claims = all + r->set * n,
                                      .split = split,
                                      .n = n,
                                      .n_active = r->n_active,
                                      /* kernels for more tokens like 2 or 4 panels at a time */
                                      .fours = r->n > 2,
                                      .tid = r->tid,
                                      .node_from = r->node_from,
                                      .node_to = r->node_to};
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
    struct kern_outliers *outliers = own ? r->th->outliers : s->outliers;
    size_t slot = s->act_row * (own ? CPU_OWN_ROWS : s->max_tokens);
    uint32_t from = own ? 0 : share(r, r->n, r->tid);
    uint32_t to = own ? r->n : share(r, r->n, r->tid + 1);

    for (uint32_t i = from; i < to; i++) {
        const float *x = in + (size_t)source(r, crop, i) * cols;
        if (norm) {
            s->kern->vec->rms_norm(x, norm, cols, s->hp.norm_eps, r->th->row);
            x = r->th->row;
        }
        for (uint32_t f = 0; f < n_formats; f++) {
            unsigned char *act = base + f * slot + i * formats[f]->act_bytes(cols);
            if (formats[f]->outliers_add) {
                kern_act_convert(formats[f], x, cols, act, &outliers[i]);
            } else {
                formats[f]->act_convert(x, cols, act);
            }
        }
    }
    r->outliers = outliers;
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
    kern_panels_mul(m, from, to, acts, r->outliers + t0, n, out, ld);
}

/* Rows that the matrix takes at once, where results of each are so many. */
static uint32_t token_block(const struct run *r, const struct cpu_mat *mat, uint32_t results)
{
    uint32_t block = kern_token_block(&mat->m, r->n);
    return (uint32_t)NUM_MIN((size_t)block, r->s->tile_floats / results);
}

/* Panels whose results for a block of rows fit the tile, at least one; whole fours. */
static uint32_t panel_group(const struct run *r, const struct cpu_mat *mat)
{
    size_t fit = r->s->tile_floats / ((size_t)token_block(r, mat, 1) * mat->m.k->panel_rows);
    return fit < 4 ? (uint32_t)NUM_MAX(fit, (size_t)1) : (uint32_t)fit / 4 * 4;
}

/* ---- QKV ----------------------------------------------------------------------------------- */

static void add_bias(const struct cpu_stage *s, float *x, const float *bias, uint32_t n)
{
    if (bias)
        s->kern->vec->add(x, bias, n);
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
        size_t at = ((size_t)row * s->hp.n_heads + head) * s->layout.query_bytes;
        attn_set_query(s->attn, &s->layout, x, s->hp.attn_scale, s->q + at);
        return;
    }
    const uint32_t *pages = s->batch->seqs[info->seq].pages;
    unsigned char *kv = cpu_kv_at(s, op->layer, pages[info->pos / BACKEND_PAGE_TOKENS], head);
    uint32_t slot = info->pos % BACKEND_PAGE_TOKENS;
    if (which == PROG_K) {
        attn_store_k(s->attn, &s->layout, v, kv, slot, x);
    } else {
        attn_store_v(s->attn, &s->layout, v, kv, slot, x);
    }
}

static void qkv_unit(struct run *r, const struct cpu_op *op, const struct cpu_unit *unit)
{
    struct cpu_stage *s = r->s;
    const struct cpu_mat *mat = &op->mat[unit->mat];
    uint32_t pr = mat->m.k->panel_rows, row0 = unit->panel_from * pr;
    uint32_t rows = NUM_MIN(unit->panel_to * pr, mat->m.rows) - row0;
    uint32_t dim = unit->mat == PROG_V ? s->hp.head_dim_v : s->hp.head_dim_k;
    uint32_t step = token_block(r, mat, rows);

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

static void op_qkv(struct run *r, const struct cpu_op *op)
{
    struct cpu_stage *s = r->s;
    uint32_t from, to;
    prepare(r, s->x, s->hp.width, false, op->norm, op->formats, op->n_formats);
    begin_claims(r, op->split);
    r->claimer.fours = false; /* a unit has several panels */
    while (cpu_claim_next(&r->claimer, &from, &to)) {
        for (uint32_t u = from; u < to; u++)
            qkv_unit(r, op, &op->units[u]);
    }
    cpu_attn_ask(s, op->layer, r->tid);
    barrier(r);
}

/* ---- OUT and FFN --------------------------------------------------------------------------- */

/* x += W a + bias for panels [from, end); rows come from behind the crop when crop. */
static void add_panels(const struct run *r, const struct cpu_mat *mat, uint32_t p, uint32_t end,
                       bool crop)
{
    struct cpu_stage *s = r->s;
    const struct kern_mat *m = &mat->m;
    uint32_t row0 = p * m->k->panel_rows, rows = NUM_MIN(end * m->k->panel_rows, m->rows) - row0;
    uint32_t step = token_block(r, mat, rows);
    size_t width = s->hp.width;

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

static void add_product(struct run *r, const struct cpu_mat *mat, const uint32_t *split, bool crop)
{
    uint32_t from, to;
    uint32_t group = panel_group(r, mat);

    begin_claims(r, split);
    while (cpu_claim_next(&r->claimer, &from, &to)) {
        for (uint32_t p = from; p < to; p += group)
            add_panels(r, mat, p, NUM_MIN(p + group, to), crop);
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

/* silu(gate) * up for units [u, last] of an FFN. */
static void ffn_units(const struct run *r, const struct cpu_op *op, uint32_t u, uint32_t last)
{
    struct cpu_stage *s = r->s;
    const struct cpu_mat *gate = &op->mat[PROG_GATE], *up = &op->mat[PROG_UP];
    uint32_t from = op->units[u].panel_from, to = op->units[last].panel_to, n_ff = s->hp.n_ff;
    uint32_t row0 = from * gate->m.k->panel_rows, pr_up = up->m.k->panel_rows;
    uint32_t rows = NUM_MIN(to * gate->m.k->panel_rows, n_ff) - row0;
    uint32_t up_from = row0 / pr_up, up_to = (row0 + rows + pr_up - 1) / pr_up;
    uint32_t step = token_block(r, gate, rows);

    for (uint32_t t0 = 0; t0 < r->n; t0 += step) {
        uint32_t n = NUM_MIN(step, r->n - t0);
        mul(r, gate, from, to, t0, n, r->th->tile, rows);
        mul(r, up, up_from, up_to, t0, n, r->th->tile2, rows);
        for (uint32_t t = 0; t < n; t++)
            s->kern->vec->silu_mul(s->ffn + (size_t)(t0 + t) * n_ff + row0,
                                   r->th->tile + (size_t)t * rows, r->th->tile2 + (size_t)t * rows,
                                   rows);
    }
}

static void op_ffn(struct run *r, const struct cpu_op *op)
{
    struct cpu_stage *s = r->s;
    const struct cpu_mat *gate = &op->mat[PROG_GATE];
    uint32_t from, to, group = panel_group(r, gate);

    prepare(r, s->x, s->hp.width, false, op->norm, op->formats, op->n_formats);
    begin_claims(r, op->split);
    while (cpu_claim_next(&r->claimer, &from, &to)) {
        /* As many units at once as fit the tile: a decode step then reads two long streams. */
        for (uint32_t u = from, last; u < to; u = last + 1) {
            uint32_t first = op->units[u].panel_from;
            last = u;
            while (last + 1 < to && op->units[last + 1].panel_to - first <= group)
                last++;
            ffn_units(r, op, u, last);
        }
    }
    barrier(r);
    prepare(r, s->ffn, s->hp.n_ff, false, NULL, op->formats2, op->n_formats2);
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
    uint32_t step = token_block(r, mat, 1), from, to;
    begin_claims(r, op->split);
    while (cpu_claim_next(&r->claimer, &from, &to)) {
        /* Few panels per block of tokens, so that both stay in cache. */
        uint32_t group = r->n > 1 ? 4 : to - from;
        for (uint32_t p = from; p < to; p += group) {
            for (uint32_t t0 = 0; t0 < r->n; t0 += step) {
                float *out = s->out + (size_t)t0 * mat->m.rows + (size_t)p * mat->m.k->panel_rows;
                mul(r, mat, p, NUM_MIN(p + group, to), t0, NUM_MIN(step, r->n - t0), out,
                    mat->m.rows);
            }
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
    struct run r = {.s = s,
                    .th = &s->threads[tid],
                    .tid = tid,
                    .n = s->batch->n_rows,
                    .n_active = pool_active(s->pool)};
    uint32_t first = s->embed ? 1 : 0;

    pool_node(s->pool, tid, &r.node_from, &r.node_to);
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
            begin_claims(&r, s->attn_split);
            r.claimer.single = true;
            cpu_attn_op(s, op, &r.claimer, tid);
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
