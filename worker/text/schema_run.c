/* SPDX-License-Identifier: Apache-2.0 */
/* schema_run.c - follows one JSON text byte by byte. All of a state lies in one block: frames
 * of the values that are open, innermost last, each linked to the one around it:
 *
 *   | frame | roots | slots | seen bits | hashes of keys or items |  frame ...   <- len
 *
 * A root is a schema that the value must meet for the sake of one slot of the frame around it.
 * Its slots stand in the order of a walk through the node and its kids. Only the innermost
 * frame grows. */
#include "worker/text/schema_int.h"

#include <string.h>

#define MAX_DEPTH 100U
#define NO_FRAME  UINT32_MAX

enum verdict { V_FALSE, V_TRUE, V_OPEN };
enum root_role { ROOT_MUST, ROOT_CONTAINS };

struct frame {
    uint32_t prev, count, n_keys, keys; /* keys: offset */
    uint16_t n_roots, n_slots;
    uint32_t type; /* T_*, 0: not known yet */
    uint64_t hash, key_hash;
};
struct root {
    uint32_t node;
    uint16_t slot, parent;
    uint32_t role;
};
struct slot {
    uint32_t node, q;
    uint32_t aux;  /* arrays: items that match `contains` */
    uint32_t seen; /* objects: offset of the bits */
    uint8_t v;
};

static struct frame *frame_at(const struct sstate *st, uint32_t at)
{
    return (struct frame *)(uintptr_t)(st->data + at);
}
static struct root *roots_of(struct frame *f)
{
    return (struct root *)(f + 1);
}
static struct slot *slots_of(struct frame *f)
{
    return (struct slot *)(roots_of(f) + f->n_roots);
}
static uint64_t *seen_of(const struct sstate *st, const struct slot *s)
{
    return (uint64_t *)(uintptr_t)(st->data + s->seen);
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}

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
    struct slot *s = &slots_of(f)[i];
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

