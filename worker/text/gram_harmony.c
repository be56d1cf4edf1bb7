/* SPDX-License-Identifier: Apache-2.0 */
/* gram_harmony.c - gpt-oss: every message has a header, and the header names who is called. */
#include "worker/text/gram_build.h"

#include <string.h>

#define HARMONY_CALL                                                                               \
    M("<|channel|>")                                                                               \
    "commentary to=functions." NAME " " M("<|constrain|>") "json" M("<|message|>")                 \
        ARGS M("<|call|>")

/* An exit for a mark as the vocabulary has it. */
static int add_exit(struct build *b, struct free_exit *x, size_t *n, const char *text, uint32_t to)
{
    uint32_t mark;
    struct free_exit *one = &x[*n];
    int rc = piece_mark(b, text, &mark);
    *one = (struct free_exit){.to = to};
    if (mark != GRAM_NONE)
        one->cp[one->n++] = mark;
    for (const char *c = text; mark == GRAM_NONE && *c; c++)
        one->cp[one->n++] = (unsigned char)*c;
    *n += 1;
    return rc;
}

/* Control tokens that change nothing where they stand. */
static int add_stays(struct build *b, struct free_exit *x, size_t *n, uint32_t to)
{
    static const char *const marks[] = {"<|channel|>", "<|start|>", "<|constrain|>", "<|end|>"};
    int rc = 0;
    for (size_t i = 0; i < 4 && rc == 0; i++) {
        rc = add_exit(b, x, n, marks[i], to);
        *n -= x[*n - 1].n > 1; /* spelled out */
    }
    return rc;
}

/* "functions.NAME", the rest of the header, the arguments. */
static int put_recipient(struct build *b, uint32_t *head, const char *name, uint32_t sub,
                         uint32_t end)
{
    static const char *const next[] = {" ", M("<|channel|>"), M("<|constrain|>")};
    struct nfa_frag f = {GRAM_NONE, GRAM_NONE}, args = f, at_once = f;
    struct free_exit x[FREE_MAX_EXIT];
    struct free_text rest = {.exits = x, .start = GRAM_NONE};
    uint32_t ways = GRAM_NONE;
    int rc = piece_state(b, &rest.at);
    if (rc == 0)
        rc = piece_form(b, &f, "functions." NAME, name, sub, NULL);
    if (rc == 0)
        rc = piece_form(b, &args, ARGS M("<|call|>"), name, sub, NULL);
    if (rc == 0)
        rc = piece_form(b, &at_once, M("<|message|>"), NULL, 0, NULL);
    for (size_t i = 0; i < 3 && rc == 0; i++) {
        struct nfa_frag w = {GRAM_NONE, GRAM_NONE};
        if ((rc = piece_form(b, &w, next[i], NULL, 0, NULL)) == 0) {
            b->a.s[w.out].x = rest.at;
            rc = nfa_join(&b->a, &ways, w.in, b->e);
        }
    }
    if (rc == 0)
        rc = nfa_join(&b->a, &ways, at_once.in, b->e);
    if (rc == 0)
        rc = add_exit(b, x, &rest.n_exits, "<|message|>", args.in);
    if (rc == 0)
        rc = add_stays(b, x, &rest.n_exits, rest.at);
    if (rc)
        return rc;
    b->a.s[f.out].x = ways;
    b->a.s[at_once.out].x = args.in;
    b->a.s[args.out].x = end;
    rc = nfa_free(&b->a, &rest, b->e);
    return rc ? rc : nfa_join(&b->a, head, f.in, b->e);
}

/* Headers and bodies; the answer begins inside the first header. */
int harmony_within(struct build *b, uint32_t *start)
{
    struct free_exit hx[FREE_MAX_EXIT], bx[FREE_MAX_EXIT];
    struct free_text header = {.exits = hx, .may_end = true, .start = GRAM_NONE};
    struct free_text body = {.exits = bx, .may_end = true, .start = GRAM_NONE};
    uint32_t to = GRAM_NONE, end;
    int rc = piece_state(b, &header.at);
    if (rc == 0)
        rc = piece_state(b, &body.at);
    if (rc == 0)
        rc = nfa_add(&b->a, NFA_ACCEPT, 0, GRAM_NONE, &end, b->e);
    for (uint32_t i = 0; i < b->n_tools && rc == 0; i++)
        rc = put_recipient(b, &to, b->tool[i].name, b->tool[i].sub, end);
    static const char *const opens[] = {"<|channel|>", "<|start|>", "<|end|>"};
    for (size_t i = 0; i < 3 && rc == 0; i++)
        rc = add_exit(b, bx, &body.n_exits, opens[i], header.at);
    if (rc == 0)
        rc = add_exit(b, hx, &header.n_exits, "<|message|>", body.at);
    if (rc == 0)
        rc = add_exit(b, hx, &header.n_exits, "to=", to);
    if (rc == 0)
        rc = add_stays(b, hx, &header.n_exits, header.at);
    *start = header.at;
    if (rc == 0)
        rc = nfa_free(&b->a, &header, b->e);
    return rc ? rc : nfa_free(&b->a, &body, b->e);
}

/* A forced call, once analysis before it. *then: the EPS state behind the analysis. */
int harmony_forced(struct build *b, struct nfa_frag *all, uint32_t *then)
{
    struct nfa_frag open = {GRAM_NONE, GRAM_NONE}, again = open, call = open;
    struct free_exit x[FREE_MAX_EXIT];
    struct free_text text = {.exits = x, .start = GRAM_NONE};
    int rc = piece_state(b, then);
    if (rc == 0)
        rc = piece_state(b, &text.at);
    if (rc == 0)
        rc = piece_form(b, &open, M("<|channel|>") "analysis" M("<|message|>"), NULL, 0, NULL);
    if (rc == 0)
        rc = piece_form(b, &again, M("<|start|>") "assistant", NULL, 0, NULL);
    if (rc == 0)
        rc = tools_call(b, &call, HARMONY_CALL);
    if (rc == 0)
        rc = add_exit(b, x, &text.n_exits, "<|end|>", again.in);
    if (rc == 0)
        rc = nfa_free(&b->a, &text, b->e);
    if (rc == 0)
        rc = nfa_add(&b->a, NFA_SPLIT, open.in, *then, &all->in, b->e);
    if (rc)
        return rc;
    b->a.s[open.out].x = text.at;
    b->a.s[again.out].x = *then;
    b->a.s[*then].x = call.in;
    all->out = call.out;
    return 0;
}
