/* SPDX-License-Identifier: Apache-2.0 */
/* mask_string.c - the tokens that may come inside a string whose text automata watch.
 *
 * Plain tokens are walked with the automata alone; where these are wide, a whole subtree is taken
 * by what its sum says. The few tokens with quotes or backslashes are walked with the full state;
 * what may stand behind a closing quote is found once for all texts that lead to the same. */
#include "worker/text/mask_int.h"

#include <string.h>

#define MANY 16U /* tokens behind one quote that are worth finding all rests for */
#define MEMO 64U

struct lite {
    uint32_t end, n; /* n: characters since the walk began */
    bool left;       /* one of them was an exit */
    unsigned failed; /* tracks, as bits */
    struct gram_utf8 u;
    uint32_t q[SRUN_TRACKS];
};
struct plain {
    const struct gmatch *m;
    struct gmask_scratch *w;
    struct gram_state *st; /* where it begins; NULL: no JSON */
    const struct sgram *g;
    struct strack t[SRUN_TRACKS];
    uint32_t n_t, n_chars;
    bool by_set; /* tokens without the exits are decided */
    struct gram_bytes exits;
    /* Which tracks may fail: by their bits, as far as it was asked. */
    struct {
        unsigned failed;
        bool known, lost;
    } memo[MEMO];
};

static bool is_lost(struct plain *p, unsigned failed)
{
    unsigned k = failed % MEMO;
    if (!p->st)
        return true;
    if (!p->memo[k].known || p->memo[k].failed != failed) {
        p->memo[k].known = true;
        p->memo[k].failed = failed;
        p->memo[k].lost = srun_lost(p->g, &p->st->s, &p->st[1].s, p->t, failed);
    }
    return p->memo[k].lost;
}

/* Everything plain below n may come. pending: the character that begins with n's byte, of several,
 * is still to be completed. */
static bool take_all(const struct plain *p, const struct mask_node *n, const struct lite *at,
                     bool pending)
{
    const struct grammar_vocab *v = p->m->v;
    if (n->more == GRAM_NONE || n->byte == '"')
        return false;
    const struct mask_sum *s = &v->sum[n->more];
    struct gram_bytes set = s->set;
    uint32_t height = s->height + pending;
    if (s->other && !p->st)
        return false;
    if (pending)
        set.on[2] |= 1ULL << (gram_lead_bit(n->byte) - 128);
    for (uint32_t i = 0; i < p->n_t; i++) {
        const struct strack *t = &p->t[i];
        if (at->failed >> i & 1)
            continue;
        uint64_t need = (uint64_t)p->n_chars + at->n + height + (t->d ? t->d->far : 0);
        if (t->max != GRAM_NONE && need > t->max)
            return false;
        if (!t->d)
            continue;
        const struct dfa_wide *w = &t->d->wide[at->q[i]];
        if (w->depth < height || !gram_bytes_within(&set, &w->set))
            return false;
    }
    mask_set_range(p->w->tok, v->plain, n->first + n->here, mask_last(&v->trie, n));
    return true;
}

/* Is all below n decided already? */
static bool decided(const struct plain *p, const struct mask_node *n)
{
    if (n->more == GRAM_NONE || n->byte == '"')
        return false;
    const struct mask_sum *s = &p->m->v->sum[n->more];
    return (!s->other || p->st) && !gram_bytes_meet(&s->set, &p->exits);
}

