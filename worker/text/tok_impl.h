/* SPDX-License-Identifier: Apache-2.0 */
/* tok_impl.h - the inside of a tokeniser, shared by the tok_*.c files only.
 *
 * Tokens 0 .. n_vocab-1 are the file's. `n_vocab .. n_all-1` are phantoms (BPE only): strings
 * that a merge produces on the way to a token without being one; they never leave encode.
 * Everything is written while opening and only read afterwards, except `self` (atomic). */
#ifndef QUIRE_TEXT_TOK_IMPL_H
#define QUIRE_TEXT_TOK_IMPL_H

#include "base/hash.h"
#include "worker/text/tok_norm.h"
#include "worker/text/tok_pre.h"
#include "worker/text/tok_split.h"
#include "worker/text/tokenizer.h"

#include <stdatomic.h>
#include <string.h>

#define TOK_MAX_TOKENS  (1U << 24)
#define TOK_MAX_BYTES   ((size_t)256 << 20) /* of all texts together; offsets are 32 bits */
#define TOK_MAX_SPECIAL 1024U               /* bytes of one special token's text */
#define TOK_MAX_INPUT   ((size_t)256 << 20) /* bytes of one text to encode */

#define TOK_SPACE_MARK "\xE2\x96\x81" /* U+2581 stands for a space inside tokens */
#define TOK_MAX_AROUND 16U            /* ids added before and after a text */

enum tok_model {
    TOK_SPM,      /* merges by score: SentencePiece BPE */
    TOK_BPE,      /* merges by rank, of bytes */
    TOK_CHAR_BPE, /* merges by rank, of characters */
    TOK_UNIGRAM,
    TOK_WORDPIECE,
    TOK_WORDLEVEL
};

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

/* Texts that become tokens wherever they stand, sorted; texts[k] is the place of text k in
 * `from`. */
struct tok_special {
    const struct tok_strings *from;
    uint32_t *ids, *texts;
    uint32_t n;
    bool first[2][256]; /* may one begin with this byte? [1]: control tokens too */
};

/* How a special token is found, by token. */
enum {
    FLAG_LSTRIP = 1,     /* takes the whitespace before it */
    FLAG_RSTRIP = 2,     /* and after it */
    FLAG_WORD = 4,       /* not inside a word */
    FLAG_NORMALIZED = 8, /* looked for in the normalised text */
    FLAG_ADDED = 16,     /* stands in added_tokens */
    FLAG_MODEL = 32,     /* and in the model's vocabulary */
    FLAG_SPACE = 64      /* its last space goes at the end of a text (deco.hold_some) */
};

/* A trie of bytes for Unigram; the children of a node lie side by side. */
struct tok_trie {
    struct tok_node {
        uint32_t child, id; /* id TOKEN_NONE: no token ends here */
        uint16_t n_child;
        uint8_t label;
    } * node;
    uint32_t n, cap;
    uint32_t root[256]; /* child of the root by label, 0: none */
};

/* Decoding beyond tokens' bytes side by side. */
struct tok_deco {
    bool has_first; /* the first token of a text has other bytes: */
    struct tok_strings first;
    char strip; /* up to n_strip of these go from the start of a text */
    unsigned n_strip;
    bool hold_space; /* one space at the end of a text goes */
    bool hold_some;  /* only where the last token has FLAG_SPACE */
    bool shows_unk;  /* the unknown token is printed */
    bool no_repeat;  /* CTC: a token right after itself is nothing */
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
    _Atomic uint8_t *self;     /* do the merges give this token for its own text? */
    const struct tok_pre *pre; /* BPE: the scanner, where one is all there is */
    struct tok_split *split;   /* else the steps; NULL: pieces are whole fragments */
    bool ignore_merges, nfc;
    struct tok_norm *norm; /* NULL: none */
    struct tok_sp_norm sp; /* with sp_on: SentencePiece's normaliser */
    bool sp_on;

    struct tok_trie trie; /* UNIGRAM */
    double *score;
    double unk_score;
    bool float_sums;     /* UNIGRAM: path sums rounded as SentencePiece does */
    bool byte_fallback;  /* what is unknown becomes byte tokens where all are there */
    bool fuse_unk;       /* neighbouring unknowns are one */
    char *cont, *suffix; /* before word parts that continue (##), after the last one (</w>) */
    size_t n_cont, n_suffix;
    uint32_t max_word;  /* WORDPIECE: characters */
    bool newline_whole; /* CHAR_BPE: a piece of newlines that is a token is not merged */

