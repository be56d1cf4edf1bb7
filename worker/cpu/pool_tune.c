/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/cpu/pool_tune.h"

#include "base/num.h"

void pool_tune_init(struct pool_tune *t, uint32_t n_threads)
{
    *t = (struct pool_tune){
        .max = n_threads, .n = n_threads, .step = 1, .pause_ns = POOL_TUNE_MIN_PAUSE_NS};
}

static void retreat(struct pool_tune *t, uint64_t now_ns, uint32_t to)
{
    t->n = to;
    t->trying = false;
    t->next_try_ns = now_ns + t->pause_ns;
    t->pause_ns = NUM_MIN(2 * t->pause_ns, (uint64_t)POOL_TUNE_MAX_PAUSE_NS);
}

static void judge_try(struct pool_tune *t, uint64_t now_ns, double eff)
{
    if (eff < t->base_eff + 0.5 * (t->n - t->base)) {
        t->step = 1;
        retreat(t, now_ns, t->base);
        return;
    }
    /* Go on at once, in larger steps. A pause that had grown shrinks with each success. */
    t->trying = false;
    t->next_try_ns = now_ns;
    t->step *= 2;
    t->pause_ns = NUM_MAX(t->pause_ns / 2, (uint64_t)POOL_TUNE_MIN_PAUSE_NS);
}

void pool_tune_step(struct pool_tune *t, uint64_t now_ns, uint64_t wall_ns, uint64_t work_ns)
{
    t->wall_ns += wall_ns;
    t->work_ns += work_ns;
    if (t->wall_ns < POOL_TUNE_WINDOW_NS)
        return;
    double eff = (double)t->work_ns / (double)t->wall_ns;
    t->wall_ns = t->work_ns = 0;

    if (t->trying) {
        judge_try(t, now_ns, eff);
    } else if (t->n > 1 && eff < (t->n - 1) * 0.95) {
        /* As many as did work are enough in any case. */
        uint32_t least = NUM_MAX((uint32_t)(eff + 0.5), 1U);
        uint32_t to = t->n > t->step ? t->n - t->step : 1;
        t->step *= 2;
        retreat(t, now_ns, NUM_MAX(to, least));
        return;
    } else {
        t->step = 1;
        if (t->n == t->max) /* calm: the next trouble is a new one */
            t->pause_ns = NUM_MAX(t->pause_ns - t->pause_ns / 64, (uint64_t)POOL_TUNE_MIN_PAUSE_NS);
    }
    if (t->n < t->max && now_ns >= t->next_try_ns) {
        t->trying = true;
        t->base = t->n;
        t->base_eff = eff;
        t->n = NUM_MIN(t->n + t->step, t->max);
    }
}
