/* SPDX-License-Identifier: Apache-2.0 */
/* How far ahead of the weights in use few-token kernels ask for memory.
 *
 * Whether asking helps is a matter of the CPU's own prefetchers: Sapphire Rapids, one thread, 400
 * MB of weights: Q4_0 8.5 -> 11.5 GB/s, Q4_K 7.8 -> 11.2, Q6_K 8.1 -> 11.8 at 4-8 KiB, which is
 * what a plain read gets; Zen 4 gains nothing or loses. So it is tried, on weights that are about
 * to be used anyway: 8 MB in turns, some 1 to 2 ms. The choice never changes a result. */
#include "quant/kern_impl.h"

#include "base/clock.h"
#include "base/num.h"

#include <stdlib.h>

enum { AHEAD = 6144, CHUNK = 1 << 20, CHUNKS = 8 };

_Atomic size_t kern_ahead_bytes;

void kern_tune(const struct kern_mat *m)
{
    static _Atomic bool tuned;
    const struct kern_type *k = m->k;
    uint32_t n = (uint32_t)(CHUNK / m->panel_bytes);
    if (n == 0 || m->n_panels / CHUNKS < n || atomic_exchange(&tuned, true))
        return;
    void *act = calloc(1, k->act_bytes(m->cols));
    float *out = calloc((size_t)n * k->panel_rows, sizeof(*out));
    uint64_t best[2] = {UINT64_MAX, UINT64_MAX};
    for (uint32_t i = 0; act && out && i < CHUNKS; i++) {
        unsigned with = (i + 1) / 2 % 2; /* without, with, with, without: drift hits both */
        atomic_store_explicit(&kern_ahead_bytes, with ? AHEAD : 0, memory_order_relaxed);
        uint64_t t = clock_mono_ns();
        kern_panels_mul(m, i * n, (i + 1) * n, act, NULL, 1, out, 0);
        t = clock_mono_ns() - t;
        best[with] = NUM_MIN(best[with], t);
    }
    /* A draw goes to the CPU. */
    bool ask = best[1] < best[0] - best[0] / 32;
    atomic_store_explicit(&kern_ahead_bytes, ask ? AHEAD : 0, memory_order_relaxed);
    free(act);
    free(out);
}
