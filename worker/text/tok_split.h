/* SPDX-License-Identifier: Apache-2.0 */
/* tok_split.h - cut a text into the pieces that a tokeniser's model sees, by a list of steps,
 * each cutting the pieces of the one before: the pre-tokenisers of tokenizer.json, and those
 * that GGUF names. Linear in the text. Constant once built, any thread. Needs uni_init. */
#ifndef QUIRE_TEXT_TOK_SPLIT_H
#define QUIRE_TEXT_TOK_SPLIT_H

#include "worker/text/tok_pre.h"
#include "worker/text/tok_regex.h"

#define SPLIT_MAX 16U

/* What becomes of the parts that a pattern matches. */
enum split_how {
    SPLIT_REMOVED,
    SPLIT_ISOLATED,
    SPLIT_WITH_PREVIOUS,
    SPLIT_WITH_NEXT,
    SPLIT_TOGETHER
};

enum split_kind {
    SPLIT_SCAN,      /* a hand-written scanner (tok_pre.h) */
    SPLIT_REGEX,     /* rx */
    SPLIT_TEXT,      /* every occurrence of text */
    SPLIT_SPACE,     /* each character of whitespace */
    SPLIT_PUNCT,     /* each character of ASCII's or Unicode's punctuation */
    SPLIT_NUMBER,    /* each numeric character */
    SPLIT_SCRIPT,    /* where the script changes */
    SPLIT_METASPACE, /* spaces become `text`; one is put before the text (scheme) */
    SPLIT_PREFIX,    /* a space before a piece that has none */
    SPLIT_MAP,       /* bytes become characters, as byte-level vocabularies write them */
    SPLIT_UNMAP      /* and back */
};

enum split_scheme { SPLIT_NEVER, SPLIT_FIRST, SPLIT_ALWAYS };

struct split_step {
    enum split_kind kind;
    enum split_how how;
    bool invert; /* what does not match counts as matching */
    enum split_scheme scheme;
    const struct tok_pre *pre;
    struct rx *rx; /* owned */
    char *text;    /* owned */
    size_t n_text;
};

struct tok_split {
    struct split_step step[SPLIT_MAX];
    unsigned n;
};
void split_close(struct tok_split *sp); /* frees it; NULL is fine */

/* Working memory of one caller. Zero-initialise. */
struct split_work {
    struct rx_text rx[SPLIT_MAX];
    struct buf text[SPLIT_MAX];
};
void split_work_fini(struct split_work *w);

/* Does a step put a mark before the first piece of a text only? */
bool split_puts_first(const struct tok_split *sp);

/* Are marks put between characters that stand for bytes? */
bool split_marks_bytes(const struct tok_split *sp);

/* Emit the pieces of s[0..n); first: it is the beginning of the whole text. */
Q_MUST_CHECK int split_run(const struct tok_split *sp, struct split_work *w, const char *s,
                           size_t n, bool first, pre_emit_fn *emit, void *ctx, struct err *e);

/* A list of expressions one after the other (pre_regexes); NULL in *out on failure. */
Q_MUST_CHECK int split_open_pre(struct tok_split **out, const struct tok_pre *pre, struct err *e);

#endif
