/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/grammar.h"
#include "worker/text/mask_int.h"

#include <stdlib.h>
#include <string.h>

static int new_grammar(struct grammar **out, enum grammar_kind kind, struct err *e)
{
    *out = calloc(1, sizeof **out);
    if (!*out)
        return err_set(e, Q_ENOMEM, "out of memory");
    (*out)->kind = kind;
    return 0;
}

void grammar_free(struct grammar *g)
{
    if (!g)
        return;
    sgram_free(g->schema);
    dfa_free(g->dfa);
    gbnf_free(g->gbnf);
    for (uint32_t i = 0; i < g->n_sub; i++)
        frame_sub_fini(&g->sub[i]);
    free(g->sub);
    free(g->enter);
    free(g->enter_text);
    free(g->only_text);
    free(g->cross);
    free(g->open);
    free(g);
}

static size_t dfa_bytes(const struct dfa *d)
{
    return d ? (size_t)d->n_states * (d->n_classes * 4U + 9U + sizeof *d->wide) + d->n_bounds * 6U
             : 0;
}

static size_t sgram_bytes(const struct sgram *g)
{
    size_t n = sizeof *g + g->n_node * (sizeof *g->node + 6 * sizeof *g->least) +
               g->n_kid * sizeof *g->kid + g->n_key_node * sizeof *g->key_node;
    for (uint32_t i = 0; i < g->n_str; i++)
        n += sizeof *g->str + dfa_bytes(g->str[i].d);
    for (uint32_t i = 0; i < g->n_num; i++)
        n += sizeof *g->num + g->num[i].n_in * sizeof *g->num[i].in;
    for (uint32_t i = 0; i < g->n_arr; i++)
        n += sizeof *g->arr + g->arr[i].n_prefix * 4U;
    for (uint32_t i = 0; i < g->n_obj; i++)
        n += sizeof *g->obj + dfa_bytes(g->obj[i].d) +
             (g->obj[i].d ? (size_t)g->obj[i].d->n_states * (g->obj[i].words * 8U + 2U) : 0);
    return n;
}

size_t grammar_bytes(const struct grammar *g)
{
    size_t n = sizeof *g + dfa_bytes(g->dfa);
    if (g->schema)
        n += sgram_bytes(g->schema);
    if (g->gbnf)
        n += g->gbnf->a.cap * sizeof *g->gbnf->a.s + g->gbnf->a.rng_cap * sizeof *g->gbnf->a.rng +
             4096U * sizeof *g->gbnf->start + g->gbnf->n_bounds * 5U;
    for (uint32_t i = 0; i < g->n_sub; i++) {
        n += g->sub[i].s ? sgram_bytes(g->sub[i].s) : 0;
        n += dfa_bytes(g->sub[i].d) + (g->sub[i].open ? g->sub[i].d->n_states : 0);
    }
    return n + (g->enter ? g->dfa->n_states * 9U : 0) + (g->open ? g->dfa->n_states : 0) +
           g->n_cross * sizeof *g->cross;
}

static int init_state(const struct grammar *g, struct gram_state *st)
{
    memset(st, 0, offsetof(struct gram_state, s));
    st->sub = GRAM_NONE;
    switch (g->kind) {
    case GRAMMAR_SCHEMA:
        return srun_init(g->schema, &st->s) ? 0 : Q_EINVAL;
    case GRAMMAR_GBNF:
        return gbnf_init(g->gbnf, &st->b) ? 0 : Q_EINVAL;
    default:
        st->q = g->dfa->start;
        return st->q ? 0 : Q_EINVAL;
    }
}

