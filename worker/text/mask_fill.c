/* SPDX-License-Identifier: Apache-2.0 */
/* mask_fill.c - the tokens that may come next: a walk over the trie that stops at the first
 * byte that does not fit. Inside a JSON string where every character may come, the walk is
 * replaced by what the vocabulary knows: tokens that stay inside are one ready mask, tokens
 * that close the string depend only on what follows the quote. */
#include "base/num.h"
#include "worker/text/mask_int.h"

#include <stdlib.h>
#include <string.h>

#define SAMPLE 16U /* every so many words are looked at to guess */

struct walk {
    const struct gmatch *m;
    struct gmask_scratch *s;
    uint32_t ctx;       /* the string context that the walk is in, GRAM_NONE: none */
    uint32_t ctx_chars; /* n_chars when it began */
};

void mask_set_range(uint64_t *to, const uint64_t *from, uint32_t a, uint32_t b)
{
    if (a >= b)
        return;
    uint64_t head = ~0ULL << (a % 64), tail = b % 64 ? ~0ULL >> (64 - b % 64) : ~0ULL;
    uint32_t i = a / 64, last = (b - 1) / 64;
    if (i == last) {
        to[i] |= from[i] & head & tail;
        return;
    }
    to[i] |= from[i] & head;
    for (i++; i < last; i++)
        to[i] |= from[i];
    to[last] |= from[last] & tail;
}

void mask_copy(const struct gmatch *m, struct gmask_scratch *w, struct gram_state *to,
               const struct gram_state *from)
{
    uint32_t i = (uint32_t)(to - w->at);
    while (w->n_ready <= i)
        w->at[w->n_ready++].s.low = 0;
    to->q = from->q;
    to->sub = from->sub;
    to->tq = from->tq;
    to->u = from->u;
    if (m->g->kind == GRAMMAR_GBNF)
        gbnf_copy(&to->b, &from->b);
    else if (gram_schema(m->g, from))
        sstate_copy_near(&to->s, &from->s);
}

void mask_walk_rests(const struct gmatch *m, struct gmask_scratch *w, struct gram_state *st,
                     struct mask_close *to)
{
    const struct mask_trie *t = &m->v->rests;
    uint32_t ends[MASK_MAX_TOKEN + 2], depth = 0;
    memset(to->ok, 0, (t->n_str / 64 + 1) * sizeof *to->ok);
    to->any = false;
    mask_copy(m, w, st + 1, st);
    if (!gram_step(m->g, st + 1, '"'))
        return;
    to->any = true;
    for (uint32_t k = 0; k < t->node[0].here; k++)
        mask_set(to->ok, k);
    ends[0] = t->n;
    for (uint32_t i = 1; i < t->n;) {
        const struct mask_node *n = &t->node[i];
        while (depth > 0 && ends[depth] <= i)
            depth--;
        mask_copy(m, w, st + depth + 2, st + depth + 1);
        if (!gram_step(m->g, st + depth + 2, n->byte)) {
            i = n->end;
            continue;
        }
        for (uint32_t k = 0; k < n->here; k++)
            mask_set(to->ok, n->first + k);
        ends[++depth] = n->end;
        i++;
    }
}

/* Does closing here lead to the same as where rest_ok was made? */
static bool same_close(const struct gmask_scratch *w, const struct gram_state *st)
{
    const struct sstate *o = &w->saved.s, *s = &st->s;
    return w->have_rests && w->saved.sub == st->sub && o->len == s->len && o->top == s->top &&
           o->in_key == s->in_key && o->depth == s->depth && memcmp(o->data, s->data, s->len) == 0;
}

bool mask_exact(const struct gmatch *m, struct gmask_scratch *w, struct gram_state *st,
                uint32_t pos, uint32_t depth)
{
    const struct grammar_vocab *v = m->v;
    mask_copy(m, w, st + 1, st);
    for (uint32_t i = v->at[pos] + depth; i < v->at[pos + 1]; i++)
        if (!gram_step(m->g, st + 1, v->bytes[i]))
            return false;
    return true;
}

