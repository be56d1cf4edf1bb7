/* SPDX-License-Identifier: Apache-2.0 */
/* finish_schema.c - what a JSON text under a schema goes on with when it is to end soon: quotes
 * and brackets that close, else names that are required, else the shortest values. */
#include "base/num.h"
#include "worker/text/finish_int.h"
#include "worker/text/schema_slots.h"

#include <string.h>

#define MAX_SLOTS 2000U /* of a frame; schema_slots.c opens none with more */

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

/* Is a key that ends in this state one whose value some schema speaks of? */
static bool spoken_of(const struct sobj *o, uint32_t q)
{
    uint32_t acc = o->d->accept[q];
    return acc && o->key[acc - 1].count > 0;
}

static void automaton(const struct dfa *d, uint32_t q, uint32_t salt, const struct sstate *st,
                      const struct sobj *o, const struct slot *s, bool wide, struct fmoves *out)
{
    for (uint32_t i = 0; i < d->n_bounds; i++) {
        uint32_t lo = d->bound[i], hi = i + 1 < d->n_bounds ? d->bound[i + 1] - 1 : GRAM_MAX_CP;
        uint32_t to = d->next[(size_t)q * d->n_classes + d->bound_class[i]];
        if (!to)
            continue;
        bool good = !o || wanted(st, o, s, to) || (wide && spoken_of(o, to));
        uint32_t rank = d->min_dist[to] + (good ? 0x1000 : 0x10000);
        fmoves_char(out, rank, (salt << 20) + to, lo, hi, true);
    }
}

static void in_string(const struct sgram *g, const struct sstate *st, bool wide, struct fmoves *out)
{
    struct frame *f = srun_frame(st, st->top);
    uint8_t on[MAX_SLOTS];
    /* Closing comes first, but where a needed name or a certain text has been begun. */
    bool free_here = true, name_done = false, later = false;
    active_slots(g, st, wide, on);
    for (uint32_t i = 0; i < f->n_slots && i < MAX_SLOTS; i++) {
        const struct slot *s = &srun_slots(f)[i];
        const struct snode *n = &g->node[s->node];
        if (!on[i])
            continue;
        if (st->in_key && n->obj != GRAM_NONE) {
            const struct sobj *o = &g->obj[n->obj];
            uint32_t acc = o->d->accept[s->q], name = acc ? o->key[acc - 1].name : GRAM_NONE;
            free_here = false;
            later |= wanted(st, o, s, s->q) || (wide && !spoken_of(o, s->q));
            for (uint32_t k = 0; k < o->n_required && !name_done; k++)
                name_done = o->required[k] == name && !is_seen(st, s, name);
            automaton(o->d, s->q, i, st, o, s, wide, out);
        } else if (!st->in_key && n->str != GRAM_NONE) {
            const struct sstr *c = &g->str[n->str];
            free_here &= (!c->d || c->d->universal[s->q]) && st->n_chars >= c->min;
            later |= c->d && !c->d->accept[s->q];
            if (c->d)
                automaton(c->d, s->q, i, st, NULL, s, wide, out);
        }
    }
    fmoves_byte(out, name_done || !later ? 0 : 0x8000, '"');
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
static void closers(const struct sstate *st, uint32_t at, struct fmoves *out)
{
    if (at == NO_FRAME)
        return;
    fmoves_byte(out, 0, srun_frame(st, at)->type == T_OBJ ? '}' : ']');
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

static void begin_value(const struct sgram *g, const struct sstate *st, struct sstate *tmp,
                        struct sstate *tmp2, struct fmoves *out)
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
        begin_value(g, st, tmp, tmp2, out);
        break;
    case LX_STR:
        if (st->phase)
            in_escape(st, out);
        else
            in_string(g, st, wide, out);
        break;
    case LX_NUM:
        closers(st, srun_frame(st, st->top)->prev, out);
        digits(g, st, tmp, tmp2, 100, st->numphase >= 4 ? "5123467890+-" : "0123456789.", out);
        break;
    case LX_LIT:
        fmoves_byte(out, 0, (uint8_t)sgram_literal(g, st->lit)[st->litpos]);
        break;
    case LX_AFTER:
        closers(st, st->top, out);
        break;
    case LX_KEY:
        if (st->first)
            fmoves_byte(out, 0, '}');
        fmoves_byte(out, 1, '"');
        break;
    case LX_COLON:
        fmoves_byte(out, 0, ':');
        break;
    case LX_DONE:
        break;
    }
}
