/* SPDX-License-Identifier: Apache-2.0 */
/* gram_free.c - free text inside an automaton: any characters until one of several marks is
 * complete, then on from there. The states are those of Aho and Corasick: how much of a mark the
 * text ends with. They carry the pseudo-character FRAME_OPEN, so that they are known again in the
 * finished automaton: there nothing has to be masked. */
#include "worker/text/gram_free.h"

#include "worker/text/mask_int.h"

#include <stdlib.h>
#include <string.h>

#define MAX_STATE (FREE_MAX_EXIT * FREE_MAX_TEXT)

/* States are beginnings of marks: text t, its first `len` characters. State 0 is the empty one. */
struct aho {
    const struct free_exit *exit;
    size_t n_exit;
    struct {
        uint32_t text, len, node;
    } state[MAX_STATE];
    uint32_t n_state;
    uint32_t abc[MAX_STATE + 64], n_abc; /* the characters of marks, in order, each once */
};

/* The state whose characters are s[0..n), or GRAM_NONE. */
static uint32_t find_state(const struct aho *a, const uint32_t *s, uint32_t n)
{
    for (uint32_t i = 0; i < a->n_state; i++)
        if (a->state[i].len == n && memcmp(a->exit[a->state[i].text].cp, s, n * sizeof *s) == 0)
            return i;
    return GRAM_NONE;
}

static void add_states(struct aho *a)
{
    a->n_state = 1;
    a->state[0].len = 0;
    for (uint32_t t = 0; t < a->n_exit; t++)
        for (uint32_t len = 1; len < a->exit[t].n; len++)
            if (find_state(a, a->exit[t].cp, len) == GRAM_NONE) {
                a->state[a->n_state].text = t;
                a->state[a->n_state++].len = len;
            }
}

/* Where character c leads from state s: an NFA state. */
static uint32_t leads_to(const struct aho *a, uint32_t s, uint32_t c)
{
    uint32_t all[FREE_MAX_TEXT + 1], n = a->state[s].len;
    memcpy(all, a->exit[a->state[s].text].cp, n * sizeof *all);
    all[n++] = c;
    for (uint32_t from = 0; from < n; from++) {
        for (size_t t = 0; t < a->n_exit; t++)
            if (a->exit[t].n == n - from &&
                memcmp(a->exit[t].cp, all + from, (n - from) * sizeof *all) == 0)
                return a->exit[t].to;
        uint32_t to = find_state(a, all + from, n - from);
        if (to != GRAM_NONE)
            return a->state[to].node;
    }
    return a->state[0].node;
}

