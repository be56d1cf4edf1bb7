/* SPDX-License-Identifier: Apache-2.0 */
/* schema_run.c - follows one JSON text byte by byte: strings, numbers, brackets. What the bytes
 * mean to the schema is decided in schema_slots.c. */
#include "worker/text/schema_slots.h"

#include <string.h>

#define TIGHT_DIGITS 32U /* bytes of a number that a model writes */

/* ---- strings ---- */

/* The next character lies in lo..hi; `whole`: it is lo. */
static bool string_char(const struct sgram *g, struct sstate *st, uint32_t lo, uint32_t hi,
                        bool whole)
{
    struct frame *f = srun_frame(st, st->top);
    bool changed = false;
    if (whole) {
        st->n_chars++;
        st->hash = gram_mix(st->hash * 31 + lo + 1);
    }
    for (uint32_t i = 0; i < f->n_slots; i++) {
        struct slot *s = &srun_slots(f)[i];
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
            lives = lives &&
                    (o ? srun_key_lives(st, o, s) : s->q && d->min_dist[s->q] <= max - st->n_chars);
        } else if (d) {
            lives = lives && dfa_alive(d, s->q, lo, hi);
        }
        if (!lives) {
            s->v = V_FALSE;
            changed = true;
        }
    }
    return !changed || srun_settle(g, st, st->top);
}

