/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/schema_slots.h"
#include "base/utf8.h"

#include <string.h>

#define MAX_DEPTH 100U
#define MAX_ROOTS 256U

static bool is_seen(const struct sstate *st, const struct slot *s, uint32_t name)
{
    return seen_of(st, s)[name / 64] >> (name % 64) & 1;
}

static uint8_t both(uint8_t a, uint8_t b)
{
    if (a == V_FALSE || b == V_FALSE)
        return V_FALSE;
    return a == V_TRUE && b == V_TRUE ? V_TRUE : V_OPEN;
}

/* Depth is bounded when compiling. */
static uint8_t eval(const struct sgram *g, const struct sstate *st, struct frame *f, uint32_t i,
                    bool ended)
{
    struct slot *s = &srun_slots(f)[i];
    const struct snode *n = &g->node[s->node];
    uint8_t v = s->v, cond = V_TRUE, any = V_FALSE;
    uint8_t then_v = V_TRUE, else_v = V_TRUE;
    unsigned n_one = 0, one_true = 0, one_open = 0;
    bool has_any = false, has_if = false;
    if (v == V_FALSE || n->n_kids == 0)
        return v;
    i++;
    for (uint32_t k = 0; k < n->n_kids; k++) {
        const struct skid *kid = &g->kid[n->kid + k];
        uint8_t x = eval(g, st, f, i, ended);
        i += g->node[kid->node].size;
        switch ((enum skid_role)kid->role) {
        case KID_ALL:
            v = both(v, x);
            break;
        case KID_ANY:
            has_any = true;
            if (x == V_TRUE || any == V_TRUE)
                any = V_TRUE;
            else if (x == V_OPEN)
                any = V_OPEN;
            break;
        case KID_ONE:
            n_one++;
            one_true += x == V_TRUE;
            one_open += x == V_OPEN;
            break;
        case KID_NOT:
            v = both(v, x == V_OPEN ? V_OPEN : x == V_TRUE ? V_FALSE : V_TRUE);
            break;
        case KID_IF:
            has_if = true;
            cond = x;
            break;
        case KID_THEN:
            then_v = x;
            break;
        case KID_ELSE:
            else_v = x;
            break;
        case KID_DEP:
            if (f->type == T_OBJ && s->seen && is_seen(st, s, kid->name))
                v = both(v, x);
            else if (f->type == 0 || (f->type == T_OBJ && !ended && x != V_TRUE))
                v = both(v, V_OPEN);
            break;
        }
    }
    if (has_any)
        v = both(v, any);
    if (n_one)
        v = both(v, one_true > 1 || one_true + one_open == 0 ? V_FALSE
                    : one_open                               ? V_OPEN
                                                             : V_TRUE);
    if (has_if) {
        if (cond == V_OPEN)
            v = both(v, then_v == V_FALSE && else_v == V_FALSE ? V_FALSE
                        : then_v == V_TRUE && else_v == V_TRUE ? V_TRUE
                                                               : V_OPEN);
        else
            v = both(v, cond == V_TRUE ? then_v : else_v);
    }
    return v;
}

bool srun_settle(const struct sgram *g, struct sstate *st, uint32_t at)
{
    for (;;) {
        struct frame *f = srun_frame(st, at);
        bool changed = false;
        for (uint32_t i = 0; i < f->n_roots; i++) {
            struct root *r = &srun_roots(f)[i];
            if (r->role != ROOT_MUST || eval(g, st, f, r->slot, false) != V_FALSE)
                continue;
            if (f->prev == NO_FRAME)
                return false;
            struct slot *s = &srun_slots(srun_frame(st, f->prev))[r->parent];
            changed |= s->v != V_FALSE;
            s->v = V_FALSE;
            st->low = st->low < f->prev ? st->low : f->prev;
        }
        if (!changed)
            return true;
        at = f->prev;
    }
}

