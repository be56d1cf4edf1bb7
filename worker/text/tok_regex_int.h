/* SPDX-License-Identifier: Apache-2.0 */
/* tok_regex_int.h - the steps of compiling a pattern: syntax tree, program, table of states.
 * Shared by the tok_regex*.c files only. */
#ifndef QUIRE_TEXT_TOK_REGEX_INT_H
#define QUIRE_TEXT_TOK_REGEX_INT_H

#include "worker/text/tok_regex.h"

#include <stdint.h>

#define RX_BAD      0x110000U /* stands for a byte that is no character */
#define RX_MAX_SETS 250U
#define RX_MAX_LOOK 3U
#define RX_INF      UINT32_MAX

struct rx_range {
    uint32_t lo, hi;
};
/* Sorted ranges that do not touch. */
struct rx_set {
    struct rx_range *r;
    uint32_t n, cap;
};

/* Sets of characters: tok_regex_set.c. Each int: 0 or Q_ENOMEM, also beyond 20,000 ranges. Adding
 * leaves a set in disorder; tidy sorts and joins its ranges. */
int rx_set_add(struct rx_set *s, uint32_t lo, uint32_t hi);
void rx_set_tidy(struct rx_set *s);
int rx_set_negate(struct rx_set *s);
int rx_set_join(struct rx_set *s, const struct rx_set *more);
int rx_set_intersect(struct rx_set *a, const struct rx_set *b); /* a = a and b; both tidy */
int rx_set_fold(struct rx_set *s); /* add the other cases of what is in the (tidy) set */
/* Add all of a general category: two letters, or one and 0. */
int rx_set_category(struct rx_set *s, char a, char b);
int rx_set_space(struct rx_set *s);               /* what \s means */
int rx_set_word(struct rx_set *s, bool in_class); /* what \w means, or [\w] */
/* Add what a name behind \p or within [: :] means; 1: there is no such name. */
int rx_set_named(struct rx_set *s, const char *name, size_t n, bool posix);

enum rx_kind {
    RX_EMPTY,
    RX_SET,  /* one character of sets[a] */
    RX_CAT,  /* a then b */
    RX_ALT,  /* a, else b */
    RX_REP,  /* a, min to max times */
    RX_NEXT, /* the next character is in sets[a]; neg: is not, or there is none */
    RX_PREV, /* the same of the last one */
    RX_LOOK  /* look a holds here; neg: does not */
};

struct rx_node {
    enum rx_kind kind;
    uint32_t a, b, min, max;
    bool lazy, neg;
};

struct rx_tree {
    struct rx_node *node;
    uint32_t n, cap;
    struct rx_set set[RX_MAX_SETS];
    uint32_t n_set;
    uint32_t root;
    struct {
        uint32_t root;
        bool back; /* look-behind */
    } look[RX_MAX_LOOK];
    uint32_t n_look;
};

Q_MUST_CHECK int rx_parse(struct rx_tree *t, const char *pattern, size_t n, struct err *e);
void rx_tree_fini(struct rx_tree *t);

/* A table of states. Symbols are the classes of characters and one more for the end, each times
 * the combinations of looks. */
struct rx_dfa {
    uint32_t *next;  /* [state * n_sym + symbol]: state << 1 | a match ends before this symbol */
    uint32_t *start; /* by class of the character before, n_class: none */
    uint32_t n_state;
};
#define RX_DEAD 0U

struct rx {
    uint8_t ascii[128]; /* class by character */
    uint16_t page[(RX_BAD >> 8) + 1];
    uint8_t *pages;
    uint32_t n_class; /* also the number of the end of the text */
    uint32_t n_sym;
    uint32_t n_look;
    struct rx_dfa main, look[RX_MAX_LOOK];
    bool look_back[RX_MAX_LOOK];
};

static inline uint32_t rx_class(const struct rx *rx, uint32_t cp)
{
    return rx->pages[(size_t)rx->page[cp >> 8] << 8 | (cp & 0xFF)];
}

/* Fill everything in rx from the tree. */
Q_MUST_CHECK int rx_build(struct rx *rx, const struct rx_tree *t, struct err *e);

#endif
