/* SPDX-License-Identifier: Apache-2.0 */
/* gram_text.c - texts that stand as they are and end with a mark: a family's string arguments.
 *
 * A string under constraints is the product of the automata that its schema asks for, of how many
 * characters there are, and of how much of the mark the text ends with, so that the mark stands
 * nowhere but at the end. Whether such a state may be the end follows from the whole schema. */
#include "base/num.h"
#include "worker/text/gram_build.h"
#include "worker/text/schema_slots.h"

#include <stdlib.h>
#include <string.h>

#define MAX_TRACKS 6U
#define MAX_STATES 6000U
#define MAX_WORK   (8U << 20)
#define MAX_DEPTH  32U
#define MAX_MARK   40U

/* b->a is borrowed for the text's own automaton. */
static int build_dfa(struct build *b, uint32_t start, bool wide, struct dfa **out)
{
    return wide ? dfa_build_wide(out, &b->a, start, b->e) : dfa_build(out, &b->a, start, b->e);
}

int gtext_free(struct build *b, const char *end, const char *bars, struct dfa **out)
{
    struct nfa kept = b->a;
    struct free_exit x[FREE_MAX_EXIT];
    struct free_text f = {.exits = x, .start = GRAM_NONE, .bars = bars};
    const char *rest;
    uint32_t done = GRAM_NONE;
    memset(&b->a, 0, sizeof b->a);
    int rc = piece_state(b, &f.at);
    if (rc == 0 && *bars)
        rc = piece_state(b, &f.start);
    if (rc == 0)
        rc = nfa_add(&b->a, NFA_ACCEPT, 0, GRAM_NONE, &done, b->e);
    if (rc == 0)
        rc = piece_exit(b, x, &f.n_exits, end, &rest, done);
    if (rc == 0)
        rc = nfa_free(&b->a, &f, b->e);
    if (rc == 0)
        rc = build_dfa(b, *bars ? f.start : f.at, false, out);
    nfa_fini(&b->a);
    b->a = kept;
    return rc;
}

/* ---- what a schema says about strings ---- */

static unsigned types_of(const struct sgram *g, uint32_t node, unsigned depth)
{
    const struct snode *n = &g->node[node];
    unsigned t = n->types, any[2] = {0, 0};
    bool has[2] = {false, false};
    for (uint32_t k = 0; k < n->n_kids && depth < MAX_DEPTH; k++) {
        const struct skid *kid = &g->kid[n->kid + k];
        unsigned of = types_of(g, kid->node, depth + 1);
        if (kid->role == KID_ALL)
            t &= of;
        if (kid->role == KID_ANY || kid->role == KID_ONE) {
            any[kid->role == KID_ONE] |= of;
            has[kid->role == KID_ONE] = true;
        }
    }
    for (unsigned i = 0; i < 2; i++)
        t &= has[i] ? any[i] : T_ALL;
    return t;
}

unsigned gtext_types(const struct sgram *g, uint32_t node)
{
    return types_of(g, node, 0);
}

static bool takes_all(const struct sgram *g, uint32_t node, unsigned type, unsigned depth)
{
    const struct snode *n = &g->node[node];
    bool asks = (type == T_STR && n->str != GRAM_NONE) || (type == T_NUM && n->num != GRAM_NONE) ||
                (type == T_ARR && n->arr != GRAM_NONE) || (type == T_OBJ && n->obj != GRAM_NONE) ||
                (type == T_BOOL && n->bools != 3);
    bool has_any = false, any = false;
    if (!(n->types & type) || asks || depth == MAX_DEPTH)
        return false;
    for (uint32_t k = 0; k < n->n_kids; k++) {
        const struct skid *kid = &g->kid[n->kid + k];
        bool all = takes_all(g, kid->node, type, depth + 1);
        if (kid->role == KID_ANY) {
            has_any = true;
            any |= all;
        } else if (kid->role == KID_DEP) {
            if (type == T_OBJ)
                return false;
        } else if (kid->role != KID_ALL || !all) {
            return false;
        }
    }
    return !has_any || any;
}

bool gtext_takes_all(const struct sgram *g, uint32_t node, unsigned type)
{
    return takes_all(g, node, type, 0);
}

/* ---- strings under constraints ---- */

struct pstate {
    uint32_t q[MAX_TRACKS]; /* of the automata, 0: failed */
    uint32_t len, at;       /* characters; how much of the mark the text ends with */
    uint32_t start, lf;     /* nothing was read; a line feed stands last (no padding: memcmp) */
};