static uint32_t expand(const struct sgram *g, struct slot *s, uint32_t node)
{
    const struct snode *n = &g->node[node];
    uint32_t used = 1;
    *s = (struct slot){.node = node, .v = V_OPEN};
    if (n->types == 0)
        s->v = V_FALSE;
    else if (n->types == T_ALL && n->bools == 3 && n->str == GRAM_NONE && n->num == GRAM_NONE &&
             n->arr == GRAM_NONE && n->obj == GRAM_NONE)
        s->v = V_TRUE;
    for (uint32_t k = 0; k < n->n_kids; k++)
        used += expand(g, s + used, g->kid[n->kid + k].node);
    return used;
}

/* ---- opening a frame ---- */
static bool fits(const struct sstate *st, size_t n)
{
    return n <= SRUN_BYTES - st->len;
}
bool srun_open(const struct sgram *g, struct sstate *st, const struct want *w, uint32_t n)
{
    size_t slots = 0;
    for (uint32_t i = 0; i < n; i++)
        slots += g->node[w[i].node].size;
    size_t bytes = sizeof(struct frame) + n * sizeof(struct root) + slots * sizeof(struct slot);
    bytes = (bytes + 7) & ~(size_t)7;
    if (slots > 2000 || !fits(st, bytes) || st->depth >= MAX_DEPTH)
        return false;
    struct frame *f = srun_frame(st, st->len);
    *f = (struct frame){
        .prev = st->depth ? st->top : NO_FRAME, .n_roots = (uint16_t)n, .n_slots = (uint16_t)slots};
    uint32_t used = 0;
    for (uint32_t i = 0; i < n; i++) {
        srun_roots(f)[i] = (struct root){w[i].node, (uint16_t)used, w[i].parent, w[i].role};
        used += expand(g, srun_slots(f) + used, w[i].node);
    }
    st->top = st->len;
    st->len += (uint32_t)bytes;
    st->depth++;
    f->keys = st->len;
    st->lex = LX_VALUE;
    return n == 0 || srun_settle(g, st, st->top);
}

static bool push_key(struct sstate *st, struct frame *f, uint64_t h)
{
    if (!fits(st, sizeof h))
        return false;
    memcpy(st->data + st->len, &h, sizeof h);
    st->len += sizeof h;
    f->n_keys++;
    return true;
}

bool srun_has_key(const struct sstate *st, const struct frame *f, uint64_t h)
{
    const unsigned char *p = st->data + f->keys;
    for (uint32_t i = 0; i < f->n_keys; i++, p += sizeof h)
        if (memcmp(p, &h, sizeof h) == 0)
            return true;
    return false;
}

/* ---- the end of a value ---- */
static bool array_valid(const struct sgram *g, const struct frame *f, const struct slot *s)
{
    const struct sarr *a = &g->arr[g->node[s->node].arr];
    return f->count >= a->min && f->count <= a->max &&
           (a->contains == GRAM_NONE || (s->aux >= a->min_contains && s->aux <= a->max_contains));
}

static bool object_valid(const struct sgram *g, const struct sstate *st, const struct frame *f,
                         const struct slot *s)
{
    const struct sobj *o = &g->obj[g->node[s->node].obj];
    for (uint32_t i = 0; i < o->n_required; i++)
        if (!is_seen(st, s, o->required[i]))
            return false;
    for (uint32_t i = 0; i < o->n_dep; i += 2)
        if (is_seen(st, s, o->dep[i]) && !is_seen(st, s, o->dep[i + 1]))
            return false;
    return f->count >= o->min && f->count <= o->max;
}

static bool slot_valid(const struct sgram *g, const struct sstate *st, const struct frame *f,
                       const struct slot *s)
{
    const struct snode *n = &g->node[s->node];
    if (f->type == T_ARR)
        return n->arr == GRAM_NONE || array_valid(g, f, s);
    if (f->type == T_OBJ)
        return n->obj == GRAM_NONE || object_valid(g, st, f, s);
    if (f->type == T_STR && n->str != GRAM_NONE) {
        const struct sstr *c = &g->str[n->str];
        return (!c->d || c->d->accept[s->q]) && st->n_chars >= c->min && st->n_chars <= c->max;
    }
    return true;
}

