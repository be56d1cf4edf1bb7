/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_int.h - inside the CPU back end.
 *
 * cpu_stage.c opens a stage (packs weights, maps KV and scratch memory) and checks batches,
 * cpu_ops.c runs the program in one parallel region, cpu_attn.c is its attention.
 *
 * Division of work: every matrix operation gives thread t the range `split[t]` ..
 * `split[t + 1]` of its units, the same in every step, and cpu_claim.h says how threads take
 * them. Rows are divided evenly where a row is the unit; units of attention are divided anew
 * for every batch. No result depends on who computed it, nor on how many threads take part. */
#ifndef QUIRE_CPU_INT_H
#define QUIRE_CPU_INT_H

#include "base/num.h"
#include "quant/kern.h"
#include "worker/cpu/attn_kern.h"
#include "worker/cpu/cpu_claim.h"
#include "worker/cpu/pool.h"
#include "worker/model/backend.h"
#include "worker/model/program.h"

/* Different activation formats that one operation may need. */
#define CPU_FORMATS 3
/* Batches up to this are converted by every thread for itself: cheaper than a barrier. */
#define CPU_OWN_ROWS 2
/* Positions of one partial attention result. */
#define CPU_CHUNK 512
/* Pages of a head that follow each other in the KV cache: a chunk. */
#define CPU_KV_GROUP ((uint32_t)(CPU_CHUNK / BACKEND_PAGE_TOKENS))

struct cpu_mat {
    struct kern_mat m;
    const float *bias; /* NULL: none */
    uint32_t format;   /* place of its activation format among the operation's */
};

/* Rows of one matrix that are computed in one go: whole panels and, in QKV, whole heads. */
struct cpu_unit {
    uint32_t mat, panel_from, panel_to;
};

struct cpu_op {
    enum prog_kind kind;
    bool crop;
    uint32_t layer; /* of the stage's KV memory */
    const float *norm, *q_norm, *k_norm;
    const struct gguf_tensor *rows; /* EMBED: decoded from the file */
    struct cpu_mat mat[PROG_MATS];
    /* Activation formats of the input; of FFN's second matrix apart. */
    const struct kern_type *formats[CPU_FORMATS], *formats2[CPU_FORMATS];
    uint32_t n_formats, n_formats2;
    /* Units of the first matrices and of FFN's second; split[n_threads + 1]. */
    struct cpu_unit *units;
    uint32_t n_units;
    uint32_t *split, *split2; /* split2 counts panels of PROG_DOWN */
};

/* What a row of the batch is. */
struct cpu_row {
    uint32_t seq, pos;
    bool wanted;
};

/* Rows [row, row + n) of one sequence: with a KV head, one attention task. */
struct cpu_rows {
    uint32_t seq, row, n;
};

/* A thread's own memory. */
struct cpu_thread {
    unsigned char *acts; /* [CPU_FORMATS][CPU_OWN_ROWS] converted rows */
    struct kern_outliers outliers[CPU_OWN_ROWS];
    float *row;          /* one row of any width */
    float *tile, *tile2; /* results of units, tile_floats each */
    /* attention: n_q queries of one task */
    unsigned char *q; /* tiles */
    uint8_t *lo, *hi;
    float *max, *sum, *acc; /* of the current chunk */
    float *max_all, *sum_all, *acc_all;
};

/* Memory from mmap: zero, on huge pages where the system gives them. */
struct cpu_map {
    unsigned char *p;
    size_t bytes;
};

struct cpu_stage {
    struct stage base;
    const struct model *model;
    struct model_hparams hp;
    const struct kern *kern;
    const struct attn_kern *attn;
    struct pool *pool;
    bool borrowed_pool, fixed_threads;
    uint32_t n_threads;
    bool embed, head;
    uint32_t n_layers, max_tokens, max_seqs;

    struct cpu_op *ops;
    uint32_t n_ops;
    struct cpu_map weights;
    struct cpu_weights *loader; /* cpu_weights.c */
    void *vectors;              /* norms and biases */
    size_t weight_bytes;        /* of the packed matrices */

    /* KV: [page / CPU_KV_GROUP][layer][kv head][page % CPU_KV_GROUP]: what a query walks is one
     * stream where pages follow, and memory is taken by the group: with all pages of a head
     * together the first token would touch a huge page for each layer and head. */
    struct cpu_map kv;
    struct attn_layout layout;
    uint32_t n_pages;
    size_t kv_page_bytes; /* of all layers and heads */

    /* Scratch for max_tokens rows; all from one map. */
    struct cpu_map scratch;
    float *x, *att, *ffn;
    unsigned char *q; /* [max_tokens][heads] prepared queries */
    float *cosines, *sines;
    unsigned char *acts;            /* [CPU_FORMATS][max_tokens] rows of act_row bytes */
    struct kern_outliers *outliers; /* [max_tokens] */
    size_t act_row;
    size_t tile_floats;
    struct cpu_row *rows;
    uint32_t *map; /* live row -> row of the batch */
    struct cpu_rows *tasks;
    uint32_t attn_rows; /* most rows in a task */
    /* [2][n_threads]: while a phase uses one half, each thread clears its part of the other. */
    struct cpu_claim *claims;
    /* Decoding few sequences at depth: partial results [row][head][chunk] {max, sum, acc}. */
    float *partial;
    uint32_t partial_rows, partial_chunks;
    struct cpu_thread *threads;

    /* The batch that runs now. */
    const struct batch *batch;
    float *out;
    uint32_t n_live, n_tasks, n_chunks, n_attn_units;
    uint32_t *attn_split; /* [n_threads + 1] */
    bool crop, split_attn;
};

/* cpu_ops.c: the whole program, on all threads. */
void cpu_region(void *stage, uint32_t tid);

/* cpu_open.c: rounded up to whole huge pages, at least one byte more than asked. */
Q_MUST_CHECK int cpu_map_open(struct cpu_map *m, size_t bytes, const char *what, struct err *e);
void cpu_map_close(struct cpu_map *m);

/* cpu_attn.c */
void cpu_attn_op(struct cpu_stage *s, const struct cpu_op *op, struct cpu_claimer *claimer,
                 uint32_t tid);
/* Ask for what thread tid will read first in the layer's attention. */
void cpu_attn_ask(const struct cpu_stage *s, uint32_t layer, uint32_t tid);
/* Decide how this batch's attention is divided; before the region. */
void cpu_attn_plan(struct cpu_stage *s);

static inline unsigned char *cpu_kv_at(const struct cpu_stage *s, uint32_t layer, uint32_t page,
                                       uint32_t head)
{
    uint32_t in = page % CPU_KV_GROUP, first = page - in;
    size_t n = NUM_MIN(s->n_pages - first, CPU_KV_GROUP); /* the last group may be smaller */
    return s->kv.p + first * s->kv_page_bytes +
           (((size_t)layer * s->hp.n_kv_heads + head) * n + in) * s->layout.bytes;
}

#endif
