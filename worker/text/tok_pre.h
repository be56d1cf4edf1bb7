/* SPDX-License-Identifier: Apache-2.0 */
/* tok_pre.h - pre-tokenisers: cut text into the pieces within which BPE may merge.
 *
 * Each published split expression is a hand-written scanner over Unicode classes; a
 * pre-tokeniser is one scanner or several that run one after the other, each cutting the
 * pieces left by the former. Linear time on any bytes; invalid UTF-8 counts as characters
 * that are neither letters, numbers nor space. Needs uni_init. Any thread. */
#ifndef QUIRE_TEXT_TOK_PRE_H
#define QUIRE_TEXT_TOK_PRE_H

#include "base/err.h"

#include <stdbool.h>

struct tok_pre;

enum {
    PRE_IGNORE_MERGES = 1, /* a piece that is a token stays whole, whatever the merges say */
    PRE_ADD_BOS = 2,       /* BOS unless the file says otherwise */
    PRE_NFC = 4,           /* text is brought to normal form C first */
    PRE_CHARS = 8          /* tokens are text with U+2581 for spaces, not mapped bytes */
};

/* By the name in tokenizer.ggml.pre; NULL: unknown. */
const struct tok_pre *pre_find(const char *name, size_t n);
/* The scanner that cuts as this regular expression of a tokenizer.json does; NULL: there is none.
 */
const struct tok_pre *pre_find_regex(const char *regex, size_t n);
unsigned pre_flags(const struct tok_pre *p);

/* Rarer pre-tokenisers are expressions, each of which isolates what it matches, to be run before
 * the scanner (if there is one): number i, NULL after the last. */
const char *pre_regex(const struct tok_pre *p, unsigned i);
bool pre_scans(const struct tok_pre *p);

/* Called for every piece in order; n > 0. Not 0 stops and is returned by pre_split, which runs the
 * scanner only. */
typedef int pre_emit_fn(void *ctx, const char *piece, size_t n);
int pre_split(const struct tok_pre *p, const char *s, size_t n, pre_emit_fn *emit, void *ctx);

#endif
