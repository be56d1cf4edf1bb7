/* SPDX-License-Identifier: Apache-2.0 */
/* finish_schema.c - what a JSON text under a schema goes on with when it is to end soon: quotes
 * and brackets that close, else names that are required, else the shortest values. */
#include "base/num.h"
#include "worker/text/finish_int.h"
#include "worker/text/schema_slots.h"

#include <string.h>

#define MAX_SLOTS 2000U /* of a frame; schema_slots.c opens none with more */
#define MAX_NEST  100U  /* nor more frames */
#define LATER     0x4000U

static bool is_seen(const struct sstate *st, const struct slot *s, uint32_t name)
{
    return seen_of(st, s)[name / 64] >> (name % 64) & 1;
}

bool finish_compared(const struct sgram *g, const struct sstate *st)
{
    for (uint32_t at = st->top; at != NO_FRAME; at = srun_frame(st, at)->prev) {
        struct frame *f = srun_frame(st, at);
        for (uint32_t i = 0; i < f->n_slots; i++) {
            uint32_t arr = g->node[srun_slots(f)[i].node].arr;
            if (arr != GRAM_NONE && g->arr[arr].unique)
                return true;
        }
    }
    return false;
}

/* What a slot is to become for the text to be valid, as far as `not` alone says it. */
enum wish { WISH_NONE, WISH_TRUE, WISH_FALSE };

static enum wish inverse(enum wish w)
{
    return w == WISH_NONE ? WISH_NONE : w == WISH_TRUE ? WISH_FALSE : WISH_TRUE;
}

/* The wishes for slot i of f and what stands below it, when `w` is that for the slot itself. */
static uint32_t spread(const struct sgram *g, struct frame *f, uint32_t i, enum wish w,
                       uint8_t *wish)
{
    const struct slot *s = &srun_slots(f)[i];
    const struct snode *n = &g->node[s->node];
    wish[i++] = (uint8_t)w;
    for (uint32_t k = 0; k < n->n_kids; k++) {
        uint8_t role = g->kid[n->kid + k].role;
        enum wish x = role == KID_NOT ? inverse(w) : role == KID_IF ? WISH_NONE : w;
        i = spread(g, f, i, x, wish);
    }
    return i;
}

/* By slot of the frame `at`; wishes pass from frame to frame by the slots that asked for the
 * values. Returns what it cost. */
static uint32_t wishes(const struct sgram *g, const struct sstate *st, uint32_t at, uint8_t *wish)
{
    uint8_t around[MAX_SLOTS];
    uint32_t chain[MAX_NEST], n = 0, cost = 0, n_around = 0;
    for (; at != NO_FRAME && n < MAX_NEST; at = srun_frame(st, at)->prev)
        chain[n++] = at;
    for (uint32_t k = n; k-- > 0;) {
        struct frame *f = srun_frame(st, chain[k]);
        memcpy(around, wish, n_around);
        memset(wish, WISH_NONE, f->n_slots);
        n_around = f->n_slots;
        for (uint32_t i = 0; i < f->n_roots; i++) {
            const struct root *r = &srun_roots(f)[i];
            enum wish w = WISH_NONE;
            if (r->role == ROOT_MUST)
                w = f->prev == NO_FRAME ? WISH_TRUE : (enum wish)around[r->parent];
            (void)spread(g, f, r->slot, w, wish);
        }
        cost += 1 + f->n_slots / 4;
    }
    return cost;
}

/* Mark the slots whose schema must or may hold: not what stands under `not` and `if`. */
static uint32_t mark(const struct sgram *g, const struct sstate *st, struct frame *f, uint32_t i,
                     bool active, uint8_t *on)
{
    const struct slot *s = &srun_slots(f)[i];
    const struct snode *n = &g->node[s->node];
    active = active && s->v != V_FALSE;
    on[i++] = active && s->v == V_OPEN;
    for (uint32_t k = 0; k < n->n_kids; k++) {
        const struct skid *kid = &g->kid[n->kid + k];
        bool a = active && kid->role != KID_NOT && kid->role != KID_IF;
        if (kid->role == KID_DEP)
            a = a && f->type == T_OBJ && s->seen && is_seen(st, s, kid->name);
        i = mark(g, st, f, i, a, on);
    }
    return i;
}

