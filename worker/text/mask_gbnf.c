/* SPDX-License-Identifier: Apache-2.0 */
/* mask_gbnf.c - the tokens that may come next in a grammar.
 *
 * The sets of stacks that a grammar can be in, between two characters, are the states of an
 * automaton that is made as far as walks need it and kept for the next masks: of the grammars used
 * last, in memory of fixed size. Where it is full, it begins anew. A state whose characters lead
 * back to itself (text in quotes, names, white space) takes whole subtrees of the vocabulary. The
 * latest masks are kept by state. */
#include "worker/text/mask_int.h"

#include <stdlib.h>
#include <string.h>

#define AUTOS   4U
#define STATES  2048U
#define CELLS   (1U << 17)
#define POOL    (1U << 19)
#define SLOTS   4096U
#define UNKNOWN UINT16_MAX
#define FULL    UINT16_MAX
#define KEPT    64U
#define MANY    2U /* tokens below a node that are worth knowing a state's loops for */

struct known {
    uint32_t at, n_thr, n_stk; /* at: in the pool */
    uint64_t hash;
    bool looped;             /* loops and exits are known */
    struct gram_bytes loops; /* characters that lead back to this state */
    struct gram_bytes exits; /* that lead to another one */
};
struct mask_auto {
    uint64_t serial, used;
    uint64_t age;         /* since when its states have these numbers */
    const struct gbnf *g; /* only while a mask is made */
    uint32_t n, n_pool;
    bool full;
    struct known state[STATES]; /* 0: dead */
    uint16_t slot[SLOTS];
    uint16_t next[CELLS]; /* state * n_classes + class */
    uint32_t pool[POOL / sizeof(uint32_t)];
};

/* The mask of a state, but for the tokens that end a generation. */
struct mask_kept {
    uint64_t age, used;
    uint32_t q;
    size_t n;
};

int mask_gbnf_open(struct gmask_scratch *w, uint32_t words, struct err *e)
{
    w->autos = malloc(AUTOS * sizeof *w->autos); /* untouched until a grammar comes */
    w->kept = calloc(KEPT, sizeof *w->kept);
    w->kept_bits = malloc((size_t)KEPT * words * sizeof *w->kept_bits);
    if (!w->autos || !w->kept || !w->kept_bits)
        return err_set(e, Q_ENOMEM, "out of memory");
    for (unsigned i = 0; i < AUTOS; i++)
        w->autos[i].serial = w->autos[i].used = 0;
    return 0;
}

void mask_gbnf_close(struct gmask_scratch *w)
{
    free(w->autos);
    free(w->kept);
    free(w->kept_bits);
}

static void empty(struct gmask_scratch *w, struct mask_auto *a)
{
    a->age = ++w->n_made;
    a->n = 1;
    a->n_pool = 0;
    a->full = false;
    memset(a->slot, 0, sizeof a->slot);
}

static struct mask_auto *automaton(struct gmask_scratch *w, const struct gbnf *g)
{
    struct mask_auto *a = w->autos;
    for (unsigned i = 0; i < AUTOS; i++) {
        if (w->autos[i].serial == g->serial) {
            a = &w->autos[i];
            break;
        }
        if (w->autos[i].used < a->used)
            a = &w->autos[i];
    }
    if (a->serial != g->serial) {
        a->serial = g->serial;
        empty(w, a);
    }
    a->g = g;
    a->used = ++w->n_made;
    return a;
}

static uint64_t hash_of(const struct gbnf_state *st)
{
    uint64_t h = st->n_thr * 0x9E3779B97F4A7C15ULL + st->n_stk;
    for (uint32_t i = 0; i < st->n_thr; i++)
        h = (h ^ ((uint64_t)st->thr[i].s << 32 | st->thr[i].stk)) * 0xBF58476D1CE4E5B9ULL,
        h ^= h >> 29;
    for (uint32_t i = 0; i < st->n_stk; i++)
        h = (h ^ ((uint64_t)st->stk[i].ret << 32 | st->stk[i].up)) * 0xBF58476D1CE4E5B9ULL,
        h ^= h >> 29;
    return h;
}