static int arc(struct nfa *n, uint32_t *head, const struct gram_range *r, size_t n_r, uint32_t to,
               struct err *e)
{
    struct nfa_frag f;
    int rc = nfa_ranges(n, r, n_r, false, &f, e);
    if (rc)
        return rc;
    n->s[f.out].x = to;
    return nfa_join(n, head, f.in, e);
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void find_alphabet(struct aho *a, const struct free_text *f)
{
    uint32_t n = 0, k = 0;
    for (const char *c = f->bars ? f->bars : ""; *c && n < 48; c++)
        a->abc[n++] = (unsigned char)*c;
    if (f->first)
        a->abc[n++] = f->first;
    for (const char *c = " \t\n\r"; *c; c++) /* what a start looks at */
        a->abc[n++] = (unsigned char)*c;
    for (size_t t = 0; t < a->n_exit; t++)
        for (uint32_t i = 0; i < a->exit[t].n; i++)
            a->abc[n++] = a->exit[t].cp[i];
    qsort(a->abc, n, sizeof *a->abc, by_value);
    for (uint32_t i = 0; i < n; i++)
        if (i == 0 || a->abc[i] != a->abc[i - 1])
            a->abc[k++] = a->abc[i];
    a->n_abc = k;
}

/* All characters between, but for the surrogates: pseudo-characters lie there. */
static uint32_t put_rest(struct gram_range *r, uint32_t lo, uint32_t hi)
{
    uint32_t k = 0;
    if (lo < 0xD800)
        r[k++] = (struct gram_range){lo, hi < 0xD800 ? hi : 0xD7FF};
    if (hi >= 0xE000)
        r[k++] = (struct gram_range){lo > 0xE000 ? lo : 0xE000, hi};
    return k;
}

/* The ways out of state s, put behind `node`. */
static int add_arcs(struct nfa *n, const struct aho *a, uint32_t s, uint32_t node,
                    const struct free_text *f, struct err *e)
{
    struct gram_range rest[MAX_STATE + 80];
    uint32_t head = GRAM_NONE, from = 0, k = 0, end = 0;
    bool start = node == f->start;
    int rc = 0;
    for (uint32_t i = 0; i < a->n_abc && rc == 0; i++) {
        uint32_t c = a->abc[i], to = leads_to(a, s, c);
        const struct gram_range one = {c, c};
        bool barred = start && f->bars && c < 128 && strchr(f->bars, (int)c);
        if (start && f->first && c == f->first)
            to = f->first_to;
        else if (start && f->first && (c == ' ' || c == '\t' || c == '\n' || c == '\r'))
            to = node;
        if (c > from)
            k += put_rest(rest + k, from, c - 1);
        from = c + 1;
        if (!barred)
            rc = arc(n, &head, &one, 1, to, e);
    }
    k += put_rest(rest + k, from, GRAM_MAX_CP);
    if (rc == 0)
        rc = arc(n, &head, rest, k, a->state[0].node, e);
    const struct gram_range open = {FRAME_OPEN, FRAME_OPEN};
    if (rc == 0 && !start)
        rc = arc(n, &head, &open, 1, node, e);
    if (rc == 0 && f->may_end && (rc = nfa_add(n, NFA_ACCEPT, 0, GRAM_NONE, &end, e)) == 0)
        rc = nfa_join(n, &head, end, e);
    n->s[node].x = head;
    return rc;
}

int nfa_free(struct nfa *n, const struct free_text *f, struct err *e)
{
    struct aho *a = calloc(1, sizeof *a);
    if (!a)
        return err_set(e, Q_ENOMEM, "out of memory");
    int rc = f->n_exits > FREE_MAX_EXIT ? err_set(e, Q_EINVAL, "too many marks") : 0;
    a->exit = f->exits;
    a->n_exit = f->n_exits;
    if (rc == 0) {
        add_states(a);
        find_alphabet(a, f);
        a->state[0].node = f->at;
    }
    for (uint32_t s = 1; s < a->n_state && rc == 0; s++)
        rc = nfa_add(n, NFA_EPS, GRAM_NONE, GRAM_NONE, &a->state[s].node, e);
    for (uint32_t s = 0; s < a->n_state && rc == 0; s++)
        rc = add_arcs(n, a, s, a->state[s].node, f, e);
    if (rc == 0 && f->start != GRAM_NONE)
        rc = add_arcs(n, a, 0, f->start, f, e);
    free(a);
    return rc;
}

/* ---- what is free of masks ----------------------------------------------------------------- */

/* The automaton of the frame itself (k GRAM_NONE), or of its text k, and what is open in it. */
static const struct dfa *part(const struct grammar *g, uint32_t k, const uint8_t **open)
{
    *open = k == GRAM_NONE ? g->open : g->sub[k].open;
    return k == GRAM_NONE ? g->dfa : g->sub[k].d;
}

/* Does every token fit? Only one that completes a mark and goes on may not; may[] are those that
 * can. What follows a text counts as unknown. */
static bool all_fit(const struct grammar *g, const struct grammar_vocab *v, uint32_t k, uint32_t q,
                    const uint32_t *may, uint32_t n_may, struct gram_state *st)
{
    for (uint32_t j = 0; j < n_may; j++) {
        memset(st, 0, offsetof(struct gram_state, s));
        st->sub = k;
        if (k == GRAM_NONE)
            st->q = q;
        else
            st->tq = q;
        for (uint32_t i = v->at[may[j]]; i < v->at[may[j] + 1]; i++)
            if (!gram_step(g, st, v->bytes[i]))
                return false;
    }
    return true;
}

/* The bytes that can complete a mark. */
static bool find_last(const struct grammar *g, uint32_t k, bool last[256])
{
    const uint8_t *open;
    const struct dfa *d = part(g, k, &open);
    bool wide = false;
    for (uint32_t q = 1; q < d->n_states; q++) {
        bool from = open ? open[q] : d->accept[q] == 0;
        for (uint32_t b = 0; from && b < 128; b++) {
            uint32_t to = dfa_next(d, q, b);
            last[b] |= open ? !open[to] : to && d->accept[to];
        }
        for (uint32_t i = 0; from && i < d->n_bounds; i++) {
            uint32_t to = d->next[(size_t)q * d->n_classes + d->bound_class[i]];
            if (d->bound[i] >= 128 && (d->bound[i] < 0xD800 || d->bound[i] > FRAME_OPEN))
                wide |= open ? !open[to] : to && d->accept[to];
        }
    }
    for (uint32_t b = 128; wide && b < 256; b++)
        last[b] = true;
    return wide;
}

/* Tokens with such a byte, and more behind it. */
static uint32_t find_crossing(const struct grammar_vocab *v, const bool last[256], uint32_t *may)
{
    uint32_t n = 0;
    for (uint32_t pos = 0; v && pos < v->n_tok; pos++) {
        uint32_t i = v->at[pos], end = v->at[pos + 1];
        while (i + 1 < end && !last[v->bytes[i]])
            i++;
        if (i + 1 < end)
            may[n++] = pos;
    }
    return n;
}

/* Which states of the frame or its text k are open, and where every token fits. *open is NULL when
 * none is. */
static int open_part(struct grammar *g, const struct grammar_vocab *v, uint32_t k, uint8_t **open,
                     bool *wide, uint32_t *may, struct gram_state *st, struct err *e)
{
    const uint8_t *none;
    const struct dfa *d = part(g, k, &none);
    uint32_t class = dfa_class(d, FRAME_OPEN);
    bool any = false, last[256] = {false};
    if (!(*open = calloc(d->n_states, 1)))
        return err_set(e, Q_ENOMEM, "out of memory");
    for (uint32_t q = 1; q < d->n_states; q++)
        if (d->next[(size_t)q * d->n_classes + class]) {
            (*open)[q] = FRAME_IS_OPEN;
            any = true;
        }
    if (!any) {
        free(*open);
        *open = NULL;
        return 0;
    }
    *wide = find_last(g, k, last);
    uint32_t n_may = find_crossing(v, last, may);
    for (uint32_t q = 1; v && q < d->n_states; q++)
        if ((*open)[q] && all_fit(g, v, k, q, may, n_may, st))
            (*open)[q] |= FRAME_ALL_FIT;
    return 0;
}

int frame_open(struct grammar *g, const struct grammar_vocab *v, struct err *e)
{
    struct gram_state *st = malloc(sizeof *st);
    uint32_t *may = malloc((v ? v->n_tok + 1 : 1) * sizeof *may);
    int rc = st && may ? 0 : err_set(e, Q_ENOMEM, "out of memory");
    bool last[256] = {false};
    if (rc == 0)
        rc = open_part(g, v, GRAM_NONE, &g->open, &g->open_wide, may, st, e);
    for (uint32_t k = 0; k < g->n_sub && rc == 0; k++) {
        if (!g->sub[k].d)
            continue;
        rc = open_part(g, v, k, &g->sub[k].open, &g->sub[k].open_wide, may, st, e);
        if (rc == 0 && !g->sub[k].open)
            (void)find_last(g, k, last);
    }
    uint32_t n = rc ? 0 : find_crossing(v, last, may);
    if (n > 0 && !(g->cross = malloc(n * sizeof *g->cross)))
        rc = err_set(e, Q_ENOMEM, "out of memory");
    if (n > 0 && rc == 0) {
        memcpy(g->cross, may, n * sizeof *may);
        g->n_cross = n;
    }
    free(st);
    free(may);
    return rc;
}

bool gmatch_is_free(const struct gmatch *m)
{
    const struct grammar *g = m->g;
    const struct gram_state *st = &m->now;
    if (g->kind != GRAMMAR_FRAME || !frame_is_open(g, st))
        return false;
    const uint8_t *open;
    const struct dfa *d = part(g, st->sub, &open);
    uint32_t q = st->sub == GRAM_NONE ? st->q : st->tq;
    bool wide = st->sub == GRAM_NONE ? g->open_wide : g->sub[st->sub].open_wide;
    if (!(open[q] & FRAME_ALL_FIT))
        return false;
    /* Inside a character: what comes behind it starts afresh. */
    return st->u.left == 0 || (!wide && (open[dfa_next(d, q, 0xFFFD)] & FRAME_ALL_FIT));
}
