/* SPDX-License-Identifier: Apache-2.0 */
/* gram_wide.c - where an automaton is wide: by state, characters of which any few in a row lead
 * nowhere dead. Masks take whole subtrees of the vocabulary there. */
#include "worker/text/gram_int.h"

#include <stdlib.h>
#include <string.h>

#define NARROW 4U /* a class with less than one character in so many may be left out */

static unsigned lead_bit(uint32_t cp)
{
    return gram_lead_bit(cp < 0x80      ? cp
                         : cp < 0x800   ? 0xC0U | cp >> 6
                         : cp < 0x10000 ? 0xE0U | cp >> 12
                                        : 0xF0U | cp >> 18);
}

/* Which first bytes the characters of each class have. */
static void touches(const struct dfa *d, struct gram_bytes *touch)
{
    for (uint32_t i = 0; i < d->n_bounds; i++) {
        uint32_t hi = i + 1 < d->n_bounds ? d->bound[i + 1] - 1 : GRAM_MAX_CP;
        struct gram_bytes *t = &touch[d->bound_class[i]];
        for (unsigned b = lead_bit(d->bound[i]); b <= lead_bit(hi); b++)
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

/* What leads on from each state; then without the few characters that lead where less may
 * follow, such as the '@' behind a long name: the rest goes on for longer. */
static void choose(struct dfa *d, const uint8_t *live, const struct gram_bytes *touch,
                   struct gram_bytes *all)
{
    for (uint32_t q = 1; q < d->n_states; q++) {
        const uint32_t *row = d->next + (size_t)q * d->n_classes;
        struct gram_bytes s = {{0}};
        if (!live || live[q])
            memset(&s, 0xFF, sizeof s);
        for (uint32_t c = 0; c < d->n_classes; c++)
            if (row[c] == 0 || (live && !live[row[c]]))
                for (unsigned k = 0; k < 3; k++)
                    s.on[k] &= ~touch[c].on[k];
        all[q] = s;
    }
    for (uint32_t q = 1; q < d->n_states; q++) {
        const uint32_t *row = d->next + (size_t)q * d->n_classes;
        struct gram_bytes s = all[q];
        unsigned n = count(&s);
        for (uint32_t c = 0; c < d->n_classes; c++) {
            if (!gram_bytes_meet(&touch[c], &all[q]) || gram_bytes_within(&all[q], &all[row[c]]) ||
                count(&touch[c]) * NARROW > n)
                continue;
            for (unsigned k = 0; k < 3; k++)
                s.on[k] &= ~touch[c].on[k];
        }
        d->wide[q].set = s;
    }
}

int dfa_widen(struct dfa *d, const uint8_t *live, struct err *e)
{
    size_t cells = (size_t)d->n_states * d->n_classes;
    struct gram_bytes *touch = calloc(d->n_classes + 1, sizeof *touch);
    struct gram_bytes *all = calloc(d->n_states, sizeof *all);
    uint32_t *head = malloc(d->n_states * sizeof *head), *link = malloc(cells * sizeof *link);
    uint32_t *queue = malloc(d->n_states * sizeof *queue), n = 0;
    free(d->wide);
    d->wide = calloc(d->n_states, sizeof *d->wide);
    int rc = touch && all && head && link && queue && d->wide
                 ? 0
                 : err_set(e, Q_ENOMEM, "out of memory");
    if (rc == 0) {
        touches(d, touch);
        choose(d, live, touch, all);
        memset(head, 0xFF, d->n_states * sizeof *head);
        for (uint32_t q = 1; q < d->n_states; q++) {
            d->wide[q].depth = GRAM_NONE;
            if (d->min_dist[q] != GRAM_NONE && d->min_dist[q] > d->far)
                d->far = d->min_dist[q];
        }
    }
    /* How far: breadth first, backwards from where the set of the next state is another one. */
    for (uint32_t q = 1; q < d->n_states && rc == 0; q++) {
        for (uint32_t c = 0; c < d->n_classes; c++) {
            size_t cell = (size_t)q * d->n_classes + c;
            if (!gram_bytes_meet(&touch[c], &d->wide[q].set))
                continue;
            link[cell] = head[d->next[cell]];
            head[d->next[cell]] = (uint32_t)cell;
            if (d->wide[q].depth == GRAM_NONE &&
                !gram_bytes_within(&d->wide[q].set, &d->wide[d->next[cell]].set)) {
                d->wide[q].depth = 1;
                queue[n++] = q;
            }
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t c = head[queue[i]]; c != GRAM_NONE; c = link[c]) {
            struct dfa_wide *w = &d->wide[c / d->n_classes];
            if (w->depth == GRAM_NONE) {
                w->depth = d->wide[queue[i]].depth + 1;
                queue[n++] = c / d->n_classes;
            }
        }
    }
    free(touch);
    free(all);
    free(head);
    free(link);
    free(queue);
    return rc;
}
