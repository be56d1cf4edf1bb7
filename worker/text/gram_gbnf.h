/* SPDX-License-Identifier: Apache-2.0 */
/* gram_gbnf.h - GBNF grammars: one automaton a rule, with calls, followed by a set of stacks. */
#ifndef QUIRE_TEXT_GRAM_GBNF_H
#define QUIRE_TEXT_GRAM_GBNF_H

#include "worker/text/gram_int.h"

#define GBNF_THREADS 256U
#define GBNF_STACK   1536U

#define GBNF_ENDLESS (1U << 24)

struct gbnf {
    struct nfa a;
    uint32_t *start; /* by rule */
    uint32_t *least; /* by state: fewest characters to the end of its rule, or GBNF_ENDLESS */
    uint32_t n_rules, root;
};
struct gbnf_thread {
    uint32_t s, stk; /* a CHAR state, or GRAM_NONE: the text may end here */
};
struct gbnf_state {
    uint32_t n_thr, n_stk;
    struct gram_utf8 u;
    struct gbnf_thread thr[GBNF_THREADS];
    struct {
        uint32_t ret, up;
    } stk[GBNF_STACK]; /* links; up is an earlier one or GRAM_NONE */
};
Q_MUST_CHECK int gbnf_compile(struct gbnf **out, const char *text, size_t n, struct err *e);
void gbnf_free(struct gbnf *g);
bool gbnf_init(const struct gbnf *g, struct gbnf_state *st);
bool gbnf_step(const struct gbnf *g, struct gbnf_state *st, uint8_t byte);
bool gbnf_can_stop(const struct gbnf_state *st);
/* Fewest characters from a thread of st to the end of the text, or GBNF_ENDLESS. */
uint32_t gbnf_least(const struct gbnf *g, const struct gbnf_state *st, struct gbnf_thread t);
void gbnf_copy(struct gbnf_state *to, const struct gbnf_state *from);

#endif
