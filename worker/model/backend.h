/* SPDX-License-Identifier: Apache-2.0 */
/* backend.h - what runs layers: one hot call per step and stage.
 *
 * A stage is a layer range of a model on one device with its own KV memory. The engine builds
 * a batch and calls stage_run; everything else here is cold. Inside run: no malloc, no lock,
 * no log. A stage is driven by one thread at a time; several stages may run at once.
 *
 * KV memory is pages of BACKEND_PAGE_TOKENS positions. Page ids are chosen by the caller (the
 * head's KV pool) and mean the same in every stage of a replica. */
#ifndef QUIRE_MODEL_BACKEND_H
#define QUIRE_MODEL_BACKEND_H

#include "base/err.h"
#include "worker/model/pack_mode.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BACKEND_PAGE_TOKENS 16

struct model; /* worker/model/model.h */

enum kv_type { KV_F16, KV_Q8_0, KV_F32 };
#define KV_TYPES 3

struct stage_config {
    const struct model *model;     /* borrowed, must outlive the stage */
    uint32_t layer_from, layer_to; /* [from, to); may be empty */
    bool embed;                    /* first: takes token ids, applies the embedding */
    bool head;                     /* last: applies final norm and output matrix, gives logits */
    uint32_t n_pages;              /* KV pages of this stage */
    enum kv_type kv;
    uint32_t max_tokens; /* most rows in one batch */
    uint32_t max_seqs;   /* most sequences in one batch */
    uint32_t n_threads;  /* 0: physical cores within the cgroup quota */
    bool pin_threads;    /* each on a core of its own */
    bool fixed_threads;  /* all in every step, even where fewer would be faster (tests) */
    /* NULL, or a stage of the same back end whose threads serve this one too. It lives longer,
     * and one thread drives both. */
    const struct stage *threads_of;
    enum pack_mode pack; /* are packed weights kept in files? */
    /* Loading progress 0..1, called from the opening thread; may be NULL. */
    void (*progress)(double done, void *ctx);
    void *progress_ctx;
};

/* Rows [first_row, first_row + n_rows) of the batch are consecutive positions of one sequence,
 * the last of which is n_ctx - 1. pages[i] holds positions [16 i, 16 i + 16). */
struct batch_seq {
    uint32_t first_row, n_rows;
    uint32_t n_ctx;        /* positions including these rows */
    const uint32_t *pages; /* ceil(n_ctx / 16) page ids */
};

struct batch {
    uint32_t n_rows;
    const uint32_t *tokens; /* [n_rows], stages with embed */
    const float *hidden;    /* [n_rows][width], stages without embed */
    const struct batch_seq *seqs;
    uint32_t n_seqs;
    /* Rows whose result is wanted, ascending. With head: logits of these rows. Without head:
     * hidden states of these rows only when out_all is false (the last stage before a remote
     * head), else of all rows. */
    const uint32_t *out_rows;
    uint32_t n_out;
    bool out_all;
};

struct stage; /* opaque, begins with its ops */

struct backend_ops {
    const char *name; /* "cpu", "cuda" */
    int (*open)(struct stage **out, const struct stage_config *cfg, struct err *e);
    void (*close)(struct stage *s);
    /* out: [n_out][vocab] logits with head; else [n_out or n_rows][width] hidden states.
     * The KV of all rows is written before it returns. Q_EINVAL for a batch beyond the
     * configured limits (a bug of the caller). */
    int (*run)(struct stage *s, const struct batch *b, float *out);
    size_t (*weight_bytes)(const struct stage *s);
    size_t (*kv_bytes)(const struct stage *s);
};

struct stage {
    const struct backend_ops *ops;
};

/* The CPU back end (worker/cpu). */
const struct backend_ops *backend_cpu(void);

static inline int stage_run(struct stage *s, const struct batch *b, float *out)
{
    return s->ops->run(s, b, out);
}

static inline void stage_close(struct stage *s)
{
    if (s)
        s->ops->close(s);
}

#endif
