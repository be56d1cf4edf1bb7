/* SPDX-License-Identifier: Apache-2.0 */
/* mask_int.h - the vocabulary as a trie, shared by grammar.c and the mask_*.c files.
 *
 * Tokens are sorted by their bytes; the position in that order is a token's `pos`. Nodes stand
 * in preorder, so a node's children and the tokens below it are each one run. */
#ifndef QUIRE_TEXT_MASK_INT_H
#define QUIRE_TEXT_MASK_INT_H

#include "worker/text/gram_gbnf.h"
#include "worker/text/schema_int.h"

#define MASK_MAX_TOKEN 256U /* longer tokens are never allowed */
#define MASK_BUCKETS   32U

struct mask_node {
    uint32_t first, here, last; /* tokens: here end at this node, all below end before last */
    uint32_t end;               /* the node after this one's last descendant */
    uint32_t ctx;               /* string context that begins here, GRAM_NONE: none */
    uint8_t byte;
};
struct mask_trie {
    struct mask_node *node;
    uint32_t n, cap;
    const unsigned char *bytes;
    const uint32_t *at; /* string i: bytes[at[i] .. at[i+1]) */
    uint32_t n_str;
};

/* A JSON string begins right behind a node: how the tokens below it go on. */
struct mask_pure {
    uint32_t pos;
    uint16_t need; /* characters, one that is not complete included */
};
struct mask_closer {
    uint32_t pos, rest; /* the token closes the string and goes on with rest */
    uint16_t chars;
};
struct mask_ctx {
    uint32_t pure, n_pure, closer, n_closer;
};

struct grammar_vocab {
    uint32_t n_vocab, n_tok, words, tok_words;
    unsigned char *bytes;
    uint32_t *at, *id; /* by pos */
    uint32_t *pos;     /* by id; GRAM_NONE: has no bytes */
    uint8_t *eog;      /* by id */
    uint32_t *eogs, n_eog;
    struct mask_trie trie;
    unsigned char *rest_bytes;
    uint32_t *rest_at;
    struct mask_trie rests;
    struct mask_pure *pure;
    struct mask_closer *closer;
    struct mask_ctx *ctx;
    uint32_t n_pure, cap_pure, n_closer, cap_closer, n_ctx, cap_ctx;
    /* Context 0, the start of a token: by characters that fit (index MASK_BUCKETS: any). */
    uint64_t *by_pos[MASK_BUCKETS + 1], *by_id[MASK_BUCKETS + 1];
    size_t n_free; /* bits of by_pos[MASK_BUCKETS] */
};

enum grammar_kind { GRAMMAR_SCHEMA, GRAMMAR_DFA, GRAMMAR_GBNF };
struct grammar {
    enum grammar_kind kind;
    struct sgram *schema;
    struct dfa *dfa;
    struct gbnf *gbnf;
};
struct dfa_state {
    uint32_t q;
    struct gram_utf8 u;
};
union gram_state {
    struct sstate s;
    struct dfa_state d;
    struct gbnf_state b;
};
struct gmatch {
    const struct grammar *g;
    const struct grammar_vocab *v;
    union gram_state *now;   /* one, then MASK_MAX_TOKEN * 2 + 4 to walk with */
    union gram_state *saved; /* the state that rest_ok belongs to */
    bool have_rests;
    uint64_t *tok, *rest_ok;
    bool rests_any;
};

void gram_copy(const struct grammar *g, union gram_state *to, const union gram_state *from);
bool gram_step(const struct grammar *g, union gram_state *st, uint8_t b);
bool gram_can_stop(const struct grammar *g, const union gram_state *st, union gram_state *scratch);

#endif
