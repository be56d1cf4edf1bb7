/* SPDX-License-Identifier: Apache-2.0 */
/* gram_gbnf_class.c - the characters that a grammar can tell apart. */
#include "worker/text/gram_gbnf.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

uint32_t gbnf_class(const struct gbnf *g, uint32_t cp)
{
    return cp < 128 ? g->ascii[cp] : g->bound_class[gram_bound_at(g->bound, g->n_bounds, cp)];
}

/* What state s takes: n ranges, none unless it is one of characters. */
static const struct gram_range *ranges(const struct nfa *a, uint32_t s, uint32_t *n)
{
    *n = a->s[s].op == NFA_CHAR ? a->s[s].n_rng : 0;
    return *n ? a->rng + a->s[s].first : NULL;
}

/* Intervals between two bounds; mark[i] tells apart which states take interval i. */
static uint32_t intervals(const struct gbnf *g, uint32_t *bound, uint64_t *mark)
{
    const struct nfa *a = &g->a;
    uint32_t n = 0, kept = 0, n_r;
    bound[n++] = 0;
    for (uint32_t s = 0; s < a->n; s++) {
        const struct gram_range *r = ranges(a, s, &n_r);
        for (uint32_t i = 0; i < n_r; i++) {
            bound[n++] = r[i].lo;
            if (r[i].hi < GRAM_MAX_CP)
                bound[n++] = r[i].hi + 1;
        }
    }
    qsort(bound, n, sizeof *bound, gram_cmp_u32);
    for (uint32_t i = 0; i < n; i++)
        if (i == 0 || bound[i] != bound[kept - 1])
            bound[kept++] = bound[i];
    for (uint32_t s = 0; s < a->n; s++) {
        const struct gram_range *r = ranges(a, s, &n_r);
        for (uint32_t i = 0; i < n_r; i++) {
            mark[gram_bound_at(bound, kept, r[i].lo)] ^= gram_mix(s + 1);
            if (r[i].hi < GRAM_MAX_CP)
                mark[gram_bound_at(bound, kept, r[i].hi + 1)] ^= gram_mix(s + 1);
        }
    }
    for (uint32_t i = 1; i < kept; i++)
        mark[i] ^= mark[i - 1];
    return kept;
}

static void touch(struct gbnf *g)
{
    for (uint32_t i = 0; i < g->n_bounds; i++) {
        uint32_t hi = i + 1 < g->n_bounds ? g->bound[i + 1] - 1 : GRAM_MAX_CP;
        for (unsigned b = gram_lead_of(g->bound[i]); b <= gram_lead_of(hi); b++)
            g->touch[g->bound_class[i]].on[b / 64] |= 1ULL << (b % 64);
    }
    for (uint32_t cp = 0; cp < 128; cp++)
        g->ascii[cp] = g->bound_class[gram_bound_at(g->bound, g->n_bounds, cp)];
}

int gbnf_classes(struct gbnf *g, struct err *e)
{
    static _Atomic uint64_t serial;
    size_t most = 2 * (size_t)g->a.n_rng + 2;
    uint64_t *mark = calloc(most, sizeof *mark);
    g->serial = atomic_fetch_add(&serial, 1) + 1;
    g->bound = malloc(most * sizeof *g->bound);
    if (!mark || !g->bound) {
        free(mark);
        return err_set(e, Q_ENOMEM, "out of memory");
    }
    g->n_bounds = intervals(g, g->bound, mark);
    g->bound_class = calloc(g->n_bounds, sizeof *g->bound_class);
    int rc = g->bound_class ? 0 : err_set(e, Q_ENOMEM, "out of memory");
    uint64_t of[GBNF_CLASSES];
    for (uint32_t i = 0; rc == 0 && i < g->n_bounds; i++) {
        uint32_t c = 0;
        while (c < g->n_classes && of[c] != mark[i])
            c++;
        if (c == GBNF_CLASSES) { /* its masks are made without classes */
            g->n_classes = 0;
            break;
        }
        if (c == g->n_classes) {
            of[c] = mark[i];
            g->rep[g->n_classes++] = g->bound[i];
        }
        g->bound_class[i] = (uint8_t)c;
    }
    if (rc == 0 && g->n_classes > 0)
        touch(g);
    free(mark);
    return rc;
}