struct product {
    struct build *b;
    const struct sgram *g;
    const char *bars;
    uint32_t track[MAX_TRACKS], n_track; /* sstr */
    unsigned must;                       /* as bits: those that every string has to meet */
    bool ends_count;                     /* a reader drops line feeds at the ends */
    uint32_t most;                       /* characters that are told apart */
    uint32_t mark[MAX_MARK], n_mark;     /* may not stand in the text */
    uint32_t *cut, n_cut;
    struct pstate *st;
    uint32_t *node, *hash; /* by state; hash: state + 1 */
    uint32_t n, work;
};

#define HASH_MASK 16383U

static int find_tracks(struct product *p, uint32_t node, bool must, unsigned depth)
{
    const struct snode *n = &p->g->node[node];
    uint32_t i = 0;
    if (depth == MAX_DEPTH)
        return err_set(p->b->e, Q_EUNSUPPORTED, "a string under so many schemas is not supported");
    if (n->str != GRAM_NONE && (n->types & T_STR)) {
        const struct sstr *s = &p->g->str[n->str];
        while (i < p->n_track && p->track[i] != n->str)
            i++;
        if (i == MAX_TRACKS)
            return err_set(p->b->e, Q_EUNSUPPORTED,
                           "a string under more than %u schemas is not supported", MAX_TRACKS);
        p->track[i] = n->str;
        p->n_track += i == p->n_track;
        p->must |= (unsigned)must << i;
        p->most = NUM_MAX(p->most, s->min);
        if (s->max != GRAM_NONE)
            p->most = NUM_MAX(p->most, s->max < GRAM_NONE - 1 ? s->max + 1 : s->max);
    }
    int rc = 0;
    for (uint32_t k = 0; k < n->n_kids && rc == 0; k++) {
        const struct skid *kid = &p->g->kid[n->kid + k];
        rc = find_tracks(p, kid->node, must && kid->role == KID_ALL, depth + 1);
    }
    return rc;
}

/* Does the string that led to s meet this schema? */
static bool meets(const struct product *p, const struct pstate *s, uint32_t node)
{
    const struct snode *n = &p->g->node[node];
    bool ok = n->types & T_STR, any = false, has_any = false, says_if = true;
    uint32_t one = 0;
    bool has_one = false;
    for (uint32_t i = 0; ok && n->str != GRAM_NONE && i < p->n_track; i++) {
        const struct sstr *c = &p->g->str[n->str];
        if (p->track[i] == n->str)
            ok = (!c->d || c->d->accept[s->q[i]]) && s->len >= c->min && s->len <= c->max;
    }
    for (uint32_t k = 0; k < n->n_kids && ok; k++) {
        const struct skid *kid = &p->g->kid[n->kid + k];
        bool is = kid->role != KID_DEP && meets(p, s, kid->node);
        switch ((enum skid_role)kid->role) {
        case KID_ALL:
            ok = is;
            break;
        case KID_ANY:
            has_any = true;
            any |= is;
            break;
        case KID_ONE:
            has_one = true;
            one += is;
            break;
        case KID_NOT:
            ok = !is;
            break;
        case KID_IF:
            says_if = is;
            break;
        case KID_THEN:
            ok = !says_if || is;
            break;
        case KID_ELSE:
            ok = says_if || is;
            break;
        case KID_DEP:
            break;
        }
    }
    return ok && (!has_any || any) && (!has_one || one == 1);
}

/* Where characters begin that may lead elsewhere than those before them. */
static int find_cuts(struct product *p)
{
    size_t cap = 2 + 2 * (size_t)p->n_mark + 2 * strlen(p->bars) + 2 + 3;
    uint32_t n = 0, k = 0;
    for (uint32_t i = 0; i < p->n_track; i++)
        cap += p->g->str[p->track[i]].d ? p->g->str[p->track[i]].d->n_bounds : 0;
    uint32_t *cut = p->cut = malloc(cap * sizeof *cut);
    if (!cut)
        return err_set(p->b->e, Q_ENOMEM, "out of memory");
    cut[n++] = 0;
    cut[n++] = '\n';
    cut[n++] = '\n' + 1;
    cut[n++] = 0xD800;
    cut[n++] = 0xE000;
    for (uint32_t i = 0; i < p->n_mark; i++) {
        cut[n++] = p->mark[i];
        cut[n++] = p->mark[i] + 1;
    }
    for (const char *c = p->bars; *c; c++) {
        cut[n++] = (unsigned char)*c;
        cut[n++] = (unsigned char)*c + 1U;
    }
    for (uint32_t i = 0; i < p->n_track; i++) {
        const struct dfa *d = p->g->str[p->track[i]].d;
        for (uint32_t j = 0; d && j < d->n_bounds; j++)
            cut[n++] = d->bound[j];
    }
    qsort(cut, n, sizeof *cut, gram_cmp_u32);
    for (uint32_t i = 0; i < n; i++)
        if (k == 0 || cut[i] != cut[k - 1])
            cut[k++] = cut[i];
    p->n_cut = k;
    return 0;
}