/* Give the grammar away only if some text can begin. */
static int finish(struct grammar **out, struct grammar *g, int rc, struct err *e)
{
    *out = NULL;
    struct gram_state *st = rc ? NULL : malloc(2 * sizeof *st);
    if (rc == 0 && !st)
        rc = err_set(e, Q_ENOMEM, "out of memory");
    if (rc == 0 && init_state(g, st))
        rc = err_set(e, Q_EINVAL, "no text can satisfy it");
    if (rc == 0) {
        bool any = gram_can_stop(g, st, st + 1);
        for (unsigned b = 0; b < 256 && !any; b++) {
            gram_copy(g, st + 1, st);
            any = gram_step(g, st + 1, (uint8_t)b);
        }
        for (uint32_t k = 0; k < g->n_mark && !any; k++)
            any = frame_may_mark(g, st, k);
        if (!any)
            rc = err_set(e, Q_EINVAL, "no text can satisfy it");
    }
    free(st);
    if (rc)
        grammar_free(g);
    else
        *out = g;
    return rc;
}

int grammar_compile_schema(struct grammar **out, const struct jv *schema,
                           const struct grammar_options *opt, struct err *e)
{
    struct grammar *g;
    int rc = new_grammar(&g, GRAMMAR_SCHEMA, e);
    if (rc == 0)
        rc = sgram_compile(&g->schema, schema, opt, e);
    return finish(out, g, rc, e);
}

int grammar_compile_json_object(struct grammar **out, const struct grammar_options *opt,
                                struct err *e)
{
    static const char text[] = "{\"type\":\"object\"}";
    struct jv *schema = NULL;
    int rc = jv_parse(&schema, text, sizeof text - 1, 4, e);
    *out = NULL;
    if (rc == 0)
        rc = grammar_compile_schema(out, schema, opt, e);
    jv_free(schema);
    return rc;
}

int grammar_compile_gbnf(struct grammar **out, const char *text, size_t n, struct err *e)
{
    struct grammar *g;
    int rc = new_grammar(&g, GRAMMAR_GBNF, e);
    if (rc == 0)
        rc = gbnf_compile(&g->gbnf, text, n, e);
    return finish(out, g, rc, e);
}

int grammar_compile_regex(struct grammar **out, const char *text, size_t n, struct err *e)
{
    struct grammar *g;
    struct nfa a = {0};
    struct nfa_frag f;
    int rc = new_grammar(&g, GRAMMAR_DFA, e);
    if (rc == 0 && (rc = gram_regex(&a, text, n, false, &f, e)) == 0 &&
        (rc = nfa_accept(&a, f, 0, e)) == 0)
        rc = dfa_build_wide(&g->dfa, &a, f.in, e);
    nfa_fini(&a);
    return finish(out, g, rc, e);
}

int grammar_compile_choice(struct grammar **out, const struct jv *list, struct err *e)
{
    struct grammar *g;
    struct nfa a = {0};
    struct nfa_frag f;
    uint32_t start = GRAM_NONE;
    *out = NULL;
    if (!jv_is(list, JV_ARRAY) || jv_len(list) == 0)
        return err_set(e, Q_EINVAL, "choice is no list of strings");
    int rc = new_grammar(&g, GRAMMAR_DFA, e);
    for (size_t i = 0; i < jv_len(list) && rc == 0; i++) {
        const struct jv *v = jv_at(list, i);
        if (!jv_is(v, JV_STRING))
            rc = err_set(e, Q_EINVAL, "choice is no list of strings");
        else if ((rc = nfa_text(&a, jv_str(v, ""), jv_str_len(v), &f, e)) == 0 &&
                 (rc = nfa_accept(&a, f, 0, e)) == 0)
            rc = nfa_join(&a, &start, f.in, e);
    }
    if (rc == 0)
        rc = dfa_build_wide(&g->dfa, &a, start, e);
    nfa_fini(&a);
    return finish(out, g, rc, e);
}

/* ---- matchers of text ---- */
bool gram_dfa_step(const struct dfa *d, uint32_t *q, struct gram_utf8 *u, uint8_t b)
{
    uint32_t lo, hi;
    int k = gram_utf8_step(u, b);
    if (k > 0)
        *q = dfa_next(d, *q, u->cp);
    if (k != 0)
        return k > 0 && *q;
    gram_utf8_span(u, &lo, &hi);
    return dfa_alive(d, *q, lo, hi);
}