/* An item ended in the array f. */
static bool item_done(const struct sgram *g, struct sstate *st, struct frame *f, uint64_t h)
{
    bool unique = false, twice = false;
    f->count++;
    f->hash = gram_mix(f->hash * 31 + h + 1);
    for (uint32_t i = 0; i < f->n_slots; i++) {
        struct slot *s = &srun_slots(f)[i];
        const struct snode *n = &g->node[s->node];
        if (s->v != V_OPEN || n->arr == GRAM_NONE)
            continue;
        const struct sarr *a = &g->arr[n->arr];
        if (a->unique) {
            twice = !unique ? srun_has_key(st, f, h) : twice;
            unique = true;
            if (twice)
                s->v = V_FALSE;
        }
        if (a->contains != GRAM_NONE && s->aux > a->max_contains)
            s->v = V_FALSE;
    }
    return !unique || push_key(st, f, h);
}

bool srun_end(const struct sgram *g, struct sstate *st, uint64_t h)
{
    struct frame *f = srun_frame(st, st->top);
    struct sdec num;
    if (f->type == T_NUM && !sdec_parse(&num, st->num, st->numlen))
        return false;
    for (uint32_t i = 0; i < f->n_slots; i++) {
        struct slot *s = &srun_slots(f)[i];
        if (s->v != V_OPEN)
            continue;
        uint32_t at = f->type == T_NUM ? g->node[s->node].num : GRAM_NONE;
        enum snum_verdict x = at == GRAM_NONE ? SNUM_VALID : snum_valid(&g->num[at], &num);
        if (x == SNUM_UNCLEAR)
            return false;
        s->v = x == SNUM_VALID && slot_valid(g, st, f, s) ? V_TRUE : V_FALSE;
    }
    struct frame *up = f->prev == NO_FRAME ? NULL : srun_frame(st, f->prev);
    uint32_t low = up ? f->prev : st->top;
    st->low = st->low < low ? st->low : low;
    for (uint32_t i = 0; i < f->n_roots; i++) {
        struct root *r = &srun_roots(f)[i];
        bool ok = eval(g, st, f, r->slot, true) == V_TRUE;
        if (!up) {
            if (!ok)
                return false;
            continue;
        }
        struct slot *s = &srun_slots(up)[r->parent];
        if (r->role == ROOT_CONTAINS)
            s->aux += ok;
        else if (!ok)
            s->v = V_FALSE;
    }
    st->depth--;
    st->ws = 0;
    if (!up) {
        st->lex = LX_DONE;
        return true;
    }
    st->len = st->top;
    st->top = f->prev;
    st->lex = LX_AFTER;
    if (up->type == T_OBJ)
        up->hash += gram_mix(up->key_hash * 31 + h);
    else if (!item_done(g, st, up, h))
        return false;
    return srun_settle(g, st, st->top);
}

/* ---- objects and arrays ---- */
/* Objects in order: the last name that may come now, the first that is required. */
static uint32_t last_name(const struct sobj *o, const struct slot *s)
{
    uint32_t last = o->n_names;
    for (uint32_t i = 0; i < o->n_required; i++)
        if (o->required[i] >= s->aux && o->required[i] < last)
            last = o->required[i];
    return last;
}

static uint64_t bits_from_to(uint32_t word, uint32_t from, uint32_t last)
{
    uint32_t lo = word * 64, hi = lo + 63;
    if (from > hi || last < lo)
        return 0;
    uint64_t w = from > lo ? ~0ULL << (from - lo) : ~0ULL;
    return last < hi ? w & ~0ULL >> (hi - last) : w;
}

bool srun_key_lives(const struct sstate *st, const struct sobj *o, const struct slot *s)
{
    if (s->q == 0)
        return false;
    if (o->other[s->q])
        return true;
    const uint64_t *reach = o->reach + (size_t)s->q * o->words, *seen = seen_of(st, s);
    uint32_t last = o->in_order ? last_name(o, s) : 0;
    for (uint32_t i = 0; i < o->words; i++)
        if (reach[i] & ~seen[i] & (o->in_order ? bits_from_to(i, s->aux, last) : ~0ULL))
            return true;
    return false;
}

