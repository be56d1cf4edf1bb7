/* SPDX-License-Identifier: Apache-2.0 */
/* logprob_run.h - the log-probabilities of a whole perplexity run in a file, to compare later runs.
 *
 * Head: magic, vocabulary, window, windows. Then one record a scored position: the token that
 * came, the likeliest one, its log-probability, the width of a code, and 16-bit codes:
 * log p[i] = top - step * code[i]. Tokens below e^-32 of the likeliest count as e^-32 of it.
 * All little-endian. The file is written beside its name and renamed when complete. One thread. */
#ifndef QUIRE_TOOLS_LOGPROB_RUN_H
#define QUIRE_TOOLS_LOGPROB_RUN_H

#include "base/err.h"

#include <stdint.h>

struct logprob_run;

struct logprob_head {
    uint32_t n_vocab, window, n_windows;
};

Q_MUST_CHECK int logprob_run_create(struct logprob_run **out, const char *path,
                                    const struct logprob_head *head, struct err *e);
/* Refuses a file of another window or vocabulary or with fewer windows. */
Q_MUST_CHECK int logprob_run_open(struct logprob_run **out, const char *path,
                                  const struct logprob_head *head, struct err *e);
/* The next position, whose text goes on with `came`. logits [n_vocab]; top: the likeliest;
 * log_sum: log of the sum of their exponentials. */
Q_MUST_CHECK int logprob_run_write(struct logprob_run *r, const float *logits, uint32_t came,
                                   uint32_t top, double log_sum, struct err *e);
/* Fills log_p [n_vocab] and the likeliest token; refuses a position where another token came. */
Q_MUST_CHECK int logprob_run_read(struct logprob_run *r, uint32_t came, float *log_p, uint32_t *top,
                                  struct err *e);
/* Give a created file its name. */
Q_MUST_CHECK int logprob_run_finish(struct logprob_run *r, struct err *e);
void logprob_run_close(struct logprob_run *r); /* NULL is fine; unfinished files go away */

#endif
