/* SPDX-License-Identifier: Apache-2.0 */
/* sampler.h - from logits to a token.
 *
 * Order: bias and bans, penalties, temperature, min-p, top-k, top-p, draw; each filter works on
 * what the one before left. Greedy (temperature 0) ends after the penalties. Of equal logits the
 * lowest id counts as the larger one. The result is a pure function of the arguments: random
 * numbers are drawn from (seed, choice, position), never from a count of calls, and the
 * arithmetic is our own, so that a stream continues alike in another process.
 *
 * NaN logits count as minus infinity. Nothing here allocates except sampler_open; a sampler is
 * scratch memory for one thread. */
#ifndef QUIRE_ENGINE_SAMPLER_H
#define QUIRE_ENGINE_SAMPLER_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#define SAMPLER_MAX_TOP     20        /* alternatives reported per token */
#define SAMPLER_MAX_BIAS    4096      /* entries of logit_bias */
#define SAMPLER_MIN_LOGPROB (-9999.0) /* stands for minus infinity */

struct sampler_bias {
    uint32_t token;
    float bias;
};

struct sampler_params {
    double temperature;        /* 0: greedy */
    uint32_t top_k;            /* 0: off */
    double top_p;              /* 1: off; 0: the top token only */
    double min_p;              /* 0: off */
    double repetition_penalty; /* 1: off; over all tokens */
    double presence_penalty;   /* 0: off; over generated tokens */
    double frequency_penalty;
    uint64_t seed;
    const struct sampler_bias *bias; /* borrowed; ids inside the vocabulary */
    size_t n_bias;
};

/* 0, or Q_EINVAL with "field: what is allowed". n_vocab bounds the ids of bias. */
Q_MUST_CHECK int sampler_check(const struct sampler_params *p, uint32_t n_vocab, struct err *e);

/* What the choice of a token depends on besides the logits. */
struct sampler_input {
    const float *logits;    /* [n_vocab] */
    const uint32_t *tokens; /* the sequence so far: prompt, then generated */
    size_t n_tokens, n_prompt;
    const uint32_t *banned; /* ids that must not come, or NULL */
    size_t n_banned;
    /* Bit id: the token may come; one at least is set. NULL: all. Stronger than all else: where
     * bias and bans leave none of them, the best by its raw logit comes. */
    const uint64_t *allowed;
    uint32_t choice;   /* which of n_choices */
    uint32_t position; /* index of the token among the generated ones */
};

struct sampler;

Q_MUST_CHECK int sampler_open(struct sampler **out, uint32_t n_vocab, struct err *e);
void sampler_close(struct sampler *s); /* NULL is fine */
uint32_t sampler_pick(struct sampler *s, const struct sampler_params *p,
                      const struct sampler_input *in);

struct token_prob {
    uint32_t token;
    double logprob;
};

struct token_logprobs {
    uint32_t token;
    double logprob;
    uint32_t n_top;
    struct token_prob top[SAMPLER_MAX_TOP]; /* best first */
};

/* Natural log-softmax of the raw logits over the whole vocabulary. n_top <= SAMPLER_MAX_TOP. */
void sampler_logprobs(const float *logits, uint32_t n_vocab, uint32_t token, uint32_t n_top,
                      struct token_logprobs *out);

/* Uniform in [0, 1): the generator of sampler_pick. */
double sampler_uniform(uint64_t seed, uint32_t choice, uint32_t position);

#endif
