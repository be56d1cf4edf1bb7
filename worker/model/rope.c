/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/rope.h"

#include <math.h>

/* The pair whose wave turns `beta` times within the original context. */
static double yarn_corner(const struct rope_config *c, double beta)
{
    const double two_pi = 6.283185307179586476925;
    return (double)c->n_rot * log((double)c->n_ctx_orig / (beta * two_pi)) / (2 * log(c->base));
}

static double clamp(double x, double lo, double hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

double rope_freqs(const struct rope_config *c, double *freqs)
{
    double last = c->n_rot > 0 ? (double)c->n_rot - 1 : 0;
    double lo = clamp(floor(yarn_corner(c, c->beta_fast)), 0, last);
    double hi = clamp(ceil(yarn_corner(c, c->beta_slow)), 0, last);

    for (uint32_t i = 0; i < c->n_rot / 2; i++) {
        double f = pow(c->base, -2.0 * i / c->n_rot);
        if (c->kind == ROPE_LINEAR)
            f /= c->factor;
        if (c->kind == ROPE_YARN) {
            /* Fast waves keep their angle, slow ones are stretched, a ramp lies between. */
            double keep = c->ext_factor * (1 - clamp((i - lo) / fmax(0.001, hi - lo), 0, 1));
            f = f / c->factor * (1 - keep) + f * keep;
        }
        freqs[i] = f;
    }
    if (c->kind == ROPE_YARN && c->factor > 1)
        return c->attn_factor * (1 + 0.1 * log(c->factor));
    return c->attn_factor;
}
