/* SPDX-License-Identifier: Apache-2.0 */
/* sched.h - which rows of which sequences go into the next step.
 *
 *              admit: pages for all its tokens           seq ends or is cancelled
 *   waiting  ------------------------------->  running  ------------------------->  gone
 *      ^                                          |
 *      +------------------------------------------+
 *        preempt: pages given back, n_past = 0, to be computed again
 *
 * 1. Both lists are ordered by age. Admission is first come, first served; paused sequences are
 *    passed over.
 * 2. A step is filled with decodes (one row each) first, then with prompt chunks, all under
 *    max_rows; new prompts are admitted while rows and pages are left.
 * 3. When a decode needs a page and none is free, paused sequences give up theirs first, then
 *    the youngest, never one with rows under way. The oldest is never preempted by another, and
 *    the pool holds at least one full context: so something always moves forward.
 * 4. A sequence may have several prompt chunks under way at once (stages keep the order), but
 *    nothing more once its next token is being computed (`awaiting`).
 * 5. The choices of a request share the full pages of their prompt: the first one computes them,
 *    the others are admitted once they are on their way and begin after them. Shared pages are
 *    full, so nobody writes them again.
 *
 * No threads, no clocks: the engine thread owns it. Nothing allocates after sched_open. */
#ifndef QUIRE_ENGINE_SCHED_H
#define QUIRE_ENGINE_SCHED_H

#include "worker/engine/kv_pool.h"
#include "worker/engine/pipeline.h"
#include "worker/engine/request.h"

struct sched_config {
    uint32_t n_pages, max_rows, max_seqs, max_out, depth;
};

/* A sequence's part of a step. seq is NULL once it was taken out while under way. */
struct sched_item {
    struct seq *seq;
    uint32_t pos;              /* position of its first row */
    uint32_t first_out, n_out; /* its results among the step's */
    bool last;                 /* its last result is for the next token */
};

/* A step and the memory behind it. */
struct sched_step {
    struct step step;
    struct sched_item *items; /* [step.n_seqs] */
    uint32_t *tokens, *out_rows;
    struct batch_seq *seqs;
    struct sched_step *next; /* for the engine */
};

struct seq_list {
    struct seq *head, *tail;
    uint32_t n;
};

struct sched {
    struct sched_config cfg;
    struct kv_pool *pool;
    struct seq_list waiting, running;
    uint64_t n_preempted;
};

Q_MUST_CHECK int sched_init(struct sched *s, const struct sched_config *cfg, struct err *e);
void sched_fini(struct sched *s); /* sequences must be gone */

Q_MUST_CHECK int sched_step_init(struct sched_step *st, const struct sched_config *cfg,
                                 struct err *e);
void sched_step_fini(struct sched_step *st);

/* Queue a sequence (order set, SEQ_WAITING). */
void sched_add(struct sched *s, struct seq *q);
/* Take it out, whatever it was doing; its pages are free again. SEQ_DONE afterwards. The caller
 * clears it from steps under way. */
void sched_remove(struct sched *s, struct seq *q);
/* Fill a step; false when there is nothing to do now. max_prefill bounds the rows of prompts. */
bool sched_plan(struct sched *s, struct sched_step *st, uint32_t max_prefill);
/* A step came back: its sequences may be planned again. */
void sched_complete(struct sched_step *st);

#endif
