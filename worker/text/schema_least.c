/* SPDX-License-Identifier: Apache-2.0 */
/* schema_least.c - about how many bytes the shortest value of each node and type has.
 *
 * What ends a text soon goes by these numbers only to choose what it tries first, so they may be
 * wrong; what matters is that a schema that contains itself counts as longer than the way out. */
#include "base/num.h"
#include "worker/text/schema_int.h"

#include <stdlib.h>

#define NAME_BYTES 12U /* of a member: a name, its quotes, colon and comma */
#define MAX_ROUNDS 40U

static uint32_t plus(uint32_t a, uint32_t b)
{
    return a >= SLEAST_NONE || b >= SLEAST_NONE - a ? SLEAST_NONE : a + b;
}

static uint32_t times(uint32_t a, uint32_t n)
{
    return a && n >= SLEAST_NONE / a ? SLEAST_NONE : a * n;
}

uint32_t sleast_node(const struct sgram *g, uint32_t node)
{
    uint32_t best = SLEAST_NONE;
    for (unsigned t = 0; t < 6; t++)
        best = NUM_MIN(best, g->least[(size_t)node * 6 + t]);
    return best;
}

static uint32_t of_array(const struct sgram *g, const struct sarr *a)
{
    uint32_t sum = 2, n = a->min;
    for (uint32_t i = 0; i < n && i < a->n_prefix && sum < SLEAST_NONE; i++)
        sum = plus(sum, 1 + sleast_node(g, a->prefix[i]));
    if (n > a->n_prefix)
        sum = plus(sum, times(1 + (a->items == GRAM_NONE ? 1 : sleast_node(g, a->items)),
                              n - a->n_prefix));
    if (a->contains != GRAM_NONE && a->min_contains > 0)
        sum = NUM_MAX(sum, plus(2, times(1 + sleast_node(g, a->contains), a->min_contains)));
    return sum;
}

/* value: by name, what its value takes at least. */
static uint32_t of_object(const struct sobj *o, const uint32_t *value)
{
    uint32_t sum = 2;
    for (uint32_t i = 0; i < o->n_required; i++)
        sum = plus(sum, plus(NAME_BYTES, value[o->required[i]]));
    if (o->min > o->n_required)
        sum = plus(sum, times(NAME_BYTES, o->min - o->n_required));
    return sum;
}

static uint32_t own(const struct sgram *g, const struct snode *n, unsigned t, uint32_t *value)
{
    switch (1U << t) {
    case T_NULL:
        return 4;
    case T_BOOL:
        return n->bools == 1 ? 5 : n->bools ? 4 : SLEAST_NONE;
    case T_NUM:
        return 1;
    case T_STR: {
        const struct sstr *s = n->str == GRAM_NONE ? NULL : &g->str[n->str];
        return !s ? 2 : plus(2, NUM_MAX(s->min, s->d ? s->d->min_dist[s->d->start] : 0));
    }
    case T_ARR:
        return n->arr == GRAM_NONE ? 2 : of_array(g, &g->arr[n->arr]);
    default:
        break;
    }
    if (n->obj == GRAM_NONE)
        return 2;
    const struct sobj *o = &g->obj[n->obj];
    for (uint32_t i = 0; i < o->n_names; i++)
        value[i] = 1;
    for (uint32_t l = 0; l < o->d->n_lists; l++) {
        const struct skey *k = &o->key[l];
        for (uint32_t i = 0; k->name != GRAM_NONE && i < k->count; i++)
            value[k->name] = NUM_MAX(value[k->name], sleast_node(g, g->key_node[k->first + i]));
    }
    return of_object(o, value);
}

static uint32_t measure(const struct sgram *g, const struct snode *n, unsigned t, uint32_t *value)
{
    uint32_t sum = n->types >> t & 1 ? own(g, n, t, value) : SLEAST_NONE, any = SLEAST_NONE,
             one = SLEAST_NONE;
    bool has_any = false, has_one = false;
    for (uint32_t k = 0; k < n->n_kids; k++) {
        const struct skid *kid = &g->kid[n->kid + k];
        uint32_t x = g->least[(size_t)kid->node * 6 + t];
        if (kid->role == KID_ALL) {
            sum = NUM_MAX(sum, x);
        } else if (kid->role == KID_ANY) {
            has_any = true;
            any = NUM_MIN(any, x);
        } else if (kid->role == KID_ONE) {
            has_one = true;
            one = NUM_MIN(one, x);
        }
    }
    if (has_any)
        sum = NUM_MAX(sum, any);
    return has_one ? NUM_MAX(sum, one) : sum;
}

int sleast_make(struct sgram *g, struct err *e)
{
    uint32_t names = 1;
    for (uint32_t i = 0; i < g->n_obj; i++)
        names = NUM_MAX(names, g->obj[i].n_names);
    uint32_t *value = malloc(names * sizeof *value);
    g->least = malloc(((size_t)g->n_node + 1) * 6 * sizeof *g->least);
    if (!value || !g->least) {
        free(value);
        return err_set(e, Q_ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < (size_t)g->n_node * 6; i++)
        g->least[i] = SLEAST_NONE;
    bool changed = true;
    /* Parts are mostly numbered after the whole: from the last to the first settles soon. */
    for (unsigned round = 0; changed && round < MAX_ROUNDS; round++) {
        changed = false;
        for (uint32_t i = g->n_node; i-- > 0;) {
            for (unsigned t = 0; t < 6; t++) {
                uint32_t *to = &g->least[(size_t)i * 6 + t], x = *to;
                *to = measure(g, &g->node[i], t, value);
                changed |= *to != x;
            }
        }
    }
    free(value);
    return 0;
}