/* Tokens made of these characters only. */
static void make_set(const struct grammar_vocab *v, const struct gram_bytes *set, uint64_t *tok)
{
    const uint64_t *without[192 + MASK_GROUPS];
    struct gram_bytes done = *set;
    uint32_t n = 0;
    for (unsigned g = 0; g < MASK_GROUPS; g++) {
        struct gram_bytes s = mask_group(g);
        if (gram_bytes_meet(&s, set))
            continue;
        without[n++] = v->has_group[g];
        for (unsigned k = 0; k < 3; k++)
            done.on[k] |= s.on[k];
    }
    for (unsigned b = 0; b < 192; b++)
        if (v->has[b] && !(done.on[b / 64] >> (b % 64) & 1))
            without[n++] = v->has[b];
    for (uint32_t i = 0; i < v->tok_words; i += 64) {
        uint32_t to = v->tok_words - i < 64 ? v->tok_words - i : 64;
        uint64_t no[64] = {0};
        for (uint32_t k = 0; k < n; k++)
            for (uint32_t j = 0; j < to; j++)
                no[j] |= without[k][i + j];
        for (uint32_t j = 0; j < to; j++)
            tok[i + j] = v->plain[i + j] & ~no[j];
    }
}

/* A text stays in few sets: the latest are kept. */
void mask_set_of(struct gmask_scratch *w, const struct grammar_vocab *v,
                 const struct gram_bytes *set, const uint64_t *within)
{
    struct mask_made *m = w->made;
    if (!(set->on[0] | set->on[1] | set->on[2]))
        return;
    for (unsigned i = 0; i < MASK_SETS; i++) {
        bool same = w->made[i].tok && memcmp(&w->made[i].set, set, sizeof *set) == 0;
        if (same || w->made[i].used < m->used)
            m = &w->made[i];
        if (same)
            break;
    }
    if (!m->tok || memcmp(&m->set, set, sizeof *set) != 0) {
        m->tok = w->made_bits + (size_t)(m - w->made) * v->tok_words;
        m->set = *set;
        make_set(v, set, m->tok);
    }
    m->used = ++w->n_made;
    for (uint32_t i = 0; i < v->tok_words; i++)
        w->tok[i] |= m->tok[i] & within[i];
}

/* With one automaton, in a state where a set of characters goes on for long: tokens of these
 * characters are found without a walk, and tokens with others only matter if they have an exit.
 * With none at all only the length counts. False: it does not apply. */
static bool decide_by_set(struct plain *p)
{
    const struct grammar_vocab *v = p->m->v;
    const struct strack *d = NULL;
    uint32_t left = GRAM_NONE, sum = v->trie.node[0].more, depth = GRAM_NONE;
    struct gram_bytes set = {{~0ULL, ~0ULL, ~0ULL}};
    if (sum == GRAM_NONE || (v->sum[sum].other && !p->st))
        return false;
    for (uint32_t i = 0; i < p->n_t; i++) {
        const struct strack *t = &p->t[i];
        if ((t->d && d) || t->o || !is_lost(p, 1U << i))
            return false;
        d = t->d ? t : d;
        if (t->max == GRAM_NONE)
            continue;
        uint32_t most = t->max > p->n_chars ? t->max - p->n_chars : 0;
        if (t->d && t->d->far > 0 && most < (uint64_t)v->sum[sum].height + t->d->far)
            return false;
        left = most < left ? most : left;
    }
    if (d) {
        const struct dfa_wide *w = &d->d->wide[d->q];
        if (w->depth < MASK_BUCKETS)
            return false;
        set = w->set;
        depth = w->depth;
        p->exits = w->exits;
        p->by_set = true;
    }
    mask_set_of(p->w, v, &set, left < MASK_BUCKETS ? v->by_pos[left] : v->plain);
    for (uint32_t i = 0; left >= MASK_BUCKETS && i < v->n_lengthy; i++) {
        uint32_t pos = v->lengthy[i].pos, need = v->lengthy[i].need;
        uint64_t bit = 1ULL << (pos % 64);
        if (p->w->tok[pos / 64] & bit &&
            (need > left || (need > depth && !mask_exact(p->m, p->w, p->w->at, pos, 0))))
            p->w->tok[pos / 64] &= ~bit;
    }
    return true;
}

