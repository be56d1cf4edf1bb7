/* SPDX-License-Identifier: Apache-2.0 */
/* grammar.h - constrained output: which token may come next.
 *
 * A grammar is compiled from text that a stranger wrote: a JSON schema, a GBNF grammar, a
 * regex or a list of choices. Size, states and work of a compile are bounded; what is not
 * supported is refused by name (Q_EUNSUPPORTED: keyword and JSON pointer), never ignored, so
 * no text that breaks the schema is ever accepted.
 *
 * A grammar is immutable and may be shared by threads. A grammar_vocab is built once per
 * tokenizer, immutable too. A gmatch is the state of one sequence, used by one thread at a
 * time; it follows bytes, so tokens may cross every boundary of the grammar. Its state depends
 * on the accepted bytes only: replaying the tokens rebuilds it. Grammar and vocabulary must
 * outlive it. */
#ifndef QUIRE_TEXT_GRAMMAR_H
#define QUIRE_TEXT_GRAMMAR_H

#include "base/json.h"
#include "worker/text/tokenizer.h"

struct grammar;
struct grammar_vocab;
struct gmatch;
struct gmask_scratch;

struct grammar_options {
    bool closed;     /* objects without additionalProperties take declared names only, in order */
    unsigned max_ws; /* characters of white space in a row; 0: 20 */
    bool tight;      /* of these only one space, or a line break and indentation; short numbers */
};

/* Each: 0 and *out, or Q_EINVAL (malformed, unsatisfiable), Q_EUNSUPPORTED (by name), Q_ENOMEM
 * (over a bound). opt may be NULL. The schema tree is only read during the call. */
Q_MUST_CHECK int grammar_compile_schema(struct grammar **out, const struct jv *schema,
                                        const struct grammar_options *opt, struct err *e);
/* Any JSON object. */
Q_MUST_CHECK int grammar_compile_json_object(struct grammar **out,
                                             const struct grammar_options *opt, struct err *e);
/* Start rule `root`; left recursion is refused. */
Q_MUST_CHECK int grammar_compile_gbnf(struct grammar **out, const char *text, size_t n,
                                      struct err *e);
/* Anchored at both ends. */
Q_MUST_CHECK int grammar_compile_regex(struct grammar **out, const char *text, size_t n,
                                       struct err *e);
/* A non-empty array of strings. */
Q_MUST_CHECK int grammar_compile_choice(struct grammar **out, const struct jv *list, struct err *e);
void grammar_free(struct grammar *g);          /* NULL is fine */
size_t grammar_bytes(const struct grammar *g); /* memory it holds, roughly */

/* The tokens' bytes in a trie. Control tokens other than those that end a generation are never
 * allowed. The tokenizer may be closed afterwards. */
Q_MUST_CHECK int grammar_vocab_open(struct grammar_vocab **out, const struct tokenizer *t,
                                    struct err *e);
void grammar_vocab_close(struct grammar_vocab *v);
uint32_t grammar_vocab_size(const struct grammar_vocab *v);
/* The text of a token, control tokens included. */
const char *grammar_vocab_text(const struct grammar_vocab *v, uint32_t id, size_t *n);
/* The control token with this text, or TOKEN_NONE. */
uint32_t grammar_vocab_control(const struct grammar_vocab *v, const char *text);

/* v may be NULL: then only bytes can be accepted. */
Q_MUST_CHECK int gmatch_open(struct gmatch **out, const struct grammar *g,
                             const struct grammar_vocab *v, struct err *e);
void gmatch_close(struct gmatch *m);
void gmatch_reset(struct gmatch *m);
/* Make m equal to another matcher of the same grammar and vocabulary. */
void gmatch_copy(struct gmatch *m, const struct gmatch *from);

/* Take bytes; false if they don't fit, and the state is as before. *taken (may be NULL): how
 * many fitted. */
bool gmatch_accept_bytes(struct gmatch *m, const char *p, size_t n, size_t *taken);
/* Take one token; one that ends generation fits where the text may stop and changes nothing. */
bool gmatch_accept_token(struct gmatch *m, uint32_t id);
/* Is the text complete as it is? */
bool gmatch_can_stop(struct gmatch *m);

/* May every token come, but for those that end a generation where the text may not stop? Then
 * there is no need for a mask. */
bool gmatch_is_free(const struct gmatch *m);

/* Is the text complete and nothing but a token that ends generation can follow? */
bool gmatch_finished(struct gmatch *m);

/* Memory to fill masks with, for one thread at a time and any matcher of the vocabulary. */
Q_MUST_CHECK int gmask_scratch_open(struct gmask_scratch **out, const struct grammar_vocab *v,
                                    struct err *e);
void gmask_scratch_close(struct gmask_scratch *w); /* NULL is fine */
/* Bit id of mask is set when accept_token(id) would succeed. mask has (n_vocab + 63) / 64
 * words, all overwritten. Returns how many bits are set. */
size_t gmatch_fill_mask(struct gmatch *m, struct gmask_scratch *w, uint64_t *mask);

#endif