/* The state with these values; made if new. */
static int find_state(struct product *p, const struct pstate *s, uint32_t *id)
{
    uint64_t h = s->len * 31ULL + s->at * 7U + s->start * 3U + s->lf;
    for (uint32_t i = 0; i < p->n_track; i++)
        h = gram_mix(h * 33 + s->q[i]);
    uint32_t slot = (uint32_t)gram_mix(h) & HASH_MASK;
    for (; p->hash[slot]; slot = (slot + 1) & HASH_MASK) {
        *id = p->hash[slot] - 1;
        if (memcmp(&p->st[*id], s, sizeof *s) == 0)
            return 0;
    }
    if (p->n == MAX_STATES)
        return err_set(p->b->e, Q_EUNSUPPORTED,
                       "a string with such a maxLength, minLength or pattern is not supported");
    *id = p->n++;
    p->st[*id] = *s;
    p->hash[slot] = *id + 1;
    return piece_state(p->b, &p->node[*id]);
}

/* Character c behind s. False: the text can't go on so. */
static bool advance(const struct product *p, const struct pstate *s, uint32_t c, struct pstate *to)
{
    memset(to, 0, sizeof *to);
    if ((c >= 0xD800 && c < 0xE000) || (s->start && c < 128 && c && strchr(p->bars, (int)c)) ||
        (s->start && p->ends_count && c == '\n'))
        return false;
    to->len = NUM_MIN(s->len + 1, p->most);
    for (uint32_t i = 0; i < p->n_track; i++) {
        const struct sstr *t = &p->g->str[p->track[i]];
        to->q[i] = !t->d ? 1 : s->q[i] ? dfa_next(t->d, s->q[i], c) : 0;
        if ((p->must >> i & 1) && (to->q[i] == 0 || to->len > t->max))
            return false;
    }
    /* '<' stands only in front of a mark, so what matched starts nowhere else. */
    to->at = c == p->mark[s->at] ? s->at + 1 : c == p->mark[0];
    to->lf = p->ends_count && c == '\n';
    return to->at < p->n_mark;
}

/* From state id: the characters that lead to each of the next states. */
static int add_arcs(struct product *p, uint32_t id, struct gram_range *r, uint32_t *to)
{
    uint32_t head = GRAM_NONE, n = 0;
    int rc = 0;
    for (uint32_t i = 0; i < p->n_cut && rc == 0; i++) {
        const struct pstate from = p->st[id];
        struct pstate next;
        uint32_t hi = i + 1 < p->n_cut ? p->cut[i + 1] - 1 : GRAM_MAX_CP;
        if (p->cut[i] > GRAM_MAX_CP || !advance(p, &from, p->cut[i], &next))
            continue;
        if (++p->work > MAX_WORK)
            return err_set(p->b->e, Q_EUNSUPPORTED,
                           "a string with such a pattern is not supported");
        if ((rc = find_state(p, &next, &to[n])) == 0)
            r[n++] = (struct gram_range){p->cut[i], hi};
    }
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        struct gram_range one[64];
        uint32_t k = 0, target = to[i];
        struct nfa_frag f;
        if (target == GRAM_NONE)
            continue;
        for (uint32_t j = i; j < n && k < 64; j++) {
            if (to[j] != target)
                continue;
            to[j] = GRAM_NONE;
            if (k && one[k - 1].hi + 1 == r[j].lo)
                one[k - 1].hi = r[j].hi;
            else
                one[k++] = r[j];
        }
        if ((rc = nfa_ranges(&p->b->a, one, k, false, &f, p->b->e)) == 0) {
            p->b->a.s[f.out].x = p->node[target];
            rc = nfa_join(&p->b->a, &head, f.in, p->b->e);
        }
    }
    if (rc == 0 && !p->st[id].lf && meets(p, &p->st[id], p->g->root))
        rc = nfa_join(&p->b->a, &head, p->node[MAX_STATES], p->b->e); /* the end of the text */
    p->b->a.s[p->node[id]].x = head;
    return rc;
}