/* ---- states ---- */
void gram_copy(const struct grammar *g, struct gram_state *to, const struct gram_state *from)
{
    to->q = from->q;
    to->sub = from->sub;
    to->tq = from->tq;
    to->u = from->u;
    if (g->kind == GRAMMAR_GBNF)
        gbnf_copy(&to->b, &from->b);
    else if (gram_schema(g, from))
        sstate_copy(&to->s, &from->s);
}

bool gram_step(const struct grammar *g, struct gram_state *st, uint8_t b)
{
    switch (g->kind) {
    case GRAMMAR_SCHEMA:
        return srun_step(g->schema, &st->s, b);
    case GRAMMAR_GBNF:
        return gbnf_step(g->gbnf, &st->b, b);
    case GRAMMAR_FRAME:
        return frame_step(g, st, b);
    default:
        return gram_dfa_step(g->dfa, &st->q, &st->u, b);
    }
}

bool gram_can_stop(const struct grammar *g, const struct gram_state *st, struct gram_state *scratch)
{
    if (g->kind == GRAMMAR_SCHEMA)
        return srun_can_stop(g->schema, &st->s, &scratch->s);
    if (g->kind == GRAMMAR_GBNF)
        return gbnf_can_stop(&st->b);
    if (g->kind == GRAMMAR_FRAME)
        return frame_can_stop(g, st, scratch);
    return st->u.left == 0 && g->dfa->accept[st->q];
}

/* ---- matchers ---- */
int gmatch_open(struct gmatch **out, const struct grammar *g, const struct grammar_vocab *v,
                struct err *e)
{
    struct gmatch *m = malloc(sizeof *m); /* most of a state is never touched */
    *out = m;
    if (!m)
        return err_set(e, Q_ENOMEM, "out of memory");
    m->g = g;
    m->v = v;
    gmatch_reset(m);
    return 0;
}

void gmatch_close(struct gmatch *m)
{
    free(m);
}

void gmatch_reset(struct gmatch *m)
{
    (void)init_state(m->g, &m->now); /* it worked when the grammar was compiled */
}

void gmatch_copy(struct gmatch *m, const struct gmatch *from)
{
    gram_copy(m->g, &m->now, &from->now);
}

bool gmatch_accept_bytes(struct gmatch *m, const char *p, size_t n, size_t *taken)
{
    size_t i = 0;
    gram_copy(m->g, &m->tmp, &m->now);
    while (i < n && gram_step(m->g, &m->tmp, (uint8_t)p[i]))
        i++;
    if (taken)
        *taken = i;
    if (i < n)
        return false;
    gram_copy(m->g, &m->now, &m->tmp);
    return true;
}

bool gmatch_can_stop(struct gmatch *m)
{
    return gram_can_stop(m->g, &m->now, &m->tmp);
}

bool gmatch_finished(struct gmatch *m)
{
    if (!gmatch_can_stop(m))
        return false;
    for (uint32_t k = 0; m->g->kind == GRAMMAR_FRAME && k < m->g->n_mark; k++)
        if (frame_may_mark(m->g, &m->now, k))
            return false;
    for (unsigned b = 0; b < 256; b++) {
        gram_copy(m->g, &m->tmp, &m->now);
        if (gram_step(m->g, &m->tmp, (uint8_t)b))
            return false;
    }
    return true;
}

bool gmatch_accept_token(struct gmatch *m, uint32_t id)
{
    const struct grammar_vocab *v = m->v;
    if (!v || id >= v->n_vocab)
        return false;
    for (uint32_t k = 0; m->g->kind == GRAMMAR_FRAME && k < m->g->n_mark; k++)
        if (m->g->mark[k] == id && frame_take_mark(m->g, &m->now, k))
            return true;
    if (v->eog[id])
        return gmatch_can_stop(m);
    uint32_t pos = v->pos[id];
    if (pos == GRAM_NONE && m->g->kind == GRAMMAR_FRAME && frame_is_open(m->g, &m->now))
        return true; /* a control token that means nothing here */
    return pos != GRAM_NONE && gmatch_accept_bytes(m, (const char *)v->bytes + v->at[pos],
                                                   v->at[pos + 1] - v->at[pos], NULL);
}
