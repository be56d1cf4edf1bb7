/* SPDX-License-Identifier: Apache-2.0 */
/* tok_norm.h - what happens to a text before it is cut: the normalisers of tokenizer.json and
 * that of SentencePiece.
 *
 * A normaliser is a list of steps, each on the whole text; constant once built, any thread.
 * Needs uni_init. */
#ifndef QUIRE_TEXT_TOK_NORM_H
#define QUIRE_TEXT_TOK_NORM_H

#include "worker/text/tok_regex.h"
#include "worker/text/tok_unicode.h"

/* ---- SentencePiece's table of replacements (precompiled charsmap) ---- */
struct tok_charsmap;
/* Copies the blob after checking it. */
Q_MUST_CHECK int charsmap_open(struct tok_charsmap **out, const void *blob, size_t n,
                               struct err *e);
void charsmap_close(struct tok_charsmap *m);
/* The replacement of the longest (or shortest) entry that s begins with: bytes it replaces, 0 if
 * there is none. *to lives as long as the table. */
size_t charsmap_find(const struct tok_charsmap *m, const char *s, size_t n, bool longest,
                     const char **to, size_t *n_to);

/* ---- SentencePiece's normaliser ---- */
struct tok_sp_norm {
    struct tok_charsmap *map; /* NULL: none; owned by whoever holds this */
    bool dummy_prefix;        /* one space before a text (or after it, where space_after) */
    bool squeeze;             /* runs of spaces become one, those at both ends go */
    bool escape;              /* spaces become U+2581 */
    bool space_after;
};
enum { SP_HEAD = 1, SP_TAIL = 2 }; /* s begins, ends the text: what happens at its ends applies */
Q_MUST_CHECK int sp_normalize(const struct tok_sp_norm *sp, const char *s, size_t n, unsigned ends,
                              struct buf *out);

/* ---- steps of tokenizer.json ---- */
enum norm_kind {
    NORM_NFC,
    NORM_NFD,
    NORM_NFKC,
    NORM_NFKD,
    NORM_LOWER,
    NORM_STRIP_ACCENTS,
    NORM_REPLACE, /* text by to */
    NORM_REPLACE_REGEX,
    NORM_PREPEND,
    NORM_STRIP,
    NORM_BERT,
    NORM_CHARSMAP,
    NORM_NMT,
    NORM_BYTE_LEVEL
};

struct norm_step {
    enum norm_kind kind;
    char *text, *to; /* owned, malloc'ed */
    size_t n_text, n_to;
    struct rx *rx;
    struct tok_charsmap *map;
    bool left, right;                    /* STRIP */
    bool clean, chinese, accents, lower; /* BERT */
};

#define NORM_MAX 24U
struct tok_norm {
    struct norm_step step[NORM_MAX];
    unsigned n;
};
void norm_close(struct tok_norm *m); /* frees it; NULL is fine */

/* Normalise s[0..n): *out points to s itself where nothing changed, else into a or b. moved: what
 * is first now was not at the beginning, the package says, so nothing goes before it. */
Q_MUST_CHECK int norm_run(const struct tok_norm *m, const char *s, size_t n, struct buf *a,
                          struct buf *b, const char **out, size_t *n_out, bool *moved,
                          struct err *e);

/* The character by which byte-level vocabularies write a byte. */
uint32_t byte_char(unsigned char byte);
/* And back: the byte, or -1. */
static inline int byte_of_char(uint32_t cp)
{
    if (cp < 0x100)
        return (cp > 32 && cp < 127) || (cp > 160 && cp != 173) ? (int)cp : -1;
    if (cp <= 0x120)
        return (int)(cp - 0x100);
    if (cp <= 0x142)
        return (int)(cp - 0x121 + 127);
    return cp == 0x143 ? 173 : -1;
}
/* Append s with each byte as its character. */
int byte_chars_put(const char *s, size_t n, struct buf *out);

#endif