    /* In the text as it is; in the normalised text; in the text as it is where parts of it are
     * marked: also control tokens that are otherwise looked for in the normalised text. */
    struct tok_special special[3];
    struct tok_strings norm_text; /* texts of special[1] */
    uint8_t *flag;

    struct tok_deco deco;
    uint32_t head[TOK_MAX_AROUND], tail[TOK_MAX_AROUND]; /* added around a text */
    unsigned n_head, n_tail;
    uint32_t bos, eos, unk;
    bool add_bos, add_eos, add_space_prefix;
};

enum { SELF_NOT_TRIED = 0, SELF_YES, SELF_NO };

static inline const char *tok_str(const struct tok_strings *s, uint32_t i, size_t *n)
{
    *n = s->at[i + 1] - s->at[i] - 1;
    return s->blob.data + s->at[i];
}

/* Texts of tokens are short: calls of memcpy and memcmp cost more than what they do. */
static inline void tok_copy(char *to, const char *p, size_t n)
{
    if (n >= 8) {
        for (size_t i = 0; i + 8 < n; i += 8)
            memcpy(to + i, p + i, 8);
        memcpy(to + n - 8, p + n - 8, 8); /* the last eight overlap */
    } else if (n >= 4) {
        memcpy(to, p, 4);
        memcpy(to + n - 4, p + n - 4, 4);
    } else if (n > 0) {
        to[0] = p[0];
        to[n / 2] = p[n / 2];
        to[n - 1] = p[n - 1];
    }
}

static inline bool tok_same(const char *a, const char *b, size_t n)
{
    uint64_t x, y;
    if (n >= 8) {
        size_t i = 0;
        for (; i + 8 < n; i += 8) {
            memcpy(&x, a + i, 8);
            memcpy(&y, b + i, 8);
            if (x != y)
                return false;
        }
        memcpy(&x, a + n - 8, 8);
        memcpy(&y, b + n - 8, 8);
        return x == y;
    }
    if (n >= 4) {
        uint32_t v, w;
        memcpy(&v, a, 4);
        memcpy(&w, b, 4);
        if (v != w)
            return false;
        memcpy(&v, a + n - 4, 4);
        memcpy(&w, b + n - 4, 4);
        return v == w;
    }
    return n == 0 || (a[0] == b[0] && a[n / 2] == b[n / 2] && a[n - 1] == b[n - 1]);
}

/* Does the model itself know this token? */
bool tok_in_model(const struct tokenizer *t, uint32_t id);

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
/* Tokens, types, special ids and flags: what all models of GGUF files share. */
Q_MUST_CHECK int tok_vocab_load(struct tokenizer *t, const struct gguf *g, struct err *e);
/* Texts and types are there: find what ends a generation, and the special tokens. has_types: types
 * come from the file. */
Q_MUST_CHECK int tok_vocab_finish(struct tokenizer *t, bool has_types, struct err *e);
void tok_vocab_find_eog(struct tokenizer *t, bool has_types);
/* Types for n_vocab tokens, all normal; flags; nothing ends a generation. */
Q_MUST_CHECK int tok_vocab_types(struct tokenizer *t, struct err *e);
/* "<0xAB>" gives 0xAB, other texts -1. */
int tok_byte_of_text(const char *s, size_t n);
/* Bytes, map and byte tokens for models whose tokens are texts with space marks. */
Q_MUST_CHECK int tok_text_load(struct tokenizer *t, struct err *e);
/* Where the next word begins after s[0]: at a mark that follows another character. */
size_t tok_word_end(const char *s, size_t n);
/* Longest special token of a set at s[0..n), n > 0, or TOKEN_NONE. control: also those that only
 * templates may write. */
uint32_t tok_special_match(const struct tokenizer *t, const struct tok_special *set, const char *s,
                           size_t n, bool control, size_t *len);
Q_MUST_CHECK int tok_special_sort(struct tokenizer *t, struct tok_special *set, struct err *e);

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
    struct tok_step *path; /* Unigram */
    size_t path_cap;
    struct split_work split;
};
Q_MUST_CHECK int tok_grow(void **p, size_t *cap, size_t need, size_t size, struct err *e);
void tok_work_fini(struct tok_work *w);
Q_MUST_CHECK int tok_work_syms(struct tok_work *w, size_t n, struct err *e);

/* Sets a->key and a->merged for the pair (a, b) of the piece. */
typedef void tok_pair_fn(const struct tokenizer *t, const char *piece, struct tok_sym *a,
                         const struct tok_sym *b);
