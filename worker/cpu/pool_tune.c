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
    t->lost_ns = 0;
    t->next_try_ns = now_ns + t->pause_ns;
    t->pause_ns = NUM_MIN(2 * t->pause_ns, (uint64_t)POOL_TUNE_MAX_PAUSE_NS);
}

static void try_more(struct pool_tune *t, double eff)
{
    t->trying = true;
    t->base = t->n;
    t->base_eff = eff;
    t->windows = 0;
    t->lost_ns = 0;
    t->n = NUM_MIN(t->n + t->step, t->max);
}

static void judge_try(struct pool_tune *t, uint64_t now_ns, double wall_ns, double eff)
{
    t->lost_ns += NUM_MAX(t->base_eff - eff, 0.0) * wall_ns;
    t->windows++;
    if (eff >= t->base_eff + 0.5 * (t->n - t->base)) {
        /* Go on at once, in larger steps. A pause that had grown shrinks with each success. */
        t->trying = false;
        t->lost_ns = 0;
        t->step *= 2;
        t->pause_ns = NUM_MAX(t->pause_ns / 2, (uint64_t)POOL_TUNE_MIN_PAUSE_NS);
        if (t->n < t->max)
            try_more(t, eff);
    } else if (t->lost_ns > POOL_TUNE_TRY_LOST_NS || t->windows == POOL_TUNE_TRY_WINDOWS) {
        t->step = 1;
        retreat(t, now_ns, t->base);
    }
}

/* Fewer threads when these have cost too much. As many as did work are enough in any case. */
static void judge_loss(struct pool_tune *t, uint64_t now_ns, double wall_ns, double eff)
{
    t->lost_ns = NUM_MAX(t->lost_ns + ((t->n - 1) * 0.95 - eff) * wall_ns, 0.0);
    if (t->lost_ns == 0)
        t->step = 1;
    if (t->lost_ns <= POOL_TUNE_LOST_NS)
        return;
    uint32_t least = NUM_MAX((uint32_t)(eff + 0.5), 1U);
    uint32_t to = t->n > t->step ? t->n - t->step : 1;
    t->step *= 2;
    retreat(t, now_ns, NUM_MAX(to, least));
}

void pool_tune_step(struct pool_tune *t, uint64_t now_ns, uint64_t wall_ns, uint64_t work_ns)
{
    t->wall_ns += wall_ns;
    t->work_ns += work_ns;
    if (t->wall_ns < POOL_TUNE_WINDOW_NS)
        return;
    double wall = (double)t->wall_ns, eff = (double)t->work_ns / wall;
    t->wall_ns = t->work_ns = 0;

    if (t->trying) {
        judge_try(t, now_ns, wall, eff);
        return;
    }
    judge_loss(t, now_ns, wall, eff);
    if (t->n == t->max) { /* the longer it is calm, the more the next trouble is a new one */
        t->pause_ns = NUM_MAX(t->pause_ns - t->pause_ns / 64, (uint64_t)POOL_TUNE_MIN_PAUSE_NS);
    } else if (now_ns >= t->next_try_ns) {
        t->step = 1;
        try_more(t, eff);
    }
}
