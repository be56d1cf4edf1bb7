/* SPDX-License-Identifier: Apache-2.0 */
/* gram_free.h - free text until a mark, as a part of an automaton; inside grammar compilation
 * only. */
#ifndef QUIRE_TEXT_GRAM_FREE_H
#define QUIRE_TEXT_GRAM_FREE_H

#include "worker/text/gram_int.h"

#define FREE_MAX_EXIT 16U
#define FREE_MAX_TEXT 64U

/* A mark that ends free text: characters, pseudo-characters of control tokens among them. */
struct free_exit {
    uint32_t cp[FREE_MAX_TEXT], n;
    uint32_t to; /* the state behind the mark */
};

struct free_text {
    uint32_t at; /* its state: an EPS whose way out is still open */
    const struct free_exit *exits;
    size_t n_exits;
    bool may_end; /* the text may stop anywhere in it */
    /* Another such state, or GRAM_NONE, that is no free text: the character `first` goes to
     * first_to and white space stays there (first 0: nothing of this), what is in `bars` (ASCII;
     * may be NULL) does not fit, all else is as at `at`. */
    uint32_t start, first, first_to;
    const char *bars;
};

/* Any text from `at` on; where a mark is complete it goes on at `to`, which may be `at` again. */
Q_MUST_CHECK int nfa_free(struct nfa *a, const struct free_text *f, struct err *e);
/* Find the states of free text in a frame and its texts, and those where every token of v fits. */
Q_MUST_CHECK int frame_open(struct grammar *g, const struct grammar_vocab *v, struct err *e);

#endif