/* The key that slot s has read is complete; f counts it already. */
static void key_taken(const struct sgram *g, const struct sstate *st, const struct frame *f,
                      struct slot *s)
{
    const struct sobj *o = &g->obj[g->node[s->node].obj];
    uint32_t acc = o->d->accept[s->q], missing = 0;
    if (acc && o->key[acc - 1].name != GRAM_NONE) {
        uint32_t name = o->key[acc - 1].name;
        if (o->in_order) {
            if (name < s->aux || name > last_name(o, s))
                s->v = V_FALSE;
            s->aux = name + 1;
        }
        seen_of(st, s)[name / 64] |= 1ULL << (name % 64);
    }
    if (o->max != GRAM_NONE || o->only_required)
        for (uint32_t k = 0; k < o->n_required; k++)
            missing += !is_seen(st, s, o->required[k]);
    if (!acc || f->count > o->max || (o->max != GRAM_NONE && missing > o->max - f->count))
        s->v = V_FALSE;
    else if (o->only_required && missing == 0)
        s->v = V_TRUE; /* whatever comes */
}

static bool is_open_object(const struct sgram *g, const struct slot *s)
{
    return s->v == V_OPEN && g->node[s->node].obj != GRAM_NONE;
}

/* Would the text be lost with this key? */
static bool key_fits(const struct sgram *g, const struct sstate *st, const char *name)
{
    struct sstate copy;
    sstate_copy(&copy, st);
    struct frame *f = srun_frame(&copy, copy.top);
    f->count++;
    for (uint32_t i = 0; i < f->n_slots; i++) {
        struct slot *s = &srun_slots(f)[i];
        if (!is_open_object(g, s))
            continue;
        const struct dfa *d = g->obj[g->node[s->node].obj].d;
        size_t n = strlen(name);
        uint32_t cp;
        s->q = d->start;
        for (size_t at = 0, k; s->q && (k = utf8_decode(name + at, n - at, &cp)) > 0; at += k)
            s->q = dfa_next(d, s->q, cp);
        key_taken(g, &copy, f, s);
    }
    return srun_settle(g, &copy, copy.top);
}

static bool is_required(const struct sobj *o, uint32_t name)
{
    for (uint32_t i = 0; i < o->n_required; i++)
        if (o->required[i] == name)
            return true;
    return false;
}

/* Where schemas exclude each other a name may be one too many: it counts as used, so that no
 * text begins it. Only names that nothing depends on, and whose turn it is: counting one as used
 * that is required would let texts without it in. */
static void drop_names(const struct sgram *g, struct sstate *st)
{
    struct frame *f = srun_frame(st, st->top);
    bool excludes = false;
    for (uint32_t i = 0; i < f->n_slots; i++) {
        const struct snode *n = &g->node[srun_slots(f)[i].node];
        for (uint32_t k = 0; k < n->n_kids; k++) {
            uint8_t role = g->kid[n->kid + k].role;
            if (role == KID_DEP)
                return;
            excludes |= role == KID_ONE || role == KID_NOT || role == KID_IF;
        }
    }
    for (uint32_t i = 0; excludes && i < f->n_slots; i++) {
        struct slot *s = &srun_slots(f)[i];
        const struct sobj *o = is_open_object(g, s) ? &g->obj[g->node[s->node].obj] : NULL;
        uint32_t last = o && o->in_order ? last_name(o, s) : GRAM_NONE;
        for (uint32_t k = 0; o && o->name && o->n_dep == 0 && k < o->n_names && k <= last; k++)
            if (!is_seen(st, s, k) && !is_required(o, k) && !key_fits(g, st, o->name[k]))
                seen_of(st, s)[k / 64] |= 1ULL << (k % 64);
    }
}

