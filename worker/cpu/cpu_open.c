/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a CPU stage: which rows of which matrix are a unit of work, then weights
 * (cpu_weights.c), KV and scratch memory. */
#include "worker/cpu/cpu_open.h"

#include "base/num.h"
#include "worker/cpu/cpu_weights.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ALIGN       64U
#define HUGE_PAGE   (2U << 20)
#define TILE_FLOATS 33792U     /* 132 KiB: results of 16 panels of 16 rows for 132 tokens */
#define MAX_TOKENS  (1U << 20) /* of one batch */
#define MAX_PAGES   (1U << 28)

/* ---- memory -------------------------------------------------------------------------------- */

int cpu_map_open(struct cpu_map *m, size_t bytes, const char *what, struct err *e)
{
    if (bytes > SIZE_MAX / 2)
        return err_set(e, Q_ENOMEM, "%s: too large", what);
    bytes = (bytes + HUGE_PAGE) / HUGE_PAGE * HUGE_PAGE; /* at least one byte more than asked */
    /* Twice aligned: the map is cut to whole huge pages. */
    size_t wide = bytes + HUGE_PAGE;
    unsigned char *p = mmap(NULL, wide, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return err_set(e, Q_ENOMEM, "no memory for %s: %zu MB", what, bytes >> 20);
    size_t skip = (HUGE_PAGE - (size_t)(uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
    if (skip > 0)
        munmap(p, skip);
    munmap(p + skip + bytes, wide - skip - bytes);
    madvise(p + skip, bytes, MADV_HUGEPAGE); /* a wish: works without */
    m->p = p + skip;
    m->bytes = bytes;
    return 0;
}

void cpu_map_close(struct cpu_map *m)
{
    if (m->p)
        munmap(m->p, m->bytes);
    m->p = NULL;
}

/* Takes pieces off a map; with p NULL it only measures. */
struct carve {
    unsigned char *p;
    size_t used;
    bool overflow;
};

static void *carve(struct carve *c, size_t n, size_t elem)
{
    size_t bytes, end;
    if (!num_mul(n, elem, &bytes) || !num_add(c->used, bytes, &end) || !num_add(end, ALIGN, &end)) {
        c->overflow = true;
        return NULL;
    }
    void *at = c->p ? c->p + c->used : NULL;
    c->used = (c->used + bytes + ALIGN - 1) / ALIGN * ALIGN;
    return at;
}

/* ---- operations ---------------------------------------------------------------------------- */

/* Place of the matrix's activation format in a list, added when new. CPU_FORMATS is the number
 * of matrices that share an input, so the list can't overflow. */
static uint32_t format_of(const struct kern_type **list, uint32_t *n, const struct kern_type *k)
{
    for (uint32_t i = 0; i < *n; i++) {
        if (list[i]->act_format == k->act_format)
            return i;
    }
    list[*n] = k;
    return (*n)++;
}

static uint32_t lcm(uint32_t a, uint32_t b)
{
    uint32_t x = a, y = b;
    while (y) {
        uint32_t t = x % y;
        x = y;
        y = t;
    }
    return a / x * b;
}

static int add_units(struct cpu_op *op, uint32_t mat, uint32_t unit_rows, struct err *e)
{
    const struct kern_mat *m = &op->mat[mat].m;
    uint32_t step = unit_rows / m->k->panel_rows;
    uint32_t n = (m->n_panels + step - 1) / step;
    struct cpu_unit *more = realloc(op->units, (op->n_units + n) * sizeof(*more));
    if (!more)
        return err_set(e, Q_ENOMEM, "no memory for the plan of a layer");
    op->units = more;
    for (uint32_t p = 0; p < m->n_panels; p += step)
        more[op->n_units++] = (struct cpu_unit){mat, p, NUM_MIN(p + step, m->n_panels)};
    return 0;
}

static int split_even(uint32_t **split, uint32_t n, uint32_t n_threads, struct err *e)
{
    *split = malloc((n_threads + 1) * sizeof(**split));
    if (!*split)
        return err_set(e, Q_ENOMEM, "no memory for the plan of a layer");
    for (uint32_t t = 0; t <= n_threads; t++)
        (*split)[t] = (uint32_t)((uint64_t)n * t / n_threads);
    return 0;
}

/* Give every thread units of about equal bytes. */
static int split_units(struct cpu_op *op, uint32_t n_threads, struct err *e)
{
    uint64_t total = 0, sum = 0;
    uint32_t t = 0;
    int rc = split_even(&op->split, op->n_units, n_threads, e);
    if (rc)
        return rc;
    for (uint32_t u = 0; u < op->n_units; u++)
        total += (op->units[u].panel_to - op->units[u].panel_from) *
                 op->mat[op->units[u].mat].m.panel_bytes;
    for (uint32_t u = 0; u < op->n_units; u++) {
        uint64_t bytes = (op->units[u].panel_to - op->units[u].panel_from) *
                         op->mat[op->units[u].mat].m.panel_bytes;
        while (t < n_threads && (sum + bytes / 2) * n_threads >= total * t)
            op->split[t++] = u;
        sum += bytes;
    }
    while (t <= n_threads)
        op->split[t++] = op->n_units;
    return 0;
}

static int plan_op(struct cpu_stage *s, const struct prog_op *from, struct cpu_op *op,
                   struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0; i < PROG_MATS && from->kind != PROG_EMBED; i++) {
        const struct gguf_tensor *t = from->mat[i].w;
        if (!t)
            continue;
        rc = kern_mat_init(&op->mat[i].m, s->kern, (enum qtype)t->type->id, (uint32_t)t->dims[1],
                           (uint32_t)t->dims[0], e);
        if (rc)
            return err_prefix(e, rc, "%.*s", (int)t->name.n, t->name.p);
        bool second = from->kind == PROG_FFN && i == PROG_DOWN;
        op->mat[i].format = second ? format_of(op->formats2, &op->n_formats2, op->mat[i].m.k)
                                   : format_of(op->formats, &op->n_formats, op->mat[i].m.k);
    }
    switch (from->kind) {
    case PROG_EMBED:
        op->rows = from->mat[PROG_W].w;
        return 0;
    case PROG_ATTN:
        return 0;
    case PROG_QKV:
        for (uint32_t i = PROG_Q; i <= PROG_V && rc == 0; i++) {
            uint32_t dim = i == PROG_V ? s->hp.head_dim_v : s->hp.head_dim_k;
            rc = add_units(op, i, lcm(dim, op->mat[i].m.k->panel_rows), e);
        }
        return rc ? rc : split_units(op, s->n_threads, e);
    case PROG_FFN:
        rc =
            add_units(op, PROG_GATE,
                      lcm(op->mat[PROG_GATE].m.k->panel_rows, op->mat[PROG_UP].m.k->panel_rows), e);
        if (rc == 0)
            rc = split_even(&op->split, op->n_units, s->n_threads, e);
        return rc ? rc : split_even(&op->split2, op->mat[PROG_DOWN].m.n_panels, s->n_threads, e);
    case PROG_OUT:
    case PROG_HEAD:
        return split_even(&op->split, op->mat[PROG_W].m.n_panels, s->n_threads, e);
    }
    return 0;
}

static int plan_ops(struct cpu_stage *s, const struct program *prog, struct err *e)
{
    s->ops = calloc(prog->n_ops + 1, sizeof(*s->ops));
    s->claims = aligned_alloc(ALIGN, 2 * s->n_threads * sizeof(*s->claims));
    if (!s->ops || !s->claims)
        return err_set(e, Q_ENOMEM, "no memory for the layer program");
    s->n_ops = prog->n_ops;
    for (uint32_t i = 0; i < prog->n_ops; i++) {
        struct cpu_op *op = &s->ops[i];
        op->kind = prog->ops[i].kind;
        op->crop = prog->ops[i].crop;
        op->layer = prog->ops[i].layer - prog->layer_from;
        int rc = plan_op(s, &prog->ops[i], op, e);
        if (rc)
            return rc;
    }
    return 0;
}

/* ---- KV and scratch ------------------------------------------------------------------------ */

static int open_kv(struct cpu_stage *s, const struct stage_config *cfg, struct err *e)
{
    size_t bytes;
    s->n_pages = cfg->n_pages;
    s->layout = attn_layout_of(s->attn, cfg->kv, s->hp.head_dim_k, s->hp.head_dim_v);
    if (!num_mul(s->layout.bytes, s->hp.n_kv_heads, &bytes) ||
        !num_mul(bytes, s->n_layers, &s->kv_page_bytes) ||
        !num_mul(s->kv_page_bytes, s->n_pages, &bytes))
        return err_set(e, Q_ENOMEM, "a KV cache of %u pages is too large", s->n_pages);
    return bytes ? cpu_map_open(&s->kv, bytes, "the KV cache", e) : 0;
}

static size_t largest_act_row(const struct cpu_stage *s)
{
    size_t most = ALIGN;
    for (uint32_t i = 0; i < s->n_ops; i++) {
        for (uint32_t m = 0; m < PROG_MATS; m++) {
            const struct kern_mat *mat = &s->ops[i].mat[m].m;
            if (mat->k)
                most = NUM_MAX(most, mat->k->act_bytes(mat->cols));
        }
    }
    return most;
}

/* A tile must hold one token's results of the largest unit. */
static size_t tile_size(const struct cpu_stage *s)
{
    size_t most = TILE_FLOATS;
    for (uint32_t i = 0; i < s->n_ops; i++) {
        const struct cpu_op *op = &s->ops[i];
        for (uint32_t u = 0; u < op->n_units; u++) {
            const struct cpu_unit *unit = &op->units[u];
            size_t rows =
                (size_t)(unit->panel_to - unit->panel_from) * op->mat[unit->mat].m.k->panel_rows;
            most = NUM_MAX(most, rows);
        }
    }
    return most;
}

static void carve_thread(const struct cpu_stage *s, struct carve *c, struct cpu_thread *th)
{
    size_t g = s->hp.n_heads / s->hp.n_kv_heads, n_q = s->attn_rows * g, n_ff = s->hp.n_ff;
    size_t widest =
        NUM_MAX(NUM_MAX((size_t)s->hp.width, n_ff), (size_t)s->hp.n_heads * s->hp.head_dim_v);

    th->acts = carve(c, CPU_FORMATS * CPU_OWN_ROWS, s->act_row);
    th->row = carve(c, widest, sizeof(float));
    th->tile = carve(c, s->tile_floats, sizeof(float));
    th->tile2 = carve(c, s->tile_floats, sizeof(float));
    th->q = carve(c, (n_q + ATTN_TILE - 1) / ATTN_TILE, s->layout.tile_bytes);
    th->lo = carve(c, n_q, 1);
    th->hi = carve(c, n_q, 1);
    th->max = carve(c, n_q, sizeof(float));
    th->sum = carve(c, n_q, sizeof(float));
    th->acc = carve(c, n_q * s->layout.dv_pad, sizeof(float));
    th->max_all = carve(c, n_q, sizeof(float));
    th->sum_all = carve(c, n_q, sizeof(float));
    th->acc_all = carve(c, n_q * s->layout.dv_pad, sizeof(float));
}

/* Once with c->p NULL to measure, once to set the pointers. */
static void carve_scratch(struct cpu_stage *s, struct carve *c)
{
    size_t n = s->max_tokens;
    s->x = carve(c, n * s->hp.width, sizeof(float));
    s->acts = carve(c, CPU_FORMATS * n, s->act_row);
    s->outliers = carve(c, n, sizeof(*s->outliers));
    s->rows = carve(c, n, sizeof(*s->rows));
    s->map = carve(c, n, sizeof(*s->map));
    s->tasks = carve(c, n, sizeof(*s->tasks));
    s->attn_split = carve(c, s->n_threads + 1, sizeof(*s->attn_split));
    if (s->n_layers > 0) {
        s->q = carve(c, n * s->hp.n_heads, s->layout.query_bytes);
        s->att = carve(c, n * s->hp.n_heads, s->hp.head_dim_v * sizeof(float));
        s->ffn = carve(c, n * s->hp.n_ff, sizeof(float));
        s->cosines = carve(c, n * (s->hp.n_rot / 2), sizeof(float));
        s->sines = carve(c, n * (s->hp.n_rot / 2), sizeof(float));
        s->partial = carve(c, (size_t)s->partial_rows * s->hp.n_heads * s->partial_chunks,
                           (s->layout.dv_pad + 2) * sizeof(float));
    }
    for (uint32_t t = 0; t < s->n_threads; t++)
        carve_thread(s, c, &s->threads[t]);
}

static int open_scratch(struct cpu_stage *s, struct err *e)
{
    struct carve c = {.p = NULL};
    uint32_t g = s->hp.n_heads / s->hp.n_kv_heads;

    s->act_row = largest_act_row(s);
    s->tile_floats = tile_size(s);
    s->attn_rows = NUM_MAX(ATTN_BLOCK / g, 1U);
    s->partial_rows = NUM_MIN(s->max_tokens, 8 * s->n_threads / s->hp.n_kv_heads + 1);
    s->partial_chunks =
        (uint32_t)(((uint64_t)s->n_pages * BACKEND_PAGE_TOKENS + CPU_CHUNK - 1) / CPU_CHUNK);
    s->threads = calloc(s->n_threads, sizeof(*s->threads));
    if (!s->threads)
        return err_set(e, Q_ENOMEM, "no memory for threads");
    carve_scratch(s, &c);
    if (c.overflow)
        return err_set(e, Q_ENOMEM, "the working memory is too large");
    int rc = cpu_map_open(&s->scratch, c.used, "working memory", e);
    if (rc)
        return rc;
    c = (struct carve){.p = s->scratch.p};
    carve_scratch(s, &c);
    return 0;
}

/* ---- the face ------------------------------------------------------------------------------ */

static int check_config(const struct stage_config *cfg, struct err *e)
{
    if ((uint32_t)cfg->kv >= KV_TYPES)
        return err_set(e, Q_EINVAL, "a KV cache of an unknown type");
    if (cfg->max_tokens < 1 || cfg->max_tokens > MAX_TOKENS || cfg->max_seqs < 1 ||
        cfg->n_pages > MAX_PAGES)
        return err_set(e, Q_EINVAL, "a stage of %u rows, %u sequences, %u pages", cfg->max_tokens,
                       cfg->max_seqs, cfg->n_pages);
    return 0;
}

static int take_threads(struct cpu_stage *s, const struct stage_config *cfg, struct err *e)
{
    const struct pool_config pc = {.n_threads = cfg->n_threads, .pin = cfg->pin_threads};
    s->fixed_threads = cfg->fixed_threads;
    if (!cfg->threads_of)
        return pool_open(&s->pool, &pc, e);
    if (cfg->threads_of->ops != backend_cpu())
        return err_set(e, Q_EINVAL, "threads of a stage that is not on the CPU");
    s->pool = ((const struct cpu_stage *)cfg->threads_of)->pool;
    s->borrowed_pool = true;
    return 0;
}

/* On the largest matrix: it is the least likely to lie in a cache. */
static void tune(const struct cpu_stage *s)
{
    const struct kern_mat *best = NULL;
    for (uint32_t i = 0; i < s->n_ops; i++)
        for (uint32_t m = 0; m < PROG_MATS; m++) {
            const struct kern_mat *mat = &s->ops[i].mat[m].m;
            if (mat->k && (!best || kern_mat_bytes(mat) > kern_mat_bytes(best)))
                best = mat;
        }
    if (best)
        kern_tune(best);
}

static int fill_stage(struct cpu_stage *s, const struct stage_config *cfg,
                      const struct program *prog, struct err *e)
{
    int rc = kern_get(&s->kern, e);
    if (rc)
        return rc;
    s->attn = attn_kern_at(s->kern->level);
    if ((rc = take_threads(s, cfg, e)))
        return rc;
    s->n_threads = pool_threads(s->pool);
    if ((rc = plan_ops(s, prog, e)) || (rc = cpu_weights_open(s, cfg, prog, e)) ||
        (rc = open_kv(s, cfg, e)))
        return rc;
    tune(s);
    return open_scratch(s, e);
}

int cpu_stage_new(struct cpu_stage **out, const struct stage_config *cfg, struct err *e)
{
    struct program *prog = NULL;
    *out = NULL;
    int rc = check_config(cfg, e);
    if (rc)
        return rc;
    struct cpu_stage *s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(e, Q_ENOMEM, "no memory for a stage");
    s->model = cfg->model;
    s->hp = *model_hparams(cfg->model);
    s->embed = cfg->embed;
    s->head = cfg->head;
    s->max_tokens = cfg->max_tokens;
    s->max_seqs = cfg->max_seqs;
    s->n_layers = cfg->layer_to - cfg->layer_from;
    rc = program_compile(&prog, cfg->model, cfg->layer_from, cfg->layer_to, cfg->embed, cfg->head,
                         e);
    if (rc == 0)
        rc = fill_stage(s, cfg, prog, e);
    program_free(prog);
    if (rc) {
        cpu_stage_free(s);
        return rc;
    }
    *out = s;
    return 0;
}

void cpu_stage_free(struct cpu_stage *s)
{
    if (!s)
        return;
    cpu_weights_close(s);
    if (!s->borrowed_pool)
        pool_close(s->pool);
    for (uint32_t i = 0; s->ops && i < s->n_ops; i++) {
        free(s->ops[i].units);
        free(s->ops[i].split);
        free(s->ops[i].split2);
    }
    free(s->ops);
    free(s->claims);
    free(s->threads);
    cpu_map_close(&s->kv);
    cpu_map_close(&s->scratch);
    free(s);
}
