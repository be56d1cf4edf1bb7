/* SPDX-License-Identifier: Apache-2.0 */
/* schema_string.c - what a mask needs to know of a string that is being read: which schemas watch
 * its characters, and which texts of it lead to the same. */
#include "worker/text/schema_slots.h"

uint32_t srun_tracks(const struct sgram *g, const struct sstate *st, struct strack *t)
{
    struct frame *f = srun_frame(st, st->top);
    uint32_t n = 0;
    for (uint32_t i = 0; i < f->n_slots; i++) {
        const struct slot *s = &srun_slots(f)[i];
        const struct snode *node = &g->node[s->node];
        uint32_t at = st->in_key ? node->obj : node->str;
        if (s->v != V_OPEN || at == GRAM_NONE)
            continue;
        const struct sobj *o = st->in_key ? &g->obj[at] : NULL;
        const struct dfa *d = o ? o->d : g->str[at].d;
        uint32_t max = o ? GRAM_NONE : g->str[at].max;
        if (!d && max == GRAM_NONE)
            continue;
        if (n == SRUN_TRACKS)
            return GRAM_NONE;
        t[n++] = (struct strack){d, o, s, s->q, max, i};
    }
    return n;
}

bool srun_track(const struct sstate *st, const struct strack *t, uint32_t *q, uint32_t lo,
                uint32_t hi, bool whole, uint32_t n)
{
    if (n > t->max)
        return false;
    if (!t->d)
        return true;
    if (!whole)
        return dfa_alive(t->d, *q, lo, hi);
    *q = dfa_next(t->d, *q, lo);
    if (!t->o)
        return *q && t->d->min_dist[*q] <= t->max - n;
    struct slot s = *t->of;
    s.q = *q;
    return srun_key_lives(st, t->o, &s);
}

bool srun_lost(const struct sgram *g, const struct sstate *st, struct sstate *scratch,
               const struct strack *t, unsigned failed)
{
    sstate_copy(scratch, st);
    scratch->low = 0; /* it is no copy to go on from */
    for (uint32_t i = 0; failed; i++, failed >>= 1)
        if (failed & 1)
            srun_slots(srun_frame(scratch, scratch->top))[t[i].slot].v = V_FALSE;
    return !srun_settle(g, scratch, scratch->top);
}

bool srun_close_mark(const struct sgram *g, const struct sstate *st, uint64_t *mark)
{
    const struct frame *f = srun_frame(st, st->top);
    uint64_t h = st->in_key;
    bool twice = false;
    if (st->low < st->top)
        return false; /* verdicts around the string have changed */
    for (uint32_t i = 0; i < f->n_slots; i++) {
        const struct slot *s = &srun_slots(srun_frame(st, st->top))[i];
        const struct snode *n = &g->node[s->node];
        uint64_t x = 0;
        if (s->v == V_OPEN && st->in_key && n->obj != GRAM_NONE) {
            x = g->obj[n->obj].d->accept[s->q];
        } else if (s->v == V_OPEN && !st->in_key && n->str != GRAM_NONE) {
            const struct sstr *c = &g->str[n->str];
            x = (!c->d || c->d->accept[s->q]) && st->n_chars >= c->min && st->n_chars <= c->max;
        }
        h = gram_mix(h * 31 + x * 4 + s->v);
    }
    if (st->in_key) {
        twice = srun_has_key(st, f, st->hash);
    } else if (f->prev != NO_FRAME) {
        const struct frame *up = srun_frame(st, f->prev);
        if (up->type == T_ARR)
            twice = srun_has_key(st, up, gram_mix(st->hash + T_STR));
    }
    *mark = gram_mix(h * 31 + twice);
    return true;
}

bool srun_unique_around(const struct sgram *g, const struct sstate *st)
{
    const struct frame *f = srun_frame(st, st->top);
    while (f->prev != NO_FRAME) {
        struct frame *up = srun_frame(st, f->prev);
        for (uint32_t i = 0; i < up->n_slots; i++) {
            uint32_t arr = g->node[srun_slots(up)[i].node].arr;
            if (arr != GRAM_NONE && g->arr[arr].unique)
                return true;
        }
        f = up;
    }
    return false;
}