/* All tokens below a node that lies in a free string; st is its state, scratch follows it. */
static void fill_string(struct walk *w, const struct mask_node *n, struct gram_state *st,
                        uint32_t depth, const struct sfree *f)
{
    const struct gmatch *m = w->m;
    struct gmask_scratch *s = w->s;
    const struct grammar_vocab *v = m->v;
    const struct mask_ctx *c = &v->ctx[w->ctx];
    uint32_t from = n->first + n->here, to = mask_last(&v->trie, n);
    uint32_t left = f->left == GRAM_NONE ? GRAM_NONE : f->left + (st->s.n_chars - w->ctx_chars);
    if (w->ctx == 0) {
        mask_set_range(s->tok, v->by_pos[NUM_MIN(left, MASK_BUCKETS)], from, to);
        for (uint32_t i = 0; left >= MASK_BUCKETS && i < v->n_lengthy; i++) {
            uint32_t pos = v->lengthy[i].pos;
            if (v->lengthy[i].need > left && pos >= from && pos < to)
                s->tok[pos / 64] &= ~(1ULL << (pos % 64));
        }
    } else {
        const struct mask_pure *p = v->pure + c->pure;
        uint32_t lo = 0, hi = c->n_pure;
        while (lo < hi) {
            uint32_t mid = (lo + hi) / 2;
            if (p[mid].pos < from)
                lo = mid + 1;
            else
                hi = mid;
        }
        for (; lo < c->n_pure && p[lo].pos < to; lo++)
            if (p[lo].need <= left)
                mask_set(s->tok, p[lo].pos);
    }
    const struct mask_closer *q = v->closer + c->closer;
    uint32_t lo = 0, hi = c->n_closer;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (q[mid].pos < from)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == c->n_closer || q[lo].pos >= to)
        return;
    /* Only a key's closing may fail for its content (it was there before) while what follows is
     * the same for all keys: then the rests sort out nearly all tokens. */
    bool sift = !f->each_close || st->s.in_key;
    if (sift && !same_close(s, st)) {
        mask_walk_rests(m, s, st, &s->rest);
        gram_copy(m->g, &s->saved, st);
        s->have_rests = true;
    }
    for (; lo < c->n_closer && q[lo].pos < to; lo++) {
        if (q[lo].chars > left)
            continue;
        if (sift && s->rest.any && !(s->rest.ok[q[lo].rest / 64] >> (q[lo].rest % 64) & 1))
            continue;
        if (f->each_close ? mask_exact(m, s, st, q[lo].pos, depth) : s->rest.any)
            mask_set(s->tok, q[lo].pos);
    }
}

/* Is the state at the context's node, or inside the same string? Then its freedom. */
static bool free_here(const struct walk *w, const struct gram_state *st, struct sfree *f)
{
    const struct sgram *g = w->ctx != GRAM_NONE ? gram_schema(w->m->g, st) : NULL;
    return g && srun_free(g, &st->s, f);
}

static bool in_str(const struct grammar *g, const struct gram_state *st)
{
    return gram_schema(g, st) && st->s.lex == LX_STR;
}

/* Where the walk is: one level a byte of the token. */
struct level {
    uint32_t end, ctx, chars;
    bool real;   /* the state of this level was made */
    bool number; /* it is inside a number that nothing but its form bounds, of schema g: */
    const struct sgram *g;
    uint8_t phase, len;
    struct srun_bytes first; /* no other byte fits; of a state that was made */
};

static void look(const struct gmatch *m, const struct gram_state *st, struct level *l)
{
    const struct sgram *g = gram_schema(m->g, st);
    l->real = true;
    l->number = g && srun_number_is_free(g, &st->s);
    l->g = g;
    l->phase = l->number ? st->s.numphase : 0;
    l->len = l->number ? st->s.numlen : 0;
    memset(&l->first, 0xFF, sizeof l->first);
    /* What encloses the value may go on behind a number. */
    if (g && !(m->g->kind == GRAMMAR_FRAME && st->s.lex == LX_NUM))
        srun_first(g, &st->s, &l->first);
}

/* The state of a level inside a number; text: that of a token through it. */
static void make_real(const struct gmatch *m, struct gmask_scratch *w, struct level *at,
                      uint32_t depth, const unsigned char *text)
{
    uint32_t d = depth;
    while (!at[d].real)
        d--;
    mask_copy(m, w, w->at + depth, w->at + d);
    for (; d < depth; d++)
        (void)gram_step(m->g, w->at + depth, text[d]);
    look(m, w->at + depth, &at[depth]);
}

