/* SPDX-License-Identifier: Apache-2.0 */
/* gram_finish.h - how a constrained text can still be ended within a number of tokens.
 *
 * Beside each matcher a way to the end of the text is kept, and its cost in tokens. A token that
 * is about to be taken is looked at: if no way that fits follows it, the first token of the way
 * that is known comes in its place. So a text that could be ended when it began is ended.
 *
 * The way is found by a search over the grammar's own steps that tries first what is short; its
 * steps are bounded, so a way of many kilobytes, or one that many schemas together hide, may be
 * missed: then the text goes on without one. Everything follows from the grammar, the tokens and
 * the budget alone. A gfinish belongs to one matcher and one thread at a time; nothing allocates
 * but gfinish_open. */
#ifndef QUIRE_TEXT_GRAM_FINISH_H
#define QUIRE_TEXT_GRAM_FINISH_H

#include "worker/text/grammar.h"

#define GFINISH_MAX 2048U /* bytes of a way; with more tokens left nothing is kept */

struct gfinish;

/* For the matcher of g and v at its start, with `left` tokens to come. */
Q_MUST_CHECK int gfinish_open(struct gfinish **out, const struct grammar *g,
                              const struct grammar_vocab *v, struct gmatch *m, uint32_t left,
                              struct err *e);
void gfinish_close(struct gfinish *f); /* NULL is fine */

/* Is a way known, and of how many tokens? */
bool gfinish_known(struct gfinish *f, uint32_t *n_tokens);
/* The first token of the way that is known; one that ends generation where nothing is left. */
uint32_t gfinish_first(struct gfinish *f);
/* The token to take instead of `token`, which m would accept: itself if the text can be ended
 * with `left` more tokens, or if no way is known. */
uint32_t gfinish_pick(struct gfinish *f, struct gmatch *m, uint32_t token, uint32_t left);
/* m has accepted `token` (TOKEN_NONE: bytes that were no token of their own), `left` may follow. */
void gfinish_follow(struct gfinish *f, struct gmatch *m, uint32_t token, uint32_t left);

/* The fewest tokens that spell a text, a control token of that name among them; the first of
 * them in *first. UINT32_MAX: there are none, or n is too large. */
uint32_t gfinish_spell(struct gfinish *f, const char *text, size_t n, uint32_t *first);

#endif