/* The byte in to->u was taken: do the tracks allow it? whole: it completes to->u.cp. */
static bool follow(struct plain *p, struct lite *to, bool whole)
{
    uint32_t lo = to->u.cp, hi = lo;
    unsigned failed = to->failed;
    const struct sstate *s = p->st ? &p->st->s : NULL;
    if (!whole)
        gram_utf8_span(&to->u, &lo, &hi);
    for (uint32_t i = 0; i < p->n_t; i++) {
        const struct strack *t = &p->t[i];
        if (failed >> i & 1)
            continue;
        if (whole && t->max == GRAM_NONE && !t->o) /* most are */
            failed |= (uint32_t)((to->q[i] = dfa_next(t->d, to->q[i], lo)) == 0) << i;
        else if (!srun_track(s, t, &to->q[i], lo, hi, whole, p->n_chars + to->n + 1))
            failed |= 1U << i;
    }
    to->n += whole;
    if (failed == to->failed)
        return true;
    to->failed = failed;
    return !is_lost(p, failed);
}

/* The plain tokens below a node. */
static void walk_plain(struct plain *p, uint32_t from)
{
    const struct mask_trie *t = &p->m->v->trie;
    struct lite at[MASK_MAX_TOKEN + 2];
    uint32_t depth = 0;
    memset(&at[0], 0, sizeof at[0]);
    at[0].end = t->node[from].end;
    for (uint32_t i = 0; i < p->n_t; i++)
        at[0].q[i] = p->t[i].q;
    if (take_all(p, &t->node[from], &at[0], false))
        return;
    if (from == 0 && decide_by_set(p) && (!p->by_set || decided(p, &t->node[0])))
        return;
    for (uint32_t i = from + 1; i < at[0].end;) {
        const struct mask_node *n = &t->node[i];
        while (depth > 0 && at[depth].end <= i)
            depth--;
        struct lite *up = &at[depth], *to = up + 1;
        uint32_t next = n->end;
        __builtin_prefetch(&t->node[next]); /* often far away */
        if (p->st && up->u.left == 0 && (n->byte < 0x20 || n->byte == '"' || n->byte == '\\')) {
            i = next;
            continue;
        }
        to->n = up->n;
        to->left =
            up->left || !p->by_set || (up->u.left == 0 && gram_bytes_has(&p->exits, n->byte));
        to->failed = up->failed;
        to->u = up->u;
        for (uint32_t k = 0; k < p->n_t; k++)
            to->q[k] = up->q[k];
        int k = gram_utf8_step(&to->u, n->byte);
        if (k >= 0 && follow(p, to, k > 0)) {
            for (uint32_t j = 0; to->left && j < n->here; j++)
                mask_set(p->w->tok, n->first + j);
            bool taken = next == i + 1;
            if (!taken && !to->left)
                taken = decided(p, n);
            else if (!taken && (k > 0 || up->u.left == 0))
                taken = take_all(p, n, to, k == 0);
            if (!taken) {
                to->end = next;
                depth++;
                next = i + 1;
            }
        }
        i = next;
    }
}

/* False: more schemas watch than are followed here. */
static bool plain_from(const struct gmatch *m, struct gmask_scratch *w, struct gram_state *st,
                       uint32_t node)
{
    struct plain p = {.m = m, .w = w, .st = st, .g = gram_schema(m->g, st)};
    p.n_t = srun_tracks(p.g, &st->s, p.t);
    p.n_chars = st->s.n_chars;
    if (p.n_t == GRAM_NONE)
        return false;
    walk_plain(&p, node);
    return true;
}

static bool in_string(const struct grammar *g, const struct gram_state *st)
{
    return gram_schema(g, st) && st->s.lex == LX_STR;
}

