/* SPDX-License-Identifier: Apache-2.0 */
/* tok_hf.h - the parts of a tokenizer.json, turned into a tokeniser's steps. Shared by the
 * tok_hf*.c files only.
 *
 * What the file names and this program does not do is refused by name. Truncation and padding are
 * settings of a batch, not of a vocabulary: they are left to who makes batches. */
#ifndef QUIRE_TEXT_TOK_HF_H
#define QUIRE_TEXT_TOK_HF_H

#include "base/json.h"
#include "worker/text/tok_impl.h"

/* "normalizer": t->norm. */
Q_MUST_CHECK int hf_normalizer(struct tokenizer *t, const struct jv *v, bool *byte_level,
                               struct err *e);
/* "pre_tokenizer": t->split. byte_level: in, the normaliser has mapped bytes; out, something has.
 */
Q_MUST_CHECK int hf_pre_tokenizer(struct tokenizer *t, const struct jv *v, bool *byte_level,
                                  struct err *e);
/* The model works on bytes after all: take the mapping out of the steps, or undo it behind the
 * last one. in_norm: it stands in the normaliser. */
Q_MUST_CHECK int hf_split_to_bytes(struct tokenizer *t, bool in_norm, struct err *e);
/* "post_processor": ids around a text. */
Q_MUST_CHECK int hf_post_processor(struct tokenizer *t, const struct jv *v, struct err *e);
/* "decoder": t->bytes and t->deco, from the texts of all tokens. */
Q_MUST_CHECK int hf_decoder(struct tokenizer *t, const struct jv *v, struct err *e);
/* Is it ByteLevel and nothing else? */
bool hf_decoder_is_bytes(const struct jv *v);

/* A copy of a string value, NULL with e set if there is no memory. */
char *hf_copy(const struct jv *v, size_t *n, struct err *e);
const char *hf_type(const struct jv *v);

#endif
