/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/finish_int.h"

#include <string.h>

void fmoves_add(struct fmoves *out, uint32_t rank, uint32_t key, const uint16_t *sym, unsigned n)
{
    uint32_t at = out->n;
    for (uint32_t i = 0; i < out->n; i++) {
        if (out->m[i].key != key)
            continue;
        if (out->m[i].rank <= rank)
            return;
        memmove(&out->m[i], &out->m[i + 1], (out->n - i - 1) * sizeof out->m[0]);
        at = --out->n;
        break;
    }
    while (at > 0 && out->m[at - 1].rank > rank)
        at--;
    if (at == FINISH_MOVES)
        return;
    if (out->n == FINISH_MOVES)
        out->n--;
    memmove(&out->m[at + 1], &out->m[at], (out->n - at) * sizeof out->m[0]);
    out->m[at] = (struct fmove){.rank = rank, .key = key, .n = (uint8_t)n};
    memcpy(out->m[at].sym, sym, n * sizeof *sym);
    out->n++;
}

void fmoves_byte(struct fmoves *out, uint32_t rank, uint8_t b)
{
    const uint16_t sym = b;
    fmoves_add(out, rank, 0x80000000U | b, &sym, 1);
}

/* Of a range the character that is the easiest to write. */
static uint32_t choose(uint32_t lo, uint32_t hi)
{
    static const uint32_t like[][2] = {{'a', 'z'}, {'A', 'Z'},   {'0', '9'},     {' ', '!'},
                                       {'#', '['}, {']', '~'},   {0xA1, 0xD7FF}, {0xE000, 0x10FFFF},
                                       {'"', '"'}, {'\\', '\\'}, {0x7F, 0xA0},   {0, 0x1F}};
    for (unsigned i = 0; i < sizeof like / sizeof like[0]; i++) {
        uint32_t a = lo > like[i][0] ? lo : like[i][0], b = hi < like[i][1] ? hi : like[i][1];
        if (a <= b)
            return a;
    }
    return GRAM_NONE; /* surrogates */
}

void fmoves_char(struct fmoves *out, uint32_t rank, uint32_t key, uint32_t lo, uint32_t hi,
                 bool json)
{
    static const char hex[] = "0123456789abcdef", from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    uint32_t cp = choose(lo, hi);
    uint16_t s[6];
    unsigned n = 0;
    if (cp == GRAM_NONE)
        return;
    const char *p = json && cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
    if (p) {
        s[n++] = '\\';
        s[n++] = (uint8_t)to[p - from];
    } else if (json && cp < 0x20) {
        const uint16_t u[6] = {'\\', 'u', '0', '0', (uint8_t)hex[cp >> 4], (uint8_t)hex[cp & 15]};
        memcpy(s, u, sizeof u);
        n = 6;
    } else if (cp < 0x80) {
        s[n++] = (uint16_t)cp;
    } else {
        unsigned more = cp < 0x800 ? 1 : cp < 0x10000 ? 2 : 3;
        s[n++] = (uint16_t)((more == 1 ? 0xC0U : more == 2 ? 0xE0U : 0xF0U) | cp >> (6 * more));
        while (more-- > 0)
            s[n++] = (uint16_t)(0x80U | (cp >> (6 * more) & 0x3F));
    }
    fmoves_add(out, rank, key, s, n);
}

/* The rest of a character that was begun. */
static void inside_char(const struct gram_utf8 *u, struct fmoves *out)
{
    for (unsigned b = u->lo; b <= u->hi; b++)
        fmoves_byte(out, 0, (uint8_t)b);
}

/* Characters of an automaton, those that lead nearer to the end first; `more` characters follow
 * it. Values and texts stand in frames only, texts in no other text. */
static void dfa_moves(const struct grammar *g, const struct dfa *d, uint32_t q, uint32_t more,
                      struct fmoves *out)
{
    const uint32_t salt = d == g->dfa ? 0 : 0x40000000U; /* states of a text are others */
    for (uint32_t i = 0; i < d->n_bounds; i++) {
        uint32_t lo = d->bound[i], hi = i + 1 < d->n_bounds ? d->bound[i + 1] - 1 : GRAM_MAX_CP;
        uint32_t to = d->next[(size_t)q * d->n_classes + d->bound_class[i]];
        if (!to)
            continue;
        uint32_t rank = 2 * (d->min_dist[to] + more);
        if (g->kind != GRAMMAR_FRAME || lo < FRAME_SUB || lo >= FRAME_MARK + FRAME_MAX_MARK) {
            fmoves_char(out, rank, salt + to, lo, hi, false);
        } else if (lo >= FRAME_MARK) {
            const uint16_t sym = (uint16_t)(FINISH_MARK + (lo - FRAME_MARK));
            fmoves_add(out, rank, salt + to, &sym, 1);
        } else if (g->sub[lo - FRAME_SUB].d) {
            const struct dfa *t = g->sub[lo - FRAME_SUB].d;
            dfa_moves(g, t, t->start, d->min_dist[to], out);
        } else {
            /* The first byte of a value. */
            static const char first[] = "{[\"01-ntfNTF";
            for (unsigned k = 0; first[k]; k++)
                fmoves_byte(out, rank + 1, (uint8_t)first[k]);
        }
    }
}

static void gbnf_moves(const struct grammar *g, const struct gbnf_state *st, struct fmoves *out)
{
    const struct nfa *a = &g->gbnf->a;
    for (uint32_t i = 0; i < st->n_thr; i++) {
        uint32_t s = st->thr[i].s;
        if (s == GRAM_NONE)
            continue;
        uint32_t rank = gbnf_least(g->gbnf, st, st->thr[i]), best = GRAM_NONE;
        for (uint32_t k = 0; k < a->s[s].n_rng && rank < GBNF_ENDLESS; k++) {
            const struct gram_range *r = &a->rng[a->s[s].first + k];
            uint32_t cp = choose(r->lo, r->hi);
            if (cp != GRAM_NONE && (best == GRAM_NONE || (cp >= 0x20 && best < 0x20)))
                best = cp;
        }
        if (best != GRAM_NONE)
            fmoves_char(out, rank, best, best, best, false);
    }
}

void finish_moves(const struct grammar *g, const struct gram_state *st, struct gram_state *tmp,
                  bool wide, struct fmoves *out)
{
    const struct sgram *schema = gram_schema(g, st);
    out->n = out->work = 0;
    out->only = false;
    if (schema) {
        if (st->s.lex == LX_STR && st->s.u.left) {
            inside_char(&st->s.u, out);
            return;
        }
        finish_schema(schema, &st->s, &tmp[0].s, &tmp[1].s, wide, out);
        /* A number in a frame ends where the text goes on. */
        if (g->kind == GRAMMAR_FRAME && st->s.lex == LX_NUM && st->s.depth == 1)
            dfa_moves(g, g->dfa, dfa_next(g->dfa, st->q, FRAME_SUB + st->sub), 0, out);
    } else if (g->kind == GRAMMAR_GBNF) {
        if (st->b.u.left)
            inside_char(&st->b.u, out);
        else
            gbnf_moves(g, &st->b, out);
    } else if (st->u.left) {
        inside_char(&st->u, out);
    } else {
        const struct frame_sub *t = gram_text(g, st);
        if (t)
            dfa_moves(g, t->d, st->tq, 0, out);
        else
            dfa_moves(g, g->dfa, st->q, 0, out);
    }
}