/* What ends the text, both as control tokens and spelled out; into node[MAX_STATES]. */
static int put_end(struct product *p)
{
    struct build *b = p->b;
    struct free_exit x[FREE_MAX_EXIT];
    size_t n = 0;
    const char *rest;
    uint32_t done, head = GRAM_NONE;
    int rc = nfa_add(&b->a, NFA_ACCEPT, 0, GRAM_NONE, &done, b->e);
    if (rc == 0)
        rc = piece_exit(b, x, &n, b->args->text_end, &rest, done);
    for (size_t i = 0; i < n && rc == 0; i++) {
        struct nfa_frag f = {GRAM_NONE, GRAM_NONE};
        if (b->args->lf)
            rc = piece_char(b, &f, '\n', '\n');
        for (uint32_t j = 0; j < x[i].n && rc == 0; j++)
            rc = piece_char(b, &f, x[i].cp[j], x[i].cp[j]);
        if (rc == 0) {
            b->a.s[f.out].x = done;
            rc = nfa_join(&b->a, &head, f.in, b->e);
        }
    }
    /* The whole mark is forbidden where states are few, else what it begins with. */
    p->n_mark = n > 0 ? NUM_MIN(x[n - 1].n, MAX_MARK) : 0;
    for (uint32_t i = 0; i < p->n_mark; i++)
        p->mark[i] = x[n - 1].cp[i];
    uint32_t states = p->most + 1;
    for (uint32_t i = 0; i < p->n_track; i++)
        states *= NUM_MIN(p->g->str[p->track[i]].d ? p->g->str[p->track[i]].d->n_states : 1, 1000U);
    if (states > 128)
        p->n_mark = NUM_MIN(p->n_mark, 2U);
    p->node[MAX_STATES] = head;
    return rc;
}

static int make_product(struct product *p, struct dfa **out)
{
    struct pstate start = {.start = 1};
    uint32_t id;
    int rc = find_tracks(p, p->g->root, true, 0);
    if (rc == 0 && p->most > MAX_STATES / 3)
        rc = err_set(p->b->e, Q_EUNSUPPORTED, "minLength or maxLength over %u is not supported",
                     MAX_STATES / 3);
    if (rc == 0)
        rc = put_end(p);
    if (rc == 0)
        rc = find_cuts(p);
    if (rc)
        return rc;
    struct gram_range *r = malloc(p->n_cut * sizeof *r);
    uint32_t *to = malloc(p->n_cut * sizeof *to);
    if (!r || !to)
        rc = err_set(p->b->e, Q_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < p->n_track; i++)
        start.q[i] = p->g->str[p->track[i]].d ? p->g->str[p->track[i]].d->start : 1;
    if (rc == 0)
        rc = find_state(p, &start, &id);
    for (uint32_t i = 0; i < p->n && rc == 0; i++)
        rc = add_arcs(p, i, r, to);
    free(r);
    free(to);
    return rc ? rc : build_dfa(p->b, p->node[0], true, out);
}

int gtext_strings(struct build *b, const struct sgram *g, const char *bars, struct dfa **out)
{
    struct nfa kept = b->a;
    struct product p = {.b = b, .g = g, .bars = bars, .ends_count = b->args->trims && !b->args->lf};
    memset(&b->a, 0, sizeof b->a);
    p.st = calloc(MAX_STATES, sizeof *p.st);
    p.node = calloc(MAX_STATES + 1, sizeof *p.node);
    p.hash = calloc(HASH_MASK + 1, sizeof *p.hash);
    int rc =
        p.st && p.node && p.hash ? make_product(&p, out) : err_set(b->e, Q_ENOMEM, "out of memory");
    if (rc == 0 && !(*out)->start) {
        dfa_free(*out);
        *out = NULL;
        rc = err_set(b->e, Q_EINVAL, "no text can satisfy it");
    }
    free(p.st);
    free(p.node);
    free(p.hash);
    free(p.cut);
    nfa_fini(&b->a);
    b->a = kept;
    return rc;
}