static void active_slots(const struct sgram *g, const struct sstate *st, bool wide, uint8_t *on)
{
    struct frame *f = srun_frame(st, st->top);
    memset(on, 0, f->n_slots);
    for (uint32_t i = 0; i < f->n_roots; i++)
        mark(g, st, f, srun_roots(f)[i].slot, true, on);
    for (uint32_t i = 0; i < f->n_slots && wide; i++)
        on[i] = srun_slots(f)[i].v == V_OPEN;
}

/* Closing here would leave a wish open that more members could still fulfil. */
static bool wish_open(const struct sgram *g, const struct sstate *st, uint32_t at,
                      struct fmoves *out)
{
    uint8_t wish[MAX_SLOTS];
    struct frame *f = srun_frame(st, at);
    bool open = false;
    out->work += wishes(g, st, at, wish);
    for (uint32_t i = 0; i < f->n_slots && i < MAX_SLOTS; i++) {
        const struct snode *n = &g->node[srun_slots(f)[i].node];
        open |= wish[i] == WISH_FALSE && srun_slots(f)[i].v == V_OPEN &&
                (n->obj != GRAM_NONE || n->arr != GRAM_NONE);
    }
    return open;
}

/* Does this state of the key automaton lead to a name that is still needed? */
static bool wanted(const struct sstate *st, const struct sobj *o, const struct slot *s, uint32_t q)
{
    const uint64_t *reach = o->reach + (size_t)q * o->words;
    uint32_t next = GRAM_NONE;
    for (uint32_t i = 0; i < o->n_required; i++) {
        uint32_t r = o->required[i];
        if (is_seen(st, s, r))
            continue;
        if (o->in_order)
            next = NUM_MIN(next, r);
        else if (reach[r / 64] >> (r % 64) & 1)
            return true;
    }
    for (uint32_t i = 0; i < o->n_dep; i += 2) {
        uint32_t r = o->dep[i + 1];
        if (is_seen(st, s, o->dep[i]) && !is_seen(st, s, r) && (reach[r / 64] >> (r % 64) & 1))
            return true;
    }
    return next != GRAM_NONE && (reach[next / 64] >> (next % 64) & 1);
}

static void automaton(const struct dfa *d, uint32_t q, uint32_t salt, const struct sstate *st,
                      const struct sobj *o, const struct slot *s, bool spoken, bool meant,
                      struct fmoves *out)
{
    for (uint32_t i = 0; i < d->n_bounds; i++) {
        uint32_t lo = d->bound[i], hi = i + 1 < d->n_bounds ? d->bound[i + 1] - 1 : GRAM_MAX_CP;
        uint32_t to = d->next[(size_t)q * d->n_classes + d->bound_class[i]];
        if (!to)
            continue;
        bool way = spoken && o->spoken[to] < 0xFF;
        bool good = meant && (!o || way || wanted(st, o, s, to));
        uint32_t far = way ? o->spoken[to] : d->min_dist[to];
        uint32_t rank = far + (good ? 0x1000 : 0x10000);
        fmoves_char(out, rank, (salt << 20) + to, lo, hi, true);
    }
}