/* The number of st, FULL when there is no room. */
static uint32_t number_of(struct mask_auto *a, const struct gbnf_state *st)
{
    uint64_t h = hash_of(st);
    uint32_t i = (uint32_t)h % SLOTS, words = 2 * (st->n_thr + st->n_stk);
    const size_t thr = st->n_thr * sizeof st->thr[0], stk = st->n_stk * sizeof st->stk[0];
    for (; a->slot[i]; i = (i + 1) % SLOTS) {
        const struct known *k = &a->state[a->slot[i]];
        const unsigned char *p = (const unsigned char *)(a->pool + k->at);
        if (k->hash == h && k->n_thr == st->n_thr && k->n_stk == st->n_stk &&
            memcmp(p, st->thr, thr) == 0 && memcmp(p + thr, st->stk, stk) == 0)
            return a->slot[i];
    }
    if (a->n == STATES || (a->n + 1) * a->g->n_classes > CELLS ||
        words > POOL / sizeof(uint32_t) - a->n_pool) {
        a->full = true;
        return FULL;
    }
    struct known *k = &a->state[a->n];
    *k = (struct known){.at = a->n_pool, .n_thr = st->n_thr, .n_stk = st->n_stk, .hash = h};
    memcpy(a->pool + k->at, st->thr, thr);
    memcpy((unsigned char *)(a->pool + k->at) + thr, st->stk, stk);
    a->n_pool += words;
    memset(a->next + (size_t)a->n * a->g->n_classes, 0xFF, a->g->n_classes * sizeof *a->next);
    a->slot[i] = (uint16_t)a->n;
    return a->n++;
}

struct gwalk {
    const struct grammar_vocab *v;
    struct gmask_scratch *w;
    struct mask_auto *a;
    struct gbnf_state *tmp;
    bool by_set; /* tokens without the exits are decided */
    struct gram_bytes exits;
};

/* Behind a character of class c, 0: nowhere. When the automaton becomes full too; then it is. */
static uint32_t next_of(struct gwalk *p, uint32_t q, uint32_t c)
{
    struct mask_auto *a = p->a;
    uint16_t *cell = &a->next[(size_t)q * a->g->n_classes + c];
    if (*cell != UNKNOWN)
        return *cell;
    const struct known *k = &a->state[q];
    const unsigned char *from = (const unsigned char *)(a->pool + k->at);
    struct gbnf_state *st = p->tmp;
    memset(st, 0, offsetof(struct gbnf_state, thr));
    st->n_thr = k->n_thr;
    st->n_stk = k->n_stk;
    memcpy(st->thr, from, k->n_thr * sizeof st->thr[0]);
    memcpy(st->stk, from + k->n_thr * sizeof st->thr[0], k->n_stk * sizeof st->stk[0]);
    uint32_t to = gbnf_take(a->g, st, a->g->rep[c]) ? number_of(a, st) : 0;
    if (to == FULL)
        return 0;
    *cell = (uint16_t)to;
    return to;
}

static const struct known *looped(struct gwalk *p, uint32_t q)
{
    struct known *k = &p->a->state[q];
    const struct gbnf *g = p->a->g;
    if (k->looped)
        return k;
    memset(&k->loops, 0xFF, sizeof k->loops);
    memset(&k->exits, 0, sizeof k->exits);
    for (uint32_t c = 0; c < g->n_classes; c++) {
        uint32_t to = next_of(p, q, c);
        for (unsigned i = 0; i < 3; i++) {
            k->loops.on[i] &= to == q ? ~0ULL : ~g->touch[c].on[i];
            k->exits.on[i] |= to ? g->touch[c].on[i] : 0;
        }
    }
    for (unsigned i = 0; i < 3; i++)
        k->exits.on[i] &= ~k->loops.on[i];
    k->looped = !p->a->full;
    return k;
}

/* Some character of lo..hi leads on. */
static bool alive(struct gwalk *p, uint32_t q, uint32_t lo, uint32_t hi)
{
    const struct gbnf *g = p->a->g;
    uint32_t i = gram_bound_at(g->bound, g->n_bounds, lo);
    for (; i < g->n_bounds && g->bound[i] <= hi; i++)
        if (next_of(p, q, g->bound_class[i]))
            return true;
    return false;
}

static const struct mask_sum *sum_of(const struct grammar_vocab *v, const struct mask_node *n)
{
    return n->more == GRAM_NONE || n->byte == '"' ? NULL : &v->sum[n->more];
}

/* Is all below n decided, or taken here? st is behind n's byte, in state q. */
static bool skip(struct gwalk *p, const struct mask_node *n, uint32_t q, bool left)
{
    const struct mask_sum *s = sum_of(p->v, n);
    uint32_t from = n->first + n->here, to = mask_last(&p->v->trie, n);
    if (!s || s->other)
        return false;
    if (!left)
        return !gram_bytes_meet(&s->set, &p->exits);
    if (q == 0 || to - from < MANY || !gram_bytes_within(&s->set, &looped(p, q)->loops))
        return false;
    mask_set_range(p->w->tok, p->v->plain, from, to);
    return true;
}

