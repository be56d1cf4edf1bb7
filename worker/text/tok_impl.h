/* SPDX-License-Identifier: Apache-2.0 */
/* tok_impl.h - the inside of a tokeniser, shared by the tok_*.c files only.
 *
 * Tokens 0 .. n_vocab-1 are the file's. `n_vocab .. n_all-1` are phantoms (BPE only): strings
 * that a merge produces on the way to a token without being one; they never leave encode.
 * Everything is written while opening and only read afterwards, except `self` (atomic). */
#ifndef QUIRE_TEXT_TOK_IMPL_H
#define QUIRE_TEXT_TOK_IMPL_H

#include "base/hash.h"
#include "worker/text/tok_pre.h"
#include "worker/text/tokenizer.h"

#include <stdatomic.h>
#include <string.h>

#define TOK_MAX_TOKENS  (1U << 24)
#define TOK_MAX_BYTES   ((size_t)256 << 20) /* of all texts together; offsets are 32 bits */
#define TOK_MAX_SPECIAL 1024U               /* bytes of one special token's text */
#define TOK_MAX_INPUT   ((size_t)256 << 20) /* bytes of one text to encode */

enum tok_model { TOK_SPM, TOK_BPE };

/* tokenizer.ggml.token_type */
enum tok_type {
    TOK_NORMAL = 1,
    TOK_UNKNOWN,
    TOK_CONTROL,
    TOK_USER,
    TOK_UNUSED,
    TOK_BYTE,
    TOK_SHOWN /* ours: a control token whose text is always printed */
};

/* Strings in one blob: string i is data[at[i] .. at[i+1]-1), followed by a NUL. */
struct tok_strings {
    struct buf blob;
    uint32_t *at;
    uint32_t n, cap;
};

/* Text to id, open addressing; the strings are those of a tok_strings. */
struct tok_map {
    struct tok_slot {
        uint32_t tag, id;
    } * slots;
    uint32_t mask, used;
};

/* (left id, right id) -> rank and merged id, open addressing. */
struct tok_merge {
    uint32_t left, right; /* left TOKEN_NONE: empty */
    uint32_t rank, merged;
};

struct tokenizer {
    enum tok_model model;
    uint32_t n_vocab, n_all;
    struct tok_strings text;  /* as stored, n_vocab */
    struct tok_strings bytes; /* what a token stands for in text, n_all; BPE's map is over it */
    uint8_t *type;            /* enum tok_type */
    uint8_t *eog;
    struct tok_map map;    /* SPM: over text, BPE: over bytes; no control tokens */
    uint32_t max_piece;    /* longest string in the map, bytes */
    uint32_t byte_id[256]; /* BPE: token or phantom; SPM: byte token or TOKEN_NONE */

    bool by_word;             /* SPM: no token has a space mark after another character */
    uint32_t *order;          /* SPM: sort key of the score, lower merges first */
    struct tok_merge *merges; /* BPE */
    uint32_t merge_mask;
    _Atomic uint8_t *self; /* do the merges give this token for its own text? */
    const struct tok_pre *pre;
    bool ignore_merges, nfc;

    uint32_t *special; /* ids sorted by text */
    uint32_t n_special;
    bool first[2][256];  /* may a special token begin with this byte? [1]: control tokens too */
    bool special_rstrip; /* Phi-3: special tokens take the whitespace after them */

    uint32_t bos, eos, unk;
    bool add_bos, add_eos, add_space_prefix;
};

enum { SELF_NOT_TRIED = 0, SELF_YES, SELF_NO };

static inline const char *tok_str(const struct tok_strings *s, uint32_t i, size_t *n)
{
    *n = s->at[i + 1] - s->at[i] - 1;
    return s->blob.data + s->at[i];
}