/* The number of schema g goes on with b: 1, -1 it can't with this byte, 0 it does not. */
static int number_goes(const struct sgram *g, const struct level *up, uint8_t b, struct level *to)
{
    int k = srun_number_step(g, up->phase, up->len, b, &to->phase);
    if (k > 0) {
        to->real = false;
        to->number = true;
        to->g = g;
        to->len = (uint8_t)(up->len + 1);
        to->ctx = GRAM_NONE;
        to->chars = 0;
    }
    return k;
}

static void walk_tokens(const struct gmatch *m, struct gmask_scratch *scratch)
{
    const struct grammar_vocab *v = m->v;
    const struct mask_trie *t = &v->trie;
    struct level at[MASK_MAX_TOKEN + 2];
    uint32_t depth = 0;
    struct walk w = {m, scratch, GRAM_NONE, 0};
    struct gram_state *st = scratch->at;
    struct sfree f;
    scratch->have_rests = false;
    gram_copy(m->g, st, &m->now);
    scratch->n_ready = 1;
    if (m->g->kind != GRAMMAR_GBNF) /* its state lies in the same place */
        st->s.low = gram_schema(m->g, st) ? st->s.len : 0;
    if (in_str(m->g, st) && st->s.phase == 0 && st->s.u.left == 0) {
        w.ctx = 0;
        w.ctx_chars = st->s.n_chars;
        if (free_here(&w, st, &f) && !f.each_close) {
            fill_string(&w, &t->node[0], st, 0, &f);
            return;
        }
    }
    if (in_str(m->g, st) && st->s.u.left == 0) {
        mask_string(m, scratch);
        return;
    }
    if (m->g->kind == GRAMMAR_DFA && st->u.left == 0) {
        mask_text(m, scratch, m->g->dfa, st->q);
        return;
    }
    if (m->g->kind == GRAMMAR_GBNF && st->b.u.left == 0) {
        if (mask_gbnf(m, scratch))
            return;
        gram_copy(m->g, st, &m->now);
    }
    const struct frame_sub *text = gram_text(m->g, st);
    if (text && text->d->wide && st->u.left == 0) {
        mask_text(m, scratch, text->d, st->tq);
        for (uint32_t i = 0; i < m->g->n_cross; i++)
            if (mask_exact(m, scratch, st, m->g->cross[i], 0))
                mask_set(scratch->tok, m->g->cross[i]);
        return;
    }
    at[0].end = t->n;
    at[0].ctx = w.ctx;
    at[0].chars = w.ctx_chars;
    look(m, st, &at[0]);
    for (uint32_t i = 1; i < t->n;) {
        const struct mask_node *n = &t->node[i];
        while (depth > 0 && at[depth].end <= i)
            depth--;
        struct level *up = &at[depth], *to = up + 1;
        int number = up->number ? number_goes(up->g, up, (uint8_t)n->byte, to) : 0;
        if (number == 0 && !up->real)
            make_real(m, scratch, at, depth, t->bytes + t->at[n->first]);
        if (number < 0 || (number == 0 && !srun_in(&up->first, (uint8_t)n->byte))) {
            i = n->end;
            continue;
        }
        struct gram_state *s = st + depth + 1;
        if (number == 0) {
            mask_copy(m, scratch, s, st + depth);
            if (!gram_step(m->g, s, (uint8_t)n->byte)) {
                i = n->end;
                continue;
            }
        }
        for (uint32_t k = 0; k < n->here; k++)
            mask_set(scratch->tok, n->first + k);
        depth++;
        to->end = n->end;
        i++;
        if (number > 0)
            continue;
        look(m, s, to);
        w.ctx = up->ctx;
        w.ctx_chars = up->chars;
        if (gram_schema(m->g, s)) {
            if (s->s.lex != LX_STR) {
                w.ctx = GRAM_NONE;
            } else if (!in_str(m->g, s - 1)) {
                w.ctx = n->more;
                w.ctx_chars = 0;
            }
            to->ctx = w.ctx;
            to->chars = w.ctx_chars;
            if (n->end > i && free_here(&w, s, &f)) {
                fill_string(&w, n, s, depth, &f);
                i = n->end;
            }
        } else {
            to->ctx = w.ctx = GRAM_NONE;
        }
    }
}