static bool string_end(const struct sgram *g, struct sstate *st)
{
    return st->in_key ? srun_key_end(g, st) : srun_end(g, st, gram_mix(st->hash + T_STR));
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
/* The automaton that slot i asks for certain characters with, or NULL. */
static const struct dfa *asking(const struct sgram *g, const struct sstate *st,
                                const struct slot *s)
{
    const struct snode *n = &g->node[s->node];
    uint32_t at = st->in_key ? n->obj : n->str;
    const struct dfa *d = at == GRAM_NONE ? NULL : st->in_key ? g->obj[at].d : g->str[at].d;
    return s->v == V_OPEN && d && !d->universal[s->q] ? d : NULL;
}

/* A model has no need to spell by number what a name or pattern asks for: a long way to the same
 * text. Control characters have no other spelling. */
static bool is_plain(const struct sgram *g, const struct sstate *st)
{
    struct frame *f = srun_frame(st, st->top);
    for (uint32_t i = 0; g->tight && i < f->n_slots; i++)
        if (asking(g, st, &srun_slots(f)[i]))
            return true;
    return false;
}

/* Then an escape needs a character that must be escaped. */
static bool may_escape(const struct sgram *g, const struct sstate *st)
{
    struct frame *f = srun_frame(st, st->top);
    bool plain = false;
    for (uint32_t i = 0; g->tight && i < f->n_slots; i++) {
        const struct slot *s = &srun_slots(f)[i];
        const struct dfa *d = asking(g, st, s);
        plain |= d != NULL;
        if (d && (dfa_alive(d, s->q, 0, 0x1F) || dfa_alive(d, s->q, '"', '"') ||
                  dfa_alive(d, s->q, '\\', '\\')))
            return true;
    }
    return !plain;
}

static bool escape_step(const struct sgram *g, struct sstate *st, uint8_t b)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (st->phase == 1) {
        const char *p = b ? strchr(from, b) : NULL;
        st->cp = 0;
        if (b == 'u') {
            st->phase = 2;
            return string_char(g, st, 0, is_plain(g, st) ? 0x1F : GRAM_MAX_CP, false);
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
    if (hi > 0x1F && is_plain(g, st)) {
        if (lo > 0x1F)
            return false;
        hi = 0x1F;
    }
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
            return may_escape(g, st) && string_char(g, st, 0, GRAM_MAX_CP, false);
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

/* What a model writes has no exponent: it would lead where no valid number lies. */
int srun_number_step(const struct sgram *g, uint8_t phase, unsigned len, uint8_t b, uint8_t *next)
{
    unsigned most = g->tight ? TIGHT_DIGITS : SNUM_DIGITS;
    *next = number_next(phase, b);
    if (!*next)
        return 0;
    /* What must be followed by a digit needs room for it. */
    if (len >= most || (len + 2U >= most && !number_ends(*next)) || (g->tight && *next >= 6))
        return -1;
    return 1;
}

/* Would the text be lost without the schemas whose numbers need another form than this? */
static bool lost_without(const struct sgram *g, const struct sstate *st)
{
    struct sstate copy;
    sstate_copy(&copy, st);
    struct frame *f = srun_frame(&copy, copy.top);
    for (uint32_t i = 0; i < f->n_slots; i++) {
        struct slot *s = &srun_slots(f)[i];
        uint32_t num = g->node[s->node].num;
        if (s->v == V_OPEN && num != GRAM_NONE &&
            !snum_alive_plain(&g->num[num], copy.num, copy.numlen))
            s->v = V_FALSE;
    }
    return !srun_settle(g, &copy, copy.top);
}

/* numphase is that behind b. What a model has no use for, 1.0 for an integer or a number that
 * only an exponent could save, is no verdict: other schemas may ask that it be not valid. */
static bool number_add(const struct sgram *g, struct sstate *st, uint8_t b)
{
    struct frame *f = srun_frame(st, st->top);
    bool changed = false, useless = false;
    st->num[st->numlen++] = (char)b;
    for (uint32_t i = 0; i < f->n_slots; i++) {
        struct slot *s = &srun_slots(f)[i];
        uint32_t num = g->node[s->node].num;
        if (s->v != V_OPEN || num == GRAM_NONE ||
            (g->tight && snum_alive_plain(&g->num[num], st->num, st->numlen)))
            continue;
        if (snum_alive(&g->num[num], st->num, st->numlen)) {
            useless |= g->tight;
            continue;
        }
        s->v = V_FALSE;
        changed = true;
    }
    return (!changed || srun_settle(g, st, st->top)) && !(useless && lost_without(g, st));
}

bool srun_number_is_free(const struct sgram *g, const struct sstate *st)
{
    if (st->lex != LX_NUM)
        return false;
    struct frame *f = srun_frame(st, st->top);
    for (uint32_t i = 0; i < f->n_slots; i++) {
        const struct slot *s = &srun_slots(f)[i];
        if (s->v == V_OPEN && g->node[s->node].num != GRAM_NONE)
            return false;
    }
    return true;
}

static bool number_done(const struct sgram *g, struct sstate *st)
{
    struct sdec d;
    if (!number_ends(st->numphase) || !sdec_parse(&d, st->num, st->numlen))
        return false;
    return srun_end(g, st, gram_mix(sdec_hash(&d) + T_NUM));
}

/* ---- the reader ---- */

static bool value_step(const struct sgram *g, struct sstate *st, uint8_t b)
{
    st->ws = 0;
    switch (b) {
    case '{':
        st->lex = LX_KEY;
        st->first = 1;
        return srun_set_type(g, st, T_OBJ, 0);
    case '[':
        if (!srun_set_type(g, st, T_ARR, 0))
            return false;
        st->lex = LX_VALUE;
        st->first = 1;
        return true;
    case '"':
        return string_begin(st, false) && srun_set_type(g, st, T_STR, 0);
    default:
        for (uint8_t i = 0; i < 3; i++) {
            if (b != (uint8_t)sgram_literal(g, i)[0])
                continue;
            st->lex = LX_LIT;
            st->lit = i;
            st->litpos = 1;
            return srun_set_type(g, st, i ? T_BOOL : T_NULL, i == 1 ? 2 : 1);
        }
        st->numlen = 0;
        st->lex = LX_NUM;
        return srun_number_step(g, 0, 0, b, &st->numphase) > 0 && srun_set_type(g, st, T_NUM, 0) &&
               number_add(g, st, b);
    }
}

static bool close_container(const struct sgram *g, struct sstate *st)
{
    struct frame *f = srun_frame(st, st->top);
    return srun_end(g, st, gram_mix(f->hash + f->type));
}

static bool after_step(const struct sgram *g, struct sstate *st, uint8_t b)
{
    struct frame *f = srun_frame(st, st->top);
    if (b == (f->type == T_OBJ ? '}' : ']'))
        return close_container(g, st);
    if (b != ',' || st->ws)
        return false;
    if (f->type == T_ARR) {
        st->first = 0;
        return srun_child(g, st);
    }
    st->lex = LX_KEY;
    st->first = 0;
    return srun_key_begin(g, st);
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
 * tight a run is one space or a line break and indentation. */
static bool space_step(const struct sgram *g, struct sstate *st, uint8_t b)
{
    if (st->depth + (st->lex != LX_VALUE) + st->first <= 1 || st->lex == LX_COLON)
        return false; /* not before the text, and not before ':' */
    if (st->ws >= g->max_ws || (st->lex == LX_AFTER && st->ws == 0 && !may_close(g, st)))
        return false;
    if (!g->tight || st->ws > 0) {
        st->ws++;
        return !g->tight || b == ' ' || b == '\t';
    }
    st->ws = b == ' ' ? (uint8_t)g->max_ws : 1;
    struct frame *f = srun_frame(st, st->top);
    return b == ' ' || (b == '\n' && (st->lex != LX_VALUE || st->first || f->prev == NO_FRAME ||
                                      srun_frame(st, f->prev)->type != T_OBJ));
}

bool srun_step(const struct sgram *g, struct sstate *st, uint8_t b)
{
    st->low = st->low < st->top ? st->low : st->top;
    if (st->lex == LX_STR)
        return string_step(g, st, b);
    if (st->lex == LX_NUM) {
        uint8_t next;
        int k = srun_number_step(g, st->numphase, st->numlen, b, &next);
        if (k < 0)
            return false;
        if (k > 0) {
            st->numphase = next;
            return number_add(g, st, b);
        }
        if (!number_done(g, st))
            return false;
    }
    if (st->lex == LX_LIT) {
        if (b != (uint8_t)sgram_literal(g, st->lit)[st->litpos++])
            return false;
        return sgram_literal(g, st->lit)[st->litpos] || srun_end(g, st, gram_mix(st->lit + 0x100U));
    }
    if (st->lex == LX_DONE)
        return false;
    if (is_space(b))
        return space_step(g, st, b);
    switch ((enum slex)st->lex) {
    case LX_VALUE:
        if (st->first && srun_frame(st, st->top)->type == T_ARR) {
            if (b == ']')
                return close_container(g, st);
            st->first = 0;
            if (!srun_child(g, st))
                return false;
        }
        return value_step(g, st, b);
    case LX_KEY:
        if (b == '}' && st->first)
            return close_container(g, st);
        st->ws = 0;
        if (b != '"' || (st->first && !srun_key_begin(g, st)))
            return false;
        return string_begin(st, true);
    case LX_COLON:
        st->first = 0;
        st->ws = 0;
        return b == ':' && srun_child(g, st);
    case LX_AFTER:
        return after_step(g, st, b);
    default:
        return false;
    }
}

void srun_first(const struct sgram *g, const struct sstate *st, struct srun_bytes *s)
{
    static const char *const after[] = {
        [LX_VALUE] = " \t\r\n\"{[]-0123456789tfnTFN",
        [LX_NUM] = " \t\r\n,]}.eE+-0123456789",
        [LX_AFTER] = " \t\r\n,]}",
        [LX_KEY] = " \t\r\n\"}",
        [LX_COLON] = ":",
        [LX_DONE] = "",
        [LX_STR] = NULL,
    };
    const char *p = st->lex == LX_LIT ? NULL : after[st->lex];
    if (st->lex == LX_STR)
        return;
    memset(s, 0, sizeof *s);
    if (st->lex == LX_LIT) {
        uint8_t b = (uint8_t)sgram_literal(g, st->lit)[st->litpos];
        s->on[b / 64] |= 1ULL << (b % 64);
    }
    for (; p && *p; p++)
        s->on[(uint8_t)*p / 64] |= 1ULL << ((uint8_t)*p % 64);
}

bool srun_init(const struct sgram *g, struct sstate *st)
{
    const struct want w = {g->root, 0, ROOT_MUST};
    memset(st, 0, offsetof(struct sstate, data));
    return srun_open(g, st, &w, 1);
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
    return st->depth == 1 && srun_number_ends(g, st, scratch);
}

bool srun_number_ends(const struct sgram *g, const struct sstate *st, struct sstate *scratch)
{
    if (st->lex != LX_NUM)
        return false;
    sstate_copy(scratch, st);
    return number_done(g, scratch);
}

bool srun_free(const struct sgram *g, const struct sstate *st, struct sfree *out)
{
    if (st->lex != LX_STR || st->phase || st->u.left)
        return false;
    struct frame *f = srun_frame(st, st->top);
    *out = (struct sfree){GRAM_NONE, st->in_key && f->n_keys > 0};
    for (uint32_t i = 0; i < f->n_slots; i++) {
        const struct slot *s = &srun_slots(f)[i];
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
    out->each_close |= srun_unique_around(g, st);
    return true;
}