/* ---- tok_vocab.c ---- */
Q_MUST_CHECK int tok_strings_add(struct tok_strings *s, const char *p, size_t n, struct err *e);
Q_MUST_CHECK int tok_map_init(struct tok_map *m, uint32_t n_expected, struct err *e);
/* Id of a string, TOKEN_NONE if absent. */
uint32_t tok_map_find(const struct tok_map *m, const struct tok_strings *s, const char *p,
                      size_t n);
/* Keep the first id of equal strings. */
Q_MUST_CHECK int tok_map_put(struct tok_map *m, const struct tok_strings *s, uint32_t id,
                             struct err *e);
/* The same for all of 0 .. n-1 that are wanted, in batches that wait for memory together. */
#define TOK_BATCH 32U
Q_MUST_CHECK int tok_map_put_all(struct tok_map *m, const struct tok_strings *s,
                                 const uint8_t *wanted, uint32_t n, struct err *e);
/* A find in two steps: start fetching the slot; later look. */
uint64_t tok_map_hint(const struct tok_map *m, const char *p, size_t n);
uint32_t tok_map_find_hashed(const struct tok_map *m, const struct tok_strings *s, const char *p,
                             size_t n, uint64_t h);
/* Tokens, types, special ids and flags: what all models share. */
Q_MUST_CHECK int tok_vocab_load(struct tokenizer *t, const struct gguf *g, struct err *e);
/* Longest special token at s[0..n), or TOKEN_NONE. control: also those that only templates
 * may write. */
uint32_t tok_special_match(const struct tokenizer *t, const char *s, size_t n, bool control,
                           size_t *len);

/* ---- tok_list ---- */
int tok_push_slow(struct token_list *l, struct err *e);
static inline int tok_push(struct token_list *l, uint32_t id, struct err *e)
{
    if (l->n == l->cap) {
        int rc = tok_push_slow(l, e);
        if (rc)
            return rc;
    }
    l->ids[l->n++] = id;
    return 0;
}

/* ---- tok_merge.c: merge adjacent symbols, best pair first, leftmost on ties ---- */
struct tok_sym {
    uint32_t pos, len;   /* bytes of the piece; len 0: merged away */
    uint32_t id;         /* TOKEN_NONE: no token */
    uint32_t prev, next; /* TOKEN_NONE: none */
    uint32_t key;        /* of the pair with next; TOK_NO_PAIR: none */
    uint32_t merged;     /* what that pair becomes */
};
#define TOK_NO_PAIR UINT32_MAX

/* Working memory, kept between the pieces of one call. Zero-initialise. */
struct tok_work {
    struct tok_sym *sym;
    uint64_t *heap;
    size_t sym_cap, heap_n, heap_cap;
};
void tok_work_fini(struct tok_work *w);
Q_MUST_CHECK int tok_work_syms(struct tok_work *w, size_t n, struct err *e);

/* Sets a->key and a->merged for the pair (a, b) of the piece. */
typedef void tok_pair_fn(const struct tokenizer *t, const char *piece, struct tok_sym *a,
                         const struct tok_sym *b);
/* w->sym[0..n) hold pos, len and id; merges until no pair is left. The symbols that remain are
 * linked from 0 by next. O(n log n). */
Q_MUST_CHECK int tok_merge_all(const struct tokenizer *t, struct tok_work *w, const char *piece,
                               size_t n, tok_pair_fn *pair, struct err *e);

/* ---- tok_bpe.c, tok_spm.c ---- */
Q_MUST_CHECK int tok_bpe_load(struct tokenizer *t, const struct gguf *g, struct err *e);
Q_MUST_CHECK int tok_bpe_encode(const struct tokenizer *t, const char *s, size_t n,
                                struct tok_work *w, struct token_list *out, struct err *e);
Q_MUST_CHECK int tok_spm_load(struct tokenizer *t, const struct gguf *g, struct err *e);
Q_MUST_CHECK int tok_spm_encode(const struct tokenizer *t, const char *s, size_t n, bool prefix,
                                struct tok_work *w, struct token_list *out, struct err *e);

#endif