bool srun_key_begin(const struct sgram *g, struct sstate *st)
{
    struct frame *f = srun_frame(st, st->top);
    if (g->tight && f->n_slots > 1)
        drop_names(g, st);
    for (uint32_t i = 0; i < f->n_slots; i++) {
        struct slot *s = &srun_slots(f)[i];
        if (!is_open_object(g, s))
            continue;
        const struct sobj *o = &g->obj[g->node[s->node].obj];
        s->q = o->d->start;
        if (!srun_key_lives(st, o, s) || f->count >= o->max)
            s->v = V_FALSE;
    }
    return srun_settle(g, st, st->top);
}

bool srun_key_end(const struct sgram *g, struct sstate *st)
{
    struct frame *f = srun_frame(st, st->top);
    if (srun_has_key(st, f, st->hash) || !push_key(st, f, st->hash))
        return false;
    f->key_hash = st->hash;
    f->count++;
    for (uint32_t i = 0; i < f->n_slots; i++)
        if (is_open_object(g, &srun_slots(f)[i]))
            key_taken(g, st, f, &srun_slots(f)[i]);
    st->lex = LX_COLON;
    return srun_settle(g, st, st->top);
}

bool srun_child(const struct sgram *g, struct sstate *st)
{
    struct want w[MAX_ROOTS];
    struct frame *f = srun_frame(st, st->top);
    uint32_t n = 0;
    for (uint32_t i = 0; i < f->n_slots; i++) {
        struct slot *s = &srun_slots(f)[i];
        const struct snode *node = &g->node[s->node];
        if (s->v != V_OPEN)
            continue;
        if (f->type == T_OBJ && node->obj != GRAM_NONE) {
            const struct sobj *o = &g->obj[node->obj];
            const struct skey *k = &o->key[o->d->accept[s->q] - 1];
            for (uint32_t j = 0; j < k->count; j++) {
                if (n == MAX_ROOTS)
                    return false;
                w[n++] = (struct want){g->key_node[k->first + j], (uint16_t)i, ROOT_MUST};
            }
        } else if (f->type == T_ARR && node->arr != GRAM_NONE) {
            const struct sarr *a = &g->arr[node->arr];
            uint32_t item = f->count < a->n_prefix ? a->prefix[f->count] : a->items;
            if (n + 2 > MAX_ROOTS)
                return false;
            if (f->count >= a->max)
                s->v = V_FALSE;
            else if (item != GRAM_NONE && !g->node[item].plain)
                w[n++] = (struct want){item, (uint16_t)i, ROOT_MUST};
            if (s->v == V_OPEN && a->contains != GRAM_NONE)
                w[n++] = (struct want){a->contains, (uint16_t)i, ROOT_CONTAINS};
        }
    }
    return srun_settle(g, st, st->top) && srun_open(g, st, w, n);
}

bool srun_set_type(const struct sgram *g, struct sstate *st, uint32_t type, unsigned bools)
{
    struct frame *f = srun_frame(st, st->top);
    f->type = type;
    f->keys = st->len;
    for (uint32_t i = 0; i < f->n_slots; i++) {
        struct slot *s = &srun_slots(f)[i];
        const struct snode *n = &g->node[s->node];
        if (s->v != V_OPEN)
            continue;
        if (!(n->types & type) || (type == T_BOOL && !(n->bools & bools))) {
            s->v = V_FALSE;
        } else if (type == T_STR && n->str != GRAM_NONE) {
            const struct sstr *c = &g->str[n->str];
            s->q = c->d ? c->d->start : 1;
            if (s->q == 0 || c->min > c->max || (c->d && c->d->min_dist[s->q] > c->max))
                s->v = V_FALSE;
        } else if (type == T_OBJ && n->obj != GRAM_NONE) {
            size_t bytes = g->obj[n->obj].words * sizeof(uint64_t);
            if (!fits(st, bytes))
                return false;
            memset(st->data + st->len, 0, bytes);
            s->seen = st->len;
            st->len += (uint32_t)bytes;
            f->keys = st->len;
        } else if (!((type == T_NUM && n->num != GRAM_NONE) ||
                     (type == T_ARR && n->arr != GRAM_NONE))) {
            s->v = V_TRUE;
        }
    }
    return srun_settle(g, st, st->top);
}
