/* SPDX-License-Identifier: Apache-2.0 */
/* gram_gbnf.h - GBNF grammars: one automaton a rule, with calls, followed by a set of stacks. */
#ifndef QUIRE_TEXT_GRAM_GBNF_H
#define QUIRE_TEXT_GRAM_GBNF_H

#include "worker/text/gram_int.h"

#define GBNF_THREADS 256U
#define GBNF_STACK   1536U

#define GBNF_ENDLESS (1U << 24)

#define GBNF_CLASSES 192U

struct gbnf {
    struct nfa a;
    uint32_t *start; /* by rule */
    uint32_t *least; /* by state: fewest characters to the end of its rule, or GBNF_ENDLESS */
    uint32_t n_rules, root;
    uint64_t serial; /* no other grammar of this process has it */
    /* Characters that no state tells apart; no class at all: they are too many. */
    uint32_t n_classes, n_bounds;
    uint32_t *bound; /* intervals: bound[i] .. bound[i+1]-1 */
    uint8_t *bound_class, ascii[128];
    uint32_t rep[GBNF_CLASSES];            /* one character of each */
    struct gram_bytes touch[GBNF_CLASSES]; /* how those of each begin */
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
/* The same with a whole character; st is between two. */
bool gbnf_take(const struct gbnf *g, struct gbnf_state *st, uint32_t cp);
bool gbnf_can_stop(const struct gbnf_state *st);
/* Fewest characters from a thread of st to the end of the text, or GBNF_ENDLESS. */
uint32_t gbnf_least(const struct gbnf *g, const struct gbnf_state *st, struct gbnf_thread t);
void gbnf_copy(struct gbnf_state *to, const struct gbnf_state *from);

/* ---- gram_gbnf_class.c ---- */
Q_MUST_CHECK int gbnf_classes(struct gbnf *g, struct err *e);
uint32_t gbnf_class(const struct gbnf *g, uint32_t cp);

#endif