/* Verdicts changed in frame `at`: pass what became false outwards. False: the text is lost. */
static bool settle(const struct sgram *g, struct sstate *st, uint32_t at)
{
    for (;;) {
        struct frame *f = frame_at(st, at);
        bool changed = false;
        for (uint32_t i = 0; i < f->n_roots; i++) {
            struct root *r = &roots_of(f)[i];
            if (r->role != ROOT_MUST || eval(g, st, f, r->slot, false) != V_FALSE)
                continue;
            if (f->prev == NO_FRAME)
                return false;
            struct slot *s = &slots_of(frame_at(st, f->prev))[r->parent];
            changed |= s->v != V_FALSE;
            s->v = V_FALSE;
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

#define MAX_ROOTS 256U
struct want {
    uint32_t node;
    uint16_t parent;
    uint8_t role;
};

static bool open_frame(const struct sgram *g, struct sstate *st, const struct want *w, uint32_t n)
{
    size_t slots = 0;
    for (uint32_t i = 0; i < n; i++)
        slots += g->node[w[i].node].size;
    size_t bytes = sizeof(struct frame) + n * sizeof(struct root) + slots * sizeof(struct slot);
    bytes = (bytes + 7) & ~(size_t)7;
    if (slots > 2000 || !fits(st, bytes) || st->depth >= MAX_DEPTH)
        return false;
    struct frame *f = frame_at(st, st->len);
    *f = (struct frame){
        .prev = st->depth ? st->top : NO_FRAME, .n_roots = (uint16_t)n, .n_slots = (uint16_t)slots};
    uint32_t used = 0;
    for (uint32_t i = 0; i < n; i++) {
        roots_of(f)[i] = (struct root){w[i].node, (uint16_t)used, w[i].parent, w[i].role};
        used += expand(g, slots_of(f) + used, w[i].node);
    }
    st->top = st->len;
    st->len += (uint32_t)bytes;
    st->depth++;
    f->keys = st->len;
    st->lex = LX_VALUE;
    return n == 0 || settle(g, st, st->top);
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

static bool has_key(const struct sstate *st, const struct frame *f, uint64_t h)
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
                       const struct slot *s, const struct sdec *num)
{
    const struct snode *n = &g->node[s->node];
    if (f->type == T_NUM)
        return n->num == GRAM_NONE || snum_valid(&g->num[n->num], num);
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
    f->hash = mix(f->hash * 31 + h + 1);
    for (uint32_t i = 0; i < f->n_slots; i++) {
        struct slot *s = &slots_of(f)[i];
        const struct snode *n = &g->node[s->node];
        if (s->v != V_OPEN || n->arr == GRAM_NONE)
            continue;
        const struct sarr *a = &g->arr[n->arr];
        if (a->unique) {
            twice = !unique ? has_key(st, f, h) : twice;
            unique = true;
            if (twice)
                s->v = V_FALSE;
        }
        if (a->contains != GRAM_NONE && s->aux > a->max_contains)
            s->v = V_FALSE;
    }
    return !unique || push_key(st, f, h);
}

static bool end_value(const struct sgram *g, struct sstate *st, uint64_t h)
{
    struct frame *f = frame_at(st, st->top);
    struct sdec num;
    if (f->type == T_NUM && !sdec_parse(&num, st->num, st->numlen))
        return false;
    for (uint32_t i = 0; i < f->n_slots; i++) {
        struct slot *s = &slots_of(f)[i];
        if (s->v == V_OPEN)
            s->v = slot_valid(g, st, f, s, &num) ? V_TRUE : V_FALSE;
    }
    struct frame *up = f->prev == NO_FRAME ? NULL : frame_at(st, f->prev);
    for (uint32_t i = 0; i < f->n_roots; i++) {
        struct root *r = &roots_of(f)[i];
        bool ok = eval(g, st, f, r->slot, true) == V_TRUE;
        if (!up) {
            if (!ok)
                return false;
            continue;
        }
        struct slot *s = &slots_of(up)[r->parent];
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
        up->hash += mix(up->key_hash * 31 + h);
    else if (!item_done(g, st, up, h))
        return false;
    return settle(g, st, st->top);
}

/* ---- objects and arrays ---- */
static bool key_lives(const struct sstate *st, const struct sobj *o, const struct slot *s)
{
    if (s->q == 0)
        return false;
    if (o->other[s->q])
        return true;
    const uint64_t *reach = o->reach + (size_t)s->q * o->words, *seen = seen_of(st, s);
    for (uint32_t i = 0; i < o->words; i++)
        if (reach[i] & ~seen[i])
            return true;
    return false;
}

static bool key_begin(const struct sgram *g, struct sstate *st)
{
    struct frame *f = frame_at(st, st->top);
    for (uint32_t i = 0; i < f->n_slots; i++) {
        struct slot *s = &slots_of(f)[i];
        if (s->v != V_OPEN || g->node[s->node].obj == GRAM_NONE)
            continue;
        const struct sobj *o = &g->obj[g->node[s->node].obj];
        s->q = o->d->start;
        if (!key_lives(st, o, s) || f->count >= o->max)
            s->v = V_FALSE;
    }
    return settle(g, st, st->top);
}

static bool key_end(const struct sgram *g, struct sstate *st)
{
    struct frame *f = frame_at(st, st->top);
    if (has_key(st, f, st->hash) || !push_key(st, f, st->hash))
        return false;
    f->key_hash = st->hash;
    f->count++;
    for (uint32_t i = 0; i < f->n_slots; i++) {
        struct slot *s = &slots_of(f)[i];
        if (s->v != V_OPEN || g->node[s->node].obj == GRAM_NONE)
            continue;
        const struct sobj *o = &g->obj[g->node[s->node].obj];
        uint32_t acc = o->d->accept[s->q], missing = 0;
        if (acc && o->key[acc - 1].name != GRAM_NONE) {
            uint32_t name = o->key[acc - 1].name;
            seen_of(st, s)[name / 64] |= 1ULL << (name % 64);
        }
        if (o->max != GRAM_NONE)
            for (uint32_t k = 0; k < o->n_required; k++)
                missing += !is_seen(st, s, o->required[k]);
        if (!acc || f->count > o->max || missing > o->max - f->count)
            s->v = V_FALSE;
    }
    st->lex = LX_COLON;
    return settle(g, st, st->top);
}

/* The value after a key, or the next item of an array. */
static bool child(const struct sgram *g, struct sstate *st)
{
    struct want w[MAX_ROOTS];
    struct frame *f = frame_at(st, st->top);
    uint32_t n = 0;
    for (uint32_t i = 0; i < f->n_slots; i++) {
        struct slot *s = &slots_of(f)[i];
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
    return settle(g, st, st->top) && open_frame(g, st, w, n);
}

/* The first byte of a value shows its type. */
static bool set_type(const struct sgram *g, struct sstate *st, uint32_t type, unsigned bools)
{
    struct frame *f = frame_at(st, st->top);
    f->type = type;
    f->keys = st->len;
    for (uint32_t i = 0; i < f->n_slots; i++) {
        struct slot *s = &slots_of(f)[i];
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
    return settle(g, st, st->top);
}

/* ---- strings ---- */

/* The next character lies in lo..hi; `whole`: it is lo. */
static bool string_char(const struct sgram *g, struct sstate *st, uint32_t lo, uint32_t hi,
                        bool whole)
{
    struct frame *f = frame_at(st, st->top);
    bool changed = false;
    if (whole) {
        st->n_chars++;
        st->hash = mix(st->hash * 31 + lo + 1);
    }
    for (uint32_t i = 0; i < f->n_slots; i++) {
        struct slot *s = &slots_of(f)[i];
        const struct snode *n = &g->node[s->node];
        const struct sobj *o = NULL;
        const struct dfa *d;
        uint32_t max = GRAM_NONE;
        if (s->v != V_OPEN)
            continue;
        if (st->in_key) {
            if (n->obj == GRAM_NONE)
                continue;
            o = &g->obj[n->obj];
            d = o->d;
        } else {
            if (n->str == GRAM_NONE)
                continue;
            d = g->str[n->str].d;
            max = g->str[n->str].max;
        }
        bool lives = st->n_chars + !whole <= max;
        if (d && whole) {
            s->q = dfa_next(d, s->q, lo);
            lives =
                lives && (o ? key_lives(st, o, s) : s->q && d->min_dist[s->q] <= max - st->n_chars);
        } else if (d) {
            lives = lives && dfa_alive(d, s->q, lo, hi);
        }
        if (!lives) {
            s->v = V_FALSE;
            changed = true;
        }
    }
    return !changed || settle(g, st, st->top);
}

static bool string_end(const struct sgram *g, struct sstate *st)
{
    return st->in_key ? key_end(g, st) : end_value(g, st, mix(st->hash + T_STR));
}

static bool string_begin(struct sstate *st, bool in_key)
{
    st->lex = LX_STR;
    st->in_key = in_key;
    st->phase = 0;
    st->u.left = 0;
    st->n_chars = 0;
    st->hash = 7;
    return true;
}

/* phase 0: between characters or inside UTF-8; 1: after a backslash; 2..5: digits of \u;
 * 6, 7: a low surrogate's \u must follow; 8..11: its digits. */
static bool escape_step(const struct sgram *g, struct sstate *st, uint8_t b)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (st->phase == 1) {
        const char *p = b ? strchr(from, b) : NULL;
        st->cp = 0;
        if (b == 'u') {
            st->phase = 2;
            return string_char(g, st, 0, GRAM_MAX_CP, false);
        }
        st->phase = 0;
        return p && string_char(g, st, (uint8_t)to[p - from], (uint8_t)to[p - from], true);
    }
    if (st->phase == 6 || st->phase == 7) {
        st->cp = 0;
        return b == (st->phase++ == 6 ? '\\' : 'u');
    }
    uint32_t d;
    if (b >= '0' && b <= '9')
        d = b - '0';
    else if ((b | 32) >= 'a' && (b | 32) <= 'f')
        d = (b | 32U) - 'a' + 10;
    else
        return false;
    bool low = st->phase >= 8;
    unsigned left = (low ? 11U : 5U) - st->phase;
    st->cp = st->cp << 4 | d;
    uint32_t lo = st->cp << (4 * left), hi = lo | ((1U << (4 * left)) - 1);
    st->phase++;
    if (low) {
        if (hi < 0xDC00 || lo > 0xDFFF)
            return false;
        lo = lo < 0xDC00 ? 0xDC00 : lo;
        hi = hi > 0xDFFF ? 0xDFFF : hi;
        lo = 0x10000 + (st->high << 10) + (lo - 0xDC00);
        hi = 0x10000 + (st->high << 10) + (hi - 0xDC00);
    } else if (lo >= 0xDC00 && hi <= 0xDFFF) {
        return false; /* a low surrogate without a high one */
    } else if (lo >= 0xD800 && hi <= 0xDBFF) {
        uint32_t first = lo - 0xD800, last = hi - 0xD800;
        st->high = first;
        if (left == 0)
            st->phase = 6;
        return string_char(g, st, 0x10000 + (first << 10), 0x10000 + (last << 10) + 0x3FF, false);
    } else if (lo < 0xE000 && hi >= 0xD800) {
        hi = GRAM_MAX_CP; /* may still become a surrogate: every character is possible */
    }
    if (left == 0)
        st->phase = 0;
    return string_char(g, st, lo, hi, left == 0);
}

static bool string_step(const struct sgram *g, struct sstate *st, uint8_t b)
{
    if (st->phase)
        return escape_step(g, st, b);
    if (st->u.left == 0) {
        if (b == '"')
            return string_end(g, st);
        if (b == '\\') {
            st->phase = 1;
            return string_char(g, st, 0, GRAM_MAX_CP, false);
        }
        if (b < 0x20)
            return false;
    }
    int k = gram_utf8_step(&st->u, b);
    uint32_t lo, hi;
    if (k < 0)
        return false;
    if (k)
        return string_char(g, st, st->u.cp, st->u.cp, true);
    gram_utf8_span(&st->u, &lo, &hi);
    return string_char(g, st, lo, hi, false);
}

/* ---- numbers: 1 after '-', 2 zero, 3 digits, 4 after '.', 5 fraction, 6 after e, 7 after its
 * sign, 8 its digits ---- */
static uint8_t number_next(uint8_t phase, uint8_t b)
{
    bool digit = b >= '0' && b <= '9';
    switch (phase) {
    case 0:
        return b == '-' ? 1 : b == '0' ? 2 : digit ? 3 : 0;
    case 1:
        return b == '0' ? 2 : digit ? 3 : 0;
    case 2:
    case 3:
        if (digit)
            return phase == 3 ? 3 : 0;
        return b == '.' ? 4 : (b | 32) == 'e' ? 6 : 0;
    case 4:
    case 5:
        return digit ? 5 : phase == 5 && (b | 32) == 'e' ? 6 : 0;
    case 6:
        return digit ? 8 : b == '+' || b == '-' ? 7 : 0;
    default:
        return digit ? 8 : 0;
    }
}

static bool number_ends(uint8_t phase)
{
    return phase == 2 || phase == 3 || phase == 5 || phase == 8;
}

static bool number_add(const struct sgram *g, struct sstate *st, uint8_t b)
{
    struct frame *f = frame_at(st, st->top);
    bool changed = false;
    if (st->numlen >= SNUM_DIGITS)
        return false;
    st->num[st->numlen++] = (char)b;
    for (uint32_t i = 0; i < f->n_slots; i++) {
        struct slot *s = &slots_of(f)[i];
        uint32_t num = g->node[s->node].num;
        if (s->v == V_OPEN && num != GRAM_NONE && !snum_alive(&g->num[num], st->num, st->numlen)) {
            s->v = V_FALSE;
            changed = true;
        }
    }
    return !changed || settle(g, st, st->top);
}

static bool number_done(const struct sgram *g, struct sstate *st)
{
    struct sdec d;
    if (!number_ends(st->numphase) || !sdec_parse(&d, st->num, st->numlen))
        return false;
    return end_value(g, st, mix(sdec_hash(&d) + T_NUM));
}

/* ---- the reader ---- */
static const char *const literals[] = {"null", "true", "false"};

static bool value_step(const struct sgram *g, struct sstate *st, uint8_t b)
{
    st->ws = 0;
    switch (b) {
    case '{':
        st->lex = LX_KEY;
        st->first = 1;
        return set_type(g, st, T_OBJ, 0);
    case '[':
        if (!set_type(g, st, T_ARR, 0))
            return false;
        st->lex = LX_VALUE;
        st->first = 1;
        return true;
    case '"':
        return string_begin(st, false) && set_type(g, st, T_STR, 0);
    case 'n':
    case 't':
    case 'f':
        st->lex = LX_LIT;
        st->lit = b == 'n' ? 0 : b == 't' ? 1 : 2;
        st->litpos = 1;
        return set_type(g, st, b == 'n' ? T_NULL : T_BOOL, b == 't' ? 2 : 1);
    default:
        st->numphase = number_next(0, b);
        st->numlen = 0;
        st->lex = LX_NUM;
        return st->numphase && set_type(g, st, T_NUM, 0) && number_add(g, st, b);
    }
}

static bool close_container(const struct sgram *g, struct sstate *st)
{
    struct frame *f = frame_at(st, st->top);
    return end_value(g, st, mix(f->hash + f->type));
}

static bool after_step(const struct sgram *g, struct sstate *st, uint8_t b)
{
    struct frame *f = frame_at(st, st->top);
    if (b == (f->type == T_OBJ ? '}' : ']'))
        return close_container(g, st);
    if (b != ',' || st->ws)
        return false;
    if (f->type == T_ARR) {
        st->first = 0;
        return child(g, st);
    }
    st->lex = LX_KEY;
    st->first = 0;
    return key_begin(g, st);
}

static bool is_space(uint8_t b)
{
    return b == ' ' || b == '\n' || b == '\t' || b == '\r';
}

/* Could the container that is open be closed now? */
static bool may_close(const struct sgram *g, const struct sstate *st)
{
    struct sstate copy;
    sstate_copy(&copy, st);
    return close_container(g, &copy);
}

/* Behind a value white space leads to a closing bracket only, so it needs one that fits. With
 * tight_ws a run is one space or a line break and indentation. */
static bool space_step(const struct sgram *g, struct sstate *st, uint8_t b)
{
    if (st->depth + (st->lex != LX_VALUE) + st->first <= 1 || st->lex == LX_COLON)
        return false; /* not before the text, and not before ':' */
    if (st->ws >= g->max_ws || (st->lex == LX_AFTER && st->ws == 0 && !may_close(g, st)))
        return false;
    if (!g->tight_ws || st->ws > 0) {
        st->ws++;
        return !g->tight_ws || b == ' ' || b == '\t';
    }
    st->ws = b == ' ' ? (uint8_t)g->max_ws : 1;
    struct frame *f = frame_at(st, st->top);
    return b == ' ' || (b == '\n' && (st->lex != LX_VALUE || st->first || f->prev == NO_FRAME ||
                                      frame_at(st, f->prev)->type != T_OBJ));
}

bool srun_step(const struct sgram *g, struct sstate *st, uint8_t b)
{
    if (st->lex == LX_STR)
        return string_step(g, st, b);
    if (st->lex == LX_NUM) {
        uint8_t next = number_next(st->numphase, b);
        if (next) {
            st->numphase = next;
            return number_add(g, st, b);
        }
        if (!number_done(g, st))
            return false;
    }
    if (st->lex == LX_LIT) {
        if (b != (uint8_t)literals[st->lit][st->litpos++])
            return false;
        return literals[st->lit][st->litpos] || end_value(g, st, mix(st->lit + 0x100U));
    }
    if (st->lex == LX_DONE)
        return false;
    if (is_space(b))
        return space_step(g, st, b);
    switch ((enum slex)st->lex) {
    case LX_VALUE:
        if (st->first && frame_at(st, st->top)->type == T_ARR) {
            if (b == ']')
                return close_container(g, st);
            st->first = 0;
            if (!child(g, st))
                return false;
        }
        return value_step(g, st, b);
    case LX_KEY:
        if (b == '}' && st->first)
            return close_container(g, st);
        st->ws = 0;
        if (b != '"' || (st->first && !key_begin(g, st)))
            return false;
        return string_begin(st, true);
    case LX_COLON:
        st->first = 0;
        st->ws = 0;
        return b == ':' && child(g, st);
    case LX_AFTER:
        return after_step(g, st, b);
    default:
        return false;
    }
}

bool srun_init(const struct sgram *g, struct sstate *st)
{
    const struct want w = {g->root, 0, ROOT_MUST};
    memset(st, 0, offsetof(struct sstate, data));
    return open_frame(g, st, &w, 1);
}

bool srun_leave(const struct sgram *g, struct sstate *st, uint8_t b)
{
    return st->lex == LX_NUM && st->depth == 1 && !number_next(st->numphase, b) &&
           number_done(g, st);
}

bool srun_can_stop(const struct sgram *g, const struct sstate *st, struct sstate *scratch)
{
    if (st->lex == LX_DONE)
        return true;
    if (st->lex != LX_NUM || st->depth != 1)
        return false;
    sstate_copy(scratch, st);
    return number_done(g, scratch);
}

bool srun_free(const struct sgram *g, const struct sstate *st, struct sfree *out)
{
    if (st->lex != LX_STR || st->phase || st->u.left)
        return false;
    struct frame *f = frame_at(st, st->top);
    *out = (struct sfree){GRAM_NONE, st->in_key && f->n_keys > 0};
    for (uint32_t i = 0; i < f->n_slots; i++) {
        const struct slot *s = &slots_of(f)[i];
        const struct snode *n = &g->node[s->node];
        if (s->v != V_OPEN)
            continue;
        if (st->in_key) {
            if (n->obj != GRAM_NONE && !g->obj[n->obj].d->universal[s->q])
                return false;
        } else if (n->str != GRAM_NONE) {
            const struct sstr *c = &g->str[n->str];
            if (c->d && !c->d->universal[s->q])
                return false;
            out->each_close |= st->n_chars < c->min;
            if (c->max != GRAM_NONE) {
                if (f->n_slots > 1 && c->max - st->n_chars < 4096)
                    return false;
                out->left = c->max - st->n_chars;
            }
        }
    }
    if (!st->in_key && f->prev != NO_FRAME) {
        struct frame *up = frame_at(st, f->prev);
        for (uint32_t i = 0; i < up->n_slots; i++) {
            uint32_t arr = g->node[slots_of(up)[i].node].arr;
            out->each_close |= arr != GRAM_NONE && g->arr[arr].unique;
        }
    }
    return true;
}