static void in_string(const struct sgram *g, const struct sstate *st, bool wide, struct fmoves *out)
{
    struct frame *f = srun_frame(st, st->top);
    uint8_t on[MAX_SLOTS], wish[MAX_SLOTS];
    /* Closing comes first, but where a needed name or a certain text has been begun. */
    bool free_here = true, name_done = false, later = false, some = false;
    active_slots(g, st, wide, on);
    if (wide)
        out->work += wishes(g, st, st->top, wish);
    for (uint32_t i = 0; i < f->n_slots && i < MAX_SLOTS; i++) {
        const struct slot *s = &srun_slots(f)[i];
        const struct snode *n = &g->node[s->node];
        /* A key for the sake of what must not be so is one whose value can break it; a string that
         * must not be so is best left alone. */
        bool no = wide && wish[i] == WISH_FALSE;
        if (!on[i])
            continue;
        if (st->in_key && n->obj != GRAM_NONE) {
            const struct sobj *o = &g->obj[n->obj];
            uint32_t acc = o->d->accept[s->q], name = acc ? o->key[acc - 1].name : GRAM_NONE;
            free_here = false;
            later |= wanted(st, o, s, s->q) || (no && o->spoken[s->q] > 0);
            some |= no && o->spoken[s->q] == 0;
            for (uint32_t k = 0; k < o->n_required && !name_done; k++)
                name_done = o->required[k] == name && !is_seen(st, s, name);
            automaton(o->d, s->q, i, st, o, s, no, true, out);
        } else if (!st->in_key && n->str != GRAM_NONE) {
            const struct sstr *c = &g->str[n->str];
            free_here &= (!c->d || c->d->universal[s->q]) && st->n_chars >= c->min;
            bool ends = c->d && c->d->accept[s->q];
            later |= c->d && ends == no;
            some |= wide && c->d && ends != no;
            if (c->d)
                automaton(c->d, s->q, i, st, NULL, s, false, !no, out);
        }
    }
    fmoves_byte(out, name_done || !later ? 0 : some ? 0xFFF : 0x8000, '"');
    static const char pad[] = "a0b1";
    for (unsigned i = 0; pad[i]; i++)
        fmoves_byte(out, 0x100000 + i, (uint8_t)pad[i]);
    out->only = free_here && !wide && !finish_compared(g, st);
}

/* phase 1: behind a backslash; 6, 7: a second one and its u; else hexadecimal digits. */
static void in_escape(const struct sstate *st, struct fmoves *out)
{
    static const char one[] = "n\"\\/tbrfu", hex[] = "60123457f89abcde";
    const char *p = st->phase == 1 ? one : st->phase == 6 ? "\\" : st->phase == 7 ? "u" : hex;
    for (uint32_t i = 0; p[i]; i++)
        fmoves_byte(out, i, (uint8_t)p[i]);
}

/* What closes the container around the value that ends here. */
static void closers(const struct sgram *g, const struct sstate *st, uint32_t at, bool wide,
                    struct fmoves *out)
{
    if (at == NO_FRAME)
        return;
    uint32_t rank = wide && wish_open(g, st, at, out) ? LATER : 0;
    fmoves_byte(out, rank, srun_frame(st, at)->type == T_OBJ ? '}' : ']');
    fmoves_byte(out, 1, ',');
}

/* Digits after which the number may end come first. */
static void digits(const struct sgram *g, const struct sstate *st, struct sstate *tmp,
                   struct sstate *tmp2, uint32_t rank, const char *list, struct fmoves *out)
{
    for (uint32_t i = 0; list[i]; i++) {
        out->work += 8;
        sstate_copy(tmp, st);
        if (!srun_step(g, tmp, (uint8_t)list[i]))
            continue;
        bool ends = srun_number_ends(g, tmp, tmp2);
        fmoves_byte(out, rank + (ends ? 0 : 20) + i, (uint8_t)list[i]);
    }
}

