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
    free(g);
}

static int init_state(const struct grammar *g, union gram_state *st)
{
    switch (g->kind) {
    case GRAMMAR_SCHEMA:
        return srun_init(g->schema, &st->s) ? 0 : Q_EINVAL;
    case GRAMMAR_DFA:
        memset(&st->d, 0, sizeof st->d);
        st->d.q = g->dfa->start;
        return st->d.q ? 0 : Q_EINVAL;
    default:
        return gbnf_init(g->gbnf, &st->b) ? 0 : Q_EINVAL;
    }
}

/* Give the grammar away only if some text can begin. */
static int finish(struct grammar **out, struct grammar *g, int rc, struct err *e)
{
    *out = NULL;
    union gram_state *st = rc ? NULL : malloc(2 * sizeof *st);
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
        rc = dfa_build(&g->dfa, &a, f.in, e);
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
        rc = dfa_build(&g->dfa, &a, start, e);
    nfa_fini(&a);
    return finish(out, g, rc, e);
}

/* ---- states ---- */
void gram_copy(const struct grammar *g, union gram_state *to, const union gram_state *from)
{
    if (g->kind == GRAMMAR_SCHEMA)
        sstate_copy(&to->s, &from->s);
    else if (g->kind == GRAMMAR_DFA)
        to->d = from->d;
    else
        gbnf_copy(&to->b, &from->b);
}

bool gram_step(const struct grammar *g, union gram_state *st, uint8_t b)
{
    uint32_t lo, hi;
    if (g->kind == GRAMMAR_SCHEMA)
        return srun_step(g->schema, &st->s, b);
    if (g->kind == GRAMMAR_GBNF)
        return gbnf_step(g->gbnf, &st->b, b);
    int k = gram_utf8_step(&st->d.u, b);
    if (k > 0)
        st->d.q = dfa_next(g->dfa, st->d.q, st->d.u.cp);
    if (k != 0)
        return k > 0 && st->d.q;
    gram_utf8_span(&st->d.u, &lo, &hi);
    return dfa_alive(g->dfa, st->d.q, lo, hi);
}

bool gram_can_stop(const struct grammar *g, const union gram_state *st, union gram_state *scratch)
{
    if (g->kind == GRAMMAR_SCHEMA)
        return srun_can_stop(g->schema, &st->s, &scratch->s);
    if (g->kind == GRAMMAR_GBNF)
        return gbnf_can_stop(&st->b);
    return st->d.u.left == 0 && g->dfa->accept[st->d.q];
}

/* ---- matchers ---- */
int gmatch_open(struct gmatch **out, const struct grammar *g, const struct grammar_vocab *v,
                struct err *e)
{
    struct gmatch *m = calloc(1, sizeof *m);
    *out = NULL;
    if (m) {
        m->g = g;
        m->v = v;
        /* Pages of states that no walk reaches are never touched. */
        m->now = malloc((v ? MASK_MAX_TOKEN * 2 + 8 : 2) * sizeof *m->now);
        m->saved = malloc(sizeof *m->saved);
        m->tok = v ? calloc(v->tok_words + 1, sizeof *m->tok) : NULL;
        m->rest_ok = v ? calloc(v->rests.n_str / 64 + 1, sizeof *m->rest_ok) : NULL;
    }
    if (!m || !m->now || !m->saved || (v && (!m->tok || !m->rest_ok))) {
        gmatch_close(m);
        return err_set(e, Q_ENOMEM, "out of memory");
    }
    gmatch_reset(m);
    *out = m;
    return 0;
}

void gmatch_close(struct gmatch *m)
{
    if (!m)
        return;
    free(m->now);
    free(m->saved);
    free(m->tok);
    free(m->rest_ok);
    free(m);
}

void gmatch_reset(struct gmatch *m)
{
    (void)init_state(m->g, m->now); /* it worked when the grammar was compiled */
}

void gmatch_copy(struct gmatch *m, const struct gmatch *from)
{
    gram_copy(m->g, m->now, from->now);
}

bool gmatch_accept_bytes(struct gmatch *m, const char *p, size_t n, size_t *taken)
{
    union gram_state *tmp = m->now + 1;
    size_t i = 0;
    gram_copy(m->g, tmp, m->now);
    while (i < n && gram_step(m->g, tmp, (uint8_t)p[i]))
        i++;
    if (taken)
        *taken = i;
    if (i < n)
        return false;
    gram_copy(m->g, m->now, tmp);
    return true;
}

bool gmatch_can_stop(struct gmatch *m)
{
    return gram_can_stop(m->g, m->now, m->now + 1);
}

bool gmatch_accept_token(struct gmatch *m, uint32_t id)
{
    const struct grammar_vocab *v = m->v;
    if (!v || id >= v->n_vocab)
        return false;
    if (v->eog[id])
        return gmatch_can_stop(m);
    uint32_t pos = v->pos[id];
    return pos != GRAM_NONE && gmatch_accept_bytes(m, (const char *)v->bytes + v->at[pos],
                                                   v->at[pos + 1] - v->at[pos], NULL);
}