/* w->sym[0..n) hold pos, len and id; merges until no pair is left. The symbols that remain are
 * linked from 0 by next. O(n log n). */
Q_MUST_CHECK int tok_merge_all(const struct tokenizer *t, struct tok_work *w, const char *piece,
                               size_t n, tok_pair_fn *pair, struct err *e);

/* ---- the models ---- */

/* Merges in their order. next gives the two sides (valid until the next call): 1, 0 at the end, or
 * a negative code. */
struct tok_merges {
    int (*next)(struct tok_merges *m, struct gguf_str *left, struct gguf_str *right, struct err *e);
    uint32_t n; /* at most */
    bool last;  /* of equal pairs the last one counts */
};
/* The merges of a GGUF file. */
struct tok_gguf_merges {
    struct tok_merges base;
    const struct gguf_kv *kv;
    const unsigned char *cursor;
    uint32_t done;
};
Q_MUST_CHECK int tok_gguf_merges_init(struct tok_gguf_merges *m, const struct gguf *g,
                                      struct err *e);

Q_MUST_CHECK int tok_bpe_load(struct tokenizer *t, struct tok_merges *m, struct err *e);
Q_MUST_CHECK int tok_bpe_encode(const struct tokenizer *t, const char *s, size_t n, bool first,
                                struct tok_work *w, struct token_list *out, struct err *e);

Q_MUST_CHECK int tok_char_bpe_load(struct tokenizer *t, struct tok_merges *m, struct err *e);
Q_MUST_CHECK int tok_char_bpe_encode(const struct tokenizer *t, const char *s, size_t n,
                                     struct tok_work *w, struct token_list *out, struct err *e);
static inline uint32_t tok_merge_home(uint32_t left, uint32_t right)
{
    return (uint32_t)((((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15U) >> 32);
}
/* The entry of a pair; rank TOK_NO_PAIR: none. */
const struct tok_merge *tok_merge_find(const struct tokenizer *t, uint32_t left, uint32_t right);
Q_MUST_CHECK int tok_merge_table(struct tokenizer *t, uint32_t n, struct err *e);
/* last: of equal pairs the last one counts, else the first. */
void tok_merge_put(struct tokenizer *t, const struct tok_merge *m, bool last);

Q_MUST_CHECK int tok_spm_load_gguf(struct tokenizer *t, const struct gguf *g, struct err *e);
/* The file's scores, malloc'ed. */
Q_MUST_CHECK int tok_scores_gguf(const struct tokenizer *t, const struct gguf *g, double **scores,
                                 struct err *e);
/* scores[n_vocab] */
Q_MUST_CHECK int tok_spm_load(struct tokenizer *t, const double *scores, struct err *e);
/* prefix: a space before the text. */
Q_MUST_CHECK int tok_spm_encode(const struct tokenizer *t, const char *s, size_t n, bool prefix,
                                struct tok_work *w, struct token_list *out, struct err *e);
/* A text whose spaces are marks. */
Q_MUST_CHECK int tok_spm_encode_marked(const struct tokenizer *t, const char *s, size_t n,
                                       struct tok_work *w, struct token_list *out, struct err *e);

/* t->score is set. Fills bytes, map and trie. written: a text "<0x41>" gives that byte's token. */
Q_MUST_CHECK int tok_unigram_load(struct tokenizer *t, bool written, struct err *e);
Q_MUST_CHECK int tok_unigram_encode(const struct tokenizer *t, const char *s, size_t n,
                                    struct tok_work *w, struct token_list *out, struct err *e);
Q_MUST_CHECK int tok_unigram_load_gguf(struct tokenizer *t, const struct gguf *g, struct err *e);

Q_MUST_CHECK int tok_word_load(struct tokenizer *t, struct err *e);
Q_MUST_CHECK int tok_word_load_gguf(struct tokenizer *t, const struct gguf *g, struct err *e);
Q_MUST_CHECK int tok_word_encode(const struct tokenizer *t, const char *s, size_t n,
                                 struct token_list *out, struct err *e);

/* The id of a text, TOKEN_NONE if no token has it; looks at all tokens. */
uint32_t tok_vocab_find(const struct tokenizer *t, const char *text, size_t n);
/* An empty tokeniser; NULL: no memory. */
struct tokenizer *tok_new(struct err *e);
/* Where all else is loaded: n_head, n_tail from bos, eos and the flags. */
void tok_around(struct tokenizer *t);

#endif
