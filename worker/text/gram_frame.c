/* SPDX-License-Identifier: Apache-2.0 */
/* gram_frame.c - frames: an automaton over text in which values and texts stand as one symbol
 * each. A value or text begins where the frame's own text cannot go on. A value ends by itself: at
 * its closing bracket, or, for a number, before what is no part of it; a text ends with its mark.
 * Where nothing but a text can come, the state is inside it at once. */
#include "worker/text/mask_int.h"

#include <stdlib.h>
#include <string.h>

void frame_sub_fini(struct frame_sub *sub)
{
    sgram_free(sub->s);
    dfa_free(sub->d);
    free(sub->open);
    memset(sub, 0, sizeof *sub);
}

/* Where values and texts begin. */
static void find_entries(struct grammar *g)
{
    const struct dfa *d = g->dfa;
    for (uint32_t q = 0; q < d->n_states; q++) {
        g->enter[q] = g->enter_text[q] = GRAM_NONE;
        g->only_text[q] = 0;
    }
    for (uint32_t k = 0; k < g->n_sub; k++) {
        uint32_t class = dfa_class(d, FRAME_SUB + k);
        uint32_t *enter = g->sub[k].d ? g->enter_text : g->enter;
        for (uint32_t q = 1; q < d->n_states; q++)
            if (d->next[(size_t)q * d->n_classes + class])
                enter[q] = k;
    }
    for (uint32_t q = 1; q < d->n_states; q++) {
        bool only = g->enter_text[q] != GRAM_NONE && !d->accept[q];
        for (uint32_t i = 0; i < d->n_bounds && only; i++)
            only = d->bound[i] == FRAME_SUB + g->enter_text[q] ||
                   !d->next[(size_t)q * d->n_classes + d->bound_class[i]];
        g->only_text[q] = only;
    }
}

int grammar_frame(struct grammar **out, const struct nfa *a, uint32_t start, struct frame_sub *sub,
                  uint32_t n_sub, const uint32_t *mark, uint32_t n_mark, struct err *e)
{
    struct grammar *g = calloc(1, sizeof *g);
    int rc = 0;
    *out = NULL;
    if (!g)
        return err_set(e, Q_ENOMEM, "out of memory");
    g->kind = GRAMMAR_FRAME;
    if (n_sub > FRAME_MAX_SUB || n_mark > FRAME_MAX_MARK)
        rc = err_set(e, Q_ENOMEM, "more than %u values in a frame", FRAME_MAX_SUB);
    if (rc == 0)
        rc = dfa_build(&g->dfa, a, start, e);
    if (rc == 0) {
        g->enter = malloc(g->dfa->n_states * sizeof *g->enter);
        g->enter_text = malloc(g->dfa->n_states * sizeof *g->enter_text);
        g->only_text = malloc(g->dfa->n_states);
        if (!g->enter || !g->enter_text || !g->only_text)
            rc = err_set(e, Q_ENOMEM, "out of memory");
    }
    if (rc) {
        grammar_free(g);
        return rc;
    }
    memcpy(g->mark, mark, n_mark * sizeof *mark);
    g->n_mark = n_mark;
    g->sub = sub;
    g->n_sub = n_sub;
    find_entries(g);
    *out = g;
    return 0;
}

/* ---- steps ---- */

bool frame_is_open(const struct grammar *g, const struct gram_state *st)
{
    const struct frame_sub *t = gram_text(g, st);
    if (t)
        return t->open && t->open[st->tq];
    return g->open && st->sub == GRAM_NONE && g->open[st->q];
}

static void enter(const struct grammar *g, struct gram_state *st, uint32_t k)
{
    st->sub = k;
    st->tq = g->sub[k].d->start;
    memset(&st->u, 0, sizeof st->u);
}

static void arrive(const struct grammar *g, struct gram_state *st)
{
    if (st->sub == GRAM_NONE && st->u.left == 0 && g->only_text[st->q])
        enter(g, st, g->enter_text[st->q]);
}

/* The value or text is complete. */
static void leave(const struct grammar *g, struct gram_state *st)
{
    st->q = dfa_next(g->dfa, st->q, FRAME_SUB + st->sub);
    st->sub = GRAM_NONE;
    arrive(g, st);
}

static void leave_text(const struct grammar *g, struct gram_state *st)
{
    if (g->sub[st->sub].d->accept[st->tq])
        leave(g, st);
}

