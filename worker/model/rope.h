/* SPDX-License-Identifier: Apache-2.0 */
/* rope.h - angles of rotary positions with their scaling kinds. Pure functions. */
#ifndef QUIRE_MODEL_ROPE_H
#define QUIRE_MODEL_ROPE_H

#include <stdint.h>

enum rope_kind { ROPE_NONE, ROPE_LINEAR, ROPE_YARN };

struct rope_config {
    enum rope_kind kind;
    uint32_t n_rot; /* rotated dimensions of a head, even */
    double base, factor;
    uint32_t n_ctx_orig; /* YaRN from here on */
    double ext_factor, attn_factor, beta_fast, beta_slow;
};

/* Angle per position of pair i into freqs[i], i < n_rot / 2. Returns what cos and sin are
 * multiplied by. */
double rope_freqs(const struct rope_config *c, double *freqs);

#endif
