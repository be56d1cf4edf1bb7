/* SPDX-License-Identifier: Apache-2.0 */
/* tok_regex.h - the regular expressions by which tokenisers cut text.
 *
 * Oniguruma's syntax as tokenizer.json files use it, with its meaning: the leftmost match, of
 * those that start there the one that backtracking would find first. A pattern is turned whole
 * into a table of states when it is opened, so matching is one look-up a character, nothing is
 * allocated and nothing backtracks. Look-ahead and look-behind of one character are part of the
 * table; longer ones are found for all positions by a pass of their own over the text.
 *
 * Not built, refused by name: back references, atomic and possessive groups (possessive single
 * characters work), conditionals, look-around within look-around beyond one character.
 * Needs uni_init. An opened pattern is constant: any thread. */
#ifndef QUIRE_TEXT_TOK_REGEX_H
#define QUIRE_TEXT_TOK_REGEX_H

#include "base/buf.h"

struct rx;

/* Q_EINVAL: no regular expression; Q_EUNSUPPORTED: something that is not built, or a pattern whose
 * table would be too large. */
Q_MUST_CHECK int rx_open(struct rx **out, const char *pattern, size_t n, struct err *e);
void rx_close(struct rx *rx);

/* A text being searched; memory is kept from text to text. Zero-initialise. */
struct rx_text {
    const char *s;
    size_t n;
    uint8_t *looks; /* what long look-arounds say at each position */
    size_t cap;
    size_t steps; /* left before the search gives up: some patterns take quadratic time */
};
Q_MUST_CHECK int rx_text_set(struct rx_text *t, const struct rx *rx, const char *s, size_t n,
                             struct err *e);
void rx_text_fini(struct rx_text *t);

/* The first match at or after `from`: 1 and *start, *end; 0: none; negative: it takes too long. */
int rx_find(const struct rx *rx, struct rx_text *t, size_t from, size_t *start, size_t *end);

#endif
