/* SPDX-License-Identifier: Apache-2.0 */
/* runner.h - a model on this machine's CPU, driven step by step, for the tools.
 *
 * One stage with all layers and its own KV pages; every sequence has a fixed place for
 * n_positions. No scheduler: the caller says what runs. One thread. */
#ifndef QUIRE_TOOLS_RUNNER_H
#define QUIRE_TOOLS_RUNNER_H

#include "worker/model/backend.h"
#include "worker/model/model.h"

struct runner_config {
    uint32_t n_threads;   /* 0: physical cores */
    uint32_t max_rows;    /* of one step */
    uint32_t n_seqs;      /* places */
    uint32_t n_positions; /* of each place; 0: the trained context, 4096 at least */
    enum kv_type kv;
    enum pack_mode pack;
    bool pin_threads; /* each on a core of its own */
};

struct runner {
    struct model *model;
    struct stage *stage;
    uint32_t n_vocab, max_rows, n_seqs, n_positions;
    uint32_t *pages;        /* [n_seqs][n_positions / 16] */
    struct batch_seq *seqs; /* [n_seqs] */
    uint32_t *rows;         /* [max_rows] */
};

/* name: as tools_model_path. On failure nothing is left open. */
Q_MUST_CHECK int runner_open(struct runner *r, const char *name, const struct runner_config *cfg,
                             struct err *e);
void runner_close(struct runner *r);

/* "f16", "f32", "q8_0". */
Q_MUST_CHECK int runner_kv_type(const char *name, enum kv_type *kv, struct err *e);

/* Tokens at positions pos.. of place seq, max_rows at a time. out: logits of every token (all)
 * or of the last one; NULL: none. */
Q_MUST_CHECK int runner_feed(struct runner *r, uint32_t seq, uint32_t pos, const uint32_t *tokens,
                             uint32_t n, bool all, float *out, struct err *e);
/* The next len tokens of n texts, tokens [n][len], at positions pos.. of places 0..n-1; n * len <=
 * max_rows. out: logits of the positions from out_from on, text after text; NULL: none. */
Q_MUST_CHECK int runner_feed_texts(struct runner *r, uint32_t n, uint32_t pos,
                                   const uint32_t *tokens, uint32_t len, uint32_t out_from,
                                   float *out, struct err *e);
/* One token each for places 0..n-1, all at position pos; out [n][n_vocab]. */
Q_MUST_CHECK int runner_decode(struct runner *r, uint32_t n, uint32_t pos, const uint32_t *tokens,
                               float *out, struct err *e);

uint32_t runner_argmax(const float *logits, uint32_t n);

#endif
