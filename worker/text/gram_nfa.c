/* SPDX-License-Identifier: Apache-2.0 */
#include "base/utf8.h"
#include "worker/text/gram_int.h"

#include <stdlib.h>
#include <string.h>

void nfa_fini(struct nfa *a)
{
    free(a->s);
    free(a->rng);
    memset(a, 0, sizeof *a);
}

int nfa_add(struct nfa *a, enum nfa_op op, uint32_t x, uint32_t y, uint32_t *id, struct err *e)
{
    if (a->n == a->cap) {
        if (a->n >= NFA_MAX_STATES)
            return err_set(e, Q_ENOMEM, "the pattern is too large");
        uint32_t cap = a->cap ? a->cap * 2 : 64;
        struct nfa_state *s = realloc(a->s, cap * sizeof *s);
        if (!s)
            return err_set(e, Q_ENOMEM, "out of memory");
        a->s = s;
        a->cap = cap;
    }
    a->s[a->n] = (struct nfa_state){.op = (uint8_t)op, .x = x, .y = y};
    *id = a->n++;
    return 0;
}

static int cmp_range(const void *a, const void *b)
{
    const struct gram_range *x = a, *y = b;
    return x->lo < y->lo ? -1 : x->lo > y->lo;
}

size_t gram_ranges_tidy(struct gram_range *r, size_t n)
{
    size_t k = 0;
    if (n)
        qsort(r, n, sizeof *r, cmp_range);
    for (size_t i = 0; i < n; i++) {
        if (k && r[i].lo <= r[k - 1].hi + 1) {
            if (r[i].hi > r[k - 1].hi)
                r[k - 1].hi = r[i].hi;
        } else {
            r[k++] = r[i];
        }
    }
    return k;
}

static int push_range(struct nfa *a, uint32_t lo, uint32_t hi, struct err *e)
{
    if (a->n_rng == a->rng_cap) {
        if (a->n_rng >= NFA_MAX_RANGES)
            return err_set(e, Q_ENOMEM, "the pattern is too large");
        uint32_t cap = a->rng_cap ? a->rng_cap * 2 : 64;
        struct gram_range *r = realloc(a->rng, cap * sizeof *r);
        if (!r)
            return err_set(e, Q_ENOMEM, "out of memory");
        a->rng = r;
        a->rng_cap = cap;
    }
    a->rng[a->n_rng++] = (struct gram_range){lo, hi};
    return 0;
}

int nfa_ranges(struct nfa *a, const struct gram_range *r, size_t n, bool negate, struct nfa_frag *f,
               struct err *e)
{
    uint32_t first = a->n_rng, from = 0;
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        if (!negate)
            rc = push_range(a, r[i].lo, r[i].hi, e);
        else if (r[i].lo > from)
            rc = push_range(a, from, r[i].lo - 1, e);
        from = r[i].hi + 1;
    }
    if (rc == 0 && negate && from <= GRAM_MAX_CP)
        rc = push_range(a, from, GRAM_MAX_CP, e);
    uint32_t id = 0;
    if (rc == 0)
        rc = nfa_add(a, NFA_EPS, GRAM_NONE, GRAM_NONE, &f->out, e);
    if (rc == 0)
        rc = nfa_add(a, NFA_CHAR, f->out, GRAM_NONE, &id, e);
    if (rc)
        return rc;
    a->s[id].first = first;
    a->s[id].n_rng = a->n_rng - first;
    f->in = id;
    return 0;
}

int nfa_text(struct nfa *a, const char *s, size_t n, struct nfa_frag *f, struct err *e)
{
    int rc = nfa_add(a, NFA_EPS, GRAM_NONE, GRAM_NONE, &f->in, e);
    f->out = f->in;
    while (n > 0 && rc == 0) {
        uint32_t cp;
        size_t k = utf8_decode(s, n, &cp);
        if (k == 0)
            return err_set(e, Q_EINVAL, "text is not UTF-8");
        struct gram_range r = {cp, cp};
        struct nfa_frag c;
        rc = nfa_ranges(a, &r, 1, false, &c, e);
        if (rc == 0) {
            a->s[f->out].x = c.in;
            f->out = c.out;
        }
        s += k;
        n -= k;
    }
    return rc;
}

int nfa_any_star(struct nfa *a, struct nfa_frag *f, struct err *e)
{
    const struct gram_range all = {0, GRAM_MAX_CP};
    struct nfa_frag c;
    uint32_t out, in;
    int rc = nfa_ranges(a, &all, 1, false, &c, e);
    if (rc == 0)
        rc = nfa_add(a, NFA_EPS, GRAM_NONE, GRAM_NONE, &out, e);
    if (rc == 0)
        rc = nfa_add(a, NFA_SPLIT, c.in, out, &in, e);
    if (rc)
        return rc;
    a->s[c.out].x = in;
    *f = (struct nfa_frag){in, out};
    return 0;
}

int nfa_accept(struct nfa *a, struct nfa_frag f, uint32_t label, struct err *e)
{
    uint32_t id = 0;
    int rc = nfa_add(a, NFA_ACCEPT, label, GRAM_NONE, &id, e);
    if (rc == 0)
        a->s[f.out].x = id;
    return rc;
}

int nfa_join(struct nfa *a, uint32_t *start, uint32_t in, struct err *e)
{
    if (*start == GRAM_NONE) {
        *start = in;
        return 0;
    }
    return nfa_add(a, NFA_SPLIT, in, *start, start, e);
}