/* The tokens without quotes and backslashes, from inside an escape. */
static void walk_escaped(const struct gmatch *m, struct gmask_scratch *w, bool follow_plain)
{
    const struct mask_trie *t = &m->v->trie;
    uint32_t ends[MASK_MAX_TOKEN + 2], depth = 0;
    for (uint32_t i = 1; i < t->n;) {
        const struct mask_node *n = &t->node[i];
        while (depth > 0 && ends[depth] <= i)
            depth--;
        struct gram_state *to = w->at + depth + 1;
        bool odd = n->byte == '"' || n->byte == '\\';
        if (!odd)
            mask_copy(m, w, to, w->at + depth);
        if (odd || !gram_step(m->g, &to[0], n->byte)) {
            i = n->end;
            continue;
        }
        for (uint32_t k = 0; k < n->here; k++)
            mask_set(w->tok, n->first + k);
        bool between = to->s.phase == 0 && to->s.u.left == 0;
        if (n->end == i + 1 || (follow_plain && between && plain_from(m, w, to, i))) {
            i = n->end;
            continue;
        }
        ends[++depth] = n->end;
        i++;
    }
}

/* The rests that fit where st is about to read the closing quote; NULL: not to be had. */
static const struct mask_close *close_of(const struct gmatch *m, struct gmask_scratch *w,
                                         struct gram_state *st, uint32_t n_tokens)
{
    uint64_t mark;
    if (!srun_close_mark(gram_schema(m->g, st), &st->s, &mark))
        return NULL;
    for (uint32_t i = 0; i < w->n_close; i++)
        if (w->close[i].mark == mark)
            return &w->close[i];
    if (w->n_close == MASK_CLOSES || n_tokens < MANY)
        return NULL;
    struct mask_close *c = &w->close[w->n_close++];
    c->mark = mark;
    mask_walk_rests(m, w, st, c);
    return c;
}

/* The tokens with quotes and backslashes. */
static void walk_odd(const struct gmatch *m, struct gmask_scratch *w)
{
    const struct grammar_vocab *v = m->v;
    const struct mask_trie *t = &v->odd;
    uint32_t ends[MASK_MAX_TOKEN + 2], depth = 0;
    bool inside[MASK_MAX_TOKEN + 2];
    bool from_phase0 = w->at->s.phase == 0;
    unsigned doubt =
        REST_QUOTES | (srun_unique_around(gram_schema(m->g, w->at), &w->at->s) ? REST_CLOSES : 0U);
    inside[0] = true;
    w->n_close = 0;
    for (uint32_t i = 1; i < t->n;) {
        const struct mask_node *n = &t->node[i];
        while (depth > 0 && ends[depth] <= i)
            depth--;
        struct gram_state *st = w->at + depth;
        bool closes = inside[depth] && n->byte == '"' && st->s.phase == 0 && st->s.u.left == 0;
        uint32_t last = mask_last(t, n);
        const struct mask_close *c =
            closes && from_phase0 ? close_of(m, w, st, last - n->first) : NULL;
        for (uint32_t k = n->first; c && c->any && k < last; k++) {
            uint32_t rest = v->odd_rest[k], pos = v->odd_pos[k];
            bool ok = c->ok[rest / 64] >> (rest % 64) & 1;
            if (v->rest_has[rest] & doubt)
                ok = mask_exact(m, w, st, pos, depth);
            if (ok)
                mask_set(w->tok, pos);
        }
        if (c) {
            i = n->end;
            continue;
        }
        mask_copy(m, w, st + 1, st);
        if (!gram_step(m->g, st + 1, n->byte)) {
            i = n->end;
            continue;
        }
        for (uint32_t k = 0; k < n->here; k++)
            mask_set(w->tok, v->odd_pos[n->first + k]);
        ends[++depth] = n->end;
        inside[depth] = inside[depth - 1] && in_string(m->g, st + 1);
        i++;
    }
}

void mask_string(const struct gmatch *m, struct gmask_scratch *w)
{
    if (w->at->s.phase != 0)
        walk_escaped(m, w, true);
    else if (!plain_from(m, w, w->at, 0))
        walk_escaped(m, w, false);
    walk_odd(m, w);
}

void mask_text(const struct gmatch *m, struct gmask_scratch *w, const struct dfa *d, uint32_t q)
{
    struct plain p = {.m = m, .w = w, .n_t = 1};
    p.t[0] = (struct strack){.d = d, .q = q, .max = GRAM_NONE};
    walk_plain(&p, 0);
}