/* Types that schemas under `not` ask for come first. */
static void wished_types(const struct sgram *g, const struct sstate *st, uint32_t *least,
                         struct fmoves *out)
{
    struct frame *f = srun_frame(st, st->top);
    uint8_t wish[MAX_SLOTS];
    out->work += wishes(g, st, st->top, wish);
    for (unsigned t = 0; t < 6; t++) {
        bool against = false;
        least[t] = 2;
        for (uint32_t i = 0; i < f->n_slots && i < MAX_SLOTS; i++) {
            const struct slot *s = &srun_slots(f)[i];
            const struct snode *n = &g->node[s->node];
            const uint32_t says[6] = {GRAM_NONE, GRAM_NONE, n->num, n->str, n->arr, n->obj};
            uint32_t x = g->least[(size_t)s->node * 6 + t];
            if (s->v == V_TRUE || wish[i] == WISH_NONE)
                continue;
            if (wish[i] == WISH_TRUE && x < SLEAST_NONE)
                least[t] = NUM_MAX(least[t], NUM_MIN(x, 1000U));
            /* What says no more of a type takes all its values. */
            bool all = x < SLEAST_NONE && n->n_kids == 0 && says[t] == GRAM_NONE;
            against |= wish[i] == WISH_TRUE ? x >= SLEAST_NONE : all;
        }
        least[t] += against ? 2000 : 0;
    }
}

static void begin_value(const struct sgram *g, const struct sstate *st, struct sstate *tmp,
                        struct sstate *tmp2, bool wide, struct fmoves *out)
{
    const char *by_type[6] = {"n", "tf", "0123456789-", "\"", "[", "{"};
    struct frame *f = srun_frame(st, st->top);
    const struct sstate *at = st;
    if (g->python) {
        by_type[0] = "N";
        by_type[1] = "TF";
    }
    if (st->first && f->type == T_ARR) {
        fmoves_byte(out, 0, ']');
        sstate_copy(tmp, st);
        tmp->first = 0;
        if (!srun_child(g, tmp))
            return;
        at = tmp;
    }
    f = srun_frame(at, at->top);
    uint32_t least[6];
    for (unsigned t = 0; t < 6; t++) {
        least[t] = t < 4 ? 2 + (t < 2) : 2;
        for (uint32_t i = 0; i < f->n_roots; i++) {
            const struct root *r = &srun_roots(f)[i];
            uint32_t x = g->least[(size_t)r->node * 6 + t];
            if (r->role != ROOT_MUST)
                x = NUM_MIN(x, 1000U); /* an item that need not be one that is counted */
            least[t] = NUM_MAX(least[t], x);
        }
    }
    if (wide)
        wished_types(g, at, least, out);
    for (unsigned t = 0; t < 6; t++) {
        if (least[t] >= SLEAST_NONE)
            continue;
        uint32_t rank = 1000 + least[t] * 100;
        if (1U << t == T_NUM)
            digits(g, st, tmp, tmp2, rank, by_type[t], out);
        else
            for (unsigned k = 0; by_type[t][k]; k++)
                fmoves_byte(out, rank + k, (uint8_t)by_type[t][k]);
    }
}

void finish_schema(const struct sgram *g, const struct sstate *st, struct sstate *tmp,
                   struct sstate *tmp2, bool wide, struct fmoves *out)
{
    switch ((enum slex)st->lex) {
    case LX_VALUE:
        begin_value(g, st, tmp, tmp2, wide, out);
        break;
    case LX_STR:
        if (st->phase)
            in_escape(st, out);
        else
            in_string(g, st, wide, out);
        break;
    case LX_NUM:
        closers(g, st, srun_frame(st, st->top)->prev, wide, out);
        digits(g, st, tmp, tmp2, 100, st->numphase >= 4 ? "5123467890+-" : "0123456789.", out);
        break;
    case LX_LIT:
        fmoves_byte(out, 0, (uint8_t)sgram_literal(g, st->lit)[st->litpos]);
        break;
    case LX_AFTER:
        closers(g, st, st->top, wide, out);
        break;
    case LX_KEY:
        if (st->first)
            fmoves_byte(out, wide && wish_open(g, st, st->top, out) ? LATER : 0, '}');
        fmoves_byte(out, 1, '"');
        break;
    case LX_COLON:
        fmoves_byte(out, 0, ':');
        break;
    case LX_DONE:
        break;
    }
}