/* Free text takes any bytes: what is no UTF-8 counts as U+FFFD. */
static bool open_step(const struct grammar *g, struct gram_state *st, uint8_t b)
{
    const struct frame_sub *t = gram_text(g, st);
    const struct dfa *d = t ? t->d : g->dfa;
    uint32_t *q = t ? &st->tq : &st->q;
    bool inside = st->u.left > 0;
    int k = gram_utf8_step(&st->u, b);
    if (k == 0)
        return true;
    *q = dfa_next(d, *q, k > 0 ? st->u.cp : 0xFFFD);
    if (k > 0)
        return *q != 0;
    memset(&st->u, 0, sizeof st->u);
    /* The byte that broke a character may begin the next one. */
    return inside && frame_is_open(g, st) ? open_step(g, st, b) : *q != 0;
}

static bool text_step(const struct grammar *g, struct gram_state *st, uint8_t b)
{
    bool on = frame_is_open(g, st) ? open_step(g, st, b)
                                   : gram_dfa_step(g->sub[st->sub].d, &st->tq, &st->u, b);
    if (on && st->u.left == 0)
        leave_text(g, st);
    return on;
}

static bool own_step(const struct grammar *g, struct gram_state *st, uint8_t b)
{
    bool on = gram_dfa_step(g->dfa, &st->q, &st->u, b);
    if (on)
        arrive(g, st);
    return on;
}

/* Where text of the frame and a value may begin alike, the frame's comes first; then texts. */
bool frame_step(const struct grammar *g, struct gram_state *st, uint8_t b)
{
    if (gram_text(g, st))
        return text_step(g, st, b);
    if (st->sub == GRAM_NONE) {
        uint32_t q = st->q, k = g->enter[q], text = g->enter_text[q];
        if (frame_is_open(g, st)) {
            bool on = open_step(g, st, b);
            arrive(g, st);
            return on;
        }
        if (st->u.left || (k == GRAM_NONE && text == GRAM_NONE))
            return own_step(g, st, b);
        if (own_step(g, st, b))
            return true;
        st->q = q;
        if (text != GRAM_NONE) {
            enter(g, st, text);
            if (text_step(g, st, b))
                return true;
        }
        memset(&st->u, 0, sizeof st->u);
        st->q = q;
        st->sub = k;
        if (k == GRAM_NONE || !srun_init(g->sub[k].s, &st->s)) {
            st->sub = GRAM_NONE;
            return false;
        }
    } else if (srun_leave(g->sub[st->sub].s, &st->s, b)) {
        leave(g, st);
        return frame_step(g, st, b); /* as text of the frame: values don't stand side by side */
    }
    if (!srun_step(g->sub[st->sub].s, &st->s, b))
        return false;
    if (st->s.lex == LX_DONE)
        leave(g, st);
    return true;
}

bool frame_can_stop(const struct grammar *g, const struct gram_state *st,
                    struct gram_state *scratch)
{
    if (gram_text(g, st))
        return false;
    if (st->sub != GRAM_NONE) /* a number at the end of the text */
        return g->dfa->accept[dfa_next(g->dfa, st->q, FRAME_SUB + st->sub)] &&
               srun_can_stop(g->sub[st->sub].s, &st->s, &scratch->s);
    return (st->u.left == 0 || frame_is_open(g, st)) && g->dfa->accept[st->q];
}

/* ---- control tokens ---- */

/* The state behind mark m: of the frame, or of the text in *sub. 0: it may not come. */
static uint32_t behind_mark(const struct grammar *g, const struct gram_state *st, uint32_t m,
                            uint32_t *sub)
{
    const struct frame_sub *t = gram_text(g, st);
    uint32_t q = st->q;
    *sub = st->sub;
    if (st->u.left)
        return 0;
    if (t)
        return dfa_next(t->d, st->tq, FRAME_MARK + m);
    if (st->sub != GRAM_NONE) { /* behind a number */
        struct sstate copy;
        if (st->s.lex != LX_NUM || st->s.depth != 1 ||
            !srun_number_ends(g->sub[st->sub].s, &st->s, &copy))
            return 0;
        q = dfa_next(g->dfa, q, FRAME_SUB + st->sub);
    }
    *sub = GRAM_NONE;
    uint32_t to = dfa_next(g->dfa, q, FRAME_MARK + m);
    if (to || g->enter_text[q] == GRAM_NONE)
        return to;
    *sub = g->enter_text[q];
    return dfa_next(g->sub[*sub].d, g->sub[*sub].d->start, FRAME_MARK + m);
}

bool frame_may_mark(const struct grammar *g, const struct gram_state *st, uint32_t m)
{
    uint32_t sub;
    return behind_mark(g, st, m, &sub) != 0;
}

bool frame_take_mark(const struct grammar *g, struct gram_state *st, uint32_t m)
{
    uint32_t sub, to = behind_mark(g, st, m, &sub);
    if (!to)
        return false;
    if (sub != GRAM_NONE) {
        st->sub = sub;
        st->tq = to;
        leave_text(g, st);
    } else {
        st->sub = GRAM_NONE;
        st->q = to;
        arrive(g, st);
    }
    return true;
}
