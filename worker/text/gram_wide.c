/* SPDX-License-Identifier: Apache-2.0 */
/* gram_wide.c - where an automaton is wide: by state, characters of which any few in a row lead
 * nowhere dead. Masks take whole subtrees of the vocabulary there. */
#include "worker/text/gram_int.h"

#include <stdlib.h>
#include <string.h>

#define NARROW 4U /* a class with less than one character in so many may be left out */
#define ROUNDS 8U

/* Which first bytes the characters of each class have. */
static void touches(const struct dfa *d, struct gram_bytes *touch)
{
    for (uint32_t i = 0; i < d->n_bounds; i++) {
        uint32_t hi = i + 1 < d->n_bounds ? d->bound[i + 1] - 1 : GRAM_MAX_CP;
        struct gram_bytes *t = &touch[d->bound_class[i]];
        for (unsigned b = gram_lead_of(d->bound[i]); b <= gram_lead_of(hi); b++)
            t->on[b / 64] |= 1ULL << (b % 64);
    }
}

static unsigned count(const struct gram_bytes *s)
{
    unsigned n = 0;
    for (unsigned k = 0; k < 3; k++)
        n += (unsigned)__builtin_popcountll(s->on[k]);
    return n;
}

struct widen {
    struct dfa *d;
    struct gram_bytes *touch;      /* by class */
    uint32_t *head, *link, *queue; /* edges backwards */
};

/* What leads on from each state. */
static void begin(const struct widen *w, const uint8_t *live)
{
    const struct dfa *d = w->d;
    for (uint32_t q = 1; q < d->n_states; q++) {
        const uint32_t *row = d->next + (size_t)q * d->n_classes;
        struct gram_bytes s = {{0}};
        if (!live || live[q])
            memset(&s, 0xFF, sizeof s);
        for (uint32_t c = 0; c < d->n_classes; c++)
            if (row[c] == 0 || (live && !live[row[c]]))
                for (unsigned k = 0; k < 3; k++)
                    s.on[k] &= ~w->touch[c].on[k];
        d->wide[q].set = s;
    }
}

/* Without the few characters that lead where less may follow, such as the '@' behind a long name,
 * or where it ends sooner, the others go on for longer. */
static void narrow(const struct widen *w, bool by_depth)
{
    const struct dfa *d = w->d;
    for (uint32_t q = d->n_states; q-- > 1;) { /* most edges lead to later states */
        const uint32_t *row = d->next + (size_t)q * d->n_classes;
        struct dfa_wide *at = &d->wide[q];
        unsigned n = count(&at->set);
        uint32_t most = 0;
        if (by_depth && at->depth == GRAM_NONE)
            continue;
        for (uint32_t c = 0; by_depth && c < d->n_classes; c++)
            if (d->wide[row[c]].depth > most && gram_bytes_meet(&w->touch[c], &at->set))
                most = d->wide[row[c]].depth;
        for (uint32_t c = 0; c < d->n_classes; c++) {
            const struct dfa_wide *to = &d->wide[row[c]];
            bool less = by_depth ? to->depth < most / 2 : !gram_bytes_within(&at->set, &to->set);
            if (less && count(&w->touch[c]) * NARROW <= n)
                for (unsigned k = 0; k < 3; k++)
                    at->set.on[k] &= ~w->touch[c].on[k];
        }
    }
}

/* How far: breadth first, backwards from where the set of the next state is another one. */
static void measure(const struct widen *w)
{
    const struct dfa *d = w->d;
    uint32_t n = 0;
    memset(w->head, 0xFF, d->n_states * sizeof *w->head);
    for (uint32_t q = 1; q < d->n_states; q++)
        d->wide[q].depth = GRAM_NONE;
    for (uint32_t q = 1; q < d->n_states; q++) {
        struct dfa_wide *at = &d->wide[q];
        for (uint32_t c = 0; c < d->n_classes; c++) {
            uint32_t cell = q * d->n_classes + c, to = d->next[cell];
            if (!gram_bytes_meet(&w->touch[c], &at->set))
                continue;
            w->link[cell] = w->head[to];
            w->head[to] = cell;
            if (at->depth == GRAM_NONE && !gram_bytes_within(&at->set, &d->wide[to].set)) {
                at->depth = 1;
                w->queue[n++] = q;
            }
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t c = w->head[w->queue[i]]; c != GRAM_NONE; c = w->link[c]) {
            struct dfa_wide *from = &d->wide[c / d->n_classes];
            if (from->depth == GRAM_NONE) {
                from->depth = d->wide[w->queue[i]].depth + 1;
                w->queue[n++] = c / d->n_classes;
            }
        }
    }
}

/* What may follow behind characters of the sets, by fixpoint; where that takes long, anything. */
static void leave(const struct widen *w)
{
    const struct dfa *d = w->d;
    bool changed = true;
    for (unsigned round = 0; round <= ROUNDS && changed; round++) {
        changed = false;
        for (uint32_t q = d->n_states; q-- > 1;) {
            const uint32_t *row = d->next + (size_t)q * d->n_classes;
            struct gram_bytes *to = &d->wide[q].exits, old = *to;
            for (uint32_t c = 0; c < d->n_classes; c++) {
                bool inside = gram_bytes_meet(&w->touch[c], &d->wide[q].set);
                for (unsigned k = 0; row[c] && k < 3; k++)
                    to->on[k] |= w->touch[c].on[k] | (inside ? d->wide[row[c]].exits.on[k] : 0);
            }
            if (round == ROUNDS)
                memset(to, 0xFF, sizeof *to);
            changed |= !gram_bytes_within(to, &old);
        }
    }
    for (uint32_t q = 1; q < d->n_states; q++)
        for (unsigned k = 0; k < 3; k++)
            d->wide[q].exits.on[k] &= ~d->wide[q].set.on[k];
}

int dfa_widen(struct dfa *d, const uint8_t *live, struct err *e)
{
    size_t cells = (size_t)d->n_states * d->n_classes;
    struct widen w = {.d = d};
    w.touch = calloc(d->n_classes + 1, sizeof *w.touch);
    w.head = malloc(d->n_states * sizeof *w.head);
    w.link = malloc(cells * sizeof *w.link);
    w.queue = malloc(d->n_states * sizeof *w.queue);
    free(d->wide);
    d->wide = calloc(d->n_states, sizeof *d->wide);
    int rc = w.touch && w.head && w.link && w.queue && d->wide
                 ? 0
                 : err_set(e, Q_ENOMEM, "out of memory");
    if (rc == 0) {
        touches(d, w.touch);
        begin(&w, live);
        narrow(&w, false);
        narrow(&w, false);
        measure(&w);
        narrow(&w, true);
        measure(&w);
        leave(&w);
        for (uint32_t q = 1; q < d->n_states; q++)
            if (d->min_dist[q] != GRAM_NONE && d->min_dist[q] > d->far)
                d->far = d->min_dist[q];
    }
    free(w.touch);
    free(w.head);
    free(w.link);
    free(w.queue);
    return rc;
}

int dfa_build_wide(struct dfa **out, const struct nfa *a, uint32_t start, struct err *e)
{
    int rc = dfa_build(out, a, start, e);
    return rc ? rc : dfa_widen(*out, NULL, e);
}