static void walk(struct gwalk *p, uint32_t root)
{
    const struct mask_trie *t = &p->v->trie;
    struct {
        uint32_t end, q;
        bool left; /* one of the characters was an exit */
        struct gram_utf8 u;
    } at[MASK_MAX_TOKEN + 2], *up, *to;
    uint32_t depth = 0, lo, hi;
    memset(&at[0], 0, sizeof at[0]);
    at[0].end = t->n;
    at[0].q = root;
    at[0].left = !p->by_set;
    for (uint32_t i = 1; i < t->n && !p->a->full;) {
        const struct mask_node *n = &t->node[i];
        uint32_t next = n->end;
        while (depth > 0 && at[depth].end <= i)
            depth--;
        up = &at[depth];
        to = up + 1;
        __builtin_prefetch(&t->node[next]); /* often far away */
        to->u = up->u;
        to->q = up->q;
        int k = gram_utf8_step(&to->u, (uint8_t)n->byte);
        bool fits = false;
        if (k > 0) {
            fits = (to->q = next_of(p, up->q, gbnf_class(p->a->g, to->u.cp))) != 0;
        } else if (k == 0) {
            gram_utf8_span(&to->u, &lo, &hi);
            fits = alive(p, up->q, lo, hi);
        }
        if (fits) {
            to->left = up->left || (up->u.left == 0 && gram_bytes_has(&p->exits, (uint8_t)n->byte));
            for (uint32_t j = 0; j < n->here; j++)
                mask_set(p->w->tok, n->first + j);
            if (next > i + 1 && !((k > 0 || !to->left) && skip(p, n, to->q, to->left))) {
                to->end = next;
                depth++;
                next = i + 1;
            }
        }
        i = next;
    }
}

bool mask_gbnf(const struct gmatch *m, struct gmask_scratch *w)
{
    const struct gbnf *g = m->g->gbnf;
    if (g->n_classes == 0)
        return false;
    struct gwalk p = {.v = m->v, .w = w, .a = automaton(w, g), .tmp = &w->at[1].b};
    for (unsigned round = 0; round < 2; round++) {
        uint32_t root = number_of(p.a, &w->at[0].b);
        const struct known *k = p.a->full ? NULL : looped(&p, root);
        p.by_set = false;
        memset(&p.exits, 0, sizeof p.exits);
        if (!p.a->full && (k->loops.on[0] | k->loops.on[1] | k->loops.on[2])) {
            p.by_set = true;
            p.exits = k->exits;
            mask_set_of(w, p.v, &k->loops, p.v->plain);
        }
        if (!p.a->full)
            walk(&p, root);
        if (!p.a->full)
            return true;
        empty(w, p.a);
        memset(w->tok, 0, p.v->tok_words * sizeof *w->tok);
    }
    return false;
}

bool mask_gbnf_find(const struct gmatch *m, struct gmask_scratch *w, uint64_t *mask, size_t *n)
{
    const struct gbnf *g = m->g->gbnf;
    w->keep = NULL;
    if (m->g->kind != GRAMMAR_GBNF || g->n_classes == 0 || m->now.b.u.left)
        return false;
    struct mask_auto *a = automaton(w, g);
    uint32_t q = number_of(a, &m->now.b);
    struct mask_kept *k = w->kept;
    for (unsigned i = 0; q != FULL && i < KEPT; i++) {
        struct mask_kept *x = &w->kept[i];
        if (x->used && x->age == a->age && x->q == q) {
            x->used = ++w->n_made;
            *n = x->n;
            memcpy(mask, w->kept_bits + (size_t)i * m->v->words, m->v->words * sizeof *mask);
            return true;
        }
        if (x->used < k->used)
            k = x;
    }
    if (q != FULL) {
        *k = (struct mask_kept){.age = a->age, .q = q};
        w->keep = k;
    }
    return false;
}

void mask_gbnf_keep(const struct gmatch *m, struct gmask_scratch *w, const uint64_t *mask, size_t n)
{
    if (!w->keep || automaton(w, m->g->gbnf)->age != w->keep->age)
        return; /* its number means another state by now */
    w->keep->used = ++w->n_made;
    w->keep->n = n;
    memcpy(w->kept_bits + (size_t)(w->keep - w->kept) * m->v->words, mask,
           m->v->words * sizeof *mask);
}