int gmask_scratch_open(struct gmask_scratch **out, const struct grammar_vocab *v, struct err *e)
{
    struct gmask_scratch *w = malloc(sizeof *w);
    size_t words = v->rests.n_str / 64 + 1;
    *out = w;
    if (!w)
        return err_set(e, Q_ENOMEM, "out of memory");
    w->tok = calloc(v->tok_words + 1, sizeof *w->tok);
    w->rest.ok = calloc(words * (MASK_CLOSES + 1), sizeof *w->rest.ok);
    w->made_bits = malloc(((size_t)v->tok_words + 1) * MASK_SETS * sizeof *w->made_bits);
    memset(w->made, 0, sizeof w->made);
    w->n_made = 0;
    w->autos = NULL;
    w->kept = w->keep = NULL;
    w->kept_bits = NULL;
    if (w->tok && w->rest.ok && w->made_bits && mask_gbnf_open(w, v->words, e) == 0) {
        for (uint32_t i = 0; i < MASK_CLOSES; i++)
            w->close[i].ok = w->rest.ok + words * (i + 1);
        return 0;
    }
    gmask_scratch_close(w);
    *out = NULL;
    return err_set(e, Q_ENOMEM, "out of memory");
}

void gmask_scratch_close(struct gmask_scratch *w)
{
    if (!w)
        return;
    free(w->tok);
    free(w->rest.ok);
    free(w->made_bits);
    mask_gbnf_close(w);
    free(w);
}

/* The bits of a, or of a ^ b, in every step-th word. Processors without an instruction for it are
 * served too. */
static size_t differing(const uint64_t *a, const uint64_t *b, uint32_t words, uint32_t step)
{
    size_t n = 0;
    for (uint32_t i = 0; i < words; i += step) {
        uint64_t x = a[i] ^ (b ? b[i] : 0);
        x -= x >> 1 & 0x5555555555555555ULL;
        x = (x & 0x3333333333333333ULL) + (x >> 2 & 0x3333333333333333ULL);
        n += ((x + (x >> 4)) & 0x0F0F0F0F0F0F0F0FULL) * 0x0101010101010101ULL >> 56;
    }
    return n;
}

/* What w->tok says, by ids. Returns how many. */
static size_t by_ids(const struct grammar_vocab *v, const struct gmask_scratch *w, uint64_t *mask)
{
    const uint64_t *base = NULL;
    unsigned k = MASK_BUCKETS;
    size_t n = differing(w->tok, NULL, v->tok_words, 1);
    /* Turning positions into ids costs per bit: start from the ready mask that seems nearest. */
    size_t best = n / SAMPLE;
    for (unsigned j = 0; j <= MASK_BUCKETS && n > 512 && best > 4096 / SAMPLE; j++) {
        unsigned b = MASK_BUCKETS - j;
        size_t d = differing(w->tok, v->by_pos[b], v->tok_words, SAMPLE);
        if (d < best) {
            best = d;
            k = b;
            base = v->by_pos[b];
        }
    }
    if (base)
        memcpy(mask, v->by_id[k], v->words * sizeof *mask);
    else
        memset(mask, 0, v->words * sizeof *mask);
    for (uint32_t i = 0; i < v->tok_words; i++) {
        for (uint64_t x = w->tok[i] ^ (base ? base[i] : 0); x; x &= x - 1) {
            uint32_t id = v->id[i * 64 + (uint32_t)__builtin_ctzll(x)];
            mask[id / 64] ^= 1ULL << (id % 64);
        }
    }
    return n;
}

size_t gmatch_fill_mask(struct gmatch *m, struct gmask_scratch *w, uint64_t *mask)
{
    const struct grammar_vocab *v = m->v;
    size_t n = 0;
    if (!v)
        return 0;
    if (!mask_gbnf_find(m, w, mask, &n)) {
        memset(w->tok, 0, v->tok_words * sizeof *w->tok);
        walk_tokens(m, w);
        n = by_ids(v, w, mask);
        mask_gbnf_keep(m, w, mask, n);
    }
    if (v->n_eog && gmatch_can_stop(m)) {
        for (uint32_t i = 0; i < v->n_eog; i++)
            mask_set(mask, v->eogs[i]);
        n += v->n_eog;
    }
    for (uint32_t j = 0; m->g->kind == GRAMMAR_FRAME && j < m->g->n_mark; j++) {
        uint32_t id = m->g->mark[j];
        if (frame_may_mark(m->g, &m->now, j) && !(mask[id / 64] >> (id % 64) & 1)) {
            mask_set(mask, id);
            n++;
        }
    }
    return n;
}
